//! A node of these tests: a mirror on a loopback port with its store in memory. The test plays its containerd and the
//! other nodes.

use std::collections::VecDeque;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use oci::{Digest, Filter, Origin};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::memory::{MemoryCluster, MemoryStore};
use crate::request::{FLIGHT, MIRRORED};
use crate::upstream_check::fake::FakeUpstream;
use crate::{
    Access, Adapters, Body, Candidate, ChainPosition, CheckOptions, ConnectionAddresses, Decided,
    Decision, FlightEventSender, FlightEvents, Flights, Growing, IngestStage, Limits, LinkTest,
    Mirror, NodeId, Options, PeerId, Progress, PullProgress, Reader, Received, SourceRequest,
    Upstream, flight_events,
};

/// A limit far above anything here.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The decisions of the other nodes: answers that a test provides, one after the other. Without one, a request waits.
pub struct Script {
    pub decisions: Mutex<VecDeque<Decision<Candidate>>>,
    pub requests: Mutex<Vec<SourceRequest>>,
    pub progress: Mutex<Vec<(Digest, PullProgress)>>,
    /// The events for the mirror.
    pub events: FlightEventSender,
    taken: Mutex<Option<FlightEvents>>,
    pub link_tests: Mutex<Vec<LinkTest>>,
    pub rates: Mutex<Vec<Received>>,
    /// Whether to panic when a pull has begun.
    pub panics: AtomicBool,
    happened: Notify,
}

impl Default for Script {
    fn default() -> Self {
        let (events, taken) = flight_events();
        Self {
            decisions: Mutex::default(),
            requests: Mutex::default(),
            progress: Mutex::default(),
            events,
            taken: Mutex::new(Some(taken)),
            link_tests: Mutex::default(),
            rates: Mutex::default(),
            panics: AtomicBool::new(false),
            happened: Notify::default(),
        }
    }
}

#[async_trait]
impl Flights for Script {
    async fn request_source(&self, request: SourceRequest) -> Decided {
        self.requests.lock().push(request);
        self.happened.notify_waiters();
        let decision = self.decisions.lock().pop_front();
        match decision {
            Some(decision) => decision.into(),
            None => std::future::pending().await,
        }
    }

    fn report(&self, digest: &Digest, progress: PullProgress) {
        let has_begun = matches!(progress, PullProgress::Begun { .. });
        assert!(
            !(has_begun && self.panics.load(Ordering::Relaxed)),
            "on purpose"
        );
        self.progress.lock().push((digest.clone(), progress));
        self.happened.notify_waiters();
    }

    fn observe(&self, rates: Received) {
        self.rates.lock().push(rates);
        self.happened.notify_waiters();
    }

    fn link_tested(&self, test: LinkTest) {
        self.link_tests.lock().push(test);
        self.happened.notify_waiters();
    }

    fn events(&self) -> FlightEvents {
        self.taken.lock().take().expect("taken once")
    }
}

impl Script {
    /// The failed nodes in the request of this number.
    pub fn failed(&self, request: usize) -> Vec<NodeId> {
        self.requests.lock()[request].failed_sources().collect()
    }

    /// Waits until a condition holds.
    pub async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            loop {
                let mut happened = std::pin::pin!(self.happened.notified());
                happened.as_mut().enable();
                if holds(self) {
                    return;
                }
                happened.await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("it happens");
    }

    pub async fn told(&self, progress: PullProgress) {
        self.until(|s| s.progress.lock().iter().any(|(_, n)| *n == progress))
            .await;
    }

    pub fn progress(&self) -> Vec<PullProgress> {
        self.progress
            .lock()
            .iter()
            .map(|(_, progress)| *progress)
            .collect()
    }
}

pub struct Node {
    pub store: Arc<MemoryStore>,
    pub script: Arc<Script>,
    pub mirror: Arc<Mirror>,
    pub address: SocketAddr,
    metrics: Registry,
    _serving: DropGuard,
}

pub async fn node() -> Node {
    node_that_mirrors(Filter::default()).await
}

pub async fn node_that_mirrors(filter: Filter) -> Node {
    start(filter, None).await
}

/// A node that asks this registry what is public.
pub async fn node_with_registry(registry: Arc<FakeUpstream>) -> Node {
    start(Filter::default(), Some(registry)).await
}

async fn start(filter: Filter, registry: Option<Arc<FakeUpstream>>) -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (store, script) = (
        Arc::new(MemoryStore::default()),
        Arc::new(Script::default()),
    );
    let parts = Adapters {
        store: store.clone(),
        router: Arc::new(MemoryCluster::default().router(candidate(address))),
        pull_through: None,
        checks: registry.map(|registry| {
            let options = CheckOptions {
                pull_layers: true,
                ..CheckOptions::default()
            };
            (registry as Arc<dyn Upstream>, options)
        }),
        flights: Some(script.clone()),
    };
    let options = Options {
        access: Access {
            filter,
            ..Access::default()
        },
        reader: Reader::default(),
        limits: Limits {
            resolve_timeout: Duration::from_millis(1),
            attempts: 3,
        },
    };
    let mut metrics = Registry::default();
    let mirror = Arc::new(Mirror::new(parts, options, &mut metrics));
    let stop = CancellationToken::new();
    tokio::spawn(crate::serve::registry(
        listener,
        mirror.clone(),
        stop.clone(),
    ));
    Node {
        store,
        script,
        mirror,
        address,
        metrics,
        _serving: stop.drop_guard(),
    }
}

