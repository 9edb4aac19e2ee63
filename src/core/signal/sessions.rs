//! Signals of the client sessions of a server.

use super::row::{per_target, state};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::survey::{Activity, Sessions, Tally};
use crate::core::time::MonoTime;

const HIDDEN: &str = "Sessions of other roles are hidden (`pg_monitor` shows them), or the last slow poll is stale.";
const SURVEY: &str = "The last slow poll is older than three slow beats, or there is none.";

/// States of client sessions that servers up to version 18 have, and ours for a state that may not be seen.
/// A state that is none of these counts as `other`, so that the label stays bounded.
const SESSION_STATES: [&str; 8] = [
    "active",
    "idle",
    "idle in transaction",
    "idle in transaction (aborted)",
    "fastpath function call",
    "disabled",
    "starting",
    "unknown",
];

pub(super) const ROWS: &[Signal] = &[
    per_target("connections", Unit::Count, connections)
        .labels(&["state"])
        .help("Client sessions by state; unknown where the role may not see the state.")
        .absent(SURVEY)
        .from("pg_stat_activity"),
    per_target("connections_max", Unit::Count, connections_max)
        .help("The limit of connections to the server.")
        .absent(SURVEY)
        .from("max_connections"),
    per_target("connections_reserved", Unit::Count, connections_reserved)
        .help("Connections that ordinary roles may not use.")
        .absent(SURVEY)
        .from("superuser_reserved_connections, reserved_connections"),
    per_target("connections_used_ratio", Unit::Ratio, connections_used_ratio)
        .says("uses {} of its connections")
        .help("Client sessions in use, as a share of those that ordinary roles may use.")
        .absent(SURVEY)
        .from("pg_stat_activity, max_connections"),
    per_target("connections_superuser_reserved", Unit::Count, connections_superuser_reserved)
        .help("Connections that superusers alone may use; part of those reserved.")
        .absent(SURVEY)
        .from("superuser_reserved_connections"),
    per_target("connections_exhausted_in_seconds", Unit::Seconds, connections_exhausted_in)
        .says("will have used up its connections in {}, at this rate")
        .none("is not about to use up its connections")
        .help("When those that ordinary roles may use are all in use, should they go on to grow as in the last ten minutes.")
        .absent("They do not grow, it is more than a day, or the last slow poll is stale.")
        .from("pg_stat_activity, max_connections"),
    per_target("connections_by_user", Unit::Count, |_, target, now, emit| tally(target, now, emit, |s| Some(&s.by_user)))
        .labels(&["usename"])
        .help("Client sessions by user: the ten with most, and `other`.")
        .absent(SURVEY)
        .from("pg_stat_activity"),
    per_target("connections_by_application", Unit::Count, |_, target, now, emit| tally(target, now, emit, |s| Some(&s.by_application)))
        .labels(&["application_name"])
        .help("Client sessions by application name: the ten with most, and `other`; `(none)` for those without.")
        .absent(SURVEY)
        .from("pg_stat_activity"),
    per_target("connections_by_client", Unit::Count, |_, target, now, emit| tally(target, now, emit, |s| Some(&s.by_client)))
        .labels(&["client_addr"])
        .help("Client sessions by client address: the ten with most, and `other`; `local` for Unix sockets, `unknown` where the role may not see it.")
        .absent(SURVEY)
        .from("pg_stat_activity"),
    per_target("connections_by_database", Unit::Count, |_, target, now, emit| tally(target, now, emit, |s| s.by_database.as_ref()))
        .labels(&["datname"])
        .help("Client sessions by database: the ten with most, and `other`.")
        .absent("The names of databases, or the last slow poll, could not be read.")
        .from("pg_stat_activity, pg_database"),
    per_target("connections_idle_in_transaction", Unit::Count, |_, target, now, emit| activity(target, now, emit, |a| Some(a.idle_in_transaction as f64)))
        .says("has {} [session|sessions] idle in a transaction")
        .help("Client sessions in an open transaction that execute nothing, aborted ones included.")
        .absent(HIDDEN)
        .from("pg_stat_activity"),
    per_target("connections_idle_long", Unit::Count, |_, target, now, emit| activity(target, now, emit, |a| Some(a.idle_long as f64)))
        .says("has {} [connection that has|connections that have] been idle for long")
        .help("Client sessions that are idle, outside of a transaction, for longer than `poll.idle_limit`.")
        .absent(HIDDEN)
        .from("pg_stat_activity.state_change"),
    per_target("connections_waiting_on_locks", Unit::Count, |_, target, now, emit| activity(target, now, emit, |a| Some(a.waiting_on_locks as f64)))
        .says("has {} [session that waits|sessions that wait] for a lock")
        .help("Client sessions that wait for a lock.")
        .absent(HIDDEN)
        .from("pg_stat_activity.wait_event_type"),
    per_target("lock_wait_longest_seconds", Unit::Seconds, |_, target, now, emit| activity(target, now, emit, |a| a.longest_lock_wait))
        .says("has a session that has waited {} for a lock")
        .none("has no session that waits for a lock")
        .help("For how long the session that waits longest for a lock has done so.")
        .absent("Nobody waits, PostgreSQL 13, or as `pgvigil_connections_waiting_on_locks`.")
        .from("pg_locks.waitstart"),
    per_target("transaction_oldest_seconds", Unit::Seconds, |_, target, now, emit| activity(target, now, emit, |a| Some(a.oldest_transaction.as_ref()?.seconds)))
        .says("has a transaction that is open for {}")
        .none("has no open transaction")
        .help("Age of the oldest transaction of a client session; the API and alerts say whose it is.")
        .absent("None is open, or as `pgvigil_connections_waiting_on_locks`.")
        .from("pg_stat_activity.xact_start"),
    per_target("idle_in_transaction_oldest_seconds", Unit::Seconds, |_, target, now, emit| activity(target, now, emit, |a| Some(a.idle_transaction.as_ref()?.seconds)))
        .says("has a session idle in its transaction for {}")
        .none("has no session idle in a transaction")
        .help("For how long the client session that is idle in its transaction for longest has been so; the API and alerts say whose it is.")
        .absent("None is, or as `pgvigil_connections_waiting_on_locks`.")
        .from("pg_stat_activity.state_change"),
];

