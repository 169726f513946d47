//! The ingests of containerd: the folders under `ingest/`. Each contains `ref` (which ends with the digest), `data`,
//! `total` if containerd knows a size, `startedat` and `updatedat`.

use std::ffi::OsString;
use std::fs::{DirEntry, File, Metadata};
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use lru::LruCache;
use mirror::IngestId;
use oci::Digest;
use parking_lot::Mutex;

use crate::blobs::open_file;

/// The most ingests checked for one answer. A node has as many as it downloads at once (three to a dozen), and those of
/// broken pulls until containerd removes them.
const MAX_INGESTS: usize = 1024;
/// The most ingest folders whose reference is remembered.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(2 * MAX_INGESTS).expect("not zero");
/// The most bytes of a reference; longer ones are ignored. A name has 255, a digest at most 135, and the prefix is
/// short.
const MAX_REFERENCE: u64 = 1024;
/// The most bytes of a size in decimal digits.
const MAX_TOTAL: u64 = 20;

/// An opened ingest.
pub(crate) struct Opened {
    pub id: IngestId,
    pub file: File,
    pub status: Metadata,
    pub total: Option<u64>,
}

/// The folders of ingests, and what is known of them. A reference is written only when the ingest begins, so it is read
/// once. Looking for an ingest then costs the listing of one folder, however many ingests there are.
#[derive(Debug)]
pub(crate) struct Ingests {
    /// The digest in the reference of a folder, by the folder's name and inode. `None`: it names no digest.
    references: Mutex<LruCache<(OsString, u64), Option<Digest>>>,
}

impl Default for Ingests {
    fn default() -> Self {
        Self {
            references: Mutex::new(LruCache::new(MAX_REMEMBERED)),
        }
    }
}

impl Ingests {
    /// Opens the ingest of this digest. If there are several (each namespace has its own), opens the one with most
    /// bytes that is not abandoned.
    ///
    /// A folder that cannot be read counts as empty.
    ///
    /// # Errors
    /// There is one, but it cannot be read.
    pub fn open(&self, content: &Path, digest: &Digest) -> io::Result<Option<Opened>> {
        let mut best = None;
        for folder in self.folders(content, digest) {
            // If it is missing, it was committed or given up since the folder was read.
            let Some((file, status)) = open_file(&folder.join("data"))? else {
                continue;
            };
            let rank = rank(&folder, &status);
            if best.as_ref().is_none_or(|(most, _)| rank > *most) {
                let total = read_total(&folder);
                let opened = Opened {
                    id: id(&folder, &status),
                    file,
                    status,
                    total,
                };
                best = Some((rank, opened));
            }
        }
        Ok(best.map(|(_, opened)| opened))
    }

    /// The folders of this digest's ingests.
    fn folders<'a>(
        &'a self,
        content: &Path,
        digest: &'a Digest,
    ) -> impl Iterator<Item = PathBuf> + 'a {
        let entries = content.join("ingest").read_dir();
        let entries = entries.into_iter().flatten().take(MAX_INGESTS);
        entries.filter_map(move |entry| {
            let entry = entry.ok()?;
            (self.reference(&entry)?.as_ref() == Some(digest)).then(|| entry.path())
        })
    }

    /// The digest in the reference of a folder. `None`: it cannot be read, or is not written yet.
    fn reference(&self, folder: &DirEntry) -> Option<Option<Digest>> {
        let key = (folder.file_name(), folder.ino());
        if let Some(known) = self.references.lock().get(&key) {
            return Some(known.clone());
        }
        let text = read_text(File::open(folder.path().join("ref")).ok()?, MAX_REFERENCE)?;
        if text.is_empty() {
            return None;
        }
        let named = digest_of(&text);
        self.references.lock().put(key, named.clone());
        Some(named)
    }
}

/// containerd rewrites `updatedat` when a writer is closed.
fn id(folder: &Path, data: &Metadata) -> IngestId {
    let updated = folder.join("updatedat").symlink_metadata().ok();
    let (seconds, nanos) = updated.map_or((0, 0), |s| (s.mtime(), s.mtime_nsec()));
    let since = seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos);
    IngestId(data.ino(), since.cast_unsigned())
}

/// The order in which ingests are preferred: those not abandoned, then those with most bytes.
fn rank(folder: &Path, data: &Metadata) -> (bool, u64) {
    (!is_left(folder, data), data.len())
}

