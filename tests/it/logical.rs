//! Logical replication between real servers: two clusters of one fleet, a publisher and a subscriber.

use std::sync::Arc;
use std::time::Duration;

use pgvigil::collect::conninfo::Conninfo;
use pgvigil::collect::tls::Trust;
use pgvigil::collect::{self};
use pgvigil::core::survey::Subscription;
use pgvigil::core::topology::TargetId;
use pgvigil::demo::{Installation, Plan, Server, Servers};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::daemon::{Daemon, SOON, cluster_toml, series};
use crate::support::{pg, until};

const ORDERS: [(&str, &str); 3] = [("cluster", "sub"), ("datname", "postgres"), ("subscription", "orders")];
const TABLES: &str = "CREATE TABLE orders(id int PRIMARY KEY); CREATE TABLE private(n int)";

/// A publisher of `orders`, and a subscriber with the same table and no subscription yet.
async fn pair(installation: &Installation) -> (Servers, Servers) {
    let plan = Plan { setup: vec![TABLES.to_owned()], ..Plan::new(installation.clone()) };
    let (publishers, subscribers) = tokio::try_join!(Servers::start(&plan), Servers::start(&plan)).unwrap();
    publishers.primary().sql("CREATE PUBLICATION orders FOR TABLE orders").await.unwrap();
    (publishers, subscribers)
}

async fn subscribe(publisher: &Server, subscriber: &Server) {
    let sql = format!(
        "CREATE SUBSCRIPTION orders CONNECTION 'host=127.0.0.1 port={} user=postgres dbname=postgres' PUBLICATION orders",
        publisher.port
    );
    subscriber.sql(&sql).await.unwrap();
}

/// Both as clusters `pub` and `sub` of one fleet, watched with a grant or without any.
async fn watch(publisher: &Server, subscriber: &Server, user: &str) -> Daemon {
    let clusters = [("pub", publisher), ("sub", subscriber)];
    let clusters = clusters.map(|(name, server)| cluster_toml(name, &[("db", pg::dsn(server, user))]));
    Daemon::start(&format!("[poll]\nslow_interval = \"1s\"\n\n{}", clusters.join("\n"))).await
}

/// Holds a lock on the subscriber's table that lets nobody write, until it is [released](release).
async fn lock(subscriber: &Server) -> JoinHandle<()> {
    let port = subscriber.port;
    let holding = tokio::spawn(async move {
        let (client, connection) = tokio_postgres::Config::new()
            .host("127.0.0.1")
            .port(port)
            .user("postgres")
            .dbname("postgres")
            .application_name("locker")
            .connect(tokio_postgres::NoTls)
            .await
            .unwrap();
        let held = async {
            client.simple_query("BEGIN; LOCK TABLE orders IN EXCLUSIVE MODE").await.unwrap();
            client.simple_query("SELECT pg_sleep(60)").await.unwrap_err();
        };
        tokio::select! { () = held => (), _ = connection => () }
    });
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'locker' AND wait_event = 'PgSleep'";
    subscriber.until(sleeps, "1", SOON).await.unwrap();
    holding
}

async fn release(subscriber: &Server, held: JoinHandle<()>) {
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'locker'";
    subscriber.sql(end).await.unwrap();
    held.await.unwrap();
}

async fn until_caught_up(daemon: &Daemon) {
    daemon.until_series("pgvigil_subscription_lag_seconds", &ORDERS, SOON, |lag| lag == Some(0.0)).await;
    daemon.until_series("pgvigil_subscription_lag_bytes", &ORDERS, SOON, |bytes| bytes == Some(0.0)).await;
}

/// The subscription as the API tells it.
async fn told(daemon: &Daemon) -> Value {
    let body = daemon.get("/api/v1/clusters/sub").await.unwrap().json();
    body["targets"][0]["subscriptions"][0].clone()
}

async fn insert(server: &Server, ids: &str) {
    server.sql(&format!("INSERT INTO orders SELECT generate_series({ids})")).await.unwrap();
}

async fn surveyed(server: &Server, user: &str) -> Vec<Subscription> {
    let conninfo = Arc::new(Conninfo::parse(&pg::dsn(server, user)).unwrap());
    let trust = Arc::new(Trust::default());
    let probe = collect::probe(TargetId::new("c", "t"), conninfo, Duration::from_secs(10), true, trust).await.unwrap();
    let facts = probe.survey.unwrap();
    assert_eq!(facts.failures, []);
    facts.subscriptions.unwrap()
}

