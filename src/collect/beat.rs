//! The beat of a cluster: who is asked when.
//!
//! At each beat the primary is asked first, and the replicas as soon as it has answered, or after [`PATIENCE`]: then a
//! caught-up replica is seen at or beyond the position the primary had, and shows no lag that is only our own delay.
//! Who is the primary is known by each server's own last answer; while none is, all are asked at once.
//!
//! The beat never waits for a server longer than that, and never asks one that is still busy with an earlier question:
//! a slow, hung or dead server costs itself alone, and what was missed is not made up for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::core::topology::Role;

/// How long the replicas wait for the primary's answer.
const PATIENCE: Duration = Duration::from_millis(200);

/// At the start, two polls this far apart tell WAL in flight from replay that stands still, however long the interval.
const SECOND_BEAT: Duration = Duration::from_secs(1);

/// Calls the turns of one cluster's targets.
#[derive(Debug)]
pub struct BeatTask {
    interval: Duration,
    offset: Duration,
    board: Arc<Board>,
    calls: watch::Sender<Call>,
    burst: Option<Burst>,
}

/// Beats that come sooner while somebody waits for what a replica says.
#[derive(Debug)]
pub(crate) struct Burst {
    /// So long after the beat before.
    pub(crate) every: Duration,
    /// Rung by whoever waits, once for each beat.
    pub(crate) bell: Arc<Notify>,
}

impl Burst {
    async fn wanted(burst: Option<&Self>, last: Instant) {
        match burst {
            Some(burst) => {
                burst.bell.notified().await;
                sleep_until(last + burst.every).await;
            }
            None => std::future::pending().await,
        }
    }
}

/// As many beats may come sooner in a row. Each regular beat gives one of them back: however many wait, and for however
/// long, servers are then asked twice as often as they would be.
const SOONER: u32 = 30;

/// A call to the targets of a cluster. `beat` 0 is before the first.
#[derive(Clone, Copy, Debug, Default)]
struct Call {
    beat: u64,
    /// Else only those that are not known to be replicas.
    everyone: bool,
}

/// Where the targets of a cluster note how far they are.
#[derive(Debug)]
struct Board {
    seats: Box<[Mark]>,
    /// Some target has answered.
    answered: Notify,
}

#[derive(Debug, Default)]
struct Mark {
    /// 0 unknown, 1 primary, 2 replica: by the server's own last answer.
    role: AtomicU8,
    /// The last beat whose question was answered, or passed over.
    done: AtomicU64,
    /// Has not come to the end of its turn, which may be of an earlier beat.
    busy: AtomicBool,
}

impl Mark {
    fn role(&self) -> Option<Role> {
        match self.role.load(Ordering::Relaxed) {
            1 => Some(Role::Primary),
            2 => Some(Role::Replica),
            _ => None,
        }
    }
}

/// One target's place in its cluster's beat.
#[derive(Debug)]
pub(crate) struct Seat {
    board: Arc<Board>,
    index: usize,
    calls: watch::Receiver<Call>,
    beat: u64,
}

/// The beat of a cluster of `n_targets`, and their seats in order. `index` is the cluster's place among all clusters:
/// their beats are spread over the interval by it.
pub(crate) fn new(index: usize, n_targets: usize, interval: Duration, burst: Option<Burst>) -> (BeatTask, Vec<Seat>) {
    let board = Arc::new(Board {
        seats: std::iter::repeat_with(Mark::default).take(n_targets).collect(),
        answered: Notify::new(),
    });
    let (calls, receiver) = watch::channel(Call::default());
    let seats = (0..n_targets)
        .map(|index| Seat { board: Arc::clone(&board), index, calls: receiver.clone(), beat: 0 })
        .collect();
    (BeatTask { interval, offset: interval.mul_f64(spread(index)), board, calls, burst }, seats)
}

/// A place in `0.0..1.0` for the `index`-th of any number of things, as far from those before it as can be: multiples of
/// the golden ratio, modulo 1.
pub(crate) fn spread(index: usize) -> f64 {
    (index as f64 * 0.618_033_988_749_895).fract()
}

