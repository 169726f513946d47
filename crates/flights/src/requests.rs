//! The requests of this node to owners, until they are answered or time out.

mod answers;
mod charges;
mod pending;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ledger::Ledger;
use crate::outbox::Context;
use crate::pull_rules::SMALL_OBJECT;
use crate::random::secret_number;
use crate::slots::Slot;
use crate::speed::RegistryRates;
use crate::view::View;
use crate::wire::{
    FindHolders, KnownRate, Message, RegistryRate, RequestNumber, SourceRequest, key_field,
    node_field,
};
use crate::{Decision, Key, NodeId, Time};
use charges::WaitEnd;
pub(crate) use pending::AskedOwner;
use pending::{PendingRequest, Query, withdraw};

/// An owner tells waiting nodes at least this often that their answer will come.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(500);
/// The most that a request waits, whatever the node receives meanwhile.
const MAX_WAIT: Duration = Duration::from_secs(22);
/// The limit of a lookup.
const FIND_LIMIT: Duration = Duration::from_millis(900);
/// The most redirects of a request: owners may disagree which of them is the arbiter.
const MAX_REDIRECTS: u8 = 3;
/// The most pending requests. A node pulls a dozen objects at the same time.
const MAX_OPEN: usize = 4_096;

/// Identifies a request of this node, to this node. Other nodes do not learn it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(crate) u64);

/// A request for a source that has its decision.
#[derive(Debug)]
pub(crate) struct CompletedRequest {
    pub id: RequestId,
    pub number: RequestNumber,
    pub request: SourceRequest,
    /// The owner that answered, if one did.
    pub by: Option<NodeId>,
    /// All owners that were asked.
    pub asked: BTreeSet<NodeId>,
    pub decision: Decision,
    /// The part of the wait that is refunded once the source sends bytes.
    pub refundable: Duration,
    /// This node leads, and another one does already.
    pub is_second_lead: bool,
}

#[derive(Debug, Default)]
pub(crate) struct SourceRequests {
    /// The pending requests, by their sequence.
    open: BTreeMap<u64, PendingRequest>,
    last: u64,
    /// The secret from which the numbers of requests are derived.
    secret: u64,
    pub ledger: Ledger,
    pub registries: RegistryRates,
    /// This node's mirror pulls an object from upstream.
    mirror_pulls: bool,
    /// Whether this node counts as slow.
    pub is_slow: bool,
    /// The large object that this node fetches for its shard.
    fetches: Option<Key>,
    /// This node leads.
    pub leads: bool,
    /// The bandwidth of this node's link in bytes per second, once known.
    pub bandwidth: Option<u64>,
    /// Whether waiting cost nothing at the last check.
    waits_free: bool,
    completed: Vec<CompletedRequest>,
    /// The answers to lookups.
    found: Vec<(RequestId, Vec<NodeId>)>,
}

impl SourceRequests {
    /// Seeds the numbers, so that they differ from those of an earlier process, and no other node can guess them.
    pub fn seed(&mut self, secret: u64) {
        self.secret = secret;
        self.last = secret_number(secret, "sequence", 0) << 32;
    }

    pub fn request_source(
        &mut self,
        request: SourceRequest,
        cx: &mut Context<'_, impl View>,
    ) -> RequestId {
        let repository = request.repository;
        self.registries.mark_used(request.registry);
        self.settle(cx.now, repository);
        let has_time = !self.ledger.left(repository, Duration::ZERO).is_zero();
        let sequence = self.open(cx.now, Query::Source(request.into()), cx.now);
        self.settle(cx.now, repository);
        self.begin(sequence, has_time, cx)
    }

    pub fn find_holders(&mut self, key: Key, cx: &mut Context<'_, impl View>) -> RequestId {
        let sequence = self.open(cx.now, Query::Holders(key), cx.now.after(FIND_LIMIT));
        self.begin(sequence, true, cx)
    }

    fn open(&mut self, now: Time, query: Query, deadline: Time) -> u64 {
        self.last = self.last.wrapping_add(1);
        let sequence = self.last;
        let (in_vain_before, waited_free_before) = match &query {
            Query::Source(request) => (
                self.ledger.non_refundable(request.repository),
                self.ledger.waited_free(request.repository),
            ),
            Query::Holders(_) => (Duration::ZERO, Duration::ZERO),
        };
        let open = PendingRequest {
            number: RequestNumber {
                random: secret_number(self.secret, "number", sequence),
                sequence,
            },
            query,
            started: now,
            in_vain_before,
            waited_free_before,
            waited: Duration::ZERO,
            free_until: now,
            deadline,
            asked: None,
            all_asked: BTreeSet::new(),
            lead: None,
            can_wait: false,
            lead_is_late: false,
            redirects: 0,
            silent: Vec::new(),
        };
        self.open.insert(sequence, open);
        sequence
    }

    fn begin(
        &mut self,
        sequence: u64,
        has_time: bool,
        cx: &mut Context<'_, impl View>,
    ) -> RequestId {
        if has_time && self.open.len() <= MAX_OPEN {
            self.ask(sequence, None, cx);
        } else {
            self.give_up(sequence, cx);
        }
        RequestId(sequence)
    }

