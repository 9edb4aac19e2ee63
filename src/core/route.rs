//! Which server should this be read from? The decision behind `/api/v1/clusters/{cluster}/route`, from one snapshot.
//!
//! A server is in when [`health`] lets reads go there within the limits, and, where a write is named, when the server is
//! proven to have it. Two witnesses can prove that: the server's own last sample, and the row that its upstream keeps of
//! what it has replayed. What was proven stays true, for replay does not go back. It does in two cases: a standby that
//! crashed serves, for a moment after its start, what it had at its last restartpoint; and after a failover positions of
//! the old timeline mean nothing on the new one, which is why a write may be named with its timeline.
//!
//! Of those that are in, one is picked by chance, each with its weight: the less it lags, the more often. Who asks for the
//! best gets the one that lags least, and of several the one that is listed first.

use super::health::{self, HealthConfig, Limits, Status, Verdict};
use super::lag::Certainty;
use super::snapshot::{ClusterView, TargetView};
use super::time::MonoTime;
use super::topology::{Name, Role};
use super::wal::{Lsn, Timeline};

/// What somebody wants to read from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wish {
    pub limits: Limits,
    /// A write that the server must have.
    pub lsn: Option<Lsn>,
    /// The timeline on which that was written; the server must be on it.
    pub timeline: Option<Timeline>,
    pub fallback: Fallback,
    pub pick: Pick,
}

/// What is answered when no server will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    #[default]
    None,
    /// The primary, if reads may be sent there at all: of the limits none is held against it.
    Primary,
}

/// Which of several is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pick {
    /// By chance, each with its weight.
    #[default]
    Weighted,
    /// The one that lags least.
    Best,
}

/// One server that could have been the answer.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    pub target: &'a TargetView,
    pub verdict: Verdict,
    pub is_in: bool,
    /// 1 to 100 when it is in, else 0.
    pub weight: u32,
    /// How far it is proven to have replayed, or on a primary to have flushed.
    pub lsn: Option<Lsn>,
    pub timeline: Option<Timeline>,
}

/// The answer, and all that it was chosen from.
#[derive(Clone, Debug)]
pub struct Route<'a> {
    /// Its place among the candidates.
    pub chosen: Option<usize>,
    /// None of those that were asked for would do.
    pub is_fallback: bool,
    pub candidates: Vec<Candidate<'a>>,
}

impl<'a> Route<'a> {
    pub fn answer(&self) -> Option<&Candidate<'a>> {
        self.candidates.get(self.chosen?)
    }
}

/// Decides. `chance` is any number: the same one picks the same server.
pub fn route<'a>(cluster: &'a ClusterView, now: MonoTime, wish: &Wish, config: HealthConfig, chance: u64) -> Route<'a> {
    let candidates: Vec<Candidate<'a>> =
        cluster.targets.iter().map(|target| judge(cluster, target, now, wish, config)).collect();
    let picked = match wish.pick {
        Pick::Weighted => by_weight(&candidates, chance),
        Pick::Best => best(&candidates),
    };
    let fallback = || match wish.fallback {
        Fallback::None => None,
        Fallback::Primary => candidates.iter().position(|candidate| serves_as_primary(cluster, candidate, now, config)),
    };
    let chosen = picked.or_else(fallback);
    Route { chosen, is_fallback: picked.is_none() && chosen.is_some(), candidates }
}

fn serves_as_primary(cluster: &ClusterView, candidate: &Candidate<'_>, now: MonoTime, config: HealthConfig) -> bool {
    let limits = Limits { role: Some(Role::Primary), ..Limits::default() };
    health::verdict(cluster, candidate.target, now, &limits, config).status == Status::Ok
}

fn judge<'a>(
    cluster: &ClusterView,
    target: &'a TargetView,
    now: MonoTime,
    wish: &Wish,
    config: HealthConfig,
) -> Candidate<'a> {
    let mut verdict = health::verdict(cluster, target, now, &wish.limits, config);
    let (lsn, timeline) = (proven(cluster, target, now), target.timeline());
    let mut is_in = verdict.status == Status::Ok;
    let mut out = |reason: String| {
        is_in = false;
        verdict.status = Status::Unfit;
        verdict.reasons.insert(0, reason);
    };
    if let Some(other) = &target.links.same_as {
        out(format!("it is the same server as {other}"));
    }
    if let Some(reason) = wish.lsn.and_then(|written| lacks(target, written, lsn)) {
        out(reason);
    }
    if let Some(reason) = wish.timeline.and_then(|written| is_elsewhere(written, timeline)) {
        out(reason);
    }
    let weight = if is_in { weight(&verdict, wish.limits.max_lag_seconds) } else { 0 };
    Candidate { target, verdict, is_in, weight, lsn, timeline }
}

