//! The reasons why a store cannot be opened, and what the operator can do about each.

use std::io;
use std::path::{Path, PathBuf};

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
        "{path} says image layout version {version:?}, known is {known}; give another --store-path"
    )]
    LayoutVersion {
        path: PathBuf,
        version: String,
        known: &'static str,
    },
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
    #[error(
        "{0} was not put there by Peili: the folder is another program's, containerd's content store perhaps; \
         move it away or give another --store-path"
    )]
    NotOurs(PathBuf),
    #[error("{0} is a link or no folder; make it a folder or give another --store-path")]
    NotAFolder(PathBuf),
    #[error("{0} is a link, a folder or a special file; move it away or give another --store-path")]
    NotAFile(PathBuf),
    #[error(
        "{path} holds {held} bytes that were not put there by Peili, more than --store-limit ({limit} bytes); \
         raise --store-limit or give another --store-path"
    )]
    OverLimit {
        path: PathBuf,
        held: u64,
        limit: u64,
    },
    #[error(
        "{0} was not put there by Peili and its bytes are not what its name says; \
         remove the file or give another --store-path"
    )]
    Damaged(PathBuf),
    #[error(
        "the file system that {0} was on is not mounted there any more; mount it again or restart Peili"
    )]
    OtherDevice(PathBuf),
    #[error("cannot read or write {path} of the store; check its owner, its mode and the disk")]
    Io { path: PathBuf, source: io::Error },
}

impl OpenError {
    /// The disk's error, or else this error as one.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Io { source, .. } => source,
            other => io::Error::other(other.to_string()),
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}
