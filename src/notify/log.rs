//! Alerts in the daemon's own log: the notifier that always works.

use serde::Deserialize;

use super::message;
use crate::core::alert::{Phase, Severity};
use crate::core::ledger::{Entry, Notice, Purpose};
use crate::core::quantity;
use crate::core::rule::OneOrMany;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What it is called in logs and metrics.
    #[serde(default)]
    pub name: Option<String>,
    /// Which alerts it is told of: those of these severities, clusters and rules. Not set: of all.
    #[serde(default)]
    pub severity: OneOrMany,
    #[serde(default)]
    pub cluster: OneOrMany,
    #[serde(default)]
    pub rule: OneOrMany,
}

/// Writes one line for each alert: an error when a critical alert fires, a warning when another does, information when one resolves.
pub(super) fn tell(notice: &Notice) {
    if let Purpose::Heartbeat { every } = notice.purpose {
        tracing::info!("{}", message::alive(every));
    }
    notice.alerts.iter().for_each(|entry| tell_one(notice.purpose, entry));
}

fn tell_one(purpose: Purpose, entry: &Entry) {
    let alert = &entry.alert;
    let line = message::line(purpose, entry);
    // What may hold spaces is text: text is written in quotes.
    let (id, rule, cluster) = (alert.id.to_string(), &alert.id.rule, &alert.id.cluster);
    let target = alert.id.target.as_ref().map(tracing::field::display);
    let role = entry.told.role.map(tracing::field::display);
    let (severity, state, condition) = (alert.severity.as_str(), alert.phase.as_str(), alert.condition.as_str());
    let cause = entry.told.diagnosis.as_ref().and_then(|found| found.causes.first());
    let cause = cause.map(|cause| tracing::field::display(cause.as_str()));
    let reading = alert.reading.map(|reading| quantity::reading(alert.unit, reading));
    let since = message::utc(entry.active_at);
    macro_rules! write {
        ($level:ident) => {
            tracing::$level!(
                alert = id, %rule, severity, state, %cluster, target, role, condition, reading, cause, since,
                "{}", line
            )
        };
    }
    match (alert.phase, alert.severity) {
        (Phase::Firing, Severity::Critical) => write!(error),
        (Phase::Firing, Severity::Warning) => write!(warn),
        (Phase::Firing, Severity::Info) | (Phase::Pending | Phase::Resolved, _) => write!(info),
    }
}
