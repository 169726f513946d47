//! Nodes that are slower than the others, and those behind them.

use ::flights::Key;
use http::Method;

use super::*;
use crate::{Condition, FlightEvent, LinkState, registry_hash};

/// The interval between steps of the leader's ingest.
const STEP: Duration = Duration::from_millis(100);

#[tokio::test]
async fn the_followers_of_a_slow_node_go_on_elsewhere() {
    let it = chain().await;
    let (bytes, first) = (&it.bytes, &it.first);
    it.second.then(it.leader.follow(1));
    it.growing.write(&bytes[..MIB]);
    let mut answer = first.own(&it.digest).await;
    it.own.write(&answer.read(MIB).await);
    let mut last = it.second.own(&it.digest).await;
    let begin = last.read(MIB).await;

    let event = |condition| {
        let state = LinkState {
            condition,
            ..LinkState::default()
        };
        first.script.events.send(FlightEvent::Link(state));
    };
    event(Condition::Starved);
    tokio::task::yield_now().await;
    event(Condition::Slow);
    it.growing.write(&bytes[MIB..]);
    let (rest, is_all) = last.rest().await;
    assert!(is_all && begin == bytes[..MIB] && rest == bytes[MIB..]);
    assert!(
        answer.rest().await == (bytes.slice(MIB..), true),
        "its own client's"
    );
    assert_eq!(it.second.script.requests.lock()[1].offset, MIB as u64);
    assert_eq!(it.second.script.failed(1), [first.id()]);
    assert_eq!(
        first.script.requests.lock().len(),
        1,
        "it goes on where it is"
    );
    assert_eq!(first.metric("peili_flights_evictions_total"), 1);
    assert_eq!(first.metric("peili_flights_slow"), 1);
}

