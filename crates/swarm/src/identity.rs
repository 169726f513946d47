//! The node's key pair, from which its peer id is derived, and which keeps that id over restarts.
//!
//! A data folder has two identities, because two mirrors of one node overlap while one replaces the other (a rolling
//! update with surge). A mirror takes the first that no other mirror holds, and locks its file for as long as it runs.
//! It never waits for one.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use libp2p::identity::Keypair;
use rustix::process::geteuid;

/// The first is Spegel's name, so that a node that moves keeps its id.
const FILES: [&str; 2] = ["private.key", "private-2.key"];
/// The label of a PKCS#8 key, RFC 7468 section 10.
const LABEL: &str = "PRIVATE KEY";
/// The bytes before the 32 bytes of an Ed25519 seed in PKCS#8 version 1 (RFC 8410 section 7); Go writes the same.
const PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// The most bytes of a key file.
const MAX_FILE: u64 = 4096;
/// The mode of a key file.
const MODE: u32 = 0o600;
/// The rights of the group and of others.
const SHARED: u32 = 0o077;
/// The rights of others.
const OTHERS: u32 = 0o007;

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
    #[error(
        "{path} belongs to user {owner}, who may know the key; run: chown {user} {path}, or move it away and the node \
         starts under a new identity"
    )]
    Foreign {
        path: PathBuf,
        owner: u32,
        user: u32,
    },
    #[error(
        "{path} has mode {mode:04o}, so others on this node can use it, and the mirror cannot change that; run: \
         chmod 600 {path}"
    )]
    Exposed {
        path: PathBuf,
        mode: u32,
        source: io::Error,
    },
    #[error("cannot write {path}; let the mirror's user write there, or choose another --data-dir")]
    Write { path: PathBuf, source: io::Error },
}

/// The node's key pair.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) keypair: Keypair,
    /// Keeps other mirrors from using the same key pair. `None`: it is not stored.
    _lock: Option<File>,
}

impl Identity {
    /// A new key pair that is not stored.
    pub(crate) fn ephemeral() -> Self {
        Self {
            keypair: Keypair::generate_ed25519(),
            _lock: None,
        }
    }

    /// Takes the first identity in `data_dir` that no other mirror holds, and creates it if it is missing. If all are
    /// held, the node uses one that is not stored.
    ///
    /// # Errors
    /// The folder or a file cannot be read or written, or another user may use the file, or it is broken; it is then left
    /// as it is.
    pub(crate) fn claim(data_dir: &Path) -> Result<Self, IdentityError> {
        for file in FILES {
            let path = data_dir.join(file);
            if let Some(identity) = Self::claim_file(data_dir, path)? {
                return Ok(identity);
            }
        }
        tracing::warn!(
            folder = %data_dir.display(),
            "other mirrors use all identities in the data folder; using a temporary one"
        );
        Ok(Self::ephemeral())
    }

    /// `None`: another mirror holds it.
    fn claim_file(data_dir: &Path, path: PathBuf) -> Result<Option<Self>, IdentityError> {
        let open = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match create(data_dir, &path, &rand::random()) {
                    // Another mirror that starts now may have been faster.
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(source) => return Err(IdentityError::Write { path, source }),
                }
                File::open(&path)
            }
            open => open,
        };
        let read = |source| IdentityError::Read {
            path: path.clone(),
            source,
        };
        let file = open.map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        check_owner(&path, metadata.uid(), geteuid().as_raw())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            // Some network file systems have no locks. An identity that two mirrors may use is better than none.
            Err(TryLockError::Error(error)) => {
                tracing::debug!(path = %path.display(), %error, "the identity cannot be locked");
            }
        }
        withdraw_from_others(&file, &path, metadata.mode() & 0o777)?;
        let mut text = String::new();
        (&file)
            .take(MAX_FILE)
            .read_to_string(&mut text)
            .map_err(read)?;
        let keypair = parse(&text).map_err(|what| IdentityError::Broken { path, what })?;
        Ok(Some(Self {
            keypair,
            _lock: Some(file),
        }))
    }
}

