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

use crate::support::daemon::{Daemon, SOON, cluster_toml, pgvigil, series};
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
    let mut firing: Vec<String> =
        firing.map(|alert| format!("{} {}", alert["rule"], alert["labels"]).replace('"', "")).collect();
    firing.sort();
    firing
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
        // Nothing reads from the one, which makes the primary keep WAL; the other follows it.
        write_segments(primary, 2).await;
        let daemon = watch(&servers, DANGERS).await;
        until_alerts(&daemon, &["Unread {slot:cdc}"]).await;
        let firing = daemon.get("/api/v1/alerts").await.unwrap().json();
        assert_eq!(firing["alerts"][0]["target"], "primary", "{firing}");
        let labels = [("target", "r1"), ("slot", "cdc")];
        daemon.until_series("pgvigil_slot_retained_bytes", &labels, SOON, |kept| kept > Some(0.0)).await;
        for name in ["inactive_retained_bytes", "lost_in_seconds", "inactive_seconds", "invalidated"] {
            assert_eq!(daemon.series(&format!("pgvigil_slot_{name}"), &labels).await, None, "{name}");
        }
        let copy = named(&slots(r1, "plain").await, "cdc").clone();
        assert_eq!((copy.is_copy, copy.temporary, copy.invalidation()), (true, false, None));
        let (problems, sql) = check(&servers).remove(1);
        assert!(!problems.iter().chain(&sql).any(|line| line.contains("cdc")), "{problems:?} {sql:?}");

        // Promoted, the server has a slot of its own, of which it says as before that it is synced.
        r1.promote().await.unwrap();
        let own = named(&slots(r1, "plain").await, "cdc").clone();
        assert_eq!((own.synced, own.is_copy), (Some(true), false));
        daemon.until_series("pgvigil_slot_inactive_retained_bytes", &labels, SOON, |kept| kept > Some(0.0)).await;
        until_alerts(&daemon, &["Unread {slot:cdc}", "Unread {slot:cdc}"]).await;
        primary.stop().await.unwrap();
        let sql = ["SELECT pg_drop_replication_slot('cdc');"];
        for statement in sql {
            r1.sql(statement).await.unwrap();
        }
        assert_no_errors(&servers);
    }
}

/// What `check` finds on each target: the problems, and the statements it prints.
fn check(servers: &Servers) -> Vec<(Vec<String>, Vec<String>)> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pgvigil.toml");
    std::fs::write(&file, cluster_toml("c", &pg::targets(&servers.nodes, "mon"))).unwrap();
    let run = pgvigil().args(["check", "--json", "--config"]).arg(&file).output().unwrap();
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    let texts = |found: &[Value], key: &str| -> Vec<String> {
        let lists = found.iter().flat_map(|finding| match &finding[key] {
            Value::Array(lines) => lines.clone(),
            one => vec![one.clone()],
        });
        lists.filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let targets = report["clusters"][0]["targets"].as_array().unwrap().iter();
    let findings = targets.map(|target| target["findings"].as_array().unwrap());
    findings.map(|found| (texts(found, "problem"), texts(found, "sql"))).collect()
}

const DANGERS: &str = "
[[rule]]
name = \"Unread\"
when = \"slot_inactive_retained_bytes > 0\"
for = \"0s\"
[[rule]]
name = \"InDanger\"
when = \"slot_lost_in_seconds < 1h\"
for = \"0s\"
[[rule]]
name = \"Lost\"
when = \"slot_invalidated == 1\"
for = \"0s\"
";

/// Writes a segment of WAL so often.
async fn write_segments(primary: &Server, count: u32) {
    for _ in 0..count {
        pg::write(primary).await;
        primary.sql("SELECT pg_switch_wal()").await.unwrap();
    }
}

#[tokio::test]
async fn a_slot_that_was_never_used_keeps_nothing_and_is_in_no_danger() {
    for installation in pg::installations() {
        let major = installation.major;
        let plan = Plan::new(installation)
            .standby("r1", "primary")
            .set("max_slot_wal_keep_size = '64MB'")
            .set("wal_keep_size = 0");
        let servers = Servers::start(&plan).await.unwrap();
        let (primary, r1) = (servers.primary(), servers.node("r1"));
        for server in [primary, r1] {
            server.sql("SELECT pg_create_physical_replication_slot('never_used')").await.unwrap();
        }
        primary.sql("SELECT pg_create_physical_replication_slot('unread', true)").await.unwrap();
        write_segments(primary, 6).await;
        let end = primary.value("SELECT pg_current_wal_flush_lsn()").await.unwrap().unwrap();
        r1.until(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t", SOON).await.unwrap();
        // The server computes what is safe from 0/0.
        let safe = primary.value("SELECT safe_wal_size FROM pg_replication_slots WHERE slot_name = 'never_used'").await;
        assert!(safe.unwrap().unwrap().starts_with('-'), "PostgreSQL {major}");

        let daemon = watch(&servers, DANGERS).await;
        until_alerts(&daemon, &["InDanger {slot:unread}", "Unread {slot:unread}"]).await;
        let metrics = daemon.metrics().await;
        for target in ["primary", "r1"] {
            let never_used = [("target", target), ("slot", "never_used")];
            assert_eq!(series(&metrics, "pgvigil_slot_active", &never_used), Some(0.0), "PostgreSQL {major}, {target}");
            for name in ["safe_wal_bytes", "lost_in_seconds", "retained_bytes", "inactive_retained_bytes", "wal_status"]
            {
                let found = series(&metrics, &format!("pgvigil_slot_{name}"), &never_used);
                assert_eq!(found, None, "PostgreSQL {major}, {target}: {name}");
            }
        }
        for (problems, sql) in check(&servers) {
            let told = problems.iter().filter(|problem| problem.contains("never_used")).collect::<Vec<_>>();
            assert_eq!(told, ["1 replication slot was never used: never_used"], "PostgreSQL {major}");
            assert!(!sql.iter().any(|line| line.contains("never_used")), "PostgreSQL {major}: {sql:?}");
        }
        assert_no_errors(&servers);
    }
}

#[tokio::test]
async fn the_servers_own_slot_for_conflicts_of_subscriptions_is_no_forgotten_one() {
    let Some(installation) = pg::installations().into_iter().find(|installation| installation.major >= 19) else {
        return;
    };
    // There a server with wal_level = replica has logical slots, too.
    let plan = Plan::new(installation).set("track_commit_timestamp = on").set("wal_level = replica");
    let servers = Servers::start(&plan).await.unwrap();
    let primary = servers.primary();
    let subscribe = "CREATE SUBSCRIPTION s CONNECTION 'dbname=x' PUBLICATION x \
                     WITH (connect = false, retain_dead_tuples = true)";
    primary.sql(subscribe).await.unwrap();
    primary.sql("SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')").await.unwrap();
    let own =
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'pg_conflict_detection' AND xmin IS NOT NULL";
    primary.until(own, "1", SOON).await.unwrap();
    write_segments(primary, 1).await;
    let daemon = watch(&servers, DANGERS).await;
    until_alerts(&daemon, &["Unread {slot:cdc}"]).await;
    let age = daemon.series("pgvigil_slot_xmin_age", &[("slot", "pg_conflict_detection")]).await;
    assert!(age.is_some(), "{age:?}");
    let (problems, sql) = check(&servers).remove(0);
    assert!(
        !problems.iter().any(|problem| problem.contains("pg_conflict") || problem.contains("wal_level")),
        "{problems:?}"
    );
    assert!(!sql.iter().any(|line| line.contains("pg_conflict")), "{sql:?}");
    assert_no_errors(&servers);
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
