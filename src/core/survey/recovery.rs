//! How a standby gets its WAL, and whom its replay had to end.

/// Settings of a standby's recovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoverySettings {
    /// `primary_slot_name`. `None` when it uses none.
    pub slot_name: Option<String>,
    /// `restore_command` is set: it also takes WAL from an archive.
    pub restores: bool,
    /// `primary_conninfo` is set. `None` where the role may not read it (no `pg_monitor`).
    pub streams: Option<bool>,
    /// A promotion was asked for and is not done yet. `None` before 19, and without `pg_read_all_stats`.
    pub promotion_requested: Option<bool>,
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
