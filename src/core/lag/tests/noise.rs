//! Any sequence of polls at all: whatever servers say, what is told makes sense in itself.

use super::*;
use crate::core::wal_clock::Dice;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A position near others, or anywhere.
fn lsn(dice: &mut Dice) -> Lsn {
    Lsn::new(match dice.below(20) {
        0 => 0,
        1 => u64::MAX,
        2 => dice.below(u64::MAX),
        _ => 1_000 + dice.below(50),
    })
}

fn time(dice: &mut Dice, now: f64) -> ServerTime {
    match dice.below(20) {
        0 => ServerTime::from_unix_micros(i64::MIN),
        1 => ServerTime::from_unix_micros(i64::MAX),
        2 => ServerTime::from_unix_micros(0),
        _ => stamp(now + dice.between(-100.0, 5.0)),
    }
}

fn maybe<T>(dice: &mut Dice, value: impl FnOnce(&mut Dice) -> T) -> Option<T> {
    if dice.one_in(4) { None } else { Some(value(dice)) }
}

fn timeline(dice: &mut Dice) -> Timeline {
    Timeline(if dice.one_in(20) { dice.below(1 << 32) as u32 } else { 1 + dice.below(3) as u32 })
}

fn any_sender(dice: &mut Dice, now: f64) -> WalSender {
    let numbers = [0.0, 0.5, 30.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    WalSender {
        application_name: maybe(dice, |dice| Arc::from(NAMES[dice.below(4) as usize])),
        client: None,
        state: maybe(dice, |dice| if dice.one_in(3) { SenderState::Catchup } else { SenderState::Streaming }),
        replay_lsn: maybe(dice, lsn),
        replay_lag: maybe(dice, |dice| numbers[dice.below(7) as usize]),
        reply_time: maybe(dice, |dice| time(dice, now)),
        ..sender("", 0, 0.0)
    }
}

fn any_poll(dice: &mut Dice, asked: f64) -> Observation {
    let target = NAMES[dice.below(4) as usize];
    if dice.one_in(5) {
        return if dice.one_in(2) { refused(target, asked) } else { hangs(target, asked) };
    }
    let mut poll = if dice.one_in(3) { primary(target, asked, 0) } else { standby(target, asked, 0) };
    match &mut poll.state {
        ServerState::Primary(state) => {
            state.flush_lsn = lsn(dice);
            state.timeline = timeline(dice);
            state.checkpoint = maybe(dice, |dice| Checkpoint { redo_lsn: lsn(dice), taken_at: time(dice, asked) });
        }
        ServerState::Standby(state) => {
            state.replay_lsn = maybe(dice, lsn);
            state.receive_lsn = maybe(dice, lsn);
            state.last_commit_replayed_at = maybe(dice, |dice| time(dice, asked));
            state.control_timeline = maybe(dice, timeline);
            state.receiver = match dice.below(5) {
                0 => Receiver::Absent,
                1 => Receiver::Hidden,
                _ => Receiver::Running(WalReceiver {
                    status: if dice.one_in(4) { "waiting" } else { "streaming" }.to_owned(),
                    timeline: maybe(dice, timeline),
                    flushed_lsn: None,
                    written_lsn: None,
                    latest_end_at: None,
                    latest_end_lsn: maybe(dice, lsn),
                    last_msg_sent_at: maybe(dice, |dice| time(dice, asked)),
                    last_msg_received_at: maybe(dice, |dice| time(dice, asked)),
                    sender_host: None,
                    sender_port: None,
                    slot_name: None,
                }),
            };
        }
        ServerState::Aurora(_) => {}
    }
    for _ in 0..dice.below(4) {
        poll.senders.push(any_sender(dice, asked));
    }
    if dice.one_in(10) {
        poll.started = dice.between(asked - 20.0, asked);
    }
    poll.system_identifier = match dice.below(30) {
        0 => None,
        1 => Some(2),
        _ => Some(1),
    };
    poll.cluster_name = ["", "a", "b", "c", "d"][dice.below(5) as usize].to_owned();
    poll.took = dice.between(0.0, 2.0);
    poll.ahead = if dice.one_in(30) { dice.between(-1e9, 1e9) } else { 0.0 };
    let mut observation = poll.observation();
    if dice.one_in(30) {
        observation.beat = dice.below(u64::MAX);
    }
    if let Ok(positions) = &mut observation.outcome
        && dice.one_in(30)
    {
        positions.clock = time(dice, asked);
    }
    observation
}

#[test]
fn whatever_is_polled_what_is_told_makes_sense() {
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut tracker = tracker();
        let mut now = 0.0;
        for _ in 0..400 {
            now += if dice.one_in(50) { dice.between(0.0, 1e6) } else { dice.between(0.0, 1.0) };
            tracker.observe(&any_poll(&mut dice, now));
            if dice.one_in(100) {
                tracker.forget(&Name::new(NAMES[dice.below(4) as usize]));
            }
            for name in NAMES {
                let Some(estimate) = tracker.estimate(&Name::new(name), at(now + dice.between(-1.0, 3.0))) else {
                    continue;
                };
                let LagEstimate { value, lower, upper, certainty, .. } = estimate;
                assert!(lower.is_finite() && 0.0 <= lower && lower <= upper, "{seed}: {estimate:?}");
                assert!(
                    value.is_none_or(|value| value.is_finite() && lower <= value && value <= upper),
                    "{estimate:?}"
                );
                assert_eq!(value.is_none(), certainty == Certainty::Unknown, "{estimate:?}");
            }
        }
    }
}
