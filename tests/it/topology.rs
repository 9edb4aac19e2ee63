//! Who follows whom on real servers: from both sides, through promotions, strangers and lost standbys.

use pgvigil::demo::{Plan, Server, Servers};
use serde_json::Value;

use crate::support::daemon::{Daemon, SOON, cluster_toml, pgvigil, series};
use crate::support::{pg, until};

const UPSTREAM: &str = "pgvigil_upstream_info";
const MISSING: &str = "pgvigil_standby_missing";
const UNDECLARED: &str = "pgvigil_undeclared_standbys";

/// Watches these servers as `user`, under one rule of one second.
async fn watch(nodes: &[&Server], user: &str, rule: &str) -> Daemon {
    let targets = pg::targets(nodes.iter().copied(), user);
    let rule = format!("\n[[rule]]\nname = \"Watched\"\nwhen = \"{rule}\"\nfor = \"1s\"\nseverity = \"warning\"\n");
    Daemon::start(&format!("[poll]\nslow_interval = \"1s\"\n\n{}{rule}", cluster_toml("c", &targets))).await
}

async fn until_follows(daemon: &Daemon, replica: &str, kind: &str, upstream: &str) {
    let labels = [("target", replica), ("kind", kind), ("upstream", upstream)];
    daemon.until_series(UPSTREAM, &labels, SOON, |info| info == Some(1.0)).await;
}

async fn until_is(daemon: &Daemon, series: &str, target: &str, value: f64) {
    daemon.until_series(series, &[("target", target)], SOON, |is| is == Some(value)).await;
}

async fn until_alert_is(daemon: &Daemon, state: &str) {
    until(&format!("the alert to be {state}"), SOON, || async {
        let alerts = daemon.get("/api/v1/alerts").await?.json();
        let states: Vec<&str> =
            alerts["alerts"].as_array().unwrap().iter().filter_map(|a| a["state"].as_str()).collect();
        if states == [state] { Ok(()) } else { Err(format!("{states:?}")) }
    })
    .await;
}

async fn cluster_json(daemon: &Daemon) -> Value {
    daemon.get("/api/v1/clusters/c").await.unwrap().json()
}

async fn target_json(daemon: &Daemon, name: &str) -> Value {
    let cluster = cluster_json(daemon).await;
    cluster["targets"].as_array().unwrap().iter().find(|target| target["name"] == name).unwrap().clone()
}

fn no_errors(servers: &Servers) {
    for node in &servers.nodes {
        assert_eq!(pg::errors_caused_by_us(node), Vec::<String>::new(), "{}", node.name);
    }
}

fn all(servers: &Servers) -> Vec<&Server> {
    servers.nodes.iter().collect()
}

#[tokio::test]
async fn a_primary_its_replicas_and_a_cascade_are_seen_and_a_lost_one_is_missed() {
    let servers = Servers::start(&pg::plan(2).standby("c1", "r1")).await.unwrap();
    let daemon = watch(&all(&servers), "mon", "standby_missing == 1").await;
    for (replica, upstream) in [("r1", "primary"), ("r2", "primary"), ("c1", "r1")] {
        until_follows(&daemon, replica, "target", upstream).await;
        until_is(&daemon, MISSING, replica, 0.0).await;
        until_is(&daemon, "pgvigil_wrong_upstream", replica, 0.0).await;
        until_is(&daemon, "pgvigil_timelines_behind", replica, 0.0).await;
        let pid = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{replica}'");
        let pid = servers.node(upstream).value(&pid).await.unwrap().unwrap();
        assert_eq!(target_json(&daemon, replica).await["upstream"]["sender_pid"].to_string(), pid);
    }
    for node in ["primary", "r1", "r2"] {
        until_is(&daemon, UNDECLARED, node, 0.0).await;
    }
    servers.node("c1").stop().await.unwrap();
    until_is(&daemon, MISSING, "c1", 1.0).await;
    until_alert_is(&daemon, "firing").await;
    servers.node("c1").start().await.unwrap();
    until_is(&daemon, MISSING, "c1", 0.0).await;
    until_alert_is(&daemon, "resolved").await;

    // The cascade is moved to the primary.
    servers.primary().sql("SELECT pg_create_physical_replication_slot('c1', true)").await.unwrap();
    servers.node("c1").follow(servers.primary().port).await.unwrap();
    until_follows(&daemon, "c1", "target", "primary").await;
    no_errors(&servers);
}

