//! What CloudWatch measures of what is watched: which metrics, in which units, and the points that it gave.
//!
//! CloudWatch tells of periods that are over, minutes late, and goes on to correct them for some minutes more: a point that
//! is read again takes the place of the one that was there. Each point has its own time, and one that is too old is unknown.
//! A point may say that there is no number (a `ReplicaLag` of -1 is no lag): then nothing older is told in its place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::quantity;
use super::signal::Unit;
use super::snapshot::TargetView;
use super::time::MonoTime;
use super::topology::{Name, TargetId};

/// A metric that CloudWatch has, and the signal that is stated from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// As CloudWatch calls it.
    pub name: &'static str,
    /// What a point says of its period: `Average`, `Sum`.
    pub statistic: &'static str,
    /// In seconds.
    pub period: i64,
    pub signal: &'static str,
    /// What a value is divided by to be in the signal's base unit.
    pub divisor: f64,
}

/// Of instances of RDS and Aurora, in the namespace `AWS/RDS`.
pub const DATABASE: &[Metric] = &[
    metric("CPUUtilization", "cpu_utilization_ratio", PERCENT),
    metric("FreeStorageSpace", "storage_free_bytes", 1.0),
    metric("FreeableMemory", "memory_freeable_bytes", 1.0),
    metric("DatabaseConnections", "database_connections", 1.0),
    metric("ReadLatency", "read_latency_seconds", 1.0),
    metric("WriteLatency", "write_latency_seconds", 1.0),
    metric("ReplicaLag", "rds_replica_lag_seconds", 1.0),
    metric("AuroraReplicaLag", "aurora_reported_lag_seconds", MILLI),
    metric("ReplicationSlotDiskUsage", "replication_slots_disk_bytes", 1.0),
    metric("OldestReplicationSlotLag", "replication_slot_oldest_lag_bytes", 1.0),
    metric("TransactionLogsDiskUsage", "transaction_logs_disk_bytes", 1.0),
    metric("DiskQueueDepth", "disk_queue_depth", 1.0),
    metric("BurstBalance", "burst_balance_ratio", PERCENT),
    metric("EBSByteBalance%", "ebs_byte_balance_ratio", PERCENT),
    // Counted every five minutes.
    every(300, metric("CPUCreditBalance", "cpu_credit_balance", 1.0)),
];

/// Of nodes of ElastiCache for Redis or Valkey, in the namespace `AWS/ElastiCache`.
pub const REDIS: &[Metric] = &[
    metric("CPUUtilization", "redis_cpu_utilization_ratio", PERCENT),
    metric("EngineCPUUtilization", "redis_engine_cpu_utilization_ratio", PERCENT),
    metric("DatabaseMemoryUsagePercentage", "redis_memory_used_ratio", PERCENT),
    metric("CurrConnections", "redis_connections", 1.0),
    every(300, Metric { statistic: "Sum", ..metric("Evictions", "redis_evictions_in_5m", 1.0) }),
    metric("CacheHitRate", "redis_hit_ratio", PERCENT),
    metric("ReplicationLag", "redis_replication_lag_seconds", 1.0),
];

const PERCENT: f64 = 100.0;
const MILLI: f64 = 1000.0;

const fn metric(name: &'static str, signal: &'static str, divisor: f64) -> Metric {
    Metric { name, statistic: "Average", period: 60, signal, divisor }
}

const fn every(period: i64, metric: Metric) -> Metric {
    Metric { period, ..metric }
}

impl Metric {
    /// A value in the signal's base unit. `None` for what is no number, and for what is negative: none of these can be, and
    /// RDS says -1 for a lag that it cannot tell.
    pub fn in_base_unit(&self, value: f64) -> Option<f64> {
        (value.is_finite() && value >= 0.0).then_some(value / self.divisor)
    }

    /// The one of a database that CloudWatch calls so.
    pub fn of_database(name: &str) -> Option<&'static Self> {
        DATABASE.iter().find(|metric| metric.name == name)
    }
}

