//! Clients that stop reading, over real sockets.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use oci::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::*;
use crate::body::client_socket::OWN_WAIT_LIMIT;
use crate::body::send_memory::{LARGE_CHUNK, SendMemory};
use crate::body::{self, Part};
use crate::found::{Found, Payload, Source};

/// More bytes than the kernel buffers for a client that does not read.
const SIZE: usize = 8 * 1024 * 1024;
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
/// A limit far above anything here.
const LIMIT: Duration = Duration::from_secs(60);

struct Server {
    address: SocketAddr,
    object: Arc<Vec<u8>>,
    memory: SendMemory,
    /// The number of answers that have begun.
    begun: Arc<AtomicUsize>,
}

/// Serves a file on any path.
async fn serve_file(connections: usize) -> Server {
    let counter = 0..SIZE as u32 / 4;
    let object = counter.flat_map(|n| n.wrapping_mul(40_503).to_le_bytes());
    let object: Arc<Vec<u8>> = Arc::new(object.collect());
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&object).expect("room");
    let file = Arc::new(file);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let address = listener.local_addr().expect("bound");
    let (memory, begun) = (SendMemory::default(), Arc::new(AtomicUsize::new(0)));
    let (own, answers) = (memory.own.clone(), begun.clone());
    let handler = move |_, _| {
        answers.fetch_add(1, Ordering::Relaxed);
        let parts = vec![Part::Range(0..SIZE as u64)];
        let payload = Payload::File(file.clone());
        let found = Found::blob(&Digest::sha256(b""), None, payload, Source::Local);
        let body = body::of(found, parts, &own);
        let response = Response::builder().header("content-length", SIZE);
        async { response.body(body).expect("well-formed") }
    };
    let limits = PortLimits {
        own: connections,
        others: 0,
    };
    tokio::spawn(serve(limits, listener, CancellationToken::new(), handler));
    Server {
        address,
        object,
        memory,
        begun,
    }
}

impl Server {
    /// A client that has sent a request and reads nothing.
    async fn client(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(16 * 1024).expect("a buffer");
        let mut client = socket.connect(self.address).await.expect("listening");
        client.write_all(GET).await.expect("open");
        client
    }

    /// Reads the head of an answer and bytes of its body.
    async fn read(&self, client: &mut TcpStream, bytes: usize) {
        let reading = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.expect("a head"));
            }
            let mut body = vec![0; bytes];
            client.read_exact(&mut body).await.expect("all of it");
            assert!(self.object.starts_with(&body));
        };
        timeout(LIMIT, reading).await.expect("nobody is in its way");
    }

    /// Waits until clients that do not read occupy no more KiB than this.
    async fn settles(&self, most: usize) {
        until(|| {
            let (passing, kept) = self.memory.own.in_use(&SendMemory::default().own);
            passing == 0 && kept <= most
        })
        .await;
    }
}

async fn until(is_so: impl Fn() -> bool) {
    let check = async {
        while !is_so() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, check).await.expect("it becomes so");
}

/// Advances the time. The clock is stopped only for that, since bytes in transit take real time.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn clients_that_take_nothing_hold_no_memory() {
    const CLIENTS: usize = 300;
    let server = serve_file(CLIENTS + 1).await;
    let mut stalled = Vec::new();
    for _ in 0..CLIENTS {
        stalled.push(server.client().await);
    }
    until(|| server.begun.load(Ordering::Relaxed) == CLIENTS).await;
    server.settles(0).await;
    let mut live = server.client().await;
    server.read(&mut live, SIZE).await;
    // They are served further when they read again.
    for client in &mut stalled[..3] {
        server.read(client, SIZE).await;
    }
}

#[tokio::test]
async fn clients_that_stop_after_a_while_hold_a_share_of_it() {
    const CLIENTS: usize = 80;
    let most = 8 * 1024 + LARGE_CHUNK / 1024;
    let server = serve_file(CLIENTS + 1).await;
    let mut stalled = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = server.client().await;
        server.read(&mut client, SIZE / 4).await;
        stalled.push(client);
        let (_, kept) = server.memory.own.in_use(&SendMemory::default().own);
        assert!(kept <= most, "{kept}");
    }
    server.settles(most).await;
    let mut live = server.client().await;
    server.read(&mut live, SIZE).await;
    drop(stalled);
    server.settles(0).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_for_long_sees_an_orderly_end() {
    let server = serve_file(1).await;
    let mut client = server.client().await;
    // More requests than are read while the first is answered: closing with unread ones would reset the connection.
    client.write_all(&GET.repeat(1500)).await.expect("open");
    let mut got = vec![client.read_u8().await.expect("an answer")];
    server.settles(0).await;
    pass(OWN_WAIT_LIMIT).await;
    let end = timeout(LIMIT, client.read_to_end(&mut got)).await;
    end.expect("it ends").expect("no reset");
    assert!(got.len() < SIZE);
    let head = got.windows(4).position(|end| end == b"\r\n\r\n");
    assert!(server.object.starts_with(&got[head.expect("a head") + 4..]));
}

#[tokio::test]
async fn a_new_connection_replaces_one_that_is_of_no_use() {
    let server = serve_file(1).await;
    let mut stalled = server.client().await;
    let mut got = vec![stalled.read_u8().await.expect("an answer")];
    server.settles(0).await;
    // Not yet.
    let mut refused = String::new();
    let mut early = server.client().await;
    let answer = timeout(LIMIT, early.read_to_string(&mut refused)).await;
    answer.expect("it ends").expect("no reset");
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("\r\nretry-after: 5\r\n"), "{refused}");
    pass(Duration::from_secs(5)).await;
    let mut live = server.client().await;
    server.read(&mut live, SIZE).await;
    stalled.read_to_end(&mut got).await.expect("no reset");
    assert!(got.len() < SIZE);
    // It is idle now.
    pass(Duration::from_secs(5)).await;
    let mut next = server.client().await;
    server.read(&mut next, SIZE).await;
}
