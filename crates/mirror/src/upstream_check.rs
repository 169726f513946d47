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
//! An answer is waited for [`WAIT`] at the most, once in a while for each registry; then it goes on in the background.
//! Rules, limits and what they cost a registry: `docs/decisions/0013-one-check-upstream.md`.

mod answers;
mod grants;
mod policy;
mod proofs;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use oci::{Digest, Origin, Ranges, Reference, TagName};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use self::answers::{Answers, Plan, Standing};
use self::grants::Grants;
use crate::found::{Found, Payload, Source};
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::request::{Kind, Target};
use crate::{
    ClientCredentials, Store, Upstream, UpstreamError, UpstreamHead, UpstreamRepository,
    Visibility, local,
};

pub use policy::{CheckOptions, PolicyError, PrivatePolicies, PrivatePolicy, TagPolicy};

/// How long an answer of upstream is waited for.
const WAIT: Duration = Duration::from_millis(500);
/// How long a question goes on in the background.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Questions on their way at the same time.
const MAX_RUNNING: usize = 64;
/// The repositories of one object that upstream is asked about.
const MAX_ORIGINS: usize = 3;
/// Bytes of an object that are compared with upstream's.
const SAMPLE: u64 = 64;

/// What upstream is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Question {
    Tag(TagName),
    Manifest(Origin, Digest),
    /// Whether a repository gives these bytes of an object.
    Bytes {
        origin: Origin,
        digest: Digest,
        offset: u64,
        bytes: Bytes,
    },
}

impl Question {
    fn origin(&self) -> &Origin {
        match self {
            Self::Tag(name) => &name.origin,
            Self::Manifest(origin, _) | Self::Bytes { origin, .. } => origin,
        }
    }

    fn reference(&self) -> Reference {
        match self {
            Self::Tag(name) => Reference::Tag(name.tag.clone()),
            Self::Manifest(_, digest) | Self::Bytes { digest, .. } => {
                Reference::Digest(digest.clone())
            }
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

/// The step. Cheap to clone.
#[derive(Clone)]
pub struct UpstreamCheck(Arc<Inner>);

struct Inner {
    upstream: Arc<dyn Upstream>,
    store: Arc<dyn Store>,
    options: CheckOptions,
    answers: Mutex<Answers>,
    grants: Grants,
    running: Mutex<HashMap<Question, watch::Receiver<Option<Answer>>>>,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
}

impl UpstreamCheck {
    pub fn new(
        upstream: Arc<dyn Upstream>,
        store: Arc<dyn Store>,
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
            answers: Mutex::new(answers),
            options,
            grants: Grants::default(),
            running: Mutex::default(),
            tasks: TaskTracker::new(),
            metrics,
        }))
    }

