//! `pgvigil rules`, as it is called.

use crate::support::daemon::{Daemon, cluster_toml, pgvigil};
use crate::support::free_port;

#[test]
fn a_test_of_rules_passes_or_fails_by_its_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/rules-test.example.toml");
    let text = std::fs::read_to_string(example).unwrap();
    let other = dir.path().join("other.toml");
    std::fs::write(&other, text.replace("state = \"pending\"", "state = \"firing\"")).unwrap();
    for (file, status) in [(example, 0), (other.to_str().unwrap(), 1)] {
        let output = pgvigil().args(["rules", "test", file]).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{output:?}");
    }
}

/// Nothing listens where the server should be: the daemon keeps that, and rules are tried on it while another one runs.
#[tokio::test]
async fn rules_are_replayed_over_what_a_daemon_kept() {
    let config = cluster_toml("c", &[("p", format!("postgresql://mon@127.0.0.1:{}/postgres", free_port()))]);
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("state.db");
    let start = async || {
        Daemon::start_with(&config, |command| {
            command.env("PGVIGIL_STORE__PATH", &store);
        })
        .await
    };
    assert_eq!(start().await.stop().await, Some(0));
    let running = start().await;
    let rules = dir.path().join("rules.toml");
    let rule = |name: &str, when: &str| format!("[[rule]]\nname = \"{name}\"\nwhen = \"{when}\"\nfor = \"10s\"\n");
    std::fs::write(&rules, rule("Down", "target_up == 0") + &rule("Lag", "replay_lag_seconds > 5s")).unwrap();
    let replay = |arguments: &[&str]| {
        let output = pgvigil().args(["rules", "replay"]).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (store, rules) = (store.to_str().unwrap(), rules.to_str().unwrap());
    let (status, text) = replay(&["--since", "1h", "--config", rules, "--store", store]);
    assert_eq!(status, Some(0), "{text}");
    for part in ["firing    warning   Down c/p  (target_up == 0; reading 0)", "\nDown: once, ", "\nLag: never\n"] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    // As long ago as there was no time.
    let (status, text) = replay(&["--since", "100000days", "--config", rules, "--store", store]);
    assert!(status == Some(0) && text.contains("\nDown: once, "), "{text}");
    assert_eq!(running.stop().await, Some(0));
    std::fs::write(dir.path().join("empty.readings"), "").unwrap();
    for since in ["7d", "100000days"] {
        let empty = dir.path().join("empty");
        let (status, text) = replay(&["--since", since, "--config", rules, "--store", empty.to_str().unwrap()]);
        assert!(status == Some(1) && text.contains("has no readings"), "{text}");
    }
    let (status, text) = replay(&["--config", rules, "--store", "/no/such/store"]);
    assert!(status == Some(1) && text.contains("there are no readings at /no/such/store.readings"), "{text}");
}