/// When it was first found slow, there may have been no other node to follow.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_still_slow_lets_its_followers_go_again() {
    let (leader, digest) = (node().await, Digest::sha256(b"layer"));
    let growing = leader.lead(&digest, MIB as u64).await;
    growing.write(&[7; 10]);
    for bandwidth in [900, 901] {
        let mut follower = leader.follow_first(&digest).await;
        follower.read(10).await;
        let event = FlightEvent::Link(LinkState {
            condition: Condition::Slow,
            bandwidth: Some(bandwidth),
            is_held_up: false,
        });
        leader.script.events.send(event);
        assert!(!follower.rest().await.1, "it goes on elsewhere");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_others_should_get_elsewhere_is_given_to_nobody_for_a_while() {
    let (leader, digest) = (node().await, Digest::sha256(b"layer"));
    let growing = leader.lead(&digest, MIB as u64).await;
    growing.write(&[7; 10]);
    let mut follower = leader.follow_first(&digest).await;
    follower.read(10).await;
    // The event of another object has no effect.
    for digest in [Digest::sha256(b"another"), digest.clone()] {
        let event = FlightEvent::LeaderIsSlow(Key::of(digest.as_str()));
        leader.script.events.send(event);
    }
    assert!(!follower.rest().await.1);
    assert_eq!(leader.follow_first(&digest).await.0.status(), 404);
    // A follower that is sent here later has no other source.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(leader.follow_first(&digest).await.0.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn what_arrives_is_told_by_registry_while_it_arrives() {
    let (leader, digest) = (node().await, Digest::sha256(b"layer"));
    let growing = leader.lead(&digest, 4 * MIB as u64).await;
    for _ in 0..32 {
        growing.write(&[0; MIB / 8]);
        tokio::time::sleep(STEP).await;
    }
    let rates = leader.script.rates.lock().clone();
    let led: Vec<_> = rates.iter().flat_map(|rates| &rates.led_bytes).collect();
    assert!(led.is_sorted());
    let (registry, bytes) = led.last().expect("it leads");
    assert_eq!(*registry, registry_hash("quay.io"));
    let all = 4 * MIB as u64;
    assert!((all * 3 / 4..=all).contains(bytes), "{bytes}");
}

async fn link_test(node: &Node) -> (StatusCode, usize, Option<String>) {
    let request = http::Request::get("/link-test").body(());
    let head = request.expect("a request").into_parts().0;
    let addresses = crate::ConnectionAddresses {
        remote: ([10, 0, 0, 9], 9).into(),
        local: node.address,
    };
    let answer = Answer(node.mirror.answer(&head, addresses).await);
    let bandwidth = answer.0.headers().get("x-peili-bandwidth");
    let bandwidth = bandwidth.map(|bandwidth| bandwidth.to_str().expect("text").to_owned());
    (answer.0.status(), answer.rest().await.0.len(), bandwidth)
}

#[tokio::test]
async fn a_link_is_tested_against_others_and_the_result_is_passed_on() {
    let (node, others) = (node().await, [node().await, node().await]);
    assert_eq!(link_test(&node).await.2, None, "unknown");
    let peers = others.each_ref().map(|other| candidate(other.address));
    let event = FlightEvent::TestLink(peers.to_vec());
    node.script.events.send(event);
    node.script.until(|s| !s.link_tests.lock().is_empty()).await;
    let test = node.script.link_tests.lock()[0].clone();
    assert!(
        test.bandwidth > Some(0) && test.others.is_empty(),
        "{test:?}"
    );
    let state = LinkState {
        bandwidth: test.bandwidth,
        ..LinkState::default()
    };
    node.script.events.send(FlightEvent::Link(state));
    let told = async {
        while node.metric("peili_flights_link_bytes_per_second") == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, told).await.expect("in time");
    let (status, length, bandwidth) = link_test(&node).await;
    assert_eq!(status, 200);
    assert!(length > MIB);
    assert_eq!(
        bandwidth,
        test.bandwidth.map(|bandwidth| bandwidth.to_string())
    );
    // The others learn the bandwidth when they test theirs.
    let event = FlightEvent::TestLink(vec![candidate(node.address)]);
    others[0].script.events.send(event);
    others[0]
        .script
        .until(|s| !s.link_tests.lock().is_empty())
        .await;
    let known = others[0].script.link_tests.lock()[0].others.clone();
    assert_eq!(known, [(node.id(), test.bandwidth.expect("known"))]);
}

#[tokio::test]
async fn a_link_cannot_be_filled_with_tests() {
    let node = node().await;
    let mut refused = 0;
    for _ in 0..40 {
        refused += usize::from(link_test(&node).await.0 == StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!(refused > 0);
}

/// The progress that a node reports.
async fn progress(node: &Node, digest: &Digest) -> (StatusCode, Option<String>) {
    let path = format!("/v2/lab/app/blobs/{digest}?ns=quay.io");
    let request = http::Request::builder().method(Method::HEAD).uri(path);
    let request = request.header(MIRRORED, "true").header(FLIGHT, "7-1");
    let head = request.body(()).expect("a request").into_parts().0;
    let addresses = crate::ConnectionAddresses {
        remote: ([10, 0, 0, 9], 9).into(),
        local: node.address,
    };
    let answer = node.mirror.answer(&head, addresses).await;
    let offset = answer.headers().get("x-peili-offset");
    let offset = offset.map(|offset| offset.to_str().expect("text").to_owned());
    (answer.status(), offset)
}

#[tokio::test]
async fn a_follower_can_ask_how_far_its_source_is() {
    let (bytes, digest) = layer();
    let leader = node().await;
    assert_eq!(progress(&leader, &digest).await.0, 404);
    let growing = leader.lead(&digest, bytes.len() as u64).await;
    assert_eq!(
        progress(&leader, &digest).await,
        (StatusCode::OK, Some("0".to_owned()))
    );
    growing.write(&bytes[..MIB]);
    assert_eq!(progress(&leader, &digest).await.1, Some(MIB.to_string()));
    growing.write(&bytes[MIB..]);
    growing.commit(&leader, &bytes);
    leader.script.told(PullProgress::Done).await;
    let size = bytes.len().to_string();
    assert_eq!(
        progress(&leader, &digest).await,
        (StatusCode::OK, Some(size))
    );
}

/// A source that sends the head and some bytes, and then nothing: not even an answer to another request.
async fn dying(size: usize, sent: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = [0; 4096];
        assert!(stream.read(&mut head).await.expect("a request") > 0);
        let head =
            format!("HTTP/1.1 200 OK\r\nX-Peili-Flight: growing\r\nContent-Length: {size}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("taken");
        stream.write_all(&vec![7; sent]).await.expect("taken");
        std::future::pending::<()>().await;
    });
    address
}

#[tokio::test]
async fn a_source_that_falls_silent_is_left_though_it_was_receiving_itself() {
    let digest = Digest::sha256(b"layer");
    let (follower, better) = (node().await, node().await);
    let _own = follower.ingest(&digest, 4 * MIB as u64);
    let growing = better.lead(&digest, 4 * MIB as u64).await;
    growing.write(&vec![7; 4 * MIB]);
    follower.then(Decision::Follow {
        source: candidate(dying(4 * MIB, MIB).await),
        position: ChainPosition { epoch: 7, order: 1 },
        leader: None,
    });
    follower.then(better.follow(1));
    let answer = follower.own(&digest).await;
    assert!(answer.rest().await == (vec![7; 4 * MIB].into(), true));
}