pub fn candidate(address: SocketAddr) -> Candidate {
    Candidate {
        peer: peer(&format!("peer-{}", address.port())),
        addresses: Arc::new([address]),
    }
}

/// A peer that takes part in flights, by its name.
pub fn peer(name: &str) -> PeerId {
    let node = Digest::sha256(name.as_bytes());
    let mut id = [0; 32];
    id.copy_from_slice(&node.as_str().as_bytes()[8..40]);
    PeerId::of_node(name, NodeId(id))
}

impl Node {
    pub fn peer(&self) -> PeerId {
        candidate(self.address).peer
    }

    /// The node's id in flights.
    pub fn id(&self) -> NodeId {
        self.peer().node().expect("it takes part")
    }

    pub fn then(&self, decision: Decision<Candidate>) {
        self.script.decisions.lock().push_back(decision);
    }

    /// The decision for a node that follows this one.
    pub fn follow(&self, order: u32) -> Decision<Candidate> {
        Decision::Follow {
            source: candidate(self.address),
            position: ChainPosition { epoch: 7, order },
            leader: self.peer().node(),
        }
    }

    /// A request of a node that follows this one at the first position of its flight.
    pub async fn follow_first(&self, digest: &Digest) -> Answer {
        let headers = [(MIRRORED, "true"), (FLIGHT, "7-1")];
        let elsewhere = SocketAddr::from(([10, 0, 0, 9], 9));
        let path = format!("blobs/{digest}");
        self.ask(&path, &headers, elsewhere).await
    }

    pub async fn ask(
        &self,
        path: &str,
        headers: &[(HeaderName, &str)],
        remote: SocketAddr,
    ) -> Answer {
        let mut request = http::Request::get(format!("/v2/lab/app/{path}?ns=quay.io"))
            .body(())
            .expect("a request");
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a header");
            request.headers_mut().insert(name, value);
        }
        let local = self.address;
        let (head, ()) = request.into_parts();
        let answer = self
            .mirror
            .answer(&head, ConnectionAddresses { remote, local })
            .await;
        Answer(answer)
    }

    /// A request of this node's containerd.
    pub async fn own(&self, digest: &Digest) -> Answer {
        self.own_from(digest, &[]).await
    }

    pub async fn own_from(&self, digest: &Digest, headers: &[(HeaderName, &str)]) -> Answer {
        let path = format!("blobs/{digest}");
        let asked = self.ask(&path, headers, self.address);
        timeout(PATIENCE, asked).await.expect("an answer")
    }

    /// Begins an ingest of containerd.
    pub fn ingest(&self, digest: &Digest, total: u64) -> Ingest {
        let file = Arc::new(tempfile::tempfile().expect("a file"));
        let (progress, reader) = watch::channel(Progress {
            written: 0,
            total: Some(total),
            stage: IngestStage::Filling,
        });
        self.store
            .ingest_from(digest, Growing::new(file.clone(), reader));
        Ingest { file, progress }
    }

    /// Leads, with an ingest that has not begun.
    pub async fn lead(&self, digest: &Digest, total: u64) -> Ingest {
        let ingest = self.ingest(digest, total);
        self.then(Decision::Lead);
        let answer = self.own(digest).await;
        assert_eq!(answer.0.status(), StatusCode::NOT_FOUND);
        ingest
    }

    pub fn metric(&self, name: &str) -> u64 {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.metrics).expect("encoded");
        let mut lines = page
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = lines.next().expect("a metric of this name");
        value.trim().parse().expect("a number")
    }
}

/// containerd's writer.
pub struct Ingest {
    pub file: Arc<File>,
    pub progress: watch::Sender<Progress>,
}

impl Ingest {
    pub fn write(&self, bytes: &[u8]) {
        let written = self.progress.borrow().written;
        self.file.write_all_at(bytes, written).expect("written");
        self.progress
            .send_modify(|p| p.written += bytes.len() as u64);
    }

    pub fn fail(self, node: &Node, digest: &Digest) {
        node.store.end_ingest(digest);
        self.progress.send_modify(|p| p.stage = IngestStage::Failed);
    }

    pub fn commit(self, node: &Node, bytes: &Bytes) {
        node.store.put(&origin(), bytes.clone());
        self.progress
            .send_modify(|p| p.stage = IngestStage::Complete);
    }
}

pub struct Answer(pub Response<Body>);

impl Answer {
    /// The next `count` bytes of the body.
    pub async fn read(&mut self, count: usize) -> Bytes {
        let mut read = Vec::new();
        while read.len() < count {
            let frame = timeout(PATIENCE, self.0.body_mut().frame()).await;
            let frame = frame.expect("in time").expect("more").expect("a frame");
            read.extend_from_slice(&frame.into_data().expect("data"));
        }
        read.into()
    }

    /// The rest of the body, and whether it is complete.
    pub async fn rest(mut self) -> (Bytes, bool) {
        let mut read = Vec::new();
        loop {
            match timeout(PATIENCE, self.0.body_mut().frame())
                .await
                .expect("in time")
            {
                None => return (read.into(), true),
                Some(Err(_)) => return (read.into(), false),
                Some(Ok(frame)) => read.extend_from_slice(&frame.into_data().expect("data")),
            }
        }
    }

    pub async fn text(self) -> String {
        String::from_utf8_lossy(&self.rest().await.0).into_owned()
    }

    pub fn header(&self, name: &HeaderName) -> &str {
        self.0.headers()[name].to_str().expect("text")
    }
}

pub fn origin() -> Origin {
    Origin {
        registry: "quay.io".parse().expect("a registry"),
        repository: "lab/app".parse().expect("a repository"),
    }
}
