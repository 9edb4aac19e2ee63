//! The one task that owns the [`Fleet`]: takes events, applies them, publishes what readers see and hands out notices.
//!
//! It never waits for a notifier or a reader: a notifier's full queue counts as a failed attempt, and a snapshot replaces
//! the one before. So nothing downstream can hold up the polling upstream.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock;
use crate::core::alert::AlertId;
use crate::core::fleet::{Event, Fleet, News};
use crate::core::ledger::{Delivery, Notice, Recipient, SendFailure};
use crate::core::saved::SavedAlert;
use crate::core::silence::{Change, Changed, Refusal};
use crate::core::snapshot::Snapshot;
use crate::core::topology::Name;
use crate::core::topology::events::TopologyEvent;
use crate::self_metrics::SelfMetrics;
use crate::store::{Clocks, Mail, Store, Written};

/// Publishing is coalesced: readers see a change within this time, and a thousand polls a second cost twenty snapshots.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// Events taken in one go before readers and the clock get their turn.
const BATCH: usize = 256;

/// How often the history of each cluster's WAL is kept.
const KEEP_LAGS_EVERY: Duration = Duration::from_secs(60);

/// What is answered to whoever makes or ends a silence.
pub type SilenceAnswer = Result<Changed, Refusal>;

/// A silence to be made or ended, and who waits for the answer.
pub type Silencing = (Change, oneshot::Sender<SilenceAnswer>);

/// Where notices for each notifier go. Notifiers come and go: whoever starts one adds its queue before the fleet hears of
/// it, and the engine drops the queues of those that are told nothing any more.
#[derive(Clone, Debug, Default)]
pub struct Queues(Arc<Mutex<HashMap<Name, mpsc::Sender<Notice>>>>);

impl Queues {
    pub fn add(&self, name: Name, queue: mpsc::Sender<Notice>) {
        self.lock().insert(name, queue);
    }

    pub fn get(&self, name: &Name) -> Option<mpsc::Sender<Notice>> {
        self.lock().get(name).cloned()
    }

