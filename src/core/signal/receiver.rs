//! Signals of a standby's WAL receiver, and of the clocks on both ends of its stream.

use super::row::{of_standby, per_target, positions};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::observation::{Positions, Receiver, WalReceiver};
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::time::MonoTime;

const NONE: &str = "No WAL receiver runs, no `pg_monitor`, on a primary, and while the last answer is stale.";

pub(super) const ROWS: &[Signal] = &[
    per_target("receiver_info", Unit::Bool, info)
        .labels(&["status", "sender_host", "sender_port", "slot"])
        .help("What the WAL receiver does and whom it receives from; always 1.")
        .absent(NONE)
        .from("pg_stat_wal_receiver"),
    per_target("receiver_written_position_bytes", Unit::Bytes, |_, target, now, emit| {
        of_receiver(target, now, emit, |receiver, _| Some(receiver.written_lsn?.as_u64() as f64))
    })
    .help("Up to where the WAL receiver has written, perhaps without a flush, as a number of bytes.")
    .absent(NONE)
    .from("pg_stat_wal_receiver.written_lsn"),
    per_target("receiver_flushed_position_bytes", Unit::Bytes, |_, target, now, emit| {
        of_receiver(target, now, emit, |receiver, _| Some(receiver.flushed_lsn?.as_u64() as f64))
    })
    .help("Up to where the WAL receiver has flushed, as a number of bytes.")
    .absent(NONE)
    .from("pg_stat_wal_receiver.flushed_lsn"),
    per_target("receiver_latest_end_position_bytes", Unit::Bytes, |_, target, now, emit| {
        of_receiver(target, now, emit, |receiver, _| Some(receiver.latest_end_lsn?.as_u64() as f64))
    })
    .help("The upstream's end of WAL by its last word, as a number of bytes.")
    .absent(NONE)
    .from("pg_stat_wal_receiver.latest_end_lsn"),
    per_target("receiver_latest_end_age_seconds", Unit::Seconds, |_, target, now, emit| {
        of_receiver(target, now, emit, latest_end_age)
    })
    .help("How long the upstream's end of WAL has stood still: by the upstream's clock up to its last message, by the standby's since.")
    .absent(NONE)
    .from("pg_stat_wal_receiver: latest_end_time, last_msg_send_time, last_msg_receipt_time"),
    per_target("receiver_timeline", Unit::Count, |_, target, now, emit| {
        of_receiver(target, now, emit, |receiver, _| Some(f64::from(receiver.timeline?.0)))
    })
    .help("The timeline of the WAL received last.")
    .absent(NONE)
    .from("pg_stat_wal_receiver.received_tli"),
    per_target("upstream_clock_skew_seconds", Unit::Seconds, upstream_clock_skew)
        .help("An upper estimate of how far the standby's clock is ahead of its upstream's (negative: behind): what the quickest message of the last minutes took from clock to clock, the way included.")
        .absent("No WAL receiver, no `pg_monitor`, nothing received for 10 min, on a primary, or the last answer is stale.")
        .from("pg_stat_wal_receiver: last_msg_send_time, last_msg_receipt_time"),
    per_target("clock_skew_seconds", Unit::Seconds, clock_skew)
        .help("How far the server's clock is ahead of pgvigil's (negative: behind), give or take half the time of a poll.")
        .absent("The last poll failed, or is stale.")
        .from("clock_timestamp()"),
];

/// Without a receiver there is nothing to state; of one that is hidden nothing is known.
fn of_receiver(
    target: &TargetView,
    now: MonoTime,
    emit: Emit<'_>,
    value: impl Fn(&WalReceiver, &Positions) -> Option<f64>,
) -> Coverage {
    if is_absent(target, now) {
        return Coverage::Complete;
    }
    of_standby(target, now, emit, |positions, standby| value(standby.receiver.running()?, positions))
}

fn is_absent(target: &TargetView, now: MonoTime) -> bool {
    let standby = positions(target, now).and_then(|positions| positions.standby());
    standby.is_some_and(|standby| standby.receiver.is_without_stream())
}

fn info(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(positions) = positions(target, now) else { return Coverage::Unknown };
    match positions.standby().map(|standby| &standby.receiver) {
        None | Some(Receiver::Absent) => Coverage::Complete,
        Some(Receiver::Connecting) => {
            emit(&["connecting", "", "", ""], Value::exact(1.0));
            Coverage::Complete
        }
        Some(Receiver::Hidden) => Coverage::Unknown,
        Some(Receiver::Running(receiver)) => {
            let port = receiver.sender_port.map(|port| port.to_string()).unwrap_or_default();
            let (host, slot) = (receiver.sender_host.as_deref(), receiver.slot_name.as_deref());
            let labels = [&receiver.status, host.unwrap_or_default(), &port, slot.unwrap_or_default()];
            emit(&labels, Value::exact(1.0));
            Coverage::Complete
        }
    }
}

/// Each difference is between two times of one clock.
fn latest_end_age(receiver: &WalReceiver, positions: &Positions) -> Option<f64> {
    let until_last_message = receiver.last_msg_sent_at?.seconds_since(receiver.latest_end_at?);
    let since_last_message = positions.clock.seconds_since(receiver.last_msg_received_at?);
    Some(until_last_message.max(0.0) + since_last_message.max(0.0))
}

fn upstream_clock_skew(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    match (positions(target, now), target.skew.of_upstream) {
        (Some(_), Some(upper)) => {
            emit(&[], Value { value: upper, lower: f64::NEG_INFINITY, upper });
            Coverage::Complete
        }
        (Some(positions), None) if positions.standby().is_none() => Coverage::Complete,
        _ => Coverage::Unknown,
    }
}

fn clock_skew(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    match (positions(target, now), target.skew.of_server) {
        (Some(_), Some((lower, upper))) => {
            emit(&[], Value { value: f64::midpoint(lower, upper), lower, upper });
            Coverage::Complete
        }
        _ => Coverage::Unknown,
    }
}
