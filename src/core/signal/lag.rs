//! Signals of replication to and from a target: the lag, its stages, what the receiver and the senders say.

use super::row::{bool_value, of_standby, per_target, positions, state};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::lag::{Evidence, LagEstimate, Method};
use crate::core::observation::{ReplayPause, SenderState};
use crate::core::snapshot::{ClusterView, Stages, TargetView};
use crate::core::time::MonoTime;
use crate::core::topology::Role;
use crate::core::wal::WalBytes;

const STANDBY: &str = "On a primary, and while the last answer is stale.";
const LAG: &str = "On a primary, and when the lag is not known (`pgvigil_replay_lag_info` says why).";
const STAGE: &str = "On a primary, and when either position is not known.";
const OWN: &str = "Caught up and idle (NULL in the view), no row for the replica, or no `pg_monitor` upstream.";

const SENDER_STATES: [(SenderState, &str); 5] = [
    (SenderState::Startup, "startup"),
    (SenderState::Catchup, "catchup"),
    (SenderState::Streaming, "streaming"),
    (SenderState::Backup, "backup"),
    (SenderState::Stopping, "stopping"),
];

pub(super) const ROWS: &[Signal] = &[
    per_target("replay_lag_seconds", Unit::Seconds, replay_lag)
        .says("is {} behind its primary")
        .help("Age of the oldest WAL that the primary has flushed and the replica has not replayed; 0 when it has replayed everything.")
        .absent(LAG)
        .from("pgvigil's history of the primary's flush LSN"),
    per_target("replay_lag_lower_seconds", Unit::Seconds, replay_lag_lower)
        .says("is at least {} behind its primary")
        .help("Proven lower bound of the replay lag.")
        .absent(LAG)
        .from("pgvigil's history of the primary's flush LSN"),
    per_target("replay_lag_upper_seconds", Unit::Seconds, replay_lag_upper)
        .says("may be up to {} behind its primary")
        .help("Proven upper bound of the replay lag; +Inf when there is none.")
        .absent(LAG)
        .from("pgvigil's history of the primary's flush LSN"),
    per_target("replay_lag_info", Unit::Bool, replay_lag_info)
        .labels(&["certainty", "method"])
        .help("How sure the replay lag is and how it was found; always 1.")
        .absent("On a primary, and before anything can be said.")
        .from("pgvigil"),
    per_target("send_lag_bytes", Unit::Bytes, send_lag_bytes)
        .says("was not sent {} of WAL")
        .help("WAL that the primary has flushed and the replica's upstream has not sent to it.")
        .absent(STAGE)
        .from("pg_stat_replication.sent_lsn"),
    per_target("receive_lag_bytes", Unit::Bytes, receive_lag_bytes)
        .says("has not received {} of WAL")
        .help("WAL that the primary has flushed and the replica has not received.")
        .absent(STAGE)
        .from("pg_stat_replication.write_lsn, pg_last_wal_receive_lsn()"),
    per_target("flush_lag_bytes", Unit::Bytes, flush_lag_bytes)
        .says("has not flushed {} of WAL")
        .help("WAL that the primary has flushed and the replica has not flushed to its disk.")
        .absent(STAGE)
        .from("pg_stat_replication.flush_lsn, pg_last_wal_receive_lsn()"),
    per_target("replay_lag_bytes", Unit::Bytes, replay_lag_bytes)
        .says("has not replayed {} of WAL")
        .help("WAL that the primary has flushed and the replica has not replayed.")
        .absent(STAGE)
        .from("pg_last_wal_replay_lsn()"),
    per_target("sender_write_lag_seconds", Unit::Seconds, sender_write_lag)
        .help("PostgreSQL's own measurement of the past: write_lag that the replica's upstream last saw.")
        .absent(OWN)
        .from("pg_stat_replication.write_lag"),
    per_target("sender_flush_lag_seconds", Unit::Seconds, sender_flush_lag)
        .help("PostgreSQL's own measurement of the past: flush_lag that the replica's upstream last saw.")
        .absent(OWN)
        .from("pg_stat_replication.flush_lag"),
    per_target("sender_replay_lag_seconds", Unit::Seconds, sender_replay_lag)
        .help("PostgreSQL's own measurement of the past: replay_lag that the replica's upstream last saw.")
        .absent(OWN)
        .from("pg_stat_replication.replay_lag"),
    per_target("receiver_running", Unit::Bool, receiver_running)
        .states("receives no WAL: no WAL receiver runs, or none has reached the upstream", "receives WAL")
        .help("1 while a WAL receiver runs on the replica; 0 also while it has not reached its upstream, which without pg_monitor cannot be seen on 19+.")
        .absent("On a primary; for a replica that is configured to get its WAL from an archive alone, and while that is not known; while the last answer is stale.")
        .from("pg_stat_wal_receiver"),
    per_target("receiver_message_age_seconds", Unit::Seconds, receiver_message_age)
        .says("heard last from its upstream {} ago")
        .help("Age of the last message from the upstream, by the replica's clock; an idle stream is silent for up to 30 s.")
        .absent("No WAL receiver runs, no `pg_monitor`, on a primary, and while the last answer is stale.")
        .from("pg_stat_wal_receiver.last_msg_receipt_time"),
    per_target("replay_paused", Unit::Bool, replay_paused)
        .states("replays WAL", "has its replay paused")
        .help("1 while replay is paused, or a pause is requested.")
        .absent(STANDBY)
        .from("pg_get_wal_replay_pause_state()"),
    per_target("apply_delay_seconds", Unit::Seconds, apply_delay)
        .says("is configured to replay {} late")
        .help("The delay that the replica is configured to replay with; contained in its replay lag.")
        .absent("On a primary, and while the last slow poll is stale.")
        .from("recovery_min_apply_delay"),
    per_target("wal_senders", Unit::Count, wal_senders)
        .labels(&["state"])
        .help("Standbys connected to this server, by the state of their WAL sender; unknown without pg_monitor.")
        .absent("The last answer is stale; a state that no sender is in, except streaming, which is then 0 if all senders' states may be seen.")
        .from("pg_stat_replication"),
];

