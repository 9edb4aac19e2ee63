//! Signals of the standbys, subscribers and backups that a target sends WAL to, as the target sees them.

use super::row::{per_target, positions};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::observation::{Positions, SenderState, WalSender};
use crate::core::senders::{SenderGroup, behind, end_of_wal, groups};
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::survey::BaseBackup;
use crate::core::time::{MonoTime, ServerTime};
use crate::core::wal::Lsn;

const NONE: &str = "No such sender, no `pg_monitor`, or the last answer is stale.";
const STAGE: &str = "The sender neither streams nor catches up; its receiver does not report it; no `pg_monitor`; the last answer is stale.";
const OWN: &str = "Caught up and idle (NULL in the view), no `pg_monitor`, or the last answer is stale.";

/// Labels that tell one from another. Senders that have all three in common are told as one, by the worst of them.
const NAME: &[&str] = &["application_name", "client_addr", "slot"];

pub(super) const ROWS: &[Signal] = &[
    per_target("wal_sender_info", Unit::Count, info)
        .labels(&["application_name", "client_addr", "slot", "state", "sync_state"])
        .help("WAL senders by whom they send to; the longest connected by name, the rest as other.")
        .absent("No such sender, or the last answer is stale.")
        .from("pg_stat_replication, pg_replication_slots.active_pid"),
    per_target("wal_sender_unsent_bytes", Unit::Bytes, |_, target, now, emit| {
        of_stage(target, now, emit, |sender| sender.sent_lsn)
    })
    .labels(NAME)
    .help("WAL of this server that the sender has not sent.")
    .absent(STAGE)
    .from("pg_stat_replication.sent_lsn"),
    per_target("wal_sender_unwritten_bytes", Unit::Bytes, |_, target, now, emit| {
        of_stage(target, now, emit, |sender| sender.write_lsn)
    })
    .labels(NAME)
    .help("WAL of this server that the sender's receiver has not written.")
    .absent(STAGE)
    .from("pg_stat_replication.write_lsn"),
    per_target("wal_sender_unflushed_bytes", Unit::Bytes, |_, target, now, emit| {
        of_stage(target, now, emit, |sender| sender.flush_lsn)
    })
    .labels(NAME)
    .help("WAL of this server that the sender's receiver has not flushed.")
    .absent(STAGE)
    .from("pg_stat_replication.flush_lsn"),
    per_target("wal_sender_unreplayed_bytes", Unit::Bytes, |_, target, now, emit| {
        of_stage(target, now, emit, |sender| sender.replay_lsn)
    })
    .labels(NAME)
    .help("WAL of this server that the sender's receiver has not replayed.")
    .absent(STAGE)
    .from("pg_stat_replication.replay_lsn"),
    per_target("wal_sender_write_lag_seconds", Unit::Seconds, |_, target, now, emit| {
        of_groups(target, now, emit, |group, _| group.worst(|sender| sender.write_lag))
    })
    .labels(NAME)
    .help("PostgreSQL's own measurement of the past: write_lag.")
    .absent(OWN)
    .from("pg_stat_replication.write_lag"),
    per_target("wal_sender_flush_lag_seconds", Unit::Seconds, |_, target, now, emit| {
        of_groups(target, now, emit, |group, _| group.worst(|sender| sender.flush_lag))
    })
    .labels(NAME)
    .help("PostgreSQL's own measurement of the past: flush_lag.")
    .absent(OWN)
    .from("pg_stat_replication.flush_lag"),
    per_target("wal_sender_replay_lag_seconds", Unit::Seconds, |_, target, now, emit| {
        of_groups(target, now, emit, |group, _| group.worst(|sender| sender.replay_lag))
    })
    .labels(NAME)
    .help("PostgreSQL's own measurement of the past: replay_lag.")
    .absent(OWN)
    .from("pg_stat_replication.replay_lag"),
    per_target("wal_sender_reply_age_seconds", Unit::Seconds, |_, target, now, emit| {
        of_groups(target, now, emit, |group, positions| {
            group.worst(|sender| Some(positions.clock.seconds_since(sender.reply_time?)))
        })
    })
    .labels(NAME)
    .help("Age of the last reply of the sender's receiver, from the receiver's clock to this server's: their skew is in it.")
    .absent(NONE)
    .from("pg_stat_replication.reply_time"),
    per_target("wal_sender_sync_priority", Unit::Count, |_, target, now, emit| {
        of_groups(target, now, emit, |group, _| group.worst(|sender| sender.sync_priority.map(f64::from)))
    })
    .labels(NAME)
    .help("Place of the standby in synchronous_standby_names; 0 for an asynchronous one.")
    .absent(NONE)
    .from("pg_stat_replication.sync_priority"),
    per_target("wal_sender_start_time_seconds", Unit::Seconds, |_, target, now, emit| {
        of_groups(target, now, emit, |group, _| group.since().map(ServerTime::unix_seconds))
    })
    .labels(NAME)
    .help("When the sender's receiver connected, in seconds since 1970 by the server's clock.")
    .absent(NONE)
    .from("pg_stat_replication.backend_start"),
    per_target("base_backups", Unit::Count, backups)
        .labels(&["phase"])
        .help("Base backups that the server sends, by what they are at; unknown without pg_monitor.")
        .absent("No backup is at it, or the last slow poll is stale.")
        .from("pg_stat_progress_basebackup"),
    per_target("base_backup_streamed_bytes", Unit::Bytes, |_, target, now, emit| {
        of_backups(target, now, emit, |backup| backup.streamed_bytes)
    })
    .help("What the base backups in progress have sent so far, together.")
    .absent("There are none, no `pg_monitor`, or the last slow poll is stale.")
    .from("pg_stat_progress_basebackup.backup_streamed"),
    per_target("base_backup_total_bytes", Unit::Bytes, |_, target, now, emit| {
        of_backups(target, now, emit, |backup| backup.total_bytes)
    })
    .help("What the base backups in progress will have sent, together, as the server estimated.")
    .absent("There are none, one has no estimate, no `pg_monitor`, or the last slow poll is stale.")
    .from("pg_stat_progress_basebackup.backup_total"),
];

