//! The words of a notice, as pure functions: a subject that SNS takes, a text for someone who was asleep, a JSON body for
//! programs, attributes for filter policies. Nothing of query texts, sessions or passwords can get in: a notice has none.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::core::alert::Phase;
use crate::core::ledger::{Entry, Group, Notice, Purpose};
use crate::core::signal::{Unit, span};

/// SNS takes a body and its attributes up to this size together.
pub const MAX_BYTES: usize = 256 * 1024;
/// SNS takes subjects of less than 100 characters.
const MAX_SUBJECT: usize = 99;
/// More of one detail than this tells nobody anything.
const MAX_DETAIL: usize = 1024;
/// SNS takes group ids of FIFO topics up to this length.
const MAX_GROUP: usize = 128;
const CUT: &str = " [cut]";

/// The form of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: the object that `Body` draws, version 1.
    Json,
}

/// A notice in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub subject: String,
    pub body: String,
    /// Names and values; no value is empty.
    pub attributes: Vec<(&'static str, String)>,
}

impl Message {
    pub fn new(notice: &Notice, format: Format) -> Self {
        let attributes = attributes(notice);
        let taken: usize = attributes.iter().map(|(name, value)| name.len() + "String".len() + value.len()).sum();
        let limit = MAX_BYTES.saturating_sub(taken);
        let body = match format {
            Format::Text => cut(text(notice), limit),
            Format::Json => json(notice, limit),
        };
        Self { subject: subject(notice), body, attributes }
    }
}

/// One line: printable ASCII, at most 99 characters, beginning with a letter.
fn subject(notice: &Notice) -> String {
    let Some(first) = notice.alerts.first() else { return String::new() };
    let line = match notice.alerts.len() {
        1 => format!("{}{}", prefix(notice.purpose), headline(first)),
        n_alerts => format!("{}{} (and {} more)", prefix(notice.purpose), headline(first), n_alerts - 1),
    };
    let ascii: String = line
        .chars()
        .map(|c| {
            if c.is_control() {
                ' '
            } else if c.is_ascii() {
                c
            } else {
                '?'
            }
        })
        .collect();
    let mut words = ascii.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.len() > MAX_SUBJECT {
        words.truncate(MAX_SUBJECT - 3);
        words.truncate(words.trim_end().len());
        words.push_str("...");
    }
    words
}

/// What tells a notice from one of alerts that are new.
const fn prefix(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Alerts | Purpose::Standing => "",
        Purpose::Repeat => "still ",
        Purpose::Flapping => "flapping: ",
        Purpose::Calm => "calm again: ",
        Purpose::Held => "held back for now: ",
    }
}

fn headline(entry: &Entry) -> String {
    let alert = &entry.alert;
    let reading = match (alert.phase, alert.reading) {
        (Phase::Firing, Some(reading)) => {
            let cause = entry.diagnosis.as_ref().and_then(|found| found.causes.first());
            let cause = cause.map_or_else(String::new, |cause| format!(" ({})", cause.as_str().replace('_', " ")));
            // A number without a unit says nothing by itself.
            let signal = match alert.unit {
                Unit::Count | Unit::Bool => format!("{} is ", signal(entry)),
                Unit::Seconds | Unit::Bytes | Unit::BytesPerSecond | Unit::Ratio => String::new(),
            };
            // The number first, for it is what is left should the line be cut.
            format!(": {signal}{}{cause}", self::reading(alert.unit, reading))
        }
        _ => String::new(),
    };
    let (state, severity) = (alert.phase.as_str().to_uppercase(), alert.severity.as_str());
    format!("{state} {severity}: {} on {}{reading}", alert.id.rule, subject_of(entry))
}

/// A line for a log: the alert, and what is wrong.
pub(super) fn line(purpose: Purpose, entry: &Entry) -> String {
    let diagnosis = entry.diagnosis.as_ref().map_or_else(String::new, |found| format!(". {}", found.sentence));
    format!("{}{}{diagnosis}", prefix(purpose), sentence(entry))
}

