//! How far a replica lags, and how sure that is.
//!
//! # What is measured
//!
//! *Replay lag of a replica at an instant* is the age of the oldest WAL that the primary had flushed and the replica has
//! not replayed; 0 if it has replayed everything. It is not the time since the last commit: the replicas of a primary
//! that has been idle since yesterday lag by nothing.
//!
//! # Why not simply ask PostgreSQL
//!
//! Each number that a server offers is wrong exactly when it matters. The time since the last replayed commit grows on an
//! idle primary and stands still in a long transaction. Correcting it to 0 where received equals replayed makes a severed
//! replica perfect. `replay_lag` is a measurement of the past: frozen between replies, gone with the connection. So the
//! monitor keeps its own history of the primary's *flush* position ([`WalClock`]) on its own clock, reads a replica's lag
//! from where its replay position stands in it, and lets everything else only narrow the bounds of that answer.
//! (The insert position would not do: on an idle primary it rests a page header ahead of what any replica will ever have.)
//!
//! # Which evidence wins
//!
//! T is the instant at which the primary went beyond the replica's replay position. The history says that it lies in a
//! bracket (A, B]: A the last time the primary was seen no further, B the first time it was known beyond.
//!
//! | known | evidence | value | lower bound | upper bound |
//! |---|---|---|---|---|
//! | no B, primary answers | `caught_up` | 0 | 0 | since A |
//! | no B, primary lost, stream alive | `receiver` | 0 | 0 | since the last message that brought nothing new |
//! | no B, primary refuses connections | `primary_down` | 0 | 0 | since A, growing |
//! | no B, primary silent | `primary_lost` | 0 | 0 | since A, growing |
//! | A, B, last replayed commit in (A, B] | `lsn+ts` | since that commit | since B | since that commit |
//! | A, B, the primary rested at the position | `lsn_plateau` | since the middle of (A, B] | since B | since A |
//! | A, B | `lsn` | interpolated by WAL | since B | since A |
//! | A long ago, B only since it was asked | `lsn`, `lsn_plateau` | 0 | 0 | since A, or that commit |
//! | B, no A: older than the history | `walsender` | the sender's measurement plus its age | since B | as `timestamp` |
//! | ... in the history's first second | `warming` | none: one poll cannot tell WAL in flight | since B | as `timestamp` |
//! | ... | `timestamp` | the upper bound | since B | since the last replayed commit or message |
//! | ... | `lower_bound` | the lower bound | since B | infinite |
//! | Aurora | `aurora` | the reader's own measurement, of the freshest row about it | 0, or the value while the row is fresh | the value plus the row's age |
//! | no primary yet, stream alive | `receiver_only` | 0 | 0 | age of the last message |
//! | no primary yet | `timestamp_only` | since the last replayed commit | 0 | the value |
//! | nothing | `no_primary`, `no_position`, `other_primary`, `foreign_cluster` | none | 0 | infinite |
//!
//! # What is known of a replica that is silent
//!
//! A report is where a replica stood at some instant between two: its own answer, or its row at an upstream. Reports are
//! kept. A newer one replaces an older one only where it shows a further position, for WAL that was replayed stays
//! replayed; its own next answer replaces them all, even when it is lower. How old a report is decides what it bounds:
//!
//! | newest report | the estimate is | position | lower bound | upper bound | |
//! |---|---|---|---|---|---|
//! | its own answer, the next not overdue | as of that answer | that one | since B | since A | |
//! | a row that its upstream still has, the next not overdue | as of that row | the furthest reported | 0 | since A | `@upstream` |
//! | an older one | as of now, growing with each second | the furthest reported | 0 | since A | `@last_known` |
//!
//! An answer is overdue a quarter of a poll interval (a quarter of a second at most) after it was due, whether or not a
//! poll has failed by then. The upper bound never needs a younger report: what is missing now cannot be older than what was
//! missing. The lower one does: since then it may have replayed everything. A row is read each second but as old as the
//! standby's last reply (10 s on an idle stream, up to `wal_sender_timeout` once it was cut off), and what was in the
//! standby's socket by then was replayed after that reply. So a row proves nothing from below, however often it is read.
//!
//! The value of a silent replica is a guess, and `at_most` says so, however narrow the bounds are: it is taken to stand
//! where it was last known to be. That is right if it is down or cut off and too high if only the monitor cannot reach
//! it. The other guess, that it goes on as it did, would show 0 for a dead server for as long as it is dead. No alert
//! fires on the guess as proven, for the lower bound is 0: it fires on a value that holds for the rule's `for`, and resolves
//! by the upper bound. While the primary is lost as well and nothing beyond the position is known, the value is 0, a
//! floor (`at_least`).
//!
//! The primary's answer may be overdue just so: then it counts as lost (`~primary_lost`), and what its replicas have
//! received goes on showing what it wrote. A position that others were first seen beyond after the replica was asked, while
//! the primary had been lost or late since before A, may have been left at any instant since A: the value is 0, a floor.
//!
//! `exact` is narrow bounds, and no guess within them. Else the certainty is the direction in which the value may be wrong:
//! `at_least` where it is the lower bound or much nearer to it, `at_most` where it is a guess, or nearer to the upper one.
//!
//! One that stayed on a timeline which the primary has left shares no WAL beyond the fork (`@old_timeline`), however far
//! its position is. What is read from the history while the primary is lost stays a floor (`~primary_lost`).
//!
//! # What this must never do
//!
//! - Say 0 where nothing is known, or a number for a server that is no replica of this primary.
//! - State a bound that was not proven. Server clocks are believed only while they are steady, and never decide alone;
//!   `timestamp_only` and the measurement in `walsender` are the exceptions, and are told as such.
//! - Take the difference of two servers' clocks for a duration where the monitor's clock can be put between them.
//! - Forget what was learned of a silent replica because it was not learned in this poll, or believe a row to be as young as
//!   the poll that read it.
//! - Wait for a time-out: an answer that is overdue widens the bounds at once.
//! - Force a replay position to go forward: a replica killed hard does come back older than it was.
//! - Go back to a primary on a lower timeline because the newest one died: only when nobody is left of its timeline, since
//!   it is watched no more or follows another now.

