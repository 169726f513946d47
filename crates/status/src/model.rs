//! The model: the data of the page, the API and the commands.

use std::collections::BTreeMap;

use doctor::Finding;
use serde::{Deserialize, Serialize};

/// The present state of a mirror, and what it has done since it started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    pub node: Node,
    pub totals: Totals,
    /// The images being pulled, the latest first.
    pub pulls: Vec<Pull>,
    /// The number of other nodes; `peers` lists at most a thousand.
    #[serde(default)]
    pub peer_count: usize,
    pub peers: Vec<Peer>,
    /// The images that were pulled, the latest first.
    pub finished: Vec<Finished>,
    /// Trial pulls of this node (`peili pull`), the latest first.
    #[serde(default)]
    pub trials: Vec<TrialPull>,
    /// The faults and warnings.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Node {
    pub name: String,
    pub version: String,
    /// The time since the mirror started, in seconds.
    pub uptime_s: u64,
    /// Why it is not ready. `None`: it is.
    pub not_ready: Option<String>,
}

/// The bytes that this node's own clients got since the mirror started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Totals {
    /// The bytes from this node's own store.
    pub local: u64,
    pub peers: u64,
    pub upstream: u64,
    /// The bytes from upstream, by the reason.
    pub upstream_by_reason: BTreeMap<String, u64>,
    /// The bytes that this node sent to its peers.
    pub sent: u64,
    /// The additional time that pulls would have taken at the measured rate of upstream. `None`: there is no such rate.
    pub seconds_saved: Option<u64>,
}

impl Totals {
    /// The bytes received by this node.
    pub fn pulled(&self) -> u64 {
        self.peers.saturating_add(self.upstream)
    }
}

/// An image that is being pulled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pull {
    /// The registry and repository.
    pub image: String,
    /// The time since it began, in seconds.
    pub age_s: u64,
    pub objects: Vec<Object>,
}

impl Pull {
    /// The bytes that are here, and those of all objects of known size.
    pub fn progress(&self) -> (u64, u64) {
        let sum = |of: fn(&Object) -> u64| self.objects.iter().map(of).fold(0, u64::saturating_add);
        (sum(|o| o.offset), sum(|o| o.size.unwrap_or(o.offset)))
    }

    /// The rate in bytes per second.
    pub fn rate(&self) -> u64 {
        let rates = self.objects.iter().map(|object| object.rate);
        rates.fold(0, u64::saturating_add)
    }
}

/// A layer, config or manifest that is being pulled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Object {
    pub digest: String,
    /// The size in bytes. `None`: it is unknown yet.
    pub size: Option<u64>,
    /// The bytes that are here.
    pub offset: u64,
    /// The recent rate, in bytes per second.
    pub rate: u64,
    pub source: Source,
    /// The number of nodes that stream it from this one.
    pub followers: usize,
    /// The known nodes that pull it: the leader first, each before its followers.
    pub tree: Vec<TreeNode>,
}

/// The source of the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "kind", content = "node")]
pub enum Source {
    /// It has not begun.
    #[default]
    Waiting,
    /// This node pulls it from the registry, for other nodes too.
    Upstream,
    /// Another node, by its name.
    Peer(String),
}

/// A node in the tree of all that pull an object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TreeNode {
    pub name: String,
    pub source: TreeSource,
    /// The bytes that it has.
    pub offset: u64,
    /// The rate in bytes per second.
    pub rate: u64,
    pub is_this_node: bool,
}

/// The source of a node in a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "kind", content = "node")]
pub enum TreeSource {
    Registry,
    /// The node at this position in the list.
    Node(usize),
    /// No source: it has the whole object.
    Complete,
    /// It has not begun, or does not report its source.
    #[default]
    Waiting,
}

/// Another node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Peer {
    /// The name of its node, or else its address.
    pub name: String,
    /// Its libp2p peer id. Empty: it has only sent requests to this node.
    #[serde(default)]
    pub id: String,
    pub address: String,
    /// `None`: unknown, or another program.
    pub version: Option<String>,
    pub state: PeerState,
    /// Its present or last rate to this node, in bytes per second.
    pub rate: Option<u64>,
    /// The bytes received from it since this mirror started.
    pub received: u64,
    /// The bytes sent to it. `None`: other peers have the same address, by which this is counted.
    #[serde(default)]
    pub sent: Option<u64>,
    /// Its last error, and how many seconds ago that was.
    pub last_error: Option<(String, u64)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    #[default]
    Ok,
    /// It gets no requests for a while, after a failure.
    BackOff,
    /// It does not answer the probes of the members, and is declared dead unless it soon does.
    Suspected,
    /// It does not take part in flights: Spegel, or a mirror without flights.
    Legacy,
    /// It is not among the nodes, or no longer: it has only sent requests to this one.
    Gone,
}

/// An image that was pulled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finished {
    pub image: String,
    /// The time since it ended, in seconds.
    pub ago_s: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The bytes from this node's own store.
    pub local: u64,
    pub peers: u64,
    pub upstream: u64,
    /// The bytes from upstream, by the reason.
    pub reasons: BTreeMap<String, u64>,
}

/// An image that `peili pull` has pulled to measure its sources, as the mirror saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TrialPull {
    /// The registry and repository.
    pub image: String,
    /// The time since it ended, in seconds.
    pub ago_s: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The objects, in the order of the requests.
    pub objects: Vec<TrialObject>,
}

/// A manifest, config or layer of a trial pull.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TrialObject {
    pub digest: String,
    pub is_manifest: bool,
    /// The size in bytes. `None`: the registry sent it, and the mirror does not know.
    pub size: Option<u64>,
    pub source: TrialSource,
    /// Why it had to come from the registry: one of the reasons of `peili_upstream_bytes_total`.
    pub reason: Option<String>,
    /// The time from the request to the first byte, in milliseconds. `None`: the mirror sent none.
    pub first_byte_ms: Option<u64>,
    /// The time from the request to the last byte, in milliseconds.
    pub took_ms: u64,
    /// The rate in bytes per second, from the first byte on.
    pub rate: Option<u64>,
    /// Whether all bytes came.
    pub is_complete: bool,
}

/// The source of an object in a trial pull.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "kind", content = "node")]
pub enum TrialSource {
    /// The store of this node.
    #[default]
    Local,
    /// Another node, by its name.
    Peer(String),
    /// The registry, to which the mirror sent the client.
    Upstream,
}