/// The estimate, while someone keeps it up to date: the target answers, or is known to be silent.
fn estimate(target: &TargetView, now: MonoTime) -> Option<&LagEstimate> {
    target.lag.as_ref().filter(|_| target.is_attended(now))
}

/// Nothing is stated about the lag: because there is none to state, or because it is not known.
fn silence_about_lag(target: &TargetView, now: MonoTime) -> Coverage {
    match positions(target, now) {
        Some(positions) if target.is_up() && positions.role() == Role::Primary => Coverage::Complete,
        _ => Coverage::Unknown,
    }
}

fn of_lag(target: &TargetView, now: MonoTime, emit: Emit<'_>, part: impl Fn(&LagEstimate, f64) -> Value) -> Coverage {
    let stated = estimate(target, now).and_then(|lag| Some((lag, lag.value?)));
    match stated {
        Some((lag, value)) => {
            emit(&[], part(lag, value));
            Coverage::Complete
        }
        None => silence_about_lag(target, now),
    }
}

fn replay_lag(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_lag(target, now, emit, |lag, value| Value { value, lower: lag.lower, upper: lag.upper })
}

fn replay_lag_lower(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_lag(target, now, emit, |lag, _| Value::exact(lag.lower))
}

fn replay_lag_upper(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_lag(target, now, emit, |lag, _| Value::exact(lag.upper))
}

fn replay_lag_info(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(lag) = estimate(target, now) else { return silence_about_lag(target, now) };
    if lag.method.evidence == Evidence::OtherPrimary && !target.is_up() {
        return Coverage::Unknown;
    }
    emit(&[lag.certainty.as_str(), &lag.method.to_string()], Value::exact(1.0));
    Coverage::Complete
}

