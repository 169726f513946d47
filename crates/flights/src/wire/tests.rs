use proptest::prelude::*;

use super::generated::{List, MemberUpdate, MembersMessage, Probe, Sync};
use super::generated::{member_update::Status, members_message::Kind};
use super::*;
use crate::members::wire::tests::members_message;

/// Often one of a few.
pub(crate) fn some_node() -> impl Strategy<Value = NodeId> {
    prop_oneof![
        8 => (0..6_u8).prop_map(|n| NodeId([n; 32])),
        1 => any::<[u8; 32]>().prop_map(NodeId),
    ]
}

/// Often one of four, each of another slot.
pub(crate) fn some_key() -> impl Strategy<Value = Key> {
    prop_oneof![
        8 => (0..4_u8).prop_map(|n| Key([n * 64; 16])),
        1 => any::<[u8; 16]>().prop_map(Key),
    ]
}

/// Often one of a few.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..8_u64, 1 => Just(u64::MAX), 1 => any::<u64>()]
}

fn key_bytes() -> impl Strategy<Value = Bytes> {
    some_key().prop_map(key_field)
}

fn node_bytes() -> impl Strategy<Value = Bytes> {
    some_node().prop_map(|node| node_field(Some(node)))
}

fn maybe() -> impl Strategy<Value = Bytes> {
    prop_oneof![Just(Bytes::new()), node_bytes()]
}

fn many_keys() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(some_key(), 0..20).prop_map(|keys| keys_field(&keys))
}

fn many_nodes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(some_node(), 0..=MAX_NODES).prop_map(nodes_field)
}

/// The request of a process whose random number and sequence are the same.
pub(crate) fn numbered_as(number: u64) -> RequestNumber {
    RequestNumber {
        random: number,
        sequence: number,
    }
}

/// A request without anything special about it.
pub(crate) fn asked(key: Key, number: u64) -> SourceRequest {
    SourceRequest {
        number,
        sequence: number,
        repository: 1,
        ..SourceRequest::of_key(key)
    }
}

fn source_request() -> impl Strategy<Value = SourceRequest> {
    let what = (
        key_bytes(),
        any::<[u64; 2]>(),
        any::<Option<u64>>(),
        1..=8_u32,
    );
    let who = (maybe(), [many_nodes(), many_nodes()], maybe(), maybe());
    let how = (
        number(),
        any::<[bool; 7]>(),
        0..=MAX_REQUEUE_AFTER_MS,
        (any::<u64>(), known_rate()),
    );
    (what, who, how).prop_map(|(what, who, how)| {
        let (key, [number, repository], size, concurrent_objects) = what;
        let (preferred_leader, [failed_sources, busy_sources], slow_source, silent_owner) = who;
        let (
            offset,
            [
                leader_cooldown,
                is_slow,
                is_fetcher,
                leads,
                lead_is_late,
                leads_at_once,
                can_wait,
            ],
            requeue_after_ms,
            (registry, known_rate),
        ) = how;
        SourceRequest {
            key,
            number,
            repository,
            size,
            concurrent_objects,
            preferred_leader,
            failed_sources,
            busy_sources,
            silent_owner,
            offset,
            leader_cooldown,
            requeue_after_ms,
            is_slow,
            slow_source,
            registry,
            known_rate,
            is_fetcher,
            leads,
            lead_is_late,
            leads_at_once,
            can_wait,
            sequence: number,
        }
    })
}

fn known_rate() -> impl Strategy<Value = Option<KnownRate>> {
    any::<Option<([u64; 2], [u32; 2])>>().prop_map(|known| {
        known.map(
            |([rate, measured_by], [age_s, judging_paused_for_ms])| KnownRate {
                rate,
                age_s,
                judging_paused_for_ms,
                measured_by,
            },
        )
    })
}

fn wait() -> impl Strategy<Value = Wait> {
    let flags = (any::<bool>(), any::<bool>());
    (maybe(), flags).prop_map(|(leader, (fetches, is_upstream_slow))| Wait {
        leader,
        fetches,
        is_upstream_slow,
    })
}

fn reply() -> impl Strategy<Value = Reply> {
    let follow = (node_bytes(), any::<u64>(), any::<u32>(), maybe());
    prop_oneof![
        follow.prop_map(|(source, epoch, order, leader)| Reply::Follow(Follow {
            source,
            epoch,
            order,
            leader,
        })),
        any::<bool>().prop_map(Reply::Lead),
        Just(Reply::Alone(true)),
        Just(Reply::Later(true)),
        wait().prop_map(Reply::Wait),
        node_bytes().prop_map(Reply::Redirect),
    ]
}

