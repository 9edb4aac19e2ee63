//! The dead man's switch of the real daemon, over real servers.

use std::time::Duration;

use crate::support::alertmanager::{Alertmanager, is_installed};
use crate::support::aws::Aws;
use crate::support::daemon::{Daemon, SOON, cluster_toml};
use crate::support::pg;
use crate::support::receiver::Receiver;

const FAMILY: &str = "pgvigil_heartbeats_total";

#[tokio::test]
async fn the_heart_beats_on_while_a_server_is_down_and_stops_when_nobody_answers() {
    if !is_installed() {
        return;
    }
    let (listener, hook) = (Receiver::start().await, Receiver::start().await);
    let alertmanager = Alertmanager::start(hook.port).await;
    let servers = pg::cluster(1).await;
    let targets = pg::targets(&servers.nodes, "mon");
    let config = "[poll]\ninterval = \"500ms\"\ntimeout = \"1s\"\n".to_owned()
        + &format!("[heartbeat]\ninterval = \"1s\"\nurl = \"http://127.0.0.1:{}/s3cr3t\"\n\n", listener.port)
        + &cluster_toml("c", &targets)
        + "[[rule]]\nname = \"Never\"\nwhen = \"replay_lag_seconds > 1d\"\n"
        + &format!("[[notify]]\ntype = \"alertmanager\"\nurls = [{:?}]\n", alertmanager.url);
    let daemon = Daemon::start(&config).await;
    assert_eq!(listener.until(1, SOON).await[0].line, "GET /s3cr3t HTTP/1.1");
    // For those who have their dead man's switch behind an Alertmanager.
    let watchdog = alertmanager.until_alerts(1, SOON).await.remove(0);
    assert_eq!(watchdog["labels"], serde_json::json!({ "alertname": "Watchdog", "severity": "none" }));

    servers.node("r1").crash().await.unwrap();
    daemon.until_series("pgvigil_target_up", &[("target", "r1")], SOON, |up| up == Some(0.0)).await;
    let beats = listener.requests().len();
    listener.until(beats + 5, SOON).await;
    // A machine that is busy with other things may have withheld some.
    let before = daemon.series(FAMILY, &[("outcome", "withheld")]).await.unwrap();

    servers.primary().freeze();
    daemon.until_series(FAMILY, &[("outcome", "withheld")], SOON, |withheld| withheld >= Some(before + 3.0)).await;
    let beats = listener.requests().len();
    daemon.until_series(FAMILY, &[("outcome", "withheld")], SOON, |withheld| withheld >= Some(before + 6.0)).await;
    assert_eq!(listener.requests().len(), beats);
    let log = daemon.log();
    let said: Vec<&str> =
        log.lines().filter(|line| line.contains("no heartbeat: no server has answered for")).collect();
    assert!(said.len() == 1 && said[0].contains("ERROR"), "{log}");
    servers.primary().thaw();
    listener.until(beats + 2, SOON).await;
    let log = daemon.log();
    assert!(log.contains("there is progress again") && !log.contains("s3cr3t"), "{log}");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_notifier_is_sent_a_notice_at_each_beat() {
    let Some(aws) = Aws::start().await else { return };
    let servers = pg::cluster(0).await;
    let topic = aws.topic("alerts.fifo").await;
    let subscriber = aws.subscribe(&topic, "alerts.fifo").await;
    let config = "[heartbeat]\ninterval = \"1s\"\nnotify = \"pager\"\n".to_owned()
        + &cluster_toml("c", &[("primary", pg::dsn(servers.primary(), "mon"))])
        + "[[rule]]\nname = \"Never\"\nwhen = \"replay_lag_seconds > 1d\"\n"
        + &format!("[[notify]]\ntype = \"sns\"\nname = \"pager\"\ntopic_arn = \"{topic}\"\n");
    let daemon = Daemon::start_with(&config, |command| {
        command.envs(aws.environment());
    })
    .await;
    for _ in 0..2 {
        let beat = aws.receive(&subscriber, SOON + Duration::from_secs(10)).await;
        assert_eq!(beat.attributes, [("state".to_owned(), "heartbeat".to_owned())]);
        assert_eq!(beat.subject.as_deref(), Some("HEARTBEAT of pgvigil"));
        assert!(beat.message.contains("It says so every 1s while that is so."), "{}", beat.message);
    }
    assert_eq!(daemon.stop().await, Some(0));
}
