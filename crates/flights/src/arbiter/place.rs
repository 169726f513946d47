//! Which place in the tree costs least.
//!
//! A hop costs what a node holds back before it passes bytes on. A second child halves what each gets. So a large
//! object goes down a chain, where every uplink carries one copy and none is shared; a small one, or one that very
//! many want, down trees. Where several objects move to a node at once, trees are laid out so that a node is inner in
//! those of its class alone and a leaf in the others: then its uplink carries one copy still, and the depth is the
//! logarithm of the number of nodes. Source: SplitStream (Castro et al., 2003), interior-node-disjoint trees.

use crate::random::mix;
use crate::{Key, NodeId};

/// What a hop costs, in bytes that could have been sent meanwhile: what a node has taken in and not passed on yet.
const HOP: u64 = 8 * 1024;
/// Objects up to this size are verified and stored whole by each node before it passes them on…
pub(crate) const SMALL: u64 = 1024 * 1024;
/// …so that a hop costs far more than a further child.
const WHOLE_HOP: u64 = 1024 * 1024;
/// What a child costs, besides its share of the uplink: a connection and its buffers.
const CHILD: u64 = 8 * 1024;
/// Who takes a large object sends one copy of it for each that comes, as long as others follow one another. Who has it
/// complete may send any number of objects besides. So that few do, another chain begins at a complete holder only where
/// the end of one has come so far. (What comes from upstream may be slower than both.)
const CHAIN: u64 = 64;
/// Children of one node for one key at most.
const MAX_CHILDREN: u16 = 16;
/// No object is larger, whatever is said.
const MAX_SIZE: u64 = 1 << 40;
/// What an object is taken to have, in bytes, until that is known.
const SIZE_GUESS: u64 = 32 * 1024 * 1024;

/// The form of the tree of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    size: u64,
    class: u64,
    /// 1: a chain. More: so many classes, and so many children of an inner node.
    classes: u64,
}

impl Shape {
    pub fn new(key: &Key, size: Option<u64>, streams: u8, members: usize) -> Self {
        let size = size.unwrap_or(SIZE_GUESS).min(MAX_SIZE);
        // Up to so many hops a chain costs no more than a second child does, at every node on the way.
        let longest = size / HOP;
        let classes = if members as u64 <= longest || size <= SMALL {
            1
        } else {
            u64::from(streams.max(1))
        };
        Self {
            size,
            class: mix(key.hash()) % classes,
            classes,
        }
    }

    /// Whether there are trees with inner nodes and leaves.
    pub fn has_classes(&self) -> bool {
        self.classes > 1
    }

    /// Whether this node passes this key on.
    pub fn is_inner(&self, node: &NodeId) -> bool {
        node.hash() % self.classes == self.class
    }

    /// Children that a node can have without giving each less.
    fn room(&self, node: &NodeId, depth: u16) -> u64 {
        match depth {
            0 => 1,
            _ if self.is_inner(node) => self.classes,
            _ => 0,
        }
    }

    /// Whether a node can have another child without giving each less.
    pub fn has_room(&self, node: &NodeId, depth: u16, children: u16) -> bool {
        u64::from(children) < self.room(node, depth)
    }

    /// What it costs to become a child of `node`, in bytes. `goes_on`: it is part of a chain that begins at a complete
    /// holder.
    pub fn cost(&self, node: &NodeId, depth: u16, children: u16, goes_on: bool) -> u64 {
        if children >= MAX_CHILDREN {
            return u64::MAX - u64::from(depth);
        }
        let (room, next) = (self.room(node, depth), u64::from(children) + 1);
        let slower = match room {
            // It is inner elsewhere: its uplink carries so many streams already.
            0 => self.size + self.size * u64::from(children) / self.classes,
            _ if next <= room => 0,
            _ => self.size * (next - room) / room,
        };
        let (hop, chain) = match self.size {
            ..=SMALL => (WHOLE_HOP, 0),
            _ => (HOP, CHAIN),
        };
        let above = u64::from(depth) + if goes_on { 0 } else { chain };
        // All below a node that sends more than others do get less.
        let below = u64::from(u16::MAX - depth);
        let crowds = slower > 0 && self.size > SMALL;
        let hops = if crowds { below } else { above };
        hops * hop + u64::from(children) * CHILD + slower
    }
}

/// The same for everybody who looks, another one for each flight or asker.
pub(super) fn lot(node: &NodeId, salt: u64) -> u64 {
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
        let shape = Shape::new(&Key::of("a"), Some(128 * MIB), 3, 12);
        assert!(!shape.has_classes());
        let end_of_chain = shape.cost(&node(1), 11, 0, true);
        assert!(end_of_chain < shape.cost(&node(2), 0, 1, false));
    }

    #[test]
    fn a_chain_goes_on_before_another_begins_at_a_complete_holder() {
        let shape = Shape::new(&Key::of("a"), Some(128 * MIB), 3, 1_000);
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
        let shape = Shape::new(&Key::of("a"), Some(128 * MIB), 3, 1_000);
        let near_the_end = shape.cost(&node(1), 900, 1, true);
        assert!(near_the_end < shape.cost(&node(2), 1, 1, true));
        assert!(near_the_end < shape.cost(&node(3), 0, 1, false));
        assert!(shape.cost(&node(4), 901, 0, true) < near_the_end);
    }

    #[test]
    fn a_small_one_is_given_to_several_at_once() {
        let shape = Shape::new(&Key::of("a"), Some(2_000), 1, 12);
        assert!(shape.cost(&node(2), 0, 3, false) < shape.cost(&node(1), 1, 0, true));
        assert!(shape.cost(&node(2), 0, MAX_CHILDREN, false) > shape.cost(&node(1), 9, 0, true));
    }

    #[test]
    fn among_many_a_node_is_inner_for_one_class() {
        let keys: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(Key::of).into();
        let shapes = keys
            .iter()
            .map(|key| Shape::new(key, Some(2 * MIB), 3, 1_000));
        let shapes: Vec<_> = shapes.collect();
        assert!(shapes.iter().all(Shape::has_classes));
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
