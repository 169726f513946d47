//! Records where peers were proven to be, and limits how often this node connects to unproven addresses.
//!
//! A peer's addresses are what it, or others, report. A handshake at an address proves that the peer is there. Until
//! then few connections to an address are made, so no peer can direct this node's connections at a third host.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use lru::LruCache;

/// The most connections to an IP address, in [`WINDOW`], that do not reach the peer announced there.
const MAX_ATTEMPTS: u8 = 4;
const WINDOW: Duration = Duration::from_secs(60);
/// The most addresses with such connections. Beyond that, no further address is tried.
const MAX_PLACES: usize = 4_096;
/// The most peers whose proven addresses are remembered.
const MAX_PEERS: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");
/// The most proven addresses of one peer. The latest are kept.
const MAX_IPS: usize = 4;

/// The unit by which connections are counted: an IP address. On loopback several nodes share one, so there a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum DialTarget {
    Ip(IpAddr),
    Socket(SocketAddr),
}

impl DialTarget {
    fn of(socket: &SocketAddr) -> Self {
        match socket.ip().to_canonical() {
            ip if ip.is_loopback() => Self::Socket(*socket),
            ip => Self::Ip(ip),
        }
    }
}

#[derive(Debug)]
struct Attempts {
    count: u8,
    since: Instant,
}

#[derive(Debug)]
pub(crate) struct Proven {
    /// The peers met, with their proven addresses.
    peers: LruCache<PeerId, Vec<IpAddr>>,
    attempts: HashMap<DialTarget, Attempts>,
    /// The addresses from the configuration, or proven in an earlier run.
    seeds: HashSet<SocketAddr>,
    refused: u64,
}

impl Default for Proven {
    fn default() -> Self {
        Self {
            peers: LruCache::new(MAX_PEERS),
            attempts: HashMap::new(),
            seeds: HashSet::new(),
            refused: 0,
        }
    }
}

impl Proven {
    /// Records that a peer is connected, wherever it is.
    pub(crate) fn met(&mut self, peer: PeerId) {
        self.peers.get_or_insert_mut(peer, Vec::new);
    }

    /// Records a handshake with a peer at an address that this node connected to.
    pub(crate) fn reached(&mut self, peer: PeerId, socket: &SocketAddr) {
        self.is_at(peer, socket.ip());
        if let Some(attempts) = self.attempts.get_mut(&DialTarget::of(socket)) {
            attempts.count = attempts.count.saturating_sub(1);
        }
    }

    /// Records that a peer was proven at an IP address.
    pub(crate) fn is_at(&mut self, peer: PeerId, ip: IpAddr) {
        let ip = ip.to_canonical();
        let ips = self.peers.get_or_insert_mut(peer, Vec::new);
        ips.retain(|known| *known != ip);
        ips.insert(0, ip);
        ips.truncate(MAX_IPS);
    }

    /// The proven IP addresses of a peer, the latest first. `None`: it was not met lately.
    pub(crate) fn ips(&self, peer: &PeerId) -> Option<&[IpAddr]> {
        self.peers.peek(peer).map(Vec::as_slice)
    }