/// One sentence about the alert, for the head of a text.
fn sentence(entry: &Entry) -> String {
    let alert = &entry.alert;
    let role = entry.role.map_or_else(String::new, |role| format!(" ({role})"));
    let (rule, place, signal) = (&alert.id.rule, subject_of(entry), signal(entry));
    let reading = match (alert.reading, alert.is_unknown) {
        (Some(reading), false) => format!("{signal} is {}", self::reading(alert.unit, reading)),
        (Some(reading), true) => format!("{signal} is unknown, and was {}", self::reading(alert.unit, reading)),
        (None, _) => format!("{signal} is unknown"),
    };
    let (since, condition) = (utc(entry.active_at), &alert.condition);
    match (alert.phase, entry.resolved_at) {
        (Phase::Resolved, Some(resolved_at)) => {
            let took = span(resolved_at.duration_since(entry.active_at).unwrap_or_default().as_secs_f64());
            format!("{rule} resolved on {place}{role}: {reading}; {condition} held for {took}, since {since}")
        }
        _ => format!("{rule} fires on {place}{role}: {reading}; {condition} since {since}"),
    }
}

fn text(notice: &Notice) -> String {
    let texts: Vec<String> =
        notice.alerts.iter().map(|entry| format!("{}{}", prefix(notice.purpose), text_of(entry))).collect();
    texts.join("\n")
}

