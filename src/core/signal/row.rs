//! How a row of the vocabulary is written, and what reading one needs again and again.

use super::{Coverage, Emit, Kind, Read, Says, Signal, Unit, Value};
use crate::core::observation::{Positions, StandbyState};
use crate::core::shown::Shown;
use crate::core::snapshot::{ClusterView, PoolerView, TargetView};
use crate::core::time::MonoTime;

pub(super) const fn per_target(name: &'static str, unit: Unit, read: ReadTarget) -> Signal {
    Signal {
        name,
        unit,
        kind: Kind::Gauge,
        help: "",
        absent: "Never.",
        source: "",
        says: Says::Number,
        none: None,
        labels: &[],
        read: Read::Target(read),
        shown: None,
    }
}

pub(super) const fn per_cluster(name: &'static str, unit: Unit, read: ReadCluster) -> Signal {
    Signal {
        name,
        unit,
        kind: Kind::Gauge,
        help: "",
        absent: "Never.",
        source: "",
        says: Says::Number,
        none: None,
        labels: &[],
        read: Read::Cluster(read),
        shown: None,
    }
}

pub(super) const fn per_pooler(name: &'static str, unit: Unit, read: ReadPooler) -> Signal {
    Signal {
        name,
        unit,
        kind: Kind::Gauge,
        help: "",
        absent: "Never.",
        source: "",
        says: Says::Number,
        none: None,
        labels: &[],
        read: Read::Pooler(read),
        shown: None,
    }
}

type ReadTarget = fn(&ClusterView, &TargetView, MonoTime, Emit<'_>) -> Coverage;

type ReadCluster = fn(&ClusterView, MonoTime, Emit<'_>) -> Coverage;

type ReadPooler = fn(&PoolerView, MonoTime, Emit<'_>) -> Coverage;

impl Signal {
    pub(super) const fn help(mut self, help: &'static str) -> Self {
        self.help = help;
        self
    }

    /// What 0 and 1 mean, as predicates of the subject.
    pub(super) const fn states(mut self, no: &'static str, yes: &'static str) -> Self {
        self.says = Says::State { no, yes };
        self
    }

    /// A predicate of the subject, with the reading in the place of `{}`.
    pub(super) const fn says(mut self, words: &'static str) -> Self {
        self.says = Says::Words(words);
        self
    }

    /// That there is no value is good news; a predicate of the subject.
    pub(super) const fn none(mut self, words: &'static str) -> Self {
        self.none = Some(words);
        self
    }

    pub(super) const fn absent(mut self, absent: &'static str) -> Self {
        self.absent = absent;
        self
    }

    pub(super) const fn from(mut self, source: &'static str) -> Self {
        self.source = source;
        self
    }

    pub(super) const fn labels(mut self, labels: &'static [&'static str]) -> Self {
        self.labels = labels;
        self
    }

    /// Only these subjects have series.
    pub(super) const fn only(mut self, shown: fn(&TargetView) -> &Shown) -> Self {
        self.shown = Some(shown);
        self
    }

    pub(super) const fn counter(mut self) -> Self {
        self.kind = Kind::Counter;
        self
    }
}

/// States the one value of a signal without labels of its own.
pub(super) fn state(emit: Emit<'_>, value: Option<f64>) -> Coverage {
    match value {
        Some(value) => {
            emit(&[], Value::exact(value));
            Coverage::Complete
        }
        None => Coverage::Unknown,
    }
}

pub(super) fn bool_value(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

pub(super) fn positions(target: &TargetView, now: MonoTime) -> Option<&Positions> {
    target.fresh(now).map(|answer| &*answer.positions)
}

/// States a value that only a standby has. On a primary there is nothing to state.
pub(super) fn of_standby(
    target: &TargetView,
    now: MonoTime,
    emit: Emit<'_>,
    value: impl Fn(&Positions, &StandbyState) -> Option<f64>,
) -> Coverage {
    match positions(target, now) {
        None => Coverage::Unknown,
        Some(positions) => match positions.standby() {
            None => Coverage::Complete,
            Some(standby) => state(emit, value(positions, standby)),
        },
    }
}