    /// Keeps the proofs on disk, for ever.
    pub async fn keep_proofs(&self) {
        let Some(file) = &self.0.options.proofs_file else {
            return std::future::pending().await;
        };
        proofs::keep(file, || {
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
        is_proven_own: bool,
    ) -> Result<Option<UpstreamHead>, Refusal> {
        let Some(origin) = target.origin.clone() else {
            return Ok(None);
        };
        if let (Kind::Blob, Some(digest)) = (target.kind, target.digest()) {
            return self.admit_blob(&origin, digest, is_proven_own).await;
        }
        let head = self.admit_manifest(&origin, target, credentials).await?;
        if let (Some(head), Reference::Tag(_)) = (&head, &target.reference)
            && let Some(digest) = &head.digest
            && self.0.options.tags == TagPolicy::Fresh
        {
            target.reference = Reference::Digest(digest.clone());
        }
        Ok(head)
    }

    async fn admit_manifest(
        &self,
        origin: &Origin,
        target: &Target,
        credentials: Option<&ClientCredentials>,
    ) -> Result<Option<UpstreamHead>, Refusal> {
        let options = &self.0.options;
        let policy = options.private.of(origin);
        let question = match &target.reference {
            Reference::Tag(_) if options.tags == TagPolicy::Upstream => {
                return Err(Refusal::TagUnchecked("--tag-policy upstream"));
            }
            Reference::Tag(_)
                if options.tags == TagPolicy::Peers && policy == PrivatePolicy::Share =>
            {
                return Ok(None);
            }
            Reference::Tag(tag) => Question::Tag(TagName {
                origin: origin.clone(),
                tag: tag.clone(),
            }),
            Reference::Digest(_) if policy == PrivatePolicy::Share => return Ok(None),
            Reference::Digest(digest) => Question::Manifest(origin.clone(), digest.clone()),
        };
        let is_tag = matches!(question, Question::Tag(_));
        let standing = self.0.answers.lock().standing(origin);
        if let Some(credentials) = credentials
            && !matches!(standing, Standing::Public | Standing::PublicOnce)
        {
            return self.admit_with(origin, &question, credentials).await;
        }
        match standing {
            Standing::Public | Standing::GivenToThisNode if !is_tag => return Ok(None),
            Standing::Refused if !is_tag => {
                return Err(self.refused(&question));
            }
            _ => {}
        }
        let was_public = matches!(standing, Standing::Public | Standing::PublicOnce);
        let refusal = match self.ask(&question).await {
            Answer::Granted(head) if is_tag && head.digest.is_none() => {
                Refusal::TagUnchecked("upstream does not say its digest")
            }
            Answer::Granted(head) => return Ok(Some(head)),
            Answer::Refused | Answer::NotFound => self.refused(&question),
            Answer::Unreachable => match (policy, standing) {
                (PrivatePolicy::Share, _) => return Ok(None),
                (PrivatePolicy::Auto, Standing::Refused) => self.refused(&question),
                (PrivatePolicy::Auto, _) => return Ok(None),
                (PrivatePolicy::Protect, _) if was_public => return Ok(None),
                (PrivatePolicy::Protect, _) => self.refused(&question),
            },
            Answer::Slow if is_tag => Refusal::TagUnchecked("upstream is slow"),
            Answer::Failed | Answer::Slow if was_public => return Ok(None),
            Answer::Failed if is_tag && policy == PrivatePolicy::Share => return Ok(None),
            Answer::Failed | Answer::Slow => self.refused(&question),
        };
        Err(refusal)
    }

    /// A client that shows credentials gets what upstream grants to these, and nothing of it is remembered for others.
    async fn admit_with(
        &self,
        origin: &Origin,
        question: &Question,
        credentials: &ClientCredentials,
    ) -> Result<Option<UpstreamHead>, Refusal> {
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
            Ok(Err(_)) | Err(_) => Err(self.refused(question)),
        }
    }

    async fn manifest_held(&self, digest: &Digest) -> Option<Bytes> {
        let digest = digest.clone();
        let read = move |store: &dyn Store| local::manifest_bytes(store, &digest);
        local::read_store(&self.0.store, read).await.ok()?
    }

    fn refused(&self, question: &Question) -> Refusal {
        if let Question::Manifest(origin, digest) = question
            && self.0.store.catalog().object(digest).is_none()
        {
            self.0.grants.expect(origin, digest);
        }
        Refusal::NotPublic(Kind::Manifest, question.origin().clone())
    }

    /// Layers of a repository that upstream has refused are for the node's own client alone, after upstream has given
    /// it a manifest that names them.
    async fn admit_blob(
        &self,
        origin: &Origin,
        digest: &Digest,
        is_proven_own: bool,
    ) -> Result<Option<UpstreamHead>, Refusal> {
        if self.0.options.private.of(origin) == PrivatePolicy::Share
            || self.0.answers.lock().standing(origin) != Standing::Refused
            || (is_proven_own && self.0.grants.has(origin, digest, &self.0.store).await)
        {
            return Ok(None);
        }
        Err(Refusal::NotPublic(Kind::Blob, origin.clone()))
    }

    /// Whether an object that this node holds may be handed to whoever asks for it.
    pub async fn shows(&self, target: &Target) -> bool {
        let catalog = self.0.store.catalog();
        let digest = match &target.reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(_) => target.tag_name().and_then(|name| catalog.resolve(&name)),
        };
        // What the catalog does not know yet is in the moment of its commit.
        let Some((digest, object)) = digest.and_then(|d| Some((d.clone(), catalog.object(&d)?)))
        else {
            return true;
        };
        let requested = target.origin.as_ref();
        let origins = &object.origins;
        if origins.is_empty() {
            return match requested {
                Some(origin) => self.is_public(origin, &digest, false).await,
                None => self.0.options.private.share_all(),
            };
        }
        let is_layer_of = |origin: &Origin| {
            origins.contains(origin) && origins.iter().all(|o| o.registry == origin.registry)
        };
        if target.kind == Kind::Blob
            && requested.is_some_and(is_layer_of)
            && !self.is_document(&digest).await
        {
            return true;
        }
        let needs_proof = self.has_doubtful_labels(origins);
        let first = requested.filter(|origin| origins.contains(*origin));
        let others = origins.iter().filter(|origin| Some(*origin) != first);
        for origin in first.into_iter().chain(others).take(MAX_ORIGINS) {
            if self.is_public(origin, &digest, needs_proof).await {
                return true;
            }
        }
        false
    }

