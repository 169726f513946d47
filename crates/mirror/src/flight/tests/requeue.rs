//! When a request is requeued in containerd's queue.

use super::*;

async fn must_end(node: &Node, digest: &Digest) {
    let (head, body) = over_the_network(node, digest).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.contains("content-length: 5\r\n") && body == 0,
        "{head}"
    );
}

#[tokio::test]
async fn a_request_is_requeued_once_until_bytes_come() {
    let (node, digest) = (node().await, Digest::sha256(b"layer"));
    let _ingest = node.ingest(&digest, 5);
    tokio::select! {
        _ = over_the_network(&node, &digest) => panic!("nobody has said what it is to do"),
        () = node.script.until(|s| !s.requests.lock().is_empty()) => {}
    }
    let requeue_after = |node: &Node| {
        node.script
            .requests
            .lock()
            .last()
            .map(SourceRequest::requeue_after)
    };
    assert_eq!(
        requeue_after(&node),
        Some(None),
        "it has its place for itself"
    );
    node.store.set_downloads_share_slots();
    node.then(Decision::Later);
    must_end(&node, &digest).await;
    assert!(requeue_after(&node).flatten().is_some());
    node.then(Decision::Lead);
    let (head, _) = over_the_network(&node, &digest).await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    assert_eq!(
        requeue_after(&node),
        Some(None),
        "containerd may need the other ends without a byte for upstream"
    );
}

#[tokio::test]
async fn a_layer_lets_those_below_it_go_first_once() {
    let node = node().await;
    node.store.set_downloads_share_slots();
    let layers = [0u8, 1, 2, 3].map(|n| Digest::sha256(&[n; 5]));
    let named = layers
        .each_ref()
        .map(|layer| format!(r#"{{"digest":"{layer}","size":5}}"#));
    let config = Digest::sha256(b"config");
    let manifest = Bytes::from(format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":6}},"layers":[{}]}}"#,
        named.join(",")
    ));
    let digest = Digest::sha256(&manifest);
    let growing = node.ingest(&digest, manifest.len() as u64);
    node.then(Decision::Lead);
    let path = format!("manifests/{digest}");
    node.ask(&path, &[], node.address).await;
    growing.commit(&node, &manifest);

    let [lowest @ .., last] = &layers;
    let _ingests = layers.each_ref().map(|layer| node.ingest(layer, 5));
    must_end(&node, last).await;
    assert_eq!(node.script.requests.lock().len(), 1, "nobody was asked yet");
    for layer in lowest.iter().chain([last]) {
        node.then(Decision::Lead);
        let (head, _) = over_the_network(&node, layer).await;
        assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    }
}
