//! Converts the mirror's snapshot to what is shown.

use std::collections::BTreeMap;

use ::status::{
    Finished, Node, Object, Peer, PeerState, Pull, Source, Status, Totals, TreeNode, TreeSource,
};
use mirror::UpstreamReason;
use mirror::snapshot::{self, EndedPull, RunningPull, Snapshot};

use super::trials;

/// The most time between objects of one repository that belong to one image, in milliseconds.
pub(super) const TOGETHER_MS: u64 = 10_000;

/// The status of a node's mirror.
pub fn of(snapshot: &Snapshot, node: Node) -> Status {
    let totals = &snapshot.totals;
    let by_reason = |reasons: &BTreeMap<UpstreamReason, u64>| -> BTreeMap<String, u64> {
        let counted = reasons.iter().filter(|(_, bytes)| **bytes > 0);
        counted
            .map(|(reason, bytes)| (reason.as_str().to_owned(), *bytes))
            .collect()
    };
    let upstream_by_reason = by_reason(&totals.from_upstream);
    Status {
        totals: Totals {
            local: totals.from_store,
            peers: totals.from_peers,
            upstream: upstream_by_reason.values().sum(),
            upstream_by_reason,
            sent: totals.sent,
            seconds_saved: totals.saved_ms.map(|saved| saved / 1000),
        },
        pulls: running(snapshot, &node.name),
        peer_count: snapshot.peer_count,
        peers: snapshot
            .peers
            .iter()
            .map(|p| peer(p, snapshot.at_ms))
            .collect(),
        finished: finished(snapshot),
        trials: trials::of(snapshot),
        findings: Vec::new(),
        node,
    }
}

/// The registry and repository, with the tag if an object was requested by one.
fn image(object: &snapshot::Object) -> String {
    repository(object.registry.as_deref(), object.repository.as_deref())
}

/// The same for a registry and a repository, if they are known.
pub(super) fn repository(registry: Option<&str>, repository: Option<&str>) -> String {
    let repository = repository.unwrap_or("without a name");
    match registry {
        Some(registry) => format!("{registry}/{repository}"),
        None => repository.to_owned(),
    }
}

fn running(snapshot: &Snapshot, own_name: &str) -> Vec<Pull> {
    let mut pulls: Vec<Pull> = Vec::new();
    for pull in &snapshot.running {
        let image = image(&pull.object);
        let age = snapshot.at_ms.saturating_sub(pull.object.started_ms) / 1000;
        let object = object(pull, own_name, snapshot);
        match pulls.iter_mut().find(|pull| pull.image == image) {
            Some(known) => {
                known.age_s = known.age_s.max(age);
                known.objects.push(object);
            }
            None => pulls.push(Pull {
                image,
                age_s: age,
                objects: vec![object],
            }),
        }
    }
    for pull in &mut pulls {
        // The largest first, as the pull waits for it.
        pull.objects
            .sort_by_key(|object| std::cmp::Reverse(object.size));
    }
    pulls
}

fn object(pull: &RunningPull, own_name: &str, snapshot: &Snapshot) -> Object {
    let source = match &pull.source {
        snapshot::Source::Unknown | snapshot::Source::Local => Source::Waiting,
        snapshot::Source::Peer { node, addresses } => {
            Source::Peer(peer_name(snapshot, node, addresses))
        }
        snapshot::Source::Upstream { .. } => Source::Upstream,
    };
    Object {
        digest: pull.object.digest.clone(),
        size: pull.object.size,
        offset: pull.offset,
        rate: pull.bytes_per_second,
        followers: pull.followers,
        tree: neighbours(pull, &source, own_name),
        source,
    }
}

/// The name of a peer, as far as it is known.
pub(super) fn peer_name(
    snapshot: &Snapshot,
    node: &String,
    addresses: &[std::net::SocketAddr],
) -> String {
    let mut peers = snapshot.peers.iter();
    let known = peers.find(|peer| peer.node.as_ref() == Some(node));
    let known = known.and_then(|peer| peer.name.clone());
    known.unwrap_or_else(|| name(node, addresses.first()))
}

/// The part of the tree that a node itself knows: its source and itself.
fn neighbours(pull: &RunningPull, source: &Source, own_name: &str) -> Vec<TreeNode> {
    let own = |source| TreeNode {
        name: own_name.to_owned(),
        source,
        offset: pull.offset,
        rate: pull.bytes_per_second,
        is_this_node: true,
    };
    match source {
        Source::Waiting => Vec::new(),
        Source::Upstream => vec![own(TreeSource::Registry)],
        Source::Peer(name) => {
            let above = TreeNode {
                name: name.clone(),
                source: TreeSource::Complete,
                offset: pull.object.size.unwrap_or(pull.offset),
                ..TreeNode::default()
            };
            vec![above, own(TreeSource::Node(0))]
        }
    }
}

/// The name of a node: its address, which people know, or else the end of its id.
fn name(id: &str, address: Option<&std::net::SocketAddr>) -> String {
    let end = || {
        id.chars()
            .skip(id.chars().count().saturating_sub(8))
            .collect()
    };
    address.map_or_else(end, |address| address.ip().to_canonical().to_string())
}

fn peer(peer: &snapshot::Peer, now_ms: u64) -> Peer {
    let address = peer.addresses.first();
    let is_backed_off = peer.back_off_until_ms.is_some_and(|until| until > now_ms);
    let error = peer.last_error.as_ref();
    let id = peer.node.clone().unwrap_or_default();
    Peer {
        name: peer.name.clone().unwrap_or_else(|| name(&id, address)),
        id,
        address: address.map(ToString::to_string).unwrap_or_default(),
        version: peer.version.clone(),
        state: match peer.state {
            snapshot::PeerState::Unknown => PeerState::Gone,
            snapshot::PeerState::Suspected => PeerState::Suspected,
            _ if is_backed_off => PeerState::BackOff,
            snapshot::PeerState::Member => PeerState::Ok,
            snapshot::PeerState::Legacy => PeerState::Legacy,
        },
        rate: Some(peer.bytes_per_second).filter(|rate| *rate > 0),
        received: peer.received,
        sent: peer.sent,
        last_error: error.map(|e| (e.what.clone(), now_ms.saturating_sub(e.at_ms) / 1000)),
    }
}

