//! How each signal is read off a view. Every function either states what is known or says that it is not.

use std::collections::BTreeSet;

use super::{Coverage, Emit, Value};
use crate::core::lag::{Evidence, LagEstimate};
use crate::core::observation::{
    Positions, Receiver, ReplayPause, SenderState, Slot, StandbyState, StatementsAccess, SurveyFacts,
};
use crate::core::snapshot::{ClusterView, Stages, TargetView};
use crate::core::statements::{StatementCounters, StatementTotals};
use crate::core::time::MonoTime;
use crate::core::topology::Role;
use crate::core::wal::WalBytes;

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

const WAL_STATUSES: [&str; 4] = ["reserved", "extended", "unreserved", "lost"];

const SENDER_STATES: [(SenderState, &str); 5] = [
    (SenderState::Startup, "startup"),
    (SenderState::Catchup, "catchup"),
    (SenderState::Streaming, "streaming"),
    (SenderState::Backup, "backup"),
    (SenderState::Stopping, "stopping"),
];

/// States the one value of a signal without labels of its own.
fn state(emit: Emit<'_>, value: Option<f64>) -> Coverage {
    match value {
        Some(value) => {
            emit(&[], Value::exact(value));
            Coverage::Complete
        }
        None => Coverage::Unknown,
    }
}

fn bool_value(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn positions(target: &TargetView, now: MonoTime) -> Option<&Positions> {
    target.fresh(now).map(|answer| &*answer.positions)
}

/// States a value that only a standby has. On a primary there is nothing to state.
fn of_standby(
    target: &TargetView,
    now: MonoTime,
    emit: Emit<'_>,
    value: impl Fn(&Positions, &StandbyState) -> Option<f64>,
) -> Coverage {
    match positions(target, now) {
        None => Coverage::Unknown,
        Some(positions) => match positions.standby() {
            None => Coverage::Complete,
            Some(standby) => state(emit, value(positions, standby)),
        },
    }
}

pub(super) fn cluster_targets(cluster: &ClusterView, _: MonoTime, emit: Emit<'_>) -> Coverage {
    state(emit, Some(cluster.targets.len() as f64))
}

pub(super) fn cluster_targets_up(cluster: &ClusterView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let up = cluster.targets.iter().filter(|target| target.is_up() && target.fresh(now).is_some()).count();
    state(emit, all_tried(cluster).then_some(up as f64))
}

fn all_tried(cluster: &ClusterView) -> bool {
    cluster.targets.iter().all(|target| target.tried())
}

/// A primary that merely fell silent may still be one, so it counts for the upper bound; one that proved down does not.
pub(super) fn primaries(cluster: &ClusterView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    if !all_tried(cluster) {
        return Coverage::Unknown;
    }
    let (mut answering, mut silent) = (0u32, 0u32);
    for target in cluster.targets.iter().filter(|target| target.last_role() == Some(Role::Primary)) {
        if target.is_up() && target.fresh(now).is_some() {
            answering += 1;
        } else if !target.failing.as_ref().is_some_and(|failing| failing.failure.proves_down()) {
            silent += 1;
        }
    }
    let value = f64::from(answering);
    emit(&[], Value { value, lower: value, upper: f64::from(answering + silent) });
    Coverage::Complete
}

pub(super) fn system_identifiers(cluster: &ClusterView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let identifiers: BTreeSet<u64> =
        cluster.targets.iter().filter_map(|target| positions(target, now)?.identity.system_identifier).collect();
    state(emit, (!identifiers.is_empty()).then_some(identifiers.len() as f64))
}

pub(super) fn target_up(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    // An answer that has gone stale without a failure means that nobody asks any more: it is not seen to be up.
    let up = target.is_up() && target.fresh(now).is_some();
    state(emit, target.tried().then(|| bool_value(up)))
}

pub(super) fn target_failure(_: &ClusterView, target: &TargetView, _: MonoTime, emit: Emit<'_>) -> Coverage {
    if let Some(failing) = &target.failing {
        emit(&[failing.failure.kind()], Value::exact(1.0));
    }
    if target.tried() { Coverage::Complete } else { Coverage::Unknown }
}

pub(super) fn target_info(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(positions) = positions(target, now) else { return Coverage::Unknown };
    let identity = &positions.identity;
    // `15.18 (Debian 15.18-1)`: the packager's part is of no use in a label.
    let version = identity.version.split(' ').next().unwrap_or_default();
    let yes_no = |holds: bool| if holds { "true" } else { "false" };
    emit(
        &[positions.role().as_str(), version, identity.flavor.as_str(), yes_no(identity.tls), yes_no(identity.pooled)],
        Value::exact(1.0),
    );
    Coverage::Complete
}

pub(super) fn observation_age(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    state(emit, target.answer.as_ref().map(|answer| now.duration_since(answer.answered_at).as_secs_f64()))
}

pub(super) fn survey_age(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    state(emit, target.survey.as_ref().map(|survey| now.duration_since(survey.answered_at).as_secs_f64()))
}

/// What a role or a database lacks, so that something is not measured. At most three words, in this order.
pub fn lacking(positions: &Positions) -> impl Iterator<Item = &'static str> {
    let identity = &positions.identity;
    [
        (!identity.reads_all_stats).then_some("pg_monitor"),
        match identity.statements {
            StatementsAccess::NotCreated => Some("pg_stat_statements_extension"),
            StatementsAccess::NotLoaded => Some("pg_stat_statements_library"),
            StatementsAccess::Readable { .. } => None,
        },
        identity.system_identifier.is_none().then_some("system_identifier"),
    ]
    .into_iter()
    .flatten()
}

