//! The certificate that proves to peers that this is a node, and the authorities whose certificates prove it of them.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::expiry::not_after;
use crate::{Identity, IdentityError, Roots, RootsError, provider};

/// The file names in a Secret of cert-manager.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITIES: &str = "ca.crt";

/// Why files are not a certificate of a node.
#[derive(Debug, thiserror::Error)]
pub enum PeerCertificatesError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Roots(#[from] RootsError),
    #[error("{CERTIFICATE} holds something else than a certificate")]
    Certificate(#[source] der::Error),
    #[error("the key in {KEY} is not that of the certificate in {CERTIFICATE}, or cannot sign")]
    Key(#[source] Error),
}

/// A node's certificate with its key, and the authorities of its peers.
#[derive(Debug)]
pub struct PeerCertificates {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
    /// When the first certificate of the chain expires.
    pub not_after: SystemTime,
    /// Why a peer with the same authorities would refuse this certificate now, if it would.
    pub refused_for: Option<String>,
    /// The SHA-256 of the authorities' certificates.
    authorities: HashSet<[u8; 32]>,
}

impl PeerCertificates {
    /// Parses the PEM texts of a certificate with its chain, of its key, and of the authorities.
    ///
    /// # Errors
    /// One of the texts is something else, or the key belongs to another certificate.
    pub fn parse(
        certificate: &[u8],
        key: &[u8],
        authorities: &[u8],
    ) -> Result<Self, PeerCertificatesError> {
        let chain = (Path::new(CERTIFICATE), certificate);
        let Identity { chain, key } = Identity::of_pem(chain, (Path::new(KEY), key))?;
        let mut roots = Roots::none();
        roots.add_pem(Path::new(AUTHORITIES), authorities)?;
        let ends: Result<Vec<_>, _> = chain.iter().map(|one| not_after(one)).collect();
        let ends = ends.map_err(PeerCertificatesError::Certificate)?;
        let verifiers = Verifiers::new(roots.store).map_err(PeerCertificatesError::Key)?;
        let refused_for = verifiers.check_both(&chain);
        let (client, server) = verifiers
            .configure(&Identity { chain, key })
            .map_err(PeerCertificatesError::Key)?;
        Ok(Self {
            client: Arc::new(client),
            server: Arc::new(server),
            // The chain is not empty.
            not_after: ends.into_iter().min().unwrap_or(SystemTime::UNIX_EPOCH),
            refused_for: refused_for.err().map(|error| error.to_string()),
            authorities: roots.certificates,
        })
    }

    /// Whether these trust every authority that the others trust.
    pub(crate) fn trust_all_of(&self, others: &Self) -> bool {
        self.authorities.is_superset(&others.authorities)
    }
}

/// The verifiers of a peer's certificate, by its side of the connection.
struct Verifiers {
    of_servers: Arc<AnyNode>,
    of_clients: Arc<dyn ClientCertVerifier>,
}

impl Verifiers {
    fn new(roots: RootCertStore) -> Result<Self, Error> {
        let (roots, provider) = (Arc::new(roots), Arc::new(provider()));
        let algorithms = provider.signature_verification_algorithms;
        // Strangers do not learn the authorities' names.
        let of_clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider)
            .clear_root_hint_subjects()
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self {
            of_servers: Arc::new(AnyNode { roots, algorithms }),
            of_clients,
        })
    }

    /// # Errors
    /// One of the checks fails for this chain.
    fn check_both(&self, chain: &[CertificateDer<'static>]) -> Result<(), Error> {
        let Some((end_entity, intermediates)) = chain.split_first() else {
            return Err(Error::NoCertificatesPresented);
        };
        let now = UnixTime::now();
        self.of_servers.check(end_entity, intermediates, now)?;
        let checked = self
            .of_clients
            .verify_client_cert(end_entity, intermediates, now);
        checked.map(|_| ())
    }

    /// Connections between nodes use TLS 1.3, and no session is resumed: a resumed one would outlive the trust in its
    /// authority.
    fn configure(self, identity: &Identity) -> Result<(ClientConfig, ServerConfig), Error> {
        let provider = Arc::new(provider());
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(self.of_servers)
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?;
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(self.of_clients)
            .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        Ok((client, server))
    }
}

/// Accepts any server with a certificate of the authorities, whatever its name: peers are known by their addresses, and
/// the pods of a DaemonSet share one certificate.
#[derive(Debug)]
struct AnyNode {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyNode {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let (roots, algorithms) = (&self.roots, self.algorithms.all);
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
    }
}

impl ServerCertVerifier for AnyNode {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, now)?;
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
