//! How fast WAL moves: whether a replica falls behind, holds, or catches up.

/// Rates over a window of some seconds, in bytes of WAL per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trend {
    /// What a primary writes (`pg_current_wal_flush_lsn()`). `None` on a standby, and before the window has two samples.
    pub write_rate: Option<f64>,
    /// What a standby receives (`pg_last_wal_receive_lsn()`). `None` on a primary, and where it is not known.
    pub receive_rate: Option<f64>,
    /// What a standby replays (`pg_last_wal_replay_lsn()`). `None` on a primary, and where it is not known.
    pub replay_rate: Option<f64>,
}
