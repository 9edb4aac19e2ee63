//! The server that the lag is measured against: its clock, its restarts, its promotions.
//!
//! A restart and a promotion are outages during which nobody wrote. Unless the history says so, every replica that
//! replayed all there was would read as far behind as the outage was long.

use serde::{Deserialize, Serialize};

use super::server::Standing;
use super::{SLACK, mono_seconds};
use crate::core::observation::{Checkpoint, Identity, PollFailure, PrimaryState};
use crate::core::time::{MonoTime, ServerTime};
use crate::core::topology::Name;
use crate::core::wal::{Lsn, Timeline};
use crate::core::wal_clock::WalClock;

/// A server's clock that moves by more than this against ours has been set, not merely read late. Seconds.
const STEP: f64 = 0.1;
/// The control file tells the time of a checkpoint in whole seconds, cut off. Seconds.
const CHECKPOINT_TIME_UNIT: f64 = 1.0;
/// An error below a tenth of a millisecond is not believed. Seconds.
const LEAST_ERROR: f64 = 1e-4;

/// The wall clock of a server against the monitor's, as its answers show it. All in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ServerClock {
    /// What to subtract from a stamp of that server.
    offset: f64,
    error: f64,
    /// The offset when the clock was last known to have been set (or first seen): many small steps are a step too.
    anchor: f64,
    /// Stamps that map to before this instant may have been taken before the clock was set.
    void_before: Option<f64>,
}

impl ServerClock {
    pub(super) fn new(clock: ServerTime, asked_at: MonoTime, answered_at: MonoTime) -> Self {
        let (offset, error) = Self::read(clock, asked_at, answered_at);
        Self { offset, error, anchor: offset, void_before: None }
    }

    fn read(clock: ServerTime, asked_at: MonoTime, answered_at: MonoTime) -> (f64, f64) {
        let (asked, answered) = (mono_seconds(asked_at), mono_seconds(answered_at));
        (clock.unix_seconds() - f64::midpoint(asked, answered), ((answered - asked) / 2.0).max(LEAST_ERROR))
    }

    fn observe(&mut self, clock: ServerTime, asked_at: MonoTime, answered_at: MonoTime) {
        let (offset, error) = Self::read(clock, asked_at, answered_at);
        let step = (offset - self.offset).abs().max((offset - self.anchor).abs());
        if step > STEP + error + self.error {
            self.void(mono_seconds(answered_at) + step);
            (self.offset, self.error, self.anchor) = (offset, error, offset);
        } else if error > 2.0 * self.error {
            // A slow answer says less about the clock than the last quick one; which ages.
            self.error *= 1.1;
        } else {
            (self.offset, self.error) = (offset, error);
        }
    }

    /// Another server's clock takes over. Stamps from before are the other one's.
    fn replace(&mut self, clock: ServerTime, asked_at: MonoTime, answered_at: MonoTime) {
        let step = (Self::read(clock, asked_at, answered_at).0 - self.offset).abs();
        let void_before = self.void_before;
        *self = Self { void_before, ..Self::new(clock, asked_at, answered_at) };
        self.void(mono_seconds(answered_at) + step);
    }

    fn void(&mut self, before: f64) {
        self.void_before = Some(self.void_before.map_or(before, |known| known.max(before)));
    }

    fn was_steady_since(&self, instant: MonoTime) -> bool {
        self.void_before.is_none_or(|void_before| void_before < mono_seconds(instant))
    }

    /// When, by the monitor's clock, the server took `stamp`; whether or not its clock was set since.
    fn map(&self, stamp: ServerTime) -> f64 {
        stamp.unix_seconds() - self.offset
    }

    /// When, by the monitor's clock, the server took `stamp`. `None` when its clock may have been set since.
    pub(super) fn instant(&self, stamp: ServerTime) -> Option<f64> {
        let instant = self.map(stamp);
        self.void_before.is_none_or(|void_before| instant > void_before).then_some(instant)
    }

    /// How long the answer took by which the clock was read last.
    pub(super) fn round_trip(&self) -> f64 {
        2.0 * self.error
    }

    /// How far off [`Self::instant`] may be.
    pub(super) fn uncertainty(&self) -> f64 {
        SLACK + self.error
    }
}

