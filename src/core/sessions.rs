//! What is said of client sessions over time: which names have series of their own, and when the connections run out.

use std::collections::VecDeque;
use std::time::Duration;

use super::shown::{Dropped, Shown};
use super::survey::{Sessions, Tally};
use super::time::MonoTime;

/// Names of one kind that are told one by one; the sessions of others are one number.
const NAMES: usize = 10;

/// What the trend is taken over, and the least that it is taken from.
const WINDOW: Duration = Duration::from_secs(10 * 60);
const MIN_SPAN: Duration = Duration::from_secs(2 * 60);
const MIN_SAMPLES: usize = 6;

/// The share of the variance that the line must explain: a count that merely goes up and down has no trend.
const MIN_FIT: f64 = 0.6;

/// Fewer sessions more than these in the window are somebody who has come, and no trend.
const MIN_GROWTH: f64 = 5.0;

/// Further ahead than this nothing is foretold from ten minutes.
const HORIZON_SECONDS: f64 = 24.0 * 3600.0;

/// Remembers, of one target, what the next survey is to be seen with.
#[derive(Debug, Default)]
pub struct SessionTracker {
    users: Shown,
    applications: Shown,
    clients: Shown,
    databases: Shown,
    totals: VecDeque<(MonoTime, u64)>,
}

impl SessionTracker {
    /// Takes in one survey: folds the names without series of their own into the others, and says in how many seconds
    /// the connections run out if they go on as of late. `None` while they do not grow, or that cannot be told.
    pub fn observe(&mut self, sessions: &mut Sessions, at: MonoTime, dropped: &mut Dropped) -> Option<f64> {
        let mut left_out = 0_u64;
        let by_database = sessions.by_database.as_mut().map(|tally| (tally, &mut self.databases));
        let tallies = [
            (&mut sessions.by_user, &mut self.users),
            (&mut sessions.by_application, &mut self.applications),
            (&mut sessions.by_client, &mut self.clients),
        ];
        for (tally, shown) in tallies.into_iter().chain(by_database) {
            fold(tally, shown);
            left_out = left_out.saturating_add(tally.n_others);
        }
        dropped.add("sessions", usize::try_from(left_out).unwrap_or(usize::MAX));

        self.totals.push_back((at, sessions.total));
        while self.totals.front().is_some_and(|(first, _)| at.duration_since(*first) > WINDOW) {
            self.totals.pop_front();
        }
        let usable = sessions.max_connections.checked_sub(sessions.reserved_connections)?;
        let free = usable.saturating_sub(sessions.total) as f64;
        let seconds = free / growth(&self.totals)?;
        (seconds <= HORIZON_SECONDS).then_some(seconds)
    }
}

/// `other` is the label of the others: a name that reads so cannot have a series beside theirs.
fn fold(tally: &mut Tally, shown: &mut Shown) {
    let ranked: Vec<&str> = tally.named.iter().map(|(name, _)| name.as_str()).collect();
    *shown = Shown::choose(&ranked, shown, NAMES);
    tally.keep(|name| name != "other" && shown.contains(name));
}

