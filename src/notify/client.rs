//! HTTP to where alerts go, and to a daemon that is asked from a shell. Each request has a connection of its own: nothing
//! stale is taken out of a pool, and an error tells whether the request may have left. Redirects are not followed, and of an
//! answer little is read.
//!
//! The path of an address is a secret with many services, so only its scheme and host are ever shown.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::de::{Deserialize, Deserializer, Error};
use tower::Service;

use crate::core::ledger::SendFailure;

/// What is read of an answer that says no.
const MAX_ANSWER: usize = 4096;
/// The rest of such an answer is not waited for any longer than this.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// What is read of an answer that is wanted whole: more than a daemon ever says of its silences.
const WHOLE: usize = 16 << 20;

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) const fn new(text: String) -> Self {
        Self(text)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// An address that can be asked: `http://` or `https://`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint(Uri);

impl Endpoint {
    /// The reason why it is none does not repeat it.
    pub(crate) fn parse(text: &Secret) -> Result<Self, &'static str> {
        let uri: Uri =
            text.as_str().parse().map_err(|_| "this is no URL; write for example \"https://example.com/path\"")?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err("this URL must begin with http:// or https:// and a host");
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("a user and a password cannot be part of this URL");
        }
        let port = uri.authority().map(|authority| &authority.as_str()[authority.host().len()..]);
        if port.is_some_and(|port| !port.is_empty()) && uri.port_u16().is_none_or(|port| port == 0) {
            return Err("the port in this URL must be a number from 1 to 65535");
        }
        Ok(Self(uri))
    }

    pub(super) fn ends_with(&self, path: &str) -> bool {
        self.0.path().trim_end_matches('/').ends_with(path)
    }

    /// Another path below the one it has.
    pub(crate) fn join(&self, path: &str) -> Self {
        let prefix = self.0.path().trim_end_matches('/');
        let mut parts = self.0.clone().into_parts();
        parts.path_and_query = format!("{prefix}{path}").parse().ok();
        Self(Uri::from_parts(parts).unwrap_or_else(|_| self.0.clone()))
    }
}

impl fmt::Display for Endpoint {
    /// `https://hooks.example.com`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.0.scheme_str().unwrap_or_default())?;
        f.write_str(self.0.authority().map_or("", |authority| authority.as_str()))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}/..")
    }
}

/// Of one attempt.
pub(super) const fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

pub(super) fn timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
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

/// Files for TLS. They are read anew for each request, since short-lived certificates are replaced under a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

/// How one notifier asks.
#[derive(Debug)]
pub(crate) struct Client {
    headers: Vec<(HeaderName, HeaderValue)>,
    files: TlsFiles,
    /// `None` where files must be read.
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity<'a> {
    Nobody,
    Basic { username: &'a str, password: &'a Secret },
    Bearer(&'a Secret),
}

/// An answer that says no.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(super) status: StatusCode,
    /// How long to wait, by its own word.
    pub(super) retry_after: Option<Duration>,
    /// Its beginning, on one line. What is private in an address or a request may be repeated in it.
    pub(super) text: String,
}

/// Why there was no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It was not asked.
    NotSent(String),
    /// It may have been asked.
    NoAnswer(String),
    Refused(Refusal),
}

impl Client {
    /// # Errors
    /// A file cannot be used, or a header cannot be sent.
    pub(crate) fn new(
        headers: &BTreeMap<String, Secret>,
        identity: Identity<'_>,
        files: TlsFiles,
        timeout: Duration,
    ) -> Result<Self, String> {
        let mut own = Vec::new();
        for (name, value) in headers {
            let header = HeaderName::try_from(name.as_str())
                .map_err(|_| format!("headers: {name:?} cannot be the name of a header"))?;
            own.push((header, header_value(value.as_str(), &format!("headers.{name}"))?));
        }
        match identity {
            Identity::Nobody => {}
            Identity::Basic { username, password } => {
                let credentials = STANDARD.encode(format!("{username}:{}", password.as_str()));
                own.push((AUTHORIZATION, header_value(&format!("Basic {credentials}"), "password")?));
            }
            Identity::Bearer(token) => {
                own.push((AUTHORIZATION, header_value(&format!("Bearer {}", token.as_str()), "bearer_token")?));
            }
        }
        let tls = Arc::new(files.config()?);
        let has_files = files != TlsFiles::default();
        Ok(Self { headers: own, files, tls: (!has_files).then_some(tls), timeout })
    }

