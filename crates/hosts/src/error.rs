//! The errors of a registry configuration folder.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::advice::advice;

/// A fault in a file of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFault {
    pub path: PathBuf,
    /// The line and column, both counted from 1, if the fault has a place in the text.
    pub position: Option<(usize, usize)>,
    /// What is wrong, and what would be correct.
    pub message: String,
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Why nothing, or with `Io` not everything, was done. Repeating the command is always safe. Failures that concern only
/// one registry are in [`Report::failures`](crate::Report) instead.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    #[error(
        "--mirror-targets is empty; name at least this node's own mirror, as in http://127.0.0.1:5000"
    )]
    NoTarget,
    #[error("--mirrored-registries names {folder} twice, as http and as https; keep one")]
    RegistryTwice { folder: String },
    #[error("no folder is named by --containerd-registry-config-path")]
    NoFolder,
    #[error("{path} is not a folder, and a folder is needed here; move it away, or name another")]
    NotAFolder { path: PathBuf },
    #[error(
        "{path} is a symbolic link that leads nowhere; make the folder that it leads to, or remove it"
    )]
    DanglingLink { path: PathBuf },
    #[error(
        "{path} is a folder; it has to be a file, or containerd fails each pull that reads it; move it away"
    )]
    NotAFile { path: PathBuf },
    #[error(
        "{path} is neither a file, a folder nor a symbolic link; move it out of the registry configuration"
    )]
    Kind { path: PathBuf },
    #[error(
        "{path} exceeds what a registry configuration may hold ({limit}); move it out of there"
    )]
    TooLarge { path: PathBuf, limit: &'static str },
    #[error("another process has been changing {path} for {seconds} s; end it and try again")]
    Busy { path: PathBuf, seconds: u64 },
    /// The text contains the cause, as the remedy depends on it.
    #[error("cannot {action} {path}: {cause}; {}", advice(.cause))]
    Io {
        action: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
}

/// The error of this action on this path, from the system's error.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> HostsError {
    let path = path.to_owned();
    move |cause| HostsError::Io {
        action,
        path: path.clone(),
        cause,
    }
}
