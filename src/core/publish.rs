//! What is told to CloudWatch of what is known: which numbers, sampled how, and in batches of what size.
//!
//! The names are those of the signals. A number that is not known is not told, and neither is one that is none: a gap is a
//! gap. Samples of one minute are told as one datum with all their values, so that CloudWatch's maximum is the highest that
//! there was and not the last.

use std::collections::BTreeMap;

use super::alert::{Phase, Severity};
use super::signal::{Kind, Read, Seen, Signal, Unit};
use super::snapshot::{ClusterView, Snapshot, TargetView};
use super::time::MonoTime;
use super::topology::Name;

/// A number that is told.
#[derive(Clone, Copy, Debug)]
pub enum Published {
    /// Of a target or a cluster, without labels of its own.
    Signal(&'static Signal),
    /// The sum over the labels of one.
    Sum(&'static Signal),
    /// 1 for a target that answers and of which no critical alert fires, otherwise 0.
    Healthy,
    /// 1 while the daemon gets on with its work; nothing while it does not.
    Heartbeat,
}

/// What is told unless something else is asked for.
pub const DEFAULT: [&str; 5] = ["replay_lag_seconds", "replay_lag_bytes", "connections", "healthy", "Heartbeat"];

/// Signals that are told as the sum over their labels.
const SUMMED: [&str; 1] = ["connections"];

impl Published {
    /// The number of this name.
    ///
    /// # Errors
    /// Why there is none that could be told.
    pub fn named(name: &str) -> Result<Self, String> {
        match name {
            "healthy" => return Ok(Self::Healthy),
            "Heartbeat" => return Ok(Self::Heartbeat),
            _ => {}
        }
        let Some(signal) = Signal::named(name) else {
            return Err(format!("there is no signal {name:?}"));
        };
        match (signal.read, signal.kind) {
            _ if SUMMED.contains(&name) => Ok(Self::Sum(signal)),
            (_, Kind::Counter) => Err(format!("{name} is a counter, and CloudWatch has no rates of those")),
            (Read::Pooler(_), _) => {
                Err(format!("{name} is of connection poolers; those of servers and clusters are told"))
            }
            _ if !signal.labels.is_empty() => {
                Err(format!("{name} has labels ({}), each of which would be billed", signal.labels.join(", ")))
            }
            _ => Ok(Self::Signal(signal)),
        }
    }

    pub const fn name(&self) -> &'static str {
        match self {
            Self::Signal(signal) | Self::Sum(signal) => signal.name,
            Self::Healthy => "healthy",
            Self::Heartbeat => "Heartbeat",
        }
    }

    pub const fn unit(&self) -> Unit {
        match self {
            Self::Signal(signal) | Self::Sum(signal) => signal.unit,
            Self::Healthy | Self::Heartbeat => Unit::Bool,
        }
    }

    /// How many of it there are with so many clusters and targets: each is billed.
    pub const fn count(&self, n_clusters: usize, n_targets: usize) -> usize {
        match self {
            Self::Heartbeat => 1,
            Self::Signal(Signal { read: Read::Cluster(_), .. }) => n_clusters,
            _ => n_targets,
        }
    }
}

/// Of what a number is told: CloudWatch's dimensions `cluster` and `instance`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub cluster: Option<Name>,
    pub instance: Option<Name>,
}

/// A number at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: &'static str,
    pub unit: Unit,
    pub place: Place,
    pub value: f64,
}

/// All that can be told now. `makes_progress` is whether the heart beats.
pub fn samples(snapshot: &Snapshot, published: &[Published], makes_progress: bool, now: MonoTime) -> Vec<Sample> {
    let mut samples = Vec::new();
    for published in published {
        let mut tell = |cluster: Option<&Name>, instance: Option<&Name>, value: Option<f64>| {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                let place = Place { cluster: cluster.cloned(), instance: instance.cloned() };
                samples.push(Sample { name: published.name(), unit: published.unit(), place, value });
            }
        };
        if let Published::Heartbeat = published {
            tell(None, None, makes_progress.then_some(1.0));
            continue;
        }
        for cluster in &snapshot.clusters {
            if let Published::Signal(signal @ Signal { read: Read::Cluster(_), .. }) = published {
                tell(Some(&cluster.name), None, sum(signal, Seen::Cluster(cluster), now));
                continue;
            }
            for target in &cluster.targets {
                let value = match published {
                    Published::Signal(signal) | Published::Sum(signal) => {
                        sum(signal, Seen::Target(cluster, target), now)
                    }
                    _ => health(cluster, target, now),
                };
                tell(Some(&cluster.name), Some(&target.id.target), value);
            }
        }
    }
    samples
}

