//! Slots, senders and receivers of real servers: everything they say of them on each major, and what stays bounded.

use std::sync::Arc;
use std::time::Duration;

use pgvigil::collect::conninfo::Conninfo;
use pgvigil::collect::tls::Trust;
use pgvigil::collect::{self, Probe};
use pgvigil::core::observation::{Receiver, WalSender};
use pgvigil::core::survey::Slot;
use pgvigil::core::topology::TargetId;
use pgvigil::demo::{Plan, Server, Servers};
use serde_json::Value;

use crate::support::daemon::{Daemon, SOON, cluster_toml, series};
use crate::support::{pg, until};

async fn probe(server: &Server, user: &str) -> Probe {
    let conninfo = Arc::new(Conninfo::parse(&pg::dsn(server, user)).unwrap());
    let id = TargetId::new("c", "t");
    collect::probe(id, conninfo, Duration::from_secs(10), true, Arc::new(Trust::default())).await.unwrap()
}

async fn slots(server: &Server, user: &str) -> Vec<Slot> {
    let survey = probe(server, user).await.survey.unwrap();
    assert_eq!(survey.failures, []);
    survey.slots.unwrap()
}

fn named<'a>(slots: &'a [Slot], name: &str) -> &'a Slot {
    slots.iter().find(|slot| slot.name == name).unwrap_or_else(|| panic!("no slot {name}: {slots:#?}"))
}

fn assert_no_errors(servers: &Servers) {
    for node in &servers.nodes {
        assert_eq!(pg::errors_caused_by_us(node), Vec::<String>::new(), "{}", node.name);
    }
}

/// A daemon that watches all servers as `mon` and asks for slow facts each second.
async fn watch(servers: &Servers, rules: &str) -> Daemon {
    let targets = pg::targets(&servers.nodes, "mon");
    Daemon::start(&format!("[poll]\nslow_interval = \"1s\"\n\n{}\n{rules}", cluster_toml("c", &targets))).await
}

async fn alerts(daemon: &Daemon) -> Vec<String> {
    let answer = daemon.get("/api/v1/alerts").await.unwrap().json();
    let alerts = answer["alerts"].as_array().unwrap().iter();
    let firing = alerts.filter(|alert| alert["state"] == "firing");
    firing.map(|alert| format!("{} {}", alert["rule"], alert["labels"]).replace('"', "")).collect()
}

async fn until_alerts(daemon: &Daemon, expect: &[&str]) {
    until("the alerts", SOON, || async {
        let firing = alerts(daemon).await;
        if firing == expect { Ok(()) } else { Err(format!("{firing:?}")) }
    })
    .await;
}

