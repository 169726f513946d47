use std::time::Duration;

use proptest::prelude::*;

use super::foreign_answers_tests::Six;
use super::*;
use crate::PullProgress;
use crate::ledger::GRACE;
use crate::slots::{Owners, Scope, Slot};
use crate::wire::tests::{asked, message, numbered_as, some_key, some_node};
use crate::wire::{Alive, PullState, Reply, RequestNumber, node, node_field};

/// Three members own all slots; this one is the arbiter of all.
struct Three;

const ME: NodeId = NodeId([0; 32]);

impl View for Three {
    fn me(&self) -> NodeId {
        ME
    }
    fn members(&self) -> usize {
        3
    }
    fn is_member(&self, id: &NodeId) -> bool {
        id.0[0] < 3
    }
    fn owners(&self, scope: Scope, _: Slot) -> Owners {
        let all = [0, 1, 2].map(|n| NodeId([n; 32])).into_iter();
        all.filter(|_| scope != Scope::Cluster).collect()
    }

    fn shard_count(&self) -> u64 {
        1
    }

    fn previous_arbiter(&self, slot: Slot) -> Option<NodeId> {
        (slot.index() == 1).then_some(NodeId([1; 32]))
    }
    fn has_joined(&self) -> bool {
        true
    }
}

#[derive(Clone, Debug)]
enum Event {
    Comes(NodeId, Option<NodeId>, Box<Message>),
    SourceRequests(Key),
    Reports(Key, PullProgress),
    Fails(NodeId),
    Left(NodeId),
    Passes(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let size = prop_oneof![Just(0), Just(u64::MAX), any::<u64>()];
    let progress = prop_oneof![
        size.prop_map(|size| PullProgress::Begun { size }),
        Just(PullProgress::Done),
        Just(PullProgress::Failed),
    ];
    prop_oneof![
        20 => (some_node(), prop::option::weighted(0.3, some_node()), message())
            .prop_map(|(from, of, message)| Event::Comes(from, of, Box::new(message))),
        2 => some_key().prop_map(Event::SourceRequests),
        2 => (some_key(), progress).prop_map(|(key, progress)| Event::Reports(key, progress)),
        1 => some_node().prop_map(Event::Fails),
        1 => some_node().prop_map(Event::Left),
        4 => (0..3_000_u64).prop_map(Event::Passes),
    ]
}

fn wanted(key: Key) -> SourceRequest {
    SourceRequest {
        repository: 1,
        registry: 1,
        ..SourceRequest::of_key(key)
    }
}

/// Otherwise waiting for the next leader would no longer be free.
#[test]
fn a_busy_holder_is_no_leader_that_failed() {
    for is_busy in [true, false] {
        let (mut coordinator, view, now) = (Coordinator::new(ME, 1), &Three, Time(0));
        let (key, holder) = (Key([1; 16]), NodeId([1; 32]));
        let done = Message::report(key, RequestNumber::default(), PullState::Done(true));
        coordinator.accept(now, holder, (None, done), view);
        coordinator.request_source(now, wanted(key), view);
        let decisions = coordinator.take_decisions();
        assert!(
            matches!(decisions[..], [(_, Decision::Follow { source, .. })] if source == holder),
            "{decisions:?}"
        );
        let (busy, failed) = if is_busy {
            (Some(holder), None)
        } else {
            (None, Some(holder))
        };
        let next = SourceRequest {
            busy_sources: node_field(busy),
            failed_sources: node_field(failed),
            ..wanted(key)
        };
        coordinator.request_source(now, next, view);
        let ledger = &coordinator.requests.ledger;
        let free = ledger.free_wait((1, 1), GRACE, Duration::ZERO);
        assert_eq!(free, if is_busy { GRACE } else { Duration::ZERO });
    }
}

proptest! {
    /// Whatever other members send, in whatever order: nothing panics, and when they fall silent, only their
    /// announcements are kept.
    #[test]
    fn nothing_is_kept_of_those_who_fall_silent(events in prop::collection::vec(event(), 0..120)) {
        let mut coordinator = Coordinator::new(ME, 1);
        let (mut now, view) = (Time(0), &Three);
        for event in events {
            match event {
                // This node sends its own messages itself.
                Event::Comes(from, ..) if from == ME => {}
                Event::Comes(from, on_behalf_of, message) => coordinator.accept(now, from, (on_behalf_of, *message), view),
                Event::SourceRequests(key) => {
                    coordinator.request_source(now, wanted(key), view);
                }
                Event::Reports(key, progress) => coordinator.report(now, key, progress, view),
                Event::Fails(node) => coordinator.undelivered(now, node, view),
                Event::Left(node) => coordinator.member_left(now, node, view),
                Event::Passes(millis) => now = now.after(Duration::from_millis(millis)),
            }
            coordinator.tick(now, view);
        }
        for n in 0..4_u8 {
            coordinator.report(now, Key([n * 64; 16]), PullProgress::Failed, view);
        }
        let end = now.after(Duration::from_secs(400));
        let mut ticks_at_once = 0;
        while let Some(next) = coordinator.next_deadline().filter(|next| *next <= end) {
            // What an answer makes due may be due since before.
            ticks_at_once = if next > now { 0 } else { ticks_at_once + 1 };
            prop_assert!(ticks_at_once < 10, "time goes on");
            now = now.max(next);
            coordinator.tick(now, view);
            for (request, _) in coordinator.take_decisions() {
                coordinator.cancel(now, request, view);
            }
        }
        coordinator.tick(end, view);
        prop_assert_eq!(coordinator.pending_requests(), 0);
        coordinator.arbiter.check_is_quiet(end, view);
    }
}

/// The answers to a node.
fn answers_to(coordinator: &mut Coordinator, to: NodeId) -> Vec<Reply> {
    let said = coordinator.take_datagrams().into_iter();
    let said = said.filter(|(other, _)| *other == to);
    let said = said.map(|(_, bytes)| Message::from_datagram(bytes).expect("its own message").1);
    said.filter_map(|message| match message {
        Message::Answer(answer) => answer.reply,
        _ => None,
    })
    .collect()
}

#[test]
fn a_request_that_begins_with_little_time_is_late_from_then_on() {
    let mut coordinator = Coordinator::new(ME, 1);
    let (key, view, now) = (Key([9; 16]), &Three, Time(5_000));
    let leader = Message::SourceRequest(asked(key, 1));
    coordinator.accept(now, NodeId([1; 32]), (None, leader), view);
    coordinator.charge(now, 1, Duration::from_millis(1_500));
    coordinator.request_source(now, wanted(key), view);
    assert_eq!(coordinator.pending_requests(), 1, "half a second is left");
    assert_eq!(coordinator.next_deadline(), Some(now));
}

#[test]
fn a_copy_of_a_question_that_was_put_off_has_the_same_answer() {
    let mut coordinator = Coordinator::new(ME, 1);
    let [first, second] = [1, 2].map(|n| NodeId([n; 32]));
    let (key, view) = (Key([9; 16]), &Three);
    let request = |number, requeue_after_ms| {
        Message::SourceRequest(SourceRequest {
            size: Some(1 << 25),
            requeue_after_ms,
            ..asked(key, number)
        })
    };
    coordinator.accept(Time(0), first, (None, request(1, 0)), view);
    assert_eq!(answers_to(&mut coordinator, first), [Reply::Lead(false)]);
    coordinator.accept(Time(0), second, (None, request(7, 200)), view);
    coordinator.tick(Time(250), view);
    let answers = answers_to(&mut coordinator, second);
    assert_eq!(answers.last(), Some(&Reply::Later(true)));
    // Its answer was lost, or this copy was slow; the lead has begun.
    let alive = PullState::Alive(Alive {
        size: Some(1 << 25),
        ..Alive::default()
    });
    coordinator.accept(
        Time(300),
        first,
        (None, Message::report(key, numbered_as(1), alive)),
        view,
    );
    coordinator.accept(Time(300), second, (None, request(7, 200)), view);
    assert_eq!(answers_to(&mut coordinator, second), [Reply::Later(true)]);
    // It does not pull, so no node is sent to it.
    coordinator.accept(Time(350), second, (None, request(8, 600)), view);
    let [Reply::Follow(follow)] = &answers_to(&mut coordinator, second)[..] else {
        panic!("the lead has begun");
    };
    assert_eq!(node(&follow.source), Some(first));
}

/// Found by the property above: a charge leaves another request of the same pull so little time that its leader is
/// late.
#[test]
fn a_charge_that_makes_a_request_late_is_handled_in_the_same_tick() {
    let (mut coordinator, view) = (Coordinator::new(ME, 1), &Three);
    let other = NodeId([1; 32]);
    let key = |first| Key([first; 16]);
    let request = asked(key(0x40), 2);
    let request = (None, Message::SourceRequest(request));
    coordinator.accept(Time(0), other, request, view);
    coordinator.request_source(Time(0), wanted(key(0x40)), view);
    coordinator.request_source(Time(0), wanted(key(0xc0)), view);
    coordinator.undelivered(Time(0), ME, view);
    for now in (0..4_000).step_by(7).map(Time) {
        coordinator.tick(now, view);
        assert!(
            coordinator.next_deadline().is_none_or(|next| next > now),
            "{now:?}"
        );
    }
}

#[test]
fn a_request_that_is_put_off_loses_what_it_did_not_offer_to_wait() {
    let mut coordinator = Coordinator::new(ME, 1);
    let (key, view) = (Key([9; 16]), &Six([1, 2, 3]));
    let request = SourceRequest {
        requeue_after_ms: 400,
        ..wanted(key)
    };
    coordinator.request_source(Time(0), request, view);
    let (arbiter, bytes) = coordinator.take_datagrams().remove(0);
    let Ok((_, Message::SourceRequest(asked))) = Message::from_datagram(bytes) else {
        panic!("it asks for a source");
    };
    let answer = Message::answer(key, asked.number, Reply::Later(true));
    coordinator.accept(Time(1_500), arbiter, (None, answer), view);
    assert_eq!(coordinator.take_decisions()[0].1, Decision::Later);
    let offered = Duration::from_millis(400) + GRACE;
    assert_eq!(coordinator.lost(1), Duration::from_millis(1_500) - offered);
}
