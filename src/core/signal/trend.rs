//! Signals of how fast WAL moves, and where that leads.

use super::row::{bool_value, of_standby, per_target, positions, state};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::time::MonoTime;
use crate::core::topology::Role;
use crate::core::trend::{Direction, Trend};

const RATE: &str = "On a primary, before two samples, and while the last answer is stale.";
const DIRECTION: &str =
    "On a primary, in the first seconds, while the primary is not heard, and while the last answer is stale.";

pub(super) const ROWS: &[Signal] = &[
    per_target("wal_write_bytes_per_second", Unit::BytesPerSecond, write_rate)
        .help("WAL that the primary writes, averaged over 15 seconds.")
        .absent("On a replica, before two samples, and while the last answer is stale.")
        .from("pg_current_wal_flush_lsn()"),
    per_target("wal_receive_bytes_per_second", Unit::BytesPerSecond, receive_rate)
        .help("WAL that the replica receives, averaged over 15 seconds.")
        .absent(RATE)
        .from("pg_last_wal_receive_lsn(), pg_stat_wal_receiver.flushed_lsn"),
    per_target("wal_replay_bytes_per_second", Unit::BytesPerSecond, replay_rate)
        .help("WAL that the replica replays, averaged over 15 seconds.")
        .absent(RATE)
        .from("pg_last_wal_replay_lsn()"),
    per_target("lag_direction", Unit::Bool, lag_direction)
        .labels(&["direction"])
        .help("Where the WAL between the primary and the replica goes: falling_behind, holding (also when caught up) or catching_up; always 1.")
        .absent(DIRECTION)
        .from("pgvigil"),
    per_target("catch_up_seconds", Unit::Seconds, catch_up)
        .says("will have caught up in {}")
        .help("Time until the replica will have caught up at its present rate; 0 when it has.")
        .absent("The replica does not catch up, and as `pgvigil_lag_direction`.")
        .from("pgvigil"),
    per_target("replay_stalled", Unit::Bool, stalled)
        .states("replays WAL", "has stopped to replay, though there is WAL")
        .help("1 when replay has not moved for 5 seconds and three polls though there is WAL to replay.")
        .absent("On a primary, and while the last answer is stale.")
        .from("pg_last_wal_replay_lsn()"),
    per_target("replay_stalled_seconds", Unit::Seconds, standing)
        .says("has not replayed anything for {}, though there is WAL")
        .help("Time for which replay has not moved though there is WAL to replay; 0 while it moves or has nothing to do.")
        .absent("On a primary, and while the last answer is stale.")
        .from("pg_last_wal_replay_lsn()"),
    per_target("replay_chunk_age_seconds", Unit::Seconds, chunk_age)
        .says("replays WAL that came {} ago")
        .help("How long ago the piece of streamed WAL that is being replayed came to replay, by the replica's clock; 0 when all that was received is replayed.")
        .absent("On a primary, before 19, without pg_read_all_stats, when nothing was streamed since the server started, and while the last slow poll is stale.")
        .from("pg_stat_recovery: current_chunk_start_time"),
];

/// States a part of the trend of a server in this role. In the other role there is nothing to state.
fn of_trend(
    target: &TargetView,
    role: Role,
    now: MonoTime,
    emit: Emit<'_>,
    part: impl Fn(&Trend) -> Option<f64>,
) -> Coverage {
    match positions(target, now) {
        None => Coverage::Unknown,
        Some(positions) if positions.role() != role => Coverage::Complete,
        Some(_) => state(emit, target.trend.as_ref().and_then(part)),
    }
}

fn write_rate(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_trend(target, Role::Primary, now, emit, |trend| trend.write_rate)
}

fn receive_rate(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_trend(target, Role::Replica, now, emit, |trend| trend.receive_rate)
}

fn replay_rate(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_trend(target, Role::Replica, now, emit, |trend| trend.replay_rate)
}

fn lag_direction(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let direction = target.trend.and_then(|trend| trend.direction);
    let mut labelled = |_: &[&str], value: Value| emit(&[direction.map_or("", Direction::as_str)], value);
    of_trend(target, Role::Replica, now, &mut labelled, |trend| trend.direction.map(|_| 1.0))
}

/// A replica that is behind and does not catch up has no time: that does not clear an alert about too long a one.
fn catch_up(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_trend(target, Role::Replica, now, emit, |trend| trend.catch_up_seconds)
}

fn stalled(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_trend(target, Role::Replica, now, emit, |trend| trend.stalled.map(bool_value))
}

fn standing(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_trend(target, Role::Replica, now, emit, |trend| trend.standing_seconds)
}

fn chunk_age(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_standby(target, now, emit, |_, _| target.fresh_survey(now)?.recovery.as_ref()?.chunk_age_seconds)
}
