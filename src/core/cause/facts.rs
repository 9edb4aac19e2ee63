//! What a cause is decided from.

use super::Told;
use crate::core::lag::{Evidence, LagEstimate};
use crate::core::observation::{PollFailure, ReplayPause, ReplayWait};
use crate::core::standby_settings::{RecoveryTarget, Shortfall};
use crate::core::time::ServerTime;
use crate::core::topology::Name;
use crate::core::trend::Trend;
use crate::core::wal::{Lsn, Timeline};

/// A lag up to this is the time that WAL takes to travel, be seen and be asked about. Seconds.
const LAG: f64 = 2.0;
/// ... or up to as many poll intervals.
const LAG_INTERVALS: f64 = 2.0;
/// Replay comes a moment after the delay that it keeps, by two servers' clocks. Seconds.
const DELAY_SLACK: f64 = 2.0;
/// A part of the WAL before a replica is much when it is a quarter of it.
const MUCH: u64 = 4;

/// Everything that the cause is decided from.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub lagging: Lagging,
    /// Why the replica's last poll failed. What only it could say is then not told.
    pub failure: Option<&'a PollFailure>,
    /// `None` while the primary is heard.
    pub primary_is_silent: Option<Silence<'a>>,
    pub timelines: Timelines,
    /// What is wrong with its slot. `None` when nothing is known to be.
    pub slot: Option<SlotTrouble<'a>>,
    pub receiving: Receiving,
    pub archive: Archive,
    pub pause: ReplayPause,
    /// Why replay is paused, if it is.
    pub paused_by: PausedBy<'a>,
    /// Settings that are lower on it than they have been on its primary since it started. Empty also while the primary's
    /// are not known.
    pub shortfalls: Vec<Shortfall>,
    pub wait: Option<&'a ReplayWait>,
    /// What the replica's clock said when it answered.
    pub clock: ServerTime,
    /// `None` when none is configured.
    pub apply_delay: Option<ApplyDelay>,
    /// How long ago it started, while it has not caught up since.
    pub starting_since: Option<f64>,
    pub trend: Trend,
    /// What the primary writes, in bytes per second.
    pub write_rate: Option<f64>,
    /// By how much the flush of WAL there is later than its write, where that is more than the write took: its disk, not the
    /// network. Seconds.
    pub flush_after_write: Option<f64>,
    pub backlog: Backlog,
    /// The standby that it follows, where that one lags itself, and why.
    pub upstream: Option<(&'a Name, &'a Told)>,
    /// Whether the role may see what replay waits for.
    pub reads_all_stats: bool,
}

impl Facts<'_> {
    /// A replica that streams and is well.
    pub fn well() -> Self {
        Self {
            lagging: Lagging::No,
            failure: None,
            primary_is_silent: None,
            timelines: Timelines::Same,
            slot: None,
            receiving: Receiving::Streaming,
            archive: Archive::None,
            pause: ReplayPause::NotPaused,
            paused_by: PausedBy::Request,
            shortfalls: Vec::new(),
            wait: None,
            clock: ServerTime::from_unix_micros(0),
            apply_delay: None,
            starting_since: None,
            trend: Trend::default(),
            write_rate: None,
            flush_after_write: None,
            backlog: Backlog::default(),
            upstream: None,
            reads_all_stats: true,
        }
    }
}

/// Whether a replica lags by more than WAL takes to travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lagging {
    No,
    /// It cannot be told.
    Maybe,
    Yes,
}

impl Lagging {
    /// By its estimate. `poll_interval` in seconds.
    pub fn of(estimate: Option<&LagEstimate>, poll_interval: f64) -> Self {
        let Some(lag) = estimate else { return Self::No };
        let limit = LAG.max(LAG_INTERVALS * poll_interval);
        match (lag.value, lag.method.evidence) {
            (Some(value), _) if value > limit => Self::Yes,
            // What it lacks nobody knows.
            (Some(_), Evidence::PrimaryDown | Evidence::PrimaryLost) if lag.upper > limit => Self::Maybe,
            (None, Evidence::NoPosition | Evidence::NoPrimary) => Self::Maybe,
            _ => Self::No,
        }
    }
}

/// Why the primary is not heard.
#[derive(Clone, Copy, Debug)]
pub struct Silence<'a> {
    /// `None`: none has answered yet.
    pub name: Option<&'a Name>,
    pub failure: Option<&'a PollFailure>,
}

/// A replica's timeline against the primary's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timelines {
    /// As far as is known.
    Same,
    /// It has not followed to the primary's, and could.
    Behind { own: Timeline, primary: Timeline },
    /// It went on where the primary had left its timeline.
    Diverged { own: Timeline, primary: Timeline, replayed: Lsn, fork: Lsn },
    /// The primary has not reached it.
    Ahead { own: Timeline, primary: Timeline },
}

#[derive(Clone, Copy, Debug)]
pub struct SlotTrouble<'a> {
    pub name: &'a str,
    pub on: &'a Name,
    pub fate: SlotFate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotFate {
    /// `wal_status` is `lost`.
    Lost,
    /// There is none of that name.
    Gone,
}

/// How a replica gets its WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiving {
    /// It streams, or may not be seen not to.
    Streaming,
    /// It seems to stream, and nothing has come for a while though its upstream has more.
    Silent,
    /// Its receiver has been connecting for a while, and no stream has begun (19+).
    Connecting,
    /// It does not stream any more.
    CutOff,
    /// It has not streamed since it started.
    Never,
    /// It does not answer.
    Unknown,
}

impl Receiving {
    /// Whether no WAL comes by a stream.
    pub const fn is_without_stream(self) -> bool {
        matches!(self, Self::Silent | Self::Connecting | Self::CutOff | Self::Never)
    }
}

/// What an archive does for a replica that does not stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archive {
    /// Nothing that could be seen.
    None,
    /// It goes on replaying without a stream.
    Replaying,
    /// It is told to restore, and not to stream.
    Only,
    /// It is told to restore, and has requested no stream since it started; whether it is told to may not be seen.
    Unstreamed,
}

/// What has paused replay. The server gives the same state for all of them, and resuming heals one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PausedBy<'a> {
    /// A call of `pg_wal_replay_pause()`: nothing else could have.
    Request,
    /// The server itself, since a setting is lower than its primary's (14+): resuming shuts it down.
    Settings,
    /// The server itself at its recovery target, or a call before it: resuming leads to the end of recovery.
    Target(&'a RecoveryTarget),
    /// The primary's settings are not known, so that [`PausedBy::Settings`] cannot be ruled out.
    NotKnown,
}

/// `recovery_min_apply_delay`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ApplyDelay {
    pub seconds: f64,
    /// How much more it lags.
    pub beyond_seconds: f64,
}

impl ApplyDelay {
    pub fn is_within(self) -> bool {
        self.beyond_seconds <= DELAY_SLACK
    }
}

/// The WAL before a replica, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Flushed by the primary, and not received.
    pub unreceived: u64,
    /// Received, and not replayed.
    pub unreplayed: u64,
}

impl Backlog {
    /// Whether a part of it is worth a word.
    pub(super) fn is_much(self, part: u64) -> bool {
        part > 0 && part.saturating_mul(MUCH) >= self.unreceived.saturating_add(self.unreplayed)
    }
}
