//! CloudWatch's side of the story: its metrics of the instances, caches and whatever else is configured, asked for in the
//! background at a beat of their own, never when somebody looks.
//!
//! Each metric that is asked for is billed, so nothing is asked for more often than it can be new. CloudWatch's points are
//! late and are corrected for some minutes: the last periods are read again each time. What an answer has is kept even when
//! the rest of it is missing.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{
    Dimension, MessageData, Metric as SdkMetric, MetricDataQuery, MetricDataResult, MetricStat, StatusCode,
};
use aws_sdk_elasticache::types::ReplicationGroup;
use futures_util::future::join_all;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::fault::{Fault, Kind};
use super::{Aws, Place, publish};
use crate::clock;
use crate::core::cloudwatch::{DATABASE, Measure, Measured, Metric, Point, REDIS, Readout, Subject};
use crate::core::fleet::Event;
use crate::core::signal::Unit;
use crate::core::time::MonoTime;
use crate::core::topology::{Name, TargetId};

/// Metrics that one request may ask for.
const PER_REQUEST: usize = 500;

/// Periods that are read again, for points are corrected.
const PERIODS: i64 = 5;

/// How much later than its end a longer period is asked for, once: not before CloudWatch has it.
const LATE: Duration = Duration::from_secs(120);

/// An answer with more pages than this does not end.
const MOST_PAGES: usize = 100;

/// How often it is asked which nodes a replication group has.
const DESCRIBE_EVERY: Duration = Duration::from_secs(600);

/// The longest that a place is left alone after it asked for patience.
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);

/// `[cloudwatch]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether metrics are read. Each that is asked for is billed (`pgvigil plan`).
    pub enabled: bool,
    #[serde(deserialize_with = "interval")]
    pub interval: Duration,
    /// CloudWatch's names of the metrics that are read of each instance. Not set: all that there are signals for.
    pub metrics: Option<Vec<String>>,
    pub metric: Vec<MetricConfig>,
    /// What is told to CloudWatch. `None`: nothing.
    pub publish: Option<publish::Config>,
}

impl Default for Config {
    fn default() -> Self {
        Self { enabled: false, interval: Duration::from_secs(60), metrics: None, metric: Vec::new(), publish: None }
    }
}

/// `[[cloudwatch.metric]]`: any other metric.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricConfig {
    /// What rules call it.
    pub signal: String,
    pub namespace: String,
    /// As CloudWatch calls it.
    pub name: String,
    /// `{instance}` stands for the instance of each target.
    #[serde(default)]
    pub dimensions: BTreeMap<String, String>,
    #[serde(default = "average")]
    pub statistic: String,
    /// In which CloudWatch has it.
    pub unit: Measure,
    #[serde(default = "minute", deserialize_with = "period")]
    pub period: Duration,
    /// Only of this cluster's targets; of one that is not of an instance, whose it is.
    #[serde(default)]
    pub cluster: Option<String>,
    /// Of one that is not of an instance.
    #[serde(default)]
    pub region: Option<String>,
    /// Likewise: as whom it is asked for, in another account.
    #[serde(default)]
    pub role_arn: Option<String>,
}

/// What stands for a target's instance.
const INSTANCE: &str = "{instance}";

impl MetricConfig {
    /// Whether it is one of each instance.
    pub fn is_of_instance(&self) -> bool {
        self.dimensions.values().any(|value| value.contains(INSTANCE))
    }

    /// Whether CloudWatch has such a statistic.
    pub fn has_statistic(&self) -> bool {
        let percentile = self.statistic.strip_prefix('p').and_then(|percent| percent.parse::<f64>().ok());
        ["Average", "Sum", "Minimum", "Maximum", "SampleCount"].contains(&self.statistic.as_str())
            || percentile.is_some_and(|percent| (0.0..=100.0).contains(&percent))
    }
}

/// `[[redis]]`: a replication group of ElastiCache.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    pub name: String,
    /// Its identifier.
    pub replication_group: String,
    #[serde(default)]
    pub region: Option<String>,
    #[serde(default)]
    pub role_arn: Option<String>,
    /// Beside whose servers it stands. May be left out where there is but one.
    #[serde(default)]
    pub cluster: Option<String>,
}

/// `cloudwatch` of a target: what it is called there. What is not said is taken from an RDS instance's own endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InstanceConfig {
    pub instance: Option<String>,
    pub region: Option<String>,
    pub role_arn: Option<String>,
}

