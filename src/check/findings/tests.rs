use std::collections::BTreeSet;

use super::*;
use crate::check::tests::{answered, identity, primary, sender, standby};
use crate::core::checkup::StatementsRights;
use crate::core::checkup::{Archiver, Checkup, ExtensionState, PeerCertificate, RoleState};
use crate::core::observation::{PollFailure, ServerState, StandbyState};
use crate::core::standby_settings::{Capacity, RecoveryTarget, StandbySettings};
use crate::core::survey::{RecoverySettings, Subscription};
use crate::core::time::ServerTime;
use crate::core::wal::Lsn;

const WALL: u64 = 1_800_000_000;

fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(WALL)
}

fn at(seconds: i64) -> ServerTime {
    ServerTime::from_unix_micros((WALL as i64 + seconds) * 1_000_000)
}

/// A server with nothing to find.
fn healthy() -> Checkup {
    let settings = [
        ("hot_standby_feedback", "off"),
        ("max_slot_wal_keep_size", "51200"),
        ("max_standby_streaming_delay", "30000"),
        ("pg_stat_statements.max", "5000"),
        ("pg_stat_statements.track", "top"),
        ("synchronous_standby_names", ""),
        ("track_activities", "on"),
        ("track_counts", "on"),
        ("track_io_timing", "on"),
        ("wal_keep_size", "2048"),
        ("wal_level", "replica"),
        ("wal_receiver_status_interval", "10"),
    ];
    Checkup {
        settings: Some(settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
        role: Some(role()),
        extension: Some(extension("1.10", "1.10")),
        archiver: Some(Archiver { failed_count: 3, last_archived_at: Some(at(-1)), last_failed_at: Some(at(-9)) }),
        slots: Some(vec![slot("r1")]),
        cancelled_queries: Some(0),
        oldest_feedback: None,
        failures: Vec::new(),
        certificate: Some(certificate(31, Verified::ChainAndName)),
        by_rds_proxy: false,
        on_command_line: BTreeSet::new(),
        statements_rights: None,
    }
}

fn role() -> RoleState {
    RoleState { is_superuser: false, valid_until: None, clock: at(0), connection_limit: None }
}

fn extension(installed: &str, available: &str) -> ExtensionState {
    ExtensionState { default_version: available.to_owned(), installed_version: Some(installed.to_owned()) }
}

fn slot(name: &str) -> SlotState {
    SlotState {
        name: name.to_owned(),
        is_logical: false,
        active: true,
        is_copy: false,
        is_unused: false,
        is_lost: false,
        xmin_age: None,
    }
}

fn certificate(days: u64, verified: Verified) -> PeerCertificate {
    PeerCertificate { expires_at: wall() + Duration::from_secs(days * DAY + 60), verified }
}

fn set(checkup: &mut Checkup, name: &str, value: &str) {
    checkup.settings.as_mut().unwrap().insert(name.to_owned(), value.to_owned());
}

/// The primary that a standby's findings look at.
fn upstream(change: impl FnOnce(&mut Checkup)) -> Examined {
    let mut checkup = healthy();
    change(&mut checkup);
    examined("db-1", primary(identity()), checkup)
}

fn examined(name: &str, positions: Positions, checkup: Checkup) -> Examined {
    let mut examined = answered(name, positions);
    examined.outcome.as_mut().unwrap().checkup = checkup;
    examined
}

fn found(target: &Examined, upstream: &Examined) -> Vec<Finding> {
    let probe = target.outcome.as_ref().unwrap();
    let role = positions(target).map(Positions::role);
    let primary = Some(if role == Some(Role::Primary) { target } else { upstream });
    let findings =
        of_target(Patient { target, probe, role, targets: &[], primary, wants_statements: true, wall: wall() });
    for line in findings.iter().flat_map(|finding| &finding.sql) {
        assert!(!line.contains('{'), "a value is missing in {line}");
    }
    findings
}

/// What is found on a primary, in words.
fn on_primary(change: impl FnOnce(&mut Checkup)) -> Vec<String> {
    let target = upstream(change);
    told(&found(&target, &target))
}

fn on_standby(change: impl FnOnce(&mut Checkup)) -> Vec<String> {
    let mut checkup = healthy();
    change(&mut checkup);
    told(&found(&examined("db-2", standby(identity()), checkup), &upstream(|_| {})))
}

fn told(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|finding| format!("{}: {}", finding.severity.as_str(), finding.problem)).collect()
}

