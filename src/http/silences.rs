//! `/api/v1/silences`: what holds alerts back.
//!
//! Reading is as open as every other page. Making and ending takes the token of `server.token`; where none is set nobody
//! can: see [`super::changes`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::de::Deserializer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use super::api::time_of_day;
use super::changes::{Asked, Changing, Keeping};
use super::limits::{BadParameter, decode};
use super::reply::Reply;
use super::{AppState, Ask, secret};
use crate::core::alert::Severity;
use crate::core::glob::Glob;
use crate::core::rule::OneOrMany;
use crate::core::silence::selector::{self, Selector, SelectorConfig};
use crate::core::silence::window::{LONGEST_REASON, Window, parse_instant};
use crate::core::silence::{Change, Changed, LONGEST_AUTHOR, Length, NewSilence, Refusal, Silence};
use crate::core::snapshot::Snapshot;
use crate::core::time::MonoTime;

/// Where changes of silences go.
pub type Silencing = Changing<Change, Changed, Refusal>;

/// Fewer characters can be guessed.
const SHORTEST_TOKEN: usize = 16;

/// What is known to those who may make silences. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    fn parse(text: &str) -> Result<Self, String> {
        let way_out = "make one with for example \"openssl rand -hex 16\"";
        if text.is_empty() {
            Err(format!("is empty; {way_out}, or leave the key out"))
        } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Err(format!("holds a space or another character that no header can; {way_out}"))
        } else if text.len() < SHORTEST_TOKEN {
            Err(format!("is shorter than {SHORTEST_TOKEN} characters; {way_out}"))
        } else {
            Ok(Self(Arc::from(text)))
        }
    }

    /// For those who must show it to another.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// In a time that tells nothing but the length.
    pub(super) fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        secret::read(deserializer, Self::parse)
    }
}

/// `GET /api/v1/silences`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Silences<'a> {
    at: Option<String>,
    /// In the order in which they were made; of those that have ended the latest.
    silences: Vec<SilenceView<'a>>,
    maintenance: Vec<WindowView<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Silence")]
pub(super) struct SilenceView<'a> {
    id: u64,
    /// `active`, `ended` (its time is over) or `expired` (by hand).
    state: &'static str,
    /// As one line: `cluster=orders rule=Replica*`.
    selects: String,
    #[serde(flatten)]
    selector: SelectorView<'a>,
    author: &'a str,
    reason: &'a str,
    created_at: Option<String>,
    until: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "MaintenanceWindow")]
struct WindowView<'a> {
    name: &'a str,
    /// `open`, `closed`, or `over` when it does not open again.
    state: &'static str,
    selects: String,
    #[serde(flatten)]
    selector: SelectorView<'a>,
    reason: Option<&'a str>,
    /// Of this time, or the next.
    from: Option<String>,
    until: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Selector")]
struct SelectorView<'a> {
    #[serde(skip_serializing_if = "<[Glob]>::is_empty")]
    cluster: &'a [Glob],
    #[serde(skip_serializing_if = "<[Glob]>::is_empty")]
    target: &'a [Glob],
    #[serde(skip_serializing_if = "<[Glob]>::is_empty")]
    rule: &'a [Glob],
    #[serde(skip_serializing_if = "<[Severity]>::is_empty")]
    severity: &'a [Severity],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, Glob>,
}

impl<'a> SelectorView<'a> {
    fn new(selector: &'a Selector) -> Self {
        let Selector { cluster, target, rule, severity, labels } = selector;
        Self { cluster, target, rule, severity, labels }
    }
}

impl<'a> SilenceView<'a> {
    fn new(silence: &'a Silence, now: MonoTime, wall: SystemTime) -> Self {
        let state = match (silence.was_expired(), silence.is_active(now, wall)) {
            (true, _) => "expired",
            (false, true) => "active",
            (false, false) => "ended",
        };
        Self {
            id: silence.id,
            state,
            selects: silence.selector.to_string(),
            selector: SelectorView::new(&silence.selector),
            author: &silence.author,
            reason: &silence.reason,
            created_at: time_of_day(silence.created_at),
            until: time_of_day(silence.until(now, wall)),
        }
    }
}

impl<'a> WindowView<'a> {
    fn new(window: &'a Window, wall: SystemTime) -> Self {
        let (open, next) = (window.open_at(wall), window.next_after(wall));
        let state = match (open, next) {
            (Some(_), _) => "open",
            (None, Some(_)) => "closed",
            (None, None) => "over",
        };
        let times = open.or(next);
        Self {
            name: window.name.as_str(),
            state,
            selects: window.selector.to_string(),
            selector: SelectorView::new(&window.selector),
            reason: window.reason.as_deref(),
            from: times.and_then(|times| time_of_day(times.from)),
            until: times.and_then(|times| time_of_day(times.until)),
        }
    }
}

/// `/api/v1/silences`.
pub(super) fn list(ask: &Ask<'_>) -> Reply {
    ask.without_parameters(|| Reply::json(StatusCode::OK, &view(&ask.snapshot, ask.now)))
}

