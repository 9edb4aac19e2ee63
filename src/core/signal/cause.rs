//! Signals of why a replica lags.

use super::row::{bool_value, of_standby, per_target, positions};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::observation::{ReplayPause, StandbyState, WaitsOn};
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::time::MonoTime;
use crate::core::topology::Role;

const WAIT: &str = "pg_locks, pg_stat_activity";

pub(super) const ROWS: &[Signal] = &[
    per_target("replication_cause", Unit::Bool, replication_cause)
        .labels(&["cause"])
        .says("lags: {cause}")
        .none("does not lag for this cause any more")
        .help("Why the replica lags: 1 for the cause to act on first; docs/src/causes.md lists them all.")
        .absent("The replica does not lag, on a primary, and while the last answer is stale.")
        .from("pgvigil"),
    per_target("replay_blocked", Unit::Bool, replay_blocked)
        .states("is not held up by any session", "waits with its replay for a session to end")
        .help("1 while replay waits for a session on the replica to end its query or transaction.")
        .absent("On a primary, while the last answer is stale, and while replay stands and why is not known.")
        .from(WAIT),
    per_target("replay_blocked_seconds", Unit::Seconds, replay_blocked_seconds)
        .says("waits with its replay for a transaction that is open for {}")
        .help("Age of the transaction that replay waits for; 0 when it waits for none.")
        .absent("As `pgvigil_replay_blocked`, and without `pg_monitor`.")
        .from(WAIT),
    per_target("recovery_conflicts_total", Unit::Count, conflicts)
        .labels(&["type"])
        .counter()
        .help("Queries on the replica that replay has ended rather than wait for them, by what they were in the way with.")
        .absent("On a primary, and while the last slow poll is stale.")
        .from("pg_stat_database_conflicts"),
];

fn replication_cause(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let diagnosis = target.diagnosis.as_ref().filter(|_| target.is_attended(now));
    if let Some(told) = diagnosis.and_then(|diagnosis| diagnosis.cause()) {
        emit(&[told.cause.as_str()], Value::exact(1.0));
        return Coverage::Complete;
    }
    let is_known = target.is_up()
        && positions(target, now).is_some_and(|positions| {
            positions.role() == Role::Primary || target.lag.is_some_and(|lag| lag.value.is_some())
        });
    if is_known { Coverage::Complete } else { Coverage::Unknown }
}

/// `None` while replay stands and what it waits for may not be seen, or was not asked yet.
fn is_blocked(target: &TargetView, standby: &StandbyState) -> Option<bool> {
    let stands = target.trend.and_then(|trend| trend.standing_seconds).is_some_and(|seconds| seconds > 0.0);
    match standby.wait.as_ref().map(|wait| wait.on) {
        None => (!stands || standby.pause == ReplayPause::Paused).then_some(false),
        Some(WaitsOn::Hidden) => None,
        Some(on) => Some(on.is_conflict()),
    }
}

fn replay_blocked(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_standby(target, now, emit, |_, standby| is_blocked(target, standby).map(bool_value))
}

fn replay_blocked_seconds(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_standby(target, now, emit, |positions, standby| {
        if !is_blocked(target, standby)? {
            return Some(0.0);
        }
        let since = standby.wait.as_ref()?.blocker.as_ref()?.since?;
        Some(positions.clock.seconds_since(since).max(0.0))
    })
}

fn conflicts(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(answer) = positions(target, now) else { return Coverage::Unknown };
    if answer.role() == Role::Primary {
        return Coverage::Complete;
    }
    let Some(conflicts) = target.fresh_survey(now).and_then(|survey| survey.conflicts) else {
        return Coverage::Unknown;
    };
    for (kind, count) in [
        ("tablespace", Some(conflicts.tablespace)),
        ("lock", Some(conflicts.lock)),
        ("snapshot", Some(conflicts.snapshot)),
        ("bufferpin", Some(conflicts.bufferpin)),
        ("deadlock", Some(conflicts.deadlock)),
        ("logical_slot", conflicts.logical_slot),
    ] {
        if let Some(count) = count {
            emit(&[kind], Value::exact(count as f64));
        }
    }
    Coverage::Complete
}
