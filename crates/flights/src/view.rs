//! What the rules need to know about the cluster.

use crate::slots::{Owners, Scope, Slot};
use crate::{Key, NodeId};

/// The cluster as one node sees it.
pub trait View {
    /// This node.
    fn me(&self) -> NodeId;

    /// The number of members, this node included.
    fn members(&self) -> usize;

    /// Whether a node is a member.
    fn is_member(&self, id: &NodeId) -> bool;

    /// The reachable owners of a slot, the arbiter first.
    fn owners(&self, scope: Scope, slot: Slot) -> Owners;

    /// The number of shards, a power of two.
    fn shard_count(&self) -> u64;

    /// The previous arbiter of a slot, if it changed a moment ago.
    fn previous_arbiter(&self, slot: Slot) -> Option<NodeId>;

    /// Whether this node knows enough members to derive the owners.
    fn has_joined(&self) -> bool;

    /// A node's shard.
    fn shard_of(&self, node: &NodeId) -> Scope {
        Scope::of(node, self.shard_count())
    }

    /// The reachable owners of a slot in this node's shard.
    fn own_owners(&self, slot: Slot) -> Owners {
        self.owners(self.shard_of(&self.me()), slot)
    }

    /// The reachable arbiter of a key in this node's shard.
    fn arbiter(&self, key: &Key) -> Option<NodeId> {
        self.own_owners(Slot::of(&key.0)).arbiter()
    }

    /// The reachable global arbiter of a key, if there are several shards.
    fn global_arbiter(&self, key: &Key) -> Option<NodeId> {
        self.owners(Scope::Cluster, Slot::of(&key.0)).arbiter()
    }

    /// The reachable arbiters of a slot in all shards.
    fn arbiters_of_shards(&self, slot: Slot) -> impl Iterator<Item = NodeId> {
        let shards = (0..self.shard_count()).map(Scope::Shard);
        shards.filter_map(move |shard| self.owners(shard, slot).arbiter())
    }

    /// Whether a node is a reachable owner of a slot in any scope.
    fn is_owner(&self, node: &NodeId, slot: Slot) -> bool {
        let shards = (0..self.shard_count()).map(Scope::Shard);
        let mut scopes = shards.chain([Scope::Cluster]);
        scopes.any(|scope| self.owners(scope, slot).contains(node))
    }

    /// Whether this node is an owner of a slot in any scope.
    fn owns(&self, slot: Slot) -> bool {
        self.is_owner(&self.me(), slot)
    }

    /// The approximate number of members of a shard.
    fn shard_size(&self) -> usize {
        self.members() / usize::try_from(self.shard_count().max(1)).unwrap_or(1)
    }
}
