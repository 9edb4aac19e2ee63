use super::*;
use crate::core::fixture;
use crate::core::lag::Evidence;
use crate::core::observation::{Blocker, PollFailure, ReplayWait};
use crate::core::standby_settings::{Capacity, TargetAction};
use crate::core::time::ServerTime;
use crate::core::topology::Name;
use crate::core::wal::{Lsn, Timeline};

fn lagging() -> Facts<'static> {
    Facts {
        lagging: Lagging::Yes,
        trend: moving(Direction::FallingBehind),
        write_rate: Some(8.0 * 1_048_576.0),
        ..Facts::well()
    }
}

fn moving(direction: Direction) -> Trend {
    Trend {
        receive_rate: Some(1_048_576.0),
        replay_rate: Some(524_288.0),
        direction: Some(direction),
        catch_up_seconds: (direction == Direction::CatchingUp).then_some(240.0),
        standing_seconds: Some(0.0),
        stalled: Some(false),
        write_rate: None,
    }
}

fn standing() -> Trend {
    Trend {
        replay_rate: Some(0.0),
        standing_seconds: Some(7.0),
        stalled: Some(true),
        ..moving(Direction::FallingBehind)
    }
}

fn wait(on: WaitsOn) -> ReplayWait {
    let blocker = on.is_conflict().then(|| Blocker {
        pid: None,
        user: Some("report".to_owned()),
        application: "metabase".to_owned(),
        is_idle: Some(false),
        since: Some(ServerTime::from_unix_micros(-361_000_000)),
    });
    ReplayWait { on, blocker, n_holders: 1 }
}

fn timeline(own: u32, primary: u32) -> Timelines {
    Timelines::Behind { own: Timeline(own), primary: Timeline(primary) }
}

fn diverged() -> Timelines {
    Timelines::Diverged {
        own: Timeline(1),
        primary: Timeline(2),
        replayed: Lsn::new(0x0300_0100),
        fork: Lsn::new(0x0300_0000),
    }
}

/// What a standby with 100 connections lacks of its primary's 200.
fn too_few_connections() -> Vec<Shortfall> {
    let of = |connections| Capacity::new(|name| Some(if name == "max_connections" { connections } else { 8 }));
    of(100).shortfalls(of(200))
}

fn recovery_target(action: TargetAction) -> RecoveryTarget {
    RecoveryTarget { setting: "recovery_target_time", value: "2026-11-20 10:00:00+00".to_owned(), action }
}

const ARRIVED: Backlog = Backlog { unreceived: 0, unreplayed: 64 << 20 };
const AWAY: Backlog = Backlog { unreceived: 64 << 20, unreplayed: 100 };
const BOTH: Backlog = Backlog { unreceived: 40 << 20, unreplayed: 60 << 20 };

