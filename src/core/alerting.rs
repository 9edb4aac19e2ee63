//! Rules, alerts and the ledger put together: views in, notices out.
//!
//! Only what is not quiet is remembered. A subject that no rule breaches costs a reading and a comparison at each
//! judgement, and no memory; an alert lives from its first breach until a quarter of an hour after it resolved.

pub mod isolation;
mod keep;
mod members;
mod mutes;
mod standing;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use self::isolation::Isolation;
use self::mutes::Upstreams;
use self::standing::Standing;
use super::alert::{AlertId, AlertState, AlertView, Gone, Phase, Recent, SHOWN_AFTER_RESOLVED, Severity, Terms, Track};
use super::cause::Cause;
use super::explain::explain;
use super::ledger::pacing::AlertingConfig;
use super::ledger::{Delivery, Due, Entry, Episode, Ledger, Muted, Notice, Recipient};
use super::mute::Mute;
use super::quantity;
use super::rule::{self, Rule, Selected, Verdict, WhenUnknown};
use super::saved::move_time;
use super::signal::{Coverage, Emit, Read, Seen, Signal, Value};
use super::silence::Silences;
use super::snapshot::{ClusterView, TargetView};
use super::time::MonoTime;
use super::topology::Name;

/// The last second of the year 9999.
const LAST_WALL_TIME: Duration = Duration::from_secs(253_402_300_799);

/// All rules with their alerts, and what notifiers must still be told of them.
#[derive(Debug)]
pub struct Alerting {
    rules: Vec<Watch>,
    poll_interval: Duration,
    ledger: Ledger,
    upstreams: Upstreams,
    isolation: Isolation,
    /// Of what people know already.
    silences: Arc<Silences>,
    standing: Standing,
    /// Only clusters that have something to show.
    views: HashMap<Name, Arc<[AlertView]>>,
    no_views: Arc<[AlertView]>,
    /// Counts judgements, to find what was not seen in the last one.
    round: u64,
    /// When the first judgement was made.
    started_at: Option<MonoTime>,
}

/// A rule and the alerts it has.
#[derive(Debug)]
struct Watch {
    rule: Rule,
    /// Those of one place sorted by their labels: thousands of slots may be in trouble at once.
    alerts: HashMap<Place, Vec<Alert>>,
}

/// Where an alert is: a cluster, and the target if it is about one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    cluster: Name,
    target: Option<Name>,
}

/// A subject that is not quiet, or was not of late.
#[derive(Clone, Debug)]
struct Alert {
    /// Values of the signal's own labels. Empty for the place as a whole.
    labels: Vec<String>,
    /// With the mildest threshold: its life.
    track: Track,
    /// With each of the severer ones.
    above: Vec<Track>,
    /// The highest severity with which it has fired in this life.
    worst: Option<Severity>,
    /// Of this life; it means nothing while inactive.
    episode: Episode,
    /// The last reading that was known.
    reading: Option<f64>,
    is_unknown: bool,
    /// Of this life.
    recent: Recent,
    /// What is wrong with the replica it is about.
    cause: Option<Cause>,
    /// The last life that fired and ended.
    resolved: Option<Resolved>,
    /// The judgement that saw it last.
    round: u64,
}

/// A life that ended.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resolved {
    episode: Episode,
    active_at: MonoTime,
    fired_at: MonoTime,
    resolved_at: MonoTime,
    #[serde(default)]
    gone: Option<Gone>,
    /// The highest that it had.
    #[serde(default)]
    severity: Option<Severity>,
}

impl Resolved {
    /// Its instants on a clock that shows `nanos` more.
    pub(super) fn move_times(&mut self, nanos: i64) {
        for time in [&mut self.active_at, &mut self.fired_at, &mut self.resolved_at] {
            move_time(time, nanos);
        }
    }
}

