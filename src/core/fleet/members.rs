//! What is watched changes while the daemon runs: a file was edited, a replica was made or removed.
//!
//! Names are identities. What keeps its name keeps all that is known of it: its answers, the history of its cluster's
//! WAL, its alerts and what was told of them. What leaves is *gone*: its alerts end at the next judgement, and who heard
//! of them is told so. What comes is unknown until it answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use super::{Cluster, ClusterSpec, DiscoverySpec, Fleet, FleetSpec, index_of};
use crate::core::cloudwatch::RedisGroup;
use crate::core::discovery::{Discovered, DiscoveryView, Happening, InstanceView, RdsEvent, with_events};
use crate::core::snapshot::{ClusterView, PoolerView, TargetView};
use crate::core::time::MonoTime;
use crate::core::topology::{Name, TargetId};

impl Fleet {
    pub(super) fn set_members(&mut self, spec: FleetSpec, now: MonoTime) {
        let before = std::mem::take(&mut self.clusters);
        let mut before: HashMap<Name, Cluster> =
            before.into_iter().map(|cluster| (cluster.view.name.clone(), cluster)).collect();
        let cluster = |of: &ClusterSpec| match before.remove(&of.name) {
            Some(cluster) => cluster.reshaped(of, &spec, now),
            None => Cluster::new(of, &spec).since(now),
        };
        self.clusters = spec.clusters.iter().map(cluster).collect();
        self.index = Arc::new(index_of(self.clusters.iter().map(|cluster| &cluster.view.name)));
        self.discoveries = {
            let before = |spec: &DiscoverySpec| {
                self.discoveries.iter().find(|it| it.name == spec.name && it.looks_for == spec.looks_for)
            };
            spec.discoveries
                .iter()
                .map(|spec| before(spec).cloned().unwrap_or_else(|| DiscoveryView::new(spec)))
                .collect()
        };
        self.rule_names = spec.rules.iter().map(|rule| rule.name.clone()).collect();
        self.survey_stale_after = spec.survey_stale_after;
        let index = &self.index;
        self.alerting.forget_upstreams(|cluster| index.contains_key(cluster));
        self.alerting.silences_mut().set_windows(spec.maintenance);
        self.alerting.set_rules(spec.rules, spec.poll_interval, now);
        self.alerting.set_recipients(spec.recipients, spec.alerting, now);
    }

    /// Takes in what AWS said, or why it said nothing. Who is watched is another matter.
    pub(super) fn discovered(&mut self, discovered: Discovered, wall: SystemTime) {
        let Some(view) = Arc::make_mut(&mut self.discoveries).iter_mut().find(|view| view.name == discovered.name)
        else {
            return;
        };
        view.take(&discovered);
        let (at, stale_after) = (discovered.at, view.stale_after);
        let unix = wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        for (id, facts) in discovered.facts {
            let certificate_expires_in = facts.certificate_valid_till.map(|till| till as f64 - unix);
            let Some(cluster) = self.cluster_mut(&id) else { continue };
            if let Some(&position) = cluster.view.index.get(&id.target) {
                cluster.target_mut(position).instance =
                    Some(InstanceView { at, stale_after, certificate_expires_in, facts: Arc::new(facts) });
            }
        }
    }

    pub(super) fn happened(&mut self, happenings: Vec<(Name, Happening)>, now: MonoTime, wall: SystemTime) {
        let unix = wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        for (name, happening) in happenings {
            let Some(cluster) = self.index.get(&name).and_then(|&place| self.clusters.get_mut(place)) else { continue };
            let event = RdsEvent { at: now.plus_seconds(happening.unix_seconds as f64 - unix), happening };
            let events = with_events(&cluster.view.rds_events, vec![event]);
            if events.len() != cluster.view.rds_events.len() || events.last() != cluster.view.rds_events.last() {
                Arc::make_mut(&mut cluster.view).rds_events = events;
            }
        }
    }
}

