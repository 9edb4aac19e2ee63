//! What was published, held against the truth.
//!
//! # What is promised
//!
//! An estimate is about the moment of the answer that it rests on, and it is read later: until the next answer comes, a
//! scrape reads the same value again. So there are two promises, and both are judged.
//!
//! 1. *Of a new estimate*: the truth at some moment between the question that it rests on and its publication (where others
//!    have shown the position: of the last [`Pace::age`]) lies within its bounds, and a value called `exact` is off by at most one poll interval and one round trip.
//! 2. *Of a scrape*, at whatever moment: the truth at some moment of the last [`Pace::age`] lies within the bounds. That
//!    is one poll interval, one round trip of the ways in use, and [`GRACE`] for a beat that comes late. It makes no
//!    difference why nothing newer is published: an answer that is overdue, or a server that was lost, has to widen the
//!    bounds before they are older than that.
//!
//! `exact` is reserved for bounds no wider than two intervals or 5 % of the value. A value that is not
//! `exact` is a guess within its bounds: `at_least` may be too small, `at_most` may be too large, and how far off they
//! were is shown beside the rest.
//!
//! One thing that is true cannot be known: a replica that is killed and started comes back older than it was, for a while.
//! As long as it is out of sight, it may be judged as if it had kept what it had.
//!
//! What the witness could not see for a while, the daemon, which runs in the same process, could not either: each allowance
//! is longer by that.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use pgvigil::core::lag::{Certainty, LagEstimate};
use pgvigil::core::snapshot::{Snapshot, TargetView};
use pgvigil::core::time::MonoTime;
use pgvigil::core::topology::Role;

use super::witness::{Truth, Truths};

/// How far outside the bounds the truth may seem to be: what looking at servers of a busy machine costs in precision.
const BOUNDS: f64 = 0.5;
/// The same where the truth is looked for over a whole window.
const BOUNDS_OF_SCRAPES: f64 = 0.2;
/// For so long after another server took over, an estimate may be against the primary before.
const TAKING_OVER: f64 = 2.5;
/// How much later than expected an answer may come before the bounds must be wider for it.
const GRACE: f64 = 0.5;
/// `poll.timeout`: an answer that takes longer is none.
const TIMEOUT: f64 = 3.0;
/// How often what is published is looked at, as by a scrape.
pub(super) const SCRAPE_EVERY: Duration = Duration::from_millis(100);
/// So many seconds around the worst moment are shown of a long scenario.
const AROUND: f64 = 12.0;

/// How soon the daemon can know something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub poll_interval: Duration,
    /// Of the way to the farthest server.
    pub round_trip: Duration,
}

impl Pace {
    /// How far off a value may be: one poll interval and one round trip. Seconds.
    pub(super) fn error(self) -> f64 {
        (self.poll_interval + self.round_trip).as_secs_f64()
    }

    /// How old what a scrape reads may be, over ways that take so long. Seconds.
    fn age(self, round_trip: f64) -> f64 {
        self.poll_interval.as_secs_f64() + round_trip.min(TIMEOUT) + GRACE
    }

    /// How wide the bounds of an exact value may be. Seconds.
    fn exact(self, value: f64) -> f64 {
        (2.0 * self.poll_interval.as_secs_f64()).max(0.05 * value) + 0.001
    }
}

/// What a scenario allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How far an exact value may be from the truth, as a multiple of [`Pace::error`].
    pub error: f64,
    /// The same of a guess, which has a direction: `at_least` is never too small, `at_most` never too large.
    pub guess: f64,
    /// Seconds of value > 5 s while the truth is < 1 s, where the value claims to be no less than that.
    pub false_alarm: f64,
    /// The same where the certainty is that the value may be too large.
    pub guessed_alarm: f64,
    /// Seconds of truth > 10 s and value < 5 s, where the value claims to be no more than that.
    pub missed: f64,
    /// The same where the certainty is that the value may be too small.
    pub guessed_miss: f64,
    /// Time of truth > 10 s and no value, as a multiple of [`Pace::error`].
    pub blind: f64,
}

/// What was published about one replica, and for when.
#[derive(Clone, Copy, Debug)]
struct Stated {
    seen: MonoTime,
    between: (MonoTime, MonoTime),
    estimate: LagEstimate,
}

/// What a scrape read about one replica. `None`: there was no series.
#[derive(Clone, Copy, Debug)]
struct Scraped {
    at: MonoTime,
    estimate: Option<LagEstimate>,
}

