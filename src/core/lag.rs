//! How far a replica lags, and how sure that is.
//!
//! *Replay lag of a replica at an instant* is the age of the oldest WAL that the primary had flushed and the replica has
//! not replayed; 0 if it has replayed everything. (Module doc, algorithm and evidence table: to be completed here.)

use std::fmt;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    Exact,
    AtLeast,
    AtMost,
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
    /// The primary does not answer; the history stands still.
    pub primary_lost: bool,
}

/// What the value rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    CaughtUp,
    LsnAndTimestamp,
    Lsn,
    LsnPlateau,
    Receiver,
    PrimaryDown,
    PrimaryLost,
    WalSender,
    Timestamp,
    LowerBound,
    ReceiverOnly,
    TimestampOnly,
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