    fn retain(&self, recipients: &[Recipient]) {
        self.lock().retain(|name, _| recipients.iter().any(|recipient| recipient.name == *name));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, mpsc::Sender<Notice>>> {
        // Nothing that could panic is done while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the engine talks to.
pub struct Engine {
    pub fleet: Fleet,
    pub events: mpsc::Receiver<Event>,
    pub notifiers: Queues,
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    pub metrics: Arc<SelfMetrics>,
    /// How often what depends on time alone is brought up to date.
    pub tick: Duration,
    /// The daemon stops. Nobody polls any more then, and the silence that follows is our own: it is not judged.
    pub cancel: CancellationToken,
    /// `None`: nothing is kept over a restart.
    pub store: Option<Store>,
    /// Tells boots of machines apart.
    pub boot: String,
    /// Silences to be made or ended, each with whoever waits for the answer.
    pub silencing: mpsc::Receiver<Silencing>,
    /// Answers that wait for the store, in the order in which it was handed the changes.
    pub unanswered: VecDeque<(oneshot::Sender<SilenceAnswer>, Changed)>,
    /// What the store was last handed. `None` at first: what was read is written once more, which shows that it can be.
    pub kept: Option<BTreeMap<AlertId, SavedAlert>>,
}

impl Engine {
    /// Runs until all who could send an event are gone and their last events are applied, then publishes once more.
    pub async fn run(mut self) {
        let mut tick = ticks(self.tick);
        let mut batch = Vec::with_capacity(BATCH);
        let mut published_at = Instant::now();
        // One timer, set once a publication: not anew for each event.
        let mut publication = pin!(sleep_until(published_at));
        let mut has_news = false;
        let mut lags_kept_at = clock::now();
        loop {
            tokio::select! {
                biased;
                () = publication.as_mut(), if has_news => {
                    has_news = false;
                    published_at = Instant::now();
                    self.publish();
                    continue;
                }
                written = written(&mut self.store) => self.after_writing(written),
                _ = tick.tick(), if !self.cancel.is_cancelled() => {
                    let now = clock::now();
                    let keeps_lags = now.duration_since(lags_kept_at) >= KEEP_LAGS_EVERY;
                    if keeps_lags {
                        lags_kept_at = now;
                    }
                    self.apply(Event::Tick, keeps_lags);
                }
                Some((change, answer)) = self.silencing.recv() => self.silence(change, answer),
                received = self.events.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        break;
                    }
                    for event in batch.drain(..) {
                        let tick_before = self.tick;
                        self.apply(event, false);
                        if self.tick != tick_before {
                            tick = ticks(self.tick);
                        }
                    }
                }
            }
            if !has_news {
                has_news = true;
                publication.as_mut().reset(published_at + PUBLISH_EVERY);
            }
        }
        if let Some(store) = self.store.take() {
            store.put(Mail { lags: Some(self.fleet.saved_lags()), ..self.mail(self.fleet.saved_alerts()) });
            store.close().await;
        }
        self.publish();
    }

    fn publish(&self) {
        self.snapshots.send_replace(Arc::new(self.fleet.snapshot(clock::now(), clock::wall())));
    }

    fn apply(&mut self, event: Event, keeps_lags: bool) {
        self.count(&event);
        // Polls alone change nothing that is kept.
        let is_kept = matches!(event, Event::Tick | Event::Delivered(_) | Event::Members(_));
        if let Event::Members(spec) = &event {
            self.notifiers.retain(&spec.recipients);
            self.tick = tick_of(spec.poll_interval);
        }
        let (now, wall) = (clock::now(), clock::wall());
        let notices = self.fleet.apply(event, now, wall);
        let keeps_lags = (is_kept && self.log_news()) || keeps_lags;
        match &self.store {
            Some(store) if is_kept => {
                let alerts = self.fleet.saved_alerts();
                if keeps_lags || !notices.is_empty() || self.kept.as_ref() != Some(&alerts) {
                    let lags = keeps_lags.then(|| self.fleet.saved_lags());
                    store.put(Mail { lags, notices, ..self.mail(alerts.clone()) });
                    self.kept = Some(alerts);
                }
            }
            _ => self.hand_out_all(notices),
        }
    }

    /// The state as it is to be kept.
    fn mail(&self, alerts: BTreeMap<AlertId, SavedAlert>) -> Mail {
        Mail {
            clocks: self.clocks(),
            alerts,
            silences: Arc::clone(self.fleet.silences()),
            lags: None,
            notices: Vec::new(),
            n_changes: 0,
        }
    }

    /// Makes or ends a silence. It is answered once that is written, or cannot be.
    fn silence(&mut self, change: Change, answer: oneshot::Sender<SilenceAnswer>) {
        match self.fleet.change_silences(change, clock::now(), clock::wall()) {
            // Whoever asked may have gone meanwhile: here, and below.
            Err(refusal) => drop(answer.send(Err(refusal))),
            Ok(changed) => {
                let silence = &changed.silence;
                let (id, selector, author, reason) = (silence.id, &silence.selector, &silence.author, &silence.reason);
                let until = humantime::format_rfc3339_seconds(changed.until);
                if silence.was_expired() {
                    info!(silence = id, %selector, author, reason, "a silence is ended");
                } else {
                    info!(silence = id, %selector, author, reason, %until, "alerts are silenced");
                }
                if let Some(store) = &self.store {
                    store.put(Mail { n_changes: 1, ..self.mail(self.fleet.saved_alerts()) });
                    self.unanswered.push_back((answer, changed));
                } else {
                    let stored = Err("nothing is kept: store.path names no file".to_owned());
                    drop(answer.send(Ok(Changed { stored, ..changed })));
                }
            }
        }
    }

    /// Whether there was any.
    fn log_news(&mut self) -> bool {
        let news = self.fleet.take_news();
        let is_any = !news.is_empty();
        for (cluster, news) in news {
            match news {
                News::Changed(TopologyEvent { target, change, timeline, .. }) => {
                    let timeline = timeline.map(|timeline| timeline.0);
                    info!(%cluster, %target, change = change.as_str(), timeline, "the server changed its role or timeline");
                }
                News::SameServer { target, other } => {
                    warn!(%cluster, %target, %other, "{target} leads to the same server as {other}; they count as one");
                }
            }
        }
        is_any
    }

    /// What had to be written first may leave.
    fn after_writing(&mut self, written: Written) {
        self.metrics.stored(&written.outcome);
        for (answer, changed) in self.unanswered.drain(..written.n_changes.min(self.unanswered.len())) {
            drop(answer.send(Ok(Changed { stored: written.outcome.clone(), ..changed })));
        }
        self.hand_out_all(written.notices);
    }

    fn clocks(&self) -> Clocks {
        Clocks { boot: self.boot.clone(), mono: clock::now(), wall: clock::wall() }
    }

    fn hand_out_all(&mut self, notices: Vec<Notice>) {
        if self.cancel.is_cancelled() {
            // The notifiers take nothing more. What is due stays so.
            return;
        }
        let (now, wall) = (clock::now(), clock::wall());
        let mut notices = VecDeque::from(notices);
        // A notice that cannot be queued is a failed attempt: the ledger is told at once and will try again later.
        while let Some(notice) = notices.pop_front() {
            if let Some(refused) = self.hand_out(notice) {
                notices.extend(self.fleet.apply(Event::Delivered(refused), now, wall));
            }
        }
    }

    /// Puts a notice into its notifier's queue, or says that it was not taken.
    fn hand_out(&self, notice: Notice) -> Option<Delivery> {
        let (notice, reason) = match self.notifiers.get(&notice.notifier) {
            None => (notice, "no such notifier"),
            Some(queue) => match queue.try_send(notice) {
                Ok(()) => return None,
                Err(mpsc::error::TrySendError::Full(notice)) => (notice, "its queue is full"),
                Err(mpsc::error::TrySendError::Closed(notice)) => (notice, "it has stopped"),
            },
        };
        let (notifier, group) = (&notice.notifier, &notice.group);
        warn!(%notifier, %group, error = reason, "notice was not handed out; it stays due");
        Some(notice.ended(Err(SendFailure::Transient(reason.to_owned()))))
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
            Event::Pooled(observation) => self.metrics.pooled(observation.outcome.as_ref().err()),
            Event::Delivered(delivery) => {
                self.metrics.delivered(delivery.notifier.as_str(), delivery.outcome.as_ref().err());
            }
            Event::Measured(_) | Event::Tick | Event::Members(_) | Event::Discovered(_) | Event::Happened(_) => {}
        }
    }
}

/// How often what depends on time alone is brought up to date, where servers are asked this often.
pub fn tick_of(poll_interval: Duration) -> Duration {
    poll_interval.min(Duration::from_secs(1))
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The next notices that may leave; never, where nothing is kept.
async fn written(store: &mut Option<Store>) -> Written {
    match store {
        Some(store) => store.written().await,
        None => std::future::pending().await,
    }
}
