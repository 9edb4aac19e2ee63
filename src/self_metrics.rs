//! What the daemon itself does: polls, deliveries, its process. Kept in a registry of its own that is passed around, so
//! that two daemons in one test do not count each other's doings.
//!
//! Every series that can be foreseen stands at 0 from the start: a rate over a series that appears with its first failure
//! would miss that failure.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::core::ledger::SendFailure;
use crate::core::observation::PollFailure;
use crate::core::survey::SurveyFacts;

/// Upper bounds in seconds. A poll on a local network takes about a millisecond, and none may take longer than its limit.
const POLL_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0];

/// The outcomes of a poll: `ok`, and the kinds of [`PollFailure`].
const POLL_OUTCOMES: [&str; 13] = [
    "ok",
    "timeout",
    "lookup",
    "refused",
    "connect",
    "tls",
    "authentication",
    "not_accepting",
    "too_many_connections",
    "sql",
    "login_trigger",
    "decode",
    "lost",
];

const STORE_OUTCOMES: [&str; 2] = ["ok", "failed"];
const DELIVERY_OUTCOMES: [&str; 4] = ["ok", "transient", "unclear", "permanent"];

/// A row of the book's table of metrics.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// As it stands in `/metrics`.
    pub name: &'static str,
    /// The word of the TYPE line.
    pub kind: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const POLLS: Family = Family {
    name: "pgvigil_polls_total",
    kind: "counter",
    labels: &["outcome"],
    help: "Polls of positions and of poolers, by outcome: ok, or the kind of failure.",
};
const POLL_DURATION: Family = Family {
    name: "pgvigil_poll_duration_seconds",
    kind: "histogram",
    labels: &[],
    help: "Time that a poll of positions took, connecting included where it had to.",
};
const SURVEYS: Family = Family {
    name: "pgvigil_surveys_total",
    kind: "counter",
    labels: &["outcome"],
    help: "Slow polls, by outcome: ok, partial (pgvigil_survey_failure says of what), or the kind of failure.",
};
const STORE_WRITES: Family = Family {
    name: "pgvigil_store_writes_total",
    kind: "counter",
    labels: &["outcome"],
    help: "Writes of what must outlive a restart, by outcome: ok or failed. Stands still where nothing is kept.",
};
const SURVEY_DURATION: Family = Family {
    name: "pgvigil_survey_duration_seconds",
    kind: "histogram",
    labels: &[],
    help: "Time that a slow poll took.",
};
const NOTIFICATIONS: Family = Family {
    name: "pgvigil_notifications_total",
    kind: "counter",
    labels: &["notifier", "outcome"],
    help: "Attempts to tell a notifier, by outcome: ok, transient or unclear (tried again), or permanent (someone must act).",
};
const HEARTBEATS: Family = Family {
    name: "pgvigil_heartbeats_total",
    kind: "counter",
    labels: &["outcome"],
    help: "Beats of the dead man's switch, by outcome: ok, failed (not heard, tried again), or withheld for want of progress. Stands still without [heartbeat].",
};
const RELOAD_SUCCESSFUL: Family = Family {
    name: "pgvigil_config_last_reload_successful",
    kind: "gauge",
    labels: &[],
    help: "1 when the configuration was last read without a fault, at the start or since; 0: it was refused, and the one before is in force.",
};
const RELOADED_AT: Family = Family {
    name: "pgvigil_config_last_reload_success_timestamp_seconds",
    kind: "gauge",
    labels: &[],
    help: "When the configuration in force was read, in seconds since 1970.",
};
const AWS_REQUESTS: Family = Family {
    name: "pgvigil_aws_requests_total",
    kind: "counter",
    labels: &["api", "outcome"],
    help: "Requests to AWS, retries included, by API (as policies write it: rds:DescribeDBInstances) and outcome: ok, throttled, denied, credentials, not_found, unreachable, refused or failed. Absent as long as nothing is asked.",
};
const AWS_METRICS_REQUESTED: Family = Family {
    name: "pgvigil_aws_metrics_requested_total",
    kind: "counter",
    labels: &[],
    help: "Metrics that CloudWatch was asked for and has answered: what GetMetricData is billed by.",
};
const AWS_CIRCUIT_OPEN: Family = Family {
    name: "pgvigil_aws_circuit_open",
    kind: "gauge",
    labels: &["service", "region", "account"],
    help: "1 while a service of AWS is asked less often, since it fails; /api/v1/aws says why. The account is that of the role that is assumed, if one is.",
};
const BUILD_INFO: Family = Family {
    name: "pgvigil_build_info",
    kind: "gauge",
    labels: &["version"],
    help: "The version of pgvigil; always 1.",
};

