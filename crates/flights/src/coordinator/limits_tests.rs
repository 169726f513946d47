//! Members that report and announce without limit: none keeps this node from working for the others.

use proptest::prelude::*;

use super::*;
use crate::Key;
use crate::slots::{Owners, Scope, Slot};
use crate::wire::tests::{asked, numbered_as};
use crate::wire::{
    Alive, Announce, FindHolders, MAX_KEYS, PullState, Renew, Reply, key_field, keys_field, nodes,
};

const ME: NodeId = NodeId([0; 32]);

fn member(number: u8) -> NodeId {
    NodeId([number; 32])
}

/// A cluster in which this node owns the first slots, as many as the field says.
struct OwnerOf(usize);

impl View for OwnerOf {
    fn me(&self) -> NodeId {
        ME
    }
    fn members(&self) -> usize {
        256
    }
    fn is_member(&self, _: &NodeId) -> bool {
        true
    }
    fn owners(&self, scope: Scope, slot: Slot) -> Owners {
        let is_mine = slot.index() < self.0;
        let owner = if is_mine { ME } else { member(1) };
        [owner]
            .into_iter()
            .filter(|_| scope != Scope::Cluster)
            .collect()
    }
    fn shard_count(&self) -> u64 {
        1
    }
    fn previous_arbiter(&self, _: Slot) -> Option<NodeId> {
        None
    }
    fn has_joined(&self) -> bool {
        true
    }
}

const ALL: OwnerOf = OwnerOf(64);

/// A key that differs for each node. Successive numbers go through all slots.
fn key(node: u8, number: u32) -> Key {
    let mut key = [node; 16];
    key[0] = (number % 64 * 4) as u8;
    key[1..5].copy_from_slice(&number.to_be_bytes());
    Key(key)
}

fn send(coordinator: &mut Coordinator, from: u8, message: Message, view: &OwnerOf) {
    coordinator.accept(Time(0), member(from), (None, message), view);
}

/// The messages sent to a node since the last call.
fn said(coordinator: &mut Coordinator, to: u8) -> Vec<Message> {
    let said = coordinator.take_datagrams().into_iter();
    let said = said.filter(|(other, _)| *other == member(to));
    said.map(|(_, bytes)| Message::from_datagram(bytes).expect("its own message").1)
        .collect()
}

fn report(coordinator: &mut Coordinator, from: u8, key: Key, view: &OwnerOf) {
    let alive = PullState::Alive(Alive {
        source: crate::wire::node_field(Some(member(99))),
        ..Alive::default()
    });
    send(
        coordinator,
        from,
        Message::report(key, numbered_as(1), alive),
        view,
    );
}

fn announce(coordinator: &mut Coordinator, from: u8, add: &[Key], remove: &[Key]) {
    let both = add.chunks(MAX_KEYS).map(|add| (add, &[][..]));
    for (add, remove) in both.chain(remove.chunks(MAX_KEYS).map(|remove| (&[][..], remove))) {
        let announce = Announce {
            forget: 0,
            add: keys_field(add),
            remove: keys_field(remove),
        };
        send(coordinator, from, Message::Announce(announce), &ALL);
    }
}

/// The holders that a lookup by member 90 finds.
fn holders(coordinator: &mut Coordinator, key: Key) -> Vec<NodeId> {
    let find = FindHolders {
        number: 1,
        key: key_field(key),
        ..FindHolders::default()
    };
    send(coordinator, 90, Message::FindHolders(find), &ALL);
    match &said(coordinator, 90)[..] {
        [Message::Holders(found)] => nodes(&found.holders).collect(),
        other => panic!("{other:?}"),
    }
}

/// The slots that a node announces again after comparing hashes, one bit each.
fn resynced(coordinator: &mut Coordinator, from: u8, keys: &[Key]) -> u64 {
    let hashes = Slot::all().map(|slot| {
        let of_slot = keys.iter().filter(|key| Slot::of(&key.0) == slot);
        of_slot.fold(0, crate::holdings::fold)
    });
    let renew = Renew {
        slots: u64::MAX,
        hashes: hashes.collect(),
    };
    send(coordinator, from, Message::Renew(renew), &ALL);
    match &said(coordinator, from)[..] {
        [] => 0,
        [Message::Resync(resync)] => resync.slots,
        other => panic!("{other:?}"),
    }
}

fn leads(coordinator: &mut Coordinator, from: u8, key: Key) -> bool {
    send(
        coordinator,
        from,
        Message::SourceRequest(asked(key, 7)),
        &ALL,
    );
    let answers = said(coordinator, from);
    let is_lead = |message: &Message| matches!(message, Message::Answer(answer) if answer.reply == Some(Reply::Lead(false)));
    answers.iter().any(is_lead)
}

#[test]
fn whoever_reports_pulls_of_made_up_objects_leaves_room_for_those_of_others() {
    let mut coordinator = Coordinator::new(ME, 1);
    for liar in 1..=4 {
        for number in 0..17_000 {
            report(&mut coordinator, liar, key(liar, number), &ALL);
        }
    }
    coordinator.take_datagrams();
    for number in 0..300 {
        assert!(leads(&mut coordinator, 90, key(90, number)), "{number}");
    }
    // They lose none of their keys to each other, nor to a node that announces ever more.
    for number in 0..17_000 {
        report(&mut coordinator, 1, key(1, number), &ALL);
    }
    coordinator.take_datagrams();
    let again = |number| Message::SourceRequest(asked(key(90, number), 7));
    for number in 0..300 {
        send(&mut coordinator, 90, again(number), &ALL);
    }
    let is_lead = |message: &Message| matches!(message, Message::Answer(answer) if answer.reply == Some(Reply::Lead(false)));
    let answers = said(&mut coordinator, 90);
    assert_eq!(answers.iter().filter(|it| is_lead(it)).count(), 300);
}

