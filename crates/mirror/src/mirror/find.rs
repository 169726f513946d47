//! The steps of the pipeline between parsing a request and sending the answer.

use http::HeaderMap;
use oci::{Digest, Key, Origin, Reference};

use super::{ConnectionAddresses, Mirror};
use crate::flight::{Flight, Sharing};
use crate::found::{Found, Source};
use crate::metrics::{Metrics, MirrorLabels};
use crate::open_range::first_byte;
use crate::pull_owners::{asks_for_rest, filled};
use crate::pull_through::Client;
use crate::refusal::Refusal;
use crate::request::{Caller, ClientAddress, Kind, Target};
use crate::request_record::RequestRecord;
use crate::trace::SpanKind;
use crate::upstream_check::{Asker, UpstreamCheck};
use crate::{Growing, IngestId, local};

impl Mirror {
    /// Determines who sent a request for content, and which pull of this node it belongs to.
    pub(super) async fn identify(
        &self,
        target: &mut Target,
        headers: &HeaderMap,
        addresses: ConnectionAddresses,
    ) {
        let client = ClientAddress::of(addresses.remote, addresses.local);
        // The least rights of this client: owning a pull can only add some.
        let caller = self.access.caller(headers, client, || false);
        let may_own = match caller {
            Caller::Own => true,
            Caller::Peer => false,
            Caller::Remote => {
                self.access.node_secret.is_none() && !self.access.requires_network_proof()
            }
        };
        // A complete object fills no ingest.
        let is_here = |digest| self.store.catalog().visibility(digest).is_some();
        let may_own = may_own && !target.digest().is_some_and(is_here);
        let filled = if may_own {
            self.filled_ingest(target, caller).await
        } else {
            None
        };
        let owns_pull = || {
            let filled = filled.as_ref();
            filled.is_some_and(|(digest, id, _)| self.pull_owners.owns(digest, *id, client))
        };
        target.caller = self.access.caller(headers, client, owns_pull);
        if target.caller == Caller::Own
            && let Some((digest, id, growing)) = filled
        {
            let offset = first_byte(target.ranges.as_ref());
            let (delivery, accused) = self.deliveries.begin(&digest, id, offset);
            target.pull.delivery = Some(delivery);
            let key = Key::Digest(digest.clone());
            let attempts = self.attempts.of(&key, false, target.origin.as_ref());
            if !accused.is_empty() {
                // In flights, arbiters exclude nodes with wrong bytes. Nodes that went upstream by themselves would not
                // know of each other.
                if self.flight.is_none() || self.router.has_legacy_peers() {
                    attempts.not_committed();
                }
                self.accusations.accuse(target, &digest, accused);
            } else if offset <= growing.progress().written
                // Parallel ranges begin further on.
                && attempts.asked_again(offset > 0)
            {
                self.peers.readmit(&key);
            }
            target.pull.attempts = Some(attempts);
            target.pull.ingest = Some(growing);
        }
    }

    /// The ingest of the store's owner that the answer to this request could fill.
    async fn filled_ingest(
        &self,
        target: &Target,
        caller: Caller,
    ) -> Option<(Digest, IngestId, Growing)> {
        let (digest, offset) = asks_for_rest(target)?;
        let ingest = local::ingest(&self.store, self.memory.share(caller), digest).await?;
        let id = filled(&ingest, offset)?;
        Some((digest.clone(), id, ingest.growing))
    }

    pub(super) async fn find(
        &self,
        target: &mut Target,
        client: &Client,
        record: &mut RequestRecord,
    ) -> Result<Found, Refusal> {
        if let Some(found) = self.trials.find(target) {
            return Ok(found);
        }
        self.access.admit(target)?;
        if target.caller == Caller::Peer {
            return self.find_for_peer(target, record).await;
        }
        if let Some(found) = self.check_upstream(target, client).await? {
            return Ok(found);
        }
        let pull_through = self
            .pull_through
            .as_ref()
            .filter(|_| target.caller == Caller::Own && !target.pull.is_measured);
        // If this mirror can ask upstream, a manifest from the store is more than its bytes: that of a tag may be
        // stale, and that of an image is a promise for its objects.
        let asks_first = pull_through.is_some() && target.kind == Kind::Manifest;
        if !asks_first
            && let Some(found) = self.find_here(target).await?
            && let Some(found) = local::unless_damaged(found).await
        {
            return Ok(found);
        }
        record.handler = "mirror";
        self.join_pull(target);
        self.learn_images(target).await;
        let flight = self.flight.as_ref().filter(|_| target.fills_ingest());
        let result = match (pull_through, flight) {
            (Some(fetches), _) => fetches.find(target, client, &self.access).await,
            (None, Some(flight)) => {
                let lead_through = self.lead_through.as_ref();
                target.pull.leads_at_once = lead_through.is_some_and(|l| l.can_fetch(target));
                Flight::ignore_range_of_all(target);
                match flight.find(target, Sharing::Shared).await {
                    Err(refusal @ (Refusal::Leads(_) | Refusal::Alone(_)))
                        if self.router.has_legacy_peers() =>
                    {
                        match self.from_peers.find(target).await {
                            // The flight determines the reason why it goes upstream.
                            Err(Refusal::NoPeer(_)) => Err(refusal),
                            result => result,
                        }
                    }
                    result => result,
                }
            }
            (None, None) => self.from_peers.find(target).await,
        };
        self.upstream_bytes.note(target, result.as_ref().map(drop));
        if let (Err(_), Some(attempts)) = (&result, &target.pull.attempts)
            && (target.fills_ingest() || target.head_only)
        {
            attempts.sent_upstream();
        }
        self.count(target, result.as_ref().ok());
        let lead_through = self.lead_through.as_ref();
        match (result, lead_through.filter(|_| target.pull.leads_at_once)) {
            (Err(refusal @ (Refusal::Leads(_) | Refusal::Alone(_))), Some(lead_through)) => {
                let found = lead_through.find(target, &refusal).await;
                found.ok_or(refusal)
            }
            (Ok(found), Some(lead_through)) => Ok(lead_through.go_on(found, target)),
            (result, _) => result,
        }
    }

