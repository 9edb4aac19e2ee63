//! Rules that come with pgvigil: the ones that apply when none are written, and those that people set for PostgreSQL on
//! AWS, for PostgreSQL of their own, and for the Redis beside it.
//!
//! The presets for PostgreSQL are the default with some rules in another's place, and have the same names for the same
//! things. Some rules read what only CloudWatch tells. Where that is not read, they are read and checked like all others, are
//! not judged, and everybody is told so: at the start, by `check`, in the book.

use std::time::Duration;

use super::config::{OneOrMany, RuleConfig};
use crate::core::alert::Severity;
use crate::core::lag::Certainty;
use crate::core::topology::Role;

/// Rules that are there by one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    Default,
    Rds,
    RdsStrict,
    SelfManaged,
    Redis,
}

impl Preset {
    pub const ALL: [Self; 5] = [Self::Default, Self::Rds, Self::RdsStrict, Self::SelfManaged, Self::Redis];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Rds => "rds",
            Self::RdsStrict => "rds-strict",
            Self::SelfManaged => "self-managed",
            Self::Redis => "redis",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.as_str() == name)
    }

    /// Whether it is about PostgreSQL. There is one such at a time.
    pub const fn is_of_postgres(self) -> bool {
        !matches!(self, Self::Redis)
    }

    pub fn rules(self) -> Vec<RuleConfig> {
        match self {
            Self::Default => preset(),
            Self::Rds | Self::RdsStrict | Self::SelfManaged => {
                let mut rules = rows(self);
                rules.extend(preset().into_iter().filter(|rule| !REPLACED.contains(&rule.name.as_str())));
                rules
            }
            Self::Redis => redis(),
        }
    }
}

/// A rule that applies, and the place of the written rule that it comes from, if it is not a preset's alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composed {
    pub written: Option<usize>,
    pub config: RuleConfig,
}

/// The rules of presets with written ones beside them. One that has the name of a preset's rule changes that, key by key.
/// Without any preset for PostgreSQL and any rule, the default applies. Those turned off are still among them.
pub fn compose(presets: &[Preset], own: &[RuleConfig]) -> Vec<Composed> {
    let mut presets = presets.to_vec();
    if own.is_empty() && !presets.iter().any(|preset| preset.is_of_postgres()) {
        presets.insert(0, Preset::Default);
    }
    let given = presets.into_iter().flat_map(Preset::rules);
    let mut composed: Vec<Composed> = given.map(|config| Composed { written: None, config }).collect();
    for (place, own) in own.iter().enumerate() {
        let written = Some(place);
        match composed.iter_mut().find(|given| given.written.is_none() && given.config.name == own.name) {
            Some(given) => *given = Composed { written, config: own.clone().over(given.config.clone()) },
            None => composed.push(Composed { written, config: own.clone() }),
        }
    }
    composed
}

/// Rules of the default in whose place the presets for PostgreSQL have their own.
const REPLACED: [&str; 4] = ["ReplicaLagging", "ReplicaLagCritical", "ConnectionsNearLimit", "ConnectionsIdle"];

const MINUTE: Duration = Duration::from_secs(60);

/// A rule with a threshold for each severity: `("warning", "> 5s")`.
fn row(name: &str, signal: &str, levels: &[(Severity, &str)]) -> RuleConfig {
    let level = |wanted| levels.iter().find(|(severity, _)| *severity == wanted).map(|(_, text)| (*text).to_owned());
    RuleConfig {
        name: name.to_owned(),
        signal: Some(signal.to_owned()),
        info: level(Severity::Info),
        warning: level(Severity::Warning),
        critical: level(Severity::Critical),
        ..RuleConfig::default()
    }
}

fn counted(datapoints: &str, every: Duration, rule: RuleConfig) -> RuleConfig {
    RuleConfig { datapoints: Some(datapoints.to_owned()), every: Some(every), ..rule }
}

fn lasting(hold_for: Duration, rule: RuleConfig) -> RuleConfig {
    RuleConfig { hold_for: Some(hold_for), ..rule }
}

