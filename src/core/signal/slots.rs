//! Signals of replication slots.

use super::row::{bool_value, per_target, positions};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::shown::Shown;
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::survey::Slot;
use crate::core::time::MonoTime;

const SLOT: &str = "The slot has gone, or the last slow poll is stale.";
const SLOTS: &str = "pg_replication_slots";

pub(super) const ROWS: &[Signal] = &[
    per_target("slots", Unit::Count, slot_counts)
        .labels(&["slot_type", "active"])
        .help("Replication slots of the server, those without series of their own too.")
        .absent("The last slow poll is stale.")
        .from(SLOTS),
    of_slot("slot_info", Unit::Bool, slot_info)
        .labels(&["slot", "slot_type", "datname", "plugin", "temporary", "two_phase", "failover", "synced"])
        .help("What the replication slot is; always 1. A label is empty where it does not apply to the type or the version.")
        .absent(SLOT)
        .from(SLOTS),
    of_slot("slot_active", Unit::Bool, slot_active)
        .states("is not read by anybody", "is read")
        .help("1 while something reads from the replication slot.")
        .absent(SLOT)
        .from(SLOTS),
    of_slot("slot_retained_bytes", Unit::Bytes, slot_retained)
        .says("keeps {} of WAL")
        .help("WAL that the server keeps for the slot.")
        .absent("The slot keeps none, has gone, or the last slow poll is stale.")
        .from(SLOTS),
    of_slot("slot_inactive_retained_bytes", Unit::Bytes, slot_inactive_retained)
        .says("keeps {} of WAL, and nothing reads it")
        .none("is read again, or is no more")
        .help("WAL that the server keeps for a slot that nothing reads from.")
        .absent("The slot is active, keeps none, has gone, is a standby's copy of its primary's slot, or the last slow poll is stale.")
        .from(SLOTS),
    of_slot("slot_confirmed_flush_lag_bytes", Unit::Bytes, slot_confirmed_flush_lag)
        .says("has {} of WAL that its consumer has not confirmed")
        .help("WAL that the consumer of a logical slot has not confirmed.")
        .absent("The slot is physical, has gone, or the last slow poll is stale.")
        .from("pg_replication_slots.confirmed_flush_lsn"),
    of_slot("slot_safe_wal_bytes", Unit::Bytes, slot_safe_wal)
        .says("may be lost after another {} of WAL")
        .help("WAL that can still be written before the slot may be invalidated; negative when it may be already.")
        .absent("There is no limit (max_slot_wal_keep_size), the slot keeps no WAL yet, is lost or has gone, or the last slow poll is stale.")
        .from("pg_replication_slots.safe_wal_size; on a standby max_slot_wal_keep_size, wal_keep_size"),
    of_slot("slot_lost_in_seconds", Unit::Seconds, slot_lost_in)
        .says("will be lost in {}, at this rate")
        .none("is read again, is in no danger any more, or is no more")
        .help("Time until the slot may be invalidated: what is safe, by the rate of WAL for an inactive slot, by the rate at which it falls behind for an active one; +Inf when it does not.")
        .absent("As `pgvigil_slot_safe_wal_bytes`; the rate of WAL is not known; the slot is active for less than one or two minutes, or a standby's copy of its primary's slot.")
        .from(SLOTS),
    of_slot("slot_wal_status", Unit::Bool, slot_wal_status)
        .labels(&["slot", "status"])
        .none("has this wal_status no more")
        .help("1 for the slot's wal_status: reserved, extended, unreserved or lost.")
        .absent("The slot keeps no WAL yet, has gone, or the last slow poll is stale.")
        .from(SLOTS),
    of_slot("slot_invalidated", Unit::Bool, slot_invalidated)
        .labels(&["slot", "reason"])
        .states("can be used", "can be used no more")
        .help("1 for a slot that can be used no more, and why: wal_removed, rows_removed, wal_level_insufficient, idle_timeout; conflict on 16.")
        .absent("The slot is valid, has gone, is a standby's copy of its primary's slot, or the last slow poll is stale.")
        .from("pg_replication_slots: invalidation_reason (17+), conflicting (16), wal_status"),
    of_slot("slot_inactive_seconds", Unit::Seconds, slot_inactive)
        .says("has not been read for {}")
        .none("is read again, or is no more")
        .help("How long nothing has read from the slot, by the server's clock.")
        .absent("The slot is active, has gone, or is a standby's copy of its primary's slot; before 17; the last poll, fast or slow, is stale.")
        .from("pg_replication_slots.inactive_since"),
    of_slot("slot_sync_skipped", Unit::Bool, slot_sync_skipped)
        .labels(&["slot", "reason"])
        .states("is brought up to date", "is not brought up to date")
        .help("1 for a standby's copy of its primary's slot that the last attempt did not bring up to date, and why: wal_or_rows_removed, wal_not_flushed, no_consistent_snapshot, slot_invalidated.")
        .absent("The copy was brought up to date, the slot is none, before 19, or the last slow poll is stale.")
        .from("pg_replication_slots.slotsync_skip_reason"),
    of_slot("slot_xmin_age", Unit::Count, slot_xmin_age)
        .says("keeps vacuum from rows of the last {} transactions")
        .help("Transactions since the oldest one whose deleted rows the slot keeps vacuum from removing.")
        .absent("The slot keeps none, has gone, or the last slow poll is stale.")
        .from("pg_replication_slots.xmin"),
    of_slot("slot_catalog_xmin_age", Unit::Count, slot_catalog_xmin_age)
        .says("keeps vacuum from catalog rows of the last {} transactions")
        .help("Transactions since the oldest one whose deleted catalog rows the slot keeps vacuum from removing.")
        .absent("The slot keeps none, has gone, or the last slow poll is stale.")
        .from("pg_replication_slots.catalog_xmin"),
];