    pub(super) async fn get(&self, endpoint: &Endpoint) -> Result<(), Failure> {
        self.ask(Method::GET, endpoint, &[], Bytes::new()).await
    }

    /// One request, JSON if it has a body, within the time-out. Answers with all that is said, be it yes or no.
    pub(crate) async fn whole(
        &self,
        method: Method,
        endpoint: &Endpoint,
        body: Option<String>,
    ) -> Result<(StatusCode, Vec<u8>), Failure> {
        let json = HeaderValue::from_static("application/json");
        let headers = [(ACCEPT, json.clone()), (CONTENT_TYPE, json)];
        let body = body.map(Bytes::from).unwrap_or_default();
        let answer = self.attempt(method, endpoint, &headers, body, Wanted::Whole).await?;
        Ok((answer.status, answer.body))
    }

    /// POST of JSON, with headers of this request's own.
    pub(super) async fn post(
        &self,
        endpoint: &Endpoint,
        headers: &[(HeaderName, HeaderValue)],
        body: String,
    ) -> Result<(), Failure> {
        let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let headers: Vec<_> = std::iter::once(json).chain(headers.iter().cloned()).collect();
        self.ask(Method::POST, endpoint, &headers, body.into()).await
    }

    /// One request, within the time-out. `Ok` is an answer of 200 to 299.
    async fn ask(
        &self,
        method: Method,
        endpoint: &Endpoint,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<(), Failure> {
        let answer = self.attempt(method, endpoint, headers, body, Wanted::Refusals).await?;
        if answer.status.is_success() { Ok(()) } else { Err(Failure::Refused(answer.refusal())) }
    }

    async fn attempt(
        &self,
        method: Method,
        endpoint: &Endpoint,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
        wanted: Wanted,
    ) -> Result<Answer, Failure> {
        let mut has_left = false;
        let limit = self.timeout;
        let exchange = async {
            let request = self.request(method, endpoint, headers, body);
            self.exchange(endpoint, request, wanted, &mut has_left).await
        };
        if let Ok(outcome) = tokio::time::timeout(limit, exchange).await {
            return outcome;
        }
        let limit = humantime::format_duration(limit);
        Err(if has_left {
            Failure::NoAnswer(format!("no answer from {endpoint} within {limit}"))
        } else {
            Failure::NotSent(format!("no connection to {endpoint} within {limit}"))
        })
    }

    async fn exchange(
        &self,
        endpoint: &Endpoint,
        request: Result<Request<Full<Bytes>>, String>,
        wanted: Wanted,
        has_left: &mut bool,
    ) -> Result<Answer, Failure> {
        let not_sent = |reason: String| Failure::NotSent(format!("cannot reach {endpoint}: {reason}"));
        let no_answer =
            |error: hyper::Error| Failure::NoAnswer(format!("no answer from {endpoint}: {}", causes(&error)));
        let request = request.map_err(not_sent)?;
        let stream = self.connector().map_err(not_sent)?.call(endpoint.0.clone()).await;
        let stream = stream.map_err(|error| not_sent(connecting(&*error)))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(|error| not_sent(causes(&error)))?;
        *has_left = true;
        let answer = pin!(async {
            let answer = sender.send_request(request).await?;
            Answer::read(answer, wanted).await
        });
        // The connection moves what the answer waits for. It may end first, with all that belongs to the answer read.
        let answered = match select(answer, pin!(connection)).await {
            Either::Left((answered, _)) => answered,
            Either::Right((_, answer)) => answer.await,
        };
        answered.map_err(no_answer)
    }

    fn request(
        &self,
        method: Method,
        endpoint: &Endpoint,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, String> {
        let path = endpoint.0.path_and_query().map_or("/", |path| path.as_str());
        let host = endpoint.0.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        request = request.header(USER_AGENT, concat!("pgvigil/", env!("CARGO_PKG_VERSION")));
        let mut request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        for (name, value) in headers.iter().chain(&self.headers) {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        Ok(request)
    }

    fn connector(&self) -> Result<HttpsConnector<HttpConnector>, String> {
        let config = match &self.tls {
            Some(config) => ClientConfig::clone(config),
            None => self.files.config()?,
        };
        Ok(HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build())
    }
}

fn header_value(text: &str, key: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| format!("{key}: it holds a character that a header cannot have, such as a line break"))?;
    value.set_sensitive(true);
    Ok(value)
}

impl TlsFiles {
    fn config(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.ca {
            let (n_added, _) = roots.add_parsable_certificates(certificates(path, "ca_file")?);
            if n_added == 0 {
                return Err(format!("ca_file: there is no certificate in {}", path.display()));
            }
        } else {
            // None is fine as long as no address is https.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        match (&self.cert, &self.key) {
            (None, None) => Ok(builder.with_no_client_auth()),
            (Some(_), None) => Err("cert_file needs key_file, the certificate's key".to_owned()),
            (None, Some(_)) => Err("key_file needs cert_file, the key's certificate".to_owned()),
            (Some(cert), Some(key)) => {
                let chain = certificates(cert, "cert_file")?;
                if chain.is_empty() {
                    return Err(format!("cert_file: there is no certificate in {}", cert.display()));
                }
                let private = PrivateKeyDer::from_pem_slice(&read(key, "key_file")?)
                    .map_err(|error| format!("key_file: there is no key in {}: {error}", key.display()))?;
                builder
                    .with_client_auth_cert(chain, private)
                    .map_err(|error| format!("key_file: {} cannot be used: {error}", key.display()))
            }
        }
    }
}

fn read(path: &Path, parameter: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{parameter}: cannot read {}: {error}", path.display()))
}

fn certificates(path: &Path, parameter: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(&read(path, parameter)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("{parameter}: {} is not PEM: {error}", path.display()))
}

/// What is read of an answer.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// Nothing, unless it says no; and then as much as comes soon. The status is what counts.
    Refusals,
    Whole,
}

/// An answer, as far as it was wanted.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

impl Answer {
    async fn read(answer: Response<Incoming>, wanted: Wanted) -> Result<Self, hyper::Error> {
        let status = answer.status();
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let mut read = Self { status, retry_after: retry_after.map(Duration::from_secs), body: Vec::new() };
        match wanted {
            Wanted::Refusals if status.is_success() => {}
            Wanted::Refusals => {
                // A body that does not come is done without.
                let _ = tokio::time::timeout(ANSWER_LIMIT, read.take(answer.into_body(), MAX_ANSWER)).await;
            }
            Wanted::Whole => read.take(answer.into_body(), WHOLE).await?,
        }
        Ok(read)
    }

