//! The node's key pair: what its peer id is made of, and what lets it keep that id over restarts.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use libp2p::identity::Keypair;

/// The same name as Spegel's, so that a node that moves keeps its id.
const FILE: &str = "private.key";
/// The label of a PKCS#8 key, RFC 7468 section 10.
const LABEL: &str = "PRIVATE KEY";
/// What stands before the 32 bytes of an Ed25519 seed in PKCS#8 version 1 (RFC 8410 section 7); Go writes the same.
const PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// No key file is larger; in bytes.
const MAX_FILE: u64 = 4096;

/// Why the identity could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "{path} holds no Ed25519 private key as PKCS#8 PEM ({what}); put back the right file, or move it away \
         and the node starts under a new identity"
    )]
    Broken { path: PathBuf, what: &'static str },
    #[error("cannot read {path}; let the mirror's user read it, or choose another --data-dir")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}; let the mirror's user write there, or choose another --data-dir")]
    Write { path: PathBuf, source: io::Error },
}

/// Reads the identity kept in `data_dir`, or makes a new one and keeps it there.
///
/// # Errors
/// The folder or file cannot be read or written, or the file is broken; it is then left as it is.
pub(crate) fn load_or_create(data_dir: &Path) -> Result<Keypair, IdentityError> {
    let path = data_dir.join(FILE);
    match read(&path) {
        Ok(text) => parse(&text).map_err(|what| IdentityError::Broken { path, what }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let seed: [u8; 32] = rand::random();
            match create(data_dir, &path, &seed) {
                Ok(()) => keypair(seed).map_err(|what| IdentityError::Broken { path, what }),
                Err(source) => Err(IdentityError::Write { path, source }),
            }
        }
        Err(source) => Err(IdentityError::Read { path, source }),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let file = fs::File::open(path)?;
    io::read_to_string(io::Read::take(file, MAX_FILE))
}

fn parse(text: &str) -> Result<Keypair, &'static str> {
    let block = pem::parse(text).map_err(|_| "no PEM block")?;
    if block.tag() != LABEL {
        return Err("the PEM block is not labelled PRIVATE KEY");
    }
    let seed = block.contents().strip_prefix(&PREFIX);
    let seed = seed.ok_or("the key is not an Ed25519 key in PKCS#8 version 1")?;
    keypair(
        seed.try_into()
            .map_err(|_| "the key has not 32 bytes of seed")?,
    )
}

fn keypair(mut seed: [u8; 32]) -> Result<Keypair, &'static str> {
    Keypair::ed25519_from_bytes(&mut seed).map_err(|_| "the seed makes no key")
}

/// Writes the file whole or not at all, readable by its owner alone, and never over another.
fn create(data_dir: &Path, path: &Path, seed: &[u8; 32]) -> io::Result<()> {
    fs::create_dir_all(data_dir)?;
    let block = pem::Pem::new(LABEL, [&PREFIX[..], seed].concat());
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    // A temporary file has mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
    file.write_all(pem::encode_config(&block, config).as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Written by Go's x509.MarshalPKCS8PrivateKey for the seed 0, 1, 2 … 31.
    const FROM_GO: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n\
        -----END PRIVATE KEY-----\n";

    #[test]
    fn reads_and_writes_what_go_does() {
        let seed: [u8; 32] = std::array::from_fn(|i| i as u8);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        create(folder.path(), &path, &seed).expect("writable");
        assert_eq!(fs::read_to_string(&path).expect("written"), FROM_GO);
        let mode = fs::metadata(&path).expect("written").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let expected = keypair(seed).expect("a seed").public();
        assert_eq!(parse(FROM_GO).expect("sound").public(), expected);
    }

    #[test]
    fn keeps_the_identity() {
        let folder = tempfile::tempdir().expect("a folder");
        let data_dir = folder.path().join("made/on/the/way");
        let first = load_or_create(&data_dir).expect("a new one").public();
        assert_eq!(
            load_or_create(&data_dir).expect("the old one").public(),
            first
        );
    }

    #[test]
    fn leaves_a_broken_file_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        for broken in [
            "",
            "not a key",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        ] {
            fs::write(&path, broken).expect("writable");
            let error = load_or_create(folder.path()).expect_err("broken");
            assert!(
                error.to_string().contains(&path.display().to_string()),
                "{error}"
            );
            assert_eq!(fs::read_to_string(&path).expect("still there"), broken);
        }
    }
}