const fn of_slot(
    name: &'static str,
    unit: Unit,
    read: fn(&ClusterView, &TargetView, MonoTime, Emit<'_>) -> Coverage,
) -> Signal {
    per_target(name, unit, read).labels(&["slot"]).only(shown)
}

static ALL: Shown = Shown::all();

fn shown(target: &TargetView) -> &Shown {
    target.slots.as_ref().map_or(&ALL, |outlook| &outlook.shown)
}

fn slots(target: &TargetView, now: MonoTime) -> Option<&[Slot]> {
    target.fresh_survey(now)?.slots.as_deref()
}

/// Each slot with its place. Should two slots come with one name, the first counts; those of a survey are sorted by name.
fn each_once(slots: &[Slot]) -> impl Iterator<Item = (usize, &Slot)> {
    let repeats = |place: usize| {
        place > 0 && slots.get(place - 1).map(|slot| &slot.name) == slots.get(place).map(|slot| &slot.name)
    };
    slots.iter().enumerate().filter(move |(place, _)| !repeats(*place))
}

/// States a value for each slot that has one.
fn of_slots(target: &TargetView, now: MonoTime, emit: Emit<'_>, value: impl Fn(&Slot) -> Option<f64>) -> Coverage {
    let Some(slots) = slots(target, now) else { return Coverage::Unknown };
    for (_, slot) in each_once(slots) {
        if let Some(value) = value(slot) {
            emit(&[&slot.name], Value::exact(value));
        }
    }
    Coverage::Complete
}

fn slot_counts(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(slots) = slots(target, now) else { return Coverage::Unknown };
    for slot_type in ["physical", "logical"] {
        for (active, word) in [(true, "true"), (false, "false")] {
            let n = slots.iter().filter(|slot| slot.slot_type == slot_type && slot.active == active).count();
            emit(&[slot_type, word], Value::exact(n as f64));
        }
    }
    Coverage::Complete
}

fn slot_info(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(slots) = slots(target, now) else { return Coverage::Unknown };
    let word = |holds: Option<bool>| match holds {
        Some(true) => "true",
        Some(false) => "false",
        None => "",
    };
    for (_, slot) in each_once(slots) {
        let (datname, plugin) = (slot.datname.as_deref(), slot.plugin.as_deref());
        let logical = |holds: Option<bool>| word(holds.filter(|_| slot.slot_type == "logical"));
        let labels = [
            slot.name.as_str(),
            slot.slot_type,
            datname.unwrap_or_default(),
            plugin.unwrap_or_default(),
            word(Some(slot.temporary)),
            logical(slot.two_phase),
            logical(slot.failover),
            logical(slot.synced),
        ];
        emit(&labels, Value::exact(1.0));
    }
    Coverage::Complete
}

fn slot_active(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_slots(target, now, emit, |slot| Some(bool_value(slot.active)))
}

fn slot_retained(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_slots(target, now, emit, |slot| Some(slot.retained_bytes? as f64))
}

fn slot_inactive_retained(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_slots(target, now, emit, |slot| {
        let is_read_by_none = !slot.active && !slot.is_copy;
        slot.retained_bytes.filter(|_| is_read_by_none).map(|bytes| bytes as f64)
    })
}

fn slot_confirmed_flush_lag(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_slots(target, now, emit, |slot| Some(slot.unconfirmed_bytes? as f64))
}

fn slot_safe_wal(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_slots(target, now, emit, |slot| Some(slot.safe_wal_size? as f64))
}

/// An active slot is in danger only as far as its reader is too slow: at a high rate of WAL, what is safe may be no more
/// than minutes of it, and safe all the same.
fn slot_lost_in(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(slots) = slots(target, now) else { return Coverage::Unknown };
    let trend = target.trend.filter(|_| target.fresh(now).is_some());
    let wal_rate = trend.and_then(|trend| trend.write_rate.or(trend.replay_rate));
    let mut coverage = Coverage::Complete;
    for (place, slot) in each_once(slots) {
        // A copy that is lost is made anew from the primary's slot, which is the one in danger, if any is.
        let Some(safe) = slot.safe_wal_size.filter(|_| !slot.is_copy) else { continue };
        let rate = if slot.active {
            target.slots.as_ref().and_then(|outlook| outlook.growth(place))
        } else {
            if wal_rate.is_none() {
                coverage = Coverage::Unknown;
            }
            wal_rate
        };
        let Some(rate) = rate else { continue };
        let seconds = match (safe <= 0, rate > 0.0) {
            (true, _) => 0.0,
            (false, true) => safe as f64 / rate,
            (false, false) => f64::INFINITY,
        };
        emit(&[&slot.name], Value::exact(seconds));
    }
    coverage
}

fn slot_wal_status(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(slots) = slots(target, now) else { return Coverage::Unknown };
    for (_, slot) in each_once(slots) {
        if let Some(status) = slot.wal_status {
            emit(&[&slot.name, status], Value::exact(1.0));
        }
    }
    Coverage::Complete
}

fn slot_invalidated(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(slots) = slots(target, now) else { return Coverage::Unknown };
    for (_, slot) in each_once(slots) {
        if let Some(reason) = slot.invalidation().filter(|_| !slot.is_copy) {
            emit(&[&slot.name, reason], Value::exact(1.0));
        }
    }
    Coverage::Complete
}

fn slot_inactive(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(clock) = positions(target, now).map(|positions| positions.clock) else { return Coverage::Unknown };
    of_slots(target, now, emit, |slot| {
        Some(clock.seconds_since(slot.inactive_since.filter(|_| !slot.is_copy)?).max(0.0))
    })
}

fn slot_sync_skipped(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(slots) = slots(target, now) else { return Coverage::Unknown };
    for (_, slot) in each_once(slots) {
        if let Some(reason) = slot.sync_skip_reason.filter(|_| slot.is_copy) {
            emit(&[&slot.name, reason], Value::exact(1.0));
        }
    }
    Coverage::Complete
}

fn slot_xmin_age(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_slots(target, now, emit, |slot| Some(slot.xmin_age? as f64))
}

fn slot_catalog_xmin_age(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_slots(target, now, emit, |slot| Some(slot.catalog_xmin_age? as f64))
}
