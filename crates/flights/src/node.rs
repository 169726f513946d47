//! A node of the cluster: the membership, the owners of each slot, and this node's part in flights.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::coordinator::{Coordinator, Event};
use crate::members::{Change, Contact, Datagram, Members, Sender, Signatures};
use crate::pulls::PullProgress;
use crate::random::derived_seed;
use crate::requests::RequestId;
use crate::slots::{Owners, Scope, Slot, Slots};
use crate::speed::{LinkTest, Received};
use crate::view::View;
use crate::wire::{Message, SourceRequest};
use crate::{Decision, DecodeError, Key, NodeId, Time};

/// A member that could not be reached does not count as an owner for this long, unless it is heard from.
const UNREACHABLE: Duration = Duration::from_secs(5);
/// The time within which a member that another one reports as silent or as a failed source must answer to count as an
/// owner.
const ARBITER_SUSPICION: Duration = Duration::from_millis(300);
/// Reports about a member that was probed because of one are ignored for this long.
const HEARSAY_AGAIN: Duration = Duration::from_secs(6);
/// The most members probed within that time because others report that they do not answer.
const MAX_HEARSAY: usize = 16;
/// For this long, an arbiter new to a slot forwards requests for keys it does not know to the previous arbiter.
const HANDOVER: Duration = Duration::from_secs(3);

/// All rules of one node.
///
/// After each call take the datagrams, decisions and lookups, and call [`Node::tick`] at [`Node::next_deadline`].
#[derive(Debug)]
pub struct Node {
    members: Members,
    slots: Slots,
    coordinator: Coordinator,
    /// Members that do not count as owners, and until when.
    unreachable: BTreeMap<NodeId, Time>,
    /// Members that were heard from while unreachable, and when that state would have ended. They have missed
    /// announcements. These are compared only then, so that a member cannot trigger comparisons at will.
    recovered: BTreeMap<NodeId, Time>,
    /// The members that will not count as owners unless they are heard from within [`ARBITER_SUSPICION`], and since
    /// when.
    suspects: BTreeMap<NodeId, Time>,
    /// Members that were probed because another one reported that they do not answer, and until when that is not
    /// repeated.
    hearsay: BTreeMap<NodeId, Time>,
    /// When slots got another arbiter.
    moved: BTreeMap<Slot, Time>,
    has_joined: bool,
    datagrams: Vec<Datagram>,
}

/// The cluster as this node sees it.
struct ClusterView<'a> {
    members: &'a Members,
    slots: &'a Slots,
    unreachable: &'a BTreeMap<NodeId, Time>,
    moved: &'a BTreeMap<Slot, Time>,
}

impl View for ClusterView<'_> {
    fn me(&self) -> NodeId {
        self.members.me().id
    }

    fn members(&self) -> usize {
        self.members.len()
    }

    fn is_member(&self, id: &NodeId) -> bool {
        self.members.get(id).is_some()
    }

    fn owners(&self, scope: Scope, slot: Slot) -> Owners {
        let owners = self.slots.owners(scope, slot);
        owners.filter_by(|owner| !self.unreachable.contains_key(owner))
    }

    fn shard_count(&self) -> u64 {
        self.slots.shard_count()
    }

    fn previous_arbiter(&self, slot: Slot) -> Option<NodeId> {
        self.moved.get(&slot)?;
        let before = self.slots.previous_arbiter(slot);
        before.filter(|before| !self.unreachable.contains_key(before))
    }

    fn has_joined(&self) -> bool {
        self.members.has_joined()
    }
}

/// The cluster as a node sees it, without borrowing the coordinator.
macro_rules! view {
    ($node:ident) => {
        ClusterView {
            members: &$node.members,
            slots: &$node.slots,
            unreachable: &$node.unreachable,
            moved: &$node.moved,
        }
    };
}

/// Borrows the coordinator and the view separately.
macro_rules! coordinator {
    ($node:ident) => {
        (&mut $node.coordinator, &view!($node))
    };
}

