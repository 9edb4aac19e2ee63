//! PgBouncer's admin console: a few commands, each a message of its own (it takes no two in one), whose columns differ
//! from version to version and are found by name.

use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use crate::collect::decode::{self, Fields, number};
use crate::core::escape;
use crate::core::observation::PollFailure;
use crate::core::pooler::{Pool, PoolDatabase, PoolTotals};

pub(crate) const POOLS: &str = "SHOW POOLS";
pub(crate) const DATABASES: &str = "SHOW DATABASES";
pub(crate) const STATS: &str = "SHOW STATS";
pub(crate) const VERSION: &str = "SHOW VERSION";

/// The console's own database, which is none of the operator's.
pub(crate) const CONSOLE: &str = "pgbouncer";

struct Row<'a> {
    command: &'static str,
    row: &'a SimpleQueryRow,
}

impl<'a> Row<'a> {
    /// `None` for NULL, and where the version has no such column.
    fn text(&self, column: &str) -> Result<Option<&'a str>, PollFailure> {
        let Some(place) = self.row.columns().iter().position(|own| own.name() == column) else { return Ok(None) };
        self.row.try_get(place).map_err(|_| self.failure(column, "not UTF-8"))
    }

    fn optional(&self, column: &str) -> Result<Option<u64>, PollFailure> {
        let Some(text) = self.text(column)? else { return Ok(None) };
        number(text).map(Some).ok_or_else(|| self.failure(column, "not a number"))
    }

    fn required(&self, column: &str) -> Result<u64, PollFailure> {
        self.optional(column)?.ok_or_else(|| self.failure(column, "the column is missing"))
    }

    fn name(&self, column: &str) -> Result<String, PollFailure> {
        let text = self.text(column)?.ok_or_else(|| self.failure(column, "the column is missing"))?;
        Ok(escape::name(text).into_owned())
    }

    fn failure(&self, column: &str, reason: &str) -> PollFailure {
        Fields::new(self.command, &[]).failure(column, reason)
    }
}

fn rows<'a>(command: &'static str, messages: &'a [SimpleQueryMessage]) -> impl Iterator<Item = Row<'a>> {
    messages.iter().filter_map(move |message| match message {
        SimpleQueryMessage::Row(row) => Some(Row { command, row }),
        _ => None,
    })
}

/// All rows as `read` reads them, without the console's own; those that cannot be read cost no other, and leave why in
/// `unread`. Where none can be read, that is the failure.
fn each<T>(
    command: &'static str,
    name: &str,
    messages: &[SimpleQueryMessage],
    unread: &mut Option<PollFailure>,
    read: impl Fn(&Row<'_>, String) -> Result<T, PollFailure>,
) -> Result<Vec<T>, PollFailure> {
    let (all, failure) = decode::each(rows(command, messages), |row| {
        let database = row.name(name)?;
        if database == CONSOLE { Ok(None) } else { read(&row, database).map(Some) }
    });
    let all: Vec<T> = all.into_iter().flatten().collect();
    match failure {
        Some(failure) if all.is_empty() => Err(failure),
        failure => {
            *unread = unread.take().or(failure);
            Ok(all)
        }
    }
}

pub(crate) fn pools(
    messages: &[SimpleQueryMessage],
    unread: &mut Option<PollFailure>,
) -> Result<Vec<Pool>, PollFailure> {
    each(POOLS, "database", messages, unread, |row, database| {
        // Microseconds came in a column of their own, beside the whole seconds.
        let micros = row.optional("maxwait_us")?;
        Ok(Pool {
            database,
            user: row.name("user")?,
            clients_active: row.required("cl_active")?,
            clients_waiting: row.required("cl_waiting")?,
            servers_active: row.required("sv_active")?,
            servers_idle: row.required("sv_idle")?,
            servers_used: row.required("sv_used")?,
            servers_tested: row.required("sv_tested")?,
            servers_login: row.required("sv_login")?,
            longest_wait: row.required("maxwait")? as f64 + micros.map_or(0.0, |micros| micros as f64 / 1e6),
            size: None,
        })
    })
}

pub(crate) fn databases(
    messages: &[SimpleQueryMessage],
    unread: &mut Option<PollFailure>,
) -> Result<Vec<PoolDatabase>, PollFailure> {
    each(DATABASES, "name", messages, unread, |row, name| {
        Ok(PoolDatabase {
            name,
            pool_size: row.optional("pool_size")?,
            current_connections: row.optional("current_connections")?,
            // 0 is how it says that there is no limit.
            max_connections: row.optional("max_connections")?.filter(|limit| *limit > 0),
            paused: row.required("paused")? != 0,
            disabled: row.required("disabled")? != 0,
        })
    })
}

pub(crate) fn stats(
    messages: &[SimpleQueryMessage],
    unread: &mut Option<PollFailure>,
) -> Result<Vec<(String, PoolTotals)>, PollFailure> {
    each(STATS, "database", messages, unread, |row, database| {
        let totals = PoolTotals {
            transactions: row.optional("total_xact_count")?,
            queries: row.optional("total_query_count")?,
            received_bytes: row.optional("total_received")?,
            sent_bytes: row.optional("total_sent")?,
            wait_us: row.optional("total_wait_time")?,
            query_us: row.optional("total_query_time")?,
        };
        Ok((database, totals))
    })
}

/// `PgBouncer 1.18.0` is `1.18.0`. Old versions say it in a notice, which is not for us.
pub(crate) fn version(messages: &[SimpleQueryMessage]) -> Result<Option<String>, PollFailure> {
    let Some(row) = rows(VERSION, messages).next() else { return Ok(None) };
    let text = row.text("version")?;
    Ok(text.map(|text| escape::name(text.rsplit(' ').next().unwrap_or(text)).chars().take(32).collect()))
}
