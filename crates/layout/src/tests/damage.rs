//! Objects that lose their bytes on disk: detected, removed, and fetched again.

use std::fs::File;
use std::io::Write as _;

use proptest::prelude::*;

use super::*;

/// What can happen to a file behind the store's back.
#[derive(Clone, Copy, Debug)]
pub(super) enum Damage {
    Emptied,
    Truncated,
    Extended,
    /// Other bytes of the same size, in the same file.
    Overwritten,
    OneByte,
    /// Another file of the same size in its place.
    Replaced,
    Removed,
    Linked,
}

pub(super) const ALL: [Damage; 8] = [
    Damage::Emptied,
    Damage::Truncated,
    Damage::Extended,
    Damage::Overwritten,
    Damage::OneByte,
    Damage::Replaced,
    Damage::Removed,
    Damage::Linked,
];

pub(super) fn damage() -> impl Strategy<Value = Damage> {
    prop::sample::select(ALL.to_vec())
}

impl Damage {
    /// Damages a file of at least two bytes.
    pub(super) fn befall(self, path: &Path) {
        let size = fs::metadata(path).expect("there").len();
        let zeros = vec![0; usize::try_from(size).expect("small")];
        let file = || File::options().write(true).open(path).expect("writable");
        match self {
            Self::Emptied => file().set_len(0).expect("emptied"),
            Self::Truncated => file().set_len(size / 2).expect("truncated"),
            Self::Extended => {
                let mut file = File::options().append(true).open(path).expect("writable");
                file.write_all(b"x").expect("written");
            }
            Self::Overwritten => file().write_all(&zeros).expect("written"),
            Self::OneByte => {
                let old = fs::read(path).expect("readable")[1];
                file().write_all_at(&[!old], 1).expect("written");
            }
            Self::Replaced => {
                let other = path.with_extension("other");
                fs::write(&other, &zeros).expect("written");
                fs::rename(other, path).expect("replaced");
            }
            Self::Removed => fs::remove_file(path).expect("removed"),
            Self::Linked => {
                fs::remove_file(path).expect("removed");
                std::os::unix::fs::symlink("/dev/zero", path).expect("a link");
            }
        }
    }
}

/// An object that is verified at once, one that is withheld whole meanwhile, and one whose end is withheld.
const SIZES: [u64; 3] = [1000, MIB + 1, 9 * MIB];

#[tokio::test]
async fn what_is_damaged_while_it_runs_or_between_runs_is_never_pulled_whole() {
    let contents = SIZES.map(|size| bytes(1, size));
    for restarts in [false, true] {
        let root = folder();
        let mut store = Some(open(root.path()));
        let cases = ALL
            .into_iter()
            .flat_map(|d| contents.iter().map(move |c| (d, c)));
        for (damage, content) in cases {
            let digest = take_in(store.as_ref().expect("open"), content, shared()).await;
            store = store.filter(|_| !restarts);
            damage.befall(&blob_path(root.path(), &digest));
            let store = store.get_or_insert_with(|| open(root.path()));
            let case = format!("{damage:?}, {} bytes, restarts: {restarts}", content.len());
            assert_eq!(pull(store, &digest).await, None, "{case}");
            assert_eq!(store.catalog().object(&digest), None, "{case}");
            assert_eq!(pull(store, &digest).await, None, "{case}");
            assert!(matches!(store.begin(&digest), Ok(Begun::New(..))), "{case}");
        }
    }
}

#[tokio::test]
async fn none_of_many_damaged_objects_at_once_is_pulled_whole() {
    let root = folder();
    let store = open(root.path());
    let mut digests = Vec::new();
    for n in 0..6 {
        let digest = take_in(&store, &bytes(n, 9 * MIB), shared()).await;
        Damage::OneByte.befall(&blob_path(root.path(), &digest));
        digests.push(digest);
    }
    let opened: Vec<_> = digests.iter().map(|digest| store.open(digest)).collect();
    for object in opened.into_iter().filter_map(|opened| opened.expect("few")) {
        assert_eq!(follow_all(object.content).await, None);
    }
    for digest in &digests {
        assert_eq!(store.catalog().object(digest), None);
    }
}

