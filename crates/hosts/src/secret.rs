//! The node's secret, by which a mirror distinguishes the containerd of its own node from all other clients.
//!
//! `configuration` writes it into `hosts.toml` as a header for this node's mirror, `registry` compares it. Whichever of
//! the two runs first creates it.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The header in which containerd sends the secret to the mirror.
pub const NODE_SECRET_HEADER: &str = "X-Peili-Node-Secret";

/// The random bytes of a secret; its text has twice as many hexadecimal characters.
const BYTES: usize = 32;
const TEXT: usize = 2 * BYTES;
const MODE: u32 = 0o600;

/// 32 random bytes, as 64 lower-case hexadecimal characters. Never printed.
#[derive(Clone)]
pub struct NodeSecret(Arc<str>);

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot {action} --node-secret-file {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("--node-secret-file {path} is a folder; name a file in it")]
    Folder { path: PathBuf },
    #[error(
        "--node-secret-file {path} has mode {mode:04o}, so others on this node can read it; run: chmod 600 {path}"
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "--node-secret-file {path} does not hold {TEXT} lower-case hexadecimal characters; remove it, and a new one is \
         made, then run `peili configuration` again"
    )]
    Malformed { path: PathBuf },
}

impl NodeSecret {
    /// A new secret from the system's random numbers.
    pub fn random() -> Self {
        Self(hex::encode(rand::random::<[u8; BYTES]>()).into())
    }

    /// The value of [`NODE_SECRET_HEADER`].
    pub fn header_value(&self) -> &str {
        &self.0
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == TEXT && text.bytes().all(hex)).then(|| Self(text.into()))
    }
}

impl fmt::Debug for NodeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeSecret(…)")
    }
}

/// Reads the node's secret, or creates one, with mode 0600, if there is no such file. Concurrent processes all get the
/// same secret; the file never contains a part of one. Blocking.
///
/// # Errors
/// The file can be read by others, does not contain a secret, or cannot be read or created.
pub fn ensure(path: &Path) -> Result<NodeSecret, SecretError> {
    let failed = |action| {
        move |source| SecretError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    };
    match read(path) {
        Err(SecretError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
    }
    let secret = NodeSecret::random();
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{:016x}.tmp", rand::random::<u64>()));
    let part = PathBuf::from(part);
    // Linked rather than renamed into place: of two concurrent processes, the second finds the first one's secret.
    let linked = write(&part, &secret).and_then(|()| fs::hard_link(&part, path));
    let removed = fs::remove_file(&part);
    match linked {
        Ok(()) => {
            removed.map_err(failed("make"))?;
            Ok(secret)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => read(path),
        Err(e) => Err(failed("make")(e)),
    }
}

fn write(path: &Path, secret: &NodeSecret) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)?;
    file.write_all(format!("{}\n", secret.header_value()).as_bytes())?;
    file.sync_all()
}

fn read(path: &Path) -> Result<NodeSecret, SecretError> {
    let failed = |source| SecretError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let file = fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(SecretError::Folder {
            path: path.to_owned(),
        });
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = Vec::new();
    // A line end, and one more byte to detect a longer file.
    file.take(TEXT as u64 + 2)
        .read_to_end(&mut text)
        .map_err(failed)?;
    NodeSecret::parse(&text).ok_or_else(|| SecretError::Malformed {
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn put(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }

    #[test]
    fn is_made_once_and_for_its_owner_alone() {
        let folder = folder();
        let path = folder.path().join("data/secret");
        let made = ensure(&path).expect("made");
        let read = ensure(&path).expect("read");
        assert_eq!(made.header_value(), read.header_value());
        assert_eq!(made.header_value().len(), 64);
        let meta = fs::metadata(&path).expect("there");
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        let beside = fs::read_dir(folder.path().join("data"))
            .expect("readable")
            .count();
        assert_eq!(beside, 1, "nothing is left beside the secret");
        assert_ne!(NodeSecret::random().header_value(), made.header_value());
    }

    #[test]
    fn all_who_make_it_at_once_get_the_same() {
        let folder = folder();
        let path = folder.path().join("secret");
        let all: std::collections::HashSet<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        ensure(&path)
                            .expect("made or read")
                            .header_value()
                            .to_owned()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("no panic"))
                .collect()
        });
        assert_eq!(all.len(), 1);
    }

    #[test]
    fn is_not_printed() {
        assert_eq!(format!("{:?}", NodeSecret::random()), "NodeSecret(…)");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        let folder = folder();
        let path = folder.path().join("secret");
        for mode in [0o644, 0o640, 0o660, 0o601] {
            put(&path, &"a".repeat(64), mode);
            let message = ensure(&path).expect_err("exposed").to_string();
            assert!(message.contains("chmod 600 "), "{message}");
        }
    }

    #[test]
    fn a_folder_is_no_file() {
        let folder = folder();
        let fault = ensure(folder.path()).expect_err("a folder");
        assert!(matches!(fault, SecretError::Folder { .. }), "{fault}");
    }

    #[test]
    fn a_file_that_holds_something_else_is_refused_and_kept() {
        let folder = folder();
        let path = folder.path().join("secret");
        for text in [
            "",
            "\n",
            &"a".repeat(63),
            &"a".repeat(65),
            &"A".repeat(64),
            &"g".repeat(64),
            &format!("{}\n\n", "a".repeat(64)),
        ] {
            put(&path, text, 0o600);
            assert!(
                matches!(ensure(&path), Err(SecretError::Malformed { .. })),
                "{text:?}"
            );
            assert_eq!(fs::read_to_string(&path).expect("kept"), text);
        }
        put(&path, &format!("{}\n", "a".repeat(64)), 0o400);
        assert!(ensure(&path).is_ok());
    }
}
