//! What follows from a fault is not told beside it; and when it is this daemon that is cut off, that is told alone.

use std::collections::BTreeSet;

use super::tests::{at, delivery, wall};
use super::*;
use crate::core::discovery::{Happening, InstanceFacts, InstanceView, RdsEvent};
use crate::core::fixture;
use crate::core::ledger::pacing::AlertingConfig;
use crate::core::observation::PollFailure;
use crate::core::rule::{RuleConfig, preset};
use crate::core::signal::SIGNALS;
use crate::core::snapshot::Failing;
use crate::core::topology::failover::Outage;
use crate::core::topology::links::{Links, Upstream};
use crate::core::wal::Timeline;

fn silent() -> PollFailure {
    PollFailure::Timeout { doing: "connecting".to_owned(), limit_ms: 3000 }
}

fn failing(failure: PollFailure, since: f64) -> Option<Failing> {
    Some(Failing {
        since: fixture::NOW.plus_seconds(since),
        last_at: fixture::NOW.plus_seconds(since),
        failure,
        count: 5,
    })
}

/// Clusters of a primary `p` and replicas `r1`, `r2` and so on, each below the one before it.
fn clusters(names: &[&str], n_replicas: usize) -> Vec<ClusterView> {
    let of = |name: &&str| {
        let mut targets = vec![fixture::primary(name, "p")];
        for number in 1..=n_replicas {
            let mut replica = fixture::replica(name, &format!("r{number}"));
            let above = if number == 1 { "p".to_owned() } else { format!("r{}", number - 1) };
            replica.links = Arc::new(Links {
                upstream: Some(Upstream::Target(Name::new(&above))),
                is_missing: Some(false),
                ..Links::default()
            });
            targets.push(replica);
        }
        targets.iter_mut().for_each(|target| target.stale_after = Duration::from_secs(9999));
        fixture::cluster(name, targets, vec![])
    };
    names.iter().map(of).collect()
}

fn fails(cluster: &mut ClusterView, name: &str, failure: &PollFailure, since: f64) {
    let place = cluster.index[name];
    Arc::make_mut(&mut cluster.targets[place]).failing = failing(failure.clone(), since);
}

fn orphaned(cluster: &mut ClusterView, name: &str) {
    let place = cluster.index[name];
    let target = Arc::make_mut(&mut cluster.targets[place]);
    target.links = Arc::new(Links { upstream: Some(Upstream::Nobody), is_missing: Some(true), ..Links::default() });
}

struct Watched {
    alerting: Alerting,
    told: Vec<String>,
    /// With the sentence of each.
    tells_states: bool,
}

impl Watched {
    fn new() -> Self {
        Self::told_by(AlertingConfig::default())
    }

    fn told_by(config: AlertingConfig) -> Self {
        let missing = RuleConfig {
            name: "Missing".to_owned(),
            when: Some("standby_missing == 1".to_owned()),
            ..RuleConfig::default()
        };
        let mut rules: Vec<RuleConfig> =
            preset().into_iter().filter(|rule| ["TargetDown", "Failover"].contains(&rule.name.as_str())).collect();
        rules.push(missing);
        let rules = Rule::parse_all(&rules, &SIGNALS).expect("good rules");
        let poll = Duration::from_secs(1);
        Self {
            alerting: Alerting::new(rules, vec![Recipient::new("pager")], poll, config),
            told: Vec::new(),
            tells_states: false,
        }
    }

    /// Second by second, all as they are.
    fn run(&mut self, clusters: &[ClusterView], seconds: std::ops::Range<u32>) {
        let clusters: Vec<_> = clusters.iter().cloned().map(Arc::new).collect();
        for second in seconds {
            let now = fixture::NOW.plus_seconds(f64::from(second));
            let wall = wall(f64::from(second));
            self.alerting.judge(&clusters, now, wall);
            for notice in self.alerting.due(&clusters, now, wall) {
                let alerts = notice.alerts.iter().map(|Entry { alert, told, .. }| {
                    let target = alert.id.target.as_ref().map_or("-", Name::as_str);
                    let state = if self.tells_states { format!(": {}", told.state) } else { String::new() };
                    format!("{} {} {}/{target}{state}", alert.phase.as_str(), alert.id.rule, alert.id.cluster)
                });
                self.told.push(alerts.collect::<Vec<_>>().join(", "));
                self.alerting.record(&delivery(&notice, Ok(())), now);
            }
        }
    }

