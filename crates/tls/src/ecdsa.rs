//! ECDSA verification that ring lacks, with the RustCrypto crates. Only public data is processed, so timing reveals
//! nothing.

use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

pub(crate) static P256_SHA512: &dyn SignatureVerificationAlgorithm = &Ecdsa {
    public_key: alg_id::ECDSA_P256,
    signature: alg_id::ECDSA_SHA512,
    verify: |key, message, signature| {
        use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key)?;
        let signature = p256::ecdsa::Signature::from_der(signature)?;
        key.verify_prehash(&Sha512::digest(message), &signature)
    },
};

pub(crate) static P384_SHA512: &dyn SignatureVerificationAlgorithm = &Ecdsa {
    public_key: alg_id::ECDSA_P384,
    signature: alg_id::ECDSA_SHA512,
    verify: |key, message, signature| {
        use p384::ecdsa::signature::hazmat::PrehashVerifier as _;
        let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(key)?;
        let signature = p384::ecdsa::Signature::from_der(signature)?;
        key.verify_prehash(&Sha512::digest(message), &signature)
    },
};

pub(crate) static P521_SHA256: &dyn SignatureVerificationAlgorithm = &Ecdsa {
    public_key: alg_id::ECDSA_P521,
    signature: alg_id::ECDSA_SHA256,
    verify: |key, message, signature| p521(key, &Sha256::digest(message), signature),
};

pub(crate) static P521_SHA384: &dyn SignatureVerificationAlgorithm = &Ecdsa {
    public_key: alg_id::ECDSA_P521,
    signature: alg_id::ECDSA_SHA384,
    verify: |key, message, signature| p521(key, &Sha384::digest(message), signature),
};

pub(crate) static P521_SHA512: &dyn SignatureVerificationAlgorithm = &Ecdsa {
    public_key: alg_id::ECDSA_P521,
    signature: alg_id::ECDSA_SHA512,
    verify: |key, message, signature| p521(key, &Sha512::digest(message), signature),
};

fn p521(key: &[u8], hash: &[u8], signature: &[u8]) -> Result<(), p521::ecdsa::Error> {
    use p521::ecdsa::signature::hazmat::PrehashVerifier as _;
    let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(key)?;
    let signature = p521::ecdsa::Signature::from_der(signature)?;
    key.verify_prehash(hash, &signature)
}

/// Arguments: the key (SEC 1, section 2.3.3), the message and the signature (RFC 3279, section 2.2.3).
type Verify = fn(&[u8], &[u8], &[u8]) -> Result<(), p256::ecdsa::Error>;

struct Ecdsa {
    public_key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
    verify: Verify,
}

impl std::fmt::Debug for Ecdsa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ecdsa")
            .field("public_key", &self.public_key)
            .field("signature", &self.signature)
            .finish_non_exhaustive()
    }
}

impl SignatureVerificationAlgorithm for Ecdsa {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        (self.verify)(public_key, message, signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.public_key
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}
