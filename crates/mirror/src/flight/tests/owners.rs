//! Which client's requests make a pull of this node take part in a flight, without a node secret.

use super::*;

/// An address of several clients, this node's containerd among them.
const GATEWAY: [u8; 4] = [10, 244, 0, 1];
const OTHER: [u8; 4] = [10, 0, 0, 9];

impl Node {
    async fn asked_by(&self, address: [u8; 4], digest: &Digest, range: Option<&str>) -> StatusCode {
        let remote = SocketAddr::from((address, 9));
        let headers: Vec<_> = range.map(|range| (RANGE, range)).into_iter().collect();
        let path = format!("blobs/{digest}");
        let asked = self.ask(&path, &headers, remote);
        let answer = timeout(PATIENCE, asked).await.expect("an answer");
        answer.0.status()
    }

    fn requests(&self) -> usize {
        self.script.requests.lock().len()
    }
}

/// A node that leads for a client at `owner`, and its ingest from upstream.
async fn led_for(owner: [u8; 4]) -> (Node, Digest, Ingest) {
    let (node, digest) = (node().await, Digest::sha256(b"layer"));
    let ingest = node.ingest(&digest, 5);
    node.then(Decision::Lead);
    let status = node.asked_by(owner, &digest, None).await;
    assert_eq!((status, node.requests()), (StatusCode::NOT_FOUND, 1));
    (node, digest, ingest)
}

#[tokio::test]
async fn whoever_comes_second_leads_nothing_ends_nothing_and_waits_for_nothing() {
    let (node, digest, ingest) = led_for(GATEWAY).await;
    // Before upstream has sent a byte, and after.
    for bytes in [&b""[..], b"la"] {
        ingest.write(bytes);
        if !bytes.is_empty() {
            let size = 5;
            node.script.told(PullProgress::Begun { size }).await;
        }
        for range in [None, Some("bytes=0-"), Some("bytes=1-")] {
            let status = node.asked_by(OTHER, &digest, range).await;
            assert_eq!((status, node.requests()), (StatusCode::NOT_FOUND, 1));
        }
    }
    ingest.write(b"yer");
    ingest.commit(&node, &Bytes::from_static(b"layer"));
    node.script.told(PullProgress::Done).await;
    assert_eq!(
        node.script.progress(),
        [PullProgress::Begun { size: 5 }, PullProgress::Done]
    );
    assert_eq!(node.asked_by(OTHER, &digest, None).await, StatusCode::OK);
}

/// The second pull is of another namespace of containerd, or of another client behind the same gateway or on the same
/// host.
#[tokio::test]
async fn the_owners_address_does_not_make_a_second_pull_the_first() {
    for owner in [GATEWAY, [127, 0, 0, 1]] {
        let (node, digest, ingest) = led_for(owner).await;
        ingest.write(b"la");
        node.script.told(PullProgress::Begun { size: 5 }).await;
        for range in [None, Some("bytes=0-")] {
            let status = node.asked_by(owner, &digest, range).await;
            assert_eq!((status, node.requests()), (StatusCode::NOT_FOUND, 1));
        }
        assert_eq!(node.script.progress(), [PullProgress::Begun { size: 5 }]);
    }
}

#[tokio::test]
async fn a_second_request_while_the_first_is_answered_changes_nothing() {
    let ((bytes, digest), source, follower) = (layer(), node().await, node().await);
    let size = bytes.len() as u64;
    let growing = source.lead(&digest, size).await;
    growing.write(&bytes[..MIB]);
    let own = follower.ingest(&digest, size);
    follower.then(source.follow(1));
    let mut answer = follower.own(&digest).await;
    own.write(&answer.read(MIB).await);
    let status = follower.asked_by([127, 0, 0, 1], &digest, None).await;
    assert_eq!((status, follower.requests()), (StatusCode::NOT_FOUND, 1));
    growing.write(&bytes[MIB..]);
    growing.commit(&source, &bytes);
    assert!(answer.rest().await == (bytes.slice(MIB..), true));
}

#[tokio::test]
async fn all_ranges_of_the_owner_take_part() {
    let (node, digest, _ingest) = led_for(GATEWAY).await;
    for (requests, range) in [(2, "bytes=2-"), (3, "bytes=4-")] {
        node.then(Decision::Lead);
        let status = node.asked_by(GATEWAY, &digest, Some(range)).await;
        assert_eq!((status, node.requests()), (StatusCode::NOT_FOUND, requests));
    }
}

/// With a mirror in the host's network, its containerd asks from this host. Its request may come after that of another
/// node, which a node port has led here: an ingest waits in containerd's queue.
#[tokio::test]
async fn this_host_comes_before_others() {
    let (node, digest, _ingest) = led_for(OTHER).await;
    node.then(Decision::Lead);
    let here = [127, 0, 0, 1];
    let status = node.asked_by(here, &digest, None).await;
    assert_eq!((status, node.requests()), (StatusCode::NOT_FOUND, 2));
    let status = node.asked_by(OTHER, &digest, None).await;
    assert_eq!((status, node.requests()), (StatusCode::NOT_FOUND, 2));
}

#[tokio::test]
async fn a_new_ingest_has_a_new_owner() {
    let (node, digest, ingest) = led_for(GATEWAY).await;
    ingest.write(b"la");
    node.script.told(PullProgress::Begun { size: 5 }).await;
    ingest.fail(&node, &digest);
    node.script.told(PullProgress::Failed).await;
    let status = node.asked_by(OTHER, &digest, None).await;
    assert_eq!((status, node.requests()), (StatusCode::NOT_FOUND, 1));
    let _own = node.ingest(&digest, 5);
    node.then(Decision::Lead);
    let status = node.asked_by(OTHER, &digest, None).await;
    assert_eq!((status, node.requests()), (StatusCode::NOT_FOUND, 2));
}

/// The mirror was restarted during a pull.
#[tokio::test]
async fn an_ingest_that_has_begun_is_for_whoever_resumes_it() {
    let (node, digest) = (node().await, Digest::sha256(b"layer"));
    node.ingest(&digest, 5).write(b"la");
    let status = node.asked_by(OTHER, &digest, None).await;
    assert_eq!((status, node.requests()), (StatusCode::NOT_FOUND, 0));
    node.then(Decision::Lead);
    let status = node.asked_by(GATEWAY, &digest, Some("bytes=2-")).await;
    assert_eq!((status, node.requests()), (StatusCode::NOT_FOUND, 1));
    let status = node.asked_by(OTHER, &digest, Some("bytes=2-")).await;
    assert_eq!((status, node.requests()), (StatusCode::NOT_FOUND, 1));
}
