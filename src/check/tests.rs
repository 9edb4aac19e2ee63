use std::sync::Arc;

use super::*;
use crate::core::checkup::Checkup;
use crate::core::observation::{
    Flavor, Identity, PrimaryState, Receiver, ReplayPause, ServerAddress, ServerState, StandbyState, WalReceiver,
    WalSender,
};
use crate::core::standby_settings::StandbySettings;
use crate::core::survey::{Sessions, Slot, SurveyFacts};
use crate::core::time::ServerTime;
use crate::core::wal::{Lsn, Timeline};

pub(super) fn identity() -> Identity {
    Identity {
        version_num: 150_018,
        version: "15.18".to_owned(),
        flavor: Flavor::PostgreSql,
        system_identifier: Some(7),
        started_at: ServerTime::from_unix_micros(0),
        cluster_name: String::new(),
        user: "watch er".to_owned(),
        reads_all_stats: true,
        statements: StatementsAccess::Readable { schema: "public".to_owned(), version: "1.10".to_owned() },
        tls: true,
        pooled: false,
        address: ServerAddress::default(),
        standby_settings: StandbySettings::default(),
    }
}

pub(super) fn sender() -> WalSender {
    WalSender {
        pid: 1,
        application_name: None,
        client: None,
        sync_priority: None,
        state: None,
        sent_lsn: None,
        write_lsn: None,
        flush_lsn: None,
        replay_lsn: None,
        write_lag: None,
        flush_lag: None,
        replay_lag: None,
        reply_time: None,
        sync_state: None,
    }
}

pub(super) fn primary(identity: Identity) -> Positions {
    let state = PrimaryState { flush_lsn: Lsn::new(1), timeline: Timeline(1), checkpoint: None };
    Positions {
        identity: Arc::new(identity),
        clock: ServerTime::from_unix_micros(0),
        state: ServerState::Primary(state),
        senders: vec![sender()],
        sees_senders: true,
    }
}

pub(super) fn standby(identity: Identity) -> Positions {
    let receiver = WalReceiver {
        status: "streaming".to_owned(),
        timeline: None,
        flushed_lsn: None,
        written_lsn: None,
        latest_end_at: None,
        latest_end_lsn: None,
        last_msg_sent_at: None,
        last_msg_received_at: None,
        sender_host: Some("10.0.0.7".to_owned()),
        sender_port: Some(5432),
        slot_name: None,
    };
    let state = StandbyState {
        replay_lsn: None,
        receive_lsn: None,
        last_commit_replayed_at: None,
        control_timeline: None,
        pause: ReplayPause::NotPaused,
        receiver: Receiver::Running(receiver),
        wait: None,
    };
    Positions { state: ServerState::Standby(state), senders: Vec::new(), ..primary(identity) }
}

pub(super) fn survey(n_slots: usize) -> SurveyFacts {
    let slot = Slot { name: "s".to_owned(), slot_type: "physical", active: true, ..Slot::default() };
    SurveyFacts {
        sessions: Some(Sessions { max_connections: 100, reserved_connections: 3, ..Sessions::default() }),
        slots: Some(vec![slot; n_slots]),
        apply_delay_seconds: Some(0.0),
        ..SurveyFacts::default()
    }
}

pub(super) fn answered(name: &str, positions: Positions) -> Examined {
    let probe = Probe {
        identity: Arc::clone(&positions.identity),
        positions: Ok(positions),
        survey: Ok(survey(1)),
        refused: Vec::new(),
        checkup: Checkup::default(),
    };
    Examined {
        target: Name::new(name),
        dbname: "app".to_owned(),
        user: "mon".to_owned(),
        is_local: false,
        endpoint: None,
        trusts_copy: false,
        outcome: Ok(probe),
    }
}

fn failed(name: &str) -> Examined {
    Examined {
        target: Name::new(name),
        dbname: "app".to_owned(),
        user: "mon".to_owned(),
        is_local: false,
        endpoint: None,
        trusts_copy: false,
        outcome: Err(PollFailure::Refused),
    }
}

fn cluster(targets: Vec<Examined>) -> ExaminedCluster {
    ExaminedCluster { name: Name::new("orders"), targets, poolers: Vec::new() }
}

fn report(targets: Vec<Examined>) -> Report {
    Report::new(&[cluster(targets)], true, SystemTime::UNIX_EPOCH)
}

#[test]
fn a_cluster_with_nothing_findings_is_well() {
    let report = report(vec![answered("db-1", primary(identity())), answered("db-2", standby(identity()))]);
    let expected = "\
CLUSTER  TARGET  ROLE     VERSION  FLAVOUR     TLS  GRANTS  EXTENSION  SLOTS
orders   db-1    primary  15.18    PostgreSQL  yes  ok      ok             1
orders   db-2    replica  15.18    PostgreSQL  yes  ok      ok             1

all well
";
    assert_eq!(report.table(false, None), expected);
    assert!(report.ok);
}