#[test]
fn nothing_is_found_on_healthy_servers() {
    assert_eq!(on_primary(|_| {}), Vec::<String>::new());
    assert_eq!(on_standby(|_| {}), Vec::<String>::new());
    // Nor where nothing could be seen.
    assert_eq!(on_primary(|checkup| *checkup = Checkup::default()), Vec::<String>::new());
}

#[test]
fn each_fact_of_a_server_has_its_finding() {
    type Change = fn(&mut Checkup);
    let valid_for = |checkup: &mut Checkup, seconds| {
        checkup.role = Some(RoleState { valid_until: Some(at(seconds)), ..role() });
    };
    let cases: &[(Change, &[&str])] = &[
        (|c| set(c, "track_activities", "off"), &["warning: track_activities is off"]),
        (|c| set(c, "track_counts", "off"), &["warning: track_counts is off"]),
        (|c| set(c, "track_io_timing", "off"), &["info: track_io_timing is off"]),
        (|c| set(c, "pg_stat_statements.track", "none"), &["warning: pg_stat_statements.track is none"]),
        (|c| set(c, "wal_level", "minimal"), &["warning: wal_level is minimal"]),
        (|c| set(c, "wal_level", "logical"), &[]),
        (|c| c.slots = Some(vec![SlotState { is_logical: true, ..slot("s") }]), &["error: wal_level is replica"]),
        (
            |c| set(c, "max_slot_wal_keep_size", "-1"),
            &["warning: max_slot_wal_keep_size is unlimited, and there are replication slots"],
        ),
        (
            |c| {
                set(c, "max_slot_wal_keep_size", "-1");
                c.slots = Some(Vec::new());
            },
            &[],
        ),
        (
            |c| c.slots = Some(vec![SlotState { active: false, ..slot("old") }, slot("r1")]),
            &["warning: 1 replication slot is used by nobody now: old"],
        ),
        // A standby's copy of the primary's slot has no reader before a promotion, and is made anew when it is lost.
        (|c| c.slots = Some(vec![SlotState { active: false, is_copy: true, ..slot("copy") }]), &[]),
        (|c| c.slots = Some(vec![SlotState { active: false, is_copy: true, is_lost: true, ..slot("copy") }]), &[]),
        (
            |c| c.slots = Some(vec![SlotState { active: false, is_unused: true, ..slot("later") }, slot("r1")]),
            &["info: 1 replication slot was never used: later"],
        ),
        (
            |c| c.slots = Some(["a", "b"].map(|name| SlotState { active: false, is_lost: true, ..slot(name) }).into()),
            &["error: 2 replication slots are lost: a, b"],
        ),
        (
            |c| {
                let own = SlotState { active: false, xmin_age: Some(10_000_001), ..slot("pg_conflict_detection") };
                c.slots = Some(vec![own]);
            },
            &["warning: row versions of more than 10 million transactions are kept for subscriptions with \
                 retain_dead_tuples"],
        ),
        (
            |c| c.slots = Some(vec![SlotState { xmin_age: Some(10_000_001), ..slot("debezium") }]),
            &["warning: row versions of more than 10 million transactions are kept for debezium"],
        ),
        (
            |c| c.oldest_feedback = Some(10_000_001),
            &[
                "warning: by hot_standby_feedback a standby holds back row versions of more than 10 million transactions",
            ],
        ),
        (
            |c| c.extension = Some(extension("1.9", "1.10")),
            &["warning: extension pg_stat_statements is 1.9, and the server has 1.10"],
        ),
        (|c| c.extension = Some(extension("1.11", "1.10")), &[]),
        (|c| c.extension = Some(extension("unpackaged", "1.10")), &[]),
        (|c| c.role = Some(RoleState { is_superuser: true, ..role() }), &["warning: role \"watch er\" is a superuser"]),
        (
            |c| c.role = Some(RoleState { connection_limit: Some(1), ..role() }),
            &["warning: role \"watch er\" may have 1 session at a time"],
        ),
        (
            |c| c.archiver = Some(Archiver { failed_count: 1, last_archived_at: None, last_failed_at: Some(at(-9)) }),
            &["error: archiving WAL fails: it has failed once, the last time later than it last succeeded"],
        ),
        (|c| c.archiver = Some(Archiver { failed_count: 0, last_archived_at: None, last_failed_at: None }), &[]),
        (
            |c| set(c, "synchronous_standby_names", "r1, r2"),
            &["error: synchronous_standby_names asks for standbys, and none is synchronous now"],
        ),
        (
            |c| c.certificate = Some(certificate(29, Verified::ChainAndName)),
            &["warning: the server's certificate expires in 29 days"],
        ),
        (
            |c| {
                c.certificate = Some(PeerCertificate {
                    expires_at: wall() - PASSWORD_SOON,
                    ..certificate(0, Verified::ChainAndName)
                });
            },
            &["error: the server's certificate has expired"],
        ),
        (
            |c| c.certificate = Some(certificate(31, Verified::Chain)),
            &["info: the server's certificate is verified, but not that it is for this host"],
        ),
        (
            |c| c.certificate = Some(certificate(31, Verified::Nothing)),
            &["info: the server's certificate is not verified"],
        ),
        (
            |c| c.failures = vec![("archiver", PollFailure::Refused)],
            &["info: its archiver could not be looked at: connection refused"],
        ),
        (|c| c.by_rds_proxy = true, &["info: the pooler is RDS Proxy, to which no settings are sent"]),
        // On a primary these say nothing of what is.
        (|c| set(c, "max_standby_streaming_delay", "-1"), &[]),
        (|c| set(c, "wal_receiver_status_interval", "0"), &[]),
    ];
    for (change, expect) in cases {
        assert_eq!(on_primary(change), *expect);
    }
    for (seconds, expect) in [
        (-1, &["error: the password of role \"watch er\" has expired"][..]),
        (3 * 3600 + 5, &["warning: the password of role \"watch er\" expires in 3 hours"]),
        (24 * 3600 + 5, &["warning: the password of role \"watch er\" expires in 1 day"]),
        (15 * 24 * 3600, &[]),
    ] {
        assert_eq!(on_primary(|checkup| valid_for(checkup, seconds)), expect);
    }
}

