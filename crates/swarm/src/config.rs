//! The configuration of the router, in types that exclude invalid values.

use std::path::PathBuf;

use mirror::ListenAddress;
use mirror::serve::ConnectionLimits;
use network_key::Keyring;
use tls::PeerTls;
use url::Url;

use crate::PeerAddress;

/// The configuration of one node's router.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name that this node reports to peers. It is only shown.
    pub node_name: String,
    /// The address that peers connect to (`--router-addr`).
    pub listen: ListenAddress,
    /// The port of this node's registry, announced to peers; and, as in Spegel, the assumed port of a peer that
    /// announces none.
    pub registry_port: u16,
    /// The folder in which the identity and known peers are kept over restarts. Without it, each start makes a new
    /// node.
    pub data_dir: Option<PathBuf>,
    pub bootstrap: Bootstrap,
    /// Whether this node takes part in flights (`--flights`). Without them, it finds content and is found by provider
    /// records only, as Spegel's nodes are.
    pub flights: bool,
    /// The keys of the network. A peer must have one of them (`--network-key-file`). `None`: any node may be a peer.
    pub network_keys: Option<Keyring>,
    /// The certificates by which this node and its peers know each other (`--peer-tls-dir`). `None`: connections begin
    /// without TLS.
    pub peer_tls: Option<PeerTls>,
    /// The most connections of each port, derived from the limit of descriptors.
    pub connections: ConnectionLimits,
}

/// The source of the first peers.
#[derive(Clone, Debug)]
pub enum Bootstrap {
    /// The A and AAAA records of a name, such as a headless service's; peers listen on this node's router port.
    Dns {
        domain: String,
    },
    Http(HttpBootstrap),
    /// Some of the cluster's nodes. Any live one suffices. An empty list makes a cluster of one.
    Static {
        peers: Vec<PeerAddress>,
    },
}

/// Peers that report their ids and addresses over HTTP.
#[derive(Clone, Debug, Default)]
pub struct HttpBootstrap {
    /// The endpoints to ask, each a full URL. May be empty, for a node that others ask.
    pub endpoints: Vec<Url>,
    /// The address at which this node answers `/id`. `None`: it does not.
    pub serve: Option<ListenAddress>,
    /// The form of its answers.
    pub form: IdForm,
    /// The folder of `ca.crt`, `tls.crt` and `tls.key` for requests over https. Each is optional, the last two
    /// together.
    pub certificates: Option<PathBuf>,
}

impl HttpBootstrap {
    /// The endpoint of a peer as Spegel's releases name it (`--http-bootstrap-peer http://host:5002`).
    ///
    /// # Errors
    /// It is not an http or https URL.
    pub fn endpoint_of_peer(peer: &str) -> Result<Url, ConfigError> {
        Self::endpoint(peer)?;
        Self::endpoint(&format!("{}/id", peer.trim_end_matches('/')))
    }

    /// An endpoint as Spegel's main branch names it (`--http-bootstrap-url`).
    ///
    /// # Errors
    /// It is not an http or https URL.
    pub fn endpoint(url: &str) -> Result<Url, ConfigError> {
        Url::parse(url)
            .ok()
            .filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host())
            .ok_or_else(|| ConfigError::Url(url.into()))
    }
}

/// The form of the answer at `/id`. Spegel's releases understand only one object, its main branch only a list, and
/// their requests look the same. But a node is configured as its neighbours are, so its flags show what they
/// understand: `One` with `--http-bootstrap-peer`, `List` otherwise. Peili itself understands both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdForm {
    #[default]
    List,
    One,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("{0:?} is not a URL such as http://host:5002")]
    Url(String),
    #[error(
        "{0:?} is not a peer; write HOST:PORT, an address, or /ip4/10.0.0.1/tcp/5001 with or without /p2p/ID"
    )]
    Peer(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let of_peer = |text| HttpBootstrap::endpoint_of_peer(text).map(|u| u.to_string());
        assert_eq!(
            of_peer("http://10.0.0.1:5002").as_deref(),
            Ok("http://10.0.0.1:5002/id")
        );
        assert_eq!(
            of_peer("https://h/base/").as_deref(),
            Ok("https://h/base/id")
        );
        for bad in ["", "10.0.0.1:5002", "ftp://h", "http://"] {
            assert_eq!(of_peer(bad), Err(ConfigError::Url(bad.into())));
            assert!(HttpBootstrap::endpoint(bad).is_err());
        }
    }
}
