//! How things are said on the page. Numbers are told no finer than a glance takes in: what changes each second without
//! meaning anything would only be noise, for the eye and on the wire.

use std::time::{Duration, SystemTime};

use maud::{Markup, html};

use crate::core::alert::{AlertId, AlertView, Phase, Severity};
use crate::core::lag::{Certainty, LagEstimate};
use crate::core::observation::PollFailure;
use crate::core::quantity;
use crate::core::snapshot::{ClusterView, Snapshot, TargetView};
use crate::core::time::MonoTime;
use crate::core::topology::links::Upstream;
use crate::core::trend::Direction;
use crate::http::api::time_of_day;
use crate::http::overall::{Overall, Words};

/// How much something asks for attention: the colour, which is never the only sign of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Ok,
    Unknown,
    Warn,
    Bad,
}

impl Level {
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }

    pub(super) const fn of(overall: Overall) -> Self {
        match overall {
            Overall::Ok => Self::Ok,
            Overall::Degraded => Self::Warn,
            Overall::Critical => Self::Bad,
            Overall::Stale => Self::Unknown,
        }
    }

    pub(super) const fn of_severity(severity: Severity) -> Self {
        match severity {
            Severity::Info => Self::Unknown,
            Severity::Warning => Self::Warn,
            Severity::Critical => Self::Bad,
        }
    }
}

/// The status as a word with its colour.
pub(super) fn badge(overall: Overall) -> Markup {
    html! { span class={ "badge " (Level::of(overall).class()) } { (overall.as_str()) } }
}

/// Seconds as a glance takes them in.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 0.1 => "<0.1s".to_owned(),
        seconds if seconds < 10.0 => format!("{seconds:.1}s"),
        seconds if seconds < 60.0 => format!("{seconds:.0}s"),
        seconds => quantity::duration(seconds),
    }
}

pub(super) fn bytes(bytes: u64) -> String {
    quantity::bytes(bytes as f64).replace(" bytes", " B")
}

/// The lag of a target as it may be told now. `None` on a primary, and when nobody keeps the estimate up to date.
pub(super) fn lag_of(target: &TargetView, now: MonoTime) -> Option<&LagEstimate> {
    target.lag.as_ref().filter(|_| target.is_attended(now))
}

/// `1.2s`, `≥ 3m 5s`, `≤ 4s`, `unknown`.
pub(super) fn lag(lag: &LagEstimate) -> String {
    match (lag.value, lag.certainty) {
        (None, _) | (_, Certainty::Unknown) => "unknown".to_owned(),
        (Some(value), Certainty::Exact) => seconds(value),
        (Some(value), Certainty::AtLeast) => format!("≥ {}", seconds(value)),
        (Some(_), Certainty::AtMost) if lag.upper.is_finite() => format!("≤ {}", seconds(lag.upper)),
        (Some(value), Certainty::AtMost) => format!("~ {}", seconds(value)),
    }
}

/// How sure a lag is, in words.
pub(super) fn certainty(lag: &LagEstimate) -> &'static str {
    match (lag.value, lag.certainty) {
        (None, _) | (_, Certainty::Unknown) => "not known",
        (_, Certainty::Exact) => "exact",
        (_, Certainty::AtLeast) => "at least",
        (_, Certainty::AtMost) => "at most",
    }
}

pub(super) fn direction(target: &TargetView, now: MonoTime) -> Option<&'static str> {
    target.fresh(now)?;
    Some(match target.trend.as_ref()?.direction? {
        Direction::FallingBehind => "falling behind",
        Direction::Holding => "holding",
        Direction::CatchingUp => "catching up",
    })
}

/// The cause to act on first: `replay paused`.
pub(super) fn cause(target: &TargetView, now: MonoTime) -> Option<String> {
    let diagnosis = target.diagnosis.as_deref().filter(|diagnosis| diagnosis.lags && target.is_attended(now))?;
    Some(diagnosis.causes.first()?.cause.as_str().replace('_', " "))
}

/// `primary`, `replica`, `replica, down`.
pub(super) fn role(target: &TargetView, now: MonoTime) -> String {
    let role = target.last_role().map_or("role not known", |role| role.as_str());
    match (&target.failing, &target.answer) {
        (Some(_), _) => format!("{role}, down"),
        (None, None) => "not asked yet".to_owned(),
        (None, Some(_)) if target.fresh(now).is_none() => format!("{role}, stale"),
        (None, Some(_)) => role.to_owned(),
    }
}

/// `PostgreSQL 15.18`, by its last answer. What the distribution adds to it is left out.
pub(super) fn version(target: &TargetView) -> Option<String> {
    let identity = &target.answer.as_ref()?.positions.identity;
    let number = identity.version.split(' ').next()?;
    let name = match identity.flavor.as_str() {
        "rds" => "RDS PostgreSQL",
        "aurora" => "Aurora PostgreSQL",
        _ => "PostgreSQL",
    };
    Some(format!("{name} {number}"))
}