/// A standby's logical slot waits for the primary to say which transactions run.
async fn make_logical_slot_on_standby(servers: &Servers, standby: &Server) {
    let making = standby.sql("SELECT pg_create_logical_replication_slot('onstandby', 'pgoutput')");
    let helping = async {
        loop {
            servers.primary().sql("SELECT pg_log_standby_snapshot()").await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        made = making => made.map(|_| ()).unwrap(),
        () = helping => {}
    }
}

#[tokio::test]
async fn every_major_says_all_it_knows_of_its_slots_and_of_both_ends_of_a_stream() {
    for installation in pg::installations() {
        let major = installation.major;
        let plan = Plan::new(installation)
            .standby("r1", "primary")
            .set("max_slot_wal_keep_size = '128MB'")
            .set("hot_standby_feedback = on")
            .set("synchronous_standby_names = 'r1'");
        let servers = Servers::start(&plan).await.unwrap();
        let (primary, r1) = (servers.primary(), servers.node("r1"));
        let arguments = match major {
            ..14 => "'cdc', 'pgoutput'",
            14..17 => "'cdc', 'pgoutput', false, true",
            _ => "'cdc', 'pgoutput', false, true, true",
        };
        primary.sql(&format!("SELECT pg_create_logical_replication_slot({arguments})")).await.unwrap();
        r1.sql("SELECT pg_create_physical_replication_slot('below', true)").await.unwrap();
        if major >= 16 {
            make_logical_slot_on_standby(&servers, r1).await;
        }
        let written = pg::write(primary).await;
        r1.until(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'"), "t", SOON).await.unwrap();
        primary.until("SELECT sync_state FROM pg_stat_replication", "sync", SOON).await.unwrap();

        for user in ["mon", "plain"] {
            let what = format!("PostgreSQL {major}, {user}");
            let found = slots(primary, user).await;
            let physical = named(&found, "r1");
            let pid = primary.value("SELECT pid FROM pg_stat_replication").await.unwrap().unwrap().parse().unwrap();
            assert_eq!(physical.slot_type, "physical", "{what}");
            assert_eq!((physical.active, physical.active_pid), (true, Some(pid)), "{what}");
            assert_eq!((physical.wal_status, physical.invalidation()), (Some("reserved"), None), "{what}");
            assert!(physical.safe_wal_size > Some(64 << 20), "{what}: {physical:?}");
            assert!(physical.xmin_age.is_some(), "{what}: hot_standby_feedback is on: {physical:?}");
            assert_eq!(physical.inactive_since, None, "{what}");
            let logical = named(&found, "cdc");
            assert_eq!((logical.slot_type, logical.temporary), ("logical", false), "{what}");
            assert_eq!((logical.active, logical.active_pid), (false, None), "{what}");
            let (datname, plugin) = (logical.datname.as_deref(), logical.plugin.as_deref());
            assert_eq!((datname, plugin), (Some("postgres"), Some("pgoutput")), "{what}");
            assert!(logical.unconfirmed_bytes > Some(0), "{what}: {logical:?}");
            assert!(logical.unconfirmed_bytes <= logical.retained_bytes, "{what}: {logical:?}");
            assert!(logical.catalog_xmin_age.is_some(), "{what}: {logical:?}");
            assert_eq!(logical.two_phase, (major >= 14).then_some(true), "{what}");
            assert_eq!(logical.conflicting, (major >= 16).then_some(false), "{what}");
            assert_eq!(
                (logical.failover, logical.synced),
                ((major >= 17).then_some(true), (major >= 17).then_some(false))
            );
            assert_eq!(logical.inactive_since.is_some(), major >= 17, "{what}");

            let on_standby = slots(r1, user).await;
            let below = named(&on_standby, "below");
            // At least what is to be kept, at most a segment more and the rest of one: nothing was written since.
            let safe = below.safe_wal_size.unwrap();
            assert!((128 << 20..=160 << 20).contains(&safe), "{what}: {safe}");
            assert_eq!(on_standby.iter().any(|slot| slot.name == "onstandby"), major >= 16, "{what}");

            let sender: WalSender = probe(primary, user).await.positions.unwrap().senders.remove(0);
            let is_granted = user == "mon";
            assert_eq!(sender.application_name.as_deref(), Some("r1"), "{what}");
            let client = sender.client.unwrap();
            assert_eq!(client.address, is_granted.then_some([127, 0, 0, 1].into()), "{what}");
            assert_eq!(client.started_at.is_some(), is_granted, "{what}");
            assert_eq!(client.slot.as_ref().map(|slot| slot.name.as_str()), Some("r1"), "{what}");
            assert_eq!(sender.sync_state.as_deref(), is_granted.then_some("sync"), "{what}");
            assert_eq!(sender.sync_priority, is_granted.then_some(1), "{what}");
            let positions = probe(r1, user).await.positions.unwrap();
            match &positions.standby().unwrap().receiver {
                Receiver::Running(receiver) if is_granted => {
                    assert!(receiver.written_lsn >= receiver.flushed_lsn, "{what}: {receiver:?}");
                    assert!(receiver.latest_end_at <= receiver.last_msg_sent_at, "{what}: {receiver:?}");
                    assert!(receiver.latest_end_at.is_some(), "{what}: {receiver:?}");
                    assert_eq!(receiver.sender_host.as_deref(), Some("127.0.0.1"), "{what}");
                    assert_eq!(receiver.sender_port, Some(primary.port), "{what}");
                }
                Receiver::Hidden if !is_granted => {}
                receiver => panic!("{what}: {receiver:?}"),
            }
        }
        assert_no_errors(&servers);
    }
}

#[tokio::test]
async fn a_slot_that_is_synced_to_a_standby_is_told_from_the_one_it_is_a_copy_of() {
    for installation in pg::installations().into_iter().filter(|installation| installation.major >= 17) {
        let plan = Plan::new(installation).standby("r1", "primary").set("hot_standby_feedback = on");
        let servers = Servers::start(&plan).await.unwrap();
        let (primary, r1) = (servers.primary(), servers.node("r1"));
        let conninfo =
            format!("host=127.0.0.1 port={} user=postgres application_name=r1 dbname=postgres", primary.port);
        r1.configure("primary_conninfo", &conninfo).unwrap();
        r1.configure("sync_replication_slots", "on").unwrap();
        r1.reload().await.unwrap();
        primary.until("SELECT state FROM pg_stat_replication", "streaming", SOON).await.unwrap();
        primary.sql("SELECT pg_create_logical_replication_slot('cdc', 'pgoutput', false, false, true)").await.unwrap();
        until("the copy", SOON, || async {
            primary.sql("SELECT pg_log_standby_snapshot()").await.unwrap();
            let found = slots(r1, "plain").await;
            let copy = found.iter().find(|slot| slot.name == "cdc" && !slot.temporary);
            match copy.map(|slot| (slot.failover, slot.synced, slot.active)) {
                Some((Some(true), Some(true), false)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        assert_eq!(named(&slots(primary, "plain").await, "cdc").synced, Some(false));
        assert_no_errors(&servers);
    }
}

#[tokio::test]
async fn two_standbys_of_one_name_are_two_and_a_backup_is_seen() {
    let servers = pg::cluster(2).await;
    let primary = servers.primary();
    for name in ["r1", "r2"] {
        let conninfo = format!("host=127.0.0.1 port={} user=postgres application_name=twin", primary.port);
        servers.node(name).configure("primary_conninfo", &conninfo).unwrap();
        servers.node(name).reload().await.unwrap();
    }
    let daemon = watch(&servers, "").await;
    let twin = |slot| [("application_name", "twin"), ("client_addr", "127.0.0.1"), ("slot", slot)];
    for slot in ["r1", "r2"] {
        daemon.until_series("pgvigil_wal_sender_info", &twin(slot), SOON, |n| n == Some(1.0)).await;
        daemon.until_series("pgvigil_wal_sender_unreplayed_bytes", &twin(slot), SOON, |n| n.is_some()).await;
        let started = daemon.series("pgvigil_wal_sender_start_time_seconds", &twin(slot)).await;
        assert!(started > Some(1e9), "{started:?}");
        let labels = [("target", slot), ("slot", slot), ("status", "streaming"), ("sender_host", "127.0.0.1")];
        daemon.until_series("pgvigil_receiver_info", &labels, SOON, |n| n == Some(1.0)).await;
        // One machine has one clock; the way takes next to nothing.
        let own = [("target", slot)];
        for skew in ["pgvigil_upstream_clock_skew_seconds", "pgvigil_clock_skew_seconds"] {
            daemon.until_series(skew, &own, SOON, |skew| skew.is_some_and(|skew| skew.abs() < 0.5)).await;
        }
    }
    // Without slots nothing tells one from the other.
    for name in ["r1", "r2"] {
        servers.node(name).configure("primary_slot_name", "").unwrap();
        servers.node(name).reload().await.unwrap();
    }
    daemon.until_series("pgvigil_wal_sender_info", &twin(""), SOON, |n| n == Some(2.0)).await;

    let tool = pg::installation().bin.join("pg_basebackup");
    if tool.exists() {
        let target = tempfile::tempdir().unwrap();
        let mut backup = std::process::Command::new(tool);
        backup.args(["-h", "127.0.0.1", "-U", "postgres", "--max-rate=32k", "-c", "fast", "-X", "none", "--no-sync"]);
        backup.arg("-p").arg(primary.port.to_string()).arg("-D").arg(target.path().join("copy"));
        let _backup = crate::support::process::Process::start(backup);
        let labels = [("application_name", "pg_basebackup"), ("state", "backup")];
        daemon.until_series("pgvigil_wal_sender_info", &labels, SOON, |n| n == Some(1.0)).await;
        let labels = [("target", "primary"), ("state", "backup")];
        assert_eq!(daemon.series("pgvigil_wal_senders", &labels).await, Some(1.0));
        let labels = [("target", "primary"), ("phase", "streaming database files")];
        daemon.until_series("pgvigil_base_backups", &labels, SOON, |n| n == Some(1.0)).await;
        daemon.until_series("pgvigil_base_backup_streamed_bytes", &[], SOON, |n| n > Some(0.0)).await;
        let total = daemon.series("pgvigil_base_backup_total_bytes", &[]).await;
        assert!(total > Some(1e6), "{total:?}");
        let labels = [("application_name", "pg_basebackup")];
        assert_eq!(daemon.series("pgvigil_wal_sender_unsent_bytes", &labels).await, None);
    } else {
        crate::support::missing("pg_basebackup");
    }
    let answer = daemon.get("/api/v1/clusters/c").await.unwrap().json();
    let senders: Vec<&Value> = answer["targets"][0]["senders"].as_array().unwrap().iter().collect();
    let twins = senders.iter().filter(|sender| sender["application_name"] == "twin");
    assert!(twins.clone().count() == 2 && twins.clone().all(|twin| twin["connected_at"].is_string()), "{senders:?}");
    assert_no_errors(&servers);
}

#[tokio::test]
async fn a_slot_that_loses_its_wal_is_told_with_the_reason() {
    // The oldest says it by wal_status alone, 16 knows of conflicts too, and the newest names the reason.
    let mut installations = pg::installations();
    let (oldest, newest) = (installations[0].major, installations[installations.len() - 1].major);
    installations.retain(|installation| [oldest, 16, newest].contains(&installation.major));
    for installation in installations {
        let major = installation.major;
        let plan = Plan::new(installation)
            .set("wal_keep_size = 0")
            .set("max_slot_wal_keep_size = '1MB'")
            .set("checkpoint_timeout = '30min'");
        let servers = Servers::start(&plan).await.unwrap();
        let primary = servers.primary();
        primary.sql("SELECT pg_create_physical_replication_slot('idle', true)").await.unwrap();
        let daemon = watch(&servers, "").await;
        let idle = [("slot", "idle")];
        daemon.until_series("pgvigil_slot_safe_wal_bytes", &idle, SOON, |safe| safe > Some(0.0)).await;
        let metrics = daemon.metrics().await;
        assert_eq!(series(&metrics, "pgvigil_slot_invalidated", &idle), None, "{major}");
        let inactive = series(&metrics, "pgvigil_slot_inactive_seconds", &idle);
        assert_eq!(inactive.is_some(), major >= 17, "{major}: {inactive:?}");
        for _ in 0..4 {
            pg::write(primary).await;
            primary.sql("SELECT pg_switch_wal()").await.unwrap();
        }
        primary.sql("CHECKPOINT").await.unwrap();
        let lost = [("slot", "idle"), ("reason", "wal_removed")];
        daemon.until_series("pgvigil_slot_invalidated", &lost, SOON, |lost| lost == Some(1.0)).await;
        until_alerts(&daemon, &["SlotLost {reason:wal_removed,slot:idle}"]).await;
        let status = [("slot", "idle"), ("status", "lost")];
        assert_eq!(daemon.series("pgvigil_slot_wal_status", &status).await, Some(1.0), "{major}");
        primary.sql("SELECT pg_drop_replication_slot('idle')").await.unwrap();
        until_alerts(&daemon, &[]).await;
        assert_no_errors(&servers);
    }
}

#[tokio::test]
async fn ten_thousand_slots_are_judged_and_only_some_are_shown() {
    let plan = Plan::new(pg::installation()).set("max_replication_slots = 10000");
    let servers = Servers::start(&plan).await.unwrap();
    let primary = servers.primary();
    primary
        .sql("SELECT count(pg_create_physical_replication_slot('s' || n, true)) FROM generate_series(1, 9999) n")
        .await
        .unwrap();
    pg::write(primary).await;
    // It keeps least, so it is not among those that are shown.
    primary.sql("SELECT pg_create_logical_replication_slot('zz', 'pgoutput')").await.unwrap();
    pg::write(primary).await;
    let rule = "[[rule]]\nname = \"Unconfirmed\"\nwhen = \"slot_confirmed_flush_lag_bytes > 0\"\nfor = \"0s\"\n";
    let daemon = watch(&servers, rule).await;
    until_alerts(&daemon, &["Unconfirmed {slot:zz}"]).await;
    let metrics = daemon.metrics().await;
    let shown = |name: &str| metrics.lines().filter(|line| line.starts_with(&format!("pgvigil_{name}{{"))).count();
    assert_eq!((shown("slot_active"), shown("slot_info"), shown("slot_wal_status")), (200, 200, 200));
    assert_eq!(series(&metrics, "pgvigil_slot_active", &[("slot", "zz")]), None);
    let all = [("slot_type", "physical"), ("active", "false")];
    assert_eq!(series(&metrics, "pgvigil_slots", &all), Some(9999.0));
    let dropped = series(&metrics, "pgvigil_dropped_series_total", &[("family", "slots")]);
    assert!(dropped >= Some(9800.0), "{dropped:?}");
    assert_eq!(series(&metrics, "pgvigil_survey_failure", &[]), None);
    let age = series(&metrics, "pgvigil_survey_age_seconds", &[]);
    assert!(age < Some(5.0), "{age:?}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.process.pid().as_raw_nonzero())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kilobytes: u64 = resident.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kilobytes < 80_000, "{kilobytes} kB");
    println!("{kilobytes} kB resident, a page of {} bytes", metrics.len());
    assert_no_errors(&servers);
}
