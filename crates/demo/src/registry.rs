//! The upstream registry of the demo: a mirror without peers with the generated image, as slow as a registry on the
//! internet, which counts the bytes that it sends.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::TryStreamExt as _;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyDataStream, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mirror::memory::MemoryCluster;
use mirror::{Adapters, Candidate, ConnectionAddresses, Mirror, PeerId, Reader};
use oci::Registry;
use parking_lot::Mutex;
use prometheus_client::registry::Registry as Metrics;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::DemoError;
use crate::folder::Folder;
use crate::node::mirror_options;

/// The rate of the registry to all its clients together, in bytes per second: 200 Mbit/s, as of a good connection to a
/// registry, and slow enough to show the peers' part.
pub(crate) const RATE: u64 = 25_000_000;
/// The most connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// The pause after a failed attempt to accept a connection (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A registry that runs until it is dropped.
pub(crate) struct UpstreamRegistry {
    meter: Arc<Meter>,
    task: AbortHandle,
}

impl UpstreamRegistry {
    /// The folder of its image layout in the demo's folder.
    pub(crate) const FOLDER: &str = "upstream";

    /// Serves the image layout that was written into its folder, under the name that clients use.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn start(
        listener: TcpListener,
        name: &Registry,
        folder: &mut Folder,
    ) -> Result<Self, DemoError> {
        let address = listener.local_addr().map_err(DemoError::Listen)?;
        let (layout, mut metrics) = folder.open(Self::FOLDER, Metrics::default()).await?;
        let alone = Candidate {
            peer: PeerId::new("upstream"),
            addresses: Arc::new([address]),
        };
        let parts = Adapters {
            store: layout,
            router: Arc::new(MemoryCluster::default().router(alone)),
            pull_through: None,
            checks: None,
            flights: None,
        };
        let mut options = mirror_options();
        // A client of the registry itself does not name it.
        options.reader = Reader {
            default_registry: Some(name.clone()),
        };
        let mirror = Arc::new(Mirror::new(parts, options, &mut metrics));
        let meter = Arc::new(Meter::default());
        let task = tokio::spawn(accept(listener, mirror, meter.clone())).abort_handle();
        Ok(Self { meter, task })
    }

    /// The bytes of content sent so far, without answers about missing content.
    pub(crate) fn sent(&self) -> u64 {
        self.meter.sent.load(Ordering::Relaxed)
    }
}

impl Drop for UpstreamRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts connections until it is aborted, which also ends them.
async fn accept(listener: TcpListener, mirror: Arc<Mirror>, meter: Arc<Meter>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, remote)) => {
                    let (mirror, meter) = (mirror.clone(), meter.clone());
                    connections.spawn(async move {
                        if let Err(error) = connection(stream, remote, &mirror, &meter).await {
                            tracing::debug!(%error, %remote, "a connection to upstream ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the upstream registry cannot take a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn connection(
    stream: TcpStream,
    remote: SocketAddr,
    mirror: &Mirror,
    meter: &Arc<Meter>,
) -> io::Result<()> {
    let local = stream.local_addr()?;
    let service = service_fn(|request: Request<Incoming>| async move {
        let (head, _) = request.into_parts();
        let answer = mirror
            .answer(&head, ConnectionAddresses { remote, local })
            .await;
        Ok::<_, Infallible>(metered(answer, meter.clone()))
    });
    http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}

/// The same answer, at the registry's rate.
fn metered(
    answer: Response<mirror::Body>,
    meter: Arc<Meter>,
) -> Response<impl Body<Data = Bytes, Error = mirror::BodyError>> {
    let is_content = answer.status().is_success();
    answer.map(|body| {
        let frames = BodyDataStream::new(body).and_then(move |bytes| {
            let meter = meter.clone();
            async move {
                if is_content {
                    meter.pass(bytes.len() as u64).await;
                }
                Ok(Frame::data(bytes))
            }
        });
        StreamBody::new(Box::pin(frames))
    })
}

/// Counts bytes and delays them.
#[derive(Default)]
struct Meter {
    sent: AtomicU64,
    /// When the admitted bytes will have been sent at [`RATE`].
    free_at: Mutex<Option<Instant>>,
}

impl Meter {
    async fn pass(&self, bytes: u64) {
        let turn = {
            let (now, mut free_at) = (Instant::now(), self.free_at.lock());
            let turn = free_at.map_or(now, |at| at.max(now));
            *free_at = Some(turn + Duration::from_secs_f64(bytes as f64 / RATE as f64));
            turn
        };
        sleep_until(turn).await;
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }
}
