//! All the state there is, and the one function that changes it.
//!
//! [`Fleet::apply`] takes whatever happened and the present, and answers with what notifiers must now be told. It cannot
//! wait and cannot fail. Readers never see the fleet; they get a [`Snapshot`], which shares with the fleet whatever did
//! not change, so that the cost of one poll does not grow with the number of targets.

mod diagnosis;
mod members;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use self::diagnosis::Past;
use super::alert::{AlertId, Phase};
use super::alerting::Alerting;
use super::cause::ApplyDelay;
use super::cloudwatch::{Readings, Readout, RedisGroup, Subject};
use super::discovery::{Discovered, DiscoveryView, Happening};
use super::drain::{self, Drains};
use super::glob::Glob;
use super::lag::{AuroraBytes, Evidence, LagEstimate, LagTracker, SavedLag};
use super::ledger::pacing::AlertingConfig;
use super::ledger::{Delivery, Notice, Recipient};
use super::observation::{Observation, PollFailure, Positions, Receiver, ServerState, WalSender};
use super::pooler::{PoolerObservation, PoolerTracker};
use super::rule::Rule;
use super::saved::{Saved, SavedAlert};
use super::senders;
use super::sessions::SessionTracker;
use super::silence::selector::Selector;
use super::silence::window::Window;
use super::silence::{Change as SilenceChange, Changed, Refusal, Silences};
use super::skew::SkewTracker;
use super::slots::SlotTracker;
use super::snapshot::{
    Answer, ClusterView, Failing, OwnLag, PoolerAnswer, PoolerView, RoleChanges, Snapshot, Stages, SurveyView,
    TargetView,
};
use super::subscription;
use super::survey::Survey;
use super::time::MonoTime;
use super::topology::events::{self, Change, TopologyEvent};
use super::topology::failover::Outage;
use super::topology::links::{self, SenderId, Upstream};
use super::topology::{Name, Role, TargetId};
use super::trend::{Life, Sample, Trend, TrendTracker};
use super::wal::{Lsn, WalBytes};

/// All that can happen to the fleet.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all events are polls, so a box would save nothing")]
pub enum Event {
    /// A fast poll ended.
    Polled(Observation),
    /// A slow poll ended.
    Surveyed(Box<Survey>),
    /// A poll of a connection pooler ended.
    Pooled(PoolerObservation),
    /// CloudWatch was read.
    Measured(Box<Readout>),
    /// An attempt to tell a notifier ended.
    Delivered(Delivery),
    /// Time has passed: what depends on it alone is brought up to date.
    Tick,
    /// From now on this is watched, judged and told. What stays keeps its state; the alerts of what leaves end.
    Members(Box<FleetSpec>),
    /// AWS was asked what there is.
    Discovered(Box<Discovered>),
    /// RDS reports something, of these clusters.
    Happened(Vec<(Name, Happening)>),
}

/// What is new in who is who.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    Changed(TopologyEvent),
    /// Two targets lead to one server.
    SameServer {
        target: Name,
        other: Name,
    },
}

