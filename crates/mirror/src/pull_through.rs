//! Pull-through, for a store that the mirror fills itself: missing content comes from other nodes, or else from
//! upstream, and is kept if possible.
//!
//! This is done only for the node's own clients: upstream is asked with the node's credentials, and whether content
//! needed them is known only when it has arrived. A remote client gets content that is here and shared, or that a peer
//! has.
//!
//! Unlike containerd, the clients of such a store use one source for a whole image. So a client never gets less here
//! than at the registry: a part is fetched as a part, content that cannot be kept is sent all the same, and the first
//! answer of an image is given only if the rest is available (`promise`).

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
    /// Finds the requested content here, at other nodes or upstream.
    ///
    /// # Errors
    /// None of them sent it, or it must not be sent to this caller.
    pub async fn find(
        self: &Arc<Self>,
        target: &Target,
        client: &Client,
        access: &Access,
    ) -> Result<Found, Refusal> {
        let found = match (target.kind, &target.reference) {
            (Kind::Manifest, reference) => {
                let found = match reference {
                    Reference::Tag(_) => self.tag(target, client, access).await,
                    Reference::Digest(digest) => {
                        self.manifest(target, digest, client, access).await
                    }
                };
                match found {
                    Ok(found) => self.unless_blobs_are_refused(target, found, client).await,
                    refused => refused,
                }
            }
            (Kind::Blob, Reference::Digest(digest)) => {
                self.blob(target, digest, client, access).await
            }
            (Kind::Blob, Reference::Tag(_)) => Err(RequestError::BlobByTag.into()),
        };
        found.map_err(|refusal| client.told(refusal))
    }
}
