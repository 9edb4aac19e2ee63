//! Every row of the module doc's table, every rule of the history, every trap that has misled a monitor.

use super::*;

/// A primary that was lost after second 10 of [`writing`], at second 11.
fn lost() -> Vec<Observation> {
    and(history(0..=10, writing), [hangs("p", 11.0)])
}

fn and(mut polls: Vec<Observation>, more: impl IntoIterator<Item = Observation>) -> Vec<Observation> {
    polls.extend(more);
    polls
}

#[test]
fn a_position_in_the_history_is_as_old_as_what_follows_it() {
    let polls = |poll: Poll| and(history(0..=10, writing), [poll.into()]);
    let truth = |lsn| Some(10.02 - went_beyond(lsn));
    for (poll, truth, expected) in [
        (standby("r", 10.02, 2_000), Some(0.0), "caught_up 0 [0, 0.03] exact"),
        (standby("r", 10.02, 2_050), Some(0.0), "caught_up 0 [0, 0.03] exact"),
        (standby("r", 10.02, 1_400), truth(1_400), "lsn_plateau 5.52 [5.01, 6.03] exact"),
        (standby("r", 10.02, 1_450), truth(1_450), "lsn 5.52 [5.01, 6.03] exact"),
        (standby("r", 10.02, 1_450).committed(4.45), truth(1_450), "lsn+ts 5.575 [5.01, 5.635] exact"),
        (standby("r", 10.02, 1_450).committed(3.0), truth(1_450), "lsn 5.52 [5.01, 6.03] exact"),
        (standby("r", 10.02, 1_450).committed(7.0), truth(1_450), "lsn 5.52 [5.01, 6.03] exact"),
    ] {
        check(polls(poll), "r", 10.03, truth, expected);
    }
}

#[test]
fn an_idle_primary_ages_nobody() {
    let idle = |_| 5_000;
    for poll in [
        standby("r", 3_600.02, 5_000).committed(1.0),
        standby("r", 3_600.02, 5_000).committed(1.0).streams(1, 5_000, 3_590.0),
        // Restarted: no commit replayed since, and the receive position is back at the segment's start.
        standby("r", 3_600.02, 5_000).received(4_096).no_receiver(),
        standby("r", 3_600.02, 5_000).streams(1, 5_000, 3_590.0).received(4_096),
    ] {
        let polls = and(history(0..=3_600, idle), [poll.into()]);
        check(polls, "r", 3_600.03, Some(0.0), "caught_up 0 [0, 0.03] exact");
    }
}

#[test]
fn a_severed_replica_falls_behind_though_it_replayed_all_it_received() {
    let mut tracker = tracker();
    for poll in history(0..=5, writing) {
        tracker.observe(&poll);
    }
    for (second, expected) in [
        (5, "caught_up 0 [0, 0.03] exact"),
        (6, "lsn_plateau 0.52 [0.01, 1.03] exact"),
        (7, "lsn_plateau 1.52 [1.01, 2.03] exact"),
        (20, "lsn_plateau 14.52 [14.01, 15.03] exact"),
    ] {
        let asked = f64::from(second);
        tracker.observe(&primary("p", asked, writing(second)).into());
        tracker.observe(&standby("r", asked + 0.02, 1_500).received(1_500).no_receiver().into());
        let truth = (asked + 0.02 - went_beyond(1_500)).max(0.0);
        expect(&tracker, "r", asked + 0.03, Some(truth), expected);
    }
}

#[test]
fn a_replay_position_that_goes_back_is_believed() {
    let mut tracker = tracker();
    for poll in history(0..=100, writing) {
        tracker.observe(&poll);
    }
    for (asked, lsn, expected) in [
        (100.02, 11_000, "caught_up 0 [0, 0.03] exact"),
        (100.5, 2_000, "lsn 90.5 [88.49, 92.51] exact"),
        (100.9, 11_000, "caught_up 0 [0, 0.91] exact"),
    ] {
        tracker.observe(&standby("r", asked, lsn).into());
        expect(&tracker, "r", asked + TOOK, None, expected);
    }
}

#[test]
fn an_lsn_of_the_primary_that_goes_back_forgets_what_was_lost() {
    let polls = and(
        history(0..=10, writing),
        [primary("p", 11.0, 1_850).into(), primary("p", 12.0, 1_860).into(), standby("r", 12.02, 1_850).into()],
    );
    check(polls, "r", 12.03, Some(0.5), "lsn_plateau 0.52 [0.01, 1.03] exact");
}

