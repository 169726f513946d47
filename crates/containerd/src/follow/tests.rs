//! Follows ingests in a folder in which the test plays containerd.

use std::io::Write;
use std::os::unix::fs::FileExt;

use oci::Digest;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::blobs;
use crate::ingest::Ingests;

/// The limit for anything that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);
const BYTES: &[u8] = b"the bytes of a layer";
const SIZE: u64 = BYTES.len() as u64;

struct Node {
    folder: TempDir,
    followed: Arc<Followed>,
    tasks: JoinSet<()>,
}

/// containerd's side of an ingest.
struct Writer {
    folder: PathBuf,
    blob: PathBuf,
    data: File,
}

impl Node {
    async fn new() -> Self {
        let mut node = Self {
            folder: tempfile::tempdir().expect("a folder"),
            followed: Arc::default(),
            tasks: JoinSet::new(),
        };
        let followed = node.followed.clone();
        node.tasks.spawn(async move { followed.watch().await });
        until(|| node.followed.state.lock().is_watched).await;
        node
    }

    /// Begins an ingest of [`BYTES`].
    fn begin(&self, namespace: &str) -> Writer {
        let folder = self.folder.path().join("ingest").join(namespace);
        std::fs::create_dir_all(&folder).expect("a folder");
        let reference = format!("{namespace}/1/layer-{}", digest());
        std::fs::write(folder.join("ref"), reference).expect("a file");
        let blob = blobs::path(self.folder.path(), &digest());
        std::fs::create_dir_all(blob.parent().expect("a folder")).expect("a folder");
        let data = File::create(folder.join("data")).expect("a file");
        Writer { folder, blob, data }
    }

    fn follow(&self, size: Option<u64>) -> Option<Growing> {
        let content = self.folder.path();
        let opened = Ingests::default().open(content, &digest());
        let mut opened = opened.expect("readable")?;
        opened.total = opened.total.or(size);
        let blob = blobs::path(content, &digest());
        self.followed.follow(opened, blob)
    }
}

impl Writer {
    fn write(&mut self, bytes: &[u8]) {
        self.data.write_all(bytes).expect("written");
    }

    fn commit(self) {
        if self.blob.exists() {
            self.abort();
        } else {
            std::fs::rename(self.folder.join("data"), &self.blob).expect("renamed");
            std::fs::remove_dir_all(self.folder).expect("removed");
        }
    }

    fn abort(self) {
        std::fs::remove_dir_all(self.folder).expect("removed");
    }
}

fn digest() -> Digest {
    Digest::sha256(BYTES)
}

async fn until(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("in time");
}

async fn told(growing: &mut Growing, written: u64, stage: IngestStage) -> Progress {
    let told = growing.until(|p| p.written == written && p.stage == stage);
    let progress = tokio::time::timeout(PATIENCE, told).await.expect("in time");
    // It also ends when nothing more will be reported.
    assert_eq!((progress.written, progress.stage), (written, stage));
    progress
}

fn read(growing: &Growing, written: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(written).expect("small")];
    growing
        .file()
        .read_exact_at(&mut bytes, 0)
        .expect("readable");
    bytes
}

#[tokio::test]
async fn tells_of_each_step_until_the_commit() {
    let node = Node::new().await;
    assert!(node.follow(None).is_none(), "nothing is being fetched");
    let mut writer = node.begin("k8s.io");
    std::fs::write(writer.folder.join("total"), SIZE.to_string()).expect("a file");
    let mut growing = node.follow(Some(1)).expect("open");
    assert_eq!(
        growing.progress().total,
        Some(SIZE),
        "containerd knows best"
    );
    for (n, byte) in (1..).zip(BYTES) {
        writer.write(&[*byte]);
        told(&mut growing, n, IngestStage::Filling).await;
    }
    // containerd would sync now: everything can be read, nothing is committed.
    assert_eq!(read(&growing, SIZE), BYTES);
    let mut late = node.follow(None).expect("open");
    assert_eq!(late.progress(), growing.progress());
    writer.commit();
    for growing in [&mut growing, &mut late] {
        let progress = told(growing, SIZE, IngestStage::Complete).await;
        assert_eq!(progress.total, Some(SIZE));
        assert_eq!(read(growing, SIZE), BYTES);
    }
    assert!(node.follow(None).is_none());
}

