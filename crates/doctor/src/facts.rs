//! What was gathered about a node.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::finding::{Check, Severity};

/// Everything that the rules look at.
#[derive(Clone, Debug)]
pub struct Facts {
    pub containerd: Containerd,
    /// containerd's registry configuration, in containerd's order of folders.
    pub hosts: Vec<HostsFolder>,
    /// The mirrors that hosts.toml names, and who answers there.
    pub addresses: Vec<AddressAnswer>,
    /// The clock of whoever looks, in seconds since 1970.
    pub now: u64,
    /// Other nodes that were asked for theirs.
    pub clocks: Vec<PeerClock>,
    /// Where the mirror's own port of metrics and health was asked.
    pub mirror_address: String,
    /// What it answered, or why it did not.
    pub mirror: Result<Mirror, String>,
    /// Whether the mirror should run by now, and be configured.
    pub is_installed: bool,
}

/// The node's containerd.
#[derive(Clone, Debug)]
pub enum Containerd {
    Unreachable {
        socket: String,
        error: String,
        /// Where another one listens on this host, as Kubernetes distributions place it.
        elsewhere: Vec<ContainerdPaths>,
    },
    Reached(Vec<Advice>),
    /// This node has none: the mirror has a store of its own.
    None,
}

/// What is said of one setting of containerd.
#[derive(Clone, Debug)]
pub struct Advice {
    pub check: &'static Check,
    pub severity: Severity,
    pub text: String,
    pub remedy: Option<String>,
}

/// A folder of containerd's `config_path`.
#[derive(Clone, Debug)]
pub struct HostsFolder {
    pub path: String,
    /// Why it cannot be read, or that it is missing.
    pub problem: Option<String>,
    pub files: Vec<HostsFile>,
    /// Folders of registries without a hosts.toml, for which containerd reads `_default` not either.
    pub empty: Vec<String>,
    /// What containerd never reads, and what it reads instead.
    pub unread: Vec<(String, String)>,
}

/// A hosts.toml.
#[derive(Clone, Debug)]
pub struct HostsFile {
    pub path: String,
    /// The registry that containerd reads it for; `None`: all that have no folder.
    pub registry: Option<String>,
    /// Why containerd cannot read it.
    pub problem: Option<String>,
    /// Whether a mirror wrote it.
    pub by_mirror: bool,
    /// The hosts in containerd's order, and whether each is a mirror of ours.
    pub hosts: Vec<(String, bool)>,
    /// Why containerd gets nothing from the first mirror of ours.
    pub in_vain: Option<String>,
    /// The fingerprint of the node secret that the first mirror of ours gets.
    pub secret: Option<String>,
    /// Another folder for the same registry that containerd does not read because of this one.
    pub hides: Option<String>,
}

/// Who answers at an address that hosts.toml names.
#[derive(Clone, Debug)]
pub struct AddressAnswer {
    pub url: String,
    pub answer: Answered,
}

#[derive(Clone, Debug)]
pub enum Answered {
    ThisNode,
    /// The mirror of another node, by its name.
    OtherNode(String),
    /// Something else than a mirror of this version.
    Something(String),
    Nothing(String),
}

/// A mirror, by what it says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Mirror {
    pub version: String,
    /// Where it has containerd and its files. `None`: it has a store of its own.
    pub containerd: Option<ContainerdPaths>,
    /// Why it is not ready.
    pub not_ready: Option<String>,
    /// The port at which containerd asks it.
    pub registry_port: u16,
    /// The only address at which it listens there; `None`: all of the node's.
    #[serde(default)]
    pub registry_ip: Option<IpAddr>,
    /// The fingerprint of the node secret by which it knows its containerd, if it has one.
    #[serde(default)]
    pub node_secret: Option<String>,
    /// The most files that it may have open.
    pub open_files: u64,
    /// Its clock, in seconds since 1970.
    pub now: u64,
    /// Since it started, in seconds.
    pub uptime_s: u64,
    /// Since the node's own client asked it last, in seconds. `None`: it never did.
    pub asked_ago_s: Option<u64>,
    /// Whether it looks for peers at all.
    pub looks_for_peers: bool,
    /// Why the last attempt to find peers failed.
    pub bootstrap_error: Option<String>,
    pub peers: Vec<Peer>,
    pub registries: Vec<Registry>,
    /// The last trial that it made: with `--node-readiness`. `None`: it made none.
    #[serde(default)]
    pub trial: Option<Trial>,
    /// `None`: whoever connects is a peer.
    #[serde(default)]
    pub key_file: Option<KeyFile>,
    /// Where nodes are that have no network key in common with this one, as far as it met them lately.
    #[serde(default)]
    pub refused_nodes: Vec<IpAddr>,
}

/// The file of the network keys (`--network-key-file`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    pub path: String,
    /// The keys in force. An id tells a key from others, and does not give it away. None: there never was a key in the file.
    pub ids: Vec<String>,
    /// Why the file is of no use any more, while the keys that it held stay in force.
    pub fault: Option<String>,
}

/// The clock of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerClock {
    pub name: String,
    /// By how many seconds it is ahead of the clock of whoever looks.
    pub ahead: i64,
}

/// Where a mirror finds its node's containerd, as its options say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerdPaths {
    pub socket: String,
    /// Empty: where containerd says it is.
    pub content: String,
    /// containerd's configuration file.
    pub config: String,
    /// containerd's `config_path`, with colons between several folders.
    pub registry_config: String,
}

/// Another node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    /// Of its registry; empty: it is not known.
    #[serde(default)]
    pub address: String,
    /// `None`: it is not known, or another program.
    pub version: Option<String>,
    /// What went wrong with it last, while it is not asked because of that.
    pub error: Option<String>,
    /// How often it lacked what it announced, in the last minutes; `None`: nobody counted.
    pub lacking: Option<u64>,
}

/// An upstream registry that was asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Registry {
    pub name: String,
    /// Why it cannot be reached.
    pub unreachable: Option<String>,
    /// Why it was reached and gave no answer that can be used.
    pub failing: Option<String>,
}

/// A pull of an image that only the mirror has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", content = "detail")]
pub enum Trial {
    CameThrough {
        milliseconds: u64,
    },
    /// Why it did not.
    Failed(String),
}
