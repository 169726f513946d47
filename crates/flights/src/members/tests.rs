//! Whatever a node is told, in whatever order, and however late it wakes.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const ME: u8 = 0;

fn id(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn told() -> impl Strategy<Value = MemberUpdate> {
    let claim = prop_oneof![
        (0..20_000_u64).prop_map(|age| Claim::Alive {
            contact: Arc::default(),
            age: Duration::from_millis(age)
        }),
        Just(Claim::Suspect),
        Just(Claim::Down),
        Just(Claim::Left),
    ];
    (0..8_u8, 0..4_u32, claim).prop_map(|(number, incarnation, claim)| MemberUpdate {
        id: id(number),
        incarnation,
        claim,
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (0..5_u32).prop_map(|number| Kind::Ping { number }),
        (0..5_u32).prop_map(|number| Kind::Ack { number }),
        (0..8_u8, 0..5_u32).prop_map(|(target, number)| Kind::PingFor {
            target: id(target),
            number
        }),
        Just(Kind::Gossip),
        any::<(bool, u64)>().prop_map(|(joining, hash)| Kind::Sync {
            joining,
            digest: Box::new([hash; 64])
        }),
        any::<(u8, u64)>().prop_map(|(parts, whole)| Kind::List { parts, whole }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Hear(u8, Kind, Vec<MemberUpdate>),
    Wait(u64),
    Doubt(u8),
    Join(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8_u8, kind(), prop::collection::vec(told(), 0..5))
            .prop_map(|(from, kind, update)| Step::Hear(from, kind, update)),
        2 => (1..40_000_u64).prop_map(Step::Wait),
        1 => (0..8_u8).prop_map(Step::Doubt),
        1 => (0..8_u8).prop_map(Step::Join),
    ]
}

proptest! {
    #[test]
    fn changes_add_up_to_the_members(steps in prop::collection::vec(step(), 0..60)) {
        let mut now = Time(50_000);
        let mut members = Members::new(now, id(ME), Contact::default(), 1);
        let mut listed = BTreeSet::new();
        let mut incarnation = 0;
        for step in steps {
            match step {
                Step::Hear(from, kind, update) => {
                    let mut message = Message::new(&kind);
                    for update in update {
                        message.push(&update, MAX_MESSAGE);
                    }
                    members.receive(now, id(from), &message.finish())?;
                }
                Step::Wait(wait) => now = Time(now.0 + wait),
                Step::Doubt(number) => members.probe_now(now, id(number)),
                Step::Join(seed) => members.join(now, [id(seed)]),
            }
            // It does not ask to be woken for what it has just done.
            for _ in 0..3 {
                members.tick(now);
            }
            prop_assert!(members.next_deadline() > now);

            for change in members.take_changes() {
                match change {
                    Change::Joined(member) => prop_assert!(listed.insert(member.id)),
                    Change::Updated(member) => prop_assert!(listed.contains(&member.id)),
                    Change::Left(id) => prop_assert!(listed.remove(&id)),
                }
            }
            let all: BTreeSet<_> = members.iter().map(|member| member.id).collect();
            prop_assert_eq!(&all, &listed);
            prop_assert_eq!(all.len(), members.len());
            prop_assert!(all.contains(&id(ME)), "nobody buries the living");
            prop_assert!(members.me().incarnation >= incarnation);
            incarnation = members.me().incarnation;
            for datagram in members.take_datagrams() {
                prop_assert!(datagram.to != id(ME));
                prop_assert!(datagram.bytes.len() <= MAX_MESSAGE);
            }
        }
    }
}

#[test]
fn one_who_leaves_says_no_more() {
    let now = Time(0);
    let mut members = Members::new(now, id(ME), Contact::default(), 1);
    let mut hello = Message::new(&Kind::Ping { number: 1 });
    let alive = Claim::Alive {
        contact: Arc::default(),
        age: Duration::ZERO,
    };
    hello.push(
        &MemberUpdate {
            id: id(1),
            incarnation: 0,
            claim: alive,
        },
        MAX_MESSAGE,
    );
    let hello = hello.finish();
    members
        .receive(now, id(1), &hello)
        .expect("a valid message");
    members.take_datagrams();

    members.leave();
    assert_eq!(members.take_datagrams().len(), 1);
    members
        .receive(now, id(1), &hello)
        .expect("a valid message");
    members.tick(Time(60_000));
    assert_eq!(members.take_datagrams(), []);
}
