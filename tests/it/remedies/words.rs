//! Advice has one source: every statement and every setting that a cause, a finding of `check`, a runbook or a message names
//! is in the table of remedies.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pgvigil::core::cause::Cause;
use pgvigil::core::remedy::{REMEDIES, Remedy, Step};
use pgvigil::core::signal::SIGNALS;

use crate::readme::root;

/// Words with an underscore that are no advice: nobody changes anything by them.
const NOT_ADVICE: &[(&str, &[&str])] = &[
    (
        "views and functions that are read, and their columns",
        &[
            "pg_control_checkpoint",
            "pg_conflict_detection",
            "pg_control_system",
            "pg_is_in_recovery",
            "pg_last_wal_receive_lsn",
            "pg_last_wal_replay_lsn",
            "pg_last_xact_replay_timestamp",
            "pg_lock_status",
            "pg_settings",
            "pg_stat_get_wal_receiver",
            "pg_stat_get_wal_senders",
            "pg_stat_statements_info",
            "restart_lsn",
            "session_user",
            "shared_blks_read",
            "wal_status",
        ],
    ),
    ("files and directories of a server", &["pg_hba", "pg_wal"]),
    (
        "settings that are explained, and whose value is left to those who made it",
        &[
            "allow_alter_system",
            "archive_command",
            "archive_library",
            "default_transaction_read_only",
            "recovery_min_apply_delay",
            "restore_command",
            "retain_dead_tuples",
            "ssl_cert_file",
            "synchronous_commit",
        ],
    ),
    ("PgBouncer's", &["stats_users"]),
    (
        "pgvigil's own: its configuration, parameters of its paths, certainties, what CloudWatch measures",
        &["at_least", "at_most", "burst_balance", "idle_limit", "max_lag", "rds_events", "silent_targets_ratio"],
    ),
    (
        "fields of a message",
        &[
            "bytes_per_second",
            "clients_waiting",
            "failing_for",
            "held_by",
            "lock_held_by",
            "n_alerts",
            "n_points",
            "read_by",
            "server_connections",
            "sessions_waiting",
            "slot_type",
            "standbys_with_addresses",
            "still_safe",
            "to_end_it",
        ],
    ),
];

/// Where people are given advice: the book's pages, and the sources of what is printed.
fn pages() -> Vec<PathBuf> {
    let mut pages = files(&root("docs/src/runbooks"), "md");
    pages.push(root("docs/src/causes.md"));
    pages
}

fn sources() -> Vec<PathBuf> {
    let mut sources: Vec<PathBuf> = ["cause.rs", "cause/words.rs", "explain.rs", "rule/preset.rs"]
        .map(|name| root("src/core").join(name))
        .into_iter()
        .chain(["src/check.rs", "src/check/findings.rs", "src/notify/message.rs"].map(root))
        .collect();
    sources.extend(files(&root("src/notify/message"), "rs"));
    sources
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|found| found == extension) && !path.ends_with("tests.rs"))
        .collect()
}

/// What is marked as code in a page, on one line each.
fn code_of_page(text: &str) -> Vec<String> {
    let mut code = Vec::new();
    let mut parts = text.split('`');
    parts.next();
    while let Some(part) = parts.next() {
        code.push(part.split_whitespace().collect::<Vec<_>>().join(" "));
        parts.next();
    }
    code
}

/// The strings of a source, without its tests and comments.
fn strings_of_source(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let is_code = |line: &&str| ["//", "#["].iter().all(|start| !line.trim_start().starts_with(start));
    let code = code.lines().filter(is_code).collect::<Vec<_>>().join("\n");
    let code = code.replace("\\\"", "'").replace("'\"'", "");
    let strings = code.split('"').skip(1).step_by(2);
    strings.map(|text| without_values(&text.split_whitespace().collect::<Vec<_>>().join(" "))).collect()
}

/// Without what is filled in (`{name}`).
fn without_values(text: &str) -> String {
    let mut depth = 0_u32;
    let mut is_text = |c: &char| {
        depth += u32::from(*c == '{');
        let is_text = depth == 0;
        depth = depth.saturating_sub(u32::from(*c == '}'));
        is_text
    };
    text.chars().filter(|c| is_text(c)).collect()
}

