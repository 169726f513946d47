//! Where peers were proven to be, and how often this node connects to where nobody was.
//!
//! A peer's addresses are what it says, or what others say of it. A handshake at an address proves that the peer is there.
//! Until then few connections to an address are made, so nobody can turn this node against a third host.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use lru::LruCache;
use mirror::serve::counted_address;

/// The most connections to an IP address, in [`WINDOW`], that do not reach the peer that is said to be there.
const MAX_ATTEMPTS: u8 = 4;
const WINDOW: Duration = Duration::from_secs(60);
/// The most places with such connections. Beyond them no other place is tried. For peers that are no members half of them
/// are, so whoever names addresses without end keeps no member from being reached.
const MAX_PLACES: usize = 4_096;
/// The most peers from one IP address (IPv6: /64), in [`WINDOW`], that this node connects to because they came from elsewhere
/// than they say.
const MAX_INTRODUCTIONS: u8 = 16;
/// The most IP addresses of which those are counted. Beyond them no other introduction is followed.
const MAX_INTRODUCERS: usize = 1_024;
/// Peers that are no members whose proven addresses are remembered.
const MAX_OTHERS: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");
/// The proven addresses of one peer. The latest are kept.
const MAX_IPS: usize = 4;

/// Where connections are counted: at an IP address. On loopback several nodes share one, so there at a socket.
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