#[tokio::test]
async fn what_is_looked_for_is_here_with_its_size_or_not_at_all() {
    let root = folder();
    let store = open(root.path());
    let digest = take_in(&store, &bytes(8, MIB), shared()).await;
    assert!(store.contains(&digest).expect("readable"));
    Damage::Truncated.befall(&blob_path(root.path(), &digest));
    assert!(!store.contains(&digest).expect("readable"));
    assert_eq!(store.catalog().object(&digest), None);
}

#[tokio::test]
async fn what_is_sound_is_verified_once_and_then_handed_out_at_once() {
    let root = folder();
    let contents = SIZES.map(|size| bytes(2, size));
    let store = open(root.path());
    for content in &contents {
        let digest = take_in(&store, content, shared()).await;
        let opened = store.open(&digest).expect("readable").map(|o| o.content);
        assert!(matches!(opened, Some(Content::File { .. })), "just written");
    }
    drop(store);
    let store = open(root.path());
    for content in &contents {
        let digest = Digest::sha256(content);
        assert_eq!(pull(&store, &digest).await.as_deref(), Some(&content[..]));
        let opened = store.open(&digest).expect("readable").map(|o| o.content);
        assert!(matches!(opened, Some(Content::File { .. })), "verified");
    }
    // A change of the file that does not affect its bytes costs one more verification.
    let digest = Digest::sha256(&contents[1]);
    let path = blob_path(root.path(), &digest);
    fs::hard_link(&path, root.path().join("backup")).expect("a link");
    let opened = store.open(&digest).expect("readable");
    let opened = opened.expect("there").content;
    assert!(matches!(opened, Content::Verifying { .. }), "changed since");
    assert_eq!(follow_all(opened).await.as_deref(), Some(&contents[1][..]));
}

#[tokio::test]
async fn all_who_ask_during_a_verification_share_it_and_its_outcome() {
    let root = folder();
    let content = bytes(3, 9 * MIB);
    let digest = take_in(&open(root.path()), &content, shared()).await;
    Damage::OneByte.befall(&blob_path(root.path(), &digest));
    let store = open(root.path());
    let opened: Vec<_> = (0..3).map(|_| store.open(&digest)).collect();
    for content in opened {
        // The last reader may come after the end; then the object is not here.
        if let Some(object) = content.expect("readable") {
            assert_eq!(follow_all(object.content).await, None);
        }
    }
    assert_eq!(store.catalog().object(&digest), None);
}

#[tokio::test]
async fn the_background_finds_what_nobody_asks_for() {
    let root = folder();
    let (sound, content) = (bytes(4, 2 * MIB), bytes(5, 2 * MIB));
    let store = open(root.path());
    let kept = take_in(&store, &sound, shared()).await;
    let digest = take_in(&store, &content, shared()).await;
    drop(store);
    Damage::OneByte.befall(&blob_path(root.path(), &digest));
    let store = open(root.path());
    let mut changes = store.catalog().changes();
    while store.catalog().object(&digest).is_some() {
        let change = tokio::time::timeout(SOON, changes.recv()).await;
        change.expect("found soon").expect("the store is open");
    }
    assert!(store.catalog().object(&kept).is_some());
}

#[tokio::test]
async fn what_is_being_read_stays_readable_when_it_is_given_up() {
    let root = folder();
    let store = open(root.path());
    let content = bytes(6, 1000);
    let digest = take_in(&store, &content, shared()).await;
    let held = store.open(&digest).expect("readable").expect("there");
    store.report_damaged(&digest);
    assert_eq!(read(&store, &digest), None, "as the mirror said");
    assert_eq!(read_all(&held.content), content);
    take_in(&store, &content, shared()).await;
    assert_eq!(read(&store, &digest).as_deref(), Some(&content[..]));
    store.report_damaged(&Digest::sha256(b"not here"));
}

#[tokio::test]
async fn what_is_given_up_is_counted_and_leaves_nothing() {
    let root = folder();
    let mut registry = Registry::default();
    let options = Options {
        path: root.path().to_owned(),
        limit: 8 * MIB,
    };
    let store = Layout::open(&options, &mut registry).expect("a store");
    let digest = take_in(&store, &bytes(7, MIB), shared()).await;
    Damage::Emptied.befall(&blob_path(root.path(), &digest));
    assert_eq!(read(&store, &digest), None);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
    for line in ["peili_store_damaged_total 1", "peili_store_bytes 0"] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    // A file being removed is gone when the store is closed.
    drop(store);
    assert!(files(&root.path().join("blobs/sha256")).is_empty());
    assert!(files(&root.path().join("ingest")).is_empty());
}
