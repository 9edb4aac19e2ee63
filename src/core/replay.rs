//! Rules over readings that no server gives now: invented by a rule test, or kept from the past. What is judged, and how,
//! is the daemon's own: [`Alerting`] takes the readings from here instead of off the views.
//!
//! A rule also asks what a target *is*: its role, how sure its lag is, why it lags, the delay it was told to keep. That is
//! read off the signals that tell it: `target_info`, `replay_lag_info`, `replication_cause`, `apply_delay_seconds`,
//! `role_change_age_seconds`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::alert::{AlertId, AlertView, Phase, Severity};
use super::alerting::Alerting;
use super::cause::{Cause, Diagnosis, Told};
use super::lag::{Certainty, Evidence, LagEstimate, Method};
use super::ledger::pacing::AlertingConfig;
use super::observation::{
    Flavor, Identity, PollFailure, Positions, PrimaryState, Receiver, ReplayPause, ServerAddress, ServerState,
    StandbyState, StatementsAccess,
};
use super::rule::Rule;
use super::signal::{Coverage, Emit, Read, Seen, Signal, Value};
use super::snapshot::{Answer, ClusterView, Failing, PoolerView, SurveyView, TargetView};
use super::standby_settings::StandbySettings;
use super::survey::SurveyFacts;
use super::time::{MonoTime, ServerTime};
use super::topology::events::{Change, TopologyEvent};
use super::topology::{Name, Role, TargetId};
use super::wal::{Lsn, Timeline};

/// What is replayed does not grow old.
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// One subject of a signal.
#[derive(Clone, Debug)]
pub struct Series {
    pub signal: &'static Signal,
    pub cluster: Name,
    /// `None` where the signal is the cluster's.
    pub target: Option<Name>,
    /// Values of [`Signal::labels`], in their order.
    pub labels: Vec<String>,
}

/// What a series says at an instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reading {
    Known(Value),
    /// It could not be read.
    Unknown,
    /// All could be read, and it was not there.
    Gone,
}

/// An alert has begun to fire, fires with another severity, or has resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    pub at: MonoTime,
    pub alert: AlertView,
}

/// Rules, and the readings that they judge.
#[derive(Debug)]
pub struct Replay {
    alerting: Alerting,
    readings: Readings,
    clusters: Vec<Arc<ClusterView>>,
    /// A reading is another than when the views were made.
    is_news: bool,
    last: BTreeMap<AlertId, (Phase, Severity)>,
}

impl Replay {
    pub fn new(rules: Vec<Rule>, poll_interval: Duration) -> Self {
        Self {
            alerting: Alerting::new(rules, Vec::new(), poll_interval, AlertingConfig::default()),
            readings: Readings::default(),
            clusters: Vec::new(),
            is_news: false,
            last: BTreeMap::new(),
        }
    }

    /// From now on the series says this.
    pub fn set(&mut self, series: &Series, reading: Reading) {
        self.is_news |= self.readings.set(series, reading);
    }

    /// Judges all rules, as the daemon does once a second. Answers with what turned.
    pub fn judge(&mut self, now: MonoTime, wall: SystemTime) -> Vec<Turn> {
        if std::mem::take(&mut self.is_news) {
            self.clusters = self.readings.clusters.iter().map(|(name, cluster)| cluster.view(name, now)).collect();
        }
        let readings = &self.readings;
        self.alerting.judge_by(&self.clusters, |signal, seen, emit| readings.state(signal, seen, emit), now, wall);
        let mut turned = Vec::new();
        let mut current = BTreeMap::new();
        for alert in self.alerts() {
            let state = (alert.phase, alert.severity);
            current.insert(alert.id.clone(), state);
            let fired_as =
                self.last.get(&alert.id).and_then(|(phase, severity)| (*phase == Phase::Firing).then_some(*severity));
            let turns = match alert.phase {
                Phase::Pending => false,
                Phase::Firing => fired_as != Some(alert.severity),
                // One that was pending meanwhile is shown as it ended before.
                Phase::Resolved => fired_as.is_some(),
            };
            if turns {
                turned.push(Turn { at: now, alert });
            }
        }
        self.last = current;
        turned
    }

