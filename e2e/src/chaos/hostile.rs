//! Members of the cluster that say that they hold every object, and serve it as badly as is wanted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use mirror::serve::ConnectionLimits;
use mirror::{Flights as _, Router as _, SourceRequest};
use oci::{Digest, Key};
use swarm::{Bootstrap, Config, PeerAddress};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::forger;
use super::random::Random;
use crate::gate::read_head;
use crate::image::Image;
use crate::network::Host;

/// Members on the hostile host: the first listens for peers here, the others on the ports after it.
const FIRST_ROUTER: u16 = 5001;
const MEMBERS: u16 = 3;
/// Where all of them serve, as mirrors do.
const REGISTRY: u16 = 5000;
/// Bytes of an answer that trickles, and the time between them.
const DROP: usize = 1 << 10;
const PAUSE: Duration = Duration::from_millis(100);
/// Where an endless body ends all the same, in blocks.
const ENDLESS: usize = 4 << 10;
/// Bytes that are made up at a time.
const BLOCK: usize = 64 << 10;
/// Objects that are held in memory.
const MOST_OBJECTS: usize = 512;

/// How requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behaviour {
    /// 404, though the object was announced.
    Honest,
    /// Noise in place of a head.
    Garbage,
    /// The first half of the object.
    Truncated,
    /// The object and then noise without an end.
    Endless,
    /// The object, at 10 KiB/s.
    Trickling,
    /// Other bytes, as many as the object has.
    WrongBytes,
    /// A head that says another size, and as much noise.
    WrongSize,
    /// A sound head without a body.
    Byteless,
    /// Nothing.
    Silent,
    /// The first third of the object, then a reset.
    Reset,
}

type Objects = Arc<Mutex<HashMap<String, Arc<Vec<u8>>>>>;

/// What the members are told to do.
enum Order {
    Announce(Vec<String>),
    Lead(Vec<String>),
}

/// A host full of hostile members.
pub struct Hostile {
    objects: Objects,
    behaviour: watch::Sender<Behaviour>,
    is_forging: watch::Sender<bool>,
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<thread::JoinHandle<()>>,
    /// Dropped after what runs on it.
    _host: Host,
}

impl Hostile {
    /// Starts the members on the host; they join the cluster of the nodes, by the addresses of their routers. The first
    /// keeps its key in `folder`.
    pub fn start(host: Host, nodes: Vec<SocketAddr>, folder: PathBuf) -> Result<Hostile> {
        let objects = Objects::default();
        let (behaviour, watched) = watch::channel(Behaviour::Honest);
        let (orders, received) = mpsc::unbounded_channel();
        let (is_forging, forging) = watch::channel(false);
        let address = host.address;
        let served = objects.clone();
        let thread = host.spawn_inside(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build();
            let ended = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
                runtime.block_on(async {
                    let listener = TcpListener::bind((address, REGISTRY)).await?;
                    let serving = tokio::spawn(serve(listener, served, watched));
                    let key = folder.join("private.key");
                    let members = members(&nodes, folder, received);
                    let forger = forger_of(&key, nodes.clone(), forging);
                    let (members, forger) = futures::join!(members, forger);
                    serving.abort();
                    members.and(forger)
                })
            });
            if let Err(error) = ended {
                println!("the hostile members failed: {error:#}");
            }
        })?;
        Ok(Hostile {
            objects,
            behaviour,
            is_forging,
            orders: Some(orders),
            thread: Some(thread),
            _host: host,
        })
    }

    /// Says that every member holds all of the image.
    pub fn announce(&self, image: &Image) -> Result<()> {
        let blobs = || image.blobs.iter().chain([&image.manifest]);
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if objects.len() > MOST_OBJECTS {
            objects.clear();
        }
        for blob in blobs() {
            objects.insert(blob.digest.clone(), Arc::new(blob.bytes.clone()));
        }
        self.order(Order::Announce(blobs().map(|b| b.digest.clone()).collect()))
    }

    /// Asks to lead each object of the image, for everybody.
    pub fn lead(&self, image: &Image) -> Result<()> {
        self.order(Order::Lead(
            image.blobs.iter().map(|b| b.digest.clone()).collect(),
        ))
    }

    /// Answers in this way from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// Sends forged messages from now on, or no more.
    pub fn forge(&self, is_forging: bool) {
        self.is_forging.send_replace(is_forging);
    }

    fn order(&self, order: Order) -> Result<()> {
        let orders = self.orders.as_ref().context("the members have left")?;
        orders
            .send(order)
            .map_err(|_| anyhow!("the hostile members have ended"))
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.orders = None;
        // Its other end sees that this one is gone.
        self.is_forging = watch::Sender::new(false);
        if let Some(thread) = self.thread.take() {
            // It has said why, if it panicked.
            let _ = thread.join();
        }
    }
}

