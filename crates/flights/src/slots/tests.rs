use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::Born;
use crate::members::{Contact, Member};

fn id(number: u64) -> NodeId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.to_le_bytes());
    NodeId(id)
}

fn joined(number: u64, born: Born) -> Change {
    let contact = Contact::default().into();
    Change::Joined(Member {
        id: id(number),
        contact,
        incarnation: 0,
        born,
    })
}

/// The only shard.
const ALL: Scope = Scope::Shard(0);
const HOUR: Duration = Duration::from_secs(3600);
const NOW: Time = Time(1_000_000);

fn old(number: u64) -> Change {
    joined(number, Born::from_age(NOW, HOUR))
}

/// The owners, by sorting all members.
fn by_definition(slot: Slot, members: &BTreeSet<u64>) -> Owners {
    let mut ranked: Vec<_> = members
        .iter()
        .map(|number| Reverse((score(ALL, slot, id(*number).hash()), id(*number))))
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|Reverse((_, id))| id).collect()
}

#[test]
fn hashes_never_change() {
    // Nodes of different versions must agree on owners. Computed apart from this code.
    let counting = NodeId(std::array::from_fn(|at| at as u8));
    assert_eq!(
        [id(0).hash(), id(1).hash(), counting.hash()],
        [0x0, 0x683b5fc0ca803dc3, 0xfab780417b7be8ad]
    );
    assert_eq!(
        [
            score(ALL, Slot(0), 0),
            score(ALL, Slot(63), counting.hash())
        ],
        [0xe220a8397b1dcdaf, 0x540974e1be0f479d]
    );
}

#[test]
fn keys_spread_over_all_slots() {
    let slots: BTreeSet<_> = (0..=255).map(|first| Slot::of(&[first; 16])).collect();
    assert!(slots.into_iter().eq(Slot::all()));
}

#[test]
fn owners_are_spread_evenly() {
    let mut slots = Slots::new();
    slots.update(NOW, &(0..64).map(old).collect::<Vec<_>>());
    let mut owned = [0; 64];
    for number in 0..64 {
        let owns = |slot: &Slot| slots.owners(ALL, *slot).contains(&id(number));
        owned[number as usize] = Slot::all().filter(owns).count();
    }
    // Each member owns three on average.
    assert!(owned.iter().all(|owned| *owned <= 9), "{owned:?}");
}

#[test]
fn a_cluster_of_one_works_at_once_and_grows() {
    let mut slots = Slots::new();
    slots.update(NOW, &[joined(1, Born::from_age(NOW, Duration::ZERO))]);
    assert!(Slot::all().all(|slot| *slots.owners(ALL, slot) == [id(1)]));
    assert_eq!(slots.take_changes().len(), SLOTS);
    assert_eq!(slots.take_changes(), []);

    // A later member ranks behind it until both are eligible.
    let later = NOW.after(Duration::from_secs(4));
    slots.update(later, &[joined(2, Born::from_age(later, Duration::ZERO))]);
    assert!(Slot::all().all(|slot| *slots.owners(ALL, slot) == [id(1), id(2)]));
    let eligible = NOW.after(Duration::from_millis(12_500));
    assert_eq!(slots.next_deadline(), Some(eligible));
    slots.update(eligible, &[]);
    assert_eq!(
        slots.next_deadline(),
        Some(NOW.after(Duration::from_millis(17_500)))
    );
    slots.update(NOW.after(Duration::from_millis(17_500)), &[]);
    assert_eq!(slots.next_deadline(), None);
    let second = Slot::all()
        .filter(|slot| slots.owners(ALL, *slot).arbiter() == Some(id(2)))
        .count();
    assert!(
        (16..48).contains(&second),
        "it is the arbiter of about half: {second}"
    );
    let moved = Slot::all().find(|slot| slots.owners(ALL, *slot).arbiter() == Some(id(2)));
    assert_eq!(
        slots.previous_arbiter(moved.expect("half of them")),
        Some(id(1))
    );
}

#[test]
fn new_nodes_that_started_together_keep_their_slots_when_they_become_eligible() {
    let mut slots = Slots::new();
    let change = |number| {
        joined(
            number,
            Born::from_age(NOW, Duration::from_millis(number * 9)),
        )
    };
    slots.update(NOW, &(0..100).map(change).collect::<Vec<_>>());
    let before: Vec<_> = Slot::all().map(|slot| slots.owners(ALL, slot)).collect();
    slots.update(NOW.after(Duration::from_secs(20)), &[]);
    let after: Vec<_> = Slot::all().map(|slot| slots.owners(ALL, slot)).collect();
    assert_eq!(before, after);
}

#[test]
fn an_arbiter_that_left_is_not_asked() {
    let mut slots = Slots::new();
    slots.update(NOW, &(0..4).map(old).collect::<Vec<_>>());
    let slot = Slot(5);
    let arbiter = slots
        .owners(ALL, slot)
        .arbiter()
        .expect("there are members");
    slots.update(NOW, &[Change::Left(arbiter)]);
    assert_eq!(slots.owners(ALL, slot).len(), OWNERS);
    assert_eq!(slots.previous_arbiter(slot), None);
}

