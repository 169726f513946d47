//! Decides whether content of this node may be sent to a client that requests it.
//!
//! An object may be held under several repositories, and a label of containerd proves nothing: it adds one to existing
//! content for each image that names it. So all of the repositories must be public, or one of them must give these very
//! bytes to an anonymous client.

use std::collections::BTreeSet;

use oci::{Digest, Origin, Registry};

use super::answers::RepositoryStatus;
use super::{Answer, Asker, PrivatePolicy, Question, UpstreamCheck};
use crate::body::send_memory::Share;
use crate::local::Unread;
use crate::refusal::Refusal;
use crate::request::{Caller, Kind, Target};
use crate::{Store, Visibility, local};

/// The most repositories of one object about which upstream is asked.
const MAX_ORIGINS: usize = 3;

/// The status of an object at a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// It gives these very bytes to all clients.
    Proven,
    /// It is public, or there is no answer and nothing against it.
    Open,
    Closed,
}

impl UpstreamCheck {
    /// Whether an object of this node may be sent to a client that requests it. `target` names it by its digest.
    ///
    /// # Errors
    /// The object must be read for that, and there is no memory for it.
    pub async fn shows(&self, target: &Target) -> Result<bool, Refusal> {
        let Some(digest) = target.digest() else {
            return Ok(false);
        };
        let share = self.0.memory.share(target.caller);
        let origins = self.origins_of(digest);
        let requested = target.origin.as_ref();
        if origins.is_empty() {
            // Its origin is unknown.
            return Ok(self.0.options.private.share_all()
                || requested.is_some_and(|o| self.0.answers.lock().is_freshly_proven(o, digest)));
        }
        if self.is_known_to_be_open(&origins, digest) {
            return Ok(true);
        }
        let requested = requested.filter(|origin| origins.contains(*origin));
        let is_layer = match (target.kind, requested) {
            (Kind::Blob, Some(origin)) => is_of_one_host(&origins, &origin.registry),
            _ => false,
        };
        if is_layer && self.is_layer_of_private(requested, digest, share).await {
            return Ok(true);
        }
        let others = origins.iter().filter(|origin| Some(*origin) != requested);
        let ordered = requested.into_iter().chain(others);
        let is_manifest = match local::is_manifest(&self.0.store, share, digest).await {
            Ok(Some(is_manifest)) => is_manifest,
            Err(Unread::Busy) => return Err(Refusal::Busy(target.kind)),
            Ok(None) | Err(Unread::Failed(_)) => return Ok(false),
        };
        let asker = match target.caller {
            Caller::Own => Asker::Own,
            Caller::Peer | Caller::Remote => Asker::Holder,
        };
        let (mut are_all_open, mut questions) = (true, 0);
        for origin in ordered {
            let status = self.0.answers.lock().status(origin);
            questions += usize::from(!is_manifest || status != RepositoryStatus::Public);
            let verdict = match questions <= MAX_ORIGINS {
                true => self.ask_origin(origin, digest, is_manifest, asker).await,
                false => self.unasked_origin(origin),
            };
            match verdict {
                Shown::Proven => return Ok(true),
                Shown::Open => {}
                // One open repository is not enough for a manifest.
                Shown::Closed if is_manifest => return Ok(false),
                Shown::Closed => are_all_open = false,
            }
        }
        // The answers have shown more about the repository.
        Ok(are_all_open || (is_layer && self.is_layer_of_private(requested, digest, share).await))
    }

    /// Whether an object that is being received may be passed on as it arrives. `origin`: where this node's client
    /// pulls it from.
    pub fn shows_growing(&self, target: &Target, origin: Option<&Origin>) -> bool {
        let Some(origin) = origin else {
            return self.0.options.private.share_all();
        };
        self.0.options.private.of(origin) == PrivatePolicy::Share
            || !self.0.answers.lock().protects_blobs(origin)
            || (target.origin.as_ref() == Some(origin) && self.is_granted_layer(origin, target))
    }

    /// Whether an object is a layer of a protected repository that upstream has granted to this node. A config is not a
    /// layer.
    fn is_granted_layer(&self, origin: &Origin, target: &Target) -> bool {
        let digest = target.digest().filter(|_| target.kind == Kind::Blob);
        digest.is_some_and(|digest| self.0.grants.knows(origin, digest))
    }

    /// The repositories under which this node holds an object, or has just pulled it.
    fn origins_of(&self, digest: &Digest) -> BTreeSet<Origin> {
        let object = self.0.store.catalog().object(digest);
        let origins = object.map(|object| object.origins).unwrap_or_default();
        if origins.is_empty() {
            let mut pulled = self.0.pulled.lock();
            return pulled.get(digest).cloned().unwrap_or_default();
        }
        let real = origins.iter().filter(|o| !self.is_phantom(o, &origins));
        real.cloned().collect()
    }

