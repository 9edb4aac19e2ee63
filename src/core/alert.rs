//! The life of an alert, in Prometheus' words: inactive, pending, firing, resolved.
//!
//! [`AlertState::step`] is the whole of it: a total function of the state, one verdict and the time. Its policy, where
//! Prometheus leaves a choice:
//!
//! - An alert resolves on evidence only: a reading whose whole range does not breach, for all of `keep_firing_for`, or
//!   a subject that has gone. A reading that may breach neither fires nor resolves; it does end a pending alert, since
//!   the condition did not hold throughout.
//! - A reading that is not known (and held) changes nothing, as when Prometheus cannot evaluate a rule: a pending alert stays
//!   pending and does not fire, a firing one stays firing.
//! - Time of which nothing is known is neither for nor against: it counts towards neither `for` nor `keep_firing_for`, and ends
//!   neither. A breach of 40 s, half an hour of silence and a breach of 20 s are a breach that held for a minute. While the
//!   daemon does not run nothing is known, from the last that it kept.
//! - Only the clock that goes forward decides. No step of the time of day fires or resolves anything.
//!
//! [`Track`] adds what a rule that counts periods needs. There, too, nothing resolves on a period of which nothing is known.
//!
//! A rule's severer thresholds have a track of their own each, with the same rules. The mildest one's is the alert's life;
//! the others say how severe it is meanwhile ([`AlertView::severity`]). It may rise, which is told anew, and fall, which is shown. A
//! resolved alert has the highest that it had, so that who heard the worst hears the end.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::datapoints::{Count, Datapoints, Points};
use super::mute::Mute;
use super::rule::{Verdict, WhenUnknown};
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

/// The cluster of alerts about the daemon itself.
pub const DAEMON: &str = "pgvigil";

impl AlertId {
    /// It is about the daemon, and about no server.
    pub fn is_of_daemon(&self) -> bool {
        self.cluster.as_str() == DAEMON && self.target.is_none() && self.labels.is_empty()
    }
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
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
    /// What the rule gives its alerts beside their own labels.
    #[serde(default)]
    pub rule_labels: Vec<(String, String)>,
    /// The rule's own line about this alert, filled in.
    #[serde(default)]
    pub summary: Option<String>,
    /// Where to read what to do.
    #[serde(default)]
    pub runbook: Option<String>,
    /// Why nobody is told of it now. Empty: people are told. Decided anew at each judgement, so it is not kept.
    #[serde(skip)]
    pub muted: Vec<Mute>,
}

impl AlertView {
    /// The name of the signal that its condition is about.
    pub fn signal(&self) -> &str {
        self.condition.split(' ').next().unwrap_or_default()
    }

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

    /// Without the latest, unless it is the only one: what is left changes once a minute.
    #[must_use]
    pub(super) fn settled(mut self) -> Self {
        let n_points = self.points.iter().flatten().count();
        if n_points > 1 {
            self.points[n_points - 1] = None;
        }
        self
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

/// Time over which something has held, less what nothing is known of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spell {
    #[serde(alias = "active_at")]
    pub since: MonoTime,
    /// How much of it is unknown, apart from a stretch that has not ended.
    #[serde(default)]
    unknown: Duration,
    #[serde(default)]
    unknown_since: Option<MonoTime>,
}

impl Spell {
    pub const fn begin(now: MonoTime) -> Self {
        Self { since: now, unknown: Duration::ZERO, unknown_since: None }
    }

    /// Nothing is known from `now` on.
    fn hold(self, now: MonoTime) -> Self {
        Self { unknown_since: self.unknown_since.or(Some(now)), ..self }
    }

    /// It is known to hold at `now`.
    fn go_on(self, now: MonoTime) -> Self {
        let unknown = self.unknown_since.map_or(Duration::ZERO, |since| now.duration_since(since));
        Self { unknown: self.unknown.saturating_add(unknown), unknown_since: None, ..self }
    }

    fn lasted(self, now: MonoTime) -> Duration {
        now.duration_since(self.since).saturating_sub(self.go_on(now).unknown)
    }

