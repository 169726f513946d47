//! Virtual time: events, steps of the links, and the state of all nodes.

use std::collections::{BTreeMap, HashMap, VecDeque};

use flights::{NodeId, Place, SeekId, Time};

use crate::brain::{Brain, Directory, id};
use crate::event::{Agenda, Attempt, Event};
use crate::lag::WINDOW;
use crate::links::{Flow, Links};
use crate::random::Random;
use crate::setup::{MILLI, Membership, Micros, Plan, SECOND, Setup};

/// Full nodes find each other for so long before anything is pulled.
const WARM_UP: Micros = 40 * SECOND;
/// After a death, until everybody's list of members says so.
const DETECTION: Micros = 8 * SECOND;
/// A containerd's file grows in steps of so many bytes.
pub const FILE_STEP: u64 = 1024 * 1024;
/// A pull whose bytes stop for so long has stalled, and a source that never gave any has failed. As `mirror::flight`.
pub const STALL: Micros = 10 * SECOND;
/// A source whose bytes stop for so long has broken, and later where it is further down a chain.
const BREAK: Micros = 4 * SECOND;
const BREAK_STEP: Micros = SECOND / 2;
const BREAK_STEPS: u64 = 20;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Absent,
    Queued,
    Seeking,
    /// On the way to a source or upstream.
    Asking,
    /// A flow, by its index.
    Flowing(u32),
    Done,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    #[default]
    None,
    Follows(u32, Place),
    Leads,
}

impl Standing {
    /// How long the bytes of a source may stop.
    pub fn patience(&self) -> Micros {
        match self {
            Self::Follows(_, place) if place.is_of_district() => BREAK + BREAK_STEP * BREAK_STEPS,
            Self::Follows(_, place) => BREAK + BREAK_STEP * u64::from(place.order).min(BREAK_STEPS),
            Self::None | Self::Leads => BREAK,
        }
    }
}

/// An object at a node.
#[derive(Clone, Debug, Default)]
pub struct Pull {
    pub phase: Phase,
    pub standing: Standing,
    pub got: u64,
    pub attempt: u32,
    /// Bytes that were there when the lead was granted.
    pub mark: u64,
    /// It has been reported that bytes come.
    pub begun: bool,
    /// It has been reported that they do not.
    pub stalled: bool,
    pub barren: u8,
    pub failed: Vec<NodeId>,
    pub leader: Option<NodeId>,
}

