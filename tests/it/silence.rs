//! Silences of a real daemon, by the command line as people use it.

use std::path::Path;
use std::process::Output;

use crate::support::daemon::{Daemon, SOON, pgvigil};
use crate::support::until;

const TOKEN: &str = "0123456789abcdef-of-a-test";

/// Nothing listens there, so that alerts fire.
const CONFIG: &str = "\
[server]
token = \"${SILENCE_TEST_TOKEN}\"
[[cluster]]
name = \"c\"
target = [{ name = \"a\", dsn = \"host=127.0.0.1 port=9 user=u\" }]
[[rule]]
name = \"Down\"
when = \"target_up == 0\"
for = \"3s\"
severity = \"critical\"
[[notify]]
type = \"log\"
";

async fn start(store: &Path) -> Daemon {
    Daemon::start_with(CONFIG, |command| {
        command.env("PGVIGIL_STORE__PATH", store).env("SILENCE_TEST_TOKEN", TOKEN);
    })
    .await
}

async fn silence(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = pgvigil();
    command.env("PGVIGIL_TOKEN", TOKEN).env("USER", "ada").arg("silence").args(arguments);
    command.args(["--url", &daemon.url]);
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Whether people were told that it fires: the line of the log notifier.
fn is_told(daemon: &Daemon) -> bool {
    daemon.log().lines().any(|line| line.contains("ERROR") && line.contains("state=\"firing\""))
}

#[tokio::test]
async fn a_silence_outlives_a_kill_and_its_end_tells_what_still_fires() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("state.db");
    let daemon = start(&store).await;
    let made = silence(&daemon, &["add", "--rule", "D*", "--for", "1h", "--reason", "racks are moved"]).await;
    assert!(made.0 == Some(0) && made.1.starts_with("silence 1 until "), "{made:?}");
    // It was written before it was answered: killed at once, nothing is lost.
    drop(daemon);
    let daemon = start(&store).await;
    until("the muted alert", SOON, || async {
        let alerts = daemon.get("/api/v1/alerts").await?.json();
        let alert = &alerts["alerts"][0];
        if alert["state"] == "firing" && alert["muted"][0]["author"] == "ada" {
            Ok(())
        } else {
            Err(alerts.to_string())
        }
    })
    .await;
    let health = daemon.get("/healthz").await.unwrap();
    assert!(
        health.status == 503 && health.body.contains("Down fires: c/a does not answer, silenced by ada until "),
        "{health:?}"
    );
    assert_eq!(daemon.series("pgvigil_alert", &[("state", "firing")]).await, Some(1.0));
    assert_eq!(daemon.series("pgvigil_silences", &[("state", "active")]).await, Some(1.0));
    let listed = silence(&daemon, &["list"]).await;
    assert!(listed.1.starts_with("silence 1: rule=D*\n  until ") && listed.1.ends_with("by ada\n  racks are moved\n"));
    assert!(!is_told(&daemon), "{}", daemon.log());

    let ended = silence(&daemon, &["expire", "1", "7"]).await;
    let expect = (Some(1), "silence 1 is ended: rule=D*\n".to_owned(), "pgvigil: there is no silence 7\n".to_owned());
    assert_eq!(ended, expect);
    until("the notice", SOON, || async { if is_told(&daemon) { Ok(()) } else { Err(daemon.log()) } }).await;
    assert_eq!(silence(&daemon, &["list"]).await.1, "nothing is silenced (--all shows those that have ended)\n");
    assert!(!daemon.log().contains(TOKEN));
}

#[tokio::test]
async fn what_is_wrong_is_told_in_a_line() {
    let daemon = start(Path::new("/proc/none/state.db")).await;
    let unsaved = silence(&daemon, &["add", "--cluster", "x", "--for", "1h", "--reason", "r"]).await;
    assert!(unsaved.0 == Some(0), "{unsaved:?}");
    let [remark, warning] = unsaved.2.lines().collect::<Vec<_>>()[..] else { panic!("{unsaved:?}") };
    assert_eq!(remark, "pgvigil: there is no cluster \"x\" now");
    assert!(warning.starts_with("pgvigil: a restart of the daemon will undo this: "), "{warning}");
    for (arguments, status, says) in [
        (&["add", "--for", "1h", "--reason", "r"][..], 64, "pgvigil: this would silence everything; say what with"),
        (
            &["add", "--all", "--for", "soon", "--reason", "r"],
            1,
            "pgvigil: parameter `for`: \"soon\" is not a duration",
        ),
        (&["add", "--rule", "D", "--label", "x", "--for", "1h", "--reason", "r"], 64, "error: invalid value 'x'"),
        (&["add", "--rule", "D", "--reason", "r"], 64, "error: the following required arguments"),
        (&["add", "--rule", "D", "--for", "1h"], 64, "error: the following required arguments"),
        (&["list", "--token-file", "/nonexistent"], 64, "pgvigil: --token-file: cannot read /nonexistent: "),
        (&["expire", "9"], 1, "pgvigil: there is no silence 9"),
    ] {
        let told = silence(&daemon, arguments).await;
        assert!(told.0 == Some(status) && told.2.starts_with(says), "{arguments:?}: {told:?}");
    }
    assert!(!daemon.log().contains(TOKEN));
}
