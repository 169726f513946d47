//! The credentials of this side of a connection: a certificate, and its key.

use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why files do not contain a certificate with its key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} holds no {what} as PEM")]
    Pem {
        path: PathBuf,
        what: &'static str,
        source: pem::Error,
    },
}

/// A certificate with its key.
pub struct Identity {
    /// The chain, beginning with the certificate of the key.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads two PEM files, which may be one.
    ///
    /// # Errors
    /// One of them cannot be read, or has the wrong content.
    pub fn of_files(chain: &Path, key: &Path) -> Result<Self, IdentityError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| IdentityError::Read {
                path: path.to_owned(),
                source,
            })
        };
        Self::of_pem((chain, &read(chain)?), (key, &read(key)?))
    }

    /// Parses two PEM texts, each with the path that it comes from.
    ///
    /// # Errors
    /// One of them has the wrong content.
    pub fn of_pem(
        (chain, chain_text): (&Path, &[u8]),
        (key, key_text): (&Path, &[u8]),
    ) -> Result<Self, IdentityError> {
        let fault = |path: &Path, what, source| IdentityError::Pem {
            path: path.to_owned(),
            what,
            source,
        };
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain_text).collect();
        let certificates = match certificates {
            Ok(certificates) if certificates.is_empty() => Err(pem::Error::NoItemsFound),
            certificates => certificates,
        };
        Ok(Self {
            chain: certificates.map_err(|source| fault(chain, "certificate", source))?,
            key: PrivateKeyDer::from_pem_slice(key_text)
                .map_err(|source| fault(key, "private key", source))?,
        })
    }
}
