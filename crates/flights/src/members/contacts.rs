//! Bounds messages to members that this node has never heard from, and messages passed on for others: the addresses of
//! those members are only what somebody claims.
//!
//! Whoever makes up members with the addresses of a third party makes this node connect there at this rate at most.

use std::collections::BTreeSet;
use std::time::Duration;

use super::member::NodeId;
use crate::Time;

/// The most messages to such members at once. It is enough for the first seconds in a large cluster.
pub(super) const BURST: u32 = 64;
/// The interval between further ones.
pub(super) const UNPROVEN_EVERY: Duration = Duration::from_millis(50);

/// The members that were heard from, and what may be sent to others.
#[derive(Debug)]
pub(super) struct Contacts {
    heard: BTreeSet<NodeId>,
    /// When the allowance is whole again.
    full_at: Time,
    /// The same for messages that are passed on for other members.
    help_full_at: Time,
}

impl Contacts {
    pub(super) fn new(now: Time) -> Self {
        Self {
            heard: BTreeSet::new(),
            full_at: now,
            help_full_at: now,
        }
    }

    /// Records a message of a member.
    pub(super) fn heard(&mut self, id: NodeId) {
        self.heard.insert(id);
    }

    pub(super) fn forget(&mut self, id: &NodeId) {
        self.heard.remove(id);
    }

    /// Whether a message may be sent to a member now. It is counted if the member was never heard from.
    pub(super) fn admits(&mut self, now: Time, id: &NodeId) -> bool {
        if self.heard.contains(id) {
            return true;
        }
        spend(&mut self.full_at, now, UNPROVEN_EVERY, BURST)
    }

    /// Whether a message may be passed on for another member now. It is counted.
    pub(super) fn helps(&mut self, now: Time) -> bool {
        spend(&mut self.help_full_at, now, UNPROVEN_EVERY, BURST)
    }

    /// How many members were heard from.
    pub(super) fn heard_count(&self) -> usize {
        self.heard.len()
    }
}

/// Takes one from an allowance of so many at once, and one more in each interval. Returns whether there was one.
pub(super) fn spend(full_at: &mut Time, now: Time, every: Duration, burst: u32) -> bool {
    let after = (*full_at).max(now).after(every);
    let has_one = after <= now.after(every * burst);
    if has_one {
        *full_at = after;
    }
    has_one
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_to_members_never_heard_from_have_a_rate() {
        let (unknown, known) = (NodeId([1; 32]), NodeId([2; 32]));
        let mut contacts = Contacts::new(Time(0));
        contacts.heard(known);
        let sent = |contacts: &mut Contacts, id: &NodeId, from: u64, to: u64| {
            let times = (from..to).flat_map(|time| [Time(time); 3]);
            times.filter(|now| contacts.admits(*now, id)).count()
        };
        assert_eq!(sent(&mut contacts, &unknown, 0, 10_000), 64 + 199);
        assert_eq!(sent(&mut contacts, &known, 10_000, 11_000), 3_000);
        assert_eq!(sent(&mut contacts, &unknown, 60_000, 60_001), 3);
        contacts.forget(&known);
        assert!(sent(&mut contacts, &known, 60_001, 60_100) < 70);
    }
}
