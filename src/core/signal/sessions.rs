//! Signals of the client sessions of a server.

use super::row::{per_target, state};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::survey::Sessions;
use crate::core::time::MonoTime;

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
        .help("Client sessions in use, as a share of those that ordinary roles may use.")
        .absent(SURVEY)
        .from("pg_stat_activity, max_connections"),
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
        *sum = Some(sum.unwrap_or(0) + count);
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
