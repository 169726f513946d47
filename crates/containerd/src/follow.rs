//! Ingests that are read while containerd writes them.
//!
//! Three streams of 200 Mbit/s cost 1.2 to 1.8 % of a core by looking every 5 ms, 0.8 to 0.9 % by inotify (followers'
//! wakings included, debug build, containerd 1.7 and 2.1), and a step of 1 MiB, 42 ms at that rate, is known 1.5 ms
//! later; looking needs no inotify, whose limits a node may have used up.

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

/// Between looks at what is followed.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Ingests followed at once.
const MAX_FOLLOWED: usize = 1024;

/// The ingests that somebody follows. One that nobody follows any more is let go at the next look.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    state: Mutex<State>,
    begun: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Whether somebody looks. Progress that nobody reports would be waited for in vain.
    is_watched: bool,
    /// By device and inode: one digest may have an ingest in each namespace. No number comes again while we hold the
    /// file open.
    ingests: HashMap<(u64, u64), Ingest>,
}

#[derive(Debug)]
struct Ingest {
    file: Arc<File>,
    /// Where containerd will commit it to.
    blob: PathBuf,
    total: Option<u64>,
    progress: watch::Sender<Progress>,
}

impl Followed {
    /// Follows an ingest, with others who do already. `None` if nobody is there to look, or too many are followed.
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

    /// Reports progress, for as long as it is polled; when it is dropped, everything that is followed has failed. The
    /// disk is looked at on a thread that may wait for it.
    ///
    /// # Panics
    /// If a look does: whoever runs this must learn of it, because nobody looks any more.
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

    /// Whether anything is left to look at.
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

/// While it lives, somebody looks.
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

/// How far the writer is. containerd commits by a rename, or, if the blob is there by then, by removing what it wrote;
/// it gives up by removing it too.
fn look(file: &File, blob: &Path, total: Option<u64>) -> io::Result<Progress> {
    // In this order: a blob that lets an ingest be removed was there before it.
    let status = file.metadata()?;
    let blob = blob.symlink_metadata().ok();
    let written = status.len();
    let complete = |written| Progress {
        written,
        total: Some(written),
        stage: IngestStage::Complete,
    };
    Ok(match (blob, status.nlink()) {
        // Its size, for bytes may have come between the two looks.
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
