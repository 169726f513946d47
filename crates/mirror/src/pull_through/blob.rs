//! A blob: whole, in parts, or its head.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use oci::{Digest, RangeError, Ranges};
use tokio::time::timeout;

use super::client::Client;
use super::download::Download;
use super::fill::Fill;
use super::sources::{Nodes, Opened, Sources};
use super::state::PullThroughStep;
use crate::access::Access;
use crate::found::{Found, Payload, Source};
use crate::open_range::all_from;
use crate::refusal::Refusal;
use crate::request::Target;
use crate::{Begun, Growing, IngestStage, UpstreamReason, local};

/// The limit of the wait for the first byte of an object that another request is taking in, before a separate source is
/// opened.
const JOIN_LIMIT: Duration = Duration::from_secs(30);

impl PullThroughStep {
    pub(super) async fn blob(
        self: &Arc<Self>,
        target: &Target,
        digest: &Digest,
        client: &Client,
        access: &Access,
    ) -> Result<Found, Refusal> {
        if target.head_only {
            return self.head(target, digest, client).await;
        }
        if client.credentials.is_some() {
            return self.unstored(target, digest, client).await;
        }
        if all_from(target.ranges.as_ref()) == Some(0) {
            self.whole(target, digest, client, access).await
        } else {
            self.part(target, digest, client, access).await
        }
    }

    /// The head of a blob, from the first source that answers, without fetching the blob.
    async fn head(
        self: &Arc<Self>,
        target: &Target,
        digest: &Digest,
        client: &Client,
    ) -> Result<Found, Refusal> {
        let of_peer = async {
            match client.credentials {
                Some(_) => Err(Refusal::NoPeer(target.kind)),
                None => self.from_peers.find(target).await,
            }
        };
        let of_upstream = async {
            let origin = target.origin.as_ref();
            let origin = origin.ok_or(Refusal::NoPeer(target.kind))?;
            let repository = client.repository(origin);
            let asked = self.upstream.blob_size(&repository, digest);
            let size = self.ask_for_blob(&repository, asked).await;
            let size = size.map_err(|error| Self::failed(target, error))?;
            let size = size.or_else(|| self.told_size(digest));
            Ok(Found::blob(digest, size, Payload::Empty, Source::Upstream))
        };
        first_good(of_peer, of_upstream).await
    }

    /// A part, fetched as such. The whole is fetched in the background once that pays.
    async fn part(
        self: &Arc<Self>,
        target: &Target,
        digest: &Digest,
        client: &Client,
        access: &Access,
    ) -> Result<Found, Refusal> {
        let Some(ranges) = &target.ranges else {
            return self.whole(target, digest, client, access).await;
        };
        if ranges.resolve(u64::MAX) == Err(RangeError::Unsatisfiable { size: u64::MAX }) {
            // `bytes=-0`: of no object.
            return Err(Refusal::Unsatisfiable { size: None });
        }
        let sources = self.sources(target, digest, client, Nodes::AsPeers);
        if let Some((growing, size)) = self.growing(digest).await
            && let Some(range) = ranges.resolve(size)?.first()
            && range.start < growing.progress().written
        {
            let download = Download::of_store(sources, growing, Some(size));
            let payload = Payload::stream(download);
            return Ok(Found::blob(digest, Some(size), payload, Source::Growing));
        }
        let first = ranges.first();
        let opened = match self.parts.source(digest) {
            Some(Source::Upstream) => match sources
                .open_upstream(Some(&first), UpstreamReason::NoPeer)
                .await
            {
                Err(error) => sources.open_at_node(Some(&first)).await.map_err(|_| error),
                opened => opened,
            },
            Some(_) => sources.open(Some(&first)).await,
            None => {
                let at_node = sources.open_at_node(Some(&first));
                let upstream = sources.open_upstream(Some(&first), UpstreamReason::NoPeer);
                first_good(at_node, upstream).await
            }
        }?;
        let Some(size) = opened.size.or_else(|| self.told_size(digest)) else {
            // The part is unknown without the size; the whole is a right answer as well (RFC 9110, section 14.2).
            return self.whole(target, digest, client, access).await;
        };
        let asked = ranges.resolve(size)?;
        let bytes = asked.iter().map(|range| range.end - range.start).sum();
        let source = opened.source();
        if self.parts.began(digest, source, bytes, size) {
            self.fetch_beside(target, digest, client);
        }
        let download = Download::of_source(sources, opened, Some(size));
        let payload = Payload::stream(download);
        Ok(Found::blob(digest, Some(size), payload, source))
    }

