//! A real Alertmanager.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::process::Process;
use super::{http, until};

const PROGRAM: &str = "prometheus-alertmanager";

/// A running Alertmanager. Dropping it kills it.
pub(crate) struct Alertmanager {
    pub process: Process,
    /// With the path prefix that it serves below.
    pub url: String,
    pub port: u16,
    _dir: tempfile::TempDir,
}

/// Says that it is missing, if it is.
pub(crate) fn is_installed() -> bool {
    let found = Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        super::missing("prometheus-alertmanager");
    }
    found
}

impl Alertmanager {
    /// Starts one that tells `hook` (a port of loopback) of each alert on its own, within a second or two.
    pub(crate) async fn start(hook: u16) -> Self {
        Self::start_at(super::free_port(), hook, "").await
    }

    /// As [`Alertmanager::start`], on a port and with lines of its `--web.config.file`.
    pub(crate) async fn start_at(port: u16, hook: u16, web: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "route: {{receiver: hook, group_by: ['...'], group_wait: 1s, group_interval: 1s, repeat_interval: 1h}}\n\
             receivers:\n- name: hook\n  webhook_configs: [{{url: 'http://127.0.0.1:{hook}/', send_resolved: true}}]\n"
        );
        std::fs::write(dir.path().join("config.yml"), config).unwrap();
        std::fs::write(dir.path().join("web.yml"), web).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("--config.file=config.yml").arg("--storage.path=data").arg("--cluster.listen-address=");
        command.arg("--web.config.file=web.yml").arg("--web.route-prefix=/am");
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).current_dir(dir.path());
        let url = format!("http://127.0.0.1:{port}/am");
        let alertmanager = Self { process: Process::start(command), url, port, _dir: dir };
        let ready = format!("{}/-/ready", alertmanager.url);
        until("Alertmanager", Duration::from_secs(30), || async {
            // Behind TLS or a password it is ready when it says no.
            let answer = http::get(&ready).await?;
            if answer.status == 200 || !web.is_empty() { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
        alertmanager
    }

    /// All that fires, by its own word.
    pub(crate) async fn alerts(&self) -> Vec<Value> {
        let answer = http::get(&format!("{}/api/v2/alerts", self.url)).await.unwrap();
        answer.json().as_array().cloned().unwrap_or_default()
    }

    /// Waits until so many alerts fire, and gives them.
    pub(crate) async fn until_alerts(&self, count: usize, patience: Duration) -> Vec<Value> {
        until(&format!("{count} alerts"), patience, || async {
            let alerts = self.alerts().await;
            if alerts.len() == count { Ok(alerts) } else { Err(format!("{alerts:#?}")) }
        })
        .await
    }
}
