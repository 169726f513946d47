//! Tests the store through its public interface.

mod damage;
mod folder;
mod foreign;
mod joining;
mod outage;
mod private;
mod sequences;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use mirror::{Begun, Content, Growing, IngestStage, Intake, IntakeError, Provenance, Sink, Store};
use mirror::{Object, Visibility};
use oci::{Digest, Name, TagName};
use prometheus_client::registry::Registry;
use tempfile::TempDir;

use crate::{Layout, OpenError, Options};
use joining::follow;

const MIB: u64 = 1024 * 1024;
/// The limit for anything that happens soon or never.
const SOON: Duration = Duration::from_secs(30);

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn try_open(path: &Path, limit: u64) -> Result<Layout, OpenError> {
    let path = path.to_owned();
    Layout::open(&Options { path, limit }, &mut Registry::default())
}

fn open(path: &Path) -> Layout {
    try_open(path, 64 * MIB).expect("a store")
}

fn tag_name(text: &str) -> TagName {
    let name: Name = text.parse().expect("a name");
    name.tag_name().expect("a tag")
}

fn from(name: &TagName, visibility: Visibility) -> Provenance {
    Provenance {
        origin: Some(name.origin.clone()),
        visibility,
    }
}

fn shared() -> Provenance {
    from(&tag_name("quay.io/a/b:1"), Visibility::Shared)
}

/// Bytes that differ for each `n`.
fn bytes(n: u8, size: u64) -> Bytes {
    (0..size).map(|i| (i % 251) as u8 ^ n).collect()
}

fn begin(store: &Layout, digest: &Digest) -> (Box<dyn Sink>, Growing) {
    match store.begin(digest).expect("room") {
        Begun::New(sink, growing) => (sink, growing),
        Begun::Present => panic!("{digest} is here"),
        Begun::Joined(_) => panic!("{digest} is on its way"),
    }
}

async fn take_in(store: &Layout, bytes: &Bytes, provenance: Provenance) -> Digest {
    let digest = Digest::sha256(bytes);
    let (mut sink, _) = begin(store, &digest);
    sink.expect(bytes.len() as u64).await.expect("room");
    sink.write(bytes.clone()).await.expect("written");
    sink.commit(provenance).await.expect("what it should be");
    digest
}

fn read(store: &Layout, digest: &Digest) -> Option<Vec<u8>> {
    let opened = store.open(digest).expect("readable");
    opened.map(|object| read_all(&object.content))
}

/// The bytes that a client gets. `None`: the object is not here, or its body ends early.
async fn pull(store: &Layout, digest: &Digest) -> Option<Vec<u8>> {
    follow_all(store.open(digest).expect("readable")?.content).await
}

async fn follow_all(content: Content) -> Option<Vec<u8>> {
    match content {
        Content::Verifying { growing, .. } => {
            let bytes = tokio::time::timeout(SOON, follow(growing)).await;
            bytes.expect("verified soon")
        }
        content => Some(read_all(&content)),
    }
}

fn blob_path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs/sha256").join(digest.encoded())
}

fn read_all(content: &Content) -> Vec<u8> {
    let Content::File { file, size } = content else {
        panic!("the store holds files");
    };
    let mut bytes = vec![0; usize::try_from(*size).expect("small")];
    file.read_exact_at(&mut bytes, 0).expect("readable");
    bytes
}

fn files(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).expect("a folder").map(|entry| {
        let name = entry.expect("an entry").file_name();
        name.to_string_lossy().into_owned()
    });
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_was_taken_in_survives_a_restart() {
    let root = folder();
    let (public, private) = (tag_name("quay.io/a/b:1"), tag_name("ghcr.io/c/d:1"));
    let (a, b) = (bytes(1, 1000), bytes(2, 300_000));
    {
        let store = open(root.path());
        take_in(&store, &a, from(&public, Visibility::Shared)).await;
        take_in(&store, &b, from(&private, Visibility::Private)).await;
    }
    let store = open(root.path());
    for (bytes, name, visibility) in [
        (&a, public, Visibility::Shared),
        (&b, private, Visibility::Private),
    ] {
        let digest = Digest::sha256(bytes);
        assert_eq!(read(&store, &digest).as_deref(), Some(&bytes[..]));
        let object = Object {
            size: bytes.len() as u64,
            origins: [name.origin].into(),
            visibility,
        };
        assert_eq!(store.catalog().object(&digest), Some(object));
    }
}