/// What differs between the presets for PostgreSQL: the alarms that guides to RDS set. Strict is the earliest that any of them
/// names. `self-managed` is the same without what only CloudWatch knows.
fn rows(preset: Preset) -> Vec<RuleConfig> {
    use crate::core::alert::Severity::{Critical, Info, Warning};
    let is_strict = preset == Preset::RdsStrict;
    let pick = |usual, strict| if is_strict { strict } else { usual };
    let mut rows = vec![
        lasting(
            Duration::from_secs(15),
            row(
                "ReplicaLag",
                "replay_lag_seconds",
                &[(Warning, pick("> 5s", "> 1s")), (Critical, pick("> 60s", "> 5s"))],
            ),
        ),
        counted("3 of 3", MINUTE, row("Connections", "connections_used_ratio", &[(Warning, pick("> 80%", "> 75%"))])),
        lasting(5 * MINUTE, row("SlowStatements", "statement_mean_seconds", &[(Info, "> 1s")])),
        lasting(15 * MINUTE, row("IdleSessions", "connections_idle_long", &[(Info, pick("> 20", "> 0"))])),
    ];
    if preset != Preset::SelfManaged {
        let every = 5 * MINUTE;
        let storage = if is_strict { ("storage_free_ratio", "< 20%") } else { ("storage_free_bytes", "< 10GB") };
        rows.extend([
            counted(
                "2 of 2",
                every,
                row("CpuUtilization", "cpu_utilization_ratio", &[(Warning, pick("> 80%", "> 70%"))]),
            ),
            counted("1 of 1", every, row("FreeStorage", storage.0, &[(Warning, storage.1)])),
            counted(
                "1 of 1",
                every,
                row("FreeableMemory", "memory_freeable_bytes", &[(Warning, "< 1GB"), (Critical, "< 256MB")]),
            ),
            counted(
                "3 of 3",
                MINUTE,
                row("ReadLatency", "read_latency_seconds", &[(Warning, pick("> 100ms", "> 20ms"))]),
            ),
            counted(
                "3 of 3",
                MINUTE,
                row("WriteLatency", "write_latency_seconds", &[(Warning, pick("> 100ms", "> 50ms"))]),
            ),
        ]);
    }
    rows
}

fn redis() -> Vec<RuleConfig> {
    let rule = |name, datapoints, every, signal, threshold| {
        counted(datapoints, every, row(name, signal, &[(Severity::Warning, threshold)]))
    };
    vec![
        rule("RedisCpu", "2 of 2", 5 * MINUTE, "redis_cpu_utilization_ratio", "> 80%"),
        rule("RedisMemory", "1 of 1", 5 * MINUTE, "redis_memory_used_ratio", "> 80%"),
        rule("RedisConnections", "3 of 3", MINUTE, "redis_connections", "> 5000"),
        rule("RedisEvictions", "1 of 1", 5 * MINUTE, "redis_evictions_in_5m", "> 1000"),
        rule("RedisHitRate", "3 of 3", 5 * MINUTE, "redis_hit_ratio", "< 80%"),
        rule("RedisReplicationLag", "3 of 3", MINUTE, "redis_replication_lag_seconds", "> 1s"),
    ]
}

