//! How a server is set up: asked by `pgvigil check` alone, never by the daemon. Each matter is a message of its own, and
//! none can leave an error in the log of a server that has the view at all.

use std::collections::{BTreeMap, BTreeSet};

use crate::collect::decode::{Fields, Rows, boolean, name, number, timestamp};
use crate::core::checkup::{Archiver, Checkup, ExtensionState, RoleState, SlotState, StatementsRights};
use crate::core::observation::PollFailure;

/// One matter.
pub(crate) struct Topic {
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
    pub(crate) decode: fn(&[Rows<'_>], &mut Checkup) -> Result<(), PollFailure>,
}

/// The view shows only what the role may see, and leaves out what the server does not have. What a role's or a database's
/// setting makes of it says nothing of the server.
const SETTINGS: &str = "\
SELECT name, setting, source = 'command line' FROM pg_settings WHERE name IN ('allow_alter_system', \
'hot_standby_feedback', 'max_connections', 'max_locks_per_transaction', 'max_prepared_transactions', \
'max_slot_wal_keep_size', 'max_standby_streaming_delay', 'max_wal_senders', 'max_worker_processes', \
'pg_stat_statements.max', 'pg_stat_statements.track', 'recovery_target', 'recovery_target_lsn', 'recovery_target_name', \
'recovery_target_time', 'recovery_target_xid', 'shared_preload_libraries', 'synchronous_standby_names', \
'track_activities', 'track_counts', 'track_io_timing', 'wal_keep_size', 'wal_level', 'wal_receiver_status_interval') \
AND source NOT IN ('database', 'user', 'database user', 'client', 'interactive', 'session')";

/// Of what the extension brought, wherever it was created. Nothing here needs a privilege.
const STATEMENTS_RIGHTS: &str = "\
SELECT n.nspname, has_schema_privilege(n.oid, 'USAGE'), \
(SELECT has_function_privilege(p.oid, 'EXECUTE') FROM pg_proc p \
WHERE p.pronamespace = n.oid AND p.proname = 'pg_stat_statements' AND p.pronargs = 1), \
(SELECT has_function_privilege(p.oid, 'EXECUTE') FROM pg_proc p \
WHERE p.pronamespace = n.oid AND p.proname = 'pg_stat_statements_info' AND p.pronargs = 0), \
(SELECT has_table_privilege(c.oid, 'SELECT') FROM pg_class c \
WHERE c.relnamespace = n.oid AND c.relname = 'pg_stat_statements_info') \
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'";

const ROLE: &str = "\
SELECT rolsuper, CASE WHEN isfinite(rolvaliduntil) THEN rolvaliduntil END, clock_timestamp(), \
CASE WHEN rolconnlimit >= 0 THEN rolconnlimit END FROM pg_roles WHERE rolname = current_user";

const EXTENSION: &str = "\
SELECT default_version, installed_version FROM pg_available_extensions WHERE name = 'pg_stat_statements'";

const ARCHIVER: &str = "SELECT failed_count, last_archived_time, last_failed_time FROM pg_stat_archiver";

const SLOTS: &str = "\
SELECT slot_name, slot_type = 'logical', active, false, wal_status = 'lost', \
greatest(age(xmin), age(catalog_xmin)), restart_lsn IS NULL AND wal_status IS NULL FROM pg_replication_slots";

/// `synced` came with 17. It stays true after a promotion, which makes a copy a slot as others are.
const SLOTS_17: &str = "\
SELECT slot_name, slot_type = 'logical', active, synced AND pg_is_in_recovery(), wal_status = 'lost', \
greatest(age(xmin), age(catalog_xmin)), restart_lsn IS NULL AND wal_status IS NULL FROM pg_replication_slots";

const CONFLICTS: &str = "\
SELECT sum(confl_tablespace + confl_lock + confl_snapshot + confl_bufferpin + confl_deadlock) \
FROM pg_stat_database_conflicts";

const FEEDBACK: &str = "SELECT max(age(backend_xmin)) FROM pg_stat_replication";

/// What to ask of a server of this version.
pub(crate) fn topics(version_num: u32) -> [Topic; 8] {
    let slots_sql = if version_num >= 170_000 { SLOTS_17 } else { SLOTS };
    [
        Topic { name: "settings", sql: SETTINGS, decode: settings },
        Topic { name: "privileges", sql: STATEMENTS_RIGHTS, decode: statements_rights },
        Topic { name: "role", sql: ROLE, decode: role },
        Topic { name: "extension", sql: EXTENSION, decode: extension },
        Topic { name: "archiver", sql: ARCHIVER, decode: archiver },
        Topic { name: "slots", sql: slots_sql, decode: slots },
        Topic { name: "conflicts", sql: CONFLICTS, decode: conflicts },
        Topic { name: "feedback", sql: FEEDBACK, decode: feedback },
    ]
}

fn rows<'a, 'b>(view: &'static str, statements: &'b [Rows<'a>]) -> Result<&'b Rows<'a>, PollFailure> {
    statements.first().ok_or_else(|| Fields::new(view, &[]).failure("*", "no result"))
}

/// The one row that there must be.
fn row<'a, 'b>(view: &'static str, statements: &'b [Rows<'a>]) -> Result<Fields<'a, 'b>, PollFailure> {
    let first = rows(view, statements)?.first();
    first.map(|row| Fields::new(view, row)).ok_or_else(|| Fields::new(view, &[]).failure("*", "no row"))
}

fn owned(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn settings(statements: &[Rows<'_>], checkup: &mut Checkup) -> Result<(), PollFailure> {
    let (mut settings, mut on_command_line) = (BTreeMap::new(), BTreeSet::new());
    for row in rows("pg_settings", statements)? {
        let mut row = Fields::new("pg_settings", row);
        let name = row.required("name", owned)?;
        if let Some(value) = row.text("setting")? {
            settings.insert(name.clone(), value.to_owned());
        }
        if row.required("source", boolean)? {
            on_command_line.insert(name);
        }
    }
    checkup.settings = Some(settings);
    checkup.on_command_line = on_command_line;
    Ok(())
}

fn statements_rights(statements: &[Rows<'_>], checkup: &mut Checkup) -> Result<(), PollFailure> {
    // No row: the extension is not created here.
    let Some(row) = rows("pg_extension", statements)?.first() else { return Ok(()) };
    let mut row = Fields::new("pg_extension", row);
    checkup.statements_rights = Some(StatementsRights {
        schema: row.required("nspname", owned)?,
        uses_schema: row.required("has_schema_privilege", boolean)?,
        reads_rows: row.optional("has_function_privilege", boolean)? == Some(true),
        executes_info: row.optional("has_function_privilege", boolean)?,
        selects_info: row.optional("has_table_privilege", boolean)?,
    });
    Ok(())
}

fn role(statements: &[Rows<'_>], checkup: &mut Checkup) -> Result<(), PollFailure> {
    let mut row = row("pg_roles", statements)?;
    checkup.role = Some(RoleState {
        is_superuser: row.required("rolsuper", boolean)?,
        valid_until: row.optional("rolvaliduntil", timestamp)?,
        clock: row.required("clock_timestamp", timestamp)?,
        connection_limit: row.optional("rolconnlimit", number)?,
    });
    Ok(())
}

fn extension(statements: &[Rows<'_>], checkup: &mut Checkup) -> Result<(), PollFailure> {
    // No row: its files are not installed, which the introduction tells in its own way.
    let Some(row) = rows("pg_available_extensions", statements)?.first() else { return Ok(()) };
    let mut row = Fields::new("pg_available_extensions", row);
    checkup.extension = Some(ExtensionState {
        default_version: row.required("default_version", owned)?,
        installed_version: row.optional("installed_version", owned)?,
    });
    Ok(())
}

fn archiver(statements: &[Rows<'_>], checkup: &mut Checkup) -> Result<(), PollFailure> {
    let mut row = row("pg_stat_archiver", statements)?;
    checkup.archiver = Some(Archiver {
        failed_count: row.required("failed_count", number)?,
        last_archived_at: row.optional("last_archived_time", timestamp)?,
        last_failed_at: row.optional("last_failed_time", timestamp)?,
    });
    Ok(())
}

fn slots(statements: &[Rows<'_>], checkup: &mut Checkup) -> Result<(), PollFailure> {
    let slot = |row: &Vec<Option<&str>>| {
        let mut row = Fields::new("pg_replication_slots", row);
        let name = row.required("slot_name", name)?;
        let is_logical = row.required("slot_type", boolean)?;
        let active = row.required("active", boolean)?;
        let is_copy = row.required("synced", boolean)?;
        // NULL while the slot keeps no WAL.
        let is_lost = row.optional("wal_status", boolean)? == Some(true);
        let xmin_age = row.optional("xmin", number)?;
        let has_no_position = row.required("restart_lsn", boolean)?;
        // PostgreSQL's own for conflicts of subscriptions (19+) keeps rows and never WAL.
        let is_unused = has_no_position && !is_logical && !active && xmin_age.is_none();
        Ok(SlotState { name, is_logical, active, is_copy, is_unused, is_lost, xmin_age })
    };
    checkup.slots = Some(rows("pg_replication_slots", statements)?.iter().map(slot).collect::<Result<_, _>>()?);
    Ok(())
}

fn conflicts(statements: &[Rows<'_>], checkup: &mut Checkup) -> Result<(), PollFailure> {
    checkup.cancelled_queries = row("pg_stat_database_conflicts", statements)?.optional("sum", number)?;
    Ok(())
}

fn feedback(statements: &[Rows<'_>], checkup: &mut Checkup) -> Result<(), PollFailure> {
    checkup.oldest_feedback = row("pg_stat_replication", statements)?.optional("backend_xmin", number)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::ServerTime;

    fn read(name: &str, answer: &Rows<'_>) -> Result<Checkup, PollFailure> {
        let topic = topics(180_000).into_iter().find(|topic| topic.name == name).expect("a topic");
        let mut checkup = Checkup::default();
        (topic.decode)(std::slice::from_ref(answer), &mut checkup).map(|()| checkup)
    }

    #[test]
    fn what_is_null_is_none_and_what_is_not_there_is_absent() {
        let role = read("role", &vec![vec![Some("f"), None, Some("2026-11-20 10:00:00+00"), None]]).unwrap().role;
        let clock = ServerTime::from_unix_micros(1_795_168_800_000_000);
        let expect = RoleState { is_superuser: false, valid_until: None, clock, connection_limit: None };
        assert_eq!(role, Some(expect));
        let slot = vec![Some("s"), Some("t"), Some("f"), Some("f"), None, Some("12"), Some("f")];
        let slots = read("slots", &vec![slot]).unwrap().slots.unwrap();
        assert!(!slots[0].is_unused);
        for (kind, active, xmin, expect) in
            [("f", "f", None, true), ("f", "t", None, false), ("f", "f", Some("3"), false), ("t", "f", None, false)]
        {
            let slot = vec![Some("s"), Some(kind), Some(active), Some("f"), None, xmin, Some("t")];
            assert_eq!(read("slots", &vec![slot]).unwrap().slots.unwrap()[0].is_unused, expect);
        }
        assert_eq!((slots[0].is_logical, slots[0].is_lost, slots[0].xmin_age), (true, false, Some(12)));
        let settings = [("wal_level", "replica", "f"), ("max_connections", "100", "t")];
        let settings: Rows<'_> =
            settings.iter().map(|(name, value, is_fixed)| vec![Some(*name), Some(*value), Some(*is_fixed)]).collect();
        let checkup = read("settings", &settings).unwrap();
        assert_eq!(checkup.settings.unwrap()["wal_level"], "replica");
        assert_eq!(checkup.on_command_line, BTreeSet::from(["max_connections".to_owned()]));
        let rights = vec![vec![Some("my schema"), Some("t"), Some("f"), None, None]];
        let rights = read("privileges", &rights).unwrap().statements_rights.unwrap();
        assert_eq!((rights.schema.as_str(), rights.reads_rows, rights.executes_info), ("my schema", false, None));
        assert_eq!(read("privileges", &vec![]).unwrap().statements_rights, None);
        assert_eq!(read("extension", &vec![]).unwrap().extension, None);
        assert_eq!(read("feedback", &vec![vec![None]]).unwrap().oldest_feedback, None);
        assert_eq!(read("slots", &vec![]).unwrap().slots, Some(vec![]));
        assert!(read("role", &vec![]).is_err());
        assert!(read("archiver", &vec![vec![None, None, None]]).is_err());
    }
}
