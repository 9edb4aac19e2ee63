//! Looking for servers in AWS, and watching what is found.
//!
//! Each `[[discover]]` has a task that asks AWS again and again and says what came of it; here that becomes clusters of
//! the configuration, beside those that are listed. AWS holds up neither the start nor a poll.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::members::Running;
use super::{App, Order, RunError};
use crate::aws::{Aws, Reported};
use crate::clock;
use crate::config::Config;
use crate::core::discovery::{Discovered, Family};
use crate::core::fleet::Event;
use crate::core::snapshot::Snapshot;
use crate::core::topology::{Name, failover};
use crate::discovery::{self, Clusters, Discovery, Kept, Look};

/// After a fault AWS is asked again no later than this.
const SOON: Duration = Duration::from_secs(60);

/// How often RDS is asked what it has to report.
const EVENTS_EVERY: Duration = Duration::from_secs(60);

/// The same while a server that was found is away: it may be failing over.
const EVENTS_OFTEN: Duration = Duration::from_secs(5);

/// What was found, and who looks for more.
#[derive(Debug, Default)]
pub(super) struct Finders {
    finders: Vec<Finder>,
    kept: Kept,
    /// Where that is kept. `None`: nowhere.
    file: Option<PathBuf>,
}

/// One `[[discover]]`.
#[derive(Debug)]
struct Finder {
    config: discovery::Config,
    families: Vec<Family>,
    /// `None` until it was started.
    task: Option<Running>,
    fault: Option<String>,
}

impl Finders {
    /// With what was found before a restart.
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self { kept: file.as_deref().map(Kept::read).unwrap_or_default(), file, finders: Vec::new() }
    }

    /// All that is to be watched at the start: what is listed, and what was found before.
    pub(super) fn with_found(&mut self, listed: &Config) -> Config {
        self.set(&listed.discover);
        self.clusters(listed).0
    }

    /// These are at work from now on. Answers with those that are no more.
    fn set(&mut self, configs: &[discovery::Config]) -> Vec<Running> {
        let mut before = std::mem::take(&mut self.finders);
        for config in configs {
            let known =
                before.iter().position(|finder| finder.config == *config).map(|place| before.swap_remove(place));
            let families = || self.kept.families.get(&config.looks_for()).cloned().unwrap_or_default();
            self.finders.push(known.unwrap_or_else(|| Finder {
                config: config.clone(),
                families: families(),
                task: None,
                fault: None,
            }));
        }
        before.into_iter().filter_map(|finder| finder.task).collect()
    }

    /// What is listed, and what was found beside it: that of each finder.
    fn clusters(&mut self, listed: &Config) -> (Config, Vec<Clusters>) {
        let mut taken: BTreeSet<String> = listed.clusters.iter().map(|cluster| cluster.name.to_string()).collect();
        let mut seen = BTreeSet::new();
        let names = &mut self.kept.names;
        let found: Vec<Clusters> = self
            .finders
            .iter()
            .map(|finder| discovery::clusters(&finder.config, &finder.families, names, &mut taken, &mut seen))
            .collect();
        names.retain(|resource_id| seen.contains(resource_id));
        let mut config = listed.clone();
        found.iter().for_each(|found| config.add(found));
        (config, found)
    }

    /// Keeps what was found over a restart.
    fn keep(&mut self) {
        let families = self.finders.iter().map(|finder| (finder.config.looks_for(), finder.families.clone()));
        let kept = Kept { names: self.kept.names.clone(), families: families.collect() };
        if let Some(file) = &self.file
            && let Err(error) = kept.write(file)
        {
            warn!(file = %file.display(), %error, "what was discovered cannot be kept over a restart");
        }
        self.kept = kept;
    }
}

impl App {
    /// All that is to be watched when this configuration is in force: what it lists, and what is known to be in AWS.
    pub(super) fn with_known(&mut self, listed: &Config) -> Config {
        for task in self.members.finders.set(&listed.discover) {
            self.names.remove(&task.handle.id());
            task.cancel.cancel();
        }
        self.members.finders.clusters(listed).0
    }

    /// Starts to look for what is to be found.
    pub(super) fn start_finders(&mut self) {
        let Some(aws) = self.members.aws() else { return };
        for place in 0..self.members.finders.finders.len() {
            let finder = &self.members.finders.finders[place];
            if finder.task.is_some() {
                continue;
            }
            let cancel = self.cancel.child_token();
            let discovery = Discovery::new(finder.config.clone(), finder.families.clone());
            let (orders, snapshots) = (self.ordering.clone(), self.snapshots.clone());
            let look = look(finder.config.clone(), discovery, aws.clone(), orders, snapshots, cancel.clone());
            let handle = self.spawn(format!("discover {}", place + 1), look);
            self.members.finders.finders[place].task = Some(Running { cancel, handle });
        }
    }

