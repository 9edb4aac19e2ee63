//! `[server.tls]`: the listener speaks TLS, 1.2 or later, with a certificate that is read anew when its files change.
//!
//! A change that cannot be used changes nothing: the certificate that was good is kept, and the log says why.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::any_chain::AnyChain;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// `[server.tls]`: the files, in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The server's own certificate, then those between it and a root that clients know.
    pub cert: PathBuf,
    /// Its private key, without a passphrase.
    pub key: PathBuf,
}

/// Why it cannot be served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("server.tls.{key}: {}: {reason}", path.display())]
pub struct TlsProblem {
    pub key: &'static str,
    pub path: PathBuf,
    pub reason: String,
}

/// What tells that a file is another than before.
type Stamp = Option<(u64, u64, i64, i64)>;

/// The certificate in use.
#[derive(Clone, Debug)]
pub struct Tls {
    files: TlsConfig,
    current: Arc<Mutex<Arc<ServerConfig>>>,
    /// Of the files that `current` was read from, or that could not be used.
    stamps: [Stamp; 2],
}

impl Tls {
    pub fn load(files: &TlsConfig) -> Result<Self, TlsProblem> {
        let stamps = stamps(files);
        let current = Arc::new(Mutex::new(read(files)?));
        Ok(Self { files: files.clone(), current, stamps })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Reads the files anew whenever they have changed, until `cancel`.
    pub async fn watch(mut self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            // Two small files of this machine.
            self.look();
        }
    }

    fn look(&mut self) {
        let stamps = stamps(&self.files);
        if stamps == self.stamps {
            return;
        }
        self.stamps = stamps;
        match read(&self.files) {
            Ok(config) => {
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = config;
                info!(cert = %self.files.cert.display(), "the certificate has changed and is in use for new connections");
            }
            Err(error) => warn!(%error, "the certificate has changed and cannot be used; the one before is kept"),
        }
    }
}

fn stamps(files: &TlsConfig) -> [Stamp; 2] {
    [&files.cert, &files.key].map(|path| {
        let meta = fs::metadata(path).ok()?;
        Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
    })
}

fn read(files: &TlsConfig) -> Result<Arc<ServerConfig>, TlsProblem> {
    let problem = |key: &'static str, path: &Path, reason: String| TlsProblem { key, path: path.to_owned(), reason };
    let bytes = |key: &'static str, path: &Path| {
        fs::read(path).map_err(|error| problem(key, path, format!("cannot be read: {}", told(&error))))
    };
    let in_cert = |reason: &str| problem("cert", &files.cert, reason.to_owned());
    let in_key = |reason: String| problem("key", &files.key, reason);

    let pem = bytes("cert", &files.cert)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| in_cert(&format!("is damaged: {error}")))?;
    if chain.is_empty() {
        return Err(in_cert("holds no certificate; it must have \"-----BEGIN CERTIFICATE-----\""));
    }
    let pem = bytes("key", &files.key)?;
    if pem.windows(b"ENCRYPTED".len()).any(|part| part == b"ENCRYPTED") {
        let way_out = "has a passphrase; \"openssl pkey -in IN -out OUT\" takes it off";
        return Err(in_key(way_out.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| in_key("holds no private key; it must have \"-----BEGIN PRIVATE KEY-----\"".to_owned()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| in_cert(&error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                in_key(format!("does not belong to the certificate in {}", files.cert.display()))
            }
            rustls::Error::InvalidCertificate(_) => in_cert(&format!("cannot be used: {error}")),
            error => in_key(format!("cannot be used: {error}")),
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// For a client on this machine that takes whatever certificate the listener has.
pub(super) fn connector() -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyChain(provider)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn told(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "its permissions do not let us".to_owned(),
        _ => error.to_string(),
    }
}