    fn is_known_to_be_open(&self, origins: &BTreeSet<Origin>, digest: &Digest) -> bool {
        let mut answers = self.0.answers.lock();
        let is_public = |answers: &mut super::Answers, origin: &Origin| {
            self.0.options.private.of(origin) == PrivatePolicy::Share
                || answers.status(origin) == RepositoryStatus::Public
        };
        let are_public = origins.iter().all(|o| is_public(&mut answers, o));
        are_public || origins.iter().any(|o| answers.is_freshly_proven(o, digest))
    }

    /// Whether it is a layer that this node holds under the requested repository, which is private: a client that knows
    /// its digest has got a manifest with it.
    async fn is_layer_of_private(
        &self,
        requested: Option<&Origin>,
        digest: &Digest,
        share: &Share,
    ) -> bool {
        let status = requested.map(|origin| self.0.answers.lock().status(origin));
        status.is_some_and(RepositoryStatus::is_protected) && !self.is_document(digest, share).await
    }

    /// Whether an origin may exist only because containerd's labels contain no ports: it has no port and has never
    /// answered, and the same origin with a port exists.
    fn is_phantom(&self, origin: &Origin, origins: &BTreeSet<Origin>) -> bool {
        let is_same = |other: &Origin| {
            other != origin
                && other.repository == origin.repository
                && host(&other.registry) == origin.registry.as_str()
        };
        if !origins.iter().any(is_same) {
            return false;
        }
        let mut answers = self.0.answers.lock();
        answers.status(origin) == RepositoryStatus::Unknown
            && !answers.registries.has_answered(&origin.registry)
    }

    async fn ask_origin(
        &self,
        origin: &Origin,
        digest: &Digest,
        is_manifest: bool,
        asker: Asker,
    ) -> Shown {
        let policy = self.0.options.private.of(origin);
        let status = self.0.answers.lock().status(origin);
        let (origin_here, digest_here) = (origin.clone(), digest.clone());
        let question = match (is_manifest, policy, status) {
            // What was answered lately is not asked again.
            (_, _, RepositoryStatus::Refused | RepositoryStatus::GivenToThisNode) => {
                return match policy {
                    PrivatePolicy::Share => Shown::Open,
                    PrivatePolicy::Auto | PrivatePolicy::Protect => Shown::Closed,
                };
            }
            (true, PrivatePolicy::Share, _) | (true, _, RepositoryStatus::Public) => {
                return Shown::Open;
            }
            (true, ..) => Question::Manifest(origin_here, digest_here),
            (false, ..) => Question::Bytes(origin_here, digest_here),
        };
        let answer = self.ask(&question, asker).await;
        let was_proven = status.was_public() && self.0.answers.lock().is_proven(origin, digest);
        let is_open = match answer {
            Answer::Failed | Answer::Slow | Answer::Unreachable if was_proven => {
                return Shown::Proven;
            }
            Answer::Granted(head) if head.visibility == Visibility::Shared && !is_manifest => {
                return Shown::Proven;
            }
            _ if policy == PrivatePolicy::Share => true,
            Answer::Granted(head) => head.visibility == Visibility::Shared,
            Answer::Refused | Answer::NotFound => false,
            Answer::Failed | Answer::Slow => status.was_public(),
            Answer::Unreachable => {
                let is_shared = policy == PrivatePolicy::Auto && !status.was_refused();
                status.was_public() || is_shared
            }
        };
        match is_open {
            true => Shown::Open,
            false => Shown::Closed,
        }
    }

    fn unasked_origin(&self, origin: &Origin) -> Shown {
        let policy = self.0.options.private.of(origin);
        let mut answers = self.0.answers.lock();
        let status = answers.status(origin);
        let is_away = answers.registries.is_away(&origin.registry);
        // An older answer would have to be asked for again.
        let was_open = policy == PrivatePolicy::Auto && !status.was_refused();
        let is_open =
            status == RepositoryStatus::Public || (is_away && (was_open || status.was_public()));
        match policy == PrivatePolicy::Share || is_open {
            true => Shown::Open,
            false => Shown::Closed,
        }
    }

    /// Whether an object is a manifest or a config, by its first byte: layers are archives. The config of a private
    /// image may hold secrets, and can be asked for as a blob as well as a manifest.
    async fn is_document(&self, digest: &Digest, share: &Share) -> bool {
        let digest = digest.clone();
        let read = move |store: &dyn Store| local::looks_like_document(store, &digest);
        let is_document = local::read_for(&self.0.store, share, read).await;
        is_document.unwrap_or(true)
    }
}

fn is_of_one_host(origins: &BTreeSet<Origin>, registry: &Registry) -> bool {
    let name = host(registry);
    origins.iter().all(|origin| host(&origin.registry) == name)
}

/// A registry without its port.
fn host(registry: &Registry) -> &str {
    let name = registry.as_str();
    match name.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => name,
    }
}