    /// Takes in what was found, and watches it.
    pub(super) async fn found(&mut self, config: &discovery::Config, look: Look) -> Result<(), RunError> {
        let finders = &mut self.members.finders;
        let Some(place) = finders.finders.iter().position(|finder| finder.config == *config) else { return Ok(()) };
        let (name, finder) = (discovery::name(place), &mut finders.finders[place]);
        say(&name, config, finder.fault.as_deref(), look.fault.as_deref());
        finder.fault.clone_from(&look.fault);
        let is_other = finder.families != look.families;
        finder.families = look.families;
        let Some(listed) = self.members.listed.clone() else { return Ok(()) };
        let (effective, found) = self.members.finders.clusters(&listed);
        if is_other {
            self.members.finders.keep();
        }
        if self.members.watches_other_than(&effective) {
            let (clusters, targets) = (found[place].clusters.len(), found[place].facts.len());
            info!(discovery = %name, clusters, targets, "{name} has found what was not known: {}", config.looks_for());
            self.refresh(effective).await?;
        }
        let found = &found[place];
        let facts = found.facts.iter().filter(|(_, region, _)| look.answered.contains(region));
        let discovered = Discovered {
            name,
            at: clock::now(),
            n_targets: found.facts.len(),
            n_clusters: found.clusters.len(),
            facts: facts.map(|(id, _, facts)| (id.clone(), facts.clone())).collect(),
            fault: look.fault,
        };
        if let Some(events) = self.events.clone() {
            // Nobody listens any more only when the daemon stops.
            let _ = events.send(Event::Discovered(Box::new(discovered))).await;
        }
        Ok(())
    }

    /// Takes in what RDS reports of what is watched.
    pub(super) async fn reported(&mut self, config: &discovery::Config, reported: Vec<(String, Reported)>) {
        let finders = &mut self.members.finders;
        let Some(place) = finders.finders.iter().position(|finder| finder.config == *config) else { return };
        let Some(listed) = self.members.listed.clone() else { return };
        let (_, found) = finders.clusters(&listed);
        let happenings = discovery::happenings(&finders.finders[place].families, &found[place], reported);
        if let Some(events) = self.events.clone().filter(|_| !happenings.is_empty()) {
            let _ = events.send(Event::Happened(happenings)).await;
        }
    }
}

/// Logs what is new.
fn say(name: &Name, config: &discovery::Config, before: Option<&str>, after: Option<&str>) {
    match (before, after) {
        (before, Some(fault)) if before != Some(fault) => {
            warn!(discovery = %name, error = fault, "{name} ({}): {fault}; what is known is watched on", config.looks_for());
        }
        (Some(_), None) => info!(discovery = %name, "{name} is answered again"),
        _ => {}
    }
}

/// Whether something that was found went away of late.
fn is_one_away(snapshots: &watch::Receiver<Arc<Snapshot>>) -> bool {
    let (now, snapshot) = (clock::now(), Arc::clone(&snapshots.borrow()));
    let mut targets = snapshot.clusters.iter().flat_map(|cluster| &cluster.targets);
    targets.any(|target| failover::may_be_under_way(target, now))
}

/// Asks again and again, until cancelled.
async fn look(
    config: discovery::Config,
    mut discovery: Discovery,
    aws: Aws,
    orders: mpsc::Sender<Order>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    cancel: CancellationToken,
) {
    let looks = async {
        let mut look_at = Instant::now();
        loop {
            if Instant::now() >= look_at {
                let look = Box::pin(discovery.look(&aws)).await;
                look_at =
                    Instant::now() + if look.fault.is_some() { config.interval.min(SOON) } else { config.interval };
                if orders.send(Order::Found(Box::new((config.clone(), look)))).await.is_err() {
                    return;
                }
            }
            let now = clock::wall().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
            let asked_at = Instant::now();
            let reported = Box::pin(discovery.events(&aws, now)).await;
            if !reported.is_empty() && orders.send(Order::Reported(Box::new(config.clone()), reported)).await.is_err() {
                return;
            }
            let next = look_at.min(Instant::now() + EVENTS_EVERY);
            while Instant::now() < next && !is_one_away(&snapshots) {
                sleep_until(next.min(Instant::now() + EVENTS_OFTEN)).await;
            }
            if Instant::now() < next {
                sleep_until(next.min(asked_at + EVENTS_OFTEN)).await;
            }
        }
    };
    cancel.run_until_cancelled(looks).await;
}
