use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::core::alert::{AlertView, Phase, Severity};
use crate::core::cause::{Cause, Diagnosis, Told};
use crate::core::cloudwatch::{Point, Readings};
use crate::core::discovery::{InstanceFacts, InstanceView};
use crate::core::drain::{Change, Drains, NewDrain, Whom};
use crate::core::fixture;
use crate::core::lag::{Certainty, Evidence};
use crate::core::mute::Mute;
use crate::core::observation::PollFailure;
use crate::core::snapshot::{ClusterView, Snapshot, TargetView};
use crate::core::topology::links::{Links, Upstream};
use crate::core::topology::{Name, TargetId};
use crate::http::AppState;
use crate::http::history::History;
use crate::http::tests::{ask, get_json, state_of};
use crate::self_metrics::Heartbeat;

async fn page(state: &AppState, path: &str) -> String {
    let got = ask(state, "GET", path, "text/html").await;
    assert_eq!(got.status, 200, "{path}: {}", got.body);
    got.body
}

fn of(clusters: Vec<ClusterView>) -> AppState {
    state_of(fixture::snapshot(clusters))
}

fn orders(change: impl FnOnce(&mut Vec<TargetView>), alerts: Vec<AlertView>) -> AppState {
    let mut targets = fixture::orders();
    for target in &mut targets[1..] {
        target.links = Arc::new(Links { upstream: Some(Upstream::Target(Name::new("primary"))), ..Links::default() });
    }
    change(&mut targets);
    of(vec![fixture::cluster("orders", targets, alerts)])
}

fn follows(target: &mut TargetView, upstream: Upstream) {
    target.links = Arc::new(Links { upstream: Some(upstream), ..Links::default() });
}

#[tokio::test]
async fn what_is_shown_is_escaped_wherever_it_comes_from() {
    let hostile = "<script>alert('x')</script>\"&";
    let mut replica = fixture::replica(hostile, hostile);
    fixture::change_identity(&mut replica, |identity| identity.version = hostile.to_owned());
    let mut primary = fixture::primary(hostile, "primary");
    fixture::change_sessions(&mut primary, |sessions| sessions.by_user = fixture::tally(&[(hostile, 3)], 0));
    fixture::change_survey(&mut primary, |survey| survey.slots = Some(vec![fixture::slot(hostile, true)]));
    let mut alert = fixture::alert("Lag", Severity::Warning, Phase::Firing, &[("slot", hostile)]);
    alert.summary = Some(hostile.to_owned());
    alert.runbook = Some("javascript:alert(1)".to_owned());
    let state = of(vec![fixture::cluster(hostile, vec![primary, replica], vec![alert])]);
    let encoded = super::encoded(hostile);
    for path in ["/".to_owned(), format!("/clusters/{encoded}")] {
        let body = page(&state, &path).await;
        assert!(!body.contains("<script>") && !body.contains("javascript:"), "{path}: {body}");
        assert!(body.contains("&lt;script&gt;alert("), "{path}: {body}");
    }
}

#[tokio::test]
async fn a_page_runs_and_asks_for_nothing_but_its_own() {
    let state = orders(|_| (), vec![]);
    for path in ["/", "/clusters/orders"] {
        let got = ask(&state, "GET", path, "text/html").await;
        let policy = got.headers["content-security-policy"].to_str().expect("text");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'none'"), "{policy}");
        assert_eq!(got.headers["cache-control"], "no-store");
        assert!(!got.body.contains(" style=") && !got.body.contains("<style") && !got.body.contains(" onclick"));
        for script in got.body.match_indices("<script").map(|(at, _)| &got.body[at..]) {
            assert!(script.starts_with("<script src=\"/assets/"), "{script:.80}");
        }
        // All that is asked for is here.
        for link in got.body.split(['"']).filter(|text| text.starts_with("/assets/")) {
            let asset = ask(&state, "GET", link, "*/*").await;
            assert_eq!(asset.status, 200, "{link}");
            assert_eq!(asset.headers["cache-control"], "private, max-age=31536000, immutable", "{link}");
        }
    }
    let old = ask(&state, "GET", "/assets/page.js?v=0123", "*/*").await;
    assert_eq!((old.status, &old.headers["cache-control"]), (200, &"no-store".parse().expect("a value")));
    assert!(page(&state, "/assets/uplot.js").await.starts_with("/*\nThe MIT License"));
}