/// Runs the members until no more orders can come.
async fn members(
    nodes: &[SocketAddr],
    folder: PathBuf,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> Result<()> {
    let mut members = Vec::new();
    let peers = nodes
        .iter()
        .map(|node| node.to_string().parse::<PeerAddress>());
    let peers: Vec<_> = peers
        .collect::<Result<_, _>>()
        .context("the addresses to join at")?;
    for port in (FIRST_ROUTER..).take(MEMBERS.into()) {
        let config = Config {
            listen: format!(":{port}")
                .parse()
                .context("an address to listen on")?,
            registry_port: REGISTRY,
            data_dir: (port == FIRST_ROUTER).then(|| folder.clone()),
            bootstrap: Bootstrap::Static {
                peers: peers.clone(),
            },
            flights: true,
            connections: ConnectionLimits::default(),
        };
        let mut metrics = prometheus_client::registry::Registry::default();
        members.push(swarm::bind(config, &mut metrics).await?.spawn());
    }
    let mut leads = JoinSet::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Announce(digests) => {
                for (router, _) in &members {
                    let keys = digests
                        .iter()
                        .filter_map(|text| Some(Key::Digest(text.parse().ok()?)));
                    router.announce(keys.collect()).await;
                }
            }
            Order::Lead(digests) => {
                for text in digests {
                    let digest: Digest = text.parse().context("a digest")?;
                    for (router, _) in &members {
                        let (router, request) = (
                            router.clone(),
                            SourceRequest::new(&digest.to_string(), None),
                        );
                        // Whatever the answer is, nothing follows it.
                        leads.spawn(async move { drop(router.request_source(request).await) });
                    }
                }
            }
        }
        while leads.try_join_next().is_some() {}
    }
    for (_, handle) in members {
        handle.shutdown().await;
    }
    Ok(())
}

/// Forges messages once there is a key to sign them with.
async fn forger_of(
    key: &Path,
    nodes: Vec<SocketAddr>,
    mut is_forging: watch::Receiver<bool>,
) -> Result<()> {
    if is_forging.wait_for(|forging| *forging).await.is_err() {
        return Ok(());
    }
    forger::run(key, nodes, is_forging).await
}

async fn serve(listener: TcpListener, objects: Objects, behaviour: watch::Receiver<Behaviour>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (objects, behaviour) = (objects.clone(), *behaviour.borrow());
        // What fails here is what a hostile server wants.
        connections.spawn(async move { answer(client, &objects, behaviour).await });
    }
}

async fn answer(mut client: TcpStream, objects: &Objects, behaviour: Behaviour) -> Result<()> {
    let Some((head, _)) = read_head(&mut client).await? else {
        return Ok(());
    };
    let is_head = head.starts_with("HEAD ");
    let path = head.split(' ').nth(1).unwrap_or_default();
    let digest = path
        .split(['/', '?'])
        .find(|part| part.starts_with("sha256:"));
    let digest = digest.unwrap_or_default();
    let object = objects
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(digest)
        .cloned();
    let (Some(object), true) = (object, behaviour != Behaviour::Honest) else {
        let nothing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return Ok(client.write_all(nothing.as_bytes()).await?);
    };
    let size = object.len();
    let offset = offset(&head).min(size);
    let told = match behaviour {
        Behaviour::WrongSize => size / 2 + 7,
        _ => size,
    };
    let status = match offset {
        0 => "200 OK".to_owned(),
        _ => {
            let last = told.saturating_sub(1);
            format!("206 Partial Content\r\nContent-Range: bytes {offset}-{last}/{told}")
        }
    };
    let length = match behaviour {
        Behaviour::Endless if !is_head => String::new(),
        _ => format!("Content-Length: {}\r\n", told.saturating_sub(offset)),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\n{length}Docker-Content-Digest: {digest}\r\n\
         Content-Type: application/octet-stream\r\nConnection: close\r\n\r\n"
    );
    match behaviour {
        Behaviour::Garbage => return Ok(client.write_all(&noise(size, BLOCK)).await?),
        Behaviour::Silent => {
            // Until the client has enough.
            let _ = read_head(&mut client).await;
            return Ok(());
        }
        _ => client.write_all(head.as_bytes()).await?,
    }
    if is_head {
        return Ok(());
    }
    let (rest, left) = (&object[offset..], told.saturating_sub(offset));
    match behaviour {
        Behaviour::Truncated => client.write_all(&rest[..rest.len() / 2]).await?,
        Behaviour::Reset => {
            client.write_all(&rest[..rest.len() / 3]).await?;
            client.set_zero_linger()?;
        }
        Behaviour::Trickling => {
            for drop in rest.chunks(DROP) {
                client.write_all(drop).await?;
                tokio::time::sleep(PAUSE).await;
            }
        }
        Behaviour::WrongBytes | Behaviour::WrongSize => {
            client.write_all(&noise(size, left)).await?;
        }
        Behaviour::Endless => {
            client.write_all(rest).await?;
            let block = noise(size, BLOCK);
            for _ in 0..ENDLESS {
                client.write_all(&block).await?;
            }
        }
        Behaviour::Byteless | Behaviour::Honest | Behaviour::Garbage | Behaviour::Silent => {}
    }
    Ok(())
}

fn noise(seed: usize, count: usize) -> Vec<u8> {
    Random::new(seed as u64).bytes(count)
}

/// Where the range of a request begins.
fn offset(head: &str) -> usize {
    let head = head.to_ascii_lowercase();
    let range = head.split("range: bytes=").nth(1);
    let first = range.and_then(|range| range.split('-').next()?.parse().ok());
    first.unwrap_or(0)
}
