use super::*;
use crate::wire::tests::asked;
use crate::wire::{SourceRequest, nodes_field};

fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn request() -> SourceRequest {
    asked(Key::of("a"), 1)
}

fn flight() -> Flight {
    Flight::new(Time(0), 1, &Key::of("a"), &[])
}

#[test]
fn nobody_is_fed_by_those_it_feeds_in_whatever_order_they_came() {
    let (mut flight, asked) = (flight(), Asked::default());
    // A new arbiter is told of the child first.
    flight.attach(Time(0), node(2), node(1), asked);
    flight.attach(Time(0), node(3), node(2), asked);
    assert_eq!(flight.best_source(&node(9), &request()), None);
    flight.attach(Time(0), node(1), node(0), asked);
    flight.put(Time(0), node(0), State::Begun, asked);
    assert_eq!(flight.children(&node(1)), 1);
    assert_eq!(flight.get(&node(3)).map(Source::depth), Some(3));
    flight.detach(&node(1));
    assert_eq!(flight.best_source(&node(1), &request()), Some(node(0)));
    let failed_sources = nodes_field([node(0)]);
    let request = SourceRequest {
        failed_sources,
        ..request()
    };
    assert_eq!(flight.best_source(&node(1), &request), None);
}

#[test]
fn who_has_lost_its_source_is_none() {
    let (mut flight, asked) = (flight(), Asked::default());
    flight.put(Time(0), node(1), State::Begun, asked);
    flight.attach(Time(0), node(2), node(1), asked);
    flight.remove(&node(1));
    assert_eq!(flight.best_source(&node(9), &request()), None);
    // A ring created by reports feeds no node either.
    flight.attach(Time(0), node(3), node(2), asked);
    flight.attach(Time(0), node(2), node(3), asked);
    assert_eq!(flight.best_source(&node(9), &request()), None);
}

#[test]
fn who_is_doubted_comes_last_until_heard_of() {
    let (mut flight, asked) = (flight(), Asked::default());
    flight.put(Time(0), node(1), State::Begun, asked);
    flight.attach(Time(0), node(2), node(1), asked);
    flight.mark_doubtful(&node(2));
    assert_eq!(flight.best_source(&node(9), &request()), Some(node(1)));
    flight.attach(Time(0), node(3), node(1), asked);
    flight.mark_doubtful(&node(1));
    flight.heard(Time(0), &node(2));
    assert_ne!(flight.best_source(&node(9), &request()), Some(node(1)));
}

/// A chain of four nodes behind node 1, which leads.
fn chain() -> Flight {
    let mut flight = flight();
    flight.put(Time(0), node(1), State::Begun, Asked::default());
    for below in 2..=5 {
        flight.attach(Time(0), node(below), node(below - 1), Asked::default());
    }
    flight
}

fn order(flight: &Flight, number: u8) -> u32 {
    flight.get(&node(number)).expect("it is there").order
}

#[test]
fn a_slow_node_and_those_behind_it_come_last() {
    let mut flight = chain();
    assert!(flight.set_slow(&node(3), true));
    assert!(!flight.set_slow(&node(3), true), "no news");
    // All nodes below it are held up with it.
    assert_eq!(flight.best_source(&node(9), &request()), Some(node(2)));
    flight.detach(&node(4));
    assert_eq!(flight.best_source(&node(4), &request()), Some(node(2)));
    flight.attach(Time(0), node(4), node(2), Asked::default());
    assert_eq!(flight.best_source(&node(9), &request()), Some(node(5)));
    // Another slow node is fed by the first.
    let is_slow = SourceRequest {
        is_slow: true,
        ..request()
    };
    assert_eq!(flight.best_source(&node(9), &is_slow), Some(node(3)));
    // Until that one turns followers away.
    flight.mark_doubtful(&node(3));
    assert_eq!(flight.best_source(&node(9), &is_slow), Some(node(5)));
}

#[test]
fn a_busy_source_is_better_than_a_slow_or_doubtful_one_and_worse_than_any_other() {
    let mut flight = chain();
    let best = |flight: &Flight, busy: &[u8]| {
        let request = SourceRequest {
            busy_sources: nodes_field(busy.iter().map(|busy| node(*busy))),
            ..request()
        };
        flight.best_source(&node(9), &request)
    };
    assert_eq!(best(&flight, &[]), Some(node(5)));
    let other = best(&flight, &[5]).expect("another one");
    assert_ne!(other, node(5));
    assert_eq!(best(&flight, &[1, 2, 3, 4, 5]), Some(node(5)));
    for doubtful in 1..=4 {
        flight.mark_doubtful(&node(doubtful));
    }
    assert_eq!(best(&flight, &[5]), Some(node(5)));
    for slow in 1..=4 {
        flight.set_slow(&node(slow), true);
    }
    flight.put(Time(0), node(5), State::Complete, Asked::default());
    assert_eq!(best(&flight, &[5]), Some(node(5)));
}

