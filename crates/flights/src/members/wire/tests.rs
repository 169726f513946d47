use proptest::prelude::*;

use super::*;
use crate::members::member::ContactError;

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
}

fn claim() -> impl Strategy<Value = Claim> {
    let addresses = || prop::collection::vec(address(), 0..=4);
    let zone = prop::option::of("[a-z0-9.-]{1,63}");
    let alive =
        (addresses(), addresses(), zone, any::<u64>()).prop_map(|(router, registry, zone, age)| {
            let contact = Contact::new(router, registry, zone).expect("within the limits");
            Claim::Alive {
                contact: Arc::new(contact),
                age: Duration::from_millis(age),
            }
        });
    prop_oneof![
        alive,
        Just(Claim::Suspect),
        Just(Claim::Down),
        Just(Claim::Left)
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        any::<u32>().prop_map(|number| Kind::Ping { number }),
        any::<u32>().prop_map(|number| Kind::Ack { number }),
        any::<([u8; 32], u32)>().prop_map(|(target, number)| Kind::PingFor {
            target: NodeId(target),
            number
        }),
        Just(Kind::Gossip),
        (any::<bool>(), any::<u64>()).prop_map(|(joining, hash)| Kind::Sync {
            joining,
            digest: Box::new([hash; BUCKETS])
        }),
        any::<(u8, u64)>().prop_map(|(parts, whole)| Kind::List { parts, whole }),
    ]
}

fn update() -> impl Strategy<Value = MemberUpdate> {
    (any::<[u8; 32]>(), any::<u32>(), claim()).prop_map(|(id, incarnation, claim)| MemberUpdate {
        id: NodeId(id),
        incarnation,
        claim,
    })
}

proptest! {
    #[test]
    fn what_is_said_is_what_is_heard(kind in kind(), update in prop::collection::vec(update(), 0..20)) {
        let mut message = Message::new(&kind);
        prop_assert!(update.iter().all(|update| message.push(update, MAX_MESSAGE)));
        prop_assert_eq!(decode(&message.finish()), Ok((kind, update)));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0u8..8) {
        let _ = decode(&bytes);
        let _ = decode(&[&[kind], bytes.as_slice()].concat());
    }

    #[test]
    fn no_damage_panics(update in prop::collection::vec(update(), 1..4), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut message = Message::new(&Kind::Gossip);
        update.iter().for_each(|update| { message.push(update, MAX_MESSAGE); });
        let mut bytes = message.finish().to_vec();
        let at = at.index(bytes.len());
        let _ = decode(&bytes[..at]);
        bytes[at] = byte;
        let _ = decode(&bytes);
    }

    #[test]
    fn a_message_keeps_its_limit(update in prop::collection::vec(update(), 0..20), limit in 1usize..1000) {
        let mut message = Message::new(&Kind::Gossip);
        let taken: Vec<_> = update.into_iter().filter(|update| message.push(update, limit)).collect();
        prop_assert!(message.len() <= limit);
        prop_assert_eq!(decode(&message.finish()), Ok((Kind::Gossip, taken)));
    }
}

#[test]
fn limits_are_refused() {
    let long = vec![4; MAX_MESSAGE + 1];
    assert_eq!(decode(&long), Err(DecodeError::TooLong(long.len())));
    assert_eq!(decode(&[]), Err(DecodeError::Truncated));
    assert_eq!(decode(&[9]), Err(DecodeError::Kind(9)));

    let mut five_addresses = vec![4];
    five_addresses.extend([7; 32]);
    five_addresses.extend([0, 0, 0, 5]);
    assert_eq!(
        decode(&five_addresses),
        Err(DecodeError::Contact(ContactError::Addresses))
    );
}
