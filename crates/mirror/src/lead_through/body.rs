//! The bodies of layers that this mirror fetches: from upstream, or from peers and then from upstream.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use oci::{ByteRange, Digest, Origin, Ranges};

use super::{LeadThrough, Permits};
use crate::body::send_memory::Share;
use crate::fetch::FetchError;
use crate::flight::AwaitedLead;
use crate::object_stream::{BodyError, ObjectStream, Pieces};
use crate::refusal::Refusal;
use crate::relay::RelayError;
use crate::request::{Kind, Target};
use crate::{UpstreamBlob, UpstreamError};

/// How often upstream is asked for the rest of one body that it broke off.
const MAX_BREAKS: u32 = 5;

/// An object that upstream sends.
pub struct LeadStream {
    step: Arc<LeadThrough>,
    origin: Origin,
    /// The lead, until its last byte.
    awaited: Option<AwaitedLead>,
    digest: Digest,
    /// The open answer, for a reader that begins at its offset.
    opened: Option<UpstreamBlob>,
    /// Bytes have come since upstream was asked last.
    has_bytes: bool,
    breaks: u32,
    permits: Arc<Permits>,
}

impl LeadStream {
    pub fn new(
        step: Arc<LeadThrough>,
        origin: Origin,
        awaited: AwaitedLead,
        opened: UpstreamBlob,
        permits: Permits,
    ) -> Self {
        Self {
            step,
            origin,
            digest: awaited.digest().clone(),
            awaited: Some(awaited),
            opened: Some(opened),
            has_bytes: false,
            breaks: 0,
            permits: Arc::new(permits),
        }
    }

    /// The next bytes of the range, which followers get as well. `None`: the end of the range.
    async fn next(&mut self, range: &ByteRange) -> Result<Option<Bytes>, BodyError> {
        if range.is_empty() {
            return Ok(None);
        }
        loop {
            match self.receive(range).await {
                Ok(bytes) => {
                    self.has_bytes = true;
                    let is_last = range.start + bytes.len() as u64 == range.end;
                    if let Some(awaited) = self.awaited.take_if(|_| is_last) {
                        awaited.complete();
                    }
                    return Ok(Some(bytes));
                }
                // As containerd would: it asks for the rest at once.
                Err(_) if std::mem::take(&mut self.has_bytes) && self.breaks < MAX_BREAKS => {
                    self.breaks += 1;
                }
                Err(error) => {
                    self.step.avoided.add(&self.origin, &self.digest, &error);
                    return Err(BodyError::of_stream(error));
                }
            }
        }
    }

    /// Receives bytes of the range, from the open answer if that goes on there.
    async fn receive(&mut self, range: &ByteRange) -> Result<Bytes, UpstreamError> {
        let (digest, offset) = (&self.digest, range.start);
        let opened = self.opened.take().filter(|blob| blob.offset == offset);
        let mut blob = match opened {
            Some(blob) => blob,
            None => {
                let ranges = Ranges::of(range);
                let opening = self.step.open(&self.origin, digest, Some(&ranges), offset);
                opening.await?.0
            }
        };
        let mut bytes = blob.body.next().await.transpose()?.ok_or_else(|| {
            let text = format!("the layer ends at {offset} bytes");
            UpstreamError::Protocol(self.origin.clone(), text)
        })?;
        bytes.truncate(usize::try_from(range.end - offset).unwrap_or(usize::MAX));
        self.step.flight.receive(digest, offset, &bytes);
        blob.offset += bytes.len() as u64;
        self.opened = Some(blob);
        Ok(bytes)
    }
}

impl ObjectStream for LeadStream {
    fn stream(self: Box<Self>, range: ByteRange, _: Arc<Share>) -> Pieces {
        let pieces = stream::try_unfold((self, range), |(mut lead, range)| async move {
            let next = lead.next(&range).await?;
            Ok(next.map(|bytes| {
                let rest = range.start + bytes.len() as u64..range.end;
                (bytes, (lead, rest))
            }))
        });
        pieces.boxed()
    }

    fn again(&self) -> Box<dyn ObjectStream> {
        Box::new(Self {
            step: self.step.clone(),
            origin: self.origin.clone(),
            digest: self.digest.clone(),
            awaited: None,
            opened: None,
            has_bytes: false,
            breaks: 0,
            permits: self.permits.clone(),
        })
    }
}

/// An object that peers send until flights send this node upstream for the rest.
pub struct PeersThenUpstream {
    peers: Box<dyn ObjectStream>,
    step: Arc<LeadThrough>,
    target: Target,
}

impl PeersThenUpstream {
    pub fn new(peers: Box<dyn ObjectStream>, step: Arc<LeadThrough>, target: Target) -> Self {
        Self {
            peers,
            step,
            target,
        }
    }
}

impl ObjectStream for PeersThenUpstream {
    fn stream(self: Box<Self>, range: ByteRange, share: Arc<Share>) -> Pieces {
        let sent = SentRange {
            pieces: self.peers.stream(range.clone(), share.clone()),
            comes_from_peers: true,
            rest: range,
            share,
            step: self.step,
            target: self.target,
        };
        let pieces = stream::try_unfold(sent, |mut sent| async move {
            Ok(sent.next().await?.map(|bytes| (bytes, sent)))
        });
        pieces.boxed()
    }

    fn again(&self) -> Box<dyn ObjectStream> {
        Box::new(Self::new(
            self.peers.again(),
            self.step.clone(),
            self.target.clone(),
        ))
    }

    fn takes_memory(&self) -> bool {
        self.peers.takes_memory()
    }
}

/// A range of such an object while it is sent.
struct SentRange {
    pieces: Pieces,
    comes_from_peers: bool,
    /// What is still to come.
    rest: ByteRange,
    share: Arc<Share>,
    step: Arc<LeadThrough>,
    target: Target,
}

impl SentRange {
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            match self.pieces.next().await.transpose() {
                Err(error) if std::mem::take(&mut self.comes_from_peers) => {
                    self.pieces = self.ask_upstream(&error).await.ok_or(error)?;
                }
                next => {
                    let next = next?;
                    self.rest.start += next.as_ref().map_or(0, |bytes| bytes.len() as u64);
                    return Ok(next);
                }
            }
        }
    }

    /// The rest from upstream, if that is why peers have ended.
    async fn ask_upstream(&mut self, ended: &BodyError) -> Option<Pieces> {
        let refusal = sends_upstream(ended, self.target.kind)?;
        let target = Target {
            ranges: Some(Ranges::from_offset(self.rest.start)),
            ..self.target.clone()
        };
        let (lead, _) = self.step.lead(&target, &refusal).await?;
        self.step.upstream_bytes.note(&target, Err(&refusal));
        if let Some(attempts) = &target.pull.attempts {
            attempts.sent_upstream();
        }
        Some(Box::new(lead).stream(self.rest.clone(), self.share.clone()))
    }
}

/// How a client is refused that asks for the rest now. `None`: peers have ended for another reason.
fn sends_upstream(error: &BodyError, kind: Kind) -> Option<Refusal> {
    let BodyError::Stream(error) = error else {
        return None;
    };
    match error.downcast_ref()? {
        RelayError::Interrupted { source, .. } => match source {
            FetchError::Leads => Some(Refusal::Leads(kind)),
            FetchError::Alone => Some(Refusal::Alone(kind)),
            _ => None,
        },
        RelayError::Broken { .. } => None,
    }
}
