//! Signatures and other objects of an image, with the requests of cosign.

use super::*;

/// A manifest of one layer, in upstream's store only.
fn artifact(app: &TestApp, layer: &Digest, size: usize) -> Digest {
    let config = app.upstream.put(Bytes::from_static(b"{}"));
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"digest":"{config}","size":2}},"layers":[{{"digest":"{layer}","size":{size}}}]}}"#
    );
    app.upstream.put(manifest.into())
}

fn tag_of(image: &Digest, suffix: &str) -> String {
    format!("sha256-{}{suffix}", image.encoded())
}

/// Waits until a path is answered while upstream is unreachable.
async fn has(app: &TestApp, path: &str) -> Bytes {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        // Between two checks upstream is reachable, so that running fetches continue.
        *app.upstream.gone.lock() = true;
        let (status, bytes) = app.get(path).await;
        *app.upstream.gone.lock() = false;
        if status == StatusCode::OK {
            return bytes;
        }
        assert!(tokio::time::Instant::now() < deadline, "{path}: {status}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_signature_outlives_upstream_though_nobody_asked_for_it() {
    let app = app();
    let image = app.upstream.image("v1", &app.upstream.put(layer()));
    let payload = app.upstream.put(Bytes::from_static(b"the signed payload"));
    let signature = artifact(&app, &payload, 18);
    app.upstream
        .tags
        .lock()
        .insert(tag_of(&image, ".sig"), signature.clone());

    assert_eq!(app.get("manifests/v1").await.0, StatusCode::OK);
    app.stored(&payload).await;
    // The requests of cosign: for the image, for the tag that follows from its digest, and for the payload.
    has(&app, &format!("manifests/{image}")).await;
    let by_tag = has(&app, &format!("manifests/{}", tag_of(&image, ".sig"))).await;
    assert!(signature.verifies(&by_tag));
    let payload = has(&app, &format!("blobs/{payload}")).await;
    assert_eq!(payload, "the signed payload");
    // A missing object is reported as such.
    let attestation = format!("manifests/{}", tag_of(&image, ".att"));
    assert_eq!(app.get(&attestation).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn referrers_outlive_upstream() {
    let app = app();
    let image = app.upstream.image("v1", &app.upstream.put(layer()));
    let bundle = app.upstream.put(Bytes::from_static(b"a bundle"));
    let referrer = artifact(&app, &bundle, 8);
    let size = app.upstream.objects.lock()[&referrer].len();
    let list = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{referrer}","size":{size}}}]}}"#
    );
    app.upstream
        .referrers
        .lock()
        .insert(image.clone(), list.clone().into());

    assert_eq!(
        app.get(&format!("manifests/{image}")).await.0,
        StatusCode::OK
    );
    app.stored(&bundle).await;
    let kept = has(&app, &format!("referrers/{image}")).await;
    assert_eq!(kept, list);
    assert!(referrer.verifies(&has(&app, &format!("manifests/{referrer}")).await));
    // Nothing is known of another image: its list is not empty.
    *app.upstream.gone.lock() = true;
    let unknown = format!("referrers/{bundle}");
    assert_eq!(app.get(&unknown).await.0, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn siblings_are_bounded_and_keep_nobody_waiting() {
    let app = app();
    let image = app.upstream.image("v1", &app.upstream.put(layer()));
    let payload = app.upstream.put(Bytes::from_static(b"small"));
    // It announces a size above the limit for one image.
    let huge = artifact(&app, &app.upstream.put(layer()), 1 << 30);
    app.upstream
        .tags
        .lock()
        .insert(tag_of(&image, ".sig"), huge);
    let attestation = artifact(&app, &payload, 5);
    app.upstream
        .tags
        .lock()
        .insert(tag_of(&image, ".att"), attestation);
    // No blob comes: the siblings wait, the image's manifest does not.
    let gate = Arc::new(Semaphore::new(0));
    *app.upstream.gate.lock() = Some(gate.clone());
    for _ in 0..3 {
        assert_eq!(app.get("manifests/v1").await.0, StatusCode::OK);
    }
    gate.add_permits(1000);
    app.stored(&payload).await;
    // The config and the payload of the attestation, once each: both have the same config.
    assert_eq!(app.asked(), 2);
}
