//! Asks peers for an object: a step of the pipeline. Peers are asked over kept connections: one by name, or those that
//! the router finds ([`race`]).

pub(crate) mod link_test;
mod race;
mod traced;
mod without_content;

pub use without_content::PeerAnswer;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, HOST, RANGE};
use http::request::Builder;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use oci::{Key, MediaType, Ranges};
use tls::PeerTls;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::access::Secret;
use crate::activity::Changes;
use crate::connect::Connections;
use crate::content_range::ContentRange;
use crate::flights::pull_rules::SOURCE_ANSWER_LIMIT;
use crate::metrics::Metrics;
use crate::network::Network;
use crate::peers::{Fault, InFlight, Peers};
use crate::rate_limit::RateLimit;
use crate::request::follower::Follower;
use crate::request::{Caller, Kind, MIRRORED, NAMESPACE, Target};
use crate::{Candidate, PeerId, Router};
use race::Race;
use traced::PeerSpans;

/// The limit for all requests to peers until one answers. Then the client is sent upstream.
const RACE_LIMIT: Duration = Duration::from_secs(2);
/// The most searches for clients other than this node's own, each with at most 3 requests to peers.
const MAX_RACES_OF_OTHERS: usize = 64;
/// A second peer is asked when the first has not answered after twice the usual time, within these bounds.
const MIN_HEDGE_DELAY: Duration = Duration::from_millis(20);
const MAX_HEDGE_DELAY: Duration = Duration::from_millis(250);

/// A peer's answer to a request that it can serve.
#[derive(Debug)]
pub struct Answer {
    pub head: http::response::Parts,
    pub body: Incoming,
    pub candidate: Candidate,
    /// Counts as a request in flight for as long as its body is read.
    in_flight: InFlight,
    spans: PeerSpans,
}

impl Answer {
    /// Counts bytes of its body.
    pub fn received(&self, bytes: u64) {
        self.in_flight.received(bytes);
        self.spans.received(bytes);
    }

    /// Records that its body was good to the last byte.
    pub fn finished(&self) {
        self.in_flight.finished();
    }

    /// # Errors
    /// It reports that the range is outside the object.
    pub fn satisfied(self) -> Result<Self, FetchError> {
        if self.head.status != StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(self);
        }
        let size = size_of_416(&self.head.headers);
        Err(FetchError::Unsatisfiable { size })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("no peer has it")]
    NoCandidate,
    #[error("none of them answered within {RACE_LIMIT:?}")]
    TooSlow,
    #[error("{asked} asked, the last failed: {last}")]
    AllFailed { asked: usize, last: String },
    /// A peer with the object reports that the range is outside it.
    #[error("no range lies within the object")]
    Unsatisfiable { size: Option<u64> },
    #[error("this node pulls it from upstream, for others too")]
    Leads,
    #[error("this node pulls it from upstream by itself")]
    Alone,
    /// See [`Decision::Later`](crate::Decision).
    #[error("retried after the node's other downloads")]
    Later,
}

/// Options of the command line.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long to wait for a candidate while none is being asked (`--mirror-resolve-timeout`).
    pub resolve_timeout: Duration,
    /// The most peers that may be asked in vain for one answer (`--mirror-resolve-retries`).
    pub attempts: usize,
}

/// Asks peers. There is one for the whole mirror, which keeps their connections.
pub struct Fetcher {
    connections: Connections,
    router: Arc<dyn Router>,
    pub peers: Arc<Peers>,
    limits: Limits,
    races_of_others: Semaphore,
    authorization: Option<HeaderValue>,
    network: Option<Network>,
    pub metrics: Arc<Metrics>,
    /// The limit of `--download-rate`.
    pub download: Arc<RateLimit>,
}

/// A question to one peer.
#[derive(Clone, Debug)]
pub struct Question {
    pub method: Method,
    pub target: Target,
    pub key: Key,
    pub ranges: Option<Ranges>,
    /// The size of the whole object in bytes, if known from an earlier answer.
    pub size: Option<u64>,
    /// This node as a follower in the object's flight, for a source that it follows.
    pub follower: Option<Follower>,
}

