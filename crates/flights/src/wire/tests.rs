use proptest::prelude::*;

use super::*;

/// Often one of a few.
pub(crate) fn node() -> impl Strategy<Value = NodeId> {
    prop_oneof![
        8 => (0..6_u8).prop_map(|n| NodeId([n; 32])),
        1 => any::<[u8; 32]>().prop_map(NodeId),
    ]
}

/// Often one of four, each of another slot.
pub(crate) fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        8 => (0..4_u8).prop_map(|n| Key([n * 64; 16])),
        1 => any::<[u8; 16]>().prop_map(Key),
    ]
}

/// Often one of a few.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..8_u64, 1 => Just(u64::MAX), 1 => any::<u64>()]
}

fn maybe() -> impl Strategy<Value = Option<NodeId>> {
    prop::option::of(node())
}

fn keys() -> impl Strategy<Value = Vec<Key>> {
    prop::collection::vec(key(), 0..20)
}

/// A question without anything special about it.
pub(crate) fn asked(key: Key, number: u64) -> Seek {
    Seek {
        key,
        number,
        group: 1,
        size: None,
        streams: 1,
        prefer: None,
        failed: Vec::new(),
        offset: 0,
        yields: 0,
        patient: true,
        barred: false,
        lags: false,
        behind: 0,
        slow: None,
        slow_lead: None,
        silent: None,
        asker: None,
    }
}

fn seek() -> impl Strategy<Value = Seek> {
    let what = (
        key(),
        any::<u64>(),
        any::<u64>(),
        any::<Option<u64>>(),
        1..=8_u8,
    );
    let who = (
        maybe(),
        prop::collection::vec(node(), 0..=MAX_NODES),
        maybe(),
        maybe(),
        maybe(),
        maybe(),
    );
    let how = (number(), any::<[bool; 3]>(), any::<u32>(), 0..=MAX_YIELD);
    (what, who, how).prop_map(|(what, who, how)| {
        let (key, number, group, size, streams) = what;
        let (prefer, failed, slow, slow_lead, silent, asker) = who;
        let (offset, [patient, barred, lags], behind, yields) = how;
        Seek {
            key,
            number,
            group,
            size,
            streams,
            prefer,
            failed,
            offset,
            patient,
            barred,
            lags,
            behind,
            slow,
            slow_lead,
            yields,
            silent,
            asker,
        }
    })
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let led_for = proptest::option::of(any::<u32>());
    let follow = (node(), any::<u64>(), any::<u32>(), maybe(), led_for);
    prop_oneof![
        follow.prop_map(|(source, epoch, order, leader, led_for)| Verdict::Follow {
            source,
            epoch,
            order,
            leader,
            led_for
        }),
        Just(Verdict::Lead),
        Just(Verdict::Alone),
        Just(Verdict::Later),
        (maybe(), any::<bool>()).prop_map(|(lead, is_busy)| Verdict::Wait { lead, is_busy }),
        node().prop_map(Verdict::Redirect),
    ]
}

fn stage() -> impl Strategy<Value = Stage> {
    prop_oneof![
        (prop::option::of(number()), maybe(), any::<(bool, bool)>()).prop_map(
            |(size, source, (is_busy, lags))| Stage::Alive {
                size,
                source,
                is_busy,
                lags,
            }
        ),
        Just(Stage::Done),
        Just(Stage::Failed),
        Just(Stage::Wrong),
        (maybe(), any::<bool>()).prop_map(|(lead, is_busy)| Stage::Asks { lead, is_busy }),
        any::<(u32, u64)>().prop_map(|(order, rate)| Stage::Outrun { order, rate }),
    ]
}

pub(crate) fn message() -> impl Strategy<Value = Message> {
    let numbered = || (key(), number());
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..50).prop_map(|bytes| Message::Members(bytes.into())),
        (any::<(bool, u64)>(), keys(), keys()).prop_map(|((of_district, forget), add, remove)| {
            Message::Announce {
                of_district,
                forget,
                add,
                remove,
            }
        }),
        (any::<bool>(), prop::collection::vec(any::<u64>(), 0..=64)).prop_map(
            |(of_district, hashes)| {
                let slots = (0..hashes.len()).fold(0, |slots, bit| slots | 1 << bit);
                Message::Renew {
                    of_district,
                    slots,
                    hashes,
                }
            }
        ),
        any::<(bool, u64)>()
            .prop_map(|(of_district, slots)| Message::Resync { of_district, slots }),
        seek().prop_map(Message::Seek),
        numbered().prop_map(|(key, number)| Message::Withdraw { key, number }),
        (numbered(), verdict()).prop_map(|((key, number), verdict)| Message::Answer {
            key,
            number,
            verdict
        }),
        (numbered(), stage()).prop_map(|((key, number), stage)| Message::Report {
            key,
            number,
            stage
        }),
        numbered().prop_map(|(key, number)| Message::Find { key, number }),
        (
            any::<u64>(),
            prop::collection::vec(node(), 0..=MAX_NODES),
            maybe()
        )
            .prop_map(|(number, holders, redirect)| Message::Found {
                number,
                holders,
                redirect
            }),
        numbered().prop_map(|(key, rate)| Message::Outrun { key, rate }),
    ]
}

proptest! {
    #[test]
    fn what_is_said_is_what_is_heard(message in message()) {
        let bytes = message.encode();
        prop_assert!(bytes.len() <= MAX_DATAGRAM);
        prop_assert_eq!(Message::decode(&bytes), Ok(message));
    }

    #[test]
    fn whatever_comes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Message::decode(&bytes);
    }

    #[test]
    fn what_was_damaged_on_the_way_is_read_or_refused(
        message in message(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = message.encode().to_vec();
        for (at, byte) in damage {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let _ = Message::decode(&bytes);
    }
}

#[test]
fn the_longest_messages_fit_and_longer_ones_are_refused() {
    let add = vec![Key([255; 16]); MAX_KEYS];
    let (forget, remove) = (u64::MAX, Vec::new());
    let longest = Message::Announce {
        of_district: true,
        forget,
        add,
        remove,
    };
    assert!(longest.encode().len() <= MAX_DATAGRAM);
    let members = Message::Members(vec![0; MAX_MESSAGE].into());
    assert_eq!(Message::decode(&members.encode()), Ok(members));
    let longer = vec![0; MAX_DATAGRAM + 1];
    let refused = DecodeError::TooLong(longer.len());
    assert_eq!(Message::decode(&longer), Err(refused));
}
