//! The state shared by the parts of the pull-through step.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use oci::Digest;
use parking_lot::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::last_answers::{FAULT_VALIDITY, LastAnswers, is_refusal};
use super::partial_reads::PartialReads;
use super::siblings::Siblings;
use crate::access::Access;
use crate::flight::{Flight, Sharing};
use crate::found::Found;
use crate::from_peers::FromPeers;
use crate::images::Images;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::request::Target;
use crate::{
    Begun, Intake, IntakeError, PullThrough, Store, Upstream, UpstreamError, UpstreamReason,
    UpstreamRepository, Visibility, local,
};

/// The limit for upstream to resolve a tag before the last known answer is used.
pub const RESOLVE_LIMIT: Duration = Duration::from_secs(2);
/// The limit for upstream to begin sending, redirects and tokens included.
pub const BEGIN_LIMIT: Duration = Duration::from_secs(30);

/// The step of a pull that fetches for a store that the mirror fills.
pub struct PullThroughStep {
    pub(super) intake: Arc<dyn Intake>,
    pub(super) upstream: Arc<dyn Upstream>,
    pub(super) store: Arc<dyn Store>,
    pub(super) from_peers: Arc<FromPeers>,
    pub(super) flight: Option<Arc<Flight>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) images: Arc<Images>,
    pub(super) last_answers: LastAnswers,
    pub(super) parts: PartialReads,
    pub(super) siblings: Siblings,
    /// The running intakes. Each continues when its client leaves, for the next one.
    pub(super) tasks: TaskTracker,
    /// A text about the last object that was too large for the store, and when it came.
    too_large: Mutex<Option<(Instant, String)>>,
}

impl PullThroughStep {
    pub fn new(
        PullThrough { intake, upstream }: PullThrough,
        store: Arc<dyn Store>,
        from_peers: Arc<FromPeers>,
        flight: Option<Arc<Flight>>,
        images: Arc<Images>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            intake,
            upstream,
            store,
            from_peers,
            flight,
            metrics,
            images,
            last_answers: LastAnswers::default(),
            parts: PartialReads::default(),
            siblings: Siblings::default(),
            tasks: TaskTracker::new(),
            too_large: Mutex::default(),
        }
    }

    /// Finds the requested content in the store.
    ///
    /// # Errors
    /// There is no memory to read and verify it.
    pub(super) async fn find_stored(
        &self,
        target: &Target,
        access: &Access,
    ) -> Result<Option<Found>, Refusal> {
        local::find(&self.store, self.from_peers.memory(), access, target).await
    }

    /// Sets whether other nodes may have an object that this node is taking in.
    pub(super) fn share(&self, digest: &Digest, visibility: Visibility) {
        let sharing = match visibility {
            Visibility::Shared => Sharing::Shared,
            Visibility::Private => Sharing::Private,
        };
        if let Some(flight) = &self.flight {
            flight.share(digest, sharing);
        }
    }

    /// Counts bytes that upstream sent, for this reason.
    pub(super) fn count_upstream(&self, target: &Target, reason: UpstreamReason, bytes: u64) {
        self.metrics.count_upstream(reason, bytes);
        if let Some(activity) = &target.pull.activity {
            activity.bytes.add_upstream(reason, bytes);
        }
    }

    /// Begins to take in an object, on a blocking thread.
    pub(super) async fn begin(&self, digest: &Digest) -> Result<Begun, IntakeError> {
        let (intake, digest) = (self.intake.clone(), digest.clone());
        let begun = spawn_blocking(move || intake.begin(&digest)).await;
        begun.map_err(io::Error::other)?
    }

    /// Records that an object is sent without being kept. If the disk is the reason, the store itself reports this,
    /// once.
    pub(super) fn not_kept(&self, digest: &Digest, error: &IntakeError) {
        match error {
            IntakeError::TooLarge { .. } => {
                tracing::warn!(%digest, %error, "sent to the client without being stored");
                *self.too_large.lock() = Some((Instant::now(), format!("not kept: {error}")));
            }
            IntakeError::Mismatch { .. } | IntakeError::TooLong { .. } => {
                tracing::warn!(%digest, %error, "upstream or a peer sent wrong bytes, and the client received them");
            }
            IntakeError::Crowded { .. } | IntakeError::Io(_) => {
                tracing::debug!(%digest, %error, "sent to the client without being stored");
            }
        }
    }

    /// Upstream's answer within `limit`. It changes the state of the registry for this node, unless the client uses
    /// credentials of its own.
    pub(super) async fn ask<T>(
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

    /// The same for a blob. A refusal of blobs is remembered apart from other answers.
    pub(super) async fn ask_for_blob<T>(
        &self,
        repository: &UpstreamRepository,
        asked: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        let answer = self.ask(repository, BEGIN_LIMIT, asked).await;
        if repository.credentials.is_none() {
            self.last_answers
                .note_blob(&repository.origin, answer.as_ref().err());
        }
        answer
    }

    /// The refusal for a client that gets nothing from upstream. If upstream fails, peers are the only sources.
    pub(super) fn failed(target: &Target, error: UpstreamError) -> Refusal {
        if !is_refusal(&error) {
            target.pull.upstream_failed();
        }
        Refusal::Upstream(target.kind, error)
    }

    /// The latest faults of registries and of keeping content, one line each, for `/readyz`.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.last_answers.faults();
        let too_large = self.too_large.lock().clone();
        let recent = too_large.filter(|(at, _)| at.elapsed() < FAULT_VALIDITY);
        faults.extend(recent.map(|(_, text)| text));
        faults
    }
}
