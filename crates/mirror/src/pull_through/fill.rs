//! Filling the store with one object.

use std::sync::Arc;

use oci::{Digest, Origin};

use super::Tools;
use super::sources::{Opened, SourceError, Sources, Transfer};
use crate::{Provenance, Sink};

/// An object on its way into the store.
pub struct Fill {
    pub digest: Digest,
    pub origin: Option<Origin>,
    pub sink: Box<dyn Sink>,
    pub transfer: Transfer,
    tools: Arc<Tools>,
}

impl Fill {
    pub(super) fn new(
        tools: &Arc<Tools>,
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
            tools: tools.clone(),
            transfer: Transfer::new(sources, opened, size),
        }
    }

    /// Ends when the object is here. Where it cannot be, whoever reads it goes on without the store.
    pub async fn run(self) {
        let (digest, tools) = (self.digest.clone(), self.tools.clone());
        match self.fill().await {
            Ok(()) => {}
            Err(SourceError::Intake(error)) => tools.not_kept(&digest, &error),
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
        Ok(self.sink.commit(provenance).await?)
    }
}