fn average() -> String {
    "Average".to_owned()
}

const fn minute() -> Duration {
    Duration::from_secs(60)
}

fn interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    between(deserializer, Duration::from_secs(1), Duration::from_secs(3600))
}

fn period<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let period = between(deserializer, Duration::from_secs(60), Duration::from_secs(86_400))?;
    if period.as_secs() % 60 != 0 || period.subsec_nanos() != 0 {
        return Err(D::Error::custom(format!("{} is no whole number of minutes", humantime::format_duration(period))));
    }
    Ok(period)
}

pub(super) fn between<'de, D: Deserializer<'de>>(
    deserializer: D,
    least: Duration,
    most: Duration,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let told = humantime::format_duration;
    humantime::parse_duration(&text)
        .ok()
        .filter(|duration| (least..=most).contains(duration))
        .ok_or_else(|| D::Error::custom(format!("{text:?} is not between {} and {}", told(least), told(most))))
}

/// A target as CloudWatch knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub id: TargetId,
    /// Its identifier.
    pub instance: String,
    pub place: Place,
}

/// A replication group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its own name stands in the place of a target's.
    pub id: TargetId,
    pub group: String,
    pub place: Place,
}

/// A metric that is configured and not of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Lone {
    pub cluster: Name,
    pub place: Place,
    pub metric: MetricConfig,
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    pub interval: Duration,
    /// Of each instance.
    pub metrics: Vec<&'static Metric>,
    /// Likewise.
    pub configured: Vec<MetricConfig>,
    pub groups: Vec<Group>,
    pub lone: Vec<Lone>,
}