fn state() -> impl Strategy<Value = PullState> {
    prop_oneof![
        (
            prop::option::of(number()),
            maybe(),
            any::<bool>(),
            any::<u64>(),
            known_rate(),
        )
            .prop_map(|(size, source, is_slow, registry, known_rate)| {
                PullState::Alive(Alive {
                    size,
                    source,
                    is_slow,
                    registry,
                    known_rate,
                })
            }),
        Just(PullState::Done(true)),
        Just(PullState::Failed(true)),
        Just(PullState::WrongDigest(true)),
    ]
}

pub(crate) fn message() -> impl Strategy<Value = Message> {
    let numbered = || (some_key(), number());
    prop_oneof![
        members_message().prop_map(Message::Members),
        (any::<u64>(), many_keys(), many_keys()).prop_map(|(forget, add, remove)| {
            Message::Announce(Announce {
                forget,
                add,
                remove,
            })
        }),
        prop::collection::vec(any::<u64>(), 0..=64).prop_map(|hashes| {
            let slots = (0..hashes.len()).fold(0, |slots, bit| slots | 1 << bit);
            Message::Renew(Renew { slots, hashes })
        }),
        any::<u64>().prop_map(|slots| Message::Resync(Resync { slots })),
        source_request().prop_map(Message::SourceRequest),
        numbered().prop_map(|(key, number)| Message::withdraw(key, number)),
        (numbered(), reply())
            .prop_map(|((key, number), reply)| Message::answer(key, number, reply)),
        (numbered(), state()).prop_map(|((key, number), state)| Message::report(
            key,
            numbered_as(number),
            state
        )),
        (key_bytes(), number(), any::<u32>()).prop_map(|(key, number, shards_asked)| {
            Message::FindHolders(FindHolders {
                key,
                number,
                shards_asked,
            })
        }),
        (number(), key_bytes(), many_nodes(), maybe()).prop_map(
            |(number, key, holders, redirect)| {
                Message::Holders(Holders {
                    number,
                    key,
                    holders,
                    redirect,
                })
            }
        ),
        (any::<u64>(), known_rate()).prop_map(|(registry, known_rate)| {
            Message::RegistryRate(RegistryRate {
                registry,
                known_rate,
            })
        }),
    ]
}

