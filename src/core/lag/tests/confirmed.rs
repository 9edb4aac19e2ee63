//! What a subscriber has confirmed, against the history of its publisher's WAL.

use super::*;

/// A position that was told in an answer asked at `asked`, and what is told of it.
#[track_caller]
fn confirmed(polls: &[Observation], lsn: u64, asked: f64, truth: f64, expected: &str) {
    let mut tracker = tracker();
    for poll in polls {
        tracker.observe(poll);
    }
    let estimate = tracker.confirmed_lag(Lsn::new(lsn), at(asked), at(asked + TOOK));
    assert_eq!(told(Some(estimate)), expected);
    assert!(estimate.lower <= truth && truth <= estimate.upper, "{truth}: {expected}");
}

#[test]
fn wal_is_as_old_as_what_followed_it() {
    let polls = history(0..=10, writing);
    let truth = |lsn| 10.0 - went_beyond(lsn);
    confirmed(&polls, 2_000, 10.0, 0.0, "caught_up 0 [0, 0.01] exact");
    confirmed(&polls, 1_400, 10.0, truth(1_400), "lsn_plateau 5.5 [4.99, 6.01] exact");
    confirmed(&polls, 1_450, 10.0, truth(1_450), "lsn 5.5 [4.99, 6.01] exact");
    confirmed(&polls, 900, 10.0, 10.5, "lower_bound 9.99 [9.99, inf] at_least");
}

#[test]
fn what_is_first_seen_in_the_same_answer_may_be_on_its_way() {
    let polls = history(0..=10, writing);
    confirmed(&polls, 1_900, 10.0, 0.5, "caught_up 0 [0, 1.01] exact");
    // As told a while ago, before more was written.
    confirmed(&polls, 1_700, 7.0, 0.0, "caught_up 0 [0, 0.01] exact");
    confirmed(&polls, 1_500, 7.0, 7.0 - went_beyond(1_500), "lsn_plateau 1.5 [0.99, 2.01] exact");
}

#[test]
fn an_idle_publisher_has_no_lagging_subscriber() {
    confirmed(&history(0..=3_600, |_| 5_000), 5_000, 3_600.0, 0.0, "caught_up 0 [0, 0.01] exact");
}

#[test]
fn without_a_publisher_nothing_is_known_and_a_lost_one_may_have_written_more() {
    confirmed(&[], 5_000, 1.0, 0.0, "no_primary none [0, inf] unknown");
    let mut polls = history(0..=10, writing);
    polls.push(hangs("p", 11.0));
    confirmed(&polls, 2_000, 15.0, 0.0, "primary_lost 0 [0, 5.01] at_least");
    confirmed(&polls, 1_900, 15.0, 5.5, "lsn_plateau~primary_lost 5.5 [4.99, 6.01] exact");
}
