//! Provides the answers of peers: separates what is done with an answer from the choice of the peer.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use oci::Key;

use crate::fetch::{Answer, FetchError, Fetcher, Question};
use crate::peers::Fault;
use crate::{Candidate, PeerId, SourceStatus};

/// See [`SourceProvider::crawl_limit`]: for peers that have the complete object.
pub const COMPLETE_CRAWL: Duration = Duration::from_secs(5);

/// Provides an answer to a question, and another one if that fails.
#[async_trait]
pub trait SourceProvider: Send + Sync {
    /// # Errors
    /// Nobody gives it, or the range lies outside the object.
    async fn find(&self, question: &Question) -> Result<Answer, FetchError>;

    /// Reports that a peer's answer was of no use, or broke.
    fn report_fault(&self, peer: &PeerId, key: &Key, fault: Fault);

    /// Asks a peer how much it has of what it was asked for. Has no limit of its own.
    async fn status(&self, question: &Question, peer: &Candidate) -> SourceStatus;

    /// A peer that was waited for this long in all and sent next to nothing has failed.
    fn crawl_limit(&self) -> Duration {
        COMPLETE_CRAWL
    }

    /// Records bytes of the object at `offset`.
    fn received(&self, _offset: u64, _bytes: &Bytes) {}

    /// The bandwidth of this node's link in bytes per second, if it receives far less than that.
    fn starved_of(&self) -> Option<u64> {
        None
    }

    /// Whether to leave a peer that sends far less than it has.
    fn leave_slow(&self, _peer: &PeerId) -> bool {
        false
    }
}

/// Any peer that the router knows and that is quick.
#[async_trait]
impl SourceProvider for Fetcher {
    async fn find(&self, question: &Question) -> Result<Answer, FetchError> {
        self.fetch(question).await
    }

    fn report_fault(&self, peer: &PeerId, key: &Key, fault: Fault) {
        self.report_fault(peer, key, fault);
    }

    async fn status(&self, question: &Question, peer: &Candidate) -> SourceStatus {
        Fetcher::status(self, question, peer).await
    }
}
