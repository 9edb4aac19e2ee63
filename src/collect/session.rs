//! A session with one server: its connection is driven by whoever asks, so that dropping it drops everything.
//!
//! Several questions may be under way at once, all of one task: they are sent as they come and answered in that order.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsStream};
use tokio_postgres::{Client, Connection, SimpleQueryMessage, SimpleQueryStream};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::failure;
use super::messages::Messages;
use super::passfile::Password;
use super::require_auth::Gate;
use super::settings;
use super::wire::{Allowance, Wire};
use crate::clock;
use crate::core::checkup::PeerCertificate;
use crate::core::observation::PollFailure;
use crate::core::time::MonoTime;

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Name lookup, TCP, TLS and start-up together, over all hosts.
    pub connect: Duration,
    /// `statement_timeout`: the server gives up by itself when we no longer listen.
    pub statement: Duration,
    /// `lock_timeout`.
    pub lock: Duration,
}

impl Limits {
    /// For polls that may take `timeout`: a lock is waited for so briefly that several in one survey leave it time.
    pub fn within(timeout: Duration) -> Self {
        Self { connect: timeout, statement: timeout, lock: timeout / 8 }
    }
}

/// How a session's settings are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SettingsBy {
    /// Once, ahead of its first question.
    #[default]
    Session,
    /// A pooler that hands its connections from client to client takes none at start-up, or drops them silently; then
    /// each question is a transaction that makes them for itself, in the same round trip.
    Transaction,
    /// RDS Proxy takes none at start-up either, and after a `SET` of whatever kind it may keep a database connection for
    /// us alone ("pinning"): none is sent, and the role's own hold (`ALTER ROLE ... SET`). Each question is a read-only
    /// transaction all the same.
    Role,
    /// PgBouncer's admin console has neither settings nor transactions.
    Console,
}

impl SettingsBy {
    /// What comes before a question, and the number of statements in it. `None`: it is asked as it is.
    fn prologue(self, limits: &Limits, major: u32, encoding: Encoding) -> Option<(String, usize)> {
        match self {
            Self::Session | Self::Console => None,
            Self::Transaction => Some(settings::prologue(limits, major, encoding)),
            Self::Role => Some((settings::BEGIN.to_owned(), 1)),
        }
    }

    /// Whether a pooler is in between.
    pub const fn is_pooled(self) -> bool {
        matches!(self, Self::Transaction | Self::Role)
    }
}

/// How the server sends text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Made UTF-8 out of the database's own encoding, which is what a start-up asks for. It refuses an answer with a name
    /// that is not of that encoding: names of roles and databases are shared by databases of different ones.
    #[default]
    Utf8,
    /// Byte by byte as it is stored, which is never refused.
    AsStored,
}

impl Encoding {
    /// As `client_encoding`. The second is also the `server_encoding` of a database that knows none, and converts nothing.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF8",
            Self::AsStored => "SQL_ASCII",
        }
    }
}

/// A session's encryption, by the client's own knowledge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tls {
    pub(super) is_on: bool,
    /// `None` without TLS, and for a certificate that cannot be read.
    pub(super) certificate: Option<PeerCertificate>,
}

/// An encrypted session's stream, with the messages that are within.
pub(super) struct Encrypted {
    /// A TLS session is big; boxed, a target without TLS does not pay for it.
    stream: Box<<MakeRustlsConnect as MakeTlsConnect<Wire>>::Stream>,
    messages: Messages,
    gate: Option<Gate>,
}

impl Encrypted {
    pub(super) fn new(
        stream: <MakeRustlsConnect as MakeTlsConnect<Wire>>::Stream,
        allowance: Allowance,
        gate: Option<Gate>,
    ) -> Self {
        Self { stream: Box::new(stream), messages: Messages::new(allowance), gate }
    }
}

pub(super) type Wired = Connection<Wire, Encrypted>;

/// Rows and other parts of one answer: statements are tens of thousands at most, slots and sessions hundreds. With what
/// the wire allows this bounds the memory an answer can take, which for the shortest rows is many times their length.
const MAX_PARTS: usize = 200_000;