mod aurora;
mod confirmed;
mod estimate;
mod primary;
mod server;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::aurora::AuroraBytes;
use self::primary::{Primary, PrimaryAnswer};
use self::server::{LastAnswer, Polled, Report, Server, Standing, Stream};
use super::observation::{Observation, Positions, PrimaryState, ReplayPause, ServerState, StandbyState};
use super::time::MonoTime;
use super::topology::Name;
use super::topology::events::TopologyEvent;
use super::topology::links::SenderId;
use super::wal::{Lsn, Timeline};
use super::wal_clock::WalClock;

/// How far a commit's stamp may be from the flush of its record, besides the error of the clock's reading. Seconds.
const SLACK: f64 = 0.05;

/// An answer is overdue when it is later than the poll interval by this part of it ...
const LATE_PART: f64 = 0.25;
/// ... or by this many seconds, if that is less.
const LATE_MOST: f64 = 0.25;

/// Beats after the first by which each server that can be heard has been.
const HEARD_WITHIN: u64 = 3;

/// The lag of every replica of one cluster, from the polls of its servers in the order in which they end.
#[derive(Debug)]
pub struct LagTracker {
    /// Seconds.
    poll_interval: f64,
    history: WalClock,
    /// `None` until a primary has answered.
    primary: Option<Primary>,
    servers: HashMap<Name, Server>,
    /// Those that are Aurora's are here and not among the others.
    aurora: aurora::Aurora,
    /// Application names that several standbys have been seen to share: a row under such a name is anybody's.
    shared_names: BTreeSet<Arc<str>>,
    first_beat: Option<u64>,
    beat: u64,
}

impl LagTracker {
    pub fn new(poll_interval: Duration) -> Self {
        Self {
            poll_interval: poll_interval.as_secs_f64(),
            history: WalClock::new(poll_interval),
            primary: None,
            servers: HashMap::new(),
            aurora: aurora::Aurora::default(),
            shared_names: BTreeSet::new(),
            first_beat: None,
            beat: 0,
        }
    }

    /// How often servers are asked from now on.
    pub fn set_poll_interval(&mut self, poll_interval: Duration) {
        self.poll_interval = poll_interval.as_secs_f64();
        self.history.set_resolution(poll_interval);
    }

