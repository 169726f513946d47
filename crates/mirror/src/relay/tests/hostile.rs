//! The cost of hostile peers for the pull of an image of 40 layers, beyond the time of upstream alone. It makes no
//! difference whether there is one or a hundred.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use oci::Key;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::app::{TestApp, app_by, app_of_all};
use super::*;
use crate::waiting_budget::BUDGET;
use crate::{Candidate, Health, Router, Search};

const LAYERS: u32 = 40;
/// What a busy machine may add to the pull of 40 layers.
const SLACK: Duration = Duration::from_secs(4);

fn layers() -> Vec<Digest> {
    let layer = |number: u32| Digest::sha256(&number.to_be_bytes());
    (0..LAYERS).map(layer).collect()
}

/// Pulls all layers, three at a time as containerd does. Returns the time until all were received or left to upstream.
async fn pull_all(app: &TestApp) -> Duration {
    let began = Instant::now();
    let pulls = layers();
    stream::iter(&pulls)
        .for_each_concurrent(3, async |layer| {
            app.pull(layer).await;
        })
        .await;
    began.elapsed()
}

#[tokio::test]
async fn hostile_peers_cost_a_pull_of_40_layers_two_seconds() {
    let (bytes, _) = large();
    let keys: Vec<_> = layers().into_iter().map(Key::Digest).collect();
    let kinds = [
        Peer::Silent,
        Peer::Breaks(bytes.clone(), 0),
        Peer::Breaks(bytes.clone(), 1),
        Peer::Stalls(bytes.clone(), 0),
        Peer::Stalls(bytes.clone(), 1),
        Peer::Stalls(bytes.clone(), 300_000),
        Peer::Trickles(bytes.clone(), 830),
    ];
    let mixed = kinds.iter().cycle().take(100).cloned().collect();
    let mut clusters: Vec<(Option<u64>, Vec<Peer>)> = vec![(None, mixed)];
    for kind in kinds {
        clusters.push((None, vec![kind.clone()]));
        clusters.push((None, vec![kind; 25]));
    }
    // More than is required while the registry's rate is unknown.
    let trickles = Peer::Trickles(bytes.clone(), 5_000);
    clusters.push((Some(20_000_000), vec![trickles.clone()]));
    clusters.push((Some(20_000_000), vec![trickles; 25]));
    stream::iter(clusters)
        .for_each_concurrent(None, async |(speed, peers)| {
            let app = app_of_all(keys.clone(), &peers).await;
            let registry = "quay.io".parse().expect("a registry");
            if let Some(speed) = speed {
                let speeds = app.mirror.attempts.speeds();
                speeds.received(&registry, speed, Duration::from_secs(1));
            }
            let took = pull_all(&app).await;
            let count = peers.len();
            assert!(took < BUDGET + SLACK, "{took:?} with {count} peers");
        })
        .await;
}

/// A search without an end, as if providers block or a legacy peer finds no candidate.
#[derive(Default)]
struct Hangs(Mutex<Vec<mpsc::Sender<Candidate>>>);

#[async_trait]
impl Router for Hangs {
    fn find(&self, _: &Key) -> Search {
        let (found, search) = Search::channel();
        self.0.lock().push(found);
        search
    }

    async fn announce(&self, _: Vec<Key>) {}

    async fn withdraw(&self, _: Vec<Key>) {}

    fn health(&self) -> Health {
        Health::Ready
    }
}

#[tokio::test(start_paused = true)]
async fn lookups_that_hang_cost_a_pull_of_40_layers_two_seconds() {
    let app = app_by(Arc::new(Hangs::default()), Arc::default());
    let took = pull_all(&app).await;
    assert!(
        (BUDGET..BUDGET + Duration::from_millis(100)).contains(&took),
        "{took:?}"
    );
}

/// A pull by digest begins with the head of its manifest.
#[tokio::test(start_paused = true)]
async fn heads_wait_within_the_budget_of_the_pull() {
    let app = app_by(Arc::new(Hangs::default()), Arc::default());
    let began = Instant::now();
    let head = async |digest: &Digest| {
        let path = format!("/v2/lab/app/manifests/{digest}?ns=quay.io");
        let request = http::Request::head(path).body(()).expect("a request");
        let response = app.answer_to([10, 0, 0, 2], request).await;
        assert_eq!(response.status(), http::StatusCode::NOT_FOUND);
    };
    for layer in layers() {
        head(&layer).await;
    }
    pull_all(&app).await;
    let took = began.elapsed();
    assert!(took < BUDGET + Duration::from_millis(100), "{took:?}");
    head(&layers()[0]).await;
    let again = began.elapsed() - took;
    assert!(
        again >= BUDGET,
        "it is asked for again: upstream has failed"
    );
}

/// No peer is slower than an unreachable registry: the client has come back from it.
#[tokio::test]
async fn where_upstream_has_failed_peers_are_asked_again() {
    let (bytes, digest) = large();
    let app = app(&digest, &[Peer::Breaks(bytes.clone(), 1 << 20)]).await;
    let first = app.pull(&digest).await;
    assert_eq!(first, 1 << 20);
    tokio::time::pause();
    // Its back-off ends.
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    let second = app.pull(&digest).await;
    assert_eq!(second, 1 << 20, "it was asked again");
}

#[tokio::test(start_paused = true)]
async fn others_search_in_turns_and_this_nodes_own_client_waits_for_none() {
    let router = Arc::new(Hangs::default());
    let app = app_by(router.clone(), Arc::default());
    let layers: Vec<_> = (0..100u32)
        .map(|number| Digest::sha256(&number.to_be_bytes()))
        .collect();
    let others = stream::iter(&layers).for_each_concurrent(None, async |layer| {
        app.blob(layer).await;
    });
    let own = Digest::sha256(b"own");
    let a_while = || tokio::time::sleep(Duration::from_millis(500));
    let own_asks_later = async {
        a_while().await;
        assert_eq!(router.0.lock().len(), 64);
        app.ingest(&own);
        tokio::select! {
            _ = app.blob(&own) => panic!("it waits for the lookup"),
            () = a_while() => {}
        }
        assert_eq!(router.0.lock().len(), 65, "it waits for nobody else");
    };
    tokio::select! {
        () = others => panic!("they wait for the lookups"),
        () = own_asks_later => {}
    }
}
