//! The life of an alert, in Prometheus' words: inactive, pending, firing, resolved.
//!
//! [`AlertState::step`] is the whole of it: a total function of the state, one verdict and the time. Its policy, where
//! Prometheus leaves a choice:
//!
//! - An alert resolves on evidence only: a reading whose whole range does not breach, for all of `keep_firing_for`, or
//!   a subject that has gone. A reading that may breach neither fires nor resolves; it does end a pending alert, since
//!   the condition did not hold throughout.
//! - A reading that is not known (and held) changes nothing, as when Prometheus cannot evaluate a rule: a pending alert stays
//!   pending and does not fire, a firing one stays firing. Time goes on meanwhile: if the first reading known again breaches,
//!   the condition is taken to have held all along; if it is clear, to have been clear since the last known one.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::mute::Mute;
use super::rule::Verdict;
use super::saved::move_time;
use super::signal::Unit;
use super::time::MonoTime;
use super::topology::Name;

/// What an alert is about: its rule and its subject. Equal on every daemon that watches the same thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AlertId {
    pub rule: Name,
    pub cluster: Name,
    /// `None` for a rule over a signal of the whole cluster.
    pub target: Option<Name>,
    /// The signal's own labels, for example `slot`.
    pub labels: Vec<(String, String)>,
}

impl fmt::Display for AlertId {
    /// For example `SlotRetainingWal orders/orders-primary slot=debezium`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.rule, self.cluster)?;
        if let Some(target) = &self.target {
            write!(f, "/{target}")?;
        }
        self.labels.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Warning,
    Critical,
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// An alert as readers and notifiers see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertView {
    pub id: AlertId,
    pub severity: Severity,
    pub phase: Phase,
    /// Since when the condition holds.
    pub active_at: MonoTime,
    /// When it began to fire.
    pub fired_at: Option<MonoTime>,
    pub resolved_at: Option<MonoTime>,
    /// The last reading that was known. `None` when the rule breaches because it is unknown.
    pub reading: Option<f64>,
    /// The reading is unknown now; the alert is held.
    pub is_unknown: bool,
    /// The condition as written, for example `replay_lag_seconds > 5s`.
    pub condition: String,
    pub unit: Unit,
    /// Resolved since what it was about is not there any more, and not on a reading that is clear.
    #[serde(default)]
    pub gone: Option<Gone>,
    /// The readings of late.
    #[serde(default)]
    pub recent: Recent,
    /// Why nobody is told of it now. Empty: people are told. Decided anew at each judgement, so it is not kept.
    #[serde(skip)]
    pub muted: Vec<Mute>,
}

impl AlertView {
    /// Its instants on a clock that shows `nanos` more.
    pub(super) fn move_times(&mut self, nanos: i64) {
        for time in [Some(&mut self.active_at), self.fired_at.as_mut(), self.resolved_at.as_mut()].into_iter().flatten()
        {
            move_time(time, nanos);
        }
        self.recent.move_times(nanos);
    }
}

/// How an alert ended without a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gone {
    /// Its subject has gone, or its rule does not apply to it any more: the slot was dropped, the replica was promoted.
    Subject,
    /// Its rule, its target or its cluster is no longer watched.
    Unwatched,
}

impl Gone {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Unwatched => "unwatched",
        }
    }
}

/// The last readings of an alert since it began: a minute apart, but for the last, which is the latest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recent {
    points: [Option<(MonoTime, f64)>; Self::KEPT],
}

impl Recent {
    const KEPT: usize = 5;

    /// Takes in the latest reading. One that is not finite is none that could be kept.
    pub fn note(&mut self, now: MonoTime, reading: f64) {
        if !reading.is_finite() {
            return;
        }
        let points = &mut self.points;
        let n_points = points.iter().flatten().count();
        let is_near = n_points >= 2
            && points[n_points - 2].is_some_and(|(at, _)| now.duration_since(at) <= Duration::from_secs(60));
        let place = match n_points {
            _ if is_near => n_points - 1,
            Self::KEPT => {
                points.rotate_left(1);
                Self::KEPT - 1
            }
            n_points => n_points,
        };
        points[place] = Some((now, reading));
    }

    /// The oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (MonoTime, f64)> + '_ {
        self.points.iter().flatten().copied()
    }

    pub(super) fn move_times(&mut self, nanos: i64) {
        self.points.iter_mut().flatten().for_each(|(at, _)| move_time(at, nanos));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Pending,
    Firing,
    Resolved,
}

impl Phase {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// How long a resolved alert is still shown. Prometheus' own figure.
pub const SHOWN_AFTER_RESOLVED: Duration = Duration::from_secs(15 * 60);

/// Where an alert stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AlertState {
    #[default]
    Inactive,
    Pending {
        /// Since when the condition holds.
        active_at: MonoTime,
    },
    Firing {
        active_at: MonoTime,
        fired_at: MonoTime,
        /// Since when the condition is clear, while `keep_firing_for` has not passed.
        clear_since: Option<MonoTime>,
    },
}

impl AlertState {
    /// The state after a verdict: `hold` is how long this breach must last to fire, `keep_firing_for` how long it must be
    /// clear to resolve.
    #[must_use]
    pub fn step(self, verdict: Verdict, hold: Duration, keep_firing_for: Duration, now: MonoTime) -> Self {
        match (self, verdict) {
            (state, Verdict::Unknown) => state,
            (_, Verdict::Gone) => Self::Inactive,
            (Self::Inactive | Self::Pending { .. }, Verdict::Clear | Verdict::Possible) => Self::Inactive,
            (Self::Inactive, Verdict::Breach | Verdict::Proven) => Self::fire_after(hold, now, now),
            (Self::Pending { active_at }, Verdict::Breach | Verdict::Proven) => Self::fire_after(hold, active_at, now),
            (Self::Firing { active_at, fired_at, .. }, Verdict::Breach | Verdict::Proven | Verdict::Possible) => {
                Self::Firing { active_at, fired_at, clear_since: None }
            }
            (Self::Firing { active_at, fired_at, clear_since }, Verdict::Clear) => {
                let clear_since = clear_since.unwrap_or(now);
                if now.duration_since(clear_since) >= keep_firing_for {
                    Self::Inactive
                } else {
                    Self::Firing { active_at, fired_at, clear_since: Some(clear_since) }
                }
            }
        }
    }

