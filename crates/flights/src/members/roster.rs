//! All known members with their status, lists to choose from, deadlines, and a digest for comparison.

use std::collections::{BTreeMap, BTreeSet};

use super::member::{Member, NodeId};
use super::wire::{BUCKETS, Digest};
use crate::Time;
use crate::random::{GOLDEN, Random, mix};

/// The most living members besides this node. Further ones are ignored.
pub const MAX_MEMBERS: usize = 16_384;
/// The most dead members to remember. The oldest are forgotten first.
pub(super) const MAX_DEAD: usize = 4_096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Alive,
    /// Counts as a member until its deadline.
    Suspect,
    /// Declared dead. Remembered until its deadline, so that old updates do not bring it back.
    Down,
    /// Has left. Remembered like the dead, but never contacted again.
    Left,
}

impl Status {
    pub(super) fn is_live(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) member: Member,
    pub(super) status: Status,
    pub(super) deadline: Option<Time>,
    /// Its index in the list of its status.
    position: usize,
}

/// All known members except this node, and the digest over all living members.
#[derive(Debug)]
pub(super) struct Roster {
    entries: BTreeMap<NodeId, Entry>,
    /// In the random order of probing.
    live: Vec<NodeId>,
    down: Vec<NodeId>,
    deadlines: BTreeSet<(Time, NodeId)>,
    digest: Box<Digest>,
    cursor: usize,
}