/// What is watched, and how it is judged.
#[derive(Clone, Debug)]
pub struct FleetSpec {
    pub clusters: Vec<ClusterSpec>,
    /// Those who find clusters, and what they look for.
    pub discoveries: Vec<DiscoverySpec>,
    pub poll_interval: Duration,
    /// A sample older than this is unknown.
    pub stale_after: Duration,
    /// Slow facts older than this are unknown.
    pub survey_stale_after: Duration,
    /// What a pooler said is unknown when older than this.
    pub pooler_stale_after: Duration,
    pub rules: Vec<Rule>,
    /// Windows in which alerts are not told.
    pub maintenance: Vec<Window>,
    pub recipients: Vec<Recipient>,
    pub alerting: AlertingConfig,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoverySpec {
    pub name: Name,
    pub looks_for: String,
    /// What AWS said of an instance is unknown when older than this.
    pub stale_after: Duration,
}

#[derive(Clone, Debug)]
pub struct ClusterSpec {
    pub name: Name,
    pub targets: Vec<Name>,
    pub poolers: Vec<Name>,
    /// Replication groups of ElastiCache.
    pub redis: Vec<Name>,
}

/// Everything watched: owned by one task, changed by [`Fleet::apply`] alone.
#[derive(Debug)]
pub struct Fleet {
    clusters: Vec<Cluster>,
    index: Arc<HashMap<Name, usize>>,
    discoveries: Arc<[DiscoveryView]>,
    alerting: Alerting,
    rule_names: Vec<Name>,
    survey_stale_after: Duration,
    drains: Arc<Drains>,
    /// Each with its cluster, until they are taken.
    news: Vec<(Name, News)>,
}

#[derive(Debug)]
struct Cluster {
    lag: LagTracker,
    /// Something that decides who follows whom has changed since it was last looked at.
    relink: bool,
    /// One for each target, in the order of the view.
    sessions: Vec<SessionTracker>,
    /// Likewise.
    trends: Vec<TrendTracker>,
    /// Likewise.
    pasts: Vec<Past>,
    /// Seconds.
    poll_interval: f64,
    /// One for each pooler, in the order of the view.
    poolers: Vec<PoolerTracker>,
    slots: Vec<SlotTracker>,
    skew: Vec<SkewTracker>,
    view: Arc<ClusterView>,
}

impl Fleet {
    pub fn new(spec: FleetSpec) -> Self {
        let standing = spec.recipients.iter().filter(|recipient| recipient.is_standing);
        let standing = standing.map(|recipient| recipient.name.clone()).collect();
        let clusters: Vec<Cluster> = spec.clusters.iter().map(|cluster| Cluster::new(cluster, &spec)).collect();
        let rule_names = spec.rules.iter().map(|rule| rule.name.clone()).collect();
        let discoveries = spec.discoveries.iter().map(DiscoveryView::new).collect();
        let mut alerting =
            Alerting::new(spec.rules, spec.recipients, spec.poll_interval, spec.alerting).with_standing(standing);
        *alerting.silences_mut() = Silences::new(spec.maintenance);
        Self {
            index: Arc::new(index_of(clusters.iter().map(|cluster| &cluster.view.name))),
            clusters,
            discoveries,
            rule_names,
            alerting,
            survey_stale_after: spec.survey_stale_after,
            drains: Arc::default(),
            news: Vec::new(),
        }
    }

    /// Takes in what happened. Answers with what notifiers must be told now.
    pub fn apply(&mut self, event: Event, now: MonoTime, wall: SystemTime) -> Vec<Notice> {
        match event {
            Event::Polled(observation) => {
                if let Some(cluster) = self.cluster_mut(&observation.target) {
                    let event = cluster.polled(observation, now, wall);
                    let name = cluster.view.name.clone();
                    self.news.extend(event.map(|event| (name, News::Changed(event))));
                }
                Vec::new()
            }
            Event::Surveyed(survey) => {
                let stale_after = self.survey_stale_after;
                if let Some(cluster) = self.cluster_mut(&survey.target) {
                    cluster.surveyed(*survey, stale_after);
                }
                Vec::new()
            }
            Event::Pooled(observation) => {
                if let Some(cluster) = self.cluster_mut(&observation.pooler) {
                    cluster.pooled(observation);
                }
                Vec::new()
            }
            Event::Measured(readout) => {
                self.measured(*readout);
                Vec::new()
            }
            Event::Delivered(delivery) => {
                self.alerting.record(&delivery, now);
                self.due(now, wall)
            }
            Event::Tick => {
                for cluster in &mut self.clusters {
                    let found = cluster.tick(now);
                    let name = &cluster.view.name;
                    self.news.extend(found.into_iter().map(|news| (name.clone(), news)));
                }
                self.measure_subscriptions(now);
                if !self.drains.is_empty() {
                    Arc::make_mut(&mut self.drains).forget(now);
                    self.show_drains();
                }
                let views: Vec<Arc<ClusterView>> = self.views();
                self.alerting.judge(&views, now, wall);
                drop(views);
                for cluster in &mut self.clusters {
                    let alerts = self.alerting.views(&cluster.view.name);
                    if *alerts != *cluster.view.alerts {
                        Arc::make_mut(&mut cluster.view).alerts = alerts;
                    }
                }
                self.due(now, wall)
            }
            Event::Members(spec) => {
                self.set_members(*spec, now);
                Vec::new()
            }
            Event::Discovered(discovered) => {
                self.discovered(*discovered, wall);
                Vec::new()
            }
            Event::Happened(happenings) => {
                self.happened(happenings, now, wall);
                Vec::new()
            }
        }
    }