fn text_of(entry: &Entry) -> String {
    let alert = &entry.alert;
    let mut lines = vec![sentence(entry)];
    lines.extend(entry.diagnosis.as_ref().map(|found| cut(found.sentence.clone(), MAX_DETAIL)));
    lines.push(String::new());
    let mut add = |name: &str, value: &str| lines.push(format!("{name}: {value}"));
    add("State", alert.phase.as_str());
    add("Severity", alert.severity.as_str());
    add("Rule", &format!("{}: {}", alert.id.rule, alert.condition));
    add("Cluster", alert.id.cluster.as_str());
    if let Some(target) = &alert.id.target {
        add("Target", target.as_str());
    }
    if let Some(role) = entry.role {
        add("Role", role.as_str());
    }
    for (name, value) in &alert.id.labels {
        add(&capitalised(name), value);
    }
    let unknown = if alert.is_unknown { " (the last known; it is unknown now)" } else { "" };
    match alert.reading {
        Some(reading) => add("Reading", &format!("{}{unknown}", self::reading(alert.unit, reading))),
        None => add("Reading", "unknown"),
    }
    if let Some((first, others)) = entry.diagnosis.as_ref().and_then(|found| found.causes.split_first()) {
        add("Cause", first.as_str());
        if !others.is_empty() {
            add("Also", &others.iter().map(|cause| cause.as_str()).collect::<Vec<_>>().join(", "));
        }
        add("What helps", &first.remedy().replace('`', ""));
    }
    add("Since", &utc(entry.active_at));
    if let Some(fired_at) = entry.fired_at {
        add("Fired", &utc(fired_at));
    }
    if let Some(resolved_at) = entry.resolved_at {
        add("Resolved", &utc(resolved_at));
    }
    for (name, value) in &entry.details {
        add(&capitalised(name), &cut(value.clone(), MAX_DETAIL));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Version 1 of the JSON body. Fields may be added; none is renamed or removed without another version.
#[derive(Serialize)]
struct Body<'a> {
    version: u32,
    source: &'static str,
    /// What a firing and its resolved have in common, and all later ones of the same rule and subject.
    id: String,
    dedup_key: &'a str,
    state: &'static str,
    severity: &'static str,
    rule: &'a str,
    cluster: &'a str,
    /// `null` for an alert on a whole cluster.
    target: Option<&'a str>,
    /// The signal's own labels, such as `slot`.
    labels: serde_json::Map<String, serde_json::Value>,
    /// `null` when the target has not said it.
    role: Option<&'static str>,
    /// The rule's condition as written.
    condition: &'a str,
    /// `seconds`, `bytes`, `bytes_per_second`, `ratio`, `count` or `bool`.
    unit: &'static str,
    /// In the unit; `null` when it was never known, or is infinite.
    reading: Option<f64>,
    /// The reading is the last known one, and it is unknown now.
    reading_is_unknown: bool,
    /// RFC 3339, UTC. Since when the condition holds.
    active_at: String,
    fired_at: Option<String>,
    resolved_at: Option<String>,
    summary: String,
    /// Why the replica lags, or is about to: the cause to act on first. `null` when nothing is wrong with it.
    cause: Option<&'static str>,
    other_causes: Vec<&'static str>,
    /// What helps against `cause`; names and commands in backticks.
    remedy: Option<&'static str>,
    /// The same in one sentence.
    diagnosis: Option<String>,
    details: serde_json::Map<String, serde_json::Value>,
}

/// One object for one alert, and an array of them for several.
fn json(notice: &Notice, limit: usize) -> String {
    let write = |with_details: bool| {
        let bodies: Vec<Body<'_>> = notice.alerts.iter().map(|entry| body(entry, with_details)).collect();
        match bodies.as_slice() {
            [body] => serde_json::to_string_pretty(body),
            bodies => serde_json::to_string_pretty(bodies),
        }
        .expect("text and numbers always serialize")
    };
    let whole = write(true);
    // Half a JSON text is none. All but the details is short.
    if whole.len() <= limit { whole } else { write(false) }
}

fn body(entry: &Entry, with_details: bool) -> Body<'_> {
    let alert = &entry.alert;
    let map = |pairs: &[(String, String)]| {
        pairs.iter().map(|(name, value)| (name.clone(), cut(value.clone(), MAX_DETAIL).into())).collect()
    };
    let causes = entry.diagnosis.as_ref().map_or(&[][..], |found| found.causes.as_slice());
    Body {
        version: 1,
        source: "pgvigil",
        id: alert.id.to_string(),
        dedup_key: &entry.dedup_key,
        state: alert.phase.as_str(),
        severity: alert.severity.as_str(),
        rule: alert.id.rule.as_str(),
        cluster: alert.id.cluster.as_str(),
        target: alert.id.target.as_ref().map(crate::core::topology::Name::as_str),
        labels: map(&alert.id.labels),
        role: entry.role.map(crate::core::topology::Role::as_str),
        condition: &alert.condition,
        unit: unit(alert.unit),
        reading: alert.reading.filter(|reading| reading.is_finite()),
        reading_is_unknown: alert.is_unknown,
        active_at: rfc3339(entry.active_at),
        fired_at: entry.fired_at.map(rfc3339),
        resolved_at: entry.resolved_at.map(rfc3339),
        summary: sentence(entry),
        cause: causes.first().map(|cause| cause.as_str()),
        other_causes: causes.iter().skip(1).map(|cause| cause.as_str()).collect(),
        remedy: causes.first().map(|cause| cause.remedy()),
        diagnosis: entry.diagnosis.as_ref().map(|found| cut(found.sentence.clone(), MAX_DETAIL)),
        details: if with_details {
            map(&entry.details)
        } else {
            [("cut".to_owned(), "the details are too long to send".into())].into_iter().collect()
        },
    }
}

/// For filter policies, of the first alert. `target` is not there for several alerts or one on a whole cluster: SNS refuses empty values.
fn attributes(notice: &Notice) -> Vec<(&'static str, String)> {
    let Some(Entry { alert, .. }) = notice.alerts.first() else { return Vec::new() };
    let is_one = notice.alerts.len() == 1;
    let clean = |value: &str| value.chars().map(|c| if c.is_control() { ' ' } else { c }).take(256).collect::<String>();
    [
        ("severity", alert.severity.as_str()),
        ("state", alert.phase.as_str()),
        ("rule", if is_one { alert.id.rule.as_str() } else { "" }),
        ("cluster", alert.id.cluster.as_str()),
        ("target", alert.id.target.as_ref().filter(|_| is_one).map_or("", crate::core::topology::Name::as_str)),
    ]
    .into_iter()
    .map(|(name, value)| (name, clean(value)))
    .filter(|(_, value)| !value.is_empty())
    .collect()
}

