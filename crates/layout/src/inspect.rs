//! Checks the content of a folder before anything in it is changed: whose it is, and whether the store can use it.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use oci::Digest;
use serde::Deserialize;

use crate::error::OpenError;
use crate::files::read_bounded;
use crate::folder::{BLOBS, INDEX, INGEST, JOURNAL, LAYOUT, LAYOUT_VERSION, LOCK, REMOVED};

/// The most bytes of `oci-layout`, which is one short line.
const MAX_LAYOUT_FILE: u64 = 4096;

/// The owner of the folder when it was opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A layout with a Peili journal.
    Ours,
    /// A layout of another tool, or of an unfinished first start of Peili.
    Others,
    /// Not a layout yet.
    Empty,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

/// Determines the owner of a folder. Changes nothing in it; it may be missing.
///
/// # Errors
/// A store may not use it.
pub(crate) fn inspect(root: &Path) -> Result<Origin, OpenError> {
    let origin = origin(root)?;
    let [blobs, ingest] = [BLOBS, INGEST].map(|name| root.join(name));
    let algorithms = Digest::ALGORITHMS.map(|algorithm| blobs.join(algorithm));
    for path in [&blobs, &ingest].into_iter().chain(&algorithms) {
        refuse_other_than_folder(path)?;
    }
    if origin == Origin::Empty {
        refuse_blobs(&blobs)?;
    }
    leftovers(&ingest, origin)?;
    Ok(origin)
}

fn origin(root: &Path) -> Result<Origin, OpenError> {
    let is_there = |name| {
        let path = root.join(name);
        match path.symlink_metadata() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(OpenError::Io { path, source }),
        }
    };
    let is_ours = is_there(JOURNAL)?;
    if is_there(LAYOUT)? {
        let path = root.join(LAYOUT);
        let version = version(&path).map_err(OpenError::io(&path))?;
        // A Peili layout file that lost its bytes is written again.
        let is_damaged = is_ours && version.is_empty();
        if version != LAYOUT_VERSION && !is_damaged {
            return Err(OpenError::LayoutVersion {
                path,
                version,
                known: LAYOUT_VERSION,
            });
        }
        return Ok(if is_ours {
            Origin::Ours
        } else {
            Origin::Others
        });
    }
    if is_ours {
        return Ok(Origin::Ours);
    }
    // What a first start of Peili can have left; a separate file system may be mounted there.
    let expected = [LOCK, BLOBS, INGEST, "lost+found"];
    for (name, _) in entries(root)? {
        if !expected.contains(&name.as_str()) {
            return Err(OpenError::NotALayout(root.to_owned()));
        }
    }
    Ok(Origin::Empty)
}

/// The version of an image layout that a file names; empty if it names none.
pub(crate) fn version(path: &Path) -> io::Result<String> {
    let text = read_bounded(path, MAX_LAYOUT_FILE)?;
    let file = serde_json::from_slice::<LayoutFile>(&text);
    Ok(file.map_or_else(|_| String::new(), |file| file.image_layout_version))
}

/// Refuses links: one could lead into a foreign folder, whose files would then count as the store's.
fn refuse_other_than_folder(path: &Path) -> Result<(), OpenError> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(OpenError::NotAFolder(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(OpenError::io(path)(source)),
    }
}

/// Without a layout, `blobs/` may only contain the empty folders of a first start of Peili.
fn refuse_blobs(blobs: &Path) -> Result<(), OpenError> {
    for (name, _) in entries(blobs)? {
        let path = blobs.join(&name);
        if !Digest::ALGORITHMS.contains(&name.as_str()) {
            return Err(OpenError::NotOurs(path));
        }
        if let Some((name, _)) = entries(&path)?.first() {
            return Err(OpenError::NotOurs(path.join(name)));
        }
    }
    Ok(())
}

/// What an earlier Peili process left unfinished in `ingest/`.
///
/// # Errors
/// It contains foreign files.
pub(crate) fn leftovers(ingest: &Path, origin: Origin) -> Result<Vec<PathBuf>, OpenError> {
    let mut found = Vec::new();
    for (name, metadata) in entries(ingest)? {
        let path = ingest.join(&name);
        if !metadata.is_file() {
            return Err(OpenError::NotAFile(path));
        }
        let is_ours = match origin {
            Origin::Ours => {
                [LAYOUT, INDEX, JOURNAL].contains(&name.as_str())
                    || name.starts_with(REMOVED)
                    || Digest::ALGORITHMS.iter().any(|a| name.starts_with(a))
            }
            // The files that an unfinished first start can have left.
            Origin::Others | Origin::Empty => [LAYOUT, JOURNAL].contains(&name.as_str()),
        };
        if !is_ours {
            return Err(OpenError::NotOurs(path));
        }
        found.push(path);
    }
    Ok(found)
}

/// The entries of a folder, without following links. Empty if it is missing.
pub(crate) fn entries(folder: &Path) -> Result<Vec<(String, Metadata)>, OpenError> {
    let read = match fs::read_dir(folder) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(OpenError::io(folder)(source)),
    };
    let mut found = Vec::new();
    for entry in read {
        let entry = entry.map_err(OpenError::io(folder))?;
        match entry.metadata() {
            // A name that is not UTF-8 is foreign in any case.
            Ok(metadata) => {
                found.push((entry.file_name().to_string_lossy().into_owned(), metadata));
            }
            // Removed since the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(OpenError::io(&entry.path())(source)),
        }
    }
    Ok(found)
}
