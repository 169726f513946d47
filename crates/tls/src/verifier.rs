//! The verification of a server's certificate: by the roots, or by being one of them.

use std::collections::HashSet;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

use crate::Roots;

/// Verifies as rustls does, and also accepts a certificate that is identical to a root, even one that may sign others
/// (CA:TRUE) or whose issuer is unknown: the documentation of many registries creates such certificates, and curl and
/// Go accept them. The owner of such a root's key could make a certificate for any name, so this adds no trust. Name
/// and validity are still verified.
#[derive(Debug)]
pub(crate) struct Verifier {
    roots: Arc<RootCertStore>,
    certificates: HashSet<[u8; 32]>,
    algorithms: WebPkiSupportedAlgorithms,
    takes_any: bool,
}

impl Verifier {
    pub(crate) fn new(roots: Roots, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self {
            roots: Arc::new(roots.store),
            certificates: roots.certificates,
            algorithms,
            takes_any: false,
        }
    }

    /// Verifies only that the server has the key of its certificate.
    pub(crate) fn of_any(algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self {
            takes_any: true,
            ..Self::new(Roots::none(), algorithms)
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.takes_any {
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let by_roots = verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        );
        match by_roots {
            Err(error)
                if has_no_other_fault(&error) && Roots::holds(&self.certificates, end_entity) => {}
            other => other?,
        }
        verify_server_name(&parsed, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether a certificate was refused only for its place in a chain. webpki checks the validity before that, as the test
/// of an expired root shows.
fn has_no_other_fault(error: &Error) -> bool {
    let Error::InvalidCertificate(fault) = error else {
        return false;
    };
    match fault {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => true,
        CertificateError::Other(OtherError(source)) => matches!(
            source.downcast_ref::<webpki::Error>(),
            Some(webpki::Error::CaUsedAsEndEntity)
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
