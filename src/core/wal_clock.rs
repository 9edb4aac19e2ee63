//! When the primary's WAL reached each position, by the monitor's own clock.
//!
//! This is the memory that the lag is read from: a replica that has replayed up to some position is as old as the instant
//! at which the primary went beyond it. Nothing but polls of the primary (and, while it is lost, of its replicas) is
//! needed, so an idle primary ages nobody and a severed replica ages at once.
//!
//! Two things keep it small for ever. A position that does not move costs nothing: its entry is stretched. And a bracket
//! that is only ever asked about lags of hours need not be sharp to the second, so old entries are thinned until a
//! bracket is as wide as [`TOLERANCE`] of the smallest lag that can still be read from it.
//!
//! It must never state more than was seen: thinning widens brackets and moves none of their ends inwards.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::MonoTime;
use super::wal::Lsn;

/// How wide a bracket may grow, as a part of the smallest lag that is ever read from it.
const TOLERANCE: f64 = 0.05;
/// Thinning walks the whole history, so it is done once per this many new entries.
const ADDED_PER_THINNING: u32 = 16;
/// Entries older than this go, but for the youngest of them: it anchors what follows.
const HORIZON_SECONDS: f64 = 7.0 * 86_400.0;

/// The history of one cluster's flushed WAL. Positions ascend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WalClock {
    marks: Vec<Mark>,
    /// A bracket no wider than this is sharp enough at any age, in seconds.
    resolution: f64,
    added: u32,
}

/// What is known of one position.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    pub lsn: Lsn,
    /// The primary had flushed up to `lsn` by this instant.
    pub reached_by: MonoTime,
    /// The primary had flushed nothing beyond `lsn` yet at this instant. `None` for a position that a replica told:
    /// the primary had it, and may have had more.
    pub still_at: Option<MonoTime>,
    /// By when it had likely flushed up to `lsn`, where that is earlier than what is proven.
    #[serde(default)]
    pub likely_by: Option<MonoTime>,
}

/// Between which instants the primary went beyond a position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bracket {
    /// It had not yet. `None` when the position is older than the history.
    pub after: Option<MonoTime>,
    /// It had. `None` when nothing beyond the position is known.
    pub by: Option<MonoTime>,
    /// It likely had, where that is earlier than what is proven.
    pub likely_by: Option<MonoTime>,
    /// Where the position lies between the two entries, from 0 to 1. 0 is the lower entry's own position: a place
    /// where the primary was seen to rest.
    pub fraction: f64,
}

impl WalClock {
    /// `poll_interval` is how often the primary is asked; a bracket as narrow as that is left alone.
    pub fn new(poll_interval: Duration) -> Self {
        Self { marks: Vec::new(), resolution: poll_interval.as_secs_f64(), added: 0 }
    }

    /// How often the primary is asked from now on. What is known already stays as fine as it is.
    pub fn set_resolution(&mut self, poll_interval: Duration) {
        self.resolution = poll_interval.as_secs_f64();
    }

    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// The furthest position that the primary is known to have flushed.
    pub fn last(&self) -> Option<&Mark> {
        self.marks.last()
    }

    pub fn clear(&mut self) {
        self.marks.clear();
    }

    /// The primary said `lsn` for some instant between `asked_at` and `answered_at`. When more was known before it was
    /// asked, WAL was lost: what lay beyond is forgotten. What a replica received while a late answer was on its way is not.
    pub fn observe(&mut self, lsn: Lsn, asked_at: MonoTime, answered_at: MonoTime) {
        let beyond = self.marks.partition_point(|mark| mark.lsn <= lsn);
        if let Some(next) = self.marks.get(beyond) {
            if next.reached_by < asked_at {
                self.truncate(lsn);
            } else {
                let reached_by = next.reached_by.min(answered_at);
                return self.insert(beyond, Mark { lsn, reached_by, still_at: Some(asked_at), likely_by: None });
            }
        }
        match self.marks.last_mut() {
            Some(last) if last.lsn == lsn => last.still_at = last.still_at.max(Some(asked_at)),
            _ => self.push(Mark { lsn, reached_by: answered_at, still_at: Some(asked_at), likely_by: None }),
        }
    }

