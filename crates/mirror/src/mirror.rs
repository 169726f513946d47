//! The request pipeline: the life of a pull, one step after the other.
//!
//! who asks ([`request`](crate::request)) → may they ([`access`](crate::access)) → have we got it
//! ([`local`](crate::local)) → who is getting it ([`flight`](crate::flight)) → who has it ([`fetch`](crate::fetch),
//! [`relay`](crate::relay)) or how do we get it ([`pull_through`](crate::pull_through)) → send it ([`send`](crate::send)) → record it ([`request_record`](crate::request_record)).

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode};
use oci::{Digest, Origin, Reference};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::attempts::AttemptsByDigest;
use crate::body::Body;
use crate::body::send_memory::SendMemory;
use crate::fetch::{Fetcher, Limits};
use crate::flight::{Flight, Sharing};
use crate::found::{Found, Source};
use crate::from_peers::FromPeers;
use crate::metrics::{Metrics, MirrorLabels};
use crate::pull_owners::{self, PullOwners};
use crate::pull_through::{Client, PullThrough};
use crate::refusal::Refusal;
use crate::request::conditions::{self, Outcome};
use crate::request::{Caller, ClientAddress, Kind, Reader, Request, RequestError, Target};
use crate::request_record::{RequestRecord, handler};
use crate::trial::Trials;
use crate::upstream_bytes::UpstreamBytes;
use crate::upstream_check::{Asker, UpstreamCheck};
use crate::{CheckOptions, Flights, Health, Intake, Router, Store, Upstream, local, send};

/// The adapters that a mirror stands between.
#[derive(Clone)]
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub router: Arc<dyn Router>,
    /// For a store that the mirror fills itself: its writing side, and where content comes from that no peer has.
    pub intake: Option<(Arc<dyn Intake>, Arc<dyn Upstream>)>,
    /// For a store that containerd fills: where upstream is asked what a tag points at and what is public, and what is
    /// asked. `None`: this node and its peers are believed.
    pub checks: Option<(Arc<dyn Upstream>, CheckOptions)>,
    /// The agreement with other nodes on who pulls what from upstream. `None`: a plain mirror, of complete content.
    pub flights: Option<Arc<dyn Flights>>,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub access: Access,
    pub reader: Reader,
    pub limits: Limits,
}

/// A mirror: answers requests for content from this node or its peers.
pub struct Mirror {
    store: Arc<dyn Store>,
    router: Arc<dyn Router>,
    access: Access,
    reader: Reader,
    from_peers: Arc<FromPeers>,
    flight: Option<Arc<Flight>>,
    pull_through: Option<PullThrough>,
    trials: Arc<Trials>,
    pull_owners: PullOwners,
    attempts: AttemptsByDigest,
    upstream_check: Option<UpstreamCheck>,
    upstream_bytes: UpstreamBytes,
    memory: SendMemory,
    metrics: Arc<Metrics>,
    leave: CancellationToken,
}

/// The ends of the connection that a request came on.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub remote: SocketAddr,
    pub local: SocketAddr,
}

impl Mirror {
    pub fn new(parts: Parts, options: Options, registry: &mut Registry) -> Self {
        let Options {
            access,
            reader,
            limits,
        } = options;
        let metrics = Arc::new(Metrics::register(registry));
        let authorization = access.authorization.as_ref();
        let fetcher = Fetcher::new(parts.router.clone(), limits, authorization, metrics.clone());
        let fetcher = Arc::new(fetcher);
        let memory = SendMemory::default();
        let from_peers = Arc::new(FromPeers::new(fetcher.clone(), memory.clone()));
        let flight = parts.flights.map(|flights| {
            Arc::new(Flight::new(
                flights,
                parts.store.clone(),
                fetcher,
                from_peers.clone(),
                metrics.clone(),
            ))
        });
        let pull_through = parts.intake.map(|sides| {
            PullThrough::new(
                sides,
                parts.store.clone(),
                from_peers.clone(),
                flight.clone(),
                metrics.clone(),
            )
        });
        let upstream_check = parts.checks.map(|(upstream, options)| {
            UpstreamCheck::new(upstream, parts.store.clone(), options, metrics.clone())
        });
        Self {
            store: parts.store,
            router: parts.router,
            access,
            reader,
            from_peers,
            flight,
            pull_through,
            trials: Arc::default(),
            pull_owners: PullOwners::default(),
            attempts: AttemptsByDigest::default(),
            upstream_check,
            upstream_bytes: UpstreamBytes::new(metrics.clone()),
            memory,
            metrics,
            leave: CancellationToken::new(),
        }
    }

