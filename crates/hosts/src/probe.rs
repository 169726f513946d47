//! Asking every node at once: each address of a headless service's name, over HTTP.
//!
//! Two commands do so. When a release is uninstalled, a DaemonSet runs `peili cleanup` on each node, which answers
//! `/readyz` from then on, and one pod runs `peili cleanup-wait` ([`wait()`]) against the headless service of that
//! DaemonSet, whose name resolves to all its pods. `peili pull-test` reads the metrics of all mirrors ([`get_all`]).

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use names::Cache;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// The path that is asked for.
const READY: &str = "/readyz";
/// The path at which a mirror names its node, without credentials, and the headers with the name and with the id of its
/// router.
const LIVE: &str = "/livez";
const NODE: &str = "x-peili-node";
const PEER: &str = "x-peili-peer";
/// The most addresses asked at once.
const CONCURRENCY: usize = 10;
/// The limit for one address, from connecting to the end of the answer.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(1);
/// The most bytes of an answer: a page of metrics has a few ten thousand.
const MAX_ANSWER: usize = 4 << 20;
/// The most characters of a node's error message.
const MAX_LINE: usize = 512;
/// The limit for resolving the name, including the search list.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);
/// The shortest time between rounds.
const MIN_PERIOD: Duration = Duration::from_millis(1);
/// The most addresses that are named in a log line as not ready.
const NAMED: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("{0:?} has to be host:port, with an IPv6 address in brackets")]
    Endpoint(String),
    #[error("{0}")]
    Name(String),
    #[error("ended before all nodes were clean{}", .0.as_deref().map(|last| format!("; at last {last}")).unwrap_or_default())]
    Interrupted(Option<String>),
}

