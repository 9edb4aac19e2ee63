//! What the servers' owners were promised: one session each, whatever happens, and no line in their logs.

use std::time::Duration;

use pgvigil::clock;
use pgvigil::demo::{Server, Servers};

use crate::support::daemon::{Daemon, SOON, cluster_toml, series};
use crate::support::{pg, until};

const OURS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgvigil'";

async fn watch(servers: &Servers) -> Daemon {
    let targets = pg::targets(&servers.nodes, "mon");
    let poll = "[poll]\ntimeout = \"3s\"\nslow_interval = \"2s\"\n\n";
    Daemon::start(&format!("{poll}{}", cluster_toml("c", &targets))).await
}

/// Our sessions come to be one, and never more.
async fn assert_one_session(server: &Server) {
    server.until(OURS, "1", SOON).await.unwrap();
    for _ in 0..15 {
        let ours = server.value(OURS).await.unwrap().unwrap();
        assert!(ours == "0" || ours == "1", "{}: {ours}", server.name);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn age_ms(daemon: &Daemon, target: &str) -> Option<u64> {
    daemon.health("c", target, "?role=any&max_age=1h").await.1["sample_age_ms"].as_u64()
}

/// The oldest that the samples of these targets become in that time.
async fn oldest_ms(daemon: &Daemon, targets: &[&str], time: Duration) -> u64 {
    let end = clock::now().plus(time);
    let mut oldest = 0;
    while clock::now() < end {
        for target in targets {
            oldest = oldest.max(age_ms(daemon, target).await.unwrap_or(u64::MAX));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    oldest
}

async fn until_fresh(daemon: &Daemon, target: &str, patience: Duration) {
    until(target, patience, || async {
        match age_ms(daemon, target).await {
            Some(age) if age < 1000 => Ok(()),
            age => Err(format!("{age:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn one_session_each_through_restarts_ends_and_freezes_and_no_error_in_any_log() {
    let servers = pg::cluster(2).await;
    let daemon = watch(&servers).await;
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    for node in &servers.nodes {
        assert_one_session(node).await;
    }

    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgvigil'";
    for _ in 0..3 {
        primary.sql(end).await.unwrap();
        primary.until(OURS, "1", SOON).await.unwrap();
    }
    r1.restart().await.unwrap();
    until_fresh(&daemon, "r1", SOON).await;
    assert_one_session(r1).await;

    // Each attempt that runs into the time-out leaves a connection behind which only the kernel has accepted.
    r1.freeze();
    let oldest = oldest_ms(&daemon, &["primary", "r2"], Duration::from_secs(6)).await;
    assert!(oldest < 3000, "{oldest} ms");
    assert!(age_ms(&daemon, "r1").await.is_none_or(|age| age > 4000));
    r1.thaw();
    until_fresh(&daemon, "r1", Duration::from_secs(11)).await;
    assert_one_session(r1).await;

    for node in &servers.nodes {
        assert_eq!(pg::errors_caused_by_us(node), Vec::<String>::new(), "{}", node.name);
    }
    assert_eq!(daemon.stop().await, Some(0));
    for node in &servers.nodes {
        node.until(OURS, "0", SOON).await.unwrap();
    }
}

#[tokio::test]
async fn a_locked_catalog_costs_the_slow_facts_alone() {
    let servers = pg::cluster(0).await;
    let daemon = watch(&servers).await;
    let primary = servers.primary();
    daemon.until_series("pgvigil_connections_max", &[("target", "primary")], SOON, |max| max.is_some()).await;

    let (client, connection) =
        tokio_postgres::connect(&pg::dsn(primary, "postgres"), tokio_postgres::NoTls).await.unwrap();
    let held = tokio::spawn(connection);
    client.simple_query("BEGIN; LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let oldest = oldest_ms(&daemon, &["primary"], Duration::from_secs(6)).await;
    assert!(oldest < 5000, "{oldest} ms");
    let metrics = daemon.metrics().await;
    // What must wait for the lock is said to be missing; what need not is told.
    assert!(series(&metrics, "pgvigil_surveys_total", &[("outcome", "partial")]) >= Some(2.0), "{metrics}");
    assert_eq!(
        series(&metrics, "pgvigil_survey_failure", &[("target", "primary"), ("topic", "statements")]),
        Some(1.0)
    );
    assert!(series(&metrics, "pgvigil_connections_max", &[("target", "primary")]).is_some(), "{metrics}");
    assert_eq!(series(&metrics, "pgvigil_polls_total", &[("outcome", "sql")]), Some(0.0));
    client.simple_query("COMMIT").await.unwrap();
    drop(client);
    held.await.unwrap().unwrap();

    assert_eq!(daemon.series("pgvigil_target_up", &[("target", "primary")]).await, Some(1.0));
    let errors = pg::errors_caused_by_us(primary);
    assert!(
        !errors.is_empty() && errors.iter().all(|line| line.contains("canceling statement due to lock timeout")),
        "{errors:?}"
    );
    assert!(!daemon.log().contains("cannot be polled"), "{}", daemon.log());
}
