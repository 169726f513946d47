//! The latest answers of the registries.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use oci::Origin;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::UpstreamError;

/// `/readyz` reports a fault for this long.
pub const FAULT_VALIDITY: Duration = Duration::from_secs(300);
/// The most repositories to remember.
const MAX_REPOSITORIES: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// The time for which a repository that granted access is not asked again: the time of the first requests of a pull.
const ADMISSION_VALIDITY: Duration = Duration::from_secs(1);
/// The time after a refusal in which the repository is asked before each pull, and in which a refusal of blobs counts.
const REFUSAL_VALIDITY: Duration = Duration::from_secs(60);
/// The time after an outage in which no request waits for the repository only to make sure.
const OUTAGE_VALIDITY: Duration = Duration::from_secs(10);

/// What a repository's last answer predicts for the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepositoryAccess {
    /// It gives its content.
    Admitted,
    /// It refuses this node, or slows it down.
    Refused,
    /// It does not answer.
    Unreachable,
}

/// The last answers of the repositories.
#[derive(Debug)]
pub struct LastAnswers {
    repositories: Mutex<LruCache<Origin, Entry>>,
    /// The repositories that refused a blob, and have sent none since. A registry may give manifests to everybody and
    /// blobs to some, and most of a repository's answers are about manifests.
    refused_blobs: Mutex<LruCache<Origin, (Instant, UpstreamError)>>,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    access: Option<RepositoryAccess>,
    /// The fault as a text.
    fault: Option<String>,
}

impl Default for LastAnswers {
    fn default() -> Self {
        Self {
            repositories: Mutex::new(LruCache::new(MAX_REPOSITORIES)),
            refused_blobs: Mutex::new(LruCache::new(MAX_REPOSITORIES)),
        }
    }
}

impl LastAnswers {
    /// Records that a repository has answered, successfully or with this error.
    pub fn note(&self, origin: &Origin, error: Option<&UpstreamError>) {
        let (access, fault) = match error {
            // A missing object says nothing about others.
            Some(UpstreamError::NotFound(_) | UpstreamError::Unsatisfiable { .. }) => return,
            None => (Some(RepositoryAccess::Admitted), None),
            Some(error @ (UpstreamError::Unreachable(..) | UpstreamError::Failed(..))) => {
                (Some(RepositoryAccess::Unreachable), Some(error))
            }
            Some(error) if is_refusal(error) => (Some(RepositoryAccess::Refused), Some(error)),
            Some(error) => (None, Some(error)),
        };
        // Any client may read it, and the names of private images must not be in it.
        let fault = fault.map(|error| {
            let (named, registry) = (origin.to_string(), origin.registry.as_str());
            error.to_string().replace(&named, registry)
        });
        let entry = Entry {
            at: Instant::now(),
            access,
            fault,
        };
        self.repositories.lock().put(origin.clone(), entry);
    }

    /// Records that a repository has answered a request for a blob, successfully or with this error.
    pub fn note_blob(&self, origin: &Origin, error: Option<&UpstreamError>) {
        let mut refused = self.refused_blobs.lock();
        match error {
            None => {
                refused.pop(origin);
            }
            // A missing object says nothing about others.
            Some(UpstreamError::NotFound(_)) => {}
            Some(error) if is_refusal(error) => {
                refused.put(origin.clone(), (Instant::now(), error.clone()));
            }
            Some(_) => {}
        }
    }

    /// The refusal of a repository that refused a blob lately.
    pub fn blob_refusal(&self, origin: &Origin) -> Option<UpstreamError> {
        let mut refused = self.refused_blobs.lock();
        let (at, error) = refused.get(origin)?;
        (at.elapsed() < REFUSAL_VALIDITY).then(|| error.clone())
    }

    /// What is known of a repository without asking it.
    pub fn access(&self, origin: &Origin) -> Option<RepositoryAccess> {
        let mut entries = self.repositories.lock();
        let entry = entries.get(origin)?;
        let validity = match entry.access? {
            RepositoryAccess::Admitted => ADMISSION_VALIDITY,
            RepositoryAccess::Refused => REFUSAL_VALIDITY,
            RepositoryAccess::Unreachable => OUTAGE_VALIDITY,
        };
        (entry.at.elapsed() < validity).then_some(entry.access)?
    }

