//! What one poll of one server said, raw: NULL stays `None`, and nothing is derived.
//!
//! Two beats bring facts. The fast one ([`Observation`]) brings [`Positions`]: where the WAL stands, a handful of
//! function calls. The slow one ([`super::survey`]) brings what costs the server
//! more: sessions, slots, statements.

use core::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::quantity::duration;
use super::standby_settings::StandbySettings;
use super::time::{MonoTime, ServerTime};
use super::topology::{Role, TargetId};
use super::wal::{Lsn, Timeline};

/// The answer of one target to one fast poll, or why there is none.
#[derive(Clone, Debug)]
pub struct Observation {
    pub target: TargetId,
    /// The cluster's beat this poll belongs to; equal beats were asked within one interval, the primary first.
    pub beat: u64,
    /// When the question left. The answer is true for some instant between this and `answered_at`.
    pub asked_at: MonoTime,
    /// When the answer (or the failure) was in hand.
    pub answered_at: MonoTime,
    pub outcome: Result<Positions, PollFailure>,
}

/// What stays true while a session lives: asked once after connecting, and again when the session turns out to be a
/// different server process (a pooler in between).
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// `server_version_num`, for example 150018.
    pub version_num: u32,
    /// `server_version`, for example `15.18`.
    pub version: String,
    pub flavor: Flavor,
    /// `pg_control_system().system_identifier`. `None` where the function is refused.
    pub system_identifier: Option<u64>,
    /// `pg_postmaster_start_time()`.
    pub started_at: ServerTime,
    /// `cluster_name`, by which a standby presents itself to its upstream unless told otherwise. Empty when not set.
    pub cluster_name: String,
    /// `current_user`.
    pub user: String,
    /// Whether the role reads other sessions' statistics (`pg_read_all_stats`, part of `pg_monitor`).
    pub reads_all_stats: bool,
    pub statements: StatementsAccess,
    /// The session is encrypted, by the client's own knowledge.
    pub tls: bool,
    /// The session goes through a connection pooler.
    pub pooled: bool,
    pub address: ServerAddress,
    /// What decides whether it can go on replaying, or its standbys can.
    pub standby_settings: StandbySettings,
}

/// Where a server is, as far as is known: by this it is recognised in what its standbys say of their upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerAddress {
    /// Host and port of the connection string. `None` when it names several hosts.
    pub configured: Option<(String, u16)>,
    /// `inet_server_addr()`: often a private address. `None` through a Unix socket.
    pub own: Option<IpAddr>,
    /// `port`: where the server listens, whatever stands in between.
    pub port: Option<u16>,
}

/// Who runs the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    PostgreSql,
    Rds,
    Aurora,
}

impl Flavor {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PostgreSql => "postgresql",
            Self::Rds => "rds",
            Self::Aurora => "aurora",
        }
    }
}

/// Whether `pg_stat_statements` can be read in the database connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatementsAccess {
    /// The extension is not created in this database.
    NotCreated,
    /// Created, but its library is not in `shared_preload_libraries`.
    NotLoaded,
    /// Readable. `version` is the extension's, which decides the columns.
    Readable { schema: String, version: String },
}

/// Where the WAL stands on one server. Fields come from functions that need no grant, unless said otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Positions {
    pub identity: Arc<Identity>,
    /// `clock_timestamp()`: the server's own clock.
    pub clock: ServerTime,
    pub state: ServerState,
    /// The standbys connected here (`pg_stat_get_wal_senders()`), on a primary or a cascading standby.
    pub senders: Vec<WalSender>,
    /// Whether `senders` is the whole truth: the function is not refused, and the role sees other sessions' columns.
    pub sees_senders: bool,
}

impl Positions {
    pub fn role(&self) -> Role {
        match &self.state {
            ServerState::Primary(_) => Role::Primary,
            ServerState::Standby(_) => Role::Replica,
            ServerState::Aurora(state) => state.role,
        }
    }

