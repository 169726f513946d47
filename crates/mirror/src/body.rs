//! Bodies: the bytes of a payload as frames of an HTTP connection.
//!
//! A body that cannot continue ends early. hyper then closes the connection with FIN, and containerd resumes by range
//! elsewhere; a reset would fail its pull.

pub mod client_socket;
pub mod read;
pub mod send_memory;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http_body::{Frame, SizeHint};
use oci::ByteRange;
use tokio::sync::OwnedSemaphorePermit;

use crate::found::{Found, Payload, Source};
use crate::object_stream::{BodyError, BodyHook, Pieces};
use crate::rate_limit::RateLimit;
use crate::request_record::RequestRecord;
use client_socket::{ClientSocket, Sending};
use read::{FileReader, GrowingReader, RangeReader};
use send_memory::Share;

/// A piece of a body.
#[derive(Clone, Debug)]
pub enum Part {
    Text(Bytes),
    /// Bytes of the object.
    Range(ByteRange),
}

impl Part {
    /// The length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Range(range) => range.end - range.start,
        }
    }
}

/// The body of an answer.
pub struct Body {
    content: Content,
    source: Option<Source>,
    hook: Option<Box<dyn BodyHook>>,
    record: Option<RequestRecord>,
    /// Whether it is for this node's own client.
    for_own: bool,
    takes_memory: bool,
    /// The connection to the client. `None`: this process reads the body.
    sending: Option<Sending>,
    /// The error that ended the body. It is returned one poll late: hyper drops what it has buffered when a body fails,
    /// and by then the head and all earlier bytes have been written.
    broken: Option<BodyError>,
}

enum Content {
    Bytes(Bytes),
    Stream(Pieces),
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
            hook: None,
            record: None,
            for_own: false,
            takes_memory: false,
            sending: None,
            broken: None,
        }
    }

    /// A body of these pieces, one after the other.
    pub fn stream(
        pieces: impl futures::Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
    ) -> Self {
        Self::new(Content::Stream(pieces.boxed()), None)
    }

    /// Limits the rate at which it is sent. `permit`: from [`RateLimit::admit`].
    pub(crate) fn limit(&mut self, limit: &Arc<RateLimit>, permit: Option<OwnedSemaphorePermit>) {
        if let Content::Stream(pieces) = &mut self.content {
            let all = std::mem::replace(pieces, stream::empty().boxed());
            *pieces = limit.limited(all, permit);
        }
    }

    /// Sets the client that it is sent to: no more bytes are read while the client does not accept any.
    pub(crate) fn send_to(&mut self, client: Arc<ClientSocket>) {
        let hook = self.record.as_ref().and_then(|record| record.hook.as_ref());
        if let Some(hook) = hook {
            hook.sent_to(&client);
        }
        self.sending = Some(Sending::begin(client, self.for_own));
    }

    /// Writes the body's bytes and its end to this record.
    pub(crate) fn record(&mut self, mut record: RequestRecord) {
        record.source = self.source;
        record.hook = self.hook.take();
        self.record = Some(record);
    }
}

/// The parts of what was found, one after the other. They are read within this share of the memory.
pub fn of(found: Found, parts: Vec<Part>, share: &Arc<Share>) -> Body {
    let (share, for_own, payload) = (share.clone(), share.is_own, found.payload);
    let takes_memory = match &payload {
        Payload::Empty | Payload::Bytes(_) => false,
        Payload::File(_) | Payload::Growing(_) => true,
        Payload::Stream(stream) => stream.takes_memory(),
    };
    let content = match (payload, parts.as_slice()) {
        (Payload::Empty, _) => Content::Bytes(Bytes::new()),
        // Most bodies are one range, of a few kilobytes in memory or of a file.
        (Payload::Bytes(bytes), [Part::Range(range)]) => Content::Bytes(slice(&bytes, range)),
        (payload, [Part::Range(range)]) => Content::Stream(one(payload, range.clone(), share)),
        (payload, _) => Content::Stream(several(payload, parts, share)),
    };
    let mut body = Body::new(content, Some(found.source));
    (body.for_own, body.takes_memory, body.hook) = (for_own, takes_memory, found.hook);
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
fn one(payload: Payload, range: ByteRange, share: Arc<Share>) -> Pieces {
    match payload {
        Payload::Empty => stream::empty().boxed(),
        Payload::Bytes(bytes) => stream::iter([Ok(slice(&bytes, &range))]).boxed(),
        Payload::File(file) => FileReader::new(file, share).pieces(range),
        Payload::Growing(growing) => GrowingReader::new(growing, share).pieces(range),
        Payload::Stream(stream) => stream.stream(range, share),
    }
}

/// Texts and ranges, one after the other, each begun when the previous one has ended.
fn several(payload: Payload, parts: Vec<Part>, share: Arc<Share>) -> Pieces {
    let whole = stream::unfold(
        (payload, parts.into_iter(), share),
        |(payload, mut parts, share)| async move {
            let (body, payload): (Pieces, Payload) = match parts.next()? {
                Part::Text(text) => (stream::iter([Ok(text)]).boxed(), payload),
                Part::Range(range) => {
                    let later = again(&payload);
                    (one(payload, range, share.clone()), later)
                }
            };
            Some((body, (payload, parts, share)))
        },
    );
    whole.flatten().boxed()
}

/// A payload for the ranges after the present one.
fn again(payload: &Payload) -> Payload {
    match payload {
        Payload::Empty => Payload::Empty,
        Payload::Bytes(bytes) => Payload::Bytes(bytes.clone()),
        Payload::File(file) => Payload::File(file.clone()),
        Payload::Growing(growing) => Payload::Growing(growing.clone()),
        Payload::Stream(stream) => Payload::Stream(stream.again()),
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
                // A reader in this process may keep the bytes, but not the memory of the mirror.
                let may_keep = this.sending.is_none() && this.takes_memory;
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
