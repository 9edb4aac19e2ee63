//! Whole lives of alerts, on an invented clock: views in, notices out, every notice taken unless said otherwise.

use super::*;
use crate::core::alert::Severity;
use crate::core::explain::Explanation;
use crate::core::glob::Glob;
use crate::core::lag::{Certainty, Evidence, LagEstimate, Method};
use crate::core::ledger::{Purpose, SendFailure};
use crate::core::observation::{
    Flavor, Identity, PollFailure, Positions, PrimaryState, Receiver, ReplayPause, ServerAddress, ServerState,
    StandbyState, StatementsAccess,
};
use crate::core::pooler::PoolerFacts;
use crate::core::rule::tests::{SIGNALS, config};
use crate::core::rule::{OneOrMany, RuleConfig, WhenUnknown};
use crate::core::signal::Signal;
use crate::core::silence::selector::Selector;
use crate::core::silence::{Change, Length, NewSilence};
use crate::core::snapshot::PoolerView;
use crate::core::snapshot::{Answer, Failing, SurveyView};
use crate::core::standby_settings::StandbySettings;
use crate::core::survey::{Sessions, Slot, SurveyFacts};
use crate::core::time::ServerTime;
use crate::core::topology::{Role, TargetId};
use crate::core::wal::{Lsn, Timeline};

mod properties;
mod rules;

const POLL: Duration = Duration::from_secs(1);

pub(super) fn at(seconds: f64) -> MonoTime {
    MonoTime::from_nanos(0).plus_seconds(seconds)
}

pub(super) fn wall(seconds: f64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + Duration::from_secs_f64(seconds)
}

/// A server that answered at second 0.
fn server(name: &str, role: Role) -> TargetView {
    let state = match role {
        Role::Primary => {
            ServerState::Primary(PrimaryState { flush_lsn: Lsn::new(100), timeline: Timeline(1), checkpoint: None })
        }
        Role::Replica => ServerState::Standby(StandbyState {
            replay_lsn: None,
            receive_lsn: None,
            last_commit_replayed_at: None,
            control_timeline: None,
            pause: ReplayPause::NotPaused,
            receiver: Receiver::Absent,
            wait: None,
        }),
    };
    let identity = Arc::new(Identity {
        version_num: 150_018,
        version: "15.18".to_owned(),
        flavor: Flavor::PostgreSql,
        system_identifier: None,
        started_at: ServerTime::from_unix_micros(0),
        cluster_name: String::new(),
        user: "pgvigil".to_owned(),
        reads_all_stats: false,
        statements: StatementsAccess::NotCreated,
        tls: false,
        pooled: false,
        address: ServerAddress::default(),
        standby_settings: StandbySettings::default(),
    });
    let positions =
        Positions { identity, clock: ServerTime::from_unix_micros(0), state, senders: vec![], sees_senders: false };
    let answer = Answer { asked_at: at(0.0), answered_at: at(0.0), positions: Arc::new(positions) };
    TargetView { answer: Some(answer), ..TargetView::new(TargetId::new("orders", name), Duration::from_secs(10)) }
}

pub(super) fn replica(name: &str, lag: Option<LagEstimate>) -> TargetView {
    TargetView { lag, survey: with_slots(Some(&[])).survey, ..server(name, Role::Replica) }
}

fn estimate(value: f64, lower: f64, upper: f64, certainty: Certainty) -> Option<LagEstimate> {
    let method = Method {
        evidence: Evidence::Lsn,
        last_known: false,
        upstream: false,
        old_timeline: false,
        primary_lost: certainty == Certainty::AtLeast,
    };
    Some(LagEstimate { value: Some(value), lower, upper, certainty, method })
}

pub(super) fn exact(seconds: f64) -> Option<LagEstimate> {
    estimate(seconds, seconds, seconds, Certainty::Exact)
}