/// Sessions more per second, by the least squares of the window. `None` when they do not grow, or not like a line.
fn growth(totals: &VecDeque<(MonoTime, u64)>) -> Option<f64> {
    let ((first, _), (last, _)) = (totals.front()?, totals.back()?);
    if totals.len() < MIN_SAMPLES || last.duration_since(*first) < MIN_SPAN {
        return None;
    }
    let points = || totals.iter().map(|(at, total)| (at.seconds_since(*first), *total as f64));
    let n = totals.len() as f64;
    let (sum_t, sum_y) = points().fold((0.0, 0.0), |(t, y), (at, total)| (t + at, y + total));
    let (mean_t, mean_y) = (sum_t / n, sum_y / n);
    let (mut tt, mut ty, mut yy) = (0.0, 0.0, 0.0);
    for (at, total) in points() {
        let (t, y) = (at - mean_t, total - mean_y);
        tt += t * t;
        ty += t * y;
        yy += y * y;
    }
    let grown = ty / tt * last.duration_since(*first).as_secs_f64();
    (grown >= MIN_GROWTH && ty * ty >= MIN_FIT * tt * yy).then(|| ty / tt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> MonoTime {
        MonoTime::from_nanos(seconds * 1_000_000_000)
    }

    fn sessions(total: u64) -> Sessions {
        Sessions { total, max_connections: 103, reserved_connections: 3, ..Sessions::default() }
    }

    /// What is foretold after surveys every 15 s.
    fn foretold(totals: impl IntoIterator<Item = u64>) -> Option<f64> {
        let mut tracker = SessionTracker::default();
        let surveys = totals.into_iter().zip((0..).step_by(15));
        surveys
            .fold(None, |_, (total, second)| tracker.observe(&mut sessions(total), at(second), &mut Dropped::default()))
    }

    #[test]
    fn connections_that_grow_run_out() {
        // Two more every 15 s: at 60 there are 40 left, which is 300 s.
        let seconds = foretold((0..=20).map(|n| 20 + 2 * n)).unwrap();
        assert!((seconds - 300.0).abs() < 1e-6, "{seconds}");
        // All are used already.
        assert_eq!(foretold((0..=50).map(|n| 2 * n + 1)), Some(0.0));
    }

    #[test]
    fn without_growth_nothing_is_foretold() {
        assert_eq!(foretold([50; 30]), None, "steady");
        assert_eq!(foretold((0..30).map(|n| 90 - n)), None, "falling");
        assert_eq!(foretold((0..40).map(|n| 40 + 20 * (n % 2) + n / 20)), None, "up and down");
        assert_eq!(foretold([10, 20, 30, 40]), None, "too short");
        assert_eq!(foretold((0..40).map(|n| 20 + n / 39)), None, "one more is no trend");
        assert_eq!(foretold((0..10).map(|n| 1 + n / 5)), None, "nor when it has just come");
    }

    #[test]
    fn what_grew_long_ago_does_not_count() {
        assert_eq!(foretold((0..20).map(|n| 2 * n).chain([40; 45])), None);
    }

    fn tally(counts: &[(&str, u64)]) -> Tally {
        Tally {
            named: counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            others: 5,
            n_others: 2,
        }
    }

    #[test]
    fn few_names_are_told_and_no_session_is_lost() {
        let names: Vec<String> = (0..30).map(|n| format!("u{n:02}")).collect();
        let mut tracker = SessionTracker::default();
        let mut dropped = Dropped::default();
        let mut before: Vec<String> = Vec::new();
        for round in 0..20_u64 {
            // All change places all the time, but four.
            let count = |n: u64| if n < 4 { 100 - n } else { (n * 7 + round * 13) % 23 + 1 };
            let mut counts: Vec<(&str, u64)> =
                names.iter().zip(0..).map(|(name, n)| (name.as_str(), count(n))).collect();
            counts.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
            let mut sessions = Sessions { by_user: tally(&counts), ..sessions(0) };
            let sum = |tally: &Tally| tally.others + tally.named.iter().map(|(_, count)| count).sum::<u64>();
            let all = sum(&sessions.by_user);
            tracker.observe(&mut sessions, at(0), &mut dropped);
            assert_eq!(sum(&sessions.by_user), all, "conserved");
            assert_eq!((sessions.by_user.named.len(), sessions.by_user.n_others), (NAMES, 22));
            let shown: Vec<String> = sessions.by_user.named.iter().map(|(name, _)| name.clone()).collect();
            let new = shown.iter().filter(|name| !before.contains(name)).count();
            assert!(round == 0 || new <= 1 + NAMES / 2 - 4, "{new} of {NAMES} changed");
            before = shown;
        }
        assert_eq!(dropped.iter().collect::<Vec<_>>(), [("sessions", 20 * 22)]);
    }

    #[test]
    fn a_name_that_reads_as_the_others_is_one_of_them() {
        let mut sessions = Sessions { by_application: tally(&[("web", 3), ("other", 2)]), ..sessions(0) };
        SessionTracker::default().observe(&mut sessions, at(0), &mut Dropped::default());
        let expect = Tally { named: vec![("web".to_owned(), 3)], others: 7, n_others: 3 };
        assert_eq!(sessions.by_application, expect);
    }
}
