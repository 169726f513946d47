//! A mirror that fills its own store, in a cluster that pulls once.

use std::collections::VecDeque;

use mirror::{ChainPosition, Decided, Decision, FLIGHT, PullProgress, SourceRequest};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// The decisions of the other nodes, provided by the test.
#[derive(Default)]
struct Script {
    decisions: Mutex<VecDeque<Decision<Candidate>>>,
    offsets: Mutex<Vec<u64>>,
    progress: Mutex<Vec<PullProgress>>,
    told: Notify,
}

#[async_trait]
impl Flights for Script {
    async fn request_source(&self, request: SourceRequest) -> Decided {
        self.offsets.lock().push(request.offset);
        let decision = self.decisions.lock().pop_front();
        decision.unwrap_or(Decision::Alone).into()
    }

    fn report(&self, _: &Digest, progress: PullProgress) {
        self.progress.lock().push(progress);
        self.told.notify_one();
    }
}

impl Script {
    async fn told(&self, progress: PullProgress) {
        let told = async {
            while !self.progress.lock().contains(&progress) {
                self.told.notified().await;
            }
        };
        timeout(PATIENCE, told).await.expect("told in time");
    }
}

fn node(decisions: impl IntoIterator<Item = Decision<Candidate>>) -> (TestApp, Arc<Script>) {
    let script = Arc::new(Script::default());
    script.decisions.lock().extend(decisions);
    (app_of_cluster(Some(script.clone())), script)
}

/// The headers of a follower's request.
fn follower() -> HeaderMap {
    HeaderMap::from_iter([
        (MIRRORED, HeaderValue::from_static("true")),
        (FLIGHT, HeaderValue::from_static("1-1")),
    ])
}

/// The headers of a client that itself asks upstream for what it does not get here.
fn containerd() -> HeaderMap {
    let agent = HeaderValue::from_static("containerd/v2.1.9");
    HeaderMap::from_iter([(http::header::USER_AGENT, agent)])
}

#[tokio::test]
async fn what_it_leads_is_for_followers_while_it_comes() {
    let (app, script) = node([Decision::Lead]);
    let gate = Arc::new(Semaphore::new(1000));
    *app.upstream.gate.lock() = Some(gate.clone());
    let (bytes, digest) = (layer(), app.upstream.put(layer()));
    let path = format!("blobs/{digest}");
    let own = app.ask(&path, HERE, HeaderMap::new()).await;
    let size = bytes.len() as u64;
    script.told(PullProgress::Begun { size }).await;
    let followers = app.ask(&path, ELSEWHERE, follower()).await;
    assert_eq!(followers.status(), StatusCode::OK);
    let peer = HeaderMap::from_iter([(MIRRORED, HeaderValue::from_static("true"))]);
    let peers = app.ask(&path, ELSEWHERE, peer).await;
    assert_eq!(peers.status(), StatusCode::NOT_FOUND);
    gate.add_permits(bytes.len());
    assert!(read(own).await.1 == bytes && read(followers).await.1 == bytes);
    script.told(PullProgress::Done).await;
    assert_eq!(app.asked(), 1);
}

#[tokio::test]
async fn what_takes_credentials_is_not_led() {
    let (app, script) = node([Decision::Lead]);
    *app.upstream.private.lock() = true;
    let gate = Arc::new(Semaphore::new(1000));
    *app.upstream.gate.lock() = Some(gate.clone());
    let digest = app.upstream.put(layer());
    let path = format!("blobs/{digest}");
    let own = app.ask(&path, HERE, HeaderMap::new()).await;
    script.told(PullProgress::Failed).await;
    let followers = app.ask(&path, ELSEWHERE, follower()).await;
    assert_eq!(followers.status(), StatusCode::NOT_FOUND);
    gate.add_permits(layer().len());
    assert!(read(own).await.1 == layer());
    assert!(!script.progress.lock().contains(&PullProgress::Done));
}

/// If a peer sent the rest, the whole object would count as shared.
#[tokio::test]
async fn what_took_credentials_stays_out_of_flights_when_its_source_breaks() {
    let (app, script) = node([Decision::Lead]);
    *app.upstream.private.lock() = true;
    *app.upstream.breaks_after.lock() = Some(1_200_000);
    let digest = app.upstream.put(layer());
    let (status, bytes) = app.get(&format!("blobs/{digest}")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(bytes == layer());
    assert_eq!(app.asked(), 3);
    assert_eq!(*script.offsets.lock(), [0]);
}

#[tokio::test]
async fn what_it_follows_it_takes_in_and_goes_on_with_upstream_where_the_source_breaks() {
    let (leader, leading) = node([Decision::Lead, Decision::Lead]);
    let bytes = layer();
    let layer = leader.upstream.put(bytes.clone());
    let manifest = leader.upstream.image("1", &layer);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let follow = || Decision::Follow {
        source: Candidate {
            peer: PeerId::new("leader"),
            addresses: Arc::new([listener.local_addr().expect("bound")]),
        },
        position: ChainPosition { epoch: 1, order: 1 },
        leader: None,
    };
    let (app, script) = node([follow(), follow(), Decision::Lead]);
    let stop = CancellationToken::new();
    let _ends = stop.clone().drop_guard();
    tokio::spawn(mirror::serve::registry(
        listener,
        leader.mirror.clone(),
        stop,
    ));

    let path = format!("manifests/{manifest}");
    let first = leader.ask(&path, HERE, containerd()).await;
    assert!(manifest.verifies(&read(first).await.1));
    leading.told(PullProgress::Done).await;
    let from_leader = app.ask(&path, HERE, containerd()).await;
    assert!(manifest.verifies(&read(from_leader).await.1));

    // Its upstream breaks at the first megabyte, for good.
    let gate = Arc::new(Semaphore::new(0));
    *leader.upstream.gate.lock() = Some(gate.clone());
    *leader.upstream.breaks_after.lock() = Some(1_000_000);
    let path = format!("blobs/{layer}");
    let _own = leader.ask(&path, HERE, HeaderMap::new()).await;
    app.upstream.put(bytes.clone());
    gate.add_permits(100_000);
    let answer = app.ask(&path, HERE, HeaderMap::new()).await;
    *leader.upstream.gone.lock() = true;
    gate.add_permits(bytes.len());
    assert!(read(answer).await.1 == bytes);
    assert_eq!(app.asked(), 1, "for the rest");
    assert_eq!(*script.offsets.lock(), [0, 0, 1_000_000, 1_000_000]);
    script.told(PullProgress::Done).await;
    app.stored(&layer).await;
}