impl Node {
    /// A node that knows no other node yet. See [`Members::new`].
    pub fn new(
        now: Time,
        id: NodeId,
        contact: Contact,
        seed: u64,
        signatures: Box<dyn Signatures>,
    ) -> Self {
        let mut node = Self {
            members: Members::new(now, id, contact, derived_seed(seed, "members"), signatures),
            slots: Slots::new(),
            coordinator: Coordinator::new(id, seed),
            unreachable: BTreeMap::new(),
            recovered: BTreeMap::new(),
            suspects: BTreeMap::new(),
            hearsay: BTreeMap::new(),
            moved: BTreeMap::new(),
            has_joined: false,
            datagrams: Vec::new(),
        };
        node.apply_changes(now);
        node
    }

    /// See [`Members::at_time_of_day`].
    #[must_use]
    pub fn at_time_of_day(mut self, unix_seconds: u64) -> Self {
        self.members = self.members.at_time_of_day(unix_seconds);
        self
    }

    /// Changes the minimal size of shards. See [`Slots::with_shards_of`].
    pub fn with_shards_of(mut self, size: usize) -> Self {
        self.slots = self.slots.with_shards_of(size);
        self
    }

    /// See [`Members::join`].
    pub fn join(&mut self, now: Time, seeds: impl IntoIterator<Item = NodeId>) {
        self.members.join(now, seeds);
        self.apply_changes(now);
    }

    /// See [`Members::set_contact`].
    pub fn set_contact(&mut self, now: Time, contact: Contact) {
        self.members.set_contact(now, contact);
        self.apply_changes(now);
    }

    /// See [`Members::leave`].
    pub fn leave(&mut self) {
        self.members.leave();
        self.flush();
    }

    /// The members of the cluster.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The number of requests that wait for an answer.
    pub fn pending_requests(&self) -> usize {
        self.coordinator.pending_requests()
    }

    /// Whether a pending request waits for a registry that its arbiter calls slow. Then it may wait as long as that
    /// registry takes.
    pub fn waits_for_slow_upstream(&self, request: RequestId) -> bool {
        self.coordinator.waits_for_slow_upstream(request)
    }

    /// Announces complete objects of this node.
    pub fn hold(&mut self, now: Time, keys: &[Key]) {
        self.coordinator.hold(now, keys);
    }

    /// Withdraws announcements: this node no longer holds these objects.
    pub fn release(&mut self, now: Time, keys: &[Key]) {
        self.coordinator.release(now, keys);
    }

    /// Asks for a source of an object that this node's containerd requests.
    ///
    /// There is a [`Decision`] in any case, within the budget of the pull and the usual time to upstream's first byte.
    pub fn request_source(&mut self, now: Time, request: SourceRequest) -> RequestId {
        let (coordinator, view) = coordinator!(self);
        let id = coordinator.request_source(now, request, view);
        self.apply_changes(now);
        id
    }

    /// Looks up which nodes have the complete object. [`Node::take_found`] has the answer within a second.
    pub fn find_holders(&mut self, now: Time, key: Key) -> RequestId {
        let (coordinator, view) = coordinator!(self);
        let id = coordinator.find_holders(now, key, view);
        self.apply_changes(now);
        id
    }

    /// Cancels a request whose decision is not awaited any more, or not used.
    pub fn cancel(&mut self, now: Time, id: RequestId) {
        let (coordinator, view) = coordinator!(self);
        coordinator.cancel(now, id, view);
        self.apply_changes(now);
    }

    /// Reports the progress of a pull.
    pub fn report(&mut self, now: Time, key: Key, progress: PullProgress) {
        let (coordinator, view) = coordinator!(self);
        coordinator.report(now, key, progress, view);
        self.apply_changes(now);
    }

