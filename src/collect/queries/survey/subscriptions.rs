//! Subscriptions of logical replication, of all databases: the catalog is shared, and so are workers and counters. The
//! states of tables are each database's own. Nothing here needs a grant: the connection string, which would, is not asked.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows, boolean, lsn, number, shared_name};
use crate::core::observation::PollFailure;
use crate::core::survey::{ApplyWorker, Subscription, SubscriptionWorkers, SurveyFacts, TABLE_STATES};
use crate::core::topology::Role;

pub(super) const TOPIC: Topic = Topic { name: "subscriptions", sql, decode };

/// Subscriptions of one server beyond this many are not told.
const MOST: usize = 500;

/// Standbys have their primary's subscriptions in the catalog, too, and never run them: one is not asked about any.
const OF_STANDBY: &str = "SELECT 1 WHERE false";
const PLACE: &str = "FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE NOT pg_is_in_recovery()";

/// PostgreSQL 13 shows no ordinary role the oid; the view for all does, by the name, which is unique in a database alone.
const SUBID_13: &str = "(SELECT max(v.subid) FROM pg_stat_subscription v WHERE v.subname = s.subname \
                        HAVING min(v.subid) = max(v.subid))";

/// From PostgreSQL 19 on there are sequences among the tables.
const TABLES_ALONE: &str = " JOIN pg_class c ON c.oid = srrelid AND c.relkind <> 'S'";

