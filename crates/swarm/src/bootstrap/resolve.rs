//! Names into addresses, by the host's resolver configuration.

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;

use super::{Seed, SourceError};
use crate::PeerAddress;
use crate::peer_address::Host;

/// Addresses taken of one name. A headless service names every pod.
const MAX_ADDRESSES: usize = 1024;

/// Every address of both families. A name that does not resolve does not hide the others.
pub(super) async fn seeds(
    peers: &[PeerAddress],
    default_port: u16,
) -> (Vec<Seed>, Option<SourceError>) {
    let (mut seeds, mut error) = (Vec::new(), None);
    let mut known = None;
    for peer in peers {
        let seed = |ip| Seed {
            id: peer.id,
            socket: (ip, peer.port.unwrap_or(default_port)).into(),
        };
        let name = match &peer.host {
            Host::Ip(ip) => {
                seeds.push(seed(*ip));
                continue;
            }
            Host::Name(name) => name,
        };
        let resolver = match known.take().map_or_else(resolver, Ok) {
            Ok(resolver) => &*known.insert(resolver),
            Err(why) => return (seeds, Some(why)),
        };
        match resolver.lookup_ip(name.as_str()).await {
            Ok(found) => seeds.extend(found.iter().take(MAX_ADDRESSES).map(seed)),
            Err(source) => {
                let name = name.clone();
                error = Some(SourceError::Name { name, source });
            }
        }
    }
    (seeds, error)
}

/// Made anew for each round: the host's configuration may change, and an answer of the last round is no news.
pub(super) fn resolver() -> Result<TokioResolver, SourceError> {
    let mut builder = TokioResolver::builder_tokio().map_err(SourceError::Resolver)?;
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = 0;
    builder.build().map_err(SourceError::Resolver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_need_no_resolver() {
        let peers = ["10.0.0.1", "[fd00::1]:7"].map(|p| p.parse().expect("a peer"));
        let (seeds, error) = seeds(&peers, 5001).await;
        let sockets: Vec<_> = seeds.iter().map(|s| s.socket.to_string()).collect();
        assert_eq!(sockets, ["10.0.0.1:5001", "[fd00::1]:7"]);
        assert!(error.is_none());
    }
}
