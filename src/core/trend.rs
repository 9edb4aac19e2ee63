//! How fast WAL moves: whether a replica falls behind, holds, or catches up, when it will have caught up, and whether its
//! replay stands still.
//!
//! Direction is judged by bytes and not by the lag in seconds: a replica that works off a burst is catching up while the
//! age of what it replays still grows. Rates are averages over [`WINDOW`], by the monitor's clock. A server that restarts,
//! changes its role or comes back with an older position begins anew: LSNs of two lives do not make a rate.

use std::collections::VecDeque;

use super::time::{MonoTime, ServerTime};
use super::topology::Role;
use super::wal::Lsn;

/// Rates are averages over as many seconds, or over the last two samples where these are farther apart.
pub const WINDOW: f64 = 15.0;
/// Samples are kept this far apart, so that the window has few of them however often a server is polled. Seconds.
const SPACING: f64 = 2.5;
/// Across a longer silence nothing is averaged. Seconds.
const LONGEST_GAP: f64 = 180.0;
/// Over less than this many seconds one burst would be taken for a rate.
const SHORTEST: f64 = 0.9;
/// Over less than this many seconds no direction is told.
const SHORTEST_DIRECTION: f64 = 3.0;
/// A gap that changes by less than this share of the WAL that moves, holds.
const BAND: f64 = 0.06;
/// A direction that was told stays until the gap changes by less than this share.
const LEAVING_BAND: f64 = 0.03;
/// A replica with no more than this before it, or than is written in a second, has caught up. Bytes.
const CAUGHT_UP: f64 = 65_536.0;
/// What an idle primary writes in [`WINDOW`]: a note on running transactions each 15 s. Bytes.
const QUIET: f64 = 1024.0;
/// Replay that stood for as long has stalled. Seconds.
const STALLED: f64 = 5.0;
/// As many samples at least must have found it standing.
const STALLED_SAMPLES: u32 = 3;

/// Rates over a window of some seconds, in bytes of WAL per second, and what follows from them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trend {
    /// What a primary writes (`pg_current_wal_flush_lsn()`). `None` on a standby, and before the window has two samples.
    pub write_rate: Option<f64>,
    /// What a standby receives (`pg_last_wal_receive_lsn()`). `None` on a primary, and where it is not known.
    pub receive_rate: Option<f64>,
    /// What a standby replays (`pg_last_wal_replay_lsn()`). `None` on a primary, and where it is not known.
    pub replay_rate: Option<f64>,
    /// Whether the WAL between the primary and a standby grows. `None` on a primary, and while the primary is not heard.
    pub direction: Option<Direction>,
    /// Seconds until a standby that catches up will have done so at this rate; 0 when it has. `None` when it does not
    /// catch up, and where the direction is not known.
    pub catch_up_seconds: Option<f64>,
    /// For how long a standby's replay has not moved though there is WAL to replay; 0 while it moves or has nothing to
    /// do. `None` on a primary, and where the position is not known.
    pub standing_seconds: Option<f64>,
    /// Whether that is long enough to say that it has stalled.
    pub stalled: Option<bool>,
}

/// Where the WAL between the primary and a standby goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    FallingBehind,
    /// Neither; so too a standby that has caught up.
    Holding,
    CatchingUp,
}

impl Direction {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FallingBehind => "falling_behind",
            Self::Holding => "holding",
            Self::CatchingUp => "catching_up",
        }
    }
}

/// Where the WAL stood at one answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub at: MonoTime,
    /// What the primary has flushed: by its own answer, or (for a standby) at this beat. `None` while it is not heard.
    pub end: Option<Lsn>,
    /// `None` on a primary.
    pub received: Option<Lsn>,
    /// `None` on a primary.
    pub replayed: Option<Lsn>,
}

/// A server process in one role. Positions of two lives are not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub role: Role,
    pub started_at: ServerTime,
    pub system_identifier: Option<u64>,
}

/// The recent samples of one server: at most nine, some hundred bytes.
#[derive(Debug, Default)]
pub struct TrendTracker {
    life: Option<Life>,
    /// Oldest first. The last one is the newest there is, the others are [`SPACING`] apart.
    samples: VecDeque<Sample>,
    direction: Option<Direction>,
    standing: Option<Standing>,
}

/// Replay has not moved since then, though there was something to replay.
#[derive(Clone, Copy, Debug)]
struct Standing {
    since: MonoTime,
    n_samples: u32,
}

impl TrendTracker {
    /// Takes the next answer. `waits_on_purpose`: it is configured to replay this late, or to get its WAL in pieces, so that
    /// standing means nothing.
    pub fn observe(&mut self, life: Life, sample: Sample, waits_on_purpose: bool) -> Trend {
        if self.life != Some(life) || self.samples.back().is_some_and(|last| !continues(last, &sample)) {
            *self = Self { life: Some(life), ..Self::default() };
        }
        let was_stalled = self.is_stalled(self.samples.back().map_or(sample.at, |last| last.at));
        self.note_standing(&sample, waits_on_purpose);
        if was_stalled && !self.is_stalled(sample.at) {
            // It moves again: what it did not do before says nothing of how fast it is.
            let last = self.samples.pop_back();
            self.samples.clear();
            self.samples.extend(last);
            self.direction = None;
        }
        self.keep(sample);
        self.trend(life.role, sample)
    }