const VERBS: &[&str] = &[
    "ALTER",
    "ANALYZE",
    "BEGIN",
    "CHECKPOINT",
    "COMMIT",
    "CREATE",
    "DELETE",
    "DISABLE",
    "DROP",
    "ENABLE",
    "EXPLAIN",
    "GRANT",
    "INSERT",
    "KILL",
    "LOCK",
    "PAUSE",
    "RECONNECT",
    "REINDEX",
    "RELOAD",
    "RESET",
    "RESUME",
    "REVOKE",
    "ROLLBACK",
    "SELECT",
    "SET",
    "SHOW",
    "SHUTDOWN",
    "TRUNCATE",
    "UPDATE",
    "VACUUM",
];

/// Whether it reads as a statement: a verb in capital letters with something behind it.
fn is_statement(text: &str) -> bool {
    let mut words = text.split(' ').map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()));
    let has_verb = words.by_ref().any(|word| VERBS.contains(&word));
    has_verb && words.next().is_some()
}

/// `max_slot_wal_keep_size`, `pg_stat_statements.track`: words of small letters with an underscore.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let is_name = |word: &&str| {
        word.contains('_')
            && word.starts_with(|c: char| c.is_ascii_lowercase())
            && !word.ends_with('_')
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    words.filter(is_name).map(str::to_owned).collect()
}

#[test]
fn every_statement_that_is_advised_is_in_the_table() {
    let table: BTreeSet<String> =
        REMEDIES.iter().flat_map(Remedy::shown).map(|step| step.trim_matches('`').to_owned()).collect();
    for path in pages() {
        for code in code_of_page(&std::fs::read_to_string(&path).unwrap()) {
            assert!(
                !is_statement(&code) || table.contains(&code),
                "{}: `{code}` is not in the table of remedies (src/core/remedy/table.rs)",
                path.display()
            );
        }
    }
    for cause in Cause::ALL {
        for code in code_of_page(cause.remedy()) {
            assert!(
                !is_statement(&code) || table.contains(&code),
                "{cause:?}: `{code}` is not in the table of remedies"
            );
        }
    }
    // What is printed is taken from the table, and so not in the sources themselves; a cause's is compared above.
    for path in sources().into_iter().filter(|path| !path.ends_with("core/cause.rs")) {
        for text in strings_of_source(&std::fs::read_to_string(&path).unwrap()) {
            assert!(!is_statement(&text), "{}: {text:?} is to be taken from the table of remedies", path.display());
        }
    }
}

#[test]
fn every_setting_that_is_named_is_in_the_table() {
    let mut known: BTreeSet<String> = BTreeSet::new();
    for remedy in REMEDIES {
        for step in remedy.steps {
            let (Step::Sql(text) | Step::Command(text) | Step::Do(text)) = step;
            known.extend(names(text));
        }
        known.extend(names(remedy.applies_when));
        known.extend(names(remedy.never_for));
    }
    known.extend(SIGNALS.iter().map(|signal| signal.name.to_owned()));
    known.extend(Cause::ALL.iter().map(|cause| cause.as_str().to_owned()));
    known.extend(NOT_ADVICE.iter().flat_map(|(_, words)| *words).map(|word| (*word).to_owned()));
    let mut unknown = Vec::new();
    let of_pages = pages().into_iter().map(|path| (code_of_page(&std::fs::read_to_string(&path).unwrap()), path));
    let of_sources =
        sources().into_iter().map(|path| (strings_of_source(&std::fs::read_to_string(&path).unwrap()), path));
    for (texts, path) in of_pages.chain(of_sources) {
        for text in texts {
            let new = names(&text).into_iter().filter(|name| !known.contains(name) && !name.starts_with("pgvigil_"));
            unknown.extend(new.map(|name| format!("{name} in {}", path.file_name().unwrap().display())));
        }
    }
    assert!(
        unknown.is_empty(),
        "neither in the table of remedies nor among the words that are no advice: {unknown:#?}"
    );
}

#[test]
fn a_statement_and_a_setting_that_the_table_lacks_are_found() {
    assert!(
        is_statement("SELECT pg_promote()")
            && is_statement("then ALTER SYSTEM SET fsync = off")
            && !is_statement("SELECT")
    );
    assert_eq!(code_of_page("a `b\n  c` d `e`"), ["b c", "e"]);
    assert_eq!(strings_of_source("let a = \"b \\\n  c\"; // \"no\"\n// \"no\"\n#[cfg(test)] \"no\""), ["b \\ c", "no"]);
    assert_eq!(names("raise full_page_writes (X_y, _z, a_)").into_iter().collect::<Vec<_>>(), ["full_page_writes"]);
}
