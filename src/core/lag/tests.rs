//! Invented polls, each at a time that its name tells, and what must be told of them.

mod aurora;
mod confirmed;
mod noise;
mod overlap;
mod scenarios;
mod simulation;

use std::sync::Arc;

use super::*;
use crate::core::observation::{
    Checkpoint, Flavor, Identity, PollFailure, Receiver, ReplayPause, SenderState, ServerAddress, StatementsAccess,
    WalReceiver, WalSender,
};
use crate::core::standby_settings::StandbySettings;
use crate::core::time::ServerTime;
use crate::core::topology::TargetId;
use crate::core::wal::Timeline;

/// What server clocks say at the monitor's second 0.
const WALL: f64 = 1_700_000_000.0;
/// How long an answer takes, unless said otherwise.
const TOOK: f64 = 0.01;

fn at(seconds: f64) -> MonoTime {
    MonoTime::from_nanos(0).plus_seconds(seconds)
}

/// What a server whose clock is right writes at a second of the monitor's clock.
fn stamp(seconds: f64) -> ServerTime {
    ServerTime::from_unix_micros(((WALL + seconds) * 1e6).round() as i64)
}

/// One poll, to be varied field by field. The beat is the whole second it was asked in.
#[derive(Clone)]
struct Poll {
    target: &'static str,
    asked: f64,
    took: f64,
    /// The server's clock less the right time.
    ahead: f64,
    system_identifier: Option<u64>,
    started: f64,
    cluster_name: String,
    state: ServerState,
    senders: Vec<WalSender>,
}

fn primary(target: &'static str, asked: f64, flush_lsn: u64) -> Poll {
    let state = PrimaryState { flush_lsn: Lsn::new(flush_lsn), timeline: Timeline(1), checkpoint: None };
    Poll {
        target,
        asked,
        took: TOOK,
        ahead: 0.0,
        system_identifier: Some(1),
        started: -1e6,
        cluster_name: target.to_owned(),
        state: ServerState::Primary(state),
        senders: Vec::new(),
    }
}

/// A standby whose receiver may not be seen: nothing but the replay position is known.
fn standby(target: &'static str, asked: f64, replay_lsn: u64) -> Poll {
    let state = StandbyState {
        replay_lsn: Some(Lsn::new(replay_lsn)),
        receive_lsn: None,
        last_commit_replayed_at: None,
        control_timeline: Some(Timeline(1)),
        pause: ReplayPause::NotPaused,
        receiver: Receiver::Hidden,
        wait: None,
    };
    Poll { state: ServerState::Standby(state), ..primary(target, asked, 0) }
}

impl Poll {
    fn primary_mut(&mut self) -> &mut PrimaryState {
        match &mut self.state {
            ServerState::Primary(state) => state,
            ServerState::Standby(_) | ServerState::Aurora(_) => panic!("a standby"),
        }
    }

    fn standby_mut(&mut self) -> &mut StandbyState {
        match &mut self.state {
            ServerState::Standby(state) => state,
            ServerState::Primary(_) | ServerState::Aurora(_) => panic!("a primary"),
        }
    }

    fn timeline(mut self, timeline: u32) -> Self {
        match &mut self.state {
            ServerState::Primary(state) => state.timeline = Timeline(timeline),
            ServerState::Standby(state) => state.control_timeline = Some(Timeline(timeline)),
            ServerState::Aurora(_) => panic!("has no timeline"),
        }
        self
    }

    fn restarted(mut self, started: f64, redo_lsn: u64) -> Self {
        self.started = started;
        self.primary_mut().checkpoint =
            Some(Checkpoint { redo_lsn: Lsn::new(redo_lsn), taken_at: stamp(started - 0.5) });
        self
    }

    fn committed(mut self, commit: f64) -> Self {
        self.standby_mut().last_commit_replayed_at = Some(stamp(commit));
        self
    }

    fn no_receiver(mut self) -> Self {
        self.standby_mut().receiver = Receiver::Absent;
        self
    }

    /// Streams on `timeline`; the last message said `latest_end_lsn` and was sent at `sent`.
    fn streams(mut self, timeline: u32, latest_end_lsn: u64, sent: f64) -> Self {
        let state = self.standby_mut();
        state.receive_lsn = Some(Lsn::new(latest_end_lsn));
        state.receiver = Receiver::Running(WalReceiver {
            status: "streaming".to_owned(),
            timeline: Some(Timeline(timeline)),
            flushed_lsn: Some(Lsn::new(latest_end_lsn)),
            written_lsn: None,
            latest_end_at: None,
            latest_end_lsn: Some(Lsn::new(latest_end_lsn)),
            last_msg_sent_at: Some(stamp(sent)),
            last_msg_received_at: Some(stamp(sent + 0.001)),
            sender_host: None,
            sender_port: None,
            slot_name: None,
        });
        self
    }

    fn received(mut self, receive_lsn: u64) -> Self {
        self.standby_mut().receive_lsn = Some(Lsn::new(receive_lsn));
        self
    }

