//! `/api/v1`: what is known, as JSON for people's own tools.
//!
//! Field names stay. A number that is not known is `null`; so is a bound that is infinite. Times of day are RFC 3339 in
//! UTC. Identifiers of 64 bits (system identifier, queryid) are strings: many readers of JSON keep only 53.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::Serialize;

use super::overall::{self, Overall};
use super::subscriptions::SubscriptionState;
use crate::core::alert::{AlertView, Gone, Severity};
use crate::core::cloudwatch::{self, Point, Readings, RedisGroup};
use crate::core::discovery::{InstanceFacts, RdsEvent};
use crate::core::explain::explain;
use crate::core::lag::{Certainty, LagEstimate};
use crate::core::mute::Mute;
use crate::core::observation::{Positions, Receiver, ReplayPause, ReplayWait, WaitsOn, WalReceiver, WalSender};
use crate::core::pooler;
use crate::core::senders::{behind, end_of_wal};
use crate::core::signal::{lacking, sender_state, used_ratio};
use crate::core::snapshot::{ClusterView, Failing, PoolerView, Snapshot, Stages, TargetView};
use crate::core::statements::{StatementCounters, StatementTotals};
use crate::core::survey::{self, BaseBackup, Sessions, Slot, SurveyFacts};
use crate::core::time::{MonoTime, ServerTime};
use crate::core::topology::events::TopologyEvent;
use crate::core::topology::links::{Links, Upstream};
use crate::core::topology::synchronous::SyncStandbys;
use crate::core::topology::{Name, Role};
use crate::core::trend::{Direction, Trend};
use crate::core::wal::Lsn;

/// `/api/v1/clusters`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Clusters<'a> {
    clusters: Vec<Cluster<'a>>,
}

/// `/api/v1/clusters/{cluster}`; without the targets' details also an element of `/api/v1/clusters`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Cluster<'a> {
    name: &'a str,
    /// When this was true.
    at: Option<String>,
    status: Overall,
    reasons: Vec<String>,
    /// The server that lag is measured against.
    primary: Option<&'a str>,
    targets: Vec<Target<'a>>,
    poolers: Vec<Pooler<'a>>,
    redis: Vec<Redis<'a>>,
    alerts: Vec<Alert<'a>>,
    /// Promotions and the like, the latest first.
    events: Vec<Event<'a>>,
    /// What RDS has reported, the latest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rds_events: Vec<Happened<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RdsEvent")]
struct Happened<'a> {
    at: Option<String>,
    /// The target, or the DB cluster.
    source: &'a str,
    categories: &'a [String],
    message: &'a str,
}

#[derive(Serialize, JsonSchema)]
struct Event<'a> {
    at: Option<String>,
    target: &'a str,
    /// `promoted`, `demoted`, `new_timeline`.
    event: &'static str,
    timeline: Option<u32>,
}

/// `/api/v1/alerts`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Alerts<'a> {
    /// When this was true.
    at: Option<String>,
    alerts: Vec<Alert<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct Target<'a> {
    name: &'a str,
    /// By its own last word.
    role: Option<Role>,
    /// The last poll succeeded. `null` before the first ended.
    up: Option<bool>,
    /// Why the last poll failed.
    failure: Option<Failure>,
    /// When the last answer was in hand.
    sampled_at: Option<String>,
    sample_age_ms: Option<u64>,
    /// Somebody keeps reads from it: who, and for how long.
    #[serde(skip_serializing_if = "Option::is_none")]
    drained: Option<String>,
    /// The sample is too old to be told as true; `server` and all below it are then `null`.
    stale: bool,
    lag: Option<Lag>,
    /// Why it lags: the cause to act on first. `null` when it does not.
    cause: Option<Found<'a>>,
    other_causes: Vec<Found<'a>>,
    /// The same in one sentence.
    diagnosis: Option<String>,
    /// What AWS says of it. Left out where it was not discovered there, or was not said of late.
    #[serde(skip_serializing_if = "Option::is_none")]
    rds: Option<&'a InstanceFacts>,
    #[serde(flatten)]
    details: Option<Details<'a>>,
}

/// A connection pooler.
#[derive(Serialize, JsonSchema)]
struct Pooler<'a> {
    name: &'a str,
    /// The last poll succeeded. `null` before the first ended.
    up: Option<bool>,
    failure: Option<Failure>,
    sampled_at: Option<String>,
    sample_age_ms: Option<u64>,
    /// The answer is too old to be told as true; all below it is then `null`.
    stale: bool,
    version: Option<&'a str>,
    pools: Option<Vec<Pool<'a>>>,
    databases: Option<Vec<PoolDatabase<'a>>>,
}

#[derive(Serialize, JsonSchema)]
struct Pool<'a> {
    database: &'a str,
    user: &'a str,
    clients_active: u64,
    clients_waiting: u64,
    /// Of the first client in the queue.
    longest_wait_seconds: f64,
    /// Linked to a client.
    servers_active: u64,
    /// Of any state.
    servers: u64,
    size: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct PoolDatabase<'a> {
    name: &'a str,
    connections: Option<u64>,
    max_connections: Option<u64>,
    paused: bool,
    disabled: bool,
}

#[derive(Serialize, JsonSchema)]
struct Failure {
    kind: &'static str,
    message: String,
    since: Option<String>,
    in_a_row: u64,
}