/// What all steps of one rule at one place have in common.
struct Judgement<'a> {
    rule: &'a Rule,
    place: &'a ClusterView,
    /// The target's name, or the pooler's.
    name: Option<&'a Name>,
    target: Option<&'a TargetView>,
    /// Lag is judged leniently: the cluster's primary was promoted so long ago.
    since_promotion: Option<Duration>,
    poll_interval: Duration,
    /// The daemon has run for so long.
    running_for: Duration,
    round: u64,
    now: MonoTime,
    wall: SystemTime,
}

impl Alerting {
    pub fn new(rules: Vec<Rule>, recipients: Vec<Recipient>, poll_interval: Duration, config: AlertingConfig) -> Self {
        Self {
            rules: rules.into_iter().map(|rule| Watch { rule, alerts: HashMap::new() }).collect(),
            poll_interval,
            ledger: Ledger::new(recipients, config),
            upstreams: Upstreams::default(),
            isolation: Isolation::default(),
            silences: Arc::default(),
            standing: Standing::default(),
            views: HashMap::new(),
            no_views: Arc::default(),
            round: 0,
            started_at: None,
        }
    }

    /// Judges every rule on every target. `clusters` is all that is watched: an alert of anything else has gone.
    pub fn judge(&mut self, clusters: &[Arc<ClusterView>], now: MonoTime, wall: SystemTime) {
        self.judge_by(clusters, |signal, seen, emit| signal.read_off(seen, now, emit), now, wall);
    }

    /// The same with what signals say from elsewhere than the views.
    pub fn judge_by(
        &mut self,
        clusters: &[Arc<ClusterView>],
        read: impl Fn(&Signal, Seen<'_>, Emit<'_>) -> Coverage,
        now: MonoTime,
        wall: SystemTime,
    ) {
        self.round += 1;
        let (round, poll_interval) = (self.round, self.poll_interval);
        let running_for = now.duration_since(*self.started_at.get_or_insert(now));
        self.upstreams.observe(clusters);
        if let Some((alert, episode)) = self.isolation.observe(clusters, self.ledger.is_cut_off(), now, wall) {
            self.ledger.set(alert, episode, now);
        }
        // Cut off, the daemon knows nothing: all alerts stay as they are.
        let rules = if self.isolation.is_on() { &mut [][..] } else { &mut self.rules[..] };
        for watch in rules {
            for cluster in clusters.iter().filter(|cluster| watch.rule.selects_cluster(cluster)) {
                let judgement = Judgement {
                    rule: &watch.rule,
                    place: cluster,
                    name: None,
                    target: None,
                    since_promotion: cluster.since_promotion(now),
                    poll_interval,
                    running_for,
                    round,
                    now,
                    wall,
                };
                let signal = watch.rule.condition.signal;
                match signal.read {
                    Read::Cluster(_) => {
                        judgement.run(&mut watch.alerts, &mut self.ledger, Selected::Yes, |emit| {
                            read(signal, Seen::Cluster(cluster), emit)
                        });
                    }
                    Read::Target(_) => {
                        for target in &cluster.targets {
                            let selected = watch.rule.selects(target);
                            let name = Some(&target.id.target);
                            let judgement = Judgement { name, target: Some(target), ..judgement };
                            judgement.run(&mut watch.alerts, &mut self.ledger, selected, |emit| {
                                read(signal, Seen::Target(cluster, target), emit)
                            });
                        }
                    }
                    Read::Pooler(_) => {
                        for pooler in &cluster.poolers {
                            let selected = watch.rule.selects_name(&pooler.id.target);
                            let judgement = Judgement { name: Some(&pooler.id.target), ..judgement };
                            judgement.run(&mut watch.alerts, &mut self.ledger, selected, |emit| {
                                read(signal, Seen::Pooler(pooler), emit)
                            });
                        }
                    }
                }
            }
            watch.end_what_has_gone(&mut self.ledger, round, now, wall);
        }
        self.show(clusters, now, Some(wall));
    }

