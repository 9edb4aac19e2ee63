//! What a server refused, and when it is asked for that again. Each refusal leaves an error in its log, so it is asked
//! again seldom; but what was refused may be granted, installed or configured at any time.

use std::time::Duration;

use super::queries::{Optional, Refused};
use crate::core::observation::PollFailure;
use crate::core::time::{MonoTime, ServerTime};

/// What was refused is asked again after this at the latest.
pub(super) const REFUSAL_AGE: Duration = Duration::from_secs(10 * 60);

/// A new session, or a configuration that was loaded again, lets all be asked again at once, so many times within
/// [`REFUSAL_AGE`]: sessions may also be lost every few seconds.
const EARLY_RETRIES: usize = 3;

/// What was refused by a server, not yet asked again.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    optional: Refused,
    /// When the first of `optional` was.
    optional_at: Option<MonoTime>,
    /// What cannot be done without was refused.
    needed: Option<(PollFailure, MonoTime)>,
    /// Topics of the survey.
    topics: Vec<(&'static str, PollFailure, MonoTime)>,
    /// When the server loaded its configuration, by its last answer.
    loaded_at: Option<ServerTime>,
    early_retries: Vec<MonoTime>,
}

impl Refusals {
    pub(super) fn optional(&self) -> Refused {
        self.optional
    }

    pub(super) fn needed(&self) -> Option<&PollFailure> {
        self.needed.as_ref().map(|(refusal, _)| refusal)
    }

    pub(super) fn topic(&self, name: &str) -> Option<&PollFailure> {
        self.topics.iter().find(|(refused, _, _)| *refused == name).map(|(_, refusal, _)| refusal)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.optional.is_empty() && self.needed.is_none() && self.topics.is_empty()
    }

    pub(super) fn leave_out(&mut self, optional: Optional, now: MonoTime) {
        self.optional.insert(optional);
        self.optional_at.get_or_insert(now);
    }

    pub(super) fn note_needed(&mut self, refusal: &PollFailure, now: MonoTime) {
        self.needed = Some((refusal.clone(), now));
    }

    pub(super) fn note_topic(&mut self, name: &'static str, refusal: &PollFailure, now: MonoTime) {
        self.topics.push((name, refusal.clone(), now));
    }

    /// Forgets what is to be asked again by now.
    pub(super) fn expire(&mut self, now: MonoTime) {
        let is_old = |at: MonoTime| now.duration_since(at) >= REFUSAL_AGE;
        if self.optional_at.is_some_and(is_old) {
            self.optional = Refused::default();
            self.optional_at = None;
        }
        self.needed.take_if(|(_, at)| is_old(*at));
        self.topics.retain(|(_, _, at)| !is_old(*at));
    }

    /// A session began.
    pub(super) fn note_session(&mut self, now: MonoTime) {
        self.retry_early(now);
    }

    /// The server loaded its configuration at that time.
    pub(super) fn note_configuration(&mut self, loaded_at: Option<ServerTime>, now: MonoTime) {
        let is_another = self.loaded_at.is_some() && loaded_at.is_some() && self.loaded_at != loaded_at;
        self.loaded_at = loaded_at.or(self.loaded_at);
        if is_another {
            self.retry_early(now);
        }
    }

    fn retry_early(&mut self, now: MonoTime) {
        if self.is_empty() {
            return;
        }
        self.early_retries.retain(|at| now.duration_since(*at) < REFUSAL_AGE);
        if self.early_retries.len() < EARLY_RETRIES {
            self.early_retries.push(now);
            self.optional = Refused::default();
            self.optional_at = None;
            self.needed = None;
            self.topics.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> PollFailure {
        PollFailure::Sql { sqlstate: "55000".to_owned(), reason: "not loaded".to_owned() }
    }

    fn all(now: MonoTime) -> Refusals {
        let mut refusals = Refusals::default();
        refusals.note_configuration(Some(ServerTime::from_unix_micros(1)), now);
        refuse(&mut refusals, now);
        refusals
    }

    fn refuse(refusals: &mut Refusals, now: MonoTime) {
        refusals.leave_out(Optional::Statements, now);
        refusals.note_needed(&refusal(), now);
        refusals.note_topic("slots", &refusal(), now);
    }

    fn seconds(seconds: u64) -> MonoTime {
        MonoTime::from_nanos(0).plus(Duration::from_secs(seconds))
    }

    #[test]
    fn what_was_refused_is_asked_again_after_ten_minutes() {
        let mut refusals = all(seconds(0));
        refusals.expire(seconds(599));
        assert!(refusals.optional().contains(Optional::Statements));
        assert_eq!((refusals.needed(), refusals.topic("slots")), (Some(&refusal()), Some(&refusal())));
        refusals.expire(seconds(600));
        assert!(refusals.is_empty());
    }

    #[test]
    fn a_new_session_or_configuration_lets_it_be_asked_at_once_but_not_again_and_again() {
        let mut refusals = all(seconds(0));
        refusals.note_configuration(Some(ServerTime::from_unix_micros(1)), seconds(1));
        assert!(!refusals.is_empty(), "it is the same");
        refusals.note_configuration(Some(ServerTime::from_unix_micros(2)), seconds(1));
        assert!(refusals.is_empty());
        for (second, is_asked) in [(10, true), (20, true), (30, false), (40, false), (601, true), (602, false)] {
            refuse(&mut refusals, seconds(second));
            refusals.note_session(seconds(second));
            assert_eq!(refusals.is_empty(), is_asked, "{second}");
        }
    }
}
