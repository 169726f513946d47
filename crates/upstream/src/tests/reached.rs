//! Connections that are closed or fail, and the errors that follow.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use names::NameError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::resolve::Names;

/// How a connection ends after its first answer.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The connection is closed at once.
    Closed,
    /// The connection is closed when the next request has been read.
    ClosedAfterRequest,
    /// The next request is not read: the client gets a reset.
    Reset,
}

/// A server that answers one request of each connection.
async fn one_answer_each(end: End) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            connections.spawn(answer_once(socket, end));
        }
    });
    (address, tasks)
}

async fn answer_once(mut socket: TcpStream, end: End) {
    if !read_head(&mut socket).await {
        return;
    }
    let digest = Digest::sha256(MANIFEST);
    let length = MANIFEST.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ndocker-content-digest: {digest}\r\ncontent-length: {length}\r\n\r\n"
    );
    let answer = [head.as_bytes(), MANIFEST].concat();
    socket.write_all(&answer).await.expect("answered");
    match end {
        End::Closed => {}
        End::ClosedAfterRequest => {
            read_head(&mut socket).await;
        }
        End::Reset => {
            // Unread data makes the kernel reset the connection.
            let mut byte = [0];
            let _ = socket.read(&mut byte).await;
        }
    }
}

/// Reads a whole head. Returns whether it has come.
async fn read_head(socket: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match socket.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    true
}

fn at(address: SocketAddr, names: Arc<dyn Names>) -> (Registries, UpstreamRepository) {
    at_host(&address.to_string(), "http", names)
}

fn at_host(host: &str, scheme: &str, names: Arc<dyn Names>) -> (Registries, UpstreamRepository) {
    let options = Options {
        registries: vec![format!("{scheme}://{host}").parse().expect("a registry")],
        ..Options::default()
    };
    let repository = UpstreamRepository {
        origin: oci::Origin {
            registry: host.parse().expect("a registry"),
            repository: "team/app".parse().expect("a repository"),
        },
        credentials: None,
    };
    let registries = Registries::with(options, names, &Proxies::default()).expect("set up");
    (registries, repository)
}

#[tokio::test]
async fn a_request_on_a_connection_that_was_closed_is_made_again() {
    for end in [End::Closed, End::ClosedAfterRequest, End::Reset] {
        let (address, _server) = one_answer_each(end).await;
        let (registries, repository) = at(address, Arc::new(FakeNames));
        for _ in 0..20 {
            // Several requests at once, so that several connections are kept.
            let asked = (0..3).map(|_| the_manifest(&registries, &repository));
            for manifest in futures::future::join_all(asked).await {
                assert_eq!(manifest.expect("there").bytes, MANIFEST, "{end:?}");
            }
            let resolved = registries.resolve(&repository, &tag("v1")).await;
            assert_eq!(resolved.expect("there").digest, Digest::sha256(MANIFEST));
        }
    }
}

/// Load balancers close a kept connection with a status even if a request has just been sent on it.
#[tokio::test]
async fn a_request_that_is_said_to_be_late_is_made_again() {
    let is_first = AtomicBool::new(true);
    let server = Server::start(move |_: &Seen| {
        Some(match is_first.swap(false, Ordering::SeqCst) {
            true => response(408, &[("connection", "close")], ""),
            false => manifest_answer(),
        })
    })
    .await;
    let (registries, repository) = at(server.address, Arc::new(FakeNames));
    let manifest = the_manifest(&registries, &repository).await;
    assert_eq!(manifest.expect("there").bytes, MANIFEST);
}

#[tokio::test]
async fn a_server_that_never_answers_is_asked_twice_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (registries, repository) = at(address, Arc::new(FakeNames));
    let closing = async {
        let mut count = 0;
        loop {
            let (mut socket, _) = listener.accept().await.expect("accepted");
            read_head(&mut socket).await;
            count += 1;
            assert!(count <= 2, "asked {count} times");
        }
    };
    let fault = tokio::select! {
        fault = the_manifest(&registries, &repository) => fault.expect_err("no answer"),
        never = closing => never,
    };
    assert!(fault.to_string().contains("without an answer"), "{fault}");
}

/// Resolves `localhost` to these addresses, and no other name.
struct Known(Vec<IpAddr>);

#[async_trait]
impl Names for Known {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        match host {
            "localhost" => Ok(self.0.clone()),
            host => Err(NameError::Unknown {
                name: host.to_owned(),
                servers: "10.0.0.1".to_owned(),
            }),
        }
    }
}

/// A socket whose connections are neither accepted nor refused: its backlog is full.
struct BlackHole {
    _listener: socket2::Socket,
    _waiting: Vec<TcpStream>,
}

impl BlackHole {
    async fn at(address: SocketAddr) -> Self {
        let domain = socket2::Domain::for_address(address);
        let listener = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
        listener.bind(&address.into()).expect("free");
        listener.listen(0).expect("listening");
        let mut waiting = Vec::new();
        let patience = Duration::from_millis(200);
        while let Ok(connected) = tokio::time::timeout(patience, TcpStream::connect(address)).await
        {
            waiting.push(connected.expect("into the backlog"));
        }
        Self {
            _listener: listener,
            _waiting: waiting,
        }
    }
}

