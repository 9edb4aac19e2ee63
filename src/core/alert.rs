//! The life of an alert: inactive, pending, firing, resolved. (To be completed.)

use std::fmt;

use serde::{Deserialize, Serialize};

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

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq)]
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
