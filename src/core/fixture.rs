//! Views made by hand, for tests of what reads them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::alert::{AlertId, AlertView, Phase, Recent, Severity};
use super::lag::{Certainty, Evidence, LagEstimate, Method};
use super::observation::{
    Flavor, Identity, PollFailure, Positions, PrimaryState, Receiver, ReplayPause, SenderState, ServerAddress,
    ServerState, StandbyState, StatementsAccess, WalReceiver, WalSender,
};
use super::pooler::{Pool, PoolDatabase, PoolTotals, PoolerFacts};
use super::signal::Unit;
use super::snapshot::{
    Answer, ClusterView, Failing, OwnLag, PoolerAnswer, PoolerView, Snapshot, Stages, SurveyView, TargetView,
};
use super::standby_settings::{Capacity, StandbySettings};
use super::statements::{DatabaseCounters, StatementCounters, StatementTotals, TopStatement};
use super::survey::{Activity, Alike, Holder, Sessions, Slot, SurveyFacts, Tally};
use super::time::{MonoTime, ServerTime};
use super::topology::{Name, TargetId};
use super::trend::{Direction, Trend};
use super::wal::{Lsn, Timeline, WalBytes};

/// The present of all fixtures.
pub(crate) const NOW: MonoTime = MonoTime::from_nanos(1_000_000_000_000);

/// 2026-11-20T12:00:00Z.
pub(crate) fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_176_000)
}

pub(crate) fn ago(seconds: f64) -> MonoTime {
    NOW.plus_seconds(-seconds)
}

pub(crate) fn server_time(seconds: i64) -> ServerTime {
    ServerTime::from_unix_micros((1_795_176_000 + seconds) * 1_000_000)
}

pub(crate) fn identity() -> Identity {
    Identity {
        version_num: 150_018,
        version: "15.18 (Debian 15.18-1)".to_owned(),
        flavor: Flavor::PostgreSql,
        system_identifier: Some(7_400_000_000_000_000_001),
        started_at: server_time(-86_400),
        cluster_name: String::new(),
        user: "pgvigil".to_owned(),
        reads_all_stats: true,
        statements: StatementsAccess::Readable { schema: "public".to_owned(), version: "1.10".to_owned() },
        tls: true,
        pooled: false,
        address: ServerAddress::default(),
        standby_settings: StandbySettings { capacity: Capacity::new(|_| Some(100)), recovery_target: None },
    }
}

pub(crate) fn sender(name: &str, state: Option<SenderState>) -> WalSender {
    WalSender {
        pid: 4711,
        application_name: Some(Arc::from(name)),
        client: None,
        sync_priority: None,
        state,
        sent_lsn: Some(Lsn::new(0x0300_0000)),
        write_lsn: Some(Lsn::new(0x0300_0000)),
        flush_lsn: Some(Lsn::new(0x0300_0000)),
        replay_lsn: Some(Lsn::new(0x02FF_FF00)),
        write_lag: Some(0.001),
        flush_lag: Some(0.002),
        replay_lag: Some(0.12),
        reply_time: Some(server_time(0)),
        sync_state: Some(Arc::from("async")),
    }
}

fn answer(state: ServerState, senders: Vec<WalSender>) -> Answer {
    Answer {
        asked_at: ago(0.502),
        answered_at: ago(0.5),
        positions: Arc::new(Positions {
            identity: Arc::new(identity()),
            clock: server_time(0),
            state,
            senders,
            sees_senders: true,
        }),
    }
}

/// A primary that answered half a second ago.
pub(crate) fn primary(cluster: &str, name: &str) -> TargetView {
    let state = PrimaryState { flush_lsn: Lsn::new(0x0300_0000), timeline: Timeline(3), checkpoint: None };
    let mut view = TargetView::new(TargetId::new(cluster, name), Duration::from_secs(10));
    view.answer = Some(answer(ServerState::Primary(state), vec![sender("replica-1", Some(SenderState::Streaming))]));
    view.survey = Some(survey());
    view.statements = Some(Arc::new(statements()));
    view.trend = Some(Trend { write_rate: Some(2_000_000.0), ..Trend::default() });
    view
}

