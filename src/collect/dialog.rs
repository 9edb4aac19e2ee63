//! The conversation with one server: its session, and what has been learned that need not be asked again.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;
use tracing::info;

use super::PollConfig;
use super::conninfo::{Conninfo, Endpoint, Host};
use super::decode::{Rows, by_statement};
use super::login::Login;
use super::postgres::{self, Progress};
use super::queries::aurora;
use super::queries::doctor;
use super::queries::identity::{self, Introduction};
use super::queries::positions::{self, Reading, State};
use super::queries::replay_wait;
use super::queries::survey::{self, Known, Topic, Wanted};
use super::queries::{Optional, Refused, is_refusal, is_unencodable, is_wrong_role};
use super::refusals::Refusals;
use super::session::{Encoding, Limits, Session, SettingsBy};
use super::tls::Trust;
use super::turns::Turn;
use crate::clock;
use crate::core::checkup::Checkup;
use crate::core::observation::{
    Checkpoint, Flavor, Identity, PollFailure, Positions, PrimaryState, Receiver, ReplayPause, ReplayWait, SenderState,
    ServerState, StandbyState, WaitsOn, WalSender,
};
use crate::core::survey::SurveyFacts;
use crate::core::time::{MonoTime, ServerTime};
use crate::core::topology::{Role, TargetId};
use crate::core::wal::{Lsn, Timeline};

/// What may change without the server's restart (a grant, an extension) is asked again after this.
const IDENTITY_AGE: Duration = Duration::from_secs(5 * 60);

/// ... and after this while something is not permitted, or was refused: that may be mended at any time.
const PRIVILEGES_AGE: Duration = Duration::from_secs(10);

/// While no standby is connected, whether one has come is asked at each so many polls.
const SENDERS_EVERY: u32 = 5;

/// While a receiver runs, it says the timeline better than the control file does, which is read at each so many polls.
const CONTROL_EVERY: u32 = 10;

/// Polls in a row that must find replay standing with WAL to replay before it is asked why.
const STANDING_POLLS: u32 = 2;

/// While it stands, why is asked again after this.
const WAIT_AGE: Duration = Duration::from_secs(5);

/// ... where it waits as it was told to (`recovery_min_apply_delay`), or would not say.
const IDLE_WAIT_AGE: Duration = Duration::from_secs(30);

/// A survey that keeps a server busy for longer is asked part by part the next time.
const SLOW: Duration = Duration::from_millis(200);

/// More rounds than one question can need: a refusal of each optional part, a change of role, a change of server.
const MAX_ROUNDS: usize = 12;

/// An answer, and between which instants it was true.
#[derive(Clone, Debug)]
pub(crate) struct Answered<T> {
    pub(crate) facts: T,
    pub(crate) asked_at: MonoTime,
    pub(crate) answered_at: MonoTime,
}

#[derive(Debug)]
pub(crate) struct Dialog {
    target: TargetId,
    conninfo: Arc<Conninfo>,
    trust: Arc<Trust>,
    timeout: Duration,
    connect_timeout: Duration,
    settings: SettingsBy,
    /// How the server has to send text, as its refusals showed.
    encoding: Encoding,
    refusals: Refusals,
    /// What is done without by the catalog, as last read: also for the first question of the next session.
    denied_parts: Refused,
    /// What the catalog says would be refused of the last question for positions, which was not asked then.
    denied: Option<PollFailure>,
    /// Who is at the other end of all senders was refused in this session.
    names_refused: bool,
    session: Option<Arc<Session>>,
    about: Option<Box<About>>,
    /// Of the last session.
    last: Option<Box<LastServer>>,
    /// The last survey kept the server busy for so long that the next is asked part by part.
    is_slow: bool,
    /// What is waited for, should it take too long.
    doing: &'static str,
}

/// What is known of the server that the session is with.
#[derive(Debug)]
struct About {
    introduction: Introduction,
    identity: Arc<Identity>,
    asked_at: MonoTime,
    /// What was left out when the control file was asked for: by the first question of a session, and by one that may ask
    /// for more of it.
    control_without: Option<Refused>,
    checkpoint: Option<Checkpoint>,
    role: Option<Role>,
    /// A primary's: it changes only with the role.
    timeline: Option<Timeline>,
    /// A standby's.
    control_timeline: Option<Timeline>,
    receiver_runs: bool,
    has_senders: bool,
    n_polls: u32,
    /// Who is at the other end of the senders that are there.
    clients: Vec<KnownSender>,
    replay: ReplayWatch,
}

#[derive(Debug)]
struct KnownSender {
    pid: i32,
    /// `None`: asked for, and not found.
    client: Option<positions::Client>,
    /// A connection takes its slot after it has appeared, so what was found of one that only started is asked again.
    is_final: bool,
    /// It was found before the state of its sender was looked at.
    is_new: bool,
}

/// Whether a standby's replay stands with WAL to replay, and why.
#[derive(Debug, Default)]
struct ReplayWatch {
    replay_lsn: Option<Lsn>,
    n_standing: u32,
    wait: Option<Arc<ReplayWait>>,
    ask_at: Option<MonoTime>,
}

impl ReplayWatch {
    /// Takes the next answer. Whether it is now to be asked what replay waits for.
    fn observe(&mut self, standby: &StandbyState, now: MonoTime) -> bool {
        let stands = standby.replay_lsn == self.replay_lsn && standby.replay_lsn < standby.received();
        self.replay_lsn = standby.replay_lsn;
        // A pause says itself why replay stands.
        if !stands || standby.pause == ReplayPause::Paused {
            self.n_standing = 0;
            self.wait = None;
            return false;
        }
        self.n_standing = self.n_standing.saturating_add(1);
        self.n_standing >= STANDING_POLLS && self.ask_at.is_none_or(|at| now >= at)
    }

    /// Takes what was said. `None`: the question failed.
    fn learn(&mut self, wait: Option<ReplayWait>, now: MonoTime) {
        let age = match &wait {
            Some(wait) if wait.on != WaitsOn::ApplyDelay => WAIT_AGE,
            _ => IDLE_WAIT_AGE,
        };
        self.ask_at = Some(now.plus(age));
        self.wait = wait.map(Arc::new);
    }
}

