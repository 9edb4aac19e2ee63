//! One scenario: servers and the ways between them, a witness of the truth, the daemon in this process, and the judge.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgvigil::app::App;
use pgvigil::clock;
use pgvigil::config;
use pgvigil::core::lag::{Certainty, LagEstimate};
use pgvigil::core::time::MonoTime;
use pgvigil::core::wal::Lsn;
use pgvigil::demo::{Plan, Server, Servers};
use tokio::task::AbortHandle;

use super::Variant;
use super::judge::{self, Judge, Limits, Record, Tally};
use super::pg;
use super::witness::{self, Witness};
use crate::support::daemon::{SOON, cluster_toml};
use crate::support::proxy::{Link, Proxy};

/// A server that does not answer a statement of ours within this is left alone.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) struct Stage {
    pub servers: Servers,
    pub witness: Witness,
    pub variant: Variant,
    began: MonoTime,
    events: Mutex<Vec<(MonoTime, String)>>,
    /// Other ports through which the daemon reaches servers.
    detours: Mutex<HashMap<String, u16>>,
    /// The daemon's ways to servers, where they can be disturbed.
    ways: Mutex<HashMap<String, Arc<Proxy>>>,
    record: Arc<Mutex<Record>>,
    daemon: Mutex<Option<(AbortHandle, tempfile::TempDir)>>,
    /// What did not come as expected.
    unexpected: Mutex<Vec<String>>,
}

