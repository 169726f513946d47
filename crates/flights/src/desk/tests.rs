use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::News;
use crate::slots::Owners;
use crate::wire::tests::{asked, key, message, node};
use crate::wire::{Seek, Stage, Verdict};

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
    fn owners(&self, _: Slot) -> Owners {
        [0, 1, 2].map(|n| NodeId([n; 32])).into_iter().collect()
    }
    fn roots(&self, _: Slot) -> Owners {
        [].into_iter().collect()
    }

    fn districts(&self) -> u64 {
        1
    }

    fn district(&self, _: &NodeId) -> u64 {
        0
    }

    fn before(&self, slot: Slot) -> Option<NodeId> {
        (slot.index() == 1).then_some(NodeId([1; 32]))
    }
    fn has_joined(&self) -> bool {
        true
    }
}

#[derive(Clone, Debug)]
enum Event {
    Comes(NodeId, Box<Message>),
    Seeks(Key),
    Reports(Key, News),
    Fails(NodeId),
    Left(NodeId),
    Passes(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let size = prop_oneof![Just(0), Just(u64::MAX), any::<u64>()];
    let news = prop_oneof![
        size.prop_map(|size| News::Begun { size }),
        Just(News::Done),
        Just(News::Failed),
    ];
    prop_oneof![
        20 => (node(), message()).prop_map(|(from, message)| Event::Comes(from, Box::new(message))),
        2 => key().prop_map(Event::Seeks),
        2 => (key(), news).prop_map(|(key, news)| Event::Reports(key, news)),
        1 => node().prop_map(Event::Fails),
        1 => node().prop_map(Event::Left),
        4 => (0..3_000_u64).prop_map(Event::Passes),
    ]
}

fn wanted(key: Key) -> Wanted {
    Wanted {
        key,
        group: 1,
        registry: 1,
        size: None,
        streams: 1,
        prefer: None,
        offset: 0,
        failed: Vec::new(),
        yields: None,
        slow: None,
        slow_lead: None,
    }
}

proptest! {
    /// Whatever others say, in whatever order: nothing panics, and when they fall silent nothing stays but what members
    /// say that they hold.
    #[test]
    fn nothing_is_kept_of_those_who_fall_silent(events in prop::collection::vec(event(), 0..120)) {
        let mut desk = Desk::new(ME, 1);
        let (mut now, view) = (Time(0), &Three);
        for event in events {
            match event {
                // What it says to itself it says itself.
                Event::Comes(from, _) if from == ME => {}
                Event::Comes(from, message) => desk.accept(now, from, *message, view),
                Event::Seeks(key) => {
                    desk.seek(now, wanted(key), view);
                }
                Event::Reports(key, news) => desk.report(now, key, news, view),
                Event::Fails(node) => desk.undelivered(now, node, view),
                Event::Left(node) => desk.left(now, node, view),
                Event::Passes(millis) => now = now.after(Duration::from_millis(millis)),
            }
            desk.tick(now, view);
        }
        for n in 0..4_u8 {
            desk.report(now, Key([n * 64; 16]), News::Failed, view);
        }
        let end = now.after(Duration::from_secs(400));
        while let Some(next) = desk.next_deadline().filter(|next| *next <= end) {
            prop_assert!(next >= now, "time goes on");
            now = next;
            desk.tick(now, view);
            for (seek, _) in desk.take_outcomes() {
                desk.cancel(now, seek, view);
            }
        }
        desk.tick(end, view);
        prop_assert_eq!(desk.open_questions(), 0);
        desk.arbiter.check_is_quiet(end, view);
    }
}

/// What is answered to a node.
fn told(desk: &mut Desk, to: NodeId) -> Vec<Verdict> {
    let said = desk.take_datagrams().into_iter();
    let said = said.filter(|(other, _)| *other == to);
    let said = said.map(|(_, bytes)| Message::decode(&bytes).expect("its own message"));
    said.filter_map(|message| match message {
        Message::Answer { verdict, .. } => Some(verdict),
        _ => None,
    })
    .collect()
}

#[test]
fn a_copy_of_a_question_that_was_put_off_has_the_same_answer() {
    let mut desk = Desk::new(ME, 1);
    let [first, second] = [1, 2].map(|n| NodeId([n; 32]));
    let (key, view) = (Key([9; 16]), &Three);
    let seek = |number, yields| Seek {
        size: Some(1 << 25),
        yields,
        ..asked(key, number)
    };
    desk.accept(Time(0), first, Message::Seek(seek(1, 0)), view);
    assert_eq!(told(&mut desk, first), [Verdict::Lead]);
    desk.accept(Time(0), second, Message::Seek(seek(7, 200)), view);
    desk.tick(Time(250), view);
    assert_eq!(told(&mut desk, second).last(), Some(&Verdict::Later));
    // Its answer was lost, or this copy was slow; the lead has begun.
    let (size, source) = (Some(1 << 25), None);
    let stage = Stage::Alive {
        size,
        source,
        is_busy: false,
        lags: false,
    };
    let number = 1;
    desk.accept(
        Time(300),
        first,
        Message::Report { key, number, stage },
        view,
    );
    desk.accept(Time(300), second, Message::Seek(seek(7, 200)), view);
    assert_eq!(told(&mut desk, second), [Verdict::Later]);
    // It does not pull, so nobody is sent to it.
    desk.accept(Time(350), second, Message::Seek(seek(8, 600)), view);
    let [Verdict::Follow { source, .. }] = told(&mut desk, second)[..] else {
        panic!("the lead has begun");
    };
    assert_eq!(source, first);
}
