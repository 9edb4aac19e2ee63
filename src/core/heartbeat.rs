//! Whether the daemon gets on with its work, for a dead man's switch. Being alive is not enough: a monitor whose polls
//! hang, or whose rules are no longer judged, alerts of nothing, and nobody would know.
//!
//! There is progress while all of these hold:
//!
//! - The engine publishes what it knows, as it does at each judgement of the rules.
//! - Every server was polled of late, with an answer or with a failure. One that is down is told of by an alert, and does
//!   not stop the heart; a poll that never ends is told of by nobody.
//! - Some server has answered of late. A monitor that hears nobody cannot be told from one that has gone deaf, and its
//!   alerts may not get out either: that the heart stops then, besides whatever alerts fire, is wanted.

use std::fmt;
use std::time::Duration;

use super::quantity::duration;
use super::snapshot::{Snapshot, TargetView};
use super::time::MonoTime;
use super::topology::TargetId;

/// How old what counts as progress may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The last answer of a server that is up, the last publication, and the last answer of any server at all.
    pub answer: Duration,
    /// The last failure of a server that is down, which is asked less often.
    pub failure: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Made,
    /// It has just started, and nothing has answered yet.
    NotYet,
    Stalled(Stall),
}

/// What does not get on, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stall {
    Engine(Duration),
    Polls(TargetId, Duration),
    Silence(Duration),
}

/// In whole seconds: less is of no interest.
fn told(time: Duration) -> String {
    duration(time.as_secs() as f64)
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(time) => write!(f, "rules were last judged {} ago", told(*time)),
            Self::Polls(target, time) => {
                write!(f, "the last poll of {target} that came to an end did so {} ago", told(*time))
            }
            Self::Silence(time) => write!(f, "no server has answered for {}", told(*time)),
        }
    }
}

/// Whether there is progress at `now`. The daemon started at `started_at`.
pub fn progress(snapshot: &Snapshot, started_at: MonoTime, now: MonoTime, limits: Limits) -> Progress {
    let age = |at: Option<MonoTime>| now.duration_since(at.unwrap_or(started_at).max(started_at));
    let published = age(Some(snapshot.published_at));
    if published > limits.answer {
        return Progress::Stalled(Stall::Engine(published));
    }
    let targets = || snapshot.clusters.iter().flat_map(|cluster| &cluster.targets);
    let stuck = targets().filter_map(|target| {
        // One that was not tried yet may have to wait for its turn to connect.
        let is_waiting = target.failing.is_some() || !target.tried();
        let limit = if is_waiting { limits.failure } else { limits.answer };
        let age = age(last_end(target).max(target.since));
        (age > limit).then_some((age, target))
    });
    if let Some((age, target)) = stuck.max_by_key(|(age, _)| *age) {
        return Progress::Stalled(Stall::Polls(target.id.clone(), age));
    }
    let last_answer = targets().filter_map(|target| Some(target.answer.as_ref()?.answered_at)).max();
    match (age(last_answer), last_answer) {
        (silence, _) if silence > limits.answer => Progress::Stalled(Stall::Silence(silence)),
        (_, Some(_)) => Progress::Made,
        (_, None) => Progress::NotYet,
    }
}

/// When the last of its polls came to an end.
fn last_end(target: &TargetView) -> Option<MonoTime> {
    let failed_at = target.failing.as_ref().map(|failing| failing.last_at);
    failed_at.max(target.answer.as_ref().map(|answer| answer.answered_at))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, NOW, ago};
    use super::super::observation::PollFailure;
    use super::*;

    const LIMITS: Limits = Limits { answer: Duration::from_secs(60), failure: Duration::from_secs(100) };

    fn answered(name: &str, seconds_ago: f64) -> TargetView {
        let mut target = fixture::replica("orders", name);
        if let Some(answer) = &mut target.answer {
            answer.answered_at = ago(seconds_ago);
        }
        target
    }

    fn failing(name: &str, last_answer: f64, last_failure: f64) -> TargetView {
        let mut target = answered(name, last_answer);
        fixture::fail(&mut target, PollFailure::Refused);
        fixture::age(&mut target, last_answer);
        if let Some(failing) = &mut target.failing {
            failing.last_at = ago(last_failure);
        }
        target
    }

    fn untried(name: &str) -> TargetView {
        TargetView::new(TargetId::new("orders", name), Duration::from_secs(10))
    }

    fn check(targets: Vec<TargetView>, published: f64, started: f64) -> Progress {
        let mut snapshot = fixture::snapshot(vec![fixture::cluster("orders", targets, vec![])]);
        snapshot.published_at = ago(published);
        progress(&snapshot, ago(started), NOW, LIMITS)
    }

    fn stalled(stall: Stall) -> Progress {
        Progress::Stalled(stall)
    }

    fn polls(name: &str, seconds: u64) -> Progress {
        stalled(Stall::Polls(TargetId::new("orders", name), Duration::from_secs(seconds)))
    }

    #[test]
    fn progress_is_what_has_been_done_of_late() {
        assert_eq!(check(vec![answered("a", 1.0), answered("b", 60.0)], 1.0, 999.0), Progress::Made);
        // The slowest of those that are up decides.
        assert_eq!(check(vec![answered("a", 1.0), answered("b", 61.0)], 1.0, 999.0), polls("b", 61));
        assert_eq!(check(vec![answered("a", 62.0), answered("b", 61.0)], 1.0, 999.0), polls("a", 62));
    }

    #[test]
    fn a_server_that_is_down_does_not_stop_the_heart_and_one_that_is_no_longer_asked_does() {
        assert_eq!(check(vec![answered("a", 1.0), failing("b", 900.0, 99.0)], 1.0, 999.0), Progress::Made);
        assert_eq!(check(vec![answered("a", 1.0), failing("b", 900.0, 101.0)], 1.0, 999.0), polls("b", 101));
    }

    #[test]
    fn a_monitor_that_hears_nobody_is_taken_for_deaf() {
        let silence = |seconds| stalled(Stall::Silence(Duration::from_secs(seconds)));
        assert_eq!(check(vec![failing("a", 60.0, 1.0), failing("b", 300.0, 1.0)], 1.0, 999.0), Progress::Made);
        assert_eq!(check(vec![failing("a", 61.0, 1.0), failing("b", 300.0, 1.0)], 1.0, 999.0), silence(61));
    }

    #[test]
    fn an_engine_that_stands_still_is_no_progress_whatever_it_last_knew() {
        let engine = stalled(Stall::Engine(Duration::from_secs(61)));
        assert_eq!(check(vec![answered("a", 1.0)], 61.0, 999.0), engine);
    }

    #[test]
    fn a_daemon_that_has_just_started_has_its_time() {
        assert_eq!(check(vec![untried("a"), untried("b")], 0.0, 60.0), Progress::NotYet);
        assert_eq!(check(vec![untried("a"), answered("b", 1.0)], 0.0, 60.0), Progress::Made);
        // One that waits for its turn to connect has longer.
        assert_eq!(check(vec![untried("a"), answered("b", 1.0)], 0.0, 100.0), Progress::Made);
        assert_eq!(check(vec![untried("a"), answered("b", 1.0)], 0.0, 101.0), polls("a", 101));
    }
}
