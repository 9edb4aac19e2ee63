//! How an error of the configuration reads: where it stands, which key, the reason, the way out.

use std::fmt;

use figment::error::{Actual, Kind as FigmentKind};
use figment::value::{Dict, Value};

use super::Written;
use super::expand::Expansion;
use super::layers::{Kind, Layer, find};
use super::validate::Finding;

/// Why there is no configuration to run with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Neither a file nor the environment says what to watch.
    #[error("{HOW_TO_START}")]
    NothingToWatch,
    /// Two ways of naming the databases are set, and nothing says which is meant.
    #[error(
        "the environment names the databases twice: {first}, and {second}; unset one of them, or name a file with --config"
    )]
    Families { first: String, second: String },
    /// What is written is wrong. One line each.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

const HOW_TO_START: &str = r#"nothing to watch: there is no configuration file, and the environment names no database

Give it two connection strings:

    DATABASE_URL=postgresql://pgvigil@primary.example/postgres \
    DATABASE_READ_REPLICA_URL=postgresql://pgvigil@replica.example/postgres \
    pgvigil

or a file:

    pgvigil --config pgvigil.toml

with at least this in it:

    [[cluster]]
    name = "orders"
    target = [
      { name = "primary",   dsn = "postgresql://pgvigil@primary.example/postgres" },
      { name = "replica-1", dsn = "postgresql://pgvigil@replica.example/postgres" },
    ]

"pgvigil demo" shows it at work on a throw-away primary and two replicas."#;

impl ConfigError {
    pub(super) fn one(problem: Problem) -> Self {
        Self::Invalid(vec![problem])
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// One thing that is wrong: `config/prod.toml: cluster "orders", target "orders-primary": dsn: ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    source: String,
    key: String,
    reason: String,
}

impl Problem {
    /// `source` and `key` may be empty when there is nothing to say.
    pub(super) fn new(source: String, key: String, reason: String) -> Self {
        Self { source, key, reason: without_passwords(&reason) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.source, &self.key].into_iter().filter(|part| !part.is_empty()) {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.reason)
    }
}

/// What was read, to say where a problem stands.
pub(super) struct Located<'a> {
    pub(super) layers: &'a [Layer],
    pub(super) root: &'a Dict,
    pub(super) expansions: &'a [Expansion],
}

impl Located<'_> {
    /// What a part found wrong in its own section.
    pub(super) fn explain(&self, error: figment::Error) -> Problem {
        let mut path = error.path;
        let written =
            self.expansions.iter().find(|expansion| expansion.path == path).map(|expansion| &expansion.written);
        let found = |actual: &Actual| written.map_or_else(|| describe(actual), |text| format!("{text:?}"));
        let reason = match error.kind {
            FigmentKind::UnknownField(key, known) => {
                if path.last() != Some(&key) {
                    path.push(key);
                }
                return self.unknown_key(&path, known);
            }
            FigmentKind::UnknownVariant(text, known) => {
                let text = written.unwrap_or(&text);
                format!("{} is not one of {}{}", shown(text), quoted(known), did_you_mean(text, known))
            }
            FigmentKind::InvalidType(Actual::Map, expected) if expected == "a sequence" => {
                let table =
                    path.iter().filter(|step| step.parse::<usize>().is_err()).cloned().collect::<Vec<_>>().join(".");
                format!("a table where a list of tables is needed; write [[{table}]]")
            }
            FigmentKind::InvalidType(actual, expected) | FigmentKind::InvalidValue(actual, expected) => {
                let expected = expectation(&expected);
                let is_text = written.is_none() && matches!(actual, Actual::Str(_));
                // Whoever leaves out a bracket has written a whole section, with the secrets that are in it.
                let found =
                    if is_text && IN_BRACKETS.contains(&&*expected) { "a string".to_owned() } else { found(&actual) };
                format!("{found} where {expected} is needed")
            }
            FigmentKind::MissingField(key) => format!("key {key:?} is missing"),
            other => other.to_string(),
        };
        self.locate(Finding { path, reason })
    }

    /// The last key of `path` is not one of `known`.
    fn unknown_key(&self, path: &[String], known: &[&str]) -> Problem {
        let source = self.source(path);
        let Some((key, table)) = path.split_last() else { return Problem::new(source, String::new(), String::new()) };
        let is_variable = self.layer(path).is_some_and(|layer| matches!(layer.kind, Kind::Variables(_)));
        let spell = |path: &[&str]| {
            if is_variable { format!("PGVIGIL_{}", path.join("__").to_ascii_uppercase()) } else { path.join(".") }
        };
        let sections: Vec<&str> = table.iter().map(String::as_str).collect();
        let way_out = if let Some(near) = nearest(key, known) {
            let near = if is_variable { spell(&[sections.as_slice(), &[near]].concat()) } else { format!("{near:?}") };
            format!("; did you mean {near}?")
        } else if let Some((section, near)) = elsewhere(key) {
            format!("; did you mean {}?", spell(&[section, near]))
        } else if known.is_empty() {
            String::new()
        } else {
            format!("; known keys here are {}", known.join(", "))
        };
        let at = if is_variable { String::new() } else { key_of(self.root, table) };
        Problem::new(source, at, format!("unknown key {key:?}{way_out}"))
    }

    /// A finding with the place where its key was written.
    pub(super) fn locate(&self, finding: Finding) -> Problem {
        let Finding { path, reason } = finding;
        let reason = self
            .expansions
            .iter()
            .filter(|expansion| related(&expansion.path, &path) && !expansion.value.is_empty())
            .fold(reason, |reason, expansion| {
                // A message may show the value as it is, or between quotes with its own quotes escaped.
                let escaped = expansion.value.escape_debug().to_string();
                reason.replace(&expansion.value, &expansion.written).replace(&escaped, &expansion.written)
            });
        let is_the_key = self.layer(&path).is_some_and(Layer::source_is_the_key);
        let key = if is_the_key { String::new() } else { key_of(self.root, &path) };
        Problem::new(self.source(&path), key, reason)
    }

    fn layer(&self, path: &[String]) -> Option<&Layer> {
        self.layers.iter().rev().find(|layer| layer.source_of(path).is_some())
    }

    fn source(&self, path: &[String]) -> String {
        let lowest = || self.layers.first().and_then(|layer| layer.sources().into_iter().next());
        self.layer(path).and_then(|layer| layer.source_of(path)).or_else(lowest).unwrap_or_default()
    }
}

