//! What only `pgvigil check` asks of a server: how it is set up. NULL stays `None`, and nothing is derived.
//!
//! Each matter is asked in a message of its own: one that is refused costs no other, and is among
//! [`Checkup::failures`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::observation::PollFailure;
use super::time::ServerTime;

/// The answers of one server. A matter is `None` when it could not be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkup {
    /// `pg_settings`, those that matter here: name and value in the setting's own unit. One that the server does not have,
    /// or does not show, is not among them, nor is one whose value is this session's alone (a role's or a database's).
    pub settings: Option<BTreeMap<String, String>>,
    /// Those of them that the server was started with, which no configuration changes.
    pub on_command_line: BTreeSet<String>,
    /// What the role may do with `pg_stat_statements`. `None` also where the extension is not created.
    pub statements_rights: Option<StatementsRights>,
    pub role: Option<RoleState>,
    pub extension: Option<ExtensionState>,
    pub archiver: Option<Archiver>,
    /// `pg_replication_slots`.
    pub slots: Option<Vec<SlotState>>,
    /// `pg_stat_database_conflicts`: queries cancelled on this standby since its statistics were reset. 0 on a primary.
    pub cancelled_queries: Option<u64>,
    /// `age(backend_xmin)` of the standby here that holds back the oldest row versions. `None` also without feedback, and
    /// without `pg_monitor`.
    pub oldest_feedback: Option<u64>,
    /// The matters that were asked about in vain, each with the reason.
    pub failures: Vec<(&'static str, PollFailure)>,
    /// The server's own certificate. `None` without TLS, and for one that cannot be read.
    pub certificate: Option<PeerCertificate>,
    /// RDS Proxy is in between, to which no settings are sent.
    pub by_rds_proxy: bool,
}

/// `pg_roles` of the role that we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleState {
    pub is_superuser: bool,
    /// `rolvaliduntil`: when its password expires. `None`: never.
    pub valid_until: Option<ServerTime>,
    /// `clock_timestamp()` of the same answer.
    pub clock: ServerTime,
    /// `rolconnlimit`. `None`: no limit.
    pub connection_limit: Option<u32>,
}

/// `pg_available_extensions` of `pg_stat_statements`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtensionState {
    pub default_version: String,
    /// `None`: not created in this database.
    pub installed_version: Option<String>,
}

/// `has_*_privilege` on what statements are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementsRights {
    /// The extension's schema.
    pub schema: String,
    /// USAGE on the schema.
    pub uses_schema: bool,
    /// EXECUTE on `pg_stat_statements(boolean)`.
    pub reads_rows: bool,
    /// EXECUTE on the function `pg_stat_statements_info()`. `None` where there is none (before extension 1.9).
    pub executes_info: Option<bool>,
    /// SELECT on the view `pg_stat_statements_info`. `None` where there is none.
    pub selects_info: Option<bool>,
}

/// `pg_stat_archiver`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Archiver {
    pub failed_count: u64,
    pub last_archived_at: Option<ServerTime>,
    pub last_failed_at: Option<ServerTime>,
}

/// A row of `pg_replication_slots`, as far as it is a matter of setting up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    pub name: String,
    pub is_logical: bool,
    pub active: bool,
    /// Kept in step with the primary's by a standby itself (17+): nothing uses it, or can drop it, before a promotion.
    pub is_copy: bool,
    /// A physical slot that nothing has ever read from: it keeps no WAL.
    pub is_unused: bool,
    /// Its WAL is gone (`wal_status`).
    pub is_lost: bool,
    /// `age()` of its `xmin` or `catalog_xmin`, the older one: row versions that vacuum must keep.
    pub xmin_age: Option<u64>,
}

/// The certificate that a server showed in the TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// `notAfter`.
    pub expires_at: SystemTime,
    pub verified: Verified,
}

/// What the client verifies of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    Nothing,
    /// Who issued it.
    Chain,
    /// And that it is for the host connected to.
    ChainAndName,
}
