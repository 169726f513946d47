use std::sync::mpsc;

use oci::Origin;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::*;
use crate::memory::MemoryStore;
use crate::own_pull::OwnPull;
use crate::request::Caller;
use crate::{Catalog, Health, Object, StoredObject};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store whose disk hangs on one object until the test lets it go on.
struct Hanging {
    memory: MemoryStore,
    hangs_on: Digest,
    /// Somebody waits for the disk.
    waited_for: Notify,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Hanging {
    fn hang(&self, digest: &Digest) {
        if *digest == self.hangs_on {
            self.waited_for.notify_one();
            let gone_on = self.go_on.lock().recv_timeout(PATIENCE);
            gone_on.expect("others are answered meanwhile");
        }
    }
}

impl Store for Hanging {
    fn catalog(&self) -> &Catalog {
        self.memory.catalog()
    }

    fn open(&self, digest: &Digest) -> io::Result<Option<StoredObject>> {
        self.hang(digest);
        self.memory.open(digest)
    }

    fn ingest(&self, digest: &Digest) -> io::Result<Option<Ingest>> {
        self.hang(digest);
        self.memory.ingest(digest)
    }

    fn downloads_share_slots(&self) -> bool {
        self.memory.downloads_share_slots()
    }

    fn health(&self) -> Health {
        self.memory.health()
    }
}

fn origin() -> Origin {
    Origin {
        registry: "quay.io".parse().expect("a registry"),
        repository: "a/b".parse().expect("a repository"),
    }
}

fn target(digest: &Digest, caller: Caller) -> Target {
    Target {
        kind: Kind::Blob,
        origin: None,
        reference: Reference::Digest(digest.clone()),
        ranges: None,
        caller,
        pull: OwnPull::default(),
        head_only: false,
        position: None,
    }
}

fn hanging() -> (Arc<Hanging>, Digest, Digest, mpsc::Sender<()>) {
    let memory = MemoryStore::default();
    let [cold, other] = [b"cold ", b"other"].map(|b| memory.put(&origin(), Bytes::from_static(b)));
    let (sender, receiver) = mpsc::channel();
    let store = Arc::new(Hanging {
        memory,
        hangs_on: cold.clone(),
        waited_for: Notify::new(),
        go_on: Mutex::new(receiver),
    });
    (store, cold, other, sender)
}

#[tokio::test]
async fn a_disk_that_is_waited_for_holds_up_nobody_else() {
    let (hanging, cold, other, go_on) = hanging();
    let store: Arc<dyn Store> = hanging.clone();
    let access = Access::default();
    let (cold, other) = (target(&cold, Caller::Own), target(&other, Caller::Own));
    let others = async {
        hanging.waited_for.notified().await;
        let found = find(&store, &access, &other).await;
        go_on.send(()).expect("it still waits");
        found
    };
    let (first, second) = tokio::join!(find(&store, &access, &cold), others);
    assert!(first.is_some() && second.is_some());
}

#[tokio::test]
async fn an_ingest_that_is_looked_for_holds_up_nobody_else() {
    let (hanging, cold, other, go_on) = hanging();
    let store: Arc<dyn Store> = hanging.clone();
    let others = async {
        hanging.waited_for.notified().await;
        let found = ingest(&store, &other).await;
        go_on.send(()).expect("it still waits");
        found
    };
    let (first, second) = tokio::join!(ingest(&store, &cold), others);
    assert!(first.is_none() && second.is_none(), "all is complete");
}

#[tokio::test]
async fn a_disk_that_hangs_is_not_waited_for() {
    let (hanging, cold, _, go_on) = hanging();
    let store: Arc<dyn Store> = hanging.clone();
    let access = Access::default();
    let cold = target(&cold, Caller::Own);
    let time_passes = async {
        hanging.waited_for.notified().await;
        tokio::time::pause();
        tokio::time::advance(OPEN_LIMIT + Duration::from_millis(1)).await;
    };
    let (found, ()) = tokio::join!(find(&store, &access, &cold), time_passes);
    assert!(found.is_none());
    go_on.send(()).expect("it still waits");
}

#[tokio::test]
async fn what_the_catalog_does_not_know_or_calls_private_is_for_own_clients_alone() {
    let memory = Arc::new(MemoryStore::default());
    let store: Arc<dyn Store> = memory.clone();
    let digest = memory.put(&origin(), Bytes::from_static(b"object"));
    let access = Access::default();
    let sees = async |caller| {
        find(&store, &access, &target(&digest, caller))
            .await
            .is_some()
    };
    for others in [Caller::Peer, Caller::Remote] {
        assert!(sees(others).await, "shared: {others:?}");
    }
    memory.catalog().remove(&digest);
    for known in [false, true] {
        if known {
            memory.catalog().insert(digest.clone(), Object::default());
        }
        assert!(sees(Caller::Own).await, "known: {known}");
        for others in [Caller::Peer, Caller::Remote] {
            assert!(!sees(others).await, "known: {known}, {others:?}");
        }
    }
}
