//! Which servers are polled and which notifiers told, and how that changes while the daemon runs.
//!
//! What stays goes on undisturbed: a target keeps its connection, a notifier what it was handed. A target whose connection
//! string has changed is polled anew, and keeps its state. The order matters:
//!
//! 1. Whoever is told from now on gets a queue, so that nothing that is due finds none.
//! 2. Polls of what leaves, or changes, end: none of their answers can come after step 3 and be taken for later ones.
//! 3. The fleet hears of it ([`Event::Members`]), by the way that answers take.
//! 4. Polls of what comes begin.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::discover::Finders;
use super::{App, Order, RunError};
use crate::aws::cloudwatch::{self, Instance};
use crate::aws::publish::Publisher;
use crate::aws::{Aws, Secrets};
use crate::clock;
use crate::collect::beat::Beat;
use crate::collect::conninfo::Conninfo;
use crate::collect::tls::Trust;
use crate::collect::{self, PollConfig, StatementsConfig};
use crate::config::{Config, Target};
use crate::core::fleet::Event;
use crate::core::topology::{Name, TargetId};
use crate::engine::Queues;
use crate::notify::heartbeat::Heartbeat;
use crate::notify::{NotifierConfig, NotifierError, Worker};
use crate::waiting::Waiting;

/// Notices on their way to one notifier. Small: what does not fit stays due in the ledger.
const NOTICE_QUEUE: usize = 64;

/// A poll that does not end by then, though it was told to, is dropped.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// What runs now.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// The configuration in force as it was read.
    pub(super) listed: Option<Config>,
    /// The same with what was found in AWS.
    config: Option<Config>,
    pub(super) finders: Finders,
    /// Certificates and secrets that were read, for all connections.
    trust: Arc<Trust>,
    queues: Queues,
    /// `None` before the start.
    aws: Option<Aws>,
    /// Who waits for a sample of which cluster.
    pub(super) waiting: Arc<Waiting>,
    beats: BTreeMap<Name, (Running, Beat)>,
    targets: BTreeMap<TargetId, Polling>,
    poolers: BTreeMap<TargetId, Polling>,
    /// By their names in the ledger.
    notifiers: BTreeMap<Name, (NotifierConfig, Running)>,
    heartbeat: Option<Running>,
    /// Reads CloudWatch; who is read of can be changed while it runs.
    cloudwatch: Option<(Running, watch::Sender<Vec<Instance>>)>,
    /// Tells CloudWatch.
    publisher: Option<Running>,
}

/// The polls of one server.
#[derive(Debug)]
struct Polling {
    conninfo: Arc<Conninfo>,
    task: Running,
}

/// A task that can be told to end.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) cancel: CancellationToken,
    pub(super) handle: AbortHandle,
}

impl Members {
    pub(super) fn new(queues: Queues, aws: Aws, finders: Finders) -> Self {
        Self { queues, trust: Arc::new(Trust::new(aws.clone())), aws: Some(aws), finders, ..Self::default() }
    }

    pub(super) fn secrets(&self) -> &Secrets {
        self.trust.secrets()
    }

    pub(super) fn aws(&self) -> Option<Aws> {
        self.aws.clone()
    }

    /// Whether this configuration watches anything else, or anything in another way.
    pub(super) fn watches_other_than(&self, config: &Config) -> bool {
        self.config
            .as_ref()
            .is_none_or(|in_force| in_force.clusters != config.clusters || in_force.instances != config.instances)
    }

    /// This configuration is in force.
    pub(super) fn keep(&mut self, config: Config) {
        self.config = Some(config);
    }

    fn is_paced_by(&self, poll: &PollConfig, statements: StatementsConfig) -> bool {
        self.config.as_ref().is_some_and(|config| config.poll == *poll && config.statements == statements)
    }
}

impl App {
    /// Does as it is told.
    pub(super) async fn follow(&mut self, order: Order) -> Result<(), RunError> {
        match order {
            Order::Configuration(config) => self.reconfigure(*config).await,
            Order::Found(found) => self.found(&found.0, found.1).await,
            Order::Reported(config, reported) => {
                self.reported(&config, reported).await;
                Ok(())
            }
        }
    }

