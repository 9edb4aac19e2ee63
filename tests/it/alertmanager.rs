//! From a server's fault to what a real Alertmanager says of it, and to whom.

use std::path::Path;
use std::time::Duration;

use pgvigil::clock;
use pgvigil::demo::Servers;
use serde_json::{Value, json};

use crate::support::alertmanager::{Alertmanager, is_installed};
use crate::support::daemon::{Daemon, SOON, cluster_toml, series};
use crate::support::receiver::{Receiver, Request};
use crate::support::tls::Certificates;
use crate::support::{free_port, pg, until};

const FAMILY: &str = "pgvigil_notifications_total";

fn watching(servers: &Servers, notify: &str) -> String {
    let targets = pg::targets(&servers.nodes, "mon");
    cluster_toml("c", &targets)
        + "[[rule]]\nname = \"Down\"\nwhen = \"target_up == 0\"\nfor = \"1s\"\nseverity = \"critical\"\n"
        + notify
}

fn to(urls: &[&str]) -> String {
    format!("[[notify]]\ntype = \"alertmanager\"\nname = \"am\"\nurls = {urls:?}\nlabels = {{ site = \"eu\" }}\n")
}

async fn start(config: &str, store: &Path) -> Daemon {
    Daemon::start_with(config, |command| {
        command.env("PGVIGIL_STORE__PATH", store);
    })
    .await
}

/// What whoever the Alertmanager tells got: state and labels of each alert.
fn told(hook: &Receiver) -> Vec<(String, Value)> {
    let messages: Vec<Value> = hook.requests().iter().map(Request::json).collect();
    let alerts = messages.iter().flat_map(|message| message["alerts"].as_array().cloned().unwrap_or_default());
    alerts.map(|alert| (alert["status"].as_str().unwrap().to_owned(), alert["labels"].clone())).collect()
}

fn labels() -> Value {
    json!({ "alertname": "Down", "severity": "critical", "cluster": "c", "target": "r1", "site": "eu" })
}