impl Dialog {
    pub(crate) fn new(target: TargetId, conninfo: Arc<Conninfo>, trust: Arc<Trust>, poll: &PollConfig) -> Self {
        Self {
            target,
            conninfo,
            trust,
            timeout: poll.timeout,
            connect_timeout: poll.connect_timeout,
            settings: SettingsBy::default(),
            encoding: Encoding::default(),
            refusals: Refusals::default(),
            denied_parts: Refused::default(),
            denied: None,
            names_refused: false,
            session: None,
            about: None,
            last: None,
            is_slow: false,
            doing: "",
        }
    }

    /// Who the server is, once it has said so in this session.
    pub(crate) fn identity(&self) -> Option<&Arc<Identity>> {
        self.about.as_ref().map(|about| &about.identity)
    }

    /// Whether there is a session, as far as is known by now.
    pub(crate) fn is_open(&mut self) -> bool {
        if self.session.as_ref().is_some_and(|session| session.is_closed()) {
            self.close();
        }
        self.session.is_some()
    }

    /// Waits until the server ends the session; for ever where there is none.
    pub(crate) async fn closed(&self) -> PollFailure {
        match &self.session {
            Some(session) => session.closed().await,
            None => std::future::pending().await,
        }
    }

    /// Waits for a turn to connect.
    pub(crate) fn turn(&self) -> impl Future<Output = Turn> + Send + use<> {
        let trust = Arc::clone(&self.trust);
        // Where a secret leads is not known before it is read.
        let server = match self.conninfo.login() {
            Login::Secret(_) => self.target.to_string(),
            Login::Password | Login::Iam(_) => {
                let hosts: Vec<String> = self.conninfo.hosts().iter().map(Host::to_string).collect();
                hosts.join(",")
            }
        };
        async move { trust.turns().take(&server).await }
    }

    /// Opens a session, which [`Dialog::take`] is to be given. It may take `poll.connect_timeout`, or what the connection
    /// string says.
    pub(crate) fn opening(
        &self,
        progress: &Arc<Progress>,
    ) -> impl Future<Output = Result<Session, PollFailure>> + Send + use<> {
        let limits = Limits { connect: self.connect_timeout, ..Limits::within(self.timeout) };
        let (conninfo, trust, settings) = (Arc::clone(&self.conninfo), Arc::clone(&self.trust), self.settings);
        let progress = Arc::clone(progress);
        async move { postgres::connect_in_sight(&conninfo, &limits, settings, &trust, &progress).await }
    }

    /// Goes on in this session.
    pub(crate) fn take(&mut self, session: Session) {
        self.close();
        self.settings = session.settings();
        if self.encoding == Encoding::AsStored {
            session.take_text_as_stored();
        }
        self.session = Some(Arc::new(session));
        self.refusals.note_session(clock::now());
        self.names_refused = false;
    }

    /// Opens a session, with all the time that it may take.
    ///
    /// # Errors
    /// As for [`postgres::connect`].
    pub(crate) async fn connect(&mut self) -> Result<(), PollFailure> {
        let session = Box::pin(self.opening(&Arc::default())).await?;
        self.take(session);
        Ok(())
    }

    /// Where the WAL stands. To be asked when there is a session; one that does not answer within the timeout is not
    /// used again.
    ///
    /// # Errors
    /// No answer, or one that cannot be read.
    pub(crate) async fn positions(&mut self) -> Result<Answered<Positions>, PollFailure> {
        let Some(session) = self.session.clone() else { return Err(no_session()) };
        let limit = self.timeout;
        let answer = in_time(&session, limit, self.ask_positions()).await;
        self.within_limit(answer)
    }

    /// The slow facts, one question after the other. To be asked when [`Dialog::positions`] was: there must be a session.
    ///
    /// # Errors
    /// Nothing was answered.
    pub(crate) async fn survey(&mut self, asked: SurveyWish) -> Result<Answered<SurveyFacts>, PollFailure> {
        let mut so_far = self.begin_survey(asked);
        loop {
            match self.next_of_survey(&mut so_far) {
                Step::Ask(asking) => {
                    let answers = asking.await;
                    self.take_of_survey(&mut so_far, answers);
                }
                Step::Done(outcome) => return *outcome,
            }
        }
    }

    /// Begins a survey, which goes on beside the questions for positions: [`Dialog::next_of_survey`] says what to ask,
    /// and [`Dialog::take_of_survey`] takes what was answered.
    pub(crate) fn begin_survey(&mut self, wish: SurveyWish) -> Box<SurveySoFar> {
        let began = clock::now();
        self.refusals.expire(began);
        let mut so_far = Box::new(SurveySoFar {
            wish,
            asks_identity: self.about.as_deref().is_none_or(|about| self.is_to_be_introduced(about, began)),
            topics: Vec::new(),
            n_rounds: 0,
            n_answered: 0,
            facts: SurveyFacts::default(),
            asked_at: began,
        });
        for topic in survey::TOPICS {
            match self.refusals.topic(topic.name) {
                Some(failure) => so_far.facts.failures.push((topic.name, failure.clone())),
                None => so_far.topics.push(topic),
            }
        }
        so_far
    }

