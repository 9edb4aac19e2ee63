//! How causes are told to people.

use super::facts::{Facts, Timelines};
use crate::core::escape;
use crate::core::observation::{Blocker, ReplayPause, ReplayWait, WaitsOn};
use crate::core::quantity::{duration, reading};
use crate::core::signal::Unit;
use crate::core::time::ServerTime;
use crate::core::trend::Direction;

fn rate(bytes_per_second: f64) -> String {
    reading(Unit::BytesPerSecond, bytes_per_second)
}

/// A name that someone else has chosen.
pub(super) fn name(name: &str) -> String {
    escape::name(name).into_owned()
}

/// `replay is blocked by a query of user report (application metabase, pid 4711) running for 6m`.
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
    let application = Some(name(&blocker.application)).filter(|application| !application.is_empty());
    let application = application.map(|application| format!("application {application}"));
    let pid = blocker.pid.map(|pid| format!("pid {pid}"));
    let known: Vec<String> = application.into_iter().chain(pid).collect();
    let known = if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) };
    let age = |since| format!(" {doing} for {}", duration(clock.seconds_since(since)));
    let age = blocker.since.map_or_else(String::new, age);
    format!("{what}{user}{known}{age}")
}

/// `WAL arrives slower than it is made (1 MiB/s of 8 MiB/s)`.
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
            Some(format!("it is catching up since it started {} ago", duration(since)))
        }
        (None, Some(since)) if moves => Some(format!("it is catching up since it started {} ago", duration(since))),
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

/// A server that has paused replay starts no WAL receiver, so that the way to the upstream need not be the reason.
pub(super) fn paused(facts: &Facts<'_>) -> &'static str {
    match facts.pause {
        ReplayPause::NotPaused => "",
        ReplayPause::Requested | ReplayPause::Paused => " (no WAL receiver is started while replay is paused)",
    }
}

/// What can be said when no cause was found.
pub(super) fn unknown(facts: &Facts<'_>) -> String {
    match facts.trend.standing_seconds {
        Some(seconds) if seconds > 0.0 && !facts.reads_all_stats => {
            "replay stands, and what it waits for only pg_monitor may see".to_owned()
        }
        Some(seconds) if seconds > 0.0 => format!("replay stands since {}, and why is not known", duration(seconds)),
        _ => "why is not known".to_owned(),
    }
}
