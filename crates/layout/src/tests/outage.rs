//! A full disk, or a folder that loses parts: a failed write costs no existing object.

use std::process::Command;

use mirror::Health;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

/// Runs this test again, alone in a process of its own in which the size of files can be limited: there the kernel
/// refuses a write as on a full disk. Returns false in that process, which has to do the work.
pub(super) fn again_alone(test: &str) -> bool {
    const VARIABLE: &str = "LAYOUT_TEST_ALONE";
    if std::env::var_os(VARIABLE).is_some() {
        return false;
    }
    let done = Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; exec "$0" --exact "$1""#])
        .arg(std::env::current_exe().expect("this program"))
        .arg(test)
        .env(VARIABLE, "1")
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
    true
}

/// Limits the size of all files of this process to this many bytes from now on.
pub(super) fn limit_files(size: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    let current = size.or(maximum);
    setrlimit(Resource::Fsize, Rlimit { current, maximum }).expect("lower than the maximum");
}

fn why(store: &Layout) -> String {
    match store.health() {
        Health::Ready => String::new(),
        Health::Waiting(why) => why,
    }
}

async fn try_take_in(store: &Layout, bytes: &Bytes) -> Result<(), IntakeError> {
    let Begun::New(mut sink, _) = store.begin(&Digest::sha256(bytes))? else {
        panic!("it is here or on its way");
    };
    sink.expect(bytes.len() as u64).await?;
    sink.write(bytes.clone()).await?;
    sink.commit(shared()).await
}

/// Tries until the fault has been repaired in the background.
async fn take_in_soon(store: &Layout, bytes: &Bytes) {
    let tries = async {
        while try_take_in(store, bytes).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, tries).await.expect("mended");
}