fn with_slots(slots: Option<&[(&str, u64)]>) -> TargetView {
    let slot = |&(name, retained): &(&str, u64)| Slot {
        name: name.to_owned(),
        slot_type: "physical",
        retained_bytes: Some(retained),
        ..Slot::default()
    };
    let survey = slots.map(|slots| SurveyView {
        asked_at: at(0.0),
        answered_at: at(0.0),
        facts: Arc::new(SurveyFacts {
            sessions: Some(Sessions { max_connections: 100, reserved_connections: 3, ..Sessions::default() }),
            slots: Some(slots.iter().map(slot).collect()),
            apply_delay_seconds: Some(0.0),
            ..SurveyFacts::default()
        }),
        stale_after: Duration::from_secs(9999),
    });
    TargetView { survey, ..server("p", Role::Primary) }
}

pub(super) fn cluster(targets: Vec<TargetView>) -> Vec<Arc<ClusterView>> {
    let index = targets.iter().enumerate().map(|(place, target)| (target.id.target.clone(), place)).collect();
    vec![Arc::new(ClusterView {
        rds_events: Arc::default(),
        events: Arc::from([]),
        poolers: Vec::new(),
        redis: Arc::from([]),
        cloudwatch: Arc::default(),
        name: Name::new("orders"),
        primary: None,
        targets: targets.into_iter().map(Arc::new).collect(),
        index: Arc::new(index),
        alerts: Arc::default(),
    })]
}

pub(super) fn alerting(rules: &[RuleConfig]) -> Alerting {
    let rules = Rule::parse_all(rules, SIGNALS).expect("good rules");
    Alerting::new(rules, vec![Recipient::new("pager")], POLL, AlertingConfig::IMMEDIATE)
}

/// Judges, and takes what is due: `firing ReplicaLagging orders/r1 6`.
pub(super) fn tick(alerting: &mut Alerting, second: f64, clusters: &[Arc<ClusterView>]) -> Vec<String> {
    let (now, wall) = (at(second), wall(second));
    alerting.judge(clusters, now, wall);
    let notices = alerting.due(clusters, now, wall);
    for notice in &notices {
        alerting.record(&delivery(notice, Ok(())), now);
    }
    let entries = notices.iter().flat_map(|notice| &notice.alerts);
    entries
        .map(|Entry { alert, .. }| {
            let reading = alert.reading.map_or("?".to_owned(), |reading| reading.to_string());
            format!("{} {} {reading}", alert.phase.as_str(), alert.id)
        })
        .collect()
}

pub(super) fn delivery(notice: &Notice, outcome: Result<(), SendFailure>) -> Delivery {
    notice.ended(outcome)
}

