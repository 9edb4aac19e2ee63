//! TLS as libpq's parameters ask for it, done by rustls.
//!
//! | `sslmode` | encrypts | checks the chain | checks the name |
//! | --- | --- | --- | --- |
//! | `disable` | no | | |
//! | `allow` | when the server refuses to do without | if a root file exists | no |
//! | `prefer` (default) | when the server can | if a root file exists | no |
//! | `require` | yes | if a root file exists | no |
//! | `verify-ca` | yes | yes | no |
//! | `verify-full` | yes | yes | yes |
//!
//! "A root file exists" is libpq's rule: `sslrootcert`, else `~/.postgresql/root.crt`. With `sslrootcert=system` the
//! machine's own store is used, and then only `verify-full` is allowed.
//!
//! With `sslrootcert=rds`, which libpq does not have, they are those of Amazon RDS.
//!
//! Where a chain is checked, so are the revocation lists of `sslcrl` and `sslcrldir`, else `~/.postgresql/root.crl` if it
//! exists: each certificate of the chain needs a list of its issuer that is not out of date. A list that was named and
//! cannot be read is an error, where libpq goes on without it.
//!
//! Two more things differ from libpq. The name is looked for in the certificate's subject alternative names (DNS and IP)
//! alone: its common name, to which libpq falls back, is never looked at. And TLS 1.2 is the oldest version there is.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertRevocationListError, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};

use super::certificate::{Noting, Seen};
use super::turns::Turns;
use crate::any_chain::AnyChain;
use crate::aws::{self, Aws, Secrets};
use crate::core::checkup;

/// `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// `no-verify` is node-postgres' word for `require`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" | "no-verify" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => return None,
        })
    }
}

/// `sslrootcert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// A PEM file, or its usual place. `None` when there is not even a home directory.
    File(Option<PathBuf>),
    /// The machine's own store.
    System,
    /// Those of Amazon RDS, from a copy inside this program.
    Rds,
}

/// The authorities of RDS and Aurora, in all regions. Clients that log in to RDS Proxy need the machine's store instead.
const RDS: &[u8] = include_bytes!("rds-ca.pem");
/// Of when the copy is.
pub const RDS_COPIED_ON: &str = "2024-11-23";

/// What the connection string says about TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    pub mode: SslMode,
    pub roots: Roots,
    pub revocation: RevocationLists,
    /// `sslcert` and `sslkey`, or their usual places. `None` without a home directory, or with `sslcertmode=disable`.
    pub identity: Option<ClientFiles>,
    /// `sslnegotiation=direct`: the handshake comes first, without asking (PostgreSQL 17+).
    pub direct: bool,
    /// `sslsni`: the host's name is sent in the clear, which proxies route by.
    pub sni: bool,
    pub tls12: bool,
    pub tls13: bool,
}

/// Where lists of revoked certificates are. They are read for each session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationLists {
    /// `sslcrl`.
    pub file: Option<PathBuf>,
    /// `sslcrldir`: lists by the hash of their issuer's name, as `openssl rehash` names them.
    pub directory: Option<PathBuf>,
    /// The usual place, when neither was named.
    pub usual: Option<PathBuf>,
}

/// A client certificate's files. As in libpq, no certificate is sent when the first does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What is wrong with a file that TLS needs.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsProblem {
    #[error(
        "sslmode={} needs root certificates and there are none{}; name a file by sslrootcert=, take the \
         machine's store by sslrootcert=system, or encrypt without verification by sslmode=require",
        mode.as_str(), at(path.as_deref())
    )]
    NoRoots { mode: SslMode, path: Option<PathBuf> },
    #[error("the machine's certificate store gave no certificate: {reason}; name a file by sslrootcert=")]
    NoSystemRoots { reason: String },
    #[error("cannot use {} ({parameter}): {reason}", path.display())]
    File { path: PathBuf, parameter: &'static str, reason: String },
    #[error("{0}")]
    Settings(String),
}

fn at(path: Option<&Path>) -> String {
    path.map(|path| format!(" at {}", path.display())).unwrap_or_default()
}

