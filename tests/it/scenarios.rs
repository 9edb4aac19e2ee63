//! What happens to real servers, and what the daemon says of it: the same faults as the core's invented observations,
//! this time with a kernel, a network and PostgreSQL's own delays in between.

use std::time::Duration;

use pgvigil::clock;
use pgvigil::core::time::MonoTime;
use pgvigil::demo::{Plan, Server, Servers};

use crate::support::daemon::{Daemon, SOON, cluster_toml, series};
use crate::support::pgbouncer::PgBouncer;
use crate::support::proxy::{Link, Proxy};
use crate::support::{pg, until};

const LAG: &str = "pgvigil_replay_lag_seconds";
/// A fraction of a second may be read when WAL is on its way at the moment of the poll.
const CAUGHT_UP: f64 = 1.0;

/// The configuration that watches all servers of a cluster called `c` as `user`.
fn watching(servers: &Servers, user: &str) -> String {
    let targets = pg::targets(&servers.nodes, user);
    // Connections, slots and statements more often than by default, so that nobody waits for them.
    format!("[poll]\nslow_interval = \"2s\"\n\n{}", cluster_toml("c", &targets))
}

async fn watch(servers: &Servers) -> Daemon {
    let daemon = Daemon::start(&watching(servers, "mon")).await;
    for node in &servers.nodes[1..] {
        daemon.until_series(LAG, &[("target", &node.name)], SOON, |lag| lag.is_some_and(|lag| lag < CAUGHT_UP)).await;
    }
    daemon
}

async fn lag(daemon: &Daemon, target: &str) -> Option<f64> {
    daemon.series(LAG, &[("target", target)]).await
}

async fn until_lag(daemon: &Daemon, target: &str, accept: impl Fn(f64) -> bool) {
    let accept = |lag: Option<f64>| lag.is_some_and(&accept);
    daemon.until_series(LAG, &[("target", target)], Duration::from_secs(30), accept).await;
}