    /// What notifiers must be told now. Each notice is handed out once, until its delivery is recorded or given up as lost.
    pub fn due(&mut self, clusters: &[Arc<ClusterView>], now: MonoTime, wall: SystemTime) -> Vec<Notice> {
        let mut notices = self.stand(clusters, now, wall);
        let due = self.ledger.due(now);
        notices.extend(due.into_iter().map(|due| self.notice(due, clusters, now, wall)));
        notices
    }

    pub fn record(&mut self, delivery: &Delivery, now: MonoTime) {
        self.ledger.record(delivery, now);
    }

    pub fn silences(&self) -> &Arc<Silences> {
        &self.silences
    }

    pub fn silences_mut(&mut self) -> &mut Silences {
        Arc::make_mut(&mut self.silences)
    }

    /// A cluster's alerts: firing, pending, and those that resolved of late; the severest and oldest first.
    pub fn views(&self, cluster: &Name) -> Arc<[AlertView]> {
        Arc::clone(self.views.get(cluster).unwrap_or(&self.no_views))
    }

    /// The alerts about the daemon itself.
    pub fn own_views(&self, now: MonoTime) -> Arc<[AlertView]> {
        self.isolation.shown(now).into_iter().collect()
    }

    /// Says of each alert that fires why nobody is told of it.
    fn mute(
        &mut self,
        cluster: Option<&ClusterView>,
        views: &mut [AlertView],
        now: MonoTime,
        wall: Option<SystemTime>,
    ) {
        let active = wall.map(|wall| self.silences.at(now, wall));
        let mut follow = match cluster {
            Some(cluster) => mutes::causes(cluster, views, &self.upstreams, &self.ledger, now),
            None => HashMap::new(),
        };
        let is_isolated = self.isolation.is_on();
        for view in views.iter_mut().filter(|view| view.phase != Phase::Resolved) {
            let mut muted: Option<Muted> = None;
            let mut add = |by: Muted| {
                let hold = muted.as_ref().map_or(by.hold, |muted| muted.hold.max(by.hold));
                let cause = muted.take().and_then(|muted| muted.cause).or(by.cause);
                muted = Some(Muted { hold, cause });
            };
            let silenced = active.as_ref().map_or_else(Vec::new, |active| active.mutes(&view.id, view.severity));
            if !silenced.is_empty() {
                view.muted.extend(silenced);
                add(Muted { hold: Duration::ZERO, cause: None });
            }
            if let Some((mute, by)) = follow.remove(&view.id) {
                view.muted.push(mute);
                add(by);
            }
            if is_isolated {
                view.is_unknown = true;
                view.muted.push(Mute::Isolated);
                add(Muted { hold: mutes::HOLD, cause: None });
            }
            // With the silences not looked at it stays as it was.
            if view.phase == Phase::Firing && wall.is_some() {
                self.ledger.mute(&view.id, muted, now);
            }
            // That it flaps is told, so it does not mute the telling.
            view.muted.extend(self.ledger.flapping(&view.id).map(|changes| Mute::Flapping { changes }));
        }
    }

    /// No `wall`: the silences are not looked at.
    fn show(&mut self, clusters: &[Arc<ClusterView>], now: MonoTime, wall: Option<SystemTime>) {
        let mut by_cluster: HashMap<Name, Vec<AlertView>> = HashMap::new();
        for watch in &self.rules {
            for (place, alerts) in &watch.alerts {
                let views = alerts.iter().filter_map(|alert| alert.view(&watch.rule, place));
                by_cluster.entry(place.cluster.clone()).or_default().extend(views);
            }
        }
        for (name, views) in &mut by_cluster {
            let cluster = clusters.iter().find(|cluster| cluster.name == *name);
            self.mute(cluster.map(|cluster| &**cluster), views, now, wall);
        }
        self.views = by_cluster
            .into_iter()
            .filter(|(_, views)| !views.is_empty())
            .map(|(cluster, mut views)| {
                let rank = |phase| match phase {
                    Phase::Firing => 0,
                    Phase::Pending => 1,
                    Phase::Resolved => 2,
                };
                views.sort_by(|a, b| {
                    (rank(a.phase), b.severity, a.active_at, &a.id).cmp(&(
                        rank(b.phase),
                        a.severity,
                        b.active_at,
                        &b.id,
                    ))
                });
                (cluster, Arc::from(views))
            })
            .collect();
    }

