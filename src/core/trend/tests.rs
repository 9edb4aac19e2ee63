use super::*;

const MB: u64 = 1_000_000;

fn at(seconds: f64) -> MonoTime {
    MonoTime::from_nanos(0).plus_seconds(seconds)
}

fn life(started_at: i64) -> Life {
    Life { role: Role::Replica, started_at: ServerTime::from_unix_micros(started_at), system_identifier: Some(1) }
}

fn sample(seconds: f64, end: u64, received: u64, replayed: u64) -> Sample {
    let lsn = |position| Some(Lsn::new(position));
    Sample { at: at(seconds), end: lsn(end), received: lsn(received), replayed: lsn(replayed) }
}

/// What a replica's tracker says at each second: (primary's end, received, replayed) as functions of the second.
fn follow(seconds: u32, step: f64, positions: impl Fn(f64) -> (f64, f64, f64)) -> Vec<Trend> {
    let mut tracker = TrendTracker::default();
    (0..=(f64::from(seconds) / step) as u32)
        .map(|n| {
            let second = f64::from(n) * step;
            let (end, received, replayed) = positions(second);
            let trend = tracker.observe(life(0), sample(second, end as u64, received as u64, replayed as u64), false);
            assert!(tracker.samples.len() <= 9, "{} samples", tracker.samples.len());
            trend
        })
        .collect()
}

fn near(value: Option<f64>, expect: f64) -> bool {
    value.is_some_and(|value| (value - expect).abs() <= expect.abs() * 0.02 + 1e-6)
}

#[test]
fn direction_is_told_of_a_steady_gap() {
    let mb = 1e6;
    for (what, write, replay, gap, direction, catch_up) in [
        ("catching up", 10.0, 30.0, 1000.0, Direction::CatchingUp, Some(true)),
        ("falling behind", 10.0, 4.0, 100.0, Direction::FallingBehind, None),
        ("holding", 10.0, 10.1, 100.0, Direction::Holding, None),
        ("caught up", 10.0, 10.0, 0.5, Direction::Holding, Some(false)),
        ("catching up on an idle primary", 0.0, 5.0, 400.0, Direction::CatchingUp, Some(true)),
    ] {
        for step in [0.1, 1.0, 5.0, 60.0] {
            let seconds = if step > 10.0 { 300 } else { 20 };
            // As much as lasts, so that the gap has a size at the end.
            let gap = gap * mb + f64::from(seconds) * f64::max(replay - write, 0.0) * mb;
            let trends = follow(seconds, step, |t| {
                (gap + 1e9 + write * mb * t, gap + 1e9 + write * mb * t, 1e9 + replay * mb * t)
            });
            let last = trends.last().copied().unwrap_or_default();
            assert_eq!(last.direction, Some(direction), "{what}, every {step} s: {last:?}");
            assert!(near(last.replay_rate, replay * mb) && near(last.receive_rate, write * mb), "{what}: {last:?}");
            assert_eq!((last.stalled, last.standing_seconds), (Some(false), Some(0.0)), "{what}, every {step} s");
            let left = gap - (replay - write) * mb * f64::from(seconds);
            match catch_up {
                Some(true) => {
                    assert!(near(last.catch_up_seconds, left / (replay - write) / mb), "{what}: {last:?}");
                }
                Some(false) => assert_eq!(last.catch_up_seconds, Some(0.0), "{what}"),
                None => assert_eq!(last.catch_up_seconds, None, "{what}"),
            }
        }
    }
}

#[test]
fn replay_that_stands_with_work_to_do_has_stalled_and_falls_behind_while_more_is_written() {
    let mut tracker = TrendTracker::default();
    let mut told = Vec::new();
    for second in 0..10_u64 {
        let trend = tracker.observe(life(0), sample(second as f64, 9 * MB, 9 * MB, 5 * MB), false);
        told.push((trend.stalled, trend.standing_seconds, trend.direction, trend.catch_up_seconds));
    }
    let holding = Some(Direction::Holding);
    assert_eq!(told[0], (Some(false), Some(0.0), None, None));
    assert_eq!(told[4], (Some(false), Some(4.0), holding, None));
    assert_eq!(told[5], (Some(true), Some(5.0), holding, None));
    assert_eq!(told[9], (Some(true), Some(9.0), holding, None));
    // An idle primary writes some bytes now and then.
    for (bytes_per_second, waits_on_purpose, expect) in [
        (5, false, Direction::Holding),
        (5, true, Direction::Holding),
        (2000, false, Direction::FallingBehind),
        (2000, true, Direction::FallingBehind),
    ] {
        let mut tracker = TrendTracker::default();
        let mut at = |second: u64| {
            let end = 9 * MB + bytes_per_second * second;
            tracker.observe(life(0), sample(second as f64, end, 9 * MB, 5 * MB), waits_on_purpose).direction
        };
        let last = (0..20).map(&mut at).last().flatten();
        assert_eq!(last, Some(expect), "{bytes_per_second} bytes a second, on purpose: {waits_on_purpose}");
    }

    // It moves again: how fast is told at once, not averaged with the time it stood.
    let trend = tracker.observe(life(0), sample(10.0, 9 * MB, 9 * MB, 6 * MB), false);
    assert_eq!((trend.stalled, trend.replay_rate), (Some(false), Some(1e6)));
    let trend = tracker.observe(life(0), sample(13.0, 9 * MB, 9 * MB, 8 * MB + MB / 2), false);
    assert_eq!(trend.direction, Some(Direction::CatchingUp), "{trend:?}");
}

