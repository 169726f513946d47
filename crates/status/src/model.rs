//! The model: what the page, the API and the commands show.

use std::collections::BTreeMap;

use doctor::Finding;
use serde::{Deserialize, Serialize};

/// How a mirror is doing now, and what it has done since it started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    pub node: Node,
    pub totals: Totals,
    /// Images that are being pulled, the latest first.
    pub pulls: Vec<Pull>,
    /// How many other nodes there are; `peers` lists a thousand at the most.
    #[serde(default)]
    pub peer_count: usize,
    pub peers: Vec<Peer>,
    /// Images that were pulled, the latest first.
    pub finished: Vec<Finished>,
    /// Trial pulls of this node (`peili pull`), the latest first.
    #[serde(default)]
    pub trials: Vec<TrialPull>,
    /// What is not well.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Node {
    pub name: String,
    pub version: String,
    /// Since the mirror started, in seconds.
    pub uptime_s: u64,
    /// Why it is not ready; `None` if it is.
    pub not_ready: Option<String>,
}

/// What this node's own clients got since the mirror started, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Totals {
    /// From this node's own store.
    pub local: u64,
    pub peers: u64,
    pub upstream: u64,
    /// The bytes from upstream, by the reason.
    pub upstream_by_reason: BTreeMap<String, u64>,
    /// What this node sent to its peers.
    pub sent: u64,
    /// What pulls would have taken longer at the rate that upstream was measured at; `None` without such a rate.
    pub seconds_saved: Option<u64>,
}

impl Totals {
    /// What came to this node, in bytes.
    pub fn pulled(&self) -> u64 {
        self.peers.saturating_add(self.upstream)
    }
}

/// An image that is being pulled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pull {
    /// Registry and repository.
    pub image: String,
    /// Since it began, in seconds.
    pub age_s: u64,
    pub objects: Vec<Object>,
}

impl Pull {
    /// Bytes that are here, and of all objects whose size is known.
    pub fn progress(&self) -> (u64, u64) {
        let sum = |of: fn(&Object) -> u64| self.objects.iter().map(of).fold(0, u64::saturating_add);
        (sum(|o| o.offset), sum(|o| o.size.unwrap_or(o.offset)))
    }

    /// In bytes per second.
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
    /// In bytes; `None` if nobody has said it yet.
    pub size: Option<u64>,
    /// Bytes that are here.
    pub offset: u64,
    /// In bytes per second, lately.
    pub rate: u64,
    pub source: Source,
    /// How many nodes stream it from this one.
    pub followers: usize,
    /// The nodes that pull it, as far as they are known: the leader first, each before its followers.
    pub tree: Vec<TreeNode>,
}

/// Where the bytes come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "kind", content = "node")]
pub enum Source {
    /// It has not begun.
    #[default]
    Waiting,
    /// This node pulls it from the registry, for others too.
    Upstream,
    /// Another node, by its name.
    Peer(String),
}

/// A node that pulls an object, in the tree of all that do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TreeNode {
    pub name: String,
    pub source: TreeSource,
    /// Bytes that it has.
    pub offset: u64,
    /// In bytes per second.
    pub rate: u64,
    pub is_this_node: bool,
}

/// Where a node in a tree gets an object from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "kind", content = "node")]
pub enum TreeSource {
    Registry,
    /// The node at this place in the list.
    Node(usize),
    /// From nowhere: it has it whole.
    Complete,
    /// It has not begun, or does not say.
    #[default]
    Waiting,
}

/// Another node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Peer {
    /// The name of its node, else its address.
    pub name: String,
    /// Its libp2p peer id; empty if it only asked this node.
    #[serde(default)]
    pub id: String,
    pub address: String,
    /// `None`: unknown, or another program.
    pub version: Option<String>,
    pub state: PeerState,
    /// The rate at which it gives this node something, or gave it last, in bytes per second.
    pub rate: Option<u64>,
    /// In bytes, since this mirror started.
    pub received: u64,
    /// The same. `None`: other peers have the same address, by which this is counted.
    #[serde(default)]
    pub sent: Option<u64>,
    /// What went wrong with it last, and how many seconds ago.
    pub last_error: Option<(String, u64)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    #[default]
    Ok,
    /// It is not asked for a while, after a failure.
    BackOff,
    /// It does not answer the probes of the members, and is taken for dead unless it does soon.
    Suspected,
    /// It takes no part in flights: Spegel, or a mirror with flights off.
    Legacy,
    /// It is no longer among the nodes, or was never: it only asked this one.
    Gone,
}

/// An image that was pulled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finished {
    pub image: String,
    /// Since it ended, in seconds.
    pub ago_s: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// In bytes.
    pub local: u64,
    pub peers: u64,
    pub upstream: u64,
    /// The bytes from upstream, by the reason.
    pub reasons: BTreeMap<String, u64>,
}

/// An image that `peili pull` has pulled to measure where it comes from, as the mirror saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TrialPull {
    /// Registry and repository.
    pub image: String,
    /// Since it ended, in seconds.
    pub ago_s: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// In the order in which they were asked for.
    pub objects: Vec<TrialObject>,
}

/// A manifest, config or layer of a trial pull.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TrialObject {
    pub digest: String,
    pub is_manifest: bool,
    /// In bytes; `None`: the registry has it, and the mirror does not know.
    pub size: Option<u64>,
    pub source: TrialSource,
    /// Why the registry had to give it: one of the reasons of `peili_upstream_bytes_total`.
    pub reason: Option<String>,
    /// Between the request and the first byte, in milliseconds; `None`: the mirror sent none.
    pub first_byte_ms: Option<u64>,
    /// Between the request and the last byte, in milliseconds.
    pub took_ms: u64,
    /// In bytes per second, from the first byte on.
    pub rate: Option<u64>,
    /// Whether all of it came.
    pub is_complete: bool,
}

/// Where an object of a trial pull came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "kind", content = "node")]
pub enum TrialSource {
    /// The store of this node.
    #[default]
    Local,
    /// Another node, by its name.
    Peer(String),
    /// The registry, where the mirror sent the client.
    Upstream,
}
