//! The conversation with one server: its session, and what has been learned that need not be asked again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;
use tracing::info;

use super::conninfo::{Conninfo, Endpoint, Host};
use super::decode::{Rows, by_statement};
use super::postgres;
use super::queries::aurora;
use super::queries::doctor;
use super::queries::identity::{self, Introduction};
use super::queries::positions::{self, Reading, State};
use super::queries::replay_wait;
use super::queries::survey::{self, Topic, Wanted};
use super::queries::{Optional, Refused, is_refusal, is_unencodable, is_wrong_role};
use super::refusals::Refusals;
use super::session::{Encoding, Limits, Session, SettingsBy};
use super::tls::Trust;
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
    settings: SettingsBy,
    /// How the server has to send text, as its refusals showed.
    encoding: Encoding,
    refusals: Refusals,
    /// What is done without by the catalog, as last read: also for the first question of the next session.
    denied_parts: Refused,
    /// What the catalog says would be refused of the last question for positions, which was not asked then.
    denied: Option<PollFailure>,
    session: Option<Session>,
    about: Option<Box<About>>,
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
    pub(crate) fn new(target: TargetId, conninfo: Arc<Conninfo>, trust: Arc<Trust>, timeout: Duration) -> Self {
        Self {
            target,
            conninfo,
            trust,
            timeout,
            settings: SettingsBy::default(),
            encoding: Encoding::default(),
            refusals: Refusals::default(),
            denied_parts: Refused::default(),
            denied: None,
            session: None,
            about: None,
            doing: "",
        }
    }

    /// Who the server is, once it has said so in this session.
    pub(crate) fn identity(&self) -> Option<&Arc<Identity>> {
        self.about.as_ref().map(|about| &about.identity)
    }

    /// Where the WAL stands. Opens a session where there is none; a session that turns out to be closed is opened
    /// again, once. All of it within the timeout; a session that did not answer in time is not used again.
    ///
    /// # Errors
    /// No session, no answer, or one that cannot be read.
    pub(crate) async fn positions(&mut self) -> Result<Answered<Positions>, PollFailure> {
        let began = clock::now();
        let was_open = self.session.as_mut().is_some_and(|session| !session.is_closed());
        if !was_open {
            self.connect(began).await?;
        }
        let answer = self.positions_in_time(began).await;
        match answer {
            Err(failure) if was_open && ends_session(&failure) && !matches!(failure, PollFailure::Timeout { .. }) => {
                self.connect(began).await?;
                self.positions_in_time(began).await
            }
            answer => answer,
        }
    }

    /// The slow facts. To be asked when [`Dialog::positions`] was: there must be a session. What was answered when the
    /// time is over counts; what was not is among [`SurveyFacts::failures`].
    ///
    /// # Errors
    /// Nothing was answered.
    pub(crate) async fn survey(&mut self, wanted: Wanted<'_>) -> Result<Answered<SurveyFacts>, PollFailure> {
        let began = clock::now();
        self.refusals.expire(began);
        if self.about.as_deref().is_none_or(|about| self.is_to_be_introduced(about, began)) {
            let introduced = tokio::time::timeout(self.timeout, self.introduce()).await;
            let introduced = self.within_limit(introduced);
            if self.about.is_none() {
                introduced?;
            }
        }
        let mut facts = SurveyFacts::default();
        let mut topics: Vec<&'static Topic> = Vec::new();
        for topic in survey::TOPICS {
            let denied = || self.context(wanted).and_then(|context| self.denial_of(&topic.sql(context)?));
            match self.refusals.topic(topic.name).cloned().or_else(denied) {
                Some(failure) => facts.failures.push((topic.name, failure)),
                None => topics.push(topic),
            }
        }
        let asked_at = clock::now();
        let mut n_answered = 0;
        for _ in 0..MAX_ROUNDS {
            let was_converted = self.encoding == Encoding::Utf8;
            let answers = self.ask_topics(&mut topics, wanted, began).await;
            let mut again = Vec::new();
            for (topic, answer) in topics.into_iter().zip(answers) {
                if was_converted && self.encoding == Encoding::AsStored {
                    // Text is sent in another way from now on. A topic may need the names of one before it.
                    again.push(topic);
                    continue;
                }
                match answer.and_then(|messages| self.read_topic(topic, wanted, &messages, &mut facts)) {
                    Ok(()) => n_answered += 1,
                    Err(failure) if self.leave_out(&failure) => again.push(topic),
                    Err(failure) => {
                        if is_refusal(&failure) {
                            self.note_refusal(topic, &failure);
                        }
                        facts.failures.push((topic.name, failure));
                    }
                }
            }
            topics = again;
            if topics.is_empty() {
                break;
            }
        }
        if n_answered == 0
            && let Some((_, failure)) = facts.failures.first()
        {
            return Err(failure.clone());
        }
        let databases = facts.databases.take();
        if let Some(sessions) = &mut facts.sessions {
            sessions.name_databases(databases.as_deref());
        }
        Ok(Answered { facts, asked_at, answered_at: clock::now() })
    }

    /// What may be shown of the texts of these statements, by queryid. To be asked when [`Dialog::survey`] was.
    ///
    /// # Errors
    /// As for a survey, or it takes longer than half of what a poll may take: the texts are a file as large as the disk allows.
    pub(crate) async fn statement_texts(
        &mut self,
        wanted: Wanted<'_>,
        queryids: &[i64],
    ) -> Result<HashMap<i64, Arc<str>>, PollFailure> {
        let sql = self.context(wanted).and_then(|context| survey::texts_sql(context, queryids, self.timeout / 2));
        let Some(sql) = sql else { return Ok(HashMap::new()) };
        let answer = tokio::time::timeout(self.timeout, self.ask("asking for the texts of statements", &sql)).await;
        let messages = self.within_limit(answer)?;
        survey::decode_texts(&by_statement(&messages))
    }

    /// How the server is set up. To be asked when [`Dialog::positions`] was.
    pub(crate) async fn checkup(&mut self) -> Checkup {
        let mut checkup = Checkup::default();
        let (Some(about), Some(session)) = (&self.about, &mut self.session) else { return checkup };
        checkup.certificate = session.certificate();
        checkup.by_rds_proxy = session.settings() == SettingsBy::Role;
        let topics = doctor::topics(about.identity.version_num);
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

    /// The answers to `topics`, in their order; those that have nothing to ask are taken out. Each that is not in hand
    /// when the time is over has failed with that.
    async fn ask_topics(
        &mut self,
        topics: &mut Vec<&'static Topic>,
        wanted: Wanted<'_>,
        began: MonoTime,
    ) -> Vec<Result<Vec<SimpleQueryMessage>, PollFailure>> {
        let Some(context) = self.context(wanted) else {
            return topics.iter().map(|_| Err(no_session())).collect();
        };
        let mut questions = Vec::with_capacity(topics.len());
        topics.retain(|topic| match topic.sql(context) {
            Some(sql) => {
                questions.push(sql);
                true
            }
            None => false,
        });
        let left = self.time_left(began);
        let mut answers = Vec::with_capacity(questions.len());
        let outcome = match &mut self.session {
            Some(session) => {
                let asking = session.simple_queries(&questions, |_, answer| answers.push(answer));
                tokio::time::timeout(left, asking).await
            }
            None => Ok(()),
        };
        if let Some(topic) = topics.get(answers.len()) {
            self.doing = topic.name;
            let failure = match self.within_limit(outcome.map(Ok)) {
                Err(failure) => failure,
                Ok(()) => no_session(),
            };
            answers.resize_with(questions.len(), || Err(failure.clone()));
        }
        for answer in &answers {
            // An extension that was changed has other columns now: to be asked about before the next survey.
            if let (Err(PollFailure::Sql { .. }), Some(about)) = (answer, &mut self.about) {
                about.asked_at = MonoTime::from_nanos(i64::MIN / 2);
            }
        }
        if answers.iter().any(|answer| answer.as_ref().err().is_some_and(ends_session)) {
            self.close();
        }
        answers
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

    async fn connect(&mut self, began: MonoTime) -> Result<(), PollFailure> {
        self.close();
        let limits = Limits { connect: self.time_left(began), ..Limits::within(self.timeout) };
        // Boxed: else each target would keep room for this its life long, and it is most of all that it needs.
        let connecting = Box::pin(postgres::connect(&self.conninfo, &limits, self.settings, &self.trust));
        let mut session = connecting.await?;
        self.settings = session.settings();
        if self.encoding == Encoding::AsStored {
            session.set_encoding(Encoding::AsStored);
        }
        self.session = Some(session);
        self.refusals.note_session(clock::now());
        Ok(())
    }

    /// Ends the session, should there be one, as a client should.
    pub(crate) async fn end(&mut self) {
        if let Some(session) = self.session.take() {
            session.end().await;
        }
        self.close();
    }

    fn close(&mut self) {
        self.session = None;
        self.about = None;
    }

    fn time_left(&self, began: MonoTime) -> Duration {
        self.timeout.saturating_sub(clock::now().duration_since(began))
    }

    async fn positions_in_time(&mut self, began: MonoTime) -> Result<Answered<Positions>, PollFailure> {
        let answer = tokio::time::timeout(self.time_left(began), self.ask_positions()).await;
        self.within_limit(answer)
    }

    fn within_limit<T>(
        &mut self,
        answer: Result<Result<T, PollFailure>, tokio::time::error::Elapsed>,
    ) -> Result<T, PollFailure> {
        let answer = answer.unwrap_or_else(|_| {
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
        match &mut self.session {
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
            if self.about.is_none() {
                self.introduce().await?;
            }
            let Some(about) = &self.about else { break };
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
            let answer = self.ask("asking for its WAL positions", &sql).await;
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
        let Some(session) = &mut self.session else { return false };
        if session.encoding() == Encoding::AsStored || session.settings() == SettingsBy::Role {
            return false;
        }
        info!(
            cluster = %self.target.cluster, target = %self.target.target, error = %refusal,
            "a name has no form in UTF-8; text is taken as the server stores it"
        );
        session.set_encoding(Encoding::AsStored);
        self.encoding = Encoding::AsStored;
        true
    }

    async fn introduce(&mut self) -> Result<(), PollFailure> {
        let messages = loop {
            match self.ask("asking who it is", &identity::sql(self.left_out())).await {
                Ok(messages) => break messages,
                Err(refusal) if self.leave_out(&refusal) => {}
                Err(failure) => return Err(failure),
            }
        };
        let introduction = identity::decode(&by_statement(&messages))?;
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
                about.clients.push(KnownSender { pid: sender.pid, client, is_final: !has_only_started(sender) });
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
