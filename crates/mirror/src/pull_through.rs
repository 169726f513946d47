//! The way to the registry, for a store that the mirror fills itself: what the store lacks comes from other nodes, else
//! from upstream, and is kept on the way where it can be.
//!
//! This is done for the node's own clients alone: upstream is asked with the node's credentials, and what is on its way
//! shows only when it has arrived whether it took them. A remote client gets what is here and shared, or what a peer has.
//!
//! Unlike containerd, the clients of such a store take one source for a whole image. So a client never gets less here
//! than at the registry: a part is fetched as a part, what cannot be kept is handed on all the same, and the first
//! answer of an image is given only if the rest can be had (`promise`).

mod blob;
mod client;
mod download;
mod fill;
mod last_answers;
mod list;
mod manifest;
mod partial_reads;
mod promise;
mod siblings;
mod sources;
mod state;
mod tag;

use std::sync::Arc;

use oci::Reference;

use crate::access::Access;
use crate::found::Found;
use crate::refusal::Refusal;
use crate::request::{Kind, RequestError, Target};

pub use client::Client;
pub use state::PullThroughStep;

impl PullThroughStep {
    /// Finds what is asked for here, at other nodes or upstream.
    ///
    /// # Errors
    /// None of them gave it, or it may not be handed to this caller.
    pub async fn find(
        self: &Arc<Self>,
        target: &Target,
        client: &Client,
        access: &Access,
    ) -> Result<Found, Refusal> {
        let found = match (target.kind, &target.reference) {
            (Kind::Manifest, Reference::Tag(_)) => self.tag(target, client, access).await,
            (Kind::Manifest, Reference::Digest(digest)) => {
                self.manifest(target, digest, client, access).await
            }
            (Kind::Blob, Reference::Digest(digest)) => {
                self.blob(target, digest, client, access).await
            }
            (Kind::Blob, Reference::Tag(_)) => Err(RequestError::BlobByTag.into()),
        };
        found.map_err(|refusal| client.told(refusal))
    }
}
