//! Nodes that others have named, and that this node has not heard from. Each is probed once, and becomes a member when
//! it answers. So no node can fill the list of members with nodes that do not exist.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::member::{Contact, NodeId};
use super::wire::Claim;
use crate::Time;

/// The most nodes that wait for a probe or its answer, in all.
const MAX_NEWCOMERS: usize = 2_048;
/// The most waiting nodes that one member has named.
const MAX_BY_ONE: usize = 512;
/// The most probes at once: enough for a crowd that joins a small cluster.
const BURST: u32 = 512;
/// The interval between further probes.
const PROBE_EVERY: Duration = Duration::from_millis(200);
/// A node that has not answered after this time is forgotten. It is probed again when another node names it again.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Newcomer {
    claim: Claim,
    named_by: NodeId,
    first_named: Time,
    probed: Option<Time>,
}

#[derive(Debug, Default)]
pub(super) struct Newcomers {
    waiting: BTreeMap<NodeId, Newcomer>,
    named_by: BTreeMap<NodeId, usize>,
    /// The nodes to be probed.
    queue: VecDeque<NodeId>,
    /// The number of nodes named so far.
    named: u64,
    /// When the allowance of probes is whole again.
    full_at: Time,
}

impl Newcomers {
    /// Whether a record that this member sends would be added: it is newer than the known one, or there is room for it.
    pub(super) fn takes(&self, claim: &Claim, named_by: &NodeId) -> bool {
        if let Some(known) = self.waiting.get(&claim.member.id) {
            return known.claim.member.incarnation < claim.member.incarnation;
        }
        let by_one = self.named_by.get(named_by).copied().unwrap_or_default();
        self.waiting.len() < MAX_NEWCOMERS && by_one < MAX_BY_ONE
    }

    /// Adds a node, or replaces its record. The record is verified already, and [`Newcomers::takes`] it.
    pub(super) fn add(&mut self, now: Time, named_by: NodeId, claim: Claim) {
        let id = claim.member.id;
        if let Some(known) = self.waiting.get_mut(&id) {
            known.claim = claim;
            return;
        }
        let newcomer = Newcomer {
            claim,
            named_by,
            first_named: now,
            probed: None,
        };
        self.named += 1;
        self.waiting.insert(id, newcomer);
        *self.named_by.entry(named_by).or_default() += 1;
        self.queue.push_back(id);
    }

    /// Removes a node: it has been heard from, or cannot be reached. Returns its record, and when it was first named.
    pub(super) fn remove(&mut self, id: &NodeId) -> Option<(Claim, Time)> {
        let newcomer = self.waiting.remove(id)?;
        if let Some(count) = self.named_by.get_mut(&newcomer.named_by) {
            *count -= 1;
            if *count == 0 {
                self.named_by.remove(&newcomer.named_by);
            }
        }
        Some((newcomer.claim, newcomer.first_named))
    }

    /// Removes all nodes. Returns their records, and when they were first named.
    pub(super) fn take_all(&mut self) -> Vec<(Claim, Time)> {
        self.named_by.clear();
        self.queue.clear();
        let waiting = std::mem::take(&mut self.waiting).into_values();
        waiting
            .map(|newcomer| (newcomer.claim, newcomer.first_named))
            .collect()
    }

    /// The number of nodes named so far.
    pub(super) fn named(&self) -> u64 {
        self.named
    }

    pub(super) fn contact(&self, id: &NodeId) -> Option<&Contact> {
        let newcomer = self.waiting.get(id)?;
        Some(&newcomer.claim.member.contact)
    }

    /// The next node to probe, if a probe is due.
    pub(super) fn take(&mut self, now: Time) -> Option<NodeId> {
        let overdue: Vec<_> = self.overdue(now).collect();
        for id in overdue {
            self.remove(&id);
        }
        while let Some(id) = self.queue.front().copied() {
            let Some(newcomer) = self.waiting.get_mut(&id) else {
                self.queue.pop_front();
                continue;
            };
            let full_at = self.full_at.max(now).after(PROBE_EVERY);
            if full_at > now.after(PROBE_EVERY * BURST) {
                return None;
            }
            self.full_at = full_at;
            self.queue.pop_front();
            newcomer.probed = Some(now);
            return Some(id);
        }
        None
    }

    fn overdue(&self, now: Time) -> impl Iterator<Item = NodeId> {
        let is_overdue = move |newcomer: &Newcomer| {
            let probed = newcomer.probed;
            probed.is_some_and(|at| at.after(ANSWER_WAIT) <= now)
        };
        let overdue = self.waiting.iter().filter(move |(_, it)| is_overdue(it));
        overdue.map(|(id, _)| *id)
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        let probe = self.queue.front().map(|_| {
            let earliest = self
                .full_at
                .0
                .saturating_add(PROBE_EVERY.as_millis() as u64);
            Time(earliest.saturating_sub((PROBE_EVERY * BURST).as_millis() as u64))
        });
        let probed = self.waiting.values().filter_map(|newcomer| newcomer.probed);
        let expiry = probed.map(|at| at.after(ANSWER_WAIT)).min();
        probe.into_iter().chain(expiry).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{id, member};
    use super::super::wire::Status;
    use super::super::wire::tests::claim;
    use super::*;

    fn named(newcomers: &mut Newcomers, now: Time, by: u32, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let claim = claim(member(number, 0), Status::Alive);
            if newcomers.takes(&claim, &id(by)) {
                newcomers.add(now, id(by), claim);
            }
        }
    }

    #[test]
    fn one_member_takes_little_of_the_room_and_all_are_probed_at_a_bounded_rate() {
        let (mut newcomers, mut now) = (Newcomers::default(), Time(0));
        let mut probes = 0;
        for second in 0..60 {
            named(
                &mut newcomers,
                now,
                1,
                second * 20_000..(second + 1) * 20_000,
            );
            assert!(newcomers.waiting.len() <= MAX_BY_ONE);
            let other = claim(member(9_000_000, 0), Status::Alive);
            assert!(newcomers.takes(&other, &id(2)), "others have room");
            probes += std::iter::from_fn(|| newcomers.take(now)).count();
            now = now.after(Duration::from_secs(1));
        }
        assert!(probes <= 512 + 5 * 60, "{probes}");
        for by in 2..100 {
            named(
                &mut newcomers,
                now,
                by,
                by * 2_000_000..by * 2_000_000 + 1_000,
            );
        }
        assert_eq!(newcomers.waiting.len(), MAX_NEWCOMERS);
        // Without an answer all are forgotten.
        while let Some(next) = newcomers.next_deadline() {
            now = now.max(next);
            while newcomers.take(now).is_some() {}
        }
        assert!(newcomers.waiting.is_empty() && newcomers.named_by.is_empty());
    }
}
