//! The time that owners of keys which lie, or say nothing, cost the pull of an image of 40 layers. Each layer has other
//! owners, all of them hostile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::*;
use crate::ledger::BUDGET;
use crate::pull_rules::{CONTAINERD_SLOTS, REQUEUE_AFTER};
use crate::slots::{Owners, Scope, Slot};
use crate::speed::{FIRST_STEPS_MAX, Received};
use crate::wire::{Follow, Reply, Wait, node_field, nodes_field};

const ME: NodeId = NodeId([0; 32]);
const REPOSITORY: u64 = 1;
const REGISTRY: u64 = 2;
const LAYERS: u64 = 40;
/// The size of a layer in bytes, and the rate of upstream in bytes per second.
const LAYER: u64 = 2_500_000;
const UPSTREAM: u64 = 12_500_000;
/// The time to upstream's first byte, in milliseconds.
const FIRST_BYTE: u64 = 50;
const STEP: u64 = 10;
/// What the length of the steps adds.
const SLACK: Duration = Duration::from_millis(300);

/// More than a hundred members. The owners of each slot are three hostile ones.
struct Hostile;

fn hostile(number: u64) -> NodeId {
    NodeId([1 + u8::try_from(number % 190).expect("small"); 32])
}

impl View for Hostile {
    fn me(&self) -> NodeId {
        ME
    }
    fn members(&self) -> usize {
        191
    }
    fn is_member(&self, _: &NodeId) -> bool {
        true
    }
    fn owners(&self, _: Scope, slot: Slot) -> Owners {
        let first = 3 * slot.index() as u64;
        (first..first + 3).map(hostile).collect()
    }
    fn shard_count(&self) -> u64 {
        1
    }
    fn previous_arbiter(&self, _: Slot) -> Option<NodeId> {
        None
    }
    fn has_joined(&self) -> bool {
        true
    }
}

/// What an owner says at a time after it was asked, in milliseconds.
type Lie = fn(u64) -> Option<Reply>;

fn wait_for(leader: Option<NodeId>, is_upstream_slow: bool) -> Reply {
    Reply::Wait(Wait {
        leader: node_field(leader),
        fetches: false,
        is_upstream_slow,
    })
}

fn follow(number: u64) -> Reply {
    Reply::Follow(Follow {
        source: node_field(Some(hostile(number))),
        epoch: 2,
        order: 5,
        leader: node_field(Some(hostile(1))),
    })
}

fn every(interval: u64, after: u64, reply: Reply) -> Option<Reply> {
    after.is_multiple_of(interval).then_some(reply)
}

/// What a node believes, and loses more time by, once.
#[derive(Clone, Copy, PartialEq)]
enum Believed {
    Nothing,
    /// That a registry of which it knows nothing is slow.
    SlowRegistry,
    /// That each object should be retried later.
    Later,
    Both,
}

impl Believed {
    fn costs(self, may_requeue: bool) -> Duration {
        let slow_registry = match self {
            Self::SlowRegistry | Self::Both => FIRST_STEPS_MAX,
            Self::Nothing | Self::Later => Duration::ZERO,
        };
        let requeues = match self {
            Self::Later | Self::Both if may_requeue => {
                REQUEUE_AFTER * LAYERS as u32 / CONTAINERD_SLOTS as u32
            }
            _ => Duration::ZERO,
        };
        slow_registry + requeues
    }
}

