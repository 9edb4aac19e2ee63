//! The one task that owns the [`Fleet`]: takes events, applies them, publishes what readers see and hands out notices.
//!
//! It never waits for a notifier or a reader: a notifier's full queue counts as a failed attempt, and a snapshot replaces
//! the one before. So nothing downstream can hold up the polling upstream.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::clock;
use crate::core::fleet::{Event, Fleet};
use crate::core::ledger::{Delivery, Notice, SendFailure};
use crate::core::snapshot::Snapshot;
use crate::core::topology::Name;
use crate::self_metrics::SelfMetrics;

/// Publishing is coalesced: readers see a change within this time, and a thousand polls a second cost twenty snapshots.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// Events taken in one go before readers and the clock get their turn.
const BATCH: usize = 256;

/// What the engine talks to.
pub struct Engine {
    pub fleet: Fleet,
    pub events: mpsc::Receiver<Event>,
    pub notifiers: HashMap<Name, mpsc::Sender<Notice>>,
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    pub metrics: Arc<SelfMetrics>,
    /// How often what depends on time alone is brought up to date.
    pub tick: Duration,
    /// The daemon stops. Nobody polls any more then, and the silence that follows is our own: it is not judged.
    pub cancel: CancellationToken,
}

impl Engine {
    /// Runs until all who could send an event are gone and their last events are applied, then publishes once more.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(self.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        let mut published_at = Instant::now();
        // One timer, set once a publication: not anew for each event.
        let mut publication = pin!(sleep_until(published_at));
        let mut has_news = false;
        loop {
            tokio::select! {
                biased;
                () = publication.as_mut(), if has_news => {
                    has_news = false;
                    published_at = Instant::now();
                    self.publish();
                    continue;
                }
                _ = tick.tick(), if !self.cancel.is_cancelled() => self.apply(Event::Tick),
                received = self.events.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        break;
                    }
                    for event in batch.drain(..) {
                        self.apply(event);
                    }
                }
            }
            if !has_news {
                has_news = true;
                publication.as_mut().reset(published_at + PUBLISH_EVERY);
            }
        }
        self.publish();
    }

    fn publish(&self) {
        self.snapshots.send_replace(Arc::new(self.fleet.snapshot(clock::now(), clock::wall())));
    }

    fn apply(&mut self, event: Event) {
        self.count(&event);
        let (now, wall) = (clock::now(), clock::wall());
        let mut notices = VecDeque::from(self.fleet.apply(event, now, wall));
        if self.cancel.is_cancelled() {
            // The notifiers take nothing more. What is due stays so.
            return;
        }
        // A notice that cannot be queued is a failed attempt: the ledger is told at once and will try again later.
        while let Some(notice) = notices.pop_front() {
            if let Some(refused) = self.hand_out(notice) {
                notices.extend(self.fleet.apply(Event::Delivered(refused), now, wall));
            }
        }
    }

    /// Puts a notice into its notifier's queue, or says that it was not taken.
    fn hand_out(&self, notice: Notice) -> Option<Delivery> {
        let (notifier, alert, dedup_key) = (notice.notifier.clone(), notice.alert.id.clone(), notice.dedup_key.clone());
        let reason = match self.notifiers.get(&notifier) {
            None => "no such notifier",
            Some(queue) => match queue.try_send(notice) {
                Ok(()) => return None,
                Err(mpsc::error::TrySendError::Full(_)) => "its queue is full",
                Err(mpsc::error::TrySendError::Closed(_)) => "it has stopped",
            },
        };
        warn!(%notifier, %alert, error = reason, "notice was not handed out; it stays due");
        Some(Delivery { notifier, alert, dedup_key, outcome: Err(SendFailure::Transient(reason.to_owned())) })
    }

    fn count(&self, event: &Event) {
        match event {
            Event::Polled(observation) => self.metrics.polled(
                observation.outcome.as_ref().err(),
                observation.answered_at.duration_since(observation.asked_at),
            ),
            Event::Surveyed(survey) => {
                self.metrics.surveyed(survey.outcome.as_ref(), survey.answered_at.duration_since(survey.asked_at));
            }
            Event::Pooled(_) => {}
            Event::Delivered(delivery) => {
                self.metrics.delivered(delivery.notifier.as_str(), delivery.outcome.as_ref().err());
            }
            Event::Tick => {}
        }
    }
}
