//! The poll loop of one target.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::StatementsConfig;
use super::backoff;
use super::beat::Seat;
use super::dialog::{Answers, Asking, Dialog, Step, SurveySoFar, SurveyWish};
use super::postgres::Progress;
use super::queries::survey::Known;
use super::turns::{QUICK, Turn};
use crate::clock;
use crate::core::fleet::Event;
use crate::core::observation::{Observation, PollFailure, Positions};
use crate::core::statements::StatementTracker;
use crate::core::survey::{Survey, SurveyFacts};
use crate::core::time::MonoTime;
use crate::core::topology::{Role, TargetId};

/// To tell a text the server loads those of all its statements. It is left alone for so many times what that took: it
/// then spends a thousandth of its time on it at most.
const TEXTS_PAUSE: u32 = 1000;

/// Texts that cannot be read are not asked for again before this.
const TEXTS_RETRY: Duration = Duration::from_secs(60 * 60);

/// A session that lived for less is not replaced before the next beat: something ends idle sessions, and would end the
/// next one, too.
const SHORT_LIFE: Duration = Duration::from_secs(10);

/// An attempt to connect that takes longer than a poll may take has failed that often, as far as anybody is told, until it
/// comes to an end.
const STILL_CONNECTING: Duration = Duration::from_secs(10);

/// Asks one target whenever its turn comes, and says what it answered.
///
/// Between two turns it notices when the session ends, and connects again at once; a server that cannot be reached is tried
/// again by [`backoff`], not by the beat. A survey goes on beside the questions for positions, in the same session.
#[derive(Debug)]
pub struct TargetTask {
    pub(crate) id: TargetId,
    pub(crate) seat: Seat,
    pub(crate) dialog: Dialog,
    /// How long a poll may take.
    pub(crate) timeout: Duration,
    pub(crate) statements: StatementsConfig,
    pub(crate) idle_limit: Duration,
    pub(crate) tracker: StatementTracker,
    /// Texts of statements are not asked for before this.
    pub(crate) texts_at: Option<MonoTime>,
    pub(crate) slow_interval: Duration,
    /// How much later than a whole number of slow intervals after the first survey the others come: so that what starts
    /// together does not survey together for ever.
    pub(crate) slow_offset: Duration,
    pub(crate) failures: Failures,
    /// By its last answer. `None`: it has never answered.
    pub(crate) role: Option<Role>,
    /// When the next survey is due. `None`: at the first answer.
    pub(crate) survey_at: Option<MonoTime>,
    pub(crate) n_surveys: u32,
    pub(crate) background: Background,
    /// When the session was opened.
    pub(crate) opened_at: Option<MonoTime>,
    /// Kept from before the session is opened until what comes of it costs the server no more than any poll.
    pub(crate) turn: Option<Turn>,
}

/// Failures in a row, and how long the target is left alone for them.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    count: u32,
    last: Option<PollFailure>,
    retry_at: Option<MonoTime>,
}

/// What is asked beside positions.
#[derive(Default)]
pub(crate) struct Background {
    work: Option<Box<Work>>,
    answers: Option<Answers>,
}

struct Work {
    asking: Asking,
    of: Matter,
    began: MonoTime,
}

enum Matter {
    Survey(Box<SurveySoFar>),
    /// Of the statements with these queryids.
    Texts(Vec<i64>),
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").field("is_idle", &self.work.is_none()).finish_non_exhaustive()
    }
}

impl Background {
    fn begin(&mut self, asking: Asking, of: Matter, began: MonoTime) {
        *self = Self { work: Some(Box::new(Work { asking, of, began })), answers: None };
    }

    /// Goes on asking. Ready when all is answered.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        if self.answers.is_none() {
            self.answers = Some(ready!(work.asking.as_mut().poll(cx)));
        }
        Poll::Ready(())
    }

    /// Waits until all is answered; for ever while nothing is asked.
    async fn done(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    /// Waits for something else, and goes on asking meanwhile.
    async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        poll_fn(|cx| {
            let _ = self.poll(cx);
            other.as_mut().poll(cx)
        })
        .await
    }

    fn take(&mut self) -> Option<(Matter, MonoTime, Answers)> {
        let answers = self.answers.take()?;
        self.work.take().map(|work| (work.of, work.began, answers))
    }

    fn is_idle(&self) -> bool {
        self.work.is_none()
    }

    fn stop(&mut self) {
        *self = Self::default();
    }
}

/// What a target waits for between two polls.
enum Next {
    /// Its turn has come. `None`: there will be no more.
    Turn(Option<u64>),
    /// Time to try again.
    Retry,
    /// The session has ended.
    Closed,
    /// What was asked beside positions is answered.
    Answered,
}

