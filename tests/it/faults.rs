//! What goes wrong around the daemon itself: its disk, its clock, its configuration between two starts, a twin on the same
//! file, and whoever is to be told.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgvigil::clock;
use pgvigil::demo::Servers;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::daemon::{Daemon, SOON, cluster_toml};
use crate::support::process::with_mounts;
use crate::support::receiver::Receiver;
use crate::support::sns::Sns;
use crate::support::{missing, pg, until};

const WRITES: &str = "pgvigil_store_writes_total";
const NOTIFICATIONS: &str = "pgvigil_notifications_total";
const DOWN: &str = "[[rule]]\nname = \"Down\"\nwhen = \"target_up == 0\"\nfor = \"1s\"\nseverity = \"critical\"\n";

/// A store that could not be opened is tried again after half a minute, and the next writing may be a minute away.
const AGAIN: Duration = Duration::from_secs(150);

fn watching(servers: &Servers, rest: &str) -> String {
    let targets = pg::targets(&servers.nodes, "mon");
    cluster_toml("c", &targets) + rest
}

async fn start(config: &str, store: &Path) -> Daemon {
    Daemon::start_with(config, |command| {
        command.env("PGVIGIL_STORE__PATH", store);
    })
    .await
}

/// How often the log says that alerts of this rule fire, and that they resolved.
fn told(log: &str, rule: &str) -> (usize, usize) {
    let rule = format!("rule={rule} ");
    let count = |state: &str| log.lines().filter(|line| line.contains(&rule) && line.contains(state)).count();
    (count("state=\"firing\""), count("state=\"resolved\""))
}

async fn until_told(daemon: &Daemon, rule: &str, expect: (usize, usize)) {
    until(&format!("{rule} told"), SOON, || async {
        let found = told(&daemon.log(), rule);
        if found == expect { Ok(()) } else { Err(format!("{found:?}, not {expect:?}: {}", daemon.log())) }
    })
    .await;
}

async fn until_healthy(daemon: &Daemon, is_wanted: bool, patience: Duration) {
    until(&format!("the store is well: {is_wanted}"), patience, || async {
        let health = daemon.get("/healthz").await?;
        let is_well = !health.body.contains("store");
        if is_well == is_wanted { Ok(()) } else { Err(health.body) }
    })
    .await;
}

/// The same command, in a mount namespace of its own with an empty file system of so many bytes at `path`.
/// `None`: this machine gives us no namespaces.
fn on_a_small_disk(command: &Command, path: &Path, bytes: usize) -> Option<Command> {
    let mount = "mount -t tmpfs -o size=\"$1\" none \"$2\"";
    with_mounts(command, mount, &[bytes.to_string().as_ref(), path.as_os_str()])
}

#[tokio::test]
async fn a_full_disk_holds_back_no_alert_and_is_written_again_when_there_is_room() {
    let servers = pg::cluster(1).await;
    let dir = tempfile::tempdir().unwrap();
    let mut has_disk = true;
    let daemon = Daemon::start_with(&watching(&servers, DOWN), |command| {
        command.env("PGVIGIL_STORE__PATH", dir.path().join("state.db"));
        match on_a_small_disk(command, dir.path(), 1024 * 1024) {
            Some(wrapped) => *command = wrapped,
            None => has_disk = false,
        }
    })
    .await;
    if !has_disk {
        eprintln!("skipped: no mount namespace can be made here");
        return;
    }
    daemon.until_series(WRITES, &[("outcome", "ok")], SOON, |ok| ok >= Some(1.0)).await;
    // Seen from outside, its disk is below its root.
    let pid = daemon.process.pid().as_raw_nonzero();
    let fill = PathBuf::from(format!("/proc/{pid}/root{}/fill", dir.path().display()));
    let mut n_filled = 0;
    while std::fs::write(&fill, vec![b'x'; n_filled + 4096]).is_ok() {
        n_filled += 4096;
    }
    assert!(n_filled > 4096, "nothing could be filled");

    servers.node("r1").crash().await.unwrap();
    until_told(&daemon, "Down", (1, 0)).await;
    until_healthy(&daemon, false, AGAIN).await;
    assert!(daemon.series(WRITES, &[("outcome", "failed")]).await >= Some(1.0));
    assert!(daemon.log().contains("the store cannot be written"), "{}", daemon.log());
    assert_eq!(daemon.get("/livez").await.unwrap().status, 200);

    std::fs::remove_file(&fill).unwrap();
    until_healthy(&daemon, true, AGAIN).await;
    assert!(daemon.log().contains("the store is written again"), "{}", daemon.log());
    servers.node("r1").start().await.unwrap();
    until_told(&daemon, "Down", (1, 1)).await;
    assert_eq!(daemon.stop().await, Some(0));
}

