//! Joins the cluster and stays in it: asks the source for peers, connects to some, fills the routing table; repeats
//! this after a while, and at once when all peers are lost. A single node is a valid cluster, and the rounds never end.

mod http;
mod id;
mod resolve;
mod round;

#[cfg(feature = "fuzzing")]
pub(crate) use id::parse as parse_id;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use names::{Cache, NameError, Names};
use rand::seq::SliceRandom as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::PeerAddress;
use crate::addresses::AddressFilter;
use crate::node::Command;
use crate::peer_address::Host;
use crate::peers::{self, Remembered};
use http::HttpSource;
pub(crate) use id::Server;
pub(crate) use round::{Round, RoundResult, Step};

/// The limit for connecting to peers and filling the routing table. The node is ready at the latest after this and the
/// time of the source, whose answers each have a limit of their own and are awaited together (4 s for HTTP, then 2 s
/// for names).
const ROUND_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval between rounds while there are no peers: the first, doubled up to the second.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_secs(10);
/// The interval between rounds while there are peers. They join parts of a cluster that lost each other.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// The most peers of the source that a round connects to: those with the lowest addresses, so that nodes that start
/// together meet, and others at random.
const LOWEST_SEEDS: usize = 3;
const RANDOM_SEEDS: usize = 5;
/// The most remembered peers that a round also connects to.
const REMEMBERED_SEEDS: usize = 4;

/// A peer to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed {
    pub(crate) id: Option<PeerId>,
    pub(crate) socket: SocketAddr,
}

/// Why a source gave no peers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("no answer for {name} within {limit:?}", limit = resolve::NAME_TIMEOUT)]
    SilentName { name: String },
    #[error("cannot get {url}")]
    Get { url: String, source: reqwest::Error },
    #[error("{url} answered {status}")]
    Status {
        url: String,
        status: reqwest::StatusCode,
    },
    #[error(
        "{url} answered {status}, and redirects are not followed; set --http-bootstrap-url to the URL that answers \
         with the peers"
    )]
    Redirect {
        url: String,
        status: reqwest::StatusCode,
    },
    #[error(
        "the answers name only addresses that this node cannot use, such as {socket}; peers are found at loopback \
         addresses only if --router-addr is one, and at link-local addresses never"
    )]
    NoUsableAddress { socket: SocketAddr },
    #[error("{url} answered more than {limit} bytes")]
    TooLong { url: String, limit: usize },
    #[error("{url} answered neither a peer nor a list of peers")]
    Answer {
        url: String,
        source: serde_json::Error,
    },
}

/// What is wrong with the certificates for asking over https.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Roots(#[from] tls::RootsError),
    #[error("{0} needs both tls.crt and tls.key, or neither")]
    Incomplete(PathBuf),
    #[error("the certificates in {path} cannot be used")]
    Unusable {
        path: PathBuf,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

pub(crate) struct Source {
    kind: Kind,
    names: Arc<Names>,
    /// Selects the addresses that others name.
    filter: AddressFilter,
}

enum Kind {
    Dns(String),
    Http(HttpSource),
    Static(Vec<PeerAddress>),
}

impl Source {
    pub(crate) fn new(
        bootstrap: &crate::Bootstrap,
        filter: AddressFilter,
    ) -> Result<Self, CertificateError> {
        // A cached answer would hide changes.
        let names = Arc::new(Names::of_system(Cache::Unused));
        let kind = match bootstrap {
            crate::Bootstrap::Dns { domain } => Kind::Dns(domain.clone()),
            crate::Bootstrap::Http(http) => Kind::Http(HttpSource::new(http, names.clone())?),
            crate::Bootstrap::Static { peers } => Kind::Static(peers.clone()),
        };
        Ok(Self {
            kind,
            names,
            filter,
        })
    }

    fn name(&self) -> &'static str {
        match &self.kind {
            Kind::Dns(_) => "DNS",
            Kind::Http(_) => "HTTP",
            Kind::Static(_) => "the configured peers",
        }
    }

    /// The peers that were found, and the failure, if any: some peers may be found and others not.
    async fn seeds(&self, port: u16) -> (Vec<Seed>, Option<SourceError>) {
        let (peers, first_error) = match &self.kind {
            Kind::Dns(domain) => {
                let host = Host::Name(domain.clone());
                let (port, id) = (None, None);
                (vec![PeerAddress { host, port, id }], None)
            }
            Kind::Http(http) => http.peers().await,
            Kind::Static(peers) => (peers.clone(), None),
        };
        let (mut seeds, error) = resolve::seeds(&self.names, &peers, port).await;
        let mut error = first_error.or(error);
        if let Kind::Http(_) = self.kind
            && let Some(first) = seeds.first().copied()
        {
            // Not by `admits`: a node may be its own endpoint, which is no error.
            seeds.retain(|seed| self.filter.tells(&seed.socket));
            if seeds.is_empty() {
                let socket = first.socket;
                error = error.or(Some(SourceError::NoUsableAddress { socket }));
            }
        }
        (seeds, error)
    }
}

