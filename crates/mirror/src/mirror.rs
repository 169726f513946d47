//! The request pipeline: the steps in the life of a pull.
//!
//! - who asks: [`request`](crate::request)
//! - whether the request is allowed: [`access`](crate::access), [`network`](crate::network)
//! - what the registry says: [`upstream_check`](crate::upstream_check)
//! - whether this node has it: [`local`](crate::local)
//! - which node is getting it: [`flight`](crate::flight), [`images`](crate::images),
//!   [`lead_through`](crate::lead_through)
//! - which node has it: [`fetch`](crate::fetch), [`relay`](crate::relay); for a store that the mirror fills:
//!   [`pull_through`](crate::pull_through)
//! - send it: [`send`](crate::send)
//! - record it: [`request_record`](crate::request_record)

mod answer;
mod find;
mod track;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Response, StatusCode};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::accusations::Accusations;
use crate::activity::{Activities, Changes};
use crate::attempts::AttemptsByKey;
use crate::body::Body;
use crate::body::send_memory::SendMemory;
use crate::deliveries::Deliveries;
use crate::dial_back::DialBack;
use crate::fetch::{Fetcher, Limits};
use crate::flight::Flight;
use crate::from_peers::FromPeers;
use crate::images::Images;
use crate::lead_through::LeadThrough;
use crate::metrics::Metrics;
use crate::network::Network;
use crate::peers::Peers;
use crate::pull_owners::PullOwners;
use crate::pull_through::PullThroughStep;
use crate::rate_limit::RateLimit;
use crate::registry_speeds::RegistrySpeeds;
use crate::request::{NODE_SECRET, Reader};
use crate::serve::PortTls;
use crate::trace::TraceSink;
use crate::trial::Trials;
use crate::upstream_bytes::UpstreamBytes;
use crate::upstream_check::{RegistryState, UpstreamCheck};
use crate::{CheckOptions, Flights, Health, PullThrough, Router, Store, Upstream};

/// The adapters of a mirror.
#[derive(Clone)]
pub struct Adapters {
    pub store: Arc<dyn Store>,
    pub router: Arc<dyn Router>,
    /// The pull-through step, for a store that the mirror fills itself.
    pub pull_through: Option<PullThrough>,
    /// The upstream that is asked for the targets of tags and for what is public, and its options; for a store that
    /// containerd fills. `None`: this node and its peers are trusted.
    pub checks: Option<(Arc<dyn Upstream>, CheckOptions)>,
    /// The agreement with other nodes which of them pulls what from upstream. `None`: a plain mirror, of complete
    /// content.
    pub flights: Option<Arc<dyn Flights>>,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub access: Access,
    pub reader: Reader,
    pub limits: Limits,
}

/// Rates in bytes per second. `None`: no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimits {
    /// The rate to other nodes (`--upload-rate`).
    pub upload: Option<u64>,
    /// The rate from other nodes (`--download-rate`).
    pub download: Option<u64>,
}

/// A mirror: answers requests for content from this node or its peers.
pub struct Mirror {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) router: Arc<dyn Router>,
    access: Access,
    reader: Reader,
    from_peers: Arc<FromPeers>,
    images: Arc<Images>,
    network: Option<Network>,
    pub(crate) flight: Option<Arc<Flight>>,
    pull_through: Option<Arc<PullThroughStep>>,
    trials: Arc<Trials>,
    pull_owners: PullOwners,
    pub(crate) attempts: AttemptsByKey,
    deliveries: Arc<Deliveries>,
    pub(crate) accusations: Accusations,
    dial_back: DialBack,
    upstream_check: Option<UpstreamCheck>,
    lead_through: Option<Arc<LeadThrough>>,
    upstream_bytes: Arc<UpstreamBytes>,
    memory: SendMemory,
    upload: Arc<RateLimit>,
    download: Arc<RateLimit>,
    pub(crate) metrics: Arc<Metrics>,
    leave: CancellationToken,
    pub(crate) peers: Arc<Peers>,
    pub(crate) activities: Arc<Activities>,
    pub(crate) changes: Changes,
    pub(crate) started_at: SystemTime,
    traces: Option<Arc<dyn TraceSink>>,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) tells_all: AtomicBool,
}

