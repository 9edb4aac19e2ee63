//! Entries of `pg_stat_statements`.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows, boolean, number, timestamp};
use crate::collect::queries::Optional;
use crate::core::observation::{Flavor, PollFailure, StatementsAccess};
use crate::core::survey::{StatementKey, StatementRow, Statements, SurveyFacts};

pub(super) const TOPIC: Topic = Topic { name: "statements", sql, decode };

/// The same in every database, so one name needs no join per entry.
const DATABASES: &str = "SELECT oid, datname FROM pg_database";

/// Where AWS keeps its own bookkeeping on RDS: its statements are nobody's but theirs.
const RDS_ADMIN: &str = "rdsadmin";

/// `pg_stat_statements` as this database has it.
#[derive(Clone, Copy, Debug)]
struct Extension<'a> {
    schema: &'a str,
    version: (u32, u32),
    info: bool,
}

fn sql(context: Context<'_>) -> Option<String> {
    let extension = Extension::of(context)?;
    let mut sql = DATABASES.to_owned();
    if extension.info {
        sql.push_str(";SELECT dealloc, stats_reset FROM ");
        sql.push_str(&extension.qualified("pg_stat_statements_info"));
    }
    sql.push(';');
    sql.push_str(&extension.rows_sql());
    Some(sql)
}

fn decode(context: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let Some(extension) = Extension::of(context) else { return Ok(()) };
    let mut statements = statements.iter();
    let mut next = |view: &'static str| {
        statements.next().ok_or_else(|| Fields::new(view, &[]).failure("*", "the result is missing"))
    };
    let databases = databases(next("pg_database")?)?;
    let (mut evicted, mut reset_at) = (None, None);
    if extension.info {
        let info = next("pg_stat_statements_info")?.first().map(Vec::as_slice).unwrap_or_default();
        let mut info = Fields::new("pg_stat_statements_info", info);
        evicted = Some(info.required("dealloc", number)?);
        reset_at = info.optional("stats_reset", timestamp)?;
    }
    let skip = (context.about.identity.flavor != Flavor::PostgreSql).then_some(RDS_ADMIN);
    let rows = next("pg_stat_statements")?
        .iter()
        .map(|row| extension.row(row, &databases))
        .filter(|row| !matches!(row, Ok(row) if Some(&*row.datname) == skip))
        .collect::<Result<_, _>>()?;
    facts.statements = Some(Statements { rows, evicted, reset_at });
    Ok(())
}

impl<'a> Extension<'a> {
    /// `None` where statements cannot be read, are refused, or are not wanted.
    fn of(context: Context<'a>) -> Option<Self> {
        let StatementsAccess::Readable { schema, version } = &context.about.identity.statements else { return None };
        if !context.statements || context.refused.contains(Optional::Statements) {
            return None;
        }
        let version = extension_version(version)?;
        let info = version >= (1, 9) && !context.refused.contains(Optional::StatementsInfo);
        Some(Self { schema, version, info })
    }

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
    use super::super::tests::{about, context, decoded};
    use super::*;
    use crate::collect::queries::Refused;
    use crate::collect::queries::identity::Introduction;
    use crate::core::observation::Identity;
    use crate::core::time::ServerTime;

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
            let sql = sql(context(&about)).unwrap();
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
        assert!(sql(context(&about)).is_some());
        assert_eq!(sql(Context { statements: false, ..context(&about) }), None);
        let mut refused = Refused::default();
        refused.insert(Optional::Statements);
        assert_eq!(sql(Context { refused, ..context(&about) }), None);
    }

    #[test]
    fn entries_read_as_the_server_says_them() {
        let about = about(Flavor::PostgreSql, "1.11");
        let since = "2026-11-20 10:11:12.123456+00";
        let answer = [
            vec![vec![Some("5"), Some("postgres")], vec![Some("16384"), Some("rdsadmin")]],
            vec![vec![Some("12"), Some(since)]],
            vec![statement("5", Some("-3"), Some(since)), statement("16384", None, None), statement("9", None, None)],
        ];
        let at = Some(ServerTime::from_unix_micros(1_795_169_472_123_456));
        let mut rows = vec![
            statement_row(5, "postgres", Some(-3), at),
            statement_row(16384, "rdsadmin", None, None),
            statement_row(9, "(dropped)", None, None),
        ];
        let facts = |rows| SurveyFacts {
            statements: Some(Statements { rows, evicted: Some(12), reset_at: at }),
            ..SurveyFacts::default()
        };
        assert_eq!(decoded(&TOPIC, context(&about), &answer), Ok(facts(rows.clone())));

        // On RDS the same, less AWS's own database.
        let about = Introduction { identity: Identity { flavor: Flavor::Rds, ..about.identity.clone() }, ..about };
        rows.remove(1);
        assert_eq!(decoded(&TOPIC, context(&about), &answer), Ok(facts(rows)));
    }
}
