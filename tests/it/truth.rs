//! What the daemon publishes about real servers, held against the truth: each estimate, and what a scrape reads every
//! tenth of a second, is compared with the lag as it really was, found through connections of our own twenty times a
//! second. What is promised, and so demanded, stands in [`judge`].
//!
//! - [`single`]: one fault at a time;
//! - [`overlapping`]: faults that overlap, each story one that was wrong once;
//! - [`random`]: faults drawn by a seed.
//!
//! Each scenario prints one line: samples compared; the worst distance of an `exact` value from the truth, and of a guess;
//! how far the truth was outside the bounds at most; seconds of false alarm (value > 5 s, truth < 1 s), missed (truth >
//! 10 s, value < 5 s), in brackets those where the certainty says that the value may be too large or too small; seconds
//! blind (truth > 10 s, no value) and outside of the bounds. What was published in a failed scenario, and what was true,
//! is printed.
//!
//! | variable | |
//! | --- | --- |
//! | `PGVIGIL_TRUTH_MATRIX=1` | play every scenario in every variant, and not only the hardest |
//! | `PGVIGIL_TRUTH_ONLY=frozen` | play what is named so; the name of a variant is part of it |
//! | `PGVIGIL_TRUTH_ALL=1` | print all that was published |
//! | `PGVIGIL_TRUTH_AT_ONCE=5` | so many scenarios are played at the same time |
//! | `PGVIGIL_TRUTH_RANDOM_SECONDS=240`, `PGVIGIL_TRUTH_SEED=1` | how much is played at random, and the first seed |

mod judge;
mod overlapping;
mod random;
mod single;
mod stage;
mod witness;

use std::sync::LazyLock;
use std::time::Duration;

use futures_util::future::{LocalBoxFuture, join_all};
use pgvigil::demo::{Installation, Plan};
use tokio::sync::Semaphore;

use self::judge::{Limits, Pace, Tally};
use self::stage::Stage;
use crate::support::{self, pg};

/// A machine with two processors has to serve them all in time.
static AT_ONCE: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(number("PGVIGIL_TRUTH_AT_ONCE", 5) as usize));

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// The circumstances in which scenarios are played.
#[derive(Clone, Debug)]
struct Variant {
    name: &'static str,
    pace: Pace,
    slow_interval: Duration,
    /// The one server that is far. `None`: all are as far.
    far: Option<&'static str>,
    /// `None`: what most tests use.
    installation: Option<Installation>,
}

impl Variant {
    /// Servers nearby, polled each second.
    fn near() -> Self {
        Self {
            name: "",
            pace: Pace { poll_interval: Duration::from_secs(1), round_trip: Duration::ZERO },
            slow_interval: Duration::from_secs(15),
            far: None,
            installation: None,
        }
    }

    fn far() -> Self {
        let pace = Pace { round_trip: Duration::from_millis(300), ..Self::near().pace };
        Self { name: ", 0.3 s away", pace, ..Self::near() }
    }

    fn rarely_polled() -> Self {
        let pace = Pace { poll_interval: Duration::from_secs(5), ..Self::near().pace };
        Self { name: ", polled every 5 s", pace, ..Self::near() }
    }

    /// `None` when that major is not installed, with a line about that.
    fn of_major(major: u32, name: &'static str) -> Option<Self> {
        let installation = pg::installations().into_iter().find(|installation| installation.major == major);
        if installation.is_none() {
            support::missing(&format!("PostgreSQL {major}"));
        }
        Some(Self { name, installation: Some(installation?), ..Self::near() })
    }

    fn all() -> Vec<Self> {
        let majors = [(18, ", PostgreSQL 18"), (19, ", PostgreSQL 19")];
        let majors = majors.into_iter().filter_map(|(major, name)| Self::of_major(major, name));
        [Self::far(), Self::rarely_polled()].into_iter().chain(majors).collect()
    }

    /// How long a question to a server and its answer are under way.
    fn round_trip_to(&self, server: &str) -> Duration {
        if self.far.is_none_or(|far| far == server) { self.pace.round_trip } else { Duration::ZERO }
    }
}

type Play = for<'a> fn(&'a Stage) -> LocalBoxFuture<'a, ()>;

/// A story, and what it is played on.
#[derive(Clone)]
struct Scenario {
    name: &'static str,
    plan: fn() -> Plan,
    limits: Limits,
    play: Play,
    /// One of the hardest: played in each variant, always.
    is_hard: bool,
    /// The circumstances that it is about.
    variant: Variant,
}

fn scenario(name: &'static str, plan: fn() -> Plan, limits: Limits, play: Play) -> Scenario {
    Scenario { name, plan, limits, play, is_hard: false, variant: Variant::near() }
}

impl Scenario {
    fn hard(self) -> Self {
        Self { is_hard: true, ..self }
    }

    fn in_variant(self, variant: Variant) -> Self {
        Self { variant, ..self }
    }

    /// Sets the stage, plays, compares. The line for people, and what is wrong.
    async fn run(self) -> (String, Vec<String>) {
        let name = format!("{}{}", self.name, self.variant.name);
        if std::env::var("PGVIGIL_TRUTH_ONLY").is_ok_and(|only| !name.contains(&only)) {
            return (format!("{name:<58} not played"), Vec::new());
        }
        let _place = AT_ONCE.acquire().await.unwrap();
        let stage = Stage::set((self.plan)(), self.variant).await;
        (self.play)(&stage).await;
        stage.judge(&name, self.limits)
    }
}

/// Plays scenarios side by side, each on servers of its own, and shows all before it complains.
async fn all(scenarios: Vec<Scenario>) {
    let mut wrong = Vec::new();
    let outcomes = join_all(scenarios.into_iter().map(Scenario::run)).await;
    println!("{}", Tally::heading());
    for (line, complaints) in outcomes {
        println!("{line}");
        wrong.extend(complaints);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_is_true_while_replicas_break() {
    all(single::of_replicas()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_is_true_while_primaries_break() {
    all(single::of_primaries()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_is_true_while_faults_overlap() {
    all(overlapping::scenarios()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_is_true_far_away_polled_rarely_and_on_new_majors() {
    let plays_all = std::env::var_os("PGVIGIL_TRUTH_MATRIX").is_some();
    let scenarios = single::of_replicas().into_iter().chain(single::of_primaries());
    let chosen: Vec<Scenario> = scenarios.filter(|scenario| plays_all || scenario.is_hard).collect();
    let in_variants = Variant::all()
        .into_iter()
        .flat_map(|variant| chosen.iter().map(move |scenario| scenario.clone().in_variant(variant.clone())));
    all(in_variants.collect()).await;
}