    /// Makes or ends a silence. What it changes for alerts is seen with the next [`Event::Tick`].
    ///
    /// # Errors
    /// Why it is not done. Then nothing has changed.
    pub fn change_silences(
        &mut self,
        change: SilenceChange,
        now: MonoTime,
        wall: SystemTime,
    ) -> Result<Changed, Refusal> {
        let silence = self.alerting.silences_mut().change(change, now, wall)?;
        let alerts = self.clusters.iter().flat_map(|cluster| cluster.view.alerts.iter());
        let alerts = alerts
            .filter(|alert| alert.phase != Phase::Resolved && silence.selector.matches(&alert.id, alert.severity))
            .map(|alert| alert.id.clone())
            .collect();
        let until = silence.until(now, wall);
        Ok(Changed { alerts, until, remarks: self.remarks(&silence.selector), silence, stored: Ok(()) })
    }

    /// Drains a target, or undoes that.
    ///
    /// # Errors
    /// Why it is not done. Then nothing has changed.
    pub fn change_drains(
        &mut self,
        change: drain::Change,
        now: MonoTime,
        wall: SystemTime,
    ) -> Result<drain::Changed, drain::Refusal> {
        let known = self.clusters.iter().flat_map(|cluster| cluster.view.targets.iter().map(|target| &target.id));
        let changed = Arc::make_mut(&mut self.drains).change(change, known, now, wall)?;
        self.show_drains();
        Ok(changed)
    }

    pub fn drains(&self) -> &Arc<Drains> {
        &self.drains
    }

    /// Has each target know whether it is drained: those too that were not watched when that was asked for.
    fn show_drains(&mut self) {
        for cluster in &mut self.clusters {
            for position in 0..cluster.view.targets.len() {
                let target = &cluster.view.targets[position];
                let drain = self.drains.of(&target.id);
                if drain != target.drain.as_ref() {
                    let drain = drain.cloned();
                    cluster.target_mut(position).drain = drain;
                }
            }
        }
    }

    /// Which of the names in a selector nothing has.
    fn remarks(&self, selector: &Selector) -> Vec<String> {
        let views = || self.clusters.iter().map(|cluster| &cluster.view);
        let clusters: Vec<&Name> = views().map(|view| &view.name).collect();
        let targets = views().flat_map(|view| view.targets.iter().map(|target| &target.id.target));
        let poolers = views().flat_map(|view| view.poolers.iter().map(|pooler| &pooler.id.target));
        let targets: Vec<&Name> = targets.chain(poolers).collect();
        let rules: Vec<&Name> = self.rule_names.iter().collect();
        [
            ("cluster", &selector.cluster, clusters),
            ("target", &selector.target, targets),
            ("rule", &selector.rule, rules),
        ]
        .into_iter()
        .flat_map(|(what, globs, known)| {
            let is_missing = move |glob: &&Glob| !known.iter().any(|name| glob.matches(name.as_str()));
            globs.iter().filter(is_missing).map(move |glob| format!("there is no {what} {:?} now", glob.as_str()))
        })
        .collect()
    }

    pub fn silences(&self) -> &Arc<Silences> {
        self.alerting.silences()
    }

    /// What alerts and notifiers must have kept over a restart. Asked after [`Fleet::apply`] and before its notices leave.
    pub fn saved_alerts(&self) -> BTreeMap<AlertId, SavedAlert> {
        self.alerting.saved()
    }

    /// The history of each cluster's WAL, by which a restart keeps the lag exact.
    pub fn saved_lags(&self) -> BTreeMap<Name, SavedLag> {
        let saved = |cluster: &Cluster| {
            let lag = cluster.lag.saved()?;
            Some((cluster.view.name.clone(), lag.with_events(&cluster.view.events)))
        };
        self.clusters.iter().filter_map(saved).collect()
    }

    /// Takes up what was kept, before anything else happens.
    pub fn restore(&mut self, mut saved: Saved, now: MonoTime) {
        let lags = std::mem::take(&mut saved.lags);
        self.alerting.silences_mut().restore(std::mem::take(&mut saved.silences));
        Arc::make_mut(&mut self.drains).restore(std::mem::take(&mut saved.drains));
        self.show_drains();
        self.alerting.restore(saved.silent_alerts(), now);
        for (name, mut lag) in lags {
            if let Some(cluster) = self.index.get(&name).and_then(|&place| self.clusters.get_mut(place)) {
                cluster.restore_events(std::mem::take(&mut lag.events));
                cluster.lag.restore(lag);
                let primary = cluster.lag.primary().filter(|name| !cluster.view.index.contains_key(*name)).cloned();
                if let Some(name) = primary {
                    cluster.lag.forget(&name);
                }
                Arc::make_mut(&mut cluster.view).primary = cluster.lag.primary().cloned();
            }
        }
        for cluster in &mut self.clusters {
            Arc::make_mut(&mut cluster.view).alerts = self.alerting.views(&cluster.view.name);
        }
    }

