//! The whole cluster: the state of each node, and the tree of each object that nodes pull at the same time.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{TreeNode, TreeSource};

/// The nodes of a cluster at one moment, as one of them sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cluster {
    /// The number of nodes, this one included. `nodes` lists at most 257.
    pub count: usize,
    /// This node first, then by name.
    pub nodes: Vec<Member>,
    /// The objects being pulled, the largest first.
    pub flights: Vec<Flight>,
}

/// A node. Sizes are in bytes, rates in bytes per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Member {
    /// Its libp2p peer id.
    pub id: String,
    pub name: String,
    pub address: String,
    pub version: Option<String>,
    pub is_this_node: bool,
    /// Why it has not answered. The rest is then unknown.
    pub error: Option<String>,
    /// The time since its mirror started, in seconds.
    pub uptime_s: u64,
    pub is_ready: bool,
    /// Its link is far slower than usual.
    pub is_slow: bool,
    /// The number of objects that it is pulling, and their total rate.
    pub pulling: usize,
    pub rate: u64,
    /// The bytes that its clients got since its mirror started.
    pub local: u64,
    pub peers: u64,
    pub upstream: u64,
}

/// An object that is being pulled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Flight {
    /// The registry and repository, if this node knows them.
    pub image: Option<String>,
    pub digest: String,
    pub size: Option<u64>,
    pub tree: Vec<TreeNode>,
}

/// A node's report on an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Its libp2p peer id.
    pub id: String,
    pub name: String,
    pub is_this_node: bool,
    pub offset: u64,
    pub size: Option<u64>,
    pub rate: u64,
    pub source: ProgressSource,
}

/// The source of an object in a node's report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProgressSource {
    #[default]
    Unknown,
    Registry,
    /// A node, by its id, and its name if it is known.
    Node(String, String),
}

impl Progress {
    fn is_complete(&self) -> bool {
        self.size.is_some_and(|size| self.offset >= size)
    }
}

/// The tree of an object from nodes' reports. A source without a report counts as having the whole object.
pub fn tree(said: &[Progress]) -> Vec<TreeNode> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (place, progress) in said.iter().enumerate() {
        places.entry(&progress.id).or_insert(place);
    }
    let size = said.iter().find_map(|progress| progress.size);
    let mut silent = Vec::new();
    for progress in said {
        if let ProgressSource::Node(id, name) = &progress.source
            && !places.contains_key(id.as_str())
        {
            places.insert(id, said.len() + silent.len());
            silent.push(TreeNode {
                name: name.clone(),
                source: TreeSource::Complete,
                offset: size.unwrap_or(progress.offset),
                rate: 0,
                is_this_node: false,
            });
        }
    }
    let nodes = said.iter().map(|progress| TreeNode {
        name: progress.name.clone(),
        source: match &progress.source {
            ProgressSource::Registry => TreeSource::Registry,
            ProgressSource::Node(id, _) => {
                let place = places.get(id.as_str());
                place.map_or(TreeSource::Waiting, |place| TreeSource::Node(*place))
            }
            ProgressSource::Unknown if progress.is_complete() => TreeSource::Complete,
            ProgressSource::Unknown => TreeSource::Waiting,
        },
        offset: progress.offset,
        rate: progress.rate,
        is_this_node: progress.is_this_node,
    });
    nodes.chain(silent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_hangs_together_by_what_each_node_says() {
        let says = |id: &str, offset, source| Progress {
            id: id.into(),
            name: format!("node-{id}"),
            offset,
            size: Some(100),
            source,
            ..Progress::default()
        };
        let of = |id: &str| ProgressSource::Node(id.into(), format!("10.0.0.{id}"));
        let tree = tree(&[
            says("1", 60, ProgressSource::Registry),
            says("2", 50, of("1")),
            says("3", 40, of("9")),
            says("4", 100, ProgressSource::Unknown),
            says("5", 0, ProgressSource::Unknown),
            says("6", 30, of("9")),
        ]);
        let sources: Vec<_> = tree.iter().map(|node| node.source).collect();
        use TreeSource::{Complete, Node, Registry, Waiting};
        assert_eq!(
            sources,
            [
                Registry,
                Node(0),
                Node(6),
                Complete,
                Waiting,
                Node(6),
                Complete
            ]
        );
        assert_eq!((tree[6].name.as_str(), tree[6].offset), ("10.0.0.9", 100));
    }
}
