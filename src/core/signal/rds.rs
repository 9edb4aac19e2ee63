//! Signals of what AWS says of an instance, by `[[discover]]`.

use std::collections::BTreeSet;

use super::row::{bool_value, per_cluster, per_target, state};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::discovery::{InstanceFacts, RECENT};
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::time::MonoTime;
use crate::core::topology::failover;

const SOURCE: &str = "DescribeDBInstances";
const ABSENT: &str = "The target was not discovered, or AWS has not said so within three of `discover.interval`.";
const DAY: f64 = 24.0 * 3600.0;

pub(super) const ROWS: &[Signal] = &[
    per_target("rds_status", Unit::Bool, status)
        .labels(&["status"])
        .says("is {status} by AWS' word")
        .none("is no longer so by AWS' word")
        .help("1 for the instance's status by AWS' word: available, modifying, storage-full, ...")
        .absent(ABSENT)
        .from(SOURCE),
    per_target("rds_available", Unit::Bool, available)
        .states("is not available by AWS' word", "is available by AWS' word")
        .help("1 while AWS has the instance as available.")
        .absent(ABSENT)
        .from(SOURCE),
    per_target("rds_replication_normal", Unit::Bool, replication)
        .states("does not replicate by AWS' word", "replicates by AWS' word")
        .help("1 while AWS finds the read replica's replication normal (StatusInfos).")
        .absent("It is no read replica, AWS says nothing of it, or as for `pgvigil_rds_status`.")
        .from(SOURCE),
    per_target("rds_certificate_expires_seconds", Unit::Seconds, certificate)
        .says("has a server certificate that expires in {}")
        .help("Time until the instance's server certificate expires; below 0 when it has.")
        .absent(ABSENT)
        .from(SOURCE),
    per_target("rds_allocated_storage_bytes", Unit::Bytes, allocated_storage)
        .help("Storage that the instance has.")
        .absent("Aurora, whose storage has no size, or as for `pgvigil_rds_status`.")
        .from(SOURCE),
    per_target("rds_max_storage_bytes", Unit::Bytes, max_storage)
        .help("Up to which storage grows by itself.")
        .absent("It does not grow, or as for `pgvigil_rds_status`.")
        .from(SOURCE),
    per_target("rds_multi_az", Unit::Bool, multi_az)
        .states("has no standby in another zone", "has a standby in another zone")
        .help("1 when the instance has a standby in another availability zone.")
        .absent(ABSENT)
        .from(SOURCE),
    per_target("rds_backup_retention_seconds", Unit::Seconds, backup_retention)
        .says("keeps its backups for {}")
        .help("How long automated backups are kept; 0 when none are made.")
        .absent(ABSENT)
        .from(SOURCE),
    per_target("rds_failover", Unit::Bool, failover)
        .states("is not failing over", "is failing over")
        .help("1 while the instance is away in a failover that RDS tells of, and for half a minute after it is back.")
        .absent("The target was not discovered.")
        .from("DescribeEvents, and polls that fail"),
    per_target("rds_pending_maintenance", Unit::Bool, pending_maintenance)
        .labels(&["action"])
        .says("is due for maintenance ({action})")
        .none("is not due for this maintenance any more")
        .help("1 for each action of maintenance that waits.")
        .absent("None waits, AWS does not say, or as for `pgvigil_rds_status`.")
        .from("DescribePendingMaintenanceActions"),
    per_cluster("rds_event", Unit::Bool, event)
        .labels(&["source", "category"])
        .says("had an event of {source} in RDS: {category}")
        .help("1 for each category of an event that RDS reported of a target, or of the DB cluster, within the last 15 minutes.")
        .absent("Nothing was reported, or the cluster was not discovered.")
        .from("DescribeEvents"),
];

fn failover(cluster: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let is_failing_over = || bool_value(failover::of(target, &cluster.rds_events, now).is_some());
    state(emit, target.instance.is_some().then(is_failing_over))
}

fn event(cluster: &ClusterView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let recent = cluster.rds_events.iter().filter(|event| now.duration_since(event.at) < RECENT);
    let of_event = |event: &'_ crate::core::discovery::RdsEvent| {
        let categories = event.happening.categories.iter().map(String::as_str);
        categories.map(|category| (event.happening.source.to_string(), category.to_owned())).collect::<Vec<_>>()
    };
    let subjects: BTreeSet<(String, String)> = recent.flat_map(of_event).collect();
    for (source, category) in subjects {
        emit(&[&source, &category], Value::exact(1.0));
    }
    Coverage::Complete
}

/// States a value where AWS has said it, and nothing where there is none to be said.
fn known(
    target: &TargetView,
    now: MonoTime,
    emit: Emit<'_>,
    value: impl Fn(&InstanceFacts) -> Option<f64>,
) -> Coverage {
    match target.fresh_instance(now) {
        None => Coverage::Unknown,
        Some(facts) => match value(facts) {
            None => Coverage::Complete,
            value => state(emit, value),
        },
    }
}

fn status(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(status) = target.fresh_instance(now).and_then(|facts| facts.status.as_deref()) else {
        return Coverage::Unknown;
    };
    emit(&[status], Value::exact(1.0));
    Coverage::Complete
}

fn available(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let status = target.fresh_instance(now).and_then(|facts| facts.status.as_deref());
    state(emit, status.map(|status| bool_value(status == "available")))
}

fn replication(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    known(target, now, emit, |facts| facts.replication.as_ref().map(|(is_normal, _)| bool_value(*is_normal)))
}

fn certificate(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let left = target
        .fresh_instance(now)
        .and(target.instance.as_ref())
        .and_then(|instance| Some(instance.certificate_expires_in? - now.duration_since(instance.at).as_secs_f64()));
    state(emit, left)
}

fn allocated_storage(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    known(target, now, emit, |facts| facts.allocated_storage_bytes.map(|bytes| bytes as f64))
}

fn max_storage(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    known(target, now, emit, |facts| facts.max_storage_bytes.map(|bytes| bytes as f64))
}

fn multi_az(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    known(target, now, emit, |facts| facts.multi_az.map(bool_value))
}

fn backup_retention(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    known(target, now, emit, |facts| facts.backup_retention_days.map(|days| f64::from(days) * DAY))
}

fn pending_maintenance(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(pending) = target.fresh_instance(now).and_then(|facts| facts.pending_maintenance.as_ref()) else {
        return Coverage::Unknown;
    };
    // One action may wait twice; one subject is stated once.
    let actions: BTreeSet<&str> = pending.iter().map(String::as_str).collect();
    for action in actions {
        emit(&[action], Value::exact(1.0));
    }
    Coverage::Complete
}
