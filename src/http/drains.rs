//! `/api/v1/drains`: targets that somebody keeps reads from. Reading is open; making and undoing takes the token, and is
//! answered when it is written, as for silences.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::api::time_of_day;
use super::limits::{BadParameter, decode};
use super::reply::Reply;
use super::serve::MAX_BODY_BYTES;
use super::silences::{authorized, challenging};
use super::{AppState, Ask, wants_text};
use crate::clock;
use crate::core::drain::{Change, Changed, Drain, NewDrain, Refusal, Whom};
use crate::core::time::MonoTime;

/// Where changes go: each with whoever waits for the answer.
pub type Draining = mpsc::Sender<(Change, oneshot::Sender<Result<Changed, Refusal>>)>;

/// Time for a body to arrive, and for the engine and the store to be done.
const PATIENCE: Duration = Duration::from_secs(10);

/// `GET /api/v1/drains`.
#[derive(Serialize)]
struct Drains<'a> {
    at: Option<String>,
    drains: Vec<DrainView<'a>>,
}

#[derive(Serialize)]
pub(super) struct DrainView<'a> {
    cluster: &'a str,
    target: &'a str,
    author: &'a str,
    reason: Option<&'a str>,
    created_at: Option<String>,
    until: Option<String>,
    left_seconds: u64,
}

impl<'a> DrainView<'a> {
    pub(super) fn new(drain: &'a Drain, now: MonoTime, wall: SystemTime) -> Self {
        let left = drain.left(now).unwrap_or_default();
        Self {
            cluster: drain.target.cluster.as_str(),
            target: drain.target.target.as_str(),
            author: &drain.author,
            reason: drain.reason.as_deref(),
            created_at: time_of_day(drain.created_at),
            until: wall.checked_add(left).and_then(time_of_day),
            left_seconds: left.as_secs(),
        }
    }
}

/// `/api/v1/drains`.
pub(super) fn list(ask: &Ask<'_>) -> Reply {
    let wall = ask.snapshot.wall_time(ask.now);
    let drains = ask.snapshot.drains.all().filter(|drain| drain.left(ask.now).is_some());
    let drains = drains.map(|drain| DrainView::new(drain, ask.now, wall)).collect();
    ask.without_parameters(|| Reply::json(StatusCode::OK, &Drains { at: time_of_day(wall), drains }))
}

/// A drain that is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    cluster: Option<String>,
    /// The target's name, or `cluster/target`.
    target: String,
    #[serde(rename = "for")]
    length: String,
    author: String,
    reason: Option<String>,
}

fn wanted(body: &[u8]) -> Result<NewDrain, BadParameter> {
    let bad = |key: &str, reason: String| BadParameter { parameter: key.to_owned(), reason };
    let wanted: Wanted = serde_json::from_slice(body).map_err(|error| bad("body", error.to_string()))?;
    let length = humantime::parse_duration(&wanted.length).map_err(|_| {
        let text = wanted.length.escape_default();
        bad("for", format!("\"{text}\" is not a duration; write for example \"10m\" or \"2h\""))
    })?;
    let target = match wanted.cluster {
        Some(cluster) => Whom { cluster: Some(cluster), target: wanted.target },
        None => Whom::parse(&wanted.target),
    };
    Ok(NewDrain { target, author: wanted.author, reason: wanted.reason, length })
}

/// What was done, for whoever asked.
#[derive(Serialize)]
struct Done<'a> {
    drain: DrainView<'a>,
    /// Whether a restart of the daemon will find it.
    stored: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

/// `POST /api/v1/drains` and `DELETE /api/v1/drains/{cluster}/{target}`.
pub(super) async fn change(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let wants_text = wants_text(&parts.headers);
    let reply = match authorized(&state, &parts.headers, "targets cannot be drained", wants_text) {
        Err(reply) => reply,
        Ok(()) => reply(&state, &parts.method, parts.uri.path(), body, wants_text).await,
    };
    challenging(reply.into_response_to(&parts.method))
}

/// The target that a path names: by its cluster and its name, or by its name alone.
fn whom(path: &str) -> Option<Whom> {
    let names = path.strip_prefix("/api/v1/drains/")?;
    let name = |text: &str| decode(text).map(std::borrow::Cow::into_owned);
    Some(match names.split_once('/') {
        Some((cluster, target)) => Whom { cluster: Some(name(cluster)?), target: name(target)? },
        None => Whom { cluster: None, target: name(names)? },
    })
}

async fn reply(state: &AppState, method: &Method, path: &str, body: Body, wants_text: bool) -> Reply {
    let change = if *method == Method::DELETE {
        match whom(path) {
            Some(whom) => Change::Undo(whom),
            None => return Reply::not_configured(path, wants_text),
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
        state.draining.send((change, answer)).await.ok()?;
        answered.await.ok()
    };
    let unavailable =
        |reason: String| Reply::refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason, wants_text);
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Some(Ok(changed))) => {
            let now = clock::now();
            let wall = state.snapshots.borrow().wall_time(now);
            let warning = changed.stored.as_ref().err();
            let done = Done {
                drain: DrainView::new(&changed.drain, now, wall),
                stored: changed.stored.is_ok(),
                warning: warning.map(|error| format!("a restart of the daemon will undo this: {error}")),
            };
            Reply::json(code, &done)
        }
        Ok(Some(Err(refusal))) => refused(&refusal, wants_text),
        Ok(None) => unavailable("the daemon is stopping; ask again when it is back".to_owned()),
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            unavailable(format!("no answer within {seconds} s: GET /api/v1/drains says whether it was done"))
        }
    }
}

fn refused(refusal: &Refusal, wants_text: bool) -> Reply {
    match refusal {
        Refusal::Bad { key, reason } => {
            Reply::bad_parameter(&BadParameter { parameter: (*key).to_owned(), reason: reason.clone() }, wants_text)
        }
        Refusal::NoSuch(_) | Refusal::NotDrained(_) => {
            Reply::refusal(StatusCode::NOT_FOUND, "not_found", refusal.to_string(), wants_text)
        }
    }
}
