//! The poll loop of one target.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::StatementsConfig;
use super::backoff;
use super::beat::Seat;
use super::dialog::Dialog;
use super::queries::survey::{Known, Wanted};
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

/// Asks one target whenever its turn comes, and says what it answered.
#[derive(Debug)]
pub struct TargetTask {
    pub(crate) id: TargetId,
    pub(crate) seat: Seat,
    pub(crate) dialog: Dialog,
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
}

/// Failures in a row, and how long the target is left alone for them.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    count: u32,
    last: Option<PollFailure>,
    retry_at: Option<MonoTime>,
}

impl TargetTask {
    pub fn id(&self) -> &TargetId {
        &self.id
    }

    /// Runs until cancelled, until the beat ends, or until nobody takes events any more.
    /// Boxed: a future keeps its arguments where they came and where they are used, and there may be thousands of these.
    pub async fn run(mut self: Box<Self>, events: mpsc::Sender<Event>, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.turns(&events)).await;
        self.dialog.end().await;
    }

    async fn turns(&mut self, events: &mpsc::Sender<Event>) {
        while let Some(beat) = self.seat.turn().await {
            if self.failures.retry_at.is_some_and(|at| clock::now() < at) {
                self.seat.answered(None);
            // Boxed: between two turns, which is nearly always, a target then keeps no place for one.
            } else if Box::pin(self.take_turn(beat, events)).await.is_err() {
                return;
            }
            self.seat.ready();
        }
    }

    async fn take_turn(
        &mut self,
        beat: u64,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        let observation = self.observe(beat).await;
        self.seat.answered(observation.outcome.as_ref().ok().map(Positions::role));
        events.send(Event::Polled(observation)).await?;
        if self.dialog.identity().is_some() && self.survey_at.is_none_or(|at| clock::now() >= at) {
            let survey = self.survey().await;
            events.send(Event::Surveyed(Box::new(survey))).await?;
            self.learn_texts().await;
        }
        Ok(())
    }

    /// One fast poll. The stamps of an answer are those of its question alone; a failure's cover the whole attempt.
    async fn observe(&mut self, beat: u64) -> Observation {
        let began = clock::now();
        // Boxed, here and below, so that it takes no place in what comes after it.
        let answer = Box::pin(self.dialog.positions()).await;
        let ended = clock::now();
        let target = self.id.clone();
        match answer {
            Ok(answer) => {
                self.note_success(&answer.facts, ended.duration_since(began));
                let (asked_at, answered_at) = (answer.asked_at, answer.answered_at);
                Observation { target, beat, asked_at, answered_at, outcome: Ok(answer.facts) }
            }
            Err(failure) => {
                self.note_failure(&failure, ended);
                Observation { target, beat, asked_at: began, answered_at: ended, outcome: Err(failure) }
            }
        }
    }

    async fn survey(&mut self) -> Survey {
        let began = clock::now();
        self.survey_at = Some(self.next_survey(began));
        // Who may not see all statements cannot tell by them which have moved.
        let sees_all = self.dialog.identity().is_some_and(|identity| identity.reads_all_stats);
        self.n_surveys = self.n_surveys.wrapping_add(1);
        let known = if sees_all { Known::of(&self.tracker, self.n_surveys) } else { None };
        let wanted = Wanted {
            statements: self.statements.enabled,
            known: known.as_ref(),
            since: self.tracker.known().is_some(),
            idle_limit: self.idle_limit,
        };
        let mut answer = Box::pin(self.dialog.survey(wanted)).await;
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
        Survey { target: self.id.clone(), asked_at, answered_at, outcome }
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
    async fn learn_texts(&mut self) {
        if !self.statements.show_text || self.texts_at.is_some_and(|at| clock::now() < at) {
            return;
        }
        let queryids = self.tracker.untold();
        if queryids.is_empty() {
            return;
        }
        let wanted = Wanted { statements: true, known: None, since: false, idle_limit: self.idle_limit };
        let began = clock::now();
        let answer = Box::pin(self.dialog.statement_texts(wanted, &queryids)).await;
        let ended = clock::now();
        let wait = match answer {
            Ok(texts) => {
                self.tracker.tell(&queryids, &texts);
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
        if self.failures.count > 0 && self.role.is_some() {
            info!(%cluster, %target, failures = self.failures.count, "{} answers again", self.id);
        }
        self.role = Some(role);
        self.failures = Failures::default();
    }

    fn note_failure(&mut self, failure: &PollFailure, at: MonoTime) {
        let (cluster, target) = (&self.id.cluster, &self.id.target);
        if self.failures.last.as_ref().map(PollFailure::kind) == Some(failure.kind()) {
            debug!(%cluster, %target, error = %failure, "{} still cannot be polled: {failure}", self.id);
        } else {
            warn!(%cluster, %target, error = %failure, "{} cannot be polled: {failure}", self.id);
        }
        self.failures.count = self.failures.count.saturating_add(1);
        let wait = backoff::wait(failure, self.failures.count, chance(&self.id, at));
        self.failures.retry_at = Some(at.plus(wait));
        self.failures.last = Some(failure.clone());
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
