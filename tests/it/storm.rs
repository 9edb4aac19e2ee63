//! One fault, one notice: what follows from it is shown, and not told.

use std::time::Duration;

use pgvigil::demo::Servers;

use crate::support::daemon::{Daemon, SOON, cluster_toml};
use crate::support::{pg, until};

/// The built-in rules' conditions, sooner.
const RULES: &str = r#"
[alerting]
group_wait = "1s"
group_interval = "2s"
[[rule]]
name = "Down"
when = "target_up == 0"
for = "2s"
severity = "critical"
[[rule]]
name = "Lagging"
when = "replay_lag_seconds > 2s"
severity = "critical"
[[rule]]
name = "NotReceiving"
when = "receiver_running == 0"
for = "1s"
[[rule]]
name = "Missing"
when = "standby_missing == 1"
for = "1s"
"#;

async fn watch(servers: &Servers) -> Daemon {
    let targets = pg::targets(&servers.nodes, "mon");
    let daemon = Daemon::start_with(&(cluster_toml("c", &targets) + RULES), |command| {
        command.args(["--log-format", "json"]);
        for key in ["GROUP_BY", "GROUP_WAIT", "GROUP_INTERVAL", "FLAPPING"] {
            command.env_remove(format!("PGVIGIL_ALERTING__{key}"));
        }
    })
    .await;
    for node in &servers.nodes[1..] {
        let followed = [("target", node.name.as_str()), ("certainty", "exact")];
        daemon.until_series("pgvigil_replay_lag_info", &followed, SOON, |exact| exact == Some(1.0)).await;
    }
    daemon
}

/// What was told: `firing Down c/r1`.
fn told(daemon: &Daemon) -> Vec<String> {
    let log = daemon.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let told = |line: serde_json::Value| {
        let fields = line.get("fields").unwrap_or(&line);
        let field = |name: &str| Some(fields.get(name)?.as_str()?.to_owned());
        Some(format!("{} {}", field("state")?, field("alert")?))
    };
    lines.filter_map(told).collect()
}

async fn until_firing(daemon: &Daemon, alerts: &[(&str, &str)]) {
    for (rule, target) in alerts {
        let labels = [("rule", *rule), ("target", *target), ("state", "firing")];
        daemon.until_series("pgvigil_alert", &labels, SOON * 2, |firing| firing == Some(1.0)).await;
    }
}

async fn until_quiet(daemon: &Daemon) {
    until("all is well", SOON * 2, || async {
        let metrics = daemon.metrics().await;
        let alerts: Vec<_> = metrics.lines().filter(|line| line.starts_with("pgvigil_alert{")).collect();
        if alerts.is_empty() { Ok(()) } else { Err(alerts.join("\n")) }
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_stops_with_one_below_it_is_one_notice_and_so_is_a_primary() {
    let servers = Servers::start(&pg::plan(1).standby("c1", "r1")).await.unwrap();
    let daemon = watch(&servers).await;
    let told_of = |target: &str| [format!("firing Down c/{target}"), format!("resolved Down c/{target}")];

    let r1 = servers.node("r1");
    r1.crash().await.unwrap();
    pg::write(servers.primary()).await;
    let follow = [("Lagging", "r1"), ("Lagging", "c1"), ("NotReceiving", "c1")];
    until_firing(&daemon, &[&[("Down", "r1")], &follow[..]].concat()).await;
    // Well beyond all waits.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(told(&daemon), told_of("r1")[..1]);
    r1.start().await.unwrap();
    until_quiet(&daemon).await;
    until("the end", SOON, || async { if told(&daemon) == told_of("r1") { Ok(()) } else { Err(daemon.log()) } }).await;

    let primary = servers.primary();
    let name = primary.name.as_str();
    primary.crash().await.unwrap();
    until_firing(&daemon, &[("Down", name), ("NotReceiving", "r1")]).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(told(&daemon)[2..], told_of(name)[..1]);
    primary.start().await.unwrap();
    until_quiet(&daemon).await;
    until("the end", SOON, || async { if told(&daemon)[2..] == told_of(name) { Ok(()) } else { Err(daemon.log()) } })
        .await;
    assert_eq!(daemon.stop().await, Some(0));
}
