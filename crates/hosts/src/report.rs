//! The results of a run, and warnings to the operator.

use std::fmt;
use std::path::{Path, PathBuf};

use oci::Registry;

use crate::{FileFault, Target};

/// The results of a run of [`configure`](crate::configure()) or [`cleanup`](crate::cleanup()). All paths include the
/// configuration folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The mirror's files that were written.
    pub written: Vec<PathBuf>,
    /// The mirror's files that were there already, identical in every byte.
    pub unchanged: Vec<PathBuf>,
    /// The user's files and folders that are in force again.
    pub restored: Vec<PathBuf>,
    /// The files and folders of a mirror that were removed.
    pub removed: Vec<PathBuf>,
    pub warnings: Vec<Warning>,
    /// The requests that failed. All others succeeded.
    pub failures: Vec<Failure>,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The registry's folder, or a configuration folder as a whole.
    pub path: PathBuf,
    /// What failed, on what, why, and what the operator can do.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

impl Report {
    /// Adds the results for another configuration folder.
    pub(crate) fn extend(&mut self, other: Self) {
        self.written.extend(other.written);
        self.unchanged.extend(other.unchanged);
        self.restored.extend(other.restored);
        self.removed.extend(other.removed);
        self.warnings.extend(other.warnings);
        self.failures.extend(other.failures);
    }

    /// Records that this entry of a configuration folder is not as planned.
    pub(crate) fn fail(&mut self, entry: &Path, reason: impl fmt::Display) {
        for list in [
            &mut self.written,
            &mut self.unchanged,
            &mut self.restored,
            &mut self.removed,
        ] {
            list.retain(|path| !path.starts_with(entry));
        }
        self.failures.push(Failure {
            path: entry.to_owned(),
            reason: reason.to_string(),
        });
    }
}

/// A result that the operator may not expect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// All registries are mirrored through `_default`, but not this one: the user has a folder for it, which containerd
    /// reads instead, and which cannot be combined with the mirror's hosts. It was left unchanged.
    NotMirrored(FileFault),
    /// containerd reads `host_port_` before `host:port`, so the mirror's file is there.
    Underscored { registry: Registry, folder: PathBuf },
    /// A file of the user whose meaning for some release of containerd would change with the mirror's hosts. The folder
    /// was left unchanged.
    OtherMeaning(FileFault),
    /// A named registry without a folder of the user: with a mirror's folder, containerd no longer reads the user's
    /// `_default` for it.
    HidesDefault {
        registry: Registry,
        default: PathBuf,
    },
    /// A pipe, a socket or a device, of which there is no copy.
    Special { path: PathBuf },
    /// A file of the user that containerd cannot read and that need not be combined with the mirror's. It was kept
    /// unchanged.
    Broken(FileFault),
    /// containerd 1.6 and 1.7 parse TOML with go-toml 1, which does not allow `[` in the name of a table. They then
    /// read nothing of that file, including the user's hosts after the mirror's.
    Ipv6Literal { target: Target },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMirrored(fault) => write!(
                f,
                "{fault}; your folder was left as it is and comes before _default, so this registry is not mirrored"
            ),
            Self::OtherMeaning(fault) => write!(
                f,
                "{fault}; your folder was left as it is, so this registry is not mirrored"
            ),
            Self::HidesDefault { registry, default } => write!(
                f,
                "{registry} is mirrored by a folder of its own, so containerd no longer asks the hosts in your {} for it; \
                 if it needs them, give it a folder with these hosts and set --prepend-existing",
                default.display()
            ),
            Self::Special { path } => write!(
                f,
                "{} is neither a file, a folder nor a symbolic link; it was left as it is and is not in _backup",
                path.display()
            ),
            Self::Underscored { registry, folder } => write!(
                f,
                "containerd reads {} before {registry}, so the mirror was configured there",
                folder.display()
            ),
            Self::Broken(fault) => write!(f, "containerd cannot read your {fault}"),
            Self::Ipv6Literal { target } => write!(
                f,
                "containerd 1.6 and 1.7 cannot read a hosts.toml with the IPv6 address of {target} and would pull \
                 without the mirror, and without hosts of yours in that file; with those, give --mirror-targets a \
                 name that resolves to the address"
            ),
        }
    }
}