/// What all targets share to log in: secrets of AWS, whose turn it is, and root certificates that were read: a bundle is
/// some hundred certificates, and a fleet mostly has one. A file is read again when it has changed; the machine's store is
/// read once.
#[derive(Debug)]
pub struct Trust {
    provider: Arc<CryptoProvider>,
    files: Mutex<BTreeMap<PathBuf, (Stamp, Arc<RootSet>)>>,
    system: Mutex<Option<Arc<RootSet>>>,
    rds: Mutex<Option<Arc<RootSet>>>,
    secrets: Secrets,
    turns: Turns,
}

#[derive(Debug)]
struct RootSet {
    store: Arc<RootCertStore>,
    /// As they stood in the file: one of them may be the server's own.
    certificates: Vec<CertificateDer<'static>>,
}

impl RootSet {
    /// `None` when none of the certificates can be read.
    fn of(certificates: Vec<CertificateDer<'static>>) -> Option<Arc<Self>> {
        let mut store = RootCertStore::empty();
        let (n_added, _) = store.add_parsable_certificates(certificates.iter().cloned());
        (n_added > 0).then(|| Arc::new(Self { store: Arc::new(store), certificates }))
    }
}

/// What tells one content of a file from the next: inode, size, modification time.
type Stamp = (u64, u64, i64, i64);

impl Default for Trust {
    fn default() -> Self {
        Self::new(Aws::new(aws::Config::default()))
    }
}

impl Trust {
    pub fn new(aws: Aws) -> Self {
        Self {
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            files: Mutex::default(),
            system: Mutex::default(),
            rds: Mutex::default(),
            secrets: Secrets::new(aws),
            turns: Turns::default(),
        }
    }

    /// Who may connect now.
    pub(super) const fn turns(&self) -> &Turns {
        &self.turns
    }

