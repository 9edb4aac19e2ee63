//! Signals of `pg_stat_statements`.

use super::row::{per_target, state};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::statements::{StatementCounters, StatementTotals};
use crate::core::time::MonoTime;

const STATEMENTS: &str = "`pg_stat_statements` is not readable, or the last slow poll is stale.";
const TOP: &str = "Not among the top (it then counts in `other`), or as `pgvigil_statements_calls_total`.";
const PGSS: &str = "pg_stat_statements";

pub(super) const ROWS: &[Signal] = &[
    // Statements, summed by database.
    per_target("statements_calls_total", Unit::Count, |_, target, now, emit| databases(target, now, emit, |t| t.calls as f64))
        .counter()
        .labels(&["datname"])
        .help("Executions of all statements of the database, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_exec_seconds_total", Unit::Seconds, |_, target, now, emit| databases(target, now, emit, StatementTotals::exec_seconds))
        .counter()
        .labels(&["datname"])
        .help("Execution time of all statements of the database, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_rows_total", Unit::Count, |_, target, now, emit| databases(target, now, emit, |t| t.rows as f64))
        .counter()
        .labels(&["datname"])
        .help("Rows that all statements of the database returned or changed, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_shared_blocks_hit_total", Unit::Count, |_, target, now, emit| databases(target, now, emit, |t| t.shared_blks_hit as f64))
        .counter()
        .labels(&["datname"])
        .help("Shared blocks that the database's statements found in the cache, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_shared_blocks_read_total", Unit::Count, |_, target, now, emit| databases(target, now, emit, |t| t.shared_blks_read as f64))
        .counter()
        .labels(&["datname"])
        .help("Shared blocks that the database's statements read from outside the cache, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_shared_blocks_dirtied_total", Unit::Count, |_, target, now, emit| databases(target, now, emit, |t| t.shared_blks_dirtied as f64))
        .counter()
        .labels(&["datname"])
        .help("Shared blocks that the database's statements dirtied, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_shared_blocks_written_total", Unit::Count, |_, target, now, emit| databases(target, now, emit, |t| t.shared_blks_written as f64))
        .counter()
        .labels(&["datname"])
        .help("Shared blocks that the database's statements wrote, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_temp_blocks_read_total", Unit::Count, |_, target, now, emit| databases(target, now, emit, |t| t.temp_blks_read as f64))
        .counter()
        .labels(&["datname"])
        .help("Temporary blocks that the database's statements read, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_temp_blocks_written_total", Unit::Count, |_, target, now, emit| databases(target, now, emit, |t| t.temp_blks_written as f64))
        .counter()
        .labels(&["datname"])
        .help("Temporary blocks that the database's statements wrote, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_evictions_total", Unit::Count, statements_evictions)
        .counter()
        .help("Entries that the server evicted from pg_stat_statements to make room, since its statistics were last reset.")
        .absent("Extension older than 1.9, not readable, or the last slow poll is stale.")
        .from("pg_stat_statements_info.dealloc"),
    per_target("statements_resets_total", Unit::Count, statements_resets)
        .counter()
        .help("Times that entries of pg_stat_statements were seen to start again.")
        .absent(STATEMENTS)
        .from(PGSS),
    // The statements that take the most time, one by one, and all others of their database.
    per_target("statement_calls_total", Unit::Count, |_, target, now, emit| top(target, now, emit, |t| t.calls as f64))
        .counter()
        .labels(&["datname", "queryid"])
        .help("Executions of one of the statements that take the most time, since it came among them; `other`: of all others of the database.")
        .absent(TOP)
        .from(PGSS),
    per_target("statement_exec_seconds_total", Unit::Seconds, |_, target, now, emit| top(target, now, emit, StatementTotals::exec_seconds))
        .counter()
        .labels(&["datname", "queryid"])
        .help("Execution time of one of the statements that take the most time, since it came among them; `other`: of all others of the database.")
        .absent(TOP)
        .from(PGSS),
    per_target("statement_rows_total", Unit::Count, |_, target, now, emit| top(target, now, emit, |t| t.rows as f64))
        .counter()
        .labels(&["datname", "queryid"])
        .help("Rows of one of the statements that take the most time, since it came among them; `other`: of all others of the database.")
        .absent(TOP)
        .from(PGSS),
    per_target("statement_shared_blocks_hit_total", Unit::Count, |_, target, now, emit| top(target, now, emit, |t| t.shared_blks_hit as f64))
        .counter()
        .labels(&["datname", "queryid"])
        .help("Shared blocks that one of the statements that take the most time found in the cache; `other`: all others of the database.")
        .absent(TOP)
        .from(PGSS),
    per_target("statement_shared_blocks_read_total", Unit::Count, |_, target, now, emit| top(target, now, emit, |t| t.shared_blks_read as f64))
        .counter()
        .labels(&["datname", "queryid"])
        .help("Shared blocks that one of the statements that take the most time read from outside the cache; `other`: all others of the database.")
        .absent(TOP)
        .from(PGSS),
    per_target("statement_mean_seconds", Unit::Seconds, statement_mean)
        .labels(&["datname", "queryid"])
        .help("Mean execution time, between the last two slow polls, of one of the statements that take the most time.")
        .absent("Not executed in between, not among the top, or as `pgvigil_statements_calls_total`.")
        .from(PGSS),
];

/// The counters, while the survey that moved them last is fresh. `Err` says what silence means.
fn counters(target: &TargetView, now: MonoTime) -> Result<&StatementCounters, Coverage> {
    let Some(survey) = target.fresh_survey(now) else { return Err(Coverage::Unknown) };
    let failed = survey.failures.iter().any(|(topic, _)| *topic == "statements");
    target.statements.as_deref().filter(|_| !failed).ok_or(if failed { Coverage::Unknown } else { Coverage::Complete })
}

fn databases(target: &TargetView, now: MonoTime, emit: Emit<'_>, part: fn(&StatementTotals) -> f64) -> Coverage {
    let counters = match counters(target, now) {
        Ok(counters) => counters,
        Err(coverage) => return coverage,
    };
    for database in &counters.databases {
        emit(&[&database.datname], Value::exact(part(&database.totals)));
    }
    Coverage::Complete
}

/// Label of the statements that are not told one by one.
const OTHER: &str = "other";

fn top(target: &TargetView, now: MonoTime, emit: Emit<'_>, part: fn(&StatementTotals) -> f64) -> Coverage {
    let counters = match counters(target, now) {
        Ok(counters) => counters,
        Err(coverage) => return coverage,
    };
    for statement in &counters.top {
        let queryid = statement.queryid.to_string();
        emit(&[&statement.datname, &queryid], Value::exact(part(&statement.totals)));
    }
    for database in &counters.databases {
        emit(&[&database.datname, OTHER], Value::exact(part(&database.others)));
    }
    Coverage::Complete
}

fn statement_mean(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let counters = match counters(target, now) {
        Ok(counters) => counters,
        Err(coverage) => return coverage,
    };
    for statement in &counters.top {
        if let Some(mean) = statement.mean_exec_seconds() {
            let queryid = statement.queryid.to_string();
            emit(&[&statement.datname, &queryid], Value::exact(mean));
        }
    }
    Coverage::Complete
}

fn statements_evictions(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    match counters(target, now) {
        Ok(counters) => state(emit, counters.evictions.map(|evictions| evictions as f64)),
        Err(coverage) => coverage,
    }
}

fn statements_resets(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    match counters(target, now) {
        Ok(counters) => state(emit, Some(counters.resets as f64)),
        Err(coverage) => coverage,
    }
}