/// The unit in which CloudWatch has a metric that is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    Seconds,
    Milliseconds,
    Microseconds,
    Bytes,
    BytesPerSecond,
    Percent,
    Ratio,
    Count,
}

impl Measure {
    /// The base unit, and what a value is divided by to be in it.
    pub const fn base(self) -> (Unit, f64) {
        match self {
            Self::Seconds => (Unit::Seconds, 1.0),
            Self::Milliseconds => (Unit::Seconds, MILLI),
            Self::Microseconds => (Unit::Seconds, 1e6),
            Self::Bytes => (Unit::Bytes, 1.0),
            Self::BytesPerSecond => (Unit::BytesPerSecond, 1.0),
            Self::Percent => (Unit::Ratio, PERCENT),
            Self::Ratio => (Unit::Ratio, 1.0),
            Self::Count => (Unit::Count, 1.0),
        }
    }
}

/// The signal that states a metric of this unit that is configured: of an instance, or of a cluster.
pub const fn family(unit: Unit, is_of_instance: bool) -> &'static str {
    match (unit, is_of_instance) {
        (Unit::Seconds, true) => "cloudwatch_seconds",
        (Unit::Bytes, true) => "cloudwatch_bytes",
        (Unit::BytesPerSecond, true) => "cloudwatch_bytes_per_second",
        (Unit::Ratio, true) => "cloudwatch_ratio",
        (Unit::Count | Unit::Bool, true) => "cloudwatch_count",
        (Unit::Seconds, false) => "cluster_cloudwatch_seconds",
        (Unit::Bytes, false) => "cluster_cloudwatch_bytes",
        (Unit::BytesPerSecond, false) => "cluster_cloudwatch_bytes_per_second",
        (Unit::Ratio, false) => "cluster_cloudwatch_ratio",
        (Unit::Count | Unit::Bool, false) => "cluster_cloudwatch_count",
    }
}

/// What a point is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Target(TargetId),
    Cluster(Name),
    /// A node of a replication group, whose name stands in the id's place of a target's.
    Redis(TargetId, Name),
}

/// What CloudWatch says of one period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// By which it is known, in seconds since 1970: CloudWatch's own time of it.
    pub begins: i64,
    /// When the period was over, on the monitor's clock.
    pub ended_at: MonoTime,
    /// In the signal's base unit. `None`: CloudWatch says that there is no number.
    pub value: Option<f64>,
}

/// Points of one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub subject: Subject,
    /// The signal, or for a metric that is configured the name that it was given.
    pub metric: Name,
    /// Of a metric that is configured.
    pub unit: Option<Unit>,
    pub points: Vec<Point>,
}

/// What one round of questions gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readout {
    pub measured: Vec<Measured>,
    /// Replication groups and the nodes that they have now.
    pub groups: Vec<(TargetId, Vec<Name>)>,
    /// Points older than this are unknown.
    pub stale_after: Duration,
}

/// Periods of a metric that are kept: those that may still be corrected.
const KEPT: usize = 6;

/// The last points of each metric of one subject.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    series: BTreeMap<Name, Series>,
    stale_after: Duration,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Series {
    unit: Option<Unit>,
    /// The oldest first.
    points: Vec<Point>,
}

impl Readings {
    /// Takes up points. Those of periods that were known take their place.
    pub fn take(&mut self, metric: &Name, unit: Option<Unit>, points: &[Point], stale_after: Duration) {
        self.stale_after = stale_after;
        let series = self.series.entry(metric.clone()).or_default();
        series.unit = unit;
        for point in points {
            match series.points.binary_search_by_key(&point.begins, |known| known.begins) {
                Ok(place) => series.points[place] = *point,
                Err(place) => series.points.insert(place, *point),
            }
        }
        let surplus = series.points.len().saturating_sub(KEPT);
        series.points.drain(..surplus);
    }

