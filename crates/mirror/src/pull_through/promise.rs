//! The first answer of an image is a promise for the rest of it, to clients that use one source for a whole image.

use std::collections::HashSet;

use oci::{Digest, Manifest, Origin, Role};
use tokio::task::spawn_blocking;

use super::client::Client;
use super::last_answers::{RepositoryAccess, is_refusal};
use super::state::{PullThroughStep, RESOLVE_LIMIT};
use crate::found::Found;
use crate::refusal::Refusal;
use crate::request::Target;
use crate::{Store, UpstreamError, local};

/// The most manifests and layers checked. An image with more does not count as complete.
const MAX_OBJECTS: usize = 4096;

impl PullThroughStep {
    /// Checks that a client that gets this manifest here will get the rest of the image.
    ///
    /// # Errors
    /// A part of it is missing, and upstream refuses it: upstream's own answer helps the client more.
    pub(super) async fn may_begin(
        &self,
        origin: Option<&Origin>,
        digest: &Digest,
        client: &Client,
    ) -> Result<(), UpstreamError> {
        let Some(origin) = origin.filter(|_| client.keeps_to_one_source) else {
            return Ok(());
        };
        if self.is_complete(digest).await {
            return Ok(());
        }
        self.lets_in(origin, digest, client).await
    }

    /// Whether upstream gives the content of this repository. If it is unreachable, the client could not reach it
    /// either.
    ///
    /// # Errors
    /// It refuses.
    async fn lets_in(
        &self,
        origin: &Origin,
        digest: &Digest,
        client: &Client,
    ) -> Result<(), UpstreamError> {
        if client.credentials.is_none()
            && let Some(RepositoryAccess::Admitted | RepositoryAccess::Unreachable) =
                self.last_answers.access(origin)
        {
            return Ok(());
        }
        let repository = client.repository(origin);
        let asked = self.upstream.manifest(&repository, digest);
        match self.ask(&repository, RESOLVE_LIMIT, asked).await {
            Err(error) if is_refusal(&error) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Returns a manifest, unless upstream has refused blobs of its repository lately and a part of its image is
    /// missing. Upstream's answer about the manifest itself says nothing about its blobs.
    ///
    /// # Errors
    /// The refusal of the blob.
    pub(super) async fn unless_blobs_are_refused(
        &self,
        target: &Target,
        found: Found,
        client: &Client,
    ) -> Result<Found, Refusal> {
        let uses_this_node = client.keeps_to_one_source && client.credentials.is_none();
        let origin = target.origin.as_ref().filter(|_| uses_this_node);
        let refused = origin.and_then(|origin| self.last_answers.blob_refusal(origin));
        match refused {
            Some(error) if !self.is_complete(&found.digest).await => {
                Err(Refusal::Upstream(target.kind, error))
            }
            _ => Ok(found),
        }
    }

    /// Whether the whole image is here, for all of its platforms.
    pub(super) async fn is_complete(&self, digest: &Digest) -> bool {
        let (store, digest) = (self.store.clone(), digest.clone());
        let looked = spawn_blocking(move || is_complete(&*store, digest)).await;
        looked.unwrap_or(false)
    }
}

fn is_complete(store: &dyn Store, root: Digest) -> bool {
    let (mut manifests, mut seen) = (vec![root], HashSet::new());
    while let Some(digest) = manifests.pop() {
        if !seen.insert(digest.clone()) {
            continue;
        }
        let Some(bytes) = local::manifest_bytes(store, &digest) else {
            return false;
        };
        // An object without children is complete by itself.
        let children = Manifest::parse(&bytes).map_or_else(|_| Vec::new(), |m| m.children);
        for child in children {
            if child.role == Role::Manifest {
                manifests.push(child.digest);
            } else if !seen.contains(&child.digest) {
                if !store.contains(&child.digest).unwrap_or(false) {
                    return false;
                }
                seen.insert(child.digest);
            }
            if seen.len() + manifests.len() > MAX_OBJECTS {
                return false;
            }
        }
    }
    true
}
