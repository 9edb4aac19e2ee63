//! `/live`: the parts of a page that have changed, as server-sent events, one a second at most.
//!
//! Nothing here is on the way of a poll: a listener takes the published snapshot when its second has come. What several
//! listen to is written once. Their number is bounded, and so is what each may hold: the next event is made when the last
//! one is on its way, and a client that takes nothing for some seconds is closed by the kernel (see [`super::serve`]).

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use futures_util::stream;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::limits::{BadParameter, decode};
use super::page::{self, For};
use super::reply::Reply;
use super::{AppState, Ask, wants_text};
use crate::clock;
use crate::core::time::MonoTime;

/// Pages that are open at once. Others ask anew from time to time.
const LISTENERS: usize = 32;

/// Time between two events.
const EVERY: Duration = Duration::from_secs(1);

/// A stream ends before its connection is closed for its age; the browser opens another.
const LIFE: Duration = Duration::from_secs(240);

/// What pages listen to.
#[derive(Clone, Debug)]
pub struct Live {
    places: Arc<Semaphore>,
    /// The last that was made for each page: the fleet's, and each cluster's.
    made: Arc<Mutex<HashMap<Option<String>, Arc<Made>>>>,
    cancel: CancellationToken,
}

/// The parts of a page at one instant.
#[derive(Debug)]
struct Made {
    at: MonoTime,
    pieces: BTreeMap<String, String>,
    orders: BTreeMap<&'static str, Vec<String>>,
}

/// What has changed: elements by their id, and the order of tables' rows.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PageChange")]
pub(super) struct Event<'a> {
    pieces: BTreeMap<&'a str, &'a str>,
    orders: BTreeMap<&'a str, &'a [String]>,
}

impl Live {
    /// Streams end with `cancel`.
    pub fn new(cancel: CancellationToken) -> Self {
        Self { places: Arc::new(Semaphore::new(LISTENERS)), made: Arc::default(), cancel }
    }

    /// The parts of a page, not older than a second. `None`: the cluster is not watched any more.
    async fn made(&self, state: &AppState, cluster: Option<&str>) -> Option<Arc<Made>> {
        let mut all = self.made.lock().await;
        let (key, now) = (cluster.map(str::to_owned), clock::now());
        let is_young = |made: &&Arc<Made>| now.duration_since(made.at) < EVERY.mul_f32(0.9);
        if let Some(made) = all.get(&key).filter(is_young) {
            return Some(Arc::clone(made));
        }
        // What nobody asks for any more goes with the rest once in a while.
        all.retain(|_, made| now.duration_since(made.at) < LIFE);
        let ask = Ask::of_path(state, "/live");
        let sheet = match cluster {
            None => page::fleet(&ask, For::Listeners),
            Some(name) => page::cluster(&ask, ask.snapshot.cluster(name)?, For::Listeners),
        };
        let (pieces, orders) = sheet.into_pieces();
        let pieces = pieces.into_iter().map(|piece| (piece.id, piece.html)).collect();
        let made = Arc::new(Made { at: now, pieces, orders: orders.into_iter().collect() });
        all.insert(key, Arc::clone(&made));
        Some(made)
    }
}

