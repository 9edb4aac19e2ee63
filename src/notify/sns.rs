//! Alerts to an Amazon SNS topic, standard or FIFO.

use std::time::Duration;

use aws_sdk_sns::Client;
use aws_sdk_sns::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sns::operation::publish::PublishError;
use aws_sdk_sns::types::MessageAttributeValue;
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::client::{default_timeout, timeout};
use super::is_true;
use super::message::{Format, Message, Shape, group_id, typed};
use super::topic::Topic;
use crate::aws::{Aws, Place};
use crate::core::ledger::{Notice, Purpose, SendFailure};
use crate::core::rule::OneOrMany;

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
    /// Which alerts it is told of: those of these severities, clusters and rules. Not set: of all.
    #[serde(default)]
    pub severity: OneOrMany,
    #[serde(default)]
    pub cluster: OneOrMany,
    #[serde(default)]
    pub rule: OneOrMany,
    /// Whether it is told when an alert is over.
    #[serde(default = "is_true")]
    pub send_resolved: bool,
    /// The topic's ARN. One that ends in `.fifo` is a FIFO topic.
    pub topic_arn: String,
    #[serde(default)]
    pub format: Format,
    /// Whether readers may see addresses of clients.
    #[serde(default)]
    pub include_sensitive: bool,
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

impl Config {
    /// Where SNS is asked.
    pub fn place(&self) -> Place {
        // The topic's own region. What is no ARN was refused when the configuration was read.
        let of_topic = || Topic::parse(&self.topic_arn).map(|topic| topic.region).ok();
        Place { region: self.region.clone().or_else(of_topic), role_arn: None }
    }
}

/// A notifier of one topic.
#[derive(Debug)]
pub(super) struct Sns {
    config: Config,
    topic: Topic,
    place: Place,
    aws: Aws,
    /// Made at the first notice: looking up the settings reads files and the environment.
    client: OnceCell<Client>,
}

impl Sns {
    pub(super) fn new(config: Config, aws: &Aws) -> Result<Self, String> {
        let topic = Topic::parse(&config.topic_arn)?;
        if let Some(url) = &config.endpoint_url
            && !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
        {
            return Err("endpoint_url must begin with http:// or https://".to_owned());
        }
        Ok(Self { place: config.place(), config, topic, aws: aws.clone(), client: OnceCell::new() })
    }

    /// One attempt, within the time-out.
    pub(super) async fn tell(&self, notice: &Notice) -> Result<(), SendFailure> {
        let limit = self.config.timeout;
        // The client's own limit is the same, and comes first where it knows of the attempt.
        let outcome = tokio::time::timeout(limit + Duration::from_millis(500), self.publish(notice)).await;
        outcome.unwrap_or_else(|_| Err(no_answer(limit)))
    }

    async fn publish(&self, notice: &Notice) -> Result<(), SendFailure> {
        if notice.purpose == Purpose::Held && !self.config.format.takes_groups() {
            // A summary of several alerts, each of which is told later. These formats have no place for it.
            return Ok(());
        }
        let shape = match self.config.format {
            Format::Text => Shape::Text,
            Format::Json => Shape::Json,
            Format::Cloudwatch => Shape::Cloudwatch(&self.topic),
            Format::AmazonQ => Shape::AmazonQ,
        };
        let message = Message::new(notice, shape);
        let mut publish = self.client().await.publish().topic_arn(&self.config.topic_arn).subject(&message.subject);
        for (name, values) in &message.attributes {
            let (kind, value) = typed(values);
            let value = MessageAttributeValue::builder().data_type(kind).string_value(value).build();
            let value = value.map_err(|error| SendFailure::Permanent(error.to_string()))?;
            publish = publish.message_attributes(*name, value);
        }
        publish = match message.by_protocol().filter(|_| !self.topic.is_fifo()) {
            Some(bodies) => publish.message_structure("json").message(bodies),
            // To a FIFO topic no people can subscribe.
            None => publish.message(message.body),
        };
        if self.topic.is_fifo() {
            publish = publish.message_group_id(group_id(notice)).message_deduplication_id(&notice.dedup_key);
        }
        publish.send().await.map(drop).map_err(|error| failure(&error, self.config.timeout))
    }

