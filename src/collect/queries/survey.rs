//! The slow facts: sessions, slots, statements. Asked each `poll.slow_interval`.

use std::collections::HashMap;
use std::sync::Arc;

use super::identity::Introduction;
use super::{Optional, Refused};
use crate::collect::decode::{Fields, Rows, boolean, lsn, number, setting_seconds, timestamp};
use crate::core::observation::{
    Flavor, PollFailure, Sessions, Slot, StatementKey, StatementRow, Statements, StatementsAccess, SurveyFacts,
};
use crate::core::wal::Lsn;

/// Sessions, from the function below `pg_stat_activity`: the view's joins cost five times as much. Without the grant, of
/// other users' sessions only the database is shown: those with one are counted, state unknown (so are then the few
/// background processes that belong to a database).
const SESSIONS: &str = "SELECT state, count(*) FROM pg_stat_get_activity(NULL) \
                        WHERE backend_type = 'client backend' OR backend_type IS NULL AND datid IS NOT NULL GROUP BY state";

const SLOTS: &str = "SELECT slot_name, slot_type, active, restart_lsn, confirmed_flush_lsn, wal_status, safe_wal_size \
                     FROM pg_get_replication_slots()";

/// The same in every database, so one name needs no join per entry.
const DATABASES: &str = "SELECT oid, datname FROM pg_database";

/// Where AWS keeps its own bookkeeping on RDS: its statements are nobody's but theirs.
const RDS_ADMIN: &str = "rdsadmin";

/// What one slow poll asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    about: &'a Introduction,
    extension: Option<Extension<'a>>,
}

/// `pg_stat_statements` as this database has it.
#[derive(Clone, Copy, Debug)]
struct Extension<'a> {
    schema: &'a str,
    version: (u32, u32),
    info: bool,
}

impl<'a> Question<'a> {
    /// `statements`: whether to ask for them, where they can be read.
    pub(crate) fn new(about: &'a Introduction, statements: bool, refused: Refused) -> Result<Self, PollFailure> {
        let extension = match &about.identity.statements {
            StatementsAccess::Readable { schema, version } if statements && !refused.contains(Optional::Statements) => {
                let version = extension_version(version).ok_or_else(|| {
                    Fields::new("pg_extension", &[]).failure("extversion", format!("not a version: {version:?}"))
                })?;
                let info = version >= (1, 9) && !refused.contains(Optional::StatementsInfo);
                Some(Extension { schema, version, info })
            }
            _ => None,
        };
        Ok(Self { about, extension })
    }

    pub(crate) fn sql(self) -> String {
        // Aurora has no WAL of its own, and raises an error when asked for its end.
        let end_of_wal = match self.about.identity.flavor {
            Flavor::Aurora => "NULL",
            Flavor::PostgreSql | Flavor::Rds => {
                "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END"
            }
        };
        let mut sql = format!("SELECT {end_of_wal}, current_setting('recovery_min_apply_delay');{SESSIONS};{SLOTS}");
        if let Some(extension) = self.extension {
            sql.push(';');
            sql.push_str(DATABASES);
            if extension.info {
                sql.push_str(";SELECT dealloc, stats_reset FROM ");
                sql.push_str(&extension.qualified("pg_stat_statements_info"));
            }
            sql.push(';');
            sql.push_str(&extension.rows_sql());
        }
        sql
    }

