use std::time::Duration;

use ::flights::Place;
use libp2p::identity::Keypair;

use super::*;

fn peer() -> PeerId {
    Keypair::generate_ed25519().public().into()
}

fn alone() -> Flights {
    Flights::new(&peer(), Scope::new(true)).expect("an Ed25519 key")
}

fn seek(number: u8) -> Seek {
    Seek {
        digest: Digest::sha256(&[number]),
        origin: None,
        size: None,
        streams: 0,
        prefer: Some(mirror::PeerId::new("no peer id")),
        offset: 0,
        yields: None,
        failed: Vec::new(),
        slow: None,
        slow_lead: None,
    }
}

#[test]
fn who_is_alone_leads() {
    let mut flights = alone();
    let (asker, mut turn) = oneshot::channel();
    flights.take_word(Word::Seek(Box::new(seek(1)), asker));
    assert_eq!(flights.open_seeks(), 1);
    assert!(flights.answers().is_empty());
    assert!(matches!(turn.try_recv(), Ok(Turn::Lead)));
    assert!(!flights.has_questions());
}

#[test]
fn a_source_that_is_no_member_is_not_followed() {
    let mut flights = alone();
    let stranger = node_id(&peer()).expect("an Ed25519 key");
    let follow = Outcome::Follow {
        source: stranger,
        place: Place::default(),
        leader: None,
        led_for: None,
    };
    let id = flights.node.seek(flights.now(), wanted(&seek(2)));
    let (asker, mut turn) = oneshot::channel();
    flights.answer(id, &follow, wanted(&seek(1)), MAX_RETRIES, asker);
    assert!(matches!(turn.try_recv(), Ok(Turn::Alone)));
    let (asker, mut turn) = oneshot::channel();
    flights.answer(id, &follow, wanted(&seek(1)), 0, asker);
    assert_eq!(flights.open_seeks(), 1, "it is asked again");
    flights.answers();
    assert!(matches!(turn.try_recv(), Ok(Turn::Lead)));
}

#[test]
fn questions_without_askers_are_withdrawn() {
    let mut flights = alone();
    let (asker, turn) = oneshot::channel();
    flights.take_word(Word::Seek(Box::new(seek(1)), asker));
    flights.find(RoutingKey::numbered(1));
    flights.sweep();
    assert_eq!(flights.open_seeks(), 1);
    drop(turn);
    flights.sweep();
    assert_eq!(flights.open_seeks(), 0);
    flights.cancel_find(&RoutingKey::numbered(1));
    assert!(!flights.has_questions() && flights.answers().is_empty());
}

#[test]
fn seeds_are_few_and_the_latest() {
    let mut flights = alone();
    flights.met(&PeerId::random());
    assert!(flights.seeds.is_empty(), "not a key of ours");
    let peers: Vec<_> = (0..=MAX_SEEDS).map(|_| peer()).collect();
    peers
        .iter()
        .chain(&peers[1..3])
        .for_each(|peer| flights.met(peer));
    assert_eq!(flights.seeds.len(), MAX_SEEDS);
    assert_eq!(flights.seeds.back().copied(), node_id(&peers[2]));
    assert!(!flights.take_datagrams().is_empty(), "it asks to join");
}

#[test]
fn what_was_granted_to_nobody_is_withdrawn() {
    for is_there in [true, false] {
        let mut flights = alone();
        let (asker, mut turn) = oneshot::channel();
        if !is_there {
            turn.close();
        }
        flights.take_word(Word::Seek(Box::new(seek(1)), asker));
        flights.answers();
        // Who leads says so at every beat, twice a second; nothing else is due as soon.
        let soon = flights.now().after(Duration::from_millis(700));
        assert_eq!(flights.node.next_deadline() < soon, is_there);
    }
}
