//! Converts the reports of a cluster's nodes to what is shown.

use ::status::cluster::{Cluster, Flight, Member, Progress, ProgressSource, tree};
use ::status::{Status, TreeNode};
use mirror::snapshot::Snapshot;
use mirror::{AskedNode, NodeReport, ReportedObject, ReportedSource};
use oci::Digest;

/// Objects that ended this long ago are still asked for, in milliseconds: others may be streaming them from this node.
const JUST_ENDED_MS: u64 = 60_000;

/// The objects that other nodes are asked about: those that this node pulls, the largest first, then those that it has
/// just pulled.
pub fn objects_to_ask_for(snapshot: &Snapshot) -> Vec<Digest> {
    let mut running: Vec<_> = snapshot.running.iter().map(|pull| &pull.object).collect();
    running.sort_by_key(|object| std::cmp::Reverse(object.size));
    let ended = snapshot.finished.iter().filter(|pull| {
        let ended_ms = pull.object.started_ms.saturating_add(pull.took_ms);
        snapshot.at_ms.saturating_sub(ended_ms) < JUST_ENDED_MS
    });
    let all = running.into_iter().chain(ended.map(|pull| &pull.object));
    all.filter_map(|object| object.digest.parse().ok())
        .collect()
}

/// This node: its peer id, and its own report.
#[derive(Clone, Copy)]
pub struct Own<'a> {
    pub id: &'a str,
    pub report: &'a NodeReport,
}

/// Adds the trees of all nodes to this node's status.
pub fn add_trees(status: &mut Status, own: Own<'_>, asked: &[AskedNode]) {
    for object in status.pulls.iter_mut().flat_map(|pull| &mut pull.objects) {
        let nodes = tree_of(&object.digest, own, asked);
        if nodes.len() > 1 {
            object.tree = nodes;
        }
    }
}

/// The whole cluster. `count`: the number of other nodes.
pub fn cluster(snapshot: &Snapshot, own: Own<'_>, asked: &[AskedNode]) -> Cluster {
    let mut others: Vec<_> = asked.iter().map(other).collect();
    others.sort_by(|a, b| a.name.cmp(&b.name));
    let mut nodes = vec![Member {
        id: own.id.to_owned(),
        is_this_node: true,
        ..member(own.report)
    }];
    nodes.append(&mut others);
    Cluster {
        count: snapshot.peer_count + 1,
        nodes,
        flights: flights(snapshot, own, asked),
    }
}

fn member(report: &NodeReport) -> Member {
    Member {
        name: report.name.clone(),
        version: Some(report.version.clone()),
        uptime_s: report.uptime_ms / 1000,
        is_ready: report.is_ready,
        is_slow: report.is_slow,
        pulling: report.pulling,
        rate: report.bytes_per_second,
        local: report.from_store,
        peers: report.from_peers,
        upstream: report.from_upstream,
        ..Member::default()
    }
}

fn other(node: &AskedNode) -> Member {
    let peer = &node.peer;
    let base = match &node.report {
        Ok(report) => member(report),
        Err(error) => Member {
            error: Some(error.clone()),
            version: peer.version.clone(),
            ..Member::default()
        },
    };
    let address = peer.addresses.first();
    Member {
        id: peer.peer.to_string(),
        name: name(node),
        address: address.map(ToString::to_string).unwrap_or_default(),
        ..base
    }
}

/// The name of a node in its report, or else its address.
fn name(node: &AskedNode) -> String {
    let reported = node.report.as_ref().ok().map(|report| report.name.clone());
    let reported = reported.filter(|name| !name.is_empty());
    let address = || {
        let address = node.peer.addresses.first();
        address.map_or_else(
            || node.peer.peer.to_string(),
            |address| address.ip().to_string(),
        )
    };
    reported
        .or_else(|| node.peer.name.clone())
        .unwrap_or_else(address)
}

/// Every object that any node is pulling, as far as reports show.
fn flights(snapshot: &Snapshot, own: Own<'_>, asked: &[AskedNode]) -> Vec<Flight> {
    let mut flights: Vec<Flight> = Vec::new();
    let reports = asked.iter().filter_map(|node| node.report.as_ref().ok());
    let objects = std::iter::once(own.report)
        .chain(reports)
        .flat_map(|report| &report.objects);
    for object in objects {
        let is_growing = object.size.is_none_or(|size| object.offset < size);
        if is_growing && flights.iter().all(|flight| flight.digest != object.digest) {
            flights.push(Flight {
                image: image(snapshot, object),
                digest: object.digest.clone(),
                size: object.size,
                tree: tree_of(&object.digest, own, asked),
            });
        }
    }
    flights.sort_by_key(|flight| std::cmp::Reverse(flight.size));
    flights
}