    /// Asks upstream for confirmation. Returns the answer to a client that requests only the head, if upstream gave it.
    async fn check_upstream(
        &self,
        target: &mut Target,
        client: &Client,
    ) -> Result<Option<Found>, Refusal> {
        let Some(check) = &self.upstream_check else {
            return Ok(None);
        };
        let asker = match (&self.access.node_secret, target.caller) {
            (Some(_), Caller::Own) => Asker::ProvenOwn,
            (Some(_), Caller::Peer | Caller::Remote) => Asker::Unauthenticated,
            (None, Caller::Own) => Asker::Own,
            (None, Caller::Peer | Caller::Remote) => Asker::Anybody,
        };
        let _span = target.pull.trace.span("upstream check", SpanKind::Client);
        let credentials = client.credentials.as_ref();
        let admitted = check.admit(target, credentials, asker).await;
        let head =
            admitted.inspect_err(|refusal| self.upstream_bytes.note(target, Err(refusal)))?;
        let head = head.filter(|_| target.head_only);
        Ok(head.as_ref().and_then(UpstreamCheck::head_found))
    }

    /// Finds content of this node that the client may have.
    ///
    /// # Errors
    /// There is no memory to read and verify it.
    async fn find_here(&self, target: &Target) -> Result<Option<Found>, Refusal> {
        // A tag may have another target a moment later.
        let mut target = target.clone();
        if let Some(name) = target.tag_name() {
            let Some(digest) = self.store.catalog().resolve(&name) else {
                return Ok(None);
            };
            target.reference = Reference::Digest(digest);
        }
        if let Some(check) = &self.upstream_check
            && !check.shows(&target).await?
        {
            return Ok(None);
        }
        local::find(&self.store, &self.memory, &self.access, &target).await
    }

    /// Charges the time that a request of the node's own client waits for peers to its pull, if it fills no ingest: a
    /// head, a part, and everything with which the mirror itself fills the store.
    fn join_pull(&self, target: &mut Target) {
        if target.caller != Caller::Own || target.fills_ingest() {
            return;
        }
        let Some(key) = target.key() else { return };
        let attempts = self
            .attempts
            .of(&key, target.head_only, target.origin.as_ref());
        if target.head_only {
            attempts.asked_again(false);
        }
        target.pull.attempts = Some(attempts);
    }

    /// Reads from manifests what they say about an object before others are asked for it.
    async fn learn_images(&self, target: &Target) {
        if let Some(digest) = target.digest()
            && (target.fills_ingest() || self.images.size(digest).is_none())
        {
            self.images.learn_expected(&self.store).await;
        }
    }

    /// Remembers a manifest that this node's client has requested and that the store has, or will get from upstream.
    pub(super) fn expect_manifest(&self, target: &Target, result: &Result<Found, Refusal>) {
        let digest = match result {
            Ok(found) => Some(&found.digest).filter(|_| found.source == Source::Local),
            Err(_) => target.digest(),
        };
        if target.kind == Kind::Manifest
            && target.caller == Caller::Own
            && let Some(digest) = digest
        {
            self.images.expect(digest);
        }
    }

    /// Finds content for a peer: what is here, and for a follower of a flight also what is being received.
    async fn find_for_peer(
        &self,
        target: &Target,
        record: &mut RequestRecord,
    ) -> Result<Found, Refusal> {
        let found = self.find_here(target).await?;
        let (Some(flight), Some(follower)) = (&self.flight, target.follower) else {
            return found.ok_or(Refusal::NotHere(target.kind));
        };
        let is_open = |origin: Option<&Origin>| {
            let check = self.upstream_check.as_ref();
            check.is_none_or(|check| check.shows_growing(target, origin))
        };
        let access = &self.access;
        if target.head_only {
            let progress = flight.progress(target, found, access, is_open);
            return progress.ok_or(Refusal::NotHere(target.kind));
        }
        let found = match found {
            Some(found) => found,
            None => match flight
                .serve_growing(target, follower.position, access, is_open)
                .await
            {
                Ok(found) => found,
                // It may have become complete meanwhile.
                Err(refusal) => self.find_here(target).await?.ok_or(refusal)?,
            },
        };
        flight.admit(target, found, (record.ip, follower))
    }

    fn count(&self, target: &Target, found: Option<&Found>) {
        let hit = found.is_some_and(|found| found.source == Source::Peer);
        let registry = self.metrics.registry_label(
            target.origin.as_ref().map(|origin| &origin.registry),
            target.caller,
        );
        let cache = if hit { "hit" } else { "miss" };
        self.metrics
            .mirror_requests
            .get_or_create(&MirrorLabels { registry, cache })
            .inc();
        if found.is_none() {
            self.metrics.misses.inc();
        }
        if hit {
            Metrics::stamp(&self.metrics.mirror_last_success);
        }
    }
}