/// Bytes have the bounds of the positions they are the difference of: the primary may have written more since it was last
/// heard, and a silent replica may have replayed more.
fn of_stages(
    cluster: &ClusterView,
    target: &TargetView,
    now: MonoTime,
    emit: Emit<'_>,
    part: impl Fn(&Stages) -> Option<WalBytes>,
) -> Coverage {
    let stages = target.stages.as_ref().filter(|_| target.is_attended(now));
    let Some(bytes) = stages.and_then(part) else { return silence_about_lag(target, now) };
    let value = bytes.0 as f64;
    let method = target.lag.map(|lag| lag.method);
    let is_silent = target.failing.is_some() || method.is_some_and(|method| method.last_known || method.upstream);
    let lacks_primary = !cluster.hears_primary(now) || method.is_some_and(Method::is_without_primary);
    let lower = if is_silent { 0.0 } else { value };
    let upper = if lacks_primary { f64::INFINITY } else { value };
    emit(&[], Value { value, lower, upper });
    Coverage::Complete
}

fn send_lag_bytes(cluster: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_stages(cluster, target, now, emit, |stages| stages.unsent)
}

fn receive_lag_bytes(cluster: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_stages(cluster, target, now, emit, |stages| stages.unreceived)
}

fn flush_lag_bytes(cluster: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_stages(cluster, target, now, emit, |stages| stages.unflushed)
}

fn replay_lag_bytes(cluster: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_stages(cluster, target, now, emit, |stages| stages.unreplayed)
}

/// PostgreSQL's own measurement. With a row in hand NULL means caught up and idle; without one it is unknown.
fn of_own_lag(target: &TargetView, now: MonoTime, emit: Emit<'_>, part: impl Fn(&Stages) -> Option<i64>) -> Coverage {
    let Some(stages) = target.stages.as_ref().filter(|_| target.fresh(now).is_some()) else {
        return silence_about_lag(target, now);
    };
    match part(stages) {
        Some(micros) => state(emit, Some(micros as f64 / 1e6)),
        None if stages.unsent.is_some() => Coverage::Complete,
        None => Coverage::Unknown,
    }
}

fn sender_write_lag(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_own_lag(target, now, emit, |stages| stages.own_lag.write_us)
}

fn sender_flush_lag(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_own_lag(target, now, emit, |stages| stages.own_lag.flush_us)
}

fn sender_replay_lag(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_own_lag(target, now, emit, |stages| stages.own_lag.replay_us)
}

fn receiver_running(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    match target.is_fed_by_archive() {
        Some(true) if positions(target, now).is_some() => Coverage::Complete,
        Some(_) => of_standby(target, now, emit, |_, standby| Some(bool_value(!standby.receiver.is_without_stream()))),
        None => of_standby(target, now, emit, |_, _| None),
    }
}

fn receiver_message_age(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_standby(target, now, emit, |positions, standby| {
        let received_at = standby.receiver.running()?.last_msg_received_at?;
        Some(positions.clock.seconds_since(received_at).max(0.0))
    })
}

fn replay_paused(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_standby(target, now, emit, |_, standby| Some(bool_value(standby.pause != ReplayPause::NotPaused)))
}

fn apply_delay(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_standby(target, now, emit, |_, _| target.fresh_survey(now)?.apply_delay_seconds)
}

fn wal_senders(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(positions) = positions(target, now) else { return Coverage::Unknown };
    let count = |state: Option<SenderState>| positions.senders.iter().filter(|sender| sender.state == state).count();
    let hidden = count(None);
    for (sender_state, label) in SENDER_STATES {
        let n_senders = count(Some(sender_state));
        // Zero is worth a word where replicas should be streaming, unless one of those that may not be seen may be.
        if n_senders > 0 || (sender_state == SenderState::Streaming && hidden == 0) {
            emit(&[label], Value::exact(n_senders as f64));
        }
    }
    if hidden > 0 {
        emit(&["unknown"], Value::exact(hidden as f64));
        return Coverage::Unknown;
    }
    Coverage::Complete
}
