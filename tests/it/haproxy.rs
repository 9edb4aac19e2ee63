//! A real `HAProxy` before three real servers, on the configuration that we show.

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use pgvigil::demo::Servers;

use crate::support::daemon::{Daemon, SOON, cluster_toml};
use crate::support::haproxy::HaProxy;
use crate::support::{free_port, http, pg, until};

const TOKEN: &str = "0123456789abcdef-of-a-test";

/// Long enough for checks of a second on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// As `HAProxy` calls a server that its agent told to drain.
const DRAINS: &str = "DRAIN (agent)";

/// The servers, the daemon, and `HAProxy` with its three ports: writes, reads, reads by share.
struct Rig {
    servers: Servers,
    daemon: Daemon,
    haproxy: HaProxy,
    writes: u16,
    reads: u16,
    by_share: u16,
}

async fn start() -> Option<Rig> {
    let servers = pg::cluster(2).await;
    let agent = free_port();
    let dsn = |name| pg::dsn(servers.node(name), "mon");
    let targets = [("primary", dsn("primary")), ("r1", dsn("r1")), ("r2", dsn("r2"))];
    let config = format!(
        "[server]\ntoken = \"{TOKEN}\"\n[poll]\ninterval = \"200ms\"\n[agent_check]\nlisten = \"127.0.0.1:{agent}\"\n\
         leave_at = \"5s\"\nreturn_at = \"2s\"\ndwell = \"0s\"\n{}",
        cluster_toml("orders", &targets)
    );
    let daemon = Daemon::start(&config).await;
    let port = daemon.url.rsplit(':').next().unwrap().to_owned();
    let [writes, reads, by_share] = [free_port(), free_port(), free_port()];
    let shown = include_str!("../../config/routing/haproxy.cfg");
    let mut shown = shown.replace("port 9732", &format!("port {port}")).replace("port 9733", &format!("port {agent}"));
    for (bind, at) in [(5000, writes), (5001, reads), (5002, by_share)] {
        shown = shown.replace(&format!("bind 127.0.0.1:{bind}"), &format!("bind 127.0.0.1:{at}"));
    }
    for (address, name) in [("10.0.0.1", "primary"), ("10.0.0.2", "r1"), ("10.0.0.3", "r2")] {
        shown = shown.replace(&format!("{address}:5432"), &format!("127.0.0.1:{}", servers.node(name).port));
    }
    let haproxy = HaProxy::start(&shown).await?;
    Some(Rig { servers, daemon, haproxy, writes, reads, by_share })
}

impl Rig {
    /// The server that a new session through a port of `HAProxy` lands on.
    async fn lands_on(&self, port: u16) -> Result<String, String> {
        let query = async move || {
            let mut command = Command::new("psql");
            command.args(["-XAtqc", "SELECT current_setting('port')"]).stdin(Stdio::null());
            command.arg(format!("{}?connect_timeout=5&sslmode=disable", pg::dsn_at(port, "mon")));
            tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
        };
        let output = query().await;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let port: u16 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        let node = self.servers.nodes.iter().find(|node| node.port == port).unwrap();
        Ok(node.name.clone())
    }

    /// Where so many sessions in a row land.
    async fn landings(&self, port: u16, n_sessions: usize) -> Vec<String> {
        let mut landed = Vec::new();
        for _ in 0..n_sessions {
            landed.push(self.lands_on(port).await.unwrap());
        }
        landed
    }

    async fn until_seen(&self, backend: &str, server: &str, status: &str) {
        self.haproxy.until_seen(backend, server, PATIENCE, status).await;
    }

    async fn until_lands_on(&self, port: u16, server: &str) {
        until(&format!("a session on {server}"), PATIENCE, || async {
            let landed = self.lands_on(port).await?;
            if landed == server { Ok(()) } else { Err(landed) }
        })
        .await;
    }

    async fn drain(&self, method: &str, path: &str, body: Option<&str>) {
        let bearer = format!("Bearer {TOKEN}");
        let url = format!("{}{path}", self.daemon.url);
        let answer = http::request(method, &url, &[("authorization", &bearer)], body).await.unwrap();
        assert!([200, 201].contains(&answer.status), "{answer:?}");
    }
}

