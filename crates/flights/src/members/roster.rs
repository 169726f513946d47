//! All known members with their status, the order of probing, deadlines, and the hashes by which lists are compared.

use std::collections::{BTreeMap, BTreeSet};

use super::member::{Member, NodeId};
use super::signatures::Signature;
use super::wire::{MemberUpdate, Status};
use crate::random::{GOLDEN, Random, mix};
use crate::{Born, Time};

/// The most living members besides this node. Further ones are ignored.
pub const MAX_MEMBERS: usize = 16_384;
/// The most dead members to remember. The oldest are forgotten first.
pub(super) const MAX_DEAD: usize = 4_096;
/// The number of buckets. Lists of members are compared by one hash for each bucket.
pub(super) const BUCKETS: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) member: Member,
    pub(super) status: Status,
    /// The member's signature of its record.
    pub(super) signature: Signature,
    /// The earliest birth that others may claim.
    pub(super) oldest: Born,
    /// When a suspect is declared dead, or a dead member forgotten.
    pub(super) deadline: Option<Time>,
}

impl Entry {
    fn is_live(&self) -> bool {
        self.status.is_live()
    }

    /// The order of claims about a member. The higher claim is sent to a node that has sent a lower one.
    pub(super) fn precedence(&self) -> (u32, Status) {
        (self.member.incarnation, self.status)
    }

    pub(super) fn update(&self, now: Time) -> MemberUpdate {
        MemberUpdate::new(now, &self.member, self.status, &self.signature)
    }
}

/// All known members, this node included.
#[derive(Debug)]
pub(super) struct Roster {
    me: Entry,
    others: BTreeMap<NodeId, Entry>,
    /// The living others, in the random order of probing.
    live: Vec<NodeId>,
    /// The number of members in `live`, from the first, that were probed in this round.
    probed: usize,
    deadlines: BTreeSet<(Time, NodeId)>,
    hashes: [u64; BUCKETS],
}

impl Roster {
    pub(super) fn new(me: Member, signature: Signature) -> Self {
        let mut hashes = [0; BUCKETS];
        count(&mut hashes, &me);
        Self {
            me: Entry {
                oldest: me.born,
                member: me,
                status: Status::Alive,
                signature,
                deadline: None,
            },
            others: BTreeMap::new(),
            live: Vec::new(),
            probed: 0,
            deadlines: BTreeSet::new(),
            hashes,
        }
    }

    pub(super) fn me(&self) -> &Member {
        &self.me.member
    }

    pub(super) fn my_entry(&self) -> &Entry {
        &self.me
    }

    pub(super) fn set_me(&mut self, me: Member, signature: Signature) {
        count(&mut self.hashes, &self.me.member);
        count(&mut self.hashes, &me);
        self.me.member = me;
        self.me.signature = signature;
    }

    /// The number of living members besides this node.
    pub(super) fn live(&self) -> usize {
        self.live.len()
    }

    /// A hash of the living members of each bucket. Equal lists have equal hashes.
    pub(super) fn hashes(&self) -> &[u64; BUCKETS] {
        &self.hashes
    }

    pub(super) fn get(&self, id: &NodeId) -> Option<&Entry> {
        if *id == self.me.member.id {
            return Some(&self.me);
        }
        self.others.get(id)
    }

    /// The entry of a living member.
    pub(super) fn get_live(&self, id: &NodeId) -> Option<&Entry> {
        self.get(id).filter(|entry| entry.is_live())
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        std::iter::once(&self.me).chain(self.others.values())
    }

    /// Whether there is room for one more living member.
    pub(super) fn has_room(&self) -> bool {
        self.live.len() < MAX_MEMBERS
    }

