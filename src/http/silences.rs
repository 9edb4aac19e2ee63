//! `/api/v1/silences`: what holds alerts back, and the one thing that can be changed over HTTP.
//!
//! Reading is as open as every other page. Making and ending takes the token of `server.token`; where none is set nobody
//! can. A change is put to the engine, and answered when it is written.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use subtle::ConstantTimeEq;
use tokio::sync::{mpsc, oneshot};

use super::api::time_of_day;
use super::limits::{BadParameter, decode};
use super::reply::Reply;
use super::serve::MAX_BODY_BYTES;
use super::{AppState, Ask, wants_text};
use crate::core::alert::Severity;
use crate::core::glob::Glob;
use crate::core::rule::OneOrMany;
use crate::core::silence::selector::{Selector, SelectorConfig};
use crate::core::silence::window::{Window, parse_instant};
use crate::core::silence::{Change, Changed, Length, NewSilence, Refusal, Silence};
use crate::core::snapshot::Snapshot;
use crate::core::time::MonoTime;

/// Where changes go: each with whoever waits for the answer.
pub type Silencing = mpsc::Sender<(Change, oneshot::Sender<Result<Changed, Refusal>>)>;

/// Time for a body to arrive, and for the engine and the store to be done.
const PATIENCE: Duration = Duration::from_secs(10);

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
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Token;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string in quotes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Token, E> {
                Token::parse(text).map_err(E::custom)
            }

            // An error of serde's would repeat the number.
            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Token, E> {
                Err(E::custom("is a number; write it in quotes"))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Token, E> {
                Err(E::custom("is a number; write it in quotes"))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Token, E> {
                Err(E::custom("is a number; write it in quotes"))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// `GET /api/v1/silences`.
#[derive(Serialize)]
struct Silences<'a> {
    at: Option<String>,
    /// In the order in which they were made; of those that have ended the latest.
    silences: Vec<SilenceView<'a>>,
    maintenance: Vec<WindowView<'a>>,
}

#[derive(Serialize)]
struct SilenceView<'a> {
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

#[derive(Serialize)]
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

#[derive(Serialize)]
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
    decode(path.strip_prefix("/api/v1/silences/")?)?.parse().ok()
}

fn no_such_silence(wants_text: bool) -> Reply {
    let reason = "there is no silence of this number; GET /api/v1/silences lists them".to_owned();
    Reply::refusal(StatusCode::NOT_FOUND, "not_found", reason, wants_text)
}

/// What was done, for whoever asked.
#[derive(Serialize)]
struct Done<'a> {
    silence: SilenceView<'a>,
    /// Alerts that are pending or firing and meant by it.
    alerts: Vec<String>,
    /// Names in it that nothing has.
    remarks: &'a [String],
    /// Whether a restart of the daemon will find it.
    stored: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

/// `POST /api/v1/silences` and `DELETE /api/v1/silences/{id}`.
pub(super) async fn change(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let wants_text = wants_text(&parts.headers);
    let reply = match authorized(&state, &parts.headers, "silences cannot be changed", wants_text) {
        Err(reply) => reply,
        Ok(()) => reply(&state, &parts.method, parts.uri.path(), body, wants_text).await,
    };
    challenging(reply.into_response_to(&parts.method))
}

/// Tells whoever gave no token how to give one.
pub(super) fn challenging(mut response: Response) -> Response {
    if response.status() == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"pgvigil\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// Whether the token was given. `what` cannot be done where there is none.
pub(super) fn authorized(state: &AppState, headers: &HeaderMap, what: &str, wants_text: bool) -> Result<(), Reply> {
    let Some(token) = &state.token else {
        let reason = format!(
            "{what} here, since no token is set: write for example token = \"file:/etc/pgvigil/token\" or \
             token = \"${{PGVIGIL_TOKEN}}\" under [server]"
        );
        return Err(Reply::refusal(StatusCode::FORBIDDEN, "forbidden", reason, wants_text));
    };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| {
        let (scheme, given) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("Bearer").then(|| given.trim())
    });
    match given {
        Some(given) if token.is(given) => Ok(()),
        Some(_) => {
            let reason = "the token is not the one of server.token".to_owned();
            Err(Reply::refusal(StatusCode::UNAUTHORIZED, "unauthorized", reason, wants_text))
        }
        None => {
            let reason = "this takes the token of server.token, as a header \"Authorization: Bearer ...\"".to_owned();
            Err(Reply::refusal(StatusCode::UNAUTHORIZED, "unauthorized", reason, wants_text))
        }
    }
}

async fn reply(state: &AppState, method: &Method, path: &str, body: Body, wants_text: bool) -> Reply {
    let change = if *method == Method::DELETE {
        match id_of(path) {
            Some(id) => Change::Expire { id },
            None => return no_such_silence(wants_text),
        }
    } else {
        let read = tokio::time::timeout(PATIENCE, to_bytes(body, MAX_BODY_BYTES as usize)).await;
        let Ok(Ok(body)) = read else {
            let reason = format!("the body did not arrive, or is longer than {MAX_BODY_BYTES} bytes");
            return Reply::refusal(StatusCode::BAD_REQUEST, "bad_request", reason, wants_text);
        };
        match wanted(&body) {
            Ok(new) => Change::Add(new),
            Err(bad) => return Reply::bad_parameter(&bad, wants_text),
        }
    };
    let code = if matches!(change, Change::Add(_)) { StatusCode::CREATED } else { StatusCode::OK };
    let (answer, answered) = oneshot::channel();
    let asked = async {
        state.silencing.send((change, answer)).await.ok()?;
        answered.await.ok()
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Some(Ok(changed))) => Reply::json(code, &done(&state.snapshots.borrow(), &changed)),
        Ok(Some(Err(refusal))) => refused(&refusal, wants_text),
        Ok(None) => {
            let reason = "the daemon is stopping; ask again when it is back".to_owned();
            Reply::refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason, wants_text)
        }
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            let reason = format!("no answer within {seconds} s: GET /api/v1/silences says whether it was done");
            Reply::refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason, wants_text)
        }
    }
}

fn done<'a>(snapshot: &Snapshot, changed: &'a Changed) -> Done<'a> {
    let now = crate::clock::now();
    Done {
        silence: SilenceView::new(&changed.silence, now, snapshot.wall_time(now)),
        alerts: changed.alerts.iter().map(ToString::to_string).collect(),
        remarks: &changed.remarks,
        stored: changed.stored.is_ok(),
        warning: changed.stored.as_ref().err().map(|error| format!("a restart of the daemon will undo this: {error}")),
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