#[derive(Serialize, JsonSchema)]
struct Lag {
    seconds: Option<f64>,
    lower_seconds: Option<f64>,
    /// `null` also when there is no upper bound.
    upper_seconds: Option<f64>,
    #[schemars(with = "Certainty")]
    certainty: &'static str,
    method: Option<String>,
    unsent_bytes: Option<u64>,
    unreceived_bytes: Option<u64>,
    unflushed_bytes: Option<u64>,
    unreplayed_bytes: Option<u64>,
    /// PostgreSQL's own measurements, as the replica's upstream has them.
    sender_write_lag_seconds: Option<f64>,
    sender_flush_lag_seconds: Option<f64>,
    sender_replay_lag_seconds: Option<f64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Cause")]
struct Found<'a> {
    name: &'static str,
    explanation: &'a str,
}

/// Rates in bytes of WAL per second.
#[derive(Serialize, JsonSchema)]
struct Rates {
    written: Option<f64>,
    received: Option<f64>,
    replayed: Option<f64>,
    /// `falling_behind`, `holding`, `catching_up`.
    direction: Option<&'static str>,
    /// `null` when it does not catch up.
    catch_up_seconds: Option<f64>,
    stalled: Option<bool>,
    stalled_seconds: Option<f64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TargetDetails")]
struct Details<'a> {
    server: Option<Server<'a>>,
    timeline: Option<u32>,
    /// How far the server's clock is ahead of the monitor's, at least and at most.
    clock_skew_seconds: Option<(f64, f64)>,
    /// Flushed on a primary, replayed on a replica.
    lsn: Option<String>,
    trend: Option<Rates>,
    replay: Option<Replay<'a>>,
    /// Where a replica receives its WAL from.
    upstream: Option<UpstreamState<'a>>,
    /// The target listed before it that leads to the same server.
    same_server_as: Option<&'a str>,
    /// Standbys that stream from it and are no target of the cluster.
    undeclared_standbys: Option<usize>,
    /// What synchronous commits wait for.
    synchronous: Option<Synchronous<'a>>,
    senders: Option<Vec<Sender<'a>>>,
    /// Grants and extensions for want of which something is not measured.
    missing: Option<Vec<&'static str>>,
    surveyed_at: Option<String>,
    connections: Option<Connections<'a>>,
    slots: Option<Vec<SlotState<'a>>>,
    subscriptions: Option<Vec<SubscriptionState<'a>>>,
    backups: Option<Vec<Backup>>,
    statements: Option<Statements<'a>>,
    /// What CloudWatch says. `null` where it is not read.
    cloudwatch: Option<CloudWatch<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct CloudWatch<'a> {
    metrics: BTreeMap<&'a str, MetricReading>,
    /// It has another word on the lag. `null` while it has not.
    disagreement: Option<LagDisagreement>,
}

/// In the signal's base unit.
#[derive(Serialize, JsonSchema)]
struct MetricReading {
    /// `null` when it is too old to be told as true, or CloudWatch says that there is none.
    value: Option<f64>,
    /// When the period ended that it is of.
    at: Option<String>,
    age_seconds: f64,
}

impl MetricReading {
    fn all<'a>(snapshot: &Snapshot, readings: &'a Readings, now: MonoTime) -> BTreeMap<&'a str, Self> {
        let reading = |(metric, point, is_fresh): (&'a Name, &Point, bool)| {
            let reading = Self {
                value: point.value.filter(|_| is_fresh),
                at: time_of_day(snapshot.wall_time(point.ended_at)),
                age_seconds: now.duration_since(point.ended_at).as_secs_f64(),
            };
            (metric.as_str(), reading)
        };
        readings.all(now).map(reading).collect()
    }
}

/// A replication group of ElastiCache.
#[derive(Serialize, JsonSchema)]
struct Redis<'a> {
    name: &'a str,
    nodes: Vec<RedisNode<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct RedisNode<'a> {
    name: &'a str,
    metrics: BTreeMap<&'a str, MetricReading>,
}

impl<'a> Redis<'a> {
    fn new(snapshot: &Snapshot, group: &'a RedisGroup, now: MonoTime) -> Self {
        let node = |(name, readings): (&'a Name, &'a Arc<Readings>)| RedisNode {
            name: name.as_str(),
            metrics: MetricReading::all(snapshot, readings, now),
        };
        Self { name: group.name.as_str(), nodes: group.nodes.iter().map(node).collect() }
    }
}

#[derive(Serialize, JsonSchema)]
struct LagDisagreement {
    cloudwatch_seconds: f64,
    pgvigil_seconds: f64,
    /// `idle`, `late`, `unseen`, `unexplained`.
    reason: &'static str,
    /// The same in a sentence.
    explanation: String,
}

impl<'a> CloudWatch<'a> {
    fn new(snapshot: &Snapshot, view: &'a TargetView, now: MonoTime) -> Option<Self> {
        let disagreement = cloudwatch::disagreement(view, now).map(|found| LagDisagreement {
            cloudwatch_seconds: found.theirs,
            pgvigil_seconds: found.ours,
            reason: found.reason.as_str(),
            explanation: found.sentence(),
        });
        let metrics = MetricReading::all(snapshot, &view.cloudwatch, now);
        (!view.cloudwatch.is_empty()).then_some(Self { metrics, disagreement })
    }
}

