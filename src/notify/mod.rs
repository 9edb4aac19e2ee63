//! The way out: what tells people and their tools. A worker makes one attempt for each notice and reports how it ended;
//! whether and when to try again is the ledger's to say ([`crate::core::ledger`]).

pub mod log;
pub mod message;
pub mod sns;

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::core::fleet::Event;
use crate::core::ledger::{Delivery, Notice, SendFailure};
use crate::core::topology::Name;

/// One `[[notify]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum NotifierConfig {
    /// Writes alerts to the daemon's own log.
    Log(log::Config),
    /// Publishes to an Amazon SNS topic.
    Sns(sns::Config),
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
        let (name, kind) = match self {
            Self::Log(config) => (&config.name, "log"),
            Self::Sns(config) => (&config.name, "sns"),
        };
        match name {
            Some(name) => Name::new(name),
            None => Name::new(&format!("{kind}-{}", index + 1)),
        }
    }

    /// The worker of the notifier at this place, checked but not started.
    ///
    /// # Errors
    /// When the notifier cannot work as configured.
    pub fn worker(self, index: usize) -> Result<Worker, NotifierError> {
        let name = self.name(index);
        let notifier = match self {
            Self::Log(_) => Notifier::Log,
            Self::Sns(config) => match sns::Sns::new(config) {
                Ok(sns) => Notifier::Sns(sns),
                Err(fault) => return Err(NotifierError { notifier: name, fault }),
            },
        };
        Ok(Worker { name, notifier })
    }
}

/// Tells one notifier.
#[derive(Debug)]
pub struct Worker {
    name: Name,
    notifier: Notifier,
}

#[derive(Debug)]
enum Notifier {
    Log,
    Sns(sns::Sns),
}

impl Worker {
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// Runs until cancelled, or until no more notices can come; then ends the attempts that it has begun.
    pub async fn run(
        self,
        mut notices: mpsc::Receiver<Notice>,
        events: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) {
        let notifier = &self.notifier;
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
                    Some(notice) => attempts.push(notifier.tell(notice)),
                    None => break,
                },
            }
        }
        while let Some(delivery) = attempts.next().await {
            self.report(delivery, &mut edge, &events).await;
        }
    }

    async fn report(&self, delivery: Delivery, edge: &mut Edge, events: &mpsc::Sender<Event>) {
        let (notifier, alert) = (&self.name, &delivery.alert);
        match &delivery.outcome {
            Ok(()) if edge.is_failing => {
                edge.is_failing = false;
                tracing::info!(%notifier, %alert, "notifier {notifier} takes notices again");
            }
            Ok(()) => tracing::debug!(%notifier, %alert, "told {notifier} of {alert}"),
            Err(error) if edge.is_failing => {
                tracing::debug!(%notifier, %alert, %error, "cannot tell {notifier} of {alert}: {error}");
            }
            Err(error) => {
                edge.is_failing = true;
                tracing::warn!(%notifier, %alert, %error, "cannot tell {notifier} of {alert}: {error}; will try again");
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
        }
    }

    const fn at_once(&self) -> usize {
        match self {
            Self::Log => 1,
            Self::Sns(_) => sns::AT_ONCE,
        }
    }

    /// One attempt.
    async fn tell(&self, notice: Notice) -> Delivery {
        let outcome: Result<(), SendFailure> = match self {
            Self::Log => {
                log::tell(&notice);
                Ok(())
            }
            Self::Sns(sns) => sns.tell(&notice).await,
        };
        Delivery { notifier: notice.notifier, alert: notice.alert.id, dedup_key: notice.dedup_key, outcome }
    }
}
