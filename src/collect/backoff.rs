//! How long a failing target is left alone.

use std::time::Duration;

use crate::core::observation::PollFailure;

/// A server that restarts says so at once and costs nothing to ask: for so many failures in a row it is asked at each beat,
/// that the end of an ordinary restart, or of a crash recovery, is seen within one interval.
const RESTART_BEATS: u32 = 30;

/// The longest wait for a server that cannot be reached. A server that is back is seen within this and one interval.
const UNREACHABLE: Duration = Duration::from_secs(10);

/// The longest wait where somebody must change something first: each attempt leaves a line in the server's log.
const REFUSED: Duration = Duration::from_secs(30);

/// Nobody is left alone for longer.
pub(super) const LONGEST: Duration = REFUSED;

/// How long to wait before the next attempt after `failures` of them in a row (at least 1), the last one `failure`.
/// `chance` in `0.0..1.0` takes up to a fifth off: what went down together does not come back in step.
pub(crate) fn wait(failure: &PollFailure, failures: u32, chance: f64) -> Duration {
    let (free, cap) = match failure {
        PollFailure::Refused | PollFailure::NotAccepting { .. } | PollFailure::Lost { .. } => {
            (RESTART_BEATS, UNREACHABLE)
        }
        PollFailure::Timeout { .. }
        | PollFailure::Lookup { .. }
        | PollFailure::Connect { .. }
        | PollFailure::TooManyConnections { .. } => (0, UNREACHABLE),
        PollFailure::Tls { .. }
        | PollFailure::Authentication { .. }
        | PollFailure::Sql { .. }
        | PollFailure::LoginTrigger { .. }
        | PollFailure::Decode { .. } => (0, REFUSED),
    };
    let Some(doublings) = failures.checked_sub(free + 1) else { return Duration::ZERO };
    let wait = Duration::from_secs(1 << doublings.min(10)).min(cap);
    wait.mul_f64(1.0 - 0.2 * chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(failure: &PollFailure, n_failures: u32) -> Vec<u64> {
        (1..=n_failures).map(|failures| wait(failure, failures, 0.0).as_secs()).collect()
    }

    #[test]
    fn a_restarting_server_is_asked_at_each_beat_at_first() {
        let mut expect = vec![0; 30];
        expect.extend([1, 2, 4, 8, 10, 10]);
        assert_eq!(seconds(&PollFailure::Refused, 36), expect);
        assert_eq!(seconds(&PollFailure::NotAccepting { reason: "starting up".to_owned() }, 36), expect);
        assert_eq!(seconds(&PollFailure::Lost { reason: "reset".to_owned() }, 36), expect);
    }

    #[test]
    fn an_unreachable_server_is_asked_ever_less_often() {
        let timeout = PollFailure::Timeout { doing: "connecting".to_owned(), limit_ms: 3000 };
        assert_eq!(seconds(&timeout, 6), [1, 2, 4, 8, 10, 10]);
        assert_eq!(wait(&timeout, u32::MAX, 0.0).as_secs(), 10);
    }

    #[test]
    fn a_server_that_refuses_us_is_left_alone_the_longest() {
        let refused = PollFailure::Authentication { reason: "no such role".to_owned() };
        assert_eq!(seconds(&refused, 7), [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn chance_takes_off_a_fifth_at_most() {
        let failure = PollFailure::Lookup { reason: "no such name".to_owned() };
        assert_eq!(wait(&failure, 9, 0.5), Duration::from_secs(9));
        assert!(wait(&failure, 9, 0.999) > Duration::from_secs(8));
    }
}