    async fn client(&self) -> &Client {
        self.client
            .get_or_init(|| self.aws.sns(&self.place, self.config.endpoint_url.as_deref(), self.config.timeout))
            .await
    }
}

/// What to make of an error, and its reason in a line that holds no secret.
fn failure(error: &SdkError<PublishError>, limit: Duration) -> SendFailure {
    match error {
        SdkError::ConstructionFailure(_) => SendFailure::Permanent(format!("cannot ask SNS: {}", causes(error))),
        SdkError::DispatchFailure(dispatch) => {
            let reason = causes(error);
            if reason.contains("no credentials found") {
                return SendFailure::Transient(
                    "no AWS credentials in the environment, a profile or an instance's role".to_owned(),
                );
            }
            // Without a connection nothing has left. Neither crate says this in a type that we could match on.
            let is_connected = !(reason.contains("(Connect)") || reason.contains("connect timeout"));
            let has_left = is_connected && (dispatch.is_io() || dispatch.is_timeout());
            if has_left || reason.contains("(SendRequest)") {
                SendFailure::Unclear(format!("no answer from SNS: {reason}"))
            } else {
                SendFailure::Transient(format!("cannot ask SNS: {reason}"))
            }
        }
        SdkError::TimeoutError(_) => no_answer(limit),
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

fn no_answer(limit: Duration) -> SendFailure {
    SendFailure::Unclear(format!("no answer from SNS within {}", humantime::format_duration(limit)))
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::message::tests::{firing, resolved};
    use super::*;

    fn config(topic: &str, endpoint_url: &str) -> Config {
        Config {
            name: None,
            severity: OneOrMany::default(),
            cluster: OneOrMany::default(),
            rule: OneOrMany::default(),
            send_resolved: true,
            topic_arn: format!("arn:aws:sns:eu-west-1:123456789012:{topic}"),
            format: Format::Text,
            include_sensitive: false,
            region: None,
            endpoint_url: Some(endpoint_url.to_owned()),
            timeout: Duration::from_millis(500),
        }
    }

    fn nowhere() -> Aws {
        Aws::new(crate::aws::Config::default())
    }

    fn topic(config: Config) -> Sns {
        Sns::new(config, &nowhere()).expect("a good configuration")
    }

    /// An SNS that gives one answer to everything, and keeps the bodies it was sent. No answer: it closes the connection.
    async fn stub(answer: Option<String>) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&bodies);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
                let body = loop {
                    let n_read = stream.read(&mut buffer).await.unwrap_or(0);
                    request.extend_from_slice(&buffer[..n_read]);
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head
                        .lines()
                        .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                    if n_read == 0 || length.is_none_or(|length: usize| body.len() >= length) {
                        break body.to_owned();
                    }
                };
                seen.lock().expect("no panic").push(body);
                if let Some(answer) = &answer {
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        });
        (url, bodies)
    }

    fn http(status: &str, body: &str) -> Option<String> {
        let length = body.len();
        Some(format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/xml\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        ))
    }

    fn refusal(status: &str, code: &str, text: &str) -> Option<String> {
        let body = format!(
            "<ErrorResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><Error><Type>Sender</Type><Code>{code}</Code>\
             <Message>{text}</Message></Error><RequestId>r</RequestId></ErrorResponse>"
        );
        http(status, &body)
    }

    const TAKEN: &str = "<PublishResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><PublishResult><MessageId>m</MessageId>\
        </PublishResult></PublishResponse>";

    #[tokio::test]
    async fn a_refusal_is_worth_another_attempt_or_not() {
        use SendFailure::{Permanent, Transient, Unclear};
        for (answer, expect) in [
            (http("200 OK", TAKEN), Ok(())),
            (
                refusal("403 Forbidden", "AuthorizationError", "not authorized to perform: SNS:Publish"),
                Err(Permanent("SNS refused: AuthorizationError (403): not authorized to perform: SNS:Publish".into())),
            ),
            (
                refusal("404 Not Found", "NotFound", "Topic does not exist"),
                Err(Permanent("SNS refused: NotFound (404): Topic does not exist".into())),
            ),
            (
                refusal("400 Bad Request", "InvalidParameter", "Invalid parameter: Subject"),
                Err(Permanent("SNS refused: InvalidParameter (400): Invalid parameter: Subject".into())),
            ),
            (
                refusal(
                    "403 Forbidden",
                    "SignatureDoesNotMatch",
                    "The Canonical String was x-amz-security-token:s3cr3t",
                ),
                Err(Permanent("SNS refused: SignatureDoesNotMatch (403): check the credentials".into())),
            ),
            (
                refusal("400 Bad Request", "Throttling", "Rate exceeded"),
                Err(Transient("SNS refused: Throttling (400): Rate exceeded".into())),
            ),
            (
                refusal("429 Too Many Requests", "Throttled", "Rate exceeded"),
                Err(Transient("SNS refused: Throttled (429): Rate exceeded".into())),
            ),
            (
                refusal("503 Service Unavailable", "ServiceUnavailable", "later"),
                Err(Transient("SNS refused: ServiceUnavailable (503): later".into())),
            ),
            (
                refusal("500 Internal Server Error", "InternalError", "oops"),
                Err(Unclear("SNS refused: InternalError (500): oops".into())),
            ),
        ] {
            let (url, _) = stub(answer.clone()).await;
            assert_eq!(topic(config("alerts", &url)).tell(&firing()).await, expect, "{answer:?}");
        }
    }

    #[tokio::test]
    async fn an_attempt_without_an_answer_is_unclear_and_one_without_a_connection_is_not() {
        let deaf = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", deaf.local_addr().expect("an address"));
        let outcome = topic(config("alerts", &url)).tell(&firing()).await;
        assert_eq!(outcome, Err(SendFailure::Unclear("no answer from SNS within 500ms".into())));
        drop(deaf);
        let outcome = topic(config("alerts", &url)).tell(&firing()).await;
        assert!(matches!(&outcome, Err(SendFailure::Transient(reason)) if reason.contains("refused")), "{outcome:?}");
        let (url, _) = stub(None).await;
        let outcome = topic(config("alerts", &url)).tell(&firing()).await;
        assert!(matches!(&outcome, Err(SendFailure::Unclear(_))), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_fifo_topic_gets_a_group_and_ids_that_let_both_firing_and_resolved_through() {
        let (url, bodies) = stub(http("200 OK", TAKEN)).await;
        for topic_name in ["alerts", "alerts.fifo"] {
            let topic = topic(config(topic_name, &url));
            for notice in [firing(), resolved()] {
                topic.tell(&notice).await.expect("it is taken");
            }
        }
        let fields = |body: &str| {
            let is_of_fifo =
                |field: &&str| field.starts_with("MessageGroupId") || field.starts_with("MessageDeduplicationId");
            let mut fields: Vec<String> = body.split('&').filter(is_of_fifo).map(str::to_owned).collect();
            fields.sort();
            fields
        };
        let sent: Vec<_> = bodies.lock().expect("no panic").iter().map(|body| fields(body)).collect();
        let of_fifo = |state: &str| {
            let id = format!("ReplicaLagging-{state}-30000000.0-26e06d21722064a4390fd9f59861d1a0");
            vec![format!("MessageDeduplicationId={id}"), "MessageGroupId=orders%2Forders-replica-1".to_owned()]
        };
        assert_eq!(sent, [vec![], vec![], of_fifo("firing"), of_fifo("resolved")]);
    }

    #[test]
    fn a_topic_that_cannot_be_one_is_refused_before_the_first_alert() {
        let config = Config { topic_arn: "alerts".to_owned(), ..config("", "http://127.0.0.1:1") };
        assert!(Sns::new(config, &nowhere()).is_err_and(|reason| reason.contains("is not the ARN of an SNS topic")));
        let region = |region: Option<&str>| {
            let config = Config { region: region.map(str::to_owned), ..self::config("alerts", "http://127.0.0.1:1") };
            Sns::new(config, &nowhere()).map(|sns| sns.place.region)
        };
        assert_eq!(region(None), Ok(Some("eu-west-1".to_owned())));
        assert_eq!(region(Some("eu-central-1")), Ok(Some("eu-central-1".to_owned())));
        assert!(Sns::new(self::config("alerts", "localhost:4566"), &nowhere()).is_err());
    }
}
