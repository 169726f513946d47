//! A proxy between the nodes and the upstream registry: it counts requests and bytes by client, and treats some as a
//! test wants.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::image::Blob;
use crate::network::Host;

/// The most bytes of the head of a message.
const HEAD_LIMIT: usize = 16 << 10;

/// The send buffer to a client, in bytes: small, so that nearly all sent bytes have been received.
const SEND_BUFFER: u32 = 128 << 10;

const BACKLOG: u32 = 1024;

/// The special treatment of a node's requests for a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// No answer, until the node is treated in another way.
    Held,
    /// This status, without content.
    Refused(u16),
    /// The content with its first byte changed.
    Corrupted,
}

/// The access without a password to a guarded registry.
#[derive(Clone)]
pub struct Guard {
    /// Repositories below this folder are public.
    pub public: String,
    /// The value of `Authorization` that opens everything.
    pub authorization: String,
}

/// The start of the `User-Agent` of mirrors' requests.
const MIRRORS: &str = "user-agent: peili/";

/// A proxy on the upstream's host. Each connection to it carries one request.
pub struct Gate {
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    registry: PathBuf,
    guard: Option<Guard>,
    requests: Mutex<Vec<Request>>,
    treated: watch::Sender<Option<Treated>>,
}

/// The treatment of some requests.
struct Treated {
    /// `None`: all clients.
    client: Option<Ipv4Addr>,
    /// Whether only the requests of mirrors are meant, and not those of containerds.
    are_mirrors: bool,
    /// A part of the path. Empty: all.
    digest: String,
    treatment: Treatment,
}

/// A GET for a blob or a manifest.
struct Request {
    client: Ipv4Addr,
    path: String,
    /// The bytes of the answer.
    sent: u64,
}

impl Gate {
    /// Listens on the host and forwards to `registry`, a Unix socket.
    pub fn start(host: &Host, port: u16, registry: PathBuf, guard: Option<Guard>) -> Result<Gate> {
        let address = SocketAddr::from((host.address, port));
        let socket = host.inside(|| {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.set_send_buffer_size(SEND_BUFFER)?;
            socket.bind(address)?;
            Ok(socket)
        })?;
        let listener = socket.listen(BACKLOG)?;
        let state = Arc::new(State {
            registry,
            guard,
            requests: Mutex::default(),
            treated: watch::Sender::new(None),
        });
        let task = tokio::spawn(serve(listener, state.clone()));
        Ok(Gate { state, task })
    }

    /// Treats one node's requests for one blob in this way from now on, and all others as usual.
    pub fn treat(&self, node: &Host, blob: &Blob, treatment: Treatment) {
        self.state.treated.send_replace(Some(Treated {
            client: Some(node.address),
            are_mirrors: false,
            digest: blob.digest.clone(),
            treatment,
        }));
    }

    /// Treats all requests in this way from now on, or those of mirrors alone.
    pub fn treat_everybody(&self, are_mirrors: bool, treatment: Treatment) {
        self.state.treated.send_replace(Some(Treated {
            client: None,
            are_mirrors,
            digest: String::new(),
            treatment,
        }));
    }

    /// Treats all nodes as usual.
    pub fn treat_all_alike(&self) {
        self.state.treated.send_replace(None);
    }

    /// The clients that requested a blob, by GET, in order.
    pub fn askers(&self, blob: &Blob) -> Vec<Ipv4Addr> {
        let requests = self.state.requests();
        let of_blob = requests.iter().filter(|r| r.path.contains(&blob.digest));
        of_blob.map(|request| request.client).collect()
    }

    /// The bytes of a blob that were sent.
    pub fn sent_of(&self, blob: &Blob) -> u64 {
        let requests = self.state.requests();
        let of_blob = requests.iter().filter(|r| r.path.contains(&blob.digest));
        of_blob.map(|request| request.sent).sum()
    }

