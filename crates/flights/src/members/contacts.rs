//! Bounds messages to members that this node has never heard from, and messages passed on for others: the addresses of
//! those members are only claims.
//!
//! A node that makes up members with the addresses of a third party makes this node connect there at this rate at most.
//!
//! It also knows the hosts of the members that were heard from: a host can make any number of keys, but is a bounded
//! number of members.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::member::{NodeId, Sender};
use crate::Time;

/// The most messages to such members at once: enough for the first seconds in a large cluster.
pub(super) const BURST: u32 = 64;
/// The interval between further messages.
pub(super) const UNPROVEN_EVERY: Duration = Duration::from_millis(50);
/// The most members of one host.
const MAX_BY_HOST: usize = 16;

/// The members that were heard from, and what may be sent to others.
#[derive(Debug)]
pub(super) struct Contacts {
    /// The hosts of the members that were heard from, where they count.
    heard: BTreeMap<NodeId, Option<IpAddr>>,
    /// The number of these members on each host.
    by_host: BTreeMap<IpAddr, usize>,
    /// The sender of the last message, and its host.
    sender: Option<Sender>,
    /// When the allowance is whole again.
    full_at: Time,
    /// The same for messages that are passed on for other members.
    help_full_at: Time,
}

impl Contacts {
    pub(super) fn new(now: Time) -> Self {
        Self {
            heard: BTreeMap::new(),
            by_host: BTreeMap::new(),
            sender: None,
            full_at: now,
            help_full_at: now,
        }
    }

    /// Records the sender of a message.
    pub(super) fn receive_from(&mut self, sender: Sender) {
        self.sender = Some(sender);
    }

    fn host(&self, id: &NodeId) -> Option<IpAddr> {
        self.sender.filter(|sender| sender.id == *id)?.host
    }

    /// Whether a node may become a member: its host is unknown, or has few members.
    pub(super) fn host_has_room(&self, id: &NodeId) -> bool {
        let host = self.host(id);
        let members = host.and_then(|host| self.by_host.get(&host));
        members.is_none_or(|members| *members < MAX_BY_HOST)
    }

    /// Records a message of a member.
    pub(super) fn heard(&mut self, id: NodeId) {
        let host = self.host(&id);
        if self.heard.get(&id) != Some(&host) {
            self.forget(&id);
            self.heard.insert(id, host);
            if let Some(host) = host {
                *self.by_host.entry(host).or_default() += 1;
            }
        }
    }

    pub(super) fn forget(&mut self, id: &NodeId) {
        let Some(Some(host)) = self.heard.remove(id) else {
            return;
        };
        if let Some(members) = self.by_host.get_mut(&host) {
            *members -= 1;
            if *members == 0 {
                self.by_host.remove(&host);
            }
        }
    }

    /// Whether a message may be sent to a member now. It is counted if the member was never heard from.
    pub(super) fn admits(&mut self, now: Time, id: &NodeId) -> bool {
        if self.heard.contains_key(id) {
            return true;
        }
        spend(&mut self.full_at, now, UNPROVEN_EVERY, BURST)
    }

    /// Whether a message may be passed on for another member now. It is counted.
    pub(super) fn helps(&mut self, now: Time) -> bool {
        spend(&mut self.help_full_at, now, UNPROVEN_EVERY, BURST)
    }

    /// The number of hosts that were heard from. A member whose host does not count is one.
    pub(super) fn heard_hosts(&self) -> usize {
        let of_hosts: usize = self.by_host.values().sum();
        self.heard.len() - of_hosts + self.by_host.len()
    }
}

/// Takes one from an allowance of `burst`, to which each interval adds one. Returns whether there was one.
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
    fn a_host_counts_once_however_many_members_it_is() {
        let mut contacts = Contacts::new(Time(0));
        let id = |number| NodeId([number; 32]);
        let hear = |contacts: &mut Contacts, number: u8, host: Option<u8>| {
            let host = host.map(|host| [10, 0, 0, host].into());
            let sender = Sender {
                id: id(number),
                host,
            };
            contacts.receive_from(sender);
            let has_room = contacts.host_has_room(&id(number));
            contacts.heard(id(number));
            has_room
        };
        assert!((0..16).all(|number| hear(&mut contacts, number, Some(1))));
        assert_eq!(contacts.heard_hosts(), 1);
        assert!(!hear(&mut contacts, 16, Some(1)));
        assert!(hear(&mut contacts, 17, Some(2)) && hear(&mut contacts, 18, None));
        assert_eq!(contacts.heard_hosts(), 3);
        // One is proven elsewhere, and one has left.
        hear(&mut contacts, 16, Some(3));
        contacts.forget(&id(0));
        assert!(hear(&mut contacts, 19, Some(1)));
        (0..20).for_each(|number| contacts.forget(&id(number)));
        assert_eq!(contacts.heard_hosts(), 0);
    }

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