#[test]
fn a_slot_whose_reader_may_come_back_is_not_dropped() {
    let unused = |targets: &[Examined]| {
        let target = upstream(|c| c.slots = Some(vec![SlotState { active: false, ..slot("r1") }]));
        let (probe, role) = (target.outcome.as_ref().unwrap(), Some(Role::Primary));
        let patient =
            Patient { target: &target, probe, role, targets, primary: None, wants_statements: true, wall: wall() };
        let mut findings = of_target(patient);
        assert_eq!(told(&findings), ["warning: 1 replication slot is used by nobody now: r1"]);
        findings.remove(0)
    };
    let replica = || examined("orders-replica-1", standby(identity()), healthy());
    let down = |name: &str| Examined { outcome: Err(PollFailure::Refused), target: Name::new(name), ..replica() };
    let mut told_to = replica();
    let survey = told_to.outcome.as_mut().unwrap().survey.as_mut().unwrap();
    survey.recovery = Some(RecoverySettings { slot_name: Some("r1".to_owned()), ..RecoverySettings::default() });
    let mut streaming = standby(identity());
    if let ServerState::Standby(StandbyState { receiver: Receiver::Running(receiver), .. }) = &mut streaming.state {
        receiver.slot_name = Some("r1".to_owned());
    }
    let streaming = examined("orders-replica-1", streaming, healthy());

    let drop = ["-- if its reader never comes back: SELECT pg_drop_replication_slot('r1');".to_owned()];
    for (targets, sql, why) in [
        (vec![], &drop[..], "if nobody comes back, drop it"),
        (vec![replica()], &drop, "if nobody comes back, drop it"),
        (
            vec![down("orders-replica-1")],
            &[],
            "orders-replica-1 is not reached and may be its reader: start that first; \
             drop the slot only if it never comes back",
        ),
        (
            vec![down("r1"), replica(), down("r2")],
            &[],
            "r1, r2 are not reached and may be its reader: start those first; \
             drop the slot only if they never come back",
        ),
        (vec![told_to], &[], "r1 is the slot of orders-replica-1: see why that does not stream by it"),
        (vec![streaming], &[], "r1 is the slot of orders-replica-1: see why that does not stream by it"),
    ] {
        let finding = unused(&targets);
        assert_eq!(finding.sql, sql, "{why}");
        let expect = format!("each keeps all WAL since its reader left, and row versions with it; {why}");
        assert_eq!(finding.why, expect);
    }
}