    /// What a survey has to ask next, or what came of it. What was answered when the time was over counts; what was not is
    /// among [`SurveyFacts::failures`].
    pub(crate) fn next_of_survey(&mut self, so_far: &mut SurveySoFar) -> Step {
        so_far.n_rounds += 1;
        let session = self.session.as_ref().filter(|_| so_far.n_rounds <= MAX_ROUNDS && self.about.is_some());
        if let Some(session) = session {
            if so_far.asks_identity {
                let questions = vec![identity::sql(self.left_out())];
                return Step::Ask(asking(Arc::clone(session), questions, self.timeout, self.is_slow));
            }
            let wish = so_far.wish.clone();
            if let Some(context) = self.context(wish.wanted()) {
                let mut questions = Vec::with_capacity(so_far.topics.len());
                let failures = &mut so_far.facts.failures;
                so_far.topics.retain(|topic| {
                    let Some(sql) = topic.sql(context) else { return false };
                    if let Some(denial) = self.denial_of(&sql) {
                        failures.push((topic.name, denial));
                        return false;
                    }
                    questions.push(sql);
                    true
                });
                if !questions.is_empty() {
                    return Step::Ask(asking(Arc::clone(session), questions, self.timeout, self.is_slow));
                }
            }
        } else {
            let failed = so_far.topics.drain(..).map(|topic| (topic.name, no_session()));
            so_far.facts.failures.extend(failed);
        }
        let mut facts = std::mem::take(&mut so_far.facts);
        if so_far.n_answered == 0
            && let Some((_, failure)) = facts.failures.first()
        {
            return Step::Done(Box::new(Err(failure.clone())));
        }
        let databases = facts.databases.take();
        if let Some(sessions) = &mut facts.sessions {
            sessions.name_databases(databases.as_deref());
        }
        Step::Done(Box::new(Ok(Answered { facts, asked_at: so_far.asked_at, answered_at: clock::now() })))
    }

    /// Takes the answers to what [`Dialog::next_of_survey`] asked.
    pub(crate) fn take_of_survey(&mut self, so_far: &mut SurveySoFar, answers: Answers) {
        if answers.outcomes.iter().any(|answer| answer.as_ref().err().is_some_and(ends_session)) {
            self.close();
        }
        let mut outcomes = answers.outcomes.into_iter();
        if std::mem::take(&mut so_far.asks_identity) {
            match outcomes.next() {
                Some(Ok(messages)) => {
                    // What cannot be read is as it was.
                    let _ = self.learn_identity(&messages);
                }
                Some(Err(failure)) if self.leave_out(&failure) => so_far.asks_identity = true,
                _ => {}
            }
            so_far.asked_at = clock::now();
            return;
        }
        if outcomes.len() > 1 {
            self.is_slow = answers.busy > SLOW;
        }
        let mut again = Vec::new();
        let wish = so_far.wish.clone();
        let was_converted = self.encoding == Encoding::Utf8;
        for (topic, answer) in std::mem::take(&mut so_far.topics).into_iter().zip(outcomes) {
            if was_converted && self.encoding == Encoding::AsStored {
                // Text is sent in another way from now on. A topic may need the names of one before it.
                again.push(topic);
                continue;
            }
            // An extension that was changed has other columns now: to be asked about before the next survey.
            if let (Err(PollFailure::Sql { .. }), Some(about)) = (&answer, &mut self.about) {
                about.asked_at = MonoTime::from_nanos(i64::MIN / 2);
            }
            let answer = answer.map_err(|failure| failure_of(topic, failure));
            match answer.and_then(|messages| self.read_topic(topic, wish.wanted(), &messages, &mut so_far.facts)) {
                Ok(()) => so_far.n_answered += 1,
                Err(failure) if self.leave_out(&failure) => again.push(topic),
                Err(failure) => {
                    if is_refusal(&failure) {
                        self.note_refusal(topic, &failure);
                    }
                    so_far.facts.failures.push((topic.name, failure));
                }
            }
        }
        so_far.topics = again;
    }

    /// Asks for the texts of these statements, beside the questions for positions. `None` where they cannot be read.
    /// Answered within half of what a poll may take, or not at all: the texts are a file as large as the disk allows.
    pub(crate) fn ask_texts(&self, wish: &SurveyWish, queryids: &[i64]) -> Option<Asking> {
        let sql = survey::texts_sql(self.context(wish.wanted())?, queryids, self.timeout / 2)?;
        Some(asking(Arc::clone(self.session.as_ref()?), vec![sql], self.timeout, self.is_slow))
    }

    /// What may be shown of the texts that [`Dialog::ask_texts`] asked for, by queryid.
    ///
    /// # Errors
    /// They were not answered in time, or cannot be read.
    pub(crate) fn take_texts(&mut self, answers: Answers) -> Result<HashMap<i64, Arc<str>>, PollFailure> {
        let answer = answers.outcomes.into_iter().next().unwrap_or_else(|| Err(no_session()));
        if answer.as_ref().err().is_some_and(ends_session) {
            self.close();
        }
        survey::decode_texts(&by_statement(&answer?))
    }

    /// How the server is set up. To be asked when [`Dialog::positions`] was.
    pub(crate) async fn checkup(&mut self) -> Checkup {
        let mut checkup = Checkup::default();
        let (Some(about), Some(session)) = (&self.about, &self.session) else { return checkup };
        checkup.certificate = session.certificate();
        checkup.by_rds_proxy = session.settings() == SettingsBy::Role;
        let topics = doctor::topics(about.identity.version_num);
        let privileges = &about.introduction.privileges;
        let (denied, topics): (Vec<_>, Vec<_>) =
            topics.into_iter().partition(|topic| privileges.refusal_of(topic.sql).is_some());
        checkup
            .failures
            .extend(denied.iter().filter_map(|topic| Some((topic.name, privileges.refusal_of(topic.sql)?))));
        let questions: Vec<String> = topics.iter().map(|topic| topic.sql.to_owned()).collect();
        let mut answers = Vec::with_capacity(questions.len());
        let asking = session.simple_queries(&questions, |_, answer| answers.push(answer));
        let outcome = tokio::time::timeout(self.timeout, asking).await;
        let mut answers = answers.into_iter();
        for topic in &topics {
            let answer = match (answers.next(), &outcome) {
                (Some(answer), _) => answer,
                (None, Ok(())) => Err(no_session()),
                (None, Err(_)) => Err(PollFailure::Timeout {
                    doing: format!("asking about its {}", topic.name),
                    limit_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
                }),
            };
            let read = answer.and_then(|messages| {
                let statements = by_statement(&messages);
                (topic.decode)(&statements, &mut checkup)
            });
            if let Err(failure) = read {
                checkup.failures.push((topic.name, session.without_password(failure)));
            }
        }
        if outcome.is_err() {
            self.close();
        }
        checkup
    }