/// How far a server is proven to be, by its own word or its upstream's. `None` when neither is young enough to be told.
fn proven(cluster: &ClusterView, target: &TargetView, now: MonoTime) -> Option<Lsn> {
    let positions = &target.fresh(now)?.positions;
    if let Some(primary) = positions.primary() {
        return Some(primary.flush_lsn);
    }
    let own = positions.standby()?.replay_lsn;
    let told = target.links.sender.as_ref().and_then(|sender| {
        let upstream = cluster.target(sender.upstream.as_str()).filter(|upstream| upstream.is_up())?;
        let rows = &upstream.fresh(now)?.positions.senders;
        rows.iter().find(|row| row.pid == sender.pid)?.replay_lsn
    });
    own.max(told)
}

/// Why a server is not known to have a write.
fn lacks(target: &TargetView, written: Lsn, proven: Option<Lsn>) -> Option<String> {
    if target.lag.is_some_and(|lag| lag.method.old_timeline) {
        return Some("it has not followed the primary to its new timeline".to_owned());
    }
    match proven {
        None => Some("how far it has replayed is not known".to_owned()),
        Some(proven) if proven >= written.end_of_record() => None,
        Some(proven) if target.last_role() == Some(Role::Primary) => {
            Some(format!("its last sample, of {proven}, is older than {written}"))
        }
        Some(proven) => Some(format!("it has replayed up to {proven}, not yet {written}")),
    }
}

fn is_elsewhere(written: Timeline, timeline: Option<Timeline>) -> Option<String> {
    match timeline {
        Some(timeline) if timeline == written => None,
        Some(timeline) => Some(format!(
            "it is on timeline {}: nothing is known of what was written on timeline {}",
            timeline.0, written.0
        )),
        None => Some("its timeline is not known".to_owned()),
    }
}

/// The less it lags, the more of the reads; with a limit, down to nearly none of them at the limit.
fn weight(verdict: &Verdict, max_lag: Option<f64>) -> u32 {
    let share = match (verdict.lag_seconds, max_lag) {
        (Some(lag), Some(limit)) if limit > 0.0 => 1.0 - lag / limit,
        (Some(lag), None) => 1.0 / (1.0 + lag),
        // No lag is allowed, so there is none.
        (Some(_), Some(_)) => 1.0,
        // It is in by policy alone.
        (None, _) => 0.0,
    };
    let is_sure = verdict.lag_certainty != Certainty::AtLeast;
    if is_sure { (share * 100.0).round().clamp(1.0, 100.0) as u32 } else { 1 }
}

fn by_weight(candidates: &[Candidate<'_>], chance: u64) -> Option<usize> {
    let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
    let mut left = chance.checked_rem(total)?;
    candidates.iter().position(|candidate| {
        let weight = u64::from(candidate.weight);
        let is_it = left < weight;
        left = left.saturating_sub(weight);
        is_it
    })
}

fn best(candidates: &[Candidate<'_>]) -> Option<usize> {
    let lag = |candidate: &Candidate<'_>| candidate.verdict.lag_seconds.unwrap_or(f64::INFINITY);
    let fit = candidates.iter().enumerate().filter(|(_, candidate)| candidate.is_in);
    fit.min_by(|(_, a), (_, b)| lag(a).total_cmp(&lag(b))).map(|(place, _)| place)
}

impl<'a> Candidate<'a> {
    pub fn name(&self) -> &'a Name {
        &self.target.id.target
    }

    /// Host and port, where the configuration names one.
    pub fn address(&self) -> Option<(&'a str, u16)> {
        let (host, port) = self.target.answer.as_ref()?.positions.identity.address.configured.as_ref()?;
        Some((host, *port))
    }
}

#[cfg(test)]
mod tests;
