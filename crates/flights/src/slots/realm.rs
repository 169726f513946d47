//! Who owns what in a cluster that is too large for one owner of a slot to hear everybody at once: parts of it have
//! owners of their own, and those turn to the owners in the whole cluster.
//!
//! A new image that ten thousand nodes ask for in the same moment would be ten thousand questions, and as many
//! connections, to one arbiter. In districts it is a thousand to each of eight, and eight to one.

use super::{Owners, Slot, SlotChange, Slots};
use crate::members::Change;
use crate::{NodeId, Time};

/// Members of a district at the least, about. Up to twice as many a cluster is one district.
const DISTRICT: usize = 1_024;

/// The owners of all slots, in this node's district and in the cluster.
#[derive(Debug)]
pub struct Realm {
    me: NodeId,
    /// Members of a district at the least, about.
    size: usize,
    /// A power of two.
    districts: u64,
    cluster: Slots,
    /// Of this node's district, where there are several.
    district: Option<Slots>,
}

impl Realm {
    /// Of a cluster without members, as this node sees it.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            size: DISTRICT,
            districts: 1,
            cluster: Slots::new(),
            district: None,
        }
    }

    /// Has districts of `size` members at the least, about. All nodes of a cluster have to agree.
    pub fn with_districts_of(self, size: usize) -> Self {
        Self { size, ..self }
    }

    /// How many districts a cluster has, a power of two: members fall into them by their ids, about as many into each.
    fn divided(&self, members: usize) -> u64 {
        let whole = members.checked_div(self.size).unwrap_or_default();
        whole.checked_ilog2().map_or(1, |log| 1 << log)
    }

    /// See [`Slots::update`].
    pub fn update(&mut self, now: Time, changes: &[Change]) {
        self.cluster.update(now, changes);
        let districts = self.divided(self.cluster.members());
        if districts != self.districts {
            self.divide(now, districts);
        } else if let Some(district) = &mut self.district {
            let part = Part::of(&self.me, districts);
            let is_near = |change: &&Change| match change {
                Change::Joined(member) | Change::Updated(member) => part.contains(&member.id),
                Change::Left(id) => part.contains(id),
            };
            district.update(now, changes.iter().filter(is_near));
        }
    }

    fn divide(&mut self, now: Time, districts: u64) {
        let before = self.nearest().clone();
        self.districts = districts;
        let part = Part::of(&self.me, districts);
        if self.district.is_none() {
            self.cluster.forget_told();
        }
        self.district = (districts > 1).then(|| self.cluster.part(now, |id| part.contains(id)));
        self.district
            .as_mut()
            .unwrap_or(&mut self.cluster)
            .follows(&before);
    }

    fn nearest(&self) -> &Slots {
        self.district.as_ref().unwrap_or(&self.cluster)
    }

    /// See [`Slots::next_deadline`].
    pub fn next_deadline(&self) -> Option<Time> {
        let both = [Some(&self.cluster), self.district.as_ref()];
        both.into_iter()
            .flatten()
            .filter_map(Slots::next_deadline)
            .min()
    }

    /// The owners of a slot in this node's district, the arbiter first.
    pub fn owners(&self, slot: Slot) -> Owners {
        self.nearest().owners(slot)
    }

    /// The owners of a slot in the whole cluster, where this node's district is not all of it.
    pub fn roots(&self, slot: Slot) -> Owners {
        match self.district {
            Some(_) => self.cluster.owners(slot),
            None => Owners::NONE,
        }
    }

    /// How many there are: 1, or another power of two.
    pub fn districts(&self) -> u64 {
        self.districts
    }

    /// The number of a node's district.
    pub fn district(&self, node: &NodeId) -> u64 {
        Part::of(node, self.districts).index
    }

    /// See [`Slots::previous_arbiter`], of this node's district.
    pub fn previous_arbiter(&self, slot: Slot) -> Option<NodeId> {
        self.nearest().previous_arbiter(slot)
    }

    /// The slots whose owners in this node's district are others than at the last call.
    pub fn take_changes(&mut self) -> Vec<SlotChange> {
        self.district
            .as_mut()
            .unwrap_or(&mut self.cluster)
            .take_changes()
    }

    /// The slots whose [`Realm::roots`] are others than at the last call.
    pub fn take_root_changes(&mut self) -> Vec<SlotChange> {
        match self.district {
            Some(_) => self.cluster.take_changes(),
            None => Vec::new(),
        }
    }
}

/// One district among several.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Part {
    index: u64,
    districts: u64,
}

impl Part {
    fn of(node: &NodeId, districts: u64) -> Self {
        Self {
            index: node.hash() & (districts - 1),
            districts,
        }
    }

    fn contains(&self, node: &NodeId) -> bool {
        Self::of(node, self.districts) == *self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::Born;
    use crate::members::{Contact, Member};

    fn node(number: u32) -> NodeId {
        let mut id = [7; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        NodeId(id)
    }

    fn joined(number: u32) -> Change {
        Change::Joined(Member {
            id: node(number),
            contact: Contact::default().into(),
            incarnation: 0,
            born: Born::from_age(Time(0), Duration::from_secs(3600)),
        })
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
            let districts = Realm::new(node(0)).divided(members);
            assert_eq!(districts, expected, "{members} members");
        }
    }

    #[test]
    fn who_owns_a_slot_of_the_cluster_owns_it_in_its_district() {
        let all: Vec<_> = (0..4_200).map(joined).collect();
        let mut realms: Vec<_> = (0..40).map(|number| Realm::new(node(number))).collect();
        realms
            .iter_mut()
            .for_each(|realm| realm.update(Time(0), &all));
        let districts: BTreeSet<_> = realms.iter().map(|r| r.district(&r.me)).collect();
        assert_eq!(districts.len(), 4);
        for slot in Slot::all() {
            let root = realms[0]
                .roots(slot)
                .arbiter()
                .expect("there are districts");
            for realm in &realms {
                assert_eq!(realm.roots(slot).arbiter(), Some(root));
                let arbiter = realm
                    .owners(slot)
                    .arbiter()
                    .expect("a district has members");
                assert_eq!(realm.district(&arbiter), realm.district(&realm.me));
                let is_near = realm.district(&root) == realm.district(&realm.me);
                assert_eq!(arbiter == root, is_near);
            }
        }
    }

    #[test]
    fn a_cluster_that_grows_and_shrinks_tells_which_slots_move() {
        let mut realm = Realm::new(node(0));
        realm.update(Time(0), &(0..2_000).map(joined).collect::<Vec<_>>());
        let mut known: Vec<_> = Slot::all().map(|_| Owners::NONE).collect();
        let mut check = |realm: &mut Realm| {
            for change in realm.take_changes() {
                assert_eq!(known[change.slot.index()], change.before);
                known[change.slot.index()] = change.after;
            }
            for slot in Slot::all() {
                assert_eq!(known[slot.index()], realm.owners(slot));
            }
        };
        check(&mut realm);
        assert!(realm.roots(Slot::of(&[0; 16])).is_empty());
        realm.update(Time(1), &(2_000..2_100).map(joined).collect::<Vec<_>>());
        check(&mut realm);
        assert_eq!(realm.roots(Slot::of(&[0; 16])).len(), 3);
        let left = (1_900..2_100).map(|number| Change::Left(node(number)));
        realm.update(Time(2), &left.collect::<Vec<_>>());
        check(&mut realm);
        assert!(realm.roots(Slot::of(&[0; 16])).is_empty());
    }
}
