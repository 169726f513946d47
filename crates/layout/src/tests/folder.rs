//! The folder after a crash, after another tool, or with a full disk.

use super::*;

/// The folder as it is on disk now: what a process finds that starts after this one was killed.
fn killed_now(path: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("a folder");
        for name in files(from) {
            let (from, to) = (from.join(&name), to.join(&name));
            if from.is_dir() {
                copy(&from, &to);
            } else {
                fs::copy(from, to).expect("a copy");
            }
        }
    }
    let target = folder();
    copy(path, target.path());
    target
}

#[tokio::test]
async fn killed_at_any_step_it_has_the_object_whole_or_not_at_all() {
    let root = folder();
    let store = open(root.path());
    let old = take_in(&store, &bytes(1, 5000), shared()).await;
    let new = bytes(2, 200_000);
    let digest = Digest::sha256(&new);
    let private = from(&tag_name("ghcr.io/c/d:1"), Visibility::Private);

    let mut steps = Vec::new();
    let (mut sink, _) = begin(&store, &digest);
    steps.push(("begun", killed_now(root.path())));
    sink.expect(new.len() as u64).await.expect("room");
    steps.push(("expected", killed_now(root.path())));
    sink.write(new.slice(..70_000)).await.expect("written");
    steps.push(("half", killed_now(root.path())));
    sink.write(new.slice(70_000..)).await.expect("written");
    let before_commit = killed_now(root.path());
    sink.commit(private).await.expect("right");
    let committed = killed_now(root.path());
    // Between the line in the journal and the rename, composed of before and after.
    let between = killed_now(before_commit.path());
    let journal = |root: &TempDir| root.path().join("peili.journal");
    fs::copy(journal(&committed), journal(&between)).expect("a copy");
    steps.extend([("written", before_commit), ("recorded", between)]);

    for (step, root) in &steps {
        let store = open(root.path());
        assert_eq!(read(&store, &digest), None, "{step}");
        assert_eq!(store.catalog().digests().len(), 1, "{step}");
        assert!(read(&store, &old).is_some(), "{step}");
        assert!(files(&root.path().join("ingest")).is_empty(), "{step}");
        take_in(&store, &new, shared()).await;
    }
    let store = open(committed.path());
    assert_eq!(read(&store, &digest).as_deref(), Some(&new[..]));
    let object = store.catalog().object(&digest).expect("there");
    assert_eq!(object.visibility, Visibility::Private);
    assert_eq!(read(&store, &old).expect("there").len(), 5000);
}

#[tokio::test]
async fn without_its_line_an_object_is_private_and_verified() {
    let root = folder();
    let digest = take_in(&open(root.path()), &bytes(1, 5000), shared()).await;
    fs::remove_file(root.path().join("peili.journal")).expect("there");
    let blobs = root.path().join("blobs/sha256");
    fs::write(blobs.join("skopeo.tmp"), b"half").expect("written");
    let store = open(root.path());
    let object = store.catalog().object(&digest).expect("there");
    assert_eq!(object.visibility, Visibility::Private);
    assert_eq!(store.catalog().digests(), [digest]);
}

#[test]
fn a_folder_belongs_to_one_process() {
    let root = folder();
    let store = open(root.path());
    let fault = try_open(root.path(), MIB).err().expect("in use");
    assert!(matches!(fault, OpenError::Locked(_)), "{fault}");
    drop(store);
    open(root.path());
}

#[test]
fn an_intake_that_outlives_the_store_is_a_writer() {
    let root = folder();
    let store = open(root.path());
    let writers = store.writers();
    let begun = store.begin(&Digest::sha256(b"an object"));
    assert!(matches!(begun, Ok(Begun::New(..))));
    drop(store);
    assert!(!writers.are_gone());
    drop(begun);
    assert!(writers.are_gone());
    assert!(files(&root.path().join("ingest")).is_empty());
}