/// A second, the clusters then, and what is told.
type Step<'a> = (f64, Vec<Arc<ClusterView>>, &'a [&'a str]);

fn check(rules: &[RuleConfig], steps: Vec<Step<'_>>) {
    let mut alerting = alerting(rules);
    for (second, clusters, expect) in steps {
        assert_eq!(tick(&mut alerting, second, &clusters), expect, "at {second} s");
    }
}

pub(super) fn lagging(hold_for: Option<u64>) -> RuleConfig {
    RuleConfig { hold_for: hold_for.map(Duration::from_secs), ..config("Lag", "replay_lag_seconds > 5s") }
}

pub(super) fn one(lag: Option<LagEstimate>) -> Vec<Arc<ClusterView>> {
    cluster(vec![replica("r1", lag)])
}

#[test]
fn a_replica_that_lags_is_told_once_and_so_is_its_recovery() {
    check(
        &[lagging(Some(60))],
        vec![
            (0.0, one(exact(0.0)), &[]),
            (1.0, one(exact(6.0)), &[]),
            (60.0, one(exact(65.0)), &[]),
            (61.0, one(exact(66.0)), &["firing Lag orders/r1 66"]),
            (62.0, one(exact(67.0)), &[]),
            (90.0, one(exact(0.5)), &["resolved Lag orders/r1 0.5"]),
            (91.0, one(exact(0.0)), &[]),
        ],
    );
}

#[test]
fn a_proven_breach_fires_at_once_and_an_estimate_after_two_polls() {
    let doubtful = || one(estimate(6.0, 0.0, 9.0, Certainty::AtMost));
    check(&[lagging(None)], vec![(0.0, one(exact(6.0)), &["firing Lag orders/r1 6"])]);
    check(
        &[lagging(None)],
        vec![(0.0, doubtful(), &[]), (1.0, doubtful(), &[]), (2.0, doubtful(), &["firing Lag orders/r1 6"])],
    );
}

#[test]
fn an_alert_does_not_resolve_while_the_upper_bound_breaches() {
    check(
        &[lagging(None)],
        vec![
            (0.0, one(exact(6.0)), &["firing Lag orders/r1 6"]),
            (1.0, one(estimate(0.0, 0.0, f64::INFINITY, Certainty::AtLeast)), &[]),
            (2.0, one(estimate(0.0, 0.0, 4.0, Certainty::AtMost)), &["resolved Lag orders/r1 0"]),
        ],
    );
}

#[test]
fn a_lag_that_cannot_be_told_is_held_cleared_or_a_breach_as_the_rule_says() {
    let rule = |when_unknown| RuleConfig { when_unknown: Some(when_unknown), ..lagging(None) };
    let steps = |unknown: &'static [&'static str], known: &'static [&'static str]| {
        vec![
            (0.0, one(exact(6.0)), &["firing Lag orders/r1 6"][..]),
            (1.0, one(None), unknown),
            (500.0, one(None), &[]),
            (501.0, one(exact(0.0)), known),
        ]
    };
    check(&[rule(WhenUnknown::Hold)], steps(&[], &["resolved Lag orders/r1 0"]));
    check(&[rule(WhenUnknown::Clear)], steps(&["resolved Lag orders/r1 6"], &[]));
    check(&[rule(WhenUnknown::Breach)], steps(&[], &["resolved Lag orders/r1 0"]));
    // Unknown from the start.
    let silence = |told: &'static [&'static str]| {
        vec![(0.0, one(None), &[][..]), (1.0, one(None), &[]), (2.0, one(None), told), (3.0, one(None), &[])]
    };
    check(&[rule(WhenUnknown::Hold)], silence(&[]));
    check(&[rule(WhenUnknown::Clear)], silence(&[]));
    check(&[rule(WhenUnknown::Breach)], silence(&["firing Lag orders/r1 ?"]));
}

#[test]
fn a_slot_that_is_dropped_resolves_and_one_that_cannot_be_seen_does_not() {
    let rule = config("Slot", "slot_inactive_retained_bytes > 1kB");
    let slots = |slots: Option<&[(&str, u64)]>| cluster(vec![with_slots(slots)]);
    check(
        &[rule],
        vec![
            (
                0.0,
                slots(Some(&[("a", 2000), ("b", 3000), ("c", 0)])),
                &["firing Slot orders/p slot=a 2000", "firing Slot orders/p slot=b 3000"],
            ),
            (1.0, slots(None), &[]),
            (2.0, slots(Some(&[("b", 4000)])), &["resolved Slot orders/p slot=a 2000"]),
            (3.0, slots(Some(&[("b", 900)])), &["resolved Slot orders/p slot=b 900"]),
        ],
    );
}

#[test]
fn a_slot_whose_trouble_begins_later_is_not_taken_for_another() {
    let rule = config("Slot", "slot_inactive_retained_bytes > 1kB");
    let slots = |slots: &[(&str, u64)]| cluster(vec![with_slots(Some(slots))]);
    check(
        &[rule],
        vec![
            (0.0, slots(&[("a", 0), ("b", 0), ("c", 3000)]), &["firing Slot orders/p slot=c 3000"]),
            (1.0, slots(&[("a", 1500), ("b", 0), ("c", 3000)]), &["firing Slot orders/p slot=a 1500"]),
            (2.0, slots(&[("a", 1500), ("b", 2000), ("c", 3000)]), &["firing Slot orders/p slot=b 2000"]),
            (3.0, slots(&[("a", 1500), ("b", 2000), ("c", 3000)]), &[]),
            (4.0, slots(&[("a", 1500), ("b", 2000), ("c", 0)]), &["resolved Slot orders/p slot=c 0"]),
        ],
    );
}

