//! Wrong bytes, from peers and from this node's own store.

use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::Store;
use crate::request::{MIRRORED, NOT_COMMITTED};

fn origin() -> Origin {
    Origin {
        registry: "quay.io".parse().expect("a registry"),
        repository: "lab/app".parse().expect("a repository"),
    }
}

/// Waits until a condition holds that other tasks cause.
async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    let waited = timeout(Duration::from_secs(60), waiting).await;
    waited.expect("it comes to hold");
}

/// Without flights. containerd commits no wrong bytes, and requests them again.
#[tokio::test]
async fn a_peer_whose_layer_was_not_committed_is_not_asked_again_and_is_told() {
    let (bytes, digest) = large();
    let wrong = bytes.iter().map(|byte| !byte).collect();
    let app = app(&digest, &[Peer::Lies(wrong)]).await;
    let size = bytes.len() as u64;
    assert_eq!(app.pull(&digest).await, size);
    assert_eq!(app.pull(&digest).await, 0, "one attempt failed");
    until(|| {
        app.asked()
            .iter()
            .any(|(_, head)| head.contains("not-committed"))
    })
    .await;
    let asked = app.asked();
    assert!(asked[1].1.starts_with("head "), "{asked:?}");
    assert_eq!(asked.len(), 2);
}

/// Its client may never request it again, or from a mirror that has restarted meanwhile.
#[tokio::test]
async fn a_peer_is_told_as_soon_as_the_store_gives_up_its_layer() {
    let (bytes, digest) = large();
    let wrong = bytes.iter().map(|byte| !byte).collect();
    let app = app(&digest, &[Peer::Lies(wrong)]).await;
    assert_eq!(app.pull(&digest).await, bytes.len() as u64);
    app.give_up_ingests();
    until(|| {
        app.asked()
            .iter()
            .any(|(_, head)| head.contains("not-committed"))
    })
    .await;
}

#[tokio::test]
async fn a_pull_that_ends_early_accuses_nobody() {
    let (bytes, digest) = large();
    let app = app(&digest, &[Peer::Good(bytes)]).await;
    app.ingest(&digest);
    drop(app.blob(&digest).await);
    app.give_up_ingests();
    until(|| app.mirror.accusations.are_settled()).await;
    assert_eq!(app.asked().len(), 1, "{:?}", app.asked());
}

/// New identities cost nothing: each peer that is asked could cost a whole pull.
#[tokio::test]
async fn wrong_layers_fail_one_pull_however_many_peers_send_them() {
    let (bytes, digest) = large();
    let wrong: bytes::Bytes = bytes.iter().map(|byte| !byte).collect();
    let app = app(&digest, &vec![Peer::Lies(wrong); 3]).await;
    let size = bytes.len() as u64;
    assert_eq!(app.pull(&digest).await, size);
    assert_eq!(app.pull(&digest).await, 0, "the next goes upstream");
    for peers in ["one that was not asked", "the last"] {
        // Upstream has failed.
        assert_eq!(app.pull(&digest).await, size, "{peers}");
        assert_eq!(app.pull(&digest).await, 0, "{peers} was wrong");
    }
    let asked = app.asked();
    let gave = asked.iter().filter(|(_, head)| head.starts_with("get "));
    let gave: std::collections::BTreeSet<_> = gave.map(|(peer, _)| peer).collect();
    assert_eq!(gave.len(), 3, "nobody is asked twice before all others");
    assert_eq!(app.pull(&digest).await, 0, "nobody is left");
    assert_eq!(app.pull(&digest).await, size, "upstream has failed again");
}

#[tokio::test]
async fn a_layer_that_was_committed_and_removed_since_accuses_nobody() {
    let (bytes, digest) = large();
    let app = app(&digest, &[Peer::Good(bytes.clone())]).await;
    let size = bytes.len() as u64;
    assert_eq!(app.pull(&digest).await, size);
    let pulled = async {
        // Counting begins with the first poll.
        tokio::task::yield_now().await;
        app.store.put(&origin(), bytes.clone());
        tokio::task::yield_now().await;
    };
    tokio::select! {
        biased;
        () = app.mirror.count_upstream_bytes() => unreachable!("it counts for ever"),
        () = pulled => {}
    }
    app.store.remove(&digest);
    assert_eq!(app.pull(&digest).await, size);
    assert!(
        !app.asked()
            .iter()
            .any(|(_, head)| head.contains("not-committed"))
    );
}

#[tokio::test]
async fn who_is_accused_hashes_the_object_once_a_day_and_withdraws_it_if_it_is_damaged() {
    let (bytes, digest) = large();
    let app = app(&digest, &[]).await;
    app.store.put(&origin(), bytes.clone());
    let path = format!("/v2/lab/app/blobs/{digest}?ns=quay.io");
    let accuse = async || {
        let mut request = http::Request::head(&path).body(()).expect("a request");
        for name in [MIRRORED, NOT_COMMITTED] {
            let value = http::HeaderValue::from_static("true");
            request.headers_mut().insert(name, value);
        }
        app.answer(request).await.status()
    };
    assert_eq!(accuse().await, StatusCode::OK);
    until(|| app.mirror.accusations.are_settled()).await;
    assert_eq!(
        app.blob(&digest).await.status(),
        StatusCode::OK,
        "it is right"
    );

    app.store.damage(&digest, bytes.slice(1..));
    assert_eq!(accuse().await, StatusCode::OK);
    until(|| app.mirror.accusations.are_settled()).await;
    assert_eq!(app.metric("peili_damaged_objects_total"), 0, "the same day");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(24 * 3600)).await;
    assert_eq!(accuse().await, StatusCode::OK);
    until(|| app.metric("peili_damaged_objects_total") == 1).await;
    assert_eq!(app.store.catalog().object(&digest), None, "it is withdrawn");
}

#[tokio::test]
async fn a_small_blob_that_was_damaged_on_disk_is_not_handed_over() {
    let (bytes, digest) = small();
    let app = app(&digest, &[]).await;
    app.store.put(&origin(), bytes.clone());
    assert_eq!(app.blob(&digest).await.status(), StatusCode::OK);
    app.store.damage(&digest, bytes.slice(1..));
    assert_eq!(app.blob(&digest).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(app.store.catalog().object(&digest), None);
}