    /// The whole blob, written into the store while it is sent.
    async fn whole(
        self: &Arc<Self>,
        target: &Target,
        digest: &Digest,
        client: &Client,
        access: &Access,
    ) -> Result<Found, Refusal> {
        let (sink, growing) = match self.begin(digest).await {
            Ok(Begun::New(sink, growing)) => (sink, growing),
            Ok(Begun::Joined(growing)) => return self.join(target, digest, client, growing).await,
            Ok(Begun::Present) => match self.find_stored(target, access).await? {
                Some(stored) => return Ok(stored),
                None => return self.unstored(target, digest, client).await,
            },
            Err(error) => {
                self.not_kept(digest, &error);
                return self.unstored(target, digest, client).await;
            }
        };
        let nodes = Nodes::InFlight(growing.clone());
        let sources = self.sources(target, digest, client, nodes);
        let opened = sources.open(None).await?;
        let (mut sink, source) = (sink, opened.source());
        let size = opened.size;
        if let Some(size) = size
            && let Err(error) = sink.expect(size).await
        {
            self.not_kept(digest, &error);
            return Ok(self.sent_on(digest, sources, opened));
        }
        let origin = target.origin.as_ref();
        let fill = Fill::new(self, digest, origin, sink, sources, opened);
        self.tasks.spawn(fill.run());
        // Once the store fails, the flight is over for it.
        let sources = self.sources(target, digest, client, Nodes::AsPeers);
        let download = Download::of_store(sources, growing, size);
        let payload = Payload::stream(download);
        Ok(Found::blob(digest, size, payload, source))
    }

    /// A blob that another request is taking in already.
    async fn join(
        self: &Arc<Self>,
        target: &Target,
        digest: &Digest,
        client: &Client,
        mut growing: Growing,
    ) -> Result<Found, Refusal> {
        let begun = growing
            .until(|p| p.total.is_some() || p.written > 0 || p.stage != IngestStage::Filling);
        let progress = match timeout(JOIN_LIMIT, begun).await {
            Ok(progress) if progress.stage != IngestStage::Failed => progress,
            _ => return self.unstored(target, digest, client).await,
        };
        let complete = (progress.stage == IngestStage::Complete).then_some(progress.written);
        let size = progress.total.or(complete);
        let sources = self.sources(target, digest, client, Nodes::AsPeers);
        let download = Download::of_store(sources, growing, size);
        let payload = Payload::stream(download);
        Ok(Found::blob(digest, size, payload, Source::Growing))
    }

    /// A blob that is sent without being kept.
    async fn unstored(
        self: &Arc<Self>,
        target: &Target,
        digest: &Digest,
        client: &Client,
    ) -> Result<Found, Refusal> {
        let sources = self.sources(target, digest, client, Nodes::AsPeers);
        let first = target.ranges.as_ref().map(Ranges::first);
        let opened = sources.open(first.as_ref()).await?;
        Ok(self.sent_on(digest, sources, opened))
    }

    fn sent_on(&self, digest: &Digest, sources: Arc<Sources>, opened: Opened) -> Found {
        let (source, size) = (opened.source(), opened.size);
        let download = Download::of_source(sources, opened, size);
        Found::blob(digest, size, Payload::stream(download), source)
    }

    /// Takes in a blob in the background.
    fn fetch_beside(self: &Arc<Self>, target: &Target, digest: &Digest, client: &Client) {
        let (step, digest) = (self.clone(), digest.clone());
        let (mut target, client) = (target.clone(), client.clone());
        // The pull does not wait for it.
        target.pull.attempts = None;
        self.tasks.spawn(async move {
            let Ok(Begun::New(mut sink, growing)) = step.begin(&digest).await else {
                return;
            };
            let sources = step.sources(&target, &digest, &client, Nodes::InFlight(growing));
            let Ok(opened) = sources.open(None).await else {
                return;
            };
            if let Some(size) = opened.size
                && let Err(error) = sink.expect(size).await
            {
                return step.not_kept(&digest, &error);
            }
            let origin = target.origin.as_ref();
            let fill = Fill::new(&step, &digest, origin, sink, sources, opened);
            fill.run().await;
        });
    }

    fn sources(
        self: &Arc<Self>,
        target: &Target,
        digest: &Digest,
        client: &Client,
        nodes: Nodes,
    ) -> Arc<Sources> {
        Arc::new(Sources::new(self, target, digest, client, nodes))
    }

    /// The blob that is being taken in, if its size is known.
    async fn growing(&self, digest: &Digest) -> Option<(Growing, u64)> {
        let growing = local::ingest(&self.store, &self.from_peers.memory().own, digest)
            .await?
            .growing;
        let size = growing.progress().total?;
        Some((growing, size))
    }

    /// The size in a manifest. Any client may write a manifest, so it does not limit a body that is fetched whole.
    fn told_size(&self, digest: &Digest) -> Option<u64> {
        let about = self.images.object_info(digest);
        about.size.filter(|size| *size > 0)
    }
}

/// The first success of two. If neither succeeds, upstream's error is returned.
async fn first_good<T>(
    of_node: impl Future<Output = Result<T, Refusal>>,
    of_upstream: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let (of_node, of_upstream) = (std::pin::pin!(of_node), std::pin::pin!(of_upstream));
    match select(of_node, of_upstream).await {
        Either::Left((Ok(good), _)) | Either::Right((Ok(good), _)) => Ok(good),
        Either::Left((Err(_), of_upstream)) => of_upstream.await,
        Either::Right((Err(error), of_node)) => of_node.await.map_err(|_| error),
    }
}