#[test]
fn slots_that_cannot_be_seen_breach_as_a_whole() {
    let rule =
        RuleConfig { when_unknown: Some(WhenUnknown::Breach), ..config("Slot", "slot_inactive_retained_bytes > 1kB") };
    let slots = |slots: Option<&[(&str, u64)]>| cluster(vec![with_slots(slots)]);
    check(
        &[rule],
        vec![
            (0.0, slots(None), &[]),
            (2.0, slots(None), &["firing Slot orders/p ?"]),
            (3.0, slots(Some(&[("a", 10)])), &["resolved Slot orders/p ?"]),
        ],
    );
}

#[test]
fn a_target_that_is_no_longer_watched_resolves() {
    check(
        &[lagging(None)],
        vec![
            (0.0, one(exact(6.0)), &["firing Lag orders/r1 6"]),
            (1.0, cluster(vec![]), &["resolved Lag orders/r1 6"]),
            (2.0, one(exact(6.0)), &["firing Lag orders/r1 6"]),
            (3.0, vec![], &["resolved Lag orders/r1 6"]),
        ],
    );
}

#[test]
fn a_rule_keeps_to_what_it_selects() {
    let two = || cluster(vec![replica("r1", exact(6.0)), replica("r2", exact(7.0))]);
    for (rule, expect) in [
        (lagging(None), &["firing Lag orders/r1 6", "firing Lag orders/r2 7"][..]),
        (RuleConfig { target: OneOrMany(vec!["r2".into()]), ..lagging(None) }, &["firing Lag orders/r2 7"]),
        (RuleConfig { cluster: OneOrMany(vec!["payments".into()]), ..lagging(None) }, &[]),
        (
            RuleConfig {
                cluster: OneOrMany(vec!["orders".into()]),
                target: OneOrMany(vec!["r1".into()]),
                ..lagging(None)
            },
            &["firing Lag orders/r1 6"],
        ),
        (RuleConfig { role: Some(Role::Primary), ..lagging(None) }, &[]),
        (RuleConfig { certainty: OneOrMany(vec!["at_least".into()]), ..lagging(None) }, &[]),
    ] {
        check(&[rule], vec![(0.0, two(), expect)]);
    }
}

#[test]
fn a_replica_that_is_promoted_leaves_the_rules_of_replicas() {
    let rule = RuleConfig { role: Some(Role::Replica), ..lagging(None) };
    let promoted = TargetView { lag: exact(9.0), ..server("r1", Role::Primary) };
    let silent = TargetView { answer: None, ..replica("r1", exact(9.0)) };
    check(
        &[rule],
        vec![
            (0.0, one(exact(6.0)), &["firing Lag orders/r1 6"]),
            (1.0, cluster(vec![silent]), &[]),
            (2.0, cluster(vec![promoted]), &["resolved Lag orders/r1 6"]),
        ],
    );
}

#[test]
fn two_primaries_are_an_alert_on_the_cluster() {
    let rule = config("SeveralPrimaries", "primaries > 1");
    let two = || cluster(vec![server("a", Role::Primary), server("b", Role::Primary)]);
    let one = cluster(vec![server("a", Role::Primary), server("b", Role::Replica)]);
    check(
        &[rule],
        vec![(0.0, two(), &["firing SeveralPrimaries orders 2"]), (1.0, one, &["resolved SeveralPrimaries orders 1"])],
    );
}