    /// Whether some origin of an object is not known to be public while another may be: containerd labels what a node
    /// holds already with every image that names it, so a label alone proves nothing.
    fn has_doubtful_labels(&self, origins: &BTreeSet<Origin>) -> bool {
        let mut answers = self.0.answers.lock();
        origins.len() > 1
            && origins.iter().any(|origin| {
                self.0.options.private.of(origin) != PrivatePolicy::Share
                    && answers.standing(origin) == Standing::Refused
            })
    }

    /// Whether anybody may have an object that is held under `origin`; `needs_proof`: and upstream gives its very bytes.
    async fn is_public(&self, origin: &Origin, digest: &Digest, needs_proof: bool) -> bool {
        let policy = self.0.options.private.of(origin);
        if policy == PrivatePolicy::Share {
            return true;
        }
        let (standing, is_proven) = {
            let mut answers = self.0.answers.lock();
            (answers.standing(origin), answers.is_proven(origin, digest))
        };
        match standing {
            Standing::Refused => return false,
            Standing::Public if is_proven || !needs_proof => return true,
            _ => {}
        }
        let was_public = matches!(standing, Standing::Public | Standing::PublicOnce);
        match self.ask_for_bytes(origin, digest).await {
            Answer::Granted(head) => head.visibility == Visibility::Shared,
            Answer::Refused | Answer::NotFound => false,
            Answer::Failed | Answer::Slow => was_public && !needs_proof,
            Answer::Unreachable => {
                (was_public || policy == PrivatePolicy::Auto) && (is_proven || !needs_proof)
            }
        }
    }

    /// Asks upstream for some bytes of an object, or for the head of a manifest.
    async fn ask_for_bytes(&self, origin: &Origin, digest: &Digest) -> Answer {
        if let Some(bytes) = self.manifest_held(digest).await
            && oci::Manifest::parse(&bytes).is_ok()
        {
            let question = Question::Manifest(origin.clone(), digest.clone());
            return self.ask(&question).await;
        }
        let digest_here = digest.clone();
        let read = move |store: &dyn Store| local::sample(store, &digest_here, SAMPLE);
        match local::read_store(&self.0.store, read).await {
            Ok(Some((offset, bytes))) => {
                let question = Question::Bytes {
                    origin: origin.clone(),
                    digest: digest.clone(),
                    offset,
                    bytes,
                };
                self.ask(&question).await
            }
            Ok(None) | Err(_) => Answer::Failed,
        }
    }