    /// The primary does not answer, but somebody received WAL up to `lsn` by `at`.
    pub fn observe_received(&mut self, lsn: Lsn, at: MonoTime) {
        if self.marks.last().is_some_and(|last| last.lsn < lsn) {
            self.push(Mark { lsn, reached_by: at, still_at: None, likely_by: None });
        }
    }

    /// The WAL ended at `lsn`, which it had reached by `reached_by`, likely earlier, and nothing was written until
    /// `still_at`. Without effect when more WAL than that is known: truncate first.
    pub fn rest(&mut self, lsn: Lsn, reached_by: MonoTime, likely_by: Option<MonoTime>, still_at: MonoTime) {
        match self.marks.last_mut() {
            Some(last) if last.lsn > lsn => {}
            Some(last) if last.lsn == lsn => {
                last.reached_by = last.reached_by.min(reached_by);
                last.likely_by = last.likely_by.or(likely_by).filter(|likely_by| *likely_by < last.reached_by);
                last.still_at = last.still_at.max(Some(still_at));
            }
            _ => self.push(Mark { lsn, reached_by, still_at: Some(still_at), likely_by }),
        }
    }

    /// Forgets what lies beyond `lsn`. Gives the instant by which the lowest of it had been reached.
    pub fn truncate(&mut self, lsn: Lsn) -> Option<MonoTime> {
        let kept = self.marks.partition_point(|mark| mark.lsn <= lsn);
        let lowest = self.marks.get(kept).map(|mark| mark.reached_by);
        self.marks.truncate(kept);
        lowest
    }

    /// Between which instants the primary went beyond `lsn`. Takes O(log n) (and a step per replica-told entry below it).
    pub fn bracket(&self, lsn: Lsn) -> Bracket {
        let beyond = self.marks.partition_point(|mark| mark.lsn <= lsn);
        let above = self.marks.get(beyond);
        let below = self.marks[..beyond].iter().rev().find(|mark| mark.still_at.is_some());
        let fraction = match (below, above) {
            (Some(below), Some(above)) => {
                lsn.bytes_ahead_of(below.lsn).0 as f64 / above.lsn.bytes_ahead_of(below.lsn).0 as f64
            }
            _ => 0.0,
        };
        Bracket {
            after: below.and_then(|mark| mark.still_at),
            by: above.map(|mark| mark.reached_by),
            likely_by: above.and_then(|mark| mark.likely_by),
            fraction,
        }
    }

    fn insert(&mut self, place: usize, mark: Mark) {
        match self.marks[..place].last_mut() {
            Some(last) if last.lsn == mark.lsn => last.still_at = last.still_at.max(mark.still_at),
            _ => self.marks.insert(place, mark),
        }
    }

    fn push(&mut self, mark: Mark) {
        self.marks.push(mark);
        self.added += 1;
        if self.added >= ADDED_PER_THINNING {
            self.added = 0;
            self.thin(mark.reached_by);
        }
    }

