use std::path::Path;

use tokio::time::advance;

use super::*;

fn names(folder: &Path) -> Names {
    let path = |name| folder.join(name);
    Names {
        files: Files::new(path("hosts"), path("resolv.conf"), Cache::Unused),
    }
}

#[tokio::test]
async fn what_needs_no_server_is_answered_without_one() {
    let folder = tempfile::tempdir().expect("a folder");
    // No server answers at this address (RFC 5737).
    let write = |name, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    write("resolv.conf", "nameserver 192.0.2.1\n");
    write("hosts", "10.0.0.1 node1\nfd00::1 node1\n");
    let names = names(folder.path());
    let addresses = async |host| {
        let found = names.addresses(host).await.expect(host);
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(addresses("node1").await, ["10.0.0.1", "fd00::1"]);
    assert_eq!(addresses("NODE1.").await, ["10.0.0.1", "fd00::1"]);
    assert_eq!(addresses("10.0.0.9").await, ["10.0.0.9"]);
    assert_eq!(addresses("::1").await, ["::1"]);
    for localhost in ["localhost", "x.LOCALHOST."] {
        assert_eq!(addresses(localhost).await, ["127.0.0.1", "::1"]);
    }
}

/// Only the test advances time; the files are real.
#[tokio::test(start_paused = true)]
async fn the_files_are_read_again_when_they_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    let names = names(folder.path());
    let configured = async || names.files.configured().await;
    let none = configured().await;
    assert!(none.hosts.get("node1").is_none());
    write("hosts", "10.0.0.1 node1\n");
    assert!(
        configured().await.hosts.get("node1").is_none(),
        "not at every lookup"
    );
    advance(Duration::from_secs(1)).await;
    let first = configured().await;
    assert!(first.hosts.get("node1").is_some());
    // It has the same length, and follows immediately.
    write("hosts", "10.0.0.2 node1\n");
    advance(Duration::from_secs(1)).await;
    let second = configured().await;
    let found = second.hosts.get("node1").expect("there");
    assert_eq!(found, [IpAddr::from([10, 0, 0, 2])]);
    advance(Duration::from_secs(1)).await;
    assert!(
        std::sync::Arc::ptr_eq(&second, &configured().await),
        "nothing has changed"
    );
    write("resolv.conf", "nameserver 10.0.0.53\n");
    advance(Duration::from_secs(1)).await;
    assert!(!std::sync::Arc::ptr_eq(&second, &configured().await));
    std::fs::remove_file(folder.path().join("hosts")).expect("removed");
    advance(Duration::from_secs(1)).await;
    assert!(configured().await.hosts.get("node1").is_none());
}

#[test]
fn names_of_loopback() {
    for (name, expected) in [
        ("localhost", true),
        ("LocalHost.", true),
        ("a.b.localhost", true),
        ("localhost.example", false),
        ("notlocalhost", false),
        ("", false),
    ] {
        assert_eq!(is_localhost(name), expected, "{name}");
    }
}
