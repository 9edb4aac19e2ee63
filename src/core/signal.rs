//! THE vocabulary. Every number pgvigil can state is one row of [`SIGNALS`]: its name, unit, meaning, when it is absent,
//! where it comes from, and how it is read off a view; each file here holds the rows of one matter. `/metrics`, rules, the book's table and dashboards all use it.
//!
//! A number that is not known is *absent*: [`Signal::read`] then states nothing. It says by its [`Coverage`] whether a
//! subject that it did not state has gone, or is merely unknown: the first resolves an alert, the second does not.
//!
//! What was read from a server is stated while the sample is fresh, counters too: a total that stopped moving because
//! nobody asks any more would look like a server that stopped working. Only the lag outlives its sample, because the lag
//! of a silent replica is estimated anew while it is silent.

mod aurora;
mod cause;
mod cloudwatch;
mod cluster;
mod lag;
mod pooler;
mod rds;
mod receiver;
mod row;
mod senders;
mod sessions;
mod slots;
mod statements;
mod subscriptions;
mod target;
mod topology;
mod trend;

use std::sync::LazyLock;

pub use senders::sender_state;
pub use sessions::used_ratio;
pub use target::lacking;

use serde::{Deserialize, Serialize};

use super::quantity;
use super::shown::Shown;
use super::snapshot::{ClusterView, PoolerView, TargetView};
use super::time::MonoTime;

/// Every number there is, in the order of `/metrics`.
pub static SIGNALS: LazyLock<Vec<Signal>> = LazyLock::new(|| {
    [
        cluster::ROWS,
        target::ROWS,
        lag::ROWS,
        receiver::ROWS,
        senders::ROWS,
        trend::ROWS,
        cause::ROWS,
        sessions::ROWS,
        slots::ROWS,
        topology::ROWS,
        subscriptions::ROWS,
        aurora::ROWS,
        rds::ROWS,
        statements::ROWS,
        pooler::ROWS,
        cloudwatch::ROWS,
    ]
    .concat()
});

/// One number that pgvigil can state.
#[derive(Clone, Copy, Debug)]
pub struct Signal {
    /// Without the `pgvigil_` prefix that the series has.
    pub name: &'static str,
    pub unit: Unit,
    pub kind: Kind,
    /// What it is. One sentence; the series' HELP text.
    pub help: &'static str,
    /// When no value is stated.
    pub absent: &'static str,
    /// The view or function it comes from.
    pub source: &'static str,
    /// How a reading of it is told to people.
    pub says: Says,
    /// The same of a subject that had a value and has none now, where that is good news: nobody waits any more, so there is
    /// no longest wait. Rules take it for a value that breaches nothing. `None`: the subject has gone, or the signal does not
    /// apply to it.
    pub none: Option<&'static str>,
    /// Names of the labels after `cluster` and `target`.
    pub labels: &'static [&'static str],
    pub read: Read,
    /// Where there may be too many subjects for `/metrics`: those that have series, by the first of `labels`. Rules judge all.
    pub shown: Option<fn(&TargetView) -> &Shown>,
}

/// What a reading says of its subject: a predicate, so that it makes a sentence with any subject before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// Nothing but its name and the number.
    Number,
    /// What 0 and 1 mean.
    State { no: &'static str, yes: &'static str },
    /// The reading stands in the place of `{}`, the value of a label in that of its name in braces; `[one|many]` goes by the reading.
    Words(&'static str),
}

