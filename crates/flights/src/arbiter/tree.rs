//! Ranks the positions in the tree of a flight by their cost.
//!
//! Each hop delays the bytes that a node has received and not passed on yet. A second child halves what each child
//! gets. So a large object is sent down a chain, in which every uplink carries one copy, and a small or very popular
//! object down a tree. If several objects move to a node at once, each node is an inner node in the trees of one class
//! only and a leaf in the others: its uplink still carries one copy, and the depth is logarithmic. Source: SplitStream
//! (Castro et al., 2003), interior-node-disjoint trees.

use crate::pull_rules::SMALL_OBJECT;
use crate::random::mix;
use crate::{Key, NodeId};

/// The cost of a hop, in bytes that could have been sent meanwhile: what a node buffers before it passes bytes on.
const HOP_COST: u64 = 8 * 1024;
/// The cost of a hop for such an object, in bytes: far more than that of a further child.
const SMALL_OBJECT_HOP_COST: u64 = 1024 * 1024;
/// The cost of a child besides its share of the uplink, in bytes: a connection and its buffers.
const CHILD_COST: u64 = 8 * 1024;
/// A complete holder starts another chain of a large object only once the existing chain has this many hops.
///
/// A node that receives a large object sends one copy of it. A complete holder may serve any number of objects, so few
/// holders should.
const NEW_CHAIN_HOPS: u64 = 64;
/// The most followers of one node for one object.
const MAX_CHILDREN: u16 = 16;
/// Larger sizes are clamped to this, in bytes.
const MAX_SIZE: u64 = 1 << 40;
/// The assumed size of an object, in bytes, until it is known.
const SIZE_GUESS: u64 = 32 * 1024 * 1024;

/// The shape of the tree of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TreeShape {
    size: u64,
    class: u64,
    /// 1: a chain. More: the number of classes, and of children of an inner node.
    classes: u64,
}

impl TreeShape {
    pub fn new(key: &Key, size: Option<u64>, concurrent_objects: u32, members: usize) -> Self {
        let size = size.unwrap_or(SIZE_GUESS).min(MAX_SIZE);
        // With up to this many hops, a chain costs each node no more than a second child does.
        let longest = size / HOP_COST;
        let classes = if members as u64 <= longest || size <= SMALL_OBJECT {
            1
        } else {
            u64::from(concurrent_objects.max(1))
        };
        Self {
            size,
            class: mix(key.hash()) % classes,
            classes,
        }
    }

    /// Whether the tree has inner nodes and leaves.
    pub fn has_classes(&self) -> bool {
        self.classes > 1
    }

    /// Whether this node is an inner node.
    pub fn is_inner(&self, node: &NodeId) -> bool {
        node.hash() % self.classes == self.class
    }

    /// How many children a node can feed at full rate.
    fn capacity(&self, node: &NodeId, depth: u16) -> u64 {
        match depth {
            0 => 1,
            _ if self.is_inner(node) => self.classes,
            _ => 0,
        }
    }

    /// Whether a node can feed another child at full rate.
    pub fn has_room(&self, node: &NodeId, depth: u16, children: u16) -> bool {
        u64::from(children) < self.capacity(node, depth)
    }

    /// The cost of becoming a child of `node`, in bytes. `goes_on`: the node is part of a chain that starts at a
    /// complete holder.
    pub fn cost(&self, node: &NodeId, depth: u16, children: u16, goes_on: bool) -> u64 {
        if children >= MAX_CHILDREN {
            return u64::MAX - u64::from(depth);
        }
        let (capacity, next) = (self.capacity(node, depth), u64::from(children) + 1);
        let slower = match capacity {
            // It is an inner node elsewhere: its uplink already carries that many streams.
            0 => self.size + self.size * u64::from(children) / self.classes,
            _ if next <= capacity => 0,
            _ => self.size * (next - capacity) / capacity,
        };
        let (hop, chain) = match self.size {
            ..=SMALL_OBJECT => (SMALL_OBJECT_HOP_COST, 0),
            _ => (HOP_COST, NEW_CHAIN_HOPS),
        };
        let above = u64::from(depth) + if goes_on { 0 } else { chain };
        // All nodes below a node with an extra child receive less.
        let below = u64::from(u16::MAX - depth);
        let crowds = slower > 0 && self.size > SMALL_OBJECT;
        let hops = if crowds { below } else { above };
        hops * hop + u64::from(children) * CHILD_COST + slower
    }
}

/// A pseudo-random order of nodes that is the same for every observer and differs for each salt.
pub(super) fn tie_break(node: &NodeId, salt: u64) -> u64 {
    mix(node.hash() ^ salt.rotate_left(17))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    #[test]
    fn a_large_object_goes_down_a_chain() {
        let shape = TreeShape::new(&Key::of("a"), Some(128 * MIB), 3, 12);
        assert!(!shape.has_classes());
        let end_of_chain = shape.cost(&node(1), 11, 0, true);
        assert!(end_of_chain < shape.cost(&node(2), 0, 1, false));
    }

    #[test]
    fn a_chain_goes_on_before_another_begins_at_a_complete_holder() {
        let shape = TreeShape::new(&Key::of("a"), Some(128 * MIB), 3, 1_000);
        let holder = shape.cost(&node(2), 0, 0, false);
        assert!(shape.cost(&node(1), 60, 0, true) < holder);
        assert!(shape.cost(&node(1), 70, 0, true) > holder);
        let shared = shape.cost(&node(3), 1, 1, true);
        assert!(holder < shared, "rather than to halve what a node gets");
        let led = shape.cost(&node(4), 1, 0, false);
        assert!(holder < led, "rather than to wait for upstream");
    }

    #[test]
    fn where_a_chain_has_to_be_shared_the_fewest_wait_for_it() {
        let shape = TreeShape::new(&Key::of("a"), Some(128 * MIB), 3, 1_000);
        let near_the_end = shape.cost(&node(1), 900, 1, true);
        assert!(near_the_end < shape.cost(&node(2), 1, 1, true));
        assert!(near_the_end < shape.cost(&node(3), 0, 1, false));
        assert!(shape.cost(&node(4), 901, 0, true) < near_the_end);
    }

    #[test]
    fn a_small_one_is_given_to_several_at_once() {
        let shape = TreeShape::new(&Key::of("a"), Some(2_000), 1, 12);
        assert!(shape.cost(&node(2), 0, 3, false) < shape.cost(&node(1), 1, 0, true));
        assert!(shape.cost(&node(2), 0, MAX_CHILDREN, false) > shape.cost(&node(1), 9, 0, true));
    }

    #[test]
    fn among_many_a_node_is_inner_for_one_class() {
        let keys: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(Key::of).into();
        let shapes = keys
            .iter()
            .map(|key| TreeShape::new(key, Some(2 * MIB), 3, 1_000));
        let shapes: Vec<_> = shapes.collect();
        assert!(shapes.iter().all(TreeShape::has_classes));
        for number in 0..100 {
            let mut classes: Vec<_> = shapes
                .iter()
                .filter(|shape| shape.is_inner(&node(number)))
                .map(|shape| shape.class)
                .collect();
            classes.dedup();
            classes.sort_unstable();
            classes.dedup();
            assert!(classes.len() <= 1, "inner for {classes:?}");
        }
    }
}