#[test]
fn a_replica_without_work_or_told_to_wait_does_not_stall() {
    let idle = follow(30, 1.0, |_| (1e6, 1e6, 1e6));
    assert!(idle.iter().all(|trend| trend.stalled == Some(false)));
    assert_eq!(idle[30].direction, Some(Direction::Holding));
    let mut tracker = TrendTracker::default();
    for second in 0..30_u64 {
        let trend = tracker.observe(life(0), sample(second as f64, 9 * MB, 9 * MB, 5 * MB), true);
        assert_eq!((trend.stalled, trend.standing_seconds), (Some(false), Some(0.0)));
    }
}

#[test]
fn seldom_polls_need_three_of_them_to_say_stalled() {
    let mut tracker = TrendTracker::default();
    let told: Vec<_> = [0.0, 60.0, 120.0]
        .map(|second| tracker.observe(life(0), sample(second, 9 * MB, 9 * MB, 5 * MB), false).stalled)
        .to_vec();
    assert_eq!(told, [Some(false), Some(false), Some(true)]);
}

#[test]
fn a_new_life_or_an_older_position_begins_anew() {
    for (what, next_life, next) in [
        ("restarted", life(1), sample(10.0, 20 * MB, 20 * MB, 20 * MB)),
        ("replay went back", life(0), sample(10.0, 20 * MB, 20 * MB, MB)),
        ("the primary's WAL went back", life(0), sample(10.0, MB, 20 * MB, 20 * MB)),
        ("promoted", Life { role: Role::Primary, ..life(0) }, sample(10.0, 20 * MB, 20 * MB, 20 * MB)),
    ] {
        let mut tracker = TrendTracker::default();
        for second in 0..10_u64 {
            tracker.observe(life(0), sample(second as f64, 10 * MB, 10 * MB, 10 * MB), false);
        }
        let trend = tracker.observe(next_life, next, false);
        assert_eq!((trend.write_rate, trend.replay_rate, trend.direction), (None, None, None), "{what}");
    }
}

#[test]
fn nothing_is_averaged_across_a_long_silence() {
    let mut tracker = TrendTracker::default();
    let mut rate =
        |second, position| tracker.observe(life(0), sample(second, position, position, position), false).replay_rate;
    assert_eq!(rate(0.0, MB), None);
    assert_eq!(rate(100.0, 11 * MB), Some(1e5));
    assert_eq!(rate(400.0, 911 * MB), None);
    assert_eq!(rate(401.0, 913 * MB), Some(2e6));
}

#[test]
fn a_primary_says_what_it_writes_and_nothing_else() {
    let mut tracker = TrendTracker::default();
    let life = Life { role: Role::Primary, ..life(0) };
    let mut last = Trend::default();
    for second in 0..60_u64 {
        let end = Some(Lsn::new(second * 3 * MB));
        last = tracker.observe(life, Sample { at: at(second as f64), end, received: None, replayed: None }, false);
    }
    assert_eq!(last, Trend { write_rate: Some(3e6), ..Trend::default() });
}

#[test]
fn without_the_primary_rates_are_known_and_direction_is_not() {
    let mut tracker = TrendTracker::default();
    let mut last = Trend::default();
    for second in 0..20_u64 {
        let sample = Sample { end: None, ..sample(second as f64, 0, (10 + second) * MB, 5 * MB) };
        last = tracker.observe(life(0), sample, false);
    }
    assert_eq!((last.direction, last.catch_up_seconds, last.stalled), (None, None, Some(true)));
    assert!(near(last.receive_rate, 1e6), "{last:?}");
}
