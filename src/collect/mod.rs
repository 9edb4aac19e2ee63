//! What comes in: each target is asked on its own connection, at its cluster's beat, and what it says becomes events.
//!
//! Nothing here decides anything about what is seen, and nothing here spawns: [`cluster`] hands out tasks to be run.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use tokio::sync::Notify;

use crate::core::checkup::Checkup;
use crate::core::observation::{Identity, PollFailure, Positions};
use crate::core::pooler::PoolerFacts;
use crate::core::statements::StatementTracker;
use crate::core::survey::SurveyFacts;
use crate::core::topology::{Name, TargetId};

use self::beat::{Beat, BeatTask, Burst};
use self::conninfo::Conninfo;
use self::dialog::{Dialog, SurveyWish};
use self::pooler::{Console, PoolerTask};
use self::target::{Background, Failures, TargetTask};
use self::tls::Trust;

mod backoff;
pub mod beat;
mod certificate;
pub mod conninfo;
mod decode;
mod dialog;
mod dsn;
mod failure;
pub mod login;
mod messages;
mod parameters;
pub mod passfile;
pub mod pooler;
pub mod postgres;
mod queries;
mod refusals;
mod require_auth;
pub mod resolved;
mod service_file;
pub mod session;
pub mod settings;
pub mod target;
pub mod tls;
mod turns;
mod wire;

/// `[poll]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PollConfig {
    /// How often each server is asked for its WAL positions. They cost it some 0.1 ms.
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
    /// How long a poll may take. A server that has not answered by then is down.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// How long a new connection may take: name lookup, TCP, TLS and start-up together, over all hosts. One that takes
    /// longer than `timeout` is used all the same. A `connect_timeout` in the connection string wins, for each host.
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Duration,
    /// How often it is asked for sessions, slots and statements.
    #[serde(deserialize_with = "duration")]
    pub slow_interval: Duration,
    /// A session that is idle for longer is counted by itself.
    #[serde(deserialize_with = "duration")]
    pub idle_limit: Duration,
    /// A sample older than this is unknown. Default: what one lost poll takes, `2 x interval + timeout`, but at least
    /// `3 x interval`.
    #[serde(deserialize_with = "optional_duration")]
    pub stale_after: Option<Duration>,
    /// How soon after a beat the next may come while somebody waits for a server to read from. Not set: when its time has come.
    #[serde(deserialize_with = "optional_duration")]
    pub burst: Option<Duration>,
    /// How often the admin console of each connection pooler is asked.
    #[serde(deserialize_with = "duration")]
    pub pooler_interval: Duration,
}

impl Default for PollConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(10),
            slow_interval: Duration::from_secs(15),
            idle_limit: Duration::from_secs(60 * 60),
            stale_after: None,
            burst: None,
            pooler_interval: Duration::from_secs(5),
        }
    }
}

/// `[statements]`: what is told of `pg_stat_statements`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatementsConfig {
    /// Whether it is read at all.
    pub enabled: bool,
    /// How many statements of each target are told one by one; the others of their database are told as one.
    pub top: usize,
    /// Whether the API shows the first line of those statements, without literals.
    pub show_text: bool,
}

impl Default for StatementsConfig {
    fn default() -> Self {
        Self { enabled: true, top: 10, show_text: false }
    }
}

impl PollConfig {
    /// For how long a server that is down may go without being asked, everything included.
    pub fn longest_wait(&self) -> Duration {
        backoff::LONGEST.max(self.connect_timeout) + self.interval + self.timeout + Duration::from_secs(5)
    }

    /// `stale_after`, or its default.
    pub fn stale_after(&self) -> Duration {
        self.stale_after.unwrap_or_else(|| self.outliving_one(self.interval))
    }

    /// What a pooler said is unknown when older than this.
    pub fn pooler_stale_after(&self) -> Duration {
        self.outliving_one(self.pooler_interval)
    }

    /// What one lost poll takes, at this interval.
    fn outliving_one(&self, interval: Duration) -> Duration {
        (3 * interval).max(2 * interval + self.timeout)
    }

    /// Slow facts older than this are unknown: three slow beats.
    pub fn survey_stale_after(&self) -> Duration {
        3 * self.slow_interval
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration in quotes, for example \"5s\",")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            humantime::parse_duration(text)
                .map_err(|_| E::custom(format!("{text:?} is not a duration; write for example \"5s\" or \"1m 30s\"")))
        }
    }
    deserializer.deserialize_str(Text)
}

fn optional_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

/// One server to watch.
#[derive(Clone, Debug)]
pub struct TargetSpec {
    pub name: Name,
    pub conninfo: Arc<Conninfo>,
}

/// The tasks that watch one cluster: its beat, and one for each target in their order. `index` is the cluster's place
/// among all: by it the clusters' beats are spread over the interval.
pub fn cluster(
    index: usize,
    name: &Name,
    targets: Vec<TargetSpec>,
    poll: &PollConfig,
    statements: StatementsConfig,
    trust: &Arc<Trust>,
) -> (BeatTask, Vec<Box<TargetTask>>) {
    let (task, beat) = beat::new(index, poll.interval, 0);
    let tasks = targets.into_iter().enumerate().map(|(place, spec)| {
        let id = TargetId { cluster: name.clone(), target: spec.name };
        target((index, place), id, spec.conninfo, &beat, poll, statements, trust)
    });
    (task, tasks.collect())
}

