//! Our own numbers to CloudWatch, for its alarms and for policies that scale. Whatever becomes of it, nothing else waits for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{Dimension, MetricDatum, StandardUnit};
use serde::Deserialize;
use serde::de::Deserializer;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::cloudwatch::between;
use super::fault::Fault;
use super::{Aws, Place};
use crate::clock;
use crate::core::heartbeat::{Limits, Progress, progress};
use crate::core::publish::{Collected, DEFAULT, Datum, Published, samples};
use crate::core::signal::Unit;
use crate::core::snapshot::Snapshot;

/// How often numbers are sampled.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// The same where each second counts.
const SAMPLE_OFTEN: Duration = Duration::from_secs(1);

/// `[cloudwatch.publish]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Not set: that of `[aws]`.
    pub region: Option<String>,
    pub namespace: String,
    /// How often they are told.
    #[serde(deserialize_with = "interval")]
    pub interval: Duration,
    /// Signals, `healthy` and `Heartbeat`. Each is billed for each target.
    pub metrics: Vec<String>,
    /// With a second's resolution.
    pub high_resolution: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            region: None,
            namespace: "pgvigil".to_owned(),
            interval: Duration::from_secs(60),
            metrics: DEFAULT.map(str::to_owned).to_vec(),
            high_resolution: false,
        }
    }
}

impl Config {
    /// What is told; those that cannot be were refused before.
    pub fn published(&self) -> Vec<Published> {
        self.metrics.iter().filter_map(|name| Published::named(name).ok()).collect()
    }
}

fn interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    between(deserializer, Duration::from_secs(1), Duration::from_secs(3600))
}

/// The task that tells.
#[derive(Debug)]
pub struct Publisher {
    aws: Aws,
    place: Place,
    config: Config,
    published: Vec<Published>,
    /// What stops the heart.
    limits: Limits,
    collected: Collected,
    is_failing: bool,
}

/// A telling that is under way.
type Telling = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>;

impl Publisher {
    pub fn new(aws: Aws, config: Config, limits: Limits) -> Self {
        let place = Place { region: config.region.clone(), role_arn: None };
        let limits = Limits { answer: limits.answer.max(SAMPLE_EVERY), failure: limits.failure.max(SAMPLE_EVERY) };
        let published = config.published();
        Self { aws, place, config, published, limits, collected: Collected::default(), is_failing: false }
    }

    /// Runs until cancelled.
    pub async fn run(mut self, snapshots: watch::Receiver<Arc<Snapshot>>, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.tellings(&snapshots)).await;
    }

    async fn tellings(&mut self, snapshots: &watch::Receiver<Arc<Snapshot>>) {
        let started_at = clock::now();
        let every = if self.config.high_resolution { SAMPLE_OFTEN } else { SAMPLE_EVERY }.min(self.config.interval);
        let mut sampling = interval_at(Instant::now() + every, every);
        sampling.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut due = Instant::now() + self.config.interval;
        let mut telling: Option<Telling> = None;
        loop {
            tokio::select! {
                _ = sampling.tick() => {
                    self.sample(&Arc::clone(&snapshots.borrow()), started_at);
                    if Instant::now() >= due && telling.is_none() {
                        due = Instant::now() + self.config.interval;
                        telling = Some(self.telling());
                    }
                }
                outcome = async { telling.as_mut().expect("there is one").await }, if telling.is_some() => {
                    telling = None;
                    self.note(outcome);
                }
            }
        }
    }

    fn sample(&mut self, snapshot: &Snapshot, started_at: crate::core::time::MonoTime) {
        let now = clock::now();
        let makes_progress = progress(snapshot, started_at, now, self.limits) == Progress::Made;
        let samples = samples(snapshot, &self.published, makes_progress, now);
        let seconds = clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        let at = if self.config.high_resolution { seconds } else { seconds - seconds % 60 };
        self.collected.add(samples, at);
    }

    /// What was sampled since the last time. What AWS does not take is lost: it would be late, and alarms have long seen the gap.
    fn telling(&mut self) -> Telling {
        let requests = self.collected.take();
        let (aws, place, config) = (self.aws.clone(), self.place.clone(), self.config.clone());
        Box::pin(async move {
            let client = aws.cloudwatch(&place).await;
            let mut outcome = Ok(());
            for datums in requests {
                let datums: Vec<MetricDatum> =
                    datums.iter().map(|datum| data_of(datum, config.high_resolution)).collect();
                let told =
                    client.put_metric_data().namespace(&config.namespace).set_metric_data(Some(datums)).send().await;
                outcome = outcome.and(told.map(drop).map_err(|error| Fault::of("cloudwatch:PutMetricData", &error)));
            }
            outcome
        })
    }

    fn note(&mut self, outcome: Result<(), Fault>) {
        let was_failing = std::mem::replace(&mut self.is_failing, outcome.is_err());
        match outcome {
            Err(fault) if !was_failing => {
                warn!(error = %fault, "CloudWatch does not take our numbers: {fault}; those are lost, and the next are tried");
            }
            Ok(()) if was_failing => info!("CloudWatch takes our numbers again"),
            _ => {}
        }
    }
}

fn data_of(datum: &Datum, high_resolution: bool) -> MetricDatum {
    let dimensions = [("cluster", &datum.place.cluster), ("instance", &datum.place.instance)];
    let dimensions = dimensions
        .iter()
        .filter_map(|(name, value)| Some(Dimension::builder().name(*name).value(value.as_ref()?.as_str()).build()));
    MetricDatum::builder()
        .metric_name(datum.name)
        .set_dimensions(Some(dimensions.collect()))
        .timestamp(DateTime::from_secs(datum.at))
        .unit(match datum.unit {
            Unit::Seconds => StandardUnit::Seconds,
            Unit::Bytes => StandardUnit::Bytes,
            Unit::BytesPerSecond => StandardUnit::BytesSecond,
            Unit::Count => StandardUnit::Count,
            Unit::Ratio | Unit::Bool => StandardUnit::None,
        })
        .set_values(Some(datum.values.iter().map(|(value, _)| *value).collect()))
        .set_counts(Some(datum.values.iter().map(|(_, count)| f64::from(*count)).collect()))
        .set_storage_resolution(high_resolution.then_some(1))
        .build()
}