/// Every row of the order, and which of two comes first.
#[test]
fn the_cause_to_act_on_first_comes_first() {
    use Cause::*;
    let (primary, replica) = (Name::new("db-1"), Name::new("db-2"));
    let (refused, snapshot, lock) = (PollFailure::Refused, wait(WaitsOn::Snapshot), wait(WaitsOn::Lock));
    let too_late = PollFailure::Timeout { doing: "waiting".to_owned(), limit_ms: 3000 };
    let (delaying, on_disk, working) = (wait(WaitsOn::ApplyDelay), wait(WaitsOn::Io), wait(WaitsOn::Nothing));
    let above = told(ReplayPaused, "replay is paused".to_owned());
    let silent = Some(Silence { name: Some(&primary), failure: Some(&refused) });
    let slot = |fate| Some(SlotTrouble { name: "r1", on: &primary, fate });
    let delay = |beyond_seconds| Some(super::ApplyDelay { seconds: 3600.0, beyond_seconds });
    let cut = || Facts { receiving: Receiving::CutOff, trend: standing(), ..lagging() };
    let paused = || Facts { pause: ReplayPause::Paused, trend: standing(), backlog: ARRIVED, ..lagging() };
    let blocked = || Facts { wait: Some(&lock), trend: standing(), backlog: ARRIVED, ..lagging() };
    let catching_up = || Facts { trend: moving(Direction::CatchingUp), backlog: BOTH, ..lagging() };
    let target = recovery_target(TargetAction::Pause);
    let paused_by = |by| Facts { paused_by: by, ..paused() };
    let by_settings = || Facts { shortfalls: too_few_connections(), ..paused_by(PausedBy::Settings) };
    let silent_replica = || Facts { failure: Some(&refused), receiving: Receiving::Unknown, ..lagging() };

    let cases: Vec<(&str, Facts<'_>, &[Cause])> = vec![
        ("a silent replica", silent_replica(), &[ReplicaUnreachable]),
        (
            "both silent",
            Facts { primary_is_silent: silent, ..silent_replica() },
            &[ReplicaUnreachable, PrimaryUnreachable],
        ),
        ("diverged", Facts { timelines: diverged(), ..cut() }, &[TimelineDiverged, ReceiverCutOff]),
        (
            "follows another primary",
            Facts { timelines: Timelines::Ahead { own: Timeline(3), primary: Timeline(2) }, ..lagging() },
            &[TimelineDiverged],
        ),
        ("slot lost", Facts { slot: slot(SlotFate::Lost), ..cut() }, &[SlotLost, ReceiverCutOff]),
        (
            "slot gone, never streamed",
            Facts { slot: slot(SlotFate::Gone), receiving: Receiving::Never, ..lagging() },
            &[SlotLost, NeverConnected],
        ),
        (
            "slot lost, streams all the same",
            Facts { slot: slot(SlotFate::Lost), backlog: AWAY, ..lagging() },
            &[SlowNetwork],
        ),
        ("archive", Facts { archive: Archive::Replaying, ..cut() }, &[ArchiveRecovery]),
        (
            "archive alone",
            Facts { archive: Archive::Only, receiving: Receiving::Never, ..lagging() },
            &[ArchiveRecovery],
        ),
        (
            "slot lost, archive helps",
            Facts { archive: Archive::Replaying, slot: slot(SlotFate::Lost), ..cut() },
            &[SlotLost, ArchiveRecovery],
        ),
        ("primary down", Facts { primary_is_silent: silent, ..cut() }, &[PrimaryUnreachable, ReceiverCutOff]),
        ("never connected", Facts { receiving: Receiving::Never, ..lagging() }, &[NeverConnected]),
        ("cut off", cut(), &[ReceiverCutOff]),
        (
            "an archive that may be all it has",
            Facts { archive: Archive::Unstreamed, receiving: Receiving::Never, ..lagging() },
            &[ArchiveRecovery],
        ),
        (
            "a stream that does not begin",
            Facts { receiving: Receiving::Connecting, backlog: AWAY, ..lagging() },
            &[ReceiverCutOff],
        ),
        ("a dead link", Facts { receiving: Receiving::Silent, backlog: AWAY, ..lagging() }, &[ReceiverCutOff]),
        ("old timeline, not beyond the fork", Facts { timelines: timeline(1, 2), ..cut() }, &[ReceiverCutOff]),
        ("cut off and paused", Facts { pause: ReplayPause::Paused, ..cut() }, &[ReceiverCutOff, ReplayPaused]),
        ("paused", paused(), &[ReplayPaused]),
        (
            "pause requested, blocked",
            Facts { pause: ReplayPause::Requested, ..blocked() },
            &[ReplayPaused, BlockedByQuery],
        ),
        ("blocked by a lock", blocked(), &[BlockedByQuery]),
        ("blocked by a snapshot", Facts { wait: Some(&snapshot), ..blocked() }, &[BlockedByQuery]),
        ("blocked within the delay", Facts { apply_delay: delay(0.0), ..blocked() }, &[BlockedByQuery, ApplyDelay]),
        (
            "within the delay",
            Facts { apply_delay: delay(1.0), wait: Some(&delaying), backlog: ARRIVED, ..lagging() },
            &[ApplyDelay],
        ),
        (
            "beyond the delay",
            Facts { apply_delay: delay(60.0), backlog: ARRIVED, ..lagging() },
            &[SlowReplay, ApplyDelay],
        ),
        ("paused beyond the delay", Facts { apply_delay: delay(60.0), ..paused() }, &[ReplayPaused, ApplyDelay]),
        ("catching up", catching_up(), &[CatchingUp]),
        (
            "started, too early for a direction",
            Facts {
                starting_since: Some(4.0),
                trend: Trend { direction: None, ..moving(Direction::Holding) },
                backlog: BOTH,
                ..lagging()
            },
            &[CatchingUp],
        ),
        (
            "started, and falls behind",
            Facts { starting_since: Some(90.0), backlog: ARRIVED, ..lagging() },
            &[SlowReplay],
        ),
        (
            "cut off, works off what it has",
            Facts { receiving: Receiving::CutOff, ..catching_up() },
            &[ReceiverCutOff, CatchingUp],
        ),
        ("slow network", Facts { backlog: AWAY, ..lagging() }, &[SlowNetwork]),
        ("a slow disk", Facts { backlog: AWAY, flush_after_write: Some(1.5), ..lagging() }, &[SlowReplay]),
        ("a disk like any", Facts { backlog: AWAY, flush_after_write: Some(0.05), ..lagging() }, &[SlowNetwork]),
        (
            "not slower than it is made",
            Facts {
                backlog: AWAY,
                trend: Trend { receive_rate: Some(5e3), ..Trend::default() },
                write_rate: Some(300.0),
                ..lagging()
            },
            &[Unknown],
        ),
        ("slow replay", Facts { backlog: ARRIVED, ..lagging() }, &[SlowReplay]),
        ("both, replay more", Facts { backlog: BOTH, ..lagging() }, &[SlowReplay, SlowNetwork]),
        (
            "both, network more",
            Facts { backlog: Backlog { unreceived: 60, unreplayed: 40 }, ..lagging() },
            &[SlowNetwork, SlowReplay],
        ),
        (
            "its upstream is paused",
            Facts { upstream: Some((&replica, &above)), backlog: AWAY, ..lagging() },
            &[ReplayPaused],
        ),
        (
            "replay waits for its disk",
            Facts { wait: Some(&on_disk), trend: standing(), backlog: ARRIVED, ..lagging() },
            &[SlowReplay],
        ),
        (
            "one great record",
            Facts { wait: Some(&working), trend: standing(), backlog: ARRIVED, ..lagging() },
            &[SlowReplay],
        ),
        ("stands, not asked why yet", Facts { trend: standing(), backlog: ARRIVED, ..lagging() }, &[Unknown]),
        ("a setting too low", by_settings(), &[InsufficientSettings]),
        (
            "a setting too low, seen as a request only",
            Facts { pause: ReplayPause::Requested, ..by_settings() },
            &[InsufficientSettings],
        ),
        (
            "a setting too low, not met yet",
            Facts { pause: ReplayPause::NotPaused, backlog: ARRIVED, ..by_settings() },
            &[Unknown],
        ),
        (
            "down, and a setting too low",
            Facts { shortfalls: too_few_connections(), ..silent_replica() },
            &[InsufficientSettings, ReplicaUnreachable],
        ),
        (
            "merely silent, and a setting too low",
            Facts { shortfalls: too_few_connections(), failure: Some(&too_late), ..silent_replica() },
            &[ReplicaUnreachable],
        ),
        ("a recovery target", paused_by(PausedBy::Target(&target)), &[RecoveryTargetReached]),
        (
            "a recovery target, cut off",
            Facts { paused_by: PausedBy::Target(&target), pause: ReplayPause::Paused, ..cut() },
            &[RecoveryTargetReached, ReceiverCutOff],
        ),
        (
            "a recovery target, not paused",
            Facts { paused_by: PausedBy::Target(&target), ..blocked() },
            &[BlockedByQuery],
        ),
        ("paused, by what is not known", paused_by(PausedBy::NotKnown), &[Unknown]),
        (
            "paused, by what is not known, primary silent",
            Facts { primary_is_silent: silent, ..paused_by(PausedBy::NotKnown) },
            &[Unknown, PrimaryUnreachable],
        ),
        (
            "primary silent, replica paused",
            Facts { primary_is_silent: silent, ..paused() },
            &[ReplayPaused, PrimaryUnreachable],
        ),
        (
            "primary silent, nobody knows",
            Facts { lagging: Lagging::Maybe, primary_is_silent: silent, ..Facts::well() },
            &[PrimaryUnreachable],
        ),
        ("nothing found", lagging(), &[Unknown]),
    ];
    for (what, facts, expect) in &cases {
        let found = diagnose(facts).expect(what);
        let causes: Vec<Cause> = found.causes.iter().map(|told| told.cause).collect();
        assert_eq!(causes, *expect, "{what}: {found:?}");
        assert_eq!(found.cause().map(|told| told.cause), expect.first().copied(), "{what}");
    }
    for cause in Cause::ALL {
        assert!(cases.iter().any(|(_, _, expect)| expect.first() == Some(&cause)), "{cause:?} never comes first");
    }
}

