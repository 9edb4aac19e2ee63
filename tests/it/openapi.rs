//! The API as `OpenAPI` says it: the copy in the repository, and a real daemon under what schemathesis makes of the document.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pgvigil::http::openapi::{Guard, document};

use crate::support::daemon::{Daemon, SOON, cluster_toml};
use crate::support::{http, missing, pg, until};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn the_copy_in_the_repository_is_what_the_code_says() {
    let expect = format!("{:#}\n", document(Guard::AsConfigured));
    let file = root("config/openapi.json");
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&file, &expect).unwrap();
        return;
    }
    let have = std::fs::read_to_string(&file).unwrap();
    let differs = have.lines().zip(expect.lines()).find(|(have, expect)| have != expect);
    assert!(
        have == expect,
        "config/openapi.json is behind the code, first at {differs:#?}\n\
         to bring it up to date: UPDATE_OPENAPI=1 cargo test --test it openapi::"
    );
}

const TOKEN: &str = "0123456789abcdef-of-writers";

/// Schemathesis, who may write, asks a daemon that watches a real primary and its replica.
async fn finds_nothing(server: &str) {
    let schemathesis = root("target/schemathesis/venv/bin/schemathesis");
    if !schemathesis.exists() {
        return missing("schemathesis");
    }
    let servers = pg::cluster(1).await;
    let targets =
        [("primary", "primary"), ("replica-1", "r1")].map(|(name, node)| (name, pg::dsn(servers.node(node), "mon")));
    let daemon = Daemon::start(&format!("{server}\n{}", cluster_toml("orders", &targets))).await;
    let bearer = format!("Bearer {TOKEN}");
    until("the replica", SOON, || async {
        let url = format!("{}/healthz/orders/replica-1", daemon.url);
        let answer = http::request("GET", &url, &[("authorization", &bearer)], None).await?;
        if answer.status == 200 { Ok(()) } else { Err(answer.body) }
    })
    .await;
    // It leaves what it has learnt where it runs.
    let dir = tempfile::tempdir().unwrap();
    for file in ["schemathesis.toml", "hooks.py"] {
        std::fs::copy(root("tests/it/openapi").join(file), dir.path().join(file)).unwrap();
    }
    let mut command = Command::new(schemathesis);
    command.arg("--config-file").arg(dir.path().join("schemathesis.toml"));
    command.arg("run").arg(format!("{}/api/v1/openapi.json", daemon.url));
    command.arg("--header").arg(format!("Authorization: {bearer}"));
    command.current_dir(dir.path()).env("PYTHONDONTWRITEBYTECODE", "1").env("NO_COLOR", "1").stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("No issues found"), "{told}");
    // Whatever was asked of it, it lives and watches on.
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn schemathesis_finds_nothing_where_everybody_may_read() {
    finds_nothing(&format!("[server]\ntoken = \"{TOKEN}\"\n")).await;
}

#[tokio::test]
async fn schemathesis_finds_nothing_where_who_reads_is_asked() {
    finds_nothing(&format!(
        "[server]\ntoken = \"{TOKEN}\"\n\
         [server.auth]\nuser = \"ops\"\npassword = \"open sesame\"\ntoken = \"0123456789abcdef-of-readers\"\n\
         metrics = true\nhealth = true\n"
    ))
    .await;
}