/// A replica that answered half a second ago and lags by 0.12 s and 256 bytes.
pub(crate) fn replica(cluster: &str, name: &str) -> TargetView {
    let state = StandbyState {
        replay_lsn: Some(Lsn::new(0x02FF_FF00)),
        receive_lsn: Some(Lsn::new(0x0300_0000)),
        last_commit_replayed_at: Some(server_time(-1)),
        control_timeline: Some(Timeline(3)),
        pause: ReplayPause::NotPaused,
        receiver: Receiver::Running(WalReceiver {
            status: "streaming".to_owned(),
            timeline: Some(Timeline(3)),
            flushed_lsn: Some(Lsn::new(0x0300_0000)),
            written_lsn: None,
            latest_end_at: None,
            latest_end_lsn: Some(Lsn::new(0x0300_0000)),
            last_msg_sent_at: Some(server_time(-2)),
            last_msg_received_at: Some(server_time(-2)),
            sender_host: Some("10.0.0.1".to_owned()),
            sender_port: Some(5432),
            slot_name: None,
        }),
        wait: None,
    };
    let mut view = TargetView::new(TargetId::new(cluster, name), Duration::from_secs(10));
    view.answer = Some(answer(ServerState::Standby(state), Vec::new()));
    view.lag = Some(lag(0.12, 0.1, 0.15, Certainty::Exact, Evidence::LsnAndTimestamp));
    view.stages = Some(Stages {
        unsent: Some(WalBytes(0)),
        unreceived: Some(WalBytes(0)),
        unflushed: Some(WalBytes(0)),
        unreplayed: Some(WalBytes(256)),
        own_lag: OwnLag { write_us: Some(1000), flush_us: Some(2000), replay_us: Some(120_000) },
    });
    view.trend = Some(Trend {
        receive_rate: Some(2_000_000.0),
        replay_rate: Some(1_999_900.0),
        direction: Some(Direction::Holding),
        catch_up_seconds: Some(0.0),
        standing_seconds: Some(0.0),
        stalled: Some(false),
        write_rate: None,
    });
    view
}

pub(crate) fn lag(value: f64, lower: f64, upper: f64, certainty: Certainty, evidence: Evidence) -> LagEstimate {
    LagEstimate { value: Some(value), lower, upper, certainty, method: method(evidence) }
}

pub(crate) fn unknown_lag(evidence: Evidence) -> LagEstimate {
    LagEstimate {
        value: None,
        lower: 0.0,
        upper: f64::INFINITY,
        certainty: Certainty::Unknown,
        method: method(evidence),
    }
}

pub(crate) fn method(evidence: Evidence) -> Method {
    Method { evidence, last_known: false, upstream: false, old_timeline: false, primary_lost: false }
}

/// Polls fail since ten seconds; the last answer is as old as that.
pub(crate) fn fail(view: &mut TargetView, failure: PollFailure) {
    view.failing = Some(Failing { since: ago(10.0), last_at: ago(0.2), failure, count: 10 });
    age(view, 10.5);
}

/// The last answer and the last survey are this old.
pub(crate) fn age(view: &mut TargetView, seconds: f64) {
    if let Some(answer) = &mut view.answer {
        answer.answered_at = ago(seconds);
        answer.asked_at = ago(seconds + 0.002);
    }
    if let Some(survey) = &mut view.survey {
        survey.asked_at = ago(seconds + 0.01);
        survey.answered_at = ago(seconds);
    }
}

pub(crate) fn slot(name: &str, active: bool) -> Slot {
    Slot {
        name: name.to_owned(),
        slot_type: "physical",
        active,
        active_pid: active.then_some(4711),
        restart_lsn: Some(Lsn::new(0x0200_0000)),
        wal_status: Some("reserved"),
        retained_bytes: Some(0x0100_0000),
        ..Slot::default()
    }
}

pub(crate) fn survey() -> SurveyView {
    let by_state = [("active", 3), ("idle", 40), ("idle in transaction", 2), ("unknown", 1)];
    SurveyView {
        asked_at: ago(4.01),
        answered_at: ago(4.0),
        facts: Arc::new(SurveyFacts {
            sessions: Some(Sessions {
                by_state: by_state.map(|(state, count)| (state.to_owned(), count)).to_vec(),
                total: 46,
                max_connections: 100,
                reserved_connections: 8,
                superuser_reserved_connections: 3,
                by_user: tally(&[("app", 40), ("report", 5)], 1),
                by_application: tally(&[("web", 30), ("nightly", 16)], 0),
                by_client: tally(&[("10.0.0.5", 40), ("local", 6)], 0),
                by_database: Some(tally(&[("app", 46)], 0)),
                by_database_and_state: [
                    ("active", 3, Some(90.5)),
                    ("idle", 40, None),
                    ("idle in transaction", 2, Some(30.25)),
                ]
                .map(|(state, count, oldest_transaction_seconds)| Alike {
                    database: "app".to_owned(),
                    state: state.to_owned(),
                    count,
                    oldest_transaction_seconds,
                })
                .to_vec(),
                hidden: 0,
                activity: Some(Box::new(Activity {
                    idle_in_transaction: 2,
                    idle_long: 7,
                    waiting_on_locks: 1,
                    longest_lock_wait: Some(1.5),
                    lock_holder: None,
                    oldest_transaction: Some(holder(90.5, "active")),
                    idle_transaction: Some(holder(30.25, "idle in transaction")),
                })),
            }),
            slots: Some(vec![slot("replica_1", true), slot("debezium", false)]),
            apply_delay_seconds: Some(0.0),
            ..SurveyFacts::default()
        }),
        stale_after: Duration::from_secs(45),
    }
}

