//! Leads that are too slow, and nodes that are.

use std::ops::Range;
use std::time::Duration;

use flights::{Coordinator, Decision, Key, PullProgress, SourceRequest, Time, node_field};

use crate::cluster::{id, index, wanted};
use crate::coordinators::{ClusterView, Coordinators, Directory};

/// A flight, and what comes of what is asked at once.
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

    /// Somebody gets far less from its source than is usual.
    fn report_slow_leader(&mut self, asker: usize, slow: usize) -> Option<Decision> {
        let wanted = SourceRequest {
            offset: 5,
            slow_source: node_field(Some(id(slow))),
            slow_leader: node_field(Some(id(1))),
            ..wanted(self.key)
        };
        self.want(asker, wanted)
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

    /// What has come of a node's last question, if something has.
    fn decision(&mut self, asker: usize) -> Option<Decision> {
        let decisions = self
            .coordinators
            .with(asker, |coordinator, _| coordinator.take_decisions());
        decisions.into_iter().next().map(|(_, decision)| decision)
    }

    /// Some nodes, each of which is fed by the one before it, and the first leads.
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
fn a_lead_that_is_far_too_slow_gets_a_second_one_and_no_third() {
    let all = Directory::new(0..16);
    let mut flight = Asking::new(&all);
    flight.chain(1..5);
    assert_eq!(
        flight.report_slow_leader(2, 1),
        None,
        "nobody else has said so"
    );
    assert_eq!(flight.report_slow_leader(3, 2), Some(Decision::Lead));
    // Who complains waits until the second one has begun, and is fed by way of it.
    assert_eq!(flight.decision(2), None);
    assert_eq!(flight.report_slow_leader(4, 3), None);
    flight.report(3, BEGUN);
    assert_eq!(source(flight.decision(2)), Some(3));
    assert_eq!(source(flight.decision(4)), Some(2));
    assert_eq!(source(flight.report_slow_leader(4, 2)), Some(3), "no third");
    assert_eq!(source(flight.ask(5)), Some(4));
}

#[test]
fn a_single_reporter_may_be_slow_itself() {
    let all = Directory::new(0..16);
    let mut flight = Asking::new(&all);
    flight.chain(1..4);
    assert_eq!(flight.report_slow_leader(3, 2), None);
    flight.coordinators.tick(Time(1_200));
    assert_eq!(source(flight.decision(3)), Some(1), "any other");
    // In a cluster of two there is nobody else to say so.
    let mut flight = Asking::new(&all);
    flight.chain(1..3);
    assert_eq!(flight.report_slow_leader(2, 1), Some(Decision::Lead));
}

#[test]
fn a_second_lead_that_does_not_begin_is_not_waited_for_long() {
    let all = Directory::new(0..16);
    let mut flight = Asking::new(&all);
    flight.chain(1..4);
    flight.report_slow_leader(3, 2);
    assert_eq!(flight.report_slow_leader(2, 1), Some(Decision::Lead));
    flight.coordinators.tick(Time(1_200));
    assert_eq!(source(flight.decision(3)), Some(1));
}

#[test]
fn a_lead_that_has_not_begun_gets_a_second_one_too() {
    let all = Directory::new(0..16);
    let mut flight = Asking::new(&all);
    assert_eq!(flight.ask(1), Some(Decision::Lead));
    assert_eq!(flight.report_slow_leader(2, 1), Some(Decision::Lead));
    assert_eq!(flight.ask(3), None);
    flight.report(2, BEGUN);
    assert_eq!(source(flight.decision(3)), Some(2));
}

#[test]
fn how_long_bytes_have_come_from_upstream_is_told() {
    let all = Directory::new(0..16);
    let led_for = |decision: Option<Decision>| match decision {
        Some(Decision::Follow { led_for, .. }) => led_for,
        other => panic!("{other:?}"),
    };
    let mut flight = Asking::new(&all);
    flight.ask(1);
    flight.report(1, BEGUN);
    assert_eq!(led_for(flight.ask(2)), Some(Duration::ZERO));
    flight.now = Time(700);
    assert_eq!(led_for(flight.ask(3)), Some(Duration::from_millis(600)));
    flight.report(1, PullProgress::Done);
    assert_eq!(led_for(flight.ask(4)), None);
    // It had some of it before.
    let mut flight = Asking::new(&all);
    flight.report_slow_leader(1, 9);
    flight.report(1, BEGUN);
    assert!(led_for(flight.ask(2)) > Some(Duration::from_secs(86_400)));
}

#[test]
fn upstream_is_not_asked_for_what_somebody_has() {
    let all = Directory::new(0..16);
    let mut flight = Asking::new(&all);
    flight.chain(1..4);
    flight.report(1, PullProgress::Done);
    assert_eq!(source(flight.report_slow_leader(3, 2)), Some(1));
    let mut flight = Asking::new(&all);
    flight.chain(1..3);
    flight.report(1, PullProgress::Done);
    assert_eq!(
        source(flight.report_slow_leader(2, 1)),
        Some(1),
        "there is no other"
    );
}

#[test]
fn who_lags_leads_if_nobody_else_asks() {
    let all = Directory::new(0..16);
    for others in [true, false] {
        let mut flight = Asking::new(&all);
        flight.coordinators.with(1, |coordinator, view| {
            coordinator.set_slow(Time(0), true, view);
        });
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
