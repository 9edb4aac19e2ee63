//! How rules are read, and what they make of values.

use super::*;
use crate::core::cause::Cause;
use crate::core::lag::LagEstimate;
use crate::core::signal::Read;
use crate::core::signal::{Coverage, Kind, Says};
use crate::core::topology::Role;
use crate::core::topology::TargetId;

const fn signal(name: &'static str, unit: Unit, labels: &'static [&'static str], read: Read) -> Signal {
    Signal {
        name,
        unit,
        kind: Kind::Gauge,
        help: "A number.",
        absent: "",
        source: "",
        says: Says::Number,
        none: None,
        labels,
        read,
        shown: None,
    }
}

fn lag(target: &TargetView, emit: &mut dyn FnMut(&[&str], Value), of: fn(&LagEstimate) -> Value) -> Coverage {
    match &target.lag {
        Some(lag) => {
            emit(&[], of(lag));
            Coverage::Complete
        }
        None => Coverage::Unknown,
    }
}

/// As many signals as the tests of rules need.
pub(crate) static SIGNALS: &[Signal] = &[
    signal(
        "target_up",
        Unit::Bool,
        &[],
        Read::Target(|_, target, _, emit| {
            if target.tried() {
                emit(&[], Value::exact(f64::from(u8::from(target.is_up()))));
            }
            Coverage::Unknown
        }),
    ),
    signal(
        "replay_lag_seconds",
        Unit::Seconds,
        &[],
        Read::Target(|_, target, _, emit| {
            lag(target, emit, |lag| Value { value: lag.value.unwrap_or(f64::NAN), lower: lag.lower, upper: lag.upper })
        }),
    ),
    signal(
        "replay_lag_upper_seconds",
        Unit::Seconds,
        &[],
        Read::Target(|_, target, _, emit| lag(target, emit, |lag| Value::exact(lag.upper))),
    ),
    signal("pooler_up", Unit::Bool, &[], Read::Pooler(|_, _, _| Coverage::Unknown)),
    signal(
        "pooler_longest_wait_seconds",
        Unit::Seconds,
        &["database", "user"],
        Read::Pooler(|pooler, now, emit| {
            let Some(answer) = pooler.fresh(now) else { return Coverage::Unknown };
            for pool in &answer.facts.pools {
                emit(&[&pool.database, &pool.user], Value::exact(pool.longest_wait));
            }
            Coverage::Complete
        }),
    ),
    signal("receiver_running", Unit::Bool, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
    signal("wal_write_bytes_per_second", Unit::BytesPerSecond, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
    signal("role_change_age_seconds", Unit::Seconds, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
    signal("rds_failover", Unit::Bool, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
    signal("standby_missing", Unit::Bool, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
    signal("wrong_upstream", Unit::Bool, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
    signal("timelines_behind", Unit::Count, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
    signal("undeclared_standbys", Unit::Count, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
    signal("sync_standbys_missing", Unit::Count, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
    signal(
        "subscription_running",
        Unit::Bool,
        &["datname", "subscription"],
        Read::Target(|_, _, _, _| Coverage::Unknown),
    ),
    signal(
        "subscription_lag_seconds",
        Unit::Seconds,
        &["datname", "subscription"],
        Read::Target(|_, _, _, _| Coverage::Unknown),
    ),
    signal("connections_used_ratio", Unit::Ratio, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
    signal("idle_in_transaction_oldest_seconds", Unit::Seconds, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
    signal("lock_wait_longest_seconds", Unit::Seconds, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
    signal("connections_idle_long", Unit::Count, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
    signal(
        "slot_inactive_retained_bytes",
        Unit::Bytes,
        &["slot"],
        Read::Target(|_, target, now, emit| {
            let Some(facts) = target.fresh_survey(now) else { return Coverage::Unknown };
            for slot in facts.slots.iter().flatten().filter(|slot| !slot.active) {
                if let Some(retained) = slot.retained_bytes {
                    emit(&[&slot.name], Value::exact(retained as f64));
                }
            }
            Coverage::Complete
        }),
    ),
    signal("slot_lost_in_seconds", Unit::Seconds, &["slot"], Read::Target(|_, _, _, _| Coverage::Unknown)),
    signal("slot_invalidated", Unit::Bool, &["slot", "reason"], Read::Target(|_, _, _, _| Coverage::Unknown)),
    signal(
        "primaries",
        Unit::Count,
        &[],
        Read::Cluster(|cluster, _, emit| {
            let n_primaries = cluster.targets.iter().filter(|t| t.last_role() == Some(Role::Primary)).count();
            emit(&[], Value::exact(n_primaries as f64));
            Coverage::Complete
        }),
    ),
];

pub(crate) fn config(name: &str, when: &str) -> RuleConfig {
    RuleConfig { name: name.to_owned(), when: Some(when.to_owned()), ..RuleConfig::default() }
}

fn condition(when: &str) -> Result<(&'static str, Op, f64), String> {
    Rule::parse(&config("R", when), SIGNALS)
        .map(|Rule { condition, .. }| (condition.signal.name, condition.op, condition.threshold))
        .map_err(|error| error.to_string())
}

#[test]
fn a_threshold_is_read_in_the_unit_of_its_signal() {
    for (when, signal, op, threshold) in [
        ("replay_lag_seconds > 5s", "replay_lag_seconds", Op::Gt, 5.0),
        ("pgvigil_replay_lag_seconds>=1m 30s", "replay_lag_seconds", Op::Ge, 90.0),
        ("replay_lag_seconds < 250ms", "replay_lag_seconds", Op::Lt, 0.25),
        ("slot_inactive_retained_bytes > 64MiB", "slot_inactive_retained_bytes", Op::Gt, 67_108_864.0),
        ("slot_inactive_retained_bytes <= 1.5 GB", "slot_inactive_retained_bytes", Op::Le, 1.5e9),
        ("slot_inactive_retained_bytes > 0", "slot_inactive_retained_bytes", Op::Gt, 0.0),
        ("connections_used_ratio > 80%", "connections_used_ratio", Op::Gt, 0.8),
        ("connections_used_ratio > 0.8", "connections_used_ratio", Op::Gt, 0.8),
        ("wal_write_bytes_per_second < 10MB/s", "wal_write_bytes_per_second", Op::Lt, 1e7),
        ("wal_write_bytes_per_second < 1KiB", "wal_write_bytes_per_second", Op::Lt, 1024.0),
        ("primaries != 1", "primaries", Op::Ne, 1.0),
        ("  target_up  ==  0 ", "target_up", Op::Eq, 0.0),
    ] {
        assert_eq!(condition(when), Ok((signal, op, threshold)), "{when}");
    }
}

#[test]
fn a_rule_that_cannot_be_used_says_what_would_be_right() {
    let lag_is = "but replay_lag_seconds is a duration; write for example \"10s\"";
    let form = "with one of > >= < <= == !=";
    for (when, fault) in [
        ("replay_lag_seconds > 10MB", format!("threshold \"10MB\" is a size, {lag_is}")),
        ("replay_lag_seconds > 5", format!("threshold \"5\" is a plain number, {lag_is}")),
        ("replay_lag_seconds > 5%", format!("threshold \"5%\" is a ratio, {lag_is}")),
        ("replay_lag_seconds > soon", format!("threshold \"soon\" is not a value, {lag_is}")),
        (
            "connections_used_ratio > 80",
            "threshold \"80\" is a plain number, but connections_used_ratio is a ratio; write for example \"80%\""
                .into(),
        ),
        (
            "primaries > 10s",
            "threshold \"10s\" is a duration, but primaries is a count; write for example \"3\"".into(),
        ),
        (
            "target_up == 2",
            "threshold \"2\" is a plain number, but target_up is 0 or 1; write for example \"0\"".into(),
        ),
        ("replica_lag > 5s", "there is no signal \"replica_lag\"; the nearest is \"replay_lag_seconds\"".into()),
        (
            "primaries = 1",
            format!("cannot read \"primaries = 1\"; write for example \"replay_lag_seconds > 5s\", {form}"),
        ),
        ("primaries", format!("cannot read \"primaries\"; write for example \"replay_lag_seconds > 5s\", {form}")),
        (
            "1 < primaries < 3",
            format!("cannot read \"1 < primaries < 3\"; write for example \"replay_lag_seconds > 5s\", {form}"),
        ),
    ] {
        assert_eq!(condition(when), Err(format!("rule \"R\": {fault}")));
    }
}

#[test]
fn a_rule_over_a_whole_cluster_selects_no_target() {
    let role = RuleConfig { role: Some(Role::Replica), ..config("R", "primaries > 1") };
    let target = RuleConfig { target: OneOrMany(vec!["a".into()]), ..config("R", "primaries > 1") };
    for (config, selector) in [(role, "role"), (target, "target")] {
        assert_eq!(
            Rule::parse(&config, SIGNALS).map(drop).map_err(|error| error.fault),
            Err(RuleFault::Selector { selector, signal: "primaries", about: "one number for a whole cluster" })
        );
    }
}

#[test]
fn a_rule_may_be_about_some_causes_alone() {
    use crate::core::cause::{Diagnosis, Told};
    let about = |causes: &[&str]| RuleConfig {
        cause: OneOrMany(causes.iter().map(|&cause| cause.to_owned()).collect()),
        ..config("R", "replay_lag_seconds > 5s")
    };
    let misspelt = Rule::parse(&about(&["blocked_by_querry"]), SIGNALS).map(drop);
    assert_eq!(
        misspelt.map_err(|error| error.to_string()),
        Err("rule \"R\": there is no cause \"blocked_by_querry\"; the nearest is \"blocked_by_query\"".to_owned())
    );
    let rule = Rule::parse(&about(&["replay_paused", "blocked_by_query"]), SIGNALS).expect("a good rule");
    let mut target = TargetView::new(TargetId::new("orders", "r1"), Duration::from_secs(10));
    assert_eq!(rule.selects(&target), Selected::No);
    for (lags, first, expect) in [
        (true, Cause::BlockedByQuery, Selected::Yes),
        (true, Cause::SlowReplay, Selected::No),
        (false, Cause::BlockedByQuery, Selected::No),
    ] {
        let told = |cause| Told { cause, why: String::new() };
        let causes = vec![told(first), told(Cause::ReplayPaused)];
        target.diagnosis = Some(std::sync::Arc::new(Diagnosis { lags, causes }));
        assert_eq!(rule.selects(&target), expect, "{first:?}");
    }
}

#[test]
fn a_rule_over_poolers_selects_by_name_alone() {
    let about = "of a connection pooler";
    let role = RuleConfig { role: Some(Role::Replica), ..config("R", "pooler_up == 0") };
    assert_eq!(
        Rule::parse(&role, SIGNALS).map(drop).map_err(|error| error.fault),
        Err(RuleFault::Selector { selector: "role", signal: "pooler_up", about })
    );
    let target = RuleConfig { target: OneOrMany(vec!["pgb".into()]), ..config("R", "pooler_up == 0") };
    let rule = Rule::parse(&target, SIGNALS).unwrap();
    assert_eq!(["pgb", "other"].map(|name| rule.selects_name(&Name::new(name))), [Selected::Yes, Selected::No]);
}

#[test]
fn two_rules_of_one_name_are_refused() {
    let rules = [config("A", "primaries > 1"), config("B", "primaries > 1"), config("A", "primaries > 2")];
    let error = Rule::parse_all(&rules, SIGNALS).map(drop).map_err(|error| error.to_string());
    assert_eq!(error, Err("rule \"A\": two rules have this name".to_owned()));
}

#[test]
fn a_rule_is_read_as_written() {
    let text = r#"{"name": "ReplicaLagging", "when": "replay_lag_seconds > 5s", "for": "1m", "keep_firing_for": "30s",
        "severity": "critical", "cluster": "orders", "target": ["a", "b"], "role": "replica", "when_unknown": "breach"}"#;
    let expect = RuleConfig {
        hold_for: Some(Duration::from_secs(60)),
        keep_firing_for: Some(Duration::from_secs(30)),
        severity: Some(Severity::Critical),
        cluster: OneOrMany(vec!["orders".into()]),
        target: OneOrMany(vec!["a".into(), "b".into()]),
        role: Some(Role::Replica),
        when_unknown: Some(WhenUnknown::Breach),
        ..config("ReplicaLagging", "replay_lag_seconds > 5s")
    };
    assert_eq!(serde_json::from_str::<RuleConfig>(text).map_err(|error| error.to_string()), Ok(expect));
    let least = serde_json::from_str::<RuleConfig>(r#"{"name": "R", "when": "primaries > 1"}"#);
    assert_eq!(least.map_err(|error| error.to_string()), Ok(config("R", "primaries > 1")));
    for (text, reason) in [
        (r#"{"name": "R", "when": "x", "for": 5}"#, "expected a duration such as \"1m\""),
        (r#"{"name": "R", "when": "x", "for": "5"}"#, "expected a duration such as \"1m\""),
        (r#"{"name": "R", "when": "x", "while": "5s"}"#, "unknown field `while`"),
        (r#"{"name": "R", "when": "x", "cluster": 3}"#, "a name or a list of names"),
    ] {
        let error = serde_json::from_str::<RuleConfig>(text).expect_err(text).to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn the_preset_is_made_of_good_rules() {
    let rules = Rule::parse_all(&preset(), SIGNALS).expect("the preset parses");
    let lines: Vec<_> = rules
        .iter()
        .map(|rule| {
            let hold_for = rule.hold_for.map_or("-".to_owned(), |hold_for| format!("{hold_for:?}"));
            format!("{}: {}, {hold_for}, {}", rule.name, rule.condition.text, rule.severity.as_str())
        })
        .collect();
    assert_eq!(
        lines,
        [
            "TargetDown: target_up == 0, 10s, critical",
            "Failover: rds_failover == 1, 0ns, critical",
            "ReplicaLagging: replay_lag_seconds > 5s, 15s, warning",
            "ReplicaLagCritical: replay_lag_seconds > 60s, -, critical",
            "ReplicaLagUnproven: replay_lag_upper_seconds > 5m, 60s, warning",
            "ReplicaNotReceiving: receiver_running == 0, 30s, warning",
            "ConnectionsNearLimit: connections_used_ratio > 80%, 60s, warning",
            "InactiveSlotRetainsWal: slot_inactive_retained_bytes > 1GiB, 300s, warning",
            "SlotNearlyLost: slot_lost_in_seconds < 1h, 300s, warning",
            "SlotLost: slot_invalidated == 1, -, warning",
            "SeveralPrimaries: primaries > 1, 5s, critical",
            "IdleInTransaction: idle_in_transaction_oldest_seconds > 10m, 0ns, warning",
            "LockWait: lock_wait_longest_seconds > 1m, 30s, warning",
            "ConnectionsIdle: connections_idle_long > 20, 900s, info",
            "PrimaryPromoted: role_change_age_seconds < 5m, 0ns, info",
            "ReplicaMissing: standby_missing == 1, 120s, warning",
            "ReplicaFollowsElsewhere: wrong_upstream == 1, 120s, warning",
            "ReplicaOnOldTimeline: timelines_behind > 0, 300s, warning",
            "UndeclaredStandby: undeclared_standbys > 0, 300s, warning",
            "SyncStandbysMissing: sync_standbys_missing > 0, 30s, critical",
            "PoolerDown: pooler_up == 0, 15s, warning",
            "ConnectionPoolExhausted: pooler_longest_wait_seconds > 5s, 10s, critical",
            "SubscriptionNotRunning: subscription_running == 0, 60s, warning",
            "SubscriptionLagging: subscription_lag_seconds > 5m, 60s, warning",
        ]
    );
}

fn value(value: f64, lower: f64, upper: f64) -> Value {
    Value { value, lower, upper }
}

#[test]
fn bounds_tell_what_is_proven_from_what_may_be() {
    use Verdict::{Breach, Clear, Possible, Proven, Unknown};
    for (op, value, expect) in [
        (">", value(10.0, 6.0, 12.0), Proven),
        (">", value(10.0, 5.0, 12.0), Breach),
        (">", value(10.0, 0.0, f64::INFINITY), Breach),
        (">", value(0.0, 0.0, f64::INFINITY), Possible),
        (">", value(4.0, 0.0, 5.0), Clear),
        (">", value(5.0, 5.0, 5.0), Clear),
        (">", value(f64::NAN, 0.0, 9.0), Unknown),
        (">=", value(5.0, 5.0, 5.0), Proven),
        (">=", value(4.0, 0.0, 5.0), Possible),
        ("<", value(4.0, 3.0, 4.5), Proven),
        ("<", value(4.0, 3.0, 5.0), Breach),
        ("<", value(6.0, 3.0, 8.0), Possible),
        ("<", value(6.0, 5.0, 8.0), Clear),
        ("<=", value(5.0, 5.0, 5.0), Proven),
        ("==", value(5.0, 5.0, 5.0), Proven),
        ("==", value(5.0, 4.0, 6.0), Breach),
        ("==", value(4.0, 4.0, 6.0), Possible),
        ("==", value(4.0, 4.0, 4.5), Clear),
        ("!=", value(4.0, 4.0, 4.5), Proven),
        ("!=", value(4.0, 4.0, 6.0), Breach),
        ("!=", value(5.0, 4.0, 6.0), Possible),
        ("!=", value(5.0, 5.0, 5.0), Clear),
    ] {
        let rule = Rule::parse(&config("R", &format!("replay_lag_seconds {op} 5s")), SIGNALS).expect("a good rule");
        assert_eq!(rule.judge(value, None), expect, "{value:?} {op} 5");
    }
}

#[test]
fn what_a_replica_lags_by_since_a_promotion_is_held() {
    use Verdict::{Clear, Possible, Proven, Unknown};
    let check = |when: &str, value, expect| {
        let rule = Rule::parse(&config("R", when), SIGNALS).expect("a good rule");
        let judged = rule.judge_after_promotion(value, None, Duration::from_secs(30));
        assert_eq!(judged, expect, "{value:?} {when}");
    };
    let lag = "replay_lag_seconds > 5s";
    check(lag, value(30.0, 30.0, 30.0), Unknown);
    check(lag, value(35.0, 34.9, 35.1), Unknown);
    // It was behind before.
    check(lag, value(36.0, 35.5, 37.0), Proven);
    check(lag, value(90.0, 36.0, f64::INFINITY), Proven);
    check(lag, value(90.0, 1.0, f64::INFINITY), Unknown);
    // What does not breach is judged as ever.
    check(lag, value(4.0, 3.0, 5.0), Clear);
    check(lag, value(4.0, 3.0, 6.0), Possible);
    check(lag, value(f64::NAN, 3.0, 6.0), Unknown);
    // Nothing but lag waits for a replica to find its way.
    check("primaries > 1", value(2.0, 2.0, 2.0), Proven);
    check("connections_used_ratio > 80%", value(0.9, 0.9, 0.9), Proven);
}

#[test]
fn only_a_breach_without_for_and_without_proof_waits_two_polls() {
    let poll_interval = Duration::from_secs(5);
    let at_once = Duration::ZERO;
    for (hold_for, verdict, expect) in [
        (None, Verdict::Proven, at_once),
        (None, Verdict::Breach, poll_interval * 2),
        (Some(at_once), Verdict::Breach, at_once),
        (Some(poll_interval), Verdict::Proven, poll_interval),
    ] {
        let config = RuleConfig { hold_for, ..config("R", "replay_lag_seconds > 5s") };
        let rule = Rule::parse(&config, SIGNALS).expect("a good rule");
        assert_eq!(rule.hold(verdict, poll_interval), expect, "{hold_for:?} {verdict:?}");
    }
}

#[test]
fn the_delay_that_was_asked_for_is_no_lag_to_a_rule() {
    use crate::core::snapshot::SurveyView;
    use crate::core::survey::{Sessions, SurveyFacts};
    use std::sync::Arc;
    let rule = Rule::parse(&config("R", "replay_lag_seconds > 5s"), SIGNALS).expect("a good rule");
    let mut target = TargetView::new(TargetId::new("orders", "r1"), Duration::from_secs(10));
    // Nobody knows yet whether there is a delay.
    assert_eq!(rule.judge(value(3604.0, 3603.0, 3604.0), Some(&target)), Verdict::Breach);
    target.survey = Some(SurveyView {
        asked_at: crate::core::time::MonoTime::from_nanos(0),
        answered_at: crate::core::time::MonoTime::from_nanos(0),
        facts: Arc::new(SurveyFacts {
            sessions: Some(Sessions { max_connections: 100, reserved_connections: 3, ..Sessions::default() }),
            slots: Some(vec![]),
            apply_delay_seconds: Some(3600.0),
            ..SurveyFacts::default()
        }),
        stale_after: Duration::from_secs(45),
    });
    assert_eq!(rule.judge(value(3604.0, 3603.0, 3604.0), Some(&target)), Verdict::Clear);
    assert_eq!(rule.judge(value(3606.0, 3605.5, 3606.5), Some(&target)), Verdict::Proven);
    assert_eq!(rule.judge(value(3606.0, 3606.0, f64::INFINITY), Some(&target)), Verdict::Proven);
}