    /// The bytes sent in answers to GETs.
    pub fn sent(&self) -> u64 {
        let requests = self.state.requests();
        requests.iter().map(|request| request.sent).sum()
    }

    /// Stops the proxy: new connections are refused, and open ones closed.
    pub async fn stop(mut self) {
        self.task.abort();
        // It was cancelled, or has ended already.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((client, from)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (IpAddr::V4(from), state) = (from.ip(), state.clone()) else {
            continue;
        };
        // A failure is the client's concern, or ends the test there.
        connections.spawn(async move { state.forward(client, from).await });
    }
}

impl State {
    async fn forward(&self, mut client: TcpStream, from: Ipv4Addr) -> Result<()> {
        let Some((head, _)) = read_head(&mut client).await? else {
            return Ok(());
        };
        let (line, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
        let path = line.split(' ').nth(1).unwrap_or_default();
        let counted = line.starts_with("GET ").then(|| {
            let mut requests = self.requests();
            requests.push(Request {
                client: from,
                path: path.to_owned(),
                sent: 0,
            });
            requests.len() - 1
        });

        let is_mirror = fields.to_ascii_lowercase().contains(MIRRORS);
        let treatment = self.treatment(from, path, is_mirror).await;
        if let Some(Treatment::Refused(status)) = treatment {
            let answer =
                format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            client.write_all(answer.as_bytes()).await?;
            return Ok(client.shutdown().await?);
        }

        let mut registry = UnixStream::connect(&self.registry).await?;
        let opened = self.guard.as_ref().filter(|guard| {
            let public = format!("/v2/{}/", guard.public);
            path.starts_with(&public)
        });
        let login = opened.map_or_else(String::new, |guard| {
            format!("Authorization: {}\r\n", guard.authorization)
        });
        let request = format!("{line}\r\nConnection: close\r\n{login}{fields}");
        registry.write_all(request.as_bytes()).await?;
        let Some((head, mut body)) = read_head(&mut registry).await? else {
            bail!("the registry answers nothing");
        };
        client.write_all(head.as_bytes()).await?;
        let mut is_begin = true;
        loop {
            if body.is_empty() {
                body.resize(64 << 10, 0);
                let read = registry.read(&mut body).await?;
                body.truncate(read);
            }
            if body.is_empty() {
                return Ok(client.shutdown().await?);
            }
            if is_begin && treatment == Some(Treatment::Corrupted) {
                body[0] ^= 0xff;
            }
            is_begin = false;
            client.write_all(&body).await?;
            if let Some(number) = counted {
                self.requests()[number].sent += body.len() as u64;
            }
            body.clear();
        }
    }

    /// The treatment of a request, once it is no longer held.
    async fn treatment(&self, client: Ipv4Addr, path: &str, is_mirror: bool) -> Option<Treatment> {
        let of_request = |treated: &Option<Treated>| {
            let treated = treated.as_ref()?;
            let is_meant = treated.client.is_none_or(|meant| client == meant)
                && (is_mirror || !treated.are_mirrors)
                && path.contains(&treated.digest);
            is_meant.then_some(treated.treatment)
        };
        let mut treated = self.treated.subscribe();
        let treated = treated
            .wait_for(|treated| of_request(treated) != Some(Treatment::Held))
            .await;
        treated.ok().and_then(|treated| of_request(&treated))
    }

    fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The head of a message with the empty line at its end, and the bytes after it. `None`: the connection ended before.
pub(crate) async fn read_head(
    from: &mut (impl AsyncReadExt + Unpin),
) -> Result<Option<(String, Vec<u8>)>> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let body = read.split_off(end + 4);
            return Ok(Some((String::from_utf8(read)?, body)));
        }
        if read.len() >= HEAD_LIMIT {
            bail!("a head of more than {HEAD_LIMIT} bytes");
        }
        let count = match from.read_buf(&mut read).await {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error.into()),
        };
        if count == 0 {
            return Ok(None);
        }
    }
}