fn read_text(file: File, limit: u64) -> Option<String> {
    let mut text = String::new();
    file.take(limit).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Whether its writer was closed and nothing was written since: containerd writes `updatedat` before it opens the data
/// and after it closed it. A killed `ctr` leaves an ingest behind for a day. It may be resumed; then it is first read
/// whole, and this is false again once it grows.
fn is_left(ingest: &Path, data: &Metadata) -> bool {
    let closed = ingest.join("updatedat").symlink_metadata();
    let closed = closed.and_then(|s| s.modified());
    matches!((closed, data.modified()), (Ok(closed), Ok(written)) if closed > written)
}

/// The size; 0 or missing if containerd does not know it.
fn read_total(ingest: &Path) -> Option<u64> {
    let text = read_text(File::open(ingest.join("total")).ok()?, MAX_TOTAL)?;
    text.trim_end().parse().ok().filter(|total| *total > 0)
}

/// The digest at the end of a reference. Its prefix varies: `k8s.io/1/layer-sha256:…` with the namespace and a sequence
/// number, `manifest-`, `config-`, `unknown-`, or an image's name and `@`.
fn digest_of(reference: &str) -> Option<Digest> {
    let start = Digest::ALGORITHMS
        .iter()
        .filter_map(|algorithm| reference.rfind(&format!("{algorithm}:")))
        .max()?;
    reference.get(start..)?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use proptest::prelude::*;

    fn ingest(content: &Path, name: &str, reference: &str) {
        let folder = content.join("ingest").join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("ref"), reference).expect("a file");
        std::fs::write(folder.join("data"), "").expect("a file");
    }

    #[test]
    fn finds_the_ingest_of_a_digest() {
        let folder = tempfile::tempdir().expect("a folder");
        let (content, ingests) = (folder.path(), Ingests::default());
        let (ours, other) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        let is_open = |digest| matches!(ingests.open(content, digest), Ok(Some(_)));
        assert!(!is_open(&ours), "no ingest folder yet");
        ingest(content, "x", &format!("k8s.io/7/layer-{ours}"));
        assert!(is_open(&ours) && !is_open(&other));
        ingest(content, "y", &format!("moby/8/quay.io/a/b:1@{other}"));
        assert!(is_open(&other));
        // A reference that has been read is not read again.
        std::fs::remove_file(content.join("ingest/y/ref")).expect("removed");
        std::fs::remove_dir_all(content.join("ingest/x")).expect("removed");
        assert!(!is_open(&ours) && is_open(&other));
    }

    #[test]
    fn passes_over_what_is_broken() {
        let folder = tempfile::tempdir().expect("a folder");
        let (content, ingests) = (folder.path(), Ingests::default());
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
        let is_open = || matches!(ingests.open(content, &digest), Ok(Some(_)));
        assert!(!is_open());
        // A reference that is written a moment after its folder was created.
        ingest(content, "empty", &format!("default/1/config-{digest}"));
        assert!(is_open());
    }

    #[test]
    fn a_size_is_a_number_or_unknown() {
        let folder = tempfile::tempdir().expect("a folder");
        let (content, ingests) = (folder.path(), Ingests::default());
        let digest = Digest::sha256(b"a");
        ingest(content, "x", &format!("k8s.io/7/layer-{digest}"));
        let total = |text: &str| {
            std::fs::write(content.join("ingest/x/total"), text).expect("a file");
            let opened = ingests.open(content, &digest).expect("readable");
            opened.expect("open").total
        };
        assert_eq!(total("99"), Some(99));
        assert_eq!((total("0"), total("-1 or what")), (None, None));
    }

    #[test]
    fn each_opening_of_an_ingest_is_told_from_the_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let (content, ingests) = (folder.path(), Ingests::default());
        let digest = Digest::sha256(b"a");
        let write = |file: &str, text: &str| {
            let path = content.join("ingest/x").join(file);
            std::fs::write(path, text).expect("a file");
        };
        let opened = || ingests.open(content, &digest).expect("readable");
        let found = || opened().expect("open");
        ingest(content, "x", &format!("k8s.io/7/layer-{digest}"));
        write("updatedat", "");
        let first = found();
        write("data", "abc");
        let grown = found();
        assert_eq!((first.status.len(), grown.status.len()), (0, 3));
        assert_eq!(first.id, grown.id, "it grows");
        let updated = File::create(content.join("ingest/x/updatedat")).expect("a file");
        let closed = SystemTime::now() + Duration::from_secs(1);
        updated.set_modified(closed).expect("dated");
        assert_ne!(grown.id, found().id, "its writer was closed");
    }

    #[test]
    fn opens_the_furthest_that_is_not_left_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let (content, ingests) = (folder.path(), Ingests::default());
        let digest = Digest::sha256(b"a");
        let written = |bytes: usize, name: &str| {
            ingest(content, name, &format!("{name}/1/layer-{digest}"));
            let folder = content.join("ingest").join(name);
            let updated = File::create(folder.join("updatedat")).expect("a file");
            std::fs::write(folder.join("data"), vec![0; bytes]).expect("a file");
            updated
        };
        let size = || {
            let opened = ingests.open(content, &digest).expect("readable");
            opened.map(|o| o.status.len())
        };
        assert_eq!(size(), None);
        let updated = written(9, "left");
        assert_eq!(size(), Some(9));
        let later = SystemTime::now() + Duration::from_secs(1);
        updated.set_modified(later).expect("dated");
        assert_eq!(size(), Some(9), "it may be resumed");
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
