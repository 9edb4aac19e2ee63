//! The port that `HAProxy`'s agent checks ask: a line names a target, a line says what it is worth. Answers come from the
//! last published snapshot, as those of [`crate::http`] do.
//!
//! Clients are held to limits: so many at once, a short line, little time for all of it. One that keeps to none of them
//! costs its own place for that time.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::clock;
use crate::core::agent::{Gates, Thresholds, Word};
use crate::core::health::HealthConfig;
use crate::core::snapshot::Snapshot;

/// `[agent_check]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// One port for all targets: `agent-send "cluster/target\n"`.
    pub listen: Option<Address>,
    /// A replica with more lag than this leaves.
    #[serde(deserialize_with = "duration")]
    pub leave_at: Duration,
    /// With no more lag than this it returns.
    #[serde(deserialize_with = "duration")]
    pub return_at: Duration,
    /// It stays in, or out, for as long as this at least.
    #[serde(deserialize_with = "duration")]
    pub dwell: Duration,
    /// Ports of one target each.
    pub port: Vec<PortConfig>,
}

/// `[[agent_check.port]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    pub listen: Address,
    /// `cluster/target`.
    pub target: String,
}

/// Address and port to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|_| {
            D::Error::custom(format!("{text:?} is not an address and a port; write for example \"127.0.0.1:9733\""))
        })
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .map_err(|_| D::Error::custom(format!("{text:?} is not a duration; write for example \"10s\" or \"1m 30s\"")))
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            listen: None,
            leave_at: Duration::from_secs(10),
            return_at: Duration::from_secs(5),
            dwell: Duration::from_secs(10),
            port: Vec::new(),
        }
    }
}

impl AgentConfig {
    pub fn thresholds(&self) -> Thresholds {
        Thresholds { leave_at: self.leave_at, return_at: self.return_at, dwell: self.dwell }
    }

    /// Where to listen, each with the one target that is asked for there.
    pub fn addresses(&self) -> Vec<(SocketAddr, Option<String>)> {
        let all = self.listen.map(|Address(address)| (address, None));
        let each = self.port.iter().map(|port| (port.listen.0, Some(port.target.clone())));
        all.into_iter().chain(each).collect()
    }
}

/// Clients at once, on each port.
const MOST_CLIENTS: usize = 64;

/// Time for the line that names a target.
const LINE_TIMEOUT: Duration = Duration::from_secs(1);

/// Time for all of it.
const TIMEOUT: Duration = Duration::from_secs(3);

/// More than two names take.
const LONGEST_LINE: usize = 256;

/// Pause after a failure to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answers are made from.
#[derive(Debug)]
pub struct Agent {
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub health: HealthConfig,
    pub thresholds: Thresholds,
    pub gates: Mutex<Gates>,
}

