#![no_main]
#[allow(dead_code, reason = "each target takes one")]
#[path = "../../tests/it/fuzzed/entries.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|text: &str| entries::template(text));