#[tokio::test]
async fn a_dropped_sink_leaves_nothing_and_fails_who_joined() {
    let root = folder();
    let store = open(root.path());
    let content = bytes(1, 100_000);
    let digest = Digest::sha256(&content);
    let (mut sink, mut growing) = begin(&store, &digest);
    sink.expect(60 * MIB).await.expect("room");
    sink.write(content.slice(..50_000)).await.expect("written");
    assert!(!files(&root.path().join("ingest")).is_empty());
    drop(sink);
    assert_eq!(
        growing
            .until(|p| p.stage != IngestStage::Filling)
            .await
            .stage,
        IngestStage::Failed
    );
    assert!(files(&root.path().join("ingest")).is_empty());
    // Its reservation is taken back, and the next intake may begin.
    let (mut sink, _) = begin(&store, &digest);
    sink.expect(60 * MIB).await.expect("room");
}

#[tokio::test]
async fn a_cancelled_write_gives_the_intake_up() {
    let store_folder = folder();
    let store = open(store_folder.path());
    let content = bytes(1, 3 * MIB);
    let (mut sink, mut growing) = begin(&store, &Digest::sha256(&content));
    let mut write = sink.write(content);
    // Polled once, then dropped while or after a blocking thread works on it.
    let first = std::future::poll_fn(|cx| std::task::Poll::Ready(write.as_mut().poll(cx))).await;
    drop(write);
    if first.is_pending() {
        let end = growing.until(|p| p.stage == IngestStage::Failed);
        let end = tokio::time::timeout(SOON, end).await.expect("given up");
        assert_eq!(end.stage, IngestStage::Failed);
        assert!(sink.write(Bytes::from_static(b"x")).await.is_err());
    }
}

#[tokio::test]
async fn wrong_bytes_are_never_seen() {
    let root = folder();
    let store = open(root.path());
    let right = bytes(1, 1000);
    let digest = Digest::sha256(&right);
    for (wrong, expected) in [(bytes(2, 1000), 1000), (right.slice(..999), 1000)] {
        let (mut sink, mut growing) = begin(&store, &digest);
        sink.expect(expected).await.expect("room");
        sink.write(wrong).await.expect("written");
        let fault = sink.commit(shared()).await.expect_err("wrong");
        assert!(matches!(fault, IntakeError::Mismatch { .. }));
        assert_eq!(growing.until(|_| true).await.stage, IngestStage::Failed);
        assert_eq!(read(&store, &digest), None);
    }
    assert!(files(&root.path().join("blobs/sha256")).is_empty());
    assert!(files(&root.path().join("ingest")).is_empty());
}

#[tokio::test]
async fn sizes_are_bounded() {
    let root = folder();
    let store = try_open(root.path(), MIB).expect("a store");
    let (mut sink, _) = begin(&store, &Digest::sha256(b"large"));
    let fault = sink.expect(MIB + 1).await.expect_err("too large");
    assert!(matches!(fault, IntakeError::TooLarge { limit: MIB, .. }));
    let (mut sink, _) = begin(&store, &Digest::sha256(b"unannounced"));
    let fault = sink.write(bytes(0, MIB + 1)).await.expect_err("too large");
    assert!(matches!(fault, IntakeError::TooLarge { limit: MIB, .. }));
    let (mut sink, _) = begin(&store, &Digest::sha256(b"long"));
    sink.expect(10).await.expect("room");
    let fault = sink.write(bytes(0, 11)).await.expect_err("too long");
    assert!(matches!(fault, IntakeError::TooLong { expected: 10 }));
    let (mut one, _) = begin(&store, &Digest::sha256(b"one"));
    let (mut other, _) = begin(&store, &Digest::sha256(b"other"));
    one.expect(MIB).await.expect("room");
    let fault = other.expect(1).await.expect_err("none left");
    assert!(matches!(fault, IntakeError::Crowded { limit: MIB }));
    assert!(store.health().is_ready(), "the disk is not at fault");
}

