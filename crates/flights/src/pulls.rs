//! The pulls of this node, and the reports to arbiters about them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ledger::Ledger;
use crate::outbox::Context;
use crate::requests::{ActivePulls, CompletedRequest, HEARTBEAT, RequestId};
use crate::slots::Slot;
use crate::speed::RegistryRates;
use crate::view::View;
use crate::wire::{Alive, Message, PullState, node_field};
use crate::{Decision, Key, NodeId, Time};

/// The interval between reports of a follower. A leader reports every [`HEARTBEAT`].
const FOLLOWER_HEARTBEAT: Duration = Duration::from_secs(30);
/// The most pulls at once.
const MAX_PULLS: usize = 4_096;
/// A pull without bytes for this long defers no other request.
const STALLED_AFTER: Duration = Duration::from_millis(1_500);
/// A pull that the mirror does not report on for this long is dropped.
const PULL_EXPIRY: Duration = Duration::from_secs(2 * 3600);

/// The progress of a pull, as the mirror reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullProgress {
    /// The first bytes are here and can be served. Repeated while more arrive.
    Begun {
        /// Bytes of the whole object.
        size: u64,
    },
    /// The object is complete here.
    Done,
    /// The pull ended or stalled before it was complete.
    Failed,
    /// The object is complete, but its digest does not match.
    Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Lead,
    Alone,
    Follow(NodeId),
}

#[derive(Debug)]
struct Pull {
    role: Role,
    request: RequestId,
    /// Of the request that it results from.
    number: u64,
    repository: u64,
    registry: u64,
    since: Time,
    size: Option<u64>,
    is_large: bool,
    /// Another node leads already.
    is_second: bool,
    /// This node's order in the chain, if it follows.
    order: u32,
    /// When the last bytes arrived, or the pull began.
    last_came: Time,
    heartbeat_at: Time,
    /// The arbiter that was last reported to.
    reported_to: Option<NodeId>,
    /// The global arbiter hears of this pull as well: it leads, or it asked an arbiter outside its shard on behalf of
    /// the shard.
    reports_globally: bool,
}

/// The state of this node beyond the pull reported.
#[derive(Clone, Copy, Debug, Default)]
struct NodeCondition {
    /// It counts as slow, or upstream gives it far less than other nodes.
    is_slow: bool,
    /// What the registry of the pull gives a node, if this one leads.
    registry_rate: u64,
}

/// What this node learns from its own reports.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Feedback {
    /// The time until upstream's first byte.
    FirstByte {
        repository: u64,
        registry: u64,
        took: Duration,
    },
    /// This node pulled from upstream and failed.
    Failed { repository: u64, has_begun: bool },
}

#[derive(Debug, Default)]
pub(crate) struct Pulls {
    pulls: BTreeMap<Key, Pull>,
}

impl Pulls {
    /// Starts a pull: a request for a source has its decision.
    pub fn begin(&mut self, completed: &CompletedRequest, cx: &mut Context<'_, impl View>) {
        let (role, order) = match &completed.decision {
            Decision::Lead => (Role::Lead, 0),
            Decision::Alone => (Role::Alone, 0),
            Decision::Follow {
                source, position, ..
            } => (Role::Follow(*source), position.order),
            Decision::Later => {
                return self.withdraw_from_local_arbiter(completed, cx);
            }
        };
        let (key, request) = (completed.request.key(), &completed.request);
        if role == Role::Alone {
            self.withdraw_from_local_arbiter(completed, cx);
        }
        // Bytes of an earlier source do not show that upstream sends any.
        let before = self.pulls.get(&key);
        let before = before.filter(|_| matches!(role, Role::Follow(_)));
        let size = before.and_then(|pull| pull.size);
        if self.pulls.len() >= MAX_PULLS && !self.pulls.contains_key(&key) {
            return;
        }
        let arbiter = cx.view.arbiter(&key);
        let mut pull = Pull {
            role,
            request: completed.id,
            number: completed.number,
            repository: request.repository,
            registry: request.registry,
            since: cx.now,
            size,
            is_large: request.is_large(),
            is_second: completed.is_second_lead,
            order,
            last_came: cx.now,
            heartbeat_at: cx.now.after(heartbeat_interval(role)),
            reported_to: completed.by,
            reports_globally: role == Role::Lead
                || completed.by.is_some_and(|by| Some(by) != arbiter),
        };
        // The node that granted the lead learns at once that it is taken, and so does the arbiter, if that is another
        // node.
        if role == Role::Lead || pull.reports_globally {
            pull.report_state(key, cx);
        }
        self.pulls.insert(key, pull);
    }

