//! Base backups in progress.

/// One row of `pg_stat_progress_basebackup`. Without `pg_monitor` all is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BaseBackup {
    /// The view's words; `other` for one that this version does not know.
    pub phase: Option<&'static str>,
    /// `backup_streamed`, in bytes.
    pub streamed_bytes: Option<u64>,
    /// `backup_total`, in bytes. `None` also when no estimate was asked for, and before it is made.
    pub total_bytes: Option<u64>,
}
