//! Clients that mean harm, or do it all the same: whatever they do, the polls go on.

use std::time::Duration;

use pgvigil::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::daemon::{Daemon, SOON, cluster_toml};
use crate::support::{pg, until};

/// The daemon on a real server, with what `adjust` changes of its command.
async fn watch(adjust: impl FnOnce(&mut std::process::Command)) -> (pgvigil::demo::Servers, Daemon) {
    let servers = pg::cluster(1).await;
    let targets = pg::targets(&servers.nodes, "mon");
    let daemon = Daemon::start_with(&cluster_toml("c", &targets), adjust).await;
    for node in &servers.nodes {
        let labels = [("target", node.name.as_str())];
        daemon.until_series("pgvigil_target_up", &labels, SOON, |up| up == Some(1.0)).await;
    }
    (servers, daemon)
}

fn address(daemon: &Daemon) -> &str {
    daemon.url.trim_start_matches("http://")
}

/// All that is answered to these bytes, until the daemon closes.
async fn exchange(daemon: &Daemon, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address(daemon)).await.unwrap();
    // A server that refuses early may reset the connection while the rest is being written.
    stream.write_all(request).await.ok();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "still open: {:.200}", String::from_utf8_lossy(request));
    String::from_utf8_lossy(&answer).into_owned()
}

