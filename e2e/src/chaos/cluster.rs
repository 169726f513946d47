//! The nodes that pull, and their registry.

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

/// What the registry may send, in Mbit/s.
pub(super) const UPLINK: u32 = 200;
/// The sizes of the file systems for containerd and for the mirror, in bytes.
const STORE: u64 = 2 << 30;
const DATA: u64 = 1 << 20;
/// The host of hostile members and that of silent clients: the last part of their addresses.
const HOSTILE: u8 = 40;
const OUTSIDE: u8 = 41;
/// The port of the mirrors' registries.
pub(super) const REGISTRY_PORT: u16 = 5000;
/// The port of their routers.
const ROUTER_PORT: u16 = 5001;

/// How many nodes there are, and what runs on them.
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
    /// Blobs that were damaged on a node's disk.
    pub(super) damaged: Lock<HashSet<(NodeNumber, String)>>,
    /// Whether hostile members ask to lead what is pulled.
    pub(super) is_led: AtomicBool,
    /// Programs that ended by themselves.
    ended: AtomicUsize,
}

/// What a mirror uses.
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

    /// As references name the registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Puts an image into the registry; hostile members say that they have it.
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

    /// Starts again what has ended by itself, as a kubelet does, and counts it.
    pub async fn supervise(&self) -> Result<()> {
        for (number, node) in self.nodes.iter().enumerate() {
            // One that is being broken or mended is looked at next time.
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
                // Its disk may be full; it is tried again.
                let _ = node.restart_containerd().await;
            }
        }
        Ok(())
    }

    /// Mirrors that ended by themselves.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }

    /// How many files of the image the node holds whose bytes are not the image's. What was damaged on purpose does not
    /// count.
    pub fn wrong_blobs(&self, node: NodeNumber, image: &Image) -> usize {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = self.contents[node].join("blobs/sha256");
        let is_wrong = |blob: &&Blob| {
            // One that is not there was removed in the meantime.
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

    /// What each mirror uses now.
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

/// Descriptors that a process has open.
pub(super) fn descriptors(pid: Pid) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()))?.count())
}
