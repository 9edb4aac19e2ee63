//! How causes are told to people.

use super::facts::{Facts, Timelines};
use crate::core::observation::{Blocker, ReplayWait, WaitsOn};
use crate::core::time::ServerTime;
use crate::core::trend::Direction;

/// Seconds as people say them: `0.4 s`, `340 s`, `6 min`, `5 h`, `3 days`.
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        s if s < 9.95 => format!("{:.1} s", s.max(0.0)),
        s if s < 360.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

fn rate(bytes_per_second: f64) -> String {
    match bytes_per_second {
        rate if rate < 1024.0 => format!("{rate:.0} B/s"),
        rate if rate < 1_048_576.0 => format!("{:.1} KiB/s", rate / 1024.0),
        rate => format!("{:.1} MiB/s", rate / 1_048_576.0),
    }
}

/// A name that someone else has chosen.
pub(super) fn name(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// `replay is blocked by a query of user report (application metabase) running for 6 min`.
pub(super) fn blocked(wait: &ReplayWait, clock: ServerTime) -> String {
    let Some(blocker) = &wait.blocker else {
        return "replay is blocked by a session of this server".to_owned();
    };
    let probably = if wait.on == WaitsOn::BufferPin { "probably " } else { "" };
    let others = match wait.n_holders {
        0 | 1 => String::new(),
        2 => ", and by another session".to_owned(),
        n => format!(", and by {} other sessions", n - 1),
    };
    format!("replay is blocked {probably}by {}{others}", session(blocker, clock))
}

fn session(blocker: &Blocker, clock: ServerTime) -> String {
    let (what, doing) = match blocker.is_idle {
        Some(true) => ("an idle transaction", "open"),
        Some(false) => ("a query", "running"),
        None => ("a session", "running"),
    };
    let user = blocker.user.as_ref().map_or_else(String::new, |user| format!(" of user {}", name(user)));
    let application = match blocker.application.as_str() {
        "" => String::new(),
        application => format!(" (application {})", name(application)),
    };
    let age = |since| format!(" {doing} for {}", span(clock.seconds_since(since)));
    let age = blocker.since.map_or_else(String::new, age);
    format!("{what}{user}{application}{age}")
}

/// `WAL arrives slower than it is made (1.0 MiB/s of 8.0 MiB/s)`.
pub(super) fn slow(what: &str, own: Option<f64>, written: Option<f64>) -> String {
    let rates =
        own.zip(written).map_or_else(String::new, |(own, written)| format!(" ({} of {})", rate(own), rate(written)));
    format!("{what} slower than it is made{rates}")
}

/// `None` when it does not catch up.
pub(super) fn catching_up(facts: &Facts<'_>) -> Option<String> {
    let moves = facts.trend.standing_seconds == Some(0.0);
    match (facts.trend.direction, facts.starting_since) {
        (Some(Direction::CatchingUp), None) => Some("it is catching up".to_owned()),
        (Some(Direction::CatchingUp), Some(since)) => {
            Some(format!("it is catching up since it started {} ago", span(since)))
        }
        (None, Some(since)) if moves => Some(format!("it is catching up since it started {} ago", span(since))),
        _ => None,
    }
}

/// A word on the timeline, where that may be why it does not stream.
pub(super) fn timelines(facts: &Facts<'_>) -> String {
    match facts.timelines {
        Timelines::Behind { own, primary } => {
            format!(" (it is on timeline {}, the primary on {})", own.0, primary.0)
        }
        _ => String::new(),
    }
}

/// What can be said when no cause was found.
pub(super) fn unknown(facts: &Facts<'_>) -> String {
    match facts.trend.standing_seconds {
        Some(seconds) if seconds > 0.0 && !facts.reads_all_stats => {
            "replay stands, and what it waits for only pg_monitor may see".to_owned()
        }
        Some(seconds) if seconds > 0.0 => format!("replay stands since {}, and why is not known", span(seconds)),
        _ => "why is not known".to_owned(),
    }
}