    /// Takes the end of a poll, answered or failed, of any server of the cluster.
    pub fn observe(&mut self, observation: &Observation) {
        let name = &observation.target.target;
        if self.observe_aurora(observation) {
            return;
        }
        self.first_beat.get_or_insert(observation.beat);
        self.beat = self.beat.max(observation.beat);
        if !self.servers.contains_key(name) {
            self.servers.insert(name.clone(), Server::default());
        }
        match &observation.outcome {
            Ok(positions) => {
                self.remember(observation, positions);
                match &positions.state {
                    ServerState::Primary(state) => self.observe_primary(observation, positions, state),
                    ServerState::Standby(state) => self.observe_standby(observation, positions, state),
                    ServerState::Aurora(_) => {}
                }
            }
            Err(failure) => {
                if let Some(server) = self.servers.get_mut(name) {
                    server.silent_since.get_or_insert(observation.asked_at);
                }
                if let Some(primary) = self.primary.as_mut().filter(|primary| primary.name == *name) {
                    primary.failed(observation.answered_at, failure);
                }
            }
        }
    }

    /// Whether that was all there is to do: an Aurora instance has no positions to hold against the others'.
    fn observe_aurora(&mut self, observation: &Observation) -> bool {
        let name = &observation.target.target;
        match &observation.outcome {
            Ok(Positions { state: ServerState::Aurora(state), .. }) => {
                self.servers.remove(name);
                if self.primary.as_ref().is_some_and(|primary| primary.name == *name) {
                    self.primary = None;
                    self.history.clear();
                }
                self.aurora.observe(observation, state);
            }
            Err(_) if self.aurora.has(name) => self.aurora.failed(name),
            Ok(_) => {
                self.aurora.forget(name);
                return false;
            }
            Err(_) => return false,
        }
        true
    }

    /// The server that the lag is measured against, whether or not it still answers.
    /// `None` while no primary has answered.
    pub fn primary(&self) -> Option<&Name> {
        self.primary.as_ref().map(|primary| &primary.name).or_else(|| self.aurora.writer())
    }

    /// The primary was known and its last poll failed, or it went into recovery and none has taken over yet.
    pub fn primary_is_lost(&self) -> bool {
        self.primary.as_ref().is_some_and(|primary| primary.is_lost)
    }

    /// The furthest position that the primary is known to have flushed: its own last word, or what its replicas have
    /// received since it was lost. `None` while no primary has answered.
    pub fn flush_lsn(&self) -> Option<Lsn> {
        self.history.last().map(|mark| mark.lsn)
    }

    /// Whether a server is known to be none of the primary's cluster.
    pub fn is_foreign(&self, system_identifier: Option<u64>) -> bool {
        self.primary.as_ref().is_some_and(|primary| primary.is_foreign(system_identifier))
    }

    /// Where the primary left the timeline that a server is on: beyond that they share no WAL. `None` while they are on
    /// one timeline, and when the daemon has not seen the promotion.
    pub fn fork_after(&self, timeline: Option<Timeline>) -> Option<Lsn> {
        self.primary.as_ref()?.fork_after(timeline?)
    }

    /// When the primary's WAL reached each position.
    pub fn history(&self) -> &WalClock {
        &self.history
    }

    /// Says which connection of which server is surely the target's own. Without, a row is its own only when its name is.
    pub fn set_sender(&mut self, target: &Name, sender: Option<SenderId>) {
        if let Some(server) = self.servers.get_mut(target) {
            server.sender = sender;
        }
    }

    /// What is to be kept over a restart. `None` while no primary has answered.
    pub fn saved(&self) -> Option<SavedLag> {
        Some(SavedLag { history: self.history.clone(), primary: self.primary.clone()?, events: Vec::new() })
    }

    /// Takes up what was kept: by the same clock, before anything was observed.
    pub fn restore(&mut self, saved: SavedLag) {
        self.history = saved.history;
        let mut primary = saved.primary;
        // It has not been heard since.
        primary.is_lost = true;
        self.primary = Some(primary);
    }