    fn notice(&self, due: Due, clusters: &[Arc<ClusterView>], now: MonoTime, wall: SystemTime) -> Notice {
        let Due { notifier, group, purpose, alerts, dedup_key, attempt } = due;
        let entry = |(alert, dedup_key)| self.entry(alert, dedup_key, clusters, now, wall);
        let alerts: Vec<Entry> = alerts.into_iter().map(entry).collect();
        let also_firing = clusters
            .iter()
            .filter(|cluster| alerts.iter().any(|entry| entry.alert.id.cluster == cluster.name))
            .flat_map(|cluster| cluster.alerts.iter())
            .filter(|other| other.phase == Phase::Firing && alerts.iter().all(|entry| entry.alert.id != other.id))
            .map(|other| (other.severity, other.id.clone()))
            .collect();
        Notice { notifier, group, purpose, alerts, also_firing, dedup_key, attempt }
    }

    fn entry(
        &self,
        mut alert: AlertView,
        dedup_key: String,
        clusters: &[Arc<ClusterView>],
        now: MonoTime,
        wall: SystemTime,
    ) -> Entry {
        let watch = self.rules.iter().find(|watch| watch.rule.name == alert.id.rule);
        let is_own = alert.id == Isolation::id();
        // Told late, an alert is told with its present reading.
        let current = if is_own { self.isolation.view() } else { watch.and_then(|watch| watch.current(&alert.id)) };
        if let Some(current) = current
            && current.phase == alert.phase
            && current.active_at == alert.active_at
        {
            alert = current;
        }
        let cluster = clusters.iter().find(|cluster| cluster.name == alert.id.cluster);
        let mut told = explain(&alert, cluster.map(|cluster| &**cluster), now);
        if is_own {
            told.details.extend(self.isolation.details());
        }
        // By a clock that was not set yet it may have begun before 1970, which nobody could write.
        let wall_of = |at: MonoTime| {
            let wall = wall.checked_sub(now.duration_since(at)).unwrap_or(SystemTime::UNIX_EPOCH);
            wall.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + LAST_WALL_TIME)
        };
        Entry {
            dedup_key,
            active_at: wall_of(alert.active_at),
            fired_at: alert.fired_at.map(wall_of),
            resolved_at: alert.resolved_at.map(wall_of),
            recent: alert.recent.iter().map(|(at, reading)| (wall_of(at), reading)).collect(),
            told,
            alert,
        }
    }
}

impl Watch {
    /// Ends alerts whose place was not judged in this round.
    fn end_what_has_gone(&mut self, ledger: &mut Ledger, round: u64, now: MonoTime, wall: SystemTime) {
        let rule = &self.rule;
        self.alerts.retain(|place, alerts| {
            for alert in alerts.iter_mut().filter(|alert| alert.round != round) {
                let before = alert.standing(rule);
                alert.track = Track::default();
                // Its place was not even looked at.
                alert.after_step(rule, before, Some(Gone::Unwatched), place, ledger, (now, wall));
            }
            alerts.retain(|alert| alert.is_remembered(now));
            !alerts.is_empty()
        });
    }

    fn current(&self, id: &AlertId) -> Option<AlertView> {
        let place = Place { cluster: id.cluster.clone(), target: id.target.clone() };
        let alerts = self.alerts.get(&place)?;
        let values = || id.labels.iter().map(|(_, value)| value.as_str());
        let alert = alerts.get(alerts.binary_search_by(|alert| alert.order(values())).ok()?)?;
        alert.view(&self.rule, &place)
    }
}

