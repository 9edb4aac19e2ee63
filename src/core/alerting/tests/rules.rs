//! What rules may ask for beyond one threshold and a time, over whole lives of alerts.

use super::*;
use crate::core::saved::Saved;
use std::collections::BTreeMap;

fn shown(alerting: &Alerting) -> Vec<String> {
    let views = alerting.views(&Name::new("orders"));
    views
        .iter()
        .map(|alert| format!("{} {} {}", alert.phase.as_str(), alert.severity.as_str(), alert.condition))
        .collect()
}

/// Steps through lags of one replica (`None`: unknown), and compares what is shown after each.
fn show(rule: &RuleConfig, steps: &[(f64, Option<f64>, &[&str])]) -> Alerting {
    let mut alerting = alerting(std::slice::from_ref(rule));
    for (second, lag, expect) in steps {
        tick(&mut alerting, *second, &one(lag.and_then(exact)));
        assert_eq!(shown(&alerting), *expect, "at {second} s");
    }
    alerting
}

fn levels() -> RuleConfig {
    RuleConfig {
        signal: Some("replay_lag_seconds".to_owned()),
        warning: Some("> 5s".to_owned()),
        critical: Some("> 60s".to_owned()),
        ..RuleConfig { when: None, ..lagging(Some(10)) }
    }
}

fn counted(when_unknown: WhenUnknown) -> RuleConfig {
    RuleConfig {
        datapoints: Some("2 of 3".to_owned()),
        every: Some(Duration::from_secs(10)),
        when_unknown: Some(when_unknown),
        ..lagging(None)
    }
}

#[test]
fn between_the_threshold_and_that_to_clear_an_alert_goes_on_as_it_is() {
    let rule = RuleConfig { clear: Some("< 3s".to_owned()), ..lagging(None) };
    check(
        &[rule],
        vec![
            (0.0, one(exact(4.0)), &[]),
            (1.0, one(exact(6.0)), &["firing Lag orders/r1 6"]),
            (2.0, one(exact(4.0)), &[]),
            (3.0, one(exact(3.0)), &[]),
            // What may be less, or more.
            (4.0, one(estimate(2.0, 1.0, 4.0, Certainty::AtMost)), &[]),
            (5.0, one(exact(2.9)), &["resolved Lag orders/r1 2.9"]),
            (6.0, one(exact(4.0)), &[]),
        ],
    );
    let down = RuleConfig { clear: Some(">= 2".to_owned()), ..config("Few", "primaries < 1") };
    let primaries = |n: usize| cluster((0..n).map(|i| server(&format!("p{i}"), Role::Primary)).collect());
    check(
        &[down],
        vec![
            (0.0, primaries(0), &["firing Few orders 0"]),
            (3.0, primaries(1), &[]),
            (4.0, primaries(2), &["resolved Few orders 2"]),
        ],
    );
}

#[test]
fn an_alert_becomes_more_severe_and_less_and_ends_as_its_worst() {
    let (warning, critical) = ("replay_lag_seconds > 5s", "replay_lag_seconds > 60s");
    let told = |phase: &str, severity: &str, condition: &str| format!("{phase} {severity} {condition}");
    let steps: Vec<(f64, f64, String)> = vec![
        (0.0, 6.0, told("pending", "warning", warning)),
        // The severer threshold has a time of its own.
        (9.0, 61.0, told("pending", "critical", critical)),
        (10.0, 62.0, told("firing", "warning", warning)),
        (18.0, 70.0, told("firing", "warning", warning)),
        (19.0, 71.0, told("firing", "critical", critical)),
        (30.0, 50.0, told("firing", "warning", warning)),
        (40.0, 1.0, told("resolved", "critical", critical)),
        (50.0, 7.0, told("pending", "warning", warning)),
        (60.0, 7.0, told("firing", "warning", warning)),
        (70.0, 0.0, told("resolved", "warning", warning)),
    ];
    let mut alerting = alerting(&[levels()]);
    for (second, lag, expect) in steps {
        tick(&mut alerting, second, &one(exact(lag)));
        assert_eq!(shown(&alerting), [expect], "at {second} s");
    }
}

#[test]
fn a_severity_survives_a_restart() {
    let alerting = show(
        &levels(),
        &[
            (0.0, Some(70.0), &["pending critical replay_lag_seconds > 60s"]),
            (10.0, Some(80.0), &["firing critical replay_lag_seconds > 60s"]),
            (20.0, Some(30.0), &["firing warning replay_lag_seconds > 5s"]),
        ],
    );
    let mut after = restarted(&alerting, &levels(), 21.0);
    assert_eq!(shown(&after), ["firing warning replay_lag_seconds > 5s"]);
    tick(&mut after, 22.0, &one(exact(0.0)));
    assert_eq!(shown(&after), ["resolved critical replay_lag_seconds > 60s"]);
}

