//! Faults that overlap, and servers far away. Each story was wrong once, or is a brother of one that was.

use std::time::Duration;

use super::judge::{Limits, Pace};
use super::single::SHARP;
use super::stage::Stage;
use super::{Scenario, Variant, scenario};
use crate::support::pg;
use crate::support::proxy::Link;

/// Nothing newer can be known of a replica that is lost together with its upstream, or that does not reply to it: what is published is a guess, and marked so.
const GUESSED: Limits =
    Limits { guess: f64::INFINITY, guessed_alarm: f64::INFINITY, guessed_miss: f64::INFINITY, ..SHARP };

/// A lost session is tried again soon, however rarely it is polled: till then what is published is a guess.
const RETURNS_SOON: Limits = Limits { guess: f64::INFINITY, guessed_alarm: 2.5, ..SHARP };

/// So soon a server that is back is seen to be, however rarely it is polled.
const BACK_WITHIN: Duration = Duration::from_millis(2500);

pub(super) fn scenarios() -> Vec<Scenario> {
    let far_primary = Variant {
        name: ", primary 0.7 s away",
        pace: Pace { poll_interval: Duration::from_secs(1), round_trip: Duration::from_millis(700) },
        slow_interval: Duration::from_secs(4),
        far: Some("primary"),
        installation: None,
    };
    let cascade = || pg::plan(1).standby("c1", "r1");
    // As PostgreSQL has it by default: a standby that receives nothing replies each 10 s.
    let replies_rarely = || pg::plan(2).set("wal_receiver_status_interval = '10s'").set("wal_sender_timeout = '60s'");
    vec![
        scenario("pauses amid slow beats", || pg::plan(2), SHARP, |s| Box::pin(pauses_amid_slow_beats(s)))
            .in_variant(far_primary.clone()),
        scenario("connected to anew", || pg::plan(1), GUESSED, |s| Box::pin(connected_to_anew(s)))
            .in_variant(far_primary),
        scenario("answers stop, the upstream's row goes on", || pg::plan(2), SHARP, |s| Box::pin(answers_stop(s))),
        scenario(
            "lost while paused, then the primary too",
            || pg::plan(2),
            GUESSED,
            |s| Box::pin(lost_while_paused(s)),
        ),
        scenario("replays what was under way when cut", replies_rarely, GUESSED, |s| {
            Box::pin(cut_with_wal_under_way(s))
        }),
        scenario("a branch is swallowed", cascade, GUESSED, |s| Box::pin(branch_swallowed(s))),
        scenario("replica is down between polls", || pg::plan(1), RETURNS_SOON, |s| Box::pin(down_between_polls(s)))
            .in_variant(Variant::rarely_polled()),
        scenario("primary answers late", || pg::plan(1), SHARP, |s| Box::pin(primary_answers_late(s)))
            .in_variant(Variant::rarely_polled()),
        scenario("primary is back soon", || pg::plan(1), SHARP, |s| Box::pin(primary_is_back_soon(s)))
            .in_variant(Variant::far()),
    ]
}

/// What is asked for now and then must not hold up the positions.
async fn pauses_amid_slow_beats(stage: &Stage) {
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.expect(stage.until_up("primary", Duration::from_secs(15)).await);
    stage.seconds(2.0).await;
    for _ in 0..3 {
        stage.pause("r1").await;
        stage.seconds(6.0).await;
        stage.resume("r1").await;
        stage.seconds(3.3).await;
    }
}

/// A new session takes several round trips, which are more than a poll may take.
async fn connected_to_anew(stage: &Stage) {
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.expect(stage.until_up("primary", Duration::from_secs(10)).await);
    for link in [Link::Cut, Link::Refused, Link::BlackHole] {
        stage.set_way("primary", Some(link));
        stage.seconds(4.0).await;
        stage.set_way("primary", None);
        stage.expect(stage.until_up("primary", Duration::from_secs(12)).await);
        stage.seconds(2.0).await;
    }
}

async fn answers_stop(stage: &Stage) {
    stage.way("r1").await;
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(4.0).await;
    stage.set_way("r1", Some(Link::BlackHole));
    stage.pause("r1").await;
    stage.seconds(8.0).await;
    stage.resume("r1").await;
    stage.seconds(4.0).await;
    stage.set_way("r1", None);
    stage.seconds(4.0).await;
    stage.pause("r1").await;
    stage.seconds(6.0).await;
    stage.set_way("r1", Some(Link::BlackHole));
    stage.seconds(0.5).await;
    stage.resume("r1").await;
    stage.seconds(5.0).await;
}