    /// Its instants on a clock that shows `nanos` more.
    pub(super) fn move_times(&mut self, nanos: i64) {
        match self {
            Self::Inactive => {}
            Self::Pending { active_at } => move_time(active_at, nanos),
            Self::Firing { active_at, fired_at, clear_since } => {
                for time in [Some(active_at), Some(fired_at), clear_since.as_mut()].into_iter().flatten() {
                    move_time(time, nanos);
                }
            }
        }
    }

    fn fire_after(hold: Duration, active_at: MonoTime, now: MonoTime) -> Self {
        if now.duration_since(active_at) >= hold {
            Self::Firing { active_at, fired_at: now, clear_since: None }
        } else {
            Self::Pending { active_at }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AlertState::{Firing, Inactive, Pending};
    use super::Verdict::{Breach, Clear, Gone, Possible, Proven, Unknown};
    use super::*;

    fn at(seconds: i64) -> MonoTime {
        MonoTime::from_nanos(seconds * 1_000_000_000)
    }

    fn pending(active_at: i64) -> AlertState {
        Pending { active_at: at(active_at) }
    }

    fn firing(active_at: i64, fired_at: i64) -> AlertState {
        Firing { active_at: at(active_at), fired_at: at(fired_at), clear_since: None }
    }

    fn clearing(active_at: i64, fired_at: i64, clear_since: i64) -> AlertState {
        Firing { active_at: at(active_at), fired_at: at(fired_at), clear_since: Some(at(clear_since)) }
    }

    /// Steps through verdicts at seconds, and compares the state after each.
    fn check(hold: u64, keep_firing_for: u64, steps: &[(i64, Verdict, AlertState)]) {
        let mut state = Inactive;
        for &(second, verdict, expect) in steps {
            state = state.step(verdict, Duration::from_secs(hold), Duration::from_secs(keep_firing_for), at(second));
            assert_eq!(state, expect, "at {second} s, {verdict:?}");
        }
    }

    #[test]
    fn readings_are_kept_a_minute_apart_and_the_latest_with_them() {
        let mut recent = Recent::default();
        for second in (0..=330).step_by(10) {
            recent.note(at(second), second as f64);
            recent.note(at(second), f64::INFINITY);
            assert_eq!(recent.iter().last(), Some((at(second), second as f64)));
        }
        let kept: Vec<f64> = recent.iter().map(|(_, reading)| reading).collect();
        assert_eq!(kept, [120.0, 180.0, 240.0, 300.0, 330.0]);
    }

    #[test]
    fn a_breach_fires_when_it_has_held() {
        check(
            60,
            0,
            &[
                (0, Clear, Inactive),
                (10, Breach, pending(10)),
                (69, Proven, pending(10)),
                (70, Breach, firing(10, 70)),
                (80, Proven, firing(10, 70)),
                (81, Clear, Inactive),
                (82, Proven, pending(82)),
            ],
        );
    }

    #[test]
    fn a_breach_without_hold_fires_at_once() {
        check(0, 0, &[(5, Breach, firing(5, 5)), (6, Clear, Inactive), (7, Proven, firing(7, 7))]);
    }

    #[test]
    fn an_interrupted_breach_begins_anew() {
        for interruption in [Clear, Possible, Gone] {
            check(60, 0, &[(0, Breach, pending(0)), (50, interruption, Inactive), (61, Breach, pending(61))]);
        }
    }

    #[test]
    fn what_may_breach_neither_fires_nor_resolves() {
        check(
            0,
            0,
            &[(0, Possible, Inactive), (1, Proven, firing(1, 1)), (2, Possible, firing(1, 1)), (3, Clear, Inactive)],
        );
    }

    #[test]
    fn what_is_unknown_changes_nothing_but_time_goes_on() {
        check(
            60,
            30,
            &[
                (0, Unknown, Inactive),
                (1, Breach, pending(1)),
                (100, Unknown, pending(1)),
                (101, Breach, firing(1, 101)),
                (200, Unknown, firing(1, 101)),
                (201, Clear, clearing(1, 101, 201)),
                (300, Unknown, clearing(1, 101, 201)),
                (301, Clear, Inactive),
            ],
        );
    }

    #[test]
    fn an_alert_keeps_firing_until_it_has_been_clear_throughout() {
        check(
            0,
            30,
            &[
                (0, Proven, firing(0, 0)),
                (10, Clear, clearing(0, 0, 10)),
                (39, Clear, clearing(0, 0, 10)),
                (39, Breach, firing(0, 0)),
                (40, Clear, clearing(0, 0, 40)),
                (60, Possible, firing(0, 0)),
                (61, Clear, clearing(0, 0, 61)),
                (91, Clear, Inactive),
            ],
        );
    }

    #[test]
    fn what_has_gone_resolves_at_once() {
        check(0, 30, &[(0, Proven, firing(0, 0)), (1, Gone, Inactive), (2, Gone, Inactive)]);
        check(60, 30, &[(0, Proven, pending(0)), (1, Gone, Inactive)]);
    }
}