/// All that was published.
#[derive(Debug, Default)]
pub(super) struct Record {
    stated: HashMap<String, Vec<Stated>>,
    scraped: HashMap<String, Vec<Scraped>>,
    /// Who the primary was, and since when.
    primaries: Vec<(MonoTime, String)>,
    /// How long the way to each server took from when on. Seconds.
    ways: HashMap<String, Vec<(MonoTime, f64)>>,
    /// The servers whose last poll was answered.
    up: HashSet<String>,
    /// When the question was asked that each server answered last.
    asked: HashMap<String, MonoTime>,
}

impl Record {
    /// Takes a new snapshot.
    pub(super) fn publish(&mut self, snapshot: &Snapshot, pace: Pace) {
        let (at, cluster) = (snapshot.published_at, snapshot.cluster("c").unwrap());
        if let Some(primary) = &cluster.primary
            && self.primaries.last().is_none_or(|(_, last)| last != primary.as_str())
        {
            self.primaries.push((at, primary.as_str().to_owned()));
        }
        for target in &cluster.targets {
            let Some(estimate) = target.lag else { continue };
            let between = when(at, target, pace);
            let is_up = target.failing.is_none() && !estimate.method.last_known;
            let stated = self.stated.entry(target.id.target.as_str().to_owned()).or_default();
            let is_new =
                stated.last().is_none_or(|last| last.estimate != estimate || (is_up && last.between.0 != between.0));
            if is_new {
                stated.push(Stated { seen: at, between, estimate });
            }
        }
    }

    /// Takes what a scrape at `at` would read.
    pub(super) fn scrape(&mut self, snapshot: &Snapshot, at: MonoTime) {
        for target in &snapshot.cluster("c").unwrap().targets {
            let name = target.id.target.as_str();
            if target.is_up() {
                self.up.insert(name.to_owned())
            } else {
                self.up.remove(name)
            };
            if let Some(answer) = &target.answer {
                self.asked.insert(name.to_owned(), answer.asked_at);
            }
            if target.is_up() && target.last_role() == Some(Role::Primary) {
                continue;
            }
            let scraped = self.scraped.entry(target.id.target.as_str().to_owned()).or_default();
            scraped.push(Scraped { at, estimate: target.lag.filter(|_| target.is_attended(at)) });
        }
    }

    /// From `at` on a question to a server, and its answer, are under way for so long.
    pub(super) fn way(&mut self, server: &str, at: MonoTime, round_trip: Duration) {
        self.ways.entry(server.to_owned()).or_default().push((at, round_trip.as_secs_f64()));
    }

    pub(super) fn is_up(&self, server: &str) -> bool {
        self.up.contains(server)
    }

    pub(super) fn asked_at(&self, server: &str) -> Option<MonoTime> {
        self.asked.get(server).copied()
    }

    /// What was last read about a replica.
    pub(super) fn latest(&self, replica: &str) -> Option<LagEstimate> {
        self.scraped.get(replica)?.last()?.estimate
    }

    /// The longest round trip of these ways at any moment between the two instants.
    fn round_trip(&self, servers: [&str; 2], (from, to): (MonoTime, MonoTime)) -> f64 {
        let ways = servers.iter().filter_map(|server| self.ways.get(*server));
        let in_use = ways.flat_map(|way| {
            let first = way.partition_point(|(since, _)| *since <= from).saturating_sub(1);
            way[first..].iter().take_while(move |(since, _)| *since <= to)
        });
        in_use.map(|(_, round_trip)| *round_trip).fold(0.0, f64::max)
    }
}

/// Between which instants an estimate may have been true: since the question to the replica, and where others have shown
/// its position, for as long as a scrape may read something.
fn when(published_at: MonoTime, target: &TargetView, pace: Pace) -> (MonoTime, MonoTime) {
    let is_shown_by_others = target.lag.is_some_and(|lag| lag.method.upstream || lag.method.last_known);
    let asked_at = target.answer.as_ref().map(|answer| answer.asked_at);
    let own = asked_at.filter(|_| target.failing.is_none() && !is_shown_by_others);
    (own.unwrap_or_else(|| published_at.plus_seconds(-pace.age(0.0))), published_at)
}