    fn mutes(&self, cluster: &str) -> Vec<(String, Vec<&'static str>)> {
        let views = self.alerting.views(&Name::new(cluster));
        let muted = views.iter().filter(|view| view.phase == Phase::Firing);
        muted.map(|view| (view.id.to_string(), view.muted.iter().map(Mute::kind).collect())).collect()
    }
}

#[test]
fn what_hangs_below_a_target_that_is_down_is_shown_and_not_told() {
    let mut watched = Watched::new();
    let mut orders = clusters(&["orders"], 3);
    watched.run(&orders, 0..5);
    fails(&mut orders[0], "r1", &PollFailure::Refused, 5.0);
    for name in ["r1", "r2", "r3"] {
        orphaned(&mut orders[0], name);
    }
    watched.run(&orders, 5..60);
    assert_eq!(watched.told, ["firing TargetDown orders/r1"]);
    let muted = watched.mutes("orders").into_iter().filter(|(_, by)| *by == ["depends_on"]).count();
    assert_eq!(muted, 3, "{:?}", watched.mutes("orders"));
    // The cause is over, and one of them goes on: it is told for itself, when it has had its time to pass.
    let mut later = clusters(&["orders"], 3);
    orphaned(&mut later[0], "r3");
    watched.run(&later, 60..150);
    assert_eq!(watched.told[1..], ["resolved TargetDown orders/r1", "firing Missing orders/r3"]);
}

/// A target that was found in AWS, and away since a second; `back` again since then, on the next timeline.
fn away(cluster: &mut ClusterView, name: &str, since: f64, back: Option<f64>) {
    let place = cluster.index[name];
    let target = Arc::make_mut(&mut cluster.targets[place]);
    target.instance = Some(InstanceView {
        at: fixture::NOW,
        stale_after: Duration::from_secs(9999),
        certificate_expires_in: None,
        facts: Arc::new(InstanceFacts { multi_az: Some(true), ..InstanceFacts::default() }),
    });
    target.failing = if back.is_none() { failing(silent(), since) } else { None };
    target.outage = Some(Outage {
        lost_at: fixture::NOW.plus_seconds(since),
        back_at: back.map(|back| fixture::NOW.plus_seconds(back)),
        is_other_process: back.is_some(),
        timelines: back.map(|_| (Timeline(1), Timeline(2))),
    });
}

fn reported(cluster: &mut ClusterView, name: &str, at: f64) {
    cluster.rds_events = Arc::new([RdsEvent {
        at: fixture::NOW.plus_seconds(at),
        happening: Happening {
            source: Name::new(name),
            unix_seconds: 0,
            categories: vec!["failover".to_owned()],
            message: "Multi-AZ instance failover started".to_owned(),
        },
    }]);
}