    fn read_topic(
        &self,
        topic: &Topic,
        wanted: Wanted<'_>,
        messages: &[SimpleQueryMessage],
        facts: &mut SurveyFacts,
    ) -> Result<(), PollFailure> {
        let context = self.context(wanted).ok_or_else(no_session)?;
        let read = topic.decode(context, &by_statement(messages), facts);
        match &self.session {
            // A value that cannot be read is repeated in the failure.
            Some(session) => read.map_err(|failure| session.without_password(failure)),
            None => read,
        }
    }

    fn context<'a>(&'a self, wanted: Wanted<'a>) -> Option<survey::Context<'a>> {
        let about = self.about.as_deref()?;
        Some(survey::Context { about: &about.introduction, role: about.role, refused: self.left_out(), wanted })
    }

    fn note_refusal(&mut self, topic: &Topic, refusal: &PollFailure) {
        info!(
            cluster = %self.target.cluster, target = %self.target.target, topic = topic.name, error = %refusal,
            "the server refuses a question; asked again in ten minutes, and after a reconnect or a reload"
        );
        self.refusals.note_topic(topic.name, refusal, clock::now());
    }

    /// Ends the session, should there be one, as a client should.
    pub(crate) async fn end(&mut self) {
        // Whoever else asks in it has been dropped before.
        if let Some(session) = self.session.take().and_then(Arc::into_inner) {
            session.end().await;
        }
        self.close();
    }

    /// Leaves the session.
    pub(crate) fn close(&mut self) {
        if let (Some(session), Some(about)) = (&self.session, &self.about)
            && about.identity.flavor != Flavor::Aurora
            && let Some(version) = session.parameter(VERSION)
        {
            self.last = Some(Box::new(LastServer { version, introduction: about.introduction.clone() }));
        }
        self.session = None;
        self.about = None;
    }

    /// `None`: it did not come in time.
    fn within_limit<T>(&mut self, answer: Option<Result<T, PollFailure>>) -> Result<T, PollFailure> {
        let answer = answer.unwrap_or_else(|| {
            let limit_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
            Err(PollFailure::Timeout { doing: self.doing.to_owned(), limit_ms })
        });
        // A value that cannot be read is repeated in the failure.
        let answer = match &self.session {
            Some(session) => answer.map_err(|failure| session.without_password(failure)),
            None => answer,
        };
        if answer.as_ref().err().is_some_and(ends_session) {
            self.close();
        }
        answer
    }

    async fn ask(&mut self, doing: &'static str, sql: &str) -> Result<Vec<SimpleQueryMessage>, PollFailure> {
        self.doing = doing;
        match &self.session {
            Some(session) => session.simple_query(sql).await,
            None => Err(no_session()),
        }
    }

    async fn ask_positions(&mut self) -> Result<Answered<Positions>, PollFailure> {
        if let Some(refusal) = self.still_refused().await? {
            return Err(refusal);
        }
        let answer = self.ask_reading().await;
        if let Err(refusal) = &answer
            && is_refusal(refusal)
            && !is_wrong_role(refusal)
            && self.denied.as_ref() != Some(refusal)
        {
            self.note_needed(refusal);
        }
        let mut answer = answer?;
        self.learn_clients(&mut answer.facts.senders).await;
        if let ServerState::Standby(standby) = &mut answer.facts.state {
            self.learn_wait(standby).await;
        }
        Ok(answer)
    }

    fn note_needed(&mut self, refusal: &PollFailure) {
        info!(
            cluster = %self.target.cluster, target = %self.target.target, error = %refusal,
            "the server refuses what its positions cannot be read without; asked again in ten minutes, and after a \
             reconnect or a reload"
        );
        self.refusals.note_needed(refusal, clock::now());
    }

    /// What was refused and would be refused again, each time with an error in the server's log.
    async fn still_refused(&mut self) -> Result<Option<PollFailure>, PollFailure> {
        self.refusals.expire(clock::now());
        let is_known = |about: &About| !self.is_to_be_introduced(about, clock::now());
        if self.refusals.needed().is_some() && !self.about.as_deref().is_some_and(is_known) {
            // Its configuration may have been loaded again.
            self.introduce().await?;
        }
        Ok(self.refusals.needed().cloned())
    }

    /// Whether what is known of the server may have changed.
    fn is_to_be_introduced(&self, about: &About, now: MonoTime) -> bool {
        let is_complete = self.refusals.is_empty() && about.introduction.privileges.denied.is_empty();
        now.duration_since(about.asked_at) > if is_complete { IDENTITY_AGE } else { PRIVILEGES_AGE }
    }

    /// What is done without: it was refused, or the catalog says that it would be.
    fn left_out(&self) -> Refused {
        self.refusals.optional().and(self.denied_parts)
    }

    /// What the catalog says would be refused of `sql`.
    fn denial_of(&self, sql: &str) -> Option<PollFailure> {
        self.about.as_ref()?.introduction.privileges.refusal_of(sql)
    }