/// The ends of the connection that a request came on.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionAddresses {
    pub remote: SocketAddr,
    pub local: SocketAddr,
}

impl Mirror {
    pub fn new(adapters: Adapters, options: Options, registry: &mut Registry) -> Self {
        let Options {
            access,
            reader,
            limits,
        } = options;
        let metrics = Arc::new(Metrics::register(registry));
        let authorization = access.authorization.as_ref();
        let own_id = adapters.router.own_id();
        let network = Network::new(
            access.network_keys.clone(),
            access.peer_tls.is_some(),
            own_id.map_or_else(String::new, |id| id.to_string()),
        );
        let changes = Changes::default();
        let fetcher = Arc::new(Fetcher::new(
            adapters.router.clone(),
            limits,
            authorization,
            (network.clone(), access.peer_tls.clone()),
            metrics.clone(),
            changes.clone(),
        ));
        let (peers, activities) = (fetcher.peers.clone(), Activities::new(changes.clone()));
        let activities = Arc::new(activities);
        let memory = SendMemory::default();
        let images = Arc::new(Images::default());
        let speeds = Arc::new(RegistrySpeeds::default());
        let deliveries = Arc::new(Deliveries::default());
        let download = fetcher.download.clone();
        let accusations =
            Accusations::new(adapters.store.clone(), fetcher.clone(), metrics.clone());
        let from_peers = FromPeers::new(fetcher.clone(), memory.clone(), images.clone());
        let from_peers = Arc::new(from_peers);
        let flight = adapters.flights.map(|flights| {
            Arc::new(Flight::new(
                flights,
                adapters.store.clone(),
                fetcher.clone(),
                from_peers.clone(),
                images.clone(),
                metrics.clone(),
            ))
        });
        let pull_through = adapters.pull_through.map(|through| {
            Arc::new(PullThroughStep::new(
                through,
                adapters.store.clone(),
                from_peers.clone(),
                flight.clone(),
                images.clone(),
                metrics.clone(),
            ))
        });
        let pulls_layers = matches!(&adapters.checks, Some((_, options)) if options.pull_layers);
        let upstream_check = adapters.checks.map(|(upstream, options)| {
            let local = (adapters.store.clone(), memory.clone());
            UpstreamCheck::new(upstream, local, options, metrics.clone())
        });
        let upstream_bytes = Arc::new(UpstreamBytes::new(
            metrics.clone(),
            activities.clone(),
            speeds.clone(),
            deliveries.clone(),
        ));
        let lead_through = upstream_check.clone().zip(flight.clone());
        let lead_through = lead_through.filter(|_| pulls_layers);
        let lead_through = lead_through.map(|(check, flight)| {
            let (store, memory) = (adapters.store.clone(), memory.clone());
            let counts = (upstream_bytes.clone(), metrics.clone());
            Arc::new(LeadThrough::new(check, store, flight, memory, counts))
        });
        Self {
            store: adapters.store,
            router: adapters.router,
            access,
            reader,
            from_peers,
            images,
            network,
            flight,
            pull_through,
            trials: Arc::default(),
            pull_owners: PullOwners::default(),
            attempts: AttemptsByKey::new(speeds),
            deliveries,
            accusations,
            dial_back: DialBack::default(),
            upstream_check,
            lead_through,
            upstream_bytes,
            memory,
            upload: Arc::new(RateLimit::new(metrics.upload_waited.clone())),
            download,
            metrics,
            leave: CancellationToken::new(),
            peers,
            activities,
            changes,
            started_at: SystemTime::now(),
            traces: None,
            fetcher,
            tells_all: AtomicBool::new(false),
        }
    }

    /// Records the spans of requests for content.
    pub fn trace_to(&mut self, sink: Arc<dyn TraceSink>) {
        self.traces = Some(sink);
    }

