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
use crate::core::drain;
use crate::core::fleet::{Event, Fleet, News};
use crate::core::lag::SavedLag;
use crate::core::ledger::{Delivery, Notice, Recipient, SendFailure};
use crate::core::saved::{Saved, SavedAlert};
use crate::core::silence::{Change, Changed, Refusal};
use crate::core::snapshot::Snapshot;
use crate::core::time::MonoTime;
use crate::core::topology::Name;
use crate::core::topology::events::TopologyEvent;
use crate::self_metrics::SelfMetrics;
use crate::store::{Clocks, Mail, Store, Written};

/// Publishing is coalesced: readers see a change within this time, and a thousand polls a second cost twenty snapshots.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);
/// An answer that is overdue is noticed within this time.
const AGE_EVERY: Duration = Duration::from_millis(200);

/// Events taken in one go before readers and the clock get their turn.
const BATCH: usize = 256;

/// How often the history of each cluster's WAL is kept.
const KEEP_LAGS_EVERY: Duration = Duration::from_secs(60);

/// What waits for the store goes on without it after this time: a disk that hangs must not swallow an alert.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// What is answered to whoever makes or ends a silence.
pub type SilenceAnswer = Result<Changed, Refusal>;

/// A silence to be made or ended, and who waits for the answer.
pub type Silencing = (Change, oneshot::Sender<SilenceAnswer>);

/// What is answered to whoever drains a target, or undoes it.
pub type DrainAnswer = Result<drain::Changed, drain::Refusal>;

/// A drain to be made or undone, and who waits for the answer.
pub type Draining = (drain::Change, oneshot::Sender<DrainAnswer>);

/// An answer that waits for the store.
#[derive(Debug)]
pub enum Unanswered {
    Silence(oneshot::Sender<SilenceAnswer>, Changed),
    Drain(oneshot::Sender<DrainAnswer>, drain::Changed),
}

impl Unanswered {
    /// Whoever asked may have gone meanwhile.
    fn answer(self, stored: Result<(), String>) {
        match self {
            Self::Silence(answer, changed) => drop(answer.send(Ok(Changed { stored, ..changed }))),
            Self::Drain(answer, changed) => drop(answer.send(Ok(drain::Changed { stored, ..changed }))),
        }
    }
}

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
    pub unwritten: Unwritten,
    /// Drains to be made or undone, likewise.
    pub draining: mpsc::Receiver<Draining>,
    /// What the store was last handed. `None` at first: what was read is written once more, which shows that it can be.
    pub kept: Option<BTreeMap<AlertId, SavedAlert>>,
}

/// What waits for the store.
#[derive(Debug, Default)]
pub struct Unwritten {
    /// How many mails it was handed.
    n_mails: u64,
    /// Since when one of them is not answered.
    since: Option<MonoTime>,
    /// Each with the mail that it waits for.
    notices: VecDeque<(u64, Vec<Notice>)>,
    answers: VecDeque<(u64, Unanswered)>,
}

impl Unwritten {
    /// What need not wait any longer, with all mails up to `number` answered.
    fn up_to(&mut self, number: u64) -> (Vec<Notice>, Vec<Unanswered>) {
        let n_notices = self.notices.partition_point(|(of, _)| *of <= number);
        let n_answers = self.answers.partition_point(|(of, ..)| *of <= number);
        (
            self.notices.drain(..n_notices).flat_map(|(_, notices)| notices).collect(),
            self.answers.drain(..n_answers).map(|(_, answer)| answer).collect(),
        )
    }
}