/// The images of the objects that were pulled lately.
fn finished(snapshot: &Snapshot) -> Vec<Finished> {
    /// An image, from the start of its first object to the end of its last.
    struct Span {
        began_ms: u64,
        ended_ms: u64,
        of: Finished,
    }
    let mut images: Vec<Span> = Vec::new();
    let end = |pull: &EndedPull| pull.object.started_ms.saturating_add(pull.took_ms);
    let mut pulls: Vec<_> = snapshot.finished.iter().collect();
    pulls.sort_by_key(|pull| pull.object.started_ms);
    for pull in pulls {
        let (object, ended_ms) = (&pull.object, end(pull));
        let name = image(object);
        let is_of = |span: &&mut Span| {
            span.of.image == name && object.started_ms <= span.ended_ms.saturating_add(TOGETHER_MS)
        };
        let known = images.iter_mut().rev().find(is_of);
        let span = match known {
            Some(span) => span,
            None => {
                images.push(Span {
                    began_ms: object.started_ms,
                    ended_ms,
                    of: Finished {
                        image: name,
                        ..Finished::default()
                    },
                });
                let Some(span) = images.last_mut() else {
                    continue;
                };
                span
            }
        };
        span.ended_ms = span.ended_ms.max(ended_ms);
        span.of.local += object.from_store;
        span.of.peers += object.from_peers;
        for (reason, bytes) in &object.from_upstream {
            span.of.upstream += bytes;
            *span
                .of
                .reasons
                .entry(reason.as_str().to_owned())
                .or_default() += bytes;
        }
    }
    images.sort_by_key(|span| std::cmp::Reverse(span.ended_ms));
    let images = images.into_iter().map(|span| Finished {
        ago_s: snapshot.at_ms.saturating_sub(span.ended_ms) / 1000,
        took_ms: span.ended_ms.saturating_sub(span.began_ms),
        ..span.of
    });
    images.collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn snapshot_object(repository: &str, digest: &str, started_ms: u64) -> snapshot::Object {
        snapshot::Object {
            registry: Some("a.io".into()),
            repository: Some(repository.into()),
            reference: digest.into(),
            digest: digest.into(),
            size: Some(100),
            started_ms,
            from_store: 0,
            from_peers: 60,
            from_upstream: BTreeMap::from([(UpstreamReason::Leads, 40)]),
        }
    }

    pub fn empty() -> Snapshot {
        Snapshot {
            at_ms: 100_000,
            started_ms: 0,
            totals: snapshot::Totals {
                from_store: 1,
                to_followers: 2,
                from_peers: 3,
                from_upstream: BTreeMap::from([
                    (UpstreamReason::Leads, 4),
                    (UpstreamReason::Alone, 0),
                ]),
                sent: 0,
                saved_ms: None,
            },
            running: Vec::new(),
            finished: Vec::new(),
            measured: Vec::new(),
            peer_count: 0,
            why_no_peers: None,
            refused_nodes: Vec::new(),
            peers: Vec::new(),
        }
    }

    #[test]
    fn objects_of_one_image_are_one_pull() {
        let mut snapshot = empty();
        for (n, repository) in ["app", "app", "other"].into_iter().enumerate() {
            let started = 90_000 + n as u64 * 1000;
            let mut object = snapshot_object(repository, &format!("sha256:{n}"), started);
            object.size = Some(100 + n as u64);
            snapshot.running.push(RunningPull {
                object,
                offset: 10,
                bytes_per_second: 5,
                source: snapshot::Source::Peer {
                    node: "12D3KooWabcdefgh".into(),
                    addresses: vec!["10.0.0.7:5000".parse().expect("an address")],
                },
                followers: 2,
            });
        }
        let status = of(
            &snapshot,
            Node {
                name: "n1".into(),
                ..Node::default()
            },
        );
        let shown: Vec<_> = status
            .pulls
            .iter()
            .map(|p| (p.image.as_str(), p.age_s, p.objects.len()))
            .collect();
        assert_eq!(shown, [("a.io/app", 10, 2), ("a.io/other", 8, 1)]);
        let first = &status.pulls[0].objects[0];
        assert_eq!(first.size, Some(101), "the largest first");
        assert_eq!(first.source, Source::Peer("10.0.0.7".into()));
        assert_eq!(first.tree.len(), 2);
        assert_eq!(status.totals.upstream_by_reason.len(), 1);
    }

    #[test]
    fn what_was_pulled_together_is_one_row_and_what_was_not_is_two() {
        let mut snapshot = empty();
        for (digest, started_ms, took_ms) in
            [("a", 1_000, 2_000), ("b", 1_500, 3_000), ("c", 60_000, 10)]
        {
            snapshot.finished.push(EndedPull {
                object: snapshot_object("app", digest, started_ms),
                source: snapshot::Source::Local,
                took_ms,
                is_complete: true,
            });
        }
        let rows = finished(&snapshot);
        let shown: Vec<_> = rows
            .iter()
            .map(|f| (f.took_ms, f.ago_s, f.peers, f.upstream))
            .collect();
        assert_eq!(shown, [(10, 39, 60, 40), (3_500, 95, 120, 80)]);
        assert_eq!(rows[1].reasons["leads"], 80);
    }
}
