//! A cluster that writes, breaks and heals at random, whose true lag is known: it must lie within the bounds, always.
//!
//! Four servers: `p` with the direct standbys `a` and `b`, and `leaf` that streams from `a`. What the monitor sees of them
//! is what real servers show: stamps by their own wrong clocks, a receiver that outlives its dead connection, an answer
//! that is true for some moment between question and answer.

use super::*;
use crate::core::wal_clock::Dice;

/// The world moves in steps of this many seconds.
const STEP: f64 = 0.01;
const STANDBYS: [&str; 3] = ["a", "b", "leaf"];
/// What rounding to server microseconds and to the step of the world may shift a bound by.
const ROUNDING: f64 = 0.012;

struct Write {
    time: f64,
    lsn: u64,
    commit: Option<ServerTime>,
}

struct Replica {
    name: &'static str,
    /// Its upstream is `a`, not the primary.
    is_leaf: bool,
    ahead: f64,
    receive_lsn: u64,
    replay_lsn: u64,
    commit: Option<ServerTime>,
    timeline: u32,
    sent: f64,
    latest_end_lsn: u64,
    has_receiver: bool,
    /// Until when each fault lasts.
    cut_until: f64,
    paused_until: f64,
    unreachable_until: f64,
    /// Bytes it replays in a step.
    speed: u64,
    /// It stayed on a timeline that parted from the primary's here.
    fork: Option<u64>,
}