#[test]
fn a_replica_that_does_not_lag_has_no_cause() {
    assert_eq!(diagnose(&Facts::well()), None);
    let slow =
        Facts { backlog: BOTH, apply_delay: Some(ApplyDelay { seconds: 9.0, beyond_seconds: 0.0 }), ..Facts::well() };
    assert_eq!(diagnose(&slow), None);
    assert_eq!(diagnose(&Facts { lagging: Lagging::Maybe, ..Facts::well() }), None);
    // What is about to make it lag is known, and is no cause yet.
    let paused = diagnose(&Facts { pause: ReplayPause::Paused, ..Facts::well() }).expect("found");
    assert_eq!((paused.cause(), paused.causes[0].cause), (None, Cause::ReplayPaused));
    assert_eq!(
        paused.sentence("r1", Some(&fixture::lag(0.0, 0.0, 0.1, Certainty::Exact, Evidence::CaughtUp)), None),
        "r1 is not behind yet: replay is paused"
    );
}

#[test]
fn one_sentence_says_what_is_wrong() {
    let lock = wait(WaitsOn::Lock);
    let lag = |value, certainty| fixture::lag(value, value, value, certainty, Evidence::Lsn);
    let say = |facts: &Facts<'_>, lag: &LagEstimate| {
        diagnose(facts).map(|found| found.sentence("orders-replica-1", Some(lag), Some(&facts.trend)))
    };
    let blocked = Facts { wait: Some(&lock), trend: standing(), ..lagging() };
    assert_eq!(
        say(&blocked, &lag(340.0, Certainty::Exact)).as_deref(),
        Some(
            "orders-replica-1 is 5m 40s behind and falling further: replay is blocked by a query of user report \
             (application metabase) running for 6m 1s; at this rate it will not catch up"
        )
    );
    let catching_up = Facts { trend: moving(Direction::CatchingUp), backlog: BOTH, ..lagging() };
    assert_eq!(
        say(&catching_up, &lag(7200.0, Certainty::AtMost)).as_deref(),
        Some(
            "orders-replica-1 is at most 2h behind and catching up: it is catching up; at this rate it needs another 4m"
        )
    );
    let paused =
        Facts { pause: ReplayPause::Paused, receiving: Receiving::CutOff, trend: Trend::default(), ..lagging() };
    assert_eq!(
        say(&paused, &lag(12.3, Certainty::AtLeast)).as_deref(),
        Some(
            "orders-replica-1 is at least 12.3s behind: its WAL receiver is cut off from the upstream (no WAL receiver is \
             started while replay is paused); also replay is paused"
        )
    );
    let delay = Some(ApplyDelay { seconds: 20.0, beyond_seconds: 0.0 });
    let delayed = Facts { apply_delay: delay, trend: moving(Direction::Holding), ..lagging() };
    assert_eq!(
        say(&delayed, &lag(19.7, Certainty::Exact)).as_deref(),
        Some("orders-replica-1 is 19.7s behind: it is configured to replay 20s late")
    );
    let slow = Facts { backlog: AWAY, trend: moving(Direction::Holding), ..lagging() };
    assert_eq!(
        say(&slow, &fixture::unknown_lag(Evidence::NoPosition)).as_deref(),
        Some(
            "orders-replica-1 is behind by a time that is not known and not catching up: WAL arrives slower than it is made \
             (1 MiB/s of 8 MiB/s); at this rate it will not catch up"
        )
    );
}

