//! TLS to registries, peers and the Kubernetes API: the trusted roots, the accepted algorithms, and the verification of
//! certificates.
//!
//! Registries' certificates are often home-made. Whatever curl and Go's clients accept is accepted here too: keys on
//! P-521, ECDSA with SHA-512 (`ecdsa.rs`), and a certificate that is itself one of the roots (`verifier.rs`). Why ring
//! with additions: `docs/decisions/0010-tls-provider.md`.
//!
//! Nodes with certificates of one authority prove them to each other (`peer.rs`, `peer_certificates.rs`):
//! `docs/decisions/0017-mutual-tls.md`.

mod ecdsa;
mod expiry;
mod identity;
mod maybe_tls;
mod peer;
mod peer_certificates;
mod provider;
mod roots;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod verifier;

use std::sync::Arc;

use rustls::ClientConfig;

pub use identity::{Identity, IdentityError};
pub use maybe_tls::MaybeTls;
pub use peer::{PeerTls, PeerTlsState};
pub use peer_certificates::{PeerCertificates, PeerCertificatesError};
pub use provider::provider;
pub use roots::{Roots, RootsError};

use verifier::Verifier;

/// The configuration of a client that trusts these roots.
///
/// # Errors
/// The key of the identity cannot sign, or does not belong to its certificate.
pub fn client(roots: Roots, identity: Option<Identity>) -> Result<ClientConfig, rustls::Error> {
    let algorithms = provider().signature_verification_algorithms;
    with_verifier(Verifier::new(roots, algorithms), identity)
}

/// The configuration of a client that accepts any certificate, for a server that the operator has excepted
/// (`skip_verify` in containerd's hosts.toml).
///
/// # Errors
/// The same as for [`client`].
pub fn client_without_verification(
    identity: Option<Identity>,
) -> Result<ClientConfig, rustls::Error> {
    let algorithms = provider().signature_verification_algorithms;
    with_verifier(Verifier::of_any(algorithms), identity)
}

fn with_verifier(
    verifier: Verifier,
    identity: Option<Identity>,
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    match identity {
        Some(Identity { chain, key }) => builder.with_client_auth_cert(chain, key),
        None => Ok(builder.with_no_client_auth()),
    }
}