#[test]
fn a_failover_is_told_as_one_event() {
    // When RDS tells of it, after how many seconds it is back, and what is told.
    for (told_at, back_at, expect) in [
        (
            Some(8.0),
            46.0,
            &[
                "firing Failover orders/p: orders/p has been away for 3s in a Multi-AZ failover",
                "resolved Failover orders/p: orders/p was away for 41s in a Multi-AZ failover",
            ] as &[&str],
        ),
        // RDS is late: that it is down is told first, and the rest is one event.
        (
            Some(30.0),
            46.0,
            &[
                "firing TargetDown orders/p: orders/p does not answer",
                "firing Failover orders/p: orders/p has been away for 25s in a Multi-AZ failover",
                "resolved TargetDown orders/p: orders/p answers",
                "resolved Failover orders/p: orders/p was away for 41s in a Multi-AZ failover",
            ],
        ),
        // It is no failover that works.
        (
            Some(8.0),
            400.0,
            &[
                "firing Failover orders/p: orders/p has been away for 3s in a Multi-AZ failover",
                "firing TargetDown orders/p: orders/p does not answer",
                "resolved TargetDown orders/p: orders/p answers",
                "resolved Failover orders/p: orders/p was away for 6m 35s in a Multi-AZ failover",
            ],
        ),
        (
            None,
            46.0,
            &["firing TargetDown orders/p: orders/p does not answer", "resolved TargetDown orders/p: orders/p answers"],
        ),
    ] {
        let mut watched = Watched::told_by(AlertingConfig::IMMEDIATE);
        watched.tells_states = true;
        let mut orders = clusters(&["orders"], 2);
        watched.run(&orders, 0..5);
        let back = back_at as u32;
        for second in 5..back {
            away(&mut orders[0], "p", 5.0, None);
            orphaned(&mut orders[0], "r1");
            if let Some(at) = told_at.filter(|at| f64::from(second) >= *at) {
                reported(&mut orders[0], "p", at);
            }
            watched.run(&orders, second..second + 1);
        }
        // Its replica finds it a while later.
        away(&mut orders[0], "p", 5.0, Some(back_at));
        watched.run(&orders, back..back + 20);
        orders[0].targets[1] = clusters(&["orders"], 2)[0].targets[1].clone();
        watched.run(&orders, back + 20..back + 300);
        assert_eq!(watched.told, expect, "told at {told_at:?}, back at {back_at}");
    }
}

#[test]
fn a_primary_that_is_down_mutes_what_its_replicas_say_of_it() {
    let mut watched = Watched::new();
    let mut orders = clusters(&["orders"], 2);
    watched.run(&orders, 0..5);
    fails(&mut orders[0], "p", &PollFailure::Refused, 5.0);
    orphaned(&mut orders[0], "r1");
    orphaned(&mut orders[0], "r2");
    watched.run(&orders, 5..60);
    assert_eq!(watched.told, ["firing TargetDown orders/p"]);
}

#[test]
fn when_all_falls_silent_at_once_one_notice_says_so_and_nothing_else_is_believed() {
    let mut watched = Watched::new();
    let mut all = clusters(&["a", "b"], 1);
    watched.run(&all, 0..5);
    for cluster in &mut all {
        fails(cluster, "p", &silent(), 5.0);
        fails(cluster, "r1", &silent(), 6.0);
    }
    watched.run(&all, 6..300);
    assert_eq!(watched.told, ["firing MonitorIsolated pgvigil/-"]);
    // One of them is truly down when the network is back.
    let mut back = clusters(&["a", "b"], 1);
    fails(&mut back[1], "r1", &PollFailure::Refused, 300.0);
    watched.run(&back, 300..400);
    let expect = ["firing MonitorIsolated pgvigil/-", "resolved MonitorIsolated pgvigil/-", "firing TargetDown b/r1"];
    let mut told = watched.told.clone();
    told[1..].sort_by_key(|told| !told.starts_with("resolved"));
    assert_eq!(told, expect);
}

#[test]
fn a_cluster_that_is_wholly_down_pages_as_that() {
    let down = |all: &mut Vec<ClusterView>, failure: &PollFailure| {
        for name in ["p", "r1", "r2", "r3"] {
            fails(&mut all[0], name, failure, 5.0);
        }
    };
    let is_isolated = |names: &[&str], failure: &PollFailure, also: Option<&PollFailure>| {
        let mut watched = Watched::new();
        let mut all = clusters(names, 3);
        watched.run(&all, 0..5);
        down(&mut all, failure);
        if let Some(failure) = also {
            for name in ["p", "r1", "r2", "r3"] {
                fails(&mut all[1], name, failure, 6.0);
            }
        }
        watched.run(&all, 6..60);
        let isolated = watched.told.iter().filter(|told| told.contains("MonitorIsolated")).count();
        let down = watched.told.iter().filter(|told| told.contains("TargetDown")).count();
        assert_ne!(isolated > 0, down > 0, "{:?}", watched.told);
        isolated > 0
    };
    // The only cluster; one of two; two that refuse, and so are heard; two that fall silent.
    assert!(!is_isolated(&["a"], &silent(), None));
    assert!(!is_isolated(&["a", "b"], &silent(), None));
    assert!(!is_isolated(&["a", "b"], &PollFailure::Refused, Some(&PollFailure::Refused)));
    assert!(!is_isolated(&["a", "b"], &silent(), Some(&PollFailure::Refused)));
    assert!(is_isolated(&["a", "b"], &silent(), Some(&silent())));
}

