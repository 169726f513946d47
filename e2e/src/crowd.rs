//! Many clients of a mirror: clients that read slowly and clients that send random bytes, from another host, while the
//! node's own containerd pulls.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::chaos::Random;
use crate::containerd::Generation;
use crate::image::Image;
use crate::lab::{Lab, Settings};
use crate::mirror::REGISTRY_PORT;
use crate::network::Host;
use crate::node::Node;
use crate::process::raise_descriptors;
use crate::wait::until;

/// The limit of the mirror's descriptors.
const DESCRIPTORS: u32 = 1024;
/// The bytes that a slow client reads at a time, and the interval.
const SIP: usize = 1 << 10;
const SIP_EVERY: Duration = Duration::from_secs(1);
/// The pause before a refused client connects again.
const COME_AGAIN: Duration = Duration::from_secs(1);
/// The number of concurrent clients that send random bytes.
const NOISY: usize = 2;
/// The bytes that one of them sends on a connection, and how long it waits for the end.
const NOISE: usize = 4 << 10;
const NOISE_LIMIT: Duration = Duration::from_millis(200);
/// The size of the slow clients' object, in bytes: more than any buffer.
const BIG: usize = 32 << 20;
/// The layers of the images that containerd pulls meanwhile.
const PULLED: [usize; 3] = [2 << 20, 1 << 20, 1 << 20];
/// The number of images to pull.
const IMAGES: usize = 4;
const OUTSIDE: u8 = 41;

/// What containerd achieved under the load, and the mirror's resources.
#[derive(Clone, Copy, Debug)]
pub struct Managed {
    pub pulls: u32,
    /// The longest pull.
    pub longest: Duration,
    /// The most resident memory of the mirror, in bytes.
    pub memory: u64,
    /// The number of slow clients being served at the end.
    pub served: u64,
}

/// Runs this many slow clients against a node for a time, with a mirror on it or without.
pub async fn under_crowd(
    logs: PathBuf,
    has_mirror: bool,
    clients: usize,
    time: Duration,
) -> Result<Managed> {
    let lab = Lab::new(logs).await?;
    let settings = Settings {
        secret: true,
        checks: true,
        descriptors: Some(DESCRIPTORS),
        plain: !has_mirror,
        ..Settings::default()
    };
    raise_descriptors()?;
    let [mut node] = lab.start_nodes_with(Generation::V1_7, settings).await?;
    let big = lab.upstream.push("crowd/big", "v1", &[BIG])?;
    node.pull(&big).await?;
    let image = |number| {
        lab.upstream
            .push("crowd/app", &format!("v{number}"), &PULLED)
    };
    let images = (0..IMAGES).map(image).collect::<Result<Vec<_>>>()?;

    let outside = lab.add_host("outside", OUTSIDE)?;
    let crowd = Crowd::start(
        &outside,
        (node.host.address, REGISTRY_PORT).into(),
        &big,
        clients,
    )?;
    if has_mirror {
        let served = async || Ok(crowd.served.load(Ordering::Relaxed) > 0);
        until("a slow client to be served", served).await?;
    }
    let (ended, watched) = (
        Instant::now() + time,
        node.running_mirror().map(|m| m.pid()),
    );
    let watched = watched.transpose()?;
    let memory = Arc::new(AtomicU64::new(0));
    let most = memory.clone();
    let watch = tokio::spawn(async move {
        while let Some(pid) = watched {
            if let Ok(now) = crate::process::memory(pid) {
                most.fetch_max(now, Ordering::Relaxed);
            }
            sleep(Duration::from_millis(100)).await;
        }
    });
    let (pulls, longest) = pull_until(&node, &images, ended).await?;
    watch.abort();
    let served = crowd.served.load(Ordering::Relaxed);
    crowd.end()?;
    Ok(Managed {
        pulls,
        longest,
        memory: memory.load(Ordering::Relaxed),
        served,
    })
}