/// Judges one scenario.
pub(super) struct Judge<'a> {
    pub record: &'a Record,
    pub truths: &'a Truths,
    pub pace: Pace,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Tally {
    pub samples: u32,
    /// The worst distance of an exact value from the truth, and of a guess in the direction that it excludes.
    error: Worst,
    guess: Worst,
    /// The farthest that the truth was outside the bounds.
    beyond: Worst,
    /// In which it was, further than the witness may be wrong.
    outside: Spell,
    false_alarm: Spell,
    guessed_alarm: Spell,
    missed: Spell,
    guessed_miss: Spell,
    blind: Spell,
    /// What no limit allows.
    wrong: Vec<(MonoTime, String)>,
    pub all: Vec<(MonoTime, String)>,
}

struct Worst {
    amount: f64,
    /// Less what a busy machine is to blame for.
    excess: f64,
    at: MonoTime,
    text: String,
}

impl Default for Worst {
    fn default() -> Self {
        Self { amount: 0.0, excess: 0.0, at: MonoTime::from_nanos(0), text: String::new() }
    }
}

impl Worst {
    fn take(&mut self, at: MonoTime, amount: f64, stall: f64, text: &str) {
        self.amount = self.amount.max(amount);
        if amount - stall > self.excess {
            (self.excess, self.at, self.text) = (amount - stall, at, text.to_owned());
        }
    }
}

/// How long something was so, in all.
#[derive(Default)]
struct Spell {
    seconds: f64,
    /// The first sample of each time that it was so, and the last one so far.
    began: Vec<(MonoTime, String)>,
    last: HashMap<String, MonoTime>,
}

impl Spell {
    fn take(&mut self, replica: &str, at: MonoTime, seconds: f64, text: &str) {
        self.seconds += seconds;
        let last = self.last.insert(replica.to_owned(), at);
        if last.is_none_or(|last| at.seconds_since(last) > 1.0) {
            self.began.push((at, text.to_owned()));
        }
    }
}

impl Tally {
    /// The columns of [`Tally::line`].
    pub(super) fn heading() -> String {
        format!(
            "{:<58} {:>7} {:>7} {:>7} {:>7} {:>13} {:>13} {:>6} {:>7}",
            "scenario", "samples", "error", "guess", "beyond", "false alarm", "missed", "blind", "outside"
        )
    }

    pub(super) fn line(&self, name: &str) -> String {
        format!(
            "{name:<58} {:>7} {:>7.2} {:>7.2} {:>7.2} {:>6.1} ({:>4.1}) {:>6.1} ({:>4.1}) {:>6.1} {:>7.1}",
            self.samples,
            self.error.amount,
            self.guess.amount,
            self.beyond.amount,
            self.false_alarm.seconds,
            self.guessed_alarm.seconds,
            self.missed.seconds,
            self.guessed_miss.seconds,
            self.blind.seconds,
            self.outside.seconds
        )
    }

    /// What is beyond the limits.
    pub(super) fn complaints(&self, pace: Pace, limits: Limits) -> Vec<String> {
        let mut complaints: Vec<String> = self.wrong.iter().take(4).map(|(_, text)| text.clone()).collect();
        if self.wrong.len() > 4 {
            complaints.push(format!("... and {} more such", self.wrong.len() - 4));
        }
        for (what, worst, limit) in
            [("an exact value", &self.error, limits.error), ("a guess", &self.guess, limits.guess)]
        {
            let limit = limit * pace.error();
            if worst.excess > limit {
                complaints.push(format!("{what} is off by more than {limit:.1} s: {}", worst.text));
            }
        }
        for (what, spell, limit) in [
            ("outside of the published bounds", &self.outside, 0.0),
            ("falsely alarmed", &self.false_alarm, limits.false_alarm),
            ("alarmed by a guess", &self.guessed_alarm, limits.guessed_alarm),
            ("missed", &self.missed, limits.missed),
            ("missed by a guess", &self.guessed_miss, limits.guessed_miss),
            ("blind", &self.blind, limits.blind * pace.error()),
        ] {
            if spell.seconds > limit {
                let examples: Vec<&str> = spell.began.iter().take(3).map(|(_, text)| text.as_str()).collect();
                complaints.push(format!("{what} for {:.1} s: {}", spell.seconds, examples.join("; ")));
            }
        }
        complaints
    }

