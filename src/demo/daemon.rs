//! The daemon of the demo: this very program as a user would run it, and what it answers over HTTP.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::DemoError;
use super::servers::Servers;

/// What the daemon listens on by default, and here too unless somebody else does.
const PORT: u16 = 9732;

/// Above this the demo's rule holds.
pub(super) const THRESHOLD_S: f64 = 3.0;

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    pub(super) address: SocketAddr,
    log_file: PathBuf,
}

/// `/api/v1/clusters/demo`, as far as the demo shows it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct View {
    pub(super) targets: Vec<Target>,
    pub(super) alerts: Vec<Alert>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) role: Option<String>,
    pub(super) lag: Option<Lag>,
    /// What `/healthz` says of it, asked beside; `None` when there was no answer.
    #[serde(skip)]
    pub(super) may_be_read: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Lag {
    pub(super) seconds: Option<f64>,
    pub(super) certainty: String,
    pub(super) unreplayed_bytes: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Alert {
    pub(super) rule: String,
    pub(super) target: Option<String>,
    pub(super) state: String,
    pub(super) condition: String,
    pub(super) reading: Option<f64>,
}

impl View {
    pub(super) fn target(&self, name: &str) -> Option<&Target> {
        self.targets.iter().find(|target| target.name == name)
    }

    /// The lag of a target in seconds, while it is known.
    pub(super) fn lag(&self, name: &str) -> Option<f64> {
        self.target(name)?.lag.as_ref()?.seconds
    }

    /// The state of the demo's alert about a target; `None` while there is nothing to tell.
    pub(super) fn alert(&self, target: &str) -> Option<&Alert> {
        self.alerts.iter().find(|alert| alert.target.as_deref() == Some(target) && alert.rule == "ReplicaLagging")
    }
}

impl Daemon {
    /// Starts this program on a configuration for the demo's servers.
    pub(super) fn start(servers: &Servers) -> Result<Self, DemoError> {
        let io = |what, path: &PathBuf| {
            let path = path.clone();
            move |source| DemoError::Io { what, path, source }
        };
        let program = std::env::current_exe().map_err(io("find", &PathBuf::from("pgvigil")))?;
        let port = [PORT, 0].iter().find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).ok());
        let port = port.and_then(|listener| listener.local_addr().ok()).map_or(PORT, |address| address.port());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));

        let config_file = servers.dir.join("pgvigil.toml");
        std::fs::write(&config_file, config(servers, address)).map_err(io("write", &config_file))?;
        let log_file = servers.dir.join("pgvigil.log");
        let log = File::create(&log_file).map_err(io("write", &log_file))?;
        let errors = log.try_clone().map_err(io("write", &log_file))?;
        let child = Command::new(&program)
            .arg("run")
            .arg("--config")
            .arg(&config_file)
            // Nothing that the user has set for a daemon of their own may reach this one.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(io("run", &program))?;
        Ok(Self { child, address, log_file })
    }

    /// What it knows now: `None` while it does not answer.
    pub(super) async fn view(&mut self) -> Result<Option<View>, DemoError> {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return Err(DemoError::DaemonEnded { log: self.log() });
        }
        let Some((200, body)) = get(self.address, "/api/v1/clusters/demo").await else { return Ok(None) };
        let mut view: View = serde_json::from_str(&body).map_err(DemoError::Answer)?;
        for target in &mut view.targets {
            let health = get(self.address, &health_path(&target.name)).await;
            target.may_be_read = health.map(|(status, _)| status == 200);
        }
        Ok(Some(view))
    }

    /// Whether it has a page at this path.
    pub(super) async fn has(&self, path: &str) -> bool {
        matches!(get(self.address, path).await, Some((200, _)))
    }

    /// The last lines that it logged.
    pub(super) fn log(&self) -> String {
        let log = std::fs::read_to_string(&self.log_file).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

/// Where a load balancer would ask whether reads may go to a target.
pub(super) fn health_path(target: &str) -> String {
    let role = if target == "primary" { "&role=any" } else { "" };
    format!("/healthz/demo/{target}?max_lag={THRESHOLD_S}s{role}")
}

fn config(servers: &Servers, address: SocketAddr) -> String {
    let mut text = format!("[server]\nlisten = \"{address}\"\n\n[[cluster]]\nname = \"demo\"\n");
    for node in &servers.nodes {
        let (name, port) = (&node.name, node.port);
        text += &format!(
            "\n  [[cluster.target]]\n  name = \"{name}\"\n  dsn  = \"postgresql://mon:mon@127.0.0.1:{port}/postgres\"\n"
        );
    }
    // Everybody watches: what the log says need not wait for more.
    text + &format!(
        "\n[alerting]\ngroup_wait = \"0s\"\n\n[[rule]]\nname     = \"ReplicaLagging\"\nwhen     = \"replay_lag_seconds > {THRESHOLD_S}s\"\n\
         for      = \"3s\"\nseverity = \"warning\"\n"
    )
}

/// GET in the plainest way that HTTP has. `None` when there is no answer within two seconds.
async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        // HTTP/1.0: the answer ends with the connection, and is not sent in chunks.
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(2), ask).await.ok()?.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