proptest! {
    #[test]
    fn a_message_decodes_as_it_was_encoded(
        message in message(),
        on_behalf_of in prop::option::of(some_node()),
    ) {
        let bytes = message.clone().into_datagram(on_behalf_of);
        prop_assert!(bytes.len() <= MAX_DATAGRAM);
        prop_assert_eq!(Message::from_datagram(bytes), Ok((on_behalf_of, message)));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Message::from_datagram(&bytes[..]);
    }

    #[test]
    fn no_damage_makes_it_panic(
        message in message(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = message.into_datagram(None).to_vec();
        for (at, byte) in damage {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Ok((_, Message::SourceRequest(request))) = Message::from_datagram(&bytes[..]) {
            prop_assert_eq!(key_field(request.key()), request.key);
        }
    }
}

#[test]
fn the_longest_messages_fit_and_longer_ones_are_refused() {
    let longest = Message::Announce(Announce {
        forget: u64::MAX,
        add: keys_field(&[Key([255; 16]); MAX_KEYS]),
        remove: Bytes::new(),
    });
    let of_node = Some(NodeId([255; 32]));
    assert!(longest.into_datagram(of_node).len() <= MAX_DATAGRAM);
    let longer = vec![0; MAX_DATAGRAM + 1];
    let refused = DecodeError::TooLong(longer.len());
    assert_eq!(Message::from_datagram(&longer[..]), Err(refused));
}

#[test]
fn fields_of_wrong_lengths_are_refused() {
    type Change = fn(&mut SourceRequest, Bytes);
    let short = Bytes::from_static(&[1; 15]);
    let request = |change: Change| {
        let mut request = asked(Key([1; 16]), 7);
        change(&mut request, short.clone());
        Message::from_datagram(Message::SourceRequest(request).into_datagram(None))
    };
    let changes: [(&str, Change); 6] = [
        ("key", |r, b| r.key = b),
        ("preferred_leader", |r, b| r.preferred_leader = b),
        ("failed_sources", |r, b| r.failed_sources = b),
        ("busy_sources", |r, b| r.busy_sources = b),
        ("silent_owner", |r, b| r.silent_owner = b),
        ("slow_source", |r, b| r.slow_source = b),
    ];
    for (field, change) in changes {
        assert_eq!(request(change), Err(DecodeError::Field(field)));
    }
    let source = Bytes::new();
    let nobody = Reply::Follow(Follow {
        source,
        ..Follow::default()
    });
    for (reply, field) in [(nobody, "source"), (Reply::Redirect(short), "redirect")] {
        let answer = Message::answer(Key([1; 16]), 7, reply).into_datagram(None);
        assert_eq!(
            Message::from_datagram(answer),
            Err(DecodeError::Field(field))
        );
    }
}

/// One message of each kind, with every field set, and a request with the fewest.
fn one_of_each() -> Vec<Message> {
    let node = |n: u8| node_field(Some(NodeId([n; 32])));
    let nodes = |many: [u8; 2]| nodes_field(many.map(|n| NodeId([n; 32])));
    let key = |n: u8| Key([n; 16]);
    let (wait, number) = (
        Wait {
            leader: node(2),
            fetches: true,
            is_upstream_slow: true,
        },
        7,
    );
    let known_rate = Some(KnownRate {
        rate: 1000,
        age_s: 60,
        judging_paused_for_ms: 2000,
        measured_by: 3,
    });
    let full = SourceRequest {
        key: key_field(key(1)),
        number: 0x0102_0304_0506_0708,
        repository: 9,
        size: Some(300),
        concurrent_objects: 3,
        preferred_leader: node(2),
        failed_sources: nodes([3, 4]),
        busy_sources: nodes([6, 8]),
        silent_owner: node(7),
        offset: 1 << 20,
        leader_cooldown: true,
        requeue_after_ms: 200,
        is_slow: true,
        slow_source: node(5),
        registry: 10,
        known_rate,
        is_fetcher: true,
        leads: true,
        lead_is_late: true,
        leads_at_once: true,
        can_wait: true,
        sequence: 0,
    };
    let follow = Follow {
        source: node(2),
        epoch: 4,
        order: 5,
        leader: node(3),
    };
    let alive = Alive {
        size: Some(300),
        source: node(2),
        is_slow: true,
        registry: 10,
        known_rate,
    };
    let answer = |reply| Message::answer(key(1), number, reply);
    let report = |state| {
        let (random, sequence) = (number, 0);
        Message::report(key(1), RequestNumber { random, sequence }, state)
    };
    let (forget, slots) = (5, 6);
    let (add, remove) = (keys_field(&[key(1), key(2)]), keys_field(&[key(3)]));
    let (holders, redirect, registry) = (nodes([2, 3]), node(4), 10);
    vec![
        Message::Announce(Announce {
            forget,
            add,
            remove,
        }),
        Message::Renew(Renew {
            slots: 3,
            hashes: vec![1, 2],
        }),
        Message::Resync(Resync { slots }),
        Message::SourceRequest(full),
        Message::SourceRequest(SourceRequest {
            sequence: 0,
            ..asked(key(1), number)
        }),
        Message::withdraw(key(1), number),
        answer(Reply::Follow(follow)),
        answer(Reply::Lead(true)),
        answer(Reply::Alone(true)),
        answer(Reply::Later(true)),
        answer(Reply::Wait(wait)),
        answer(Reply::Redirect(node(2))),
        report(PullState::Alive(alive)),
        report(PullState::Done(true)),
        report(PullState::Failed(true)),
        report(PullState::WrongDigest(true)),
        Message::FindHolders(FindHolders {
            key: key_field(key(1)),
            number,
            shards_asked: 2,
        }),
        Message::Holders(Holders {
            number,
            key: Bytes::new(),
            holders,
            redirect,
        }),
        Message::RegistryRate(RegistryRate {
            registry,
            known_rate,
        }),
    ]
}

/// A message of the membership of each kind, with every field set.
fn members_of_each() -> Vec<Message> {
    let node = |n: u8| node_field(Some(NodeId([n; 32])));
    let probe = Probe {
        number: 300,
        target: node(1),
        origin: node(2),
    };
    let bucket_hashes = (0..64).collect();
    let sync = Sync {
        joining: true,
        bucket_hashes,
    };
    let list = List {
        members: 300,
        whole_buckets: 5,
    };
    let updates = [Status::Alive, Status::Suspect, Status::Dead, Status::Left];
    let updates = updates.map(|status| MemberUpdate {
        id: node(1),
        incarnation: 300,
        status: status.into(),
        age_ms: 100_000,
        router: Bytes::from_static(&[4; 14]),
        registry: Bytes::from_static(&[16; 19]),
        signature: Bytes::from_static(&[9; 64]),
    });
    let of_kind = |kind| {
        Message::Members(MembersMessage {
            kind: Some(kind),
            updates: Vec::new(),
        })
    };
    let gossip = Message::Members(MembersMessage {
        kind: None,
        updates: updates.into(),
    });
    vec![
        of_kind(Kind::Ping(probe.clone())),
        of_kind(Kind::Ack(probe)),
        of_kind(Kind::Sync(sync)),
        of_kind(Kind::List(list)),
        gossip,
    ]
}

/// During a rolling update nodes of two versions exchange these. `messages.hex` was written by the first version.
#[test]
fn the_bytes_are_those_of_the_first_version() {
    let hex = |bytes: &Bytes| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let known: Vec<_> = include_str!("messages.hex").lines().collect();
    let messages = [members_of_each(), one_of_each()].concat();
    assert_eq!(messages.len(), known.len());
    for (message, known) in messages.iter().zip(known) {
        assert_eq!(
            hex(&message.clone().into_datagram(None)),
            known,
            "{message:?}"
        );
    }
}
