//! What the role may call and read, by the catalog: asked before anything is refused, and again until it is granted, since
//! to ask the catalog leaves nothing in the server's log, while each refusal leaves an error.

use super::{Optional, Refused};
use crate::collect::decode::{Fields, Rows, timestamp};
use crate::core::observation::PollFailure;
use crate::core::time::ServerTime;

/// Two statements: when the configuration was loaded, and what is not permitted.
///
/// Of a function that has several forms the one with a single argument is called. A view whose columns are granted one by
/// one is taken for permitted: `pg_subscription` is such a table.
pub(crate) const SQL: &str = "\
;SELECT pg_conf_load_time();\
SELECT 'function', proname FROM pg_proc WHERE proname IN (\
'current_setting', 'pg_blocking_pids', 'pg_control_checkpoint', 'pg_control_system', 'pg_current_wal_flush_lsn', \
'pg_current_wal_insert_lsn', 'pg_get_replication_slots', 'pg_get_userbyid', 'pg_get_wal_replay_pause_state', \
'pg_is_in_recovery', 'pg_is_wal_replay_paused', 'pg_last_wal_receive_lsn', 'pg_last_wal_replay_lsn', \
'pg_last_xact_replay_timestamp', 'pg_lock_status', 'pg_postmaster_start_time', 'pg_show_all_settings', 'pg_size_bytes', \
'pg_stat_get_activity', 'pg_stat_get_recovery', 'pg_stat_get_subscription', 'pg_stat_get_subscription_stats', \
'pg_stat_get_wal_receiver', 'pg_stat_get_wal_senders', 'pg_stat_statements', 'pg_stat_statements_info', \
'pg_walfile_name', 'aurora_db_instance_identifier', 'aurora_global_db_instance_status', 'aurora_global_db_status', \
'aurora_replica_status') AND (proname <> 'current_setting' OR pronargs = 1) AND pronamespace IN (\
SELECT 'pg_catalog'::regnamespace UNION ALL SELECT extnamespace FROM pg_extension WHERE extname = 'pg_stat_statements') \
AND NOT has_function_privilege(oid, 'EXECUTE') \
UNION ALL SELECT CASE relkind WHEN 'v' THEN 'view' ELSE 'table' END, relname FROM pg_class WHERE relname IN (\
'pg_available_extensions', 'pg_database', 'pg_replication_slots', 'pg_roles', 'pg_settings', 'pg_stat_archiver', \
'pg_stat_database_conflicts', 'pg_stat_progress_basebackup', 'pg_stat_recovery', 'pg_stat_replication', \
'pg_stat_subscription', 'pg_subscription', 'pg_subscription_rel') AND relnamespace = 'pg_catalog'::regnamespace \
AND NOT has_any_column_privilege(oid, 'SELECT') \
UNION ALL SELECT 'schema', nspname FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace \
WHERE extname = 'pg_stat_statements' AND NOT has_schema_privilege(extnamespace, 'USAGE')";

/// What the catalog says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Privileges {
    /// When the server last read its configuration. `None` where it was not asked.
    pub(crate) loaded_at: Option<ServerTime>,
    /// Empty where it was not asked, too.
    pub(crate) denied: Vec<Denied>,
}

/// Something that the role may not use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    kind: Box<str>,
    name: Box<str>,
}

/// The rows of the two statements of [`SQL`].
pub(crate) fn decode(loaded: &Rows<'_>, denied: &Rows<'_>) -> Result<Privileges, PollFailure> {
    let loaded = loaded.first().map(Vec::as_slice).unwrap_or_default();
    let loaded_at = Fields::new("pg_conf_load_time", loaded).optional("pg_conf_load_time", timestamp)?;
    let denied = denied.iter().map(|row| {
        let mut row = Fields::new("pg_proc", row);
        Ok(Denied { kind: row.required("kind", boxed)?, name: row.required("name", boxed)? })
    });
    Ok(Privileges { loaded_at, denied: denied.collect::<Result<_, _>>()? })
}

fn boxed(text: &str) -> Option<Box<str>> {
    Some(text.into())
}

impl Privileges {
    /// What can be done without.
    pub(crate) fn refused(&self) -> Refused {
        let mut refused = Refused::default();
        for denied in &self.denied {
            if let Some(optional) = Optional::named(&denied.name) {
                refused.insert(optional);
            }
        }
        refused
    }

    /// What the server would answer to `sql`, with an error in its log. `None`: an answer.
    pub(crate) fn refusal_of(&self, sql: &str) -> Option<PollFailure> {
        let sql = without_strings(sql);
        let denied = self.denied.iter().find(|denied| has_word(&sql, &denied.name))?;
        let reason = format!("permission denied for {} {}", denied.kind, denied.name);
        Some(PollFailure::Sql { sqlstate: "42501".to_owned(), reason })
    }
}

/// A statement without its strings: a name in one is looked for in the catalog, and nothing of that name is used.
fn without_strings(sql: &str) -> String {
    sql.split('\'').step_by(2).collect::<Vec<_>>().join("''")
}

/// Whether `name` stands in `sql` by itself, and not as a part of another name.
fn has_word(sql: &str, name: &str) -> bool {
    let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
    sql.match_indices(name)
        .any(|(at, _)| !sql[..at].ends_with(is_of_name) && !sql[at + name.len()..].starts_with(is_of_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_refused_for_a_name_in_it_and_not_for_a_part_of_one() {
        let denied = vec![
            vec![Some("function"), Some("pg_stat_statements")],
            vec![Some("schema"), Some("monitoring")],
            vec![Some("function"), Some("pg_control_system")],
        ];
        let privileges = decode(&vec![vec![Some("2026-11-20 10:11:12+00")]], &denied).expect("rows");
        let refusal = |sql: &str| privileges.refusal_of(sql).map(|failure| failure.to_string());
        assert_eq!(refusal("SELECT dealloc FROM \"s\".pg_stat_statements_info()"), None);
        let expected = "SQLSTATE 42501: permission denied for function pg_stat_statements";
        assert_eq!(refusal("SELECT 1 FROM \"s\".pg_stat_statements(false)").as_deref(), Some(expected));
        assert_eq!(refusal("SELECT oid FROM pg_proc WHERE proname = 'pg_stat_statements'"), None);
        let expected = "SQLSTATE 42501: permission denied for schema monitoring";
        assert_eq!(refusal("SELECT 1 FROM \"monitoring\".f()").as_deref(), Some(expected));
        assert_eq!(Optional::names(privileges.refused()), ["pg_control_system", "pg_stat_statements"]);
        assert_eq!(decode(&vec![vec![None]], &vec![]), Ok(Privileges::default()));
    }
}
