//! Whence do we take it in: for a store that the mirror fills itself. What is asked for is taken from peers, else from
//! upstream, written into the store, and sent to the client while it grows there.
//!
//! This is done for the node's own clients alone: upstream is asked with the node's credentials, and what is on its way
//! shows only when it has arrived whether it took them. A stranger gets what is here and shared, or what a peer has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use oci::{Digest, MediaType, Origin, Ranges, Reference};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::body::BodyError;
use crate::flight::{Flight, Sharing};
use crate::found::{Found, Payload, Source};
use crate::from_peers::FromPeers;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::request::{Kind, Target};
use crate::{
    Begun, Growing, Intake, IntakeError, Provenance, Sink, Stage, Store, Upstream, UpstreamError,
    Visibility, local,
};

/// How long upstream may take to say what a tag points at before the last known answer is given.
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);
/// How long upstream may take to begin sending, redirects and tokens included.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);
/// An upstream whose bytes stop for this long has broken.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// Times in a row that a body is taken up again where a source broke, without a byte between them.
const MOST_BREAKS: u32 = 5;

pub struct TakeIn {
    tools: Arc<Tools>,
    /// Objects being taken in; each goes on when its client leaves, for the next one.
    tasks: TaskTracker,
}

struct Tools {
    intake: Arc<dyn Intake>,
    upstream: Arc<dyn Upstream>,
    store: Arc<dyn Store>,
    from_peers: Arc<FromPeers>,
    flight: Option<Arc<Flight>>,
    metrics: Arc<Metrics>,
}

impl Tools {
    /// Finds an object that this node has begun to take in at another node.
    async fn find(&self, target: &Target) -> Result<Found, Refusal> {
        match &self.flight {
            Some(flight) => flight.find(target, Sharing::Unknown).await,
            None => self.from_peers.find(target).await,
        }
    }

    /// Says whether others may have what comes of an object that is being taken in.
    fn share(&self, digest: &Digest, visibility: Visibility) {
        let sharing = match visibility {
            Visibility::Shared => Sharing::Shared,
            Visibility::Private => Sharing::Private,
        };
        if let Some(flight) = &self.flight {
            flight.share(digest, sharing);
        }
    }
}

/// A source that has begun to send.
struct Begin {
    /// Why upstream sends it; `None`: a peer does.
    from_upstream: Option<&'static str>,
    visibility: Visibility,
    /// Of the whole object.
    size: Option<u64>,
    body: BoxStream<'static, Result<Bytes, FillError>>,
}

