//! Whoever is on call hears of everything, whatever becomes of the daemon and of SNS: the daemon is killed again and again
//! during incidents, while the endpoint fails half of the time, answers late, or is down for the whole incident.
//!
//! `PGVIGIL_TEST_KILLS` says how many times (`scripts/test-faults` has 200), `PGVIGIL_TEST_SEED` which chances are taken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use pgvigil::clock;
use pgvigil::core::time::MonoTime;
use rustix::process::Signal;

use crate::support::daemon::{Daemon, cluster_toml, series};
use crate::support::pg;
use crate::support::proxy::{Link, Proxy};
use crate::support::random::Random;
use crate::support::sns::{Mood, Sns};
use crate::support::until;

/// Attempts that fail are made ever later: by chance, many fail in a row.
const PATIENCE: Duration = Duration::from_secs(240);

/// Slow answers come within the second of an attempt, and after it.
const SLOWEST: Duration = Duration::from_millis(1600);

/// An answer that left so shortly before a kill may not have been kept, on a slow machine.
const UNTIL_KEPT: Duration = Duration::from_secs(3);

/// Longer than the daemon waits after the few attempts that fail while nobody can be told.
const UNTIL_TRIED_AGAIN: Duration = Duration::from_secs(12);

/// Few: what a slow machine does not answer in time is an incident of its own.
const N_TARGETS: usize = 6;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// What is watched, and who watches.
struct Stage {
    config: String,
    store: std::path::PathBuf,
    daemon: Option<Daemon>,
    /// What the daemons before it logged.
    log: String,
    killed_at: Vec<MonoTime>,
    random: Random,
}

impl Stage {
    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    async fn start(&mut self) {
        self.daemon = Some(start(&self.config, &self.store).await);
    }

    /// `kill -9` after a while, and a new start.
    async fn kill(&mut self, within: Duration) {
        tokio::time::sleep(self.random.up_to(within)).await;
        self.killed_at.push(clock::now());
        let mut killed = self.daemon.take().unwrap();
        killed.process.signal(Signal::KILL);
        killed.process.wait(PATIENCE).await;
        self.log += &killed.log();
        self.start().await;
    }

    /// Waits until the daemon itself says that the alert fires, or does not.
    async fn until_firing(&self, target: &str, is_wanted: bool) {
        until(&format!("{target} firing: {is_wanted}"), PATIENCE, || async {
            let metrics = self.daemon().metrics().await;
            let labels = [("rule", "Down"), ("target", target), ("state", "firing")];
            let is_firing = series(&metrics, "pgvigil_alert", &labels) == Some(1.0);
            if is_firing == is_wanted { Ok(()) } else { Err(format!("{is_firing}")) }
        })
        .await;
    }
}

async fn start(config: &str, store: &Path) -> Daemon {
    Daemon::start_with(config, |command| {
        command.env("PGVIGIL_STORE__PATH", store).envs(Sns::environment());
        command.env("RUST_LOG", "pgvigil=info,pgvigil::notify=debug");
    })
    .await
}

/// The keys that were taken of a target, each with its state, in the order of their first arrival.
fn keys(sns: &Sns, target: &str) -> Vec<(String, String)> {
    let mut seen = BTreeSet::new();
    let told = sns.taken().into_iter().flat_map(|taken| taken.told).filter(|told| told.target == target);
    told.filter(|told| seen.insert(told.dedup_key.clone())).map(|told| (told.state, told.dedup_key)).collect()
}