pub(super) fn missing(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(positions) = positions(target, now) else { return Coverage::Unknown };
    for what in lacking(positions) {
        emit(&[what], Value::exact(1.0));
    }
    Coverage::Complete
}

pub(super) fn server_start_time(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    state(emit, positions(target, now).map(|positions| positions.identity.started_at.unix_seconds()))
}

pub(super) fn timeline(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let timeline = target.fresh(now).and_then(|_| target.timeline());
    state(emit, timeline.map(|timeline| f64::from(timeline.0)))
}

pub(super) fn wal_position(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let lsn = target.fresh(now).and_then(|_| target.lsn());
    state(emit, lsn.map(|lsn| lsn.as_u64() as f64))
}

/// The estimate, while someone keeps it up to date: the target answers, or is known to be silent.
fn estimate(target: &TargetView, now: MonoTime) -> Option<&LagEstimate> {
    target.lag.as_ref().filter(|_| is_attended(target, now))
}

fn is_attended(target: &TargetView, now: MonoTime) -> bool {
    target.failing.is_some() || target.fresh(now).is_some()
}

/// Nothing is stated about the lag: because there is none to state, or because it is not known.
fn silence_about_lag(target: &TargetView, now: MonoTime) -> Coverage {
    match positions(target, now) {
        Some(positions) if target.is_up() && positions.role() == Role::Primary => Coverage::Complete,
        _ => Coverage::Unknown,
    }
}

fn of_lag(target: &TargetView, now: MonoTime, emit: Emit<'_>, part: impl Fn(&LagEstimate, f64) -> Value) -> Coverage {
    let stated = estimate(target, now).and_then(|lag| Some((lag, lag.value?)));
    match stated {
        Some((lag, value)) => {
            emit(&[], part(lag, value));
            Coverage::Complete
        }
        None => silence_about_lag(target, now),
    }
}

pub(super) fn replay_lag(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_lag(target, now, emit, |lag, value| Value { value, lower: lag.lower, upper: lag.upper })
}

pub(super) fn replay_lag_lower(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_lag(target, now, emit, |lag, _| Value::exact(lag.lower))
}

pub(super) fn replay_lag_upper(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_lag(target, now, emit, |lag, _| Value::exact(lag.upper))
}

pub(super) fn replay_lag_info(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(lag) = estimate(target, now) else { return silence_about_lag(target, now) };
    if lag.method.evidence == Evidence::OtherPrimary && !target.is_up() {
        return Coverage::Unknown;
    }
    emit(&[lag.certainty.as_str(), &lag.method.to_string()], Value::exact(1.0));
    Coverage::Complete
}

