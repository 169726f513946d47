//! Admits as many followers as a node can feed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use oci::Digest;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::body::client_socket::{ClientSocket, IDLE_AFTER};
use crate::flights::pull_rules::MAX_UPLOADS;
use crate::object_stream::BodyHook;
use crate::rate::{RateMeter, Throughput};
use crate::serve::counted_address;

/// The most uploads to one address: a node that pulls three layers at a time twice, or a few nodes behind one gateway.
/// A client with made-up requests leaves slots to others.
const MAX_UPLOADS_BY_ADDRESS: usize = MAX_UPLOADS / 4;
/// The most uploads to one [`counted_address`]. A whole /64 of IPv6 may be one host, or all nodes of a cluster: it gets
/// more than one address, and leaves slots to others.
const MAX_UPLOADS_BY_NETWORK: usize = MAX_UPLOADS / 4 * 3;
/// A client that accepts fewer bytes per second than this may lose its slot.
const MIN_RATE: u64 = 64 * 1024;

type Key = (IpAddr, Digest);

/// The uploads in progress.
#[derive(Debug, Default)]
pub struct Uploads(Mutex<Going>);

#[derive(Debug, Default)]
struct Going {
    streams: HashMap<Key, Streams>,
    last: u64,
    sent: RateMeter,
}

/// The streams of one upload.
#[derive(Debug, Default)]
struct Streams {
    /// The client of each stream by number.
    clients: HashMap<u64, Weak<ClientSocket>>,
    sent: Throughput,
}

/// An upload. It ends when it is dropped.
#[derive(Debug)]
pub struct Upload {
    uploads: Arc<Uploads>,
    key: Key,
    number: u64,
}

impl Uploads {
    /// Admits an upload. `None`: there are `most` already whose clients accept bytes, or as many as a node serves.
    pub fn admit(
        self: &Arc<Self>,
        follower: IpAddr,
        digest: &Digest,
        most: usize,
    ) -> Option<Upload> {
        let key = (follower, digest.clone());
        let mut going = self.0.lock();
        if !going.streams.contains_key(&key) && !going.has_slot(follower, most) {
            return None;
        }
        going.last += 1;
        let number = going.last;
        let streams = going.streams.entry(key.clone()).or_default();
        streams.clients.insert(number, Weak::new());
        Some(Upload {
            uploads: self.clone(),
            key,
            number,
        })
    }

    /// The number of followers of each object.
    pub fn followers(&self) -> HashMap<Digest, usize> {
        let mut followers = HashMap::new();
        for (_, digest) in self.0.lock().streams.keys() {
            *followers.entry(digest.clone()).or_default() += 1;
        }
        followers
    }

    /// The present rate of all uploads, in bytes per second.
    pub fn sent(&self) -> u64 {
        self.0.lock().sent.recent_rate(Instant::now())
    }
}

impl Going {
    /// Whether there is a slot for one more upload. If none is free, a slow client loses its slot: of the same address
    /// or network, if that has its share.
    fn has_slot(&mut self, follower: IpAddr, most: usize) -> bool {
        if self.active() >= most {
            return false;
        }
        let network = counted_address(follower);
        let of_address = |address: IpAddr| address == follower;
        let of_network = |address: IpAddr| counted_address(address) == network;
        if self.count(of_address) >= MAX_UPLOADS_BY_ADDRESS {
            return self.end_slow(of_address);
        }
        if self.count(of_network) >= MAX_UPLOADS_BY_NETWORK {
            return self.end_slow(of_network);
        }
        self.streams.len() < MAX_UPLOADS || self.end_slow(|_| true)
    }

    fn count(&self, counts: impl Fn(IpAddr) -> bool) -> usize {
        let addresses = self.streams.keys().map(|(address, _)| *address);
        addresses.filter(|address| counts(*address)).count()
    }

    /// The number of uploads whose clients accept bytes.
    fn active(&self) -> usize {
        let is_active = |streams: &&Streams| !streams.is_slow();
        self.streams.values().filter(is_active).count()
    }

    /// Gives up the slot of the slowest client that accepts too few bytes. Returns whether there was one.
    fn end_slow(&mut self, may_end: impl Fn(IpAddr) -> bool) -> bool {
        let slow = self
            .streams
            .iter()
            .filter(|((address, _), streams)| may_end(*address) && streams.is_slow());
        let slowest = slow.min_by_key(|(_, streams)| streams.sent.rate());
        let slowest = slowest.map(|(key, _)| key.clone());
        slowest.is_some_and(|key| self.streams.remove(&key).is_some())
    }
}

impl Streams {
    /// Whether the client has accepted no bytes for long, or accepts fewer than [`MIN_RATE`]. A client that waits for
    /// this node is not slow.
    fn is_slow(&self) -> bool {
        let waited = |client: &Weak<ClientSocket>| {
            let client = client.upgrade();
            client.map_or(Duration::ZERO, |client| client.waited())
        };
        let least = self.clients.values().map(waited).min().unwrap_or_default();
        least >= IDLE_AFTER || (!least.is_zero() && self.sent.rate() < MIN_RATE)
    }
}

impl BodyHook for Upload {
    fn sent_to(&self, client: &Arc<ClientSocket>) {
        let streams = &mut self.uploads.0.lock().streams;
        if let Some(streams) = streams.get_mut(&self.key) {
            streams.clients.insert(self.number, Arc::downgrade(client));
        }
    }

