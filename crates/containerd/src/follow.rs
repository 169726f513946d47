//! Ingests that are read while containerd writes them.
//!
//! Three streams of 200 Mbit/s cost 1.2 to 1.8 % of a core with polling every 5 ms, 0.8 to 0.9 % with inotify
//! (including wake-ups of followers; debug build, containerd 1.7 and 2.1). A step of 1 MiB, 42 ms at that rate, is
//! noticed 1.5 ms later. Polling needs no inotify, whose limits may be reached on a node.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mirror::{Growing, IngestStage, Progress};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;

use crate::ingest::Opened;

/// The interval between polls of the followed ingests.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The most ingests followed at once.
const MAX_FOLLOWED: usize = 1024;

/// The ingests that are being followed. One without followers is dropped at the next poll.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    state: Mutex<State>,
    begun: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the ingests are polled. Otherwise followers would wait in vain for progress.
    is_watched: bool,
    /// The ingests, by device and inode: one digest may have an ingest in each namespace. An inode is not reused while
    /// this process holds the file open.
    ingests: HashMap<(u64, u64), Ingest>,
}

#[derive(Debug)]
struct Ingest {
    file: Arc<File>,
    /// The path to which containerd will commit it.
    blob: PathBuf,
    total: Option<u64>,
    progress: watch::Sender<Progress>,
}

impl Followed {
    /// Follows an ingest, together with its other followers. `None`: ingests are not polled, or too many are followed.
    pub fn follow(&self, opened: Opened, blob: PathBuf) -> Option<Growing> {
        let key = (opened.status.dev(), opened.status.ino());
        let mut state = self.state.lock();
        if !state.is_watched {
            return None;
        }
        if let Some(ingest) = state.ingests.get_mut(&key) {
            ingest.total = ingest.total.or(opened.total);
            ingest.look();
            let progress = ingest.progress.subscribe();
            return Some(Growing::new(ingest.file.clone(), progress));
        }
        if state.ingests.len() >= MAX_FOLLOWED {
            return None;
        }
        let (sender, progress) = watch::channel(Progress {
            written: 0,
            total: opened.total,
            stage: IngestStage::Filling,
        });
        let file = Arc::new(opened.file);
        let ingest = Ingest {
            file: file.clone(),
            blob,
            total: opened.total,
            progress: sender,
        };
        if ingest.look() == IngestStage::Filling {
            state.ingests.insert(key, ingest);
            self.begun.notify_one();
        }
        Some(Growing::new(file, progress))
    }

    /// Reports progress for as long as it is polled; when it is dropped, all followed ingests have failed. The disk is
    /// polled on a blocking thread.
    ///
    /// # Panics
    /// If a poll panics: the caller must notice that ingests are no longer polled.
    pub async fn watch(self: &Arc<Self>) {
        let _watching = Watching::begin(self);
        loop {
            self.begun.notified().await;
            let followed = self.clone();
            let looks = spawn_blocking(move || {
                while followed.look() {
                    std::thread::sleep(LOOK_EVERY);
                }
            });
            if let Err(error) = looks.await
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }

    /// Polls the ingests. Returns whether any are left.
    fn look(&self) -> bool {
        let ingests = &mut self.state.lock().ingests;
        ingests.retain(|_, i| i.progress.receiver_count() > 0 && i.look() == IngestStage::Filling);
        !ingests.is_empty()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.state.lock().ingests.len()
    }
}

/// Ingests are polled for as long as it lives.
struct Watching<'a>(&'a Followed);

impl<'a> Watching<'a> {
    fn begin(followed: &'a Followed) -> Self {
        followed.state.lock().is_watched = true;
        Self(followed)
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        *self.0.state.lock() = State::default();
    }
}

impl Ingest {
    fn look(&self) -> IngestStage {
        let was = *self.progress.borrow();
        let is = look(&self.file, &self.blob, self.total).unwrap_or(Progress {
            stage: IngestStage::Failed,
            ..was
        });
        self.progress
            .send_if_modified(|p| std::mem::replace(p, is) != is);
        is.stage
    }
}

/// The progress of the writer. containerd commits by a rename, or, if the blob exists by then, by removing what it
/// wrote; it also gives up by removing it.
fn look(file: &File, blob: &Path, total: Option<u64>) -> io::Result<Progress> {
    // In this order: a blob because of which an ingest is removed was there before the removal.
    let status = file.metadata()?;
    let blob = blob.symlink_metadata().ok();
    let written = status.len();
    let complete = |written| Progress {
        written,
        total: Some(written),
        stage: IngestStage::Complete,
    };
    Ok(match (blob, status.nlink()) {
        // The blob's size: bytes may have come between the two checks.
        (Some(blob), _) if (blob.dev(), blob.ino()) == (status.dev(), status.ino()) => {
            complete(blob.len())
        }
        (Some(blob), 0) if blob.len() == written => complete(written),
        (_, links) => Progress {
            written,
            total,
            stage: if links == 0 {
                IngestStage::Failed
            } else {
                IngestStage::Filling
            },
        },
    })
}

#[cfg(test)]
mod tests;