#[tokio::test]
async fn reads_leave_a_replica_that_lags_and_come_back() {
    let Some(rig) = start().await else { return };
    for (backend, server) in
        [("reads", "r1"), ("reads", "r2"), ("reads-by-share", "r1"), ("reads-by-share", "r2"), ("writes", "primary")]
    {
        rig.until_seen(backend, server, "UP").await;
    }
    rig.until_seen("writes", "r1", "DOWN").await;
    assert_eq!(rig.landings(rig.writes, 3).await, ["primary"; 3]);
    for port in [rig.reads, rig.by_share] {
        rig.until_lands_on(port, "r1").await;
        rig.until_lands_on(port, "r2").await;
    }

    // Replay is paused: the share goes down, and then the replica is out, and nobody comes to it.
    rig.servers.node("r1").sql("SELECT pg_wal_replay_pause()").await.unwrap();
    pg::write(rig.servers.primary()).await;
    let shares = Mutex::new(Vec::new());
    until("r1 to drain", PATIENCE, || async {
        let seen = rig.haproxy.seen("reads-by-share", "r1").await?;
        if seen.status == DRAINS {
            return Ok(());
        }
        shares.lock().unwrap().push(seen.weight);
        Err(format!("{seen:?}"))
    })
    .await;
    let shares = shares.into_inner().unwrap();
    assert!(shares.is_sorted_by(|before, after| before >= after), "{shares:?}");
    rig.until_seen("reads", "r1", "DOWN").await;
    for port in [rig.reads, rig.by_share] {
        assert_eq!(rig.landings(port, 6).await, ["r2"; 6]);
    }
    rig.servers.node("r1").sql("SELECT pg_wal_replay_resume()").await.unwrap();
    rig.until_seen("reads", "r1", "UP").await;
    rig.until_seen("reads-by-share", "r1", "UP").await;
    for port in [rig.reads, rig.by_share] {
        rig.until_lands_on(port, "r1").await;
    }

    // Drained by hand.
    let body = "{\"target\": \"r2\", \"for\": \"1h\", \"author\": \"ada\"}";
    rig.drain("POST", "/api/v1/drains", Some(body)).await;
    rig.until_seen("reads", "r2", "DOWN").await;
    rig.until_seen("reads-by-share", "r2", DRAINS).await;
    for port in [rig.reads, rig.by_share] {
        assert_eq!(rig.landings(port, 4).await, ["r1"; 4]);
    }
    rig.drain("DELETE", "/api/v1/drains/orders/r2", None).await;
    rig.until_seen("reads", "r2", "UP").await;
    rig.until_seen("reads-by-share", "r2", "UP").await;

    // A replica that is gone, and is back.
    rig.servers.node("r1").stop().await.unwrap();
    rig.until_seen("reads", "r1", "DOWN").await;
    assert_eq!(rig.landings(rig.reads, 3).await, ["r2"; 3]);
    rig.servers.node("r1").start().await.unwrap();
    rig.until_seen("reads", "r1", "UP").await;
    rig.until_seen("reads-by-share", "r1", "UP").await;
}

#[tokio::test]
async fn without_the_daemon_reads_go_on_as_the_example_says() {
    let Some(rig) = start().await else { return };
    for (backend, server) in [("reads", "r1"), ("reads", "r2"), ("reads-by-share", "r1"), ("reads-by-share", "r2")] {
        rig.until_seen(backend, server, "UP").await;
    }
    rig.until_seen("writes", "primary", "UP").await;
    rig.until_seen("alive", "primary", "UP").await;
    let Rig { servers, mut daemon, haproxy, writes, reads, by_share } = rig;
    daemon.process.signal(rustix::process::Signal::KILL);
    daemon.process.wait(SOON).await;
    let rig = Rig { servers, daemon, haproxy, writes, reads, by_share };
    for server in ["r1", "r2"] {
        rig.until_seen("reads", server, "DOWN").await;
    }
    rig.until_seen("writes", "primary", "DOWN").await;
    // In or out: the primary serves reads. Writes are refused. By share: as before.
    assert_eq!(rig.landings(rig.reads, 3).await, ["primary"; 3]);
    assert!(rig.lands_on(rig.writes).await.is_err());
    rig.until_lands_on(rig.by_share, "r1").await;
    rig.until_lands_on(rig.by_share, "r2").await;
}
