//! The poll loop of one connection pooler: its admin console, on a beat of its own.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::PollConfig;
use super::backoff;
use super::conninfo::Conninfo;
use super::postgres;
use super::queries::console;
use super::session::{Limits, Session, SettingsBy};
use super::tls::Trust;
use crate::clock;
use crate::core::fleet::Event;
use crate::core::observation::PollFailure;
use crate::core::pooler::{PoolerFacts, PoolerObservation};
use crate::core::time::MonoTime;
use crate::core::topology::TargetId;

/// The conversation with one console.
#[derive(Debug)]
pub(super) struct Console {
    conninfo: Arc<Conninfo>,
    trust: Arc<Trust>,
    timeout: Duration,
    connect_timeout: Duration,
    session: Option<Session>,
    /// Learned once a session.
    version: Option<String>,
}

impl Console {
    pub(super) fn new(conninfo: Arc<Conninfo>, trust: Arc<Trust>, poll: &PollConfig) -> Self {
        let (timeout, connect_timeout) = (poll.timeout, poll.connect_timeout);
        Self { conninfo, trust, timeout, connect_timeout, session: None, version: None }
    }

    /// Whether there is a session, as far as is known by now.
    fn is_open(&self) -> bool {
        self.session.as_ref().is_some_and(|session| !session.is_closed())
    }

    /// Opens a session, which [`Console::take`] is to be given.
    pub(super) fn opening(&self) -> impl Future<Output = Result<Session, PollFailure>> + Send + use<> {
        let limits = Limits { connect: self.connect_timeout, ..Limits::within(self.timeout) };
        let (conninfo, trust) = (Arc::clone(&self.conninfo), Arc::clone(&self.trust));
        // Boxed: it is big, and needed rarely.
        Box::pin(async move { postgres::connect(&conninfo, &limits, SettingsBy::Console, &trust).await })
    }

    pub(super) fn take(&mut self, session: Session) {
        self.session = Some(session);
        self.version = None;
    }

    /// What it says, in the session that it was given. One that failed is not used again.
    ///
    /// # Errors
    /// No answer, or one that cannot be read.
    pub(super) async fn ask(&mut self) -> Result<PoolerFacts, PollFailure> {
        let answer = tokio::time::timeout(self.timeout, self.converse()).await.unwrap_or_else(|_| {
            let limit_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
            Err(PollFailure::Timeout { doing: "asking the pooler's console".to_owned(), limit_ms })
        });
        if answer.is_err() {
            self.session = None;
        }
        answer
    }

    /// Ends the session, should there be one.
    pub(super) async fn end(&mut self) {
        if let Some(session) = self.session.take() {
            session.end().await;
        }
    }

    async fn converse(&mut self) -> Result<PoolerFacts, PollFailure> {
        let Some(session) = &self.session else {
            return Err(PollFailure::Lost { reason: "no session".to_owned() });
        };
        if self.version.is_none() {
            self.version = console::version(&session.simple_query(console::VERSION).await?)?;
        }
        let mut unread = None;
        let pools = console::pools(&session.simple_query(console::POOLS).await?, &mut unread)?;
        let databases = console::databases(&session.simple_query(console::DATABASES).await?, &mut unread)?;
        let totals = console::stats(&session.simple_query(console::STATS).await?, &mut unread)?;
        Ok(PoolerFacts {
            version: self.version.clone(),
            tls: session.tls(),
            pools,
            databases,
            totals,
            unread: unread.map(Box::new),
        })
    }
}

/// Asks one pooler at its beat, and says what it answered.
#[derive(Debug)]
pub struct PoolerTask {
    pub(super) id: TargetId,
    pub(super) console: Console,
    /// How long a poll may take.
    pub(super) timeout: Duration,
    pub(super) interval: Duration,
    /// So that poolers that are watched from one start are not asked all at once for ever.
    pub(super) offset: Duration,
    pub(super) n_failures: u32,
    /// Its kind.
    pub(super) last_failure: Option<&'static str>,
    pub(super) has_answered: bool,
    /// Whether the last answer had a row that cannot be read.
    pub(super) leaves_unread: bool,
}

