//! Who holds connections, transactions and locks, and what statements cost: on real servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgvigil::collect::conninfo::Conninfo;
use pgvigil::collect::tls::Trust;
use pgvigil::collect::{self, Probe};
use pgvigil::core::survey::{Sessions, SurveyFacts, Tally};
use pgvigil::core::topology::TargetId;
use pgvigil::demo::{Plan, Server, Servers};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use crate::support::daemon::{Daemon, SOON, cluster_toml};
use crate::support::{pg, until};

async fn survey(server: &Server, user: &str) -> SurveyFacts {
    let conninfo = Arc::new(Conninfo::parse(&pg::dsn(server, user)).unwrap());
    let probe = collect::probe(TargetId::new("c", "t"), conninfo, SOON, true, Arc::new(Trust::default())).await;
    let Probe { survey, .. } = probe.unwrap();
    let survey = survey.unwrap();
    assert_eq!(survey.failures, []);
    survey
}

async fn sessions(server: &Server, user: &str) -> Sessions {
    survey(server, user).await.sessions.unwrap()
}

/// A session that stays until it is dropped.
struct Open {
    client: Client,
    running: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn open(server: &Server, user: &str, application: &str, statement: &str) -> Open {
    let dsn = format!("{}?application_name={application}", pg::dsn(server, user));
    let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
    let running = tokio::spawn(connection);
    client.batch_execute(statement).await.unwrap();
    Open { client, running }
}

fn counts(tally: &Tally) -> BTreeMap<&str, u64> {
    tally.named.iter().map(|(name, count)| (name.as_str(), *count)).collect()
}

fn no_errors(servers: &Servers) {
    for node in &servers.nodes {
        assert_eq!(pg::errors_caused_by_us(node), Vec::<String>::new(), "{}", node.name);
    }
}

#[tokio::test]
async fn whoever_holds_a_transaction_or_waits_for_a_lock_is_named() {
    for installation in pg::installations() {
        let major = installation.major;
        let mut plan = Plan::new(installation);
        plan.setup.push("CREATE ROLE report LOGIN; CREATE TABLE t(n int); GRANT ALL ON t TO report".to_owned());
        let servers = Servers::start(&plan).await.unwrap();
        let primary = servers.primary();
        let holder = open(primary, "report", "nightly", "BEGIN; LOCK TABLE t").await;
        let waiter = open(primary, "postgres", "web", "SELECT 1").await;
        let waiting = tokio::spawn(async move {
            let _ = waiter.client.batch_execute("SELECT * FROM t").await;
        });
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        primary.until(waits, "1", SOON).await.unwrap();
        // It is said once a wait is a while old.
        primary.until("SELECT pg_sleep(0.2) IS NOT NULL", "t", SOON).await.unwrap();

        let seen = sessions(primary, "mon").await;
        assert_eq!((seen.hidden, seen.superuser_reserved_connections), (0, 3), "{major}: {seen:?}");
        assert_eq!(counts(&seen.by_user), BTreeMap::from([("mon", 1), ("postgres", 1), ("report", 1)]), "{major}");
        let applications = BTreeMap::from([("nightly", 1), ("pgvigil", 1), ("web", 1)]);
        assert_eq!(counts(&seen.by_application), applications, "{major}");
        assert_eq!(counts(&seen.by_client), BTreeMap::from([("127.0.0.1", 3)]), "{major}");
        assert_eq!(counts(seen.by_database.as_ref().unwrap()), BTreeMap::from([("postgres", 3)]), "{major}");
        let activity = seen.activity.unwrap();
        assert_eq!((activity.idle_in_transaction, activity.waiting_on_locks, activity.idle_long), (1, 1, 0), "{major}");
        assert_eq!(activity.longest_lock_wait.is_some_and(|age| (0.1..20.0).contains(&age)), major >= 14, "{major}");
        for held in [activity.oldest_transaction.unwrap(), activity.idle_transaction.unwrap()] {
            assert_eq!((held.user.as_str(), held.application.as_str()), ("report", "nightly"), "{major}");
            assert_eq!((held.state.as_str(), held.database.as_deref()), ("idle in transaction", Some("postgres")));
            assert!((0.1..20.0).contains(&held.seconds), "{major}: {held:?}");
        }

        // Without the grant: how many there are and whose, but nothing of what they do.
        let plain = sessions(primary, "plain").await;
        assert_eq!((plain.total, plain.hidden, plain.activity), (3, 2, None), "{major}");
        assert_eq!(counts(&plain.by_user), BTreeMap::from([("plain", 1), ("postgres", 1), ("report", 1)]), "{major}");
        assert_eq!(counts(&plain.by_client), BTreeMap::from([("127.0.0.1", 1), ("unknown", 2)]), "{major}");
        assert_eq!(plain.by_state, [("active".to_owned(), 1), ("unknown".to_owned(), 2)], "{major}");

        holder.client.batch_execute("COMMIT").await.unwrap();
        waiting.await.unwrap();
        let quiet = sessions(primary, "mon").await.activity.unwrap();
        assert_eq!(
            (quiet.waiting_on_locks, quiet.longest_lock_wait, quiet.idle_transaction),
            (0, None, None),
            "{major}"
        );
        no_errors(&servers);
    }
}

/// Sum of the series of that name whose labels include `label`.
fn sum(metrics: &str, name: &str, label: &str) -> f64 {
    let lines = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(label));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

fn n_series(metrics: &str, name: &str) -> usize {
    metrics.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count()
}

#[tokio::test]
async fn of_many_names_a_few_are_told_and_the_others_as_one() {
    let servers = pg::cluster(0).await;
    let primary = servers.primary();
    let mut held = Vec::new();
    for n in 0..60 {
        held.push(open(primary, "postgres", &format!("app{n}"), "SELECT 1").await);
    }
    held.push(open(primary, "postgres", "busiest", "SELECT 1").await);
    held.push(open(primary, "postgres", "busiest", "BEGIN").await);
    let seen = sessions(primary, "mon").await;
    assert_eq!((seen.by_application.named.len(), seen.by_application.n_others), (50, 12), "{seen:?}");
    assert_eq!(seen.by_application.named[0], ("busiest".to_owned(), 2));

    let config =
        cluster_toml("c", &[("p", pg::dsn(primary, "mon"))]) + "[poll]\nslow_interval = \"1s\"\nidle_limit = \"1s\"\n";
    let daemon = Daemon::start(&config).await;
    daemon.until_series("pgvigil_connections_idle_long", &[], SOON, |idle| idle == Some(61.0)).await;
    let metrics = daemon.metrics().await;
    let total = sum(&metrics, "pgvigil_connections", "");
    assert_eq!(total, 63.0, "{metrics}");
    for name in ["user", "application", "client", "database"] {
        assert_eq!(sum(&metrics, &format!("pgvigil_connections_by_{name}"), ""), total, "{name}");
    }
    assert_eq!(n_series(&metrics, "pgvigil_connections_by_application"), 11);
    let dropped = |value: Option<f64>| value.is_some_and(|dropped| dropped >= 52.0);
    daemon.until_series("pgvigil_dropped_series_total", &[("family", "sessions")], SOON, dropped).await;
    let shown = |metrics: &str| -> Vec<String> {
        let lines = metrics.lines().filter(|line| line.starts_with("pgvigil_connections_by_application{"));
        lines.map(|line| line.split("} ").next().unwrap().to_owned()).collect()
    };
    // All are equal, and still the same ones are told.
    let polls = daemon.series("pgvigil_dropped_series_total", &[("family", "sessions")]).await.unwrap();
    let later = |value: Option<f64>| value.is_some_and(|dropped| dropped >= polls + 104.0);
    daemon.until_series("pgvigil_dropped_series_total", &[("family", "sessions")], SOON, later).await;
    assert_eq!(shown(&daemon.metrics().await), shown(&metrics));

    let body = daemon.get("/api/v1/clusters/c").await.unwrap().json();
    let held = &body["targets"][0]["connections"]["activity"]["oldest_idle_in_transaction"];
    assert_eq!((&held["user"], &held["application"]), (&"postgres".into(), &"busiest".into()), "{body}");
    no_errors(&servers);
}

/// Executes statements of many shapes, as the superuser. `n` is which.
fn shapes(range: std::ops::Range<u32>) -> String {
    let shape = |n: u32| -> String {
        let parts: Vec<&str> = (0..12).map(|bit| if n >> bit & 1 == 1 { "1+1" } else { "1-1" }).collect();
        format!("SELECT {}", parts.join(","))
    };
    range.map(shape).collect::<Vec<_>>().join(";")
}

#[tokio::test]
async fn the_top_and_the_others_make_the_totals_while_entries_come_and_go() {
    let plan = pg::plan(0).set("pg_stat_statements.max = 100");
    let servers = Servers::start(&plan).await.unwrap();
    let primary = servers.primary();
    let config = cluster_toml("c", &[("p", pg::dsn(primary, "mon"))])
        + "[poll]\nslow_interval = \"1s\"\n[statements]\ntop = 5\nshow_text = true\n";
    let daemon = Daemon::start(&config).await;
    daemon.until_series("pgvigil_statements_resets_total", &[], SOON, |resets| resets.is_some()).await;
    let calls = "pgvigil_statements_calls_total";
    let mut last = 0.0;
    for round in 0..8 {
        primary.sql(&shapes(round * 50..round * 50 + 90)).await.unwrap();
        let before = last;
        let moved = |value: Option<f64>| value.is_some_and(|calls| calls > before);
        daemon.until_series(calls, &[("datname", "postgres")], SOON, moved).await;
        let metrics = daemon.metrics().await;
        let total = sum(&metrics, calls, "datname=\"postgres\"");
        assert_eq!(sum(&metrics, "pgvigil_statement_calls_total", "datname=\"postgres\""), total, "{metrics}");
        assert!(total > before);
        last = total;
    }
    let metrics = daemon.metrics().await;
    let databases = n_series(&metrics, calls);
    assert!(n_series(&metrics, "pgvigil_statement_calls_total") <= 5 + databases, "{metrics}");
    assert!(sum(&metrics, "pgvigil_statements_evictions_total", "") > 0.0);
    no_errors(&servers);
}

#[tokio::test]
async fn no_secret_is_in_a_text_that_is_shown() {
    let servers = pg::cluster(0).await;
    let primary = servers.primary();
    let start = async |show_text: bool| {
        let config = cluster_toml("c", &[("p", pg::dsn(primary, "mon"))])
            + &format!("[poll]\nslow_interval = \"1s\"\n[statements]\ntop = 50\nshow_text = {show_text}\n");
        Daemon::start_with(&config, |command| {
            command.env("RUST_LOG", "debug");
        })
        .await
    };
    let (showing, silent) = (start(true).await, start(false).await);
    for daemon in [&showing, &silent] {
        daemon.until_series("pgvigil_statements_resets_total", &[], SOON, |resets| resets.is_some()).await;
    }
    primary.sql("CREATE ROLE secretive PASSWORD 'S3CRET'; ALTER ROLE secretive PASSWORD $$S3CRET$$").await.unwrap();
    primary.sql("SET my.token = 'S3CRET'; SELECT 'S3CRET' AS shown_once, pg_sleep(0.05)").await.unwrap();
    let texts = async |daemon: &Daemon| -> Vec<String> {
        let body = daemon.get("/api/v1/clusters/c").await.unwrap().json();
        let top = body["targets"][0]["statements"]["top"].as_array().cloned().unwrap_or_default();
        top.iter().filter_map(|statement| statement["text"].as_str().map(str::to_owned)).collect()
    };
    until("the texts", SOON, || async {
        let texts = texts(&showing).await;
        let is_there = texts.iter().any(|text| text.contains("shown_once"));
        if is_there { Ok(()) } else { Err(format!("{texts:?}")) }
    })
    .await;
    assert_eq!(texts(&silent).await, Vec::<String>::new());
    for daemon in [&showing, &silent] {
        for path in ["/api/v1/clusters/c", "/metrics", "/", "/healthz", "/api/v1/alerts"] {
            let body = daemon.get(path).await.unwrap().body;
            assert!(!body.contains("S3CRET"), "{path}: {body}");
            assert!(path.starts_with("/api/v1/cl") || !body.contains("shown_once"), "{path}: {body}");
        }
        assert!(!daemon.log().contains("S3CRET") && !daemon.log().contains("shown_once"), "{}", daemon.log());
    }
    no_errors(&servers);
}

#[tokio::test]
async fn of_many_entries_those_that_have_not_moved_are_not_told_again() {
    for installation in pg::installations().into_iter().filter(pgvigil::demo::Installation::has_pg_stat_statements) {
        let major = installation.major;
        let plan = Plan::new(installation).set("pg_stat_statements.max = 1000");
        let servers = Servers::start(&plan).await.unwrap();
        let primary = servers.primary();
        primary.sql_in("app", &shapes(0..900)).await.unwrap();
        let config = cluster_toml("c", &[("p", pg::dsn(primary, "mon"))]) + "[poll]\nslow_interval = \"1s\"\n";
        let daemon = Daemon::start(&config).await;
        let (app, calls) = ([("datname", "app")], "pgvigil_statements_calls_total");
        daemon.until_series(calls, &app, SOON, |calls| calls == Some(0.0)).await;
        // How often it was asked for those that have moved, and how many rows that were, after so many times more.
        let answers = async |more: i64| -> (i64, i64) {
            let sums = "SELECT coalesce(sum(calls), 0)::int8, coalesce(sum(rows), 0)::int8 FROM pg_stat_statements \
                        WHERE query LIKE '%get_bit%' AND userid = 'mon'::regrole";
            let column = async |name: &str| -> i64 {
                let value = primary.value(&format!("SELECT {name} FROM ({sums}) sums(n, n_rows)")).await.unwrap();
                value.unwrap().parse().unwrap()
            };
            let enough = format!("SELECT n >= {} FROM ({sums}) sums(n, n_rows)", column("n").await + more);
            primary.until(&enough, "t", SOON).await.unwrap();
            (column("n").await, column("n_rows").await)
        };
        answers(3).await;
        primary.sql_in("app", &shapes(100..120)).await.unwrap();
        daemon.until_series(calls, &app, SOON, |calls| calls == Some(20.0)).await;
        // An eighth of them is told in any case.
        let (n, n_rows) = answers(0).await;
        assert!(n_rows < n * 220, "{major}: {n_rows} rows in {n} answers");
        // After a reset all are told, and what they had is not counted twice.
        primary.sql("SELECT pg_stat_statements_reset()").await.unwrap();
        primary.sql_in("app", &shapes(100..105)).await.unwrap();
        daemon.until_series(calls, &app, SOON, |calls| calls == Some(25.0)).await;
        // Nor are they told again when some were evicted. (13 does not say that all were reset, so these are others.)
        primary.sql_in("app", &shapes(1100..1950)).await.unwrap();
        daemon.until_series(calls, &app, SOON, |calls| calls == Some(875.0)).await;
        let (n, n_rows) = answers(3).await;
        primary.sql_in("app", &shapes(1950..2150)).await.unwrap();
        let (n, n_rows) = {
            let after = answers(3).await;
            (after.0 - n, after.1 - n_rows)
        };
        assert!(n_rows < n * 150 + 400, "{major}: {n_rows} rows in {n} answers");
        no_errors(&servers);
    }
}

/// A name made in a database without an encoding need not be UTF-8: what else there is is told all the same.
#[tokio::test]
async fn a_name_that_is_not_utf8_hides_nothing_else() {
    let servers = pg::cluster(0).await;
    let primary = servers.primary();
    primary.sql("CREATE DATABASE odd").await.unwrap();
    primary
        .sql("CREATE DATABASE bytes ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
        .await
        .unwrap();
    let dsn = format!("host=127.0.0.1 port={} user=postgres password=postgres dbname=bytes", primary.port);
    let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
    let running = tokio::spawn(connection);
    let rename = "DO $$ BEGIN EXECUTE 'ALTER DATABASE odd RENAME TO \"odd' || chr(255) || '\"'; END $$";
    client.batch_execute(rename).await.unwrap();
    drop(client);
    running.await.unwrap().unwrap();

    let facts = survey(primary, "mon").await;
    assert!(facts.sessions.is_some() && facts.slots.is_some(), "{facts:?}");
    let config =
        "[poll]\nslow_interval = \"1s\"\n\n".to_owned() + &cluster_toml("c", &[("primary", pg::dsn(primary, "mon"))]);
    let daemon = Daemon::start(&config).await;
    daemon.until_series("pgvigil_connections_max", &[], SOON, |max| max.is_some()).await;
    let metrics = daemon.metrics().await;
    assert!(!metrics.contains("pgvigil_survey_failure{"), "{metrics}");
    no_errors(&servers);
}
