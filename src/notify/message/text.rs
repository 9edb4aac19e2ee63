//! A notice for someone who was asleep: what, where, since when, how bad, why, what helps; then all that helps to judge it.

use std::time::SystemTime;

use super::{MAX_DETAIL, alive, cut, is_about_replication, took, utc};
use crate::core::alert::{Gone, Phase, Severity};
use crate::core::ledger::{Entry, Notice, Purpose};
use crate::core::quantity;
use crate::core::signal::Unit;
use crate::core::topology::{Name, Role};

/// Of a storm only so many are told at length.
const AT_LENGTH: usize = 10;
/// Others that fire there, by name.
const OTHERS: usize = 10;

pub(super) fn text(notice: &Notice) -> String {
    if let Purpose::Heartbeat { every } = notice.purpose {
        return format!("{}\n", alive(every));
    }
    if notice.purpose == Purpose::Test {
        return notice.alerts.iter().map(|entry| format!("{}\n", sentence(Purpose::Test, entry))).collect();
    }
    let mut text = String::new();
    if notice.alerts.len() > 1 {
        text = overview(notice);
        if notice.alerts.len() > AT_LENGTH {
            text.push_str(&format!("\nThe first {AT_LENGTH} at length:\n"));
        }
    }
    for entry in notice.alerts.iter().take(AT_LENGTH) {
        if !text.is_empty() {
            text.push_str("\n----\n\n");
        }
        text.push_str(&at_length(notice.purpose, entry));
    }
    text.push_str(&others(notice));
    text
}

/// What there is, and a line for each.
pub(super) fn overview(notice: &Notice) -> String {
    let mut text = format!("{}:\n", summary(notice));
    for entry in &notice.alerts {
        text.push_str(&format!("- {}: {}\n", entry.alert.severity.as_str(), sentence(notice.purpose, entry)));
    }
    text
}

/// `orders: 3 alerts fire (1 critical, 2 warning), 1 is resolved`; of a single alert its sentence.
pub(super) fn summary(notice: &Notice) -> String {
    let alerts = match notice.alerts.as_slice() {
        [] => return text(notice).trim_end().to_owned(),
        [only] => return sentence(notice.purpose, only),
        alerts => alerts,
    };
    let mut clusters: Vec<&str> = alerts.iter().map(|entry| entry.alert.id.cluster.as_str()).collect();
    clusters.sort_unstable();
    clusters.dedup();
    let of = |phase| alerts.iter().filter(move |entry| entry.alert.phase == phase);
    let severities = [Severity::Critical, Severity::Warning, Severity::Info].into_iter().filter_map(|severity| {
        let n_alerts = of(Phase::Firing).filter(|entry| entry.alert.severity == severity).count();
        (n_alerts > 0).then(|| format!("{n_alerts} {}", severity.as_str()))
    });
    let severities = severities.collect::<Vec<_>>().join(", ");
    let firing = match of(Phase::Firing).count() {
        0 => None,
        1 => Some(format!("1 alert fires ({severities})")),
        n_alerts => Some(format!("{n_alerts} alerts fire ({severities})")),
    };
    let resolved = match (of(Phase::Resolved).count(), firing.is_some()) {
        (0, _) => None,
        (1, true) => Some("1 is resolved".to_owned()),
        (n_alerts, true) => Some(format!("{n_alerts} are resolved")),
        (n_alerts, false) => Some(format!("{n_alerts} alerts are resolved")),
    };
    let counts = firing.into_iter().chain(resolved).collect::<Vec<_>>().join(", ");
    let why = match notice.purpose {
        Purpose::Repeat => "still unsolved: ",
        Purpose::Flapping => "come and go all the time: ",
        Purpose::Calm => "calm again: ",
        Purpose::Held => "held back for now, since there is too much to tell in a minute, and told later each: ",
        _ => "",
    };
    let clusters = match clusters.as_slice() {
        [cluster] => (*cluster).to_owned(),
        clusters => format!("{} clusters", clusters.len()),
    };
    format!("{clusters}: {why}{counts}")
}

/// A line for a log: the alert, and what is wrong.
pub(in crate::notify) fn line(purpose: Purpose, entry: &Entry) -> String {
    let diagnosis = entry.told.diagnosis.as_ref().map_or_else(String::new, |found| format!(". {}", found.sentence));
    format!("{}{diagnosis}", sentence(purpose, entry))
}

/// One sentence about the alert.
pub(super) fn sentence(purpose: Purpose, entry: &Entry) -> String {
    let (rule, state) = (&entry.alert.id.rule, &entry.told.state);
    let is_resolved = entry.alert.phase == Phase::Resolved;
    let now = if is_resolved { "is resolved" } else { "fires" };
    match purpose {
        Purpose::Test => state.clone(),
        Purpose::Repeat => format!("{rule} still fires, since {}: {state}", utc(entry.active_at)),
        Purpose::Flapping => format!(
            "{rule} comes and goes all the time; now it {now}: {state}. There is nothing more about it until it has been \
             calm for 15m"
        ),
        Purpose::Calm => format!("{rule} is calm again and {now}: {state}"),
        _ if !is_resolved => format!("{rule} fires: {state}"),
        _ if entry.alert.gone.is_some() => format!("{rule} is closed after {}: {state}", took(entry)),
        _ => format!("{rule} resolved after {}: {state}", took(entry)),
    }
}