    /// Puts a configuration in force that has been checked.
    async fn reconfigure(&mut self, mut config: Config) -> Result<(), RunError> {
        // All that can fail comes first.
        if let Err(error) = self.start_notifiers(&config) {
            self.metrics.configured(Err(()));
            tracing::error!(%error, "the configuration is refused, and the one before stays in force: {error}");
            return Ok(());
        }
        if let Some(before) = &self.members.config {
            keep_what_takes_a_restart(before, &mut config);
        }
        self.members.notifiers.retain(|name, (_, running)| {
            let stays =
                config.notifiers.iter().enumerate().any(|(place, notifier)| notifier.names(place).contains(name));
            if !stays {
                // The engine drops its queue, and it ends when it has told what it was handed.
                self.metrics.forget_notifier(name.as_str());
                self.names.remove(&running.handle.id());
            }
            stays
        });
        let effective = self.with_known(&config);
        self.members.listed = Some(config);
        self.refresh(effective).await?;
        self.start_finders();
        self.metrics.configured(Ok(clock::wall()));
        Ok(())
    }

    /// Watches what this configuration says, of which all else is in force already.
    pub(super) async fn refresh(&mut self, config: Config) -> Result<(), RunError> {
        let n_gone = self.stop_pollers(&config).await?;
        if let Some(events) = self.events.clone() {
            // The engine takes it in its turn; it is gone only when the daemon stops.
            let _ = events.send(Event::Members(Box::new(config.fleet_spec()))).await;
        }
        let n_come = self.start_pollers(&config);
        self.start_cloudwatch(&config);
        let (clusters, targets) = (config.clusters.len(), config.n_targets());
        info!(
            clusters,
            targets,
            started = n_come,
            stopped = n_gone,
            rules = config.rules.len(),
            "the configuration is in force"
        );
        self.members.keep(config);
        Ok(())
    }

    /// Starts notifiers that are new, or have changed, and what depends on them.
    pub(super) fn start_notifiers(&mut self, config: &Config) -> Result<(), NotifierError> {
        let Some(aws) = self.members.aws.clone() else { return Ok(()) };
        let mut workers: Vec<(NotifierConfig, Worker)> = Vec::new();
        for (place, notifier) in config.notifiers.iter().enumerate() {
            let names = notifier.names(place);
            let is_known = |name: &Name| self.members.notifiers.get(name).is_some_and(|(known, _)| known == notifier);
            if !names.iter().all(is_known) {
                workers.extend(
                    notifier.clone().workers(place, &aws)?.into_iter().map(|worker| (notifier.clone(), worker)),
                );
            }
        }
        let heart = heart(config)?;
        for (notifier, worker) in workers {
            let name = worker.name().clone();
            self.metrics.expect_notifiers(&[name.as_str()]);
            let (queue, notices) = mpsc::channel(NOTICE_QUEUE);
            // One that has changed loses its queue by this, and ends when it has told what it was handed.
            self.members.queues.add(name.clone(), queue);
            let Some(events) = self.events.clone() else { return Ok(()) };
            let cancel = self.cancel.child_token();
            let handle = self.spawn(format!("notify {name}"), worker.run(notices, events, cancel.clone()));
            let running = Running { cancel, handle };
            if let Some((_, before)) = self.members.notifiers.insert(name, (notifier, running)) {
                self.names.remove(&before.handle.id());
            }
        }
        if let Some(before) = self.members.heartbeat.take() {
            self.names.remove(&before.handle.id());
            before.cancel.cancel();
        }
        if let Some(heart) = heart {
            let queue = |name: Name| self.members.queues.get(&name).map(|queue| (name, queue));
            let heart = heart.telling(config.heartbeat_hearers().into_iter().filter_map(queue).collect());
            let cancel = self.cancel.child_token();
            let beats = heart.run(self.snapshots.clone(), Arc::clone(&self.metrics), cancel.clone());
            let handle = self.spawn("heartbeat".to_owned(), beats);
            self.members.heartbeat = Some(Running { cancel, handle });
        }
        Ok(())
    }