    /// Handles a datagram.
    ///
    /// # Errors
    ///
    /// As for [`Members::receive`].
    pub fn receive(
        &mut self,
        now: Time,
        from: impl Into<Sender>,
        datagram: &[u8],
    ) -> Result<(), DecodeError> {
        let sender = from.into();
        let from = sender.id;
        let passed = Message::from_datagram(datagram)?;
        self.suspects.remove(&from);
        if let Some(until) = self.unreachable.remove(&from) {
            self.recovered.insert(from, until);
        }
        match passed {
            (_, Message::Members(message)) => {
                let accepted = self.members.accept(now, sender, message);
                self.apply_changes(now);
                return accepted;
            }
            passed => {
                // Once this node knows the members, it listens to them only.
                if self.members.has_joined() && self.members.get(&from).is_none() {
                    self.members.meet(now, from);
                    // A node may announce before the news of its joining is here. Announcements of nodes that do not
                    // join are bounded, forgotten within a minute, and never used.
                    if !matches!(passed.1, Message::Announce(_) | Message::Renew(_)) {
                        self.apply_changes(now);
                        return Ok(());
                    }
                }
                let (coordinator, view) = coordinator!(self);
                coordinator.accept(now, from, passed, view);
            }
        }
        self.apply_changes(now);
        Ok(())
    }

    /// Handles a datagram that could not be delivered: its recipient cannot be reached.
    pub fn undelivered(&mut self, now: Time, to: NodeId) {
        self.mark_unreachable(now, to, now);
        let (coordinator, view) = coordinator!(self);
        coordinator.undelivered(now, to, view);
        self.members.undelivered(now, to);
        self.apply_changes(now);
    }

    /// `since`: when it was first suspected. Nodes have reported their leads to the next owner since then.
    fn mark_unreachable(&mut self, now: Time, node: NodeId, since: Time) {
        self.suspects.remove(&node);
        let arbitrated = self.arbitrated_by(&node);
        self.unreachable.insert(node, now.after(UNREACHABLE));
        let mine = self.arbitrated_by(&self.members.me().id);
        let taken_over = arbitrated.intersection(&mine);
        let slots = taken_over.fold(0, |slots, (_, slot)| slots | 1 << slot.index());
        let (coordinator, view) = coordinator!(self);
        coordinator.take_over(since, slots);
        coordinator.member_silent(now, node, view);
    }

    /// The slots whose arbiter is this node.
    fn arbitrated_by(&self, node: &NodeId) -> BTreeSet<(Scope, Slot)> {
        let view = view!(self);
        let scopes = self.slots.scopes();
        let all = scopes.flat_map(|scope| Slot::all().map(move |slot| (scope, slot)));
        all.filter(|(scope, slot)| view.owners(*scope, *slot).arbiter() == Some(*node))
            .collect()
    }

    /// When [`Node::tick`] is to be called next.
    pub fn next_deadline(&self) -> Time {
        let others = [self.slots.next_deadline(), self.coordinator.next_deadline()];
        let suspects = self
            .suspects
            .values()
            .map(|since| since.after(ARBITER_SUSPICION));
        let own = self.unreachable.values().chain(self.recovered.values());
        let own = own.copied().chain(suspects);
        let own = own.chain(others.into_iter().flatten());
        own.fold(self.members.next_deadline(), Time::min)
    }

    /// Performs all actions that are due.
    pub fn tick(&mut self, now: Time) {
        self.members.tick(now);
        let is_over = |_: &NodeId, until: &mut Time| *until <= now;
        let mut again: BTreeMap<_, _> = self.unreachable.extract_if(.., is_over).collect();
        again.extend(self.recovered.extract_if(.., is_over));
        for node in again.into_keys() {
            let (coordinator, view) = coordinator!(self);
            coordinator.reachable_again(now, node, view);
        }
        self.moved.retain(|_, at| now.since(*at) < HANDOVER);
        let silent = self
            .suspects
            .extract_if(.., |_, since| since.after(ARBITER_SUSPICION) <= now);
        for (node, since) in silent.collect::<Vec<_>>() {
            self.mark_unreachable(now, node, since);
        }
        self.apply_changes(now);
        let (coordinator, view) = coordinator!(self);
        coordinator.tick(now, view);
        self.apply_changes(now);
    }

    /// The messages to send, in order.
    pub fn take_datagrams(&mut self) -> Vec<Datagram> {
        std::mem::take(&mut self.datagrams)
    }

    /// The number of announced keys that this owner did not keep since the last call: a node, or all together,
    /// announced too many.
    pub fn take_dropped_keys(&mut self) -> u64 {
        self.coordinator.take_dropped_keys()
    }

