//! A peer's bytes, passed on while they arrive. When a peer breaks, another goes on from the same offset, and the
//! client sees nothing of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::stream;
use http::Method;
use http_body_util::BodyExt;
use oci::{ByteRange, Digest, MAX_MANIFEST_SIZE, MediaType, Ranges};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::content_range::ContentRange;
use crate::fetch::{Answer, FetchError, Fetcher, Question};
use crate::found::{Found, Payload, Source};
use crate::local;
use crate::peers::Fault;
use crate::refusal::Refusal;
use crate::request::{Kind, Target};

/// A peer whose bytes stop for this long has broken.
const STALL_LIMIT: Duration = Duration::from_secs(2);
/// Breaks in a row without a byte between them, after which the body ends. containerd gives up after three of ours.
const MOST_BREAKS: u32 = 2;
/// Blobs up to this size are verified whole before a byte is handed over. Configs are among them; layers of this size
/// cost nothing. Larger ones containerd verifies as it stores them.
const VERIFIED_WHOLE: u64 = 1024 * 1024;
/// KiB that objects being verified may take in memory together.
const VERIFYING_KIB: usize = 16 * 1024;
/// How long an object may wait for that memory, and take to arrive.
const VERIFY_LIMIT: Duration = Duration::from_secs(5);

/// The step of the pull that asks peers.
pub struct Relayer {
    fetcher: Arc<Fetcher>,
    memory: Semaphore,
}

#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("no further peer can go on at byte {offset}")]
    Interrupted { offset: u64, source: FetchError },
    #[error("{MOST_BREAKS} peers broke one after the other at byte {offset}")]
    Broken { offset: u64 },
}

impl Relayer {
    pub fn new(fetcher: Arc<Fetcher>) -> Self {
        Self {
            fetcher,
            memory: Semaphore::new(VERIFYING_KIB),
        }
    }

    /// Finds what is asked for at a peer.
    ///
    /// # Errors
    /// No peer has it, or none could give it.
    pub async fn find(&self, target: &Target) -> Result<Found, Refusal> {
        let key = target.key().ok_or(Refusal::NoPeer(target.kind))?;
        let (method, ranges) = match (target.kind, target.head_only) {
            // A manifest's head is told from its verified body: a tag's digest is what its bytes hash to.
            (Kind::Manifest, _) => (Method::GET, None),
            (Kind::Blob, true) => (Method::HEAD, None),
            (Kind::Blob, false) => (Method::GET, target.ranges.as_ref().map(Ranges::first)),
        };
        let question = Question {
            method,
            target: target.clone(),
            key,
            ranges,
        };
        let found = match (target.kind, target.digest()) {
            (Kind::Blob, Some(digest)) => self.blob(&question, digest).await,
            _ => self.manifest(&question).await,
        };
        found.map_err(|error| match error {
            FetchError::NoCandidate => Refusal::NoPeer(target.kind),
            FetchError::Unsatisfiable { size } => Refusal::Unsatisfiable { size },
            failed @ FetchError::AllFailed { .. } => {
                Refusal::PeersFailed(target.kind, failed.to_string())
            }
        })
    }

    async fn manifest(&self, question: &Question) -> Result<Found, FetchError> {
        loop {
            let answer = self.fetcher.fetch(question).await?;
            let peer = answer.candidate.peer.clone();
            match self.whole(answer, MAX_MANIFEST_SIZE).await {
                Ok(bytes) => {
                    let digest = match question.target.digest() {
                        Some(digest) => digest.clone(),
                        None => Digest::sha256(&bytes),
                    };
                    if digest.verifies(&bytes)
                        && let Some(found) = local::manifest(&digest, bytes, Source::Peer)
                    {
                        return Ok(found);
                    }
                    self.fetcher
                        .disappointed(&peer, &question.key, Fault::Wrong);
                }
                Err(fault) => self.fetcher.disappointed(&peer, &question.key, fault),
            }
        }
    }

    async fn blob(&self, question: &Question, digest: &Digest) -> Result<Found, FetchError> {
        loop {
            let answer = self.fetcher.fetch(question).await?;
            let peer = answer.candidate.peer.clone();
            let Some(part) = ContentRange::of(&answer.head.headers) else {
                self.fetcher
                    .disappointed(&peer, &question.key, Fault::Failed);
                continue;
            };
            let payload = if question.method == Method::HEAD {
                Payload::Empty
            } else if part.range == (0..part.size) && part.size <= VERIFIED_WHOLE {
                match self.whole(answer, part.size).await {
                    Ok(bytes) if digest.verifies(&bytes) => Payload::Bytes(bytes),
                    Ok(_) => {
                        self.fetcher
                            .disappointed(&peer, &question.key, Fault::Wrong);
                        continue;
                    }
                    Err(fault) => {
                        self.fetcher.disappointed(&peer, &question.key, fault);
                        continue;
                    }
                }
            } else {
                Payload::Relay(Box::new(Relay {
                    fetcher: self.fetcher.clone(),
                    question: question.clone(),
                    size: part.size,
                    open: Some((part.range, answer)),
                }))
            };
            return Ok(Found {
                digest: digest.clone(),
                media_type: MediaType::octet_stream(),
                size: part.size,
                payload,
                source: Source::Peer,
            });
        }
    }

