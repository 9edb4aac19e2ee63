//! Signals that CloudWatch knows: of the machines below the servers, of Redis beside them, and whatever metrics are configured.
//!
//! What is configured is stated under the name that it was given, as a label: the names of signals are few and fixed.

use super::row::{per_cluster, per_target, state};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::cloudwatch::Readings;
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::time::MonoTime;

const POINT: &str = "CloudWatch has no such point, or none young enough, or is not read ([cloudwatch]).";
const LAG: &str = "As above, and when RDS cannot tell it (-1).";
const NODE: &str = "CloudWatch has no such point, or none young enough.";
const METRIC: &[&str] = &["metric"];
const NODE_LABELS: &[&str] = &["redis", "node"];

pub(super) const ROWS: &[Signal] = &[
    per_target("cpu_utilization_ratio", Unit::Ratio, |_, target, now, emit| stated(target, now, emit, "cpu_utilization_ratio"))
        .says("has its CPU at {}")
        .help("CPU in use on the database instance.")
        .absent(POINT)
        .from("CloudWatch: CPUUtilization"),
    per_target("storage_free_bytes", Unit::Bytes, |_, target, now, emit| stated(target, now, emit, "storage_free_bytes"))
        .says("has {} of storage left")
        .help("Storage of the database instance that is free.")
        .absent(POINT)
        .from("CloudWatch: FreeStorageSpace"),
    per_target("storage_free_ratio", Unit::Ratio, storage_free)
        .says("has {} of its storage left")
        .help("Storage of the database instance that is free, as a share of what it has now; it may grow by itself (`pgvigil_rds_max_storage_bytes`).")
        .absent("As above, and where the target was not discovered ([[discover]]), which tells how much storage it has; Aurora.")
        .from("CloudWatch: FreeStorageSpace; DescribeDBInstances"),
    per_target("memory_freeable_bytes", Unit::Bytes, |_, target, now, emit| stated(target, now, emit, "memory_freeable_bytes"))
        .says("has {} of memory left")
        .help("Memory of the database instance that could be freed (`MemAvailable`).")
        .absent(POINT)
        .from("CloudWatch: FreeableMemory"),
    per_target("database_connections", Unit::Count, |_, target, now, emit| stated(target, now, emit, "database_connections"))
        .says("has {} [connection|connections] by CloudWatch's count")
        .help("Connections to the database instance as RDS counts them, which leaves out some; `pgvigil_connections` is the server's own count.")
        .absent(POINT)
        .from("CloudWatch: DatabaseConnections"),
    per_target("read_latency_seconds", Unit::Seconds, |_, target, now, emit| stated(target, now, emit, "read_latency_seconds"))
        .says("takes {} for a read from disk")
        .help("Mean time that a read from disk takes.")
        .absent(POINT)
        .from("CloudWatch: ReadLatency"),
    per_target("write_latency_seconds", Unit::Seconds, |_, target, now, emit| stated(target, now, emit, "write_latency_seconds"))
        .says("takes {} for a write to disk")
        .help("Mean time that a write to disk takes.")
        .absent(POINT)
        .from("CloudWatch: WriteLatency"),
    per_target("rds_replica_lag_seconds", Unit::Seconds, |_, target, now, emit| stated(target, now, emit, "rds_replica_lag_seconds"))
        .says("lags by {} as RDS tells it")
        .help("Time since the last commit that the replica has replayed, as RDS tells it: it grows on an idle primary, and `pgvigil_replay_lag_seconds` does not.")
        .absent(LAG)
        .from("CloudWatch: ReplicaLag"),
    per_target("aurora_reported_lag_seconds", Unit::Seconds, |_, target, now, emit| stated(target, now, emit, "aurora_reported_lag_seconds"))
        .says("lags by {} as CloudWatch tells it")
        .help("How far an Aurora reader is behind its writer, as CloudWatch tells it.")
        .absent(POINT)
        .from("CloudWatch: AuroraReplicaLag"),
    per_target("replication_slots_disk_bytes", Unit::Bytes, |_, target, now, emit| stated(target, now, emit, "replication_slots_disk_bytes"))
        .says("has {} of disk taken by replication slots")
        .help("Disk that replication slots keep from being freed.")
        .absent(POINT)
        .from("CloudWatch: ReplicationSlotDiskUsage"),
    per_target("replication_slot_oldest_lag_bytes", Unit::Bytes, |_, target, now, emit| stated(target, now, emit, "replication_slot_oldest_lag_bytes"))
        .says("has a replication slot that is {} behind")
        .help("WAL that the slot that is furthest behind has not received.")
        .absent(POINT)
        .from("CloudWatch: OldestReplicationSlotLag"),
    per_target("transaction_logs_disk_bytes", Unit::Bytes, |_, target, now, emit| stated(target, now, emit, "transaction_logs_disk_bytes"))
        .says("has {} of disk taken by WAL")
        .help("Disk that WAL takes.")
        .absent(POINT)
        .from("CloudWatch: TransactionLogsDiskUsage"),
    per_target("disk_queue_depth", Unit::Count, |_, target, now, emit| stated(target, now, emit, "disk_queue_depth"))
        .says("has {} [request|requests] waiting for the disk")
        .help("Reads and writes that wait for the disk.")
        .absent(POINT)
        .from("CloudWatch: DiskQueueDepth"),
    per_target("burst_balance_ratio", Unit::Ratio, |_, target, now, emit| stated(target, now, emit, "burst_balance_ratio"))
        .says("has {} of its disk's burst credits left")
        .help("Credits for bursts that a gp2 volume has left.")
        .absent(POINT)
        .from("CloudWatch: BurstBalance"),
    per_target("ebs_byte_balance_ratio", Unit::Ratio, |_, target, now, emit| stated(target, now, emit, "ebs_byte_balance_ratio"))
        .says("has {} of its throughput credits left")
        .help("Credits for throughput to its disk that the instance has left.")
        .absent(POINT)
        .from("CloudWatch: EBSByteBalance%"),
    per_target("cpu_credit_balance", Unit::Count, |_, target, now, emit| stated(target, now, emit, "cpu_credit_balance"))
        .says("has {} CPU [credit|credits] left")
        .help("CPU credits that an instance of a burstable class has left.")
        .absent(POINT)
        .from("CloudWatch: CPUCreditBalance"),
    per_target("cloudwatch_datapoint_age_seconds", Unit::Seconds, age)
        .labels(METRIC)
        .says("was last told of by CloudWatch ({metric}) for a period that ended {} ago")
        .help("How long ago the period ended that CloudWatch's newest point of a metric is of.")
        .absent("CloudWatch has told of none yet, or is not read.")
        .from("CloudWatch"),
    per_target("cloudwatch_seconds", Unit::Seconds, |_, target, now, emit| configured(&target.cloudwatch, now, emit, Unit::Seconds))
        .labels(METRIC)
        .says("has {metric} at {}")
        .help("A metric of the instance that the configuration names (`[[cloudwatch.metric]]`).")
        .absent(POINT)
        .from("CloudWatch"),
    per_target("cloudwatch_bytes", Unit::Bytes, |_, target, now, emit| configured(&target.cloudwatch, now, emit, Unit::Bytes))
        .labels(METRIC)
        .says("has {metric} at {}")
        .help("A metric of the instance that the configuration names (`[[cloudwatch.metric]]`).")
        .absent(POINT)
        .from("CloudWatch"),
    per_target("cloudwatch_bytes_per_second", Unit::BytesPerSecond, |_, target, now, emit| configured(&target.cloudwatch, now, emit, Unit::BytesPerSecond))
        .labels(METRIC)
        .says("has {metric} at {}")
        .help("A metric of the instance that the configuration names (`[[cloudwatch.metric]]`).")
        .absent(POINT)
        .from("CloudWatch"),
    per_target("cloudwatch_ratio", Unit::Ratio, |_, target, now, emit| configured(&target.cloudwatch, now, emit, Unit::Ratio))
        .labels(METRIC)
        .says("has {metric} at {}")
        .help("A metric of the instance that the configuration names (`[[cloudwatch.metric]]`).")
        .absent(POINT)
        .from("CloudWatch"),
    per_target("cloudwatch_count", Unit::Count, |_, target, now, emit| configured(&target.cloudwatch, now, emit, Unit::Count))
        .labels(METRIC)
        .says("has {metric} at {}")
        .help("A metric of the instance that the configuration names (`[[cloudwatch.metric]]`).")
        .absent(POINT)
        .from("CloudWatch"),
    per_cluster("cluster_cloudwatch_seconds", Unit::Seconds, |cluster, now, emit| of_cluster(cluster, now, emit, Unit::Seconds))
        .labels(METRIC)
        .says("has {metric} at {}")
        .help("A metric that the configuration names (`[[cloudwatch.metric]]`) and that is not of one instance.")
        .absent(POINT)
        .from("CloudWatch"),
    per_cluster("cluster_cloudwatch_bytes", Unit::Bytes, |cluster, now, emit| of_cluster(cluster, now, emit, Unit::Bytes))
        .labels(METRIC)
        .says("has {metric} at {}")
        .help("A metric that the configuration names (`[[cloudwatch.metric]]`) and that is not of one instance.")
        .absent(POINT)
        .from("CloudWatch"),
    per_cluster("cluster_cloudwatch_bytes_per_second", Unit::BytesPerSecond, |cluster, now, emit| of_cluster(cluster, now, emit, Unit::BytesPerSecond))
        .labels(METRIC)
        .says("has {metric} at {}")
        .help("A metric that the configuration names (`[[cloudwatch.metric]]`) and that is not of one instance.")
        .absent(POINT)
        .from("CloudWatch"),
    per_cluster("cluster_cloudwatch_ratio", Unit::Ratio, |cluster, now, emit| of_cluster(cluster, now, emit, Unit::Ratio))
        .labels(METRIC)
        .says("has {metric} at {}")
        .help("A metric that the configuration names (`[[cloudwatch.metric]]`) and that is not of one instance.")
        .absent(POINT)
        .from("CloudWatch"),
    per_cluster("cluster_cloudwatch_count", Unit::Count, |cluster, now, emit| of_cluster(cluster, now, emit, Unit::Count))
        .labels(METRIC)
        .says("has {metric} at {}")
        .help("A metric that the configuration names (`[[cloudwatch.metric]]`) and that is not of one instance.")
        .absent(POINT)
        .from("CloudWatch"),
    per_cluster("cluster_cloudwatch_datapoint_age_seconds", Unit::Seconds, age_of_cluster)
        .labels(METRIC)
        .says("was last told of by CloudWatch ({metric}) for a period that ended {} ago")
        .help("The same of metrics that are configured and not of one instance.")
        .absent("CloudWatch has told of none yet, or is not read.")
        .from("CloudWatch"),
    per_cluster("redis_cpu_utilization_ratio", Unit::Ratio, |cluster, now, emit| of_nodes(cluster, now, emit, "redis_cpu_utilization_ratio"))
        .labels(NODE_LABELS)
        .says("has the CPU of its Redis node {node} at {}")
        .help("CPU in use on the node's machine.")
        .absent(NODE)
        .from("CloudWatch: CPUUtilization"),
    per_cluster("redis_engine_cpu_utilization_ratio", Unit::Ratio, |cluster, now, emit| of_nodes(cluster, now, emit, "redis_engine_cpu_utilization_ratio"))
        .labels(NODE_LABELS)
        .says("has the engine of its Redis node {node} at {} CPU")
        .help("CPU that the one thread uses that serves the node's clients.")
        .absent(NODE)
        .from("CloudWatch: EngineCPUUtilization"),
    per_cluster("redis_memory_used_ratio", Unit::Ratio, |cluster, now, emit| of_nodes(cluster, now, emit, "redis_memory_used_ratio"))
        .labels(NODE_LABELS)
        .says("has {} of the memory of its Redis node {node} in use")
        .help("Memory in use, as a share of what the node may use.")
        .absent(NODE)
        .from("CloudWatch: DatabaseMemoryUsagePercentage"),
    per_cluster("redis_connections", Unit::Count, |cluster, now, emit| of_nodes(cluster, now, emit, "redis_connections"))
        .labels(NODE_LABELS)
        .says("has {} [client|clients] on its Redis node {node}")
        .help("Clients that are connected to the node, replicas not counted.")
        .absent(NODE)
        .from("CloudWatch: CurrConnections"),
    per_cluster("redis_evictions_in_5m", Unit::Count, |cluster, now, emit| of_nodes(cluster, now, emit, "redis_evictions_in_5m"))
        .labels(NODE_LABELS)
        .says("had {} [key|keys] evicted from its Redis node {node} in five minutes")
        .help("Keys that the node dropped for want of memory in five minutes.")
        .absent(NODE)
        .from("CloudWatch: Evictions"),
    per_cluster("redis_hit_ratio", Unit::Ratio, |cluster, now, emit| of_nodes(cluster, now, emit, "redis_hit_ratio"))
        .labels(NODE_LABELS)
        .says("finds {} of the keys that are asked of its Redis node {node}")
        .help("Look-ups of a key that found it.")
        .absent("As above, and while nobody asks.")
        .from("CloudWatch: CacheHitRate"),
    per_cluster("redis_replication_lag_seconds", Unit::Seconds, |cluster, now, emit| of_nodes(cluster, now, emit, "redis_replication_lag_seconds"))
        .labels(NODE_LABELS)
        .says("has its Redis node {node} {} behind the primary")
        .help("How far the node is behind its primary.")
        .absent("For a primary, and as above.")
        .from("CloudWatch: ReplicationLag"),
    per_cluster("redis_datapoint_age_seconds", Unit::Seconds, age_of_nodes)
        .labels(&["redis", "node", "metric"])
        .says("was last told of its Redis node {node} by CloudWatch ({metric}) for a period that ended {} ago")
        .help("How long ago the period ended that CloudWatch's newest point of a node's metric is of.")
        .absent("CloudWatch has told of none yet.")
        .from("CloudWatch"),
];

