//! How the daemon starts and ends, and what it says meanwhile: to the log, and to the service manager.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use pgvigil::clock;
use pgvigil::demo::Servers;
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::support::daemon::{Daemon, SOON, cluster_toml, pgvigil};
use crate::support::process::Process;
use crate::support::{pg, until};

fn watching(servers: &Servers) -> String {
    let targets = pg::targets(&servers.nodes, "mon");
    cluster_toml("c", &targets)
}

/// Lines of the log as JSON.
fn lines(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn with_message<'a>(lines: &'a [Value], text: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["message"].as_str().unwrap().contains(text)).collect()
}

#[tokio::test]
async fn the_log_says_where_it_listens_and_who_answers_each_once() {
    let servers = pg::cluster(1).await;
    let config = watching(&servers) + "\n[[cluster.target]]\nname = \"gone\"\ndsn = \"host=127.0.0.1 port=9 user=u\"\n";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pgvigil.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = pgvigil();
    command.arg("--config").arg(&file).args(["--listen", "127.0.0.1:0", "--log-format", "json"]);
    let mut daemon = Process::start(command);
    daemon.wait_for_output("c/gone cannot be polled", SOON).await;
    daemon.wait_for_output("c/r1 answers for the first time", SOON).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    daemon.signal(Signal::INT);
    assert_eq!(daemon.wait(SOON).await.code(), Some(0));

    let log = daemon.output();
    for line in log.lines() {
        // A parser keeps one of two fields of one name.
        assert!(line.matches("\"target\":").count() <= 1, "{line}");
    }
    let lines = lines(&log);
    let listening = with_message(&lines, "listening on http://127.0.0.1:");
    assert_eq!(listening.len(), 1, "{log}");
    assert!(listening[0]["address"].as_str().is_some_and(|address| !address.ends_with(":0")), "{log}");
    for (target, role) in [("primary", "primary"), ("r1", "replica")] {
        let first = with_message(&lines, &format!("c/{target} answers for the first time"));
        assert_eq!(first.len(), 1, "{log}");
        assert_eq!((&first[0]["target"], &first[0]["role"]), (&target.into(), &role.into()));
    }
    let failed = with_message(&lines, "c/gone cannot be polled: connection refused");
    assert_eq!((failed.len(), &failed[0]["level"]), (1, &"WARN".into()), "{log}");
    let told = with_message(&lines, "TargetDown fires: c/gone does not answer");
    assert!(told.len() <= 1, "{log}");
    assert_eq!(with_message(&lines, "stopping")[0]["signal"], "SIGINT");
}

#[tokio::test]
async fn an_outage_is_told_at_its_beginning_and_its_end() {
    let servers = pg::cluster(1).await;
    let daemon =
        Daemon::start(&(watching(&servers) + "[[rule]]\nname = \"R\"\nwhen = \"replay_lag_seconds > 1h\"\n")).await;
    daemon.until_series("pgvigil_target_up", &[("target", "r1")], SOON, |up| up == Some(1.0)).await;
    servers.node("r1").stop().await.unwrap();
    daemon.until_series("pgvigil_target_up", &[("target", "r1")], SOON, |up| up == Some(0.0)).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    servers.node("r1").start().await.unwrap();
    daemon.until_series("pgvigil_target_up", &[("target", "r1")], SOON, |up| up == Some(1.0)).await;
    let log = daemon.log();
    let about: Vec<&str> = log.lines().filter(|line| line.contains("c/r1")).collect();
    // The session ends in one way and the next attempts fail in another; not one line a second.
    assert!((3..=6).contains(&about.len()), "{about:#?}");
    assert_eq!(about.iter().filter(|line| line.contains("c/r1 answers again")).count(), 1, "{about:#?}");
}

#[tokio::test]
async fn what_is_logged_is_asked_for() {
    let config = cluster_toml("c", &[("gone", "host=127.0.0.1 port=9 user=u".to_owned())]);
    let quiet = Daemon::start_with(&config, |command| {
        command.env("RUST_LOG", "error");
    })
    .await;
    assert_eq!(quiet.log(), "");
    let chatty = Daemon::start_with(&config, |command| {
        command.env("RUST_LOG", "pgvigil=debug,warn");
    })
    .await;
    until("a line of each poll", SOON, || async {
        if chatty.log().contains("still cannot be polled") { Ok(()) } else { Err(chatty.log()) }
    })
    .await;
}

