//! The sources of an object, best first: other nodes, then upstream; and the next source when one breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use oci::{ByteRange, Digest, Ranges};
use tokio::time::timeout;

use super::client::Client;
use super::state::PullThroughStep;
use crate::activity::PullSource;
use crate::body::{self, Part};
use crate::flight::Sharing;
use crate::found::{Found, Source};
use crate::object_stream::BodyError;
use crate::refusal::Refusal;
use crate::request::Target;
use crate::{Growing, IntakeError, UpstreamError, UpstreamReason, UpstreamRepository, Visibility};

/// A source without bytes for this long has failed.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// The most consecutive changes of the source without a byte in between.
const MAX_BREAKS: u32 = 5;

/// The sources of one object, for one client.
pub struct Sources {
    step: Arc<PullThroughStep>,
    /// The whole object.
    target: Target,
    digest: Digest,
    repository: Option<UpstreamRepository>,
    nodes: Nodes,
    /// Whether some of its bytes needed credentials. From then on it takes part in no flight.
    is_private: AtomicBool,
}

/// How other nodes are asked.
#[derive(Clone, Debug)]
pub enum Nodes {
    /// As this node's intake of the object, which fills this.
    InFlight(Growing),
    /// As any client would.
    AsPeers,
    /// Not at all: upstream is asked with a client's own credentials.
    Never,
}