#[test]
fn a_young_history_tells_what_each_witness_proves() {
    // The truth: the replica stands at 900, which the primary left at second -20.
    let measured = |lag: f64, reply: f64| WalSender { replay_lag: Some(lag), ..sender("r", 900, reply) };
    let replica = |asked: f64| standby("r", asked, 900);
    for (row, poll, now, truth, expected) in [
        (None, replica(0.02), 0.03, 20.02, "warming none [0.01, inf] unknown"),
        (None, replica(1.02), 1.03, 21.02, "lower_bound 1.01 [1.01, inf] at_least"),
        (None, replica(1.02).committed(-20.1), 1.03, 21.02, "timestamp 21.13 [1.01, 21.185] at_most"),
        (
            Some(measured(18.0, -2.0)),
            replica(0.02).committed(-20.1),
            0.03,
            20.02,
            "walsender 20.025 [0.01, 20.185] at_most",
        ),
        (
            Some(measured(18.0, -2.0)),
            replica(1.02).committed(-20.1),
            1.03,
            21.02,
            "walsender 21.025 [1.01, 21.185] at_most",
        ),
        // The reply and the replica's clock are of one clock, however wrong.
        (
            Some(measured(18.0, -2.0 + 100.0)),
            replica(1.02).ahead(100.0),
            1.03,
            21.02,
            "walsender 21.025 [1.01, inf] at_least",
        ),
        // The last message was sent when there was nothing beyond the position yet.
        (
            Some(sender("r", 900, 0.9)),
            replica(1.02).streams(1, 900, -20.1),
            1.03,
            21.02,
            "timestamp 21.13 [1.01, 21.185] at_most",
        ),
        // A measurement may be too old, of another position, impossible, or by a sender that still catches up.
        (
            Some(measured(8.0, -12.0)),
            replica(1.02).committed(-20.1),
            1.03,
            21.02,
            "timestamp 21.13 [1.01, 21.185] at_most",
        ),
        (
            Some(WalSender { replay_lsn: Some(Lsn::new(901)), ..measured(20.0, 0.9) }),
            replica(1.02),
            1.03,
            21.02,
            "lower_bound 1.01 [1.01, inf] at_least",
        ),
        (
            Some(measured(90.0, 0.9)),
            replica(1.02).committed(-20.1),
            1.03,
            21.02,
            "timestamp 21.13 [1.01, 21.185] at_most",
        ),
        (
            Some(WalSender { state: Some(SenderState::Catchup), ..measured(20.0, 0.9) }),
            replica(1.02),
            1.03,
            21.02,
            "lower_bound 1.01 [1.01, inf] at_least",
        ),
        (Some(measured(f64::NAN, 0.9)), replica(1.02), 1.03, 21.02, "lower_bound 1.01 [1.01, inf] at_least"),
    ] {
        let mut polls = history(0..=beat(poll.asked) as u32, writing);
        if let Some(row) = row {
            polls.push(primary("p", poll.asked - 0.011, writing(beat(poll.asked) as u32)).with(row).into());
        }
        check(and(polls, [poll.into()]), "r", now, Some(truth), expected);
    }
}

#[test]
fn a_replica_that_was_polled_before_any_primary_gets_no_false_number() {
    let replica = || standby("r", 0.0, 1_000).committed(-3_600.0);
    let mut tracker = tracker();
    tracker.observe(&replica().into());
    expect(&tracker, "r", 0.01, Some(0.0), "warming none [0, inf] unknown");
    tracker.observe(&primary("p", 0.0, 1_000).took(0.2).into());
    expect(&tracker, "r", 0.2, Some(0.0), "caught_up 0 [0, 0.01] exact");
    expect(&tracker, "p", 0.2, None, "-");
    expect(&tracker, "never tried", 0.2, None, "-");
}

#[test]
fn without_any_primary_the_replica_alone_must_do() {
    let stream = |latest_end_lsn, sent| standby("r", 3.0, 1_000).committed(-3_600.0).streams(1, latest_end_lsn, sent);
    let nothing = || standby("r", 3.0, 1_000);
    let behind = |mut poll: Poll| {
        if let Receiver::Running(receiver) = &mut poll.standby_mut().receiver {
            receiver.last_msg_received_at = Some(stamp(2.001 - 60.0));
        }
        poll.ahead(-60.0)
    };
    for (poll, expected) in [
        (stream(1_000, 2.0), "receiver_only 0 [0, 1.005] exact"),
        (stream(1_000, -20.0), "receiver_only 0 [0, 23.005] at_least"),
        (stream(1_000, -40.0), "timestamp_only 3603.005 [0, 3603.005] at_most"),
        (stream(1_001, 2.0), "timestamp_only 3603.005 [0, 3603.005] at_most"),
        // The sender's clock is ahead: the message is as old as its arrival at least.
        (behind(stream(1_000, 2.0)), "receiver_only 0 [0, 1.004] exact"),
        (standby("r", 3.0, 1_000).committed(-3_600.0), "timestamp_only 3603.005 [0, 3603.005] at_most"),
        (nothing(), "no_primary none [0, inf] unknown"),
    ] {
        let started = [refused("p", 0.0), standby("r", 0.0, 1_000).into(), refused("p", 3.0)];
        check(and(started.into(), [poll.into()]), "r", 3.01, None, expected);
    }
    let polls = vec![refused("p", 0.0), refused("p", 3.0), stream(1_000, 2.0).into(), hangs("r", 4.0)];
    check(polls, "r", 4.5, None, "receiver_only@last_known 0 [0, 2.495] at_least");
}

#[test]
fn a_server_that_is_no_replica_of_this_primary_has_no_number() {
    let p = || primary("p", 0.0, 1_000).observation();
    let foreign = Poll { system_identifier: Some(2), ..standby("r", 0.02, 1_000) };
    let refused_identity = Poll { system_identifier: None, ..standby("r", 0.02, 1_000) };
    let mut no_position = standby("r", 0.02, 1_000);
    no_position.standby_mut().replay_lsn = None;
    for (poll, expected) in [
        (primary("r", 0.02, 900).observation(), "other_primary none [0, inf] unknown"),
        (foreign.observation(), "foreign_cluster none [0, inf] unknown"),
        (refused_identity.observation(), "caught_up 0 [0, 0.03] exact"),
        (no_position.observation(), "no_position none [0, inf] unknown"),
        (hangs("r", 0.02), "no_position@last_known none [0, inf] unknown"),
    ] {
        check(vec![p(), poll], "r", 0.6, None, expected);
    }
}