    fn note_standing(&mut self, sample: &Sample, waits_on_purpose: bool) {
        let has_moved = self.samples.back().is_some_and(|last| last.replayed != sample.replayed);
        let has_work = sample.replayed < sample.received.max(sample.end);
        if has_moved || !has_work || waits_on_purpose || sample.replayed.is_none() {
            self.standing = None;
        }
        if has_work && !waits_on_purpose && sample.replayed.is_some() {
            let standing = self.standing.get_or_insert(Standing { since: sample.at, n_samples: 0 });
            standing.n_samples = standing.n_samples.saturating_add(1);
        }
    }

    fn is_stalled(&self, at: MonoTime) -> bool {
        self.standing.is_some_and(|standing| {
            standing.n_samples >= STALLED_SAMPLES && at.seconds_since(standing.since) >= STALLED
        })
    }

    fn keep(&mut self, sample: Sample) {
        let n_samples = self.samples.len();
        if let Some(before) = n_samples.checked_sub(2).map(|index| self.samples[index])
            && self.samples[n_samples - 1].at.seconds_since(before.at) < SPACING
        {
            self.samples.pop_back();
        }
        self.samples.push_back(sample);
        let age = |kept: &Sample| sample.at.seconds_since(kept.at);
        while self.samples.len() > 2 && age(&self.samples[1]) >= WINDOW {
            self.samples.pop_front();
        }
        while age(&self.samples[0]) > LONGEST_GAP {
            self.samples.pop_front();
        }
    }

    fn trend(&mut self, role: Role, now: Sample) -> Trend {
        let rate = |position: fn(&Sample) -> Option<Lsn>| self.rate(now.at, position);
        if role == Role::Primary {
            return Trend { write_rate: rate(|sample| sample.end), ..Trend::default() };
        }
        let (receive_rate, replay_rate) = (rate(|sample| sample.received), rate(|sample| sample.replayed));
        let stalled = now.replayed.map(|_| self.is_stalled(now.at));
        let gap = self.gap(now, stalled == Some(true));
        self.direction = gap.map(|gap| gap.direction);
        Trend {
            write_rate: None,
            receive_rate,
            replay_rate,
            direction: self.direction,
            catch_up_seconds: gap.and_then(|gap| gap.catch_up_seconds),
            standing_seconds: now
                .replayed
                .map(|_| self.standing.map_or(0.0, |standing| now.at.seconds_since(standing.since))),
            stalled,
        }
    }

    /// Of one position, from the oldest sample that knows it.
    fn rate(&self, now: MonoTime, position: fn(&Sample) -> Option<Lsn>) -> Option<f64> {
        let last = position(self.samples.back()?)?;
        let (first_at, first) = self.samples.iter().find_map(|sample| Some((sample.at, position(sample)?)))?;
        let seconds = now.seconds_since(first_at);
        (seconds >= SHORTEST).then(|| bytes(last, first) / seconds)
    }

    fn gap(&self, now: Sample, is_stalled: bool) -> Option<Gap> {
        let size = bytes(now.end?, now.replayed?);
        let (then, end, replayed) =
            self.samples.iter().find_map(|sample| Some((sample.at, sample.end?, sample.replayed?)))?;
        let seconds = now.at.seconds_since(then);
        let is_quiet = bytes(now.end?, end) <= QUIET;
        if is_stalled {
            // While nothing is written it stays where it is.
            let direction = if is_quiet { Direction::Holding } else { Direction::FallingBehind };
            return Some(Gap { direction, catch_up_seconds: None });
        }
        if seconds < SHORTEST_DIRECTION {
            return None;
        }
        let (written, worked_off) = (bytes(now.end?, end) / seconds, bytes(now.replayed?, replayed) / seconds);
        if size <= written.max(CAUGHT_UP) {
            return Some(Gap { direction: Direction::Holding, catch_up_seconds: Some(0.0) });
        }
        let growth = (size - bytes(end, replayed)) / seconds;
        let moving = written.max(worked_off);
        let band = |direction| moving * if self.direction == Some(direction) { LEAVING_BAND } else { BAND };
        let stays = is_quiet && now.replayed? == replayed;
        Some(if growth > band(Direction::FallingBehind) && !stays {
            Gap { direction: Direction::FallingBehind, catch_up_seconds: None }
        } else if -growth > band(Direction::CatchingUp) {
            Gap { direction: Direction::CatchingUp, catch_up_seconds: Some(size / -growth) }
        } else {
            Gap { direction: Direction::Holding, catch_up_seconds: None }
        })
    }
}

/// What becomes of the WAL between the primary and a standby.
#[derive(Clone, Copy)]
struct Gap {
    direction: Direction,
    catch_up_seconds: Option<f64>,
}

fn bytes(ahead: Lsn, behind: Lsn) -> f64 {
    ahead.bytes_ahead_of(behind).0 as f64
}

/// Whether no position went back. One that is not known now, or was not before, did not.
fn continues(last: &Sample, next: &Sample) -> bool {
    let goes_on = |last: Option<Lsn>, next: Option<Lsn>| last.is_none() || next.is_none() || last <= next;
    goes_on(last.end, next.end) && goes_on(last.received, next.received) && goes_on(last.replayed, next.replayed)
}

#[cfg(test)]
mod tests;