#[test]
fn a_pause_that_must_not_be_ended_says_so_and_never_advises_to_resume() {
    let why = |facts: Facts<'_>| diagnose(&facts).expect("paused").causes.remove(0);
    let paused = || Facts { pause: ReplayPause::Paused, ..lagging() };
    let settings = why(Facts { paused_by: PausedBy::Settings, shortfalls: too_few_connections(), ..paused() });
    assert_eq!(
        settings.why,
        "replay is paused, and cannot go on with its settings: max_connections is 100 and 200 on its primary"
    );
    let down = Facts {
        failure: Some(&PollFailure::Refused),
        receiving: Receiving::Unknown,
        shortfalls: too_few_connections(),
        ..lagging()
    };
    let down = why(down);
    assert_eq!(down.why, "it cannot run with its settings: max_connections is 100 and 200 on its primary");
    let at_target = |action| {
        let target = recovery_target(action);
        why(Facts { paused_by: PausedBy::Target(&target), ..paused() }).why
    };
    let head = "replay is paused, and recovery_target_time is '2026-11-20 10:00:00+00': it would ";
    for (action, then) in [
        (TargetAction::Pause, "promote itself if replay were resumed"),
        (TargetAction::Promote, "promote itself if replay were resumed"),
        (TargetAction::ShutDown, "go on to that and shut down if replay were resumed"),
    ] {
        assert_eq!(at_target(action), format!("{head}{then}"));
    }
    let unknown = why(Facts { paused_by: PausedBy::NotKnown, ..paused() });
    assert_eq!(unknown.why, "replay is paused, and by what is not known, since the settings of its primary are not");
    for cause in Cause::ALL {
        let resumes = cause.remedy().contains("pg_wal_replay_resume");
        assert_eq!(resumes, cause == Cause::ReplayPaused, "{cause:?}");
    }
}

