//! How a standby gets its WAL, and whom its replay had to end.

use crate::core::wal::Timeline;

/// Settings of a standby's recovery, and what it shows of its state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecoverySettings {
    /// `primary_slot_name`. `None` when it uses none.
    pub slot_name: Option<String>,
    /// `restore_command` is set: it also takes WAL from an archive.
    pub restores: bool,
    /// `primary_conninfo` is set. `None` where the role may not read it (no `pg_monitor`).
    pub streams: Option<bool>,
    /// A promotion was asked for and is not done yet. `None` before 19, and without `pg_read_all_stats`.
    pub promotion_requested: Option<bool>,
    /// The timeline of the last record replayed (`last_replayed_tli`). `None` before 19, and without `pg_read_all_stats`.
    pub replayed_timeline: Option<Timeline>,
    /// How long ago the piece of streamed WAL that is being replayed came to replay (`current_chunk_start_time`), in
    /// seconds by the standby's clock; 0 when all that was received is replayed. `None` before 19, without
    /// `pg_read_all_stats`, and when nothing was streamed since the server started.
    pub chunk_age_seconds: Option<f64>,
}

/// Queries that replay has ended since the server's statistics began, over all databases (`pg_stat_database_conflicts`).
/// Those that it waits for are not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conflicts {
    pub tablespace: u64,
    pub lock: u64,
    pub snapshot: u64,
    pub bufferpin: u64,
    pub deadlock: u64,
    /// Logical slots (16+). `None` before.
    pub logical_slot: Option<u64>,
}
