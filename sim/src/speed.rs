//! What nodes receive, tests of their links, and the watch over sources: the rules of `flights`, on modelled links.

use flights::pull_rules::Role;
use flights::{
    Condition, Event as FlightEvent, Key, LinkTest, Received, SourceStatus, SourceWatch,
    WatchAction,
};

use crate::event::{Attempt, Event};
use crate::setup::{MILLI, Micros, SECOND};
use crate::state_machine::id;
use crate::world::{Phase, Pull, World};

/// The interval between observations of what a node receives.
pub const OBSERVE_EVERY: Micros = 250 * MILLI;
/// The number of windows over which rates are measured: the last second.
const WINDOWS: usize = (SECOND / OBSERVE_EVERY) as usize;
/// The time that a test takes.
const TEST: Micros = 200 * MILLI;
/// The nodes that a link is tested against.
const TEST_PEERS: usize = 3;
/// The registry of all images, by its hash.
pub const REGISTRY: u64 = 1;

/// The bytes that a node has received in the last windows.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    /// The total bytes until the last window.
    total: u64,
    windows: [u64; WINDOWS],
    next: usize,
    /// The bytes that it had led before the present lead began.
    led_before: Option<u64>,
}

/// The bytes that a node has sent in the last windows.
#[derive(Clone, Debug, Default)]
pub struct SentMeter {
    pub total: u64,
    before: u64,
    windows: [u64; WINDOWS],
    next: usize,
}

impl SentMeter {
    fn observe(&mut self) {
        self.windows[self.next] = self.total - self.before;
        self.next = (self.next + 1) % WINDOWS;
        self.before = self.total;
    }

    fn rate(&self) -> u64 {
        self.windows.iter().sum()
    }
}

impl Meter {
    fn observe(&mut self, total: u64, led: u64, leads: bool) -> Received {
        self.windows[self.next] = total.saturating_sub(self.total);
        self.next = (self.next + 1) % WINDOWS;
        self.total = total;
        self.led_before = leads.then_some(self.led_before.unwrap_or(led));
        let led = self
            .led_before
            .map(|before| (REGISTRY, led.saturating_sub(before)));
        Received {
            rate: self.windows.iter().sum(),
            led_bytes: led.into_iter().collect(),
        }
    }
}

impl World {
    /// Passes each node the rates at which it receives.
    pub fn observe(&mut self) {
        let (upstream, objects) = (self.links.upstream(), self.setup.objects.len());
        let mut pulls = vec![false; self.members.len()];
        let mut leads = vec![false; self.members.len()];
        for flow in &self.flows {
            pulls[flow.node as usize] = true;
            leads[flow.node as usize] |= flow.source == upstream;
        }
        for node in 0..self.members.len() {
            let own = &self.pulls[node * objects..(node + 1) * objects];
            let total = own.iter().map(|pull| pull.got).sum();
            let led = own.iter().map(|pull| pull.led).sum();
            let member = &mut self.members[node];
            let rates = member.meter.observe(total, led, leads[node]);
            member.sent.observe();
            if pulls[node] {
                self.drive(node as u32, |machine, now, dir| {
                    machine.observe(now, &rates, dir);
                });
            }
        }
    }

    pub fn on_flight_event(&mut self, node: u32, event: FlightEvent) {
        match event {
            FlightEvent::TestLink => self.push(self.now + TEST, Event::LinkTested { node }),
            FlightEvent::Link(state) => {
                let known = &mut self.members[node as usize].link;
                let before = std::mem::replace(known, state);
                if state.condition == Condition::Slow && before.condition != Condition::Slow {
                    self.evict(node, None);
                }
            }
            FlightEvent::LeaderIsSlow(key) => self.evict(node, Some(key)),
        }
    }

    /// Ends a test: the result is the bandwidth of the node's link.
    pub fn link_tested(&mut self, node: u32) {
        let others = self.members.len() - 1;
        let drawn = self.random.choose(TEST_PEERS.min(others), others);
        let others = drawn.into_iter().filter_map(|other| {
            let other = other + usize::from(other >= node as usize);
            let bandwidth = self.members[other].machine.bandwidth()?;
            Some((id(other as u32, self.setup.seed), bandwidth))
        });
        let others = others.collect();
        let rates = &self.setup.rates;
        let rate = if self.setup.were_links_fast && self.now < self.origin {
            rates.iter().copied().fold(0.0, f64::max)
        } else {
            rates[node as usize]
        };
        let bandwidth = Some(rate as u64);
        let test = LinkTest { bandwidth, others };
        self.drive(node, |machine, now, dir| {
            machine.link_tested(now, test, dir);
        });
    }

