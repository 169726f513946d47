//! Provider records: which peers say that they hold what. Kept for the keys that lie near this node's id.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::iter;
use std::sync::Arc;
use std::time::Instant;

use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use libp2p::{Multiaddr, PeerId};

use crate::addresses::MAX_ADDRESSES;
use crate::key::RoutingKey;

/// Records kept for other nodes; beyond them the oldest goes. In a cluster of any size each node keeps about 20 times
/// the keys of one node, so this is room for 5,000 layers, manifests and tags on every node. About 100 bytes each.
pub(crate) const MAX_RECORDS: usize = 100_000;
/// Providers kept for one key; beyond them the oldest goes. A pull needs a few.
pub(crate) const MAX_PROVIDERS_PER_KEY: usize = 512;

#[derive(Debug)]
pub(crate) struct ProviderStore {
    local: PeerId,
    /// What this node itself holds. No limit: it is as long as the store's catalog.
    own: HashSet<RoutingKey>,
    /// Where this node is reached, told with its own records.
    own_addresses: Vec<Multiaddr>,
    /// For each key its providers, the latest to say so last.
    keys: HashMap<RoutingKey, Vec<Entry>>,
    /// Every entry of `keys`, the oldest first.
    order: BTreeMap<u64, (RoutingKey, Arc<Provider>)>,
    /// Every provider of `order`, by its last known addresses.
    providers: HashMap<PeerId, Arc<Provider>>,
    next: u64,
    dropped: u64,
}

#[derive(Debug)]
struct Entry {
    /// Its place in `order`.
    number: u64,
    expires: Instant,
    provider: Arc<Provider>,
}

#[derive(Debug, PartialEq, Eq)]
struct Provider {
    id: PeerId,
    addresses: Vec<Multiaddr>,
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
            next: 0,
            dropped: 0,
        }
    }

    pub(crate) fn set_own_addresses(&mut self, addresses: Vec<Multiaddr>) {
        self.own_addresses = addresses;
    }

    /// Records of other nodes, expired ones included until [`Self::expire`].
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Records given up for want of room since this was last asked.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// What other nodes say about a key, the latest first.
    pub(crate) fn others(&self, key: &RoutingKey, now: Instant) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let entries = self.keys.get(key).into_iter().flatten().rev();
        entries
            .filter(|entry| now < entry.expires)
            .map(|entry| (entry.provider.id, entry.provider.addresses.clone()))
            .collect()
    }

    /// Remembers that `provider` holds `key`, or that it still does.
    pub(crate) fn insert(
        &mut self,
        key: RoutingKey,
        id: PeerId,
        mut addresses: Vec<Multiaddr>,
        expires: Instant,
    ) {
        self.remove(&key, &id);
        addresses.truncate(MAX_ADDRESSES);
        let provider = self.intern(Provider { id, addresses });
        let number = self.next;
        self.next += 1;
        let entries = self.keys.entry(key).or_default();
        let surplus = (entries.len() >= MAX_PROVIDERS_PER_KEY).then(|| entries[0].provider.id);
        entries.push(Entry {
            number,
            expires,
            provider: provider.clone(),
        });
        self.order.insert(number, (key, provider));
        if let Some(oldest) = surplus {
            self.drop_early(&key, &oldest);
        }
        if self.order.len() > MAX_RECORDS
            && let Some((_, (key, oldest))) = self.order.first_key_value()
        {
            let (key, oldest) = (*key, oldest.id);
            self.drop_early(&key, &oldest);
        }
    }

    /// Forgets what has expired.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((number, (key, provider))) = self.order.first_key_value() {
            let (number, key, id) = (*number, *key, provider.id);
            let entries = self.keys.get(&key).map_or(&[][..], Vec::as_slice);
            if entries
                .iter()
                .any(|e| e.number == number && now < e.expires)
            {
                return;
            }
            self.remove(&key, &id);
        }
    }

    fn drop_early(&mut self, key: &RoutingKey, id: &PeerId) {
        self.remove(key, id);
        self.dropped += 1;
    }

    fn remove(&mut self, key: &RoutingKey, id: &PeerId) {
        let Some(entries) = self.keys.get_mut(key) else {
            return;
        };
        let Some(at) = entries.iter().position(|e| e.provider.id == *id) else {
            return;
        };
        let entry = entries.remove(at);
        if entries.is_empty() {
            self.keys.remove(key);
        }
        self.order.remove(&entry.number);
        // The map's own and this entry's: nobody else speaks of this provider.
        if Arc::strong_count(&entry.provider) == 2
            && self
                .providers
                .get(id)
                .is_some_and(|p| Arc::ptr_eq(p, &entry.provider))
        {
            self.providers.remove(id);
        }
    }

    fn intern(&mut self, provider: Provider) -> Arc<Provider> {
        match self.providers.get(&provider.id) {
            Some(known) if **known == provider => known.clone(),
            _ => {
                let provider = Arc::new(provider);
                self.providers.insert(provider.id, provider.clone());
                provider
            }
        }
    }
}

