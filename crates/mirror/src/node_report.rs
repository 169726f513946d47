//! What the nodes of a cluster report about themselves, to be shown: each node's totals, and its progress with objects
//! that the request names.
//!
//! A report reveals nothing that its reader could not learn otherwise. Name, version and totals are on the port of
//! metrics, and any client with a digest can ask the router which nodes have it or pull it. A node names the images
//! that it pulls only if its operator has opened the status page to all clients ([`Mirror::tell_all`]).

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, stream};
use oci::Digest;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use crate::mirror::Mirror;
use crate::snapshot::{self, Snapshot};
use crate::{Body, Candidate, PeerMembership, RouterPeer};

/// The path of a node's report, on its registry port.
pub const REPORT: &str = "/peili/v1/node";
/// The query parameter that names an object; one for each object.
pub(crate) const DIGEST: &str = "digest=";
/// The most objects in one request.
pub(crate) const MAX_NAMED: usize = 40;
/// The most objects that a node reports without a request for them.
const MAX_TOLD: usize = 128;
/// The most nodes that are asked, in all and at once.
const MAX_ASKED: usize = 256;
const ASKED_AT_ONCE: usize = 16;
/// The limit for one node, and for all of them.
const NODE_LIMIT: Duration = Duration::from_secs(2);
const ALL_LIMIT: Duration = Duration::from_secs(10);

/// A node's report on itself. Sizes are in bytes, rates in bytes per second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    pub name: String,
    pub version: String,
    pub uptime_ms: u64,
    pub is_ready: bool,
    /// Its link is far slower than usual, so it sends no incomplete objects.
    pub is_slow: bool,
    pub from_store: u64,
    pub from_peers: u64,
    pub from_upstream: u64,
    pub to_followers: u64,
    /// The number of objects that its clients are pulling, and their total rate.
    pub pulling: usize,
    pub bytes_per_second: u64,
    pub objects: Vec<ReportedObject>,
}

/// The progress of a node with an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedObject {
    pub digest: String,
    /// The registry and repository, if the node names them.
    pub image: Option<String>,
    pub size: Option<u64>,
    pub offset: u64,
    pub bytes_per_second: u64,
    pub source: ReportedSource,
}

/// The source from which a node has or gets an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "node")]
pub enum ReportedSource {
    /// The source is being looked for, or the object was here before.
    #[default]
    Unknown,
    Upstream,
    /// A node, by its peer id.
    Peer(String),
}

/// A node, and its answer or error.
#[derive(Clone, Debug)]
pub struct AskedNode {
    pub peer: RouterPeer,
    pub report: Result<NodeReport, String>,
}

impl Mirror {
    /// Makes reports also name what this node pulls.
    pub fn tell_all(&self) {
        self.tells_all.store(true, Ordering::Relaxed);
    }

    /// This node's own report from a snapshot, about the objects with these digests.
    pub fn report(&self, snapshot: &Snapshot, digests: &[Digest]) -> NodeReport {
        let totals = &snapshot.totals;
        let rates = snapshot.running.iter().map(|pull| pull.bytes_per_second);
        NodeReport {
            name: self.own_name(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: snapshot.at_ms.saturating_sub(snapshot.started_ms),
            is_ready: self.health().is_ready(),
            is_slow: self.metrics.flights_slow.get() != 0,
            from_store: totals.from_store,
            from_peers: totals.from_peers,
            from_upstream: totals.from_upstream.values().sum(),
            to_followers: totals.to_followers,
            pulling: snapshot.running.len(),
            bytes_per_second: rates.fold(0, u64::saturating_add),
            objects: objects(snapshot, digests, self.tells_all.load(Ordering::Relaxed)),
        }
    }

    /// Answers a request of another node.
    pub(crate) fn answer_report(&self, digests: &[Digest]) -> http::Response<Body> {
        let report = self.report(&self.own_snapshot(), digests);
        // Numbers and texts always convert to JSON.
        let json = serde_json::to_vec(&report).unwrap_or_default();
        let mut response = http::Response::new(Body::bytes(json.into()));
        let media_type = http::HeaderValue::from_static("application/json");
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, media_type);
        response
    }

    /// Asks the members of the cluster, at most 256, for their reports about these objects. Takes at most 10 s; members
    /// that have not answered by then are left out.
    pub async fn ask_nodes(&self, digests: &[Digest]) -> Vec<AskedNode> {
        let peers = self.router.list_peers().await.unwrap_or_default().listed;
        let members = peers
            .into_iter()
            .filter(|peer| peer.membership != PeerMembership::Legacy && !peer.addresses.is_empty());
        let named: Vec<_> = digests
            .iter()
            .take(MAX_NAMED)
            .map(|d| format!("{DIGEST}{d}"))
            .collect();
        let path = format!("{REPORT}?{}", named.join("&"));
        // Each future is boxed, so that the whole is Send.
        let asked = members
            .take(MAX_ASKED)
            .map(|peer| self.ask_node(peer, &path).boxed());
        let answers = stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
        answers.take_until(sleep(ALL_LIMIT)).collect().await
    }