    /// Records what is known about another node now.
    pub(super) fn put(&mut self, entry: Entry, random: &mut Random) {
        let id = entry.member.id;
        let was_live = self.remove(&id).is_some_and(|before| before.is_live());
        if entry.is_live() {
            count(&mut self.hashes, &entry.member);
        }
        match (was_live, entry.is_live()) {
            (false, true) => {
                // Somewhere among those that are still to be probed in this round.
                let last = self.live.len();
                self.live.push(id);
                let position = self.probed + random.below(last + 1 - self.probed);
                self.live.swap(position, last);
            }
            (true, false) => {
                if let Some(position) = self.live.iter().position(|live| *live == id) {
                    self.live.remove(position);
                    self.probed -= usize::from(position < self.probed);
                }
            }
            _ => {}
        }
        if let Some(deadline) = entry.deadline {
            self.deadlines.insert((deadline, id));
        }
        self.others.insert(id, entry);
        if self.others.len() - self.live.len() > MAX_DEAD {
            let mut oldest = self.deadlines.iter().map(|(_, id)| *id);
            if let Some(id) = oldest.find(|id| self.get_live(id).is_none()) {
                self.remove(&id);
            }
        }
    }

    /// Forgets a dead member.
    pub(super) fn forget(&mut self, id: &NodeId) {
        if self.get_live(id).is_none() {
            self.remove(id);
        }
    }

    /// Removes an entry from everything but `live`.
    fn remove(&mut self, id: &NodeId) -> Option<Entry> {
        let entry = self.others.remove(id)?;
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, *id));
        }
        if entry.is_live() {
            count(&mut self.hashes, &entry.member);
        }
        Some(entry)
    }

    /// The next member to probe. Each is probed once in random order, then all again in another order.
    pub(super) fn next_to_probe(&mut self, random: &mut Random) -> Option<NodeId> {
        if self.probed >= self.live.len() {
            self.probed = 0;
            random.shuffle(&mut self.live);
        }
        let next = self.live.get(self.probed).copied()?;
        self.probed += 1;
        Some(next)
    }

    /// Up to `count` living members, picked at random.
    pub(super) fn pick(&self, count: usize, random: &mut Random) -> Vec<NodeId> {
        let positions = random.positions(count, self.live.len()).into_iter();
        positions
            .filter_map(|at| self.live.get(at).copied())
            .collect()
    }

    /// A member that was declared dead, picked at random.
    pub(super) fn pick_dead(&self, random: &mut Random) -> Option<NodeId> {
        let dead = self
            .others
            .values()
            .filter(|entry| entry.status == Status::Dead);
        let dead: Vec<_> = dead.map(|entry| entry.member.id).collect();
        dead.get(random.below(dead.len())).copied()
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The member whose deadline has passed first.
    pub(super) fn due(&self, now: Time) -> Option<&Entry> {
        let (_, id) = self
            .deadlines
            .first()
            .filter(|(deadline, _)| *deadline <= now)?;
        self.others.get(id)
    }
}

/// Adds a living member to the hashes, or removes it: the operation is its own inverse.
fn count(hashes: &mut [u64; BUCKETS], member: &Member) {
    let incarnation = u64::from(member.incarnation).wrapping_mul(GOLDEN);
    if let Some(sum) = hashes.get_mut(bucket(&member.id)) {
        *sum ^= mix(member.id.hash().wrapping_add(incarnation));
    }
}

