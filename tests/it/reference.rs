//! The book's reference of the configuration: made from `config/example.toml`, which has every key. What a key is when it is
//! not written comes from loading the example without it.

use std::collections::BTreeMap;

use pgvigil::config::environment::Environment;
use pgvigil::config::{Inputs, Overrides, load};

use crate::readme::{root, with_section};

/// A key where the example shows it first.
struct Key {
    line: usize,
    name: String,
    /// As TOML has it.
    shown: String,
    meaning: String,
}

/// A section, with what the example says of it and of its keys.
#[derive(Default)]
struct Section {
    title: String,
    about: String,
    keys: Vec<Key>,
}

/// The example's lines without the `#` before what is a key or a section.
fn complete(example: &str) -> Vec<&str> {
    let is_written = |rest: &&str| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    example.lines().map(|line| line.strip_prefix('#').filter(is_written).unwrap_or(line)).collect()
}

/// What the configuration comes to; or why it is none.
fn loaded(lines: &[&str]) -> Result<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pgvigil.toml");
    std::fs::write(&path, lines.join("\n")).unwrap();
    let secrets = ["PGVIGIL_TOKEN", "STATUS_READ_TOKEN", "STATUS_PASSWORD"];
    let environment: Environment =
        secrets.iter().map(|name| ((*name).to_owned(), "a-secret-of-this-test".to_owned())).collect();
    let inputs = Inputs { file: Some(&path), environment: &environment, overrides: &Overrides::default() };
    load(&inputs).map(|loaded| format!("{:?}", loaded.config)).map_err(|error| error.to_string())
}

fn sections(lines: &[&str]) -> Vec<Section> {
    let mut found = vec![Section { title: "At the top".to_owned(), ..Section::default() }];
    let mut current = 0;
    let (mut comment, mut after_key) = (String::new(), false);
    for (at, line) in lines.iter().enumerate().map(|(at, line)| (at, line.trim())) {
        if let Some(text) = line.strip_prefix('#') {
            if after_key {
                comment.clear();
            }
            after_key = false;
            if !comment.is_empty() {
                comment.push(' ');
            }
            comment.push_str(text.trim());
        } else if line.is_empty() {
            comment.clear();
        } else if line.starts_with('[') {
            let mut title = format!("`{line}`");
            // Each kind of notifier has keys of its own.
            if line == "[[notify]]" {
                let of_type = lines[at..].iter().find_map(|line| line.trim().strip_prefix("type = ")).unwrap();
                title = format!("`{line}` of type `{}`", of_type.trim_matches('"'));
            }
            current = found.iter().position(|section| section.title == title).unwrap_or_else(|| {
                found.push(Section { title, about: std::mem::take(&mut comment), keys: Vec::new() });
                found.len() - 1
            });
            comment.clear();
            after_key = false;
        } else {
            let (name, shown) = line.split_once('=').map(|(name, shown)| (name.trim(), shown.trim())).unwrap();
            after_key = true;
            // A second kind of a section's need not explain what the first has.
            let header = found[current].title.split(" of ").next().unwrap();
            let same =
                found.iter().filter(|section| section.title.starts_with(header)).flat_map(|section| &section.keys);
            let explained = same.filter(|key| key.name == name).map(|key| key.meaning.clone()).next();
            let meaning = if comment.is_empty() { explained.unwrap_or_default() } else { comment.clone() };
            let keys = &mut found[current].keys;
            if keys.iter().all(|key| key.name != name) {
                let (name, shown) = (name.to_owned(), shown.to_owned());
                keys.push(Key { line: at, name, shown, meaning });
            }
        }
    }
    found
}

fn kind(section: &str, key: &Key) -> &'static str {
    let table: BTreeMap<String, toml::Value> = toml::from_str(&format!("key = {}", key.shown)).unwrap();
    match &table["key"] {
        _ if (section, key.name.as_str()) == ("`[health]`", "panic_threshold") => "ratio",
        toml::Value::Boolean(_) => "`true` or `false`",
        toml::Value::Integer(_) => "number",
        toml::Value::Array(_) => "list",
        toml::Value::Table(_) => "table",
        toml::Value::String(text) if humantime::parse_duration(text).is_ok() => "duration",
        _ => "text",
    }
}

/// What holds when it is not written. `Err`: the example does not say so.
fn default(lines: &[&str], whole: &str, key: &Key) -> Result<String, String> {
    let meaning = key.meaning.to_lowercase();
    if ["example", "by default", "left out"].iter().any(|word| meaning.contains(word)) {
        return Ok(format!("as in `{}`", key.shown));
    }
    let mut without = lines.to_vec();
    without[key.line] = "";
    match loaded(&without) {
        Ok(config) if config == whole => Ok(format!("`{}`", key.shown)),
        Err(_) => Ok(format!("required, as in `{}`", key.shown)),
        Ok(_) => Err(format!("{}: {} has another default than this", key.line + 1, key.name)),
    }
}

/// As text of a cell, or of a paragraph.
fn markdown(text: &str) -> String {
    let said_by_the_table =
        ["; this is an example", "; these are examples", " This is an example.", " These are examples.", "Examples. "];
    let text = said_by_the_table.iter().fold(text.to_owned(), |text, words| text.replace(words, ""));
    text.replace('|', "\\|").replace('*', "\\*").replace('<', "&lt;").replace("{{", "&#123;&#123;")
}

fn reference() -> String {
    let example = std::fs::read_to_string(root("config/example.toml")).unwrap();
    let lines = complete(&example);
    let whole = loaded(&lines).unwrap();
    let (mut page, mut faults) = (String::new(), Vec::new());
    for section in sections(&lines) {
        page.push_str(&format!("### {}\n\n", section.title));
        if !section.about.is_empty() {
            page.push_str(&format!("{}\n\n", markdown(&section.about)));
        }
        page.push_str("| key | is | default, or an example | meaning |\n| --- | --- | --- | --- |\n");
        let mut before = None;
        for key in &section.keys {
            if key.meaning.is_empty() {
                faults.push(format!("{}: {} is not explained", key.line + 1, key.name));
            }
            let kind = kind(&section.title, key);
            let default = default(&lines, &whole, key).unwrap_or_else(|fault| {
                faults.push(fault);
                String::new()
            });
            let meaning = if before == Some(&key.meaning) { "as above".to_owned() } else { markdown(&key.meaning) };
            page.push_str(&format!("| `{}` | {kind} | {} | {meaning} |\n", key.name, default.replace('|', "\\|")));
            before = Some(&key.meaning);
        }
        page.push('\n');
    }
    assert!(faults.is_empty(), "config/example.toml: {faults:#?}");
    page
}

#[test]
fn the_book_has_every_key_of_the_configuration() {
    let path = root("docs/src/configuration.md");
    let have = std::fs::read_to_string(&path).unwrap();
    let expect = with_section(&have, "keys", &reference());
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&path, &expect).unwrap();
        return;
    }
    let differs = have.lines().zip(expect.lines()).find(|(have, expect)| have != expect);
    assert!(
        have == expect,
        "docs/src/configuration.md is behind config/example.toml, first at {differs:#?}\n\
         to bring it up to date: UPDATE_README=1 cargo test --test it reference::"
    );
}
