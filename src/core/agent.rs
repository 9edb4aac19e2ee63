//! What a load balancer is told of a target by its agent check: its share of the reads, or that it gets none.
//!
//! A target that cannot serve ([`health`] bars it) is *down*. One that is drained by hand, or lags too much, is *draining*: who
//! is connected may stay, and nobody new comes. Any other is *up*, with a share that shrinks as it lags.
//!
//! A replica that lags about as much as it may would come and go all the time. So it leaves at one lag and returns at a
//! smaller one, and between the two stays what it is, for a while at least ([`Thresholds::dwell`]).

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use super::health::{self, HealthConfig, Limits, Share, Status};
use super::snapshot::{ClusterView, TargetView};
use super::time::MonoTime;
use super::topology::{Role, TargetId};

/// When a replica comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// With more lag than this it leaves. Its share has shrunk to nearly nothing by then.
    pub leave_at: Duration,
    /// With no more lag than this it returns.
    pub return_at: Duration,
    /// It stays in, or out, for as long as this at least.
    pub dwell: Duration,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// With this share, in percent.
    Up(u32),
    Drain,
    Down(String),
}

/// As much of a reason is told.
const LONGEST_REASON: usize = 120;

impl fmt::Display for Word {
    /// As `HAProxy` reads it: one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // What was told to drain drains until it is told to be ready.
            Self::Up(share) => writeln!(f, "ready up {share}%"),
            Self::Drain => f.write_str("drain\n"),
            Self::Down(reason) => {
                let plain = |c: char| if c.is_ascii_graphic() { c } else { ' ' };
                let reason: String = reason.chars().take(LONGEST_REASON).map(plain).collect();
                writeln!(f, "down #{reason}")
            }
        }
    }
}

/// Whether a replica is in, and since when that holds.
#[derive(Clone, Copy, Debug)]
struct Gate {
    is_in: bool,
    /// `None`: it was so when it was first looked at.
    since: Option<MonoTime>,
}

/// Which replicas are in, by what they were told to be before.
#[derive(Debug, Default)]
pub struct Gates {
    gates: HashMap<TargetId, Gate>,
}

impl Gates {
    /// What is to be told of a target now.
    pub fn word(
        &mut self,
        cluster: &ClusterView,
        target: &TargetView,
        now: MonoTime,
        thresholds: Thresholds,
        config: HealthConfig,
    ) -> Word {
        if target.drained(now).is_some() {
            return Word::Drain;
        }
        if let Some(reason) = barred(cluster, target, now) {
            return Word::Down(reason);
        }
        if target.last_role() == Some(Role::Primary) {
            return Word::Up(100);
        }
        let is_in = self.step(cluster, target, now, thresholds, config);
        if !is_in && !self.panics(cluster, now, thresholds, config) {
            return Word::Drain;
        }
        // What is not known is not held against it: whether it may stay was decided above.
        let lag = target.lag.and_then(|lag| lag.value).unwrap_or(0.0);
        let share = 1.0 - lag / thresholds.leave_at.as_secs_f64();
        Word::Up((share * 100.0).round().clamp(1.0, 100.0) as u32)
    }

    /// Whether a replica that can serve is in, from now on.
    fn step(
        &mut self,
        cluster: &ClusterView,
        target: &TargetView,
        now: MonoTime,
        thresholds: Thresholds,
        config: HealthConfig,
    ) -> bool {
        let meets = |limit: Duration| {
            let limits = Limits { max_lag_seconds: Some(limit.as_secs_f64()), ..Limits::default() };
            // The share of replicas that must stay is of those that stay by this.
            let config = HealthConfig { panic_threshold: Share::default(), ..config };
            health::verdict(cluster, target, now, &limits, config).status == Status::Ok
        };
        let Some(gate) = self.gates.get_mut(&target.id) else {
            let is_in = meets(thresholds.leave_at);
            self.gates.insert(target.id.clone(), Gate { is_in, since: None });
            return is_in;
        };
        let is_in = meets(if gate.is_in { thresholds.leave_at } else { thresholds.return_at });
        let may_change = gate.since.is_none_or(|since| now.duration_since(since) >= thresholds.dwell);
        if is_in != gate.is_in && may_change {
            *gate = Gate { is_in, since: Some(now) };
        }
        gate.is_in
    }

    /// Whether so few replicas would remain that all that can serve stay in.
    fn panics(&mut self, cluster: &ClusterView, now: MonoTime, thresholds: Thresholds, config: HealthConfig) -> bool {
        if !config.panic_threshold.is_set() {
            return false;
        }
        let (mut replicas, mut fit) = (0, 0);
        for other in cluster.targets.iter().filter(|other| other.last_role() == Some(Role::Replica)) {
            replicas += 1;
            let serves = barred(cluster, other, now).is_none();
            fit += u32::from(serves && self.step(cluster, other, now, thresholds, config));
        }
        config.panic_threshold.is_above(fit, replicas)
    }
}