/// A second daemon on the file of the first one goes on without it, and takes up what it held when the first has ended.
#[tokio::test]
async fn a_second_daemon_on_one_file_waits_and_takes_it_up_late() {
    let servers = pg::cluster(1).await;
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("state.db");
    let config = watching(&servers, &format!("[server]\ntoken = \"0123456789abcdef\"\n{DOWN}"));
    let silence = |daemon: &Daemon, arguments: &[&str]| {
        let mut command = crate::support::daemon::pgvigil();
        command.env("PGVIGIL_TOKEN", "0123456789abcdef").env("USER", "ada").arg("silence").args(arguments);
        let output = command.args(["--url", &daemon.url]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let first = start(&config, &store).await;
    let made = silence(&first, &["add", "--rule", "Nothing*", "--for", "1h", "--reason", "it is kept"]);
    assert!(made.starts_with("silence 1 until "), "{made}");

    let second = Daemon::start_within(&config, SOON * 3, |command| {
        command.env("PGVIGIL_STORE__PATH", &store);
    })
    .await;
    let log = second.log();
    assert!(log.contains("another process has the store") && log.contains("the store cannot be used"), "{log}");
    until_healthy(&second, false, SOON).await;
    until_healthy(&first, true, SOON).await;
    servers.node("r1").crash().await.unwrap();
    for daemon in [&first, &second] {
        until_told(daemon, "Down", (1, 0)).await;
    }
    assert_eq!(first.stop().await, Some(0));
    until_healthy(&second, true, AGAIN).await;
    let listed = silence(&second, &["list"]);
    assert!(listed.contains("rule=Nothing*") && listed.contains("by ada"), "{listed}");
    // Nothing of it is told anew, and its end is told once.
    servers.node("r1").start().await.unwrap();
    until_told(&second, "Down", (1, 1)).await;
    assert_eq!(second.stop().await, Some(0));
}

fn states(hook: &Receiver) -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        if let (Some(rule), Some(state), Some(_)) = (text("rule"), text("state"), text("dedup_key")) {
            found.push(format!("{state} {rule} {}", text("target").unwrap_or("-")));
            return;
        }
        match value {
            Value::Object(object) => object.values().for_each(|value| collect(value, found)),
            Value::Array(items) => items.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for request in hook.requests() {
        collect(&request.json(), &mut found);
    }
    found
}

async fn until_states(hook: &Receiver, expect: &[&str]) {
    until("what is told", SOON, || async {
        let mut found = states(hook);
        found.sort();
        let mut expect: Vec<String> = expect.iter().map(|&state| state.to_owned()).collect();
        expect.sort();
        if found == expect { Ok(()) } else { Err(format!("{found:#?}, not {expect:#?}")) }
    })
    .await;
}

/// What was told to fire and whose rule, target or severity is another one after a restart ends with a notice.
#[tokio::test]
async fn a_configuration_that_changes_between_starts_leaves_no_incident_open() {
    let hook = Receiver::start().await;
    let servers = pg::cluster(2).await;
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("state.db");
    let notify =
        format!("[[notify]]\ntype = \"webhook\"\nname = \"hook\"\nurl = \"http://127.0.0.1:{}/\"\n", hook.port);
    let rule = |name: &str, severity: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\nwhen = \"target_up == 0\"\nfor = \"0s\"\nseverity = \"{severity}\"\n{notify}"
        )
    };
    for name in ["r1", "r2"] {
        servers.node(name).crash().await.unwrap();
    }
    let daemon = start(&watching(&servers, &rule("Down", "warning")), &store).await;
    let mut expect = vec!["firing Down r1", "firing Down r2"];
    until_states(&hook, &expect).await;
    // Killed, it might tell again what it was told to tell last.
    assert_eq!(daemon.stop().await, Some(0));

    // The rule has another name.
    let daemon = start(&watching(&servers, &rule("Gone", "warning")), &store).await;
    expect.extend(["resolved Down r1", "resolved Down r2", "firing Gone r1", "firing Gone r2"]);
    until_states(&hook, &expect).await;
    assert_eq!(daemon.stop().await, Some(0));

    // A target is no longer watched.
    let fewer = cluster_toml(
        "c",
        &["primary", "r1"]
            .map(|name| (name, pg::dsn(if name == "r1" { servers.node("r1") } else { servers.primary() }, "mon"))),
    );
    let daemon = start(&(fewer.clone() + &rule("Gone", "warning")), &store).await;
    expect.push("resolved Gone r2");
    until_states(&hook, &expect).await;
    assert_eq!(daemon.stop().await, Some(0));

    // It is severer now: that is news. And milder: that is not.
    let daemon = start(&(fewer.clone() + &rule("Gone", "critical")), &store).await;
    expect.push("firing Gone r1");
    until_states(&hook, &expect).await;
    assert_eq!(daemon.stop().await, Some(0));
    let daemon = start(&(fewer.clone() + &rule("Gone", "info")), &store).await;
    let firing = [("rule", "Gone"), ("severity", "info"), ("state", "firing")];
    daemon.until_series("pgvigil_alert", &firing, SOON, |firing| firing == Some(1.0)).await;
    assert_eq!(daemon.stop().await, Some(0));

    // The whole cluster has another name.
    let renamed = fewer.replacen("name = \"c\"", "name = \"d\"", 1);
    let daemon = start(&(renamed + &rule("Gone", "info")), &store).await;
    expect.extend(["resolved Gone r1", "firing Gone r1"]);
    until_states(&hook, &expect).await;
    assert_eq!(daemon.stop().await, Some(0));
    until_states(&hook, &expect).await;
}

