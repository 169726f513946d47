//! The node's queries and announcements.

use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::kad::store::RecordStore as _;
use libp2p::kad::{
    GetClosestPeersError, GetClosestPeersOk, GetProvidersOk, PeerInfo, ProviderRecord, QueryId,
    QueryResult, QueryStats, RecordKey,
};
use libp2p::swarm::{ConnectionId, NetworkBehaviour as _};
use libp2p::{Multiaddr, PeerId};
use mirror::Candidate;

use super::{Find, Node};
use crate::addresses::Sockets;
use crate::bootstrap::Round;
use crate::flights::mirror_peer;
use crate::key::RoutingKey;

/// A running Kademlia query and its purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Query {
    Find(RoutingKey),
    /// Finds the addresses of a provider of the key.
    Locate {
        key: RoutingKey,
        provider: PeerId,
    },
    Publish(RoutingKey),
    /// Finds the nodes near this one.
    Neighbours,
}

impl Query {
    fn is_for(&self, key: &RoutingKey) -> bool {
        matches!(self, Self::Find(k) | Self::Locate { key: k, .. } if k == key)
    }
}

impl Node {
    /// Asks the members that own the key, and Kademlia if there are legacy peers.
    pub(super) fn find(&mut self, find: Find) {
        let (Find { key, asker }, now) = (find, Instant::now());
        if !self.searches.join(key, asker, now) {
            return;
        }
        if let Some(flights) = &mut self.flights {
            self.searches.begin(&key);
            flights.find(key);
        }
        if self.asks_kademlia() {
            self.find_providers(key, now);
        }
    }

    /// Asks this node's own records first, then the cluster.
    fn find_providers(&mut self, key: RoutingKey, now: Instant) {
        self.searches.begin(&key);
        let kad = &mut self.swarm.behaviour_mut().kad;
        let told = kad.store_mut().others(&key, now);
        let query = kad.get_providers(key.into());
        self.queries.insert(query, Query::Find(key));
        for (provider, addresses) in told {
            self.found(&key, provider, addresses);
        }
    }

    fn found(&mut self, key: &RoutingKey, provider: PeerId, mut addresses: Vec<Multiaddr>) {
        let own = provider == *self.swarm.local_peer_id();
        if own || self.searches.has_enough(key) || !self.searches.is_new(key, provider) {
            return;
        }
        let kad = &mut self.swarm.behaviour_mut().kad;
        // Kademlia reports only the ids of providers, but keeps the addresses that came with them during the query, to
        // dial them. This call returns them, and changes nothing.
        let known = kad.handle_pending_outbound_connection(
            ConnectionId::new_unchecked(0),
            Some(provider),
            &[],
            Endpoint::Dialer,
        );
        addresses.extend(known.unwrap_or_default());
        if !self.offer(key, provider, &addresses) && self.searches.resolving(key) {
            let query = self.swarm.behaviour_mut().kad.get_closest_peers(provider);
            let key = *key;
            self.queries.insert(query, Query::Locate { key, provider });
        }
    }

    /// Offers the provider if it has an address: any node can name providers, at any address. A provider that is not
    /// proven to be there is connected to, and until then offered rarely. Returns whether it was offered.
    fn offer(&mut self, key: &RoutingKey, provider: PeerId, addresses: &[Multiaddr]) -> bool {
        let mut known = self.book.get(&provider).cloned().unwrap_or_default();
        let told = Sockets::of(&self.filter, addresses);
        // Either may be newer: a peer keeps its id when it moves.
        known.told.router.extend(told.router);
        known.told.registry.extend(told.registry);
        let (registries, routers) = (
            known.registries(&self.filter, self.registry_port),
            known.routers(),
        );
        let mut proven = self.filter.proven.lock();
        let was_met = proven.ips(&provider).is_some();
        let mut addresses = proven.registries(&provider, &registries, &routers);
        if !was_met {
            let now = Instant::now();
            addresses.retain(|socket| proven.may_dial(now, &provider, socket));
        }
        drop(proven);
        if !was_met || addresses.is_empty() {
            self.prove(provider, &routers);
        }
        if addresses.is_empty() {
            return false;
        }
        let candidate = Candidate {
            peer: mirror_peer(&provider),
            addresses: addresses.into(),
        };
        self.deliver(key, candidate);
        true
    }

    pub(super) fn deliver(&mut self, key: &RoutingKey, candidate: Candidate) {
        let took = self.searches.offer(key, candidate, Instant::now());
        self.observe(took);
    }