/// Bytes have the bounds of the positions they are the difference of: the primary may have written more since it was last
/// heard, and a silent replica may have replayed more.
fn of_stages(
    cluster: &ClusterView,
    target: &TargetView,
    now: MonoTime,
    emit: Emit<'_>,
    part: impl Fn(&Stages) -> Option<WalBytes>,
) -> Coverage {
    let stages = target.stages.as_ref().filter(|_| is_attended(target, now));
    let Some(bytes) = stages.and_then(part) else { return silence_about_lag(target, now) };
    let value = bytes.0 as f64;
    let lower = if target.failing.is_some() { 0.0 } else { value };
    let upper = if cluster.hears_primary(now) { value } else { f64::INFINITY };
    emit(&[], Value { value, lower, upper });
    Coverage::Complete
}

pub(super) fn send_lag_bytes(cluster: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_stages(cluster, target, now, emit, |stages| stages.unsent)
}

pub(super) fn receive_lag_bytes(cluster: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_stages(cluster, target, now, emit, |stages| stages.unreceived)
}

pub(super) fn flush_lag_bytes(cluster: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_stages(cluster, target, now, emit, |stages| stages.unflushed)
}

pub(super) fn replay_lag_bytes(cluster: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_stages(cluster, target, now, emit, |stages| stages.unreplayed)
}

/// PostgreSQL's own measurement. With a row in hand NULL means caught up and idle; without one it is unknown.
fn of_own_lag(target: &TargetView, now: MonoTime, emit: Emit<'_>, part: impl Fn(&Stages) -> Option<i64>) -> Coverage {
    let Some(stages) = target.stages.as_ref().filter(|_| target.fresh(now).is_some()) else {
        return silence_about_lag(target, now);
    };
    match part(stages) {
        Some(micros) => state(emit, Some(micros as f64 / 1e6)),
        None if stages.unsent.is_some() => Coverage::Complete,
        None => Coverage::Unknown,
    }
}

pub(super) fn sender_write_lag(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_own_lag(target, now, emit, |stages| stages.own_lag.write_us)
}

pub(super) fn sender_flush_lag(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_own_lag(target, now, emit, |stages| stages.own_lag.flush_us)
}

pub(super) fn sender_replay_lag(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_own_lag(target, now, emit, |stages| stages.own_lag.replay_us)
}

pub(super) fn receiver_running(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_standby(target, now, emit, |_, standby| Some(bool_value(standby.receiver != Receiver::Absent)))
}

pub(super) fn receiver_message_age(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_standby(target, now, emit, |positions, standby| {
        let received_at = standby.receiver.running()?.last_msg_received_at?;
        Some(positions.clock.seconds_since(received_at).max(0.0))
    })
}

pub(super) fn replay_paused(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_standby(target, now, emit, |_, standby| Some(bool_value(standby.pause != ReplayPause::NotPaused)))
}

pub(super) fn apply_delay(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_standby(target, now, emit, |_, _| Some(target.fresh_survey(now)?.apply_delay_seconds))
}

pub(super) fn wal_senders(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(positions) = positions(target, now) else { return Coverage::Unknown };
    let count = |state: Option<SenderState>| positions.senders.iter().filter(|sender| sender.state == state).count();
    let hidden = count(None);
    for (sender_state, label) in SENDER_STATES {
        let n_senders = count(Some(sender_state));
        // Zero is worth a word where replicas should be streaming, unless one of those that may not be seen may be.
        if n_senders > 0 || (sender_state == SenderState::Streaming && hidden == 0) {
            emit(&[label], Value::exact(n_senders as f64));
        }
    }
    if hidden > 0 {
        emit(&["unknown"], Value::exact(hidden as f64));
        return Coverage::Unknown;
    }
    Coverage::Complete
}

