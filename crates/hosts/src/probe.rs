//! The clean-up probe: waiting until each node says that its folder has been put back.
//!
//! When a release is uninstalled, a DaemonSet runs `peili cleanup` on each node, which answers `/readyz` from then on,
//! and one pod runs `peili cleanup-wait` ([`wait()`]) against the headless service of that DaemonSet, whose name
//! resolves to all its pods.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// The path that is asked for.
const READY: &str = "/readyz";
/// Addresses asked at once.
const CONCURRENCY: usize = 10;
/// For one address, from connecting to the head of the answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(1);
/// For the name, search list and all.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);
/// Shortest time between rounds.
const MIN_PERIOD: Duration = Duration::from_millis(1);
/// How many of the addresses that are not ready are named in a log line.
const NAMED: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("--probe-endpoint {0:?} has to be host:port, with an IPv6 address in brackets")]
    Endpoint(String),
    #[error("the system's name servers cannot be read from /etc/resolv.conf")]
    Resolver(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("ended before all nodes were clean")]
    Interrupted,
}

/// `--probe-endpoint`: `host:port`, an IPv6 address in brackets.
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

/// Asks every address of the endpoint, each `period`, until all were ready in `threshold` rounds one after the other.
/// A round in which the name does not resolve counts as one that failed. Has no limit of its own: how long
/// nodes may take is for the caller to say, through `shutdown`.
///
/// # Errors
/// `shutdown` came first, or there are no name servers to ask.
pub async fn wait(
    endpoint: &Endpoint,
    period: Duration,
    threshold: NonZeroU32,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ProbeError> {
    let names = Names::new(endpoint)?;
    tokio::select! {
        () = shutdown => Err(ProbeError::Interrupted),
        () = rounds(endpoint, &names, period, threshold) => Ok(()),
    }
}

async fn rounds(endpoint: &Endpoint, names: &Names, period: Duration, threshold: NonZeroU32) {
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
                tracing::info!(%endpoint, nodes, good, threshold, duration_ms, "all nodes are clean");
            }
            Err(error) => {
                good = 0;
                tracing::warn!(%endpoint, error, "not all nodes are clean yet");
            }
        }
    }
}

/// How many addresses were asked, all of which are ready; else who is not.
async fn round(endpoint: &Endpoint, names: &Names) -> Result<usize, String> {
    let addresses = names.addresses().await?;
    let nodes = addresses.len();
    let mut not_ready: Vec<String> = stream::iter(addresses)
        .map(|ip| async move {
            let address = SocketAddr::new(ip, endpoint.port);
            match timeout(REQUEST_LIMIT, ready(address)).await {
                Ok(Ok(())) => None,
                Ok(Err(fault)) => Some(format!("{address}: {fault}")),
                Err(_) => Some(format!(
                    "{address}: no answer within {} s",
                    REQUEST_LIMIT.as_secs()
                )),
            }
        })
        .buffer_unordered(CONCURRENCY)
        .filter_map(std::future::ready)
        .collect()
        .await;
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

async fn ready(address: SocketAddr) -> Result<(), String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|e| e.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let request = Request::get(READY)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let answer = async move {
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        match response.status() {
            StatusCode::OK => Ok(()),
            other => Err(other.to_string()),
        }
    };
    // The connection has to be driven while its answer is awaited, and its end is not for it to judge: it may come
    // together with the answer.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<Result<(), String>>().await
    };
    tokio::select! {
        answer = answer => answer,
        never = drive => never,
    }
}

/// Where the addresses of the endpoint come from.
enum Names {
    Literal(IpAddr),
    System {
        resolver: Box<TokioResolver>,
        host: String,
    },
}

impl Names {
    fn new(endpoint: &Endpoint) -> Result<Self, ProbeError> {
        if let Ok(literal) = endpoint.host.parse() {
            return Ok(Self::Literal(literal));
        }
        let failed = |e: hickory_resolver::net::NetError| ProbeError::Resolver(Box::new(e));
        let mut builder = TokioResolver::builder_tokio().map_err(failed)?;
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // Pods come and go between rounds.
        options.cache_size = 0;
        let resolver = Box::new(builder.build().map_err(failed)?);
        Ok(Self::System {
            resolver,
            host: endpoint.host.clone(),
        })
    }

    async fn addresses(&self) -> Result<Vec<IpAddr>, String> {
        let (resolver, host) = match self {
            Self::Literal(address) => return Ok(vec![*address]),
            Self::System { resolver, host } => (resolver, host),
        };
        let found = timeout(LOOKUP_LIMIT, resolver.lookup_ip(host.as_str()))
            .await
            .map_err(|_| format!("{host} did not resolve within {} s", LOOKUP_LIMIT.as_secs()))?
            .map_err(|e| format!("{host} does not resolve: {e}"))?;
        let addresses: Vec<_> = found.iter().collect();
        if addresses.is_empty() {
            Err(format!("{host} has no address"))
        } else {
            Ok(addresses)
        }
    }
}

#[cfg(test)]
mod tests;