/// What the upstream's row has shown stays known when the next one does not come.
async fn lost_while_paused(stage: &Stage) {
    stage.way("r1").await;
    stage.way("primary").await;
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(4.0).await;
    stage.pause("r1").await;
    stage.seconds(3.0).await;
    stage.set_way("r1", Some(Link::Refused));
    stage.seconds(2.0).await;
    stage.resume("r1").await;
    stage.seconds(5.0).await;
    stage.set_way("primary", Some(Link::Slow(Duration::from_millis(500))));
    stage.seconds(4.0).await;
    stage.set_way("primary", None);
    stage.seconds(3.0).await;
    stage.set_way("primary", Some(Link::Refused));
    stage.seconds(3.5).await;
    let before = stage.latest("r1").and_then(|lag| lag.value);
    if before.is_none_or(|value| value > 7.0) {
        stage.expect(Err(format!("r1 had no lag 5 s ago, and there is published {before:?}")));
    }
    stage.seconds(6.0).await;
    stage.set_way("primary", None);
    stage.set_way("r1", None);
    stage.seconds(4.0).await;
}

/// What its upstream had sent, a standby may replay when it is out of sight.
async fn cut_with_wal_under_way(stage: &Stage) {
    stage.way("r1").await;
    let link = stage.link("r1", "primary").await;
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(4.0).await;
    stage.set_way("r1", Some(Link::Refused));
    stage.note("stop r1's receiver");
    stage.node("r1").freeze_receiver();
    stage.seconds(6.0).await;
    stage.note("idle");
    stage.witness.write(false);
    stage.seconds(1.0).await;
    stage.note("swallow r1's stream, and let its receiver go on");
    link.set(Link::BlackHole);
    stage.node("r1").thaw_receiver();
    stage.seconds(12.0).await;
    link.set(Link::Up);
    stage.set_way("r1", None);
    stage.seconds(4.0).await;
}

/// Neither a replica nor its upstream answers, and no connection is closed.
async fn branch_swallowed(stage: &Stage) {
    stage.way("r1").await;
    stage.way("c1").await;
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(4.0).await;
    stage.set_way("r1", Some(Link::BlackHole));
    stage.set_way("c1", Some(Link::BlackHole));
    stage.pause("c1").await;
    stage.seconds(6.0).await;
    stage.set_way("r1", None);
    stage.set_way("c1", None);
    stage.seconds(6.0).await;
    stage.set_way("r1", Some(Link::BlackHole));
    stage.set_way("c1", Some(Link::BlackHole));
    stage.resume("c1").await;
    stage.seconds(5.0).await;
}

async fn down_between_polls(stage: &Stage) {
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(7.0).await;
    stage.restart_replica("r1", 12.0).await;
    stage.expect(stage.until_up("r1", BACK_WITHIN).await);
    stage.seconds(8.0).await;
    stage.kill("r1").await;
    stage.seconds(9.0).await;
    stage.start("r1").await;
    stage.expect(stage.until_up("r1", BACK_WITHIN).await);
    stage.seconds(7.0).await;
}

async fn primary_answers_late(stage: &Stage) {
    stage.way("primary").await;
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(8.0).await;
    stage.set_way("primary", Some(Link::Slow(Duration::from_millis(500))));
    stage.seconds(7.0).await;
    let known_within = stage.variant.pace.poll_interval + Duration::from_secs(2);
    for _ in 0..2 {
        // The primary's answer, which is under way then, is from before: only the next one shows more.
        stage.seconds_after_next_poll("primary", 0.7).await;
        stage.pause("r1").await;
        stage.expect(stage.until_behind("r1", 0.5, known_within).await);
        stage.seconds(3.0).await;
        stage.resume("r1").await;
        stage.seconds(6.0).await;
    }
    stage.set_way("primary", None);
    stage.seconds(6.0).await;
}

async fn primary_is_back_soon(stage: &Stage) {
    stage.start_daemon().await;
    stage.witness.write(true);
    stage.seconds(5.0).await;
    for seconds_down in [0.0, 3.0, 6.0] {
        stage.restart_primary(seconds_down).await;
        // One interval, six round trips of a new session, and two of an attempt that came a moment too early.
        stage.expect(stage.until_up("primary", Duration::from_secs(4)).await);
        stage.seconds(4.0).await;
    }
}
