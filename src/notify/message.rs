//! The words of a notice, as pure functions: a subject that SNS takes, a body in the form that its readers want, attributes
//! for filter policies. Nothing of query texts or passwords can get in: a notice has none. Addresses of clients do only where
//! somebody asked for them ([`revealed`], [`withheld`]).

mod amazon_q;
mod cloudwatch;
mod json;
mod text;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::topic::Topic;
use crate::core::alert::{AlertId, Gone, Phase};
use crate::core::explain;
use crate::core::ledger::{Entry, Group, Notice, Purpose};
use crate::core::quantity::{self, duration};
use crate::core::signal::{Signal, Unit};
use crate::core::topology::Name;

pub(super) use self::text::line;

/// SNS takes a body and its attributes up to this size together.
pub const MAX_BYTES: usize = 256 * 1024;
/// SNS takes subjects of less than 100 characters.
const MAX_SUBJECT: usize = 99;
/// More of one detail than this tells nobody anything.
const MAX_DETAIL: usize = 1024;
/// SNS takes group ids of FIFO topics up to this length.
const MAX_GROUP: usize = 128;
/// Values of one attribute, and characters of one value.
const MAX_VALUES: usize = 100;
const MAX_VALUE: usize = 256;
const CUT: &str = " [cut]";

/// The form of a body, as configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: version 1 of `config/alert.schema.json`.
    Json,
    /// As CloudWatch tells of an alarm, for pagers that know no other form. One alert a message.
    Cloudwatch,
    /// A custom notification of Amazon Q Developer in chat applications. One alert a message, and a thread for each alert.
    AmazonQ,
}

impl Format {
    /// Whether one body has the place for several alerts.
    pub const fn takes_groups(self) -> bool {
        match self {
            Self::Text | Self::Json => true,
            Self::Cloudwatch | Self::AmazonQ => false,
        }
    }
}

/// The same with what it takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape<'a> {
    Text,
    Json,
    /// Of an alarm that tells this topic.
    Cloudwatch(&'a Topic),
    AmazonQ,
}

/// A notice in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub subject: String,
    pub body: String,
    /// For people who read it by e-mail. `None`: the body.
    pub email: Option<String>,
    /// Names, each with its values. None is empty.
    pub attributes: Vec<(&'static str, Vec<String>)>,
}

impl Message {
    pub(super) fn new(notice: &Notice, shape: Shape<'_>) -> Self {
        let attributes = attributes(notice);
        let limit = MAX_BYTES.saturating_sub(size(&attributes));
        let text = |limit: usize| cut(text::text(notice), limit);
        let (subject, body, email) = match shape {
            Shape::Text => (subject(notice), text(limit), None),
            Shape::Json => (subject(notice), json::json(notice, limit), Some(text(limit / 4))),
            Shape::Cloudwatch(topic) => {
                let (subject, body) = cloudwatch::alarm(notice, topic);
                (subject, body, Some(text(limit / 4)))
            }
            Shape::AmazonQ => (subject(notice), amazon_q::notification(notice), Some(text(limit / 4))),
        };
        Self { subject, body, email, attributes }
    }

    /// A body for each protocol: a short line for telephones, a text for e-mail, the body for all others. `None` where
    /// that is more than SNS takes: then all get the body.
    pub(super) fn by_protocol(&self) -> Option<String> {
        let mut bodies = serde_json::json!({ "default": self.body, "sms": self.subject });
        if let Some(email) = &self.email {
            bodies["email"] = email.as_str().into();
        }
        Some(bodies.to_string()).filter(|bodies| bodies.len() + size(&self.attributes) <= MAX_BYTES)
    }
}

/// An attribute's type and value, as SNS has them: filter policies look for one of several values.
pub(super) fn typed(values: &[String]) -> (&'static str, String) {
    match values {
        [value] => ("String", value.clone()),
        values => ("String.Array", serde_json::Value::from(values).to_string()),
    }
}

