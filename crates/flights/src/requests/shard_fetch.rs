//! Defers requests while this node fetches a large object for its shard.
//!
//! A shard's fetcher sends two copies of the object: one into its shard and one to the next fetcher. Relaying two more
//! layers would need 4/3 of its uplink, and every node downstream would receive a third less. So its other large
//! requests are deferred and join their chains last, one at a time, when hardly any node is left to relay to. It
//! fetches nothing else for its shard meanwhile, unless no other node asks for that object for long.

use std::time::Duration;

use super::SourceRequests;
use super::pending::{PendingRequest, Query, withdraw};
use crate::outbox::Context;
use crate::view::View;
use crate::{Decision, Key, NodeId, Time};

/// The first other request is deferred for this long: by then all other nodes have a position.
const OTHERS_DELAY: Duration = Duration::from_secs(2);
/// No request is deferred for longer than this after the fetch began.
const OTHERS_DELAY_MAX: Duration = Duration::from_secs(12);
/// The interval between checks of deferred requests.
const RECHECK: Duration = Duration::from_millis(500);

/// The large objects that a node receives.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActivePulls {
    pub large: usize,
    /// Those that it fetches for its shard and that have not stalled.
    pub shard_fetches: Vec<Key>,
    /// An upper bound of the nodes downstream, summed over all of them.
    pub downstream: u32,
}

/// A large object that a node fetches for its shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShardFetch {
    pub key: Key,
    pub since: Time,
}

impl SourceRequests {
    /// Updates what this node receives.
    pub fn set_active_pulls(&mut self, active_pulls: ActivePulls, cx: &mut Context<'_, impl View>) {
        let goes_on = |shard_fetch: &ShardFetch| {
            let asks =
                |open: &PendingRequest| open.is_for_shard && open.query.key() == shard_fetch.key;
            active_pulls.shard_fetches.contains(&shard_fetch.key) || self.open.values().any(asks)
        };
        let first = active_pulls.shard_fetches.first();
        let first = first.map(|key| ShardFetch {
            key: *key,
            since: cx.now,
        });
        self.shard_fetch = self.shard_fetch.filter(goes_on).or(first);
        self.active_pulls = active_pulls;
        for number in self.numbers(|open| open.deferred_until.is_some()) {
            self.recheck_deferred(number, cx);
        }
    }

    /// Handles a redirect from `from` to `to`. If the node is to fetch a large object for its shard, its other requests
    /// are deferred from now on. Returns whether the request goes on: the node may already fetch another object.
    pub(super) fn accept_shard_redirect(
        &mut self,
        number: u64,
        (from, to): (NodeId, NodeId),
        cx: &mut Context<'_, impl View>,
    ) -> bool {
        let Some(open) = self.open.get_mut(&number) else {
            return true;
        };
        let key = open.query.key();
        let is_for_all = !cx.view.is_in_my_shard(&to) && cx.view.arbiter(&key) == Some(from);
        if !is_for_all || !open.query.is_large() {
            return true;
        }
        let shard_fetch = *self
            .shard_fetch
            .get_or_insert(ShardFetch { key, since: cx.now });
        if shard_fetch.key != key {
            open.declined_for_shard = true;
            if self.defer(number, cx) {
                return false;
            }
        }
        if let Some(open) = self.open.get_mut(&number) {
            open.is_for_shard = true;
        }
        let is_other = |open: &PendingRequest| open.asked.is_some() && !open.is_for_shard;
        for other in self.numbers(is_other) {
            self.defer(other, cx);
        }
        true
    }

    /// Defers a request if it should be. Returns whether it is deferred.
    pub(super) fn defer(&mut self, number: u64, cx: &mut Context<'_, impl View>) -> bool {
        let Some(open) = self.open.get(&number) else {
            return false;
        };
        let Some(until) = self.defer_limit(open).filter(|until| *until > cx.now) else {
            return false;
        };
        if let Some(repository) = open.repository() {
            self.settle(cx.now, repository);
        }
        let Some(mut open) = self.open.remove(&number) else {
            return false;
        };
        withdraw(&open, number, cx);
        let wait = open.requeue_after().unwrap_or(RECHECK);
        open.deferred_until = Some(until.min(cx.now.after(wait)));
        (open.asked, open.heard_at, open.lead, open.redirects) = (None, None, None, 0);
        open.silent.clear();
        // A withdrawn request has no answer: it is sent again under another number.
        let number = self.number();
        self.open.insert(number, open);
        true
    }

    /// Until when a request should be deferred.
    fn defer_limit(&self, open: &PendingRequest) -> Option<Time> {
        let Query::Source(request) = &open.query else {
            return None;
        };
        let shard_fetch = self
            .shard_fetch
            .filter(|shard_fetch| shard_fetch.key != request.key())?;
        // A pull that has begun goes on: others may wait for it downstream.
        if !request.is_large() || request.offset > 0 {
            return None;
        }
        let is_other = |open: &&PendingRequest| {
            let key = open.query.key();
            open.asked.is_some()
                && open.query.is_large()
                && key != request.key()
                && key != shard_fetch.key
        };
        let asked = self.open.values().filter(is_other).count();
        let shard_fetches = usize::from(self.active_pulls.shard_fetches.contains(&shard_fetch.key));
        let others = asked + self.active_pulls.large.saturating_sub(shard_fetches);
        let wait = if others > 0 || open.declined_for_shard {
            OTHERS_DELAY_MAX
        } else {
            OTHERS_DELAY
        };
        Some(shard_fetch.since.after(wait))
    }

    /// Sends a deferred request if it is time.
    pub(super) fn recheck_deferred(&mut self, number: u64, cx: &mut Context<'_, impl View>) {
        let Some(open) = self.open.get(&number) else {
            return;
        };
        let until = self.defer_limit(open).filter(|until| *until > cx.now);
        let is_due = open
            .deferred_until
            .is_some_and(|deferred_until| deferred_until <= cx.now);
        let is_requeued = is_due && open.requeue_after().is_some();
        match until {
            Some(_) if is_requeued => {
                let open = self.open.remove(&number);
                if let Some((id, Query::Source(request))) = open.map(|open| (open.id, open.query)) {
                    self.complete(number, (id, *request), Decision::Later);
                }
            }
            Some(until) if is_due => {
                if let Some(open) = self.open.get_mut(&number) {
                    open.deferred_until = Some(until.min(cx.now.after(RECHECK)));
                }
            }
            Some(_) => {}
            None => {
                if let Some(open) = self.open.get_mut(&number) {
                    (open.deferred_until, open.started) = (None, cx.now);
                    if let Some(repository) = open.repository() {
                        self.settle(cx.now, repository);
                    }
                }
                self.ask(number, None, cx);
            }
        }
    }
}
