//! Patroni's paths on real servers: who leads, whom commits wait for, how far a replica is behind.

use crate::support::daemon::{Daemon, SOON, cluster_toml};
use crate::support::{pg, until};

async fn until_answered(daemon: &Daemon, target: &str, expect: &[(&str, u16)]) {
    for (path, status) in expect {
        until(&format!("{target}/{path}"), SOON, || async {
            let got = daemon.get(&format!("/patroni/c/{target}/{path}")).await?;
            if got.status == *status { Ok(()) } else { Err(format!("{} {}", got.status, got.body)) }
        })
        .await;
    }
}

#[tokio::test]
async fn who_comes_from_patroni_finds_its_answers() {
    let servers = pg::cluster(2).await;
    let targets = ["primary", "r1", "r2"].map(|name| (name, pg::dsn(servers.node(name), "mon")));
    let daemon = Daemon::start(&cluster_toml("c", &targets)).await;
    until_answered(
        &daemon,
        "primary",
        &[
            ("", 200),
            ("primary", 200),
            ("leader", 200),
            ("replica", 503),
            ("read-only", 200),
            ("sync", 503),
            ("async", 503),
        ],
    )
    .await;
    let asynchronous = [
        ("replica?lag=16MB", 200),
        ("async", 200),
        ("sync", 503),
        ("quorum", 503),
        ("leader", 503),
        ("readiness", 200),
    ];
    until_answered(&daemon, "r1", &asynchronous).await;

    let wait_for = async |names: &str| {
        servers.primary().configure("synchronous_standby_names", names).unwrap();
        servers.primary().reload().await.unwrap();
    };
    wait_for("r1").await;
    until_answered(&daemon, "r1", &[("sync", 200), ("async", 503), ("read-only-sync", 200)]).await;
    until_answered(&daemon, "r2", &[("sync", 503), ("async", 200), ("read-only-sync", 503)]).await;
    wait_for("ANY 1 (r1, r2)").await;
    until_answered(&daemon, "r1", &[("quorum", 200), ("sync", 503), ("async", 503)]).await;
    until_answered(&daemon, "r2", &[("quorum", 200), ("read-only-quorum", 200)]).await;

    // What is received and not replayed counts for `apply`, and not for `write`.
    servers.node("r1").sql("SELECT pg_wal_replay_pause()").await.unwrap();
    pg::write(servers.primary()).await;
    until_answered(
        &daemon,
        "r1",
        &[
            ("replica?lag=1kB", 503),
            ("replica?lag=1GB", 200),
            ("readiness?lag=1kB", 503),
            ("readiness?mode=write&lag=1kB", 200),
        ],
    )
    .await;
    until_answered(&daemon, "r2", &[("replica?lag=1kB", 200)]).await;

    // A primary that is down waits for no standby, whatever it was configured to wait for.
    servers.primary().crash().await.unwrap();
    until_answered(&daemon, "primary", &[("leader", 503), ("health", 503), ("liveness", 200)]).await;
    until_answered(&daemon, "r2", &[("quorum", 503), ("sync", 503), ("replica", 200)]).await;
}