pub(crate) fn tally(named: &[(&str, u64)], others: u64) -> Tally {
    let named = named.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    Tally { named, others, n_others: others }
}

pub(crate) fn holder(seconds: f64, state: &str) -> Holder {
    Holder {
        pid: Some(4711),
        seconds,
        user: "report".to_owned(),
        application: "nightly".to_owned(),
        state: state.to_owned(),
        database: Some("app".to_owned()),
    }
}

pub(crate) fn change_survey(view: &mut TargetView, change: impl FnOnce(&mut SurveyFacts)) {
    change(Arc::make_mut(&mut view.survey.get_or_insert_with(survey).facts));
}

pub(crate) fn change_sessions(view: &mut TargetView, change: impl FnOnce(&mut Sessions)) {
    change_survey(view, |survey| change(survey.sessions.as_mut().expect("has sessions")));
}

pub(crate) fn change_positions(view: &mut TargetView, change: impl FnOnce(&mut Positions)) {
    change(Arc::make_mut(&mut view.answer.as_mut().expect("has an answer").positions));
}

pub(crate) fn change_identity(view: &mut TargetView, change: impl FnOnce(&mut Identity)) {
    change_positions(view, |positions| change(Arc::make_mut(&mut positions.identity)));
}

pub(crate) fn change_standby(view: &mut TargetView, change: impl FnOnce(&mut StandbyState)) {
    change_positions(view, |positions| match &mut positions.state {
        ServerState::Standby(standby) => change(standby),
        ServerState::Primary(_) | ServerState::Aurora(_) => panic!("not a standby"),
    });
}

pub(crate) fn statements() -> StatementCounters {
    let totals = |calls| StatementTotals {
        calls,
        exec_us: 250_000 * calls,
        rows: 2 * calls,
        shared_blks_hit: 10 * calls,
        shared_blks_read: calls,
        ..StatementTotals::default()
    };
    StatementCounters {
        databases: vec![
            DatabaseCounters { datname: Arc::from("app"), totals: totals(100), others: totals(31) },
            DatabaseCounters { datname: Arc::from("postgres"), totals: totals(1), others: totals(1) },
        ],
        top: vec![
            TopStatement {
                datname: Arc::from("app"),
                queryid: -77,
                totals: totals(60),
                recent_calls: 6,
                recent_exec_seconds: 1.5,
                text: Some(Arc::from("SELECT $1")),
            },
            TopStatement {
                datname: Arc::from("app"),
                queryid: 42,
                totals: totals(9),
                recent_calls: 0,
                recent_exec_seconds: 0.0,
                text: None,
            },
        ],
        left_out: 3,
        evictions: Some(5),
        resets: 1,
    }
}

pub(crate) fn alert(rule: &str, severity: Severity, phase: Phase, labels: &[(&str, &str)]) -> AlertView {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    AlertView {
        id: AlertId {
            rule: Name::new(rule),
            cluster: Name::new("orders"),
            target: Some(Name::new("replica-1")),
            labels: labels.iter().map(owned).collect(),
        },
        severity,
        phase,
        active_at: ago(90.0),
        fired_at: (phase != Phase::Pending).then(|| ago(30.0)),
        resolved_at: (phase == Phase::Resolved).then(|| ago(5.0)),
        reading: Some(6.5),
        is_unknown: false,
        condition: "replay_lag_seconds > 5s".to_owned(),
        unit: Unit::Seconds,
        gone: None,
        recent: Recent::default(),
        rule_labels: vec![],
        summary: None,
        runbook: None,
        muted: vec![],
    }
}

