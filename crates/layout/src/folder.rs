//! The folder on disk: where its parts lie, and how files in it are replaced so that a crash leaves old or new.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use oci::Digest;
use serde::Deserialize;

pub(crate) const INDEX: &str = "index.json";
pub(crate) const JOURNAL: &str = "peili.journal";
const LAYOUT: &str = "oci-layout";
const LOCK: &str = "peili.lock";
const BLOBS: &str = "blobs";
const INGEST: &str = "ingest";
const ALGORITHMS: [&str; 2] = ["sha256", "sha512"];

/// The one version that image-layout.md names; it has not changed with the specification's.
const LAYOUT_VERSION: &str = "1.0.0";
/// `oci-layout` is one short line.
const MAX_LAYOUT_FILE: u64 = 4096;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the store {0} is in use by another process; stop that one or give another --store-path"
    )]
    Locked(PathBuf),
    #[error(
        "{0} is not empty and not an OCI image layout; give an empty or a new folder as --store-path"
    )]
    NotALayout(PathBuf),
    #[error(
        "{path} says image layout version {version:?}, known is {LAYOUT_VERSION}; give another --store-path"
    )]
    LayoutVersion { path: PathBuf, version: String },
    #[error(
        "{path} was written by a newer Peili (journal version {version}); run that one or empty the folder"
    )]
    JournalVersion { path: PathBuf, version: u32 },
    #[error("{path} is not an image index of at most {limit} bytes; mend or delete it")]
    Index {
        path: PathBuf,
        limit: u64,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cannot read or write {path} of the store; check its owner, its mode and the disk")]
    Io { path: PathBuf, source: io::Error },
}

impl OpenError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// An image layout that no other process of ours has open.
pub(crate) struct Folder {
    root: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

impl Folder {
    /// Makes the folder a layout where it is not one yet, locks it, and removes what an earlier process left half done.
    pub(crate) fn open(root: &Path) -> Result<Self, OpenError> {
        let io = || OpenError::io(root);
        // What it will hold may be private: nobody else reads a folder that we make.
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(root).map_err(io())?;
        let is_layout = root.join(LAYOUT).try_exists().map_err(io())?;
        if !is_layout && has_foreign_entries(root).map_err(io())? {
            return Err(OpenError::NotALayout(root.to_owned()));
        }
        let folder = Self {
            root: root.to_owned(),
            _lock: lock(root)?,
        };
        let folders = ALGORITHMS.map(|algorithm| root.join(BLOBS).join(algorithm));
        for path in folders.iter().chain([&root.join(INGEST)]) {
            builder.create(path).map_err(OpenError::io(path))?;
        }
        folder.clear_ingest().map_err(io())?;
        if is_layout {
            folder.check_version()?;
        } else {
            let text = format!(r#"{{"imageLayoutVersion":"{LAYOUT_VERSION}"}}"#);
            folder.replace(LAYOUT, text.as_bytes()).map_err(io())?;
        }
        Ok(folder)
    }

    fn check_version(&self) -> Result<(), OpenError> {
        let path = self.root.join(LAYOUT);
        let text = read_bounded(&path, MAX_LAYOUT_FILE).map_err(OpenError::io(&path))?;
        let version = serde_json::from_slice::<LayoutFile>(&text)
            .map(|file| file.image_layout_version)
            .unwrap_or_default();
        if version != LAYOUT_VERSION {
            return Err(OpenError::LayoutVersion { path, version });
        }
        Ok(())
    }

    fn clear_ingest(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join(INGEST))? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        // A digest is well-formed: its parts cannot leave the folder.
        let algorithm = self.root.join(BLOBS).join(digest.algorithm());
        algorithm.join(digest.encoded())
    }

    /// Where a file with this name is prepared.
    pub(crate) fn ingest(&self, name: &str) -> PathBuf {
        self.root.join(INGEST).join(name)
    }

    /// The objects in `blobs/` with their sizes in bytes. What is no regular file or not named by a digest is none.
    pub(crate) fn blobs(&self) -> io::Result<Vec<(Digest, u64)>> {
        let mut found = Vec::new();
        for algorithm in ALGORITHMS {
            for entry in fs::read_dir(self.root.join(BLOBS).join(algorithm))? {
                let entry = entry?;
                let name = entry.file_name();
                let text = format!("{algorithm}:{}", name.to_string_lossy());
                // Metadata of the entry itself: a symbolic link could lead anywhere.
                let metadata = entry.metadata()?;
                if let Ok(digest) = text.parse::<Digest>()
                    && metadata.is_file()
                {
                    found.push((digest, metadata.len()));
                }
            }
        }
        Ok(found)
    }

    /// Writes a file of the root anew: after a crash it is the old one or the new one, whole.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let prepared = self.ingest(name);
        let written = File::create(&prepared)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&prepared, self.root.join(name)));
        if let Err(error) = written {
            // Nothing was replaced; what there is of the new file only takes room.
            let _ = fs::remove_file(&prepared);
            return Err(error);
        }
        sync_folder(&self.root)
    }

    /// Moves a prepared file into `blobs/`, for good.
    pub(crate) fn admit(&self, prepared: &Path, digest: &Digest) -> io::Result<()> {
        let blob = self.blob(digest);
        fs::rename(prepared, &blob)?;
        let folder = blob.parent().unwrap_or(&self.root);
        sync_folder(folder).inspect_err(|_| {
            // Not for good: then not at all.
            let _ = fs::remove_file(&blob);
        })
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Whether the folder has entries that a first start of ours cannot have left there.
fn has_foreign_entries(root: &Path) -> io::Result<bool> {
    // A file system of its own may be mounted there.
    let ours = [LOCK, BLOBS, INGEST, "lost+found"];
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        if !ours.iter().any(|own| name == *own) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn lock(root: &Path) -> Result<File, OpenError> {
    let path = root.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(OpenError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(root.to_owned())),
        Err(TryLockError::Error(source)) => Err(OpenError::Io { path, source }),
    }
}

/// Reads a file that may have at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("more than {limit} bytes"),
        ));
    }
    Ok(bytes)
}
