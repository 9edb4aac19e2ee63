//! Alerts to an HTTP address of one's own, as JSON, signed so that the receiver can tell who sent them and when.
//!
//! The signature is that of Standard Webhooks (<https://www.standardwebhooks.com>), for which there are libraries in most
//! languages: an HMAC-SHA256 over `ID.TIMESTAMP.BODY`, in the headers `webhook-id`, `webhook-timestamp` (seconds since
//! 1970) and `webhook-signature` (`v1,` and the HMAC in base64). A receiver that refuses old timestamps cannot be played
//! an old notice again; the id is the same for each attempt to tell one thing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use hyper::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use sha2::Sha256;

use super::client::{Client, Endpoint, Identity, Refusal, Secret, TlsFiles, default_timeout, timeout};
use super::is_true;
use super::message::{Message, Shape};
use crate::clock;
use crate::core::ledger::{Notice, SendFailure};
use crate::core::rule::OneOrMany;

/// Attempts under way at once, so that one slow answer does not hold up the rest.
pub(super) const AT_ONCE: usize = 4;
/// Of a receiver that does not say otherwise, nothing is known about what it can stand.
pub(super) const PACE: Duration = Duration::from_millis(100);

/// How a secret begins that is written as Standard Webhooks has it: base64 follows.
const PREFIX: &str = "whsec_";

/// `[[notify]] type = "webhook"`.
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
    /// Its path is taken for a secret: only scheme and host are ever logged.
    pub url: Secret,
    /// What notices are signed with. Not set: they are not signed.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// Sent along with each notice.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// Whether readers may see addresses of clients.
    #[serde(default)]
    pub include_sensitive: bool,
    /// PEM: authorities that may have issued the server's certificate, instead of the machine's own store.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// PEM: a certificate to show, and its key.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Of one attempt, everything included.
    #[serde(default = "default_timeout", deserialize_with = "timeout")]
    pub timeout: Duration,
}

#[derive(Debug)]
pub(super) struct Webhook {
    url: Endpoint,
    key: Option<Key>,
    client: Client,
}

/// What notices are signed with.
struct Key(Hmac<Sha256>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Webhook {
    pub(super) fn new(config: Config) -> Result<Self, String> {
        let url = Endpoint::parse(&config.url).map_err(|reason| format!("url: {reason}"))?;
        let key = config.secret.as_ref().map(Key::new).transpose()?;
        let files = TlsFiles { ca: config.ca_file, cert: config.cert_file, key: config.key_file };
        let client = Client::new(&config.headers, Identity::Nobody, files, config.timeout)?;
        Ok(Self { url, key, client })
    }

    /// One attempt, within the time-out.
    pub(super) async fn tell(&self, notice: &Notice) -> Result<(), SendFailure> {
        let body = Message::new(notice, Shape::Json).body;
        let headers = headers(self.key.as_ref(), &notice.dedup_key, clock::wall(), &body);
        let outcome = self.client.post(&self.url, &headers, body).await;
        // What the answer says may repeat the address, which is a secret.
        outcome.map_err(|failure| failure.judged(&self.url, |_: &Refusal| String::new()))
    }
}

impl Key {
    fn new(secret: &Secret) -> Result<Self, String> {
        let text = secret.as_str();
        let bytes = match text.strip_prefix(PREFIX) {
            Some(base64) => STANDARD
                .decode(base64)
                .map_err(|_| format!("secret: base64 must follow {PREFIX:?}, as Standard Webhooks has it"))?,
            None => text.as_bytes().to_vec(),
        };
        if bytes.is_empty() {
            return Err("secret: it is empty; leave it out, or generate one by `openssl rand -base64 32`".to_owned());
        }
        Ok(Self(Hmac::new_from_slice(&bytes).expect("HMAC takes a key of any length")))
    }

    fn sign(&self, id: &str, timestamp: u64, body: &str) -> String {
        let mac = self.0.clone().chain_update(format!("{id}.{timestamp}.{body}"));
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// The headers of Standard Webhooks.
fn headers(key: Option<&Key>, dedup_key: &str, now: SystemTime, body: &str) -> Vec<(HeaderName, HeaderValue)> {
    // The signature is over parts that a full stop divides, so none may be in the id.
    let id = dedup_key.replace('.', "_");
    let timestamp = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let signature = key.map(|key| ("webhook-signature", key.sign(&id, timestamp, body)));
    [("webhook-id", id), ("webhook-timestamp", timestamp.to_string())]
        .into_iter()
        .chain(signature)
        .filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_that_standard_webhooks_asks_for() {
        // The example in its own documentation.
        let secret = serde_json::from_str(r#""whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw""#).expect("a text");
        let key = Key::new(&secret).expect("a good secret");
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn headers_say_what_when_and_who() {
        let secret = serde_json::from_str(r#""hush""#).expect("a text");
        let key = Key::new(&secret).expect("a good secret");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let found = headers(Some(&key), "Lag-firing-1.0-ab", now, "{}");
        let found: Vec<(&str, &str)> =
            found.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("ASCII"))).collect();
        let signature = key.sign("Lag-firing-1_0-ab", 1_800_000_000, "{}");
        let expect = [
            ("webhook-id", "Lag-firing-1_0-ab"),
            ("webhook-timestamp", "1800000000"),
            ("webhook-signature", signature.as_str()),
        ];
        assert_eq!(found, expect);
        assert_eq!(headers(None, "a", now, "{}").len(), 2);
    }
}
