//! What is remembered of each server: how it last stood in recovery, and who streams from it.

use std::sync::Arc;

use crate::core::observation::{Checkpoint, Identity, Receiver, SenderState, StandbyState, WalSender};
use crate::core::time::{MonoTime, ServerTime};
use crate::core::topology::links::{SenderId, known_as};
use crate::core::wal::{Lsn, Timeline};

/// Two senders of one name that both heard from their standby within this many seconds serve two standbys; a longer
/// silence is that of a connection that died and was not noticed yet.
const SILENT_SENDER: f64 = 12.0;

/// One server of the cluster, as its polls showed it.
#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) last_answer: Option<LastAnswer>,
    /// When the first of the polls that have failed since was asked.
    pub(super) silent_since: Option<MonoTime>,
    /// The last replay position it ever said; it outlives a NULL.
    pub(super) replay_lsn: Option<Lsn>,
    /// The highest timeline it was seen on.
    pub(super) timeline: Option<Timeline>,
    /// What its present process said of the last checkpoint, at the first poll of a session.
    pub(super) checkpoint: Option<(ServerTime, Checkpoint)>,
    pub(super) senders: Senders,
    /// What the rows of upstreams have shown of it since its own last answer, as far as those rows were replaced since.
    pub(super) shown: Option<Report>,
    /// The connection that surely is its own, at one of the others.
    pub(super) sender: Option<SenderId>,
}

/// Where a standby stood at some instant between two, by its own answer or by its row at an upstream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Report {
    pub(super) replay_lsn: Lsn,
    /// The timeline that the upstream was on. `None` in the standby's own answer, which has better ones.
    pub(super) timeline: Option<Timeline>,
    pub(super) asked_at: MonoTime,
    pub(super) answered_at: MonoTime,
}

impl Report {
    /// Both taken together: the further position, as of the later of the two, for a position that was reached is not
    /// left again.
    pub(super) fn and(self, other: Self) -> Self {
        let (later, further) =
            (self.max_by_key(other, |report| report.answered_at), self.max_by_key(other, |report| report.replay_lsn));
        Self { replay_lsn: further.replay_lsn, timeline: self.timeline.max(other.timeline), ..later }
    }

    fn max_by_key<K: Ord>(self, other: Self, key: impl Fn(&Self) -> K) -> Self {
        if key(&other) > key(&self) { other } else { self }
    }
}

#[derive(Debug)]
pub(super) struct LastAnswer {
    pub(super) identity: Arc<Identity>,
    /// `None` when it was not in recovery.
    pub(super) standing: Option<Standing>,
}

/// How a server stood when it was polled in recovery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) asked_at: MonoTime,
    pub(super) answered_at: MonoTime,
    pub(super) clock: ServerTime,
    pub(super) replay_lsn: Option<Lsn>,
    pub(super) receive_lsn: Option<Lsn>,
    pub(super) last_commit_replayed_at: Option<ServerTime>,
    pub(super) control_timeline: Option<Timeline>,
    pub(super) receiver: Stream,
    /// Nothing could reach it any more: no receiver ran, or nothing came while the primary was lost.
    pub(super) severed: bool,
    /// Severed, and its replay stood still although nothing was known to hold it: what it received beyond is likely the
    /// beginning of a record whose end never came.
    pub(super) settled: bool,
}

/// The WAL receiver, as far as the lag depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    Absent,
    Hidden,
    Running {
        streaming: bool,
        timeline: Option<Timeline>,
        latest_end_lsn: Option<Lsn>,
        last_msg_sent_at: Option<ServerTime>,
        last_msg_received_at: Option<ServerTime>,
    },
}

impl Stream {
    pub(super) fn new(receiver: &Receiver) -> Self {
        match receiver {
            Receiver::Absent | Receiver::Connecting => Self::Absent,
            Receiver::Hidden => Self::Hidden,
            Receiver::Running(receiver) => Self::Running {
                streaming: receiver.status == "streaming",
                timeline: receiver.timeline,
                latest_end_lsn: receiver.latest_end_lsn,
                last_msg_sent_at: receiver.last_msg_sent_at,
                last_msg_received_at: receiver.last_msg_received_at,
            },
        }
    }

