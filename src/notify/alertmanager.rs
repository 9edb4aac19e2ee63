//! Alerts to Prometheus' Alertmanager, by its API of version 2.
//!
//! An Alertmanager keeps no alerts over a restart and takes one that it no longer hears of for resolved. So it is sent all
//! that it was told and still fires, again and again ([`Purpose::Standing`]), each time with an end that lies well ahead: it
//! outlasts a restart of this daemon, and lasts while readings are unknown. What resolved is sent with its true end.
//!
//! Each address is a notifier of its own, with its own lines in the ledger, so that one that is away holds up no other. To one
//! address all that waits goes in one request, in its order, and one at a time: "resolved" cannot be overtaken.
//!
//! Labels are what an alert is known by, so they are the same from every daemon that watches the same servers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::client::{Client, Endpoint, Failure, Identity, Refusal, Secret, TlsFiles, default_timeout, timeout};
use super::message::{self, Message, Shape};
use crate::clock;
use crate::core::alert::{AlertId, Phase, Severity};
use crate::core::ledger::{Entry, Notice, Purpose, SendFailure};
use crate::core::rule::OneOrMany;

const PATH: &str = "/api/v2/alerts";
/// A firing alert ends by itself after so long without a word: ten times as long as it is until the next.
const HOLDS: Duration = Duration::from_secs(10 * 60);
/// Beyond three beats of the heart, for one that is late.
const TO_SPARE: Duration = Duration::from_secs(30);
/// Alerts in one request. A fleet in trouble has thousands.
const CHUNK: usize = 500;
/// Requests to find the alerts in a chunk that are refused.
const MOST_REQUESTS: usize = 64;
/// Notices that are told in one go.
pub(super) const BATCH: usize = 64;

/// Labels that are ours to set.
const OWN: [&str; 4] = ["alertname", "severity", "cluster", "target"];

/// `[[notify]] type = "alertmanager"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What it is called in logs and metrics. With several addresses each has its number behind a slash.
    #[serde(default)]
    pub name: Option<String>,
    /// Which alerts it is told of: those of these severities, clusters and rules. Not set: of all.
    #[serde(default)]
    pub severity: OneOrMany,
    #[serde(default)]
    pub cluster: OneOrMany,
    #[serde(default)]
    pub rule: OneOrMany,
    /// Each of them gets all alerts.
    pub urls: Vec<Secret>,
    /// Beside the labels of each alert, for routing.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether readers may see addresses of clients.
    #[serde(default)]
    pub include_sensitive: bool,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub password: Option<Secret>,
    #[serde(default)]
    pub bearer_token: Option<Secret>,
    /// PEM: authorities that may have issued the server's certificate, instead of the machine's own store.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// PEM: a certificate to show, and its key.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Of one attempt, everything included.
    #[serde(default = "default_timeout", deserialize_with = "timeout")]
    pub timeout: Duration,
}

/// One address.
#[derive(Debug)]
pub(super) struct Alertmanager {
    url: Endpoint,
    labels: BTreeMap<String, String>,
    client: Client,
    /// The severity under which an alert was last sent as firing: it is one of the labels by which an alert is known, so
    /// when it changes, the alert under the old one has ended.
    severities: Mutex<BTreeMap<AlertId, Severity>>,
}

/// As the API takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<&'static str, String>,
    starts_at: String,
    ends_at: String,
}

impl Config {
    /// One for each address.
    pub(super) fn addresses(self) -> Result<Vec<Alertmanager>, String> {
        if self.urls.is_empty() {
            return Err("urls: there is none; write for example [\"http://alertmanager.example:9093\"]".to_owned());
        }
        let mut urls = Vec::new();
        for (position, url) in self.urls.iter().enumerate() {
            let url = Endpoint::parse(url).map_err(|reason| format!("urls[{position}]: {reason}"))?;
            if url.ends_with(PATH) {
                return Err(format!("urls[{position}]: leave out {PATH}, which is added to it"));
            }
            urls.push(url.join(PATH));
        }
        for name in self.labels.keys() {
            if OWN.contains(&name.as_str()) {
                return Err(format!("labels: {name:?} is set by each alert; take another name"));
            }
            if *name != label_name(name) {
                return Err(format!("labels: {name:?} cannot be the name of a label; use letters, digits and \"_\""));
            }
        }
        let identity = match (&self.username, &self.password, &self.bearer_token) {
            (None, None, None) => Identity::Nobody,
            (Some(username), Some(password), None) => Identity::Basic { username, password },
            (None, None, Some(token)) => Identity::Bearer(token),
            (_, _, Some(_)) => {
                return Err("bearer_token and username are two ways to say who asks; take one".to_owned());
            }
            (Some(_), None, None) => return Err("username needs password; write for example \"file:PATH\"".to_owned()),
            (None, Some(_), None) => return Err("password needs username".to_owned()),
        };
        let files = TlsFiles { ca: self.ca_file.clone(), cert: self.cert_file.clone(), key: self.key_file.clone() };
        let address = |url: Endpoint| {
            let client = Client::new(&BTreeMap::new(), identity.clone(), files.clone(), self.timeout)?;
            Ok(Alertmanager { url, labels: self.labels.clone(), client, severities: Mutex::default() })
        };
        urls.into_iter().map(address).collect()
    }
}

