//! What readers get: an immutable view of everything watched. Readers look things up here and never ask the engine.
//!
//! Views are shared (`Arc`) between snapshots: publishing costs what changed, not what is watched.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::alert::AlertView;
use super::cause::{ApplyDelay, Diagnosis};
use super::cloudwatch::{Readings, RedisGroup};
use super::discovery::{DiscoveryView, InstanceFacts, InstanceView, RdsEvent};
use super::drain::{Drain, Drains};
use super::lag::LagEstimate;
use super::observation::{PollFailure, Positions, Receiver};
use super::pooler::{PoolTotals, PoolerFacts};
use super::shown::Dropped;
use super::silence::Silences;
use super::skew::ClockSkew;
use super::slots::SlotOutlook;
use super::statements::StatementCounters;
use super::subscription::SubscriptionLag;
use super::survey::{Subscription, SurveyFacts};
use super::time::MonoTime;
use super::topology::events::{TopologyEvent, since_promotion};
use super::topology::failover::Outage;
use super::topology::links::Links;
use super::topology::{Name, Role, TargetId};
use super::trend::Trend;
use super::wal::{Lsn, Timeline, WalBytes};

/// Everything that is known at one instant.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was published.
    pub published_at: MonoTime,
    /// The wall clock at `published_at`: every displayed time of day is computed from this pair.
    pub wall: SystemTime,
    pub clusters: Vec<Arc<ClusterView>>,
    /// Where a cluster's name stands in `clusters`.
    pub index: Arc<HashMap<Name, usize>>,
    /// About the daemon itself, in no cluster.
    pub alerts: Arc<[AlertView]>,
    /// How it stands with those who find clusters.
    pub discoveries: Arc<[DiscoveryView]>,
    pub silences: Arc<Silences>,
    pub drains: Arc<Drains>,
}

impl Snapshot {
    pub fn cluster(&self, name: &str) -> Option<&Arc<ClusterView>> {
        self.clusters.get(*self.index.get(name)?)
    }