    pub(super) fn timeline(self) -> Option<Timeline> {
        match self {
            Self::Running { timeline, .. } => timeline,
            Self::Absent | Self::Hidden => None,
        }
    }

    pub(super) fn latest_end_lsn(self) -> Option<Lsn> {
        match self {
            Self::Running { latest_end_lsn, .. } => latest_end_lsn,
            Self::Absent | Self::Hidden => None,
        }
    }
}

impl Standing {
    pub(super) fn new(state: &StandbyState, clock: ServerTime, asked_at: MonoTime, answered_at: MonoTime) -> Self {
        Self {
            asked_at,
            answered_at,
            clock,
            replay_lsn: state.replay_lsn,
            receive_lsn: state.receive_lsn,
            last_commit_replayed_at: state.last_commit_replayed_at,
            control_timeline: state.control_timeline,
            receiver: Stream::new(&state.receiver),
            severed: false,
            settled: false,
        }
    }

    /// The furthest position it has WAL for. The receive position alone would not do: after a restart it begins at a
    /// segment's start, behind what is replayed.
    pub(super) fn end_of_wal(&self) -> Option<Lsn> {
        self.replay_lsn.max(self.receive_lsn)
    }

    /// The furthest position that its upstream is known to have.
    pub(super) fn received(&self) -> Option<Lsn> {
        self.receive_lsn.max(self.receiver.latest_end_lsn())
    }

    /// The timeline it is on now, by its control file (late by a restartpoint) and its receiver.
    pub(super) fn timeline(&self) -> Option<Timeline> {
        self.control_timeline.max(self.receiver.timeline())
    }
}

impl Server {
    pub(super) fn standing(&self) -> Option<&Standing> {
        self.last_answer.as_ref()?.standing.as_ref()
    }

    /// Takes up what an upstream's row shows.
    pub(super) fn learn(&mut self, report: Report) {
        self.shown = Some(self.shown.map_or(report, |shown| shown.and(report)));
    }

    /// Whether its own last answer is older than what was answered at `instant`.
    pub(super) fn was_silent_until(&self, instant: MonoTime) -> bool {
        self.standing().is_some_and(|standing| standing.answered_at < instant)
    }

    /// The name it presents itself with to its upstream, unless `primary_conninfo` sets another.
    pub(super) fn application_name(&self) -> Option<&str> {
        self.last_answer.as_ref().map(|last| known_as(&last.identity.cluster_name))
    }
}

/// The standbys that stream from one server, as of one poll.
#[derive(Debug, Default)]
pub(super) struct Senders {
    pub(super) polled: Option<Polled>,
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Polled {
    pub(super) asked_at: MonoTime,
    pub(super) answered_at: MonoTime,
}

/// One row of `pg_stat_replication` whose standby is known by name.
#[derive(Debug)]
pub(super) struct Row {
    pid: i32,
    application_name: Arc<str>,
    pub(super) streaming: bool,
    pub(super) replay_lsn: Option<Lsn>,
    pub(super) replay_lag: Option<f64>,
    pub(super) reply_time: Option<ServerTime>,
}

impl Senders {
    pub(super) fn store(&mut self, polled: Polled, senders: &[WalSender]) {
        self.polled = Some(polled);
        self.rows.clear();
        self.rows.extend(senders.iter().filter_map(|sender| {
            Some(Row {
                pid: sender.pid,
                application_name: Arc::clone(sender.application_name.as_ref()?),
                streaming: sender.state == Some(SenderState::Streaming),
                replay_lsn: sender.replay_lsn,
                replay_lag: sender.replay_lag,
                reply_time: sender.reply_time,
            })
        }));
    }

    pub(super) fn named<'a>(&'a self, application_name: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| &*row.application_name == application_name)
    }

    pub(super) fn of_pid(&self, pid: i32) -> Option<&Row> {
        self.rows.iter().find(|row| row.pid == pid)
    }

    /// A name that two living connections share, if there is one.
    pub(super) fn shared_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rows.iter().enumerate().filter_map(|(k, row)| {
            let reply = row.reply_time?.unix_seconds();
            self.rows[..k]
                .iter()
                .filter(|other| other.application_name == row.application_name)
                .filter_map(|other| other.reply_time)
                .any(|other| (other.unix_seconds() - reply).abs() < SILENT_SENDER)
                .then_some(&row.application_name)
        })
    }
}
