//! Entries of `pg_stat_statements`.

use std::sync::Arc;

use crate::core::time::ServerTime;

/// `pg_stat_statements(false)` and `pg_stat_statements_info`.
#[derive(Clone, Debug, PartialEq)]
pub struct Statements {
    pub rows: Vec<StatementRow>,
    /// Of the entries that were known, only those are told that have moved; none has gone.
    pub is_partial: bool,
    /// `pg_stat_statements_info.dealloc`: entries evicted since the last reset (extension 1.9+).
    pub evicted: Option<u64>,
    /// `pg_stat_statements_info.stats_reset` (extension 1.9+).
    pub reset_at: Option<ServerTime>,
}

/// One entry, its counters since `stats_since`. `datname` rather than `dbid`: the name is what people know.
#[derive(Clone, Debug, PartialEq)]
pub struct StatementRow {
    pub key: StatementKey,
    pub datname: Arc<str>,
    pub calls: u64,
    /// `total_exec_time`, in milliseconds as the view has it.
    pub exec_ms: f64,
    pub rows: u64,
    pub shared_blks_hit: u64,
    pub shared_blks_read: u64,
    pub shared_blks_dirtied: u64,
    pub shared_blks_written: u64,
    pub temp_blks_read: u64,
    pub temp_blks_written: u64,
    /// `stats_since` (extension 1.11+).
    pub since: Option<ServerTime>,
}

/// The key of an entry. Not permitted to see other users' statements means no queryid: such rows have `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatementKey {
    pub userid: u32,
    pub dbid: u32,
    pub queryid: Option<i64>,
    pub toplevel: bool,
}