    pub(crate) fn decode(self, statements: &[Rows<'_>]) -> Result<SurveyFacts, PollFailure> {
        let mut statements = statements.iter();
        let mut next = |view: &'static str| {
            statements.next().ok_or_else(|| Fields::new(view, &[]).failure("*", "the result is missing"))
        };
        let server = next("server")?.first().map(Vec::as_slice).unwrap_or_default();
        let mut server = Fields::new("server", server);
        let end_of_wal = server.optional("end of WAL", lsn)?;
        let apply_delay_seconds = server.required("recovery_min_apply_delay", setting_seconds)?;
        let sessions = sessions(self.about, next("pg_stat_activity")?)?;
        let slots = next("pg_replication_slots")?;
        let slots = slots.iter().map(|row| slot(row, end_of_wal)).collect::<Result<_, _>>()?;
        let statements = match self.extension {
            Some(extension) => {
                let databases = databases(next("pg_database")?)?;
                let (mut evicted, mut reset_at) = (None, None);
                if extension.info {
                    let info = next("pg_stat_statements_info")?.first().map(Vec::as_slice).unwrap_or_default();
                    let mut info = Fields::new("pg_stat_statements_info", info);
                    evicted = Some(info.required("dealloc", number)?);
                    reset_at = info.optional("stats_reset", timestamp)?;
                }
                let skip = (self.about.identity.flavor != Flavor::PostgreSql).then_some(RDS_ADMIN);
                let rows = next("pg_stat_statements")?
                    .iter()
                    .map(|row| extension.row(row, &databases))
                    .filter(|row| !matches!(row, Ok(row) if Some(&*row.datname) == skip))
                    .collect::<Result<_, _>>()?;
                Some(Statements { rows, evicted, reset_at })
            }
            None => None,
        };
        Ok(SurveyFacts { sessions, slots, statements, apply_delay_seconds })
    }
}

impl Extension<'_> {
    fn qualified(self, name: &str) -> String {
        format!("\"{}\".{name}", self.schema.replace('"', "\"\""))
    }

    /// The columns differ by the extension's version: a server can be upgraded and its extensions not.
    fn rows_sql(self) -> String {
        let exec_time = if self.version >= (1, 8) { "total_exec_time" } else { "total_time" };
        let toplevel = if self.version >= (1, 9) { "toplevel" } else { "true" };
        let since = if self.version >= (1, 11) { "stats_since" } else { "NULL" };
        // `false`: without the query texts, which are a file as large as the disk allows.
        format!(
            "SELECT userid, dbid, queryid, {toplevel}, calls, {exec_time}, rows, shared_blks_hit, shared_blks_read, \
             shared_blks_dirtied, shared_blks_written, temp_blks_read, temp_blks_written, {since} FROM {}(false)",
            self.qualified("pg_stat_statements")
        )
    }

    fn row(self, row: &[Option<&str>], databases: &HashMap<u32, Arc<str>>) -> Result<StatementRow, PollFailure> {
        let mut row = Fields::new("pg_stat_statements", row);
        let userid = row.required("userid", number)?;
        let dbid = row.required("dbid", number)?;
        let queryid = row.optional("queryid", number)?;
        let toplevel = row.required("toplevel", boolean)?;
        Ok(StatementRow {
            key: StatementKey { userid, dbid, queryid, toplevel },
            datname: databases.get(&dbid).cloned().unwrap_or_else(|| Arc::from(DROPPED)),
            calls: row.required("calls", number)?,
            exec_ms: row.required("total_exec_time", number)?,
            rows: row.required("rows", number)?,
            shared_blks_hit: row.required("shared_blks_hit", number)?,
            shared_blks_read: row.required("shared_blks_read", number)?,
            shared_blks_dirtied: row.required("shared_blks_dirtied", number)?,
            shared_blks_written: row.required("shared_blks_written", number)?,
            temp_blks_read: row.required("temp_blks_read", number)?,
            temp_blks_written: row.required("temp_blks_written", number)?,
            since: row.optional("stats_since", timestamp)?,
        })
    }
}

/// Stands for the name of a database that is no more: its entries outlive it.
const DROPPED: &str = "(dropped)";

/// `1.10` is later than `1.9`.
fn extension_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((number(major)?, number(minor)?))
}

