//! From a server's fault to what the subscribers of an SNS topic get.

use std::time::Duration;

use crate::support::aws::{Aws, Received};
use crate::support::daemon::{Daemon, SOON, cluster_toml, pgvigil, series};
use crate::support::pg;
use crate::support::process::Process;
use crate::support::proxy::{Link, Proxy};
use crate::support::until;

const FAMILY: &str = "pgvigil_notifications_total";

fn attribute<'a>(received: &'a Received, name: &str) -> &'a str {
    let found = received.attributes.iter().find(|(have, _)| have == name);
    found.map_or_else(|| panic!("no attribute {name}: {received:?}"), |(_, value)| value)
}

#[tokio::test]
async fn subscribers_are_told_once_that_an_alert_fires_and_once_that_it_resolved() {
    let Some(aws) = Aws::start().await else { return };
    let servers = pg::cluster(1).await;
    let (text_topic, json_topic) = (aws.topic("people").await, aws.topic("machines").await);
    let (people, machines) = (aws.subscribe(&text_topic, "people").await, aws.subscribe(&json_topic, "machines").await);
    let targets: Vec<(&str, String)> =
        servers.nodes.iter().map(|node| (node.name.as_str(), pg::dsn(node, "mon"))).collect();
    let config = cluster_toml("c", &targets)
        + "[[rule]]\nname = \"Down\"\nwhen = \"target_up == 0\"\nfor = \"1s\"\nseverity = \"critical\"\n"
        + &format!("[[notify]]\ntype = \"sns\"\nname = \"people\"\ntopic_arn = \"{text_topic}\"\n")
        + &format!(
            "[[notify]]\ntype = \"sns\"\nname = \"machines\"\ntopic_arn = \"{json_topic}\"\nformat = \"json\"\n"
        );
    let daemon = Daemon::start_with(&config, |command| {
        command.envs(aws.environment());
    })
    .await;

    servers.node("r1").crash().await.unwrap();
    let firing = aws.receive(&people, SOON).await;
    let firing_json = aws.receive(&machines, SOON).await;
    servers.node("r1").start().await.unwrap();
    let resolved = aws.receive(&people, SOON).await;
    let resolved_json = aws.receive(&machines, SOON).await;

    for (received, state) in
        [(&firing, "firing"), (&firing_json, "firing"), (&resolved, "resolved"), (&resolved_json, "resolved")]
    {
        let attributes = ["severity", "state", "rule", "cluster", "target"].map(|name| attribute(received, name));
        assert_eq!(attributes, ["critical", state, "Down", "c", "r1"]);
        let subject = received.subject.as_deref().unwrap();
        assert!(subject.len() <= 100 && subject.contains("Down") && subject.contains("r1"), "{subject:?}");
    }
    assert!(firing.message.contains("target_up == 0"), "{}", firing.message);
    let json: serde_json::Value = serde_json::from_str(&firing_json.message).unwrap();
    assert!(json.is_object(), "{json}");

    // Told once: nothing more comes while nothing more happens.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for subscriber in [&people, &machines] {
        let more = aws.try_receive(subscriber).await;
        assert!(more.is_none(), "{more:?}");
    }
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_fifo_topic_that_is_out_of_reach_for_a_while_gets_both_firing_and_resolved_in_order() {
    let Some(aws) = Aws::start().await else { return };
    let link = Proxy::start(aws.port).await;
    let servers = pg::cluster(1).await;
    let topic = aws.topic("alerts.fifo").await;
    let subscriber = aws.subscribe(&topic, "alerts.fifo").await;
    let targets: Vec<(&str, String)> =
        servers.nodes.iter().map(|node| (node.name.as_str(), pg::dsn(node, "mon"))).collect();
    let config = cluster_toml("c", &targets)
        + "[[rule]]\nname = \"Down\"\nwhen = \"target_up == 0\"\nfor = \"1s\"\nseverity = \"critical\"\n"
        + &format!("[[notify]]\ntype = \"sns\"\nname = \"pager\"\ntopic_arn = \"{topic}\"\n")
        + &format!("endpoint_url = \"http://127.0.0.1:{}\"\ntimeout = \"1s\"\n", link.port);
    let daemon = Daemon::start_with(&config, |command| {
        command.envs(aws.environment());
    })
    .await;
    let failed = || async {
        let metrics = daemon.metrics().await;
        ["transient", "unclear"]
            .map(|outcome| series(&metrics, FAMILY, &[("outcome", outcome)]))
            .iter()
            .flatten()
            .sum::<f64>()
    };
    let until_failed = async |more: f64| {
        let before = failed().await;
        until("failed attempts", SOON, || async {
            let now = failed().await;
            if now >= before + more { Ok(()) } else { Err(format!("{now} after {before}")) }
        })
        .await;
    };

    // Nothing arrives while the link is cut, and it is tried again until it does.
    link.set(Link::Cut);
    servers.node("r1").crash().await.unwrap();
    until_failed(2.0).await;
    assert!(aws.try_receive(&subscriber).await.is_none());
    link.set(Link::Up);
    let firing = aws.receive(&subscriber, SOON).await;
    assert_eq!(attribute(&firing, "state"), "firing");

    // The same once more: what has ended meanwhile is told when it can be.
    link.set(Link::Cut);
    servers.node("r1").start().await.unwrap();
    until_failed(1.0).await;
    link.set(Link::Up);
    let resolved = aws.receive(&subscriber, SOON).await;
    assert_eq!(attribute(&resolved, "state"), "resolved");
    assert!(aws.try_receive(&subscriber).await.is_none(), "told twice");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn two_urls_in_the_environment_are_enough() {
    let servers = pg::cluster(1).await;
    let port = crate::support::free_port();
    let mut command = pgvigil();
    command
        .env("DATABASE_URL", pg::dsn(servers.primary(), "mon") + "?schema=public&connection_limit=100&pool_timeout=30")
        .env("DATABASE_READ_REPLICA_URL", pg::dsn(servers.node("r1"), "mon") + "?pgbouncer=true")
        .env("PGVIGIL_SERVER__LISTEN", format!("127.0.0.1:{port}"));
    let dir = tempfile::tempdir().unwrap();
    command.current_dir(dir.path());
    let process = Process::start(command);
    let daemon = Daemon { process, url: format!("http://127.0.0.1:{port}"), dir };
    let labels = [("cluster", "default"), ("target", "replica-1")];
    crate::support::until("the lag", SOON, || async {
        let metrics = daemon.get("/metrics").await?.body;
        let lag = crate::support::daemon::series(&metrics, "pgvigil_replay_lag_seconds", &labels);
        if lag.is_some_and(|lag| lag < 1.0) { Ok(()) } else { Err(format!("{lag:?}")) }
    })
    .await;
    let (status, body) = daemon.health("default", "replica-1", "?max_lag=5s").await;
    assert_eq!(status, 200, "{body}");
    let log = daemon.log();
    assert!(!log.contains("mon:mon"), "a password is in the log: {log}");
}
