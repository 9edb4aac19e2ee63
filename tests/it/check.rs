//! `pgvigil check` on real servers that are set up badly.

use pgvigil::demo::Servers;
use serde_json::Value;

use crate::support::daemon::{SOON, cluster_toml, pgvigil};
use crate::support::pgbouncer::PgBouncer;
use crate::support::tls::Certificates;
use crate::support::{pg, until};

/// The report on `config`, as a program and as a person in a pipe gets it, and the exit status.
pub(crate) fn check(config: &str) -> (Value, String, Option<i32>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pgvigil.toml");
    std::fs::write(&file, config).unwrap();
    let run = |arguments: &[&str]| pgvigil().args(arguments).arg("--config").arg(&file).output().unwrap();
    let (json, text) = (run(&["check", "--json"]), run(&["check"]));
    let report = serde_json::from_slice(&json.stdout).unwrap();
    (report, String::from_utf8(text.stdout).unwrap(), text.status.code())
}

/// What was found on the target at this place, in words, without the connection's own matters.
fn found(report: &Value, place: usize) -> Vec<String> {
    let findings = report["clusters"][0]["targets"][place]["findings"].as_array().unwrap();
    let told = |finding: &Value| {
        assert!(!finding["why"].as_str().unwrap().is_empty(), "{finding}");
        format!("{}: {}", finding["severity"].as_str().unwrap(), finding["problem"].as_str().unwrap())
    };
    findings.iter().map(told).collect()
}

