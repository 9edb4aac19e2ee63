//! PgBouncer watched by its admin console: who waits, what is paused, restarts and refusals.

use std::time::Duration;

use pgvigil::demo::{Server, Servers};
use tokio_postgres::{Client, NoTls};

use crate::support::daemon::{Daemon, SOON, cluster_toml, pgvigil, series};
use crate::support::pgbouncer::PgBouncer;
use crate::support::{pg, until};

/// A daemon's configuration that watches a server and the pooler before it, as `user` of its console.
fn watching(primary: &Server, port: u16, user: &str, password: &str) -> String {
    let rule = "[[rule]]\nname = \"Exhausted\"\nwhen = \"pooler_longest_wait_seconds > 1s\"\nfor = \"0s\"\n";
    format!(
        "[poll]\npooler_interval = \"200ms\"\n\n{}\n[[pooler]]\nname = \"pgb\"\n\
         dsn = \"postgresql://{user}:{password}@127.0.0.1:{port}/pgbouncer\"\n\n{rule}",
        cluster_toml("c", &[("primary", pg::dsn(primary, "mon"))])
    )
}

async fn client(port: u16) -> Client {
    let (client, connection) = tokio_postgres::connect(&pg::dsn_at(port, "mon"), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

const POOL: [(&str, &str); 3] = [("target", "pgb"), ("database", "postgres"), ("user", "mon")];

#[tokio::test]
async fn who_waits_for_a_server_connection_is_seen_alerted_and_told() {
    let servers = pg::cluster(0).await;
    let Some(mut pooler) = PgBouncer::start(servers.primary().port).await else { return };
    let daemon = Daemon::start(&watching(servers.primary(), pooler.port, "stats", "stats")).await;
    let pgb = [("target", "pgb")];
    assert_eq!(daemon.series("pgvigil_pooler_up", &pgb).await, Some(1.0));
    let info = daemon.series("pgvigil_pooler_info", &pgb).await;
    assert_eq!(info, Some(1.0), "{}", daemon.metrics().await);

    // One server connection: who is in a transaction has it.
    let (holder, other) = (client(pooler.port).await, client(pooler.port).await);
    holder.batch_execute("BEGIN").await.unwrap();
    let waiting = tokio::spawn(async move { other.batch_execute("SELECT 1").await.map(|()| other) });
    let wait = |value: Option<f64>| value > Some(1.0);
    daemon.until_series("pgvigil_pooler_longest_wait_seconds", &POOL, SOON, wait).await;
    let metrics = daemon.metrics().await;
    let state = |state| [POOL.as_slice(), &[("state", state)]].concat();
    assert_eq!(series(&metrics, "pgvigil_pooler_clients", &state("waiting")), Some(1.0));
    assert_eq!(series(&metrics, "pgvigil_pooler_clients", &state("active")), Some(1.0));
    assert_eq!(series(&metrics, "pgvigil_pooler_servers", &state("active")), Some(1.0));
    assert_eq!(series(&metrics, "pgvigil_pooler_pool_used_ratio", &POOL), Some(1.0));
    assert_eq!(series(&metrics, "pgvigil_pooler_pool_size", &POOL[..2]), Some(1.0));
    assert!(!metrics.contains("database=\"pgbouncer\""), "{metrics}");

    let alert = |state: &'static str| {
        let daemon = &daemon;
        until(state, SOON, move || async move {
            let alerts = daemon.get("/api/v1/alerts").await?.json();
            let found = alerts["alerts"].as_array().unwrap().iter().find(|alert| alert["state"] == state).cloned();
            found.ok_or_else(|| alerts.to_string())
        })
    };
    let firing = alert("firing").await;
    assert_eq!((&firing["target"], &firing["labels"]["database"]), (&"pgb".into(), &"postgres".into()));
    let health = daemon.get("/healthz/c").await.unwrap();
    assert_eq!((health.status, &health.json()["status"]), (200, &"degraded".into()), "{}", health.body);

    let config = daemon.dir.path().join("pgvigil.toml");
    let run = |arguments: &[&str]| {
        let output = pgvigil().args(arguments).arg("--config").arg(&config).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    };
    let (check, status) = run(&["check"]);
    assert!(check.contains("c/pgb: warning: 1 client waits in postgres/mon for a server connection"), "{check}");
    assert_eq!(status, Some(1));
    let (poll, _) = run(&["poll"]);
    let row = poll.lines().find(|line| line.contains("pgb")).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words[..7], ["c", "pgb", "up", "postgres", "mon", "1", "1"], "{poll}");
    assert!(row.contains("1/1"), "{poll}");

    holder.batch_execute("COMMIT").await.unwrap();
    let other = waiting.await.unwrap().unwrap();
    daemon.until_series("pgvigil_pooler_longest_wait_seconds", &POOL, SOON, |wait| wait == Some(0.0)).await;
    alert("resolved").await;

    // Paused.
    pooler.command("PAUSE postgres").await;
    let database = &POOL[..2];
    daemon.until_series("pgvigil_pooler_database_paused", database, SOON, |paused| paused == Some(1.0)).await;
    assert!(run(&["check"]).0.contains("c/pgb: warning: database \"postgres\" is paused\n"));
    pooler.command("RESUME postgres").await;
    daemon.until_series("pgvigil_pooler_database_paused", database, SOON, |paused| paused == Some(0.0)).await;

    // What it counts goes on through a restart, which is noted once.
    for _ in 0..20 {
        other.batch_execute("SELECT 1").await.unwrap();
    }
    let before = daemon.until_series("pgvigil_pooler_queries_total", database, SOON, |n| n >= Some(20.0)).await;
    pooler.stop().await;
    daemon.until_series("pgvigil_pooler_up", &pgb, SOON, |up| up == Some(0.0)).await;
    let health = daemon.get("/healthz").await.unwrap();
    assert!(health.status == 200 && health.body.contains("pooler pgb: connection refused"), "{}", health.body);
    let log = pooler.process.output();
    let complaints: Vec<&str> =
        log.lines().filter(|line| line.contains("/stats@") && !line.contains(" LOG ")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    pooler.start_again().await;
    daemon.until_series("pgvigil_pooler_up", &pgb, SOON, |up| up == Some(1.0)).await;
    let again = client(pooler.port).await;
    again.batch_execute("SELECT 1").await.unwrap();
    let after = daemon.until_series("pgvigil_pooler_queries_total", database, SOON, |now| now > before).await;
    assert!(after < before.map(|before| before + 10.0), "{before:?} {after:?}");
    assert_eq!(daemon.log().matches("cannot be polled").count(), 1, "{}", daemon.log());
    assert_eq!(pg::errors_caused_by_us(servers.primary()), Vec::<String>::new());
}

#[tokio::test]
async fn a_console_that_refuses_us_is_told_as_such_and_not_flooded() {
    let servers = Servers::start(&pg::plan(0)).await.unwrap();
    let primary = servers.primary();
    let Some(pooler) = PgBouncer::start(primary.port).await else { return };
    for (user, password, says) in [
        ("stats", "not-it", "authentication failed"),
        ("mon", "mon", "not allowed; name the user in PgBouncer's stats_users"),
    ] {
        let daemon = Daemon::start(&watching(primary, pooler.port, user, password)).await;
        let labels = [("target", "pgb"), ("reason", "authentication")];
        daemon.until_series("pgvigil_pooler_failure", &labels, SOON, |failure| failure == Some(1.0)).await;
        assert_eq!(daemon.series("pgvigil_pooler_up", &[("target", "pgb")]).await, Some(0.0));
        let health = daemon.get("/healthz").await.unwrap();
        assert!(health.status == 200 && health.body.contains(says), "{}", health.body);
        let attempts = || pooler.process.output().matches(&format!("pgbouncer/{user}@")).count();
        let before = attempts();
        // At its interval there would be fifteen more attempts.
        tokio::time::sleep(Duration::from_secs(3)).await;
        // Each leaves up to four lines.
        assert!(attempts() - before <= 12, "{}", pooler.process.output());
        assert_eq!(daemon.log().matches("cannot be polled").count(), 1, "{}", daemon.log());
        assert!(!daemon.log().contains("not-it"), "{}", daemon.log());
    }
}
