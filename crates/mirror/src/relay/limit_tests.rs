//! What clients that do not read cost others, if their bytes come from peers.

use super::tests::{Peer, app, large, whole};
use super::*;
use http::StatusCode;
use http_body_util::BodyExt;
use oci::Digest;

/// The address of another host, and of this one.
const REMOTE: [u8; 4] = [10, 0, 0, 1];
const OWN: [u8; 4] = [127, 0, 0, 1];

#[tokio::test]
async fn a_peer_that_cuts_off_a_client_that_pauses_is_not_to_blame() {
    let (bytes, digest) = large();
    for (pause, broken) in [(Duration::ZERO, 1), (PAUSE, 0)] {
        // It breaks at each mebibyte, and can be asked again if that is not its fault.
        let app = app(&digest, &[Peer::Breaks(bytes.clone(), 1 << 20)]).await;
        let mut body = app.blob(&digest).await.into_body();
        let mut all = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            all.extend_from_slice(&frame.into_data().expect("data"));
            tokio::time::pause();
            tokio::time::advance(pause).await;
            tokio::time::resume();
        }
        let expected = if broken == 0 { bytes.len() } else { 1 << 20 };
        assert!(all == bytes[..expected], "{pause:?}: {}", all.len());
        assert_eq!(app.metric("peili_broken_bodies_total"), broken, "{pause:?}");
    }
}

#[tokio::test]
async fn clients_of_other_hosts_leave_memory_for_our_own() {
    let (large, _) = large();
    // Relayed, or read whole.
    for (bytes, most) in [(large.clone(), 64), (large.slice(..1024 * 1024), 8)] {
        let digest = Digest::sha256(&bytes);
        let app = app(&digest, &[Peer::Good(bytes.clone())]).await;
        let mut unread = Vec::new();
        for _ in 0..most {
            let response = app.blob_for(&digest, REMOTE).await;
            assert_eq!(response.status(), StatusCode::OK);
            unread.push(response);
        }
        let refused = app.blob_for(&digest, REMOTE).await;
        assert_eq!(refused.status(), StatusCode::NOT_FOUND);
        let own = app.blob_for(&digest, OWN).await;
        assert!(whole(own).await.expect("a whole body") == bytes);
        unread.pop();
        let admitted = app.blob_for(&digest, REMOTE).await;
        assert!(whole(admitted).await.expect("a whole body") == bytes);
    }
}
