//! AWS: the one way to it, for everything that asks AWS.
//!
//! Clients are made here, so that each has the same credentials (the environment, a profile, web identity, ECS, EC2: what
//! aws-config finds), the same endpoints and the same HTTP client, is counted, and is left alone for a while when it does
//! not answer ([`crate::core::circuit`]). Nothing is looked up before the first question: AWS that cannot be reached holds
//! up neither the start nor a poll.

pub mod cloudwatch;
mod fault;
mod probe;
pub mod publish;
mod rds;
mod secrets;
mod token;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sns::config::{Credentials, SharedCredentialsProvider, SharedHttpClient};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use tokio::sync::OnceCell;

pub use self::fault::{Fault, Kind};
pub use self::rds::Reported;
pub use self::secrets::{REFRESH as SECRETS_REFRESH, SecretRef, Secrets, Version};
pub use self::token::{Token, region_of};
use self::watch::Watch;
use crate::core::circuit::{Circuit, State};
use crate::core::time::MonoTime;
use crate::self_metrics::AwsMetrics;

/// Of one attempt, and of all attempts at one question.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(8);
const TIMEOUT: Duration = Duration::from_secs(20);

/// A command, for which somebody waits, gives AWS so long for each thing that it asks.
pub const COMMANDS_WAIT: Duration = Duration::from_secs(10);

/// `[aws]`. What is not said here comes from where AWS tools look for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where nothing nearer names one.
    pub region: Option<String>,
    /// Other addresses than AWS' own, for example VPC endpoints. The first is for those services that have none of their own.
    #[serde(deserialize_with = "endpoint")]
    pub endpoint_url: Option<String>,
    #[serde(deserialize_with = "endpoint")]
    pub cloudwatch_endpoint_url: Option<String>,
    #[serde(deserialize_with = "endpoint")]
    pub elasticache_endpoint_url: Option<String>,
    #[serde(deserialize_with = "endpoint")]
    pub rds_endpoint_url: Option<String>,
    #[serde(deserialize_with = "endpoint")]
    pub secretsmanager_endpoint_url: Option<String>,
    #[serde(deserialize_with = "endpoint")]
    pub sns_endpoint_url: Option<String>,
    #[serde(deserialize_with = "endpoint")]
    pub sts_endpoint_url: Option<String>,
    pub use_fips: Option<bool>,
    pub use_dual_stack: Option<bool>,
}

fn endpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let url = String::deserialize(deserializer)?;
    if ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
        Ok(Some(url))
    } else {
        Err(D::Error::custom(format!("{url:?} must begin with http:// or https://")))
    }
}

/// The services that are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    CloudWatch,
    ElastiCache,
    Rds,
    SecretsManager,
    Sns,
    Sts,
}

impl Service {
    /// As policies write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CloudWatch => "cloudwatch",
            Self::ElastiCache => "elasticache",
            Self::Rds => "rds",
            Self::SecretsManager => "secretsmanager",
            Self::Sns => "sns",
            Self::Sts => "sts",
        }
    }
}

/// Where AWS is asked, and as whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// `None`: that of `[aws]`, or what AWS tools take for the default.
    pub region: Option<String>,
    /// `None`: as whoever the daemon runs as.
    pub role_arn: Option<String>,
}

impl Place {
    pub fn region(region: &str) -> Self {
        Self { region: Some(region.to_owned()), role_arn: None }
    }

    /// The account that the role belongs to; empty without one.
    fn account(&self) -> &str {
        self.role_arn.as_deref().and_then(|arn| arn.split(':').nth(4)).unwrap_or_default()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.region.as_deref().unwrap_or("default"))?;
        self.role_arn.as_deref().map_or(Ok(()), |role| write!(f, " as {role}"))
    }
}

/// The way to AWS. Copies share everything.
#[derive(Clone, Debug)]
pub struct Aws(Arc<Inner>);

/// Credentials, and when they were read.
type Read = Option<(Credentials, MonoTime)>;

#[derive(Debug)]
struct Inner {
    config: Config,
    metrics: AwsMetrics,
    http: SharedHttpClient,
    /// Made at the first question from each place: looking up the settings reads files and may ask the machine's metadata.
    settings: Mutex<HashMap<Place, Arc<OnceCell<SdkConfig>>>>,
    circuits: Mutex<HashMap<(Service, Place), Circuit>>,
    /// Those that tokens are signed with, and when they were read.
    /// Each place has a lock of its own: one that does not answer must not hold up who logs in elsewhere.
    credentials: Mutex<HashMap<Place, Arc<tokio::sync::Mutex<Read>>>>,
}

/// How it stands with one service.
#[derive(Clone, Debug)]
pub struct CircuitView {
    pub service: Service,
    pub place: Place,
    pub state: State,
    pub circuit: Circuit,
}