/// A metric and how its values are taken.
#[derive(Clone, Debug, PartialEq)]
struct Question {
    subject: Subject,
    /// What it is kept as.
    metric: Name,
    unit: Option<Unit>,
    reading: Reading,
    namespace: String,
    name: String,
    dimensions: Vec<(String, String)>,
    statistic: String,
    /// In seconds.
    period: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reading {
    Known(&'static Metric),
    Divided(f64),
}

impl Reading {
    fn of(self, value: f64) -> Option<f64> {
        match self {
            Self::Known(metric) => metric.in_base_unit(value),
            Self::Divided(by) => value.is_finite().then_some(value / by),
        }
    }
}

impl Question {
    fn known(subject: Subject, metric: &'static Metric, namespace: &str, dimension: (&str, &str)) -> Self {
        Self {
            subject,
            metric: Name::new(metric.signal),
            unit: None,
            reading: Reading::Known(metric),
            namespace: namespace.to_owned(),
            name: metric.name.to_owned(),
            dimensions: vec![(dimension.0.to_owned(), dimension.1.to_owned())],
            statistic: metric.statistic.to_owned(),
            period: metric.period,
        }
    }

    fn configured(subject: Subject, config: &MetricConfig, instance: &str) -> Self {
        let (unit, divisor) = config.unit.base();
        let dimensions = config.dimensions.iter();
        Self {
            subject,
            metric: Name::new(&config.signal),
            unit: Some(unit),
            reading: Reading::Divided(divisor),
            namespace: config.namespace.clone(),
            name: config.name.clone(),
            dimensions: dimensions.map(|(name, value)| (name.clone(), value.replace(INSTANCE, instance))).collect(),
            statistic: config.statistic.clone(),
            period: config.period.as_secs() as i64,
        }
    }

    fn query(&self, id: String) -> MetricDataQuery {
        let dimensions =
            self.dimensions.iter().map(|(name, value)| Dimension::builder().name(name).value(value).build());
        let metric = SdkMetric::builder()
            .namespace(&self.namespace)
            .metric_name(&self.name)
            .set_dimensions(Some(dimensions.collect()))
            .build();
        let stat = MetricStat::builder().metric(metric).period(self.period as i32).stat(&self.statistic).build();
        MetricDataQuery::builder().id(id).metric_stat(stat).return_data(true).build()
    }
}

impl Wanted {
    /// The metrics that a configuration names, or all.
    pub fn metrics_of(config: &Config) -> Vec<&'static Metric> {
        match &config.metrics {
            Some(names) => names.iter().filter_map(|name| Metric::of_database(name)).collect(),
            None => DATABASE.iter().collect(),
        }
    }

    /// How many metrics are asked for in a second, on average, of so many instances and nodes.
    pub fn metrics_per_second(&self, instances: &[Instance], nodes_per_group: usize) -> f64 {
        let nodes: Vec<Name> = (0..nodes_per_group).map(|node| Name::new(&node.to_string())).collect();
        let known: HashMap<TargetId, Vec<Name>> =
            self.groups.iter().map(|group| (group.id.clone(), nodes.clone())).collect();
        self.questions(instances, &known)
            .iter()
            .map(|(_, question)| {
                let interval = self.interval.as_secs_f64();
                1.0 / if self.is_slow(question.period) { question.period as f64 } else { interval }
            })
            .sum()
    }

    /// All questions, each with the place that it is asked at.
    fn questions(&self, instances: &[Instance], nodes: &HashMap<TargetId, Vec<Name>>) -> Vec<(Place, Question)> {
        let mut questions = Vec::new();
        for Instance { id, instance, place } in instances {
            let subject = Subject::Target(id.clone());
            let dimension = ("DBInstanceIdentifier", instance.as_str());
            for metric in &self.metrics {
                questions.push((place.clone(), Question::known(subject.clone(), metric, "AWS/RDS", dimension)));
            }
            let is_of = |config: &&MetricConfig| config.cluster.as_ref().is_none_or(|own| *own == *id.cluster.as_str());
            for config in self.configured.iter().filter(is_of) {
                questions.push((place.clone(), Question::configured(subject.clone(), config, instance)));
            }
        }
        for Lone { cluster, place, metric } in &self.lone {
            questions.push((place.clone(), Question::configured(Subject::Cluster(cluster.clone()), metric, "")));
        }
        for group in &self.groups {
            for node in nodes.get(&group.id).into_iter().flatten() {
                let subject = Subject::Redis(group.id.clone(), node.clone());
                let dimension = ("CacheClusterId", node.as_str());
                let of_node =
                    REDIS.iter().map(|metric| Question::known(subject.clone(), metric, "AWS/ElastiCache", dimension));
                questions.extend(of_node.map(|question| (group.place.clone(), question)));
            }
        }
        questions
    }

    /// Whether a period is so long that it is asked for once, when it is over. One of a minute is asked for at each beat, however
    /// short that is.
    fn is_slow(&self, period: i64) -> bool {
        period > 60 && period > self.interval.as_secs() as i64
    }

    /// Points older than this are unknown: CloudWatch is minutes late, the more so with metrics that it counts every five.
    fn stale_after(&self) -> Duration {
        Duration::from_secs(600).max(self.interval * 3)
    }
}

/// How it stands with one place.
#[derive(Debug, Default)]
struct Standing {
    /// What is wrong, as it was logged.
    trouble: Option<String>,
    /// Throttled so often in a row.
    n_throttled: u32,
    /// Not asked before.
    patient_until: Option<MonoTime>,
}

/// The task that asks.
#[derive(Debug)]
pub struct Beat {
    aws: Aws,
    wanted: Wanted,
    /// They come and go.
    instances: watch::Receiver<Vec<Instance>>,
    nodes: HashMap<TargetId, Vec<Name>>,
    described_at: HashMap<TargetId, MonoTime>,
    standings: HashMap<Place, Standing>,
    /// By period in seconds, if it is a longer one: the end of the last one that was asked for, in seconds since 1970, at each
    /// place, and what was asked.
    asked: HashMap<(Place, i64), (i64, Vec<Question>)>,
}

/// What asking one place for the metrics of one period gave.
struct Asked {
    place: Place,
    measured: Vec<Measured>,
    /// Points that came are kept all the same.
    trouble: Option<Trouble>,
}

/// Throttled, refused, partial: why not all was told, and in words.
type Trouble = (Option<Kind>, String);

/// Of all places that were asked.
type Troubles = BTreeMap<Place, Option<Trouble>>;

impl Beat {
    pub fn new(aws: Aws, wanted: Wanted, instances: watch::Receiver<Vec<Instance>>) -> Self {
        let (nodes, described_at) = (HashMap::new(), HashMap::new());
        Self { aws, wanted, instances, nodes, described_at, standings: HashMap::new(), asked: HashMap::new() }
    }

    /// Runs until cancelled, or until nobody takes events any more.
    pub async fn run(mut self, events: mpsc::Sender<Event>, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.beats(&events)).await;
    }

