//! Faults drawn by a seed, which overlap as they come: of every server, of every link between two of them, and of each of
//! the daemon's ways. All is mended in the end, and then every replica must come to no lag, for sure.
//!
//! Each place where something can break has a lane of its own: a gap, a fault for a while, its end, and again. Lanes do
//! not know each other. What a lane wants of a server that another lane has just killed does not happen.
//!
//! Circumstances are drawn as well: the poll interval, how far the servers are, PostgreSQL's major, how often standbys
//! reply, how dense the faults are, and whether one of them is behind a pooler.

use std::time::Duration;

use futures_util::future::join_all;
use pgvigil::clock;
use pgvigil::core::time::MonoTime;

use super::judge::{Limits, Pace, Tally};
use super::single::SHARP;
use super::stage::Stage;
use super::{AT_ONCE, Variant, number};
use crate::support::pg;
use crate::support::pgbouncer::PgBouncer;
use crate::support::proxy::{Link, Proxy};
use crate::support::random::Random;

/// So long faults are drawn with one seed. Seconds.
const EPISODE: f64 = 75.0;
/// So long the servers may take to be level again when all is mended: a stream that was cut without notice is given up
/// after 10 s. Seconds.
const LEVEL_WITHIN: f64 = 60.0;
/// So long the daemon may take to see it, with its own sessions lost in every way: its longest back-off and a new
/// session's time-out. Seconds.
const SETTLED_WITHIN: u64 = 25;

/// A guess may be wrong, as long as it is marked as one. What is published of the first two intervals of a silence is
/// exact by definition.
const LIMITS: Limits =
    Limits { error: 2.0, guess: f64::INFINITY, guessed_alarm: f64::INFINITY, guessed_miss: f64::INFINITY, ..SHARP };

const REPLICAS: [(&str, &str); 4] = [("r1", "primary"), ("r2", "primary"), ("c1", "r1"), ("c2", "r1")];