/// What every process that Prometheus scrapes tells of itself: name, kind, unit, meaning.
pub const PROCESS: [(&str, &str, &str, &str); 7] = [
    ("process_cpu_seconds_total", "counter", "seconds", "CPU time that pgvigil has used."),
    ("process_resident_memory_bytes", "gauge", "bytes", "Memory that it holds."),
    ("process_virtual_memory_bytes", "gauge", "bytes", "Address space that it holds."),
    ("process_open_fds", "gauge", "count", "Open file descriptors."),
    ("process_max_fds", "gauge", "count", "File descriptors that it may open."),
    ("process_threads", "gauge", "count", "Threads."),
    ("process_start_time_seconds", "gauge", "seconds", "When it started, in seconds since 1970."),
];

/// The families of the daemon's own doings, for the table of metrics. Those of [`PROCESS`] come beside them.
pub const FAMILIES: [Family; 13] = [
    POLLS,
    POLL_DURATION,
    SURVEYS,
    SURVEY_DURATION,
    NOTIFICATIONS,
    HEARTBEATS,
    STORE_WRITES,
    RELOAD_SUCCESSFUL,
    RELOADED_AT,
    AWS_REQUESTS,
    AWS_METRICS_REQUESTED,
    AWS_CIRCUIT_OPEN,
    BUILD_INFO,
];

/// How a beat of the dead man's switch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    Ok,
    Failed,
    Withheld,
}

impl Heartbeat {
    const ALL: [Self; 3] = [Self::Ok, Self::Failed, Self::Withheld];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Withheld => "withheld",
        }
    }
}

/// Counters and histograms of the daemon's own doings.
#[derive(Debug)]
pub struct SelfMetrics {
    registry: Registry,
    polls: IntCounterVec,
    poll_duration: Histogram,
    surveys: IntCounterVec,
    survey_duration: Histogram,
    notifications: IntCounterVec,
    heartbeats: IntCounterVec,
    store_writes: IntCounterVec,
    reload_successful: Gauge,
    reloaded_at: Gauge,
    is_store_failing: AtomicBool,
    notifiers: Mutex<BTreeMap<String, NotifierHealth>>,
    last_beat: Mutex<Option<Heartbeat>>,
}

/// How a notifier has fared since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotifierHealth {
    pub name: String,
    pub told: u64,
    pub failed: u64,
    /// The outcome of the last attempt; `None` before the first.
    pub last: Option<&'static str>,
}

impl SelfMetrics {
    /// `notifiers` are the names of those configured.
    pub fn new(notifiers: &[&str]) -> Self {
        let metrics = Self {
            registry: Registry::new(),
            polls: counters(POLLS),
            poll_duration: histogram(POLL_DURATION),
            surveys: counters(SURVEYS),
            survey_duration: histogram(SURVEY_DURATION),
            notifications: counters(NOTIFICATIONS),
            heartbeats: counters(HEARTBEATS),
            store_writes: counters(STORE_WRITES),
            reload_successful: gauge(RELOAD_SUCCESSFUL),
            reloaded_at: gauge(RELOADED_AT),
            is_store_failing: AtomicBool::new(false),
            notifiers: Mutex::default(),
            last_beat: Mutex::default(),
        };
        for outcome in POLL_OUTCOMES {
            metrics.polls.with_label_values(&[outcome]);
            metrics.surveys.with_label_values(&[outcome]);
        }
        metrics.surveys.with_label_values(&[PARTIAL]);
        for outcome in Heartbeat::ALL {
            metrics.heartbeats.with_label_values(&[outcome.as_str()]);
        }
        for outcome in STORE_OUTCOMES {
            metrics.store_writes.with_label_values(&[outcome]);
        }
        metrics.expect_notifiers(notifiers);
        metrics.register();
        metrics
    }

