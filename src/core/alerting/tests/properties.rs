//! The time of day steps, as by NTP or by hand: nothing fires, resolves or is told for it, and nothing is mistaken for a
//! duplicate.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::core::alert::AlertId;
use crate::core::rule::Rule;
use crate::core::saved::Saved;

/// Between two judgements.
const STEP: f64 = 5.0;

#[derive(Clone, Debug)]
enum Act {
    /// For so many steps the lag is this; `None`: it is not known.
    Lag(Option<f64>, usize),
    /// The time of day is so many seconds from the true one now.
    Clock(i64),
    Restart,
    /// For so many minutes.
    Silence(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let lag = prop::sample::select(vec![None, Some(0.0), Some(4.0), Some(6.0), Some(90.0)]);
    let step = prop_oneof![-40_000..40_000_i64, -90..90_i64, Just(-1_800_000_000), Just(0)];
    prop_oneof![
        6 => (lag, 1..25_usize).prop_map(|(lag, n_steps)| Act::Lag(lag, n_steps)),
        3 => step.prop_map(Act::Clock),
        1 => Just(Act::Restart),
        1 => (1..30_u64).prop_map(Act::Silence),
    ]
}

fn rules() -> Vec<Rule> {
    let counted = RuleConfig {
        every: Some(Duration::from_secs(60)),
        datapoints: Some("2 of 3".to_owned()),
        ..config("Counted", "replay_lag_seconds > 5s")
    };
    let slow = RuleConfig {
        keep_firing_for: Some(Duration::from_secs(45)),
        when_unknown: Some(WhenUnknown::Alert),
        ..lagging(Some(30))
    };
    let levels = RuleConfig {
        when: None,
        severity: None,
        signal: Some("replay_lag_seconds".to_owned()),
        warning: Some("> 5s".to_owned()),
        critical: Some("> 60s".to_owned()),
        ..config("Levels", "")
    };
    Rule::parse_all(&[counted, slow, levels], SIGNALS).expect("good rules")
}

fn new() -> Alerting {
    let config = AlertingConfig { repeat_interval: Duration::from_secs(600), ..AlertingConfig::default() };
    Alerting::new(rules(), vec![Recipient::new("pager")], POLL, config)
}

/// What is told, and when: with the clock as it steps, or with one that is right throughout. And all keys of news.
fn told(acts: &[Act], steps: bool) -> (Vec<String>, Vec<String>) {
    let mut alerting = new();
    let (mut second, mut offset) = (0.0, 0);
    let (mut told, mut keys) = (Vec::new(), Vec::new());
    let wall = |second: f64, offset: i64| {
        let wall = wall(second);
        let by = Duration::from_secs(offset.unsigned_abs());
        if offset < 0 { wall - by } else { wall + by }
    };
    for act in acts {
        match act {
            Act::Clock(by) if steps => offset = *by,
            Act::Clock(_) => {}
            Act::Restart => {
                let saved = Saved { alerts: alerting.saved(), at: Some(at(second)), ..Saved::default() };
                let silences = alerting.silences().saved();
                alerting = new();
                alerting.silences_mut().restore(silences);
                alerting.restore(saved.silent_alerts(), at(second));
            }
            Act::Silence(minutes) => {
                let new = NewSilence {
                    selector: Selector { rule: vec![Glob::new("L*")], ..Selector::default() },
                    all: false,
                    author: "ada".to_owned(),
                    reason: "a test".to_owned(),
                    length: Length::For(Duration::from_secs(60 * minutes)),
                };
                alerting.silences_mut().change(Change::Add(new), at(second), wall(second, offset)).expect("a silence");
            }
            Act::Lag(lag, n_steps) => {
                let clusters = one(lag.and_then(exact));
                for _ in 0..*n_steps {
                    second += STEP;
                    let (now, wall) = (at(second), wall(second, offset));
                    alerting.judge(&clusters, now, wall);
                    for notice in alerting.due(&clusters, now, wall) {
                        let alert = |alert: &AlertView| (alert.phase.as_str(), alert.severity, alert.id.clone());
                        let alerts: Vec<(&str, Severity, AlertId)> =
                            notice.alerts.iter().map(|entry| alert(&entry.alert)).collect();
                        told.push(format!("{second} {:?} {alerts:?}", notice.purpose));
                        if notice.purpose == Purpose::Alerts {
                            keys.push(notice.dedup_key.clone());
                        }
                        alerting.record(&delivery(&notice, Ok(())), now);
                    }
                }
            }
        }
    }
    (told, keys)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_clock_that_steps_changes_nothing_of_what_is_told(acts in prop::collection::vec(act(), 1..40)) {
        let (told_by_it, keys) = told(&acts, true);
        let (told_by_a_true_clock, _) = told(&acts, false);
        prop_assert_eq!(told_by_it, told_by_a_true_clock);
        let distinct: BTreeSet<&String> = keys.iter().collect();
        prop_assert_eq!(distinct.len(), keys.len(), "{:?}", keys);
    }
}
