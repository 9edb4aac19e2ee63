//! One fault at a time, on servers of its own.

use std::time::Duration;

use super::judge::Limits;
use super::stage::Stage;
use super::{Scenario, scenario};
use crate::support::pg;
use crate::support::pgbouncer::PgBouncer;
use crate::support::proxy::Link;

/// What polling can do, and a busy machine.
pub(super) const SHARP: Limits =
    Limits { error: 1.0, guess: 1.0, false_alarm: 0.0, guessed_alarm: 0.0, missed: 0.0, guessed_miss: 0.0, blind: 0.0 };

/// A replica that comes back is silent until it is polled again, and its lag a guess till then.
pub(super) const RETURNS: Limits = Limits { guessed_alarm: 4.0, ..SHARP };

/// Two seconds of silence are exact by definition, though what is published in them is a floor. Behind a proxy, which accepts
/// for a server that is down, it is not seen when the last WAL before an outage was written: a guess may be off by half of it.
const FLOORED: Limits = Limits { error: 2.0, guess: 4.0, ..SHARP };

pub(super) fn of_replicas() -> Vec<Scenario> {
    vec![
        scenario(
            "idle, replica restarted, WAL switched",
            || pg::plan(2).standby("c1", "r1"),
            SHARP,
            |s| Box::pin(idle(s)),
        ),
        scenario("replay paused, apply delayed", || pg::plan(2), SHARP, |s| Box::pin(paused_and_delayed(s))).hard(),
        scenario("receiver cut under writes, then idle", || pg::plan(2), SHARP, |s| Box::pin(receiver_cut(s))).hard(),
        scenario("stream swallowed, then idle", || pg::plan(1), SHARP, |s| Box::pin(receiver_cut_then_idle(s))),
        scenario("replica crashed and started", || pg::plan(2), RETURNS, |s| Box::pin(replica_crashed(s))).hard(),
        scenario("replica frozen and thawed", || pg::plan(2), RETURNS, |s| Box::pin(replica_frozen(s))),
        scenario("a cascade's upstream cut", || pg::plan(1).standby("c1", "r1"), SHARP, |s| Box::pin(upstream_cut(s)))
            .hard(),
        scenario("one long transaction", || pg::plan(2), SHARP, |s| Box::pin(bulk(s))),
    ]
}

pub(super) fn of_primaries() -> Vec<Scenario> {
    let blind_at_first = Limits { blind: 4.0, ..SHARP };
    let with_r3 = || pg::plan(2).standby("r3", "r1");
    vec![
        scenario("primary restarted", || pg::plan(2), SHARP, |s| Box::pin(primary_restarted(s))).hard(),
        scenario(
            "primary restarted, its replica cut off",
            || pg::plan(1),
            FLOORED,
            |s| Box::pin(primary_restarted_unseen(s)),
        ),
        scenario("primary frozen and thawed", || pg::plan(2), SHARP, |s| Box::pin(primary_frozen(s))),
        scenario("primary unreachable", || pg::plan(2), SHARP, |s| Box::pin(primary_unreachable(s))).hard(),
        scenario("primary dead, replica promoted", || pg::plan(2), SHARP, |s| Box::pin(promoted_after_death(s))),
        scenario("primary dead in a large write", || pg::plan(2), SHARP, |s| Box::pin(promoted_after_bulk(s))),
        scenario("two primaries, one left behind", with_r3, SHARP, |s| Box::pin(split_brain(s))),
        scenario("started when all lag already", || pg::plan(2), blind_at_first, |s| Box::pin(young_history(s))),
        scenario("behind poolers", || pg::plan(1), SHARP, |s| Box::pin(behind_a_pooler(s))),
    ]
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
async fn primary_restarted_unseen(stage: &Stage) {
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

async fn primary_unreachable(stage: &Stage) {
    stage.way("primary").await;
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(4.0).await;
    stage.set_way("primary", Some(Link::Cut));
    stage.seconds(3.0).await;
    stage.pause("r1").await;
    stage.seconds(13.0).await;
    stage.resume("r1").await;
    stage.seconds(3.0).await;
    stage.note("idle");
    stage.witness.write(false);
    stage.seconds(3.0).await;
    stage.set_way("primary", None);
    stage.seconds(4.0).await;
    stage.witness.write(true);
    stage.set_way("primary", Some(Link::BlackHole));
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