#[tokio::test]
async fn a_blocked_subscriber_lags_and_catches_up() {
    for (user, installation) in [("mon", pg::installation()), ("plain", pg::installation())] {
        let (publishers, subscribers) = pair(&installation).await;
        let (publisher, subscriber) = (publishers.primary(), subscribers.primary());
        insert(publisher, "1, 10").await;
        subscribe(publisher, subscriber).await;
        let daemon = watch(publisher, subscriber, user).await;
        let ready = [ORDERS.as_slice(), &[("state", "ready")]].concat();
        daemon.until_series("pgvigil_subscription_tables", &ready, SOON, |tables| tables == Some(1.0)).await;
        daemon.until_series("pgvigil_subscription_running", &ORDERS, SOON, |running| running == Some(1.0)).await;
        until_caught_up(&daemon).await;

        // What is not published moves the WAL, and is no lag.
        for _ in 0..4 {
            publisher.sql("INSERT INTO private SELECT generate_series(1, 10000)").await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            let lag = daemon.series("pgvigil_subscription_lag_seconds", &ORDERS).await;
            assert!(lag.is_some_and(|lag| lag < 3.0), "{user}: {lag:?}");
        }
        until_caught_up(&daemon).await;

        let held = lock(subscriber).await;
        let start = pgvigil::clock::now();
        insert(publisher, "11, 1000").await;
        daemon.until_series("pgvigil_subscription_lag_seconds", &ORDERS, SOON, |lag| lag > Some(3.0)).await;
        let told_lag = told(&daemon).await["lag"].clone();
        let most = pgvigil::clock::now().duration_since(start).as_secs_f64() + 1.1;
        assert_eq!(told_lag["publisher"]["cluster"], "pub", "{user}: {told_lag}");
        let part = |name: &str| told_lag[name].as_f64().unwrap_or_else(|| panic!("{user}: no {name}: {told_lag}"));
        assert!(part("lower_seconds") <= part("seconds") && part("seconds") <= part("upper_seconds"), "{told_lag}");
        assert!(part("seconds") < most, "{user}: {most}, {told_lag}");
        assert!(part("unconfirmed_bytes") > 10_000.0, "{user}: {told_lag}");
        release(subscriber, held).await;
        subscriber.until("SELECT count(*) FROM orders", "1000", SOON).await.unwrap();
        until_caught_up(&daemon).await;
        for server in [publisher, subscriber] {
            assert_eq!(pg::errors_caused_by_us(server), Vec::<String>::new(), "{user}");
        }
    }
}

#[tokio::test]
async fn a_failing_subscription_counts_its_errors_and_a_disabled_one_is_not_running() {
    let (publishers, subscribers) = pair(&pg::installation()).await;
    let (publisher, subscriber) = (publishers.primary(), subscribers.primary());
    subscribe(publisher, subscriber).await;
    let daemon = watch(publisher, subscriber, "mon").await;
    until_caught_up(&daemon).await;
    let apply = [ORDERS.as_slice(), &[("type", "apply")]].concat();
    daemon.until_series("pgvigil_subscription_errors_total", &apply, SOON, |errors| errors == Some(0.0)).await;

    insert(subscriber, "7, 7").await;
    insert(publisher, "7, 7").await;
    daemon.until_series("pgvigil_subscription_errors_total", &apply, SOON, |errors| errors >= Some(1.0)).await;
    daemon.until_series("pgvigil_subscription_running", &ORDERS, SOON, |running| running == Some(0.0)).await;
    // Nothing reads from the slot between two attempts: its position stands, and that is seen to age.
    daemon.until_series("pgvigil_subscription_lag_seconds", &ORDERS, SOON, |lag| lag > Some(4.0)).await;
    subscriber.sql("DELETE FROM orders WHERE id = 7").await.unwrap();
    until_caught_up(&daemon).await;

    subscriber.sql("ALTER SUBSCRIPTION orders DISABLE").await.unwrap();
    daemon.until_series("pgvigil_subscription_enabled", &ORDERS, SOON, |enabled| enabled == Some(0.0)).await;
    daemon.until_series("pgvigil_subscription_workers", &apply, SOON, |workers| workers == Some(0.0)).await;
    let metrics = daemon.metrics().await;
    assert_eq!(series(&metrics, "pgvigil_subscription_running", &ORDERS), None, "nobody wants it to run");
    assert_eq!(series(&metrics, "pgvigil_subscription_message_age_seconds", &ORDERS), None);
    insert(publisher, "8, 8").await;
    daemon.until_series("pgvigil_subscription_lag_seconds", &ORDERS, SOON, |lag| lag > Some(2.0)).await;

    // Enabled again, but its publisher is not to be reached.
    subscriber
        .sql("ALTER SUBSCRIPTION orders CONNECTION 'host=127.0.0.1 port=1 dbname=postgres'; ALTER SUBSCRIPTION orders ENABLE")
        .await
        .unwrap();
    daemon.until_series("pgvigil_subscription_running", &ORDERS, SOON, |running| running == Some(0.0)).await;
    let alert = [("rule", "SubscriptionNotRunning"), ("state", "pending"), ("subscription", "orders")];
    daemon.until_series("pgvigil_alert", &alert, SOON, |alert| alert == Some(1.0)).await;

    subscriber.sql("ALTER SUBSCRIPTION orders DISABLE").await.unwrap();
    subscriber.sql("ALTER SUBSCRIPTION orders SET (slot_name = NONE)").await.unwrap();
    daemon.until_series("pgvigil_subscription_lag_seconds", &ORDERS, SOON, |lag| lag.is_none()).await;
    subscriber.sql("DROP SUBSCRIPTION orders").await.unwrap();
    daemon.until_series("pgvigil_subscription_enabled", &ORDERS, SOON, |enabled| enabled.is_none()).await;
    daemon.until_series("pgvigil_alert", &alert, SOON, |alert| alert.is_none()).await;
}

