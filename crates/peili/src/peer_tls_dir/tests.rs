use std::fs;
use std::os::unix::fs::symlink;

use tls::testing::{Authority, NodeFiles};

use super::*;

/// The limit for anything that happens soon or never.
const GENEROUS: Duration = Duration::from_secs(60);

fn write(folder: &Path, files: &NodeFiles) {
    fs::create_dir_all(folder).expect("made");
    for (name, text) in [
        ("tls.crt", &files.certificate),
        ("tls.key", &files.key),
        ("ca.crt", &files.authorities),
    ] {
        fs::write(folder.join(name), text).expect("written");
    }
}

#[test]
fn files_at_fault_are_told_and_missing_ones_give_no_certificates() {
    let ours = Authority::new("ours");
    let (good, other) = (ours.sign(&[&ours], |_| {}), ours.sign(&[&ours], |_| {}));
    let temporary = tempfile::tempdir().expect("a folder");
    let open = |files: &NodeFiles| {
        write(temporary.path(), files);
        PeerTlsDir::open(temporary.path().to_owned())
    };
    let dir = open(&good).expect("sound files");
    assert!(dir.tls.current().certificates.is_some());
    let with = |change: fn(&mut NodeFiles)| {
        let mut files = good.clone();
        change(&mut files);
        files
    };
    let not_its_key = NodeFiles {
        key: other.key,
        ..good.clone()
    };
    for (files, word) in [
        (with(|files| files.certificate.clear()), "tls.crt holds no"),
        (with(|files| files.authorities.clear()), "ca.crt holds no"),
        (with(|files| files.key.clear()), "tls.key holds no"),
        (with(|files| files.key = "a".repeat(1 << 20)), "more than"),
        (not_its_key, "the key in tls.key is not that"),
    ] {
        let error = open(&files).map(|_| ()).expect_err(word);
        let told = format!("{error:#}");
        assert!(told.contains(word) && !told.contains("PRIVATE"), "{told}");
    }
    let no_folder = PeerTlsDir::open(temporary.path().join("tls.crt"));
    let told = format!("{:#}", no_folder.map(|_| ()).expect_err("a file"));
    assert!(told.contains("Not a directory"), "{told}");
    for name in ["ca.crt", "tls.key", "tls.crt"] {
        write(temporary.path(), &good);
        fs::remove_file(temporary.path().join(name)).expect("removed");
        let dir = PeerTlsDir::open(temporary.path().to_owned()).expect("it may come");
        assert!(dir.tls.current().certificates.is_none(), "{name}");
    }
}

/// Kubernetes replaces a mounted Secret by renaming a symbolic link to a folder.
#[tokio::test]
async fn certificates_follow_the_folder_and_stay_when_it_is_of_no_use() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path();
    let publish = |name: &str, files: &NodeFiles| {
        write(&folder.join(name), files);
        symlink(name, folder.join("new")).expect("linked");
        fs::rename(folder.join("new"), folder.join("..data")).expect("renamed");
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            let _ = symlink(Path::new("..data").join(file), folder.join(file));
        }
    };
    let dir = PeerTlsDir::open(folder.to_owned()).expect("it may come");
    let (tls, mut changes) = (dir.tls.clone(), dir.tls.changes());
    let expiry = register(&mut Registry::default());
    let watcher = tokio::spawn(dir.clone().watch(expiry.clone()));
    let mut next = async |revocations: u64| {
        let changed = tokio::time::timeout(GENEROUS, changes.changed()).await;
        changed.expect("a change").expect("it is watched");
        assert_eq!(tls.current().revocations, revocations);
    };
    publish("..first", &old.sign(&[&old], |_| {}));
    next(0).await;
    publish("..second", &new.sign(&[&old, &new], |_| {}));
    next(0).await;
    publish("..third", &new.sign(&[&new], |_| {}));
    next(1).await;
    watcher.abort();
    assert!(expiry.get() > 0);

    let mut dir = PeerTlsDir::open(folder.to_owned()).expect("sound files");
    let in_force = |dir: &PeerTlsDir| dir.tls.current().certificates.expect("some").not_after;
    let before = in_force(&dir);
    for useless in [
        Ok(None),
        Err(anyhow::anyhow!("unreadable")),
        Ok(Some(Contents {
            certificate: b"text".to_vec(),
            key: Vec::new(),
            authorities: Vec::new(),
        })),
    ] {
        assert!(dir.take(useless).is_some());
        assert_eq!(in_force(&dir), before);
    }
    let again = read(folder);
    assert!(dir.take(again).is_none());
}

#[test]
fn a_certificate_is_told_a_week_before_it_expires() {
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(validity(now + 8 * day, now), Validity::Long);
    assert_eq!(validity(now + 6 * day, now), Validity::Short);
    assert_eq!(validity(now - day, now), Validity::Over);
}