#[test]
fn a_lost_primary_leaves_floors() {
    let row = || primary("p", 10.0, 2_000).with(sender("r", 2_000, 9.9)).observation();
    for (polls, now, expected) in [
        (and(lost(), [standby("r", 12.0, 2_000).into()]), 12.01, "primary_lost 0 [0, 2.01] at_least"),
        (
            and(lost(), [refused("p", 12.0), standby("r", 12.02, 2_000).into()]),
            12.03,
            "primary_down 0 [0, 2.03] at_least",
        ),
        // The stream of a direct standby is alive and brought nothing new.
        (
            and(lost(), [row(), hangs("p", 11.0), standby("r", 12.0, 2_000).streams(1, 2_000, 11.9).into()]),
            12.01,
            "receiver 0 [0, 0.165] exact",
        ),
        (
            and(lost(), [row(), hangs("p", 11.0), standby("r", 50.0, 2_000).streams(1, 2_000, 11.9).into()]),
            50.01,
            "primary_lost 0 [0, 38.165] at_least",
        ),
        // One that streams from another standby has that one's word only.
        (
            and(lost(), [standby("r", 12.0, 2_000).streams(1, 2_000, 11.9).into()]),
            12.01,
            "primary_lost 0 [0, 2.01] at_least",
        ),
        (and(lost(), [standby("r", 20.0, 1_400).into()]), 20.01, "lsn_plateau~primary_lost 15.5 [14.99, 16.01] exact"),
        // A server that goes into recovery leaves the cluster without a primary just as well.
        (
            and(history(0..=10, writing), [standby("p", 11.0, 2_000).into(), standby("r", 12.0, 2_000).into()]),
            12.01,
            "primary_lost 0 [0, 2.01] at_least",
        ),
    ] {
        check(polls, "r", now, None, expected);
    }
}

#[test]
fn what_a_replica_received_proves_wal_of_a_lost_primary() {
    let polls = and(
        lost(),
        [
            standby("a", 11.6, 2_100).streams(1, 2_200, 11.5).into(),
            standby("b", 15.0, 2_000).into(),
            // Neither a server on another timeline nor one of another cluster counts.
            standby("c", 15.0, 2_000).timeline(2).received(9_000).into(),
            Poll { system_identifier: Some(2), ..standby("d", 15.0, 2_000) }.received(9_000).into(),
        ],
    );
    check(
        polls.clone(),
        "b",
        15.01,
        Some(15.0 - went_beyond(2_000)),
        "lsn_plateau~primary_lost 4.2 [3.39, 5.01] exact",
    );
    check(polls.clone(), "a", 11.61, Some(11.6 - went_beyond(2_100)), "lsn~primary_lost 0 [0, 1.61] at_least");
    let mut tracker = tracker();
    for poll in &polls {
        tracker.observe(poll);
    }
    assert_eq!(tracker.flush_lsn(), Some(Lsn::new(2_200)));
    assert!(tracker.primary_is_lost());
    // It comes back and has written on: what a replica told stays a point of the history.
    tracker.observe(&primary("p", 16.0, 2_600).into());
    tracker.observe(&standby("b", 16.02, 2_000).into());
    expect(&tracker, "b", 16.03, Some(16.02 - went_beyond(2_000)), "lsn_plateau 5.22 [4.41, 6.03] exact");
    assert!(!tracker.primary_is_lost());
}

#[test]
fn a_silent_replica_is_judged_by_its_upstream() {
    let upstream = |asked: f64, name: &str, lsn| primary("p", asked, 2_000).with(sender(name, lsn, asked - 0.1));
    let replica = || standby("r", 4.02, 1_400).observation();
    let polls =
        |more: Vec<Observation>| and(and(history(0..=4, writing), [replica()]), and(history(5..=10, writing), more));
    let other = |asked: f64| Poll { cluster_name: "r".to_owned(), ..standby("s", asked, 1_800) }.observation();
    for (polls, now, expected) in [
        // The row is of its last reply, after which it may have replayed all it was sent: only the upper bound is proven.
        (
            polls(vec![upstream(10.0, "r", 1_800).into(), hangs("r", 10.02)]),
            10.6,
            "lsn_plateau@upstream 1.5 [0, 2.01] at_most",
        ),
        (
            polls(vec![upstream(10.0, "r", 2_000).into(), hangs("r", 10.02)]),
            10.6,
            "caught_up@upstream 0 [0, 0.01] exact",
        ),
        // A row that was overtaken by the replica's own answer.
        (
            polls(vec![upstream(10.0, "r", 1_300).into(), hangs("r", 10.02)]),
            10.6,
            "lsn_plateau@upstream 5.5 [0, 6.01] at_most",
        ),
        // The next row is late, and then overdue; what it has shown stays true.
        (
            polls(vec![upstream(10.0, "r", 1_800).into(), hangs("r", 11.02)]),
            11.2,
            "lsn_plateau@upstream 1.5 [0, 2.01] at_most",
        ),
        (
            polls(vec![upstream(10.0, "r", 1_800).into(), hangs("r", 12.02)]),
            12.6,
            "lsn@last_known~primary_lost 4.095 [0, 4.6] at_most",
        ),
        (
            polls(vec![upstream(10.0, "r", 1_800).into(), hangs("p", 11.0), hangs("r", 11.02)]),
            12.6,
            "lsn@last_known~primary_lost 4.095 [0, 4.6] at_most",
        ),
        (
            and(polls(vec![upstream(10.0, "r", 1_800).into(), hangs("r", 10.02)]), history(11..=12, writing)),
            12.6,
            "lsn@last_known 4.095 [0, 4.6] at_most",
        ),
        // The row of another.
        (
            polls(vec![upstream(10.0, "s", 1_800).into(), hangs("r", 10.02)]),
            10.6,
            "lsn@last_known 6.095 [0, 6.6] at_most",
        ),
        // Two rows: one is of a connection that died unnoticed, but which? The next poll shows it.
        (
            polls(vec![upstream(10.0, "r", 1_800).with(sender("r", 1_400, -50.0)).into(), hangs("r", 10.02)]),
            10.6,
            "lsn@last_known 6.095 [0, 6.6] at_most",
        ),
        (
            polls(vec![
                upstream(9.0, "r", 1_800).with(sender("r", 1_400, -50.0)).into(),
                upstream(10.0, "r", 1_800).into(),
                hangs("r", 10.02),
            ]),
            10.6,
            "lsn_plateau@upstream 1.5 [0, 2.01] at_most",
        ),
        // A name that two standbys share may be of either.
        (
            polls(vec![upstream(10.0, "r", 1_800).into(), other(10.02), hangs("r", 10.02)]),
            10.6,
            "lsn@last_known 6.095 [0, 6.6] at_most",
        ),
        (
            polls(vec![
                upstream(9.0, "r", 1_800).with(sender("r", 1_400, 8.8)).into(),
                upstream(10.0, "r", 1_800).into(),
                hangs("r", 10.02),
            ]),
            10.6,
            "lsn@last_known 6.095 [0, 6.6] at_most",
        ),
    ] {
        check(polls, "r", now, None, expected);
    }
}