/// `host:port`, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl FromStr for Endpoint {
    type Err = ProbeError;

    fn from_str(text: &str) -> Result<Self, ProbeError> {
        let parts = || {
            let (host, port) = text.rsplit_once(':')?;
            let port = port.parse().ok().filter(|port| *port != 0)?;
            let host = match host.strip_prefix('[') {
                Some(inner) => {
                    let inner = inner.strip_suffix(']')?;
                    inner.parse::<Ipv6Addr>().ok().map(|_| inner)?
                }
                None => Some(host).filter(|h| !h.is_empty() && !h.contains([':', '/', ' ']))?,
            };
            Some(Self {
                host: host.to_owned(),
                port,
            })
        };
        parts().ok_or_else(|| ProbeError::Endpoint(text.chars().take(255).collect()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Asks every address of the endpoint, each `period`, until all were ready in `threshold` consecutive rounds. A round
/// in which the name does not resolve has failed. Without a limit of its own: the caller decides how long nodes may
/// take, through `shutdown`.
///
/// # Errors
/// `shutdown` came first.
pub async fn wait(
    endpoint: &Endpoint,
    period: Duration,
    threshold: NonZeroU32,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ProbeError> {
    let names = Names::new(endpoint);
    let mut last = None;
    tokio::select! {
        () = shutdown => {}
        () = rounds(endpoint, &names, period, threshold, &mut last) => return Ok(()),
    }
    Err(ProbeError::Interrupted(last))
}

/// Ends after enough consecutive good rounds. Keeps the result of the last failed one.
async fn rounds(
    endpoint: &Endpoint,
    names: &Names,
    period: Duration,
    threshold: NonZeroU32,
    last: &mut Option<String>,
) {
    let mut clock = interval(period.max(MIN_PERIOD));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut good = 0;
    while good < threshold.get() {
        clock.tick().await;
        let begin = Instant::now();
        match round(endpoint, names).await {
            Ok(nodes) => {
                good += 1;
                let duration_ms = begin.elapsed().as_millis();
                tracing::info!(%endpoint, nodes, good, threshold, duration_ms, "all nodes have put containerd's configuration back");
            }
            Err(error) => {
                good = 0;
                tracing::warn!(%endpoint, error, "some nodes have not put containerd's configuration back yet");
                *last = Some(error);
            }
        }
    }
}

/// The number of addresses asked, if all are ready; otherwise those that are not.
async fn round(endpoint: &Endpoint, names: &Names) -> Result<usize, String> {
    let answers = ask(endpoint, names, READY, REQUEST_LIMIT).await?;
    let nodes = answers.len();
    let mut not_ready: Vec<_> = answers
        .into_iter()
        .filter_map(|(address, answer)| Some(format!("{address}: {}", answer.err()?)))
        .collect();
    if not_ready.is_empty() {
        return Ok(nodes);
    }
    let count = not_ready.len();
    not_ready.truncate(NAMED);
    Err(format!(
        "{count} of {nodes} not ready: {}",
        not_ready.join("; ")
    ))
}

/// An address, and its answer or error.
pub type Answer = (SocketAddr, Result<Bytes, String>);

/// Asks every address of the endpoint for a path, once. `limit`: for one address.
///
/// # Errors
/// The name does not resolve.
pub async fn get_all(
    endpoint: &Endpoint,
    path: &str,
    limit: Duration,
) -> Result<Vec<Answer>, ProbeError> {
    let names = Names::new(endpoint);
    let answers = ask(endpoint, &names, path, limit).await;
    answers.map_err(ProbeError::Name)
}

/// The mirror that answers at an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorName {
    /// The name of its node.
    pub node: String,
    /// The id of its router. `None`: an older mirror, which does not say.
    pub peer: Option<String>,
}

/// The mirror that answers at an endpoint. `None`: something else answers.
///
/// # Errors
/// There is no answer.
pub async fn mirror_at(endpoint: &Endpoint) -> Result<Option<MirrorName>, String> {
    let addresses = Names::new(endpoint).addresses().await?;
    let mut error = "the name has no address".to_owned();
    for ip in addresses {
        let address = SocketAddr::new(ip, endpoint.port);
        match timeout(REQUEST_LIMIT, send(address, LIVE)).await {
            Ok(Ok(response)) => {
                let header = |name| {
                    let value = response.headers().get(name)?.to_str();
                    Some(value.ok()?.to_owned())
                };
                let name = |node| MirrorName {
                    node,
                    peer: header(PEER),
                };
                return Ok(header(NODE).map(name));
            }
            Ok(Err(failed)) => error = failed,
            Err(_) => error = format!("no answer within {} s", REQUEST_LIMIT.as_secs()),
        }
    }
    Err(error)
}

async fn ask(
    endpoint: &Endpoint,
    names: &Names,
    path: &str,
    limit: Duration,
) -> Result<Vec<Answer>, String> {
    let addresses = names.addresses().await?;
    let answers = stream::iter(addresses).map(|ip| async move {
        let address = SocketAddr::new(ip, endpoint.port);
        let answer = timeout(limit, get(address, path)).await;
        let late = || format!("no answer within {limit:?}");
        (address, answer.unwrap_or_else(|_| Err(late())))
    });
    Ok(answers.buffer_unordered(CONCURRENCY).collect().await)
}

/// The body of an answer with status 200.
async fn get(address: SocketAddr, path: &str) -> Result<Bytes, String> {
    let response = send(address, path).await?;
    match response.status() {
        StatusCode::OK => Ok(response.into_body()),
        other => Err(format!("{other}: {}", first_line(response.body()))),
    }
}

async fn send(address: SocketAddr, path: &str) -> Result<Response<Bytes>, String> {
    let text = |error: hyper::Error| error.to_string();
    let stream = TcpStream::connect(address)
        .await
        .map_err(|e| e.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let answer = async move {
        let (head, body) = sender
            .send_request(request)
            .await
            .map_err(text)?
            .into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect();
        let body = body.await.map_err(|e| e.to_string())?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    // The connection must be driven while its answer is awaited. Its end does not matter here: it may come together
    // with the answer.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<Result<Response<Bytes>, String>>().await
    };
    tokio::select! {
        answer = answer => answer,
        never = drive => never,
    }
}

/// The beginning of an answer, for a log line.
fn first_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(MAX_LINE).collect()
}

/// Resolves the endpoint to addresses. Pods come and go between rounds.
struct Names {
    system: names::Names,
    host: String,
}

impl Names {
    fn new(endpoint: &Endpoint) -> Self {
        Self {
            system: names::Names::of_system(Cache::Unused),
            host: endpoint.host.clone(),
        }
    }

    async fn addresses(&self) -> Result<Vec<IpAddr>, String> {
        let host = &self.host;
        timeout(LOOKUP_LIMIT, self.system.addresses(host))
            .await
            .map_err(|_| format!("{host} did not resolve within {} s", LOOKUP_LIMIT.as_secs()))?
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests;