#[test]
fn the_built_in_rules_tell_a_lost_primary_from_a_lagging_replica() {
    let rules = crate::core::rule::preset();
    let mut lost = alerting(&rules);
    let doubtful = || one(estimate(0.0, 0.0, 400.0, Certainty::AtLeast));
    assert_eq!(tick(&mut lost, 0.0, &doubtful()), [] as [&str; 0]);
    assert_eq!(tick(&mut lost, 60.0, &doubtful()), ["firing ReplicaLagUnproven orders/r1 400"]);
    assert_eq!(tick(&mut lost, 61.0, &one(exact(0.0))), ["resolved ReplicaLagUnproven orders/r1 400"]);
    check(
        &rules,
        vec![
            (0.0, one(exact(400.0)), &["firing ReplicaLagCritical orders/r1 400"]),
            (15.0, one(exact(415.0)), &["firing ReplicaLagging orders/r1 415"]),
            (600.0, one(exact(999.0)), &[]),
            (
                601.0,
                one(exact(0.1)),
                &["resolved ReplicaLagCritical orders/r1 0.1", "resolved ReplicaLagging orders/r1 0.1"],
            ),
        ],
    );
}

#[test]
fn a_notice_says_all_that_is_known() {
    let mut alerting = alerting(&[lagging(None)]);
    let failure = PollFailure::Refused;
    let failing = Failing { since: at(-30.0), last_at: at(0.0), failure, count: 3 };
    let target =
        TargetView { failing: Some(failing), ..replica("r1", estimate(6.0, 4.5, f64::INFINITY, Certainty::AtLeast)) };
    let clusters = cluster(vec![target]);
    alerting.judge(&clusters, at(0.0), wall(0.0));
    alerting.judge(&clusters, at(2.0), wall(2.0));
    let notices = alerting.due(&clusters, at(5.0), wall(5.0));
    let detail = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let id =
        AlertId { rule: Name::new("Lag"), cluster: Name::new("orders"), target: Some(Name::new("r1")), labels: vec![] };
    assert_eq!(
        notices,
        [Notice {
            notifier: Name::new("pager"),
            group: notices[0].group.clone(),
            purpose: Purpose::Alerts,
            dedup_key: notices[0].dedup_key.clone(),
            alerts: vec![Entry {
                alert: AlertView {
                    id,
                    severity: Severity::Warning,
                    phase: Phase::Firing,
                    active_at: at(0.0),
                    fired_at: Some(at(2.0)),
                    resolved_at: None,
                    reading: Some(6.0),
                    is_unknown: false,
                    condition: "replay_lag_seconds > 5s".to_owned(),
                    unit: crate::core::signal::Unit::Seconds,
                    gone: None,
                    recent: notices[0].alerts[0].alert.recent,
                    rule_labels: vec![],
                    summary: None,
                    runbook: None,
                    muted: vec![],
                },
                dedup_key: notices[0].dedup_key.clone(),
                active_at: wall(0.0),
                fired_at: Some(wall(2.0)),
                resolved_at: None,
                recent: vec![(wall(0.0), 6.0), (wall(2.0), 6.0)],
                told: Explanation {
                    state: "orders/r1 is at least 6s behind its primary".to_owned(),
                    role: Some(Role::Replica),
                    diagnosis: None,
                    details: vec![
                        detail("error", "connection refused"),
                        detail("failing_for", "35s"),
                        detail("certainty", "at_least"),
                        detail("method", "lsn~primary_lost"),
                        detail("at_least", "4.5s"),
                        detail("at_most", "unbounded"),
                        detail("server", "15.18"),
                        detail("meaning", Signal::named("replay_lag_seconds").expect("there is").help),
                    ],
                    sensitive: vec![],
                },
            }],
            also_firing: vec![],
            attempt: 1,
        }]
    );
}