    /// Reads CloudWatch, and tells it, as this configuration has it. What stays as it was goes on.
    pub(super) fn start_cloudwatch(&mut self, config: &Config) {
        let (Some(aws), Some(events)) = (self.members.aws.clone(), self.events.clone()) else { return };
        let before = self.members.config.as_ref();
        let asks_as_before = before.is_some_and(|before| before.wanted == config.wanted);
        let tells_as_before = before.is_some_and(|before| {
            before.cloudwatch.publish == config.cloudwatch.publish
                && before.heartbeat_limits() == config.heartbeat_limits()
        });
        if let (Some((_, instances)), true) = (&self.members.cloudwatch, asks_as_before) {
            instances.send_if_modified(|known| {
                let is_other = *known != config.instances;
                known.clone_from(&config.instances);
                is_other
            });
        }
        if !asks_as_before {
            if let Some((before, _)) = self.members.cloudwatch.take() {
                self.names.remove(&before.handle.id());
                before.cancel.cancel();
            }
            if let Some(wanted) = &config.wanted {
                let (instances, watched) = watch::channel(config.instances.clone());
                let cancel = self.cancel.child_token();
                let reader = cloudwatch::Beat::new(aws.clone(), wanted.clone(), watched);
                let handle = self.spawn("cloudwatch".to_owned(), reader.run(events, cancel.clone()));
                self.members.cloudwatch = Some((Running { cancel, handle }, instances));
            }
        }
        if !tells_as_before {
            if let Some(before) = self.members.publisher.take() {
                self.names.remove(&before.handle.id());
                before.cancel.cancel();
            }
            if let Some(publish) = &config.cloudwatch.publish {
                let cancel = self.cancel.child_token();
                let publisher = Publisher::new(aws, publish.clone(), config.heartbeat_limits());
                let handle = self.spawn("publish".to_owned(), publisher.run(self.snapshots.clone(), cancel.clone()));
                self.members.publisher = Some(Running { cancel, handle });
            }
        }
    }

    /// Ends the polls of what is not to be watched any more, or in another way, and waits until they have ended. Says how
    /// many servers that is.
    async fn stop_pollers(&mut self, config: &Config) -> Result<usize, RunError> {
        let is_paced = self.members.is_paced_by(&config.poll, config.statements);
        let wanted = |list: fn(&crate::config::Cluster) -> &Vec<Target>| {
            let all = config.clusters.iter().flat_map(list);
            all.map(|target| (target.id.clone(), Arc::clone(&target.conninfo))).collect::<HashMap<_, _>>()
        };
        let (targets, poolers) = (wanted(|cluster| &cluster.targets), wanted(|cluster| &cluster.poolers));
        let stays = |wanted: &HashMap<TargetId, Arc<Conninfo>>, id: &TargetId, polling: &Polling| {
            is_paced && wanted.get(id).is_some_and(|conninfo| *conninfo == polling.conninfo)
        };
        let members = &mut self.members;
        let mut leaving: Vec<Running> = Vec::new();
        leaving.extend(
            members
                .targets
                .extract_if(.., |id, polling| !stays(&targets, id, polling))
                .map(|(_, polling)| polling.task),
        );
        leaving.extend(
            members
                .poolers
                .extract_if(.., |id, polling| !stays(&poolers, id, polling))
                .map(|(_, polling)| polling.task),
        );
        let n_servers = leaving.len();
        let names: BTreeSet<&Name> = config.clusters.iter().map(|cluster| &cluster.name).collect();
        leaving.extend(members.beats.extract_if(.., |name, _| !names.contains(name)).map(|(_, (task, _))| task));
        // Those that stay and are paced anew are replaced when the new ones begin, which count on from them.
        self.end(leaving).await?;
        Ok(n_servers)
    }

