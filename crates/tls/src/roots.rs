//! The trusted certificates.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use sha2::{Digest as _, Sha256};

/// Why a file of certificates cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not a file of PEM certificates")]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{path} holds no certificate as PEM")]
    Empty { path: PathBuf },
    #[error("a certificate in {path} cannot be a root")]
    Certificate {
        path: PathBuf,
        source: rustls::Error,
    },
}

/// Root certificates, and the hashes of their bytes.
pub struct Roots {
    pub(crate) store: RootCertStore,
    /// The SHA-256 of the certificates.
    pub(crate) certificates: HashSet<[u8; 32]>,
}

impl Roots {
    pub fn none() -> Self {
        Self {
            store: RootCertStore::empty(),
            certificates: HashSet::new(),
        }
    }

    /// This host's roots, or those in the files of `SSL_CERT_FILE` and `SSL_CERT_DIR`; if there are none, Mozilla's,
    /// which are built in. An unreadable one does not exclude the others.
    pub fn of_system() -> Self {
        let system = rustls_native_certs::load_native_certs();
        let variables = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
        let is_named = variables
            .iter()
            .any(|name| std::env::var_os(name).is_some());
        for error in &system.errors {
            if is_named {
                tracing::warn!(%error, "certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read");
            } else {
                tracing::debug!(%error, "some of the system's certificates cannot be read");
            }
        }
        let mut roots = Self::none();
        for certificate in system.certs {
            if let Err(error) = roots.add(certificate) {
                tracing::debug!(%error, "one of the system's certificates cannot be a root");
            }
        }
        if roots.store.is_empty() {
            // An image with only this binary has no certificates of a system.
            tracing::debug!("the system has no root certificates; those built in are used");
            let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS;
            roots
                .store
                .add_parsable_certificates(built_in.iter().cloned());
        }
        roots
    }

    /// Adds the certificates of a PEM file.
    ///
    /// # Errors
    /// It cannot be read, contains no certificate, or one that cannot be a root.
    pub fn add_file(&mut self, path: &Path) -> Result<(), RootsError> {
        let read = std::fs::read(path).map_err(|source| RootsError::Read {
            path: path.to_owned(),
            source,
        })?;
        self.add_pem(path, &read)
    }

    /// Adds the certificates of a PEM text. `path`: where it comes from.
    ///
    /// # Errors
    /// The same as for [`Self::add_file`].
    pub fn add_pem(&mut self, path: &Path, text: &[u8]) -> Result<(), RootsError> {
        let path = || path.to_owned();
        let mut is_empty = true;
        for certificate in CertificateDer::pem_slice_iter(text) {
            let certificate = certificate.map_err(|source| RootsError::Pem {
                path: path(),
                source,
            })?;
            self.add(certificate)
                .map_err(|source| RootsError::Certificate {
                    path: path(),
                    source,
                })?;
            is_empty = false;
        }
        if is_empty {
            return Err(RootsError::Empty { path: path() });
        }
        Ok(())
    }

    fn add(&mut self, certificate: CertificateDer<'static>) -> Result<(), rustls::Error> {
        let hash = Sha256::digest(&certificate).into();
        self.store.add(certificate)?;
        self.certificates.insert(hash);
        Ok(())
    }

    pub(crate) fn holds(
        certificates: &HashSet<[u8; 32]>,
        certificate: &CertificateDer<'_>,
    ) -> bool {
        let hash: [u8; 32] = Sha256::digest(certificate).into();
        certificates.contains(&hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_a_fault() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let add = |text: &str| {
            std::fs::write(file.path(), text).expect("written");
            Roots::none().add_file(file.path())
        };
        assert!(matches!(add(""), Err(RootsError::Empty { .. })));
        assert!(matches!(add("text"), Err(RootsError::Empty { .. })));
        let broken = "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n";
        assert!(matches!(add(broken), Err(RootsError::Pem { .. })));
        let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(add(empty), Err(RootsError::Certificate { .. })));
        let none = Roots::none().add_file(Path::new("/does/not/exist"));
        assert!(matches!(none, Err(RootsError::Read { .. })));
    }
}