#[test]
fn an_alert_told_late_is_told_with_its_present_reading() {
    let mut alerting = alerting(&[lagging(None)]);
    alerting.judge(&one(exact(6.0)), at(0.0), wall(0.0));
    let notice = alerting.due(&[], at(0.0), wall(0.0)).remove(0);
    alerting.record(&delivery(&notice, Err(SendFailure::Transient("busy".into()))), at(0.0));
    assert_eq!(tick(&mut alerting, 1.0, &one(exact(7.0))), [] as [&str; 0]);
    assert_eq!(tick(&mut alerting, 2.0, &one(exact(8.0))), ["firing Lag orders/r1 8"]);
}

#[test]
fn twin_daemons_give_one_key_and_a_flap_within_a_minute_another() {
    let keys = |offset: f64| {
        let mut alerting = alerting(&[lagging(None)]);
        let mut keys = Vec::new();
        for (second, lag) in [(0.0, 6.0), (5.0, 0.0), (10.0, 6.0), (15.0, 0.0), (70.0, 6.0), (75.0, 0.0)] {
            let (now, wall) = (at(second + offset * 1000.0), wall(second + offset));
            let clusters = one(exact(lag));
            alerting.judge(&clusters, now, wall);
            for notice in alerting.due(&clusters, now, wall) {
                keys.push(notice.dedup_key.clone());
                alerting.record(&delivery(&notice, Ok(())), now);
            }
        }
        keys
    };
    let ours = keys(0.0);
    assert_eq!(ours, keys(1.7));
    let mut distinct = ours.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!((ours.len(), distinct.len()), (6, 6));
}

#[test]
fn a_resolved_alert_is_shown_for_a_quarter_of_an_hour() {
    let mut alerting = alerting(&[lagging(Some(10)), config("Now", "replay_lag_seconds > 7s")]);
    let shown = |alerting: &Alerting| {
        let views = alerting.views(&Name::new("orders"));
        views.iter().map(|view| format!("{} {}", view.phase.as_str(), view.id.rule)).collect::<Vec<_>>()
    };
    for (second, lag, expect) in [
        (0.0, 6.0, &["pending Lag"][..]),
        (10.0, 6.0, &["firing Lag"]),
        (11.0, 8.0, &["firing Lag", "firing Now"]),
        (12.0, 6.0, &["firing Lag", "resolved Now"]),
        (20.0, 0.0, &["resolved Lag", "resolved Now"]),
        (30.0, 6.0, &["pending Lag", "resolved Now"]),
        (31.0, 0.0, &["resolved Lag", "resolved Now"]),
        (912.0, 0.0, &["resolved Lag"]),
        (920.0, 0.0, &[]),
    ] {
        tick(&mut alerting, second, &one(exact(lag)));
        assert_eq!(shown(&alerting), expect, "at {second} s");
    }
    assert_eq!(alerting.rules.iter().map(|watch| watch.alerts.len()).sum::<usize>(), 0);
    assert_eq!(*alerting.views(&Name::new("payments")), []);
}