#[test]
fn what_is_no_layout_is_left_alone() {
    let root = folder();
    fs::write(root.path().join("passwd"), "root").expect("written");
    let fault = try_open(root.path(), MIB).err().expect("not ours");
    assert!(matches!(fault, OpenError::NotALayout(_)), "{fault}");
    assert_eq!(files(root.path()), ["passwd"]);

    let root = folder();
    fs::write(
        root.path().join("oci-layout"),
        r#"{"imageLayoutVersion":"2.0.0"}"#,
    )
    .expect("written");
    let fault = try_open(root.path(), MIB).err().expect("unknown");
    assert!(matches!(fault, OpenError::LayoutVersion { .. }), "{fault}");

    let root = folder();
    fs::write(
        root.path().join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .expect("written");
    for broken in ["", "{", "[]", r#"{"manifests":1}"#] {
        fs::write(root.path().join("index.json"), broken).expect("written");
        let fault = try_open(root.path(), MIB).err().expect("broken");
        assert!(
            matches!(fault, OpenError::Index { .. }),
            "{broken}: {fault}"
        );
    }
}

#[tokio::test]
async fn a_store_of_ours_starts_when_its_own_files_lost_their_bytes() {
    let root = folder();
    let digest = take_in(&open(root.path()), &image().0, shared()).await;
    for name in ["index.json", "oci-layout"] {
        for broken in [None, Some(""), Some("{"), Some("\0\0\0"), Some("[]")] {
            let path = root.path().join(name);
            match broken {
                Some(text) => fs::write(path, text).expect("written"),
                None => fs::remove_file(path).expect("there"),
            }
            let store = open(root.path());
            let object = store.catalog().object(&digest).expect("there");
            assert_eq!(object.visibility, Visibility::Shared, "{name}: {broken:?}");
            store.tag(&tag_name("quay.io/a/b:1"), &digest);
            drop(store);
            assert_eq!(index(root.path()).len(), 1, "{name}: {broken:?}");
        }
    }
    let aside = fs::read(root.path().join("index.json.damaged")).expect("put aside");
    assert_eq!(aside, b"[]");
}

/// A manifest of one layer, and its layer.
pub(super) fn image() -> (Bytes, Bytes) {
    let layer = bytes(9, 100_000);
    let descriptor =
        |digest: &Digest| format!(r#"{{"mediaType":"x","digest":"{digest}","size":1}}"#);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
        descriptor(&Digest::sha256(b"{}")),
        descriptor(&Digest::sha256(&layer)),
    );
    (manifest.into(), layer)
}

fn index(path: &Path) -> Vec<(String, String)> {
    let text = fs::read(path.join("index.json")).expect("there");
    let json: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(json["schemaVersion"], 2);
    let manifests = json["manifests"].as_array().expect("a list").iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    manifests
        .map(|m| {
            assert!(m["size"].is_u64() && m["mediaType"].is_string());
            let name = &m["annotations"]["org.opencontainers.image.ref.name"];
            (text(name), text(&m["digest"]))
        })
        .collect()
}

#[tokio::test]
async fn tags_stand_in_the_index_while_their_manifests_are_here() {
    let root = folder();
    let name = tag_name("quay.io/a/b:1");
    let (manifest, _) = image();
    let digest = Digest::sha256(&manifest);
    let store = open(root.path());
    store.tag(&name, &digest);
    assert_eq!(store.catalog().tags(), [], "its manifest is not here");
    assert_eq!(take_in(&store, &manifest, shared()).await, digest);
    let moved = tag_name("quay.io/a/b:moved");
    store.tag(&name, &digest);
    store.tag(&moved, &digest);
    store.tag(&moved, &Digest::sha256(b"never came"));
    assert_eq!(store.catalog().resolve(&moved), None, "no longer true");
    assert_eq!(store.catalog().resolve(&name), Some(digest.clone()));
    drop(store);
    assert_eq!(index(root.path()), [(name.to_string(), digest.to_string())]);

    let store = open(root.path());
    assert_eq!(store.catalog().tags(), [(name.clone(), digest.clone())]);
    fs::remove_file(root.path().join("blobs/sha256").join(digest.encoded())).expect("there");
    assert_eq!(read(&store, &digest), None, "removed behind our back");
    assert_eq!(store.catalog().resolve(&name), None);
    drop(store);
    assert!(index(root.path()).is_empty());
}

#[test]
fn a_layout_that_others_made_is_read_and_kept() {
    let root = folder();
    let (manifest, layer) = image();
    let blobs = root.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("made");
    for bytes in [&manifest, &layer] {
        fs::write(blobs.join(Digest::sha256(bytes).encoded()), bytes).expect("written");
    }
    fs::write(
        root.path().join("oci-layout"),
        r#"{"imageLayoutVersion": "1.0.0"}"#,
    )
    .expect("written");
    let digest = Digest::sha256(&manifest);
    let entry = |name: &str| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"{name}"}}}}"#,
            manifest.len()
        )
    };
    let json = format!(
        r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#,
        entry("quay.io/a/b:1"),
        entry("latest")
    );
    fs::write(root.path().join("index.json"), json).expect("written");

    let store = open(root.path());
    let name = tag_name("quay.io/a/b:1");
    assert_eq!(store.catalog().tags(), [(name.clone(), digest.clone())]);
    for bytes in [&manifest, &layer] {
        let object = Object {
            size: bytes.len() as u64,
            origins: [name.origin.clone()].into(),
            visibility: Visibility::Private,
        };
        let digest = Digest::sha256(bytes);
        assert_eq!(store.catalog().object(&digest), Some(object));
        assert_eq!(read(&store, &digest).as_deref(), Some(&bytes[..]));
    }
    drop(store);
    let names: Vec<_> = index(root.path())
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["quay.io/a/b:1", "latest"]);
}