/// Counts attempts in [`WINDOW`].
#[derive(Debug)]
struct Counts<K>(HashMap<K, Attempts>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Counts<K> {
    /// Counts an attempt. Returns whether it is allowed: one of so many of this key, among so many keys.
    fn admits(&mut self, now: Instant, key: K, most: u8, most_keys: usize) -> bool {
        let is_old = |attempts: &Attempts| now.duration_since(attempts.since) >= WINDOW;
        if self.0.get(&key).is_some_and(is_old) {
            self.0.remove(&key);
        }
        if self.0.len() >= most_keys && !self.0.contains_key(&key) {
            self.0.retain(|_, attempts| !is_old(attempts));
            if self.0.len() >= most_keys {
                return false;
            }
        }
        let fresh = || Attempts {
            count: 0,
            since: now,
        };
        let attempts = self.0.entry(key).or_insert_with(fresh);
        let is_allowed = attempts.count < most;
        attempts.count += u8::from(is_allowed);
        is_allowed
    }
}

#[derive(Debug)]
pub(crate) struct Proven {
    /// The members, with the addresses where they were proven. `None`: not met yet.
    members: HashMap<PeerId, Option<Vec<IpAddr>>>,
    /// The same of other peers that were met.
    others: LruCache<PeerId, Vec<IpAddr>>,
    attempts: Counts<DialTarget>,
    introductions: Counts<IpAddr>,
    /// What the operator has named, or what was proven in an earlier run.
    seeds: HashSet<SocketAddr>,
    refused: u64,
}

impl Default for Proven {
    fn default() -> Self {
        Self {
            members: HashMap::new(),
            others: LruCache::new(MAX_OTHERS),
            attempts: Counts::default(),
            introductions: Counts::default(),
            seeds: HashSet::new(),
            refused: 0,
        }
    }
}

impl Proven {
    /// Replaces the members. They are never forgotten to remember others.
    pub(crate) fn set_members(&mut self, members: impl Iterator<Item = PeerId>) {
        let mut before = std::mem::take(&mut self.members);
        for peer in members {
            let known = before.remove(&peer).flatten();
            let known = known.or_else(|| self.others.pop(&peer));
            self.members.insert(peer, known);
        }
        let left = before.into_iter();
        for (peer, ips) in left.filter_map(|(peer, ips)| Some((peer, ips?))) {
            self.others.put(peer, ips);
        }
    }

    /// The proven addresses of a peer that was met.
    fn ips_mut(&mut self, peer: PeerId) -> &mut Vec<IpAddr> {
        match self.members.get_mut(&peer) {
            Some(ips) => ips.get_or_insert_default(),
            None => self.others.get_or_insert_mut(peer, Vec::new),
        }
    }

    /// Records that a peer is connected, wherever it is.
    pub(crate) fn met(&mut self, peer: PeerId) {
        self.ips_mut(peer);
    }

    /// Records a handshake with a peer at an address that this node connected to.
    pub(crate) fn reached(&mut self, peer: PeerId, socket: &SocketAddr) {
        self.is_at(peer, socket.ip());
        if let Some(attempts) = self.attempts.0.get_mut(&DialTarget::of(socket)) {
            attempts.count = attempts.count.saturating_sub(1);
        }
    }

    /// Records that a peer was proven at an IP address.
    pub(crate) fn is_at(&mut self, peer: PeerId, ip: IpAddr) {
        let ip = ip.to_canonical();
        let ips = self.ips_mut(peer);
        ips.retain(|known| *known != ip);
        ips.insert(0, ip);
        ips.truncate(MAX_IPS);
    }

    /// The IP addresses where a peer was proven, the latest first. `None`: it was not met lately.
    pub(crate) fn ips(&self, peer: &PeerId) -> Option<&[IpAddr]> {
        let ips = match self.members.get(peer) {
            Some(ips) => ips.as_ref(),
            None => self.others.peek(peer),
        };
        ips.map(Vec::as_slice)
    }

    /// Of the addresses where a peer's registry is said to be, those at IP addresses where the peer was proven. For one that
    /// was never met, those where its router is said to be.
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

    /// Replaces what the operator has named.
    pub(crate) fn set_seeds(&mut self, seeds: impl IntoIterator<Item = SocketAddr>) {
        self.seeds = seeds.into_iter().collect();
    }

    /// Whether to connect to an address now, for a peer that is said to be there. It is counted.
    pub(crate) fn may_dial(&mut self, now: Instant, peer: &PeerId, socket: &SocketAddr) -> bool {
        let ip = socket.ip().to_canonical();
        let is_there = self.ips(peer).is_some_and(|ips| ips.contains(&ip));
        if is_there || self.seeds.contains(socket) {
            return true;
        }
        let most_places = match self.members.contains_key(peer) {
            true => MAX_PLACES,
            false => MAX_PLACES / 2,
        };
        let place = DialTarget::of(socket);
        let may_dial = self.attempts.admits(now, place, MAX_ATTEMPTS, most_places);
        self.refused += u64::from(!may_dial);
        may_dial
    }

    /// Whether to connect to where a peer says it is that came from this IP address, to prove that. It is counted.
    pub(crate) fn may_prove(&mut self, now: Instant, came_from: IpAddr) -> bool {
        let introducer = counted_address(came_from);
        self.introductions
            .admits(now, introducer, MAX_INTRODUCTIONS, MAX_INTRODUCERS)
    }

    /// How many connections were not made since this was last asked.
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
        // Who was reached there before is reached again, and so is another host.
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
        assert_eq!(tried(&mut proven, now), MAX_PLACES / 2);
        // Whoever names addresses without end keeps no member from being reached.
        let member = PeerId::random();
        proven.set_members([member].into_iter());
        assert!(proven.may_dial(now, &member, &socket(1, 5001)));
        assert_eq!(
            tried(&mut proven, now + WINDOW),
            MAX_PLACES / 2,
            "once the window is over"
        );
    }

    #[test]
    fn members_are_not_forgotten_however_many_others_are_met() {
        let mut proven = Proven::default();
        let (member, unmet) = (PeerId::random(), PeerId::random());
        proven.reached(member, &socket(1, 5001));
        proven.set_members([member, unmet].into_iter());
        for _ in 0..2 * MAX_OTHERS.get() {
            proven.met(PeerId::random());
        }
        let at = [socket(1, 5001).ip()];
        assert_eq!(proven.ips(&member), Some(&at[..]));
        assert_eq!(proven.ips(&unmet), None);
        proven.set_members(std::iter::empty());
        assert_eq!(proven.ips(&member), Some(&at[..]), "as any other peer");
        proven.set_members([member].into_iter());
        assert_eq!(proven.ips(&member), Some(&at[..]));
    }

    #[test]
    fn few_introductions_from_one_host_are_followed() {
        let (mut proven, now) = (Proven::default(), Instant::now());
        let followed = |proven: &mut Proven, from: fn(u16) -> IpAddr| {
            (0..100).filter(|n| proven.may_prove(now, from(*n))).count()
        };
        assert_eq!(followed(&mut proven, |_| [10, 0, 0, 9].into()), 16);
        let of_one_host = |n| [0xfd00, 0, 0, 1, n, 0, 0, 1].into();
        assert_eq!(followed(&mut proven, of_one_host), 16);
        assert_eq!(followed(&mut proven, |_| [10, 0, 0, 8].into()), 16);
    }
}