    /// Tells the followers of incomplete objects to use another source.
    fn evict(&mut self, node: u32, only: Option<Key>) {
        let now = self.now;
        let objects = &self.setup.objects;
        let is_meant = |object: u32| only.is_none_or(|key| objects[object as usize].key == key);
        let meant: Vec<_> = (0..objects.len() as u32)
            .filter(|object| is_meant(*object))
            .collect();
        for object in &meant {
            self.pull_mut(node, *object).evicted = Some(now);
        }
        let is_meant =
            |object| meant.contains(&object) && self.pull(node, object).phase != Phase::Done;
        let flows = self.flows.iter().filter(|flow| flow.source == node);
        let flows = flows.filter(|flow| is_meant(flow.object));
        let evicted: Vec<_> = flows
            .map(|flow| self.current(flow.node, flow.object))
            .collect();
        for pull in evicted {
            let at = now + self.round_trip(node, pull.node) / 2;
            self.push(at, Event::SourceFailed { pull });
        }
    }

    /// Asks the sources that have sent nothing for a while, or too little, and leaves useless ones.
    pub fn watch_sources(&mut self) {
        let (upstream, now) = (self.links.upstream(), self.time());
        let (mut steps, mut slow) = (Vec::new(), Vec::new());
        for flow in &mut self.flows {
            if flow.source == upstream {
                continue;
            }
            let member = &self.members[flow.node as usize];
            let starved = member.link.starved();
            if flow.last == self.now {
                let waited = std::time::Duration::from_micros(self.setup.step);
                flow.watch.received(waited, starved);
                if starved.is_none() {
                    flow.watch.begin_wait(now);
                    continue;
                }
            }
            match flow.watch.next(now) {
                WatchAction::Leave => steps.push((flow.node, flow.object, WatchAction::Leave)),
                _ if flow.watch.is_slow(now) => slow.push((flow.node, flow.object)),
                WatchAction::Ask if !std::mem::replace(&mut flow.is_asking, true) => {
                    steps.push((flow.node, flow.object, WatchAction::Ask));
                }
                WatchAction::Ask | WatchAction::WaitUntil(_) => {}
            }
        }
        for (node, object) in slow {
            self.leave_slow(node, object);
        }
        for (node, object, step) in steps {
            let pull = self.current(node, object);
            let &Pull { role, source, .. } = self.pull(node, object);
            let Role::Follows(_) = role else {
                continue;
            };
            if step == WatchAction::Leave {
                self.counts.broken += 1;
                self.source_failed(pull);
            } else if !self.members[source as usize].alive || self.is_cut(node, source) {
                let limit = SourceWatch::answer_limit().as_micros() as u64;
                let status = SourceStatus::Silent;
                self.push(self.now + limit, Event::Status { pull, status });
            } else {
                let at = self.now + self.round_trip(node, source);
                let theirs = self.pull(source, object);
                let status = match theirs.phase {
                    Phase::Absent => SourceStatus::Gone,
                    // The pull has ended, though its download goes on.
                    Phase::Flowing(_) if theirs.stalled => SourceStatus::Gone,
                    _ => SourceStatus::Has {
                        offset: self.visible(source, object),
                        sent: Some(self.members[source as usize].sent.rate()),
                    },
                };
                self.push(at, Event::Status { pull, status });
            }
        }
    }

    pub fn status(&mut self, pull: Attempt, status: SourceStatus) {
        let (now, Attempt { node, object, .. }) = (self.time(), pull);
        let got = self.pull(node, object).got;
        if self.is_current(pull)
            && let Phase::Flowing(index) = self.pull(node, object).phase
        {
            let flow = &mut self.flows[index as usize];
            flow.is_asking = false;
            flow.watch.answered(now, got, status);
        }
    }
}