/// How a signal is read off the views.
#[derive(Clone, Copy, Debug)]
pub enum Read {
    /// Stated per cluster.
    Cluster(fn(&ClusterView, MonoTime, Emit<'_>) -> Coverage),
    /// Stated per target.
    Target(fn(&ClusterView, &TargetView, MonoTime, Emit<'_>) -> Coverage),
    /// Stated per connection pooler, whose name stands in the label `target`.
    Pooler(fn(&PoolerView, MonoTime, Emit<'_>) -> Coverage),
}

/// What a signal can be read off.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    Cluster(&'a ClusterView),
    Target(&'a ClusterView, &'a TargetView),
    Pooler(&'a PoolerView),
}

/// Takes the values of the labels, in the order of [`Signal::labels`], and the value. Never called twice with the same
/// values of labels in one reading.
pub type Emit<'a> = &'a mut dyn FnMut(&[&str], Value);

/// What the silence of a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// All there is was stated: a subject that was stated before and is not now has gone (or the signal does not apply).
    Complete,
    /// The source could not be read: a subject that was not stated is unknown.
    Unknown,
}

/// A value with what is proven of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    pub value: f64,
    /// Proven: it is at least this.
    pub lower: f64,
    /// Proven: it is at most this.
    pub upper: f64,
}

impl Value {
    /// A value without doubt.
    pub const fn exact(value: f64) -> Self {
        Self { value, lower: value, upper: value }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gauge,
    Counter,
}

impl Kind {
    /// The word of the text exposition's TYPE line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
        }
    }
}

/// What a signal counts, which decides how a threshold is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Written `5s`, `1m 30s`.
    Seconds,
    /// Written `64MiB`, `10GB`.
    Bytes,
    /// Written `10MB/s`, or as bytes.
    BytesPerSecond,
    /// Written `80%` or `0.8`.
    Ratio,
    /// A plain number.
    Count,
    /// 0 or 1.
    Bool,
}

impl Unit {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "bytes per second",
            Self::Ratio => "ratio",
            Self::Count => "count",
            Self::Bool => "0 or 1",
        }
    }
}

impl Signal {
    /// The series' name in `/metrics`.
    pub fn series(&self) -> String {
        format!("pgvigil_{}", self.name)
    }

    /// What a reading says of its subject: `is 1m 15s behind its primary`.
    pub fn predicate(&self, reading: f64, labels: &[(String, String)]) -> String {
        match self.says {
            Says::Number => format!("has {} at {}", self.name, quantity::reading(self.unit, reading)),
            Says::State { no, .. } if reading == 0.0 => no.to_owned(),
            Says::State { yes, .. } => yes.to_owned(),
            Says::Words(words) => {
                let number = quantity::reading(self.unit, reading);
                let words = numbered(words, reading == 1.0);
                let words = if reading.is_infinite() { words.replace("up to {}", "any length of time") } else { words };
                let words = words.replace("{}", &number);
                labels.iter().fold(words, |words, (name, value)| words.replace(&format!("{{{name}}}"), value))
            }
        }
    }

    /// States what is known of it by a view. Of a view of another kind there is nothing to state.
    pub fn read_off(&self, seen: Seen<'_>, now: MonoTime, emit: Emit<'_>) -> Coverage {
        match (self.read, seen) {
            (Read::Cluster(read), Seen::Cluster(cluster)) => read(cluster, now, emit),
            (Read::Target(read), Seen::Target(cluster, target)) => read(cluster, target, now, emit),
            (Read::Pooler(read), Seen::Pooler(pooler)) => read(pooler, now, emit),
            _ => Coverage::Complete,
        }
    }

    /// Whether what is wrong with a replica's replication says something of it.
    pub fn is_about_replication(&self) -> bool {
        let rows = [lag::ROWS, cause::ROWS, receiver::ROWS, trend::ROWS, topology::ROWS];
        rows.iter().any(|rows| rows.iter().any(|row| row.name == self.name))
    }

    /// Whether CloudWatch must be read for it.
    pub fn is_of_cloudwatch(&self) -> bool {
        cloudwatch::ROWS.iter().any(|row| row.name == self.name)
    }

    /// The signal of this name, without the prefix of the series.
    pub fn named(name: &str) -> Option<&'static Self> {
        SIGNALS.iter().find(|signal| signal.name == name)
    }
}

/// Chooses between `[one|many]`.
fn numbered(text: &str, is_one: bool) -> String {
    let mut chosen = String::new();
    let mut rest = text;
    while let Some((before, (one, many), after)) = rest.split_once('[').and_then(|(before, after)| {
        let (choice, after) = after.split_once(']')?;
        Some((before, choice.split_once('|')?, after))
    }) {
        chosen.push_str(before);
        chosen.push_str(if is_one { one } else { many });
        rest = after;
    }
    chosen + rest
}

#[cfg(test)]
mod tests;
