//! Text of other people's, by chance: what looks like it should, and what does not at all.

pub(crate) mod entries;

use proptest::prelude::*;

/// Words that mean something somewhere, so that chance comes beyond the first check.
const WORDS: &[&str] = &[
    "replay_lag_seconds",
    "slot_retained_bytes",
    "target_up",
    "connections_used_ratio",
    ">",
    ">=",
    "<",
    "==",
    "!=",
    "5s",
    "64MiB",
    "80%",
    "0",
    "1e9",
    "-1",
    "3 of 5",
    "1m",
    "99999999999999y",
    "*",
    "?",
    "r1",
    "{{ reading }}",
    "{{slot}}",
    "{{",
    "}}",
    "https://x/",
    "22:00",
    "06:00",
    "24:00",
    "Europe/Berlin",
    "UTC",
    "mon",
    "2026-03-29T02:30:00Z",
    "critical",
    "\n",
    "\n\n",
    " ",
    "[[rule]]\nname = \"R\"\nwhen = ",
    "[[cluster]]\nname = \"c\"\n[[cluster.target]]\nname = \"t\"\ndsn = ",
    "\"",
    "${HOME}",
    "$${",
    "file:/dev/null",
    "postgresql://u:p@h/d?sslmode=",
    "POLL__INTERVAL=",
    "RULE=[{name=\"R\",when=\"",
    "\"}]",
    "é",
    "\u{0}",
    "[",
    "]",
];

fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof![4 => prop::sample::select(WORDS).prop_map(str::to_owned), 1 => "\\PC{0,8}"];
    prop_oneof![
        prop::collection::vec(word, 0..14).prop_map(|words| words.concat()),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_condition_panics(text in text()) {
        entries::rule(&text);
    }

    #[test]
    fn no_template_panics(text in text()) {
        entries::template(&text);
    }

    #[test]
    fn no_silence_panics(text in text()) {
        entries::silence(&text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_configuration_panics(text in text()) {
        entries::config(&text);
    }
}