/// The server that the lag of a cluster is measured against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Primary {
    pub(super) name: Name,
    pub(super) system_identifier: Option<u64>,
    pub(super) timeline: Timeline,
    started_at: ServerTime,
    pub(super) answered_at: MonoTime,
    /// When the history began.
    pub(super) first_answered_at: MonoTime,
    pub(super) clock: ServerClock,
    /// Its last poll failed, or it said that it is in recovery.
    pub(super) is_lost: bool,
    /// It is watched no more, or is a standby on an older timeline now: its own ends with it, unless another is on it.
    #[serde(default)]
    pub(super) is_gone: bool,
    /// The first failure since its last answer that proves it down.
    pub(super) down_since: Option<MonoTime>,
    /// The last of them.
    pub(super) down_until: Option<MonoTime>,
    /// The first that proves its process gone: one that shuts down still answers, with a refusal, and still writes.
    gone_since: Option<MonoTime>,
    /// Where the WAL common with earlier timelines ends, for each timeline that began while it was watched.
    forks: Vec<(Timeline, Lsn)>,
}

/// An answer of a server that is not in recovery.
#[derive(Clone, Copy)]
pub(super) struct PrimaryAnswer<'a> {
    pub(super) name: &'a Name,
    pub(super) identity: &'a Identity,
    pub(super) clock: ServerTime,
    pub(super) state: &'a PrimaryState,
    /// The last checkpoint that this server process told of.
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) asked_at: MonoTime,
    pub(super) answered_at: MonoTime,
}

impl Primary {
    /// Begins a history with the answer of a server of which nothing is known.
    pub(super) fn begin(answer: PrimaryAnswer<'_>, history: &mut WalClock) -> Self {
        history.clear();
        history.observe(answer.state.flush_lsn, answer.asked_at, answer.answered_at);
        Self {
            name: answer.name.clone(),
            system_identifier: answer.identity.system_identifier,
            timeline: answer.state.timeline,
            started_at: answer.identity.started_at,
            answered_at: answer.answered_at,
            first_answered_at: answer.answered_at,
            clock: ServerClock::new(answer.clock, answer.asked_at, answer.answered_at),
            is_lost: false,
            is_gone: false,
            down_since: None,
            down_until: None,
            gone_since: None,
            forks: vec![(answer.state.timeline, before(answer.state.flush_lsn))],
        }
    }

    /// Takes the next answer, of the same server or of the one that took over. `standing` is how the server stood when
    /// it was last polled in recovery; `None` when that was not its last answer.
    pub(super) fn answered(
        &mut self,
        answer: PrimaryAnswer<'_>,
        standing: Option<&Standing>,
        poll_interval: f64,
        history: &mut WalClock,
    ) {
        let previous_answer = self.answered_at;
        let state = answer.state;
        if state.timeline == self.timeline && self.name == *answer.name {
            self.clock.observe(answer.clock, answer.asked_at, answer.answered_at);
        } else {
            self.clock.replace(answer.clock, answer.asked_at, answer.answered_at);
        }
        if state.timeline != self.timeline {
            self.was_promoted(answer, standing, poll_interval, history);
        } else if answer.identity.started_at != self.started_at && self.clock.was_steady_since(previous_answer) {
            self.was_restarted(answer, previous_answer, history);
        }
        history.observe(state.flush_lsn, answer.asked_at, answer.answered_at);
        if self.name != *answer.name {
            self.name = answer.name.clone();
        }
        self.system_identifier = answer.identity.system_identifier.or(self.system_identifier);
        self.timeline = state.timeline;
        self.started_at = answer.identity.started_at;
        self.answered_at = answer.answered_at;
        (self.is_lost, self.is_gone) = (false, false);
        (self.down_since, self.down_until, self.gone_since) = (None, None, None);
    }