    /// Whether the first bytes of a connection contain the node secret, in the head of a request (RFC 9112, section 5).
    pub(crate) fn is_own_by_head(&self, head: &[u8]) -> bool {
        let mut lines = head.split(|byte| *byte == b'\n').skip(1);
        lines.any(|line| {
            let mut parts = line.splitn(2, |byte| *byte == b':');
            let (name, value) = (parts.next().unwrap_or_default(), parts.next());
            let is_secret = name.eq_ignore_ascii_case(NODE_SECRET.as_str().as_bytes());
            is_secret && value.is_some_and(|value| self.access.is_secret(value.trim_ascii()))
        })
    }

    /// How connections of peers to the registry port are secured. `None`: they are not.
    pub(crate) fn port_tls(&self) -> Option<PortTls> {
        let tls = self.access.peer_tls.clone()?;
        let metrics = self.metrics.clone();
        Some(PortTls { tls, metrics })
    }

    /// Limits the rates to and from other nodes, in bytes per second. Must be called before anything is served.
    pub fn limit_rates(&self, RateLimits { upload, download }: RateLimits) {
        if let Some(rate) = upload {
            self.upload.set(rate);
        }
        if let Some(rate) = download {
            self.download.set(rate);
        }
    }

    /// Announces this node's content. Ends after [`Self::leave`], once everything is withdrawn.
    pub async fn announce(&self) {
        let (store, router) = (self.store.clone(), self.router.clone());
        let (access, metrics) = (self.access.clone(), self.metrics.clone());
        crate::announce::run(store, router, access, metrics, self.leave.clone()).await;
    }

    /// Counts what this node's containerd fetches from upstream. Never returns.
    pub async fn count_upstream_bytes(&self) {
        let changes = self.store.catalog().changes();
        self.upstream_bytes.count(&*self.store, changes).await;
    }

    /// Keeps the record of public repositories on disk. Never returns.
    pub async fn keep_proofs(&self) {
        match &self.upstream_check {
            Some(check) => check.keep_proofs().await,
            None => std::future::pending().await,
        }
    }

    /// Withdraws this node's announcements and makes it unready, for good. Requests are still answered.
    pub fn leave(&self) {
        self.leave.cancel();
    }

    /// The trial images that this mirror serves to its own node.
    pub fn trials(&self) -> Arc<Trials> {
        self.trials.clone()
    }

    /// The time since this node's own client last asked for content. `None`: it never did.
    pub fn own_client_asked_ago(&self) -> Option<Duration> {
        let at = u64::try_from(self.metrics.own_client_last_request.get()).ok()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        (at > 0).then(|| now.saturating_sub(Duration::from_secs(at)))
    }

    /// Asks the registries that were unreachable again. Takes 2 s at most.
    pub async fn retry_registries(&self) {
        if let Some(check) = &self.upstream_check {
            check.retry_unreachable().await;
        }
    }

    /// The states of the registries at which tags and visibility were checked.
    pub fn registries(&self) -> Vec<RegistryState> {
        let check = self.upstream_check.as_ref();
        check.map(UpstreamCheck::registries).unwrap_or_default()
    }

    /// The health for `/readyz`.
    pub fn health(&self) -> Health {
        if self.leave.is_cancelled() {
            return Health::Waiting("shutting down".into());
        }
        match self.store.health() {
            Health::Ready => self.router.health(),
            waiting @ Health::Waiting(_) => waiting,
        }
    }

    /// The answer of `/readyz`: the health, and the latest faults of upstream registries. An unreachable registry does
    /// not make the mirror unready: others may be reachable.
    pub fn readiness(&self) -> Response<Body> {
        let health = self.health();
        let faults = self.pull_through.as_ref().map(|step| step.faults());
        let lines: Vec<_> = std::iter::once(health.to_string())
            .chain(faults.unwrap_or_default())
            .collect();
        readiness(&health, lines.join("\n"))
    }

    /// The name of this node; empty if it has none.
    pub(crate) fn own_name(&self) -> String {
        self.access.own_names.first().cloned().unwrap_or_default()
    }
}

/// The answer to a readiness probe.
pub fn ready(health: &Health) -> Response<Body> {
    readiness(health, health.to_string())
}

fn readiness(health: &Health, text: String) -> Response<Body> {
    let mut response = Response::new(Body::bytes(text.into()));
    if !health.is_ready() {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}