#[test]
fn what_an_upstream_has_shown_of_a_silent_replica_is_not_forgotten() {
    // Its replay is paused at 1,400 when it is lost. It resumes, and is caught up by second 9.
    let mut tracker = tracker();
    let row = |second: u32, lsn| primary("p", f64::from(second), writing(second)).with(sender("r", lsn, 0.0));
    let begin = and(history(0..=4, writing), [standby("r", 4.02, 1_300).into(), refused("r", 5.02)]);
    let rows = (5..=10).map(|second| row(second, if second < 9 { 1_300 } else { writing(second) }).into());
    for poll in and(and(begin, rows), [refused("r", 10.02)]) {
        tracker.observe(&poll);
    }
    expect(&tracker, "r", 10.1, Some(0.0), "caught_up@upstream 0 [0, 0.01] exact");
    // The primary's answer is late: overdue from 11.26 on.
    expect(&tracker, "r", 11.2, Some(0.0), "caught_up@upstream 0 [0, 0.01] exact");
    expect(&tracker, "r", 11.5, Some(0.0), "primary_lost@last_known 0 [0, 1.5] at_least");
    let mut late = row(11, 2_100);
    late.took = 1.0;
    tracker.observe(&late.into());
    expect(&tracker, "r", 12.1, Some(0.0), "caught_up@upstream 0 [0, 1] exact");
    // The row is gone: it was cut off or has died, and falls behind from then on.
    for second in 13..=15 {
        tracker.observe(&primary("p", f64::from(second), writing(second)).into());
    }
    expect(&tracker, "r", 15.1, Some(2.6), "lsn@last_known 3.095 [0, 4.1] at_most");
    // It answers, older than it was: a server that was killed.
    tracker.observe(&standby("r", 15.2, 1_900).into());
    expect(&tracker, "r", 15.21, Some(5.7), "lsn_plateau 5.7 [5.19, 6.21] exact");
}

#[test]
fn a_silent_replica_stands_where_it_was_shown_though_the_primary_is_lost_too() {
    let mut tracker = tracker();
    let begin = and(history(0..=4, writing), [standby("r", 4.02, 1_300).into(), refused("r", 5.02)]);
    let row = primary("p", 10.0, 2_000).with(sender("r", 2_000, 9.9)).observation();
    for poll in and(and(begin, history(5..=9, writing)), [row, refused("r", 10.02), hangs("p", 11.0)]) {
        tracker.observe(&poll);
    }
    for (now, expected) in
        [(11.6, "primary_lost@last_known 0 [0, 1.6] at_least"), (33.0, "primary_lost@last_known 0 [0, 23] at_least")]
    {
        expect(&tracker, "r", now, Some(0.0), expected);
    }
}

#[test]
fn a_row_whose_standby_was_cut_off_proves_nothing_from_below() {
    // Cut off at second 4, with the last of the WAL in its socket: nothing is written after second 4. The row stays as its
    // last reply left it.
    let begin = and(history(0..=4, writing), [standby("r", 4.02, 1_300).into(), refused("r", 5.02)]);
    let rows = (5..=20).map(|second| {
        let row = WalSender { sent_lsn: Some(Lsn::new(1_400)), ..sender("r", 1_300, 3.9) };
        primary("p", f64::from(second), 1_400).with(row).into()
    });
    check(and(begin, rows), "r", 20.1, Some(0.0), "lsn_plateau@upstream 16.5 [0, 17.01] at_most");
}

#[test]
fn an_overdue_answer_is_not_waited_for() {
    let answered = || and(history(0..=4, writing), [standby("r", 4.02, 1_400).into()]);
    // It was caught up. The primary goes on; no poll of the replica fails yet.
    for (now, truth, expected) in [
        (5.2, 0.7, "lsn_plateau 0 [0, 0.03] exact"),
        (5.5, 1.0, "lsn@last_known 0.995 [0, 1.5] at_most"),
        (6.5, 2.0, "lsn@last_known 1.995 [0, 2.5] at_most"),
        (8.0, 3.5, "lsn@last_known~primary_lost 3.495 [0, 4] at_most"),
    ] {
        let truth = Some(truth).filter(|_| now > 5.3);
        check(and(answered(), history(5..=6, writing)), "r", now, truth, expected);
    }
    // It was behind: what is missing grows older.
    let behind = and(history(0..=9, writing), [standby("r", 9.02, 1_400).into(), primary("p", 10.0, 2_000).into()]);
    check(behind.clone(), "r", 10.2, None, "lsn_plateau 4.52 [4.01, 5.03] exact");
    check(behind, "r", 10.5, Some(6.0), "lsn@last_known 5.995 [0, 6.5] at_most");
    // Its upstream's row goes on.
    let rows = (5..=7).map(|second| {
        let second = f64::from(second);
        primary("p", second, writing(second as u32)).with(sender("r", writing(second as u32), second - 0.1)).into()
    });
    check(and(answered(), rows), "r", 7.2, Some(0.0), "caught_up@upstream 0 [0, 0.01] exact");
}

#[test]
fn a_late_answer_of_the_primary_keeps_what_was_learned_meanwhile() {
    let late = |took| primary("p", 11.0, 2_100).took(took).observation();
    let replica = |asked, replay, received| standby("r", asked, replay).received(received).observation();
    // Overdue from 11.26 on: what a replica received proves what it has.
    let polls = and(history(0..=10, writing), [replica(12.02, 2_000, 2_200)]);
    check(polls.clone(), "r", 12.03, Some(1.5), "lsn_plateau~primary_lost 0 [0, 2.03] at_least");
    let polls = and(polls, [late(1.5)]);
    check(polls.clone(), "r", 12.5, Some(1.5), "lsn_plateau 0 [0, 2.03] at_least");
    check(and(polls, [replica(13.02, 2_100, 2_300)]), "r", 13.03, Some(1.5), "lsn_plateau 1.51 [0.99, 2.03] exact");
}

