//! What upstream answered lately, and what follows from it for a repository.

use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime};

use lru::LruCache;
use oci::{Digest, Origin, Registry, TagName};
use tokio::time::Instant;

use super::{Answer, Question};
use crate::{UpstreamHead, Visibility};

/// Repositories, tags and objects of which something is remembered, each.
const MAX_REPOSITORIES: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
const MAX_TAGS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
const MAX_OBJECTS: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");
const MAX_REGISTRIES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// For how long a public repository is not asked for again.
const PROOF_IS_FRESH: Duration = Duration::from_secs(10 * 60);
/// For how long a repository that refused an anonymous client is not asked again by digest.
const REFUSAL_VALIDITY: Duration = Duration::from_secs(5 * 60);
/// For how long it is not asked again for a manifest that it does not have.
const ABSENCE_VALIDITY: Duration = Duration::from_secs(10);
/// Between two attempts to reach a registry that cannot be reached.
const RETRY_AFTER: Duration = Duration::from_secs(15);
/// A registry that answered this lately is slow, not out of reach, while an answer is awaited.
const REACHABLE_FOR: Duration = Duration::from_secs(60 * 60);
/// For how long nobody waits again for a registry that was waited for in vain.
const NO_WAIT_FOR: Duration = Duration::from_secs(30);

/// What is known of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Upstream gave a manifest to an anonymous client lately.
    Public,
    /// The same, so long ago that it is asked again; it counts while there is no answer.
    PublicOnce,
    /// Upstream gave it to this node by what its hosts.toml says of it, lately.
    GivenToThisNode,
    /// Upstream refused it to an anonymous client lately.
    Refused,
    Unknown,
}

#[derive(Clone, Copy, Debug, Default)]
struct Repository {
    /// By the wall clock: it is kept over restarts.
    public: Option<SystemTime>,
    /// The same, within this run.
    public_since: Option<Instant>,
    given: Option<Instant>,
    refused: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Contact {
    answered: Option<Instant>,
    /// When it could not be reached, if nothing was heard of it since.
    failed: Option<Instant>,
    waited_in_vain: Option<Instant>,
}

/// The answers of upstream registries that are remembered.
#[derive(Debug)]
pub struct Answers {
    repositories: LruCache<Origin, Repository>,
    tags: LruCache<TagName, (Instant, UpstreamHead)>,
    absent: LruCache<Question, Instant>,
    /// Objects whose bytes a repository gave to an anonymous client.
    proven: LruCache<(Origin, Digest), ()>,
    registries: LruCache<Registry, Contact>,
    proof_max_age: Duration,
    tag_max_age: Duration,
    /// Whether a proof has come or gone since [`Self::take_changed`].
    changed: bool,
}

/// Whether a question is asked, and how long its answer is waited for.
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
            absent: LruCache::new(MAX_OBJECTS),
            proven: LruCache::new(MAX_OBJECTS),
            registries: LruCache::new(MAX_REGISTRIES),
            proof_max_age,
            tag_max_age,
            changed: false,
        }
    }

    pub fn standing(&mut self, origin: &Origin) -> Standing {
        let Some(known) = self.repositories.get(origin).copied() else {
            return Standing::Unknown;
        };
        let lately = |at: Option<Instant>, limit| at.is_some_and(|at| at.elapsed() < limit);
        // A proof of the future was made under another clock.
        let age = known.public.map(|at| at.elapsed().unwrap_or_default());
        match age {
            Some(_) if lately(known.public_since, PROOF_IS_FRESH.min(self.proof_max_age)) => {
                Standing::Public
            }
            Some(age) if age < self.proof_max_age => Standing::PublicOnce,
            _ if lately(known.given, PROOF_IS_FRESH) => Standing::GivenToThisNode,
            _ if lately(known.refused, REFUSAL_VALIDITY) => Standing::Refused,
            _ => Standing::Unknown,
        }
    }

    /// Whether a repository gave these very bytes to an anonymous client.
    pub fn is_proven(&mut self, origin: &Origin, digest: &Digest) -> bool {
        self.proven.get(&(origin.clone(), digest.clone())).is_some()
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
        let absent = self.absent.get(question);
        if absent.is_some_and(|since| since.elapsed() < ABSENCE_VALIDITY) {
            return Plan::Known(Answer::NotFound);
        }
        let contact = self.contact(&question.origin().registry);
        match contact.failed {
            Some(at) if at.elapsed() < RETRY_AFTER => return Plan::Known(Answer::Unreachable),
            // Somebody tries again, and nobody waits for it: what is down is mostly down.
            Some(_) => return Plan::Ask { wait: false },
            None => {}
        }
        let in_vain = contact.waited_in_vain;
        Plan::Ask {
            wait: in_vain.is_none_or(|at| at.elapsed() >= NO_WAIT_FOR),
        }
    }

    /// What holds while an answer does not come: the registry is slow, or out of reach.
    pub fn late(&mut self, question: &Question, waited: bool) -> Answer {
        let contact = self.contact_mut(&question.origin().registry);
        if waited {
            contact.waited_in_vain = Some(Instant::now());
        }
        let answered = contact.answered;
        if contact.failed.is_none() && answered.is_some_and(|at| at.elapsed() < REACHABLE_FOR) {
            Answer::Slow
        } else {
            Answer::Unreachable
        }
    }

    pub fn record(&mut self, question: &Question, answer: &Answer) {
        let now = Instant::now();
        let origin = question.origin();
        let contact = self.contact_mut(&origin.registry);
        match answer {
            Answer::Unreachable => contact.failed = Some(now),
            Answer::Slow => {}
            _ => {
                *contact = Contact {
                    answered: Some(now),
                    ..Contact::default()
                }
            }
        }
        match answer {
            Answer::Granted(head) => {
                if let Question::Tag(name) = question {
                    self.tags.put(name.clone(), (now, head.clone()));
                }
                if let Question::Bytes { digest, .. } = question {
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
                let was_public = repository.public.is_some();
                *repository = Repository {
                    refused: Some(now),
                    ..Repository::default()
                };
                self.changed |= was_public;
            }
            Answer::NotFound => {
                self.absent.put(question.clone(), now);
                // Registries hide what is private behind 404 too: the next answer tells.
                let repository = self.repository_mut(origin);
                let was_public = repository.public.take().is_some();
                self.changed |= was_public;
            }
            Answer::Failed | Answer::Slow | Answer::Unreachable => {}
        }
    }

    /// The repositories that were public lately and when that was, with the ones used last first.
    pub fn proofs(&self) -> Vec<(Origin, SystemTime)> {
        let known = self.repositories.iter();
        let proofs = known.filter_map(|(origin, known)| Some((origin.clone(), known.public?)));
        proofs.collect()
    }

    /// Takes back what [`Self::proofs`] gave.
    pub fn restore(&mut self, proofs: Vec<(Origin, SystemTime)>) {
        for (origin, public) in proofs.into_iter().rev() {
            self.repository_mut(&origin).public = Some(public);
        }
    }

    /// Whether the proofs are others than when this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn repository_mut(&mut self, origin: &Origin) -> &mut Repository {
        let new = Repository::default;
        self.repositories.get_or_insert_mut(origin.clone(), new)
    }

    fn contact(&mut self, registry: &Registry) -> Contact {
        self.registries.get(registry).copied().unwrap_or_default()
    }

    fn contact_mut(&mut self, registry: &Registry) -> &mut Contact {
        let new = Contact::default;
        self.registries.get_or_insert_mut(registry.clone(), new)
    }
}
