//! A node of the demo: the parts of `peili registry --store layout`, on loopback ports.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mirror::serve::ConnectionLimits;
use mirror::{Access, Adapters, Limits, Mirror, Options, PeerId, PullThrough, Reader, Router as _};
use oci::{Digest, Filter, RegistryUrl};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use swarm::{Bootstrap, PeerAddress};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use upstream::Registries;

use crate::feeds::Recorded;
use crate::folder::Folder;
use crate::{DemoError, ShownNode};

/// Longer than the command line's default: these nodes share the cores of one machine, which may also be busy
/// otherwise, and an abandoned lookup shows as bytes from upstream.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// The default of the command line.
const ATTEMPTS: usize = 3;
/// The limit for all nodes to know each other.
const JOIN_LIMIT: Duration = Duration::from_secs(20);
/// The interval between checks of states without notifications.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The source of content that no peer has.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// The demo's own registry.
    Local(RegistryUrl),
    /// A real registry.
    Internet,
}

/// A node that runs until it is dropped.
pub(crate) struct Node {
    /// The node's number, from 1.
    pub(crate) number: usize,
    /// The address at which its containerd would ask it.
    pub(crate) registry: SocketAddr,
    router_port: u16,
    router: Arc<swarm::Router>,
    feeds: Arc<Recorded>,
    pub(crate) mirror: Arc<Mirror>,
    metrics: Arc<Registry>,
    _cluster: swarm::Handle,
    _tasks: JoinSet<()>,
    /// Closes the connections of its registry.
    _serving: DropGuard,
}

/// The defaults of `peili registry`, except for the time above.
pub(crate) fn mirror_options() -> Options {
    Options {
        access: Access {
            filter: Filter::default(),
            authorization: None,
            node_secret: None,
            network_keys: None,
            peer_tls: None,
            own_names: Vec::new(),
            resolve_tags: true,
        },
        reader: Reader::default(),
        limits: Limits {
            resolve_timeout: RESOLVE_TIMEOUT,
            attempts: ATTEMPTS,
        },
    }
}

impl Node {
    /// Starts a node that joins the existing ones.
    ///
    /// # Errors
    /// A port or a store cannot be opened.
    pub(crate) async fn start(
        number: usize,
        source: &Source,
        others: &[Self],
        folder: &mut Folder,
    ) -> Result<Self, DemoError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.map_err(DemoError::Listen)?;
        let registry = listener.local_addr().map_err(DemoError::Listen)?;
        let store = name(number);
        let (layout, mut metrics) = folder.open(&store, Registry::default()).await?;
        let config = swarm::Config {
            node_name: name(number),
            listen: mirror::ListenAddress {
                ip: Some(Ipv4Addr::LOCALHOST.into()),
                port: 0,
            },
            registry_port: registry.port(),
            data_dir: None,
            bootstrap: Bootstrap::Static {
                peers: others.iter().filter_map(Self::router_address).collect(),
            },
            flights: true,
            network_keys: None,
            peer_tls: None,
            connections: ConnectionLimits::default(),
        };
        let bound = swarm::bind(config, &mut metrics)
            .await
            .map_err(|source| DemoError::Router { number, source })?;
        let router_port = bound.port();
        let (router, cluster) = bound.spawn();

        let pull_through = PullThrough {
            intake: layout.clone(),
            upstream: Arc::new(Registries::new(upstream_options(source))?),
        };
        let feeds = Arc::new(Recorded::new(router.clone()));
        let parts = Adapters {
            store: layout,
            router: router.clone(),
            pull_through: Some(pull_through),
            checks: None,
            flights: Some(feeds.clone()),
        };
        let mut options = mirror_options();
        options.access.own_names = vec![name(number)];
        let mirror = Arc::new(Mirror::new(parts, options, &mut metrics));
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        let announcing = mirror.clone();
        tasks.spawn(async move { announcing.announce().await });
        tasks.spawn(mirror::serve::registry(
            listener,
            mirror.clone(),
            stop.clone(),
        ));
        Ok(Self {
            number,
            registry,
            router_port,
            router,
            feeds,
            mirror,
            metrics: Arc::new(metrics),
            _cluster: cluster,
            _tasks: tasks,
            _serving: stop.drop_guard(),
        })
    }

    /// An address and a port always form a peer's address.
    fn router_address(&self) -> Option<PeerAddress> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.router_port));
        address.to_string().parse().ok()
    }

    /// Waits until all nodes are members of its cluster.
    ///
    /// # Errors
    /// That took too long.
    pub(crate) async fn joined(&self, nodes: usize) -> Result<(), DemoError> {
        let members =
            || usize::try_from(self.number_of("peili_router_members")).unwrap_or(usize::MAX);
        let all = async {
            while members() < nodes || !self.router.health().is_ready() {
                sleep(LOOK_AGAIN).await;
            }
        };
        timeout(JOIN_LIMIT, all).await.map_err(|_| DemoError::Join {
            number: self.number,
            peers: members().saturating_sub(1),
            expected: nodes - 1,
        })
    }

    /// Its id for peers.
    pub(crate) fn id(&self) -> PeerId {
        self.router.id()
    }

    /// The node as shown on a page.
    pub(crate) fn shown(&self) -> ShownNode {
        ShownNode {
            name: name(self.number),
            id: self.id(),
            mirror: self.mirror.clone(),
            metrics: self.metrics.clone(),
            registry_port: self.registry.port(),
        }
    }

    /// The bytes of these complete objects (with their sizes) that came from each peer.
    pub(crate) fn fed_by(&self, objects: &[(Digest, u64)]) -> BTreeMap<PeerId, u64> {
        self.feeds.fed_by(objects)
    }

    pub(crate) fn bytes_from_upstream(&self) -> u64 {
        self.number_of(r#"peili_bytes_total{source="upstream"}"#)
    }

    pub(crate) fn bytes_from_peers(&self) -> u64 {
        self.number_of(r#"peili_bytes_total{source="peer"}"#)
    }

    /// Reads a counter or gauge as a scrape of the node would.
    fn number_of(&self, name: &str) -> u64 {
        let mut page = String::new();
        // Writing to a text cannot fail.
        let _ = text::encode(&mut page, &self.metrics);
        page.lines()
            .filter_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .next()
            .unwrap_or_default()
    }
}

fn name(number: usize) -> String {
    format!("node-{number}")
}

fn upstream_options(source: &Source) -> upstream::Options {
    let (registries, use_proxies) = match source {
        Source::Local(url) => (vec![url.clone()], false),
        Source::Internet => (Vec::new(), true),
    };
    upstream::Options {
        registries,
        auth_file: None,
        ca_file: None,
        use_proxies,
        limits: upstream::Limits::default(),
    }
}
