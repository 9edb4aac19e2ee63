//! The way out: what tells people and their tools. A worker makes one attempt for each notice and reports how it ended;
//! whether and when to try again is the ledger's to say ([`crate::core::ledger`]).

pub mod alertmanager;
pub mod client;
pub mod heartbeat;
pub mod log;
pub mod message;
pub mod sns;
mod topic;
pub mod trial;
pub mod webhook;

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::aws::Aws;
use crate::core::fleet::Event;
use crate::core::ledger::pacing::{AlertingConfig, GroupBy};
use crate::core::ledger::{Delivery, Group, Notice, Recipient, SendFailure};
use crate::core::silence::selector::{Selector, SelectorConfig, SelectorFault};
use crate::core::topology::Name;

/// One `[[notify]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum NotifierConfig {
    /// Writes alerts to the daemon's own log.
    Log(log::Config),
    /// Publishes to an Amazon SNS topic.
    Sns(sns::Config),
    /// Keeps Prometheus' Alertmanagers up to date.
    Alertmanager(alertmanager::Config),
    /// Posts JSON to an HTTP address.
    Webhook(webhook::Config),
}

impl Default for NotifierConfig {
    fn default() -> Self {
        Self::Log(log::Config::default())
    }
}

/// A notifier that cannot work as configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("notifier {notifier:?}: {fault}")]
pub struct NotifierError {
    pub notifier: Name,
    pub fault: String,
}

impl NotifierConfig {
    /// The name it was given, or its type and its place among all notifiers: `sns-1`.
    pub fn name(&self, index: usize) -> Name {
        let name = match self {
            Self::Log(config) => &config.name,
            Self::Sns(config) => &config.name,
            Self::Alertmanager(config) => &config.name,
            Self::Webhook(config) => &config.name,
        };
        match name {
            Some(name) => Name::new(name),
            None => Name::new(&format!("{}-{}", self.kind(), index + 1)),
        }
    }