/// The lies, and what is believed of them.
const LIES: [(&str, Believed, Lie); 15] = [
    ("nothing", Believed::Nothing, |_| None),
    ("wait", Believed::Nothing, |after| {
        every(400, after, wait_for(None, false))
    }),
    ("wait for a leader", Believed::Nothing, |after| {
        every(400, after, wait_for(Some(hostile(1)), false))
    }),
    (
        "wait for a leader of a slow registry",
        Believed::SlowRegistry,
        |after| every(400, after, wait_for(Some(hostile(1)), true)),
    ),
    (
        "wait for another leader each time",
        Believed::SlowRegistry,
        |after| {
            every(
                200,
                after,
                wait_for(Some(hostile(after / 200)), after > 1_000),
            )
        },
    ),
    ("later", Believed::Nothing, |after| {
        every(400, after, Reply::Later(true))
    }),
    ("later as late as it may", Believed::Later, |after| {
        let is_due = after == REQUEUE_AFTER.as_millis() as u64;
        is_due.then_some(Reply::Later(true))
    }),
    (
        "wait for a leader, then later",
        Believed::Both,
        |after| match after {
            800 => Some(Reply::Later(true)),
            _ => every(200, after, wait_for(Some(hostile(1)), true)),
        },
    ),
    (
        "wait for a leader, then lead",
        Believed::SlowRegistry,
        |after| match after {
            800 => Some(Reply::Lead(true)),
            _ => every(200, after, wait_for(Some(hostile(1)), true)),
        },
    ),
    (
        "wait for a leader of a slow registry for long, then lead",
        Believed::SlowRegistry,
        |after| match after {
            11_000 => Some(Reply::Lead(true)),
            _ => every(400, after, wait_for(Some(hostile(1)), true)),
        },
    ),
    ("follow", Believed::Nothing, |after| {
        every(400, after, follow(after))
    }),
    (
        "wait, then follow",
        Believed::Nothing,
        |after| match after {
            900 => Some(follow(after)),
            _ => every(300, after, wait_for(Some(hostile(1)), false)),
        },
    ),
    (
        "wait for a slow registry, then follow",
        Believed::SlowRegistry,
        |after| match after {
            900 => Some(follow(after)),
            _ => every(300, after, wait_for(Some(hostile(1)), true)),
        },
    ),
    ("redirects", Believed::Nothing, |after| {
        every(
            150,
            after,
            Reply::Redirect(node_field(Some(hostile(after)))),
        )
    }),
    (
        "wait, then redirects",
        Believed::SlowRegistry,
        |after| match after {
            900 => Some(Reply::Redirect(node_field(Some(hostile(7))))),
            _ => every(300, after, wait_for(Some(hostile(1)), true)),
        },
    ),
];

enum Download {
    Waits(RequestId),
    Receives { starts: u64, left: u64 },
}

impl Download {
    fn waits_for(&self, id: RequestId) -> bool {
        matches!(self, Self::Waits(waits) if *waits == id)
    }

    fn has_begun(&self, now: u64) -> bool {
        matches!(self, Self::Receives { starts, .. } if *starts <= now)
    }
}

/// A node whose containerd pulls the image.
struct Puller {
    coordinator: Coordinator,
    now: u64,
    queue: VecDeque<u64>,
    downloads: BTreeMap<u64, Download>,
    /// The requests that the owners have, and when they were sent.
    asked: BTreeMap<(NodeId, u64), (Key, u64)>,
    /// The layers that were told to retry later, and those to pull from upstream.
    requeued: BTreeSet<u64>,
    upstream: BTreeSet<u64>,
    failed: BTreeMap<u64, Vec<NodeId>>,
    /// Downloads share slots: containerd from 2.1 on.
    may_requeue: bool,
    observed: u64,
    received: u64,
}

fn layer_key(layer: u64) -> Key {
    Key::of(&format!("sha256:{layer}"))
}

impl Puller {
    fn new(may_requeue: bool) -> Self {
        Self {
            coordinator: Coordinator::new(ME, 1),
            now: 1_000,
            queue: (0..LAYERS).collect(),
            downloads: BTreeMap::new(),
            asked: BTreeMap::new(),
            requeued: BTreeSet::new(),
            upstream: BTreeSet::new(),
            failed: BTreeMap::new(),
            may_requeue,
            observed: 0,
            received: 0,
        }
    }

    /// Pulls all layers. Returns the time that it took.
    fn pull(mut self, lie: Option<Lie>) -> Duration {
        let began = self.now;
        while !(self.queue.is_empty() && self.downloads.is_empty()) {
            assert!(self.now - began < 600_000, "it hangs");
            self.fill_slots(lie.is_some());
            if let Some(lie) = lie {
                self.talk(lie);
            }
            self.receive();
            self.now += STEP;
        }
        Duration::from_millis(self.now - began)
    }

    fn fill_slots(&mut self, has_peers: bool) {
        while self.downloads.len() < CONTAINERD_SLOTS
            && let Some(layer) = self.queue.pop_front()
        {
            let download = match has_peers && !self.upstream.contains(&layer) {
                true => Download::Waits(self.request(layer)),
                false => self.begin(),
            };
            self.downloads.insert(layer, download);
        }
    }

    fn begin(&self) -> Download {
        let (starts, left) = (self.now + FIRST_BYTE, LAYER);
        Download::Receives { starts, left }
    }

