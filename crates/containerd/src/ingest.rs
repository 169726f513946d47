//! What containerd is fetching: the folders under `ingest/`. Each has `ref` (the digest is its tail), `data`, `total`
//! where containerd was told a size, `startedat` and `updatedat`.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use oci::Digest;

use crate::blobs::open_file;

/// Ingests looked through for one answer. A node has as many as it downloads at once (three to a dozen), plus what
/// broken pulls left behind until containerd clears it away.
const MAX_INGESTS: usize = 1024;
/// References longer than this, in bytes, are not recognised. A name has 255, a digest at most 135, and the head is
/// short.
const MAX_REFERENCE: u64 = 1024;
/// Of a size in decimal digits, in bytes.
const MAX_TOTAL: u64 = 20;

/// An open ingest.
#[derive(Clone, Debug)]
pub struct Ingest {
    pub digest: Digest,
    /// Bytes that can be read.
    pub written: u64,
    /// Bytes that containerd expects, if it was told.
    pub total: Option<u64>,
    /// When it was begun; a resumed one keeps its time.
    pub started: SystemTime,
    /// When bytes last came.
    pub updated: SystemTime,
    /// Whether its pull closed it without an end: a killed `ctr` leaves an ingest behind for a day. It may be resumed;
    /// then it is read whole first, and this is false again once it grows. An ingest whose containerd died does not
    /// show by this, but by `updated` being before the connection was lost.
    pub is_left: bool,
}

/// The bytes of an ingest.
pub(crate) struct Opened {
    pub file: File,
    pub status: Metadata,
    pub total: Option<u64>,
}

/// Whether an ingest of this digest is open, in whichever namespace. Costs one system call for the folder and three
/// for each ingest. A folder that cannot be read has no ingests.
pub(crate) fn is_open(content: &Path, digest: &Digest) -> bool {
    folders(content).any(|ingest| ingest.digest == *digest)
}

/// All open ingests.
pub(crate) fn list(content: &Path) -> Vec<Ingest> {
    let look = |folder: Folder| {
        let data = folder.path.join("data").symlink_metadata().ok()?;
        Some(Ingest {
            is_left: is_left(&folder.path, &data),
            written: data.len(),
            total: read_total(&folder.path),
            started: folder.started?,
            updated: data.modified().ok()?,
            digest: folder.digest,
        })
    };
    folders(content).filter_map(look).collect()
}

/// Opens the ingest of this digest; of several (each namespace has its own) the furthest that was not left behind.
///
/// # Errors
/// There is one and it cannot be read.
pub(crate) fn open(content: &Path, digest: &Digest) -> io::Result<Option<Opened>> {
    let mut best = None;
    for folder in folders(content).filter(|f| f.digest == *digest) {
        // Committed or given up since the folder was read, if it is not there.
        let Some((file, status)) = open_file(&folder.path.join("data"))? else {
            continue;
        };
        let rank = (!is_left(&folder.path, &status), status.len());
        if best.as_ref().is_none_or(|(most, _)| rank > *most) {
            let total = read_total(&folder.path);
            let opened = Opened {
                file,
                status,
                total,
            };
            best = Some((rank, opened));
        }
    }
    Ok(best.map(|(_, opened)| opened))
}

struct Folder {
    path: PathBuf,
    digest: Digest,
    /// The reference is written once, when the ingest is begun.
    started: Option<SystemTime>,
}

fn folders(content: &Path) -> impl Iterator<Item = Folder> {
    let entries = content.join("ingest").read_dir();
    let folder = |entry: io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        let file = File::open(path.join("ref")).ok()?;
        let started = file.metadata().and_then(|s| s.modified()).ok();
        let digest = digest_of(&read_text(file, MAX_REFERENCE)?)?;
        Some(Folder {
            path,
            digest,
            started,
        })
    };
    let entries = entries.into_iter().flatten();
    entries.take(MAX_INGESTS).filter_map(folder)
}