    async fn ask_node(&self, peer: RouterPeer, path: &str) -> AskedNode {
        let candidate = Candidate {
            peer: peer.peer.clone(),
            addresses: peer.addresses.clone(),
        };
        let answer = timeout(NODE_LIMIT, self.fetcher.report(&candidate, path)).await;
        let late = || Err(format!("no answer within {} s", NODE_LIMIT.as_secs()));
        let report = answer.unwrap_or_else(|_| late()).and_then(|bytes| {
            serde_json::from_slice(&bytes)
                .map_err(|_| "it answers with something else than a report".to_owned())
        });
        AskedNode { peer, report }
    }
}

/// The objects among these that a node pulls or has just pulled; with `tells_all`, all that it pulls.
fn objects(snapshot: &Snapshot, digests: &[Digest], tells_all: bool) -> Vec<ReportedObject> {
    let named: HashSet<_> = digests.iter().take(MAX_NAMED).map(Digest::as_str).collect();
    let is_told = |object: &snapshot::Object| tells_all || named.contains(object.digest.as_str());
    let running = snapshot.running.iter().filter(|pull| is_told(&pull.object));
    let running = running.map(|pull| ReportedObject {
        offset: pull.offset,
        bytes_per_second: pull.bytes_per_second,
        ..reported(&pull.object, &pull.source, tells_all)
    });
    let ended = snapshot.finished.iter();
    let ended =
        ended.filter(|pull| pull.is_complete && named.contains(pull.object.digest.as_str()));
    let ended = ended.map(|pull| ReportedObject {
        offset: pull.object.size.unwrap_or_default(),
        ..reported(&pull.object, &pull.source, tells_all)
    });
    let mut seen = HashSet::new();
    let all = running
        .chain(ended)
        .filter(|object| seen.insert(object.digest.clone()));
    all.take(MAX_TOLD).collect()
}

fn reported(
    object: &snapshot::Object,
    source: &snapshot::Source,
    tells_all: bool,
) -> ReportedObject {
    let image = || {
        let (registry, repository) = (object.registry.as_ref()?, object.repository.as_ref()?);
        Some(format!("{registry}/{repository}"))
    };
    ReportedObject {
        digest: object.digest.clone(),
        image: if tells_all { image() } else { None },
        size: object.size,
        offset: 0,
        bytes_per_second: 0,
        source: match source {
            snapshot::Source::Unknown | snapshot::Source::Local => ReportedSource::Unknown,
            snapshot::Source::Upstream { .. } => ReportedSource::Upstream,
            snapshot::Source::Peer { node, .. } => ReportedSource::Peer(node.clone()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn snapshot() -> Snapshot {
        let object = |digest: &Digest| snapshot::Object {
            registry: Some("a.io".into()),
            repository: Some("secret/app".into()),
            reference: digest.to_string(),
            digest: digest.to_string(),
            size: Some(100),
            started_ms: 0,
            from_store: 0,
            from_peers: 0,
            from_upstream: BTreeMap::new(),
        };
        let running = |digest: &Digest| snapshot::RunningPull {
            object: object(digest),
            offset: 10,
            bytes_per_second: 1,
            source: snapshot::Source::Upstream {
                reason: crate::UpstreamReason::Leads,
            },
            followers: 0,
        };
        Snapshot {
            at_ms: 0,
            started_ms: 0,
            totals: snapshot::Totals {
                from_store: 0,
                to_followers: 0,
                from_peers: 0,
                from_upstream: BTreeMap::new(),
                sent: 0,
                saved_ms: None,
            },
            running: vec![
                running(&Digest::sha256(b"a")),
                running(&Digest::sha256(b"b")),
            ],
            finished: vec![snapshot::EndedPull {
                object: object(&Digest::sha256(b"c")),
                source: snapshot::Source::Local,
                took_ms: 5,
                is_complete: true,
            }],
            measured: Vec::new(),
            peer_count: 0,
            why_no_peers: None,
            refused_nodes: Vec::new(),
            peers: Vec::new(),
        }
    }

    #[test]
    fn a_stranger_learns_of_what_it_names_and_of_no_image() {
        let snapshot = snapshot();
        let [a, b, c] = [b"a", b"b", b"c"].map(|text| Digest::sha256(text));
        assert_eq!(objects(&snapshot, &[], false), []);
        let told = objects(&snapshot, &[a.clone(), c.clone()], false);
        let offsets: Vec<_> = told.iter().map(|o| (o.digest.as_str(), o.offset)).collect();
        assert_eq!(offsets, [(a.as_str(), 10), (c.as_str(), 100)]);
        let json = serde_json::to_string(&told).expect("plain data");
        assert!(
            !json.contains("secret") && !json.contains(b.as_str()),
            "{json}"
        );
        let all = objects(&snapshot, &[], true);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].image.as_deref(), Some("a.io/secret/app"));
    }
}
