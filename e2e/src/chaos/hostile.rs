//! Members of the cluster that claim to hold every object, and serve it with the chosen misbehaviour.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow};
use mirror::serve::ConnectionLimits;
use mirror::{Flights as _, Router as _, SourceRequest};
use oci::{Digest, Key};
use swarm::{Bootstrap, Config, PeerAddress};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::bad_server::{Behaviour, Objects, serve};
use super::forger;
use crate::image::Image;
use crate::network::Host;

/// The router port of the first member on the hostile host; the others have the following ports.
const FIRST_ROUTER: u16 = 5001;
const MEMBERS: u16 = 3;
/// The port at which all of them serve, as mirrors do.
const REGISTRY: u16 = 5000;
/// The most objects held in memory.
const MAX_OBJECTS: usize = 512;

/// The orders to the members.
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
    /// Starts the members on the host; they join the cluster through the routers of the nodes. The first keeps its key
    /// in `folder`.
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

    /// Announces that every member holds the whole image.
    pub fn announce(&self, image: &Image) -> Result<()> {
        let blobs = || image.blobs.iter().chain([&image.manifest]);
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if objects.len() > MAX_OBJECTS {
            objects.clear();
        }
        for blob in blobs() {
            objects.insert(blob.digest.clone(), Arc::new(blob.bytes.clone()));
        }
        self.order(Order::Announce(blobs().map(|b| b.digest.clone()).collect()))
    }

    /// Requests the lead of each object of the image.
    pub fn lead(&self, image: &Image) -> Result<()> {
        self.order(Order::Lead(
            image.blobs.iter().map(|b| b.digest.clone()).collect(),
        ))
    }

    /// Sets the behaviour from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// Starts or stops sending forged messages.
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
        // The other end notices that this one is gone.
        self.is_forging = watch::Sender::new(false);
        if let Some(thread) = self.thread.take() {
            // It has logged the reason if it panicked.
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
            node_name: "hostile".to_owned(),
            listen: format!(":{port}")
                .parse()
                .context("an address to listen on")?,
            registry_port: REGISTRY,
            data_dir: (port == FIRST_ROUTER).then(|| folder.clone()),
            bootstrap: Bootstrap::Static {
                peers: peers.clone(),
            },
            flights: true,
            network_keys: None,
            peer_tls: None,
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
                        // Nothing follows the answer, whatever it is.
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

/// Forges messages once there is a key for signing.
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
