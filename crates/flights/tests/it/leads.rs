//! Leads that are too slow, and nodes that are.

use std::ops::Range;
use std::time::Duration;

use flights::{
    Condition, Coordinator, Decision, Event, Key, PullProgress, Received, SourceRequest, Time,
    node_field, registry_hash,
};

use crate::cluster::{Cluster, id, index, link_test, wanted};
use crate::coordinators::{ClusterView, Coordinators, Directory};

/// A flight, and the decisions on requests.
struct Asking<'a> {
    coordinators: Coordinators<'a>,
    key: Key,
    now: Time,
}

const BEGUN: PullProgress = PullProgress::Begun { size: 30_000_000 };

impl<'a> Asking<'a> {
    fn new(all: &'a Directory) -> Self {
        let coordinators = Coordinators::new(16, |_| all);
        let (key, now) = (Key::of("sha256:slow"), Time(100));
        Self {
            coordinators,
            key,
            now,
        }
    }

    fn ask(&mut self, asker: usize) -> Option<Decision> {
        self.want(asker, wanted(self.key))
    }

    /// A follower leaves its source, because it is far too slow.
    fn leave(&mut self, asker: usize, slow: usize) -> Option<Decision> {
        let wanted = SourceRequest {
            offset: 5,
            slow_source: node_field(Some(id(slow))),
            ..wanted(self.key)
        };
        self.want(asker, wanted)
    }

    /// The link of a node becomes slow, or fast again.
    fn test_link(&mut self, node: usize, is_slow: bool) -> Vec<Event> {
        let now = self.now;
        self.coordinators.with(node, |coordinator, view| {
            coordinator.link_tested(now, link_test(is_slow), view);
        });
        self.coordinators.deliver(now);
        self.coordinators
            .with(node, |coordinator, _| coordinator.take_events())
    }

    fn want(&mut self, asker: usize, wanted: SourceRequest) -> Option<Decision> {
        let ask = |coordinator: &mut Coordinator, view: &ClusterView<'_>| {
            coordinator.request_source(self.now, wanted, view)
        };
        self.coordinators.with(asker, ask);
        self.coordinators.deliver(self.now);
        self.decision(asker)
    }

    fn report(&mut self, node: usize, progress: PullProgress) {
        let (now, key) = (self.now, self.key);
        let report = |coordinator: &mut Coordinator, view: &ClusterView<'_>| {
            coordinator.report(now, key, progress, view);
        };
        self.coordinators.with(node, report);
        self.coordinators.deliver(now);
    }

    /// Lets time pass. Returns the decisions for these nodes, in order.
    fn wait(&mut self, time: Duration, askers: Range<usize>) -> Vec<(usize, Decision)> {
        let end = self.now.after(time);
        let mut came = Vec::new();
        while self.now < end {
            self.now = self.now.after(Duration::from_millis(50));
            self.coordinators.tick(self.now);
            for asker in askers.clone() {
                came.extend(self.decision(asker).map(|decision| (asker, decision)));
            }
        }
        came
    }

    /// The decision on a node's last request, if it is there.
    fn decision(&mut self, asker: usize) -> Option<Decision> {
        let decisions = self
            .coordinators
            .with(asker, |coordinator, _| coordinator.take_decisions());
        decisions.into_iter().next().map(|(_, decision)| decision)
    }

    /// A chain of nodes: the first leads, and each other is fed by the one before it.
    fn chain(&mut self, nodes: Range<usize>) {
        for node in nodes.clone() {
            let decision = self.ask(node);
            if node == nodes.start {
                assert_eq!(decision, Some(Decision::Lead));
            } else {
                assert_eq!(source(decision), Some(node - 1));
            }
            self.report(node, BEGUN);
        }
    }
}

