//! What is watched changes while the daemon runs: its file is edited, and it goes on without a restart.

use std::path::PathBuf;

use pgvigil::demo::Server;
use rustix::process::Signal;

use crate::support::daemon::{Daemon, SOON, cluster_toml};
use crate::support::{pg, until};

const RULE: &str = "[[rule]]\nname = \"Down\"\nwhen = \"target_up == 0\"\nfor = \"0s\"\nseverity = \"critical\"\n";

fn file(daemon: &Daemon) -> PathBuf {
    daemon.dir.path().join("pgvigil.toml")
}

/// Writes the file anew and tells the daemon.
fn reload(daemon: &Daemon, config: &str) {
    std::fs::write(file(daemon), config).unwrap();
    daemon.process.signal(Signal::HUP);
}

async fn until_logged(daemon: &Daemon, text: &str, times: usize) {
    until(text, SOON, || async {
        let log = daemon.log();
        if log.matches(text).count() >= times { Ok(()) } else { Err(log) }
    })
    .await;
}

fn watching(servers: &[&Server]) -> String {
    let targets = pg::targets(servers.iter().copied(), "mon");
    cluster_toml("c", &targets) + RULE
}

/// The process ids of the daemon's sessions on a server.
async fn sessions(server: &Server) -> String {
    let query =
        "SELECT coalesce(string_agg(pid::text, ',' ORDER BY pid), '') FROM pg_stat_activity WHERE usename = 'mon'";
    server.value(query).await.unwrap().unwrap()
}

#[tokio::test]
async fn replicas_come_and_go_and_the_others_keep_their_sessions_and_their_state() {
    let servers = pg::cluster(2).await;
    let (primary, r1, r2) = (servers.node("primary"), servers.node("r1"), servers.node("r2"));
    let daemon = Daemon::start(&watching(&[primary, r1])).await;
    let known = |target: &'static str| {
        let daemon = &daemon;
        async move {
            daemon.until_series("pgvigil_replay_lag_bytes", &[("target", target)], SOON, |lag| lag.is_some()).await
        }
    };
    known("r1").await;
    let before = sessions(primary).await;
    assert!(!before.is_empty());

    reload(&daemon, &watching(&[r2, primary, r1]));
    known("r2").await;
    let answer = daemon.get("/api/v1/clusters/c").await.unwrap().json();
    let names: Vec<&str> =
        answer["targets"].as_array().unwrap().iter().map(|target| target["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["r2", "primary", "r1"]);

    // One that is down fires; taken out of the file, that is over, and its series are gone.
    r1.stop().await.unwrap();
    until_logged(&daemon, "Down fires: c/r1", 1).await;
    reload(&daemon, &watching(&[r2, primary]));
    daemon.until_series("pgvigil_target_up", &[("target", "r1")], SOON, |up| up.is_none()).await;
    until("the end of the alert", SOON, || async {
        let log = daemon.log();
        let told = log.lines().any(|line| line.contains("c/r1") && line.contains("state=\"resolved\""));
        if told { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(daemon.get("/healthz/c/r1").await.unwrap().status, 404);
    // Nobody asks it any more.
    r1.start().await.unwrap();
    known("r2").await;
    assert_eq!(sessions(primary).await, before, "the primary was never left");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_file_with_a_fault_changes_nothing_and_says_so() {
    let servers = pg::cluster(0).await;
    let good = watching(&[servers.node("primary")]);
    let daemon = Daemon::start(&good).await;
    let successful = |value: f64| {
        let daemon = &daemon;
        async move {
            daemon.until_series("pgvigil_config_last_reload_successful", &[], SOON, |is| is == Some(value)).await;
        }
    };
    successful(1.0).await;
    let before = sessions(servers.node("primary")).await;
    for fault in ["[[cluster]]\nnam = \"x\"\n", "not TOML", "[[notify]]\ntype = \"pigeon\"\n"] {
        reload(&daemon, &(good.clone() + fault));
        successful(0.0).await;
        reload(&daemon, &good);
        successful(1.0).await;
    }
    let log = daemon.log();
    assert_eq!(log.matches("the configuration is refused").count(), 3, "{log}");
    assert!(log.contains("nam") && log.contains("pigeon"), "{log}");
    assert_eq!(sessions(servers.node("primary")).await, before);
}

#[tokio::test]
async fn a_changed_file_is_read_without_being_told_and_what_takes_a_restart_is_named() {
    let servers = pg::cluster(1).await;
    let (primary, r1) = (servers.node("primary"), servers.node("r1"));
    let daemon = Daemon::start(&watching(&[primary])).await;
    let changed = watching(&[primary, r1]) + "[health]\non_unknown = \"fail\"\n[poll]\ninterval = \"500ms\"\n";
    std::fs::write(file(&daemon), changed).unwrap();
    daemon.until_series("pgvigil_target_up", &[("target", "r1")], SOON * 2, |up| up == Some(1.0)).await;
    until_logged(&daemon, "health has changed, which takes a restart", 1).await;
    // Another interval: all sessions are new, and the history goes on.
    daemon.until_series("pgvigil_replay_lag_bytes", &[("target", "r1")], SOON, |lag| lag.is_some()).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn notifiers_and_rules_follow_the_file() {
    let config = |rule: &str, notifiers: &str| {
        cluster_toml("c", &[("gone", "host=127.0.0.1 port=9 user=u".to_owned())])
            + &format!("[[rule]]\nname = \"{rule}\"\nwhen = \"target_up == 0\"\nseverity = \"critical\"\n{notifiers}")
    };
    let daemon = Daemon::start(&config("Down", "")).await;
    until_logged(&daemon, "Down fires: c/gone", 1).await;
    // A second notifier hears of what fires, and the first not again.
    let both = "[[notify]]\ntype = \"log\"\n[[notify]]\ntype = \"log\"\nname = \"second\"\n";
    reload(&daemon, &config("Down", both));
    until_logged(&daemon, "Down fires: c/gone", 2).await;
    daemon
        .until_series("pgvigil_notifications_total", &[("notifier", "second"), ("outcome", "ok")], SOON, |n| {
            n == Some(1.0)
        })
        .await;
    let first = [("notifier", "log-1"), ("outcome", "ok")];
    assert_eq!(daemon.series("pgvigil_notifications_total", &first).await, Some(1.0));
    // Another rule: the alert of the one before is over for both, and its own begins.
    reload(&daemon, &config("Away", both));
    until_logged(&daemon, "Away fires: c/gone", 2).await;
    daemon.until_series("pgvigil_notifications_total", &first, SOON, |n| n == Some(3.0)).await;
    assert_eq!(daemon.stop().await, Some(0));
}
