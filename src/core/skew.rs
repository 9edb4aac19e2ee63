//! How far apart clocks are. For people alone: nothing that pgvigil decides depends on it.

use super::observation::{PollFailure, Positions, WalReceiver};
use super::time::{MonoTime, ServerTime};

/// The quickest message of this long, up to twice as long, tells most: it waited least on its way.
const WINDOW_SECONDS: f64 = 300.0;

/// By how many seconds clocks are ahead (negative: behind), as far as is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClockSkew {
    /// The server's clock against the monitor's: at least and at most, for it was read while the monitor waited.
    pub of_server: Option<(f64, f64)>,
    /// A standby's clock against its upstream's, at most: what its WAL receiver's quickest message took from clock to
    /// clock, the way included. `None` on a primary, while nothing was received, and without `pg_monitor`.
    pub of_upstream: Option<f64>,
}

/// Keeps the quickest message of a window.
#[derive(Debug, Default)]
pub struct SkewTracker {
    /// Whom it receives from: another upstream has another clock.
    upstream: (Option<String>, Option<u16>),
    last_message: Option<ServerTime>,
    began_at: Option<MonoTime>,
    current: Option<f64>,
    previous: Option<f64>,
}

impl SkewTracker {
    /// `asked`, `answered`: what the monitor's wall clock said, in seconds since 1970, between which the server's was read.
    pub fn observe(
        &mut self,
        outcome: &Result<Positions, PollFailure>,
        (asked, answered): (f64, f64),
        at: MonoTime,
    ) -> ClockSkew {
        let Ok(positions) = outcome else { return ClockSkew { of_server: None, of_upstream: self.quickest() } };
        let clock = positions.clock.unix_seconds();
        let receiver = positions.standby().and_then(|standby| standby.receiver.running());
        match receiver {
            Some(receiver) => self.receive(receiver, at),
            None => *self = Self::default(),
        }
        ClockSkew { of_server: Some((clock - answered, clock - asked)), of_upstream: self.quickest() }
    }

    fn receive(&mut self, receiver: &WalReceiver, at: MonoTime) {
        if self.upstream.0 != receiver.sender_host || self.upstream.1 != receiver.sender_port {
            *self = Self { upstream: (receiver.sender_host.clone(), receiver.sender_port), ..Self::default() };
        }
        if self.began_at.is_none_or(|began_at| at.seconds_since(began_at) >= WINDOW_SECONDS) {
            self.began_at = Some(at);
            self.previous = self.current.take();
        }
        let Some((sent, received)) = receiver.last_msg_sent_at.zip(receiver.last_msg_received_at) else { return };
        // The same message again tells nothing new, and must not outlive the window.
        if self.last_message != Some(received) {
            self.last_message = Some(received);
            let took = received.seconds_since(sent);
            self.current = Some(self.current.map_or(took, |quickest| quickest.min(took)));
        }
    }

    fn quickest(&self) -> Option<f64> {
        self.current.into_iter().chain(self.previous).reduce(f64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fixture;
    use crate::core::observation::Receiver;

    fn at(seconds: f64) -> MonoTime {
        MonoTime::from_nanos(0).plus_seconds(seconds)
    }

    /// Positions of a standby whose receiver got a message at this second of its clock, after `took` seconds.
    fn received(host: &str, second: i64, took: f64) -> Positions {
        let mut view = fixture::replica("c", "r1");
        fixture::change_standby(&mut view, |standby| {
            let Receiver::Running(receiver) = &mut standby.receiver else { return };
            let micros = second * 1_000_000;
            receiver.sender_host = Some(host.to_owned());
            receiver.last_msg_received_at = Some(ServerTime::from_unix_micros(micros));
            receiver.last_msg_sent_at = Some(ServerTime::from_unix_micros(micros - (took * 1e6) as i64));
        });
        let answer = view.answer.expect("has an answer");
        (*answer.positions).clone()
    }

    #[test]
    fn the_quickest_message_of_the_window_counts() {
        let mut tracker = SkewTracker::default();
        let mut of_upstream = |seconds: f64, host: &str, second, took| {
            tracker.observe(&Ok(received(host, second, took)), (0.0, 0.0), at(seconds)).of_upstream
        };
        assert_eq!(of_upstream(0.0, "a", 1, 0.5), Some(0.5));
        assert_eq!(of_upstream(1.0, "a", 2, 0.25), Some(0.25));
        assert_eq!(of_upstream(2.0, "a", 3, 0.75), Some(0.25));
        // The quickest is forgotten with its window, and one that is repeated does not count as new.
        assert_eq!(of_upstream(300.0, "a", 4, 0.5), Some(0.25));
        assert_eq!(of_upstream(600.0, "a", 5, 0.75), Some(0.5));
        assert_eq!(of_upstream(900.0, "a", 5, 0.75), Some(0.75));
        assert_eq!(of_upstream(1200.0, "a", 5, 0.75), None);
        // A clock that is behind; then another upstream.
        assert_eq!(of_upstream(1201.0, "a", 6, -2.0), Some(-2.0));
        assert_eq!(of_upstream(1202.0, "b", 7, 0.25), Some(0.25));
    }

    #[test]
    fn a_server_s_clock_was_read_while_the_monitor_waited() {
        let mut tracker = SkewTracker::default();
        let positions = received("a", 1, 0.5);
        let clock = positions.clock.unix_seconds();
        let skew = tracker.observe(&Ok(positions), (clock - 3.0, clock - 2.5), at(0.0));
        assert_eq!(skew, ClockSkew { of_server: Some((2.5, 3.0)), of_upstream: Some(0.5) });
        let silent = tracker.observe(&Err(PollFailure::Refused), (0.0, 0.0), at(1.0));
        assert_eq!(silent, ClockSkew { of_server: None, of_upstream: Some(0.5) });
        let primary = fixture::primary("c", "p").answer.expect("has an answer");
        let skew = tracker.observe(&Ok((*primary.positions).clone()), (clock, clock), at(2.0));
        assert_eq!(skew.of_upstream, None);
    }
}
