use std::time::Duration;

use ::flights::ChainPosition;
use libp2p::identity::Keypair;

use super::*;

fn peer() -> PeerId {
    Keypair::generate_ed25519().public().into()
}

fn alone() -> Flights {
    Flights::new(&Keypair::generate_ed25519(), AddressFilter::new(true)).expect("an Ed25519 key")
}

fn request(number: u8) -> SourceRequest {
    SourceRequest::new(Digest::sha256(&[number]).as_str(), None)
}

fn decided(answer: &mut oneshot::Receiver<Decided>) -> Option<Decision<Candidate>> {
    Some(answer.try_recv().ok()?.decision)
}

#[test]
fn who_is_alone_leads() {
    let mut flights = alone();
    let (asker, mut decision) = oneshot::channel();
    flights.handle_command(FlightCommand::RequestSource(Box::new(request(1)), asker));
    assert_eq!(flights.open_requests(), 1);
    assert!(flights.answers().is_empty());
    assert!(matches!(decided(&mut decision), Some(Decision::Lead)));
    assert!(!flights.has_questions());
}

#[test]
fn a_source_that_is_no_member_is_not_followed() {
    let mut flights = alone();
    let outsider = node_id(&peer()).expect("an Ed25519 key");
    let follow = Decision::Follow {
        source: outsider,
        position: ChainPosition::default(),
        leader: None,
    };
    let id = flights.node.request_source(flights.now(), request(2));
    let mut answer = |retries| {
        let (asker, decision) = oneshot::channel();
        let question = Question::Source {
            request: request(1).into(),
            retries,
            asker,
        };
        flights.questions.insert(id, question);
        flights.answer(id, follow.clone());
        decision
    };
    let mut decision = answer(MAX_RETRIES);
    assert!(matches!(decided(&mut decision), Some(Decision::Alone)));
    let mut decision = answer(0);
    assert_eq!(flights.open_requests(), 1, "it is asked again");
    flights.answers();
    assert!(matches!(decided(&mut decision), Some(Decision::Lead)));
}

#[test]
fn questions_without_askers_are_withdrawn() {
    let mut flights = alone();
    let (asker, decision) = oneshot::channel();
    flights.handle_command(FlightCommand::RequestSource(Box::new(request(1)), asker));
    flights.find(RoutingKey::numbered(1));
    flights.cancel_abandoned();
    assert_eq!(flights.open_requests(), 1);
    drop(decision);
    flights.cancel_abandoned();
    assert_eq!(flights.open_requests(), 0);
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
        let (asker, mut decision) = oneshot::channel();
        if !is_there {
            decision.close();
        }
        flights.handle_command(FlightCommand::RequestSource(Box::new(request(1)), asker));
        flights.answers();
        // A leader reports at every heartbeat, twice a second; nothing else is due as soon.
        let soon = flights.now().after(Duration::from_millis(700));
        assert_eq!(flights.node.next_deadline() < soon, is_there);
    }
}
