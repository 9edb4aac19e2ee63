//! The command line as a shell sees it: what is printed, where, and the exit status.

use std::process::{Command, Output};

use pgvigil::demo::Servers;

use crate::support::daemon::{SOON, cluster_toml, pgvigil};
use crate::support::pg;

/// A port that nothing listens on: the one named `discard` is never handed out.
const NOBODY: &str = "host=127.0.0.1 port=9 user=u password=hunter2";

struct Run {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(command: &mut Command) -> Run {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { status: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

fn pgvigil_on(config: &str, arguments: &[&str]) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pgvigil.toml");
    std::fs::write(&file, config).unwrap();
    run(pgvigil().args(arguments).arg("--config").arg(&file))
}

#[test]
fn a_bad_option_or_configuration_ends_with_64() {
    for arguments in
        [&["--no-such-option"][..], &["no-such-command"], &["check", "--listen", "[::]:1"], &["completions", "x"]]
    {
        let run = run(pgvigil().args(arguments));
        assert_eq!((run.status, run.stdout.as_str()), (Some(64), ""), "{arguments:?}: {}", run.stderr);
    }
    for command in [&[][..], &["run"], &["check"], &["check", "--offline"], &["poll"]] {
        let nothing = run(pgvigil().args(command));
        assert_eq!(nothing.status, Some(64), "{command:?}");
        assert!(nothing.stderr.starts_with("pgvigil: nothing to watch: "), "{}", nothing.stderr);
        let wrong = pgvigil_on("[poll]\nintervall = \"1s\"", command);
        assert_eq!(wrong.status, Some(64), "{command:?}");
        assert!(
            wrong.stderr.ends_with("poll: unknown key \"intervall\"; did you mean \"interval\"?\n"),
            "{}",
            wrong.stderr
        );
        let missing = run(pgvigil().args(command).args(["--config", "/nonexistent/pgvigil.toml"]));
        assert_eq!(missing.status, Some(64), "{command:?}");
        let log = run(pgvigil().args(command).env("RUST_LOG", "pgvigil=loud"));
        assert_eq!(log.status, Some(64), "{command:?}");
        assert!(log.stderr.starts_with("pgvigil: RUST_LOG: "), "{}", log.stderr);
    }
}

#[test]
fn what_was_asked_for_is_on_standard_output() {
    for (arguments, begins) in [
        (&["--version"][..], "pgvigil "),
        (&["--help"], "Replication health for PostgreSQL"),
        (&["man"], ".ie"),
        (&["completions", "bash"], "_pgvigil()"),
    ] {
        let run = run(pgvigil().args(arguments));
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(run.stdout.starts_with(begins), "{}", run.stdout);
    }
}

#[test]
fn a_configuration_is_checked_without_connecting() {
    let config = cluster_toml("orders", &[("db-1", NOBODY.to_owned())]);
    let text = pgvigil_on(&config, &["check", "--offline"]);
    assert_eq!((text.status, text.stderr.as_str()), (Some(0), ""));
    assert!(text.stdout.starts_with("configuration ok ("), "{}", text.stdout);
    assert!(text.stdout.contains("1 cluster, 1 target, "), "{}", text.stdout);
    let json = pgvigil_on(&config, &["check", "--offline", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["clusters"], serde_json::json!([{ "name": "orders", "targets": ["db-1"], "poolers": [] }]));
}

#[test]
fn a_target_that_is_down_ends_check_and_poll_with_1_and_no_password_is_shown() {
    let config = cluster_toml("orders", &[("db-1", NOBODY.to_owned())]);
    let check = pgvigil_on(&config, &["check"]);
    assert!(check.stdout.contains("orders/db-1: error: not reached: connection refused\n"), "{}", check.stdout);
    let poll = pgvigil_on(&config, &["poll"]);
    assert!(poll.stdout.contains("critical  TargetDown orders/db-1: target_up == 0; is 0\n"), "{}", poll.stdout);
    let json = pgvigil_on(&config, &["poll", "--json", "--log-format", "json"]);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["clusters"][0]["targets"][0]["failure"]["kind"], "refused");
    for run in [check, poll, json] {
        assert_eq!(run.status, Some(1));
        assert!(!format!("{}{}", run.stdout, run.stderr).contains("hunter2"));
    }
}

#[test]
fn a_start_that_fails_ends_with_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = cluster_toml("orders", &[("db-1", NOBODY.to_owned())]);
    let run = pgvigil_on(&config, &["--log-format", "json", "--listen", &address]);
    assert_eq!((run.status, run.stdout.as_str()), (Some(1), ""));
    let lines: Vec<serde_json::Value> = run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["message"], &lines[0]["targets"]), (&"starting".into(), &1.into()));
    let last = lines.last().unwrap();
    let reason = format!(
        "cannot listen on {address}: Address already in use (os error 98); \
         is pgvigil running already? --listen or server.listen names another port"
    );
    assert_eq!((&last["level"], &last["error"]), (&"ERROR".into(), &reason.into()));
}