#[derive(Clone, Debug)]
enum Step {
    Join(u64),
    Leave(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![3 => (0..40_u64).prop_map(Step::Join), 2 => (0..40_u64).prop_map(Step::Leave)]
}

proptest! {
    #[test]
    fn owners_are_those_by_definition_and_only_what_must_moves(
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut slots = Slots::new();
        let mut members = BTreeSet::new();
        for step in steps {
            let (number, change) = match step {
                Step::Join(number) if members.insert(number) => (number, old(number)),
                Step::Leave(number) if members.remove(&number) => (number, Change::Left(id(number))),
                _ => continue,
            };
            slots.update(NOW, &[change]);
            for moved in slots.take_changes() {
                prop_assert!(moved.before.contains(&id(number)) || moved.after.contains(&id(number)));
            }
            for slot in Slot::all() {
                prop_assert_eq!(slots.owners(ALL, slot), by_definition(slot, &members));
            }
        }
    }

    #[test]
    fn the_order_in_which_a_list_is_read_does_not_count(
        ages in prop::collection::vec(0..40_000_u64, 1..40),
    ) {
        let changes: Vec<_> = ages
            .iter()
            .zip(0..)
            .map(|(age, number)| joined(number, Born::from_age(NOW, Duration::from_millis(*age))))
            .collect();
        let (mut one, mut other) = (Slots::new(), Slots::new());
        one.update(NOW, &changes);
        other.update(NOW, changes.iter().rev());
        for slot in Slot::all() {
            prop_assert_eq!(one.owners(ALL, slot), other.owners(ALL, slot));
        }
        prop_assert_eq!(one.next_deadline(), other.next_deadline());
    }
}

#[test]
fn a_cluster_is_divided_by_its_size() {
    for (members, expected) in [
        (0, 1),
        (1, 1),
        (1_024, 1),
        (2_047, 1),
        (2_048, 2),
        (10_000, 8),
    ] {
        let shards = shards_of(members, MIN_SHARD_SIZE);
        assert_eq!(shards, expected, "{members} members");
    }
}

#[test]
fn each_shard_and_the_cluster_have_owners_of_their_own() {
    let mut slots = Slots::new();
    slots.update(NOW, &(0..4_200).map(old).collect::<Vec<_>>());
    let scopes: Vec<_> = slots.scopes().collect();
    let shards = (0..4).map(Scope::Shard);
    assert_eq!(scopes, shards.chain([Scope::Cluster]).collect::<Vec<_>>());
    for slot in Slot::all() {
        let owners = scopes
            .iter()
            .flat_map(|scope| slots.owners(*scope, slot).to_vec());
        let owners: BTreeSet<_> = owners.collect();
        assert!(owners.len() > 12, "few nodes own a slot twice: {owners:?}");
    }
    let mut one = Slots::new();
    one.update(NOW, &(0..2_000).map(old).collect::<Vec<_>>());
    assert!(Slot::all().all(|slot| one.owners(Scope::Cluster, slot).is_empty()));
}

#[test]
fn a_cluster_that_grows_and_shrinks_tells_which_owners_there_are() {
    let mut slots = Slots::new();
    let mut known = BTreeMap::new();
    let mut check = |slots: &mut Slots, is_divided: bool| {
        if is_divided {
            known.clear();
        }
        for change in slots.take_changes() {
            let before = known.insert((change.scope, change.slot), change.after);
            assert_eq!(before.unwrap_or(Owners::NONE), change.before);
        }
        for (scope, slot) in slots
            .scopes()
            .flat_map(|s| Slot::all().map(move |slot| (s, slot)))
        {
            assert_eq!(known.get(&(scope, slot)), Some(&slots.owners(scope, slot)));
        }
    };
    slots.update(NOW, &(0..2_000).map(old).collect::<Vec<_>>());
    check(&mut slots, false);
    slots.update(NOW, &(2_000..2_100).map(old).collect::<Vec<_>>());
    check(&mut slots, true);
    slots.update(NOW, &(2_100..2_200).map(old).collect::<Vec<_>>());
    check(&mut slots, false);
    let left = (1_900..2_200).map(|number| Change::Left(id(number)));
    slots.update(NOW, &left.collect::<Vec<_>>());
    check(&mut slots, true);
}

#[test]
fn a_member_that_has_started_again_is_no_owner_until_it_is_eligible() {
    let mut slots = Slots::new();
    slots.update(NOW, &(0..8).map(old).collect::<Vec<_>>());
    slots.take_changes();
    let owned = |slots: &Slots| {
        let all = Slot::all().filter(|slot| slots.owners(ALL, *slot).contains(&id(3)));
        all.count()
    };
    assert!(owned(&slots) > 0);
    let Change::Joined(member) = joined(3, Born::from_age(NOW, Duration::ZERO)) else {
        unreachable!("it has joined");
    };
    slots.update(NOW, &[Change::Updated(member)]);
    assert_eq!(owned(&slots), 0);
    assert!(!slots.take_changes().is_empty(), "the next owners are told");
    let eligible = slots.next_deadline().expect("it becomes eligible");
    slots.update(eligible, &[]);
    assert!(owned(&slots) > 0);
}
