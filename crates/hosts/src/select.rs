//! Selects the folders that get a mirror's file.

use std::ffi::{OsStr, OsString};

use oci::{Registry, RegistryUrl};

use crate::configuration::DEFAULT_FOLDER;
use crate::root::Root;
use crate::{Configuration, HostsError, Mirrored, Warning};

/// A folder that gets a mirror's file.
pub(crate) struct Selected<'a> {
    pub(crate) folder: OsString,
    pub(crate) upstream: Option<&'a RegistryUrl>,
    pub(crate) users_hosts: UsersHosts,
}

/// What happens to the user's hosts in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UsersHosts {
    /// They are only in `_backup`.
    PutAside,
    /// They follow the mirror's. It is an error if they cannot: the user asked for it (`--prepend-existing`).
    Behind,
    /// They follow the mirror's. If they cannot, the folder stays unchanged: it was selected only because of
    /// `_default`.
    BehindIfPossible,
}

/// For each of the configuration folders, in containerd's order, the folders in it that get a mirror's file: one for
/// each named registry; with `_default` also those of the user for other hosts, since containerd reads them and not
/// `_default`.
///
/// A mirror's file goes where containerd finds the user's. If there is none, it goes into the first configuration
/// folder; but `_default` goes after all hosts of the user, or containerd would no longer find these.
pub(crate) fn select<'a>(
    configuration: &'a Configuration,
    roots: &[Root<'_>],
    warnings: &mut Vec<Warning>,
) -> Result<Vec<Vec<Selected<'a>>>, HostsError> {
    let users_default = roots
        .iter()
        .position(|root| root.has(DEFAULT_FOLDER.as_ref()));
    // containerd stops at the first `_default`.
    let read = &roots[..users_default.map_or(roots.len(), |n| n + 1)];
    let last_with_hosts = read
        .iter()
        .rposition(|root| root.own_folders().next().is_some());
    let default_root = users_default.or(last_with_hosts).unwrap_or(0);

    let mut selected: Vec<Vec<Selected<'a>>> = roots.iter().map(|_| Vec::new()).collect();
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
        let (root, folder) = match upstream {
            None => (default_root, DEFAULT_FOLDER.into()),
            Some(url) => place_of(&url.registry, read, warnings),
        };
        if let Some(url) = upstream
            && let Some(default) = users_default
            && !roots[root].has(&folder)
        {
            warnings.push(Warning::HidesDefault {
                registry: url.registry.clone(),
                default: roots[default].path.join(DEFAULT_FOLDER),
            });
        }
        match selected[root].iter().find(|other| other.folder == folder) {
            None => selected[root].push(Selected {
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
        for (n, root) in read.iter().enumerate() {
            for folder in root.own_folders() {
                let is_hidden = read[..n].iter().any(|earlier| earlier.has(folder));
                if !is_hidden && !selected[n].iter().any(|other| other.folder == *folder) {
                    selected[n].push(Selected {
                        folder: folder.clone(),
                        upstream: None,
                        users_hosts: UsersHosts::BehindIfPossible,
                    });
                }
            }
        }
    }
    Ok(selected)
}

/// The configuration folder, and the folder in it, that containerd reads for this registry.
fn place_of(
    registry: &Registry,
    roots: &[Root<'_>],
    warnings: &mut Vec<Warning>,
) -> (usize, OsString) {
    let name = OsString::from(registry.as_str());
    let underscored = registry
        .as_str()
        .rsplit_once(':')
        .map(|(host, port)| OsString::from(format!("{host}_{port}_")));
    for (n, root) in roots.iter().enumerate() {
        if let Some(underscored) = underscored.as_ref().filter(|name| root.has(name)) {
            let warning = Warning::Underscored {
                registry: registry.clone(),
                folder: root.path.join(underscored),
            };
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
            return (n, underscored.clone());
        }
        if root.has(&name) {
            return (n, name);
        }
    }
    (0, name)
}

/// The registry for which containerd reads a folder of this name.
pub(crate) fn registry_of(folder: &OsStr) -> Option<Registry> {
    let name = folder.to_str()?;
    let underscored = name
        .strip_suffix('_')
        .and_then(|rest| rest.rsplit_once('_'))
        .and_then(|(host, port)| format!("{host}:{port}").parse().ok());
    underscored.or_else(|| name.parse().ok())
}