/// Refuses a key that another user than the mirror's and root put there.
fn check_owner(path: &Path, owner: u32, user: u32) -> Result<(), IdentityError> {
    if owner == user || owner == 0 {
        return Ok(());
    }
    Err(IdentityError::Foreign {
        path: path.into(),
        owner,
        user,
    })
}

/// Takes the rights of the group and of others away. Kubernetes gives the group of a volume (`fsGroup`) new ones at each
/// mount, so they are no reason to refuse the file.
fn withdraw_from_others(file: &File, path: &Path, mode: u32) -> Result<(), IdentityError> {
    if mode & SHARED == 0 {
        return Ok(());
    }
    let exposed = |source| IdentityError::Exposed {
        path: path.into(),
        mode,
        source,
    };
    let kept = fs::Permissions::from_mode(MODE);
    match file.set_permissions(kept) {
        // The file is not this user's own, or its volume is read-only.
        Err(error) if mode & OTHERS == 0 => {
            tracing::warn!(
                path = %path.display(),
                mode = format!("{mode:04o}"),
                %error,
                "the file's group can use the key of the node's identity, and its mode cannot be changed"
            );
            return Ok(());
        }
        result => result.map_err(exposed)?,
    }
    tracing::warn!(
        path = %path.display(),
        mode = format!("{mode:04o}"),
        "others on this node could use the key of the node's identity; it has mode 0600 now. If somebody may have \
         copied it, move it away and restart"
    );
    Ok(())
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
    use super::*;

    /// Written by Go's x509.MarshalPKCS8PrivateKey for the seed 0, 1, 2 … 31.
    const FROM_GO: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n\
        -----END PRIVATE KEY-----\n";

    #[test]
    fn reads_and_writes_what_go_does() {
        let seed: [u8; 32] = std::array::from_fn(|i| i as u8);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILES[0]);
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
        let claim = || Identity::claim(&data_dir).expect("a sound folder");
        let first = claim().keypair.public();
        assert_eq!(claim().keypair.public(), first);
    }

    #[test]
    fn mirrors_that_overlap_have_identities_of_their_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let claim = || Identity::claim(folder.path()).expect("a sound folder");
        let id = |identity: &Identity| identity.keypair.public();
        let (first, second) = (claim(), claim());
        let third = claim();
        assert!(id(&first) != id(&second) && id(&second) != id(&third));
        let kept = (id(&first), id(&second));
        drop(first);
        let again = claim();
        assert_eq!(id(&again), kept.0, "the place that is free again");
        drop((second, third));
        assert_eq!(id(&claim()), kept.1);
    }

    #[test]
    fn a_key_that_others_can_use_is_kept_and_taken_from_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILES[0]);
        let claim = || Identity::claim(folder.path()).expect("a sound folder");
        let mode = || fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        let first = claim().keypair.public();
        for (before, after) in [
            (0o644, 0o600),
            (0o660, 0o600),
            (0o604, 0o600),
            (0o601, 0o600),
            (0o600, 0o600),
            (0o400, 0o400),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(before)).expect("ours");
            assert_eq!(claim().keypair.public(), first, "{before:o}");
            assert_eq!(mode(), after, "{before:o}");
        }
    }

    #[test]
    fn a_key_of_another_user_is_refused_with_the_remedy() {
        let path = Path::new("/data/private.key");
        for (owner, user) in [(1000, 1000), (0, 1000), (0, 0)] {
            assert!(check_owner(path, owner, user).is_ok(), "{owner} {user}");
        }
        for (owner, user) in [(1001, 1000), (1000, 0)] {
            let error = check_owner(path, owner, user).expect_err("foreign");
            let remedy = format!("chown {user} /data/private.key");
            assert!(error.to_string().contains(&remedy), "{error}");
        }
    }

    #[test]
    fn leaves_a_broken_file_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILES[0]);
        for broken in [
            "",
            "not a key",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        ] {
            fs::write(&path, broken).expect("writable");
            let error = Identity::claim(folder.path()).expect_err("broken");
            assert!(
                error.to_string().contains(&path.display().to_string()),
                "{error}"
            );
            assert_eq!(fs::read_to_string(&path).expect("still there"), broken);
        }
    }
}