#[test]
fn a_standby_without_a_name_of_its_own_presents_itself_as_walreceiver() {
    let nameless = |asked, lsn| Poll { cluster_name: String::new(), ..standby("r", asked, lsn) };
    let row = primary("p", 10.0, 2_000).with(sender("walreceiver", 1_800, 9.9)).observation();
    let polls = and(history(0..=10, writing), [nameless(9.02, 1_400).into(), row, hangs("r", 10.02)]);
    check(polls, "r", 10.6, Some(10.0 - went_beyond(1_800)), "lsn_plateau@upstream 1.5 [0, 2.01] at_most");
}

#[test]
fn a_cascading_standbys_row_counts_as_the_primarys_does() {
    let polls = and(history(0..=4, writing), [standby("leaf", 4.02, 1_400).into()]);
    let polls = and(
        and(polls, history(5..=10, writing)),
        [standby("middle", 10.02, 2_000).with(sender("leaf", 1_700, 9.9)).into(), hangs("leaf", 10.02)],
    );
    check(polls, "leaf", 10.6, Some(10.02 - went_beyond(1_700)), "lsn_plateau@upstream 2.52 [0, 3.03] at_most");
}

#[test]
fn a_replica_that_nobody_knows_of_grows_from_its_last_position() {
    let polls = |lsn| and(history(0..=4, writing), [standby("r", 4.02, lsn).into(), refused("r", 5.02)]);
    let and_on = |polls| and(polls, history(5..=10, writing));
    let went_beyond = Some(went_beyond(1_400));
    let (truth, of_1_250) = (|now| went_beyond.map(|then| now - then), Some(10.6 - super::went_beyond(1_250)));
    check(and_on(polls(1_400)), "r", 10.6, truth(10.6), "lsn@last_known 6.095 [0, 6.6] at_most");
    check(and_on(polls(1_400)), "r", 20.6, truth(20.6), "lsn@last_known~primary_lost 16.095 [0, 16.6] at_most");
    check(and_on(polls(1_250)), "r", 10.6, of_1_250, "lsn@last_known 8.095 [0, 8.6] at_most");
    check(polls(1_400), "r", 5.1, truth(5.1), "caught_up@last_known 0 [0, 1.1] exact");
    check(and(polls(1_400), [hangs("p", 5.0)]), "r", 9.0, truth(9.0), "primary_lost@last_known 0 [0, 5] at_least");
    // However much more the primary has written since, what is missing is no older.
    check(
        and(and_on(polls(1_400)), [hangs("p", 11.0)]),
        "r",
        20.6,
        truth(20.6),
        "lsn@last_known~primary_lost 16.095 [0, 16.6] at_most",
    );
    // Older than the history: only that something is missing is known.
    check(and_on(polls(900)), "r", 10.6, Some(40.0), "lower_bound@last_known 10.59 [0, inf] at_most");
}

#[test]
fn nothing_was_written_while_the_primary_was_down() {
    let down = [refused("p", 11.0), refused("p", 12.0), refused("p", 13.0)];
    let before = || and(history(0..=10, writing), down.clone());
    // The last write before it went down: at 10.5, up to 2,100. It starts at 40.2, writes from 40.4 on.
    let back = |lsn, redo_lsn| primary("p", 41.0, lsn).restarted(40.2, redo_lsn);
    let replica = |lsn| standby("r", 41.02, lsn).observation();
    let clock_was_set = |mut poll: Poll| {
        poll.ahead = 5.0;
        poll
    };
    for (poll, lsn, truth, expected) in [
        (back(2_200, 2_100), 2_100, 0.62, "lsn_plateau 0.42 [0.01, 0.83] exact"),
        (back(2_200, 2_100), 2_050, 30.52, "lsn 30.525 [0.82, 31.03] at_most"),
        (back(2_200, 2_100), 2_150, 0.62, "lsn 0.42 [0.01, 0.83] exact"),
        // The checkpoint may lie before what was seen: what was seen is then the end.
        (back(2_200, 1_950), 2_000, 0.62, "lsn_plateau 0.42 [0.01, 0.83] exact"),
        // Without the end of the old WAL, and with a clock that was set, the outage cannot be told from lag.
        (Poll { started: 40.2, ..primary("p", 41.0, 2_200) }, 2_100, 0.62, "lsn 15.52 [0.01, 31.03] at_most"),
        (clock_was_set(back(2_200, 2_100)), 2_100, 0.62, "lsn 15.52 [0.01, 31.03] at_most"),
        // A redo position that cannot be.
        (back(2_200, 9_999), 2_100, 0.62, "lsn 15.52 [0.01, 31.03] at_most"),
    ] {
        check(and(before(), [poll.into(), replica(lsn)]), "r", 41.03, Some(truth), expected);
    }
    // A restart between two polls.
    let polls = and(history(0..=10, writing), [primary("p", 11.0, 2_200).restarted(10.8, 2_100).into()]);
    check(
        and(polls, [standby("r", 11.02, 2_100).into()]),
        "r",
        11.03,
        Some(0.12),
        "lsn_plateau 0.398 [0.01, 0.785] exact",
    );
}