    fn move_times(&mut self, nanos: i64) {
        move_time(&mut self.since, nanos);
        if let Some(since) = &mut self.unknown_since {
            move_time(since, nanos);
        }
    }
}

/// Where an alert stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AlertState {
    #[default]
    Inactive,
    /// The condition holds.
    Pending(Spell),
    Firing {
        active_at: MonoTime,
        fired_at: MonoTime,
        /// The condition is clear, while `keep_firing_for` has not passed.
        clear: Option<Spell>,
    },
}

impl AlertState {
    /// The state after a verdict: `hold` is how long this breach must last to fire, `keep_firing_for` how long it must be
    /// clear to resolve.
    #[must_use]
    pub fn step(self, verdict: Verdict, hold: Duration, keep_firing_for: Duration, now: MonoTime) -> Self {
        match (self, verdict) {
            (state, Verdict::Unknown) => state.held(now),
            (_, Verdict::Gone) => Self::Inactive,
            (Self::Inactive | Self::Pending(_), Verdict::Clear | Verdict::Possible) => Self::Inactive,
            (Self::Inactive, Verdict::Breach | Verdict::Proven) => Self::fire_after(hold, Spell::begin(now), now),
            (Self::Pending(spell), Verdict::Breach | Verdict::Proven) => Self::fire_after(hold, spell.go_on(now), now),
            (Self::Firing { active_at, fired_at, .. }, Verdict::Breach | Verdict::Proven | Verdict::Possible) => {
                Self::Firing { active_at, fired_at, clear: None }
            }
            (Self::Firing { active_at, fired_at, clear }, Verdict::Clear) => {
                let clear = clear.map_or_else(|| Spell::begin(now), |clear| clear.go_on(now));
                if clear.lasted(now) >= keep_firing_for {
                    Self::Inactive
                } else {
                    Self::Firing { active_at, fired_at, clear: Some(clear) }
                }
            }
        }
    }

    /// Nothing is known from `now` on.
    #[must_use]
    pub fn held(self, now: MonoTime) -> Self {
        match self {
            Self::Inactive => Self::Inactive,
            Self::Pending(spell) => Self::Pending(spell.hold(now)),
            Self::Firing { active_at, fired_at, clear } => {
                Self::Firing { active_at, fired_at, clear: clear.map(|clear| clear.hold(now)) }
            }
        }
    }

    pub const fn is_firing(self) -> bool {
        matches!(self, Self::Firing { .. })
    }

    /// Its instants on a clock that shows `nanos` more.
    pub(super) fn move_times(&mut self, nanos: i64) {
        match self {
            Self::Inactive => {}
            Self::Pending(spell) => spell.move_times(nanos),
            Self::Firing { active_at, fired_at, clear } => {
                move_time(active_at, nanos);
                move_time(fired_at, nanos);
                if let Some(clear) = clear {
                    clear.move_times(nanos);
                }
            }
        }
    }

    fn fire_after(hold: Duration, spell: Spell, now: MonoTime) -> Self {
        if spell.lasted(now) >= hold {
            Self::Firing { active_at: spell.since, fired_at: now, clear: None }
        } else {
            Self::Pending(spell)
        }
    }
}

/// Where an alert stands with one threshold, and the periods that are counted for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Track {
    pub state: AlertState,
    /// Of a rule with `datapoints`, while the subject is not quiet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<Points>,
}

/// How a rule wants verdicts to be taken.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long this breach must last.
    pub hold: Duration,
    pub keep_firing_for: Duration,
    pub datapoints: Option<Datapoints>,
    pub when_unknown: WhenUnknown,
    /// The verdict of a reading that is not known.
    pub unknown: Verdict,
}