/// The connection's buffer has 8 KiB at first, and keeps what it grows to. So that a target takes no more memory for good
/// than it must, questions are put into it up to here and sent.
const ROOM: usize = 7 << 10;

/// How long the end of a session may take, beside what is still being answered.
const GOODBYE: Duration = Duration::from_millis(500);

/// An open session.
pub struct Session {
    client: Client,
    /// Locked for as long as it takes to poll it, by one task alone.
    line: Mutex<Line>,
    /// Where a question is a transaction of its own, the next one is sent when it has been answered: a failure leaves it
    /// open. In the order in which they were asked.
    transaction: tokio::sync::Mutex<()>,
    tls: Tls,
    settings: SettingsBy,
    /// [`Encoding::AsStored`] it is.
    is_as_stored: AtomicBool,
    /// Its settings are made, or none are to be.
    is_set: AtomicBool,
    limits: Limits,
    allowance: Allowance,
    /// What the server was given to log in with: it may repeat it.
    password: Option<Password>,
}

struct Line {
    connection: Wired,
    /// How the connection ended. `None` while it is open, as far as is known.
    lost: Option<PollFailure>,
    /// When the last answer to one of several questions asked at once was in hand.
    several_at: Option<MonoTime>,
}

impl Line {
    /// Lets the connection send and read; ready when it has ended.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<PollFailure> {
        if let Some(lost) = &self.lost {
            return Poll::Ready(lost.clone());
        }
        let ending = ready!(drive(&mut self.connection, cx));
        self.lost = Some(ending.clone());
        Poll::Ready(ending)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("tls", &self.tls)
            .field("settings", &self.settings)
            .field("lost", &self.line().lost)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(
        (client, connection): (Client, Wired),
        allowance: Allowance,
        tls: Tls,
        settings: SettingsBy,
        limits: Limits,
        password: Option<Password>,
    ) -> Self {
        let is_set = AtomicBool::new(settings != SettingsBy::Session);
        let is_as_stored = connection.parameter("server_encoding") == Some(Encoding::AsStored.name());
        let is_as_stored = AtomicBool::new(is_as_stored);
        let line = Mutex::new(Line { connection, lost: None, several_at: None });
        let transaction = tokio::sync::Mutex::default();
        Self { client, line, transaction, tls, settings, is_as_stored, is_set, limits, allowance, password }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is encrypted.
    pub const fn tls(&self) -> bool {
        self.tls.is_on
    }

    /// The server's certificate. `None` without TLS, and for one that cannot be read.
    pub const fn certificate(&self) -> Option<PeerCertificate> {
        self.tls.certificate
    }

    /// How its settings are made: to be kept for the next connection to the same target.
    pub const fn settings(&self) -> SettingsBy {
        self.settings
    }

    /// Whether the settings of the start-up hold: a pooler may have dropped them without a word, and would give what is set
    /// for a session to others. Before the first question.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) async fn make_settings_hold(&mut self) -> Result<(), PollFailure> {
        let (mark, value) = settings::MARK;
        self.is_set.store(true, Ordering::Relaxed);
        let answer = self.ask(&format!("SHOW {mark}")).await?;
        let holds = answer.iter().any(|message| match message {
            SimpleQueryMessage::Row(row) => row.try_get(0).ok().flatten() == Some(value),
            _ => false,
        });
        self.is_set.store(!holds, Ordering::Relaxed);
        if !holds {
            self.settings = SettingsBy::Transaction;
        }
        Ok(())
    }

    /// How text is sent: from the start as it is stored where the database has no encoding.
    pub fn encoding(&self) -> Encoding {
        if self.is_as_stored.load(Ordering::Relaxed) { Encoding::AsStored } else { Encoding::Utf8 }
    }

    /// Asks for text to be sent as it is stored from the next question on. Not through RDS Proxy, which is sent no
    /// settings.
    pub(super) fn take_text_as_stored(&self) {
        if !self.is_as_stored.swap(true, Ordering::Relaxed) {
            self.is_set.store(self.settings != SettingsBy::Session, Ordering::Relaxed);
        }
    }

