//! Reading a configuration folder.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use crate::HostsError;
use crate::error::failed;
use crate::recognise::{Author, Spegel, author};
use crate::tree::{BACKUP, Entries, Entry, HOSTS, Link, Meta, Node, Refused, STAGING, Snapshot};

// A registry configuration is a handful of small files. Anything far larger was not meant to be one (for example a
// volume mounted in the wrong place), and should not be copied.
const MAX_FILE: u64 = 4 << 20;
const MAX_TOTAL: u64 = 64 << 20;
const MAX_NODES: usize = 10_000;
const MAX_DEPTH: usize = 16;

/// Reads the whole configuration folder.
///
/// # Errors
/// The folder or `_backup` cannot be listed, or contains far more than a configuration. Faults of single entries are in
/// [`Snapshot::refused`].
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
            // It may be behind a link; Spegel allows that too.
            if !fs::metadata(&path).is_ok_and(|meta| meta.is_dir()) {
                return Err(HostsError::NotAFolder { path });
            }
            let mut kept = Entries::new();
            for (name, path) in scanner.children(&path)? {
                if name == STAGING {
                    snapshot.staging_in_backup = true;
                    continue;
                }
                if let Some(entry) = scanner.entry(&name, &path, &mut snapshot.refused)? {
                    kept.insert(name, entry);
                }
            }
            snapshot.backup = Some(kept);
        } else if let Some(entry) = scanner.entry(&name, &path, &mut snapshot.refused)? {
            snapshot.live.insert(name, entry);
        }
    }
    for name in snapshot.refused.keys() {
        snapshot.live.remove(name);
        snapshot.backup.as_mut().and_then(|kept| kept.remove(name));
    }
    Ok(snapshot)
}

impl Refused {
    fn new(root: &Path, name: &OsStr, reason: &HostsError) -> Self {
        let path = root.join(name);
        let hosts = path.join(HOSTS);
        // A mirror never writes a link, and a pipe would block the reader.
        let is_file = fs::symlink_metadata(&hosts).is_ok_and(|meta| meta.is_file());
        let file = is_file.then(|| read(&hosts).ok()).flatten();
        let is_mirrors = file.is_some_and(|file| author(&file, Spegel::Exactly) != Author::User);
        Self {
            reason: reason.to_string(),
            is_users: fs::symlink_metadata(&path).is_ok() && !is_mirrors,
            is_folder: path.is_dir(),
        }
    }
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
                return Err(too_large(self.root, "10,000 files"));
            }
            children.push((child.file_name(), child.path()));
        }
        Ok(children)
    }

    /// Reads an entry. `None`: it has a fault, which is recorded.
    fn entry(
        &mut self,
        name: &OsStr,
        path: &Path,
        refused: &mut BTreeMap<OsString, Refused>,
    ) -> Result<Option<Entry>, HostsError> {
        let mut entry = Entry::new();
        match self.walk(name, path, Path::new(""), 0, &mut entry) {
            Ok(()) => Ok(Some(entry)),
            Err(HostsError::TooLarge { path, limit }) if path == self.root => {
                Err(HostsError::TooLarge { path, limit })
            }
            Err(error) => {
                let reason = Refused::new(self.root, name, &error);
                refused.insert(name.to_owned(), reason);
                Ok(None)
            }
        }
    }

    /// `name`: that of the entry; `path`: the present path of the node; `inner`: its path in the entry.
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
                // containerd fails every pull from such a registry, so it cannot be intended.
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

    /// The file that the link `<name>/hosts.toml` leads to. A relative link that leaves the configuration folder means
    /// the same file from `_backup` as from its original place, so it is followed from there.
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

/// Reads at most one byte more than a file may have.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn too_large(path: &Path, limit: &'static str) -> HostsError {
    HostsError::TooLarge {
        path: path.to_owned(),
        limit,
    }
}