    /// The large objects that this node receives.
    pub fn active_pulls(&self, now: Time, view: &impl View) -> ActivePulls {
        let mut active_pulls = ActivePulls::default();
        let shard_size = u32::try_from(view.shard_size()).unwrap_or(u32::MAX);
        for (key, pull) in self.pulls.iter().filter(|(_, pull)| pull.is_large) {
            let downstream = match pull.role {
                Role::Alone => continue,
                Role::Lead => shard_size,
                Role::Follow(source) if view.is_in_my_shard(&source) => {
                    shard_size.saturating_sub(pull.order)
                }
                Role::Follow(_) => {
                    if pull.reports_globally && now.since(pull.last_came) < STALLED_AFTER {
                        active_pulls.shard_fetches.push(*key);
                    }
                    shard_size.saturating_mul(2)
                }
            };
            active_pulls.large += 1;
            active_pulls.downstream = active_pulls.downstream.saturating_add(downstream);
        }
        active_pulls
    }

    /// Tells this shard's arbiter, which redirected the request, that nothing will come of it.
    fn withdraw_from_local_arbiter(
        &self,
        completed: &CompletedRequest,
        cx: &mut Context<'_, impl View>,
    ) {
        let (key, number) = (completed.request.key(), completed.number);
        if let (Some(by), Some(arbiter)) = (completed.by, cx.view.arbiter(&key))
            && by != arbiter
        {
            cx.out.send(arbiter, Message::withdraw(key, number));
        }
    }

    /// Handles a granted lead that nobody waits for any more. Returns whether this node pulls from upstream anyway.
    pub fn promote(&mut self, key: Key, cx: &mut Context<'_, impl View>) -> bool {
        match self.pulls.get_mut(&key) {
            Some(pull) if matches!(pull.role, Role::Lead | Role::Alone) => {
                (pull.role, pull.reports_globally) = (Role::Lead, true);
                pull.report_state(key, cx);
                true
            }
            _ => false,
        }
    }

    /// Whether the pull of this key results from this request.
    pub fn is_of_request(&self, key: &Key, number: u64) -> bool {
        self.pulls
            .get(key)
            .is_some_and(|pull| pull.number == number)
    }

    /// Drops the pull of a request whose decision is not used.
    pub fn decline(&mut self, request: RequestId, cx: &mut Context<'_, impl View>) {
        let mut pulls = self.pulls.iter();
        let declined = pulls.find(|(_, pull)| pull.request == request && pull.size.is_none());
        let key = declined.map(|(key, _)| *key);
        if let Some((key, pull)) = key.and_then(|key| self.pulls.remove_entry(&key)) {
            let number = pull.number;
            for arbiter in pull.arbiters(&key, cx.view) {
                cx.out.send(arbiter, Message::withdraw(key, number));
            }
        }
    }

    /// Reports progress to the arbiters.
    pub fn report(
        &mut self,
        key: Key,
        progress: PullProgress,
        cx: &mut Context<'_, impl View>,
    ) -> Option<Feedback> {
        let pull = self.pulls.get_mut(&key)?;
        let mut feedback = None;
        let state = match progress {
            PullProgress::Begun { size } => {
                if pull.size.is_none() && pull.role == Role::Lead {
                    feedback = Some(Feedback::FirstByte {
                        repository: pull.repository,
                        registry: pull.registry,
                        took: cx.now.since(pull.since),
                    });
                }
                pull.last_came = cx.now;
                let goes_on = pull.size.replace(size).is_some();
                if goes_on {
                    // The next heartbeats report it.
                    return None;
                }
                pull.state(NodeCondition::default())
            }
            PullProgress::Done => PullState::Done(true),
            PullProgress::Failed | PullProgress::Wrong => {
                if pull.is_upstream() {
                    feedback = Some(Feedback::Failed {
                        repository: pull.repository,
                        has_begun: pull.size.is_some(),
                    });
                }
                if progress == PullProgress::Wrong {
                    PullState::WrongDigest(true)
                } else {
                    PullState::Failed(true)
                }
            }
        };
        pull.heartbeat_at = cx.now.after(heartbeat_interval(pull.role));
        let is_over = !matches!(state, PullState::Alive(_));
        pull.report(key, &state, cx);
        if is_over {
            self.pulls.remove(&key);
        }
        feedback
    }

