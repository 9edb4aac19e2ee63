//! What the parts want to know. Stands in until each part brings its own.

use std::net::SocketAddr;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    pub listen: SocketAddr,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9732)) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PollConfig {
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub slow_interval: Duration,
    #[serde(deserialize_with = "duration")]
    pub stale_after: Duration,
}

impl Default for PollConfig {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { interval: seconds(1), timeout: seconds(3), slow_interval: seconds(15), stale_after: seconds(10) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatementsConfig {
    pub enabled: bool,
    pub top: usize,
}

impl Default for StatementsConfig {
    fn default() -> Self {
        Self { enabled: true, top: 20 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthConfig {
    pub on_unknown: OnUnknown,
    pub panic_threshold: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnknown {
    #[default]
    Pass,
    Fail,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    pub name: String,
    pub when: String,
    #[serde(default)]
    pub cluster: Option<String>,
    #[serde(default)]
    pub target: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum NotifierConfig {
    Log { name: Option<String> },
    Sns { name: Option<String>, topic_arn: String },
}

impl NotifierConfig {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Log { name } => name.as_deref().unwrap_or("log"),
            Self::Sns { name, .. } => name.as_deref().unwrap_or("sns"),
        }
    }
}

pub(super) fn check_rule(_rule: &RuleConfig) -> Result<(), (&'static str, String)> {
    Ok(())
}

pub(super) fn check_dsn(dsn: &str) -> Result<(), String> {
    if dsn.starts_with("postgres") || dsn.contains('=') { Ok(()) } else { Err("not a connection string".to_owned()) }
}

pub(super) fn check_poll(poll: &PollConfig, finding: &mut impl FnMut(&[&str], String)) {
    if poll.interval.is_zero() {
        finding(&["poll", "interval"], "zero".to_owned());
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| D::Error::custom(format!("{text:?} is not a duration: {error}")))
}
