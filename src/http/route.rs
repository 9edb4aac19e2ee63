//! `/api/v1/clusters/{cluster}/route`: which server to read from. The one page whose answer may be waited for: the client is
//! answered by the first snapshot that has a server for it. Nothing is asked of a server for it, unless `poll.burst` has the
//! cluster's next beats come sooner.
//!
//! Who waits holds a connection, so only so many may; whoever comes when they do is answered at once. A client that leaves
//! makes room: its connection ends, and the waiting with it.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::limits::{BadParameter, Limits, decode, decode_value, duration};
use super::reply::Reply;
use super::{AppState, allowing, wants_text};
use crate::clock;
use crate::core::health::certainty_word;
use crate::core::lag::Certainty;
use crate::core::route::{Candidate, Fallback, Pick, Route, Wish, route};
use crate::core::snapshot::Snapshot;
use crate::core::topology::Role;
use crate::core::wal::{Lsn, Timeline};

/// Nobody may wait for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What can be asked besides the limits.
const PARAMETERS: [&str; 5] = ["lsn", "timeline", "wait", "fallback", "pick"];

/// Reads a query: what is wished for, and how long that may take.
fn parse(query: Option<&str>) -> Result<(Wish, Duration), BadParameter> {
    let mut wish = Wish::default();
    let mut wait = Duration::ZERO;
    let mut seen = [false; PARAMETERS.len()];
    let (mut limits, mut asks_role) = (Vec::new(), false);
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name).unwrap_or(Cow::Borrowed(name));
        let bad = |reason: String| BadParameter { parameter: name.escape_default().to_string(), reason };
        let Some(position) = PARAMETERS.iter().position(|known| *known == name) else {
            if !Limits::PARAMETERS.contains(&&*name) {
                let known = [&PARAMETERS[..], &Limits::PARAMETERS].concat().join(", ");
                return Err(bad(format!("not known here; known are {known}")));
            }
            asks_role |= name == "role";
            limits.push(pair);
            continue;
        };
        if std::mem::replace(&mut seen[position], true) {
            return Err(bad("given twice".to_owned()));
        }
        let value = decode_value(value).ok_or_else(|| bad("not readable as UTF-8".to_owned()))?;
        let told = || value.escape_default();
        match position {
            0 => {
                let lsn: Lsn = value.parse().map_err(|error| bad(format!("\"{}\" is {error}", told())))?;
                wish.lsn = Some(lsn);
            }
            1 => {
                let timeline = value.parse().ok().filter(|timeline| *timeline > 0);
                let timeline = timeline.ok_or_else(|| bad(format!("\"{}\" is not a timeline; write a number", told())));
                wish.timeline = Some(Timeline(timeline?));
            }
            2 => {
                wait = duration(&value).map_err(bad)?;
                if wait > LONGEST_WAIT {
                    return Err(bad(format!("nobody may wait for longer than {} s", LONGEST_WAIT.as_secs())));
                }
            }
            3 => {
                wish.fallback = match &*value {
                    "none" => Fallback::None,
                    "primary" => Fallback::Primary,
                    _ => return Err(bad(format!("\"{}\" is not a fallback; write primary or none", told()))),
                };
            }
            _ => {
                wish.pick = match &*value {
                    "weighted" => Pick::Weighted,
                    "best" => Pick::Best,
                    _ => return Err(bad(format!("\"{}\" is no way to pick; write weighted or best", told()))),
                };
            }
        }
    }
    wish.limits = Limits::parse(Some(&limits.join("&")))?;
    if !asks_role {
        wish.limits.role = Some(Role::Replica);
    }
    Ok((wish, wait))
}

/// The cluster's name, not yet decoded. `None` for another path.
fn cluster_of(path: &str) -> Option<&str> {
    path.strip_prefix("/api/v1/clusters/")?.strip_suffix("/route").filter(|name| !name.contains('/'))
}

/// Whether it is asked for: it takes no turn with the pages that take long to write.
pub(super) fn is_asked(path: &str) -> bool {
    cluster_of(path).is_some()
}

