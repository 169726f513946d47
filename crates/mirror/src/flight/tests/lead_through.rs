//! Layers that a node leads and its mirror fetches.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, advance};

use super::node::node_with_registry;
use super::*;
use crate::upstream_check::fake::{Does, FakeUpstream};

/// A registry with the layers, and a node that has pulled a manifest from there. containerd shares the slots of the
/// node among its downloads.
async fn node_and_registry(layers: &[&Bytes]) -> (Node, Arc<FakeUpstream>) {
    let registry = Arc::new(FakeUpstream::new(Digest::sha256(b"manifest")));
    for layer in layers {
        let digest = Digest::sha256(layer);
        registry.blobs.lock().insert(digest, (*layer).clone());
    }
    let node = node_with_registry(registry.clone()).await;
    node.store.set_downloads_share_slots();
    ask_for_manifest(&node).await;
    (node, registry)
}

/// From then on the repository is known to be public.
async fn ask_for_manifest(node: &Node) {
    let path = format!("manifests/{}", Digest::sha256(b"manifest"));
    let manifest = node.ask(&path, &[], node.address).await;
    assert_eq!(manifest.0.status(), StatusCode::NOT_FOUND);
}

/// Begins to lead a layer, of which the client has read something.
async fn begin_lead(node: &Node, (bytes, digest): (&Bytes, &Digest)) -> (Ingest, Answer) {
    let size = bytes.len() as u64;
    let ingest = node.ingest(digest, size);
    node.then(Decision::Lead);
    let mut answer = node.own(digest).await;
    assert!(!answer.read(1).await.is_empty());
    node.script.told(PullProgress::Begun { size }).await;
    (ingest, answer)
}

fn told(node: &Node) -> Vec<bool> {
    let requests = node.script.requests.lock();
    requests
        .iter()
        .map(|request| request.leads_at_once)
        .collect()
}

#[tokio::test]
async fn a_layer_of_a_public_repository_is_fetched_for_the_client_and_for_followers() {
    let (bytes, digest) = layer();
    let (node, registry) = node_and_registry(&[&bytes]).await;
    let size = bytes.len() as u64;
    let ingest = node.ingest(&digest, size);
    node.then(Decision::Lead);
    let mut answer = node.own(&digest).await;
    assert_eq!(answer.0.status(), StatusCode::OK);
    assert_eq!(answer.header(&CONTENT_LENGTH), size.to_string());
    assert_eq!(told(&node), [true]);
    // What has passed before is in the file alone.
    let mut follower = node.follow_first(&digest).await;
    let first = answer.read(MIB).await;
    assert!(first == bytes[..first.len()]);
    assert!(
        follower.read(MIB).await == bytes[..MIB],
        "before containerd has written it"
    );
    node.script.told(PullProgress::Begun { size }).await;
    let mut later = node.follow_first(&digest).await;
    assert!(
        later.read(MIB).await == bytes[..MIB],
        "what passed before, and is not in the file"
    );
    let (rest, is_all) = answer.rest().await;
    assert!(is_all && rest == bytes[first.len()..]);
    ingest.write(&bytes);
    ingest.commit(&node, &bytes);
    node.script.told(PullProgress::Done).await;

    // The rest of an object, which was interrupted.
    let (bytes, digest) = (bytes.slice(1..), Digest::sha256(&bytes.slice(1..)));
    registry.blobs.lock().insert(digest.clone(), bytes.clone());
    let ingest = node.ingest(&digest, size - 1);
    ingest.write(&bytes[..MIB]);
    node.then(Decision::Lead);
    let answer = node.own_from(&digest, &[(RANGE, "bytes=1048576-")]).await;
    assert_eq!(answer.0.status(), StatusCode::PARTIAL_CONTENT);
    assert!(answer.rest().await == (bytes.slice(MIB..), true));
}

/// Bytes pass at less than a step of containerd in 3 s.
#[tokio::test]
async fn a_slow_uplink_is_no_stall() {
    let (bytes, digest) = layer();
    let (node, _registry) = node_and_registry(&[&bytes]).await;
    let size = bytes.len() as u64;
    let _lead = begin_lead(&node, (&bytes, &digest)).await;
    tokio::time::pause();
    advance(Duration::from_secs(30)).await;
    assert_eq!(node.script.progress(), [PullProgress::Begun { size }]);
}

