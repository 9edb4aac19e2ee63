//! One alert and one notifier, second by second; keys; groups.

use super::*;
use crate::core::alert::Severity;
use crate::core::signal::Unit;

/// Somebody who is told of each alert by itself.
fn each(name: &str) -> Recipient {
    Recipient { group_by: GroupBy::Alert, ..Recipient::new(name) }
}

fn at(seconds: u64) -> MonoTime {
    MonoTime::from_nanos(0).plus(Duration::from_secs(seconds))
}

fn wall(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn id(rule: &str) -> AlertId {
    AlertId { rule: Name::new(rule), cluster: Name::new("orders"), target: Some(Name::new("r1")), labels: vec![] }
}

fn view(rule: &str, phase: Phase, active_at: u64) -> AlertView {
    AlertView {
        gone: None,
        recent: crate::core::alert::Recent::default(),
        id: id(rule),
        severity: Severity::Warning,
        phase,
        active_at: at(active_at),
        fired_at: None,
        resolved_at: None,
        reading: None,
        is_unknown: false,
        condition: String::new(),
        unit: Unit::Seconds,
        rule_labels: vec![],
        summary: None,
        runbook: None,
        muted: vec![],
    }
}

/// What happens to one alert and one notifier, second by second.
#[derive(Debug)]
enum Step {
    /// It fires; the number names the episode by the second it began.
    Fires(u64),
    Resolves(u64),
    /// The worker reports of the notice last handed out.
    Ok,
    Transient,
    Unclear,
    Permanent,
    /// What is handed out now: state, episode, attempt.
    Told(&'static str, u64, u32),
    Quiet,
}
use Step::{Fires, Ok, Permanent, Quiet, Resolves, Told, Transient, Unclear};

fn check(steps: &[(u64, Step)]) {
    let name = Name::new("pager");
    let mut ledger = Ledger::new(vec![each("pager")], AlertingConfig::IMMEDIATE);
    let mut last_key = String::new();
    for (second, step) in steps {
        let now = at(*second);
        let mut report = |outcome| {
            let dedup_key = last_key.clone();
            let group = Group::of(&id("R"), GroupBy::Alert);
            ledger.record(&Delivery { notifier: name.clone(), group, dedup_key, outcome }, now);
        };
        match *step {
            Fires(began) => ledger.set(view("R", Phase::Firing, began), Episode::begin(wall(began), None), now),
            Resolves(began) => {
                ledger.set(view("R", Phase::Resolved, began), Episode::begin(wall(began), None), now);
            }
            Ok => report(Result::Ok(())),
            Transient => report(Err(SendFailure::Transient("busy".into()))),
            Unclear => report(Err(SendFailure::Unclear("no answer".into()))),
            Permanent => report(Err(SendFailure::Permanent("forbidden".into()))),
            Told(state, began, attempt) => {
                let due = ledger.due(now);
                let told: Vec<_> = due
                    .iter()
                    .map(|due| (due.alerts[0].0.phase.as_str(), due.alerts[0].0.active_at, due.attempt))
                    .collect();
                assert_eq!(told, [(state, at(began), attempt)], "at {second} s");
                last_key.clone_from(&due[0].dedup_key);
            }
            Quiet => assert_eq!(ledger.due(now), [], "at {second} s"),
        }
    }
}

#[test]
fn without_faults_each_transition_is_told_once() {
    check(&[
        (0, Quiet),
        (0, Fires(0)),
        (0, Told("firing", 0, 1)),
        (0, Quiet),
        (1, Ok),
        (1, Quiet),
        (5000, Quiet),
        (6000, Resolves(0)),
        (6000, Told("resolved", 0, 1)),
        (6001, Ok),
        (6001, Quiet),
        (7000, Fires(7000)),
        (7000, Told("firing", 7000, 1)),
        (7001, Ok),
        (9999, Quiet),
    ]);
}

#[test]
fn an_alert_that_resolves_before_anyone_was_told_is_never_told() {
    check(&[(0, Fires(0)), (0, Resolves(0)), (0, Quiet), (1000, Quiet)]);
    check(&[(0, Fires(0)), (0, Told("firing", 0, 1)), (1, Resolves(0)), (2, Transient), (2, Quiet), (1000, Quiet)]);
    check(&[(0, Fires(0)), (0, Told("firing", 0, 1)), (1, Permanent), (2, Resolves(0)), (9999, Quiet)]);
}

#[test]
fn resolved_waits_for_the_answer_about_firing() {
    check(&[
        (0, Fires(0)),
        (0, Told("firing", 0, 1)),
        (1, Resolves(0)),
        (1, Quiet),
        (2, Ok),
        (2, Told("resolved", 0, 1)),
        (3, Ok),
        (3, Quiet),
    ]);
}

#[test]
fn a_failed_attempt_is_made_again_later_and_later() {
    let mut steps = vec![(0, Fires(0))];
    let mut second = 0;
    for (attempt, wait) in (1..).zip([2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]) {
        steps.extend([(second, Told("firing", 0, attempt)), (second, Transient), (second + wait - 1, Quiet)]);
        second += wait;
    }
    steps.extend([(second, Told("firing", 0, 12)), (second, Ok), (second, Quiet), (second + 9999, Quiet)]);
    check(&steps);
}

#[test]
fn what_is_refused_for_good_is_tried_rarely_and_for_ever() {
    let mut steps = vec![(0, Fires(0))];
    let mut second = 0;
    for (attempt, wait) in (1..).zip([60, 120, 240, 480, 960, 1920, 3600, 3600]) {
        steps.extend([(second, Told("firing", 0, attempt)), (second, Permanent), (second + wait - 1, Quiet)]);
        second += wait;
    }
    check(&steps);
}

#[test]
fn a_new_fact_is_attempted_at_once() {
    check(&[
        (0, Fires(0)),
        (0, Told("firing", 0, 1)),
        (0, Ok),
        (10, Resolves(0)),
        (10, Told("resolved", 0, 1)),
        (10, Permanent),
        (11, Quiet),
        (20, Fires(100)),
        (20, Told("firing", 100, 1)),
    ]);
}

#[test]
fn an_alert_that_fires_anew_while_resolved_is_undelivered_is_told_as_firing() {
    check(&[
        (0, Fires(0)),
        (0, Told("firing", 0, 1)),
        (0, Ok),
        (100, Resolves(0)),
        (100, Told("resolved", 0, 1)),
        (101, Fires(101)),
        (101, Quiet),
        (102, Transient),
        (102, Told("firing", 101, 1)),
        (103, Ok),
        (103, Quiet),
        (200, Resolves(101)),
        (200, Told("resolved", 101, 1)),
    ]);
}

#[test]
fn who_heard_only_an_earlier_firing_hears_that_it_is_over() {
    check(&[
        (0, Fires(0)),
        (0, Told("firing", 0, 1)),
        (0, Ok),
        (100, Resolves(0)),
        (100, Told("resolved", 0, 1)),
        (101, Transient),
        (102, Fires(102)),
        (102, Told("firing", 102, 1)),
        (102, Transient),
        (102, Resolves(102)),
        (102, Told("resolved", 102, 1)),
        (103, Ok),
        (103, Quiet),
    ]);
}

#[test]
fn who_may_have_heard_firing_hears_resolved() {
    check(&[
        (0, Fires(0)),
        (0, Told("firing", 0, 1)),
        (10, Unclear),
        (11, Resolves(0)),
        (11, Told("resolved", 0, 1)),
        (12, Ok),
        (12, Quiet),
    ]);
    // And who may have heard it is told again while it fires.
    check(&[(0, Fires(0)), (0, Told("firing", 0, 1)), (10, Unclear), (11, Quiet), (12, Told("firing", 0, 2))]);
}

#[test]
fn a_notice_whose_worker_never_reports_is_handed_out_again() {
    check(&[
        (0, Fires(0)),
        (0, Told("firing", 0, 1)),
        (179, Quiet),
        (180, Quiet),
        (182, Told("firing", 0, 2)),
        (183, Ok),
        (184, Ok),
        (9999, Quiet),
    ]);
    // A report that comes late counts.
    check(&[(0, Fires(0)), (0, Told("firing", 0, 1)), (180, Quiet), (181, Ok), (9999, Quiet)]);
    check(&[(0, Fires(0)), (0, Told("firing", 0, 1)), (180, Quiet), (181, Permanent), (182, Told("firing", 0, 2))]);
}

#[test]
fn resolved_is_told_only_to_those_who_heard_firing() {
    let heard = Name::new("heard");
    let mut ledger = Ledger::new(vec![each("heard"), each("missed")], AlertingConfig::IMMEDIATE);
    let episode = Episode::begin(wall(0), None);
    ledger.set(view("R", Phase::Firing, 0), episode, at(0));
    for due in ledger.due(at(0)) {
        let outcome = if due.notifier == heard { Result::Ok(()) } else { Err(SendFailure::Transient("busy".into())) };
        let delivery = Delivery { notifier: due.notifier, group: due.group, dedup_key: due.dedup_key, outcome };
        ledger.record(&delivery, at(1));
    }
    ledger.set(view("R", Phase::Resolved, 0), episode, at(2));
    let told: Vec<_> = ledger.due(at(2)).into_iter().map(|due| (due.notifier, due.alerts[0].0.phase)).collect();
    assert_eq!(told, [(heard, Phase::Resolved)]);
    assert_eq!(ledger.due(at(100)), []);
}

#[test]
fn a_storm_is_handed_out_in_portions_the_severest_first() {
    let mut ledger = Ledger::new(vec![each("pager")], AlertingConfig::IMMEDIATE);
    let n_alerts = IN_FLIGHT + 10;
    for index in 0..n_alerts {
        let severity = if index == n_alerts - 1 { Severity::Critical } else { Severity::Warning };
        let alert = AlertView { severity, ..view(&format!("R{index:03}"), Phase::Firing, index as u64) };
        ledger.set(alert, Episode::begin(wall(0), None), at(100));
    }
    let mut order = Vec::new();
    for n_due in [IN_FLIGHT, 10, 0] {
        let due = ledger.due(at(100));
        assert_eq!(due.len(), n_due);
        assert_eq!(ledger.due(at(100)), []);
        for due in due {
            order.push(due.alerts[0].0.id.rule.to_string());
            let (group, dedup_key) = (due.group, due.dedup_key);
            let outcome = Result::Ok(());
            ledger.record(&Delivery { notifier: due.notifier, group, dedup_key, outcome }, at(100));
        }
    }
    let expect: Vec<_> =
        [n_alerts - 1].into_iter().chain(0..n_alerts - 1).map(|index| format!("R{index:03}")).collect();
    assert_eq!(order, expect);
}

#[test]
fn what_is_settled_is_forgotten() {
    let mut ledger = Ledger::new(vec![each("pager")], AlertingConfig::IMMEDIATE);
    let episode = Episode::begin(wall(0), None);
    ledger.set(view("R", Phase::Firing, 0), episode, at(0));
    for phase in [Phase::Firing, Phase::Resolved] {
        ledger.set(view("R", phase, 0), episode, at(0));
        let due = ledger.due(at(0)).remove(0);
        let delivery =
            Delivery { notifier: due.notifier, group: due.group, dedup_key: due.dedup_key, outcome: Result::Ok(()) };
        ledger.record(&delivery, at(0));
    }
    assert!(ledger.accounts.is_empty());
}

#[test]
fn keys_tell_apart_what_is_news_and_unite_what_is_not() {
    let key = |alert: &AlertId, episode: Episode, phase| episode.dedup_key(alert, Phase::as_str(phase));
    let first = Episode::begin(wall(0), None);
    // Another daemon that saw it two seconds later.
    assert_eq!(key(&id("R"), first, Phase::Firing), key(&id("R"), Episode::begin(wall(2), None), Phase::Firing));
    let again = Episode::begin(wall(30), Some(first));
    let later = Episode::begin(wall(90), Some(again));
    let in_target = |target: &str| AlertId { target: Some(Name::new(target)), ..id("R") };
    let with_slot = |slot: &str| AlertId { labels: vec![("slot".into(), slot.into())], ..id("R") };
    let mut keys = vec![
        key(&id("R"), first, Phase::Firing),
        key(&id("R"), first, Phase::Resolved),
        key(&id("R"), again, Phase::Firing),
        key(&id("R"), later, Phase::Firing),
        key(&id("Q"), first, Phase::Firing),
        key(&in_target("r2"), first, Phase::Firing),
        key(&AlertId { target: None, ..id("R") }, first, Phase::Firing),
        key(&with_slot("a"), first, Phase::Firing),
        key(&with_slot("b"), first, Phase::Firing),
        key(&id(&"ü".repeat(128)), first, Phase::Firing),
    ];
    assert_eq!(keys[0], "R-firing-30000000.0-7289c1da92f8f82490e3280b1bbb9dc6");
    for key in &keys {
        let is_safe = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        assert!(key.len() <= 128 && key.chars().all(is_safe), "{key}");
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 10);
}

/// Whoever is told of what: `pager: firing A`.
fn tell(ledger: &mut Ledger, second: u64, outcome: &Result<(), SendFailure>) -> Vec<String> {
    let due = ledger.due(at(second));
    let told = due.into_iter().map(|Due { notifier, group, alerts, dedup_key, .. }| {
        let words: Vec<String> =
            alerts.iter().map(|(alert, _)| format!("{} {}", alert.phase.as_str(), alert.id.rule)).collect();
        let told = format!("{notifier}: {}", words.join(", "));
        ledger.record(&Delivery { notifier, group, dedup_key, outcome: outcome.clone() }, at(second));
        told
    });
    told.collect()
}

fn only(key: &str, patterns: &[&str]) -> Selector {
    use crate::core::silence::selector::SelectorConfig;
    let patterns = crate::core::rule::OneOrMany(patterns.iter().map(|pattern| (*pattern).to_owned()).collect());
    let mut config = SelectorConfig::default();
    match key {
        "severity" => config.severity = patterns,
        "cluster" => config.cluster = patterns,
        _ => config.rule = patterns,
    }
    Selector::parse(&config).expect("a good selector")
}

#[test]
fn each_hears_of_what_it_takes_and_of_nothing_else() {
    let recipients = vec![
        each("all"),
        Recipient { only: only("rule", &["A*", "C"]), ..each("by_rule") },
        Recipient { only: only("cluster", &["ord*"]), ..each("by_cluster") },
        Recipient { only: only("cluster", &["billing"]), ..each("elsewhere") },
        Recipient { only: only("severity", &["critical"]), ..each("by_severity") },
    ];
    let mut ledger = Ledger::new(recipients, AlertingConfig::IMMEDIATE);
    for rule in ["A1", "B"] {
        ledger.set(view(rule, Phase::Firing, 0), Episode::begin(wall(0), None), at(0));
    }
    // Of the daemon itself everybody hears, whatever their clusters are.
    let own = AlertId { cluster: Name::new("pgvigil"), target: None, ..id("MonitorIsolated") };
    let own = AlertView { id: own, severity: Severity::Critical, ..view("A", Phase::Firing, 0) };
    ledger.set(own, Episode::begin(wall(0), None), at(0));
    let mut told = tell(&mut ledger, 0, &Result::Ok(()));
    told.sort();
    let expect = [
        "all: firing A1",
        "all: firing B",
        "all: firing MonitorIsolated",
        "by_cluster: firing A1",
        "by_cluster: firing B",
        "by_cluster: firing MonitorIsolated",
        "by_rule: firing A1",
        "by_severity: firing MonitorIsolated",
        "elsewhere: firing MonitorIsolated",
    ];
    assert_eq!(told, expect);
    // No line was made for the others.
    let (_, kept) = ledger.saved().find(|(id, _)| id.rule.as_str() == "B").expect("it fires");
    assert_eq!(kept.told.keys().map(Name::as_str).collect::<Vec<_>>(), ["all", "by_cluster"]);
}

#[test]
fn an_alert_that_grows_is_told_to_those_who_take_it_then_and_so_is_its_end() {
    let pager = Recipient { only: only("severity", &["critical"]), ..each("pager") };
    let mut ledger = Ledger::new(vec![pager], AlertingConfig::IMMEDIATE);
    let at_severity = |ledger: &mut Ledger, second, phase, severity| {
        let alert = AlertView { severity, ..view("A", phase, 0) };
        ledger.set(alert, Episode::begin(wall(0), None), at(second));
        tell(ledger, second, &Result::Ok(()))
    };
    let none = [""; 0];
    assert_eq!(at_severity(&mut ledger, 0, Phase::Firing, Severity::Warning), none);
    assert_eq!(at_severity(&mut ledger, 10, Phase::Firing, Severity::Critical), ["pager: firing A"]);
    assert_eq!(at_severity(&mut ledger, 20, Phase::Firing, Severity::Warning), none);
    // Kept over a restart with another configuration, too: who heard the begin hears the end.
    let saved: Vec<(AlertId, SavedAccount)> = ledger.saved().map(|(id, saved)| (id.clone(), saved)).collect();
    let mut ledger =
        Ledger::new(vec![Recipient { only: only("rule", &["Other"]), ..each("pager") }], AlertingConfig::IMMEDIATE);
    for (id, saved) in saved {
        ledger.restore(id, saved, at(25));
    }
    assert_eq!(at_severity(&mut ledger, 30, Phase::Resolved, Severity::Warning), ["pager: resolved A"]);
    assert_eq!(at_severity(&mut ledger, 4000, Phase::Firing, Severity::Critical), none);
}

#[test]
fn who_need_not_hear_the_end_hears_every_begin() {
    let phone = Recipient { hears_resolved: false, ..each("phone") };
    let mut ledger = Ledger::new(vec![phone, each("mail")], AlertingConfig::IMMEDIATE);
    let away = Err(SendFailure::Unclear("no answer".to_owned()));
    let mut step = |second: u64, phase, began: u64, outcome: &Result<(), SendFailure>| {
        ledger.set(view("A", phase, began), Episode::begin(wall(began), None), at(second));
        tell(&mut ledger, second, outcome)
    };
    assert_eq!(step(0, Phase::Firing, 0, &Result::Ok(())), ["phone: firing A", "mail: firing A"]);
    assert_eq!(step(60, Phase::Resolved, 0, &Result::Ok(())), ["mail: resolved A"]);
    assert_eq!(step(120, Phase::Firing, 120, &away), ["phone: firing A", "mail: firing A"]);
    assert_eq!(step(180, Phase::Resolved, 120, &Result::Ok(())), ["mail: resolved A"]);
    assert_eq!(step(240, Phase::Firing, 240, &Result::Ok(())), ["phone: firing A", "mail: firing A"]);
}

#[test]
fn a_notifier_under_another_name_is_known_by_where_it_leads() {
    let leads = |name: &str, to: &str| Recipient {
        address: Some(Recipient::address_of([to].into_iter())),
        only: if to == "B" { only("severity", &["critical"]) } else { Selector::default() },
        ..each(name)
    };
    let step = |ledger: &mut Ledger, second: u64, phase| {
        ledger.set(view("A", phase, 0), Episode::begin(wall(0), None), at(second));
        tell(ledger, second, &Result::Ok(()))
    };
    let mut ledger = Ledger::new(vec![leads("sns-1", "B"), leads("sns-2", "A")], AlertingConfig::IMMEDIATE);
    assert_eq!(step(&mut ledger, 0, Phase::Firing), ["sns-2: firing A"]);
    // Each takes the place of another, and one comes.
    let now = vec![leads("hook", "C"), leads("sns-2", "B"), leads("sns-3", "A")];
    ledger.set_recipients(now, AlertingConfig::IMMEDIATE, at(10));
    assert_eq!(tell(&mut ledger, 10, &Result::Ok(())), ["hook: firing A"]);
    // Over a restart as well.
    let saved: Vec<(AlertId, SavedAccount)> = ledger.saved().map(|(id, saved)| (id.clone(), saved)).collect();
    let mut ledger = Ledger::new(vec![leads("people", "A"), leads("hook", "C")], AlertingConfig::IMMEDIATE);
    for (id, saved) in saved {
        ledger.restore(id, saved, at(20));
    }
    assert_eq!(tell(&mut ledger, 20, &Result::Ok(())), [""; 0]);
    assert_eq!(step(&mut ledger, 30, Phase::Resolved), ["people: resolved A", "hook: resolved A"]);
    // One that leads elsewhere under its name goes on as it was: so had it heard, whoever reads there now.
    let mut ledger = Ledger::new(vec![leads("pager", "A")], AlertingConfig::IMMEDIATE);
    assert_eq!(step(&mut ledger, 40, Phase::Firing), ["pager: firing A"]);
    ledger.set_recipients(vec![leads("pager", "D")], AlertingConfig::IMMEDIATE, at(50));
    assert_eq!(step(&mut ledger, 60, Phase::Resolved), ["pager: resolved A"]);
}
