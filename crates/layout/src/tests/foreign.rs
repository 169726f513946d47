//! Folders of other programs, and files that are no folders: whatever --store-path names by mistake, nothing is lost.

use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;

fn put(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, bytes).expect("written");
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::sha256(bytes).encoded())
}

fn layout_of_others(root: &Path, bytes: &[u8]) {
    put(root, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    put(root, &blob(bytes), bytes);
}

/// All files below, with their content; links as their targets.
fn tree(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for name in files(root) {
        let path = root.join(&name);
        if path.is_dir() && !path.is_symlink() {
            let inner = tree(&path).into_iter();
            found.extend(inner.map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else if path.is_file() && name != "peili.lock" {
            found.push((name, fs::read(&path).expect("readable")));
        }
    }
    found
}

/// Opens a folder that is refused, with nothing written or removed.
fn refused(root: &Path, limit: u64) -> OpenError {
    let before = tree(root);
    let fault = try_open(root, limit).err().expect("refused");
    assert_eq!(tree(root), before, "{fault}");
    fault
}

#[test]
fn the_content_store_of_another_program_is_refused() {
    for name in [
        "blobs/sha256/6162",
        "blobs/sha384/6162",
        "blobs/6162",
        &blob(b"x"),
        "ingest/sha256-6162",
    ] {
        let root = folder();
        put(root.path(), name, b"x");
        let fault = refused(root.path(), MIB);
        assert!(matches!(&fault, OpenError::NotOurs(_)), "{name}: {fault}");
        let path = root.path().join(name);
        let text = fault.to_string();
        let top = path.to_string_lossy();
        assert!(text.contains("--store-path") && (top.contains("sha384") || text.contains(&*top)));
    }
    // containerd's ingests: a folder for each.
    let root = folder();
    put(root.path(), "ingest/6162/data", b"x");
    let fault = refused(root.path(), MIB);
    assert!(matches!(fault, OpenError::NotAFile(_)), "{fault}");
}

#[test]
fn a_first_start_that_was_cut_off_is_no_other_program() {
    let root = folder();
    fs::create_dir_all(root.path().join("blobs/sha256")).expect("made");
    put(root.path(), "ingest/oci-layout", b"{");
    drop(open(root.path()));
    fs::remove_file(root.path().join("peili.journal")).expect("there");
    put(root.path(), "ingest/peili.journal", b"{");
    open(root.path());
    assert!(files(&root.path().join("ingest")).is_empty());
}

#[test]
fn a_layout_of_others_loses_nothing_by_being_opened() {
    let content = bytes(1, 2 * MIB);
    let root = folder();
    layout_of_others(root.path(), &content);
    let fault = refused(root.path(), MIB);
    assert!(
        matches!(fault, OpenError::OverLimit { held, limit: MIB, .. } if held == 2 * MIB),
        "{fault}"
    );

    put(root.path(), &blob(b"right"), b"wrong");
    let fault = refused(root.path(), 4 * MIB);
    let path = root.path().join(blob(b"right"));
    assert!(
        matches!(&fault, OpenError::Damaged(p) if *p == path),
        "{fault}"
    );
    fs::remove_file(path).expect("there");

    put(root.path(), "ingest/sha256-6162", b"x");
    let fault = refused(root.path(), 4 * MIB);
    assert!(matches!(fault, OpenError::NotOurs(_)), "{fault}");
    fs::remove_file(root.path().join("ingest/sha256-6162")).expect("there");

    let store = try_open(root.path(), 4 * MIB).expect("adopted");
    assert_eq!(
        read(&store, &Digest::sha256(&content)).as_deref(),
        Some(&content[..])
    );
}

#[tokio::test]
async fn what_others_put_into_a_store_of_ours_makes_ours_go_and_stays() {
    let root = folder();
    let own = take_in(&open(root.path()), &bytes(1, MIB), shared()).await;
    let content = bytes(2, MIB);
    put(root.path(), &blob(&content), &content);
    refused(root.path(), MIB - 1);
    let store = try_open(root.path(), MIB).expect("room for one");
    assert_eq!(read(&store, &own), None);
    assert!(read(&store, &Digest::sha256(&content)).is_some());
}

#[test]
fn a_store_of_ours_starts_beside_a_file_that_it_cannot_serve() {
    let (root, target) = (folder(), folder());
    drop(open(root.path()));
    put(root.path(), &blob(b"right"), b"wrong");
    symlink(target.path(), root.path().join(blob(b"link"))).expect("a link");
    put(root.path(), &blob(b"served"), b"served");
    let store = open(root.path());
    assert_eq!(store.catalog().digests(), [Digest::sha256(b"served")]);
    assert!(
        root.path().join(blob(b"right")).exists(),
        "nobody's to remove"
    );
}

#[test]
fn a_newer_layout_is_refused_before_anything_is_cleared() {
    let root = folder();
    drop(open(root.path()));
    put(root.path(), "ingest/removed-1", b"x");
    let sound = fs::read(root.path().join("oci-layout")).expect("there");
    put(
        root.path(),
        "oci-layout",
        br#"{"imageLayoutVersion":"2.0.0"}"#,
    );
    refused(root.path(), MIB);
    put(root.path(), "oci-layout", &sound);
    open(root.path());
    assert!(files(&root.path().join("ingest")).is_empty());
}

#[test]
fn a_part_that_is_a_link_is_refused() {
    for part in ["blobs", "blobs/sha256", "ingest"] {
        let (root, target) = (folder(), folder());
        drop(open(root.path()));
        put(target.path(), "removed-1", b"somebody's");
        let path = root.path().join(part);
        fs::remove_dir_all(&path).expect("there");
        symlink(target.path(), &path).expect("a link");
        let fault = refused(root.path(), MIB);
        assert!(
            matches!(&fault, OpenError::NotAFolder(p) if *p == path),
            "{fault}"
        );
        assert_eq!(files(target.path()), ["removed-1"]);
    }
}

#[test]
fn a_file_that_is_none_is_refused_by_name_and_not_waited_for() {
    for name in [
        "oci-layout",
        "index.json",
        "peili.journal",
        "peili.lock",
        "ingest/removed-1",
    ] {
        for kind in ["link", "pipe", "folder"] {
            let (root, target) = (folder(), folder());
            drop(open(root.path()));
            let path = root.path().join(name);
            let _ = fs::remove_file(&path);
            put_special(&path, kind, target.path());
            let text = refused(root.path(), MIB).to_string();
            assert!(text.contains(&*path.to_string_lossy()), "{kind}: {text}");
            assert_eq!(fs::read(target.path().join("x")).expect("there"), b"x");
        }
    }
}

fn put_special(path: &Path, kind: &str, target: &Path) {
    put(target, "x", b"x");
    match kind {
        "link" => symlink(target.join("x"), path).expect("a link"),
        "folder" => fs::create_dir(path).expect("a folder"),
        _ => {
            let made = Command::new("mkfifo").arg(path).status();
            assert!(made.expect("mkfifo").success());
        }
    }
}

#[tokio::test]
async fn an_object_that_became_something_else_is_fetched_anew() {
    let (root, target) = (folder(), folder());
    let store = open(root.path());
    let content = bytes(1, 1000);
    let path = root.path().join(blob(&content));
    for kind in ["link", "pipe", "folder"] {
        let digest = take_in(&store, &content, shared()).await;
        fs::remove_file(&path).expect("there");
        put_special(&path, kind, target.path());
        assert_eq!(read(&store, &digest), None);
        assert!(!path.exists(), "{kind}");
    }
    assert_eq!(fs::read(target.path().join("x")).expect("there"), b"x");
    take_in(&store, &content, shared()).await;
}