impl BeatTask {
    /// Runs until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.beats()).await;
    }

    async fn beats(self) {
        let start = Instant::now() + self.offset;
        let mut ticks = interval_at(start, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut beat = 0;
        let (mut sooner, mut last) = (SOONER, start);
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => sooner = SOONER.min(sooner + 1),
                () = Burst::wanted(self.burst.as_ref(), last), if sooner > 0 && beat > 0 => sooner -= 1,
            }
            last = Instant::now();
            beat += 1;
            self.beat(beat).await;
            if beat == 1 && self.interval > SECOND_BEAT {
                sleep_until(start + SECOND_BEAT).await;
                beat += 1;
                self.beat(beat).await;
            }
        }
    }

    async fn beat(&self, beat: u64) {
        let awaited: Vec<&Mark> = self
            .board
            .seats
            .iter()
            .filter(|mark| mark.role() == Some(Role::Primary) && !mark.busy.load(Ordering::Acquire))
            .collect();
        if !awaited.is_empty() {
            self.calls.send_replace(Call { beat, everyone: false });
            let all_answered = async {
                while awaited.iter().any(|mark| mark.done.load(Ordering::Acquire) < beat) {
                    self.board.answered.notified().await;
                }
            };
            // Not in time is no reason not to ask the others.
            let _ = timeout(PATIENCE.min(self.interval / 2), all_answered).await;
        }
        self.calls.send_replace(Call { beat, everyone: true });
    }
}

impl Seat {
    fn mark(&self) -> &Mark {
        &self.board.seats[self.index]
    }

    /// Waits for this target's turn and takes it: the beat. `None` when there will be no more.
    pub(crate) async fn turn(&mut self) -> Option<u64> {
        loop {
            self.calls.changed().await.ok()?;
            let call = *self.calls.borrow_and_update();
            let is_meant = call.everyone || self.mark().role() != Some(Role::Replica);
            if is_meant && call.beat > self.beat {
                self.beat = call.beat;
                self.mark().busy.store(true, Ordering::Release);
                return Some(call.beat);
            }
        }
    }

    /// The question of this turn is answered (then with the role), has failed, or is passed over: the others need not
    /// wait any longer.
    pub(crate) fn answered(&self, role: Option<Role>) {
        match role {
            Some(Role::Primary) => self.mark().role.store(1, Ordering::Relaxed),
            Some(Role::Replica) => self.mark().role.store(2, Ordering::Relaxed),
            None => {}
        }
        self.mark().done.store(self.beat, Ordering::Release);
        self.board.answered.notify_one();
    }

