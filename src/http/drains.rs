//! `/api/v1/drains`: targets that somebody keeps reads from. Reading is open; making and undoing takes the token: see
//! [`super::changes`].

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::time_of_day;
use super::changes::{Asked, Changing, Keeping};
use super::limits::{BadParameter, decode};
use super::reply::Reply;
use super::{AppState, Ask};
use crate::clock;
use crate::core::drain::{Change, Changed, Drain, LONGEST_AUTHOR, LONGEST_REASON, NewDrain, Refusal, Whom};
use crate::core::time::MonoTime;

/// Where changes of drains go.
pub type Draining = Changing<Change, Changed, Refusal>;

/// `GET /api/v1/drains`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Drains<'a> {
    at: Option<String>,
    drains: Vec<DrainView<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Drain")]
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

/// What [`wanted`] takes: names, lengths of time and lines are as everywhere.
pub(super) fn wanted_schema(name: &Value, length: &Value, line: &Value) -> Value {
    let described = |schema: &Value, what: &str, longest: Option<usize>| {
        let mut schema = schema.clone();
        schema["description"] = json!(what);
        if let Some(longest) = longest {
            schema["maxLength"] = json!(longest);
        }
        schema
    };
    let or_null = |mut schema: Value| {
        schema["type"] = json!(["string", "null"]);
        schema
    };
    json!({
        "title": "NewDrain",
        "type": "object",
        "additionalProperties": false,
        "required": ["target", "for", "author"],
        "properties": {
            "cluster": or_null(described(name, "May be left out where only one cluster has such a target.", None)),
            "target": described(name, "The target's name. Without `cluster` also `CLUSTER/TARGET`.", None),
            "for": described(length, "How long it lasts, 31 days at most. It takes the place of one at work.", None),
            "author": described(line, "Who asks for it.", Some(LONGEST_AUTHOR)),
            "reason": or_null(described(line, "Why.", Some(LONGEST_REASON))),
        },
    })
}

pub(super) fn wanted_example() -> Value {
    json!({ "cluster": "orders", "target": "replica-1", "for": "10m", "author": "ann", "reason": "restart" })
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
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DrainChanged")]
pub(super) struct Done<'a> {
    drain: DrainView<'a>,
    #[serde(flatten)]
    keeping: Keeping,
}

/// `POST /api/v1/drains` and `DELETE /api/v1/drains/{cluster}/{target}`.
pub(super) async fn change(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (asked, body) = Asked::new(request);
    let reply = reply(&state, &asked, body).await.unwrap_or_else(|refusal| refusal);
    asked.answer(reply)
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

async fn reply(state: &AppState, asked: &Asked, body: Body) -> Result<Reply, Reply> {
    let wants_text = asked.wants_text;
    asked.authorized(state, "targets cannot be drained")?;
    let change = if asked.is_removal() {
        Change::Undo(whom(asked.path()).ok_or_else(|| Reply::not_configured(asked.path(), wants_text))?)
    } else {
        let body = asked.json(body).await?;
        Change::Add(wanted(&body).map_err(|bad| Reply::bad_parameter(&bad, wants_text))?)
    };
    let outcome = asked.done(&state.draining, change, "/api/v1/drains").await?;
    let changed = outcome.map_err(|refusal| refused(&refusal, wants_text))?;
    let now = clock::now();
    let wall = state.snapshots.borrow().wall_time(now);
    let drain = DrainView::new(&changed.drain, now, wall);
    Ok(Reply::json(asked.success(), &Done { drain, keeping: Keeping::new(&changed.stored) }))
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
