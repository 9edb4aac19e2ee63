//! What becomes of a server's replication slots from one survey to the next: how fast each one that is used falls
//! behind, and which of very many are told one by one.

use super::shown::Shown;
use super::survey::Slot;
use super::time::MonoTime;

/// As many slots of a server get series of their own: more than a server has whose slots people know by name.
pub const SLOTS_SHOWN: usize = 200;

/// What a slot keeps is compared with what it kept this long ago, or up to twice as long: a logical slot moves on in
/// jumps, at most each 15 s (the server's own beat of notes on running transactions).
const WINDOW_SECONDS: f64 = 60.0;

/// What is known of a server's slots beyond what the last survey says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlotOutlook {
    /// Those that get series of their own.
    pub shown: Shown,
    /// By the place of the slot in the last survey. Empty when no slot in use can run out of WAL.
    growth: Vec<Option<f64>>,
}

impl SlotOutlook {
    /// By how many bytes a second the WAL grew that is kept for a slot in use; negative while its reader catches up.
    /// `place`: the slot's among the slots of the last survey. `None` while it has not been in use for long enough,
    /// where nothing limits what is kept, and for a slot that is not in use.
    pub fn growth(&self, place: usize) -> Option<f64> {
        self.growth.get(place).copied().flatten()
    }
}

/// Turns surveys into outlooks.
#[derive(Debug, Default)]
pub struct SlotTracker {
    older: Option<Mark>,
    newer: Option<Mark>,
}

/// What slots in use kept at some time. Only of those that could lose it.
#[derive(Debug)]
struct Mark {
    at: MonoTime,
    /// Sorted by name, as the slots of a survey are.
    retained: Vec<(Box<str>, u64)>,
}

impl SlotTracker {
    /// `slots`: sorted by name. `before`: the outlook of the survey before.
    pub fn observe(&mut self, slots: &[Slot], at: MonoTime, before: Option<&SlotOutlook>) -> SlotOutlook {
        let may_run_out = |slot: &Slot| slot.active && slot.safe_wal_size.is_some();
        let mut growth = Vec::new();
        if slots.iter().any(may_run_out) {
            growth.extend(slots.iter().map(|slot| self.growth(slot, at).filter(|_| may_run_out(slot))));
        }
        if self.newer.as_ref().is_none_or(|mark| at.seconds_since(mark.at) >= WINDOW_SECONDS) {
            let of_slot = |slot: &Slot| Some((Box::from(slot.name.as_str()), slot.retained_bytes?));
            let retained = slots.iter().filter(|slot| may_run_out(slot)).filter_map(of_slot).collect();
            self.older = self.newer.replace(Mark { at, retained });
        }
        let shown =
            Shown::choose(&ranked(slots), before.map_or(&Shown::default(), |before| &before.shown), SLOTS_SHOWN);
        SlotOutlook { shown, growth }
    }

    fn growth(&self, slot: &Slot, at: MonoTime) -> Option<f64> {
        let old_enough = |mark: &&Mark| at.seconds_since(mark.at) >= WINDOW_SECONDS;
        let mark = self.newer.as_ref().filter(old_enough).or(self.older.as_ref())?;
        let place = mark.retained.binary_search_by(|(name, _)| (**name).cmp(&slot.name)).ok()?;
        let (_, retained) = mark.retained.get(place)?;
        Some((slot.retained_bytes? as f64 - *retained as f64) / at.seconds_since(mark.at))
    }
}

