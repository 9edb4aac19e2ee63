//! The verdict over everything watched: `/healthz`, `/healthz/{cluster}`, and the daemon's own `/livez` and `/readyz`.
//!
//! | status | answer | when |
//! | --- | --- | --- |
//! | `ok` | 200 | nothing below |
//! | `degraded` | 200 | an alert of severity `warning` fires; a target or a pooler does not answer; no primary is known; AWS does not say what there is; the store cannot be written |
//! | `critical` | 503 | an alert of severity `critical` fires; the primary, or every target, has not answered for longer than `poll.stale_after`; two primaries |
//! | `stale` | 503 | the engine has not published for 15 s, nothing was polled yet, or nothing is watched: there is no verdict |
//!
//! A single failed poll degrades; it takes `poll.stale_after` of silence to be critical. The worst cluster decides for all.

use std::collections::BTreeSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::core::alert::{AlertView, Phase, Severity};
use crate::core::explain;
use crate::core::snapshot::{ClusterView, Failing, PoolerView, Snapshot, TargetView};
use crate::core::time::MonoTime;
use crate::core::topology::Role;

/// The engine publishes at least once a second. Silent for this long, it is stuck and not merely busy.
const ENGINE_SILENT: Duration = Duration::from_secs(15);

/// As many names as a person reads.
const NAMES_SHOWN: usize = 10;

/// From best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overall {
    Ok,
    Degraded,
    Critical,
    Stale,
}

impl Overall {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Critical => "critical",
            Self::Stale => "stale",
        }
    }

    /// 200 rather than 503.
    pub const fn passes(self) -> bool {
        matches!(self, Self::Ok | Self::Degraded)
    }
}

/// A verdict and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "OverallVerdict")]
pub struct Verdict {
    pub status: Overall,
    pub reasons: Vec<String>,
}

impl Verdict {
    const OK: Self = Self { status: Overall::Ok, reasons: Vec::new() };

    pub(super) fn add(&mut self, status: Overall, reason: String) {
        self.status = self.status.max(status);
        self.reasons.push(reason);
    }

    /// One line for people and scripts.
    pub fn line(&self) -> String {
        if self.reasons.is_empty() {
            format!("{}\n", self.status.as_str())
        } else {
            format!("{}: {}\n", self.status.as_str(), self.reasons.join("; "))
        }
    }
}

/// Judges every cluster; the worst decides.
pub fn of_all(snapshot: &Snapshot, now: MonoTime) -> Verdict {
    let mut all = Verdict::OK;
    if let Some(reason) = engine_stuck(snapshot, now) {
        all.add(Overall::Stale, reason);
    }
    if snapshot.clusters.is_empty() {
        all.add(Overall::Stale, "nothing is watched".to_owned());
    }
    for discovery in snapshot.discoveries.iter() {
        if let Some((_, fault)) = &discovery.failing {
            all.add(Overall::Degraded, format!("{}: {fault}", discovery.name));
        }
    }
    for cluster in &snapshot.clusters {
        let verdict = of_views(cluster, now, &WHOLE);
        all.status = all.status.max(verdict.status);
        all.reasons.extend(verdict.reasons.into_iter().map(|reason| format!("{}: {reason}", cluster.name)));
    }
    all
}

/// Judges one cluster.
pub fn of_cluster(snapshot: &Snapshot, cluster: &ClusterView, now: MonoTime) -> Verdict {
    told(snapshot, cluster, now, &WHOLE)
}

/// The same in these words.
pub(super) fn told(snapshot: &Snapshot, cluster: &ClusterView, now: MonoTime, words: &Words) -> Verdict {
    let mut verdict = of_views(cluster, now, words);
    if let Some(reason) = engine_stuck(snapshot, now) {
        verdict.add(Overall::Stale, reason);
    }
    verdict
}

/// How reasons are put.
pub(super) struct Words {
    pub(super) failing: fn(&Failing) -> String,
    /// That an alert fires.
    pub(super) fires: fn(&AlertView, &ClusterView, MonoTime) -> String,
}

const WHOLE: Words = Words {
    failing: |failing| format!("{}, {} in a row", failing.failure, failing.count),
    fires: |alert, cluster, now| format!("{} fires: {}", alert.id.rule, explain::state_of(alert, cluster, now)),
};