pub(super) fn connections(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(survey) = target.fresh_survey(now) else { return Coverage::Unknown };
    let mut counts = [None::<u64>; SESSION_STATES.len()];
    let mut others = None::<u64>;
    for (session_state, count) in &survey.sessions.by_state {
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

fn of_survey(
    target: &TargetView,
    now: MonoTime,
    emit: Emit<'_>,
    part: impl Fn(&SurveyFacts) -> Option<f64>,
) -> Coverage {
    state(emit, target.fresh_survey(now).and_then(part))
}

pub(super) fn connections_max(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_survey(target, now, emit, |survey| Some(survey.sessions.max_connections as f64))
}

pub(super) fn connections_reserved(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_survey(target, now, emit, |survey| Some(survey.sessions.reserved_connections as f64))
}

/// Sessions in use as a share of those that ordinary roles may use. `None` when they may use none.
pub fn used_ratio(survey: &SurveyFacts) -> Option<f64> {
    let sessions = &survey.sessions;
    let usable = sessions.max_connections.checked_sub(sessions.reserved_connections).filter(|usable| *usable > 0)?;
    Some(sessions.total as f64 / usable as f64)
}

pub(super) fn connections_used_ratio(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_survey(target, now, emit, used_ratio)
}

/// States a value for each slot that has one. Should two slots come with one name, the first is stated.
fn of_slots(target: &TargetView, now: MonoTime, emit: Emit<'_>, value: impl Fn(&Slot) -> Option<f64>) -> Coverage {
    let Some(survey) = target.fresh_survey(now) else { return Coverage::Unknown };
    for slot in each_once(&survey.slots) {
        if let Some(value) = value(slot) {
            emit(&[&slot.name], Value::exact(value));
        }
    }
    Coverage::Complete
}

fn each_once(slots: &[Slot]) -> impl Iterator<Item = &Slot> {
    slots
        .iter()
        .enumerate()
        .filter(|(position, slot)| !slots[..*position].iter().any(|earlier| earlier.name == slot.name))
        .map(|(_, slot)| slot)
}

pub(super) fn slot_active(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_slots(target, now, emit, |slot| Some(bool_value(slot.active)))
}

pub(super) fn slot_retained(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_slots(target, now, emit, |slot| Some(slot.retained_bytes? as f64))
}

pub(super) fn slot_inactive_retained(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_slots(target, now, emit, |slot| if slot.active { None } else { Some(slot.retained_bytes? as f64) })
}

pub(super) fn slot_safe_wal(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_slots(target, now, emit, |slot| Some(slot.safe_wal_size? as f64))
}

pub(super) fn slot_wal_status(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(survey) = target.fresh_survey(now) else { return Coverage::Unknown };
    for slot in each_once(&survey.slots) {
        if let Some(status) = &slot.wal_status {
            let known = WAL_STATUSES.iter().find(|known| *known == status).unwrap_or(&"other");
            emit(&[&slot.name, known], Value::exact(1.0));
        }
    }
    Coverage::Complete
}

/// The counters, while the survey that moved them last is fresh. `Err` says what silence means.
fn counters(target: &TargetView, now: MonoTime) -> Result<&StatementCounters, Coverage> {
    let Some(_) = target.fresh_survey(now) else { return Err(Coverage::Unknown) };
    target.statements.as_deref().ok_or(Coverage::Complete)
}

pub(super) fn databases(
    target: &TargetView,
    now: MonoTime,
    emit: Emit<'_>,
    part: fn(&StatementTotals) -> f64,
) -> Coverage {
    let counters = match counters(target, now) {
        Ok(counters) => counters,
        Err(coverage) => return coverage,
    };
    for (position, (datname, totals)) in counters.databases.iter().enumerate() {
        if !counters.databases[..position].iter().any(|(earlier, _)| earlier == datname) {
            emit(&[datname], Value::exact(part(totals)));
        }
    }
    Coverage::Complete
}

pub(super) fn top(target: &TargetView, now: MonoTime, emit: Emit<'_>, part: fn(&StatementTotals) -> f64) -> Coverage {
    let counters = match counters(target, now) {
        Ok(counters) => counters,
        Err(coverage) => return coverage,
    };
    for (position, statement) in counters.top.iter().enumerate() {
        let repeats = counters.top[..position]
            .iter()
            .any(|earlier| earlier.queryid == statement.queryid && earlier.datname == statement.datname);
        if !repeats {
            let queryid = statement.queryid.to_string();
            emit(&[&statement.datname, &queryid], Value::exact(part(&statement.totals)));
        }
    }
    Coverage::Complete
}

pub(super) fn statements_evictions(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    match counters(target, now) {
        Ok(counters) => state(emit, counters.evictions.map(|evictions| evictions as f64)),
        Err(coverage) => coverage,
    }
}

pub(super) fn statements_resets(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    match counters(target, now) {
        Ok(counters) => state(emit, Some(counters.resets as f64)),
        Err(coverage) => coverage,
    }
}