impl Alertmanager {
    /// One attempt to tell all of these notices, and how it ended for each.
    pub(super) async fn tell(&self, notices: &[Notice]) -> Vec<Result<(), SendFailure>> {
        let now = clock::wall();
        let mut alerts = Vec::new();
        let mut owners = Vec::new();
        for (owner, notice) in notices.iter().enumerate() {
            if let Purpose::Heartbeat { every } = notice.purpose {
                alerts.push(self.watchdog(every, now));
                owners.push(owner);
            }
            for entry in &notice.alerts {
                alerts.extend(self.alerts(entry, now));
                owners.resize(alerts.len(), owner);
            }
        }
        let mut outcomes = vec![Ok(()); notices.len()];
        for (outcome, owner) in self.send(&alerts).await.into_iter().zip(owners) {
            if outcomes[owner].is_ok() {
                outcomes[owner] = outcome;
            }
        }
        for (notice, outcome) in notices.iter().zip(&outcomes) {
            if outcome.is_ok() {
                self.remember(notice);
            }
        }
        outcomes
    }

    /// Sends them in chunks. Of one that is refused with 400 the Alertmanager has kept those that it takes, and does not
    /// say which: its halves are sent again, and theirs, until those that it does not take are found.
    async fn send(&self, alerts: &[Alert]) -> Vec<Result<(), SendFailure>> {
        let mut outcomes = vec![Ok(()); alerts.len()];
        let mut ranges: Vec<_> = (0..alerts.len()).step_by(CHUNK).map(|at| at..alerts.len().min(at + CHUNK)).collect();
        ranges.reverse();
        let mut n_requests = 0;
        let mut away = None;
        while let Some(range) = ranges.pop() {
            if let Some(failure) = &away {
                outcomes[range].fill(Err(SendFailure::clone(failure)));
                continue;
            }
            n_requests += 1;
            let body = serde_json::to_string(&alerts[range.clone()]).expect("text always serializes");
            let Err(failure) = self.client.post(&self.url, &[], body).await else { continue };
            let is_invalid = matches!(&failure, Failure::Refused(refusal) if refusal.status == StatusCode::BAD_REQUEST);
            if is_invalid && range.len() > 1 && n_requests < MOST_REQUESTS {
                let middle = range.start + range.len() / 2;
                ranges.extend([middle..range.end, range.start..middle]);
                continue;
            }
            let failure = failure.judged(&self.url, said);
            if !is_invalid {
                // What it does not answer, or is not allowed to take, it will not take in the next request either.
                away = Some(failure.clone());
            }
            outcomes[range].fill(Err(failure));
        }
        outcomes
    }

    /// The alert as it is to be known now, and an end for what it was known as before.
    fn alerts(&self, entry: &Entry, now: SystemTime) -> Vec<Alert> {
        let before = self.severities.lock().ok().and_then(|known| known.get(&entry.alert.id).copied());
        let changed = before.filter(|before| *before != entry.alert.severity);
        let ended = changed.map(|severity| self.alert(entry, severity, entry.resolved_at.unwrap_or(now)));
        let end = if entry.alert.phase == Phase::Firing { now + HOLDS } else { entry.resolved_at.unwrap_or(now) };
        ended.into_iter().chain([self.alert(entry, entry.alert.severity, end)]).collect()
    }

    fn alert(&self, entry: &Entry, severity: Severity, end: SystemTime) -> Alert {
        let start = entry.fired_at.unwrap_or(entry.active_at);
        let Entry { alert, .. } = entry;
        let mut labels = self.labels.clone();
        labels.extend(
            alert.rule_labels.iter().chain(&alert.id.labels).map(|(name, value)| (label_name(name), value.clone())),
        );
        let target = alert.id.target.as_ref().map(|target| ("target", target.as_str()));
        let own = [
            ("alertname", alert.id.rule.as_str()),
            ("severity", severity.as_str()),
            ("cluster", alert.id.cluster.as_str()),
        ];
        labels.extend(own.into_iter().chain(target).map(|(name, value)| (name.to_owned(), value.to_owned())));
        // One that ends before it starts is refused. Wall times are reckoned anew each time, and clocks are set.
        Alert { labels, annotations: annotations(entry), starts_at: rfc3339(start), ends_at: rfc3339(end.max(start)) }
    }

