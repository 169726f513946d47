//! The nodes that pull, their registry, and what breaks them.

use std::collections::HashSet;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex as Lock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use tokio::sync::Mutex;

use super::fault::{Fault, Kind, NodeNumber};
use super::hostile::{Behaviour, Hostile};
use super::mount::Mount;
use crate::containerd::Generation;
use crate::cri::Cri;
use crate::image::{Blob, Image};
use crate::lab::{Lab, Settings};
use crate::network::Host;
use crate::node::Node;
use crate::process::memory;
use crate::wait;

/// What the registry may send, in Mbit/s; and while its link is slow.
const UPLINK: u32 = 200;
const SLOW_UPLINK: u32 = 20;
/// What a node's slow link carries, in Mbit/s.
const SLOW_LINK: u32 = 16;
/// The sizes of the file systems for containerd and for the mirror, in bytes.
const STORE: u64 = 1 << 30;
const DATA: u64 = 1 << 20;
/// Descriptors that a mirror without any may open.
const SPARE: u64 = 2;
/// Connections of clients that send nothing.
const SILENT: usize = 1_100;
/// How long one of them may take to come up.
const CONNECT_LIMIT: Duration = Duration::from_millis(250);
/// The host of hostile members and that of silent clients: the last part of their addresses.
const HOSTILE: u8 = 40;
const OUTSIDE: u8 = 41;
/// The port of the mirrors' registries.
const REGISTRY_PORT: u16 = 5000;
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
    cris: Vec<Cri>,
    contents: Vec<PathBuf>,
    hostile: Option<Hostile>,
    outside: Host,
    silent: Lock<Vec<(NodeNumber, TcpStream)>>,
    stores: Vec<Mount>,
    data: Vec<Mount>,
    lab: Mutex<Lab>,
    registry: String,
    /// Blobs that were damaged on a node's disk.
    damaged: Lock<HashSet<(NodeNumber, String)>>,
    /// Whether hostile members ask to lead what is pulled.
    is_led: AtomicBool,
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

    /// Lets something break.
    pub async fn begin(&self, fault: Fault) -> Result<()> {
        let number = fault.node;
        match fault.kind {
            Kind::ContainerdKilled => self.node(number).await.containerd.kill_and_wait(),
            Kind::RegistryKilled => self.lab.lock().await.upstream.kill_process()?,
            Kind::LinkCut => self.node(number).await.host.cut()?,
            Kind::RegistryCut => self.lab.lock().await.upstream.host().cut()?,
            Kind::LinkSlow => {
                let node = self.node(number).await;
                node.host.limit_sending(SLOW_LINK)?;
                node.host.limit_receiving(SLOW_LINK)?;
            }
            Kind::RegistrySlow => {
                self.lab
                    .lock()
                    .await
                    .upstream
                    .host()
                    .limit_sending(SLOW_UPLINK)?;
            }
            Kind::LinkDeaf => self.node(number).await.host.set_deaf(true)?,
            Kind::LinkMute => self.node(number).await.host.set_mute(true)?,
            Kind::StoreFull => self.stores[number].fill()?,
            Kind::MirrorKilled => drop(self.node(number).await.take_mirror()?),
            Kind::AllMirrorsKilled => {
                for number in 0..NODES {
                    drop(self.node(number).await.take_mirror()?);
                }
            }
            Kind::NoDescriptors => {
                let pid = self.mirror(number).await?;
                let open = descriptors(pid)? as u64;
                limit_descriptors(pid, Some(open + SPARE))?;
            }
            Kind::SilentClients => self.open_silent(number).await?,
            Kind::DataFull => self.data[number].fill()?,
            Kind::DataReadOnly => self.data[number].set_read_only(true)?,
            Kind::ImagesRemoved => {
                for name in self.cris[number].images().await? {
                    // One that is being pulled may not be there any more.
                    let _ = self.cris[number].remove(&name).await;
                }
            }
            Kind::LayerDamaged => self.damage(number)?,
            Kind::HostilePeers(behaviour) => self.hostile()?.behave(behaviour),
            Kind::HangingLeads => self.is_led.store(true, Ordering::Relaxed),
            Kind::ForgedMessages => self.hostile()?.forge(true),
        }
        Ok(())
    }

    /// Mends what broke.
    pub async fn end(&self, fault: Fault) -> Result<()> {
        let number = fault.node;
        match fault.kind {
            Kind::ContainerdKilled => self.node(number).await.restart_containerd().await?,
            Kind::RegistryKilled => self.lab.lock().await.upstream.revive()?,
            Kind::LinkCut => self.node(number).await.host.reconnect()?,
            Kind::RegistryCut => self.lab.lock().await.upstream.host().reconnect()?,
            Kind::LinkSlow | Kind::LinkDeaf | Kind::LinkMute => {
                self.node(number).await.host.unlimit()?;
            }
            Kind::RegistrySlow => {
                self.lab
                    .lock()
                    .await
                    .upstream
                    .host()
                    .limit_sending(UPLINK)?;
            }
            Kind::StoreFull => self.stores[number].empty()?,
            Kind::MirrorKilled => self.node(number).await.start_mirror()?,
            Kind::AllMirrorsKilled => {
                for number in 0..NODES {
                    self.node(number).await.start_mirror()?;
                }
            }
            Kind::NoDescriptors => limit_descriptors(self.mirror(number).await?, None)?,
            Kind::SilentClients => {
                let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
                silent.retain(|(to, _)| *to != number);
            }
            Kind::DataFull => self.data[number].empty()?,
            Kind::DataReadOnly => self.data[number].set_read_only(false)?,
            Kind::ImagesRemoved | Kind::LayerDamaged => {}
            Kind::HostilePeers(_) => self.hostile()?.behave(Behaviour::Honest),
            Kind::HangingLeads => self.is_led.store(false, Ordering::Relaxed),
            Kind::ForgedMessages => self.hostile()?.forge(false),
        }
        Ok(())
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

    async fn node(&self, number: NodeNumber) -> tokio::sync::MutexGuard<'_, Node> {
        self.nodes[number].lock().await
    }

    async fn mirror(&self, number: NodeNumber) -> Result<Pid> {
        let mut node = self.node(number).await;
        node.running_mirror().context("no mirror runs")?.pid()
    }

    fn hostile(&self) -> Result<&Hostile> {
        self.hostile.as_ref().context("no hostile members")
    }

    async fn open_silent(&self, number: NodeNumber) -> Result<()> {
        let address = self.node(number).await.host.address;
        let open = || {
            let connect =
                |_| TcpStream::connect_timeout(&(address, REGISTRY_PORT).into(), CONNECT_LIMIT);
            // Those that are not accepted are none.
            Ok((0..SILENT)
                .map(connect)
                .map_while(Result::ok)
                .collect::<Vec<_>>())
        };
        let opened = self.outside.inside(open)?;
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.extend(opened.into_iter().map(|stream| (number, stream)));
        Ok(())
    }

    /// Changes a byte in the middle of the largest blob that the node holds.
    fn damage(&self, node: NodeNumber) -> Result<()> {
        let mut largest: Option<(u64, PathBuf)> = None;
        for entry in fs::read_dir(self.contents[node].join("blobs/sha256"))? {
            let path = entry?.path();
            // It may have been removed since it was listed.
            let size = fs::metadata(&path).map_or(0, |found| found.len());
            if largest.as_ref().is_none_or(|(most, _)| size > *most) {
                largest = Some((size, path));
            }
        }
        let Some((_, path)) = largest else {
            return Ok(());
        };
        let hex = path
            .file_name()
            .context("a blob's name")?
            .to_string_lossy()
            .into_owned();
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.insert((node, hex));
        crate::containerd::damage(&path)
    }
}

/// A run holds thousands of connections.
fn raise_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

/// Lets a process have no more descriptors than this, or as many as it may.
fn limit_descriptors(pid: Pid, most: Option<u64>) -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = most.or(maximum);
    Ok(prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum }).map(drop)?)
}

fn descriptors(pid: Pid) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()))?.count())
}
