//! How many of the last periods a condition held in: `3 of 5`, as CloudWatch counts.
//!
//! Time is cut into periods, on the monitor's own monotonic clock, beginning when a subject first breaches. Each yields
//! one point: the last reading of it that was known; a period in which none was known has no point. What has not been
//! watched so closely before, since it was quiet, counts as clear.
//!
//! Missing points are CloudWatch's: points farther back are taken instead, two periods at most; only what is then still
//! lacking is filled in, as the rule's `when_unknown` says. Its words for that are:
//!
//! | `when_unknown` | CloudWatch | |
//! | --- | --- | --- |
//! | `hold` | ignore | the alert stays as it is |
//! | `clear` | notBreaching | |
//! | `breach` | breaching | |
//! | `alert` | missing | not to know (`INSUFFICIENT_DATA`) is what the alert is about |
//!
//! Counting is CloudWatch's to the letter ([`Points::count`]). What is made of the count is not: with `hold` and `alert`
//! nothing resolves on a period of which nothing is known, though old breaches leave the window (`alert.rs`).

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rule::{Verdict, WhenUnknown};
use super::saved::move_time;
use super::time::MonoTime;

/// How far beyond its periods a rule looks for points, where some are missing.
const FARTHER: usize = 2;

/// The most periods.
const MOST: usize = 100;

/// In how many of the last periods a condition must have held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datapoints {
    pub needed: usize,
    pub of: usize,
    pub every: Duration,
}

/// What is known of one period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Point {
    Breach,
    /// It neither breaches nor is it clear.
    Possible,
    Clear,
    Missing,
}

/// What a count of points says. CloudWatch's `ALARM`, `OK`, "keep the state" and `INSUFFICIENT_DATA`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    Alarm,
    /// Enough breach to keep an alert, not enough to begin one.
    Possible,
    Clear,
    Keep,
    Insufficient,
}

/// The last periods of one subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Points {
    /// The oldest first.
    past: VecDeque<Point>,
    /// Of the period that has not ended.
    current: Point,
    ends_at: MonoTime,
}

impl Datapoints {
    /// `3 of 5`.
    pub(super) fn parse(text: &str, every: Duration) -> Option<Self> {
        let (needed, of) = text.split_once(" of ")?;
        let (needed, of) = (needed.trim().parse().ok()?, of.trim().parse().ok()?);
        (1 <= needed && needed <= of && of <= MOST).then_some(Self { needed, of, every })
    }
}

impl Point {
    const fn of(verdict: Option<Verdict>) -> Self {
        match verdict {
            Some(Verdict::Breach | Verdict::Proven) => Self::Breach,
            Some(Verdict::Possible) => Self::Possible,
            Some(Verdict::Clear) => Self::Clear,
            Some(Verdict::Unknown | Verdict::Gone) | None => Self::Missing,
        }
    }
}

impl Points {
    /// Of a subject that was quiet until now.
    pub fn begin(rule: Datapoints, now: MonoTime) -> Self {
        Self {
            past: std::iter::repeat_n(Point::Clear, rule.of + FARTHER).collect(),
            current: Point::Missing,
            ends_at: now.plus(rule.every),
        }
    }

    /// Takes in a reading (`None`: not known). Whether a period has ended by it.
    pub fn observe(&mut self, rule: Datapoints, verdict: Option<Verdict>, now: MonoTime) -> bool {
        let has_ended = now >= self.ends_at;
        if has_ended {
            self.push(rule, self.current);
            self.current = Point::Missing;
            self.ends_at = self.ends_at.plus(rule.every);
            // Periods that ended meanwhile, while nobody looked.
            let missed = now.duration_since(self.ends_at).as_nanos() / rule.every.as_nanos().max(1);
            if now >= self.ends_at {
                for _ in 0..(missed + 1).min((rule.of + FARTHER) as u128) {
                    self.push(rule, Point::Missing);
                }
                self.ends_at = now.plus(rule.every);
            }
        }
        match Point::of(verdict) {
            Point::Missing => {}
            point => self.current = point,
        }
        has_ended
    }

    fn push(&mut self, rule: Datapoints, point: Point) {
        self.past.push_back(point);
        let surplus = self.past.len().saturating_sub(rule.of + FARTHER);
        self.past.drain(..surplus);
    }

    /// Whether a reading of the periods that count breached.
    pub fn has_breach(&self, rule: Datapoints) -> bool {
        self.current == Point::Breach || self.past.iter().rev().take(rule.of).any(|point| *point == Point::Breach)
    }

    /// Whether nothing is known of the period that ended last.
    pub fn ends_unknown(&self) -> bool {
        self.past.back() == Some(&Point::Missing)
    }

