//! The pulls of this node, and the reports to arbiters about them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ledger::Ledger;
use crate::outbox::Context;
use crate::pull_rules::STEP;
use crate::requests::{CompletedRequest, HEARTBEAT, RequestId, SourceRequests};
use crate::slots::Slot;
use crate::view::View;
use crate::wire::{Alive, KnownRate, Message, PullState, RequestNumber, SourceRequest, node_field};
use crate::{Decision, Key, NodeId, Time};

/// The interval between reports of a follower. A leader reports every [`HEARTBEAT`].
const FOLLOWER_HEARTBEAT: Duration = Duration::from_secs(30);
/// The most pulls at once.
const MAX_PULLS: usize = 4_096;
/// A mirror that pulls an object from upstream has its first bytes within this time, or leaves it to containerd.
const MIRROR_BEGINS_WITHIN: Duration = Duration::from_secs(2);
/// A pull is dropped after this long without a report of the mirror.
const PULL_EXPIRY: Duration = Duration::from_secs(2 * 3600);

/// The progress of a pull, as the mirror reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullProgress {
    /// The first bytes are here and can be served. Repeated while more arrive.
    Begun {
        /// Bytes of the whole object.
        size: u64,
    },
    /// The mirror cannot fetch the object that it leads: its client does.
    LeftToClient,
    /// The object is complete here.
    Done,
    /// The pull ended or stalled before it was complete.
    Failed,
    /// The object is complete, but its digest does not match.
    Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PullRole {
    Lead,
    Alone,
    Follow(NodeId),
}

#[derive(Debug)]
struct Pull {
    role: PullRole,
    request: RequestId,
    /// The number of the request that the pull results from.
    number: RequestNumber,
    /// The owners that this request was sent to.
    asked: BTreeSet<NodeId>,
    repository: u64,
    registry: u64,
    since: Time,
    size: Option<u64>,
    /// The part of the wait for the source that is refunded once it sends bytes.
    refundable: Option<Duration>,
    /// Another node leads already.
    is_second: bool,
    /// The mirror pulls it from upstream, in the slot in which containerd asked.
    is_through_mirror: bool,
    heartbeat_at: Time,
    /// The arbiter that was last reported to.
    reported_to: Option<NodeId>,
}

#[derive(Debug, Default)]
pub(crate) struct Pulls {
    pulls: BTreeMap<Key, Pull>,
}

impl Pulls {
    /// Starts a pull: a request for a source has its decision.
    pub fn begin(&mut self, completed: &CompletedRequest, cx: &mut Context<'_, impl View>) {
        let role = match &completed.decision {
            Decision::Lead => PullRole::Lead,
            Decision::Alone => PullRole::Alone,
            Decision::Follow { source, .. } => PullRole::Follow(*source),
            Decision::Later => return,
        };
        let (key, request) = (completed.request.key(), &completed.request);
        // Bytes of an earlier source do not show that upstream sends any.
        let before = self.pulls.get(&key);
        let before = before.filter(|_| matches!(role, PullRole::Follow(_)));
        let size = before.and_then(|pull| pull.size);
        if self.pulls.len() >= MAX_PULLS && !self.pulls.contains_key(&key) {
            return;
        }
        let mut pull = Pull {
            role,
            request: completed.id,
            number: completed.number,
            asked: completed.asked.clone(),
            repository: request.repository,
            registry: request.registry,
            since: cx.now,
            size,
            refundable: matches!(role, PullRole::Follow(_)).then_some(completed.refundable),
            is_second: completed.is_second_lead,
            is_through_mirror: request.leads_at_once && !matches!(role, PullRole::Follow(_)),
            heartbeat_at: cx.now.after(heartbeat_interval(role)),
            reported_to: completed.by,
        };
        // The arbiter learns at once that the lead is taken.
        if role == PullRole::Lead {
            pull.report_state(key, cx);
        }
        self.pulls.insert(key, pull);
    }

    /// Handles a granted lead that no request waits for any more. Returns whether this node pulls from upstream anyway.
    ///
    /// A grant by a node that was not asked under this number is ignored.
    pub fn promote(
        &mut self,
        from: &NodeId,
        (key, number): (Key, u64),
        cx: &mut Context<'_, impl View>,
    ) -> bool {
        let pull = self.pulls.get_mut(&key);
        let pull = pull.filter(|pull| pull.number.random == number && pull.asked.contains(from));
        match pull {
            Some(pull) if matches!(pull.role, PullRole::Lead | PullRole::Alone) => {
                pull.role = PullRole::Lead;
                pull.report_state(key, cx);
                true
            }
            _ => false,
        }
    }

    /// Whether this node leads.
    pub fn leads(&self) -> bool {
        self.pulls.values().any(|pull| pull.role == PullRole::Lead)
    }

