use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request as HttpRequest;
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::*;
use crate::core::alert::{Phase, Severity};
use crate::core::fixture;
use crate::core::observation::PollFailure;
use crate::core::snapshot::{Failing, PoolerView, TargetView};

pub(super) fn state_of(snapshot: Snapshot) -> AppState {
    let snapshot = fixture::moved_to(snapshot, clock::now());
    // The sender may go: readers keep the last value.
    let (_, snapshots) = watch::channel(Arc::new(snapshot));
    let (silencing, _) = tokio::sync::mpsc::channel(1);
    let (draining, _) = tokio::sync::mpsc::channel(1);
    let metrics = Arc::new(SelfMetrics::new(&["log"]));
    let history = History::default();
    history.sample(&snapshots.borrow(), clock::now());
    let live = Live::new(CancellationToken::new());
    AppState {
        snapshots,
        metrics,
        health: HealthConfig::default(),
        exposition: MetricsConfig::default(),
        silencing,
        draining,
        token: None,
        auth: None,
        history,
        live,
        waiters: Arc::new(waiters(4)),
        waiting: Arc::default(),
        aws: Aws::new(crate::aws::Config::default()),
    }
}

pub(super) fn orders(change: impl FnOnce(&mut Vec<TargetView>)) -> Snapshot {
    let mut targets = fixture::orders();
    change(&mut targets);
    fixture::snapshot(vec![fixture::cluster("orders", targets, Vec::new())])
}