    /// The newest point, with or without a number. `None` before the first.
    pub fn newest(&self, metric: &str) -> Option<&Point> {
        self.series.get(metric)?.points.last()
    }

    /// What may be told as true at `now`.
    pub fn fresh(&self, metric: &str, now: MonoTime) -> Option<f64> {
        self.newest(metric).filter(|point| self.is_fresh(point, now))?.value
    }

    fn is_fresh(&self, point: &Point, now: MonoTime) -> bool {
        now.duration_since(point.ended_at) <= self.stale_after
    }

    /// The newest point of every metric, with whether it is young enough to be told as true.
    pub fn all(&self, now: MonoTime) -> impl Iterator<Item = (&Name, &Point, bool)> {
        self.series.iter().filter_map(move |(metric, series)| {
            let point = series.points.last()?;
            Some((metric, point, self.is_fresh(point, now)))
        })
    }

    /// What may be told of each of the metrics that are configured with this unit.
    pub fn configured(&self, unit: Unit, now: MonoTime) -> impl Iterator<Item = (&Name, Option<f64>)> {
        let of_unit = self.series.iter().filter(move |(_, series)| series.unit == Some(unit));
        of_unit.map(move |(metric, _)| (metric, self.fresh(metric.as_str(), now)))
    }

    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }
}

/// A replication group of ElastiCache.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisGroup {
    pub name: Name,
    /// Its nodes, by name.
    pub nodes: BTreeMap<Name, Arc<Readings>>,
}

impl RedisGroup {
    /// Takes up which nodes there are. What is known of one that has gone is forgotten.
    pub fn keep(&mut self, nodes: &[Name]) {
        self.nodes.retain(|node, _| nodes.contains(node));
        for node in nodes {
            self.nodes.entry(node.clone()).or_default();
        }
    }
}

/// That RDS's own word on a replica's lag is another than ours, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Disagreement {
    /// Seconds, by CloudWatch.
    pub theirs: f64,
    /// Seconds.
    pub ours: f64,
    pub reason: Reason,
    /// How long ago the period ended that CloudWatch tells of, in seconds.
    pub age: f64,
}

/// Why two measurements of one lag differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The replica has replayed all there is, and nothing is written: `ReplicaLag` counts the time since the last commit.
    Idle,
    /// The lag was another then.
    Late,
    /// CloudWatch's number is the smaller one, and not for its age.
    Unseen,
    /// CloudWatch's number is the larger one, and not because nothing is written.
    Unexplained,
}

impl Reason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Late => "late",
            Self::Unseen => "unseen",
            Self::Unexplained => "unexplained",
        }
    }
}

impl Disagreement {
    /// In a sentence.
    pub fn sentence(&self) -> String {
        let (theirs, ours) = (quantity::duration(self.theirs), quantity::duration(self.ours));
        let age = quantity::duration(self.age);
        let why = match self.reason {
            Reason::Idle => {
                "the replica has replayed all WAL there is, and RDS counts the time since the last commit that it replayed, \
                 which grows while nothing is written"
                    .to_owned()
            }
            Reason::Late => format!("CloudWatch tells of a minute that ended {age} ago, and the lag has changed since"),
            Reason::Unseen => {
                "RDS measures by the last commit that was replayed, and does not see WAL that has not arrived".to_owned()
            }
            Reason::Unexplained => format!("CloudWatch's average over a minute that ended {age} ago hides when it was so"),
        };
        format!("CloudWatch says {theirs} where pgvigil measures {ours}: {why}")
    }
}

/// The instance and the region that an endpoint of RDS names: `orders.c9akciq32.us-east-1.rds.amazonaws.com`. `None` for any other
/// host, and for the endpoints of clusters and proxies, which lead to an instance of their own choice.
pub fn instance_of_endpoint(host: &str) -> Option<(&str, &str)> {
    let host = host.trim_end_matches('.');
    let host = host.strip_suffix(".cn").unwrap_or(host).strip_suffix(".rds.amazonaws.com")?;
    match host.split('.').collect::<Vec<_>>()[..] {
        [instance, account, region] if !instance.is_empty() && !account.contains('-') && region.contains('-') => {
            Some((instance, region))
        }
        _ => None,
    }
}

