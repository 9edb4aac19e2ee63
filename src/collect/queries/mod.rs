//! All the SQL there is, and its rows as facts. Knows no session, no loop and no retry.
//!
//! Every question is one simple-query message of one or more statements: one round trip, text results, and nothing
//! prepared, so that a pooler in transaction mode may stand in between. What runs each second is written for the
//! server's sake: each function called costs it a few microseconds, a view that joins costs hundreds.
//! Functions that fail in the wrong role are called under `CASE`, in the statement that also tells the role.

use crate::core::observation::PollFailure;

pub(crate) mod aurora;
pub(crate) mod console;
pub(crate) mod doctor;
pub(crate) mod identity;
pub(crate) mod positions;
pub(crate) mod privileges;
pub(crate) mod replay_wait;
pub(crate) mod survey;

/// What a server may refuse while all else works. Left out of the questions once it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Optional {
    SystemIdentifier,
    Checkpoint,
    WalSenders,
    WalReceiver,
    ReceiveLsn,
    ReplayLsn,
    ReplayTimestamp,
    /// `pg_settings`, for which `current_setting()` stands in.
    Settings,
    StatementsInfo,
    Statements,
    Locks,
    AuroraInstance,
    AuroraStatus,
    /// What the catalog says of our privileges.
    Privileges,
}

impl Optional {
    /// Each with the name that the server's message has when it refuses. A name that begins another comes after it.
    const NAMES: [(Self, &'static str); 18] = [
        (Self::SystemIdentifier, "pg_control_system"),
        (Self::Checkpoint, "pg_control_checkpoint"),
        (Self::WalSenders, "pg_stat_get_wal_senders"),
        (Self::WalReceiver, "pg_stat_get_wal_receiver"),
        (Self::ReceiveLsn, "pg_last_wal_receive_lsn"),
        (Self::ReplayLsn, "pg_last_wal_replay_lsn"),
        (Self::ReplayTimestamp, "pg_last_xact_replay_timestamp"),
        (Self::Settings, "pg_settings"),
        (Self::Settings, "pg_show_all_settings"),
        (Self::StatementsInfo, "pg_stat_statements_info"),
        (Self::Statements, "pg_stat_statements"),
        (Self::Locks, "pg_lock_status"),
        (Self::AuroraInstance, "aurora_db_instance_identifier"),
        (Self::AuroraStatus, "aurora_replica_status"),
        (Self::Privileges, "has_function_privilege"),
        (Self::Privileges, "has_any_column_privilege"),
        (Self::Privileges, "has_schema_privilege"),
        (Self::Privileges, "pg_conf_load_time"),
    ];

    /// What `failure` says is refused. `None` when it is no refusal, or one of something that cannot be left out.
    pub(crate) fn refused_by(failure: &PollFailure) -> Option<Self> {
        let PollFailure::Sql { reason, .. } = failure else { return None };
        if !is_refusal(failure) {
            return None;
        }
        Self::NAMES.iter().find(|(_, name)| reason.contains(name)).map(|(optional, _)| *optional)
    }

    /// All of a set, by name.
    pub(crate) fn names(refused: Refused) -> Vec<&'static str> {
        let is_first = |place: usize, optional| Self::NAMES[..place].iter().all(|(earlier, _)| *earlier != optional);
        let names = Self::NAMES.iter().enumerate().filter(|(place, (optional, _))| is_first(*place, *optional));
        names.filter(|(_, (optional, _))| refused.contains(*optional)).map(|(_, (_, name))| *name).collect()
    }

    /// The one with exactly this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(optional, _)| *optional)
    }

    pub(crate) fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(optional, _)| *optional == self).map_or("", |(_, name)| name)
    }
}

/// Not supported here (0A000), not permitted (42501), not there (42883), not in this state (55000), or a name that has no
/// form in our encoding (22021, 22P05): the same question would be refused again, and each time leave an error in the
/// server's log.
pub(crate) fn is_refusal(failure: &PollFailure) -> bool {
    matches!(failure, PollFailure::Sql { sqlstate, .. }
        if matches!(sqlstate.as_str(), "0A000" | "42501" | "42883" | "55000" | "22021" | "22P05"))
}

/// A text of the answer that is not of the database's encoding (22021), or has no form in ours (22P05).
pub(crate) fn is_unencodable(failure: &PollFailure) -> bool {
    matches!(failure, PollFailure::Sql { sqlstate, .. } if matches!(sqlstate.as_str(), "22021" | "22P05"))
}

/// 55000 is also what a function says when the server changed its role in between.
pub(crate) fn is_wrong_role(failure: &PollFailure) -> bool {
    matches!(failure, PollFailure::Sql { sqlstate, .. } if sqlstate == "55000")
}

/// A set of [`Optional`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refused(u32);

impl Refused {
    pub(crate) fn contains(self, optional: Optional) -> bool {
        self.0 & (1 << optional as u8) != 0
    }

    pub(crate) fn insert(&mut self, optional: Optional) {
        self.0 |= 1 << optional as u8;
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What either has.
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_what_to_leave_out() {
        let check = |sqlstate: &str, reason: &str, expect| {
            let failure = PollFailure::Sql { sqlstate: sqlstate.to_owned(), reason: reason.to_owned() };
            assert_eq!(Optional::refused_by(&failure), expect, "{reason}");
        };
        check("42501", "permission denied for function pg_control_system", Some(Optional::SystemIdentifier));
        check(
            "0A000",
            "Function pg_last_xact_replay_timestamp() is currently not supported for Aurora",
            Some(Optional::ReplayTimestamp),
        );
        check("42501", "permission denied for view pg_stat_statements_info", Some(Optional::StatementsInfo));
        check("55000", "pg_stat_statements must be loaded via shared_preload_libraries", Some(Optional::Statements));
        check("55000", "recovery is in progress", None);
        check("57014", "canceling statement in pg_control_system", None);
    }

    #[test]
    fn what_is_refused_is_remembered_one_by_one() {
        let mut refused = Refused::default();
        for (optional, name) in Optional::NAMES {
            if Optional::names(refused).iter().any(|first| *first == optional.name()) {
                continue;
            }
            assert!(!refused.contains(optional));
            refused.insert(optional);
            assert!(refused.contains(optional));
            assert!(Optional::names(refused).contains(&name));
        }
    }
}
