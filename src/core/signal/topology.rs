//! Signals of who follows whom.

use super::row::{bool_value, of_standby, per_target, positions, state};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::observation::{Positions, Receiver, SenderState};
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::time::MonoTime;
use crate::core::topology::Role;
use crate::core::topology::links::Upstream;

const SIDES: &str = "pg_stat_wal_receiver, pg_stat_replication, pg_replication_slots";
const SYNC: &str = "synchronous_standby_names, pg_stat_replication";

pub(super) const ROWS: &[Signal] = &[
    per_target("upstream_info", Unit::Bool, upstream_info)
        .labels(&["kind", "upstream"])
        .help("Where the replica receives its WAL from, always 1: kind is target (then upstream is its name), elsewhere, none or unknown.")
        .absent("On a primary, and while the last answer is stale.")
        .from(SIDES),
    per_target("same_server_info", Unit::Bool, same_server_info)
        .labels(&["other"])
        .help("Always 1: the target leads to the same server as `other`, which is listed before it; the two count as one server.")
        .absent("On a server that has one name only.")
        .from("pg_postmaster_start_time(), pg_control_system()"),
    per_target("standby_missing", Unit::Bool, standby_missing)
        .states("is sent WAL", "is sent WAL by nobody: no server has a WAL sender for it")
        .help("1 while no server that the replica could receive from has a WAL sender for it, whether or not the replica itself answers.")
        .absent("On a primary; for a replica that is configured to get its WAL from an archive alone, and while that is not known; while a server that may have one does not answer, or does not show its senders (no pg_monitor).")
        .from(SIDES),
    per_target("wrong_upstream", Unit::Bool, wrong_upstream)
        .states("follows a server of its cluster", "follows a server outside of its cluster")
        .help("1 while the server belongs to another cluster than the primary (system identifier), or follows a server that is no target of the cluster.")
        .absent("On a primary of the cluster, and while it cannot be told.")
        .from("pg_control_system(), pg_stat_wal_receiver, pg_stat_replication"),
    per_target("timelines_behind", Unit::Count, timelines_behind)
        .says("is {} [timeline|timelines] behind its primary: it has not followed a promotion")
        .help("By how many timelines the replica is behind the primary: above 0 it has not followed the last promotion.")
        .absent("On a primary, and while the primary or the timeline of either is unknown.")
        .from("pg_stat_wal_receiver, pg_stat_recovery (19+), pg_control_checkpoint(), pg_walfile_name()"),
    per_target("undeclared_standbys", Unit::Count, undeclared_standbys)
        .says("feeds {} [standby that is|standbys that are] not configured here")
        .help("Standbys that stream from the server and are no target of the cluster.")
        .absent("The last answer is stale, or the server does not show its senders (no pg_monitor).")
        .from("pg_stat_replication, pg_replication_slots"),
    per_target("sync_standbys", Unit::Count, sync_standbys)
        .help("Standbys that stream and count for synchronous commits (sync or quorum).")
        .absent("On a replica, without pg_monitor, and while the last answer is stale.")
        .from("pg_stat_replication"),
    per_target("sync_standbys_required", Unit::Count, sync_standbys_required)
        .help("Standbys that must confirm before a synchronous commit returns; 0 when none is asked for.")
        .absent("On a replica, and while the last slow poll is stale.")
        .from("synchronous_standby_names"),
    per_target("sync_standbys_missing", Unit::Count, sync_standbys_missing)
        .says("lacks {} synchronous [standby|standbys]: commits wait")
        .help("By how many standbys the server has fewer than synchronous commits wait for; above 0 they hang.")
        .absent("While one of the two numbers is.")
        .from(SYNC),
    per_target("promotion_requested", Unit::Bool, promotion_requested)
        .states("was not asked to become a primary", "was asked to become a primary, and is none yet")
        .help("1 when a promotion of the standby was asked for and is not done yet.")
        .absent("On a primary, before 19, without pg_read_all_stats, and while the last slow poll is stale.")
        .from("pg_stat_recovery: promote_triggered"),
    per_target("role_change_age_seconds", Unit::Seconds, role_change_age)
        .says("changed its role {} ago")
        .help("Time since the server was seen to become a primary or a replica.")
        .absent("No change was seen since pgvigil started.")
        .from("pg_is_in_recovery()"),
    per_target("role_changes_total", Unit::Count, role_changes)
        .counter()
        .help("How often the server was seen to become a primary or a replica.")
        .absent("Before the first answer.")
        .from("pg_is_in_recovery()"),
];

fn is_primary(target: &TargetView) -> bool {
    target.is_up() && target.last_role() == Some(Role::Primary)
}

fn upstream_info(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    if target.fresh(now).is_none() {
        return Coverage::Unknown;
    }
    let (kind, name) = match &target.links.upstream {
        None => return Coverage::Complete,
        Some(Upstream::Target(name)) => ("target", name.as_str()),
        Some(Upstream::Elsewhere(_)) => ("elsewhere", ""),
        Some(Upstream::Nobody) => ("none", ""),
        Some(Upstream::Unknown) => ("unknown", ""),
    };
    emit(&[kind, name], Value::exact(1.0));
    Coverage::Complete
}

