//! Bodies: the bytes of a payload, made into the frames that an HTTP connection asks for.
//!
//! A body that cannot go on ends early. hyper then closes the connection with FIN, and containerd resumes by range
//! elsewhere; a reset would fail its pull.

pub mod client_socket;
pub mod send_memory;

use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use http_body::{Frame, SizeHint};
use oci::ByteRange;
use tokio::time::timeout;

use crate::flight::{Eviction, FollowerStream};
use crate::found::{Payload, Source};
use crate::pull_through::DownloadError;
use crate::relay::RelayError;
use crate::request_record::RequestRecord;
use crate::{Growing, Stage};
use client_socket::{ClientSocket, Sending};
use send_memory::Share;

/// A client that has taken this many bytes of a file gets it in large chunks: more than the kernels of both sides hold
/// for one that takes nothing.
const LARGE_AFTER: u64 = 256 * 1024;

/// How long a body waits for a growing object's next byte. Whoever writes it gives up much earlier; this is for those
/// that died.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);

/// A piece of a body.
#[derive(Clone, Debug)]
pub enum Part {
    Text(Bytes),
    /// Bytes of the object.
    Range(ByteRange),
}

impl Part {
    /// In bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Range(range) => range.end - range.start,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("reading local content")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Relay(#[from] RelayError),
    #[error(transparent)]
    Download(#[from] Box<DownloadError>),
    #[error("the object stopped growing at {written} bytes")]
    Stunted { written: u64 },
    #[error("the object did not grow for {SILENCE_LIMIT:?}")]
    Silent,
    #[error("ended without a byte, to be asked for again")]
    RetryLater,
    #[error(transparent)]
    Eviction(#[from] Eviction),
}

type Bodies = BoxStream<'static, Result<Bytes, BodyError>>;

/// The body of an answer.
pub struct Body {
    content: Content,
    source: Option<Source>,
    record: Option<RequestRecord>,
    /// Whether it is for this node's own client.
    for_own: bool,
    reads_file: bool,
    /// The way to the client. `None` where this process reads the body.
    sending: Option<Sending>,
    /// What broke the body. The connection is told a turn later and has sent by then what came before, the head too:
    /// what it still has when it is told, it drops.
    broken: Option<BodyError>,
}

enum Content {
    Bytes(Bytes),
    Stream(Bodies),
}

impl Body {
    pub fn empty() -> Self {
        Self::bytes(Bytes::new())
    }

    pub fn bytes(bytes: Bytes) -> Self {
        Self::new(Content::Bytes(bytes), None)
    }

    fn new(content: Content, source: Option<Source>) -> Self {
        Self {
            content,
            source,
            record: None,
            for_own: false,
            reads_file: false,
            sending: None,
            broken: None,
        }
    }

    /// These pieces, one after the other.
    pub fn stream(
        pieces: impl futures::Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
    ) -> Self {
        Self::new(Content::Stream(pieces.boxed()), None)
    }

    /// Has it sent to this client: nothing more of it is read while the client takes nothing.
    pub(crate) fn send_to(&mut self, client: Arc<ClientSocket>) {
        self.sending = Some(Sending::begin(client, self.for_own));
    }

    /// Has the body's bytes and its end written to this record.
    pub(crate) fn record(&mut self, mut record: RequestRecord) {
        record.source = self.source;
        self.record = Some(record);
    }
}

/// The parts of a payload, one after the other, read into this share of the memory.
pub fn of(payload: Payload, parts: Vec<Part>, source: Source, share: &Arc<Share>) -> Body {
    let (share, for_own) = (share.clone(), share.is_own);
    let reads_file = !matches!(payload, Payload::Bytes(_) | Payload::Relay(_));
    let content = match (payload, parts.as_slice()) {
        (Payload::Empty | Payload::Progress { .. }, _) => Content::Bytes(Bytes::new()),
        // Most bodies are one range of a few kilobytes in memory or of a file.
        (Payload::Bytes(bytes), [Part::Range(range)]) => Content::Bytes(slice(&bytes, range)),
        (payload, [Part::Range(range)]) => Content::Stream(one(payload, range.clone(), share)),
        (payload, _) => Content::Stream(several(payload, parts, share)),
    };
    let mut body = Body::new(content, Some(source));
    (body.for_own, body.reads_file) = (for_own, reads_file);
    body
}

fn slice(bytes: &Bytes, range: &ByteRange) -> Bytes {
    let clamp = |offset: u64| {
        usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len())
    };
    bytes.slice(clamp(range.start)..clamp(range.end))
}

/// One range of a payload.
fn one(payload: Payload, range: ByteRange, share: Arc<Share>) -> Bodies {
    match payload {
        Payload::Empty | Payload::Progress { .. } => stream::empty().boxed(),
        Payload::Bytes(bytes) => stream::iter([Ok(slice(&bytes, &range))]).boxed(),
        Payload::File(file) => file_range(FileReader::new(file, share), range),
        Payload::Growing(growing, follower) => growing_range(growing, follower, range, share),
        Payload::Relay(relay) => relay.stream(range).map_err(BodyError::from).boxed(),
        Payload::Download(download) => download
            .stream(range, share)
            .map_err(|error| Box::new(error).into())
            .boxed(),
        Payload::RetryLater => stream::iter([Err(BodyError::RetryLater)]).boxed(),
    }
}

/// Texts and ranges, one after the other, each begun when the one before has ended.
fn several(payload: Payload, parts: Vec<Part>, share: Arc<Share>) -> Bodies {
    let whole = stream::unfold(
        (payload, parts.into_iter(), share),
        |(payload, mut parts, share)| async move {
            let (body, payload): (Bodies, Payload) = match parts.next()? {
                Part::Text(text) => (stream::iter([Ok(text)]).boxed(), payload),
                Part::Range(range) => {
                    let (now, later) = fork(payload);
                    (one(now, range, share.clone()), later)
                }
            };
            Some((body, (payload, parts, share)))
        },
    );
    whole.flatten().boxed()
}

/// A payload to read a range of now, and one for the ranges after it.
fn fork(payload: Payload) -> (Payload, Payload) {
    match payload {
        Payload::Empty | Payload::Progress { .. } => (Payload::Empty, Payload::Empty),
        Payload::RetryLater => (Payload::RetryLater, Payload::RetryLater),
        Payload::Bytes(bytes) => (Payload::Bytes(bytes.clone()), Payload::Bytes(bytes)),
        Payload::File(file) => (Payload::File(file.clone()), Payload::File(file)),
        Payload::Growing(growing, follower) => (
            Payload::Growing(growing.clone(), follower.clone()),
            Payload::Growing(growing, follower),
        ),
        Payload::Relay(relay) => {
            let later = relay.again();
            (Payload::Relay(relay), Payload::Relay(Box::new(later)))
        }
        Payload::Download(download) => {
            let later = Box::new(download.again());
            (Payload::Download(download), Payload::Download(later))
        }
    }
}

fn file_range(reader: FileReader, range: ByteRange) -> Bodies {
    let stream = stream::try_unfold((reader, range), |(mut reader, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let bytes = reader.read(&range).await?;
        let rest = range.start + bytes.len() as u64..range.end;
        Ok(Some((bytes, (reader, rest))))
    });
    stream.boxed()
}

fn growing_range(
    growing: Growing,
    follower: Option<FollowerStream>,
    range: ByteRange,
    share: Arc<Share>,
) -> Bodies {
    let follower = Follower {
        reader: FileReader::new(growing.file().clone(), share),
        growing,
        follower,
    };
    let stream = stream::try_unfold((follower, range), |(mut follower, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let bytes = timeout(SILENCE_LIMIT, follower.next(&range)).await;
        let bytes = bytes.map_err(|_| BodyError::Silent)??;
        let rest = range.start + bytes.len() as u64..range.end;
        Ok(Some((bytes, (follower, rest))))
    });
    stream.boxed()
}

/// Reads what is still being written: from memory what has just come, else from the file.
struct Follower {
    growing: Growing,
    follower: Option<FollowerStream>,
    reader: FileReader,
}

impl Follower {
    /// The first bytes of the range, as soon as there are any.
    async fn next(&mut self, range: &ByteRange) -> Result<Bytes, BodyError> {
        loop {
            let follower = self.follower.as_ref();
            if let Some(why) = follower.and_then(FollowerStream::eviction)
                && self.growing.progress().stage != Stage::Complete
            {
                return Err(why.into());
            }
            if let Some(mut bytes) = follower.and_then(|follower| follower.tail.read(range.start)) {
                bytes.truncate(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
                return Ok(bytes);
            }
            let progress = self.growing.progress();
            if progress.written > range.start {
                let range = range.start..range.end.min(progress.written);
                return Ok(self.reader.read(&range).await?);
            }
            let (growing, follower) = (&mut self.growing, &mut self.follower);
            let grown = growing.until(|p| p.written > range.start || p.stage != Stage::Filling);
            let came = async {
                match follower {
                    Some(follower) => follower.wait().await,
                    None => std::future::pending().await,
                }
            };
            let progress = tokio::select! {
                progress = grown => progress,
                () = came => continue,
            };
            // What a failed writer has written is unverified like all that was sent before it; nothing of it is taken
            // back.
            if progress.written <= range.start {
                return Err(BodyError::Stunted {
                    written: progress.written,
                });
            }
        }
    }
}

/// Reads a file in chunks on the threads for blocking work. The chunks grow with what the client takes: each is read when
/// the one before has been sent.
pub struct FileReader {
    file: Arc<File>,
    share: Arc<Share>,
    taken: u64,
}

impl FileReader {
    pub fn new(file: Arc<File>, share: Arc<Share>) -> Self {
        let taken = 0;
        Self { file, share, taken }
    }

