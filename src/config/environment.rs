//! What the environment says: settings in `PGVIGIL_*`, and connection strings under the names that applications use.
//!
//! | write side | read side |
//! | --- | --- |
//! | `DATABASE_URL` | `DATABASE_READ_REPLICA_URL`: one URL, or several separated by commas |
//! | `POSTGRES_PRIMARY_URL` | `POSTGRES_REPLICA_URL`, likewise |
//! | `DB_PRIMARY_HOST` `DB_PRIMARY_PORT` `DB_NAME` `DB_USERNAME` `DB_PASSWORD` | `DB_REPLICA_1_HOST` `DB_REPLICA_1_PORT`, `_2_`, ... |
//!
//! They make one cluster `default` with targets `primary`, `replica-1`, ...

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use figment::value::{Dict, Value};

use super::error::{ConfigError, Problem};
use super::layers::{KeyPath, Kind, Layer, set};

/// Variables by name. Handed in, so that a start depends on nothing hidden.
pub type Environment = BTreeMap<String, String>;

const PREFIX: &str = "PGVIGIL_";

/// The shortest way to an SNS topic: the same as one `[[notify]]` of type `sns`.
const SNS_TOPIC_ARN: &str = "PGVIGIL_SNS_TOPIC_ARN";

/// Options of the command line that have a variable of their own.
const OPTIONS: [&str; 3] = ["PGVIGIL_CONFIG", "PGVIGIL_LOG_FORMAT", "PGVIGIL_TOKEN"];

/// How the names of variables begin that say something here.
const OURS: [&str; 4] = [PREFIX, "DATABASE_", "POSTGRES_", "DB_"];

/// Nothing is so deep in the configuration: neither a key nor what is in brackets.
const DEEPEST: usize = 16;

/// The environment of this process. A variable that is not UTF-8 is left out, unless it is one of ours.
///
/// # Errors
/// Names a variable of ours that is not UTF-8: left out, it would have its default instead.
pub fn of_process() -> Result<Environment, ConfigError> {
    of_variables(std::env::vars_os())
}

fn of_variables(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Environment, ConfigError> {
    let mut environment = Environment::new();
    for (name, value) in variables {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => {
                environment.insert(name, value);
            }
            Err(_) if OURS.iter().any(|prefix| name.starts_with(prefix)) => {
                return Err(fault(&name, "it is not UTF-8".to_owned()));
            }
            Err(_) => {}
        }
    }
    Ok(environment)
}

fn fault(name: &str, reason: String) -> ConfigError {
    ConfigError::one(Problem::new(format!("environment variable {name}"), String::new(), reason))
}

/// How many brackets of a text stand within one another, at the most.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Settings in `PGVIGIL_*`, nested keys by `__`. One that a file refers to as `${PGVIGIL_...}` is the file's own and no setting.
pub(super) fn own(environment: &Environment, references: &BTreeSet<String>) -> Result<Option<Layer>, ConfigError> {
    let mut dict = Dict::new();
    let mut names = Vec::new();
    for (name, text) in environment {
        let Some(key) = name.strip_prefix(PREFIX) else { continue };
        let is_other = OPTIONS.contains(&name.as_str()) || references.contains(name) || is_service_link(key, text);
        if is_other || text.is_empty() {
            continue;
        }
        let (path, value) = if name == SNS_TOPIC_ARN {
            (vec!["notify".to_owned()], sns(text))
        } else {
            let path: KeyPath = key.split("__").map(str::to_ascii_lowercase).collect();
            if path.len() > DEEPEST {
                return Err(fault(name, "there is no key of so many parts".to_owned()));
            }
            (path, read(text))
        };
        let taken = names.iter().find(|(known, _): &&(KeyPath, String)| *known == path);
        if let Some((_, other)) = taken {
            let reason = format!("{other} says the same as this one; set one of them");
            return Err(fault(name, reason));
        }
        if !set(&mut dict, &path, value) {
            let reason = "another variable sets the whole table that this key is in; set one of them".to_owned();
            return Err(fault(name, reason));
        }
        names.push((path, name.clone()));
    }
    Ok((!names.is_empty()).then_some(Layer { dict, kind: Kind::Variables(names) }))
}