/// Everything that was read of one series over a time, each with when.
async fn readings(daemon: &Daemon, target: &str, time: Duration) -> Vec<Option<f64>> {
    let end = clock::now().plus(time);
    let mut readings = Vec::new();
    while clock::now() < end {
        readings.push(lag(daemon, target).await);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    readings
}

/// Writes to a primary several times a second for as long as `meanwhile` takes.
async fn while_writing<T>(primary: &Server, meanwhile: impl Future<Output = T>) -> T {
    let writing = async {
        loop {
            pg::write(primary).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        outcome = meanwhile => outcome,
        () = writing => unreachable!(),
    }
}

/// The rules with an alert about `target` in this state.
async fn alerts(daemon: &Daemon, state: &str, target: Option<&str>) -> Vec<String> {
    let json = daemon.get("/api/v1/alerts").await.unwrap().json();
    let all = json["alerts"].as_array().unwrap();
    all.iter()
        .filter(|alert| alert["state"] == state && alert["target"].as_str() == target)
        .map(|alert| alert["rule"].as_str().unwrap().to_owned())
        .collect()
}

fn seconds_since(start: MonoTime) -> f64 {
    clock::now().seconds_since(start)
}

#[tokio::test]
async fn an_idle_primary_reads_zero_all_along_and_after_a_replica_restarts() {
    let servers = Servers::start(&pg::plan(2).standby("c1", "r1")).await.unwrap();
    let daemon = watch(&servers).await;
    for replica in ["r1", "c1"] {
        until_lag(&daemon, replica, |lag| lag == 0.0).await;
    }
    let read = readings(&daemon, "r1", Duration::from_secs(30)).await;
    assert!(read.iter().all(|lag| *lag == Some(0.0)), "{read:?}");
    let read = readings(&daemon, "c1", Duration::from_secs(1)).await;
    assert!(read.iter().all(|lag| *lag == Some(0.0)), "{read:?}");

    // Its receive position begins at the start of the segment now, before what it has replayed.
    servers.node("r2").restart().await.unwrap();
    let read = readings(&daemon, "r2", Duration::from_secs(8)).await;
    assert!(read.iter().flatten().all(|lag| *lag == 0.0), "{read:?}");
    assert_eq!(read.last(), Some(&Some(0.0)), "{read:?}");
    for node in &servers.nodes {
        assert_eq!(pg::errors_caused_by_us(node), Vec::<String>::new(), "{}", node.name);
    }
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_cut_receiver_lags_though_it_replayed_all_it_received() {
    let servers = pg::cluster(2).await;
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let proxy = Proxy::start(primary.port).await;
    r1.follow(proxy.port).await.unwrap();
    let through = format!("SELECT count(*) FROM pg_stat_wal_receiver WHERE sender_port = {}", proxy.port);
    r1.until(&through, "1", SOON).await.unwrap();
    let daemon = watch(&servers).await;

    while_writing(primary, async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        proxy.set(Link::Cut);
        let cut = clock::now();
        until_lag(&daemon, "r1", |lag| lag > 6.0).await;
        let (told, true_lag) = (lag(&daemon, "r1").await.unwrap(), seconds_since(cut));
        assert!((told - true_lag).abs() < 2.0, "told {told}, cut {true_lag} s ago");
        let received = "SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()";
        assert_eq!(r1.value(received).await.unwrap().as_deref(), Some("t"), "the usual formula would say 0");
        assert!(lag(&daemon, "r2").await.unwrap() < CAUGHT_UP, "the other replica is not cut");
        let (status, body) = daemon.health("c", "r1", "?max_lag=5s").await;
        assert_eq!(status, 503, "{body}");
        let (status, body) = daemon.health("c", "r2", "?max_lag=5s").await;
        assert_eq!(status, 200, "{body}");

        proxy.set(Link::Up);
        until_lag(&daemon, "r1", |lag| lag < CAUGHT_UP).await;
    })
    .await;
}

#[tokio::test]
async fn a_black_hole_before_the_primary_is_lag_too() {
    let servers = pg::cluster(1).await;
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let proxy = Proxy::start(primary.port).await;
    r1.follow(proxy.port).await.unwrap();
    let through = format!("SELECT count(*) FROM pg_stat_wal_receiver WHERE sender_port = {}", proxy.port);
    r1.until(&through, "1", SOON).await.unwrap();
    let daemon = watch(&servers).await;
    while_writing(primary, async {
        proxy.set(Link::BlackHole);
        until_lag(&daemon, "r1", |lag| lag > 4.0).await;
        proxy.set(Link::Up);
        until_lag(&daemon, "r1", |lag| lag < CAUGHT_UP).await;
    })
    .await;
}

#[tokio::test]
async fn paused_replay_grows_fires_and_resumes_to_zero_on_every_major() {
    for installation in pg::installations() {
        let major = installation.major;
        let servers = Servers::start(&Plan::new(installation).standby("r1", "primary")).await.unwrap();
        let (primary, r1) = (servers.primary(), servers.node("r1"));
        let rule =
            "[[rule]]\nname = \"Lagging\"\nwhen = \"replay_lag_seconds > 2s\"\nfor = \"1s\"\nseverity = \"warning\"\n";
        let daemon = Daemon::start(&(watching(&servers, "mon") + rule)).await;
        until_lag(&daemon, "r1", |lag| lag < CAUGHT_UP).await;

        while_writing(primary, async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            r1.sql("SELECT pg_wal_replay_pause()").await.unwrap();
            let paused = clock::now();
            until("the alert to fire", SOON, || async {
                let firing = alerts(&daemon, "firing", Some("r1")).await;
                if firing == ["Lagging"] { Ok(()) } else { Err(format!("{firing:?}")) }
            })
            .await;
            let (told, true_lag) = (lag(&daemon, "r1").await.unwrap(), seconds_since(paused));
            assert!((told - true_lag).abs() < 2.0, "PostgreSQL {major}: told {told}, paused {true_lag} s ago");
            let bytes = daemon.series("pgvigil_replay_lag_bytes", &[("target", "r1")]).await;
            assert!(bytes.is_some_and(|bytes| bytes > 0.0), "PostgreSQL {major}: {bytes:?}");
            r1.sql("SELECT pg_wal_replay_resume()").await.unwrap();
            until_lag(&daemon, "r1", |lag| lag < CAUGHT_UP).await;
            until("the alert to resolve", SOON, || async {
                let resolved = alerts(&daemon, "resolved", Some("r1")).await;
                if resolved == ["Lagging"] { Ok(()) } else { Err(format!("{resolved:?}")) }
            })
            .await;
        })
        .await;

        // Sessions, slots and statements are asked for in this major's own columns.
        let labels = [("target", "primary")];
        daemon.until_series("pgvigil_connections_max", &labels, SOON, |max| max == Some(100.0)).await;
        let slot = [("target", "primary"), ("slot", "r1")];
        daemon.until_series("pgvigil_slot_active", &slot, SOON, |active| active == Some(1.0)).await;
        let database = [("target", "primary"), ("datname", "postgres")];
        daemon.until_series("pgvigil_statements_calls_total", &database, SOON, |calls| calls > Some(0.0)).await;
        for node in &servers.nodes {
            assert_eq!(pg::errors_caused_by_us(node), Vec::<String>::new(), "PostgreSQL {major}, {}", node.name);
        }
    }
}

#[tokio::test]
async fn a_promoted_replica_is_the_primary_that_the_others_are_measured_against() {
    let servers = pg::cluster(2).await;
    let (primary, r1, r2) = (servers.primary(), servers.node("r1"), servers.node("r2"));
    let daemon = watch(&servers).await;
    while_writing(primary, tokio::time::sleep(Duration::from_secs(2))).await;

    primary.stop().await.unwrap();
    r1.promote().await.unwrap();
    r1.sql("SELECT pg_create_physical_replication_slot('r2', true)").await.unwrap();
    r2.follow(r1.port).await.unwrap();
    let role = [("target", "r1"), ("role", "primary")];
    daemon.until_series("pgvigil_target_info", &role, SOON, |info| info == Some(1.0)).await;
    while_writing(r1, async {
        until_lag(&daemon, "r2", |lag| lag < CAUGHT_UP).await;
        daemon.until_series("pgvigil_timeline", &[("target", "r2")], SOON, |timeline| timeline == Some(2.0)).await;
        let read = readings(&daemon, "r2", Duration::from_secs(4)).await;
        assert!(read.iter().all(|lag| lag.is_some_and(|lag| lag < CAUGHT_UP)), "{read:?}");
        r2.sql("SELECT pg_wal_replay_pause()").await.unwrap();
        until_lag(&daemon, "r2", |lag| lag > 3.0).await;
        r2.sql("SELECT pg_wal_replay_resume()").await.unwrap();
        until_lag(&daemon, "r2", |lag| lag < CAUGHT_UP).await;
    })
    .await;
    assert_eq!(lag(&daemon, "r1").await, None, "a primary has no replay lag");
}

#[tokio::test]
async fn two_primaries_are_told() {
    let servers = pg::cluster(1).await;
    let daemon = watch(&servers).await;
    servers.node("r1").promote().await.unwrap();
    until("the alert about two primaries", SOON, || async {
        let firing = alerts(&daemon, "firing", None).await;
        if firing == ["SeveralPrimaries"] { Ok(()) } else { Err(format!("{firing:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_restarted_primary_is_no_lag() {
    let servers = pg::cluster(1).await;
    let daemon = watch(&servers).await;
    while_writing(servers.primary(), tokio::time::sleep(Duration::from_secs(2))).await;
    servers.primary().stop().await.unwrap();
    let down = readings(&daemon, "r1", Duration::from_secs(6)).await;
    assert!(down.iter().flatten().all(|lag| *lag < CAUGHT_UP), "{down:?}");
    let (status, body) = daemon.health("c", "r1", "?max_lag=2s").await;
    assert_eq!(status, 200, "an outage of the primary must not be an outage of reads: {body}");
    servers.primary().start().await.unwrap();
    while_writing(servers.primary(), async {
        let up = readings(&daemon, "r1", Duration::from_secs(6)).await;
        assert!(up.iter().flatten().all(|lag| *lag < 2.0), "{up:?}");
        until_lag(&daemon, "r1", |lag| lag < CAUGHT_UP).await;
    })
    .await;
}

#[tokio::test]
async fn a_hung_server_costs_that_target_alone() {
    let servers = pg::cluster(2).await;
    let daemon = watch(&servers).await;
    servers.node("r1").freeze();
    daemon.until_series("pgvigil_target_up", &[("target", "r1")], SOON, |up| up == Some(0.0)).await;
    let (status, body) = daemon.health("c", "r1", "").await;
    assert_eq!(status, 503, "{body}");
    let end = clock::now().plus(Duration::from_secs(8));
    while clock::now() < end {
        let asked = clock::now();
        let metrics = daemon.metrics().await;
        assert!(seconds_since(asked) < 0.5, "the page itself waited");
        for target in ["primary", "r2"] {
            assert_eq!(series(&metrics, "pgvigil_target_up", &[("target", target)]), Some(1.0));
            let age = series(&metrics, "pgvigil_observation_age_seconds", &[("target", target)]).unwrap();
            assert!(age < 2.5, "{target} was last heard {age} s ago");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    servers.node("r1").thaw();
    daemon.until_series("pgvigil_target_up", &[("target", "r1")], SOON, |up| up == Some(1.0)).await;
    until_lag(&daemon, "r1", |lag| lag < CAUGHT_UP).await;
}

#[tokio::test]
async fn a_hung_primary_does_not_keep_replicas_from_being_asked() {
    let servers = pg::cluster(1).await;
    let daemon = watch(&servers).await;
    servers.primary().freeze();
    daemon.until_series("pgvigil_target_up", &[("target", "primary")], SOON, |up| up == Some(0.0)).await;
    let end = clock::now().plus(Duration::from_secs(5));
    while clock::now() < end {
        let age = daemon.series("pgvigil_observation_age_seconds", &[("target", "r1")]).await.unwrap();
        assert!(age < 2.5, "last heard {age} s ago");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (status, body) = daemon.health("c", "r1", "?max_lag=5s").await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn a_cascading_replica_is_measured_against_the_primary() {
    let servers = Servers::start(&pg::plan(1).standby("c1", "r1")).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let proxy = Proxy::start(primary.port).await;
    r1.follow(proxy.port).await.unwrap();
    let through = format!("SELECT count(*) FROM pg_stat_wal_receiver WHERE sender_port = {}", proxy.port);
    r1.until(&through, "1", SOON).await.unwrap();
    let daemon = watch(&servers).await;
    while_writing(primary, async {
        proxy.set(Link::Cut);
        // It has all that its upstream has, and that is old.
        until_lag(&daemon, "c1", |lag| lag > 4.0).await;
        until_lag(&daemon, "r1", |lag| lag > 4.0).await;
        proxy.set(Link::Up);
        until_lag(&daemon, "c1", |lag| lag < CAUGHT_UP).await;
    })
    .await;
}

#[tokio::test]
async fn a_role_without_grants_measures_lag_and_says_what_it_lacks() {
    let servers = pg::cluster(1).await;
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let daemon = Daemon::start(&watching(&servers, "plain")).await;
    until_lag(&daemon, "r1", |lag| lag < CAUGHT_UP).await;
    while_writing(primary, async {
        r1.sql("SELECT pg_wal_replay_pause()").await.unwrap();
        until_lag(&daemon, "r1", |lag| lag > 3.0).await;
        r1.sql("SELECT pg_wal_replay_resume()").await.unwrap();
        until_lag(&daemon, "r1", |lag| lag < CAUGHT_UP).await;
    })
    .await;

    let json = daemon.get("/api/v1/clusters/c").await.unwrap().json();
    let targets = json["targets"].as_array().unwrap();
    for target in targets {
        let missing = target["missing"].as_array().unwrap_or_else(|| panic!("{target}"));
        assert!(missing.iter().any(|what| what == "pg_monitor"), "{target}");
    }
    let metrics = daemon.metrics().await;
    assert_eq!(series(&metrics, "pgvigil_wal_senders", &[("target", "primary"), ("state", "streaming")]), None);
    for node in &servers.nodes {
        assert_eq!(pg::errors_caused_by_us(node), Vec::<String>::new(), "{}", node.name);
    }
}

#[tokio::test]
async fn a_dropped_slot_leaves_no_series() {
    let servers = pg::cluster(0).await;
    let daemon = Daemon::start(&watching(&servers, "mon")).await;
    let primary = servers.primary();
    primary.sql("SELECT pg_create_physical_replication_slot('leaving', true)").await.unwrap();
    let labels = [("target", "primary"), ("slot", "leaving")];
    daemon.until_series("pgvigil_slot_active", &labels, SOON, |active| active == Some(0.0)).await;
    daemon.until_series("pgvigil_slot_retained_bytes", &labels, SOON, |bytes| bytes.is_some()).await;
    primary.sql("SELECT pg_drop_replication_slot('leaving')").await.unwrap();
    daemon.until_series("pgvigil_slot_active", &labels, SOON, |active| active.is_none()).await;
    assert!(!daemon.metrics().await.contains("leaving"));
}

#[tokio::test]
async fn servers_behind_a_transaction_pooler_are_polled() {
    let servers = pg::cluster(1).await;
    let Some(before_primary) = PgBouncer::start(servers.primary().port).await else { return };
    let Some(before_replica) = PgBouncer::start(servers.node("r1").port).await else { return };
    let targets = [("primary", pg::dsn_at(before_primary.port, "mon")), ("r1", pg::dsn_at(before_replica.port, "mon"))];
    let daemon = Daemon::start(&format!("[poll]\nslow_interval = \"2s\"\n{}", cluster_toml("c", &targets))).await;
    until_lag(&daemon, "r1", |lag| lag < CAUGHT_UP).await;
    daemon.until_series("pgvigil_connections_max", &[("target", "primary")], SOON, |max| max == Some(100.0)).await;

    // Another client of the pool takes its one server connection between our polls, transaction by transaction.
    let config: tokio_postgres::Config = pg::dsn_at(before_replica.port, "mon").parse().unwrap();
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let other = tokio::spawn(connection);
    for _ in 0..30 {
        client.simple_query("BEGIN; SELECT 1; COMMIT").await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(client);
    other.await.unwrap().unwrap();
    let read = readings(&daemon, "r1", Duration::from_secs(3)).await;
    assert!(read.iter().all(|lag| lag.is_some_and(|lag| lag < CAUGHT_UP)), "{read:?}");
    for (node, pooler) in [(servers.primary(), &before_primary), (servers.node("r1"), &before_replica)] {
        assert_eq!(pg::errors_caused_by_us(node), Vec::<String>::new(), "{}", node.name);
        let pooled = pooler.process.output();
        assert!(!pooled.contains("ERROR") && !pooled.contains("closing because: unclean"), "{pooled}");
    }
}