    /// The announced registry addresses of a peer at IP addresses where it was proven. For a peer that was never met:
    /// those at the announced addresses of its router.
    pub(crate) fn registries<'a>(
        &self,
        peer: &PeerId,
        registries: impl IntoIterator<Item = &'a SocketAddr>,
        routers: &[SocketAddr],
    ) -> Vec<SocketAddr> {
        let claimed: Vec<_> = routers.iter().map(|s| s.ip().to_canonical()).collect();
        let ips = self.ips(peer).unwrap_or(&claimed);
        let is_there = |socket: &&SocketAddr| ips.contains(&socket.ip().to_canonical());
        registries.into_iter().filter(is_there).copied().collect()
    }

    /// Replaces the addresses from the configuration.
    pub(crate) fn set_seeds(&mut self, seeds: impl IntoIterator<Item = SocketAddr>) {
        self.seeds = seeds.into_iter().collect();
    }

    /// Whether to connect to an address now, for a peer announced there. It is counted.
    pub(crate) fn may_dial(&mut self, now: Instant, peer: &PeerId, socket: &SocketAddr) -> bool {
        let ip = socket.ip().to_canonical();
        let is_there = self.ips(peer).is_some_and(|ips| ips.contains(&ip));
        if is_there || self.seeds.contains(socket) {
            return true;
        }
        let place = DialTarget::of(socket);
        let is_old = |attempts: &Attempts| now.duration_since(attempts.since) >= WINDOW;
        if self.attempts.get(&place).is_some_and(is_old) {
            self.attempts.remove(&place);
        }
        if self.attempts.len() >= MAX_PLACES && !self.attempts.contains_key(&place) {
            self.attempts.retain(|_, attempts| !is_old(attempts));
        }
        let has_room = self.attempts.len() < MAX_PLACES || self.attempts.contains_key(&place);
        let fresh = || Attempts {
            count: 0,
            since: now,
        };
        if has_room {
            let attempts = self.attempts.entry(place).or_insert_with(fresh);
            if attempts.count < MAX_ATTEMPTS {
                attempts.count += 1;
                return true;
            }
        }
        self.refused += 1;
        false
    }

    /// The number of connections not attempted since the last call.
    pub(crate) fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(host: u8, port: u16) -> SocketAddr {
        ([10, 0, 0, host], port).into()
    }

    #[test]
    fn an_address_where_nobody_was_proven_is_tried_four_times_a_minute() {
        let (mut proven, start) = (Proven::default(), Instant::now());
        let tried = |proven: &mut Proven, at: u64| {
            let now = start + Duration::from_secs(at);
            // Another peer and another port each time.
            let ports =
                (1..=100).filter(|port| proven.may_dial(now, &PeerId::random(), &socket(1, *port)));
            ports.count()
        };
        assert_eq!(tried(&mut proven, 0), 4);
        assert_eq!(tried(&mut proven, 59), 0);
        assert_eq!(tried(&mut proven, 60), 4);
        assert_eq!(proven.take_refused(), 96 + 100 + 96);
        // A peer that was reached there before is reached again, and so is another host.
        let peer = PeerId::random();
        proven.reached(peer, &socket(1, 5));
        let now = start + Duration::from_secs(61);
        assert!(proven.may_dial(now, &peer, &socket(1, 5)));
        assert!(proven.may_dial(now, &PeerId::random(), &socket(2, 5)));
        proven.set_seeds([socket(1, 6)]);
        assert!(proven.may_dial(now, &PeerId::random(), &socket(1, 6)));
    }

    #[test]
    fn peers_that_are_where_they_say_cost_nothing() {
        let (mut proven, now) = (Proven::default(), Instant::now());
        for port in 1..=100 {
            let peer = PeerId::random();
            assert!(proven.may_dial(now, &peer, &socket(1, port)));
            proven.reached(peer, &socket(1, port));
        }
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let tried =
            (1..=100).filter(|port| proven.may_dial(now, &PeerId::random(), &loopback(*port)));
        assert_eq!(
            tried.count(),
            100,
            "nodes on loopback are told apart by their ports"
        );
    }

    #[test]
    fn places_are_bounded() {
        let (mut proven, now) = (Proven::default(), Instant::now());
        let at =
            |number: u32| SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + number), 1));
        let tried = |proven: &mut Proven, now| {
            let all = 0..2 * MAX_PLACES as u32;
            all.filter(|number| proven.may_dial(now, &PeerId::random(), &at(*number)))
                .count()
        };
        assert_eq!(tried(&mut proven, now), MAX_PLACES);
        assert_eq!(
            tried(&mut proven, now + WINDOW),
            MAX_PLACES,
            "once the window is over"
        );
    }
}