struct World {
    dice: Dice,
    now: f64,
    wal: Vec<Write>,
    lsn: u64,
    primary: &'static str,
    primary_ahead: f64,
    timeline: u32,
    started: f64,
    redo_lsn: u64,
    /// When the checkpoint was taken that it knows of when it starts.
    checkpoint: f64,
    told_start: f64,
    /// It is down until then: refuses connections and writes nothing.
    down_until: f64,
    hangs_until: f64,
    promote_at: Option<f64>,
    pattern: u64,
    pattern_until: f64,
    replicas: Vec<Replica>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let replicas = STANDBYS.map(|name| Replica {
            name,
            is_leaf: name == "leaf",
            ahead: dice.between(-3.0, 3.0),
            receive_lsn: 1_000,
            replay_lsn: 1_000,
            commit: None,
            timeline: 1,
            sent: 0.0,
            latest_end_lsn: 1_000,
            has_receiver: true,
            cut_until: 0.0,
            paused_until: 0.0,
            unreachable_until: 0.0,
            speed: 1_000_000,
            fork: None,
        });
        Self {
            primary_ahead: dice.between(-3.0, 3.0),
            dice,
            now: 0.0,
            wal: Vec::new(),
            lsn: 1_000,
            primary: "p",
            timeline: 1,
            started: -1e5,
            redo_lsn: 500,
            checkpoint: -1e5,
            told_start: -1e5,
            down_until: 0.0,
            hangs_until: 0.0,
            promote_at: None,
            pattern: 1,
            pattern_until: 0.0,
            replicas: replicas.into(),
        }
    }

    fn is_down(&self) -> bool {
        self.now < self.down_until || self.promote_at.is_some()
    }

    fn step(&mut self) {
        self.now += STEP;
        self.break_something();
        if self.promote_at.is_some_and(|promote_at| promote_at <= self.now) {
            self.promote();
        }
        if !self.is_down() {
            self.write();
        }
        for k in 0..self.replicas.len() {
            self.stream(k);
            self.replay(k);
        }
    }

    fn break_something(&mut self) {
        if !self.dice.one_in(1_500) {
            return;
        }
        let until = self.now + self.dice.between(0.5, 40.0);
        let k = self.dice.below(self.replicas.len() as u64) as usize;
        match self.dice.below(10) {
            0 | 1 => self.replicas[k].cut_until = until,
            2 | 3 => self.replicas[k].paused_until = until,
            4 => self.replicas[k].unreachable_until = until,
            5 => self.replicas[k].speed = [1_000_000, 300, 20][self.dice.below(3) as usize],
            6 if !self.is_down() => self.hangs_until = until,
            7 if !self.is_down() => {
                self.down_until = until;
                self.started = until - 0.05;
                self.redo_lsn = self.lsn;
                self.checkpoint = self.started + 0.02;
                if self.dice.one_in(2) {
                    self.shut_down();
                }
            }
            8 if !self.is_down() && self.primary == "p" => self.promote_at = Some(until),
            9 => self.primary_ahead += self.dice.between(-20.0, 20.0),
            _ => {}
        }
    }

    /// `a` takes over; `b` and `leaf` follow it, except one that has more than `a`.
    fn promote(&mut self) {
        self.promote_at = None;
        let fork = self.replicas[0].receive_lsn;
        self.wal.retain(|write| write.lsn <= fork);
        self.lsn = fork;
        let promoted = self.replicas.remove(0);
        (self.primary, self.primary_ahead) = (promoted.name, promoted.ahead);
        self.timeline += 1;
        // The end-of-recovery record, before the first client may write.
        self.lsn += 42;
        self.wal.push(Write { time: self.now, lsn: self.lsn, commit: None });
        for replica in &mut self.replicas {
            replica.is_leaf = false;
            if replica.receive_lsn > fork {
                replica.fork = Some(fork);
            }
        }
    }

    /// It stops in good order: ends its WAL with a checkpoint, which it still sends to those who listen.
    fn shut_down(&mut self) {
        self.checkpoint = self.now - self.dice.between(0.0, 0.3);
        self.lsn += 120;
        self.wal.push(Write { time: self.now, lsn: self.lsn, commit: None });
        for replica in &mut self.replicas {
            if !replica.is_leaf && replica.cut_until < self.now && replica.fork.is_none() {
                replica.receive_lsn = self.lsn;
            }
        }
    }

    fn write(&mut self) {
        if self.pattern_until < self.now {
            self.pattern = self.dice.below(5);
            self.pattern_until = self.now + self.dice.between(5.0, 60.0);
        }
        let (writes, commits) = match self.pattern {
            0 => (false, false),
            1 => (true, true),
            2 => (self.dice.one_in(300), true),
            3 => (true, false),
            _ => (self.dice.one_in(20), self.dice.one_in(2)),
        };
        if writes {
            self.lsn += 8 + self.dice.below(200);
            // Stamped a moment before it is flushed.
            let stamped = self.now - self.dice.between(0.0, 0.03);
            let commit = commits.then(|| stamp(stamped + self.primary_ahead));
            self.wal.push(Write { time: self.now, lsn: self.lsn, commit });
        }
    }

    fn stream(&mut self, k: usize) {
        let upstream_lives =
            if self.replicas[k].is_leaf { true } else { !self.is_down() && self.replicas[k].fork.is_none() };
        let (upstream_lsn, upstream_ahead) = if self.replicas[k].is_leaf {
            (self.replicas[0].receive_lsn, self.replicas[0].ahead)
        } else {
            (self.lsn, self.primary_ahead)
        };
        let (now, timeline) = (self.now, self.timeline);
        // A severed receiver notices after a while.
        let notices = self.dice.one_in(200);
        let keepalive = self.dice.one_in(1_000);
        let replica = &mut self.replicas[k];
        let connected = upstream_lives && replica.cut_until < now;
        if connected {
            replica.has_receiver = true;
            replica.timeline = timeline;
            if replica.receive_lsn < upstream_lsn || keepalive {
                replica.receive_lsn = upstream_lsn;
                replica.latest_end_lsn = upstream_lsn;
                replica.sent = now + upstream_ahead;
            }
        } else if notices {
            replica.has_receiver = false;
        }
    }

    fn replay(&mut self, k: usize) {
        let replica = &mut self.replicas[k];
        if replica.paused_until > self.now || replica.replay_lsn >= replica.receive_lsn {
            return;
        }
        let limit = replica.receive_lsn.min(replica.replay_lsn + replica.speed);
        let from = self.wal.partition_point(|write| write.lsn <= replica.replay_lsn);
        for write in self.wal[from..].iter().take_while(|write| write.lsn <= limit) {
            replica.commit = write.commit.or(replica.commit);
        }
        replica.replay_lsn = limit;
    }

    fn true_lag(&self, name: &str) -> Option<f64> {
        let replica = self.replicas.iter().find(|replica| replica.name == name)?;
        let lsn = replica.fork.map_or(replica.replay_lsn, |fork| fork.min(replica.replay_lsn));
        let next = self.wal.get(self.wal.partition_point(|write| write.lsn <= lsn));
        Some(next.map_or(0.0, |write| self.now - write.time))
    }

    fn poll_of_primary(&mut self, asked: f64) -> Poll {
        let mut poll = primary(self.primary, asked, self.lsn).timeline(self.timeline);
        poll.ahead = self.primary_ahead;
        if self.told_start != self.started {
            self.told_start = self.started;
            // The stamp is of the server's own clock.
            poll = poll.restarted(self.started + self.primary_ahead, self.redo_lsn);
            // The control file tells whole seconds.
            let taken_at = stamp((self.checkpoint + self.primary_ahead).floor());
            poll.primary_mut().checkpoint = Some(Checkpoint { redo_lsn: Lsn::new(self.redo_lsn), taken_at });
        }
        poll.started = self.started + self.primary_ahead;
        for k in 0..self.replicas.len() {
            if self.is_connected(k, false) {
                poll.senders.push(self.row_of(k));
            }
        }
        poll
    }

    fn is_connected(&self, k: usize, to_leaf: bool) -> bool {
        let replica = &self.replicas[k];
        replica.is_leaf == to_leaf && replica.cut_until < self.now && replica.fork.is_none()
    }

    fn row_of(&self, k: usize) -> WalSender {
        let replica = &self.replicas[k];
        WalSender {
            replay_lag: self.true_lag(replica.name).filter(|lag| *lag > 0.0),
            ..sender(replica.name, replica.replay_lsn, self.now + replica.ahead)
        }
    }

    fn poll_of_replica(&self, k: usize, asked: f64) -> Poll {
        let replica = &self.replicas[k];
        let mut poll = standby(replica.name, asked, replica.replay_lsn).timeline(replica.timeline);
        poll = if replica.has_receiver {
            poll.streams(replica.timeline, replica.latest_end_lsn, replica.sent)
        } else {
            poll.no_receiver()
        };
        let state = poll.standby_mut();
        state.receive_lsn = Some(Lsn::new(replica.receive_lsn));
        state.last_commit_replayed_at = replica.commit;
        if replica.name == "a" && self.is_connected(self.replicas.len() - 1, true) {
            poll.senders.push(self.row_of(self.replicas.len() - 1));
        }
        poll.ahead(replica.ahead)
    }
}

