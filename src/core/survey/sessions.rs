//! Client sessions.

/// Client sessions (`pg_stat_activity`, `backend_type = 'client backend'`; without the grant `pg_stat_database.numbackends`).
#[derive(Clone, Debug, PartialEq)]
pub struct Sessions {
    /// Count per state (`active`, `idle`, `idle in transaction`, ...). A session whose state is NULL counts as `unknown`:
    /// it is there, and without `pg_monitor` no more can be said.
    pub by_state: Vec<(String, u64)>,
    /// All client sessions, with known state or not.
    pub total: u64,
    /// `max_connections`.
    pub max_connections: u64,
    /// `superuser_reserved_connections` plus `reserved_connections` (16+).
    pub reserved_connections: u64,
}