    pub(super) fn on_progress(
        &mut self,
        id: QueryId,
        result: QueryResult,
        stats: &QueryStats,
        last: bool,
    ) {
        // The query was abandoned meanwhile.
        let Some(query) = self.queries.get(&id).copied() else {
            return;
        };
        if last {
            self.queries.remove(&id);
        }
        match query {
            Query::Find(key) => {
                if let QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders {
                    providers,
                    ..
                })) = result
                {
                    for provider in providers {
                        self.found(&key, provider, Vec::new());
                    }
                }
                let ended = last.then(|| self.searches.finished(&key, Instant::now()));
                self.observe(ended.flatten());
                if !last && self.searches.has_enough(&key) {
                    self.finish(id);
                } else if self.searches.is_abandoned(&key) {
                    self.cancel_abandoned();
                }
            }
            Query::Locate { key, provider } => {
                for peer in located(result) {
                    if peer.peer_id == provider {
                        self.offer(&key, provider, &peer.addrs);
                    }
                }
                let ended = self.searches.resolved(&key, Instant::now());
                self.observe(ended);
            }
            Query::Neighbours => {
                if self.round.as_ref().is_some_and(Round::is_refreshing) {
                    self.end_round();
                }
                // The neighbours suffice to find anything; the far buckets make it faster. Fails if the table is empty.
                let _ = self.swarm.behaviour_mut().kad.bootstrap();
            }
            Query::Publish(key) => {
                let answered = matches!(result, QueryResult::StartProviding(Ok(_)))
                    && stats.num_successes() > 0;
                let (now, spread) = (Instant::now(), rand::random());
                let publisher = &mut self.publisher;
                publisher.finished(&key, answered, self.size, now, spread);
                if answered {
                    self.metrics.announcements_published.inc();
                }
            }
        }
    }

    /// Stops queries that no caller waits for any more.
    pub(super) fn cancel_abandoned(&mut self) {
        if let Some(flights) = &mut self.flights {
            flights.cancel_abandoned();
        }
        for (key, took) in self.searches.cancel_abandoned(Instant::now()) {
            self.observe(took);
            if let Some(flights) = &mut self.flights {
                flights.cancel_find(&key);
            }
            let abandoned: Vec<_> = self
                .queries
                .iter()
                .filter(|(_, query)| query.is_for(&key))
                .map(|(id, _)| *id)
                .collect();
            for id in abandoned {
                self.queries.remove(&id);
                self.finish(id);
            }
        }
    }

    pub(super) fn observe(&self, took: Option<Duration>) {
        if let Some(took) = took {
            self.metrics.resolve_duration.observe(took.as_secs_f64());
        }
    }

    fn finish(&mut self, id: QueryId) {
        if let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id) {
            query.finish();
        }
    }

    pub(super) fn announce(&mut self, keys: Vec<RoutingKey>) {
        if let Some(flights) = &mut self.flights {
            flights.hold(&keys);
        }
        let local = *self.swarm.local_peer_id();
        let store = self.swarm.behaviour_mut().kad.store_mut();
        for key in keys {
            if self.publisher.announce(key) {
                let record = ProviderRecord::new(RecordKey::from(key), local, Vec::new());
                // The store accepts everything of this node.
                let _ = store.add_provider(record);
            }
        }
    }

    pub(super) fn withdraw(&mut self, keys: &[RoutingKey]) {
        if let Some(flights) = &mut self.flights {
            flights.release(keys);
        }
        for key in keys {
            if self.publisher.withdraw(key) {
                let kad = &mut self.swarm.behaviour_mut().kad;
                kad.stop_providing(&RecordKey::from(*key));
            }
        }
    }

    /// Publishes the keys that are due, as many as may run at once.
    pub(super) fn publish(&mut self) {
        // There is no peer to tell.
        if *self.outbox.peers.borrow() == 0 || !self.tells_kademlia() {
            return;
        }
        let (now, lookups) = (Instant::now(), !self.searches.is_empty());
        while let Some(key) = self.publisher.next(now, lookups) {
            let kad = &mut self.swarm.behaviour_mut().kad;
            match kad.start_providing(key.into()) {
                Ok(query) => {
                    self.queries.insert(query, Query::Publish(key));
                }
                // The store never refuses.
                Err(_) => self.publisher.finished(&key, false, self.size, now, 0.0),
            }
        }
    }
}

/// What is known of the peers near the wanted one, whether or not all answered in time.
fn located(result: QueryResult) -> Vec<PeerInfo> {
    match result {
        QueryResult::GetClosestPeers(
            Ok(GetClosestPeersOk { peers, .. }) | Err(GetClosestPeersError::Timeout { peers, .. }),
        ) => peers,
        _ => Vec::new(),
    }
}
