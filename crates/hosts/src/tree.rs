//! The configuration folder as a value: read once ([`scan`](crate::scan)), with all decisions based on it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The folder with the user's configuration; the name is Spegel's.
pub(crate) const BACKUP: &str = "_backup";
/// The folder in which entries are built before they are renamed into place.
pub(crate) const STAGING: &str = "_peili.tmp";
/// The file that containerd reads.
pub(crate) const HOSTS: &str = "hosts.toml";

/// Permissions and owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Folder(Meta),
    File { bytes: Vec<u8>, meta: Meta },
    Link(Link),
}

/// A symbolic link.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) target: PathBuf,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The bytes and mode of the file that a link named `hosts.toml` leads to, if it can be read.
    pub(crate) contents: Option<(Vec<u8>, u32)>,
}

impl PartialEq for Link {
    /// The target's contents are not part of a link.
    fn eq(&self, other: &Self) -> bool {
        (&self.target, self.uid, self.gid) == (&other.target, other.uid, other.gid)
    }
}

impl Eq for Link {}

/// One entry of the configuration folder with everything below it, by paths relative to it; the empty path is the entry
/// itself.
pub(crate) type Entry = BTreeMap<PathBuf, Node>;
pub(crate) type Entries = BTreeMap<OsString, Entry>;

/// An entry that was not read completely. It is left unchanged, in the live folder and in `_backup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// What is wrong, why, and what the operator can do.
    pub(crate) reason: String,
    /// Whether there is a live entry, without a mirror's `hosts.toml` in it.
    pub(crate) is_users: bool,
    /// Whether the live entry is a folder, or a link to one, that containerd may read.
    pub(crate) is_folder: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The live entries, without refused ones, as in `backup`.
    pub(crate) live: Entries,
    pub(crate) refused: BTreeMap<OsString, Refused>,
    /// `None`: there is no `_backup`.
    pub(crate) backup: Option<Entries>,
    /// Whether an earlier run ended before it removed its staging folder.
    pub(crate) staging: bool,
    /// Whether Spegel treated that folder as the user's.
    pub(crate) staging_in_backup: bool,
}

/// Whether this is a folder, and not a file or link with the name of one.
pub(crate) fn is_folder(entry: &Entry) -> bool {
    matches!(entry.get(Path::new("")), Some(Node::Folder(_)))
}

/// Whether this is a file, which is not a folder of hosts whatever its name.
pub(crate) fn is_file(entry: &Entry) -> bool {
    matches!(entry.get(Path::new("")), Some(Node::File { .. }))
}

/// Whether this is an empty folder.
pub(crate) fn is_empty_folder(entry: &Entry) -> bool {
    is_folder(entry) && entry.len() == 1
}

/// What containerd reads as the `hosts.toml` of this entry.
pub(crate) fn hosts_toml(entry: &Entry) -> Option<&[u8]> {
    match entry.get(Path::new(HOSTS))? {
        Node::File { bytes, .. } => Some(bytes),
        Node::Link(link) => link.contents.as_ref().map(|(bytes, _)| bytes.as_slice()),
        Node::Folder(_) => None,
    }
}