/// Of all base backups together.
fn of_backups(target: &TargetView, now: MonoTime, emit: Emit<'_>, value: fn(&BaseBackup) -> Option<u64>) -> Coverage {
    let Some(backups) = target.fresh_survey(now).and_then(|survey| survey.backups.as_ref()) else {
        return Coverage::Unknown;
    };
    if !backups.is_empty() {
        // Of one that is hidden nothing is known, and so neither is the sum.
        let sum: Option<u64> = backups.iter().map(value).try_fold(0, |sum: u64, bytes| sum.checked_add(bytes?));
        let Some(sum) = sum else { return Coverage::Unknown };
        emit(&[], Value::exact(sum as f64));
    }
    Coverage::Complete
}

fn backups(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(backups) = target.fresh_survey(now).and_then(|survey| survey.backups.as_ref()) else {
        return Coverage::Unknown;
    };
    let mut phases: Vec<&str> = backups.iter().map(|backup| backup.phase.unwrap_or("unknown")).collect();
    phases.sort_unstable();
    for same in phases.chunk_by(|one, next| one == next) {
        emit(&same[..1], Value::exact(same.len() as f64));
    }
    Coverage::Complete
}

/// The word of `pg_stat_replication`.
pub const fn sender_state(state: Option<SenderState>) -> &'static str {
    match state {
        Some(SenderState::Startup) => "startup",
        Some(SenderState::Catchup) => "catchup",
        Some(SenderState::Streaming) => "streaming",
        Some(SenderState::Backup) => "backup",
        Some(SenderState::Stopping) => "stopping",
        None => "unknown",
    }
}

/// What may not be seen of a sender is not known of any, for whoever may not see it sees no other either.
fn groups_of(target: &TargetView, now: MonoTime) -> Option<(&Positions, Vec<SenderGroup<'_>>, Coverage)> {
    let positions = positions(target, now)?;
    let is_hidden = positions.senders.iter().any(|sender| sender.state.is_none());
    let coverage = if is_hidden { Coverage::Unknown } else { Coverage::Complete };
    Some((positions, groups(&positions.senders), coverage))
}

fn of_groups(
    target: &TargetView,
    now: MonoTime,
    emit: Emit<'_>,
    value: impl Fn(&SenderGroup<'_>, &Positions) -> Option<f64>,
) -> Coverage {
    let Some((positions, groups, coverage)) = groups_of(target, now) else { return Coverage::Unknown };
    for group in &groups {
        if let Some(value) = value(group, positions) {
            emit(&[&group.name.application_name, &group.name.client_addr, group.name.slot], Value::exact(value));
        }
    }
    coverage
}

fn of_stage(target: &TargetView, now: MonoTime, emit: Emit<'_>, reached: fn(&WalSender) -> Option<Lsn>) -> Coverage {
    of_groups(target, now, emit, |group, positions| {
        let end = end_of_wal(positions);
        group.worst(|sender| Some(behind(sender, end, reached(sender))?.0 as f64))
    })
}

fn info(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some((_, groups, coverage)) = groups_of(target, now) else { return Coverage::Unknown };
    for group in &groups {
        let mut kinds: Vec<(&str, &str)> = group
            .senders
            .iter()
            .map(|sender| (sender_state(sender.state), sync_state(sender.sync_state.as_deref())))
            .collect();
        kinds.sort_unstable();
        for same in kinds.chunk_by(|one, next| one == next) {
            let Some((state, sync_state)) = same.first() else { continue };
            let name = &group.name;
            let labels = [&*name.application_name, &name.client_addr, name.slot, state, sync_state];
            emit(&labels, Value::exact(same.len() as f64));
        }
    }
    coverage
}

fn sync_state(word: Option<&str>) -> &'static str {
    let Some(word) = word else { return "" };
    ["async", "potential", "sync", "quorum"].into_iter().find(|known| *known == word).unwrap_or("other")
}