fn stated(target: &TargetView, now: MonoTime, emit: Emit<'_>, metric: &str) -> Coverage {
    state(emit, target.cloudwatch.fresh(metric, now))
}

fn storage_free(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let free = target.cloudwatch.fresh("storage_free_bytes", now);
    let allocated = target.fresh_instance(now).and_then(|facts| facts.allocated_storage_bytes);
    let ratio = free.zip(allocated).filter(|(_, allocated)| *allocated > 0);
    state(emit, ratio.map(|(free, allocated)| free / allocated as f64))
}

fn configured(readings: &Readings, now: MonoTime, emit: Emit<'_>, unit: Unit) -> Coverage {
    let mut coverage = if readings.is_empty() { Coverage::Unknown } else { Coverage::Complete };
    for (metric, value) in readings.configured(unit, now) {
        match value {
            Some(value) => emit(&[metric.as_str()], Value::exact(value)),
            None => coverage = Coverage::Unknown,
        }
    }
    coverage
}

fn of_cluster(cluster: &ClusterView, now: MonoTime, emit: Emit<'_>, unit: Unit) -> Coverage {
    configured(&cluster.cloudwatch, now, emit, unit)
}

/// A metric that was told of once has an age for ever.
fn ages(readings: &Readings, now: MonoTime, mut tell: impl FnMut(&str, f64)) -> Coverage {
    for (metric, point, _) in readings.all(now) {
        tell(metric.as_str(), now.duration_since(point.ended_at).as_secs_f64());
    }
    if readings.is_empty() { Coverage::Unknown } else { Coverage::Complete }
}