pub(super) fn at_length(purpose: Purpose, entry: &Entry) -> String {
    let alert = &entry.alert;
    let mut lines = vec![sentence(purpose, entry)];
    lines.extend(alert.summary.clone());
    lines.extend(entry.told.diagnosis.as_ref().map(|found| cut(found.sentence.clone(), MAX_DETAIL)));
    lines.extend(alert.gone.map(|gone| match gone {
        Gone::Subject => "What it was about is there no more, so no reading says that it got well.".to_owned(),
        Gone::Unwatched => "The rule or the target is not there any more, or they have been changed: no reading says that it got well.".to_owned(),
    }));
    lines.push(String::new());
    let mut add = |name: &str, value: &str| lines.push(format!("{name}: {value}"));
    add("Since", &utc(entry.active_at));
    if let Some(fired_at) = entry.fired_at.filter(|at| *at != entry.active_at) {
        add("Fired", &utc(fired_at));
    }
    if let Some(resolved_at) = entry.resolved_at {
        add("Resolved", &utc(resolved_at));
    }
    add("Severity", alert.severity.as_str());
    add("Threshold", &alert.condition);
    if let Some(readings) = readings(entry) {
        add(if alert.gone.is_some() { "Last reading" } else { "Reading" }, &readings);
    }
    if let Some((first, others)) = entry.told.diagnosis.as_ref().and_then(|found| found.causes.split_first()) {
        add(if is_about_replication(entry) { "Cause" } else { "Cause of its lag" }, first.as_str());
        if !others.is_empty() {
            add("Also", &others.iter().map(|cause| cause.as_str()).collect::<Vec<_>>().join(", "));
        }
        if alert.phase == Phase::Firing {
            add("What helps", &first.remedy().replace('`', ""));
        }
    }
    if let Some(runbook) = &alert.runbook {
        add("Runbook", runbook);
    }
    add("Cluster", alert.id.cluster.as_str());
    match (alert.id.target.as_ref().map(Name::as_str), entry.told.role.map(Role::as_str)) {
        (Some(target), Some(role)) => add("Target", &format!("{target} ({role})")),
        (Some(target), None) => add("Target", target),
        (None, _) => {}
    }
    for (name, value) in alert.id.labels.iter().chain(&alert.rule_labels).filter(|(_, value)| !value.is_empty()) {
        add(&capitalised(name), value);
    }
    for (name, value) in &entry.told.details {
        add(&capitalised(name), &cut(value.clone(), MAX_DETAIL));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// `1m 15s; before that 12.5s at 08:00:00, 40s at 08:01:00`. `None` for one that is told in words.
fn readings(entry: &Entry) -> Option<String> {
    let alert = &entry.alert;
    let unknown = if alert.is_unknown { ", the last that is known; it cannot be read now" } else { "" };
    if alert.unit == Unit::Bool && alert.reading.is_some() {
        return None;
    }
    let now = match alert.reading {
        Some(reading) => quantity::reading(alert.unit, reading),
        None if alert.is_unknown => return Some("not known".to_owned()),
        None => "none".to_owned(),
    };
    let day = |at: SystemTime| utc(at)[..10].to_owned();
    let told = |at: SystemTime, reading: f64| {
        let time = if day(at) == day(entry.active_at) { utc(at)[11..19].to_owned() } else { utc(at) };
        format!("{} at {time}", quantity::reading(alert.unit, reading))
    };
    let mut earlier = entry.recent.clone();
    if alert.reading.is_some() {
        earlier.pop();
    }
    // What is measured seldom is seen again and again: that is one measurement.
    earlier.dedup_by(|(_, second), (_, first)| second == first);
    earlier.pop_if(|(_, last)| Some(*last) == alert.reading);
    let earlier: Vec<String> = earlier.into_iter().map(|(at, reading)| told(at, reading)).collect();
    let earlier = if earlier.is_empty() { String::new() } else { format!("; before that {}", earlier.join(", ")) };
    Some(format!("{now}{unknown}{earlier}"))
}

fn others(notice: &Notice) -> String {
    let mut others = notice.also_firing.iter();
    let named: Vec<String> =
        others.by_ref().take(OTHERS).map(|(severity, id)| format!("- {}: {id}\n", severity.as_str())).collect();
    match (named.is_empty(), others.count()) {
        (true, _) => String::new(),
        (false, 0) => format!("\nAlso firing there:\n{}", named.concat()),
        (false, more) => format!("\nAlso firing there:\n{}- and {more} more\n", named.concat()),
    }
}

fn capitalised(name: &str) -> String {
    let name = name.replace('_', " ");
    for (word, abbreviation) in [("wal ", "WAL "), ("rds ", "RDS ")] {
        if let Some(rest) = name.strip_prefix(word) {
            return format!("{abbreviation}{rest}");
        }
    }
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