    /// Measures the replicas of which what was measured holds no longer, for nothing newer came in time; whether there
    /// were any. To be called several times within a poll interval, for it is they that bound how old a stated lag is;
    /// it costs next to nothing while servers answer.
    pub fn age(&mut self, now: MonoTime) -> bool {
        let mut has_aged = false;
        for cluster in &mut self.clusters {
            has_aged |= cluster.age(now);
        }
        has_aged
    }

    /// What readers get.
    pub fn snapshot(&self, now: MonoTime, wall: SystemTime) -> Snapshot {
        Snapshot {
            published_at: now,
            wall,
            clusters: self.views(),
            index: Arc::clone(&self.index),
            alerts: self.alerting.own_views(now),
            discoveries: Arc::clone(&self.discoveries),
            silences: Arc::clone(self.alerting.silences()),
            drains: Arc::clone(&self.drains),
        }
    }

    /// What changed in who is who since this was last asked, each with its cluster.
    pub fn take_news(&mut self) -> Vec<(Name, News)> {
        std::mem::take(&mut self.news)
    }

    /// A subscription and its publisher may be in two clusters, so this is for the fleet as a whole.
    fn measure_subscriptions(&mut self, now: MonoTime) {
        let places: Vec<subscription::Place<'_>> =
            self.clusters.iter().map(|Cluster { lag, view, .. }| subscription::Place { view, lag }).collect();
        let mut found = subscription::lags(&places, now).into_iter().peekable();
        for (place, cluster) in self.clusters.iter_mut().enumerate() {
            for position in 0..cluster.view.targets.len() {
                let is_found =
                    |(of_cluster, of_target, _): &(usize, usize, _)| (*of_cluster, *of_target) == (place, position);
                let lags = found.next_if(is_found).map_or_else(Vec::new, |(_, _, lags)| lags);
                if *lags != *cluster.view.targets[position].subscription_lags {
                    cluster.target_mut(position).subscription_lags = Arc::from(lags);
                }
            }
        }
    }

    /// What is of something that is not watched any more is left aside.
    fn measured(&mut self, readout: Readout) {
        for (id, nodes) in &readout.groups {
            let groups = self.cluster_mut(id).map(|cluster| &mut Arc::make_mut(&mut cluster.view).redis);
            let group =
                groups.and_then(|groups| Arc::make_mut(groups).iter_mut().find(|group| group.name == id.target));
            if let Some(group) = group {
                group.keep(nodes);
            }
        }
        for measured in &readout.measured {
            if let Some(readings) = self.readings_mut(&measured.subject) {
                readings.take(&measured.metric, measured.unit, &measured.points, readout.stale_after);
            }
        }
    }

    fn readings_mut(&mut self, subject: &Subject) -> Option<&mut Readings> {
        let cluster = |name: &Name| self.index.get(name).copied();
        let readings = match subject {
            Subject::Target(id) => {
                let cluster = &mut self.clusters[cluster(&id.cluster)?];
                let &position = cluster.view.index.get(&id.target)?;
                &mut cluster.target_mut(position).cloudwatch
            }
            Subject::Cluster(name) => &mut Arc::make_mut(&mut self.clusters[cluster(name)?].view).cloudwatch,
            Subject::Redis(id, node) => {
                let view = Arc::make_mut(&mut self.clusters[cluster(&id.cluster)?].view);
                let group = Arc::make_mut(&mut view.redis).iter_mut().find(|group| group.name == id.target)?;
                group.nodes.get_mut(node)?
            }
        };
        Some(Arc::make_mut(readings))
    }

    fn due(&mut self, now: MonoTime, wall: SystemTime) -> Vec<Notice> {
        let views = self.views();
        self.alerting.due(&views, now, wall)
    }

    fn views(&self) -> Vec<Arc<ClusterView>> {
        self.clusters.iter().map(|cluster| Arc::clone(&cluster.view)).collect()
    }

