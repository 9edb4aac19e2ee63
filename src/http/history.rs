//! How far each replica lagged in the last hours, and which alerts fired meanwhile: what the chart of the status page is
//! drawn from. In memory, bounded: [`KEPT`] points of four bytes a target (under 6 KiB), and [`SPANS`] alerts a cluster.
//! Of what is older than the daemon's start there is what was kept on disk: one reading a minute, which stands for that
//! minute. Where nothing was known there is nothing.
//!
//! A task of its own takes samples off the published snapshots. Readers and that task wait for each other, and nobody else
//! for either.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::core::alert::{AlertId, AlertView, Severity};
use crate::core::snapshot::{ClusterView, Snapshot, TargetView};
use crate::core::time::MonoTime;
use crate::core::topology::{Name, TargetId};

/// A point is the worst lag of so long.
pub const STEP: Duration = Duration::from_secs(15);

/// Points of each target: six hours.
pub const KEPT: usize = 1440;

/// What was kept on disk is of a minute.
const STEPS_KEPT_ON_DISK: i64 = 4;

/// Alerts of each cluster, the latest to fire.
const SPANS: usize = 64;

/// How often samples are taken.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// When an alert fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub alert: AlertId,
    pub severity: Severity,
    pub from: MonoTime,
    /// `None`: it still fires.
    pub until: Option<MonoTime>,
}

/// The worst lag of each [`STEP`], from `first` on.
#[derive(Debug, Default)]
struct Series {
    /// Counted from the clock's beginning.
    first: i64,
    /// `NaN` where it was not known.
    lags: VecDeque<f32>,
}

impl Series {
    fn note(&mut self, step: i64, lag: Option<f64>) {
        let lag = lag.map_or(f32::NAN, |lag| lag as f32);
        if self.lags.is_empty() || step >= self.first + (self.lags.len() + KEPT) as i64 {
            self.lags.clear();
            self.first = step;
        }
        let Ok(place) = usize::try_from(step - self.first) else { return };
        while self.lags.len() <= place {
            self.lags.push_back(f32::NAN);
        }
        // A lag that is known wins over one that is not.
        self.lags[place] = self.lags[place].max(lag);
        while self.lags.len() > KEPT {
            self.lags.pop_front();
            self.first += 1;
        }
    }

    fn at(&self, step: i64) -> Option<f32> {
        let lag = *self.lags.get(usize::try_from(step - self.first).ok()?)?;
        (!lag.is_nan()).then_some(lag)
    }
}

/// What is remembered of one cluster.
#[derive(Debug, Default)]
struct Past {
    series: BTreeMap<Name, Series>,
    /// In the order in which they began to fire.
    spans: VecDeque<Span>,
}

/// What is remembered of one cluster, as readers get it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hours {
    /// When the first point begins.
    pub from: Option<MonoTime>,
    /// Replicas that were seen to lag, or not to, each with a point a step. `None` where it was not known.
    pub series: Vec<(Name, Vec<Option<f32>>)>,
    pub spans: Vec<Span>,
}

impl Hours {
    /// How many points each series has.
    pub fn n_points(&self) -> usize {
        self.series.first().map_or(0, |(_, lags)| lags.len())
    }
}

/// The last hours of every cluster. Cheap to clone; the clones are one.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<HashMap<Name, Past>>>);

