//! The dead man's switch: a sign of life that comes only while there is progress ([`crate::core::heartbeat`]).
//!
//! It runs beside the engine, on other threads, so that an engine that hangs cannot keep up appearances. When there is no
//! progress it says nothing at all: whoever waits for it raises the alarm, and that works for a daemon that is gone, too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde::de::{Deserializer, Error};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::client::{Client, Endpoint, Failure, Identity, Secret, TlsFiles};
use crate::clock;
use crate::core::heartbeat::{Limits, Progress, progress};
use crate::core::ledger::{Group, Notice, Purpose};
use crate::core::snapshot::Snapshot;
use crate::core::topology::Name;
use crate::self_metrics::{Heartbeat as Outcome, SelfMetrics};

/// A ping that is not answered by then has failed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// After a beat that failed, or was withheld, the next comes no later than this.
const SOON: Duration = Duration::from_secs(10);
/// How often it is asked at the start whether anything has answered.
const AT_FIRST: Duration = Duration::from_millis(500);

/// `[heartbeat]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A beat says that there was progress for as long as this.
    #[serde(deserialize_with = "interval")]
    pub interval: Duration,
    /// Asked by GET. Its path is taken for a secret: only scheme and host are ever logged.
    pub url: Option<Secret>,
    /// A notifier that is sent a notice at each beat. Alertmanagers are told anyway.
    pub notify: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { interval: Duration::from_secs(60), url: None, notify: None }
    }
}

fn interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let interval = humantime::parse_duration(&text)
        .map_err(|_| D::Error::custom(format!("{text:?} is no duration; write for example \"1m\"")))?;
    if (Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&interval) {
        Ok(interval)
    } else {
        Err(D::Error::custom(format!("{text:?} is not between 1s and 1d")))
    }
}

/// The heart.
#[derive(Debug)]
pub struct Heartbeat {
    interval: Duration,
    ping: Option<(Client, Endpoint)>,
    limits: Limits,
    /// Those who are sent a notice.
    notifiers: Vec<(Name, mpsc::Sender<Notice>)>,
}

impl Heartbeat {
    /// `limits` are those of servers; the interval is the least of them.
    ///
    /// # Errors
    /// It cannot work as configured.
    pub fn new(config: &Config, limits: Limits) -> Result<Self, String> {
        let interval = config.interval;
        let ping = match &config.url {
            None => None,
            Some(url) => {
                let url = Endpoint::parse(url).map_err(|reason| format!("url: {reason}"))?;
                let timeout = TIMEOUT.min(interval);
                let client = Client::new(&BTreeMap::new(), Identity::Nobody, TlsFiles::default(), timeout)?;
                Some((client, url))
            }
        };
        let limits = Limits { answer: limits.answer.max(interval), failure: limits.failure.max(interval) };
        Ok(Self { interval, ping, limits, notifiers: Vec::new() })
    }

    /// Has these sent a notice at each beat.
    #[must_use]
    pub fn telling(self, notifiers: Vec<(Name, mpsc::Sender<Notice>)>) -> Self {
        Self { notifiers, ..self }
    }

    /// Beats until cancelled.
    pub async fn run(
        self,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        metrics: Arc<SelfMetrics>,
        cancel: CancellationToken,
    ) {
        cancel.run_until_cancelled(self.beats(snapshots, &metrics)).await;
    }

    async fn beats(&self, snapshots: watch::Receiver<Arc<Snapshot>>, metrics: &SelfMetrics) {
        let started_at = clock::now();
        let (mut is_withheld, mut is_failing) = (false, false);
        loop {
            let snapshot = Arc::clone(&snapshots.borrow());
            let wait = match progress(&snapshot, started_at, clock::now(), self.limits) {
                Progress::NotYet => AT_FIRST,
                Progress::Stalled(stall) => {
                    if !is_withheld {
                        is_withheld = true;
                        tracing::error!(%stall, "no heartbeat: {stall}. Alerts cannot be relied upon until there is progress again");
                    }
                    metrics.beaten(Outcome::Withheld);
                    self.interval.min(SOON)
                }
                Progress::Made => {
                    if is_withheld {
                        is_withheld = false;
                        tracing::info!("there is progress again, and a heartbeat");
                    }
                    let outcome = self.beat().await;
                    metrics.beaten(if outcome.is_ok() { Outcome::Ok } else { Outcome::Failed });
                    let was_failing = std::mem::replace(&mut is_failing, outcome.is_err());
                    match outcome {
                        Ok(()) => {
                            if was_failing {
                                tracing::info!("the heartbeat is heard again");
                            }
                            self.interval
                        }
                        Err(error) => {
                            if !was_failing {
                                tracing::warn!(%error, "the heartbeat is not heard: {error}; will try again");
                            }
                            self.interval.min(SOON)
                        }
                    }
                }
            };
            sleep(wait).await;
        }
    }

