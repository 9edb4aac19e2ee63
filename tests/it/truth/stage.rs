//! One scenario: servers, somebody who knows the truth, the daemon in this process, and the comparison.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgvigil::app::App;
use pgvigil::clock;
use pgvigil::config;
use pgvigil::core::lag::{Certainty, LagEstimate};
use pgvigil::core::snapshot::{ClusterView, TargetView};
use pgvigil::core::time::MonoTime;
use pgvigil::core::wal::Lsn;
use pgvigil::demo::{Plan, Server, Servers};
use tokio::task::AbortHandle;

use super::pg;
use super::witness::{self, Truth, Witness};
use crate::support::daemon::{SOON, cluster_toml};
use crate::support::proxy::Proxy;

/// How far outside the bounds the truth may seem to be: what looking at servers of a busy machine costs in precision.
const BOUNDS: f64 = 0.5;
/// For so long after another server took over, an estimate may be against the primary before.
const TAKING_OVER: f64 = 2.5;

/// What a scenario allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How far the value may be from the truth, in seconds.
    pub error: f64,
    /// Seconds of value > 5 s while the truth is < 1 s.
    pub false_alarm: f64,
    /// Seconds of truth > 10 s while no value is told.
    pub blind: f64,
}

/// What was told of one replica, and for when.
#[derive(Clone, Copy, Debug)]
struct Told {
    seen: MonoTime,
    between: (MonoTime, MonoTime),
    estimate: LagEstimate,
}

#[derive(Debug, Default)]
struct Record {
    told: HashMap<String, Vec<Told>>,
    /// Who the primary was, and since when.
    primaries: Vec<(MonoTime, String)>,
}

pub(super) struct Stage {
    pub servers: Servers,
    pub witness: Witness,
    began: MonoTime,
    events: Mutex<Vec<(MonoTime, String)>>,
    /// Other ports through which the daemon reaches servers.
    detours: Mutex<HashMap<String, u16>>,
    record: Arc<Mutex<Record>>,
    daemon: Mutex<Option<(AbortHandle, tempfile::TempDir)>>,
}

impl Stage {
    pub(super) async fn set(plan: Plan) -> Self {
        let mut plan = plan;
        plan.setup.push(witness::SETUP.to_owned());
        let servers = Servers::start(&plan).await.unwrap();
        let at = |node: &Server| (node.name.clone(), node.port);
        let nodes: Vec<(String, u16)> = servers.nodes.iter().map(at).collect();
        let nodes: Vec<(&str, u16)> = nodes.iter().map(|(name, port)| (name.as_str(), *port)).collect();
        let witness = Witness::start(nodes[0], &nodes[1..]);
        Self {
            servers,
            witness,
            began: clock::now(),
            events: Mutex::default(),
            detours: Mutex::default(),
            record: Arc::default(),
            daemon: Mutex::default(),
        }
    }

    pub(super) fn node(&self, name: &str) -> &Server {
        self.servers.node(name)
    }

    /// Notes what is done, for people who read why a scenario failed.
    pub(super) fn note(&self, event: &str) {
        self.events.lock().unwrap().push((clock::now(), event.to_owned()));
    }

    pub(super) async fn seconds(&self, seconds: f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }

    /// A link before a replica's upstream, and the replica streaming through it.
    pub(super) async fn link(&self, replica: &str, upstream: &str) -> Proxy {
        let proxy = Proxy::start(self.node(upstream).port).await;
        let replica = self.node(replica);
        replica.follow(proxy.port).await.unwrap();
        let through = format!("SELECT count(*) FROM pg_stat_wal_receiver WHERE sender_port = {}", proxy.port);
        replica.until(&through, "1", SOON).await.unwrap();
        proxy
    }

    /// The daemon reaches `node` through another port. To be said before it starts.
    pub(super) fn detour(&self, node: &str, port: u16) {
        self.detours.lock().unwrap().insert(node.to_owned(), port);
    }