/// What a variable says. Reading it cannot go wrong: what is no number, list or table is a string.
fn read(text: &str) -> Value {
    // figment reads what is in brackets by recursion, however deep. It is no good as a string either, and that is told.
    if depth(text) > DEEPEST {
        return Value::from(text);
    }
    if text.is_ascii() || !text.contains('\\') {
        let Ok(value) = text.parse::<Value>();
        return value;
    }
    // figment takes the place of a `\` among the characters for its place among the bytes, and panics where that is amid
    // one. TOML writes such a string the same way.
    let table: Option<Dict> = toml::from_str(&format!("value = {text}")).ok();
    table
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::from(text))
}

fn sns(topic_arn: &str) -> Value {
    let notifier =
        Dict::from([("type".to_owned(), Value::from("sns")), ("topic_arn".to_owned(), Value::from(topic_arn))]);
    Value::from(vec![Value::from(notifier)])
}

/// Variables that Kubernetes sets in every pod for a service named `pgvigil...`; none of them is meant for us.
fn is_service_link(key: &str, value: &str) -> bool {
    let key = format!("_{key}");
    key.ends_with("_SERVICE_HOST")
        || key.contains("_SERVICE_PORT")
        || (key.contains("_PORT_") && key.contains("_TCP") || key.contains("_UDP"))
        || (key.ends_with("_PORT") && (value.starts_with("tcp://") || value.starts_with("udp://")))
}

/// One server, with the variable that names it.
struct Server {
    variable: String,
    dsn: String,
}

/// A way in which applications name their databases.
struct Family {
    /// The variables of it that are set, the primary's first.
    set: Vec<String>,
    /// Its variable for the primary.
    primary_variable: &'static str,
    primary: Option<Server>,
    replicas: Vec<Server>,
}

/// The cluster that the conventional variables describe. `None` when there are none.
pub(super) fn conventional(environment: &Environment) -> Result<Option<Layer>, ConfigError> {
    let mut families = families(environment);
    let Some(family) = families.pop() else { return Ok(None) };
    if let Some(other) = families.first() {
        return Err(ConfigError::Families { first: other.set.join(", "), second: family.set.join(", ") });
    }
    let Some(primary) = family.primary else {
        let reason = format!("names a replica, but {} is not set; set it to the primary", family.primary_variable);
        let variable = family.set.first().map_or("", String::as_str);
        return Err(ConfigError::one(Problem::new(format!("environment variable {variable}"), String::new(), reason)));
    };

    let mut names = Vec::new();
    let mut targets = Vec::new();
    let replicas = family.replicas.into_iter().enumerate();
    let named = std::iter::once(("primary".to_owned(), primary))
        .chain(replicas.map(|(position, replica)| (format!("replica-{}", position + 1), replica)));
    for (position, (name, server)) in named.enumerate() {
        let path = ["cluster", "0", "target", &position.to_string()].map(str::to_owned).to_vec();
        names.push((path, server.variable));
        let target = [("name".to_owned(), Value::from(name)), ("dsn".to_owned(), Value::from(server.dsn))];
        targets.push(Value::from(Dict::from(target)));
    }
    let cluster = [("name".to_owned(), Value::from("default")), ("target".to_owned(), Value::from(targets))];
    let clusters = Value::from(vec![Value::from(Dict::from(cluster))]);
    Ok(Some(Layer { dict: Dict::from([("cluster".to_owned(), clusters)]), kind: Kind::Foreign(names) }))
}

/// The conventional variables that are set.
pub(super) fn conventional_names(environment: &Environment) -> Vec<String> {
    families(environment).into_iter().flat_map(|family| family.set).collect()
}

fn families(environment: &Environment) -> Vec<Family> {
    [
        urls(environment, "DATABASE_URL", "DATABASE_READ_REPLICA_URL"),
        urls(environment, "POSTGRES_PRIMARY_URL", "POSTGRES_REPLICA_URL"),
        hosts(environment),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A variable that says something: compose files pass on unset variables as empty ones.
fn value<'a>(environment: &'a Environment, name: &str) -> Option<&'a str> {
    environment.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
}

fn urls(environment: &Environment, primary: &'static str, replica: &'static str) -> Option<Family> {
    let set: Vec<String> =
        [primary, replica].into_iter().filter(|name| value(environment, name).is_some()).map(str::to_owned).collect();
    let server = |variable: &str, dsn: &str| Server { variable: variable.to_owned(), dsn: dsn.to_owned() };
    (!set.is_empty()).then(|| Family {
        set,
        primary_variable: primary,
        primary: value(environment, primary).map(|url| server(primary, url)),
        replicas: split_urls(value(environment, replica).unwrap_or_default())
            .into_iter()
            .map(|url| server(replica, url))
            .collect(),
    })
}