/// How an HTTP endpoint misbehaves.
#[derive(Clone, Copy, Debug)]
enum Vice {
    Hangs,
    Garbage,
    Redirects,
    /// Says yes, and then a body without end.
    EndlessYes,
    EndlessNo,
    EndlessHeaders,
    /// A byte now and then.
    Dribbles,
    Closes,
    /// Says yes with a body that means nothing.
    EmptyYes,
}

const VICES: [Vice; 9] = [
    Vice::Hangs,
    Vice::Garbage,
    Vice::Redirects,
    Vice::EndlessYes,
    Vice::EndlessNo,
    Vice::EndlessHeaders,
    Vice::Dribbles,
    Vice::Closes,
    Vice::EmptyYes,
];

async fn serve(vice: Vice) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.read_u8().await.ok();
                misbehave(&mut stream, vice).await.ok();
            });
        }
    });
    port
}

async fn misbehave(stream: &mut tokio::net::TcpStream, vice: Vice) -> std::io::Result<()> {
    let chunk = vec![b'x'; 64 * 1024];
    let (once, again): (&str, &[u8]) = match vice {
        Vice::Hangs => return std::future::pending().await,
        Vice::Garbage => ("\u{1}\u{2}\u{3} not HTTP at all \r\n\r\n", b""),
        Vice::Redirects => ("HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", b""),
        Vice::EndlessYes => ("HTTP/1.1 200 OK\r\n\r\n", &chunk),
        Vice::EndlessNo => ("HTTP/1.1 400 Bad Request\r\n\r\n", &chunk),
        Vice::EndlessHeaders => ("HTTP/1.1 200 OK\r\n", b"x-more: and more\r\n"),
        Vice::Dribbles => ("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", b"x"),
        Vice::Closes => return Ok(()),
        Vice::EmptyYes => ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b""),
    };
    stream.write_all(once.as_bytes()).await?;
    while !again.is_empty() {
        if matches!(vice, Vice::Dribbles) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stream.write_all(again).await?;
    }
    Ok(())
}