    /// Starts the daemon, polling each second.
    pub(super) async fn start_daemon(&self) {
        let detours = self.detours.lock().unwrap().clone();
        let targets: Vec<(&str, String)> = self
            .servers
            .nodes
            .iter()
            .map(|node| (node.name.as_str(), detours.get(&node.name).copied().unwrap_or(node.port)))
            .map(|(name, port)| (name, pg::dsn_at(port, "mon")))
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pgvigil.toml");
        std::fs::write(&file, format!("[server]\nlisten = \"127.0.0.1:0\"\n{}", cluster_toml("c", &targets))).unwrap();
        let inputs = config::Inputs {
            file: Some(&file),
            environment: &config::environment::Environment::default(),
            overrides: &config::Overrides::default(),
        };
        let app = App::start(config::load(&inputs).unwrap().config).await.unwrap();
        let mut snapshots = app.snapshots();
        let record = Arc::clone(&self.record);
        let running = tokio::spawn(async move {
            let look = async {
                while snapshots.changed().await.is_ok() {
                    let snapshot = Arc::clone(&snapshots.borrow_and_update());
                    record.lock().unwrap().take(snapshot.published_at, snapshot.cluster("c").unwrap());
                }
            };
            tokio::select! {
                ended = app.run_until(std::future::pending()) => panic!("the daemon ended: {ended:?}"),
                () = look => {}
            }
        });
        *self.daemon.lock().unwrap() = Some((running.abort_handle(), dir));
        self.note("daemon started");
    }

    pub(super) fn freeze(&self, name: &str) {
        self.note(&format!("freeze {name}"));
        self.node(name).freeze();
        self.witness.out(name);
    }

    pub(super) fn thaw(&self, name: &str) {
        self.note(&format!("thaw {name}"));
        self.witness.back(name);
        self.node(name).thaw();
    }

    pub(super) async fn crash(&self, name: &str) {
        self.note(&format!("crash {name}"));
        self.node(name).crash().await.unwrap();
        self.witness.out(name);
    }

    /// Starts what was crashed.
    pub(super) async fn start(&self, name: &str) {
        self.note(&format!("start {name}"));
        self.witness.back(name);
        self.node(name).start().await.unwrap();
    }

    /// Stops the primary in good order for a while. The checkpoint that it ends its WAL with is written, too.
    pub(super) async fn restart_primary(&self, seconds_down: f64) {
        self.note("stop the primary");
        let (primary, asked) = (self.servers.primary(), clock::now());
        primary.stop().await.unwrap();
        let stopped = clock::now();
        self.witness.out(&primary.name);
        self.seconds(seconds_down).await;
        self.start(&primary.name).await;
        let end = primary.value("SELECT checkpoint_lsn FROM pg_control_checkpoint()").await.unwrap().unwrap();
        self.witness.wrote(end.parse().unwrap(), asked, stopped);
    }

    pub(super) async fn pause(&self, name: &str) {
        self.note(&format!("pause {name}"));
        self.node(name).sql("SELECT pg_wal_replay_pause()").await.unwrap();
    }

    pub(super) async fn resume(&self, name: &str) {
        self.note(&format!("resume {name}"));
        self.node(name).sql("SELECT pg_wal_replay_resume()").await.unwrap();
    }

    /// Makes a replica the primary, and goes on writing there.
    pub(super) async fn promote(&self, name: &str) {
        self.note(&format!("promote {name}"));
        let node = self.node(name);
        node.promote().await.unwrap();
        let fork = "SELECT split_part(pg_read_file('pg_wal/00000002.history'), E'\\t', 2)";
        let fork: Lsn = node.value(fork).await.unwrap().unwrap().parse().unwrap();
        self.witness.begin_line((name, node.port), fork);
        for replica in ["r1", "r2", "r3"].iter().filter(|replica| **replica != name) {
            let slot = format!("SELECT pg_create_physical_replication_slot('{replica}', true)");
            // It may have one already, as the upstream of a cascade.
            node.sql(&slot).await.ok();
        }
    }

