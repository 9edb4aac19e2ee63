//! Advice is run as it is printed: each test makes the state that a remedy is for, on real servers, runs what `check`, a cause
//! or a runbook prints, and sees the state healed, the standbys still standbys, and all of them streaming.

mod words;

use std::time::Duration;

use pgvigil::core::remedy::{Proof, REMEDIES, RemedyId, RunOn, Step};
use pgvigil::demo::{Plan, Server, Servers};
use serde_json::Value;
use tokio_postgres::NoTls;

use crate::cause::{
    READS, Reader, api, through_proxy, until_cause, until_no_cause, watch, while_writing, with_readers,
};
use crate::check::check;
use crate::support::daemon::{SOON, cluster_toml};
use crate::support::pgbouncer::PgBouncer;
use crate::support::proxy::Link;
use crate::support::{pg, until};

/// What `check` finds on the servers as `user`, each a target by its own name.
fn report(servers: &Servers, user: &str) -> Value {
    check(&cluster_toml("c", &pg::targets(&servers.nodes, user))).0
}

/// The finding on this target whose problem has these words.
fn finding(report: &Value, target: &str, words: &str) -> Option<Value> {
    let targets = report["clusters"][0]["targets"].as_array().unwrap();
    let target = targets.iter().find(|found| found["name"] == target).unwrap();
    let findings = target["findings"].as_array().unwrap();
    findings.iter().find(|found| found["problem"].as_str().unwrap().contains(words)).cloned()
}

fn expect_finding(servers: &Servers, user: &str, target: &str, words: &str) -> Value {
    let report = report(servers, user);
    finding(&report, target, words).unwrap_or_else(|| panic!("no {words:?} on {target} in {report:#}"))
}