fn sum(signal: &Signal, seen: Seen<'_>, now: MonoTime) -> Option<f64> {
    let mut sum = None;
    signal.read_off(seen, now, &mut |_, value| sum = Some(sum.unwrap_or(0.0) + value.value));
    sum
}

fn health(cluster: &ClusterView, target: &TargetView, now: MonoTime) -> Option<f64> {
    let is_critical = cluster.alerts.iter().any(|alert| {
        alert.phase == Phase::Firing
            && alert.severity == Severity::Critical
            && alert.id.target.as_ref() == Some(&target.id.target)
    });
    let is_healthy = target.is_up() && target.fresh(now).is_some() && !is_critical;
    target.tried().then_some(f64::from(u8::from(is_healthy)))
}

/// Values of one number at one place within one minute, or at one second.
#[derive(Clone, Debug, PartialEq)]
pub struct Datum {
    pub name: &'static str,
    pub unit: Unit,
    pub place: Place,
    /// In seconds since 1970.
    pub at: i64,
    /// Each with how often it was seen.
    pub values: Vec<(f64, u32)>,
}

/// Values that a datum may have.
pub const VALUES: usize = 150;

/// Datums that a request may have.
pub const DATUMS: usize = 1000;

/// A request may have a megabyte; the rest is for what is around the datums.
const BYTES: usize = 900_000;

impl Datum {
    /// At most what it takes in a request.
    fn size(&self) -> usize {
        let names = |name: &Option<Name>| name.as_ref().map_or(0, |name| name.as_str().len());
        200 + self.name.len() + names(&self.place.cluster) + names(&self.place.instance) + 18 * self.values.len()
    }
}

/// What was sampled and is not told yet.
#[derive(Debug, Default)]
pub struct Collected {
    by_place: BTreeMap<(&'static str, Place, i64), Datum>,
}

impl Collected {
    /// Takes up samples. `at` is the minute that they belong to, or the second, in seconds since 1970.
    pub fn add(&mut self, samples: Vec<Sample>, at: i64) {
        for Sample { name, unit, place, value } in samples {
            let datum = self.by_place.entry((name, place.clone(), at));
            let datum = datum.or_insert_with(|| Datum { name, unit, place, at, values: Vec::new() });
            match datum.values.iter().position(|(known, _)| *known == value) {
                Some(known) => datum.values[known].1 += 1,
                None if datum.values.len() < VALUES => datum.values.push((value, 1)),
                // A sample a second does not get here.
                None => {}
            }
        }
    }