    /// What the server refuses, by name.
    pub(crate) fn refused(&self) -> Vec<&'static str> {
        Optional::names(self.left_out())
    }

    /// Asks until the answer is about the role, and the server, that the question was about.
    async fn ask_reading(&mut self) -> Result<Answered<Positions>, PollFailure> {
        let mut failure = PollFailure::Sql {
            sqlstate: "55000".to_owned(),
            reason: "the server changes faster than it can be asked".to_owned(),
        };
        let mut has_changed_role = false;
        self.denied = None;
        for _ in 0..MAX_ROUNDS {
            if self.about.is_none()
                && let Some(answer) = self.greet().await?
            {
                return Ok(answer);
            }
            let Some(about) = &self.about else { continue };
            let refused = self.left_out();
            let question = about.question(refused);
            let asked_at = clock::now();
            let sql = question.sql(&about.introduction);
            if let Some(denial) = self.denial_of(&sql) {
                if self.is_to_be_introduced(about, asked_at) {
                    self.introduce().await?;
                    continue;
                }
                self.denied = Some(denial.clone());
                return Err(denial);
            }
            let answer = if about.n_polls > 0 {
                self.ask("asking for its WAL positions", &sql).await
            } else {
                self.ask_with_names(sql).await
            };
            let answered_at = clock::now();
            match answer {
                Ok(messages) => {
                    let Some(about) = &mut self.about else { break };
                    match about.hear(question, refused, &by_statement(&messages))? {
                        Heard::Facts(facts) => return Ok(Answered { facts: *facts, asked_at, answered_at }),
                        Heard::AnotherServer => self.about = None,
                        Heard::AnotherRole => {}
                    }
                }
                Err(refusal) => {
                    if self.leave_out(&refusal) {
                        continue;
                    }
                    if !is_wrong_role(&refusal) || has_changed_role {
                        return Err(refusal);
                    }
                    has_changed_role = true;
                    if let Some(about) = &mut self.about {
                        about.forget_role();
                    }
                    failure = refusal;
                }
            }
        }
        Err(failure)
    }

    /// Whether `refusal` is one that can be helped by asking for less.
    fn leave_out(&mut self, refusal: &PollFailure) -> bool {
        if is_unencodable(refusal) && self.take_text_as_stored(refusal) {
            return true;
        }
        let Some(optional) = Optional::refused_by(refusal).filter(|optional| !self.left_out().contains(*optional))
        else {
            return false;
        };
        info!(
            cluster = %self.target.cluster, target = %self.target.target, function = optional.name(), error = %refusal,
            "the server refuses a function; asked again in ten minutes, and after a reconnect or a reload"
        );
        self.refusals.leave_out(optional, clock::now());
        true
    }

    /// Whether text was sent converted until now, which it is not from now on.
    fn take_text_as_stored(&mut self, refusal: &PollFailure) -> bool {
        let Some(session) = &self.session else { return false };
        if session.encoding() == Encoding::AsStored || session.settings() == SettingsBy::Role {
            return false;
        }
        info!(
            cluster = %self.target.cluster, target = %self.target.target, error = %refusal,
            "a name has no form in UTF-8; text is taken as the server stores it"
        );
        session.take_text_as_stored();
        self.encoding = Encoding::AsStored;
        true
    }

    /// The first question of a session: who the server is. When it is the one that the last session was with, by the
    /// version that it reports by itself, also where its WAL stands, in the same round trip: this is asked again when it
    /// turns out to be another.
    async fn greet(&mut self) -> Result<Option<Answered<Positions>>, PollFailure> {
        let Some(session) = self.session.clone() else { return Err(no_session()) };
        let version = session.parameter(VERSION);
        let Some(last) = self.last.clone().filter(|last| Some(&last.version) == version.as_ref()) else {
            self.introduce().await?;
            return Ok(None);
        };
        let refused = self.left_out();
        let question = Question::Wal(positions::Question {
            role: None,
            version_num: last.introduction.identity.version_num,
            refused,
            control: true,
            timeline: true,
            control_timeline: true,
            senders: true,
            started_at: session.settings().is_pooled(),
        });
        let sql = question.sql(&last.introduction);
        if last.introduction.privileges.refusal_of(&sql).is_some() {
            self.introduce().await?;
            return Ok(None);
        }
        self.doing = "asking who it is, and for its WAL positions";
        let questions = [identity::sql(refused), sql, self.names_sql(&last.introduction)];
        let asked_at = clock::now();
        let mut answers: Vec<_> = Vec::with_capacity(questions.len());
        let asking = session.simple_queries(&questions, |_, answer| answers.push((answer, clock::now())));
        asking.await;
        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or_else(|| (Err(no_session()), asked_at));
        match next().0 {
            Ok(messages) => self.learn_identity(&messages)?,
            Err(refusal) if self.leave_out(&refusal) => return Ok(None),
            Err(failure) => return Err(failure),
        }
        let (answer, answered_at) = next();
        self.learn_names(next().0);
        let Some(about) = self.about.as_mut().filter(|about| about.is_like(&last.introduction)) else {
            return Ok(None);
        };
        match answer {
            Ok(messages) => match about.hear(question, refused, &by_statement(&messages))? {
                Heard::Facts(facts) => Ok(Some(Answered { facts: *facts, asked_at, answered_at })),
                Heard::AnotherServer => {
                    self.about = None;
                    Ok(None)
                }
                Heard::AnotherRole => Ok(None),
            },
            Err(failure) if self.leave_out(&failure) || is_wrong_role(&failure) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Asks, and has the time of the next question begin with the answer.
    async fn ask_first(&mut self, doing: &'static str, sql: String) -> Result<Vec<SimpleQueryMessage>, PollFailure> {
        self.doing = doing;
        let Some(session) = self.session.clone() else { return Err(no_session()) };
        let mut answer = None;
        session.simple_queries(&[sql], |_, outcome| answer = Some(outcome)).await;
        answer.unwrap_or_else(|| Err(no_session()))
    }

    /// The first question of a session for positions, and in the same round trip for the names of all senders: else they
    /// would have to be asked for next, by their pids.
    async fn ask_with_names(&mut self, sql: String) -> Result<Vec<SimpleQueryMessage>, PollFailure> {
        self.doing = "asking for its WAL positions";
        let Some(session) = self.session.clone() else { return Err(no_session()) };
        let names_sql = self.about.as_ref().map_or_else(String::new, |about| self.names_sql(&about.introduction));
        let questions = [sql, names_sql];
        let mut answers = Vec::with_capacity(questions.len());
        session.simple_queries(&questions, |_, answer| answers.push(answer)).await;
        let mut answers = answers.into_iter();
        let answer = answers.next().unwrap_or_else(|| Err(no_session()));
        self.learn_names(answers.next().unwrap_or_else(|| Err(no_session())));
        answer
    }

    /// Empty where it would be refused.
    fn names_sql(&self, introduction: &Introduction) -> String {
        let sql = positions::all_clients_sql();
        let is_refused = self.names_refused
            || self.left_out().contains(Optional::WalSenders)
            || introduction.privileges.refusal_of(&sql).is_some();
        if is_refused { String::new() } else { sql }
    }

    /// Takes up who is at the other end of the senders. Those who cannot be read are asked for by their pids.
    fn learn_names(&mut self, names: Result<Vec<SimpleQueryMessage>, PollFailure>) {
        let refusal = names.as_ref().err().filter(|failure| is_refusal(failure));
        self.names_refused |= refusal.is_some_and(|refusal| !self.leave_out(refusal));
        let Some(about) = &mut self.about else { return };
        let found = names.and_then(|messages| positions::decode_clients(&by_statement(&messages)));
        let known = |client: positions::Client| KnownSender {
            pid: client.pid,
            client: Some(client),
            is_final: false,
            is_new: true,
        };
        about.clients.extend(found.unwrap_or_default().into_iter().map(known));
    }

    async fn introduce(&mut self) -> Result<(), PollFailure> {
        let messages = loop {
            // What comes after it in this poll has all its time.
            match self.ask_first("asking who it is", identity::sql(self.left_out())).await {
                Ok(messages) => break messages,
                Err(refusal) if self.leave_out(&refusal) => {}
                Err(failure) => return Err(failure),
            }
        };
        self.learn_identity(&messages)
    }

    fn learn_identity(&mut self, messages: &[SimpleQueryMessage]) -> Result<(), PollFailure> {
        let introduction = identity::decode(&by_statement(messages))?;
        self.refusals.note_configuration(introduction.privileges.loaded_at, clock::now());
        self.denied_parts = introduction.privileges.refused();
        let Some(session) = &self.session else { return Ok(()) };
        let (tls, pooled) = (session.tls(), session.settings().is_pooled());
        let configured = configured_address(&self.conninfo);
        if let Some(about) = &mut self.about {
            let system_identifier = about.identity.system_identifier;
            about.identity =
                identity::complete(introduction.identity.clone(), system_identifier, configured, tls, pooled);
            about.introduction = introduction;
            about.asked_at = clock::now();
        } else {
            self.about = Some(Box::new(About {
                identity: identity::complete(introduction.identity.clone(), None, configured, tls, pooled),
                introduction,
                asked_at: clock::now(),
                control_without: None,
                checkpoint: None,
                role: None,
                timeline: None,
                control_timeline: None,
                receiver_runs: false,
                has_senders: true,
                n_polls: 0,
                clients: Vec::new(),
                replay: ReplayWatch::default(),
            }));
        }
        Ok(())
    }

    /// Says what replay waits for, while it stands.
    async fn learn_wait(&mut self, standby: &mut StandbyState) {
        let may_ask = !self.left_out().contains(Optional::Locks) && self.denial_of(replay_wait::SQL).is_none();
        let Some(about) = &mut self.about else { return };
        if about.replay.observe(standby, clock::now()) && may_ask {
            // As with names: positions without it are worth more than none.
            let answer = self.ask("asking what replay waits for", replay_wait::SQL).await;
            let wait = answer.and_then(|messages| replay_wait::decode(&by_statement(&messages)));
            if let Err(failure) = &wait {
                self.leave_out(failure);
            }
            let Some(about) = &mut self.about else { return };
            about.replay.learn(wait.ok(), clock::now());
        }
        standby.wait = self.about.as_ref().and_then(|about| about.replay.wait.clone());
    }

    /// Names the senders. The function that lists them does not, so a pid that is new is looked up, once.
    async fn learn_clients(&mut self, senders: &mut [WalSender]) {
        let Some(about) = &mut self.about else { return };
        for known in about.clients.iter_mut().filter(|known| known.is_new) {
            known.is_new = false;
            known.is_final = senders.iter().any(|sender| sender.pid == known.pid && !has_only_started(sender));
        }
        about.clients.retain(|known| {
            senders.iter().any(|sender| sender.pid == known.pid && (known.is_final || has_only_started(sender)))
        });
        let is_new = |pid: &i32| about.clients.iter().all(|known| known.pid != *pid);
        let new: Vec<i32> = senders.iter().map(|sender| sender.pid).filter(is_new).collect();
        if !new.is_empty() {
            // Positions without names are worth more than none: a failure here is met again at the next question.
            let sql = positions::clients_sql(&new);
            let answer = match self.denial_of(&sql) {
                None => self.ask("asking for its standbys' names", &sql).await,
                Some(denial) => Err(denial),
            };
            let found = answer.and_then(|messages| positions::decode_clients(&by_statement(&messages)));
            // But a refusal would be repeated, too: those pids are taken for asked.
            let found = match found {
                Err(refusal) if self.leave_out(&refusal) => return,
                Err(refusal) if is_refusal(&refusal) => Ok(Vec::new()),
                found => found,
            };
            let (Ok(found), Some(about)) = (found, &mut self.about) else { return };
            for sender in senders.iter().filter(|sender| new.contains(&sender.pid)) {
                let client = found.iter().find(|client| client.pid == sender.pid).cloned();
                let is_final = !has_only_started(sender);
                about.clients.push(KnownSender { pid: sender.pid, client, is_final, is_new: false });
            }
        }
        let Some(about) = &self.about else { return };
        for sender in senders {
            let known = about.clients.iter().find(|known| known.pid == sender.pid);
            if let Some(client) = known.and_then(|known| known.client.as_ref()) {
                sender.application_name.clone_from(&client.application_name);
                sender.client = Some(Arc::clone(&client.client));
            }
        }
    }
}

fn has_only_started(sender: &WalSender) -> bool {
    sender.state == Some(SenderState::Startup)
}

/// What a server is asked at the fast beat.
#[derive(Clone, Copy, Debug)]
enum Question {
    Wal(positions::Question),
    Aurora(aurora::Question),
}

impl Question {
    fn sql(self, about: &Introduction) -> String {
        match self {
            Self::Wal(question) => question.sql(),
            Self::Aurora(question) => question.sql(about),
        }
    }
}

/// What came of it.
enum Heard {
    Facts(Box<Positions>),
    /// A pooler led us to another server, or to the same one restarted.
    AnotherServer,
    /// The question was about another role than the server has now.
    AnotherRole,
}

impl About {
    fn question(&self, refused: Refused) -> Question {
        if self.identity.flavor == Flavor::Aurora {
            return Question::Aurora(aurora::Question { refused, started_at: self.identity.pooled });
        }
        Question::Wal(positions::Question {
            role: self.role,
            version_num: self.identity.version_num,
            refused,
            control: self.control_without != Some(refused),
            timeline: self.timeline.is_none(),
            control_timeline: !self.receiver_runs || self.n_polls.is_multiple_of(CONTROL_EVERY),
            senders: self.has_senders || self.n_polls.is_multiple_of(SENDERS_EVERY),
            started_at: self.identity.pooled,
        })
    }

    /// Takes an answer to `question`.
    fn hear(&mut self, question: Question, refused: Refused, statements: &[Rows<'_>]) -> Result<Heard, PollFailure> {
        let is_another = |started_at: Option<ServerTime>, identity: &Identity| {
            started_at.is_some_and(|started_at| started_at != identity.started_at)
        };
        match question {
            Question::Wal(question) => {
                let reading = question.decode(&self.introduction, statements)?;
                if is_another(reading.started_at, &self.identity) {
                    return Ok(Heard::AnotherServer);
                }
                Ok(self.learn(reading, refused)?.map_or(Heard::AnotherRole, |facts| Heard::Facts(Box::new(facts))))
            }
            Question::Aurora(question) => {
                let reading = question.decode(&self.introduction, statements)?;
                if is_another(reading.started_at, &self.identity) {
                    return Ok(Heard::AnotherServer);
                }
                self.role = Some(reading.state.role);
                Ok(Heard::Facts(Box::new(Positions {
                    identity: Arc::clone(&self.identity),
                    clock: reading.clock,
                    state: ServerState::Aurora(reading.state),
                    senders: Vec::new(),
                    sees_senders: false,
                })))
            }
        }
    }

    /// Whether the same may be asked of it.
    fn is_like(&self, introduction: &Introduction) -> bool {
        let identity = |of: &Introduction| (of.identity.flavor, of.identity.version_num);
        identity(&self.introduction) == identity(introduction)
    }

    fn forget_role(&mut self) {
        self.role = None;
        self.timeline = None;
        self.receiver_runs = false;
        self.has_senders = true;
    }

    /// Takes up what is new. `None` when the question was about another role than the server has now.
    fn learn(&mut self, reading: Reading, refused: Refused) -> Result<Option<Positions>, PollFailure> {
        if self.control_without != Some(refused) {
            self.control_without = Some(refused);
            self.checkpoint = reading.checkpoint.or(self.checkpoint);
            if reading.system_identifier.is_some() {
                Arc::make_mut(&mut self.identity).system_identifier = reading.system_identifier;
            }
        }
        let state = match reading.state {
            State::Changed => {
                self.forget_role();
                return Ok(None);
            }
            State::Primary { flush_lsn, timeline } => {
                self.role = Some(Role::Primary);
                self.timeline = timeline.or(self.timeline);
                let timeline = self.timeline.ok_or_else(|| PollFailure::Decode {
                    view: "positions".to_owned(),
                    column: "pg_walfile_name".to_owned(),
                    reason: "NULL where a value must be".to_owned(),
                })?;
                ServerState::Primary(PrimaryState { flush_lsn, timeline, checkpoint: self.checkpoint })
            }
            State::Standby { replay_lsn, receive_lsn, last_commit_replayed_at, control_timeline, pause, receiver } => {
                if self.role != Some(Role::Replica) {
                    self.role = Some(Role::Replica);
                    self.timeline = None;
                }
                self.control_timeline = control_timeline.or(self.control_timeline);
                self.receiver_runs = matches!(receiver, Receiver::Running(_));
                ServerState::Standby(StandbyState {
                    replay_lsn,
                    receive_lsn,
                    last_commit_replayed_at,
                    control_timeline: self.control_timeline,
                    pause,
                    receiver,
                    wait: None,
                })
            }
        };
        self.n_polls = self.n_polls.wrapping_add(1);
        self.has_senders = !reading.senders.is_empty();
        Ok(Some(Positions {
            identity: Arc::clone(&self.identity),
            clock: reading.clock,
            state,
            senders: reading.senders,
            sees_senders: self.identity.reads_all_stats && !refused.contains(Optional::WalSenders),
        }))
    }
}

/// What a survey is to ask about, see [`Wanted`].
#[derive(Clone, Debug)]
pub(crate) struct SurveyWish {
    pub(crate) statements: bool,
    pub(crate) known: Option<Arc<Known>>,
    pub(crate) since: bool,
    pub(crate) idle_limit: Duration,
}

impl SurveyWish {
    fn wanted(&self) -> Wanted<'_> {
        let Self { statements, known, since, idle_limit } = self;
        Wanted { statements: *statements, known: known.as_deref(), since: *since, idle_limit: *idle_limit }
    }
}

/// A survey that is under way.
#[derive(Debug)]
pub(crate) struct SurveySoFar {
    wish: SurveyWish,
    /// Who the server is was not asked for so long that it comes first.
    asks_identity: bool,
    /// Still to be asked.
    topics: Vec<&'static Topic>,
    n_rounds: usize,
    n_answered: usize,
    facts: SurveyFacts,
    asked_at: MonoTime,
}

/// What is to be done next for a survey.
pub(crate) enum Step {
    Ask(Asking),
    Done(Box<Result<Answered<SurveyFacts>, PollFailure>>),
}

/// Questions that are under way, each with an outcome of its own.
pub(crate) type Asking = Pin<Box<dyn Future<Output = Answers> + Send>>;

#[derive(Debug)]
pub(crate) struct Answers {
    /// One for each question, in their order.
    outcomes: Vec<Result<Vec<SimpleQueryMessage>, PollFailure>>,
    /// For how long the server worked at them, as far as can be seen from here.
    busy: Duration,
}

/// Asks several questions: in one round trip, or `part_by_part`, so that a question for positions that comes meanwhile is
/// answered before the next part is begun. Each that is not in hand when its time is over has failed with that; the server
/// itself ends what takes longer than `timeout`.
fn asking(session: Arc<Session>, questions: Vec<String>, timeout: Duration, part_by_part: bool) -> Asking {
    let limit = timeout + timeout / 2;
    let size = if part_by_part { 1 } else { questions.len().max(1) };
    Box::pin(async move {
        let mut outcomes = Vec::with_capacity(questions.len());
        let mut took = Vec::with_capacity(questions.len());
        for part in questions.chunks(size) {
            let mut last = clock::now();
            let asking = session.simple_queries(part, |_, answer| {
                outcomes.push(answer);
                let now = clock::now();
                took.push(now.duration_since(std::mem::replace(&mut last, now)));
            });
            if in_time(&session, limit, asking).await.is_none() {
                break;
            }
        }
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        outcomes.resize_with(questions.len(), || Err(PollFailure::Timeout { doing: String::new(), limit_ms }));
        // The way there and back is in the time of each part.
        let way = if part_by_part { took.iter().min() } else { took.first() }.copied().unwrap_or_default();
        let n_ways = if part_by_part { u32::try_from(took.len()).unwrap_or(u32::MAX) } else { 1 };
        Answers { outcomes, busy: took.iter().sum::<Duration>().saturating_sub(way * n_ways) }
    })
}

/// What is answered within `limit`: of asking, or of the last answer to what was asked before it in the same session.
/// `None`: it is not.
async fn in_time<T>(session: &Session, limit: Duration, answer: impl Future<Output = T>) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    let mut since = clock::now();
    loop {
        let left = limit.saturating_sub(clock::now().duration_since(since));
        match tokio::time::timeout(left, answer.as_mut()).await {
            Ok(answer) => return Some(answer),
            Err(_) => since = session.several_at().filter(|at| *at > since)?,
        }
    }
}

