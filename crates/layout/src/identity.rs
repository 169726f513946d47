//! Detects a change of a file without reading it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

/// The time by which [`seal`] sets a file's modification time back: more than one tick of any file system's clock.
const SET_BACK: Duration = Duration::from_secs(1);

/// The data of `stat` on a file. If two of one path are equal, the file was not written, truncated or replaced in
/// between. They do not show bytes lost by the disk itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) inode: u64,
    /// The size in bytes.
    pub(crate) size: u64,
    /// The modification time, in seconds and nanoseconds.
    modified: (i64, i64),
    /// The time of the last status change, in seconds and nanoseconds.
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
/// advances only every few milliseconds, and a write right after the last one would leave no trace.
///
/// # Errors
/// The file system does not keep such times.
pub(crate) fn seal(file: &File) -> io::Result<()> {
    let modified = file.metadata()?.modified()?;
    file.set_modified(modified.checked_sub(SET_BACK).unwrap_or(modified))
}
