//! What a run did, and what the operator should know.

use std::fmt;
use std::path::{Path, PathBuf};

use oci::Registry;

use crate::{FileFault, Target};

/// What a run of [`configure`](crate::configure()) or [`cleanup`](crate::cleanup()) did. All paths include the
/// configuration folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Files of ours that were written.
    pub written: Vec<PathBuf>,
    /// Files of ours that stood there already, byte for byte, and were not touched.
    pub unchanged: Vec<PathBuf>,
    /// Files and folders of the user's that are in force again.
    pub restored: Vec<PathBuf>,
    /// Files and folders of a mirror's that are gone.
    pub removed: Vec<PathBuf>,
    pub warnings: Vec<Warning>,
    /// What could not be done. All else was.
    pub failures: Vec<Failure>,
}

/// Something that was asked for and could not be done.
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
    /// Adds what was done in another configuration folder.
    pub(crate) fn extend(&mut self, other: Self) {
        self.written.extend(other.written);
        self.unchanged.extend(other.unchanged);
        self.restored.extend(other.restored);
        self.removed.extend(other.removed);
        self.warnings.extend(other.warnings);
        self.failures.extend(other.failures);
    }

    /// Notes that this entry of a configuration folder is not as the plan has it.
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

/// Something that is not as the operator may expect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// All registries are mirrored through `_default`, but not this one: the user has a folder for it, into which
    /// containerd looks instead, and what is there cannot be combined with ours. It was left as it is.
    NotMirrored(FileFault),
    /// containerd looks into `host_port_` before `host:port`, so our file is there.
    Underscored { registry: Registry, folder: PathBuf },
    /// A file of the user's that would mean something else to some release of containerd with ours in it. The folder was
    /// left as it is.
    OtherMeaning(FileFault),
    /// A registry that is named and has no folder of the user's: with a folder of ours, containerd no longer looks for it
    /// into the user's `_default`.
    HidesDefault {
        registry: Registry,
        default: PathBuf,
    },
    /// A pipe, a socket or a device, which is kept nowhere else.
    Special { path: PathBuf },
    /// A file of the user's that containerd cannot read and that need not be combined with ours. It was kept as it is.
    Broken(FileFault),
    /// containerd 1.6 and 1.7 read TOML with go-toml 1, which takes no `[` inside the name of a table. They then read
    /// nothing of that file, the user's hosts behind ours included.
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
