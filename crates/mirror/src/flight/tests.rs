//! Exchanges between nodes that follow one another. Each is a mirror with its own port; the test provides the decisions
//! of the other nodes.

mod lead_through;
mod leads;
mod limits;
mod node;
mod owners;
mod requeue;
mod snapshot;
mod speed;

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use http::{HeaderName, StatusCode};
use oci::Filter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::request::{FLIGHT, MIRRORED, UPLOADS_BELOW};
use crate::{ChainPosition, PullProgress, SourceRequest, node_field};
use node::{Answer, Ingest, Node, PATIENCE, Script, candidate, node, node_that_mirrors};

fn layer() -> (Bytes, Digest) {
    let bytes: Bytes = (0..3_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect();
    let digest = Digest::sha256(&bytes);
    (bytes, digest)
}

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_follower_gets_it_while_it_grows() {
    let ((bytes, digest), leader, follower) = (layer(), node().await, node().await);
    let size = bytes.len() as u64;
    let growing = leader.lead(&digest, size).await;
    let _own = follower.ingest(&digest, size);
    follower.then(leader.follow(1));
    // The head waits for the first byte.
    tokio::select! {
        biased;
        _ = follower.own(&digest) => panic!("no byte has come"),
        () = follower.script.until(|s| !s.requests.lock().is_empty()) => {}
    }
    growing.write(&bytes[..MIB]);
    follower.then(leader.follow(1));
    let mut answer = follower.own(&digest).await;
    assert_eq!(answer.0.status(), StatusCode::OK);
    assert_eq!(answer.header(&CONTENT_LENGTH), size.to_string());
    assert!(answer.read(MIB).await == bytes[..MIB], "a step at a time");
    leader.script.told(PullProgress::Begun { size }).await;
    growing.write(&bytes[MIB..]);
    growing.commit(&leader, &bytes);
    assert!(answer.rest().await == (bytes.slice(MIB..), true));
    leader.script.told(PullProgress::Done).await;
    assert_eq!(
        leader.metric(r#"peili_bytes_total{source="growing"}"#),
        size
    );
    assert_eq!(follower.metric(r#"peili_bytes_total{source="peer"}"#), size);
}

/// A node that leads a layer, a second that is to follow it, and a third that is to follow the second.
struct Chain {
    bytes: Bytes,
    digest: Digest,
    leader: Node,
    first: Node,
    second: Node,
    /// The leader's ingest from upstream.
    growing: Ingest,
    /// The ingest of the first node's client.
    own: Ingest,
    _last: Ingest,
}

async fn chain() -> Chain {
    let ((bytes, digest), leader) = (layer(), node().await);
    let (first, second) = (node().await, node().await);
    let size = bytes.len() as u64;
    let growing = leader.lead(&digest, size).await;
    let own = first.ingest(&digest, size);
    let _last = second.ingest(&digest, size);
    first.then(leader.follow(1));
    second.then(first.follow(2));
    Chain {
        bytes,
        digest,
        leader,
        first,
        second,
        growing,
        own,
        _last,
    }
}

#[tokio::test]
async fn a_follower_feeds_another() {
    let it = chain().await;
    // The second asks before the first knows of its own pull.
    let ((), last) = tokio::join!(
        async {
            it.second
                .script
                .until(|s| !s.requests.lock().is_empty())
                .await;
            it.growing.write(&it.bytes);
            let mut answer = it.first.own(&it.digest).await;
            it.own.write(&answer.read(it.bytes.len()).await);
        },
        it.second.own(&it.digest)
    );
    assert!(last.rest().await == (it.bytes.clone(), true));
    let size = it.bytes.len() as u64;
    it.first.script.told(PullProgress::Begun { size }).await;
}

#[tokio::test]
async fn what_has_come_is_passed_on_before_it_is_written() {
    let it = chain().await;
    it.growing.write(&it.bytes[..MIB]);
    let mut answer = it.first.own(&it.digest).await;
    it.own.write(&answer.read(MIB).await);
    let mut last = it.second.own(&it.digest).await;
    assert!(last.read(MIB).await == it.bytes[..MIB]);
    it.growing.write(&it.bytes[MIB..2 * MIB]);
    // The client of the first has received another step and not written it yet.
    assert!(answer.read(MIB).await == it.bytes[MIB..2 * MIB]);
    assert!(last.read(MIB).await == it.bytes[MIB..2 * MIB]);
}

#[tokio::test]
async fn where_a_source_breaks_the_next_goes_on_unseen() {
    let ((bytes, digest), follower) = (layer(), node().await);
    let (first, second) = (node().await, node().await);
    let size = bytes.len() as u64;
    let breaks = first.lead(&digest, size).await;
    breaks.write(&bytes[..MIB]);
    let goes_on = second.lead(&digest, size).await;
    goes_on.write(&bytes);
    let _own = follower.ingest(&digest, size);
    follower.then(first.follow(1));
    follower.then(second.follow(1));
    let mut answer = follower.own(&digest).await;
    let begin = answer.read(MIB).await;
    breaks.fail(&first, &digest);
    let (rest, is_all) = answer.rest().await;
    assert!(is_all && begin == bytes[..MIB] && rest == bytes[MIB..]);
    first.script.told(PullProgress::Failed).await;
    let requests = follower.script.requests.lock();
    let asked = |r: &SourceRequest| (r.offset, r.failed_sources().collect());
    let asked: Vec<(u64, Vec<_>)> = requests.iter().map(asked).collect();
    assert_eq!(asked, [(0, vec![]), (MIB as u64, vec![first.id()])]);
    assert_eq!(requests[0].size, Some(size));
    drop(requests);
    assert_eq!(follower.metric("peili_flights_source_changes_total"), 1);
}

#[tokio::test]
async fn a_lead_in_the_middle_ends_the_body_and_the_next_request_goes_upstream() {
    let ((bytes, digest), follower, source) = (layer(), node().await, node().await);
    let size = bytes.len() as u64;
    let breaks = source.lead(&digest, size).await;
    breaks.write(&bytes[..MIB]);
    let own = follower.ingest(&digest, size);
    follower.then(source.follow(1));
    follower.then(Decision::Lead);
    let mut answer = follower.own(&digest).await;
    own.write(&answer.read(MIB).await);
    follower.script.told(PullProgress::Begun { size }).await;
    breaks.fail(&source, &digest);
    let (rest, is_all) = answer.rest().await;
    assert!(rest.is_empty() && !is_all, "an early end");

    follower.then(Decision::Lead);
    let range = format!("bytes={MIB}-");
    let answer = follower.own_from(&digest, &[(RANGE, &range)]).await;
    assert_eq!(answer.0.status(), StatusCode::NOT_FOUND);
    assert!(answer.text().await.contains("leads"));
    assert_eq!(
        follower
            .script
            .requests
            .lock()
            .last()
            .expect("asked")
            .offset,
        MIB as u64
    );
    // The pull has begun again once upstream has sent something.
    let begun = PullProgress::Begun { size };
    let times = |s: &Script| s.progress().iter().filter(|n| **n == begun).count();
    assert_eq!(times(&follower.script), 1);
    own.write(&bytes[MIB..]);
    follower.script.until(|s| times(s) == 2).await;
}

#[tokio::test]
async fn a_source_that_is_not_there_is_passed_over() {
    let ((bytes, digest), leader, follower) = (layer(), node().await, node().await);
    let size = bytes.len() as u64;
    let growing = leader.lead(&digest, size).await;
    growing.write(&bytes);
    let _own = follower.ingest(&digest, size);
    let closed = candidate(SocketAddr::from(([127, 0, 0, 1], 1)));
    let gone = closed.peer.node().expect("it takes part");
    follower.then(Decision::Follow {
        source: closed,
        position: ChainPosition::default(),
        leader: None,
    });
    follower.then(leader.follow(1));
    let answer = follower.own(&digest).await;
    assert!(answer.rest().await == (bytes, true));
    assert_eq!(follower.script.failed(1), [gone]);
}

#[tokio::test]
async fn a_busy_source_is_used_only_if_no_other_is_better() {
    let ((bytes, digest), source, other) = (layer(), node().await, node().await);
    let size = bytes.len() as u64;
    let (growing, elsewhere) = (
        source.lead(&digest, size).await,
        other.lead(&digest, size).await,
    );
    let path = format!("blobs/{digest}");
    let ask = async |last, uploads_below| {
        let headers = [
            (MIRRORED, "true"),
            (FLIGHT, "7-1"),
            (UPLOADS_BELOW, uploads_below),
        ];
        let follower = SocketAddr::from(([10, 0, 1, last], 9));
        source.ask(&path, &headers, follower).await
    };
    growing.write(&bytes);
    let mut uploads = Vec::new();
    for last in 1..=3 {
        uploads.push(ask(last, "0").await);
    }
    let is_served = |answer: &Answer| answer.0.status() == StatusCode::OK;
    assert!(uploads.iter().all(is_served), "it grows");
    growing.commit(&source, &bytes);
    elsewhere.commit(&other, &bytes);
    let refused = ask(4, "3").await;
    assert_eq!(refused.0.status(), StatusCode::SERVICE_UNAVAILABLE);
    for (next, served_by_source) in [(&other, 0), (&source, size)] {
        let follower = node().await;
        let _own = follower.ingest(&digest, size);
        follower.then(source.follow(1));
        follower.then(next.follow(2));
        let before = source.metric(r#"peili_bytes_total{source="local"}"#);
        let answer = follower.own(&digest).await;
        assert!(answer.rest().await == (bytes.clone(), true));
        let after = source.metric(r#"peili_bytes_total{source="local"}"#);
        assert_eq!(after - before, served_by_source);
        assert_eq!(follower.script.failed(1), []);
        let requests = follower.script.requests.lock();
        assert_eq!(requests[1].busy_sources, node_field(Some(source.id())));
    }
}

#[tokio::test]
async fn of_two_that_are_told_to_feed_each_other_one_does() {
    let ((bytes, digest), a, b) = (layer(), node().await, node().await);
    let size = bytes.len() as u64;
    let (own_a, _own_b) = (a.ingest(&digest, size), b.ingest(&digest, size));
    a.then(b.follow(1));
    b.then(a.follow(2));
    // B refuses A, which precedes it; then A has no source left.
    a.then(Decision::Lead);
    let leads = async {
        a.script.until(|s| s.requests.lock().len() == 2).await;
        own_a.write(&bytes);
    };
    let (of_a, of_b, ()) = tokio::join!(a.own(&digest), b.own(&digest), leads);
    assert_eq!(of_a.0.status(), StatusCode::NOT_FOUND);
    assert_eq!(of_b.0.status(), StatusCode::OK);
    assert_eq!(a.script.failed(1), [b.id()]);
    assert!(of_b.rest().await == (bytes, true));
}

#[tokio::test]
async fn a_ring_that_results_from_another_position_is_broken() {
    let (it, other) = (chain().await, node().await);
    let size = it.bytes.len() as u64;
    it.growing.write(&it.bytes[..MIB]);
    let mut of_first = it.first.own(&it.digest).await;
    it.own.write(&of_first.read(MIB).await);
    let mut of_second = it.second.own(&it.digest).await;
    of_second.read(MIB).await;
    // An arbiter that does not know the second node's source puts the first behind it.
    it.first.then(it.second.follow(3));
    it.growing.fail(&it.leader, &it.digest);
    let has_all = other.lead(&it.digest, size).await;
    has_all.write(&it.bytes);
    it.second.then(other.follow(4));
    let (of_first, of_second) = tokio::join!(of_first.rest(), of_second.rest());
    let failed = |n: &Node| {
        let last = n.script.requests.lock().len() - 1;
        n.script.failed(last)
    };
    assert_eq!(failed(&it.first), [it.leader.id()]);
    assert_eq!(failed(&it.second), [it.first.id()]);
    let rest = (it.bytes.slice(MIB..), true);
    assert!(of_first == rest && of_second == rest);
}

#[tokio::test]
async fn a_range_of_all_is_answered_with_all_and_other_ranges_as_they_are() {
    let ((bytes, digest), leader, follower) = (layer(), node().await, node().await);
    let size = bytes.len() as u64;
    let growing = leader.lead(&digest, size).await;
    growing.write(&bytes);
    let _own = follower.ingest(&digest, size);
    follower.then(leader.follow(1));
    follower.then(leader.follow(1));
    let all = follower.own_from(&digest, &[(RANGE, "bytes=0-")]).await;
    assert_eq!(all.0.status(), StatusCode::OK);
    assert!(!all.0.headers().contains_key(CONTENT_RANGE));
    let part = follower
        .own_from(&digest, &[(RANGE, "bytes=2000000-")])
        .await;
    assert_eq!(part.0.status(), StatusCode::PARTIAL_CONTENT);
    let expected = format!("bytes 2000000-{}/{size}", size - 1);
    assert_eq!(part.header(&CONTENT_RANGE), expected);
    assert!(part.rest().await == (bytes.slice(2_000_000..), true));
    assert!(all.rest().await == (bytes, true));
}

#[tokio::test]
async fn a_manifest_tells_what_its_layers_are_and_who_should_lead_them() {
    let ((bytes, layer), leader, follower) = (layer(), node().await, node().await);
    let config = Digest::sha256(b"config");
    let manifest = Bytes::from(format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":6}},"layers":[{{"digest":"{layer}","size":{}}}]}}"#,
        bytes.len()
    ));
    let digest = Digest::sha256(&manifest);
    let path = format!("manifests/{digest}");
    let growing = leader.ingest(&digest, manifest.len() as u64);
    leader.then(Decision::Lead);
    leader.ask(&path, &[], leader.address).await;
    let _own = follower.ingest(&digest, manifest.len() as u64);
    follower.then(leader.follow(1));
    growing.write(&manifest);
    let answer = follower.ask(&path, &[], follower.address).await;
    assert_eq!(answer.0.status(), StatusCode::OK);
    assert!(answer.rest().await == (manifest.clone(), true));
    growing.commit(&leader, &manifest);

    for (node, preferred_leader) in [(&leader, None), (&follower, Some(leader.id()))] {
        let _ingest = node.lead(&layer, bytes.len() as u64).await;
        let requests = node.script.requests.lock();
        let request_source = requests.last().expect("asked");
        assert_eq!(request_source.size, Some(bytes.len() as u64));
        assert_eq!(
            (
                request_source.concurrent_objects,
                request_source.preferred_leader()
            ),
            (1, preferred_leader)
        );
    }
}

/// What a client on the network gets for a blob: the head of the answer, and the number of bytes that follow.
async fn over_the_network(node: &node::Node, digest: &Digest) -> (String, usize) {
    let exchange = async {
        let mut stream = TcpStream::connect(node.address).await?;
        let request = format!(
            "GET /v2/lab/app/blobs/{digest}?ns=quay.io HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // A reset would be an error.
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(PATIENCE, exchange).await.expect("in time");
    let answer = answer.expect("an orderly end");
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.expect("a whole head") + 4;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    (head, answer.len() - end)
}

#[tokio::test]
async fn what_came_before_a_break_reaches_the_client_and_nothing_is_reset() {
    let ((bytes, digest), follower) = (layer(), node().await);
    let size = bytes.len();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let part = bytes.slice(..50_000);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("asked");
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(&part).await;
    });
    let _own = follower.ingest(&digest, size as u64);
    follower.then(Decision::Follow {
        source: candidate(address),
        position: ChainPosition::default(),
        leader: None,
    });
    follower.then(Decision::Alone);
    let (head, body) = over_the_network(&follower, &digest).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, 50_000);
}