#[test]
fn what_comes_when_the_primary_is_about_to_be_back_is_not_as_old_as_the_outage() {
    let replica = |asked, received| standby("r", asked, 2_100).committed(10.45).received(received).observation();
    let polls = vec![refused("p", 11.0), replica(11.02, 2_100), refused("p", 60.0)];
    let polls = and(history(0..=10, writing), polls);
    // It has started at 60.2 and been heard by its replica already, which receives faster than it replays.
    check(and(polls.clone(), [replica(60.8, 2_300)]), "r", 60.82, Some(0.6), "lsn~primary_lost 0 [0, 50.415] at_least");
    // Received before it was found down: that is missing for as long.
    let polls = and(history(0..=10, writing), [refused("p", 11.0), replica(11.02, 2_300), refused("p", 60.0)]);
    check(
        and(polls, [replica(60.8, 2_300)]),
        "r",
        60.82,
        Some(50.3),
        "lsn+ts~primary_lost 50.355 [49.77, 50.415] exact",
    );
}

#[test]
fn the_checkpoint_of_a_shutdown_is_wal_that_a_severed_replica_lacks() {
    // It stops at 11.4 and starts at 40.2. The record of the checkpoint begins at 2,100 and ends at 2,220.
    let back = || {
        let mut poll = primary("p", 41.0, 2_300).restarted(40.2, 2_100);
        poll.primary_mut().checkpoint = Some(Checkpoint { redo_lsn: Lsn::new(2_100), taken_at: stamp(11.0) });
        poll.observation()
    };
    let refuses = |asked| failed("p", asked, 0.0, PollFailure::NotAccepting { reason: "shutting down".to_owned() });
    for (failures, lsn, truth, expected) in [
        (vec![refused("p", 12.0), refused("p", 13.0)], 2_100, 29.62, "lsn_plateau 29.553 [0.82, 30.085] at_most"),
        (vec![refused("p", 12.0), refused("p", 13.0)], 2_220, 0.62, "lsn 0.341 [0.01, 0.83] exact"),
        // The checkpoint takes its time, during which connections are turned away.
        (vec![refuses(12.0), refused("p", 13.0)], 2_100, 28.1, "lsn_plateau 29.053 [0.82, 30.085] at_most"),
        (vec![refuses(12.0), hangs("p", 13.0)], 2_100, 2.0, "lsn_plateau 15.452 [0.82, 30.085] at_most"),
    ] {
        let polls = and(history(0..=11, |second| writing(second.min(10))), failures);
        check(and(polls, [back(), standby("r", 41.02, lsn).into()]), "r", 41.03, Some(truth), expected);
    }
}

/// `n` is severed at 2,100 with the death of `p` after 10.5 and promoted at 30.0; the first write is at 30.5.
fn promotion(last_standing: Poll) -> Vec<Observation> {
    let mut polls = history(0..=10, writing);
    polls.extend([refused("p", 11.0), last_standing.into(), refused("p", 30.5)]);
    polls.push(primary("n", 31.0, 2_200).timeline(2).into());
    polls
}

#[test]
fn nothing_was_written_before_a_promotion() {
    let severed = || standby("n", 29.0, 2_100).received(2_100).no_receiver();
    let follower = |lsn| standby("r", 31.02, lsn).timeline(1).streams(2, 2_200, 31.0);
    for (polls, poll, truth, expected) in [
        (promotion(severed()), follower(2_200), 0.0, "caught_up 0 [0, 0.03] exact"),
        (promotion(severed()), follower(2_100), 0.52, "lsn_plateau 1.02 [0.01, 2.03] at_most"),
        (promotion(severed()), follower(2_050), 20.52, "lsn 11.52 [2.01, 21.03] at_most"),
        // The commit was stamped by the old primary: it says nothing by the new one's clock.
        (promotion(severed()), follower(2_050).committed(10.2), 20.52, "lsn 11.52 [2.01, 21.03] at_most"),
        // Received but not replayed at that time counts as common; so does replayed but not received since a restart.
        (
            promotion(standby("n", 29.0, 2_000).received(2_100).no_receiver()),
            follower(2_100),
            0.52,
            "lsn_plateau 1.02 [0.01, 2.03] at_most",
        ),
        (
            promotion(standby("n", 29.0, 2_100).received(2_048).no_receiver()),
            follower(2_100),
            0.52,
            "lsn_plateau 1.02 [0.01, 2.03] at_most",
        ),
        // Its receiver ran when it was last seen: it may have received more after.
        (
            promotion(standby("n", 29.0, 2_100).streams(1, 2_100, 10.5)),
            follower(2_100),
            0.52,
            "lsn 10.52 [0.01, 21.03] at_most",
        ),
        // It was last seen long ago.
        (
            promotion(standby("n", 12.0, 2_100).received(2_100).no_receiver()),
            follower(2_100),
            0.52,
            "lsn 10.52 [0.01, 21.03] at_most",
        ),
    ] {
        check(and(polls, [poll.into()]), "r", 31.03, Some(truth), expected);
    }
    // What it received ends in the midst of a record, which the promotion cut off; or it was slow to replay.
    let half = |asked| standby("n", asked, 2_050).received(2_100).no_receiver().observation();
    let mut polls = promotion(standby("n", 29.0, 2_050).received(2_100).no_receiver());
    let before_promotion = polls.len() - 2;
    polls.insert(before_promotion, half(28.0));
    check(
        and(polls.clone(), [standby("r", 31.02, 2_050).no_receiver().into()]),
        "r",
        31.03,
        Some(1.02),
        "lsn@old_timeline 10.52 [0.01, 21.03] at_most",
    );
    check(and(polls, [follower(2_100).into()]), "r", 31.03, Some(0.52), "lsn_plateau 1.52 [0.01, 3.03] at_most");
    // No receiver may be seen, but nothing came after the primary had gone silent.
    let mut polls = promotion(standby("n", 28.0, 2_100).received(2_100));
    let before_promotion = polls.len() - 1;
    polls.insert(before_promotion, standby("n", 29.0, 2_100).received(2_100).into());
    check(and(polls, [follower(2_100).into()]), "r", 31.03, Some(0.52), "lsn_plateau 1.02 [0.01, 2.03] at_most");
}