    /// Whether the mirror pulls an object from upstream. If no byte has come in time, it may have failed.
    pub fn mirror_pulls(&self, now: Time) -> bool {
        let mut pulls = self.pulls.values();
        pulls.any(|pull| pull.is_through_mirror && (pull.is_new(now) || pull.size.is_some()))
    }

    /// Whether the mirror has just begun to pull an object from upstream.
    pub fn mirror_begins(&self, now: Time) -> bool {
        let mut pulls = self.pulls.values();
        pulls.any(|pull| pull.is_through_mirror && pull.is_new(now))
    }

    /// Whether bytes of a pull in progress have come.
    pub fn have_begun(&self) -> bool {
        self.pulls.values().any(|pull| pull.size.is_some())
    }

    /// Whether the source of a pull has sent nothing, and this request is for another one. That a source was busy does not
    /// count.
    pub fn has_lost_source(&self, request: &SourceRequest) -> bool {
        let is_busy = |node: &NodeId| request.busy_sources().any(|busy| busy == *node);
        self.pulls.get(&request.key()).is_some_and(|pull| {
            let was_busy = matches!(&pull.role, PullRole::Follow(source) if is_busy(source));
            pull.refundable.is_some() && !was_busy
        })
    }

    /// Whether this node pulls an object.
    pub fn contains(&self, key: &Key) -> bool {
        self.pulls.contains_key(key)
    }

    /// Whether the pull of this key results from this request.
    pub fn is_of_request(&self, key: &Key, number: u64) -> bool {
        self.pulls
            .get(key)
            .is_some_and(|pull| pull.number.random == number)
    }

    /// Drops the pull of a request whose decision is not used.
    pub fn decline(&mut self, request: RequestId, cx: &mut Context<'_, impl View>) {
        let mut pulls = self.pulls.iter();
        let declined = pulls.find(|(_, pull)| pull.request == request && pull.size.is_none());
        let key = declined.map(|(key, _)| *key);
        if let Some((key, pull)) = key.and_then(|key| self.pulls.remove_entry(&key))
            && let Some(arbiter) = cx.view.arbiter(&key)
        {
            cx.out
                .send(arbiter, Message::withdraw(key, pull.number.random));
        }
    }

    /// Reports progress to the arbiter. Returns the repository if this node pulled from upstream and failed.
    pub fn report(
        &mut self,
        key: Key,
        progress: PullProgress,
        ledger: &mut Ledger,
        cx: &mut Context<'_, impl View>,
    ) -> Option<u64> {
        let pull = self.pulls.get_mut(&key)?;
        let has_begun = pull.size.is_some();
        if matches!(progress, PullProgress::Begun { .. } | PullProgress::Done)
            && let Some(refundable) = pull.refundable.take()
        {
            ledger.refund(pull.repository, refundable);
        }
        let state = match progress {
            PullProgress::LeftToClient => {
                pull.is_through_mirror = false;
                return None;
            }
            PullProgress::Begun { size } => {
                pull.size = Some(size);
                if has_begun {
                    // The next heartbeats report it.
                    return None;
                }
                if !matches!(pull.role, PullRole::Follow(_)) {
                    ledger.record_upstream(pull.repository, true);
                }
                if pull.role == PullRole::Lead && size >= STEP {
                    ledger.learn_first_byte(pull.registry, cx.now.since(pull.since));
                }
                pull.state(false, KnownRate::default())
            }
            PullProgress::Done => PullState::Done(true),
            PullProgress::Failed => PullState::Failed(true),
            PullProgress::Wrong => PullState::WrongDigest(true),
        };
        pull.heartbeat_at = cx.now.after(heartbeat_interval(pull.role));
        pull.report(key, state, cx);
        if matches!(progress, PullProgress::Begun { .. }) {
            return None;
        }
        let pull = self.pulls.remove(&key)?;
        let has_failed =
            progress != PullProgress::Done && !matches!(pull.role, PullRole::Follow(_));
        has_failed.then(|| {
            ledger.record_upstream(pull.repository, has_begun);
            pull.repository
        })
    }

    /// Reports all pulls in these slots (one bit each) to their new arbiter.
    pub fn owners_changed(&mut self, slots: u64, cx: &mut Context<'_, impl View>) {
        for (key, pull) in &mut self.pulls {
            if slots >> Slot::of(&key.0).index() & 1 == 1 {
                pull.report_state(*key, cx);
            }
        }
    }

    /// Tells the arbiters that this node is slow: in all pulls, or in one.
    pub fn report_slow(&mut self, only: Option<Key>, cx: &mut Context<'_, impl View>) {
        for (key, pull) in &mut self.pulls {
            if only.is_none_or(|only| only == *key) {
                pull.report_state_as(*key, (true, KnownRate::default()), cx);
            }
        }
    }