    pub const fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// The client's side of TLS for these settings. The handshake leaves the server's certificate in `seen`.
    ///
    /// # Errors
    /// A file is needed and missing, unreadable, or not what it should be.
    pub(super) fn client_config(&self, settings: &TlsSettings, seen: &Seen) -> Result<ClientConfig, TlsProblem> {
        let roots = self.roots(settings)?;
        let verified = match (&roots, settings.mode) {
            (None, _) => checkup::Verified::Nothing,
            (Some(_), SslMode::VerifyFull) => checkup::Verified::ChainAndName,
            (Some(_), _) => checkup::Verified::Chain,
        };
        let verifier: Arc<dyn ServerCertVerifier> = match roots {
            None => Arc::new(AnyChain(Arc::clone(&self.provider))),
            Some(roots) => Arc::new(self.verified(roots, settings)?),
        };
        let verifier = Arc::new(Noting { verifier, verified, seen: seen.clone() });
        let versions: Vec<&'static SupportedProtocolVersion> = [(settings.tls12, &TLS12), (settings.tls13, &TLS13)]
            .into_iter()
            .filter_map(|(is_wanted, version)| is_wanted.then_some(version))
            .collect();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&versions)
            .map_err(|error| TlsProblem::Settings(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match settings.identity.as_ref().map(read_identity).transpose()?.flatten() {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
                let (certificate, path) = match &settings.identity {
                    Some(files) => (files.certificate.display().to_string(), files.key.clone()),
                    None => Default::default(),
                };
                let reason = match error {
                    rustls::Error::InconsistentKeys(_) => format!("it is not the key of the certificate {certificate}"),
                    other => other.to_string(),
                };
                TlsProblem::File { path, parameter: "sslkey", reason }
            })?,
        };
        config.enable_sni = settings.sni;
        if settings.direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        // A session is opened rarely and kept: remembering tickets would cost memory per target for nothing.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    fn verified(&self, roots: Arc<RootSet>, settings: &TlsSettings) -> Result<Verified, TlsProblem> {
        let lists = settings.revocation.read()?;
        let checks_revocation = !lists.is_empty();
        let mut builder =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots.store), Arc::clone(&self.provider));
        if checks_revocation {
            builder = builder.with_crls(lists).enforce_revocation_expiration();
        }
        let chain = builder.build().map_err(|error| match error {
            VerifierBuilderError::InvalidCrl(reason) => {
                TlsProblem::Settings(format!("a list of sslcrl or sslcrldir cannot be used: {reason:?}"))
            }
            other => TlsProblem::Settings(other.to_string()),
        })?;
        Ok(Verified { chain, roots, checks_name: settings.mode == SslMode::VerifyFull, checks_revocation })
    }

    /// What the server's chain must end in. `None` when it need not be verified.
    fn roots(&self, settings: &TlsSettings) -> Result<Option<Arc<RootSet>>, TlsProblem> {
        let must_verify = settings.mode >= SslMode::VerifyCa;
        match &settings.roots {
            Roots::System => self.system_roots().map(Some),
            Roots::Rds => self.rds_roots().map(Some),
            Roots::File(Some(path)) => match self.file_roots(path, must_verify)? {
                None if must_verify => {
                    Err(TlsProblem::NoRoots { mode: settings.mode, path: settings.roots.path().cloned() })
                }
                roots => Ok(roots),
            },
            Roots::File(None) if must_verify => Err(TlsProblem::NoRoots { mode: settings.mode, path: None }),
            Roots::File(None) => Ok(None),
        }
    }

    /// The certificates in a PEM file. `None` when there is no such file, or none that we may read in the usual place, of
    /// which nobody spoke: then nothing is lost unless it is needed.
    fn file_roots(&self, path: &Path, must_verify: bool) -> Result<Option<Arc<RootSet>>, TlsProblem> {
        let problem = |reason: String| TlsProblem::File { path: path.to_owned(), parameter: "sslrootcert", reason };
        let may_lack = !must_verify && is_usual(path);
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if is_absent(&error) || may_lack => return Ok(None),
            Err(error) => return Err(problem(why(&error))),
        };
        let stamp = (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        // Held while reading, so that a fleet that starts up reads the bundle once.
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, roots)) = files.get(path).filter(|(known, _)| *known == stamp) {
            return Ok(Some(Arc::clone(roots)));
        }
        let pem = match fs::read(path) {
            Ok(pem) => pem,
            Err(_) if may_lack => return Ok(None),
            Err(error) => return Err(problem(why(&error))),
        };
        let certificates = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| problem(format!("not PEM: {error}")))?;
        let roots = RootSet::of(certificates).ok_or_else(|| problem(NO_CERTIFICATE.to_owned()))?;
        files.insert(path.to_owned(), (stamp, Arc::clone(&roots)));
        Ok(Some(roots))
    }

    fn system_roots(&self) -> Result<Arc<RootSet>, TlsProblem> {
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(roots) = &*system {
            return Ok(Arc::clone(roots));
        }
        let found = rustls_native_certs::load_native_certs();
        let roots = RootSet::of(found.certs).ok_or_else(|| TlsProblem::NoSystemRoots {
            reason: found.errors.first().map_or_else(|| "it is empty".to_owned(), ToString::to_string),
        })?;
        Ok(Arc::clone(system.insert(roots)))
    }
}

impl Trust {
    fn rds_roots(&self) -> Result<Arc<RootSet>, TlsProblem> {
        let mut rds = self.rds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(roots) = &*rds {
            return Ok(Arc::clone(roots));
        }
        let certificates = CertificateDer::pem_slice_iter(RDS).filter_map(Result::ok).collect();
        let roots = RootSet::of(certificates)
            .ok_or_else(|| TlsProblem::Settings("the built-in certificates of RDS cannot be read".to_owned()))?;
        Ok(Arc::clone(rds.insert(roots)))
    }
}

impl Roots {
    pub(super) const fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::File(path) => path.as_ref(),
            Self::System | Self::Rds => None,
        }
    }
}