/// Seconds since 1970 of a time that Alertmanager tells.
fn time(alert: &Value, key: &str) -> f64 {
    let time = humantime::parse_rfc3339(alert[key].as_str().unwrap()).unwrap();
    time.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

fn now() -> f64 {
    clock::wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

#[tokio::test]
async fn two_daemons_and_a_restart_make_one_alert_that_fires_once_and_resolves_once() {
    if !is_installed() {
        return;
    }
    let hook = Receiver::start().await;
    let alertmanager = Alertmanager::start(hook.port).await;
    let servers = pg::cluster(1).await;
    let config = watching(&servers, &to(&[&alertmanager.url]));
    let dir = tempfile::tempdir().unwrap();
    let (store, other_store) = (dir.path().join("state.db"), dir.path().join("other.db"));
    let daemon = start(&config, &store).await;
    let other = start(&config, &other_store).await;

    servers.node("r1").crash().await.unwrap();
    for daemon in [&daemon, &other] {
        daemon.until_series(FAMILY, &[("notifier", "am"), ("outcome", "ok")], SOON, |ok| ok >= Some(1.0)).await;
    }
    let fires = alertmanager.until_alerts(1, SOON).await.remove(0);
    assert_eq!(fires["labels"], labels());
    assert_eq!(fires["status"]["state"], "active");
    // It outlasts a restart of some minutes.
    assert!((540.0..660.0).contains(&(time(&fires, "endsAt") - now())), "{fires:#}");
    let summary = fires["annotations"]["summary"].as_str().unwrap();
    assert!(summary.starts_with("Down fires") && summary.contains("c/r1"), "{summary}");
    assert!(fires["annotations"]["description"].as_str().unwrap().contains("target_up == 0"), "{fires:#}");
    hook.until(1, SOON).await;

    // Killed, and started anew: it says at once what still fires, and nobody is told of it again.
    drop(daemon);
    let restarted_at = now();
    let daemon = start(&config, &store).await;
    let still_fires = until("the alert, sent again", SOON, || async {
        let alert = alertmanager.until_alerts(1, SOON).await.remove(0);
        if time(&alert, "updatedAt") > restarted_at { Ok(alert) } else { Err(format!("{alert:#}")) }
    })
    .await;
    assert_eq!((&still_fires["labels"], &still_fires["fingerprint"]), (&fires["labels"], &fires["fingerprint"]));
    assert!((time(&still_fires, "startsAt") - time(&fires, "startsAt")).abs() < 2.0, "{still_fires:#}");
    assert_eq!(told(&hook), [("firing".to_owned(), labels())]);

    servers.node("r1").start().await.unwrap();
    alertmanager.until_alerts(0, SOON).await;
    for daemon in [&daemon, &other] {
        daemon.until_series(FAMILY, &[("notifier", "am"), ("outcome", "ok")], SOON, |ok| ok >= Some(2.0)).await;
    }
    hook.until(2, SOON).await;
    let both = [("firing".to_owned(), labels()), ("resolved".to_owned(), labels())];
    assert_eq!(told(&hook), both);
    for daemon in [daemon, other] {
        let metrics = daemon.metrics().await;
        for outcome in ["transient", "unclear", "permanent"] {
            assert_eq!(series(&metrics, FAMILY, &[("notifier", "am"), ("outcome", outcome)]), Some(0.0), "{outcome}");
        }
        assert_eq!(daemon.stop().await, Some(0));
    }
    assert_eq!(told(&hook), both);
}

#[tokio::test]
async fn one_that_is_down_holds_up_no_other_and_one_that_forgot_everything_is_told_again() {
    if !is_installed() {
        return;
    }
    let hook = Receiver::start().await;
    let (first, second_port) = (Alertmanager::start(hook.port).await, free_port());
    let second_url = format!("http://127.0.0.1:{second_port}/am/");
    let servers = pg::cluster(1).await;
    let daemon = Daemon::start(&watching(&servers, &to(&[&second_url, &first.url]))).await;

    servers.node("r1").crash().await.unwrap();
    first.until_alerts(1, SOON).await;
    let series_of = |notifier: &'static str, outcome: &'static str| [("notifier", notifier), ("outcome", outcome)];
    daemon.until_series(FAMILY, &series_of("am/1", "transient"), SOON, |failed| failed >= Some(2.0)).await;
    assert_eq!(daemon.series(FAMILY, &series_of("am/2", "transient")).await, Some(0.0));
    let log = daemon.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("cannot tell am/1")).collect();
    assert_eq!(lines.len(), 1, "{log}");

    // It is told late, and all the same.
    let second = Alertmanager::start_at(second_port, hook.port, "").await;
    second.until_alerts(1, SOON).await;
    until("the log", SOON, || async {
        if daemon.log().contains("am/1 takes notices again") { Ok(()) } else { Err(daemon.log()) }
    })
    .await;

    // An Alertmanager keeps no alerts over a restart.
    let port = first.port;
    drop(first);
    let first = Alertmanager::start_at(port, hook.port, "").await;
    let patience = Duration::from_secs(60) + SOON;
    assert_eq!(first.until_alerts(1, patience).await[0]["labels"], labels());

    servers.node("r1").start().await.unwrap();
    first.until_alerts(0, SOON).await;
    second.until_alerts(0, SOON).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn an_alertmanager_behind_tls_asks_for_a_certificate_and_a_password() {
    if !is_installed() {
        return;
    }
    let hook = Receiver::start().await;
    let certificates = Certificates::make();
    let path = |file: &str| certificates.path(file).display().to_string();
    // The password is "pass".
    let web = format!(
        "tls_server_config:\n  cert_file: {}\n  key_file: {}\n  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: {}\n\
         basic_auth_users: {{user: '$2b$05$abcdefghijklmnopqrstuuZFBUbfXoM8LFiPx8LYlO/sXZB/Cwk3K'}}\n",
        path("server.crt"),
        path("server.key"),
        path("ca.crt")
    );
    let alertmanager = Alertmanager::start_at(free_port(), hook.port, &web).await;
    let servers = pg::cluster(1).await;
    let url = format!("https://localhost:{}/am", alertmanager.port);
    let notify = |password: &str| {
        let files = format!(
            "ca_file = {:?}\ncert_file = {:?}\nkey_file = {:?}\n",
            path("ca.crt"),
            path("client.crt"),
            path("client.key")
        );
        to(&[&url]) + &files + &format!("username = \"user\"\npassword = \"{password}\"\n")
    };
    let daemon = Daemon::start(&watching(&servers, &notify("pass"))).await;
    let stranger = Daemon::start(&watching(&servers, &notify("s3cr3t"))).await;
    servers.node("r1").crash().await.unwrap();
    hook.until(1, SOON).await;
    assert_eq!(told(&hook), [("firing".to_owned(), labels())]);
    daemon.until_series(FAMILY, &[("notifier", "am"), ("outcome", "ok")], SOON, |ok| ok >= Some(1.0)).await;
    stranger.until_series(FAMILY, &[("outcome", "permanent")], SOON, |refused| refused >= Some(1.0)).await;
    let log = stranger.log();
    assert!(log.contains(&format!("https://localhost:{} answered 401 Unauthorized", alertmanager.port)), "{log}");
    assert!(!log.contains("s3cr3t"), "{log}");
    for daemon in [daemon, stranger] {
        assert_eq!(daemon.stop().await, Some(0));
    }
}