    /// Counts the periods that ended.
    pub fn count(&self, Datapoints { needed, of, .. }: Datapoints, when_unknown: WhenUnknown) -> Count {
        let seen = || self.past.iter().rev().take(of + FARTHER);
        let known: Vec<Point> = seen().filter(|point| **point != Point::Missing).take(of).copied().collect();
        let number = |wanted| known.iter().filter(|point| **point == wanted).count();
        let (n_breach, n_possible, n_missing) = (number(Point::Breach), number(Point::Possible), of - known.len());
        let filled = if when_unknown == WhenUnknown::Breach { n_missing } else { 0 };
        if n_breach + filled >= needed {
            return Count::Alarm;
        }
        if n_breach + n_possible + filled >= needed {
            return Count::Possible;
        }
        if n_missing == 0 || matches!(when_unknown, WhenUnknown::Clear | WhenUnknown::Breach) {
            return Count::Clear;
        }
        if n_breach < known.len() {
            // Something is known that does not breach.
            return Count::Clear;
        }
        match when_unknown {
            WhenUnknown::Alert if known.is_empty() => Count::Insufficient,
            // All that is known breaches, and has for long enough, had it gone on.
            WhenUnknown::Alert
                if seen().rposition(|point| *point == Point::Breach).is_some_and(|age| age + 1 >= needed) =>
            {
                Count::Alarm
            }
            _ => Count::Keep,
        }
    }

    /// Its instants on a clock that shows `nanos` more.
    pub(super) fn move_times(&mut self, nanos: i64) {
        move_time(&mut self.ends_at, nanos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Count::{Alarm, Clear, Insufficient, Keep};

    fn at(seconds: i64) -> MonoTime {
        MonoTime::from_nanos(seconds * 1_000_000_000)
    }

    fn of(needed: usize, of: usize) -> Datapoints {
        Datapoints { needed, of, every: Duration::from_secs(60) }
    }

    /// Points in CloudWatch's notation, the oldest first: `X` breaches, `0` is clear, `?` may breach, `-` is missing.
    fn points(notation: &str) -> Points {
        let point = |word: &str| match word {
            "X" => Point::Breach,
            "0" => Point::Clear,
            "?" => Point::Possible,
            _ => Point::Missing,
        };
        Points { past: notation.split(' ').map(point).collect(), current: Point::Missing, ends_at: at(0) }
    }

    /// The tables under "Configuring how CloudWatch alarms treat missing data" of its user guide: three periods, five looked at.
    #[test]
    fn missing_points_are_counted_as_cloudwatch_does() {
        use WhenUnknown::{Alert, Breach, Clear as AsClear, Hold};
        for (needed, notation, missing, ignore, breaching, not_breaching) in [
            (3, "0 - X - X", Clear, Clear, Clear, Clear),
            (3, "0 - - - -", Clear, Clear, Clear, Clear),
            (3, "- - - - -", Insufficient, Keep, Alarm, Clear),
            (3, "0 X X - X", Alarm, Alarm, Alarm, Alarm),
            (3, "- - X - -", Alarm, Keep, Alarm, Clear),
            (2, "0 - X - X", Alarm, Alarm, Alarm, Alarm),
            (2, "0 0 X 0 X", Alarm, Alarm, Alarm, Alarm),
            (2, "0 - X - -", Clear, Clear, Alarm, Clear),
            (2, "- - - - 0", Clear, Clear, Alarm, Clear),
            (2, "- - - X -", Alarm, Keep, Alarm, Clear),
            // One point that breaches, and is the newest, is no alarm yet: the next may not.
            (2, "- - - - X", Keep, Keep, Alarm, Clear),
        ] {
            let rule = of(needed, 3);
            let counted = [Alert, Hold, Breach, AsClear].map(|unknown| points(notation).count(rule, unknown));
            assert_eq!(counted, [missing, ignore, breaching, not_breaching], "{needed} of 3: {notation}");
        }
    }

    #[test]
    fn what_may_breach_is_not_counted_for_an_alarm_nor_against_one() {
        for (notation, expect) in [
            ("0 0 X X 0", Alarm),
            ("0 0 X ? 0", Count::Possible),
            ("0 0 ? ? 0", Count::Possible),
            ("X X 0 ? 0", Clear),
            ("0 0 0 ? 0", Clear),
        ] {
            assert_eq!(points(notation).count(of(2, 3), WhenUnknown::Hold), expect, "{notation}");
        }
    }

    #[test]
    fn a_period_has_the_last_of_its_readings_that_was_known() {
        let rule = of(1, 3);
        let mut points = Points::begin(rule, at(0));
        let mut ended = |second, verdict| points.observe(rule, verdict, at(second));
        assert!(!ended(0, Some(Verdict::Proven)));
        assert!(!ended(30, Some(Verdict::Clear)));
        assert!(!ended(59, None));
        assert!(ended(61, Some(Verdict::Breach)));
        assert!(!ended(119, Some(Verdict::Unknown)));
        // Nobody looked for two periods and a half.
        assert!(ended(299, Some(Verdict::Clear)));
        assert!(!ended(358, None));
        assert!(ended(359, None));
        let past: Vec<_> = points.past.iter().copied().collect();
        assert_eq!(past, [Point::Clear, Point::Breach, Point::Missing, Point::Missing, Point::Clear]);
        // However long nobody looks.
        assert!(points.observe(rule, None, at(i64::from(i32::MAX))));
        assert_eq!(points.past, [Point::Missing; 5]);
    }

    #[test]
    fn how_many_of_how_many_is_read() {
        let every = Duration::from_secs(60);
        assert_eq!(Datapoints::parse("3 of 5", every), Some(of(3, 5)));
        assert_eq!(Datapoints::parse("1 of 1", every), Some(of(1, 1)));
        for text in ["", "3", "3 5", "3of5", "6 of 5", "0 of 5", "-1 of 5", "3 of 101", "x of y", "3 of 5 of 7"] {
            assert_eq!(Datapoints::parse(text, every), None, "{text}");
        }
    }
}