#[test]
fn a_standby_is_looked_at_as_one() {
    type Change = fn(&mut Checkup);
    let cases: &[(Change, &[&str])] = &[
        (
            |c| set(c, "max_standby_streaming_delay", "-1"),
            &["warning: max_standby_streaming_delay is -1: replay waits for queries for ever"],
        ),
        (|c| set(c, "wal_receiver_status_interval", "0"), &["warning: wal_receiver_status_interval is 0"]),
        (
            |c| c.cancelled_queries = Some(4),
            &["info: 4 queries were cancelled here to let replay go on, and hot_standby_feedback is off"],
        ),
        (
            |c| {
                c.cancelled_queries = Some(4);
                set(c, "hot_standby_feedback", "on");
            },
            &[],
        ),
        // It is the primary's to know who is synchronous.
        (|c| set(c, "synchronous_standby_names", "*"), &[]),
    ];
    for (change, expect) in cases {
        assert_eq!(on_standby(change), *expect);
    }

    let replica = examined("DB-2", standby(identity()), healthy());
    let findings = found(&replica, &upstream(|checkup| set(checkup, "wal_keep_size", "0")));
    assert_eq!(
        told(&findings),
        ["info: it streams without a replication slot, and wal_keep_size is 0 MB on the primary"]
    );
    assert_eq!(findings[0].sql[0], "SELECT pg_create_physical_replication_slot('db_2');");
    assert_eq!(findings[0].run_on, Some(Name::new("db-1")));
}

#[test]
fn the_worst_comes_first_and_where_it_runs_is_told() {
    let target = upstream(|checkup| {
        set(checkup, "track_io_timing", "off");
        checkup.role = Some(RoleState { valid_until: Some(at(-1)), ..role() });
        set(checkup, "track_counts", "off");
    });
    let severities: Vec<Severity> = found(&target, &target).iter().map(|finding| finding.severity).collect();
    assert_eq!(severities, [Severity::Error, Severity::Warning, Severity::Info]);

    let rds = Identity { flavor: Flavor::Rds, ..identity() };
    let mut checkup = healthy();
    set(&mut checkup, "track_counts", "off");
    let target = examined("db-1", primary(rds), checkup);
    let finding = found(&target, &target).remove(0);
    assert_eq!(finding.sql, ["-- set track_counts to on in the DB parameter group"]);
}

#[test]
fn the_way_to_a_server_is_looked_at() {
    let open = || Identity { tls: false, ..identity() };
    let away = examined("db-1", primary(open()), healthy());
    assert_eq!(told(&found(&away, &away)), ["warning: the connection is not encrypted"]);
    let here = Examined { is_local: true, ..away };
    assert_eq!(told(&found(&here, &here)), Vec::<String>::new());
    let copied = Examined {
        trusts_copy: true,
        ..upstream(|checkup| checkup.certificate = Some(certificate(31, Verified::ChainAndName)))
    };
    assert_eq!(
        told(&found(&copied, &copied)),
        ["info: the server's certificate is verified with a copy of RDS' authorities of 2024-11-23"]
    );
    let pooled = examined("db-1", primary(Identity { pooled: true, ..identity() }), healthy());
    assert_eq!(told(&found(&pooled, &pooled)), ["warning: a connection pooler is in between"]);

    let mut full = upstream(|_| {});
    let survey = full.outcome.as_mut().unwrap().survey.as_mut().unwrap();
    survey.sessions.as_mut().unwrap().total = 78;
    let expect = "warning: 78 of the 97 connections that ordinary roles may have are in use";
    assert_eq!(told(&found(&full, &full)), [expect]);
}