    /// All of it, in as many requests as that takes.
    pub fn take(&mut self) -> Vec<Vec<Datum>> {
        let mut requests: Vec<Vec<Datum>> = Vec::new();
        let mut room = 0;
        for datum in std::mem::take(&mut self.by_place).into_values() {
            let size = datum.size();
            if let Some(request) = requests.last_mut().filter(|request| request.len() < DATUMS && size <= room) {
                request.push(datum);
            } else {
                requests.push(vec![datum]);
                room = BYTES;
            }
            room = room.saturating_sub(size);
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{NOW, alert, change_survey, cluster, fail, primary, replica, snapshot};
    use super::super::observation::PollFailure;
    use super::*;

    fn published(names: &[&str]) -> Vec<Published> {
        names.iter().map(|name| Published::named(name).expect("can be told")).collect()
    }

    fn told(snapshot: &Snapshot, names: &[&str], makes_progress: bool) -> Vec<String> {
        let word = |name: &Option<Name>| name.as_ref().map_or("-".to_owned(), Name::to_string);
        let samples = samples(snapshot, &published(names), makes_progress, NOW);
        let line = |sample: &Sample| {
            format!("{} {}/{} {}", sample.name, word(&sample.place.cluster), word(&sample.place.instance), sample.value)
        };
        samples.iter().map(line).collect()
    }

    #[test]
    fn what_is_known_is_told_and_nothing_else() {
        let mut silent = replica("orders", "replica-2");
        fail(&mut silent, PollFailure::Refused);
        silent.lag = None;
        let mut two = replica("orders", "replica-1");
        change_survey(&mut two, |_| {});
        let view = cluster("orders", vec![primary("orders", "primary"), two, silent], vec![]);
        assert_eq!(
            told(&snapshot(vec![view.clone()]), &DEFAULT, true),
            [
                "replay_lag_seconds orders/replica-1 0.12",
                "replay_lag_bytes orders/replica-1 256",
                "replay_lag_bytes orders/replica-2 256",
                "connections orders/primary 46",
                "connections orders/replica-1 46",
                "healthy orders/primary 1",
                "healthy orders/replica-1 1",
                "healthy orders/replica-2 0",
                "Heartbeat -/- 1",
            ]
        );
        // One that does not get on says nothing: the alarm is for what is missing.
        assert_eq!(told(&snapshot(vec![view.clone()]), &["Heartbeat"], false), [""; 0]);
        assert_eq!(told(&snapshot(vec![view.clone()]), &["primaries"], true), ["primaries orders/- 1"]);
        // An alert of a target makes it unhealthy, should it be critical.
        let mut ill = view;
        ill.alerts = vec![alert("Down", Severity::Critical, Phase::Firing, &[])].into();
        assert_eq!(told(&snapshot(vec![ill]), &["healthy"], true)[1], "healthy orders/replica-1 0");
        // An upper bound may be infinite.
        let mut unproven = replica("orders", "replica-1");
        unproven.lag.as_mut().unwrap().upper = f64::INFINITY;
        let view = cluster("orders", vec![unproven], vec![]);
        assert_eq!(told(&snapshot(vec![view]), &["replay_lag_upper_seconds"], true), [""; 0]);
    }

    #[test]
    fn what_has_labels_or_only_grows_cannot_be_told() {
        for (name, reason) in [
            ("slot_retained_bytes", "has labels (slot)"),
            ("statements_calls_total", "is a counter"),
            ("pooler_up", "is of connection poolers"),
            ("replay_lag", "there is no signal"),
        ] {
            let error = Published::named(name).expect_err(name);
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn values_of_a_minute_are_one_datum_and_requests_have_their_size() {
        let place = |n: usize| Place { cluster: Some(Name::new("c")), instance: Some(Name::new(&n.to_string())) };
        let sample = |n, value| Sample { name: "lag", unit: Unit::Seconds, place: place(n), value };
        let mut collected = Collected::default();
        for value in [1.0, 9.0, 1.0] {
            collected.add(vec![sample(0, value)], 60);
        }
        collected.add(vec![sample(0, 2.0)], 120);
        let requests = collected.take();
        let values: Vec<_> = requests[0].iter().map(|datum| (datum.at, datum.values.clone())).collect();
        assert_eq!(values, [(60, vec![(1.0, 2), (9.0, 1)]), (120, vec![(2.0, 1)])]);
        assert_eq!(collected.take(), Vec::<Vec<Datum>>::new());

        collected.add((0..2500).map(|n| sample(n, 1.0)).collect(), 60);
        assert_eq!(collected.take().iter().map(Vec::len).collect::<Vec<_>>(), [1000, 1000, 500]);
        // Many values make a datum large.
        for value in 0..200 {
            collected.add((0..1000).map(|n| sample(n, f64::from(value))).collect(), 60);
        }
        let requests = collected.take();
        assert!(requests.len() > 2 && requests.iter().all(|request| request.len() < 400), "{}", requests.len());
        assert!(requests.iter().flatten().all(|datum| datum.values.len() <= VALUES));
        let size = |request: &Vec<Datum>| request.iter().map(Datum::size).sum::<usize>();
        assert!(requests.iter().map(size).all(|size| size <= BYTES));
    }
}
