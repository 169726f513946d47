use std::hash::{Hash as _, Hasher as _};

use proptest::prelude::*;

use super::*;
use crate::NodeId;
use crate::members::Signatures;

pub(crate) fn node_id() -> impl Strategy<Value = NodeId> {
    prop_oneof![
        8 => (0..8_u8).prop_map(|number| NodeId([number; 32])),
        1 => any::<[u8; 32]>().prop_map(NodeId),
    ]
}

fn maybe() -> impl Strategy<Value = Bytes> {
    prop::option::of(node_id()).prop_map(node_field)
}

pub(crate) fn probe() -> impl Strategy<Value = Probe> {
    (0..5_u32, maybe(), maybe()).prop_map(|(number, target, origin)| Probe {
        number,
        target,
        origin,
    })
}

pub(crate) fn kind() -> impl Strategy<Value = Option<Kind>> {
    prop_oneof![
        Just(None),
        probe().prop_map(|probe| Some(Kind::Ping(probe))),
        probe().prop_map(|probe| Some(Kind::Ack(probe))),
        any::<(bool, u64)>().prop_map(|(joining, hash)| Some(Kind::Sync(Sync {
            joining,
            bucket_hashes: vec![hash; BUCKETS]
        }))),
        any::<(u32, u64)>().prop_map(|(members, whole_buckets)| Some(Kind::List(List {
            members,
            whole_buckets
        }))),
    ]
}

fn status() -> impl Strategy<Value = Status> {
    prop_oneof![
        Just(Status::Alive),
        Just(Status::Suspect),
        Just(Status::Dead),
        Just(Status::Left)
    ]
}

fn contact() -> impl Strategy<Value = Contact> {
    let address = || (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from);
    let addresses = || prop::collection::vec(address(), 0..=MAX_ADDRESSES);
    (addresses(), addresses()).prop_map(|(router, registry)| Contact::new(router, registry))
}

/// A member at time 50,000, often with a small incarnation and age, and its status.
pub(crate) fn told() -> impl Strategy<Value = Claim> {
    let incarnation = prop_oneof![8 => 0..4_u32, 1 => any::<u32>()];
    let age = prop_oneof![8 => 0..20_000_u64, 1 => 0..u64::from(u32::MAX)];
    (node_id(), incarnation, age, contact(), status()).prop_map(
        |(id, incarnation, age, contact, status)| {
            let member = Member {
                id,
                contact: Arc::new(contact),
                incarnation,
                born: Born::from_age(NOW, Duration::from_millis(age)),
            };
            claim(member, status)
        },
    )
}

/// A claim with the signature of the member.
pub(crate) fn claim(member: Member, status: Status) -> Claim {
    let record = signed_bytes(&member, status == Status::Left);
    let signature = TestKey(member.id).sign(&record);
    Claim {
        member,
        status,
        signature,
    }
}

/// Signs with a checksum instead of a signature: fast, and no test forges one by chance.
#[derive(Debug)]
pub(crate) struct TestKey(pub NodeId);

impl Signatures for TestKey {
    fn sign(&self, record: &[u8]) -> Signature {
        let mut hasher = std::hash::DefaultHasher::new();
        (self.0, record).hash(&mut hasher);
        let mut signature = [7; 64];
        signature[..8].copy_from_slice(&hasher.finish().to_be_bytes());
        signature
    }

    fn verify(&self, id: &NodeId, record: &[u8], signature: &Signature) -> bool {
        TestKey(*id).sign(record) == *signature
    }
}

pub(crate) fn update(claim: &Claim) -> MemberUpdate {
    MemberUpdate::new(NOW, &claim.member, claim.status, &claim.signature)
}

pub(crate) const NOW: Time = Time(50_000);

pub(crate) fn members_message() -> impl Strategy<Value = MembersMessage> {
    (kind(), prop::collection::vec(told(), 0..5)).prop_map(|(kind, updates)| MembersMessage {
        kind,
        updates: updates.iter().map(update).collect(),
    })
}

proptest! {
    #[test]
    fn an_update_reads_as_it_was_written(claim in told()) {
        prop_assert_eq!(update(&claim).read(NOW)?, claim);
    }

    #[test]
    fn different_records_are_signed_differently(a in told(), b in told()) {
        let signed = |it: &Claim| signed_bytes(&it.member, it.status == Status::Left);
        let is_same = (a.member.id, a.member.incarnation, &a.member.contact)
            == (b.member.id, b.member.incarnation, &b.member.contact)
            && (a.status == Status::Left) == (b.status == Status::Left);
        prop_assert_eq!(signed(&a) == signed(&b), is_same);
        prop_assert!(signed_bytes(&a.member, true) != signed_bytes(&a.member, false));
    }

    #[test]
    fn a_draft_keeps_its_limit(kind in kind(), updates in prop::collection::vec(told(), 0..20), limit in 600..2_000_usize) {
        let mut draft = Draft::new(kind.clone());
        let taken = updates.iter().map(update);
        let taken: Vec<_> = taken.filter(|update| draft.push(update.clone(), limit)).collect();
        prop_assert_eq!(draft.len, draft.message.encoded_len());
        prop_assert!(draft.len <= limit);
        let datagram = draft.finish();
        let message = Message::Members(MembersMessage { kind, updates: taken });
        prop_assert_eq!(Message::from_datagram(datagram), Ok((None, message)));
    }
}

#[test]
fn malformed_fields_are_refused() {
    let short = Bytes::from_static(&[1; 31]);
    let read = |message: MembersMessage| message.read(NOW).map(|_| ());
    let of_kind = |kind| {
        read(MembersMessage {
            kind: Some(kind),
            updates: Vec::new(),
        })
    };
    let target = Probe {
        target: short.clone(),
        ..Probe::default()
    };
    let origin = Probe {
        origin: short.clone(),
        ..Probe::default()
    };
    let bucket_hashes = vec![1; BUCKETS - 1];
    let sync = Sync {
        bucket_hashes,
        ..Sync::default()
    };
    let refused = |field| Err(DecodeError::Field(field));
    assert_eq!(of_kind(Kind::Ping(target)), refused("target"));
    assert_eq!(of_kind(Kind::Ack(origin)), refused("origin"));
    assert_eq!(of_kind(Kind::Sync(sync)), refused("bucket_hashes"));

    type Change = fn(&mut MemberUpdate);
    let changes: [(&str, Change); 7] = [
        ("signature", |update| update.signature.truncate(63)),
        ("id", |update| update.id.clear()),
        ("status", |update| update.status = 4),
        ("router", |update| update.router = vec![4].into()),
        ("router", |update| {
            update.router = [4; 7].repeat(MAX_ADDRESSES + 1).into();
        }),
        ("registry", |update| update.registry = vec![6; 19].into()),
        ("registry", |update| update.registry = vec![16; 18].into()),
    ];
    for (field, change) in changes {
        let mut update = MemberUpdate {
            id: vec![1; 32].into(),
            signature: vec![1; 64].into(),
            ..MemberUpdate::default()
        };
        change(&mut update);
        let message = MembersMessage {
            kind: None,
            updates: vec![update],
        };
        assert_eq!(read(message), refused(field));
    }
}
