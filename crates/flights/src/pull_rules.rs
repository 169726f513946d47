//! The rules by which a node pulls an object, and serves it meanwhile.

use std::time::Duration;

use crate::{ChainPosition, NodeId};

/// A source that has not begun to answer after this long has failed.
pub const SOURCE_ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// The most sources that may fail one body.
pub const MAX_FAILED_SOURCES: usize = 16;
/// The most objects sent to followers at once. Parallel ranges of one object to one follower count once. Enough for
/// eight followers with three layers each.
pub const MAX_UPLOADS: usize = 24;
/// Objects up to this size, in bytes, are verified and stored whole by each node before it passes them on.
pub const SMALL_OBJECT: u64 = 1024 * 1024;
/// A node that sends this many objects already is busy. A node that gives as much as it gets sends one copy of each object
/// that it pulls.
const BUSY_UPLOADS: usize = CONTAINERD_SLOTS;
/// The most holders that one body passes over as busy.
const MAX_BUSY_SOURCES: usize = 8;
/// After its followers were told to use another source, a pull is served to no node for this long: the other nodes may
/// not know yet.
pub const EVICTED_FOR: Duration = Duration::from_secs(2);
/// The interval of reports while bytes arrive.
pub const REPORT_EVERY: Duration = Duration::from_millis(500);
/// containerd writes an object in steps of this many bytes.
pub const STEP: u64 = 1024 * 1024;
/// The lower and the upper bound of the time without a byte after which a pull from upstream that has begun has
/// stalled.
const STALL_MIN: Duration = Duration::from_secs(3);
const STALL_MAX: Duration = Duration::from_secs(20);
/// A pull from a peer has stalled after this time without a byte. Its body changes the source much earlier.
const FOLLOW_LIMIT: Duration = Duration::from_secs(30);
/// An object that is neither being ingested nor in the store for this long is gone. In between containerd renames it.
pub const GONE_LIMIT: Duration = Duration::from_millis(250);

/// The downloads of a node at once: the default of containerd's `max_concurrent_downloads`.
pub const CONTAINERD_SLOTS: usize = 3;
/// The bytes of one step of each download of a node: the steps may coincide.
pub(crate) const STEPS: u64 = STEP * CONTAINERD_SLOTS as u64;
/// The time after which a request is requeued, where downloads share slots: once for each object until bytes of it
/// come.
///
/// From containerd 2.1, three downloads of a node run at once, and a request sent upstream goes to the tail of its
/// queue. Requests that wait for leaders of other nodes hold slots. If all three did, a lead of this node could never
/// begin, and two nodes could wait for each other. So a request that has waited for this long ends without a byte
/// ([`Decision::Later`](crate::Decision)): it frees its slot, and containerd retries it after the queued ones.
/// containerd tolerates three such ends in a row, and upstream may need the others.
pub const REQUEUE_AFTER: Duration = Duration::from_millis(400);
/// An image with at most this many layers is reordered.
const FEW_LAYERS: usize = 2 * CONTAINERD_SLOTS;
/// containerd has queued all layers of an image within this time after the first.
pub const QUEUED_AFTER: Duration = Duration::from_millis(50);

/// Whether a request for a layer should be requeued for the layers below it in its image. `missing_below`: the number
/// of those that are not here.
pub fn waits_for_lower_layers(layers: usize, missing_below: usize) -> bool {
    layers <= FEW_LAYERS && missing_below >= CONTAINERD_SLOTS
}

/// Where a node pulls an object from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Not decided yet.
    #[default]
    Undecided,
    /// Another node.
    Follows(ChainPosition),
    /// Upstream.
    Leads,
}

impl Role {
    /// Whether the node receives its bytes before a node at `position`.
    pub fn is_ahead_of(&self, position: &ChainPosition) -> bool {
        match self {
            Self::Undecided => false,
            Self::Follows(own) => own.is_before(position),
            Self::Leads => true,
        }
    }

    /// The time without a byte after which a pull that has begun has stalled. `taken`: the time in which `bytes` have
    /// come. Upstream's next step may take three times as long as one did, as downloads share a link.
    pub fn stall_limit(&self, bytes: u64, taken: Duration) -> Duration {
        let steps = u32::try_from(bytes / STEP).unwrap_or(u32::MAX).max(1);
        match self {
            Self::Follows(_) => FOLLOW_LIMIT,
            Self::Undecided | Self::Leads => (taken / steps * 3).clamp(STALL_MIN, STALL_MAX),
        }
    }

    /// Whether the node, which has the first `own` bytes of an incomplete object, serves a follower that has the first
    /// `theirs` and is at `position`. A node that is more than [`STEPS`] behind the follower is no source, whatever the
    /// order: the follower would wait for it. Upstream is behind no node.
    pub fn serves(&self, own: u64, theirs: u64, position: &ChainPosition) -> bool {
        let is_level = own.saturating_add(STEPS) >= theirs || *self == Self::Leads;
        own > theirs || (is_level && self.is_ahead_of(position))
    }
}

/// The complete holders that one body has passed over because they were busy.
#[derive(Clone, Debug, Default)]
pub struct BusySources(Vec<NodeId>);

impl BusySources {
    /// The limit to name to a source: if it has the object complete and sends this many objects already, it refuses.
    /// `None`: it serves however busy it is, because it was busy before, or enough others were.
    pub fn uploads_below(&self, source: &NodeId) -> Option<usize> {
        let may_refuse = self.0.len() < MAX_BUSY_SOURCES && !self.0.contains(source);
        may_refuse.then_some(BUSY_UPLOADS)
    }

    /// Records a source that refused.
    pub fn add(&mut self, source: NodeId) {
        self.0.push(source);
    }

    /// All that refused.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_source_refuses_once_and_only_some_of_many_do() {
        let (mut busy, node) = (BusySources::default(), |n| NodeId([n; 32]));
        for refuses in (0..u8::MAX).map(node) {
            if busy.uploads_below(&refuses).is_some() {
                busy.add(refuses);
                assert_eq!(busy.uploads_below(&refuses), None);
            }
        }
        assert!(busy.iter().eq((0..8).map(node)));
    }

    #[test]
    fn the_lowest_layers_come_first_in_an_image_of_few() {
        assert!(!waits_for_lower_layers(5, 2));
        assert!(waits_for_lower_layers(5, 3));
        assert!(waits_for_lower_layers(6, 4));
        assert!(!waits_for_lower_layers(7, 6));
    }

    #[test]
    fn a_node_serves_those_behind_it() {
        let at = |order| ChainPosition { epoch: 2, order };
        let follows = Role::Follows(at(3));
        assert!(follows.serves(2, 1, &at(1)), "it has more bytes");
        assert!(follows.serves(1, 1, &at(4)));
        assert!(!follows.serves(1, 1, &at(2)), "that would close a ring");
        assert!(follows.serves(0, STEPS, &at(4)), "it catches up at once");
        assert!(!follows.serves(0, STEPS + 1, &at(4)));
        assert!(!follows.serves(0, 1, &at(2)));
        assert!(Role::Leads.serves(0, STEPS + 1, &at(1)));
        assert!(!Role::Undecided.serves(1, 1, &at(4)));
    }
}
