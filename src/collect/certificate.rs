//! What there is to know of a server's certificate beyond that it is accepted: until when it is valid. Noted while the
//! handshake verifies it, for the session does not hand it out afterwards.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::core::checkup::{PeerCertificate, Verified};

/// Where the handshake leaves the certificate that it saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(Arc<OnceLock<PeerCertificate>>);

impl Seen {
    /// `None` before a handshake, and when the certificate cannot be read.
    pub(super) fn certificate(&self) -> Option<PeerCertificate> {
        self.0.get().copied()
    }
}

/// Verifies as `verifier` does, and notes what it is shown.
#[derive(Debug)]
pub(super) struct Noting {
    pub(super) verifier: Arc<dyn ServerCertVerifier>,
    pub(super) verified: Verified,
    pub(super) seen: Seen,
}

fn expires_at(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let not_after = certificate.tbs_certificate.validity.not_after.to_unix_duration();
    SystemTime::UNIX_EPOCH.checked_add(not_after)
}

impl ServerCertVerifier for Noting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(expires_at) = expires_at(end_entity) {
            // A handshake has one certificate; a second would be refused by it.
            let _ = self.seen.0.set(PeerCertificate { expires_at, verified: self.verified });
        }
        self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
