//! Why a replica lags: one of a closed list, decided from facts alone.
//!
//! # The order
//!
//! Several causes may hold at once. The one to act on first is *the* cause, the others are listed after it, in this order:
//!
//! | | cause | holds when |
//! |---|---|---|
//! | 1 | `replica_unreachable` | its last poll failed: all else is only remembered |
//! | 2 | `timeline_diverged` | it replayed beyond the fork, or is on a timeline that the primary has not reached |
//! | 3 | `slot_lost` | it does not stream, and its slot is `lost` or not there any more |
//! | 4 | `insufficient_settings` | replay is paused, and a setting is lower than on its primary (first of all where it is down so) |
//! | 5 | `recovery_target_reached` | replay is paused, and a recovery target is set |
//! | 6 | `archive_recovery` | it does not stream, and replays what it fetches from an archive, or has nothing else to follow |
//! | 7 | `primary_unreachable` | it does not stream, and the primary does not answer us either |
//! | 8 | `never_connected` | it does not stream, and has not since it started |
//! | 9 | `receiver_cut_off` | it did stream; or it seems to, and nothing comes though there is more |
//! | 10 | `replay_paused` | a pause is requested or in effect, by request alone |
//! | 11 | `blocked_by_query` | replay waits for a session's lock, snapshot or page |
//! | 12 | `apply_delay` | it lags within the delay that it was told to keep |
//! | 13 | `catching_up` | the WAL before it shrinks, or it has moved since a recent start and never caught up |
//! | 14 | `slow_network` | much of the WAL before it has not arrived; instead the cause of its upstream, where that one lags |
//! | 15 | `slow_replay` | much of the WAL before it has arrived and is replayed too slowly (before 14, where it is more) |
//! | 16 | `apply_delay` | it lags beyond the delay |
//! | 17 | `primary_unreachable` | the primary does not answer, so that how far it lags cannot be told |
//! | 18 | `unknown` | it lags, and nothing above holds; or replay is paused, and by what is not known |
//!
//! What breaks replication for good comes before what merely keeps it waiting, what feeds the replica before what it does
//! with it, and what someone can act on before what takes time.
//!
//! # What this must never do
//!
//! - Name a cause for a replica that does not lag.
//! - Name `replay_paused`, whose remedy is to resume, where resuming might shut the replica down or promote it.
//! - Tell the text of a query, an address or a connection string.

mod facts;
mod words;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::facts::{
    ApplyDelay, Archive, Backlog, Facts, Lagging, PausedBy, Receiving, Silence, SlotFate, SlotTrouble, Timelines,
};
use super::lag::{Certainty, LagEstimate};
use super::observation::{PollFailure, ReplayPause, WaitsOn};
use super::quantity::duration;
use super::standby_settings::{RecoveryTarget, Shortfall, TargetAction};
use super::trend::{Direction, Trend};

/// Why a replica lags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "CauseName")]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    ReplicaUnreachable,
    TimelineDiverged,
    SlotLost,
    InsufficientSettings,
    RecoveryTargetReached,
    ArchiveRecovery,
    PrimaryUnreachable,
    NeverConnected,
    ReceiverCutOff,
    ReplayPaused,
    BlockedByQuery,
    ApplyDelay,
    CatchingUp,
    SlowNetwork,
    SlowReplay,
    Unknown,
}

