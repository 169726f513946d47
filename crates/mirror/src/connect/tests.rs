//! Connections to fake peers.

use super::*;
use crate::Candidate;
use crate::peers::InFlight;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The limit for anything that happens soon or never; shorter than the time for which idle connections are kept.
const PATIENCE: Duration = Duration::from_secs(20);

/// A peer that answers all requests. Reports the start (`true`) and the end of each connection.
async fn peer() -> (SocketAddr, mpsc::UnboundedReceiver<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (tells, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tells = tells.clone();
            tokio::spawn(async move {
                tells.send(true).expect("the test listens");
                let mut read = [0; 1024];
                while stream.read(&mut read).await.is_ok_and(|count| count > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    stream.write_all(answer).await.expect("it reads on");
                }
                let _ = tells.send(false);
            });
        }
    });
    (address, told)
}

/// How a peer ends a connection.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It closes the connection at once.
    Closed,
    /// It closes the connection when the next request has been read.
    ClosedAfterRequest,
    /// It does not read the next request: the client gets a reset.
    Reset,
}

/// A peer that answers this many requests of each connection. Reports each connection.
async fn closing_peer(
    answers: usize,
    end: End,
) -> (SocketAddr, mpsc::UnboundedReceiver<()>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (tells, told) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            tells.send(()).expect("the test listens");
            connections.spawn(answer_and_end(stream, answers, end));
        }
    });
    (address, told, tasks)
}

async fn answer_and_end(mut stream: TcpStream, answers: usize, end: End) {
    let mut read = [0; 1024];
    for _ in 0..answers {
        if !stream.read(&mut read).await.is_ok_and(|count| count > 0) {
            return;
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(answer).await.expect("it reads on");
    }
    match end {
        End::Closed => {}
        End::ClosedAfterRequest => {
            let _ = stream.read(&mut read).await;
        }
        // Unread data makes the kernel reset the connection.
        End::Reset => {
            let _ = stream.read(&mut [0]).await;
        }
    }
}

#[tokio::test]
async fn a_request_on_a_kept_connection_that_was_closed_is_made_again() {
    for end in [End::Closed, End::ClosedAfterRequest, End::Reset] {
        let connections = Connections::new(Arc::default(), None);
        let (address, _told, _tasks) = closing_peer(1, end).await;
        for _ in 0..20 {
            // Several requests at once, so that several connections are kept.
            let asked = (0..3).map(|_| ask(&connections, address, 1, true));
            futures::future::join_all(asked).await;
        }
    }
}

#[tokio::test]
async fn a_peer_that_closes_new_connections_is_asked_once() {
    let connections = Connections::new(Arc::default(), None);
    let (address, mut told, _tasks) = closing_peer(0, End::ClosedAfterRequest).await;
    let asked = send(&connections, address, 0).1.await;
    assert!(asked.is_err());
    told.recv().await.expect("a connection");
    assert!(told.try_recv().is_err(), "and no other");
}

/// Sends a request to a peer with this number.
fn send(
    connections: &Connections,
    address: SocketAddr,
    number: usize,
) -> (
    InFlight,
    impl Future<Output = Result<Response<Incoming>, ClientError>>,
) {
    let candidate = Candidate {
        peer: PeerId::new(&format!("peer{number}")),
        addresses: Arc::new([address]),
    };
    let in_flight = connections.connector.peers.begin(&candidate);
    let request = http::Request::get(format!("http://{}/", candidate.peer));
    let request = request.body(Empty::new()).expect("a request");
    (in_flight, connections.request(request))
}

/// Asks this many peers, all of them at one address.
async fn ask(connections: &Connections, address: SocketAddr, count: usize, delivers: bool) {
    for number in 0..count {
        let (in_flight, answer) = send(connections, address, number);
        let answer = answer.await.expect("an answer");
        let body = answer.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "ok");
        if delivers {
            in_flight.finished();
        }
    }
}

#[tokio::test]
async fn few_connections_are_kept_and_only_to_peers_that_have_sent_a_good_body() {
    let count = MAX_KEPT + 10;
    let connections = Connections::new(Arc::default(), None);
    let (address, mut told) = peer().await;
    let mut open = 0;
    let mut settles_at = async |opened: usize, kept: usize| {
        let (mut begun, mut since) = (0, open);
        while begun < opened || since > kept {
            let next = timeout(PATIENCE, told.recv()).await.expect("it ends");
            let has_begun = next.expect("the peer lives");
            (begun, since) = match has_begun {
                true => (begun + 1, since + 1),
                false => (begun, since - 1),
            };
        }
        assert_eq!((begun, since), (opened, kept));
        open = since;
    };
    ask(&connections, address, count, false).await;
    settles_at(count, 0).await;
    ask(&connections, address, count, true).await;
    settles_at(count, 0).await;
    // They have delivered by now.
    ask(&connections, address, count, true).await;
    settles_at(count, MAX_KEPT).await;
    ask(&connections, address, count, true).await;
    settles_at(count - MAX_KEPT, MAX_KEPT).await;
}

#[tokio::test]
async fn a_dead_address_does_not_hide_a_live_one() {
    let dead = TcpListener::bind("127.0.0.1:0")
        .await
        .and_then(|l| l.local_addr())
        .expect("a free port");
    let live = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = live.local_addr().expect("bound");
    let stream = connect(&[dead, address])
        .await
        .expect("the live one answers");
    assert_eq!(stream.peer_addr().expect("connected"), address);
    assert!(connect(&[dead]).await.is_err());
    assert!(connect(&[]).await.is_err());
}