impl Question {
    /// Whether an answer with these headers contains the requested range, of an object of the known size.
    fn is_answered_by(&self, headers: &HeaderMap) -> bool {
        let Some(ranges) = &self.ranges else {
            let length = ContentRange::of(headers);
            let may_fit = |whole: ContentRange| self.size.is_none_or(|size| size == whole.size);
            return !headers.contains_key(CONTENT_RANGE) && length.is_none_or(may_fit);
        };
        ContentRange::of(headers).is_some_and(|part| {
            let asked = ranges.resolve(part.size).unwrap_or_default();
            asked == [part.range] && self.size.is_none_or(|size| size == part.size)
        })
    }

    /// Whether a 416 with these headers is credible: the range is outside the size in it, which does not contradict the
    /// known size.
    fn lies_outside(&self, headers: &HeaderMap) -> bool {
        let (Some(ranges), Some(told)) = (&self.ranges, size_of_416(headers)) else {
            return false;
        };
        self.size.is_none_or(|size| size == told) && ranges.resolve(told).is_err()
    }
}

/// The size in the `Content-Range` of a 416 (RFC 9110, 15.5.17).
fn size_of_416(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes */")?.parse().ok()
}

impl Fetcher {
    pub fn new(
        router: Arc<dyn Router>,
        limits: Limits,
        authorization: Option<&Secret>,
        (network, tls): (Option<Network>, Option<PeerTls>),
        metrics: Arc<Metrics>,
        changes: Changes,
    ) -> Self {
        let peers = Arc::new(Peers::new(changes));
        let connections = Connections::new(peers.clone(), tls);
        let authorization = authorization.and_then(|secret| {
            let mut value = HeaderValue::from_str(secret.expose()).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Self {
            connections,
            router,
            peers,
            limits,
            races_of_others: Semaphore::new(MAX_RACES_OF_OTHERS),
            authorization,
            network,
            download: Arc::new(RateLimit::new(metrics.download_waited.clone())),
            metrics,
        }
    }

    /// Finds peers with the key and returns the first good answer.
    ///
    /// # Errors
    /// No peer has it, or none of those asked could send it, within [`RACE_LIMIT`].
    pub async fn fetch(&self, question: &Question) -> Result<Answer, FetchError> {
        let race = async {
            let _turn = match question.target.caller {
                Caller::Own => None,
                Caller::Peer | Caller::Remote => self.races_of_others.acquire().await.ok(),
            };
            let search = self.router.find(&question.key);
            Race::new(self, question).run(search).await
        };
        match timeout(RACE_LIMIT, race).await {
            Ok(result) => result,
            Err(_) => Err(FetchError::TooSlow),
        }
    }

    /// Asks one peer. A credible 416 is an answer too.
    pub async fn ask(
        &self,
        question: &Question,
        candidate: Candidate,
    ) -> Result<Answer, (Candidate, Fault, String)> {
        let mut spans = PeerSpans::begin(&question.target.pull.trace, &candidate);
        match self.answer(question, candidate, &spans).await {
            Ok(mut answer) => {
                spans.answered(answer.head.status);
                answer.spans = spans;
                Ok(answer)
            }
            Err(failed) => {
                spans.fail(&failed.2);
                Err(failed)
            }
        }
    }

    async fn answer(
        &self,
        question: &Question,
        candidate: Candidate,
        spans: &PeerSpans,
    ) -> Result<Answer, (Candidate, Fault, String)> {
        let mut in_flight = self.peers.begin(&candidate);
        let failed = |why: String| {
            self.peers.note_error(&candidate.peer, &why);
            (candidate.clone(), Fault::Failed, why)
        };
        let request = self
            .request(question, &candidate)
            .map_err(|error| failed(error.to_string()))?;
        let response = spans.send(request, |request| self.send(request)).await;
        let response = response.map_err(failed)?;
        let (head, body) = response.into_parts();
        match head.status {
            StatusCode::OK if question.ranges.is_none() => {}
            StatusCode::PARTIAL_CONTENT if question.ranges.is_some() => {}
            StatusCode::RANGE_NOT_SATISFIABLE if question.lies_outside(&head.headers) => {}
            // Content that is not for this node counts as missing.
            StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err((
                    candidate,
                    Fault::Lacking,
                    format!("answered {}", head.status),
                ));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                return Err((candidate, Fault::Busy, "it is busy".into()));
            }
            status => return Err(failed(format!("answered {status}"))),
        }
        let is_range_outside = head.status == StatusCode::RANGE_NOT_SATISFIABLE;
        if !is_range_outside && !question.is_answered_by(&head.headers) {
            let why = "answered with another range, or of an object of another size";
            return Err((candidate, Fault::Wrong, why.into()));
        }
        let after = in_flight.answered(Instant::now());
        self.metrics
            .peer_answer_seconds
            .observe(after.as_secs_f64());
        Ok(Answer {
            head,
            body,
            candidate,
            in_flight,
            spans: PeerSpans::default(),
        })
    }

    fn request(
        &self,
        question: &Question,
        candidate: &Candidate,
    ) -> Result<http::Request<Empty<Bytes>>, http::Error> {
        let target = &question.target;
        let kind = match target.kind {
            Kind::Manifest => "manifests",
            Kind::Blob => "blobs",
        };
        let origin = target.origin.as_ref();
        // A peer serves a digest under any name. If the client gave none, a neutral one is used.
        let repository = origin.map_or("unknown", |origin| origin.repository.as_str());
        let namespace = origin.map_or(String::new(), |origin| format!("?ns={}", origin.registry));
        let path = format!("/v2/{repository}/{kind}/{}{namespace}", target.reference);
        let mut request = self
            .request_to(candidate, &path)?
            .method(question.method.clone())
            .header(MIRRORED, "true");
        if let Some(origin) = origin {
            request = request.header(NAMESPACE, origin.registry.as_str());
        }
        if target.kind == Kind::Manifest {
            request = request.header(ACCEPT, MediaType::ACCEPT);
        }
        if let Some(ranges) = &question.ranges {
            request = request.header(RANGE, ranges.to_string());
        }
        if let Some(follower) = &question.follower {
            request = follower.add_to(request);
        }
        request.body(Empty::new())
    }

    /// The head of any request to a peer.
    fn request_to(&self, candidate: &Candidate, path: &str) -> Result<Builder, http::Error> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(candidate.peer.as_str())
            .path_and_query(path)
            .build()?;
        let host = candidate.addresses.first();
        let host = host.map_or(String::new(), ToString::to_string);
        let mut request = http::Request::builder().uri(uri).header(HOST, host);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }

