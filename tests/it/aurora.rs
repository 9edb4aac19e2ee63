//! Aurora, as far as it can be had without it: a real server with its functions, in which what it refuses is refused in
//! its own words. Three databases stand for its three instances.

use std::time::Duration;

use pgvigil::demo::{Plan, Server, Servers};
use serde_json::Value;

use crate::support::daemon::{Daemon, SOON, cluster_toml, pgvigil, series};
use crate::support::{pg, until};

const INSTANCES: [&str; 3] = ["a", "b", "c"];

/// What every instance has: its name and role, its table of all of them, and the functions that tell them.
const FUNCTIONS: &str = "
CREATE TABLE me AS SELECT current_database()::text AS id, false AS is_writer;
CREATE TABLE status(server_id text, session_id text, durable_lsn bigint, highest_lsn_rcvd bigint, current_read_lsn bigint,
    replica_lag_in_msec double precision, last_update_timestamp timestamptz);
GRANT SELECT ON me, status TO public;
ALTER FUNCTION pg_catalog.pg_is_in_recovery() RENAME TO builtin_pg_is_in_recovery;
CREATE FUNCTION pg_catalog.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT NOT is_writer FROM public.me';
CREATE FUNCTION pg_catalog.aurora_version() RETURNS text LANGUAGE sql AS $$SELECT '15.4.0'$$;
CREATE FUNCTION pg_catalog.aurora_db_instance_identifier() RETURNS text LANGUAGE sql AS 'SELECT id FROM public.me';
CREATE FUNCTION pg_catalog.aurora_replica_status(OUT server_id text, OUT session_id text, OUT durable_lsn bigint,
    OUT highest_lsn_rcvd bigint, OUT current_read_lsn bigint, OUT replica_lag_in_msec double precision,
    OUT last_update_timestamp timestamptz) RETURNS SETOF record LANGUAGE sql AS 'SELECT * FROM public.status';
CREATE FUNCTION pg_catalog.aurora_global_db_status(OUT aws_region text, OUT highest_lsn_written bigint,
    OUT durability_lag_in_msec bigint, OUT rpo_lag_in_msec bigint, OUT last_lag_calculation_time timestamptz)
    RETURNS SETOF record LANGUAGE sql AS $$
    VALUES ('eu-west-1', 1000, -1, -1, '1970-01-01 00:00:00+00'::timestamptz), ('us-east-1', 900, 83, 0, now()) $$;
CREATE FUNCTION pg_catalog.aurora_global_db_instance_status(OUT server_id text, OUT session_id text, OUT aws_region text,
    OUT visibility_lag_in_msec bigint) RETURNS SETOF record LANGUAGE sql AS $$
    VALUES ('a', 'MASTER_SESSION_ID', 'eu-west-1', NULL::bigint), ('x', 'uuid', 'us-east-1', 1500) $$;
";

/// A built-in cannot be replaced, for the server calls it by its number; but another can have its name.
const REFUSALS: &str = "
DO $do$ DECLARE f record; BEGIN
FOR f IN SELECT proname, pg_get_function_identity_arguments(p.oid) AS identity, pg_get_function_arguments(p.oid) AS arguments,
        pg_get_function_result(p.oid) AS result,
        CASE WHEN proname LIKE 'pg_current_wal%' OR proname = 'pg_control_checkpoint' THEN '55000' ELSE '0A000' END AS state
    FROM pg_proc p WHERE pronamespace = 'pg_catalog'::regnamespace AND proname IN (
        'pg_last_wal_receive_lsn', 'pg_last_wal_replay_lsn', 'pg_last_xact_replay_timestamp', 'pg_ls_waldir',
        'pg_stat_get_wal_receiver', 'pg_stat_get_wal', 'pg_current_wal_lsn', 'pg_current_wal_flush_lsn',
        'pg_current_wal_insert_lsn', 'pg_walfile_name', 'pg_control_checkpoint', 'pg_control_system',
        'pg_get_wal_replay_pause_state', 'pg_is_wal_replay_paused')
LOOP
    EXECUTE format('ALTER FUNCTION pg_catalog.%I(%s) RENAME TO %I', f.proname, f.identity, 'builtin_' || f.proname);
    EXECUTE format('CREATE FUNCTION pg_catalog.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', f.proname, f.arguments, f.result,
        format('BEGIN RAISE EXCEPTION ''Function %s() is currently not supported for Aurora'' USING ERRCODE = ''%s''; END',
            f.proname, f.state));
END LOOP;
END $do$;
";