/// The first target, when it is a primary, is the cluster's.
pub(crate) fn cluster(name: &str, targets: Vec<TargetView>, alerts: Vec<AlertView>) -> ClusterView {
    let primary = targets
        .iter()
        .find(|target| target.last_role() == Some(super::topology::Role::Primary))
        .map(|target| target.id.target.clone());
    ClusterView {
        name: Name::new(name),
        primary,
        index: Arc::new(targets.iter().enumerate().map(|(i, target)| (target.id.target.clone(), i)).collect()),
        targets: targets.into_iter().map(Arc::new).collect(),
        poolers: Vec::new(),
        redis: Arc::from([]),
        cloudwatch: Arc::default(),
        alerts: Arc::from(alerts),
        events: Arc::from([]),
        rds_events: Arc::default(),
    }
}

pub(crate) fn snapshot(clusters: Vec<ClusterView>) -> Snapshot {
    let index: HashMap<Name, usize> = clusters.iter().enumerate().map(|(i, c)| (c.name.clone(), i)).collect();
    Snapshot {
        published_at: ago(0.02),
        wall: wall(),
        clusters: clusters.into_iter().map(Arc::new).collect(),
        index: Arc::new(index),
        alerts: Arc::default(),
        discoveries: Arc::default(),
        silences: Arc::default(),
        drains: Arc::default(),
    }
}

/// One healthy cluster `orders`: `primary`, `replica-1`, `replica-2`.
pub(crate) fn orders() -> Vec<TargetView> {
    vec![primary("orders", "primary"), replica("orders", "replica-1"), replica("orders", "replica-2")]
}

/// The same snapshot, as it would be had everything happened so that `now` is the present.
pub(crate) fn moved_to(mut snapshot: Snapshot, now: MonoTime) -> Snapshot {
    let shift = |at: &mut MonoTime| *at = MonoTime::from_nanos(at.as_nanos() - NOW.as_nanos() + now.as_nanos());
    shift(&mut snapshot.published_at);
    for cluster in &mut snapshot.clusters {
        let cluster = Arc::make_mut(cluster);
        let mut alerts = cluster.alerts.to_vec();
        for alert in &mut alerts {
            shift(&mut alert.active_at);
            alert.fired_at.iter_mut().chain(&mut alert.resolved_at).for_each(shift);
        }
        cluster.alerts = Arc::from(alerts);
        for target in &mut cluster.targets {
            let target = Arc::make_mut(target);
            if let Some(answer) = &mut target.answer {
                shift(&mut answer.asked_at);
                shift(&mut answer.answered_at);
            }
            for failing in target.failing.iter_mut().chain(&mut target.survey_failing) {
                shift(&mut failing.since);
                shift(&mut failing.last_at);
            }
            target.survey.iter_mut().for_each(|survey| shift(&mut survey.answered_at));
        }
        for pooler in &mut cluster.poolers {
            let pooler = Arc::make_mut(pooler);
            pooler.answer.iter_mut().for_each(|answer| shift(&mut answer.answered_at));
        }
    }
    snapshot
}

/// A pooler that answered half a second ago: a pool of two, of which one is used, and another whose clients wait.
pub(crate) fn pooler(cluster: &str, name: &str) -> PoolerView {
    let pool = |database: &str, waiting: u64, wait: f64| Pool {
        database: database.to_owned(),
        user: "app".to_owned(),
        clients_active: 3,
        clients_waiting: waiting,
        servers_active: 1,
        servers_idle: 1,
        longest_wait: wait,
        ..Pool::default()
    };
    let database = |name: &str, pool_size, paused| PoolDatabase {
        name: name.to_owned(),
        pool_size: Some(pool_size),
        current_connections: Some(2),
        max_connections: None,
        paused,
        disabled: false,
    };
    let totals =
        PoolTotals { transactions: Some(10), queries: Some(20), wait_us: Some(1_500_000), ..PoolTotals::default() };
    let facts = PoolerFacts {
        version: Some("1.18.0".to_owned()),
        tls: true,
        pools: vec![pool("app", 0, 0.0), pool("reports", 4, 7.25)],
        databases: vec![database("app", 2, false), database("reports", 1, true)],
        totals: Vec::new(),
        unread: None,
    };
    let mut view = PoolerView::new(TargetId::new(cluster, name), Duration::from_secs(15));
    view.answer = Some(PoolerAnswer {
        answered_at: ago(0.5),
        facts: Arc::new(facts.bounded()),
        counters: Arc::from([("app".to_owned(), totals)]),
    });
    view
}
