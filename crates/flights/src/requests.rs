//! The requests of this node to owners, until they are answered or their time is up.

mod answers;
mod pending;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::arbiter::SMALL_OBJECT;
use crate::ledger::Ledger;
use crate::outbox::Context;
use crate::random::mix;
use crate::slots::Slot;
use crate::speed::RegistryRates;
use crate::view::View;
use crate::wire::{FindHolders, Message, RegistryRate, SourceRequest, key_field, node_field};
use crate::{Decision, Key, NodeId, Time};
pub(crate) use pending::AskedOwner;
use pending::{Lead, PendingRequest, Query, withdraw};

/// An owner tells waiting nodes at least this often that their answer will come.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(500);
/// Waiting is free for this long, if the request ends with a source.
const GRACE: Duration = Duration::from_millis(250);
/// The most that a request waits, whatever the node receives meanwhile.
const MAX_WAIT: Duration = Duration::from_secs(15);
/// The limit of a lookup.
const FIND_LIMIT: Duration = Duration::from_millis(900);
/// The most redirects of a request, where owners disagree which of them is the arbiter.
const MAX_REDIRECTS: u8 = 3;
/// The most pending requests. A node pulls a dozen objects at the same time.
const MAX_OPEN: usize = 4_096;

/// Whether a request is earlier than another one of the same process. The upper half of a number identifies the
/// process, the lower half counts.
pub(crate) fn is_earlier(number: u64, than: u64) -> bool {
    number >> 32 == than >> 32 && number < than
}

/// Identifies a request of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(crate) u64);

/// A request for a source that has its decision.
#[derive(Debug)]
pub(crate) struct CompletedRequest {
    pub id: RequestId,
    /// The number under which it was last sent.
    pub number: u64,
    pub request: SourceRequest,
    /// The owner that answered, if one did.
    pub by: Option<NodeId>,
    pub decision: Decision,
    /// Where this node leads: another one does already.
    pub is_second_lead: bool,
}

#[derive(Debug, Default)]
pub(crate) struct SourceRequests {
    open: BTreeMap<u64, PendingRequest>,
    last: u64,
    pub ledger: Ledger,
    pub registries: RegistryRates,
    /// Whether this node counts as slow.
    pub is_slow: bool,
    /// The large object that this node fetches for its shard.
    fetches: Option<Key>,
    /// This node leads.
    pub leads: bool,
    completed: Vec<CompletedRequest>,
    /// The answers to lookups.
    found: Vec<(RequestId, Vec<NodeId>)>,
}

impl SourceRequests {
    /// Seeds the numbers, so that they differ from those of an earlier process.
    pub fn seed(&mut self, seed: u64) {
        self.last = mix(seed) << 32;
    }

    pub fn request_source(
        &mut self,
        request: SourceRequest,
        cx: &mut Context<'_, impl View>,
    ) -> RequestId {
        let repository = request.repository;
        self.settle(cx.now, repository);
        let has_time = !self.ledger.left(repository, Duration::ZERO).is_zero();
        let number = self.open(cx.now, Query::Source(request.into()), cx.now);
        self.settle(cx.now, repository);
        self.begin(number, has_time, cx)
    }

    pub fn find_holders(&mut self, key: Key, cx: &mut Context<'_, impl View>) -> RequestId {
        let number = self.open(cx.now, Query::Holders(key), cx.now.after(FIND_LIMIT));
        self.begin(number, true, cx)
    }

    fn open(&mut self, now: Time, query: Query, deadline: Time) -> u64 {
        self.last = self.last.wrapping_add(1);
        let number = self.last;
        let in_vain_before = match &query {
            Query::Source(request) => self.ledger.in_vain(request.repository),
            Query::Holders(_) => Duration::ZERO,
        };
        let open = PendingRequest {
            id: RequestId(number),
            query,
            started: now,
            in_vain_before,
            waited: Duration::ZERO,
            deadline,
            asked: None,
            lead: None,
            redirects: 0,
            silent: Vec::new(),
        };
        self.open.insert(number, open);
        number
    }

    fn begin(&mut self, number: u64, has_time: bool, cx: &mut Context<'_, impl View>) -> RequestId {
        if has_time && self.open.len() <= MAX_OPEN {
            self.ask(number, None, cx);
        } else {
            self.give_up(number, cx);
        }
        RequestId(number)
    }