#[tokio::test]
async fn an_ingest_that_is_removed_has_failed() {
    let node = Node::new().await;
    let mut writer = node.begin("k8s.io");
    let mut growing = node.follow(Some(SIZE)).expect("open");
    writer.write(&BYTES[..5]);
    told(&mut growing, 5, IngestStage::Filling).await;
    writer.abort();
    let progress = told(&mut growing, 5, IngestStage::Failed).await;
    assert_eq!(progress.total, Some(SIZE));
    until(|| node.followed.len() == 0).await;
}

#[tokio::test]
async fn the_size_may_be_unknown_until_the_end() {
    let node = Node::new().await;
    let mut writer = node.begin("k8s.io");
    let mut growing = node.follow(None).expect("open");
    writer.write(BYTES);
    let progress = told(&mut growing, SIZE, IngestStage::Filling).await;
    assert_eq!(progress.total, None);
    let knows = node.follow(Some(SIZE)).expect("open");
    assert_eq!(knows.progress().total, Some(SIZE));
    assert_eq!(growing.progress().total, Some(SIZE), "one knows, all know");
    let asks = node.follow(None).expect("open");
    assert_eq!(asks.progress().total, Some(SIZE), "nor is it forgotten");
    writer.commit();
    told(&mut growing, SIZE, IngestStage::Complete).await;
}

#[tokio::test]
async fn of_two_the_later_commit_is_a_commit() {
    let node = Node::new().await;
    let (mut first, mut second) = (node.begin("k8s.io"), node.begin("moby"));
    first.write(BYTES);
    let mut followed = node.follow(None).expect("open");
    first.commit();
    let mut other = node.follow(None).expect("open");
    told(&mut followed, SIZE, IngestStage::Complete).await;
    assert_eq!(other.progress().written, 0);
    second.write(BYTES);
    // The blob is there, but this file is being read.
    told(&mut other, SIZE, IngestStage::Filling).await;
    second.commit();
    told(&mut other, SIZE, IngestStage::Complete).await;
    assert_eq!(read(&other, SIZE), BYTES);
}

#[tokio::test]
async fn a_blob_does_not_complete_another_ingest_that_was_given_up() {
    let node = Node::new().await;
    let (mut first, mut second) = (node.begin("k8s.io"), node.begin("moby"));
    second.write(&BYTES[..5]);
    let mut growing = node.follow(None).expect("open");
    first.write(BYTES);
    first.commit();
    second.abort();
    told(&mut growing, 5, IngestStage::Failed).await;
}

#[tokio::test]
async fn wrong_bytes_of_the_right_size_fail() {
    let node = Node::new().await;
    let mut writer = node.begin("k8s.io");
    writer.write(&[0; BYTES.len()]);
    let mut growing = node.follow(Some(SIZE)).expect("open");
    writer.abort();
    told(&mut growing, SIZE, IngestStage::Failed).await;
}

#[tokio::test]
async fn what_is_written_anew_is_told() {
    let node = Node::new().await;
    let mut writer = node.begin("k8s.io");
    writer.write(&BYTES[..5]);
    let mut growing = node.follow(None).expect("open");
    writer.data.set_len(0).expect("truncated");
    told(&mut growing, 0, IngestStage::Filling).await;
}

#[tokio::test]
async fn nothing_is_done_for_nobody() {
    let mut node = Node::new().await;
    let mut writer = node.begin("k8s.io");
    let (one, two) = (node.follow(None), node.follow(None));
    assert_eq!(node.followed.len(), 1, "shared");
    drop(one);
    writer.write(BYTES);
    told(&mut two.clone().expect("open"), SIZE, IngestStage::Filling).await;
    drop(two);
    until(|| node.followed.len() == 0).await;

    let mut again = node.follow(None).expect("open");
    assert_eq!(again.progress().written, SIZE);
    node.tasks.shutdown().await;
    told(&mut again, SIZE, IngestStage::Failed).await;
    assert!(node.follow(None).is_none(), "nobody looks any more");
}