/// One is the other, or stands within it.
fn related(one: &[String], other: &[String]) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// A key as people find it: `poll.interval`, or `cluster "orders", target "orders-primary": dsn`.
pub(super) fn key_of(root: &Dict, path: &[String]) -> String {
    let mut places: Vec<String> = Vec::new();
    let mut keys: Vec<&str> = Vec::new();
    for (depth, step) in path.iter().enumerate() {
        let is_position = depth > 0 && matches!(find(root, &path[..depth]), Some(Value::Array(..)));
        if is_position && let Some(list) = keys.pop() {
            keys.clear();
            places.push(match name_of(root, &path[..=depth]) {
                Some(name) => format!("{list} {name:?}"),
                None => format!("{list}[{step}]"),
            });
        } else {
            keys.push(step);
        }
    }
    let mut key = places.join(", ");
    if !keys.is_empty() {
        if !key.is_empty() {
            key.push_str(": ");
        }
        key.push_str(&keys.join("."));
    }
    key
}

/// The name of a list's item, when it has one of its own.
fn name_of<'a>(root: &'a Dict, item: &[String]) -> Option<&'a str> {
    let (position, list) = item.split_last()?;
    let Value::Array(_, items) = find(root, list)? else { return None };
    let name = |item: &'a Value| item.as_dict()?.get("name")?.as_str();
    let own = name(items.get(position.parse::<usize>().ok()?)?)?;
    let is_own = items.iter().filter(|item| name(item) == Some(own)).count() == 1;
    (is_own && super::validate::is_name(own)).then_some(own)
}

/// The known word that was probably meant: a few letters away, or begun alike.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let word = plain(word);
    let begins_alike =
        |candidate: &&&str| candidate.starts_with(&format!("{word}_")) || word.starts_with(&format!("{candidate}_"));
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &plain(candidate)), *candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(word.len()) / 3).max(1))
        .map(|(_, candidate)| candidate)
        .or_else(|| known.iter().find(begins_alike).copied())
}

/// A key of another section that has this name, or nearly so.
fn elsewhere(key: &str) -> Option<(&'static str, &'static str)> {
    let sections = known_keys::<Written>("").iter().map(|section| (*section, known_keys::<Written>(section)));
    let found: Vec<_> = sections.filter_map(|(section, keys)| Some((section, nearest(key, keys)?))).collect();
    found.iter().find(|(_, near)| *near == key).or(found.first()).copied()
}

/// The keys that a section of `T` takes (`T`'s own for the empty name), by its own word: it is asked for one that does not exist.
pub(super) fn known_keys<T: serde::de::DeserializeOwned>(section: &str) -> &'static [&'static str] {
    let mut table = Dict::from([("?".to_owned(), Value::from(0_u8))]);
    if !section.is_empty() {
        table = Dict::from([(section.to_owned(), Value::from(table))]);
    }
    match Value::from(table).deserialize::<T>().map_err(|error| error.kind) {
        Err(FigmentKind::UnknownField(_, known)) => known,
        _ => &[],
    }
}

pub(super) fn did_you_mean(word: &str, known: &[&str]) -> String {
    nearest(word, known).map_or_else(String::new, |near| format!("; did you mean {near:?}?"))
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}

fn describe(actual: &Actual) -> String {
    match actual {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        Actual::Str(text) => shown(text),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// What is written in brackets, as [`expectation`] calls it.
const IN_BRACKETS: [&str; 3] = ["a list", "a table", "a map"];

/// A word that was written, unless it is an address: that may hold a secret, and was meant for another key.
pub(super) fn shown(text: &str) -> String {
    if text.contains("://") { "(a URL)".to_owned() } else { format!("{text:?}") }
}

/// serde's word for what it wanted, in TOML's words.
fn expectation(expected: &str) -> String {
    match expected {
        "a sequence" => "a list".to_owned(),
        "a string" => "a string in quotes".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number".to_owned(),
        "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        other if other.starts_with("struct ") || other.starts_with("internally tagged enum ") => "a table".to_owned(),
        other => other.to_owned(),
    }
}

/// Hides the password of a URL that strayed into a message.
fn without_passwords(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(scheme) = rest.find("://") {
        let (before, after) = rest.split_at(scheme + 3);
        safe.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(after.len());
        let (address, after) = after.split_at(end);
        match address.rsplit_once('@') {
            Some((_, host)) => {
                safe.push_str("***@");
                safe.push_str(host);
            }
            None => safe.push_str(address),
        }
        rest = after;
    }
    safe.push_str(rest);
    safe
}
