//! The configuration: the sum of what the parts want to know, brought together from four layers and checked as a whole.
//!
//! Built-in defaults < file (TOML) < environment (`PGVIGIL_*`) < command line. Without a file, the variables in which
//! applications keep their connection strings make one cluster (see [`environment`]). Each part defines and reads its own
//! section; only what concerns several parts is checked here. An error names where the value stands, the key, the reason
//! and the way out, and never repeats a secret.

mod cloudwatch;
pub mod environment;
mod error;
mod expand;
mod layers;
mod rules;
mod validate;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use figment::Figment;
use figment::value::{Dict, Value};
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::agent_check::AgentConfig;
use crate::aws;
use crate::collect::conninfo::Conninfo;
use crate::collect::login::{Auth, Login, LoginConfig, LoginFault};
use crate::collect::{PollConfig, StatementsConfig};
use crate::core::fleet::{ClusterSpec, DiscoverySpec, FleetSpec};
use crate::core::heartbeat::Limits;
use crate::core::ledger::pacing::AlertingConfig;
use crate::core::rule::{OneOrMany, Rule, RuleConfig};
use crate::core::silence::window::{Window, WindowConfig};
use crate::core::topology::{Name, TargetId};
use crate::discovery;
use crate::http::{HealthConfig, MetricsConfig, ServerConfig};
use crate::notify::{NotifierConfig, heartbeat};
use crate::store::StoreConfig;
use environment::Environment;
pub use error::ConfigError;
use error::{Located, Problem};
use layers::Layer;
pub(crate) use layers::toml_fault;

/// What the daemon watches, and how: read, checked and ready to use.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: ServerConfig,
    pub poll: PollConfig,
    pub statements: StatementsConfig,
    pub health: HealthConfig,
    pub agent_check: AgentConfig,
    pub metrics: MetricsConfig,
    /// The dead man's switch. `None`: there is none.
    pub heartbeat: Option<heartbeat::Config>,
    /// The file that keeps what outlives a restart. `None`: nothing is kept.
    pub store: Option<PathBuf>,
    pub clusters: Vec<Cluster>,
    /// What to look for in AWS, beside what is listed.
    pub discover: Vec<discovery::Config>,
    /// Poolers before clusters that are to be found there.
    pub awaiting_poolers: Vec<Target>,
    /// Those of the presets and the written ones, or the built-in ones when nothing is written.
    pub rules: Vec<Rule>,
    /// Rules of the presets that cannot be judged, since what they read comes from CloudWatch and is not read there.
    pub awaiting_rules: Vec<Name>,
    pub alerting: AlertingConfig,
    /// Windows of maintenance.
    pub maintenance: Vec<Window>,
    pub aws: aws::Config,
    pub cloudwatch: aws::cloudwatch::Config,
    /// What is read of CloudWatch. `None`: nothing.
    pub wanted: Option<aws::cloudwatch::Wanted>,
    /// The targets that CloudWatch knows.
    pub instances: Vec<aws::cloudwatch::Instance>,
    /// The written ones, or the log when none are written.
    pub notifiers: Vec<NotifierConfig>,
}

/// Servers that replicate one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub name: Name,
    pub targets: Vec<Target>,
    /// Connection poolers before them: their names are in the ids' place of a target's.
    pub poolers: Vec<Target>,
    /// Replication groups of ElastiCache beside them.
    pub redis: Vec<Name>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub id: TargetId,
    pub conninfo: Arc<Conninfo>,
}

impl Config {
    /// What the core must know.
    pub fn fleet_spec(&self) -> FleetSpec {
        let cluster = |cluster: &Cluster| ClusterSpec {
            name: cluster.name.clone(),
            targets: cluster.targets.iter().map(|target| target.id.target.clone()).collect(),
            poolers: cluster.poolers.iter().map(|pooler| pooler.id.target.clone()).collect(),
            redis: cluster.redis.clone(),
        };
        let discovery = |(place, config): (usize, &discovery::Config)| DiscoverySpec {
            name: discovery::name(place),
            looks_for: config.looks_for(),
            stale_after: config.stale_after(),
        };
        FleetSpec {
            clusters: self.clusters.iter().map(cluster).collect(),
            discoveries: self.discover.iter().enumerate().map(discovery).collect(),
            poll_interval: self.poll.interval,
            stale_after: self.poll.stale_after(),
            survey_stale_after: self.poll.survey_stale_after(),
            pooler_stale_after: self.poll.pooler_stale_after(),
            rules: self.rules.clone(),
            maintenance: self.maintenance.clone(),
            recipients: self
                .notifiers
                .iter()
                .enumerate()
                .flat_map(|(place, notifier)| notifier.recipients(place, &self.alerting))
                .collect(),
            alerting: self.alerting.clone(),
        }
    }