/// The most memory that a process has had, in MiB.
fn peak_mib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.process.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_misbehave_hold_up_nobody_else() {
    let hook = Receiver::start().await;
    let servers = pg::cluster(1).await;
    let mut notify =
        format!("[[notify]]\ntype = \"webhook\"\nname = \"good\"\nurl = \"http://127.0.0.1:{}/\"\n", hook.port);
    for (number, vice) in VICES.into_iter().enumerate() {
        let port = serve(vice).await;
        notify += &format!(
            "[[notify]]\ntype = \"webhook\"\nname = \"w{number}\"\nurl = \"http://127.0.0.1:{port}/\"\ntimeout = \"2s\"\n\
             [[notify]]\ntype = \"alertmanager\"\nname = \"a{number}\"\nurls = [\"http://127.0.0.1:{port}\"]\ntimeout = \"2s\"\n\
             [[notify]]\ntype = \"sns\"\nname = \"s{number}\"\ntopic_arn = \"arn:aws:sns:us-east-1:123456789012:alerts\"\n\
             endpoint_url = \"http://127.0.0.1:{port}\"\ntimeout = \"2s\"\n"
        );
    }
    let mut daemon = Daemon::start_with(&watching(&servers, &(DOWN.to_owned() + &notify)), |command| {
        command.envs(Sns::environment());
    })
    .await;
    servers.node("r1").crash().await.unwrap();
    until_states(&hook, &["firing Down r1"]).await;
    for (number, vice) in VICES.into_iter().enumerate() {
        for kind in ["w", "a", "s"] {
            let name = format!("{kind}{number}");
            // A plain yes is one to a webhook and an Alertmanager, whatever follows it. SNS says more.
            let is_yes = kind != "s" && matches!(vice, Vice::EndlessYes | Vice::Dribbles | Vice::EmptyYes);
            until(&format!("{name} ({vice:?})"), SOON, || async {
                let metrics = daemon.metrics().await;
                let count = |outcome: &str| {
                    let labels = [("notifier", name.as_str()), ("outcome", outcome)];
                    crate::support::daemon::series(&metrics, NOTIFICATIONS, &labels).unwrap_or(0.0)
                };
                let failed = count("transient") + count("unclear") + count("permanent");
                let is_so = if is_yes { count("ok") >= 1.0 } else { failed >= 1.0 && count("ok") == 0.0 };
                if is_so { Ok(()) } else { Err(format!("{} ok, {failed} failed", count("ok"))) }
            })
            .await;
        }
    }
    servers.node("r1").start().await.unwrap();
    until_states(&hook, &["firing Down r1", "resolved Down r1"]).await;
    assert!(daemon.process.try_wait().is_none());
    let (peak, log) = (peak_mib(&daemon), daemon.log());
    assert!(peak < 400, "{peak} MiB");
    assert!(!log.contains("panicked") && !log.contains(&"x".repeat(300)), "{log}");
    assert_eq!(daemon.stop().await, Some(0));
}

/// The library that lies about the time of day.
fn faketime() -> Option<PathBuf> {
    let of = |dir: std::fs::DirEntry| dir.path().join("faketime/libfaketimeMT.so.1");
    let found = std::fs::read_dir("/usr/lib").unwrap().flatten().map(of).find(|path| path.exists());
    if found.is_none() {
        missing("libfaketimeMT.so.1 (of Debian's faketime)");
    }
    found
}