    /// Its `type`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Log(_) => "log",
            Self::Sns(_) => "sns",
            Self::Alertmanager(_) => "alertmanager",
            Self::Webhook(_) => "webhook",
        }
    }

    /// Where each of its names leads, without secrets.
    pub fn places(&self) -> Vec<String> {
        let shown =
            |url: &client::Secret| client::Endpoint::parse(url).map_or_else(str::to_owned, |url| url.to_string());
        match self {
            Self::Log(_) => vec!["the daemon's own log".to_owned()],
            Self::Sns(config) => vec![config.topic_arn.clone()],
            Self::Alertmanager(config) => config.urls.iter().map(shown).collect(),
            Self::Webhook(config) => vec![shown(&config.url)],
        }
    }

    /// The alerts that it is told of, in words.
    pub fn told_of(&self) -> String {
        let route = self.route().unwrap_or_default();
        if route.is_everything() { "all alerts".to_owned() } else { format!("alerts with {route}") }
    }

    /// Whom the ledger tells.
    pub fn recipients(&self, index: usize, alerting: &AlertingConfig) -> Vec<Recipient> {
        let is_standing = matches!(self, Self::Alertmanager(_));
        let takes_groups = match self {
            Self::Sns(config) => config.format.takes_groups(),
            Self::Alertmanager(_) => false,
            Self::Log(_) | Self::Webhook(_) => true,
        };
        let group_by = if takes_groups { alerting.group_by } else { GroupBy::Alert };
        let hears_resolved = match self {
            Self::Sns(config) => config.send_resolved,
            Self::Webhook(config) => config.send_resolved,
            Self::Log(_) | Self::Alertmanager(_) => true,
        };
        // One that is wrong was refused. Rather too much is told than too little.
        let only = self.route().unwrap_or_default();
        let recipient =
            |(name, address)| Recipient { name, address, group_by, is_standing, only: only.clone(), hears_resolved };
        self.names(index).into_iter().zip(self.recipient_addresses()).map(recipient).collect()
    }

    /// What each of its names is known by.
    fn recipient_addresses(&self) -> Vec<Option<Name>> {
        let address = |of: &str| Some(Recipient::address_of([self.kind(), of].into_iter()));
        match self {
            Self::Log(_) => vec![address("")],
            Self::Sns(config) => vec![address(&config.topic_arn)],
            Self::Alertmanager(config) => config.urls.iter().map(|url| address(url.as_str())).collect(),
            Self::Webhook(config) => vec![address(config.url.as_str())],
        }
    }

    /// The alerts that it is told of.
    ///
    /// # Errors
    /// The first pattern or severity that cannot be one.
    pub fn route(&self) -> Result<Selector, SelectorFault> {
        let (severity, cluster, rule) = match self {
            Self::Log(log::Config { severity, cluster, rule, .. })
            | Self::Sns(sns::Config { severity, cluster, rule, .. })
            | Self::Alertmanager(alertmanager::Config { severity, cluster, rule, .. })
            | Self::Webhook(webhook::Config { severity, cluster, rule, .. }) => (severity, cluster, rule),
        };
        let [severity, cluster, rule] = [severity, cluster, rule].map(Clone::clone);
        Selector::parse(&SelectorConfig { cluster, rule, severity, ..SelectorConfig::default() })
    }

    /// What the ledger calls it. One with several addresses is as many notifiers there: `alertmanager-1/1`, `alertmanager-1/2`.
    pub fn names(&self, index: usize) -> Vec<Name> {
        let name = self.name(index);
        match self {
            Self::Alertmanager(config) if config.urls.len() > 1 => {
                (1..=config.urls.len()).map(|number| Name::new(&format!("{name}/{number}"))).collect()
            }
            _ => vec![name],
        }
    }

    /// The workers of the notifier at this place, one for each of its names, checked but not started.
    ///
    /// # Errors
    /// When the notifier cannot work as configured.
    pub fn workers(self, index: usize, aws: &Aws) -> Result<Vec<Worker>, NotifierError> {
        let (name, names) = (self.name(index), self.names(index));
        let privacy = match &self {
            // Who collects logs is not known here.
            Self::Log(_) => Privacy::Withheld,
            Self::Sns(sns::Config { include_sensitive, .. })
            | Self::Alertmanager(alertmanager::Config { include_sensitive, .. })
            | Self::Webhook(webhook::Config { include_sensitive, .. }) => match include_sensitive {
                true => Privacy::Revealed,
                false => Privacy::Withheld,
            },
        };
        let notifiers = match self {
            Self::Log(_) => Ok(vec![Notifier::Log]),
            Self::Sns(config) => sns::Sns::new(config, aws).map(|sns| vec![Notifier::Sns(sns)]),
            Self::Alertmanager(config) => {
                config.addresses().map(|addresses| addresses.into_iter().map(Notifier::Alertmanager).collect())
            }
            Self::Webhook(config) => webhook::Webhook::new(config).map(|webhook| vec![Notifier::Webhook(webhook)]),
        };
        let notifiers = notifiers.map_err(|fault| NotifierError { notifier: name, fault })?;
        Ok(names.into_iter().zip(notifiers).map(|(name, notifier)| Worker { name, notifier, privacy }).collect())
    }
}

const fn is_true() -> bool {
    true
}

/// Tells one notifier.
#[derive(Debug)]
pub struct Worker {
    name: Name,
    notifier: Notifier,
    privacy: Privacy,
}

/// What becomes of the addresses of clients.
#[derive(Clone, Copy, Debug)]
enum Privacy {
    Withheld,
    Revealed,
}

impl Privacy {
    fn of(self, notice: Notice) -> Notice {
        match self {
            Self::Withheld => message::withheld(&notice),
            Self::Revealed => message::revealed(&notice),
        }
    }
}

#[derive(Debug)]
enum Notifier {
    Log,
    Sns(sns::Sns),
    Alertmanager(alertmanager::Alertmanager),
    Webhook(webhook::Webhook),
}

impl Worker {
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// One attempt, of which nobody keeps account.
    pub async fn attempt(&self, notice: &Notice) -> Result<(), SendFailure> {
        self.tell(notice.clone()).await.outcome
    }

