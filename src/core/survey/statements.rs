//! Entries of `pg_stat_statements`.

use std::sync::Arc;

use crate::core::time::ServerTime;

/// `pg_stat_statements(false)` and `pg_stat_statements_info`.
#[derive(Clone, Debug, PartialEq)]
pub struct Statements {
    pub rows: Vec<StatementRow>,
    pub told: Told,
    /// `pg_stat_statements_info.dealloc`: entries evicted since the last reset (extension 1.9+).
    pub evicted: Option<u64>,
    /// `pg_stat_statements_info.stats_reset` (extension 1.9+).
    pub reset_at: Option<ServerTime>,
}

/// Which entries an answer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    All,
    /// Of those that were known only the ones that have moved, and all of this slice ([`StatementKey::slice`]).
    Moved {
        slice: u8,
    },
}

/// One entry, its counters since `stats_since`. `datname` rather than `dbid`: the name is what people know.
#[derive(Clone, Debug, PartialEq)]
pub struct StatementRow {
    pub key: StatementKey,
    pub datname: Arc<str>,
    pub calls: u64,
    /// `total_exec_time`, in whole microseconds.
    pub exec_us: u64,
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

impl StatementKey {
    pub const SLICES: u8 = 8;

    /// All entries in as many parts of about one size: a queryid is a hash. `None` where it may not be seen.
    pub fn slice(&self) -> Option<u8> {
        self.queryid.map(|queryid| queryid.rem_euclid(i64::from(Self::SLICES)) as u8)
    }
}
