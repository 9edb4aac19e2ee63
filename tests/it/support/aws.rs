//! AWS on loopback: MiniStack, an emulator, which `scripts/test` puts below `target/venv`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::http::{self, Answer};
use super::process::Process;
use super::until;

/// A running emulator. Dropping it kills it.
pub(crate) struct Aws {
    pub process: Process,
    /// To be given as `endpoint_url`.
    pub url: String,
    pub port: u16,
}

/// A queue that is subscribed to a topic, so that what subscribers got can be read back.
pub(crate) struct Subscriber {
    queue_url: String,
}

/// What a subscriber got: the envelope that SNS makes of a published message.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub subject: Option<String>,
    pub message: String,
    /// Name and value, sorted.
    pub attributes: Vec<(String, String)>,
}

/// Where the emulator's program is, if it is installed.
pub(crate) fn program() -> Option<PathBuf> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/ministack");
    program.exists().then_some(program)
}

impl Aws {
    /// Starts the emulator, or says that it is missing.
    pub(crate) async fn start() -> Option<Self> {
        let Some(program) = program() else {
            super::missing("MiniStack");
            return None;
        };
        let port = super::free_port();
        let mut command = Command::new(program);
        command.env("BIND_HOST", "127.0.0.1").env("GATEWAY_PORT", port.to_string());
        let aws = Self { process: Process::start(command), url: format!("http://127.0.0.1:{port}"), port };
        let health = format!("{}/_ministack/health", aws.url);
        until("the AWS emulator", Duration::from_secs(30), || async {
            let answer = http::get(&health).await?;
            if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
        Some(aws)
    }

    /// What a process needs in its environment to reach the emulator as if it were AWS.
    pub(crate) fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", self.url.clone()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// Creates a topic, and gives its ARN. A name that ends in `.fifo` makes a FIFO topic.
    pub(crate) async fn topic(&self, name: &str) -> String {
        let mut asked = vec![("Action", "CreateTopic"), ("Name", name)];
        if is_fifo(name) {
            asked.extend([("Attributes.entry.1.key", "FifoTopic"), ("Attributes.entry.1.value", "true")]);
        }
        element(&self.call("sns", &asked).await.body, "TopicArn")
    }

    /// Subscribes a new queue to a topic. What is published from now on can be read.
    pub(crate) async fn subscribe(&self, topic_arn: &str, queue: &str) -> Subscriber {
        self.subscribe_where(topic_arn, queue, "").await
    }

    /// The same to what a filter policy lets through. An empty one lets all.
    pub(crate) async fn subscribe_where(&self, topic_arn: &str, queue: &str, policy: &str) -> Subscriber {
        let mut asked = vec![("Action", "CreateQueue"), ("QueueName", queue)];
        if is_fifo(queue) {
            asked.extend([("Attribute.1.Name", "FifoQueue"), ("Attribute.1.Value", "true")]);
        }
        let queue_url = element(&self.call("sqs", &asked).await.body, "QueueUrl");
        let asked = [("Action", "GetQueueAttributes"), ("QueueUrl", &queue_url), ("AttributeName.1", "QueueArn")];
        let queue_arn = element(&self.call("sqs", &asked).await.body, "Value");
        let mut asked =
            vec![("Action", "Subscribe"), ("TopicArn", topic_arn), ("Protocol", "sqs"), ("Endpoint", &queue_arn)];
        if !policy.is_empty() {
            asked.extend([("Attributes.entry.1.key", "FilterPolicy"), ("Attributes.entry.1.value", policy)]);
        }
        self.call("sns", &asked).await;
        Subscriber { queue_url }
    }

    /// Publishes to a topic.
    pub(crate) async fn publish(&self, topic_arn: &str, subject: &str, message: &str) {
        let asked = [("Action", "Publish"), ("TopicArn", topic_arn), ("Subject", subject), ("Message", message)];
        self.call("sns", &asked).await;
    }

    /// Waits for the next message that a subscriber got, and takes it off its queue.
    pub(crate) async fn receive(&self, from: &Subscriber, patience: Duration) -> Received {
        until("a published message", patience, || async {
            self.try_receive(from).await.ok_or_else(|| "none yet".to_owned())
        })
        .await
    }

    /// The next message that a subscriber got, if there is one now.
    pub(crate) async fn try_receive(&self, from: &Subscriber) -> Option<Received> {
        let asked = [("Action", "ReceiveMessage"), ("QueueUrl", &from.queue_url), ("MaxNumberOfMessages", "1")];
        let answer = self.call("sqs", &asked).await;
        if !answer.body.contains("<Body>") {
            return None;
        }
        let receipt = element(&answer.body, "ReceiptHandle");
        let asked = [("Action", "DeleteMessage"), ("QueueUrl", &from.queue_url), ("ReceiptHandle", &receipt)];
        self.call("sqs", &asked).await;
        let envelope: Value = serde_json::from_str(&element(&answer.body, "Body")).unwrap();
        let mut attributes: Vec<(String, String)> = envelope["MessageAttributes"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, attribute)| (name.clone(), attribute["Value"].as_str().unwrap_or_default().to_owned()))
            .collect();
        attributes.sort();
        Some(Received {
            subject: envelope["Subject"].as_str().map(str::to_owned),
            message: envelope["Message"].as_str().unwrap_or_default().to_owned(),
            attributes,
        })
    }

    /// An action of Secrets Manager, with its parameters.
    pub(crate) async fn secrets(&self, action: &str, parameters: Value) -> Value {
        let target = format!("secretsmanager.{action}");
        let headers = [
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", target.as_str()),
            (
                "authorization",
                "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/secretsmanager/aws4_request, SignedHeaders=host, Signature=0",
            ),
        ];
        let url = format!("{}/", self.url);
        let answer = http::request("POST", &url, &headers, Some(&parameters.to_string())).await.unwrap();
        assert_eq!(answer.status, 200, "{action} {parameters}: {}", answer.body);
        answer.json()
    }

    /// One action of the query protocol. The emulator checks no signature, but reads the service out of it.
    async fn call(&self, service: &str, parameters: &[(&str, &str)]) -> Answer {
        let version = if service == "sns" { "2010-03-31" } else { "2012-11-05" };
        let mut form = format!("Version={version}");
        for (name, value) in parameters {
            form.push_str(&format!("&{name}={}", http::encode(value)));
        }
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
        );
        let headers =
            [("content-type", "application/x-www-form-urlencoded"), ("authorization", authorization.as_str())];
        let answer = http::request("POST", &format!("{}/", self.url), &headers, Some(&form)).await.unwrap();
        assert_eq!(answer.status, 200, "{parameters:?}: {}", answer.body);
        answer
    }
}

fn is_fifo(name: &str) -> bool {
    name.strip_suffix(".fifo").is_some()
}

/// The text of the first XML element of that name.
fn element(xml: &str, name: &str) -> String {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let text = xml.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map(|(text, _)| text);
    let text = text.unwrap_or_else(|| panic!("no <{name}> in {xml}"));
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}
