//! When servers are polled: far away, right after a restart, and many at once.

use std::time::Duration;

use pgvigil::clock;
use pgvigil::demo::Servers;

use crate::support::daemon::{Daemon, SOON, cluster_toml, series};
use crate::support::proxy::{Link, Proxy};
use crate::support::{pg, until};

const UP: &str = "pgvigil_target_up";
const AGE: &str = "pgvigil_observation_age_seconds";
/// What a busy machine may add to any time.
const SLACK: f64 = 0.6;

#[tokio::test]
async fn far_away_the_first_connection_succeeds_and_positions_stay_fresh_while_surveys_come() {
    let servers = pg::cluster(1).await;
    let primary = servers.primary();
    let link = Proxy::start(primary.port).await;
    let way = Duration::from_millis(350);
    link.set(Link::Slow(way));
    // Each survey reads everything there is, at each second or third poll.
    let config = "[poll]\nslow_interval = \"2s\"\n".to_owned()
        + &cluster_toml("c", &[("primary", pg::dsn_at(link.port, "mon")), ("r1", pg::dsn(servers.node("r1"), "mon"))]);
    let daemon = Daemon::start(&config).await;
    let primary = [("target", "primary")];
    daemon.until_series(UP, &primary, Duration::from_secs(12), |up| up == Some(1.0)).await;
    daemon.until_series("pgvigil_connections_max", &primary, SOON, |max| max.is_some()).await;

    // An answer is one way old when it arrives, and the next one comes a poll later.
    let most = 1.0 + 2.0 * way.as_secs_f64() + SLACK;
    let (end, mut oldest) = (clock::now().plus(Duration::from_secs(12)), 0.0_f64);
    while clock::now() < end {
        let metrics = daemon.metrics().await;
        assert_eq!(series(&metrics, UP, &primary), Some(1.0));
        let age = series(&metrics, AGE, &primary).unwrap();
        oldest = oldest.max(age);
        assert!(age < most, "the primary's positions are {age} s old");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("the oldest sample was {oldest:.2} s old");
    assert_eq!(link.accepted(), 1, "{}", daemon.log());
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_connection_that_takes_longer_than_a_poll_may_is_used_when_it_is_open() {
    let servers = pg::cluster(0).await;
    let link = Proxy::start(servers.primary().port).await;
    link.set(Link::Slow(Duration::from_millis(300)));
    let config =
        "[poll]\ntimeout = \"1200ms\"\n".to_owned() + &cluster_toml("c", &[("primary", pg::dsn_at(link.port, "mon"))]);
    // It is ready when the target has been tried: it has failed so far.
    let daemon = Daemon::start(&config).await;
    let primary = [("target", "primary")];
    daemon.until_log("cannot be polled: no answer within").await;
    daemon.until_series(UP, &primary, SOON, |up| up == Some(1.0)).await;
    assert_eq!(link.accepted(), 1, "{}", daemon.log());

    // The connection string's own limit wins, and is not kept by this link.
    let dsn = pg::dsn_at(link.port, "mon") + "?connect_timeout=2";
    link.set(Link::Slow(Duration::from_millis(400)));
    let config = cluster_toml("c", &[("primary", dsn)]);
    let daemon = Daemon::start(&config).await;
    daemon.until_log("cannot be polled: no answer within 2s").await;
    assert_eq!(daemon.series(UP, &primary).await, Some(0.0));
}

#[tokio::test]
async fn a_lost_session_is_noticed_and_replaced_between_two_polls() {
    let servers = pg::cluster(1).await;
    let r1 = servers.node("r1");
    let config = "[poll]\ninterval = \"1m\"\nslow_interval = \"1m\"\n".to_owned()
        + &cluster_toml("c", &pg::targets(&servers.nodes, "mon"));
    let daemon = Daemon::start(&config).await;
    let target = [("target", "r1")];
    daemon.until_series("pgvigil_replay_lag_seconds", &target, SOON, |lag| lag.is_some()).await;
    // A session that lived for less than ten seconds is not replaced before the next poll.
    daemon.until_series(AGE, &target, SOON, |age| age > Some(11.0)).await;

    let soon = Duration::from_secs(4);
    r1.stop().await.unwrap();
    daemon.until_series(UP, &target, soon, |up| up == Some(0.0)).await;
    r1.start().await.unwrap();
    daemon.until_series(UP, &target, soon, |up| up == Some(1.0)).await;
    let age = daemon.series(AGE, &target).await;
    assert!(age < Some(4.0), "{age:?}");
    // One that a server ends alone is replaced as well, and was never down.
    daemon.until_series(AGE, &target, SOON, |age| age > Some(11.0)).await;
    let ended = r1.value("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'mon'").await;
    assert_eq!(ended.unwrap().as_deref(), Some("1"));
    daemon.until_series(AGE, &target, soon, |age| age < Some(4.0)).await;
    assert_eq!(daemon.series(UP, &target).await, Some(1.0));
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_hundred_targets_of_one_server_connect_once_each_though_all_begin_at_once() {
    const N_TARGETS: usize = 100;
    let servers = Servers::start(&pg::plan(0).set("max_connections = 130")).await.unwrap();
    let link = Proxy::start(servers.primary().port).await;
    // In debug builds a password's hash takes us a tenth of a second.
    let mut config = "[poll]\ninterval = \"5s\"\ntimeout = \"10s\"\nconnect_timeout = \"10s\"\n".to_owned();
    for n in 1..=N_TARGETS {
        config.push_str(&cluster_toml(&format!("c{n}"), &[("primary", pg::dsn_at(link.port, "mon"))]));
    }
    let began = clock::now();
    let daemon = Daemon::start_within(&config, Duration::from_secs(180), |_| {}).await;
    until("all are up", Duration::from_secs(60), || async {
        let metrics = daemon.metrics().await;
        let n_up =
            metrics.lines().filter(|line| line.starts_with("pgvigil_target_up{") && line.ends_with(" 1")).count();
        if n_up == N_TARGETS { Ok(()) } else { Err(format!("{n_up}")) }
    })
    .await;
    println!("{N_TARGETS} targets answered within {:?}", clock::now().duration_since(began));
    assert_eq!(link.accepted(), N_TARGETS as u64);
    assert_eq!(daemon.stop().await, Some(0));
}