    /// The last fault of each registry that had one lately and has not answered successfully since.
    pub fn faults(&self) -> Vec<String> {
        let entries = self.repositories.lock();
        let recent = entries
            .iter()
            .filter(|(_, entry)| entry.at.elapsed() < FAULT_VALIDITY);
        let mut latest = BTreeMap::<_, &Entry>::new();
        for (origin, entry) in recent {
            let known = latest.entry(origin.registry.as_str()).or_insert(entry);
            if known.at < entry.at {
                *known = entry;
            }
        }
        latest
            .into_values()
            .filter_map(|entry| entry.fault.clone())
            .collect()
    }
}

/// Whether upstream has answered and refuses: unlike in an outage, another client may be admitted.
pub fn is_refusal(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::NotFound(_)
        | UpstreamError::Denied { .. }
        | UpstreamError::TooManyRequests { .. } => true,
        UpstreamError::Unsatisfiable { .. }
        | UpstreamError::Forbidden(..)
        | UpstreamError::Protocol(..)
        | UpstreamError::Unreachable(..)
        | UpstreamError::Failed(..) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(repository: &str) -> Origin {
        Origin {
            registry: "quay.io".parse().expect("a registry"),
            repository: repository.parse().expect("a repository"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_remembered_for_its_time() {
        let last_answers = LastAnswers::default();
        let (a, b) = (origin("a"), origin("b"));
        assert_eq!(last_answers.access(&a), None);
        last_answers.note(&a, None);
        let missing = UpstreamError::NotFound(a.clone());
        last_answers.note(&a, Some(&missing));
        assert_eq!(last_answers.access(&a), Some(RepositoryAccess::Admitted));
        assert_eq!(last_answers.access(&b), None);
        let gone = UpstreamError::Unreachable(b.clone(), "refused".into());
        last_answers.note(&b, Some(&gone));
        assert_eq!(last_answers.access(&b), Some(RepositoryAccess::Unreachable));
        let told = "quay.io cannot be reached: refused";
        assert_eq!(last_answers.faults(), [told], "no repository");
        tokio::time::advance(OUTAGE_VALIDITY).await;
        assert_eq!(last_answers.access(&b), None);
        assert_eq!(last_answers.access(&a), None);
        last_answers.note(&a, None);
        assert_eq!(
            last_answers.faults(),
            [""; 0],
            "the registry has answered since"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_remembered_and_told() {
        let (last_answers, a) = (LastAnswers::default(), origin("a"));
        last_answers.note(&a, None);
        let refused = UpstreamError::TooManyRequests {
            origin: a.clone(),
            retry_after: None,
        };
        last_answers.note(&a, Some(&refused));
        assert_eq!(last_answers.access(&a), Some(RepositoryAccess::Refused));
        assert_eq!(last_answers.faults().len(), 1);
        tokio::time::advance(FAULT_VALIDITY).await;
        assert_eq!(last_answers.faults().len(), 0);
        assert_eq!(last_answers.access(&a), None);
    }
    #[tokio::test(start_paused = true)]
    async fn a_refused_blob_is_remembered_until_one_is_sent() {
        let (last_answers, a) = (LastAnswers::default(), origin("a"));
        let refused = UpstreamError::TooManyRequests {
            origin: a.clone(),
            retry_after: None,
        };
        let is_refused = || last_answers.blob_refusal(&a).is_some();
        last_answers.note_blob(&a, Some(&refused));
        last_answers.note(&a, None);
        let missing = UpstreamError::NotFound(a.clone());
        last_answers.note_blob(&a, Some(&missing));
        assert!(is_refused(), "whatever it says of manifests");
        last_answers.note_blob(&a, None);
        assert!(!is_refused());
        last_answers.note_blob(&a, Some(&missing));
        assert!(!is_refused());
        last_answers.note_blob(&a, Some(&refused));
        tokio::time::advance(REFUSAL_VALIDITY).await;
        assert!(!is_refused());
    }
}
