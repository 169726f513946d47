//! Fills the store with one object.

use std::sync::Arc;

use oci::{Digest, Origin};

use super::sources::{Opened, SourceError, Sources, Transfer};
use super::state::PullThroughStep;
use crate::{IntakeError, Provenance, Sink};

/// An object that is being taken into the store.
pub struct Fill {
    digest: Digest,
    origin: Option<Origin>,
    sink: Box<dyn Sink>,
    transfer: Transfer,
    step: Arc<PullThroughStep>,
}

impl Fill {
    pub(super) fn new(
        step: &Arc<PullThroughStep>,
        digest: &Digest,
        origin: Option<&Origin>,
        sink: Box<dyn Sink>,
        sources: Arc<Sources>,
        opened: Opened,
    ) -> Self {
        let size = opened.size;
        Self {
            digest: digest.clone(),
            origin: origin.cloned(),
            sink,
            step: step.clone(),
            transfer: Transfer::new(sources, opened, size),
        }
    }

    /// Ends when the object is here. If the store cannot take it, its readers continue without the store.
    pub async fn run(self) {
        let (digest, step) = (self.digest.clone(), self.step.clone());
        match self.fill().await {
            Ok(()) => {}
            Err(SourceError::Intake(error)) => step.not_kept(&digest, &error),
            Err(error) => tracing::warn!(%digest, %error, "could not take in a blob"),
        }
    }

    async fn fill(mut self) -> Result<(), SourceError> {
        while let Some(bytes) = self.transfer.next().await? {
            self.sink.write(bytes).await?;
        }
        let provenance = Provenance {
            origin: self.origin,
            visibility: self.transfer.visibility(),
        };
        let committed = self.sink.commit(provenance).await;
        if let Err(IntakeError::Mismatch { .. }) = &committed {
            self.transfer.not_committed();
        }
        Ok(committed?)
    }
}