    /// Reports all pulls in these slots (one bit each) to their new arbiter.
    pub fn owners_changed(&mut self, slots: u64, cx: &mut Context<'_, impl View>) {
        for (key, pull) in &mut self.pulls {
            if slots >> Slot::of(&key.0).index() & 1 == 1 {
                pull.report_state(*key, cx);
            }
        }
    }

    /// Tells the arbiters that this node is slow: in all pulls, or in those that it leads from a registry.
    pub fn report_slow(&mut self, registry: Option<u64>, cx: &mut Context<'_, impl View>) {
        let condition = NodeCondition {
            is_slow: true,
            ..NodeCondition::default()
        };
        for (key, pull) in &mut self.pulls {
            if registry.is_none_or(|registry| pull.leads_from(registry)) {
                pull.report_state_as(*key, condition, cx);
            }
        }
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

    pub fn tick(
        &mut self,
        ledger: &mut Ledger,
        registries: &RegistryRates,
        is_slow: bool,
        cx: &mut Context<'_, impl View>,
    ) {
        self.pulls
            .retain(|_, pull| cx.now.since(pull.since) < PULL_EXPIRY);
        for (key, pull) in &mut self.pulls {
            if pull.heartbeat_at <= cx.now {
                pull.heartbeat_at = cx.now.after(heartbeat_interval(pull.role));
                let condition = NodeCondition {
                    is_slow,
                    registry_rate: registries.get(cx.now, pull.registry),
                };
                pull.report_state_as(*key, condition, cx);
                // The pull of an image lasts while its objects are pulled.
                ledger.touch(cx.now, pull.repository);
            }
        }
    }
}

impl Pull {
    fn leads_from(&self, registry: u64) -> bool {
        self.role == Role::Lead && self.registry == registry
    }

    fn is_upstream(&self) -> bool {
        matches!(self.role, Role::Lead | Role::Alone)
    }

    fn state(&self, condition: NodeCondition) -> PullState {
        let NodeCondition {
            is_slow,
            registry_rate,
        } = condition;
        let source = match self.role {
            Role::Lead | Role::Alone => None,
            Role::Follow(source) => Some(source),
        };
        PullState::Alive(Alive {
            size: self.size,
            source: node_field(source),
            is_slow,
            registry: if source.is_none() { self.registry } else { 0 },
            registry_rate,
        })
    }

    fn report_state(&mut self, key: Key, cx: &mut Context<'_, impl View>) {
        self.report_state_as(key, NodeCondition::default(), cx);
    }

    fn report_state_as(
        &mut self,
        key: Key,
        condition: NodeCondition,
        cx: &mut Context<'_, impl View>,
    ) {
        // A node that pulls alone is of use to others from its first byte on.
        if self.role == Role::Alone && self.size.is_none() {
            return;
        }
        self.report(key, &self.state(condition), cx);
    }

    fn report(&mut self, key: Key, state: &PullState, cx: &mut Context<'_, impl View>) {
        let number = self.number;
        self.reported_to = cx.view.arbiter(&key).or(self.reported_to);
        for arbiter in self.arbiters(&key, cx.view) {
            cx.out
                .send(arbiter, Message::report(key, number, state.clone()));
        }
    }

    /// The arbiters that hear of this pull.
    fn arbiters(&self, key: &Key, view: &impl View) -> impl Iterator<Item = NodeId> {
        let root = view.global_arbiter(key).filter(|_| self.reports_globally);
        view.arbiter(key).into_iter().chain(root)
    }
}

fn heartbeat_interval(role: Role) -> Duration {
    match role {
        Role::Lead | Role::Alone => HEARTBEAT,
        Role::Follow(_) => FOLLOWER_HEARTBEAT,
    }
}