    async fn take(&mut self, mut body: Incoming, most: usize) -> Result<(), hyper::Error> {
        while self.body.len() < most
            && let Some(frame) = body.frame().await
        {
            if let Some(data) = frame?.data_ref() {
                self.body.extend_from_slice(&data[..data.len().min(most)]);
            }
        }
        Ok(())
    }

    fn refusal(&self) -> Refusal {
        let text = line(&String::from_utf8_lossy(&self.body));
        Refusal { status: self.status, retry_after: self.retry_after, text }
    }
}

/// Why no connection came about, and what to do where that is known.
fn connecting(error: &(dyn std::error::Error + 'static)) -> String {
    let reason = causes(error);
    // The other one is an authority of that name with another key.
    let way_out = if reason.contains("UnknownIssuer") || reason.contains("BadSignature") {
        "; ca_file names the authority of its certificate"
    } else if reason.contains("CertificateRequired") || reason.contains("HandshakeFailure") {
        "; does it ask for a certificate? cert_file and key_file name one"
    } else {
        ""
    };
    format!("{reason}{way_out}")
}

/// An error with what caused it, each said once.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(error), |error| error.source()) {
        let text = cause.to_string();
        if !said.iter().any(|before| before.contains(&text)) {
            said.push(text);
        }
    }
    line(&said.join(": "))
}