impl Track {
    /// Takes in what is made of a reading; `None`: it is not known.
    pub fn step(&mut self, verdict: Option<Verdict>, terms: &Terms, now: MonoTime) {
        let Some(rule) = terms.datapoints else {
            self.points = None;
            self.state = self.state.step(verdict.unwrap_or(terms.unknown), terms.hold, terms.keep_firing_for, now);
            return;
        };
        if verdict == Some(Verdict::Gone) {
            *self = Self::default();
            return;
        }
        let points = self.points.get_or_insert_with(|| Points::begin(rule, now));
        let has_ended = points.observe(rule, verdict, now);
        let is_firing = self.state.is_firing();
        if is_firing && !has_ended {
            return;
        }
        let (count, has_breach) = (points.count(rule, terms.when_unknown), points.has_breach(rule));
        let lacks_evidence =
            points.ends_unknown() && matches!(terms.when_unknown, WhenUnknown::Hold | WhenUnknown::Alert);
        // A breach begins it, or, where that is on the way to an alarm of its own, what is not known.
        let begins = match verdict {
            Some(verdict) => matches!(verdict, Verdict::Breach | Verdict::Proven),
            None => terms.unknown == Verdict::Breach,
        };
        let is_on_its_way = begins || (self.state != AlertState::Inactive && has_breach);
        let (verdict, hold) = match count {
            Count::Alarm | Count::Insufficient => (Verdict::Breach, Duration::ZERO),
            _ if !is_firing && is_on_its_way => (Verdict::Breach, Duration::MAX),
            _ if !is_firing => (Verdict::Clear, Duration::ZERO),
            Count::Possible => (Verdict::Possible, Duration::ZERO),
            Count::Clear if !lacks_evidence => (Verdict::Clear, Duration::ZERO),
            Count::Clear | Count::Keep => (Verdict::Unknown, Duration::ZERO),
        };
        self.state = self.state.step(verdict, hold, terms.keep_firing_for, now);
        if self.state == AlertState::Inactive && !has_breach {
            self.points = None;
        }
    }

    /// Nothing is known from `now` on.
    pub fn hold(&mut self, now: MonoTime) {
        self.state = self.state.held(now);
    }

    /// Whether time counts for or against it: how much had passed must be known after a restart.
    pub(super) const fn is_counting(&self) -> bool {
        matches!(self.state, AlertState::Pending(_) | AlertState::Firing { clear: Some(_), .. })
    }

    /// Its instants on a clock that shows `nanos` more.
    pub(super) fn move_times(&mut self, nanos: i64) {
        self.state.move_times(nanos);
        if let Some(points) = &mut self.points {
            points.move_times(nanos);
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
        Pending(Spell::begin(at(active_at)))
    }

    fn firing(active_at: i64, fired_at: i64) -> AlertState {
        Firing { active_at: at(active_at), fired_at: at(fired_at), clear: None }
    }

    fn clearing(active_at: i64, fired_at: i64, clear_since: i64) -> AlertState {
        Firing { active_at: at(active_at), fired_at: at(fired_at), clear: Some(Spell::begin(at(clear_since))) }
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
    fn unknown_time_counts_neither_for_nor_against() {
        let mut state = Inactive;
        let mut step = |second, verdict| {
            state = state.step(verdict, Duration::from_secs(60), Duration::from_secs(30), at(second));
            state.is_firing()
        };
        // 40 s of breach, a silence, and 20 s more.
        for (second, verdict, expect) in [
            (0, Breach, false),
            (40, Unknown, false),
            (400, Unknown, false),
            (500, Breach, false),
            (519, Breach, false),
            (520, Proven, true),
            // 10 s of being clear, a silence, and 20 s more.
            (600, Clear, true),
            (610, Unknown, true),
            (900, Unknown, true),
            (1000, Clear, true),
            (1019, Clear, true),
            (1020, Clear, false),
        ] {
            assert_eq!(step(second, verdict), expect, "at {second} s, {verdict:?}");
        }
        assert_eq!(state, Inactive);
        check(60, 0, &[(0, Unknown, Inactive), (1, Breach, pending(1))]);
    }

    #[test]
    fn silence_does_not_change_what_is_kept_again_and_again() {
        let held = pending(0).held(at(10));
        assert_ne!(held, pending(0));
        assert_eq!(held.step(Unknown, Duration::ZERO, Duration::ZERO, at(20)), held);
        assert_eq!(firing(0, 5).held(at(10)), firing(0, 5));
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

#[cfg(test)]
mod properties;
