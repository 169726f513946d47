//! How a change of a file is noticed without reading it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

/// How far [`seal`] sets a file's modification time back. More than one tick of any file system's clock.
const SET_BACK: Duration = Duration::from_secs(1);

/// What `stat` says of a file. Two equal ones of one path mean: nobody has written to it, truncated or replaced it in
/// between. A disk that loses bytes by itself changes none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) inode: u64,
    /// In bytes.
    pub(crate) size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// Seconds and nanoseconds.
    changed: (i64, i64),
}

impl Identity {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from(&file.metadata()?))
    }
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Sets the modification time of a complete file back, so that any later write changes it: the kernel's clock for files
/// advances every few milliseconds only, and a write right after the last one would leave no trace.
///
/// # Errors
/// The file system keeps no such time.
pub(crate) fn seal(file: &File) -> io::Result<()> {
    let modified = file.metadata()?.modified()?;
    file.set_modified(modified.checked_sub(SET_BACK).unwrap_or(modified))
}