#[test]
fn slow_followers_are_shared_out() {
    let mut flight = chain();
    for number in 10..22 {
        let best = flight.best_source(&node(number), &request());
        let best = best.expect("there are sources");
        flight.attach(Time(0), node(number), best, Asked::default());
        flight.set_slow(&node(number), true);
    }
    // The end of the chain, which had none, takes most.
    let children = [1, 2, 3, 4, 5].map(|number| flight.children(&node(number)));
    assert_eq!(
        children.map(|children| children <= 2),
        [true; 5],
        "{children:?}"
    );
    assert_eq!(children[4], 2, "{children:?}");
}

#[test]
fn one_word_about_wrong_bytes_excludes_its_node_and_those_below() {
    let mut flight = chain();
    flight.mark_wrong(&node(3));
    flight.remove(&node(3));
    assert_eq!(flight.best_source(&node(9), &request()), Some(node(1)));
    assert!(
        flight
            .get(&node(2))
            .is_some_and(|source| source.is_doubtful)
    );
    // It reports this again, and so does a node that had its bytes from it.
    flight.mark_wrong(&node(3));
    flight.mark_wrong(&node(4));
    assert_eq!(flight.best_source(&node(9), &request()), Some(node(1)));
    // It leads now. The bytes that others had from it before are still wrong.
    flight.put(Time(0), node(3), State::Begun, Asked::default());
    flight.remove(&node(1));
    assert_eq!(flight.best_source(&node(9), &request()), Some(node(3)));
}

#[test]
fn two_words_about_wrong_bytes_exclude_all_below_the_root() {
    let mut flight = chain();
    flight.put(Time(0), node(6), State::Begun, Asked::default());
    flight.attach(Time(0), node(8), node(1), Asked::default());
    flight.mark_wrong(&node(3));
    flight.mark_wrong(&node(8));
    assert_eq!(flight.best_source(&node(9), &request()), Some(node(6)));
    flight.remove(&node(6));
    assert_eq!(flight.best_source(&node(9), &request()), None);
    // A node whose digest matches has the right bytes.
    flight.put(Time(0), node(5), State::Complete, Asked::default());
    assert_eq!(flight.best_source(&node(9), &request()), Some(node(5)));
}

#[test]
fn a_node_complains_about_its_own_source_and_not_often() {
    let mut flight = chain();
    assert!(
        !flight.takes_complaint(&node(3), &node(1)),
        "not its source"
    );
    assert!(!flight.takes_complaint(&node(99), &node(1)));
    let complaints = (0..9).filter(|_| flight.takes_complaint(&node(3), &node(2)));
    assert_eq!(complaints.count(), 3);
    flight.attach(Time(0), node(3), node(1), Asked::default());
    assert!(!flight.takes_complaint(&node(3), &node(1)));
}

#[test]
fn who_is_fed_anew_comes_after_its_source_and_before_those_it_feeds() {
    let (mut flight, asked) = (chain(), Asked::default());
    flight.detach(&node(3));
    flight.attach(Time(0), node(3), node(1), asked);
    let orders = [1, 2, 3, 4].map(|number| order(&flight, number));
    assert!(orders.is_sorted_by(|a, b| a < b), "{orders:?}");
    flight.detach(&node(2));
    flight.attach(Time(0), node(2), node(5), asked);
    assert!(order(&flight, 2) > order(&flight, 5));
}

#[test]
fn who_leads_for_all_is_waited_for_and_feeds_nobody_here() {
    let mut flight = flight();
    flight.lead(Time(0), node(1), State::LeadsForAll, Asked::default());
    assert_eq!(flight.awaited_lead(), Some(node(1)));
    assert!(!flight.is_awaited_by(false), "another node may fetch");
    assert_eq!(flight.best_source(&node(9), &request()), None);
    flight.put(Time(0), node(2), State::Fetching, Asked::default());
    assert_eq!(flight.best_source(&node(9), &request()), Some(node(2)));
}
