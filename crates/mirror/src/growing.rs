//! A file that is being written while it is sent.

use std::fs::File;
use std::sync::Arc;

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Filling,
    /// All bytes are there and verified.
    Complete,
    /// No more will come.
    Failed,
}

/// How far the writer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that can be read.
    pub written: u64,
    /// Bytes there will be, once that is known.
    pub total: Option<u64>,
    pub stage: Stage,
}

/// A reader's end of a growing file. The descriptor stays good when the file is renamed at commit or unlinked.
#[derive(Clone, Debug)]
pub struct Growing {
    file: Arc<File>,
    progress: watch::Receiver<Progress>,
}

impl Growing {
    pub fn new(file: Arc<File>, progress: watch::Receiver<Progress>) -> Self {
        Self { file, progress }
    }

    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Waits until `done` holds of the progress. A writer that went away without a word has failed.
    pub async fn until(&mut self, done: impl FnMut(&Progress) -> bool) -> Progress {
        if let Ok(progress) = self.progress.wait_for(done).await {
            return *progress;
        }
        let last = *self.progress.borrow();
        let stage = match last.stage {
            Stage::Complete => Stage::Complete,
            Stage::Filling | Stage::Failed => Stage::Failed,
        };
        Progress { stage, ..last }
    }
}