impl RevocationLists {
    fn read(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsProblem> {
        let mut lists = Vec::new();
        if let Some(file) = &self.file {
            lists.extend(lists_in(file, "sslcrl")?);
        }
        if let Some(file) = self.usual.as_ref().filter(|file| file.exists()) {
            lists.extend(lists_in(file, "sslcrl")?);
        }
        if let Some(directory) = &self.directory {
            let problem = |reason| TlsProblem::File { path: directory.clone(), parameter: "sslcrldir", reason };
            let entries = fs::read_dir(directory).map_err(|error| problem(why(&error)))?;
            let mut files: Vec<PathBuf> =
                entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| is_hashed(path)).collect();
            if files.is_empty() {
                return Err(problem(
                    "it holds no list named by its hash, such as 0a1b2c3d.r0: openssl rehash".to_owned(),
                ));
            }
            files.sort();
            for file in files {
                lists.extend(lists_in(&file, "sslcrldir")?);
            }
        }
        Ok(lists)
    }
}

fn lists_in(path: &Path, parameter: &'static str) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsProblem> {
    let problem = |reason| TlsProblem::File { path: path.to_owned(), parameter, reason };
    let pem = fs::read(path).map_err(|error| problem(why(&error)))?;
    let lists = CertificateRevocationListDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| problem(format!("not PEM: {error}")))?;
    if lists.is_empty() {
        return Err(problem("it holds no list in PEM form (-----BEGIN X509 CRL-----)".to_owned()));
    }
    Ok(lists)
}

/// `0a1b2c3d.r0`
fn is_hashed(path: &Path) -> bool {
    let (stem, extension) = (path.file_stem(), path.extension());
    let is_hash = stem
        .and_then(|stem| stem.to_str())
        .is_some_and(|stem| stem.len() == 8 && stem.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let number = extension.and_then(|extension| extension.to_str()).and_then(|extension| extension.strip_prefix('r'));
    is_hash && number.is_some_and(|number| number.parse::<u32>().is_ok())
}

const NO_CERTIFICATE: &str = "it holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)";

pub(super) fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        kind => kind.to_string(),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Where libpq looks, unless told otherwise: in the home directory's `.postgresql`.
fn is_usual(path: &Path) -> bool {
    path.parent().is_some_and(|directory| directory.ends_with(".postgresql"))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The client's certificate and key. `None` when there is no certificate file.
fn read_identity(files: &ClientFiles) -> Result<Option<Identity>, TlsProblem> {
    let problem =
        |path: &Path, parameter, reason: String| TlsProblem::File { path: path.to_owned(), parameter, reason };
    let pem = match fs::read(&files.certificate) {
        Ok(pem) => pem,
        Err(error) if is_absent(&error) || is_usual(&files.certificate) => return Ok(None),
        Err(error) => return Err(problem(&files.certificate, "sslcert", why(&error))),
    };
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| problem(&files.certificate, "sslcert", format!("not PEM: {error}")))?;
    if chain.is_empty() {
        return Err(problem(&files.certificate, "sslcert", NO_CERTIFICATE.to_owned()));
    }
    let of_key = |reason: String| problem(&files.key, "sslkey", reason);
    let metadata = fs::metadata(&files.key).map_err(|error| {
        let certificate = files.certificate.display();
        of_key(format!("{}; it is needed with the certificate {certificate}", why(&error)))
    })?;
    if !metadata.is_file() {
        return Err(of_key("it is not a plain file".to_owned()));
    }
    // libpq's rule: one's own key is private, root's may be read by a group.
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        return Err(of_key("others may read or change it: chmod 600 it".to_owned()));
    }
    let pem = fs::read(&files.key).map_err(|error| of_key(why(&error)))?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        let is_encrypted = pem.windows(9).any(|window| window == b"ENCRYPTED");
        of_key(if is_encrypted {
            "it is encrypted, and only plain keys are taken: openssl pkey -in KEY -out PLAIN".to_owned()
        } else {
            "it holds no private key in PEM form".to_owned()
        })
    })?;
    Ok(Some((chain, key)))
}