    /// The end of the turn. Calls that came meanwhile are missed.
    pub(crate) fn ready(&mut self) {
        self.mark().busy.store(false, Ordering::Release);
        self.calls.mark_unchanged();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::future::join_all;

    use super::*;

    /// Runs a cluster for `beats` seconds. Each target has a role and takes a while to answer. What was asked: the time
    /// in milliseconds since the start, the beat, and the target.
    async fn asked(targets: &[(Role, u64)], seconds: u64) -> Vec<(u128, u64, usize)> {
        let (task, seats) = new(0, targets.len(), Duration::from_secs(1), None);
        let start = Instant::now();
        let log = Mutex::new(Vec::new());
        let answering = seats.into_iter().zip(targets).enumerate().map(|(index, (mut seat, (role, ms)))| {
            let log = &log;
            async move {
                while let Some(beat) = seat.turn().await {
                    log.lock().unwrap().push((start.elapsed().as_millis(), beat, index));
                    tokio::time::sleep(Duration::from_millis(*ms)).await;
                    seat.answered(Some(*role));
                    seat.ready();
                }
            }
        });
        let cancel = CancellationToken::new();
        let stop = async {
            tokio::time::sleep(Duration::from_millis(seconds * 1000 - 1)).await;
            cancel.cancel();
        };
        tokio::join!(task.run(cancel.clone()), join_all(answering), stop);
        let mut log = log.into_inner().unwrap();
        log.sort_unstable();
        log
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_are_asked_when_the_primary_has_answered() {
        let (primary, replica) = ((Role::Primary, 20), (Role::Replica, 5));
        assert_eq!(
            asked(&[replica, primary, replica], 3).await,
            [
                // Nobody's role is known.
                (0, 1, 0),
                (0, 1, 1),
                (0, 1, 2),
                (1000, 2, 1),
                (1020, 2, 0),
                (1020, 2, 2),
                (2000, 3, 1),
                (2020, 3, 0),
                (2020, 3, 2),
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_primary_delays_its_replicas_by_a_fifth_of_a_second_and_not_while_it_hangs() {
        let (primary, replica) = ((Role::Primary, 2500), (Role::Replica, 5));
        assert_eq!(
            asked(&[primary, replica], 5).await,
            [
                (0, 1, 0),
                (0, 1, 1),
                // Busy with the first question, not known as primary.
                (1000, 2, 1),
                (2000, 3, 1),
                // The answer came at 2.5 s: asked again, and waited for.
                (3000, 4, 0),
                (3200, 4, 1),
                // Still busy: nothing to wait for.
                (4000, 5, 1),
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_hung_replica_delays_nobody_and_makes_up_for_nothing() {
        let (primary, hung, replica) = ((Role::Primary, 1), (Role::Replica, 2500), (Role::Replica, 1));
        assert_eq!(
            asked(&[primary, hung, replica], 4).await,
            [
                (0, 1, 0),
                (0, 1, 1),
                (0, 1, 2),
                (1000, 2, 0),
                (1001, 2, 2),
                (2000, 3, 0),
                (2001, 3, 2),
                (3000, 4, 0),
                (3001, 4, 1),
                (3001, 4, 2),
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn beats_missed_in_a_stall_are_skipped() {
        let (task, mut seats) = new(0, 1, Duration::from_secs(1), None);
        let cancel = CancellationToken::new();
        let start = Instant::now();
        let asking = async {
            let mut beats = Vec::new();
            for _ in 0..3 {
                seats[0].turn().await.unwrap();
                beats.push(start.elapsed().as_millis());
                if beats.len() == 1 {
                    // The whole daemon stands still.
                    tokio::time::advance(Duration::from_millis(5300)).await;
                }
                seats[0].answered(None);
                seats[0].ready();
            }
            cancel.cancel();
            beats
        };
        let ((), beats) = tokio::join!(task.run(cancel.clone()), asking);
        assert_eq!(beats[0], 0);
        assert!(beats[1] >= 5300 && beats[2] == 6000 || beats[1] == 6000, "{beats:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_interval_starts_with_two_beats_a_second_apart() {
        let (task, mut seats) = new(0, 1, Duration::from_secs(30), None);
        let cancel = CancellationToken::new();
        let start = Instant::now();
        let asking = async {
            let mut beats = Vec::new();
            for _ in 0..4 {
                seats[0].turn().await.unwrap();
                beats.push(start.elapsed().as_secs());
                seats[0].answered(None);
                seats[0].ready();
            }
            cancel.cancel();
            beats
        };
        let ((), beats) = tokio::join!(task.run(cancel.clone()), asking);
        assert_eq!(beats, [0, 1, 30, 60]);
    }

    #[tokio::test(start_paused = true)]
    async fn while_somebody_waits_beats_come_sooner_but_not_for_ever() {
        let bell = Arc::new(Notify::new());
        let burst = Burst { every: Duration::from_millis(100), bell: Arc::clone(&bell) };
        let (task, mut seats) = new(0, 1, Duration::from_secs(1), Some(burst));
        let cancel = CancellationToken::new();
        let start = Instant::now();
        let asking = async {
            let mut beats = Vec::new();
            loop {
                seats[0].turn().await.unwrap();
                let at = start.elapsed().as_millis();
                seats[0].answered(None);
                seats[0].ready();
                // Nobody waits in the second second; from the third on somebody always does.
                if !(300..2000).contains(&at) {
                    bell.notify_one();
                }
                if at >= 60_000 {
                    cancel.cancel();
                    return beats;
                }
                beats.push(at);
            }
        };
        let ((), beats) = tokio::join!(task.run(cancel.clone()), asking);
        assert_eq!(beats[..7], [0, 100, 200, 300, 1000, 2000, 2100]);
        let within = |from, to| beats.iter().filter(|at| (from..to).contains(*at)).count();
        assert_eq!((within(3000, 4000), within(58_000, 59_000)), (10, 2), "{beats:?}");
        assert!(beats.windows(2).all(|pair| pair[1] - pair[0] >= 100), "{beats:?}");
    }

    #[test]
    fn clusters_are_spread_over_the_interval() {
        for n_clusters in [10, 100, 1000] {
            let mut places: Vec<f64> = (0..n_clusters).map(spread).collect();
            places.sort_by(f64::total_cmp);
            let widest = places.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
            assert!(places.iter().all(|place| (0.0..1.0).contains(place)));
            assert!(widest < 2.7 / n_clusters as f64, "{n_clusters}: {widest}");
        }
    }
}
