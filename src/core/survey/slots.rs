//! Replication slots.

use crate::core::time::ServerTime;
use crate::core::wal::Lsn;

/// One slot of `pg_get_replication_slots()`. Words that this version does not know read `other`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slot {
    pub name: String,
    /// `physical` or `logical`.
    pub slot_type: &'static str,
    pub active: bool,
    /// The WAL sender (or other session) that uses it. `None` while inactive.
    pub active_pid: Option<i32>,
    /// It ends with its session.
    pub temporary: bool,
    pub restart_lsn: Option<Lsn>,
    /// A logical slot's: up to where its consumer has confirmed.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved`, `lost`. `None` when the slot keeps no WAL yet.
    pub wal_status: Option<&'static str>,
    /// WAL that can still be written before the slot may be invalidated, in bytes; negative when it may be already.
    /// A primary says it (`safe_wal_size`); a standby says it as if it stood at 0/0, so there it is worked out from the
    /// settings. `None` when there is no limit (`max_slot_wal_keep_size`), the slot is lost, or it keeps no WAL yet.
    pub safe_wal_size: Option<i64>,
    /// WAL kept for the slot: this server's end of WAL (flushed; on a standby received or replayed, whichever is more) less
    /// `restart_lsn`. `None` for one that is lost, or keeps no WAL yet.
    pub retained_bytes: Option<u64>,
    /// WAL that a logical slot's consumer has not confirmed: the end of WAL (flushed, or replayed on a standby) less
    /// `confirmed_flush_lsn`.
    pub unconfirmed_bytes: Option<u64>,
    /// `age(xmin)`, in transactions: how far back the slot keeps vacuum from removing rows.
    pub xmin_age: Option<i64>,
    /// `age(catalog_xmin)`: the same for rows of system catalogs.
    pub catalog_xmin_age: Option<i64>,
    /// A logical slot's database and output plugin.
    pub datname: Option<String>,
    pub plugin: Option<String>,
    /// 14+.
    pub two_phase: Option<bool>,
    /// 16+, of a logical slot: invalidated because it conflicted with recovery.
    pub conflicting: Option<bool>,
    /// 17+: `wal_removed`, `rows_removed`, `wal_level_insufficient`, `idle_timeout` (18+). `None` while it is valid.
    pub invalidation_reason: Option<&'static str>,
    /// 17+: since when nothing uses it, by the server's clock. `None` while something does.
    pub inactive_since: Option<ServerTime>,
    /// 17+: whether standbys are to have a copy.
    pub failover: Option<bool>,
    /// 17+: whether it is such a copy, or was one before this server was promoted.
    pub synced: Option<bool>,
    /// Whether it is a copy that the server keeps in step with its primary's slot: `synced`, and in recovery. Nothing can
    /// read from it or drop it before a promotion.
    pub is_copy: bool,
    /// 19+: why the last attempt to bring a copy up to date was given up: `wal_or_rows_removed`, `wal_not_flushed`,
    /// `no_consistent_snapshot`, `slot_invalidated`. `None` when it was not.
    pub sync_skip_reason: Option<&'static str>,
}

impl Slot {
    /// Why the slot can be used no more. `None` while it can. Before 17 a conflict with recovery is told without its
    /// kind, and before 16 not at all, but as `wal_removed`.
    pub fn invalidation(&self) -> Option<&'static str> {
        match (self.invalidation_reason, self.conflicting, self.wal_status) {
            (Some(reason), _, _) => Some(reason),
            (None, Some(true), _) => Some("conflict"),
            (None, _, Some("lost")) => Some("wal_removed"),
            (None, _, _) => None,
        }
    }
}