    /// The time of day of an instant.
    pub fn wall_time(&self, at: MonoTime) -> SystemTime {
        let offset = at.seconds_since(self.published_at);
        let distance = Duration::from_secs_f64(offset.abs());
        if offset < 0.0 { self.wall.checked_sub(distance) } else { self.wall.checked_add(distance) }
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// One cluster.
#[derive(Clone, Debug)]
pub struct ClusterView {
    pub name: Name,
    /// The server that the lag of this cluster is measured against. `None` while no primary has answered.
    pub primary: Option<Name>,
    pub targets: Vec<Arc<TargetView>>,
    /// Where a target's name stands in `targets`.
    pub index: Arc<HashMap<Name, usize>>,
    /// Connection poolers before its servers.
    pub poolers: Vec<Arc<PoolerView>>,
    /// Caches beside its servers.
    pub redis: Arc<[RedisGroup]>,
    /// What CloudWatch says of it as a whole.
    pub cloudwatch: Arc<Readings>,
    /// Pending and firing alerts, and those resolved of late.
    pub alerts: Arc<[AlertView]>,
    /// The last changes of who is who, the oldest first.
    pub events: Arc<[TopologyEvent]>,
    /// What RDS has reported of late, the oldest first.
    pub rds_events: Arc<[RdsEvent]>,
}

impl ClusterView {
    pub fn target(&self, name: &str) -> Option<&Arc<TargetView>> {
        self.targets.get(*self.index.get(name)?)
    }

    pub fn pooler(&self, name: &str) -> Option<&Arc<PoolerView>> {
        self.poolers.iter().find(|pooler| pooler.id.target.as_str() == name)
    }

    /// The primary's view, whether or not it still answers.
    pub fn primary_target(&self) -> Option<&Arc<TargetView>> {
        self.target(self.primary.as_ref()?.as_str())
    }

    /// Whether a target is the server that the lag is measured against, under whichever of its names.
    pub fn is_primary_itself(&self, target: &TargetView) -> bool {
        self.primary_target().is_some_and(|primary| primary.server() == target.server())
    }

    /// How long ago the primary was promoted, while lag rules hold their breath for it.
    pub fn since_promotion(&self, now: MonoTime) -> Option<Duration> {
        since_promotion(&self.events, self.primary.as_ref(), now)
    }

    /// Whether a server is known to belong to another cluster than the primary. `None` while one of the two has not told.
    pub fn is_foreign(&self, target: &TargetView) -> Option<bool> {
        let identifier = |target: &TargetView| target.answer.as_ref()?.positions.identity.system_identifier;
        Some(identifier(self.primary_target()?)? != identifier(target)?)
    }

    /// Whether the primary answers now. Without it a lag is only known from below.
    pub fn hears_primary(&self, now: MonoTime) -> bool {
        self.primary_target().is_some_and(|primary| primary.is_up() && primary.fresh(now).is_some())
    }
}

/// One server.
#[derive(Clone, Debug)]
pub struct TargetView {
    pub id: TargetId,
    /// The last answer to the fast poll, kept when later polls fail. `None` before the first.
    pub answer: Option<Answer>,
    /// Why the last poll failed. `None` while polls succeed, and before the first.
    pub failing: Option<Failing>,
    /// The last slow facts, kept when later surveys fail.
    pub survey: Option<SurveyView>,
    /// Why the last survey failed although positions are answered.
    pub survey_failing: Option<Failing>,
    /// `None` on a primary and before anything can be said.
    pub lag: Option<LagEstimate>,
    /// How much WAL is between this replica and the primary. `None` on a primary.
    pub stages: Option<Stages>,
    /// How fast its WAL moves. `None` before two samples.
    pub trend: Option<Trend>,
    /// What is wrong with a replica. `None` when nothing is, and on a primary.
    pub diagnosis: Option<Arc<Diagnosis>>,
    /// Counters of `pg_stat_statements` since this daemon began to watch.
    pub statements: Option<Arc<StatementCounters>>,
    /// Its place among the targets of the cluster.
    pub links: Arc<Links>,
    /// Changes of its role. `None` while it is what it was when it first answered.
    pub role_changes: Option<RoleChanges>,
    /// That it is away, or was of late. `None`: it never was.
    pub outage: Option<Outage>,
    /// How far its subscriptions are behind publishers that are watched too. Empty on most servers.
    pub subscription_lags: Arc<[SubscriptionLag]>,
    /// By its last answer, and of late.
    pub skew: ClockSkew,
    /// What is known of its slots beyond the last survey. `None` when that could not read them.
    pub slots: Option<Arc<SlotOutlook>>,
    /// In how many seconds the connections run out, should they go on to grow as of late. `None` while they do not.
    pub connections_exhausted_in: Option<f64>,
    /// What CloudWatch says of it.
    pub cloudwatch: Arc<Readings>,
    /// What got no series of its own because there was too much of it, since this daemon began to watch.
    pub dropped: Dropped,
    /// What AWS says of it. `None` for one that was not found there.
    pub instance: Option<InstanceView>,
    /// Somebody keeps reads from it, unless that is over.
    pub drain: Option<Arc<Drain>>,
    /// A sample older than this is unknown (`poll.stale_after`).
    pub stale_after: Duration,
    /// Since when it is watched. `None`: since the start.
    pub since: Option<MonoTime>,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub asked_at: MonoTime,
    pub answered_at: MonoTime,
    pub positions: Arc<Positions>,
}

/// Changes of a target's role since it began to be watched; of those before a restart the last few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChanges {
    pub last_at: MonoTime,
    pub count: u32,
}

#[derive(Clone, Debug)]
pub struct Failing {
    /// When the first of the failures in a row was in hand.
    pub since: MonoTime,
    pub last_at: MonoTime,
    pub failure: PollFailure,
    /// Failures in a row.
    pub count: u64,
}

#[derive(Clone, Debug)]
pub struct SurveyView {
    pub asked_at: MonoTime,
    pub answered_at: MonoTime,
    pub facts: Arc<SurveyFacts>,
    /// A survey older than this is unknown (three slow beats).
    pub stale_after: Duration,
}

/// WAL in bytes that each stage of replication to one replica still has before it.
/// A stage is `None` when its position, or the primary's, is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// The primary's last known flush position less what its sender has sent (`pg_stat_replication.sent_lsn`).
    pub unsent: Option<WalBytes>,
    /// ... less what the replica has written (`write_lsn`, else the receive position).
    pub unreceived: Option<WalBytes>,
    /// ... less what the replica has flushed (`flush_lsn`).
    pub unflushed: Option<WalBytes>,
    /// ... less what it has replayed.
    pub unreplayed: Option<WalBytes>,
    /// PostgreSQL's own `write_lag`, `flush_lag`, `replay_lag` in seconds, as its upstream measured them.
    pub own_lag: OwnLag,
}

