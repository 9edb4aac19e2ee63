//! What the configuration says of CloudWatch: who is asked for what, and what is told there.

use std::collections::HashSet;

use super::error::did_you_mean;
use super::{Written, WrittenTarget};
use crate::aws::Place;
use crate::aws::cloudwatch::{Group, Instance, Lone, MetricConfig, Wanted};
use crate::collect::conninfo::{Conninfo, Endpoint};
use crate::core::cloudwatch::{DATABASE, Metric, family, instance_of_endpoint};
use crate::core::publish::Published;
use crate::core::rule::{OneOrMany, RuleConfig};
use crate::core::signal::{SIGNALS, Signal};
use crate::core::topology::{Name, TargetId};

/// What is asked for and of what, if anything is.
#[derive(Debug, Default)]
pub(super) struct CloudWatch {
    pub(super) wanted: Option<Wanted>,
    /// The targets that are known there.
    pub(super) instances: Vec<Instance>,
}

pub(super) fn cloudwatch(written: &Written, finding: &mut impl FnMut(&[&str], String)) -> CloudWatch {
    let config = &written.cloudwatch;
    check_names(written, finding);
    check_publish(written, finding);
    let instances = instances(written, finding);
    let lone = lone(written, finding);
    let groups = groups(written, finding);
    if !config.enabled {
        for (key, is_there) in [("metric", !config.metric.is_empty()), ("metrics", config.metrics.is_some())] {
            if is_there {
                finding(&["cloudwatch", key], format!("CloudWatch is not read; {ENABLE}"));
            }
        }
        return CloudWatch { wanted: None, instances };
    }
    // What is found in AWS is known there.
    if instances.is_empty() && lone.is_empty() && groups.is_empty() && written.discover.is_empty() {
        finding(
            &["cloudwatch", "enabled"],
            "no target is known to be an instance of RDS; write cloudwatch = { instance = \"...\", region = \"...\" } in a \
             [[cluster.target]]"
                .to_owned(),
        );
    }
    let configured = config.metric.iter().filter(|metric| metric.is_of_instance()).cloned().collect();
    let metrics = Wanted::metrics_of(config);
    CloudWatch { wanted: Some(Wanted { interval: config.interval, metrics, configured, groups, lone }), instances }
}

const ENABLE: &str = "write enabled = true in [cloudwatch]";

/// Whether CloudWatch is read for a signal.
pub(super) fn is_read(signal: &Signal, written: &Written) -> bool {
    let is_there = match signal.name {
        // How large a volume is, is said of what is found.
        "storage_free_ratio" => !written.discover.is_empty(),
        name => !name.starts_with("redis_") || !written.redis.is_empty(),
    };
    written.cloudwatch.enabled && is_there
}

/// A rule may call a metric that is configured by its own name.
pub(super) fn with_named_metric(mut rule: RuleConfig, metrics: &[MetricConfig]) -> RuleConfig {
    let name_of = |text: &str| text[..text.find(['>', '<', '=', '!']).unwrap_or(text.len())].trim().to_owned();
    let name = rule.when.as_deref().or(rule.signal.as_deref()).map(name_of).unwrap_or_default();
    if let Some(metric) = metrics.iter().find(|metric| metric.signal == name) {
        let family = family(metric.unit.base().0, metric.is_of_instance());
        rule.when = rule.when.map(|when| when.replacen(&metric.signal, family, 1));
        rule.signal = rule.signal.map(|_| family.to_owned());
        rule.only.insert("metric".to_owned(), OneOrMany(vec![metric.signal.clone()]));
    }
    rule
}

/// The targets that CloudWatch knows, by their own word or by their endpoints.
fn instances(written: &Written, finding: &mut impl FnMut(&[&str], String)) -> Vec<Instance> {
    let mut instances = Vec::new();
    for (of_cluster, cluster) in written.cluster.iter().enumerate() {
        for (of_target, target) in cluster.target.iter().enumerate() {
            let id = TargetId::new(&cluster.name, &target.name);
            match instance(id, target, written.aws.region.is_some()) {
                Ok(instance) => instances.extend(instance),
                Err(reason) => {
                    let (cluster, target) = (of_cluster.to_string(), of_target.to_string());
                    finding(&["cluster", &cluster, "target", &target, "cloudwatch"], reason);
                }
            }
        }
    }
    instances
}

fn instance(id: TargetId, target: &WrittenTarget, has_region: bool) -> Result<Option<Instance>, String> {
    let host = match target.dsn.as_ref().map(Conninfo::hosts) {
        Some([host]) => match &host.endpoint {
            Endpoint::Tcp { name, .. } => Some(name.as_str()),
            Endpoint::Unix(_) => None,
        },
        _ => None,
    };
    let derived = host.and_then(instance_of_endpoint);
    let own = target.cloudwatch.clone().unwrap_or_default();
    let instance = own.instance.or_else(|| derived.map(|(instance, _)| instance.to_owned()));
    let region = own.region.or_else(|| derived.map(|(_, region)| region.to_owned())).or_else(|| target.region.clone());
    match (instance, region) {
        (Some(instance), region) if region.is_some() || has_region => {
            Ok(Some(Instance { id, instance, place: Place { region, role_arn: own.role_arn } }))
        }
        (None, _) if target.cloudwatch.is_none() => Ok(None),
        (Some(instance), _) => {
            Err(format!("in which region is {instance:?}? its host does not tell; write region = \"us-east-1\""))
        }
        (None, _) => Err("which instance is it? its host does not tell; write instance = \"...\"".to_owned()),
    }
}