    /// The target is no longer watched. What it told as a primary stays true.
    pub fn forget(&mut self, target: &Name) {
        self.learn_from_rows(target);
        self.servers.remove(target);
        self.aurora.forget(target);
        if let Some(primary) = self.primary.as_mut().filter(|primary| primary.name == *target) {
            primary.is_lost = true;
            primary.is_gone = true;
        }
    }

    /// What any answer tells, whatever the role.
    fn remember(&mut self, observation: &Observation, positions: &Positions) {
        self.learn_from_rows(&observation.target.target);
        let Some(server) = self.servers.get_mut(&observation.target.target) else { return };
        let identity = &positions.identity;
        let before = server.last_answer.as_ref().map(|last| &last.identity);
        if let (Some(was), Some(is)) =
            (before.and_then(|identity| identity.system_identifier), identity.system_identifier)
            && was != is
        {
            // Another cluster's server behind the same address.
            *server = Server::default();
        }
        server.silent_since = None;
        if let ServerState::Primary(PrimaryState { checkpoint: Some(checkpoint), .. }) = positions.state {
            server.checkpoint = Some((identity.started_at, checkpoint));
        }
        // Its own word replaces what others have shown, even when it is lower: a server killed hard comes back older.
        server.shown = None;
        let polled = Polled { asked_at: observation.asked_at, answered_at: observation.answered_at };
        server.senders.store(polled, &positions.senders);
        for name in server.senders.shared_names() {
            if !self.shared_names.contains(name) {
                self.shared_names.insert(Arc::clone(name));
            }
        }
    }

    /// Keeps what the rows of `upstream`, which are about to go, show of standbys that have not answered since.
    fn learn_from_rows(&mut self, upstream: &Name) {
        let Some(polled) = self.servers.get(upstream).and_then(|upstream| upstream.senders.polled) else { return };
        let silent = self.servers.iter().filter(|(_, server)| server.was_silent_until(polled.answered_at));
        let reports = silent.filter_map(|(name, server)| Some((name.clone(), self.report_of_row(upstream, server)?)));
        let reports: Vec<(Name, Report)> = reports.collect();
        for (name, report) in reports {
            if let Some(server) = self.servers.get_mut(&name) {
                server.learn(report);
            }
        }
    }

    /// How old what was last learned of a server may be before a newer answer is overdue. Seconds.
    fn overdue_after(&self) -> f64 {
        self.poll_interval + (self.poll_interval * LATE_PART).min(LATE_MOST)
    }

    /// Whether the answer of a target that has answered is overdue: then its lag is judged by what others show of it, and
    /// is as of now.
    pub fn is_overdue(&self, target: &Name, now: MonoTime) -> bool {
        let standing = self.servers.get(target).and_then(Server::standing);
        standing.is_some_and(|standing| now.seconds_since(standing.answered_at) > self.overdue_after())
    }

    fn observe_primary(&mut self, observation: &Observation, positions: &Positions, state: &PrimaryState) {
        let name = &observation.target.target;
        let is_accepted = self.accepts(name, positions, state);
        let Some(server) = self.servers.get_mut(name) else { return };
        let identity = &positions.identity;
        let last_answer = server.last_answer.replace(LastAnswer { identity: Arc::clone(identity), standing: None });
        server.timeline = server.timeline.max(Some(state.timeline));
        if !is_accepted {
            return;
        }
        let answer = PrimaryAnswer {
            name,
            identity,
            clock: positions.clock,
            state,
            checkpoint: server
                .checkpoint
                .filter(|(started_at, _)| *started_at == identity.started_at)
                .map(|(_, checkpoint)| checkpoint),
            asked_at: observation.asked_at,
            answered_at: observation.answered_at,
        };
        let goes_on = |primary: &Primary| {
            !primary.is_foreign(identity.system_identifier)
                && (primary.name == *name || primary.timeline <= state.timeline)
        };
        match self.primary.as_mut().filter(|primary| goes_on(primary)) {
            Some(primary) => {
                let standing = last_answer.and_then(|last| last.standing);
                primary.answered(answer, standing.as_ref(), self.poll_interval, &mut self.history);
            }
            None => self.primary = Some(Primary::begin(answer, &mut self.history)),
        }
    }

