//! The pulling nodes, and their registry.

use std::collections::HashSet;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex as Lock, PoisonError};

use anyhow::{Context, Result};
use rustix::process::Pid;
use tokio::sync::Mutex;

use super::fault::NodeNumber;
use super::hostile::Hostile;
use super::mount::Mount;
use crate::containerd::Generation;
use crate::cri::Cri;
use crate::image::{Blob, Image};
use crate::lab::{Lab, Settings};
use crate::network::Host;
use crate::node::Node;
use crate::process::{memory, raise_descriptors};
use crate::wait;

/// The bandwidth of the registry, in Mbit/s.
pub(super) const UPLINK: u32 = 200;
/// The sizes of the file systems for containerd and for the mirror, in bytes.
const STORE: u64 = 2 << 30;
const DATA: u64 = 1 << 20;
/// The last part of the addresses of the hosts of hostile members and of silent clients.
const HOSTILE: u8 = 40;
const OUTSIDE: u8 = 41;
/// The port of the mirrors' registries.
pub(super) const REGISTRY_PORT: u16 = 5000;
/// The port of the mirrors' routers.
const ROUTER_PORT: u16 = 5001;

/// The containerd of each node.
const GENERATIONS: [Generation; 5] = [
    Generation::V2,
    Generation::V1_7,
    Generation::V2,
    Generation::V1_6,
    Generation::V2,
];
pub const NODES: usize = GENERATIONS.len();

/// A cluster. Parts are dropped in order: processes before what they run on.
pub struct Cluster {
    nodes: Vec<Mutex<Node>>,
    pub(super) cris: Vec<Cri>,
    pub(super) contents: Vec<PathBuf>,
    hostile: Option<Hostile>,
    pub(super) outside: Host,
    pub(super) silent: Lock<Vec<(NodeNumber, TcpStream)>>,
    pub(super) stores: Vec<Mount>,
    pub(super) data: Vec<Mount>,
    pub(super) lab: Mutex<Lab>,
    registry: String,
    /// The blobs that were damaged on nodes' disks.
    pub(super) damaged: Lock<HashSet<(NodeNumber, String)>>,
    /// Whether hostile members request the leads of what is pulled.
    pub(super) is_led: AtomicBool,
    /// The number of programs that ended unexpectedly.
    ended: AtomicUsize,
}

/// The resources that a mirror uses.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    pub descriptors: usize,
    /// Resident memory in bytes.
    pub memory: u64,
}

impl Cluster {
    /// Starts the nodes, with mirrors or without, and waits until they are ready.
    pub async fn start(logs: PathBuf, has_mirrors: bool) -> Result<Cluster> {
        raise_descriptors()?;
        let lab = Lab::new(logs).await?;
        let (mut stores, mut data) = (Vec::new(), Vec::new());
        for number in 0..NODES {
            let folder = lab.folder(&Lab::node_name(number))?;
            stores.push(Mount::new(&folder.join("root"), STORE)?);
            data.push(Mount::new(&folder.join("data"), DATA)?);
        }
        let settings = Settings {
            secret: true,
            checks: true,
            plain: !has_mirrors,
            ..Settings::default()
        };
        let nodes = lab.start_nodes_of(GENERATIONS, settings).await?;
        let hostile = match has_mirrors {
            true => {
                let host = lab.add_host("hostile", HOSTILE)?;
                let router = |node: &Node| (node.host.address, ROUTER_PORT).into();
                let routers = nodes.iter().map(router).collect();
                Some(Hostile::start(host, routers, lab.folder("hostile")?)?)
            }
            false => None,
        };
        lab.upstream.host().limit_sending(UPLINK)?;
        Ok(Cluster {
            cris: nodes
                .iter()
                .map(|node| node.containerd.cri.clone())
                .collect(),
            contents: nodes.iter().map(|node| node.containerd.content()).collect(),
            nodes: nodes.into_iter().map(Mutex::new).collect(),
            hostile,
            outside: lab.add_host("outside", OUTSIDE)?,
            silent: Lock::default(),
            stores,
            data,
            registry: lab.upstream.name(),
            lab: Mutex::new(lab),
            damaged: Lock::default(),
            is_led: AtomicBool::new(false),
            ended: AtomicUsize::new(0),
        })
    }

    /// The name of the registry in references.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Puts an image into the registry; hostile members announce that they have it.
    pub async fn publish(&self, image: &Image) -> Result<()> {
        self.lab.lock().await.upstream.store(image)?;
        if let Some(hostile) = &self.hostile {
            hostile.announce(image)?;
            if self.is_led.load(Ordering::Relaxed) {
                hostile.lead(image)?;
            }
        }
        Ok(())
    }

    /// A client of a node's containerd.
    pub fn cri(&self, node: NodeNumber) -> &Cri {
        &self.cris[node]
    }

    /// Restarts programs that have ended unexpectedly, as a kubelet does, and counts them.
    pub async fn supervise(&self) -> Result<()> {
        for (number, node) in self.nodes.iter().enumerate() {
            // A node that is being broken or repaired is checked next time.
            let Ok(mut node) = node.try_lock() else {
                continue;
            };
            if let Some(mirror) = node.running_mirror()
                && mirror.has_ended()?
            {
                self.ended.fetch_add(1, Ordering::Relaxed);
                println!("the mirror of node {number} ended by itself");
                node.start_mirror()?;
            }
            if node.containerd.has_ended()? {
                println!("the containerd of node {number} ended by itself");
                // Its disk may be full; it is retried.
                let _ = node.restart_containerd().await;
            }
        }
        Ok(())
    }

    /// The number of mirrors that ended unexpectedly.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }

    /// The number of the node's files of the image whose bytes are wrong. Deliberate damage does not count.
    pub fn wrong_blobs(&self, node: NodeNumber, image: &Image) -> usize {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = self.contents[node].join("blobs/sha256");
        let is_wrong = |blob: &&Blob| {
            // A missing file was removed meanwhile.
            let held = fs::read(folder.join(blob.hex()));
            held.is_ok_and(|held| held != blob.bytes)
                && !damaged.contains(&(node, blob.hex().to_owned()))
        };
        image
            .blobs
            .iter()
            .chain([&image.manifest])
            .filter(is_wrong)
            .count()
    }

    /// The present resources of each mirror.
    pub async fn levels(&self) -> Result<Vec<Level>> {
        let mut levels = Vec::new();
        for number in 0..NODES {
            let pid = self.mirror(number).await?;
            let memory = memory(pid)?;
            levels.push(Level {
                descriptors: descriptors(pid)?,
                memory,
            });
        }
        Ok(levels)
    }

    /// Waits until a node's containerd answers.
    pub async fn answers(&self, node: NodeNumber) -> Result<()> {
        wait::until("containerd to answer", async || {
            self.cris[node].images().await.map(|_| true)
        })
        .await
    }

    pub(super) async fn node(&self, number: NodeNumber) -> tokio::sync::MutexGuard<'_, Node> {
        self.nodes[number].lock().await
    }

    pub(super) async fn mirror(&self, number: NodeNumber) -> Result<Pid> {
        let mut node = self.node(number).await;
        node.running_mirror().context("no mirror runs")?.pid()
    }

    pub(super) fn hostile(&self) -> Result<&Hostile> {
        self.hostile.as_ref().context("no hostile members")
    }
}

/// The number of open descriptors of a process.
pub(super) fn descriptors(pid: Pid) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()))?.count())
}