    /// Pending and firing alerts, and those that resolved of late.
    pub fn alerts(&self) -> Vec<AlertView> {
        self.clusters.iter().flat_map(|cluster| self.alerting.views(&cluster.name).to_vec()).collect()
    }
}

/// What all series say.
#[derive(Debug, Default)]
struct Readings {
    clusters: BTreeMap<Name, OfCluster>,
}

#[derive(Debug, Default)]
struct OfCluster {
    own: OfPlace,
    targets: BTreeMap<Name, OfPlace>,
    poolers: BTreeMap<Name, OfPlace>,
}

/// What is read at one place: by the signal's name, its subjects.
#[derive(Debug, Default)]
struct OfPlace(HashMap<&'static str, Vec<(Vec<String>, Reading)>>);

impl Readings {
    /// Whether that is another reading than before.
    fn set(&mut self, series: &Series, reading: Reading) -> bool {
        let cluster = self.clusters.entry(series.cluster.clone()).or_default();
        let place = match (&series.target, series.signal.read) {
            (None, _) | (_, Read::Cluster(_)) => &mut cluster.own,
            (Some(name), Read::Pooler(_)) => cluster.poolers.entry(name.clone()).or_default(),
            (Some(name), Read::Target(_)) => cluster.targets.entry(name.clone()).or_default(),
        };
        let subjects = place.0.entry(series.signal.name).or_default();
        if let Some((_, before)) = subjects.iter_mut().find(|(labels, _)| *labels == series.labels) {
            return std::mem::replace(before, reading) != reading;
        }
        subjects.push((series.labels.clone(), reading));
        true
    }

    fn state(&self, signal: &Signal, seen: Seen<'_>, emit: Emit<'_>) -> Coverage {
        let place = match seen {
            Seen::Cluster(cluster) => self.clusters.get(&cluster.name).map(|cluster| &cluster.own),
            Seen::Target(cluster, target) => {
                self.clusters.get(&cluster.name).and_then(|cluster| cluster.targets.get(&target.id.target))
            }
            Seen::Pooler(pooler) => {
                self.clusters.get(&pooler.id.cluster).and_then(|cluster| cluster.poolers.get(&pooler.id.target))
            }
        };
        place.map_or(Coverage::Unknown, |place| place.state(signal, emit))
    }
}

impl OfPlace {
    /// As a reader of views does: what is known is stated, and whether that is all.
    fn state(&self, signal: &Signal, emit: Emit<'_>) -> Coverage {
        let Some(subjects) = self.0.get(signal.name) else { return Coverage::Unknown };
        let mut coverage = Coverage::Complete;
        for (labels, reading) in subjects {
            match reading {
                Reading::Known(value) => emit(&labels.iter().map(String::as_str).collect::<Vec<_>>(), *value),
                Reading::Unknown => coverage = Coverage::Unknown,
                Reading::Gone => {}
            }
        }
        coverage
    }

    /// The value of a signal without labels of its own.
    fn value(&self, signal: &str) -> Option<Value> {
        self.known(signal).next().map(|(_, value)| value)
    }

    fn known(&self, signal: &str) -> impl Iterator<Item = (&[String], Value)> {
        self.0.get(signal).into_iter().flatten().filter_map(|(labels, reading)| match reading {
            Reading::Known(value) => Some((labels.as_slice(), *value)),
            Reading::Unknown | Reading::Gone => None,
        })
    }

    /// The first label of a signal that is 1 for one of a closed list.
    fn word(&self, signal: &str) -> Option<&str> {
        let (labels, _) = self.known(signal).find(|(_, value)| value.value == 1.0)?;
        labels.first().map(String::as_str)
    }

    fn role(&self) -> Option<Role> {
        [Role::Primary, Role::Replica].into_iter().find(|role| self.word("target_info") == Some(role.as_str()))
    }

    /// As much of a target as rules ask for beside the reading.
    fn target(&self, id: TargetId, now: MonoTime) -> TargetView {
        let delay = self.value("apply_delay_seconds").map_or(0.0, |delay| delay.value);
        let facts = SurveyFacts { apply_delay_seconds: Some(delay), ..SurveyFacts::default() };
        let is_down = self.value("target_up").is_some_and(|up| up.value == 0.0);
        let failure = PollFailure::Connect { reason: "target_up is 0".to_owned() };
        TargetView {
            answer: self.role().map(|role| answer(role, now)),
            failing: is_down.then_some(Failing { since: now, last_at: now, failure, count: 1 }),
            survey: Some(SurveyView { asked_at: now, answered_at: now, facts: Arc::new(facts), stale_after: NEVER }),
            lag: self.lag(),
            diagnosis: self.word("replication_cause").and_then(Cause::named).map(|cause| {
                let why = cause.as_str().replace('_', " ");
                Arc::new(Diagnosis { lags: true, causes: vec![Told { cause, why }] })
            }),
            ..TargetView::new(id, NEVER)
        }
    }

    fn lag(&self) -> Option<LagEstimate> {
        let value = self.value("replay_lag_seconds");
        let bound = |signal: &str| self.value(signal).map(|bound| bound.value);
        let certainty = [Certainty::Exact, Certainty::AtLeast, Certainty::AtMost, Certainty::Unknown]
            .into_iter()
            .find(|certainty| self.word("replay_lag_info") == Some(certainty.as_str()));
        let lower = bound("replay_lag_lower_seconds").or(value.map(|value| value.lower));
        let upper = bound("replay_lag_upper_seconds").or(value.map(|value| value.upper));
        if value.is_none() && upper.is_none() && certainty.is_none() {
            return None;
        }
        Some(LagEstimate {
            value: value.map(|value| value.value),
            lower: lower.unwrap_or(0.0),
            upper: upper.unwrap_or(f64::INFINITY),
            certainty: certainty.unwrap_or(if value.is_some() { Certainty::Exact } else { Certainty::Unknown }),
            method: Method {
                evidence: Evidence::Lsn,
                last_known: false,
                upstream: false,
                old_timeline: false,
                primary_lost: false,
            },
        })
    }
}

impl OfCluster {
    fn view(&self, name: &Name, now: MonoTime) -> Arc<ClusterView> {
        let id = |target: &Name| TargetId { cluster: name.clone(), target: target.clone() };
        let primary = self.targets.iter().find(|(_, readings)| readings.role() == Some(Role::Primary));
        let promoted = primary.and_then(|(target, readings)| {
            let age = readings.value("role_change_age_seconds")?.value;
            Some(TopologyEvent {
                at: now.plus_seconds(-age),
                target: target.clone(),
                change: Change::Promoted,
                timeline: None,
            })
        });
        Arc::new(ClusterView {
            name: name.clone(),
            primary: primary.map(|(target, _)| target.clone()),
            targets: self.targets.iter().map(|(name, target)| Arc::new(target.target(id(name), now))).collect(),
            index: Arc::new(self.targets.keys().enumerate().map(|(place, name)| (name.clone(), place)).collect()),
            poolers: self.poolers.keys().map(|name| Arc::new(PoolerView::new(id(name), NEVER))).collect(),
            redis: Arc::from([]),
            cloudwatch: Arc::default(),
            alerts: Arc::default(),
            rds_events: Arc::default(),
            events: promoted.into_iter().collect(),
        })
    }
}

/// The answer of a server of which its role is all that is known.
fn answer(role: Role, now: MonoTime) -> Answer {
    let state = match role {
        Role::Primary => {
            ServerState::Primary(PrimaryState { flush_lsn: Lsn::new(0), timeline: Timeline(1), checkpoint: None })
        }
        Role::Replica => ServerState::Standby(StandbyState {
            replay_lsn: None,
            receive_lsn: None,
            last_commit_replayed_at: None,
            control_timeline: None,
            pause: ReplayPause::NotPaused,
            receiver: Receiver::Absent,
            wait: None,
        }),
    };
    let identity = Arc::new(Identity {
        version_num: 0,
        version: String::new(),
        flavor: Flavor::PostgreSql,
        system_identifier: None,
        started_at: ServerTime::from_unix_micros(0),
        cluster_name: String::new(),
        user: String::new(),
        reads_all_stats: false,
        statements: StatementsAccess::NotCreated,
        tls: false,
        pooled: false,
        address: ServerAddress::default(),
        standby_settings: StandbySettings::default(),
    });
    let clock = ServerTime::from_unix_micros(0);
    let positions = Arc::new(Positions { identity, clock, state, senders: Vec::new(), sees_senders: false });
    Answer { asked_at: now, answered_at: now, positions }
}

#[cfg(test)]
mod properties;