#[test]
fn in_a_narrow_terminal_no_line_of_a_table_is_broken_by_it() {
    let targets = vec![answered("orders-production-replica-1", standby(identity()))];
    let notifiers = vec![NotifierReport {
        name: Name::new("on-call"),
        kind: "sns",
        place: "arn:aws:sns:eu-west-1:123456789012:production-database-alerts".to_owned(),
        told_of: "everything".to_owned(),
    }];
    let told = Report { notifiers, ..report(targets) }.table(false, Some(80));
    let servers = "\
CLUSTER  TARGET                       ROLE     VERSION  FLAVOUR     TLS  GRANTS
orders   orders-production-replica-1  replica  15.18    PostgreSQL  yes  ok
    extension ok, slots 1
";
    let notifiers = "\
NOTIFIER  TYPE  WHERE
on-call   sns   arn:aws:sns:eu-west-1:123456789012:production-database-alerts
    told of everything
";
    assert!(told.starts_with(servers) && told.contains(notifiers), "{told}");
}

#[test]
fn what_a_standby_lacks_is_granted_on_its_primary_and_loaded_on_itself() {
    let poor = Identity { reads_all_stats: false, statements: StatementsAccess::NotLoaded, ..identity() };
    let report = report(vec![answered("db-1", primary(identity())), answered("db-2", standby(poor))]);
    let expected = "\
CLUSTER  TARGET  ROLE     VERSION  FLAVOUR     TLS  GRANTS   EXTENSION  SLOTS
orders   db-1    primary  15.18    PostgreSQL  yes  ok       ok             1
orders   db-2    replica  15.18    PostgreSQL  yes  missing  missing        1

orders/db-2: warning: role \"watch er\" does not have pg_monitor
  not measured: what sessions of other roles do: their state, client address, transactions, idle time and waits for locks; statements of other roles
  run on its primary, db-1:
    GRANT pg_monitor TO \"watch er\";

orders/db-2: warning: pg_stat_statements is not in shared_preload_libraries
  not measured: statements: calls, execution time, rows and blocks
  to do:
    -- install the server's contrib modules, then add pg_stat_statements to shared_preload_libraries and restart it

something to fix: 2 warnings
";
    assert_eq!(report.table(false, None), expected);
}

#[test]
fn a_grant_that_helps_several_is_told_once() {
    let poor = || Identity { reads_all_stats: false, ..identity() };
    let report = report(vec![
        answered("db-1", primary(poor())),
        answered("db-2", standby(poor())),
        answered("db-3", standby(poor())),
    ]);
    let told = report.table(false, None);
    assert_eq!(told.matches("GRANT pg_monitor").count(), 1, "{told}");
    assert!(told.contains("    GRANT pg_monitor TO \"watch er\";\n  which is also for db-2, db-3\n"), "{told}");
}

#[test]
fn an_extension_that_is_not_wanted_is_not_missed() {
    let without = Identity { statements: StatementsAccess::NotCreated, ..identity() };
    let targets = || vec![answered("db-1", primary(without.clone()))];
    assert!(Report::new(&[cluster(targets())], false, SystemTime::UNIX_EPOCH).ok);
    let fix = &report(targets()).clusters[0].targets[0].findings[0];
    assert_eq!(fix.sql, ["-- in database \"app\":", "CREATE EXTENSION pg_stat_statements;"]);
    assert_eq!(fix.problem, "extension pg_stat_statements is not created in database \"app\"");
}

#[test]
fn a_target_that_is_not_reached_is_told_first_and_counted_as_an_error() {
    let report = report(vec![answered("db-1", primary(identity())), failed("db-2")]);
    assert!(!report.ok);
    assert!(
        report
            .table(false, None)
            .contains("\norders/db-2: error: not reached: connection refused\n\nsomething to fix: 1 error\n"),
        "{}",
        report.table(false, None)
    );
}

