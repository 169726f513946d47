//! Who has it, and is it that: an answer of a peer, made into something to send. What is small is read and verified
//! whole before a byte is handed over; the rest is relayed while it arrives.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Method;
use http::header::CONTENT_TYPE;
use oci::{Digest, MAX_MANIFEST_SIZE, Manifest, MediaType, Ranges};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::content_range::ContentRange;
use crate::fetch::{Answer, FetchError, Fetcher, Question};
use crate::found::{Found, Payload, Source};
use crate::local;
use crate::peers::Fault;
use crate::refusal::Refusal;
use crate::relay::Relay;
use crate::request::{Kind, Target};
use crate::source_provider::SourceProvider;
use crate::source_reader::{Next, SourceReader};

/// What asking peers may take in all, with reading and verifying what is small: then the client is sent upstream.
const FIND_LIMIT: Duration = Duration::from_secs(5);
/// Peers whose answers may turn out to be of no use.
const MOST_TRIES: usize = 3;
/// Blobs up to this size are verified whole before a byte is handed over. Configs are among them; layers of this size
/// cost nothing. Larger ones containerd verifies as it stores them.
const VERIFIED_WHOLE: u64 = 1024 * 1024;
/// KiB that objects read whole may take in memory together, from the first byte read to the last one sent.
const WHOLE_KIB: usize = 16 * 1024;
/// How long an object may wait for that memory.
const MEMORY_LIMIT: Duration = Duration::from_secs(1);

/// The step of the pull that asks peers.
pub struct FromPeers {
    fetcher: Arc<Fetcher>,
    memory: Arc<Semaphore>,
}

/// Why an answer was not taken.
enum Unusable {
    Fault(Fault),
    /// It is our own fault: too much is being read already.
    NoMemory,
}

impl From<Fault> for Unusable {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Bytes, and the room that they take until the last of them is sent.
struct Held {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl FromPeers {
    pub fn new(fetcher: Arc<Fetcher>) -> Self {
        let memory = Arc::new(Semaphore::new(WHOLE_KIB));
        Self { fetcher, memory }
    }

    /// Finds what is asked for at any peer that has it.
    ///
    /// # Errors
    /// No peer has it, or none could give it, within [`FIND_LIMIT`].
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

    /// Takes what is asked for from whom the finder chooses. Takes as long as that does.
    ///
    /// # Errors
    /// None gives it.
    pub async fn find_by(
        &self,
        provider: &Arc<dyn SourceProvider>,
        target: &Target,
    ) -> Result<Found, Refusal> {
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
            size: None,
            position: None,
        };
        self.ask(provider, &question).await
    }

    async fn ask(
        &self,
        provider: &Arc<dyn SourceProvider>,
        question: &Question,
    ) -> Result<Found, Refusal> {
        let kind = question.target.kind;
        for _ in 0..MOST_TRIES {
            let answer = provider.find(question).await.map_err(|error| match error {
                FetchError::NoCandidate => Refusal::NoPeer(kind),
                FetchError::Unsatisfiable { size } => Refusal::Unsatisfiable { size },
                FetchError::Leads => Refusal::Leads(kind),
                FetchError::Alone | FetchError::Later => Refusal::Alone(kind),
                failed => Refusal::PeersFailed(kind, failed.to_string()),
            })?;
            let peer = answer.candidate.peer.clone();
            let found = match (kind, question.target.digest()) {
                (Kind::Blob, Some(digest)) => self.blob(provider, question, digest, answer).await,
                _ => self.manifest(provider, question, answer).await,
            };
            match found {
                Ok(found) => return Ok(found),
                Err(Unusable::Fault(fault)) => {
                    provider.report_fault(&peer, &question.key, fault);
                }
                Err(Unusable::NoMemory) => return Err(Refusal::Busy(kind)),
            }
        }
        Err(Refusal::PeersFailed(
            kind,
            format!("what {MOST_TRIES} of them sent was of no use"),
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
        let bytes = self.whole(reader, MAX_MANIFEST_SIZE).await?;
        let (digest, right) = match question.target.digest() {
            Some(digest) => (digest.clone(), digest.verifies(&bytes)),
            // No digest says what the bytes of a tag are to be, so their form has to.
            None => (Digest::sha256(&bytes), Manifest::parse(&bytes).is_ok()),
        };
        if !right {
            return Err(Fault::Wrong.into());
        }
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
            let bytes = self.whole(reader, size).await?;
            let verified = Some(bytes).filter(|bytes| digest.verifies(bytes));
            Payload::Bytes(verified.ok_or(Fault::Wrong)?)
        } else {
            let metrics = self.fetcher.metrics.clone();
            let relay = Relay::new(provider.clone(), metrics, question.clone(), part, answer);
            Payload::Relay(Box::new(relay))
        };
        Ok(Found {
            digest: digest.clone(),
            media_type: MediaType::octet_stream(),
            size: Some(size),
            payload,
            source: Source::Peer,
        })
    }

    /// Reads an answer to its end, within `limit` bytes.
    async fn whole(&self, mut reader: SourceReader, limit: u64) -> Result<Bytes, Unusable> {
        let size = ContentRange::of(&reader.answer.head.headers).map_or(limit, |part| part.size);
        if size > limit {
            return Err(Fault::Wrong.into());
        }
        let kib = u32::try_from(size.div_ceil(1024)).map_err(|_| Fault::Wrong)?;
        let room = timeout(MEMORY_LIMIT, self.memory.clone().acquire_many_owned(kib)).await;
        let room = room.ok().and_then(Result::ok).ok_or(Unusable::NoMemory)?;
        let mut bytes = BytesMut::new();
        loop {
            match reader.next(bytes.len() as u64).await {
                Next::Bytes(data, _) => bytes.extend_from_slice(&data),
                Next::End => break,
                Next::Broken => return Err(Fault::Broke.into()),
            }
            if bytes.len() as u64 > size {
                return Err(Fault::Wrong.into());
            }
        }
        reader.answer.finished();
        self.fetcher.metrics.bytes.peer.inc_by(bytes.len() as u64);
        Ok(Bytes::from_owner(Held {
            bytes: bytes.freeze(),
            _room: room,
        }))
    }
}
