//! Asks upstream whether a client may have the content, for a store that containerd fills: the step between access and
//! the search in this node's store. The target of a tag is the one that upstream names now, and content that upstream
//! refuses to an anonymous client is sent to no client.
//!
//! - A client's request by tag, and one for a manifest of a repository that is not known to be public, is sent to
//!   upstream as an anonymous `HEAD`, at the host that containerd would ask next ([`UpstreamCheck::admit`]).
//! - What upstream refuses is answered with 404: containerd then asks upstream with the credentials of the pull.
//!   Layers of such a repository come from peers only if upstream has just granted the manifest to this node
//!   ([`Grants`]).
//! - Content of this node is shown under a registry and repository under which it is held and public
//!   ([`UpstreamCheck::shows`]).
//!
//! A client that is not proven to be this node's own causes no check if a node secret is set, and few without one
//! ([`Asker`]).
//!
//! The wait for an answer is limited to [`WAIT`], once in a while for each registry; then the check continues in the
//! background. Rules, limits and the cost for a registry: `docs/decisions/0013-one-check-upstream.md`.

mod answers;
mod ask;
#[cfg(test)]
pub(crate) mod fake;
mod grants;
mod policy;
mod proofs;
mod question;
mod registries;
mod show;

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use oci::{Digest, Origin, Ranges, Reference, TagName};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use self::answers::{Answers, RepositoryStatus};
use self::grants::Grants;
use self::question::{Answer, Question};
use crate::body::send_memory::SendMemory;
use crate::found::{Found, Payload, Source};
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::request::{Caller, Kind, Target};
use crate::{
    ClientCredentials, Store, Upstream, UpstreamBlob, UpstreamError, UpstreamHead,
    UpstreamRepository, Visibility, local,
};

pub use policy::{CheckOptions, PolicyError, PrivatePolicies, PrivatePolicy, TagPolicy};
pub use question::Asker;
pub use registries::RegistryState;

/// The limit of the wait for an answer of upstream.
const WAIT: Duration = Duration::from_millis(500);
/// The most objects that this node's own client requested, each with the repositories of the requests.
const MAX_PULLED: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
const MAX_PULLED_UNDER: usize = 8;
/// The most concurrent questions with credentials of clients that are not this node's own: no other request waits for
/// these.
const MAX_WITH_CREDENTIALS: usize = 4;

/// The step of the pipeline. Cheap to clone.
#[derive(Clone)]
pub struct UpstreamCheck(Arc<Inner>);

struct Inner {
    upstream: Arc<dyn Upstream>,
    store: Arc<dyn Store>,
    memory: SendMemory,
    options: CheckOptions,
    answers: Mutex<Answers>,
    grants: Grants,
    /// What this node's own client requested and where: containerd's labels are known a moment after it has committed
    /// an object.
    pulled: Mutex<LruCache<Digest, BTreeSet<Origin>>>,
    running: Mutex<HashMap<Question, watch::Receiver<Option<Answer>>>>,
    with_credentials: Semaphore,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
}

impl UpstreamCheck {
    pub fn new(
        upstream: Arc<dyn Upstream>,
        (store, memory): (Arc<dyn Store>, SendMemory),
        options: CheckOptions,
        metrics: Arc<Metrics>,
    ) -> Self {
        let mut answers = Answers::new(options.public_proof_max_age, options.tag_max_age);
        if let Some(file) = &options.proofs_file {
            answers.restore(proofs::read(file));
        }
        Self(Arc::new(Inner {
            upstream,
            store,
            memory,
            answers: Mutex::new(answers),
            options,
            grants: Grants::default(),
            pulled: Mutex::new(LruCache::new(MAX_PULLED)),
            running: Mutex::default(),
            with_credentials: Semaphore::new(MAX_WITH_CREDENTIALS),
            tasks: TaskTracker::new(),
            metrics,
        }))
    }

    /// The states of the registries that were asked.
    pub fn registries(&self) -> Vec<RegistryState> {
        self.0.answers.lock().registries.states()
    }

    /// Keeps the proofs on disk. Never returns.
    pub async fn keep_proofs(&self) {
        let Some(file) = &self.0.options.proofs_file else {
            return std::future::pending().await;
        };
        let refused = self.0.answers.lock().refused();
        proofs::keep(file, &refused, || {
            let mut answers = self.0.answers.lock();
            answers.take_changed().then(|| answers.proofs())
        })
        .await;
    }