#[tokio::test]
async fn one_glance_says_whether_all_is_well() {
    let firing = |severity| vec![fixture::alert("ReplicaLagging", severity, Phase::Firing, &[])];
    for (what, state, headline, class) in [
        ("well", orders(|_| (), vec![]), "All is well", "ok"),
        ("warning", orders(|_| (), firing(Severity::Warning)), "Needs attention", "warn"),
        ("critical", orders(|_| (), firing(Severity::Critical)), "Critical", "bad"),
        ("nothing known", of(vec![]), "Not known", "unknown"),
    ] {
        let body = page(&state, "/").await;
        assert!(body.contains(&format!("<h1>{headline}<span")), "{what}: {body}");
        assert!(body.contains(&format!("class=\"verdict {class}\"")), "{what}: {body}");
        assert!(body.contains(&format!("<title>{headline} – pgvigil</title>")), "{what}: {body}");
    }
}

#[tokio::test]
async fn a_dead_primary_is_not_shown_as_one_that_is_well_and_without_addresses() {
    let reason = "no pg_hba.conf entry for host \"10.0.0.5\", user \"pgvigil\"".to_owned();
    let state = orders(|targets| fixture::fail(&mut targets[0], PollFailure::Authentication { reason }), vec![]);
    for path in ["/", "/clusters/orders"] {
        let body = page(&state, path).await;
        assert!(body.contains("primary, down") && body.contains("it does not let us in"), "{path}: {body}");
        assert!(!body.contains("10.0.0."), "{path}: {body}");
    }
}

#[tokio::test]
async fn addresses_are_on_no_page() {
    let mut alert = fixture::alert("ManyClients", Severity::Warning, Phase::Firing, &[("client_addr", "10.0.0.5")]);
    alert.summary = None;
    let state =
        orders(|targets| follows(&mut targets[2], Upstream::Elsewhere(Arc::from("10.0.0.9:5432"))), vec![alert]);
    for path in ["/", "/clusters/orders"] {
        let body = page(&state, path).await;
        assert!(!body.contains("10.0.0."), "{path}: {body}");
        assert!(
            body.contains("not watched")
                && body.contains("ManyClients of replica-1 fires: 6.5s (replay_lag_seconds &gt; 5s)"),
            "{path}: {body}"
        );
    }
}

#[tokio::test]
async fn the_topology_says_who_follows_whom_how_far_behind_and_why() {
    let state = orders(
        |targets| {
            targets[1].lag = Some(fixture::lag(75.0, 75.0, f64::INFINITY, Certainty::AtLeast, Evidence::LowerBound));
            let told = Told { cause: Cause::ReplayPaused, why: "replay is paused".to_owned() };
            targets[1].diagnosis = Some(Arc::new(Diagnosis { lags: true, causes: vec![told] }));
            follows(&mut targets[2], Upstream::Target(Name::new("replica-1")));
        },
        vec![],
    );
    let body = page(&state, "/clusters/orders").await;
    let says = "Replication of orders: primary (primary). replica-1 (replica) follows primary, lag ≥ 1m 15s. \
                replica-2 (replica) follows replica-1, lag 0.1s.";
    // Two drawings, each for its width.
    assert_eq!(body.matches(&format!("aria-label=\"{says}\"")).count(), 2, "{body}");
    for text in ["replay paused", "at least", "holding", "PG 15.18", "≥ 1m 15s"] {
        assert!(body.contains(text), "{text}: {body}");
    }
}

#[tokio::test]
async fn a_picture_ends_whatever_servers_say_of_each_other() {
    let state = orders(
        |targets| {
            follows(&mut targets[1], Upstream::Target(Name::new("replica-2")));
            follows(&mut targets[2], Upstream::Target(Name::new("replica-1")));
            for place in 0..60 {
                let mut more = fixture::replica("orders", &format!("more-{place}"));
                let upstream = [Upstream::Nobody, Upstream::Unknown, Upstream::Target(Name::new("gone"))];
                follows(&mut more, upstream[place % 3].clone());
                targets.push(more);
            }
            targets.push(TargetView::new(
                crate::core::topology::TargetId::new("orders", "untried"),
                std::time::Duration::from_secs(10),
            ));
        },
        vec![],
    );
    let body = page(&state, "/clusters/orders").await;
    assert!(body.contains("no WAL receiver") && body.contains("upstream not known"), "{body}");
    assert!(body.contains(" more are in the table of servers.") && body.contains("untried"), "{body}");
}

