//! `pgvigil poll`: one look at everything, for a shell or a script.
//!
//! The servers are asked just as the daemon asks them, until there is enough to tell a lag. What is printed is what a
//! [`Snapshot`] says, and nothing of its own.

use std::collections::HashMap;
use std::fmt::Write;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};

use crate::clock;
use crate::collect::tls::Trust;
use crate::collect::{self, PollConfig, TargetSpec};
use crate::config::Config;
use crate::core::alert::{AlertView, Phase, Severity};
use crate::core::fleet::{Event, Fleet};
use crate::core::lag::{Certainty, LagEstimate};
use crate::core::observation::{Receiver, ReplayPause};
use crate::core::snapshot::{ClusterView, PoolerView, Snapshot, TargetView};
use crate::core::topology::TargetId;
use crate::table::{Cell, Table, Tone, bytes, painted, seconds, short};

/// A lag is the age of WAL whose writing was seen: one answer cannot tell it, a second one a while later can.
const ANSWERS: u32 = 2;

/// Nobody at a prompt wants to wait longer for the second answer.
const LONGEST_INTERVAL: Duration = Duration::from_secs(1);

/// Asks every target, and says what is then known.
pub async fn look(mut config: Config) -> Arc<Snapshot> {
    config.poll.interval = config.poll.interval.min(LONGEST_INTERVAL);
    let (events, mut received) = tokio::sync::mpsc::channel(64);
    let mut tasks = pollers(&config, &events);
    let mut fleet = Fleet::new(config.fleet_spec());
    let mut progress: HashMap<TargetId, Progress> = config
        .clusters
        .iter()
        .flat_map(|cluster| cluster.targets.iter().chain(&cluster.poolers))
        .map(|target| (target.id.clone(), Progress::default()))
        .collect();
    let deadline = tokio::time::sleep(patience(&config.poll));
    tokio::pin!(deadline);
    while !progress.values().all(Progress::is_done) {
        let event = tokio::select! {
            Some(event) = received.recv() => event,
            Some(()) = tasks.next() => continue,
            () = &mut deadline => break,
        };
        match &event {
            Event::Polled(observation) => {
                if let Some(target) = progress.get_mut(&observation.target) {
                    target.polled(observation.outcome.is_ok());
                }
            }
            Event::Surveyed(survey) => {
                if let Some(target) = progress.get_mut(&survey.target) {
                    target.is_surveyed = true;
                }
            }
            Event::Pooled(observation) => {
                if let Some(pooler) = progress.get_mut(&observation.pooler) {
                    pooler.polled(observation.outcome.is_ok());
                    // Once is enough: nothing of a pooler is told from two answers.
                    (pooler.n_answers, pooler.is_surveyed) = (ANSWERS, true);
                }
            }
            Event::Delivered(_) | Event::Tick => {}
        }
        fleet.apply(event, clock::now(), clock::wall());
    }
    // The rules judge at a tick. Whom it would tell is not told: this is a look, not the watch.
    fleet.apply(Event::Tick, clock::now(), clock::wall());
    Arc::new(fleet.snapshot(clock::now(), clock::wall()))
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The daemon's own pollers, to be driven by the one who waits for what they say.
fn pollers(config: &Config, events: &tokio::sync::mpsc::Sender<Event>) -> FuturesUnordered<Task> {
    let trust = Arc::new(Trust::default());
    let never = tokio_util::sync::CancellationToken::new();
    let tasks: FuturesUnordered<Task> = FuturesUnordered::new();
    for (place, cluster) in config.clusters.iter().enumerate() {
        let specs = cluster
            .targets
            .iter()
            .map(|target| TargetSpec { name: target.id.target.clone(), conninfo: Arc::clone(&target.conninfo) });
        let (beat, targets) =
            collect::cluster(place, &cluster.name, specs.collect(), &config.poll, config.statements.enabled, &trust);
        for pooler in &cluster.poolers {
            let (id, conninfo) = (pooler.id.clone(), Arc::clone(&pooler.conninfo));
            let task = collect::pooler(0, id, conninfo, &config.poll, &trust);
            tasks.push(Box::pin(task.run(events.clone(), never.clone())));
        }
        tasks.push(Box::pin(beat.run(never.clone())));
        for target in targets {
            tasks.push(Box::pin(target.run(events.clone(), never.clone())));
        }
    }
    tasks
}

/// How far one target has come.
#[derive(Debug, Default)]
struct Progress {
    n_answers: u32,
    has_failed: bool,
    is_surveyed: bool,
}

impl Progress {
    fn polled(&mut self, is_ok: bool) {
        self.n_answers += u32::from(is_ok);
        self.has_failed = !is_ok;
    }

    fn is_done(&self) -> bool {
        self.has_failed || (self.n_answers >= ANSWERS && self.is_surveyed)
    }
}

/// Time in which everything that can be known is known.
fn patience(poll: &PollConfig) -> Duration {
    (ANSWERS + 1) * poll.interval + 2 * poll.timeout
}

/// Whether every target answered and no critical rule breaches, fired or not: a single look cannot wait for `for`.
pub fn is_well(snapshot: &Snapshot) -> bool {
    snapshot.clusters.iter().all(|cluster| {
        let is_critical = |alert: &AlertView| alert.severity == Severity::Critical && alert.phase != Phase::Resolved;
        let all_poolers = cluster.poolers.iter().all(|pooler| pooler.is_up(snapshot.published_at));
        cluster.targets.iter().all(|target| target.is_up()) && all_poolers && !cluster.alerts.iter().any(is_critical)
    })
}

/// A row for each target, and a line for each alert.
pub fn table(snapshot: &Snapshot, has_colour: bool) -> String {
    let heading = ["CLUSTER", "TARGET", "ROLE", "VERSION", "STATE", "LAG", "BETWEEN", "METHOD", "BEHIND", "NOTE"];
    let mut table = Table::new(&heading, &["LAG", "BEHIND"]);
    for cluster in &snapshot.clusters {
        for target in &cluster.targets {
            table.row(row(cluster, target));
        }
    }
    let mut text = table.render(has_colour);
    text.push_str(&poolers(snapshot, has_colour));
    let active = |alert: &&AlertView| alert.phase != Phase::Resolved;
    let mut alerts: Vec<&AlertView> =
        snapshot.clusters.iter().flat_map(|cluster| cluster.alerts.iter()).filter(active).collect();
    alerts.sort_by_key(|alert| (std::cmp::Reverse(alert.severity), alert.id.clone()));
    if !alerts.is_empty() {
        text.push('\n');
    }
    for alert in alerts {
        let tone = if alert.severity == Severity::Critical { Tone::Bad } else { Tone::Doubtful };
        text.push_str(&painted(alert.severity.as_str(), tone, has_colour));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {}: {}", alert.id, alert.condition);
    }
    text
}

/// A table of the poolers, a row for each pool. Nothing where there are none.
fn poolers(snapshot: &Snapshot, has_colour: bool) -> String {
    const RIGHT: &[&str] = &["ACTIVE", "WAITING", "LONGEST WAIT", "SERVERS"];
    let heading =
        ["CLUSTER", "POOLER", "STATE", "DATABASE", "USER", "ACTIVE", "WAITING", "LONGEST WAIT", "SERVERS", "NOTE"];
    let mut table = Table::new(&heading, RIGHT);
    let views = || snapshot.clusters.iter().flat_map(|cluster| &cluster.poolers);
    for pooler in views() {
        let place = [pooler.id.cluster.as_str().into(), pooler.id.target.as_str().into()];
        let row = |rest: Vec<Cell>| place.iter().cloned().chain(rest).collect::<Vec<Cell>>();
        let answer = match (&pooler.failing, &pooler.answer) {
            (Some(failing), _) => {
                let empty = vec!["".into(); 6];
                let note = failing.failure.to_string().into();
                table.row(row([vec![Cell::new("down", Tone::Bad)], empty, vec![note]].concat()));
                continue;
            }
            (None, None) => {
                table.row(row(vec![Cell::new("not asked", Tone::Doubtful)]));
                continue;
            }
            (None, Some(answer)) => answer,
        };
        let up = || Cell::new("up", Tone::Good);
        if answer.facts.pools.is_empty() {
            table.row(row(vec![up()]));
        }
        for pool in &answer.facts.pools {
            let is_paused = answer.facts.databases.iter().any(|own| own.name == pool.database && own.paused);
            let waits = pool.clients_waiting > 0;
            let of = pool.size.map_or_else(String::new, |size| format!("/{size}"));
            table.row(row(vec![
                up(),
                pool.database.as_str().into(),
                pool.user.as_str().into(),
                pool.clients_active.to_string().into(),
                Cell::new(&pool.clients_waiting.to_string(), if waits { Tone::Doubtful } else { Tone::Plain }),
                seconds(pool.longest_wait).into(),
                format!("{}{of}", pool.servers_active).into(),
                if is_paused { Cell::new("paused", Tone::Doubtful) } else { "".into() },
            ]));
        }
    }
    if views().next().is_some() { format!("\n{}", table.render(has_colour)) } else { String::new() }
}

fn row(cluster: &ClusterView, target: &TargetView) -> Vec<Cell> {
    let version = target.answer.as_ref().map_or("", |answer| short(&answer.positions.identity.version));
    let role = target.last_role().map_or("", |role| role.as_str());
    let (state, tone) = state(target);
    let (lag, between, method) = match &target.lag {
        Some(lag) => (lag_cell(lag), between(lag), lag.method.to_string()),
        None => ("".into(), String::new(), String::new()),
    };
    let behind = target.stages.and_then(|stages| stages.unreplayed).map_or_else(String::new, |wal| bytes(wal.0));
    vec![
        cluster.name.as_str().into(),
        target.id.target.as_str().into(),
        role.into(),
        version.into(),
        Cell::new(&state, tone),
        lag,
        between.into(),
        Cell::new(&method, Tone::Faint),
        behind.into(),
        note(target).into(),
    ]
}

/// What a server does, in a word or two.
fn state(target: &TargetView) -> (String, Tone) {
    if target.failing.is_some() {
        return ("down".to_owned(), Tone::Bad);
    }
    let Some(answer) = &target.answer else { return ("not asked".to_owned(), Tone::Doubtful) };
    let Some(standby) = answer.positions.standby() else { return ("up".to_owned(), Tone::Good) };
    match (standby.pause, &standby.receiver) {
        (ReplayPause::Paused, _) => ("replay paused".to_owned(), Tone::Doubtful),
        (ReplayPause::Requested, _) => ("pausing replay".to_owned(), Tone::Doubtful),
        (ReplayPause::NotPaused, Receiver::Absent) => ("no receiver".to_owned(), Tone::Doubtful),
        (ReplayPause::NotPaused, Receiver::Hidden) => ("receiving".to_owned(), Tone::Good),
        (ReplayPause::NotPaused, Receiver::Running(receiver)) => {
            let tone = if receiver.status == "streaming" { Tone::Good } else { Tone::Doubtful };
            (receiver.status.clone(), tone)
        }
    }
}

fn lag_cell(lag: &LagEstimate) -> Cell {
    match (lag.value, lag.certainty) {
        (None, _) | (_, Certainty::Unknown) => Cell::new("?", Tone::Doubtful),
        (Some(value), Certainty::Exact) => seconds(value).into(),
        (Some(value), Certainty::AtLeast) => format!("≥ {}", seconds(value)).into(),
        (Some(value), Certainty::AtMost) => format!("≤ {}", seconds(value)).into(),
    }
}

/// The proven bounds.
fn between(lag: &LagEstimate) -> String {
    if lag.upper.is_infinite() && lag.lower <= 0.0 {
        return String::new();
    }
    let (lower, upper) = (seconds(lag.lower), seconds(lag.upper));
    if lower == upper { lower } else { format!("{lower} … {upper}") }
}

fn note(target: &TargetView) -> String {
    if let Some(failing) = &target.failing {
        return failing.failure.to_string();
    }
    target.survey_failing.as_ref().map_or_else(String::new, |failing| format!("slow facts: {}", failing.failure))
}

/// The same for programs. What is not known is null; so is an upper bound that nothing bounds.
pub fn json(snapshot: &Snapshot) -> Value {
    json!({ "clusters": snapshot.clusters.iter().map(|cluster| cluster_json(cluster, snapshot)).collect::<Vec<_>>() })
}

fn cluster_json(cluster: &ClusterView, snapshot: &Snapshot) -> Value {
    json!({
        "name": cluster.name,
        "primary": cluster.primary,
        "targets": cluster.targets.iter().map(|target| target_json(target, snapshot)).collect::<Vec<_>>(),
        "poolers": cluster.poolers.iter().map(|pooler| pooler_json(pooler)).collect::<Vec<_>>(),
        "alerts": cluster.alerts.iter().map(|alert| json!({
            "rule": alert.id.rule,
            "severity": alert.severity,
            "state": alert.phase,
            "target": alert.id.target,
            "labels": alert.id.labels.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "condition": alert.condition,
            "reading": alert.reading,
        })).collect::<Vec<_>>(),
    })
}

fn pooler_json(pooler: &PoolerView) -> Value {
    let facts = pooler.answer.as_ref().filter(|_| pooler.failing.is_none()).map(|answer| &answer.facts);
    json!({
        "name": pooler.id.target,
        "up": facts.is_some(),
        "failure": pooler.failing.as_ref().map(|failing| json!({
            "kind": failing.failure.kind(),
            "reason": failing.failure.to_string(),
        })),
        "version": facts.and_then(|facts| facts.version.as_ref()),
        "pools": facts.map(|facts| facts.pools.iter().map(|pool| json!({
            "database": pool.database,
            "user": pool.user,
            "clients_active": pool.clients_active,
            "clients_waiting": pool.clients_waiting,
            "longest_wait_seconds": pool.longest_wait,
            "servers_active": pool.servers_active,
            "servers": pool.servers(),
            "pool_size": pool.size,
        })).collect::<Vec<_>>()),
        "paused": facts.map(|facts| {
            facts.databases.iter().filter(|database| database.paused).map(|database| &database.name).collect::<Vec<_>>()
        }),
    })
}

fn target_json(target: &TargetView, snapshot: &Snapshot) -> Value {
    let identity = target.answer.as_ref().map(|answer| &answer.positions.identity);
    let finite = |value: f64| value.is_finite().then_some(value);
    json!({
        "name": target.id.target,
        "up": target.is_up(),
        "failure": target.failing.as_ref().map(|failing| json!({
            "kind": failing.failure.kind(),
            "reason": failing.failure.to_string(),
        })),
        "role": target.last_role(),
        "version": identity.map(|identity| &identity.version),
        "flavor": identity.map(|identity| identity.flavor.as_str()),
        "state": state(target).0,
        "lsn": target.lsn().map(|lsn| lsn.to_string()),
        "timeline": target.timeline(),
        "lag_seconds": target.lag.and_then(|lag| lag.value),
        "lag_lower_seconds": target.lag.and_then(|lag| finite(lag.lower)),
        "lag_upper_seconds": target.lag.and_then(|lag| finite(lag.upper)),
        "lag_certainty": target.lag.map(|lag| lag.certainty.as_str()),
        "lag_method": target.lag.map(|lag| lag.method.to_string()),
        "lag_bytes": target.stages.and_then(|stages| stages.unreplayed),
        "sample_age_ms": target.answer.as_ref().map(|answer| {
            u64::try_from(snapshot.published_at.duration_since(answer.answered_at).as_millis()).unwrap_or(u64::MAX)
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fixture;
    use crate::core::lag::Evidence;
    use crate::core::observation::PollFailure;

    fn snapshot(targets: Vec<TargetView>, alerts: Vec<AlertView>) -> Snapshot {
        fixture::snapshot(vec![fixture::cluster("orders", targets, alerts)])
    }

    #[test]
    fn each_target_has_a_row_and_each_active_alert_a_line() {
        let mut targets = fixture::orders();
        targets[2].lag = Some(fixture::lag(75.0, 75.0, f64::INFINITY, Certainty::AtLeast, Evidence::LowerBound));
        fixture::change_standby(&mut targets[2], |standby| standby.pause = ReplayPause::Paused);
        let mut silent = TargetView::new(TargetId::new("orders", "replica-3"), Duration::from_secs(10));
        silent.lag = Some(fixture::unknown_lag(Evidence::NoPosition));
        fixture::fail(&mut silent, PollFailure::Sql { sqlstate: "57014".to_owned(), reason: "a\x1b[2Jb".to_owned() });
        targets.push(silent);
        let alerts = vec![
            fixture::alert("ReplicaLagging", Severity::Warning, Phase::Firing, &[]),
            fixture::alert("ReplicaLagCritical", Severity::Critical, Phase::Pending, &[]),
            fixture::alert("SlotRetainingWal", Severity::Critical, Phase::Resolved, &[("slot", "debezium")]),
        ];
        let expected = "\
CLUSTER  TARGET     ROLE     VERSION  STATE               LAG  BETWEEN          METHOD       BEHIND  NOTE
orders   primary    primary  15.18    up
orders   replica-1  replica  15.18    streaming        120 ms  100 ms … 150 ms  lsn+ts        256 B
orders   replica-2  replica  15.18    replay paused  ≥ 1m 15s  1m 15s … ∞       lower_bound   256 B
orders   replica-3                    down                  ?                   no_position          SQLSTATE 57014: a [2Jb

critical  ReplicaLagCritical orders/replica-1: replay_lag_seconds > 5s
warning  ReplicaLagging orders/replica-1: replay_lag_seconds > 5s
";
        assert_eq!(table(&snapshot(targets, alerts), false), expected);
    }

    #[test]
    fn a_target_that_is_down_or_a_critical_breach_is_not_well() {
        let alert = |severity, phase| vec![fixture::alert("a", severity, phase, &[])];
        let well = |alerts| is_well(&snapshot(fixture::orders(), alerts));
        assert!(well(Vec::new()));
        assert!(well(alert(Severity::Warning, Phase::Firing)));
        assert!(well(alert(Severity::Critical, Phase::Resolved)));
        assert!(!well(alert(Severity::Critical, Phase::Pending)));
        assert!(!well(alert(Severity::Critical, Phase::Firing)));
        let mut targets = fixture::orders();
        fixture::fail(&mut targets[1], PollFailure::Refused);
        assert!(!is_well(&snapshot(targets, Vec::new())));
    }

    #[test]
    fn what_is_not_known_is_null_for_programs() {
        let mut replica = fixture::replica("orders", "replica-1");
        replica.lag = Some(fixture::unknown_lag(Evidence::NoPrimary));
        replica.stages = None;
        fixture::fail(&mut replica, PollFailure::Refused);
        let alert = fixture::alert("ReplicaLagging", Severity::Warning, Phase::Firing, &[("slot", "a")]);
        let expected = json!({ "clusters": [{
            "name": "orders",
            "primary": null,
            "targets": [{
                "name": "replica-1", "up": false, "failure": { "kind": "refused", "reason": "connection refused" },
                "role": "replica", "version": "15.18 (Debian 15.18-1)", "flavor": "postgresql", "state": "down",
                "lsn": "0/2FFFF00", "timeline": 3, "lag_seconds": null, "lag_lower_seconds": 0.0,
                "lag_upper_seconds": null, "lag_certainty": "unknown", "lag_method": "no_primary", "lag_bytes": null,
                "sample_age_ms": 10_480,
            }],
            "poolers": [],
            "alerts": [{
                "rule": "ReplicaLagging", "severity": "warning", "state": "firing", "target": "replica-1",
                "labels": { "slot": "a" }, "condition": "replay_lag_seconds > 5s", "reading": 6.5,
            }],
        }]});
        assert_eq!(json(&snapshot(vec![replica], vec![alert])), expected);
    }
}