#[test]
fn standbys_of_one_name_and_synchronous_ones_are_told_from_the_senders() {
    let named = |name: &str, sync: &str| {
        let mut sender = sender();
        sender.application_name = Some(name.into());
        sender.sync_state = Some(sync.into());
        sender
    };
    let check = |senders, expect: &[&str]| {
        let positions = Positions { senders, ..primary(identity()) };
        assert!(matches!(positions.state, ServerState::Primary(_)));
        let mut checkup = healthy();
        set(&mut checkup, "synchronous_standby_names", "*");
        let target = examined("db-1", positions, checkup);
        assert_eq!(told(&found(&target, &target)), expect);
    };
    check(vec![named("r1", "sync"), named("r2", "potential")], &[]);
    check(vec![named("r1", "quorum")], &[]);
    check(
        vec![named("walreceiver", "sync"), named("walreceiver", "async")],
        &["info: 2 standbys stream from it under one name, \"walreceiver\""],
    );
}

#[test]
fn a_pooler_is_looked_at() {
    let pooler = crate::core::fixture::pooler("orders", "pgb");
    let findings = of_pooler(&pooler.answer.unwrap().facts);
    assert_eq!(
        told(&findings),
        [
            "warning: 4 clients wait in reports/app for a server connection, the first for 7 s",
            "warning: database \"reports\" is paused",
        ]
    );
    assert_eq!(findings[1].sql, ["-- when the work that it was paused for is done: RESUME \"reports\";"]);
}

#[test]
fn what_is_refused_is_told_with_the_grant_that_helps() {
    let denied =
        |what: &str| PollFailure::Sql { sqlstate: "42501".to_owned(), reason: format!("permission denied for {what}") };
    let mut target = upstream(|_| {});
    let probe = target.outcome.as_mut().unwrap();
    probe.refused = vec!["pg_control_system", "pg_settings"];
    let survey = probe.survey.as_mut().unwrap();
    survey.failures.push(("sessions", denied("function pg_stat_get_activity")));
    survey.failures.push(("databases", denied("table pg_database")));
    let findings = found(&target, &target);
    assert_eq!(
        told(&findings),
        [
            "warning: its sessions cannot be read: SQLSTATE 42501: permission denied for function pg_stat_get_activity",
            "warning: its databases cannot be read: SQLSTATE 42501: permission denied for table pg_database",
            "warning: the server refuses pg_control_system to us",
            "info: the server refuses pg_settings to us",
        ]
    );
    let sql: Vec<&str> = findings.iter().flat_map(|finding| &finding.sql).map(String::as_str).collect();
    assert_eq!(
        sql,
        [
            "-- in database \"app\":",
            "GRANT EXECUTE ON FUNCTION pg_stat_get_activity TO \"watch er\";",
            "-- in database \"app\":",
            "GRANT SELECT ON pg_database TO \"watch er\";",
            "-- in database \"app\":",
            "GRANT EXECUTE ON FUNCTION pg_control_system TO \"watch er\";",
            "-- in database \"app\":",
            "GRANT SELECT ON pg_settings TO \"watch er\";",
        ]
    );
}

#[test]
fn of_many_slots_the_first_few_are_told_and_a_query_for_the_rest() {
    let slots = (0..495).map(|n| SlotState { active: false, ..slot(&format!("s{n}")) }).collect();
    let target = upstream(|checkup| checkup.slots = Some(slots));
    let found = found(&target, &target);
    assert!(found[0].problem.ends_with("s8, s9 and 485 more"), "{}", found[0].problem);
    assert_eq!(found[0].sql.len(), 12);
    assert_eq!(
        found[0].sql[10..],
        [
            "-- and 485 more, after a look at what it lists:",
            "SELECT format('SELECT pg_drop_replication_slot(%L);', slot_name) FROM pg_replication_slots WHERE NOT active AND \
             restart_lsn IS NOT NULL AND wal_status IS DISTINCT FROM 'lost';",
        ]
    );
}

#[test]
fn an_extension_and_its_library_are_told_together() {
    let identity = Identity { statements: StatementsAccess::NotCreated, ..identity() };
    let mut checkup = healthy();
    checkup.settings.as_mut().unwrap().remove("pg_stat_statements.max");
    let target = examined("db-1", primary(identity), checkup);
    assert_eq!(
        told(&found(&target, &target)),
        [
            "warning: pg_stat_statements is not in shared_preload_libraries",
            "warning: extension pg_stat_statements is not created in database \"app\"",
        ]
    );
}

fn with_connections(count: u64) -> StandbySettings {
    let capacity = Capacity::new(|name| Some(if name == "max_connections" { count } else { 8 }));
    StandbySettings { capacity, recovery_target: None }
}

