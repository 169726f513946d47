//! The contents of a folder that leads containerd to a mirror.

use std::path::{Path, PathBuf};

use crate::merge::{self, TextFault};
use crate::select::{Selected, UsersHosts, registry_of};
use crate::tree::{Entry, HOSTS, Node};
use crate::want::{Want, WantedFiles, unchanged};
use crate::{Configuration, Target, meaning, render};

/// The permissions of a mirror's file with a secret, and of one without.
const CONFIDENTIAL: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Why the user's file cannot be combined with the mirror's.
#[derive(Debug)]
pub(crate) enum Obstacle {
    /// Its form is not supported.
    Text(TextFault),
    /// Its meaning would change.
    Meaning(TextFault),
}

impl From<TextFault> for Obstacle {
    fn from(fault: TextFault) -> Self {
        Self::Text(fault)
    }
}

/// A folder with the mirror's file, and the user's contents if they are kept.
pub(crate) fn mirrored(
    configuration: &Configuration,
    targets: &[&Target],
    selected: &Selected<'_>,
    users: Option<&Entry>,
) -> Result<WantedFiles, Obstacle> {
    let upstream = selected.upstream;
    let keep = selected.users_hosts != UsersHosts::PutAside;
    let plain = |root: &str| render::file(configuration, targets, upstream, root).into_bytes();
    let mode = if configuration.is_confidential() {
        CONFIDENTIAL
    } else {
        PUBLIC
    };
    let folder = users.and_then(|users| users.get(Path::new("")));
    let (mut wanted, bytes, mode) = match (users, folder) {
        (Some(_), Some(Node::Link(link))) if keep => {
            return Err(Obstacle::Text(TextFault {
                position: None,
                message: format!(
                    "the folder is a symbolic link to {}; make it a folder",
                    link.target.display()
                ),
            }));
        }
        (Some(users), Some(Node::Folder(_))) if keep => {
            let (file, users_mode) = users_file(users)?;
            let bytes = match file {
                Some(file) => {
                    let text = merge::prepend(configuration, targets, upstream, file)?;
                    let registry = registry_of(&selected.folder);
                    meaning::check(file, users, registry.as_ref(), targets)
                        .map_err(Obstacle::Meaning)?;
                    text.into_bytes()
                }
                None => plain(&merge::certificates(&files(users))),
            };
            // What other users of the node cannot read stays unreadable for them.
            let mode = if users_mode & 0o004 == 0 {
                CONFIDENTIAL
            } else {
                mode
            };
            (unchanged(users), bytes, mode)
        }
        (_, Some(folder @ Node::Folder(_))) => {
            let wanted = WantedFiles::from([(PathBuf::new(), Want::Users(folder.clone()))]);
            (wanted, plain(""), mode)
        }
        _ => (
            WantedFiles::from([(PathBuf::new(), Want::Folder)]),
            plain(""),
            mode,
        ),
    };
    wanted.insert(HOSTS.into(), Want::Ours { bytes, mode });
    Ok(wanted)
}

/// The bytes and mode of the user's `hosts.toml`. containerd treats an empty one as missing.
fn users_file(users: &Entry) -> Result<(Option<&[u8]>, u32), TextFault> {
    let (bytes, mode) = match users.get(Path::new(HOSTS)) {
        None | Some(Node::Folder(_)) => return Ok((None, PUBLIC)),
        Some(Node::File { bytes, meta }) => (bytes, meta.mode),
        Some(Node::Link(link)) => {
            let (bytes, mode) = link.contents.as_ref().ok_or_else(|| TextFault {
                position: None,
                message: format!(
                    "is a symbolic link to {}, which cannot be read from here; put the file itself there",
                    link.target.display()
                ),
            })?;
            (bytes, *mode)
        }
    };
    Ok((
        Some(bytes.as_slice()).filter(|bytes| !bytes.is_empty()),
        mode,
    ))
}

/// The names of the files directly in the folder.
fn files(users: &Entry) -> impl Iterator<Item = &str> + Clone {
    users.iter().filter_map(|(path, node)| {
        let direct = path.components().count() == 1 && !matches!(node, Node::Folder(_));
        direct.then(|| path.to_str()).flatten()
    })
}