/// What the runs have seen.
#[derive(Default)]
struct Tally {
    samples: u32,
    exact: u32,
    evidence: BTreeSet<Evidence>,
    qualifiers: BTreeSet<(bool, bool, bool, bool)>,
}

/// Runs a world for `beats` and holds every estimate against the truth.
fn run(seed: u64, beats: u32, tally: &mut Tally) {
    let mut world = World::new(seed);
    let mut tracker = tracker();
    // The truth about every standby at the moment that the primary's rows, and `a`'s, were read.
    let mut at_rows: HashMap<&str, f64> = HashMap::new();
    for _ in 0..300 {
        world.step();
    }
    for _ in 0..beats {
        let beat_began = world.now.ceil();
        while world.now < beat_began {
            world.step();
        }
        let number = beat(beat_began);
        let mut names = vec![world.primary];
        names.extend(world.replicas.iter().map(|replica| replica.name));
        for name in names {
            let asked = world.now;
            let (before, after) = (world.dice.below(4), world.dice.below(4));
            (0..before).for_each(|_| world.step());
            let sampled = world.now;
            let mut truth = world.true_lag(name);
            let slot = world.replicas.iter().position(|replica| replica.name == name);
            let mut poll = match slot {
                Some(k) if world.replicas[k].unreachable_until > world.now => Err(()),
                Some(k) => Ok(world.poll_of_replica(k, asked)),
                None if world.is_down() || world.hangs_until > world.now => Err(()),
                None if name == world.primary => Ok(world.poll_of_primary(asked)),
                None => Err(()),
            };
            if poll.is_ok() && (name == world.primary || name == "a") {
                for replica in &world.replicas {
                    if replica.is_leaf == slot.is_some() {
                        at_rows.insert(replica.name, world.true_lag(replica.name).unwrap_or(0.0));
                    }
                }
            }
            (0..after).for_each(|_| world.step());
            if let Ok(poll) = &mut poll {
                poll.took = world.now - asked;
                // The server read its clock when it was sampled, and not in the middle.
                poll.ahead += sampled - (asked + poll.took / 2.0);
            }
            let mut observation = match poll {
                Ok(poll) => poll.observation(),
                Err(()) if slot.is_none() && world.is_down() => refused(name, world.now),
                Err(()) => {
                    truth = world.true_lag(name);
                    failed(name, asked, world.now - asked, PollFailure::Refused)
                }
            };
            if slot.is_none() && world.hangs_until > world.now && observation.outcome.is_err() {
                observation = hangs(name, asked - 0.4);
            }
            observation.beat = number;
            tracker.observe(&observation);
            // Between a promotion and the first answer of the new primary nobody can know.
            let follows = tracker.primary().is_none_or(|primary| primary.as_str() == world.primary);
            let (Some(truth), true, Some(estimate)) =
                (truth, follows, tracker.estimate(&Name::new(name), at(world.now)))
            else {
                continue;
            };
            let truth = if estimate.method.upstream { at_rows[name] } else { truth };
            let told = told(Some(estimate));
            assert!(
                estimate.lower - ROUNDING <= truth && truth <= estimate.upper + ROUNDING,
                "world {seed}, second {sampled:.2}: {name} lags by {truth:.3}, told: {told}"
            );
            let LagEstimate { certainty, method, .. } = estimate;
            tally.samples += 1;
            tally.exact += u32::from(certainty == Certainty::Exact);
            tally.evidence.insert(method.evidence);
            tally.qualifiers.insert((method.last_known, method.upstream, method.old_timeline, method.primary_lost));
        }
    }
}

#[test]
fn the_truth_lies_within_the_bounds_whatever_breaks() {
    let mut tally = Tally::default();
    for seed in 0..20 {
        run(seed, 400, &mut tally);
    }
    // The run is worth what it has met: nearly every kind of evidence, alone and qualified.
    assert!(tally.samples > 15_000, "{}", tally.samples);
    assert!(f64::from(tally.exact) > 0.75 * f64::from(tally.samples), "{} of {}", tally.exact, tally.samples);
    assert!(tally.evidence.len() >= 12, "{:?}", tally.evidence);
    assert!(tally.qualifiers.len() >= 8, "{:?}", tally.qualifiers);
}
