//! Client sessions.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows, boolean, number};
use crate::core::escape;
use crate::core::observation::PollFailure;
use crate::core::survey::{self, Activity, Holder, Sessions, SurveyFacts, Tally};

pub(super) const TOPIC: Topic = Topic { name: "sessions", sql, decode };

/// What the failures name.
const VIEW: &str = "pg_stat_activity";

/// Names of one kind that are told one by one: more than have series, so that the choice can be kept from one survey to
/// the next.
const MAX_NAMES: usize = 50;

const IN_TRANSACTION: [&str; 2] = ["idle in transaction", "idle in transaction (aborted)"];

/// Client sessions, from the function below `pg_stat_activity`: the view's joins cost five times as much. It is called
/// once, and those that have everything that is told of them in common are one row. To count them by each thing is left
/// to us: the server would take five times as long to plan it as all this takes.
///
/// Without the grant, of other roles' sessions only database, user and application are shown. Those are counted, state
/// unknown (so are then the few parallel workers). Databases have no names here: those are another topic's, which may
/// wait for a lock.
fn sql(context: Context<'_>) -> Option<String> {
    let idle_ms = context.wanted.idle_limit.as_millis();
    // Only where somebody waits: it stops all who lock, for a moment. When a wait began is told from 14 on.
    let (longest_wait, blocker) = if context.about.identity.version_num >= 140_000 {
        (
            "CASE WHEN waits THEN (SELECT date_part('epoch', clock_timestamp() - min(waitstart)) \
             FROM pg_lock_status() WHERE NOT granted) END",
            "(SELECT CASE WHEN EXISTS (SELECT FROM s WHERE waits) THEN (pg_blocking_pids((SELECT pid \
             FROM pg_lock_status() WHERE NOT granted ORDER BY waitstart LIMIT 1)))[1] END)",
        )
    } else {
        ("NULL", "NULL::int")
    };
    let age = |since: &str| format!("date_part('epoch', statement_timestamp() - {since})");
    let (transaction, state) = (age("(array_agg(xact_start ORDER BY xact_start, pid))[1]"), age("min(state_change)"));
    Some(format!(
        "WITH s AS MATERIALIZED (SELECT pid, backend_type IS NULL AS hidden, datid, usesysid, application_name, \
         client_addr, state, wait_event_type = 'Lock' AS waits, state_change, \
         CASE WHEN pid <> pg_backend_pid() THEN xact_start END AS xact_start FROM pg_stat_get_activity(NULL) \
         WHERE backend_type = 'client backend' OR backend_type IS NULL AND datid IS NOT NULL AND usesysid IS NOT NULL) \
         SELECT count(*), hidden, datid, pg_get_userbyid(usesysid), application_name, host(client_addr), state, waits, \
         sum((state_change < statement_timestamp() - interval '{idle_ms} ms')::int), \
         {transaction}, (array_agg(pid ORDER BY xact_start, pid))[1], {state}, (array_agg(pid ORDER BY state_change, pid))[1], \
         {longest_wait}, pid = {blocker} FROM s \
         GROUP BY hidden, datid, usesysid, application_name, client_addr, state, waits, 15"
    ))
}

/// Sessions that have all that is told of them in common.
struct Alike<'a> {
    count: u64,
    is_hidden: bool,
    database: Option<&'a str>,
    user: Option<Cow<'a, str>>,
    application: Option<Cow<'a, str>>,
    client: Option<&'a str>,
    state: Option<&'a str>,
    waits_for_lock: bool,
    /// How many have been in this state for longer than a session may be idle.
    for_long: Option<u64>,
    /// Seconds of the oldest transaction.
    transaction: Option<f64>,
    transaction_pid: Option<i32>,
    /// Seconds of the one that has been in this state for longest.
    in_state: Option<f64>,
    in_state_pid: Option<i32>,
    longest_lock_wait: Option<f64>,
    /// It is the one that the longest wait for a lock waits for.
    holds_lock: bool,
}