/// The cluster of this name, or the only one.
fn cluster_of<'a>(written: &'a Written, name: Option<&'a str>) -> Result<&'a str, (&'static str, String)> {
    let names: Vec<&str> = written.cluster.iter().map(|cluster| cluster.name.as_str()).collect();
    match (name, &names[..]) {
        // What is found in AWS has names that nobody knows yet.
        (Some(name), names) if names.contains(&name) || !written.discover.is_empty() => Ok(name),
        (Some(name), names) => Err(("cluster", format!("there is no cluster {name:?}{}", did_you_mean(name, names)))),
        (None, [cluster]) => Ok(*cluster),
        (None, _) => Err(("", "which of the clusters does it belong to? write cluster = \"...\"".to_owned())),
    }
}

fn groups(written: &Written, finding: &mut impl FnMut(&[&str], String)) -> Vec<Group> {
    let mut groups = Vec::new();
    for (position, redis) in written.redis.iter().enumerate() {
        let position = position.to_string();
        if !written.cloudwatch.enabled {
            finding(&["redis", &position], format!("it is watched through CloudWatch, which is not read; {ENABLE}"));
        }
        match cluster_of(written, redis.cluster.as_deref()) {
            Ok(cluster) => groups.push(Group {
                id: TargetId::new(cluster, &redis.name),
                group: redis.replication_group.clone(),
                place: Place { region: redis.region.clone(), role_arn: redis.role_arn.clone() },
            }),
            Err((key, reason)) => {
                let path: Vec<&str> = ["redis", &position, key].into_iter().filter(|key| !key.is_empty()).collect();
                finding(&path, reason);
            }
        }
    }
    groups
}

/// Metrics that are configured and not of an instance.
fn lone(written: &Written, finding: &mut impl FnMut(&[&str], String)) -> Vec<Lone> {
    let mut lone = Vec::new();
    let mut seen = HashSet::new();
    for (position, metric) in written.cloudwatch.metric.iter().enumerate() {
        let position = position.to_string();
        let mut finding = |key: &str, reason: String| {
            let path = ["cloudwatch", "metric", &position, key];
            finding(if key.is_empty() { &path[..3] } else { &path }, reason);
        };
        let is_name = metric.signal.starts_with(|first: char| first.is_ascii_lowercase())
            && metric.signal.len() <= 63
            && metric.signal.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_name {
            let reason = "cannot be a name; use small letters, digits and \"_\", beginning with a letter, at most 63";
            finding("signal", format!("{:?} {reason}", metric.signal));
        } else if SIGNALS.iter().any(|signal| signal.name == metric.signal) {
            finding("signal", format!("{:?} is the name of a signal that there is; choose another", metric.signal));
        } else if !seen.insert(&metric.signal) {
            finding("signal", format!("{:?} is taken by another metric; give each its own", metric.signal));
        }
        if !metric.has_statistic() {
            let known = "Average, Sum, Minimum, Maximum, SampleCount, or a percentile like p99";
            finding("statistic", format!("{:?} is not one of {known}", metric.statistic));
        }
        for (key, text) in [("namespace", &metric.namespace), ("name", &metric.name)] {
            if text.is_empty() || text.len() > 255 || !text.is_ascii() || text.chars().any(char::is_control) {
                finding(key, format!("{text:?} is no name that CloudWatch could have"));
            }
        }
        let cluster = match (cluster_of(written, metric.cluster.as_deref()), &metric.cluster) {
            (Err(_), None) if metric.is_of_instance() => continue,
            (Err((key, reason)), _) => {
                finding(key, reason);
                continue;
            }
            (Ok(cluster), _) => cluster,
        };
        if metric.is_of_instance() {
            for (key, is_set) in [("region", metric.region.is_some()), ("role_arn", metric.role_arn.is_some())] {
                if is_set {
                    finding(key, "it is asked for where each instance is; leave this out".to_owned());
                }
            }
        } else {
            let place = Place { region: metric.region.clone(), role_arn: metric.role_arn.clone() };
            lone.push(Lone { cluster: Name::new(cluster), place, metric: metric.clone() });
        }
    }
    lone
}

fn check_names(written: &Written, finding: &mut impl FnMut(&[&str], String)) {
    super::validate::names("redis", &["redis"], written.redis.iter().map(|redis| redis.name.as_str()), finding);
    let known: Vec<&str> = DATABASE.iter().map(|metric| metric.name).collect();
    for name in written.cloudwatch.metrics.iter().flatten().filter(|name| Metric::of_database(name).is_none()) {
        let hint = did_you_mean(name, &known);
        let reason = format!("there is no signal for {name:?}{hint}; any other metric is a [[cloudwatch.metric]]");
        finding(&["cloudwatch", "metrics"], reason);
    }
}

fn check_publish(written: &Written, finding: &mut impl FnMut(&[&str], String)) {
    let Some(publish) = &written.cloudwatch.publish else { return };
    let known: Vec<&str> = SIGNALS.iter().map(|signal| signal.name).chain(["healthy", "Heartbeat"]).collect();
    for name in &publish.metrics {
        if let Err(reason) = Published::named(name) {
            finding(&["cloudwatch", "publish", "metrics"], format!("{reason}{}", did_you_mean(name, &known)));
        }
    }
    let namespace = &publish.namespace;
    let is_name = (1..=255).contains(&namespace.len())
        && namespace.chars().all(|c| c.is_ascii_alphanumeric() || ".-_/#: ".contains(c));
    if !is_name || namespace.starts_with("AWS/") || namespace.starts_with(':') {
        let reason = "cannot be a namespace; use letters, digits and . - _ / # : but not AWS/ at its beginning";
        finding(&["cloudwatch", "publish", "namespace"], format!("{namespace:?} {reason}"));
    }
}