#[tokio::test]
async fn what_is_set_up_badly_is_found_and_told_with_its_cure() {
    let certificates = Certificates::valid_for(10);
    let mut plan = certificates
        .serve(pg::plan(1))
        .set("archive_mode = on")
        .set("archive_command = 'false'")
        .set("max_standby_streaming_delay = -1")
        .set("wal_receiver_status_interval = 0")
        .set("pg_stat_statements.track = none")
        .set("track_activities = off")
        .set("wal_keep_size = '16MB'");
    plan.setup.push("ALTER ROLE mon VALID UNTIL 'tomorrow'".to_owned());
    plan.setup.push("SELECT pg_create_physical_replication_slot('left_behind', true)".to_owned());
    plan.setup.push("DROP EXTENSION pg_stat_statements; CREATE EXTENSION pg_stat_statements VERSION '1.9'".to_owned());
    let servers = Servers::start(&plan).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let newest = primary.value("SELECT default_version FROM pg_available_extensions WHERE name = 'pg_stat_statements'");
    let newest = newest.await.unwrap().unwrap();
    pg::write(primary).await;
    primary.sql("SELECT pg_switch_wal()").await.unwrap();
    primary.until("SELECT failed_count > 0 FROM pg_stat_archiver", "t", SOON).await.unwrap();

    let config = cluster_toml("orders", &[("db-1", pg::dsn(primary, "mon")), ("db-2", pg::dsn(r1, "mon"))]);
    let (report, text, status) = check(&config);
    let mut on_primary = found(&report, 0);
    assert!(on_primary[0].starts_with("error: archiving WAL fails: it has failed "), "{on_primary:?}");
    // Which of the two it is depends on the time of day.
    let expiry =
        on_primary.iter().position(|told| told.starts_with("warning: the password of role \"mon\" expires in "));
    on_primary.remove(expiry.unwrap());
    on_primary.remove(0);
    assert_eq!(
        on_primary,
        [
            "warning: pg_stat_statements.track is none".to_owned(),
            format!("warning: extension pg_stat_statements is 1.9, and the server has {newest}"),
            "warning: the server's certificate expires in 9 days".to_owned(),
            "warning: track_activities is off".to_owned(),
            "warning: 1 replication slot is used by nobody now: left_behind".to_owned(),
            "warning: max_slot_wal_keep_size is unlimited, and there are replication slots".to_owned(),
            "info: track_io_timing is off".to_owned(),
        ]
    );
    let on_standby = found(&report, 1);
    for expect in [
        "warning: max_standby_streaming_delay is -1: replay waits for queries for ever",
        "warning: wal_receiver_status_interval is 0",
    ] {
        assert!(on_standby.contains(&expect.to_owned()), "{on_standby:?}");
    }
    assert!(!on_standby.iter().any(|told| told.contains("replication slot")), "{on_standby:?}");

    assert_eq!(status, Some(1));
    assert!(!text.contains('\x1b'), "{text}");
    for line in [
        "    ALTER EXTENSION pg_stat_statements UPDATE;\n  which is also for db-2\n",
        "    ALTER SYSTEM SET pg_stat_statements.track = 'top';\n    SELECT pg_reload_conf();\n",
        "    ALTER SYSTEM SET max_slot_wal_keep_size = '50GB';\n    SELECT pg_reload_conf();\n",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }

    // What is told helps.
    let statements = report["clusters"][0]["targets"][0]["findings"].as_array().unwrap();
    for statement in statements.iter().flat_map(|finding| finding["sql"].as_array().unwrap()) {
        primary.sql(statement.as_str().unwrap()).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    until("the cures to have helped", SOON, || async {
        let (report, _, _) = check(&config);
        let left: Vec<String> = found(&report, 0)
            .into_iter()
            .filter(|told| ["certificate", "archiving", "used by nobody"].iter().all(|other| !told.contains(other)))
            .collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    for server in [primary, r1] {
        assert_eq!(pg::errors_caused_by_us(server), Vec::<String>::new());
    }
}

#[tokio::test]
async fn without_any_grant_it_is_said_what_cannot_be_seen_and_the_rest_is_found() {
    let servers = Servers::start(&pg::plan(1).set("max_standby_streaming_delay = -1")).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    r1.sql("ALTER SYSTEM SET primary_slot_name = ''").await.unwrap();
    r1.reload().await.unwrap();
    let without_slot = "SELECT count(*) FROM pg_stat_wal_receiver WHERE slot_name IS NULL AND status = 'streaming'";
    r1.until(without_slot, "1", SOON).await.unwrap();
    primary.sql("ALTER ROLE plain CONNECTION LIMIT 1").await.unwrap();
    let dsns = |user: &str| [("db-1", pg::dsn(primary, user)), ("db-2", pg::dsn(r1, user))];
    let (report, text, status) = check(&cluster_toml("orders", &dsns("plain")));
    assert_eq!(status, Some(1));
    let on_primary = found(&report, 0);
    assert!(on_primary.contains(&"warning: role \"plain\" does not have pg_monitor".to_owned()), "{on_primary:?}");
    assert!(on_primary.contains(&"warning: role \"plain\" may have 1 session at a time".to_owned()), "{on_primary:?}");
    let why = report["clusters"][0]["targets"][1]["findings"][0]["why"].as_str().unwrap();
    assert!(why.starts_with("not measured: the WAL receiver's state, upstream, slot and last message"), "{why}");
    assert!(!text.contains("streams without"), "{text}");

    let (report, ..) = check(&cluster_toml("orders", &dsns("mon")));
    let on_standby = found(&report, 1);
    let expect = "info: it streams without a replication slot, and wal_keep_size is 64 MB on the primary";
    assert!(on_standby.contains(&expect.to_owned()), "{on_standby:?}");
    let superuser = found(&check(&cluster_toml("orders", &dsns("postgres"))).0, 0);
    assert!(superuser.contains(&"warning: role \"postgres\" is a superuser".to_owned()), "{superuser:?}");
    for server in [primary, r1] {
        assert_eq!(pg::errors_caused_by_us(server), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_pooler_in_between_is_warned_of() {
    let servers = pg::cluster(0).await;
    let Some(pooler) = PgBouncer::start(servers.primary().port).await else { return };
    let (report, text, status) = check(&cluster_toml("orders", &[("db-1", pg::dsn_at(pooler.port, "mon"))]));
    assert_eq!(found(&report, 0)[0], "warning: a connection pooler is in between");
    assert!(text.contains("PostgreSQL, pooler"), "{text}");
    assert_eq!(status, Some(1));
    assert_eq!(pg::errors_caused_by_us(servers.primary()), Vec::<String>::new());
}