#[derive(Debug, thiserror::Error)]
enum FillError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Peer(#[from] BodyError),
    #[error(transparent)]
    Intake(#[from] IntakeError),
    #[error("no bytes for {STALL_LIMIT:?}")]
    Stalled,
    #[error("the sources ended at {0} bytes, too early")]
    Short(u64),
}

impl TakeIn {
    pub fn new(
        intake: Arc<dyn Intake>,
        upstream: Arc<dyn Upstream>,
        store: Arc<dyn Store>,
        from_peers: Arc<FromPeers>,
        flight: Option<Arc<Flight>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let tools = Arc::new(Tools {
            intake,
            upstream,
            store,
            from_peers,
            flight,
            metrics,
        });
        Self {
            tools,
            tasks: TaskTracker::new(),
        }
    }

    /// Takes in what is asked for.
    ///
    /// # Errors
    /// Neither a peer nor upstream gave it, or it may not be handed to this caller.
    pub async fn find(&self, target: &Target, access: &Access) -> Result<Found, Refusal> {
        match (target.kind, &target.reference) {
            (Kind::Manifest, Reference::Tag(_)) => self.tag(target, access).await,
            (Kind::Manifest, Reference::Digest(digest)) => self.manifest(target, digest).await,
            (Kind::Blob, Reference::Digest(digest)) => self.blob(target, digest, access).await,
            (Kind::Blob, Reference::Tag(_)) => Err(crate::request::RequestError::BlobByTag.into()),
        }
    }

    /// Upstream says what the tag points at; while it cannot, the store's last answer stands, then the peers'.
    async fn tag(&self, target: &Target, access: &Access) -> Result<Found, Refusal> {
        let (Some(origin), Some(name)) = (&target.origin, target.tag_name()) else {
            return Err(Refusal::NoPeer(target.kind));
        };
        let resolved = timeout(
            RESOLVE_LIMIT,
            self.tools.upstream.resolve(origin, &target.reference),
        )
        .await;
        match resolved {
            Ok(Ok(digest)) => {
                let by_digest = Target {
                    reference: Reference::Digest(digest.clone()),
                    ..target.clone()
                };
                let found = match local::find(&*self.tools.store, access, &by_digest) {
                    Some(found) => found,
                    None => self.manifest(&by_digest, &digest).await?,
                };
                self.tools.intake.tag(&name, &digest);
                Ok(found)
            }
            Ok(Err(error @ (UpstreamError::NotFound(_) | UpstreamError::Denied(_)))) => {
                Err(error.into())
            }
            Ok(Err(_)) | Err(_) => match local::find(&*self.tools.store, access, target) {
                Some(found) => Ok(found),
                None => self.tools.from_peers.find(target).await,
            },
        }
    }

    async fn manifest(&self, target: &Target, digest: &Digest) -> Result<Found, Refusal> {
        let (sink, found) = self.begin_manifest(target, digest).await;
        let (found, visibility) = match found {
            Ok(found) => (found, Visibility::Shared),
            Err(refusal) => {
                let reason = refusal.reason();
                let origin = target.origin.as_ref().ok_or(refusal)?;
                let asked = self.tools.upstream.manifest(origin, &target.reference);
                let fetched = timeout(BEGIN_LIMIT, asked)
                    .await
                    .map_err(|_| late(origin))??;
                self.tools
                    .metrics
                    .count_upstream(reason, fetched.bytes.len() as u64);
                let found = local::manifest(digest, fetched.bytes, Source::Upstream);
                let found = found.ok_or_else(|| {
                    UpstreamError::Protocol(origin.clone(), "what it sent is not a manifest".into())
                })?;
                (found, fetched.visibility)
            }
        };
        self.tools.share(digest, visibility);
        if let (Some(sink), Payload::Bytes(bytes)) = (sink, &found.payload)
            && let Err(error) = keep(sink, target, bytes.clone(), visibility).await
        {
            tracing::warn!(%digest, %error, "could not store a manifest; it is handed over all the same");
        }
        Ok(found)
    }

    /// Asks other nodes for a manifest, and opens the way into the store before: the flight offers what is on its way.
    /// Whoever comes second looks for it himself, and does not keep it.
    async fn begin_manifest(
        &self,
        target: &Target,
        digest: &Digest,
    ) -> (Option<Box<dyn Sink>>, Result<Found, Refusal>) {
        let sink = match self.tools.intake.begin(digest) {
            Ok(Begun::New(sink, _)) => Some(sink),
            Ok(Begun::Present(_) | Begun::Joined(_)) => None,
            Err(error) => {
                tracing::warn!(%digest, %error, "cannot store a manifest; it is passed on without being kept");
                None
            }
        };
        let whole = Target {
            head_only: false,
            ..target.clone()
        };
        let found = match &sink {
            Some(_) => self.tools.find(&whole).await,
            None => self.tools.from_peers.find(&whole).await,
        };
        (sink, found)
    }

    async fn blob(
        &self,
        target: &Target,
        digest: &Digest,
        access: &Access,
    ) -> Result<Found, Refusal> {
        let found = |size, payload, source| Found {
            digest: digest.clone(),
            media_type: MediaType::octet_stream(),
            size,
            payload,
            source,
        };
        let begun = match self.tools.intake.begin(digest) {
            Ok(begun) => begun,
            Err(error) => {
                tracing::warn!(%digest, %error, "cannot store a blob; it is passed on without being kept");
                return self.tools.from_peers.find(target).await;
            }
        };
        match begun {
            Begun::Present(_) => self.stored(target, access),
            Begun::Joined(growing) => {
                let (size, growing) = sized(growing, target).await?;
                Ok(found(size, Payload::Growing(growing, None), Source::Local))
            }
            Begun::New(sink, growing) => {
                let (tell, told) = oneshot::channel();
                let fill = Fill {
                    tools: self.tools.clone(),
                    target: target.clone(),
                    digest: digest.clone(),
                };
                self.tasks.spawn(fill.run(sink, tell));
                let source = told.await.map_err(|_| Refusal::NoPeer(target.kind))??;
                let (size, growing) = sized(growing, target).await?;
                Ok(found(size, Payload::Growing(growing, None), source))
            }
        }
    }

    fn stored(&self, target: &Target, access: &Access) -> Result<Found, Refusal> {
        local::find(&*self.tools.store, access, target).ok_or(Refusal::NotHere(target.kind))
    }
}

async fn keep(
    mut sink: Box<dyn Sink>,
    target: &Target,
    bytes: Bytes,
    visibility: Visibility,
) -> Result<(), IntakeError> {
    sink.expect(bytes.len() as u64).await?;
    sink.write(bytes).await?;
    let origin = target.origin.clone();
    sink.commit(Provenance { origin, visibility }).await
}

fn late(origin: &Origin) -> UpstreamError {
    UpstreamError::Unreachable(origin.clone(), format!("no answer within {BEGIN_LIMIT:?}"))
}

/// Waits until the size of a growing object is known.
async fn sized(mut growing: Growing, target: &Target) -> Result<(u64, Growing), Refusal> {
    let known = growing.until(|p| p.total.is_some() || p.stage != Stage::Filling);
    let progress = timeout(BEGIN_LIMIT, known)
        .await
        .map_err(|_| Refusal::NotHere(target.kind))?;
    let size = progress
        .total
        .or((progress.stage == Stage::Complete).then_some(progress.written));
    Ok((size.ok_or(Refusal::NotHere(target.kind))?, growing))
}

/// Takes in one blob.
struct Fill {
    tools: Arc<Tools>,
    target: Target,
    digest: Digest,
}

type Told = oneshot::Sender<Result<Source, Refusal>>;

impl Fill {
    async fn run(self, mut sink: Box<dyn Sink>, tell: Told) {
        let begin = match self.begin(0).await {
            Ok(begin) => begin,
            Err(refusal) => {
                // The client may have left; then nobody needs to know.
                let _ = tell.send(Err(refusal));
                return;
            }
        };
        let source = match begin.from_upstream {
            Some(_) => Source::Upstream,
            None => Source::Peer,
        };
        let _ = tell.send(Ok(source));
        let visibility = match self.fill(&mut *sink, begin).await {
            Ok(visibility) => visibility,
            Err(error) => {
                tracing::warn!(digest = %self.digest, %error, "could not take in a blob");
                return;
            }
        };
        let provenance = Provenance {
            origin: self.target.origin.clone(),
            visibility,
        };
        if let Err(error) = sink.commit(provenance).await {
            tracing::warn!(digest = %self.digest, %error, "could not store a blob");
        }
    }

    /// Writes the whole object, going on with another source where one breaks. It is private if one of them was.
    async fn fill(&self, sink: &mut dyn Sink, mut begin: Begin) -> Result<Visibility, FillError> {
        let size = begin.size;
        let mut visibility = begin.visibility;
        if let Some(size) = size {
            sink.expect(size).await?;
        }
        let mut breaks = 0;
        let mut reached = 0;
        while breaks <= MOST_BREAKS {
            let failed = loop {
                let bytes = match timeout(STALL_LIMIT, begin.body.next()).await {
                    Ok(Some(Ok(bytes))) => bytes,
                    Ok(Some(Err(error))) => break error,
                    Ok(None) if size.is_none_or(|size| size == sink.written()) => {
                        return Ok(visibility);
                    }
                    Ok(None) => break FillError::Short(sink.written()),
                    Err(_) => break FillError::Stalled,
                };
                if let Some(reason) = begin.from_upstream {
                    self.tools
                        .metrics
                        .count_upstream(reason, bytes.len() as u64);
                }
                sink.write(bytes).await?;
            };
            tracing::debug!(digest = %self.digest, error = %failed, "a source broke; going on with another");
            breaks = if sink.written() > reached {
                0
            } else {
                breaks + 1
            };
            reached = sink.written();
            begin = match self.begin(sink.written()).await {
                Ok(begin) => begin,
                Err(_) => return Err(failed),
            };
            if begin.visibility == Visibility::Private {
                visibility = Visibility::Private;
            }
        }
        Err(FillError::Short(sink.written()))
    }

    /// Opens the object from an offset on: at a peer, else upstream.
    async fn begin(&self, offset: u64) -> Result<Begin, Refusal> {
        let rest = Target {
            ranges: rest(offset),
            head_only: false,
            ..self.target.clone()
        };
        let refusal = match self.tools.find(&rest).await {
            Ok(found) => {
                self.tools.share(&self.digest, Visibility::Shared);
                return Ok(from_peer(found, offset));
            }
            Err(refusal) => refusal,
        };
        let reason = refusal.reason();
        let origin = self.target.origin.as_ref().ok_or(refusal)?;
        let asked = self.tools.upstream.blob(origin, &self.digest, offset);
        let blob = timeout(BEGIN_LIMIT, asked)
            .await
            .map_err(|_| late(origin))??;
        self.tools.share(&self.digest, blob.visibility);
        Ok(Begin {
            from_upstream: Some(reason),
            visibility: blob.visibility,
            size: blob.size,
            body: blob.body.map_err(FillError::from).boxed(),
        })
    }
}

/// All from an offset on.
fn rest(offset: u64) -> Option<Ranges> {
    let ranges = (offset > 0).then(|| Ranges::parse(&format!("bytes={offset}-")));
    ranges?.ok()?
}

fn from_peer(found: Found, offset: u64) -> Begin {
    let parts = vec![crate::body::Part::Range(offset..found.size)];
    let body = crate::body::of(found.payload, parts, Source::Peer);
    Begin {
        from_upstream: None,
        visibility: Visibility::Shared,
        size: Some(found.size),
        body: http_body_util::BodyDataStream::new(body)
            .map_err(FillError::from)
            .boxed(),
    }
}