fn read_text(file: File, limit: u64) -> Option<String> {
    let mut text = String::new();
    file.take(limit).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Whether its writer was closed and nothing was written since: containerd writes `updatedat` before it opens the data
/// and after it closed it.
fn is_left(ingest: &Path, data: &Metadata) -> bool {
    let closed = ingest.join("updatedat").symlink_metadata();
    let closed = closed.and_then(|s| s.modified());
    matches!((closed, data.modified()), (Ok(closed), Ok(written)) if closed > written)
}

/// Not there, or 0, where containerd was not told.
fn read_total(ingest: &Path) -> Option<u64> {
    let text = read_text(File::open(ingest.join("total")).ok()?, MAX_TOTAL)?;
    text.trim_end().parse().ok().filter(|total| *total > 0)
}

/// The digest at the end of a reference. Its head varies: `k8s.io/1/layer-sha256:…` with the namespace and a
/// sequence number, `manifest-`, `config-`, `unknown-`, or an image's name and `@`.
fn digest_of(reference: &str) -> Option<Digest> {
    let start = Digest::ALGORITHMS
        .iter()
        .filter_map(|algorithm| reference.rfind(&format!("{algorithm}:")))
        .max()?;
    reference.get(start..)?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    fn ingest(content: &Path, name: &str, reference: &str) {
        let folder = content.join("ingest").join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("ref"), reference).expect("a file");
    }

    #[test]
    fn finds_the_ingest_of_a_digest() {
        let folder = tempfile::tempdir().expect("a folder");
        let content = folder.path();
        let (ours, other) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        assert!(!is_open(content, &ours), "no ingest folder yet");
        ingest(content, "x", &format!("k8s.io/7/layer-{ours}"));
        assert!(is_open(content, &ours) && !is_open(content, &other));
        ingest(content, "y", &format!("moby/8/quay.io/a/b:1@{other}"));
        assert!(is_open(content, &other));
    }

    #[test]
    fn passes_over_what_is_broken() {
        let folder = tempfile::tempdir().expect("a folder");
        let content = folder.path();
        std::fs::create_dir_all(content.join("ingest/without-ref")).expect("a folder");
        std::fs::write(content.join("ingest/a-file"), "").expect("a file");
        ingest(content, "empty", "");
        ingest(content, "binary", "\u{0}");
        let digest = Digest::sha256(b"a");
        ingest(
            content,
            "endless",
            &format!("{}{digest}", "x".repeat(1 << 20)),
        );
        assert!(!is_open(content, &digest));
        ingest(content, "good", &format!("default/1/config-{digest}"));
        assert!(is_open(content, &digest));
    }

    #[test]
    fn tells_of_each_ingest() {
        let folder = tempfile::tempdir().expect("a folder");
        let content = folder.path();
        let (told, untold) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        ingest(content, "x", &format!("k8s.io/7/layer-{told}"));
        assert!(list(content).is_empty(), "no data yet");
        for name in ["x", "y", "z"] {
            ingest(content, name, &format!("k8s.io/7/layer-{told}"));
            std::fs::write(content.join("ingest").join(name).join("data"), "abc").expect("a file");
        }
        std::fs::write(content.join("ingest/x/total"), "99").expect("a file");
        std::fs::write(content.join("ingest/y/total"), "0").expect("a file");
        ingest(content, "z", &format!("k8s.io/8/layer-{untold}"));
        std::fs::write(content.join("ingest/z/total"), "-1 or what").expect("a file");
        let mut found: Vec<_> = list(content)
            .into_iter()
            .map(|i| (i.digest, i.written, i.total))
            .collect();
        found.sort();
        let mut expected = [
            (told.clone(), 3, None),
            (told, 3, Some(99)),
            (untold, 3, None),
        ];
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn opens_the_furthest_that_is_not_left_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let content = folder.path();
        let digest = Digest::sha256(b"a");
        let written = |bytes: usize, name: &str| {
            ingest(content, name, &format!("{name}/1/layer-{digest}"));
            let folder = content.join("ingest").join(name);
            let updated = File::create(folder.join("updatedat")).expect("a file");
            std::fs::write(folder.join("data"), vec![0; bytes]).expect("a file");
            updated
        };
        let size = || {
            let opened = open(content, &digest).expect("readable");
            opened.map(|o| o.status.len())
        };
        assert_eq!(size(), None);
        let updated = written(9, "left");
        assert_eq!(size(), Some(9));
        let later = SystemTime::now() + Duration::from_secs(1);
        updated.set_modified(later).expect("dated");
        assert_eq!(size(), Some(9), "it may be resumed");
        assert!(list(content)[0].is_left);
        written(2, "behind");
        written(5, "ahead");
        written(0, "begun");
        assert_eq!(size(), Some(5));
    }

    proptest! {
        #[test]
        fn the_head_does_not_matter(head in ".{0,100}", bytes in any::<[u8; 4]>()) {
            let digest = Digest::sha256(&bytes);
            prop_assert_eq!(digest_of(&format!("{head}{digest}")), Some(digest));
        }

        #[test]
        fn only_a_tail_counts(head in "[a-z/-]{0,20}", tail in "[a-z0-9/@-]{1,20}") {
            let digest = Digest::sha256(head.as_bytes());
            prop_assert_eq!(digest_of(&format!("{head}{digest}{tail}")), None);
        }

        #[test]
        fn any_text_is_survived(text in ".{0,200}") {
            let _ = digest_of(&text);
        }
    }
}