#[derive(Serialize, JsonSchema)]
struct Server<'a> {
    version: &'a str,
    flavor: &'static str,
    started_at: Option<String>,
    system_identifier: Option<String>,
    tls: bool,
    pooled: bool,
}

#[derive(Serialize, JsonSchema)]
struct Replay<'a> {
    /// `not paused`, `pause requested`, `paused`.
    pause: &'static str,
    /// `absent`, `hidden`, or the WAL receiver's status.
    receiver: &'a str,
    received_lsn: Option<String>,
    apply_delay_seconds: Option<f64>,
    /// `null` when none runs, and when it is hidden.
    wal_receiver: Option<WalReceiverState<'a>>,
    /// Who is in its way. `null` when nobody is known to be.
    blocked_by: Option<BlockedBy<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "WalReceiver")]
struct WalReceiverState<'a> {
    status: &'a str,
    sender_host: Option<&'a str>,
    sender_port: Option<u16>,
    slot: Option<&'a str>,
    timeline: Option<u32>,
    written_lsn: Option<String>,
    flushed_lsn: Option<String>,
    latest_end_lsn: Option<String>,
    /// By the sender's clock.
    latest_end_at: Option<String>,
    last_message_sent_at: Option<String>,
    /// By the standby's clock.
    last_message_received_at: Option<String>,
    /// How far the standby's clock is ahead of the sender's, at most.
    clock_skew_upper_seconds: Option<f64>,
}

#[derive(Serialize, JsonSchema)]
struct BlockedBy<'a> {
    /// `lock`, `snapshot`, `buffer_pin`, `tablespace`.
    conflict: &'static str,
    user: Option<&'a str>,
    application: Option<&'a str>,
    idle: Option<bool>,
    age_seconds: Option<f64>,
    /// Sessions that hold the lock; `null` for other conflicts.
    sessions: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Upstream")]
struct UpstreamState<'a> {
    /// `target`, `elsewhere`, `none`, `unknown`.
    kind: &'static str,
    /// The target's name.
    target: Option<&'a str>,
    /// `host:port` of a server that is no target.
    address: Option<&'a str>,
    /// The process that serves it there, while that is known.
    sender_pid: Option<i32>,
    /// No server that it could receive from has a sender for it.
    missing: Option<bool>,
}

#[derive(Serialize, JsonSchema)]
struct Synchronous<'a> {
    /// `first` or `any`.
    method: &'static str,
    required: u32,
    standbys: &'a [String],
}

#[derive(Serialize, JsonSchema)]
struct Sender<'a> {
    pid: i32,
    application_name: Option<&'a str>,
    client_addr: Option<IpAddr>,
    slot: Option<&'a str>,
    state: Option<&'static str>,
    sync_state: Option<&'a str>,
    sync_priority: Option<u32>,
    /// By the server's clock.
    connected_at: Option<String>,
    /// By the receiver's clock.
    replied_at: Option<String>,
    sent_lsn: Option<String>,
    write_lsn: Option<String>,
    flush_lsn: Option<String>,
    replay_lsn: Option<String>,
    unsent_bytes: Option<u64>,
    unwritten_bytes: Option<u64>,
    unflushed_bytes: Option<u64>,
    unreplayed_bytes: Option<u64>,
    write_lag_seconds: Option<f64>,
    flush_lag_seconds: Option<f64>,
    replay_lag_seconds: Option<f64>,
}

#[derive(Serialize, JsonSchema)]
struct Connections<'a> {
    by_state: BTreeMap<&'a str, u64>,
    by_user: Tally<'a>,
    by_application: Tally<'a>,
    by_client: Tally<'a>,
    by_database: Option<Tally<'a>>,
    total: u64,
    /// Sessions of other roles of which only database, user and application may be seen.
    hidden: u64,
    max: u64,
    reserved: u64,
    superuser_reserved: u64,
    used_ratio: Option<f64>,
    /// Should they go on to grow as of late.
    exhausted_in_seconds: Option<f64>,
    /// `null` while sessions are hidden.
    activity: Option<Activity<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct Tally<'a> {
    named: Vec<Count<'a>>,
    /// Sessions under other names.
    other: u64,
}

#[derive(Serialize, JsonSchema)]
struct Count<'a> {
    name: &'a str,
    count: u64,
}

#[derive(Serialize, JsonSchema)]
struct Activity<'a> {
    idle_in_transaction: u64,
    /// Idle for longer than `poll.idle_limit`.
    idle_long: u64,
    waiting_on_locks: u64,
    longest_lock_wait_seconds: Option<f64>,
    oldest_transaction: Option<Holder<'a>>,
    oldest_idle_in_transaction: Option<Holder<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct Holder<'a> {
    seconds: f64,
    user: &'a str,
    application: &'a str,
    state: &'a str,
    database: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Slot")]
struct SlotState<'a> {
    name: &'a str,
    slot_type: &'static str,
    active: bool,
    temporary: bool,
    datname: Option<&'a str>,
    plugin: Option<&'a str>,
    restart_lsn: Option<String>,
    confirmed_flush_lsn: Option<String>,
    wal_status: Option<&'static str>,
    retained_bytes: Option<u64>,
    unconfirmed_bytes: Option<u64>,
    safe_wal_bytes: Option<i64>,
    /// How fast the WAL kept for an active slot grows.
    growth_bytes_per_second: Option<f64>,
    /// Why it can be used no more.
    invalidated: Option<&'static str>,
    /// By the server's clock.
    inactive_since: Option<String>,
    xmin_age: Option<i64>,
    catalog_xmin_age: Option<i64>,
    two_phase: Option<bool>,
    failover: Option<bool>,
    synced: Option<bool>,
}

