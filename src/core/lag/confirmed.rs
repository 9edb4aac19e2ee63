//! How old the WAL is that somebody has not confirmed, who is no server of the cluster: a subscriber of logical
//! replication, of whom the publisher says how far it is.

use super::estimate::{Position, Reading};
use super::{Evidence, LagEstimate, LagTracker, mono_seconds};
use crate::core::time::MonoTime;
use crate::core::wal::Lsn;

impl LagTracker {
    /// Age of the oldest WAL that the primary had flushed beyond `lsn`, as of `answered_at`: the position was true at
    /// some instant between `asked_at` and then.
    ///
    /// What the primary was first seen to have written in the very answer that tells the position, or later, does not
    /// count: it may have been written a moment before, and be on its way.
    pub fn confirmed_lag(&self, lsn: Lsn, asked_at: MonoTime, answered_at: MonoTime) -> LagEstimate {
        let position = Position::at(lsn, asked_at, answered_at);
        let Some(primary) = &self.primary else { return self.told(Reading::unknown(Evidence::NoPrimary), position) };
        let (asked, answered) = (mono_seconds(asked_at), mono_seconds(answered_at));
        let bracket = self.history.bracket(lsn);
        let upper = bracket.after.map_or(f64::INFINITY, |after| answered - mono_seconds(after));
        let Some(by) = bracket.by.filter(|by| *by < answered_at) else {
            let evidence = if primary.is_lost { Evidence::PrimaryLost } else { Evidence::CaughtUp };
            let reading = Reading {
                evidence,
                value: Some(0.0),
                lower: 0.0,
                upper,
                is_floor: true,
                is_guess: false,
                primary_lost: false,
            };
            return self.told(reading, position);
        };
        let by = mono_seconds(by);
        let lower = (asked - by).max(0.0);
        let (evidence, value, is_floor) = match bracket.after.map(mono_seconds) {
            None => (Evidence::LowerBound, lower, true),
            Some(after) => {
                let rested = bracket.fraction == 0.0;
                let fraction = if rested { 0.5 } else { bracket.fraction };
                let likely_by = bracket.likely_by.map_or(by, mono_seconds);
                let went_beyond = after + (likely_by - after).max(0.0) * fraction;
                let evidence = if rested { Evidence::LsnPlateau } else { Evidence::Lsn };
                (evidence, f64::midpoint(asked, answered) - went_beyond, primary.is_lost)
            }
        };
        let reading = Reading {
            evidence,
            value: Some(value),
            lower,
            upper,
            is_floor,
            is_guess: false,
            primary_lost: primary.is_lost,
        };
        self.told(reading, position)
    }
}
