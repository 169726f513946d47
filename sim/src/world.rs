//! Virtual time: events, steps of the links, and the state of all nodes.

use std::collections::{HashMap, VecDeque};

use flights::pull_rules::{BusySources, Role};
use flights::{LinkState, NodeId, RequestId, SlowSources, Time};

use crate::event::{Attempt, Event, EventQueue};
use crate::links::{Flow, Links};
use crate::random::Random;
use crate::setup::{MILLI, Membership, Micros, Plan, SECOND, Setup};
use crate::speed::{Meter, OBSERVE_EVERY, SentMeter};
use crate::state_machine::{SharedMembership, StateMachine, id};

/// How long nodes with their own membership find each other before the pulls.
const WARM_UP: Micros = 40 * SECOND;
/// A file of containerd grows in steps of this many bytes.
pub const FILE_STEP: u64 = 1024 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Absent,
    Queued,
    Requesting,
    /// A request to a source or upstream is in transit.
    Asking,
    /// A flow, by its index.
    Flowing(u32),
    Done,
}

/// An object at a node.
#[derive(Clone, Debug, Default)]
pub struct Pull {
    pub phase: Phase,
    pub role: Role,
    /// The node that it follows.
    pub source: u32,
    pub got: u64,
    /// The bytes among these that came from upstream.
    pub led: u64,
    /// When its followers were told to use another source.
    pub evicted: Option<Micros>,
    pub attempt: u32,
    /// The bytes present when the lead was granted.
    pub mark: u64,
    /// The first bytes were reported.
    pub begun: bool,
    /// A stall was reported.
    pub stalled: bool,
    /// A request ended without a byte, and none has come since.
    pub is_requeued: bool,
    pub failed: Vec<NodeId>,
    pub busy: BusySources,
    pub slow_sources: SlowSources,
    pub leader: Option<NodeId>,
}

#[derive(Debug)]
pub struct Member {
    pub machine: StateMachine,
    pub alive: bool,
    pub requests: Vec<(RequestId, u32)>,
    /// Downloads that wait for a slot, and whether they go upstream.
    pub queue: VecDeque<(u32, bool)>,
    /// Downloads with a slot, for each group.
    pub running: Vec<usize>,
    /// The objects still missing.
    pub missing: u32,
    pub uploads: usize,
    pub started: Micros,
    pub finished: Option<Micros>,
    pub received: u64,
    pub meter: Meter,
    pub sent: SentMeter,
    pub link: LinkState,
    wake_at: Option<Micros>,
    ticked: Micros,
    /// When the task that handles messages is free, and when the cores that make connections are.
    pub free: Micros,
    pub cores_free: Micros,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub datagrams: u64,
    pub upstream_bytes: u64,
    pub peer_bytes: u64,
    pub leads: u64,
    pub alone: u64,
    pub refused: u64,
    pub broken: u64,
}

pub struct World {
    pub setup: Setup,
    pub now: Micros,
    /// When the pulls begin.
    pub origin: Micros,
    pub members: Vec<Member>,
    pub pulls: Vec<Pull>,
    pub membership: SharedMembership,
    pub links: Links,
    pub flows: Vec<Flow>,
    pub counts: Counts,
    pub random: Random,
    /// When the connection between two nodes is ready.
    pub connections: HashMap<(u32, u32), Micros>,
    /// The nodes that wait for a small object at a source.
    pub waiters: HashMap<(u32, u32), Vec<Attempt>>,
    /// The holders of each object, for Spegel's rule.
    pub complete: Vec<Vec<u32>>,
    observe_at: Micros,
    /// The node whose upstream has stalled.
    pub stalled_leader: Option<u32>,
    pub unfinished: usize,
    queue: EventQueue,
    /// When the links advance next.
    pub step_at: Micros,
}

impl World {
    pub fn new(setup: Setup) -> Self {
        let nodes = setup.nodes();
        let is_own = setup.membership != Membership::Shared;
        let member = |node| {
            let me = id(node, setup.seed);
            let seed = setup
                .seed
                .wrapping_mul(0x1_0001)
                .wrapping_add(u64::from(node));
            Member {
                machine: if is_own {
                    StateMachine::own(Time(0), me, seed)
                } else {
                    StateMachine::sharing(me, seed)
                },
                alive: true,
                requests: Vec::new(),
                queue: VecDeque::new(),
                running: vec![0; setup.images.len()],
                missing: 0,
                uploads: 0,
                started: 0,
                finished: None,
                received: 0,
                meter: Meter::default(),
                sent: SentMeter::default(),
                link: LinkState::default(),
                wake_at: None,
                ticked: 0,
                free: 0,
                cores_free: 0,
            }
        };
        let mut world = Self {
            now: 0,
            origin: if is_own { WARM_UP } else { 5 * SECOND },
            members: (0..nodes).map(member).collect(),
            pulls: vec![Pull::default(); nodes as usize * setup.objects.len()],
            membership: SharedMembership::new(nodes, setup.seed),
            links: Links::new(&setup.rates, setup.upstream),
            flows: Vec::new(),
            counts: Counts::default(),
            random: Random::new(setup.seed),
            connections: HashMap::new(),
            waiters: HashMap::new(),
            complete: vec![Vec::new(); setup.objects.len()],
            observe_at: 0,
            stalled_leader: None,
            unfinished: 0,
            queue: EventQueue::default(),
            step_at: 0,
            setup,
        };
        world.prepare();
        world
    }

