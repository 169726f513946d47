//! Provider records: which peers claim to hold which keys, for the keys near this node's id.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::iter;
use std::sync::Arc;
use std::time::Instant;

use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use libp2p::{Multiaddr, PeerId};

use crate::addresses::{Endpoint, MAX_ADDRESSES};
use crate::key::RoutingKey;

/// The most records kept for other nodes. Beyond that, the oldest of the provider with most records is dropped, so a
/// peer that announces without limit displaces its own. In a cluster of any size each node keeps about 20 times the
/// keys of one node, so this is enough for 5,000 layers, manifests and tags on every node. About 150 bytes each, and at
/// most 700 for each provider.
pub(crate) const MAX_RECORDS: usize = 100_000;
/// The most providers kept for one key; beyond that, the oldest is dropped. A pull needs a few.
pub(crate) const MAX_PROVIDERS_PER_KEY: usize = 512;

#[derive(Debug)]
pub(crate) struct ProviderStore {
    local: PeerId,
    /// The keys that this node itself holds. No limit: there are as many as in the store's catalog.
    own: HashSet<RoutingKey>,
    /// The addresses of this node, sent with its own records.
    own_addresses: Vec<Multiaddr>,
    /// The providers of each key, the latest announcement last.
    keys: HashMap<RoutingKey, Vec<Entry>>,
    /// Every entry of `keys`, the oldest first.
    order: BTreeMap<u64, RoutingKey>,
    /// All providers with an entry.
    providers: HashMap<Arc<PeerId>, Provider>,
    /// All providers by the number of their records, those with most last.
    by_records: BTreeSet<(usize, Arc<PeerId>)>,
    next: u64,
    dropped: u64,
}

#[derive(Debug)]
struct Entry {
    /// Its place in `order`.
    number: u64,
    expires: Instant,
    provider: Arc<PeerId>,
}

#[derive(Debug, Default)]
struct Provider {
    /// Its latest announced addresses. As sockets: a multiaddress may be as long as a message, and this is kept.
    addresses: Box<[Endpoint]>,
    /// The places of its entries in `order`.
    records: BTreeSet<u64>,
}

impl ProviderStore {
    pub(crate) fn new(local: PeerId) -> Self {
        Self {
            local,
            own: HashSet::new(),
            own_addresses: Vec::new(),
            keys: HashMap::new(),
            order: BTreeMap::new(),
            providers: HashMap::new(),
            by_records: BTreeSet::new(),
            next: 0,
            dropped: 0,
        }
    }

    pub(crate) fn set_own_addresses(&mut self, addresses: Vec<Multiaddr>) {
        self.own_addresses = addresses;
    }