/// The bucket in which a member is compared.
pub(super) fn bucket(id: &NodeId) -> usize {
    const { assert!(BUCKETS == 64) };
    (id.hash() >> 58) as usize
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const ME: NodeId = NodeId([255; 32]);

    fn member(id: NodeId, incarnation: u32) -> Member {
        let born = Born::from_age(Time(0), Duration::ZERO);
        Member {
            id,
            contact: Arc::default(),
            incarnation,
            born,
        }
    }

    fn entry(number: u8, incarnation: u32, status: Status, deadline: u64) -> Entry {
        Entry {
            member: member(NodeId([number; 32]), incarnation),
            status,
            signature: [0; 64],
            oldest: Born::from_age(Time(0), Duration::ZERO),
            deadline: (status != Status::Alive).then_some(Time(deadline)),
        }
    }

    fn step() -> impl Strategy<Value = (u8, u8, u64)> {
        (0..20_u8, 0..6_u8, 1..9_u64)
    }

    proptest! {
        #[test]
        fn lists_deadlines_and_hashes_follow_the_entries(steps in prop::collection::vec(step(), 0..200)) {
            let (mut roster, mut random) = (Roster::new(member(ME, 0), [0; 64]), Random::new(1));
            for (number, action, time) in steps {
                let mut put = |status| roster.put(entry(number, time as u32, status, time), &mut random);
                match action {
                    0 => put(Status::Alive),
                    1 => put(Status::Suspect),
                    2 => put(Status::Dead),
                    3 => put(Status::Left),
                    4 => roster.forget(&NodeId([number; 32])),
                    _ => { roster.next_to_probe(&mut random); }
                }

                let mut hashes = [0; BUCKETS];
                let live: Vec<_> = roster.entries().filter(|entry| entry.is_live()).collect();
                live.iter().for_each(|entry| count(&mut hashes, &entry.member));
                prop_assert_eq!(&hashes, roster.hashes());

                let live: BTreeSet<_> = live.iter().map(|entry| entry.member.id).collect();
                let listed: BTreeSet<_> = roster.live.iter().copied().chain([ME]).collect();
                prop_assert_eq!(listed.len(), roster.live() + 1);
                prop_assert_eq!(listed, live);
                prop_assert!(roster.probed <= roster.live());

                let deadline = |entry: &Entry| entry.deadline.map(|at| (at, entry.member.id));
                let deadlines: BTreeSet<_> = roster.entries().filter_map(deadline).collect();
                prop_assert_eq!(&deadlines, &roster.deadlines);
            }
        }

        #[test]
        fn every_member_is_probed_once_a_round(members in 1..20_u8, joining in 0..5_u8) {
            let (mut roster, mut random) = (Roster::new(member(ME, 0), [0; 64]), Random::new(2));
            for number in 0..members {
                roster.put(entry(number, 0, Status::Alive, 0), &mut random);
            }
            for _ in 0..3 {
                let round: BTreeSet<_> =
                    (0..members).filter_map(|_| roster.next_to_probe(&mut random)).collect();
                prop_assert_eq!(round.len(), usize::from(members));
            }
            // Members that join or die during a round change nothing for the others.
            let mut round = vec![roster.next_to_probe(&mut random)];
            let first = round[0].map_or(0, |id| id.0[0]);
            roster.put(entry(first, 0, Status::Dead, 9), &mut random);
            for number in 0..joining {
                roster.put(entry(100 + number, 0, Status::Alive, 0), &mut random);
            }
            round.extend((1..members + joining).map(|_| roster.next_to_probe(&mut random)));
            let probed: BTreeSet<_> = round.into_iter().flatten().collect();
            prop_assert_eq!(probed.len(), usize::from(members + joining));
        }
    }

    #[test]
    fn the_oldest_of_too_many_dead_members_are_forgotten() {
        let (mut roster, mut random) = (Roster::new(member(ME, 0), [0; 64]), Random::new(3));
        roster.put(entry(1, 0, Status::Suspect, 0), &mut random);
        for number in 0..MAX_DEAD as u64 + 1 {
            let mut dead = entry(0, 0, Status::Dead, number + 1);
            dead.member.id.0[..8].copy_from_slice(&number.to_le_bytes());
            roster.put(dead, &mut random);
        }
        assert_eq!(roster.others.len(), MAX_DEAD + 1, "with the suspect");
        let due = roster.due(Time(1)).map(|entry| entry.member.id);
        assert_eq!(due, Some(NodeId([1; 32])), "a suspect is not forgotten");
        assert!(roster.get(&NodeId([0; 32])).is_none());
    }
}
