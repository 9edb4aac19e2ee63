//! Groups, repeats, flapping and the limit for a minute: one notifier, which takes what it is told.

use super::*;

fn at(seconds: u64) -> MonoTime {
    MonoTime::from_nanos(0).plus(Duration::from_secs(seconds))
}

fn wall(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

struct Pager {
    ledger: Ledger,
    /// Told at each tick that told anything: `alerts: firing A, resolved B`.
    keys: Vec<String>,
    /// When each alert began.
    began: BTreeMap<AlertId, u64>,
}

impl Pager {
    fn new(config: AlertingConfig) -> Self {
        Self {
            ledger: Ledger::new(vec![Recipient { group_by: config.group_by, ..Recipient::new("pager") }], config),
            keys: Vec::new(),
            began: BTreeMap::new(),
        }
    }

    fn id(name: &str) -> AlertId {
        let (cluster, rule) = name.split_once('/').unwrap_or(("orders", name));
        AlertId { rule: Name::new(rule), cluster: Name::new(cluster), target: None, labels: vec![] }
    }

    fn set(&mut self, second: u64, name: &str, phase: Phase) {
        let id = Self::id(name);
        if phase == Phase::Firing {
            self.began.insert(id.clone(), second);
        }
        let began = self.began.get(&id).copied().unwrap_or(second);
        let severity = if id.rule.as_str().starts_with("Crit") { Severity::Critical } else { Severity::Warning };
        let view = AlertView {
            gone: None,
            recent: crate::core::alert::Recent::default(),
            id,
            severity,
            phase,
            active_at: at(began),
            fired_at: Some(at(began)),
            resolved_at: None,
            reading: None,
            is_unknown: false,
            condition: String::new(),
            unit: crate::core::signal::Unit::Seconds,
            rule_labels: vec![],
            summary: None,
            runbook: None,
            muted: vec![],
        };
        self.ledger.set(view, Episode::begin(wall(began), None), at(second));
    }

    fn told(&mut self, second: u64) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            let due = self.ledger.due(at(second));
            if due.is_empty() {
                return told;
            }
            for due in due {
                let alerts = due.alerts.iter().map(|(alert, _)| format!("{} {}", alert.phase.as_str(), alert.id.rule));
                told.push(format!("{}: {}", due.purpose.as_str(), alerts.collect::<Vec<_>>().join(", ")));
                self.keys.push(due.dedup_key.clone());
                let Due { notifier, group, dedup_key, .. } = due;
                self.ledger.record(&Delivery { notifier, group, dedup_key, outcome: Ok(()) }, at(second));
            }
        }
    }
}