/// The rules that apply when none are written.
pub fn preset() -> Vec<RuleConfig> {
    const MINUTE: u64 = 60;
    let rule = |name: &str, when: &str, hold_for: u64, severity: Severity| RuleConfig {
        name: name.to_owned(),
        when: Some(when.to_owned()),
        hold_for: Some(Duration::from_secs(hold_for)),
        severity: Some(severity),
        ..RuleConfig::default()
    };
    vec![
        rule("TargetDown", "target_up == 0", 10, Severity::Critical),
        // As severe as what it stands for: that the primary is away.
        rule("Failover", "rds_failover == 1", 0, Severity::Critical),
        rule("ReplicaLagging", "replay_lag_seconds > 5s", 15, Severity::Warning),
        RuleConfig { hold_for: None, ..rule("ReplicaLagCritical", "replay_lag_seconds > 60s", 0, Severity::Critical) },
        // The primary is lost: nothing proves that the replica has its last WAL. Slower, for it is no fault of the replica.
        RuleConfig {
            certainty: OneOrMany(vec![Certainty::AtLeast.as_str().to_owned()]),
            ..rule("ReplicaLagUnproven", "replay_lag_upper_seconds > 5m", MINUTE, Severity::Warning)
        },
        rule("ReplicaNotReceiving", "receiver_running == 0", 30, Severity::Warning),
        rule("ConnectionsNearLimit", "connections_used_ratio > 80%", MINUTE, Severity::Warning),
        rule("InactiveSlotRetainsWal", "slot_inactive_retained_bytes > 1GiB", 5 * MINUTE, Severity::Warning),
        // Lasting, for the rate of WAL has its peaks. No page at night: a limit on slots is there to have slots lost.
        rule("SlotNearlyLost", "slot_lost_in_seconds < 1h", 5 * MINUTE, Severity::Warning),
        RuleConfig { hold_for: None, ..rule("SlotLost", "slot_invalidated == 1", 0, Severity::Warning) },
        // Not at once: in a switchover the old primary's last answer may still stand beside the new one's first.
        rule("SeveralPrimaries", "primaries > 1", 5, Severity::Critical),
        // It holds locks and keeps dead rows from being removed, and nobody waits for it to end.
        rule("IdleInTransaction", "idle_in_transaction_oldest_seconds > 10m", 0, Severity::Warning),
        rule("LockWait", "lock_wait_longest_seconds > 1m", 30, Severity::Warning),
        // Pools keep a few for hours; this many hold connections that others may want.
        rule("ConnectionsIdle", "connections_idle_long > 20", 15 * MINUTE, Severity::Info),
        RuleConfig {
            role: Some(Role::Primary),
            ..rule("PrimaryPromoted", "role_change_age_seconds < 5m", 0, Severity::Info)
        },
        // A replica's restart, or its way to another upstream, is over by then.
        rule("ReplicaMissing", "standby_missing == 1", 2 * MINUTE, Severity::Warning),
        // A connection that only the replica believes in has broken by then, too (`wal_receiver_timeout`).
        rule("ReplicaFollowsElsewhere", "wrong_upstream == 1", 2 * MINUTE, Severity::Warning),
        // The control file of a replica that does not stream tells a new timeline as late as its next restartpoint.
        rule("ReplicaOnOldTimeline", "timelines_behind > 0", 5 * MINUTE, Severity::Warning),
        // A new replica is often there before it is configured here.
        rule("UndeclaredStandby", "undeclared_standbys > 0", 5 * MINUTE, Severity::Warning),
        // Commits wait. Longer than a slow beat, after which a changed setting is known.
        rule("SyncStandbysMissing", "sync_standbys_missing > 0", 30, Severity::Critical),
        rule("PoolerDown", "pooler_up == 0", 15, Severity::Warning),
        // Clients wait now and then for less; a client that has waited for so long is about to give up.
        rule("ConnectionPoolExhausted", "pooler_longest_wait_seconds > 5s", 10, Severity::Critical),
        // A worker that ends with an error is started again within seconds: one look may come in between.
        rule("SubscriptionNotRunning", "subscription_running == 0", MINUTE, Severity::Warning),
        // One large transaction, or a first copy, may well take minutes to apply.
        rule("SubscriptionLagging", "subscription_lag_seconds > 5m", MINUTE, Severity::Warning),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::Rule;
    use super::*;
    use crate::core::signal::SIGNALS;

    #[test]
    fn every_rule_of_every_preset_can_be_used() {
        for preset in Preset::ALL {
            let rules = preset.rules();
            for rule in &rules {
                let parsed = Rule::parse(rule, &SIGNALS);
                assert!(parsed.is_ok(), "{}: {:?}", preset.as_str(), parsed.map(drop));
                assert_eq!(rules.iter().filter(|other| other.name == rule.name).count(), 1, "{}", rule.name);
            }
            assert_eq!(Preset::named(preset.as_str()), Some(preset));
        }
    }

    #[test]
    fn what_reads_cloudwatch_is_known() {
        let reading = |preset: Preset| {
            let rules = preset.rules();
            let reads = |rule: &&RuleConfig| {
                Rule::parse(rule, &SIGNALS).expect("a good rule").condition.signal.is_of_cloudwatch()
            };
            rules.iter().filter(reads).map(|rule| rule.name.clone()).collect::<Vec<_>>()
        };
        let of_rds = ["CpuUtilization", "FreeStorage", "FreeableMemory", "ReadLatency", "WriteLatency"];
        assert_eq!(reading(Preset::Default), [""; 0]);
        assert_eq!(reading(Preset::SelfManaged), [""; 0]);
        assert_eq!(reading(Preset::Rds), of_rds);
        assert_eq!(reading(Preset::RdsStrict), of_rds);
        assert_eq!(reading(Preset::Redis).len(), redis().len());
    }

    #[test]
    fn a_rule_of_the_same_name_changes_what_it_says_and_no_more() {
        let own = |name: &str| RuleConfig { name: name.to_owned(), ..RuleConfig::default() };
        let changed = |own: RuleConfig| {
            let composed = compose(&[Preset::Rds], std::slice::from_ref(&own));
            assert_eq!(composed.len(), Preset::Rds.rules().len());
            composed.into_iter().find(|rule| rule.written == Some(0)).expect("it is there").config
        };
        let given = |name: &str| Preset::Rds.rules().into_iter().find(|rule| rule.name == name).expect("a rule of rds");
        let text = |text: &str| Some(text.to_owned());
        // A threshold, and none of the others.
        let lag = || given("ReplicaLag");
        let warning = RuleConfig { warning: text("> 10s"), ..own("ReplicaLag") };
        assert_eq!(changed(warning), RuleConfig { warning: text("> 10s"), ..lag() });
        // Another signal, with its own thresholds alone.
        let other =
            RuleConfig { signal: text("replay_lag_upper_seconds"), critical: text("> 5m"), ..own("ReplicaLag") };
        let expect =
            RuleConfig { warning: None, critical: text("> 5m"), signal: text("replay_lag_upper_seconds"), ..lag() };
        assert_eq!(changed(other), expect);
        // Another way to write the condition.
        let when = RuleConfig { when: text("replay_lag_seconds > 9s"), ..own("ReplicaLag") };
        let expect =
            RuleConfig { warning: None, critical: None, signal: None, when: text("replay_lag_seconds > 9s"), ..lag() };
        assert_eq!(changed(when), expect);
        let levels = RuleConfig { warning: text("== 0"), ..own("TargetDown") };
        let expect = RuleConfig {
            when: None,
            severity: None,
            signal: text("target_up"),
            warning: text("== 0"),
            ..given("TargetDown")
        };
        assert_eq!(changed(levels), expect);
        // How long: `for` in the place of periods, and the other way round.
        let held = RuleConfig { hold_for: Some(MINUTE), ..own("Connections") };
        let expect = RuleConfig { hold_for: Some(MINUTE), datapoints: None, every: None, ..given("Connections") };
        assert_eq!(changed(held), expect);
        let often = RuleConfig { datapoints: text("2 of 4"), ..own("Connections") };
        assert_eq!(changed(often), RuleConfig { datapoints: text("2 of 4"), ..given("Connections") });
        let counted = RuleConfig { datapoints: text("2 of 4"), every: Some(MINUTE), ..own("ReplicaLag") };
        let expect = RuleConfig { hold_for: None, datapoints: text("2 of 4"), every: Some(MINUTE), ..lag() };
        assert_eq!(changed(counted), expect);
        // Everything else by itself.
        let off = RuleConfig { enabled: Some(false), ..own("ReplicaLag") };
        assert_eq!(changed(off), RuleConfig { enabled: Some(false), ..lag() });
        let there =
            RuleConfig { cluster: OneOrMany(vec!["eu-*".to_owned()]), runbook: text("https://w"), ..own("ReplicaLag") };
        let expect = RuleConfig { cluster: OneOrMany(vec!["eu-*".to_owned()]), runbook: text("https://w"), ..lag() };
        assert_eq!(changed(there), expect);
    }

    #[test]
    fn redis_comes_beside_what_applies_to_postgres() {
        let names = |presets: &[Preset], own: &[RuleConfig]| {
            compose(presets, own).into_iter().map(|rule| rule.config.name).collect::<Vec<_>>()
        };
        let all = |presets: &[Preset]| {
            presets.iter().flat_map(|preset| preset.rules()).map(|rule| rule.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&[], &[]), all(&[Preset::Default]));
        assert_eq!(names(&[Preset::Redis], &[]), all(&[Preset::Default, Preset::Redis]));
        assert_eq!(names(&[Preset::Rds, Preset::Redis], &[]), all(&[Preset::Rds, Preset::Redis]));
        let own = RuleConfig { name: "Own".to_owned(), ..RuleConfig::default() };
        assert_eq!(names(&[], std::slice::from_ref(&own)), ["Own"]);
        assert_eq!(names(&[Preset::SelfManaged], &[own]).last().map(String::as_str), Some("Own"));
    }
}