    /// Whether a server that says it is a primary is the one to measure against.
    fn accepts(&self, name: &Name, positions: &Positions, state: &PrimaryState) -> bool {
        let Some(primary) = &self.primary else { return true };
        if primary.name == *name {
            return true;
        }
        if primary.is_foreign(positions.identity.system_identifier) {
            // Another cluster's, unless ours has gone from behind every address.
            let is_ours = |server: &Server| {
                let last_answer = server.last_answer.as_ref().filter(|_| server.silent_since.is_none());
                last_answer.is_some_and(|last| !primary.is_foreign(last.identity.system_identifier))
            };
            return primary.is_lost && !self.servers.iter().any(|(other, server)| other != name && is_ours(server));
        }
        state.timeline > primary.timeline
            || (state.timeline == primary.timeline && primary.is_lost)
            || self.nobody_is_left_of(primary)
    }

    /// Whether the newest timeline has ended with its primary: nobody who is watched is on it.
    fn nobody_is_left_of(&self, primary: &Primary) -> bool {
        let all_were_asked = self.first_beat.is_some_and(|first| self.beat >= first + HEARD_WITHIN);
        let is_of_it = |server: &Server| {
            let present = server.standing().and_then(Standing::timeline).filter(|_| server.silent_since.is_none());
            present.or(server.timeline).is_some_and(|timeline| timeline >= primary.timeline)
        };
        let others = self.servers.iter().filter(|(name, _)| **name != primary.name);
        primary.is_lost && primary.is_gone && all_were_asked && !others.into_iter().any(|(_, server)| is_of_it(server))
    }

    fn observe_standby(&mut self, observation: &Observation, positions: &Positions, state: &StandbyState) {
        let name = &observation.target.target;
        let overdue_after = self.overdue_after();
        let mut standing = Standing::new(state, positions.clock, observation.asked_at, observation.answered_at);
        if let Some(primary) = self.primary.as_mut().filter(|primary| primary.name == *name) {
            primary.is_lost = true;
            primary.is_gone = standing.timeline().is_some_and(|timeline| timeline < primary.timeline);
        }
        let Some(server) = self.servers.get_mut(name) else { return };
        server.timeline = server.timeline.max(standing.timeline());
        server.replay_lsn = standing.replay_lsn.or(server.replay_lsn);
        let primary_is_lost = self.primary.as_ref().is_some_and(|primary| primary.is_lost);
        let nothing_came = server.standing().is_some_and(|before| before.receive_lsn == standing.receive_lsn);
        standing.severed = matches!(standing.receiver, Stream::Absent) || (nothing_came && primary_is_lost);
        let stood_still = server.standing().is_some_and(|before| before.replay_lsn == standing.replay_lsn);
        standing.settled = standing.severed && stood_still && state.pause == ReplayPause::NotPaused;
        if let Some(primary) = &self.primary
            && !primary.is_foreign(positions.identity.system_identifier)
            && (primary.is_lost || primary.is_overdue(observation.answered_at, overdue_after))
            && server.timeline == Some(primary.timeline)
            && let Some(received) = standing.received()
        {
            self.history.observe_received(received, observation.answered_at);
        }
        server.last_answer = Some(LastAnswer { identity: Arc::clone(&positions.identity), standing: Some(standing) });
    }
}

/// The history of a primary's WAL, and what is known of that primary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedLag {
    history: WalClock,
    primary: Primary,
    /// The last changes of who is who in its cluster.
    #[serde(default)]
    pub(super) events: Vec<TopologyEvent>,
}

impl SavedLag {
    #[must_use]
    pub(super) fn with_events(self, events: &[TopologyEvent]) -> Self {
        Self { events: events.to_vec(), ..self }
    }
}

/// An instant of the monitor's clock in seconds: where server stamps and fractions of brackets are computed with.
fn mono_seconds(instant: MonoTime) -> f64 {
    instant.as_nanos() as f64 / 1e9
}

/// What is told about a replica's replay lag, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LagEstimate {
    /// The lag. `None` when it cannot be told, and then [`LagEstimate::method`] says why.
    pub value: Option<f64>,
    /// Proven: the lag is at least this.
    pub lower: f64,
    /// Proven: the lag is at most this. May be infinite.
    pub upper: f64,
    pub certainty: Certainty,
    pub method: Method,
}

