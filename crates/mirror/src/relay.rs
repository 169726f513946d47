//! Relays a peer's bytes as they arrive. When a peer fails, another continues from the same offset, unnoticed by the
//! client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use oci::{ByteRange, Ranges};
use tokio::time::{Instant, timeout};

use crate::attempts::Attempts;
use crate::body::send_memory::{MemoryPermit, Share};
use crate::content_range::ContentRange;
use crate::fetch::{Answer, FetchError, Question};
use crate::metrics::Metrics;
use crate::object_stream::{BodyError, ObjectStream, Pieces};
use crate::peers::Fault;
use crate::rate_check::RateCheck;
use crate::rate_limit::RateLimit;
use crate::registry_speeds::Stream;
use crate::source_provider::SourceProvider;
use crate::source_reader::{Next, SourceReader};

/// If a client has accepted nothing for this long, the peer may have ended the connection for that reason, which is not
/// a fault of the peer.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("no further peer can go on at byte {offset}")]
    Interrupted { offset: u64, source: FetchError },
    #[error("too many peers broke, the last at byte {offset}")]
    Broken { offset: u64 },
}

/// A peer's answer that has begun, and the means to continue elsewhere.
pub struct Relay {
    provider: Arc<dyn SourceProvider>,
    metrics: Arc<Metrics>,
    question: Question,
    /// The size of the whole object.
    size: u64,
    /// The range in the open answer.
    open: Option<(ByteRange, SourceReader)>,
    /// The first bytes of a range and the rest of the range, if they are here already.
    first: Option<(ByteRange, Bytes, ByteRange)>,
    attempts: Arc<Attempts>,
    /// The check of the open peer. A client that sees some progress never goes elsewhere by itself.
    rate_check: RateCheck,
    _stream: Stream,
    /// When the client was last sent bytes.
    handed_over: Instant,
    permit: Arc<MemoryPermit>,
    download: Arc<RateLimit>,
    /// The received bytes that do not count against the rate limit yet.
    unpaid: u64,
}

impl Relay {
    /// `part`: the range in the answer. `permit`: the memory for it. `download`: the limit of what the node may
    /// receive.
    pub fn new(
        provider: Arc<dyn SourceProvider>,
        metrics: Arc<Metrics>,
        mut question: Question,
        part: ContentRange,
        answer: Answer,
        (permit, download): (MemoryPermit, Arc<RateLimit>),
    ) -> Self {
        question.size = Some(part.size);
        let attempts = question.target.pull.attempts.clone().unwrap_or_default();
        let reader = SourceReader::new(provider.clone(), question.clone(), answer);
        Self {
            provider,
            metrics,
            question,
            size: part.size,
            open: Some((part.range, reader)),
            first: None,
            _stream: attempts.begin_stream(),
            attempts,
            rate_check: RateCheck::default(),
            handed_over: Instant::now(),
            permit: Arc::new(permit),
            download,
            unpaid: 0,
        }
    }

    /// Waits for the first bytes. A client that gets a head must get a byte: it counts bodies that end without one.
    ///
    /// # Errors
    /// No peer sends any.
    pub async fn wait_for_first_bytes(&mut self) -> Result<(), RelayError> {
        if let Some((range, _)) = &self.open {
            let range = range.clone();
            let next = self.next(range.clone()).await?;
            self.first = next.map(|(bytes, rest)| (range, bytes, rest));
        }
        Ok(())
    }

    /// The next bytes of the range, and the rest of the range.
    async fn next(&mut self, range: ByteRange) -> Result<Option<(Bytes, ByteRange)>, RelayError> {
        if range.is_empty() {
            return Ok(None);
        }
        if let Some((_, bytes, rest)) = self.first.take_if(|(first, ..)| *first == range) {
            return Ok(Some((bytes, rest)));
        }
        // No bytes are expected from the peer meanwhile.
        self.download.pay(std::mem::take(&mut self.unpaid)).await;
        let offset = range.start;
        let mut has_paused = self.handed_over.elapsed() >= PAUSE;
        loop {
            let mut reader = match self.open.take() {
                Some((at, reader)) if at == range => reader,
                _ => self.open_at(&range).await?,
            };
            let began = Instant::now();
            // A source that exceeds its limit counts as failed.
            let grows = self.provider.grows();
            let next = timeout(
                self.rate_check.max_wait(&self.attempts, grows),
                reader.next(offset),
            )
            .await;
            if let Ok(Next::Bytes(mut bytes, waited)) = next {
                bytes.truncate(usize::try_from(range.end - offset).unwrap_or(usize::MAX));
                return self.received(bytes, &range, reader, waited).map(Some);
            }
            self.rate_check
                .add(&self.attempts, began.elapsed(), 0, grows);
            if std::mem::take(&mut has_paused) {
                tracing::debug!(key = %self.question.key, offset, "a peer broke while the client took nothing");
                continue;
            }
            // An early end, a broken connection and a useless source are all the same to the client.
            self.broke(&reader.answer, offset)?;
        }
    }

