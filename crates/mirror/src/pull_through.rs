//! The way to the registry, for a store that the mirror fills itself: what the store lacks comes from other nodes, else
//! from upstream, and is kept on the way where it can be.
//!
//! This is done for the node's own clients alone: upstream is asked with the node's credentials, and what is on its way
//! shows only when it has arrived whether it took them. A remote client gets what is here and shared, or what a peer has.
//!
//! Unlike containerd, the clients of such a store take one source for a whole image. So a client never gets less here
//! than at the registry: a part is fetched as a part, what cannot be kept is handed on all the same, and the first
//! answer of an image is given only if the rest can be had (`promise`).

mod blob;
mod client;
mod download;
mod fill;
mod last_answers;
mod list;
mod manifest;
mod parts;
mod promise;
mod sources;
mod tag;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use oci::{Digest, Reference};
use parking_lot::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::flight::{Flight, Sharing};
use crate::found::Found;
use crate::from_peers::FromPeers;
use crate::images::Images;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::request::{Kind, RequestError, Target};
use crate::{
    Begun, Intake, IntakeError, Store, Upstream, UpstreamError, UpstreamRepository, Visibility,
};

use last_answers::LastAnswers;
use parts::Parts;

pub use client::Client;
pub use download::{Download, DownloadError};

/// How long upstream may take to say what a tag points at before the last known answer is given.
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);
/// How long upstream may take to begin sending, redirects and tokens included.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);
/// For so long a fault is told at `/readyz`.
const FAULT_VALIDITY: Duration = Duration::from_secs(300);

/// The step of a pull that fetches.
pub struct PullThrough {
    tools: Arc<Tools>,
    parts: Parts,
    /// Objects on their way into the store; each goes on when its client leaves, for the next one.
    tasks: TaskTracker,
}

/// What this step needs of the others.
struct Tools {
    intake: Arc<dyn Intake>,
    upstream: Arc<dyn Upstream>,
    store: Arc<dyn Store>,
    from_peers: Arc<FromPeers>,
    flight: Option<Arc<Flight>>,
    metrics: Arc<Metrics>,
    images: Images,
    last_answers: LastAnswers,
    /// The last object that was too large for the store, in words, and when it came.
    too_large: Mutex<Option<(Instant, String)>>,
}

impl Tools {
    /// Says whether others may have what comes of an object that this node takes in.
    fn share(&self, digest: &Digest, visibility: Visibility) {
        let sharing = match visibility {
            Visibility::Shared => Sharing::Shared,
            Visibility::Private => Sharing::Private,
        };
        if let Some(flight) = &self.flight {
            flight.share(digest, sharing);
        }
    }

    /// Begins to take in an object, on a thread that may wait for the disk.
    async fn begin(&self, digest: &Digest) -> Result<Begun, IntakeError> {
        let (intake, digest) = (self.intake.clone(), digest.clone());
        let begun = spawn_blocking(move || intake.begin(&digest)).await;
        begun.map_err(io::Error::other)?
    }

    /// An object is handed on without being kept. Where the disk is the reason, the store says so itself, once.
    fn not_kept(&self, digest: &Digest, error: &IntakeError) {
        match error {
            IntakeError::TooLarge { .. } => {
                tracing::warn!(%digest, %error, "passed on without being kept");
                *self.too_large.lock() = Some((Instant::now(), format!("not kept: {error}")));
            }
            IntakeError::Mismatch { .. } | IntakeError::TooLong { .. } => {
                tracing::warn!(%digest, %error, "what was passed on was wrong");
            }
            IntakeError::Crowded { .. } | IntakeError::Io(_) => {
                tracing::debug!(%digest, %error, "passed on without being kept");
            }
        }
    }

    /// What upstream answers within `limit`. How it stands with this node follows from that, but not from what a client
    /// gets with credentials of its own.
    async fn ask<T>(
        &self,
        repository: &UpstreamRepository,
        limit: Duration,
        asked: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        let answer = match tokio::time::timeout(limit, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(UpstreamError::Failed(
                repository.origin.clone(),
                format!("no answer within {limit:?}"),
            )),
        };
        if repository.credentials.is_none() {
            self.last_answers
                .note(&repository.origin, answer.as_ref().err());
        }
        answer
    }
}

impl PullThrough {
    pub fn new(
        (intake, upstream): (Arc<dyn Intake>, Arc<dyn Upstream>),
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
            images: Images::default(),
            last_answers: LastAnswers::default(),
            too_large: Mutex::default(),
        });
        Self {
            tools,
            parts: Parts::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Finds what is asked for here, at other nodes or upstream.
    ///
    /// # Errors
    /// None of them gave it, or it may not be handed to this caller.
    pub async fn find(
        &self,
        target: &Target,
        client: &Client,
        access: &Access,
    ) -> Result<Found, Refusal> {
        let found = match (target.kind, &target.reference) {
            (Kind::Manifest, Reference::Tag(_)) => self.tag(target, client, access).await,
            (Kind::Manifest, Reference::Digest(digest)) => {
                self.manifest(target, digest, client, access).await
            }
            (Kind::Blob, Reference::Digest(digest)) => {
                self.blob(target, digest, client, access).await
            }
            (Kind::Blob, Reference::Tag(_)) => Err(RequestError::BlobByTag.into()),
        };
        found.map_err(|refusal| client.told(refusal))
    }

    /// What went wrong lately with registries and with keeping what came, a line for each, for `/readyz`.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.tools.last_answers.faults();
        let too_large = self.tools.too_large.lock().clone();
        let recent = too_large.filter(|(at, _)| at.elapsed() < FAULT_VALIDITY);
        faults.extend(recent.map(|(_, text)| text));
        faults
    }
}