    fn cluster_mut(&mut self, id: &TargetId) -> Option<&mut Cluster> {
        self.clusters.get_mut(*self.index.get(&id.cluster)?)
    }
}

impl Cluster {
    fn new(spec: &ClusterSpec, fleet: &FleetSpec) -> Self {
        let id = |name: &Name| TargetId { cluster: spec.name.clone(), target: name.clone() };
        let target = |name| Arc::new(TargetView::new(id(name), fleet.stale_after));
        let pooler = |name| Arc::new(PoolerView::new(id(name), fleet.pooler_stale_after));
        Self {
            lag: LagTracker::new(fleet.poll_interval),
            relink: false,
            poolers: spec.poolers.iter().map(|_| PoolerTracker::default()).collect(),
            slots: spec.targets.iter().map(|_| SlotTracker::default()).collect(),
            skew: spec.targets.iter().map(|_| SkewTracker::default()).collect(),
            trends: spec.targets.iter().map(|_| TrendTracker::default()).collect(),
            pasts: spec.targets.iter().map(|_| Past::default()).collect(),
            poll_interval: fleet.poll_interval.as_secs_f64(),
            sessions: spec.targets.iter().map(|_| SessionTracker::default()).collect(),
            view: Arc::new(ClusterView {
                name: spec.name.clone(),
                primary: None,
                targets: spec.targets.iter().map(target).collect(),
                poolers: spec.poolers.iter().map(pooler).collect(),
                redis: spec
                    .redis
                    .iter()
                    .map(|name| RedisGroup { name: name.clone(), nodes: BTreeMap::new() })
                    .collect(),
                cloudwatch: Arc::default(),
                index: Arc::new(index_of(spec.targets.iter())),
                alerts: Arc::from([]),
                events: Arc::from([]),
                rds_events: Arc::default(),
            }),
        }
    }

    fn polled(&mut self, observation: Observation, now: MonoTime, wall: SystemTime) -> Option<TopologyEvent> {
        let &position = self.view.index.get(&observation.target.target)?;
        let event = self.compare(position, &observation);
        self.lag.observe(&observation);
        if self.lag.primary() != self.view.primary.as_ref() {
            Arc::make_mut(&mut self.view).primary = self.lag.primary().cloned();
            // Replicas that answered before it are measured against it at once, not only when they answer again: a
            // daemon that has just started must not keep reads from them for that long.
            for other in (0..self.view.targets.len()).filter(|other| *other != position) {
                self.measure(other, now);
            }
        } else if let Ok(positions) = &observation.outcome {
            self.measure_others(position, positions, observation.asked_at, now);
        }

        let wall_at = |at: MonoTime| unix_seconds(wall) + at.seconds_since(now);
        let asked_and_answered = (wall_at(observation.asked_at), wall_at(observation.answered_at));
        let skew = self.skew[position].observe(&observation.outcome, asked_and_answered, observation.answered_at);
        let target = self.target_mut(position);
        target.skew = skew;
        let last = target.answer.as_ref().map(|answer| (answer.answered_at, &*answer.positions));
        target.outage =
            Outage::after(target.outage, last, observation.outcome.as_ref().map_err(|_| ()), observation.answered_at);
        match observation.outcome {
            Ok(positions) => {
                target.failing = None;
                target.answer = Some(Answer {
                    asked_at: observation.asked_at,
                    answered_at: observation.answered_at,
                    positions: Arc::new(positions),
                });
            }
            Err(failure) => fail(&mut target.failing, failure, observation.answered_at),
        }
        let lag = self.estimate(position, now);
        self.target_mut(position).lag = lag;
        let trend = self.trend(position);
        self.target_mut(position).trend = trend;
        let stages = self.stages(position);
        self.target_mut(position).stages = stages;
        self.remember(position, now);
        let diagnosis = self.diagnosis(position, now);
        self.target_mut(position).diagnosis = diagnosis;
        event
    }

    /// Notes what an answer changes in who is who, before it takes the place of the last one.
    fn compare(&mut self, position: usize, observation: &Observation) -> Option<TopologyEvent> {
        let target = &self.view.targets[position];
        let before = target.answer.as_ref().map(|answer| &*answer.positions);
        let after = match &observation.outcome {
            Ok(after) => after,
            Err(failure) => {
                let failed_so = |failing: &Failing| failing.failure.proves_down() == failure.proves_down();
                self.relink |= !target.failing.as_ref().is_some_and(failed_so);
                return None;
            }
        };
        let is_same = before.is_some_and(|before| links::is_same(before, after));
        self.relink |= target.failing.is_some() || !is_same;
        if !is_same {
            // Until it is looked at, nobody can say that the connection is still its own.
            self.lag.set_sender(&target.id.target, None);
        }
        let change = Change::between(before?, after)?;
        let event = TopologyEvent {
            at: observation.answered_at,
            target: target.id.target.clone(),
            change,
            timeline: after.primary().map(|primary| primary.timeline),
        };
        self.count_role_change(position, &event);
        let view = Arc::make_mut(&mut self.view);
        view.events = events::with(&view.events, event.clone());
        Some(event)
    }