    fn prepare(&mut self) {
        let founders = match self.setup.membership {
            Membership::Own { founders } => founders,
            Membership::Shared => 0,
        };
        for node in 0..founders {
            self.push(u64::from(node) * MILLI, Event::Join { node });
        }
        let origin = self.origin;
        if founders > 0 {
            for node in founders..self.setup.nodes() {
                let at = self.random.below(200 * MILLI);
                self.push(origin + at, Event::Join { node });
            }
        }
        for node in self.setup.holders.clone() {
            self.give(node);
        }
        for node in 0..self.setup.nodes() {
            self.drive(node, StateMachine::tick);
        }
    }

    /// Lets all nodes pull this image first.
    fn pull_before(&mut self, image: u32) {
        self.unfinished = self.setup.plans.len();
        for plan in self.setup.plans.clone() {
            let images = vec![image];
            let plan = Plan { images, ..plan };
            self.push(self.origin + plan.at, Event::Start { plan });
        }
        self.run_until(self.origin + self.setup.limit);
        assert_eq!(self.unfinished, 0, "all have pulled what comes before");
        self.counts = Counts::default();
        self.members
            .iter_mut()
            .for_each(|member| member.finished = None);
        self.members
            .iter_mut()
            .for_each(|member| member.received = 0);
        self.origin = self.now + SECOND;
    }

    /// Starts the planned events.
    fn begin(&mut self) {
        let origin = self.origin;
        self.unfinished = self.setup.plans.len();
        for plan in self.setup.plans.clone() {
            self.push(origin + plan.at, Event::Start { plan });
        }
        for (at, node) in self.setup.deaths.clone() {
            self.push(origin + at, Event::Die { node });
        }
        if let Some(at) = self.setup.owners_die {
            self.push(origin + at, Event::OwnersDie);
        }
    }

    /// Gives a node everything.
    fn give(&mut self, node: u32) {
        let keys: Vec<_> = self.setup.objects.iter().map(|o| o.key).collect();
        for (object, size) in self.setup.objects.iter().map(|o| o.size).enumerate() {
            let pull = &mut self.pulls[node as usize * keys.len() + object];
            (pull.phase, pull.got) = (Phase::Done, size);
            self.complete[object].push(node);
        }
        self.members[node as usize].machine.hold(Time(0), &keys);
        self.settle(node);
    }

    /// Runs until all nodes have finished, or the limit is reached.
    pub fn run(&mut self) {
        if let Some(image) = self.setup.before {
            self.pull_before(image);
        }
        self.begin();
        self.run_until(self.origin + self.setup.limit);
    }

