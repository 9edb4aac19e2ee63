//! The configuration: the sum of what the parts want to know, brought together from four layers and checked as a whole.
//!
//! Built-in defaults < file (TOML) < environment (`PGVIGIL_*`) < command line. Without a file, the variables in which
//! applications keep their connection strings make one cluster (see [`environment`]). Each part defines and reads its own
//! section; only what concerns several parts is checked here. An error names where the value stands, the key, the reason
//! and the way out, and never repeats a secret.

pub mod environment;
mod error;
mod expand;
mod layers;
mod parts;
mod validate;

use std::fmt;
use std::path::Path;

use figment::Figment;
use figment::value::Dict;
use serde::Deserialize;

use environment::Environment;
pub use error::ConfigError;
use error::{Located, Problem};
use layers::Layer;
pub use parts::{HealthConfig, NotifierConfig, PollConfig, RuleConfig, ServerConfig, StatementsConfig};

/// What the daemon watches, and how.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: ServerConfig,
    pub poll: PollConfig,
    pub statements: StatementsConfig,
    pub health: HealthConfig,
    #[serde(rename = "cluster")]
    pub clusters: Vec<ClusterConfig>,
    #[serde(rename = "rule")]
    pub rules: Vec<RuleConfig>,
    pub notify: Vec<NotifierConfig>,
}

/// Servers that replicate one another.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    pub name: String,
    #[serde(rename = "target", default)]
    pub targets: Vec<TargetConfig>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    pub name: String,
    pub dsn: Dsn,
}

/// A connection string as written: a URL or `key=value` pairs. It may hold a password, so it is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Dsn(String);

impl Dsn {
    /// The string itself, for the one who connects.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dsn(hidden)")
    }
}

/// What a start was given, apart from the defaults.
#[derive(Debug)]
pub struct Inputs<'a> {
    pub file: Option<&'a Path>,
    pub environment: &'a Environment,
    pub overrides: &'a Overrides,
}

/// Settings from the command line, the topmost layer.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--listen`.
    pub listen: Option<String>,
}

/// A configuration that holds together, and where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// The layers that said something, lowest first: `config/prod.toml`, `DATABASE_URL`, `PGVIGIL_SERVER__LISTEN`, `--listen`.
    pub sources: Vec<String>,
    /// Variables with connection strings that were left aside because a file says what to watch.
    pub ignored: Vec<String>,
}

/// Reads, merges and checks all layers.
pub fn load(inputs: &Inputs<'_>) -> Result<Loaded, ConfigError> {
    let mut layers = Vec::new();
    let mut ignored = Vec::new();
    let conventional = environment::conventional(inputs.environment);
    if let Some(path) = inputs.file {
        layers.push(layers::file(path)?);
        ignored = environment::conventional_names(inputs.environment);
    } else if let Some(layer) = conventional? {
        layers.push(layer);
    }
    let references = layers.iter().flat_map(|layer| expand::references(&layer.dict)).collect();
    layers.extend(environment::own(inputs.environment, &references)?);
    layers.extend(layers::overrides(inputs.overrides));
    if inputs.file.is_none() && !layers.iter().any(|layer| layer.dict.contains_key("cluster")) {
        return Err(ConfigError::NothingToWatch);
    }

    let mut root = merge(&layers)?;
    let expansions = expand::expand(&mut root, &layers, inputs.environment).map_err(ConfigError::one)?;
    let located = Located { layers: &layers, root: &root, expansions: &expansions };
    let config: Config = figment::value::Value::from(root.clone())
        .deserialize()
        .map_err(|error| ConfigError::one(located.explain(error)))?;
    let problems: Vec<Problem> =
        validate::problems(&config).into_iter().map(|finding| located.locate(finding)).collect();
    if problems.is_empty() {
        let sources = layers.iter().flat_map(Layer::sources).collect();
        Ok(Loaded { config, sources, ignored })
    } else {
        Err(ConfigError::Invalid(problems))
    }
}

/// One table out of all layers: tables are merged key by key, anything else is replaced by the higher layer.
fn merge(layers: &[Layer]) -> Result<Dict, ConfigError> {
    layers
        .iter()
        .fold(Figment::new(), Figment::merge)
        .extract()
        .map_err(|error| ConfigError::one(Problem::new(String::new(), String::new(), error.kind.to_string())))
}

#[cfg(test)]
mod tests;