fn view(snapshot: &Snapshot, now: MonoTime) -> Silences<'_> {
    let wall = snapshot.wall_time(now);
    Silences {
        at: time_of_day(wall),
        silences: snapshot.silences.all().iter().map(|silence| SilenceView::new(silence, now, wall)).collect(),
        maintenance: snapshot.silences.windows().iter().map(|window| WindowView::new(window, wall)).collect(),
    }
}

/// `/api/v1/silences/{id}`.
pub(super) fn one(ask: &Ask<'_>) -> Reply {
    let silence = id_of(ask.path).and_then(|id| ask.snapshot.silences.all().iter().find(|silence| silence.id == id));
    match silence {
        Some(silence) => {
            let wall = ask.snapshot.wall_time(ask.now);
            ask.without_parameters(|| Reply::json(StatusCode::OK, &SilenceView::new(silence, ask.now, wall)))
        }
        None => no_such_silence(ask.wants_text),
    }
}

fn id_of(path: &str) -> Option<u64> {
    let number = decode(path.strip_prefix("/api/v1/silences/")?)?;
    number.parse().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn no_such_silence(wants_text: bool) -> Reply {
    let reason = "there is no silence of this number; GET /api/v1/silences lists them".to_owned();
    Reply::refusal(StatusCode::NOT_FOUND, "not_found", reason, wants_text)
}

/// What was done, for whoever asked.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SilenceChanged")]
pub(super) struct Done<'a> {
    silence: SilenceView<'a>,
    /// Alerts that are pending or firing and meant by it.
    alerts: Vec<String>,
    /// Names in it that nothing has.
    remarks: &'a [String],
    #[serde(flatten)]
    keeping: Keeping,
}

/// `POST /api/v1/silences` and `DELETE /api/v1/silences/{id}`.
pub(super) async fn change(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (asked, body) = Asked::new(request);
    let reply = reply(&state, &asked, body).await.unwrap_or_else(|refusal| refusal);
    asked.answer(reply)
}

async fn reply(state: &AppState, asked: &Asked, body: Body) -> Result<Reply, Reply> {
    let wants_text = asked.wants_text;
    asked.authorized(state, "silences cannot be changed")?;
    let change = if asked.is_removal() {
        let id = id_of(asked.path()).ok_or_else(|| no_such_silence(wants_text))?;
        Change::Expire { id }
    } else {
        let body = asked.json(body).await?;
        Change::Add(wanted(&body).map_err(|bad| Reply::bad_parameter(&bad, wants_text))?)
    };
    let outcome = asked.done(&state.silencing, change, "/api/v1/silences").await?;
    let changed = outcome.map_err(|refusal| refused(&refusal, wants_text))?;
    Ok(Reply::json(asked.success(), &done(&state.snapshots.borrow(), &changed)))
}

fn done<'a>(snapshot: &Snapshot, changed: &'a Changed) -> Done<'a> {
    let now = crate::clock::now();
    Done {
        silence: SilenceView::new(&changed.silence, now, snapshot.wall_time(now)),
        alerts: changed.alerts.iter().map(ToString::to_string).collect(),
        remarks: &changed.remarks,
        keeping: Keeping::new(&changed.stored),
    }
}

fn refused(refusal: &Refusal, wants_text: bool) -> Reply {
    match refusal {
        Refusal::Bad { key, reason } => {
            Reply::bad_parameter(&BadParameter { parameter: (*key).to_owned(), reason: reason.clone() }, wants_text)
        }
        Refusal::NoSuch(_) => Reply::refusal(StatusCode::NOT_FOUND, "not_found", refusal.to_string(), wants_text),
        Refusal::Ended(_) | Refusal::TooMany => {
            Reply::refusal(StatusCode::CONFLICT, "conflict", refusal.to_string(), wants_text)
        }
    }
}

