//! A notice for programs: `config/alert.schema.json` is what they can rely upon.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{MAX_DETAIL, alive, cut, rfc3339, text};
use crate::core::alert::{Gone, Phase, Severity};
use crate::core::ledger::{Entry, Notice, Purpose};
use crate::core::rule::{Op, compared_with};
use crate::core::signal::Unit;
use crate::core::topology::{Name, Role};

/// Version 1. Fields may be added; none is renamed, removed or given another meaning without another version.
#[derive(Serialize)]
struct Body<'a> {
    version: u32,
    source: &'static str,
    notice: &'static str,
    notifier: &'a str,
    dedup_key: &'a str,
    attempt: u32,
    state: &'static str,
    severity: Option<&'static str>,
    summary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    every_seconds: Option<u64>,
    alerts: Vec<Alert<'a>>,
    /// Alerts that had no place.
    n_left_out: usize,
    also_firing: Vec<Other<'a>>,
}

#[derive(Serialize)]
struct Alert<'a> {
    id: String,
    dedup_key: &'a str,
    state: &'static str,
    severity: &'static str,
    rule: &'a str,
    cluster: &'a str,
    target: Option<&'a str>,
    labels: BTreeMap<&'a str, &'a str>,
    rule_labels: BTreeMap<&'a str, &'a str>,
    role: Option<&'static str>,
    condition: &'a str,
    operator: Option<&'static str>,
    threshold: Option<f64>,
    unit: &'static str,
    reading: Option<f64>,
    reading_is_unknown: bool,
    recent: Vec<Point>,
    gone: Option<&'static str>,
    active_at: String,
    fired_at: Option<String>,
    resolved_at: Option<String>,
    summary: String,
    says: Option<&'a str>,
    runbook: Option<&'a str>,
    cause: Option<&'static str>,
    other_causes: Vec<&'static str>,
    remedy: Option<&'static str>,
    diagnosis: Option<String>,
    details: BTreeMap<&'a str, String>,
}

#[derive(Serialize)]
struct Point {
    at: String,
    reading: f64,
}

#[derive(Serialize)]
struct Other<'a> {
    id: String,
    severity: &'static str,
    rule: &'a str,
    cluster: &'a str,
    target: Option<&'a str>,
}

/// Half a JSON text is none: what has no place is left out as a whole, first the details, then what else fires, then the
/// alerts to act on last.
pub(super) fn json(notice: &Notice, limit: usize) -> String {
    let whole = write(notice, notice.alerts.len(), true);
    if whole.len() <= limit {
        return whole;
    }
    let mut n_alerts = notice.alerts.len();
    loop {
        let shorter = write(notice, n_alerts, false);
        if shorter.len() <= limit || n_alerts == 0 {
            return shorter;
        }
        n_alerts -= n_alerts.div_ceil(8);
    }
}

fn write(notice: &Notice, n_alerts: usize, in_full: bool) -> String {
    let firing = notice.alerts.iter().filter(|entry| entry.alert.phase == Phase::Firing);
    let worst = firing.clone().map(|entry| entry.alert.severity).max();
    let worst = worst.or_else(|| notice.alerts.iter().map(|entry| entry.alert.severity).max());
    let every = match notice.purpose {
        Purpose::Heartbeat { every } => Some(every),
        _ => None,
    };
    let body = Body {
        version: 1,
        source: "pgvigil",
        notice: notice.purpose.as_str(),
        notifier: notice.notifier.as_str(),
        dedup_key: &notice.dedup_key,
        attempt: notice.attempt,
        state: match (every, firing.count()) {
            (Some(_), _) => "heartbeat",
            (None, 0) => Phase::Resolved.as_str(),
            (None, _) => Phase::Firing.as_str(),
        },
        severity: worst.map(Severity::as_str),
        summary: every.map_or_else(|| text::summary(notice), alive),
        every_seconds: every.map(|every| every.as_secs()),
        alerts: notice.alerts.iter().take(n_alerts).map(|entry| alert(notice.purpose, entry, in_full)).collect(),
        n_left_out: notice.alerts.len() - n_alerts,
        also_firing: notice.also_firing.iter().filter(|_| in_full).map(other).collect(),
    };
    serde_json::to_string_pretty(&body).expect("text and numbers always serialize")
}

fn alert(purpose: Purpose, entry: &Entry, in_full: bool) -> Alert<'_> {
    let alert = &entry.alert;
    let finite = |value: &f64| value.is_finite();
    let diagnosis = entry.told.diagnosis.as_ref();
    let causes = diagnosis.map_or(&[][..], |found| found.causes.as_slice());
    let threshold = compared_with(&alert.condition, alert.unit);
    let details = entry.told.details.iter().map(|(name, value)| (name.as_str(), cut(value.clone(), MAX_DETAIL)));
    Alert {
        id: alert.id.to_string(),
        dedup_key: &entry.dedup_key,
        state: alert.phase.as_str(),
        severity: alert.severity.as_str(),
        rule: alert.id.rule.as_str(),
        cluster: alert.id.cluster.as_str(),
        target: alert.id.target.as_ref().map(Name::as_str),
        labels: pairs(&alert.id.labels),
        rule_labels: pairs(&alert.rule_labels),
        role: entry.told.role.map(Role::as_str),
        condition: &alert.condition,
        operator: threshold.map(|(op, _)| Op::as_str(op)),
        threshold: threshold.map(|(_, value)| value),
        unit: unit(alert.unit),
        reading: alert.reading.filter(finite),
        reading_is_unknown: alert.is_unknown,
        recent: entry.recent.iter().map(|(at, reading)| Point { at: rfc3339(*at), reading: *reading }).collect(),
        gone: alert.gone.map(Gone::as_str),
        active_at: rfc3339(entry.active_at),
        fired_at: entry.fired_at.map(rfc3339),
        resolved_at: entry.resolved_at.map(rfc3339),
        summary: cut(text::sentence(purpose, entry), MAX_DETAIL),
        says: alert.summary.as_deref(),
        runbook: alert.runbook.as_deref(),
        cause: causes.first().map(|cause| cause.as_str()),
        other_causes: causes.iter().skip(1).map(|cause| cause.as_str()).collect(),
        remedy: causes.first().map(|cause| cause.remedy()),
        diagnosis: diagnosis.map(|found| cut(found.sentence.clone(), MAX_DETAIL)),
        details: if in_full {
            details.collect()
        } else {
            BTreeMap::from([("cut", "the details are too long to send".to_owned())])
        },
    }
}

fn other((severity, id): &(Severity, crate::core::alert::AlertId)) -> Other<'_> {
    Other {
        id: id.to_string(),
        severity: severity.as_str(),
        rule: id.rule.as_str(),
        cluster: id.cluster.as_str(),
        target: id.target.as_ref().map(Name::as_str),
    }
}

fn pairs(pairs: &[(String, String)]) -> BTreeMap<&str, &str> {
    pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

const fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Seconds => "seconds",
        Unit::Bytes => "bytes",
        Unit::BytesPerSecond => "bytes_per_second",
        Unit::Ratio => "ratio",
        Unit::Count => "count",
        Unit::Bool => "bool",
    }
}