    /// These may be told something from now on.
    pub fn expect_notifiers(&self, notifiers: &[&str]) {
        for notifier in notifiers {
            for outcome in DELIVERY_OUTCOMES {
                self.notifications.with_label_values(&[notifier, outcome]);
            }
        }
        let mut known = self.notifiers.lock().unwrap_or_else(PoisonError::into_inner);
        for name in notifiers.iter().map(|name| (*name).to_owned()) {
            known.entry(name.clone()).or_insert_with(|| NotifierHealth { name, ..NotifierHealth::default() });
        }
    }

    /// This one is told nothing any more. Its series go on, so that no count is lost.
    pub fn forget_notifier(&self, notifier: &str) {
        self.notifiers.lock().unwrap_or_else(PoisonError::into_inner).remove(notifier);
    }

    /// A configuration was read at this time and is in force, or was refused.
    pub fn configured(&self, outcome: Result<SystemTime, ()>) {
        self.reload_successful.set(f64::from(u8::from(outcome.is_ok())));
        if let Ok(at) = outcome {
            self.reloaded_at.set(at.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()));
        }
    }

    fn register(&self) {
        let build_info = Gauge::with_opts(
            Opts::new(BUILD_INFO.name, BUILD_INFO.help).const_label("version", env!("CARGO_PKG_VERSION")),
        )
        .expect(VALID);
        build_info.set(1.0);
        let collectors: [Box<dyn prometheus::core::Collector>; 11] = [
            Box::new(self.polls.clone()),
            Box::new(self.poll_duration.clone()),
            Box::new(self.surveys.clone()),
            Box::new(self.survey_duration.clone()),
            Box::new(self.notifications.clone()),
            Box::new(self.heartbeats.clone()),
            Box::new(self.store_writes.clone()),
            Box::new(self.reload_successful.clone()),
            Box::new(self.reloaded_at.clone()),
            Box::new(build_info),
            Box::new(ProcessCollector::for_self()),
        ];
        for collector in collectors {
            self.registry.register(collector).expect(VALID);
        }
    }

    /// Shows what AWS was asked as well.
    #[must_use]
    pub fn with_aws(self, aws: &AwsMetrics) -> Self {
        let collectors: [Box<dyn prometheus::core::Collector>; 3] =
            [Box::new(aws.requests.clone()), Box::new(aws.metrics_requested.clone()), Box::new(aws.circuits.clone())];
        for collector in collectors {
            self.registry.register(collector).expect(VALID);
        }
        self
    }

    /// A poll of positions ended; `failure` is why it gave none.
    pub fn polled(&self, failure: Option<&PollFailure>, took: Duration) {
        count(&self.polls, failure);
        self.poll_duration.observe(took.as_secs_f64());
    }

    /// A poll of a pooler ended; `failure` is why it gave nothing.
    pub fn pooled(&self, failure: Option<&PollFailure>) {
        count(&self.polls, failure);
    }

    /// A slow poll ended with what it gave, or why it gave nothing.
    pub fn surveyed(&self, outcome: Result<&SurveyFacts, &PollFailure>, took: Duration) {
        match outcome {
            Ok(facts) if !facts.failures.is_empty() => self.surveys.with_label_values(&[PARTIAL]).inc(),
            outcome => count(&self.surveys, outcome.err()),
        }
        self.survey_duration.observe(took.as_secs_f64());
    }

    /// An attempt to tell a notifier ended; `failure` is why it was not taken.
    pub fn delivered(&self, notifier: &str, failure: Option<&SendFailure>) {
        let outcome = failure.map_or("ok", SendFailure::kind);
        self.notifications.with_label_values(&[notifier, outcome]).inc();
        let mut notifiers = self.notifiers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(health) = notifiers.get_mut(notifier) {
            health.last = Some(outcome);
            *(if failure.is_none() { &mut health.told } else { &mut health.failed }) += 1;
        }
    }

    /// How each notifier has fared.
    pub fn notifiers(&self) -> Vec<NotifierHealth> {
        self.notifiers.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// A beat of the dead man's switch ended.
    pub fn beaten(&self, outcome: Heartbeat) {
        self.heartbeats.with_label_values(&[outcome.as_str()]).inc();
        *self.last_beat.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }

    /// What came of the last beat, and of all: `12 ok, 1 failed, 0 withheld`. `None`: there was none yet.
    pub fn heartbeat(&self) -> Option<(Heartbeat, String)> {
        let last = (*self.last_beat.lock().unwrap_or_else(PoisonError::into_inner))?;
        let count = |outcome: Heartbeat| {
            let word = outcome.as_str();
            format!("{} {word}", self.heartbeats.with_label_values(&[word]).get())
        };
        Some((last, Heartbeat::ALL.map(count).join(", ")))
    }

    /// What must outlive a restart was written, or was not and why.
    pub fn stored(&self, outcome: &Result<(), String>) {
        let was_failing = self.is_store_failing.swap(outcome.is_err(), Ordering::Relaxed);
        self.store_writes.with_label_values(&[STORE_OUTCOMES[usize::from(outcome.is_err())]]).inc();
        match outcome {
            Err(error) if !was_failing => {
                tracing::error!(%error, "the store cannot be written: alerts are told, but a restart would forget what was told");
            }
            Ok(()) if was_failing => tracing::info!("the store is written again"),
            _ => {}
        }
    }

    /// Whether what must outlive a restart could not be written the last time.
    pub fn is_store_failing(&self) -> bool {
        self.is_store_failing.load(Ordering::Relaxed)
    }

    /// Appends these families to a text exposition.
    pub fn render(&self, out: &mut String) {
        let before = out.len();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), out) {
            // Half a family would make the whole page unreadable.
            out.truncate(before);
            tracing::warn!(%error, "cannot render the daemon's own metrics");
        }
    }
}