    fn run_until(&mut self, end: Micros) {
        while self.unfinished > 0 && self.now < end {
            let step_at = if self.flows.is_empty() {
                Micros::MAX
            } else {
                self.step_at
            };
            if let Some((at, event)) = self.queue.pop_by(step_at) {
                self.now = at;
                self.handle(event);
            } else if step_at == Micros::MAX {
                return;
            } else {
                self.now = step_at;
                self.step();
                if self.observe_at <= self.now {
                    self.observe_at = self.now + OBSERVE_EVERY;
                    self.observe();
                }
                self.step_at = step_at + self.setup.step;
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start { plan } => self.start(plan),
            Event::Retry { node, image } => self.pull_image(node, image),
            Event::Pump { node } => self.pump(node),
            Event::Arrives { from, to, bytes } => self.arrives(from, to, bytes),
            Event::Deliver { from, to, bytes } => {
                self.members[to as usize].received += 1;
                let from = id(from, self.setup.seed);
                self.drive(to, |machine, now, dir| {
                    machine.receive(now, from, &bytes, dir);
                });
            }
            Event::Undelivered { from, to } => {
                let to = id(to, self.setup.seed);
                self.drive(from, |machine, now, _| machine.undelivered(now, to));
            }
            Event::Wake { node } => self.wake(node),
            Event::Decided {
                node,
                request,
                decision,
            } => self.decision(node, request, &decision),
            Event::LookedUp { node, object } => self.looked_up(node, object),
            Event::Asked { pull } => self.asked(pull),
            Event::Requeue { pull } => self.requeue(pull),
            Event::SourceFailed { pull } => self.source_failed(pull),
            Event::SourceBusy { pull } => self.source_busy(pull),
            Event::Begins { pull } => self.begins(pull),
            Event::Denied { pull } => self.denied(pull),
            Event::Completed { pull } => self.completed(pull),
            Event::Die { node } => self.die(node),
            Event::OwnersDie => {
                let keys = self.setup.objects.iter().map(|o| o.key);
                let owners = keys.flat_map(|key| self.membership.arbiters(key));
                let mut owners: Vec<_> = owners.map(|o| crate::state_machine::number(&o)).collect();
                owners.sort_unstable();
                owners.dedup();
                for owner in owners {
                    self.die(owner);
                }
            }
            Event::Flight { node, event } => self.on_flight_event(node, event),
            Event::LinkTested { node } => self.link_tested(node),
            Event::Status { pull, status } => self.status(pull, status),
            Event::Join { node } => {
                let seed = id(0, self.setup.seed);
                self.drive(node, |machine, now, _| machine.join(now, seed));
            }
        }
    }

    pub fn push(&mut self, at: Micros, event: Event) {
        self.queue.push(at, event);
    }

    pub fn time(&self) -> Time {
        Time(self.now / MILLI)
    }

    /// Calls a node's state machine and carries out its decisions. Does nothing if the node is dead.
    pub fn drive<T>(
        &mut self,
        node: u32,
        call: impl FnOnce(&mut StateMachine, Time, &SharedMembership) -> T,
    ) -> Option<T> {
        let now = self.time();
        let member = &mut self.members[node as usize];
        if !member.alive {
            return None;
        }
        let result = call(&mut member.machine, now, &self.membership);
        self.settle(node);
        Some(result)
    }

    fn settle(&mut self, node: u32) {
        let member = &mut self.members[node as usize];
        let mut datagrams = member.machine.take_datagrams();
        let decisions = member.machine.take_decisions();
        let events = member.machine.take_events();
        // Actions that were due and not done in this millisecond are done in the next one.
        let earliest = self.now.max(member.ticked + MILLI);
        let due = member.machine.next_deadline();
        let due = due.map(|at| (at.0 * MILLI).max(earliest));
        if let Some(at) = due.filter(|at| member.wake_at.is_none_or(|wake| *at < wake)) {
            member.wake_at = Some(at);
            self.push(at, Event::Wake { node });
        }
        for (request, decision) in decisions {
            let event = Event::Decided {
                node,
                request,
                decision,
            };
            self.push(self.now, event);
        }
        for event in events {
            self.push(self.now, Event::Flight { node, event });
        }
        datagrams.sort_by_key(|(to, _)| *to);
        for (to, bytes) in datagrams {
            self.send_datagram(node, crate::state_machine::number(&to), bytes);
        }
    }

    fn wake(&mut self, node: u32) {
        let member = &mut self.members[node as usize];
        if member.wake_at != Some(self.now) {
            return;
        }
        member.wake_at = None;
        member.ticked = self.now;
        self.drive(node, StateMachine::tick);
    }

    fn die(&mut self, node: u32) {
        let member = &mut self.members[node as usize];
        if !std::mem::replace(&mut member.alive, false) {
            return;
        }
        let is_expected = self.setup.plans.iter().any(|plan| plan.node == node);
        if is_expected && member.finished.is_none() {
            self.unfinished -= 1;
        }
        for object in 0..self.setup.objects.len() as u32 {
            self.drop_flow(node, object);
            self.pull_mut(node, object).attempt += 1;
        }
    }

    pub fn pull(&self, node: u32, object: u32) -> &Pull {
        &self.pulls[node as usize * self.setup.objects.len() + object as usize]
    }

    pub fn pull_mut(&mut self, node: u32, object: u32) -> &mut Pull {
        &mut self.pulls[node as usize * self.setup.objects.len() + object as usize]
    }

    /// Whether two nodes cannot communicate now.
    pub fn is_cut(&self, a: u32, b: u32) -> bool {
        let Some((from, to)) = self.setup.partition else {
            return false;
        };
        let now = self.now.saturating_sub(self.origin);
        a % 2 != b % 2 && (from..to).contains(&now) && self.now >= self.origin
    }
}
