//! Which folders shall hold a file of ours.

use std::ffi::OsString;

use oci::{Registry, RegistryUrl};

use crate::configuration::DEFAULT_FOLDER;
use crate::tree::{Entries, is_file};
use crate::{Configuration, HostsError, Mirrored, Warning};

/// A folder that shall hold a file of ours.
pub(crate) struct Selected<'a> {
    pub(crate) folder: OsString,
    pub(crate) upstream: Option<&'a RegistryUrl>,
    pub(crate) users_hosts: UsersHosts,
}

/// What becomes of the hosts that the user has in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UsersHosts {
    /// They are in `_backup` alone.
    PutAside,
    /// They follow ours. Where they cannot, that is an error: the user asked for it (`--prepend-existing`).
    Behind,
    /// They follow ours. Where they cannot, the folder stays as it is: it was chosen only because of `_default`.
    BehindIfPossible,
}

/// One folder for each registry named; with `_default` also those that the user has for other hosts, since containerd
/// looks into them and not into `_default`.
pub(crate) fn select<'a>(
    configuration: &'a Configuration,
    users: &Entries,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<Selected<'a>>, HostsError> {
    let mut selected: Vec<Selected<'a>> = Vec::new();
    let mut all: Vec<Option<&RegistryUrl>> = configuration
        .registries
        .iter()
        .map(Mirrored::registry)
        .collect();
    if all.is_empty() {
        all.push(None);
    }
    let users_hosts = if configuration.prepend_existing {
        UsersHosts::Behind
    } else {
        UsersHosts::PutAside
    };
    for upstream in &all {
        let folder = match upstream {
            None => DEFAULT_FOLDER.into(),
            Some(url) => folder_of(&url.registry, configuration, users, warnings),
        };
        match selected.iter().find(|other| other.folder == folder) {
            None => selected.push(Selected {
                folder,
                upstream: *upstream,
                users_hosts,
            }),
            Some(other) if other.upstream == *upstream => {}
            Some(_) => {
                let folder = folder.to_string_lossy().into_owned();
                return Err(HostsError::RegistryTwice { folder });
            }
        }
    }
    if all.contains(&None) {
        for folder in own_folders(users) {
            if !selected.iter().any(|other| other.folder == *folder) {
                selected.push(Selected {
                    folder: folder.clone(),
                    upstream: None,
                    users_hosts: UsersHosts::BehindIfPossible,
                });
            }
        }
    }
    Ok(selected)
}

/// The folder that containerd reads for this registry.
fn folder_of(
    registry: &Registry,
    configuration: &Configuration,
    users: &Entries,
    warnings: &mut Vec<Warning>,
) -> OsString {
    let name = registry.as_str();
    if let Some((host, port)) = name.rsplit_once(':') {
        let underscored = OsString::from(format!("{host}_{port}_"));
        if users.contains_key(&underscored) {
            let warning = Warning::Underscored {
                registry: registry.clone(),
                folder: configuration.path.join(&underscored),
            };
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
            return underscored;
        }
    }
    name.into()
}

/// The user's entries that containerd takes for a host's, so that it does not look into `_default` for it.
fn own_folders(users: &Entries) -> impl Iterator<Item = &OsString> {
    let folders = users.iter().filter(|(_, entry)| !is_file(entry));
    folders.map(|(name, _)| name).filter(|name| {
        name.to_str().is_some_and(|name| {
            let underscored = name
                .strip_suffix('_')
                .and_then(|rest| rest.rsplit_once('_'))
                .map(|(host, port)| format!("{host}:{port}"));
            let is_registry = |name: &str| name.parse::<Registry>().is_ok();
            name != DEFAULT_FOLDER
                && (is_registry(name) || underscored.is_some_and(|name| is_registry(&name)))
        })
    })
}
