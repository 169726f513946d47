//! Which connections a port accepts. Their number is limited, with a share for clients on this host. If no permit is
//! left, a new connection gets that of the one whose client has been idle for longest.
//!
//! One address on another host may have a quarter of the permits. A gateway's address may be that of this node's own
//! containerd: a connection whose request contains the node secret counts as one of this host, whatever its address.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::limits::PortLimits;
use crate::body::client_socket::ClientSocket;
use crate::mirror::ConnectionAddresses;
use crate::request::is_this_host;

/// How long a new connection waits for the permit of an idle one, and how many may wait: a quarter of the permits, as
/// each has a descriptor, but no more than this. Further ones are refused at once.
const PERMIT_LIMIT: Duration = Duration::from_secs(1);
const MAX_WAITING: usize = 64;
/// The part of the permits for other hosts that one address may have, and how many in any case.
const PART_OF_ADDRESS: usize = 4;
const MIN_PER_ADDRESS: usize = 8;
/// The interval between checks for the head of a request.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The most bytes of a head that are checked.
const MAX_LOOKED_AT: usize = 8 * 1024;

/// Whether the first bytes of a connection prove that its client is this node's own containerd.
pub type IsOwn = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// The address by which a client is counted. One host usually has a whole /64 of IPv6 (RFC 4291, section 2.5.1).
pub fn counted_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

/// The connections that a port may have.
pub struct Admission {
    own: Arc<Pool>,
    others: Arc<Pool>,
    is_own: IsOwn,
}

/// The connections of one kind of client.
#[derive(Debug)]
struct Pool {
    permits: Arc<Semaphore>,
    newcomers: Arc<Semaphore>,
    /// Closes the connection that has been idle for longest.
    wanted: Notify,
    /// The permits in use by each address, and the most of one address.
    by_address: Mutex<HashMap<IpAddr, usize>>,
    most_of_address: usize,
}

/// An accepted connection. Dropping it closes it gracefully.
pub struct Accepted {
    pub client: Arc<ClientSocket>,
    pub addresses: ConnectionAddresses,
    /// `None`: it has no permit, and cannot wait for one.
    place: Option<Admitted>,
    pool: Arc<Pool>,
    own_pool: Arc<Pool>,
    is_own: IsOwn,
}

/// The permits of an accepted connection.
#[derive(Debug)]
struct Admitted {
    /// It has no permit yet, and may wait for one.
    is_waiting: bool,
    /// The permit to be served, or to wait.
    _permit: OwnedSemaphorePermit,
    /// The share of its address.
    _share: Option<AddressShare>,
}

/// One permit of an address.
#[derive(Debug)]
struct AddressShare {
    pool: Arc<Pool>,
    address: IpAddr,
}

impl Admission {
    /// `is_own`: see [`IsOwn`].
    pub fn new(PortLimits { own, others }: PortLimits, is_own: IsOwn) -> Self {
        let pool = |most: usize, most_of_address| {
            Arc::new(Pool {
                permits: Arc::new(Semaphore::new(most)),
                newcomers: Arc::new(Semaphore::new((most / 4).clamp(1, MAX_WAITING))),
                wanted: Notify::new(),
                by_address: Mutex::default(),
                most_of_address,
            })
        };
        let most_of_address = (others / PART_OF_ADDRESS).max(MIN_PER_ADDRESS);
        Self {
            own: pool(own, usize::MAX),
            others: pool(others, most_of_address),
            is_own,
        }
    }

    /// Accepts a connection. Clients on this host have permits of their own, which others cannot take. The permit is
    /// decided here, and not by the task that serves the connection: however late that task runs, connections without a
    /// permit do not accumulate.
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
            addresses: ConnectionAddresses { remote, local },
            place: pool.place(counted_address(remote.ip())),
            pool: pool.clone(),
            own_pool: self.own.clone(),
            is_own: self.is_own.clone(),
        })
    }
}

impl Pool {
    fn place(self: &Arc<Self>, address: IpAddr) -> Option<Admitted> {
        if let Some(share) = self.share(address)
            && let Ok(permit) = self.permits.clone().try_acquire_owned()
        {
            return Some(Admitted::served(permit, share));
        }
        let permit = self.newcomers.clone().try_acquire_owned().ok()?;
        Some(Admitted {
            is_waiting: true,
            _permit: permit,
            _share: None,
        })
    }

    /// One more permit of an address. `None`: it has the most that it may have.
    fn share(self: &Arc<Self>, address: IpAddr) -> Option<AddressShare> {
        let mut by_address = self.by_address.lock();
        let count = by_address.entry(address).or_default();
        if *count >= self.most_of_address {
            return None;
        }
        *count += 1;
        let pool = self.clone();
        Some(AddressShare { pool, address })
    }

