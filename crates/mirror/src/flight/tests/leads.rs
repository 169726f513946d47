//! The reports about pulls that this node leads.

use std::sync::atomic::Ordering;

use super::*;

#[tokio::test]
async fn what_becomes_of_a_lead_is_told() {
    let ((bytes, digest), node) = (layer(), node().await);
    let size = bytes.len() as u64;
    let ingest = node.ingest(&digest, size);
    node.then(Decision::Alone);
    let answer = node.own(&digest).await;
    assert_eq!(answer.0.status(), StatusCode::NOT_FOUND);
    assert!(answer.text().await.contains("alone"));
    ingest.write(&bytes);
    node.script.told(PullProgress::Begun { size }).await;
    ingest.commit(&node, &bytes);
    node.script.told(PullProgress::Done).await;
    assert_eq!(
        node.script.progress(),
        [PullProgress::Begun { size }, PullProgress::Done]
    );

    let (other, failing) = (Digest::sha256(b"other"), PullProgress::Failed);
    let ingest = node.lead(&other, 5).await;
    ingest.write(b"oth");
    ingest.fail(&node, &other);
    node.script.told(failing).await;
    assert_eq!(node.script.progress.lock().last(), Some(&(other, failing)));

    let (other, wrong) = (Digest::sha256(b"another"), PullProgress::Wrong);
    let ingest = node.lead(&other, 6).await;
    ingest.write(b"wrong!");
    node.script.told(PullProgress::Begun { size: 6 }).await;
    ingest.fail(&node, &other);
    node.script.told(wrong).await;
    assert_eq!(node.script.progress.lock().last(), Some(&(other, wrong)));
}

#[tokio::test]
async fn a_lead_that_is_asked_for_again_from_its_start_has_failed() {
    let (digest, node) = (Digest::sha256(b"layer"), node().await);
    let ingest = node.lead(&digest, 5).await;
    ingest.write(b"la");
    node.script.told(PullProgress::Begun { size: 5 }).await;
    // containerd drops its bytes, and starts again.
    let _own = node.ingest(&digest, 5);
    node.then(Decision::Lead);
    node.own(&digest).await;
    assert_eq!(
        node.script.progress(),
        [PullProgress::Begun { size: 5 }, PullProgress::Failed]
    );
}

#[tokio::test]
async fn a_lead_whose_watcher_panics_has_failed_and_may_begin_anew() {
    let (digest, node) = (Digest::sha256(b"layer"), node().await);
    let ingest = node.lead(&digest, 5).await;
    node.script.panics.store(true, Ordering::Relaxed);
    ingest.write(b"la");
    node.script.told(PullProgress::Failed).await;
    node.script.panics.store(false, Ordering::Relaxed);
    node.then(Decision::Lead);
    node.own_from(&digest, &[(RANGE, "bytes=2-")]).await;
    ingest.write(b"y");
    node.script.told(PullProgress::Begun { size: 5 }).await;
}

#[tokio::test(start_paused = true)]
async fn a_lead_that_gets_no_byte_has_failed() {
    let (digest, node) = (Digest::sha256(b"layer"), node().await);
    let started = tokio::time::Instant::now();
    let ingest = node.lead(&digest, 5).await;
    node.script.told(PullProgress::Failed).await;
    assert!((29..=31).contains(&started.elapsed().as_secs()));

    // Behind the node's other downloads it may take longer.
    node.script.progress.lock().clear();
    node.store.set_downloads_share_slots();
    node.then(Decision::Lead);
    node.own(&digest).await;
    let started = tokio::time::Instant::now();
    node.script.told(PullProgress::Failed).await;
    assert!((59..=61).contains(&started.elapsed().as_secs()));

    // Earlier bytes do not count, and a byte extends the limit to three seconds.
    ingest.write(b"lay");
    node.script.progress.lock().clear();
    node.then(Decision::Lead);
    node.own_from(&digest, &[(RANGE, "bytes=3-")]).await;
    let started = tokio::time::Instant::now();
    ingest.write(b"e");
    node.script.told(PullProgress::Failed).await;
    assert!((2..=4).contains(&started.elapsed().as_secs()));
    assert_eq!(
        node.script.progress(),
        [PullProgress::Begun { size: 5 }, PullProgress::Failed]
    );
}

#[tokio::test(start_paused = true)]
async fn where_nobody_answers_the_client_goes_upstream() {
    let (digest, node) = (Digest::sha256(b"layer"), node().await);
    let _own = node.ingest(&digest, 5);
    let started = tokio::time::Instant::now();
    let answer = node.own(&digest).await;
    assert_eq!(answer.0.status(), StatusCode::NOT_FOUND);
    assert!(answer.text().await.contains("alone"));
    assert!((23..=24).contains(&started.elapsed().as_secs()));
}