    /// Records bytes of the range. The rest is expected from the same answer, unless its peer is too slow or another
    /// one would do better.
    fn received(
        &mut self,
        bytes: Bytes,
        range: &ByteRange,
        reader: SourceReader,
        waited: Duration,
    ) -> Result<(Bytes, ByteRange), RelayError> {
        self.handed_over = Instant::now();
        self.metrics.bytes.peer.inc_by(bytes.len() as u64);
        self.provider.received(range.start, &bytes);
        self.attempts.received(bytes.len() as u64);
        self.unpaid += bytes.len() as u64;
        let rest = range.start + bytes.len() as u64..range.end;
        if let Some(delivery) = &self.question.target.pull.delivery {
            delivery.received(&reader.answer.candidate, rest.start == self.size);
        }
        if rest.is_empty() {
            reader.answer.finished();
            if reader.grows() {
                self.attempts.budget().set_waits_for_growing(true);
            }
        } else if self.is_late(waited, bytes.len()) {
            self.broke(&reader.answer, rest.start)?;
        } else if !reader.is_slow() {
            self.open = Some((rest.clone(), reader));
        }
        Ok((bytes, rest))
    }

    /// Whether the peer has cost the pull too much.
    fn is_late(&mut self, waited: Duration, bytes: usize) -> bool {
        let grows = self.provider.grows();
        self.rate_check
            .add(&self.attempts, waited, bytes as u64, grows)
            || self.attempts.are_spent()
    }

    /// # Errors
    /// Too many peers have failed.
    fn broke(&self, answer: &Answer, offset: u64) -> Result<(), RelayError> {
        let peer = &answer.candidate.peer;
        tracing::debug!(%peer, key = %self.question.key, offset, "peer broke in the middle of a body");
        self.provider
            .report_fault(peer, &self.question.key, Fault::Broke);
        self.metrics.broken_bodies.inc();
        self.attempts.failed();
        if self.attempts.are_spent() {
            Err(RelayError::Broken { offset })
        } else {
            Ok(())
        }
    }

    /// Requests the range from a peer.
    async fn open_at(&mut self, range: &ByteRange) -> Result<SourceReader, RelayError> {
        self.question.ranges = Some(Ranges::of(range));
        self.rate_check.change_source();
        let answer = self.provider.find(&self.question).await;
        let answer = answer.map_err(|source| RelayError::Interrupted {
            offset: range.start,
            source,
        })?;
        let (provider, question) = (self.provider.clone(), self.question.clone());
        Ok(SourceReader::new(provider, question, answer))
    }
}

/// The open answer is used for a range only if it contains exactly that range.
impl ObjectStream for Relay {
    fn stream(self: Box<Self>, range: ByteRange, _: Arc<Share>) -> Pieces {
        let pieces = stream::try_unfold((self, range), |(mut relay, range)| async move {
            let next = relay.next(range).await?;
            Ok(next.map(|(bytes, rest)| (bytes, (relay, rest))))
        });
        pieces
            .map_err(|error: RelayError| BodyError::of_stream(error))
            .boxed()
    }

    fn again(&self) -> Box<dyn ObjectStream> {
        Box::new(Self {
            provider: self.provider.clone(),
            metrics: self.metrics.clone(),
            question: self.question.clone(),
            size: self.size,
            open: None,
            first: None,
            attempts: self.attempts.clone(),
            rate_check: RateCheck::default(),
            _stream: self.attempts.begin_stream(),
            handed_over: Instant::now(),
            permit: self.permit.clone(),
            download: self.download.clone(),
            unpaid: 0,
        })
    }
}

#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod tests;
