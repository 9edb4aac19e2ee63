//! What holds of an alert's life whatever the verdicts and the times are.

use proptest::prelude::*;

use super::*;

const SECOND: i64 = 1_000_000_000;

/// A verdict after so many seconds.
fn steps() -> impl Strategy<Value = Vec<(i64, Verdict)>> {
    let verdict = prop_oneof![
        1 => Just(Verdict::Clear),
        1 => Just(Verdict::Possible),
        3 => Just(Verdict::Breach),
        3 => Just(Verdict::Proven),
        2 => Just(Verdict::Unknown),
        1 => Just(Verdict::Gone),
    ];
    prop::collection::vec((0..90i64, verdict), 0..60)
}

fn at(second: i64) -> MonoTime {
    MonoTime::from_nanos(second * SECOND)
}

fn seconds(n: i64) -> Duration {
    Duration::from_secs(n as u64)
}

/// For how long the last verdicts have said the same, in seconds: known time alone, by a count of its own.
#[derive(Default)]
struct Count {
    since_known: Option<i64>,
    known: i64,
}

impl Count {
    fn observe(&mut self, holds: Option<bool>, now: i64) {
        match holds {
            Some(true) => {
                self.known += self.since_known.map_or(0, |since| now - since);
                self.since_known = Some(now);
            }
            Some(false) => *self = Self::default(),
            // What has passed until here counts: silence begins now.
            None => {
                self.known += self.since_known.map_or(0, |since| now - since);
                self.since_known = None;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_fires_on_a_breach_that_held_and_resolves_on_evidence_alone(
        hold in 0..200i64, keep in 0..200i64, steps in steps()
    ) {
        let (mut state, mut now) = (AlertState::Inactive, 0);
        let (mut breach, mut clear) = (Count::default(), Count::default());
        for (wait, verdict) in steps {
            now += wait;
            let known = |holds: bool| (verdict != Verdict::Unknown).then_some(holds);
            breach.observe(known(matches!(verdict, Verdict::Breach | Verdict::Proven)), now);
            clear.observe(known(verdict == Verdict::Clear), now);
            let after = state.step(verdict, seconds(hold), seconds(keep), at(now));
            match (state, after) {
                (AlertState::Firing { .. }, AlertState::Inactive) => {
                    prop_assert!(verdict == Verdict::Gone || verdict == Verdict::Clear && clear.known >= keep);
                }
                (AlertState::Firing { active_at, fired_at, .. }, AlertState::Firing { active_at: a, fired_at: f, .. }) => {
                    prop_assert_eq!((active_at, fired_at), (a, f));
                    prop_assert!(verdict != Verdict::Gone && !(verdict == Verdict::Clear && clear.known >= keep));
                }
                (_, AlertState::Firing { active_at, fired_at, .. }) => {
                    prop_assert!(matches!(verdict, Verdict::Breach | Verdict::Proven) && breach.known >= hold);
                    prop_assert!(active_at <= fired_at && fired_at == at(now));
                }
                (AlertState::Firing { .. }, AlertState::Pending(_)) => prop_assert!(false, "{state:?} {verdict:?}"),
                (_, AlertState::Pending(_)) => {
                    prop_assert!(verdict == Verdict::Unknown || breach.known < hold);
                }
                (AlertState::Pending(_), AlertState::Inactive) => prop_assert!(verdict != Verdict::Unknown),
                (AlertState::Inactive, AlertState::Inactive) => {
                    prop_assert!(!matches!(verdict, Verdict::Breach | Verdict::Proven));
                }
            }
            state = after;
        }
        // Whatever has been, what lasts is told as it is.
        let (step, clears) = (seconds(keep), seconds(hold));
        let fires = state.step(Verdict::Proven, clears, step, at(now)).step(Verdict::Proven, clears, step, at(now + hold));
        prop_assert!(fires.is_firing());
        let ended = fires.step(Verdict::Clear, clears, step, at(now + hold));
        prop_assert_eq!(ended.step(Verdict::Clear, clears, step, at(now + hold + keep)), AlertState::Inactive);
    }

    #[test]
    fn it_lives_the_same_on_any_clock(
        hold in 0..200i64, keep in 0..200i64, steps in steps(), shift in -1_000_000..1_000_000i64, cut in 0..60usize
    ) {
        let (mut here, mut there, mut now) = (AlertState::Inactive, AlertState::Inactive, 0);
        let mut moved = 0;
        for (place, (wait, verdict)) in steps.into_iter().enumerate() {
            now += wait;
            if place == cut {
                // As after a boot.
                there.move_times(shift * SECOND);
                moved = shift;
            }
            here = here.step(verdict, seconds(hold), seconds(keep), at(now));
            there = there.step(verdict, seconds(hold), seconds(keep), at(now + moved));
            let mut expect = here;
            expect.move_times(moved * SECOND);
            prop_assert_eq!(there, expect);
        }
    }
}
