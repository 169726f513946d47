//! The latest answers of upstream, and their consequences for a repository.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lru::LruCache;
use oci::{Digest, Origin, Registry, TagName};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::registries::Registries;
use super::{Answer, Question};
use crate::{UpstreamHead, Visibility};

/// The most repositories, and tags, and objects, that are remembered.
const MAX_REPOSITORIES: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
const MAX_TAGS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
const MAX_OBJECTS: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");
/// The time for which a public repository is not checked again.
const PROOF_IS_FRESH: Duration = Duration::from_secs(10 * 60);
/// The time for which a repository that refused an anonymous client is not asked again by digest.
const REFUSAL_VALIDITY: Duration = Duration::from_secs(5 * 60);
/// The time for which it is not asked again for missing content.
const ABSENCE_VALIDITY: Duration = Duration::from_secs(10);
/// The time for which it is not asked again for what it answered with 429, 5xx or an invalid answer: a registry that
/// limits or fails is not asked again for each layer.
const FAILURE_VALIDITY: Duration = Duration::from_secs(5);
/// The most checks within [`BUDGET_PERIOD`] for clients that are not known to be this node's own, and the most to
/// registries that have never answered. The registry counts them against this node.
const MAX_QUESTIONS: u32 = 240;
const MAX_NEW_REGISTRIES: u32 = 16;
const BUDGET_PERIOD: Duration = Duration::from_secs(60);
/// The status of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepositoryStatus {
    /// Upstream gave a manifest to an anonymous client lately.
    Public,
    /// The same, but so long ago that it is asked again; this counts while there is no answer.
    PublicOnce,
    /// Upstream lately gave it to this node because of its settings in hosts.toml.
    GivenToThisNode,
    /// Upstream refused it to an anonymous client lately.
    Refused,
    /// The same, but so long ago that it is asked again; this counts while there is no answer. So does a 404, with
    /// which registries hide private content.
    RefusedOnce,
    Unknown,
}

impl RepositoryStatus {
    pub fn was_public(self) -> bool {
        matches!(self, Self::Public | Self::PublicOnce)
    }

    pub fn was_refused(self) -> bool {
        matches!(self, Self::Refused | Self::RefusedOnce)
    }

    /// Whether manifests of it are only for clients to which upstream gives them.
    pub fn is_protected(self) -> bool {
        self.was_refused() || self == Self::GivenToThisNode
    }
}

/// The record of a repository that is kept over restarts, by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    Public(SystemTime),
    Refused(SystemTime),
}

#[derive(Clone, Copy, Debug, Default)]
struct Repository {
    /// When it was last public, by the wall clock, as it is kept over restarts.
    public: Option<SystemTime>,
    /// The same, within this process.
    public_since: Option<Instant>,
    given: Option<Instant>,
    /// When it was last refused, also by the wall clock. Never together with `public`.
    refused: Option<SystemTime>,
    refused_since: Option<Instant>,
}

impl Repository {
    fn proof(&self) -> Option<Proof> {
        let public = self.public.map(Proof::Public);
        public.or(self.refused.map(Proof::Refused))
    }
}

/// The questions asked for clients that are not known to be this node's own.
#[derive(Clone, Copy, Debug)]
struct Budget {
    since: Instant,
    questions: u32,
    new_registries: u32,
}

impl Budget {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            questions: 0,
            new_registries: 0,
        }
    }
}

/// The remembered answers of upstream registries.
#[derive(Debug)]
pub struct Answers {
    repositories: LruCache<Origin, Repository>,
    tags: LruCache<TagName, (Instant, UpstreamHead)>,
    /// Questions that were answered with [`Answer::NotFound`] or [`Answer::Failed`].
    in_vain: LruCache<Question, (Instant, Answer)>,
    /// Objects whose bytes a repository gave to an anonymous client.
    proven: LruCache<(Origin, Digest), ()>,
    pub registries: Registries,
    /// Repositories for whose manifest this node's own client was sent upstream because there was no answer.
    unproven: LruCache<Origin, Instant>,
    budget: Budget,
    proof_max_age: Duration,
    tag_max_age: Duration,
    /// Whether a proof was added or removed since [`Self::take_changed`].
    changed: bool,
    /// Notified when a repository is refused for the first time, so that the record is written at once.
    refused: Arc<Notify>,
}

