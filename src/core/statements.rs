//! Counters of `pg_stat_statements` that only go up, whatever is evicted or reset on the server. (To be completed.)

use std::sync::Arc;

/// Totals since this daemon began to watch the target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatementCounters {
    /// Sums over all statements of a database, sorted by name.
    pub databases: Vec<(Arc<str>, StatementTotals)>,
    /// The statements that took the most execution time since the last beat.
    pub top: Vec<TopStatement>,
    /// Entries that the server evicted (`pg_stat_statements_info.dealloc`). `None` before extension version 1.9.
    pub evictions: Option<u64>,
    /// Times that the server's counters were seen to start again.
    pub resets: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StatementTotals {
    pub calls: u64,
    pub exec_seconds: f64,
    pub rows: u64,
    pub shared_blks_hit: u64,
    pub shared_blks_read: u64,
    pub shared_blks_dirtied: u64,
    pub shared_blks_written: u64,
    pub temp_blks_read: u64,
    pub temp_blks_written: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TopStatement {
    pub datname: Arc<str>,
    pub queryid: i64,
    pub totals: StatementTotals,
    /// Execution time since the last beat, by which the top is chosen.
    pub recent_exec_seconds: f64,
}