    /// The objects that this node has begun to lead from a registry, the largest first.
    pub fn led_from(&self, registry: u64) -> Vec<Key> {
        let led = self
            .pulls
            .iter()
            .filter(|(_, pull)| pull.leads_from(registry));
        let mut begun: Vec<_> = led
            .filter_map(|(key, pull)| Some((pull.size?, pull.since, *key)))
            .collect();
        begun.sort_unstable_by(|a, b| b.cmp(a));
        begun.into_iter().map(|(_, _, key)| key).collect()
    }

    /// The registries of the objects that this node receives from others.
    pub fn followed_registries(&self) -> impl Iterator<Item = u64> {
        let follows = |pull: &&Pull| matches!(pull.role, PullRole::Follow(_));
        self.pulls
            .values()
            .filter(follows)
            .map(|pull| pull.registry)
    }

    /// Whether this node reports any pull to an arbiter.
    pub fn are_reported_to(&self, arbiter: &NodeId) -> bool {
        let mut pulls = self.pulls.values();
        pulls.any(|pull| pull.reported_to.as_ref() == Some(arbiter))
    }

    /// Whether the mirror fetches what this node leads from a registry.
    pub fn lead_through_mirror(&self, registry: u64) -> bool {
        let mut pulls = self.pulls.values();
        pulls.any(|pull| pull.is_through_mirror && pull.leads_from(registry))
    }

    /// Whether this node leads from a registry beside another leader.
    pub fn leads_beside_another(&self, registry: u64) -> bool {
        let mut pulls = self.pulls.values();
        pulls.any(|pull| pull.is_second && pull.leads_from(registry))
    }

    /// Reports pulls to the next arbiter: this one cannot be reached.
    pub fn undelivered(&mut self, to: NodeId, cx: &mut Context<'_, impl View>) {
        for (key, pull) in &mut self.pulls {
            if pull.reported_to == Some(to) && cx.view.arbiter(key) != Some(to) {
                pull.report_state(*key, cx);
            }
        }
    }

    pub fn next_deadline(&self) -> Option<Time> {
        self.pulls.values().map(|pull| pull.heartbeat_at).min()
    }

    pub fn tick(&mut self, requests: &mut SourceRequests, cx: &mut Context<'_, impl View>) {
        self.pulls
            .retain(|_, pull| cx.now.since(pull.since) < PULL_EXPIRY);
        for (key, pull) in &mut self.pulls {
            if pull.heartbeat_at <= cx.now {
                pull.heartbeat_at = cx.now.after(heartbeat_interval(pull.role));
                let rate = requests.registries.get(cx.now, pull.registry);
                pull.report_state_as(*key, (requests.is_slow, rate), cx);
                // The pull of an image lasts while its objects are pulled.
                requests.ledger.touch(cx.now, pull.repository);
            }
        }
    }
}

impl Pull {
    fn leads_from(&self, registry: u64) -> bool {
        self.role == PullRole::Lead && self.registry == registry
    }

    fn is_new(&self, now: Time) -> bool {
        now.since(self.since) < MIRROR_BEGINS_WITHIN
    }

    /// The state of a pull in progress. `is_slow`: this node counts as slow, or upstream gives it far less than other
    /// nodes. `known`: what the registry gives a node, if this one leads.
    fn state(&self, is_slow: bool, known: KnownRate) -> PullState {
        let source = match self.role {
            PullRole::Lead | PullRole::Alone => None,
            PullRole::Follow(source) => Some(source),
        };
        PullState::Alive(Alive {
            size: self.size,
            source: node_field(source),
            is_slow,
            registry: if source.is_none() { self.registry } else { 0 },
            known_rate: Some(known),
        })
    }

    fn report_state(&mut self, key: Key, cx: &mut Context<'_, impl View>) {
        self.report_state_as(key, (false, KnownRate::default()), cx);
    }

    fn report_state_as(
        &mut self,
        key: Key,
        (is_slow, known): (bool, KnownRate),
        cx: &mut Context<'_, impl View>,
    ) {
        // A node that pulls alone can serve others from its first byte on.
        if self.role == PullRole::Alone && self.size.is_none() {
            return;
        }
        self.report(key, self.state(is_slow, known), cx);
    }

    fn report(&mut self, key: Key, state: PullState, cx: &mut Context<'_, impl View>) {
        if let Some(arbiter) = cx.view.arbiter(&key) {
            self.reported_to = Some(arbiter);
            let report = Message::report(key, self.number, state);
            cx.out.send(arbiter, report);
        }
    }
}

fn heartbeat_interval(role: PullRole) -> Duration {
    match role {
        PullRole::Lead | PullRole::Alone => HEARTBEAT,
        PullRole::Follow(_) => FOLLOWER_HEARTBEAT,
    }
}
