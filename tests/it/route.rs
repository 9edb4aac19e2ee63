//! Which server to read from, of real servers.

use std::path::Path;
use std::process::{Command, Stdio};

use pgvigil::demo::Servers;
use serde_json::Value;

use crate::support::daemon::{Daemon, SOON, cluster_toml};
use crate::support::{http, pg, until};

async fn start(servers: &Servers, poll: &str) -> Daemon {
    let dsn = |name| pg::dsn(servers.node(name), "mon");
    let targets = [("primary", dsn("primary")), ("r1", dsn("r1")), ("r2", dsn("r2"))];
    Daemon::start(&format!("[poll]\n{poll}\n{}", cluster_toml("orders", &targets))).await
}

async fn route(daemon: &Daemon, query: &str) -> (u16, Value) {
    let answer = daemon.get(&format!("/api/v1/clusters/orders/route?{query}")).await.unwrap();
    (answer.status, answer.json())
}

#[tokio::test]
async fn a_write_is_read_where_it_is_replayed_and_nowhere_else() {
    let servers = pg::cluster(2).await;
    let daemon = start(&servers, "interval = \"200ms\"").await;
    let pause = async |name| servers.node(name).sql("SELECT pg_wal_replay_pause()").await.unwrap();
    pause("r1").await;
    let lsn = pg::write(servers.primary()).await;
    let (status, found) = route(&daemon, &format!("lsn={lsn}&wait=9s")).await;
    assert_eq!((status, &found["target"]), (200, &"r2".into()), "{found}");
    assert_eq!(found["port"], servers.node("r2").port);

    pause("r2").await;
    let lsn = pg::write(servers.primary()).await;
    let (status, none) = route(&daemon, &format!("lsn={lsn}")).await;
    assert!(status == 503 && none["reasons"].to_string().contains("r1: it has replayed up to"), "{none}");
    let (status, primary) = route(&daemon, &format!("lsn={lsn}&fallback=primary")).await;
    assert_eq!((status, &primary["target"], &primary["fallback"]), (200, &"primary".into(), &true.into()));
    // Somebody waits, and is answered as soon as a replica has it.
    let url = format!("{}/api/v1/clusters/orders/route?lsn={lsn}&wait=9s", daemon.url);
    let waiting = tokio::spawn(async move { http::get(&url).await.unwrap() });
    servers.node("r1").sql("SELECT pg_wal_replay_resume()").await.unwrap();
    let answer = waiting.await.unwrap();
    assert_eq!((answer.status, &answer.json()["target"]), (200, &"r1".into()), "{answer:?}");

    // After a failover nothing is said of the old timeline, and the fallback tells the new one.
    servers.node("r1").promote().await.unwrap();
    servers.primary().stop().await.unwrap();
    until("the new primary", SOON, || async {
        let (_, found) = route(&daemon, &format!("lsn={lsn}&timeline=1&fallback=primary")).await;
        let is_told = found["target"] == "r1" && found["fallback"] == true && found["timeline"] == 2;
        if is_told { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn a_burst_has_the_sample_come_while_somebody_waits() {
    let servers = pg::cluster(2).await;
    // The next regular beats are minutes away.
    let daemon = start(&servers, "interval = \"5m\"\nslow_interval = \"5m\"\nburst = \"100ms\"").await;
    for _ in 0..3 {
        let lsn = pg::write(servers.primary()).await;
        let (status, found) = route(&daemon, &format!("lsn={lsn}&wait=9s")).await;
        assert!(status == 200 && found["fallback"] == false, "{found}");
    }
}

#[tokio::test]
async fn a_list_for_dns_and_poolers_has_the_servers_that_are_in() {
    let servers = pg::cluster(2).await;
    let daemon = start(&servers, "interval = \"200ms\"").await;
    let list = async |format: &'static str| {
        let mut command = Command::new("python3");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/routing/replicas.py"));
        command.args([&daemon.url, "orders", "--max-lag", "1h", "--name", "reads", "--format", format]);
        command.stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    };
    let [r1, r2] = ["r1", "r2"].map(|name| servers.node(name).port);
    let lines = format!("127.0.0.1:{r1}\n127.0.0.1:{r2}\n");
    until("both replicas", SOON, || async {
        let told = list("lines").await?;
        if told == lines { Ok(()) } else { Err(told) }
    })
    .await;
    assert_eq!(list("hosts").await.unwrap(), "127.0.0.1 reads\n127.0.0.1 reads\n");
    let pgcat = format!("servers = [[\"127.0.0.1\", {r1}, \"replica\"], [\"127.0.0.1\", {r2}, \"replica\"]]\n");
    assert_eq!(list("pgcat").await.unwrap(), pgcat);
    assert!(list("pgdog").await.unwrap().contains(&format!("host = \"127.0.0.1\"\nport = {r1}\nrole = \"replica\"")));
}