fn of_standby(standby_settings: StandbySettings, version_num: u32, pause: ReplayPause) -> Vec<Finding> {
    let mut positions = standby(Identity { version_num, standby_settings, ..identity() });
    if let ServerState::Standby(state) = &mut positions.state {
        state.pause = pause;
    }
    let primary = primary(Identity { standby_settings: with_connections(200), ..identity() });
    found(&examined("db-2", positions, healthy()), &examined("db-1", primary, healthy()))
}

#[test]
fn a_standby_that_cannot_go_on_with_its_settings_is_found_before_and_after_it_stops() {
    let too_few = |version_num, pause| of_standby(with_connections(100), version_num, pause).remove(0);
    let before = too_few(150_018, ReplayPause::NotPaused);
    assert_eq!(told(std::slice::from_ref(&before)), ["warning: max_connections is 100 and 200 on its primary"]);
    assert_eq!(before.sql, ["ALTER SYSTEM SET max_connections = 200;", "-- then restart it"]);
    assert_eq!(before.run_on, Some(Name::new("db-2")));
    assert!(before.why.contains("if replay is then resumed it shuts down"), "{}", before.why);
    let on_13 = too_few(130_023, ReplayPause::NotPaused);
    assert!(on_13.why.starts_with("it shuts down as soon as"), "{}", on_13.why);
    let after = too_few(150_018, ReplayPause::Paused);
    assert_eq!(after.problem, "replay is paused, and max_connections is 100 and 200 on its primary");
    assert_eq!(after.sql, before.sql);
    assert_eq!(told(&of_standby(with_connections(200), 150_018, ReplayPause::NotPaused)), Vec::<String>::new());

    // One restart for all of them.
    let few = StandbySettings { capacity: Capacity::new(|_| Some(1)), recovery_target: None };
    let all = of_standby(few, 150_018, ReplayPause::NotPaused).remove(0);
    assert_eq!(all.sql.len(), 6, "{:?}", all.sql);
    assert_eq!(all.sql[5], "-- then restart it");
}

#[test]
fn a_pause_is_resumed_only_where_it_can_be_by_request_alone() {
    let requested = of_standby(with_connections(200), 150_018, ReplayPause::Paused).remove(0);
    assert_eq!(requested.problem, "replay is paused");
    assert_eq!(requested.sql, ["-- when the pause is not needed any more: SELECT pg_wal_replay_resume();"]);
    let unknown = of_standby(StandbySettings::default(), 150_018, ReplayPause::Requested).remove(0);
    assert_eq!((unknown.problem.as_str(), unknown.sql.len()), ("replay is paused, and by what is not known", 0));
    for (action, expect) in [
        (TargetAction::Pause, "at that point it pauses replay, and promotes itself when replay is resumed"),
        (TargetAction::Promote, "at that point it promotes itself"),
        (TargetAction::ShutDown, "at that point it shuts down"),
    ] {
        let target = RecoveryTarget { setting: "recovery_target_name", value: "it's\n".to_owned(), action };
        let settings = StandbySettings { recovery_target: Some(target), ..with_connections(200) };
        let finding = of_standby(settings, 150_018, ReplayPause::Paused).remove(0);
        assert_eq!(finding.problem, "replay is paused, and recovery_target_name is 'it's?'");
        assert!(finding.why.starts_with(expect), "{}", finding.why);
        assert_eq!(finding.sql, ["ALTER SYSTEM SET recovery_target_name = '';", "-- then restart it"]);
    }
}

#[test]
fn what_a_configuration_file_cannot_change_is_not_to_be_set_there() {
    let track = |change: fn(&mut Checkup)| {
        let target = upstream(|checkup| {
            set(checkup, "track_counts", "off");
            change(checkup);
        });
        found(&target, &target).remove(0).sql
    };
    assert_eq!(track(|_| {}), ["ALTER SYSTEM SET track_counts = on;", "SELECT pg_reload_conf();"]);
    assert_eq!(
        track(|checkup| checkup.on_command_line.extend(["track_counts".to_owned()])),
        ["-- set track_counts to on on the server's command line, which says otherwise, and restart it"]
    );
    assert_eq!(
        track(|checkup| set(checkup, "allow_alter_system", "off")),
        ["-- set track_counts to on by what manages the server's configuration (allow_alter_system is off)"]
    );
}