    fn count_role_change(&mut self, position: usize, event: &TopologyEvent) {
        if event.change != Change::NewTimeline {
            let target = self.target_mut(position);
            let count = target.role_changes.map_or(0, |changes| changes.count);
            target.role_changes = Some(RoleChanges { last_at: event.at, count: count.saturating_add(1) });
        }
    }

    /// Takes up what changed before a restart of the daemon, as far as it is kept.
    fn restore_events(&mut self, events: Vec<TopologyEvent>) {
        for event in &events {
            if let Some(&position) = self.view.index.get(&event.target) {
                self.count_role_change(position, event);
            }
        }
        Arc::make_mut(&mut self.view).events = events.into();
    }

    /// Finds out anew who follows whom.
    fn relink(&mut self, now: MonoTime) -> Vec<News> {
        let mut news = Vec::new();
        let mut changed = Vec::new();
        for (position, links) in links::find(&self.view.targets).into_iter().enumerate() {
            let target = &self.view.targets[position];
            self.lag.set_sender(&target.id.target, links.sender.clone());
            if links != *target.links {
                if let Some(other) = links.same_as.clone().filter(|_| links.same_as != target.links.same_as) {
                    news.push(News::SameServer { target: target.id.target.clone(), other });
                }
                self.target_mut(position).links = Arc::new(links);
                changed.push(position);
            }
        }
        // Two names for one server concern the others too: the primary may be known by the second.
        if !news.is_empty() {
            changed = (0..self.view.targets.len()).collect();
        }
        for position in changed {
            self.measure(position, now);
        }
        news
    }

    /// Keeps what a later diagnosis needs of a replica's last answer.
    fn remember(&mut self, position: usize, now: MonoTime) {
        let target = &self.view.targets[position];
        if target.failing.is_none()
            && let Some(answer) = &target.answer
            && let Some(standby) = answer.positions.standby()
        {
            let unreceived = self.unreceived(target, standby);
            let lagging = self.lagging(target);
            let primary = self.primary_capacity();
            self.pasts[position].observe(&answer.positions, standby, unreceived, lagging, primary, now);
        }
    }

    fn surveyed(&mut self, survey: Survey, stale_after: Duration) {
        let Some(&position) = self.view.index.get(&survey.target.target) else { return };
        let before = self.view.targets[position].slots.clone();
        let slots = survey.outcome.as_ref().ok().and_then(|facts| facts.slots.as_deref()).map(|slots| {
            let outlook = self.slots[position].observe(slots, survey.answered_at, before.as_deref());
            (outlook, slots.len())
        });
        let target = Arc::make_mut(&mut Arc::make_mut(&mut self.view).targets[position]);
        match survey.outcome {
            Ok(mut facts) => {
                target.connections_exhausted_in = facts.sessions.as_mut().and_then(|sessions| {
                    self.sessions[position].observe(sessions, survey.answered_at, &mut target.dropped)
                });
                target.statements = facts.statement_counters.take();
                if let Some(statements) = &target.statements {
                    target.dropped.add("statements", statements.left_out);
                }
                if facts.subscriptions.as_ref().is_some_and(|subscriptions| !subscriptions.is_empty()) {
                    target.dropped.add("subscriptions", facts.subscriptions_left_out);
                }
                target.survey_failing = None;
                target.survey = Some(SurveyView {
                    asked_at: survey.asked_at,
                    answered_at: survey.answered_at,
                    facts: Arc::new(facts),
                    stale_after,
                });
                if let Some((outlook, n_slots)) = &slots {
                    target.dropped.add("slots", outlook.shown.left_out_of(*n_slots));
                }
                target.slots = slots.map(|(outlook, _)| Arc::new(outlook));
                if let Some(answer) = &target.answer {
                    target.dropped.add("wal_senders", senders::left_out(&answer.positions.senders));
                }
            }
            Err(failure) => fail(&mut target.survey_failing, failure, survey.answered_at),
        }
    }