#[tokio::test]
async fn the_longest_unused_makes_room_and_stays_readable_where_it_is_open() {
    let root = folder();
    let store = try_open(root.path(), 3 * MIB).expect("a store");
    let mut digests = Vec::new();
    for n in 0..3 {
        digests.push(take_in(&store, &bytes(n, MIB), shared()).await);
    }
    let second = store.open(&digests[1]).expect("readable").expect("there");
    store.open(&digests[0]).expect("readable").expect("there");
    store.open(&digests[2]).expect("readable").expect("there");
    // A restart finds the order of uses.
    drop(store);
    let store = try_open(root.path(), 3 * MIB).expect("a store");
    take_in(&store, &bytes(3, MIB), shared()).await;
    let here: Vec<_> = digests.iter().map(|d| read(&store, d).is_some()).collect();
    assert_eq!(here, [true, false, true]);
    assert_eq!(read_all(&second.content), bytes(1, MIB));
    assert_eq!(files(&root.path().join("blobs/sha256")).len(), 3);
    assert!(files(&root.path().join("ingest")).is_empty());
}

#[tokio::test]
async fn what_is_announced_empties_nothing_before_it_arrives() {
    let root = folder();
    let store = try_open(root.path(), 64 * MIB).expect("a store");
    let mut digests = Vec::new();
    for n in 0..4 {
        digests.push(take_in(&store, &bytes(n, 12 * MIB), shared()).await);
    }
    let here = || {
        let here = digests
            .iter()
            .filter(|d| store.catalog().object(d).is_some());
        here.count()
    };
    let large = bytes(9, 64 * MIB);
    let (mut sink, _) = begin(&store, &Digest::sha256(&large));
    sink.expect(64 * MIB).await.expect("could fit");
    assert_eq!(here(), 4);
    let (mut other, _) = begin(&store, &Digest::sha256(b"other"));
    other.expect(1).await.expect_err("all is promised");
    sink.write(large.slice(..1)).await.expect("written");
    assert_eq!(here(), 3, "16 MiB ahead of one byte");
    sink.write(large.slice(1..)).await.expect("written");
    assert_eq!(here(), 0);
    sink.commit(shared()).await.expect("right");
    assert_eq!(files(&root.path().join("blobs/sha256")).len(), 1);
    // Neither the reservation nor what was claimed of it is left.
    take_in(&store, &bytes(0, 64 * MIB), shared()).await;
    assert_eq!(store.catalog().digests().len(), 1);
}

#[tokio::test]
async fn tags_go_with_what_they_point_at() {
    let root = folder();
    let store = try_open(root.path(), MIB).expect("a store");
    let name = tag_name("quay.io/a/b:1");
    let (old, new) = (bytes(1, MIB / 2), bytes(2, MIB / 2));
    let old = take_in(&store, &old, shared()).await;
    let new = take_in(&store, &new, shared()).await;
    store.tag(&name, &old);
    store.tag(&name, &new);
    // The old manifest, to which the tag no longer points, is evicted.
    take_in(&store, &bytes(3, MIB / 2), shared()).await;
    assert_eq!(store.catalog().object(&old), None);
    assert_eq!(store.catalog().resolve(&name), Some(new));
    take_in(&store, &bytes(4, MIB / 2), shared()).await;
    assert_eq!(store.catalog().tags(), []);
}

#[tokio::test]
async fn a_lower_limit_is_kept_from_the_start() {
    let root = folder();
    let mut digests = Vec::new();
    {
        let store = open(root.path());
        for n in 0..3 {
            digests.push(take_in(&store, &bytes(n, MIB), shared()).await);
        }
    }
    let store = try_open(root.path(), 2 * MIB).expect("a store");
    assert_eq!(read(&store, &digests[0]), None);
    assert!(read(&store, &digests[2]).is_some());
    assert_eq!(files(&root.path().join("blobs/sha256")).len(), 2);
}

#[tokio::test]
async fn counts_what_it_does() {
    let root = folder();
    let mut registry = Registry::default();
    let options = Options {
        path: root.path().to_owned(),
        limit: 3 * MIB,
    };
    let store = Layout::open(&options, &mut registry).expect("a store");
    for n in 0..4 {
        take_in(&store, &bytes(n, MIB), shared()).await;
    }
    drop(begin(&store, &Digest::sha256(b"given up")));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
    for line in [
        "peili_store_bytes 3145728",
        "peili_store_limit_bytes 3145728",
        "peili_store_objects 3",
        "peili_store_evictions_total 1",
        "peili_store_failed_intakes_total 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
}
