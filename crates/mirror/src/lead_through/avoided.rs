//! What upstream has not given to this mirror lately.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use oci::{Digest, Origin, Registry, Repository};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::UpstreamError;

/// The time for which this mirror fetches nothing from where upstream has not answered, or not as expected.
pub const AVOIDED_FOR: Duration = Duration::from_secs(10 * 60);
/// The most registries and repositories to remember.
const MAX_AVOIDED: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// The registries (no repository) and repositories from which nothing is fetched, and since when.
#[derive(Debug)]
pub struct Avoided(Mutex<LruCache<(Registry, Option<Repository>), Instant>>);

impl Default for Avoided {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_AVOIDED)))
    }
}

impl Avoided {
    /// Whether nothing is fetched from a repository.
    pub fn contains(&self, origin: &Origin) -> bool {
        let mut avoided = self.0.lock();
        [None, Some(origin.repository.clone())]
            .into_iter()
            .any(|repository| {
                let since = avoided.get(&(origin.registry.clone(), repository));
                since.is_some_and(|since| since.elapsed() < AVOIDED_FOR)
            })
    }

    /// Avoids what did not give an object: the repository if it refused this object, else the whole registry.
    pub fn add(&self, origin: &Origin, digest: &Digest, error: &UpstreamError) {
        let repository = is_of_object(error).then(|| origin.repository.clone());
        self.insert(origin, repository, digest, &error.to_string());
    }

    /// Avoids a registry that has not answered within this time.
    pub fn add_silent(&self, origin: &Origin, digest: &Digest, limit: Duration) {
        let error = format!("no answer within {limit:?}");
        self.insert(origin, None, digest, &error);
    }

    fn insert(
        &self,
        origin: &Origin,
        repository: Option<Repository>,
        digest: &Digest,
        error: &str,
    ) {
        tracing::info!(%origin, %digest, error, "cannot fetch a layer for containerd, which pulls it");
        let key = (origin.registry.clone(), repository);
        self.0.lock().put(key, Instant::now());
    }
}

/// Whether an error says nothing about other repositories of the registry.
fn is_of_object(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::NotFound(_)
        | UpstreamError::Denied { .. }
        | UpstreamError::Unsatisfiable { .. }
        | UpstreamError::Protocol(..) => true,
        UpstreamError::TooManyRequests { .. }
        | UpstreamError::Forbidden(..)
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
    async fn what_is_wrong_with_one_object_is_held_against_its_repository_alone() {
        let (avoided, digest) = (Avoided::default(), Digest::sha256(b"layer"));
        let [one, other] = ["one", "other"].map(origin);
        let is_avoided = || [&one, &other].map(|origin| avoided.contains(origin));
        avoided.add(&one, &digest, &UpstreamError::NotFound(one.clone()));
        assert_eq!(is_avoided(), [true, false]);
        tokio::time::advance(AVOIDED_FOR).await;
        assert_eq!(is_avoided(), [false, false]);
        let fails = UpstreamError::Failed(one.clone(), "it breaks".into());
        avoided.add(&one, &digest, &fails);
        assert_eq!(is_avoided(), [true, true]);
    }
}