    /// Fires for as long as the heart beats: who knows it from Prometheus has it raise an alarm when it is gone.
    fn watchdog(&self, every: Duration, now: SystemTime) -> Alert {
        let mut labels = self.labels.clone();
        for (name, value) in [("alertname", "Watchdog"), ("severity", "none")] {
            labels.insert(name.to_owned(), value.to_owned());
        }
        let annotations = BTreeMap::from([("summary", message::alive(every))]);
        Alert { labels, annotations, starts_at: rfc3339(now), ends_at: rfc3339(now + every * 3 + TO_SPARE) }
    }

    fn remember(&self, notice: &Notice) {
        let Ok(mut known) = self.severities.lock() else { return };
        for entry in &notice.alerts {
            match entry.alert.phase {
                Phase::Firing => known.insert(entry.alert.id.clone(), entry.alert.severity),
                Phase::Pending | Phase::Resolved => known.remove(&entry.alert.id),
            };
        }
    }
}

fn annotations(entry: &Entry) -> BTreeMap<&'static str, String> {
    let notice = Notice {
        notifier: crate::core::topology::Name::new(""),
        group: crate::core::ledger::Group::All,
        purpose: Purpose::Alerts,
        alerts: vec![entry.clone()],
        also_firing: Vec::new(),
        dedup_key: entry.dedup_key.clone(),
        attempt: 1,
    };
    let mut annotations = BTreeMap::from([
        ("summary", entry.alert.summary.clone().unwrap_or_else(|| message::line(Purpose::Alerts, entry))),
        ("description", Message::new(&notice, Shape::Text).body),
    ]);
    if let Some(cause) = entry.told.diagnosis.as_ref().and_then(|found| found.causes.first()) {
        annotations.insert("cause", cause.as_str().to_owned());
    }
    if let Some(runbook) = &entry.alert.runbook {
        // The name by which pagers and dashboards look for a link.
        annotations.insert("runbook_url", runbook.clone());
    }
    annotations
}

/// What an Alertmanager says of alerts that it does not take, and of who may not ask.
/// What an Alertmanager says of what it does not take. Any other answer may be of somebody before it who repeats the
/// request, with its path and its token.
fn said(refusal: &Refusal) -> String {
    let is_its_own = refusal.status == StatusCode::BAD_REQUEST && !refusal.text.is_empty();
    if is_its_own { format!(": {}", refusal.text) } else { String::new() }
}

/// Letters, digits and underscores, not beginning with a digit.
fn label_name(text: &str) -> String {
    let name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if name.starts_with(|first: char| first.is_ascii_digit()) { format!("_{name}") } else { name }
}

fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::message::tests::{firing, resolved};
    use super::*;
    use crate::core::topology::Name;

    fn address(url: &str) -> Alertmanager {
        let config = format!(r#"{{"urls": ["{url}/am/"], "labels": {{"site": "eu"}}, "timeout": "2s"}}"#);
        let config: Config = serde_json::from_str(&config).expect("a good configuration");
        config.addresses().expect("a good configuration").remove(0)
    }

    /// One that takes no alert of a target whose name begins with `bad`, and says so as Alertmanager does.
    async fn picky() -> (String, Arc<Mutex<Vec<Vec<Value>>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests: Arc<Mutex<Vec<Vec<Value>>>> = Arc::default();
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut text, mut buffer) = (String::new(), [0; 4096]);
                let alerts = loop {
                    let n_read = stream.read(&mut buffer).await.unwrap_or(0);
                    text.push_str(&String::from_utf8_lossy(&buffer[..n_read]));
                    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                    if let Ok(alerts) = serde_json::from_str::<Vec<Value>>(body) {
                        break alerts;
                    }
                };
                assert!(text.starts_with("POST /am/api/v2/alerts HTTP/1.1\r\n"), "{text}");
                let is_bad = |alert: &Value| alert["labels"]["target"].as_str().is_some_and(|t| t.starts_with("bad"));
                let status = if alerts.iter().any(is_bad) { "400 Bad Request" } else { "200 OK" };
                seen.lock().expect("no panic").push(alerts);
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\n\"no!\"");
                stream.write_all(answer.as_bytes()).await.ok();
            }
        });
        (url, requests)
    }

    fn about(target: &str) -> Notice {
        let mut notice = firing();
        notice.alerts[0].alert.id.target = Some(Name::new(target));
        notice
    }

    #[tokio::test]
    async fn of_a_request_that_is_refused_what_is_valid_counts_as_told() {
        let (url, requests) = picky().await;
        let notices: Vec<Notice> = ["a", "b", "bad-c", "d", "e"].into_iter().map(about).collect();
        let outcomes = address(&url).tell(&notices).await;
        let is_told: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
        assert_eq!(is_told, [true, true, false, true, true]);
        let reason = format!("{url} answered 400 Bad Request: \"no!\"");
        assert_eq!(outcomes[2], Err(SendFailure::Permanent(reason)));
        let sizes: Vec<usize> = requests.lock().expect("no panic").iter().map(Vec::len).collect();
        assert_eq!(sizes, [5, 2, 3, 1, 2]);
    }

    #[tokio::test]
    async fn one_that_is_away_is_asked_once_for_all() {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", free.local_addr().expect("an address"));
        drop(free);
        let mut many = firing();
        many.alerts = vec![many.alerts[0].clone(); 3 * CHUNK];
        let outcomes = address(&url).tell(&[many, about("a")]).await;
        for outcome in outcomes {
            assert!(
                matches!(&outcome, Err(SendFailure::Transient(reason)) if reason.contains("refused")),
                "{outcome:?}"
            );
        }
    }

    #[test]
    fn an_alert_is_what_alertmanager_takes() {
        let alertmanager = address("http://127.0.0.1:1");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_300);
        let mut own = firing().alerts.remove(0);
        own.alert.rule_labels = vec![("team".to_owned(), "dba".to_owned()), ("severity".to_owned(), "x".to_owned())];
        own.alert.summary = Some("orders lags".to_owned());
        own.alert.runbook = Some("https://runbooks.example/lag".to_owned());
        let own = serde_json::to_value(alertmanager.alerts(&own, now)).expect("text");
        assert_eq!((&own[0]["labels"]["team"], &own[0]["labels"]["severity"]), (&"dba".into(), &"warning".into()));
        let annotations = &own[0]["annotations"];
        assert_eq!(annotations["summary"], "orders lags");
        assert_eq!(annotations["runbook_url"], "https://runbooks.example/lag");
        let alerts = alertmanager.alerts(&firing().alerts[0], now);
        let json = serde_json::to_value(&alerts).expect("text");
        assert_eq!(json[0]["startsAt"], "2027-01-15T08:01:00.000Z");
        assert_eq!(json[0]["endsAt"], "2027-01-15T08:15:00.000Z");
        let labels = serde_json::json!({
            "alertname": "ReplicaLagging", "severity": "warning", "cluster": "orders", "target": "orders-replica-1",
            "site": "eu",
        });
        assert_eq!(json[0]["labels"], labels);
        let ended = serde_json::to_value(alertmanager.alerts(&resolved().alerts[0], now)).expect("text");
        assert_eq!((&ended[0]["labels"], &ended[0]["endsAt"]), (&labels, &"2027-01-15T08:03:20.000Z".into()));
        // Wall times are reckoned anew each time: an end never comes before its start, which would be refused.
        let mut short = resolved().alerts[0].clone();
        short.resolved_at = short.fired_at.map(|at| at - Duration::from_millis(1));
        let short = serde_json::to_value(alertmanager.alerts(&short, now)).expect("text");
        assert_eq!(short[0]["startsAt"], short[0]["endsAt"]);
    }

    #[tokio::test]
    async fn an_alert_that_becomes_more_severe_ends_as_what_it_was() {
        let (url, requests) = picky().await;
        let alertmanager = address(&url);
        let mut warning = firing();
        warning.alerts[0].fired_at = Some(SystemTime::UNIX_EPOCH);
        let mut critical = warning.clone();
        critical.alerts[0].alert.severity = Severity::Critical;
        for notice in [warning.clone(), warning, critical.clone(), critical] {
            assert_eq!(alertmanager.tell(&[notice]).await, [Ok(())]);
        }
        let now = clock::wall();
        let words = |alert: &Value| {
            let end = alert["endsAt"].as_str().and_then(|end| humantime::parse_rfc3339(end).ok()).expect("a time");
            let state = if end > now + Duration::from_secs(60) { "firing" } else { "ended" };
            format!("{state} {}", alert["labels"]["severity"].as_str().unwrap_or_default())
        };
        let requests = requests.lock().expect("no panic");
        let sent: Vec<Vec<String>> = requests.iter().map(|alerts| alerts.iter().map(words).collect()).collect();
        let expect = [
            vec!["firing warning"],
            vec!["firing warning"],
            vec!["ended warning", "firing critical"],
            vec!["firing critical"],
        ];
        assert_eq!(sent, expect);
    }

    #[test]
    fn any_text_makes_the_name_of_a_label() {
        for (text, name) in [("slot", "slot"), ("a-b.c", "a_b_c"), ("9a", "_9a")] {
            assert_eq!(label_name(text), name);
        }
    }
}