/// Names of slots: those that are about to be lost first, then those that are, then those that keep most. None twice.
fn ranked(slots: &[Slot]) -> Vec<&str> {
    if slots.len() <= SLOTS_SHOWN {
        return Vec::new();
    }
    let danger = |slot: &Slot| match slot.wal_status {
        Some("unreserved") => 2,
        _ if slot.invalidation().is_some() => 1,
        _ => 0,
    };
    let mut ranked: Vec<&Slot> = slots.iter().collect();
    ranked.sort_by(|a, b| {
        (danger(b), b.retained_bytes).cmp(&(danger(a), a.retained_bytes)).then_with(|| a.name.cmp(&b.name))
    });
    ranked.dedup_by(|a, b| a.name == b.name);
    ranked.into_iter().map(|slot| slot.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> MonoTime {
        MonoTime::from_nanos(0).plus_seconds(seconds)
    }

    fn slot(name: &str, active: bool, retained: u64) -> Slot {
        Slot {
            name: name.to_owned(),
            slot_type: "physical",
            active,
            safe_wal_size: Some(1_000_000),
            retained_bytes: Some(retained),
            ..Slot::default()
        }
    }

    #[test]
    fn a_slot_in_use_falls_behind_by_what_it_keeps_more_than_a_minute_ago() {
        let mut tracker = SlotTracker::default();
        let mut growth = |seconds: f64, slots: &[Slot]| {
            let outlook = tracker.observe(slots, at(seconds), None);
            (0..slots.len()).map(|place| outlook.growth(place)).collect::<Vec<_>>()
        };
        let slots = |a: u64, b: u64| vec![slot("a", true, a), slot("b", true, b), slot("idle", false, a)];
        assert_eq!(growth(0.0, &slots(0, 6000)), [None, None, None]);
        assert_eq!(growth(15.0, &slots(1500, 6000)), [None, None, None]);
        // A jump back in between, as logical slots make, does not hide that it falls behind.
        assert_eq!(growth(60.0, &slots(6000, 0)), [Some(100.0), Some(-100.0), None]);
        assert_eq!(growth(75.0, &slots(7500, 0)), [Some(100.0), Some(-80.0), None]);
        assert_eq!(growth(120.0, &slots(12_000, 600)), [Some(100.0), Some(10.0), None]);
        // A slot that came into use just now has no past, nor has one without a limit.
        let mut later = slots(12_000, 600);
        later[1].safe_wal_size = None;
        later[2].active = true;
        assert_eq!(growth(135.0, &later), [Some(80.0), None, None]);
    }

    #[test]
    fn a_server_without_limits_costs_nothing() {
        let mut free = slot("a", true, 5);
        free.safe_wal_size = None;
        let mut tracker = SlotTracker::default();
        assert_eq!(tracker.observe(&[free], at(0.0), None), SlotOutlook::default());
        assert!(tracker.newer.is_some_and(|mark| mark.retained.is_empty()));
    }

    #[test]
    fn of_ten_thousand_the_endangered_are_shown_first() {
        let mut slots: Vec<Slot> = (0..10_000).map(|n| slot(&format!("slot_{n:05}"), false, n)).collect();
        slots[7].wal_status = Some("unreserved");
        slots[8].wal_status = Some("lost");
        slots[8].retained_bytes = None;
        let mut tracker = SlotTracker::default();
        let outlook = tracker.observe(&slots, at(0.0), None);
        let shown: Vec<&str> =
            slots.iter().map(|slot| slot.name.as_str()).filter(|name| outlook.shown.contains(name)).collect();
        assert_eq!((shown.len(), outlook.shown.left_out_of(slots.len())), (SLOTS_SHOWN, 10_000 - SLOTS_SHOWN));
        assert_eq!(shown[..3], ["slot_00007", "slot_00008", "slot_09802"]);
        // Equals that change places: half of the places are not given away.
        let shown: Vec<String> = shown.into_iter().map(str::to_owned).collect();
        for slot in &mut slots[..5000] {
            slot.retained_bytes = slot.retained_bytes.map(|retained| retained + 10_000);
        }
        let later = tracker.observe(&slots, at(15.0), Some(&outlook));
        let stayed = shown.iter().filter(|name| later.shown.contains(name)).count();
        assert!((SLOTS_SHOWN / 2..=SLOTS_SHOWN / 2 + 2).contains(&stayed), "{stayed}");
    }

    #[test]
    fn why_a_slot_is_of_no_more_use() {
        let check = |reason, conflicting, wal_status, expect| {
            let slot = Slot { invalidation_reason: reason, conflicting, wal_status, ..Slot::default() };
            assert_eq!(slot.invalidation(), expect, "{slot:?}");
        };
        check(Some("rows_removed"), Some(true), Some("lost"), Some("rows_removed"));
        check(None, Some(true), Some("lost"), Some("conflict"));
        check(None, Some(false), Some("lost"), Some("wal_removed"));
        check(None, None, Some("lost"), Some("wal_removed"));
        check(None, Some(false), Some("unreserved"), None);
        check(None, None, None, None);
    }
}