    async fn beats(&mut self, events: &mpsc::Sender<Event>) {
        let mut due = Instant::now();
        loop {
            let readout = self.beat().await;
            if (!readout.measured.is_empty() || !readout.groups.is_empty())
                && events.send(Event::Measured(Box::new(readout))).await.is_err()
            {
                return;
            }
            due = (due + self.wanted.interval).max(Instant::now());
            tokio::select! {
                () = sleep_until(due) => {}
                // Whoever is new is not left waiting for the beat. An error: nobody is to come, and the daemon stops.
                Ok(()) = self.instances.changed() => due = Instant::now(),
            }
        }
    }

    async fn beat(&mut self) -> Readout {
        let (groups, mut troubles) = self.describe().await;
        let (now, wall) = (clock::now(), clock::wall());
        let instances = self.instances.borrow_and_update().clone();
        let mut by_place: BTreeMap<(Place, i64), Vec<Question>> = BTreeMap::new();
        for (place, question) in self.wanted.questions(&instances, &self.nodes) {
            by_place.entry((place, question.period)).or_default().push(question);
        }
        let mut asking = Vec::new();
        for ((place, period), questions) in by_place {
            let is_slow = self.wanted.is_slow(period);
            let end = last_end(if is_slow { wall - LATE } else { wall }, period);
            let is_patient = |standing: &Standing| standing.patient_until.is_some_and(|until| now < until);
            if self.standings.get(&place).is_some_and(is_patient) {
                continue;
            }
            if is_slow {
                // A period that is longer than the interval is new once, when it is over; what is found meanwhile is asked about all
                // the same.
                let asked = self.asked.entry((place.clone(), period)).or_default();
                if asked.0 == end && asked.1 == questions {
                    continue;
                }
                *asked = (end, questions.clone());
            }
            for questions in questions.chunks(PER_REQUEST) {
                asking.push(ask(self.aws.clone(), place.clone(), questions.to_vec(), end, now, wall));
            }
        }
        let mut measured = Vec::new();
        for asked in join_all(asking).await {
            measured.extend(asked.measured);
            let trouble = troubles.entry(asked.place).or_default();
            *trouble = trouble.take().or(asked.trouble);
        }
        for (place, trouble) in troubles {
            self.note(place, trouble, now);
        }
        debug!(metrics = measured.len(), "CloudWatch was read");
        Readout { measured, groups, stale_after: self.wanted.stale_after() }
    }

    /// Asks which nodes there are, where that is due. What was known stays known when it cannot be told.
    async fn describe(&mut self) -> (Vec<(TargetId, Vec<Name>)>, Troubles) {
        let now = clock::now();
        let is_due = |group: &&Group| {
            self.described_at.get(&group.id).is_none_or(|at| now.duration_since(*at) >= DESCRIBE_EVERY)
        };
        let due: Vec<Group> = self.wanted.groups.iter().filter(is_due).cloned().collect();
        let asked = due.into_iter().map(|group| {
            let aws = self.aws.clone();
            async move { (nodes_of(&aws, &group).await, group) }
        });
        let mut troubles = Troubles::new();
        for (answer, Group { id, group, place }) in join_all(asked).await {
            match answer {
                Ok(nodes) => {
                    self.described_at.insert(id.clone(), now);
                    let is_new = self.nodes.get(&id) != Some(&nodes);
                    if is_new {
                        let nodes = nodes.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
                        info!(redis = %id, nodes, "the replication group {group} consists of {nodes}");
                    }
                    self.nodes.insert(id, nodes);
                }
                Err(fault) => {
                    troubles.insert(place, Some((Some(fault.kind), fault.reason)));
                }
            }
        }
        (self.nodes.iter().map(|(id, nodes)| (id.clone(), nodes.clone())).collect(), troubles)
    }

    /// Keeps how it stands with a place: who is throttled waits, longer each time.
    fn note(&mut self, place: Place, trouble: Option<Trouble>, now: MonoTime) {
        let interval = self.wanted.interval;
        let standing = self.standings.entry(place.clone()).or_default();
        if matches!(trouble, Some((Some(Kind::Throttled), _))) {
            standing.n_throttled = (standing.n_throttled + 1).min(10);
            let wait = (interval * 2_u32.pow(standing.n_throttled)).min(LONGEST_PATIENCE.max(interval));
            standing.patient_until = Some(now.plus(wait));
        } else {
            (standing.n_throttled, standing.patient_until) = (0, None);
        }
        let trouble = trouble.map(|(_, reason)| reason);
        match (&standing.trouble, &trouble) {
            (None, Some(reason)) => {
                warn!(%place, error = reason, "CloudWatch did not tell all: {reason}; what it told is kept");
            }
            (Some(_), Some(reason)) => debug!(%place, error = reason, "CloudWatch still does not tell all: {reason}"),
            (Some(_), None) => info!(%place, "CloudWatch tells all again"),
            (None, None) => {}
        }
        standing.trouble = trouble;
    }
}

