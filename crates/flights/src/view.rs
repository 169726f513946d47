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

    /// The owners of a slot who can be reached, the arbiter first.
    fn owners(&self, slot: Slot) -> Owners;

    /// Who was the arbiter of a slot before, if that changed a moment ago.
    fn before(&self, slot: Slot) -> Option<NodeId>;

    /// Whether this node knows enough of the others to say who owns what.
    fn has_joined(&self) -> bool;

    fn arbiter(&self, key: &Key) -> Option<NodeId> {
        self.owners(Slot::of(&key.0)).arbiter()
    }

    fn is_arbiter(&self, key: &Key) -> bool {
        self.arbiter(key) == Some(self.me())
    }
}