    /// Keeps peers told of what this node holds. Ends after [`Self::leave`], when all of it is withdrawn.
    pub async fn announce(&self) {
        let (store, router) = (self.store.clone(), self.router.clone());
        let (access, metrics) = (self.access.clone(), self.metrics.clone());
        crate::announce::run(store, router, access, metrics, self.leave.clone()).await;
    }

    /// Counts what this node's containerd fetches from upstream. Runs for ever.
    pub async fn count_upstream_bytes(&self) {
        let changes = self.store.catalog().changes();
        self.upstream_bytes.count(&*self.store, changes).await;
    }

    /// Keeps on disk which repositories are public. Runs for ever.
    pub async fn keep_proofs(&self) {
        match &self.upstream_check {
            Some(check) => check.keep_proofs().await,
            None => std::future::pending().await,
        }
    }

    /// Withdraws what this node announced and makes it unready, for good. Requests are still answered.
    pub fn leave(&self) {
        self.leave.cancel();
    }

    /// The trial images that this mirror serves to its own node.
    pub fn trials(&self) -> Arc<Trials> {
        self.trials.clone()
    }

    /// What `/readyz` says.
    pub fn health(&self) -> Health {
        if self.leave.is_cancelled() {
            return Health::Waiting("shutting down".into());
        }
        match self.store.health() {
            Health::Ready => self.router.health(),
            waiting @ Health::Waiting(_) => waiting,
        }
    }

    /// What `/readyz` answers: the health, and what went wrong lately with upstream registries. That some registry cannot
    /// be reached makes no mirror unready: the others can.
    pub fn readiness(&self) -> Response<Body> {
        let health = self.health();
        let faults = self.pull_through.as_ref().map(PullThrough::faults);
        let lines: Vec<_> = std::iter::once(health.to_string())
            .chain(faults.unwrap_or_default())
            .collect();
        readiness(&health, lines.join("\n"))
    }

    /// Answers a request. Its body is not looked at: a request that has one is refused.
    pub async fn answer(&self, head: &http::request::Parts, ends: Ends) -> Response<Body> {
        let request = self.reader.read(&head.method, &head.uri, &head.headers);
        let handler = handler(&request);
        let ip = ends.remote.ip().to_canonical();
        let mut record = RequestRecord::open(
            self.metrics.clone(),
            head.method.clone(),
            head.uri.path(),
            ip,
            handler,
        );
        let result = match request {
            Ok(request) => self.serve(request, head, ends, &mut record).await,
            Err(error) => Err(error.into()),
        };
        let mut response = result.unwrap_or_else(|refusal: Refusal| {
            record.refusal = Some(refusal.to_string());
            send::refused(&refusal)
        });
        record.status = Some(response.status());
        response.body_mut().record(record);
        response
    }