#[derive(Debug)]
pub struct Member {
    pub brain: Brain,
    pub alive: bool,
    pub seeks: Vec<(SeekId, u32)>,
    /// Downloads that wait for a place, and whether they go upstream.
    pub queue: VecDeque<(u32, bool)>,
    /// Downloads that have one, by image or all together.
    pub running: Vec<u8>,
    /// Objects to come until everything asked for is there.
    pub missing: u32,
    pub uploads: u32,
    pub started: Micros,
    pub finished: Option<Micros>,
    pub received: u64,
    /// Bytes that came until the last look at laggards, and how many a second between the last two.
    pub taken: u64,
    pub rate: u64,
    /// As much as it took in lately.
    pub best: u64,
    /// Others were held up behind it.
    pub is_slow: bool,
    wake_at: Option<Micros>,
    ticked: Micros,
    /// When the task that handles messages is free, and the cores that make connections.
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
    /// When pulls begin.
    pub origin: Micros,
    pub members: Vec<Member>,
    pub pulls: Vec<Pull>,
    pub directory: Directory,
    pub links: Links,
    pub flows: Vec<Flow>,
    pub counts: Counts,
    pub random: Random,
    /// When the connection between two nodes is ready.
    pub connections: HashMap<(u32, u32), Micros>,
    /// Who waits for a small object at a source.
    pub waiters: HashMap<(u32, u32), Vec<Attempt>>,
    /// Who holds what, for Spegel's rule.
    pub complete: Vec<Vec<u32>>,
    /// Looks in a row at which a follower of a node was far behind.
    pub strikes: BTreeMap<(u32, u32), u8>,
    look_at: Micros,
    /// Whose upstream has stalled.
    pub stuck: Option<u32>,
    pub unfinished: usize,
    agenda: Agenda,
    /// When the links work next.
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
                brain: if is_own {
                    Brain::own(Time(0), me, seed)
                } else {
                    Brain::sharing(me, seed)
                },
                alive: true,
                seeks: Vec::new(),
                queue: VecDeque::new(),
                running: vec![0; setup.images.len()],
                missing: 0,
                uploads: 0,
                started: 0,
                finished: None,
                received: 0,
                taken: 0,
                rate: 0,
                best: 0,
                is_slow: false,
                wake_at: None,
                ticked: 0,
                free: 0,
                cores_free: 0,
            }
        };
        let mut world = Self {
            now: 0,
            origin: if is_own { WARM_UP } else { SECOND },
            members: (0..nodes).map(member).collect(),
            pulls: vec![Pull::default(); nodes as usize * setup.objects.len()],
            directory: Directory::new(nodes, setup.seed),
            links: Links::new(&setup.rates, setup.upstream),
            flows: Vec::new(),
            counts: Counts::default(),
            random: Random::new(setup.seed),
            connections: HashMap::new(),
            waiters: HashMap::new(),
            complete: vec![Vec::new(); setup.objects.len()],
            strikes: BTreeMap::new(),
            look_at: 0,
            stuck: None,
            unfinished: 0,
            agenda: Agenda::default(),
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
    }

    /// All who pull anything pull this.
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

    /// What was planned begins.
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

    /// A node has everything from the beginning.
    fn give(&mut self, node: u32) {
        let keys: Vec<_> = self.setup.objects.iter().map(|o| o.key).collect();
        for (object, size) in self.setup.objects.iter().map(|o| o.size).enumerate() {
            let pull = &mut self.pulls[node as usize * keys.len() + object];
            (pull.phase, pull.got) = (Phase::Done, size);
            self.complete[object].push(node);
        }
        self.members[node as usize].brain.hold(Time(0), &keys);
        self.settle(node);
    }

    /// Runs until everybody is done, or the limit is reached.
    pub fn run(&mut self) {
        if let Some(image) = self.setup.before {
            self.pull_before(image);
        }
        if self.setup.are_links_known {
            self.measure_links();
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
            if let Some((at, event)) = self.agenda.pop_by(step_at) {
                self.now = at;
                self.handle(event);
            } else if step_at == Micros::MAX {
                return;
            } else {
                self.now = step_at;
                self.step();
                if self.look_at <= self.now {
                    self.look_at = self.now + WINDOW;
                    self.look_for_laggards();
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
                self.think(to, |brain, now, dir| brain.receive(now, from, &bytes, dir));
            }
            Event::Undelivered { from, to } => {
                let to = id(to, self.setup.seed);
                self.think(from, |brain, now, dir| brain.undelivered(now, to, dir));
            }
            Event::Wake { node } => self.wake(node),
            Event::Outcome {
                node,
                seek,
                outcome,
            } => self.outcome(node, seek, &outcome),
            Event::LookedUp { node, object } => self.looked_up(node, object),
            Event::Asked { pull } => self.asked(pull),
            Event::GivesWay { pull } => self.gives_way(pull),
            Event::Useless { pull } => self.useless(pull),
            Event::Begins { pull } => self.begins(pull),
            Event::Denied { pull } => self.denied(pull),
            Event::Landed { pull } => self.landed(pull),
            Event::Die { node } => self.die(node),
            Event::OwnersDie => {
                let keys = self.setup.objects.iter().map(|o| o.key);
                let owners = keys.flat_map(|key| self.directory.arbiters(key));
                let mut owners: Vec<_> = owners.map(|o| crate::brain::number(&o)).collect();
                owners.sort_unstable();
                owners.dedup();
                for owner in owners {
                    self.die(owner);
                }
            }
            Event::Detected { nodes } => self.detected(&nodes),
            Event::Outrun { node, rate } => self.outrun(node, rate),
            Event::Join { node } => {
                let seed = id(0, self.setup.seed);
                self.think(node, |brain, now, _| brain.join(now, seed));
            }
        }
    }

    pub fn push(&mut self, at: Micros, event: Event) {
        self.agenda.push(at, event);
    }

    pub fn time(&self) -> Time {
        Time(self.now / MILLI)
    }

    /// Calls a node's state machine and carries out what it decides. Nothing if it is dead.
    pub fn think<T>(
        &mut self,
        node: u32,
        call: impl FnOnce(&mut Brain, Time, &Directory) -> T,
    ) -> Option<T> {
        let now = self.time();
        let member = &mut self.members[node as usize];
        if !member.alive {
            return None;
        }
        let result = call(&mut member.brain, now, &self.directory);
        self.settle(node);
        Some(result)
    }

    fn settle(&mut self, node: u32) {
        let member = &mut self.members[node as usize];
        let mut datagrams = member.brain.take_datagrams();
        let outcomes = member.brain.take_outcomes();
        let outrun = member.brain.take_outrun();
        // What is due already and was not done in this millisecond is done in the next.
        let earliest = self.now.max(member.ticked + MILLI);
        let due = member.brain.next_deadline();
        let due = due.map(|at| (at.0 * MILLI).max(earliest));
        if let Some(at) = due.filter(|at| member.wake_at.is_none_or(|wake| *at < wake)) {
            member.wake_at = Some(at);
            self.push(at, Event::Wake { node });
        }
        for (seek, outcome) in outcomes {
            let event = Event::Outcome {
                node,
                seek,
                outcome,
            };
            self.push(self.now, event);
        }
        if let Some(rate) = outrun {
            self.push(self.now, Event::Outrun { node, rate });
        }
        datagrams.sort_by_key(|(to, _)| *to);
        for (to, bytes) in datagrams {
            self.post(node, crate::brain::number(&to), bytes);
        }
    }

    fn wake(&mut self, node: u32) {
        let member = &mut self.members[node as usize];
        if member.wake_at != Some(self.now) {
            return;
        }
        member.wake_at = None;
        member.ticked = self.now;
        self.think(node, Brain::tick);
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
        if self.setup.membership == Membership::Shared {
            let nodes = vec![node];
            self.push(self.now + DETECTION, Event::Detected { nodes });
        }
    }

    fn detected(&mut self, nodes: &[u32]) {
        let now = self.time();
        let dead: Vec<_> = nodes.iter().map(|n| id(*n, self.setup.seed)).collect();
        let moves = self.directory.left(now, &dead);
        for node in 0..self.setup.nodes() {
            self.think(node, |brain, now, dir| brain.left(now, &dead, &moves, dir));
        }
    }

    pub fn pull(&self, node: u32, object: u32) -> &Pull {
        &self.pulls[node as usize * self.setup.objects.len() + object as usize]
    }

    pub fn pull_mut(&mut self, node: u32, object: u32) -> &mut Pull {
        &mut self.pulls[node as usize * self.setup.objects.len() + object as usize]
    }

    /// Whether two nodes do not hear each other now.
    pub fn is_cut(&self, a: u32, b: u32) -> bool {
        let Some((from, to)) = self.setup.partition else {
            return false;
        };
        let now = self.now.saturating_sub(self.origin);
        a % 2 != b % 2 && (from..to).contains(&now) && self.now >= self.origin
    }
}