pub(super) async fn page(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (path, wants_text) = (request.uri().path(), wants_text(request.headers()));
    // Whoever asks for the options only wants to know whether there is a way.
    let may_wait = *request.method() != Method::OPTIONS;
    let reply = match parse(request.uri().query()) {
        Err(bad) => Reply::bad_parameter(&bad, wants_text),
        Ok((wish, wait)) => {
            let wait = if may_wait { wait } else { Duration::ZERO };
            answer(&state, path, &wish, wait, wants_text).await
        }
    };
    allowing(path, reply.into_response_to(request.method()))
}

async fn answer(state: &AppState, path: &str, wish: &Wish, wait: Duration, wants_text: bool) -> Reply {
    let Some(name) = cluster_of(path).and_then(decode) else { return Reply::not_configured(path, wants_text) };
    let chance = RandomState::new().build_hasher().finish();
    let asked_at = clock::now();
    let mut snapshots = state.snapshots.clone();
    let mut snapshot = Arc::clone(&snapshots.borrow_and_update());
    let mut crowded = false;
    // What may be fallen back on is only that once the time is over.
    let patient = Wish { fallback: Fallback::None, ..*wish };
    if !wait.is_zero() && is_unmet(state, &snapshot, &name, &patient) {
        if let Ok(_place) = state.waiters.try_acquire() {
            let deadline = Instant::now() + wait;
            let bell = snapshot.cluster(&name).map(|cluster| state.waiting.bell(&cluster.name));
            bell.iter().for_each(|bell| bell.notify_one());
            // An error is the end of the daemon, or of the time.
            while let Ok(Ok(())) = timeout_at(deadline, snapshots.changed()).await {
                snapshot = Arc::clone(&snapshots.borrow_and_update());
                if !is_unmet(state, &snapshot, &name, &patient) {
                    break;
                }
                bell.iter().for_each(|bell| bell.notify_one());
            }
        } else {
            crowded = true;
        }
    }
    let now = clock::now();
    let Some(cluster) = snapshot.cluster(&name) else { return Reply::not_configured(path, wants_text) };
    let route = route(cluster, now, wish, state.health, chance);
    let mut view = view(&name, &route, wish);
    view.waited_ms = u64::try_from(now.duration_since(asked_at).as_millis()).unwrap_or(u64::MAX);
    if crowded {
        view.reasons.push("too many wait already, so this was answered at once".to_owned());
    }
    let code = if route.chosen.is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if wants_text { Reply::text(code, view.line()) } else { Reply::json(code, &view) }
}

/// Whether there is a cluster of that name, and nothing for the client in it.
fn is_unmet(state: &AppState, snapshot: &Snapshot, cluster: &str, wish: &Wish) -> bool {
    let cluster = snapshot.cluster(cluster);
    cluster.is_some_and(|cluster| route(cluster, clock::now(), wish, state.health, 0).chosen.is_none())
}

/// The body of the answer.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Route")]
pub(super) struct View<'a> {
    /// `ok`, or `none` when there is no server.
    status: &'static str,
    cluster: &'a str,
    target: Option<&'a str>,
    host: Option<&'a str>,
    port: Option<u16>,
    role: Option<Role>,
    /// The one that it is on: with a position of the write-ahead log, this is what to remember.
    timeline: Option<u32>,
    /// It is not what was asked for, but what may be answered in its place.
    fallback: bool,
    waited_ms: u64,
    reasons: Vec<String>,
    /// All targets, in the order in which they are listed.
    candidates: Vec<CandidateView<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Candidate")]
struct CandidateView<'a> {
    target: &'a str,
    host: Option<&'a str>,
    port: Option<u16>,
    role: Option<Role>,
    #[serde(rename = "in")]
    is_in: bool,
    /// Its share of the answers, against those of the others.
    weight: u32,
    reasons: Vec<String>,
    lag_seconds: Option<f64>,
    lag_bytes: Option<u64>,
    #[serde(serialize_with = "certainty_word")]
    lag_certainty: Certainty,
    /// How far it is proven to have replayed; on a primary, to have flushed.
    lsn: Option<String>,
    timeline: Option<u32>,
    sample_age_ms: Option<u64>,
}