impl Judgement<'_> {
    /// Judges what `read` states, then what it does not state.
    fn run(
        &self,
        alerts: &mut HashMap<Place, Vec<Alert>>,
        ledger: &mut Ledger,
        selected: Selected,
        read: impl FnOnce(&mut dyn FnMut(&[&str], Value)) -> Coverage,
    ) {
        let mut known = if alerts.is_empty() { None } else { alerts.get_mut(&self.place()) };
        // A quiet subject adds nothing to this, and an empty Vec allocates nothing.
        let mut begun = Vec::new();
        let coverage = match selected {
            Selected::No => Coverage::Complete,
            Selected::Unknown => Coverage::Unknown,
            Selected::Yes => read(&mut |labels, value| {
                if !self.rule.selects_labels(labels) {
                    return;
                }
                let verdict = self.judge(value);
                let alert = known.as_mut().and_then(|alerts| {
                    let place = alerts.binary_search_by(|alert| alert.order(labels.iter().copied())).ok()?;
                    alerts.get_mut(place)
                });
                if let Some(alert) = alert {
                    self.step(alert, verdict, Some(value), ledger);
                } else if self.may_begin(verdict) {
                    begun.push(self.begin(labels, verdict, Some(value), ledger));
                }
            }),
        };
        let silent = match coverage {
            // Nobody waits: that is a reading, too.
            Coverage::Complete if selected == Selected::Yes && self.rule.condition.signal.none.is_some() => {
                Some(Verdict::Clear)
            }
            Coverage::Complete => Some(Verdict::Gone),
            Coverage::Unknown => None,
        };
        let mut whole_is_known = false;
        for alert in known.into_iter().flatten() {
            whole_is_known |= alert.labels.is_empty();
            if alert.round != self.round {
                self.step(alert, silent, None, ledger);
            }
        }
        // Nothing can be read here, and the rule takes that for a breach: of the place as a whole, for its subjects are not known.
        if self.may_begin(silent) && selected == Selected::Yes && !whole_is_known && begun.is_empty() {
            begun.push(self.begin(&[], silent, None, ledger));
        }
        if !begun.is_empty() {
            let alerts = alerts.entry(self.place()).or_default();
            alerts.append(&mut begun);
            alerts.sort_by(|a, b| a.labels.cmp(&b.labels));
        }
    }

    /// What the rule makes of a value. `None`: it is not known.
    fn judge(&self, value: Value) -> Option<Verdict> {
        match self.since_promotion {
            _ if value.value.is_nan() => None,
            Some(since) => Some(self.rule.judge_after_promotion(value, self.target, since)),
            None => Some(self.rule.judge(value, self.target)),
        }
    }

    /// The same of a severer threshold.
    fn judge_level(&self, level: &rule::Level, value: Value) -> Verdict {
        match self.since_promotion {
            Some(since) => self.rule.judge_level_after_promotion(level, value, self.target, since),
            None => self.rule.judge_level(level, value, self.target),
        }
    }

    fn is_warming_up(&self) -> bool {
        self.running_for < self.rule.warm_up
    }

    fn may_begin(&self, verdict: Option<Verdict>) -> bool {
        let verdict = verdict.unwrap_or(self.rule.judge_unknown());
        matches!(verdict, Verdict::Breach | Verdict::Proven) && !self.is_warming_up()
    }

    fn place(&self) -> Place {
        Place { cluster: self.place.name.clone(), target: self.name.cloned() }
    }

    fn begin(&self, labels: &[&str], verdict: Option<Verdict>, value: Option<Value>, ledger: &mut Ledger) -> Alert {
        let mut alert = Alert {
            labels: labels.iter().map(|&value| value.to_owned()).collect(),
            track: Track::default(),
            above: Vec::new(),
            worst: None,
            episode: Episode::begin(self.wall, None),
            reading: None,
            is_unknown: false,
            recent: Recent::default(),
            cause: None,
            resolved: None,
            round: self.round,
        };
        self.step(&mut alert, verdict, value, ledger);
        alert
    }

    /// Takes in what is made of a reading; no verdict: it is not known.
    fn step(&self, alert: &mut Alert, verdict: Option<Verdict>, value: Option<Value>, ledger: &mut Ledger) {
        let (rule, now) = (self.rule, self.now);
        alert.round = self.round;
        let reading = value.map(|value| value.value).filter(|value| !value.is_nan());
        alert.is_unknown = verdict.is_none();
        alert.reading = match verdict {
            Some(Verdict::Clear) => reading,
            _ => reading.or(alert.reading),
        };
        if let Some(reading) = reading {
            alert.recent.note(now, reading);
        }
        let diagnosis = self.target.and_then(|target| target.diagnosis.as_ref()?.cause());
        alert.cause = diagnosis.map(|told| told.cause);
        if self.is_warming_up() {
            alert.tracks().for_each(|track| track.hold(now));
            return;
        }
        let before = alert.standing(rule);
        let terms = |verdict: Option<Verdict>| Terms {
            hold: rule.hold(verdict.unwrap_or(Verdict::Breach), self.poll_interval),
            keep_firing_for: rule.keep_firing_for,
            datapoints: rule.datapoints,
            when_unknown: rule.when_unknown,
            unknown: rule.judge_unknown(),
        };
        alert.track.step(verdict, &terms(verdict), now);
        alert.above.resize_with(rule.above.len(), Track::default);
        for (level, track) in rule.above.iter().zip(&mut alert.above) {
            let verdict = match (verdict, value) {
                (Some(Verdict::Gone), _) | (Some(_), None) => verdict,
                (Some(_), Some(value)) => Some(self.judge_level(level, value)),
                (None, _) => None,
            };
            // What is not known is a breach of the mildest threshold at most.
            let (when_unknown, unknown) = match rule.when_unknown {
                WhenUnknown::Clear => (WhenUnknown::Clear, Verdict::Clear),
                _ => (WhenUnknown::Hold, Verdict::Unknown),
            };
            track.step(verdict, &Terms { when_unknown, unknown, ..terms(verdict) }, now);
        }
        let gone = (verdict == Some(Verdict::Gone)).then_some(Gone::Subject);
        alert.after_step(rule, before, gone, &self.place(), ledger, (now, self.wall));
    }
}