/// The end of the last whole period, in seconds since 1970.
fn last_end(wall: SystemTime, period: i64) -> i64 {
    let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
    since - since % period
}

/// Asks for the last periods of metrics that all have the same.
async fn ask(aws: Aws, place: Place, questions: Vec<Question>, end: i64, now: MonoTime, wall: SystemTime) -> Asked {
    const ACTION: &str = "cloudwatch:GetMetricData";
    let client = aws.cloudwatch(&place).await;
    let period = questions.first().map_or(60, |question| question.period);
    let queries: Vec<MetricDataQuery> =
        questions.iter().enumerate().map(|(place, question)| question.query(format!("q{place}"))).collect();
    let mut measured: Vec<Measured> = questions
        .iter()
        .map(|question| Measured {
            subject: question.subject.clone(),
            metric: question.metric.clone(),
            unit: question.unit,
            points: Vec::new(),
        })
        .collect();
    let now_seconds = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut trouble = None;
    let mut statuses: HashMap<usize, StatusCode> = HashMap::new();
    let mut token: Option<String> = None;
    for page in 0..MOST_PAGES {
        let asked = client
            .get_metric_data()
            .set_metric_data_queries(Some(queries.clone()))
            .start_time(DateTime::from_secs(end - PERIODS * period))
            .end_time(DateTime::from_secs(end))
            .set_next_token(token.take())
            .send()
            .await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) => {
                let fault = Fault::of(ACTION, &error);
                trouble = Some((Some(fault.kind), fault.reason));
                break;
            }
        };
        if page == 0 {
            aws.metrics().metrics_requested(questions.len());
        }
        let said =
            answer.messages().iter().chain(answer.metric_data_results().iter().flat_map(MetricDataResult::messages));
        if let Some(message) = said.map(words).next() {
            trouble.get_or_insert((None, message));
        }
        for result in answer.metric_data_results() {
            let place = result.id().and_then(|id| id.strip_prefix('q')?.parse::<usize>().ok());
            let Some((place, question)) = place.and_then(|place| Some((place, questions.get(place)?))) else {
                continue;
            };
            if let Some(status) = result.status_code() {
                statuses.insert(place, status.clone());
            }
            let points = result.timestamps().iter().zip(result.values()).filter_map(|(at, value)| {
                let begins = at.secs();
                // The period that is under way tells half a sum.
                (begins + period <= end).then(|| Point {
                    begins,
                    ended_at: now.plus_seconds((begins + period) as f64 - now_seconds),
                    value: question.reading.of(*value),
                })
            });
            measured[place].points.extend(points);
        }
        match answer.next_token() {
            Some(next) if !next.is_empty() && page + 1 < MOST_PAGES => token = Some(next.to_owned()),
            _ => break,
        }
    }
    if trouble.is_none() {
        trouble = incomplete(&statuses, &questions).map(|reason| (None, reason));
    }
    measured.retain(|measured| !measured.points.is_empty());
    Asked { place, measured, trouble }
}

/// What the last word on each metric leaves open.
fn incomplete(statuses: &HashMap<usize, StatusCode>, questions: &[Question]) -> Option<String> {
    let is_open = |status: &StatusCode| *status != StatusCode::Complete;
    let first = statuses.iter().filter(|(_, status)| is_open(status)).map(|(place, _)| *place).min()?;
    let n_open = statuses.values().filter(|status| is_open(status)).count();
    let (status, name) = (statuses[&first].as_str(), &questions[first].name);
    Some(match n_open {
        1 => format!("{status} for {name}"),
        _ => format!("{status} for {name} and {} more", n_open - 1),
    })
}

fn words(message: &MessageData) -> String {
    let text = format!("{}: {}", message.code().unwrap_or("no code"), message.value().unwrap_or("no reason"));
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}