/// Runs what a finding prints on the server that it names, line by line. Somebody who has read and accepted the condition of a
/// line (`-- if ...: STATEMENT`) runs its statement.
async fn run_printed(servers: &Servers, finding: &Value, accepts_condition: bool) {
    let server = servers.node(finding["run_on"].as_str().unwrap());
    let lines: Vec<&str> = finding["sql"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(!lines.is_empty(), "{finding}");
    for line in lines {
        let statement = match line.strip_prefix("-- ") {
            None => Some(line),
            Some(rest) if accepts_condition => rest.split_once(": ").map(|(_, statement)| statement),
            Some(_) => None,
        };
        if let Some(statement) = statement {
            server.sql(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        } else if line == "-- then restart it" {
            server.restart().await.unwrap();
        }
    }
}

/// A row's statements with its values, without semicolons.
fn statements(id: RemedyId, values: &[(&str, &str)]) -> Vec<String> {
    let lines = id.remedy().fill(values).into_iter();
    lines.filter(|line| !line.starts_with("--")).map(|line| line.trim_end_matches(';').to_owned()).collect()
}

async fn run(server: &Server, id: RemedyId, values: &[(&str, &str)]) {
    for statement in statements(id, values) {
        server.sql(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

/// Nothing else is broken: the primary is one, each standby is one, streams, and replays what is written now.
async fn assert_all_stream(primary: &Server, standbys: &[&Server]) {
    assert_eq!(primary.value("SELECT pg_is_in_recovery()").await.unwrap().as_deref(), Some("f"));
    let written = pg::write(primary).await;
    for standby in standbys {
        assert!(standby.is_running(), "{}", standby.name);
        standby.until("SELECT pg_is_in_recovery()", "t", SOON).await.unwrap();
        standby.until("SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'", "1", SOON).await.unwrap();
        standby.until(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'"), "t", SOON).await.unwrap();
    }
}

fn is_paused(major: u32) -> &'static str {
    if major >= 14 { "SELECT pg_get_wal_replay_pause_state() = 'paused'" } else { "SELECT pg_is_wal_replay_paused()" }
}

async fn client(server: &Server, user: &str) -> tokio_postgres::Client {
    let dsn = format!("host=127.0.0.1 port={} user={user} dbname=postgres", server.port);
    let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[test]
fn every_remedy_is_proven_or_says_why_not() {
    let tests = concat!(include_str!("remedies.rs"), include_str!("check.rs"));
    for remedy in REMEDIES {
        match remedy.proof {
            Proof::Test(name) => {
                assert!(tests.contains(&format!("fn {name}(")), "{:?}: there is no test {name}", remedy.id);
            }
            Proof::NotRun(why) => assert!(why.starts_with("it needs "), "{:?}: {why}", remedy.id),
        }
    }
}

#[tokio::test]
async fn replay_paused_by_request_is_resumed() {
    let servers = pg::cluster(1).await;
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    r1.sql("SELECT pg_wal_replay_pause()").await.unwrap();
    r1.until(is_paused(15), "t", SOON).await.unwrap();
    let found = expect_finding(&servers, "mon", "r1", "replay is paused");
    run_printed(&servers, &found, false).await;
    assert_eq!(r1.value(is_paused(15)).await.unwrap().as_deref(), Some("t"), "nothing is run by pasting");
    run_printed(&servers, &found, true).await;
    assert_all_stream(primary, &[r1]).await;
    assert_eq!(finding(&report(&servers, "mon"), "r1", "replay is paused"), None);
}

#[tokio::test]
async fn a_standby_with_too_low_settings_goes_on_once_they_are_raised() {
    for installation in pg::installations() {
        let major = installation.major;
        let servers = Servers::start(&Plan::new(installation).standby("r1", "primary")).await.unwrap();
        let (primary, r1) = (servers.primary(), servers.node("r1"));
        let daemon = watch(&servers).await;
        assert_eq!(finding(&report(&servers, "plain"), "r1", "on its primary"), None);
        // 64, and from 19 on 128.
        let locks = r1.value("SHOW max_locks_per_transaction").await.unwrap().unwrap();
        for (name, value) in [("max_connections", "120"), ("max_locks_per_transaction", "300")] {
            primary.configure(name, value).unwrap();
        }
        primary.restart().await.unwrap();
        let list = format!(
            "max_connections is 100 and 120 on its primary, max_locks_per_transaction is {locks} and 300 there"
        );
        let list = list.as_str();
        if major >= 14 {
            r1.until(is_paused(major), "t", SOON).await.unwrap();
            let why = format!("replay is paused, and cannot go on with its settings: {list}");
            while_writing(primary, 100, until_cause(&daemon, "r1", "insufficient_settings", &why)).await;
            let sentence = api(&daemon, "r1").await["cause"].to_string();
            assert!(!sentence.contains("pg_wal_replay_resume"), "PostgreSQL {major}: {sentence}");
            // Anyone may read the settings.
            for user in ["mon", "plain"] {
                let found = expect_finding(&servers, user, "r1", list);
                assert_eq!(found["severity"], "warning", "PostgreSQL {major}: {found}");
            }
            let found = expect_finding(&servers, "plain", "r1", list);
            assert_eq!(found["problem"], format!("replay is paused, and {list}"), "PostgreSQL {major}");
            run_printed(&servers, &found, true).await;
        } else {
            until("the standby to have shut down", SOON, || async {
                if r1.is_running() { Err("it runs".to_owned()) } else { Ok(()) }
            })
            .await;
            let why = format!("it cannot run with its settings: {list}");
            while_writing(primary, 100, until_cause(&daemon, "r1", "insufficient_settings", &why)).await;
            // Nobody can log in any more: the same settings go into its file.
            for (name, value) in [("max_connections", "120"), ("max_locks_per_transaction", "300")] {
                r1.configure(name, value).unwrap();
            }
            r1.start().await.unwrap();
        }
        assert_all_stream(primary, &[r1]).await;
        until_no_cause(&daemon, "r1").await;
        assert_eq!(finding(&report(&servers, "plain"), "r1", "on its primary"), None, "PostgreSQL {major}");

        // The same before the standby has met the higher value.
        r1.sql("SELECT pg_wal_replay_pause()").await.unwrap();
        primary.configure("max_wal_senders", "20").unwrap();
        primary.restart().await.unwrap();
        let found = expect_finding(&servers, "plain", "r1", "max_wal_senders is 16 and 20 on its primary");
        run_printed(&servers, &found, false).await;
        assert_all_stream(primary, &[r1]).await;
    }
}

#[tokio::test]
async fn a_standby_at_its_recovery_target_goes_on_once_it_is_cleared() {
    for installation in pg::installations() {
        let major = installation.major;
        let servers = Servers::start(&Plan::new(installation).standby("r1", "primary")).await.unwrap();
        let (primary, r1) = (servers.primary(), servers.node("r1"));
        r1.configure("recovery_target_name", "stop here").unwrap();
        r1.restart().await.unwrap();
        let daemon = watch(&servers).await;
        let found = expect_finding(&servers, "plain", "r1", "recovery_target_name");
        assert_eq!(found["problem"], "recovery_target_name is 'stop here'", "PostgreSQL {major}");
        primary.sql("SELECT pg_create_restore_point('stop here')").await.unwrap();
        r1.until(is_paused(major), "t", SOON).await.unwrap();
        let words = "replay is paused, and recovery_target_name is 'stop here': it would promote itself";
        while_writing(primary, 100, until_cause(&daemon, "r1", "recovery_target_reached", words)).await;
        let found =
            expect_finding(&servers, "plain", "r1", "replay is paused, and recovery_target_name is 'stop here'");
        assert_eq!(found["severity"], "warning", "PostgreSQL {major}");
        run_printed(&servers, &found, true).await;
        assert_all_stream(primary, &[r1]).await;
        until_no_cause(&daemon, "r1").await;
        assert_eq!(finding(&report(&servers, "plain"), "r1", "recovery_target"), None);
    }
}

#[tokio::test]
async fn a_session_that_holds_up_replay_is_ended() {
    let servers = Servers::start(&with_readers(pg::installation())).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let daemon = watch(&servers).await;
    let reader = Reader::start(r1, READS).await;
    primary.sql("ALTER TABLE items ADD COLUMN m int").await.unwrap();
    until_cause(&daemon, "r1", "blocked_by_query", "of user report").await;
    let pid = api(&daemon, "r1").await["replay"]["blocked_by"]["pid"].to_string();
    run(r1, RemedyId::EndSession, &[("pid", &pid)]).await;
    drop(reader);
    until_no_cause(&daemon, "r1").await;
    assert_all_stream(primary, &[r1]).await;
    // What replays has a pid of its own, and is not ended by mistake.
    let startup = r1.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'").await.unwrap().unwrap();
    run(r1, RemedyId::EndSession, &[("pid", &startup)]).await;
    assert_all_stream(primary, &[r1]).await;
}

#[tokio::test]
async fn locks_are_let_go_by_cancelling_ending_and_rolling_back() {
    let servers = Servers::start(&pg::plan(1).set("max_prepared_transactions = 2")).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    primary.sql("CREATE TABLE items(n int)").await.unwrap();
    let waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let blocker = "SELECT (pg_blocking_pids(pid))[1] FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let wants = || async {
        primary.sql("LOCK TABLE items IN ACCESS EXCLUSIVE MODE; SELECT 1").await.unwrap();
    };
    let holds = "BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE";
    for (statement, id) in [("SELECT pg_sleep(600)", RemedyId::CancelQuery), ("", RemedyId::EndSession)] {
        let holder = client(primary, "postgres").await;
        holder.simple_query(holds).await.unwrap();
        let running = tokio::spawn(async move {
            holder.simple_query(statement).await.ok();
            std::future::pending::<()>().await;
        });
        tokio::join!(wants(), async {
            until("a session to wait", SOON, || async {
                primary.value(waiting).await.unwrap().ok_or_else(|| "none".to_owned())
            })
            .await;
            let pid = primary.value(blocker).await.unwrap().unwrap();
            if statement.is_empty() {
                // Nothing runs there, so that cancelling heals nothing.
                run(primary, RemedyId::CancelQuery, &[("pid", &pid)]).await;
                assert_eq!(primary.value(blocker).await.unwrap(), Some(pid.clone()));
            }
            run(primary, id, &[("pid", &pid)]).await;
        });
        running.abort();
    }
    let holder = client(primary, "postgres").await;
    holder.simple_query(&format!("{holds}; PREPARE TRANSACTION 'it''s left'")).await.unwrap();
    tokio::join!(wants(), async {
        until("a session to wait", SOON, || async {
            primary.value(waiting).await.unwrap().ok_or_else(|| "none".to_owned())
        })
        .await;
        assert_eq!(primary.value(blocker).await.unwrap().as_deref(), Some("0"));
        run(primary, RemedyId::ListPrepared, &[]).await;
        run(primary, RemedyId::RollBackPrepared, &[("gid", "'it''s left'")]).await;
    });
    // A schema change that is run again gives up by itself.
    holder.simple_query(holds).await.unwrap();
    let changer = client(primary, "postgres").await;
    for statement in statements(RemedyId::LimitLockWait, &[]) {
        changer.simple_query(&statement).await.unwrap();
    }
    let error = changer.simple_query("ALTER TABLE items ADD COLUMN m int").await.unwrap_err();
    assert!(format!("{error:?}").contains("lock timeout"), "{error:?}");
    holder.simple_query("ROLLBACK").await.unwrap();
    assert_all_stream(primary, &[r1]).await;
}

#[tokio::test]
async fn idle_sessions_are_ended_at_once_or_by_a_limit() {
    let mut plan = pg::plan(1);
    plan.setup.push("CREATE ROLE \"app role\" LOGIN".to_owned());
    let servers = Servers::start(&plan).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let idle = [client(primary, "'app role'").await, client(primary, "'app role'").await];
    for session in &idle {
        session.simple_query("SELECT 1").await.unwrap();
    }
    let count = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app role'";
    primary.until(count, "2", SOON).await.unwrap();
    run(primary, RemedyId::EndIdleSessions, &[("role", "'app role'")]).await;
    primary.until(count, "0", SOON).await.unwrap();
    run(primary, RemedyId::EndIdleAfter, &[("role", "\"app role\"")]).await;
    run(primary, RemedyId::EndIdleTransactionsAfter, &[("role", "\"app role\"")]).await;
    let again = client(primary, "'app role'").await;
    for (name, expect) in [("idle_session_timeout", "1h"), ("idle_in_transaction_session_timeout", "5min")] {
        let shown = again.query_one(&format!("SHOW {name}"), &[]).await.unwrap();
        assert_eq!(shown.get::<_, String>(0), expect);
    }
    assert_all_stream(primary, &[r1]).await;
}

#[tokio::test]
async fn a_diverged_standby_follows_again_after_a_rewind() {
    let servers = pg::cluster(1).await;
    let (old, new) = (servers.primary(), servers.node("r1"));
    new.promote().await.unwrap();
    pg::write(old).await;
    pg::write(new).await;
    // As the row says: a checkpoint, a stop in good order, a copy of the configuration.
    new.sql("CHECKPOINT").await.unwrap();
    old.stop().await.unwrap();
    let files = ["postgresql.conf", "pg_hba.conf"].map(|name| old.data.join(name));
    let kept = files.clone().map(|file| std::fs::read(file).unwrap());
    let conninfo = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", new.port);
    let command = RemedyId::Rewind.remedy().steps.iter().find_map(|step| match step {
        Step::Command(command) => Some(*command),
        _ => None,
    });
    let words: Vec<String> = command
        .unwrap()
        .split(' ')
        .skip(1)
        .map(|word| word.replace("{data}", old.data.to_str().unwrap()).replace("{conninfo}", &conninfo))
        .collect();
    old.run("pg_rewind", &words.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
    for (file, contents) in files.iter().zip(kept) {
        // The file stays its owner's.
        std::fs::write(file, contents).unwrap();
    }
    old.start().await.unwrap();
    assert_all_stream(new, &[old]).await;
}

#[tokio::test]
async fn a_lost_slot_is_made_anew_and_its_standby_streams_again() {
    let plan = pg::plan(1)
        .set("max_slot_wal_keep_size = '1MB'")
        .set("wal_keep_size = 0")
        .set("max_wal_size = '32MB'")
        .set("archive_mode = on")
        .set("archive_command = 'cp %p ../archived-%f'")
        .set("restore_command = 'cp ../archived-%f %p'");
    let servers = Servers::start(&plan).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let proxy = through_proxy(r1, primary).await;
    proxy.set(Link::Cut);
    let status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'r1'";
    until("the slot to be lost", Duration::from_secs(60), || async {
        primary.sql("CREATE TABLE IF NOT EXISTS load(n int)").await.unwrap();
        primary.sql("INSERT INTO load SELECT generate_series(1, 100000)").await.unwrap();
        primary.sql("SELECT pg_switch_wal()").await.unwrap();
        primary.sql("CHECKPOINT").await.unwrap();
        let status = primary.value(status).await.unwrap();
        if status.as_deref() == Some("lost") { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    proxy.set(Link::Up);
    // The WAL sender that has tried to use it is gone after a moment.
    let found = until("the slot to be free", SOON, || async {
        let report = report(&servers, "mon");
        let found = finding(&report, "primary", "lost: r1");
        found.filter(|found| !found["sql"].as_array().unwrap().is_empty()).ok_or_else(|| report.to_string())
    })
    .await;
    run_printed(&servers, &found, false).await;
    assert_all_stream(primary, &[r1]).await;
    primary.until(status, "reserved", SOON).await.unwrap();
}

#[tokio::test]
async fn an_unused_slot_is_dropped_and_no_other() {
    let mut plan = pg::plan(1);
    plan.setup.push("SELECT pg_create_physical_replication_slot('left_behind', true)".to_owned());
    let servers = Servers::start(&plan).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    primary.sql("SELECT pg_create_logical_replication_slot('decoded', 'test_decoding')").await.unwrap();
    let names = "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots";
    let found = expect_finding(&servers, "mon", "primary", "left_behind, decoded");
    run_printed(&servers, &found, false).await;
    assert_eq!(primary.value(names).await.unwrap().as_deref(), Some("decoded,left_behind,r1"));
    run_printed(&servers, &found, true).await;
    assert_eq!(primary.value(names).await.unwrap().as_deref(), Some("r1"));
    assert_all_stream(primary, &[r1]).await;
    // A standby that only restarts keeps its slot: while it is away, nothing may be dropped.
    primary.sql("SELECT pg_create_physical_replication_slot('another', true)").await.unwrap();
    r1.stop().await.unwrap();
    let found = expect_finding(&servers, "mon", "primary", "used by nobody now");
    assert_eq!(found["sql"].as_array().unwrap().len(), 0, "{found}");
    r1.start().await.unwrap();
    assert_all_stream(primary, &[r1]).await;
    let lists = statements(RemedyId::ListUnusedSlots, &[("condition", "NOT active")]);
    let listed = primary.value(&lists[0]).await.unwrap().unwrap();
    assert_eq!(listed, "SELECT pg_drop_replication_slot('another');");
}

#[tokio::test]
async fn a_standby_without_a_slot_gets_one() {
    let servers = pg::cluster(1).await;
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    r1.sql("ALTER SYSTEM SET primary_slot_name = ''").await.unwrap();
    r1.reload().await.unwrap();
    let slot = "SELECT coalesce(slot_name, 'none') FROM pg_stat_wal_receiver WHERE status = 'streaming'";
    r1.until(slot, "none", SOON).await.unwrap();
    primary.sql("SELECT pg_drop_replication_slot('r1')").await.unwrap();
    let found = expect_finding(&servers, "mon", "r1", "streams without a replication slot");
    run_printed(&servers, &found, false).await;
    let lines = found["sql"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
    for line in lines.filter_map(|line| line.strip_prefix("-- ")).filter(|line| line.ends_with(';')) {
        r1.sql(line).await.unwrap();
    }
    r1.until(slot, "r1", SOON).await.unwrap();
    assert_all_stream(primary, &[r1]).await;
}

#[tokio::test]
async fn a_standby_is_pointed_at_its_upstream() {
    let servers = pg::cluster(1).await;
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let shown = r1.value(&statements(RemedyId::ShowUpstream, &[])[0]).await.unwrap().unwrap();
    r1.follow(1).await.unwrap();
    r1.until("SELECT count(*) FROM pg_stat_wal_receiver", "0", SOON).await.unwrap();
    let conninfo = format!("'{}'", shown.replace('\'', "''"));
    run(r1, RemedyId::PointAtUpstream, &[("conninfo", &conninfo)]).await;
    assert_all_stream(primary, &[r1]).await;
}

#[tokio::test]
async fn standbys_of_one_name_get_their_own() {
    let servers = pg::cluster(2).await;
    let (primary, r1, r2) = (servers.primary(), servers.node("r1"), servers.node("r2"));
    for standby in [r1, r2] {
        standby.configure("primary_conninfo", &format!("host=127.0.0.1 port={} user=postgres", primary.port)).unwrap();
        standby.configure("cluster_name", "same").unwrap();
        standby.restart().await.unwrap();
    }
    let named = "SELECT string_agg(application_name, ',' ORDER BY application_name) FROM pg_stat_replication";
    primary.until(named, "same,same", SOON).await.unwrap();
    let found = expect_finding(&servers, "mon", "primary", "under one name");
    for standby in [r1, r2] {
        for line in found["sql"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()) {
            match line.split_once(": ") {
                Some((_, statement)) => {
                    standby.sql(&statement.replace("...", &standby.name)).await.unwrap();
                }
                None => standby.restart().await.unwrap(),
            }
        }
    }
    primary.until(named, "r1,r2", SOON).await.unwrap();
    assert_all_stream(primary, &[r1, r2]).await;
}

#[tokio::test]
async fn missing_grants_are_found_and_given() {
    for installation in pg::installations() {
        let major = installation.major;
        let mut plan = Plan::new(installation).standby("r1", "primary");
        plan.hba.push("host all all 127.0.0.1/32 trust".to_owned());
        plan.setup.push("CREATE ROLE \"we\"\"ird ROLE\" LOGIN".to_owned());
        plan.setup.push("CREATE SCHEMA \"my \"\"ext\"".to_owned());
        plan.setup.push("DROP EXTENSION pg_stat_statements".to_owned());
        plan.setup.push("CREATE EXTENSION pg_stat_statements SCHEMA \"my \"\"ext\"".to_owned());
        let schema = "\"my \"\"ext\"";
        plan.setup.push(format!("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} FROM PUBLIC"));
        plan.setup.push(format!("REVOKE SELECT ON ALL TABLES IN SCHEMA {schema} FROM PUBLIC"));
        plan.setup.push("REVOKE EXECUTE ON FUNCTION pg_control_system, pg_control_checkpoint FROM PUBLIC".to_owned());
        plan.setup.push("REVOKE SELECT ON pg_settings FROM PUBLIC".to_owned());
        let servers = Servers::start(&plan).await.unwrap();
        let (primary, r1) = (servers.primary(), servers.node("r1"));
        let dsn = |server: &Server| format!("postgresql://we%22ird%20ROLE@127.0.0.1:{}/postgres", server.port);
        let config = cluster_toml("c", &[("primary", dsn(primary)), ("r1", dsn(r1))]);
        let lacking = |report: &Value| -> Vec<Value> {
            let targets = report["clusters"][0]["targets"].as_array().unwrap();
            let findings = targets.iter().flat_map(|target| target["findings"].as_array().unwrap());
            let is_grant = |finding: &&Value| finding["sql"].to_string().contains("GRANT");
            findings.filter(is_grant).cloned().collect()
        };
        let (report, ..) = check(&config);
        let found = lacking(&report);
        let printed: Vec<&str> = found
            .iter()
            .flat_map(|finding| finding["sql"].as_array().unwrap())
            .map(|line| line.as_str().unwrap())
            .collect();
        for expect in [
            "GRANT pg_monitor TO \"we\"\"ird ROLE\";",
            "GRANT USAGE ON SCHEMA \"my \"\"ext\" TO \"we\"\"ird ROLE\";",
            "GRANT EXECUTE ON FUNCTION \"my \"\"ext\".pg_stat_statements(boolean) TO \"we\"\"ird ROLE\";",
            "GRANT EXECUTE ON FUNCTION pg_control_system TO \"we\"\"ird ROLE\";",
        ] {
            assert!(printed.contains(&expect), "PostgreSQL {major}: {expect} is not in {printed:#?}");
        }
        // What is granted on a standby is granted on its primary.
        assert!(found.iter().all(|finding| finding["run_on"] == "primary"), "PostgreSQL {major}: {found:#?}");
        for finding in &found {
            run_printed(&servers, finding, false).await;
        }
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", pg::write(primary).await);
        r1.until(&replayed, "t", SOON).await.unwrap();
        // A refusal of another kind may come to light only now.
        let (report, ..) = check(&config);
        for finding in &lacking(&report) {
            run_printed(&servers, finding, false).await;
        }
        let (report, ..) = check(&config);
        assert_eq!(lacking(&report), Vec::<Value>::new(), "PostgreSQL {major}");
        assert!(!report.to_string().contains("refuses"), "PostgreSQL {major}: {report:#}");
        assert_all_stream(primary, &[r1]).await;
    }
}

#[tokio::test]
async fn a_role_of_its_own_watches_as_well_as_a_superuser() {
    let mut plan = pg::plan(1);
    plan.hba.push("host all pgvigil 127.0.0.1/32 trust".to_owned());
    let servers = Servers::start(&plan).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let found = expect_finding(&servers, "postgres", "primary", "is a superuser");
    run_printed(&servers, &found, false).await;
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", pg::write(primary).await);
    r1.until(&replayed, "t", SOON).await.unwrap();
    let report = report(&servers, "pgvigil");
    assert_eq!(finding(&report, "primary", "pg_monitor"), None);
    assert_eq!(finding(&report, "primary", "superuser"), None);
    assert_eq!(report["clusters"][0]["targets"][0]["reachable"], true, "{report:#}");
    assert_all_stream(primary, &[r1]).await;
}

#[tokio::test]
async fn a_role_of_one_session_gets_more() {
    let mut plan = pg::plan(1);
    plan.setup.push("ALTER ROLE mon CONNECTION LIMIT 1".to_owned());
    let servers = Servers::start(&plan).await.unwrap();
    let found = expect_finding(&servers, "mon", "primary", "1 session at a time");
    run_printed(&servers, &found, false).await;
    assert_eq!(finding(&report(&servers, "mon"), "primary", "1 session at a time"), None);
    assert_all_stream(servers.primary(), &[servers.node("r1")]).await;
}

#[tokio::test]
async fn an_unknown_standby_is_shut_out_and_the_others_stream_on() {
    let mut plan = pg::plan(2);
    plan.setup.push("CREATE ROLE stranger LOGIN REPLICATION".to_owned());
    let servers = Servers::start(&plan).await.unwrap();
    let (primary, r1, r2) = (servers.primary(), servers.node("r1"), servers.node("r2"));
    let conninfo = format!("host=127.0.0.1 port={} user=stranger application_name=r2", primary.port);
    r2.configure("primary_conninfo", &conninfo).unwrap();
    r2.reload().await.unwrap();
    let by_stranger = "SELECT pid FROM pg_stat_replication WHERE usename = 'stranger'";
    until("the stranger to stream", SOON, || async {
        primary.value(by_stranger).await.unwrap().ok_or_else(|| "no".to_owned())
    })
    .await;
    run(primary, RemedyId::ListConnectedStandbys, &[]).await;
    run(primary, RemedyId::RevokeReplication, &[("role", "stranger")]).await;
    let pid = primary.value(by_stranger).await.unwrap().unwrap();
    run(primary, RemedyId::EndSession, &[("pid", &pid)]).await;
    until("the stranger to be refused", SOON, || async {
        if r2.log().contains("must be superuser or replication role")
            || r2.log().contains("permission denied to start WAL sender")
        {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    })
    .await;
    assert_eq!(primary.value(by_stranger).await.unwrap(), None);
    assert_all_stream(primary, &[r1]).await;
}

#[tokio::test]
async fn the_statements_library_is_added_to_what_is_loaded() {
    let servers =
        Servers::start(&pg::plan(1).set("shared_preload_libraries = 'auto_explain, pg_prewarm'")).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    primary.sql("DROP EXTENSION pg_stat_statements").await.unwrap();
    let words = "not in shared_preload_libraries";
    for target in ["primary", "r1"] {
        let found = expect_finding(&servers, "mon", target, words);
        run_printed(&servers, &found, false).await;
    }
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", pg::write(primary).await);
    r1.until(&replayed, "t", SOON).await.unwrap();
    let found = expect_finding(&servers, "mon", "primary", "is not created in database \"postgres\"");
    run_printed(&servers, &found, false).await;
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", pg::write(primary).await);
    r1.until(&replayed, "t", SOON).await.unwrap();
    for server in [primary, r1] {
        let loaded = server.value(&statements(RemedyId::ShowLibraries, &[])[0]).await.unwrap().unwrap();
        assert_eq!(loaded.replace('"', ""), "auto_explain, pg_prewarm, pg_stat_statements");
        server.sql("SELECT count(*) FROM pg_stat_statements").await.unwrap();
    }
    assert_eq!(finding(&report(&servers, "mon"), "primary", "pg_stat_statements"), None);
    // Who may not see what is loaded is given nothing to overwrite it with.
    primary.sql("ALTER SYSTEM SET shared_preload_libraries = 'auto_explain'").await.unwrap();
    primary.restart().await.unwrap();
    let found = expect_finding(&servers, "plain", "primary", words);
    assert!(!found["sql"].to_string().contains("ALTER SYSTEM"), "{found}");
    assert_all_stream(primary, &[r1]).await;
}

#[tokio::test]
async fn a_paused_or_disabled_database_of_a_pooler_is_opened_again() {
    let servers = pg::cluster(1).await;
    let Some(pooler) = PgBouncer::start(servers.primary().port).await else { return };
    let console = |user: &str| format!("postgresql://{user}:{user}@127.0.0.1:{}/pgbouncer", pooler.port);
    let config = format!(
        "{}\n[[pooler]]\nname = \"pgb\"\ncluster = \"c\"\ndsn = \"{}\"\n",
        cluster_toml("c", &[("primary", pg::dsn(servers.primary(), "mon"))]),
        console("stats")
    );
    let found = |words: &str| {
        let (report, ..) = check(&config);
        let findings = report["clusters"][0]["poolers"][0]["findings"].as_array().unwrap().clone();
        findings.into_iter().find(|finding| finding["problem"].as_str().unwrap().contains(words))
    };
    for (command, words) in [("PAUSE postgres", "is paused"), ("DISABLE postgres", "is disabled")] {
        pooler.command(command).await;
        let finding = found(words).unwrap_or_else(|| panic!("{words} is not found"));
        let line = finding["sql"][0].as_str().unwrap().to_owned();
        let (condition, statement) = line.split_once(": ").unwrap();
        assert!(condition.starts_with("-- when "), "{line}");
        pooler.command(statement).await;
        assert_eq!(found(words), None);
        let dsn = pg::dsn_at(pooler.port, "mon");
        let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
        tokio::spawn(connection);
        client.simple_query("SELECT 1").await.unwrap();
    }
    for statement in statements(RemedyId::SetPoolSize, &[("value", "5")]) {
        pooler.command(&statement).await;
    }
    assert_all_stream(servers.primary(), &[servers.node("r1")]).await;
}

#[tokio::test]
async fn a_subscription_that_a_conflict_stops_goes_on() {
    for installation in pg::installations().into_iter().filter(|installation| installation.major >= 15) {
        let major = installation.major;
        let plan =
            Plan { setup: vec!["CREATE TABLE orders(id int PRIMARY KEY)".to_owned()], ..Plan::new(installation) };
        let (publishers, subscribers) = tokio::try_join!(Servers::start(&plan), Servers::start(&plan)).unwrap();
        let (publisher, subscriber) = (publishers.primary(), subscribers.primary());
        publisher.sql("CREATE PUBLICATION orders FOR TABLE orders").await.unwrap();
        let create = format!(
            "CREATE SUBSCRIPTION \"my orders\" CONNECTION 'host=127.0.0.1 port={} user=postgres dbname=postgres' \
             PUBLICATION orders WITH (slot_name = 'my_orders')",
            publisher.port
        );
        subscriber.sql(&create).await.unwrap();
        let ready = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate = 'r'";
        subscriber.until(ready, "1", SOON).await.unwrap();
        subscriber.sql("INSERT INTO orders VALUES (1)").await.unwrap();
        publisher.sql("INSERT INTO orders VALUES (1)").await.unwrap();
        let lsn = until("the log to name the transaction", SOON, || async {
            let log = subscriber.log();
            let lsn = log.split("finished at ").nth(1).and_then(|rest| rest.split(['"', '\n', ' ']).next());
            lsn.map(str::to_owned).ok_or_else(|| "not yet".to_owned())
        })
        .await;
        let values = [("subscription", "\"my orders\""), ("lsn", &*format!("'{lsn}'"))];
        run(subscriber, RemedyId::SkipTransaction, &values).await;
        publisher.sql("INSERT INTO orders VALUES (2)").await.unwrap();
        subscriber.until("SELECT count(*) FROM orders", "2", SOON).await.unwrap();
        if major >= 16 {
            run(subscriber, RemedyId::StreamInParallel, &values).await;
            publisher.sql("INSERT INTO orders VALUES (3)").await.unwrap();
            subscriber.until("SELECT count(*) FROM orders", "3", SOON).await.unwrap();
        }
        run(subscriber, RemedyId::DropSubscription, &values).await;
        publisher.until("SELECT count(*) FROM pg_replication_slots", "0", SOON).await.unwrap();
    }
}

/// Each row that sets something of the server, with a value to try it with.
fn settings() -> Vec<(RemedyId, &'static str, &'static str)> {
    vec![
        (RemedyId::SetStandbyDelay, "max_standby_streaming_delay", "5min"),
        (RemedyId::SetStandbyFeedback, "hot_standby_feedback", "on"),
        (RemedyId::SetStatusInterval, "wal_receiver_status_interval", "10s"),
        (RemedyId::SetSlotLimit, "max_slot_wal_keep_size", "50GB"),
        (RemedyId::SetWalKept, "wal_keep_size", "2GB"),
        (RemedyId::SetSyncStandbys, "synchronous_standby_names", ""),
        (RemedyId::SetWalLevel, "wal_level", "logical"),
        (RemedyId::SetTrackActivities, "track_activities", "on"),
        (RemedyId::SetTrackCounts, "track_counts", "on"),
        (RemedyId::SetTrackIoTiming, "track_io_timing", "on"),
        (RemedyId::SetTrackStatements, "pg_stat_statements.track", "top"),
        (RemedyId::SetWalCompression, "wal_compression", "pglz"),
        (RemedyId::SetMaxWalSize, "max_wal_size", "4GB"),
        (RemedyId::SetWorkMem, "work_mem", "8MB"),
        (RemedyId::SetMaxConnections, "max_connections", "150"),
        (RemedyId::SetLogicalWorkers, "max_logical_replication_workers", "8"),
        (RemedyId::SetTargetTimeline, "recovery_target_timeline", "latest"),
    ]
}

#[tokio::test]
async fn settings_take_effect_and_standbys_stream_on() {
    let of_this_test: Vec<RemedyId> = REMEDIES
        .iter()
        .filter(|remedy| remedy.proof == Proof::Test("settings_take_effect_and_standbys_stream_on"))
        .map(|remedy| remedy.id)
        .collect();
    assert_eq!(of_this_test, settings().iter().map(|(id, ..)| *id).collect::<Vec<_>>());
    // A primary whose commits wait for a standby that does not come: what the setting of its names heals.
    let badly = pg::plan(1)
        .set("wal_level = replica")
        .set("track_activities = off")
        .set("track_counts = off")
        .set("pg_stat_statements.track = none")
        .set("wal_receiver_status_interval = 0")
        .set("max_standby_streaming_delay = -1");
    let servers = Servers::start(&badly).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    primary.configure("synchronous_standby_names", "nobody").unwrap();
    primary.reload().await.unwrap();
    primary.until("SHOW synchronous_standby_names", "nobody", SOON).await.unwrap();
    let found = expect_finding(&servers, "mon", "primary", "none is synchronous now");
    run_printed(&servers, &found, true).await;
    assert_all_stream(primary, &[r1]).await;
    // On the standby first, as the row of max_connections says.
    for server in [r1, primary] {
        let mut takes_restart = false;
        for (id, _, value) in settings() {
            let remedy = id.remedy();
            run(server, id, &[("value", &format!("'{value}'"))]).await;
            takes_restart |= remedy.steps.contains(&Step::Do("restart it"));
            assert_ne!(remedy.run_on, RunOn::Pooler);
        }
        assert!(takes_restart);
        server.restart().await.unwrap();
        for (_, name, value) in settings() {
            server.until(&format!("SHOW {name}"), value, SOON).await.unwrap();
        }
        assert_eq!(
            server.value("SELECT count(*) FROM pg_settings WHERE pending_restart").await.unwrap().as_deref(),
            Some("0")
        );
        assert_all_stream(primary, &[r1]).await;
    }
    let report = report(&servers, "mon");
    for words in ["track_", "wal_receiver_status_interval", "max_standby_streaming_delay", "max_slot_wal_keep_size"] {
        for target in ["primary", "r1"] {
            assert_eq!(finding(&report, target, words), None, "{words}");
        }
    }
}

#[tokio::test]
async fn what_is_only_looked_at_changes_nothing() {
    for installation in pg::installations() {
        let major = installation.major;
        let servers = Servers::start(&Plan::new(installation).standby("r1", "primary")).await.unwrap();
        let (primary, r1) = (servers.primary(), servers.node("r1"));
        primary.sql("CREATE TABLE items(n int); INSERT INTO items VALUES (1)").await.unwrap();
        let looks =
            REMEDIES.iter().filter(|remedy| remedy.proof == Proof::Test("what_is_only_looked_at_changes_nothing"));
        for remedy in looks {
            if remedy.id == RemedyId::ExplainStatement && major < 16 {
                continue;
            }
            let values = [("queryid", "1"), ("statement", "DELETE FROM items WHERE n = $1")];
            let server = if remedy.run_on == RunOn::Standby { r1 } else { primary };
            run(server, remedy.id, &values).await;
        }
        assert_eq!(primary.value("SELECT count(*) FROM items").await.unwrap().as_deref(), Some("1"));
        assert_all_stream(primary, &[r1]).await;
    }
}