    /// Decides whether a client may have the requested content, and resolves a tag to upstream's present digest.
    /// Returns upstream's answer, if it was asked about this very manifest.
    ///
    /// # Errors
    /// The client must ask upstream itself.
    pub async fn admit(
        &self,
        target: &mut Target,
        credentials: Option<&ClientCredentials>,
        asker: Asker,
    ) -> Result<Option<UpstreamHead>, Refusal> {
        let Some(origin) = target.origin.clone() else {
            return Ok(None);
        };
        self.note_pull(&origin, target);
        if let (Kind::Blob, Some(digest)) = (target.kind, target.digest()) {
            return self.admit_blob(&origin, digest, asker).await;
        }
        let head = self
            .admit_manifest(&origin, target, credentials, asker)
            .await?;
        if let (Some(head), Reference::Tag(_)) = (&head, &target.reference)
            && let Some(digest) = &head.digest
            && self.0.options.tags == TagPolicy::Fresh
        {
            target.reference = Reference::Digest(digest.clone());
        }
        Ok(head)
    }

    /// Records from where this node's own client pulls an object that the node does not hold. For an object that it
    /// holds, the name proves nothing.
    fn note_pull(&self, origin: &Origin, target: &Target) {
        if let (Caller::Own, Some(digest)) = (target.caller, target.digest())
            && self.0.store.catalog().object(digest).is_none()
        {
            let mut pulled = self.0.pulled.lock();
            let under = pulled.get_or_insert_mut(digest.clone(), BTreeSet::new);
            if under.len() < MAX_PULLED_UNDER {
                under.insert(origin.clone());
            }
        }
    }

    /// The question to upstream before a manifest is sent. `None`: there is none.
    ///
    /// # Errors
    /// The client must look up tags itself.
    fn question_about(
        &self,
        origin: &Origin,
        reference: &Reference,
    ) -> Result<Option<Question>, Refusal> {
        let options = &self.0.options;
        let shares = options.private.of(origin) == PrivatePolicy::Share;
        Ok(match reference {
            Reference::Tag(_) if options.tags == TagPolicy::Upstream => {
                return Err(Refusal::TagUnchecked("--tag-policy upstream"));
            }
            Reference::Tag(_) if options.tags == TagPolicy::Peers && shares => None,
            Reference::Tag(tag) => Some(Question::Tag(TagName {
                origin: origin.clone(),
                tag: tag.clone(),
            })),
            Reference::Digest(_) if shares => None,
            Reference::Digest(digest) => Some(Question::Manifest(origin.clone(), digest.clone())),
        })
    }

    async fn admit_manifest(
        &self,
        origin: &Origin,
        target: &Target,
        credentials: Option<&ClientCredentials>,
        asker: Asker,
    ) -> Result<Option<UpstreamHead>, Refusal> {
        let policy = self.0.options.private.of(origin);
        let Some(question) = self.question_about(origin, &target.reference)? else {
            return Ok(None);
        };
        let is_tag = matches!(question, Question::Tag(_));
        // Whether upstream resolves the tag; otherwise it only shows what is public.
        let is_fresh = is_tag && self.0.options.tags == TagPolicy::Fresh;
        let status = self.0.answers.lock().status(origin);
        if let Some(credentials) = credentials
            && !status.was_public()
        {
            return self.admit_with(origin, &question, credentials, asker).await;
        }
        match status {
            RepositoryStatus::Public if !is_fresh => return Ok(None),
            // No node passes a manifest of such a repository on.
            RepositoryStatus::Refused | RepositoryStatus::GivenToThisNode if !is_tag => {
                return Err(self.refused(&question, asker));
            }
            _ => {}
        }
        let refused = || self.refused(&question, asker);
        let refusal = match self.ask(&question, asker).await {
            Answer::Granted(head) if is_fresh && head.digest.is_none() => {
                Refusal::TagUnchecked("upstream does not say its digest")
            }
            Answer::Granted(head)
                if head.visibility == Visibility::Shared
                    || (target.head_only && asker == Asker::ProvenOwn) =>
            {
                self.set_unproven(origin, asker, false);
                return Ok(Some(head));
            }
            // It was given to this node because of its settings in hosts.toml.
            Answer::Granted(_) => refused(),
            // Nodes may have a tag that upstream no longer has.
            Answer::NotFound if is_tag && !is_fresh && status.was_public() => return Ok(None),
            Answer::Refused | Answer::NotFound => refused(),
            Answer::Unreachable => {
                let is_open = match policy {
                    PrivatePolicy::Share => true,
                    PrivatePolicy::Auto => !status.was_refused(),
                    PrivatePolicy::Protect => status.was_public(),
                };
                self.set_unproven(origin, asker, !is_open);
                if is_open {
                    return Ok(None);
                }
                refused()
            }
            Answer::Slow if is_fresh => {
                self.set_unproven(origin, asker, true);
                Refusal::TagUnchecked("upstream is slow")
            }
            Answer::Failed | Answer::Slow if status.was_public() => return Ok(None),
            Answer::Failed if is_tag && policy == PrivatePolicy::Share => return Ok(None),
            Answer::Failed | Answer::Slow => {
                self.set_unproven(origin, asker, true);
                refused()
            }
        };
        Err(refusal)
    }