#[test]
fn the_library_is_added_to_those_that_are_loaded() {
    let preload = |change: fn(&mut Checkup)| {
        let identity = Identity { statements: StatementsAccess::NotLoaded, ..identity() };
        let mut checkup = healthy();
        change(&mut checkup);
        let target = examined("db-1", primary(identity), checkup);
        found(&target, &target).remove(0).sql
    };
    let loads = |checkup: &mut Checkup| set(checkup, "shared_preload_libraries", "auto_explain, \"my lib\"");
    assert_eq!(
        preload(loads),
        [
            "ALTER SYSTEM SET shared_preload_libraries = 'auto_explain', 'my lib', 'pg_stat_statements';",
            "-- then restart it"
        ]
    );
    assert_eq!(
        preload(|checkup| set(checkup, "shared_preload_libraries", "")).remove(0),
        "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements';"
    );
    // What is loaded is not known, or the library is not there: then nothing is to be run as it stands.
    assert_eq!(
        preload(|_| {}),
        [
            "SHOW shared_preload_libraries;",
            "-- then add pg_stat_statements to what it shows in shared_preload_libraries, and restart it"
        ]
    );
    let not_installed = preload(|checkup| checkup.extension = None);
    assert!(not_installed.iter().all(|line| line.starts_with("--")), "{not_installed:?}");
}

#[test]
fn a_limit_for_slots_leaves_room_for_what_they_keep_now() {
    let limit = |kept: Option<u64>| {
        let mut target = upstream(|checkup| set(checkup, "max_slot_wal_keep_size", "-1"));
        let survey = target.outcome.as_mut().unwrap().survey.as_mut().unwrap();
        survey.slots.as_mut().unwrap()[0].retained_bytes = kept;
        found(&target, &target).remove(0).sql.remove(0)
    };
    assert_eq!(limit(None), "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB';");
    assert_eq!(limit(Some(40 << 30)), "ALTER SYSTEM SET max_slot_wal_keep_size = '80GB';");
    let mut target = upstream(|checkup| set(checkup, "max_slot_wal_keep_size", "-1"));
    target.outcome.as_mut().unwrap().survey.as_mut().unwrap().slots = None;
    let sql = found(&target, &target).remove(0).sql;
    assert!(sql.iter().all(|line| line.starts_with("-- if no needed slot keeps more: ")), "{sql:?}");
}

#[test]
fn only_a_slot_that_has_long_been_unused_is_dropped_as_printed() {
    let unused = |change: &dyn Fn(&mut Slot), targets: &[Examined]| {
        let mut target = upstream(|c| c.slots = Some(vec![SlotState { active: false, ..slot("old") }]));
        let probe = target.outcome.as_mut().unwrap();
        let mut known = Slot { name: "old".to_owned(), restart_lsn: Some(Lsn::new(1)), ..Slot::default() };
        change(&mut known);
        probe.survey.as_mut().unwrap().slots = Some(vec![known]);
        probe.positions.as_mut().unwrap().clock = at(0);
        let (probe, role) = (target.outcome.as_ref().unwrap(), Some(Role::Primary));
        let patient =
            Patient { target: &target, probe, role, targets, primary: None, wants_statements: true, wall: wall() };
        of_target(patient).remove(0)
    };
    let drop = "SELECT pg_drop_replication_slot('old');";
    let week = 7 * 24 * 3600;
    assert_eq!(unused(&|slot| slot.inactive_since = Some(at(-week - 1)), &[]).sql, [drop]);
    let only = format!("-- if its reader never comes back: {drop}");
    assert_eq!(unused(&|slot| slot.inactive_since = Some(at(-week + 60)), &[]).sql, std::slice::from_ref(&only));
    assert_eq!(unused(&|_| {}, &[]).sql, [only]);

    // A subscription that is disabled keeps its slot.
    let mut subscriber = examined("sub", primary(identity()), healthy());
    subscriber.outcome.as_mut().unwrap().survey.as_mut().unwrap().subscriptions = Some(vec![Subscription {
        datname: "app".into(),
        name: "orders".into(),
        enabled: false,
        slot_name: Some("old".into()),
        workers: None,
        tables: None,
        errors: Vec::new(),
        conflicts: Vec::new(),
    }]);
    let finding = unused(&|slot| slot.inactive_since = Some(at(-week - 1)), &[subscriber]);
    assert_eq!(finding.sql, Vec::<String>::new());
    assert!(finding.why.contains("old is the slot of subscription orders on sub"), "{}", finding.why);
}