impl TargetTask {
    pub fn id(&self) -> &TargetId {
        &self.id
    }

    /// Runs until cancelled, until the beat ends, or until nobody takes events any more.
    /// Boxed: a future keeps its arguments where they came and where they are used, and there may be thousands of these.
    pub async fn run(mut self: Box<Self>, events: mpsc::Sender<Event>, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.turns(&events)).await;
        self.background.stop();
        self.dialog.end().await;
    }

    async fn turns(&mut self, events: &mpsc::Sender<Event>) {
        loop {
            let outcome = match self.next().await {
                Next::Turn(None) => return,
                Next::Turn(Some(_)) if self.failures.retry_at.is_some_and(|at| clock::now() < at) => {
                    self.seat.answered(None);
                    self.seat.ready();
                    Ok(())
                }
                // Boxed: between two turns, which is nearly always, a target then keeps no place for one.
                Next::Turn(Some(beat)) => Box::pin(self.poll(beat, events)).await,
                Next::Retry => {
                    let beat = self.seat.begin();
                    Box::pin(self.poll(beat, events)).await
                }
                Next::Closed => {
                    let is_over = self.opened_at.is_none_or(|at| clock::now().duration_since(at) < SHORT_LIFE);
                    self.leave_session();
                    self.dialog.close();
                    self.failures.retry_at = (!is_over).then(clock::now);
                    Ok(())
                }
                Next::Answered => Box::pin(self.go_on_asking(events)).await,
            };
            if outcome.is_err() {
                return;
            }
        }
    }

    async fn next(&mut self) -> Next {
        let Self { seat, dialog, background, failures, .. } = self;
        let retry = async {
            match failures.retry_at {
                Some(at) => tokio::time::sleep(at.duration_since(clock::now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            beat = seat.turn() => Next::Turn(beat),
            () = background.done() => Next::Answered,
            _ = dialog.closed() => Next::Closed,
            () = retry => Next::Retry,
        }
    }

    /// One fast poll, with all that it takes to make it. The stamps of an answer are those of its question alone; a
    /// failure's cover the whole attempt.
    async fn poll(&mut self, beat: u64, events: &mpsc::Sender<Event>) -> Result<(), mpsc::error::SendError<Event>> {
        let began = clock::now();
        self.failures.retry_at = None;
        let mut may_reconnect = self.dialog.is_open();
        let outcome = loop {
            if !self.dialog.is_open()
                && let Err(failure) = Box::pin(self.connect(beat, events)).await?
            {
                break Err(failure);
            }
            let answer = self.background.beside(Box::pin(self.dialog.positions())).await;
            let is_over = !self.dialog.is_open();
            match answer {
                // It had ended, and that was not noticed yet.
                Err(failure) if may_reconnect && is_over && !matches!(failure, PollFailure::Timeout { .. }) => {
                    may_reconnect = false;
                }
                answer => break answer,
            }
        };
        let ended = clock::now();
        let observation = match outcome {
            Ok(answer) => {
                self.note_success(&answer.facts, ended.duration_since(began));
                let (asked_at, answered_at) = (answer.asked_at, answer.answered_at);
                Observation { target: self.id.clone(), beat, asked_at, answered_at, outcome: Ok(answer.facts) }
            }
            Err(failure) => {
                self.note_failure(&failure);
                self.back_off(&failure, ended);
                self.failed(beat, began, ended, failure)
            }
        };
        self.seat.answered(observation.outcome.as_ref().ok().map(Positions::role));
        events.send(Event::Polled(observation)).await?;
        if !self.dialog.is_open() {
            self.leave_session();
        } else if self.dialog.identity().is_some()
            && self.background.is_idle()
            && self.survey_at.is_none_or(|at| clock::now() >= at)
        {
            self.begin_survey(events).await?;
        }
        if self.background.is_idle() {
            self.turn = None;
        }
        self.seat.ready();
        Ok(())
    }

    /// Opens a session, when its turn has come. What takes longer than a poll may take counts as a failure at once; but the
    /// attempt goes on, for as long as a connection may take.
    async fn connect(
        &mut self,
        beat: u64,
        events: &mpsc::Sender<Event>,
    ) -> Result<Result<(), PollFailure>, mpsc::error::SendError<Event>> {
        self.leave_session();
        let began = clock::now();
        let mut waiting = Box::pin(self.dialog.turn());
        let turn = if let Ok(turn) = tokio::time::timeout(self.timeout, &mut waiting).await {
            turn
        } else {
            // Who has not answered yet was not tried either.
            if self.role.is_some() && self.failures.count == 0 {
                let doing = "waiting for its turn to connect".to_owned();
                let failure = PollFailure::Timeout { doing, limit_ms: self.limit_ms() };
                self.publish_failure(beat, began, failure, events).await?;
            }
            self.seat.answered(None);
            waiting.await
        };
        self.turn = Some(turn);

        let began = clock::now();
        let progress = Arc::new(Progress::default());
        let mut connecting = Box::pin(self.dialog.opening(&progress));
        let mut gives_way = Some(QUICK);
        let mut shown_at = self.timeout;
        let outcome = loop {
            let passed = clock::now().duration_since(began);
            let wait = gives_way.map_or(shown_at, |quick| quick.min(shown_at)).saturating_sub(passed);
            if let Ok(outcome) = tokio::time::timeout(wait, &mut connecting).await {
                break outcome;
            }
            let passed = clock::now().duration_since(began);
            if let Some(turn) = self.turn.as_mut().filter(|_| gives_way.is_some_and(|quick| passed >= quick)) {
                turn.go_on(progress.is_accepted());
                gives_way = None;
            }
            if passed >= shown_at {
                let doing = progress.doing().to_owned();
                self.publish_failure(beat, began, PollFailure::Timeout { doing, limit_ms: self.limit_ms() }, events)
                    .await?;
                self.seat.answered(None);
                shown_at = passed + STILL_CONNECTING;
            }
        };
        match outcome {
            Ok(session) => {
                self.dialog.take(session);
                self.opened_at = Some(clock::now());
                Ok(Ok(()))
            }
            Err(failure) => {
                self.turn = None;
                Ok(Err(failure))
            }
        }
    }

    /// Nothing more is asked in this session.
    fn leave_session(&mut self) {
        self.background.stop();
        self.opened_at = None;
        self.turn = None;
    }

    fn limit_ms(&self) -> u64 {
        u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX)
    }

    fn failed(&self, beat: u64, began: MonoTime, ended: MonoTime, failure: PollFailure) -> Observation {
        Observation { target: self.id.clone(), beat, asked_at: began, answered_at: ended, outcome: Err(failure) }
    }

    /// Reports an attempt that goes on as one that has failed so far.
    async fn publish_failure(
        &mut self,
        beat: u64,
        began: MonoTime,
        failure: PollFailure,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        self.note_failure(&failure);
        let observation = self.failed(beat, began, clock::now(), failure);
        events.send(Event::Polled(observation)).await
    }

    fn wish(&self, known: Option<Known>) -> SurveyWish {
        SurveyWish {
            statements: self.statements.enabled,
            known: known.map(Arc::new),
            since: self.tracker.known().is_some(),
            idle_limit: self.idle_limit,
        }
    }

    async fn begin_survey(&mut self, events: &mpsc::Sender<Event>) -> Result<(), mpsc::error::SendError<Event>> {
        let began = clock::now();
        self.survey_at = Some(self.next_survey(began));
        // Who may not see all statements cannot tell by them which have moved.
        let sees_all = self.dialog.identity().is_some_and(|identity| identity.reads_all_stats);
        self.n_surveys = self.n_surveys.wrapping_add(1);
        let known = if sees_all { Known::of(&self.tracker, self.n_surveys) } else { None };
        let wish = self.wish(known);
        let so_far = self.dialog.begin_survey(wish);
        self.go_on_surveying(so_far, began, events).await
    }

    /// Takes what was answered beside positions, and asks what comes next.
    async fn go_on_asking(&mut self, events: &mpsc::Sender<Event>) -> Result<(), mpsc::error::SendError<Event>> {
        let Some((matter, began, answers)) = self.background.take() else { return Ok(()) };
        match matter {
            Matter::Survey(mut so_far) => {
                self.dialog.take_of_survey(&mut so_far, answers);
                self.go_on_surveying(so_far, began, events).await?;
            }
            Matter::Texts(queryids) => self.take_texts(&queryids, began, answers),
        }
        if self.background.is_idle() {
            self.turn = None;
        }
        Ok(())
    }

    async fn go_on_surveying(
        &mut self,
        mut so_far: Box<SurveySoFar>,
        began: MonoTime,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        let mut answer = match self.dialog.next_of_survey(&mut so_far) {
            Step::Ask(asking) => {
                self.background.begin(asking, Matter::Survey(so_far), began);
                return Ok(());
            }
            Step::Done(answer) => *answer,
        };
        if let Ok(answer) = &mut answer {
            self.add_up(&mut answer.facts);
        }
        let ended = clock::now();
        let (asked_at, answered_at, outcome) = match answer {
            Ok(answer) => (answer.asked_at, answer.answered_at, Ok(answer.facts)),
            Err(failure) => (began, ended, Err(failure)),
        };
        debug!(
            cluster = %self.id.cluster, target = %self.id.target, took_ms = ended.duration_since(began).as_millis() as u64,
            error = outcome.as_ref().err().map(tracing::field::display), "surveyed"
        );
        let survey = Survey { target: self.id.clone(), asked_at, answered_at, outcome };
        events.send(Event::Surveyed(Box::new(survey))).await?;
        self.ask_texts();
        Ok(())
    }

    /// Has the entries of `pg_stat_statements` become counters: thousands of them are not sent on.
    fn add_up(&mut self, facts: &mut SurveyFacts) {
        let started_at = self.dialog.identity().map(|identity| identity.started_at);
        if let (Some(statements), Some(started_at)) = (facts.statements.take(), started_at) {
            let counters = self.tracker.observe(&statements, started_at, self.statements.top);
            facts.statement_counters = Some(Arc::new(counters));
        }
    }

    /// Asks for the texts of statements that came among the top. Rarely: see [`TEXTS_PAUSE`].
    fn ask_texts(&mut self) {
        if !self.statements.show_text || self.texts_at.is_some_and(|at| clock::now() < at) {
            return;
        }
        let queryids = self.tracker.untold();
        if queryids.is_empty() {
            return;
        }
        if let Some(asking) = self.dialog.ask_texts(&self.wish(None), &queryids) {
            self.background.begin(asking, Matter::Texts(queryids), clock::now());
        }
    }

    fn take_texts(&mut self, queryids: &[i64], began: MonoTime, answers: Answers) {
        let answer = self.dialog.take_texts(answers);
        let ended = clock::now();
        let wait = match answer {
            Ok(texts) => {
                self.tracker.tell(queryids, &texts);
                ended.duration_since(began) * TEXTS_PAUSE
            }
            Err(failure) => {
                debug!(
                    cluster = %self.id.cluster, target = %self.id.target, error = %failure,
                    "the texts of statements cannot be read: {failure}"
                );
                TEXTS_RETRY
            }
        };
        self.texts_at = Some(ended.plus(wait));
    }

    /// Surveys keep their own cadence: one that comes late does not make all later ones late.
    fn next_survey(&self, now: MonoTime) -> MonoTime {
        let Some(due) = self.survey_at else { return now.plus(self.slow_offset) };
        let next = due.plus(self.slow_interval);
        if next > now { next } else { now.plus(self.slow_interval) }
    }

    fn note_success(&mut self, positions: &Positions, took: Duration) {
        let (cluster, target, took_ms) = (&self.id.cluster, &self.id.target, took.as_millis() as u64);
        let (role, version) = (positions.role(), &positions.identity.version);
        debug!(%cluster, %target, took_ms, "polled");
        match self.role {
            None => info!(%cluster, %target, %role, version, took_ms, "{} answers for the first time", self.id),
            Some(was) if was != role => info!(%cluster, %target, %role, "{} is a {role} now; it was a {was}", self.id),
            Some(_) => {}
        }
        if self.failures.last.is_some() && self.role.is_some() {
            info!(%cluster, %target, failures = self.failures.count, "{} answers again", self.id);
        }
        self.role = Some(role);
        self.failures = Failures::default();
    }

    fn note_failure(&mut self, failure: &PollFailure) {
        let (cluster, target) = (&self.id.cluster, &self.id.target);
        if self.failures.last.as_ref().map(PollFailure::kind) == Some(failure.kind()) {
            debug!(%cluster, %target, error = %failure, "{} still cannot be polled: {failure}", self.id);
        } else {
            warn!(%cluster, %target, error = %failure, "{} cannot be polled: {failure}", self.id);
        }
        self.failures.last = Some(failure.clone());
    }

    fn back_off(&mut self, failure: &PollFailure, at: MonoTime) {
        self.failures.count = self.failures.count.saturating_add(1);
        let wait = backoff::wait(failure, self.failures.count, chance(&self.id, at));
        self.failures.retry_at = Some(at.plus(wait));
    }
}

/// A number in `0.0..1.0` that differs from target to target and from time to time; no more is asked of it.
fn chance(id: &TargetId, at: MonoTime) -> f64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (id, at).hash(&mut hasher);
    (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64
}

/// The slow beats of a target: `index` is its place in its cluster, `cluster` its cluster's.
pub(crate) fn slow_offset(cluster: usize, index: usize, slow_interval: Duration) -> Duration {
    // At least a third of the way, so that the second survey is worth its while.
    slow_interval.mul_f64(1.0 / 3.0 + 2.0 / 3.0 * super::beat::spread(cluster.wrapping_mul(31).wrapping_add(index)))
}