    /// Cancels a request. Returns whether it was pending.
    pub fn cancel(&mut self, id: RequestId, cx: &mut Context<'_, impl View>) -> bool {
        let Some(number) = self.numbers(|open| open.id == id).pop() else {
            return false;
        };
        if let Some(open) = self.close(cx.now, number, false) {
            withdraw(&open, number, cx);
        }
        true
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn take_completed(&mut self) -> Vec<CompletedRequest> {
        std::mem::take(&mut self.completed)
    }

    /// The holders found by lookups.
    pub fn take_found(&mut self) -> Vec<(RequestId, Vec<NodeId>)> {
        std::mem::take(&mut self.found)
    }

    /// Sends a request to `to`, or to the first owner that is not silent. Gives up if there is none.
    fn ask(&mut self, number: u64, to: Option<NodeId>, cx: &mut Context<'_, impl View>) {
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        if !cx.view.has_joined() {
            // It is sent once this node has joined.
            return;
        }
        let owners = cx.view.own_owners(Slot::of(&open.query.key().0));
        let to = to.or_else(|| owners.iter().find(|o| !open.silent.contains(o)).copied());
        let Some(to) = to else {
            self.give_up(number, cx);
            return;
        };
        match &mut open.asked {
            Some(asked) if asked.owner == to => asked.repeat(),
            asked => *asked = Some(AskedOwner::new(cx.now, to)),
        }
        let message = match &open.query {
            Query::Holders(key) => {
                let key = key_field(*key);
                Message::FindHolders(FindHolders {
                    key,
                    number,
                    shards_asked: 0,
                })
            }
            Query::Source(request) => Message::SourceRequest(SourceRequest {
                number,
                leader_cooldown: self.ledger.in_leader_cooldown(cx.now, request.repository),
                is_slow: self.is_slow,
                silent_owner: node_field(open.silent.last().copied()),
                registry_rate: self.registries.get(cx.now, request.registry),
                is_fetcher: self.fetches.is_some_and(|key| key != request.key()),
                leads: self.leads,
                ..(**request).clone()
            }),
        };
        cx.out.send(to, message);
    }

    fn give_up(&mut self, number: u64, cx: &mut Context<'_, impl View>) {
        if let Some(open) = self.close(cx.now, number, false) {
            withdraw(&open, number, cx);
            match open.query {
                Query::Source(request) => {
                    let (id, decision) = (open.id, Decision::Alone);
                    self.complete(number, (id, *request), decision);
                }
                Query::Holders(_) => self.found.push((open.id, Vec::new())),
            }
        }
    }

    fn complete(
        &mut self,
        number: u64,
        (id, request): (RequestId, SourceRequest),
        decision: Decision,
    ) {
        self.completed.push(CompletedRequest {
            id,
            number,
            request,
            by: None,
            decision,
            is_second_lead: false,
        });
    }

    pub fn next_deadline(&self) -> Option<Time> {
        self.open.values().map(PendingRequest::due).min()
    }

    pub fn tick(&mut self, cx: &mut Context<'_, impl View>) {
        let due = self.numbers(|open| open.due() <= cx.now);
        let repositories = due
            .iter()
            .filter_map(|number| self.open.get(number)?.repository());
        for repository in repositories.collect::<BTreeSet<_>>() {
            self.settle(cx.now, repository);
        }
        for number in due {
            let Some(open) = self.open.get(&number) else {
                continue;
            };
            match open.asked {
                _ if open.deadline <= cx.now => self.give_up(number, cx),
                Some(asked) if asked.silent_at() <= cx.now => {
                    self.is_silent(number, asked.owner, cx);
                }
                Some(asked) if open.due() <= cx.now => self.ask(number, Some(asked.owner), cx),
                _ => {}
            }
        }
    }

    /// Sends the requests that waited for this node to join.
    pub fn joined(&mut self, cx: &mut Context<'_, impl View>) {
        for number in self.numbers(|open| open.asked.is_none()) {
            self.ask(number, None, cx);
        }
    }

    /// Starts the leader cooldown, and tells the owners of pending requests of the same repository.
    pub fn start_leader_cooldown(&mut self, repository: u64, cx: &mut Context<'_, impl View>) {
        self.ledger.start_leader_cooldown(cx.now, repository);
        for number in self.numbers(|open| open.repository() == Some(repository)) {
            let asked = self.open.get(&number).and_then(|open| open.asked);
            if let Some(asked) = asked {
                self.ask(number, Some(asked.owner), cx);
            }
        }
    }

    /// Records that this node fetches a large object for its shard, and tells the owners of its other requests.
    fn set_fetcher(&mut self, number: u64, cx: &mut Context<'_, impl View>) {
        let Some(Query::Source(request)) = self.open.get(&number).map(|open| &open.query) else {
            return;
        };
        let is_large = request.size.is_some_and(|size| size > SMALL_OBJECT);
        if cx.view.shard_count() == 1 || self.fetches.is_some() || !is_large {
            return;
        }
        self.fetches = Some(request.key());
        for other in self.numbers(|open| open.id.0 != number) {
            let asked = self.open.get(&other).and_then(|open| open.asked);
            if let Some(asked) = asked {
                self.ask(other, Some(asked.owner), cx);
            }
        }
    }

    /// Forgets what this node fetched for its shard, if neither a request nor a pull (`is_pulled`) of it goes on.
    pub fn check_fetcher(&mut self, is_pulled: impl Fn(&Key) -> bool) {
        let open = &self.open;
        self.fetches.take_if(|key| {
            let mut queries = open.values().map(|open| &open.query);
            !is_pulled(key) && !queries.any(|query| query.key() == *key)
        });
    }

    /// Learns what another node knows of a registry, and tells it what it does not know.
    pub fn exchange_rate(
        &mut self,
        from: NodeId,
        request: &SourceRequest,
        cx: &mut Context<'_, impl View>,
    ) {
        let (registry, theirs) = (request.registry, request.registry_rate);
        self.registries.learn(cx.now, registry, theirs);
        let rate = self.registries.get(cx.now, registry);
        if rate / 4 * 3 > theirs && from != cx.view.me() {
            let message = RegistryRate { registry, rate };
            cx.out.send(from, Message::RegistryRate(message));
        }
    }

    /// Records what this node receives in all, in bytes per second.
    pub fn observe(&mut self, now: Time, intake: u64) {
        let waiting = self.open.values().filter_map(PendingRequest::repository);
        for repository in waiting.collect::<BTreeSet<_>>() {
            self.settle(now, repository);
        }
        self.ledger.observe(now, intake);
    }

    /// Charges what a pull has lost elsewhere.
    pub fn charge(&mut self, now: Time, repository: u64, lost: Duration) {
        self.settle(now, repository);
        self.ledger.charge(now, repository, lost);
        self.settle(now, repository);
    }

    /// Charges what the requests of a pull have waited, and updates their deadlines.
    fn settle(&mut self, now: Time, repository: u64) {
        let Self { open, ledger, .. } = self;
        ledger.touch(now, repository);
        let waits = |open: &&mut PendingRequest| open.repository() == Some(repository);
        let waiting = open.values_mut().filter(waits);
        let since = waiting.map(|open| open.free_until()).min();
        let charged_since = ledger.settle(now, repository, since);
        for open in open.values_mut().filter(waits) {
            if let Some(since) = charged_since {
                open.waited += now.since(since.max(open.free_until()));
            }
            let left = ledger.left(repository, open.waited);
            let latest = open.started.after(MAX_WAIT).max(now);
            open.deadline = now.max(open.free_until()).after(left).min(latest);
        }
    }

    /// Removes a request. `succeeded`: a source was found, or the request will be repeated.
    fn close(&mut self, now: Time, number: u64, succeeded: bool) -> Option<PendingRequest> {
        let Some(repository) = self.open.get(&number)?.repository() else {
            return self.open.remove(&number);
        };
        self.settle(now, repository);
        let open = self.open.remove(&number)?;
        if succeeded {
            // Upstream would have been no faster.
            let free = match open.lead {
                Some(_) => self.ledger.first_byte(open.registry()),
                None => GRACE,
            };
            self.ledger.refund(repository, open.waited.min(free));
        } else {
            let (before, waited) = (open.in_vain_before, open.waited);
            self.ledger.charge_in_vain(repository, before, waited);
        }
        if open.lead.is_some() {
            self.ledger.record_lead(repository, succeeded);
        }
        self.settle(now, repository);
        Some(open)
    }

    /// Records the leader that a request waits for.
    fn set_awaited_lead(&mut self, now: Time, number: u64, node: Option<NodeId>) {
        let Some(open) = self.open.get(&number) else {
            return;
        };
        let (Some(repository), registry) = (open.repository(), open.registry()) else {
            return;
        };
        if open.lead.map(|lead| lead.node) == node {
            return;
        }
        let has_failed = open.lead.is_some();
        self.settle(now, repository);
        if has_failed {
            self.ledger.record_lead(repository, false);
        }
        let free = self.ledger.free_wait(repository, registry);
        if let Some(open) = self.open.get_mut(&number) {
            let free_until = open.started.after(free);
            open.lead = node.map(|node| Lead { node, free_until });
        }
        self.settle(now, repository);
    }

    fn numbers(&self, which: impl Fn(&PendingRequest) -> bool) -> Vec<u64> {
        let open = self.open.iter().filter(|(_, open)| which(open));
        open.map(|(number, _)| *number).collect()
    }
}
