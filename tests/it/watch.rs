//! `pgvigil poll --watch` in a terminal and in a pipe, and what commands show where somebody watches.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pgvigil::demo::Servers;
use rustix::process::Signal;

use crate::support::daemon::{SOON, cluster_toml, pgvigil};
use crate::support::terminal::Terminal;
use crate::support::{pg, until};

fn command(file: &Path, arguments: &[&str]) -> Command {
    let mut command = pgvigil();
    command.args(arguments).arg("--config").arg(file);
    command
}

/// A configuration of a server that nobody has.
fn nowhere(dir: &Path) -> PathBuf {
    let file = dir.join("pgvigil.toml");
    std::fs::write(&file, cluster_toml("orders", &[("db-1", "postgresql://x@127.0.0.1:1/x".to_owned())])).unwrap();
    file
}

/// The lag that stands in the row of a target, in seconds: `800 ms`, `≥ 12.3 s`, `1m 05s`.
fn lag_of(screen: &str, target: &str) -> Option<f64> {
    let row = screen.lines().find(|line| line.contains(target))?;
    let (_, told) = row.split_once("replay paused")?;
    let mut words = told.split_whitespace().filter(|word| !["≥", "≤"].contains(word));
    let (first, second) = (words.next()?, words.next()?);
    if let Some(minutes) = first.strip_suffix('m') {
        return Some(minutes.parse::<f64>().ok()? * 60.0 + second.strip_suffix('s')?.parse::<f64>().ok()?);
    }
    let unit = match second {
        "s" => 1.0,
        "ms" => 1e-3,
        _ => return None,
    };
    Some(first.parse::<f64>().ok()? * unit)
}

#[tokio::test]
async fn a_lag_grows_before_ones_eyes_and_the_terminal_is_left_as_it_was() {
    let servers = Servers::start(&pg::plan(1).set("log_min_messages = debug1")).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pgvigil.toml");
    let targets = [("db-1", pg::dsn(primary, "mon")), ("db-2", pg::dsn(r1, "mon"))];
    std::fs::write(&file, cluster_toml("orders", &targets)).unwrap();

    let mut watch = command(&file, &["poll", "--watch"]);
    // A poll that takes too long is cut off, which a server does log.
    watch.env("PGVIGIL_POLL__TIMEOUT", "15s");
    let mut terminal = Terminal::start(&watch, 30, 100);
    terminal.until("the replica streams", SOON, |screen| screen.contains("streaming").then_some(())).await;
    assert!(!terminal.is_as_before());
    r1.sql("SELECT pg_wal_replay_pause()").await.unwrap();
    pg::write(primary).await;
    let first = terminal.until("it lags", SOON, |screen| lag_of(screen, "db-2").filter(|lag| *lag > 0.0)).await;
    terminal.until("it lags more", SOON, |screen| lag_of(screen, "db-2").filter(|lag| *lag > first + 1.0)).await;
    // In place: there is one table, however often it was drawn.
    assert_eq!(terminal.screen().matches("CLUSTER").count(), 1, "{}", terminal.screen());
    assert!(terminal.written().contains("\x1b[33mreplay paused"), "colours");
    terminal.resize(5, 100);
    terminal.until("it fits the window", SOON, |screen| screen.contains("more lines").then_some(())).await;
    assert!(terminal.screen().contains("CLUSTER"), "{}", terminal.screen());
    terminal.resize(30, 100);
    terminal.until("all is back", SOON, |screen| lag_of(screen, "db-2")).await;

    // A shell's Ctrl-Z and fg.
    terminal.press("\x1a");
    let stat = format!("/proc/{}/stat", terminal.pid().as_raw_nonzero());
    until("it is stopped", SOON, || {
        let state = std::fs::read_to_string(&stat).unwrap();
        async move { if state.contains(") T ") { Ok(()) } else { Err(state) } }
    })
    .await;
    until("the terminal is the shell's", SOON, || {
        let is_so = terminal.is_as_before();
        async move { is_so.then_some(()).ok_or_else(String::new) }
    })
    .await;
    terminal.signal(Signal::CONT);
    terminal.until("it goes on", SOON, |screen| lag_of(screen, "db-2")).await;

    terminal.press("q");
    assert!(terminal.ends(SOON).await.success());
    // What was seen last stays.
    terminal
        .until("the last table stays", SOON, |screen| lag_of(screen, "db-2").filter(|_| terminal.is_as_before()))
        .await;
    for node in [primary, r1] {
        let log = node.log();
        let lost =
            |line: &&str| line.contains("unexpected EOF on client") || line.contains("connection to client lost");
        assert_eq!(log.lines().filter(|line| line.contains("/pgvigil ")).find(lost), None);
    }
}