/// The nodes of a replication group.
pub(super) async fn nodes_of(aws: &Aws, group: &Group) -> Result<Vec<Name>, Fault> {
    const ACTION: &str = "elasticache:DescribeReplicationGroups";
    let client = aws.elasticache(&group.place).await;
    let asked = client.describe_replication_groups().replication_group_id(&group.group).send().await;
    let answer = asked.map_err(|error| Fault::of(ACTION, &error))?;
    let mut nodes: Vec<Name> = answer
        .replication_groups()
        .iter()
        .flat_map(ReplicationGroup::member_clusters)
        .map(|node| Name::new(node))
        .collect();
    nodes.sort();
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(target: &str) -> Instance {
        Instance {
            id: TargetId::new("orders", target),
            instance: format!("rds-{target}"),
            place: Place::region("eu-west-1"),
        }
    }

    fn configured(text: &str) -> MetricConfig {
        toml_of(text).expect("a good metric")
    }

    fn toml_of<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_asked_of_an_instance_a_cluster_and_a_cache() {
        let swap = configured(
            r#"{"signal": "swap", "namespace": "AWS/RDS", "name": "SwapUsage", "unit": "bytes",
                "dimensions": {"DBInstanceIdentifier": "{instance}"}}"#,
        );
        let volume = configured(
            r#"{"signal": "volume", "namespace": "AWS/RDS", "name": "VolumeBytesUsed", "unit": "bytes", "period": "5m",
                "dimensions": {"DBClusterIdentifier": "orders"}, "statistic": "Maximum"}"#,
        );
        assert!(swap.is_of_instance() && !volume.is_of_instance());
        let place = Place::region("us-east-1");
        let group =
            Group { id: TargetId::new("orders", "sessions"), group: "sessions-prod".to_owned(), place: place.clone() };
        let wanted = Wanted {
            interval: Duration::from_secs(60),
            metrics: vec![&DATABASE[0]],
            configured: vec![swap],
            groups: vec![group.clone()],
            lone: vec![Lone { cluster: Name::new("orders"), place: place.clone(), metric: volume }],
        };
        let nodes = HashMap::from([(group.id, vec![Name::new("sessions-prod-001")])]);
        let questions = wanted.questions(&[instance("r1")], &nodes);
        let told: Vec<String> = questions
            .iter()
            .map(|(place, asked)| {
                let Question { namespace, name, statistic, period, dimensions, .. } = asked;
                let (dimension, value) = &dimensions[0];
                format!("{place} {namespace} {name} {statistic} {period} {dimension}={value}")
            })
            .collect();
        assert_eq!(
            told[..4],
            [
                "eu-west-1 AWS/RDS CPUUtilization Average 60 DBInstanceIdentifier=rds-r1",
                "eu-west-1 AWS/RDS SwapUsage Average 60 DBInstanceIdentifier=rds-r1",
                "us-east-1 AWS/RDS VolumeBytesUsed Maximum 300 DBClusterIdentifier=orders",
                "us-east-1 AWS/ElastiCache CPUUtilization Average 60 CacheClusterId=sessions-prod-001",
            ]
        );
        assert_eq!(told.len(), 3 + REDIS.len());
        // What is longer than the interval is asked for once a period.
        let per_hour = wanted.metrics_per_second(&[instance("r1"), instance("r2")], 0) * 3600.0;
        assert_eq!(per_hour.round(), 2.0 * 60.0 * 2.0 + 12.0);
    }

    #[test]
    fn only_whole_periods_are_asked_for() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_176_059);
        assert_eq!((last_end(wall, 60), last_end(wall, 300)), (1_795_176_000, 1_795_176_000));
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_176_361);
        assert_eq!((last_end(wall, 60), last_end(wall, 300)), (1_795_176_360, 1_795_176_300));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let metric = |rest: &str| {
            toml_of::<MetricConfig>(&format!(
                r#"{{"signal": "s", "namespace": "AWS/RDS", "name": "N", "unit": "percent"{rest}}}"#
            ))
        };
        assert!(metric(r#", "period": "90s""#).unwrap_err().contains("no whole number of minutes"));
        assert!(metric(r#", "period": "1s""#).unwrap_err().contains("is not between 1m and 1day"));
        assert!(metric(r#", "unit": "furlong""#).is_err());
        assert!(metric(r#", "statistic": "p99.9""#).unwrap().has_statistic());
        assert!(!metric(r#", "statistic": "average""#).unwrap().has_statistic());
        assert!(!metric(r#", "statistic": "p101""#).unwrap().has_statistic());
        assert!(toml_of::<Config>(r#"{"interval": "0s"}"#).unwrap_err().contains("is not between 1s and 1h"));
    }
}
