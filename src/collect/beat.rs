//! The beat of a cluster: who is asked when.
//!
//! At each beat the primary is asked first, and the replicas as soon as it has answered, or after [`PATIENCE`]: then a
//! caught-up replica is seen at or beyond the position the primary had, and shows no lag that is only our own delay.
//! Who is the primary is known by each server's own last answer; while none is, all are asked at once.
//!
//! The beat never waits for a server longer than that, and never asks one that is still busy with an earlier question:
//! a slow, hung or dead server costs itself alone, and what was missed is not made up for.
//!
//! Targets come and go while it beats: each takes a [`Seat`] and gives it up again.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// Where a target takes its seat at a cluster's beat.
#[derive(Debug)]
pub struct Beat {
    board: Arc<Board>,
    calls: watch::Receiver<Call>,
}

/// A call to the targets of a cluster. `beat` 0 is before the first.
#[derive(Clone, Copy, Debug, Default)]
struct Call {
    beat: u64,
    /// Else only those that are not known to be replicas.
    everyone: bool,
}

/// Where the targets of a cluster note how far they are.
#[derive(Debug, Default)]
struct Board {
    /// Held for a moment only: by the beat, and by targets that come or go.
    seats: Mutex<Vec<Arc<Mark>>>,
    /// Some target has answered.
    answered: Notify,
}

impl Board {
    fn seats(&self) -> MutexGuard<'_, Vec<Arc<Mark>>> {
        // Nothing that could panic is done while it is held.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    mark: Arc<Mark>,
    calls: watch::Receiver<Call>,
    beat: u64,
}

/// The beat of a cluster, which counts on from `last`. `index` is the cluster's place among all clusters: their beats are
/// spread over the interval by it.
pub(crate) fn new(index: usize, interval: Duration, last: u64) -> (BeatTask, Beat) {
    let board = Arc::new(Board::default());
    let (sender, calls) = watch::channel(Call { beat: last, everyone: false });
    let task = BeatTask {
        interval,
        offset: interval.mul_f64(spread(index)),
        board: Arc::clone(&board),
        calls: sender,
        burst: None,
    };
    (task, Beat { board, calls })
}

impl Beat {
    /// A seat for one more target. Once the cluster beats, its first turn is at once.
    pub(crate) fn seat(&self) -> Seat {
        let mark = Arc::new(Mark::default());
        self.board.seats().push(Arc::clone(&mark));
        Seat { board: Arc::clone(&self.board), mark, calls: self.calls.clone(), beat: 0 }
    }

    /// The number of the last beat.
    pub fn last(&self) -> u64 {
        self.calls.borrow().beat
    }
}

/// A place in `0.0..1.0` for the `index`-th of any number of things, as far from those before it as can be: multiples of
/// the golden ratio, modulo 1.
pub(crate) fn spread(index: usize) -> f64 {
    (index as f64 * 0.618_033_988_749_895).fract()
}

impl BeatTask {
    /// The same, with beats that come sooner.
    pub(crate) fn with_burst(self, burst: Option<Burst>) -> Self {
        Self { burst, ..self }
    }