    /// Reads an answer to its end, within `limit` bytes.
    async fn whole(&self, answer: Answer, limit: u64) -> Result<Bytes, Fault> {
        let size = ContentRange::of(&answer.head.headers).map_or(limit, |part| part.size);
        if size > limit {
            return Err(Fault::Wrong);
        }
        let kib = u32::try_from(size.div_ceil(1024)).map_err(|_| Fault::Wrong)?;
        let read = async {
            let _memory = self
                .memory
                .acquire_many(kib)
                .await
                .map_err(|_| Fault::Failed)?;
            let limited = http_body_util::Limited::new(answer.body, size as usize);
            let body = limited.collect().await.map_err(|_| Fault::Failed)?;
            Ok(body.to_bytes())
        };
        let bytes: Bytes = timeout(VERIFY_LIMIT, read)
            .await
            .map_err(|_| Fault::Failed)??;
        self.fetcher
            .metrics
            .bytes_from_peers
            .inc_by(bytes.len() as u64);
        Ok(bytes)
    }
}

/// A peer's answer that has begun, and the means to go on elsewhere.
pub struct Relay {
    fetcher: Arc<Fetcher>,
    question: Question,
    /// Of the whole object.
    size: u64,
    /// The range that the open answer holds.
    open: Option<(ByteRange, Answer)>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("key", &self.question.key)
            .finish_non_exhaustive()
    }
}

impl Relay {
    /// The bytes of a range. The answer that is open serves it, if it holds that very range.
    pub fn stream(self, range: ByteRange) -> impl Stream<Item = Result<Bytes, RelayError>> + Send {
        stream::try_unfold((self, range), |(mut relay, range)| async move {
            let next = relay.next(range).await?;
            Ok(next.map(|(bytes, rest)| (bytes, (relay, rest))))
        })
    }

    /// The same relay for another range of the object, with no answer open yet.
    pub fn again(&self) -> Self {
        Self {
            fetcher: self.fetcher.clone(),
            question: self.question.clone(),
            size: self.size,
            open: None,
        }
    }

    /// The next bytes of the range, and what is left of it.
    async fn next(&mut self, range: ByteRange) -> Result<Option<(Bytes, ByteRange)>, RelayError> {
        if range.is_empty() {
            return Ok(None);
        }
        let offset = range.start;
        let mut breaks = 0;
        loop {
            let mut answer = match self.open.take() {
                Some((at, answer)) if at == range => answer,
                _ => self.open_at(&range).await?,
            };
            match timeout(STALL_LIMIT, answer.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    let Ok(mut bytes) = frame.into_data() else {
                        self.open = Some((range.clone(), answer));
                        continue;
                    };
                    bytes.truncate(usize::try_from(range.end - offset).unwrap_or(usize::MAX));
                    self.fetcher
                        .metrics
                        .bytes_from_peers
                        .inc_by(bytes.len() as u64);
                    let rest = offset + bytes.len() as u64..range.end;
                    self.open = Some((rest.clone(), answer));
                    return Ok(Some((bytes, rest)));
                }
                // An early end, a broken connection, a stall: all the same to the client.
                Ok(None | Some(Err(_))) | Err(_) => {
                    let peer = &answer.candidate.peer;
                    tracing::debug!(%peer, key = %self.question.key, offset, "peer broke in the middle of a body");
                    self.fetcher
                        .disappointed(peer, &self.question.key, Fault::Failed);
                    breaks += 1;
                }
            }
            if breaks > MOST_BREAKS {
                return Err(RelayError::Broken { offset });
            }
        }
    }

    /// Asks a peer for the range.
    async fn open_at(&mut self, range: &ByteRange) -> Result<Answer, RelayError> {
        self.question.ranges = Some(Ranges::of(range));
        loop {
            let answer = self.fetcher.fetch(&self.question).await;
            let answer = answer.map_err(|source| RelayError::Interrupted {
                offset: range.start,
                source,
            })?;
            let asked = ContentRange {
                range: range.clone(),
                size: self.size,
            };
            if ContentRange::of(&answer.head.headers) == Some(asked) {
                self.fetcher.metrics.resumed.inc();
                return Ok(answer);
            }
            self.fetcher
                .disappointed(&answer.candidate.peer, &self.question.key, Fault::Wrong);
        }
    }
}

#[cfg(test)]
mod tests;