/// What happens at a second, and what is told then.
type Step<'a> = (u64, &'a [(&'a str, Phase)], &'a [&'a str]);

/// Each second in between is looked at as well, and is quiet.
fn check(config: AlertingConfig, steps: &[Step<'_>]) -> Pager {
    let mut pager = Pager::new(config);
    let mut second = 0;
    for (next, changes, expect) in steps {
        while second < *next {
            assert_eq!(pager.told(second), [""; 0], "at {second} s");
            second += 1;
        }
        for (name, phase) in *changes {
            pager.set(second, name, *phase);
        }
        assert_eq!(pager.told(second), *expect, "at {second} s");
        second += 1;
    }
    pager
}

const FIRES: Phase = Phase::Firing;
const ENDS: Phase = Phase::Resolved;

#[test]
fn what_fails_together_is_told_together() {
    check(
        AlertingConfig::default(),
        &[
            (10, &[("A", FIRES)], &[]),
            (12, &[("B", FIRES), ("billing/C", FIRES)], &[]),
            (14, &[("D", FIRES)], &[]),
            // D was there when the notice left.
            (15, &[], &["alerts: firing A, firing B, firing D"]),
            (17, &[], &["alerts: firing C"]),
            (3600, &[], &[]),
        ],
    );
}

#[test]
fn what_comes_later_waits_for_more_of_its_kind() {
    check(
        AlertingConfig::default(),
        &[
            (0, &[("A", FIRES)], &[]),
            (5, &[], &["alerts: firing A"]),
            (20, &[("B", FIRES)], &[]),
            (40, &[("C", FIRES), ("A", ENDS)], &[]),
            (65, &[], &["alerts: firing B, firing C, resolved A"]),
            // Long after: it only waits for what comes with it.
            (500, &[("D", FIRES)], &[]),
            (505, &[], &["alerts: firing D"]),
            (510, &[("B", ENDS), ("C", ENDS)], &[]),
            (565, &[], &["alerts: resolved B, resolved C"]),
            // The end of it all does not wait.
            (570, &[("D", ENDS)], &[]),
            (575, &[], &["alerts: resolved D"]),
            // Nor does what is new after it.
            (580, &[("A", FIRES)], &[]),
            (585, &[], &["alerts: firing A"]),
        ],
    );
}

#[test]
fn what_is_severer_than_what_was_told_does_not_wait() {
    check(
        AlertingConfig::default(),
        &[
            (0, &[("A", FIRES)], &[]),
            (5, &[], &["alerts: firing A"]),
            (10, &[("B", FIRES)], &[]),
            (20, &[("CritC", FIRES)], &[]),
            (25, &[], &["alerts: firing CritC, firing B"]),
            // As severe as what is known.
            (30, &[("CritD", FIRES)], &[]),
            (85, &[], &["alerts: firing CritD"]),
        ],
    );
}

#[test]
fn what_ends_before_it_was_told_is_never_told() {
    check(
        AlertingConfig::default(),
        &[
            (0, &[("A", FIRES), ("B", FIRES)], &[]),
            (3, &[("A", ENDS)], &[]),
            (5, &[], &["alerts: firing B"]),
            (100, &[], &[]),
        ],
    );
}

#[test]
fn one_notice_for_each_alert_where_that_is_asked_for() {
    let config = AlertingConfig { group_by: GroupBy::Alert, ..AlertingConfig::default() };
    let pager = check(
        config,
        &[
            (0, &[("A", FIRES), ("B", FIRES)], &[]),
            (5, &[], &["alerts: firing A", "alerts: firing B"]),
            (10, &[("A", ENDS)], &[]),
            (15, &[], &["alerts: resolved A"]),
        ],
    );
    assert!(pager.keys[0].starts_with("A-firing-30000000.0-"), "{:?}", pager.keys);
}

#[test]
fn a_critical_alert_that_fires_on_is_told_again() {
    let pager = check(
        AlertingConfig::default(),
        &[
            (0, &[("A", FIRES), ("CritB", FIRES), ("CritC", FIRES)], &[]),
            (5, &[], &["alerts: firing CritB, firing CritC, firing A"]),
            (4 * 3600 + 5, &[], &["repeat: firing CritB, firing CritC"]),
            (5 * 3600, &[("CritB", ENDS)], &[]),
            (5 * 3600 + 5, &[], &["alerts: resolved CritB"]),
            (8 * 3600 + 5, &[], &["repeat: firing CritC"]),
            (12 * 3600 + 5, &[], &["repeat: firing CritC"]),
        ],
    );
    let mut keys = pager.keys.clone();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 5, "{:?}", pager.keys);
}

#[test]
fn what_comes_and_goes_is_told_as_that_and_then_not_until_it_is_calm() {
    let config =
        AlertingConfig { group_wait: Duration::ZERO, group_interval: Duration::ZERO, ..AlertingConfig::default() };
    let (fires, ends): (&[_], &[_]) = (&[("A", FIRES)], &[("A", ENDS)]);
    let (told_firing, told_ends): (&[_], &[_]) = (&["alerts: firing A"], &["alerts: resolved A"]);
    let begin = [
        (0, fires, told_firing),
        (60, ends, told_ends),
        (120, fires, told_firing),
        (180, ends, told_ends),
        (240, fires, told_firing),
        (300, ends, told_ends),
        (360, fires, &["flapping: firing A"][..]),
        (420, ends, &[]),
        (480, fires, &[]),
    ];
    let fires_on = [&begin[..], &[(480 + 900, &[], &["calm: firing A"]), (2000, ends, told_ends)]].concat();
    check(config.clone(), &fires_on);
    let ended = [&begin[..], &[(540, ends, &[]), (540 + 900, &[], &["calm: resolved A"]), (5000, fires, told_firing)]];
    check(config.clone(), &ended.concat());
    // Not more often than that within an hour.
    let slowly: Vec<_> = (0..20)
        .map(|turn| if turn % 2 == 0 { (turn * 601, fires, told_firing) } else { (turn * 601, ends, told_ends) })
        .collect();
    check(config, &slowly);
}

#[test]
fn what_flaps_too_fast_to_be_told_is_told_as_that() {
    let mut pager = Pager::new(AlertingConfig::default());
    let mut told = Vec::new();
    for second in 0..60 {
        pager.set(second, "A", if second % 2 == 0 { FIRES } else { ENDS });
        told.extend(pager.told(second));
    }
    assert_eq!(told, ["flapping: resolved A"]);
}

#[test]
fn beyond_the_limit_the_severest_come_first_and_the_rest_is_summed_up_and_told_later() {
    let config = AlertingConfig { max_per_minute: 4, ..AlertingConfig::IMMEDIATE };
    let mut pager = Pager::new(config);
    for index in 0..9 {
        pager.set(0, &format!("cluster-{index}/A{index}"), FIRES);
    }
    pager.set(0, "last/CritZ", FIRES);
    let held = "held: firing A2, firing A3, firing A4, firing A5, firing A6, firing A7, firing A8";
    assert_eq!(pager.told(0), ["alerts: firing CritZ", "alerts: firing A0", "alerts: firing A1", held]);
    let mut told = Vec::new();
    for second in 1..600 {
        told.extend(pager.told(second));
    }
    let is_summary = |told: &&String| told.starts_with("held:");
    assert_eq!(told.iter().filter(is_summary).count(), 1, "{told:?}");
    let rest: Vec<_> = told.iter().filter(|told| !is_summary(told)).cloned().collect();
    assert_eq!(rest, (2..9).map(|index| format!("alerts: firing A{index}")).collect::<Vec<_>>());
}

#[test]
fn what_is_muted_is_not_told_until_it_has_outlived_its_cause() {
    let mut pager = Pager::new(AlertingConfig::default());
    let muted = || Some(Muted { hold: Duration::from_secs(30), cause: None });
    let mute = |pager: &mut Pager, second, muted| pager.ledger.mute(&Pager::id("A"), muted, at(second));
    pager.set(0, "A", FIRES);
    mute(&mut pager, 0, muted());
    assert_eq!(pager.told(100), [""; 0]);
    mute(&mut pager, 100, None);
    assert_eq!(pager.told(129), [""; 0]);
    assert_eq!(pager.told(130), [""; 0]);
    assert_eq!(pager.told(135), ["alerts: firing A"]);
    // Who has heard of it hears of its end, muted or not.
    mute(&mut pager, 140, muted());
    pager.set(150, "A", ENDS);
    pager.told(150);
    assert_eq!(pager.told(155), ["alerts: resolved A"]);
    // What ends while it is muted, or held after, is never told.
    for ends_at in [310, 330] {
        pager.set(300, "A", FIRES);
        mute(&mut pager, 300, muted());
        pager.told(300);
        if ends_at == 330 {
            mute(&mut pager, 320, None);
        }
        pager.set(ends_at, "A", ENDS);
        assert_eq!(pager.told(400), [""; 0]);
        assert_eq!(pager.told(500), [""; 0]);
    }
}

#[test]
fn twins_give_the_same_contents_the_same_key() {
    let keys = |offset: u64| {
        let mut pager = Pager::new(AlertingConfig::default());
        let changes = [(0, "A", FIRES), (1, "B", FIRES), (20, "A", ENDS), (21, "B", ENDS)];
        for second in 0..40 {
            for (_, name, phase) in changes.iter().filter(|change| change.0 == second) {
                pager.set(second, name, *phase);
            }
            if second % 2 == offset {
                pager.told(second);
            }
        }
        pager.keys
    };
    assert_eq!(keys(0), keys(1));
    assert!(keys(0).len() == 2 && keys(0)[0] != keys(0)[1], "{:?}", keys(0));
}