#[test]
fn a_pool_whose_clients_wait_is_an_alert_of_its_pooler() {
    let mut watched = cluster(Vec::new());
    let view = Arc::make_mut(&mut watched[0]);
    view.poolers = vec![Arc::new(crate::core::fixture::pooler("orders", "pgb"))];
    let change = |watched: &mut Vec<Arc<ClusterView>>, change: &dyn Fn(&mut PoolerView)| {
        change(Arc::make_mut(&mut Arc::make_mut(&mut watched[0]).poolers[0]));
    };
    let rule = RuleConfig { hold_for: Some(Duration::ZERO), ..config("Exhausted", "pooler_longest_wait_seconds > 5s") };
    let mut alerting = alerting(&[rule]);
    let now = crate::core::fixture::NOW;
    let mut told = |watched: &[Arc<ClusterView>], seconds: f64| {
        let now = now.plus_seconds(seconds);
        alerting.judge(watched, now, SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
        let due = alerting.due(watched, now, SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
        for notice in &due {
            alerting.record(&delivery(notice, Ok(())), now);
        }
        due
    };
    let fired = told(&watched, 0.0);
    let id = &fired[0].alerts[0].alert.id;
    assert_eq!(
        (
            fired.len(),
            id.target.as_ref().map(Name::as_str),
            id.labels.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>()
        ),
        (1, Some("pgb"), vec!["reports", "app"])
    );
    assert!(
        fired[0].alerts[0].told.details.contains(&("clients_waiting".to_owned(), "4".to_owned())),
        "{:?}",
        fired[0].alerts[0].told.details
    );
    assert!(
        fired[0].alerts[0].told.details.contains(&("pooler".to_owned(), "1.18.0".to_owned())),
        "{:?}",
        fired[0].alerts[0].told.details
    );

    // Silence is not recovery; a pool that is there no more is.
    assert!(told(&watched, 100.0).is_empty());
    change(&mut watched, &|pooler| {
        let answer = pooler.answer.as_mut().unwrap();
        answer.answered_at = now.plus_seconds(101.0);
        answer.facts = Arc::new(PoolerFacts::default());
    });
    let resolved = told(&watched, 101.5);
    assert_eq!(resolved.len(), 1);
    assert!(resolved[0].alerts[0].resolved_at.is_some());
}

#[test]
fn an_alert_about_two_primaries_names_them() {
    let mut promoted = server("b", Role::Primary);
    crate::core::fixture::change_positions(&mut promoted, |positions| {
        if let ServerState::Primary(primary) = &mut positions.state {
            primary.timeline = Timeline(2);
        }
    });
    let mut silent = server("c", Role::Primary);
    silent.failing = Some(Failing { since: at(0.0), last_at: at(0.0), failure: PollFailure::Refused, count: 1 });
    let watched = cluster(vec![server("a", Role::Primary), promoted, silent, replica("r1", None)]);
    let rule = RuleConfig { hold_for: Some(Duration::ZERO), ..config("SplitBrain", "primaries > 1") };
    let rules = Rule::parse_all(&[rule], &crate::core::signal::SIGNALS).expect("is good");
    let mut alerting = Alerting::new(rules, vec![Recipient::new("log")], POLL, AlertingConfig::IMMEDIATE);
    alerting.judge(&watched, at(1.0), wall(1.0));
    let due = alerting.due(&watched, at(1.0), wall(1.0));
    let names =
        due[0].alerts[0].told.details.iter().find(|(name, _)| name == "primaries").map(|(_, names)| names.as_str());
    assert_eq!(names, Some("a (timeline 1), b (timeline 2)"));
}

/// Silences what the rule `Lag` says of anything for so many seconds.
fn silenced(alerting: &mut Alerting, second: f64, seconds: u64) {
    let new = NewSilence {
        selector: Selector { rule: vec![Glob::new("Lag")], ..Selector::default() },
        all: false,
        author: "ada".to_owned(),
        reason: "a test".to_owned(),
        length: Length::For(Duration::from_secs(seconds)),
    };
    alerting.silences_mut().change(Change::Add(new), at(second), wall(second)).expect("a silence");
}

#[test]
fn what_is_silenced_is_shown_and_told_when_the_silence_ends() {
    let mut alerting = alerting(&[lagging(None)]);
    silenced(&mut alerting, 0.0, 60);
    for second in [0.0, 1.0, 59.0] {
        assert_eq!(tick(&mut alerting, second, &one(exact(6.0))), [""; 0], "at {second} s");
        let views = alerting.views(&Name::new("orders"));
        assert_eq!((views[0].phase, views[0].muted.len()), (Phase::Firing, 1));
    }
    assert_eq!(tick(&mut alerting, 60.0, &one(exact(6.0))), ["firing Lag orders/r1 6"]);
    // One that ends while it is silenced is never told.
    let mut alerting = self::alerting(&[lagging(None)]);
    silenced(&mut alerting, 0.0, 60);
    assert_eq!(tick(&mut alerting, 0.0, &one(exact(6.0))), [""; 0]);
    assert_eq!(tick(&mut alerting, 10.0, &one(exact(0.0))), [""; 0]);
    assert_eq!(tick(&mut alerting, 99.0, &one(exact(0.0))), [""; 0]);
}

#[test]
fn who_heard_that_it_fires_hears_that_it_resolved_also_when_it_was_silenced_since() {
    let mut alerting = alerting(&[lagging(None)]);
    assert_eq!(tick(&mut alerting, 0.0, &one(exact(6.0))), ["firing Lag orders/r1 6"]);
    silenced(&mut alerting, 1.0, 60);
    assert_eq!(tick(&mut alerting, 2.0, &one(exact(6.0))), [""; 0]);
    assert_eq!(tick(&mut alerting, 10.0, &one(exact(0.0))), ["resolved Lag orders/r1 0"]);
    assert_eq!(tick(&mut alerting, 99.0, &one(exact(0.0))), [""; 0]);
}

#[test]
fn a_wait_that_is_over_resolves_as_a_low_reading_does() {
    use crate::core::fixture;
    let rule = RuleConfig {
        hold_for: Some(Duration::ZERO),
        keep_firing_for: Some(Duration::from_secs(10)),
        summary: Some("waits: {{ reading }}".to_owned()),
        ..config("Locks", "lock_wait_longest_seconds > 5s")
    };
    let rules = Rule::parse_all(&[rule], &crate::core::signal::SIGNALS).expect("a good rule");
    let mut alerting = Alerting::new(rules, vec![Recipient::new("pager")], POLL, AlertingConfig::IMMEDIATE);
    for (second, wait, expect) in [
        (0.0, Some(8.0), Some("firing: orders/db-1 has a session that has waited 8s for a lock; waits: 8s")),
        (5.0, None, None),
        (12.0, None, None),
        (20.0, None, Some("resolved: orders/db-1 has no session that waits for a lock; waits: none")),
        (21.0, None, None),
    ] {
        let mut target = fixture::primary("orders", "db-1");
        fixture::change_sessions(&mut target, |sessions| {
            sessions.activity.as_mut().expect("is known").longest_lock_wait = wait;
        });
        let clusters = [Arc::new(fixture::cluster("orders", vec![target], Vec::new()))];
        let now = fixture::NOW.plus_seconds(second);
        alerting.judge(&clusters, now, wall(second));
        let due = alerting.due(&clusters, now, wall(second));
        let told = due.first().map(|notice| {
            alerting.record(&delivery(notice, Ok(())), now);
            let Entry { alert, told, .. } = &notice.alerts[0];
            assert_eq!(alert.gone, None);
            let summary = alert.summary.as_deref().unwrap_or_default();
            format!("{}: {}; {summary}", alert.phase.as_str(), told.state)
        });
        assert_eq!(told.as_deref(), expect, "at {second} s");
    }
}

#[test]
fn an_alert_that_began_before_1970_by_a_clock_that_was_not_set_is_told() {
    let mut alerting = alerting(&[lagging(Some(60))]);
    let clusters = one(exact(6.0));
    let unset = |second: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
    alerting.judge(&clusters, at(0.0), unset(1_800_000_000));
    alerting.judge(&clusters, at(60.0), unset(5));
    let entry = alerting.due(&clusters, at(60.0), unset(5)).remove(0).alerts.remove(0);
    assert_eq!((entry.active_at, entry.fired_at), (unset(0), Some(unset(5))));
    // And of one that is far ahead the last time that can be written.
    let late = unset(900_000_000_000);
    alerting.judge(&one(exact(0.0)), at(61.0), late);
    let mut told = alerting.due(&clusters, at(61.0), late);
    assert!(told.iter_mut().all(|notice| notice.alerts.remove(0).resolved_at == Some(unset(253_402_300_799))));
}