    async fn serve(
        &self,
        request: Request,
        head: &http::request::Parts,
        ends: Ends,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Refusal> {
        let headers = &head.headers;
        if self.pull_through.is_some() && !matches!(request, Request::Live | Request::Ready) {
            let client = ClientAddress::of(ends.remote, ends.local);
            self.access.check_host(headers, client)?;
        }
        match request {
            Request::Live => Ok(Response::new(Body::empty())),
            Request::Ready => Ok(self.readiness()),
            Request::Base => {
                self.access.authorize(headers)?;
                Ok(Response::new(Body::empty()))
            }
            Request::LinkTest => {
                self.access.authorize(headers)?;
                let flight = self.flight.as_ref().ok_or(RequestError::UnknownPath)?;
                flight.answer_link_test()
            }
            Request::List {
                origin,
                list,
                query,
            } => {
                self.access.authorize(headers)?;
                let client = ClientAddress::of(ends.remote, ends.local);
                let caller = self.access.caller(headers, client, || false);
                // With containerd, lists are not asked of mirrors.
                let fetches = self.pull_through.as_ref();
                let fetches = fetches.filter(|_| caller == Caller::Own);
                let fetches = fetches.ok_or(RequestError::UnknownPath)?;
                let origin = origin.ok_or(RequestError::TagWithoutRegistry)?;
                self.access.admit_repository(&origin)?;
                let client = Client::of(headers, &self.access);
                fetches
                    .page(&origin, &list, (&head.uri, &query), &client)
                    .await
            }
            Request::Content(mut target) => {
                self.access.authorize(headers)?;
                self.identify(&mut target, headers, ends);
                if target.caller == Caller::Own {
                    Metrics::stamp(&self.metrics.own_client_last_request);
                }
                record.registry = target
                    .origin
                    .as_ref()
                    .map(|origin| origin.registry.to_string());
                if target
                    .digest()
                    .is_some_and(|digest| !sends(headers, digest))
                {
                    target.ask_for_head_only();
                }
                let client = Client::of(headers, &self.access);
                let found = self.find(&mut target, &client, record).await?;
                if target.kind == Kind::Manifest && target.caller == Caller::Own {
                    self.from_peers.sizes().expect(&found.digest);
                }
                send::found(&target, headers, found, &self.memory)
            }
        }
    }

    /// Determines who sent a request for content, and whether it belongs to a pull of this node.
    fn identify(&self, target: &mut Target, headers: &HeaderMap, ends: Ends) {
        let client = ClientAddress::of(ends.remote, ends.local);
        let filled = pull_owners::ingest_to_fill(target, &*self.store);
        let owns_pull =
            || filled.is_some_and(|(digest, ingest)| self.pull_owners.owns(digest, ingest, client));
        let caller = self.access.caller(headers, client, owns_pull);
        let filled = filled.filter(|_| caller == Caller::Own);
        let attempts = filled.map(|(digest, _)| self.attempts.of(digest));
        target.caller = caller;
        target.attempts = attempts;
    }

    async fn find(
        &self,
        target: &mut Target,
        client: &Client,
        record: &mut RequestRecord,
    ) -> Result<Found, Refusal> {
        if let Some(found) = self.trials.find(target) {
            return Ok(found);
        }
        if let (Kind::Manifest, Some(digest)) = (target.kind, target.digest())
            && target.caller == Caller::Own
        {
            self.from_peers.sizes().expect(digest);
        }
        self.access.admit(target)?;
        if target.caller == Caller::Peer {
            return self.find_for_peer(target, record).await;
        }
        if let Some(check) = &self.upstream_check {
            let asker = match (&self.access.node_secret, target.caller) {
                (Some(_), Caller::Own) => Asker::ProvenOwn,
                (Some(_), Caller::Peer | Caller::Remote) => Asker::Stranger,
                (None, _) => Asker::Anybody,
            };
            let credentials = client.credentials.as_ref();
            match check.admit(target, credentials, asker).await {
                Ok(head) => {
                    let found = head.filter(|_| target.head_only);
                    if let Some(found) = found.as_ref().and_then(UpstreamCheck::head_found) {
                        return Ok(found);
                    }
                }
                Err(refusal) => {
                    self.upstream_bytes.note(target, Err(&refusal));
                    return Err(refusal);
                }
            }
        }
        let pull_through = self
            .pull_through
            .as_ref()
            .filter(|_| target.caller == Caller::Own);
        // Where this mirror can ask upstream, a manifest from the store is more than its bytes: a tag's may be stale, and
        // an image's is a promise for the rest of it.
        let asks_first = pull_through.is_some() && target.kind == Kind::Manifest;
        if !asks_first
            && let Some(found) = self.find_here(target).await
            && let Some(found) = local::unless_damaged(found).await
        {
            return Ok(found);
        }
        record.handler = "mirror";
        self.learn_sizes(target).await;
        let flight = self.flight.as_ref().filter(|_| target.fills_ingest());
        let result = match (pull_through, flight) {
            (Some(fetches), _) => fetches.find(target, client, &self.access).await,
            (None, Some(flight)) => {
                Flight::ignore_range_of_all(target);
                match flight.find(target, Sharing::Shared).await {
                    Err(refusal @ (Refusal::Leads(_) | Refusal::Alone(_)))
                        if self.router.has_legacy_peers() =>
                    {
                        match self.from_peers.find(target).await {
                            // Why it goes upstream is what the flight has said.
                            Err(Refusal::NoPeer(_)) => Err(refusal),
                            result => result,
                        }
                    }
                    result => result,
                }
            }
            (None, None) => self.from_peers.find(target).await,
        };
        self.upstream_bytes.note(target, result.as_ref().map(drop));
        self.count(target, result.as_ref().ok());
        result
    }

    /// Finds what this node has and the client may have.
    async fn find_here(&self, target: &Target) -> Option<Found> {
        let Some(check) = &self.upstream_check else {
            return local::find(&self.store, &self.access, target).await;
        };
        // A tag may point elsewhere a moment later.
        let mut target = target.clone();
        if let Some(name) = target.tag_name() {
            target.reference = Reference::Digest(self.store.catalog().resolve(&name)?);
        }
        match check.shows(&target).await {
            true => local::find(&self.store, &self.access, &target).await,
            false => None,
        }
    }

    /// Looks up how large a blob has to be that peers are about to be asked for.
    async fn learn_sizes(&self, target: &Target) {
        if let (Kind::Blob, Some(digest)) = (target.kind, target.digest()) {
            let sizes = self.from_peers.sizes();
            if sizes.of(digest).is_none() {
                sizes.learn_expected(&self.store).await;
            }
        }
    }

    /// A peer gets what is here; one that follows a flight gets what is on its way too.
    async fn find_for_peer(
        &self,
        target: &Target,
        record: &mut RequestRecord,
    ) -> Result<Found, Refusal> {
        let found = self.find_here(target).await;
        let (Some(flight), Some(position)) = (&self.flight, target.position) else {
            return found.ok_or(Refusal::NotHere(target.kind));
        };
        let is_open = |origin: Option<&Origin>| {
            let check = self.upstream_check.as_ref();
            check.is_none_or(|check| check.shows_growing(target, origin))
        };
        let access = &self.access;
        if target.head_only {
            let progress = flight.progress(target, found, access, is_open);
            return progress.ok_or(Refusal::NotHere(target.kind));
        }
        let found = match found {
            Some(found) => found,
            None => match flight
                .serve_growing(target, position, access, is_open)
                .await
            {
                Ok(found) => found,
                // It may have become complete meanwhile.
                Err(refusal) => self.find_here(target).await.ok_or(refusal)?,
            },
        };
        record.upload = flight.admit(target, &found, record.ip)?;
        Ok(found)
    }

    fn count(&self, target: &Target, found: Option<&Found>) {
        let hit = found.is_some_and(|found| found.source == Source::Peer);
        let registry = self.metrics.registry_label(
            target.origin.as_ref().map(|origin| &origin.registry),
            target.caller,
        );
        let cache = if hit { "hit" } else { "miss" };
        self.metrics
            .mirror_requests
            .get_or_create(&MirrorLabels { registry, cache })
            .inc();
        if found.is_none() {
            self.metrics.misses.inc();
        }
        if hit {
            Metrics::stamp(&self.metrics.mirror_last_success);
        }
    }
}

/// Whether the conditions of a request let this object be sent.
fn sends(headers: &HeaderMap, digest: &Digest) -> bool {
    conditions::outcome(headers, digest) == Outcome::Send
}

/// What a probe of readiness is told.
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
