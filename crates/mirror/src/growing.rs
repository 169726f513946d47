//! A file that is being written while it is sent.

use std::fs::File;
use std::sync::Arc;

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngestStage {
    Filling,
    /// All bytes are there and verified.
    Complete,
    /// No more bytes will come.
    Failed,
}

/// The progress of the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The bytes that can be read.
    pub written: u64,
    /// The bytes that there will be, once known.
    pub total: Option<u64>,
    pub stage: IngestStage,
}

/// The reading end of a growing file. The descriptor stays valid when the file is renamed at commit or unlinked.
#[derive(Clone, Debug)]
pub struct Growing {
    file: Arc<File>,
    progress: watch::Receiver<Progress>,
    /// The total, if the writer does not know it.
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

    /// Sets the total known from another source, for a writer that does not know it.
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

    /// Waits until `done` holds for the progress. A writer that disappears without a result has failed.
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
