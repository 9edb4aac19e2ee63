//! What replay waits for, and who is in its way: asked of a standby whose replay stands though there is WAL to replay.
//!
//! `pg_blocking_pids()` of the startup process is empty, so the lock that it waits for is looked up among those that are
//! held. On a standby nobody else may ask for an exclusive lock, so it is told by that, without any grant. Of a conflict
//! over a snapshot the worst is the session with the oldest one; of one over a pinned page it probably is.

use crate::collect::decode::{Fields, Rows, boolean, number, timestamp};
use crate::core::escape;
use crate::core::observation::{Blocker, PollFailure, ReplayWait, WaitsOn};

/// Two statements: the startup process' wait, and the session in its way. Both views are read by the functions below
/// them, the locks once.
pub(crate) const SQL: &str = "\
SELECT wait_event_type, wait_event FROM pg_stat_get_activity(NULL) WHERE backend_type = 'startup';\
WITH locks AS MATERIALIZED (\
SELECT pid, database, relation, mode, granted FROM pg_lock_status() WHERE locktype = 'relation'\
), holders AS MATERIALIZED (\
SELECT DISTINCT held.pid FROM locks wanted JOIN locks held USING (database, relation) \
WHERE NOT wanted.granted AND wanted.mode = 'AccessExclusiveLock' AND held.granted AND held.pid <> wanted.pid\
) SELECT holders.pid IS NOT NULL AS holds, pg_get_userbyid(usesysid), application_name, state, \
xact_start, count(holders.pid) OVER (), session.pid \
FROM pg_stat_get_activity(NULL) AS session LEFT JOIN holders USING (pid) \
WHERE session.pid <> pg_backend_pid() \
AND (holders.pid IS NOT NULL OR backend_type = 'client backend' AND backend_xmin IS NOT NULL) \
ORDER BY holds DESC, CASE WHEN holders.pid IS NULL THEN age(backend_xmin) END DESC NULLS LAST, xact_start LIMIT 1";

/// No name is longer: 63 bytes, each escaped. Characters.
const LONGEST_NAME: usize = 4 * 63;

