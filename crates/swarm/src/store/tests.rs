//! What is kept, what is dropped, and that the indexes agree.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn consistent(store: &ProviderStore) -> bool {
    let entries: usize = store.keys.values().map(Vec::len).sum();
    let told = store
        .keys
        .iter()
        .flat_map(|(key, entries)| entries.iter().map(move |e| (e.number, *key, *e.provider)));
    let told: Vec<_> = told.collect();
    let records = store.providers.iter();
    let by_records: BTreeSet<_> = records
        .map(|(id, p)| (p.records.len(), id.clone()))
        .collect();
    entries == store.order.len()
        && store.keys.values().all(|e| !e.is_empty())
        && store.by_records == by_records
        && by_records.iter().map(|(count, _)| count).sum::<usize>() == entries
        && told.iter().all(|(number, key, id)| {
            store.order.get(number) == Some(key) && store.providers[id].records.contains(number)
        })
}

#[test]
fn drops_the_oldest_provider_of_a_key() {
    let mut store = ProviderStore::new(PeerId::random());
    let key = RoutingKey::numbered(0);
    let peers: Vec<_> = (0..=MAX_PROVIDERS_PER_KEY)
        .map(|_| PeerId::random())
        .collect();
    for peer in &peers {
        store.insert(key, *peer, &[], later());
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
fn drops_the_oldest_record_of_who_has_most() {
    let mut store = ProviderStore::new(PeerId::random());
    let (modest, greedy) = (PeerId::random(), PeerId::random());
    let now = Instant::now();
    let known = |store: &ProviderStore, number| {
        let others = store.others(&RoutingKey::numbered(number), now);
        others.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    // The oldest of all.
    store.insert(RoutingKey::numbered(0), modest, &[], later());
    for number in 1..=MAX_RECORDS as u32 {
        store.insert(RoutingKey::numbered(number), greedy, &[], later());
    }
    assert_eq!((store.len(), store.take_dropped()), (MAX_RECORDS, 1));
    assert_eq!(known(&store, 0), [modest]);
    assert_eq!((known(&store, 1), known(&store, 2)), (vec![], vec![greedy]));
    // Other peers find room even when all is taken.
    store.insert(RoutingKey::numbered(1), modest, &[], later());
    assert_eq!((store.len(), store.take_dropped()), (MAX_RECORDS, 1));
    assert_eq!((known(&store, 1), known(&store, 2)), (vec![modest], vec![]));
    assert!(consistent(&store));
}

#[test]
fn keeps_of_addresses_what_this_node_understands() {
    let mut store = ProviderStore::new(PeerId::random());
    let (peer, key) = (PeerId::random(), RoutingKey::numbered(0));
    let multiaddr = |text: &str| text.parse::<Multiaddr>().expect("a multiaddress");
    let told = ["/ip4/10.0.0.1/tcp/5001", "/ip6/fd00::1/tcp/5000/http"].map(multiaddr);
    let long = multiaddr(&format!("/dns/{}/tcp/5001", "a".repeat(1024 * 1024)));
    let all = [&[long], &told[..]].concat();
    store.insert(key, peer, &all, later());
    let now = Instant::now();
    assert_eq!(store.others(&key, now), [(peer, told.to_vec())]);
    assert_eq!(store.providers(&key.into())[0].addresses, told);
    // A peer that moves has moved with all its records.
    let many: Vec<_> = (1..100)
        .map(|port| multiaddr(&format!("/ip4/10.0.0.2/tcp/{port}")))
        .collect();
    store.insert(RoutingKey::numbered(1), peer, &many, later());
    let moved = many[..MAX_ADDRESSES].to_vec();
    assert_eq!(store.others(&key, now), [(peer, moved)]);
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
                store.insert(key, peers[peer], &[], at);
            } else {
                store.remove_provider(&key.into(), &peers[peer]);
            }
            prop_assert!(consistent(&store));
        }
        store.expire(start + Duration::from_secs(20));
        prop_assert_eq!((store.len(), store.keys.len(), store.providers.len()), (0, 0, 0));
            prop_assert!(store.by_records.is_empty());
    }
}