    pub fn primary(&self) -> Option<&PrimaryState> {
        match &self.state {
            ServerState::Primary(state) => Some(state),
            ServerState::Standby(_) | ServerState::Aurora(_) => None,
        }
    }

    pub fn standby(&self) -> Option<&StandbyState> {
        match &self.state {
            ServerState::Primary(_) | ServerState::Aurora(_) => None,
            ServerState::Standby(state) => Some(state),
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "most servers are standbys, so a box would save nothing")]
#[derive(Clone, Debug, PartialEq)]
pub enum ServerState {
    Primary(PrimaryState),
    Standby(StandbyState),
    /// Aurora's instances share one volume, and have no WAL positions of their own.
    Aurora(AuroraState),
}

/// An instance of an Aurora cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct AuroraState {
    /// By `pg_is_in_recovery()`, which is true on readers.
    pub role: Role,
    /// `aurora_db_instance_identifier()`. `None` where it cannot be asked.
    pub instance: Option<Arc<str>>,
    /// `aurora_replica_status()`: what this instance knows of each instance of the cluster, itself included.
    pub instances: Vec<AuroraInstance>,
}

/// One row of `aurora_replica_status()`. Positions are Aurora's log sequence numbers, of the volume's log.
#[derive(Clone, Debug, PartialEq)]
pub struct AuroraInstance {
    /// `server_id`.
    pub id: Arc<str>,
    /// `session_id` is `MASTER_SESSION_ID`.
    pub is_writer: bool,
    /// `durable_lsn`: on the writer's row, how far the volume is.
    pub durable_lsn: Option<u64>,
    /// `highest_lsn_rcvd`.
    pub highest_lsn_received: Option<u64>,
    /// `current_read_lsn`.
    pub current_read_lsn: Option<u64>,
    /// `replica_lag_in_msec`, in seconds. `None` for the writer.
    pub replica_lag: Option<f64>,
    /// Seconds since `last_update_timestamp`, by the clock of the instance that was asked. `None` when it does not say,
    /// as for its own row from 13.9 on.
    pub age: Option<f64>,
}

/// `pg_is_in_recovery()` is false.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrimaryState {
    /// `pg_current_wal_flush_lsn()`.
    pub flush_lsn: Lsn,
    /// First eight digits of `pg_walfile_name(pg_current_wal_insert_lsn())`: the control file's is stale after a promotion.
    pub timeline: Timeline,
    /// `pg_control_checkpoint()`, read at the first poll of a session: where the old WAL ended after a restart.
    pub checkpoint: Option<Checkpoint>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Checkpoint {
    pub redo_lsn: Lsn,
    pub taken_at: ServerTime,
}

/// `pg_is_in_recovery()` is true.
#[derive(Clone, Debug, PartialEq)]
pub struct StandbyState {
    /// `pg_last_wal_replay_lsn()`. `None` before the first record was replayed.
    pub replay_lsn: Option<Lsn>,
    /// `pg_last_wal_receive_lsn()`. `None` without streaming since start; begins at a segment's start after a restart.
    pub receive_lsn: Option<Lsn>,
    /// `pg_last_xact_replay_timestamp()`, by the primary's clock. `None` when no commit was replayed since start.
    pub last_commit_replayed_at: Option<ServerTime>,
    /// `pg_control_checkpoint().timeline_id`.
    pub control_timeline: Option<Timeline>,
    pub pause: ReplayPause,
    pub receiver: Receiver,
    /// What replay waits for. Asked only while it stands with WAL to replay; `None` else, and before the answer.
    pub wait: Option<Arc<ReplayWait>>,
}

impl StandbyState {
    /// The furthest position that is known to be on this standby's disk. After a restart the receive position begins at
    /// the start of a segment, behind what was replayed.
    pub fn received(&self) -> Option<Lsn> {
        let flushed_lsn = self.receiver.running().and_then(|receiver| receiver.flushed_lsn);
        [self.receive_lsn, flushed_lsn, self.replay_lsn].into_iter().flatten().max()
    }
}

