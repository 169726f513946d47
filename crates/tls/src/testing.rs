//! Authorities and certificates of nodes for tests.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::{PeerCertificates, PeerTls};

/// An authority with a key of its own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// The PEM texts of a node.
#[derive(Clone, Debug)]
pub struct NodeFiles {
    pub certificate: String,
    pub key: String,
    pub authorities: String,
}

impl Authority {
    /// # Panics
    /// The system has no randomness.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("randomness");
        Self(CertifiedIssuer::self_signed(params, key).expect("sound parameters"))
    }

    /// The files of a node that trusts these authorities. Its certificate has no name, and is modified by `change`.
    ///
    /// # Panics
    /// The modified certificate cannot be signed.
    pub fn sign(
        &self,
        trusted: &[&Authority],
        change: impl FnOnce(&mut CertificateParams),
    ) -> NodeFiles {
        let mut params = CertificateParams::default();
        change(&mut params);
        let key = KeyPair::generate().expect("randomness");
        let certificate = params.signed_by(&key, &self.0).expect("sound parameters");
        NodeFiles {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            authorities: trusted.iter().map(|authority| authority.0.pem()).collect(),
        }
    }

    /// The certificates of a node that trusts these authorities.
    pub fn certificates(&self, trusted: &[&Authority]) -> PeerCertificates {
        self.sign(trusted, |_| {}).parse()
    }

    /// A node with a certificate of this authority, which trusts no other.
    pub fn node(&self) -> PeerTls {
        PeerTls::new(Some(self.certificates(&[self])))
    }
}

impl NodeFiles {
    /// # Panics
    /// The texts were modified and are no longer certificates.
    pub fn parse(&self) -> PeerCertificates {
        let texts = [&self.certificate, &self.key, &self.authorities];
        let [certificate, key, authorities] = texts.map(String::as_bytes);
        PeerCertificates::parse(certificate, key, authorities).expect("sound files")
    }
}
