//! `pgvigil health`: what a supervisor is told of the daemon beside it.

use std::process::Output;

use rustix::process::Signal;

use crate::support::daemon::{Daemon, SOON, cluster_toml, pgvigil};
use crate::support::free_port;
use crate::support::process::Process;
use crate::support::tls::Certificates;

/// Its exit status, and what it wrote.
fn told(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn health(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = pgvigil();
    command.arg("health").args(arguments).envs(variables.iter().copied());
    told(command.output().unwrap())
}

fn gone() -> String {
    cluster_toml("c", &[("gone", "host=127.0.0.1 port=9 user=u password='${NOBODY_SAYS_IT}'".to_owned())])
}

#[tokio::test]
async fn a_daemon_is_alive_until_it_hangs_or_ends() {
    let daemon = Daemon::start(&gone().replace("${NOBODY_SAYS_IT}", "x")).await;
    let listen = daemon.url.strip_prefix("http://").unwrap().to_owned();
    // By the environment, by the option, by the file: as the daemon was told.
    let alive = (Some(0), "ok\n".to_owned(), String::new());
    assert_eq!(health(&[], &[("PGVIGIL_SERVER__LISTEN", &listen)]), alive);
    assert_eq!(health(&["--listen", &listen], &[]), alive);
    let file = daemon.dir.path().join("other.toml");
    // What it says of servers is not read: their passwords need not be known.
    std::fs::write(&file, format!("[server]\nlisten = \"{listen}\"\n{}", gone())).unwrap();
    assert_eq!(health(&["--config", file.to_str().unwrap()], &[]), alive);
    let ready = (Some(0), "ready\n".to_owned(), String::new());
    assert_eq!(health(&["--ready", "--listen", &listen], &[]), ready);
    // All addresses are found by loopback.
    let port = listen.rsplit(':').next().unwrap();
    assert_eq!(health(&["--listen", &format!("0.0.0.0:{port}")], &[]), alive);

    daemon.process.signal(Signal::STOP);
    let hung = health(&["--listen", &listen, "--timeout", "500ms"], &[]);
    let says = format!("pgvigil: http://{listen}/livez: no answer within 500ms\n");
    assert_eq!(hung, (Some(1), String::new(), says));
    daemon.process.signal(Signal::CONT);
    assert_eq!(health(&["--listen", &listen, "--timeout", "20s"], &[]), alive);

    assert_eq!(daemon.stop().await, Some(0));
    let says = format!("pgvigil: http://{listen}/livez: connection refused; is pgvigil running there?\n");
    assert_eq!(health(&["--listen", &listen], &[]), (Some(1), String::new(), says));
}

#[tokio::test]
async fn it_speaks_tls_and_shows_who_it_is_where_the_daemon_asks() {
    let certificates = Certificates::make();
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = dir.path().join("pgvigil.toml");
    let config = |auth: &str| {
        let [cert, key] = ["server.crt", "server.key"].map(|name| certificates.path(name).display().to_string());
        format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\nauth = {{ {auth}, health = true }}\n\
             [server.tls]\ncert = \"{cert}\"\nkey = \"{key}\"\n{}",
            gone()
        )
    };
    for auth in ["user = \"ops\", password = \"open sesame\"", "token = \"${READ_TOKEN}\""] {
        std::fs::write(&file, config(auth)).unwrap();
        let token = ("READ_TOKEN", "the-token-of-readers");
        let mut run = pgvigil();
        run.arg("run").arg("--config").arg(&file).envs([token, ("NOBODY_SAYS_IT", "x")]);
        let mut daemon = Process::start(run);
        daemon.wait_for_output("listening on https://", SOON).await;
        let arguments = ["--config", file.to_str().unwrap()];
        assert_eq!(health(&arguments, &[token]), (Some(0), "ok\n".to_owned(), String::new()));
        // Another's secret is no answer.
        let other = dir.path().join("other.toml");
        std::fs::write(&other, config("token = \"the-token-of-others\"")).unwrap();
        let (status, _, says) = health(&["--config", other.to_str().unwrap()], &[]);
        assert_eq!(status, Some(1), "{says}");
        assert!(says.contains(&format!("https://127.0.0.1:{port}/livez answers 401: ")), "{says}");
        assert!(!says.contains("the-token-of-others"), "{says}");
    }
}

#[test]
fn what_cannot_be_asked_is_told() {
    let (status, _, says) = health(&[], &[("PGVIGIL_SERVER__LISTEN", "somewhere")]);
    assert_eq!(status, Some(64), "{says}");
    assert!(says.contains("PGVIGIL_SERVER__LISTEN") && says.contains("is not an address and a port"), "{says}");
    let (status, _, says) = health(&["--timeout", "soon"], &[]);
    assert_eq!(status, Some(64), "{says}");
}