    /// Whether an object is a manifest or a config, by its first byte: layers are archives. The config of a private
    /// image may hold secrets, and can be asked for as a blob as well as a manifest.
    async fn is_document(&self, digest: &Digest) -> bool {
        let digest = digest.clone();
        let read = move |store: &dyn Store| local::looks_like_document(store, &digest);
        local::read_store(&self.0.store, read).await.unwrap_or(true)
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

    async fn ask(&self, question: &Question) -> Answer {
        let plan = self.0.answers.lock().plan(question);
        let answer = match plan {
            Plan::Known(answer) => answer,
            Plan::Ask { wait } => match self.run(question) {
                None => Answer::Failed,
                Some(mut running) => {
                    let limit = if wait { WAIT } else { Duration::ZERO };
                    let answered = timeout(limit, running.wait_for(Option::is_some)).await;
                    let answer = answered.ok().and_then(|a| a.ok()?.clone());
                    answer.unwrap_or_else(|| self.0.answers.lock().late(question, wait))
                }
            },
        };
        self.0.metrics.count_check(answer.label());
        answer
    }

    /// Joins a question that is on its way, or puts it. `None`: too many are on their way.
    fn run(&self, question: &Question) -> Option<watch::Receiver<Option<Answer>>> {
        let mut running = self.0.running.lock();
        if let Some(joined) = running.get(question) {
            return Some(joined.clone());
        }
        if running.len() >= MAX_RUNNING {
            return None;
        }
        let (told, answer) = watch::channel(None);
        running.insert(question.clone(), answer.clone());
        let (inner, question) = (self.0.clone(), question.clone());
        self.0.tasks.spawn(async move {
            let answer = timeout(ANSWER_LIMIT, inner.put(&question)).await;
            let answer = answer.unwrap_or(Answer::Failed);
            inner.answers.lock().record(&question, &answer);
            inner.running.lock().remove(&question);
            // Nobody may wait for it any more.
            let _ = told.send(Some(answer));
        });
        Some(answer)
    }
}

impl Inner {
    async fn put(&self, question: &Question) -> Answer {
        let repository = UpstreamRepository {
            origin: question.origin().clone(),
            credentials: None,
        };
        let answered = match question {
            Question::Bytes {
                digest,
                offset,
                bytes,
                ..
            } => self.compare(&repository, digest, *offset, bytes).await,
            Question::Tag(_) | Question::Manifest(..) => {
                self.upstream.head(&repository, &question.reference()).await
            }
        };
        let answer = match answered {
            Ok(head) => return Answer::Granted(head),
            Err(UpstreamError::Denied { .. }) => Answer::Refused,
            Err(UpstreamError::NotFound(_)) => Answer::NotFound,
            Err(error @ (UpstreamError::Unreachable(..) | UpstreamError::Forbidden(..))) => {
                tracing::info!(%error, "tags and visibility cannot be checked; this node and its peers are believed");
                return Answer::Unreachable;
            }
            Err(error) => {
                tracing::debug!(%error, "a check upstream has no result");
                return Answer::Failed;
            }
        };
        tracing::debug!(origin = %repository.origin, answer = answer.label(), "checked upstream");
        answer
    }

    /// Whether a repository gives these bytes of an object to an anonymous client. Other bytes count as a refusal.
    async fn compare(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
        offset: u64,
        expected: &Bytes,
    ) -> Result<UpstreamHead, UpstreamError> {
        let origin = &repository.origin;
        let last = offset + (expected.len() as u64).saturating_sub(1);
        let ranges = Ranges::parse(&format!("bytes={offset}-{last}"))
            .ok()
            .flatten();
        let mut blob = self
            .upstream
            .blob(repository, digest, ranges.as_ref())
            .await?;
        let mut given = Vec::new();
        while given.len() < expected.len()
            && let Some(bytes) = blob.body.next().await
        {
            given.extend_from_slice(&bytes?);
        }
        given.truncate(expected.len());
        if blob.offset == offset && given == *expected {
            return Ok(UpstreamHead {
                digest: Some(digest.clone()),
                size: blob.size,
                media_type: None,
                visibility: blob.visibility,
            });
        }
        let text = format!("other bytes than those of {digest}");
        Err(UpstreamError::Protocol(origin.clone(), text))
    }
}

#[cfg(test)]
mod tests;