#[test]
fn what_is_not_known_makes_nothing_more_severe() {
    for when_unknown in [WhenUnknown::Hold, WhenUnknown::Breach, WhenUnknown::Alert] {
        let rule = RuleConfig { when_unknown: Some(when_unknown), hold_for: Some(Duration::ZERO), ..levels() };
        let mut alerting = alerting(&[rule]);
        tick(&mut alerting, 0.0, &one(exact(6.0)));
        tick(&mut alerting, 100.0, &one(None));
        let views = alerting.views(&Name::new("orders"));
        assert_eq!((views[0].phase, views[0].severity, views[0].is_unknown), (Phase::Firing, Severity::Warning, true));
    }
}

#[test]
fn so_many_of_the_last_periods_must_breach() {
    let (pending, firing) = ("pending warning replay_lag_seconds > 5s", "firing warning replay_lag_seconds > 5s");
    show(
        &counted(WhenUnknown::Hold),
        &[
            (0.0, Some(1.0), &[]),
            (1.0, Some(6.0), &[pending]),
            (11.0, Some(2.0), &[pending]),
            (21.0, Some(7.0), &[pending]),
            // X 0 X, with what the last second of each period said.
            (31.0, Some(3.0), &[firing]),
            (35.0, Some(3.0), &[firing]),
            // 0 X 0
            (41.0, Some(3.0), &["resolved warning replay_lag_seconds > 5s"]),
            (51.0, Some(3.0), &["resolved warning replay_lag_seconds > 5s"]),
        ],
    );
    // One that does not last is forgotten.
    let alerting = show(
        &counted(WhenUnknown::Hold),
        &[(0.0, Some(6.0), &[pending]), (5.0, Some(1.0), &[]), (11.0, Some(1.0), &[])],
    );
    assert_eq!(alerting.saved(), BTreeMap::new());
}

#[test]
fn a_period_of_which_nothing_is_known_resolves_nothing() {
    let firing = "firing warning replay_lag_seconds > 5s";
    for (when_unknown, after) in [
        (WhenUnknown::Hold, firing),
        (WhenUnknown::Alert, "firing warning replay_lag_seconds is unknown"),
        (WhenUnknown::Breach, firing),
        (WhenUnknown::Clear, "resolved warning replay_lag_seconds > 5s"),
    ] {
        let mut alerting = alerting(&[counted(when_unknown)]);
        for second in 0..=25 {
            tick(&mut alerting, f64::from(second), &one(exact(6.0)));
        }
        assert_eq!(shown(&alerting), [firing]);
        for second in 26..300 {
            tick(&mut alerting, f64::from(second), &one(None));
        }
        assert_eq!(shown(&alerting), [after], "{when_unknown:?}");
    }
}

#[test]
fn counted_periods_survive_a_restart() {
    let rule = counted(WhenUnknown::Hold);
    let pending = "pending warning replay_lag_seconds > 5s";
    let alerting = show(&rule, &[(0.0, Some(6.0), &[pending]), (10.0, Some(6.0), &[pending])]);
    let mut after = restarted(&alerting, &rule, 15.0);
    tick(&mut after, 19.0, &one(exact(6.0)));
    tick(&mut after, 20.0, &one(exact(6.0)));
    assert_eq!(shown(&after), ["firing warning replay_lag_seconds > 5s"]);
}

#[test]
fn not_to_know_may_be_what_an_alert_is_about() {
    let rule = RuleConfig { when_unknown: Some(WhenUnknown::Alert), ..lagging(Some(10)) };
    show(
        &rule,
        &[
            (0.0, Some(1.0), &[]),
            (1.0, None, &["pending warning replay_lag_seconds is unknown"]),
            (11.0, None, &["firing warning replay_lag_seconds is unknown"]),
            (12.0, Some(9.0), &["firing warning replay_lag_seconds > 5s"]),
            (13.0, None, &["firing warning replay_lag_seconds is unknown"]),
            (14.0, Some(0.0), &["resolved warning replay_lag_seconds > 5s"]),
        ],
    );
}

#[test]
fn nothing_happens_while_a_rule_warms_up() {
    let rule = RuleConfig { warm_up: Some(Duration::from_secs(60)), ..lagging(None) };
    check(
        &[RuleConfig { when_unknown: Some(WhenUnknown::Breach), ..rule.clone() }],
        vec![
            (0.0, one(exact(6.0)), &[]),
            (30.0, one(None), &[]),
            (59.0, one(exact(9.0)), &[]),
            (60.0, one(exact(9.0)), &["firing Lag orders/r1 9"]),
            (61.0, one(exact(0.0)), &["resolved Lag orders/r1 0"]),
        ],
    );
    // What fired before goes on, whatever is read.
    let mut before = alerting(&[lagging(None)]);
    tick(&mut before, 0.0, &one(exact(6.0)));
    let mut after = restarted(&before, &rule, 10.0);
    assert_eq!(tick(&mut after, 10.0, &one(exact(0.0))), [""; 0]);
    assert_eq!(tick(&mut after, 69.0, &one(exact(0.0))), [""; 0]);
    assert_eq!(tick(&mut after, 70.0, &one(exact(0.0))), ["resolved Lag orders/r1 0"]);
}