fn size(attributes: &[(&'static str, Vec<String>)]) -> usize {
    let size = |(name, values): &(&str, Vec<String>)| {
        let (kind, value) = typed(values);
        name.len() + kind.len() + value.len()
    };
    attributes.iter().map(size).sum()
}

/// With what not everybody may read among the details.
pub(super) fn revealed(notice: &Notice) -> Notice {
    let mut notice = notice.clone();
    for entry in &mut notice.alerts {
        entry.told.details.append(&mut entry.told.sensitive);
    }
    notice
}

/// Without addresses of clients, also where a rule is about them: each has the same other name in their place every time.
pub(super) fn withheld(notice: &Notice) -> Notice {
    let mut notice = notice.clone();
    for entry in &mut notice.alerts {
        entry.told.sensitive.clear();
        for address in withhold(&mut entry.alert.id) {
            let texts = [Some(&mut entry.told.state), entry.alert.summary.as_mut(), entry.alert.runbook.as_mut()];
            for text in texts.into_iter().flatten() {
                *text = text.replace(&address, &stand_in(&address));
            }
        }
    }
    for (_, alert) in &mut notice.also_firing {
        withhold(alert);
    }
    notice
}

/// Labels that are addresses of clients.
const ADDRESS: &str = "client_addr";

fn withhold(alert: &mut AlertId) -> Vec<String> {
    let addresses = alert.labels.iter_mut().filter(|(name, value)| name == ADDRESS && !value.is_empty());
    addresses.map(|(_, value)| std::mem::replace(value, stand_in(value))).collect()
}

fn stand_in(address: &str) -> String {
    let hash = address.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("withheld-{:04x}", hash >> 16)
}

/// What a heartbeat says.
pub(super) fn alive(every: Duration) -> String {
    let every = humantime::format_duration(every);
    format!(
        "pgvigil gets on with its work: servers answer, and rules are judged. It says so every {every} while that is so."
    )
}

fn subject(notice: &Notice) -> String {
    let line = match (notice.purpose, notice.alerts.as_slice()) {
        (Purpose::Heartbeat { .. }, _) => "HEARTBEAT of pgvigil".to_owned(),
        (Purpose::Test, _) => format!("TEST of pgvigil, nothing is wrong: notifier {}", notice.notifier),
        (_, []) => String::new(),
        (purpose, [only]) => format!("{}{}", headline(purpose, only), reading(only)),
        (purpose, [first, others @ ..]) => {
            let more = if others.len() == 1 { "alert" } else { "alerts" };
            format!("{} (+{} {more}){}", headline(purpose, first), others.len(), reading(first))
        }
    };
    subject_line(&line)
}

/// One line: printable ASCII, at most 99 characters, beginning with a letter.
fn subject_line(line: &str) -> String {
    let plain = |c: char| match c {
        c if c.is_control() => ' ',
        c if c.is_ascii() => c,
        _ => '?',
    };
    let ascii: String = line.chars().map(plain).collect();
    let mut words = ascii.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.len() > MAX_SUBJECT {
        words.truncate(MAX_SUBJECT - 3);
        words.truncate(words.trim_end().len());
        words.push_str("...");
    }
    words
}

/// `FIRING critical: TargetDown on orders/orders-replica-1`.
fn headline(purpose: Purpose, entry: &Entry) -> String {
    let alert = &entry.alert;
    let state = match (purpose, alert.phase) {
        (Purpose::Repeat, _) => "STILL FIRING".to_owned(),
        (Purpose::Flapping, _) => "FLAPPING".to_owned(),
        (Purpose::Held, _) => "HELD BACK".to_owned(),
        (Purpose::Calm, phase) => format!("CALM AGAIN, {}", phase.as_str().to_uppercase()),
        (_, phase) => phase.as_str().to_uppercase(),
    };
    format!("{state} {}: {} on {}", alert.severity.as_str(), alert.id.rule, subject_of(&alert.id))
}

/// What is left when the line is cut is its beginning, so the number comes before its cause.
fn reading(entry: &Entry) -> String {
    let alert = &entry.alert;
    match (alert.phase, alert.gone, alert.reading) {
        (Phase::Firing, _, Some(reading)) => {
            let cause = entry.told.diagnosis.as_ref().and_then(|found| found.causes.first());
            // Of an alert about anything else it says nothing.
            let cause = cause
                .filter(|_| is_about_replication(entry))
                .map_or_else(String::new, |cause| format!(" ({})", cause.as_str().replace('_', " ")));
            // A number without a unit says nothing by itself.
            let reading = match alert.unit {
                Unit::Count | Unit::Bool => predicate(entry).to_owned(),
                Unit::Seconds | Unit::Bytes | Unit::BytesPerSecond | Unit::Ratio => {
                    quantity::reading(alert.unit, reading)
                }
            };
            format!(": {reading}{cause}")
        }
        (_, Some(Gone::Subject), _) if !explain::names_a_part(&alert.id) => ": it does not apply any more".to_owned(),
        (_, Some(Gone::Subject), _) => ": it is gone".to_owned(),
        (_, Some(Gone::Unwatched), _) => ": it is no longer watched".to_owned(),
        _ => String::new(),
    }
}

/// Whether it is told for what the diagnosis of its replica explains.
fn is_about_replication(entry: &Entry) -> bool {
    explain::signal_of(&entry.alert).is_some_and(Signal::is_about_replication)
}

/// What is wrong, without of whom.
fn predicate(entry: &Entry) -> &str {
    let state = entry.told.state.as_str();
    let predicate = state.strip_prefix(&explain::subject(&entry.alert.id)).unwrap_or(state);
    predicate.trim_start_matches([' ', ':'])
}

/// For filter policies: of each, all that the alerts have. `target` is not there where all are on whole clusters.
fn attributes(notice: &Notice) -> Vec<(&'static str, Vec<String>)> {
    if let Purpose::Heartbeat { .. } = notice.purpose {
        return vec![("state", vec!["heartbeat".to_owned()])];
    }
    let clean =
        |value: &str| value.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_VALUE).collect::<String>();
    let all = |value: fn(&Entry) -> &str| {
        let mut values = Vec::new();
        for value in notice.alerts.iter().map(value).filter(|value| !value.is_empty()).map(clean) {
            if values.len() < MAX_VALUES && !values.contains(&value) {
                values.push(value);
            }
        }
        values
    };
    let mut attributes = vec![
        ("severity", all(|entry| entry.alert.severity.as_str())),
        ("state", all(|entry| entry.alert.phase.as_str())),
        ("rule", all(|entry| entry.alert.id.rule.as_str())),
        ("cluster", all(|entry| entry.alert.id.cluster.as_str())),
        ("target", all(|entry| entry.alert.id.target.as_ref().map_or("", Name::as_str))),
    ];
    attributes.retain(|(_, values)| !values.is_empty());
    attributes
}

/// The group of a FIFO topic: one for each target where notices tell of one alert, else one for each group; within it order
/// is kept. At most 128 printable ASCII characters.
pub(super) fn group_id(notice: &Notice) -> String {
    let name = match &notice.group {
        Group::All => "all".to_owned(),
        Group::Cluster(cluster) => format!("{cluster}/"),
        Group::Alert(id) => format!("{}/{}", id.cluster, id.target.as_ref().map_or("", Name::as_str)),
    };
    // Names that differ beyond what is kept share a group: they are ordered more than they need to be, no worse.
    name.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }).take(MAX_GROUP).collect()
}

/// `orders/orders-replica-1 slot=debezium`.
fn subject_of(id: &AlertId) -> String {
    let target = id.target.as_ref().map_or_else(String::new, |target| format!("/{target}"));
    let labels: String = id.labels.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    format!("{}{target}{labels}", id.cluster)
}

/// What of a key is the same for all that is told of one life of an alert, on every daemon: its begin, and the alert's hash.
fn life(entry: &Entry) -> (&str, &str) {
    let mut parts = entry.dedup_key.rsplitn(3, '-');
    let hash = parts.next().unwrap_or_default();
    (parts.next().unwrap_or_default(), hash)
}

/// `2026-03-05 04:12:09 UTC`.
pub(super) fn utc(at: SystemTime) -> String {
    rfc3339(at).replace('T', " ").replace('Z', " UTC")
}

fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

/// Cut to `limit` bytes at a character's boundary, and said so.
fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit.saturating_sub(CUT.len())));
        text.push_str(CUT);
    }
    text
}

/// How long the alert lasted.
fn took(entry: &Entry) -> String {
    let end = entry.resolved_at.unwrap_or(entry.active_at);
    duration(end.duration_since(entry.active_at).unwrap_or_default().as_secs_f64())
}

#[cfg(test)]
pub(crate) mod tests;