    /// Adds to a request the proof that it comes from a node of the network. Called last for all requests: anything
    /// added later is not proven.
    fn proven(&self, mut request: http::Request<Empty<Bytes>>) -> http::Request<Empty<Bytes>> {
        if let (Some(network), Some(peer)) = (&self.network, request.uri().host()) {
            let peer = peer.to_owned();
            network.prove(&mut request, &peer);
        }
        request
    }

    /// The head of a peer's answer, or the reason why there is none.
    async fn send(
        &self,
        request: http::Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, String> {
        let request = self.connections.request(self.proven(request));
        match timeout(SOURCE_ANSWER_LIMIT, request).await {
            Err(_) => Err(format!("no answer within {SOURCE_ANSWER_LIMIT:?}")),
            Ok(Err(error)) => Err(chain(&error)),
            Ok(Ok(response)) => Ok(response),
        }
    }

    /// Records the fault of a peer, for all requests.
    pub fn report_fault(&self, peer: &PeerId, key: &Key, fault: Fault) {
        self.peers.report_fault(peer, key, fault, Instant::now());
        self.metrics.peer_failed(fault);
    }

    /// How long a peer's answer may take before another peer is asked as well.
    fn hedge_after(&self, candidate: &Candidate) -> Duration {
        (self.peers.latency(&candidate.peer) * 2).clamp(MIN_HEDGE_DELAY, MAX_HEDGE_DELAY)
    }
}

/// An error with its causes, for a log line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