#[derive(Serialize, JsonSchema)]
struct Backup {
    phase: Option<&'static str>,
    streamed_bytes: Option<u64>,
    total_bytes: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct Statements<'a> {
    databases: Vec<Database<'a>>,
    top: Vec<TopStatement<'a>>,
    evictions: Option<u64>,
    resets: u64,
}

#[derive(Serialize, JsonSchema)]
struct Database<'a> {
    datname: &'a str,
    #[serde(flatten)]
    totals: Totals,
    /// All statements of the database that are not among the top.
    others: Totals,
}

#[derive(Serialize, JsonSchema)]
struct TopStatement<'a> {
    datname: &'a str,
    queryid: String,
    recent_calls: u64,
    recent_exec_seconds: f64,
    mean_exec_seconds: Option<f64>,
    /// Its first line without literals. Where `statements.show_text` is set, and once it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(flatten)]
    totals: Totals,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "StatementTotals")]
struct Totals {
    calls: u64,
    exec_seconds: f64,
    rows: u64,
    shared_blocks_hit: u64,
    shared_blocks_read: u64,
}

#[derive(Serialize, JsonSchema)]
struct Alert<'a> {
    rule: &'a str,
    cluster: &'a str,
    target: Option<&'a str>,
    labels: BTreeMap<&'a str, &'a str>,
    #[schemars(with = "Severity")]
    severity: &'static str,
    /// `pending`, `firing`, `resolved`.
    state: &'static str,
    /// The rule's condition, for example `replay_lag_seconds > 5s`.
    condition: &'a str,
    /// The last reading that was known, in `unit`.
    reading: Option<f64>,
    unit: &'static str,
    /// The reading is not known now, and the alert is held.
    unknown: bool,
    active_at: Option<String>,
    fired_at: Option<String>,
    resolved_at: Option<String>,
    /// It resolved since its subject is there no more (`subject`), or is not watched any more (`unwatched`).
    gone: Option<&'static str>,
    /// What is so, in a sentence.
    says: String,
    /// The rule's own line, filled in, and where to read what to do.
    summary: Option<&'a str>,
    runbook: Option<&'a str>,
    /// What is wrong with the replica that it is about: the cause to act on first, all in a sentence, and what helps.
    cause: Option<&'static str>,
    diagnosis: Option<String>,
    remedy: Option<&'static str>,
    /// What helps to judge it.
    details: BTreeMap<String, String>,
    /// Readings since it began, the oldest first.
    recent: Vec<Reading>,
    /// Why nobody is told of it now; empty when people are.
    muted: Vec<Muted<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct Reading {
    at: Option<String>,
    reading: f64,
}

#[derive(Serialize, JsonSchema)]
struct Muted<'a> {
    /// `silence`, `maintenance`, `depends_on`, `flapping`, `isolated`.
    by: &'static str,
    /// The same in words.
    says: String,
    /// Of the silence.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// Of the window of maintenance.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

impl<'a> Muted<'a> {
    fn new(mute: &'a Mute) -> Self {
        let says = Self {
            by: mute.kind(),
            says: mute.to_string(),
            id: None,
            author: None,
            reason: None,
            name: None,
            until: None,
        };
        match mute {
            Mute::Silence { id, author, reason, until } => {
                let (author, reason) = (Some(author.as_str()), Some(reason.as_str()));
                Self { id: Some(id), author, reason, until: time_of_day(*until), ..says }
            }
            Mute::Maintenance { name, until } => Self { name: Some(name), until: time_of_day(*until), ..says },
            Mute::DependsOn { .. } | Mute::Flapping { .. } | Mute::Isolated => says,
        }
    }
}

pub(super) fn clusters(snapshot: &Snapshot, now: MonoTime) -> Clusters<'_> {
    Clusters { clusters: snapshot.clusters.iter().map(|view| Cluster::new(snapshot, view, now, |_| None)).collect() }
}

pub(super) fn cluster<'a>(snapshot: &'a Snapshot, view: &'a ClusterView, now: MonoTime) -> Cluster<'a> {
    Cluster::new(snapshot, view, now, |target| Some(Details::new(snapshot, target, now)))
}

pub(super) fn alerts(snapshot: &Snapshot, now: MonoTime) -> Alerts<'_> {
    Alerts {
        at: time_of_day(snapshot.wall_time(now)),
        alerts: snapshot
            .clusters
            .iter()
            .flat_map(|view| view.alerts.iter())
            .chain(snapshot.alerts.iter())
            .map(|alert| Alert::new(snapshot, alert, now))
            .collect(),
    }
}

/// RFC 3339 in UTC, to the millisecond. `None` before 1970 and after 9999, where it cannot be written.
pub(super) fn time_of_day(time: SystemTime) -> Option<String> {
    const YEAR_10000: u64 = 253_402_300_800;
    let since_epoch = time.duration_since(UNIX_EPOCH).ok()?;
    (since_epoch.as_secs() < YEAR_10000).then(|| humantime::format_rfc3339_millis(time).to_string())
}