    /// The decisions on requests.
    pub fn take_decisions(&mut self) -> Vec<(RequestId, Decision)> {
        self.coordinator.take_decisions()
    }

    /// The holders found by lookups.
    pub fn take_found(&mut self) -> Vec<(RequestId, Vec<NodeId>)> {
        self.coordinator.take_found()
    }

    /// Records what this node receives. Called a few times a second while it receives large objects.
    pub fn observe(&mut self, now: Time, rates: &Received) {
        let (coordinator, view) = coordinator!(self);
        coordinator.observe(now, rates, view);
        self.apply_changes(now);
    }

    /// Charges the waiting budget of a pull for the time lost by waiting for bytes of its sources.
    pub fn charge(&mut self, now: Time, repository: u64, lost: Duration) {
        self.coordinator.charge(now, repository, lost);
    }

    /// What the pull from a repository has lost by waiting, of [`BUDGET`](crate::ledger::BUDGET).
    pub fn lost(&self, repository: u64) -> Duration {
        self.coordinator.lost(repository)
    }

    /// Handles the result of a test that [`Event::TestLink`] asked for.
    pub fn link_tested(&mut self, now: Time, test: LinkTest) {
        let (coordinator, view) = coordinator!(self);
        coordinator.link_tested(now, test, view);
        self.apply_changes(now);
    }

    /// The bandwidth of this node's link in bytes per second, once a test has shown it.
    pub fn bandwidth(&self) -> Option<u64> {
        self.coordinator.bandwidth()
    }

    /// What the mirror has to do or should know, since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.coordinator.take_events()
    }

    /// Acts on changes of the membership.
    fn apply_changes(&mut self, now: Time) {
        let changes = self.members.take_changes();
        let is_due = self.slots.next_deadline().is_some_and(|at| at <= now);
        if !changes.is_empty() || is_due {
            self.slots.update(now, &changes);
        }
        let moves = self.slots.take_changes();
        for change in &moves {
            // A slot without an arbiter had nothing to hand over.
            let is_first = change.scope == Scope::Shard(0);
            let before = change.before.arbiter().filter(|_| is_first);
            if before.is_some() && before != change.after.arbiter() {
                self.moved.insert(change.slot, now);
            }
        }
        let has_joined = self.members.has_joined();
        let joins = has_joined && !self.has_joined;
        self.has_joined = has_joined;
        let (coordinator, view) = coordinator!(self);
        if !moves.is_empty() {
            coordinator.owners_changed(now, &moves, view);
        }
        if !changes.is_empty() {
            coordinator.check_speed(now, view);
        }
        for change in &changes {
            if let Change::Left(node) = change {
                coordinator.member_left(now, *node, view);
            }
        }
        if joins {
            coordinator.joined(now, view);
        }
        let suspects = coordinator.take_suspects().into_iter();
        // Others may name any node, even this one.
        let suspects = suspects.filter(|(node, _)| *node != view.me() && view.is_member(node));
        for (node, is_hearsay) in suspects.collect::<BTreeSet<_>>() {
            self.suspect(now, node, is_hearsay);
        }
        self.flush();
    }

    /// Probes a member that does not answer, as this node has seen or as another one says. Reports of others cause one
    /// probe of a member in [`HEARSAY_AGAIN`], and [`MAX_HEARSAY`] in all.
    fn suspect(&mut self, now: Time, node: NodeId, is_hearsay: bool) {
        if self.unreachable.contains_key(&node) || self.suspects.contains_key(&node) {
            return;
        }
        if is_hearsay {
            self.hearsay.retain(|_, until| *until > now);
            if self.hearsay.len() >= MAX_HEARSAY || self.hearsay.contains_key(&node) {
                return;
            }
            self.hearsay.insert(node, now.after(HEARSAY_AGAIN));
        }
        self.suspects.insert(node, now);
        self.members.probe_now(now, node);
    }

    fn flush(&mut self) {
        self.datagrams.extend(self.members.take_datagrams());
        let others = self.coordinator.take_datagrams();
        for (to, bytes) in others {
            // It ignores messages of nodes that it does not know.
            self.datagrams.extend(self.members.introduction(to));
            self.datagrams.push(Datagram { to, bytes });
        }
    }
}
