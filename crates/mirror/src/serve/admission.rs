//! Which connections a port takes. Their number is limited, with a share for clients on this host. Where no permit is
//! left, a new connection gets that of the one whose client has been waited for the longest.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::limits::PortLimits;
use crate::body::client_socket::ClientSocket;
use crate::mirror::Ends;
use crate::request::is_this_host;

/// How long a new connection waits for the permit of one that is of no use, and how many may wait: a quarter of those
/// that there are permits for, as each has a descriptor, but no more than this. The rest are turned away at once.
const PERMIT_LIMIT: Duration = Duration::from_secs(1);
const MOST_NEWCOMERS: usize = 64;

/// The connections that a port may have.
#[derive(Debug)]
pub struct Admission {
    own: Arc<Pool>,
    others: Arc<Pool>,
}

/// The connections of one kind of client.
#[derive(Debug)]
struct Pool {
    permits: Arc<Semaphore>,
    newcomers: Semaphore,
    /// Ends the connection that has listened for the longest.
    wanted: Notify,
}

/// A connection that was accepted. Dropping it closes it, in order.
#[derive(Debug)]
pub struct Accepted {
    pub client: Arc<ClientSocket>,
    pub ends: Ends,
    pool: Arc<Pool>,
}

impl Admission {
    pub fn new(PortLimits { own, others }: PortLimits) -> Self {
        let pool = |most| {
            Arc::new(Pool {
                permits: Arc::new(Semaphore::new(most)),
                newcomers: Semaphore::new((most / 4).clamp(1, MOST_NEWCOMERS)),
                wanted: Notify::new(),
            })
        };
        Self {
            own: pool(own),
            others: pool(others),
        }
    }

    /// Accepts a connection. Clients on this host have permits of their own, so that nobody can take theirs.
    ///
    /// # Errors
    /// The client is gone already.
    pub fn accept(&self, stream: TcpStream, remote: SocketAddr) -> io::Result<Accepted> {
        let local = stream.local_addr()?;
        let from_this_host = is_this_host(remote, local);
        let pool = if from_this_host {
            &self.own
        } else {
            &self.others
        };
        stream.set_nodelay(true)?;
        Ok(Accepted {
            client: Arc::new(ClientSocket::new(stream, from_this_host)),
            ends: Ends { remote, local },
            pool: pool.clone(),
        })
    }
}

impl Accepted {
    /// Gets the connection a permit, at the cost of another one if need be. `None`: there is none.
    pub async fn admit(&self) -> Option<OwnedSemaphorePermit> {
        let permits = &self.pool.permits;
        if let Ok(permit) = permits.clone().try_acquire_owned() {
            return Some(permit);
        }
        let _newcomer = self.pool.newcomers.try_acquire().ok()?;
        self.pool.wanted.notify_one();
        let permit = timeout(PERMIT_LIMIT, permits.clone().acquire_owned());
        permit.await.ok()?.ok()
    }

    /// Ends the connection of the same kind that is of no use for the longest, so that there is room for the next client.
    pub fn end_idle(&self) {
        self.pool.wanted.notify_one();
    }

    /// Waits until the connection has to end, and says why.
    pub async fn cut_off(&self) -> &'static str {
        self.client.cut_off(&self.pool.wanted).await
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        self.client.close();
    }
}
