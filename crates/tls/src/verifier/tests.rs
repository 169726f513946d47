use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject as _;

use super::*;
use crate::provider;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name)
}

fn certificates(name: &str) -> Vec<CertificateDer<'static>> {
    let found = CertificateDer::pem_file_iter(fixture(name)).expect("a file");
    found.collect::<Result<_, _>>().expect("certificates")
}

fn trusting(names: &[&str]) -> Verifier {
    let mut roots = Roots::none();
    for name in names {
        roots.add_file(&fixture(name)).expect("roots");
    }
    Verifier::new(roots, provider().signature_verification_algorithms)
}

/// A verifier that trusts only the last certificate of a file.
fn trusting_authority(name: &str) -> Verifier {
    let all = std::fs::read_to_string(fixture(name)).expect("a file");
    let last = all.rfind("-----BEGIN").expect("a certificate");
    let mut roots = Roots::none();
    roots
        .add_pem(Path::new(name), &all.as_bytes()[last..])
        .expect("a root");
    Verifier::new(roots, provider().signature_verification_algorithms)
}

fn verify(verifier: &Verifier, server: &str, name: &str) -> Result<(), Error> {
    let chain = certificates(server);
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let verified = verifier.verify_server_cert(&chain[0], &[], &name, &[], UnixTime::now());
    verified.map(|_| ())
}

const PAIRS: [&str; 9] = [
    "p256-sha256",
    "p256-sha384",
    "p256-sha512",
    "p384-sha256",
    "p384-sha384",
    "p384-sha512",
    "p521-sha256",
    "p521-sha384",
    "p521-sha512",
];

#[test]
fn chains_on_all_curves_with_all_hashes_are_verified() {
    for pair in PAIRS {
        let file = format!("{pair}.pem");
        let verifier = trusting_authority(&file);
        for name in ["registry.test", "10.0.0.1"] {
            assert_eq!(verify(&verifier, &file, name), Ok(()), "{pair} {name}");
        }
        assert!(verify(&verifier, &file, "other.test").is_err(), "{pair}");
        let other = PAIRS.iter().find(|other| **other != pair).expect("several");
        let stranger = trusting_authority(&format!("{other}.pem"));
        assert!(verify(&stranger, &file, "registry.test").is_err(), "{pair}");
    }
}

#[test]
fn signatures_of_handshakes_are_verified() {
    let algorithms = provider().signature_verification_algorithms;
    for pair in PAIRS {
        let leaf = certificates(&format!("{pair}.pem")).remove(0);
        let leaf = webpki::EndEntityCert::try_from(&leaf).expect("a certificate");
        let signature = std::fs::read(fixture(&format!("{pair}.signature"))).expect("a file");
        let verified = |message: &[u8], signature: &[u8]| {
            algorithms.all.iter().any(|algorithm| {
                leaf.verify_signature(*algorithm, message, signature)
                    .is_ok()
            })
        };
        assert!(verified(b"a message", &signature), "{pair}");
        assert!(!verified(b"another", &signature), "{pair}");
        assert!(!verified(b"a message", &signature[1..]), "{pair}");
        let mut forged = signature.clone();
        *forged.last_mut().expect("bytes") ^= 1;
        assert!(!verified(b"a message", &forged), "{pair}");
    }
}

#[test]
fn a_certificate_that_is_a_root_is_taken_for_its_names_while_it_is_valid() {
    for own in ["own-ca.pem", "own-leaf.pem"] {
        let verifier = trusting(&[own]);
        assert_eq!(verify(&verifier, own, "registry.test"), Ok(()), "{own}");
        let name = verify(&verifier, own, "other.test");
        assert!(
            matches!(
                name,
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName
                        | CertificateError::NotValidForNameContext { .. }
                ))
            ),
            "{own}: {name:?}"
        );
        let stranger = trusting(&["p256-sha256.pem"]);
        assert!(verify(&stranger, own, "registry.test").is_err(), "{own}");
    }
    let verifier = trusting(&["expired.pem"]);
    let expired = verify(&verifier, "expired.pem", "registry.test");
    assert!(
        matches!(
            expired,
            Err(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. }
            ))
        ),
        "{expired:?}"
    );
}

/// Go accepts a server's certificate that is trusted itself, whatever its issuer.
#[test]
fn a_trusted_certificate_needs_no_issuer() {
    let file = "p256-sha256.pem";
    let all = std::fs::read_to_string(fixture(file)).expect("a file");
    let second = all.rfind("-----BEGIN").expect("a certificate");
    let mut roots = Roots::none();
    roots
        .add_pem(Path::new(file), &all.as_bytes()[..second])
        .expect("a root");
    let algorithms = provider().signature_verification_algorithms;
    let verifier = Verifier::new(roots, algorithms);
    assert_eq!(verify(&verifier, file, "registry.test"), Ok(()));
    assert!(verify(&verifier, file, "other.test").is_err());
    assert!(verify(&verifier, "own-ca.pem", "registry.test").is_err());
}
