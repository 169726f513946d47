//! A file that is being written while it is sent.

use std::fs::File;
use std::sync::Arc;

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngestStage {
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
    pub stage: IngestStage,
}

/// A reader's end of a growing file. The descriptor stays good when the file is renamed at commit or unlinked.
#[derive(Clone, Debug)]
pub struct Growing {
    file: Arc<File>,
    progress: watch::Receiver<Progress>,
    /// Where the writer does not know.
    total: Option<u64>,
}

impl Growing {
    pub fn new(file: Arc<File>, progress: watch::Receiver<Progress>) -> Self {
        Self {
            file,
            progress,
            total: None,
        }
    }

    /// Bytes that there will be by another account, for a writer that does not know.
    pub fn or_total(self, total: Option<u64>) -> Self {
        let total = self.total.or(total);
        Self { total, ..self }
    }

    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub fn progress(&self) -> Progress {
        self.progress.borrow().or_total(self.total)
    }

    /// Waits until `done` holds of the progress. A writer that went away without a word has failed.
    pub async fn until(&mut self, mut done: impl FnMut(&Progress) -> bool) -> Progress {
        let total = self.total;
        let is_done = |progress: &Progress| done(&progress.or_total(total));
        if let Ok(progress) = self.progress.wait_for(is_done).await {
            return progress.or_total(total);
        }
        let last = self.progress();
        let stage = match last.stage {
            IngestStage::Complete => IngestStage::Complete,
            IngestStage::Filling | IngestStage::Failed => IngestStage::Failed,
        };
        Progress { stage, ..last }
    }
}

impl Progress {
    fn or_total(self, total: Option<u64>) -> Self {
        let total = self.total.or(total);
        Self { total, ..self }
    }
}
