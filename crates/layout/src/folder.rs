//! The folder on disk: its layout, and how files in it are replaced so that a crash leaves the old or the new one.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use oci::Digest;
use parking_lot::Mutex;

use crate::disk;
use crate::error::OpenError;
use crate::files;
use crate::inspect::{Origin, entries, inspect, leftovers, version};

pub(crate) const INDEX: &str = "index.json";
pub(crate) const JOURNAL: &str = "peili.journal";
pub(crate) const LAYOUT: &str = "oci-layout";
pub(crate) const LOCK: &str = "peili.lock";
pub(crate) const BLOBS: &str = "blobs";
pub(crate) const INGEST: &str = "ingest";
/// The prefix of files in `ingest/` that are being removed.
pub(crate) const REMOVED: &str = "removed-";
/// The suffix of a file that was set aside.
const DAMAGED: &str = ".damaged";

/// The only version in image-layout.md; it has not changed with the specification.
pub(crate) const LAYOUT_VERSION: &str = "1.0.0";
/// The number of bytes that [`Folder::try_write`] writes.
const TRIAL_SIZE: usize = 4096;

/// An image layout that no other Peili process has open.
pub(crate) struct Folder {
    root: PathBuf,
    origin: Origin,
    /// The folder's file system, once it is known.
    device: OnceLock<u64>,
    /// Locked while it is open. `None` until it can be created: the disk was full or read-only.
    lock: Mutex<Option<File>>,
}

impl Folder {
    /// Makes the folder a layout if it is not one yet, and locks it. Existing files stay: other programs have folders
    /// with the same names, and a wrong path must not cost them anything. If the disk is full or read-only, the folder
    /// is opened as it is, and the error is returned with it.
    pub(crate) fn open(root: &Path) -> Result<(Self, Option<io::Error>), OpenError> {
        let folder = Self {
            root: root.to_owned(),
            origin: inspect(root)?,
            device: OnceLock::new(),
            lock: Mutex::new(None),
        };
        match folder.prepare() {
            Ok(()) => Ok((folder, None)),
            Err(OpenError::Io { path, source }) if disk::takes_no_more(&source) => {
                Ok((folder, Some(disk::explain(&path, &source))))
            }
            Err(error) => Err(error),
        }
    }

