use super::*;
use crate::check::tests::{answered, identity, primary, sender, standby};
use crate::core::checkup::{Archiver, Checkup, ExtensionState, PeerCertificate, RoleState};
use crate::core::observation::{PollFailure, ServerState, StandbyState};
use crate::core::survey::RecoverySettings;
use crate::core::time::ServerTime;

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
    of_target(Patient { target, probe, role, targets: &[], primary, wants_statements: true, wall: wall() })
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

    let drop = ["SELECT pg_drop_replication_slot('r1');".to_owned()];
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
    assert_eq!(findings[1].sql, ["RESUME \"reports\";"]);
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
            "GRANT EXECUTE ON FUNCTION pg_stat_get_activity TO \"watch er\";",
            "GRANT SELECT ON pg_database TO \"watch er\";",
            "GRANT EXECUTE ON FUNCTION pg_control_system TO \"watch er\";",
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
    checkup.settings.as_mut().unwrap().remove("pg_stat_statements.track");
    let target = examined("db-1", primary(identity), checkup);
    assert_eq!(
        told(&found(&target, &target)),
        [
            "warning: pg_stat_statements is not in shared_preload_libraries",
            "warning: extension pg_stat_statements is not created in database \"app\"",
        ]
    );
}