    /// Runs until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.beats()).await;
    }

    async fn beats(self) {
        let start = Instant::now() + self.offset;
        let mut ticks = interval_at(start, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut beat = self.calls.borrow().beat;
        let first = beat + 1;
        let (mut sooner, mut last) = (SOONER, start);
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => sooner = SOONER.min(sooner + 1),
                () = Burst::wanted(self.burst.as_ref(), last), if sooner > 0 && beat >= first => sooner -= 1,
            }
            last = Instant::now();
            beat += 1;
            self.beat(beat).await;
            if beat == first && self.interval > SECOND_BEAT {
                sleep_until(start + SECOND_BEAT).await;
                beat += 1;
                self.beat(beat).await;
            }
        }
    }

    async fn beat(&self, beat: u64) {
        let is_awaited = |mark: &&Arc<Mark>| mark.role() == Some(Role::Primary) && !mark.busy.load(Ordering::Acquire);
        let awaited: Vec<Arc<Mark>> = self.board.seats().iter().filter(is_awaited).cloned().collect();
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
    /// Waits for this target's turn and takes it: the beat. `None` when there will be no more.
    pub(crate) async fn turn(&mut self) -> Option<u64> {
        loop {
            self.calls.changed().await.ok()?;
            let call = *self.calls.borrow_and_update();
            let is_meant = call.everyone || self.mark.role() != Some(Role::Replica);
            if is_meant && call.beat > self.beat {
                self.beat = call.beat;
                self.mark.busy.store(true, Ordering::Release);
                return Some(call.beat);
            }
        }
    }

    /// Takes a turn between two beats. The last beat, to which it belongs.
    pub(crate) fn begin(&mut self) -> u64 {
        self.beat = self.beat.max(self.calls.borrow().beat);
        self.mark.busy.store(true, Ordering::Release);
        self.beat
    }

    /// The question of this turn is answered (then with the role), has failed, or is passed over: the others need not
    /// wait any longer.
    pub(crate) fn answered(&self, role: Option<Role>) {
        match role {
            Some(Role::Primary) => self.mark.role.store(1, Ordering::Relaxed),
            Some(Role::Replica) => self.mark.role.store(2, Ordering::Relaxed),
            None => {}
        }
        self.mark.done.store(self.beat, Ordering::Release);
        self.board.answered.notify_one();
    }

    /// The end of the turn. Calls that came meanwhile are missed.
    pub(crate) fn ready(&mut self) {
        self.mark.busy.store(false, Ordering::Release);
        self.calls.mark_unchanged();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.board.seats().retain(|mark| !Arc::ptr_eq(mark, &self.mark));
        // Nobody waits for one that has left.
        self.mark.done.store(u64::MAX, Ordering::Release);
        self.board.answered.notify_one();
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
        let (task, beat) = new(0, Duration::from_secs(1), 0);
        let seats: Vec<Seat> = targets.iter().map(|_| beat.seat()).collect();
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
        let (task, beat) = new(0, Duration::from_secs(1), 0);
        let mut seat = beat.seat();
        let cancel = CancellationToken::new();
        let start = Instant::now();
        let asking = async {
            let mut beats = Vec::new();
            for _ in 0..3 {
                seat.turn().await.unwrap();
                beats.push(start.elapsed().as_millis());
                if beats.len() == 1 {
                    // The whole daemon stands still.
                    tokio::time::advance(Duration::from_millis(5300)).await;
                }
                seat.answered(None);
                seat.ready();
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
        let (task, beat) = new(0, Duration::from_secs(30), 0);
        let mut seat = beat.seat();
        let cancel = CancellationToken::new();
        let start = Instant::now();
        let asking = async {
            let mut beats = Vec::new();
            for _ in 0..4 {
                seat.turn().await.unwrap();
                beats.push(start.elapsed().as_secs());
                seat.answered(None);
                seat.ready();
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
        let (task, beat) = new(0, Duration::from_secs(1), 0);
        let (task, mut seat) = (task.with_burst(Some(burst)), beat.seat());
        let cancel = CancellationToken::new();
        let start = Instant::now();
        let asking = async {
            let mut beats = Vec::new();
            loop {
                seat.turn().await.unwrap();
                let at = start.elapsed().as_millis();
                seat.answered(None);
                seat.ready();
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

    #[tokio::test(start_paused = true)]
    async fn a_target_that_comes_is_asked_at_once_and_one_that_goes_holds_up_nobody() {
        let (task, beat) = new(0, Duration::from_secs(1), 7);
        let cancel = CancellationToken::new();
        let start = Instant::now();
        let (mut primary, mut replica) = (beat.seat(), beat.seat());
        let story = async {
            assert_eq!((primary.turn().await, replica.turn().await), (Some(8), Some(8)));
            primary.answered(Some(Role::Primary));
            primary.ready();
            replica.answered(Some(Role::Replica));
            replica.ready();
            tokio::time::sleep(Duration::from_millis(400)).await;
            let mut late = beat.seat();
            assert_eq!((late.turn().await, start.elapsed().as_millis()), (Some(8), 400));
            late.answered(Some(Role::Replica));
            late.ready();
            // The primary is asked at 1 s and leaves with the question: the others need not wait for it.
            assert_eq!(primary.turn().await, Some(9));
            drop(primary);
            assert_eq!((late.turn().await, replica.turn().await), (Some(9), Some(9)));
            assert_eq!(start.elapsed().as_millis(), 1000);
            assert_eq!(beat.last(), 9);
            cancel.cancel();
        };
        tokio::join!(task.run(cancel.clone()), story);
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