pub(super) struct Got {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Got {
    fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

pub(super) async fn ask(state: &AppState, method: &str, path: &str, accept: &str) -> Got {
    let request = HttpRequest::builder().method(method).uri(path).header("accept", accept).body(Body::empty());
    let response = router(state.clone()).oneshot(request.expect("a request")).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a body");
    Got {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).expect("UTF-8"),
    }
}

pub(super) async fn get_json(state: &AppState, path: &str) -> (u16, Json) {
    let got = ask(state, "GET", path, "*/*").await;
    (got.status, got.json())
}

#[tokio::test]
async fn every_path_answers_each_method_with_the_same_status() {
    let healthy = state_of(orders(|_| ()));
    let sick = state_of(orders(|targets| {
        fixture::fail(&mut targets[0], PollFailure::Refused);
        fixture::fail(&mut targets[1], PollFailure::Refused);
    }));
    for (path, well, ill) in [
        ("/", 200, 200),
        ("/metrics", 200, 200),
        ("/metrics?cluster=orders", 200, 200),
        ("/metrics?cluster=nothing", 404, 404),
        ("/metrics?cluster=", 400, 400),
        ("/metrics?cluster=orders&cluster=orders", 400, 400),
        ("/metrics?clutter=orders", 400, 400),
        ("/probe?target=orders/primary", 200, 200),
        ("/probe?target=orders%2Freplica-1", 200, 200),
        ("/probe?target=orders/nobody", 404, 404),
        ("/probe?target=nothing/primary", 404, 404),
        ("/probe?target=orders", 400, 400),
        ("/probe?target=%ff", 400, 400),
        ("/probe?target=orders/primary&x=1", 400, 400),
        ("/probe", 400, 400),
        ("/api/v1/sd?cluster=nothing", 404, 404),
        ("/api/v1/sd?x=1", 400, 400),
        // Without the header Host.
        ("/api/v1/sd", 400, 400),
        ("/livez", 200, 200),
        ("/readyz", 200, 200),
        ("/healthz", 200, 503),
        ("/healthz/orders", 200, 503),
        ("/healthz/nothing", 404, 404),
        ("/healthz/orders/primary", 200, 503),
        ("/healthz/orders/replica-1", 200, 503),
        ("/healthz/orders/replica%2D2", 200, 200),
        ("/healthz/orders/replica-2?max_lag=5s", 200, 200),
        ("/healthz/orders/replica-2?max_lag=50ms", 503, 503),
        ("/healthz/orders/replica-2?max_lag=soon", 400, 400),
        ("/healthz/orders/nobody?max_lag=soon", 400, 400),
        ("/healthz/orders/nobody", 404, 404),
        ("/healthz/orders/%ff", 404, 404),
        ("/healthz/orders/", 404, 404),
        ("/healthz?max_lag=5s", 400, 400),
        ("/healthz/orders?max_lag=5s", 400, 400),
        ("/api/v1/clusters", 200, 200),
        ("/api/v1/clusters/orders", 200, 200),
        ("/api/v1/clusters/nothing", 404, 404),
        ("/api/v1/clusters/orders/route", 200, 200),
        ("/api/v1/clusters/orders/route?max_lag=50ms", 503, 503),
        ("/api/v1/clusters/orders/route?role=primary", 200, 503),
        ("/api/v1/clusters/orders/route?lsn=soon", 400, 400),
        ("/api/v1/clusters/nothing/route", 404, 404),
        ("/api/v1/clusters/%ff/route", 404, 404),
        ("/api/v1/alerts", 200, 200),
        ("/api/v1/silences", 200, 200),
        ("/api/v1/silences?x=1", 400, 400),
        ("/api/v1/silences/1", 404, 404),
        ("/api/v1/drains", 200, 200),
        ("/api/v1/drains?x=1", 400, 400),
        ("/patroni/orders/primary", 200, 503),
        ("/patroni/orders/primary/", 200, 503),
        ("/patroni/orders/primary/primary", 200, 503),
        ("/patroni/orders/primary/read-write", 200, 503),
        ("/patroni/orders/primary/replica", 503, 503),
        ("/patroni/orders/primary/read-only", 200, 503),
        ("/patroni/orders/replica-1/replica", 200, 503),
        ("/patroni/orders/replica-1/replica?lag=256", 200, 503),
        ("/patroni/orders/replica-2/replica?lag=255", 503, 503),
        ("/patroni/orders/replica-2/replica?lag=1MB&replication_state=streaming", 200, 200),
        ("/patroni/orders/replica-2/replica?lag=abc", 400, 400),
        ("/patroni/orders/replica-2/replica?tag_x=y", 400, 400),
        ("/patroni/orders/replica-2/primary", 503, 503),
        ("/patroni/orders/replica-2/health", 200, 200),
        ("/patroni/orders/replica-1/health", 200, 503),
        ("/patroni/orders/replica-2/failover", 404, 404),
        ("/patroni/orders/nobody/replica", 404, 404),
        ("/api/v1/clusters/orders/lag", 200, 200),
        ("/api/v1/clusters/orders/lag?x=1", 400, 400),
        ("/api/v1/clusters/nothing/lag", 404, 404),
        ("/clusters/orders", 200, 200),
        ("/clusters/nothing", 404, 404),
        ("/assets/page.css", 200, 200),
        ("/assets/nothing", 404, 404),
        ("/live?cluster=nothing", 404, 404),
        ("/live?cluster=a&cluster=b", 400, 400),
        ("/live?x=1", 400, 400),
        ("/nothing", 404, 404),
    ] {
        for (state, expect) in [(&healthy, well), (&sick, ill)] {
            let got = ask(state, "GET", path, "*/*").await;
            assert_eq!(got.status, expect, "GET {path}: {}", got.body);
            assert_eq!(got.headers["content-length"], got.body.len().to_string(), "{path}");
            let head = ask(state, "HEAD", path, "*/*").await;
            assert_eq!((head.status, head.body.as_str()), (expect, ""), "HEAD {path}");
            assert!(head.headers.get("content-length").is_some_and(|length| *length != "0"), "HEAD {path}");
            assert_eq!(head.headers["content-type"], got.headers["content-type"], "HEAD {path}");
            let options = ask(state, "OPTIONS", path, "*/*").await;
            assert_eq!((options.status, options.body.as_str()), (expect, ""), "OPTIONS {path}");
        }
    }
    for path in ["/metrics", "/healthz/orders/primary", "/"] {
        let got = ask(&healthy, "POST", path, "*/*").await;
        assert_eq!(got.status, 405, "{path}");
        assert!(got.headers.contains_key("allow"), "{path}");
    }
}

#[tokio::test]
async fn a_refusal_is_one_line_for_whoever_wants_text() {
    let state = state_of(orders(|_| ()));
    for (method, path, code, starts) in [
        ("GET", "/healthz/orders/nobody", 404, "not_found: no cluster or target of that name is configured: /healthz/"),
        ("GET", "/healthz/nobody", 404, "not_found: no cluster or target"),
        ("GET", "/api/v1/clusters/nobody", 404, "not_found: no cluster or target"),
        ("GET", "/nowhere", 404, "not_found: no such path; there are /metrics /probe "),
        ("POST", "/metrics", 405, "wrong_method: what is answered here is GET, HEAD, OPTIONS"),
        (
            "GET",
            "/healthz/orders/primary?max_lag=soon",
            400,
            "bad_request: parameter `max_lag`: \"soon\" is not a duration",
        ),
    ] {
        let line = ask(&state, method, path, "text/plain").await;
        assert_eq!((line.status, line.body.lines().count()), (code, 1), "{path}: {}", line.body);
        assert!(line.body.starts_with(starts) && line.body.ends_with('\n'), "{path}: {}", line.body);
        assert_eq!(line.headers["content-type"], "text/plain; charset=utf-8");
        let json = ask(&state, method, path, "*/*").await;
        assert_eq!(json.status, code, "{path}");
        assert!(json.body.starts_with("{\"status\":\"") && json.json()["reasons"][0].is_string(), "{}", json.body);
    }
}

#[test]
fn clients_leave_files_to_the_targets() {
    for (open_files, n_targets, expect) in
        [(20_000, 3, 1024), (1024, 3, 494), (1024, 900, 46), (64, 3, 14), (64, 100, 8), (u64::MAX, 2000, 1024)]
    {
        assert_eq!(places(open_files, n_targets), expect, "{open_files} files, {n_targets} targets");
    }
}

#[tokio::test]
async fn the_short_way_answers_as_the_router_does() {
    let state = state_of(orders(|targets| fixture::fail(&mut targets[1], PollFailure::Refused)));
    for path in [
        "/healthz/orders/primary",
        "/healthz/orders/replica-1",
        "/healthz/orders/replica-2?max_lag=5s",
        "/healthz/orders/replica-2?max_lag=soon",
        "/healthz/orders/nobody",
    ] {
        for method in ["GET", "HEAD", "OPTIONS"] {
            let request = HttpRequest::builder().method(method).uri(path).body(()).expect("a request");
            let short = answer_at_once(&state, &request).expect("a path it knows");
            let long = ask(&state, method, path, "*/*").await;
            assert_eq!(short.status().as_u16(), long.status, "{method} {path}");
            assert_eq!(short.headers()["content-type"], long.headers["content-type"], "{method} {path}");
        }
    }
    for path in ["/healthz/orders", "/healthz/orders/", "/healthz//x", "/healthz/a/b/c", "/metrics", "/"] {
        let request = HttpRequest::builder().uri(path).body(()).expect("a request");
        assert!(answer_at_once(&state, &request).is_none(), "{path}");
    }
}

#[tokio::test]
async fn a_parameter_that_cannot_be_read_is_named() {
    let state = state_of(orders(|_| ()));
    for (path, parameter) in [
        ("/healthz/orders/replica-1?max_lag=abc", "max_lag"),
        ("/healthz/orders/replica-1?max_lag=1s&max_lag=2s", "max_lag"),
        ("/healthz/orders/replica-1?lag=5", "lag"),
        ("/healthz/orders/replica-1?role=leader", "role"),
        ("/healthz?max_age=1s", "max_age"),
    ] {
        let (status, body) = get_json(&state, path).await;
        assert_eq!((status, &body["status"], &body["parameter"]), (400, &"bad_request".into(), &parameter.into()));
        assert!(body["reasons"][0].as_str().is_some_and(|reason| reason.contains(parameter)), "{body}");
    }
}

#[tokio::test]
async fn a_target_is_told_with_the_fields_that_were_promised() {
    let state = state_of(orders(|_| ()));
    let (status, mut body) = get_json(&state, "/healthz/orders/replica-1?max_lag=5s").await;
    let age = body["sample_age_ms"].take();
    assert!(age.as_u64().is_some_and(|age| (500..5000).contains(&age)), "{age}");
    assert_eq!(
        (status, body),
        (
            200,
            serde_json::json!({
                "status": "ok", "reasons": [], "role": "replica", "lag_seconds": 0.12, "lag_bytes": 256,
                "lag_certainty": "exact", "lag_method": "lsn+ts", "cause": null, "other_causes": [],
                "sample_age_ms": null,
            })
        )
    );
    let text = ask(&state, "GET", "/healthz/orders/replica-1", "text/plain").await;
    assert_eq!(text.body, "ok replica lag 0.12s (exact)\n");
    assert_eq!(text.headers["content-type"], "text/plain; charset=utf-8");
    let down = state_of(orders(|targets| fixture::fail(&mut targets[1], PollFailure::Refused)));
    let text = ask(&down, "GET", "/healthz/orders/replica-1", "text/plain").await;
    assert_eq!(text.body, "unfit replica lag 0.12s (exact): the last poll failed: connection refused\n");
}

#[tokio::test]
async fn the_verdict_over_everything_is_the_worst_of_all() {
    let firing = |severity, phase| {
        let alert = fixture::alert("ReplicaLagging", severity, phase, &[]);
        fixture::snapshot(vec![fixture::cluster("orders", fixture::orders(), vec![alert])])
    };
    let untried = |views: &mut Vec<TargetView>, positions: &[usize]| {
        for &position in positions {
            views[position] = TargetView::new(views[position].id.clone(), Duration::from_secs(10));
        }
    };
    let with_pooler = |change: fn(&mut PoolerView)| {
        let mut pooler = fixture::pooler("orders", "pgb");
        change(&mut pooler);
        let mut cluster = fixture::cluster("orders", fixture::orders(), Vec::new());
        cluster.poolers = vec![Arc::new(pooler)];
        fixture::snapshot(vec![cluster])
    };
    let mut stuck = orders(|_| ());
    stuck.published_at = fixture::ago(20.0);
    for (what, snapshot, status, code) in [
        ("all is well", orders(|_| ()), "ok", 200),
        ("info", firing(Severity::Info, Phase::Firing), "ok", 200),
        ("pending", firing(Severity::Critical, Phase::Pending), "ok", 200),
        ("resolved", firing(Severity::Critical, Phase::Resolved), "ok", 200),
        ("warning", firing(Severity::Warning, Phase::Firing), "degraded", 200),
        ("critical", firing(Severity::Critical, Phase::Firing), "critical", 503),
        ("replica down", orders(|v| fixture::fail(&mut v[1], PollFailure::Refused)), "degraded", 200),
        ("primary down", orders(|v| fixture::fail(&mut v[0], PollFailure::Refused)), "critical", 503),
        (
            "one failed poll of the primary",
            orders(|v| {
                fixture::fail(&mut v[0], PollFailure::Refused);
                fixture::age(&mut v[0], 1.0);
            }),
            "degraded",
            200,
        ),
        ("a pooler is up", with_pooler(|_| ()), "ok", 200),
        (
            "a pooler is down",
            with_pooler(|pooler| {
                let now = fixture::NOW;
                let failure = PollFailure::Refused;
                pooler.failing = Some(Failing { since: now, last_at: now, failure, count: 1 });
            }),
            "degraded",
            200,
        ),
        (
            "a pooler is silent",
            with_pooler(|pooler| pooler.answer.as_mut().expect("an answer").answered_at = fixture::ago(20.0)),
            "degraded",
            200,
        ),
        ("a pooler was not asked yet", with_pooler(|pooler| pooler.answer = None), "degraded", 200),
        ("no primary", orders(|v| drop(v.remove(0))), "degraded", 200),
        ("two primaries", orders(|v| v[1] = fixture::primary("orders", "replica-1")), "critical", 503),
        (
            "nothing answers",
            orders(|v| v.iter_mut().for_each(|t| fixture::fail(t, PollFailure::Refused))),
            "critical",
            503,
        ),
        ("one not polled yet", orders(|v| untried(v, &[2])), "degraded", 200),
        ("not polled yet", orders(|v| untried(v, &[0, 1, 2])), "stale", 503),
        ("the engine is stuck", stuck, "stale", 503),
    ] {
        let state = state_of(snapshot);
        for path in ["/healthz", "/healthz/orders"] {
            let (found, body) = get_json(&state, path).await;
            assert_eq!((found, &body["status"]), (code, &status.into()), "{what}: {path}: {body}");
            assert_eq!(body["reasons"].as_array().is_some_and(Vec::is_empty), status == "ok", "{what}: {body}");
        }
    }
    let (code, body) = get_json(&state_of(fixture::snapshot(Vec::new())), "/healthz").await;
    assert_eq!((code, &body["status"]), (503, &"stale".into()));
}

#[tokio::test]
async fn a_cluster_is_judged_by_itself() {
    let mut broken = fixture::orders();
    broken.iter_mut().for_each(|target| fixture::fail(target, PollFailure::Refused));
    let clusters = vec![
        fixture::cluster("orders", fixture::orders(), Vec::new()),
        fixture::cluster("billing", broken, Vec::new()),
    ];
    let state = state_of(fixture::snapshot(clusters));
    for (path, code) in [("/healthz", 503), ("/healthz/orders", 200), ("/healthz/billing", 503)] {
        assert_eq!(ask(&state, "GET", path, "*/*").await.status, code, "{path}");
    }
}

#[tokio::test]
async fn live_and_ready_are_about_the_daemon_and_not_the_databases() {
    let down = state_of(orders(|v| v.iter_mut().for_each(|t| fixture::fail(t, PollFailure::Refused))));
    let starting = state_of(orders(|v| v[2] = TargetView::new(v[2].id.clone(), Duration::from_secs(10))));
    let mut stuck = orders(|_| ());
    stuck.published_at = fixture::ago(20.0);
    let stuck = state_of(stuck);
    for (state, livez, readyz) in [(&down, 200, 200), (&starting, 200, 503), (&stuck, 503, 200)] {
        let statuses =
            (ask(state, "GET", "/livez", "*/*").await.status, ask(state, "GET", "/readyz", "*/*").await.status);
        assert_eq!(statuses, (livez, readyz));
    }
    let text = ask(&starting, "GET", "/readyz", "text/plain").await;
    assert_eq!(text.body, "starting: not tried yet: orders/replica-2\n");
}

#[tokio::test]
async fn metrics_are_typed_as_scrapers_expect() {
    let state = state_of(orders(|_| ()));
    let got = ask(&state, "GET", "/metrics", "*/*").await;
    assert_eq!(got.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(got.body.contains("pgvigil_replay_lag_seconds{cluster=\"orders\",target=\"replica-1\"} 0.12\n"));
    assert!(got.body.contains("pgvigil_polls_total{outcome=\"ok\"} 0\n"));
}

#[tokio::test]
async fn a_page_too_long_to_be_held_whole_is_sent_in_chunks() {
    let cluster = |number: u32| {
        let name = format!("c{number}");
        fixture::cluster(&name, vec![fixture::primary(&name, "primary")], Vec::new())
    };
    let state = state_of(fixture::snapshot((0..200).map(cluster).collect()));
    let got = ask(&state, "GET", "/metrics", "*/*").await;
    assert_eq!(got.headers.get("content-length"), None);
    assert_eq!(got.body.matches("\npgvigil_target_up{").count(), 200);
    assert!(got.body.contains("\npgvigil_polls_total{outcome=\"ok\"} 0\n"));
    let head = ask(&state, "HEAD", "/metrics", "*/*").await;
    assert_eq!((head.status, head.headers.get("content-length"), head.body.as_str()), (200, None, ""));

    let (address, cancel, task) = served(state).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("writes");
    // Somebody else asks while this one takes nothing.
    let quick = exchange(address, b"GET /healthz/c7/primary HTTP/1.0\r\n\r\n").await;
    assert!(quick.starts_with("HTTP/1.0 200"), "{quick}");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(
        answer.contains("\r\ntransfer-encoding: chunked\r\n") && answer.ends_with("\r\n0\r\n\r\n"),
        "{answer:.300}"
    );
    cancel.cancel();
    assert!(task.await.expect("no panic").is_ok());
}

#[test]
fn the_api_is_as_it_was() {
    let mut targets = fixture::orders();
    fixture::fail(&mut targets[2], PollFailure::Refused);
    targets[2].lag = Some(fixture::lag(
        10.0,
        10.0,
        f64::INFINITY,
        crate::core::lag::Certainty::AtLeast,
        crate::core::lag::Evidence::LowerBound,
    ));
    let alerts = vec![
        fixture::alert("ReplicaLagging", Severity::Warning, Phase::Firing, &[]),
        fixture::alert("SlotRetainingWal", Severity::Critical, Phase::Resolved, &[("slot", "debezium")]),
    ];
    let snapshot = fixture::snapshot(vec![fixture::cluster("orders", targets, alerts)]);
    insta::assert_snapshot!("api_clusters", pretty(&api::clusters(&snapshot, fixture::NOW)));
    insta::assert_snapshot!("api_cluster", pretty(&api::cluster(&snapshot, &snapshot.clusters[0], fixture::NOW)));
    insta::assert_snapshot!("api_alerts", pretty(&api::alerts(&snapshot, fixture::NOW)));
}

fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("serializes")
}

/// A real server on a port of its own.
pub(super) async fn served(
    state: AppState,
) -> (std::net::SocketAddr, CancellationToken, tokio::task::JoinHandle<std::io::Result<()>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let cancel = CancellationToken::new();
    let task = tokio::spawn(serve(listener, None, state, 1024, cancel.clone()));
    (address, cancel, task)
}

pub(super) async fn exchange(address: std::net::SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    // A server that refuses early may reset the connection while the rest is being written.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_connection_serves_several_requests_and_bodies_are_only_for_get() {
    let (address, cancel, task) = served(state_of(orders(|_| ()))).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    for (request, starts, has_body) in [
        ("GET /healthz/orders/primary HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n", true),
        ("HEAD /healthz/orders/primary HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n", false),
        ("OPTIONS /healthz/orders/nobody HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 404 Not Found\r\n", false),
        ("HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n", false),
        ("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n", true),
    ] {
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        let head = String::from_utf8(head).expect("UTF-8");
        assert!(head.starts_with(starts), "{request}: {head}");
        if has_body {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
            let mut body = vec![0; length.parse().expect("a number")];
            stream.read_exact(&mut body).await.expect("a body");
        }
    }
    cancel.cancel();
    assert!(task.await.expect("no panic").is_ok());
}

#[tokio::test]
async fn heads_and_bodies_have_limits() {
    let (address, cancel, task) = served(state_of(orders(|_| ()))).await;
    let long = "a".repeat(64 * 1024);
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    for (what, request, starts) in [
        ("a long path", format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"), "HTTP/1.1 431"),
        ("a long header", format!("GET / HTTP/1.1\r\nhost: x\r\ncookie: {long}\r\n\r\n"), "HTTP/1.1 431"),
        ("many headers", format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n"), "HTTP/1.1 431"),
        (
            "a large body",
            "POST /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n".to_owned(),
            "HTTP/1.1 413",
        ),
        (
            "an endless body",
            "GET /livez HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
            "HTTP/1.1 413",
        ),
        ("no HTTP", "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("the next one", "GET /livez HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1.0 200"),
    ] {
        let answer = exchange(address, request.as_bytes()).await;
        assert!(answer.starts_with(starts), "{what}: {answer:.200}");
    }
    cancel.cancel();
    assert!(task.await.expect("no panic").is_ok());
}

#[tokio::test]
async fn a_slow_client_is_let_go_and_holds_up_no_one() {
    let (address, cancel, task) = served(state_of(orders(|_| ()))).await;
    let started = clock::now();
    let mut slow = TcpStream::connect(address).await.expect("connects");
    slow.write_all(b"GET /livez HT").await.expect("writes");
    let quick = exchange(address, b"GET /livez HTTP/1.0\r\n\r\n").await;
    assert!(quick.starts_with("HTTP/1.0 200"), "{quick}");
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(9), slow.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "still open");
    assert!(clock::now().duration_since(started) >= Duration::from_secs(4));
    cancel.cancel();
    assert!(task.await.expect("no panic").is_ok());
}

#[tokio::test]
async fn a_stop_closes_idle_connections_and_the_port() {
    let (address, cancel, task) = served(state_of(orders(|_| ()))).await;
    let mut idle = TcpStream::connect(address).await.expect("connects");
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("writes");
    let mut first = [0; 15];
    idle.read_exact(&mut first).await.expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    cancel.cancel();
    let stopped = tokio::time::timeout(Duration::from_secs(2), task).await;
    assert!(stopped.is_ok_and(|ended| ended.is_ok_and(|result| result.is_ok())), "still serving");
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.expect("the end");
    assert!(TcpStream::connect(address).await.is_err());
}

const TOKEN: &str = "a-token-of-this-test";

/// An application that may change silences, and what happens to them: as the engine would do it, and with this word of the store.
fn silencing(stored: Result<(), String>) -> AppState {
    let (sender, mut changes) = tokio::sync::mpsc::channel::<(_, tokio::sync::oneshot::Sender<_>)>(4);
    tokio::spawn(async move {
        let mut silences = crate::core::silence::Silences::new(Vec::new());
        while let Some((change, answer)) = changes.recv().await {
            let (now, wall) = (clock::now(), clock::wall());
            let outcome = silences.change(change, now, wall).map(|silence| crate::core::silence::Changed {
                until: silence.until(now, wall),
                silence,
                alerts: Vec::new(),
                remarks: vec!["there is no cluster \"x\" now".to_owned()],
                stored: stored.clone(),
            });
            answer.send(outcome).ok();
        }
    });
    let token = serde_json::from_value(TOKEN.into()).expect("a token");
    AppState { silencing: sender, token: Some(token), ..state_of(orders(|_| ())) }
}

async fn put(state: &AppState, method: &str, path: &str, authorization: &str, body: &str) -> Got {
    put_as(state, method, path, authorization, "", body).await
}

/// The same with a body of a type.
async fn put_as(
    state: &AppState,
    method: &str,
    path: &str,
    authorization: &str,
    content_type: &str,
    body: &str,
) -> Got {
    let mut request = HttpRequest::builder().method(method).uri(path);
    for (name, value) in [("authorization", authorization), ("content-type", content_type)] {
        if !value.is_empty() {
            request = request.header(name, value);
        }
    }
    let request = request.body(Body::from(body.to_owned())).expect("a request");
    let response = router(state.clone()).oneshot(request).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a body");
    let body = String::from_utf8(body.to_vec()).expect("UTF-8");
    assert!(!body.contains(TOKEN), "{body}");
    Got { status: parts.status.as_u16(), headers: parts.headers, body }
}

const WANTED: &str = r#"{"cluster": "orders", "rule": ["Replica*", "TargetDown"], "labels": {"slot": "deb*"},
    "for": "2h", "author": "ada", "reason": "switchover"}"#;

#[tokio::test]
async fn only_who_knows_the_token_changes_silences() {
    let open = silencing(Ok(()));
    let closed = AppState { token: None, ..open.clone() };
    let bearer = format!("Bearer {TOKEN}");
    for (method, path) in [("POST", "/api/v1/silences"), ("DELETE", "/api/v1/silences/1")] {
        let none = put(&closed, method, path, &bearer, WANTED).await;
        assert_eq!((none.status, &none.json()["status"]), (403, &"forbidden".into()));
        assert!(none.body.contains("token = \\\"file:/etc/pgvigil/token\\\""), "{}", none.body);
        for wrong in ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer a-token-of-this-tesu", &format!("{bearer}x")] {
            let got = put(&open, method, path, wrong, WANTED).await;
            assert_eq!((got.status, &got.json()["status"]), (401, &"unauthorized".into()), "{wrong:?}");
            assert_eq!(got.headers["www-authenticate"], "Bearer realm=\"pgvigil\"");
        }
    }
    assert_eq!(put(&open, "POST", "/api/v1/silences", &format!("bearer {TOKEN}"), WANTED).await.status, 201);
    assert!(!format!("{open:?}").contains(TOKEN));
}

#[tokio::test]
async fn a_silence_is_made_and_ended() {
    let state = silencing(Ok(()));
    let bearer = format!("Bearer {TOKEN}");
    let made = put(&state, "POST", "/api/v1/silences", &bearer, WANTED).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let mut body = made.json();
    for time in ["created_at", "until"] {
        let time = body["silence"][time].take();
        assert!(time.as_str().is_some_and(|time| time.ends_with('Z')), "{time}");
    }
    let expect = serde_json::json!({
        "silence": {
            "id": 1, "state": "active", "selects": "cluster=orders rule=Replica*|TargetDown slot=deb*",
            "cluster": ["orders"], "rule": ["Replica*", "TargetDown"], "labels": {"slot": "deb*"},
            "author": "ada", "reason": "switchover", "created_at": null, "until": null,
        },
        "alerts": [], "remarks": ["there is no cluster \"x\" now"], "stored": true,
    });
    assert_eq!(body, expect);
    let ended = put(&state, "DELETE", "/api/v1/silences/1", &bearer, "").await;
    assert_eq!((ended.status, &ended.json()["silence"]["state"]), (200, &"expired".into()));
    let again = put(&state, "DELETE", "/api/v1/silences/1", &bearer, "").await;
    assert_eq!((again.status, &again.json()["reasons"][0]), (409, &"silence 1 has ended already".into()));
    for path in ["/api/v1/silences/2", "/api/v1/silences/x", "/api/v1/silences/-1"] {
        let missing = put(&state, "DELETE", path, &bearer, "").await;
        assert_eq!((missing.status, &missing.json()["status"]), (404, &"not_found".into()), "{path}");
    }
    for (method, path, allowed) in [
        ("PUT", "/api/v1/silences", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/api/v1/silences/1", "GET, HEAD, OPTIONS, DELETE"),
        ("DELETE", "/api/v1/silences", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/metrics", "GET, HEAD, OPTIONS"),
    ] {
        let got = put(&state, method, path, &bearer, "").await;
        assert_eq!((got.status, got.headers["allow"].as_bytes()), (405, allowed.as_bytes()), "{method} {path}");
    }
}

#[tokio::test]
async fn a_body_is_json_whatever_curl_says_of_it() {
    let bearer = format!("Bearer {TOKEN}");
    for (content_type, status) in [
        ("", 201),
        ("application/json", 201),
        ("Application/JSON; charset=utf-8", 201),
        ("application/x-www-form-urlencoded", 201),
        ("text/plain", 415),
        ("application/xml", 415),
    ] {
        let state = silencing(Ok(()));
        let got = put_as(&state, "POST", "/api/v1/silences", &bearer, content_type, WANTED).await;
        assert_eq!(got.status, status, "{content_type}: {}", got.body);
    }
    let state = silencing(Ok(()));
    let form = "application/x-www-form-urlencoded";
    let got = put_as(&state, "POST", "/api/v1/silences", &bearer, form, "cluster=orders&for=2h").await;
    assert_eq!(got.status, 400, "{}", got.body);
}

#[tokio::test]
async fn what_the_store_does_not_keep_is_said() {
    let state = silencing(Err("disk full".to_owned()));
    let made = put(&state, "POST", "/api/v1/silences", &format!("Bearer {TOKEN}"), WANTED).await;
    let body = made.json();
    assert_eq!((made.status, &body["stored"]), (201, &false.into()));
    assert_eq!(body["warning"], "a restart of the daemon will undo this: disk full");
    // Nobody is there to do it.
    let (silencing, gone) = tokio::sync::mpsc::channel(1);
    drop(gone);
    let got =
        put(&AppState { silencing, ..state }, "POST", "/api/v1/silences", &format!("Bearer {TOKEN}"), WANTED).await;
    assert_eq!((got.status, &got.json()["status"]), (503, &"unavailable".into()));
}

#[tokio::test]
async fn what_is_wrong_with_a_silence_is_told_by_its_key() {
    let state = silencing(Ok(()));
    let base = r#""for": "2h", "author": "ada", "reason": "r""#;
    for (body, key, says) in [
        ("", "body", "not JSON"),
        ("[]", "body", "a JSON object is needed"),
        (&format!("{{{base}}}"), "all", "it would silence everything; say what, or that all is meant"),
        (&format!("{{{base}, \"rules\": \"x\"}}"), "rules", "not known here; known are cluster, target, rule"),
        (&format!("{{{base}, \"rule\": 5}}"), "rule", "must be a string or a list of strings"),
        (&format!("{{{base}, \"rule\": [5]}}"), "rule", "must be strings"),
        (&format!("{{{base}, \"rule\": \"\"}}"), "rule", "\"\" cannot be a pattern"),
        (&format!("{{{base}, \"severity\": \"bad\"}}"), "severity", "\"bad\" is not one of"),
        (&format!("{{{base}, \"labels\": {{\"slot\": 5}}}}"), "labels", "their values must be strings"),
        (&format!("{{{base}, \"labels\": []}}"), "labels", "must be an object of strings"),
        (&format!("{{{base}, \"all\": 1}}"), "all", "must be true or false"),
        (
            &format!("{{{base}, \"rule\": \"R\", \"until\": \"2099-01-01T00:00:00Z\"}}"),
            "until",
            "\"for\" says it already",
        ),
        (r#"{"rule": "R", "author": "a", "reason": "r"}"#, "for", "is missing: how long?"),
        (r#"{"rule": "R", "author": "a", "reason": "r", "for": 5}"#, "for", "must be a string"),
        (r#"{"rule": "R", "author": "a", "reason": "r", "for": "5"}"#, "for", "\"5\" is not a duration"),
        (r#"{"rule": "R", "author": "a", "reason": "r", "for": "2y"}"#, "for", "longer than a year"),
        (r#"{"rule": "R", "author": "a", "reason": "r", "until": "2020-01-01T00:00:00Z"}"#, "until", "is past"),
        (r#"{"rule": "R", "author": "a", "reason": "r", "until": "2099-01-01T00:00:00"}"#, "until", "has no offset"),
        (r#"{"rule": "R", "author": "a", "for": "2h"}"#, "reason", "is missing"),
        (r#"{"rule": "R", "reason": "r", "for": "2h"}"#, "author", "is missing"),
        (r#"{"rule": "R", "author": "a", "reason": " ", "for": "2h"}"#, "reason", "must be one line"),
    ] {
        let got = put(&state, "POST", "/api/v1/silences", &format!("Bearer {TOKEN}"), body).await;
        let json = got.json();
        assert_eq!((got.status, &json["parameter"]), (400, &key.into()), "{body}: {json}");
        assert!(json["reasons"][0].as_str().is_some_and(|reason| reason.contains(says)), "{body}: {json}");
    }
    let long = format!("{{{base}, \"rule\": \"{}\"}}", "x".repeat(9000));
    assert_eq!(put(&state, "POST", "/api/v1/silences", &format!("Bearer {TOKEN}"), &long).await.status, 400);
    assert_eq!(get_json(&state, "/api/v1/silences").await.1["silences"], serde_json::json!([]));
}

#[tokio::test]
async fn prometheus_finds_every_target_to_be_scraped_by_itself() {
    let mut cluster = fixture::cluster("orders", vec![fixture::primary("orders", "primary")], Vec::new());
    cluster.poolers = vec![Arc::new(fixture::pooler("orders", "pgb"))];
    let untried = TargetView::new(crate::core::topology::TargetId::new("new", "db"), std::time::Duration::from_secs(5));
    let state = state_of(fixture::snapshot(vec![cluster, fixture::cluster("new", vec![untried], Vec::new())]));
    let found = |query: &'static str| {
        let request = HttpRequest::builder().uri(format!("/api/v1/sd{query}")).header("host", "vigil:9732");
        let request = request.body(Body::empty()).expect("a request");
        let response = router(state.clone()).oneshot(request);
        async move {
            let response = response.await.expect("infallible");
            assert_eq!(response.headers()["content-type"], "application/json");
            let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
            serde_json::from_slice::<Json>(&body).expect("JSON")
        }
    };
    let group = |cluster: &str, target: &str, more: &[(&str, &str)]| {
        let name = format!("{cluster}/{target}");
        let mut labels = serde_json::json!({
            "__metrics_path__": "/probe", "__param_target": name, "instance": name,
            "__meta_pgvigil_cluster": cluster, "__meta_pgvigil_target": target,
        });
        more.iter().for_each(|(label, value)| labels[format!("__meta_pgvigil_{label}")] = Json::from(*value));
        serde_json::json!({ "targets": ["vigil:9732"], "labels": labels })
    };
    let version = "15.18";
    let primary = [("kind", "server"), ("role", "primary"), ("flavor", "postgresql"), ("server_version", version)];
    let orders = [group("orders", "primary", &primary), group("orders", "pgb", &[("kind", "pooler")])];
    let new = group("new", "db", &[("kind", "server")]);
    assert_eq!(found("?cluster=orders").await, serde_json::json!(orders));
    assert_eq!(found("").await, serde_json::json!([orders[0], orders[1], new]));
    // What is found there is there.
    for target in ["orders/primary", "orders/pgb", "new/db"] {
        assert_eq!(ask(&state, "GET", &format!("/probe?target={target}"), "*/*").await.status, 200, "{target}");
    }
}

/// A served state whose snapshots go on: the port, and where they come from.
async fn serving(snapshot: Snapshot, n_waiters: usize) -> (u16, watch::Sender<Arc<Snapshot>>, AppState) {
    let (sender, snapshots) = watch::channel(Arc::new(fixture::moved_to(snapshot, clock::now())));
    let waiters = Arc::new(Semaphore::new(n_waiters));
    let state = AppState { snapshots, waiters, ..state_of(orders(|_| ())) };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(serve(listener, None, state.clone(), 1024, CancellationToken::new()));
    (port, sender, state)
}

async fn send(port: u16, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream
}

async fn answered(mut stream: TcpStream) -> (u16, Json) {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap_or_default()).expect("JSON"))
}

async fn until_waiting(state: &AppState, free: usize) {
    let wait = async {
        while state.waiters.available_permits() != free {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("as many wait");
}

const FOR_A_WRITE: &str = "/api/v1/clusters/orders/route?lsn=0/3000000&wait=30s";

#[tokio::test]
async fn who_waits_for_a_server_is_answered_by_the_sample_that_has_one() {
    let (port, sender, state) = serving(orders(|_| ()), 1).await;
    let waiting = send(port, FOR_A_WRITE).await;
    until_waiting(&state, 0).await;
    // The others are served meanwhile, and one for whom there is no place to wait is answered at once.
    let (status, crowded) = answered(send(port, FOR_A_WRITE).await).await;
    assert_eq!((status, &crowded["status"]), (503, &"none".into()));
    assert!(crowded["reasons"].to_string().contains("too many wait already"), "{crowded}");
    assert_eq!(answered(send(port, "/healthz/orders/replica-1").await).await.0, 200);

    let replay = |lsn| {
        let change = move |standby: &mut crate::core::observation::StandbyState| {
            standby.replay_lsn = Some(crate::core::wal::Lsn::new(lsn));
        };
        let snapshot = orders(|targets| fixture::change_standby(&mut targets[2], change));
        sender.send_replace(Arc::new(fixture::moved_to(snapshot, clock::now())));
    };
    replay(0x02FF_FFF0);
    replay(0x0300_0000);
    let (status, found) = answered(waiting).await;
    assert_eq!((status, &found["target"], &found["fallback"]), (200, &"replica-2".into(), &false.into()), "{found}");
    assert_eq!(found["candidates"][2]["lsn"], "0/3000000");
    assert_eq!(found["candidates"][1]["reasons"][0], "it has replayed up to 0/2FFFF00, not yet 0/3000000");
}

#[tokio::test]
async fn a_client_that_leaves_makes_room_for_another() {
    let (port, _sender, state) = serving(orders(|_| ()), 1).await;
    let waiting = send(port, FOR_A_WRITE).await;
    until_waiting(&state, 0).await;
    drop(waiting);
    until_waiting(&state, 1).await;
}

#[tokio::test]
async fn the_fallback_is_answered_when_the_time_is_over() {
    let (port, _sender, _) = serving(orders(|_| ()), 1).await;
    let path = "/api/v1/clusters/orders/route?lsn=0/3000001&wait=1s&fallback=primary";
    let (status, found) = answered(send(port, path).await).await;
    assert_eq!((status, &found["target"], &found["fallback"]), (200, &"primary".into(), &true.into()), "{found}");
    assert!(found["waited_ms"].as_u64().is_some_and(|waited| waited >= 1000), "{found}");
    assert_eq!(found["timeline"], 3);
}

#[tokio::test]
async fn a_route_is_one_line_for_a_script() {
    let configured = |host: &str| {
        let host = host.to_owned();
        state_of(orders(|targets| {
            for target in targets {
                fixture::change_identity(target, |identity| {
                    identity.address.configured = Some((host.clone(), 5432));
                });
            }
        }))
    };
    let path = "/api/v1/clusters/orders/route?pick=best";
    for (state, line) in [
        (state_of(orders(|_| ())), "replica-1\n"),
        (configured("db.internal"), "db.internal:5432\n"),
        (configured("::1"), "[::1]:5432\n"),
    ] {
        assert_eq!(ask(&state, "GET", path, "text/plain").await.body, line);
    }
    let none = ask(&configured("h"), "GET", "/api/v1/clusters/orders/route?max_lag=0", "text/plain").await;
    assert_eq!(none.status, 503);
    assert!(none.body.starts_with("none: replica-1: replay lag is 0.12s"), "{}", none.body);
}

#[test]
fn a_daemon_that_listens_everywhere_is_asked_here() {
    for (listen, url) in [
        ("127.0.0.1:9732", "http://127.0.0.1:9732"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:80", "http://[::1]:80"),
        ("10.0.0.7:80", "http://10.0.0.7:80"),
    ] {
        let server = ServerConfig { listen: listen.parse().unwrap(), ..ServerConfig::default() };
        assert_eq!(server.url(), url);
    }
}
