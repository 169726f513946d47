//! The configuration folder as a value: read once, decided upon without looking again.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use crate::HostsError;

/// Where the user's configuration is kept; the name is Spegel's.
pub(crate) const BACKUP: &str = "_backup";
/// Where things are built before they are renamed into place.
pub(crate) const STAGING: &str = "_peili.tmp";
/// The file that containerd reads.
pub(crate) const HOSTS: &str = "hosts.toml";

// A registry configuration is a handful of small files. What goes far beyond that was not meant to be one (a volume
// mounted in the wrong place, say) and is better left alone than copied.
const MAX_FILE: u64 = 4 << 20;
const MAX_TOTAL: u64 = 64 << 20;
const MAX_NODES: usize = 10_000;
const MAX_DEPTH: usize = 16;

/// Rights and owner.
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
    /// Bytes and mode of the file that a link named `hosts.toml` leads to, if it leads to one that can be read.
    pub(crate) contents: Option<(Vec<u8>, u32)>,
}

impl PartialEq for Link {
    /// What lies behind a link is not part of it.
    fn eq(&self, other: &Self) -> bool {
        (&self.target, self.uid, self.gid) == (&other.target, other.uid, other.gid)
    }
}

impl Eq for Link {}

/// One entry of the configuration folder with all below it, by paths relative to it; the empty path is the entry.
pub(crate) type Entry = BTreeMap<PathBuf, Node>;
pub(crate) type Entries = BTreeMap<OsString, Entry>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) live: Entries,
    /// `None` where there is no `_backup`.
    pub(crate) backup: Option<Entries>,
    /// Whether a run was ended before it could clear up.
    pub(crate) staging: bool,
    /// Whether Spegel took what it left for the user's.
    pub(crate) staging_in_backup: bool,
}

/// Whether this is a folder, as against a file or link that has the name of one.
pub(crate) fn is_folder(entry: &Entry) -> bool {
    matches!(entry.get(Path::new("")), Some(Node::Folder(_)))
}

/// Whether this is a file, which is nobody's folder of hosts whatever its name.
pub(crate) fn is_file(entry: &Entry) -> bool {
    matches!(entry.get(Path::new("")), Some(Node::File { .. }))
}

/// Whether this is a folder with nothing in it.
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

/// Reads all of the configuration folder.
pub(crate) fn scan(root: &Path) -> Result<Snapshot, HostsError> {
    let mut scanner = Scanner {
        root,
        nodes: 0,
        total: 0,
    };
    let mut snapshot = Snapshot::default();
    for (name, path) in scanner.children(root)? {
        if name == STAGING {
            snapshot.staging = true;
        } else if name == BACKUP {
            // Behind a link it may be; Spegel does not mind either.
            if !fs::metadata(&path).is_ok_and(|meta| meta.is_dir()) {
                return Err(HostsError::NotAFolder { path });
            }
            let mut kept = Entries::new();
            for (name, path) in scanner.children(&path)? {
                if name == STAGING {
                    snapshot.staging_in_backup = true;
                    continue;
                }
                let entry = scanner.entry(&name, &path)?;
                kept.insert(name, entry);
            }
            snapshot.backup = Some(kept);
        } else {
            let entry = scanner.entry(&name, &path)?;
            snapshot.live.insert(name, entry);
        }
    }
    Ok(snapshot)
}

struct Scanner<'a> {
    root: &'a Path,
    nodes: usize,
    total: u64,
}

impl Scanner<'_> {
    fn children(&mut self, folder: &Path) -> Result<Vec<(OsString, PathBuf)>, HostsError> {
        let failed = failed("read", folder);
        let mut children = Vec::new();
        for child in fs::read_dir(folder).map_err(&failed)? {
            let child = child.map_err(&failed)?;
            self.nodes += 1;
            if self.nodes > MAX_NODES {
                return Err(too_large(folder, "10,000 files"));
            }
            children.push((child.file_name(), child.path()));
        }
        Ok(children)
    }

    fn entry(&mut self, name: &OsStr, path: &Path) -> Result<Entry, HostsError> {
        let mut entry = Entry::new();
        self.walk(name, path, Path::new(""), 0, &mut entry)?;
        Ok(entry)
    }

    /// `name` is that of the entry, `path` where the node lies now, `inner` its path in the entry.
    fn walk(
        &mut self,
        name: &OsStr,
        path: &Path,
        inner: &Path,
        depth: usize,
        entry: &mut Entry,
    ) -> Result<(), HostsError> {
        let found = fs::symlink_metadata(path).map_err(failed("read", path))?;
        let meta = Meta {
            mode: found.permissions().mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
        };
        let node = if found.is_dir() {
            if inner == Path::new(HOSTS) {
                // containerd fails every pull from such a registry, so nobody can want it.
                return Err(HostsError::NotAFile {
                    path: path.to_owned(),
                });
            }
            if depth == MAX_DEPTH {
                return Err(too_large(path, "16 folders deep"));
            }
            for (child, child_path) in self.children(path)? {
                self.walk(name, &child_path, &inner.join(child), depth + 1, entry)?;
            }
            Node::Folder(meta)
        } else if found.is_file() {
            let bytes = read(path).map_err(failed("read", path))?;
            self.count(path, bytes.len())?;
            Node::File { bytes, meta }
        } else if found.is_symlink() {
            let target = fs::read_link(path).map_err(failed("read", path))?;
            let contents = if inner == Path::new(HOSTS) {
                self.behind(name, path, &target)
            } else {
                None
            };
            Node::Link(Link {
                target,
                uid: meta.uid,
                gid: meta.gid,
                contents,
            })
        } else {
            return Err(HostsError::Kind {
                path: path.to_owned(),
            });
        };
        entry.insert(inner.to_owned(), node);
        Ok(())
    }

    fn count(&mut self, path: &Path, bytes: usize) -> Result<(), HostsError> {
        let bytes = bytes as u64;
        self.total += bytes;
        if bytes > MAX_FILE {
            return Err(too_large(path, "4 MiB a file"));
        }
        if self.total > MAX_TOTAL {
            return Err(too_large(self.root, "64 MiB in all"));
        }
        Ok(())
    }

    /// What the link `<name>/hosts.toml` leads to. A relative one that leaves the configuration folder means the same
    /// file from `_backup` as it did from where it belongs, so it is followed from there.
    fn behind(&self, name: &OsStr, path: &Path, target: &Path) -> Option<(Vec<u8>, u32)> {
        let upwards = target
            .components()
            .take_while(|c| *c == Component::ParentDir)
            .count();
        let from = if upwards > 1 {
            self.root.join(name)
        } else {
            path.parent()?.to_owned()
        };
        let file = from.join(target);
        let meta = fs::metadata(&file).ok()?;
        let small = meta.is_file() && meta.len() <= MAX_FILE;
        small
            .then(|| read(&file).ok())
            .flatten()
            .map(|bytes| (bytes, meta.permissions().mode() & 0o7777))
    }
}

/// At most one byte more than a file may have.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// An error for this action on this path, from what the system said.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> HostsError {
    let path = path.to_owned();
    move |source| HostsError::Io {
        action,
        path: path.clone(),
        source,
    }
}

fn too_large(path: &Path, limit: &'static str) -> HostsError {
    HostsError::TooLarge {
        path: path.to_owned(),
        limit,
    }
}