/// What AWS was asked. Copies share their counts.
#[derive(Clone, Debug)]
pub struct AwsMetrics {
    requests: IntCounterVec,
    metrics_requested: IntCounter,
    circuits: IntGaugeVec,
}

impl Default for AwsMetrics {
    fn default() -> Self {
        let circuits = Opts::new(AWS_CIRCUIT_OPEN.name, AWS_CIRCUIT_OPEN.help);
        let circuits = IntGaugeVec::new(circuits, AWS_CIRCUIT_OPEN.labels).expect(VALID);
        let metrics_requested = IntCounter::new(AWS_METRICS_REQUESTED.name, AWS_METRICS_REQUESTED.help).expect(VALID);
        Self { requests: counters(AWS_REQUESTS), metrics_requested, circuits }
    }
}

impl AwsMetrics {
    /// A request ended.
    pub fn asked(&self, api: &str, outcome: &str) {
        self.requests.with_label_values(&[api, outcome]).inc();
    }

    /// CloudWatch has answered for so many metrics.
    pub fn metrics_requested(&self, count: usize) {
        self.metrics_requested.inc_by(count as u64);
    }

    /// A service is left alone, or is not.
    pub fn circuit(&self, service: &str, region: &str, account: &str, is_open: bool) {
        self.circuits.with_label_values(&[service, region, account]).set(i64::from(is_open));
    }

    /// How many requests ended so.
    pub fn requests(&self, api: &str, outcome: &str) -> u64 {
        self.requests.with_label_values(&[api, outcome]).get()
    }
}

/// The outcome of a survey that tells some of what was asked.
const PARTIAL: &str = "partial";