    /// Whether upstream gave a manifest of the repository to an anonymous client lately, and answers in time.
    pub fn is_public(&self, origin: &Origin) -> bool {
        let mut answers = self.0.answers.lock();
        answers.status(origin) == RepositoryStatus::Public
            && answers.registries.is_worth_waiting(&origin.registry)
    }

    /// Opens a blob, or the first of `ranges`, at the host that containerd would ask next, as an anonymous client.
    ///
    /// # Errors
    /// Upstream does not send it.
    pub async fn open_blob(
        &self,
        origin: &Origin,
        digest: &Digest,
        ranges: Option<&Ranges>,
    ) -> Result<UpstreamBlob, UpstreamError> {
        let repository = UpstreamRepository::anonymous(origin);
        self.0.upstream.blob(&repository, digest, ranges).await
    }

    /// Records whether this node's own client was sent upstream for a manifest because there was no answer. Not for
    /// other clients: they could block layers of a repository for its own pulls.
    fn set_unproven(&self, origin: &Origin, asker: Asker, is_unproven: bool) {
        if asker.is_own() {
            self.0.answers.lock().set_unproven(origin, is_unproven);
        }
    }

    /// A client with credentials gets what upstream grants to these, and nothing is remembered for others.
    async fn admit_with(
        &self,
        origin: &Origin,
        question: &Question,
        credentials: &ClientCredentials,
        asker: Asker,
    ) -> Result<Option<UpstreamHead>, Refusal> {
        let registry = &origin.registry;
        let waits = self.0.answers.lock().registries.is_worth_waiting(registry);
        if !waits || !self.may_ask(origin, asker) {
            return Err(self.refused(question, asker));
        }
        let permit = match asker.is_own() {
            true => None,
            false => Some(self.0.with_credentials.try_acquire()),
        };
        if let Some(Err(_)) = permit {
            return Err(self.refused(question, asker));
        }
        let repository = UpstreamRepository {
            origin: origin.clone(),
            credentials: Some(credentials.clone()),
        };
        let reference = question.reference();
        let asked = self.0.upstream.head(&repository, &reference);
        match timeout(WAIT, asked).await {
            Ok(Ok(head)) => {
                if let Some(digest) = &head.digest
                    && let Some(bytes) = self.manifest_held(digest).await
                {
                    self.0.grants.grant(origin, &bytes);
                }
                Ok(Some(head))
            }
            Ok(Err(_)) => Err(self.refused(question, asker)),
            Err(_) => {
                self.0.answers.lock().registries.late(registry, true);
                Err(self.refused(question, asker))
            }
        }
    }

    async fn manifest_held(&self, digest: &Digest) -> Option<Bytes> {
        let digest = digest.clone();
        let read = move |store: &dyn Store| local::manifest_bytes(store, &digest);
        local::read_store(&self.0.store, read).await.ok()?
    }

    fn refused(&self, question: &Question, asker: Asker) -> Refusal {
        self.expect(question, asker);
        Refusal::NotPublic(Kind::Manifest, question.origin().clone())
    }

    /// Records that this node's own client now asks upstream for a manifest that the node does not hold.
    fn expect(&self, question: &Question, asker: Asker) {
        if let Question::Manifest(origin, digest) = question
            && asker == Asker::ProvenOwn
            && self.0.store.catalog().object(digest).is_none()
        {
            self.0.grants.expect(origin, digest);
        }
    }

    /// Layers of a repository that is not public are only for the node's own client, after upstream has given it a
    /// manifest with them.
    async fn admit_blob(
        &self,
        origin: &Origin,
        digest: &Digest,
        asker: Asker,
    ) -> Result<Option<UpstreamHead>, Refusal> {
        if self.0.options.private.of(origin) == PrivatePolicy::Share
            || !self.0.answers.lock().protects_blobs(origin)
            || (asker == Asker::ProvenOwn && self.0.grants.has(origin, digest, &self.0.store).await)
        {
            return Ok(None);
        }
        Err(Refusal::NotPublic(Kind::Blob, origin.clone()))
    }

    /// The answer to a request for the head of a manifest, from upstream's answer.
    pub fn head_found(head: &UpstreamHead) -> Option<Found> {
        let (media_type, size) = (head.media_type.clone()?, Some(head.size?));
        let digest = head.digest.as_ref()?;
        Some(Found::new(
            digest,
            media_type,
            size,
            Payload::Empty,
            Source::Upstream,
        ))
    }
}

#[cfg(test)]
mod tests;
