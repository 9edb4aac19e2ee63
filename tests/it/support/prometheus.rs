//! A real Prometheus that scrapes the daemon, and the linter of its format.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::http;
use super::process::Process;
use super::until;

/// A running Prometheus. Dropping it kills it.
pub(crate) struct Prometheus {
    pub process: Process,
    pub url: String,
    dir: tempfile::TempDir,
}

fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

impl Prometheus {
    /// Starts one that scrapes `target` (an address, `/metrics`) each second and judges by our rules, or says that it is missing.
    pub(crate) async fn start(target: &str) -> Option<Self> {
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards/prometheus-rules.yml");
        let scrape = format!("- job_name: pgvigil\n  static_configs: [{{targets: ['{target}']}}]\n");
        Self::start_with(&scrape, &rules).await
    }

    /// Starts one with these `scrape_configs`, each second, and the rules of a file, or says that it is missing.
    pub(crate) async fn start_with(scrape_configs: &str, rules: &Path) -> Option<Self> {
        if !installed("prometheus") {
            super::missing("prometheus");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: ['{}']\nscrape_configs:\n{scrape_configs}",
            rules.display()
        );
        std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let port = super::free_port();
        let mut command = Command::new("prometheus");
        command.arg("--config.file=prometheus.yml").arg("--storage.tsdb.path=data").current_dir(dir.path());
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let prometheus = Self { process: Process::start(command), url: format!("http://127.0.0.1:{port}"), dir };
        let ready = format!("{}/-/ready", prometheus.url);
        until("Prometheus", Duration::from_secs(30), || async {
            let answer = http::get(&ready).await?;
            if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
        Some(prometheus)
    }

    /// The result of an instant query: labels and value of each series.
    pub(crate) async fn query(&self, promql: &str) -> Vec<(Value, f64)> {
        let answer = http::get(&format!("{}/api/v1/query?query={}", self.url, http::encode(promql))).await.unwrap();
        let json = answer.json();
        assert_eq!(json["status"], "success", "{promql}: {json}");
        let result = json["data"]["result"].as_array().cloned().unwrap_or_default();
        result
            .into_iter()
            .map(|series| (series["metric"].clone(), series["value"][1].as_str().unwrap().parse().unwrap()))
            .collect()
    }

    /// The rules that it has loaded, with how it fares with each.
    pub(crate) async fn rules(&self) -> Vec<Value> {
        let json = http::get(&format!("{}/api/v1/rules", self.url)).await.unwrap().json();
        let groups = json["data"]["groups"].as_array().cloned().unwrap_or_default();
        groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect()
    }

    /// Waits until a query has a result, and gives it.
    pub(crate) async fn until_result(&self, promql: &str, patience: Duration) -> Vec<(Value, f64)> {
        until(promql, patience, || async {
            let result = self.query(promql).await;
            if result.is_empty() { Err("no result".to_owned()) } else { Ok(result) }
        })
        .await
    }
}

/// What `promtool check metrics` finds in the text of a `/metrics`; empty when all is well.
pub(crate) fn lint(metrics: &str) -> String {
    if !installed("promtool") {
        super::missing("promtool");
        return String::new();
    }
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let found = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() || !found.trim().is_empty(), "promtool failed without a word");
    found.trim().to_owned()
}