#[derive(Clone, Copy, Debug)]
enum Place {
    /// The processes of a server.
    Server(&'static str),
    /// The replay of a replica.
    Replay(&'static str),
    /// The stream to a replica.
    Stream(usize),
    /// The daemon's way to a server.
    Way(&'static str),
    /// Who writes.
    Load,
}

struct Lane {
    place: Place,
    random: Random,
    /// Gaps are so many times as long as usual.
    calm: f64,
    ends: MonoTime,
}

impl Lane {
    fn between(&mut self, least: f64, most: f64) -> f64 {
        least + (most - least) * self.random.below(1000) as f64 / 1000.0
    }

    async fn play(mut self, stage: &Stage, streams: &[Proxy]) {
        loop {
            let gap = match self.place {
                Place::Server(_) => self.between(10.0, 60.0),
                Place::Replay(_) => self.between(4.0, 35.0),
                Place::Stream(_) => self.between(8.0, 50.0),
                Place::Way(_) => self.between(5.0, 45.0),
                Place::Load => self.between(1.0, 6.0),
            };
            let gap = if let Place::Load = self.place { gap } else { gap * self.calm };
            if clock::now().plus_seconds(gap) >= self.ends {
                return;
            }
            stage.seconds(gap).await;
            match self.place {
                Place::Server(name) => self.break_server(stage, name).await,
                Place::Replay(name) => self.hold_replay(stage, name).await,
                Place::Stream(k) => self.break_stream(stage, REPLICAS[k].0, &streams[k]).await,
                Place::Way(name) => self.break_way(stage, name).await,
                Place::Load => self.load(stage).await,
            }
        }
    }

    /// A while, but no longer than faults are played.
    async fn a_while(&mut self, stage: &Stage, least: f64, most: f64) {
        let seconds = self.between(least, most).min(self.ends.seconds_since(clock::now()));
        stage.seconds(seconds.max(0.0)).await;
    }

    async fn break_server(&mut self, stage: &Stage, name: &str) {
        match self.random.below(5) {
            0 => {
                stage.freeze(name);
                self.a_while(stage, 0.5, 12.0).await;
                stage.thaw(name);
            }
            1 => {
                let down = self.between(0.0, 6.0);
                if name == "primary" {
                    stage.restart_primary(down).await;
                } else {
                    stage.restart_replica(name, down).await;
                }
            }
            2 => {
                stage.crash(name).await;
                self.a_while(stage, 0.0, 12.0).await;
                stage.start(name).await;
            }
            _ => {
                stage.kill(name).await;
                self.a_while(stage, 0.0, 15.0).await;
                stage.start(name).await;
            }
        }
    }

    async fn hold_replay(&mut self, stage: &Stage, name: &str) {
        if self.random.one_in(4) {
            let delay = self.between(1.0, 8.0);
            set_apply_delay(stage, name, delay).await;
            self.a_while(stage, 5.0, 20.0).await;
            set_apply_delay(stage, name, 0.0).await;
        } else {
            let done = stage.try_sql(name, "SELECT pg_wal_replay_pause()").await;
            stage.note(&format!("pause {name}{}", if done { "" } else { ": not done" }));
            self.a_while(stage, 2.0, 25.0).await;
            let done = stage.try_sql(name, "SELECT pg_wal_replay_resume()").await;
            stage.note(&format!("resume {name}{}", if done { "" } else { ": not done" }));
        }
    }

    async fn break_stream(&mut self, stage: &Stage, name: &str, link: &Proxy) {
        match self.random.below(6) {
            0 => {
                stage.note(&format!("{name} follows a port where nothing listens"));
                follow(stage, name, crate::support::free_port()).await;
                self.a_while(stage, 2.0, 20.0).await;
                stage.note(&format!("{name} follows its upstream again"));
                follow(stage, name, link.port).await;
            }
            1 => {
                stage.note(&format!("stop the receiver of {name}"));
                stage.node(name).freeze_receiver();
                self.a_while(stage, 2.0, 15.0).await;
                stage.note(&format!("let the receiver of {name} go on"));
                stage.node(name).thaw_receiver();
            }
            kind => {
                let disturbed = match kind {
                    2 => Link::Cut,
                    3 => Link::BlackHole,
                    4 => Link::Throttled(1 << (13 + self.random.below(6))),
                    _ => Link::Slow(Duration::from_secs_f64(self.between(0.1, 1.5))),
                };
                stage.note(&format!("stream to {name}: {disturbed:?}"));
                link.set(disturbed);
                self.a_while(stage, 2.0, 20.0).await;
                stage.note(&format!("stream to {name}: as usual"));
                link.set(Link::Up);
            }
        }
    }

    async fn break_way(&mut self, stage: &Stage, name: &str) {
        let disturbed = match self.random.below(5) {
            0 => Link::Refused,
            1 => Link::Cut,
            2 => Link::BlackHole,
            _ => Link::Slow(Duration::from_secs_f64(self.between(0.3, 1.5))),
        };
        stage.set_way(name, Some(disturbed));
        self.a_while(stage, 1.0, 20.0).await;
        stage.set_way(name, None);
    }

    async fn load(&mut self, stage: &Stage) {
        match self.random.below(4) {
            0 => {
                stage.note("idle");
                stage.witness.write(false);
                self.a_while(stage, 2.0, 15.0).await;
                stage.note("write");
                stage.witness.write(true);
            }
            1 => {
                stage.note("a burst");
                stage.try_sql("primary", "INSERT INTO load SELECT generate_series(1, 15000)").await;
            }
            2 => {
                let (steps, ends) = (self.random.below(150), if self.random.one_in(2) { "COMMIT" } else { "ROLLBACK" });
                stage.note("a long transaction");
                long_transaction(stage, steps, ends).await;
                stage.note("the long transaction has ended");
            }
            _ => self.a_while(stage, 2.0, 10.0).await,
        }
    }
}

async fn set_apply_delay(stage: &Stage, name: &str, seconds: f64) {
    stage.node(name).configure("recovery_min_apply_delay", &format!("{:.0}ms", seconds * 1e3)).unwrap();
    let done = stage.try_sql(name, "SELECT pg_reload_conf()").await;
    stage.note(&format!("{name} applies {seconds:.1} s later{}", if done { "" } else { ", from its next start on" }));
}

async fn follow(stage: &Stage, name: &str, port: u16) {
    // The configuration is written first, so that a server that is down follows when it starts.
    tokio::time::timeout(Duration::from_secs(3), stage.node(name).follow(port)).await.ok();
}

/// Ends early when the primary does.
async fn long_transaction(stage: &Stage, steps: u64, ends: &str) {
    let config: tokio_postgres::Config = pg::dsn(stage.node("primary"), "postgres").parse().unwrap();
    let work = async {
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        let connection = tokio::spawn(connection);
        client.batch_execute("BEGIN").await?;
        for _ in 0..steps {
            client.batch_execute("INSERT INTO load SELECT generate_series(1, 200)").await?;
            stage.seconds(0.1).await;
        }
        client.batch_execute(ends).await?;
        connection.abort();
        Ok::<_, tokio_postgres::Error>(())
    };
    tokio::time::timeout(Duration::from_secs(25), work).await.ok();
}

/// Mends all that may be broken, and waits until the servers are level.
async fn mend(stage: &Stage, streams: &[Proxy]) {
    stage.note("mend all");
    for node in &stage.servers.nodes {
        stage.set_way(&node.name, None);
        if !node.is_running() {
            stage.start(&node.name).await;
        }
        stage.thaw(&node.name);
    }
    for ((name, _), link) in REPLICAS.iter().zip(streams) {
        link.set(Link::Up);
        stage.node(name).configure("recovery_min_apply_delay", "0").unwrap();
        follow(stage, name, link.port).await;
        stage.try_sql(name, "SELECT pg_wal_replay_resume()").await;
    }
    stage.witness.write(true);
    stage.seconds(0.5).await;
    stage.witness.write(false);
    let start = clock::now();
    while !REPLICAS.iter().all(|(name, _)| stage.witness.is_level(name)) {
        if clock::now().seconds_since(start) > LEVEL_WITHIN {
            let behind = REPLICAS.iter().map(|(name, _)| *name).filter(|name| !stage.witness.is_level(name));
            let behind: Vec<&str> = behind.collect();
            stage.expect(Err(format!("{behind:?} are mended and stay behind: what the test does is wrong")));
            return;
        }
        stage.seconds(0.1).await;
    }
    stage.note("all are level");
}

fn variant(random: &mut Random) -> Variant {
    let mut variant = Variant::near();
    let (poll_interval, round_trip) = match random.below(10) {
        0..=5 => (1000, 0),
        6 => (1000, 300),
        7 => (500, 0),
        _ => (5000, 0),
    };
    variant.pace =
        Pace { poll_interval: Duration::from_millis(poll_interval), round_trip: Duration::from_millis(round_trip) };
    let mut installations = pg::installations();
    if random.one_in(2) {
        let drawn = random.below(installations.len() as u64) as usize;
        variant.installation = Some(installations.swap_remove(drawn));
    }
    variant
}

async fn episode(seed: u64) -> (String, Vec<String>) {
    let _place = AT_ONCE.acquire().await.unwrap();
    let mut random = Random::new(seed);
    let variant = variant(&mut random);
    let mut plan = REPLICAS.iter().fold(pg::plan(0), |plan, (name, upstream)| plan.standby(name, upstream));
    if random.one_in(2) {
        // As PostgreSQL has it by default.
        plan = plan.set("wal_receiver_status_interval = '10s'");
    }
    plan.setup.push("CREATE TABLE load (n int)".to_owned());
    let calm = [0.4, 0.6, 1.0, 2.0][random.below(4) as usize];
    let major = variant.installation.clone().unwrap_or_else(pg::installation).major;
    let name = format!(
        "seed {seed}: PostgreSQL {major}, each {} s, {} s away",
        variant.pace.poll_interval.as_secs_f64(),
        variant.pace.round_trip.as_secs_f64()
    );
    let stage = Stage::set(plan, variant).await;
    let mut streams = Vec::new();
    for (name, upstream) in REPLICAS {
        streams.push(stage.link(name, upstream).await);
    }
    let mut pooler = None;
    if random.one_in(3) {
        pooler = PgBouncer::start(stage.node("r2").port).await;
    }
    if let Some(pooler) = &pooler {
        stage.note("r2 is behind a pooler");
        stage.detour("r2", pooler.port);
    }
    for node in &stage.servers.nodes {
        stage.way(&node.name).await;
    }
    stage.start_daemon().await;
    stage.witness.write(true);
    for node in &stage.servers.nodes {
        stage.expect(stage.until_up(&node.name, Duration::from_secs(10)).await);
    }

    let servers = ["primary", "r1", "r2", "c1", "c2"];
    let replicas = REPLICAS.iter().map(|(name, _)| *name);
    let places = servers.into_iter().flat_map(|name| [Place::Server(name), Place::Way(name)]);
    let places = places.chain(replicas.map(Place::Replay)).chain((0..REPLICAS.len()).map(Place::Stream));
    let ends = clock::now().plus_seconds(EPISODE);
    let lanes: Vec<Lane> = places
        .chain([Place::Load])
        .map(|place| Lane { place, random: Random::new(random.below(u64::MAX)), calm, ends })
        .collect();
    join_all(lanes.into_iter().map(|lane| lane.play(&stage, &streams))).await;
    mend(&stage, &streams).await;
    for (replica, _) in REPLICAS {
        stage.expect(stage.until_settled(replica, Duration::from_secs(SETTLED_WITHIN)).await);
    }
    stage.seconds(2.0).await;
    for (replica, _) in REPLICAS {
        stage.expect(stage.until_settled(replica, Duration::ZERO).await);
    }
    let (line, mut wrong) = stage.judge(&name, LIMITS);
    if !wrong.is_empty() {
        wrong.push(format!(
            "again: PGVIGIL_TRUTH_SEED={seed} PGVIGIL_TRUTH_RANDOM_SECONDS=1 cargo test --test it truth::random"
        ));
    }
    (line, wrong)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_is_true_while_faults_come_at_random() {
    let (seconds, first) = (number("PGVIGIL_TRUTH_RANDOM_SECONDS", 240), number("PGVIGIL_TRUTH_SEED", 1));
    let n_seeds = (seconds as f64 / EPISODE).ceil() as u64;
    println!("{}", Tally::heading());
    // Each is shown as it ends: there may be an hour of them.
    let episodes = join_all((first..first + n_seeds).map(async |seed| {
        let (line, wrong) = episode(seed).await;
        println!("{line}");
        wrong
    }))
    .await;
    let wrong: Vec<String> = episodes.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
