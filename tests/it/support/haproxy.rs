//! A real `HAProxy`, asked by its statistics socket.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::process::Process;
use super::until;

/// A running `HAProxy`. Dropping it kills it.
pub(crate) struct HaProxy {
    pub process: Process,
    socket: PathBuf,
    dir: tempfile::TempDir,
}

/// One server as a backend sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// `UP`, `DOWN`, `DRAIN`, `UP 1/2`, `no check`, ...
    pub status: String,
    /// 100 is its full share.
    pub weight: u32,
}

impl HaProxy {
    /// Starts one on `config`, or says that it is missing.
    pub(crate) async fn start(config: &str) -> Option<Self> {
        let program = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy", "/opt/homebrew/bin/haproxy"];
        let Some(program) = program.into_iter().find(|program| std::path::Path::new(program).exists()) else {
            super::missing("haproxy");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let (file, socket) = (dir.path().join("haproxy.cfg"), dir.path().join("stats.sock"));
        let config = config.replacen("global\n", &format!("global\n    stats socket {}\n", socket.display()), 1);
        std::fs::write(&file, config).unwrap();
        let checked = Command::new(program).arg("-c").arg("-f").arg(&file).stdin(Stdio::null()).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        let mut command = Command::new(program);
        command.arg("-db").arg("-f").arg(&file);
        let haproxy = Self { process: Process::start(command), socket, dir };
        until("HAProxy", Duration::from_secs(20), || async { haproxy.servers().await.map(drop) }).await;
        Some(haproxy)
    }

    /// Every server of every backend.
    async fn servers(&self) -> Result<Vec<(String, String, Seen)>, String> {
        let mut stream = UnixStream::connect(&self.socket).await.map_err(|error| error.to_string())?;
        stream.write_all(b"show stat\n").await.map_err(|error| error.to_string())?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
        let rows = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(',').collect::<Vec<_>>());
        let servers = rows.filter(|row| row.len() > 18 && !["FRONTEND", "BACKEND"].contains(&row[1])).map(|row| {
            let seen = Seen { status: row[17].to_owned(), weight: row[18].parse().unwrap_or_default() };
            (row[0].to_owned(), row[1].to_owned(), seen)
        });
        Ok(servers.collect())
    }

    /// How a server is seen.
    pub(crate) async fn seen(&self, backend: &str, server: &str) -> Result<Seen, String> {
        let servers = self.servers().await?;
        let found = servers.into_iter().find(|(of, name, _)| of == backend && name == server);
        found.map(|(_, _, seen)| seen).ok_or_else(|| format!("no {backend}/{server}"))
    }

    /// Waits until a server has this status.
    pub(crate) async fn until_seen(&self, backend: &str, server: &str, patience: Duration, status: &str) {
        until(&format!("{backend}/{server} to be {status}"), patience, || async {
            let seen = self.seen(backend, server).await?;
            if seen.status == status { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    }
}