    /// Tells notifiers, whose own doings say how that went, and pings.
    async fn beat(&self) -> Result<(), String> {
        for (name, queue) in &self.notifiers {
            if queue.try_send(notice(name, self.interval, clock::wall())).is_err() {
                tracing::debug!(notifier = %name, "the queue of {name} has no place for a heartbeat");
            }
        }
        let Some((client, url)) = &self.ping else { return Ok(()) };
        client.get(url).await.map_err(|failure| match failure {
            Failure::NotSent(reason) | Failure::NoAnswer(reason) => reason,
            Failure::Refused(refusal) => format!("{url} answered {}", refusal.status),
        })
    }
}

fn notice(notifier: &Name, every: Duration, now: SystemTime) -> Notice {
    let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Notice {
        notifier: notifier.clone(),
        group: Group::All,
        purpose: Purpose::Heartbeat { every },
        alerts: Vec::new(),
        also_firing: Vec::new(),
        dedup_key: format!("heartbeat-{second}"),
        attempt: 1,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::core::fixture;

    /// Counts pings.
    async fn listener() -> (String, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/s3cr3t", listener.local_addr().expect("an address"));
        let (pings, pinged) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 4096];
                let n_read = stream.read(&mut buffer).await.unwrap_or(0);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.ok();
                let text = String::from_utf8_lossy(&buffer[..n_read]).into_owned();
                if pings.send(text.lines().next().unwrap_or_default().to_owned()).await.is_err() {
                    return;
                }
            }
        });
        (url, pinged)
    }

    fn text(metrics: &SelfMetrics) -> String {
        let mut out = String::new();
        metrics.render(&mut out);
        out
    }

    #[tokio::test]
    async fn an_engine_that_hangs_stops_the_heart_and_one_that_goes_on_starts_it_again() {
        let (url, mut pinged) = listener().await;
        let config = Config { url: serde_json::from_value(url.into()).expect("a text"), ..Config::default() };
        let second = Duration::from_secs(1);
        let limits = Limits { answer: Duration::ZERO, failure: second };
        let config = Config { interval: second, ..config };
        let (queue, mut notices) = mpsc::channel(64);
        let heart = Heartbeat::new(&config, limits).expect("a good configuration");
        let heart = heart.telling(vec![(Name::new("pager"), queue)]);
        let publish = || {
            let mut target = fixture::replica("orders", "r1");
            if let Some(answer) = &mut target.answer {
                answer.answered_at = clock::now();
            }
            let mut snapshot = fixture::snapshot(vec![fixture::cluster("orders", vec![target], vec![])]);
            snapshot.published_at = clock::now();
            Arc::new(snapshot)
        };
        let (sender, snapshots) = watch::channel(publish());
        let metrics = Arc::new(SelfMetrics::new(&[]));
        let cancel = CancellationToken::new();
        let task = tokio::spawn(heart.run(snapshots, Arc::clone(&metrics), cancel.clone()));

        // Again and again, for on a slow machine one is old before anybody looks at it.
        let mut until_pinged = async || {
            loop {
                sender.send_replace(publish());
                if let Ok(ping) = tokio::time::timeout(Duration::from_millis(200), pinged.recv()).await {
                    return ping;
                }
            }
        };
        assert_eq!(until_pinged().await.as_deref(), Some("GET /s3cr3t HTTP/1.1"));
        assert_eq!(notices.recv().await.map(|notice| notice.purpose), Some(Purpose::Heartbeat { every: second }));
        // Nothing is published any more, whatever else goes on.
        while text(&metrics).contains("pgvigil_heartbeats_total{outcome=\"withheld\"} 0\n") {
            sleep(Duration::from_millis(50)).await;
        }
        let beats = |text: String| text.lines().find(|line| line.contains("outcome=\"ok\"")).map(str::to_owned);
        let before = beats(text(&metrics));
        while beats(text(&metrics)) == before {
            assert!(until_pinged().await.is_some());
        }
        cancel.cancel();
        task.await.expect("it ends");
    }

    #[test]
    fn an_interval_is_one_that_someone_can_wait_for() {
        let read = |text: &str| serde_json::from_str::<Config>(text).map_err(|error| error.to_string());
        assert_eq!(read("{}"), Ok(Config::default()));
        let error = read(r#"{"interval": "1ms"}"#).expect_err("too short");
        assert!(error.contains("\"1ms\" is not between 1s and 1d"), "{error}");
    }
}