/// For as long as `meanwhile` takes, and some seconds more: no sample gets old, nothing is said to be down.
async fn polls_go_on<T>(daemon: &Daemon, meanwhile: impl Future<Output = T>) -> T {
    let watching = async {
        loop {
            for target in ["primary", "r1"] {
                let answer = daemon.get(&format!("/healthz/c/{target}")).await;
                // No answer at all: the client's own doing, when all places are taken.
                if let Ok(answer) = answer {
                    let age = answer.json()["sample_age_ms"].as_u64().unwrap();
                    assert!(answer.status == 200 && age < 3000, "{target}: {}", answer.body);
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        outcome = async {
            let outcome = meanwhile.await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            outcome
        } => outcome,
        () = watching => unreachable!(),
    }
}

/// Resident memory in bytes.
fn memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.process.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn pages_that_nobody_reads_cost_the_polls_nothing() {
    let (_servers, daemon) = watch(|_| ()).await;
    let before = memory(&daemon);
    let mut greedy = Vec::new();
    polls_go_on(&daemon, async {
        let requests = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(200);
        for _ in 0..200 {
            let mut stream = TcpStream::connect(address(&daemon)).await.unwrap();
            stream.write_all(&requests).await.unwrap();
            greedy.push(stream);
        }
        tokio::time::sleep(Duration::from_secs(8)).await;
    })
    .await;
    let grown = memory(&daemon).saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "{grown} bytes more");
    drop(greedy);
    assert_eq!(daemon.get("/api/v1/alerts").await.unwrap().json()["alerts"], serde_json::json!([]));
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_let_go() {
    let (_servers, daemon) = watch(|_| ()).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address(&daemon).parse().unwrap()).await.unwrap();
    // More answers than the kernel keeps for both ends.
    stream.write_all(&b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(400)).await.unwrap();
    let taken = daemon.series("process_open_fds", &[]).await.unwrap();
    until("the connection to be closed", Duration::from_secs(40), || async {
        let now = daemon.series("process_open_fds", &[]).await.unwrap();
        if now < taken { Ok(()) } else { Err(format!("{now} of {taken} open")) }
    })
    .await;
}

#[tokio::test]
async fn idle_and_dribbling_connections_are_closed_and_the_polls_go_on() {
    let (_servers, daemon) = watch(|_| ()).await;
    let mut dribbling = Vec::new();
    polls_go_on(&daemon, async {
        let mut idle = Vec::new();
        for _ in 0..500 {
            idle.push(TcpStream::connect(address(&daemon)).await.unwrap());
        }
        for _ in 0..100 {
            let mut stream = TcpStream::connect(address(&daemon)).await.unwrap();
            stream.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
            dribbling.push(stream);
        }
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            for stream in &mut dribbling {
                stream.write_all(b"x-more: to come\r\n").await.ok();
            }
        }
    })
    .await;
    let open = daemon.series("process_open_fds", &[]).await.unwrap();
    assert!(open < 64.0, "{open} files are still open");
}

#[tokio::test]
async fn few_files_are_shared_so_that_targets_can_be_reached_again() {
    let (servers, daemon) = watch(|command| {
        // The shell lowers the limit and becomes the daemon.
        let program = command.get_program().to_owned();
        let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg("ulimit -n 64 && exec \"$0\" \"$@\"").arg(program).args(arguments);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        *command = shell;
    })
    .await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        let connect = TcpStream::connect(address(&daemon));
        idle.push(tokio::time::timeout(Duration::from_secs(1), connect).await);
    }
    // Both sessions are lost while clients wait for every place there is.
    for node in &servers.nodes {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'pgvigil'";
        assert_eq!(node.value(end).await.unwrap().as_deref(), Some("1"));
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    drop(idle);
    polls_go_on(&daemon, until("an answer", SOON, || daemon.get("/livez"))).await;
    let log = daemon.log();
    assert!(!log.contains("cannot be polled") && !log.contains("Too many open files"), "{log}");
}

#[tokio::test]
async fn a_large_upload_is_refused_and_not_kept() {
    let (_servers, daemon) = watch(|_| ()).await;
    let before = memory(&daemon);
    polls_go_on(&daemon, async {
        let mut stream = TcpStream::connect(address(&daemon)).await.unwrap();
        stream.write_all(b"POST /livez HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        let chunk = [b"10000\r\n".as_slice(), &vec![b'x'; 0x10000], b"\r\n"].concat();
        for _ in 0..1600 {
            if stream.write_all(&chunk).await.is_err() {
                return;
            }
        }
        panic!("100 MB were taken");
    })
    .await;
    let grown = memory(&daemon).saturating_sub(before);
    assert!(grown < 32 * 1024 * 1024, "{grown} bytes more");
}

#[tokio::test]
async fn whatever_is_asked_is_answered_or_refused() {
    let (_servers, daemon) = watch(|_| ()).await;
    let long = "a".repeat(100_000);
    for (request, starts) in [
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), "HTTP/1.1 431 "),
        (format!("GET /livez HTTP/1.1\r\ncookie: {long}\r\n\r\n"), "HTTP/1.1 431 "),
        ("GET /healthz/c/%zz HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1.0 404 "),
        ("GET /healthz/c/r1%00 HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1.0 404 "),
        ("GET /healthz/c/r1\0 HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1.1 400 "),
        ("GET /healthz/../../etc/passwd HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1.0 404 "),
        ("GET /healthz/..%2f..%2fetc/passwd HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1.0 404 "),
        ("GET * HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1.0 404 "),
        ("GET http://elsewhere/livez HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1.0 200 "),
        ("TRACE /livez HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1.0 405 "),
        ("CONNECT db:5432 HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1.0 404 "),
        ("GET /livez\r\n\r\n".to_owned(), "HTTP/1.1 400 "),
        ("\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_owned(), "HTTP/1.1 400 "),
    ] {
        let answer = exchange(&daemon, request.as_bytes()).await;
        assert!(answer.starts_with(starts), "{request:.80}: {answer:.200}");
    }
    for limit in [
        "",
        "=",
        "=-1",
        "=NaN",
        "=inf",
        "=1e400",
        "=1e3",
        "=%F0%9F%98%80",
        "=5S",
        "=1s&max_lag=1s",
        "=1s&x=1",
        "=1s&=1",
    ] {
        let answer = daemon.get(&format!("/healthz/c/r1?max_lag{limit}")).await.unwrap();
        assert_eq!(answer.status, 400, "max_lag{limit}: {}", answer.body);
    }
    let several = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\nHEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n\
                    GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answers = exchange(&daemon, several).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 404 Not Found").count(), 1, "{answers}");

    let start = clock::now();
    assert_eq!(daemon.stop().await, Some(0));
    assert!(clock::now().duration_since(start) < Duration::from_secs(5));
}