/// What differs by less is one lag, measured at two times.
const TOLERANCE: f64 = 5.0;

/// Whether CloudWatch and we differ on how far a replica lags. `None` while one of the two does not know.
pub fn disagreement(target: &TargetView, now: MonoTime) -> Option<Disagreement> {
    let metric = ["rds_replica_lag_seconds", "aurora_reported_lag_seconds"]
        .into_iter()
        .find(|metric| target.cloudwatch.fresh(metric, now).is_some())?;
    let theirs = target.cloudwatch.fresh(metric, now)?;
    let ours = target.lag.filter(|_| target.fresh(now).is_some())?.value?;
    let age = now.duration_since(target.cloudwatch.newest(metric)?.ended_at).as_secs_f64();
    let difference = theirs - ours;
    if difference.abs() <= TOLERANCE.max(0.2 * theirs.max(ours)) {
        return None;
    }
    let has_all = target.stages.is_some_and(|stages| stages.unreplayed.is_some_and(|missing| missing.0 == 0));
    // In the middle of its minute the lag was as CloudWatch says, and it cannot have grown faster than time goes by.
    let grew_since = difference < 0.0 && -difference <= age + 60.0;
    let is_catching_up = target.trend.is_some_and(|trend| trend.direction == Some(super::trend::Direction::CatchingUp));
    let reason = if difference > 0.0 && has_all && metric == "rds_replica_lag_seconds" {
        Reason::Idle
    } else if grew_since || (difference > 0.0 && is_catching_up) {
        Reason::Late
    } else if difference < 0.0 {
        Reason::Unseen
    } else {
        Reason::Unexplained
    };
    Some(Disagreement { theirs, ours, reason, age })
}

#[cfg(test)]
mod tests {
    use super::super::discovery::{Discovered, InstanceFacts};
    use super::super::fixture::{NOW, ago, replica, wall};
    use super::super::fleet::{ClusterSpec, DiscoverySpec, Event, Fleet, FleetSpec};
    use super::super::ledger::pacing::AlertingConfig;
    use super::super::signal::{Read, Seen, Signal, Value};
    use super::super::wal::WalBytes;
    use super::*;

    const MINUTES: Duration = Duration::from_secs(600);

    /// The point of the period that ended `seconds` before now.
    fn point(seconds: i64, value: Option<f64>) -> Point {
        Point { begins: 1_795_176_000 - seconds - 60, ended_at: ago(seconds as f64), value }
    }

    fn readings(metric: &str, points: &[Point]) -> Readings {
        let mut readings = Readings::default();
        readings.take(&Name::new(metric), None, points, MINUTES);
        readings
    }

    #[test]
    fn every_metric_states_a_signal_in_its_base_unit() {
        for metric in DATABASE.iter().chain(REDIS) {
            let signal = super::super::signal::Signal::named(metric.signal);
            let signal = signal.unwrap_or_else(|| panic!("{} states no signal", metric.name));
            assert!(signal.source.contains(metric.name), "{}: {}", metric.name, signal.source);
            assert_eq!(metric.divisor == PERCENT, signal.unit == Unit::Ratio, "{}", metric.name);
        }
        let of = |name: &str, value| DATABASE.iter().find(|metric| metric.name == name).unwrap().in_base_unit(value);
        assert_eq!(of("CPUUtilization", 83.5), Some(0.835));
        assert_eq!(of("AuroraReplicaLag", 250.0), Some(0.25));
        assert_eq!(of("ReadLatency", 0.012), Some(0.012));
        assert_eq!(of("ReplicaLag", -1.0), None);
        assert_eq!(of("FreeStorageSpace", f64::NAN), None);
        assert_eq!(of("FreeStorageSpace", f64::INFINITY), None);
    }

