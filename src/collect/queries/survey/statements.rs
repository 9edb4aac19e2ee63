//! Entries of `pg_stat_statements`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows, boolean, number, timestamp};
use crate::collect::queries::Optional;
use crate::core::escape;
use crate::core::observation::{Flavor, PollFailure, StatementsAccess};
use crate::core::statements::{StatementTotals, StatementTracker, text};
use crate::core::survey::{StatementKey, StatementRow, Statements, SurveyFacts, Told};
use crate::core::time::ServerTime;

pub(super) const TOPIC: Topic = Topic { name: "statements", sql, decode };

/// Where AWS keeps its own bookkeeping on RDS: its statements are nobody's but theirs.
const RDS_ADMIN: &str = "rdsadmin";

/// `pg_stat_statements` as this database has it.
#[derive(Clone, Debug)]
struct Extension {
    /// As it is written in a query.
    schema: String,
    version: (u32, u32),
    info: bool,
}

fn sql(context: Context<'_>) -> Option<String> {
    let extension = Extension::of(context)?;
    let mut sql = String::new();
    if extension.info {
        sql.push_str("SELECT dealloc, stats_reset FROM ");
        sql.push_str(&extension.qualified("pg_stat_statements_info"));
        // The function, and not the view over it: `restrict_nonsystem_relation_kind` may forbid views.
        sql.push_str("();");
    }
    sql.push_str(&extension.rows_sql(context.wanted.since));
    if let Some(known) = context.wanted.known {
        sql.push_str(&known.condition(&extension));
    }
    Some(sql)
}

fn decode(context: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let Some(extension) = Extension::of(context) else { return Ok(()) };
    let mut statements = statements.iter();
    let mut next = |view: &'static str| {
        statements.next().ok_or_else(|| Fields::new(view, &[]).failure("*", "the result is missing"))
    };
    let no_names = || Fields::new("pg_database", &[]).failure("datname", "the names of databases could not be read");
    let databases: HashMap<u32, Arc<str>> = facts.databases.clone().ok_or_else(no_names)?.into_iter().collect();
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
    let known = context.wanted.known.filter(|known| known.reset_at == reset_at);
    let told = known.map_or(Told::All, |known| Told::Moved { slice: known.slice });
    facts.statements = Some(Statements { rows, told, evicted, reset_at });
    Ok(())
}

/// Which entries stand as they are known, so that the server need not tell them again: most of thousands have not moved
/// since the last survey. Of 4,950 entries, with 200 MB of texts that are not read, `pg_stat_statements(false)` alone takes
/// a backend some 4 ms of CPU; to format and send all takes it to 7 (PostgreSQL 15) and 10 (17), to leave nearly all out to 5
/// and 5.5.
///
/// A bit for each entry, found by its key, its calls and its time (a queryid is a hash, so the places are spread). One that
/// has moved is taken for one that has not when another's bit is at its new place, for some 8 % of them; the places differ
/// from survey to survey, so the next one tells it. What is gone nobody tells: it is missed in its slice of the entries, one
/// of which is told in full at each survey.
#[derive(Debug)]
pub(crate) struct Known {
    bits: Vec<u8>,
    shift: u32,
    slice: u8,
    reset_at: Option<ServerTime>,
}

impl Known {
    /// Fewer entries cost less than the question that leaves them out.
    const MIN_ENTRIES: usize = 500;
    const BITS_PER_ENTRY: usize = 12;
    /// As hexadecimal digits this makes 14 kB: beyond 16 kB a message is more than RDS Proxy takes without ado.
    const MAX_BYTES: usize = 7000;

    /// `round`: another number at each survey.
    pub(crate) fn of(tracker: &StatementTracker, round: u32) -> Option<Self> {
        let entries = tracker.known()?;
        if entries.count() < Self::MIN_ENTRIES {
            return None;
        }
        let n_bytes = (entries.count() * Self::BITS_PER_ENTRY / 8).min(Self::MAX_BYTES);
        let mut known = Self {
            bits: vec![0; n_bytes],
            shift: round % 16,
            slice: (round % u32::from(StatementKey::SLICES)) as u8,
            reset_at: entries.reset_at,
        };
        for (key, totals) in entries.totals() {
            // Entries without a queryid are somebody else's.
            let place = known.place(key, key.queryid?, totals);
            if let Some(byte) = known.bits.get_mut(place / 8) {
                *byte |= 1 << (place % 8);
            }
        }
        Some(known)
    }