    fn request(&mut self, layer: u64) -> RequestId {
        let may_requeue = self.may_requeue && !self.requeued.contains(&layer);
        let request = SourceRequest {
            repository: REPOSITORY,
            registry: REGISTRY,
            size: Some(LAYER),
            failed_sources: nodes_field(self.failed.get(&layer).cloned().unwrap_or_default()),
            concurrent_objects: 3,
            requeue_after_ms: match may_requeue {
                true => REQUEUE_AFTER.as_millis() as u32,
                false => 0,
            },
            ..SourceRequest::of_key(layer_key(layer))
        };
        let now = Time(self.now);
        self.coordinator.request_source(now, request, &Hostile)
    }

    /// Delivers what the node asks and what the owners answer, and takes the decisions.
    fn talk(&mut self, lie: Lie) {
        let now = Time(self.now);
        self.coordinator.tick(now, &Hostile);
        for (to, bytes) in self.coordinator.take_datagrams() {
            match Message::from_datagram(bytes).expect("its own message").1 {
                Message::SourceRequest(request) => {
                    let asked = (request.key(), self.now);
                    self.asked.entry((to, request.number)).or_insert(asked);
                }
                Message::Withdraw(withdraw) => {
                    self.asked.remove(&(to, withdraw.number));
                }
                _ => {}
            }
        }
        for ((owner, number), (key, since)) in self.asked.clone() {
            if let Some(reply) = lie(self.now - since) {
                let answer = Message::answer(key, number, reply);
                self.coordinator
                    .accept(now, owner, (None, answer), &Hostile);
            }
        }
        for (id, decision) in self.coordinator.take_decisions() {
            let mut downloads = self.downloads.iter();
            let Some((&layer, _)) = downloads.find(|(_, download)| download.waits_for(id)) else {
                continue;
            };
            match decision {
                Decision::Lead | Decision::Alone if self.may_requeue => {
                    // containerd from 2.1 on queues it anew, for upstream.
                    self.downloads.remove(&layer);
                    self.upstream.insert(layer);
                    self.queue.push_back(layer);
                }
                Decision::Lead | Decision::Alone => {
                    let download = self.begin();
                    self.downloads.insert(layer, download);
                }
                Decision::Later => {
                    self.downloads.remove(&layer);
                    self.queue.push_back(layer);
                    self.requeued.insert(layer);
                }
                Decision::Follow { source, .. } => {
                    // It closes the connection.
                    self.failed.entry(layer).or_default().insert(0, source);
                    let request = self.request(layer);
                    self.downloads.insert(layer, Download::Waits(request));
                }
            }
        }
    }

    fn receive(&mut self) {
        let now = self.now;
        let receiving = self.downloads.values().filter(|d| d.has_begun(now));
        let count = receiving.count() as u64;
        let share = UPSTREAM * STEP / 1_000 / count.max(1);
        let mut progress = Vec::new();
        for (layer, download) in &mut self.downloads {
            let Download::Receives { starts, left } = download else {
                continue;
            };
            if *starts > now {
                continue;
            }
            if *left == LAYER {
                progress.push((*layer, PullProgress::Begun { size: LAYER }));
            }
            self.received += share.min(*left);
            *left = left.saturating_sub(share);
            if *left == 0 {
                progress.push((*layer, PullProgress::Done));
            }
        }
        for (layer, progress) in progress {
            let is_done = matches!(progress, PullProgress::Done);
            let key = layer_key(layer);
            self.coordinator.report(Time(now), key, progress, &Hostile);
            if is_done {
                self.downloads.remove(&layer);
            }
        }
        if now - self.observed >= 250 {
            let rate = self.received * 1_000 / (now - self.observed);
            (self.received, self.observed) = (0, now);
            let led_bytes = Vec::new();
            let received = Received { rate, led_bytes };
            self.coordinator.observe(Time(now), &received, &Hostile);
        }
    }
}

#[test]
fn hostile_arbiters_cost_a_pull_of_40_layers_the_budget_and_what_is_believed() {
    let alone = Puller::new(false).pull(None);
    for may_requeue in [false, true] {
        for (name, believed, lie) in LIES {
            let took = Puller::new(may_requeue).pull(Some(lie));
            let added = took.saturating_sub(alone);
            println!("{name}, may requeue: {may_requeue}: {added:?} more than {alone:?}");
            let most = BUDGET + believed.costs(may_requeue) + SLACK;
            assert!(added <= most, "{name}: {added:?}, {most:?} at most");
        }
    }
}