#[tokio::test]
async fn ctrl_c_ends_a_watch_and_leaves_the_terminal_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    for end in ["\x03", "TERM"] {
        let mut terminal = Terminal::start(&command(&nowhere(dir.path()), &["poll", "--watch"]), 24, 80);
        terminal.until("the table", SOON, |screen| screen.contains("down").then_some(())).await;
        if end == "TERM" {
            terminal.signal(Signal::TERM);
        } else {
            terminal.press(end);
        }
        assert!(terminal.ends(SOON).await.success());
        terminal.until("the last table", SOON, |_| terminal.is_as_before().then_some(())).await;
    }
}

#[test]
fn in_a_pipe_tables_follow_each_other_as_plain_text() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(&nowhere(dir.path()), &["poll", "--watch"]);
    command.env("PGVIGIL_POLL__INTERVAL", "250ms").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut heads = 0;
    let mut text = Vec::new();
    while heads < 3 {
        let line = lines.next().unwrap();
        heads += usize::from(line.starts_with("pgvigil 2"));
        text.push(line);
    }
    assert!(text.iter().all(|line| !line.contains('\x1b')), "{text:?}");
    let rows: Vec<&String> = text.iter().filter(|line| line.starts_with("orders   db-1")).collect();
    assert_eq!(rows.len(), 2, "{text:?}");
    assert!(rows.iter().all(|row| row.contains("down")), "a target that was not asked yet is no news: {text:?}");
    // Who read it has seen enough.
    drop(lines);
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");

    let refused = self::command(&nowhere(dir.path()), &["poll", "--watch", "--json"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot be used with"), "{refused:?}");
}

#[tokio::test]
async fn colours_and_progress_are_for_those_who_can_see_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = nowhere(dir.path());
    for arguments in [&["check"][..], &["poll"], &["poll", "--watch"]] {
        for (variable, value, is_plain) in [("TERM", "xterm", false), ("TERM", "dumb", true), ("NO_COLOR", "1", false)]
        {
            let mut command = command(&file, arguments);
            command.env(variable, value);
            let mut terminal = Terminal::start(&command, 24, 80);
            if arguments.contains(&"--watch") {
                terminal.until("a table", SOON, |screen| screen.contains("down").then_some(())).await;
                terminal.press("\x03");
            }
            terminal.ends(SOON).await;
            terminal.until("the table", SOON, |screen| screen.contains("db-1").then_some(())).await;
            let written = terminal.written();
            let has_colour = written.contains("\x1b[31;1m");
            assert_eq!(has_colour, (variable, value) == ("TERM", "xterm"), "{arguments:?} {variable}: {written:?}");
            assert_eq!(!written.contains('\x1b'), is_plain, "{arguments:?} {variable}: {written:?}");
            let tells = written.contains("0 of 1 servers and poolers asked");
            assert_eq!(tells, !is_plain && !arguments.contains(&"--watch"), "{arguments:?} {variable}: {written:?}");
        }
        let piped = command(&file, arguments);
        if !arguments.contains(&"--watch") {
            let output = { piped }.output().unwrap();
            assert!(output.stderr.is_empty() && !output.stdout.contains(&0x1b), "{output:?}");
        }
    }
}
