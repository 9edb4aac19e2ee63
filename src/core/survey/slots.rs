//! Replication slots.

use crate::core::wal::Lsn;

#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    pub name: String,
    /// `physical` or `logical`.
    pub slot_type: String,
    pub active: bool,
    /// The process that reads from it. `None` while none does.
    pub active_pid: Option<i32>,
    pub restart_lsn: Option<Lsn>,
    pub confirmed_flush_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved`, `lost`. `None` when the slot keeps no WAL yet.
    pub wal_status: Option<String>,
    /// `safe_wal_size`. `None` when there is no limit.
    pub safe_wal_size: Option<i64>,
    /// WAL kept for the slot: this server's end of WAL (flushed, or replayed on a standby) less `restart_lsn`.
    pub retained_bytes: Option<u64>,
}
