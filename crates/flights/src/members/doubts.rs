//! Members that another node reports as faulty. This node probes them itself.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::member::NodeId;
use super::timing::SUSPICION;
use crate::Time;

/// Further reports about a member that was probed because of one are ignored for this long.
const DOUBT_AGAIN: Duration = SUSPICION;
/// The interval between two of these probes. It bounds what other nodes can make this one send.
const DOUBT_EVERY: Duration = Duration::from_millis(50);

/// The most members that wait to be probed. Further doubts are ignored; the usual probes find dead members too.
const MAX_DOUBTS: usize = 4_096;

/// The members to probe, in order, and until when further doubts about them are ignored (`None`: they wait).
#[derive(Debug, Default)]
pub(super) struct Doubts {
    queue: VecDeque<NodeId>,
    recent: BTreeMap<NodeId, Option<Time>>,
    next: Time,
}

impl Doubts {
    /// Adds a member, unless it waits already or was probed for a doubt lately.
    pub(super) fn add(&mut self, now: Time, id: NodeId) {
        let before = self.recent.get(&id);
        let is_known = before.is_some_and(|until| until.is_none_or(|until| until > now));
        if is_known || self.queue.len() >= MAX_DOUBTS {
            return;
        }
        if self.queue.is_empty() {
            self.next = self.next.max(now);
        }
        self.recent.insert(id, None);
        self.queue.push_back(id);
    }

    /// The next member to probe, if a probe is due.
    pub(super) fn take(&mut self, now: Time) -> Option<NodeId> {
        if self.next > now {
            return None;
        }
        let id = self.queue.pop_front()?;
        self.next = now.after(DOUBT_EVERY);
        self.recent
            .retain(|_, until| until.is_none_or(|until| until > now));
        self.recent.insert(id, Some(now.after(DOUBT_AGAIN)));
        Some(id)
    }

    /// The end of the suspicion that a member was told of with its probe, if it was probed lately.
    pub(super) fn end(&self, now: Time, id: &NodeId) -> Option<Time> {
        self.recent
            .get(id)
            .copied()
            .flatten()
            .filter(|until| *until > now)
    }

    /// When the next member is to be probed.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        (!self.queue.is_empty()).then_some(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_probed_once_and_all_at_a_bounded_rate() {
        let mut doubts = Doubts::default();
        let id = |number| NodeId([number; 32]);
        let mut now = Time(1_000);
        let mut taken = Vec::new();
        for _ in 0..1_000 {
            (0..100).for_each(|number| doubts.add(now, id(number)));
            taken.extend(doubts.take(now));
            now = now.after(Duration::from_millis(1));
        }
        assert_eq!(taken.len(), 20, "in a second");
        taken.dedup();
        assert_eq!(taken, (0..20).map(id).collect::<Vec<_>>());
        // However many others wait, each waits once.
        now = now.after(DOUBT_AGAIN);
        (0..100).for_each(|number| doubts.add(now, id(number)));
        assert_eq!(doubts.queue.len(), 100);
        assert_eq!(doubts.queue.back(), Some(&id(19)), "again, later");
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut doubts = Doubts::default();
        for number in 0..2 * MAX_DOUBTS as u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            doubts.add(Time(0), NodeId(id));
        }
        assert_eq!(
            (doubts.queue.len(), doubts.recent.len()),
            (MAX_DOUBTS, MAX_DOUBTS)
        );
    }
}