    /// A parameter that the server reports by itself (`in_hot_standby`, `server_version`, ...).
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.line().connection.parameter(name).map(str::to_owned)
    }

    /// The server's major version. 0 where it does not say.
    fn major(&self) -> u32 {
        settings::major(self.parameter("server_version").as_deref())
    }

    /// Whether the server has ended it, as far as is known by now: looks at what has arrived, without waiting.
    pub fn is_closed(&self) -> bool {
        self.line().drive(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Waits until the server ends it. Takes in what comes meanwhile.
    pub(super) async fn closed(&self) -> PollFailure {
        let ending = poll_fn(|cx| self.line().drive(cx)).await;
        self.without_password(ending)
    }

    /// When the last answer of [`Session::simple_queries`] was in hand.
    pub(super) fn several_at(&self) -> Option<MonoTime> {
        self.line().several_at
    }

    /// Asks in the simple query protocol; several statements are one round trip. Nothing is prepared, so that a pooler
    /// may be in between. A connection that ends says why: the server's last words, where there are any.
    ///
    /// # Errors
    /// The server refused the query, or the connection is lost.
    pub async fn simple_query(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, PollFailure> {
        let Some((prologue, n_statements)) = self.settings.prologue(&self.limits, self.major(), self.encoding()) else {
            return self.ask(sql).await;
        };
        let _turn = self.transaction.lock().await;
        match self.ask(&format!("{prologue}{sql}\n;COMMIT")).await {
            Ok(mut messages) => {
                messages.pop();
                messages.drain(..n_statements.min(messages.len()));
                Ok(messages)
            }
            Err(failure) => {
                // The transaction is still open, and the next BEGIN would meet it.
                if self.line().lost.is_none() {
                    self.ask("ROLLBACK").await?;
                }
                Err(failure)
            }
        }
    }

    /// Asks several questions at once: one round trip, and each has its own outcome. They are answered in turn, each
    /// handed to `take` as it comes, so that what was answered is in hand should the wait for the rest be given up.
    pub async fn simple_queries(
        &self,
        questions: &[String],
        mut take: impl FnMut(usize, Result<Vec<SimpleQueryMessage>, PollFailure>),
    ) {
        if self.settings.is_pooled() {
            // Each in a transaction of its own, which a failure leaves open: one after the other.
            for (position, sql) in questions.iter().enumerate() {
                let answer = self.simple_query(sql).await;
                self.line().several_at = Some(clock::now());
                take(position, answer);
            }
            return;
        }
        // The settings cost no round trip of their own.
        let opening = self.opening().await;
        let mut answers = Vec::with_capacity(questions.len());
        let mut unsent = 0;
        for sql in questions {
            if unsent + sql.len() > ROOM {
                self.send().await;
                unsent = 0;
            }
            unsent += sql.len();
            // Only puts it into the queue.
            answers.push(self.client.simple_query_raw(sql).await.map_err(Interruption::from));
        }
        if let Some(opening) = opening {
            self.allowance.renew();
            let opened = self.while_driving(async { all_parts(opening?).await }).await;
            if let Err(failure) = opened {
                let failure = failure::of_settings(self.without_password(failure));
                for position in 0..questions.len() {
                    take(position, Err(failure.clone()));
                }
                return;
            }
            self.is_set.store(true, Ordering::Relaxed);
        }
        for (position, answer) in answers.into_iter().enumerate() {
            self.allowance.renew();
            let whole = async { all_parts(answer?).await };
            let answer = self.while_driving(whole).await;
            self.line().several_at = Some(clock::now());
            take(position, answer.map_err(|failure| self.without_password(failure)));
        }
    }

    /// Says good-bye, so that the server logs no cut connection; waits for what is still being answered, no longer than
    /// the server may work at it.
    pub async fn end(self) {
        let Self { client, line, limits, .. } = self;
        let Line { mut connection, lost: None, .. } = line.into_inner().unwrap_or_else(PoisonError::into_inner) else {
            return;
        };
        drop(client);
        let _ = tokio::time::timeout(limits.statement + GOODBYE, poll_fn(|cx| drive(&mut connection, cx))).await;
    }

    async fn ask(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, PollFailure> {
        self.allowance.renew();
        let opening = self.opening().await;
        let answer = async {
            // Both are put into the queue and sent together: the settings cost no round trip of their own.
            let question = self.client.simple_query_raw(sql).await?;
            if let Some(opening) = opening {
                all_parts(opening?).await?;
                self.is_set.store(true, Ordering::Relaxed);
            }
            all_parts(question).await
        };
        self.while_driving(answer).await.map_err(|failure| {
            let failure = self.without_password(failure);
            if self.is_set.load(Ordering::Relaxed) { failure } else { failure::of_settings(failure) }
        })
    }

    /// Puts what makes the settings into the queue, should they still have to be made.
    async fn opening(&self) -> Option<Result<SimpleQueryStream, Interruption>> {
        if self.is_set.load(Ordering::Relaxed) {
            return None;
        }
        let opening = settings::opening(&self.limits, self.major(), self.encoding());
        Some(self.client.simple_query_raw(&opening).await.map_err(Interruption::from))
    }

    /// A failure without the password that the server was given, should it have repeated it.
    pub(super) fn without_password(&self, failure: PollFailure) -> PollFailure {
        failure::without(failure, self.password.as_ref())
    }

    /// Waits for an answer and lets the connection send and read meanwhile. An answer that has arrived whole counts,
    /// whatever became of the connection after it.
    async fn while_driving<T>(&self, answer: impl Future<Output = Result<T, Interruption>>) -> Result<T, PollFailure> {
        let mut answer = pin!(answer);
        poll_fn(|cx| {
            let mut ending = None;
            // The first round sends the question, the second takes up what the connection has read.
            for _ in 0..2 {
                if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                    return Poll::Ready(match answer {
                        Ok(answer) => Ok(answer),
                        Err(Interruption::Closed) => {
                            Err(ending.take().or_else(|| self.line().lost.clone()).unwrap_or_else(closed))
                        }
                        Err(Interruption::Other(failure)) => Err(failure),
                        Err(Interruption::TooLong) => {
                            self.line().lost = Some(failure::too_much());
                            Err(failure::too_much())
                        }
                    });
                }
                if ending.is_none()
                    && let Poll::Ready(end) = self.line().drive(cx)
                {
                    ending = Some(end);
                }
            }
            match ending {
                Some(ending) => Poll::Ready(Err(ending)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Has the connection send what is in its queue, without waiting for what it answers.
    async fn send(&self) {
        poll_fn(|cx| {
            // How it ended is kept.
            let _ = self.line().drive(cx);
            Poll::Ready(())
        })
        .await;
    }
}

/// Why an answer has no end.
enum Interruption {
    /// The connection says why.
    Closed,
    TooLong,
    Other(PollFailure),
}

impl From<tokio_postgres::Error> for Interruption {
    fn from(error: tokio_postgres::Error) -> Self {
        if error.is_closed() { Self::Closed } else { Self::Other(failure::of_session(&error)) }
    }
}

/// The whole answer.
async fn all_parts(answer: SimpleQueryStream) -> Result<Vec<SimpleQueryMessage>, Interruption> {
    let mut answer = pin!(answer);
    let mut messages = Vec::new();
    while let Some(message) = answer.next().await {
        if messages.len() == MAX_PARTS {
            return Err(Interruption::TooLong);
        }
        messages.push(message?);
    }
    Ok(messages)
}

/// Lets the connection send and read; ready when it has ended. Notices are not for us: whoever reads our log would not
/// even know which server said them.
fn drive(connection: &mut Wired, cx: &mut Context<'_>) -> Poll<PollFailure> {
    loop {
        match ready!(connection.poll_message(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(failure::of_session(&error)),
            None => return Poll::Ready(closed()),
        }
    }
}

fn closed() -> PollFailure {
    PollFailure::Lost { reason: "the server closed it".to_owned() }
}

impl AsyncRead for Encrypted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let Self { stream, messages, .. } = &mut *self;
        ready!(messages.poll_read(Pin::new(&mut **stream), cx, buf))?;
        Poll::Ready(match &mut self.gate {
            Some(gate) => gate.pass(&buf.filled()[before..]).map_err(io::Error::other),
            None => Ok(()),
        })
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

impl TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}
