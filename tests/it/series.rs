//! What becomes of series and health when a server falls silent: nothing is shown that is not known any more.

use std::time::Duration;

use pgvigil::demo::Servers;
use serde_json::Value;

use crate::support::daemon::{Daemon, SOON, cluster_toml, series};
use crate::support::{pg, until};

fn watching(servers: &Servers) -> String {
    let targets = pg::targets(&servers.nodes, "mon");
    format!("[poll]\nslow_interval = \"1s\"\n\n{}", cluster_toml("c", &targets))
}

async fn until_up(daemon: &Daemon, servers: &Servers) {
    for node in &servers.nodes {
        let labels = [("target", node.name.as_str())];
        daemon.until_series("pgvigil_connections_max", &labels, SOON, |max| max.is_some()).await;
    }
}

#[tokio::test]
async fn a_stopped_replica_keeps_only_what_is_still_known() {
    let servers = pg::cluster(1).await;
    let daemon = Daemon::start(&watching(&servers)).await;
    until_up(&daemon, &servers).await;
    servers.node("r1").stop().await.unwrap();
    let r1 = [("target", "r1")];
    daemon.until_series("pgvigil_target_up", &r1, SOON, |up| up == Some(0.0)).await;
    daemon.until_series("pgvigil_connections_max", &r1, SOON, |max| max.is_none()).await;
    daemon.until_series("pgvigil_observation_age_seconds", &r1, SOON, |age| age > Some(6.0)).await;
    let metrics = daemon.metrics().await;
    for gone in ["pgvigil_connections_used_ratio", "pgvigil_receiver_running", "pgvigil_replay_paused"] {
        assert_eq!(series(&metrics, gone, &r1), None, "{gone}");
    }
    assert_eq!(series(&metrics, "pgvigil_target_failure", &[("target", "r1"), ("reason", "refused")]), Some(1.0));
    assert_eq!(series(&metrics, "pgvigil_connections_max", &[("target", "primary")]), Some(100.0));
    servers.node("r1").start().await.unwrap();
    daemon.until_series("pgvigil_connections_max", &r1, SOON, |max| max.is_some()).await;
    assert_eq!(series(&daemon.metrics().await, "pgvigil_target_failure", &r1), None);
}

#[tokio::test]
async fn a_frozen_replica_ages_lags_and_gets_no_reads() {
    let servers = pg::cluster(1).await;
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let daemon = Daemon::start(&watching(&servers)).await;
    until_up(&daemon, &servers).await;
    let writing = async {
        loop {
            pg::write(primary).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let looking = async {
        r1.freeze();
        let labels = [("target", "r1")];
        daemon.until_series("pgvigil_observation_age_seconds", &labels, SOON, |age| age > Some(6.0)).await;
        let (status, body) = daemon.health("c", "r1", "").await;
        assert_eq!((status, &body["status"]), (503, &"unfit".into()), "{body}");
        let reason = body["reasons"][0].as_str().unwrap();
        assert!(reason.starts_with("the last poll failed: no answer within 3s"), "{body}");
        assert!(body["sample_age_ms"].as_u64() > Some(6000), "{body}");
        let metrics = daemon.metrics().await;
        // What it had replayed is known, what it has replayed since is not: no lower bound grows, the upper one does.
        let upper = series(&metrics, "pgvigil_replay_lag_upper_seconds", &labels);
        assert!(upper.is_none_or(|upper| upper > 4.0), "{upper:?}");
        let exact = series(&metrics, "pgvigil_replay_lag_info", &[("target", "r1"), ("certainty", "exact")]);
        assert!(exact.is_none() || upper.is_some(), "{metrics}");
        r1.thaw();
        until("reads again", SOON, || async {
            let (status, body) = daemon.health("c", "r1", "?max_lag=2s").await;
            if status == 200 { Ok(()) } else { Err(body.to_string()) }
        })
        .await;
    };
    tokio::select! {
        () = looking => {}
        () = writing => unreachable!(),
    }
}

#[tokio::test]
async fn without_the_primary_replicas_serve_or_not_as_the_operator_wants() {
    let servers = pg::cluster(1).await;
    let passing = Daemon::start(&watching(&servers)).await;
    let failing = Daemon::start(&("[health]\non_unknown = \"fail\"\n".to_owned() + &watching(&servers))).await;
    for daemon in [&passing, &failing] {
        until_up(daemon, &servers).await;
        until("reads", SOON, || async {
            let (status, body) = daemon.health("c", "r1", "?max_lag=5s").await;
            if status == 200 { Ok(()) } else { Err(body.to_string()) }
        })
        .await;
    }
    servers.primary().crash().await.unwrap();
    let settled = async |daemon: &Daemon, expect: u16| {
        until(&format!("{expect}"), SOON, || async {
            let (status, body) = daemon.health("c", "r1", "?max_lag=1s").await;
            let is_told = body["reasons"].as_array().is_some_and(|reasons| !reasons.is_empty());
            if status == expect && is_told { Ok(body) } else { Err(body.to_string()) }
        })
        .await
    };
    let out: Value = settled(&failing, 503).await;
    assert!(out["reasons"][0].as_str().unwrap().ends_with("the primary is not heard"), "{out}");
    assert_eq!(failing.health("c", "r1", "").await.0, 503);
    let kept: Value = settled(&passing, 200).await;
    assert!(kept["reasons"][0].as_str().unwrap().ends_with("the primary is not heard"), "{kept}");
    for query in ["", "?max_lag=5s", "?max_lag_bytes=1MB", "?role=replica", "?max_age=5s"] {
        let (status, body) = passing.health("c", "r1", query).await;
        assert_eq!(status, 200, "{query}: {body}");
    }
    assert_eq!(passing.health("c", "primary", "").await.0, 503);
    // One lost poll is not yet an outage; five seconds of silence are.
    until("the cluster to be critical", SOON, || async {
        let answer = passing.get("/healthz/c").await?;
        if answer.status == 503 { Ok(()) } else { Err(answer.body) }
    })
    .await;
    let log = passing.log();
    assert!(!log.contains("tokio_postgres"), "a line that names no server: {log}");
}