#[tokio::test]
async fn a_stop_waits_for_nothing_that_hangs_and_tells_nothing_untrue() {
    let servers = pg::cluster(1).await;
    // It takes what it is sent and never answers.
    let stuck = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", stuck.local_addr().unwrap());
    let taking = tokio::spawn(async move {
        let mut taken = Vec::new();
        loop {
            taken.push(stuck.accept().await.unwrap());
        }
    });
    let config = watching(&servers)
        + "[[rule]]\nname = \"Down\"\nwhen = \"target_up == 0\"\nfor = \"0s\"\nseverity = \"critical\"\n"
        + "[[notify]]\ntype = \"log\"\n[[notify]]\ntype = \"sns\"\n"
        + &format!("topic_arn = \"arn:aws:sns:us-east-1:123456789012:alerts\"\nendpoint_url = \"{endpoint}\"\n");
    let daemon = Daemon::start_with(&config, |command| {
        command.args(["--log-format", "json"]);
        command.envs([
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]);
    })
    .await;
    servers.node("r1").freeze();
    daemon.until_series("pgvigil_target_up", &[("target", "r1")], SOON, |up| up == Some(0.0)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut hung = TcpStream::connect(daemon.url.trim_start_matches("http://")).await.unwrap();
    hung.write_all(b"GET /li").await.unwrap();

    let Daemon { mut process, .. } = daemon;
    let start = clock::now();
    process.signal(Signal::TERM);
    let status = process.wait(SOON).await;
    let took = clock::now().duration_since(start);
    let log = process.output();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    let lines = lines(&log);
    assert_eq!(with_message(&lines, "Down fires: c/r1 does not answer").len(), 1, "{log}");
    // Nobody asks the primary any more, which is no fault of the primary's.
    assert!(!log.contains("c/primary cannot") && !log.contains("Down c/primary"), "{log}");
    servers.node("r1").thaw();
    taking.abort();
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let servers = pg::cluster(0).await;
    let stuck = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = watching(&servers)
        + "[[rule]]\nname = \"Up\"\nwhen = \"target_up == 1\"\n[[notify]]\ntype = \"sns\"\n"
        + "topic_arn = \"arn:aws:sns:us-east-1:123456789012:alerts\"\n"
        + &format!("endpoint_url = \"http://{}\"\n", stuck.local_addr().unwrap());
    let daemon = Daemon::start_with(&config, |command| {
        command.envs([
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]);
    })
    .await;
    let (_attempt, _) = stuck.accept().await.unwrap();
    let Daemon { mut process, .. } = daemon;
    process.signal(Signal::TERM);
    process.wait_for_output("stopping", SOON).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(process.try_wait().is_none(), "nothing to wait for: {}", process.output());
    let start = clock::now();
    process.signal(Signal::INT);
    process.wait(SOON).await;
    let took = clock::now().duration_since(start);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn the_service_manager_is_told_of_its_life() {
    let servers = pg::cluster(0).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let told = || {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(buffer[..length].to_vec()).unwrap())
    };
    let daemon = Daemon::start_with(&watching(&servers), |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1500000");
    })
    .await;
    for expect in ["READY=1\n", "WATCHDOG=1\n", "WATCHDOG=1\n", "WATCHDOG=1\n"] {
        let state = until(expect, SOON, || async { told() }).await;
        assert!(state == expect || state == "WATCHDOG=1\n", "{state:?} instead of {expect:?}");
    }
    assert_eq!(daemon.stop().await, Some(0));
    let rest: Vec<String> = std::iter::from_fn(|| told().ok()).collect();
    assert_eq!(rest.last().map(String::as_str), Some("STOPPING=1\n"), "{rest:?}");
}

#[tokio::test]
async fn a_deaf_service_manager_is_mentioned_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = cluster_toml("c", &[("gone", "host=127.0.0.1 port=9 user=u".to_owned())]);
    let daemon = Daemon::start_with(&config, |command| {
        command.env("NOTIFY_SOCKET", dir.path().join("nobody")).env("WATCHDOG_USEC", "600000");
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let log = daemon.log();
    // Once that it is ready, once that it lives.
    assert!(log.matches("cannot tell the service manager").count() <= 2, "{log}");
    assert_eq!(daemon.stop().await, Some(0));
}
