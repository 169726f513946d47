//! A manifest by digest.

use std::sync::Arc;

use bytes::Bytes;
use oci::{Digest, Origin};

use super::client::Client;
use super::last_answers::{RepositoryAccess, is_refusal};
use super::state::{BEGIN_LIMIT, PullThroughStep, RESOLVE_LIMIT};
use crate::access::Access;
use crate::flight::Sharing;
use crate::found::{Found, Payload, Source};
use crate::refusal::Refusal;
use crate::request::Target;
use crate::{
    Begun, Growing, Provenance, Sink, UpstreamManifest, UpstreamReason, UpstreamRepository,
    Visibility, local,
};

impl PullThroughStep {
    pub(super) async fn manifest(
        self: &Arc<Self>,
        target: &Target,
        digest: &Digest,
        client: &Client,
        access: &Access,
    ) -> Result<Found, Refusal> {
        if let Some(found) = self.find_stored(target, access).await? {
            self.may_begin(target.origin.as_ref(), digest, client)
                .await
                .map_err(|error| Refusal::Upstream(target.kind, error))?;
            self.learn(&found);
            self.keep_siblings(target, &found, client);
            return Ok(found);
        }
        let found = self.fetch(target, digest, client).await?;
        self.keep_siblings(target, &found, client);
        Ok(found)
    }

    /// Fetches a manifest that is not here.
    pub(super) async fn fetch(
        &self,
        target: &Target,
        digest: &Digest,
        client: &Client,
    ) -> Result<Found, Refusal> {
        if let Some(origin) = &target.origin
            && self.asks_upstream_first(origin, client)
        {
            let repository = client.repository(origin);
            let asked = self.upstream.manifest(&repository, digest);
            match self.ask(&repository, RESOLVE_LIMIT, asked).await {
                Ok(manifest) => {
                    let size = manifest.bytes.len() as u64;
                    self.count_upstream(target, UpstreamReason::NoPeer, size);
                    return Ok(self.received(target, client, manifest).await);
                }
                Err(error) if is_refusal(&error) || client.credentials.is_some() => {
                    return Err(Refusal::Upstream(target.kind, error));
                }
                Err(error) => {
                    let refusal = Self::failed(target, error);
                    let found = self.fetch_at_node_or_upstream(target, digest).await;
                    // The first cause is the one to report.
                    return found.map_err(|_| refusal);
                }
            }
        }
        self.fetch_at_node_or_upstream(target, digest).await
    }

    /// Whether to ask upstream first, because the rest of the image might be refused to this client after a peer's
    /// manifest. That costs what sharing saves, so upstream is asked only for clients that name their program, or if it
    /// has just refused.
    fn asks_upstream_first(&self, origin: &Origin, client: &Client) -> bool {
        if client.credentials.is_some() {
            return true;
        }
        client.keeps_to_one_source
            && match self.last_answers.access(origin) {
                Some(RepositoryAccess::Admitted | RepositoryAccess::Unreachable) => false,
                Some(RepositoryAccess::Refused) => true,
                None => client.names_itself,
            }
    }

    /// Returns a manifest from upstream, and keeps it.
    pub(super) async fn received(
        &self,
        target: &Target,
        client: &Client,
        manifest: UpstreamManifest,
    ) -> Found {
        let UpstreamManifest {
            bytes,
            digest,
            media_type,
            visibility,
        } = manifest;
        let found = local::manifest(&digest, bytes.clone(), media_type, Source::Upstream);
        if client.credentials.is_none() {
            let (sink, _) = self.begin_manifest(&digest).await.unzip();
            let origin = target.origin.clone();
            self.keep(sink, origin, &digest, bytes, visibility).await;
        }
        self.learn(&found);
        found
    }

    /// Asks other nodes, then upstream. The intake is opened before: a flight offers what is being received.
    async fn fetch_at_node_or_upstream(
        &self,
        target: &Target,
        digest: &Digest,
    ) -> Result<Found, Refusal> {
        let (sink, ingest) = self.begin_manifest(digest).await.unzip();
        let mut whole = Target {
            head_only: false,
            ..target.clone()
        };
        whole.pull.ingest = ingest;
        // A second request fetches it separately, and does not keep it.
        let asked = match (&sink, &self.flight) {
            (Some(_), Some(flight)) => flight.find(&whole, Sharing::Unknown).await,
            _ => self.from_peers.find(&whole).await,
        };
        let (found, visibility) = match asked {
            Ok(found) => (found, Visibility::Shared),
            Err(refusal) => {
                let reason = refusal.reason();
                let origin = target.origin.as_ref().ok_or(refusal)?;
                let repository = UpstreamRepository::anonymous(origin);
                let asked = self.upstream.manifest(&repository, digest);
                let fetched = self
                    .ask(&repository, BEGIN_LIMIT, asked)
                    .await
                    .map_err(|error| Self::failed(target, error))?;
                let size = fetched.bytes.len() as u64;
                self.count_upstream(target, reason, size);
                let hint = fetched.media_type;
                let found = local::manifest(digest, fetched.bytes, hint, Source::Upstream);
                (found, fetched.visibility)
            }
        };
        self.share(digest, visibility);
        if let Payload::Bytes(bytes) = &found.payload {
            let bytes = bytes.clone();
            let origin = target.origin.clone();
            self.keep(sink, origin, digest, bytes, visibility).await;
        }
        self.learn(&found);
        Ok(found)
    }

    /// `None`: it is here, being taken in, or cannot be kept.
    pub(super) async fn begin_manifest(&self, digest: &Digest) -> Option<(Box<dyn Sink>, Growing)> {
        match self.begin(digest).await {
            Ok(Begun::New(sink, growing)) => Some((sink, growing)),
            Ok(Begun::Present | Begun::Joined(_)) => None,
            Err(error) => {
                self.not_kept(digest, &error);
                None
            }
        }
    }

    pub(super) async fn keep(
        &self,
        sink: Option<Box<dyn Sink>>,
        origin: Option<Origin>,
        digest: &Digest,
        bytes: Bytes,
        visibility: Visibility,
    ) {
        let Some(mut sink) = sink else { return };
        let kept = async {
            sink.expect(bytes.len() as u64).await?;
            sink.write(bytes).await?;
            sink.commit(Provenance { origin, visibility }).await
        };
        if let Err(error) = kept.await {
            self.not_kept(digest, &error);
        }
    }

    /// Remembers the sizes in a manifest, for registries that do not report them.
    fn learn(&self, found: &Found) {
        if let Payload::Bytes(bytes) = &found.payload {
            self.images.learn(bytes, None);
        }
    }
}