/// Who listens to a page.
struct Listener {
    state: Arc<AppState>,
    cluster: Option<String>,
    sent: Option<Arc<Made>>,
    since: MonoTime,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    /// The next event; `None` ends the stream.
    async fn next(mut self) -> Option<(Result<String, Infallible>, Self)> {
        let live = self.state.live.clone();
        if self.sent.is_some() {
            tokio::select! {
                () = live.cancel.cancelled() => return None,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        if live.cancel.is_cancelled() || clock::now().duration_since(self.since) > LIFE {
            return None;
        }
        let made = live.made(&self.state, self.cluster.as_deref()).await?;
        let event = event(self.sent.as_deref(), &made);
        self.sent = Some(made);
        Some((Ok(event), self))
    }
}

fn event(before: Option<&Made>, after: &Made) -> String {
    let is_new = |id: &str, html: &str| before.is_none_or(|before| before.pieces.get(id).is_none_or(|was| was != html));
    let is_moved =
        |id: &str, order: &[String]| before.is_none_or(|before| before.orders.get(id).is_none_or(|was| was != order));
    let pieces = after.pieces.iter().map(|(id, html)| (id.as_str(), html.as_str()));
    let orders = after.orders.iter().map(|(id, order)| (*id, order.as_slice()));
    let event = Event {
        pieces: pieces.filter(|(id, html)| is_new(id, html)).collect(),
        orders: orders.filter(|(id, order)| is_moved(id, order)).collect(),
    };
    // Strings by strings: that does not fail. JSON has no line breaks of its own, which would end the event.
    let json = serde_json::to_string(&event).unwrap_or_default();
    format!("retry: 2000\ndata: {json}\n\n")
}

/// `/live`, `/live?cluster=orders`.
pub(super) async fn events(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (method, wants_text) = (request.method().clone(), wants_text(request.headers()));
    let cluster = match cluster_of(request.uri().query()) {
        Ok(cluster) => cluster,
        Err(bad) => return Reply::bad_parameter(&bad, wants_text).into_response_to(&method),
    };
    if let Some(name) = &cluster
        && state.snapshots.borrow().cluster(name).is_none()
    {
        return Reply::not_configured(name, wants_text).into_response_to(&method);
    }
    if method != Method::GET {
        let mut response = Reply::text(StatusCode::OK, String::new()).into_response_to(&method);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        return response;
    }
    let Ok(place) = Arc::clone(&state.live.places).try_acquire_owned() else {
        let reason = format!("{LISTENERS} pages listen already; this one asks again by itself");
        return Reply::refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason, wants_text)
            .into_response_to(&method);
    };
    let listener = Listener { state, cluster, sent: None, since: clock::now(), _place: place };
    let mut response = Response::new(Body::from_stream(stream::unfold(listener, Listener::next)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // nginx would hold events back until it has a few kilobytes of them.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn cluster_of(query: Option<&str>) -> Result<Option<String>, BadParameter> {
    let bad =
        |parameter: &str, reason: &str| BadParameter { parameter: parameter.to_owned(), reason: reason.to_owned() };
    let mut found = None;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name != "cluster" {
            return Err(bad(&name.escape_default().to_string(), "not known here; known is cluster"));
        }
        if found.is_some() {
            return Err(bad("cluster", "given twice"));
        }
        found = Some(decode(value).ok_or_else(|| bad("cluster", "not readable as UTF-8"))?.into_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use axum::body::BodyDataStream;
    use futures_util::StreamExt;
    use serde_json::Value;
    use tokio::sync::watch;
    use tower::ServiceExt;

    use super::*;
    use crate::core::fixture;
    use crate::core::lag::{Certainty, Evidence};
    use crate::core::snapshot::Snapshot;
    use crate::http::router;
    use crate::http::tests::{orders, state_of};

    async fn listen(state: &AppState, path: &str) -> (StatusCode, BodyDataStream) {
        let request = Request::builder().uri(path).body(Body::empty()).expect("a request");
        let response = router(state.clone()).oneshot(request).await.expect("infallible");
        (response.status(), response.into_body().into_data_stream())
    }

    async fn next(stream: &mut BodyDataStream) -> Option<Value> {
        let event = stream.next().await?.expect("no error");
        let text = std::str::from_utf8(&event).expect("UTF-8").strip_prefix("retry: 2000\ndata: ").expect("data");
        Some(serde_json::from_str(text.strip_suffix("\n\n").expect("an end")).expect("JSON"))
    }

    fn published(state: AppState) -> (watch::Sender<Arc<Snapshot>>, AppState) {
        let (sender, snapshots) = watch::channel(Arc::clone(&state.snapshots.borrow()));
        (sender, AppState { snapshots, ..state })
    }

    #[tokio::test]
    async fn a_page_is_told_all_at_first_and_then_what_has_changed() {
        let (sender, state) = published(state_of(orders(|_| ())));
        for path in ["/live", "/live?cluster=orders"] {
            let (status, mut stream) = listen(&state, path).await;
            assert_eq!(status, 200);
            let first = next(&mut stream).await.expect("an event");
            let pieces = first["pieces"].as_object().expect("pieces");
            assert!(pieces.contains_key("verdict") && pieces.contains_key("at"), "{pieces:?}");
            if path == "/live" {
                assert_eq!(first["orders"], serde_json::json!({ "clusters": ["c-orders"] }));
            }
            let began = clock::now();
            let lag = fixture::lag(75.0, 74.0, 76.0, Certainty::Exact, Evidence::Lsn);
            let snapshot = orders(|targets| targets[1].lag = Some(lag));
            sender.send_replace(Arc::new(fixture::moved_to(snapshot, clock::now())));
            let second = next(&mut stream).await.expect("an event");
            assert!(clock::now().duration_since(began) >= EVERY.mul_f32(0.5), "one a second at most");
            assert!(second["pieces"].to_string().contains("1m 15s"), "{second}");
            assert!(second["pieces"].get("silences").is_none(), "it has not changed: {second}");
            assert_eq!(second["orders"], serde_json::json!({}));
            sender.send_replace(Arc::new(fixture::moved_to(orders(|_| ()), clock::now())));
        }
    }

    #[tokio::test]
    async fn so_many_may_listen_and_who_goes_makes_room() {
        let state = state_of(orders(|_| ()));
        let mut streams = Vec::new();
        for _ in 0..LISTENERS {
            let (status, stream) = listen(&state, "/live").await;
            assert_eq!(status, 200);
            streams.push(stream);
        }
        assert_eq!(listen(&state, "/live").await.0, StatusCode::SERVICE_UNAVAILABLE);
        drop(streams.pop());
        assert_eq!(listen(&state, "/live").await.0, 200);
    }

    #[tokio::test]
    async fn a_stream_ends_with_the_daemon_and_with_its_cluster() {
        let cancel = CancellationToken::new();
        let (sender, state) = published(state_of(orders(|_| ())));
        let state = AppState { live: Live::new(cancel.clone()), ..state };
        let (_, mut fleet) = listen(&state, "/live").await;
        let (_, mut cluster) = listen(&state, "/live?cluster=orders").await;
        assert!(next(&mut fleet).await.is_some() && next(&mut cluster).await.is_some());
        sender.send_replace(Arc::new(fixture::moved_to(fixture::snapshot(vec![]), clock::now())));
        assert_eq!(next(&mut cluster).await, None);
        assert!(next(&mut fleet).await.is_some());
        cancel.cancel();
        assert_eq!(next(&mut fleet).await, None);
    }

    #[tokio::test]
    async fn what_several_listen_to_is_made_once() {
        let state = state_of(orders(|_| ()));
        let (first, second) = (state.live.made(&state, None).await, state.live.made(&state, None).await);
        assert!(Arc::ptr_eq(&first.expect("made"), &second.expect("made")));
    }
}