#[tokio::test]
async fn a_clock_that_steps_by_hours_fires_and_resolves_nothing() {
    let Some(library) = faketime() else { return };
    let servers = pg::cluster(1).await;
    let dir = tempfile::tempdir().unwrap();
    let (store, by) = (dir.path().join("state.db"), dir.path().join("by"));
    // Replaced as a whole, for it is read at any moment.
    let step = |hours: i32| {
        std::fs::write(dir.path().join("next"), format!("{hours:+}h\n")).unwrap();
        std::fs::rename(dir.path().join("next"), &by).unwrap();
    };
    let config = watching(&servers, DOWN)
        + "[[rule]]\nname = \"Lag\"\nwhen = \"replay_lag_seconds > 600s\"\nfor = \"0s\"\nseverity = \"warning\"\n\
           [[rule]]\nname = \"Stale\"\nwhen = \"observation_age_seconds > 600s\"\nfor = \"0s\"\nseverity = \"warning\"\n";
    let start = || {
        Daemon::start_with(&config, |command| {
            command.env("PGVIGIL_STORE__PATH", &store).env("LD_PRELOAD", &library);
            command.env("FAKETIME_TIMESTAMP_FILE", &by).env("FAKETIME_NO_CACHE", "1");
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_DONT_RESET", "1");
        })
    };
    // Hours from the true time of day, by what it says of its last sample.
    let ahead = |daemon: &Daemon| {
        let url = format!("{}/api/v1/clusters/c", daemon.url);
        async move {
            let body = crate::support::http::get(&url).await?.json();
            let text = body["targets"][0]["sampled_at"].as_str().ok_or("no sample")?.to_owned();
            let at = humantime::parse_rfc3339(&text).map_err(|error| error.to_string())?;
            let (at, now) = (seconds(at), seconds(clock::wall()));
            Ok::<i64, String>(((at - now) / 3600.0).round() as i64)
        }
    };
    // A few judgements go by.
    let judged = async |daemon: &Daemon, hours: i64| {
        until("the step", SOON, || async {
            let found = ahead(daemon).await?;
            if found == hours { Ok(()) } else { Err(format!("{found} h, not {hours} h")) }
        })
        .await;
        let polls = [("outcome", "ok")];
        let before = daemon.series("pgvigil_polls_total", &polls).await.unwrap();
        daemon.until_series("pgvigil_polls_total", &polls, SOON, |polls| polls >= Some(before + 8.0)).await;
    };
    step(0);
    let daemon = start().await;
    for hours in [5, -9, 0] {
        step(hours);
        judged(&daemon, i64::from(hours)).await;
    }
    assert_eq!((told(&daemon.log(), "Down"), told(&daemon.log(), "Lag")), ((0, 0), (0, 0)), "{}", daemon.log());
    servers.node("r1").crash().await.unwrap();
    until_told(&daemon, "Down", (1, 0)).await;
    for hours in [7, -30] {
        step(hours);
        judged(&daemon, i64::from(hours)).await;
    }
    assert_eq!(told(&daemon.log(), "Down"), (1, 0), "{}", daemon.log());
    // Killed, and started again with another time of day: it is not told again, and its end is told once.
    drop(daemon);
    step(20);
    let daemon = start().await;
    judged(&daemon, 20).await;
    assert_eq!(told(&daemon.log(), "Down"), (0, 0), "{}", daemon.log());
    servers.node("r1").start().await.unwrap();
    until_told(&daemon, "Down", (0, 1)).await;
    step(-20);
    judged(&daemon, -20).await;
    for rule in ["Lag", "Stale"] {
        assert_eq!(told(&daemon.log(), rule), (0, 0), "{}", daemon.log());
    }
    assert_eq!(told(&daemon.log(), "Down"), (0, 1), "{}", daemon.log());
    assert_eq!(daemon.stop().await, Some(0));
}

fn seconds(time: std::time::SystemTime) -> f64 {
    time.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}
