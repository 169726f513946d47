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
    newcomers: Arc<Semaphore>,
    /// Ends the connection that has listened for the longest.
    wanted: Notify,
}

/// A connection that was accepted. Dropping it closes it, in order.
#[derive(Debug)]
pub struct Accepted {
    pub client: Arc<ClientSocket>,
    pub ends: Ends,
    /// `None`: there is no permit for it, and none to wait for.
    place: Option<Place>,
    pool: Arc<Pool>,
}

/// What a connection was given when it was accepted.
#[derive(Debug)]
struct Place {
    /// It has no permit yet, and may wait for one.
    is_newcomer: bool,
    /// To be served, or to wait.
    _permit: OwnedSemaphorePermit,
}

impl Admission {
    pub fn new(PortLimits { own, others }: PortLimits) -> Self {
        let pool = |most| {
            Arc::new(Pool {
                permits: Arc::new(Semaphore::new(most)),
                newcomers: Arc::new(Semaphore::new((most / 4).clamp(1, MOST_NEWCOMERS))),
                wanted: Notify::new(),
            })
        };
        Self {
            own: pool(own),
            others: pool(others),
        }
    }

    /// Accepts a connection. Clients on this host have permits of their own, so that nobody can take theirs. Its place is
    /// decided here, and not by the task that serves it: however late that task runs, connections without a place do not
    /// add up.
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
            place: pool.place(),
            pool: pool.clone(),
        })
    }
}

impl Pool {
    fn place(&self) -> Option<Place> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Some(Place::served(permit));
        }
        let permit = self.newcomers.clone().try_acquire_owned().ok()?;
        Some(Place {
            is_newcomer: true,
            _permit: permit,
        })
    }
}

impl Place {
    fn served(permit: OwnedSemaphorePermit) -> Self {
        Self {
            is_newcomer: false,
            _permit: permit,
        }
    }
}

impl Accepted {
    /// Whether there is no permit for the connection, and none to wait for.
    pub fn is_one_too_many(&self) -> bool {
        self.place.is_none()
    }

    /// Waits until the connection has a permit, at the cost of another one if need be. `false`: it gets none.
    pub async fn admit(&mut self) -> bool {
        if self.place.as_ref().is_some_and(|place| place.is_newcomer) {
            self.pool.wanted.notify_one();
            let permit = timeout(PERMIT_LIMIT, self.pool.permits.clone().acquire_owned());
            let permit = permit.await.ok().and_then(Result::ok);
            self.place = permit.map(Place::served);
        }
        self.place.is_some()
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    /// With more clients than tasks get to run, the descriptors would be gone before anybody is turned away.
    #[tokio::test]
    async fn places_are_given_before_any_connection_is_served() {
        let admission = Admission::new(PortLimits { own: 8, others: 1 });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (mut clients, mut accepted) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            clients.push(TcpStream::connect(address).await.expect("it listens"));
            let (stream, remote) = listener.accept().await.expect("a client");
            accepted.push(admission.accept(stream, remote).expect("a connection"));
        }
        let newcomers = 8 / 4;
        accepted.retain(|accepted| !accepted.is_one_too_many());
        assert_eq!(accepted.len(), 8 + newcomers);

        // The newcomer gets the permit of the connection that ends.
        let mut newcomer = accepted.pop().expect("one");
        let (admitted, ()) = tokio::join!(newcomer.admit(), async {
            accepted.truncate(7);
        });
        assert!(admitted);
        assert_eq!(newcomer.pool.newcomers.available_permits(), newcomers);
    }
}
