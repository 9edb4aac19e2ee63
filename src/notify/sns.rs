//! Alerts to an Amazon SNS topic, standard or FIFO.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_sns::Client;
use aws_sdk_sns::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sns::operation::publish::PublishError;
use aws_sdk_sns::types::MessageAttributeValue;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use tokio::sync::OnceCell;

use super::message::{Format, Message, group_id};
use crate::core::ledger::{Notice, SendFailure};

/// SNS disables an e-mail subscription that is sent more than ten messages a second: a storm of alerts would cut its own channel.
pub(super) const PACE: Duration = Duration::from_millis(125);
/// Attempts under way at once, so that one slow answer does not hold up the rest.
pub(super) const AT_ONCE: usize = 4;

/// `[[notify]] type = "sns"`. Credentials come from where AWS tools look for them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What it is called in logs and metrics.
    #[serde(default)]
    pub name: Option<String>,
    /// The topic's ARN. One that ends in `.fifo` is a FIFO topic.
    pub topic_arn: String,
    #[serde(default)]
    pub format: Format,
    /// Not set: the region in the topic's ARN.
    #[serde(default)]
    pub region: Option<String>,
    /// Another address than AWS' own, for example a VPC endpoint's. `AWS_ENDPOINT_URL_SNS` and `AWS_ENDPOINT_URL` do the same.
    #[serde(default)]
    pub endpoint_url: Option<String>,
    /// Of one attempt, everything included.
    #[serde(default = "default_timeout", deserialize_with = "timeout")]
    pub timeout: Duration,
}

const fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

fn timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let timeout = humantime::parse_duration(&text)
        .map_err(|_| D::Error::custom(format!("{text:?} is no duration; write for example \"10s\"")))?;
    // Attempts queue behind each other, and the ledger takes what is not answered for lost.
    if (Duration::from_millis(100)..=Duration::from_secs(15)).contains(&timeout) {
        Ok(timeout)
    } else {
        Err(D::Error::custom(format!("{text:?} is not between 100ms and 15s")))
    }
}

/// A topic.
#[derive(Debug)]
pub(super) struct Sns {
    config: Config,
    region: String,
    /// Made at the first notice: looking up the settings reads files and the environment.
    client: OnceCell<Client>,
}

impl Sns {
    pub(super) fn new(config: Config) -> Result<Self, String> {
        let arn = &config.topic_arn;
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let &["arn", partition, "sns", region, account, topic] = parts.as_slice() else {
            return Err(not_an_arn(arn));
        };
        let name = topic.strip_suffix(".fifo").unwrap_or(topic);
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if !partition.starts_with("aws") || region.is_empty() || account.is_empty() || !is_name {
            return Err(not_an_arn(arn));
        }
        if let Some(url) = &config.endpoint_url
            && !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
        {
            return Err("endpoint_url must begin with http:// or https://".to_owned());
        }
        let region = config.region.clone().unwrap_or_else(|| region.to_owned());
        Ok(Self { config, region, client: OnceCell::new() })
    }

    fn is_fifo(&self) -> bool {
        self.config.topic_arn.ends_with(".fifo")
    }

    /// One attempt, within the time-out.
    pub(super) async fn tell(&self, notice: &Notice) -> Result<(), SendFailure> {
        let limit = self.config.timeout;
        match tokio::time::timeout(limit, self.publish(notice)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(SendFailure::Unclear(format!("no answer from SNS within {}", humantime::format_duration(limit))))
            }
        }
    }

    async fn publish(&self, notice: &Notice) -> Result<(), SendFailure> {
        let Message { subject, body, attributes } = Message::new(notice, self.config.format);
        let mut publish =
            self.client().await.publish().topic_arn(&self.config.topic_arn).subject(subject).message(body);
        for (name, value) in attributes {
            let value = MessageAttributeValue::builder().data_type("String").string_value(value).build();
            let value = value.map_err(|error| SendFailure::Permanent(error.to_string()))?;
            publish = publish.message_attributes(name, value);
        }
        if self.is_fifo() {
            publish = publish.message_group_id(group_id(notice)).message_deduplication_id(&notice.dedup_key);
        }
        publish.send().await.map(drop).map_err(|error| failure(&error))
    }

    async fn client(&self) -> &Client {
        self.client
            .get_or_init(|| async {
                // One attempt: when to make the next is the ledger's to say.
                let mut loader = aws_config::defaults(BehaviorVersion::latest())
                    .region(Region::new(self.region.clone()))
                    .retry_config(RetryConfig::disabled());
                if let Some(url) = &self.config.endpoint_url {
                    loader = loader.endpoint_url(url);
                }
                Client::new(&loader.load().await)
            })
            .await
    }
}

fn not_an_arn(text: &str) -> String {
    format!("{text:?} is not the ARN of an SNS topic; write for example \"arn:aws:sns:us-east-1:123456789012:alerts\"")
}

/// What to make of an error, and its reason in a line that holds no secret.
fn failure(error: &SdkError<PublishError>) -> SendFailure {
    match error {
        SdkError::ConstructionFailure(_) => SendFailure::Permanent(format!("cannot ask SNS: {}", causes(error))),
        SdkError::DispatchFailure(dispatch) => {
            let reason = causes(error);
            // Without a connection nothing has left. Neither crate says this in a type that we could match on.
            let has_left = !(reason.contains("(Connect)") || reason.contains("connect timeout"));
            if has_left && (dispatch.is_io() || dispatch.is_timeout()) {
                SendFailure::Unclear(format!("no answer from SNS: {reason}"))
            } else {
                SendFailure::Transient(format!("cannot ask SNS: {reason}"))
            }
        }
        SdkError::TimeoutError(_) => SendFailure::Unclear("no answer from SNS".to_owned()),
        SdkError::ServiceError(refused) => {
            let status = refused.raw().status().as_u16();
            let (code, text) = (error.code().unwrap_or("no code"), error.message().unwrap_or("no reason"));
            by_status(status, code, text)
        }
        SdkError::ResponseError(response) => {
            by_status(response.raw().status().as_u16(), "no code", "not an answer of SNS")
        }
        _ => SendFailure::Unclear(causes(error)),
    }
}

fn by_status(status: u16, code: &str, text: &str) -> SendFailure {
    // The service's text for a bad signature repeats the signed request, tokens included.
    let text =
        if code.starts_with("Signature") || code == "IncompleteSignature" { "check the credentials" } else { text };
    let reason = line(&format!("SNS refused: {code} ({status}): {text}"));
    match status {
        200..=299 | 500 | 502 | 504 => SendFailure::Unclear(reason),
        429 | 503 => SendFailure::Transient(reason),
        _ if code.contains("Throttl") || code.contains("TooManyRequests") || code == "RequestTimeout" => {
            SendFailure::Transient(reason)
        }
        _ => SendFailure::Permanent(reason),
    }
}

/// An error with what caused it, each said once.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    line(&chain.collect::<Vec<_>>().join(": "))
}

/// The first 200 characters, on one line.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}
