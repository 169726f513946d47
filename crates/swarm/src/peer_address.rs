//! The address of a peer as a text.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::ConfigError;

/// The address of a peer, from a configuration or another peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    pub(crate) host: Host,
    /// `None`: the same as this node's.
    pub(crate) port: Option<u16>,
    /// `None`: any peer that answers there.
    pub(crate) id: Option<PeerId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Ip(IpAddr),
    Name(String),
}

impl PeerAddress {
    pub(crate) fn from_multiaddr(address: &Multiaddr) -> Option<Self> {
        let mut parts = address.iter().peekable();
        let host = match parts.next()? {
            Protocol::Ip4(ip) => Host::Ip(ip.into()),
            Protocol::Ip6(ip) => Host::Ip(ip.into()),
            Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)
                if name.len() <= MAX_NAME =>
            {
                Host::Name(name.into_owned())
            }
            _ => return None,
        };
        let port = parts.next_if(|part| matches!(part, Protocol::Tcp(_)));
        let port = port.and_then(|part| match part {
            Protocol::Tcp(port) => Some(port),
            _ => None,
        });
        let id = match parts.next() {
            None => None,
            Some(Protocol::P2p(id)) => Some(id),
            Some(_) => return None,
        };
        let whole = parts.next().is_none();
        whole.then_some(Self { host, port, id })
    }

    /// `10.0.0.1`, `10.0.0.1:5001`, `fd00::1`, `[fd00::1]:5001`, `host`, `host:5001`.
    fn from_host_port(text: &str) -> Option<Self> {
        let (host, port) = if let Ok(socket) = text.parse::<SocketAddr>() {
            (Host::Ip(socket.ip()), Some(socket.port()))
        } else if let Ok(ip) = text.trim_matches(['[', ']']).parse() {
            (Host::Ip(ip), None)
        } else {
            let (name, port) = match text.split_once(':') {
                Some((name, port)) => (name, Some(port.parse().ok()?)),
                None => (text, None),
            };
            let label = |l: &str| {
                !l.is_empty()
                    && l.bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            };
            let absolute = name.strip_suffix('.').unwrap_or(name);
            if name.len() > MAX_NAME || !absolute.split('.').all(label) {
                return None;
            }
            (Host::Name(name.into()), port)
        };
        let id = None;
        Some(Self { host, port, id })
    }
}

/// RFC 1035 section 3.1: a name has at most 255 octets.
const MAX_NAME: usize = 255;

impl FromStr for PeerAddress {
    type Err = ConfigError;

    /// Parses a multiaddress, with or without a port and a peer id, or a host or address with or without a port.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let parsed = if text.starts_with('/') {
            let address = text.parse().ok();
            address.and_then(|a| Self::from_multiaddr(&a))
        } else {
            Self::from_host_port(text)
        };
        parsed
            .filter(|peer| peer.port != Some(0))
            .ok_or_else(|| ConfigError::Peer(text.into()))
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) if self.port.is_some() => write!(f, "[{ip}]")?,
            Host::Ip(ip) => ip.fmt(f)?,
            Host::Name(name) => f.write_str(name)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "12D3KooWAsvvigG9jqjMNWMmqXph6BvszxTus6Fg6k5UZda2iKDB";

    #[test]
    fn peers_in_all_their_spellings() {
        for (text, shown) in [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1:5001", "10.0.0.1:5001"),
            ("fd00::1", "fd00::1"),
            ("[fd00::1]:5001", "[fd00::1]:5001"),
            ("node-1.cluster.local", "node-1.cluster.local"),
            ("node-1:5001", "node-1:5001"),
            ("/ip4/10.0.0.1", "10.0.0.1"),
            ("/ip6/fd00::1/tcp/5001", "[fd00::1]:5001"),
            ("/dns4/node-1/tcp/5001", "node-1:5001"),
        ] {
            let peer: PeerAddress = text.parse().expect(text);
            assert_eq!((peer.to_string().as_str(), peer.id), (shown, None));
        }
        let with_id: PeerAddress = format!("/ip4/10.0.0.1/tcp/5001/p2p/{ID}")
            .parse()
            .expect("sound");
        let long: Multiaddr = format!("/dns/{}", "a".repeat(MAX_NAME + 1))
            .parse()
            .expect("a multiaddress");
        assert_eq!(PeerAddress::from_multiaddr(&long), None);
        assert_eq!(with_id.id.map(|id| id.to_string()).as_deref(), Some(ID));
        for bad in [
            "",
            ":5001",
            "host:",
            "host:0",
            "host:x",
            "a b",
            "a..b",
            "http://host",
            "/",
            "/ip4/10.0.0.1/udp/5001/quic-v1",
            "/ip4/10.0.0.1/tcp/5001/ws",
            "/ip4/x/tcp/1",
        ] {
            assert_eq!(
                bad.parse::<PeerAddress>(),
                Err(ConfigError::Peer(bad.into()))
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_peer_or_an_error(text in "\\PC*") {
            let _ = text.parse::<PeerAddress>();
        }

        #[test]
        fn any_socket_is_a_peer(ip: IpAddr, port in 1u16..) {
            let socket = SocketAddr::new(ip, port);
            let plain: PeerAddress = socket.to_string().parse().expect("a socket");
            prop_assert_eq!((plain.host, plain.port), (Host::Ip(ip), Some(port)));
        }
    }
}