/// `pg_stat_replication.{write,flush,replay}_lag`, in units of one microsecond so that the view compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnLag {
    pub write_us: Option<i64>,
    pub flush_us: Option<i64>,
    pub replay_us: Option<i64>,
}

impl TargetView {
    /// A target that nothing is known of yet.
    pub fn new(id: TargetId, stale_after: Duration) -> Self {
        Self {
            id,
            answer: None,
            failing: None,
            survey: None,
            survey_failing: None,
            lag: None,
            stages: None,
            trend: None,
            diagnosis: None,
            statements: None,
            links: Arc::default(),
            role_changes: None,
            outage: None,
            subscription_lags: Arc::default(),
            skew: ClockSkew::default(),
            slots: None,
            connections_exhausted_in: None,
            cloudwatch: Arc::default(),
            dropped: Dropped::default(),
            instance: None,
            drain: None,
            stale_after,
            since: None,
        }
    }

    /// Whether it has been tried at all: an answer or a failure is in hand.
    pub fn tried(&self) -> bool {
        self.answer.is_some() || self.failing.is_some()
    }

    /// The first name of the server that it leads to: its own, unless another target leads there too.
    pub fn server(&self) -> &Name {
        self.links.same_as.as_ref().unwrap_or(&self.id.target)
    }

    /// Who keeps reads from it, why, and for how much longer. `None`: nobody does.
    pub fn drained(&self, now: MonoTime) -> Option<String> {
        let drain = self.drain.as_ref()?;
        Some(drain.sentence(drain.left(now)?))
    }

    /// The last poll succeeded.
    pub fn is_up(&self) -> bool {
        self.answer.is_some() && self.failing.is_none()
    }

    /// Whether its lag is up to date at `now`: its last answer is young, it is known not to answer, or its lag is judged as
    /// of now because its answer is overdue. A poll and a new session may together take longer than an answer stays young.
    pub fn is_attended(&self, now: MonoTime) -> bool {
        let is_as_of_now = |lag: LagEstimate| lag.method.last_known || lag.method.upstream;
        self.failing.is_some() || self.fresh(now).is_some() || self.lag.is_some_and(is_as_of_now)
    }

    /// The last answer, if it is young enough to be told as true at `now`.
    pub fn fresh(&self, now: MonoTime) -> Option<&Answer> {
        self.answer.as_ref().filter(|answer| now.duration_since(answer.answered_at) <= self.stale_after)
    }

    /// The last answer's role, even when stale.
    pub fn last_role(&self) -> Option<Role> {
        self.answer.as_ref().map(|answer| answer.positions.role())
    }

    /// Slow facts young enough to be told as true at `now`.
    pub fn fresh_survey(&self, now: MonoTime) -> Option<&SurveyFacts> {
        let survey = self.survey.as_ref()?;
        (now.duration_since(survey.answered_at) <= survey.stale_after).then_some(&*survey.facts)
    }

    /// What AWS said of it, if that is young enough to be told as true at `now`.
    pub fn fresh_instance(&self, now: MonoTime) -> Option<&InstanceFacts> {
        let instance = self.instance.as_ref()?;
        (now.duration_since(instance.at) <= instance.stale_after).then_some(&*instance.facts)
    }

    /// The delay that it was told to replay with, by the last survey. `None` when there is none, or it is not known.
    pub fn apply_delay(&self) -> Option<ApplyDelay> {
        let seconds = self.survey.as_ref()?.facts.apply_delay_seconds.filter(|delay| *delay > 0.0)?;
        let lag = self.lag.and_then(|lag| lag.value);
        Some(ApplyDelay { seconds, beyond_seconds: lag.map_or(0.0, |lag| (lag - seconds).max(0.0)) })
    }

