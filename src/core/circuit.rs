//! Leaving alone what does not answer: after some failures in a row nobody asks for a while, then one tries, and a failure
//! makes the while longer. Whoever does not get to ask learns why, and until when.

use std::time::Duration;

use super::time::MonoTime;

/// Failures in a row that open it.
const FAILURES: u32 = 3;
/// How long nobody asks at first; doubled with each failure after that.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Whether a service may be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circuit {
    failing: Option<Failing>,
}

/// The failures since the last success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    pub since: MonoTime,
    pub n_failures: u32,
    /// The last one, in words.
    pub reason: String,
    /// When the next may try. `None`: as long as it is closed, at any time.
    pub next_at: Option<MonoTime>,
}

/// `closed`: all may ask. `open`: nobody may. `half_open`: the next one may, and what comes of it decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[schemars(rename = "CircuitState")]
#[serde(rename_all = "snake_case")]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

impl Circuit {
    pub fn state(&self, now: MonoTime) -> State {
        match self.failing.as_ref().and_then(|failing| failing.next_at) {
            None => State::Closed,
            Some(next_at) if now < next_at => State::Open,
            Some(_) => State::HalfOpen,
        }
    }

    pub const fn failing(&self) -> Option<&Failing> {
        self.failing.as_ref()
    }

    /// Asks whether one may ask. `jitter` lies between 0 and 1.
    ///
    /// # Errors
    /// Not before that instant.
    pub fn admit(&mut self, now: MonoTime, jitter: f64) -> Result<(), MonoTime> {
        let Some(failing) = &mut self.failing else { return Ok(()) };
        match failing.next_at {
            None => Ok(()),
            Some(next_at) if now < next_at => Err(next_at),
            Some(_) => {
                // Only one; and should nothing be heard of it, there is another one later.
                failing.next_at = Some(now.plus(wait(failing.n_failures, jitter)));
                Ok(())
            }
        }
    }

    /// It answered. Says whether it had been left alone.
    pub fn succeeded(&mut self) -> bool {
        self.failing.take().is_some_and(|failing| failing.next_at.is_some())
    }

    /// It did not answer as it should. Says whether it is left alone from now on.
    pub fn failed(&mut self, now: MonoTime, reason: String, jitter: f64) -> bool {
        let failing =
            self.failing.get_or_insert(Failing { since: now, n_failures: 0, reason: String::new(), next_at: None });
        failing.n_failures = failing.n_failures.saturating_add(1);
        failing.reason = reason;
        let was_open = failing.next_at.is_some();
        if failing.n_failures >= FAILURES {
            failing.next_at = Some(now.plus(wait(failing.n_failures, jitter)));
        }
        !was_open && failing.next_at.is_some()
    }
}

/// Between half of it and the whole, so that many daemons do not come back at once.
fn wait(n_failures: u32, jitter: f64) -> Duration {
    let doublings = n_failures.saturating_sub(FAILURES).min(10);
    let longest = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT);
    longest.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> MonoTime {
        MonoTime::from_nanos(0).plus_seconds(seconds)
    }

    fn open_at_zero() -> Circuit {
        let mut circuit = Circuit::default();
        let opened: Vec<bool> = (0..3).map(|_| circuit.failed(at(0.0), "no route".to_owned(), 1.0)).collect();
        assert_eq!(opened, [false, false, true]);
        circuit
    }

    #[test]
    fn three_failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let mut circuit = Circuit::default();
        for _ in 0..5 {
            circuit.failed(at(0.0), "no route".to_owned(), 1.0);
            circuit.failed(at(0.0), "no route".to_owned(), 1.0);
            assert!(!circuit.succeeded());
            assert_eq!((circuit.state(at(0.0)), circuit.admit(at(0.0), 1.0)), (State::Closed, Ok(())));
        }
        let circuit = open_at_zero();
        let expect = Failing { since: at(0.0), n_failures: 3, reason: "no route".to_owned(), next_at: Some(at(5.0)) };
        assert_eq!((circuit.state(at(4.9)), circuit.failing()), (State::Open, Some(&expect)));
    }

    #[test]
    fn while_it_is_open_nobody_asks_and_then_one() {
        let mut circuit = open_at_zero();
        assert_eq!(circuit.admit(at(4.9), 1.0), Err(at(5.0)));
        assert_eq!(circuit.state(at(5.0)), State::HalfOpen);
        assert_eq!((circuit.admit(at(5.0), 1.0), circuit.admit(at(5.0), 1.0)), (Ok(()), Err(at(10.0))));
        // Nothing was heard of that one.
        assert_eq!(circuit.admit(at(10.0), 1.0), Ok(()));
        assert!(circuit.succeeded());
        assert_eq!((circuit.state(at(10.0)), circuit.failing()), (State::Closed, None));
    }

    #[test]
    fn each_failure_makes_the_wait_longer_up_to_five_minutes() {
        let mut circuit = open_at_zero();
        let mut now = at(0.0);
        let waits: Vec<f64> = (0..8)
            .map(|_| {
                let next = circuit.failing().and_then(|failing| failing.next_at).expect("open");
                let waited = next.seconds_since(now);
                now = next;
                assert_eq!(circuit.admit(now, 1.0), Ok(()));
                assert!(!circuit.failed(now, "no route".to_owned(), 1.0));
                waited
            })
            .collect();
        assert_eq!(waits, [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]);
    }

    #[test]
    fn jitter_takes_up_to_half_of_a_wait_away() {
        for (jitter, expect) in [(0.0, 2.5), (0.5, 3.75), (1.0, 5.0), (7.0, 5.0)] {
            assert_eq!(wait(FAILURES, jitter), Duration::from_secs_f64(expect), "{jitter}");
        }
        assert_eq!(wait(u32::MAX, 1.0), LONGEST_WAIT);
    }
}