impl Cause {
    /// In the order in which they are to be acted on.
    pub const ALL: [Self; 16] = [
        Self::ReplicaUnreachable,
        Self::TimelineDiverged,
        Self::SlotLost,
        Self::InsufficientSettings,
        Self::RecoveryTargetReached,
        Self::ArchiveRecovery,
        Self::PrimaryUnreachable,
        Self::NeverConnected,
        Self::ReceiverCutOff,
        Self::ReplayPaused,
        Self::BlockedByQuery,
        Self::ApplyDelay,
        Self::CatchingUp,
        Self::SlowNetwork,
        Self::SlowReplay,
        Self::Unknown,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReplicaUnreachable => "replica_unreachable",
            Self::TimelineDiverged => "timeline_diverged",
            Self::SlotLost => "slot_lost",
            Self::ArchiveRecovery => "archive_recovery",
            Self::PrimaryUnreachable => "primary_unreachable",
            Self::NeverConnected => "never_connected",
            Self::ReceiverCutOff => "receiver_cut_off",
            Self::InsufficientSettings => "insufficient_settings",
            Self::RecoveryTargetReached => "recovery_target_reached",
            Self::ReplayPaused => "replay_paused",
            Self::BlockedByQuery => "blocked_by_query",
            Self::ApplyDelay => "apply_delay",
            Self::CatchingUp => "catching_up",
            Self::SlowNetwork => "slow_network",
            Self::SlowReplay => "slow_replay",
            Self::Unknown => "unknown",
        }
    }

    /// The cause of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == name)
    }

    /// What it means, for people who have not met it yet.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::ReplicaUnreachable => "The replica does not answer pgvigil: its lag is an estimate.",
            Self::TimelineDiverged => {
                "The replica has replayed WAL that the primary does not have, after a promotion: it can never follow."
            }
            Self::SlotLost => "The replica's slot has lost WAL that the replica needs, or does not exist any more.",
            Self::ArchiveRecovery => "The replica does not stream; it restores WAL from an archive.",
            Self::PrimaryUnreachable => {
                "The primary does not answer pgvigil, so that nobody knows what the replica lacks."
            }
            Self::NeverConnected => "The replica has not streamed since it started.",
            Self::ReceiverCutOff => "The replica has streamed and does not any more, or nothing comes.",
            Self::InsufficientSettings => {
                "A setting is lower on the replica than on its primary, so that it paused replay by itself (14 on) or shut down."
            }
            Self::RecoveryTargetReached => "Replay is paused, and a recovery target is set: resuming ends recovery.",
            Self::ReplayPaused => "Replay is paused by request, or a pause is requested.",
            Self::BlockedByQuery => "Replay waits for a session on the replica to end its query or transaction.",
            Self::ApplyDelay => "The replica is configured to replay late.",
            Self::CatchingUp => "After a start or an interruption; nothing holds the replica up any more.",
            Self::SlowNetwork => "WAL arrives more slowly than it is made.",
            Self::SlowReplay => "WAL arrives, and is flushed or replayed more slowly than it is made.",
            Self::Unknown => "The replica lags, and nothing of the above is found.",
        }
    }

    /// What to do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::ReplicaUnreachable => {
                "Look after the server, or the way to it. One that starts or recovers needs time: its log shows how far it is."
            }
            Self::TimelineDiverged => {
                "Find out which primary is the right one. A replica on a newer timeline than its primary follows another one: never rewind it. \
                 Else `pg_rewind`, if `wal_log_hints` or data checksums were on before the promotion, or a new base backup."
            }
            Self::SlotLost => {
                "A new base backup, unless an archive has the WAL; then drop the slot, create it again, and raise `max_slot_wal_keep_size`."
            }
            Self::ArchiveRecovery => {
                "Nothing, where that is meant; else `primary_conninfo` and the way to the primary."
            }
            Self::PrimaryUnreachable => "Look after the primary, or the way to it.",
            Self::NeverConnected => {
                "`primary_conninfo`, its password, `pg_hba.conf` of the upstream; the replica's log says why."
            }
            Self::ReceiverCutOff => "The way to the upstream; the replica's log says why.",
            Self::InsufficientSettings => {
                "Raise the settings on the replica to the primary's values and restart it: `pgvigil check` prints the statements. \
                 Do not resume replay: the replica would shut down."
            }
            Self::RecoveryTargetReached => {
                "If it is to go on as a standby, clear the recovery target and restart it: `pgvigil check` prints the statement. \
                 Do not resume replay: the replica would promote itself."
            }
            Self::ReplayPaused => {
                "When the pause is not needed any more: `SELECT pg_wal_replay_resume()` on the server that is paused."
            }
            Self::BlockedByQuery => {
                "End the session that is named (`SELECT pg_terminate_backend(PID)`), on the server where it is, or lower \
                 `max_standby_streaming_delay` there."
            }
            Self::ApplyDelay => {
                "Nothing, within `recovery_min_apply_delay`: it is not paused, and there is nothing to resume."
            }
            Self::CatchingUp => "Wait: `pgvigil_catch_up_seconds` says how long.",
            Self::SlowNetwork => "The link, or less WAL: `wal_compression`, bulk writes at another time.",
            Self::SlowReplay => "The replica's disk and CPU (one process replays), or less WAL.",
            Self::Unknown => {
                "See the replica's log. If pgvigil's role lacks `pg_monitor`, grant it: `pgvigil check` prints the statement."
            }
        }
    }
}

/// One cause, and how it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub cause: Cause,
    /// A clause for people: `replay is blocked by a query of user report (application metabase) running for 6 min`.
    pub why: String,
}

/// What is wrong with a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// Whether it lags, or may. If not, what is found is only about to make it lag.
    pub lags: bool,
    /// The one to act on first, first. Never empty.
    pub causes: Vec<Told>,
}