    /// Tells tasks to end, and waits until they have.
    async fn end(&mut self, tasks: Vec<Running>) -> Result<(), RunError> {
        let mut left: BTreeMap<Id, Running> = BTreeMap::new();
        for task in tasks {
            task.cancel.cancel();
            self.names.remove(&task.handle.id());
            left.insert(task.handle.id(), task);
        }
        let mut limit = std::pin::pin!(tokio::time::sleep(ENDS_WITHIN));
        let mut is_late = false;
        while !left.is_empty() {
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => {
                    let id = ended.as_ref().map_or_else(tokio::task::JoinError::id, |(id, ())| *id);
                    left.remove(&id);
                    if let Some(error) = self.explain(ended) {
                        return Err(error);
                    }
                }
                () = &mut limit, if !is_late => {
                    is_late = true;
                    left.values().for_each(|task| task.handle.abort());
                }
            }
        }
        Ok(())
    }

    /// Starts the polls of what is not polled yet. Says of how many servers.
    pub(super) fn start_pollers(&mut self, config: &Config) -> usize {
        let Some(events) = self.events.clone() else { return 0 };
        let is_paced = self.members.is_paced_by(&config.poll, config.statements);
        let trust = Arc::clone(&self.members.trust);
        trust.secrets().want(&config.secrets());
        let mut n_started = 0;
        for (place, pooler) in config.clusters.iter().flat_map(|cluster| &cluster.poolers).enumerate() {
            if self.members.poolers.contains_key(&pooler.id) {
                continue;
            }
            let (id, conninfo) = (pooler.id.clone(), Arc::clone(&pooler.conninfo));
            let task = collect::pooler(place, id.clone(), Arc::clone(&conninfo), &config.poll, &trust);
            let cancel = self.cancel.child_token();
            let handle = self.spawn_polling(format!("pooler {id}"), task.run(events.clone(), cancel.clone()));
            self.members.poolers.insert(id, Polling { conninfo, task: Running { cancel, handle } });
            n_started += 1;
        }
        for (place, cluster) in config.clusters.iter().enumerate() {
            self.start_beat(place, &cluster.name, &config.poll, is_paced);
            for (position, target) in cluster.targets.iter().enumerate() {
                if self.members.targets.contains_key(&target.id) {
                    continue;
                }
                let Some((_, beat)) = self.members.beats.get(&cluster.name) else { continue };
                let (id, conninfo) = (target.id.clone(), Arc::clone(&target.conninfo));
                let place = (place, position);
                let task = collect::target(
                    place,
                    id.clone(),
                    Arc::clone(&conninfo),
                    beat,
                    &config.poll,
                    config.statements,
                    &trust,
                );
                let cancel = self.cancel.child_token();
                let handle = self.spawn_polling(format!("poll {id}"), task.run(events.clone(), cancel.clone()));
                self.members.targets.insert(id, Polling { conninfo, task: Running { cancel, handle } });
                n_started += 1;
            }
        }
        let (open_files, n_targets) = (super::open_files(), config.n_targets() + config.n_poolers());
        if open_files < n_targets as u64 + 64 {
            warn!(
                open_files,
                n_targets, "so few files may be open that not all targets can be reached; raise the limit"
            );
        }
        n_started
    }

    /// The beat of a cluster, unless it goes on as it is. One that takes the place of another counts on from it.
    fn start_beat(&mut self, place: usize, cluster: &Name, poll: &PollConfig, is_paced: bool) {
        let before = self.members.beats.get(cluster);
        if is_paced && before.is_some() {
            return;
        }
        let bell = self.members.waiting.bell(cluster);
        let (task, beat) = collect::beat(place, poll, before.map_or(0, |(_, beat)| beat.last()), bell);
        let cancel = self.cancel.child_token();
        let handle = self.spawn_polling(format!("beat {cluster}"), task.run(cancel.clone()));
        let before = self.members.beats.insert(cluster.clone(), (Running { cancel, handle }, beat));
        if let Some((before, _)) = before {
            self.names.remove(&before.handle.id());
            before.cancel.cancel();
        }
    }
}

/// The dead man's switch, if there is to be one.
fn heart(config: &Config) -> Result<Option<Heartbeat>, NotifierError> {
    let heart = config.heartbeat.as_ref().map(|heartbeat| Heartbeat::new(heartbeat, config.heartbeat_limits()));
    heart.transpose().map_err(|fault| NotifierError { notifier: Name::new("heartbeat"), fault })
}

/// Some things are settled once, at the start.
fn keep_what_takes_a_restart(before: &Config, after: &mut Config) {
    let changed = [
        ("server", before.server != after.server),
        ("health", before.health != after.health),
        ("metrics", before.metrics != after.metrics),
        ("store.path", before.store != after.store),
        ("aws", before.aws != after.aws),
        ("agent_check", before.agent_check != after.agent_check),
    ];
    for (key, _) in changed.into_iter().filter(|(_, is_changed)| *is_changed) {
        warn!(key, "{key} has changed, which takes a restart: until then it stays as it was");
    }
    (after.server, after.health, after.store) = (before.server.clone(), before.health, before.store.clone());
    (after.metrics, after.aws) = (before.metrics, before.aws.clone());
    after.agent_check = before.agent_check.clone();
}