    /// Drops every entry without which brackets stay narrow enough.
    ///
    /// A replica-told entry carries only the upper end of a bracket, so it is measured against the entry kept before it,
    /// of whatever kind: that way a primary lost for a day leaves a few hundred of them and not a day's worth.
    fn thin(&mut self, now: MonoTime) {
        let expired = self.marks.partition_point(|mark| now.seconds_since(mark.reached_by) > HORIZON_SECONDS);
        self.marks.drain(..expired.saturating_sub(1));
        let Some(first) = self.marks.first() else { return };
        let mut rested_at = first.still_at;
        let mut known_at = first.still_at.unwrap_or(first.reached_by);
        let mut kept = 1;
        for k in 1..self.marks.len() {
            let mark = self.marks[k];
            if let Some(next) = self.marks.get(k + 1) {
                let width = self.resolution.max(TOLERANCE * now.seconds_since(next.reached_by));
                let opens_at = match (mark.still_at, next.still_at) {
                    (Some(_), Some(_)) => rested_at,
                    (Some(_), None) => None,
                    (None, _) => Some(known_at),
                };
                if opens_at.is_some_and(|opens_at| next.reached_by.seconds_since(opens_at) <= width) {
                    continue;
                }
            }
            rested_at = mark.still_at.or(rested_at);
            known_at = mark.still_at.unwrap_or(mark.reached_by);
            self.marks[kept] = mark;
            kept += 1;
        }
        self.marks.truncate(kept);
    }
}

/// Dice for tests (splitmix64): the same throws in every run.
#[cfg(test)]
pub(in crate::core) struct Dice(pub(in crate::core) u64);