    fn pooled(&mut self, observation: PoolerObservation) {
        let name = &observation.pooler.target;
        let Some(position) = self.view.poolers.iter().position(|pooler| pooler.id.target == *name) else { return };
        let pooler = Arc::make_mut(&mut Arc::make_mut(&mut self.view).poolers[position]);
        match observation.outcome {
            Ok(facts) => {
                let counters = self.poolers[position].observe(&facts.totals).into();
                let facts = Arc::new(facts.bounded());
                pooler.failing = None;
                pooler.answer = Some(PoolerAnswer { answered_at: observation.answered_at, facts, counters });
            }
            Err(failure) => fail(&mut pooler.failing, failure, observation.answered_at),
        }
    }

    /// Measures those about which the answer of another tells more than their own: replicas that are silent, by its
    /// senders' rows, and replicas that answered while the primary's answer was on its way.
    fn measure_others(&mut self, position: usize, positions: &Positions, asked_at: MonoTime, now: MonoTime) {
        let is_primary = self.lag.primary() == Some(&self.view.targets[position].id.target);
        if !is_primary && positions.senders.is_empty() {
            return;
        }
        for other in (0..self.view.targets.len()).filter(|other| *other != position) {
            let target = &self.view.targets[other];
            let was_first = target.answer.as_ref().is_some_and(|answer| answer.asked_at >= asked_at);
            if self.is_silent(target, now) || (is_primary && was_first) {
                self.measure(other, now);
            }
        }
    }

    /// Whether a target's last poll failed, or its answer is overdue.
    fn is_silent(&self, target: &TargetView, now: MonoTime) -> bool {
        target.failing.is_some() || target.fresh(now).is_none() || self.lag.is_overdue(&target.id.target, now)
    }

    fn age(&mut self, now: MonoTime) -> bool {
        let mut has_aged = false;
        for position in 0..self.view.targets.len() {
            let target = &self.view.targets[position];
            let before = target.lag;
            if before.is_some_and(|lag| !lag.method.last_known) && self.is_silent(target, now) {
                self.measure(position, now);
                has_aged |= self.view.targets[position].lag != before;
            }
        }
        has_aged
    }

    /// A silent replica's lag goes on growing although nothing is heard of it.
    fn tick(&mut self, now: MonoTime) -> Vec<News> {
        let mut news = Vec::new();
        if std::mem::take(&mut self.relink) {
            news = self.relink(now);
        }
        for position in 0..self.view.targets.len() {
            let target = &self.view.targets[position];
            if self.is_silent(target, now) {
                self.measure(position, now);
            }
        }
        news
    }

    /// How far a target lags. A primary lags behind nobody, whatever its name.
    fn estimate(&self, position: usize, now: MonoTime) -> Option<LagEstimate> {
        let target = &self.view.targets[position];
        let is_another_name = self.view.primary.as_ref() != Some(&target.id.target)
            && self.view.is_primary_itself(target)
            && target.last_role() == Some(Role::Primary);
        if is_another_name { None } else { self.lag.estimate(&target.id.target, now) }
    }

    /// Says anew how far a target lags, of which nothing new was heard.
    fn measure(&mut self, position: usize, now: MonoTime) {
        let target = &self.view.targets[position];
        let lag = self.estimate(position, now);
        let stages = self.stages(position);
        if lag != target.lag || stages != target.stages {
            let target = self.target_mut(position);
            target.lag = lag;
            target.stages = stages;
        }
        let diagnosis = self.diagnosis(position, now);
        if diagnosis != self.view.targets[position].diagnosis {
            self.target_mut(position).diagnosis = diagnosis;
        }
    }

    fn target_mut(&mut self, position: usize) -> &mut TargetView {
        Arc::make_mut(&mut Arc::make_mut(&mut self.view).targets[position])
    }