/// A time-out with what was waited for.
fn failure_of(topic: &Topic, failure: PollFailure) -> PollFailure {
    match failure {
        PollFailure::Timeout { limit_ms, .. } => PollFailure::Timeout { doing: topic.name.to_owned(), limit_ms },
        failure => failure,
    }
}

/// A parameter that servers report by themselves.
const VERSION: &str = "server_version";

/// The server that the last session was with.
#[derive(Clone, Debug)]
struct LastServer {
    /// As it reported it by itself.
    version: String,
    introduction: Introduction,
}

/// Where a connection string with one host leads; with several, nobody knows which of them it was.
fn configured_address(conninfo: &Conninfo) -> Option<(String, u16)> {
    match conninfo.hosts() {
        [Host { endpoint: Endpoint::Tcp { name, address }, port }] => {
            Some((address.map_or_else(|| name.clone(), |address| address.to_string()), *port))
        }
        _ => None,
    }
}

fn no_session() -> PollFailure {
    PollFailure::Lost { reason: "no session".to_owned() }
}

/// After these the session is of no use, whatever the client has noticed of it.
fn ends_session(failure: &PollFailure) -> bool {
    match failure {
        PollFailure::Sql { .. } | PollFailure::Decode { .. } => false,
        PollFailure::Timeout { .. }
        | PollFailure::Lookup { .. }
        | PollFailure::Refused
        | PollFailure::Connect { .. }
        | PollFailure::Tls { .. }
        | PollFailure::Authentication { .. }
        | PollFailure::NotAccepting { .. }
        | PollFailure::TooManyConnections { .. }
        | PollFailure::LoginTrigger { .. }
        | PollFailure::Lost { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standby(replayed: u64, received: u64, pause: ReplayPause) -> StandbyState {
        StandbyState {
            replay_lsn: Some(Lsn::new(replayed)),
            receive_lsn: Some(Lsn::new(received)),
            last_commit_replayed_at: None,
            control_timeline: None,
            pause,
            receiver: Receiver::Hidden,
            wait: None,
        }
    }

    #[test]
    fn what_replay_waits_for_is_asked_only_while_it_stands_and_seldom() {
        use ReplayPause::{NotPaused, Paused};
        let mut watch = ReplayWatch::default();
        let wait = |on| ReplayWait { on, blocker: None, n_holders: 0 };
        let mut second = 0;
        let mut asks = |replayed, received, pause, answer: Option<WaitsOn>| {
            let now = MonoTime::from_nanos(second * 1_000_000_000);
            second += 1;
            let asks = watch.observe(&standby(replayed, received, pause), now);
            if asks {
                watch.learn(answer.map(wait), now);
            }
            (asks, watch.wait.as_ref().map(|wait| wait.on))
        };
        let lock = Some(WaitsOn::Lock);
        assert_eq!(asks(5, 9, NotPaused, lock), (false, None));
        assert_eq!(asks(6, 9, NotPaused, lock), (false, None), "it moves");
        assert_eq!(asks(6, 9, NotPaused, lock), (false, None), "once is no stop");
        assert_eq!(asks(6, 9, NotPaused, lock), (true, lock));
        for _ in 0..4 {
            assert_eq!(asks(6, 9, NotPaused, lock), (false, lock));
        }
        assert_eq!(asks(6, 9, NotPaused, Some(WaitsOn::ApplyDelay)), (true, Some(WaitsOn::ApplyDelay)));
        for _ in 0..29 {
            assert!(!asks(6, 9, NotPaused, lock).0);
        }
        assert_eq!(asks(6, 9, NotPaused, None), (true, None), "it would not say");
        assert_eq!(asks(6, 9, NotPaused, lock), (false, None));
        assert_eq!(asks(9, 9, NotPaused, lock), (false, None));
        for _ in 0..60 {
            assert_eq!(asks(9, 9, NotPaused, lock), (false, None), "there is nothing to replay");
        }
        for _ in 0..60 {
            assert_eq!(asks(9, 12, Paused, lock), (false, None), "a pause is no riddle");
        }
    }
}