/// Why it cannot serve, however little it lags.
fn barred(cluster: &ClusterView, target: &TargetView, now: MonoTime) -> Option<String> {
    let verdict = health::verdict(cluster, target, now, &Limits::default(), HealthConfig::default());
    (verdict.status == Status::Unfit).then(|| verdict.reasons.into_iter().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::drain::{Change, Drains, NewDrain, Whom};
    use crate::core::fixture::{self, NOW};
    use crate::core::lag::{Certainty, Evidence};
    use crate::core::observation::PollFailure;

    const THRESHOLDS: Thresholds = Thresholds {
        leave_at: Duration::from_secs(10),
        return_at: Duration::from_secs(5),
        dwell: Duration::from_secs(30),
    };

    /// What is told of `replica-1` as its lag goes on, with the other replica in step and `config`.
    fn told(lags: &[(f64, f64)], config: HealthConfig) -> Vec<String> {
        let mut gates = Gates::default();
        let word = |&(second, seconds): &(f64, f64)| {
            let mut targets = fixture::orders();
            for replica in &mut targets[1..] {
                replica.lag = Some(fixture::lag(seconds, seconds, seconds, Certainty::Exact, Evidence::Lsn));
            }
            let now = NOW.plus_seconds(second);
            let snapshot = fixture::snapshot(vec![fixture::cluster("orders", targets, Vec::new())]);
            let snapshot = fixture::moved_to(snapshot, now);
            let cluster = &snapshot.clusters[0];
            gates.word(cluster, &cluster.targets[1], now, THRESHOLDS, config).to_string()
        };
        lags.iter().map(word).collect()
    }

    #[test]
    fn the_share_shrinks_and_a_replica_leaves_and_returns_at_different_lags() {
        let lags = [
            (0.0, 0.0),
            (1.0, 2.5),
            (2.0, 9.99),
            (3.0, 10.5),
            // Out for the dwell, then until it is below where it returns.
            (4.0, 0.0),
            (33.5, 6.0),
            (34.0, 5.0),
            // And in for the dwell.
            (35.0, 60.0),
            (64.5, 60.0),
        ];
        let expect = [
            "ready up 100%\n",
            "ready up 75%\n",
            "ready up 1%\n",
            "drain\n",
            "drain\n",
            "drain\n",
            "ready up 50%\n",
            "ready up 1%\n",
            "drain\n",
        ];
        assert_eq!(told(&lags, HealthConfig::default()), expect);
    }

    #[test]
    fn with_a_panic_threshold_the_last_ones_stay() {
        let half = HealthConfig { panic_threshold: Share::new(0.5).unwrap(), ..HealthConfig::default() };
        assert_eq!(told(&[(0.0, 60.0)], half), ["ready up 1%\n"]);
    }

    #[test]
    fn a_target_that_cannot_serve_is_down_and_one_that_is_drained_drains() {
        let word = |change: fn(&mut TargetView), place: usize| {
            let mut targets = fixture::orders();
            change(&mut targets[place]);
            let cluster = fixture::cluster("orders", targets, Vec::new());
            let target = &cluster.targets[place];
            Gates::default().word(&cluster, target, NOW, THRESHOLDS, HealthConfig::default()).to_string()
        };
        assert_eq!(word(|_| (), 0), "ready up 100%\n");
        assert_eq!(
            word(|target| fixture::fail(target, PollFailure::Refused), 1),
            "down #the last poll failed: connection refused\n"
        );
        assert_eq!(word(|target| fixture::age(target, 10.5), 1), "down #the sample is 10.5s old; the limit is 10s\n");
        let drain = |target: &mut TargetView| {
            let new = NewDrain {
                target: Whom::parse("replica-1"),
                author: "ada".to_owned(),
                reason: None,
                length: Duration::from_secs(60),
            };
            let mut drains = Drains::default();
            drains.change(Change::Add(new), [&target.id].into_iter(), NOW, fixture::wall()).unwrap();
            target.drain = drains.all().next().map(Arc::clone);
        };
        assert_eq!(word(drain, 1), "drain\n");
    }

    #[test]
    fn a_line_stays_a_line() {
        let told = Word::Down("a\nready up 100%\u{1b}é".to_owned() + &"x".repeat(1000)).to_string();
        assert!(told.starts_with("down #a ready up 100%  xxx") && told.ends_with("x\n"), "{told}");
        assert_eq!(told.len(), 6 + LONGEST_REASON + 1);
    }
}
