use proptest::prelude::*;

use super::*;
use crate::NodeId;

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

/// A member at time 50,000, and its status. Often with a small incarnation and age.
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
            (member, status)
        },
    )
}

pub(crate) const NOW: Time = Time(50_000);

pub(crate) fn members_message() -> impl Strategy<Value = MembersMessage> {
    (kind(), prop::collection::vec(told(), 0..5)).prop_map(|(kind, updates)| {
        let update = |(member, status): &Claim| MemberUpdate::new(NOW, member, *status);
        MembersMessage {
            kind,
            updates: updates.iter().map(update).collect(),
        }
    })
}

proptest! {
    #[test]
    fn an_update_reads_as_it_was_written((member, status) in told()) {
        let (read, read_status) = MemberUpdate::new(NOW, &member, status).read(NOW)?;
        prop_assert_eq!(read_status, status);
        if status.is_live() {
            prop_assert_eq!(read, member);
        } else {
            prop_assert_eq!((read.id, read.incarnation), (member.id, member.incarnation));
            prop_assert_eq!(read.contact, Arc::default());
        }
    }

    #[test]
    fn a_draft_keeps_its_limit(kind in kind(), updates in prop::collection::vec(told(), 0..20), limit in 600..2_000_usize) {
        let mut draft = Draft::new(kind.clone());
        let taken = updates.iter().map(|(member, status)| MemberUpdate::new(NOW, member, *status));
        let taken: Vec<_> = taken.filter(|update| draft.push(update.clone(), limit)).collect();
        prop_assert_eq!(draft.len, draft.message.encoded_len());
        prop_assert!(draft.len <= limit);
        let datagram = draft.finish();
        let message = Message::Members(MembersMessage { kind, updates: taken });
        prop_assert_eq!(Message::from_datagram(&datagram), Ok(message));
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
    let changes: [(&str, Change); 6] = [
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
