//! The throw-away servers that the other tests stand on do what they are asked.

use std::time::Duration;

use pgvigil::demo::Servers;

use crate::support::proxy::{Link, Proxy};
use crate::support::{aws::Aws, pg, tls::Certificates};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn replicas_stream_and_levers_move_them() {
    let plan = pg::plan(2).standby("c1", "r1");
    let servers = Servers::start(&plan).await.unwrap();
    let dir = servers.dir.clone();
    let (primary, r1, r2, c1) = (servers.primary(), servers.node("r1"), servers.node("r2"), servers.node("c1"));

    let written = pg::write(primary).await;
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
    for replica in [r1, r2, c1] {
        replica.until(&replayed, "t", SOON).await.unwrap();
    }

    let proxy = Proxy::start(primary.port).await;
    r2.follow(proxy.port).await.unwrap();
    let through = format!("SELECT count(*) FROM pg_stat_wal_receiver WHERE sender_port = {}", proxy.port);
    r2.until(&through, "1", SOON).await.unwrap();
    proxy.set(Link::Cut);
    r2.until(&through, "0", SOON).await.unwrap();
    let written = pg::write(primary).await;
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
    r1.until(&replayed, "t", SOON).await.unwrap();
    assert_eq!(r2.value(&replayed).await.unwrap().as_deref(), Some("f"));
    proxy.set(Link::Up);
    r2.until(&replayed, "t", SOON).await.unwrap();

    r2.freeze();
    assert!(tokio::time::timeout(Duration::from_millis(300), r2.sql("SELECT 1")).await.is_err());
    r2.thaw();
    assert_eq!(r2.value("SELECT 1").await.unwrap().as_deref(), Some("1"));

    r2.crash().await.unwrap();
    assert!(!r2.is_running());
    r2.start().await.unwrap();
    r1.restart().await.unwrap();

    r1.promote().await.unwrap();
    c1.until("SELECT received_tli FROM pg_stat_wal_receiver", "2", SOON).await.unwrap();

    drop(servers);
    assert!(!dir.exists(), "files are left behind");
}

#[tokio::test]
async fn every_installed_major_streams() {
    for installation in pg::installations() {
        let major = installation.major;
        let plan = pgvigil::demo::Plan::new(installation).standby("r1", "primary");
        let servers = Servers::start(&plan).await.unwrap_or_else(|error| panic!("PostgreSQL {major}: {error}"));
        let version = servers.node("r1").value("SHOW server_version_num").await.unwrap().unwrap();
        assert_eq!(version.parse::<u32>().unwrap() / 10_000, major);
        let extension = servers.primary().value("SELECT count(*) FROM pg_stat_statements_info").await;
        assert!(major == 13 || extension.is_ok(), "{extension:?}");
    }
}

#[tokio::test]
async fn roles_and_certificates_are_what_they_are_said_to_be() {
    let certificates = Certificates::make();
    let servers = Servers::start(&certificates.serve(pg::plan(0))).await.unwrap();
    let primary = servers.primary();
    assert_eq!(primary.value("SHOW ssl").await.unwrap().as_deref(), Some("on"));
    let connect = async |user: &str| {
        let config: tokio_postgres::Config = pg::dsn(primary, user).parse().unwrap();
        config.connect(tokio_postgres::NoTls).await.map(|_| ()).map_err(|error| format!("{error:?}"))
    };
    connect("mon").await.unwrap();
    connect("plain").await.unwrap();
    let refused = connect("tlsonly").await.unwrap_err();
    assert!(refused.contains("pg_hba.conf rejects"), "{refused}");
    let granted = "SELECT pg_has_role('mon', 'pg_monitor', 'usage'), pg_has_role('plain', 'pg_monitor', 'usage')";
    assert_eq!(primary.sql(granted).await.unwrap(), [[Some("t".to_owned()), Some("f".to_owned())]]);
}

#[tokio::test]
async fn subscribers_of_the_emulated_topic_get_what_is_published() {
    let Some(aws) = Aws::start().await else { return };
    let topic = aws.topic("alerts").await;
    let subscriber = aws.subscribe(&topic, "reader").await;
    aws.publish(&topic, "a subject", "a <message> & \"more\"").await;
    let received = aws.receive(&subscriber, SOON).await;
    assert_eq!(received.subject.as_deref(), Some("a subject"));
    assert_eq!(received.message, "a <message> & \"more\"");
    assert!(aws.try_receive(&subscriber).await.is_none());
}
