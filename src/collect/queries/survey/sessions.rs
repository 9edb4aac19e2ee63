//! Client sessions.

use std::cmp::Reverse;
use std::fmt::Write;

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows, number};
use crate::core::observation::PollFailure;
use crate::core::survey::{Activity, Holder, Sessions, SurveyFacts, Tally};

pub(super) const TOPIC: Topic = Topic { name: "sessions", sql, decode };

/// What the failures name.
const VIEW: &str = "pg_stat_activity";

/// Names of one kind that the server tells one by one: more than have series, so that the choice can be kept from one
/// survey to the next.
const MAX_NAMES: usize = 50;

/// Client sessions, from the function below `pg_stat_activity`: the view's joins cost five times as much. It is called
/// once, and the server counts: however many sessions there are, some 200 rows come back. With 2,000 sessions it took
/// 13 ms (PostgreSQL 17) and 19 ms (15, on a busy machine) by EXPLAIN ANALYZE; with one, 0.2 ms.
///
/// Without the grant, of other roles' sessions only database, user and application are shown. Those are counted, state
/// unknown (so are then the few parallel workers).
const SESSIONS: &str = "WITH s AS MATERIALIZED (\
SELECT pid, datid, usesysid, application_name, client_addr, state, wait_event_type, xact_start, state_change, \
backend_type IS NULL AS hidden FROM pg_stat_get_activity(NULL) \
WHERE backend_type = 'client backend' OR backend_type IS NULL AND datid IS NOT NULL AND usesysid IS NOT NULL)";

/// Each way of counting, by the bits of `GROUPING` that its set leaves at 0.
const GROUPED: &str = "grouped AS (\
SELECT GROUPING(state, usesysid, application_name, client_addr, datid) AS by, \
state, usesysid, application_name, client_addr, hidden, datid, count(*) AS n \
FROM s GROUP BY GROUPING SETS ((state), (usesysid), (application_name), (client_addr, hidden), (datid)))";

/// Names are looked up for the rows that have one to tell; those of databases are another topic's, which may wait for a lock.
const NAMED: &str = "SELECT CASE by WHEN 15 THEN 'state' WHEN 23 THEN 'user' WHEN 27 THEN 'application' \
WHEN 29 THEN 'client' ELSE 'database' END, \
CASE WHEN NOT named THEN NULL WHEN by = 15 THEN CASE WHEN state IS NULL THEN 'unknown' ELSE state END WHEN by = 23 THEN pg_get_userbyid(usesysid)::text \
WHEN by = 27 THEN application_name \
WHEN by = 29 THEN CASE WHEN hidden THEN 'unknown' WHEN client_addr IS NULL THEN 'local' ELSE host(client_addr) END \
ELSE datid::text END, n, n_names, NULL, NULL, NULL, NULL \
FROM kept";

/// Who holds something: user, pid, age, application, state, database.
const HOLDER: &str = "pg_get_userbyid(usesysid)::text, pid, NULL, date_part('epoch', statement_timestamp() - since), \
application_name, state, datid::text";