#[test]
fn a_server_on_the_timeline_that_was_left_shares_nothing_beyond_the_fork() {
    let severed = || standby("n", 29.0, 2_000).received(2_000).no_receiver();
    let stuck = |lsn| standby("r", 40.02, lsn).no_receiver();
    let after = || and(promotion(severed()), [primary("n", 40.0, 2_900).timeline(2).into()]);
    for (poll, expected) in [
        // Diverged: its position is beyond all that the new primary has.
        (stuck(5_000), "lsn_plateau@old_timeline 10.02 [9.01, 11.03] at_most"),
        (stuck(2_100), "lsn_plateau@old_timeline 10.02 [9.01, 11.03] at_most"),
        (stuck(1_400), "lsn_plateau@old_timeline 35.52 [35.01, 36.03] exact"),
        (stuck(5_000).streams(1, 5_000, 40.0), "lsn_plateau@old_timeline 10.02 [9.01, 11.03] at_most"),
        // One whose receiver may not be seen is never judged, and neither is one that was seen to follow.
        (standby("r", 40.02, 2_900), "caught_up 0 [0, 0.03] exact"),
        (stuck(2_900).streams(2, 2_900, 40.0), "caught_up 0 [0, 0.03] exact"),
    ] {
        check(and(after(), [poll.into()]), "r", 40.03, None, expected);
    }
    // A silent one streams from the new primary: it has followed.
    let row = primary("n", 40.2, 2_900).timeline(2).with(sender("r", 2_900, 40.1)).observation();
    let polls = and(after(), [stuck(2_000).timeline(1).observation(), row, hangs("r", 40.5)]);
    check(polls, "r", 41.0, None, "caught_up@upstream 0 [0, 0.01] exact");
    let followed = standby("r", 39.0, 2_300).streams(2, 2_300, 39.0);
    check(and(after(), [followed.into(), stuck(2_900).into()]), "r", 40.03, Some(0.0), "caught_up 0 [0, 0.03] exact");
    // Started after the promotion: where the timelines part nobody saw, only that they have.
    let started = [primary("n", 39.0, 2_800).timeline(2).into(), primary("n", 40.0, 2_900).timeline(2).into()];
    check(
        and(started.into(), [stuck(5_000).into()]),
        "r",
        40.03,
        Some(20.0),
        "lower_bound@old_timeline 1.01 [1.01, inf] at_least",
    );
}

#[test]
fn a_promotion_that_nobody_saw_in_recovery_begins_a_new_history() {
    let mut polls = history(0..=10, writing);
    polls.push(primary("p", 11.0, 1_900).timeline(2).into());
    // 1,500 was left at second 5.5 on the old timeline; where that ended is not known.
    polls.push(standby("r", 11.02, 1_500).streams(2, 1_900, 11.0).into());
    check(polls.clone(), "r", 11.03, None, "warming none [0.01, inf] unknown");
    polls.extend([
        primary("p", 12.0, 1_950).timeline(2).into(),
        standby("r", 12.02, 1_900).streams(2, 1_950, 12.0).into(),
    ]);
    check(polls, "r", 12.03, Some(0.4), "lsn_plateau 0.52 [0.01, 1.03] exact");
}

#[test]
fn of_two_primaries_the_highest_timeline_counts() {
    let old = |asked: f64, lsn| primary("p", asked, lsn).observation();
    let new = |asked: f64, lsn| primary("n", asked, lsn).timeline(2).observation();
    for (polls, primary, is_lost) in [
        (vec![old(0.0, 1_000), new(0.0, 900)], "n", false),
        (vec![new(0.0, 900), old(0.0, 1_000)], "n", false),
        // The newest one dies: the old one is not gone back to.
        (vec![new(0.0, 900), old(0.0, 1_000), refused("n", 1.0), old(1.0, 1_100)], "n", true),
        // The same timeline: the one that is known stays, until it is lost.
        (vec![old(0.0, 1_000), super::primary("n", 0.0, 5_000).into()], "p", false),
        (vec![old(0.0, 1_000), refused("p", 1.0), super::primary("n", 1.0, 1_000).into()], "n", false),
        (vec![old(0.0, 1_000), refused("p", 1.0), super::primary("n", 1.0, 1_000).into(), old(2.0, 1_000)], "n", false),
    ] {
        let mut tracker = tracker();
        for poll in &polls {
            tracker.observe(poll);
        }
        assert_eq!((tracker.primary().map(Name::as_str), tracker.primary_is_lost()), (Some(primary), is_lost));
    }
    let polls = vec![new(0.0, 900), old(0.0, 1_000)];
    check(polls, "p", 0.1, None, "other_primary none [0, inf] unknown");
}

#[test]
fn another_cluster_behind_the_address_forgets_everything() {
    let other = |target, asked, lsn| Poll { system_identifier: Some(2), ..primary(target, asked, lsn) };
    let replica = |asked, lsn| Poll { system_identifier: Some(2), ..standby("r", asked, lsn) };
    let mut polls = and(history(0..=10, writing), [standby("r", 10.02, 2_000).into(), other("p", 11.0, 1_500).into()]);
    check(polls.clone(), "r", 11.03, None, "foreign_cluster none [0, inf] unknown");
    polls.push(replica(11.02, 1_500).into());
    check(polls, "r", 11.03, Some(0.0), "caught_up 0 [0, 0.03] exact");
    // Under another name it is a stranger, until nothing of the first cluster is left.
    let mut tracker = tracker();
    for poll in [primary("p", 0.0, 1_000).into(), standby("r", 0.02, 1_000).into(), other("n", 0.02, 9_000).into()] {
        tracker.observe(&poll);
    }
    assert_eq!(tracker.primary().map(Name::as_str), Some("p"));
    for poll in [refused("p", 1.0), other("n", 1.0, 9_000).into()] {
        tracker.observe(&poll);
    }
    assert_eq!(tracker.primary().map(Name::as_str), Some("p"), "r is still of the first cluster");
    for poll in [replica(2.0, 9_000).into(), other("n", 2.0, 9_000).into()] {
        tracker.observe(&poll);
    }
    assert_eq!(tracker.primary().map(Name::as_str), Some("n"));
}

