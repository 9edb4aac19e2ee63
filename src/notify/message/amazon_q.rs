//! A notice as a custom notification of Amazon Q Developer in chat applications (once AWS Chatbot), version 1.0 of its
//! schema. Anything else it drops without a word. What one alert has to tell is one thread.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{cut, life, subject, text};
use crate::core::alert::Phase;
use crate::core::ledger::{Entry, Notice, Purpose};
use crate::core::topology::Name;

/// What chats show of one text; its own limits are not documented.
const MAX_DESCRIPTION: usize = 3000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Notification<'a> {
    version: &'static str,
    source: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    content: Content,
    metadata: Metadata,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    text_type: &'static str,
    title: String,
    description: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    next_steps: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    keywords: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<String>,
    summary: String,
    event_type: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    related_resources: Vec<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    additional_context: Map<String, Value>,
}

pub(super) fn notification(notice: &Notice) -> String {
    let only = match notice.alerts.as_slice() {
        [only] => Some(only),
        _ => None,
    };
    let fires = notice.alerts.iter().any(|entry| entry.alert.phase == Phase::Firing);
    let state = if fires { Phase::Firing } else { Phase::Resolved }.as_str();
    let event = match notice.purpose {
        Purpose::Alerts => state,
        other => other.as_str(),
    };
    let description = match (only, notice.alerts.is_empty()) {
        (Some(entry), _) => describe(notice.purpose, entry),
        (None, true) => text::text(notice),
        (None, false) => text::overview(notice),
    };
    let mut resources: Vec<String> = notice.alerts.iter().map(|entry| plain(&place(entry))).collect();
    resources.sort_unstable();
    resources.dedup();
    let body = Notification {
        version: "1.0",
        source: "custom",
        id: &notice.dedup_key,
        content: Content {
            text_type: "client-markdown",
            title: plain(&subject(notice)),
            description: cut(plain(&description), MAX_DESCRIPTION),
            next_steps: only.map_or_else(Vec::new, next_steps),
            keywords: only.map_or_else(Vec::new, |entry| {
                vec![entry.alert.severity.as_str().to_owned(), state.to_owned(), plain(entry.alert.id.rule.as_str())]
            }),
        },
        metadata: Metadata {
            thread_id: only.map(|entry| {
                let (begin, hash) = life(entry);
                format!("{begin}-{hash}")
            }),
            summary: plain(&text::summary(notice)),
            event_type: format!("pgvigil-{event}"),
            related_resources: resources,
            additional_context: only.map(context).unwrap_or_default(),
        },
    };
    serde_json::to_string_pretty(&body).expect("text always serializes")
}

/// The head of the text as people get it elsewhere, as a list.
fn describe(purpose: Purpose, entry: &Entry) -> String {
    let text = text::at_length(purpose, entry);
    let (head, facts) = text.split_once("\n\n").unwrap_or((&text, ""));
    let facts: Vec<String> = facts.lines().filter(|line| !line.is_empty()).map(|line| format!("- {line}")).collect();
    format!("{}\n\n{}", head.replace('\n', "\n\n"), facts.join("\n"))
}

fn next_steps(entry: &Entry) -> Vec<String> {
    let fires = entry.alert.phase == Phase::Firing;
    let cause = entry.told.diagnosis.as_ref().and_then(|found| found.causes.first()).filter(|_| fires);
    let runbook = entry.alert.runbook.as_ref().map(|runbook| format!("Runbook: {}", plain(runbook)));
    cause.map(|cause| cause.remedy().to_owned()).into_iter().chain(runbook).collect()
}

fn context(entry: &Entry) -> Map<String, Value> {
    let alert = &entry.alert;
    let target = alert.id.target.as_ref().map_or("", Name::as_str);
    [
        ("rule", alert.id.rule.as_str()),
        ("cluster", alert.id.cluster.as_str()),
        ("target", target),
        ("severity", alert.severity.as_str()),
        ("state", alert.phase.as_str()),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(name, value)| (name.to_owned(), plain(value).into()))
    .collect()
}

fn place(entry: &Entry) -> String {
    let id = &entry.alert.id;
    id.target.as_ref().map_or_else(|| id.cluster.to_string(), |target| format!("{}/{target}", id.cluster))
}

/// Without what a chat would take for a mention of everybody or a link: `<!channel>`. Whoever names a slot or an application
/// has no business to call people.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        plain.push(c);
        if matches!(c, '<' | '@') && chars.peek().is_some_and(|next| !next.is_whitespace() && *next != '=') {
            plain.push(' ');
        }
    }
    plain
}