/// The beat of a cluster: its task, and where targets take part in it. It counts on from `last`. Whoever waits for a sample of
/// the cluster rings `bell`.
pub fn beat(index: usize, poll: &PollConfig, last: u64, bell: Arc<Notify>) -> (BeatTask, Beat) {
    let (task, beat) = beat::new(index, poll.interval, last);
    (task.with_burst(poll.burst.map(|every| Burst { every, bell })), beat)
}

/// The task that watches one target, at its cluster's beat. `place` is that of its cluster among all, and its own there.
pub fn target(
    place: (usize, usize),
    id: TargetId,
    conninfo: Arc<Conninfo>,
    beat: &Beat,
    poll: &PollConfig,
    statements: StatementsConfig,
    trust: &Arc<Trust>,
) -> Box<TargetTask> {
    Box::new(TargetTask {
        dialog: Dialog::new(id.clone(), conninfo, Arc::clone(trust), poll),
        id,
        timeout: poll.timeout,
        seat: beat.seat(),
        statements,
        idle_limit: poll.idle_limit,
        tracker: StatementTracker::default(),
        texts_at: None,
        n_surveys: 0,
        slow_interval: poll.slow_interval,
        slow_offset: target::slow_offset(place.0, place.1, poll.slow_interval),
        failures: Failures::default(),
        role: None,
        survey_at: None,
        background: Background::default(),
        opened_at: None,
        turn: None,
    })
}

/// The task that watches one connection pooler by its admin console. `index` is its place among all.
pub fn pooler(
    index: usize,
    id: TargetId,
    conninfo: Arc<Conninfo>,
    poll: &PollConfig,
    trust: &Arc<Trust>,
) -> PoolerTask {
    PoolerTask {
        id,
        console: Console::new(conninfo, Arc::clone(trust), poll),
        timeout: poll.timeout,
        interval: poll.pooler_interval,
        offset: poll.pooler_interval.mul_f64(beat::spread(index)),
        n_failures: 0,
        last_failure: None,
        has_answered: false,
        leaves_unread: false,
    }
}

/// Connects to a pooler's console once and asks everything once.
///
/// # Errors
/// It cannot be reached, or its answer cannot be read.
pub async fn probe_pooler(
    conninfo: Arc<Conninfo>,
    timeout: Duration,
    trust: Arc<Trust>,
) -> Result<PoolerFacts, PollFailure> {
    let poll = PollConfig { timeout, connect_timeout: timeout, ..PollConfig::default() };
    let mut console = Console::new(conninfo, trust, &poll);
    console.take(console.opening().await?);
    let answer = console.ask().await;
    console.end().await;
    answer
}

/// What one look at a server shows.
#[derive(Clone, Debug)]
pub struct Probe {
    pub identity: Arc<Identity>,
    pub positions: Result<Positions, PollFailure>,
    pub survey: Result<SurveyFacts, PollFailure>,
    /// Functions and views that it refuses, and that are done without.
    pub refused: Vec<&'static str>,
    /// How it is set up: what the daemon never asks.
    pub checkup: Checkup,
}

/// Connects once and asks everything once. To connect, positions and checkup may each take `timeout`, each part of the
/// survey half as long again.
///
/// # Errors
/// The server cannot be reached, or does not say who it is.
pub async fn probe(
    id: TargetId,
    conninfo: Arc<Conninfo>,
    timeout: Duration,
    statements: bool,
    trust: Arc<Trust>,
) -> Result<Probe, PollFailure> {
    let poll = PollConfig { timeout, connect_timeout: timeout, ..PollConfig::default() };
    let mut dialog = Dialog::new(id, conninfo, trust, &poll);
    dialog.connect().await?;
    let positions = dialog.positions().await.map(|answer| answer.facts);
    let Some(identity) = dialog.identity().cloned() else {
        return Err(match positions {
            Err(failure) => failure,
            Ok(_) => PollFailure::Lost { reason: "the session ended".to_owned() },
        });
    };
    let wish = SurveyWish { statements, known: None, since: false, idle_limit: poll.idle_limit };
    let survey = dialog.survey(wish).await.map(|answer| answer.facts);
    let checkup = dialog.checkup().await;
    let refused = dialog.refused();
    dialog.end().await;
    Ok(Probe { identity, positions, survey, refused, checkup })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_outlives_one_lost_poll() {
        let stale_after = |interval, timeout| {
            let (interval, timeout) = (Duration::from_secs(interval), Duration::from_secs(timeout));
            PollConfig { interval, timeout, ..PollConfig::default() }.stale_after().as_secs()
        };
        assert_eq!(stale_after(1, 3), 5);
        assert_eq!(stale_after(10, 3), 30);
        let told = PollConfig { stale_after: Some(Duration::from_secs(60)), ..PollConfig::default() };
        assert_eq!(told.stale_after().as_secs(), 60);
    }
}