/// What the startup process, which replays, waits for, and who is in its way.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayWait {
    pub on: WaitsOn,
    /// The session in its way; of several the one that has been for the longest.
    pub blocker: Option<Blocker>,
    /// How many sessions hold the lock that it waits for; of other conflicts only the worst is known.
    pub n_holders: u64,
}

/// `pg_stat_activity.wait_event` of the startup process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsOn {
    /// A relation's lock that a session holds (found in `pg_locks`, so without any grant).
    Lock,
    /// `RecoveryConflictSnapshot`: a snapshot that still needs rows which are to be removed.
    Snapshot,
    /// `BufferPin`: a page that a session has pinned. Whose pin it is no view tells.
    BufferPin,
    /// `RecoveryConflictTablespace`: temporary files in a tablespace that is to be dropped.
    Tablespace,
    /// `RecoveryApplyDelay`.
    ApplyDelay,
    /// `RecoveryPause`.
    Pause,
    /// Its disk.
    Io,
    /// Nothing: it works.
    Nothing,
    /// Something else.
    Other,
    /// The role may not see it (no `pg_monitor`).
    Hidden,
}

impl WaitsOn {
    /// Whether it waits for a session of this server to end its transaction.
    pub const fn is_conflict(self) -> bool {
        matches!(self, Self::Lock | Self::Snapshot | Self::BufferPin | Self::Tablespace)
    }
}

/// A session in the way of replay. Never its query's text.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocker {
    pub pid: Option<i32>,
    pub user: Option<String>,
    /// `application_name`. Empty when it says none.
    pub application: String,
    /// In a transaction that does nothing. `None` where the role may not see it.
    pub is_idle: Option<bool>,
    /// When its transaction began, by the server's clock. `None` where the role may not see it.
    pub since: Option<ServerTime>,
}

/// `pg_get_wal_replay_pause_state()` (14+); before that `pg_is_wal_replay_paused()`, which says only "requested".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayPause {
    NotPaused,
    Requested,
    Paused,
}

/// `pg_stat_get_wal_receiver()`.
#[derive(Clone, Debug, PartialEq)]
pub enum Receiver {
    /// No WAL receiver runs.
    Absent,
    /// One runs and has not reached its upstream (19+, `status` is `connecting`; older servers show none then).
    Connecting,
    /// One runs, but the role may not see more (no `pg_monitor`).
    Hidden,
    Running(WalReceiver),
}

impl Receiver {
    pub fn running(&self) -> Option<&WalReceiver> {
        match self {
            Self::Running(receiver) => Some(receiver),
            Self::Absent | Self::Connecting | Self::Hidden => None,
        }
    }