#[test]
fn being_cut_off_outlives_a_restart() {
    let mut before = Watched::new();
    let mut all = clusters(&["a", "b"], 1);
    for cluster in &mut all {
        fails(cluster, "p", &silent(), 0.0);
        fails(cluster, "r1", &silent(), 0.0);
    }
    before.run(&all, 0..30);
    let saved = before.alerting.saved();
    let mut after = Watched::new();
    after.alerting.restore(saved, at(30.0));
    after.run(&all, 30..60);
    assert_eq!(after.told, [""; 0]);
    after.run(&clusters(&["a", "b"], 1), 60..100);
    assert_eq!(after.told, ["resolved MonitorIsolated pgvigil/-"]);
}

#[test]
fn what_follows_from_a_fault_stays_untold_over_a_restart() {
    let mut before = Watched::new();
    let mut orders = clusters(&["orders"], 3);
    before.run(&orders, 0..5);
    fails(&mut orders[0], "r1", &PollFailure::Refused, 5.0);
    for name in ["r1", "r2", "r3"] {
        orphaned(&mut orders[0], name);
    }
    before.run(&orders, 5..60);
    assert_eq!(before.told, ["firing TargetDown orders/r1"]);
    // Who followed whom is no longer seen.
    let mut after = Watched::new();
    after.alerting.restore(before.alerting.saved(), fixture::NOW.plus_seconds(60.0));
    after.run(&orders, 60..200);
    assert_eq!(after.told, [""; 0]);
    let muted = after.mutes("orders").into_iter().filter(|(_, by)| *by == ["depends_on"]).count();
    assert_eq!(muted, 3, "{:?}", after.mutes("orders"));
}

#[test]
fn what_is_killed_again_and_again_before_a_group_has_waited_is_told_all_the_same() {
    let mut orders = clusters(&["orders"], 1);
    fails(&mut orders[0], "r1", &PollFailure::Refused, 0.0);
    let mut watched = Watched::new();
    let mut told_at = None;
    for start in (0..60).step_by(2) {
        watched.run(&orders, start..start + 2);
        if !watched.told.is_empty() && told_at.is_none() {
            told_at = Some(start);
        }
        let mut after = Watched::new();
        after.alerting.restore(watched.alerting.saved(), fixture::NOW.plus_seconds(f64::from(start + 2)));
        after.told = watched.told;
        watched = after;
    }
    // The rule's ten seconds, the group's five, and what a restart takes.
    assert!(told_at.is_some_and(|at| (14..=20).contains(&at)), "{told_at:?}");
    assert_eq!(watched.told, ["firing TargetDown orders/r1"]);
}

#[test]
fn being_cut_off_again_within_a_minute_is_told_again() {
    let mut watched = Watched::new();
    let mut keys = BTreeSet::new();
    let mut all = clusters(&["a", "b"], 1);
    let well = all.clone();
    for cluster in &mut all {
        fails(cluster, "p", &silent(), 0.0);
        fails(cluster, "r1", &silent(), 0.0);
    }
    for second in 0..300 {
        let now = if second % 30 < 10 { &all } else { &well };
        let now: Vec<_> = now.iter().cloned().map(Arc::new).collect();
        // A time of day that stands still is the shortest way to have it within a minute.
        let (at, wall) = (fixture::NOW.plus_seconds(f64::from(second)), wall(0.0));
        watched.alerting.judge(&now, at, wall);
        for notice in watched.alerting.due(&now, at, wall) {
            assert!(keys.insert(notice.dedup_key.clone()), "{} again", notice.dedup_key);
            watched.alerting.record(&delivery(&notice, Ok(())), at);
        }
    }
    assert!(keys.len() >= 4, "{keys:?}");
}
