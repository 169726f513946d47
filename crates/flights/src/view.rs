//! What the rules need to know about the cluster.

use crate::slots::{Owners, Slot};
use crate::{Key, NodeId};

/// The cluster as one node sees it.
pub trait View {
    /// This node.
    fn me(&self) -> NodeId;

    /// The number of members, this node included.
    fn members(&self) -> usize;

    /// Whether a node is a member.
    fn is_member(&self, id: &NodeId) -> bool;

    /// The reachable owners of a slot in this node's shard, the arbiter first.
    fn owners(&self, slot: Slot) -> Owners;

    /// The reachable owners of a slot in the whole cluster. Empty if the cluster is one shard.
    fn global_owners(&self, slot: Slot) -> Owners;

    /// The number of shards.
    fn shard_count(&self) -> u64;

    /// The number of a node's shard.
    fn shard_of(&self, id: &NodeId) -> u64;

    /// The previous arbiter of a slot, if it changed a moment ago.
    fn previous_arbiter(&self, slot: Slot) -> Option<NodeId>;

    /// Whether this node knows enough members to tell who owns what.
    fn has_joined(&self) -> bool;

    /// The reachable arbiter of a key in this node's shard.
    fn arbiter(&self, key: &Key) -> Option<NodeId> {
        self.owners(Slot::of(&key.0)).arbiter()
    }

    /// The global arbiter of a key, if there are several shards and it is another node.
    fn global_arbiter(&self, key: &Key) -> Option<NodeId> {
        let root = self.global_owners(Slot::of(&key.0)).arbiter();
        root.filter(|root| *root != self.me())
    }

    /// Whether a node is in this node's shard.
    fn is_in_my_shard(&self, id: &NodeId) -> bool {
        self.shard_of(id) == self.shard_of(&self.me())
    }

    /// The approximate number of members of a shard.
    fn shard_size(&self) -> usize {
        self.members() / usize::try_from(self.shard_count().max(1)).unwrap_or(1)
    }
}