/// The state of bootstrapping.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    /// A round has ended, with any result.
    pub(crate) done: bool,
    /// How the last round ended, in words.
    pub(crate) report: String,
    /// What went wrong in it, if anything.
    pub(crate) problem: Option<String>,
}

pub(crate) struct Bootstrapper {
    pub(crate) source: Source,
    /// The peers of an earlier run.
    pub(crate) loaded: Vec<Remembered>,
    /// The peers of this run.
    pub(crate) met: watch::Receiver<Vec<Remembered>>,
    /// The port of peers without a known port: this node's.
    pub(crate) port: u16,
    pub(crate) node: mpsc::Sender<Command>,
    /// The number of peers in the routing table.
    pub(crate) peers: watch::Receiver<usize>,
    pub(crate) status: watch::Sender<Status>,
}

impl Bootstrapper {
    /// Runs until the node has ended.
    pub(crate) async fn run(mut self) {
        let mut retry = FIRST_RETRY;
        let mut alone = false;
        while let Some((report, problem)) = self.round().await {
            let peers = *self.peers.borrow_and_update();
            if peers == 0 && !alone {
                tracing::info!(reason = report, "no peers yet; still looking");
            } else if peers > 0 && (alone || !self.status.borrow().done) {
                tracing::info!(peers, "joined the cluster");
            }
            alone = peers == 0;
            let done = true;
            self.status.send_replace(Status {
                done,
                report,
                problem,
            });
            if alone {
                let jitter = rand::random_range(0.5..1.0);
                // A peer may connect to this node meanwhile.
                let found = self.peers.wait_for(|peers| *peers > 0);
                let _ = timeout(retry.mul_f64(jitter), found).await;
                retry = (2 * retry).min(MAX_RETRY);
            } else {
                retry = FIRST_RETRY;
                let jitter = rand::random_range(0.8..1.2);
                let lost = self.peers.wait_for(|peers| *peers == 0);
                if let Ok(Err(_)) = timeout(REFRESH_INTERVAL.mul_f64(jitter), lost).await {
                    return;
                }
            }
        }
    }

    /// One round: its result and its failure, or `None` if the node has ended.
    async fn round(&mut self) -> Option<(String, Option<String>)> {
        let (found, why) = self.source.seeds(self.port).await;
        let (mut seeds, error) = (choose(found), why.map(|why| describe(&why)));
        seeds.extend(self.choose_remembered());
        let tried = seeds.len();
        let (done, result) = oneshot::channel();
        self.node.send(Command::Round { seeds, done }).await.ok()?;
        let source = self.source.name();
        let result = match timeout(ROUND_TIMEOUT, result).await {
            Ok(result) => result.ok()?,
            Err(_) => RoundResult {
                error: Some(format!("peers took longer than {ROUND_TIMEOUT:?}")),
                ..RoundResult::default()
            },
        };
        let connected = result.reached;
        let mut report = format!(
            "{connected} of {tried} addresses from {source} and of peers met before connected"
        );
        let problems: Vec<_> = [error, result.error].into_iter().flatten().collect();
        for why in &problems {
            report.push_str("; ");
            report.push_str(why);
        }
        let problem = (!problems.is_empty())
            .then(|| format!("bootstrap by {source}: {}", problems.join("; ")));
        Some((report, problem))
    }

    fn choose_remembered(&self) -> Vec<Seed> {
        let mut peers = peers::merge(&self.met.borrow(), &self.loaded);
        peers.shuffle(&mut rand::rng());
        let chosen = peers.iter().take(REMEMBERED_SEEDS);
        chosen.flat_map(Remembered::seeds).collect()
    }
}

/// Chooses some of many seeds.
fn choose(mut seeds: Vec<Seed>) -> Vec<Seed> {
    seeds.sort_by_key(|seed| seed.socket);
    seeds.dedup();
    let mut others = seeds.split_off(seeds.len().min(LOWEST_SEEDS));
    others.shuffle(&mut rand::rng());
    seeds.extend(others.into_iter().take(RANDOM_SEEDS));
    seeds
}

