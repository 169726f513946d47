//! One configuration folder as found.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::configuration::DEFAULT_FOLDER;
use crate::merge::TextFault;
use crate::recognise::Spegel;
use crate::select::registry_of;
use crate::tree::{Entries, HOSTS, Snapshot, is_file};
use crate::users::users_own;
use crate::{FileFault, HostsError, scan};

/// One configuration folder, and the user's own part of it.
#[derive(Debug)]
pub(crate) struct Root<'a> {
    pub(crate) path: &'a Path,
    pub(crate) snapshot: Snapshot,
    /// When a file counts as Spegel's.
    pub(crate) spegel: Spegel,
    pub(crate) users: Entries,
}

impl<'a> Root<'a> {
    /// `without_backup`: what counts as Spegel's if there is no `_backup` to show that a mirror was here.
    pub(crate) fn read(path: &'a Path, without_backup: Spegel) -> Result<Self, HostsError> {
        let snapshot = scan::scan(path)?;
        let spegel = match snapshot.backup {
            Some(_) => Spegel::Roughly,
            None => without_backup,
        };
        let users = users_own(&snapshot, spegel);
        Ok(Self {
            path,
            snapshot,
            spegel,
            users,
        })
    }

    /// Whether the user has an entry of this name.
    pub(crate) fn has(&self, name: &OsStr) -> bool {
        self.users.contains_key(name) || self.snapshot.refused.contains_key(name)
    }

    /// The user's entries that containerd treats as a host's, so that it does not read `_default` for it.
    pub(crate) fn own_folders(&self) -> impl Iterator<Item = &OsString> {
        let users = self.users.iter().filter(|(_, entry)| !is_file(entry));
        let refused = self.snapshot.refused.iter().filter(|(_, r)| r.is_folder);
        let names = users
            .map(|(name, _)| name)
            .chain(refused.map(|(name, _)| name));
        names.filter(|name| *name != DEFAULT_FOLDER && registry_of(name).is_some())
    }

    pub(crate) fn in_file(&self, folder: &OsStr, fault: TextFault) -> FileFault {
        FileFault {
            path: self.path.join(folder).join(HOSTS),
            position: fault.position,
            message: fault.message,
        }
    }
}
