//! Does upstream say so too: the step of a pull between *may they* and *have we got it*, for a store that containerd
//! fills. A tag means what upstream says that it means now, and content that upstream refuses to an anonymous client
//! is handed to nobody.
//!
//! - A client's request by tag, and for a manifest of a repository that is not known to be public, is put to upstream
//!   as an anonymous `HEAD`, at the host that containerd would ask next ([`UpstreamCheck::admit`]).
//! - What upstream refuses is answered with 404: containerd then asks upstream with the credentials of whoever pulls.
//!   Layers of such a repository come from peers only if upstream has just granted the manifest to this node
//!   ([`Grants`]).
//! - What this node holds is shown under a registry and repository under which it is held and public ([`UpstreamCheck::shows`]).
//!
//! Whoever is not proven to be this node's own client starts no check where a node secret is set, and few without one
//! ([`Asker`]).
//!
//! An answer is waited for [`WAIT`] at the most, once in a while for each registry; then it goes on in the background.
//! Rules, limits and what they cost a registry: `docs/decisions/0013-one-check-upstream.md`.

mod answers;
mod ask;
mod grants;
mod policy;
mod proofs;
mod registries;
mod show;

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use oci::{Digest, Origin, Reference, TagName};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use self::answers::{Answers, RepositoryStatus};
use self::grants::Grants;
use crate::body::send_memory::SendMemory;
use crate::found::{Found, Payload, Source};
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::request::{Caller, Kind, Target};
use crate::{
    ClientCredentials, Store, Upstream, UpstreamHead, UpstreamRepository, Visibility, local,
};

pub use policy::{CheckOptions, PolicyError, PrivatePolicies, PrivatePolicy, TagPolicy};
pub use registries::RegistryState;

/// How long an answer of upstream is waited for.
const WAIT: Duration = Duration::from_millis(500);
/// Objects that this node's own client asked for, and the repositories under which it did, each.
const MAX_PULLED: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
const MAX_PULLED_UNDER: usize = 8;
/// Questions with credentials of clients that are not this node's own, at the same time: nobody else waits for these.
const MAX_WITH_CREDENTIALS: usize = 4;

/// What upstream is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Question {
    Tag(TagName),
    Manifest(Origin, Digest),
    /// Whether a repository gives the bytes of an object that this node holds.
    Bytes(Origin, Digest),
}

impl Question {
    fn origin(&self) -> &Origin {
        match self {
            Self::Tag(name) => &name.origin,
            Self::Manifest(origin, _) | Self::Bytes(origin, _) => origin,
        }
    }

    fn reference(&self) -> Reference {
        match self {
            Self::Tag(name) => Reference::Tag(name.tag.clone()),
            Self::Manifest(_, digest) | Self::Bytes(_, digest) => Reference::Digest(digest.clone()),
        }
    }
}

/// What upstream says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Granted(UpstreamHead),
    /// Not to an anonymous client.
    Refused,
    NotFound,
    /// It was reached, and says neither yes nor no: 429, 5xx, or something against the specification.
    Failed,
    /// It was reached lately, and does not answer in time.
    Slow,
    Unreachable,
}

impl Answer {
    fn label(&self) -> &'static str {
        match self {
            Self::Granted(_) => "granted",
            Self::Refused => "refused",
            Self::NotFound => "not_found",
            Self::Failed => "failed",
            Self::Slow => "slow",
            Self::Unreachable => "unreachable",
        }
    }
}

/// On whose behalf upstream is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// This node's own client, by the node secret.
    ProvenOwn,
    /// This node's own client as far as anybody can tell without a secret: it asks from this host, or owns the pull.
    Own,
    /// Anybody else, where no secret tells. All of them have some questions a minute, and fewer to registries that have never
    /// answered.
    Anybody,
    /// Somebody without the node secret, where one is set: nothing is asked, and what is known counts.
    Unauthenticated,
    /// This node, on behalf of somebody else, about a repository under which it holds what is asked for: within what all of
    /// [`Self::Anybody`] have.
    Holder,
}

impl Asker {
    /// Whether it is this node's own client, as far as anybody can tell.
    fn is_own(self) -> bool {
        matches!(self, Self::ProvenOwn | Self::Own)
    }
}

/// The step. Cheap to clone.
#[derive(Clone)]
pub struct UpstreamCheck(Arc<Inner>);

struct Inner {
    upstream: Arc<dyn Upstream>,
    store: Arc<dyn Store>,
    memory: SendMemory,
    options: CheckOptions,
    answers: Mutex<Answers>,
    grants: Grants,
    /// What this node's own client asked for and where: containerd's labels are known a moment after it has committed
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

    /// How the registries are that were asked.
    pub fn registries(&self) -> Vec<RegistryState> {
        self.0.answers.lock().registries.states()
    }

    /// Keeps the proofs on disk, for ever.
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

    /// Decides whether a client may have what it asks for, and turns a tag into the digest that upstream says it has
    /// now. Returns what upstream said, where it was asked about this very manifest.
    ///
    /// # Errors
    /// The client is to ask upstream itself.
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

    /// Records where this node's own client pulls what the node does not hold. Of what it holds, the name says nothing.
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

    /// What upstream is asked before a manifest is given. `None`: nothing.
    ///
    /// # Errors
    /// Tags are looked up by the client itself.
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
        // Whether upstream says what the tag is; else it says only what is public.
        let is_fresh = is_tag && self.0.options.tags == TagPolicy::Fresh;
        let status = self.0.answers.lock().status(origin);
        if let Some(credentials) = credentials
            && !status.was_public()
        {
            return self.admit_with(origin, &question, credentials, asker).await;
        }
        match status {
            RepositoryStatus::Public if !is_fresh => return Ok(None),
            // No node hands a manifest of such a repository on.
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
            // It was given to this node, by what hosts.toml says of it.
            Answer::Granted(_) => refused(),
            // Nodes may have a tag that upstream has no longer.
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

    /// Records whether this node's own client was sent upstream for a manifest because there was no answer. Of others it says
    /// nothing: they would take layers of a repository away from its own pulls.
    fn set_unproven(&self, origin: &Origin, asker: Asker, is_unproven: bool) {
        if asker.is_own() {
            self.0.answers.lock().set_unproven(origin, is_unproven);
        }
    }

    /// A client that shows credentials gets what upstream grants to these, and nothing of it is remembered for others.
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

    /// Layers of a repository that is not public are for the node's own client alone, after upstream has given it a
    /// manifest that names them.
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

    /// The answer to a client that asks for the head of a manifest, as upstream gave it just now.
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