    /// Whether no WAL can come by a stream.
    pub const fn is_without_stream(&self) -> bool {
        matches!(self, Self::Absent | Self::Connecting)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct WalReceiver {
    /// `streaming`, `starting`, `waiting`, ...
    pub status: String,
    /// `received_tli`.
    pub timeline: Option<Timeline>,
    /// `written_lsn`: received and written, though perhaps not yet flushed.
    pub written_lsn: Option<Lsn>,
    /// `flushed_lsn`: received and on this standby's disk.
    pub flushed_lsn: Option<Lsn>,
    /// `latest_end_lsn`: the sender's last word on its own end of WAL. This and the times are `None` until the receiver has
    /// its first message: what the view shows before is an earlier receiver's, or the time at which this one started.
    pub latest_end_lsn: Option<Lsn>,
    /// `latest_end_time`: when the sender said so first, by the sender's clock.
    pub latest_end_at: Option<ServerTime>,
    /// `last_msg_send_time`, by the sender's clock.
    pub last_msg_sent_at: Option<ServerTime>,
    /// `last_msg_receipt_time`, by this standby's clock.
    pub last_msg_received_at: Option<ServerTime>,
    /// `sender_host`, `sender_port`: the upstream.
    pub sender_host: Option<String>,
    pub sender_port: Option<u16>,
    pub slot_name: Option<String>,
}

/// One row of `pg_stat_replication`. Without `pg_monitor` all but the pid and the name are `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct WalSender {
    pub pid: i32,
    /// `application_name`; `None` until learned for this pid.
    pub application_name: Option<Arc<str>>,
    /// Who is at its other end; `None` until learned for this pid.
    pub client: Option<Arc<SenderClient>>,
    pub state: Option<SenderState>,
    pub sent_lsn: Option<Lsn>,
    pub write_lsn: Option<Lsn>,
    pub flush_lsn: Option<Lsn>,
    pub replay_lsn: Option<Lsn>,
    /// PostgreSQL's own measurements, in seconds. `None` when caught up and idle, or not permitted.
    pub write_lag: Option<f64>,
    pub flush_lag: Option<f64>,
    pub replay_lag: Option<f64>,
    /// `reply_time`, by the standby's clock.
    pub reply_time: Option<ServerTime>,
    /// `sync_priority`: its place in `synchronous_standby_names`; 0 for an asynchronous standby.
    pub sync_priority: Option<u32>,
    /// `sync_state`: `async`, `potential`, `sync`, `quorum`.
    pub sync_state: Option<Arc<str>>,
}

/// Who is at the other end of a WAL sender: what stays as long as the connection, looked up once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SenderClient {
    /// `client_addr`. `None` through a Unix socket, and without `pg_monitor`.
    pub address: Option<IpAddr>,
    /// `client_hostname`, where the server has `log_hostname` on.
    pub hostname: Option<String>,
    /// `backend_start`. `None` without `pg_monitor`.
    pub started_at: Option<ServerTime>,
    /// The slot it streams through: `pg_replication_slots.active_pid` needs no grant. `None`: without one.
    pub slot: Option<SenderSlot>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderSlot {
    pub name: String,
    /// A subscriber or a decoding client reads, no standby.
    pub is_logical: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderState {
    Startup,
    Catchup,
    Streaming,
    Backup,
    Stopping,
}

/// Why a poll gave no facts. Messages name no password, no query text and no client address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PollFailure {
    #[error("no answer within {} while {doing}", duration(*limit_ms as f64 / 1000.0))]
    Timeout { doing: String, limit_ms: u64 },
    #[error("name lookup: {reason}")]
    Lookup { reason: String },
    #[error("connection refused")]
    Refused,
    #[error("{reason}")]
    Connect { reason: String },
    #[error("TLS: {reason}")]
    Tls { reason: String },
    #[error("authentication: {reason}")]
    Authentication { reason: String },
    /// SQLSTATE 57P03: starting up, shutting down, or in recovery without hot standby.
    #[error("{reason}")]
    NotAccepting { reason: String },
    /// SQLSTATE 53300.
    #[error("{reason}")]
    TooManyConnections { reason: String },
    #[error("SQLSTATE {sqlstate}: {reason}")]
    Sql { sqlstate: String, reason: String },
    /// A login event trigger (PostgreSQL 17 and later) ended the session as it began.
    #[error("SQLSTATE {sqlstate}: {reason}")]
    LoginTrigger { sqlstate: String, reason: String },
    #[error("cannot read {column} of {view}: {reason}")]
    Decode { view: String, column: String, reason: String },
    #[error("connection lost: {reason}")]
    Lost { reason: String },
}

impl PollFailure {
    /// A short word for a metric label: closed, without any text of the server's.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "timeout",
            Self::Lookup { .. } => "lookup",
            Self::Refused => "refused",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Authentication { .. } => "authentication",
            Self::NotAccepting { .. } => "not_accepting",
            Self::TooManyConnections { .. } => "too_many_connections",
            Self::Sql { .. } => "sql",
            Self::LoginTrigger { .. } => "login_trigger",
            Self::Decode { .. } => "decode",
            Self::Lost { .. } => "lost",
        }
    }

    /// Whether the server is proven not to serve (refused, or starting up), as opposed to merely silent.
    pub const fn proves_down(&self) -> bool {
        matches!(self, Self::Refused | Self::NotAccepting { .. })
    }
}