#[tokio::test]
async fn every_major_tells_copies_workers_and_counts_with_and_without_a_grant() {
    for installation in pg::installations() {
        let major = installation.major;
        let (publishers, subscribers) = pair(&installation).await;
        let (publisher, subscriber) = (publishers.primary(), subscribers.primary());
        insert(publisher, "1, 10").await;
        let held = lock(subscriber).await;
        subscribe(publisher, subscriber).await;
        subscriber
            .sql_in("app", "CREATE SUBSCRIPTION elsewhere CONNECTION 'dbname=x' PUBLICATION x WITH (connect = false)")
            .await
            .unwrap();
        for user in ["mon", "plain"] {
            let what = format!("PostgreSQL {major}, {user}");
            // Its copy waits for the lock.
            let copying = until(&what, SOON, || async {
                let found = surveyed(subscriber, user).await;
                if found.len() == 2 && found[1].tables == Some([0, 1, 0, 0, 0]) {
                    Ok(found)
                } else {
                    Err(format!("{found:?}"))
                }
            })
            .await;
            assert_eq!(
                (&*copying[0].datname, &*copying[0].name, copying[0].enabled),
                ("app", "elsewhere", false),
                "{what}"
            );
            assert_eq!(
                (copying[0].tables, &copying[0].workers),
                (None, &Some(pgvigil::core::survey::SubscriptionWorkers::default())),
                "{what}"
            );
            assert_eq!(
                (&*copying[1].datname, &*copying[1].name, copying[1].enabled),
                ("postgres", "orders", true),
                "{what}"
            );
            assert_eq!(copying[1].slot_name.as_deref(), Some("orders"), "{what}");
            let workers = copying[1].workers.as_ref().unwrap();
            assert_eq!((workers.table_sync, workers.apply.is_some()), (1, true), "{what}");
            let types: Vec<&str> = copying[1].errors.iter().map(|(what, _)| &**what).collect();
            let expect: &[&str] = match major {
                ..15 => &[],
                15..19 => &["apply", "sync"],
                _ => &["apply", "sync_seq", "sync"],
            };
            assert_eq!(types, expect, "{what}");
            let n_conflicts = match major {
                ..18 => 0,
                18 => 7,
                _ => 8,
            };
            assert_eq!(copying[1].conflicts.len(), n_conflicts, "{what}: {copying:?}");
        }
        release(subscriber, held).await;
        subscriber.until("SELECT srsubstate = 'r' FROM pg_subscription_rel", "t", SOON).await.unwrap();

        insert(subscriber, "11, 11").await;
        insert(publisher, "11, 11").await;
        until(&format!("PostgreSQL {major} fails"), SOON, || async {
            let found = &surveyed(subscriber, "plain").await[1];
            let counted =
                |counts: &[(Arc<str>, u64)], what: &str| counts.iter().any(|(name, n)| &**name == what && *n > 0);
            let errors = major < 15 || counted(&found.errors, "apply");
            let conflicts = major < 18 || counted(&found.conflicts, "insert_exists");
            if errors && conflicts { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
        for server in [publisher, subscriber] {
            assert_eq!(pg::errors_caused_by_us(server), Vec::<String>::new(), "PostgreSQL {major}");
        }
    }
}

#[tokio::test]
async fn a_standby_has_no_subscriptions_of_its_own() {
    let servers = pg::cluster(1).await;
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let sql = "CREATE SUBSCRIPTION s CONNECTION 'dbname=x' PUBLICATION x WITH (connect = false)";
    primary.sql(sql).await.unwrap();
    r1.until("SELECT count(*) FROM pg_subscription", "1", SOON).await.unwrap();
    assert_eq!(surveyed(primary, "plain").await.len(), 1);
    assert_eq!(surveyed(r1, "plain").await, []);
}