/// What [`wanted`] takes: lengths of time and lines are as everywhere.
pub(super) fn wanted_schema(length: &Value, line: &Value) -> Value {
    let limited = |longest: usize| {
        let mut line = line.clone();
        line["maxLength"] = json!(longest);
        line
    };
    let pattern = limited(selector::LONGEST);
    let severity = json!({ "type": "string", "enum": ["info", "warning", "critical"] });
    let one_or_many = |of: &Value, what: &str| {
        let list = json!({ "type": "array", "items": of, "maxItems": selector::MOST });
        json!({ "description": what, "anyOf": [of, list, { "type": "null" }] })
    };
    let selectors = ["cluster", "target", "rule", "severity", "labels"];
    let said = |key: &&str| {
        let something = match *key {
            "labels" => json!({ "type": "object", "minProperties": 1 }),
            _ => json!({ "anyOf": [{ "type": "string" }, { "type": "array", "minItems": 1 }] }),
        };
        json!({ "required": [key], "properties": { *key: something, "all": { "enum": [false, null] } } })
    };
    let unsaid = |key: &&str| {
        let nothing = match *key {
            "labels" => json!({ "enum": [null, {}] }),
            _ => json!({ "enum": [null, []] }),
        };
        ((*key).to_owned(), nothing)
    };
    let mut everything: serde_json::Map<String, Value> = selectors.iter().map(unsaid).collect();
    everything.insert("all".to_owned(), json!({ "const": true }));
    let mut some: Vec<Value> = selectors.iter().map(said).collect();
    some.push(json!({ "required": ["all"], "properties": everything }));
    let alone = |key: &str, other: &str| json!({ "required": [key], "properties": { key: { "type": "string" }, other: { "type": "null" } } });
    let mut lasts = length.clone();
    lasts["type"] = json!(["string", "null"]);
    lasts["description"] = json!("How long it lasts, a year at most. Either this or `until`.");
    json!({
        "title": "NewSilence",
        "type": "object",
        "additionalProperties": false,
        "required": ["author", "reason"],
        "properties": {
            "cluster": one_or_many(&pattern, "Names of clusters, with `*` for any characters and `?` for one. Of several one must be so."),
            "target": one_or_many(&pattern, "Names of targets, as of clusters. An alert of a whole cluster has none."),
            "rule": one_or_many(&pattern, "Names of rules, as of clusters."),
            "severity": one_or_many(&severity, "One of these."),
            "labels": {
                "description": "Labels that an alert must have, such as `slot`, each with a pattern.",
                "type": ["object", "null"],
                "propertyNames": pattern,
                "additionalProperties": pattern,
                "maxProperties": selector::MOST,
            },
            "all": { "description": "Every alert is meant, where nothing is selected.", "type": ["boolean", "null"] },
            "for": lasts,
            "until": {
                "description": "When it ends, in RFC 3339 with an offset: in the future, a year ahead at most. Either this or `for`.",
                "type": ["string", "null"],
                "format": "date-time",
            },
            "author": limited(LONGEST_AUTHOR),
            "reason": limited(LONGEST_REASON),
        },
        "allOf": [{ "oneOf": [alone("for", "until"), alone("until", "for")] }, { "anyOf": some }],
    })
}

pub(super) fn wanted_example() -> Value {
    json!({ "cluster": "orders", "rule": "Replica*", "for": "2h", "author": "ann", "reason": "the disk is being replaced" })
}

/// The keys of a silence that is asked for.
const KEYS: [&str; 10] = ["cluster", "target", "rule", "severity", "labels", "all", "for", "until", "author", "reason"];

/// Reads what is asked for. A key that is not known is refused: a condition that was not understood must not be left out.
fn wanted(body: &[u8]) -> Result<NewSilence, BadParameter> {
    let bad = |key: &str, reason: &str| BadParameter { parameter: key.to_owned(), reason: reason.to_owned() };
    let object = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(object)) => object,
        Ok(_) => {
            return Err(bad(
                "body",
                "a JSON object is needed, for example {\"rule\": \"Replica*\", \"for\": \"2h\", ...}",
            ));
        }
        Err(error) => return Err(bad("body", &format!("not JSON: {error}"))),
    };
    if let Some(key) = object.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let reason = format!("not known here; known are {}", KEYS.join(", "));
        return Err(bad(&key.escape_default().to_string(), &reason));
    }
    let text = |key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(bad(key, "must be a string")),
    };
    let needed = |key: &str| text(key)?.ok_or_else(|| bad(key, "is missing"));
    let names = |key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(OneOrMany::default()),
        Some(Value::String(name)) => Ok(OneOrMany(vec![name.clone()])),
        Some(Value::Array(names)) => {
            let name = |name: &Value| name.as_str().map(str::to_owned);
            names.iter().map(name).collect::<Option<_>>().map(OneOrMany).ok_or_else(|| bad(key, "must be strings"))
        }
        Some(_) => Err(bad(key, "must be a string or a list of strings")),
    };
    let labels = match object.get("labels") {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(Value::Object(labels)) => {
            let label = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
            labels
                .iter()
                .map(label)
                .collect::<Option<_>>()
                .ok_or_else(|| bad("labels", "their values must be strings"))?
        }
        Some(_) => return Err(bad("labels", "must be an object of strings")),
    };
    let config = SelectorConfig {
        cluster: names("cluster")?,
        target: names("target")?,
        rule: names("rule")?,
        severity: names("severity")?,
        labels,
    };
    let length = match (text("for")?, text("until")?) {
        (Some(text), None) => humantime::parse_duration(text).map(Length::For).map_err(|_| {
            let text = text.escape_default();
            bad("for", &format!("\"{text}\" is not a duration; write for example \"2h\" or \"30m\""))
        })?,
        (None, Some(text)) => Length::Until(parse_instant(text).map_err(|reason| bad("until", &reason))?),
        (None, None) => return Err(bad("for", "is missing: how long? write for example \"2h\", or \"until\"")),
        (Some(_), Some(_)) => return Err(bad("until", "\"for\" says it already; write one of the two")),
    };
    let all = match object.get("all") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(all)) => *all,
        Some(_) => return Err(bad("all", "must be true or false")),
    };
    Ok(NewSilence {
        selector: Selector::parse(&config).map_err(|fault| bad(fault.key, &fault.reason))?,
        all,
        author: needed("author")?.to_owned(),
        reason: needed("reason")?.to_owned(),
        length,
    })
}