impl<'a> Alike<'a> {
    fn read(row: &[Option<&'a str>]) -> Result<Self, PollFailure> {
        let mut row = Fields::new(VIEW, row);
        Ok(Self {
            count: row.required("count", number)?,
            is_hidden: row.required("backend_type", boolean)?,
            database: row.text("datid")?,
            user: row.text("usename")?.map(escape::name),
            application: row.text("application_name")?.map(escape::name),
            client: row.text("client_addr")?,
            state: row.text("state")?,
            waits_for_lock: row.optional("wait_event_type", boolean)?.unwrap_or(false),
            for_long: row.optional("idle", number)?,
            transaction: row.optional("xact_start", number)?,
            transaction_pid: row.optional("pid", number)?,
            in_state: row.optional("state_change", number)?,
            in_state_pid: row.optional("pid", number)?,
            longest_lock_wait: row.optional("waitstart", number)?,
            holds_lock: row.optional("pg_blocking_pids", boolean)?.unwrap_or(false),
        })
    }

    fn is_in_transaction(&self) -> bool {
        self.state.is_some_and(|state| IN_TRANSACTION.contains(&state))
    }

    /// What has gone on for so many seconds. It may have begun, by the same clock, after the statement that looks at it.
    fn holder(&self, seconds: f64, pid: Option<i32>) -> Holder {
        Holder {
            pid,
            seconds: seconds.max(0.0),
            user: self.user.as_deref().unwrap_or_default().to_owned(),
            application: self.application.as_deref().unwrap_or_default().to_owned(),
            state: self.state.unwrap_or("unknown").to_owned(),
            database: self.database.map(str::to_owned),
        }
    }
}

fn decode(context: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let rows = statements.first().map(Vec::as_slice).unwrap_or_default();
    let alike: Vec<Alike<'_>> = rows.iter().map(|row| Alike::read(row)).collect::<Result<_, _>>()?;
    let about = context.about;
    let count = |is_meant: &dyn Fn(&Alike<'_>) -> bool| -> u64 {
        sum(alike.iter().filter(|alike| is_meant(alike)).map(|alike| alike.count))
    };
    let hidden = count(&|alike| alike.is_hidden);
    let mut states = tally(&alike, |alike| Some(alike.state.unwrap_or("unknown")));
    states.named.sort();
    let mut activity = Activity {
        idle_in_transaction: count(&|alike| alike.is_in_transaction()),
        idle_long: sum(alike.iter().filter(|alike| alike.state == Some("idle")).filter_map(|alike| alike.for_long)),
        waiting_on_locks: count(&|alike| alike.waits_for_lock),
        longest_lock_wait: alike.iter().find_map(|alike| alike.longest_lock_wait).map(|age| age.max(0.0)),
        ..Activity::default()
    };
    let (mut oldest, mut idle): (Option<f64>, Option<f64>) = (None, None);
    for alike in &alike {
        if let Some(age) = alike.transaction.filter(|age| oldest.is_none_or(|oldest| *age > oldest)) {
            oldest = Some(age);
            activity.oldest_transaction = Some(alike.holder(age, alike.transaction_pid));
        }
        let in_state = alike.in_state.filter(|_| alike.is_in_transaction());
        if let Some(age) = in_state.filter(|age| idle.is_none_or(|idle| *age > idle)) {
            idle = Some(age);
            activity.idle_transaction = Some(alike.holder(age, alike.in_state_pid));
        }
        if alike.holds_lock {
            // Outside a transaction it can hold one as well: since when is not told.
            let age = alike.transaction.or(alike.in_state);
            activity.lock_holder = age.map(|age| alike.holder(age, alike.in_state_pid));
        }
    }
    facts.sessions = Some(Sessions {
        by_state: states.named,
        total: count(&|_| true),
        hidden,
        max_connections: about.max_connections,
        reserved_connections: about.reserved_connections,
        superuser_reserved_connections: about.superuser_reserved_connections,
        by_user: tally(&alike, |alike| alike.user.as_deref()),
        by_application: tally(&alike, |alike| alike.application.as_deref()),
        by_client: tally(&alike, |alike| {
            Some(if alike.is_hidden { "unknown" } else { alike.client.unwrap_or("local") })
        }),
        by_database: Some(tally(&alike, |alike| alike.database)),
        by_database_and_state: by_database_and_state(&alike),
        activity: (hidden == 0).then(|| Box::new(activity)),
    });
    Ok(())
}

/// Of as many databases as are counted one by one.
fn by_database_and_state(alike: &[Alike<'_>]) -> Vec<survey::Alike> {
    let databases = tally(alike, |alike| alike.database).named;
    let mut sums: BTreeMap<(&str, &str), (u64, Option<f64>)> = BTreeMap::new();
    for alike in alike {
        let Some(database) = alike.database.filter(|oid| databases.iter().any(|(named, _)| named == oid)) else {
            continue;
        };
        let (count, oldest) = sums.entry((database, alike.state.unwrap_or("unknown"))).or_default();
        *count = count.saturating_add(alike.count);
        *oldest = alike.transaction.map(|age| age.max(0.0)).into_iter().chain(*oldest).reduce(f64::max);
    }
    let alike = |((database, state), (count, oldest_transaction_seconds)): ((&str, &str), _)| survey::Alike {
        database: database.to_owned(),
        state: state.to_owned(),
        count,
        oldest_transaction_seconds,
    };
    sums.into_iter().map(alike).collect()
}

/// A server that raves may count more than there can be.
fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

/// Counts sessions by a name. Those without one are under one other name.
fn tally(alike: &[Alike<'_>], name: impl for<'b> Fn(&'b Alike<'_>) -> Option<&'b str>) -> Tally {
    let mut counts: HashMap<Option<&str>, u64> = HashMap::new();
    for alike in alike {
        let count = counts.entry(name(alike)).or_default();
        *count = count.saturating_add(alike.count);
    }
    let nameless = counts.remove(&None);
    let mut ranked: Vec<(&str, u64)> = counts.into_iter().filter_map(|(name, count)| Some((name?, count))).collect();
    ranked.sort_by_key(|(name, count)| (Reverse(*count), *name));
    let others = ranked.split_off(ranked.len().min(MAX_NAMES));
    let named = |(name, count): (&str, u64)| (if name.is_empty() { "(none)" } else { name }.to_owned(), count);
    Tally {
        named: ranked.into_iter().map(named).collect(),
        others: sum(others.iter().map(|(_, count)| *count).chain(nameless)),
        n_others: others.len() as u64 + u64::from(nameless.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{about, context, decoded};
    use super::*;
    use crate::core::observation::Flavor;

    /// `count hidden datid user application address state waits idle transaction pid in_state pid lock_wait holds`; `-` is NULL.
    fn answer(rows: &[&'static str]) -> Rows<'static> {
        let value = |word: &'static str| match word {
            "-" => None,
            "''" => Some(""),
            word => Some(word),
        };
        rows.iter().map(|row| row.split_whitespace().map(value).collect()).collect()
    }

    const SHOWN: [&str; 6] = [
        "3 f 16384 app web 10.0.0.7 idle f 2 - 21 4000.5 22 - f",
        "1 f 16384 app report 10.0.0.8 active t 0 -1e-06 23 0.5 23 1.5 f",
        "1 f 16384 zoe '' - active t 0 30.5 24 0.25 24 1.5 f",
        "1 f 5 amy '' - idle f 1 - 25 7200 25 - f",
        "1 f 5 app report - idle/in/transaction f 0 40.5 26 12.25 26 - t",
        "2 f - - web 10.0.0.7 - f - - 27 - 27 - -",
    ];

    fn rows(rows: &[&'static str]) -> Rows<'static> {
        let mut rows = answer(rows);
        for value in rows.iter_mut().flatten().flatten() {
            if *value == "idle/in/transaction" {
                *value = "idle in transaction";
            }
        }
        rows
    }

    fn sessions(statement: Rows<'_>) -> Sessions {
        let about = about(Flavor::PostgreSql, "1.10");
        decoded(&TOPIC, context(&about), &[statement]).expect("is read").sessions.expect("has sessions")
    }

    fn named(counts: &[(&str, u64)]) -> Tally {
        let named = counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Tally { named, ..Tally::default() }
    }

    #[test]
    fn sessions_are_counted_by_each_thing_and_the_oldest_are_told() {
        let expect = Sessions {
            by_state: [("active", 2), ("idle", 4), ("idle in transaction", 1), ("unknown", 2)]
                .map(|(state, count)| (state.to_owned(), count))
                .to_vec(),
            total: 9,
            hidden: 0,
            max_connections: 100,
            reserved_connections: 3,
            superuser_reserved_connections: 3,
            by_user: Tally { others: 2, n_others: 1, ..named(&[("app", 5), ("amy", 1), ("zoe", 1)]) },
            by_application: named(&[("web", 5), ("(none)", 2), ("report", 2)]),
            by_client: named(&[("10.0.0.7", 5), ("local", 3), ("10.0.0.8", 1)]),
            by_database: Some(Tally { others: 2, n_others: 1, ..named(&[("16384", 5), ("5", 2)]) }),
            by_database_and_state: [
                ("16384", "active", 2, Some(30.5)),
                ("16384", "idle", 3, None),
                ("5", "idle", 1, None),
                ("5", "idle in transaction", 1, Some(40.5)),
            ]
            .map(|(database, state, count, oldest_transaction_seconds)| survey::Alike {
                database: database.to_owned(),
                state: state.to_owned(),
                count,
                oldest_transaction_seconds,
            })
            .to_vec(),
            activity: Some(Box::new(Activity {
                idle_in_transaction: 1,
                idle_long: 3,
                waiting_on_locks: 2,
                longest_lock_wait: Some(1.5),
                lock_holder: Some(Holder {
                    pid: Some(26),
                    seconds: 40.5,
                    user: "app".to_owned(),
                    application: "report".to_owned(),
                    state: "idle in transaction".to_owned(),
                    database: Some("5".to_owned()),
                }),
                oldest_transaction: Some(Holder {
                    pid: Some(26),
                    seconds: 40.5,
                    user: "app".to_owned(),
                    application: "report".to_owned(),
                    state: "idle in transaction".to_owned(),
                    database: Some("5".to_owned()),
                }),
                idle_transaction: Some(Holder {
                    pid: Some(26),
                    seconds: 12.25,
                    user: "app".to_owned(),
                    application: "report".to_owned(),
                    state: "idle in transaction".to_owned(),
                    database: Some("5".to_owned()),
                }),
            })),
        };
        assert_eq!(sessions(rows(&SHOWN)), expect);
    }

    #[test]
    fn a_transaction_that_began_just_now_is_not_of_the_future() {
        let just_begun = sessions(rows(&SHOWN[1..2])).activity.expect("all is seen").oldest_transaction;
        assert_eq!(just_begun.map(|holder| holder.seconds), Some(0.0));
        let none = sessions(rows(&SHOWN[..1])).activity.expect("all is seen");
        assert_eq!((none.oldest_transaction, none.idle_transaction, none.lock_holder), (None, None, None));
    }

    #[test]
    fn while_sessions_are_hidden_they_are_counted_and_nothing_is_said_of_all() {
        let seen = sessions(rows(&[SHOWN[0], "2 t 16384 bob web - - - - - 28 - 28 - -"]));
        assert_eq!((seen.total, seen.hidden, seen.activity), (5, 2, None));
        assert_eq!(seen.by_client, named(&[("10.0.0.7", 3), ("unknown", 2)]));
        assert_eq!(seen.by_state, [("idle".to_owned(), 3), ("unknown".to_owned(), 2)]);
    }

    #[test]
    fn names_beyond_those_that_are_told_are_one_number() {
        let names: Vec<String> = (0..60).map(|number| format!("app-{number:02}")).collect();
        let row = |name: &String| -> Vec<Option<&'static str>> {
            let mut row = rows(&SHOWN[..1]).remove(0);
            row[4] = Some(Box::leak(name.clone().into_boxed_str()));
            row
        };
        let by_application = sessions(names.iter().map(row).collect()).by_application;
        assert_eq!(by_application.named.len(), MAX_NAMES);
        assert_eq!(by_application.named[0], ("app-00".to_owned(), 3));
        assert_eq!((by_application.others, by_application.n_others), (30, 10));
    }
}
