//! When a failing target is tried again: soon at first, and then ever less often. The beat has no part in it.

use std::time::Duration;

use crate::core::observation::PollFailure;

/// A server that restarts says so at once and costs nothing to try: it is tried so many times with short waits, that the
/// end of an ordinary restart, or of a crash recovery, is seen within a second.
const RESTART_TRIES: u32 = 30;

/// The first waits, while a server may be back any moment.
const SOON: [Duration; 3] = [Duration::from_millis(200), Duration::from_millis(500), Duration::from_secs(1)];

/// The longest wait for a server that cannot be reached.
const UNREACHABLE: Duration = Duration::from_secs(10);

/// The longest wait where somebody must change something first: each attempt leaves a line in the server's log.
const REFUSED: Duration = Duration::from_secs(30);

/// No target waits longer.
pub(super) const LONGEST: Duration = REFUSED;

/// How long to wait before the next attempt after `failures` of them in a row (at least 1), the last one `failure`.
/// `chance` in `0.0..1.0` takes up to a fifth off: what went down together does not come back in step.
pub(crate) fn wait(failure: &PollFailure, failures: u32, chance: f64) -> Duration {
    let (soon, n_soon, cap): (&[Duration], u32, Duration) = match failure {
        PollFailure::Refused | PollFailure::NotAccepting { .. } | PollFailure::Lost { .. } => {
            (&SOON, RESTART_TRIES, UNREACHABLE)
        }
        // A second passes with the doublings.
        PollFailure::Timeout { .. }
        | PollFailure::Lookup { .. }
        | PollFailure::Connect { .. }
        | PollFailure::TooManyConnections { .. } => (&SOON[..2], 2, UNREACHABLE),
        PollFailure::Tls { .. }
        | PollFailure::Authentication { .. }
        | PollFailure::Sql { .. }
        | PollFailure::LoginTrigger { .. }
        | PollFailure::Decode { .. } => (&[], 0, REFUSED),
    };
    let wait = if let Some(doublings) = failures.checked_sub(n_soon + 1) {
        Duration::from_secs(1 << doublings.min(10)).min(cap)
    } else {
        let place = (failures.max(1) as usize - 1).min(soon.len().saturating_sub(1));
        soon.get(place).copied().unwrap_or_default()
    };
    wait.mul_f64(1.0 - 0.2 * chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(failure: &PollFailure, n_failures: u32) -> Vec<u128> {
        (1..=n_failures).map(|failures| wait(failure, failures, 0.0).as_millis()).collect()
    }

    #[test]
    fn a_server_that_restarts_is_tried_each_second_at_least_for_half_a_minute() {
        let mut expect = vec![200, 500];
        expect.extend([1000; 28]);
        expect.extend([1000, 2000, 4000, 8000, 10_000, 10_000]);
        assert_eq!(millis(&PollFailure::Refused, 36), expect);
        assert_eq!(millis(&PollFailure::NotAccepting { reason: "starting up".to_owned() }, 36), expect);
        assert_eq!(millis(&PollFailure::Lost { reason: "reset".to_owned() }, 36), expect);
    }

    #[test]
    fn a_server_that_cannot_be_reached_is_tried_ever_less_often() {
        let timeout = PollFailure::Timeout { doing: "connecting".to_owned(), limit_ms: 3000 };
        assert_eq!(millis(&timeout, 8), [200, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        assert_eq!(wait(&timeout, u32::MAX, 0.0).as_secs(), 10);
    }

    #[test]
    fn a_server_that_refuses_us_is_tried_most_rarely() {
        let refused = PollFailure::Authentication { reason: "no such role".to_owned() };
        assert_eq!(millis(&refused, 7), [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    }

    #[test]
    fn chance_takes_off_a_fifth_at_most() {
        let failure = PollFailure::Lookup { reason: "no such name".to_owned() };
        assert_eq!(wait(&failure, 9, 0.5), Duration::from_secs(9));
        assert!(wait(&failure, 9, 0.999) > Duration::from_secs(8));
    }
}