    /// As [`Known::condition`] has the server compute it. No product overflows: that would be an error.
    fn place(&self, key: &StatementKey, queryid: i64, totals: &StatementTotals) -> usize {
        let counted = (totals.calls.wrapping_add(totals.exec_us) % (1 << 20)).cast_signed();
        let state = counted * 2_654_435_761
            + i64::from(key.userid) * 65_599
            + i64::from(key.dbid) * 31
            + i64::from(key.toplevel);
        let place = (((queryid ^ state) >> self.shift) & ((1 << 40) - 1)).cast_unsigned();
        place as usize % (8 * self.bits.len())
    }

    /// Those of the slice, and those that are not as they are known. All entries when all were reset.
    fn condition(&self, extension: &Extension) -> String {
        let toplevel = if extension.version >= (1, 9) { "toplevel::int" } else { "1" };
        let mut condition = format!(
            " WHERE queryid & {} = {} OR get_bit('\\x{}'::bytea, ((((queryid # (((calls + {}) % 1048576) * 2654435761 \
             + userid::int8 * 65599 + dbid::int8 * 31 + {toplevel})) >> {}) & 1099511627775) % {})::int) = 0",
            StatementKey::SLICES - 1,
            self.slice,
            hex(&self.bits),
            extension.exec_us(),
            self.shift,
            8 * self.bits.len(),
        );
        if extension.info {
            let reset_at = self.reset_at.map_or_else(
                || "NULL".to_owned(),
                |at| {
                    // In two parts: up to 14 an interval takes no more than 2^31 of anything.
                    let (seconds, micros) =
                        (at.unix_micros().div_euclid(1_000_000), at.unix_micros().rem_euclid(1_000_000));
                    format!("to_timestamp({seconds}) + interval '{micros} microseconds'")
                },
            );
            condition.push_str(&format!(
                " OR (SELECT stats_reset IS DISTINCT FROM {reset_at} FROM {}())",
                extension.qualified("pg_stat_statements_info")
            ));
        }
        condition
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Reads the texts of a few statements. The server loads the file of all texts for it, however few are wanted: 0.1 s
/// and more where it has 200 MB. `None` where there are no statements to read.
pub(crate) fn texts_sql(context: Context<'_>, queryids: &[i64], limit: Duration) -> Option<String> {
    let extension = Extension::of(context)?;
    let queryids: Vec<String> = queryids.iter().map(|queryid| format!("'{queryid}'")).collect();
    Some(format!(
        "SET LOCAL statement_timeout = {};SELECT DISTINCT ON (queryid) queryid, left(query, {MAX_TEXT}) FROM {}(true) \
         WHERE queryid IN ({})",
        limit.as_millis().max(1),
        extension.qualified("pg_stat_statements"),
        queryids.join(", ")
    ))
}

/// Of a text only the first line is shown.
const MAX_TEXT: usize = 2000;

/// What may be shown of each text.
pub(crate) fn decode_texts(statements: &[Rows<'_>]) -> Result<HashMap<i64, Arc<str>>, PollFailure> {
    let mut texts = HashMap::new();
    for row in statements.last().into_iter().flatten() {
        let mut row = Fields::new("pg_stat_statements", row);
        let queryid = row.required("queryid", number)?;
        // A text that was cut may end within a literal, which then has no end.
        if let Some(text) = row.text("query")? {
            texts.insert(queryid, Arc::from(escape::name(&text::shown(text))));
        }
    }
    Ok(texts)
}

impl Extension {
    /// `None` where statements cannot be read, are refused, or are not wanted.
    fn of(context: Context<'_>) -> Option<Self> {
        let StatementsAccess::Readable { schema, version } = &context.about.identity.statements else { return None };
        if !context.wanted.statements || context.refused.contains(Optional::Statements) {
            return None;
        }
        let version = extension_version(version)?;
        let info = version >= (1, 9) && !context.refused.contains(Optional::StatementsInfo);
        // What we send is UTF-8: a schema whose name is not cannot be asked for.
        let schema = String::from_utf8(escape::bytes(schema).into_owned()).ok()?;
        Some(Self { schema: schema.replace('"', "\"\""), version, info })
    }

    fn qualified(&self, name: &str) -> String {
        format!("\"{}\".{name}", self.schema)
    }

    /// The columns differ by the extension's version: a server can be upgraded and its extensions not.
    fn rows_sql(&self, since: bool) -> String {
        let exec_us = self.exec_us();
        let toplevel = if self.version >= (1, 9) { "toplevel" } else { "true" };
        // Formatted as it is, this one column costs as much as six others.
        let since =
            if since && self.version >= (1, 11) { "(date_part('epoch', stats_since) * 1e6)::int8" } else { "NULL" };
        // `false`: without the query texts, which are a file as large as the disk allows.
        format!(
            "SELECT userid, dbid, queryid, {toplevel}, calls, {exec_us}, rows, shared_blks_hit, shared_blks_read, \
             shared_blks_dirtied, shared_blks_written, temp_blks_read, temp_blks_written, {since} FROM {}(false)",
            self.qualified("pg_stat_statements")
        )
    }

    /// As a whole number, which takes half the time to format.
    fn exec_us(&self) -> &'static str {
        if self.version >= (1, 8) { "(total_exec_time * 1e3)::int8" } else { "(total_time * 1e3)::int8" }
    }

    fn row(&self, row: &[Option<&str>], databases: &HashMap<u32, Arc<str>>) -> Result<StatementRow, PollFailure> {
        let mut row = Fields::new("pg_stat_statements", row);
        let userid = row.required("userid", number)?;
        let dbid = row.required("dbid", number)?;
        let queryid = row.optional("queryid", number)?;
        let toplevel = row.required("toplevel", boolean)?;
        Ok(StatementRow {
            key: StatementKey { userid, dbid, queryid, toplevel },
            datname: databases.get(&dbid).cloned().unwrap_or_else(|| Arc::from(DROPPED)),
            calls: row.required("calls", number)?,
            exec_us: row.required("total_exec_time", number)?,
            rows: row.required("rows", number)?,
            shared_blks_hit: row.required("shared_blks_hit", number)?,
            shared_blks_read: row.required("shared_blks_read", number)?,
            shared_blks_dirtied: row.required("shared_blks_dirtied", number)?,
            shared_blks_written: row.required("shared_blks_written", number)?,
            temp_blks_read: row.required("temp_blks_read", number)?,
            temp_blks_written: row.required("temp_blks_written", number)?,
            since: row.optional("stats_since", number)?.map(ServerTime::from_unix_micros),
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

#[cfg(test)]
mod tests {
    use super::super::Wanted;
    use super::super::tests::{about, context};
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
        let mut row = vec![Some("10"), Some(dbid), queryid, Some("t"), Some("7"), Some("15"), Some("8")];
        row.extend(["1", "2", "3", "4", "5", "6"].map(Some));
        row.push(since);
        row
    }

    fn statement_row(dbid: u32, datname: &str, queryid: Option<i64>, since: Option<ServerTime>) -> StatementRow {
        StatementRow {
            key: StatementKey { userid: 10, dbid, queryid, toplevel: true },
            datname: Arc::from(datname),
            calls: 7,
            exec_us: 15,
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
        let about_17 = about(Flavor::PostgreSql, "1.11");
        check("1.7", &["total_time"], &["total_exec_time", "toplevel", "_info", "stats_since"]);
        check("1.8", &["total_exec_time"], &["toplevel", "_info", "stats_since"]);
        check("1.9", &["total_exec_time", "toplevel", "_info"], &["stats_since"]);
        check("1.10", &["toplevel", "_info"], &["stats_since"]);
        check("1.11", &["toplevel", "_info", "stats_since"], &["total_time"]);
        let first = Context { wanted: Wanted { since: false, ..context(&about_17).wanted }, ..context(&about_17) };
        assert!(!sql(first).unwrap().contains("stats_since"));
        check("1.12", &["\"my \"\"own\"\"\".pg_stat_statements(false)"], &["NULL FROM"]);
    }

    #[test]
    fn statements_are_asked_only_where_wanted_and_not_refused() {
        let about = about(Flavor::PostgreSql, "1.10");
        assert!(sql(context(&about)).is_some());
        assert_eq!(
            sql(Context { wanted: Wanted { statements: false, ..context(&about).wanted }, ..context(&about) }),
            None
        );
        let mut refused = Refused::default();
        refused.insert(Optional::Statements);
        assert_eq!(sql(Context { refused, ..context(&about) }), None);
    }

    /// After the databases.
    fn named() -> SurveyFacts {
        let databases = vec![(5, Arc::from("postgres")), (16384, Arc::from("rdsadmin"))];
        SurveyFacts { databases: Some(databases), ..SurveyFacts::default() }
    }

    fn decoded(context: Context<'_>, answer: &[Rows<'_>]) -> Result<SurveyFacts, PollFailure> {
        let mut facts = named();
        TOPIC.decode(context, answer, &mut facts).map(|()| facts)
    }

    #[test]
    fn without_the_names_of_databases_nothing_is_told_of_their_statements() {
        let about = about(Flavor::PostgreSql, "1.8");
        let answer = [vec![statement("5", Some("-3"), None)]];
        let unnamed = TOPIC.decode(context(&about), &answer, &mut SurveyFacts::default());
        assert!(matches!(unnamed, Err(PollFailure::Decode { ref column, .. }) if column == "datname"), "{unnamed:?}");
        assert!(decoded(context(&about), &answer).is_ok());
    }

    #[test]
    fn entries_read_as_the_server_says_them() {
        let about = about(Flavor::PostgreSql, "1.11");
        let since = "2026-11-20 10:11:12.123456+00";
        let answer = [
            vec![vec![Some("12"), Some(since)]],
            vec![
                statement("5", Some("-3"), Some("1795169472123456")),
                statement("16384", None, None),
                statement("9", None, None),
            ],
        ];
        let at = Some(ServerTime::from_unix_micros(1_795_169_472_123_456));
        let mut rows = vec![
            statement_row(5, "postgres", Some(-3), at),
            statement_row(16384, "rdsadmin", None, None),
            statement_row(9, "(dropped)", None, None),
        ];
        let facts = |rows| SurveyFacts {
            statements: Some(Statements { rows, told: Told::All, evicted: Some(12), reset_at: at }),
            ..named()
        };
        assert_eq!(decoded(context(&about), &answer), Ok(facts(rows.clone())));

        // On RDS the same, less AWS's own database.
        let about = Introduction { identity: Identity { flavor: Flavor::Rds, ..about.identity.clone() }, ..about };
        rows.remove(1);
        assert_eq!(decoded(context(&about), &answer), Ok(facts(rows)));
    }

    #[test]
    fn known_entries_are_left_out_of_the_question() {
        let about = about(Flavor::PostgreSql, "1.11");
        // A queryid is a hash.
        let queryid = |n: i64| n.wrapping_mul(0x5851_F42D_4C95_7F2D);
        let entry = |n, calls| StatementRow { calls, ..statement_row(5, "app", Some(queryid(n)), None) };
        let survey = |n| Statements {
            rows: (0..n).map(|n| entry(n, 7)).collect(),
            told: Told::All,
            evicted: Some(3),
            reset_at: Some(ServerTime::from_unix_micros(1_000_000_250)),
        };
        let mut tracker = StatementTracker::default();
        tracker.observe(&survey(499), ServerTime::from_unix_micros(1), 5);
        assert!(Known::of(&tracker, 0).is_none(), "too few to be worth it");
        for (n, round) in [(500, 0), (5000, 1), (50_000, 17)] {
            let mut tracker = StatementTracker::default();
            tracker.observe(&survey(n), ServerTime::from_unix_micros(1), 5);
            let known = Known::of(&tracker, round).unwrap();
            let is_set = |n, calls| {
                let place = known.place(
                    &entry(n, 7).key,
                    queryid(n),
                    &StatementTotals { calls, exec_us: 15, ..StatementTotals::default() },
                );
                known.bits[place / 8] >> (place % 8) & 1 == 1
            };
            assert!((0..n).all(|n| is_set(n, 7)), "{n}");
            let missed = (0..n).filter(|n| is_set(*n, 8)).count() as f64 / n as f64;
            assert!(missed < if n > 10_000 { 0.7 } else { 0.12 }, "{n}: {missed}");

            let wanted = Wanted { known: Some(&known), ..context(&about).wanted };
            let sql = sql(Context { wanted, ..context(&about) }).unwrap();
            assert!(sql.len() < 16_000, "{}", sql.len());
            let reset = "OR (SELECT stats_reset IS DISTINCT FROM to_timestamp(1000) + interval '250 microseconds'";
            assert!(sql.contains(reset), "{sql}");
        }
    }

    #[test]
    fn an_answer_tells_what_has_moved_unless_all_was_reset() {
        let about = about(Flavor::PostgreSql, "1.10");
        let known = Known { bits: vec![0], shift: 0, slice: 3, reset_at: None };
        let told = |known, reset_at| {
            let wanted = Wanted { known, ..context(&about).wanted };
            let answer = [vec![vec![Some("12"), reset_at]], vec![]];
            let facts = decoded(Context { wanted, ..context(&about) }, &answer);
            facts.unwrap().statements.unwrap().told
        };
        assert_eq!(told(Some(&known), None), Told::Moved { slice: 3 });
        assert_eq!(told(Some(&known), Some("2026-11-20 10:11:12.123456+00")), Told::All);
        assert_eq!(told(None, None), Told::All);
    }

    #[test]
    fn texts_are_asked_for_by_queryid_and_told_without_literals() {
        let about = about(Flavor::PostgreSql, "1.10");
        let sql = texts_sql(context(&about), &[-3, i64::MIN], Duration::from_millis(1500)).unwrap();
        assert!(sql.starts_with("SET LOCAL statement_timeout = 1500;"), "{sql}");
        assert!(sql.ends_with("WHERE queryid IN ('-3', '-9223372036854775808')"), "{sql}");
        let answer = [vec![], vec![vec![Some("-3"), Some("ALTER ROLE x PASSWORD 'secret'")], vec![Some("4"), None]]];
        assert_eq!(decode_texts(&answer), Ok(HashMap::from([(-3, Arc::from("ALTER ROLE…"))])));
    }
}
