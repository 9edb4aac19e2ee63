//! What the daemon says of real servers, held against the truth: in every scenario each published estimate is compared
//! with the lag as it really was at that moment, found through connections of our own twenty times a second.
//!
//! Each scenario prints one line: estimates compared, the worst distance of a value from the truth, how far the truth was
//! outside the bounds at most, seconds of false alarm (told > 5 s while the truth was < 1 s), missed (the truth > 10 s,
//! told < 5 s) and blind (the truth > 10 s, no value told), and how many estimates' bounds did not hold. All that was told
//! in a failed scenario, and what was true, is printed. `PGVIGIL_TRUTH_LONG=1` plays everything twice,
//! `PGVIGIL_TRUTH_ALL=1` prints all, `PGVIGIL_TRUTH_ONLY=frozen` plays what is named so.

mod stage;
mod witness;

use std::time::Duration;

use futures_util::future::{LocalBoxFuture, join_all};
use pgvigil::demo::Plan;
use tokio::sync::Semaphore;

use self::stage::{Limits, Stage, heading};
use crate::support::pg;
use crate::support::pgbouncer::PgBouncer;
use crate::support::proxy::Link;

/// What polling each second can do, and a busy machine.
const SHARP: Limits = Limits { error: 1.0, false_alarm: 0.0, blind: 0.0 };

/// A replica that comes back is silent until it is asked again.
const RETURNS: Limits = Limits { false_alarm: 4.0, ..SHARP };

/// Two seconds of silence are exact by definition, though what is told in them is a floor.
const FLOORED: Limits = Limits { error: 2.0, ..SHARP };

/// So many scenarios are played at the same time: a machine with two processors has to serve them all in time.
static AT_ONCE: Semaphore = Semaphore::const_new(5);

type Outcome<'a> = LocalBoxFuture<'a, (String, Vec<String>)>;

/// Sets the stage, plays, compares.
async fn scenario(name: &str, plan: Plan, limits: Limits, play: impl AsyncFnOnce(&Stage)) -> (String, Vec<String>) {
    if std::env::var("PGVIGIL_TRUTH_ONLY").is_ok_and(|only| !name.contains(&only)) {
        return (format!("{name:<44} not played"), Vec::new());
    }
    let _place = AT_ONCE.acquire().await.unwrap();
    let stage = Stage::set(plan).await;
    play(&stage).await;
    stage.judge(name, limits)
}

