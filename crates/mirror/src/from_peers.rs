//! Finds an object at peers, and converts a peer's answer to something to send. Small objects are read and verified
//! whole before a byte is sent; others are relayed as they arrive.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::CONTENT_TYPE;
use oci::{Digest, MAX_MANIFEST_SIZE, Manifest, MediaType, Ranges};
use tokio::time::{Instant, timeout};

use crate::body::send_memory::{Chunk, SendMemory, Share};
use crate::content_range::ContentRange;
use crate::fetch::{Answer, FetchError, Fetcher, Question};
use crate::found::{Found, Payload, Source};
use crate::images::Images;
use crate::local;
use crate::peers::Fault;
use crate::rate_check::RateCheck;
use crate::refusal::Refusal;
use crate::relay::{Relay, RelayError};
use crate::request::{Kind, Target};
use crate::source_provider::SourceProvider;
use crate::source_reader::{Next, SourceReader};
use crate::verification::VERIFIED_WHOLE;

/// The limit for asking peers in all, including reading and verifying small objects. Then the client is sent upstream.
const FIND_LIMIT: Duration = Duration::from_secs(5);
/// The most peers whose answers may be useless.
const MAX_TRIES: usize = 3;
/// The bytes of memory charged for a relay: the read buffer of the connection to the peer, and the next piece.
const RELAY_BYTES: u64 = 128 * 1024;

/// The step of the pull that asks peers.
pub struct FromPeers {
    fetcher: Arc<Fetcher>,
    memory: SendMemory,
    images: Arc<Images>,
}

/// Why an answer was not used.
enum Unusable {
    Fault(Fault),
    /// This node is the reason: it is reading too much already.
    NoMemory,
    /// No byte came, from this peer or from those asked after it.
    NoBytes(RelayError),
}

impl From<Fault> for Unusable {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl FromPeers {
    pub fn new(fetcher: Arc<Fetcher>, memory: SendMemory, images: Arc<Images>) -> Self {
        Self {
            fetcher,
            memory,
            images,
        }
    }

    /// The memory for bytes that are being sent to clients.
    pub fn memory(&self) -> &SendMemory {
        &self.memory
    }

    fn share(&self, question: &Question) -> &Arc<Share> {
        self.memory.share(question.target.caller)
    }

    /// Finds the requested object at any peer that has it.
    ///
    /// # Errors
    /// No peer has it, or none could send it, within [`FIND_LIMIT`].
    pub async fn find(&self, target: &Target) -> Result<Found, Refusal> {
        let provider: Arc<dyn SourceProvider> = self.fetcher.clone();
        match timeout(FIND_LIMIT, self.find_by(&provider, target)).await {
            Ok(result) => result,
            Err(_) => Err(Refusal::PeersFailed(
                target.kind,
                format!("nothing of use within {FIND_LIMIT:?}"),
            )),
        }
    }

    /// Gets the requested object from the peers that the provider chooses. Takes as long as the provider does.
    ///
    /// # Errors
    /// No peer sends it.
    pub async fn find_by(
        &self,
        provider: &Arc<dyn SourceProvider>,
        target: &Target,
    ) -> Result<Found, Refusal> {
        let key = target.key().ok_or(Refusal::NoPeer(target.kind))?;
        let (method, ranges) = match (target.kind, target.head_only) {
            // The head of a manifest is derived from its verified body: the digest of a tag is the hash of its bytes.
            (Kind::Manifest, _) => (Method::GET, None),
            (Kind::Blob, true) => (Method::HEAD, None),
            (Kind::Blob, false) => (Method::GET, target.ranges.as_ref().map(Ranges::first)),
        };
        let question = Question {
            method,
            target: target.clone(),
            key,
            ranges,
            size: self.known_size(target),
            follower: None,
        };
        self.ask(provider, &question).await
    }

    fn known_size(&self, target: &Target) -> Option<u64> {
        let blob = target.digest().filter(|_| target.kind == Kind::Blob);
        self.images.size(blob?)
    }

    async fn ask(
        &self,
        provider: &Arc<dyn SourceProvider>,
        question: &Question,
    ) -> Result<Found, Refusal> {
        let kind = question.target.kind;
        for _ in 0..MAX_TRIES {
            if question.target.are_attempts_spent() {
                let why = "peers failed this pull, or kept it waiting, for as long as they may";
                return Err(Refusal::PeersFailed(kind, why.into()));
            }
            let answer = provider.find(question).await;
            let answer = answer.map_err(|error| refusal(kind, error))?;
            let peer = answer.candidate.peer.clone();
            let found = match (kind, question.target.digest()) {
                (Kind::Blob, Some(digest)) => self.blob(provider, question, digest, answer).await,
                _ => self.manifest(provider, question, answer).await,
            };
            match found {
                Ok(found) => return Ok(found),
                Err(Unusable::Fault(fault)) => {
                    provider.report_fault(&peer, &question.key, fault);
                    if let Some(attempts) = &question.target.pull.attempts {
                        attempts.failed();
                    }
                }
                Err(Unusable::NoMemory) => return Err(Refusal::Busy(kind)),
                Err(Unusable::NoBytes(RelayError::Interrupted { source, .. })) => {
                    return Err(refusal(kind, source));
                }
                Err(Unusable::NoBytes(error)) => {
                    return Err(Refusal::PeersFailed(kind, error.to_string()));
                }
            }
        }
        Err(Refusal::PeersFailed(
            kind,
            "what several of them sent was of no use".into(),
        ))
    }