impl Cluster {
    /// All that is in it came at `now`.
    fn since(mut self, now: MonoTime) -> Self {
        for position in 0..self.view.targets.len() {
            self.target_mut(position).since = Some(now);
        }
        self
    }

    /// The same cluster with the members that `spec` gives it, in its order.
    fn reshaped(mut self, spec: &ClusterSpec, fleet: &FleetSpec, now: MonoTime) -> Self {
        let view = Arc::make_mut(&mut self.view);
        let index = Arc::new(index_of(spec.targets.iter()));
        for target in view.targets.iter().map(|target| &target.id.target).filter(|name| !index.contains_key(*name)) {
            self.lag.forget(target);
        }
        // Where each stood before. `None`: it is new.
        let places: Vec<Option<usize>> = spec.targets.iter().map(|name| view.index.get(name).copied()).collect();
        let is_same = places.len() == view.targets.len() && places.iter().copied().eq((0..places.len()).map(Some));
        if !is_same {
            let id = |name: &Name| TargetId { cluster: spec.name.clone(), target: name.clone() };
            let target = |(name, place): (&Name, &Option<usize>)| match place {
                Some(at) => Arc::clone(&view.targets[*at]),
                None => Arc::new(TargetView { since: Some(now), ..TargetView::new(id(name), fleet.stale_after) }),
            };
            view.targets = spec.targets.iter().zip(&places).map(target).collect();
            view.index = index;
            self.sessions = moved(self.sessions, &places);
            self.trends = moved(self.trends, &places);
            self.pasts = moved(self.pasts, &places);
            self.slots = moved(self.slots, &places);
            self.skew = moved(self.skew, &places);
            self.relink = true;
        }
        self.set_poolers(spec, fleet);
        self.set_pace(fleet);
        self
    }

    fn set_poolers(&mut self, spec: &ClusterSpec, fleet: &FleetSpec) {
        let view: &mut ClusterView = Arc::make_mut(&mut self.view);
        let place_of = |name: &Name| view.poolers.iter().position(|pooler| pooler.id.target == *name);
        let places: Vec<Option<usize>> = spec.poolers.iter().map(place_of).collect();
        let id = |name: &Name| TargetId { cluster: spec.name.clone(), target: name.clone() };
        let pooler = |(name, place): (&Name, &Option<usize>)| match place {
            Some(at) => Arc::clone(&view.poolers[*at]),
            None => Arc::new(PoolerView::new(id(name), fleet.pooler_stale_after)),
        };
        view.poolers = spec.poolers.iter().zip(&places).map(pooler).collect();
        self.poolers = moved(std::mem::take(&mut self.poolers), &places);
        let group = |name: &Name| match view.redis.iter().find(|group| group.name == *name) {
            Some(group) => group.clone(),
            None => RedisGroup { name: name.clone(), nodes: BTreeMap::new() },
        };
        view.redis = spec.redis.iter().map(group).collect();
    }

    /// How often members are asked, and for how long an answer is good.
    fn set_pace(&mut self, fleet: &FleetSpec) {
        self.poll_interval = fleet.poll_interval.as_secs_f64();
        self.lag.set_poll_interval(fleet.poll_interval);
        let view = Arc::make_mut(&mut self.view);
        for target in view.targets.iter_mut().filter(|target| target.stale_after != fleet.stale_after) {
            Arc::make_mut(target).stale_after = fleet.stale_after;
        }
        for pooler in view.poolers.iter_mut().filter(|pooler| pooler.stale_after != fleet.pooler_stale_after) {
            Arc::make_mut(pooler).stale_after = fleet.pooler_stale_after;
        }
    }
}

/// What is kept for each member, in another order. What is new has nothing yet.
fn moved<T: Default>(mut before: Vec<T>, places: &[Option<usize>]) -> Vec<T> {
    places.iter().map(|place| place.map(|at| std::mem::take(&mut before[at])).unwrap_or_default()).collect()
}