/// Whether a question is asked, and whether its answer is waited for.
#[derive(Clone, Debug)]
pub enum Plan {
    Known(Answer),
    Ask { wait: bool },
}

impl Answers {
    pub fn new(proof_max_age: Duration, tag_max_age: Duration) -> Self {
        Self {
            repositories: LruCache::new(MAX_REPOSITORIES),
            tags: LruCache::new(MAX_TAGS),
            in_vain: LruCache::new(MAX_OBJECTS),
            proven: LruCache::new(MAX_OBJECTS),
            registries: Registries::default(),
            unproven: LruCache::new(MAX_REPOSITORIES),
            budget: Budget::new(),
            proof_max_age,
            tag_max_age,
            changed: false,
            refused: Arc::default(),
        }
    }

    pub fn status(&mut self, origin: &Origin) -> RepositoryStatus {
        let Some(known) = self.repositories.get(origin).copied() else {
            return RepositoryStatus::Unknown;
        };
        let lately = |at: Option<Instant>, limit| at.is_some_and(|at| at.elapsed() < limit);
        // A proof from the future was made with another clock.
        let age = known.public.map(|at| at.elapsed().unwrap_or_default());
        match age {
            Some(_) if lately(known.public_since, PROOF_IS_FRESH.min(self.proof_max_age)) => {
                RepositoryStatus::Public
            }
            Some(age) if age < self.proof_max_age => RepositoryStatus::PublicOnce,
            _ if lately(known.given, PROOF_IS_FRESH) => RepositoryStatus::GivenToThisNode,
            _ if lately(known.refused_since, REFUSAL_VALIDITY) => RepositoryStatus::Refused,
            _ if known.refused.is_some() => RepositoryStatus::RefusedOnce,
            _ => RepositoryStatus::Unknown,
        }
    }

    /// Remembers whether this node's own client was sent upstream for a manifest because there was no answer.
    pub fn set_unproven(&mut self, origin: &Origin, is_unproven: bool) {
        if is_unproven {
            self.unproven.put(origin.clone(), Instant::now());
        } else {
            self.unproven.pop(origin);
        }
    }

    /// Whether blobs of a repository are only for clients to which upstream gives the manifest.
    pub fn protects_blobs(&mut self, origin: &Origin) -> bool {
        let status = self.status(origin);
        let unproven = self.unproven.peek(origin);
        status.is_protected()
            || (status == RepositoryStatus::Unknown
                && unproven.is_some_and(|at| at.elapsed() < REFUSAL_VALIDITY))
    }

    /// Whether a repository gave these very bytes to an anonymous client.
    pub fn is_proven(&mut self, origin: &Origin, digest: &Digest) -> bool {
        self.proven.get(&(origin.clone(), digest.clone())).is_some()
    }

    /// The same, for a repository that is not asked again.
    pub fn is_freshly_proven(&mut self, origin: &Origin, digest: &Digest) -> bool {
        self.status(origin) == RepositoryStatus::Public && self.is_proven(origin, digest)
    }

    /// What to do about a question.
    pub fn plan(&mut self, question: &Question) -> Plan {
        let now = Instant::now();
        if let Question::Tag(name) = question
            && let Some((since, head)) = self.tags.get(name)
            && now.duration_since(*since) < self.tag_max_age
        {
            return Plan::Known(Answer::Granted(head.clone()));
        }
        if let Some((since, answer)) = self.in_vain.get(question) {
            let validity = match answer {
                Answer::NotFound => ABSENCE_VALIDITY,
                _ => FAILURE_VALIDITY,
            };
            if since.elapsed() < validity {
                return Plan::Known(answer.clone());
            }
        }
        self.registries.plan(&question.origin().registry)
    }