#[cfg(test)]
impl Dice {
    pub(in crate::core) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }

    pub(in crate::core) fn between(&mut self, least: f64, most: f64) -> f64 {
        least + (most - least) * self.below(1 << 32) as f64 / f64::from(u32::MAX)
    }

    pub(in crate::core) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: f64) -> MonoTime {
        MonoTime::from_nanos(0).plus_seconds(seconds)
    }

    fn mark(lsn: u64, reached_by: f64, still_at: Option<f64>) -> Mark {
        Mark { lsn: Lsn::new(lsn), reached_by: at(reached_by), still_at: still_at.map(at), likely_by: None }
    }

    fn clock(polls: &[(u64, f64)]) -> WalClock {
        let mut clock = WalClock::new(SECOND);
        for &(lsn, asked_at) in polls {
            clock.observe(Lsn::new(lsn), at(asked_at), at(asked_at + 0.01));
        }
        clock
    }

    #[test]
    fn an_idle_day_is_one_entry() {
        let mut idle = clock(&[]);
        for second in 0..86_400 {
            idle.observe(Lsn::new(100), at(f64::from(second)), at(f64::from(second) + 0.01));
        }
        assert_eq!(idle.marks(), [mark(100, 0.01, Some(86_399.0))]);
    }

    #[test]
    fn a_position_is_bracketed_by_what_was_seen_around_it() {
        let mut history = clock(&[(100, 1.0), (100, 2.0), (300, 3.0)]);
        history.observe_received(Lsn::new(250), at(3.5));
        history.observe_received(Lsn::new(400), at(4.0));
        assert_eq!(
            history.marks(),
            [mark(100, 1.01, Some(2.0)), mark(300, 3.01, Some(3.0)), mark(400, 4.0, None)],
            "a replica's word counts only beyond the primary's"
        );
        for (lsn, after, by, fraction) in [
            (99, None, Some(1.01), 0.0),
            (100, Some(2.0), Some(3.01), 0.0),
            (150, Some(2.0), Some(3.01), 0.25),
            (300, Some(3.0), Some(4.0), 0.0),
            (350, Some(3.0), Some(4.0), 0.5),
            (400, Some(3.0), None, 0.0),
        ] {
            let expected = Bracket { after: after.map(at), by: by.map(at), likely_by: None, fraction };
            assert_eq!(history.bracket(Lsn::new(lsn)), expected, "{lsn}");
        }
        history.observe(Lsn::new(400), at(5.0), at(5.01));
        assert_eq!(history.last(), Some(&mark(400, 4.0, Some(5.0))), "the primary confirms what a replica told");
    }

    #[test]
    fn wal_that_was_lost_is_forgotten() {
        let mut history = clock(&[(100, 1.0), (200, 2.0), (300, 3.0), (150, 4.0)]);
        assert_eq!(history.marks(), [mark(100, 1.01, Some(1.0)), mark(150, 4.01, Some(4.0))]);
        assert_eq!(history.truncate(Lsn::new(120)), Some(at(4.01)));
        assert_eq!(history.truncate(Lsn::new(120)), None);
        history.rest(Lsn::new(120), at(3.0), None, at(9.0));
        history.rest(Lsn::new(120), at(2.5), Some(at(2.5)), at(8.0));
        history.rest(Lsn::new(90), at(1.0), None, at(20.0));
        assert_eq!(history.marks(), [mark(100, 1.01, Some(1.0)), mark(120, 2.5, Some(9.0))]);
    }

    #[test]
    fn a_week_is_a_few_hundred_entries_and_every_lag_stays_right_to_five_percent() {
        type Pattern = fn(u64, &mut Dice) -> u64;
        const DAY: u64 = 86_400;
        let patterns: [(&str, u64, Pattern); 4] = [
            ("steady", 7 * DAY, |_, _| 1_000),
            ("bursts", 2 * DAY, |second, dice| if second % 600 < 30 { dice.below(100_000) } else { 0 }),
            ("one write a minute", 2 * DAY, |second, _| if second % 60 == 0 { 100 } else { 0 }),
            ("any", DAY, |_, dice| if dice.one_in(3) { dice.below(1_000_000) } else { 0 }),
        ];
        for (name, seconds, pattern) in patterns {
            let mut dice = Dice(7);
            let mut history = clock(&[]);
            // went[s]: the position at second s; the write of second s happens at s + 0.5, between two polls.
            let mut went = vec![1_000_u64];
            let mut most = 0;
            for second in 0..seconds {
                let lsn = went[second as usize];
                history.observe(Lsn::new(lsn), at(second as f64), at(second as f64 + 0.001));
                most = most.max(history.marks().len());
                went.push(lsn + pattern(second, &mut dice));
            }
            assert!(most <= 420, "{name}: {most} entries");
            let now = (seconds - 1) as f64;
            for _ in 0..3_000 {
                // Ages spread over the orders of magnitude, as lags are.
                let age = 2.0_f64.powf(dice.below(19_000) as f64 / 1_000.0);
                let second = (now - age).max(0.0) as usize;
                let lsn = went[second];
                let beyond = went.partition_point(|&position| position <= lsn);
                let bracket = history.bracket(Lsn::new(lsn));
                if beyond >= seconds as usize {
                    assert_eq!(bracket.by, None, "{name}");
                    continue;
                }
                let truth = now - (beyond as f64 - 0.5);
                let most = now - bracket.after.expect("the history reaches back").seconds_since(at(0.0));
                let least = now - bracket.by.expect("more was written").seconds_since(at(0.0));
                assert!(least <= truth && truth <= most, "{name}: {truth} outside {least}..{most}");
                assert!(most - least <= f64::max(2.01, TOLERANCE * least + 0.01), "{name}: {least}..{most}");
            }
        }
    }

    #[test]
    fn a_primary_lost_for_a_day_leaves_a_few_hundred_entries() {
        let mut history = clock(&[(100, 0.0)]);
        for second in 1..86_400_u32 {
            history.observe_received(Lsn::new(100 + u64::from(second)), at(f64::from(second)));
        }
        assert!(history.marks().len() < 400, "{}", history.marks().len());
        let age = 3_600.0;
        let by = history.bracket(Lsn::new(100 + 86_399 - 3_600)).by.expect("more was received");
        let least = at(86_399.0).seconds_since(by);
        assert!(least <= age && age - least <= TOLERANCE * age, "{least}");
    }

    #[test]
    fn what_is_older_than_a_week_goes_but_for_one_anchor() {
        let mut history = clock(&[(1, 0.0), (2, 100.0)]);
        for k in 0..32_u32 {
            let asked_at = 8.0 * 86_400.0 + f64::from(k);
            history.observe(Lsn::new(3 + u64::from(k)), at(asked_at), at(asked_at));
        }
        assert_eq!(history.marks()[0], mark(2, 100.01, Some(100.0)));
    }
}