    /// Runs until cancelled, or until no more notices can come; then ends the attempts that it has begun.
    pub async fn run(
        self,
        mut notices: mpsc::Receiver<Notice>,
        events: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) {
        let notifier = &self.notifier;
        if let Notifier::Alertmanager(alertmanager) = notifier {
            return self.run_in_batches(alertmanager, notices, events, cancel).await;
        }
        let mut attempts = FuturesUnordered::new();
        let mut pace = tokio::time::interval(notifier.pace());
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut edge = Edge::default();
        loop {
            let next = async {
                pace.tick().await;
                notices.recv().await
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(delivery) = attempts.next() => self.report(delivery, &mut edge, &events).await,
                notice = next, if attempts.len() < notifier.at_once() => match notice {
                    Some(notice) => attempts.push(self.tell(notice)),
                    None => break,
                },
            }
        }
        while let Some(delivery) = attempts.next().await {
            self.report(delivery, &mut edge, &events).await;
        }
    }

    /// The same for one that is told of all that waits at once, and of one thing after the other.
    async fn run_in_batches(
        &self,
        alertmanager: &alertmanager::Alertmanager,
        mut notices: mpsc::Receiver<Notice>,
        events: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) {
        let mut edge = Edge::default();
        let mut batch = Vec::with_capacity(alertmanager::BATCH);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                n_received = notices.recv_many(&mut batch, alertmanager::BATCH) => if n_received == 0 {
                    return;
                },
            }
            let told: Vec<Notice> = batch.iter().map(|notice| self.privacy.of(notice.clone())).collect();
            let outcomes = alertmanager.tell(&told).await;
            for (notice, outcome) in batch.drain(..).zip(outcomes) {
                self.report(notice.ended(outcome), &mut edge, &events).await;
            }
        }
    }

    /// One attempt.
    async fn tell(&self, notice: Notice) -> Delivery {
        let told = self.privacy.of(notice.clone());
        notice.ended(self.notifier.tell(&told).await)
    }

    async fn report(&self, delivery: Delivery, edge: &mut Edge, events: &mpsc::Sender<Event>) {
        // A text, so that it is in quotes where it holds spaces.
        let (notifier, group) = (&self.name, delivery.group.to_string());
        match &delivery.outcome {
            Ok(()) if edge.is_failing => {
                edge.is_failing = false;
                tracing::info!(%notifier, group, "notifier {notifier} takes notices again");
            }
            Ok(()) if matches!(self.notifier, Notifier::Log) => {}
            // What stands is sent each minute.
            Ok(()) if delivery.group == Group::All => tracing::debug!(%notifier, "told {notifier} of all"),
            Ok(()) => tracing::info!(%notifier, group, "told {notifier} of {group}"),
            Err(error) if edge.is_failing => {
                tracing::debug!(%notifier, group, %error, "cannot tell {notifier} of {group}: {error}");
            }
            Err(error) => {
                edge.is_failing = true;
                tracing::warn!(%notifier, group, %error, "cannot tell {notifier} of {group}: {error}; will try again");
            }
        }
        // Nobody listens any more only when the daemon stops.
        let _ = events.send(Event::Delivered(Delivery { notifier: self.name.clone(), ..delivery })).await;
    }
}

/// Whether the last attempt failed: a notifier that is away is worth one line, not one for each attempt.
#[derive(Debug, Default)]
struct Edge {
    is_failing: bool,
}

impl Notifier {
    /// The least time between the beginnings of two attempts.
    fn pace(&self) -> Duration {
        match self {
            Self::Log => Duration::from_millis(1),
            Self::Sns(_) => sns::PACE,
            Self::Alertmanager(_) => Duration::from_millis(1),
            Self::Webhook(_) => webhook::PACE,
        }
    }

    const fn at_once(&self) -> usize {
        match self {
            Self::Log => 1,
            Self::Sns(_) => sns::AT_ONCE,
            Self::Alertmanager(_) => 1,
            Self::Webhook(_) => webhook::AT_ONCE,
        }
    }