/// An error with its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::{Bootstrap, HttpBootstrap};

    /// A source of one endpoint, which gives every request the same response.
    async fn source(response: String, filter: AddressFilter) -> Source {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut client = BufReader::new(client);
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    client.read_line(&mut line).await.expect("a request");
                }
                let written = client.write_all(response.as_bytes()).await;
                written.expect("the client reads");
            }
        });
        let endpoint = HttpBootstrap::endpoint(&format!("http://{address}/id"));
        let http = HttpBootstrap {
            endpoints: vec![endpoint.expect("a URL")],
            ..HttpBootstrap::default()
        };
        Source::new(&Bootstrap::Http(http), filter).expect("no files")
    }

    async fn answering(addresses: &[&str], filter: AddressFilter) -> Source {
        let body = serde_json::json!([{ "Addrs": addresses }]).to_string();
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        source(head + &body, filter).await
    }

    #[tokio::test]
    async fn follows_no_redirect() {
        let third_host = TcpListener::bind("127.0.0.1:0").await;
        let third_host = third_host.expect("a free port");
        let address = third_host.local_addr().expect("bound");
        let response = format!(
            "HTTP/1.1 302 Found\r\nlocation: http://{address}/id\r\ncontent-length: 0\r\n\r\n"
        );
        let source = source(response, AddressFilter::new(true)).await;
        let (seeds, error) = source.seeds(5001).await;
        assert!(seeds.is_empty());
        assert!(matches!(error, Some(SourceError::Redirect { .. })));
        // A connection would be in the listener's queue by now.
        let third_host = third_host.into_std().expect("a socket");
        let accepted = third_host.accept().map_err(|error| error.kind());
        assert_eq!(accepted.err(), Some(std::io::ErrorKind::WouldBlock));
    }

    #[tokio::test]
    async fn addresses_in_an_answer_are_filtered_like_those_of_peers() {
        const TOLD: [&str; 4] = [
            "/ip4/127.0.0.1/tcp/2379",
            "/ip4/169.254.169.254/tcp/80",
            "/ip6/::ffff:169.254.169.254/tcp/80",
            "/ip4/10.0.0.1/tcp/5001",
        ];
        for (loopback, expected) in [(false, "10.0.0.1:5001"), (true, "127.0.0.1:2379")] {
            let source = answering(&TOLD, AddressFilter::new(loopback)).await;
            let (seeds, error) = source.seeds(5001).await;
            let sockets: Vec<_> = seeds.iter().map(|seed| seed.socket.to_string()).collect();
            assert_eq!(sockets, [expected]);
            assert!(error.is_none(), "{error:?}");
        }
        let source = answering(&TOLD[..3], AddressFilter::new(false)).await;
        let (seeds, error) = source.seeds(5001).await;
        assert!(seeds.is_empty());
        let error = error.expect("none is left").to_string();
        assert!(error.contains("127.0.0.1:2379"), "{error}");
    }

    #[test]
    fn chooses_the_lowest_and_some_others() {
        let seed = |port| Seed {
            id: None,
            socket: ([10, 0, 0, 1], port).into(),
        };
        let many: Vec<_> = (1..100).rev().map(seed).collect();
        let chosen = choose(many);
        assert_eq!(chosen.len(), LOWEST_SEEDS + RANDOM_SEEDS);
        assert_eq!(chosen[..LOWEST_SEEDS], [1, 2, 3].map(seed));
        assert_eq!(choose(vec![seed(1), seed(1)]), [seed(1)]);
        assert!(choose(Vec::new()).is_empty());
    }

    #[tokio::test]
    async fn tries_peers_of_this_run_and_of_an_earlier_one() {
        let seed = |port| Seed {
            id: Some(PeerId::random()),
            socket: ([10, 0, 0, 1], port).into(),
        };
        let remembered = |seed: &Seed| {
            let id = seed.id.expect("given");
            Remembered::new(&id, &[seed.socket])
        };
        let (loaded, met) = (seed(1), seed(2));
        let (node, mut commands) = mpsc::channel(1);
        let (meet, live) = watch::channel(Vec::new());
        let mut bootstrapper = Bootstrapper {
            source: Source::new(
                &Bootstrap::Static { peers: Vec::new() },
                AddressFilter::new(false),
            )
            .expect("no files"),
            loaded: vec![remembered(&loaded)],
            met: live,
            port: 5001,
            node,
            peers: watch::channel(0).1,
            status: watch::channel(Status::default()).0,
        };
        meet.send_replace(vec![remembered(&met)]);
        let answer = async {
            let Some(Command::Round { mut seeds, .. }) = commands.recv().await else {
                panic!("a round is asked for");
            };
            seeds.sort_by_key(|seed| seed.socket);
            seeds
        };
        let (_, seeds) = tokio::join!(bootstrapper.round(), answer);
        assert_eq!(seeds, [loaded, met]);
    }
}