    fn was_promoted(
        &mut self,
        answer: PrimaryAnswer<'_>,
        standing: Option<&Standing>,
        poll_interval: f64,
        history: &mut WalClock,
    ) {
        let flush_lsn = answer.state.flush_lsn;
        let Some((standing, end)) = standing.and_then(|standing| Some((standing, standing.end_of_wal()?))) else {
            // Where the old timeline ended nobody saw, so no entry of it can be trusted on the new one.
            history.clear();
            self.first_answered_at = answer.answered_at;
            self.forks.push((answer.state.timeline, before(flush_lsn)));
            return;
        };
        let fork = end.min(flush_lsn);
        // The fork is where its last whole record ended: at `fork`, or as early as where its replay had come to rest. In
        // between lies either WAL of the old timeline or what was written over its remains just now.
        let replayed = standing.replay_lsn.filter(|lsn| standing.settled && *lsn < fork);
        let reached_by = history.truncate(replayed.unwrap_or(fork));
        // A receiver that was gone may have come back since, unless there was hardly time for that.
        let unseen = answer.asked_at.seconds_since(standing.answered_at);
        if standing.severed && unseen < f64::max(5.0, 5.0 * poll_interval) {
            let reached_by = match replayed {
                Some(_) => answer.answered_at,
                None => reached_by.unwrap_or(standing.answered_at),
            };
            history.rest(fork, reached_by, None, standing.asked_at);
        }
        self.forks.push((answer.state.timeline, fork));
    }

    /// From the moment it went down until it began to serve again, nothing was written; and the first checkpoint's
    /// redo position is where the old WAL ended, or where the checkpoint of the shutdown did: that one is WAL, too, which
    /// a replica without a stream has not got.
    fn was_restarted(&mut self, answer: PrimaryAnswer<'_>, previous_answer: MonoTime, history: &mut WalClock) {
        let Some(checkpoint) = answer.checkpoint else { return };
        let (started, taken) = (self.clock.map(answer.identity.started_at), self.clock.map(checkpoint.taken_at));
        let began = started.max(taken);
        if began <= mono_seconds(previous_answer) {
            return;
        }
        let began = from_mono_seconds(began).min(answer.asked_at);
        let flush_lsn = answer.state.flush_lsn;
        history.truncate(flush_lsn);
        let end = match history.last() {
            Some(last) if checkpoint.redo_lsn < last.lsn && last.reached_by < began => last.lsn,
            _ => checkpoint.redo_lsn,
        };
        if end > flush_lsn {
            return;
        }
        // A refusal may also come from something before it, while it goes on writing: that it was down is likely only.
        let before_it_began = |since: Option<MonoTime>| since.filter(|since| *since < began);
        let ended = before_it_began(self.down_since);
        let taken_after = taken - self.clock.uncertainty();
        if end > checkpoint.redo_lsn || started <= taken || mono_seconds(ended.unwrap_or(began)) < taken_after {
            history.rest(end, began, ended, began);
            return;
        }
        // It may be the shutdown's: then its record, which begins at the redo position, was written before the outage.
        history.rest(end, began, ended, from_mono_seconds(taken_after).min(began));
        let record = Lsn::new(end.as_u64() + 1);
        if record <= flush_lsn {
            let is_the_shutdowns = taken + CHECKPOINT_TIME_UNIT < started;
            let (written_by, likely_by) =
                if is_the_shutdowns { (began, before_it_began(self.gone_since)) } else { (answer.answered_at, None) };
            history.rest(record, written_by, likely_by, began);
        }
    }

    /// A poll of it failed.
    pub(super) fn failed(&mut self, at: MonoTime, failure: &PollFailure) {
        self.is_lost = true;
        if failure.proves_down() {
            self.down_since.get_or_insert(at);
            self.down_until = Some(at);
        }
        if matches!(failure, PollFailure::Refused) {
            self.gone_since.get_or_insert(at);
        }
    }

    /// Whether its last answer is older than `seconds`, though no poll has failed since.
    pub(super) fn is_overdue(&self, now: MonoTime, seconds: f64) -> bool {
        now.seconds_since(self.answered_at) > seconds
    }

    /// Up to where a server that stayed on `timeline` surely shares this primary's WAL; `None` for the primary's own
    /// timeline and later ones.
    pub(super) fn fork_after(&self, timeline: Timeline) -> Option<Lsn> {
        self.forks.iter().filter(|(began, _)| *began > timeline).map(|&(_, fork)| fork).min()
    }

    /// Whether a server is known to belong to another cluster. One that may not tell counts as ours.
    pub(super) fn is_foreign(&self, system_identifier: Option<u64>) -> bool {
        matches!((self.system_identifier, system_identifier), (Some(ours), Some(theirs)) if ours != theirs)
    }
}

fn before(lsn: Lsn) -> Lsn {
    Lsn::new(lsn.as_u64().saturating_sub(1))
}

fn from_mono_seconds(seconds: f64) -> MonoTime {
    MonoTime::from_nanos((seconds * 1e9) as i64)
}