/// The group of a FIFO topic: one for each target where notices tell of one alert, else one for each group; within it order
/// is kept. At most 128 printable ASCII characters.
pub(super) fn group_id(notice: &Notice) -> String {
    let name = match &notice.group {
        Group::All => "all".to_owned(),
        Group::Cluster(cluster) => format!("{cluster}/"),
        Group::Alert(id) => {
            let target = id.target.as_ref().map_or("", crate::core::topology::Name::as_str);
            format!("{}/{target}", id.cluster)
        }
    };
    // Names that differ beyond what is kept share a group: they are ordered more than they need to be, no worse.
    name.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }).take(MAX_GROUP).collect()
}

/// The name of the signal that the condition is about.
fn signal(entry: &Entry) -> &str {
    entry.alert.condition.split(' ').next().unwrap_or_default()
}

/// `orders/orders-replica-1 slot=debezium`.
fn subject_of(entry: &Entry) -> String {
    let id = &entry.alert.id;
    let target = id.target.as_ref().map_or_else(String::new, |target| format!("/{target}"));
    let labels: String = id.labels.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    format!("{}{target}{labels}", id.cluster)
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

/// A number for people, in the largest fitting unit.
pub(super) fn reading(unit: Unit, value: f64) -> String {
    unit.say(value)
}

/// `2026-03-05 04:12:09 UTC`.
pub(super) fn utc(at: SystemTime) -> String {
    rfc3339(at).replace('T', " ").replace('Z', " UTC")
}

fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

fn capitalised(name: &str) -> String {
    let name = name.replace('_', " ");
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Cut to `limit` bytes at a character's boundary, and said so.
fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit.saturating_sub(CUT.len())));
        text.push_str(CUT);
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::alert::{AlertId, AlertView, Severity};
    use crate::core::cause::Cause;
    use crate::core::ledger::Finding;
    use crate::core::time::MonoTime;
    use crate::core::topology::{Name, Role};

    fn wall(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    pub(crate) fn firing() -> Notice {
        of(firing_entry())
    }

    pub(crate) fn resolved() -> Notice {
        of(resolved_entry())
    }

    fn of(entry: Entry) -> Notice {
        Notice {
            notifier: Name::new("sns-1"),
            group: Group::Alert(entry.alert.id.clone()),
            purpose: Purpose::Alerts,
            dedup_key: entry.dedup_key.clone(),
            alerts: vec![entry],
            attempt: 1,
        }
    }

    fn firing_entry() -> Entry {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Entry {
            alert: AlertView {
                id: AlertId {
                    rule: Name::new("ReplicaLagging"),
                    cluster: Name::new("orders"),
                    target: Some(Name::new("orders-replica-1")),
                    labels: vec![],
                },
                severity: Severity::Warning,
                phase: Phase::Firing,
                active_at: MonoTime::from_nanos(0),
                fired_at: Some(MonoTime::from_nanos(60_000_000_000)),
                resolved_at: None,
                reading: Some(75.25),
                is_unknown: false,
                condition: "replay_lag_seconds > 5s".to_owned(),
                unit: Unit::Seconds,
                rule_labels: vec![],
                summary: None,
                runbook: None,
                muted: vec![],
            },
            dedup_key: "ReplicaLagging-firing-30000000.0-26e06d21722064a4390fd9f59861d1a0".to_owned(),
            active_at: wall(0),
            fired_at: Some(wall(60)),
            resolved_at: None,
            role: Some(Role::Replica),
            diagnosis: None,
            details: vec![
                pair("meaning", "Age of the oldest WAL that the replica has not replayed."),
                pair("certainty", "exact"),
                pair("method", "lsn+ts"),
                pair("server", "15.18"),
            ],
        }
    }

    fn resolved_entry() -> Entry {
        let notice = firing_entry();
        let alert = AlertView {
            phase: Phase::Resolved,
            resolved_at: Some(MonoTime::from_nanos(200_000_000_000)),
            reading: Some(0.25),
            ..notice.alert
        };
        let dedup_key = notice.dedup_key.replace("firing", "resolved");
        Entry { alert, dedup_key, resolved_at: Some(wall(200)), ..notice }
    }

    fn unknown_slot() -> Notice {
        let notice = firing_entry();
        let id = AlertId {
            rule: Name::new("InactiveSlotRetainsWal"),
            labels: vec![("slot".to_owned(), "debezium".to_owned())],
            ..notice.alert.id
        };
        let alert = AlertView {
            id,
            severity: Severity::Critical,
            reading: Some(5e9),
            is_unknown: true,
            condition: "slot_inactive_retained_bytes > 1GiB".to_owned(),
            unit: Unit::Bytes,
            ..notice.alert
        };
        of(Entry { alert, role: None, details: vec![("failing_for_seconds".to_owned(), "35".to_owned())], ..notice })
    }

    #[test]
    fn a_text_tells_someone_who_was_asleep() {
        insta::assert_snapshot!(Message::new(&firing(), Format::Text).body, @r#"
        ReplicaLagging fires on orders/orders-replica-1 (replica): replay_lag_seconds is 1m 15s; replay_lag_seconds > 5s since 2027-01-15 08:00:00 UTC

        State: firing
        Severity: warning
        Rule: ReplicaLagging: replay_lag_seconds > 5s
        Cluster: orders
        Target: orders-replica-1
        Role: replica
        Reading: 1m 15s
        Since: 2027-01-15 08:00:00 UTC
        Fired: 2027-01-15 08:01:00 UTC
        Meaning: Age of the oldest WAL that the replica has not replayed.
        Certainty: exact
        Method: lsn+ts
        Server: 15.18
        "#);
        insta::assert_snapshot!(Message::new(&resolved(), Format::Text).body, @r#"
        ReplicaLagging resolved on orders/orders-replica-1 (replica): replay_lag_seconds is 0.25s; replay_lag_seconds > 5s held for 3m 20s, since 2027-01-15 08:00:00 UTC

        State: resolved
        Severity: warning
        Rule: ReplicaLagging: replay_lag_seconds > 5s
        Cluster: orders
        Target: orders-replica-1
        Role: replica
        Reading: 0.25s
        Since: 2027-01-15 08:00:00 UTC
        Fired: 2027-01-15 08:01:00 UTC
        Resolved: 2027-01-15 08:03:20 UTC
        Meaning: Age of the oldest WAL that the replica has not replayed.
        Certainty: exact
        Method: lsn+ts
        Server: 15.18
        "#);
        insta::assert_snapshot!(Message::new(&unknown_slot(), Format::Text).body, @r#"
        InactiveSlotRetainsWal fires on orders/orders-replica-1 slot=debezium: slot_inactive_retained_bytes is unknown, and was 4.7 GiB; slot_inactive_retained_bytes > 1GiB since 2027-01-15 08:00:00 UTC

        State: firing
        Severity: critical
        Rule: InactiveSlotRetainsWal: slot_inactive_retained_bytes > 1GiB
        Cluster: orders
        Target: orders-replica-1
        Slot: debezium
        Reading: 4.7 GiB (the last known; it is unknown now)
        Since: 2027-01-15 08:00:00 UTC
        Fired: 2027-01-15 08:01:00 UTC
        Failing for seconds: 35
        "#);
    }

    #[test]
    fn a_notice_of_several_alerts_tells_each() {
        let notice = Notice { alerts: vec![firing_entry(), resolved_entry()], ..firing() };
        let text = Message::new(&notice, Format::Text);
        assert_eq!(text.subject, "FIRING warning: ReplicaLagging on orders/orders-replica-1: 1m 15s (and 1 more)");
        let each = [firing(), resolved()].map(|notice| Message::new(&notice, Format::Text).body);
        assert_eq!(text.body, each.join("\n"));
        let body: serde_json::Value =
            serde_json::from_str(&Message::new(&notice, Format::Json).body).expect("it is JSON");
        assert_eq!((&body[0]["state"], &body[1]["state"]), (&"firing".into(), &"resolved".into()));
        let names: Vec<_> = text.attributes.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["severity", "state", "cluster"]);
    }

    fn diagnosed() -> Notice {
        let sentence = "orders-replica-1 is 75 s behind and falling further: replay is paused; also WAL arrives slower \
                        than it is made; at this rate it will not catch up";
        let causes = vec![Cause::ReplayPaused, Cause::SlowNetwork];
        of(Entry { diagnosis: Some(Finding { causes, sentence: sentence.to_owned() }), ..firing_entry() })
    }

    #[test]
    fn an_alert_about_a_replica_says_why() {
        let notice = diagnosed();
        let text = Message::new(&notice, Format::Text);
        let lines: Vec<&str> = text.body.lines().collect();
        assert_eq!(lines[1], notice.alerts[0].diagnosis.as_ref().map_or("", |found| &found.sentence));
        assert_eq!(lines[2], "");
        assert!(text.body.contains("\nCause: replay_paused\nAlso: slow_network\n"), "{}", text.body);
        assert!(text.body.contains("\nWhat helps: SELECT pg_wal_replay_resume().\nSince: "), "{}", text.body);
        assert_eq!(text.subject, "FIRING warning: ReplicaLagging on orders/orders-replica-1: 1m 15s (replay paused)");
        let body: serde_json::Value =
            serde_json::from_str(&Message::new(&notice, Format::Json).body).expect("it is JSON");
        assert_eq!(body["cause"], "replay_paused");
        assert_eq!(body["other_causes"], serde_json::json!(["slow_network"]));
        assert_eq!(body["remedy"], "`SELECT pg_wal_replay_resume()`.");
        assert_eq!(body["diagnosis"], lines[1]);
        assert_eq!(line(Purpose::Alerts, &notice.alerts[0]), format!("{}. {}", lines[0], lines[1]));
    }

    #[test]
    fn a_json_body_tells_programs_all_of_it() {
        insta::assert_snapshot!(Message::new(&firing(), Format::Json).body, @r#"
        {
          "version": 1,
          "source": "pgvigil",
          "id": "ReplicaLagging orders/orders-replica-1",
          "dedup_key": "ReplicaLagging-firing-30000000.0-26e06d21722064a4390fd9f59861d1a0",
          "state": "firing",
          "severity": "warning",
          "rule": "ReplicaLagging",
          "cluster": "orders",
          "target": "orders-replica-1",
          "labels": {},
          "role": "replica",
          "condition": "replay_lag_seconds > 5s",
          "unit": "seconds",
          "reading": 75.25,
          "reading_is_unknown": false,
          "active_at": "2027-01-15T08:00:00Z",
          "fired_at": "2027-01-15T08:01:00Z",
          "resolved_at": null,
          "summary": "ReplicaLagging fires on orders/orders-replica-1 (replica): replay_lag_seconds is 1m 15s; replay_lag_seconds > 5s since 2027-01-15 08:00:00 UTC",
          "cause": null,
          "other_causes": [],
          "remedy": null,
          "diagnosis": null,
          "details": {
            "certainty": "exact",
            "meaning": "Age of the oldest WAL that the replica has not replayed.",
            "method": "lsn+ts",
            "server": "15.18"
          }
        }
        "#);
    }

    #[test]
    fn a_reading_that_is_infinite_or_never_known_is_null_in_json() {
        for reading in [Some(f64::INFINITY), None] {
            let entry = firing_entry();
            let notice = of(Entry { alert: AlertView { reading, ..entry.alert }, ..entry });
            let body = Message::new(&notice, Format::Json).body;
            let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!(body["reading"], serde_json::Value::Null);
        }
    }

    #[test]
    fn attributes_have_no_empty_value() {
        let (notice, entry) = (firing(), firing_entry());
        let whole = AlertView { id: AlertId { target: None, ..entry.alert.id.clone() }, ..entry.alert.clone() };
        let expect = |names: &[(&'static str, &str)]| {
            names.iter().map(|&(name, value)| (name, value.to_owned())).collect::<Vec<_>>()
        };
        let common = [("severity", "warning"), ("state", "firing"), ("rule", "ReplicaLagging"), ("cluster", "orders")];
        let all = [&common[..], &[("target", "orders-replica-1")]].concat();
        assert_eq!(Message::new(&notice, Format::Text).attributes, expect(&all));
        let notice = of(Entry { alert: whole, ..entry });
        assert_eq!(Message::new(&notice, Format::Text).attributes, expect(&common));
    }

    fn named(rule: &str, target: &str) -> Notice {
        let entry = firing_entry();
        let id = AlertId { rule: Name::new(rule), target: Some(Name::new(target)), ..entry.alert.id };
        of(Entry { alert: AlertView { id, ..entry.alert }, ..entry })
    }

    #[test]
    fn a_subject_is_short_printable_and_says_when_it_was_cut() {
        for (notice, expect) in [
            (firing(), "FIRING warning: ReplicaLagging on orders/orders-replica-1: 1m 15s"),
            (resolved(), "RESOLVED warning: ReplicaLagging on orders/orders-replica-1"),
            (
                unknown_slot(),
                "FIRING critical: InactiveSlotRetainsWal on orders/orders-replica-1 slot=debezium: 4.7 GiB",
            ),
            (named("Lücke\n\t\u{7f}\u{202e}", "数据"), "FIRING warning: L?cke ? on orders/??: 1m 15s"),
            (
                named(&"x".repeat(90), &"y".repeat(90)),
                "FIRING warning: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...",
            ),
        ] {
            let subject = Message::new(&notice, Format::Text).subject;
            assert_eq!(subject, expect);
            assert!(subject.len() <= 99 && subject.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        }
    }

    #[test]
    fn a_body_fits_with_its_attributes_and_says_that_it_was_cut() {
        for (format, expect) in [(Format::Text, "ü [cut]"), (Format::Json, "\"cut\": \"the details are too long")] {
            let details = (0..300).map(|index| (format!("detail_{index}"), "ü".repeat(2000))).collect();
            let entry = named(&"規".repeat(100), &"r".repeat(1000)).alerts.remove(0);
            let notice = of(Entry { details, ..entry });
            let message = Message::new(&notice, format);
            let attributes: usize =
                message.attributes.iter().map(|(name, value)| name.len() + value.len() + "String".len()).sum();
            assert!(message.body.contains(expect), "{format:?}");
            assert!(message.body.len() + attributes <= 262_144, "{format:?}: {}", message.body.len());
            if format == Format::Json {
                serde_json::from_str::<serde_json::Value>(&message.body).expect("still JSON");
            }
        }
        assert_eq!(cut("€€€".to_owned(), 9), "€€€");
        assert_eq!(cut("€€€€€".to_owned(), 11), "€ [cut]");
    }

    #[test]
    fn a_group_is_a_target_in_what_sns_takes() {
        assert_eq!(group_id(&firing()), "orders/orders-replica-1");
        let long = group_id(&named("R", &"ü b".repeat(100)));
        assert!(long.len() == 128 && long.bytes().all(|byte| byte.is_ascii_graphic()), "{long}");
        let entry = firing_entry();
        let id = AlertId { target: None, ..entry.alert.id };
        assert_eq!(group_id(&of(Entry { alert: AlertView { id, ..entry.alert }, ..entry })), "orders/");
        assert_eq!(group_id(&Notice { group: Group::Cluster(Name::new("orders")), ..firing() }), "orders/");
    }

    #[test]
    fn readings_are_told_in_units_that_people_use() {
        for (unit, value, expect) in [
            (Unit::Seconds, 0.0, "0.00s"),
            (Unit::Seconds, 0.25, "0.25s"),
            (Unit::Seconds, 12.43, "12.4s"),
            (Unit::Seconds, 59.97, "1m 0s"),
            (Unit::Seconds, 75.25, "1m 15s"),
            (Unit::Seconds, 7_800.0, "2h 10m"),
            (Unit::Seconds, 356_400.0, "4d 3h"),
            (Unit::Seconds, f64::INFINITY, "unbounded"),
            (Unit::Bytes, 512.0, "512 bytes"),
            (Unit::Bytes, 67_108_864.0, "64.0 MiB"),
            (Unit::Bytes, 5e9, "4.7 GiB"),
            (Unit::BytesPerSecond, 512.0, "512 B/s"),
            (Unit::BytesPerSecond, 5e6, "4.8 MiB/s"),
            (Unit::Ratio, 0.834, "83.4 %"),
            (Unit::Count, 2.0, "2"),
            (Unit::Bool, 0.0, "0"),
        ] {
            assert_eq!(reading(unit, value), expect);
        }
    }
}