    /// The number of records of other nodes, expired ones included until [`Self::expire`].
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// The number of records dropped for lack of room since the last call.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// The providers that other nodes announced for a key, the latest first.
    pub(crate) fn others(&self, key: &RoutingKey, now: Instant) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let entries = self.keys.get(key).into_iter().flatten().rev();
        entries
            .filter(|entry| now < entry.expires)
            .map(|entry| (*entry.provider, self.addresses(&entry.provider)))
            .collect()
    }

    /// Records that the provider holds `key`, or still does. The addresses that this node understands replace those
    /// known before.
    pub(crate) fn insert(
        &mut self,
        key: RoutingKey,
        id: PeerId,
        addresses: &[Multiaddr],
        expires: Instant,
    ) {
        self.remove(&key, &id);
        let number = self.next;
        self.next += 1;
        let provider = self.add_record(id, addresses, number);
        let entries = self.keys.entry(key).or_default();
        let surplus = (entries.len() >= MAX_PROVIDERS_PER_KEY).then(|| entries[0].number);
        entries.push(Entry {
            number,
            expires,
            provider,
        });
        self.order.insert(number, key);
        if let Some(oldest) = surplus {
            self.drop_early(oldest);
        }
        if self.order.len() > MAX_RECORDS
            && let Some((_, most)) = self.by_records.last()
            && let Some(oldest) = self.providers.get(most).and_then(|p| p.records.first())
        {
            self.drop_early(*oldest);
        }
    }

    /// Removes expired records.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((number, key)) = self.order.first_key_value() {
            let entries = self.keys.get(key).map_or(&[][..], Vec::as_slice);
            if entries
                .iter()
                .any(|e| e.number == *number && now < e.expires)
            {
                return;
            }
            self.remove_number(*number);
        }
    }

    fn drop_early(&mut self, number: u64) {
        self.remove_number(number);
        self.dropped += 1;
    }

    fn remove(&mut self, key: &RoutingKey, id: &PeerId) {
        let mut entries = self.keys.get(key).into_iter().flatten();
        if let Some(entry) = entries.find(|entry| *entry.provider == *id) {
            self.remove_number(entry.number);
        }
    }

    fn remove_number(&mut self, number: u64) {
        let Some(key) = self.order.remove(&number) else {
            return;
        };
        let Some(entries) = self.keys.get_mut(&key) else {
            return;
        };
        let Some(at) = entries.iter().position(|entry| entry.number == number) else {
            return;
        };
        let entry = entries.remove(at);
        if entries.is_empty() {
            self.keys.remove(&key);
        }
        self.remove_record(entry.provider, number);
    }

    fn add_record(&mut self, id: PeerId, addresses: &[Multiaddr], number: u64) -> Arc<PeerId> {
        let known = self.providers.get_key_value(&id);
        let id = known.map_or_else(|| Arc::new(id), |(id, _)| id.clone());
        let provider = self.providers.entry(id.clone()).or_default();
        self.by_records
            .remove(&(provider.records.len(), id.clone()));
        provider.records.insert(number);
        self.by_records.insert((provider.records.len(), id.clone()));
        let understood = addresses.iter().filter_map(Endpoint::parse);
        provider.addresses = understood.take(MAX_ADDRESSES).collect();
        id
    }

    fn remove_record(&mut self, id: Arc<PeerId>, number: u64) {
        let Some(provider) = self.providers.get_mut(&id) else {
            return;
        };
        self.by_records
            .remove(&(provider.records.len(), id.clone()));
        provider.records.remove(&number);
        if provider.records.is_empty() {
            self.providers.remove(&id);
        } else {
            self.by_records.insert((provider.records.len(), id));
        }
    }

    fn addresses(&self, id: &PeerId) -> Vec<Multiaddr> {
        let provider = self.providers.get(id).into_iter();
        let endpoints = provider.flat_map(|provider| &provider.addresses);
        endpoints.map(|endpoint| (*endpoint).into()).collect()
    }
}

/// What Kademlia reads and writes by itself. Records come in through [`ProviderStore::insert`], and this node's own are
/// published by [`crate::publish`], so half of the trait does nothing.
impl RecordStore for ProviderStore {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        if record.provider == self.local
            && let Ok(key) = RoutingKey::try_from(&record.key)
        {
            self.own.insert(key);
        }
        Ok(())
    }

    /// This node first, then the others from a random one on: Kademlia answers with the first 20, and not every reader
    /// should get the same ones.
    fn providers(&self, record_key: &RecordKey) -> Vec<ProviderRecord> {
        let Ok(key) = RoutingKey::try_from(record_key) else {
            return Vec::new();
        };
        let mut records = Vec::new();
        if self.own.contains(&key) {
            let addresses = self.own_addresses.clone();
            records.push(ProviderRecord::new(
                record_key.clone(),
                self.local,
                addresses,
            ));
        }
        let entries = self.keys.get(&key).map_or(&[][..], Vec::as_slice);
        let start = rand::random_range(0..entries.len().max(1));
        let (before, from) = entries.split_at(start.min(entries.len()));
        records.extend(from.iter().chain(before).map(|entry| ProviderRecord {
            key: record_key.clone(),
            provider: *entry.provider,
            expires: Some(entry.expires),
            addresses: self.addresses(&entry.provider),
        }));
        records
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        iter::empty()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        let Ok(key) = RoutingKey::try_from(key) else {
            return;
        };
        if *provider == self.local {
            self.own.remove(&key);
        } else {
            self.remove(&key, provider);
        }
    }
}

#[cfg(test)]
mod tests;
