//! The direction of imports (see the crate's own documentation), kept by reading the `use` lines and paths of `src`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A source file: its path below `src`, and its code without comments and without its tests.
struct Source {
    path: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut dirs: Vec<PathBuf> = vec![src.clone()];
    let mut found = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !["tests.rs", "properties.rs"].iter().any(|tests| path.ends_with(tests))
            {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
                let path = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
                found.push(Source { path, code: code.join("\n") });
            }
        }
    }
    assert!(found.len() > 10, "the sources were not found");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Whether `path` is one of `places`: a file, or (with a `/` at its end) a directory.
fn lies_in(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| if place.ends_with('/') { path.starts_with(place) } else { path == *place })
}

/// Whether `code` names `word` followed by `::`, as an item of its own: `http::`, but not `axum::http::`.
fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + word.len()..];
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') && after.starts_with("::")
    })
}

/// Where a crate may be named, and nowhere else.
const CRATES: &[(&str, &[&str])] = &[
    ("tokio_postgres", &["collect/", "demo/"]),
    ("tokio_postgres_rustls", &["collect/"]),
    ("rustls", &["any_chain.rs", "collect/", "notify/client.rs", "http/tls.rs"]),
    ("tokio_rustls", &["http/"]),
    ("hyper_rustls", &["notify/client.rs"]),
    ("x509_cert", &["collect/"]),
    ("aws_config", &["aws/"]),
    ("aws_sdk_cloudwatch", &["aws/"]),
    ("aws_sdk_elasticache", &["aws/"]),
    ("aws_sdk_rds", &["aws/"]),
    ("aws_sdk_secretsmanager", &["aws/"]),
    ("aws_sdk_sns", &["notify/sns.rs", "aws/"]),
    ("aws_sdk_sts", &["aws/"]),
    ("aws_smithy_runtime_api", &["aws/"]),
    ("axum", &["http/"]),
    ("maud", &["http/page/"]),
    ("hyper", &["http/", "silence.rs", "notify/client.rs", "notify/webhook.rs", "notify/alertmanager.rs"]),
    ("hyper_util", &["http/", "notify/client.rs"]),
    ("tower", &["http/", "notify/client.rs"]),
    ("hmac", &["notify/webhook.rs"]),
    ("prometheus", &["http/metrics.rs", "self_metrics.rs"]),
    ("figment", &["config.rs", "config/"]),
    ("clap", &["main.rs", "cli.rs", "cli/"]),
    ("sd_notify", &["app.rs"]),
    ("rusqlite", &["store.rs", "store/"]),
    ("jiff", &["core/silence/"]),
    ("schemars", &["http/", "core/"]),
    ("subtle", &["http/"]),
    ("toml", &["config/", "rules/", "plan.rs"]),
];

/// What a part may import of this crate besides `core`, `clock` and itself.
const PARTS: &[(&str, &[&str])] = &[
    ("collect", &["any_chain", "aws", "self_metrics", "waiting"]),
    ("notify", &["aws", "self_metrics"]),
    ("http", &["any_chain", "aws", "self_metrics", "waiting"]),
    ("export", &["self_metrics"]),
    ("engine", &["self_metrics", "store"]),
    ("agent_check", &[]),
    ("store", &[]),
    ("aws", &["self_metrics"]),
    ("demo", &[]),
    ("clock", &[]),
    ("waiting", &[]),
    ("self_metrics", &[]),
];

#[test]
fn the_core_is_pure() {
    const MAY: &[&str] = &["std", "core", "super", "self", "serde", "thiserror", "strsim", "jiff", "schemars"];
    for source in sources().iter().filter(|source| source.path.starts_with("core/")) {
        for line in source.code.lines().map(str::trim_start) {
            let Some(import) = line.strip_prefix("use ").or_else(|| line.strip_prefix("pub use ")) else { continue };
            let first = import.split([':', ';', ' ']).next().unwrap();
            let allowed = MAY.contains(&first) || import.starts_with("crate::core::");
            // `pub use read::...` beside `mod read;`.
            let is_child = source.code.lines().any(|line| line.trim_start_matches("pub ") == format!("mod {first};"));
            assert!(allowed || is_child, "src/{}: the core may not import: {line}", source.path);
        }
        for forbidden in
            ["tokio", "tracing", "rustix", "std::io", "std::fs", "std::net", "std::thread", "SystemTime::now"]
        {
            let found = names(&source.code, forbidden) || source.code.contains("SystemTime::now");
            assert!(!found, "src/{}: the core may not use {forbidden}", source.path);
        }
        assert!(!source.code.contains("async "), "src/{}: the core cannot wait", source.path);
        assert!(!names(&source.code, "crate::clock"), "src/{}: the core is handed the time", source.path);
    }
}

#[test]
fn each_library_stays_in_its_part() {
    for source in sources() {
        for (library, places) in CRATES {
            let allowed = lies_in(&source.path, places);
            assert!(
                allowed || !names(&source.code, library),
                "src/{} names {library}, which belongs to {places:?}",
                source.path
            );
        }
    }
}

#[test]
fn siblings_do_not_know_each_other() {
    for source in sources() {
        let part = source.path.split(['/', '.']).next().unwrap();
        let Some((_, may)) = PARTS.iter().find(|(name, _)| *name == part) else { continue };
        for (at, _) in source.code.match_indices("crate::") {
            let imported: String =
                source.code[at + "crate::".len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let allowed = ["core", "clock", part].contains(&imported.as_str()) || may.contains(&imported.as_str());
            assert!(allowed, "src/{}: `{part}` may not import `{imported}`", source.path);
        }
    }
}

#[test]
fn only_app_spawns() {
    for source in sources() {
        // Each connection of the HTTP server is a task, which the server itself waits for when it drains.
        let allowed = lies_in(&source.path, &["app.rs", "app/", "http/"]);
        for word in ["tokio::spawn", "task::spawn", "thread::spawn", ".spawn(async", "JoinSet"] {
            assert!(allowed || !source.code.contains(word), "src/{}: {word} belongs to app.rs", source.path);
        }
    }
}

#[test]
fn decoding_never_turns_unknown_into_a_number() {
    let decodes = ["collect/decode.rs", "collect/queries/"];
    for source in sources().iter().filter(|source| lies_in(&source.path, &decodes)) {
        for line in source.code.lines() {
            // A row that is missing is an empty one, whose first required column fails; a text is no number.
            if line.contains("as_slice") || line.contains(".text(") || line.contains(".to_owned()") {
                continue;
            }
            for word in ["unwrap_or_default()", "unwrap_or(0", "coalesce("] {
                let found = line.to_lowercase().contains(word);
                assert!(!found, "src/{}: {word} makes a number of what is not known: {line}", source.path);
            }
        }
    }
}

#[test]
fn one_tls_stack_with_one_provider_is_linked() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut crates: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?))
        })
        .collect();
    crates.sort_unstable();
    crates.dedup();
    let versions = |name: &str| crates.iter().filter(|(have, _)| *have == name).count();
    for single in ["rustls", "hyper", "tokio", "aws-lc-rs", "rustls-webpki"] {
        assert_eq!(versions(single), 1, "{single}: {crates:?}");
    }
    for banned in ["openssl", "openssl-sys", "native-tls", "ring"] {
        assert_eq!(versions(banned), 0, "{banned} is linked");
    }
}