    fn sent(&self, bytes: u64) {
        let mut going = self.uploads.0.lock();
        going.sent.received(Instant::now(), bytes);
        if let Some(streams) = going.streams.get(&self.key) {
            streams.sent.add(bytes);
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let all = &mut self.uploads.0.lock().streams;
        if let Some(streams) = all.get_mut(&self.key) {
            streams.clients.remove(&self.number);
            if streams.clients.is_empty() {
                all.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use tokio::io::AsyncWrite as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::advance;

    use super::*;
    use crate::body::client_socket::ClientStream;

    #[test]
    fn ranges_of_one_follower_are_one_upload() {
        let uploads = Arc::new(Uploads::default());
        let digest = Digest::sha256(b"layer");
        let follower = |n: usize| IpAddr::from([10, 0, 0, u8::try_from(n).expect("few")]);
        let mut ranges: Vec<_> = (0..8)
            .map(|_| uploads.admit(follower(0), &digest, usize::MAX))
            .collect();
        let others: Vec<_> = (1..MAX_UPLOADS)
            .map(|n| uploads.admit(follower(n), &digest, usize::MAX))
            .collect();
        assert!(ranges.iter().chain(&others).all(Option::is_some));
        let one_more = || uploads.admit(follower(MAX_UPLOADS), &digest, usize::MAX);
        assert!(one_more().is_none());
        assert!(uploads.admit(follower(0), &digest, usize::MAX).is_some());
        ranges.truncate(1);
        assert!(one_more().is_none(), "one range is left");
        ranges.clear();
        assert!(one_more().is_some());
    }

    #[test]
    fn one_address_leaves_places_to_others() {
        let uploads = Arc::new(Uploads::default());
        let object = |n: usize| Digest::sha256(&n.to_be_bytes());
        let (hostile, honest) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let made_up: Vec<_> = (0..MAX_UPLOADS)
            .filter_map(|n| uploads.admit(hostile, &object(n), usize::MAX))
            .collect();
        assert_eq!(made_up.len(), MAX_UPLOADS_BY_ADDRESS);
        assert!(uploads.admit(honest, &object(0), usize::MAX).is_some());
    }
    #[test]
    fn one_network_leaves_places_to_others() {
        let uploads = Arc::new(Uploads::default());
        let admit = |address: &str, object: usize| {
            let address = address.parse().expect("an address");
            let digest = Digest::sha256(&object.to_be_bytes());
            uploads.admit(address, &digest, usize::MAX)
        };
        let hostile = ["fd00::1", "fd00::2", "fd00::3", "fd00::4"];
        let made_up = |address| (0..MAX_UPLOADS).filter_map(move |n| admit(address, n));
        let counts = hostile.map(|address| made_up(address).collect::<Vec<_>>());
        assert_eq!(counts.each_ref().map(Vec::len), [6, 6, 6, 0]);
        let others: Vec<_> = ["fd00:0:0:1::1", "10.0.0.1"]
            .into_iter()
            .flat_map(|address| [admit(address, 0), admit(address, 1)])
            .collect();
        assert!(others.iter().all(Option::is_some));
        // Two hosts of one network are two followers of an object.
        assert_eq!(
            uploads.followers()[&Digest::sha256(&0_usize.to_be_bytes())],
            5
        );
    }

    /// A connection whose client reads nothing by itself, and the client.
    async fn connection() -> (Arc<ClientSocket>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let client = TcpStream::connect(address).await.expect("connected");
        let (stream, _) = listener.accept().await.expect("accepted");
        (Arc::new(ClientSocket::new(stream, false)), client)
    }

    /// Sends until the client accepts no more.
    fn fill(socket: &Arc<ClientSocket>) {
        let mut stream = Box::pin(ClientStream(socket.clone()));
        let mut cx = Context::from_waker(Waker::noop());
        while stream
            .as_mut()
            .poll_write(&mut cx, &[0; 16 * 1024])
            .is_ready()
        {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_little_loses_its_place() {
        let uploads = Arc::new(Uploads::default());
        let digest = Digest::sha256(b"layer");
        let admit = |n: usize| {
            let address = IpAddr::from([10, 0, 0, u8::try_from(n).expect("few")]);
            uploads.admit(address, &digest, usize::MAX)
        };
        let all: Vec<_> = (0..MAX_UPLOADS)
            .map(|n| admit(n).expect("a slot"))
            .collect();
        let (slow, _slow_client) = connection().await;
        let (starved, _starved_client) = connection().await;
        let (fast, _fast_client) = connection().await;
        for (upload, socket) in all.iter().zip([&slow, &starved, &fast]) {
            upload.sent_to(socket);
        }
        for socket in [&slow, &fast] {
            fill(socket);
        }
        let step = IDLE_AFTER - Duration::from_millis(100);
        for _ in 0..4 {
            advance(step).await;
            // Each accepts some bytes, and then waits again. Of the second, only the source is slow.
            for (upload, socket, bytes) in [
                (&all[0], &slow, 16 * 1024),
                (&all[1], &starved, 16 * 1024),
                (&all[2], &fast, 16 * 1024 * 1024),
            ] {
                socket.begin_request();
                upload.sent(bytes);
            }
            for socket in [&slow, &fast] {
                fill(socket);
            }
        }
        advance(Duration::from_millis(100)).await;
        let _newcomer = admit(MAX_UPLOADS).expect("the place of the slow one");
        assert!(admit(MAX_UPLOADS + 1).is_none(), "the others keep theirs");
    }
}
