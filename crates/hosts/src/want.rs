//! The desired contents of an entry.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::tree::{Entry, Node};

/// The desired node at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// The user's node.
    Users(Node),
    /// A folder.
    Folder,
    Ours {
        bytes: Vec<u8>,
        mode: u32,
    },
}

/// The desired contents of an entry, by paths relative to it.
pub(crate) type WantedFiles = BTreeMap<PathBuf, Want>;

impl Want {
    pub(crate) fn is_met_by(&self, node: &Node) -> bool {
        match (self, node) {
            (Self::Users(wanted), node) => wanted == node,
            (Self::Folder, Node::Folder(_)) => true,
            (Self::Ours { bytes, mode }, Node::File { bytes: found, meta }) => {
                bytes == found && *mode == meta.mode
            }
            _ => false,
        }
    }

    pub(crate) fn is_folder(&self) -> bool {
        matches!(self, Self::Folder | Self::Users(Node::Folder(_)))
    }
}

/// The user's entry, unchanged.
pub(crate) fn unchanged(entry: &Entry) -> WantedFiles {
    entry
        .iter()
        .map(|(path, node)| (path.clone(), Want::Users(node.clone())))
        .collect()
}
