use oci::Digest;

use super::*;

fn candidate(name: &str) -> Candidate {
    Candidate {
        peer: PeerId::new(name),
        addresses: Arc::new([SocketAddr::from(([127, 0, 0, 1], 1))]),
    }
}

fn key(text: &str) -> Key {
    Key::Digest(Digest::sha256(text.as_bytes()))
}

#[test]
fn a_failure_backs_off_for_all_objects_and_longer_each_time() {
    let (peers, a, mut now) = (Arc::new(Peers::default()), candidate("a"), Instant::now());
    let _in_flight = peers.begin(&a);
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        peers.report_fault(&a.peer, &key("x"), Fault::Failed, now);
        now += Duration::from_secs(seconds) - Duration::from_millis(1);
        assert!(
            !peers.may_ask(&a, &key("y"), now),
            "still in back-off after {seconds} s"
        );
        now += Duration::from_millis(1);
        assert!(peers.may_ask(&a, &key("y"), now), "back after {seconds} s");
    }
    peers.begin(&a).finished();
    peers.report_fault(&a.peer, &key("x"), Fault::Failed, now);
    assert!(
        peers.may_ask(&a, &key("y"), now + BACK_OFF_FIRST),
        "an answer wipes the slate"
    );
}

#[test]
fn one_event_that_breaks_many_streams_is_one_failure() {
    let (peers, a, now) = (Arc::new(Peers::default()), candidate("a"), Instant::now());
    let _in_flight = peers.begin(&a);
    for stream in 0..10 {
        peers.report_fault(&a.peer, &key(&stream.to_string()), Fault::Broke, now);
    }
    assert!(!peers.may_ask(&a, &key("y"), now));
    assert!(peers.may_ask(&a, &key("y"), now + BACK_OFF_FIRST));
    assert!(
        !peers.may_ask(&a, &key("3"), now + BACK_OFF_FIRST),
        "what broke is not asked for again at once"
    );
}

#[test]
fn lacking_one_object_costs_that_object_lacking_many_costs_all() {
    let (peers, a, now) = (Arc::new(Peers::default()), candidate("a"), Instant::now());
    let _in_flight = peers.begin(&a);
    peers.report_fault(&a.peer, &key("x"), Fault::Lacking, now);
    assert!(!peers.may_ask(&a, &key("x"), now) && peers.may_ask(&a, &key("y"), now));
    let now = now + LACKING;
    assert!(peers.may_ask(&a, &key("x"), now));
    for lie in 1..MAX_FALSE_ANNOUNCEMENTS {
        peers.report_fault(&a.peer, &key(&lie.to_string()), Fault::Lacking, now);
    }
    assert!(!peers.may_ask(&a, &key("y"), now));
}

#[test]
fn the_quick_and_idle_come_first() {
    let peers = Arc::new(Peers::default());
    let (a, b) = (candidate("a"), candidate("b"));
    let mut busy = peers.begin(&a);
    assert!(peers.cost(&b.peer) < peers.cost(&a.peer), "b is idle");
    busy.answered(busy.asked + Duration::from_millis(1));
    drop(busy);
    assert!(peers.cost(&a.peer) < peers.cost(&b.peer), "a is quick");
}

#[test]
fn who_was_given_up_on_comes_last() {
    let peers = Arc::new(Peers::default());
    let (a, b) = (candidate("a"), candidate("b"));
    let mut slow = peers.begin(&a);
    slow.asked -= Duration::from_millis(100);
    drop(slow);
    assert!(peers.latency(&a.peer) >= Duration::from_millis(200));
    assert!(peers.cost(&b.peer) < peers.cost(&a.peer));
}
