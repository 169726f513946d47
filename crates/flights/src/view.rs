//! What the rules need to know about the cluster, as one node sees it.

use crate::slots::{Owners, Slot};
use crate::{Key, NodeId};

/// The cluster as one node sees it.
pub trait View {
    /// This node.
    fn me(&self) -> NodeId;

    /// Members, this node included.
    fn members(&self) -> usize;

    fn is_member(&self, id: &NodeId) -> bool;

    /// The owners of a slot in this node's district who can be reached, the arbiter first.
    fn owners(&self, slot: Slot) -> Owners;

    /// The owners of a slot in the whole cluster who can be reached; nobody where it is one district.
    fn roots(&self, slot: Slot) -> Owners;

    /// How many districts the cluster has.
    fn districts(&self) -> u64;

    /// The number of a node's district.
    fn district(&self, id: &NodeId) -> u64;

    /// Who was the arbiter of a slot before, if that changed a moment ago.
    fn before(&self, slot: Slot) -> Option<NodeId>;

    /// Whether this node knows enough of the others to say who owns what.
    fn has_joined(&self) -> bool;

    fn arbiter(&self, key: &Key) -> Option<NodeId> {
        self.owners(Slot::of(&key.0)).arbiter()
    }

    /// Who the arbiter of this node's district turns to, if that is another node.
    fn root(&self, key: &Key) -> Option<NodeId> {
        let root = self.roots(Slot::of(&key.0)).arbiter();
        root.filter(|root| *root != self.me())
    }

    /// Whether a node is of this node's district.
    fn is_near(&self, id: &NodeId) -> bool {
        self.district(id) == self.district(&self.me())
    }

    /// Members of a district, about.
    fn nearby(&self) -> usize {
        self.members() / usize::try_from(self.districts().max(1)).unwrap_or(1)
    }
}
