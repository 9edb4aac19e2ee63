use std::sync::Arc;

use super::*;
use crate::core::fixture::{self, NOW};
use crate::core::lag::{Certainty, Evidence};
use crate::core::observation::PollFailure;
use crate::core::topology::links::{Links, SenderId};

/// What is picked for a wish, and why the others are out.
fn routed(targets: Vec<TargetView>, wish: &Wish, chance: u64) -> (Option<String>, bool, Vec<String>) {
    let cluster = fixture::cluster("orders", targets, Vec::new());
    let route = route(&cluster, NOW, wish, HealthConfig::default(), chance);
    let out = route.candidates.iter().filter(|candidate| !candidate.is_in);
    let out = out.map(|candidate| format!("{}: {}", candidate.name(), candidate.verdict.reasons.join("; "))).collect();
    (route.answer().map(|answer| answer.name().to_string()), route.is_fallback, out)
}

fn replicas() -> Wish {
    Wish { limits: Limits { role: Some(Role::Replica), ..Limits::default() }, pick: Pick::Best, ..Wish::default() }
}

fn lagging(view: &mut TargetView, seconds: f64) {
    view.lag = Some(fixture::lag(seconds, seconds, seconds, Certainty::Exact, Evidence::Lsn));
}

#[test]
fn the_best_lags_least_and_the_first_of_equals() {
    let picked = |lags: [f64; 2]| {
        let mut targets = fixture::orders();
        lagging(&mut targets[1], lags[0]);
        lagging(&mut targets[2], lags[1]);
        routed(targets, &replicas(), 0).0.unwrap()
    };
    assert_eq!(picked([0.2, 0.1]), "replica-2");
    assert_eq!(picked([0.1, 0.2]), "replica-1");
    assert_eq!(picked([0.1, 0.1]), "replica-1");
}

#[test]
fn chance_picks_each_by_its_weight_and_none_that_is_out() {
    let wish = |max_lag| Wish {
        limits: Limits { max_lag_seconds: max_lag, role: Some(Role::Replica), ..Limits::default() },
        ..Wish::default()
    };
    let shares = |lags: [f64; 2], max_lag| {
        let mut counts = [0; 2];
        for chance in 0..200_u64 {
            let mut targets = fixture::orders();
            lagging(&mut targets[1], lags[0]);
            lagging(&mut targets[2], lags[1]);
            match routed(targets, &wish(max_lag), chance).0.as_deref() {
                Some("replica-1") => counts[0] += 1,
                Some("replica-2") => counts[1] += 1,
                other => panic!("{other:?}"),
            }
        }
        counts
    };
    // 100 against 100; 75 against 25; 100 against nothing.
    assert_eq!(shares([0.0, 0.0], Some(1.0)), [100, 100]);
    assert_eq!(shares([1.0, 3.0], Some(4.0)), [150, 50]);
    assert_eq!(shares([0.0, 4.1], Some(4.0)), [200, 0]);
    // Without a limit one that lags gets reads, but few.
    let [first, second] = shares([0.0, 99.0], None);
    assert!(second > 0 && first > 50 * second, "{first} {second}");
}

#[test]
fn a_replica_has_a_write_by_its_own_word_or_its_upstreams() {
    let wish = |lsn| Wish { lsn: Some(Lsn::new(lsn)), ..replicas() };
    // Both have replayed 2FFFF00.
    assert_eq!(routed(fixture::orders(), &wish(0x02FF_FF00), 0).0.as_deref(), Some("replica-1"));
    let (none, _, out) = routed(fixture::orders(), &wish(0x02FF_FF01), 0);
    assert_eq!(none, None);
    assert_eq!(out[1], "replica-1: it has replayed up to 0/2FFFF00, not yet 0/2FFFF01");

    // The primary's row of the second says more than its last sample.
    let with_row = |pid| {
        let mut targets = fixture::orders();
        targets[2].links =
            Arc::new(Links { sender: Some(SenderId { upstream: Name::new("primary"), pid }), ..Links::default() });
        fixture::change_positions(&mut targets[0], |positions| {
            positions.senders[0].replay_lsn = Some(Lsn::new(0x0300_0000));
        });
        targets
    };
    assert_eq!(routed(with_row(4711), &wish(0x0300_0000), 0).0.as_deref(), Some("replica-2"));
    assert_eq!(routed(with_row(4712), &wish(0x0300_0000), 0).0, None, "another connection's row");
    let mut silent = with_row(4711);
    fixture::fail(&mut silent[0], PollFailure::Refused);
    assert_eq!(routed(silent, &wish(0x0300_0000), 0).0, None, "the row is as old as the upstream's silence");
}

#[test]
fn positions_of_another_timeline_prove_nothing() {
    let wish = Wish { lsn: Some(Lsn::new(1)), ..replicas() };
    let mut targets = fixture::orders();
    for replica in &mut targets[1..] {
        let mut lag = fixture::lag(9.0, 9.0, 9.0, Certainty::Exact, Evidence::Lsn);
        lag.method.old_timeline = true;
        replica.lag = Some(lag);
    }
    let (none, _, out) = routed(targets, &wish, 0);
    assert_eq!(none, None);
    assert_eq!(out[1], "replica-1: it has not followed the primary to its new timeline");

    let on = |timeline| Wish { timeline: Some(Timeline(timeline)), fallback: Fallback::Primary, ..wish };
    assert_eq!(routed(fixture::orders(), &on(3), 0).0.as_deref(), Some("replica-1"));
    let (picked, is_fallback, out) = routed(fixture::orders(), &on(2), 0);
    assert_eq!((picked.as_deref(), is_fallback), (Some("primary"), true));
    assert_eq!(out[2], "replica-2: it is on timeline 3: nothing is known of what was written on timeline 2");
}

#[test]
fn the_fallback_is_the_primary_while_it_serves() {
    let wish = Wish { lsn: Some(Lsn::new(0x0400_0000)), fallback: Fallback::Primary, ..replicas() };
    let (picked, is_fallback, _) = routed(fixture::orders(), &wish, 0);
    assert_eq!((picked.as_deref(), is_fallback), (Some("primary"), true));
    let mut targets = fixture::orders();
    fixture::fail(&mut targets[0], PollFailure::Refused);
    assert_eq!(routed(targets, &wish, 0).0, None);
    // Its own WAL is its own proof, once a sample has seen it.
    let any = |lsn| Wish { limits: Limits::default(), lsn: Some(Lsn::new(lsn)), ..replicas() };
    assert_eq!(routed(fixture::orders(), &any(0x0300_0000), 0).0.as_deref(), Some("primary"));
    let (none, _, out) = routed(fixture::orders(), &any(0x0300_0010), 0);
    assert_eq!(none, None);
    assert_eq!(out[0], "primary: its last sample, of 0/3000000, is older than 0/3000010");
}

#[test]
fn a_server_under_two_names_is_one_server() {
    let mut targets = fixture::orders();
    targets[2].links = Arc::new(Links { same_as: Some(Name::new("replica-1")), ..Links::default() });
    let (_, _, out) = routed(targets, &replicas(), 0);
    assert_eq!(out[1], "replica-2: it is the same server as replica-1");
}