    /// Creates the missing parts of the layout: all of it at the first start, later those that were removed.
    ///
    /// # Errors
    /// It cannot be written, belongs to another program by now, or its file system is no longer mounted: the folder
    /// below the mount point is not Peili's.
    pub(crate) fn prepare(&self) -> Result<(), OpenError> {
        self.refuse_other_device()?;
        // The content may be private: no other user may read a folder that is created here.
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(&self.root)
            .map_err(OpenError::io(&self.root))?;
        let metadata = fs::metadata(&self.root).map_err(OpenError::io(&self.root))?;
        self.device.get_or_init(|| metadata.dev());
        self.lock()?;
        let blobs = self.root.join(BLOBS);
        let algorithms = Digest::ALGORITHMS.map(|algorithm| blobs.join(algorithm));
        for path in algorithms.iter().chain([&self.root.join(INGEST)]) {
            builder.create(path).map_err(OpenError::io(path))?;
        }
        let layout = self.root.join(LAYOUT);
        let is_missing = match version(&layout) {
            Ok(version) => version.is_empty(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if is_missing {
            let text = format!(r#"{{"imageLayoutVersion":"{LAYOUT_VERSION}"}}"#);
            let written = self.replace(LAYOUT, text.as_bytes());
            written.map_err(OpenError::io(&layout))?;
        }
        Ok(())
    }

    fn refuse_other_device(&self) -> Result<(), OpenError> {
        let Some(device) = self.device.get() else {
            return Ok(());
        };
        // If the folder is missing, it would be created on the file system of its parent.
        let metadata = self
            .root
            .ancestors()
            .find_map(|path| fs::metadata(path).ok());
        if metadata.is_some_and(|metadata| metadata.dev() == *device) {
            return Ok(());
        }
        Err(OpenError::OtherDevice(self.root.clone()))
    }

    /// Locks the folder, unless it is locked.
    fn lock(&self) -> Result<(), OpenError> {
        let mut lock = self.lock.lock();
        if let Some(file) = &*lock
            && file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
        {
            return Ok(());
        }
        if lock.is_some() {
            // It was removed together with the lock: the folder there now may belong to any program.
            inspect(&self.root)?;
        }
        let path = self.root.join(LOCK);
        let mut options = File::options();
        options.create(true).truncate(false).write(true);
        let file = match files::open(&path, &mut options) {
            // An existing file can be locked without writing.
            Err(error) if disk::takes_no_more(&error) => {
                files::open_to_read(&path).map_err(|_| OpenError::io(&path)(error))
            }
            opened => opened.map_err(OpenError::io(&path)),
        }?;
        match file.try_lock() {
            Ok(()) => *lock = Some(file),
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(self.root.clone())),
            Err(TryLockError::Error(source)) => return Err(OpenError::Io { path, source }),
        }
        Ok(())
    }

    /// Removes what an earlier process left unfinished.
    pub(crate) fn clear_ingest(&self) -> Result<(), OpenError> {
        for path in leftovers(&self.root.join(INGEST), self.origin)? {
            files::remove(&path).map_err(OpenError::io(&path))?;
        }
        Ok(())
    }

    /// Whether it had a Peili journal when it was opened.
    pub(crate) fn is_ours(&self) -> bool {
        self.origin == Origin::Ours
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        // A digest is well-formed: its parts cannot lead out of the folder.
        let algorithm = self.root.join(BLOBS).join(digest.algorithm());
        algorithm.join(digest.encoded())
    }

    /// The path at which a file with this name is prepared.
    pub(crate) fn ingest(&self, name: &str) -> PathBuf {
        self.root.join(INGEST).join(name)
    }

    /// The objects in `blobs/` with their sizes in bytes. Anything but a regular file named by a digest is ignored.
    pub(crate) fn blobs(&self) -> Result<Vec<(Digest, u64)>, OpenError> {
        let mut found = Vec::new();
        for algorithm in Digest::ALGORITHMS {
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

    /// Replaces a file of the root: after a crash it is the old or the new one, whole.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let prepared = self.ingest(name);
        // An earlier process may have left one there.
        let written = files::create(&prepared)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&prepared, self.root.join(name)));
        if let Err(error) = written {
            // Nothing was replaced. The unfinished file only takes space.
            let _ = fs::remove_file(&prepared);
            return Err(error);
        }
        sync_folder(&self.root)
    }

    /// Sets a file of the root aside, so that another can take its place.
    pub(crate) fn set_aside(&self, name: &str) -> io::Result<()> {
        let aside = self.root.join(format!("{name}{DAMAGED}"));
        match fs::rename(self.root.join(name), aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Moves a prepared file durably into `blobs/`.
    pub(crate) fn admit(&self, prepared: &Path, digest: &Digest) -> io::Result<()> {
        let blob = self.blob(digest);
        fs::rename(prepared, &blob)?;
        let folder = blob.parent().unwrap_or(&self.root);
        sync_folder(folder).inspect_err(|_| {
            // If it is not durable, it is removed again.
            let _ = fs::remove_file(&blob);
        })
    }

    /// Checks whether `bytes` more can be written, by asking the file system and by writing a little.
    pub(crate) fn try_write(&self, bytes: u64) -> io::Result<()> {
        let free = rustix::fs::statvfs(&self.root)?;
        if free.f_bavail.saturating_mul(free.f_frsize) < bytes {
            return Err(io::Error::from(rustix::io::Errno::NOSPC));
        }
        // No file being removed has this number.
        let path = self.ingest(&format!("{REMOVED}0"));
        let written = files::create(&path).and_then(|mut file| {
            file.write_all(&[0; TRIAL_SIZE])
                .and_then(|()| file.sync_all())
        });
        // A file that it cannot remove is removed by the next check.
        written.and(files::remove(&path))
    }
}

impl Drop for Folder {
    /// A child that another thread has just forked holds the file open until it executes its program: until then,
    /// closing the file does not unlock it.
    fn drop(&mut self) {
        if let Some(lock) = self.lock.get_mut() {
            let _ = lock.unlock();
        }
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