    fn with(mut self, sender: WalSender) -> Self {
        self.senders.push(sender);
        self
    }

    fn took(self, took: f64) -> Self {
        Self { took, ..self }
    }

    fn ahead(self, ahead: f64) -> Self {
        Self { ahead, ..self }
    }

    fn observation(self) -> Observation {
        let identity = Identity {
            version_num: 150_018,
            version: "15.18".to_owned(),
            flavor: Flavor::PostgreSql,
            system_identifier: self.system_identifier,
            started_at: stamp(self.started),
            cluster_name: self.cluster_name,
            user: "monitor".to_owned(),
            reads_all_stats: true,
            statements: StatementsAccess::NotCreated,
            tls: false,
            pooled: false,
            address: ServerAddress::default(),
            standby_settings: StandbySettings::default(),
        };
        Observation {
            target: TargetId::new("c", self.target),
            beat: beat(self.asked),
            asked_at: at(self.asked),
            answered_at: at(self.asked + self.took),
            outcome: Ok(Positions {
                identity: Arc::new(identity),
                clock: stamp(self.asked + self.took / 2.0 + self.ahead),
                state: self.state,
                senders: self.senders,
                sees_senders: true,
            }),
        }
    }
}

/// A row of `pg_stat_replication`, with a reply from a moment before.
fn sender(name: &str, replay_lsn: u64, reply: f64) -> WalSender {
    WalSender {
        pid: 1,
        application_name: Some(Arc::from(name)),
        client: None,
        sync_priority: None,
        state: Some(SenderState::Streaming),
        sent_lsn: None,
        write_lsn: None,
        flush_lsn: None,
        replay_lsn: Some(Lsn::new(replay_lsn)),
        write_lag: None,
        flush_lag: None,
        replay_lag: None,
        reply_time: Some(stamp(reply)),
        sync_state: None,
    }
}

fn beat(asked: f64) -> u64 {
    (asked + 0.001).floor() as u64
}

fn failed(target: &str, asked: f64, took: f64, failure: PollFailure) -> Observation {
    Observation {
        target: TargetId::new("c", target),
        beat: beat(asked),
        asked_at: at(asked),
        answered_at: at(asked + took),
        outcome: Err(failure),
    }
}

fn refused(target: &str, asked: f64) -> Observation {
    failed(target, asked, 0.0, PollFailure::Refused)
}

fn hangs(target: &str, asked: f64) -> Observation {
    failed(target, asked, 0.5, PollFailure::Timeout { doing: "polling".to_owned(), limit_ms: 500 })
}

impl From<Poll> for Observation {
    fn from(poll: Poll) -> Self {
        poll.observation()
    }
}

fn tracker() -> LagTracker {
    LagTracker::new(Duration::from_secs(1))
}

/// `method value [lower, upper] certainty`, in seconds to the millisecond.
fn told(estimate: Option<LagEstimate>) -> String {
    let Some(LagEstimate { value, lower, upper, certainty, method }) = estimate else { return "-".to_owned() };
    // Adding zero turns a rounded -0 into 0.
    let ms = |seconds: f64| format!("{}", (seconds * 1e3).round() / 1e3 + 0.0);
    let value = value.map_or("none".to_owned(), ms);
    format!("{method} {value} [{}, {}] {}", ms(lower), ms(upper), certainty.as_str())
}

/// Shows `polls` to a new tracker and compares what it tells of `target` at `now`; `truth` must lie within the bounds.
#[track_caller]
fn check(polls: Vec<Observation>, target: &str, now: f64, truth: Option<f64>, expected: &str) {
    let mut tracker = tracker();
    for poll in &polls {
        tracker.observe(poll);
    }
    expect(&tracker, target, now, truth, expected);
}

#[track_caller]
fn expect(tracker: &LagTracker, target: &str, now: f64, truth: Option<f64>, expected: &str) {
    let estimate = tracker.estimate(&Name::new(target), at(now));
    assert_eq!(told(estimate), expected);
    if let (Some(truth), Some(LagEstimate { lower, upper, .. })) = (truth, estimate) {
        assert!(lower <= truth && truth <= upper, "the truth, {truth}, is outside {lower}..{upper}");
    }
}

/// Polls of an idle or steadily writing primary `p`, one a second in `seconds`, at `lsn(second)`.
fn history(seconds: std::ops::RangeInclusive<u32>, lsn: impl Fn(u32) -> u64) -> Vec<Observation> {
    seconds.map(|second| primary("p", f64::from(second), lsn(second)).into()).collect()
}

/// 100 bytes each second from second 0 on, the write of a second coming in its middle.
fn writing(second: u32) -> u64 {
    1_000 + 100 * u64::from(second)
}

/// When [`writing`] went beyond `lsn`.
fn went_beyond(lsn: u64) -> f64 {
    ((lsn - 1_000) / 100) as f64 + 0.5
}