fn sql(context: Context<'_>) -> Option<String> {
    let idle_ms = context.wanted.idle_limit.as_millis();
    // Only where somebody waits: it stops all who lock, for a moment. When a wait began is told from 14 on.
    let longest_wait = if context.about.identity.version_num >= 140_000 {
        "CASE WHEN waiting > 0 THEN (SELECT date_part('epoch', clock_timestamp() - min(waitstart)) \
         FROM pg_lock_status() WHERE NOT granted) END"
    } else {
        "NULL"
    };
    let holder_of_lock = if context.about.identity.version_num >= 140_000 {
        "CASE WHEN waiting > 0 THEN (pg_blocking_pids((SELECT pid FROM pg_lock_status() WHERE NOT granted \
         ORDER BY waitstart LIMIT 1)))[1] END"
    } else {
        "NULL::int"
    };
    let in_transaction = "state IN ('idle in transaction', 'idle in transaction (aborted)')";
    let mut sql = format!(
        "{SESSIONS}, summary AS (SELECT count(*) AS total, count(*) FILTER (WHERE hidden) AS hidden, \
         count(*) FILTER (WHERE wait_event_type = 'Lock') AS waiting, \
         count(*) FILTER (WHERE {in_transaction}) AS in_transaction, \
         count(*) FILTER (WHERE state = 'idle' AND state_change < statement_timestamp() - interval '{idle_ms} ms') \
         AS idle_long FROM s), waited_for AS MATERIALIZED (SELECT {holder_of_lock} AS pid FROM summary), {GROUPED}, \
         ranked AS (SELECT *, row_number() OVER (PARTITION BY by ORDER BY n DESC) <= {MAX_NAMES} AS named FROM grouped), \
         kept AS (SELECT by, named, CASE WHEN named THEN state END AS state, CASE WHEN named THEN usesysid END AS usesysid, \
         CASE WHEN named THEN application_name END AS application_name, \
         CASE WHEN named THEN client_addr END AS client_addr, CASE WHEN named THEN hidden END AS hidden, \
         CASE WHEN named THEN datid END AS datid, sum(n) AS n, count(*) AS n_names FROM ranked \
         GROUP BY 1, 2, 3, 4, 5, 6, 7, 8) {NAMED}"
    );
    for (kind, count, seconds) in [
        ("all", "total", "NULL"),
        ("hidden", "hidden", "NULL"),
        ("idle in transaction", "in_transaction", "NULL"),
        ("idle for long", "idle_long", "NULL"),
        ("waiting", "waiting", longest_wait),
    ] {
        // Writing to a String cannot fail.
        let _ = write!(
            sql,
            " UNION ALL SELECT '{kind}', NULL, {count}, NULL, {seconds}::float8, NULL, NULL, NULL FROM summary"
        );
    }
    for (kind, since, which) in [
        ("oldest transaction", "xact_start", "xact_start IS NOT NULL AND pid <> pg_backend_pid()"),
        ("idle transaction", "state_change", in_transaction),
        (
            "lock holder",
            "CASE WHEN xact_start IS NULL THEN state_change ELSE xact_start END",
            "pid = (SELECT pid FROM waited_for)",
        ),
    ] {
        let holder = HOLDER.replace("since", since);
        let _ = write!(
            sql,
            " UNION ALL (SELECT '{kind}', {holder} FROM s WHERE {which} ORDER BY {since} NULLS LAST LIMIT 1)"
        );
    }
    Some(sql)
}

fn decode(context: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let rows = statements.first().map(Vec::as_slice).unwrap_or_default();
    let about = context.about;
    let mut sessions = Sessions {
        max_connections: about.max_connections,
        reserved_connections: about.reserved_connections,
        superuser_reserved_connections: about.superuser_reserved_connections,
        ..Sessions::default()
    };
    let (mut states, mut databases) = (Tally::default(), Tally::default());
    let mut activity = Activity::default();
    for row in rows {
        let mut row = Fields::new(VIEW, row);
        match row.required("kind", Some)? {
            "state" => count(&mut states, &mut row)?,
            "user" => count(&mut sessions.by_user, &mut row)?,
            "application" => count(&mut sessions.by_application, &mut row)?,
            "client" => count(&mut sessions.by_client, &mut row)?,
            "database" => count(&mut databases, &mut row)?,
            "oldest transaction" => activity.oldest_transaction = Some(holder(&mut row)?),
            "lock holder" => activity.lock_holder = Some(holder(&mut row)?),
            "idle transaction" => activity.idle_transaction = Some(holder(&mut row)?),
            kind => {
                row.text("name")?;
                let count = row.required("count", number)?;
                match kind {
                    "all" => sessions.total = count,
                    "hidden" => sessions.hidden = count,
                    "idle in transaction" => activity.idle_in_transaction = count,
                    "idle for long" => activity.idle_long = count,
                    "waiting" => {
                        activity.waiting_on_locks = count;
                        row.text("names")?;
                        activity.longest_lock_wait = row.optional("waitstart", number)?.map(|age: f64| age.max(0.0));
                    }
                    _ => return Err(row.failure("kind", "none that was asked for")),
                }
            }
        }
    }
    for tally in [&mut sessions.by_user, &mut sessions.by_application, &mut sessions.by_client, &mut databases] {
        tally.named.sort_by(|left, right| (Reverse(left.1), &left.0).cmp(&(Reverse(right.1), &right.0)));
    }
    states.named.sort();
    sessions.by_state = states.named;
    sessions.by_database = Some(databases);
    sessions.activity = (sessions.hidden == 0).then(|| Box::new(activity));
    facts.sessions = Some(sessions);
    Ok(())
}

fn count(tally: &mut Tally, row: &mut Fields<'_, '_>) -> Result<(), PollFailure> {
    let name = row.text("name")?;
    let count = row.required("count", number)?;
    let Some(name) = name.map(|name| if name.is_empty() { "(none)" } else { name }) else {
        tally.others = count;
        tally.n_others = row.required("names", number)?;
        return Ok(());
    };
    match tally.named.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => *known = u64::saturating_add(*known, count),
        None => tally.named.push((name.to_owned(), count)),
    }
    Ok(())
}