#[test]
fn a_rule_keeps_to_the_labels_it_selects() {
    let only = BTreeMap::from([("slot".to_owned(), OneOrMany(vec!["cdc_*".into(), "b".into()]))]);
    let rule = RuleConfig { only, ..config("Slot", "slot_inactive_retained_bytes > 1kB") };
    let slots = |slots: &[(&str, u64)]| cluster(vec![with_slots(Some(slots))]);
    check(
        &[rule],
        vec![
            (
                0.0,
                slots(&[("a", 2000), ("b", 3000), ("cdc_1", 4000), ("xcdc_1", 5000)]),
                &["firing Slot orders/p slot=b 3000", "firing Slot orders/p slot=cdc_1 4000"],
            ),
            (1.0, slots(&[("a", 2000), ("cdc_1", 4000)]), &["resolved Slot orders/p slot=b 3000"]),
        ],
    );
}

#[test]
fn names_are_selected_with_stars() {
    let two = || cluster(vec![replica("eu-1", exact(6.0)), replica("us-1", exact(7.0))]);
    let rule = |cluster: &str, target: &str| RuleConfig {
        cluster: OneOrMany(vec![cluster.into()]),
        target: OneOrMany(vec![target.into()]),
        ..lagging(None)
    };
    check(&[rule("ord*", "eu-?")], vec![(0.0, two(), &["firing Lag orders/eu-1 6"])]);
    check(&[rule("order", "*")], vec![(0.0, two(), &[])]);
}

#[test]
fn an_alert_carries_what_its_rule_says_filled_in() {
    let text = |text: &str| Some(text.to_owned());
    let rule = RuleConfig {
        labels: BTreeMap::from([("team".to_owned(), "data".to_owned())]),
        summary: text("{{ slot }} on {{ target }} keeps {{ reading }} ({{ threshold }}, {{ severity }}, {{ cause }})"),
        runbook: text("https://wiki.example/{{ cluster }}?slot={{ slot }}"),
        ..config("Slot", "slot_inactive_retained_bytes > 1kB")
    };
    let mut alerting = alerting(&[rule]);
    tick(&mut alerting, 0.0, &cluster(vec![with_slots(Some(&[("a b", 2048)]))]));
    let views = alerting.views(&Name::new("orders"));
    assert_eq!(views[0].rule_labels, [("team".to_owned(), "data".to_owned())]);
    assert_eq!(views[0].summary, text("a b on p keeps 2 KiB (> 1kB, warning, no known cause)"));
    assert_eq!(views[0].runbook, text("https://wiki.example/orders?slot=a%20b"));
    tick(&mut alerting, 1.0, &cluster(vec![with_slots(None)]));
    let views = alerting.views(&Name::new("orders"));
    assert_eq!(views[0].summary, text("a b on p keeps unknown (> 1kB, warning, no known cause)"));
}

#[test]
fn a_clock_that_is_set_fires_and_resolves_nothing() {
    let rules = [lagging(Some(60)), RuleConfig { name: "Counted".to_owned(), ..counted(WhenUnknown::Hold) }];
    let told = |wall_of: fn(u32) -> f64| {
        let mut alerting = alerting(&rules);
        let mut told = Vec::new();
        for second in 0..300_u32 {
            let lag = if (20..200).contains(&second) { 9.0 } else { 1.0 };
            let (clusters, now) = (one(exact(lag)), at(f64::from(second)));
            alerting.judge(&clusters, now, wall(wall_of(second)));
            for notice in alerting.due(&clusters, now, wall(wall_of(second))) {
                let alert = &notice.alerts[0].alert;
                told.push((second, alert.phase, alert.id.rule.clone()));
                alerting.record(&delivery(&notice, Ok(())), now);
            }
        }
        told
    };
    let steady = told(f64::from);
    assert_eq!(steady.len(), 4);
    assert_eq!(told(|second| if second % 7 < 3 { 1e6 } else { f64::from(second) }), steady);
    assert_eq!(told(|second| if second < 50 { 1e8 } else { 0.0 }), steady);
}

/// The same after a restart that took no time.
fn restarted(before: &Alerting, rule: &RuleConfig, second: f64) -> Alerting {
    let kept = before.saved().into_iter().map(|(id, alert)| {
        let text = serde_json::to_string(&alert).expect("text");
        (id, serde_json::from_str(&text).expect("an alert"))
    });
    let saved = Saved { alerts: kept.collect(), at: Some(at(second)), ..Saved::default() };
    let mut after = alerting(std::slice::from_ref(rule));
    after.restore(saved.silent_alerts(), at(second));
    after
}