impl Alert {
    fn order<'a>(&'a self, labels: impl Iterator<Item = &'a str>) -> Ordering {
        self.labels.iter().map(String::as_str).cmp(labels)
    }

    fn tracks(&mut self) -> impl Iterator<Item = &mut Track> {
        std::iter::once(&mut self.track).chain(&mut self.above)
    }

    /// Its state, and how severe it is: by the severest threshold that fires; while none does, by the severest that is pending.
    fn standing(&self, rule: &Rule) -> (AlertState, Severity) {
        let above = rule.above.iter().zip(&self.above);
        let severest = above.rev().find(|(_, track)| match self.track.state {
            AlertState::Firing { .. } => track.state.is_firing(),
            AlertState::Pending(_) | AlertState::Inactive => track.state != AlertState::Inactive,
        });
        (self.track.state, severest.map_or(rule.severity, |(level, _)| level.severity))
    }

    /// Draws the conclusions from a step: what began, ended or changed its severity.
    fn after_step(
        &mut self,
        rule: &Rule,
        (before, severity_before): (AlertState, Severity),
        gone: Option<Gone>,
        place: &Place,
        ledger: &mut Ledger,
        (now, wall): (MonoTime, SystemTime),
    ) {
        if self.track.state == AlertState::Inactive {
            self.above.clear();
        }
        let (state, severity) = self.standing(rule);
        if before == AlertState::Inactive && state != AlertState::Inactive {
            self.episode = Episode::begin(wall, self.resolved.map(|resolved| resolved.episode));
            self.worst = None;
            // What it read in an earlier life was another matter.
            let latest = self.recent.iter().last();
            self.recent = Recent::default();
            if let Some((at, reading)) = latest {
                self.recent.note(at, reading);
            }
        }
        let mut has_turned = before.is_firing() != state.is_firing();
        match (before, state) {
            (AlertState::Firing { active_at, fired_at, .. }, AlertState::Inactive) => {
                let (episode, severity) = (self.episode, self.worst);
                self.resolved = Some(Resolved { episode, active_at, fired_at, resolved_at: now, severity, gone });
            }
            (_, AlertState::Firing { .. }) => {
                has_turned |= severity != severity_before;
                self.worst = self.worst.max(Some(severity));
            }
            _ => {}
        }
        if has_turned {
            self.tell(ledger, rule, place, now);
        }
    }

    fn tell(&self, ledger: &mut Ledger, rule: &Rule, place: &Place, now: MonoTime) {
        if let Some(view) = self.view(rule, place) {
            ledger.set(view, self.episode, now);
        }
    }

    fn is_remembered(&self, now: MonoTime) -> bool {
        self.track != Track::default()
            || self.resolved.is_some_and(|ended| now.duration_since(ended.resolved_at) < SHOWN_AFTER_RESOLVED)
    }

    fn view(&self, rule: &Rule, place: &Place) -> Option<AlertView> {
        let (state, severity) = self.standing(rule);
        let (phase, active_at, fired_at, resolved_at) = match (state, self.resolved) {
            (AlertState::Pending(spell), _) => (Phase::Pending, spell.since, None, None),
            (AlertState::Firing { active_at, fired_at, .. }, _) => (Phase::Firing, active_at, Some(fired_at), None),
            (AlertState::Inactive, Some(Resolved { active_at, fired_at, resolved_at, .. })) => {
                (Phase::Resolved, active_at, Some(fired_at), Some(resolved_at))
            }
            (AlertState::Inactive, None) => return None,
        };
        let severity = match phase {
            Phase::Resolved => self.resolved.and_then(|resolved| resolved.severity).unwrap_or(severity),
            Phase::Pending | Phase::Firing => severity,
        };
        let (signal, condition) = (rule.condition.signal, rule.condition_of(severity));
        let id = AlertId {
            rule: rule.name.clone(),
            cluster: place.cluster.clone(),
            target: place.target.clone(),
            labels: signal.labels.iter().map(|&name| name.to_owned()).zip(self.labels.iter().cloned()).collect(),
        };
        let is_about_silence = self.is_unknown && rule.when_unknown == WhenUnknown::Alert;
        let filled = (rule.summary.is_some() || rule.runbook.is_some()).then(|| {
            let reading = match (self.reading, self.is_unknown) {
                (Some(reading), false) => quantity::reading(signal.unit, reading),
                (None, false) if signal.none.is_some() => "none".to_owned(),
                _ => "unknown".to_owned(),
            };
            let values = rule::Values {
                rule: rule.name.as_str(),
                cluster: place.cluster.as_str(),
                target: place.target.as_ref().map(Name::as_str),
                labels: &id.labels,
                severity: severity.as_str(),
                reading: &reading,
                threshold: &condition.comparison,
                cause: self.cause.map(Cause::as_str),
            };
            let summary = rule.summary.as_ref().map(|template| template.fill(&values));
            (summary, rule.runbook.as_ref().map(|template| template.fill_address(&values)))
        });
        let (summary, runbook) = filled.unwrap_or_default();
        Some(AlertView {
            id,
            severity,
            phase,
            active_at,
            fired_at,
            resolved_at,
            reading: self.reading,
            is_unknown: self.is_unknown,
            condition: if is_about_silence && phase != Phase::Resolved {
                format!("{} is unknown", signal.name)
            } else {
                condition.text.clone()
            },
            unit: signal.unit,
            gone: self.resolved.filter(|_| phase == Phase::Resolved).and_then(|resolved| resolved.gone),
            recent: self.recent,
            rule_labels: rule.labels.clone(),
            summary,
            runbook,
            muted: Vec::new(),
        })
    }
}

#[cfg(test)]
mod storms;
#[cfg(test)]
mod tests;