impl Engine {
    /// Runs until all who could send an event are gone and their last events are applied, then publishes once more.
    pub async fn run(mut self) {
        let mut tick = ticks(self.tick);
        let mut aging = ticks(AGE_EVERY);
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
                    self.go_on_without_store(now);
                }
                _ = aging.tick(), if !self.cancel.is_cancelled() => {
                    if !self.fleet.age(clock::now()) {
                        continue;
                    }
                }
                Some((change, answer)) = self.silencing.recv() => self.silence(change, answer),
                Some((change, answer)) = self.draining.recv() => self.drain(change, answer),
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
            let alerts = self.fleet.saved_alerts();
            store.put(Mail { lags: Some(self.fleet.saved_lags()), ..self.mail(alerts) });
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
        if self.store.is_none() || !is_kept {
            self.hand_out_all(notices);
            return;
        }
        let alerts = self.fleet.saved_alerts();
        if keeps_lags || !notices.is_empty() || self.kept.as_ref() != Some(&alerts) {
            let lags = keeps_lags.then(|| self.fleet.saved_lags());
            let number = self.keep(alerts.clone(), lags);
            if !notices.is_empty() {
                self.unwritten.notices.push_back((number, notices));
            }
            self.kept = Some(alerts);
        }
    }

    /// Hands the state to the store. The number is that of the mail to wait for.
    fn keep(&mut self, alerts: BTreeMap<AlertId, SavedAlert>, lags: Option<BTreeMap<Name, SavedLag>>) -> u64 {
        self.unwritten.n_mails += 1;
        self.unwritten.since.get_or_insert_with(clock::now);
        let mail = Mail { lags, ..self.mail(alerts) };
        if let Some(store) = &self.store {
            store.put(mail);
        }
        self.unwritten.n_mails
    }

    /// The state as it is to be kept.
    fn mail(&self, alerts: BTreeMap<AlertId, SavedAlert>) -> Mail {
        let silences = Arc::clone(self.fleet.silences());
        let drains = Arc::clone(self.fleet.drains());
        Mail { number: self.unwritten.n_mails, clocks: self.clocks(), alerts, silences, drains, lags: None }
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
                // Whoever is answered may look for it next.
                self.publish();
                self.answer_when_written(Unanswered::Silence(answer, changed));
            }
        }
    }

    /// Drains a target, or undoes it. It is answered once that is written, or cannot be.
    fn drain(&mut self, change: drain::Change, answer: oneshot::Sender<DrainAnswer>) {
        match self.fleet.change_drains(change, clock::now(), clock::wall()) {
            Err(refusal) => drop(answer.send(Err(refusal))),
            Ok(changed) => {
                let drain = &changed.drain;
                let (cluster, target) = (&drain.target.cluster, &drain.target.target);
                let (author, reason) = (&drain.author, drain.reason.as_deref());
                if changed.is_over {
                    info!(%cluster, %target, author, reason, "{} is drained no more", drain.target);
                } else {
                    let left = humantime::format_duration(drain.left(clock::now()).unwrap_or_default());
                    info!(%cluster, %target, author, reason, %left, "{} is drained", drain.target);
                }
                self.publish();
                self.answer_when_written(Unanswered::Drain(answer, changed));
            }
        }
    }

    fn answer_when_written(&mut self, unanswered: Unanswered) {
        if self.store.is_some() {
            let number = self.keep(self.fleet.saved_alerts(), None);
            self.unwritten.answers.push_back((number, unanswered));
        } else {
            unanswered.answer(Err("nothing is kept: store.path names no file".to_owned()));
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
    fn after_writing(&mut self, written: Option<Written>) {
        let Some(Written { number, outcome, found }) = written else {
            // Its thread is no more.
            self.store = None;
            self.release(u64::MAX, &Err("the store has ended".to_owned()));
            return;
        };
        self.unwritten.since = (number < self.unwritten.n_mails).then(clock::now);
        self.release(number, &outcome);
        if let Some(found) = found {
            // How the WAL went is known better here.
            self.fleet.restore(Saved { lags: BTreeMap::new(), ..found }, clock::now());
            self.kept = None;
        }
    }

    /// A disk may not answer for minutes, without an error.
    fn go_on_without_store(&mut self, now: MonoTime) {
        let Unwritten { since, notices, answers, .. } = &self.unwritten;
        let is_overdue = since.is_some_and(|since| now.duration_since(since) >= STORE_PATIENCE);
        let has_waiting = !notices.is_empty() || !answers.is_empty();
        if is_overdue && (has_waiting || !self.metrics.is_store_failing()) {
            self.release(u64::MAX, &Err("the disk does not answer".to_owned()));
        }
    }

    /// Lets go what waits for the mails up to `number`.
    fn release(&mut self, number: u64, outcome: &Result<(), String>) {
        self.metrics.stored(outcome);
        let (notices, answers) = self.unwritten.up_to(number);
        for answer in answers {
            answer.answer(outcome.clone());
        }
        self.hand_out_all(notices);
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

/// How the next writing went; never, where nothing is kept.
async fn written(store: &mut Option<Store>) -> Option<Written> {
    match store {
        Some(store) => store.written().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fleet::FleetSpec;
    use crate::core::ledger::pacing::AlertingConfig;
    use crate::core::silence::selector::Selector;
    use crate::core::silence::{Length, NewSilence};
    use crate::notify::message::tests::firing;

    /// An engine whose store never answers, for its thread is not started, and what its notifier is handed.
    fn hung(dir: &std::path::Path) -> (Engine, crate::store::Writer, mpsc::Receiver<Notice>) {
        let fleet = Fleet::new(FleetSpec {
            clusters: Vec::new(),
            discoveries: Vec::new(),
            poll_interval: Duration::from_secs(1),
            stale_after: Duration::from_secs(5),
            survey_stale_after: Duration::from_secs(45),
            pooler_stale_after: Duration::from_secs(15),
            rules: Vec::new(),
            maintenance: Vec::new(),
            recipients: Vec::new(),
            alerting: AlertingConfig::default(),
        });
        let clocks = Clocks { boot: clock::boot(), mono: clock::now(), wall: clock::wall() };
        let (store, writer, _) = Store::open(dir.join("state.db"), &clocks);
        let (_, events) = mpsc::channel(1);
        let (_, silencing) = mpsc::channel(1);
        let (_, draining) = mpsc::channel(1);
        let (queue, handed) = mpsc::channel(8);
        let notifiers = Queues::default();
        notifiers.add(firing().notifier, queue);
        let engine = Engine {
            snapshots: watch::channel(Arc::new(fleet.snapshot(clocks.mono, clocks.wall))).0,
            fleet,
            events,
            notifiers,
            metrics: Arc::new(SelfMetrics::new(&[])),
            tick: Duration::from_secs(1),
            cancel: CancellationToken::new(),
            store: Some(store),
            boot: clocks.boot,
            kept: None,
            silencing,
            draining,
            unwritten: Unwritten::default(),
        };
        (engine, writer, handed)
    }

    #[test]
    fn a_disk_that_hangs_holds_up_an_alert_for_some_seconds_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (mut engine, _writer, mut handed) = hung(dir.path());
        let now = clock::now();
        for _ in 0..2 {
            let number = engine.keep(BTreeMap::new(), None);
            engine.unwritten.notices.push_back((number, vec![firing()]));
        }
        engine.go_on_without_store(now.plus(STORE_PATIENCE / 2));
        assert!(handed.try_recv().is_err() && !engine.metrics.is_store_failing());
        engine.go_on_without_store(now.plus(STORE_PATIENCE * 2));
        assert!(handed.try_recv().is_ok() && handed.try_recv().is_ok() && engine.metrics.is_store_failing());
        // It answers after all: what has left does not leave again.
        engine.after_writing(Some(Written { number: 2, outcome: Ok(()), found: None }));
        assert!(handed.try_recv().is_err() && !engine.metrics.is_store_failing());
    }

    #[test]
    fn what_waits_for_a_mail_leaves_with_it_and_no_sooner() {
        let dir = tempfile::tempdir().unwrap();
        let (mut engine, _writer, mut handed) = hung(dir.path());
        for _ in 0..2 {
            let number = engine.keep(BTreeMap::new(), None);
            engine.unwritten.notices.push_back((number, vec![firing()]));
        }
        engine.after_writing(Some(Written { number: 1, outcome: Ok(()), found: None }));
        assert!(handed.try_recv().is_ok() && handed.try_recv().is_err());
        assert!(engine.unwritten.since.is_some());
        // Its thread has ended: nothing waits for it any more.
        engine.after_writing(None);
        assert!(handed.try_recv().is_ok() && engine.store.is_none() && engine.metrics.is_store_failing());
    }

    #[test]
    fn a_change_is_shown_before_it_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let (mut engine, _writer, _handed) = hung(dir.path());
        let (answer, mut answered) = oneshot::channel();
        let (author, reason) = ("ann".to_owned(), "work".to_owned());
        let length = Length::For(Duration::from_secs(3600));
        let new = NewSilence { selector: Selector::default(), all: true, author, reason, length };
        engine.silence(Change::Add(new), answer);
        assert_eq!(engine.snapshots.borrow().silences.all().len(), 1);
        assert!(answered.try_recv().is_err(), "it is not written yet");
    }
}