/// Answers until `cancel`. With a `target`, that one is meant whatever the line says.
pub async fn serve(listener: TcpListener, target: Option<String>, agent: Arc<Agent>, cancel: CancellationToken) {
    let mut conversations = FuturesUnordered::new();
    loop {
        let has_room = conversations.len() < MOST_CLIENTS;
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            Some(()) = conversations.next() => {}
            accepted = listener.accept(), if has_room => match accepted {
                Ok((stream, _)) => conversations.push(attend(stream, target.as_deref(), &agent)),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    warn!(%error, "cannot accept connections of agent checks; trying on");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn attend(stream: TcpStream, target: Option<&str>, agent: &Agent) {
    match timeout(TIMEOUT, converse(stream, target, agent)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "an agent check ended early"),
        Err(_) => debug!("an agent check took too long"),
    }
}

async fn converse(mut stream: TcpStream, target: Option<&str>, agent: &Agent) -> io::Result<()> {
    let word = match target {
        Some(target) => agent.word(target),
        None => match timeout(LINE_TIMEOUT, line(&mut stream)).await {
            Ok(line) => line?.map_or_else(unasked, |line| agent.word(line.trim())),
            Err(_) => unasked(),
        },
    };
    stream.write_all(word.to_string().as_bytes()).await?;
    stream.shutdown().await?;
    // What was sent and not read would have the kernel take the answer back.
    let mut rest = [0; LONGEST_LINE];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// The first line. `None` when there is none, or no end to it.
async fn line(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut bytes = Vec::with_capacity(LONGEST_LINE);
    let mut piece = [0; LONGEST_LINE];
    while bytes.len() < LONGEST_LINE {
        let n_read = stream.read(&mut piece).await?;
        bytes.extend_from_slice(&piece[..n_read]);
        if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            return Ok(String::from_utf8(bytes[..end].to_vec()).ok());
        }
        if n_read == 0 {
            // One that ends its side instead of its line.
            return Ok(String::from_utf8(bytes).ok().filter(|line| !line.is_empty()));
        }
    }
    Ok(None)
}

fn unasked() -> Word {
    Word::Down("no target was named: write agent-send \"cluster/target\\n\"".to_owned())
}

impl Agent {
    fn word(&self, name: &str) -> Word {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let found = name.split_once('/').and_then(|(cluster, target)| {
            let cluster = snapshot.cluster(cluster)?;
            Some((cluster, cluster.target(target)?))
        });
        let Some((cluster, target)) = found else {
            return Word::Down(format!("no target {name} is configured"));
        };
        // Nothing panics while it is held; if something did, what is in it would still be true.
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.word(cluster, target, clock::now(), self.thresholds, self.health)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fixture;

    async fn started(target: Option<&str>) -> SocketAddr {
        let cluster = fixture::cluster("orders", fixture::orders(), Vec::new());
        let snapshot = fixture::moved_to(fixture::snapshot(vec![cluster]), clock::now());
        let (_, snapshots) = watch::channel(Arc::new(snapshot));
        let (health, thresholds) = (HealthConfig::default(), AgentConfig::default().thresholds());
        let agent = Arc::new(Agent { snapshots, health, thresholds, gates: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, target.map(str::to_owned), agent, CancellationToken::new()));
        address
    }

    async fn answer(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn ask(address: SocketAddr, question: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(question).await.unwrap();
        answer(stream).await
    }

    #[tokio::test]
    async fn one_port_serves_all_by_the_line_that_is_sent() {
        let address = started(None).await;
        assert_eq!(ask(address, b"orders/replica-1\n").await, "ready up 99%\n");
        assert_eq!(ask(address, b"orders/primary\r\n").await, "ready up 100%\n");
        assert_eq!(ask(address, b"orders/nobody\n").await, "down #no target orders/nobody is configured\n");
        assert_eq!(ask(address, b"x\n").await, "down #no target x is configured\n");
        assert!(ask(address, b"\xff\n").await.starts_with("down #no target was named"));
        // Nothing is sent: HAProxy without agent-send.
        assert!(ask(address, b"").await.starts_with("down #no target was named"));
    }

    #[tokio::test]
    async fn a_port_of_its_own_needs_no_line() {
        let address = started(Some("orders/replica-1")).await;
        assert_eq!(ask(address, b"").await, "ready up 99%\n");
        assert_eq!(ask(address, b"orders/primary\n").await, "ready up 99%\n");
    }

    #[tokio::test]
    async fn clients_that_never_end_are_let_go_and_hold_up_no_other() {
        let address = started(None).await;
        let mut idle = Vec::new();
        for _ in 0..MOST_CLIENTS - 1 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut endless = TcpStream::connect(address).await.unwrap();
        let line = tokio::spawn(async move {
            // Refused at the latest when it was let go.
            while endless.write_all(&[b'a'; 1024]).await.is_ok() {}
        });
        // All places are taken: this one has to wait until theirs are given back, and no longer.
        let asked = tokio::time::timeout(Duration::from_secs(30), ask(address, b"orders/primary\n")).await;
        assert_eq!(asked.as_deref(), Ok("ready up 100%\n"));
        tokio::time::timeout(Duration::from_secs(30), line).await.unwrap().unwrap();
        for stream in idle {
            assert!(answer(stream).await.starts_with("down #no target was named"));
        }
    }
}