impl<'a> CandidateView<'a> {
    fn new(candidate: &Candidate<'a>) -> Self {
        let (host, port) = candidate.address().unzip();
        let verdict = &candidate.verdict;
        Self {
            target: candidate.name().as_str(),
            host,
            port,
            role: verdict.role,
            is_in: candidate.is_in,
            weight: candidate.weight,
            reasons: verdict.reasons.clone(),
            lag_seconds: verdict.lag_seconds,
            lag_bytes: verdict.lag_bytes,
            lag_certainty: verdict.lag_certainty,
            lsn: candidate.lsn.map(|lsn| lsn.to_string()),
            timeline: candidate.timeline.map(|timeline| timeline.0),
            sample_age_ms: verdict.sample_age_ms,
        }
    }
}

fn view<'a>(cluster: &'a str, route: &Route<'a>, wish: &Wish) -> View<'a> {
    let answer = route.answer();
    let (host, port) = answer.and_then(Candidate::address).unzip();
    let mut reasons = Vec::new();
    if route.chosen.is_none() || route.is_fallback {
        // The wrong role is no news.
        let asked_for =
            |candidate: &&Candidate<'_>| wish.limits.role.is_none_or(|role| candidate.verdict.role == Some(role));
        reasons.extend(
            route
                .candidates
                .iter()
                .filter(asked_for)
                .map(|candidate| format!("{}: {}", candidate.name(), candidate.verdict.reasons.join("; "))),
        );
        if reasons.is_empty() {
            let role = wish.limits.role.map_or("server", Role::as_str);
            reasons.push(format!("the cluster has no {role} that answers"));
        }
    }
    View {
        status: if answer.is_some() { "ok" } else { "none" },
        cluster,
        target: answer.map(|answer| answer.name().as_str()),
        host,
        port,
        role: answer.and_then(|answer| answer.verdict.role),
        timeline: answer.and_then(|answer| answer.timeline).map(|timeline| timeline.0),
        fallback: route.is_fallback,
        waited_ms: 0,
        reasons,
        candidates: route.candidates.iter().map(CandidateView::new).collect(),
    }
}

impl View<'_> {
    /// For scripts: where to connect, or the target's name where no one host is configured for it.
    fn line(&self) -> String {
        match (self.target, self.host, self.port) {
            (Some(_), Some(host), Some(port)) if host.contains(':') => format!("[{host}]:{port}\n"),
            (Some(_), Some(host), Some(port)) => format!("{host}:{port}\n"),
            (Some(target), ..) => format!("{target}\n"),
            (None, ..) => format!("none: {}\n", self.reasons.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_read_in_full_or_refused_by_name() {
        let read = parse(Some(
            "max_lag=1s&lsn=0%2F16B3748&timeline=3&wait=500ms&fallback=primary&pick=best&role=any&max_lag_bytes=1kB",
        ));
        let expect = Wish {
            limits: Limits { max_lag_seconds: Some(1.0), max_lag_bytes: Some(1000), ..Limits::default() },
            lsn: Some(Lsn::new(0x16B_3748)),
            timeline: Some(Timeline(3)),
            fallback: Fallback::Primary,
            pick: Pick::Best,
        };
        assert_eq!(read, Ok((expect, Duration::from_millis(500))));
        let plain = Wish { limits: Limits { role: Some(Role::Replica), ..Limits::default() }, ..Wish::default() };
        assert_eq!(parse(None), Ok((plain, Duration::ZERO)));
        for (query, parameter) in [
            ("lsn=", "lsn"),
            ("lsn=16B3748", "lsn"),
            ("lsn=0/1&lsn=0/1", "lsn"),
            ("timeline=0", "timeline"),
            ("timeline=-1", "timeline"),
            ("timeline=00000001000000000000000A", "timeline"),
            ("wait=31s", "wait"),
            ("wait=forever", "wait"),
            ("fallback=replica", "fallback"),
            ("pick=any", "pick"),
            ("max_lag=soon", "max_lag"),
            ("role=replica&role=any", "role"),
            ("lsn=0/1&x=1", "x"),
        ] {
            assert_eq!(parse(Some(query)).map_err(|bad| bad.parameter), Err(parameter.to_owned()), "{query}");
        }
    }
}