    /// Compares all that was told with the truth. The line for people, and what is wrong.
    pub(super) fn judge(&self, name: &str, limits: Limits) -> (String, Vec<String>) {
        let record = self.record.lock().unwrap();
        let mut tally = Tally::default();
        for (replica, told) in &record.told {
            for (k, one) in told.iter().enumerate() {
                let weight = told.get(k + 1).map_or(0.0, |next| next.seen.seconds_since(one.seen));
                self.compare(&record, replica, *one, weight, &mut tally);
            }
        }
        let line = format!(
            "{name:<44} {:>7} {:>7.2} {:>7.2} {:>11.1} {:>7.1} {:>6.1} {:>7}",
            tally.samples,
            tally.error,
            tally.beyond,
            tally.false_alarm,
            tally.missed,
            tally.blind,
            tally.out_of_bounds.len()
        );
        let mut wrong = tally.out_of_bounds.clone();
        wrong.extend(tally.contradicted.clone());
        if tally.excess > limits.error {
            wrong.push(format!("off by more than {} s: {}", limits.error, tally.worst));
        }
        for (what, seconds, limit) in [
            ("falsely alarmed", tally.false_alarm, limits.false_alarm),
            ("missed", tally.missed, 0.0),
            ("blind", tally.blind, limits.blind),
        ] {
            if seconds > limit {
                wrong.push(format!("{what} for {seconds:.1} s"));
            }
        }
        // Not started where a component that the scenario needs is not installed.
        if tally.samples < 10 && self.daemon.lock().unwrap().is_some() {
            let told = record.told.iter().map(|(replica, told)| format!("{replica}: {}", told.len()));
            let told: Vec<String> = told.collect();
            wrong.push(format!("only {} samples of {told:?}", tally.samples));
        }
        let wants_all = !wrong.is_empty() || std::env::var_os("PGVIGIL_TRUTH_ALL").is_some();
        if wants_all {
            let mut all = tally.all;
            all.extend(self.events.lock().unwrap().iter().map(|(at, event)| (*at, format!("-- {event}"))));
            all.sort_by_key(|(at, _)| *at);
            for (at, text) in all {
                println!("{name} {:>6.2} {text}", at.seconds_since(self.began));
            }
        }
        (line, wrong.into_iter().map(|wrong| format!("{name}: {wrong}")).collect())
    }

    fn compare(&self, record: &Record, replica: &str, told: Told, weight: f64, tally: &mut Tally) {
        let Told { seen, between, estimate } = told;
        let LagEstimate { value, lower, upper, method, .. } = estimate;
        // Against the primary of then, or the one before if another has just taken over.
        let mut primaries = record.primaries.iter().rev().skip_while(|(since, _)| *since > seen);
        let Some((since, primary)) = primaries.next() else { return };
        let mut truths: Vec<Truth> = self.witness.lag(replica, primary, between).into_iter().collect();
        if between.0.seconds_since(*since) < TAKING_OVER
            && let Some((_, primary)) = primaries.next()
        {
            truths.extend(self.witness.lag(replica, primary, between));
        }
        let outside = |truth: &Truth| (lower - truth.most).max(truth.least - upper).max(0.0);
        let best = truths.iter().copied().min_by(|a, b| {
            let key = |truth: &Truth| (outside(truth), value.map_or(0.0, |value| truth.distance(value)));
            key(a).partial_cmp(&key(b)).unwrap()
        });
        let Some(truth) = best else { return };
        let beyond = outside(&truth);
        // A replica that nobody has heard of may have come back this moment: then the value is only not too small.
        let most = if method.last_known { f64::INFINITY } else { truth.most };
        // And what is said to be a floor is only not too high.
        let least = if estimate.certainty == Certainty::AtLeast { 0.0 } else { truth.least };
        let error = value.map_or(0.0, |value| Truth { least, most }.distance(value));
        let text = format!(
            "{replica}: truth {:.2}..{:.2}, told {} [{lower:.2}, {upper:.2}] {method} {}{}",
            truth.least,
            truth.most,
            value.map_or("none".to_owned(), |value| format!("{value:.2}")),
            estimate.certainty.as_str(),
            if beyond > 0.1 || error > 0.5 { format!(" (off {error:.2}, beyond {beyond:.2})") } else { String::new() },
        );
        tally.samples += 1;
        tally.beyond = tally.beyond.max(beyond);
        if beyond > BOUNDS {
            tally.out_of_bounds.push(text.clone());
        }
        tally.error = tally.error.max(error);
        let excess = error - self.witness.stall([replica, primary], between.1);
        if excess > tally.excess {
            (tally.excess, tally.worst) = (excess, text.clone());
        }
        let in_rows = self.witness.lag_by_rows(replica, primary, between).map_or(0.0, |rows| rows.least);
        if truths.len() == 1 && in_rows > truth.most + BOUNDS {
            tally.contradicted.push(format!("rows that are missing for {in_rows:.2} s contradict the truth: {text}"));
        }
        tally.false_alarm += if truth.most < 1.0 && value.is_some_and(|value| value > 5.0) { weight } else { 0.0 };
        tally.missed += if truth.least > 10.0 && value.is_some_and(|value| value < 5.0) { weight } else { 0.0 };
        tally.blind += if truth.least > 10.0 && value.is_none() { weight } else { 0.0 };
        tally.all.push((between.1, text));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some((daemon, _)) = self.daemon.lock().unwrap().take() {
            daemon.abort();
        }
    }
}

