//! Layers: a table of settings that knows where each of them was written.

use std::path::Path;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

use super::Overrides;
use super::error::{ConfigError, Problem};

/// The keys and list positions that lead to a value: `["cluster", "0", "target", "1", "dsn"]`.
pub(super) type KeyPath = Vec<String>;

/// Settings from one place.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) dict: Dict,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// A file, by its path as given.
    File(String),
    /// Variables made for pgvigil, each with the key it sets.
    Variables(Vec<(KeyPath, String)>),
    /// Variables made for an application, each with the key it sets. Taken literally: `${` in a password is a password.
    Foreign(Vec<(KeyPath, String)>),
    /// Options of the command line.
    Options(Vec<(KeyPath, String)>),
}

impl Layer {
    /// Where the value at `path` was written. `None` when this layer does not say it.
    pub(super) fn source_of(&self, path: &[String]) -> Option<String> {
        find(&self.dict, path)?;
        let named = |names: &[(KeyPath, String)]| {
            let covers = |known: &&(KeyPath, String)| path.starts_with(&known.0) || known.0.starts_with(path);
            names.iter().find(covers).map(|(_, name)| name.clone())
        };
        match &self.kind {
            Kind::File(path) => Some(path.clone()),
            Kind::Variables(names) | Kind::Foreign(names) => {
                named(names).map(|name| format!("environment variable {name}"))
            }
            Kind::Options(names) => named(names),
        }
    }

    /// The file, or the names of the variables or options.
    pub(super) fn sources(&self) -> Vec<String> {
        match &self.kind {
            Kind::File(path) => vec![path.clone()],
            Kind::Variables(names) | Kind::Foreign(names) | Kind::Options(names) => {
                let mut names: Vec<String> = names.iter().map(|(_, name)| name.clone()).collect();
                names.sort();
                names.dedup();
                names
            }
        }
    }

    /// Whether the source already names the key, so that an error need not name it again.
    pub(super) fn source_is_the_key(&self) -> bool {
        matches!(self.kind, Kind::Variables(_) | Kind::Options(_))
    }
}

impl Provider for &Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named("layer")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}

/// The value at `path`. The empty path has none of its own.
pub(super) fn find<'a>(root: &'a Dict, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(root.get(first)?, |value, step| match value {
        Value::Dict(_, dict) => dict.get(step),
        Value::Array(_, items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Sets the value at `path`, making tables on the way. `false` when something on the way is not a table.
pub(super) fn set(root: &mut Dict, path: &[String], value: Value) -> bool {
    match path {
        [] => false,
        [last] => {
            root.insert(last.clone(), value);
            true
        }
        [first, rest @ ..] => match root.entry(first.clone()).or_insert_with(|| Value::from(Dict::new())) {
            Value::Dict(_, inner) => set(inner, rest, value),
            _ => false,
        },
    }
}

/// Reads a TOML file. A syntax error is told by line and column, without the line itself: it may hold a password.
pub(super) fn file(path: &Path) -> Result<Layer, ConfigError> {
    let source = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| {
        ConfigError::one(Problem::new(source.clone(), String::new(), format!("cannot read the file: {error}")))
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let (good, rest) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let (line, column) = position(&String::from_utf8_lossy(good), good.len());
        let byte = rest.first().map_or_else(String::new, |byte| format!(": \\x{byte:02X}"));
        let reason = format!("not UTF-8{byte}; save the file as UTF-8");
        ConfigError::one(Problem::new(format!("{source}:{line}:{column}"), String::new(), reason))
    })?;
    let dict: Dict = Toml::from_str(&text).map_err(|error| {
        let at = error.span().map(|span| position(&text, span.start));
        let source = at.map_or_else(|| source.clone(), |(line, column)| format!("{source}:{line}:{column}"));
        ConfigError::one(Problem::new(source, String::new(), format!("not TOML: {}", one_line(error.message()))))
    })?;
    Ok(Layer { dict, kind: Kind::File(source) })
}

pub(super) fn overrides(overrides: &Overrides) -> Option<Layer> {
    let listen = overrides.listen.as_ref()?;
    let path = vec!["server".to_owned(), "listen".to_owned()];
    let mut dict = Dict::new();
    set(&mut dict, &path, Value::from(listen.as_str()));
    Some(Layer { dict, kind: Kind::Options(vec![(path, "--listen".to_owned())]) })
}

/// Line and column, from 1, of a byte offset.
/// What is wrong with a text, and where, without the line itself.
pub(crate) fn toml_fault(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map(|span| position(text, span.start));
    let at = at.map_or_else(String::new, |(line, column)| format!("line {line}, column {column}: "));
    format!("{at}{}", one_line(error.message()))
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn one_line(message: &str) -> String {
    message.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ")
}
