//! `pgvigil poll` on real servers in trouble.

use pgvigil::demo::Servers;
use serde_json::Value;

use crate::support::daemon::{SOON, cluster_toml, pgvigil};
use crate::support::pg;

#[tokio::test]
async fn a_look_lasts_until_it_can_say_why_and_ends_its_sessions() {
    // An end that is no good-bye is told at this level alone.
    let servers = Servers::start(&pg::plan(1).set("log_min_messages = debug1")).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let written = pg::write(primary).await;
    r1.until(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'"), "t", SOON).await.unwrap();
    r1.sql("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
    r1.sql("SELECT pg_reload_conf()").await.unwrap();
    r1.until("SELECT count(*) FROM pg_stat_wal_receiver", "0", SOON).await.unwrap();
    pg::write(primary).await;

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pgvigil.toml");
    let targets = [("db-1", pg::dsn(primary, "mon")), ("db-2", pg::dsn(r1, "mon"))];
    std::fs::write(&file, cluster_toml("orders", &targets)).unwrap();
    let run = |arguments: &'static [&'static str]| {
        let mut command = pgvigil();
        command.args(arguments).arg("--config").arg(&file);
        async move { tokio::process::Command::from(command).output().await.unwrap() }
    };
    let (json, text) = tokio::join!(run(&["poll", "--json"]), run(&["poll"]));
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(report["clusters"][0]["targets"][1]["cause"], "receiver_cut_off", "{report}");
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("orders/db-2: its WAL receiver is cut off from the upstream"), "{text}");
    for word in ["lower_bound", "warming", "lsn_plateau"] {
        assert!(!text.contains(word), "{text}");
    }
    assert!(text.lines().take(3).all(|line| line.chars().count() <= 80), "{text}");
    for node in [primary, r1] {
        let log = node.log();
        let cut: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("/pgvigil "))
            .filter(|line| line.contains("unexpected EOF on client") || line.contains("connection to client lost"))
            .collect();
        assert_eq!(cut, Vec::<&str>::new());
    }
}
