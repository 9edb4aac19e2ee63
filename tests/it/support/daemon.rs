//! The real daemon: the built binary on a configuration of the test's, listening on a free port.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::http::{self, Answer};
use super::process::Process;
use super::until;

/// How long a test waits for something that should be there at once.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A running daemon. Dropping it kills it.
pub(crate) struct Daemon {
    pub process: Process,
    /// For example `http://127.0.0.1:40123`.
    pub url: String,
    pub dir: tempfile::TempDir,
}

/// The built binary with nothing of our environment that it would read as configuration.
pub(crate) fn pgvigil() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgvigil"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["PG", "PGVIGIL_", "AWS_", "DATABASE_", "POSTGRES_", "DB_"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    // Daemons of tests run side by side: none may find what another kept.
    command.env("PGVIGIL_STORE__PATH", ":memory:");
    // Every change is told at once and by itself, unless a test is about that.
    for (key, value) in [("GROUP_BY", "alert"), ("GROUP_WAIT", "0s"), ("GROUP_INTERVAL", "0s"), ("FLAPPING", "0")] {
        command.env(format!("PGVIGIL_ALERTING__{key}"), value);
    }
    command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
    command
}

/// A `[[cluster]]` with these targets: name and DSN.
pub(crate) fn cluster_toml(name: &str, targets: &[(&str, String)]) -> String {
    let mut toml = format!("[[cluster]]\nname = \"{name}\"\n");
    for (target, dsn) in targets {
        toml.push_str(&format!("\n[[cluster.target]]\nname = \"{target}\"\ndsn = \"{dsn}\"\n"));
    }
    toml
}

impl Daemon {
    /// Starts the daemon on `config` (without `[server]`) and waits until it has tried every target once.
    pub(crate) async fn start(config: &str) -> Self {
        Self::start_with(config, |_| {}).await
    }

    /// As [`Daemon::start`], with a last word about the command: environment, options.
    pub(crate) async fn start_with(config: &str, adjust: impl FnOnce(&mut Command)) -> Self {
        Self::start_within(config, SOON, adjust).await
    }

    /// As [`Daemon::start_with`], of one that takes longer to be ready.
    pub(crate) async fn start_within(config: &str, patience: Duration, adjust: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pgvigil.toml");
        std::fs::write(&file, config).unwrap();
        let port = super::free_port();
        let mut command = pgvigil();
        command.arg("run").arg("--config").arg(&file);
        command.env("PGVIGIL_SERVER__LISTEN", format!("127.0.0.1:{port}"));
        adjust(&mut command);
        let mut daemon = Self { process: Process::start(command), url: format!("http://127.0.0.1:{port}"), dir };
        let start = pgvigil::clock::now();
        loop {
            // Where it asks who we are, a test sees for itself when it is ready.
            if matches!(daemon.get("/readyz").await, Ok(answer) if [200, 401].contains(&answer.status)) {
                return daemon;
            }
            let ended = daemon.process.try_wait();
            let took = pgvigil::clock::now().duration_since(start);
            assert!(ended.is_none() && took < patience, "the daemon ({ended:?}) is not ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer, String> {
        http::get(&format!("{}{path}", self.url)).await
    }

    /// The body of `/metrics`.
    pub(crate) async fn metrics(&self) -> String {
        let answer = self.get("/metrics").await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// The value of the one series of that name whose labels include all of `labels`. `None` when it is absent.
    pub(crate) async fn series(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        series(&self.metrics().await, name, labels)
    }

    /// Health of one target: status and body.
    pub(crate) async fn health(&self, cluster: &str, target: &str, query: &str) -> (u16, Value) {
        let answer = self.get(&format!("/healthz/{cluster}/{target}{query}")).await.unwrap();
        (answer.status, answer.json())
    }

    /// Waits until a series is as `accept` wants it.
    pub(crate) async fn until_series(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        patience: Duration,
        accept: impl Fn(Option<f64>) -> bool,
    ) -> Option<f64> {
        let accept = &accept;
        until(&format!("{name}{labels:?}"), patience, || async move {
            let value = self.series(name, labels).await;
            if accept(value) { Ok(value) } else { Err(format!("{value:?}")) }
        })
        .await
    }

    /// Waits until the log tells something: what a page shows may be logged a moment later.
    pub(crate) async fn until_log(&self, told: &str) {
        until(told, SOON, || async { if self.log().contains(told) { Ok(()) } else { Err(self.log()) } }).await;
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.process.output()
    }

    /// SIGTERM, then its exit code.
    pub(crate) async fn stop(mut self) -> Option<i32> {
        self.process.signal(Signal::TERM);
        self.process.wait(Duration::from_secs(15)).await.code()
    }
}

/// The value of the one series of that name whose labels include all of `labels`, in the text of `/metrics`.
pub(crate) fn series(metrics: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let found: Vec<&str> = metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|line| {
            labels.iter().all(|(label, value)| {
                [format!("{{{label}=\"{value}\""), format!(",{label}=\"{value}\"")]
                    .iter()
                    .any(|text| line.contains(text))
            })
        })
        .collect();
    assert!(found.len() <= 1, "more than one series {name}{labels:?}: {found:#?}");
    found.first().map(|line| {
        let value = line.rsplit(' ').next().unwrap();
        value.parse().unwrap_or_else(|_| panic!("not a number: {line}"))
    })
}