/// A source that has begun to send.
pub struct Opened {
    /// Why upstream sends it. `None`: another node does.
    upstream_reason: Option<UpstreamReason>,
    pub visibility: Visibility,
    /// The size of the whole object, in bytes.
    pub size: Option<u64>,
    /// The offset of the body in the object.
    pub offset: u64,
    body: BoxStream<'static, Result<Bytes, SourceError>>,
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Peer(#[from] Box<BodyError>),
    #[error(transparent)]
    Intake(#[from] IntakeError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("no bytes for {STALL_LIMIT:?}")]
    Stalled,
    #[error("the sources ended at {0} bytes, too early")]
    Short(u64),
}

impl Opened {
    pub fn source(&self) -> Source {
        match self.upstream_reason {
            Some(_) => Source::Upstream,
            None => Source::Peer,
        }
    }
}

impl Sources {
    pub(super) fn new(
        step: &Arc<PullThroughStep>,
        target: &Target,
        digest: &Digest,
        client: &Client,
        nodes: Nodes,
    ) -> Self {
        let origin = target.origin.as_ref();
        let mut target = Target {
            ranges: None,
            head_only: false,
            ..target.clone()
        };
        // In the background, peers may fail twice as well.
        target.pull.attempts.get_or_insert_default();
        if let Nodes::InFlight(ingest) = &nodes {
            target.pull.ingest = Some(ingest.clone());
        }
        Self {
            step: step.clone(),
            target,
            digest: digest.clone(),
            repository: origin.map(|origin| client.repository(origin)),
            nodes: match client.credentials {
                Some(_) => Nodes::Never,
                None => nodes,
            },
            is_private: AtomicBool::new(false),
        }
    }

    /// Opens the object, or the first of `ranges`: at another node, or else upstream.
    pub async fn open(&self, ranges: Option<&Ranges>) -> Result<Opened, Refusal> {
        let refusal = match self.open_at_node(ranges).await {
            Ok(opened) => return Ok(opened),
            Err(refusal) => refusal,
        };
        if self.repository.is_none() {
            return Err(refusal);
        }
        self.open_upstream(ranges, refusal.reason()).await
    }

    pub async fn open_at_node(&self, ranges: Option<&Ranges>) -> Result<Opened, Refusal> {
        let target = Target {
            ranges: ranges.cloned(),
            ..self.target.clone()
        };
        let is_private = self.is_private.load(Ordering::Relaxed);
        let found = match (&self.nodes, &self.step.flight) {
            (Nodes::InFlight(_), Some(flight)) if !is_private => {
                flight.find(&target, Sharing::Unknown).await?
            }
            (Nodes::InFlight(_) | Nodes::AsPeers, _) => self.step.from_peers.find(&target).await?,
            (Nodes::Never, _) => return Err(Refusal::NoPeer(self.target.kind)),
        };
        self.share(Visibility::Shared);
        self.opened_at_node(found, ranges)
    }

    fn opened_at_node(&self, found: Found, ranges: Option<&Ranges>) -> Result<Opened, Refusal> {
        let size = found.size.ok_or(Refusal::NotHere(self.target.kind))?;
        let range = match ranges {
            Some(ranges) => ranges.first().resolve(size)?.swap_remove(0),
            None => 0..size,
        };
        let offset = range.start;
        let share = self.step.from_peers.memory().own.clone();
        let body = body::of(found, vec![Part::Range(range)], &share);
        let body = http_body_util::BodyDataStream::new(body);
        Ok(Opened {
            upstream_reason: None,
            visibility: Visibility::Shared,
            size: Some(size),
            offset,
            body: body
                .map_err(|error| SourceError::Peer(Box::new(error)))
                .boxed(),
        })
    }

    /// `reason`: why no other node sent it.
    pub async fn open_upstream(
        &self,
        ranges: Option<&Ranges>,
        reason: UpstreamReason,
    ) -> Result<Opened, Refusal> {
        let kind = self.target.kind;
        let repository = self.repository.as_ref().ok_or(Refusal::NoPeer(kind))?;
        let asked = self.step.upstream.blob(repository, &self.digest, ranges);
        let blob = self.step.ask_for_blob(repository, asked).await;
        let blob = blob.map_err(|error| match error {
            UpstreamError::Unsatisfiable { size, .. } => Refusal::Unsatisfiable { size },
            error => PullThroughStep::failed(&self.target, error),
        })?;
        self.share(blob.visibility);
        if let Some(activity) = &self.target.pull.activity {
            activity.set_source(PullSource::Upstream(reason));
        }
        Ok(Opened {
            upstream_reason: Some(reason),
            visibility: blob.visibility,
            size: blob.size,
            offset: blob.offset,
            body: blob.body.map_err(SourceError::from).boxed(),
        })
    }

    fn share(&self, visibility: Visibility) {
        if visibility == Visibility::Private {
            self.is_private.store(true, Ordering::Relaxed);
        }
        let stays_private =
            visibility == Visibility::Shared && self.is_private.load(Ordering::Relaxed);
        if matches!(self.nodes, Nodes::InFlight(_)) && !stays_private {
            self.step.share(&self.digest, visibility);
        }
    }
}

/// An object, or a range of it, from one source after the other.
pub struct Transfer {
    sources: Arc<Sources>,
    opened: Opened,
    /// The offset of the next byte.
    offset: u64,
    /// The offset after the last byte, if known.
    end: Option<u64>,
    /// Private if one of the sources was.
    visibility: Visibility,
    /// The consecutive breaks without a byte in between.
    breaks: u32,
}

impl Transfer {
    /// A transfer that continues at the offset of the open source.
    pub fn new(sources: Arc<Sources>, opened: Opened, end: Option<u64>) -> Self {
        Self {
            sources,
            offset: opened.offset,
            end,
            visibility: opened.visibility,
            breaks: 0,
            opened,
        }
    }

    pub fn visibility(&self) -> Visibility {
        self.visibility
    }

    /// Records that the store did not commit the object.
    pub fn not_committed(&self) {
        self.sources.target.pull.not_committed();
    }

    /// The next bytes. `None`: the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        loop {
            if self.end == Some(self.offset) {
                return Ok(None);
            }
            let failed = match timeout(STALL_LIMIT, self.opened.body.next()).await {
                Ok(Some(Ok(bytes))) if bytes.is_empty() => continue,
                Ok(Some(Ok(bytes))) => return Ok(Some(self.received(bytes))),
                Ok(Some(Err(error))) => error,
                Ok(None) if self.end.is_none() => return Ok(None),
                Ok(None) => SourceError::Short(self.offset),
                Err(_) => SourceError::Stalled,
            };
            let digest = &self.sources.digest;
            tracing::debug!(%digest, error = %failed, "a source broke; going on with another");
            self.breaks += 1;
            if self.breaks > MAX_BREAKS {
                return Err(failed);
            }
            let end = self.end.filter(|_| self.end != self.opened.size);
            let rest = rest(self.offset, end);
            let Ok(opened) = self.sources.open(rest.as_ref()).await else {
                return Err(failed);
            };
            if opened.offset != self.offset {
                return Err(failed);
            }
            if opened.visibility == Visibility::Private {
                self.visibility = Visibility::Private;
            }
            self.opened = opened;
        }
    }

    fn received(&mut self, mut bytes: Bytes) -> Bytes {
        if let Some(end) = self.end {
            bytes.truncate(usize::try_from(end - self.offset).unwrap_or(usize::MAX));
        }
        let size = bytes.len() as u64;
        if let Some(reason) = self.opened.upstream_reason {
            let Sources { step, target, .. } = &*self.sources;
            step.count_upstream(target, reason, size);
        }
        self.offset += size;
        self.breaks = 0;
        bytes
    }
}

/// The range from an offset to an end, or to the end of the object if there is none. `None`: the whole object.
pub fn rest(offset: u64, end: Option<u64>) -> Option<Ranges> {
    match end {
        Some(end) if offset < end => Some(Ranges::of(&ByteRange { start: offset, end })),
        _ if offset == 0 => None,
        _ => Ranges::parse(&format!("bytes={offset}-")).ok()?,
    }
}