/// The first 200 characters, on one line.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

impl Failure {
    /// What to make of it. `reason` is what of a refusal may be told.
    pub(super) fn judged(self, endpoint: &Endpoint, reason: impl FnOnce(&Refusal) -> String) -> SendFailure {
        let refusal = match self {
            Self::NotSent(reason) => return SendFailure::Transient(reason),
            Self::NoAnswer(reason) => return SendFailure::Unclear(reason),
            Self::Refused(refusal) => refusal,
        };
        let status = refusal.status;
        let said = format!("{endpoint} answered {status}{}", reason(&refusal));
        match status.as_u16() {
            300..=399 => SendFailure::Permanent(format!(
                "{said}: redirects are not followed, so write the address that it leads to"
            )),
            408 | 425 | 429 | 503 => match refusal.retry_after {
                Some(after) => SendFailure::Later { reason: said, after },
                None => SendFailure::Transient(said),
            },
            // Something behind it may have taken the notice.
            500 | 502 | 504 => SendFailure::Unclear(said),
            501..=599 => SendFailure::Transient(said),
            _ => SendFailure::Permanent(said),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        Endpoint::parse(&Secret(text.to_owned())).expect("a good URL")
    }

    #[test]
    fn an_address_shows_nothing_but_scheme_and_host() {
        let shown = endpoint("https://hooks.example.com:8443/T0/s3cr3t?key=s3cr3t");
        assert_eq!(format!("{shown} {shown:?}"), "https://hooks.example.com:8443 https://hooks.example.com:8443/..");
        assert_eq!(format!("{:?}", Secret("s3cr3t".to_owned())), "Secret(..)");
    }

    #[test]
    fn a_path_is_kept_before_what_is_added() {
        for (url, expect) in [
            ("http://am:9093", "http://am:9093/api/v2/alerts"),
            ("http://am:9093/", "http://am:9093/api/v2/alerts"),
            ("https://am/a/b/", "https://am/a/b/api/v2/alerts"),
        ] {
            assert_eq!(endpoint(url).join("/api/v2/alerts").0.to_string(), expect);
        }
    }

    #[test]
    fn a_refusal_is_worth_another_attempt_or_not() {
        use SendFailure::{Later, Permanent, Transient, Unclear};
        let url = endpoint("https://a/s3cr3t");
        let judged = |status: u16, retry_after: Option<u64>| {
            let status = StatusCode::from_u16(status).expect("a status");
            let refusal =
                Refusal { status, retry_after: retry_after.map(Duration::from_secs), text: "s3cr3t".to_owned() };
            Failure::Refused(refusal).judged(&url, |_| String::new())
        };
        let said = |status: &str| format!("https://a answered {status}");
        assert_eq!(judged(400, None), Permanent(said("400 Bad Request")));
        assert_eq!(judged(401, None), Permanent(said("401 Unauthorized")));
        assert_eq!(judged(408, None), Transient(said("408 Request Timeout")));
        assert_eq!(judged(425, None), Transient(said("425 Too Early")));
        assert_eq!(judged(503, None), Transient(said("503 Service Unavailable")));
        assert_eq!(judged(502, None), Unclear(said("502 Bad Gateway")));
        let after = Duration::from_secs(120);
        assert_eq!(judged(429, Some(120)), Later { reason: said("429 Too Many Requests"), after });
        let redirect = ": redirects are not followed, so write the address that it leads to";
        assert_eq!(judged(301, None), Permanent(said("301 Moved Permanently") + redirect));
    }
}