    async fn manifest(
        &self,
        provider: &Arc<dyn SourceProvider>,
        question: &Question,
        answer: Answer,
    ) -> Result<Found, Unusable> {
        let sent_as = answer.head.headers.get(CONTENT_TYPE);
        let sent_as = sent_as.and_then(|value| MediaType::new(value.to_str().ok()?));
        let reader = SourceReader::new(provider.clone(), question.clone(), answer);
        let bytes = self.whole(question, reader, MAX_MANIFEST_SIZE).await?;
        let (digest, right) = match question.target.digest() {
            Some(digest) => (digest.clone(), digest.verifies(&bytes)),
            // No digest verifies the bytes of a tag, so they must have the form of a manifest.
            None => (Digest::sha256(&bytes), Manifest::parse(&bytes).is_ok()),
        };
        if !right {
            return Err(Fault::Wrong.into());
        }
        self.images.learn(&bytes, None);
        Ok(local::manifest(&digest, bytes, sent_as, Source::Peer))
    }

    async fn blob(
        &self,
        provider: &Arc<dyn SourceProvider>,
        question: &Question,
        digest: &Digest,
        answer: Answer,
    ) -> Result<Found, Unusable> {
        let part = ContentRange::of(&answer.head.headers).ok_or(Fault::Failed)?;
        let size = part.size;
        let payload = if question.method == Method::HEAD {
            Payload::Empty
        } else if part.range == (0..size) && size <= VERIFIED_WHOLE {
            let reader = SourceReader::new(provider.clone(), question.clone(), answer);
            let bytes = self.whole(question, reader, size).await?;
            let verified = Some(bytes).filter(|bytes| digest.verifies(bytes));
            Payload::Bytes(verified.ok_or(Fault::Wrong)?)
        } else {
            let metrics = self.fetcher.metrics.clone();
            let permit = self.share(question).keep(RELAY_BYTES).await;
            let permit = permit.ok_or(Unusable::NoMemory)?;
            let (provider, question) = (provider.clone(), question.clone());
            let download = self.fetcher.download.clone();
            let limits = (permit, download);
            let mut relay = Relay::new(provider, metrics, question, part, answer, limits);
            let first = relay.wait_for_first_bytes().await;
            first.map_err(Unusable::NoBytes)?;
            Payload::stream(relay)
        };
        Ok(Found::blob(digest, Some(size), payload, Source::Peer))
    }

    /// Reads an answer to its end, within `limit` bytes.
    async fn whole(
        &self,
        question: &Question,
        mut reader: SourceReader,
        limit: u64,
    ) -> Result<Bytes, Unusable> {
        let size = ContentRange::of(&reader.answer.head.headers).map_or(limit, |part| part.size);
        if size > limit {
            return Err(Fault::Wrong.into());
        }
        let share = self.share(question).clone();
        let permit = share.keep(size).await;
        let permit = permit.ok_or(Unusable::NoMemory)?;
        let attempts = question.target.pull.attempts.clone().unwrap_or_default();
        let (mut check, grows) = (RateCheck::default(), reader.grows());
        let mut bytes = Vec::new();
        loop {
            let began = Instant::now();
            let next = timeout(
                check.max_wait(&attempts, grows),
                reader.next(bytes.len() as u64),
            );
            let is_late = match next.await.unwrap_or(Next::Broken) {
                Next::Bytes(data, waited) => {
                    bytes.extend_from_slice(&data);
                    check.add(&attempts, waited, data.len() as u64, grows)
                }
                Next::End => break,
                Next::Broken => {
                    check.add(&attempts, began.elapsed(), 0, grows);
                    true
                }
            };
            if is_late || attempts.are_spent() {
                return Err(Fault::Broke.into());
            }
            if bytes.len() as u64 > size {
                return Err(Fault::Wrong.into());
            }
        }
        reader.answer.finished();
        self.fetcher.download.pay(bytes.len() as u64).await;
        self.fetcher.metrics.bytes.peer.inc_by(bytes.len() as u64);
        attempts.received(bytes.len() as u64);
        let all = 0..bytes.len();
        Ok(Bytes::from_owner(Chunk::new(bytes, all, share, permit)))
    }
}

fn refusal(kind: Kind, error: FetchError) -> Refusal {
    match error {
        FetchError::NoCandidate => Refusal::NoPeer(kind),
        FetchError::Unsatisfiable { size } => Refusal::Unsatisfiable { size },
        FetchError::Leads => Refusal::Leads(kind),
        FetchError::Alone | FetchError::Later => Refusal::Alone(kind),
        failed => Refusal::PeersFailed(kind, failed.to_string()),
    }
}
