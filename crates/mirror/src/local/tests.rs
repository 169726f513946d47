use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc;

use futures::FutureExt as _;
use oci::Origin;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::*;
use crate::memory::MemoryStore;
use crate::own_pull::OwnPull;
use crate::request::Caller;
use crate::{Catalog, Health, Object, StoredObject};

/// A limit far above anything here.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store whose disk blocks on one object until the test releases it.
struct Hanging {
    memory: MemoryStore,
    hangs_on: Digest,
    /// A caller waits for the disk.
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
        follower: None,
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
    let (memory, access) = (SendMemory::default(), Access::default());
    let (cold, other) = (target(&cold, Caller::Own), target(&other, Caller::Own));
    let others = async {
        hanging.waited_for.notified().await;
        let found = find(&store, &memory, &access, &other)
            .await
            .expect("memory");
        go_on.send(()).expect("it still waits");
        found
    };
    let (first, second) = tokio::join!(find(&store, &memory, &access, &cold), others);
    assert!(first.expect("memory").is_some() && second.is_some());
}

#[tokio::test]
async fn an_ingest_that_is_looked_for_holds_up_nobody_else() {
    let (hanging, cold, other, go_on) = hanging();
    let store: Arc<dyn Store> = hanging.clone();
    let own = SendMemory::default().own;
    let others = async {
        hanging.waited_for.notified().await;
        let found = ingest(&store, &own, &other).await;
        go_on.send(()).expect("it still waits");
        found
    };
    let (first, second) = tokio::join!(ingest(&store, &own, &cold), others);
    assert!(first.is_none() && second.is_none(), "all is complete");
}

#[tokio::test]
async fn a_disk_that_hangs_is_not_waited_for() {
    let (hanging, cold, _, go_on) = hanging();
    let store: Arc<dyn Store> = hanging.clone();
    let (memory, access) = (SendMemory::default(), Access::default());
    let cold = target(&cold, Caller::Own);
    let time_passes = async {
        hanging.waited_for.notified().await;
        tokio::time::pause();
        tokio::time::advance(OPEN_LIMIT + Duration::from_millis(1)).await;
    };
    let (found, ()) = tokio::join!(find(&store, &memory, &access, &cold), time_passes);
    assert!(found.expect("memory").is_none());
    go_on.send(()).expect("it still waits");
}

#[tokio::test]
async fn what_the_catalog_does_not_know_or_calls_private_is_for_own_clients_alone() {
    let held = Arc::new(MemoryStore::default());
    let store: Arc<dyn Store> = held.clone();
    let digest = held.put(&origin(), Bytes::from_static(b"object"));
    let (memory, access) = (SendMemory::default(), Access::default());
    let sees = async |caller| {
        let found = find(&store, &memory, &access, &target(&digest, caller)).await;
        found.expect("memory").is_some()
    };
    for others in [Caller::Peer, Caller::Remote] {
        assert!(sees(others).await, "shared: {others:?}");
    }
    held.catalog().remove(&digest);
    for known in [false, true] {
        if known {
            held.catalog().insert(digest.clone(), Object::default());
        }
        assert!(sees(Caller::Own).await, "known: {known}");
        for others in [Caller::Peer, Caller::Remote] {
            assert!(!sees(others).await, "known: {known}, {others:?}");
        }
    }
}

/// A store whose objects are files.
struct OnDisk {
    memory: MemoryStore,
    files: HashMap<Digest, Arc<File>>,
}

impl OnDisk {
    fn of(objects: &[Bytes]) -> Self {
        let memory = MemoryStore::default();
        let file = |bytes: &Bytes| {
            let file = tempfile::tempfile().expect("a file");
            file.write_all_at(bytes, 0).expect("written");
            (memory.put(&origin(), bytes.clone()), Arc::new(file))
        };
        let files = objects.iter().map(file).collect();
        Self { memory, files }
    }
}

impl Store for OnDisk {
    fn catalog(&self) -> &Catalog {
        self.memory.catalog()
    }

    fn open(&self, digest: &Digest) -> io::Result<Option<StoredObject>> {
        let Some(mut object) = self.memory.open(digest)? else {
            return Ok(None);
        };
        let (file, size) = (self.files[digest].clone(), object.content.size());
        object.content = Content::File { file, size };
        Ok(Some(object))
    }

    fn ingest(&self, digest: &Digest) -> io::Result<Option<Ingest>> {
        self.memory.ingest(digest)
    }

    fn downloads_share_slots(&self) -> bool {
        self.memory.downloads_share_slots()
    }

    fn health(&self) -> Health {
        self.memory.health()
    }
}

#[tokio::test(start_paused = true)]
async fn others_have_what_is_large_read_with_memory_for_it_and_once() {
    let bytes = Bytes::from(vec![b' '; MAX_HELD as usize + 1]);
    for kind in [Kind::Manifest, Kind::Blob] {
        let disk = OnDisk::of(std::slice::from_ref(&bytes));
        let digest = Digest::sha256(&bytes);
        let store: Arc<dyn Store> = Arc::new(disk);
        let (memory, access) = (SendMemory::default(), Access::default());
        let asks = async |caller| {
            let target = Target {
                kind,
                head_only: true,
                ..target(&digest, caller)
            };
            find(&store, &memory, &access, &target).await
        };
        let all = memory.others.free_to_keep() as u64 * 1024;
        let _spent = memory.others.keep(all).await.expect("it is free");
        for others in [Caller::Peer, Caller::Remote] {
            assert!(matches!(asks(others).await, Err(Refusal::Busy(_))));
        }
        let is_manifest = async || is_manifest(&store, &memory.others, &digest).await;
        assert!(matches!(is_manifest().await, Err(Unread::Busy)));
        assert!(
            asks(Caller::Own)
                .await
                .expect("memory of its own")
                .is_some()
        );
        // It was read, and is not read again.
        assert!(asks(Caller::Peer).await.expect("no memory").is_some());
        assert_eq!(is_manifest().await.expect("no memory"), Some(false));
    }
}

#[tokio::test(start_paused = true)]
async fn others_read_the_disk_in_turns_and_this_nodes_own_client_waits_for_none() {
    let (hanging, cold, other, go_on) = hanging();
    let store: Arc<dyn Store> = hanging.clone();
    let (memory, access) = (SendMemory::default(), Access::default());
    let asks = async |digest: &Digest, caller| {
        let target = target(digest, caller);
        find(&store, &memory, &access, &target).await
    };
    let time_passes = async {
        hanging.waited_for.notified().await;
        tokio::time::advance(OPEN_LIMIT + Duration::from_millis(1)).await;
    };
    let (hung, ()) = tokio::join!(asks(&cold, Caller::Peer), time_passes);
    assert!(hung.expect("its turn").is_none());
    let (passing, _) = memory.others.in_use(&SendMemory::default().others);
    assert!(passing > 0, "what hangs keeps its turn");
    let mut turns = Vec::new();
    while let Some(turn) = memory.others.turn().now_or_never() {
        turns.push(turn.expect("a turn"));
    }
    let own_and_then_time_passes = async {
        let own = asks(&other, Caller::Own).await;
        tokio::time::advance(OPEN_LIMIT + Duration::from_millis(1)).await;
        own
    };
    let (peer, own) = tokio::join!(asks(&other, Caller::Peer), own_and_then_time_passes);
    go_on.send(()).expect("it still waits");
    assert!(matches!(peer, Err(Refusal::Busy(_))));
    assert!(own.expect("memory of its own").is_some());
}