fn subid(context: Context<'_>) -> &'static str {
    if context.about.identity.version_num >= 140_000 { "s.oid" } else { SUBID_13 }
}

fn sql(context: Context<'_>) -> Option<String> {
    if context.role == Some(Role::Replica) {
        return Some(OF_STANDBY.to_owned());
    }
    let subid = subid(context);
    let has = |column: &str| context.about.subscription_columns.split(',').any(|name| name == column);
    let worker_type = match () {
        () if has("worker_type") => "worker_type",
        () if has("leader_pid") => {
            "CASE WHEN leader_pid IS NOT NULL THEN 'parallel apply' WHEN relid IS NULL THEN 'apply' END"
        }
        () => "CASE WHEN relid IS NULL THEN 'apply' END",
    };
    let mut sql = format!(
        "SELECT {subid}, d.datname, d.datname = current_database(), s.subname, s.subenabled, s.subslotname, \
         count(*) OVER () {PLACE} \
         ORDER BY d.datname, s.subname LIMIT {MOST};\
         SELECT subid, {worker_type}, received_lsn, latest_end_lsn, \
         extract(epoch FROM clock_timestamp() - last_msg_receipt_time) FROM pg_stat_get_subscription(NULL);\
         SELECT srsubid, srsubstate, count(*) FROM pg_subscription_rel{} GROUP BY srsubid, srsubstate",
        if context.about.identity.version_num >= 190_000 { TABLES_ALONE } else { "" }
    );
    for column in counters(context) {
        sql.push_str(if column.is_first { ";SELECT s.oid" } else { "" });
        sql.push_str(", st.");
        sql.push_str(column.name);
    }
    if counters(context).next().is_some() {
        sql.push_str(" FROM pg_subscription s, pg_stat_get_subscription_stats(s.oid) st");
    }
    Some(sql)
}

/// A counter of `pg_stat_get_subscription_stats()`.
struct Counter<'a> {
    name: &'a str,
    kind: Kind<'a>,
    is_first: bool,
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    Error(&'a str),
    Conflict(&'a str),
}

/// Told by their names, of which new majors bring more.
fn counters(context: Context<'_>) -> impl Iterator<Item = Counter<'_>> {
    let columns = context.about.subscription_stats_columns.split(',');
    let known = columns.filter_map(|name| {
        let kind = match name.strip_suffix("_error_count") {
            // PostgreSQL 19 counts sequences apart (`sync_seq`), and gave the counter of tables another name for that.
            Some("sync_table") => Kind::Error("sync"),
            Some(what) => Kind::Error(what),
            None => Kind::Conflict(name.strip_prefix("confl_")?),
        };
        Some((name, kind))
    });
    known.enumerate().map(|(place, (name, kind))| Counter { name, kind, is_first: place == 0 })
}

fn decode(context: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let (subscriptions, workers, tables, stats) = match statements {
        [none] if none.is_empty() => {
            facts.subscriptions = Some(Vec::new());
            return Ok(());
        }
        [subscriptions, workers, tables] => (subscriptions, workers, tables, None),
        [subscriptions, workers, tables, stats] => (subscriptions, workers, tables, Some(stats)),
        _ => return Err(Fields::new("pg_subscription", &[]).failure("*", "not the results that were asked for")),
    };
    if let Some(total) = subscriptions.first().and_then(|row| row.get(6).copied().flatten()).and_then(number::<usize>) {
        facts.subscriptions_left_out = total.saturating_sub(subscriptions.len());
    }
    let mut found = Vec::with_capacity(subscriptions.len());
    let mut places = HashMap::with_capacity(subscriptions.len());
    for row in subscriptions {
        let (subid, subscription) = subscription(row)?;
        if let Some(subid) = subid {
            places.insert(subid, found.len());
        }
        found.push(subscription);
    }
    for row in workers {
        worker(row, &places, &mut found)?;
    }
    for row in tables {
        table(row, &places, &mut found)?;
    }
    for row in stats.into_iter().flatten() {
        let mut row = Fields::new("pg_stat_subscription_stats", row);
        let place = places.get(&row.required("subid", number::<u32>)?);
        let Some(subscription) = place.and_then(|&place| found.get_mut(place)) else { continue };
        for Counter { name, kind, .. } in counters(context) {
            // A count is NULL for a subscription that was dropped meanwhile.
            let Some(count) = row.optional(name, number)? else { continue };
            match kind {
                Kind::Error(what) => subscription.errors.push((Arc::from(what), count)),
                Kind::Conflict(what) => subscription.conflicts.push((Arc::from(what), count)),
            }
        }
    }
    facts.subscriptions = Some(found);
    Ok(())
}

fn subscription(row: &[Option<&str>]) -> Result<(Option<u32>, Subscription), PollFailure> {
    let mut row = Fields::new("pg_subscription", row);
    let subid = row.optional("oid", number)?;
    let datname = row.required("subdbid", shared_name)?;
    let is_here = row.required("current_database", boolean)?;
    let subscription = Subscription {
        datname,
        name: row.required("subname", shared_name)?,
        enabled: row.required("subenabled", boolean)?,
        slot_name: row.optional("subslotname", shared_name)?,
        workers: subid.map(|_| SubscriptionWorkers::default()),
        tables: (is_here && subid.is_some()).then_some([0; TABLE_STATES.len()]),
        errors: Vec::new(),
        conflicts: Vec::new(),
    };
    Ok((subid, subscription))
}

fn worker(
    row: &[Option<&str>],
    places: &HashMap<u32, usize>,
    subscriptions: &mut [Subscription],
) -> Result<(), PollFailure> {
    let mut row = Fields::new("pg_stat_subscription", row);
    let place = places.get(&row.required("subid", number::<u32>)?);
    let subscription = place.and_then(|&place| subscriptions.get_mut(place));
    let Some(workers) = subscription.and_then(|subscription| subscription.workers.as_mut()) else { return Ok(()) };
    match row.text("worker_type")? {
        Some("apply") => {
            workers.apply = Some(ApplyWorker {
                received_lsn: row.optional("received_lsn", lsn)?,
                latest_end_lsn: row.optional("latest_end_lsn", lsn)?,
                message_age: row.optional("last_msg_receipt_time", number)?,
            });
        }
        Some("parallel apply") => workers.parallel_apply += 1,
        // A newer major's worker for something else than tables counts among those that synchronize.
        _ => workers.table_sync += 1,
    }
    Ok(())
}

fn table(
    row: &[Option<&str>],
    places: &HashMap<u32, usize>,
    subscriptions: &mut [Subscription],
) -> Result<(), PollFailure> {
    let mut row = Fields::new("pg_subscription_rel", row);
    let place = places.get(&row.required("srsubid", number::<u32>)?);
    let state = row.required("srsubstate", |letter| TABLE_STATES.iter().position(|(known, _)| *known == letter))?;
    let count = row.required("count", number::<u64>)?;
    let subscription = place.and_then(|&place| subscriptions.get_mut(place));
    if let Some(tables) = subscription.and_then(|subscription| subscription.tables.as_mut()) {
        tables[state] += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{about, context, decoded};
    use super::*;
    use crate::collect::queries::identity::Introduction;
    use crate::core::observation::Flavor;
    use crate::core::wal::Lsn;

    fn server(version_num: u32, columns: &str, stats: &str) -> Introduction {
        let mut about = about(Flavor::PostgreSql, "1.10");
        about.identity.version_num = version_num;
        about.subscription_columns = columns.into();
        about.subscription_stats_columns = stats.into();
        about
    }

    #[test]
    fn only_columns_that_the_server_has_are_asked() {
        let asked =
            |version_num, columns, stats| sql(context(&server(version_num, columns, stats))).unwrap_or_default();
        let old = asked(130_023, "subid,subid,relid,pid,received_lsn", "");
        assert!(!old.contains("s.oid") && !old.contains("leader_pid") && !old.contains("stats"), "{old}");
        let new =
            asked(180_004, "subid,relid,pid,leader_pid,worker_type", "subid,apply_error_count,confl_x,stats_reset");
        assert!(new.contains("SELECT subid, worker_type, received_lsn"), "{new}");
        assert!(
            new.ends_with(
                ";SELECT s.oid, st.apply_error_count, st.confl_x \
                 FROM pg_subscription s, pg_stat_get_subscription_stats(s.oid) st"
            ),
            "{new}"
        );
    }

    #[test]
    fn a_standby_runs_none_and_is_asked_about_none() {
        let about = server(150_018, "subid,relid", "subid,apply_error_count");
        let standby = Context { role: Some(Role::Replica), ..context(&about) };
        assert_eq!(sql(standby).as_deref(), Some(OF_STANDBY));
        let none = SurveyFacts { subscriptions: Some(Vec::new()), ..SurveyFacts::default() };
        assert_eq!(decoded(&TOPIC, standby, &[Vec::new()]), Ok(none));
        assert!(sql(Context { role: None, ..standby }).is_some_and(|sql| sql.contains("pg_subscription")));
    }

    #[test]
    fn a_subscription_has_its_workers_its_tables_and_its_counts() {
        // The counter of synchronized tables has another name from 19 on, and the same here.
        let about =
            server(190_000, "worker_type", "subid,apply_error_count,sync_table_error_count,confl_insert_exists");
        let answer = [
            vec![
                vec![Some("16400"), Some("app"), Some("t"), Some("orders"), Some("t"), Some("orders_slot"), Some("7")],
                vec![Some("16500"), Some("other"), Some("f"), Some("orders"), Some("f"), None],
                vec![None, Some("twin"), Some("t"), Some("twin"), Some("t"), Some("twin")],
            ],
            vec![
                vec![Some("16400"), Some("table synchronization"), None, None, Some("0.5")],
                vec![Some("16400"), Some("apply"), Some("0/5"), Some("0/6"), Some("1.25")],
                vec![Some("16400"), Some("parallel apply"), None, None, None],
                vec![Some("9"), Some("apply"), None, None, None],
            ],
            vec![
                vec![Some("16400"), Some("r"), Some("40")],
                vec![Some("16400"), Some("d"), Some("2")],
                vec![Some("9"), Some("r"), Some("1")],
            ],
            vec![vec![Some("16400"), Some("3"), Some("0"), Some("7")], vec![Some("16500"), None, None, None]],
        ];
        let subscription = Subscription {
            datname: "app".into(),
            name: "orders".into(),
            enabled: true,
            slot_name: Some("orders_slot".into()),
            workers: Some(SubscriptionWorkers {
                apply: Some(ApplyWorker {
                    received_lsn: Some(Lsn::new(5)),
                    latest_end_lsn: Some(Lsn::new(6)),
                    message_age: Some(1.25),
                }),
                parallel_apply: 1,
                table_sync: 1,
            }),
            tables: Some([0, 2, 0, 0, 40]),
            errors: vec![("apply".into(), 3), ("sync".into(), 0)],
            conflicts: vec![("insert_exists".into(), 7)],
        };
        let elsewhere = Subscription {
            datname: "other".into(),
            enabled: false,
            slot_name: None,
            workers: Some(SubscriptionWorkers::default()),
            tables: None,
            errors: vec![],
            conflicts: vec![],
            ..subscription.clone()
        };
        let not_told_apart = Subscription {
            datname: "twin".into(),
            name: "twin".into(),
            enabled: true,
            slot_name: Some("twin".into()),
            workers: None,
            ..elsewhere.clone()
        };
        let expect = SurveyFacts {
            subscriptions: Some(vec![subscription, elsewhere, not_told_apart]),
            subscriptions_left_out: 4,
            ..SurveyFacts::default()
        };
        assert_eq!(decoded(&TOPIC, context(&about), &answer), Ok(expect));
    }
}