#[test]
fn a_lost_slot_of_a_standby_is_made_anew_and_one_in_use_is_left_alone() {
    let lost = |name| SlotState { active: false, is_lost: true, ..slot(name) };
    let target = upstream(|c| {
        c.slots = Some(vec![
            lost("r1"),
            lost("other"),
            SlotState { is_copy: true, ..lost("copy") },
            SlotState { active: true, ..lost("busy") },
        ]);
    });
    let mut replica = examined("db-2", standby(identity()), healthy());
    let survey = replica.outcome.as_mut().unwrap().survey.as_mut().unwrap();
    survey.recovery = Some(RecoverySettings { slot_name: Some("r1".to_owned()), ..RecoverySettings::default() });
    let (probe, role, targets) = (target.outcome.as_ref().unwrap(), Some(Role::Primary), &[replica][..]);
    let patient =
        Patient { target: &target, probe, role, targets, primary: None, wants_statements: true, wall: wall() };
    assert_eq!(
        of_target(patient).remove(0).sql,
        [
            "SELECT pg_drop_replication_slot('r1');",
            "SELECT pg_create_physical_replication_slot('r1');",
            "SELECT pg_drop_replication_slot('other');"
        ]
    );
}

#[test]
fn a_slot_is_made_only_on_the_server_that_the_standby_streams_from() {
    let give = |serving: bool| {
        let mut between = standby(identity());
        if serving {
            between.senders = vec![sender()];
        }
        let targets = [examined("db-3", between, healthy())];
        let replica = examined("db-2", standby(identity()), healthy());
        let primary = upstream(|checkup| set(checkup, "wal_keep_size", "0"));
        let (probe, role) = (replica.outcome.as_ref().unwrap(), Some(Role::Replica));
        let patient = Patient {
            target: &replica,
            probe,
            role,
            targets: &targets,
            primary: Some(&primary),
            wants_statements: true,
            wall: wall(),
        };
        of_target(patient).remove(0).sql
    };
    assert_eq!(
        give(false),
        [
            "SELECT pg_create_physical_replication_slot('db_2');",
            "-- then on db-2:",
            "-- ALTER SYSTEM SET primary_slot_name = 'db_2';",
            "-- SELECT pg_reload_conf();"
        ]
    );
    assert_eq!(give(true), Vec::<String>::new());
}

#[test]
fn the_grants_that_reading_statements_lacks_name_the_extensions_schema() {
    let check = |rights: StatementsRights, expect: &[&str]| {
        let mut target = upstream(|checkup| checkup.statements_rights = Some(rights.clone()));
        target.outcome.as_mut().unwrap().refused = vec!["pg_stat_statements"];
        let findings = found(&target, &target);
        assert_eq!(told(&findings), ["warning: role \"watch er\" may not read pg_stat_statements"]);
        assert_eq!(findings[0].sql, expect);
        assert_eq!(findings[0].run_on, Some(Name::new("db-1")));
    };
    let all = StatementsRights {
        schema: "my\"schema".to_owned(),
        uses_schema: true,
        reads_rows: true,
        executes_info: Some(true),
        selects_info: Some(true),
    };
    let execute = "GRANT EXECUTE ON FUNCTION \"my\"\"schema\".pg_stat_statements(boolean) TO \"watch er\";";
    let database = "-- in database \"app\":";
    check(
        StatementsRights { reads_rows: false, executes_info: None, selects_info: None, ..all.clone() },
        &[database, execute],
    );
    check(
        StatementsRights {
            uses_schema: false,
            reads_rows: false,
            executes_info: Some(false),
            selects_info: Some(false),
            ..all
        },
        &[
            database,
            "GRANT USAGE ON SCHEMA \"my\"\"schema\" TO \"watch er\";",
            execute,
            "GRANT EXECUTE ON FUNCTION \"my\"\"schema\".pg_stat_statements_info() TO \"watch er\";",
            "GRANT SELECT ON \"my\"\"schema\".pg_stat_statements_info TO \"watch er\";",
        ],
    );
}
