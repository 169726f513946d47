//! The content folder with the complete objects. Layout: `blobs/<algorithm>/<hex>`, one file for each object.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use oci::Digest;
use rustix::fs::OFlags;

pub(crate) fn folder(content: &Path, algorithm: &str) -> PathBuf {
    content.join("blobs").join(algorithm)
}

pub(crate) fn path(content: &Path, digest: &Digest) -> PathBuf {
    folder(content, digest.algorithm()).join(digest.encoded())
}

/// Opens a blob, and returns its size in bytes. `None`: it is not there.
///
/// # Errors
/// It is there but cannot be read, or is not a regular file (links are not followed: containerd makes none).
pub(crate) fn open(content: &Path, digest: &Digest) -> io::Result<Option<(File, u64)>> {
    let opened = open_file(&path(content, digest))?;
    Ok(opened.map(|(file, status)| (file, status.len())))
}

/// Opens a file of containerd for reading. `None`: it is not there.
///
/// # Errors
/// It is there but cannot be read, or is not a regular file (links are not followed: containerd makes none).
pub(crate) fn open_file(path: &Path) -> io::Result<Option<(File, Metadata)>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let status = file.metadata()?;
    if !status.is_file() {
        return Err(io::Error::other(format!(
            "{} is not a file",
            path.display()
        )));
    }
    Ok(Some((file, status)))
}

/// The size of a blob in bytes. `None`: it is not there.
pub(crate) fn size(content: &Path, digest: &Digest) -> Option<u64> {
    let status = path(content, digest).symlink_metadata().ok()?;
    status.is_file().then_some(status.len())
}

/// When a blob was committed, as far as the file system knows. `None`: it is not there.
pub(crate) fn committed(content: &Path, digest: &Digest) -> Option<SystemTime> {
    let status = path(content, digest).symlink_metadata().ok()?;
    status.modified().ok()
}

/// Reads a blob whole. `None`: it is not there, cannot be read, or is larger than `limit` bytes.
pub(crate) fn read(content: &Path, digest: &Digest, limit: u64) -> Option<Vec<u8>> {
    let (file, size) = open(content, digest).ok()??;
    if size > limit {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// A blob on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The size in bytes.
    pub size: u64,
    /// When it was committed, as far as the file system knows.
    pub committed: Option<SystemTime>,
}

/// Lists all blobs. Files without the name of a blob are ignored.
///
/// # Errors
/// The content folder, or an existing folder of blobs, cannot be read; or neither the content folder nor its parent
/// exists (a fresh containerd creates it with the first ingest, but a folder that is not mounted is not an empty
/// store).
pub(crate) fn list(content: &Path) -> io::Result<HashMap<Digest, Found>> {
    let mut found = HashMap::new();
    match content.read_dir() {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return match content.parent() {
                Some(parent) if parent.is_dir() => Ok(found),
                _ => Err(e),
            };
        }
        Err(e) => return Err(e),
    }
    for algorithm in Digest::ALGORITHMS {
        let entries = match folder(content, algorithm).read_dir() {
            Ok(entries) => entries,
            // containerd makes the folder with the first blob.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            let Some(digest) = digest(algorithm, entry.file_name().to_str()) else {
                continue;
            };
            // Removed since the folder was read.
            if let Ok(status) = entry.metadata()
                && status.is_file()
            {
                let committed = status.modified().ok();
                let size = status.len();
                found.insert(digest, Found { size, committed });
            }
        }
    }
    Ok(found)
}

/// The digest of a file in the folder of `algorithm`.
pub(crate) fn digest(algorithm: &str, name: Option<&str>) -> Option<Digest> {
    format!("{algorithm}:{}", name?).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(content: &Path, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        std::fs::create_dir_all(folder(content, "sha256")).expect("a folder");
        std::fs::write(path(content, &digest), bytes).expect("a file");
        digest
    }

    #[test]
    fn lists_what_is_named_as_a_blob() {
        let temporary = tempfile::tempdir().expect("a folder");
        let content = temporary.path();
        assert!(list(&content.join("fresh")).expect("none yet").is_empty());
        assert!(list(&content.join("not/mounted")).is_err());
        assert!(list(content).expect("readable").is_empty());
        let digest = put(content, b"four");
        std::fs::write(folder(content, "sha256").join("x.tmp"), "").expect("a file");
        std::fs::create_dir(folder(content, "sha256").join(Digest::sha256(b"").encoded()))
            .expect("a folder");
        let found = list(content).expect("readable");
        let sizes: Vec<_> = found.iter().map(|(d, f)| (d, f.size)).collect();
        assert_eq!(sizes, [(&digest, 4)]);
    }

    #[test]
    fn opens_files_and_nothing_else() {
        let temporary = tempfile::tempdir().expect("a folder");
        let content = temporary.path();
        let digest = put(content, b"four");
        let (_, size) = open(content, &digest).expect("readable").expect("there");
        assert_eq!(size, 4);
        assert_eq!(read(content, &digest, 4).as_deref(), Some(&b"four"[..]));
        assert_eq!(read(content, &digest, 3), None, "too large");

        let absent = Digest::sha256(b"absent");
        assert!(open(content, &absent).expect("no error").is_none());
        let link = Digest::sha256(b"link");
        std::os::unix::fs::symlink("/etc/passwd", path(content, &link)).expect("a link");
        assert!(open(content, &link).is_err());
        assert_eq!(super::size(content, &link), None);
        let dir = Digest::sha256(b"dir");
        std::fs::create_dir(path(content, &dir)).expect("a folder");
        assert!(open(content, &dir).is_err());
    }
}