    /// How much WAL lies between the primary and a replica, stage by stage. `None` on a primary.
    fn stages(&self, position: usize) -> Option<Stages> {
        let target = &self.view.targets[position];
        if let Some(AuroraBytes { unreceived, unread }) = self.lag.aurora_bytes(&target.id.target) {
            return Some(Stages { unreceived, unreplayed: unread, ..Stages::default() });
        }
        let positions = &target.answer.as_ref()?.positions;
        let standby = positions.standby()?;
        // Positions in the WAL of another cluster are no distance from this one's.
        let is_foreign = self.lag.is_foreign(positions.identity.system_identifier);
        let end = self.lag.flush_lsn().filter(|_| !is_foreign);
        // Beyond the fork its WAL is not the primary's, however far it is. A receiver that may not be seen could be on any
        // timeline.
        let may_judge = standby.receiver != Receiver::Hidden;
        let fork = self.lag.fork_after(target.timeline().filter(|_| may_judge));
        let missing = |reached: Option<Lsn>| -> Option<WalBytes> {
            let reached = reached?;
            Some(end?.bytes_ahead_of(fork.map_or(reached, |fork| fork.min(reached))))
        };
        let sender = target.links.sender.as_ref().and_then(|id| self.sender(id));
        let received = standby.received();
        let reported = |position: Option<Lsn>| if position > received { position } else { received };
        Some(Stages {
            unsent: missing(sender.and_then(|sender| sender.sent_lsn)),
            unreceived: missing(reported(sender.and_then(|sender| sender.write_lsn))),
            unflushed: missing(received),
            unreplayed: missing(standby.replay_lsn),
            own_lag: sender.map_or_else(OwnLag::default, own_lag),
        })
    }

    /// Takes the last answer of a target into its trend. A failed poll adds nothing to it.
    fn trend(&mut self, position: usize) -> Option<Trend> {
        let target = &self.view.targets[position];
        if target.failing.is_some() {
            return target.trend;
        }
        let answer = target.answer.as_ref()?;
        let positions = &answer.positions;
        let identity = &positions.identity;
        let life = Life {
            role: positions.role(),
            started_at: identity.started_at,
            system_identifier: identity.system_identifier,
        };
        let at = answer.answered_at;
        let sample = match &positions.state {
            // Its instances share one volume: there is no WAL to move.
            ServerState::Aurora(_) => return None,
            ServerState::Primary(primary) => {
                Sample { at, end: Some(primary.flush_lsn), received: None, replayed: None }
            }
            ServerState::Standby(standby) => {
                let is_foreign = target.lag.is_some_and(|lag| lag.method.evidence == Evidence::ForeignCluster);
                let end = self.lag.flush_lsn().filter(|_| !is_foreign && !self.lag.primary_is_lost());
                // WAL beyond the fork is not the primary's: a diverged replica does not gain on it by replaying that.
                let fork = self.lag.fork_after(target.timeline());
                let shared = |lsn: Option<Lsn>| lsn.map(|lsn| fork.map_or(lsn, |fork| lsn.min(fork)));
                Sample { at, end, received: shared(standby.received()), replayed: shared(standby.replay_lsn) }
            }
        };
        // What an archive gives comes a segment at a time.
        let waits_on_purpose =
            target.apply_delay().is_some_and(ApplyDelay::is_within) || target.is_fed_by_archive() == Some(true);
        Some(self.trends[position].observe(life, sample, waits_on_purpose))
    }

    /// The target that a replica gets its WAL from, as far as that is known.
    fn upstream_of(&self, replica: &TargetView) -> Option<&Arc<TargetView>> {
        let links = &replica.links;
        let name = match (&links.sender, &links.upstream) {
            (Some(sender), _) => &sender.upstream,
            (None, Some(Upstream::Target(name))) => name,
            _ => return None,
        };
        self.view.target(name.as_str())
    }

    /// A row of an upstream that answers.
    fn sender(&self, id: &SenderId) -> Option<&WalSender> {
        let upstream = self.view.target(id.upstream.as_str()).filter(|upstream| upstream.is_up())?;
        upstream.answer.as_ref()?.positions.senders.iter().find(|sender| sender.pid == id.pid)
    }
}

fn own_lag(sender: &WalSender) -> OwnLag {
    let micros = |seconds: Option<f64>| seconds.map(|seconds| (seconds * 1e6).round() as i64);
    OwnLag {
        write_us: micros(sender.write_lag),
        flush_us: micros(sender.flush_lag),
        replay_us: micros(sender.replay_lag),
    }
}

fn unix_seconds(wall: SystemTime) -> f64 {
    match wall.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

fn fail(failing: &mut Option<Failing>, failure: PollFailure, at: MonoTime) {
    let (since, count) = failing.as_ref().map_or((at, 0), |failing| (failing.since, failing.count));
    *failing = Some(Failing { since, last_at: at, failure, count: count + 1 });
}

fn index_of<'a>(names: impl Iterator<Item = &'a Name>) -> HashMap<Name, usize> {
    names.enumerate().map(|(position, name)| (name.clone(), position)).collect()
}

#[cfg(test)]
mod tests;
