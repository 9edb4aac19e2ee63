//! May reads be sent there? The answer of `/healthz/{cluster}/{target}`, from one snapshot and one query.
//!
//! The policy, in the order in which it is decided:
//!
//! 1. A target whose own last poll failed, whose sample is stale, or that was not polled yet gets no reads; nor does one that
//!    somebody has drained.
//! 2. Neither does a server of the wrong role, of another cluster (system identifier), or a second primary beside the one
//!    that the cluster is measured against.
//! 3. Without a limit any lag will do, as long as it is not case 4. With `max_lag` a replica is out when its lag is proven or told to be above it.
//! 4. When the lag cannot be told to be below the limit **only because the primary is not heard**, the replica stays: an
//!    outage of the primary must not become an outage of reads. `health.on_unknown = "fail"` turns that around. When the
//!    primary is heard and the lag is unknown all the same, the replica is out.
//! 5. `health.panic_threshold`: when fewer than that share of the cluster's replicas would stay in, the limits have
//!    become the outage, and all replicas that can be reached stay in.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::cause::Cause;
use super::lag::{Certainty, Evidence, LagEstimate, Method};
use super::quantity::duration;
use super::snapshot::{ClusterView, Snapshot, TargetView};
use super::time::MonoTime;
use super::topology::Role;

/// What reads must be able to rely on. `None` means that nothing is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// `max_lag`, in seconds.
    pub max_lag_seconds: Option<f64>,
    /// `max_lag_bytes`.
    pub max_lag_bytes: Option<u64>,
    /// `role`; `None` when any will do, which is the default.
    pub role: Option<Role>,
    /// `max_age`: how old the sample may be. Can only be stricter than `poll.stale_after`.
    pub max_age: Option<Duration>,
}

/// `[health]`: what `/healthz/{cluster}/{target}` does when in doubt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthConfig {
    /// What becomes of a replica whose lag is not known only because the primary is not heard.
    pub on_unknown: OnUnknown,
    /// Keeps all reachable replicas in when fewer than this share of them would remain. 0 turns it off.
    pub panic_threshold: Share,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnknown {
    /// It stays in.
    #[default]
    Pass,
    /// It is taken out.
    Fail,
}

/// A share between 0 and 1, written `"50%"` or `0.5`.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Share(f64);

impl Share {
    /// `None` unless between 0 and 1.
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self(share))
    }

    pub fn is_set(self) -> bool {
        self.0 > 0.0
    }

    /// Whether it is more than `some` of `all`.
    pub fn is_above(self, some: u32, all: u32) -> bool {
        f64::from(some) < self.0 * f64::from(all)
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Clone, Copy)]
        struct Shares;
        impl Visitor<'_> for Shares {
            type Value = Share;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a share between 0 and 1, for example \"50%\" or 0.5")
            }
            fn visit_f64<E: Error>(self, share: f64) -> Result<Share, E> {
                Share::new(share).ok_or_else(|| E::custom(format_args!("{share} is not between 0 and 1")))
            }
            fn visit_i64<E: Error>(self, share: i64) -> Result<Share, E> {
                self.visit_f64(share as f64)
            }
            fn visit_u64<E: Error>(self, share: u64) -> Result<Share, E> {
                self.visit_f64(share as f64)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Share, E> {
                let share = match text.strip_suffix('%') {
                    Some(percent) => percent.trim().parse().map(|percent: f64| percent / 100.0),
                    None => text.trim().parse(),
                };
                self.visit_f64(share.map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))?)
            }
        }
        deserializer.deserialize_any(Shares)
    }
}