    #[test]
    fn a_point_that_is_read_again_takes_the_place_of_what_was_there() {
        let mut readings = readings("m", &[point(180, Some(3.0)), point(60, Some(1.0))]);
        assert_eq!(readings.fresh("m", NOW), Some(1.0));
        readings.take(&Name::new("m"), None, &[point(60, Some(120.0)), point(120, Some(2.0))], MINUTES);
        assert_eq!(readings.fresh("m", NOW), Some(120.0));
        let points: Vec<_> = readings.series["m"].points.iter().map(|point| point.value.unwrap()).collect();
        assert_eq!(points, [3.0, 2.0, 120.0]);
        let many: Vec<Point> = (1..100).map(|n| point(n * 60, Some(n as f64))).collect();
        readings.take(&Name::new("m"), None, &many, MINUTES);
        assert_eq!((readings.series["m"].points.len(), readings.fresh("m", NOW)), (KEPT, Some(1.0)));
    }

    #[test]
    fn what_is_too_old_is_unknown_and_so_is_what_cloudwatch_does_not_know() {
        let old = readings("m", &[point(601, Some(3.0))]);
        assert_eq!((old.fresh("m", NOW), old.fresh("m", ago(2.0))), (None, Some(3.0)));
        assert_eq!(old.all(NOW).map(|(_, _, is_fresh)| is_fresh).collect::<Vec<_>>(), [false]);
        // It had a number before, which is not told in the place of none.
        let none = readings("m", &[point(120, Some(3.0)), point(60, None)]);
        assert_eq!(none.fresh("m", NOW), None);
        assert_eq!(none.fresh("other", NOW), None);
    }

    #[test]
    fn only_an_instance_s_own_endpoint_names_it() {
        for (host, expect) in [
            ("orders-primary.c9akciq32.us-east-1.rds.amazonaws.com", Some(("orders-primary", "us-east-1"))),
            ("orders.c9akciq32.cn-north-1.rds.amazonaws.com.cn", Some(("orders", "cn-north-1"))),
            ("orders.cluster-c9akciq32.us-east-1.rds.amazonaws.com", None),
            ("orders.cluster-ro-c9akciq32.us-east-1.rds.amazonaws.com", None),
            ("orders.proxy-c9akciq32.us-east-1.rds.amazonaws.com", None),
            ("orders.example.internal", None),
            ("us-east-1.rds.amazonaws.com", None),
            ("127.0.0.1", None),
        ] {
            assert_eq!(instance_of_endpoint(host), expect, "{host}");
        }
    }

    #[test]
    fn what_is_configured_has_a_signal_for_its_unit() {
        let units = [Measure::Microseconds, Measure::Bytes, Measure::BytesPerSecond, Measure::Percent, Measure::Count];
        for (unit, _) in units.map(Measure::base) {
            for is_of_instance in [true, false] {
                let signal = super::super::signal::Signal::named(family(unit, is_of_instance)).expect("there is one");
                assert_eq!((signal.unit, signal.is_of_cloudwatch()), (unit, true), "{}", signal.name);
            }
        }
    }

    #[test]
    fn a_node_that_has_gone_is_forgotten() {
        let mut group = RedisGroup { name: Name::new("sessions"), nodes: BTreeMap::new() };
        group.keep(&[Name::new("a"), Name::new("b")]);
        group.nodes.insert(Name::new("a"), Arc::new(readings("m", &[point(60, Some(1.0))])));
        group.keep(&[Name::new("a"), Name::new("c")]);
        let nodes: Vec<_> = group.nodes.iter().map(|(node, known)| (node.as_str(), known.is_empty())).collect();
        assert_eq!(nodes, [("a", false), ("c", true)]);
    }