impl Diagnosis {
    /// Why it lags. `None` when it does not.
    pub fn cause(&self) -> Option<&Told> {
        self.causes.first().filter(|_| self.lags)
    }

    /// What else holds it up.
    pub fn others(&self) -> &[Told] {
        self.causes.get(1..).unwrap_or_default()
    }

    /// One sentence for whom it woke: `replica-1 is 340 s behind and falling further: replay is paused; at this rate it
    /// will not catch up`.
    pub fn sentence(&self, name: &str, lag: Option<&LagEstimate>, trend: Option<&Trend>) -> String {
        let behind = match lag.and_then(|lag| Some((lag.certainty, lag.value?))) {
            // That it is at least nothing says nothing.
            Some((Certainty::AtLeast, value)) if value < 0.05 => "behind by a time that is not known".to_owned(),
            Some((Certainty::AtLeast, value)) => format!("at least {} behind", duration(value)),
            Some((Certainty::AtMost, value)) => {
                // A guess may have no upper bound.
                let most = lag.map(|lag| lag.upper).filter(|upper| upper.is_finite());
                most.map_or_else(
                    || format!("likely {} behind", duration(value)),
                    |most| format!("at most {} behind", duration(most)),
                )
            }
            Some((_, value)) if self.lags => format!("{} behind", duration(value)),
            Some(_) => "not behind yet".to_owned(),
            None => "behind by a time that is not known".to_owned(),
        };
        // Who replays late as told to is not to catch up.
        let is_delayed = self.causes.first().is_some_and(|told| told.cause == Cause::ApplyDelay);
        let trend = trend.filter(|_| self.lags && !is_delayed);
        let (direction, outlook) = match trend.and_then(|trend| Some((trend.direction?, trend.catch_up_seconds))) {
            Some((Direction::FallingBehind, _)) => {
                (" and falling further", "; at this rate it will not catch up".into())
            }
            Some((Direction::CatchingUp, Some(left))) => {
                (" and catching up", format!("; at this rate it needs another {}", duration(left)))
            }
            Some((Direction::Holding, None)) => (" and not catching up", "; at this rate it will not catch up".into()),
            _ => ("", String::new()),
        };
        let whys: Vec<&str> = self.causes.iter().map(|told| told.why.as_str()).collect();
        let (first, others) = whys.split_first().map_or(("", &[][..]), |(first, others)| (*first, others));
        let others = if others.is_empty() { String::new() } else { format!("; also {}", others.join(", and ")) };
        format!("{name} is {behind}{direction}: {first}{others}{outlook}")
    }
}

/// Decides. `None` when nothing is wrong.
pub fn diagnose(facts: &Facts<'_>) -> Option<Diagnosis> {
    let lags = facts.lagging != Lagging::No;
    let mut causes: Vec<Told> = Vec::new();
    let mut add = |told: Option<Told>| {
        if let Some(told) = told.filter(|told| causes.iter().all(|other| other.cause != told.cause)) {
            causes.push(told);
        }
    };
    for rule in RULES {
        add(rule(facts));
    }
    if lags {
        for told in slowness(facts) {
            add(told);
        }
        for rule in LAST_RULES {
            add(rule(facts));
        }
    }
    if causes.is_empty() {
        if facts.lagging != Lagging::Yes {
            return None;
        }
        causes.push(told(Cause::Unknown, words::unknown(facts)));
    }
    Some(Diagnosis { lags, causes })
}

