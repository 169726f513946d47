//! The node that asks, and this arbiter's role for it.

use crate::outbox::Outbox;
use crate::slots::{Scope, Slot};
use crate::view::View;
use crate::wire::{Message, Reply};
use crate::{Key, NodeId};

/// A node that sends a message, or on whose behalf an arbiter sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub node: NodeId,
    /// The arbiter that passes its messages on.
    pub via: Option<NodeId>,
}

impl Asker {
    pub fn new(from: NodeId, on_behalf_of: Option<NodeId>) -> Self {
        match on_behalf_of {
            Some(node) => Self {
                node,
                via: Some(from),
            },
            None => Self {
                node: from,
                via: None,
            },
        }
    }

    /// Whether a message may change what is known of a pull of its node. `before`: the arbiter that passed on the
    /// node's request.
    ///
    /// A node speaks for itself. An arbiter speaks for it where it has passed on its request, and where it owns the
    /// slot in the node's shard or in the whole cluster, of several shards: each owner may be the arbiter, if it has
    /// found the others unreachable. Any other node that passes on a message may only ask for a source. So in a cluster
    /// of one shard no owner ends the pull of another node, and among several shards three of the nodes can for 1/64 of
    /// the keys of a shard.
    pub fn may_change(&self, before: Option<NodeId>, key: &Key, view: &impl View) -> bool {
        let Some(via) = self.via else {
            return true;
        };
        let slot = Slot::of(&key.0);
        let scopes = [view.shard_of(&self.node), Scope::Cluster];
        let is_owner = || {
            let mut owners = scopes.map(|scope| view.owners(scope, slot)).into_iter();
            view.shard_count() > 1 && owners.any(|owners| owners.contains(&via))
        };
        before == Some(via) || is_owner()
    }

    pub fn answer(&self, key: Key, number: u64, reply: Reply, out: &mut Outbox) {
        let answer = Message::answer(key, number, reply);
        match self.via {
            Some(arbiter) => out.pass_on(arbiter, self.node, answer),
            None => out.send(self.node, answer),
        }
    }
}

/// The role of this node for a node that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArbiterRole {
    /// Its arbiter, in a cluster of one shard.
    Only,
    /// The global arbiter, among several shards.
    Global,
    /// The arbiter of its shard; the global arbiter is this one.
    OfShard(NodeId),
    /// The arbiter of another shard, which the global arbiter asks on its behalf.
    OfOtherShard,
    /// Not its arbiter. That is this one, if it is known.
    NotArbiter(Option<NodeId>),
}

impl ArbiterRole {
    pub fn of(asker: &Asker, key: &Key, view: &impl View) -> Self {
        let (me, global) = (view.me(), view.global_arbiter(key));
        let is_sharded = view.shard_count() > 1;
        let arbiter = match asker.via {
            Some(_) if is_sharded => global,
            _ => view
                .owners(view.shard_of(&asker.node), Slot::of(&key.0))
                .arbiter(),
        };
        match global {
            _ if arbiter != Some(me) => match asker.via {
                Some(via) if Some(via) == global => Self::OfOtherShard,
                _ => Self::NotArbiter(arbiter),
            },
            None => Self::Only,
            Some(global) if global == me => Self::Global,
            Some(global) => Self::OfShard(global),
        }
    }
}