    /// Watches what was found in AWS as well, with what stands beside it.
    pub fn add(&mut self, found: &discovery::Clusters) {
        for cluster in &found.clusters {
            let is_of = |id: &TargetId| id.cluster == cluster.name;
            let poolers = self.awaiting_poolers.iter().filter(|pooler| is_of(&pooler.id)).cloned().collect();
            let groups = self.wanted.iter().flat_map(|wanted| &wanted.groups).filter(|group| is_of(&group.id));
            let redis = groups.map(|group| group.id.target.clone()).collect();
            self.clusters.push(Cluster { poolers, redis, ..cluster.clone() });
        }
        self.instances.extend(found.instances.iter().cloned());
    }

    /// What stops the heart.
    pub fn heartbeat_limits(&self) -> Limits {
        Limits { answer: self.poll.stale_after(), failure: self.poll.longest_wait() }
    }

    /// Who is told at each beat: the notifier that is named for it, and Alertmanagers, for which it is an alert that always fires.
    pub fn heartbeat_hearers(&self) -> Vec<Name> {
        let Some(heartbeat) = &self.heartbeat else { return Vec::new() };
        let is_named = |place, notifier: &NotifierConfig| {
            heartbeat.notify.as_ref().is_some_and(|name| notifier.name(place) == Name::new(name))
        };
        let notifiers = self.notifiers.iter().enumerate();
        notifiers
            .filter(|(place, notifier)| {
                matches!(notifier, NotifierConfig::Alertmanager(_)) || is_named(*place, notifier)
            })
            .flat_map(|(place, notifier)| notifier.names(place))
            .collect()
    }

    /// Secrets that log in somewhere, each once.
    pub fn secrets(&self) -> Vec<aws::SecretRef> {
        let targets = self.clusters.iter().flat_map(|cluster| cluster.targets.iter().chain(&cluster.poolers));
        let mut secrets: Vec<aws::SecretRef> = targets
            .filter_map(|target| match target.conninfo.login() {
                Login::Secret(secret) => Some(secret.clone()),
                Login::Password | Login::Iam(_) => None,
            })
            .collect();
        secrets.sort();
        secrets.dedup();
        secrets
    }

    /// How many servers are watched.
    pub fn n_targets(&self) -> usize {
        self.clusters.iter().map(|cluster| cluster.targets.len()).sum()
    }

    /// How many connection poolers are watched.
    pub fn n_poolers(&self) -> usize {
        self.clusters.iter().map(|cluster| cluster.poolers.len()).sum()
    }
}

/// The sections as written: the sum of the parts' own.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    server: ServerConfig,
    poll: PollConfig,
    statements: StatementsConfig,
    health: HealthConfig,
    agent_check: AgentConfig,
    metrics: MetricsConfig,
    heartbeat: Option<heartbeat::Config>,
    store: StoreConfig,
    cluster: Vec<WrittenCluster>,
    discover: Vec<discovery::Config>,
    pooler: Vec<WrittenPooler>,
    preset: OneOrMany,
    rule: Vec<RuleConfig>,
    alerting: AlertingConfig,
    aws: aws::Config,
    cloudwatch: aws::cloudwatch::Config,
    redis: Vec<aws::cloudwatch::RedisConfig>,
    maintenance: Vec<WindowConfig>,
    notify: Vec<NotifierConfig>,
}

/// One `[[cluster]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCluster {
    name: String,
    #[serde(default)]
    target: Vec<WrittenTarget>,
}

/// One `[[cluster.target]]`. Its connection string is read here, once, so that no part of it can be shown later.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTarget {
    name: String,
    /// May be left out where a secret says all of it.
    #[serde(default, deserialize_with = "some_conninfo")]
    dsn: Option<Conninfo>,
    #[serde(default)]
    secret: Option<String>,
    #[serde(default)]
    auth: Option<Auth>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    role_arn: Option<String>,
    #[serde(default)]
    cloudwatch: Option<aws::cloudwatch::InstanceConfig>,
}

