//! Signals of replication slots.

use super::row::{bool_value, per_target};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::survey::Slot;
use crate::core::time::MonoTime;

const SLOT: &str = "The slot has gone, or the last slow poll is stale.";
const SLOTS: &str = "pg_replication_slots";

const WAL_STATUSES: [&str; 4] = ["reserved", "extended", "unreserved", "lost"];

pub(super) const ROWS: &[Signal] = &[
    per_target("slot_active", Unit::Bool, slot_active)
        .labels(&["slot"])
        .help("1 while something reads from the replication slot.")
        .absent(SLOT)
        .from(SLOTS),
    per_target("slot_retained_bytes", Unit::Bytes, slot_retained)
        .labels(&["slot"])
        .help("WAL that the server keeps for the slot.")
        .absent("The slot keeps none, has gone, or the last slow poll is stale.")
        .from(SLOTS),
    per_target("slot_inactive_retained_bytes", Unit::Bytes, slot_inactive_retained)
        .labels(&["slot"])
        .help("WAL that the server keeps for a slot that nothing reads from.")
        .absent("The slot is active, keeps none, has gone, or the last slow poll is stale.")
        .from(SLOTS),
    per_target("slot_safe_wal_bytes", Unit::Bytes, slot_safe_wal)
        .labels(&["slot"])
        .help("WAL that can still be written before the slot may be invalidated; negative when it may be already.")
        .absent("There is no limit (max_slot_wal_keep_size), the slot has gone, or the last slow poll is stale.")
        .from(SLOTS),
    per_target("slot_wal_status", Unit::Bool, slot_wal_status)
        .labels(&["slot", "status"])
        .help("1 for the slot's wal_status: reserved, extended, unreserved or lost.")
        .absent("The slot keeps no WAL yet, has gone, or the last slow poll is stale.")
        .from(SLOTS),
];

fn slots(target: &TargetView, now: MonoTime) -> Option<&[Slot]> {
    target.fresh_survey(now)?.slots.as_deref()
}

/// States a value for each slot that has one. Should two slots come with one name, the first is stated.
fn of_slots(target: &TargetView, now: MonoTime, emit: Emit<'_>, value: impl Fn(&Slot) -> Option<f64>) -> Coverage {
    let Some(slots) = slots(target, now) else { return Coverage::Unknown };
    for slot in each_once(slots) {
        if let Some(value) = value(slot) {
            emit(&[&slot.name], Value::exact(value));
        }
    }
    Coverage::Complete
}

fn each_once(slots: &[Slot]) -> impl Iterator<Item = &Slot> {
    slots
        .iter()
        .enumerate()
        .filter(|(position, slot)| !slots[..*position].iter().any(|earlier| earlier.name == slot.name))
        .map(|(_, slot)| slot)
}

fn slot_active(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_slots(target, now, emit, |slot| Some(bool_value(slot.active)))
}

fn slot_retained(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_slots(target, now, emit, |slot| Some(slot.retained_bytes? as f64))
}

fn slot_inactive_retained(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_slots(target, now, emit, |slot| if slot.active { None } else { Some(slot.retained_bytes? as f64) })
}

fn slot_safe_wal(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_slots(target, now, emit, |slot| Some(slot.safe_wal_size? as f64))
}

fn slot_wal_status(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(slots) = slots(target, now) else { return Coverage::Unknown };
    for slot in each_once(slots) {
        if let Some(status) = &slot.wal_status {
            let known = WAL_STATUSES.iter().find(|known| *known == status).unwrap_or(&"other");
            emit(&[&slot.name, known], Value::exact(1.0));
        }
    }
    Coverage::Complete
}