    /// All that was published, with what was done, or the surroundings of what was wrong where that is too much.
    pub(super) fn trace(&self, events: &[(MonoTime, String)], whole: bool) -> Vec<(MonoTime, String)> {
        let spells = [&self.outside, &self.false_alarm, &self.missed, &self.blind];
        let spots = spells.iter().flat_map(|spell| &spell.began).chain(&self.wrong);
        let spots: Vec<MonoTime> = spots.map(|(at, _)| *at).chain([self.error.at, self.beyond.at]).collect();
        let near = |at: MonoTime| whole || spots.iter().any(|spot| at.seconds_since(*spot).abs() < AROUND);
        let mut trace: Vec<_> = self.all.iter().filter(|(at, _)| near(*at)).cloned().collect();
        trace.extend(events.iter().map(|(at, event)| (*at, format!("-- {event}"))));
        trace.sort_by_key(|(at, _)| *at);
        trace
    }
}

impl Judge<'_> {
    pub(super) fn judge(&self) -> Tally {
        let mut tally = Tally::default();
        for (replica, stated) in &self.record.stated {
            for one in stated {
                self.judge_statement(replica, *one, &mut tally);
            }
        }
        for (replica, scraped) in self.record.scraped.iter().filter(|(replica, _)| self.truths.knows(replica)) {
            for (k, one) in scraped.iter().enumerate() {
                let weight = scraped.get(k + 1).map_or(0.0, |next| next.at.seconds_since(one.at));
                self.judge_scrape(replica, *one, weight, &mut tally);
            }
        }
        tally.wrong.sort_by_key(|(at, _)| *at);
        tally
    }

    /// The truth between two instants that an estimate suits best: against the primary of then, or the one before if
    /// another has just taken over. With it, whether there was no other, and that primary.
    fn truth(
        &self,
        replica: &str,
        seen: MonoTime,
        between: (MonoTime, MonoTime),
        estimate: Option<LagEstimate>,
    ) -> Option<(Truth, bool, &str)> {
        let mut primaries = self.record.primaries.iter().rev().skip_while(|(since, _)| *since > seen);
        let (since, primary) = primaries.next()?;
        let mut truths: Vec<Truth> = self.truths.lag(replica, primary, between).into_iter().collect();
        if between.0.seconds_since(*since) < TAKING_OVER
            && let Some((_, primary)) = primaries.next()
        {
            truths.extend(self.truths.lag(replica, primary, between));
        }
        if estimate.is_some_and(|estimate| estimate.method.last_known || estimate.method.upstream) {
            truths.extend(self.truths.lag_of_furthest(replica, primary, between));
        }
        let distance = |truth: &Truth| {
            let outside = estimate.map_or(0.0, |estimate| outside(truth, &estimate));
            let value = estimate.and_then(|estimate| estimate.value);
            (outside, value.map_or(0.0, |value| truth.distance(value)))
        };
        let best = truths.iter().copied().min_by(|a, b| distance(a).partial_cmp(&distance(b)).unwrap())?;
        Some((best, truths.len() == 1, primary))
    }

    fn judge_statement(&self, replica: &str, stated: Stated, tally: &mut Tally) {
        let Stated { seen, between, estimate } = stated;
        let Some((truth, is_only, primary)) = self.truth(replica, seen, between, Some(estimate)) else { return };
        let stall = self.truths.stall([replica, primary], (between.0.plus_seconds(-3.0), between.1.plus_seconds(0.5)));
        let (beyond, error) = (outside(&truth, &estimate), error(&truth, &estimate));
        let off =
            if beyond > 0.1 || error > 0.5 { format!(" (off {error:.2}, beyond {beyond:.2})") } else { String::new() };
        let text = format!("{replica}: {}{off}", shown(&truth, &estimate));
        tally.samples += 1;
        tally.beyond.take(seen, beyond, stall, &text);
        if beyond > BOUNDS {
            tally.wrong.push((seen, format!("outside of new bounds: {text}")));
        }
        tally.take_error(seen, error, stall, &estimate, &text);
        if estimate.certainty == Certainty::Exact
            && estimate.upper - estimate.lower > self.pace.exact(estimate.value.unwrap_or(0.0))
        {
            tally.wrong.push((seen, format!("called exact with wide bounds: {text}")));
        }
        let rows = self.truths.lag_by_rows(replica, primary, between).map_or(0.0, |rows| rows.least);
        if is_only && rows > truth.most + BOUNDS {
            tally.wrong.push((seen, format!("rows that are missing for {rows:.2} s contradict the truth: {text}")));
        }
        tally.all.push((seen, text));
    }

    fn judge_scrape(&self, replica: &str, scraped: Scraped, weight: f64, tally: &mut Tally) {
        let Scraped { at, estimate } = scraped;
        let Some((_, primary)) = self.record.primaries.iter().rev().find(|(since, _)| *since <= at) else { return };
        let servers = [replica, primary.as_str()];
        let longest = self.pace.age(TIMEOUT);
        let round_trip = self.record.round_trip(servers, (at.plus_seconds(-longest), at));
        let stall = self.truths.stall(servers, (at.plus_seconds(-longest), at.plus_seconds(0.1)));
        let window = (at.plus_seconds(-self.pace.age(round_trip) - stall), at);
        let Some((truth, ..)) = self.truth(replica, at, window, estimate) else { return };
        tally.samples += 1;
        let value = estimate.and_then(|estimate| estimate.value);
        let Some(estimate) = estimate.filter(|_| value.is_some()) else {
            if truth.least > 10.0 {
                let why =
                    estimate.map_or("no estimate".to_owned(), |estimate| format!("no value ({})", estimate.method));
                let text = format!("{replica}: {} while the truth {:.2}..{:.2}", why, truth.least, truth.most);
                tally.blind.take(replica, at, weight, &text);
                tally.all.push((at, text));
            }
            return;
        };
        let text = format!("{replica}: scraped while the {}", shown(&truth, &estimate));
        let beyond = outside(&truth, &estimate);
        tally.beyond.take(at, beyond, 0.0, &text);
        if beyond > BOUNDS_OF_SCRAPES {
            tally.outside.take(replica, at, weight, &text);
            tally.all.push((at, text.clone()));
        }
        tally.take_error(at, error(&truth, &estimate), 0.0, &estimate, &text);
        if truth.most < 1.0 && value.is_some_and(|value| value > 5.0) {
            let is_marked = estimate.certainty == Certainty::AtMost;
            let spell = if is_marked { &mut tally.guessed_alarm } else { &mut tally.false_alarm };
            spell.take(replica, at, weight, &text);
        }
        if truth.least > 10.0 && value.is_some_and(|value| value < 5.0) {
            let is_marked = estimate.certainty == Certainty::AtLeast;
            let spell = if is_marked { &mut tally.guessed_miss } else { &mut tally.missed };
            spell.take(replica, at, weight, &text);
        }
    }
}