/// Where it receives from, without addresses.
pub(super) fn upstream(upstream: &Upstream) -> String {
    match upstream {
        Upstream::Target(name) => name.to_string(),
        Upstream::Elsewhere(_) => "a server that is not watched".to_owned(),
        Upstream::Nobody => "nobody: no WAL receiver runs".to_owned(),
        Upstream::Unknown => "not known".to_owned(),
    }
}

/// What ails a target, without a word that a server or a resolver wrote: those may hold addresses.
pub(super) const fn failure(failure: &PollFailure) -> &'static str {
    match failure {
        PollFailure::Timeout { .. } => "no answer in time",
        PollFailure::Lookup { .. } => "its name cannot be looked up",
        PollFailure::Refused => "connection refused",
        PollFailure::Connect { .. } => "cannot be reached",
        PollFailure::Tls { .. } => "TLS fails",
        PollFailure::Authentication { .. } => "it does not let us in",
        PollFailure::NotAccepting { .. } => "it accepts no connections: starting, stopping or recovering",
        PollFailure::TooManyConnections { .. } => "it has no connection left",
        PollFailure::Sql { .. } => "it refuses the query",
        PollFailure::LoginTrigger { .. } => "a login event trigger refuses the session",
        PollFailure::Decode { .. } => "its answer cannot be read",
        PollFailure::Lost { .. } => "the connection was lost",
    }
}

/// How much a target asks for attention.
pub(super) fn level(cluster: &ClusterView, target: &TargetView, now: MonoTime) -> Level {
    let alerts = cluster
        .alerts
        .iter()
        .filter(|alert| alert.phase == Phase::Firing && alert.id.target.as_ref() == Some(&target.id.target))
        .map(|alert| Level::of_severity(alert.severity));
    let own = if target.failing.is_some() {
        Level::Bad
    } else if target.fresh(now).is_none() {
        Level::Unknown
    } else if target.diagnosis.as_ref().is_some_and(|diagnosis| diagnosis.lags) {
        Level::Warn
    } else if target.lag.is_some_and(|lag| lag.value.is_none()) {
        Level::Unknown
    } else {
        Level::Ok
    };
    alerts.fold(own, Level::max)
}

/// Reasons of a verdict, without a number that changes at each poll.
pub(super) const REASONS: Words = Words {
    failing: |failing| failure(&failing.failure).to_owned(),
    fires: |alert, _, _| {
        format!("{} of {} fires: {} ({})", alert.id.rule, subject(&alert.id), reading(alert), alert.condition)
    },
};

/// Labels of alerts that are addresses.
const ADDRESSES: [&str; 1] = ["client_addr"];

/// `replica-1, slot debezium`: whom within its cluster an alert is about.
pub(super) fn subject(id: &AlertId) -> String {
    let labels = id.labels.iter().filter(|(name, value)| !value.is_empty() && !ADDRESSES.contains(&name.as_str()));
    let labels = labels.map(|(name, value)| format!("{name} {value}"));
    let parts: Vec<String> = id.target.iter().map(ToString::to_string).chain(labels).collect();
    if parts.is_empty() { "the whole cluster".to_owned() } else { parts.join(", ") }
}

/// What an alert reads: `6.5s, as of late unknown`.
pub(super) fn reading(alert: &AlertView) -> String {
    match alert.reading {
        None => "not known".to_owned(),
        Some(value) if alert.is_unknown => format!("{}, not known now", quantity::reading(alert.unit, value)),
        Some(value) => quantity::reading(alert.unit, value),
    }
}

/// `2026-11-21 12:00:05 UTC`.
pub(super) fn time(at: SystemTime) -> Markup {
    html! {
        @if let Some(text) = time_of_day(at) { time datetime=(text) { (text[..10]) " " (text[11..19]) " UTC" } }
        @else { "an unknown time" }
    }
}

/// A time of day, and how long ago that is, to the minute.
pub(super) fn when(snapshot: &Snapshot, at: MonoTime, now: MonoTime) -> Markup {
    html! { (time(snapshot.wall_time(at))) " " span.soft { "(" (ago(now.duration_since(at))) ")" } }
}

fn ago(age: Duration) -> String {
    match age.as_secs() / 60 {
        0 => "just now".to_owned(),
        minutes if minutes < 60 => format!("{minutes}m ago"),
        minutes if minutes < 48 * 60 => format!("{}h ago", minutes / 60),
        minutes => format!("{}d ago", minutes / (24 * 60)),
    }
}

/// `1 cluster`, `3 clusters`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// The text, cut to what has room.
pub(super) fn clipped(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}
