//! Which clients get the objects that this node is still receiving.

use super::*;
use http::header::RETRY_AFTER;
use tokio::net::TcpSocket;

#[tokio::test]
async fn what_grows_is_for_followers_alone() {
    let ((bytes, digest), leader) = (layer(), node().await);
    let growing = leader.lead(&digest, bytes.len() as u64).await;
    growing.write(&bytes[..MIB]);
    let elsewhere = SocketAddr::from(([10, 0, 0, 9], 9));
    let path = format!("blobs/{digest}");
    let position = ChainPosition { epoch: 1, order: 1 }.to_string();
    let follower = [(MIRRORED, "true"), (FLIGHT, position.as_str())];
    let statuses = async |headers: &[(HeaderName, &str)]| {
        let answer = leader.ask(&path, headers, elsewhere).await;
        answer.0.status()
    };
    assert_eq!(statuses(&follower).await, StatusCode::OK);
    assert_eq!(statuses(&follower[..1]).await, StatusCode::NOT_FOUND);
    let garbled = [(MIRRORED, "true"), (FLIGHT, "1-x")];
    assert_eq!(statuses(&garbled).await, StatusCode::NOT_FOUND);
    // Without the header of a mirror it is a remote client.
    assert_eq!(statuses(&follower[1..]).await, StatusCode::NOT_FOUND);

    // An ingest that began without this mirror has no owner.
    let other = Digest::sha256(b"other");
    leader.ingest(&other, 5).write(b"oth");
    let path = format!("blobs/{other}");
    let answer = leader.ask(&path, &follower, elsewhere).await;
    assert_eq!(answer.0.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_not_mirrored_is_not_offered() {
    let ((bytes, digest), filter) = (layer(), Filter::new(&["https://ghcr.io".into()], &[]));
    let node = node_that_mirrors(filter.expect("sound")).await;
    let ingest = node.ingest(&digest, bytes.len() as u64);
    ingest.write(&bytes);
    assert_eq!(node.own(&digest).await.0.status(), StatusCode::NOT_FOUND);
    assert!(node.script.requests.lock().is_empty(), "it is no flight");
}

#[tokio::test]
async fn a_node_feeds_as_many_as_it_can() {
    let ((bytes, digest), leader) = (layer(), node().await);
    let growing = leader.lead(&digest, bytes.len() as u64).await;
    growing.write(&bytes);
    let headers = [(MIRRORED, "true"), (FLIGHT, "1-1")];
    let path = format!("blobs/{digest}");
    let mut follow_first = Vec::new();
    let refused = loop {
        let follower = SocketAddr::from((
            [10, 0, 1, u8::try_from(follow_first.len()).expect("few")],
            9,
        ));
        let answer = leader.ask(&path, &headers, follower).await;
        if answer.0.status() == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!(answer.header(&RETRY_AFTER), "1");
            break answer;
        }
        follow_first.push(answer);
    };
    assert_eq!(follow_first.len(), 24);
    assert!(refused.text().await.contains("as many followers as it may"));
    assert_eq!(leader.metric("peili_flights_uploads_refused_total"), 1);
    follow_first.pop();
    let last = SocketAddr::from(([10, 0, 2, 1], 9));
    let answer = leader.ask(&path, &headers, last).await;
    assert_eq!(answer.0.status(), StatusCode::OK);
}

/// Made-up requests whose answers are not read take slots, and lose them once others need them.
#[tokio::test]
async fn clients_that_take_nothing_leave_their_places_to_those_that_do() {
    let leader = node().await;
    let (mut objects, mut growing) = (Vec::new(), Vec::new());
    for number in 0..6 {
        let bytes = vec![number; 8 * MIB];
        let digest = Digest::sha256(&bytes);
        let ingest = leader.lead(&digest, bytes.len() as u64).await;
        ingest.write(&bytes);
        growing.push(ingest);
        objects.push(digest);
    }
    let mut unread = Vec::new();
    for last in 2..6 {
        for digest in &objects {
            let socket = TcpSocket::new_v4().expect("a socket");
            let local = SocketAddr::from(([127, 0, 0, last], 0));
            socket.bind(local).expect("an address of this host");
            let mut stream = socket.connect(leader.address).await.expect("it listens");
            let head = format!(
                "GET /v2/lab/app/blobs/{digest}?ns=quay.io HTTP/1.1\r\nhost: a\r\nx-spegel-mirrored: true\r\nx-peili-flight: 7-1\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.expect("sent");
            unread.push(stream);
        }
    }
    let flight = leader.mirror.flight.as_ref().expect("flights");
    let uploads = || flight.followers().values().sum::<usize>();
    let all = async {
        while uploads() < 24 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE / 4, all).await.expect("all are admitted");
    let mut seconds = 0;
    // Slots are taken for less time than that after which any client is cut off.
    while leader.follow_first(&objects[0]).await.0.status() != StatusCode::OK {
        assert!(seconds < 40, "the places are kept");
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::time::resume();
        seconds += 1;
    }
    drop(unread);
}