impl Tally {
    fn take_error(&mut self, at: MonoTime, error: f64, stall: f64, estimate: &LagEstimate, text: &str) {
        let worst = if estimate.certainty == Certainty::Exact { &mut self.error } else { &mut self.guess };
        worst.take(at, error, stall, text);
    }
}

/// How far the truth is outside the bounds.
fn outside(truth: &Truth, estimate: &LagEstimate) -> f64 {
    (estimate.lower - truth.most).max(truth.least - estimate.upper).max(0.0)
}

/// How far the value is from the truth, in a direction that it does not allow for.
fn error(truth: &Truth, estimate: &LagEstimate) -> f64 {
    let Some(value) = estimate.value else { return 0.0 };
    // A replica that is silent may have come back this moment: then the value is only not too small.
    let most = if estimate.method.last_known { f64::INFINITY } else { truth.most };
    // And a floor is only not too high.
    let least = if estimate.certainty == Certainty::AtLeast { 0.0 } else { truth.least };
    Truth { least, most }.distance(value)
}

fn shown(truth: &Truth, estimate: &LagEstimate) -> String {
    format!(
        "truth {:.2}..{:.2}, published {} [{:.2}, {:.2}] {} {}",
        truth.least,
        truth.most,
        estimate.value.map_or("none".to_owned(), |value| format!("{value:.2}")),
        estimate.lower,
        estimate.upper,
        estimate.method,
        estimate.certainty.as_str()
    )
}

/// Looks at what is published, for as long as it is polled.
pub(super) async fn watch(
    snapshots: tokio::sync::watch::Receiver<Arc<Snapshot>>,
    record: &std::sync::Mutex<Record>,
    pace: Pace,
) {
    let mut snapshots = snapshots;
    let mut scrapes = tokio::time::interval(SCRAPE_EVERY);
    scrapes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                let snapshot = Arc::clone(&snapshots.borrow_and_update());
                record.lock().unwrap().publish(&snapshot, pace);
            }
            _ = scrapes.tick() => {
                let snapshot = Arc::clone(&snapshots.borrow());
                record.lock().unwrap().scrape(&snapshot, pgvigil::clock::now());
            }
        }
    }
}