#[tokio::test]
async fn a_standby_that_nobody_declared_comes_and_goes() {
    let servers = pg::cluster(2).await;
    let daemon = watch(&[servers.primary(), servers.node("r1")], "mon", "undeclared_standbys > 0").await;
    until_is(&daemon, UNDECLARED, "primary", 1.0).await;
    until_is(&daemon, MISSING, "r1", 0.0).await;
    assert_eq!(target_json(&daemon, "primary").await["undeclared_standbys"], 1);
    until_alert_is(&daemon, "firing").await;
    servers.node("r2").stop().await.unwrap();
    until_is(&daemon, UNDECLARED, "primary", 0.0).await;
    until_alert_is(&daemon, "resolved").await;
}

#[tokio::test]
async fn a_replica_that_was_pointed_at_another_primary_follows_elsewhere() {
    let servers = pg::cluster(2).await;
    let (primary, other, r2) = (servers.primary(), servers.node("r1"), servers.node("r2"));
    let daemon = watch(&[primary, r2], "mon", "wrong_upstream == 1").await;
    until_follows(&daemon, "r2", "target", "primary").await;
    other.promote().await.unwrap();
    other.sql("SELECT pg_create_physical_replication_slot('r2', true)").await.unwrap();
    r2.follow(other.port).await.unwrap();
    until_follows(&daemon, "r2", "elsewhere", "").await;
    until_alert_is(&daemon, "firing").await;
    let address = format!("127.0.0.1:{}", other.port);
    assert_eq!(target_json(&daemon, "r2").await["upstream"]["address"], address);
    assert_eq!(target_json(&daemon, "r2").await["upstream"]["missing"], false);
}

