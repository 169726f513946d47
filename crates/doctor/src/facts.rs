//! The facts gathered about a node.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::finding::{Check, Severity};

/// The input of the rules.
#[derive(Clone, Debug)]
pub struct Facts {
    pub containerd: Containerd,
    /// containerd's registry configuration, in containerd's order of folders.
    pub hosts: Vec<HostsFolder>,
    /// The mirrors in hosts.toml, and which server answers there.
    pub addresses: Vec<AddressAnswer>,
    /// The hosts before the mirror in hosts.toml at which nothing listens, and the error.
    pub silent_hosts: Vec<(String, String)>,
    /// The clock of the observer, in seconds since 1970.
    pub now: u64,
    /// The address of the mirror's port for metrics and health.
    pub mirror_address: String,
    /// Its answer, or the error.
    pub mirror: Result<Mirror, String>,
    /// Whether the mirror should be running and configured by now.
    pub is_installed: bool,
}

/// The node's containerd.
#[derive(Clone, Debug)]
pub enum Containerd {
    /// There is no socket where it usually is, and the mirror, which knows where, does not answer.
    Unknown {
        socket: String,
    },
    Unreachable {
        socket: String,
        error: String,
        /// The places where another containerd listens on this host, as in Kubernetes distributions.
        elsewhere: Vec<ContainerdPaths>,
    },
    Reached(Vec<Advice>),
    /// This node has none: the mirror has its own store.
    None,
}

/// The result for one setting of containerd.
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
    /// Folders of registries without a hosts.toml, for which containerd does not read `_default` either.
    pub empty: Vec<String>,
    /// Paths that containerd never reads, and what it reads instead.
    pub unread: Vec<(String, String)>,
}

/// A hosts.toml.
#[derive(Clone, Debug)]
pub struct HostsFile {
    pub path: String,
    /// The registry that containerd reads it for. `None`: all without a folder.
    pub registry: Option<String>,
    /// Why containerd cannot read it.
    pub problem: Option<String>,
    /// Whether a mirror wrote it.
    pub by_mirror: bool,
    /// The hosts in containerd's order, and whether each is a mirror of this cluster.
    pub hosts: Vec<(String, bool)>,
    /// Why containerd gets nothing from the first of these mirrors.
    pub in_vain: Option<String>,
    /// The fingerprint of the node secret for the first of these mirrors.
    pub secret: Option<String>,
    /// Another folder for the same registry that containerd ignores because of this one.
    pub hides: Option<String>,
}

/// The server that answers at an address in hosts.toml.
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
    /// Anything but a mirror of this version.
    Something(String),
    Nothing(String),
}

/// A mirror, as it reports itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Mirror {
    pub version: String,
    /// The id of its router. Empty: it is older, and does not say.
    #[serde(default)]
    pub peer_id: String,
    /// The paths of containerd and its files in its options. `None`: it has its own store.
    pub containerd: Option<ContainerdPaths>,
    /// Why it is not ready.
    pub not_ready: Option<String>,
    /// The port that containerd uses.
    pub registry_port: u16,
    /// The only address at which it listens there. `None`: all of the node's.
    #[serde(default)]
    pub registry_ip: Option<IpAddr>,
    /// The fingerprint of the node secret by which it recognises its containerd, if it has one.
    #[serde(default)]
    pub node_secret: Option<String>,
    /// The registries that it mirrors, as `--mirrored-registries` names them. Empty: all.
    #[serde(default)]
    pub mirrored_registries: Vec<String>,
    /// How long it keeps layers that containerd discards (`--retain-for`), in seconds. `None`: it does not.
    #[serde(default)]
    pub retained_for_s: Option<u64>,
    /// The most files that it may open.
    pub open_files: u64,
    /// Its clock, in seconds since 1970.
    pub now: u64,
    /// The time since it started, in seconds.
    pub uptime_s: u64,
    /// The time since the last request of the node's own client, in seconds. `None`: there was none.
    pub asked_ago_s: Option<u64>,
    /// Whether it looks for peers at all.
    pub looks_for_peers: bool,
    /// Why the last attempt to find peers failed.
    pub bootstrap_error: Option<String>,
    pub peers: Vec<Peer>,
    pub registries: Vec<Registry>,
    /// The last trial that it made, with `--node-readiness`. `None`: it made none.
    #[serde(default)]
    pub trial: Option<Trial>,
    /// `None`: any node may be a peer.
    #[serde(default)]
    pub key_file: Option<KeyFile>,
    /// The addresses of nodes without a network key in common with this one, as far as it met them lately.
    #[serde(default)]
    pub refused_nodes: Vec<IpAddr>,
}

/// The file of the network keys (`--network-key-file`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    pub path: String,
    /// The keys in force. An id identifies a key without revealing it. Empty: the file never contained a key.
    pub ids: Vec<String>,
    /// Why the file can no longer be used, while its earlier keys stay in force.
    pub fault: Option<String>,
}

/// The paths of a node's containerd in a mirror's options.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerdPaths {
    pub socket: String,
    /// Empty: the path that containerd reports.
    pub content: String,
    /// containerd's configuration file.
    pub config: String,
    /// containerd's `config_path`; several folders are separated by colons.
    pub registry_config: String,
}

/// Another node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    /// The address of its registry. Empty: unknown.
    #[serde(default)]
    pub address: String,
    /// `None`: unknown, or another program.
    pub version: Option<String>,
    /// Its last error, if it gets no requests because of that, or why it could not be reached now.
    pub error: Option<String>,
    /// How many seconds its clock is ahead of this node's. `None`: it was not asked, or did not answer.
    #[serde(default)]
    pub clock_ahead_s: Option<i64>,
    /// The addresses of this node that it cannot connect to. `None`: it did not try.
    #[serde(default)]
    pub unreached: Option<Vec<String>>,
    /// How often it lacked an announced object in the last minutes. `None`: this was not counted.
    pub lacking: Option<u64>,
}

/// An upstream registry that was asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Registry {
    pub name: String,
    /// Why it cannot be reached.
    pub unreachable: Option<String>,
    /// Why it was reached but gave no usable answer.
    pub failing: Option<String>,
}

/// A pull of an image that only the mirror has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", content = "detail")]
pub enum Trial {
    CameThrough {
        milliseconds: u64,
    },
    /// It failed. The reason.
    Failed(String),
}