#[tokio::test]
async fn what_is_not_known_is_no_number() {
    let state = orders(
        |targets| {
            targets[1].lag = Some(fixture::unknown_lag(Evidence::NoPosition));
            targets[1].stages = None;
            targets[1].survey = None;
        },
        vec![],
    );
    let body = page(&state, "/clusters/orders").await;
    assert!(body.contains("replica-1 (replica) follows primary, lag unknown."), "{body}");
    let row = body.split("<tr>").find(|row| row.contains("</span>replica-1</th>")).expect("a row");
    assert!(row.contains("<td class=\"num\">unknown</td>") && !row.contains(">0"), "{row}");
}

#[tokio::test]
async fn a_large_fleet_is_a_table_with_the_worst_first() {
    let cluster = |place: usize| {
        let name = format!("c{place:03}");
        let mut targets = vec![fixture::primary(&name, "primary"), fixture::replica(&name, "replica-1")];
        if place == 150 {
            fixture::fail(&mut targets[0], PollFailure::Refused);
        }
        if place == 7 {
            fixture::fail(&mut targets[1], PollFailure::Refused);
        }
        fixture::cluster(&name, targets, vec![])
    };
    let state = of((0..200).map(cluster).collect());
    let body = page(&state, "/").await;
    let rows: Vec<&str> = body.match_indices("data-name=\"").map(|(at, _)| &body[at + 11..at + 15]).collect();
    assert_eq!((rows.len(), &rows[..4]), (200, &["c150", "c007", "c000", "c001"][..]));
    assert!(body.contains("200 clusters, 400 servers; 1 critical, 1 degraded; no alert fires."), "{body:.2000}");
    // Only what is not well is drawn.
    assert_eq!(body.matches("class=\"topology\"").count(), 4);
    assert!(body.contains("data-filter=\"clusters\""));
    assert!(body.len() < 400_000, "{}", body.len());
}

#[tokio::test]
async fn alerts_show_whether_receivers_are_notified() {
    let mut muted = fixture::alert("ReplicaLagging", Severity::Warning, Phase::Firing, &[]);
    muted.muted = vec![Mute::Isolated];
    let pending = fixture::alert("SlotRetainingWal", Severity::Critical, Phase::Pending, &[("slot", "debezium")]);
    let mut resolved = fixture::alert("TargetDown", Severity::Critical, Phase::Resolved, &[]);
    resolved.runbook = Some("https://wiki.example/down".to_owned());
    let state = orders(|_| (), vec![resolved, pending, muted]);
    let body = page(&state, "/").await;
    let place = |text: &str| body.find(text).unwrap_or_else(|| panic!("{text}: {body}"));
    assert!(place(">firing<") < place(">pending<") && place(">pending<") < place(">resolved<"));
    let row_of_pending = &body[place(">pending<")..place(">resolved<")];
    assert!(
        row_of_pending.contains("<td>not yet</td>") && !row_of_pending.contains("<td>yes</td>"),
        "{row_of_pending}"
    );
    assert!(body.contains(">Notified<"), "{body}");
    assert!(body.contains("no: held while nothing can be reached") && body.contains("replica-1, slot debezium"));
    assert!(body.contains("href=\"https://wiki.example/down\" rel=\"noreferrer\""), "{body}");
}

#[tokio::test]
async fn the_daemon_tells_how_it_is_itself() {
    let state = orders(|_| (), vec![]);
    assert!(page(&state, "/").await.contains("no write has failed of late"));
    state.metrics.stored(&Err("disk full".to_owned()));
    state.metrics.delivered("log", Some(&crate::core::ledger::SendFailure::Transient("busy".to_owned())));
    let body = page(&state, "/").await;
    assert!(body.contains("a restart would forget what was told"), "{body}");
    assert!(body.contains("its last attempt failed (transient); 0 told, 1 failed attempts"), "{body}");
}

