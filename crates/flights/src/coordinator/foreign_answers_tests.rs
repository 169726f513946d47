//! Messages of members that were not asked: whatever number they guess or know, none changes anything for others.

use proptest::prelude::*;

use super::*;
use crate::slots::{Owners, Scope, Slot};
use crate::wire::tests::{asked, message, numbered_as, some_node};
use crate::wire::{
    Alive, Announce, Answer, Follow, Holders, KnownRate, PullState, RegistryRate, Reply, Resync,
    Wait, key_field, node, node_field, nodes_field,
};

const ME: NodeId = NodeId([0; 32]);
const KEY: Key = Key([9; 16]);
const REGISTRY: u64 = 7;

fn member(number: u8) -> NodeId {
    NodeId([number; 32])
}

/// Six members in one shard. The field: the owners of all slots, the arbiter first.
pub(super) struct Six(pub(super) [u8; 3]);

impl View for Six {
    fn me(&self) -> NodeId {
        ME
    }
    fn members(&self) -> usize {
        6
    }
    fn is_member(&self, id: &NodeId) -> bool {
        id.0[0] < 6
    }
    fn owners(&self, scope: Scope, _: Slot) -> Owners {
        let all = self.0.into_iter().map(member);
        all.filter(|_| scope != Scope::Cluster).collect()
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

fn sent(coordinator: &mut Coordinator) -> Vec<(NodeId, Option<NodeId>, Message)> {
    let sent = coordinator.take_datagrams().into_iter();
    sent.map(|(to, bytes)| {
        let (on_behalf_of, message) = Message::from_datagram(bytes).expect("its own message");
        (to, on_behalf_of, message)
    })
    .collect()
}

/// All answers that a request or a lookup can get.
fn answers(number: u64) -> Vec<Message> {
    let follow = Follow {
        source: node_field(Some(member(4))),
        ..Follow::default()
    };
    let wait = Wait {
        leader: node_field(Some(member(4))),
        fetches: true,
        is_upstream_slow: true,
    };
    let to = node_field(Some(member(4)));
    let replies = [
        Reply::Follow(follow),
        Reply::Lead(false),
        Reply::Lead(true),
        Reply::Alone(true),
        Reply::Later(true),
        Reply::Wait(wait),
        Reply::Redirect(to.clone()),
    ];
    let answers = replies.map(|reply| Message::answer(KEY, number, reply));
    let holders = |holders: Bytes, redirect: Bytes| {
        Message::Holders(Holders {
            number,
            key: key_field(KEY),
            holders,
            redirect,
        })
    };
    let found = [
        holders(nodes_field([member(4)]), Bytes::new()),
        holders(Bytes::new(), Bytes::new()),
        holders(Bytes::new(), to),
    ];
    let rate = Message::RegistryRate(RegistryRate {
        registry: REGISTRY,
        known_rate: Some(KnownRate {
            rate: u64::MAX,
            age_s: 0,
            judging_paused_for_ms: 1,
            measured_by: 1,
        }),
    });
    let resync = Message::Resync(Resync { slots: u64::MAX });
    answers
        .into_iter()
        .chain(found)
        .chain([rate, resync])
        .collect()
}

#[test]
fn only_the_answer_of_an_owner_that_was_asked_counts() {
    // An owner that was not asked, and a member that owns nothing.
    for third in [2, 4].map(member) {
        let view = &Six([1, 2, 3]);
        let mut coordinator = Coordinator::new(ME, 1);
        coordinator.hold(Time(0), &[Key([1; 16]), KEY]);
        coordinator.tick(Time(50), view);
        let request = SourceRequest {
            registry: REGISTRY,
            ..asked(KEY, 0)
        };
        coordinator.request_source(Time(100), request, view);
        coordinator.find_holders(Time(100), KEY, view);
        let mut numbers = vec![0, 1, 2, u64::MAX];
        for (_, _, message) in sent(&mut coordinator) {
            match message {
                Message::SourceRequest(request) => {
                    numbers.extend([request.number, request.sequence]);
                }
                Message::FindHolders(find) => numbers.push(find.number),
                _ => {}
            }
        }
        assert_eq!(numbers.len(), 7, "a request and a lookup were sent");
        for number in &numbers {
            for message in answers(*number) {
                for on_behalf_of in [None, Some(ME), Some(member(1)), Some(member(5))] {
                    let passed = (on_behalf_of, message.clone());
                    coordinator.accept(Time(110), third, passed, view);
                    assert!(
                        sent(&mut coordinator).iter().all(|(to, ..)| *to == third),
                        "{message:?} for {on_behalf_of:?}"
                    );
                }
            }
        }
        assert_eq!(coordinator.pending_requests(), 2);
        assert_eq!(coordinator.take_decisions(), []);
        assert_eq!(coordinator.take_found(), []);
        let rates = &coordinator.requests.registries;
        assert_eq!(rates.get(Time(110), REGISTRY), KnownRate::default());
        // Nothing is announced again. The owner that was asked is asked again and counts as silent when that is due.
        coordinator.tick(Time(250), view);
        let again: Vec<_> = sent(&mut coordinator);
        assert!(again.iter().all(|(to, ..)| *to == member(1)), "{again:?}");
        coordinator.tick(Time(500), view);
        let next: Vec<_> = sent(&mut coordinator);
        assert!(next.iter().any(|(to, ..)| *to == member(2)), "{next:?}");
        let answer = Message::answer(KEY, numbers[4], Reply::Lead(false));
        coordinator.accept(Time(510), member(1), (None, answer), view);
        let decisions = coordinator.take_decisions();
        assert!(
            matches!(&decisions[..], [(_, Decision::Lead)]),
            "{decisions:?}"
        );
    }
}

#[test]
fn a_lead_that_nobody_asked_for_is_not_taken_by_a_node_that_pulls_alone() {
    let view = &Six([1, 2, 3]);
    let mut coordinator = Coordinator::new(ME, 1);
    coordinator.request_source(Time(0), asked(KEY, 0), view);
    let [(_, _, Message::SourceRequest(request))] = &sent(&mut coordinator)[..] else {
        panic!("a request was sent");
    };
    let number = request.number;
    let alone = Message::answer(KEY, number, Reply::Alone(true));
    coordinator.accept(Time(10), member(1), (None, alone), view);
    let lead = |number| (None, Message::answer(KEY, number, Reply::Lead(false)));
    let is_reported = |coordinator: &mut Coordinator| {
        let sent = sent(coordinator);
        sent.iter()
            .any(|(_, _, message)| matches!(message, Message::Report(_)))
    };
    for (from, number) in [(2, number), (4, number), (1, number + 1)] {
        coordinator.accept(Time(20), member(from), lead(number), view);
        assert!(!is_reported(&mut coordinator), "{from}");
    }
    coordinator.accept(Time(30), member(1), lead(number), view);
    assert!(
        is_reported(&mut coordinator),
        "it was asked, and answers late"
    );
}

/// Everything that third members may report about the pull of another member, for it or on their own.
fn about_the_lead(number: u64, leader: NodeId) -> Vec<Message> {
    let request = SourceRequest {
        leader_cooldown: true,
        failed_sources: nodes_field([leader]),
        slow_source: node_field(Some(leader)),
        silent_owner: node_field(Some(ME)),
        ..asked(KEY, number)
    };
    let states = [
        PullState::Failed(true),
        PullState::WrongDigest(true),
        PullState::Done(true),
        PullState::Alive(Alive {
            is_slow: true,
            source: node_field(Some(member(4))),
            ..Alive::default()
        }),
    ];
    let reports = states.map(|state| Message::report(KEY, numbered_as(number), state));
    let forget = Message::Announce(Announce {
        forget: u64::MAX,
        ..Announce::default()
    });
    let answer = Message::Answer(Answer {
        key: key_field(KEY),
        number,
        reply: Some(Reply::Alone(true)),
    });
    let others = [
        Message::SourceRequest(request),
        Message::withdraw(KEY, number),
        forget,
        answer,
    ];
    others.into_iter().chain(reports).collect()
}

#[test]
fn nobody_ends_the_lead_of_another_member() {
    let (leader, number) = (member(3), 5);
    for third in [1, 4].map(member) {
        let view = &Six([0, 1, 2]);
        let mut coordinator = Coordinator::new(ME, 1);
        let request = Message::SourceRequest(asked(KEY, number));
        coordinator.accept(Time(0), leader, (None, request), view);
        let begun = PullState::Alive(Alive {
            size: Some(1 << 25),
            ..Alive::default()
        });
        let begun = Message::report(KEY, numbered_as(number), begun);
        coordinator.accept(Time(10), leader, (None, begun.clone()), view);
        for number in [number, 0, 1, 4, 6, u64::MAX] {
            for message in about_the_lead(number, leader) {
                for on_behalf_of in [Some(leader), Some(member(5)), None] {
                    let passed = (on_behalf_of, message.clone());
                    coordinator.accept(Time(20), third, passed, view);
                }
            }
        }
        coordinator.accept(Time(30), leader, (None, begun), view);
        sent(&mut coordinator);
        let request = Message::SourceRequest(asked(KEY, 1));
        coordinator.accept(Time(40), member(5), (None, request), view);
        let answers = sent(&mut coordinator);
        let [(_, None, Message::Answer(answer))] = &answers[..] else {
            panic!("{answers:?}");
        };
        let Some(Reply::Follow(follow)) = &answer.reply else {
            panic!("{answer:?}");
        };
        assert_eq!(node(&follow.source), Some(leader), "{third:?}");
    }
}

proptest! {
    /// Random messages of one member, owner or not, in its own name and on behalf of others.
    #[test]
    fn whatever_one_member_says_no_lead_is_lost_and_no_tree_dropped(
        is_owner: bool,
        said in prop::collection::vec((prop::option::of(some_node()), message()), 0..100),
    ) {
        // A key that the messages are often about.
        let (key, view) = (Key([64; 16]), &Six([0, 1, 2]));
        let (leader, follower) = (member(3), member(5));
        let third = member(if is_owner { 1 } else { 4 });
        let mut coordinator = Coordinator::new(ME, 1);
        let request = |number| (None, Message::SourceRequest(asked(key, number)));
        let alive = |number, size, source| {
            let alive = Alive { size, source: node_field(source), ..Alive::default() };
            (None, Message::report(key, numbered_as(number), PullState::Alive(alive)))
        };
        coordinator.accept(Time(0), leader, request(5), view);
        coordinator.accept(Time(10), leader, alive(5, Some(1 << 25), None), view);
        coordinator.accept(Time(20), follower, request(3), view);
        coordinator.accept(Time(30), follower, alive(3, Some(1 << 25), Some(leader)), view);
        let known = |coordinator: &Coordinator| {
            coordinator.arbiter.lead_and_source(&key, [&leader, &follower])
        };
        prop_assert_eq!(known(&coordinator), (true, Some(leader)));
        for passed in said {
            coordinator.accept(Time(40), third, passed, view);
            prop_assert_eq!(known(&coordinator), (true, Some(leader)));
        }
    }
}

#[test]
fn a_request_that_may_not_be_requeued_is_not_however_the_arbiter_answers() {
    for (requeue_after_ms, decision) in [(0, Decision::Alone), (400, Decision::Later)] {
        let view = &Six([1, 2, 3]);
        let mut coordinator = Coordinator::new(ME, 1);
        let request = SourceRequest {
            requeue_after_ms,
            ..asked(KEY, 0)
        };
        coordinator.request_source(Time(0), request, view);
        let [(_, _, Message::SourceRequest(request))] = &sent(&mut coordinator)[..] else {
            panic!("a request was sent");
        };
        let later = Message::answer(KEY, request.number, Reply::Later(true));
        coordinator.accept(Time(10), member(1), (None, later), view);
        let decisions = coordinator.take_decisions();
        let decisions: Vec<_> = decisions
            .into_iter()
            .map(|(_, decision)| decision)
            .collect();
        assert_eq!(decisions, [decision]);
    }
}

/// How long a request of this size waits while its owner says that the registry is slow.
fn waits_for_a_slow_registry(size: u64) -> u64 {
    let view = &Six([1, 2, 3]);
    let mut coordinator = Coordinator::new(ME, 1);
    let request = SourceRequest {
        registry: REGISTRY,
        size: Some(size),
        ..asked(KEY, 0)
    };
    coordinator.request_source(Time(0), request, view);
    let [(_, _, Message::SourceRequest(request))] = &sent(&mut coordinator)[..] else {
        panic!("a request was sent");
    };
    for now in (0..60_000).step_by(100) {
        let wait = Wait {
            leader: node_field(Some(member(4))),
            fetches: false,
            is_upstream_slow: true,
        };
        let answer = Message::answer(KEY, request.number, Reply::Wait(wait));
        coordinator.accept(Time(now), member(1), (None, answer), view);
        coordinator.tick(Time(now), view);
        if let [(_, decision)] = &coordinator.take_decisions()[..] {
            assert_eq!(*decision, Decision::Alone);
            return now;
        }
    }
    panic!("it waits for a minute");
}

/// Its first steps are all of it.
#[test]
fn a_small_object_waits_for_a_slow_registry_for_less_time() {
    assert_eq!(waits_for_a_slow_registry(1 << 30), 14_000);
    assert_eq!(waits_for_a_slow_registry(1 << 20), 14_000);
    assert_eq!(waits_for_a_slow_registry(1 << 18), 5_000);
    assert_eq!(waits_for_a_slow_registry(1 << 10), 2_100);
}
