//! Signals of a cluster as a whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::row::{per_cluster, positions, state};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::time::MonoTime;
use crate::core::topology::Role;

pub(super) const ROWS: &[Signal] = &[
    per_cluster("cluster_targets", Unit::Count, cluster_targets)
        .help("Targets of the cluster that are watched.")
        .from("configuration"),
    per_cluster("cluster_targets_up", Unit::Count, cluster_targets_up)
        .help("Targets of the cluster whose last poll succeeded.")
        .absent("Before each target was tried once.")
        .from("pgvigil"),
    per_cluster("primaries", Unit::Count, primaries)
        .help("Targets that answer, say they are a primary, and are not known to be of another cluster; more than 1 is a split brain.")
        .absent("Before each target was tried once.")
        .from("pg_is_in_recovery(), pg_control_system()"),
    per_cluster("system_identifiers", Unit::Count, system_identifiers)
        .help("Different system identifiers among the targets that answer; more than 1 means a target of another cluster.")
        .absent("No target that answers says its identifier.")
        .from("pg_control_system()"),
];

fn cluster_targets(cluster: &ClusterView, _: MonoTime, emit: Emit<'_>) -> Coverage {
    state(emit, Some(cluster.targets.len() as f64))
}

fn cluster_targets_up(cluster: &ClusterView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let up = cluster.targets.iter().filter(|target| target.is_up() && target.fresh(now).is_some()).count();
    state(emit, all_tried(cluster).then_some(up as f64))
}

fn all_tried(cluster: &ClusterView) -> bool {
    cluster.targets.iter().all(|target| target.tried())
}

/// A server with two names is one. A primary that merely fell silent may still be one, so it counts for the upper bound; one that proved down does not.
fn primaries(cluster: &ClusterView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    if !all_tried(cluster) {
        return Coverage::Unknown;
    }
    let (mut answering, mut silent) = (BTreeSet::new(), BTreeSet::new());
    let is_ours = |target: &&Arc<TargetView>| cluster.is_foreign(target) != Some(true);
    for target in cluster.targets.iter().filter(|target| target.last_role() == Some(Role::Primary)).filter(is_ours) {
        if target.is_up() && target.fresh(now).is_some() {
            answering.insert(target.server());
        } else if !target.failing.as_ref().is_some_and(|failing| failing.failure.proves_down()) {
            silent.insert(target.server());
        }
    }
    let value = answering.len() as f64;
    emit(&[], Value { value, lower: value, upper: answering.union(&silent).count() as f64 });
    Coverage::Complete
}

fn system_identifiers(cluster: &ClusterView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let identifiers: BTreeSet<u64> =
        cluster.targets.iter().filter_map(|target| positions(target, now)?.identity.system_identifier).collect();
    state(emit, (!identifiers.is_empty()).then_some(identifiers.len() as f64))
}