fn server_time_of_day(time: ServerTime) -> Option<String> {
    let micros = u64::try_from(time.unix_micros()).ok()?;
    time_of_day(UNIX_EPOCH.checked_add(Duration::from_micros(micros))?)
}

fn text(lsn: Option<Lsn>) -> Option<String> {
    lsn.map(|lsn| lsn.to_string())
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

impl<'a> Cluster<'a> {
    fn new(
        snapshot: &'a Snapshot,
        view: &'a ClusterView,
        now: MonoTime,
        details: impl Fn(&'a TargetView) -> Option<Details<'a>>,
    ) -> Self {
        let verdict = overall::of_cluster(snapshot, view, now);
        Self {
            name: view.name.as_str(),
            at: time_of_day(snapshot.wall_time(now)),
            status: verdict.status,
            reasons: verdict.reasons,
            primary: view.primary.as_ref().map(super::super::core::topology::Name::as_str),
            targets: view.targets.iter().map(|target| Target::new(snapshot, target, now, details(target))).collect(),
            poolers: view.poolers.iter().map(|pooler| Pooler::new(snapshot, pooler, now)).collect(),
            redis: view.redis.iter().map(|group| Redis::new(snapshot, group, now)).collect(),
            alerts: view.alerts.iter().map(|alert| Alert::new(snapshot, alert, now)).collect(),
            events: view.events.iter().rev().map(|event| Event::new(snapshot, event)).collect(),
            rds_events: view.rds_events.iter().rev().map(|event| Happened::new(snapshot, event)).collect(),
        }
    }
}

impl<'a> Happened<'a> {
    fn new(snapshot: &Snapshot, event: &'a RdsEvent) -> Self {
        let happening = &event.happening;
        Self {
            at: time_of_day(snapshot.wall_time(event.at)),
            source: happening.source.as_str(),
            categories: &happening.categories,
            message: &happening.message,
        }
    }
}

impl<'a> Event<'a> {
    fn new(snapshot: &Snapshot, event: &'a TopologyEvent) -> Self {
        Self {
            at: time_of_day(snapshot.wall_time(event.at)),
            target: event.target.as_str(),
            event: event.change.as_str(),
            timeline: event.timeline.map(|timeline| timeline.0),
        }
    }
}

impl<'a> Pooler<'a> {
    fn new(snapshot: &Snapshot, view: &'a PoolerView, now: MonoTime) -> Self {
        let answer = view.answer.as_ref();
        let facts = view.fresh(now).map(|answer| &*answer.facts);
        let pool = |pool: &'a pooler::Pool| Pool {
            database: &pool.database,
            user: &pool.user,
            clients_active: pool.clients_active,
            clients_waiting: pool.clients_waiting,
            longest_wait_seconds: pool.longest_wait,
            servers_active: pool.servers_active,
            servers: pool.servers(),
            size: pool.size,
        };
        let database = |database: &'a pooler::PoolDatabase| PoolDatabase {
            name: &database.name,
            connections: database.current_connections,
            max_connections: database.max_connections,
            paused: database.paused,
            disabled: database.disabled,
        };
        Self {
            name: view.id.target.as_str(),
            up: view.tried().then(|| view.is_up(now)),
            failure: view.failing.as_ref().map(|failing| Failure::new(snapshot, failing)),
            sampled_at: answer.and_then(|answer| time_of_day(snapshot.wall_time(answer.answered_at))),
            sample_age_ms: answer.map(|answer| millis(now.duration_since(answer.answered_at))),
            stale: facts.is_none(),
            version: facts.and_then(|facts| facts.version.as_deref()),
            pools: facts.map(|facts| facts.pools.iter().map(pool).collect()),
            databases: facts.map(|facts| facts.databases.iter().map(database).collect()),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Failure {
    fn new(snapshot: &Snapshot, failing: &Failing) -> Self {
        Self {
            kind: failing.failure.kind(),
            message: failing.failure.to_string(),
            since: time_of_day(snapshot.wall_time(failing.since)),
            in_a_row: failing.count,
        }
    }
}

impl<'a> Target<'a> {
    fn new(snapshot: &Snapshot, view: &'a TargetView, now: MonoTime, details: Option<Details<'a>>) -> Self {
        let age = view.answer.as_ref().map(|answer| now.duration_since(answer.answered_at));
        let is_attended = view.is_attended(now);
        let diagnosis = view.diagnosis.as_deref().filter(|diagnosis| is_attended && diagnosis.lags);
        let causes = diagnosis.map_or(&[][..], |diagnosis| diagnosis.causes.as_slice());
        let mut causes = causes.iter().map(|told| Found { name: told.cause.as_str(), explanation: &told.why });
        Self {
            name: view.id.target.as_str(),
            role: view.last_role(),
            up: view.tried().then(|| view.is_up() && view.fresh(now).is_some()),
            failure: view.failing.as_ref().map(|failing| Failure::new(snapshot, failing)),
            sampled_at: view.answer.as_ref().and_then(|answer| time_of_day(snapshot.wall_time(answer.answered_at))),
            sample_age_ms: age.map(millis),
            drained: view.drained(now),
            stale: view.fresh(now).is_none(),
            lag: Lag::new(view, now),
            cause: causes.next(),
            other_causes: causes.collect(),
            diagnosis: diagnosis.and_then(|_| view.diagnosis_sentence()),
            rds: view.fresh_instance(now),
            details,
        }
    }
}

impl Lag {
    /// `None` on a primary, before anything can be said, and when nobody keeps the estimate up to date.
    fn new(view: &TargetView, now: MonoTime) -> Option<Self> {
        let is_attended = view.is_attended(now);
        if !is_attended || (view.lag.is_none() && view.stages.is_none()) {
            return None;
        }
        let lag = view.lag.as_ref();
        let known: Option<&LagEstimate> = lag.filter(|lag| lag.value.is_some());
        let stages = view.stages.unwrap_or_default();
        let seconds = |micros: Option<i64>| micros.map(|micros| micros as f64 / 1e6);
        let Stages { unsent, unreceived, unflushed, unreplayed, own_lag } = stages;
        Some(Self {
            seconds: known.and_then(|lag| lag.value),
            lower_seconds: known.and_then(|lag| finite(lag.lower)),
            upper_seconds: known.and_then(|lag| finite(lag.upper)),
            certainty: known.map_or("unknown", |lag| lag.certainty.as_str()),
            method: lag.map(|lag| lag.method.to_string()),
            unsent_bytes: unsent.map(|bytes| bytes.0),
            unreceived_bytes: unreceived.map(|bytes| bytes.0),
            unflushed_bytes: unflushed.map(|bytes| bytes.0),
            unreplayed_bytes: unreplayed.map(|bytes| bytes.0),
            sender_write_lag_seconds: seconds(own_lag.write_us),
            sender_flush_lag_seconds: seconds(own_lag.flush_us),
            sender_replay_lag_seconds: seconds(own_lag.replay_us),
        })
    }
}

impl<'a> Details<'a> {
    fn new(snapshot: &Snapshot, view: &'a TargetView, now: MonoTime) -> Self {
        let positions: Option<&Positions> = view.fresh(now).map(|answer| &*answer.positions);
        let survey = view.fresh_survey(now);
        Self {
            server: positions.map(Server::new),
            timeline: positions.and_then(|_| view.timeline()).map(|timeline| timeline.0),
            clock_skew_seconds: positions.and(view.skew.of_server),
            lsn: positions.and_then(|_| view.lsn()).map(|lsn| lsn.to_string()),
            trend: positions.and(view.trend.as_ref()).map(Rates::new),
            replay: positions.and_then(|positions| Replay::new(view, positions, survey)),
            upstream: positions.and_then(|_| UpstreamState::new(&view.links)),
            same_server_as: view.links.same_as.as_ref().map(Name::as_str),
            undeclared_standbys: positions.and(view.links.undeclared.as_ref()).map(|undeclared| undeclared.at_least),
            synchronous: survey.and_then(|survey| survey.sync_standbys.as_ref()).map(Synchronous::new),
            senders: positions
                .map(|positions| positions.senders.iter().map(|sender| Sender::new(sender, positions)).collect()),
            missing: positions.map(|positions| lacking(positions).collect()),
            surveyed_at: view.survey.as_ref().and_then(|survey| time_of_day(snapshot.wall_time(survey.answered_at))),
            connections: survey
                .and_then(|survey| survey.sessions.as_ref())
                .map(|sessions| Connections::new(sessions, view.connections_exhausted_in)),
            slots: survey
                .and_then(|survey| survey.slots.as_ref())
                .map(|slots| slots.iter().enumerate().map(|(place, slot)| SlotState::new(view, place, slot)).collect()),
            subscriptions: survey.and_then(|survey| survey.subscriptions.as_ref()).map(|subscriptions| {
                subscriptions.iter().map(|subscription| SubscriptionState::new(view, subscription)).collect()
            }),
            backups: survey.and_then(|survey| survey.backups.as_ref()).map(|backups| {
                backups
                    .iter()
                    .map(|&BaseBackup { phase, streamed_bytes, total_bytes }| Backup {
                        phase,
                        streamed_bytes,
                        total_bytes,
                    })
                    .collect()
            }),
            statements: survey.and(view.statements.as_deref()).map(Statements::new),
            cloudwatch: CloudWatch::new(snapshot, view, now),
        }
    }
}

impl<'a> Server<'a> {
    fn new(positions: &'a Positions) -> Self {
        let identity = &positions.identity;
        Self {
            version: &identity.version,
            flavor: identity.flavor.as_str(),
            started_at: server_time_of_day(identity.started_at),
            system_identifier: identity.system_identifier.map(|identifier| identifier.to_string()),
            tls: identity.tls,
            pooled: identity.pooled,
        }
    }
}

impl<'a> Replay<'a> {
    fn new(view: &TargetView, positions: &'a Positions, survey: Option<&SurveyFacts>) -> Option<Self> {
        let standby = positions.standby()?;
        Some(Self {
            pause: match standby.pause {
                ReplayPause::NotPaused => "not paused",
                ReplayPause::Requested => "pause requested",
                ReplayPause::Paused => "paused",
            },
            receiver: match &standby.receiver {
                Receiver::Absent => "absent",
                Receiver::Connecting => "connecting",
                Receiver::Hidden => "hidden",
                Receiver::Running(receiver) => &receiver.status,
            },
            received_lsn: standby.receive_lsn.map(|lsn| lsn.to_string()),
            apply_delay_seconds: survey.and_then(|survey| survey.apply_delay_seconds),
            wal_receiver: standby.receiver.running().map(|receiver| WalReceiverState::new(view, receiver)),
            blocked_by: standby.wait.as_deref().and_then(|wait| BlockedBy::new(wait, positions.clock)),
        })
    }
}

impl<'a> UpstreamState<'a> {
    fn new(links: &'a Links) -> Option<Self> {
        let (kind, target, address) = match links.upstream.as_ref()? {
            Upstream::Target(name) => ("target", Some(name.as_str()), None),
            Upstream::Elsewhere(address) => ("elsewhere", None, Some(&**address)),
            Upstream::Nobody => ("none", None, None),
            Upstream::Unknown => ("unknown", None, None),
        };
        let sender_pid = links.sender.as_ref().map(|sender| sender.pid);
        Some(Self { kind, target, address, sender_pid, missing: links.is_missing })
    }
}

impl<'a> Synchronous<'a> {
    fn new(standbys: &'a SyncStandbys) -> Self {
        Self { method: standbys.method.as_str(), required: standbys.required, standbys: &standbys.names }
    }
}

impl<'a> WalReceiverState<'a> {
    fn new(view: &TargetView, receiver: &'a WalReceiver) -> Self {
        Self {
            status: &receiver.status,
            sender_host: receiver.sender_host.as_deref(),
            sender_port: receiver.sender_port,
            slot: receiver.slot_name.as_deref(),
            timeline: receiver.timeline.map(|timeline| timeline.0),
            written_lsn: text(receiver.written_lsn),
            flushed_lsn: text(receiver.flushed_lsn),
            latest_end_lsn: text(receiver.latest_end_lsn),
            latest_end_at: receiver.latest_end_at.and_then(server_time_of_day),
            last_message_sent_at: receiver.last_msg_sent_at.and_then(server_time_of_day),
            last_message_received_at: receiver.last_msg_received_at.and_then(server_time_of_day),
            clock_skew_upper_seconds: view.skew.of_upstream,
        }
    }
}

impl<'a> BlockedBy<'a> {
    fn new(wait: &'a ReplayWait, clock: ServerTime) -> Option<Self> {
        let conflict = match wait.on {
            WaitsOn::Lock => "lock",
            WaitsOn::Snapshot => "snapshot",
            WaitsOn::BufferPin => "buffer_pin",
            WaitsOn::Tablespace => "tablespace",
            _ => return None,
        };
        let blocker = wait.blocker.as_ref();
        Some(Self {
            conflict,
            user: blocker.and_then(|blocker| blocker.user.as_deref()),
            application: blocker.map(|blocker| blocker.application.as_str()),
            idle: blocker.and_then(|blocker| blocker.is_idle),
            age_seconds: blocker.and_then(|blocker| Some(clock.seconds_since(blocker.since?).max(0.0))),
            sessions: (wait.on == WaitsOn::Lock).then_some(wait.n_holders),
        })
    }
}

impl Rates {
    fn new(trend: &Trend) -> Self {
        Self {
            written: trend.write_rate,
            received: trend.receive_rate,
            replayed: trend.replay_rate,
            direction: trend.direction.map(Direction::as_str),
            catch_up_seconds: trend.catch_up_seconds,
            stalled: trend.stalled,
            stalled_seconds: trend.standing_seconds,
        }
    }
}

impl<'a> Sender<'a> {
    fn new(sender: &'a WalSender, positions: &Positions) -> Self {
        let client = sender.client.as_deref();
        let missing = |reached: Option<Lsn>| behind(sender, end_of_wal(positions), reached).map(|bytes| bytes.0);
        Self {
            pid: sender.pid,
            application_name: sender.application_name.as_deref(),
            client_addr: client.and_then(|client| client.address),
            slot: client.and_then(|client| client.slot.as_ref()).map(|slot| slot.name.as_str()),
            state: sender.state.map(|state| sender_state(Some(state))),
            sync_state: sender.sync_state.as_deref(),
            sync_priority: sender.sync_priority,
            connected_at: client.and_then(|client| client.started_at).and_then(server_time_of_day),
            replied_at: sender.reply_time.and_then(server_time_of_day),
            sent_lsn: text(sender.sent_lsn),
            write_lsn: text(sender.write_lsn),
            flush_lsn: text(sender.flush_lsn),
            replay_lsn: text(sender.replay_lsn),
            unsent_bytes: missing(sender.sent_lsn),
            unwritten_bytes: missing(sender.write_lsn),
            unflushed_bytes: missing(sender.flush_lsn),
            unreplayed_bytes: missing(sender.replay_lsn),
            write_lag_seconds: sender.write_lag,
            flush_lag_seconds: sender.flush_lag,
            replay_lag_seconds: sender.replay_lag,
        }
    }
}

impl<'a> Connections<'a> {
    fn new(sessions: &'a Sessions, exhausted_in_seconds: Option<f64>) -> Self {
        let mut by_state = BTreeMap::new();
        for (state, count) in &sessions.by_state {
            let sum = by_state.entry(state.as_str()).or_insert(0_u64);
            *sum = sum.saturating_add(*count);
        }
        Self {
            by_state,
            by_user: Tally::new(&sessions.by_user),
            by_application: Tally::new(&sessions.by_application),
            by_client: Tally::new(&sessions.by_client),
            by_database: sessions.by_database.as_ref().map(Tally::new),
            total: sessions.total,
            hidden: sessions.hidden,
            max: sessions.max_connections,
            reserved: sessions.reserved_connections,
            superuser_reserved: sessions.superuser_reserved_connections,
            used_ratio: used_ratio(sessions),
            exhausted_in_seconds,
            activity: sessions.activity.as_deref().map(Activity::new),
        }
    }
}

impl<'a> Tally<'a> {
    fn new(tally: &'a survey::Tally) -> Self {
        let named = tally.named.iter().map(|(name, count)| Count { name, count: *count });
        Self { named: named.collect(), other: tally.others }
    }
}

impl<'a> Activity<'a> {
    fn new(activity: &'a survey::Activity) -> Self {
        Self {
            idle_in_transaction: activity.idle_in_transaction,
            idle_long: activity.idle_long,
            waiting_on_locks: activity.waiting_on_locks,
            longest_lock_wait_seconds: activity.longest_lock_wait,
            oldest_transaction: activity.oldest_transaction.as_ref().map(Holder::new),
            oldest_idle_in_transaction: activity.idle_transaction.as_ref().map(Holder::new),
        }
    }
}

impl<'a> Holder<'a> {
    fn new(holder: &'a survey::Holder) -> Self {
        Self {
            seconds: holder.seconds,
            user: &holder.user,
            application: &holder.application,
            state: &holder.state,
            database: holder.database.as_deref(),
        }
    }
}

impl<'a> SlotState<'a> {
    fn new(view: &TargetView, place: usize, slot: &'a Slot) -> Self {
        Self {
            name: &slot.name,
            slot_type: slot.slot_type,
            active: slot.active,
            temporary: slot.temporary,
            datname: slot.datname.as_deref(),
            plugin: slot.plugin.as_deref(),
            restart_lsn: text(slot.restart_lsn),
            confirmed_flush_lsn: text(slot.confirmed_flush_lsn),
            wal_status: slot.wal_status,
            retained_bytes: slot.retained_bytes,
            unconfirmed_bytes: slot.unconfirmed_bytes,
            safe_wal_bytes: slot.safe_wal_size,
            growth_bytes_per_second: view.slots.as_ref().and_then(|outlook| outlook.growth(place)),
            invalidated: slot.invalidation(),
            inactive_since: slot.inactive_since.and_then(server_time_of_day),
            xmin_age: slot.xmin_age,
            catalog_xmin_age: slot.catalog_xmin_age,
            two_phase: slot.two_phase,
            failover: slot.failover,
            synced: slot.synced,
        }
    }
}

impl<'a> Statements<'a> {
    fn new(counters: &'a StatementCounters) -> Self {
        Self {
            databases: counters
                .databases
                .iter()
                .map(|database| Database {
                    datname: &database.datname,
                    totals: Totals::new(&database.totals),
                    others: Totals::new(&database.others),
                })
                .collect(),
            top: counters
                .top
                .iter()
                .map(|statement| TopStatement {
                    datname: &statement.datname,
                    queryid: statement.queryid.to_string(),
                    recent_calls: statement.recent_calls,
                    recent_exec_seconds: statement.recent_exec_seconds,
                    mean_exec_seconds: statement.mean_exec_seconds(),
                    text: statement.text.as_deref(),
                    totals: Totals::new(&statement.totals),
                })
                .collect(),
            evictions: counters.evictions,
            resets: counters.resets,
        }
    }
}

impl Totals {
    fn new(totals: &StatementTotals) -> Self {
        Self {
            calls: totals.calls,
            exec_seconds: totals.exec_seconds(),
            rows: totals.rows,
            shared_blocks_hit: totals.shared_blks_hit,
            shared_blocks_read: totals.shared_blks_read,
        }
    }
}

impl<'a> Alert<'a> {
    fn new(snapshot: &Snapshot, alert: &'a AlertView, now: MonoTime) -> Self {
        let time = |at: MonoTime| time_of_day(snapshot.wall_time(at));
        let told = explain(alert, snapshot.cluster(alert.id.cluster.as_str()).map(|cluster| &**cluster), now);
        let cause = told.diagnosis.as_ref().and_then(|found| found.causes.first());
        Self {
            rule: alert.id.rule.as_str(),
            cluster: alert.id.cluster.as_str(),
            target: alert.id.target.as_ref().map(super::super::core::topology::Name::as_str),
            labels: alert.id.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            severity: alert.severity.as_str(),
            state: alert.phase.as_str(),
            condition: &alert.condition,
            reading: alert.reading.and_then(finite),
            unit: alert.unit.as_str(),
            unknown: alert.is_unknown,
            active_at: time(alert.active_at),
            fired_at: alert.fired_at.and_then(time),
            resolved_at: alert.resolved_at.and_then(time),
            gone: alert.gone.map(Gone::as_str),
            says: told.state,
            summary: alert.summary.as_deref(),
            runbook: alert.runbook.as_deref(),
            cause: cause.map(|cause| cause.as_str()),
            remedy: cause.map(|cause| cause.remedy()),
            diagnosis: told.diagnosis.map(|found| found.sentence),
            details: told.details.into_iter().collect(),
            recent: alert.recent.iter().map(|(at, reading)| Reading { at: time(at), reading }).collect(),
            muted: alert.muted.iter().map(Muted::new).collect(),
        }
    }
}