    fn fleet() -> Fleet {
        Fleet::new(FleetSpec {
            clusters: vec![ClusterSpec {
                name: Name::new("orders"),
                targets: vec![Name::new("db-1")],
                poolers: Vec::new(),
                redis: vec![Name::new("sessions")],
            }],
            discoveries: vec![DiscoverySpec {
                name: Name::new("discover-1"),
                looks_for: "the whole account".to_owned(),
                stale_after: MINUTES,
            }],
            poll_interval: Duration::from_secs(1),
            stale_after: Duration::from_secs(5),
            survey_stale_after: Duration::from_secs(45),
            pooler_stale_after: Duration::from_secs(15),
            rules: Vec::new(),
            maintenance: Vec::new(),
            recipients: Vec::new(),
            alerting: AlertingConfig::IMMEDIATE,
        })
    }

    /// What signals state, as `name labels value`, and whether that is all there is.
    fn stated(fleet: &Fleet, names: &[&str]) -> Vec<String> {
        let snapshot = fleet.snapshot(NOW, wall());
        let cluster = &snapshot.clusters[0];
        let mut lines = Vec::new();
        for name in names {
            let signal = Signal::named(name).unwrap_or_else(|| panic!("no signal {name}"));
            let seen = match signal.read {
                Read::Target(_) => Seen::Target(cluster, &cluster.targets[0]),
                _ => Seen::Cluster(cluster),
            };
            let mut tell = |labels: &[&str], value: Value| lines.push(format!("{name} {labels:?} {}", value.value));
            let coverage = signal.read_off(seen, NOW, &mut tell);
            lines.push(format!("{coverage:?}"));
        }
        lines
    }

    #[test]
    fn what_is_measured_of_each_subject_is_stated_of_it() {
        let mut fleet = fleet();
        let redis = TargetId::new("orders", "sessions");
        let measured = |subject, metric: &str, unit, points: &[Point]| Measured {
            subject,
            metric: Name::new(metric),
            unit,
            points: points.to_vec(),
        };
        let target = |name: &str| Subject::Target(TargetId::new("orders", name));
        let now = [point(60, Some(0.5))];
        assert_eq!(stated(&fleet, &["redis_hit_ratio", "cpu_utilization_ratio"]), ["Unknown", "Unknown"]);
        let readout = Readout {
            measured: vec![
                measured(target("db-1"), "cpu_utilization_ratio", None, &now),
                measured(target("db-1"), "swap", Some(Unit::Bytes), &now),
                measured(target("gone"), "cpu_utilization_ratio", None, &now),
                measured(Subject::Cluster(Name::new("orders")), "volume", Some(Unit::Bytes), &now),
                measured(Subject::Cluster(Name::new("gone")), "volume", Some(Unit::Bytes), &now),
                measured(Subject::Redis(redis.clone(), Name::new("s-1")), "redis_hit_ratio", None, &now),
                measured(Subject::Redis(redis.clone(), Name::new("gone")), "redis_hit_ratio", None, &now),
            ],
            groups: vec![(redis.clone(), vec![Name::new("s-1"), Name::new("s-2")])],
            stale_after: MINUTES,
        };
        assert!(fleet.apply(Event::Measured(Box::new(readout)), NOW, wall()).is_empty());
        let names = ["cpu_utilization_ratio", "cloudwatch_bytes", "cloudwatch_count", "cluster_cloudwatch_bytes"];
        assert_eq!(
            stated(&fleet, &names),
            [
                "cpu_utilization_ratio [] 0.5",
                "Complete",
                "cloudwatch_bytes [\"swap\"] 0.5",
                "Complete",
                "Complete",
                "cluster_cloudwatch_bytes [\"volume\"] 0.5",
                "Complete",
            ]
        );
        assert_eq!(
            stated(&fleet, &["redis_hit_ratio", "redis_datapoint_age_seconds", "cloudwatch_datapoint_age_seconds"]),
            [
                "redis_hit_ratio [\"sessions\", \"s-1\"] 0.5",
                "Unknown",
                "redis_datapoint_age_seconds [\"sessions\", \"s-1\", \"redis_hit_ratio\"] 60",
                "Unknown",
                "cloudwatch_datapoint_age_seconds [\"cpu_utilization_ratio\"] 60",
                "cloudwatch_datapoint_age_seconds [\"swap\"] 60",
                "Complete",
            ]
        );
        // The second node has gone: all there is was told.
        let groups = vec![(redis, vec![Name::new("s-1")])];
        fleet.apply(Event::Measured(Box::new(Readout { groups, ..Readout::default() })), NOW, wall());
        assert_eq!(stated(&fleet, &["redis_hit_ratio"])[1], "Complete");
    }