fn holder(row: &mut Fields<'_, '_>) -> Result<Holder, PollFailure> {
    let user = row.text("usename")?.unwrap_or_default().to_owned();
    let pid = row.optional("pid", number)?;
    row.text("names")?;
    // A transaction may begin, by the same clock, after the statement that looks at it.
    let seconds = row.required("age", number::<f64>)?.max(0.0);
    let application = row.text("application_name")?.unwrap_or_default().to_owned();
    let state = row.text("state")?.unwrap_or("unknown").to_owned();
    let database = row.text("datname")?.map(str::to_owned);
    Ok(Holder { pid, seconds, user, application, state, database })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{about, context, decoded};
    use super::*;
    use crate::core::observation::Flavor;

    type Row = Vec<Option<&'static str>>;

    fn counted(kind: &'static str, name: Option<&'static str>, n: &'static str, names: &'static str) -> Row {
        vec![Some(kind), name, Some(n), Some(names), None, None, None, None]
    }

    fn summed(kind: &'static str, n: &'static str, seconds: Option<&'static str>) -> Row {
        vec![Some(kind), None, Some(n), None, seconds, None, None, None]
    }

    fn answer(hidden: &'static str) -> Rows<'static> {
        let application = Some("night's report");
        let (state, database) = (Some("idle in transaction"), Some("16384"));
        vec![
            counted("state", Some("idle"), "4", "1"),
            counted("state", Some("unknown"), "2", "1"),
            counted("state", Some("active"), "1", "1"),
            counted("user", Some("app"), "3", "1"),
            counted("user", Some("zoe"), "1", "1"),
            counted("user", Some("amy"), "1", "1"),
            counted("user", None, "2", "2"),
            counted("application", Some(""), "7", "1"),
            counted("client", Some("local"), "7", "1"),
            counted("database", Some("16384"), "7", "1"),
            summed("all", "7", None),
            summed("hidden", hidden, None),
            summed("idle in transaction", "1", None),
            summed("idle for long", "3", None),
            summed("waiting", "2", Some("1.5")),
            vec![
                Some("oldest transaction"),
                Some("app"),
                Some("4711"),
                None,
                Some("-1e-06"),
                application,
                state,
                database,
            ],
            vec![Some("idle transaction"), Some("app"), Some("4711"), None, Some("12.25"), application, state, None],
            vec![Some("lock holder"), Some("app"), Some("4711"), None, Some("60"), application, state, database],
        ]
    }

    fn sessions() -> Sessions {
        let named = |counts: &[(&str, u64)]| Tally {
            named: counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            ..Tally::default()
        };
        let holder = |seconds, database: Option<&str>| Holder {
            pid: Some(4711),
            seconds,
            user: "app".to_owned(),
            application: "night's report".to_owned(),
            state: "idle in transaction".to_owned(),
            database: database.map(str::to_owned),
        };
        Sessions {
            by_state: vec![("active".to_owned(), 1), ("idle".to_owned(), 4), ("unknown".to_owned(), 2)],
            total: 7,
            hidden: 0,
            max_connections: 100,
            reserved_connections: 3,
            superuser_reserved_connections: 3,
            by_user: Tally { others: 2, n_others: 2, ..named(&[("app", 3), ("amy", 1), ("zoe", 1)]) },
            by_application: named(&[("(none)", 7)]),
            by_client: named(&[("local", 7)]),
            by_database: Some(named(&[("16384", 7)])),
            activity: Some(Box::new(Activity {
                idle_in_transaction: 1,
                idle_long: 3,
                waiting_on_locks: 2,
                longest_lock_wait: Some(1.5),
                lock_holder: Some(holder(60.0, Some("16384"))),
                oldest_transaction: Some(holder(0.0, Some("16384"))),
                idle_transaction: Some(holder(12.25, None)),
            })),
        }
    }

    #[test]
    fn sessions_read_as_the_server_counts_them() {
        let about = about(Flavor::PostgreSql, "1.10");
        let expect = SurveyFacts { sessions: Some(sessions()), ..SurveyFacts::default() };
        assert_eq!(decoded(&TOPIC, context(&about), &[answer("0")]), Ok(expect));
    }

    #[test]
    fn while_sessions_are_hidden_they_are_counted_and_nothing_is_said_of_all() {
        let about = about(Flavor::PostgreSql, "1.10");
        let hidden = Sessions { hidden: 2, activity: None, ..sessions() };
        let expect = SurveyFacts { sessions: Some(hidden), ..SurveyFacts::default() };
        assert_eq!(decoded(&TOPIC, context(&about), &[answer("2")]), Ok(expect));
    }
}