    async fn tell(&self, notice: &Notice) -> Result<(), SendFailure> {
        match self {
            Self::Log => {
                log::tell(notice);
                Ok(())
            }
            Self::Sns(sns) => sns.tell(notice).await,
            Self::Alertmanager(alertmanager) => alertmanager.tell(std::slice::from_ref(notice)).await.remove(0),
            Self::Webhook(webhook) => webhook.tell(notice).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::message::tests::{firing, resolved};
    use super::*;
    use crate::core::rule::OneOrMany;

    #[test]
    fn a_notifier_is_read_by_its_type() {
        let read = |text: &str| serde_json::from_str::<NotifierConfig>(text).map_err(|error| error.to_string());
        assert_eq!(read(r#"{"type": "log"}"#), Ok(NotifierConfig::default()));
        let arn = "arn:aws:sns:us-east-1:123456789012:alerts";
        let sns = |extra: &str| read(&format!(r#"{{"type": "sns", "topic_arn": "{arn}"{extra}}}"#));
        let expect = sns::Config {
            name: None,
            severity: OneOrMany::default(),
            cluster: OneOrMany::default(),
            rule: OneOrMany::default(),
            send_resolved: true,
            topic_arn: arn.to_owned(),
            format: message::Format::Text,
            include_sensitive: false,
            region: None,
            endpoint_url: None,
            timeout: Duration::from_secs(10),
        };
        assert_eq!(sns(""), Ok(NotifierConfig::Sns(expect.clone())));
        let json = sns::Config { format: message::Format::Json, timeout: Duration::from_secs(3), ..expect };
        assert_eq!(sns(r#", "format": "json", "timeout": "3s""#), Ok(NotifierConfig::Sns(json)));
        for (extra, reason) in [
            (r#", "topic": "x""#, "unknown field `topic`"),
            (r#", "format": "xml""#, "unknown variant `xml`, expected one of `text`, `json`, `cloudwatch`, `amazon_q`"),
            (r#", "timeout": "1h""#, "\"1h\" is not between 100ms and 15s"),
        ] {
            let error = sns(extra).expect_err(extra);
            assert!(error.contains(reason), "{error}");
        }
        assert!(read(r#"{"type": "log", "topic_arn": "x"}"#).is_err());
    }

    #[test]
    fn a_notifier_without_a_name_is_called_by_its_type_and_place() {
        let named = NotifierConfig::Log(log::Config { name: Some("journal".to_owned()), ..log::Config::default() });
        assert_eq!(NotifierConfig::default().name(1), Name::new("log-2"));
        assert_eq!(named.name(1), Name::new("journal"));
    }

    #[tokio::test]
    async fn each_notice_is_reported_once_and_all_that_was_queued_before_the_end() {
        let worker =
            NotifierConfig::default().workers(0, &Aws::new(crate::aws::Config::default())).expect("a log").remove(0);
        let (queue, notices) = mpsc::channel(8);
        let (events, mut reports) = mpsc::channel(8);
        for notice in [firing(), resolved()] {
            queue.send(notice).await.expect("there is room");
        }
        drop(queue);
        worker.run(notices, events, CancellationToken::new()).await;
        for notice in [firing(), resolved()] {
            let Some(Event::Delivered(delivery)) = reports.recv().await else { panic!("a report is missing") };
            assert_eq!(delivery, Notice { notifier: Name::new("log-1"), ..notice }.ended(Ok(())));
        }
        assert!(reports.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_worker_ends_when_it_is_told_to() {
        let worker =
            NotifierConfig::default().workers(0, &Aws::new(crate::aws::Config::default())).expect("a log").remove(0);
        let (_queue, notices) = mpsc::channel(8);
        let (events, _reports) = mpsc::channel(8);
        let cancel = CancellationToken::new();
        cancel.cancel();
        tokio::time::timeout(Duration::from_secs(5), worker.run(notices, events, cancel)).await.expect("it ends");
    }
}
