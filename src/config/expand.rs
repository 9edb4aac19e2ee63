//! Secrets kept out of the file: `${VAR}` anywhere in a string, and `file:PATH` for a whole one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Value};

use super::environment::Environment;
use super::error::{Problem, key_of};
use super::layers::{KeyPath, Kind, Layer};

/// A value that was not written as it stands. Errors show what was written.
pub(super) struct Expansion {
    pub(super) path: KeyPath,
    pub(super) written: String,
    pub(super) value: String,
    /// Where it was read.
    pub(super) file: Option<PathBuf>,
}

/// Replaces `${VAR}` and `file:PATH` in every string, and says what was replaced. `$${` stands for `${`.
pub(super) fn expand(root: &mut Dict, layers: &[Layer], environment: &Environment) -> Result<Vec<Expansion>, Problem> {
    let mut written = Vec::new();
    strings(root, &mut Vec::new(), &mut written);
    let mut expansions = Vec::new();
    for (path, text) in written {
        let Some(layer) = layers.iter().rev().find(|layer| layer.source_of(&path).is_some()) else { continue };
        if matches!(layer.kind, Kind::Foreign(_)) || !(text.contains("${") || text.starts_with("file:")) {
            continue;
        }
        let (value, file) = resolve(&text, &directory(layer), environment).map_err(|reason| {
            let key = if layer.source_is_the_key() { String::new() } else { key_of(root, &path) };
            Problem::new(layer.source_of(&path).unwrap_or_default(), key, reason)
        })?;
        if let Some(place) = find_mut(root, &path) {
            *place = Value::from(value.clone());
        }
        expansions.push(Expansion { path, written: text, value, file });
    }
    Ok(expansions)
}

/// The variables that strings of `dict` refer to.
pub(super) fn references(dict: &Dict) -> BTreeSet<String> {
    let mut found = Vec::new();
    strings(dict, &mut Vec::new(), &mut found);
    let names = |text: &String| -> Vec<String> {
        text.split("${").skip(1).filter_map(|rest| Some(rest.split_once('}')?.0.to_owned())).collect()
    };
    found.iter().flat_map(|(_, text)| names(text)).collect()
}

/// The directory that a relative `file:PATH` starts from: the configuration file's, or else the working directory.
fn directory(layer: &Layer) -> PathBuf {
    match &layer.kind {
        Kind::File(path) => Path::new(path).parent().map(Path::to_path_buf).unwrap_or_default(),
        Kind::Variables(_) | Kind::Foreign(_) | Kind::Options(_) => PathBuf::new(),
    }
}

/// The value, and the file that has it.
fn resolve(written: &str, directory: &Path, environment: &Environment) -> Result<(String, Option<PathBuf>), String> {
    let text = substitute(written, environment)?;
    let Some(path) = written.starts_with("file:").then(|| text.trim_start_matches("file:")) else {
        return Ok((text, None));
    };
    let path = directory.join(path);
    let content = std::fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let content = String::from_utf8(content).map_err(|_| format!("cannot read {}: it is not UTF-8", path.display()))?;
    Ok((content.trim_end_matches(['\r', '\n']).to_owned(), Some(path)))
}

fn substitute(written: &str, environment: &Environment) -> Result<String, String> {
    let mut text = String::with_capacity(written.len());
    let mut rest = written;
    while let Some(dollar) = rest.find('$') {
        text.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        if let Some(after) = rest.strip_prefix("$${") {
            text.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let (name, after) = after
                .split_once('}')
                .ok_or("\"${\" is not closed by \"}\"; write \"$${\" for the characters themselves")?;
            if !is_variable_name(name) {
                return Err("\"${...}\" must hold the name of an environment variable; write \"$${\" for the characters themselves".to_owned());
            }
            let value = environment.get(name).ok_or_else(|| format!("environment variable {name} is not set"))?;
            text.push_str(value);
            rest = after;
        } else {
            text.push('$');
            rest = &rest[1..];
        }
    }
    text.push_str(rest);
    Ok(text)
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn strings(dict: &Dict, path: &mut KeyPath, found: &mut Vec<(KeyPath, String)>) {
    for (key, value) in dict {
        path.push(key.clone());
        strings_of(value, path, found);
        path.pop();
    }
}

fn strings_of(value: &Value, path: &mut KeyPath, found: &mut Vec<(KeyPath, String)>) {
    match value {
        Value::String(_, text) => found.push((path.clone(), text.clone())),
        Value::Dict(_, dict) => strings(dict, path, found),
        Value::Array(_, items) => {
            for (position, item) in items.iter().enumerate() {
                path.push(position.to_string());
                strings_of(item, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

fn find_mut<'a>(root: &'a mut Dict, path: &[String]) -> Option<&'a mut Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(root.get_mut(first)?, |value, step| match value {
        Value::Dict(_, dict) => dict.get_mut(step),
        Value::Array(_, items) => items.get_mut(step.parse::<usize>().ok()?),
        _ => None,
    })
}