#[tokio::test]
async fn what_is_not_known_to_be_public_is_left_to_containerd() {
    let (bytes, digest) = layer();
    let registry = Arc::new(FakeUpstream::new(Digest::sha256(b"manifest")));
    registry.blobs.lock().insert(digest.clone(), bytes.clone());
    let node = node_with_registry(registry.clone()).await;
    node.store.set_downloads_share_slots();
    node.lead(&digest, bytes.len() as u64).await;
    assert_eq!(told(&node), [false]);
    assert_eq!(registry.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn where_a_lead_goes_on_in_its_slot_containerd_pulls_it() {
    let registry = Arc::new(FakeUpstream::new(Digest::sha256(b"manifest")));
    let node = node_with_registry(registry.clone()).await;
    ask_for_manifest(&node).await;
    node.lead(&Digest::sha256(b"layer"), 5).await;
    assert_eq!(told(&node), [false]);
}

#[tokio::test]
async fn what_containerd_pulls_by_parallel_ranges_is_left_to_it() {
    let (bytes, digest) = layer();
    let (node, _registry) = node_and_registry(&[&bytes]).await;
    let _own = node.ingest(&digest, bytes.len() as u64);
    node.then(Decision::Lead);
    let answer = node.own_from(&digest, &[(RANGE, "bytes=0-")]).await;
    assert_eq!(answer.0.status(), StatusCode::NOT_FOUND);
    assert_eq!(told(&node), [false]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_without_an_answer_costs_a_moment_once() {
    let (bytes, digest) = layer();
    let (node, registry) = node_and_registry(&[&bytes]).await;
    registry.does.lock().insert("lab/app".into(), Does::Hang);
    let started = Instant::now();
    node.lead(&digest, bytes.len() as u64).await;
    assert_eq!(started.elapsed(), Duration::from_millis(1_500));
    assert_eq!(node.script.progress(), [PullProgress::LeftToClient]);
    node.lead(&Digest::sha256(b"other"), 5).await;
    assert_eq!(started.elapsed(), Duration::from_millis(1_500));
    assert_eq!(told(&node), [true, false]);
    advance(Duration::from_secs(10 * 60)).await;
    registry.does.lock().clear();
    ask_for_manifest(&node).await;
    node.lead(&Digest::sha256(b"third"), 5).await;
    assert_eq!(
        told(&node),
        [true, false, true],
        "it is tried again, in vain"
    );
}

#[tokio::test]
async fn where_upstream_breaks_this_mirror_asks_for_the_rest_a_few_times() {
    for breaks_on in [false, true] {
        let (bytes, digest) = layer();
        let (node, registry) = node_and_registry(&[&bytes]).await;
        registry.does.lock().insert("lab/app".into(), Does::Break);
        let (_ingest, answer) = begin_lead(&node, (&bytes, &digest)).await;
        if !breaks_on {
            registry.does.lock().clear();
        }
        let (rest, is_all) = answer.rest().await;
        assert_eq!(is_all, !breaks_on);
        assert!(rest.len() > bytes.len() / 2, "more than the first answer");
    }
}

#[tokio::test]
async fn where_upstream_fails_another_node_leads_and_containerd_goes_on() {
    let (bytes, digest) = layer();
    let (node, registry) = node_and_registry(&[&bytes]).await;
    registry.does.lock().insert("lab/app".into(), Does::Break);
    let half = bytes.len() / 2;
    let (ingest, answer) = begin_lead(&node, (&bytes, &digest)).await;
    let follower = node.follow_first(&digest).await;
    registry.does.lock().insert("lab/app".into(), Does::Fail);
    let (rest, is_all) = answer.rest().await;
    assert!(!is_all && rest.len() < half);
    node.script.told(PullProgress::Failed).await;
    assert!(!follower.rest().await.1, "it asks for another source");
    ingest.write(&bytes[..half]);
    node.then(Decision::Lead);
    let range = format!("bytes={half}-");
    let answer = node.own_from(&digest, &[(RANGE, &range)]).await;
    assert_eq!(answer.0.status(), StatusCode::NOT_FOUND);
    assert_eq!(told(&node), [true, false]);
}

#[tokio::test]
async fn where_the_client_leaves_another_node_leads() {
    let (bytes, digest) = layer();
    let (node, _registry) = node_and_registry(&[&bytes]).await;
    let (_ingest, answer) = begin_lead(&node, (&bytes, &digest)).await;
    drop(answer);
    node.script.told(PullProgress::Failed).await;
}

/// Its source breaks, and it is told to lead.
#[tokio::test]
async fn a_lead_in_the_middle_of_a_body_goes_on_in_it() {
    let (bytes, digest) = layer();
    let (node, _registry) = node_and_registry(&[&bytes]).await;
    let source = super::node::node().await;
    let size = bytes.len() as u64;
    let breaks = source.lead(&digest, size).await;
    breaks.write(&bytes[..MIB]);
    let _ingest = node.ingest(&digest, size);
    node.then(source.follow(1));
    node.then(Decision::Lead);
    let mut answer = node.own(&digest).await;
    let first = answer.read(MIB).await;
    breaks.fail(&source, &digest);
    let (rest, is_all) = answer.rest().await;
    assert!(is_all && [first, rest].concat() == bytes);
    assert_eq!(node.metric("peili_flights_layers_fetched_total"), 1);
    let begun = PullProgress::Begun { size };
    assert!(!node.script.progress().contains(&PullProgress::Failed));
    assert!(node.script.progress().contains(&begun));
}

/// A client that asks again and again, from other offsets.
#[tokio::test]
async fn an_object_is_fetched_once_at_a_time() {
    let (bytes, digest) = layer();
    let (node, _registry) = node_and_registry(&[&bytes]).await;
    let ingest = node.ingest(&digest, bytes.len() as u64);
    ingest.write(&bytes[..MIB]);
    node.then(Decision::Lead);
    let from = |offset: usize| format!("bytes={offset}-");
    let first = node.own_from(&digest, &[(RANGE, &from(MIB))]).await;
    node.then(Decision::Lead);
    let second = node.own_from(&digest, &[(RANGE, &from(MIB - 1))]).await;
    assert_eq!(second.0.status(), StatusCode::NOT_FOUND);
    assert_eq!(told(&node), [true, false]);
    drop(first);
    ingest.write(&bytes[MIB..2 * MIB]);
    let size = bytes.len() as u64;
    node.script.told(PullProgress::Begun { size }).await;
    let failed = node.script.progress().contains(&PullProgress::Failed);
    assert!(!failed, "the client pulls it");
    node.then(Decision::Lead);
    let third = node.own_from(&digest, &[(RANGE, &from(2 * MIB))]).await;
    assert_eq!(third.0.status(), StatusCode::PARTIAL_CONTENT);
}