macro_rules! client {
    ($name:ident, $crate_name:ident, $service:expr, $url:ident) => {
        pub async fn $name(&self, place: &Place) -> $crate_name::Client {
            let settings = self.settings(place).await;
            let mut config =
                $crate_name::config::Builder::from(&settings).interceptor(self.watch($service, place, true));
            if let Some(url) = &self.0.config.$url {
                config = config.endpoint_url(url);
            }
            $crate_name::Client::from_conf(config.build())
        }
    };
}

impl Aws {
    pub fn new(config: Config) -> Self {
        let metrics = AwsMetrics::default();
        let (settings, circuits, credentials) = Default::default();
        Self(Arc::new(Inner { config, metrics, http: http_client(), settings, circuits, credentials }))
    }

    pub fn config(&self) -> &Config {
        &self.0.config
    }

    pub fn metrics(&self) -> &AwsMetrics {
        &self.0.metrics
    }

    client!(cloudwatch, aws_sdk_cloudwatch, Service::CloudWatch, cloudwatch_endpoint_url);
    client!(elasticache, aws_sdk_elasticache, Service::ElastiCache, elasticache_endpoint_url);
    client!(rds, aws_sdk_rds, Service::Rds, rds_endpoint_url);
    client!(secrets_manager, aws_sdk_secretsmanager, Service::SecretsManager, secretsmanager_endpoint_url);
    client!(sts, aws_sdk_sts, Service::Sts, sts_endpoint_url);

    /// For one attempt at a time: when to make the next is the ledger's to say, so that this one is never refused.
    pub async fn sns(&self, place: &Place, endpoint_url: Option<&str>, timeout: Duration) -> aws_sdk_sns::Client {
        let settings = self.settings(place).await;
        let mut config = aws_sdk_sns::config::Builder::from(&settings)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().operation_timeout(timeout).build())
            .interceptor(self.watch(Service::Sns, place, false));
        if let Some(url) = endpoint_url.or(self.0.config.sns_endpoint_url.as_deref()) {
            config = config.endpoint_url(url);
        }
        aws_sdk_sns::Client::from_conf(config.build())
    }

    /// Credentials, region and time-outs for a place. For what is not one of the clients above.
    pub async fn settings(&self, place: &Place) -> SdkConfig {
        let cell = Arc::clone(lock(&self.0.settings).entry(place.clone()).or_default());
        cell.get_or_init(|| self.load(place)).await.clone()
    }

    async fn load(&self, place: &Place) -> SdkConfig {
        let own = &self.0.config;
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT).operation_timeout(TIMEOUT);
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(self.0.http.clone())
            .timeout_config(timeouts.build());
        if let Some(region) = place.region.as_ref().or(own.region.as_ref()) {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(url) = &own.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        if let Some(use_fips) = own.use_fips {
            loader = loader.use_fips(use_fips);
        }
        if let Some(use_dual_stack) = own.use_dual_stack {
            loader = loader.use_dual_stack(use_dual_stack);
        }
        // Unit tests sign with a key of their own, whatever the environment holds.
        #[cfg(test)]
        let loader = loader.credentials_provider(Credentials::new("id", "s3cr3t", None, None, "test"));
        let settings = loader.load().await;
        let Some(role) = &place.role_arn else { return settings };
        let mut asker = settings.clone().into_builder();
        if let Some(url) = &own.sts_endpoint_url {
            asker = asker.endpoint_url(url);
            asker.insert_origin("endpoint_url", aws_types::origin::Origin::shared_config());
        }
        let role = AssumeRoleProvider::builder(role).session_name("pgvigil").configure(&asker.build()).build().await;
        settings.into_builder().credentials_provider(SharedCredentialsProvider::new(role)).build()
    }

    fn watch(&self, service: Service, place: &Place, may_refuse: bool) -> Watch {
        Watch { aws: self.clone(), service, place: place.clone(), may_refuse }
    }

    /// Services that were asked, and how it stands with them, in a fixed order.
    pub fn circuits(&self, now: MonoTime) -> Vec<CircuitView> {
        let mut views: Vec<CircuitView> = lock(&self.0.circuits)
            .iter()
            .map(|((service, place), circuit)| CircuitView {
                service: *service,
                place: place.clone(),
                state: circuit.state(now),
                circuit: circuit.clone(),
            })
            .collect();
        views.sort_by(|a, b| (a.service, &a.place).cmp(&(b.service, &b.place)));
        views
    }
}

/// One for all: it keeps connections, and reads the machine's certificates once. Proxies come from the environment.
fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().build_with_connector_fn(|settings, components| {
        let mut connector =
            aws_smithy_http_client::ConnectorBuilder::default().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
        connector.set_connector_settings(settings.cloned());
        connector.set_proxy_config(Some(ProxyConfig::from_env()));
        if let Some(components) = components {
            connector.set_sleep_impl(components.sleep_impl());
        }
        connector.build()
    })
}

/// Nobody panics while holding one of these; should it happen, what they hold is whole all the same.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