    /// Counts a question for a client that is not known to be this node's own. `false`: there were [`MAX_QUESTIONS`],
    /// or [`MAX_NEW_REGISTRIES`], within the minute.
    pub fn may_ask_for_anybody(&mut self, registry: &Registry) -> bool {
        let has_answered = self.registries.has_answered(registry);
        if self.budget.since.elapsed() >= BUDGET_PERIOD {
            self.budget = Budget::new();
        }
        let budget = &mut self.budget;
        budget.new_registries += u32::from(!has_answered);
        budget.questions += 1;
        budget.questions <= MAX_QUESTIONS
            && (has_answered || budget.new_registries <= MAX_NEW_REGISTRIES)
    }

    /// Remembers an answer. `is_held`: this node holds the object, under the repository that was asked.
    pub fn record(&mut self, question: &Question, answer: &Answer, is_held: bool) {
        let now = Instant::now();
        let origin = question.origin();
        if matches!(answer, Answer::NotFound | Answer::Failed) {
            self.in_vain.put(question.clone(), (now, answer.clone()));
        }
        self.registries.record(&origin.registry, answer);
        match answer {
            Answer::Granted(head) => {
                if let Question::Tag(name) = question {
                    self.tags.put(name.clone(), (now, head.clone()));
                }
                if let Question::Bytes(_, digest) = question {
                    self.proven.put((origin.clone(), digest.clone()), ());
                }
                let repository = self.repository_mut(origin);
                match head.visibility {
                    Visibility::Shared => {
                        *repository = Repository {
                            public: Some(SystemTime::now()),
                            public_since: Some(now),
                            ..Repository::default()
                        }
                    }
                    Visibility::Private => repository.given = Some(now),
                }
                self.changed |= head.visibility == Visibility::Shared;
            }
            Answer::Refused => {
                let repository = self.repository_mut(origin);
                let proof = repository.proof();
                *repository = Repository {
                    refused: Some(SystemTime::now()),
                    refused_since: Some(now),
                    ..Repository::default()
                };
                self.refused_now(origin, proof);
            }
            // Any client can ask a public repository for what it never had, and a missing blob shows only that a label
            // of containerd is wrong.
            Answer::NotFound
                if !matches!(question, Question::Bytes(..))
                    && (is_held || !self.status(origin).was_public()) =>
            {
                let repository = self.repository_mut(origin);
                let proof = repository.proof();
                repository.public = None;
                repository.refused = Some(SystemTime::now());
                self.refused_now(origin, proof);
            }
            Answer::NotFound | Answer::Failed | Answer::Slow | Answer::Unreachable => {}
        }
    }

    /// Records that a repository is refused. `proof`: what was known until now. Its earlier answers to anonymous
    /// clients no longer count.
    fn refused_now(&mut self, origin: &Origin, proof: Option<Proof>) {
        let proven = self.proven.iter().map(|(named, ())| named);
        let of_origin: Vec<_> = proven.filter(|(of, _)| of == origin).cloned().collect();
        for named in of_origin {
            self.proven.pop(&named);
        }
        if !matches!(proof, Some(Proof::Refused(_))) {
            self.changed = true;
            self.refused.notify_one();
        }
    }

    /// Notified when a repository is refused for the first time.
    pub fn refused(&self) -> Arc<Notify> {
        self.refused.clone()
    }

    /// The status of repositories and since when, the most recently used first.
    pub fn proofs(&self) -> Vec<(Origin, Proof)> {
        let known = self.repositories.iter();
        let proofs = known.filter_map(|(origin, known)| Some((origin.clone(), known.proof()?)));
        proofs.collect()
    }

    /// Restores the result of [`Self::proofs`].
    pub fn restore(&mut self, proofs: Vec<(Origin, Proof)>) {
        for (origin, proof) in proofs.into_iter().rev() {
            let repository = self.repository_mut(&origin);
            match proof {
                Proof::Public(at) => repository.public = Some(at),
                Proof::Refused(at) => repository.refused = Some(at),
            }
        }
    }

    /// Whether the proofs have changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn repository_mut(&mut self, origin: &Origin) -> &mut Repository {
        let new = Repository::default;
        self.repositories.get_or_insert_mut(origin.clone(), new)
    }
}
