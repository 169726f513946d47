//! Compares objects of the store with their digests.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::Duration;

use oci::{Digest, Hasher, Manifest, MediaType};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use crate::{Catalog, Content};

/// Blobs up to this size, in bytes, are verified whole before a byte is sent. Configs are among them; layers of this
/// size cost nothing. containerd verifies larger ones as it stores them.
pub const VERIFIED_WHOLE: u64 = 1024 * 1024;
/// The bytes read at once.
const PIECE: usize = 1024 * 1024;

/// The result of comparing an object with its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    Right,
    Wrong,
}

/// Distinguishes a file from its replacement, and from itself before it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileIdentity {
    /// # Errors
    /// The file's status cannot be read.
    pub fn of(file: &File) -> io::Result<Self> {
        let status = file.metadata()?;
        Ok(Self {
            device: status.dev(),
            inode: status.ino(),
            size: status.size(),
            modified: (status.mtime(), status.mtime_nsec()),
            changed: (status.ctime(), status.ctime_nsec()),
        })
    }
}

/// The kind of a small object, once its digest has verified its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// The media type if it is requested as a manifest.
    pub media_type: MediaType,
    pub is_manifest: bool,
}

impl Examined {
    /// `None`: the bytes do not match the digest.
    fn of(digest: &Digest, bytes: &[u8]) -> Option<Self> {
        digest.verifies(bytes).then(|| Self {
            media_type: MediaType::of_manifest(bytes, None),
            is_manifest: Manifest::parse(bytes).is_ok(),
        })
    }
}

/// The result of reading an object, or how much must be read for that.
#[derive(Debug)]
pub enum Reading<T> {
    Done(T),
    /// The number of all its bytes, which is more than may be read.
    Large(u64),
}

/// Verifies an object of the store whole. A file that was found right is not read again while it is unchanged. `None`:
/// its bytes are wrong. Reads the disk, but no more than `may_read` bytes.
///
/// # Errors
/// It cannot be read.
pub fn examine(
    catalog: &Catalog,
    digest: &Digest,
    content: &Content,
    may_read: u64,
) -> io::Result<Reading<Option<Examined>>> {
    let file = match content {
        Content::Bytes(bytes) => return Ok(Reading::Done(Examined::of(digest, bytes))),
        Content::File { file, .. } => file,
        Content::Verifying { growing, .. } => growing.file(),
    };
    let (identity, size) = (FileIdentity::of(file)?, content.size());
    if let Some(examined) = catalog.examined(digest, &identity) {
        return Ok(Reading::Done(Some(examined)));
    }
    if size > may_read {
        return Ok(Reading::Large(size));
    }
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, 0)?;
    let examined = Examined::of(digest, &bytes);
    if let Some(examined) = &examined {
        catalog.note_examined(digest, identity, examined.clone());
    }
    Ok(Reading::Done(examined))
}

/// Hashes an object piece by piece, at this rate in bytes per second.
///
/// # Errors
/// It cannot be read.
pub async fn hash(digest: &Digest, content: Content, rate: u64) -> io::Result<Verification> {
    let (file, size) = match content {
        Content::Bytes(bytes) => return Ok(verdict(digest.verifies(&bytes))),
        // The store itself verifies it.
        Content::Verifying { .. } => return Ok(Verification::Right),
        Content::File { file, size } => (file, size),
    };
    let (mut hasher, mut offset, began) = (Hasher::new(digest), 0, Instant::now());
    while offset < size {
        let read;
        (hasher, read) = piece(hasher, file.clone(), offset).await?;
        if read == 0 {
            return Ok(Verification::Wrong);
        }
        offset += read as u64;
        let due = Duration::from_micros(offset.saturating_mul(1_000_000) / rate);
        sleep_until(began + due).await;
    }
    Ok(verdict(offset == size && hasher.finish() == *digest))
}

async fn piece(mut hasher: Hasher, file: Arc<File>, offset: u64) -> io::Result<(Hasher, usize)> {
    let read = spawn_blocking(move || {
        let mut buffer = vec![0; PIECE];
        let count = file.read_at(&mut buffer, offset)?;
        hasher.update(&buffer[..count]);
        Ok((hasher, count))
    });
    read.await.map_err(io::Error::other)?
}

fn verdict(is_right: bool) -> Verification {
    if is_right {
        Verification::Right
    } else {
        Verification::Wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> Content {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(bytes, 0).expect("written");
        let (file, size) = (Arc::new(file), bytes.len() as u64);
        Content::File { file, size }
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_file_is_hashed_in_pieces() {
        let bytes = vec![7; PIECE + 10];
        let digest = Digest::sha256(&bytes);
        let (began, rate) = (Instant::now(), bytes.len() as u64 / 4);
        let verdict = hash(&digest, file(&bytes), rate).await;
        assert_eq!(verdict.expect("read"), Verification::Right);
        assert_eq!(began.elapsed().as_secs(), 4);
        for wrong in [&bytes[1..], &[bytes.as_slice(), b"x"].concat()] {
            let verdict = hash(&digest, file(wrong), rate).await;
            assert_eq!(verdict.expect("read"), Verification::Wrong);
        }
    }

    #[test]
    fn a_small_file_is_read_again_once_it_has_changed() {
        let (catalog, digest) = (Catalog::default(), Digest::sha256(b"config"));
        let content = file(b"config");
        let is_right = |may_read| match examine(&catalog, &digest, &content, may_read) {
            Ok(Reading::Done(examined)) => Some(examined.is_some()),
            Ok(Reading::Large(6)) => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(is_right(5), None, "more than may be read");
        assert_eq!([is_right(6), is_right(0)], [Some(true); 2]);
        let Content::File { file, .. } = &content else {
            unreachable!("a file");
        };
        file.write_all_at(b"x", 0).expect("written");
        file.set_modified(std::time::SystemTime::UNIX_EPOCH)
            .expect("set");
        assert_eq!([is_right(0), is_right(6)], [None, Some(false)]);
    }
}