#[tokio::test]
async fn check_says_what_real_servers_keep_from_us_and_poll_how_far_they_lag() {
    let servers = Servers::start(&pg::plan(1).set("max_slot_wal_keep_size = '10GB'")).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let written = pg::write(primary).await;
    r1.until(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'"), "t", SOON).await.unwrap();

    let all_seen = cluster_toml("orders", &[("db-1", pg::dsn(primary, "mon")), ("db-2", pg::dsn(r1, "mon"))]);
    let check = pgvigil_on(&all_seen, &["check"]);
    let version = primary.value("SHOW server_version").await.unwrap().unwrap();
    let version = version.split(' ').next().unwrap();
    for (name, role) in [("db-1", "primary"), ("db-2", "replica")] {
        let row = check.stdout.lines().find(|line| line.contains(name)).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[..8], ["orders", name, role, version, "PostgreSQL", "no", "ok", "ok"]);
    }
    assert_eq!((check.status, check.stderr.as_str()), (Some(0), ""), "{}", check.stdout);

    let little_seen = cluster_toml("orders", &[("db-1", pg::dsn(primary, "plain")), ("db-2", pg::dsn(r1, "plain"))]);
    let check = pgvigil_on(&little_seen, &["check", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&check.stdout).unwrap();
    for target in report["clusters"][0]["targets"].as_array().unwrap() {
        assert_eq!(target["missing_grants"], serde_json::json!(["pg_monitor"]));
        assert_eq!(target["findings"][0]["sql"], serde_json::json!(["GRANT pg_monitor TO \"plain\";"]));
        assert_eq!(target["findings"][0]["run_on"], "db-1");
    }
    assert_eq!(check.status, Some(1));

    // Without the primary there is nobody to measure against, and the upstream is not among the targets.
    let orphan = cluster_toml("orders", &[("db-2", pg::dsn(r1, "mon"))]);
    let check = pgvigil_on(&orphan, &["check"]);
    let warning = format!(
        "orders: warning: db-2 streams from 127.0.0.1:{}, which is none of the cluster's targets",
        primary.port
    );
    assert!(
        check.stdout.contains(&warning) && check.stdout.contains("\norders: warning: no primary: "),
        "{}",
        check.stdout
    );
    assert_eq!(check.status, Some(1));

    let poll = pgvigil_on(&all_seen, &["poll", "--json"]);
    let look: serde_json::Value = serde_json::from_str(&poll.stdout).unwrap();
    let replica = &look["clusters"][0]["targets"][1];
    assert_eq!(
        [
            &replica["role"],
            &replica["state"],
            &replica["lag_seconds"],
            &replica["lag_bytes"],
            &replica["lag_certainty"]
        ],
        [&"replica".into(), &"streaming".into(), &0.0.into(), &0.into(), &serde_json::Value::from("exact")]
    );
    assert_eq!((poll.status, poll.stderr.as_str()), (Some(0), ""));
    for server in [primary, r1] {
        assert_eq!(pg::errors_caused_by_us(server), Vec::<String>::new());
    }
}