/// RFC 8305: an address that never answers does not block the others.
#[tokio::test]
async fn the_addresses_of_both_families_are_raced() {
    let server = Server::start(|_: &Seen| Some(manifest_answer())).await;
    let port = server.address.port();
    let (good, bad) = ("127.0.0.1", "127.0.0.9");
    let _hole = BlackHole::at(SocketAddr::new(bad.parse().expect("an address"), port)).await;
    let _hole6 = BlackHole::at(SocketAddr::new("::1".parse().expect("an address"), port)).await;
    for addresses in [
        &["::1", good][..],
        &[good, "::1"],
        &[bad, good],
        &["::1", bad, good],
    ] {
        let addresses = addresses.iter().map(|a| a.parse().expect("an address"));
        let names = Arc::new(Known(addresses.collect()));
        let (registries, repository) = at_host(&format!("localhost:{port}"), "http", names);
        let manifest = the_manifest(&registries, &repository).await;
        assert_eq!(manifest.expect("there").bytes, MANIFEST);
    }
}

/// A body without a length and without the last message of TLS: Go accepts that as its end.
#[tokio::test]
async fn a_body_may_end_with_its_connection() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
    let acceptor = server::acceptor(&made);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let mut socket = acceptor.accept(socket).await.expect("TLS");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.expect("a request"));
            }
            let is_chunked = head.windows(5).any(|part| part == b"blobs");
            let answer = match is_chunked {
                true => {
                    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n01\r\n".to_vec()
                }
                false => [b"HTTP/1.1 200 OK\r\n\r\n", MANIFEST].concat(),
            };
            socket.write_all(&answer).await.expect("answered");
            socket.flush().await.expect("sent");
            // Dropped: the connection ends without a message of TLS.
        }
    });
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), made.cert.pem()).expect("written");
    let options = Options {
        registries: vec![format!("https://{address}").parse().expect("a registry")],
        ca_file: Some(file.path().to_owned()),
        ..Options::default()
    };
    let registries = Registries::with(options, Arc::new(FakeNames), &Proxies::default());
    let registries = registries.expect("set up");
    let (_, repository) = at(address, Arc::new(FakeNames));
    let manifest = the_manifest(&registries, &repository).await;
    assert_eq!(manifest.expect("whole").bytes, MANIFEST);
    let digest = Digest::sha256(b"01");
    let blob = registries.blob(&repository, &digest, None).await;
    read(blob.expect("begun"))
        .await
        .expect_err("the last chunk is missing");
}

#[tokio::test]
async fn what_no_proxy_does_not_name_goes_through_the_proxy() {
    let proxy = Server::start(|_: &Seen| Some(manifest_answer())).await;
    let direct = Server::start(|_: &Seen| Some(manifest_answer())).await;
    let address = proxy.address;
    let proxies = Proxies::new(|name| match name {
        "HTTP_PROXY" => Some(format!("http://user:p%40ss@{address}")),
        "NO_PROXY" => Some("other.test, 127.0.0.0/8".to_owned()),
        _ => None,
    });
    // A name that only the proxy can resolve.
    for registry in ["reg.test:5000".to_owned(), direct.address.to_string()] {
        let options = Options {
            registries: vec![format!("http://{registry}").parse().expect("a registry")],
            ..Options::default()
        };
        let names = Arc::new(Known(Vec::new()));
        let registries = Registries::with(options, names, &proxies).expect("set up");
        let (_, repository) = at_host(&registry, "http", Arc::new(FakeNames));
        let manifest = the_manifest(&registries, &repository).await;
        assert_eq!(manifest.expect("there").bytes, MANIFEST, "{registry}");
    }
    let (through, past) = (proxy.seen(), direct.seen());
    assert_eq!((through.len(), past.len()), (1, 1));
    assert!(
        through[0]
            .target
            .starts_with("http://reg.test:5000/v2/team/app/")
    );
    let login = through[0].header("proxy-authorization");
    assert_eq!(login, Some("Basic dXNlcjpwQHNz"));
    assert!(past[0].header("proxy-authorization").is_none());
}

#[tokio::test]
async fn a_failure_says_what_failed_on_what_and_what_to_do() {
    let tls = Server::start_tls(|_: &Seen| Some(manifest_answer())).await;
    let plain = Server::start(|_: &Seen| Some(manifest_answer())).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let closed = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let silent = SocketAddr::new([127, 0, 0, 10].into(), plain.address.port());
    let _hole = BlackHole::at(silent).await;
    let silent = silent.to_string();
    let strict = Server::start(|_: &Seen| Some(response(400, &[], ""))).await;
    let (calling, called) = (registries(&strict, Options::default()), repository(&strict));
    let fault = the_manifest(&calling, &called).await;
    let text = fault.expect_err("TLS expected").to_string();
    assert!(text.contains("https://"), "{text}");
    for (host, scheme, words) in [
        (
            silent.clone(),
            "http",
            &[silent.as_str(), "nobody answers there", "HTTPS_PROXY"][..],
        ),
        (
            tls.address.to_string(),
            "https",
            &["SSL_CERT_FILE", "UnknownIssuer"],
        ),
        (
            plain.address.to_string(),
            "https",
            &["http://", "--mirrored-registries"],
        ),
        (
            closed.clone(),
            "http",
            &["refused", "nothing listens", &closed],
        ),
        (
            "no.test:5000".to_owned(),
            "https",
            &["no.test", "/etc/hosts", "10.0.0.1"],
        ),
    ] {
        let (registries, repository) = at_host(&host, scheme, Arc::new(Known(Vec::new())));
        let fault = the_manifest(&registries, &repository).await;
        let fault = fault.expect_err("cannot be reached");
        assert!(matches!(fault, UpstreamError::Unreachable(..)), "{fault}");
        let text = fault.to_string();
        for word in words {
            assert!(text.contains(word), "{word} in: {text}");
        }
        assert!(!text.contains("client error"), "{text}");
    }
}
