//! What is packaged is there, and what is run as root where it is installed can be read by a shell.

use std::path::PathBuf;
use std::process::Command;

use crate::readme::root;

fn text(path: &str) -> String {
    std::fs::read_to_string(root(path)).unwrap()
}

/// The files of a folder whose names say what they are by `ending`.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root(folder)).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file() && path.to_str().unwrap().ends_with(ending)).collect()
}

#[test]
fn every_file_of_the_package_is_there_or_built() {
    let manifest: toml::Table = toml::from_str(&text("Cargo.toml")).unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let script = text("scripts/package");
    for asset in deb["assets"].as_array().unwrap() {
        let source = asset[0].as_str().unwrap();
        if source == "target/release/pgvigil" || source.starts_with("target/package/") {
            assert!(script.contains(source), "scripts/package does not make {source}");
        } else if let Some((folder, ending)) = source.split_once("/*") {
            assert!(!files(folder, ending).is_empty(), "nothing is {source}");
        } else {
            assert!(root(source).exists(), "there is no {source}");
        }
    }
    for folder in [&deb["maintainer-scripts"], &deb["systemd-units"]["unit-scripts"]] {
        assert!(root(folder.as_str().unwrap()).is_dir(), "there is no {folder}");
    }
}

#[test]
fn scripts_can_be_read_by_their_shells() {
    let shells = ["deploy/debian", "scripts", "deploy/compose"]
        .into_iter()
        .flat_map(|folder| files(folder, ""))
        .filter(|path| std::fs::read(path).unwrap().starts_with(b"#!"));
    let mut n_read = 0;
    for path in shells {
        let line = std::fs::read_to_string(&path).unwrap().lines().next().unwrap().to_owned();
        let shell = if line.ends_with("bash") { "bash" } else { "sh" };
        let read = Command::new(shell).arg("-n").arg(&path).output().unwrap();
        assert!(read.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&read.stderr));
        n_read += 1;
    }
    assert!(n_read > 10, "only {n_read} scripts were found");
}

#[test]
fn each_supervisor_asks_what_there_is() {
    // The image and what is run from it ask by the command, Kubernetes by the paths that the command asks.
    let health = ["health", "--help"];
    let said = crate::support::daemon::pgvigil().args(health).output().unwrap();
    assert!(said.status.success());
    for (path, asks) in [
        ("Dockerfile", "CMD [\"/usr/local/bin/pgvigil\", \"health\"]"),
        ("deploy/compose/compose.yml", "[\"CMD\", \"/usr/local/bin/pgvigil\", \"health\","),
        ("deploy/kubernetes/pgvigil.yaml", "httpGet: {path: /livez, port: http}"),
        ("deploy/kubernetes/pgvigil.yaml", "httpGet: {path: /readyz, port: http}"),
    ] {
        assert!(text(path).contains(asks), "{path} does not ask {asks}");
    }
}