#[tokio::test]
async fn a_server_of_another_cluster_is_told_and_is_no_second_primary() {
    let (servers, others) = tokio::join!(pg::cluster(1), pg::cluster(0));
    let targets = [
        ("primary", pg::dsn(servers.primary(), "mon")),
        ("r1", pg::dsn(servers.node("r1"), "mon")),
        ("stranger", pg::dsn(others.primary(), "mon")),
    ];
    let daemon = Daemon::start(&cluster_toml("c", &targets)).await;
    until_follows(&daemon, "r1", "target", "primary").await;
    daemon.until_series("pgvigil_primaries", &[], SOON, |primaries| primaries == Some(1.0)).await;
    daemon.until_series("pgvigil_system_identifiers", &[], SOON, |identifiers| identifiers == Some(2.0)).await;
    // Whichever answered first is the cluster's; the others are not.
    until("someone to be wrong", SOON, || async {
        let mut wrong = Vec::new();
        for (target, _) in &targets {
            wrong.push(daemon.series("pgvigil_wrong_upstream", &[("target", target)]).await);
        }
        if wrong.contains(&Some(1.0)) { Ok(()) } else { Err(format!("{wrong:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_promotion_is_an_event_and_the_others_lag_is_held() {
    let servers = pg::cluster(2).await;
    let (primary, r1, r2) = (servers.primary(), servers.node("r1"), servers.node("r2"));
    let daemon = watch(&all(&servers), "mon", "replay_lag_seconds > 2s").await;
    until_follows(&daemon, "r1", "target", "primary").await;
    assert_eq!(cluster_json(&daemon).await["events"], Value::Array(Vec::new()));
    primary.stop().await.unwrap();
    r1.promote().await.unwrap();
    until("the promotion to be told", SOON, || async {
        let events = cluster_json(&daemon).await["events"].clone();
        let event = &events[0];
        let is_told = event["target"] == "r1" && event["event"] == "promoted" && event["timeline"] == 2;
        if is_told && event["at"].is_string() { Ok(()) } else { Err(events.to_string()) }
    })
    .await;
    daemon.until_log("promoted").await;
    daemon.until_series("pgvigil_role_changes_total", &[("target", "r1")], SOON, |n| n == Some(1.0)).await;

    // The other replica still waits for the old primary, and lags by all that is written since.
    pg::write(r1).await;
    let lag = [("target", "r2")];
    daemon.until_series("pgvigil_replay_lag_seconds", &lag, SOON, |lag| lag > Some(6.0)).await;
    until_is(&daemon, "pgvigil_timelines_behind", "r2", 1.0).await;
    let alerts = daemon.get("/api/v1/alerts").await.unwrap().json();
    assert_eq!(alerts["alerts"], Value::Array(Vec::new()));
    r1.sql("SELECT pg_create_physical_replication_slot('r2', true)").await.unwrap();
    r2.follow(r1.port).await.unwrap();
    until_follows(&daemon, "r2", "target", "r1").await;
    until_is(&daemon, "pgvigil_timelines_behind", "r2", 0.0).await;
}

#[tokio::test]
async fn a_lost_synchronous_standby_is_told_while_commits_wait() {
    let servers = pg::cluster(2).await;
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    primary.configure("synchronous_standby_names", "ANY 2 (r1, \"r2\")").unwrap();
    primary.reload().await.unwrap();
    let daemon = watch(&all(&servers), "mon", "sync_standbys_missing > 0").await;
    until_is(&daemon, "pgvigil_sync_standbys_required", "primary", 2.0).await;
    until_is(&daemon, "pgvigil_sync_standbys", "primary", 2.0).await;
    until_is(&daemon, "pgvigil_sync_standbys_missing", "primary", 0.0).await;
    assert_eq!(target_json(&daemon, "primary").await["synchronous"]["method"], "any");
    r1.stop().await.unwrap();
    until_is(&daemon, "pgvigil_sync_standbys_missing", "primary", 1.0).await;
    until_alert_is(&daemon, "firing").await;
    r1.start().await.unwrap();
    until_alert_is(&daemon, "resolved").await;
}

#[tokio::test]
async fn two_standbys_of_one_name_have_rows_of_their_own_through_their_slots_alone() {
    let servers = pg::cluster(2).await;
    let primary = servers.primary();
    let replicas = [servers.node("r1"), servers.node("r2")];
    let conninfo = format!("host=127.0.0.1 port={} user=postgres application_name=app", primary.port);
    for replica in replicas {
        replica.configure("cluster_name", "app").unwrap();
        replica.configure("primary_conninfo", &conninfo).unwrap();
        replica.restart().await.unwrap();
    }
    let shared = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'app' AND state = 'streaming'";
    primary.until(shared, "2", SOON).await.unwrap();
    let daemon = watch(&all(&servers), "mon", "primaries > 1").await;
    for replica in replicas {
        until_follows(&daemon, &replica.name, "target", "primary").await;
        let pid = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}'", replica.name);
        let pid = primary.value(&pid).await.unwrap().unwrap();
        let target = target_json(&daemon, &replica.name).await;
        assert_eq!(target["upstream"]["sender_pid"].to_string(), pid);
        assert_eq!(target["lag"]["unsent_bytes"], 0, "{target}");
    }
    // Without slots nothing tells them apart on one machine, and nothing is guessed.
    for replica in replicas {
        replica.configure("primary_slot_name", "").unwrap();
        replica.reload().await.unwrap();
    }
    for replica in replicas {
        until("the row to be nobody's", SOON, || async {
            let target = target_json(&daemon, &replica.name).await;
            let is_nobodys = target["upstream"]["target"] == "primary" && target["upstream"]["sender_pid"].is_null();
            if is_nobodys && target["lag"]["unsent_bytes"].is_null() { Ok(()) } else { Err(target.to_string()) }
        })
        .await;
    }
    no_errors(&servers);
}

#[tokio::test]
async fn every_major_tells_who_follows_whom_with_grants_and_without() {
    for installation in pg::installations() {
        let major = installation.major;
        let plan = Plan::new(installation).standby("r1", "primary").set("synchronous_standby_names = '*'");
        let servers = Servers::start(&plan).await.unwrap();
        for user in ["mon", "plain"] {
            let daemon = watch(&all(&servers), user, "primaries > 1").await;
            // By its slot, or by its name alone.
            until_follows(&daemon, "r1", "target", "primary").await;
            until_is(&daemon, "pgvigil_sync_standbys_required", "primary", 1.0).await;
            let sync = daemon.series("pgvigil_sync_standbys", &[("target", "primary")]).await;
            let undeclared = daemon.series(UNDECLARED, &[("target", "primary")]).await;
            let expect = if user == "mon" { (Some(1.0), Some(0.0)) } else { (None, None) };
            assert_eq!((sync, undeclared), expect, "PostgreSQL {major} as {user}");
            assert_eq!(daemon.stop().await, Some(0));
        }
        no_errors(&servers);
    }
}

#[tokio::test]
async fn a_server_under_two_names_counts_once() {
    let servers = pg::cluster(1).await;
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let by_name = pg::dsn(primary, "mon").replace("127.0.0.1", "localhost");
    // Without a grant it is told as well.
    let targets = [
        ("primary", pg::dsn(primary, "mon")),
        ("replica-1", by_name),
        ("replica-2", pg::dsn(primary, "plain")),
        ("r1", pg::dsn(r1, "mon")),
    ];
    let config = format!("[poll]\nslow_interval = \"1s\"\n\n{}", cluster_toml("c", &targets));
    let daemon = Daemon::start(&config).await;
    for twin in ["replica-1", "replica-2"] {
        let labels = [("target", twin), ("other", "primary")];
        daemon.until_series("pgvigil_same_server_info", &labels, SOON, |info| info == Some(1.0)).await;
        assert_eq!(target_json(&daemon, twin).await["same_server_as"], "primary");
        assert_eq!(daemon.series("pgvigil_replay_lag_info", &[("target", twin)]).await, None);
    }
    assert_eq!(daemon.series("pgvigil_primaries", &[]).await, Some(1.0));
    until_follows(&daemon, "r1", "target", "primary").await;
    until_is(&daemon, "pgvigil_replay_lag_seconds", "r1", 0.0).await;
    let health = daemon.get("/healthz").await.unwrap();
    assert_eq!((health.status, health.json()["status"].as_str()), (200, Some("ok")), "{}", health.body);
    daemon.until_log("replica-1 leads to the same server as primary").await;

    let file = daemon.dir.path().join("pgvigil.toml");
    let check = pgvigil().args(["check", "--config"]).arg(&file).output().unwrap();
    let told = String::from_utf8(check.stdout).unwrap().replace("\n    ", " ");
    assert!(told.contains("c: warning: primary and replica-1 lead to one server"), "{told}");
    assert!(!told.contains("primaries:"), "{told}");
}

#[tokio::test]
async fn a_promotion_that_was_asked_for_is_reported_until_it_is_done() {
    // Older ones do not show it.
    let Some(installation) = pg::installations().into_iter().find(|installation| installation.major >= 19) else {
        return;
    };
    let plan = Plan::new(installation).standby("r1", "primary").set("max_standby_streaming_delay = -1");
    let servers = Servers::start(&plan.set("max_standby_archive_delay = -1")).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let targets =
        [("primary", pg::dsn(primary, "mon")), ("r1", pg::dsn(r1, "mon")), ("r1-plain", pg::dsn(r1, "plain"))];
    let daemon = Daemon::start(&format!("[poll]\nslow_interval = \"1s\"\n\n{}", cluster_toml("c", &targets))).await;
    until_is(&daemon, "pgvigil_promotion_requested", "r1", 0.0).await;

    // A promotion is done once all WAL is replayed, of which a query here holds up the rest.
    primary.sql("CREATE TABLE held(n int)").await.unwrap();
    let end = primary.value("SELECT pg_current_wal_flush_lsn()").await.unwrap().unwrap();
    r1.until(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t", SOON).await.unwrap();
    let dsn = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", r1.port);
    let (reader, connection) = tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    reader.batch_execute("BEGIN; SELECT * FROM held").await.unwrap();
    r1.sql("SELECT pg_wal_replay_pause()").await.unwrap();
    r1.until("SELECT pg_get_wal_replay_pause_state()", "paused", SOON).await.unwrap();
    primary.sql("DROP TABLE held").await.unwrap();
    let end = primary.value("SELECT pg_current_wal_flush_lsn()").await.unwrap().unwrap();
    r1.until(&format!("SELECT pg_last_wal_receive_lsn() >= '{end}'"), "t", SOON).await.unwrap();
    r1.sql("SELECT pg_promote(wait => false)").await.unwrap();
    until_is(&daemon, "pgvigil_promotion_requested", "r1", 1.0).await;
    for target in ["primary", "r1-plain"] {
        assert_eq!(daemon.series("pgvigil_promotion_requested", &[("target", target)]).await, None, "{target}");
    }
    drop(reader);
    connection.await.unwrap().ok();
    r1.until("SELECT pg_is_in_recovery()", "f", SOON).await.unwrap();
    let labels = [("target", "r1")];
    daemon.until_series("pgvigil_promotion_requested", &labels, SOON, |requested| requested.is_none()).await;
    no_errors(&servers);
}

#[tokio::test]
async fn a_standby_that_is_fed_by_an_archive_alone_is_not_missed_and_holds_while_nothing_is_written() {
    for installation in pg::installations() {
        let major = installation.major;
        let what = |problem: &str| format!("PostgreSQL {major}: {problem}");
        let plan = Plan::new(installation)
            .standby("fed", "primary")
            .standby("cut", "primary")
            .standby("below", "fed")
            .set("archive_mode = on")
            .set("archive_command = 'mkdir -p ../archive && cp %p ../archive/%f'");
        let servers = Servers::start(&plan).await.unwrap();
        let (primary, fed, cut) = (servers.primary(), servers.node("fed"), servers.node("cut"));
        for node in [fed, cut] {
            node.configure("restore_command", "cp ../archive/%f %p").unwrap();
        }
        fed.configure("primary_conninfo", "").unwrap();
        fed.configure("primary_slot_name", "").unwrap();
        // Nothing listens there.
        cut.configure("primary_conninfo", "host=127.0.0.1 port=1").unwrap();
        for node in [fed, cut] {
            node.restart().await.unwrap();
        }
        let targets = [
            ("primary", pg::dsn(primary, "mon")),
            ("fed", pg::dsn(fed, "mon")),
            ("cut", pg::dsn(cut, "mon")),
            ("below", pg::dsn(servers.node("below"), "mon")),
        ];
        let unprivileged =
            [("primary", pg::dsn(primary, "plain")), ("fed", pg::dsn(fed, "plain")), ("cut", pg::dsn(cut, "plain"))];
        let rules = "
[[rule]]
name = \"NotReceiving\"
when = \"receiver_running == 0\"
for = \"1s\"
[[rule]]
name = \"Missing\"
when = \"standby_missing == 1\"
for = \"1s\"
";
        let clusters = cluster_toml("c", &targets) + &cluster_toml("plain", &unprivileged);
        let daemon =
            Daemon::start(&format!("[poll]\ninterval = \"500ms\"\nslow_interval = \"1s\"\n\n{clusters}{rules}")).await;
        // More than a replica that has caught up may lack, and not yet in the archive.
        primary.sql("CREATE TABLE load AS SELECT generate_series(1, 20000) AS n").await.unwrap();
        let of_fed = [("target", "fed"), ("cluster", "c")];
        let behind = |bytes: Option<f64>| bytes > Some(100_000.0);
        daemon.until_series("pgvigil_replay_lag_bytes", &of_fed, SOON, behind).await;
        let lag = |seconds: Option<f64>| seconds > Some(6.0);
        daemon.until_series("pgvigil_replay_lag_seconds", &of_fed, SOON, lag).await;
        let holding = [("target", "fed"), ("cluster", "c"), ("direction", "holding")];
        daemon.until_series("pgvigil_lag_direction", &holding, SOON * 2, |is| is == Some(1.0)).await;
        let cause = [("target", "fed"), ("cluster", "c"), ("cause", "archive_recovery")];
        daemon.until_series("pgvigil_replication_cause", &cause, SOON, |is| is == Some(1.0)).await;
        let metrics = daemon.metrics().await;
        assert_eq!(
            series(&metrics, "pgvigil_replay_stalled", &of_fed),
            Some(0.0),
            "{}",
            what("it waits for a segment")
        );
        for cluster in ["c", "plain"] {
            let of = |target| [("cluster", cluster), ("target", target)];
            assert_eq!(series(&metrics, "pgvigil_receiver_running", &of("fed")), None, "{}", what(cluster));
            assert_eq!(series(&metrics, "pgvigil_standby_missing", &of("fed")), None, "{}", what(cluster));
            // Configured to stream: without a receiver it is not well, whoever asks.
            assert_eq!(series(&metrics, "pgvigil_receiver_running", &of("cut")), Some(0.0), "{}", what(cluster));
        }
        assert_eq!(series(&metrics, "pgvigil_standby_missing", &[("cluster", "c"), ("target", "cut")]), Some(1.0));
        assert_eq!(
            series(&metrics, "pgvigil_receiver_running", &[("target", "below")]),
            Some(1.0),
            "{}",
            what("below")
        );
        let alerts = daemon.get("/api/v1/alerts").await.unwrap().json();
        let alerts = alerts["alerts"].as_array().unwrap();
        assert!(!alerts.is_empty(), "{}", what("the one that is cut off is to alert"));
        assert!(alerts.iter().all(|alert| alert["target"] == "cut"), "{}: {alerts:#?}", what("alerts"));

        primary.sql("SELECT pg_switch_wal()").await.unwrap();
        daemon.until_series("pgvigil_replay_lag_bytes", &of_fed, SOON, |bytes| bytes < Some(100_000.0)).await;
        no_errors(&servers);
    }
}