fn sessions(target: &TargetView, now: MonoTime) -> Option<&Sessions> {
    target.fresh_survey(now)?.sessions.as_ref()
}

fn connections(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(sessions) = sessions(target, now) else { return Coverage::Unknown };
    let mut counts = [None::<u64>; SESSION_STATES.len()];
    let mut others = None::<u64>;
    for (session_state, count) in &sessions.by_state {
        let known = SESSION_STATES.iter().position(|known| known == session_state);
        let sum = known.map_or(&mut others, |position| &mut counts[position]);
        *sum = Some(sum.unwrap_or(0).saturating_add(*count));
    }
    let named = SESSION_STATES.iter().zip(counts).chain([(&"other", others)]);
    for (label, count) in named {
        if let Some(count) = count {
            emit(&[label], Value::exact(count as f64));
        }
    }
    Coverage::Complete
}
fn connections_max(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    state(emit, sessions(target, now).map(|sessions| sessions.max_connections as f64))
}

fn connections_reserved(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    state(emit, sessions(target, now).map(|sessions| sessions.reserved_connections as f64))
}

/// Sessions in use as a share of those that ordinary roles may use. `None` when they may use none.
pub fn used_ratio(sessions: &Sessions) -> Option<f64> {
    let usable = sessions.max_connections.checked_sub(sessions.reserved_connections).filter(|usable| *usable > 0)?;
    Some(sessions.total as f64 / usable as f64)
}

fn connections_used_ratio(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    state(emit, sessions(target, now).and_then(used_ratio))
}

fn connections_superuser_reserved(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    state(emit, sessions(target, now).map(|sessions| sessions.superuser_reserved_connections as f64))
}

fn connections_exhausted_in(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    if sessions(target, now).is_none() {
        return Coverage::Unknown;
    }
    state(emit, target.connections_exhausted_in);
    Coverage::Complete
}

/// The label of sessions under names that are not told. No name reads so: see [`crate::core::sessions`].
const OTHER: &str = "other";

fn tally(target: &TargetView, now: MonoTime, emit: Emit<'_>, of: fn(&Sessions) -> Option<&Tally>) -> Coverage {
    let Some(tally) = sessions(target, now).and_then(of) else { return Coverage::Unknown };
    // One that is called so itself counts among the others: a series is there once.
    let (namesake, named): (Vec<_>, Vec<_>) = tally.named.iter().partition(|(name, _)| name == OTHER);
    for (name, count) in named {
        emit(&[name], Value::exact(*count as f64));
    }
    let others = namesake.iter().fold(tally.others, |sum, (_, count)| sum.saturating_add(*count));
    if others > 0 {
        emit(&[OTHER], Value::exact(others as f64));
    }
    Coverage::Complete
}

/// States what is known of all sessions together. What nobody does has gone.
fn activity(target: &TargetView, now: MonoTime, emit: Emit<'_>, of: fn(&Activity) -> Option<f64>) -> Coverage {
    let Some(activity) = sessions(target, now).and_then(|sessions| sessions.activity.as_deref()) else {
        return Coverage::Unknown;
    };
    state(emit, of(activity));
    Coverage::Complete
}
