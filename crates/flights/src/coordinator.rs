//! A node's part in flights, given the members: owner, holder and requester in one.

use crate::arbiter::Arbiter;
use crate::holdings::Holdings;
use crate::outbox::{Context, Outbox, Passed};
use crate::pulls::{PullProgress, Pulls};
use crate::random::derived_seed;
use crate::requests::{RequestId, SourceRequests};
use crate::slots::SlotChange;
use crate::speed::{Link, LinkState};
use crate::view::View;
use crate::wire::{Message, SourceRequest};
use crate::{Decision, DecodeError, Key, NodeId, Time};
use bytes::Bytes;

#[cfg(test)]
mod foreign_answers_tests;
#[cfg(test)]
mod hostile_arbiters_tests;
#[cfg(test)]
mod limits_tests;
mod messages;
mod speed;
#[cfg(test)]
mod tests;

/// All rules but membership; [`crate::Node`] adds that. Separate, so that in the simulator ten thousand coordinators
/// share one view.
#[derive(Debug)]
pub struct Coordinator {
    arbiter: Arbiter,
    holdings: Holdings,
    requests: SourceRequests,
    pulls: Pulls,
    out: Outbox,
    datagrams: Vec<(NodeId, Bytes)>,
    decisions: Vec<(RequestId, Decision)>,
    /// Members that failed as a source or were silent, and whether this is only hearsay.
    suspects: Vec<(NodeId, bool)>,
    link: Link,
    link_state: LinkState,
    events: Vec<Event>,
}

/// What the mirror has to do, or should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Test the link of this node against others, and call `link_tested`.
    TestLink,
    /// What is known of this node's link has changed. While the node is slow, it serves no incomplete objects.
    Link(LinkState),
    /// A registry gives this node far less than other nodes, or little while it is unknown what it gives others. The
    /// followers of this object, which this node leads, should go on elsewhere.
    LeaderIsSlow(Key),
}

impl Coordinator {
    /// A coordinator that knows nothing yet. `seed` spreads its choices and must differ for each node and each start.
    pub fn new(me: NodeId, seed: u64) -> Self {
        let mut coordinator = Self {
            arbiter: Arbiter::default(),
            holdings: Holdings::default(),
            requests: SourceRequests::default(),
            pulls: Pulls::default(),
            out: Outbox::default(),
            datagrams: Vec::new(),
            decisions: Vec::new(),
            suspects: Vec::new(),
            link: Link::default(),
            link_state: LinkState::default(),
            events: Vec::new(),
        };
        // Others see the epochs of flights, and must not learn the numbers of requests from them, nor which holders are kept.
        let seeds = ["epochs", "holders"].map(|purpose| derived_seed(seed, purpose));
        coordinator.arbiter.seed(me, seeds);
        coordinator.requests.seed(derived_seed(seed, "requests"));
        let rates = derived_seed(seed, "rates");
        coordinator.requests.registries.seed(rates);
        coordinator
    }

    /// See [`crate::Node::hold`].
    pub fn hold(&mut self, now: Time, keys: &[Key]) {
        self.holdings.add(now, keys);
    }

    /// See [`crate::Node::release`].
    pub fn release(&mut self, now: Time, keys: &[Key]) {
        self.holdings.remove(now, keys);
    }

    /// See [`crate::Node::request_source`].
    pub fn request_source(
        &mut self,
        now: Time,
        request: SourceRequest,
        view: &impl View,
    ) -> RequestId {
        // A source that has failed may be dead, and own keys.
        let failed = request.failed_sources().next();
        self.suspects.extend(failed.map(|failed| (failed, false)));
        if self.pulls.has_lost_source(&request) {
            self.requests.ledger.record_lead(request.repository, false);
        }
        let cx = &mut Context::new(now, view, &mut self.out);
        let id = self.requests.request_source(request, cx);
        self.deliver_own(now, view);
        id
    }

    /// See [`crate::Node::find_holders`].
    pub fn find_holders(&mut self, now: Time, key: Key, view: &impl View) -> RequestId {
        let cx = &mut Context::new(now, view, &mut self.out);
        let id = self.requests.find_holders(key, cx);
        self.deliver_own(now, view);
        id
    }

