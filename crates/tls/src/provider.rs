//! The cryptography of all TLS connections of the process.

use rustls::SignatureScheme;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use webpki::ring as ring_algs;

use crate::ecdsa::{P256_SHA512, P384_SHA512, P521_SHA256, P521_SHA384, P521_SHA512};

/// ring's provider, with the signature algorithms that it lacks: every pair of curve and hash with which Go and OpenSSL
/// sign certificates.
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        signature_verification_algorithms: ALGORITHMS,
        ..rustls::crypto::ring::default_provider()
    }
}

/// Those of rustls with ring, in its order, followed by the additional ones.
static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        ring_algs::ECDSA_P256_SHA256,
        ring_algs::ECDSA_P256_SHA384,
        ring_algs::ECDSA_P384_SHA256,
        ring_algs::ECDSA_P384_SHA384,
        ring_algs::ED25519,
        ring_algs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        ring_algs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
        ring_algs::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
        ring_algs::RSA_PKCS1_2048_8192_SHA256,
        ring_algs::RSA_PKCS1_2048_8192_SHA384,
        ring_algs::RSA_PKCS1_2048_8192_SHA512,
        ring_algs::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
        ring_algs::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
        ring_algs::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
        P256_SHA512,
        P384_SHA512,
        P521_SHA256,
        P521_SHA384,
        P521_SHA512,
    ],
    mapping: &[
        // In TLS 1.3 the scheme determines the curve, and the first algorithm counts; in TLS 1.2 any may be meant.
        (
            SignatureScheme::ECDSA_NISTP384_SHA384,
            &[
                ring_algs::ECDSA_P384_SHA384,
                ring_algs::ECDSA_P256_SHA384,
                P521_SHA384,
            ],
        ),
        (
            SignatureScheme::ECDSA_NISTP256_SHA256,
            &[
                ring_algs::ECDSA_P256_SHA256,
                ring_algs::ECDSA_P384_SHA256,
                P521_SHA256,
            ],
        ),
        (
            SignatureScheme::ECDSA_NISTP521_SHA512,
            &[P521_SHA512, P384_SHA512, P256_SHA512],
        ),
        (SignatureScheme::ED25519, &[ring_algs::ED25519]),
        (
            SignatureScheme::RSA_PSS_SHA512,
            &[ring_algs::RSA_PSS_2048_8192_SHA512_LEGACY_KEY],
        ),
        (
            SignatureScheme::RSA_PSS_SHA384,
            &[ring_algs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY],
        ),
        (
            SignatureScheme::RSA_PSS_SHA256,
            &[ring_algs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY],
        ),
        (
            SignatureScheme::RSA_PKCS1_SHA512,
            &[ring_algs::RSA_PKCS1_2048_8192_SHA512],
        ),
        (
            SignatureScheme::RSA_PKCS1_SHA384,
            &[ring_algs::RSA_PKCS1_2048_8192_SHA384],
        ),
        (
            SignatureScheme::RSA_PKCS1_SHA256,
            &[ring_algs::RSA_PKCS1_2048_8192_SHA256],
        ),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    /// An update of rustls may add algorithms, which must then be added here.
    #[test]
    fn nothing_that_rustls_verifies_is_left_out() {
        let theirs = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        for algorithm in theirs.all {
            let text = format!("{algorithm:?}");
            assert!(
                ALGORITHMS.all.iter().any(|a| format!("{a:?}") == text),
                "{text}"
            );
        }
        let ours = ALGORITHMS.supported_schemes();
        for scheme in theirs.supported_schemes() {
            assert!(ours.contains(&scheme), "{scheme:?}");
        }
        assert!(ours.contains(&SignatureScheme::ECDSA_NISTP521_SHA512));
    }
}
