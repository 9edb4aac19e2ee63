//! A Multi-AZ failover on real servers: a primary behind a name, which leads to its standby afterwards.

use std::path::Path;

use pgvigil::demo::Servers;

use crate::support::daemon::{Daemon, SOON};
use crate::support::process::with_mounts;
use crate::support::proxy::{Link, Proxy};
use crate::support::rds::{Instance, Rds};
use crate::support::{pg, until};

const REGION: &str = "us-east-1";
const NAME: &str = "orders.test";

/// What the resolver of the daemon's machine knows. Written in place, for it is mounted there.
fn leads_to(hosts: &Path, address: &str) {
    std::fs::write(hosts, format!("127.0.0.1 localhost\n{address} {NAME}\n")).unwrap();
}

#[tokio::test]
async fn a_failover_is_one_event_with_the_name_resolved_anew_and_the_new_timeline_seen() {
    let mut plan = pg::plan(2).set("synchronous_standby_names = 'r1'");
    plan.setup.push("CREATE TABLE written (n int)".to_owned());
    let servers = Servers::start(&plan).await.unwrap();
    let (primary, standby, replica) = (servers.node("primary"), servers.node("r1"), servers.node("r2"));

    // One port at two addresses, as the two zones have it.
    let before = Proxy::at("127.0.0.2:0", primary.port).await;
    let after = Proxy::at(&format!("127.0.0.3:{}", before.port), standby.port).await;
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    leads_to(&hosts, "127.0.0.2");

    let rds = Rds::start().await;
    rds.with(|state| {
        let orders = Instance { replicas: vec!["orders-r2".to_owned()], ..Instance::new("orders", NAME, before.port) };
        let source = Some("orders".to_owned());
        let follower =
            Instance { source, replicates: Some(true), ..Instance::new("orders-r2", "127.0.0.1", replica.port) };
        state.instances.insert(REGION.to_owned(), vec![orders, follower]);
    });
    let config = format!(
        "preset = \"default\"\n[poll]\ntimeout = \"20s\"\n[[discover]]\nregion = \"{REGION}\"\nall = true\nuser = \"mon\"\n\
         password = \"mon\"\nsslmode = \"disable\"\ninterval = \"1s\"\n"
    );
    let mut has_names = true;
    let daemon = Daemon::start_with(&config, |command| {
        command.envs(rds.environment());
        match with_mounts(command, "mount --bind \"$1\" /etc/hosts", &[hosts.as_os_str()]) {
            Some(wrapped) => *command = wrapped,
            None => has_names = false,
        }
    })
    .await;
    if !has_names {
        eprintln!("skipped: no mount namespace can be made here");
        return;
    }
    let (orders, follower) = ([("target", "orders")], [("target", "orders-r2")]);
    daemon.until_series("pgvigil_target_up", &orders, SOON, |up| up == Some(1.0)).await;
    daemon.until_series("pgvigil_replay_lag_bytes", &follower, SOON, |lag| lag.is_some()).await;
    assert_eq!(daemon.series("pgvigil_rds_failover", &orders).await, Some(0.0));
    let n_before = before.accepted();

    // RDS says what it is about to do; then the server is lost with its zone.
    rds.with(|state| state.events.push(("orders", "failover", "Multi-AZ instance failover started.", 0)));
    daemon.until_series("pgvigil_rds_event", &[("source", "orders")], SOON, |event| event == Some(1.0)).await;
    primary.crash().await.unwrap();
    before.set(Link::Cut);
    let alert = |rule: &'static str| [("cluster", "orders"), ("rule", rule), ("state", "firing")];
    daemon.until_series("pgvigil_alert", &alert("Failover"), SOON, |firing| firing == Some(1.0)).await;
    // It stays away for so long that this would be told by itself.
    daemon.until_series("pgvigil_alert", &alert("TargetDown"), SOON * 2, |firing| firing == Some(1.0)).await;

    standby.promote().await.unwrap();
    standby.configure("synchronous_standby_names", "").unwrap();
    standby.reload().await.unwrap();
    standby.sql("SELECT pg_create_physical_replication_slot('r2', true)").await.unwrap();
    replica.follow(standby.port).await.unwrap();
    leads_to(&hosts, "127.0.0.3");
    daemon.until_series("pgvigil_target_up", &orders, SOON, |up| up == Some(1.0)).await;
    assert!(n_before > 0 && after.accepted() > 0);
    standby.sql("INSERT INTO written VALUES (1)").await.unwrap();
    daemon.until_series("pgvigil_timeline", &orders, SOON, |timeline| timeline == Some(2.0)).await;

    until("the end of it is told", SOON * 4, || async {
        let log = daemon.log();
        if log.contains(": orders/orders was away for ") { Ok(()) } else { Err(log) }
    })
    .await;
    daemon.until_series("pgvigil_replay_lag_seconds", &follower, SOON, |lag| lag.is_some_and(|lag| lag < 5.0)).await;
    let cluster = daemon.get("/api/v1/clusters/orders").await.unwrap().json();
    assert!(cluster["rds_events"].to_string().contains("Multi-AZ instance failover started."), "{cluster}");
    assert!(cluster["events"].to_string().contains("new_timeline"), "{cluster}");
    let log = daemon.log();
    let fires: Vec<&str> = log.lines().filter(|line| line.contains(" fires: ")).collect();
    assert!(fires.iter().all(|line| line.contains("Failover fires: orders/orders has been away for ")), "{fires:#?}");
    assert_eq!(fires.len(), 1, "{fires:#?}");
    let ends: Vec<&str> = log.lines().filter(|line| line.contains(" resolved after ")).collect();
    assert_eq!(ends.len(), 1, "{ends:#?}");
    assert!(ends[0].contains(" in a Multi-AZ failover"), "{ends:?}");
    assert_eq!(daemon.stop().await, Some(0));
}