fn sessions(about: &Introduction, rows: &Rows<'_>) -> Result<Sessions, PollFailure> {
    let mut by_state = Vec::with_capacity(rows.len());
    for row in rows {
        let mut row = Fields::new("pg_stat_activity", row);
        let state = row.text("state")?.unwrap_or("unknown").to_owned();
        by_state.push((state, row.required("count", number::<u64>)?));
    }
    by_state.sort();
    Ok(Sessions {
        total: by_state.iter().fold(0, |total, (_, count)| total.saturating_add(*count)),
        by_state,
        max_connections: about.max_connections,
        reserved_connections: about.reserved_connections,
    })
}

fn slot(row: &[Option<&str>], end_of_wal: Option<Lsn>) -> Result<Slot, PollFailure> {
    let mut row = Fields::new("pg_replication_slots", row);
    let name = row.required("slot_name", |text| Some(text.to_owned()))?;
    let slot_type = row.required("slot_type", |text| Some(text.to_owned()))?;
    let active = row.required("active", boolean)?;
    let restart_lsn = row.optional("restart_lsn", lsn)?;
    Ok(Slot {
        name,
        slot_type,
        active,
        restart_lsn,
        confirmed_flush_lsn: row.optional("confirmed_flush_lsn", lsn)?,
        wal_status: row.text("wal_status")?.map(str::to_owned),
        safe_wal_size: row.optional("safe_wal_size", number)?,
        retained_bytes: end_of_wal.zip(restart_lsn).map(|(end, restart)| end.bytes_ahead_of(restart).0),
    })
}