#[test]
fn a_clock_that_was_set_voids_the_stamps_from_before() {
    // The primary's clock is set back by 8 s before second 8: what was stamped 4.45 seems to be from 12.45.
    let steps = |second: u32| if second < 8 { 0.0 } else { -8.0 };
    let polls = (0..=30).map(|second| primary("p", f64::from(second), writing(second)).ahead(steps(second)).into());
    let polls: Vec<Observation> = polls.collect();
    let replica = |lsn, commit: f64| standby("r", 30.02, lsn).committed(commit).observation();
    let truth = |lsn| Some(30.02 - went_beyond(lsn));
    check(
        and(polls.clone(), [replica(2_200, 4.45)]),
        "r",
        30.03,
        truth(2_200),
        "lsn_plateau 17.52 [17.01, 18.03] exact",
    );
    check(and(polls.clone(), [replica(1_450, 4.45)]), "r", 30.03, truth(1_450), "lsn 25.52 [25.01, 26.03] exact");
    // A stamp of the new clock is as good as ever: 26.4 by the monitor's clock.
    check(and(polls, [replica(3_650, 26.45 - 8.0)]), "r", 30.03, truth(3_650), "lsn+ts 3.575 [3.01, 3.635] exact");
    // Many small steps make a large one.
    let creeps = (0..=30).map(|second| primary("p", f64::from(second), writing(second)).ahead(0.3 * f64::from(second)));
    let mut clock = tracker();
    for poll in creeps {
        clock.observe(&poll.into());
    }
    clock.observe(&replica(1_450, 4.45 + 0.3 * 4.0));
    expect(&clock, "r", 30.03, truth(1_450), "lsn 25.52 [25.01, 26.03] exact");
}

#[test]
fn a_slow_answer_does_not_blur_the_clock() {
    // The clock is read at the very end of a slow answer: the middle is off by 0.2 s.
    let slow = |asked: f64, lsn| primary("p", asked, lsn).took(0.4).ahead(0.195);
    let polls =
        and(history(0..=9, writing), [slow(10.0, 2_000).into(), standby("r", 10.42, 1_450).committed(4.45).into()]);
    check(polls, "r", 10.43, Some(10.42 - went_beyond(1_450)), "lsn+ts 5.975 [5.41, 6.035] exact");
}

#[test]
fn a_role_without_grants_is_not_taken_for_a_replica_without_a_receiver() {
    let mut hidden = sender("r", 0, 0.0);
    (hidden.state, hidden.replay_lsn, hidden.reply_time) = (None, None, None);
    let mut polls = history(0..=10, writing);
    polls.push(primary("p", 10.0, 2_000).timeline(2).with(hidden).into());
    polls.push(standby("r", 10.02, 2_000).into());
    check(polls.clone(), "r", 10.03, Some(0.0), "caught_up 0 [0, 0.03] exact");
    polls.push(hangs("r", 10.5));
    check(polls, "r", 11.0, None, "caught_up@last_known 0 [0, 1] exact");
}

#[test]
fn a_replica_on_a_newer_timeline_has_another_primary() {
    let polls = and(history(0..=10, writing), [standby("r", 10.02, 1_400).streams(2, 1_400, 10.0).into()]);
    check(polls, "r", 10.03, Some(0.0), "primary_lost 0 [0, inf] at_least");
}

#[test]
fn a_target_that_is_forgotten_has_no_number_and_a_forgotten_primary_is_lost() {
    let mut tracker = tracker();
    for poll in and(history(0..=10, writing), [standby("r", 10.02, 2_000).into()]) {
        tracker.observe(&poll);
    }
    tracker.forget(&Name::new("p"));
    expect(&tracker, "r", 10.03, Some(0.0), "primary_lost 0 [0, 0.03] exact");
    tracker.forget(&Name::new("r"));
    expect(&tracker, "r", 10.03, None, "-");
}

/// One replica was promoted by mistake, while the primary went on: `r` still follows that one.
fn split(with: impl IntoIterator<Item = Observation>) -> LagTracker {
    let mut tracker = tracker();
    let begin = and(history(0..=10, writing), [primary("x", 10.5, 2_010).timeline(2).into()]);
    for poll in and(begin, with) {
        tracker.observe(&poll);
    }
    assert_eq!(tracker.primary(), Some(&Name::new("x")));
    tracker
}

#[test]
fn the_older_primary_is_the_primary_again_once_nobody_is_left_of_the_newer_timeline() {
    let goes_on = |tracker: &mut LagTracker| {
        for second in 11..=20 {
            let asked = f64::from(second);
            tracker.observe(&primary("p", asked, writing(second)).into());
            tracker.observe(&standby("r", asked + 0.02, writing(second)).streams(1, writing(second), asked).into());
        }
        tracker.primary().cloned()
    };
    // It died: nothing says that what was written there is lost.
    assert_eq!(goes_on(&mut split([refused("x", 10.9)])), Some(Name::new("x")));
    // It is watched no more.
    let mut removed = split([]);
    removed.forget(&Name::new("x"));
    assert_eq!(goes_on(&mut removed), Some(Name::new("p")));
    expect(&removed, "r", 20.03, Some(0.0), "caught_up 0 [0, 0.03] exact");
    // It was made a standby of the older one.
    let follows = standby("x", 10.9, 2_000).streams(1, 2_000, 10.9);
    assert_eq!(goes_on(&mut split([follows.clone().into()])), Some(Name::new("p")));
    // It is a standby, and of its own timeline still.
    assert_eq!(goes_on(&mut split([follows.timeline(2).into()])), Some(Name::new("x")));
    // Another follows it.
    let other = standby("s", 10.8, 2_010).streams(2, 2_010, 10.8);
    let mut followed = split([other.into()]);
    followed.forget(&Name::new("x"));
    assert_eq!(goes_on(&mut followed), Some(Name::new("x")));
}
