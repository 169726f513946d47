//! Whence the next answer comes: the seam between what is done with a peer's answer and the choice of the peer.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use oci::Key;

use crate::PeerId;
use crate::fetch::{Answer, FetchError, Fetcher, Question};
use crate::peers::Fault;

/// Of peers that have the object.
pub const COMPLETE: Patience = Patience {
    stall: Duration::from_secs(2),
    stall_least: Duration::from_secs(2),
    crawl: Duration::from_secs(5),
};

/// How long the bytes of an answer are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// A peer whose bytes stop for this long has broken…
    pub stall: Duration,
    /// …or for four times as long as they stopped at most until now, but not less than this.
    pub stall_least: Duration,
    /// A peer that was waited for this long in all and sent next to nothing has broken too.
    pub crawl: Duration,
}

impl Patience {
    /// How long the next bytes may take, when those before took `longest` at most.
    pub fn next(&self, longest: Option<Duration>) -> Duration {
        longest.map_or(self.stall, |longest| {
            (longest * 4).clamp(self.stall_least, self.stall)
        })
    }
}

/// Finds an answer to a question, and another one when that breaks.
#[async_trait]
pub trait Finder: Send + Sync {
    /// # Errors
    /// Nobody gives it, or the range lies outside the object.
    async fn find(&self, question: &Question) -> Result<Answer, FetchError>;

    /// A peer's answer was of no use, or broke.
    fn disappointed(&self, peer: &PeerId, key: &Key, fault: Fault);

    fn patience(&self) -> Patience;

    /// Bytes of the object have come that lie at `offset` and were waited for so long. Says whether their source is to be
    /// left for another one.
    fn received(&self, _offset: u64, _bytes: &Bytes, _waited: Duration) -> bool {
        false
    }
}

/// Any peer that the router knows and that is quick.
#[async_trait]
impl Finder for Fetcher {
    async fn find(&self, question: &Question) -> Result<Answer, FetchError> {
        self.fetch(question).await
    }

    fn disappointed(&self, peer: &PeerId, key: &Key, fault: Fault) {
        self.disappointed(peer, key, fault);
    }

    fn patience(&self) -> Patience {
        COMPLETE
    }
}
