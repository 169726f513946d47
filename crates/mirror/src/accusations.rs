//! Accusations: a node tells a peer that its bytes were not committed, as soon as the store has given them up, and again
//! when its client requests the object anew. The peer hashes its copy, and withdraws it only if the copy is damaged: any
//! client can accuse, and the peer may have relayed the bytes of another node.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use lru::LruCache;
use oci::{Digest, Key};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::deliveries::Delivery;
use crate::fetch::Fetcher;
use crate::metrics::Metrics;
use crate::own_pull::OwnPull;
use crate::request::Target;
use crate::verification::{self, Verification};
use crate::{Candidate, IngestStage, Store, local};

/// The minimal interval between hashes of one object, however often it is accused.
const HASHED_EVERY: Duration = Duration::from_secs(24 * 3600);
/// The most objects queued to be hashed, one after the other.
const MAX_WAITING: usize = 16;
/// The most objects to remember as hashed.
const MAX_HASHED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// The rate at which an object is hashed, in bytes per second. No request waits for it.
const RATE: u64 = 32 * 1024 * 1024;
/// The limit of an accusation.
const TELL_LIMIT: Duration = Duration::from_secs(2);

/// Accuses peers, and checks this node's objects when it is accused.
pub struct Accusations {
    judge: Arc<Judge>,
    fetcher: Arc<Fetcher>,
    hashed: Mutex<LruCache<Digest, Instant>>,
    tasks: TaskTracker,
    /// The tasks that wait for the store.
    watches: TaskTracker,
    stop: CancellationToken,
    /// Stops the tasks when the mirror is dropped.
    _stops: DropGuard,
}

struct Judge {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    turns: Semaphore,
}

impl Accusations {
    pub fn new(store: Arc<dyn Store>, fetcher: Arc<Fetcher>, metrics: Arc<Metrics>) -> Self {
        let stop = CancellationToken::new();
        Self {
            judge: Arc::new(Judge {
                store,
                metrics,
                turns: Semaphore::new(1),
            }),
            fetcher,
            hashed: Mutex::new(LruCache::new(MAX_HASHED)),
            tasks: TaskTracker::new(),
            watches: TaskTracker::new(),
            _stops: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Waits until the store has committed what peers deliver, or has given it up: then they are accused. The client may
    /// not request it anew, or from a mirror that has restarted and knows nothing of the delivery.
    pub fn watch(&self, target: &Target, digest: &Digest, delivery: Arc<Delivery>) {
        let Some(mut growing) = target.pull.ingest.clone() else {
            return;
        };
        if !delivery.watch() {
            return;
        }
        let (fetcher, digest) = (self.fetcher.clone(), digest.clone());
        let mut target = target.clone();
        target.pull = OwnPull::default();
        let watch = async move {
            let end = growing.until(|p| p.stage != IngestStage::Filling).await;
            if end.stage == IngestStage::Failed {
                let accused = delivery.accused();
                exclude(&fetcher, &digest, &accused);
                tell(&fetcher, &target, &accused).await;
            }
        };
        let stop = self.stop.clone();
        self.watches.spawn(async move {
            stop.run_until_cancelled(watch).await;
        });
    }

    /// Tells peers that the bytes that they delivered of an object were not committed. They are not asked for it again,
    /// unless upstream fails.
    pub fn accuse(&self, target: &Target, digest: &Digest, peers: Vec<Candidate>) {
        exclude(&self.fetcher, digest, &peers);
        let (fetcher, target) = (self.fetcher.clone(), target.clone());
        self.spawn(async move { tell(&fetcher, &target, &peers).await });
    }

    /// Handles an accusation: hashes an object of this node, and withdraws it if it is damaged.
    pub fn heard(&self, digest: &Digest) {
        let mut hashed = self.hashed.lock();
        let is_recent = hashed
            .get(digest)
            .is_some_and(|at| at.elapsed() < HASHED_EVERY);
        if is_recent || self.tasks.len() >= MAX_WAITING {
            return;
        }
        hashed.put(digest.clone(), Instant::now());
        let (judge, digest) = (self.judge.clone(), digest.clone());
        self.spawn(async move { judge.hash(&digest).await });
    }

    /// Whether no object is being hashed, no accusation is being sent, and none may follow.
    #[cfg(test)]
    pub fn are_settled(&self) -> bool {
        self.tasks.is_empty() && self.watches.is_empty()
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(work).await;
        });
    }
}

fn exclude(fetcher: &Fetcher, digest: &Digest, peers: &[Candidate]) {
    let key = Key::Digest(digest.clone());
    for Candidate { peer, .. } in peers {
        tracing::info!(
            %digest, %peer,
            "what this peer delivered was not committed; it is not asked for it again"
        );
        fetcher.peers.exclude(peer, &key);
    }
}

async fn tell(fetcher: &Fetcher, target: &Target, peers: &[Candidate]) {
    let tell = async |peer: &Candidate| {
        let told = timeout(TELL_LIMIT, fetcher.accuse(target, peer)).await;
        if told.is_err() {
            tracing::debug!(peer = %peer.peer, "an accused peer does not answer");
        }
    };
    join_all(peers.iter().map(tell)).await;
}

impl Judge {
    async fn hash(&self, digest: &Digest) {
        let Ok(_turn) = self.turns.acquire().await else {
            return;
        };
        let named = digest.clone();
        let opened = local::read_store(&self.store, move |store| store.open(&named)).await;
        let content = match opened.and_then(|opened| opened) {
            Ok(Some(object)) => object.content,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%digest, %error, "cannot hash an accused object");
                return;
            }
        };
        match verification::hash(digest, content, RATE).await {
            Ok(Verification::Wrong) => {
                self.metrics.damaged.inc();
                tracing::warn!(
                    %digest,
                    "an object of this node's store is damaged: its bytes are not what its digest names; it is not served any \
                     more. Remove its image and pull it again, and check the disk"
                );
                self.store.report_damaged(digest);
            }
            Ok(Verification::Right) => tracing::debug!(%digest, "an accused object is right"),
            Err(error) => tracing::warn!(%digest, %error, "cannot hash an accused object"),
        }
    }
}