/// Verifies the chain, and the name if asked to.
#[derive(Debug)]
struct Verified {
    chain: Arc<WebPkiServerVerifier>,
    roots: Arc<RootSet>,
    checks_name: bool,
    checks_revocation: bool,
}

impl ServerCertVerifier for Verified {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext, Other};
        match self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is compared last, so this error says that all else was well.
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
                if !self.checks_name =>
            {
                Ok(ServerCertVerified::assertion())
            }
            // A self-signed certificate that is its own root, as the manual's example makes it, is an authority used as
            // a server, which webpki refuses (after the dates) and libpq takes. Whether it is revoked was not looked up.
            Err(rustls::Error::InvalidCertificate(Other(_)))
                if !self.checks_revocation && self.roots.certificates.contains(end_entity) =>
            {
                if self.checks_name {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// What a failed handshake means, and the way out.
pub(super) fn explain(error: &rustls::Error, settings: &TlsSettings) -> String {
    use CertificateError as Bad;
    let roots = match &settings.roots {
        Roots::System => "the machine's certificate store".to_owned(),
        Roots::Rds => format!("the copy of RDS' own of {RDS_COPIED_ON}"),
        Roots::File(Some(path)) => path.display().to_string(),
        Roots::File(None) => "the root certificates".to_owned(),
    };
    match error {
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer) => {
            format!("the server's certificate was issued by none of the authorities in {roots}; check sslrootcert")
        }
        // Of what webpki alone knows by name, this is what is met: an authority used as a server.
        rustls::Error::InvalidCertificate(Bad::Other(other)) if other.to_string().contains("CaUsedAsEndEntity") => {
            format!("the server's certificate is self-signed, and is not in {roots}; check sslrootcert")
        }
        rustls::Error::InvalidCertificate(Bad::NotValidForNameContext { expected, presented }) => {
            let expected = expected.to_str();
            if presented.is_empty() {
                return format!(
                    "the server's certificate has no subject alternative name, so it cannot be for \"{expected}\" \
                     (a common name does not count); use sslmode=verify-ca"
                );
            }
            let names: Vec<&str> = presented.iter().map(|name| presented_name(name)).collect();
            let names = names.join(", ");
            format!(
                "the server's certificate is for {names}, not for \"{expected}\"; connect by a name it has, or use \
                 sslmode=verify-ca"
            )
        }
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "the server's certificate, or one it was issued by, has expired".to_owned()
        }
        rustls::Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "the server's certificate is not valid yet; check both machines' clocks".to_owned()
        }
        rustls::Error::InvalidCertificate(Bad::Revoked) => {
            "the server's certificate, or one it was issued by, is revoked".to_owned()
        }
        rustls::Error::InvalidCertificate(Bad::UnknownRevocationStatus) => {
            "no revocation list (sslcrl, sslcrldir) is by the authority that issued the server's certificate, or one of \
             its chain; add it"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(Bad::ExpiredRevocationList | Bad::ExpiredRevocationListContext { .. }) => {
            "the revocation list (sslcrl, sslcrldir) is out of date; fetch the authority's newest".to_owned()
        }
        rustls::Error::InvalidCertRevocationList(CertRevocationListError::BadSignature) => {
            "a revocation list (sslcrl, sslcrldir) is signed by another authority of the same name; fetch the right one"
                .to_owned()
        }
        rustls::Error::InvalidCertRevocationList(problem) => {
            format!("a revocation list (sslcrl, sslcrldir) cannot be used: {problem:?}")
        }
        rustls::Error::AlertReceived(alert) => {
            format!("the server ended the handshake: {alert:?}; it may demand another client certificate (sslcert)")
        }
        other => other.to_string(),
    }
}

