//! Provides the answers of peers: separates the use of an answer from the choice of the peer.

use async_trait::async_trait;
use bytes::Bytes;
use oci::Key;
use tokio::time::timeout;

use crate::fetch::{Answer, FetchError, Fetcher, Question};
use crate::peers::Fault;
use crate::waiting_budget::GRACE;
use crate::{Candidate, PeerId, SourceStatus, Starved};

/// Provides an answer to a question, and another one if that fails.
#[async_trait]
pub trait SourceProvider: Send + Sync {
    /// # Errors
    /// No peer has it, or the range is outside the object.
    async fn find(&self, question: &Question) -> Result<Answer, FetchError>;

    /// Reports that a peer's answer was useless, or broke.
    fn report_fault(&self, peer: &PeerId, key: &Key, fault: Fault);

    /// Asks a peer how much it has of the requested object. Has no limit of its own.
    async fn status(&self, question: &Question, peer: &Candidate) -> SourceStatus;

    /// Whether the last answer is from a peer that is still receiving the object.
    fn grows(&self) -> bool {
        false
    }

    /// Records bytes of the object at `offset`.
    fn received(&self, _offset: u64, _bytes: &Bytes) {}

    /// The state of this node, if it receives far less than its link carries.
    fn starved(&self) -> Option<Starved> {
        None
    }

    /// Whether to leave a peer that sends far less than it has.
    fn leave_slow(&self, _peer: &PeerId) -> bool {
        false
    }
}

/// Provides any fast peer that the router knows.
#[async_trait]
impl SourceProvider for Fetcher {
    async fn find(&self, question: &Question) -> Result<Answer, FetchError> {
        let Some(attempts) = &question.target.pull.attempts else {
            return self.fetch(question).await;
        };
        let wait = attempts.budget().wait();
        let answer = timeout(wait.left, self.fetch(question)).await;
        let answer = answer.unwrap_or(Err(FetchError::TooSlow));
        if matches!(answer, Ok(_) | Err(FetchError::Unsatisfiable { .. })) {
            wait.found(GRACE);
        }
        answer
    }

    fn report_fault(&self, peer: &PeerId, key: &Key, fault: Fault) {
        self.report_fault(peer, key, fault);
    }

    async fn status(&self, question: &Question, peer: &Candidate) -> SourceStatus {
        Fetcher::status(self, question, peer).await
    }
}