impl Roster {
    pub(super) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            live: Vec::new(),
            down: Vec::new(),
            deadlines: BTreeSet::new(),
            digest: Box::new([0; BUCKETS]),
            cursor: 0,
        }
    }

    pub(super) fn live(&self) -> &[NodeId] {
        &self.live
    }

    pub(super) fn down(&self) -> &[NodeId] {
        &self.down
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(super) fn get(&self, id: &NodeId) -> Option<&Entry> {
        self.entries.get(id)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Whether there is room for one more living member.
    pub(super) fn has_room(&self) -> bool {
        self.live.len() < MAX_MEMBERS
    }

    pub(super) fn put(
        &mut self,
        member: Member,
        status: Status,
        deadline: Option<Time>,
        random: &mut Random,
    ) {
        self.remove(&member.id);
        let id = member.id;
        if status.is_live() {
            self.count(&member);
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
        let position = match status {
            Status::Alive | Status::Suspect => self.enlist(id, random),
            Status::Down => {
                self.down.push(id);
                self.down.len() - 1
            }
            Status::Left => 0,
        };
        self.entries.insert(
            id,
            Entry {
                member,
                status,
                deadline,
                position,
            },
        );
        if self.entries.len() - self.live.len() > MAX_DEAD {
            self.forget_one();
        }
    }

    pub(super) fn remove(&mut self, id: &NodeId) {
        let Some(entry) = self.entries.remove(id) else {
            return;
        };
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, *id));
        }
        let list = match entry.status {
            Status::Alive | Status::Suspect => {
                self.count(&entry.member);
                &mut self.live
            }
            Status::Down => &mut self.down,
            Status::Left => return,
        };
        list.swap_remove(entry.position);
        if let Some(moved) = list
            .get(entry.position)
            .and_then(|id| self.entries.get_mut(id))
        {
            moved.position = entry.position;
        }
    }

    /// Adds a living member to the digest, or removes it: the operation is its own inverse.
    pub(super) fn count(&mut self, member: &Member) {
        let hash = member.id.hash();
        let incarnation = u64::from(member.incarnation).wrapping_mul(GOLDEN);
        if let Some(sum) = self.digest.get_mut(bucket(&member.id)) {
            *sum ^= mix(hash.wrapping_add(incarnation));
        }
    }

    /// The next member to probe. Each is probed once in random order, then all again in another order.
    pub(super) fn next_to_probe(&mut self, random: &mut Random) -> Option<NodeId> {
        if self.cursor >= self.live.len() {
            self.cursor = 0;
            random.shuffle(&mut self.live);
            for (position, id) in self.live.iter().enumerate() {
                if let Some(entry) = self.entries.get_mut(id) {
                    entry.position = position;
                }
            }
        }
        let next = self.live.get(self.cursor).copied();
        self.cursor += 1;
        next
    }

    /// Up to `count` living members, picked at random.
    pub(super) fn pick(&self, count: usize, random: &mut Random) -> Vec<NodeId> {
        let positions = random.positions(count, self.live.len());
        positions
            .into_iter()
            .filter_map(|position| self.live.get(position).copied())
            .collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn due(&self, now: Time) -> Option<NodeId> {
        self.deadlines
            .first()
            .filter(|(deadline, _)| *deadline <= now)
            .map(|(_, id)| *id)
    }

    /// Extends the deadlines of all suspects to at least `deadline`.
    pub(super) fn spare_suspects(&mut self, deadline: Time) {
        let early: Vec<_> = self
            .deadlines
            .range(..(deadline, NodeId([0; 32])))
            .copied()
            .collect();
        for (before, id) in early {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            if entry.status == Status::Suspect {
                entry.deadline = Some(deadline);
                self.deadlines.remove(&(before, id));
                self.deadlines.insert((deadline, id));
            }
        }
    }

    fn enlist(&mut self, id: NodeId, random: &mut Random) -> usize {
        let last = self.live.len();
        self.live.push(id);
        let position = random.below(last + 1);
        self.live.swap(position, last);
        let displaced = self.live.get(last).filter(|_| position != last);
        if let Some(displaced) = displaced.and_then(|id| self.entries.get_mut(id)) {
            displaced.position = last;
        }
        position
    }

    fn forget_one(&mut self) {
        let is_dead = |id: &NodeId| self.entries.get(id).is_some_and(|it| !it.status.is_live());
        let oldest = self.deadlines.iter().map(|(_, id)| *id).find(is_dead);
        if let Some(id) = oldest {
            self.remove(&id);
        }
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
    use crate::Born;

    fn member(number: u8, incarnation: u32) -> Member {
        let born = Born::from_age(Time(0), Duration::ZERO);
        Member {
            id: NodeId([number; 32]),
            contact: Arc::default(),
            incarnation,
            born,
        }
    }

    fn step() -> impl Strategy<Value = (u8, u8, u64)> {
        (0..20_u8, 0..6_u8, 1..9_u64)
    }

    proptest! {
        #[test]
        fn lists_deadlines_and_digest_follow_the_entries(steps in prop::collection::vec(step(), 0..200)) {
            let (mut roster, mut random) = (Roster::new(), Random::new(1));
            for (number, action, time) in steps {
                let it = member(number, time as u32);
                let deadline = Some(Time(time));
                match action {
                    0 => roster.put(it, Status::Alive, None, &mut random),
                    1 => roster.put(it, Status::Suspect, deadline, &mut random),
                    2 => roster.put(it, Status::Down, deadline, &mut random),
                    3 => roster.put(it, Status::Left, deadline, &mut random),
                    4 => roster.remove(&it.id),
                    _ => { roster.next_to_probe(&mut random); }
                }
                roster.spare_suspects(Time(4));

                let mut again = Roster::new();
                let mut deadlines = 0;
                for entry in roster.entries() {
                    let list = if entry.status.is_live() { roster.live() } else { roster.down() };
                    if entry.status != Status::Left {
                        prop_assert_eq!(list.get(entry.position), Some(&entry.member.id));
                    }
                    if entry.status.is_live() {
                        again.count(&entry.member);
                    }
                    if let Some(deadline) = entry.deadline {
                        deadlines += 1;
                        prop_assert!(roster.deadlines.contains(&(deadline, entry.member.id)));
                        prop_assert!(entry.status != Status::Suspect || deadline >= Time(4));
                    }
                }
                let count = |live| roster.entries().filter(|it| it.status.is_live() == live).count();
                prop_assert_eq!(count(true), roster.live().len());
                prop_assert!(count(false) >= roster.down().len());
                prop_assert_eq!(deadlines, roster.deadlines.len());
                prop_assert_eq!(again.digest(), roster.digest());
            }
        }

        #[test]
        fn everybody_is_probed_once_before_anybody_is_twice(members in 1..20_u8) {
            let (mut roster, mut random) = (Roster::new(), Random::new(2));
            for number in 0..members {
                roster.put(member(number, 0), Status::Alive, None, &mut random);
            }
            for _ in 0..3 {
                let turn: BTreeSet<_> =
                    (0..members).filter_map(|_| roster.next_to_probe(&mut random)).collect();
                prop_assert_eq!(turn.len(), usize::from(members));
            }
        }
    }

    #[test]
    fn of_too_many_dead_the_first_are_forgotten() {
        let (mut roster, mut random) = (Roster::new(), Random::new(3));
        roster.put(member(1, 0), Status::Suspect, Some(Time(0)), &mut random);
        for number in 0..MAX_DEAD as u64 + 1 {
            let mut dead = member(0, 0);
            dead.id.0[..8].copy_from_slice(&number.to_le_bytes());
            roster.put(dead, Status::Down, Some(Time(number + 1)), &mut random);
        }
        assert_eq!(roster.down().len(), MAX_DEAD);
        assert_eq!(
            roster.next_deadline(),
            Some(Time(0)),
            "a suspect is not forgotten"
        );
        assert_eq!(roster.due(Time(1)), Some(NodeId([1; 32])));
        assert!(roster.get(&NodeId([0; 32])).is_none());
    }
}