fn source(decision: Option<Decision>) -> Option<usize> {
    match decision? {
        Decision::Follow { source, .. } => Some(index(&source)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_slow_leader_gets_another_beside_it_and_the_others_follow_that() {
    let all = Directory::new(0..16);
    let mut flight = Asking::new(&all);
    flight.chain(1..5);
    let events = flight.test_link(1, true);
    let is_slow = |event: &Event| matches!(event, Event::Link(s) if s.condition == Condition::Slow);
    assert!(
        events.iter().all(is_slow) && events.len() == 1,
        "{events:?}"
    );
    // The nodes that it fed go on elsewhere. The others are behind this node.
    assert_eq!(flight.leave(2, 1), Some(Decision::Lead));
    assert_eq!(source(flight.ask(5)), Some(4));
    assert_eq!(source(flight.leave(4, 3)), Some(2));
}

#[test]
fn a_source_that_one_follower_found_slow_comes_last() {
    let all = Directory::new(0..16);
    let mut flight = Asking::new(&all);
    flight.chain(1..3);
    // Its uplink is slow, but it does not know that.
    assert_eq!(flight.leave(2, 1), Some(Decision::Lead));
    flight.report(2, BEGUN);
    assert_eq!(source(flight.ask(3)), Some(2));
}

#[test]
fn nobody_waits_for_a_slow_leader_to_begin() {
    let all = Directory::new(0..16);
    let mut flight = Asking::new(&all);
    assert_eq!(flight.ask(1), Some(Decision::Lead));
    assert_eq!(flight.ask(2), None);
    flight.test_link(1, true);
    assert_eq!(flight.decision(2), Some(Decision::Lead));
}

#[test]
fn one_more_node_leads_if_the_leader_has_no_byte_in_time() {
    let all = Directory::new(0..16);
    let mut flight = Asking::new(&all);
    assert_eq!(flight.ask(1), Some(Decision::Lead));
    for node in 2..6 {
        assert_eq!(flight.ask(node), None);
    }
    let came = flight.wait(Duration::from_millis(1_900), 2..6);
    let [(second, Decision::Lead)] = came[..] else {
        panic!("{came:?}");
    };
    // Neither has a byte, so upstream is slow.
    let came = flight.wait(Duration::from_secs(5), 2..6);
    assert!(came.is_empty(), "{came:?}");
    flight.report(second, BEGUN);
    for node in (2..6).filter(|node| *node != second) {
        let source = source(flight.decision(node)).expect("one has begun");
        assert!(source == second || (2..6).contains(&source), "{source}");
    }
}

#[test]
fn leaders_without_a_byte_are_not_waited_for_without_end() {
    let all = Directory::new(0..16);
    let mut flight = Asking::new(&all);
    assert_eq!(flight.ask(1), Some(Decision::Lead));
    for node in 2..6 {
        assert_eq!(flight.ask(node), None);
    }
    let came = flight.wait(Duration::from_secs(15), 2..6);
    let alone = came.iter().filter(|(_, what)| *what == Decision::Alone);
    assert_eq!((came.len(), alone.count()), (4, 3), "{came:?}");
}

#[test]
fn upstream_is_not_asked_for_what_somebody_has() {
    let all = Directory::new(0..16);
    let mut flight = Asking::new(&all);
    flight.chain(1..4);
    flight.report(1, PullProgress::Done);
    assert_eq!(source(flight.leave(3, 2)), Some(1));
    let mut flight = Asking::new(&all);
    flight.chain(1..3);
    flight.report(1, PullProgress::Done);
    assert_eq!(source(flight.leave(2, 1)), Some(1), "there is no other");
}

/// What a leader receives from the registry, second by second. Returns whether it sends its followers away.
fn leaves_followers(
    flight: &mut Asking<'_>,
    node: usize,
    rates: impl IntoIterator<Item = u64>,
) -> bool {
    let (mut events, mut bytes) = (Vec::new(), 0);
    for rate in rates {
        bytes += rate;
        flight.now = flight.now.after(Duration::from_secs(1));
        let now = flight.now;
        let received = Received {
            rate,
            led_bytes: vec![(registry_hash("registry"), bytes)],
        };
        events.extend(flight.coordinators.with(node, |coordinator, view| {
            coordinator.observe(now, &received, view);
            coordinator.take_events()
        }));
        flight.coordinators.tick(now);
        flight.coordinators.deliver(now);
    }
    events.contains(&Event::LeaderIsSlow(flight.key))
}

fn of_registry(key: Key) -> SourceRequest {
    let request = SourceRequest::new("x", Some(("registry", "registry/app")));
    SourceRequest {
        key: wanted(key).key,
        ..request
    }
}

/// A request that goes on where the leader left off.
fn resumed(request: &SourceRequest, slow: Option<usize>) -> SourceRequest {
    SourceRequest {
        offset: 5,
        slow_source: node_field(slow.map(id)),
        ..request.clone()
    }
}

/// A flight led by node 2, far more slowly than the registry was before, as node 1 has reported.
fn led_slowly(all: &Directory) -> (Asking<'_>, SourceRequest) {
    let mut flight = Asking::new(all);
    let request = of_registry(flight.key);
    assert_eq!(flight.want(1, request.clone()), Some(Decision::Lead));
    flight.report(1, BEGUN);
    assert!(!leaves_followers(&mut flight, 1, [8_000_000; 5]));
    // The next node that asks learns this, and later finds that it gets far less.
    flight.want(2, request.clone());
    flight.report(1, PullProgress::Failed);
    let leads = flight.want(2, resumed(&request, None));
    assert_eq!(leads, Some(Decision::Lead));
    flight.report(2, BEGUN);
    assert!(!leaves_followers(&mut flight, 2, [3_000_000; 5]));
    assert!(leaves_followers(&mut flight, 2, [1_000_000; 5]));
    (flight, request)
}

#[test]
fn what_a_registry_gives_is_known_to_others() {
    let all = Directory::new(0..16);
    let (mut flight, request) = led_slowly(&all);
    assert!(!leaves_followers(&mut flight, 2, [1_000_000]), "once");
    // Another node leads beside it, and its containerd retries through its queue. It gets as little, and keeps its
    // followers: a third lead would only take its share of the registry.
    for _ in 0..2 {
        let leads = flight.want(3, resumed(&request, Some(2)));
        assert_eq!(leads, Some(Decision::Lead));
    }
    flight.report(3, BEGUN);
    assert!(!leaves_followers(&mut flight, 3, [1_000_000; 5]));
}

/// The second leader gets nothing either, so the first one is not the reason.
#[test]
fn after_a_second_leader_without_a_byte_the_first_is_not_judged_again_soon() {
    let all = Directory::new(0..16);
    let (mut flight, request) = led_slowly(&all);
    let leads = flight.want(3, resumed(&request, Some(2)));
    assert_eq!(leads, Some(Decision::Lead));
    assert!(!leaves_followers(&mut flight, 2, [1_000_000; 13]));
    assert!(leaves_followers(&mut flight, 2, [1_000_000; 13]), "later");
}

#[test]
fn a_registry_that_nobody_knows_is_tried_by_another_node_once() {
    let all = Directory::new(0..16);
    let mut flight = Asking::new(&all);
    let request = of_registry(flight.key);
    assert_eq!(flight.want(1, request.clone()), Some(Decision::Lead));
    flight.report(1, BEGUN);
    assert!(
        !leaves_followers(&mut flight, 1, [1_000_000; 5]),
        "perhaps its link"
    );
    flight.test_link(1, false);
    assert!(leaves_followers(&mut flight, 1, [1_000_000; 5]));
    // The second leader gets as little, and accepts it.
    let resumed = SourceRequest {
        offset: 5,
        slow_source: node_field(Some(id(1))),
        ..request
    };
    assert_eq!(flight.want(2, resumed), Some(Decision::Lead));
    flight.report(2, BEGUN);
    flight.test_link(2, false);
    assert!(!leaves_followers(&mut flight, 2, [1_000_000; 5]));
}

#[test]
fn who_lags_leads_if_nobody_else_asks() {
    let all = Directory::new(0..16);
    for others in [true, false] {
        let mut flight = Asking::new(&all);
        flight.test_link(1, true);
        assert_eq!(flight.ask(1), None);
        if others {
            assert_eq!(flight.ask(2), Some(Decision::Lead));
            flight.report(2, BEGUN);
            assert_eq!(source(flight.decision(1)), Some(2));
        } else {
            flight.coordinators.tick(Time(450));
            assert_eq!(flight.decision(1), Some(Decision::Lead));
        }
    }
}

/// What a node that leads at once does for another object when it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    Nothing,
    /// Its mirror fetches it, without a byte so far.
    Fetches,
    /// Its mirror fetches it, and bytes come.
    Receives,
    /// Its mirror fetches it, and no more bytes come.
    Hangs,
    /// Its mirror has left it to containerd, which has bytes.
    LeftToClient,
}

/// A flight in which node 1 leads another object. See [`Other`].
fn leading_another(all: &Directory, other: Other) -> Asking<'_> {
    let mut flight = Asking::new(all);
    let key = std::mem::replace(&mut flight.key, Key::of("sha256:other"));
    if other != Other::Nothing {
        let request = SourceRequest {
            leads_at_once: true,
            ..of_registry(flight.key)
        };
        assert_eq!(flight.want(1, request), Some(Decision::Lead));
    }
    if other == Other::LeftToClient {
        flight.report(1, PullProgress::LeftToClient);
    }
    if matches!(other, Other::Receives | Other::Hangs | Other::LeftToClient) {
        flight.report(1, BEGUN);
    }
    flight.key = key;
    flight
}

/// How many milliseconds the lead is held for node 2 if node 1 asks, which receives `rate` bytes per second.
/// `leads_at_once`: see the protocol.
fn held_for(flight: &mut Asking<'_>, leads_at_once: bool, rate: u64) -> u128 {
    let request = SourceRequest {
        preferred_leader: node_field(Some(id(2))),
        leads_at_once,
        size: Some(32 * 1024 * 1024),
        ..of_registry(flight.key)
    };
    assert_eq!(flight.want(1, request), None);
    let began = flight.now;
    let received = Received {
        rate,
        led_bytes: Vec::new(),
    };
    while flight.wait(Duration::from_millis(50), 1..2).is_empty() {
        let now = flight.now;
        flight.coordinators.with(1, |coordinator, view| {
            coordinator.observe(now, &received, view);
        });
    }
    flight.now.since(began).as_millis()
}

#[test]
fn a_lead_is_held_for_the_leader_of_the_manifest_while_waiting_costs_nothing() {
    let all = Directory::new(0..16);
    for (leads_at_once, other, millis) in [
        (false, Other::Nothing, 300..500),
        (false, Other::Receives, 300..500),
        (true, Other::Nothing, 300..500),
        (true, Other::Fetches, 2_000..3_000),
        (true, Other::Receives, 15_000..15_500),
        (true, Other::Hangs, 2_000..3_000),
        (true, Other::LeftToClient, 300..500),
    ] {
        let rate = if other == Other::Receives {
            1_000_000
        } else {
            0
        };
        let held_for = held_for(&mut leading_another(&all, other), leads_at_once, rate);
        assert!(
            millis.contains(&held_for),
            "{leads_at_once} {other:?}: {held_for} ms"
        );
    }
}

/// If the registry gives a node what its link carries, its uplink is probably wider.
#[test]
fn a_node_without_a_lead_leads_at_once_if_the_registry_gives_what_the_link_carries() {
    let all = Directory::new(0..16);
    for (given, leads) in [(9_000_000, true), (5_000_000, false)] {
        let mut flight = leading_another(&all, Other::Receives);
        flight.test_link(1, false);
        assert!(!leaves_followers(&mut flight, 1, [given; 5]));
        let request = SourceRequest {
            preferred_leader: node_field(Some(id(2))),
            leads_at_once: true,
            requeue_after_ms: 2_000,
            ..of_registry(flight.key)
        };
        assert_eq!(flight.want(1, request), None);
        let came = flight.wait(Duration::from_millis(1_500), 1..2);
        assert_eq!(came, [], "it leads another object");
        flight.key = Key::of("sha256:other");
        flight.report(1, PullProgress::Done);
        let came = flight.wait(Duration::from_millis(400), 1..2);
        let at_once = leads.then_some((1, Decision::Lead));
        assert_eq!(came, Vec::from_iter(at_once), "{given}");
        let came = flight.wait(Duration::from_secs(1), 1..2);
        let later = (!leads).then_some((1, Decision::Later));
        assert_eq!(came, Vec::from_iter(later), "{given}");
    }
}

#[test]
fn a_leader_whose_download_ended_early_follows_a_holder() {
    let all = Directory::new(0..16);
    let mut flight = Asking::new(&all);
    flight.chain(1..3);
    let resumed = SourceRequest {
        offset: 5,
        ..wanted(flight.key)
    };
    assert_eq!(flight.want(1, resumed.clone()), Some(Decision::Lead));
    flight.report(2, PullProgress::Done);
    assert_eq!(source(flight.want(1, resumed)), Some(2));
}

/// An arbiter holds leads back only where it has replaced another arbiter.
#[test]
fn an_owner_that_cannot_be_reached_holds_up_no_lead_of_an_arbiter() {
    let mut cluster = Cluster::new(3);
    for arbiter in 0..3 {
        let key = cluster.key_of_arbiter(arbiter);
        for other in (0..3).filter(|other| *other != arbiter) {
            cluster.with(arbiter, |node, now| node.undelivered(now, id(other)));
        }
        let since = cluster.now;
        cluster.request_source(arbiter, key);
        let decisions = cluster.await_decisions(1, 2_000);
        assert!(
            matches!(decisions[..], [(_, _, Decision::Lead)]),
            "{decisions:?}"
        );
        assert!(cluster.time(since) < Duration::from_millis(100));
    }
}