#[test]
fn a_report_starts_no_flight_at_a_node_that_does_not_own_the_key() {
    let view = OwnerOf(1);
    let mut coordinator = Coordinator::new(ME, 1);
    report(&mut coordinator, 1, key(1, 1), &view);
    assert_eq!(coordinator.next_deadline(), None);
    report(&mut coordinator, 1, key(1, 64), &view);
    assert!(coordinator.next_deadline().is_some(), "of its own slot");
}

#[test]
fn nobody_speaks_for_nodes_that_are_no_members() {
    struct Few;
    impl View for Few {
        fn me(&self) -> NodeId {
            ME
        }
        fn members(&self) -> usize {
            2
        }
        fn is_member(&self, id: &NodeId) -> bool {
            [ME, member(1)].contains(id)
        }
        fn owners(&self, _: Scope, _: Slot) -> Owners {
            [ME, member(1)].into_iter().collect()
        }
        fn shard_count(&self) -> u64 {
            1
        }
        fn previous_arbiter(&self, _: Slot) -> Option<NodeId> {
            None
        }
        fn has_joined(&self) -> bool {
            true
        }
    }
    let mut coordinator = Coordinator::new(ME, 1);
    let request = Message::SourceRequest(asked(key(1, 1), 7));
    coordinator.accept(Time(0), member(1), (Some(member(9)), request), &Few);
    assert_eq!(coordinator.next_deadline(), None);
}

#[test]
fn whoever_announces_most_loses_keys_when_there_are_too_many() {
    let mut coordinator = Coordinator::new(ME, 1);
    let keys = |node: u8, count: u32| (0..count).map(|n| key(node, n)).collect::<Vec<_>>();
    for liar in 1..=5 {
        announce(&mut coordinator, liar, &keys(liar, 65_536), &[]);
    }
    let honest = keys(90, 1_000);
    announce(&mut coordinator, 91, &honest, &[]);
    for key in &honest {
        assert_eq!(holders(&mut coordinator, *key), [member(91)]);
    }
    assert!(coordinator.take_dropped_keys() > 0);
    assert_eq!(resynced(&mut coordinator, 91, &honest), 0);
    assert!(
        leads(&mut coordinator, 92, key(92, 1)),
        "of an object that nobody has"
    );
    // Nodes that lost keys announce them again once there is room.
    let of_liar = keys(1, 65_536);
    assert_eq!(resynced(&mut coordinator, 1, &of_liar), 0, "there is none");
    for liar in 2..=5 {
        coordinator.member_left(Time(0), member(liar), &ALL);
    }
    assert_ne!(resynced(&mut coordinator, 1, &of_liar), 0);
}

#[test]
fn holders_beyond_those_that_are_kept_are_found_once_the_others_have_left() {
    let mut coordinator = Coordinator::new(ME, 1);
    let shared = [key(0, 5)];
    let all = 1..=40;
    for node in all.clone() {
        announce(&mut coordinator, node, &shared, &[]);
    }
    let again =
        |coordinator: &mut Coordinator, mut nodes: std::ops::RangeInclusive<u8>, gone: &[u8]| {
            nodes.any(|node| !gone.contains(&node) && resynced(coordinator, node, &shared) != 0)
        };
    assert!(!again(&mut coordinator, all.clone(), &[]));
    // Of the 40 holders, 32 are kept. The kept ones leave, whichever they are.
    let mut gone = Vec::new();
    while let Some(holder) = holders(&mut coordinator, shared[0]).first() {
        let holder = *holder;
        if gone.len() % 2 == 0 {
            coordinator.member_left(Time(0), holder, &ALL);
        } else {
            announce(&mut coordinator, holder.0[0], &[], &shared);
        }
        gone.push(holder.0[0]);
    }
    assert_eq!(gone.len(), 32);
    assert!(
        again(&mut coordinator, all, &gone),
        "those that are still there"
    );
}

#[test]
fn those_who_announce_first_do_not_keep_out_others() {
    let mut coordinator = Coordinator::new(ME, 1);
    let shared: Vec<_> = (0..64).map(|number| key(0, number)).collect();
    for node in 1..=64 {
        announce(&mut coordinator, node, &shared, &[]);
    }
    let mut has_late = |key: &Key| {
        holders(&mut coordinator, *key)
            .iter()
            .any(|it| it.0[0] > 32)
    };
    assert!(shared.iter().all(&mut has_late));
}

proptest! {
    #[test]
    fn what_is_counted_is_what_is_kept(
        steps in prop::collection::vec((1..60_u8, 0..4_u8, 0..3_u32, any::<u64>()), 0..300)
    ) {
        let mut coordinator = Coordinator::new(ME, 1);
        for (node, action, number, forget) in steps {
            let (add, remove, forget) = match action {
                0 | 1 => (vec![key(0, number)], Vec::new(), 0),
                2 => (Vec::new(), vec![key(0, number)], 0),
                _ => (Vec::new(), Vec::new(), forget),
            };
            let announce = Announce { forget, add: keys_field(&add), remove: keys_field(&remove) };
            send(&mut coordinator, node, Message::Announce(announce), &ALL);
            coordinator.arbiter.check_is_quiet(Time(0), &ALL);
        }
    }
}