    /// See [`crate::Node::cancel`].
    pub fn cancel(&mut self, now: Time, id: RequestId, view: &impl View) {
        let cx = &mut Context::new(now, view, &mut self.out);
        if !self.requests.cancel(id, cx) {
            self.decisions.retain(|(completed, _)| *completed != id);
            self.pulls.decline(id, cx);
        }
        self.deliver_own(now, view);
    }

    /// See [`crate::Node::report`].
    pub fn report(&mut self, now: Time, key: Key, progress: PullProgress, view: &impl View) {
        let cx = &mut Context::new(now, view, &mut self.out);
        let ledger = &mut self.requests.ledger;
        if let Some(repository) = self.pulls.report(key, progress, ledger, cx) {
            self.requests.start_leader_cooldown(repository, cx);
        }
        self.deliver_own(now, view);
    }

    /// The number of requests that wait for an answer.
    pub fn pending_requests(&self) -> usize {
        self.requests.len()
    }

    /// See [`crate::Node::waits_for_slow_upstream`].
    pub fn waits_for_slow_upstream(&self, id: RequestId) -> bool {
        self.requests.waits_for_slow_upstream(id)
    }

    /// See [`crate::Node::take_dropped_keys`].
    pub fn take_dropped_keys(&mut self) -> u64 {
        self.arbiter.take_dropped()
    }

    /// The messages to send, in order.
    pub fn take_datagrams(&mut self) -> Vec<(NodeId, Bytes)> {
        std::mem::take(&mut self.datagrams)
    }

    /// See [`crate::Node::take_decisions`].
    pub fn take_decisions(&mut self) -> Vec<(RequestId, Decision)> {
        std::mem::take(&mut self.decisions)
    }

    /// See [`crate::Node::take_found`].
    pub fn take_found(&mut self) -> Vec<(RequestId, Vec<NodeId>)> {
        self.requests.take_found()
    }

    /// Members that should be probed now, and whether only another node reports their failure.
    pub(crate) fn take_suspects(&mut self) -> Vec<(NodeId, bool)> {
        std::mem::take(&mut self.suspects)
    }

    /// Handles a message about keys.
    ///
    /// # Errors
    ///
    /// The message cannot be decoded; nothing has changed.
    pub fn receive(
        &mut self,
        now: Time,
        from: NodeId,
        datagram: &[u8],
        view: &impl View,
    ) -> Result<(), DecodeError> {
        self.accept(now, from, Message::from_datagram(datagram)?, view);
        Ok(())
    }

    pub(crate) fn accept(&mut self, now: Time, from: NodeId, passed: Passed, view: &impl View) {
        self.take(now, from, passed, view);
        self.deliver_own(now, view);
    }

    /// Handles a message that could not be delivered.
    pub fn undelivered(&mut self, now: Time, to: NodeId, view: &impl View) {
        let cx = &mut Context::new(now, view, &mut self.out);
        self.arbiter.undelivered(to, cx);
        self.member_silent(now, to, view);
    }

    /// Takes over slots whose arbiter has been unreachable since `since`.
    pub(crate) fn take_over(&mut self, since: Time, slots: u64) {
        self.arbiter.start_learning(since, slots);
    }

    /// Handles a member that does not answer.
    pub(crate) fn member_silent(&mut self, now: Time, node: NodeId, view: &impl View) {
        // Pulls that it was the arbiter of are reported to the next arbiter.
        let cx = &mut Context::new(now, view, &mut self.out);
        self.pulls.undelivered(node, cx);
        self.requests.undelivered(node, cx);
        self.deliver_own(now, view);
    }

    /// Handles a member that can be reached again.
    pub(crate) fn reachable_again(&mut self, now: Time, node: NodeId, view: &impl View) {
        let cx = &mut Context::new(now, view, &mut self.out);
        self.holdings.compare_with(node, cx);
        self.deliver_own(now, view);
    }