/// The columns of [`Stage::judge`]'s line.
pub(super) fn heading() -> String {
    format!(
        "{:<44} {:>7} {:>7} {:>7} {:>11} {:>7} {:>6} {:>7}",
        "scenario", "samples", "error", "beyond", "false alarm", "missed", "blind", "outside"
    )
}

#[derive(Default)]
struct Tally {
    samples: u32,
    /// The worst distance of a value from the truth.
    error: f64,
    /// The same less what a busy machine is to blame for.
    excess: f64,
    worst: String,
    /// The farthest that the truth was outside the bounds.
    beyond: f64,
    false_alarm: f64,
    missed: f64,
    blind: f64,
    out_of_bounds: Vec<String>,
    contradicted: Vec<String>,
    all: Vec<(MonoTime, String)>,
}

impl Record {
    fn take(&mut self, published_at: MonoTime, cluster: &ClusterView) {
        if let Some(primary) = &cluster.primary
            && self.primaries.last().is_none_or(|(_, last)| last != primary.as_str())
        {
            self.primaries.push((published_at, primary.as_str().to_owned()));
        }
        for target in &cluster.targets {
            let Some(estimate) = target.lag else { continue };
            let between = when(published_at, cluster, target);
            let told = self.told.entry(target.id.target.as_str().to_owned()).or_default();
            let is_new = told
                .last()
                .is_none_or(|last| last.estimate != estimate || (target.failing.is_none() && last.between != between));
            if is_new {
                told.push(Told { seen: published_at, between, estimate });
            }
        }
    }
}

/// Between which instants an estimate was true.
fn when(published_at: MonoTime, cluster: &ClusterView, target: &TargetView) -> (MonoTime, MonoTime) {
    let is_silent = target.failing.is_some();
    let upstream = target.lag.filter(|lag| lag.method.upstream).and_then(|_| {
        let answers = cluster.targets.iter().filter(|other| other.is_up()).filter_map(|other| other.answer.as_ref());
        let name = target.id.target.as_str();
        answers
            .filter(|answer| {
                answer.positions.senders.iter().any(|sender| sender.application_name.as_deref() == Some(name))
            })
            .max_by_key(|answer| answer.answered_at)
    });
    match (upstream, &target.answer) {
        (Some(answer), _) => (answer.asked_at, answer.answered_at),
        (None, Some(answer)) if !is_silent => (answer.asked_at, answer.answered_at),
        _ => (published_at, published_at),
    }
}