#[tokio::test]
async fn what_aws_says_is_shown_as_far_as_it_is_true() {
    let (lag, cpu) = (Name::new("rds_replica_lag_seconds"), Name::new("rds_cpu_ratio"));
    let ago = |seconds: f64| clock::now().plus_seconds(-seconds);
    let point = |seconds: f64, value| Point { begins: 0, ended_at: ago(seconds), value };
    let state = orders(
        |targets| {
            let stale_after = Duration::from_secs(300);
            let mut readings = Readings::default();
            readings.take(&lag, None, &[point(60.0, Some(42.0))], stale_after);
            readings.take(&cpu, None, &[point(3600.0, Some(0.93))], stale_after);
            targets[1].cloudwatch = Arc::new(readings);
            let facts = InstanceFacts { status: Some("storage-full".to_owned()), ..InstanceFacts::default() };
            let at = ago(10.0);
            targets[1].instance =
                Some(InstanceView { at, stale_after, certificate_expires_in: None, facts: Arc::new(facts) });
        },
        vec![],
    );
    let body = page(&state, "/clusters/orders").await;
    assert_eq!(body.matches("<h4>AWS</h4>").count(), 1, "nothing is said of servers that AWS was not asked of: {body}");
    assert!(body.contains("storage-full") && body.contains("CloudWatch says 42s"), "{body}");
    let row =
        |metric: &str| body.split("<tr>").find(|row| row.contains(&format!("<code>{metric}</code>"))).expect("a row");
    assert!(row("rds_replica_lag_seconds").contains("<td class=\"num\">42s</td>"), "{body}");
    assert!(row("rds_cpu_ratio").contains("<td class=\"num\">–</td>"), "too old to be told: {body}");
}

#[tokio::test]
async fn drains_and_beats_are_shown() {
    let mut snapshot = fixture::snapshot(vec![fixture::cluster("orders", fixture::orders(), vec![])]);
    let mut drains = Drains::default();
    let drain = NewDrain {
        target: Whom::parse("orders/replica-1"),
        author: "grace".to_owned(),
        reason: Some("new disk".to_owned()),
        length: Duration::from_secs(3600),
    };
    let known = [TargetId::new("orders", "replica-1")];
    drains.change(Change::Add(drain), known.iter(), clock::now(), clock::wall()).expect("a good drain");
    snapshot.drains = Arc::new(drains);
    let state = state_of(snapshot);
    let body = page(&state, "/").await;
    for text in ["<code>orders/replica-1</code>", "grace", "new disk"] {
        assert!(body.contains(text), "{text}: {body}");
    }
    assert!(!body.contains("Heartbeat"), "there is none");
    state.metrics.beaten(Heartbeat::Ok);
    state.metrics.beaten(Heartbeat::Withheld);
    let body = page(&state, "/").await;
    assert!(body.contains("withheld, for want of progress; 1 ok, 0 failed, 1 withheld since the start"), "{body}");
}

#[tokio::test]
async fn the_last_hours_are_drawn_and_told() {
    let alert = fixture::alert("ReplicaLagging", Severity::Warning, Phase::Firing, &[]);
    let state = AppState { history: History::default(), ..orders(|_| (), vec![alert]) };
    let snapshot: Arc<Snapshot> = Arc::clone(&state.snapshots.borrow());
    let now = clock::now();
    state.history.sample(&snapshot, now.plus_seconds(-60.0));
    state.history.sample(&snapshot, now);
    let (status, json) = get_json(&state, "/api/v1/clusters/orders/lag").await;
    assert_eq!((status, &json["step_seconds"], json["series"].as_array().map(Vec::len)), (200, &15.into(), Some(2)));
    let times = json["times"].as_array().expect("times");
    assert!(times.len() >= 4 && times[1].as_u64() == times[0].as_u64().map(|time| time + 15), "{json}");
    assert_eq!(json["series"][0]["seconds"][0], 0.12, "{json}");
    assert_eq!(json["series"][0]["seconds"][2], serde_json::Value::Null, "{json}");
    assert_eq!(
        (&json["alerts"][0]["rule"], &json["alerts"][0]["until"]),
        (&"ReplicaLagging".into(), &serde_json::Value::Null)
    );
    let body = page(&state, "/").await;
    assert!(body.contains("Replay lag of 2 replicas over the last 1m"), "{body}");
    assert!(body.contains("class=\"span warn\"") && body.contains("<path class=\"line s0\" d=\"M"), "{body}");
    assert!(body.contains("<path d=\"M"), "the small picture: {body}");
}
