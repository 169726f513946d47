//! The folder on disk: where its parts lie, and how files in it are replaced so that a crash leaves old or new.

use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use oci::Digest;
use serde::Deserialize;

use crate::error::OpenError;
use crate::files::{self, read_bounded};

pub(crate) const INDEX: &str = "index.json";
pub(crate) const JOURNAL: &str = "peili.journal";
const LAYOUT: &str = "oci-layout";
const LOCK: &str = "peili.lock";
const BLOBS: &str = "blobs";
const INGEST: &str = "ingest";
/// How the names of files in `ingest/` begin that are on their way out.
pub(crate) const REMOVED: &str = "removed-";
const ALGORITHMS: [&str; 2] = ["sha256", "sha512"];

/// The one version that image-layout.md names; it has not changed with the specification's.
const LAYOUT_VERSION: &str = "1.0.0";
/// `oci-layout` is one short line.
const MAX_LAYOUT_FILE: u64 = 4096;

/// An image layout that no other process of ours has open.
pub(crate) struct Folder {
    root: PathBuf,
    origin: Origin,
    /// Locked for as long as it is open.
    _lock: File,
}

/// Whose the folder was when it was opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A layout with our journal.
    Ours,
    /// A layout that another tool made, or a first start of ours that did not get far.
    Others,
    /// Not a layout yet.
    Empty,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

impl Folder {
    /// Makes the folder a layout where it is not one yet, and locks it. What is in it stays: other programs keep
    /// folders with the same names, and a mistaken path must not cost them anything.
    pub(crate) fn open(root: &Path) -> Result<Self, OpenError> {
        // What it will hold may be private: nobody else reads a folder that we make.
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(root).map_err(OpenError::io(root))?;
        let origin = origin(root)?;
        let [blobs, ingest] = [BLOBS, INGEST].map(|name| root.join(name));
        let algorithms = ALGORITHMS.map(|algorithm| blobs.join(algorithm));
        let parts = [&blobs, &ingest];
        for path in parts.into_iter().chain(&algorithms) {
            refuse_other_than_folder(path)?;
        }
        if origin == Origin::Empty {
            refuse_blobs(&blobs)?;
        }
        leftovers(&ingest, origin)?;
        let folder = Self {
            root: root.to_owned(),
            origin,
            _lock: lock(root)?,
        };
        for path in algorithms.iter().chain([&ingest]) {
            builder.create(path).map_err(OpenError::io(path))?;
        }
        if origin == Origin::Empty {
            let text = format!(r#"{{"imageLayoutVersion":"{LAYOUT_VERSION}"}}"#);
            let written = folder.replace(LAYOUT, text.as_bytes());
            written.map_err(OpenError::io(&root.join(LAYOUT)))?;
        }
        Ok(folder)
    }

    /// Removes what an earlier process of ours left half done.
    pub(crate) fn clear_ingest(&self) -> Result<(), OpenError> {
        for path in leftovers(&self.root.join(INGEST), self.origin)? {
            files::remove(&path).map_err(OpenError::io(&path))?;
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
    pub(crate) fn blobs(&self) -> Result<Vec<(Digest, u64)>, OpenError> {
        let mut found = Vec::new();
        for algorithm in ALGORITHMS {
            let folder = self.root.join(BLOBS).join(algorithm);
            for (name, metadata) in entries(&folder)? {
                let text = format!("{algorithm}:{name}");
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
        // An earlier process may have left one there.
        files::remove(&prepared)?;
        let written = File::create_new(&prepared)
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

fn origin(root: &Path) -> Result<Origin, OpenError> {
    let is_there = |name| {
        let path = root.join(name);
        match path.symlink_metadata() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(OpenError::Io { path, source }),
        }
    };
    if is_there(LAYOUT)? {
        check_version(&root.join(LAYOUT))?;
        return Ok(if is_there(JOURNAL)? {
            Origin::Ours
        } else {
            Origin::Others
        });
    }
    // What a first start of ours can have left there; a file system of its own may be mounted there.
    let expected = [LOCK, BLOBS, INGEST, "lost+found"];
    for (name, _) in entries(root)? {
        if !expected.contains(&name.as_str()) {
            return Err(OpenError::NotALayout(root.to_owned()));
        }
    }
    Ok(Origin::Empty)
}

fn check_version(path: &Path) -> Result<(), OpenError> {
    let text = read_bounded(path, MAX_LAYOUT_FILE).map_err(OpenError::io(path))?;
    let version = serde_json::from_slice::<LayoutFile>(&text)
        .map(|file| file.image_layout_version)
        .unwrap_or_default();
    if version != LAYOUT_VERSION {
        return Err(OpenError::LayoutVersion {
            path: path.to_owned(),
            version,
            known: LAYOUT_VERSION,
        });
    }
    Ok(())
}

/// A link could lead into somebody else's folder, whose files would then count as ours.
fn refuse_other_than_folder(path: &Path) -> Result<(), OpenError> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(OpenError::NotAFolder(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(OpenError::io(path)(source)),
    }
}

/// Without a layout, nothing can be in `blobs/` but the empty folders of a first start of ours.
fn refuse_blobs(blobs: &Path) -> Result<(), OpenError> {
    for (name, _) in entries(blobs)? {
        let path = blobs.join(&name);
        if !ALGORITHMS.contains(&name.as_str()) {
            return Err(OpenError::NotOurs(path));
        }
        if let Some((name, _)) = entries(&path)?.first() {
            return Err(OpenError::NotOurs(path.join(name)));
        }
    }
    Ok(())
}

/// What an earlier process of ours left half done in `ingest/`.
///
/// # Errors
/// Something there is not ours.
fn leftovers(ingest: &Path, origin: Origin) -> Result<Vec<PathBuf>, OpenError> {
    let mut found = Vec::new();
    for (name, metadata) in entries(ingest)? {
        let path = ingest.join(&name);
        if !metadata.is_file() {
            return Err(OpenError::NotAFile(path));
        }
        let is_ours = match origin {
            Origin::Ours => {
                [LAYOUT, INDEX, JOURNAL].contains(&name.as_str())
                    || name.starts_with(REMOVED)
                    || ALGORITHMS.iter().any(|a| name.starts_with(a))
            }
            // As far as a first start of ours can have come.
            Origin::Others | Origin::Empty => [LAYOUT, JOURNAL].contains(&name.as_str()),
        };
        if !is_ours {
            return Err(OpenError::NotOurs(path));
        }
        found.push(path);
    }
    Ok(found)
}

/// The entries of a folder, themselves and not what they link to; none where it is missing.
fn entries(folder: &Path) -> Result<Vec<(String, Metadata)>, OpenError> {
    let read = match fs::read_dir(folder) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(OpenError::io(folder)(source)),
    };
    let mut found = Vec::new();
    for entry in read {
        let entry = entry.map_err(OpenError::io(folder))?;
        match entry.metadata() {
            // A name that is no text is none of ours either way.
            Ok(metadata) => {
                found.push((entry.file_name().to_string_lossy().into_owned(), metadata));
            }
            // Gone since the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(OpenError::io(&entry.path())(source)),
        }
    }
    Ok(found)
}

fn lock(root: &Path) -> Result<File, OpenError> {
    let path = root.join(LOCK);
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    let file = files::open(&path, &mut options).map_err(OpenError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(root.to_owned())),
        Err(TryLockError::Error(source)) => Err(OpenError::Io { path, source }),
    }
}