type Rule = fn(&Facts<'_>) -> Option<Told>;

const RULES: &[Rule] = &[
    down_by_settings,
    replica_unreachable,
    timeline_diverged,
    slot_lost,
    insufficient_settings,
    recovery_target_reached,
    archive_recovery,
    primary_unreachable_and_no_stream,
    never_connected,
    receiver_cut_off,
    replay_paused,
    blocked_by_query,
];

const LAST_RULES: &[Rule] = &[apply_delay, primary_unreachable];

fn told(cause: Cause, why: String) -> Told {
    Told { cause, why }
}

/// A server that was stopped, or has stopped itself, does not start with such settings.
fn down_by_settings(facts: &Facts<'_>) -> Option<Told> {
    facts.failure.filter(|failure| failure.proves_down() && !facts.shortfalls.is_empty())?;
    let list = Shortfall::list(&facts.shortfalls);
    Some(told(Cause::InsufficientSettings, format!("it cannot run with its settings: {list}")))
}

fn replica_unreachable(facts: &Facts<'_>) -> Option<Told> {
    let failure = facts.failure.filter(|_| facts.lagging != Lagging::No)?;
    let why = match failure {
        // Its process is there: not consistent yet, such as before the end of the base backup that it was made from is replayed.
        PollFailure::NotAccepting { .. } => {
            format!("it starts, recovers or stops, and accepts no connections ({failure})")
        }
        _ => format!("it does not answer ({failure})"),
    };
    Some(told(Cause::ReplicaUnreachable, why))
}

fn timeline_diverged(facts: &Facts<'_>) -> Option<Told> {
    let why = match facts.timelines {
        Timelines::Diverged { own, primary, replayed, fork } => format!(
            "its WAL has diverged: on timeline {} it replayed up to {replayed}, and the primary left that at {fork} for \
             timeline {}",
            own.0, primary.0
        ),
        Timelines::Ahead { own, primary } => {
            format!("it follows another primary: it is on timeline {}, the primary on {}", own.0, primary.0)
        }
        Timelines::Same | Timelines::Behind { .. } => return None,
    };
    Some(told(Cause::TimelineDiverged, why))
}

fn slot_lost(facts: &Facts<'_>) -> Option<Told> {
    let slot = facts.slot.as_ref().filter(|_| facts.receiving.is_without_stream())?;
    let fate = match slot.fate {
        SlotFate::Lost => "has lost WAL that it needs",
        SlotFate::Gone => "does not exist",
    };
    Some(told(Cause::SlotLost, format!("its slot {} on {} {fate}", words::name(slot.name), slot.on)))
}

fn archive_recovery(facts: &Facts<'_>) -> Option<Told> {
    let why = match facts.archive {
        Archive::Replaying => "it restores WAL from the archive and does not stream",
        Archive::Only => "it has only the archive to get WAL from",
        Archive::Unstreamed => "it restores WAL from the archive and has requested no stream",
        Archive::None => return None,
    };
    facts.receiving.is_without_stream().then(|| told(Cause::ArchiveRecovery, why.to_owned()))
}

fn primary_unreachable_and_no_stream(facts: &Facts<'_>) -> Option<Told> {
    primary_unreachable(facts).filter(|_| facts.receiving.is_without_stream())
}

fn never_connected(facts: &Facts<'_>) -> Option<Told> {
    let never = facts.archive == Archive::None && facts.receiving == Receiving::Never;
    never.then(|| {
        let why = format!("it has not streamed since it started{}{}", words::timelines(facts), words::paused(facts));
        told(Cause::NeverConnected, why)
    })
}

fn receiver_cut_off(facts: &Facts<'_>) -> Option<Told> {
    let why = match facts.receiving {
        Receiving::CutOff if facts.archive == Archive::None => "its WAL receiver is cut off from the upstream",
        Receiving::Silent => "nothing comes from its upstream though there is more",
        Receiving::Connecting if facts.archive == Archive::None => {
            "its WAL receiver is connecting to the upstream, and no stream has begun"
        }
        _ => return None,
    };
    Some(told(Cause::ReceiverCutOff, format!("{why}{}{}", words::timelines(facts), words::paused(facts))))
}

fn insufficient_settings(facts: &Facts<'_>) -> Option<Told> {
    if facts.pause == ReplayPause::NotPaused || facts.paused_by != PausedBy::Settings {
        return None;
    }
    let list = Shortfall::list(&facts.shortfalls);
    Some(told(Cause::InsufficientSettings, format!("replay is paused, and cannot go on with its settings: {list}")))
}

fn recovery_target_reached(facts: &Facts<'_>) -> Option<Told> {
    let PausedBy::Target(target) = facts.paused_by else { return None };
    if facts.pause == ReplayPause::NotPaused {
        return None;
    }
    let RecoveryTarget { setting, value, action } = target;
    let then = match action {
        TargetAction::Pause | TargetAction::Promote => "it would promote itself if replay were resumed",
        TargetAction::ShutDown => "it would go on to that and shut down if replay were resumed",
    };
    let value = words::name(value);
    Some(told(Cause::RecoveryTargetReached, format!("replay is paused, and {setting} is '{value}': {then}")))
}

fn replay_paused(facts: &Facts<'_>) -> Option<Told> {
    let why = match facts.pause {
        ReplayPause::Paused => "replay is paused",
        ReplayPause::Requested => "a pause of replay is requested",
        ReplayPause::NotPaused => return None,
    };
    match facts.paused_by {
        PausedBy::Request => Some(told(Cause::ReplayPaused, why.to_owned())),
        PausedBy::NotKnown => {
            let why = format!("{why}, and by what is not known, since the settings of its primary are not");
            Some(told(Cause::Unknown, why))
        }
        PausedBy::Settings | PausedBy::Target(_) => None,
    }
}

fn blocked_by_query(facts: &Facts<'_>) -> Option<Told> {
    let wait = facts.wait.filter(|wait| wait.on.is_conflict())?;
    Some(told(Cause::BlockedByQuery, words::blocked(wait, facts.clock)))
}

/// What takes time, and is nobody's fault alone: only where nothing holds replay up altogether.
fn slowness(facts: &Facts<'_>) -> [Option<Told>; 3] {
    let is_held = facts.pause == ReplayPause::Paused || facts.wait.is_some_and(|wait| wait.on.is_conflict());
    let within_delay = facts.apply_delay.filter(|delay| delay.is_within());
    if facts.failure.is_some() || is_held {
        return [None, None, None];
    }
    if within_delay.is_some() {
        return [apply_delay(facts), None, None];
    }
    if let Some(why) = words::catching_up(facts) {
        return [Some(told(Cause::CatchingUp, why)), None, None];
    }
    let Backlog { unreceived, unreplayed } = facts.backlog;
    let network = slow_network(facts).filter(|_| facts.backlog.is_much(unreceived));
    let replay = slow_replay(facts).filter(|_| facts.backlog.is_much(unreplayed));
    if unreplayed > unreceived { [replay, network, None] } else { [network, replay, None] }
}

/// A flush that takes longer after the write of the same WAL is what holds up the stream. Seconds.
const SLOW_FLUSH: f64 = 0.1;

fn slow_network(facts: &Facts<'_>) -> Option<Told> {
    if facts.receiving != Receiving::Streaming {
        return None;
    }
    if let Some((upstream, above)) = facts.upstream {
        return Some(told(above.cause, format!("its upstream {upstream} lags: {}", above.why)));
    }
    // What arrives as fast as it is made is not held up by the network, whatever is missing of it.
    if facts.trend.receive_rate.zip(facts.write_rate).is_some_and(|(received, written)| received >= written) {
        return None;
    }
    if let Some(flush) = facts.flush_after_write.filter(|flush| *flush > SLOW_FLUSH) {
        let why = format!("WAL arrives, and its disk takes {} to take it", duration(flush));
        return Some(told(Cause::SlowReplay, why));
    }
    Some(told(Cause::SlowNetwork, words::slow("WAL arrives", facts.trend.receive_rate, facts.write_rate)))
}

fn slow_replay(facts: &Facts<'_>) -> Option<Told> {
    let stands = facts.trend.standing_seconds.is_some_and(|seconds| seconds > 0.0);
    let why = match facts.wait.map(|wait| wait.on) {
        Some(WaitsOn::Io) => format!(
            "{}, and waits for its disk",
            words::slow("WAL is replayed", facts.trend.replay_rate, facts.write_rate)
        ),
        Some(WaitsOn::Nothing) if stands => "replay is busy with one record".to_owned(),
        None if stands => return None,
        None | Some(WaitsOn::Nothing) => words::slow("WAL is replayed", facts.trend.replay_rate, facts.write_rate),
        Some(_) => return None,
    };
    Some(told(Cause::SlowReplay, why))
}

fn apply_delay(facts: &Facts<'_>) -> Option<Told> {
    let delay = facts.apply_delay.filter(|_| facts.failure.is_none())?;
    let beyond = if delay.is_within() {
        String::new()
    } else {
        format!(", and lags {} beyond that", duration(delay.beyond_seconds))
    };
    Some(told(Cause::ApplyDelay, format!("it is configured to replay {} late{beyond}", duration(delay.seconds))))
}

fn primary_unreachable(facts: &Facts<'_>) -> Option<Told> {
    let silence = facts.primary_is_silent.as_ref()?;
    let name = silence.name.map_or_else(|| "no primary".to_owned(), |name| format!("the primary {name}"));
    let why = match (silence.name, silence.failure) {
        (None, _) => "no primary has answered".to_owned(),
        (Some(_), Some(failure)) => format!("{name} does not answer ({failure})"),
        (Some(_), None) => format!("{name} is not heard"),
    };
    Some(told(Cause::PrimaryUnreachable, why))
}

/// The book's table of causes.
pub fn table() -> String {
    let mut table = "| cause | meaning | what helps |\n| --- | --- | --- |\n".to_owned();
    for cause in Cause::ALL {
        table.push_str(&format!("| `{}` | {} | {} |\n", cause.as_str(), cause.meaning(), cause.remedy()));
    }
    table
}

#[cfg(test)]
mod tests;