fn databases(rows: &Rows<'_>) -> Result<HashMap<u32, Arc<str>>, PollFailure> {
    rows.iter()
        .map(|row| {
            let mut row = Fields::new("pg_database", row);
            Ok((row.required("oid", number)?, row.required("datname", |text| Some(Arc::from(text)))?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::observation::Identity;
    use crate::core::time::ServerTime;

    fn about(flavor: Flavor, version: &str) -> Introduction {
        Introduction {
            identity: Identity {
                version_num: 150_018,
                version: "15.18".to_owned(),
                flavor,
                system_identifier: None,
                started_at: ServerTime::from_unix_micros(0),
                cluster_name: String::new(),
                user: "mon".to_owned(),
                reads_all_stats: true,
                statements: StatementsAccess::Readable { schema: "my \"own\"".to_owned(), version: version.to_owned() },
                tls: false,
                pooled: false,
            },
            max_connections: 100,
            reserved_connections: 3,
            sender_layout: None,
            receiver_layout: None,
        }
    }

    fn statement(
        dbid: &'static str,
        queryid: Option<&'static str>,
        since: Option<&'static str>,
    ) -> Vec<Option<&'static str>> {
        let mut row = vec![Some("10"), Some(dbid), queryid, Some("t"), Some("7"), Some("1.5e-05"), Some("8")];
        row.extend(["1", "2", "3", "4", "5", "6"].map(Some));
        row.push(since);
        row
    }

    fn statement_row(dbid: u32, datname: &str, queryid: Option<i64>, since: Option<ServerTime>) -> StatementRow {
        StatementRow {
            key: StatementKey { userid: 10, dbid, queryid, toplevel: true },
            datname: Arc::from(datname),
            calls: 7,
            exec_ms: 1.5e-5,
            rows: 8,
            shared_blks_hit: 1,
            shared_blks_read: 2,
            shared_blks_dirtied: 3,
            shared_blks_written: 4,
            temp_blks_read: 5,
            temp_blks_written: 6,
            since,
        }
    }

    #[test]
    fn columns_follow_the_extension_and_not_the_server() {
        let check = |version: &str, asked: &[&str], not_asked: &[&str]| {
            let about = about(Flavor::PostgreSql, version);
            let sql = Question::new(&about, true, Refused::default()).map(Question::sql).unwrap();
            for text in asked {
                assert!(sql.contains(text), "{version}: {text} in {sql}");
            }
            for text in not_asked {
                assert!(!sql.contains(text), "{version}: {text} in {sql}");
            }
        };
        check("1.7", &["total_time"], &["total_exec_time", "toplevel", "_info", "stats_since"]);
        check("1.8", &["total_exec_time"], &["toplevel", "_info", "stats_since"]);
        check("1.9", &["total_exec_time", "toplevel", "_info"], &["stats_since"]);
        check("1.10", &["toplevel", "_info"], &["stats_since"]);
        check("1.11", &["toplevel", "_info", "stats_since"], &["total_time"]);
        check("1.12", &["\"my \"\"own\"\"\".pg_stat_statements(false)"], &["NULL FROM"]);
    }

    #[test]
    fn statements_are_asked_only_where_wanted_and_not_refused() {
        let about = about(Flavor::PostgreSql, "1.10");
        let sql = |statements, refused| Question::new(&about, statements, refused).map(Question::sql).unwrap();
        assert!(sql(true, Refused::default()).contains("pg_stat_statements"));
        assert!(!sql(false, Refused::default()).contains("pg_stat_statements"));
        let mut refused = Refused::default();
        refused.insert(Optional::Statements);
        assert!(!sql(true, refused).contains("pg_stat_statements"));
    }

    #[test]
    fn a_survey_reads_as_the_server_says_it() {
        let about = about(Flavor::PostgreSql, "1.11");
        let since = "2026-11-20 10:11:12.123456+00";
        let answer = [
            vec![vec![Some("0/3000100"), Some("3s")]],
            vec![vec![Some("idle"), Some("4")], vec![None, Some("2")], vec![Some("active"), Some("1")]],
            vec![
                vec![Some("r1"), Some("physical"), Some("t"), Some("0/3000000"), None, Some("reserved"), None],
                vec![Some("cdc"), Some("logical"), Some("f"), None, Some("0/2"), Some("lost"), Some("-1")],
            ],
            vec![vec![Some("5"), Some("postgres")], vec![Some("16384"), Some("rdsadmin")]],
            vec![vec![Some("12"), Some(since)]],
            vec![statement("5", Some("-3"), Some(since)), statement("16384", None, None), statement("9", None, None)],
        ];
        let at = Some(ServerTime::from_unix_micros(1_795_169_472_123_456));
        let expect = SurveyFacts {
            sessions: Sessions {
                by_state: vec![("active".to_owned(), 1), ("idle".to_owned(), 4), ("unknown".to_owned(), 2)],
                total: 7,
                max_connections: 100,
                reserved_connections: 3,
            },
            slots: vec![
                Slot {
                    name: "r1".to_owned(),
                    slot_type: "physical".to_owned(),
                    active: true,
                    restart_lsn: Some(Lsn::new(0x300_0000)),
                    confirmed_flush_lsn: None,
                    wal_status: Some("reserved".to_owned()),
                    safe_wal_size: None,
                    retained_bytes: Some(0x100),
                },
                Slot {
                    name: "cdc".to_owned(),
                    slot_type: "logical".to_owned(),
                    active: false,
                    restart_lsn: None,
                    confirmed_flush_lsn: Some(Lsn::new(2)),
                    wal_status: Some("lost".to_owned()),
                    safe_wal_size: Some(-1),
                    retained_bytes: None,
                },
            ],
            statements: Some(Statements {
                rows: vec![
                    statement_row(5, "postgres", Some(-3), at),
                    statement_row(16384, "rdsadmin", None, None),
                    statement_row(9, "(dropped)", None, None),
                ],
                evicted: Some(12),
                reset_at: at,
            }),
            apply_delay_seconds: 3.0,
        };
        assert_eq!(Question::new(&about, true, Refused::default()).unwrap().decode(&answer), Ok(expect.clone()));

        // On RDS the same, less AWS's own database.
        let about = Introduction { identity: Identity { flavor: Flavor::Rds, ..about.identity.clone() }, ..about };
        let mut expect = expect;
        if let Some(statements) = &mut expect.statements {
            statements.rows.remove(1);
        }
        assert_eq!(Question::new(&about, true, Refused::default()).unwrap().decode(&answer), Ok(expect));
    }
}