pub(crate) fn decode(statements: &[Rows<'_>]) -> Result<ReplayWait, PollFailure> {
    let [startup, session] = statements else {
        return Err(Fields::new("pg_stat_activity", &[]).failure("*", "not the two results that were asked for"));
    };
    let mut on = match startup.first() {
        Some(row) => {
            let mut row = Fields::new("pg_stat_activity", row);
            waits_on(row.text("wait_event_type")?, row.text("wait_event")?)
        }
        None => WaitsOn::Hidden,
    };
    let Some(row) = session.first() else { return Ok(ReplayWait { on, blocker: None, n_holders: 0 }) };
    let mut row = Fields::new("pg_stat_activity", row);
    let holds = row.required("holds", boolean)?;
    let mut blocker = Blocker {
        pid: None,
        user: row.text("usename")?.map(cleaned),
        application: row.text("application_name")?.map_or_else(String::new, cleaned),
        is_idle: row.text("state")?.map(|state| state.starts_with("idle in transaction")),
        since: row.optional("xact_start", timestamp)?,
    };
    let n_holders = row.required("count", number)?;
    blocker.pid = row.optional("pid", number)?;
    if holds && matches!(on, WaitsOn::Hidden | WaitsOn::Nothing) {
        on = WaitsOn::Lock;
    }
    // A session merely has a snapshot, as every one that reads: no obstacle unless that is what replay waits for.
    let is_in_the_way = match on {
        WaitsOn::Lock => holds,
        _ => on.is_conflict(),
    };
    Ok(ReplayWait { on, blocker: is_in_the_way.then_some(blocker), n_holders })
}

fn waits_on(kind: Option<&str>, event: Option<&str>) -> WaitsOn {
    match (kind, event) {
        (None, _) => WaitsOn::Nothing,
        (Some("Lock"), _) => WaitsOn::Lock,
        (Some("BufferPin"), _) => WaitsOn::BufferPin,
        (Some("IO"), _) => WaitsOn::Io,
        (_, Some("RecoveryConflictSnapshot")) => WaitsOn::Snapshot,
        (_, Some("RecoveryConflictTablespace")) => WaitsOn::Tablespace,
        (_, Some("RecoveryApplyDelay")) => WaitsOn::ApplyDelay,
        (_, Some("RecoveryPause")) => WaitsOn::Pause,
        _ => WaitsOn::Other,
    }
}

/// Clients choose these: short, and without what would break a line.
fn cleaned(name: &str) -> String {
    escape::name(name).chars().take(LONGEST_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::ServerTime;

    type Row<'a> = Vec<Option<&'a str>>;

    fn check(startup: Option<Row<'_>>, session: Option<Row<'_>>, expect: (WaitsOn, Option<Blocker>, u64)) {
        let answer = [startup.into_iter().collect::<Rows<'_>>(), session.into_iter().collect()];
        let (on, blocker, n_holders) = expect;
        assert_eq!(decode(&answer), Ok(ReplayWait { on, blocker, n_holders }), "{answer:?}");
    }

    #[test]
    fn who_is_in_the_way_depends_on_what_is_waited_for() {
        let holder = vec![
            Some("t"),
            Some("report"),
            Some("meta\nbase"),
            Some("active"),
            Some("1970-01-01 00:06:00+00"),
            Some("2"),
            Some("4711"),
        ];
        let reader = vec![
            Some("f"),
            Some("report"),
            Some(""),
            Some("idle in transaction"),
            Some("1970-01-01 00:00:05+00"),
            Some("0"),
            Some("4711"),
        ];
        let hidden = vec![Some("t"), Some("report"), Some("metabase"), None, None, Some("1"), Some("4711")];
        let report = |application: &str, is_idle, since: Option<i64>| Blocker {
            pid: Some(4711),
            user: Some("report".to_owned()),
            application: application.to_owned(),
            is_idle,
            since: since.map(|second| ServerTime::from_unix_micros(second * 1_000_000)),
        };
        let wait = |kind, event| Some(vec![Some(kind), Some(event)]);
        let working = Some(vec![None, None]);
        let busy = report(r"meta\x0Abase", Some(false), Some(360));
        let idle = report("", Some(true), Some(5));
        check(wait("Lock", "relation"), Some(holder.clone()), (WaitsOn::Lock, Some(busy.clone()), 2));
        // Without the grant the lock is found all the same.
        check(None, Some(hidden), (WaitsOn::Lock, Some(report("metabase", None, None)), 1));
        check(working.clone(), Some(holder), (WaitsOn::Lock, Some(busy), 2));
        // The lock was let go in between: the reader has nothing to do with it.
        check(wait("Lock", "relation"), Some(reader.clone()), (WaitsOn::Lock, None, 0));
        for (kind, event, on) in [
            ("IPC", "RecoveryConflictSnapshot", WaitsOn::Snapshot),
            ("BufferPin", "BufferPin", WaitsOn::BufferPin),
            ("IPC", "RecoveryConflictTablespace", WaitsOn::Tablespace),
        ] {
            check(wait(kind, event), Some(reader.clone()), (on, Some(idle.clone()), 0));
        }
        for (kind, event, on) in [
            ("Timeout", "RecoveryApplyDelay", WaitsOn::ApplyDelay),
            ("IPC", "RecoveryPause", WaitsOn::Pause),
            ("IO", "DataFileRead", WaitsOn::Io),
            ("Activity", "RecoveryWalStream", WaitsOn::Other),
        ] {
            check(wait(kind, event), Some(reader.clone()), (on, None, 0));
        }
        check(working, Some(reader), (WaitsOn::Nothing, None, 0));
        check(None, None, (WaitsOn::Hidden, None, 0));
    }
}