impl History {
    /// Takes samples until `cancel`.
    pub async fn record(self, snapshots: watch::Receiver<Arc<Snapshot>>, cancel: CancellationToken) {
        let mut every = tokio::time::interval(SAMPLE_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = every.tick() => {}
            }
            let snapshot = Arc::clone(&snapshots.borrow());
            self.sample(&snapshot, clock::now());
        }
    }

    /// Takes in what was known before the start: of each target when, and its lag in the minute from then on.
    pub fn restore(&self, known: &[(TargetId, Vec<(MonoTime, f64)>)]) {
        let mut clusters = self.lock();
        for (id, lags) in known {
            let mut older = Series::default();
            for (at, lag) in lags {
                let first = step_of(*at);
                (first..first + STEPS_KEPT_ON_DISK).for_each(|step| older.note(step, Some(*lag)));
            }
            if older.lags.is_empty() {
                continue;
            }
            let series = clusters.entry(id.cluster.clone()).or_default().series.entry(id.target.clone()).or_default();
            let newer = std::mem::replace(series, older);
            for (step, lag) in (newer.first..).zip(newer.lags) {
                series.note(step, (!lag.is_nan()).then(|| f64::from(lag)));
            }
        }
    }

    /// Takes in what is known at `now`. What is watched no more is forgotten.
    pub(super) fn sample(&self, snapshot: &Snapshot, now: MonoTime) {
        let mut clusters = self.lock();
        clusters.retain(|name, _| snapshot.cluster(name.as_str()).is_some());
        for cluster in &snapshot.clusters {
            if !clusters.contains_key(&cluster.name) {
                clusters.insert(cluster.name.clone(), Past::default());
            }
            if let Some(past) = clusters.get_mut(&cluster.name) {
                past.sample(cluster, now);
            }
        }
    }

    /// The last hours of a cluster.
    pub fn of(&self, cluster: &str, now: MonoTime) -> Hours {
        let clusters = self.lock();
        let Some(past) = clusters.get(cluster) else { return Hours::default() };
        let last = step_of(now);
        let steps = past.steps(last, KEPT);
        Hours {
            from: past.first().map(|_| begin_of(*steps.start())),
            series: past
                .series
                .iter()
                .map(|(name, series)| (name.clone(), steps.clone().map(|step| series.at(step)).collect()))
                .collect(),
            spans: past.spans.iter().cloned().collect(),
        }
    }

    /// The worst lag of any replica of a cluster in each of `n` equal parts of the time before `now`, the earliest first.
    pub(super) fn worst(&self, cluster: &str, within: Duration, n: usize, now: MonoTime) -> Vec<Option<f32>> {
        let clusters = self.lock();
        let Some(past) = clusters.get(cluster) else { return vec![None; n] };
        let each = ((within.as_secs() / STEP.as_secs()) as usize / n).max(1) as i64;
        let last = step_of(now);
        (0..n as i64)
            .map(|part| {
                let end = last - (n as i64 - 1 - part) * each;
                let lags = past.series.values().flat_map(|series| (end - each + 1..=end).filter_map(|s| series.at(s)));
                lags.reduce(f32::max)
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Past>> {
        // Points are whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Past {
    fn first(&self) -> Option<i64> {
        self.series.values().map(|series| series.first).min()
    }

    /// The steps that there is something of, `most` at most.
    fn steps(&self, last: i64, most: usize) -> std::ops::RangeInclusive<i64> {
        let earliest = last - most as i64 + 1;
        self.first().map_or(last, |first| first.clamp(earliest, last))..=last
    }

    fn sample(&mut self, cluster: &ClusterView, now: MonoTime) {
        let step = step_of(now);
        self.series.retain(|name, _| cluster.target(name.as_str()).is_some());
        for target in &cluster.targets {
            let lag = lag_of(target, now);
            let name = &target.id.target;
            match self.series.get_mut(name) {
                Some(series) => series.note(step, lag),
                // A primary has none.
                None if lag.is_some() => self.series.entry(name.clone()).or_default().note(step, lag),
                None => {}
            }
        }
        let fired = |alert: &AlertView| alert.fired_at.map(|from| (alert.id.clone(), from));
        for span in self.spans.iter_mut().filter(|span| span.until.is_none()) {
            let found = cluster.alerts.iter().find(|alert| alert.id == span.alert && alert.fired_at == Some(span.from));
            match found {
                Some(alert) => (span.severity, span.until) = (span.severity.max(alert.severity), alert.resolved_at),
                None => span.until = Some(now),
            }
        }
        for alert in cluster.alerts.iter() {
            let Some((id, from)) = fired(alert) else { continue };
            if !self.spans.iter().any(|span| span.alert == id && span.from == from) {
                self.spans.push_back(Span { alert: id, severity: alert.severity, from, until: alert.resolved_at });
            }
        }
        let earliest = begin_of(step - KEPT as i64);
        self.spans.retain(|span| span.until.is_none_or(|until| until > earliest));
        while self.spans.len() > SPANS {
            self.spans.pop_front();
        }
    }
}

/// As it is shown: not by an estimate that nobody keeps up to date.
fn lag_of(target: &TargetView, now: MonoTime) -> Option<f64> {
    target.lag.as_ref().filter(|_| target.is_attended(now))?.value
}

fn step_of(at: MonoTime) -> i64 {
    at.as_nanos().div_euclid(STEP.as_nanos() as i64)
}

fn begin_of(step: i64) -> MonoTime {
    MonoTime::from_nanos(step.saturating_mul(STEP.as_nanos() as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::alert::Phase;
    use crate::core::fixture::{self, NOW};
    use crate::core::lag::{Certainty, Evidence};

    fn lagging(seconds: Option<f64>, alerts: Vec<AlertView>) -> Snapshot {
        let mut targets = fixture::orders();
        targets[1].lag = Some(seconds.map_or_else(
            || fixture::unknown_lag(Evidence::NoPrimary),
            |s| fixture::lag(s, s, s, Certainty::Exact, Evidence::Lsn),
        ));
        fixture::snapshot(vec![fixture::cluster("orders", targets, alerts)])
    }

    fn series(hours: &Hours, name: &str) -> Vec<Option<f32>> {
        hours.series.iter().find(|(series, _)| series.as_str() == name).expect("a series").1.clone()
    }

    #[test]
    fn a_point_is_the_worst_of_its_time_and_a_gap_is_a_gap() {
        let history = History::default();
        let at = |steps: i64| NOW.plus_seconds((steps * 15) as f64);
        // Answers must be fresh: time stands still for them.
        let sample = |lag, steps| history.sample(&fixture::moved_to(lagging(lag, vec![]), at(steps)), at(steps));
        sample(Some(1.0), 0);
        sample(Some(3.0), 0);
        sample(Some(2.0), 0);
        sample(None, 1);
        sample(Some(4.0), 3);
        let hours = history.of("orders", at(3));
        assert_eq!(series(&hours, "replica-1"), [Some(3.0), None, None, Some(4.0)]);
        assert_eq!(hours.series.len(), 2, "a primary has none");
        assert!(hours.from.is_some_and(|from| from <= NOW && NOW.seconds_since(from) < 15.0));
        assert_eq!(history.worst("orders", Duration::from_secs(30), 2, at(3)), [None, Some(4.0)]);
        assert_eq!(history.of("nothing", NOW), Hours::default());
    }

    #[test]
    fn what_was_known_before_the_start_is_shown_with_its_gaps() {
        let history = History::default();
        let at = |steps: i64| NOW.plus_seconds((steps * 15) as f64);
        let sample = |lag, steps| history.sample(&fixture::moved_to(lagging(lag, vec![]), at(steps)), at(steps));
        // It may have sampled already by the time the disk is read.
        sample(Some(1.0), 20);
        history.restore(&[
            (TargetId::new("orders", "replica-1"), vec![(at(0), 5.0), (at(8), 7.0)]),
            (TargetId::new("orders", "replica-2"), Vec::new()),
            (TargetId::new("gone", "a"), vec![(at(0), 5.0)]),
        ]);
        sample(Some(2.0), 21);
        let told = series(&history.of("orders", at(21)), "replica-1");
        let (five, seven, gap) = ([Some(5.0); 4], [Some(7.0); 4], [None; 8]);
        assert_eq!(told, [&five[..], &gap[..4], &seven, &gap, &[Some(1.0), Some(2.0)]].concat());
        assert_eq!(history.of("gone", at(21)), Hours::default(), "it is watched no more");
    }

    #[test]
    fn it_is_bounded_and_forgets_what_is_watched_no_more() {
        let history = History::default();
        for steps in 0..(KEPT as i64 + 10) {
            let at = NOW.plus_seconds((steps * 15) as f64);
            history.sample(&fixture::moved_to(lagging(Some(1.0), vec![]), at), at);
        }
        let last = NOW.plus_seconds(((KEPT + 9) * 15) as f64);
        assert_eq!(history.of("orders", last).n_points(), KEPT);
        // After a long sleep nothing of before is in sight.
        let later = last.plus_seconds(1e7);
        history.sample(&fixture::moved_to(lagging(Some(2.0), vec![]), later), later);
        assert_eq!(series(&history.of("orders", later), "replica-1"), [Some(2.0)]);
        history.sample(&fixture::snapshot(vec![]), later);
        assert_eq!(history.of("orders", later), Hours::default());
    }

    #[test]
    fn alerts_are_remembered_from_when_they_fire_until_they_do_not() {
        let history = History::default();
        let alert = |phase| fixture::alert("ReplicaLagging", Severity::Warning, phase, &[]);
        let spans = |alerts| {
            history.sample(&lagging(Some(9.0), alerts), NOW);
            history.of("orders", NOW).spans
        };
        assert_eq!(spans(vec![alert(Phase::Pending)]), []);
        let firing = spans(vec![alert(Phase::Firing)]);
        assert_eq!((firing.len(), firing[0].from, firing[0].until), (1, fixture::ago(30.0), None));
        let resolved = spans(vec![alert(Phase::Resolved)]);
        assert_eq!((resolved.len(), resolved[0].until), (1, Some(fixture::ago(5.0))));
        // It is shown for a while only, and remembered for longer.
        assert_eq!(spans(vec![]), resolved);
    }
}