const VALID: &str = "names, labels and buckets are constants, valid and different";

fn counters(family: Family) -> IntCounterVec {
    IntCounterVec::new(Opts::new(family.name, family.help), family.labels).expect(VALID)
}

fn gauge(family: Family) -> Gauge {
    Gauge::new(family.name, family.help).expect(VALID)
}

fn histogram(family: Family) -> Histogram {
    Histogram::with_opts(HistogramOpts::new(family.name, family.help).buckets(POLL_BUCKETS.to_vec())).expect(VALID)
}

fn count(counters: &IntCounterVec, failure: Option<&PollFailure>) {
    counters.with_label_values(&[failure.map_or("ok", PollFailure::kind)]).inc();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(metrics: &SelfMetrics) -> String {
        let mut out = String::new();
        metrics.render(&mut out);
        out
    }

    #[test]
    fn every_series_that_can_be_foreseen_stands_at_zero_from_the_start() {
        let text = rendered(&SelfMetrics::new(&["pager"]));
        for outcome in POLL_OUTCOMES {
            assert!(text.contains(&format!("pgvigil_polls_total{{outcome=\"{outcome}\"}} 0\n")), "{text}");
            assert!(text.contains(&format!("pgvigil_surveys_total{{outcome=\"{outcome}\"}} 0\n")), "{text}");
        }
        for outcome in DELIVERY_OUTCOMES {
            let series = format!("pgvigil_notifications_total{{notifier=\"pager\",outcome=\"{outcome}\"}} 0\n");
            assert!(text.contains(&series), "{text}");
        }
        let told: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE process_"))
            .filter_map(|line| line.split(' ').next())
            .collect();
        let mut known: Vec<&str> = PROCESS.iter().filter_map(|(name, ..)| name.strip_prefix("process_")).collect();
        known.sort_unstable();
        assert_eq!(told, known);
    }

    #[test]
    fn each_doing_moves_its_own_counter() {
        let metrics = SelfMetrics::new(&["pager"]);
        metrics.polled(None, Duration::from_millis(2));
        metrics.pooled(None);
        metrics.polled(Some(&PollFailure::Refused), Duration::from_millis(2));
        metrics.surveyed(Err(&PollFailure::Lost { reason: "reset".to_owned() }), Duration::from_secs(9));
        metrics.delivered("pager", None);
        metrics.delivered("pager", Some(&SendFailure::Transient("busy".to_owned())));
        metrics.delivered("pager", Some(&SendFailure::Permanent("gone".to_owned())));
        let text = rendered(&metrics);
        for line in [
            "pgvigil_polls_total{outcome=\"ok\"} 2",
            "pgvigil_polls_total{outcome=\"refused\"} 1",
            "pgvigil_poll_duration_seconds_bucket{le=\"0.001\"} 0",
            "pgvigil_poll_duration_seconds_bucket{le=\"0.0025\"} 2",
            "pgvigil_surveys_total{outcome=\"lost\"} 1",
            "pgvigil_survey_duration_seconds_sum 9",
            "pgvigil_notifications_total{notifier=\"pager\",outcome=\"ok\"} 1",
            "pgvigil_notifications_total{notifier=\"pager\",outcome=\"transient\"} 1",
            "pgvigil_notifications_total{notifier=\"pager\",outcome=\"permanent\"} 1",
            concat!("pgvigil_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nin\n{text}");
        }
    }

    #[test]
    fn the_table_names_the_families_that_are_rendered() {
        let aws = AwsMetrics::default();
        aws.asked("sns:Publish", "ok");
        aws.circuit("sns", "eu-west-1", "", false);
        let text = rendered(&SelfMetrics::new(&["pager"]).with_aws(&aws));
        let mut found: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE pgvigil_")).collect();
        found.sort_unstable();
        let mut listed: Vec<String> =
            FAMILIES.iter().map(|f| format!("{} {}", f.name.trim_start_matches("pgvigil_"), f.kind)).collect();
        listed.sort_unstable();
        assert_eq!(found, listed);
    }
}