#[tokio::test]
async fn every_transition_is_told_however_often_the_daemon_is_killed() {
    let (n_kills, seed) = (number("PGVIGIL_TEST_KILLS", 10) as usize, number("PGVIGIL_TEST_SEED", 1));
    let sns = Sns::start(seed).await;
    let servers = pg::cluster(0).await;
    let n_targets = N_TARGETS;
    let mut links = Vec::new();
    let mut targets = Vec::new();
    for place in 0..n_targets {
        let link = Proxy::start(servers.primary().port).await;
        targets.push((format!("t{place}"), pg::dsn_at(link.port, "mon")));
        links.push(link);
    }
    let named: Vec<(&str, String)> = targets.iter().map(|(name, dsn)| (name.as_str(), dsn.clone())).collect();
    let config = format!(
        "[poll]\ninterval = \"500ms\"\ntimeout = \"8s\"\n{}\
         [[rule]]\nname = \"Down\"\nwhen = \"target_up == 0\"\nfor = \"0s\"\nseverity = \"critical\"\n\
         [[notify]]\ntype = \"sns\"\nname = \"pager\"\ntopic_arn = \"arn:aws:sns:us-east-1:123456789012:alerts\"\n\
         format = \"json\"\nendpoint_url = \"http://127.0.0.1:{}\"\ntimeout = \"1s\"\n",
        cluster_toml("c", &named),
        sns.port
    );
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("state.db");
    let mut stage =
        Stage { config, store, daemon: None, log: String::new(), killed_at: Vec::new(), random: Random::new(seed) };
    stage.start().await;

    let began = clock::now();
    let mut incidents: BTreeMap<Mood, usize> = BTreeMap::new();
    // By target: what was news of it.
    let mut n_keys: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut n_transitions, mut n_unheard) = (0, 0);
    let mut incident = 0;
    while stage.killed_at.len() < n_kills {
        let (target, link) = (targets[incident % n_targets].0.as_str(), &links[incident % n_targets]);
        let mood = [Mood::Flaky, Mood::Slow(SLOWEST), Mood::Down][incident % 3];
        *incidents.entry(mood).or_default() += 1;
        let n_before = keys(&sns, target).len();

        sns.set(mood);
        link.set(Link::Cut);
        stage.kill(Duration::from_millis(1800)).await;
        stage.until_firing(target, true).await;
        if mood == Mood::Down {
            // Several attempts fail.
            let n_lost = sns.n_lost();
            until("an attempt that fails", PATIENCE, || async {
                if sns.n_lost() > n_lost { Ok(()) } else { Err(n_lost) }.map_err(|n_lost| format!("{n_lost}"))
            })
            .await;
        } else {
            until(&format!("{target} is told to fire"), PATIENCE, || async {
                let keys = keys(&sns, target);
                if keys.len() > n_before { Ok(()) } else { Err(format!("{keys:?}")) }
            })
            .await;
        }
        if stage.random.one_in(2) {
            stage.kill(Duration::from_millis(600)).await;
        }
        link.set(Link::Up);
        stage.kill(Duration::from_millis(1800)).await;
        stage.until_firing(target, false).await;
        let states = || keys(&sns, target).into_iter().skip(n_before).map(|(state, _)| state).collect::<Vec<_>>();
        if mood == Mood::Down {
            sns.set(Mood::Up);
            // It began and ended while nobody could be told. Who may have heard that it began hears that it ended.
            tokio::time::sleep(UNTIL_TRIED_AGAIN).await;
            if states().is_empty() {
                n_unheard += 1;
            } else {
                assert_eq!(states(), ["resolved"], "{target}");
                n_transitions += 1;
            }
        } else {
            until(&format!("{target} is told to be well ({mood:?})"), PATIENCE, || async {
                if states() == ["firing", "resolved"] { Ok(()) } else { Err(format!("{:?}", states())) }
            })
            .await;
            n_transitions += 2;
        }
        *n_keys.entry(target).or_insert(n_before) = n_before + states().len();
        incident += 1;
    }
    sns.set(Mood::Up);
    // Whatever is still on its way arrives, and nothing more comes of it.
    loop {
        let n_taken = sns.taken().len();
        tokio::time::sleep(UNTIL_KEPT).await;
        if sns.taken().len() == n_taken {
            break;
        }
    }
    let took = clock::now().duration_since(began);

    // Told in order and once, as far as they are news.
    for (target, n_keys) in n_keys {
        assert_eq!(keys(&sns, target).len(), n_keys, "{target}: {:?}", keys(&sns, target));
    }

    // Told twice only where nobody can know that it was told.
    let (mut unanswered, mut late, mut killed) = (0, 0, 0);
    let mut by_target: BTreeMap<String, usize> = BTreeMap::new();
    let mut last: BTreeMap<String, (String, Option<MonoTime>, MonoTime)> = BTreeMap::new();
    let mut n_told = 0;
    for taken in sns.taken() {
        for told in taken.told {
            n_told += 1;
            let before = last.insert(told.target.clone(), (told.dedup_key.clone(), taken.answered_at, taken.at));
            let Some((_, answered_at, at)) = before.filter(|(key, ..)| *key == told.dedup_key) else { continue };
            let kept_by = answered_at.map(|answered_at| answered_at.plus(UNTIL_KEPT));
            if stage.killed_at.iter().any(|kill| *kill >= at && kept_by.is_none_or(|kept| *kill <= kept)) {
                killed += 1;
                continue;
            }
            match answered_at {
                None => unanswered += 1,
                Some(_) => late += 1,
            }
            *by_target.entry(told.target).or_default() += 1;
        }
    }
    // ... which the daemon says each time: on a slow machine an answer in good time arrives late.
    stage.log += &stage.daemon().log();
    for (target, n_twice) in by_target {
        let said = format!("cannot tell pager of Down c/{target}: no answer");
        let n_unclear = stage.log.lines().filter(|line| line.contains(&said)).count();
        assert!(n_twice <= n_unclear, "{target} was told again {n_twice} times, and {n_unclear} answers were missed");
    }
    let n_twice = unanswered + late + killed;
    // A machine that stands still for seconds makes more news: a target was away, though nobody had cut it off.
    let n_news: usize = targets.iter().map(|(target, _)| keys(&sns, target).len()).sum();
    println!(
        "{} kills in {incident} incidents ({}) within {} s: {n_transitions} transitions, all told, in order ({n_unheard} incidents \
         began and ended while nobody could be told); told {n_told} times, \
         {n_twice} of them again: {unanswered} without an answer, {late} answered too late, {killed} killed before the \
         receipt was kept; {} attempts were not taken; {} other transitions (seed {seed})",
        stage.killed_at.len(),
        incidents.iter().map(|(mood, n)| format!("{n} {mood:?}")).collect::<Vec<_>>().join(", "),
        took.as_secs(),
        sns.n_lost(),
        n_news - n_transitions,
    );
    assert_eq!(n_told, n_news + n_twice);
    let daemon = stage.daemon.take().unwrap();
    assert_eq!(daemon.stop().await, Some(0));
}