impl WrittenTarget {
    fn login(&self) -> LoginConfig {
        LoginConfig {
            secret: self.secret.clone(),
            auth: self.auth,
            user: self.user.clone(),
            region: self.region.clone(),
            role_arn: self.role_arn.clone(),
        }
    }

    /// How to log in to it.
    fn conninfo(&self, aws: &aws::Config) -> Result<Conninfo, LoginFault> {
        self.login().applied_to(self.dsn.clone(), aws.region.as_deref())
    }
}

fn some_conninfo<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Conninfo>, D::Error> {
    conninfo(deserializer).map(Some)
}

/// One `[[pooler]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPooler {
    name: String,
    #[serde(deserialize_with = "conninfo")]
    dsn: Conninfo,
    #[serde(default)]
    secret: Option<String>,
    /// Of the secret.
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    role_arn: Option<String>,
    /// May be left out where there is but one.
    #[serde(default)]
    cluster: Option<String>,
}

impl WrittenPooler {
    /// How to log in to it.
    fn conninfo(&self, aws: &aws::Config) -> Result<Conninfo, LoginFault> {
        let (secret, region, role_arn) = (self.secret.clone(), self.region.clone(), self.role_arn.clone());
        let login = LoginConfig { secret, region, role_arn, ..LoginConfig::default() };
        login.applied_to(Some(self.dsn.clone()), aws.region.as_deref())
    }
}

fn conninfo<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Conninfo, D::Error> {
    let text = String::deserialize(deserializer)?;
    // libpq takes it for whatever server is on this machine, which a secret that was lost does not mean.
    if text.trim().is_empty() {
        return Err(D::Error::custom("is empty; write for example \"postgresql://orders.example.internal/postgres\""));
    }
    Conninfo::parse(&text).map_err(D::Error::custom)
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
    /// The files that were read: the configuration, and what `file:PATH` names.
    pub files: Vec<PathBuf>,
}

/// Where a configuration is read from, again and again.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub file: Option<PathBuf>,
    pub environment: Environment,
    pub overrides: Overrides,
}

impl Source {
    /// Reads, merges and checks all layers.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        load(&Inputs { file: self.file.as_deref(), environment: &self.environment, overrides: &self.overrides })
    }
}

impl Loaded {
    /// One line for people: what would be watched.
    pub fn summary(&self) -> String {
        let config = &self.config;
        let notifiers: Vec<String> =
            config.notifiers.iter().enumerate().map(|(place, notifier)| notifier.name(place).to_string()).collect();
        let poolers = match config.n_poolers() {
            0 => String::new(),
            n_poolers => format!("{}, ", counted(n_poolers, "pooler")),
        };
        let discoveries = match config.discover.len() {
            0 => String::new(),
            n_discoveries => format!(
                "what {} of AWS {}, ",
                counted(n_discoveries, "discovery").replace("discoverys", "discoveries"),
                if n_discoveries == 1 { "finds" } else { "find" }
            ),
        };
        let awaiting = match config.awaiting_rules.len() {
            0 => String::new(),
            n_awaiting => format!(" ({n_awaiting} more read CloudWatch, which is not read)"),
        };
        format!(
            "configuration ok ({}): {}, {}, {poolers}{discoveries}{}{awaiting}, notifiers: {}",
            self.sources.join(", "),
            counted(config.clusters.len(), "cluster"),
            counted(config.n_targets(), "target"),
            counted(config.rules.len(), "rule"),
            notifiers.join(", ")
        )
    }

    /// The same for programs.
    pub fn summary_json(&self) -> serde_json::Value {
        let clusters = self.config.clusters.iter().map(|cluster| {
            let names = |list: &[Target]| list.iter().map(|target| target.id.target.clone()).collect::<Vec<_>>();
            let (targets, poolers) = (names(&cluster.targets), names(&cluster.poolers));
            serde_json::json!({ "name": cluster.name, "targets": targets, "poolers": poolers })
        });
        serde_json::json!({
            "ok": true,
            "sources": self.sources,
            "clusters": clusters.collect::<Vec<_>>(),
            "rules": self.config.rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>(),
            "awaiting_rules": self.config.awaiting_rules,
        })
    }
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
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
    let says_what = |layer: &Layer| ["cluster", "discover"].iter().any(|key| layer.dict.contains_key(*key));
    if inputs.file.is_none() && !layers.iter().any(says_what) {
        return Err(ConfigError::NothingToWatch);
    }