impl Stage {
    /// Servers as planned, of the variant's major; nothing is disturbed yet.
    pub(super) async fn set(plan: Plan, variant: Variant) -> Self {
        let mut plan = plan;
        plan.setup.push(witness::SETUP.to_owned());
        if let Some(installation) = &variant.installation {
            plan.installation = installation.clone();
        }
        let servers = Servers::start(&plan).await.unwrap();
        let at = |node: &Server| (node.name.clone(), node.port);
        let nodes: Vec<(String, u16)> = servers.nodes.iter().map(at).collect();
        let nodes: Vec<(&str, u16)> = nodes.iter().map(|(name, port)| (name.as_str(), *port)).collect();
        let witness = Witness::start(nodes[0], &nodes[1..]);
        Self {
            servers,
            witness,
            variant,
            began: clock::now(),
            events: Mutex::default(),
            detours: Mutex::default(),
            ways: Mutex::default(),
            record: Arc::default(),
            daemon: Mutex::default(),
            unexpected: Mutex::default(),
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

    /// The daemon reaches `node` through another port. To be set before it starts.
    pub(super) fn detour(&self, node: &str, port: u16) {
        self.detours.lock().unwrap().insert(node.to_owned(), port);
    }

    /// The daemon's way to a server, as long as the variant has it. To be made before the daemon starts.
    pub(super) async fn way(&self, node: &str) {
        if self.ways.lock().unwrap().contains_key(node) {
            return;
        }
        let port = self.detours.lock().unwrap().get(node).copied().unwrap_or(self.node(node).port);
        let proxy = Arc::new(Proxy::start(port).await);
        self.detour(node, proxy.port);
        self.ways.lock().unwrap().insert(node.to_owned(), proxy);
        self.set_way(node, None);
    }

    /// Disturbs the daemon's way to a server. `None`: it is as usual again.
    pub(super) fn set_way(&self, node: &str, link: Option<Link>) {
        let usual = match self.variant.round_trip_to(node) {
            Duration::ZERO => Link::Up,
            round_trip => Link::Slow(round_trip / 2),
        };
        let now = clock::now();
        match link {
            Some(link) => self.note(&format!("our way to {node}: {link:?}")),
            None => self.note(&format!("our way to {node} is as usual")),
        }
        let link = link.unwrap_or(usual);
        self.record.lock().unwrap().way(node, now, link.round_trip());
        self.ways.lock().unwrap()[node].set(link);
    }

    /// Starts the daemon.
    pub(super) async fn start_daemon(&self) {
        for node in &self.servers.nodes {
            if self.variant.round_trip_to(&node.name) > Duration::ZERO {
                self.way(&node.name).await;
            }
        }
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
        let poll = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[poll]\ninterval = \"{}ms\"\nslow_interval = \"{}ms\"\n",
            self.variant.pace.poll_interval.as_millis(),
            self.variant.slow_interval.as_millis()
        );
        std::fs::write(&file, poll + &cluster_toml("c", &targets)).unwrap();
        let inputs = config::Inputs {
            file: Some(&file),
            environment: &config::environment::Environment::default(),
            overrides: &config::Overrides::default(),
        };
        let app = App::start(config::load(&inputs).unwrap().config).await.unwrap();
        let snapshots = app.snapshots();
        let (record, pace) = (Arc::clone(&self.record), self.variant.pace);
        let running = tokio::spawn(async move {
            tokio::select! {
                ended = app.run_until(std::future::pending()) => panic!("the daemon ended: {ended:?}"),
                () = judge::watch(snapshots, &record, pace) => {}
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
        self.witness.out(name);
        self.node(name).crash().await.unwrap();
    }

    /// Kills every process of a server.
    pub(super) async fn kill(&self, name: &str) {
        self.note(&format!("kill {name}"));
        self.witness.out(name);
        self.node(name).kill().await.unwrap();
    }

    /// Starts what was crashed.
    pub(super) async fn start(&self, name: &str) {
        self.note(&format!("start {name}"));
        self.witness.back(name);
        self.node(name).start().await.unwrap();
    }

    /// Stops a replica in good order for a while.
    pub(super) async fn restart_replica(&self, name: &str, seconds_down: f64) {
        self.note(&format!("stop {name}"));
        self.witness.out(name);
        self.node(name).stop().await.unwrap();
        self.seconds(seconds_down).await;
        self.start(name).await;
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

    /// Has a server run a statement, if it answers: it may be down or frozen.
    pub(super) async fn try_sql(&self, name: &str, statement: &str) -> bool {
        let done = tokio::time::timeout(PATIENCE, self.node(name).sql(statement)).await;
        matches!(done, Ok(Ok(_)))
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

    /// What was last published about a replica.
    pub(super) fn latest(&self, replica: &str) -> Option<LagEstimate> {
        self.record.lock().unwrap().latest(replica)
    }

    /// Notes what did not come as expected: it counts when the scenario is judged.
    pub(super) fn expect(&self, came: Result<(), String>) {
        if let Err(unexpected) = came {
            self.note(&unexpected);
            self.unexpected.lock().unwrap().push(unexpected);
        }
    }

    /// Waits until a server answers.
    pub(super) async fn until_up(&self, server: &str, patience: Duration) -> Result<(), String> {
        let start = clock::now();
        while !self.record.lock().unwrap().is_up(server) {
            if clock::now().duration_since(start) > patience {
                return Err(format!("{server} is there, and does not count as up after {patience:?}"));
            }
            self.seconds(0.05).await;
        }
        Ok(())
    }

    /// Waits until so long after the next time that a server is asked, given that it has been.
    pub(super) async fn seconds_after_next_poll(&self, server: &str, seconds: f64) {
        let asked_at = self.record.lock().unwrap().asked_at(server).unwrap();
        let next = asked_at.plus(self.variant.pace.poll_interval).plus_seconds(seconds);
        self.seconds(next.seconds_since(clock::now()).max(0.0)).await;
    }

    /// Waits until a replica is published with a lag of more than so many seconds.
    pub(super) async fn until_behind(&self, replica: &str, seconds: f64, patience: Duration) -> Result<(), String> {
        let start = clock::now();
        while self.latest(replica).and_then(|lag| lag.value).is_none_or(|value| value < seconds) {
            if clock::now().duration_since(start) > patience {
                return Err(format!(
                    "{replica} is behind, and {patience:?} later there is published {:?}",
                    self.latest(replica)
                ));
            }
            self.seconds(0.05).await;
        }
        Ok(())
    }

    /// Waits until a replica is published with no lag, for sure. What is published instead, when it takes too long.
    pub(super) async fn until_settled(&self, replica: &str, patience: Duration) -> Result<(), String> {
        let start = clock::now();
        loop {
            let latest = self.latest(replica);
            if latest.is_some_and(|lag| lag.value == Some(0.0) && lag.certainty == Certainty::Exact) {
                return Ok(());
            }
            if clock::now().duration_since(start) > patience {
                return Err(format!("{replica} has no lag, and {patience:?} later there is published {latest:?}"));
            }
            self.seconds(0.1).await;
        }
    }

    /// Compares all that was published with the truth. The line for people, and what is wrong.
    pub(super) fn judge(&self, name: &str, limits: Limits) -> (String, Vec<String>) {
        let record = self.record.lock().unwrap();
        let truths = self.witness.truths();
        let pace = self.variant.pace;
        let tally = Judge { record: &record, truths: &truths, pace }.judge();
        let mut wrong = self.unexpected.lock().unwrap().clone();
        wrong.extend(tally.complaints(pace, limits));
        // Not started where a component that the scenario needs is not installed.
        if tally.samples < 100 && self.daemon.lock().unwrap().is_some() {
            wrong.push(format!("only {} samples", tally.samples));
        }
        self.show(name, &tally, !wrong.is_empty());
        (tally.line(name), wrong.into_iter().map(|wrong| format!("{name}: {wrong}")).collect())
    }

    /// Prints what happened, if that is of interest.
    fn show(&self, name: &str, tally: &Tally, is_wrong: bool) {
        let wants_all = std::env::var_os("PGVIGIL_TRUTH_ALL").is_some();
        if !is_wrong && !wants_all {
            return;
        }
        let events = self.events.lock().unwrap();
        // A short scenario is read as a whole.
        let is_short = clock::now().seconds_since(self.began) < 60.0;
        for (at, text) in tally.trace(&events, wants_all || is_short) {
            println!("{name} {:>7.2} {text}", at.seconds_since(self.began));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some((daemon, _)) = self.daemon.lock().unwrap().take() {
            daemon.abort();
        }
    }
}
