//! Provides the answers of peers: separates what is done with an answer from the choice of the peer.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use oci::Key;

use crate::PeerId;
use crate::fetch::{Answer, FetchError, Fetcher, Question};
use crate::peers::Fault;

/// The limits for peers that have the object.
pub const COMPLETE: StallLimits = StallLimits {
    stall: Duration::from_secs(2),
    stall_least: Duration::from_secs(2),
    crawl: Duration::from_secs(5),
};

/// How long bytes of an answer are waited for.
#[derive(Clone, Copy, Debug)]
pub struct StallLimits {
    /// A peer has failed after this time without a byte.
    pub stall: Duration,
    /// The time is four times the longest gap so far, but at least this.
    pub stall_least: Duration,
    /// A peer that was waited for this long in total and sent next to nothing has failed as well.
    pub crawl: Duration,
}

impl StallLimits {
    /// The limit for the next bytes, if `longest` was the longest gap so far.
    pub fn next(&self, longest: Option<Duration>) -> Duration {
        longest.map_or(self.stall, |longest| {
            (longest * 4).clamp(self.stall_least, self.stall)
        })
    }
}

/// Provides an answer to a question, and another one if that fails.
#[async_trait]
pub trait SourceProvider: Send + Sync {
    /// # Errors
    /// Nobody gives it, or the range lies outside the object.
    async fn find(&self, question: &Question) -> Result<Answer, FetchError>;

    /// Reports that a peer's answer was of no use, or broke.
    fn report_fault(&self, peer: &PeerId, key: &Key, fault: Fault);

    fn stall_limits(&self) -> StallLimits;

    /// Records bytes of the object at `offset` that took `waited` to arrive. Returns whether to use another source.
    fn received(&self, _offset: u64, _bytes: &Bytes, _waited: Duration) -> bool {
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

    fn stall_limits(&self) -> StallLimits {
        COMPLETE
    }
}
