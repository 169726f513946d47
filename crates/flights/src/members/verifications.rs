//! How many signatures are verified for each node that sends records: each takes about 40 µs. Records beyond that are
//! ignored; comparing lists finds them later.

use std::collections::BTreeMap;
use std::time::Duration;

use super::contacts::spend;
use super::member::NodeId;
use crate::Time;

/// The most verifications at once for a member: the records of a joining crowd come in the gossip of several members.
const MEMBER_BURST: u32 = 512;
/// The same for a node that is no member: its own record, and a few later ones.
const STRANGER_BURST: u32 = 16;
/// The interval between further verifications.
const EVERY: Duration = Duration::from_millis(20);
/// The most nodes that are no members for which verifications are counted. Others get none.
const MAX_STRANGERS: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Verifications {
    /// When the allowance of each node is whole again. Members are at most
    /// [`MAX_MEMBERS`](super::roster::MAX_MEMBERS).
    full_at: BTreeMap<NodeId, Time>,
}

impl Verifications {
    /// Whether one more signature may be verified for this node now. It is counted.
    pub(super) fn admits(&mut self, now: Time, from: NodeId, is_member: bool) -> bool {
        if !is_member && self.full_at.len() >= MAX_STRANGERS {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= MAX_STRANGERS {
                return false;
            }
        }
        let burst = match is_member {
            true => MEMBER_BURST,
            false => STRANGER_BURST,
        };
        let full_at = self.full_at.entry(from).or_insert(now);
        spend(full_at, now, EVERY, burst)
    }
}