    #[test]
    fn free_storage_is_a_share_where_both_sides_are_known() {
        let mut fleet = fleet();
        let id = TargetId::new("orders", "db-1");
        let found = |allocated: Option<u64>| {
            let facts = InstanceFacts { allocated_storage_bytes: allocated, ..InstanceFacts::default() };
            Event::Discovered(Box::new(Discovered {
                name: Name::new("discover-1"),
                at: NOW,
                n_targets: 1,
                n_clusters: 1,
                facts: vec![(id.clone(), facts)],
                fault: None,
            }))
        };
        let free = |value: Option<f64>| {
            let (subject, metric) = (Subject::Target(id.clone()), Name::new("storage_free_bytes"));
            let measured = vec![Measured { subject, metric, unit: None, points: vec![point(60, value)] }];
            Event::Measured(Box::new(Readout { measured, stale_after: MINUTES, ..Readout::default() }))
        };
        for (event, expect) in [
            (free(Some(5e9)), &["Unknown"] as &[&str]),
            (found(Some(20_000_000_000)), &["storage_free_ratio [] 0.25", "Complete"]),
            // Aurora, whose storage has no size.
            (found(None), &["Unknown"]),
            (found(Some(0)), &["Unknown"]),
            (found(Some(10_000_000_000)), &["storage_free_ratio [] 0.5", "Complete"]),
            (free(None), &["Unknown"]),
        ] {
            fleet.apply(event, NOW, wall());
            assert_eq!(stated(&fleet, &["storage_free_ratio"]), expect);
        }
    }

    #[test]
    fn disagreement_is_told_with_its_reason() {
        let told = |theirs: f64, ours: f64, unreplayed: u64| {
            let mut target = replica("orders", "replica-1");
            target.cloudwatch = Arc::new(readings("rds_replica_lag_seconds", &[point(90, Some(theirs))]));
            target.lag.as_mut().unwrap().value = Some(ours);
            target.stages.as_mut().unwrap().unreplayed = Some(WalBytes(unreplayed));
            disagreement(&target, NOW).map(|found| found.reason)
        };
        assert_eq!(told(240.0, 0.0, 0), Some(Reason::Idle));
        assert_eq!(told(240.0, 2.0, 4096), Some(Reason::Unexplained));
        // It has grown since.
        assert_eq!(told(0.0, 90.0, 4096), Some(Reason::Late));
        assert_eq!(told(0.0, 900.0, 4096), Some(Reason::Unseen));
        // As good as one.
        assert_eq!(told(4.0, 0.2, 0), None);
        assert_eq!(told(900.0, 990.0, 4096), None);
        let mut unknown = replica("orders", "replica-1");
        unknown.cloudwatch = Arc::new(readings("rds_replica_lag_seconds", &[point(90, None)]));
        assert_eq!(disagreement(&unknown, NOW), None);
        let found = Disagreement { theirs: 240.0, ours: 0.0, reason: Reason::Idle, age: 90.0 };
        assert_eq!(
            found.sentence(),
            "CloudWatch says 4m where pgvigil measures 0s: the replica has replayed all WAL there is, and RDS counts the time \
             since the last commit that it replayed, which grows while nothing is written"
        );
    }
}