/// This node's name of an object, or else that in the report.
fn image(snapshot: &Snapshot, object: &ReportedObject) -> Option<String> {
    let running = snapshot.running.iter().map(|pull| &pull.object);
    let ended = snapshot.finished.iter().map(|pull| &pull.object);
    let known = running
        .chain(ended)
        .find(|known| known.digest == object.digest);
    let own = known.and_then(|known| {
        Some(format!(
            "{}/{}",
            known.registry.as_ref()?,
            known.repository.as_ref()?
        ))
    });
    own.or_else(|| object.image.clone())
}

fn tree_of(digest: &str, own: Own<'_>, asked: &[AskedNode]) -> Vec<TreeNode> {
    let source = |object: &ReportedObject| match &object.source {
        ReportedSource::Unknown => ProgressSource::Unknown,
        ReportedSource::Upstream => ProgressSource::Registry,
        ReportedSource::Peer(id) => {
            let node = asked.iter().find(|node| node.peer.peer.as_str() == id);
            let end = || id.chars().skip(id.len().saturating_sub(8)).collect();
            ProgressSource::Node(id.clone(), node.map_or_else(end, name))
        }
    };
    let of = |id: String, name: String, report: &NodeReport, is_this_node| {
        let object = report
            .objects
            .iter()
            .find(|object| object.digest == digest)?;
        Some(Progress {
            id,
            name,
            is_this_node,
            offset: object.offset,
            size: object.size,
            rate: object.bytes_per_second,
            source: source(object),
        })
    };
    let own = of(own.id.to_owned(), own.report.name.clone(), own.report, true);
    let others = asked.iter().filter_map(|node| {
        let report = node.report.as_ref().ok()?;
        of(node.peer.peer.to_string(), name(node), report, false)
    });
    let said: Vec<_> = own.into_iter().chain(others).collect();
    tree(&said)
}

#[cfg(test)]
mod tests {
    use ::status::TreeSource;
    use mirror::{PeerId, PeerMembership, RouterPeer};

    use super::*;

    fn report(name: &str, offset: u64, source: ReportedSource) -> NodeReport {
        NodeReport {
            name: name.into(),
            objects: vec![ReportedObject {
                digest: "sha256:a".into(),
                size: Some(100),
                offset,
                source,
                ..ReportedObject::default()
            }],
            ..NodeReport::default()
        }
    }

    fn asked(id: &str, report: Result<NodeReport, String>) -> AskedNode {
        AskedNode {
            peer: RouterPeer {
                peer: PeerId::new(id),
                addresses: [([10, 0, 0, 9], 5000).into()].into(),
                routers: [].into(),
                name: None,
                version: None,
                membership: PeerMembership::Member,
            },
            report,
        }
    }

    #[test]
    fn nodes_that_follow_this_one_hang_below_it() {
        let own = report("n1", 50, ReportedSource::Upstream);
        let own = Own {
            id: "id-1",
            report: &own,
        };
        let others = [
            asked(
                "id-3",
                Ok(report("n3", 20, ReportedSource::Peer("id-2".into()))),
            ),
            asked(
                "id-2",
                Ok(report("n2", 40, ReportedSource::Peer("id-1".into()))),
            ),
            asked("id-4", Err("no answer".into())),
            asked(
                "id-5",
                Ok(report("", 100, ReportedSource::Peer("id-4".into()))),
            ),
        ];
        let tree = tree_of("sha256:a", own, &others);
        let shown: Vec<_> = tree
            .iter()
            .map(|node| (node.name.as_str(), node.source))
            .collect();
        use TreeSource::{Complete, Node, Registry};
        assert_eq!(
            shown,
            [
                ("n1", Registry),
                ("n3", Node(2)),
                ("n2", Node(0)),
                ("10.0.0.9", Node(4)),
                ("10.0.0.9", Complete)
            ]
        );
        assert_eq!(tree_of("sha256:b", own, &others), []);
    }
}