/// Splits at the commas between URLs; a comma between the hosts of one URL stays.
fn split_urls(text: &str) -> Vec<&str> {
    let mut urls = Vec::new();
    let mut start = 0;
    for (comma, _) in text.match_indices(',') {
        let next = text[comma + 1..].trim_start();
        if next.is_empty() || next.starts_with("postgres://") || next.starts_with("postgresql://") {
            urls.push(&text[start..comma]);
            start = comma + 1;
        }
    }
    urls.push(&text[start..]);
    urls.into_iter().map(str::trim).filter(|url| !url.is_empty()).collect()
}

fn hosts(environment: &Environment) -> Option<Family> {
    let number = |name: &String| name.strip_prefix("DB_REPLICA_")?.strip_suffix("_HOST")?.parse::<u32>().ok();
    let mut numbers: Vec<u32> =
        environment.keys().filter(|name| value(environment, name).is_some()).filter_map(number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let server = |prefix: &str| {
        let variable = format!("{prefix}_HOST");
        let host = value(environment, &variable)?;
        let port = format!("{prefix}_PORT");
        let settings = [("host", Some(host)), ("port", value(environment, &port))].into_iter().chain(
            [("dbname", "DB_NAME"), ("user", "DB_USERNAME"), ("password", "DB_PASSWORD")]
                .map(|(key, name)| (key, value(environment, name))),
        );
        let dsn: Vec<String> = settings.filter_map(|(key, text)| Some(format!("{key}='{}'", escaped(text?)))).collect();
        Some(Server { variable, dsn: dsn.join(" ") })
    };
    let primary = server("DB_PRIMARY");
    let replicas: Vec<Server> = numbers.iter().filter_map(|number| server(&format!("DB_REPLICA_{number}"))).collect();
    let set: Vec<String> = primary.iter().chain(&replicas).map(|server| server.variable.clone()).collect();
    (!set.is_empty()).then_some(Family { set, primary_variable: "DB_PRIMARY_HOST", primary, replicas })
}

/// As libpq wants a quoted value in a `key='value'` string.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_variable_of_ours_that_cannot_be_read_is_told_and_others_are_left_out() {
        let latin = || OsString::from_vec(b"caf\xe9".to_vec());
        let of = |name: &str| of_variables([(OsString::from(name), latin())].into_iter());
        let told = of("PGVIGIL_SERVER__TOKEN").unwrap_err().to_string();
        assert_eq!(told, "environment variable PGVIGIL_SERVER__TOKEN: it is not UTF-8");
        assert!(of("DATABASE_URL").is_err());
        assert_eq!(of("LESSOPEN").unwrap(), Environment::new());
    }

    #[test]
    fn what_is_nested_without_end_is_told() {
        let own =
            |name: &str, text: &str| own(&Environment::from([(name.to_owned(), text.to_owned())]), &BTreeSet::new());
        let deep = "[".repeat(100_000);
        assert_eq!(read(&deep), Value::from(deep.as_str()));
        assert!(own("PGVIGIL_NOTIFY", &deep).is_ok(), "the key's type refuses it");
        let told = own(&format!("PGVIGIL_{}", "A__".repeat(20_000)), "1").unwrap_err().to_string();
        assert!(told.ends_with("there is no key of so many parts"));
    }

    #[test]
    fn strings_are_escaped_after_any_character() {
        let list = |text: &str| Value::from(vec![Value::from(text)]);
        for (text, expect) in [
            (r#""a\nb""#, Value::from("a\nb")),
            (r#""é\nb""#, Value::from("é\nb")),
            (r#"["é😀\"x\""]"#, list("é😀\"x\"")),
            (
                r#"[{name="é\\"}]"#,
                Value::from(vec![Value::from(Dict::from([("name".to_owned(), Value::from("é\\"))]))]),
            ),
            // No string in quotes: what is written is meant.
            (r"C:\é", Value::from(r"C:\é")),
            (r"é\n", Value::from(r"é\n")),
            ("\"é\\n\"\nother = 1", Value::from("\"é\\n\"\nother = 1")),
            ("é", Value::from("é")),
            ("[1, 2]", Value::from(vec![1usize, 2])),
        ] {
            let read = read(text);
            assert_eq!(format!("{read:?}"), format!("{expect:?}"), "{text}");
        }
    }
}