#[test]
fn a_server_that_starts_is_not_merely_silent() {
    let failure = PollFailure::NotAccepting { reason: "the database system is starting up".to_owned() };
    let facts = Facts { failure: Some(&failure), receiving: Receiving::Unknown, ..lagging() };
    let found = diagnose(&facts).expect("it does not answer").causes.remove(0);
    let expect = "it starts, recovers or stops, and accepts no connections (the database system is starting up)";
    assert_eq!((found.cause, found.why.as_str()), (Cause::ReplicaUnreachable, expect));
}

#[test]
fn a_remedy_names_the_server_where_it_is_right() {
    // What its upstream lags by is the replica's cause too: a pid of the one is another session on the other.
    assert!(Cause::BlockedByQuery.remedy().contains("on the server where it is"));
    assert!(Cause::ReplayPaused.remedy().ends_with("on the server that is paused."));
    // Whoever follows a newer primary, that we may not watch, has not gone astray.
    assert!(Cause::TimelineDiverged.remedy().contains("never rewind it"));
    assert!(!Cause::ApplyDelay.remedy().contains("pg_wal_replay_resume"));
}

#[test]
fn a_blocker_is_named_as_far_as_it_may_be_seen() {
    let check = |on, n_holders, blocker: Option<Blocker>, expect: &str| {
        assert_eq!(
            words::blocked(&ReplayWait { on, blocker, n_holders }, ServerTime::from_unix_micros(0)),
            format!("replay is blocked {expect}")
        );
    };
    let blocker = |application: &str, is_idle, age: Option<i64>| {
        let since = age.map(|age| ServerTime::from_unix_micros(-age * 1_000_000));
        Some(Blocker {
            pid: Some(4711),
            user: Some("report".to_owned()),
            application: application.to_owned(),
            is_idle,
            since,
        })
    };
    check(WaitsOn::Lock, 1, blocker("", None, None), "by a session of user report (pid 4711)");
    check(
        WaitsOn::Lock,
        3,
        blocker("x\ny", Some(true), Some(90)),
        "by an idle transaction of user report (application x\\x0Ay, pid 4711) open for 1m 30s, and by 2 other sessions",
    );
    check(
        WaitsOn::BufferPin,
        0,
        blocker("psql", Some(false), Some(3)),
        "probably by a query of user report (application psql, pid 4711) running for 3s",
    );
    check(WaitsOn::Snapshot, 0, None, "by a session of this server");
}

#[test]
fn a_lag_that_is_only_the_way_is_none() {
    let of = |value, upper, evidence, poll_interval| {
        let lag = fixture::lag(value, 0.0, upper, Certainty::Exact, evidence);
        Lagging::of(Some(&lag), poll_interval)
    };
    assert_eq!(of(1.9, 2.5, Evidence::Lsn, 1.0), Lagging::No);
    assert_eq!(of(2.1, 2.5, Evidence::Lsn, 1.0), Lagging::Yes);
    assert_eq!(of(2.1, 2.5, Evidence::Lsn, 5.0), Lagging::No);
    assert_eq!(of(0.0, 60.0, Evidence::PrimaryDown, 1.0), Lagging::Maybe);
    assert_eq!(of(0.0, 60.0, Evidence::Receiver, 1.0), Lagging::No);
    for (evidence, expect) in [
        (Evidence::Warming, Lagging::No),
        (Evidence::ForeignCluster, Lagging::No),
        (Evidence::OtherPrimary, Lagging::No),
        (Evidence::NoPosition, Lagging::Maybe),
        (Evidence::NoPrimary, Lagging::Maybe),
    ] {
        assert_eq!(Lagging::of(Some(&fixture::unknown_lag(evidence)), 1.0), expect, "{evidence:?}");
    }
    assert_eq!(Lagging::of(None, 1.0), Lagging::No);
}

#[test]
fn causes_are_named_once_and_explained() {
    for (position, cause) in Cause::ALL.into_iter().enumerate() {
        assert_eq!(Cause::named(cause.as_str()), Some(cause));
        assert_eq!(cause as usize, position, "{cause:?} is not in its place");
        for text in [cause.meaning(), cause.remedy()] {
            assert!(text.ends_with('.') && !text.contains('|'), "{text}");
        }
    }
}
