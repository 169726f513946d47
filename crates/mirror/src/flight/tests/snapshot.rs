//! The snapshot of a mirror: its pulls, its peers and itself.

use super::*;
use crate::UpstreamReason;
use crate::snapshot::{RunningPull, Snapshot, Source};

/// Waits until a snapshot meets a condition.
async fn shown(node: &Node, holds: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let showing = async {
        loop {
            let snapshot = node.mirror.snapshot().await;
            if holds(&snapshot) {
                return snapshot;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, showing).await.expect("it is shown")
}

fn only(snapshot: &Snapshot) -> &RunningPull {
    let [pull] = &snapshot.running[..] else {
        panic!("one pull: {snapshot:?}");
    };
    pull
}

#[tokio::test]
async fn a_pull_is_shown_on_its_way_and_when_it_has_ended() {
    let ((bytes, digest), leader, follower) = (layer(), node().await, node().await);
    let (size, half) = (bytes.len() as u64, MIB as u64);
    let counting = leader.mirror.clone();
    tokio::spawn(async move { counting.count_upstream_bytes().await });
    let mut changes = follower.mirror.changes();
    let growing = leader.lead(&digest, size).await;
    let _own = follower.ingest(&digest, size);
    follower.then(leader.follow(1));
    growing.write(&bytes[..MIB]);
    let mut answer = follower.own(&digest).await;
    answer.read(MIB).await;
    assert!(changes.has_changed().expect("open"));

    let snapshot = shown(&leader, |s| only(s).offset == half).await;
    let leads = only(&snapshot);
    assert_eq!(
        leads.source,
        Source::Upstream {
            reason: UpstreamReason::Leads
        }
    );
    assert_eq!((leads.object.size, leads.followers), (Some(size), 1));
    assert_eq!(leads.object.repository.as_deref(), Some("lab/app"));
    let snapshot = follower.mirror.snapshot().await;
    let follows = only(&snapshot);
    let source = Source::Peer {
        node: leader.peer().to_string(),
        addresses: vec![leader.address],
    };
    assert_eq!((&follows.source, follows.offset), (&source, half));
    assert!(follows.bytes_per_second > 0 && snapshot.finished.is_empty());

    changes.mark_unchanged();
    growing.write(&bytes[MIB..]);
    growing.commit(&leader, &bytes);
    assert!(answer.rest().await.1);
    assert!(changes.has_changed().expect("open"));
    let snapshot = follower.mirror.snapshot().await;
    assert!(snapshot.running.is_empty());
    let ended = &snapshot.finished[0];
    assert!(ended.is_complete && ended.object.from_upstream.is_empty());
    assert_eq!(ended.object.from_peers, size);
    assert_eq!(snapshot.totals.from_peers, size);
    let peer = &snapshot.peers[0];
    assert_eq!((peer.received, peer.back_off_until_ms), (size, None));

    let snapshot = shown(&leader, |s| s.running.is_empty()).await;
    let ended = &snapshot.finished[0];
    assert!(ended.is_complete);
    assert_eq!(ended.object.from_upstream[&UpstreamReason::Leads], size);
    assert_eq!(snapshot.totals.from_upstream[&UpstreamReason::Leads], size);
    let sent: Vec<_> = snapshot.peers.iter().map(|peer| peer.sent).collect();
    assert_eq!(sent, [Some(size)], "{snapshot:?}");

    let json = serde_json::to_value(&snapshot).expect("plain values");
    assert_eq!(json["finished"][0]["digest"], digest.as_str());
    assert_eq!(json["finished"][0]["from_upstream"]["leads"], size);
}

#[tokio::test]
async fn a_peer_that_fails_is_shown_with_the_reason() {
    let (digest, node) = (Digest::sha256(b"layer"), node().await);
    let _own = node.ingest(&digest, 5);
    node.then(Decision::Follow {
        source: candidate(SocketAddr::from(([127, 0, 0, 1], 1))),
        position: ChainPosition::default(),
        leader: None,
    });
    node.then(Decision::Alone);
    assert_eq!(node.own(&digest).await.0.status(), StatusCode::NOT_FOUND);
    let snapshot = node.mirror.snapshot().await;
    let peer = &snapshot.peers[0];
    assert_eq!(peer.node.as_deref(), Some("peer-1"));
    assert!(peer.back_off_until_ms > Some(snapshot.at_ms - 1));
    let error = peer.last_error.as_ref().expect("an error");
    assert!(!error.what.is_empty() && error.at_ms >= snapshot.started_ms);
    let source = &only(&snapshot).source;
    assert_eq!(
        *source,
        Source::Upstream {
            reason: UpstreamReason::Alone
        }
    );
}