    /// Whether a standby gets its WAL from an archive alone, as it is configured to (`restore_command` without
    /// `primary_conninfo`), so that no stream is missing. By the last survey, even an old one: settings seldom change.
    ///
    /// Where the role may not read `primary_conninfo`, a stream that was requested since the server started shows by the
    /// position that it left, whether or not it came. `None` without one, before the first survey, and for no standby.
    pub fn is_fed_by_archive(&self) -> Option<bool> {
        let standby = self.answer.as_ref()?.positions.standby()?;
        if standby.receiver != Receiver::Absent {
            return Some(false);
        }
        let settings = self.survey.as_ref().and_then(|survey| survey.facts.recovery.as_ref());
        match settings.map(|settings| (settings.restores, settings.streams)) {
            Some((false, _)) => Some(false),
            Some((true, Some(streams))) => Some(!streams),
            Some((true, None)) | None => standby.receive_lsn.map(|_| false),
        }
    }

    /// What is wrong with a replica, in one sentence. `None` when nothing is.
    pub fn diagnosis_sentence(&self) -> Option<String> {
        let diagnosis = self.diagnosis.as_ref()?;
        Some(diagnosis.sentence(self.id.target.as_str(), self.lag.as_ref(), self.trend.as_ref()))
    }

    /// How far one of its subscriptions is behind its publisher. `None` when that is not known.
    pub fn subscription_lag(&self, subscription: &Subscription) -> Option<&SubscriptionLag> {
        self.subscription_lags.iter().find(|lag| lag.name == subscription.name && lag.datname == subscription.datname)
    }

    pub fn timeline(&self) -> Option<Timeline> {
        let positions = &self.answer.as_ref()?.positions;
        match (positions.primary(), positions.standby()) {
            (Some(primary), _) => Some(primary.timeline),
            (_, Some(standby)) => {
                standby.control_timeline.max(standby.receiver.running().and_then(|receiver| receiver.timeline))
            }
            _ => None,
        }
    }

    /// Flushed on a primary, replayed on a standby.
    pub fn lsn(&self) -> Option<Lsn> {
        let positions = &self.answer.as_ref()?.positions;
        match (positions.primary(), positions.standby()) {
            (Some(primary), _) => Some(primary.flush_lsn),
            (_, Some(standby)) => standby.replay_lsn,
            _ => None,
        }
    }
}

/// One connection pooler.
#[derive(Clone, Debug)]
pub struct PoolerView {
    /// Its own name in its cluster's place of a target's.
    pub id: TargetId,
    /// The last answer, kept when later polls fail. `None` before the first.
    pub answer: Option<PoolerAnswer>,
    /// Why the last poll failed. `None` while polls succeed, and before the first.
    pub failing: Option<Failing>,
    /// An answer older than this is unknown.
    pub stale_after: Duration,
}

#[derive(Clone, Debug)]
pub struct PoolerAnswer {
    pub answered_at: MonoTime,
    pub facts: Arc<PoolerFacts>,
    /// By database, since this daemon began to watch.
    pub counters: Arc<[(String, PoolTotals)]>,
}

impl PoolerView {
    /// A pooler that nothing is known of yet.
    pub fn new(id: TargetId, stale_after: Duration) -> Self {
        Self { id, answer: None, failing: None, stale_after }
    }

    /// Whether it has been tried at all: an answer or a failure is in hand.
    pub fn tried(&self) -> bool {
        self.answer.is_some() || self.failing.is_some()
    }

    /// The last poll succeeded, and not too long ago.
    pub fn is_up(&self, now: MonoTime) -> bool {
        self.failing.is_none() && self.fresh(now).is_some()
    }

    /// The last answer, if it is young enough to be told as true at `now`.
    pub fn fresh(&self, now: MonoTime) -> Option<&PoolerAnswer> {
        self.answer.as_ref().filter(|answer| now.duration_since(answer.answered_at) <= self.stale_after)
    }
}