fn same_server_info(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    if target.fresh(now).is_none() {
        return Coverage::Unknown;
    }
    if let Some(other) = &target.links.same_as {
        emit(&[other.as_str()], Value::exact(1.0));
    }
    Coverage::Complete
}

fn promotion_requested(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_standby(target, now, emit, |_, _| {
        target.fresh_survey(now)?.recovery.as_ref()?.promotion_requested.map(bool_value)
    })
}

/// Known of a silent replica, too: what tells it are the others' senders.
fn standby_missing(_: &ClusterView, target: &TargetView, _: MonoTime, emit: Emit<'_>) -> Coverage {
    if is_primary(target) {
        return Coverage::Complete;
    }
    match (target.links.is_missing, target.is_fed_by_archive()) {
        (Some(true), Some(true)) => Coverage::Complete,
        (Some(true), None) if target.answer.is_some() => Coverage::Unknown,
        (is_missing, _) => state(emit, is_missing.map(bool_value)),
    }
}

fn wrong_upstream(cluster: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let is_foreign = cluster.is_foreign(target) == Some(true);
    if is_primary(target) && !is_foreign {
        return Coverage::Complete;
    }
    let is_wrong = target.fresh(now).and_then(|_| match &target.links.upstream {
        _ if is_foreign => Some(true),
        Some(Upstream::Elsewhere(_)) => Some(true),
        Some(Upstream::Target(_) | Upstream::Nobody) => Some(false),
        Some(Upstream::Unknown) | None => None,
    });
    state(emit, is_wrong.map(bool_value))
}

fn timelines_behind(cluster: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    if is_primary(target) {
        return Coverage::Complete;
    }
    // What an archive-fed standby has replayed is on this timeline (19+), whatever its control file still says.
    let replayed = target.fresh_survey(now).and_then(|survey| survey.recovery.as_ref()?.replayed_timeline);
    let behind = || {
        let standby = positions(target, now)?.standby()?;
        let primary = cluster.primary_target().filter(|primary| primary.is_up() && primary.fresh(now).is_some())?;
        if cluster.is_foreign(target) == Some(true) {
            return None;
        }
        let own = target.timeline().max(replayed.filter(|_| standby.receiver.is_without_stream()))?;
        let behind = f64::from(primary.timeline()?.0) - f64::from(own.0);
        Some((behind.max(0.0), &standby.receiver))
    };
    match behind() {
        // Without a receiver's word the control file's may be an old one.
        Some((behind, Receiver::Hidden)) if behind > 0.0 => {
            emit(&[], Value { value: 0.0, lower: 0.0, upper: behind });
        }
        Some((behind, Receiver::Absent | Receiver::Connecting)) if replayed.is_none() => {
            emit(&[], Value { value: behind, lower: 0.0, upper: behind });
        }
        Some((behind, _)) => emit(&[], Value::exact(behind)),
        None => return Coverage::Unknown,
    }
    Coverage::Complete
}

fn undeclared_standbys(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(undeclared) = target.fresh(now).and(target.links.undeclared.as_ref()) else { return Coverage::Unknown };
    let (lower, upper) = (undeclared.at_least as f64, undeclared.at_most as f64);
    emit(&[], Value { value: lower, lower, upper });
    Coverage::Complete
}

/// `None` on a replica, where the setting means nothing, and while the senders cannot be seen.
fn present(target: &TargetView, now: MonoTime) -> Option<usize> {
    let positions = positions(target, now).filter(|positions| positions.sees_senders)?;
    let counts = |state: Option<&str>| matches!(state, Some("sync" | "quorum"));
    let is_present = |state| state == Some(SenderState::Streaming);
    let senders = positions.senders.iter();
    Some(senders.filter(|sender| is_present(sender.state) && counts(sender.sync_state.as_deref())).count())
}

fn required(target: &TargetView, now: MonoTime) -> Option<u32> {
    Some(target.fresh_survey(now)?.sync_standbys.as_ref()?.required)
}

/// States a value that only a primary has.
fn of_primary(target: &TargetView, now: MonoTime, emit: Emit<'_>, value: Option<f64>) -> Coverage {
    match positions(target, now).map(Positions::role) {
        Some(Role::Primary) => state(emit, value),
        Some(Role::Replica) => Coverage::Complete,
        None => Coverage::Unknown,
    }
}

fn sync_standbys(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_primary(target, now, emit, present(target, now).map(|present| present as f64))
}

fn sync_standbys_required(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_primary(target, now, emit, required(target, now).map(f64::from))
}

fn sync_standbys_missing(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let missing = required(target, now).zip(present(target, now));
    let missing = missing.map(|(required, present)| (f64::from(required) - present as f64).max(0.0));
    of_primary(target, now, emit, missing)
}

fn role_change_age(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    match (target.role_changes, &target.answer) {
        (Some(changes), _) => state(emit, Some(now.duration_since(changes.last_at).as_secs_f64())),
        (None, Some(_)) => Coverage::Complete,
        (None, None) => Coverage::Unknown,
    }
}

fn role_changes(_: &ClusterView, target: &TargetView, _: MonoTime, emit: Emit<'_>) -> Coverage {
    let count = target.role_changes.map_or(0, |changes| changes.count);
    state(emit, target.answer.as_ref().map(|_| f64::from(count)))
}