/// `DnsName("localhost")` as rustls has it, shown as `localhost`.
fn presented_name(name: &str) -> &str {
    name.split_once('(').map_or(name, |(_, inner)| inner.trim_end_matches(')').trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    // Public parts only, valid for a hundred years; the name is db.example or 192.0.2.1.
    const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBmTCCAT+gAwIBAgIUVIx0ByW5eKq9pUr4ICiZUqs+afQwCgYIKoZIzj0EAwIw\n\
GTEXMBUGA1UEAwwOdGVzdCBhdXRob3JpdHkwIBcNMjYxMTIxMDIwNDM2WhgPMjEy\n\
NjEwMjgwMjA0MzZaMBkxFzAVBgNVBAMMDnRlc3QgYXV0aG9yaXR5MFkwEwYHKoZI\n\
zj0CAQYIKoZIzj0DAQcDQgAEPqy5AAKCo3QEKeLSiIRd0bNDYK7hbYgJQTLaFxL6\n\
ksV0YFTAeLK/dnb6x9Le/vHiPmVGS/gWVIA5SyE1lDoQ8qNjMGEwHQYDVR0OBBYE\n\
FMNhNJbCUWmWvaK6aTZEYOgyg67dMB8GA1UdIwQYMBaAFMNhNJbCUWmWvaK6aTZE\n\
YOgyg67dMA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgIEMAoGCCqGSM49\n\
BAMCA0gAMEUCIH6zm9YEPg/MZ6CJG6b9vfN/3tiIT7tDhYqhr28M5CUtAiEAitH3\n\
Pm2NOWIAM6iOdfyIaWAv5FHDpvnyabA8u74NGr0=\n\
-----END CERTIFICATE-----\n";
    const SERVER: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBsTCCAVegAwIBAgIUUN2ZMlIBrdfg/NKxi7hHeSYNV0owCgYIKoZIzj0EAwIw\n\
GTEXMBUGA1UEAwwOdGVzdCBhdXRob3JpdHkwIBcNMjYxMTIxMDIwNDM2WhgPMjEy\n\
NjEwMjgwMjA0MzZaMBUxEzARBgNVBAMMCmNuLmV4YW1wbGUwWTATBgcqhkjOPQIB\n\
BggqhkjOPQMBBwNCAAT+IUyoRlEY6KzhERHZnQvsmSuM6zBXtgOqT/Pl36ucTXqC\n\
2XeluBbJd58ZP00GVFU6HPl6Lm4LlIBie+qd6hmBo38wfTAbBgNVHREEFDASggpk\n\
Yi5leGFtcGxlhwTAAAIBMBMGA1UdJQQMMAoGCCsGAQUFBwMBMAkGA1UdEwQCMAAw\n\
HQYDVR0OBBYEFO+QdxvbR1VP0hdpj5QkPVZ43o0vMB8GA1UdIwQYMBaAFMNhNJbC\n\
UWmWvaK6aTZEYOgyg67dMAoGCCqGSM49BAMCA0gAMEUCIQDyqe8Vh2Yqc3/kHCQi\n\
pTE+HHggnNIyjc1QFr5q/t7ZggIgd5+PK1DSOaop4JdL084/VRfdAxV2C2K8il1h\n\
kERQ234=\n\
-----END CERTIFICATE-----\n";
    const SELF_SIGNED: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBnTCCAUSgAwIBAgIUdwwIiUQR4Ak8Is9s24V7uY/Vs3gwCgYIKoZIzj0EAwIw\n\
FTETMBEGA1UEAwwKZGIuZXhhbXBsZTAgFw0yNjExMjEwMjA0MzZaGA8yMTI2MTAy\n\
ODAyMDQzNlowFTETMBEGA1UEAwwKZGIuZXhhbXBsZTBZMBMGByqGSM49AgEGCCqG\n\
SM49AwEHA0IABE3g/gP0fKpQmLCJtU89cGvMVrqvZ7GEL5kyKACjYxclZopTOoWx\n\
iCEhAxWdfgNTOVh/eMPEeLIOXlBzjPoryDqjcDBuMB0GA1UdDgQWBBRbJIJ+2Rz4\n\
zaD7OI8WnJFl4Euv0jAfBgNVHSMEGDAWgBRbJIJ+2Rz4zaD7OI8WnJFl4Euv0jAP\n\
BgNVHRMBAf8EBTADAQH/MBsGA1UdEQQUMBKCCmRiLmV4YW1wbGWHBMAAAgEwCgYI\n\
KoZIzj0EAwIDRwAwRAIgPQoL/1+Ssj8Op/U20Tb373MIqPtlKMEJkGBMk6StC3cC\n\
IBFykaWnuGBSqUDKmmomFXuCiDRcvMeiW7p0ia/pEnkX\n\
-----END CERTIFICATE-----\n";

    fn settings(mode: SslMode, roots: Option<&Path>) -> TlsSettings {
        TlsSettings {
            mode,
            roots: Roots::File(roots.map(Path::to_owned)),
            revocation: RevocationLists::default(),
            identity: None,
            direct: false,
            sni: true,
            tls12: true,
            tls13: true,
        }
    }

    /// What a client with these roots makes of a server that shows `certificate` under `name`.
    fn verdict(mode: SslMode, roots: &str, certificate: &str, name: &str) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.crt");
        fs::write(&path, roots).unwrap();
        let settings = settings(mode, Some(&path));
        let trust = Trust::default();
        let roots = trust.roots(&settings).unwrap().unwrap();
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots.store), Arc::clone(&trust.provider))
            .build()
            .unwrap();
        let verifier = Verified { chain, roots, checks_name: mode == SslMode::VerifyFull, checks_revocation: false };
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(2_000_000_000));
        verifier
            .verify_server_cert(&certificate, &[], &name, &[], now)
            .map(|_| ())
            .map_err(|error| explain(&error, &settings).replace(path.to_str().unwrap(), "ROOTS"))
    }

    #[test]
    fn verify_ca_forgives_a_name_and_nothing_else() {
        use SslMode::{VerifyCa, VerifyFull};
        let wrong_name = "the server's certificate is for db.example, 192.0.2.1, not for \"cn.example\"; connect by a \
                          name it has, or use sslmode=verify-ca";
        let unknown = "the server's certificate was issued by none of the authorities in ROOTS; check sslrootcert";
        let unknown_self = "the server's certificate is self-signed, and is not in ROOTS; check sslrootcert";
        for (mode, roots, certificate, name, expected) in [
            (VerifyFull, AUTHORITY, SERVER, "db.example", Ok(())),
            (VerifyFull, AUTHORITY, SERVER, "192.0.2.1", Ok(())),
            // The common name does not count.
            (VerifyFull, AUTHORITY, SERVER, "cn.example", Err(wrong_name)),
            (VerifyCa, AUTHORITY, SERVER, "cn.example", Ok(())),
            (VerifyCa, SELF_SIGNED, SERVER, "db.example", Err(unknown)),
            (VerifyFull, SELF_SIGNED, SERVER, "db.example", Err(unknown)),
            // A certificate that is its own root.
            (VerifyFull, SELF_SIGNED, SELF_SIGNED, "db.example", Ok(())),
            (VerifyFull, SELF_SIGNED, SELF_SIGNED, "cn.example", Err(wrong_name)),
            (VerifyCa, SELF_SIGNED, SELF_SIGNED, "cn.example", Ok(())),
            (VerifyCa, AUTHORITY, SELF_SIGNED, "db.example", Err(unknown_self)),
        ] {
            assert_eq!(
                verdict(mode, roots, certificate, name),
                expected.map_err(str::to_owned),
                "{} {name}",
                mode.as_str()
            );
        }
    }

    #[test]
    fn a_root_file_is_demanded_by_verify_and_used_by_all_modes_when_there() {
        use SslMode::{Allow, Prefer, Require, VerifyCa, VerifyFull};
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent.crt");
        let present = dir.path().join("present.crt");
        fs::write(&present, AUTHORITY).unwrap();
        let trust = Trust::default();
        for mode in [Allow, Prefer, Require, VerifyCa, VerifyFull] {
            for (path, is_there) in [(None, false), (Some(absent.as_path()), false), (Some(present.as_path()), true)] {
                let verifies = trust.roots(&settings(mode, path)).map(|roots| roots.is_some());
                let expected = if mode >= VerifyCa && !is_there {
                    Err(TlsProblem::NoRoots { mode, path: path.map(Path::to_owned) })
                } else {
                    Ok(is_there)
                };
                assert_eq!(verifies, expected, "{} {path:?}", mode.as_str());
            }
        }
    }

    #[test]
    fn the_copy_of_the_authorities_of_rds_is_whole_and_says_when_it_was_made() {
        let roots = Trust::default().rds_roots().expect("they can be read");
        let text = String::from_utf8_lossy(RDS);
        let n_written = text.matches("-----BEGIN CERTIFICATE-----").count();
        assert_eq!((n_written, roots.certificates.len(), roots.store.len()), (87, 87, 87));
        assert!(text.contains(&format!("on {RDS_COPIED_ON}")));
    }

    #[test]
    fn a_root_file_is_read_once_and_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.crt");
        let trust = Trust::default();
        let n_roots = || trust.file_roots(&path, false).map(|roots| roots.map(|roots| roots.certificates.len()));
        fs::write(&path, AUTHORITY).unwrap();
        assert_eq!(n_roots(), Ok(Some(1)));
        let first = trust.file_roots(&path, false).unwrap().unwrap();
        assert!(Arc::ptr_eq(&first, &trust.file_roots(&path, false).unwrap().unwrap()));
        fs::write(&path, format!("{AUTHORITY}{SELF_SIGNED}")).unwrap();
        assert_eq!(n_roots(), Ok(Some(2)));
        fs::write(&path, "no certificate").unwrap();
        assert_eq!(
            n_roots(),
            Err(TlsProblem::File { path: path.clone(), parameter: "sslrootcert", reason: NO_CERTIFICATE.to_owned() })
        );
        fs::remove_file(&path).unwrap();
        assert_eq!(n_roots(), Ok(None));
    }

    #[test]
    fn a_client_key_must_be_there_and_private_once_there_is_a_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let files = ClientFiles { certificate: dir.path().join("c.crt"), key: dir.path().join("c.key") };
        let problem = || read_identity(&files).map(|found| found.is_some()).map_err(|problem| problem.to_string());
        assert_eq!(problem(), Ok(false), "no certificate");
        fs::write(&files.certificate, SERVER).unwrap();
        let (certificate, key) = (files.certificate.display().to_string(), files.key.display().to_string());
        let of_key = |reason: &str| Err(format!("cannot use {key} (sslkey): {reason}"));
        assert_eq!(problem(), of_key(&format!("no such file; it is needed with the certificate {certificate}")));
        for (mode, content, reason) in [
            (0o644, "", "others may read or change it: chmod 600 it"),
            (
                0o600,
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                "it is encrypted, and only plain keys are taken: openssl pkey -in KEY -out PLAIN",
            ),
            (0o600, "", "it holds no private key in PEM form"),
        ] {
            fs::write(&files.key, content).unwrap();
            fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(problem(), of_key(reason));
        }
    }

    #[test]
    fn what_cannot_be_read_in_the_usual_place_is_as_good_as_absent_unless_it_is_needed() {
        let home = tempfile::tempdir().unwrap();
        let usual = home.path().join(".postgresql");
        // Whoever runs the test, root as well, cannot read a directory as a file.
        fs::create_dir_all(usual.join("root.crt")).unwrap();
        fs::create_dir_all(usual.join("postgresql.crt")).unwrap();
        let told = home.path().join("told.crt");
        fs::create_dir_all(&told).unwrap();
        let outcome = |mode, roots: &Path| {
            let mut settings = settings(mode, Some(roots));
            let files = ClientFiles { certificate: usual.join("postgresql.crt"), key: usual.join("postgresql.key") };
            settings.identity = Some(files);
            Trust::default().client_config(&settings, &Seen::default()).is_ok()
        };
        assert!(outcome(SslMode::Prefer, &usual.join("root.crt")));
        assert!(outcome(SslMode::Require, &usual.join("root.crt")));
        assert!(!outcome(SslMode::VerifyFull, &usual.join("root.crt")));
        assert!(!outcome(SslMode::Prefer, &told));
    }
}