    /// Cancels a request. Returns whether it was pending.
    pub fn cancel(&mut self, id: RequestId, cx: &mut Context<'_, impl View>) -> bool {
        let is_open = self.open.contains_key(&id.0);
        if let Some(open) = self.close(cx.now, id.0, WaitEnd::InVain) {
            withdraw(&open, cx);
        }
        is_open
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn waits_for_slow_upstream(&self, id: RequestId) -> bool {
        let lead = self.open.get(&id.0).and_then(|open| open.lead);
        lead.is_some_and(|lead| lead.is_upstream_slow)
    }

    pub fn take_completed(&mut self) -> Vec<CompletedRequest> {
        std::mem::take(&mut self.completed)
    }

    /// The holders found by lookups.
    pub fn take_found(&mut self) -> Vec<(RequestId, Vec<NodeId>)> {
        std::mem::take(&mut self.found)
    }

    /// Sends a request to `to`, or to the first owner that is not silent. Gives up if there is none.
    fn ask(&mut self, sequence: u64, to: Option<NodeId>, cx: &mut Context<'_, impl View>) {
        let can_wait = self.can_wait(cx.now, sequence);
        let Some(open) = self.open.get_mut(&sequence) else {
            return;
        };
        if !cx.view.has_joined() {
            // It is sent once this node has joined.
            return;
        }
        let owners = cx.view.own_owners(Slot::of(&open.query.key().0));
        let to = to.or_else(|| owners.iter().find(|o| !open.silent.contains(o)).copied());
        let Some(to) = to else {
            self.give_up(sequence, cx);
            return;
        };
        open.all_asked.insert(to);
        open.can_wait = can_wait;
        match &mut open.asked {
            Some(asked) if asked.owner == to => asked.repeat(),
            asked => *asked = Some(AskedOwner::new(cx.now, to)),
        }
        let message = match &open.query {
            Query::Holders(key) => {
                let key = key_field(*key);
                Message::FindHolders(FindHolders {
                    key,
                    number: open.number.random,
                    shards_asked: 0,
                })
            }
            Query::Source(request) => {
                let known = self.registries.get(cx.now, request.registry);
                let cools_down = self.ledger.in_leader_cooldown(cx.now, request.repository);
                let is_path_slow = self.registries.is_path_slow(cx.now, request.registry);
                Message::SourceRequest(SourceRequest {
                    number: open.number.random,
                    sequence,
                    leader_cooldown: cools_down || is_path_slow,
                    is_slow: self.is_slow,
                    silent_owner: node_field(open.silent.last().copied()),
                    known_rate: Some(known),
                    is_fetcher: self.fetches.is_some_and(|key| key != request.key()),
                    leads: self.leads,
                    can_wait,
                    lead_is_late: open.lead_is_late,
                    ..(**request).clone()
                })
            }
        };
        cx.out.send(to, message);
    }

    /// Sends a request to its owner again, with what this node says now.
    fn repeat(&mut self, sequence: u64, cx: &mut Context<'_, impl View>) {
        let asked = self.open.get(&sequence).and_then(|open| open.asked);
        if let Some(asked) = asked {
            self.ask(sequence, Some(asked.owner), cx);
        }
    }

    /// Ends a request without a source: it has timed out, or no owner can be asked.
    fn give_up(&mut self, sequence: u64, cx: &mut Context<'_, impl View>) {
        if let Some(open) = self.close(cx.now, sequence, WaitEnd::InVain) {
            withdraw(&open, cx);
            let id = RequestId(sequence);
            match open.query {
                Query::Source(request) => self.completed.push(CompletedRequest {
                    id,
                    number: open.number,
                    request: *request,
                    by: None,
                    asked: open.all_asked,
                    decision: Decision::Alone,
                    refundable: Duration::ZERO,
                    is_second_lead: false,
                }),
                Query::Holders(_) => self.found.push((id, Vec::new())),
            }
        }
    }

    pub fn next_deadline(&self) -> Option<Time> {
        let costs = self.waits_free.then(|| self.ledger.waits_free_until());
        let due = self.open.values().map(PendingRequest::due);
        due.chain(costs.flatten()).min()
    }

    pub fn tick(&mut self, cx: &mut Context<'_, impl View>) {
        let due = self.open.values().filter(|open| open.due() <= cx.now);
        let repositories = due.filter_map(PendingRequest::repository);
        for repository in repositories.collect::<BTreeSet<_>>() {
            self.settle(cx.now, repository);
        }
        // A charge may have made other requests of the same pull due.
        for sequence in self.sequences(|open| open.due() <= cx.now) {
            let Some(open) = self.open.get_mut(&sequence) else {
                continue;
            };
            let is_late = open.late_at().is_some_and(|at| at <= cx.now);
            open.lead_is_late |= is_late;
            match open.asked {
                _ if open.deadline <= cx.now => self.give_up(sequence, cx),
                Some(asked) if asked.silent_at() <= cx.now => {
                    self.is_silent(sequence, asked.owner, cx);
                }
                Some(asked) if is_late || open.due() <= cx.now => {
                    self.ask(sequence, Some(asked.owner), cx);
                }
                _ => {}
            }
        }
    }

    /// Whether a request rather waits for the leader of the manifest than leads beside it.
    fn can_wait(&self, now: Time, sequence: u64) -> bool {
        let Some(Query::Source(request)) = self.open.get(&sequence).map(|open| &open.query) else {
            return false;
        };
        request.leads_at_once
            && (self.ledger.waits_free(now) || request.requeue_after_ms > 0)
            && (self.mirror_pulls || !self.fills_link(now, request.registry))
    }

    /// Whether a registry gives a node what its link carries. Then its uplink is probably wider, and nodes lead at once.
    pub fn fills_link(&self, now: Time, registry: u64) -> bool {
        let known = self.registries.get(now, registry);
        self.bandwidth.is_some_and(|link| known.fills(link))
    }

    /// Tells the owners of pending requests if these begin to wait for the leader of the manifest, or cease to.
    pub fn tell_can_wait(&mut self, cx: &mut Context<'_, impl View>) {
        self.waits_free = self.ledger.waits_free(cx.now);
        let open = self.open.iter();
        let is_news =
            open.filter(|(sequence, open)| open.can_wait != self.can_wait(cx.now, **sequence));
        for sequence in is_news.map(|(sequence, _)| *sequence).collect::<Vec<_>>() {
            self.repeat(sequence, cx);
        }
    }

    /// Sends the requests that waited for this node to join.
    pub fn joined(&mut self, cx: &mut Context<'_, impl View>) {
        for sequence in self.sequences(|open| open.asked.is_none()) {
            self.ask(sequence, None, cx);
        }
    }

    /// Starts the leader cooldown, and tells the owners of pending requests of the same repository.
    pub fn start_leader_cooldown(&mut self, repository: u64, cx: &mut Context<'_, impl View>) {
        self.ledger.start_leader_cooldown(cx.now, repository);
        self.repeat_all(|open| open.repository() == Some(repository), cx);
    }

    /// Tells the owners of pending requests that this registry gives this node far less than others.
    pub fn path_is_slow(&mut self, registry: u64, cx: &mut Context<'_, impl View>) {
        self.repeat_all(|open| open.is_of(registry), cx);
    }

    /// Sends these requests to their owners again, with what this node says now.
    fn repeat_all(
        &mut self,
        which: impl Fn(&PendingRequest) -> bool,
        cx: &mut Context<'_, impl View>,
    ) {
        for sequence in self.sequences(which) {
            self.repeat(sequence, cx);
        }
    }

    /// Records that this node fetches a large object for its shard, and tells the owners of its other requests.
    fn set_fetcher(&mut self, sequence: u64, cx: &mut Context<'_, impl View>) {
        let Some(Query::Source(request)) = self.open.get(&sequence).map(|open| &open.query) else {
            return;
        };
        let is_large = request.size.is_some_and(|size| size > SMALL_OBJECT);
        if cx.view.shard_count() == 1 || self.fetches.is_some() || !is_large {
            return;
        }
        self.fetches = Some(request.key());
        self.repeat_all(|open| open.number.sequence != sequence, cx);
    }

    /// Forgets what this node fetched for its shard, if neither a request nor a pull (`is_pulled`) of it goes on.
    pub fn check_fetcher(&mut self, is_pulled: impl Fn(&Key) -> bool) {
        let open = &self.open;
        self.fetches.take_if(|key| {
            let mut queries = open.values().map(|open| &open.query);
            !is_pulled(key) && !queries.any(|query| query.key() == *key)
        });
    }

    /// Learns the rates that another node knows of a registry, and sends it what it does not know.
    pub fn exchange_rate(
        &mut self,
        from: NodeId,
        (registry, theirs): (u64, Option<KnownRate>),
        cx: &mut Context<'_, impl View>,
    ) {
        let theirs = theirs.unwrap_or_default();
        self.registries.learn(cx.now, registry, theirs);
        let known = self.registries.get(cx.now, registry);
        if known.is_news_for(theirs) && from != cx.view.me() {
            let message = RegistryRate {
                registry,
                known_rate: Some(known),
            };
            cx.out.send(from, Message::RegistryRate(message));
        }
    }

    fn sequences(&self, which: impl Fn(&PendingRequest) -> bool) -> Vec<u64> {
        let open = self.open.iter().filter(|(_, open)| which(open));
        open.map(|(sequence, _)| *sequence).collect()
    }

    /// Whether this node awaits an answer of that node.
    pub fn has_asked(&self, node: &NodeId) -> bool {
        let mut open = self.open.values();
        open.any(|open| open.all_asked.contains(node))
    }

    /// The open request with this number that was sent to `from`.
    fn asked_of(&mut self, from: &NodeId, number: u64) -> Option<&mut PendingRequest> {
        let mut open = self.open.values_mut();
        open.find(|open| open.number.random == number && open.all_asked.contains(from))
    }
}