#[test]
fn what_does_not_fit_together_is_a_warning() {
    let alone = || Positions { senders: Vec::new(), ..primary(identity()) };
    let foreign = Identity { system_identifier: Some(8), ..identity() };
    let process = || {
        let address = ServerAddress { port: Some(5432), ..ServerAddress::default() };
        primary(Identity { address, ..identity() })
    };
    for (targets, warnings) in [
        (
            vec![answered("db-1", process()), answered("db-2", process())],
            vec![
                "db-1 and db-2 lead to one server (the same process): it counts once; name another server in the dsn of one of \
                 them, or remove it",
            ],
        ),
        (
            vec![answered("db-1", primary(identity())), answered("db-2", primary(identity()))],
            vec!["2 primaries: db-1, db-2; only one of them can be the one that replicas are measured against"],
        ),
        (
            vec![answered("db-1", primary(identity())), answered("db-2", standby(foreign))],
            vec![
                "not one cluster: the system identifiers differ: db-1 (7), db-2 (8); they do not replicate each other",
            ],
        ),
        (
            vec![answered("db-1", alone()), answered("db-2", standby(identity()))],
            vec!["db-2 streams from 10.0.0.7:5432, which is none of the cluster's targets; add it"],
        ),
        (
            vec![answered("db-2", standby(identity()))],
            vec![
                "no primary: none of the targets is one, so lag is known only as far as the replicas can tell it themselves; add the primary",
                "db-2 streams from 10.0.0.7:5432, which is none of the cluster's targets; add it",
            ],
        ),
        // The one that is not reached may be the primary, and the upstream.
        (vec![failed("db-1"), answered("db-2", standby(identity()))], vec![]),
    ] {
        let report = report(targets);
        let told: Vec<&str> = report.clusters[0].warnings.iter().map(|misfit| misfit.words.as_str()).collect();
        assert_eq!(told, warnings);
        for misfit in &report.clusters[0].warnings {
            let is_error = misfit.words.contains("2 primaries") || misfit.words.contains("not one cluster");
            assert_eq!(misfit.severity, if is_error { Severity::Error } else { Severity::Warning }, "{misfit:?}");
            let line = format!("\norders: {}: {}\n", misfit.severity.as_str(), misfit.words);
            assert!(report.table(false, None).contains(&line), "{line}");
        }
        assert_eq!(serde_json::to_value(&report).unwrap()["clusters"][0]["warnings"], serde_json::json!(warnings));
    }
}

#[test]
fn the_json_form_keeps_its_names() {
    let report =
        report(vec![answered("db-1", primary(Identity { reads_all_stats: false, ..identity() })), failed("db-2")]);
    let expected = serde_json::json!({
        "ok": false,
        "clusters": [{
            "name": "orders",
            "targets": [
                {
                    "name": "db-1", "reachable": true, "failure": null, "role": "primary", "version": "15.18",
                    "flavor": "postgresql", "pooled": false, "tls": true, "user": "watch er",
                    "missing_grants": ["pg_monitor"], "missing_extensions": [], "slots": 1,
                    "findings": [{
                        "severity": "warning",
                        "problem": "role \"watch er\" does not have pg_monitor",
                        "why": "not measured: each standby's sent, written, flushed and replayed positions and PostgreSQL's own lags; what sessions of other roles do: their state, client address, transactions, idle time and waits for locks; statements of other roles",
                        "sql": ["GRANT pg_monitor TO \"watch er\";"],
                        "run_on": "db-1",
                    }],
                },
                { "name": "db-2", "reachable": false, "failure": "connection refused", "findings": [] },
            ],
            "poolers": [],
            "warnings": [],
        }],
        "notifiers": [],
        "untold": [],
    });
    assert_eq!(serde_json::to_value(&report).unwrap(), expected);
}

#[test]
fn a_pooler_has_a_row_and_is_not_well_when_it_is_down_or_its_clients_wait() {
    let healthy = || vec![answered("db-1", primary(identity())), answered("db-2", standby(identity()))];
    let facts = |longest_wait, clients_waiting| PoolerFacts {
        version: Some("1.18.0".to_owned()),
        pools: vec![crate::core::pooler::Pool {
            database: "app".to_owned(),
            user: "web".to_owned(),
            longest_wait,
            clients_waiting,
            servers_active: 20,
            ..Default::default()
        }],
        ..PoolerFacts::default()
    };
    let with =
        |poolers| Report::new(&[ExaminedCluster { poolers, ..cluster(healthy()) }], true, SystemTime::UNIX_EPOCH);
    assert!(with(vec![(Name::new("pgb"), Ok(facts(0.2, 1)))]).ok);
    let report = with(vec![(Name::new("pgb"), Ok(facts(9.0, 1))), (Name::new("pgb-2"), Err(PollFailure::Refused))]);
    assert!(!report.ok);
    let expected = "
CLUSTER  POOLER  REACHED  VERSION  TLS  DATABASES
orders   pgb     yes      1.18.0   no           0
orders   pgb-2   no

orders/pgb-2: error: not reached: connection refused

orders/pgb: warning: 1 client waits in app/web for a server connection, the first for 9 s
  20 server connections are in use: end what holds them (long transactions, sessions idle in one), or raise default_pool_size, as far as max_connections of the server allows

something to fix: 1 error, 1 warning
";
    let told = report.table(false, None);
    assert!(told.ends_with(expected), "{told}");
}