    let mut root = merge(&layers)?;
    let expansions = expand::expand(&mut root, &layers, inputs.environment).map_err(ConfigError::one)?;
    let located = Located { layers: &layers, root: &root, expansions: &expansions };
    let written: Written =
        Value::from(root.clone()).deserialize().map_err(|error| ConfigError::one(located.explain(error)))?;
    let config = validate::checked(written, inputs.environment).map_err(|findings| {
        ConfigError::Invalid(findings.into_iter().map(|finding| located.locate(finding)).collect())
    })?;
    let sources = layers.iter().flat_map(Layer::sources).collect();
    let referenced = expansions.into_iter().filter_map(|expansion| expansion.file);
    let files = inputs.file.map(Path::to_path_buf).into_iter().chain(referenced).collect();
    Ok(Loaded { config, sources, ignored, files })
}

/// What rules there are, and what is needed to try them.
#[derive(Clone, Debug)]
pub struct RuleSet {
    pub rules: Vec<Rule>,
    pub poll_interval: Duration,
    /// Where a daemon of this configuration keeps what outlives a restart.
    pub store: Option<PathBuf>,
}

/// The rules of a configuration. What it says of servers and notifiers is not read: to try rules takes no password.
pub fn rules(file: Option<&Path>, environment: &Environment) -> Result<RuleSet, ConfigError> {
    let mut layers: Vec<Layer> = file.map(layers::file).transpose()?.into_iter().collect();
    layers.extend(environment::own(
        environment,
        &layers.iter().flat_map(|layer| expand::references(&layer.dict)).collect(),
    )?);
    for layer in &mut layers {
        layer.dict.retain(|key, _| {
            ["cluster", "discover", "pooler", "preset", "rule", "poll", "store", "cloudwatch", "redis"]
                .contains(&key.as_str())
        });
        for key in ["cluster", "pooler"] {
            without_dsn(layer.dict.get_mut(key));
        }
    }
    let root = merge(&layers)?;
    let located = Located { layers: &layers, root: &root, expansions: &[] };
    let written: Written =
        Value::from(root.clone()).deserialize().map_err(|error| ConfigError::one(located.explain(error)))?;
    let rules = validate::checked_rules(&written).map_err(|findings| {
        ConfigError::Invalid(findings.into_iter().map(|finding| located.locate(finding)).collect())
    })?;
    let store = written.store.file(|name| environment.get(name).cloned());
    Ok(RuleSet { rules, poll_interval: written.poll.interval, store })
}

/// `[server]` alone: where a daemon of this configuration listens, and what it asks of who comes. The rest is not read: to
/// ask a daemon takes no password of a database.
pub fn server(
    file: Option<&Path>,
    environment: &Environment,
    overrides: &Overrides,
) -> Result<ServerConfig, ConfigError> {
    let mut layers: Vec<Layer> = file.map(layers::file).transpose()?.into_iter().collect();
    let references = layers.iter().flat_map(|layer| expand::references(&layer.dict)).collect();
    layers.extend(environment::own(environment, &references)?);
    layers.extend(layers::overrides(overrides));
    for layer in &mut layers {
        layer.dict.retain(|key, _| key == "server");
    }
    let mut root = merge(&layers)?;
    let expansions = expand::expand(&mut root, &layers, environment).map_err(ConfigError::one)?;
    let located = Located { layers: &layers, root: &root, expansions: &expansions };
    let written: Written =
        Value::from(root.clone()).deserialize().map_err(|error| ConfigError::one(located.explain(error)))?;
    Ok(written.server)
}

/// Puts a connection string that leads nowhere in the place of each.
fn without_dsn(value: Option<&mut Value>) {
    match value {
        Some(Value::Array(_, items)) => items.iter_mut().for_each(|item| without_dsn(Some(item))),
        Some(Value::Dict(_, dict)) => {
            without_dsn(dict.get_mut("target"));
            if let Some(dsn) = dict.get_mut("dsn") {
                *dsn = Value::from("postgresql://localhost/postgres");
            }
        }
        _ => {}
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
pub(crate) mod tests;