impl PoolerTask {
    pub fn id(&self) -> &TargetId {
        &self.id
    }

    /// Runs until cancelled, or until nobody takes events any more.
    pub async fn run(mut self, events: mpsc::Sender<Event>, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.polls(&events)).await;
        self.console.end().await;
    }

    async fn polls(&mut self, events: &mpsc::Sender<Event>) {
        let mut due = Instant::now();
        // The first poll at once: whether it can be reached is wanted soon.
        let mut offset = self.offset;
        loop {
            let asked_at = clock::now();
            let mut opened = Ok(());
            if !self.console.is_open() {
                let mut opening = Box::pin(self.console.opening());
                let outcome = if let Ok(outcome) = tokio::time::timeout(self.timeout, &mut opening).await {
                    outcome
                } else {
                    // It has failed so far, and goes on.
                    let limit_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
                    let failure = PollFailure::Timeout { doing: "connecting".to_owned(), limit_ms };
                    self.note(Some(&failure));
                    if self.publish(asked_at, Err(failure), events).await.is_err() {
                        return;
                    }
                    opening.await
                };
                opened = outcome.map(|session| self.console.take(session));
            }
            let outcome = match opened {
                Ok(()) => Box::pin(self.console.ask()).await,
                Err(failure) => Err(failure),
            };
            let wait = self.note(outcome.as_ref().err());
            self.note_unread(outcome.as_ref().ok().and_then(|facts| facts.unread.as_deref()));
            if self.publish(asked_at, outcome, events).await.is_err() {
                return;
            }
            due = due.max(Instant::now().checked_sub(self.interval).unwrap_or(due)) + self.interval + offset;
            offset = Duration::ZERO;
            sleep_until(due.max(Instant::now() + wait)).await;
        }
    }

    async fn publish(
        &self,
        asked_at: MonoTime,
        outcome: Result<PoolerFacts, PollFailure>,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        let observation = PoolerObservation { pooler: self.id.clone(), asked_at, answered_at: clock::now(), outcome };
        events.send(Event::Pooled(observation)).await
    }

    /// Logs that rows cannot be read, when that is new.
    fn note_unread(&mut self, unread: Option<&PollFailure>) {
        let (cluster, pooler) = (&self.id.cluster, &self.id.target);
        if let Some(failure) = unread.filter(|_| !self.leaves_unread) {
            warn!(%cluster, %pooler, error = %failure, "pooler {}: a row of its answer is left out: {failure}", self.id);
        }
        self.leaves_unread = unread.is_some();
    }

    /// Logs what is new. Answers with how long the pooler is left alone for failing, beside its interval.
    fn note(&mut self, failure: Option<&PollFailure>) -> Duration {
        let (cluster, pooler) = (&self.id.cluster, &self.id.target);
        let Some(failure) = failure else {
            match (self.has_answered, self.n_failures) {
                (false, _) => info!(%cluster, %pooler, "pooler {} answers for the first time", self.id),
                (true, 0) => debug!(%cluster, %pooler, "polled"),
                (true, failures) => info!(%cluster, %pooler, failures, "pooler {} answers again", self.id),
            }
            (self.has_answered, self.n_failures, self.last_failure) = (true, 0, None);
            return Duration::ZERO;
        };
        if self.last_failure == Some(failure.kind()) {
            debug!(%cluster, %pooler, error = %failure, "pooler {} still cannot be polled: {failure}", self.id);
        } else {
            warn!(%cluster, %pooler, error = %failure, "pooler {} cannot be polled: {failure}", self.id);
        }
        self.last_failure = Some(failure.kind());
        self.n_failures = self.n_failures.saturating_add(1);
        backoff::wait(failure, self.n_failures, 0.0)
    }
}