/// Plays scenarios side by side, each on servers of its own, and tells of all before it complains.
async fn all<'a>(scenarios: impl Fn() -> Vec<Outcome<'a>>) {
    let runs = if std::env::var_os("PGVIGIL_TRUTH_LONG").is_some() { 2 } else { 1 };
    let mut wrong = Vec::new();
    for _ in 0..runs {
        let outcomes = join_all(scenarios()).await;
        println!("{}", heading());
        for (line, complaints) in outcomes {
            println!("{line}");
            wrong.extend(complaints);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn idle(stage: &Stage) {
    stage.start_daemon().await;
    stage.seconds(8.0).await;
    stage.note("restart r2");
    stage.node("r2").restart().await.unwrap();
    stage.seconds(6.0).await;
    stage.note("switch WAL");
    stage.node("primary").sql("SELECT pg_switch_wal()").await.unwrap();
    stage.seconds(6.0).await;
    stage.note("checkpoint");
    stage.node("primary").sql("CHECKPOINT").await.unwrap();
    stage.seconds(10.0).await;
}

async fn paused_and_delayed(stage: &Stage) {
    stage.node("r2").configure("recovery_min_apply_delay", "3s").unwrap();
    stage.node("r2").reload().await.unwrap();
    stage.witness.write(true);
    stage.seconds(3.5).await;
    stage.start_daemon().await;
    stage.seconds(5.0).await;
    stage.pause("r1").await;
    stage.seconds(13.0).await;
    stage.resume("r1").await;
    stage.seconds(4.0).await;
}

async fn receiver_cut(stage: &Stage) {
    let link = stage.link("r1", "primary").await;
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(3.0).await;
    stage.note("cut r1");
    link.set(Link::Cut);
    stage.seconds(12.5).await;
    stage.note("reconnect r1");
    link.set(Link::Up);
    stage.seconds(7.0).await;
    stage.note("idle");
    stage.witness.write(false);
    stage.seconds(1.0).await;
    stage.note("cut r1");
    link.set(Link::Cut);
    stage.seconds(6.0).await;
}

async fn receiver_cut_then_idle(stage: &Stage) {
    let link = stage.link("r1", "primary").await;
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(3.0).await;
    stage.note("swallow r1's stream");
    link.set(Link::BlackHole);
    stage.seconds(3.0).await;
    stage.note("idle");
    stage.witness.write(false);
    stage.seconds(12.0).await;
    stage.note("reconnect r1");
    link.set(Link::Up);
    stage.seconds(6.0).await;
}

async fn replica_crashed(stage: &Stage) {
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(3.0).await;
    stage.crash("r1").await;
    stage.seconds(12.0).await;
    stage.start("r1").await;
    stage.seconds(6.0).await;
}

async fn replica_frozen(stage: &Stage) {
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(3.0).await;
    stage.freeze("r1");
    stage.seconds(13.0).await;
    stage.thaw("r1");
    stage.seconds(14.0).await;
}

async fn upstream_cut(stage: &Stage) {
    let link = stage.link("r1", "primary").await;
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(3.0).await;
    stage.note("cut r1");
    link.set(Link::Cut);
    stage.seconds(12.0).await;
    stage.note("reconnect r1");
    link.set(Link::Up);
    stage.seconds(7.0).await;
}

async fn bulk(stage: &Stage) {
    stage.witness.write(true);
    stage.start_daemon().await;
    stage.seconds(3.0).await;
    stage.witness.write(false);
    stage.note("one long transaction");
    let config: tokio_postgres::Config = pg::dsn(stage.node("primary"), "postgres").parse().unwrap();
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute("CREATE TABLE bulk (n int); BEGIN").await.unwrap();
    for step in 0..160 {
        client.batch_execute("INSERT INTO bulk SELECT generate_series(1, 200)").await.unwrap();
        if step == 60 {
            stage.note("pause r2");
            stage.node("r2").sql("SELECT pg_wal_replay_pause()").await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.note("roll back, resume r2");
    client.batch_execute("ROLLBACK").await.unwrap();
    stage.node("r2").sql("SELECT pg_wal_replay_resume()").await.unwrap();
    stage.seconds(5.0).await;
    connection.abort();
}

async fn primary_restarted(stage: &Stage) {
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(4.0).await;
    stage.restart_primary(5.0).await;
    stage.seconds(6.0).await;
    stage.crash("primary").await;
    stage.seconds(5.0).await;
    stage.start("primary").await;
    stage.seconds(5.0).await;
    stage.restart_primary(0.0).await;
    stage.seconds(6.0).await;
}

/// The replica has all but the checkpoint that the primary ends its WAL with.
async fn primary_restarted_unheard(stage: &Stage) {
    let link = stage.link("r1", "primary").await;
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(4.0).await;
    stage.note("idle");
    stage.witness.write(false);
    stage.seconds(2.0).await;
    stage.note("cut r1");
    link.set(Link::Cut);
    stage.seconds(1.0).await;
    stage.restart_primary(8.0).await;
    stage.seconds(4.0).await;
    stage.witness.write(true);
    stage.seconds(4.0).await;
    stage.note("reconnect r1");
    link.set(Link::Up);
    stage.seconds(4.0).await;
}

async fn primary_frozen(stage: &Stage) {
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(4.0).await;
    stage.freeze("primary");
    stage.seconds(9.0).await;
    stage.thaw("primary");
    stage.seconds(14.0).await;
}

async fn primary_unheard(stage: &Stage) {
    let monitored = crate::support::proxy::Proxy::start(stage.node("primary").port).await;
    stage.detour("primary", monitored.port);
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(4.0).await;
    stage.note("cut the monitor off");
    monitored.set(Link::Cut);
    stage.seconds(3.0).await;
    stage.pause("r1").await;
    stage.seconds(13.0).await;
    stage.resume("r1").await;
    stage.seconds(3.0).await;
    stage.note("idle");
    stage.witness.write(false);
    stage.seconds(3.0).await;
    stage.note("the monitor is back");
    monitored.set(Link::Up);
    stage.seconds(4.0).await;
    stage.witness.write(true);
    stage.note("swallow the monitor's link");
    monitored.set(Link::BlackHole);
    stage.seconds(6.0).await;
}

/// The primary dies in the midst of a large write, so that what was received ends in the midst of a record.
async fn promoted_after_bulk(stage: &Stage) {
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(4.0).await;
    let config: tokio_postgres::Config = pg::dsn(stage.node("primary"), "postgres").parse().unwrap();
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let bulk = tokio::spawn(async move {
        let write = "CREATE TABLE bulk AS SELECT n, repeat('x', 500) FROM generate_series(1, 1000000) n";
        let (ended, _) = tokio::join!(client.batch_execute(write), connection);
        assert!(ended.is_err(), "the primary outlives it");
    });
    stage.seconds(0.7).await;
    stage.crash("primary").await;
    bulk.await.unwrap();
    stage.seconds(8.0).await;
    for replica in ["r1", "r2"] {
        let ends = stage.node(replica).sql("SELECT pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()").await.unwrap();
        stage.note(&format!("{replica} received and replayed {ends:?}"));
    }
    stage.promote("r1").await;
    stage.seconds(4.0).await;
    stage.note("r2 follows");
    stage.node("r2").follow(stage.node("r1").port).await.unwrap();
    stage.seconds(6.0).await;
}

async fn promoted_after_death(stage: &Stage) {
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(4.0).await;
    stage.crash("primary").await;
    stage.seconds(6.0).await;
    stage.promote("r1").await;
    stage.note("r2 follows");
    stage.node("r2").follow(stage.node("r1").port).await.unwrap();
    stage.seconds(7.0).await;
    stage.pause("r2").await;
    stage.seconds(6.0).await;
    stage.resume("r2").await;
    stage.seconds(4.0).await;
}

async fn split_brain(stage: &Stage) {
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(4.0).await;
    stage.promote("r1").await;
    stage.note("r3 follows, r2 does not");
    stage.seconds(14.0).await;
    stage.crash("primary").await;
    stage.seconds(5.0).await;
    stage.note("r2 starts anew");
    stage.node("r2").restart().await.unwrap();
    stage.seconds(5.0).await;
}

async fn young_history(stage: &Stage) {
    stage.witness.write(true);
    stage.seconds(2.0).await;
    stage.note("pause r1, cut r2");
    let link = stage.link("r2", "primary").await;
    stage.node("r1").sql("SELECT pg_wal_replay_pause()").await.unwrap();
    link.set(Link::Cut);
    stage.seconds(18.0).await;
    stage.start_daemon().await;
    stage.seconds(8.0).await;
    stage.resume("r1").await;
    stage.note("reconnect r2");
    link.set(Link::Up);
    stage.seconds(6.0).await;
}

async fn behind_a_pooler(stage: &Stage) {
    let mut poolers = Vec::new();
    for node in &stage.servers.nodes {
        let Some(pooler) = PgBouncer::start(node.port).await else { return };
        stage.detour(&node.name, pooler.port);
        poolers.push(pooler);
    }
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(4.0).await;
    stage.pause("r1").await;
    stage.seconds(12.0).await;
    stage.resume("r1").await;
    stage.seconds(4.0).await;
    stage.note("restart the primary behind its pooler");
    stage.node("primary").restart().await.unwrap();
    stage.seconds(6.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_is_true_while_replicas_break() {
    all(|| {
        vec![
            Box::pin(scenario("idle, replica restarted, WAL switched", pg::plan(2).standby("c1", "r1"), SHARP, idle)),
            Box::pin(scenario("replay paused, apply delayed", pg::plan(2), SHARP, paused_and_delayed)),
            Box::pin(scenario("receiver cut under writes, then idle", pg::plan(2), SHARP, receiver_cut)),
            Box::pin(scenario("stream swallowed, then idle", pg::plan(1), SHARP, receiver_cut_then_idle)),
            Box::pin(scenario("replica crashed and started", pg::plan(2), RETURNS, replica_crashed)),
            Box::pin(scenario("replica frozen and thawed", pg::plan(2), RETURNS, replica_frozen)),
            Box::pin(scenario("a cascade's upstream cut", pg::plan(1).standby("c1", "r1"), SHARP, upstream_cut)),
            Box::pin(scenario("one long transaction", pg::plan(2), SHARP, bulk)),
        ]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_is_true_while_primaries_break() {
    all(|| {
        vec![
            Box::pin(scenario("primary restarted", pg::plan(2), SHARP, primary_restarted)),
            Box::pin(scenario(
                "primary restarted, its replica cut off",
                pg::plan(1),
                FLOORED,
                primary_restarted_unheard,
            )),
            Box::pin(scenario("primary frozen and thawed", pg::plan(2), SHARP, primary_frozen)),
            Box::pin(scenario("primary not heard", pg::plan(2), SHARP, primary_unheard)),
            Box::pin(scenario("primary dead, replica promoted", pg::plan(2), SHARP, promoted_after_death)),
            Box::pin(scenario("primary dead in a large write", pg::plan(2), SHARP, promoted_after_bulk)),
            Box::pin(scenario("two primaries, one left behind", pg::plan(2).standby("r3", "r1"), SHARP, split_brain)),
            Box::pin(scenario(
                "started when all lag already",
                pg::plan(2),
                Limits { blind: 4.0, ..SHARP },
                young_history,
            )),
            Box::pin(scenario("behind poolers", pg::plan(1), SHARP, behind_a_pooler)),
        ]
    })
    .await;
}