fn of_views(cluster: &ClusterView, now: MonoTime, words: &Words) -> Verdict {
    let mut verdict = Verdict::OK;
    if !cluster.targets.iter().any(|target| target.tried()) {
        verdict.add(Overall::Stale, "not polled yet".to_owned());
        return verdict;
    }
    if cluster.targets.iter().any(|target| target.fresh(now).is_some()) {
        judge_primary(cluster, now, &mut verdict);
    } else {
        verdict.add(Overall::Critical, "no target answers".to_owned());
    }
    for target in &cluster.targets {
        if let Some(reason) = trouble(target, now, words) {
            verdict.add(Overall::Degraded, format!("{}: {reason}", target.id.target));
        }
        if let Some(drained) = target.drained(now) {
            verdict.add(Overall::Degraded, format!("{}: {drained}", target.id.target));
        }
    }
    for pooler in &cluster.poolers {
        if let Some(reason) = pooler_trouble(pooler, now, words) {
            verdict.add(Overall::Degraded, format!("pooler {}: {reason}", pooler.id.target));
        }
    }
    for alert in cluster.alerts.iter().filter(|alert| alert.phase == Phase::Firing) {
        match alert.severity {
            Severity::Info => {}
            Severity::Warning => verdict.add(Overall::Degraded, fires(alert, cluster, now, words)),
            Severity::Critical => verdict.add(Overall::Critical, fires(alert, cluster, now, words)),
        }
    }
    verdict
}

/// That nobody is told of it changes nothing about it: it is said beside.
fn fires(alert: &AlertView, cluster: &ClusterView, now: MonoTime, words: &Words) -> String {
    let muted = alert.muted.iter().map(|mute| format!(", {mute}"));
    std::iter::once((words.fires)(alert, cluster, now)).chain(muted).collect()
}

fn judge_primary(cluster: &ClusterView, now: MonoTime, verdict: &mut Verdict) {
    let answering: BTreeSet<&str> = cluster
        .targets
        .iter()
        .filter(|target| target.fresh(now).is_some() && target.last_role() == Some(Role::Primary))
        .map(|target| target.server().as_str())
        .collect();
    match (answering.len(), &cluster.primary) {
        (0, Some(primary)) => verdict.add(Overall::Critical, format!("the primary {primary} does not answer")),
        (0, None) => verdict.add(Overall::Degraded, "no primary is known".to_owned()),
        (1, _) => {}
        _ => verdict.add(
            Overall::Critical,
            format!("more than one primary: {}", answering.into_iter().collect::<Vec<_>>().join(", ")),
        ),
    }
}

fn trouble(target: &TargetView, now: MonoTime, words: &Words) -> Option<String> {
    if let Some(failing) = &target.failing {
        return Some((words.failing)(failing));
    }
    if target.answer.is_none() {
        return Some("not polled yet".to_owned());
    }
    target.fresh(now).is_none().then(|| "its sample is stale".to_owned())
}

fn pooler_trouble(pooler: &PoolerView, now: MonoTime, words: &Words) -> Option<String> {
    match (&pooler.failing, &pooler.answer) {
        (Some(failing), _) => Some((words.failing)(failing)),
        (None, None) => Some("not polled yet".to_owned()),
        (None, Some(_)) => pooler.fresh(now).is_none().then(|| "its sample is stale".to_owned()),
    }
}

fn engine_stuck(snapshot: &Snapshot, now: MonoTime) -> Option<String> {
    let silent = now.duration_since(snapshot.published_at);
    (silent > ENGINE_SILENT).then(|| format!("the engine has not published for {:.1} s", silent.as_secs_f64()))
}

/// `/livez`: why the daemon should be restarted. `None` while its own loops make progress, whatever the databases do.
pub fn stuck(snapshot: &Snapshot, now: MonoTime) -> Option<String> {
    engine_stuck(snapshot, now)
}

/// `/readyz`: why it is too early to rely on the daemon. `None` once every target has been tried once, and AWS has been
/// asked for those that it is to name.
pub fn starting(snapshot: &Snapshot) -> Option<String> {
    let unasked = snapshot.discoveries.iter().filter(|discovery| discovery.tried_at.is_none());
    let unasked = unasked.map(|discovery| format!("{} ({})", discovery.name, discovery.looks_for));
    let untried: Vec<String> = snapshot
        .clusters
        .iter()
        .flat_map(|cluster| {
            let targets = cluster.targets.iter().filter(|target| !target.tried()).map(|target| &target.id);
            targets.chain(cluster.poolers.iter().filter(|pooler| !pooler.tried()).map(|pooler| &pooler.id))
        })
        .map(ToString::to_string)
        .chain(unasked)
        .collect();
    match untried.len() {
        0 => None,
        n if n > NAMES_SHOWN => {
            Some(format!("not tried yet: {} and {} more", untried[..NAMES_SHOWN].join(", "), n - NAMES_SHOWN))
        }
        _ => Some(format!("not tried yet: {}", untried.join(", "))),
    }
}