/// Whether reads may be sent to a target, and why not. The body of the answer, field by field.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "TargetVerdict")]
pub struct Verdict {
    pub status: Status,
    /// Why it is unfit; why it is fit all the same, when it is so by policy; why it lags. Empty when there is nothing to say.
    pub reasons: Vec<String>,
    /// By its own last word. `None` when it never answered.
    pub role: Option<Role>,
    /// 0 on the primary. `None` when not known.
    pub lag_seconds: Option<f64>,
    /// WAL not yet replayed; 0 on the primary. `None` when not known.
    pub lag_bytes: Option<u64>,
    #[serde(serialize_with = "certainty_word")]
    pub lag_certainty: Certainty,
    /// How the lag was found. `None` on the primary and before anything can be said.
    #[serde(serialize_with = "method_words")]
    #[schemars(with = "Option<String>")]
    pub lag_method: Option<Method>,
    /// Why it lags. `None` when it does not.
    pub cause: Option<Cause>,
    pub other_causes: Vec<Cause>,
    /// Age of the last answer. `None` when it never answered.
    pub sample_age_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Fitness")]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// 200: reads may be sent there.
    Ok,
    /// 503: they may not.
    Unfit,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
pub(crate) fn certainty_word<S: Serializer>(certainty: &Certainty, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(certainty.as_str())
}

#[expect(clippy::ref_option, reason = "serde passes fields by reference")]
pub(crate) fn method_words<S: Serializer>(method: &Option<Method>, serializer: S) -> Result<S::Ok, S::Error> {
    match method {
        Some(method) => serializer.collect_str(method),
        None => serializer.serialize_none(),
    }
}

/// Judges one target. `None` when no such cluster or target is configured.
pub fn fitness(
    snapshot: &Snapshot,
    now: MonoTime,
    cluster: &str,
    target: &str,
    limits: &Limits,
    config: HealthConfig,
) -> Option<Verdict> {
    let cluster = snapshot.cluster(cluster)?;
    Some(verdict(cluster, cluster.target(target)?, now, limits, config))
}

/// The same of a target that is at hand.
pub fn verdict(
    cluster: &ClusterView,
    target: &TargetView,
    now: MonoTime,
    limits: &Limits,
    config: HealthConfig,
) -> Verdict {
    let mut judgement = Judgement::of(cluster, target, now, limits, config);
    let mut fit = judgement.barred.is_none() && judgement.lagging.is_none();
    if judgement.barred.is_none() && judgement.lagging.is_some() && panics(cluster, target, now, limits, config) {
        fit = true;
        judgement.notes.push(format!(
            "kept in: with these limits fewer than {} % of the cluster's replicas would remain",
            config.panic_threshold.0 * 100.0
        ));
    }
    let causes = causes(target, now);
    if !causes.is_empty() {
        judgement.notes.extend(target.diagnosis_sentence());
    }
    let is_primary = judgement.barred.is_none() && target.last_role() == Some(Role::Primary);
    let lag = target.lag.as_ref();
    Verdict {
        status: if fit { Status::Ok } else { Status::Unfit },
        reasons: judgement.barred.into_iter().chain(judgement.lagging).chain(judgement.notes).collect(),
        role: target.last_role(),
        lag_seconds: if is_primary { Some(0.0) } else { lag.and_then(|lag| lag.value) },
        lag_bytes: if is_primary { Some(0) } else { unreplayed(target) },
        lag_certainty: match lag {
            _ if is_primary => Certainty::Exact,
            Some(lag) if lag.value.is_some() => lag.certainty,
            _ => Certainty::Unknown,
        },
        lag_method: lag.filter(|_| !is_primary).map(|lag| lag.method),
        cause: causes.first().copied(),
        other_causes: causes.into_iter().skip(1).collect(),
        sample_age_ms: target.answer.as_ref().map(|answer| millis(now.duration_since(answer.answered_at))),
    }
}

/// Why it lags, while someone keeps that up to date.
fn causes(target: &TargetView, now: MonoTime) -> Vec<Cause> {
    let is_attended = target.is_attended(now);
    let diagnosis = target.diagnosis.as_ref().filter(|diagnosis| is_attended && diagnosis.lags);
    diagnosis.map_or_else(Vec::new, |diagnosis| diagnosis.causes.iter().map(|told| told.cause).collect())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unreplayed(target: &TargetView) -> Option<u64> {
    Some(target.stages?.unreplayed?.0)
}

/// What speaks against a target.
#[derive(Debug, Default)]
struct Judgement {
    /// It cannot serve, whatever is asked of it.
    barred: Option<String>,
    /// It does not meet the limits.
    lagging: Option<String>,
    /// What was decided by policy.
    notes: Vec<String>,
}

impl Judgement {
    fn of(cluster: &ClusterView, target: &TargetView, now: MonoTime, limits: &Limits, config: HealthConfig) -> Self {
        let mut judgement = Self { barred: bar(cluster, target, now, limits), ..Self::default() };
        if judgement.barred.is_none() && target.last_role() == Some(Role::Replica) {
            let hears_primary = cluster.hears_primary(now);
            // Its answer may be overdue before a poll of it has failed. A replica that follows another primary has no
            // upper bound for that, whether or not this one answers.
            let lacks_primary = target.lag.is_some_and(|lag| lag.method.is_without_primary() && lag.upper.is_finite());
            let hears_primary = hears_primary && !lacks_primary;
            let time = limits.max_lag_seconds.map(|limit| judge_time(target.lag.as_ref(), hears_primary, limit));
            let bytes = limits.max_lag_bytes.map(|limit| judge_bytes(unreplayed(target), hears_primary, limit));
            for outcome in [time, bytes].into_iter().flatten() {
                judgement.take(outcome, config.on_unknown);
            }
            let asks_nothing = limits.max_lag_seconds.is_none() && limits.max_lag_bytes.is_none();
            let is_told = target.lag.is_some_and(|lag| {
                lag.value.is_some() && matches!(lag.certainty, Certainty::Exact | Certainty::AtMost)
            });
            if asks_nothing && config.on_unknown == OnUnknown::Fail && !hears_primary && !is_told {
                judgement.lag_reason("how far it lags is not known: the primary is not heard");
            }
        }
        judgement
    }

    fn take(&mut self, outcome: LagOutcome, on_unknown: OnUnknown) {
        match outcome {
            LagOutcome::Within => {}
            LagOutcome::Above(reason) => self.lag_reason(&reason),
            LagOutcome::Unheard(reason) if on_unknown == OnUnknown::Fail => self.lag_reason(&reason),
            LagOutcome::Unheard(reason) => self.notes.push(reason),
        }
    }

    fn lag_reason(&mut self, reason: &str) {
        match &mut self.lagging {
            Some(reasons) => {
                reasons.push_str("; ");
                reasons.push_str(reason);
            }
            None => self.lagging = Some(reason.to_owned()),
        }
    }
}

/// Why the target cannot serve reads at all.
fn bar(cluster: &ClusterView, target: &TargetView, now: MonoTime, limits: &Limits) -> Option<String> {
    if let Some(failing) = &target.failing {
        return Some(format!("the last poll failed: {}", failing.failure));
    }
    let Some(answer) = &target.answer else { return Some("not polled yet".to_owned()) };
    if let Some(drained) = target.drained(now) {
        return Some(drained);
    }
    let age = now.duration_since(answer.answered_at);
    let max_age = limits.max_age.unwrap_or(target.stale_after).min(target.stale_after);
    if age > max_age {
        return Some(format!(
            "the sample is {} old; the limit is {}",
            apart(age.as_secs_f64(), max_age.as_secs_f64()),
            duration(max_age.as_secs_f64())
        ));
    }
    let role = answer.positions.role();
    if let Some(wanted) = limits.role.filter(|wanted| *wanted != role) {
        return Some(format!("it is a {role}, not a {wanted}"));
    }
    let evidence = target.lag.as_ref().map(|lag| lag.method.evidence);
    if evidence == Some(Evidence::ForeignCluster) {
        return Some("its system identifier is another cluster's".to_owned());
    }
    match &cluster.primary {
        Some(primary) if role == Role::Primary && *primary != target.id.target => {
            Some(format!("it is a second primary; the cluster's is {primary}"))
        }
        _ => None,
    }
}

/// A time, told so that it is seen to be another one than the limit.
fn apart(seconds: f64, limit: f64) -> String {
    let told = duration(seconds);
    if told == duration(limit) { format!("{seconds:.3}s") } else { told }
}

/// How a lag compares to a limit.
enum LagOutcome {
    Within,
    Above(String),
    /// Not known to be within, and that only because the primary is not heard.
    Unheard(String),
}

fn judge_time(lag: Option<&LagEstimate>, hears_primary: bool, limit: f64) -> LagOutcome {
    let unknown = |what: &str| {
        if hears_primary {
            LagOutcome::Above(what.to_owned())
        } else {
            LagOutcome::Unheard(format!("{what}: the primary is not heard"))
        }
    };
    let Some((lag, value)) = lag.and_then(|lag| Some((lag, lag.value?))) else {
        let needs_no_primary = lag.is_some_and(|lag| lag.method.evidence == Evidence::NoPosition);
        return if needs_no_primary {
            LagOutcome::Above("the replica has not said how far it has replayed".to_owned())
        } else {
            unknown("the replay lag is not known")
        };
    };
    if lag.lower > limit {
        return LagOutcome::Above(format!(
            "replay lag is {} (proven: {}); the limit is {}",
            apart(value, limit),
            apart(lag.lower, limit),
            duration(limit)
        ));
    }
    if lag.upper <= limit {
        return LagOutcome::Within;
    }
    match lag.certainty {
        Certainty::Exact if value <= limit => LagOutcome::Within,
        // An upper bound above the limit proves nothing, and the primary that could tell more is silent.
        Certainty::AtMost if value > limit && !hears_primary => {
            LagOutcome::Unheard(format!("replay lag is likely {}: the primary is not heard", duration(value)))
        }
        _ if value > limit => {
            LagOutcome::Above(format!("replay lag is {}; the limit is {}", apart(value, limit), duration(limit)))
        }
        Certainty::AtMost => LagOutcome::Within,
        _ => unknown(&format!("replay lag is at least {} and may be above {}", duration(value), duration(limit))),
    }
}

fn judge_bytes(unreplayed: Option<u64>, hears_primary: bool, limit: u64) -> LagOutcome {
    match unreplayed {
        Some(bytes) if bytes > limit => {
            LagOutcome::Above(format!("{bytes} bytes of WAL are not replayed; the limit is {limit}"))
        }
        Some(_) if hears_primary => LagOutcome::Within,
        Some(bytes) => {
            LagOutcome::Unheard(format!("at least {bytes} bytes of WAL are not replayed: the primary is not heard"))
        }
        None if hears_primary => LagOutcome::Above("the lag in bytes is not known".to_owned()),
        None => LagOutcome::Unheard("the lag in bytes is not known: the primary is not heard".to_owned()),
    }
}

/// Whether so few of the cluster's replicas meet the limits that all that can be reached stay in.
fn panics(cluster: &ClusterView, target: &TargetView, now: MonoTime, limits: &Limits, config: HealthConfig) -> bool {
    if !config.panic_threshold.is_set() || target.last_role() != Some(Role::Replica) {
        return false;
    }
    let (mut replicas, mut fit) = (0u32, 0u32);
    for other in cluster.targets.iter().filter(|other| other.last_role() == Some(Role::Replica)) {
        let judgement = Judgement::of(cluster, other, now, limits, config);
        replicas += 1;
        fit += u32::from(judgement.barred.is_none() && judgement.lagging.is_none());
    }
    config.panic_threshold.is_above(fit, replicas)
}

impl Verdict {
    /// One line for people and scripts.
    pub fn line(&self) -> String {
        let mut line = match self.status {
            Status::Ok => "ok".to_owned(),
            Status::Unfit => "unfit".to_owned(),
        };
        if let Some(role) = self.role {
            line.push_str(&format!(" {role}"));
        }
        if let Some(lag) = self.lag_seconds {
            line.push_str(&format!(" lag {} ({})", duration(lag), self.lag_certainty.as_str()));
        }
        if !self.reasons.is_empty() {
            line.push_str(&format!(": {}", self.reasons.join("; ")));
        }
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests;