/// What Kademlia reads and writes by itself. Records come in through [`ProviderStore::insert`], and this node's own are
/// published by [`crate::publish`], so half of the trait has nothing to do.
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

    /// This node first, and the others from a random one on: Kademlia answers with the first 20, and not everybody
    /// should be sent to the same.
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
            provider: entry.provider.id,
            expires: Some(entry.expires),
            addresses: entry.provider.addresses.clone(),
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
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn consistent(store: &ProviderStore) -> bool {
        let entries: usize = store.keys.values().map(Vec::len).sum();
        let named: HashSet<_> = store.order.values().map(|(_, p)| p.id).collect();
        entries == store.order.len()
            && store.keys.values().all(|e| !e.is_empty())
            && named == store.providers.keys().copied().collect()
    }

    #[test]
    fn drops_the_oldest_provider_of_a_key() {
        let mut store = ProviderStore::new(PeerId::random());
        let key = RoutingKey::numbered(0);
        let peers: Vec<_> = (0..=MAX_PROVIDERS_PER_KEY)
            .map(|_| PeerId::random())
            .collect();
        for peer in &peers {
            store.insert(key, *peer, Vec::new(), later());
        }
        let kept: Vec<_> = store
            .others(&key, Instant::now())
            .into_iter()
            .map(|o| o.0)
            .collect();
        assert_eq!(kept.len(), MAX_PROVIDERS_PER_KEY);
        assert!(!kept.contains(&peers[0]) && kept[0] == peers[MAX_PROVIDERS_PER_KEY]);
        assert_eq!((store.take_dropped(), store.take_dropped()), (1, 0));
        assert!(consistent(&store));
    }

    #[test]
    fn drops_the_oldest_record_of_all() {
        let mut store = ProviderStore::new(PeerId::random());
        let peer = PeerId::random();
        for number in 0..=MAX_RECORDS as u32 {
            store.insert(RoutingKey::numbered(number), peer, Vec::new(), later());
        }
        assert_eq!((store.len(), store.take_dropped()), (MAX_RECORDS, 1));
        let now = Instant::now();
        assert!(store.others(&RoutingKey::numbered(0), now).is_empty());
        assert_eq!(store.others(&RoutingKey::numbered(1), now).len(), 1);
    }

    #[test]
    fn own_records_carry_addresses_and_go_when_withdrawn() {
        let local = PeerId::random();
        let mut store = ProviderStore::new(local);
        let address: Multiaddr = "/ip4/10.0.0.1/tcp/5001".parse().expect("a multiaddress");
        store.set_own_addresses(vec![address.clone()]);
        let key = RecordKey::from(RoutingKey::numbered(0));
        let record = ProviderRecord::new(key.clone(), local, Vec::new());
        store.add_provider(record).expect("room");
        let told = store.providers(&key);
        assert_eq!((told.len(), &told[0].addresses), (1, &vec![address]));
        store.remove_provider(&key, &local);
        assert!(store.providers(&key).is_empty());
    }

    proptest! {
        #[test]
        fn stays_consistent(steps in proptest::collection::vec((0u32..4, 0usize..4, 0u64..20, any::<bool>()), 0..60)) {
            let peers: Vec<_> = (0..4).map(|_| PeerId::random()).collect();
            let mut store = ProviderStore::new(PeerId::random());
            let start = Instant::now();
            for (number, peer, seconds, add) in steps {
                let at = start + Duration::from_secs(seconds);
                let key = RoutingKey::numbered(number);
                if add {
                    store.insert(key, peers[peer], Vec::new(), at);
                } else {
                    store.remove_provider(&key.into(), &peers[peer]);
                }
                prop_assert!(consistent(&store));
            }
            store.expire(start + Duration::from_secs(20));
            prop_assert_eq!((store.len(), store.keys.len(), store.providers.len()), (0, 0, 0));
        }
    }
}