    /// Waits for a permit, and closes another connection for it if necessary.
    async fn wait(self: &Arc<Self>, address: IpAddr) -> Option<Admitted> {
        let share = self.share(address)?;
        self.wanted.notify_one();
        let permit = self.permits.clone().acquire_owned().await.ok()?;
        Some(Admitted::served(permit, share))
    }
}

impl Drop for AddressShare {
    fn drop(&mut self) {
        let mut by_address = self.pool.by_address.lock();
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

impl Admitted {
    fn served(permit: OwnedSemaphorePermit, share: AddressShare) -> Self {
        Self {
            is_waiting: false,
            _permit: permit,
            _share: Some(share),
        }
    }
}

impl Accepted {
    /// Whether the connection has no permit, and cannot wait for one.
    pub fn is_over_limit(&self) -> bool {
        self.place.is_none()
    }

    /// Waits until the connection has a permit, and closes another one for it if necessary. `false`: it gets none.
    pub async fn admit(&mut self) -> bool {
        if self.place.as_ref().is_some_and(|place| place.is_waiting) {
            let address = counted_address(self.addresses.remote.ip());
            let waiting = async {
                // An address that has used up its share waits for the request that shows its client.
                let place = async {
                    match self.pool.wait(address).await {
                        Some(place) => place,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = self.is_shown_own() => (self.own_pool.wait(address).await, true),
                    place = place => (Some(place), false),
                }
            };
            let (place, is_own) = timeout(PERMIT_LIMIT, waiting)
                .await
                .unwrap_or((None, false));
            self.place = place;
            if is_own {
                self.pool = self.own_pool.clone();
            }
        }
        self.place.is_some()
    }

    /// Waits until the first bytes of the connection prove that this node's own containerd sent them.
    async fn is_shown_own(&self) {
        let mut head = vec![0; MAX_LOOKED_AT];
        loop {
            let count = self.client.peek(&mut head).await.unwrap_or(0);
            if (self.is_own)(&head[..count]) {
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Closes the connection of the same kind that has been idle for longest, to make room for the next client.
    pub fn end_idle(&self) {
        self.pool.wanted.notify_one();
    }

    /// Waits until the connection must end, and returns the reason.
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

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// With more clients than tasks get to run, the descriptors would be used up before any client is refused.
    #[tokio::test]
    async fn places_are_given_before_any_connection_is_served() {
        let admission = Admission::new(PortLimits { own: 8, others: 1 }, Arc::new(|_| false));
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
        accepted.retain(|accepted| !accepted.is_over_limit());
        assert_eq!(accepted.len(), 8 + newcomers);

        // The new connection gets the permit of the one that ends.
        let mut newcomer = accepted.pop().expect("one");
        let (admitted, ()) = tokio::join!(newcomer.admit(), async {
            accepted.truncate(7);
        });
        assert!(admitted);
        assert_eq!(newcomer.pool.newcomers.available_permits(), newcomers);
    }

    #[test]
    fn one_address_has_a_quarter_of_the_permits_of_other_hosts() {
        let limits = PortLimits { own: 8, others: 64 };
        let admission = Admission::new(limits, Arc::new(|_| false));
        let (hostile, honest) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let served = |place: &Option<Admitted>| place.as_ref().is_some_and(|p| !p.is_waiting);
        let mut many: Vec<_> = (0..64).map(|_| admission.others.place(hostile)).collect();
        assert_eq!(many.iter().filter(|place| served(place)).count(), 16);
        assert!(served(&admission.others.place(honest)));
        let of_host = |n: u16| counted_address(Ipv6Addr::new(0xfd00, 0, 0, 1, n, 0, 0, 1).into());
        assert_eq!(of_host(1), of_host(2), "one host has them all");
        assert_ne!(
            of_host(1),
            counted_address("fd00:0:0:2::1".parse().expect("an address"))
        );
        many.clear();
        assert!(
            admission.others.by_address.lock().is_empty(),
            "nothing is left"
        );
        assert!(served(&admission.others.place(hostile)));
    }

    /// All connections are from one gateway, and so is that of this node's containerd.
    #[tokio::test]
    async fn a_node_secret_opens_a_port_that_its_gateway_has_filled() {
        let is_own: IsOwn = Arc::new(|head| head.ends_with(b"secret"));
        let admission = Admission::new(PortLimits { own: 8, others: 8 }, is_own);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("bound");
        let gateway = SocketAddr::from(([10, 0, 0, 1], 1));
        let filled: Vec<_> = (0..8)
            .map(|_| admission.others.place(gateway.ip()).expect("a permit"))
            .collect();
        for (head, is_admitted) in [("a secret", true), ("a stranger", false)] {
            let mut client = TcpStream::connect(address).await.expect("it listens");
            client.write_all(head.as_bytes()).await.expect("sent");
            let (stream, _) = listener.accept().await.expect("a client");
            let mut accepted = admission.accept(stream, gateway).expect("a connection");
            assert_eq!(accepted.admit().await, is_admitted, "{head}");
        }
        drop(filled);
    }
}
