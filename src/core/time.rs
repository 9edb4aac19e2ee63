//! Instants without a clock. The core is handed every instant as an argument; it never asks what time it is.
//!
//! [`MonoTime`] is the monitor's own clock, which only goes forward and counts suspended time. [`ServerTime`] is
//! what some PostgreSQL server believes the wall clock says. The two are different types on purpose: a difference
//! between two servers' clocks is not a duration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An instant on the monitor's own monotonic clock, in nanoseconds since the machine booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MonoTime(i64);

impl MonoTime {
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Seconds from `earlier` to this instant; negative when `earlier` is the later one.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1e9
    }

    /// Time from `earlier` to this instant; zero when `earlier` is the later one.
    pub fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The instant `seconds` after this one (before it, when negative).
    pub fn plus_seconds(self, seconds: f64) -> Self {
        Self(self.0.saturating_add((seconds * 1e9).round() as i64))
    }

    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }
}

/// What a PostgreSQL server's wall clock said, in microseconds since 1970-01-01 UTC (the resolution of `timestamptz`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServerTime(i64);

impl ServerTime {
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self(micros)
    }

    pub const fn unix_micros(self) -> i64 {
        self.0
    }

    /// Seconds since 1970-01-01 UTC.
    pub fn unix_seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Seconds from `earlier` to this instant, both read off the same server's clock.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_no_clock_shows_does_not_overflow() {
        let (first, last) = (ServerTime::from_unix_micros(i64::MIN), ServerTime::from_unix_micros(i64::MAX));
        assert!(last.seconds_since(first) > 9e12 && first.seconds_since(last) < -9e12);
        let late = MonoTime::from_nanos(1).plus_seconds(1e30);
        assert_eq!(late, MonoTime::from_nanos(i64::MAX));
        assert_eq!(MonoTime::from_nanos(i64::MIN).duration_since(late), Duration::ZERO);
    }
}