/// How much of the value is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Certainty {
    /// The bounds are within two poll intervals, or 5 % of the value, of each other.
    Exact,
    /// The value may be too small: the primary is lost, or nothing bounds the lag from above.
    AtLeast,
    /// The value may be too large: only the upper bound is near it.
    AtMost,
    /// There is no value.
    Unknown,
}

impl Certainty {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::AtLeast => "at_least",
            Self::AtMost => "at_most",
            Self::Unknown => "unknown",
        }
    }
}

/// How the value was found: the evidence that won, and what qualifies it. Displays for example as `lsn+ts@upstream~primary_lost`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Method {
    pub evidence: Evidence,
    /// The replica did not answer; its position is the last one known.
    pub last_known: bool,
    /// The replica did not answer; its upstream's row told the position.
    pub upstream: bool,
    /// The replica is on a timeline that the primary has left.
    pub old_timeline: bool,
    /// The primary does not answer; the history stands still. Not set where the evidence says so itself.
    pub primary_lost: bool,
}

impl Method {
    /// Whether the primary was out of sight: lost, or its answer overdue.
    pub fn is_without_primary(self) -> bool {
        self.primary_lost || matches!(self.evidence, Evidence::Receiver | Evidence::PrimaryDown | Evidence::PrimaryLost)
    }
}

/// What the value rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// It has replayed all that the primary had flushed.
    CaughtUp,
    /// The history brackets the position, and the last replayed commit was stamped within the bracket.
    LsnAndTimestamp,
    /// The history brackets the position; the value is interpolated.
    Lsn,
    /// The position is one where the primary was seen to rest; the value is the middle of the bracket.
    LsnPlateau,
    /// The primary is lost, but its stream to this replica was alive a moment ago and had brought nothing more.
    Receiver,
    /// The primary is proven down since it was lost, and nothing beyond the replica's position is known.
    PrimaryDown,
    /// The primary is lost and nothing beyond the replica's position is known: there may be more.
    PrimaryLost,
    /// Older than the history; the primary's own sender has measured this very position.
    WalSender,
    /// Older than the history; the last replayed commit (or message) says how old it is at most.
    Timestamp,
    /// Older than the history, and nothing says how much older.
    LowerBound,
    /// No primary was ever seen; the replica has replayed all that its upstream had when it last wrote.
    ReceiverOnly,
    /// No primary was ever seen; the age of the last replayed commit, trusting that two servers' clocks agree.
    TimestampOnly,
    /// An Aurora reader's own measurement, as it told itself or any other instance.
    Aurora,
    /// No value: one poll cannot tell WAL in flight from a stuck replay.
    Warming,
    /// No value: the server is a primary.
    OtherPrimary,
    /// No value: the server's system identifier is another cluster's.
    ForeignCluster,
    /// No value: the replica has not said a replay position.
    NoPosition,
    /// No value: no primary has answered since the start, and the replica alone cannot tell.
    NoPrimary,
}

impl Evidence {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CaughtUp => "caught_up",
            Self::LsnAndTimestamp => "lsn+ts",
            Self::Lsn => "lsn",
            Self::LsnPlateau => "lsn_plateau",
            Self::Receiver => "receiver",
            Self::PrimaryDown => "primary_down",
            Self::PrimaryLost => "primary_lost",
            Self::WalSender => "walsender",
            Self::Timestamp => "timestamp",
            Self::LowerBound => "lower_bound",
            Self::ReceiverOnly => "receiver_only",
            Self::TimestampOnly => "timestamp_only",
            Self::Aurora => "aurora",
            Self::Warming => "warming",
            Self::OtherPrimary => "other_primary",
            Self::ForeignCluster => "foreign_cluster",
            Self::NoPosition => "no_position",
            Self::NoPrimary => "no_primary",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.evidence.as_str())?;
        for (holds, suffix) in [
            (self.last_known, "@last_known"),
            (self.upstream, "@upstream"),
            (self.old_timeline, "@old_timeline"),
            (self.primary_lost, "~primary_lost"),
        ] {
            if holds {
                f.write_str(suffix)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