fn age(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    ages(&target.cloudwatch, now, |metric, age| emit(&[metric], Value::exact(age)))
}

fn age_of_cluster(cluster: &ClusterView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    ages(&cluster.cloudwatch, now, |metric, age| emit(&[metric], Value::exact(age)))
}

/// A node that is not in its group any more has gone. One without a point is unknown.
fn of_nodes(cluster: &ClusterView, now: MonoTime, emit: Emit<'_>, metric: &str) -> Coverage {
    let mut coverage = Coverage::Complete;
    for group in cluster.redis.iter() {
        if group.nodes.is_empty() {
            coverage = Coverage::Unknown;
        }
        for (node, readings) in &group.nodes {
            match readings.fresh(metric, now) {
                Some(value) => emit(&[group.name.as_str(), node.as_str()], Value::exact(value)),
                None => coverage = Coverage::Unknown,
            }
        }
    }
    coverage
}

fn age_of_nodes(cluster: &ClusterView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let mut coverage = Coverage::Complete;
    for group in cluster.redis.iter() {
        if group.nodes.is_empty() {
            coverage = Coverage::Unknown;
        }
        for (node, readings) in &group.nodes {
            let name = group.name.as_str();
            if ages(readings, now, |metric, age| emit(&[name, node.as_str(), metric], Value::exact(age)))
                == Coverage::Unknown
            {
                coverage = Coverage::Unknown;
            }
        }
    }
    coverage
}
