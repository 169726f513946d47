//! TLS to registries, peers and the Kubernetes API: which roots are trusted, which algorithms are taken, and how a
//! server's certificate is checked.
//!
//! Registries' certificates are often home-made. What curl and Go's clients accept is accepted here too: keys on P-521,
//! ECDSA with SHA-512 (`ecdsa.rs`), and a certificate that is itself one of the roots (`verifier.rs`). Why ring with
//! additions: `docs/decisions/0010-tls-provider.md`.

mod ecdsa;
mod provider;
mod roots;
mod verifier;

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use provider::provider;
pub use roots::{Roots, RootsError};

use verifier::Verifier;

/// What this side of a connection shows a server that asks for a certificate.
pub struct Identity {
    /// The certificate of the key first.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// The configuration of a client that trusts these roots.
///
/// # Errors
/// The key of the identity is of a kind that cannot sign, or does not belong to its certificate.
pub fn client(roots: Roots, identity: Option<Identity>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(provider());
    let verifier = Verifier::new(roots, provider.signature_verification_algorithms);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    match identity {
        Some(Identity { chain, key }) => builder.with_client_auth_cert(chain, key),
        None => Ok(builder.with_no_client_auth()),
    }
}
