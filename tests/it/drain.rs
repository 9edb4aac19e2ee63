//! Drains of a real daemon, by the command line as people use it.

use std::path::Path;
use std::process::Output;

use crate::support::daemon::{Daemon, SOON, cluster_toml, pgvigil};
use crate::support::{pg, until};

const TOKEN: &str = "0123456789abcdef-of-a-test";

async fn drain(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = pgvigil();
    command.env("PGVIGIL_TOKEN", TOKEN).env("USER", "ada").arg("drain").args(arguments);
    command.args(["--url", &daemon.url]);
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

async fn until_routed(daemon: &Daemon, status: u16, reason: &str) {
    until(reason, SOON, || async {
        let route = daemon.get("/api/v1/clusters/c/route").await?;
        if route.status == status && route.body.contains(reason) { Ok(()) } else { Err(route.body) }
    })
    .await;
}

#[tokio::test]
async fn a_drained_target_gets_no_reads_also_after_a_kill_until_that_is_undone() {
    let servers = pg::cluster(1).await;
    let dsn = |name| pg::dsn(servers.node(name), "mon");
    let config =
        format!("[server]\ntoken = \"{TOKEN}\"\n{}", cluster_toml("c", &[("p", dsn("primary")), ("r", dsn("r1"))]));
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("state.db");
    let start = async |store: &Path| {
        Daemon::start_with(&config, |command| {
            command.env("PGVIGIL_STORE__PATH", store);
        })
        .await
    };
    let daemon = start(&store).await;
    until_routed(&daemon, 200, "\"target\":\"r\"").await;
    let made = drain(&daemon, &["r", "--for", "1h", "--reason", "restart"]).await;
    assert!(made.0 == Some(0) && made.1.starts_with("c/r is drained until 2") && made.2.is_empty(), "{made:?}");
    // It was written before it was answered: killed at once, nothing is lost.
    drop(daemon);
    let daemon = start(&store).await;
    until_routed(&daemon, 503, "drained by ada for another 59m").await;
    let (status, health) = daemon.health("c", "r", "").await;
    assert!(status == 503 && health["reasons"][0].as_str().unwrap().ends_with(": restart"), "{health}");
    assert_eq!(daemon.series("pgvigil_drained", &[("target", "r")]).await, Some(1.0));
    let all = daemon.get("/healthz").await.unwrap();
    assert!(
        all.status == 200 && all.json()["status"] == "degraded" && all.body.contains("r: drained by ada"),
        "{all:?}"
    );
    let listed = drain(&daemon, &["--list"]).await;
    assert!(
        listed.1.starts_with("c/r is drained until ") && listed.1.contains("left), by ada\n  restart"),
        "{listed:?}"
    );

    assert_eq!(
        drain(&daemon, &["c/r", "--undo"]).await,
        (Some(0), "c/r is drained no more\n".to_owned(), String::new())
    );
    until_routed(&daemon, 200, "\"target\":\"r\"").await;
    assert_eq!(daemon.series("pgvigil_drained", &[]).await, None);
    assert_eq!(drain(&daemon, &["--list"]).await.1, "nothing is drained\n");

    for (arguments, status, says) in [
        (&["c/r", "--undo"][..], 1, "pgvigil: c/r is not drained"),
        (&["x", "--for", "1h"], 1, "pgvigil: no target \"x\" is configured"),
        (&["r", "--for", "soon"], 1, "pgvigil: parameter `for`: \"soon\" is not a duration"),
        (&["r", "--for", "0s"], 1, "pgvigil: parameter `for`: a drain must last"),
        (&["r"], 64, "error: the following required arguments"),
        (&["--for", "1h"], 64, "error: the following required arguments"),
        (&["r", "--undo", "--for", "1h"], 64, "error: the argument"),
    ] {
        let told = drain(&daemon, arguments).await;
        assert!(told.0 == Some(status) && told.2.starts_with(says), "{arguments:?}: {told:?}");
    }
    assert!(!daemon.log().contains(TOKEN));
    // One that ends by itself.
    drain(&daemon, &["r", "--for", "1s"]).await;
    until_routed(&daemon, 200, "\"target\":\"r\"").await;
}