#[tokio::test]
async fn an_outage_fails_one_intake_and_lasts_until_as_much_fits_again() {
    if again_alone("tests::outage::an_outage_fails_one_intake_and_lasts_until_as_much_fits_again") {
        return;
    }
    let root = folder();
    let store = open(root.path());
    let (small, large) = (bytes(1, 20_000), bytes(2, MIB));
    let (mut other, _) = begin(&store, &Digest::sha256(&small));
    other.write(small.slice(..10_000)).await.expect("written");

    limit_files(Some(65_536));
    let (mut sink, mut growing) = begin(&store, &Digest::sha256(&large));
    sink.expect(MIB).await.expect("room by the limit");
    let fault = sink
        .write(large.clone())
        .await
        .expect_err("no room on disk");
    for text in [fault.to_string(), why(&store)] {
        for part in [
            &*root.path().to_string_lossy(),
            "File too large",
            "ulimit -f",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
    assert!(why(&store).contains("unstored"), "{}", why(&store));
    assert_eq!(growing.until(|_| true).await.stage, IngestStage::Failed);
    assert_eq!(files(&root.path().join("ingest")).len(), 1, "the other's");

    other.write(small.slice(10_000..)).await.expect("written");
    other.commit(shared()).await.expect("right");
    let digest = Digest::sha256(&small);
    assert_eq!(pull(&store, &digest).await.as_deref(), Some(&small[..]));
    assert_ne!(why(&store), "", "a small one proves nothing");
    limit_files(None);
    take_in(&store, &large, shared()).await;
    assert_eq!(why(&store), "");
}

#[tokio::test]
async fn a_store_starts_on_a_full_disk_and_serves_what_it_has() {
    if again_alone("tests::outage::a_store_starts_on_a_full_disk_and_serves_what_it_has") {
        return;
    }
    let root = folder();
    let name = tag_name("quay.io/a/b:1");
    let (manifest, new) = (bytes(1, 3000), bytes(2, 3000));
    let store = open(root.path());
    let digest = take_in(&store, &manifest, shared()).await;
    store.tag(&name, &digest);
    drop(store);
    fs::write(root.path().join("ingest/removed-1"), "left").expect("written");
    for _ in 0..2 {
        limit_files(Some(0));
        let store = open(root.path());
        assert!(why(&store).contains("File too large"), "{}", why(&store));
        assert_eq!(pull(&store, &digest).await.as_deref(), Some(&manifest[..]));
        let object = store.catalog().object(&digest).expect("there");
        assert_eq!(object.visibility, Visibility::Shared);
        try_take_in(&store, &new).await.expect_err("no room");
        assert!(files(&root.path().join("ingest")).is_empty());
    }
    let store = open(root.path());
    limit_files(None);
    take_in(&store, &new, shared()).await;
    assert_eq!(why(&store), "");
    drop(store);
    let store = open(root.path());
    for content in [&manifest, &new] {
        let digest = Digest::sha256(content);
        assert_eq!(pull(&store, &digest).await.as_deref(), Some(&content[..]));
        let object = store.catalog().object(&digest).expect("there");
        assert_eq!(object.visibility, Visibility::Shared);
    }
}

#[tokio::test]
async fn a_first_start_on_a_full_disk_becomes_a_layout_when_there_is_room() {
    if again_alone(
        "tests::outage::a_first_start_on_a_full_disk_becomes_a_layout_when_there_is_room",
    ) {
        return;
    }
    let root = folder();
    let content = bytes(1, 3000);
    limit_files(Some(0));
    let store = open(root.path());
    try_take_in(&store, &content).await.expect_err("no room");
    assert_ne!(why(&store), "");
    limit_files(None);
    take_in(&store, &content, shared()).await;
    drop(store);
    let store = open(root.path());
    let object = store.catalog().object(&Digest::sha256(&content));
    assert_eq!(object.expect("there").visibility, Visibility::Shared);
}

#[tokio::test]
async fn a_journal_that_takes_no_more_keeps_what_it_says() {
    if again_alone("tests::outage::a_journal_that_takes_no_more_keeps_what_it_says") {
        return;
    }
    let root = folder();
    let store = open(root.path());
    let mut digests = Vec::new();
    for n in 0..20 {
        digests.push(take_in(&store, &bytes(n, 200), shared()).await);
    }
    let journal = root.path().join("peili.journal");
    let length = fs::metadata(&journal).expect("there").len();
    // Half a line more fits, so that a part of it is written.
    limit_files(Some(length + 50));
    let fault = try_take_in(&store, &bytes(99, 200))
        .await
        .expect_err("no room for its line");
    assert!(fault.to_string().contains("peili.journal"), "{fault}");
    assert!(why(&store).contains("peili.journal"), "{}", why(&store));
    assert_eq!(fs::metadata(&journal).expect("there").len(), length);
    assert!(files(&root.path().join("ingest")).is_empty());
    drop(store);
    limit_files(None);
    let store = open(root.path());
    for digest in digests {
        let object = store.catalog().object(&digest).expect("there");
        assert_eq!(object.visibility, Visibility::Shared);
    }
    take_in(&store, &bytes(99, 200), shared()).await;
}

#[tokio::test]
async fn tags_that_could_not_be_written_are_written_later() {
    if again_alone("tests::outage::tags_that_could_not_be_written_are_written_later") {
        return;
    }
    let root = folder();
    let (manifest, _) = folder::image();
    let names = ["quay.io/a/b:1", "quay.io/a/b:2"].map(tag_name);
    let store = open(root.path());
    let digest = take_in(&store, &manifest, shared()).await;
    store.tag(&names[0], &digest);
    drop(store);
    let store = open(root.path());
    limit_files(Some(0));
    store.tag(&names[1], &digest);
    // Ends after the last writes.
    drop(store);
    let tags = || {
        let store = open(root.path());
        names.each_ref().map(|name| store.catalog().resolve(name))
    };
    assert_eq!(tags(), [Some(digest.clone()), None], "what was there stays");
    let store = open(root.path());
    store.tag(&names[1], &digest);
    limit_files(None);
    drop(store);
    assert_eq!(tags(), [Some(digest.clone()), Some(digest)]);
}

#[tokio::test]
async fn a_folder_that_loses_parts_while_it_runs_gets_them_again() {
    for part in [
        "ingest",
        "blobs",
        "peili.journal",
        "oci-layout",
        "peili.lock",
        "",
    ] {
        let (parent, content) = (folder(), bytes(1, 3000));
        let root = parent.path().join("store");
        let store = open(&root);
        let first = take_in(&store, &bytes(2, 3000), shared()).await;
        let path = root.join(part);
        if path.is_dir() {
            fs::remove_dir_all(path).expect("removed");
        } else {
            fs::remove_file(path).expect("removed");
        }
        take_in_soon(&store, &content).await;
        assert_eq!(why(&store), "", "{part}");
        let is_lost = ["blobs", ""].contains(&part);
        assert_eq!(read(&store, &first).is_none(), is_lost, "{part}");
        drop(store);
        let store = open(&root);
        let object = store.catalog().object(&Digest::sha256(&content));
        assert_eq!(
            object.expect("there").visibility,
            Visibility::Shared,
            "{part}"
        );
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_again_is_told_and_tried_again() {
    let parent = folder();
    let (root, content) = (parent.path().join("store"), bytes(1, 3000));
    let store = open(&root);
    fs::remove_dir_all(&root).expect("removed");
    fs::write(&root, "in its place").expect("written");
    for _ in 0..3 {
        try_take_in(&store, &content).await.expect_err("no folder");
        let why = why(&store);
        assert!(why.contains(&*root.to_string_lossy()), "{why}");
    }
    fs::remove_file(&root).expect("there");
    take_in_soon(&store, &content).await;
    assert_eq!(why(&store), "");
}

#[tokio::test]
async fn what_an_earlier_attempt_could_not_remove_is_no_obstacle() {
    let root = folder();
    let store = open(root.path());
    let content = bytes(1, 3000);
    let digest = Digest::sha256(&content);
    let left = format!("ingest/sha256-{}", digest.encoded());
    fs::write(root.path().join(left), "left").expect("written");
    take_in(&store, &content, shared()).await;
    assert!(files(&root.path().join("ingest")).is_empty());
    assert_eq!(read(&store, &digest).as_deref(), Some(&content[..]));
}

#[tokio::test]
async fn a_store_that_nobody_keeps_in_order_is_not_ready() {
    let root = folder();
    let store = open(root.path());
    assert!(store.health().is_ready());
    store.end_housekeeping();
    let unready = async {
        while store.health().is_ready() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, unready).await.expect("told");
}
