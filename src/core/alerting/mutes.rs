//! Which alerts follow from others, and are not told while those fire.
//!
//! | cause | what follows from it |
//! |---|---|
//! | a target is down | all other alerts on it |
//! | | what is said of the replication of targets that hang below it, directly or not |
//! | the primary is down | the same of all its replicas, and what poolers and the cluster say for want of it |
//! | a target fails over | all of the above, and that it is down, for as long as a failover may take |
//!
//! A cause must be at least as severe as what it mutes, or a page would hide behind a note. It counts from its first
//! breach: what follows may fire before it does, and is held for up to [`PENDING_HOLDS`] meanwhile. When it is over, what
//! followed from it has [`HOLD`] to pass as well.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::core::alert::{AlertId, AlertView, Phase};
use crate::core::ledger::{Ledger, Muted};
use crate::core::mute::Mute;
use crate::core::snapshot::ClusterView;
use crate::core::time::MonoTime;
use crate::core::topology::Name;
use crate::core::topology::failover;
use crate::core::topology::links::Upstream;

/// What has been muted, and fires on when its cause is over, must do so for this long before it is told.
pub(super) const HOLD: Duration = Duration::from_secs(30);

/// A cause that is only pending holds what follows from it for this long.
const PENDING_HOLDS: Duration = Duration::from_secs(60);

/// The signals whose alerts are causes.
const DOWN: &str = "target_up";
const FAILOVER: &str = "rds_failover";

/// Who followed whom when it was last known. What has lost its upstream has no receiver to tell of it.
#[derive(Debug, Default)]
pub(super) struct Upstreams(HashMap<Name, HashMap<Name, Name>>);

impl Upstreams {
    pub(super) fn observe(&mut self, clusters: &[Arc<ClusterView>]) {
        for cluster in clusters {
            for target in &cluster.targets {
                let name = match (&target.links.sender, &target.links.upstream) {
                    (Some(sender), _) => &sender.upstream,
                    (None, Some(Upstream::Target(name))) => name,
                    (None, Some(Upstream::Elsewhere(_))) => {
                        self.0.get_mut(&cluster.name).map(|of| of.remove(&target.id.target));
                        continue;
                    }
                    _ => continue,
                };
                let of_cluster = self.0.entry(cluster.name.clone()).or_default();
                if of_cluster.get(&target.id.target) != Some(name) {
                    of_cluster.insert(target.id.target.clone(), name.clone());
                }
            }
        }
    }

    /// Forgets clusters that are watched no more.
    pub(super) fn retain(&mut self, is_watched: impl Fn(&Name) -> bool) {
        self.0.retain(|cluster, _| is_watched(cluster));
    }

    /// Whether `target` gets its WAL from `upstream`, directly or through others.
    fn is_below(&self, cluster: &Name, target: &Name, upstream: &Name) -> bool {
        let Some(of_cluster) = self.0.get(cluster) else { return false };
        let chain = std::iter::successors(of_cluster.get(target), |name| of_cluster.get(*name));
        // A circle is a mistake of somebody's, and no reason to go round for ever.
        chain.take(of_cluster.len()).any(|name| name == upstream)
    }
}

/// For each alert of a cluster that fires, the alert it follows from.
pub(super) fn causes(
    cluster: &ClusterView,
    alerts: &[AlertView],
    upstreams: &Upstreams,
    ledger: &Ledger,
    now: MonoTime,
) -> HashMap<AlertId, (Mute, Muted)> {
    let is_over_time = |alert: &AlertView| {
        let target = alert.id.target.as_ref().and_then(|name| cluster.target(name.as_str()));
        let outage = target.and_then(|target| target.outage);
        outage.is_some_and(|outage| outage.back_at.is_none() && outage.away(now) > failover::TAKES)
    };
    let is_down = |alert: &&AlertView| {
        (alert.signal() == DOWN || (alert.signal() == FAILOVER && !is_over_time(alert)))
            && alert.phase != Phase::Resolved
            && cluster.poolers.iter().all(|pooler| Some(&pooler.id.target) != alert.id.target.as_ref())
    };
    let down: Vec<&AlertView> = alerts.iter().filter(is_down).collect();
    if down.is_empty() {
        return HashMap::new();
    }
    let cause_of = |alert: &AlertView| {
        let could_be = |cause: &&&AlertView| {
            cause.id != alert.id
                && cause.severity >= alert.severity
                && (cause.phase == Phase::Firing || alert.fired_at.is_none_or(|at| now.duration_since(at) < PENDING_HOLDS))
                // Who followed whom is forgotten over a restart, and what was muted then is not.
                && (follows(cluster, alert, cause, upstreams) || ledger.cause(&alert.id) == Some(&cause.id))
        };
        // Of several, the one that fires; then the one that says most; then the first.
        let order = |cause: &&&AlertView| (cause.phase != Phase::Firing, cause.signal() != FAILOVER, cause.active_at);
        let cause = down.iter().filter(could_be).min_by_key(order)?;
        let hold = if cause.phase == Phase::Firing { HOLD } else { Duration::ZERO };
        let muted = Muted { hold, cause: Some(cause.id.clone()) };
        Some((alert.id.clone(), (Mute::DependsOn { alert: cause.id.clone() }, muted)))
    };
    alerts.iter().filter(|alert| alert.phase == Phase::Firing).filter_map(cause_of).collect()
}

fn follows(cluster: &ClusterView, alert: &AlertView, cause: &AlertView, upstreams: &Upstreams) -> bool {
    let Some(down) = &cause.id.target else { return false };
    let is_primary = cluster.primary.as_ref() == Some(down);
    let signal = alert.signal();
    let is_failover = cause.signal() == FAILOVER;
    match &alert.id.target {
        Some(target) if target == down && signal == FAILOVER && !is_failover => false,
        Some(target) if target == down && signal == DOWN && is_failover => true,
        // Two rules on one fact: the one that was first, or is severer, stands for both.
        Some(target) if target == down && signal == cause.signal() => {
            (cause.severity, &alert.id) > (alert.severity, &cause.id)
        }
        Some(target) if target == down => true,
        Some(_) if signal == DOWN => false,
        Some(target) if cluster.pooler(target.as_str()).is_some() => is_primary && is_of_pooler(signal),
        Some(target) => is_of_replication(signal) && (is_primary || upstreams.is_below(&cluster.name, target, down)),
        None => is_primary && matches!(signal, "cluster_targets_up" | "primaries") && alert.reading < Some(1.0),
    }
}

/// What clients of a pooler feel when its server is away. That the pooler itself is away is another matter.
fn is_of_pooler(signal: &str) -> bool {
    matches!(signal, "pooler_longest_wait_seconds" | "pooler_clients" | "pooler_pool_used_ratio")
}

/// What a replica says when the server that it gets its WAL from is away.
fn is_of_replication(signal: &str) -> bool {
    const PREFIXES: [&str; 6] = ["replay_lag", "receive", "send_lag", "flush_lag", "sender_", "wal_receive"];
    const OTHERS: [&str; 9] = [
        "standby_missing",
        "wrong_upstream",
        "timelines_behind",
        "replication_cause",
        "lag_direction",
        "catch_up_seconds",
        "replay_stalled",
        "replay_stalled_seconds",
        "wal_replay_bytes_per_second",
    ];
    PREFIXES.iter().any(|prefix| signal.starts_with(prefix)) || OTHERS.contains(&signal)
}
