//! Requests that only measure.

use mirror::snapshot::Source;
use mirror::{MEASURED, REASON, SOURCE};

use super::*;

fn measured() -> HeaderMap {
    HeaderMap::from_iter([(MEASURED, HeaderValue::from_static("true"))])
}

#[tokio::test]
async fn a_measured_request_stores_nothing_and_is_not_listed() {
    let app = app();
    let digest = app.upstream.put(layer());
    let path = format!("blobs/{digest}");
    let answer = app.ask(&path, HERE, measured()).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(answer.headers()[REASON], "no_peer");
    assert_eq!(app.asked(), 0, "upstream is left to the client");
    drop(answer);
    let snapshot = app.mirror.snapshot().await;
    assert!(snapshot.running.is_empty(), "{snapshot:?}");
    let measured = &snapshot.measured[0];
    assert_eq!((measured.size, measured.first_byte_ms), (None, None));
    let reason = UpstreamReason::NoPeer;
    assert_eq!(measured.source, Source::Upstream { reason });
    let asked = app.mirror.own_client_asked_ago();
    assert_eq!(asked, None, "containerd has not asked");
}

#[tokio::test]
async fn the_source_is_named_to_a_client_of_this_node_that_measures() {
    let app = app();
    let digest = app.upstream.put(layer());
    let path = format!("blobs/{digest}");
    app.get(&path).await;
    app.stored(&digest).await;
    let answer = app.ask(&path, HERE, measured()).await;
    assert_eq!(answer.headers()[SOURCE], "local");
    let before = app.mirror.snapshot().await.finished.len();
    assert_eq!(read(answer).await.1, layer());
    let after = app.mirror.snapshot().await;
    assert_eq!((after.running.len(), after.finished.len()), (0, before));
    let last = &after.measured[0];
    assert_eq!((after.measured.len(), last.is_manifest), (1, false));
    assert_eq!(last.size, Some(layer().len() as u64));
    assert_eq!(
        (last.size, last.source.clone()),
        (Some(last.sent), Source::Local)
    );
    assert!(last.first_byte_ms <= Some(last.took_ms));
    for (remote, headers) in [(HERE, HeaderMap::new()), (ELSEWHERE, measured())] {
        let answer = app.ask(&path, remote, headers).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(!answer.headers().contains_key(SOURCE), "{remote}");
    }
}