/// Pulls one image after the other, and removes it again.
async fn pull_until(node: &Node, images: &[Image], end: Instant) -> Result<(u32, Duration)> {
    let (mut pulls, mut longest) = (0, Duration::ZERO);
    for image in images.iter().cycle() {
        if Instant::now() >= end {
            break;
        }
        let begin = Instant::now();
        node.pull(image).await.context("under the crowd")?;
        longest = longest.max(begin.elapsed());
        pulls += 1;
        node.containerd.cri.remove(&image.by_tag()).await?;
    }
    ensure!(pulls > 0, "no pull ended in time");
    Ok((pulls, longest))
}

/// Clients on another host.
struct Crowd {
    /// The number of slow clients being served.
    served: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    stop: tokio::sync::oneshot::Sender<()>,
    ended: mpsc::Receiver<()>,
}

impl Crowd {
    fn start(host: &Host, to: SocketAddr, image: &Image, clients: usize) -> Result<Crowd> {
        let served = Arc::new(AtomicU64::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (end, ended) = mpsc::channel();
        let layer = image.blobs.last().context("a layer")?;
        let request = format!(
            "GET /v2/{}/blobs/{}?ns={} HTTP/1.1\r\nHost: {to}\r\nX-Spegel-Mirrored: true\r\n\r\n",
            image.repository, layer.digest, image.registry
        );
        let counted = served.clone();
        let over = is_over.clone();
        host.spawn_inside(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.expect("a runtime for the crowd");
            runtime.block_on(async {
                let mut crowd = JoinSet::new();
                for _ in 0..clients {
                    let (request, counted) = (request.clone(), counted.clone());
                    crowd.spawn(async move { slow_client(to, &request, &counted).await });
                }
                // Until the other side sends it, or is gone.
                let _ = stopped.await;
                crowd.abort_all();
            });
            drop(end);
        })?;
        for number in 0..NOISY {
            let over = over.clone();
            host.spawn_inside(move || noisy_client(to, number as u64, &over))?;
        }
        Ok(Crowd {
            served,
            is_over,
            stop,
            ended,
        })
    }

    fn end(self) -> Result<()> {
        self.is_over.store(true, Ordering::Relaxed);
        // The task waits for this before it ends.
        let _ = self.stop.send(());
        let ended = self.ended.recv_timeout(Duration::from_secs(20));
        ensure!(
            ended == Err(mpsc::RecvTimeoutError::Disconnected),
            "the crowd does not end"
        );
        Ok(())
    }
}

async fn slow_client(to: SocketAddr, request: &str, served: &AtomicU64) {
    loop {
        // Whatever the result, it connects again.
        let _ = sip(to, request, served).await;
        sleep(COME_AGAIN).await;
    }
}

async fn sip(to: SocketAddr, request: &str, served: &AtomicU64) -> Result<()> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    // A small receive buffer.
    socket.set_recv_buffer_size(4 << 10)?;
    let mut stream: TcpStream = socket.connect(to).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = vec![0; SIP];
    let first = stream.read(&mut buffer).await?;
    if !buffer[..first].starts_with(b"HTTP/1.1 200") {
        return Ok(());
    }
    served.fetch_add(1, Ordering::Relaxed);
    let drunk = async {
        while stream.read(&mut buffer).await? > 0 {
            sleep(SIP_EVERY).await;
        }
        Ok(())
    };
    let drunk = drunk.await;
    served.fetch_sub(1, Ordering::Relaxed);
    drunk
}

/// Sends random bytes over one connection after the other.
fn noisy_client(to: SocketAddr, seed: u64, is_over: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime for noise");
    let mut random = Random::new(seed);
    runtime.block_on(async {
        while !is_over.load(Ordering::Relaxed) {
            let noise = random.bytes(NOISE);
            let shout = async {
                let mut stream = TcpStream::connect(to).await?;
                stream.write_all(&noise).await?;
                stream.read(&mut [0; 16]).await
            };
            if timeout(NOISE_LIMIT, shout).await.is_err() {
                continue;
            }
            // Yields to other tasks.
            tokio::task::yield_now().await;
        }
    });
}
