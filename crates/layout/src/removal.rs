//! Removes objects: first they are hidden, then their files are moved away, then the files are removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci::Digest;

use crate::files;
use crate::folder::REMOVED;
use crate::store::{Shared, State};

impl Shared {
    /// Makes room for `bytes` that are reserved, by removing the least recently used objects.
    pub(crate) fn claim(&self, bytes: u64) {
        let leaving = {
            let mut state = self.state.lock();
            let victims = state.space.claim(bytes);
            self.metrics.evictions.inc_by(victims.len() as u64);
            self.forget(&mut state, &victims);
            victims
                .iter()
                .filter_map(|digest| self.take_out(&mut state, &self.folder.blob(digest)))
                .collect::<Vec<_>>()
        };
        for path in leaving {
            Self::remove(&path);
        }
    }

    /// Moves a hidden file away, and returns the path that is left to remove: removing a large file takes time, and
    /// once it is moved away the same object may come in again.
    pub(crate) fn take_out(&self, state: &mut State, path: &Path) -> Option<PathBuf> {
        state.removals += 1;
        let leaving = self.folder.ingest(&format!("{REMOVED}{}", state.removals));
        // A folder in the place of an object is not moved; one that is not empty stays.
        let is_folder = path.symlink_metadata().is_ok_and(|m| m.is_dir());
        if !is_folder && fs::rename(path, &leaving).is_ok() {
            return Some(leaving);
        }
        Self::remove(path);
        None
    }

    /// Removes a file that was moved away, without a lock.
    pub(crate) fn remove(path: &Path) {
        if let Err(error) = files::remove(path) {
            warn_of_removal(path, &error);
        }
    }

    /// Hides objects and the tags that point to them.
    pub(crate) fn forget(&self, state: &mut State, digests: &[Digest]) {
        for digest in digests {
            state.space.remove(digest);
            state.unsaved_uses.remove(digest);
            state.verified.remove(digest);
            self.catalog.remove(digest);
            if state.tags.forget(&self.catalog, digest) {
                self.wake.index();
            }
        }
        self.metrics.show(&state.space);
    }
}

fn warn_of_removal(path: &Path, error: &io::Error) {
    let path = path.display();
    tracing::warn!(%path, %error, "cannot remove a file of the store");
}
