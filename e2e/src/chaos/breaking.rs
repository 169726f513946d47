//! Breaks and repairs things.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::bad_server::Behaviour;
use super::cluster::{Cluster, NODES, REGISTRY_PORT, UPLINK, descriptors};
use super::fault::{Fault, Kind, NodeNumber};

/// The bandwidth of the registry while its link is slow, in Mbit/s.
const SLOW_UPLINK: u32 = 20;
/// The bandwidth of a node's slow link, in Mbit/s.
const SLOW_LINK: u32 = 16;
/// The number of further descriptors for a mirror without any.
const SPARE: u64 = 2;
/// The number of connections of silent clients.
const SILENT: usize = 1_100;
/// The limit for establishing one of them.
const CONNECT_LIMIT: Duration = Duration::from_millis(250);

impl Cluster {
    /// Begins a fault.
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
            Kind::InboundDropped => self.node(number).await.host.set_inbound_dropped(true)?,
            Kind::OutboundDropped => self.node(number).await.host.set_outbound_dropped(true)?,
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
                    // An image that is being pulled may be missing.
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

    /// Ends a fault and repairs its effects.
    pub async fn end(&self, fault: Fault) -> Result<()> {
        let number = fault.node;
        match fault.kind {
            Kind::ContainerdKilled => self.node(number).await.restart_containerd().await?,
            Kind::RegistryKilled => self.lab.lock().await.upstream.revive()?,
            Kind::LinkCut => self.node(number).await.host.reconnect()?,
            Kind::RegistryCut => self.lab.lock().await.upstream.host().reconnect()?,
            Kind::LinkSlow | Kind::InboundDropped | Kind::OutboundDropped => {
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

    async fn open_silent(&self, number: NodeNumber) -> Result<()> {
        let address = self.node(number).await.host.address;
        let open = || {
            let connect =
                |_| TcpStream::connect_timeout(&(address, REGISTRY_PORT).into(), CONNECT_LIMIT);
            // Connections that are not accepted do not count.
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
        match change_byte(&path) {
            // It was removed since it was listed.
            Err(_) if !path.exists() => Ok(()),
            damaged => damaged,
        }
    }
}

/// Limits the descriptors of a process to this number, or removes the limit.
fn limit_descriptors(pid: Pid, most: Option<u64>) -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = most.or(maximum);
    Ok(prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum }).map(drop)?)
}

/// Changes a byte in the middle of a file.
fn change_byte(path: &Path) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let middle = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle)?;
    Ok(file.write_all_at(&[!byte[0]], middle)?)
}
