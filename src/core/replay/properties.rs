//! What holds of alerts whatever is read.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::core::rule::RuleConfig;
use crate::core::signal::SIGNALS;

fn rules(hold: u64, keep: u64) -> Vec<Rule> {
    let rule = |name: &str, when: &str| {
        let text = format!(r#"{{"name":"{name}","when":"{when}","for":"{hold}s","keep_firing_for":"{keep}s"}}"#);
        serde_json::from_str::<RuleConfig>(&text).expect("a rule")
    };
    let rules = [rule("Lag", "replay_lag_seconds > 5s"), rule("Slot", "slot_retained_bytes > 1GiB")];
    Rule::parse_all(&rules, &SIGNALS).expect("good rules")
}

fn subjects() -> Vec<Series> {
    let series = |signal: &str, target: &str, label: &[&str]| Series {
        signal: Signal::named(signal).expect("a signal"),
        cluster: Name::new("c"),
        target: Some(Name::new(target)),
        labels: label.iter().map(|&label| label.to_owned()).collect(),
    };
    let labels = |n| vec!["s"; n];
    let n_labels = Signal::named("slot_retained_bytes").expect("a signal").labels.len();
    vec![
        series("replay_lag_seconds", "a", &[]),
        series("replay_lag_seconds", "b", &[]),
        series("slot_retained_bytes", "a", &labels(n_labels)),
    ]
}

fn readings() -> impl Strategy<Value = Vec<(u32, usize, Reading)>> {
    let known = |value: f64| Reading::Known(Value::exact(value));
    let reading = prop_oneof![
        2 => Just(known(0.0)),
        3 => Just(known(1e12)),
        1 => Just(Reading::Known(Value { value: 1e12, lower: 0.0, upper: f64::INFINITY })),
        1 => Just(Reading::Known(Value { value: 0.0, lower: 0.0, upper: f64::INFINITY })),
        1 => Just(Reading::Unknown),
        1 => Just(Reading::Gone),
    ];
    prop::collection::vec((0..60u32, 0..3usize, reading), 1..40)
}

fn start() -> MonoTime {
    MonoTime::from_nanos(0).plus_seconds(1e6)
}

fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn none_resolves_that_did_not_fire_and_all_end_when_all_is_well(
        hold in 0..60u64, keep in 0..60u64, readings in readings()
    ) {
        let (series, mut replay) = (subjects(), Replay::new(rules(hold, keep), Duration::from_secs(1)));
        let mut firing: BTreeMap<AlertId, bool> = BTreeMap::new();
        let mut passed = Duration::ZERO;
        let well = (0..3).map(|place| (120, place, Reading::Known(Value::exact(0.0))));
        for (wait, place, reading) in readings.into_iter().chain(well).chain([(121, 0, Reading::Gone)]) {
            replay.set(&series[place], reading);
            for _ in 0..=wait {
                for Turn { alert, .. } in replay.judge(start().plus(passed), wall() + passed) {
                    let was = firing.insert(alert.id.clone(), alert.phase == Phase::Firing).unwrap_or_default();
                    prop_assert_ne!(was, alert.phase == Phase::Firing, "{:?}", alert);
                }
                passed += Duration::from_secs(1);
            }
        }
        prop_assert!(firing.values().all(|firing| !firing), "{:?}", firing);
    }

    #[test]
    fn no_step_of_the_time_of_day_fires_or_resolves_anything(
        hold in 0..60u64, keep in 0..60u64, readings in readings(), steps in prop::collection::vec(0..2_000_000_000u64, 40)
    ) {
        let series = subjects();
        let [mut steady, mut stepped] = [(); 2].map(|()| Replay::new(rules(hold, keep), Duration::from_secs(1)));
        let mut passed = Duration::ZERO;
        for ((wait, place, reading), step) in readings.into_iter().zip(steps) {
            steady.set(&series[place], reading);
            stepped.set(&series[place], reading);
            for _ in 0..=wait {
                let now = start().plus(passed);
                let expect = steady.judge(now, wall() + passed);
                prop_assert_eq!(stepped.judge(now, SystemTime::UNIX_EPOCH + Duration::from_secs(step)), expect);
                passed += Duration::from_secs(1);
            }
        }
    }
}