/// A reader as the others see it: name, lag, age of what is known.
type Reader<'a> = (&'a str, f64, &'a str);

async fn cluster() -> Servers {
    let servers = Servers::start(&Plan::new(pg::installation())).await.unwrap();
    let server = servers.primary();
    for instance in INSTANCES {
        server.sql(&format!("CREATE DATABASE {instance}")).await.unwrap();
        server.sql_in(instance, FUNCTIONS).await.unwrap();
        server.sql_in(instance, REFUSALS).await.unwrap();
        let refused = server.sql_in(instance, "SELECT pg_last_xact_replay_timestamp()").await;
        assert!(format!("{refused:?}").contains("0A000"), "{refused:?}");
    }
    servers
}

/// What all instances know from now on. An instance knows no lag of its own unless told so.
async fn become_known(server: &Server, writer: &str, readers: [Reader<'_>; 2], has_own: bool) {
    for instance in INSTANCES {
        let mut sql = format!(
            "BEGIN; UPDATE me SET is_writer = id = '{writer}'; DELETE FROM status; \
             INSERT INTO status VALUES ('{writer}', 'MASTER_SESSION_ID', 5000, NULL, NULL, NULL, now());"
        );
        for (reader, lag, age) in readers {
            let is_own = reader == instance;
            let lag = if is_own && !has_own { "NULL".to_owned() } else { lag.to_string() };
            let at = if is_own { "NULL".to_owned() } else { format!("now() - interval '{age}'") };
            sql.push_str(&format!("INSERT INTO status VALUES ('{reader}', 'uuid', 5000, 4900, 4800, {lag}, {at});"));
        }
        server.sql_in(instance, &(sql + "COMMIT")).await.unwrap();
    }
}

fn config(server: &Server, user: &str) -> String {
    let targets = INSTANCES.map(|name| (name, format!("postgresql://{user}:{user}@127.0.0.1:{}/{name}", server.port)));
    format!("[poll]\nslow_interval = \"1s\"\n\n{}", cluster_toml("orders", &targets))
}

async fn until_lag(daemon: &Daemon, target: &str, accept: impl Fn(Option<f64>) -> bool) {
    daemon.until_series("pgvigil_replay_lag_seconds", &[("target", target)], SOON, accept).await;
}

async fn writer(daemon: &Daemon) -> Value {
    daemon.get("/api/v1/clusters/orders").await.unwrap().json()["primary"].clone()
}

#[tokio::test]
async fn readers_are_measured_by_what_any_instance_says_and_a_failover_is_followed() {
    for user in ["mon", "plain"] {
        let servers = cluster().await;
        let server = servers.primary();
        become_known(server, "a", [("b", 20.0, "0"), ("c", 30.0, "0")], true).await;
        let daemon = Daemon::start(&config(server, user)).await;
        until_lag(&daemon, "b", |lag| lag == Some(0.02)).await;
        until_lag(&daemon, "c", |lag| lag == Some(0.03)).await;
        assert_eq!(writer(&daemon).await, "a");
        let metrics = daemon.metrics().await;
        assert_eq!(series(&metrics, "pgvigil_replay_lag_seconds", &[("target", "a")]), None);
        let exact = [("target", "b"), ("certainty", "exact"), ("method", "aurora")];
        assert_eq!(series(&metrics, "pgvigil_replay_lag_info", &exact), Some(1.0), "{metrics}");
        assert_eq!(series(&metrics, "pgvigil_replay_lag_bytes", &[("target", "b")]), Some(200.0));
        assert_eq!(series(&metrics, "pgvigil_receive_lag_bytes", &[("target", "b")]), Some(100.0));
        let info = [("target", "a"), ("role", "primary"), ("flavor", "aurora")];
        assert_eq!(series(&metrics, "pgvigil_target_info", &info), Some(1.0));
        assert_eq!(series(&metrics, "pgvigil_receiver_running", &[("target", "b")]), None);
        for (target, query) in [("a", "?role=primary"), ("b", "?role=replica&max_lag=1s&max_lag_bytes=1kB")] {
            let (status, body) = daemon.health("orders", target, query).await;
            assert_eq!(status, 200, "{target}: {body}");
        }
        assert_eq!(daemon.get("/healthz").await.unwrap().status, 200);

        // The slow facts are there, and the other regions' lag.
        let durability = "pgvigil_aurora_global_durability_lag_seconds";
        daemon.until_series(durability, &[("region", "us-east-1")], SOON, |lag| lag == Some(0.083)).await;
        daemon.until_series("pgvigil_connections_max", &[("target", "b")], SOON, |max| max.is_some()).await;
        let metrics = daemon.metrics().await;
        assert_eq!(series(&metrics, durability, &[("region", "eu-west-1")]), None, "-1 is no lag");
        assert_eq!(series(&metrics, "pgvigil_aurora_global_rpo_lag_seconds", &[]), Some(0.0));
        let seen = [("region", "us-east-1"), ("instance", "x")];
        assert_eq!(series(&metrics, "pgvigil_aurora_global_visibility_lag_seconds", &seen), Some(1.5));
        assert!(!metrics.contains("pgvigil_survey_failure{"), "{metrics}");

        // Of a reader that does not know itself, its peers do.
        become_known(server, "a", [("b", 7_000.0, "0.1 s"), ("c", 30.0, "0")], false).await;
        until_lag(&daemon, "b", |lag| lag == Some(7.0)).await;
        let (status, body) = daemon.health("orders", "b", "?max_lag=5s").await;
        assert_eq!((status, body["lag_seconds"].as_f64()), (503, Some(7.0)), "{body}");
        let pending = [("rule", "ReplicaLagging"), ("target", "b")];
        daemon.until_series("pgvigil_alert", &pending, SOON, |alert| alert == Some(1.0)).await;

        // What is known of it is old: it may lag by that much by now.
        become_known(server, "a", [("b", 20.0, "60 s"), ("c", 30.0, "0")], false).await;
        let floor = [("target", "b"), ("certainty", "at_least"), ("method", "aurora")];
        let is_old = |upper: Option<f64>| upper.is_some_and(|upper| (60.0..90.0).contains(&upper));
        daemon.until_series("pgvigil_replay_lag_upper_seconds", &[("target", "b")], SOON, is_old).await;
        assert_eq!(daemon.series("pgvigil_replay_lag_info", &floor).await, Some(1.0));
        let (status, body) = daemon.health("orders", "b", "?max_lag=5s").await;
        assert_eq!((status, body["lag_certainty"].as_str()), (503, Some("at_least")), "{body}");

        become_known(server, "b", [("a", 40.0, "0"), ("c", 50.0, "0")], true).await;
        until("the new writer is known", SOON, || async {
            let writer = writer(&daemon).await;
            if writer == "b" { Ok(()) } else { Err(writer.to_string()) }
        })
        .await;
        until_lag(&daemon, "a", |lag| lag == Some(0.04)).await;
        until_lag(&daemon, "b", |lag| lag.is_none()).await;
        until_lag(&daemon, "c", |lag| lag == Some(0.05)).await;
        assert_eq!(pg::errors_caused_by_us(server), Vec::<String>::new(), "{user}");
    }
}

#[tokio::test]
async fn check_and_poll_work_on_aurora() {
    let servers = cluster().await;
    let server = servers.primary();
    become_known(server, "a", [("b", 20.0, "0"), ("c", 30.0, "0")], true).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pgvigil.toml");
    std::fs::write(&file, config(server, "mon")).unwrap();
    let run = |subcommand: &'static str| {
        let mut command = pgvigil();
        command.arg(subcommand).arg("--config").arg(&file).arg("--json");
        async move {
            let output = tokio::time::timeout(Duration::from_secs(60), tokio::process::Command::from(command).output());
            let output = output.await.unwrap().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            serde_json::from_str::<Value>(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
        }
    };
    let polled = run("poll").await;
    let targets = &polled["clusters"][0]["targets"];
    assert_eq!(polled["clusters"][0]["primary"], "a", "{polled}");
    for (place, role, lag) in [(0, "primary", None), (1, "replica", Some(0.02)), (2, "replica", Some(0.03))] {
        let target = &targets[place];
        assert_eq!((target["up"].as_bool(), target["role"].as_str()), (Some(true), Some(role)), "{target}");
        assert_eq!((target["flavor"].as_str(), target["lag_seconds"].as_f64()), (Some("aurora"), lag), "{target}");
    }
    let checked = run("check").await;
    for target in checked["clusters"][0]["targets"].as_array().unwrap() {
        assert_eq!(target["flavor"], "aurora", "{target}");
        let problems: Vec<&str> =
            target["findings"].as_array().unwrap().iter().filter_map(|finding| finding["problem"].as_str()).collect();
        assert!(problems.iter().any(|problem| problem.contains("pg_stat_statements")), "{problems:?}");
    }
    let mut errors = pg::errors_caused_by_us(server);
    // Poll ends when it knows enough, whatever it has just asked.
    errors.retain(|line| !line.contains("connection to client lost"));
    assert_eq!(errors, Vec::<String>::new());
}