    /// Handles changes of slot owners.
    pub fn owners_changed(&mut self, now: Time, changes: &[SlotChange], view: &impl View) {
        let me = view.me();
        let own_shard = view.shard_of(&me);
        let (mut arbiters, mut disowned, mut gained) = (0, 0, 0);
        for change in changes {
            let bit = 1 << change.slot.index();
            let has_moved = change.before.arbiter() != change.after.arbiter();
            // A slot without an arbiter had nothing to hand over.
            let is_moved_here = has_moved && change.after.arbiter() == Some(me);
            if is_moved_here && change.before.arbiter().is_some() {
                gained |= bit;
            }
            if change.before.contains(&me) && !view.owns(change.slot) {
                disowned |= bit;
            }
            if change.scope == own_shard {
                arbiters |= if has_moved { bit } else { 0 };
                let fresh = |owner: &&NodeId| !change.before.contains(owner);
                for owner in change.after.iter().filter(fresh) {
                    self.holdings.announce_all(now, *owner, bit);
                }
            }
        }
        self.arbiter.start_learning(now, gained);
        self.arbiter.disowned(disowned);
        let cx = &mut Context::new(now, view, &mut self.out);
        self.pulls.owners_changed(arbiters, cx);
        self.deliver_own(now, view);
    }

    /// Handles a member that has left or died.
    pub fn member_left(&mut self, now: Time, node: NodeId, view: &impl View) {
        let cx = &mut Context::new(now, view, &mut self.out);
        self.arbiter.member_left(node, cx);
        self.deliver_own(now, view);
    }

    /// Handles the end of joining: this node has its first list of members.
    pub fn joined(&mut self, now: Time, view: &impl View) {
        if view.members() > 1 {
            self.arbiter.start_learning(now, u64::MAX);
        }
        let cx = &mut Context::new(now, view, &mut self.out);
        self.requests.joined(cx);
        self.deliver_own(now, view);
    }

    /// When [`Coordinator::tick`] must be called next. If that is in the past: at once.
    pub fn next_deadline(&self) -> Option<Time> {
        let deadlines = [
            self.arbiter.next_deadline(),
            self.holdings.next_deadline(),
            self.requests.next_deadline(),
            self.pulls.next_deadline(),
            self.link.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Performs all actions that are due.
    pub fn tick(&mut self, now: Time, view: &impl View) {
        let cx = &mut Context::new(now, view, &mut self.out);
        self.requests.tick(cx);
        self.holdings.tick(cx);
        self.pulls.tick(&mut self.requests, cx);
        self.requests.registries.end_trials(now);
        self.arbiter.slow_registries = self.requests.registries.slow(now);
        self.arbiter.tick(cx);
        self.check_speed(now, view);
        self.deliver_own(now, view);
    }

    /// Handles the messages that this node has for itself; the others become datagrams.
    fn deliver_own(&mut self, now: Time, view: &impl View) {
        let me = view.me();
        loop {
            for completed in self.requests.take_completed() {
                if completed.is_second_lead {
                    let registry = completed.request.registry;
                    self.requests.registries.trial_begins(now, registry);
                }
                let cx = &mut Context::new(now, view, &mut self.out);
                self.pulls.begin(&completed, cx);
                self.decisions.push((completed.id, completed.decision));
            }
            self.requests.check_fetcher(|key| self.pulls.contains(key));
            self.requests.leads = self.pulls.leads();
            self.requests.set_pulls(now, &self.pulls);
            let cx = &mut Context::new(now, view, &mut self.out);
            self.requests.tell_can_wait(cx);
            match self.next_own(me) {
                Some(passed) => self.take(now, me, passed, view),
                None => return,
            }
        }
    }

    /// The next message that this node has for itself. Those before it become datagrams.
    fn next_own(&mut self, me: NodeId) -> Option<Passed> {
        while let Some((to, passed)) = self.out.next() {
            if to == me {
                return Some(passed);
            }
            let (on_behalf_of, message) = passed;
            let datagram = message.into_datagram(on_behalf_of);
            self.datagrams.push((to, datagram));
        }
        None
    }
}