    /// The first bytes of the range, a chunk at the most.
    pub async fn read(&mut self, range: &ByteRange) -> io::Result<Bytes> {
        let offset = range.start;
        let most = usize::try_from(range.end - offset).unwrap_or(usize::MAX);
        let chunk = self.share.chunk(most, self.taken >= LARGE_AFTER).await?;
        let file = self.file.clone();
        let chunk = tokio::task::spawn_blocking(move || chunk.read(&file, offset))
            .await
            .map_err(io::Error::other)??;
        let bytes = Bytes::from_owner(chunk);
        self.taken += bytes.len() as u64;
        Ok(bytes)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let next = match &mut this.content {
            Content::Bytes(bytes) if bytes.is_empty() => None,
            Content::Bytes(bytes) => Some(Ok(std::mem::take(bytes))),
            Content::Stream(stream) => {
                if let Some(sending) = &this.sending {
                    ready!(sending.socket().poll_takes_bytes(cx));
                }
                let next = ready!(stream.poll_next_unpin(cx));
                // Whoever in this process reads a file may keep the bytes, but not the memory of the mirror.
                let may_keep = this.sending.is_none() && this.reads_file;
                next.map(|next| match next {
                    Ok(bytes) if may_keep => Ok(Bytes::copy_from_slice(&bytes)),
                    next => next,
                })
            }
        };
        if let Some(record) = &mut this.record {
            match &next {
                Some(Ok(bytes)) => record.sent(bytes.len()),
                Some(Err(error)) => record.broke(error),
                None => {}
            }
        }
        if let Some(Err(error)) = next {
            this.broken = Some(error);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(next.map(|result| result.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Bytes(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests;
