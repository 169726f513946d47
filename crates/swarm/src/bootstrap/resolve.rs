//! Names into addresses, by the host's resolver configuration.

use std::net::IpAddr;
use std::time::Duration;

use futures::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::NetError;
use rand::seq::SliceRandom as _;
use tokio::time::timeout;

use super::{Seed, SourceError};
use crate::PeerAddress;
use crate::peer_address::Host;

/// Addresses taken of one name. A headless service names every pod.
const MAX_ADDRESSES: usize = 1024;
/// Names asked for at once; of more, some at random, and others in the next round.
const MAX_NAMES: usize = 128;
/// For one name.
pub(super) const NAME_TIMEOUT: Duration = Duration::from_secs(2);

/// Every address of both families. A name that does not resolve hides neither other names nor plain addresses.
pub(super) async fn seeds(
    peers: &[PeerAddress],
    default_port: u16,
) -> (Vec<Seed>, Option<SourceError>) {
    let look_up = |resolver: TokioResolver, name| async move {
        let found = resolver.lookup_ip(name).await?;
        Ok(found.iter().take(MAX_ADDRESSES).collect())
    };
    seeds_by(peers, default_port, resolver, look_up, NAME_TIMEOUT).await
}

/// `resolver` is made only if there is a name to ask it for.
async fn seeds_by<R: Clone, F>(
    peers: &[PeerAddress],
    default_port: u16,
    resolver: impl FnOnce() -> Result<R, SourceError>,
    look_up: impl Fn(R, String) -> F,
    limit: Duration,
) -> (Vec<Seed>, Option<SourceError>)
where
    F: Future<Output = Result<Vec<IpAddr>, NetError>>,
{
    let (mut seeds, mut names) = (Vec::new(), Vec::new());
    let seed = |peer: &PeerAddress, ip| Seed {
        id: peer.id,
        socket: (ip, peer.port.unwrap_or(default_port)).into(),
    };
    for peer in peers {
        match &peer.host {
            Host::Ip(ip) => seeds.push(seed(peer, *ip)),
            Host::Name(name) => names.push((peer, name)),
        }
    }
    if names.is_empty() {
        return (seeds, None);
    }
    let resolver = match resolver() {
        Ok(resolver) => resolver,
        Err(why) => return (seeds, Some(why)),
    };
    names.shuffle(&mut rand::rng());
    names.truncate(MAX_NAMES);
    let answers = join_all(names.into_iter().map(|(peer, name)| {
        let answer = timeout(limit, look_up(resolver.clone(), name.clone()));
        async move { (peer, name.clone(), answer.await) }
    }));
    let mut error = None;
    for (peer, name, answer) in answers.await {
        match answer {
            Ok(Ok(found)) => seeds.extend(found.into_iter().map(|ip| seed(peer, ip))),
            Ok(Err(source)) => error = Some(SourceError::Name { name, source }),
            Err(_) => error = Some(SourceError::SilentName { name }),
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
    use std::sync::Arc;

    use tokio::sync::Barrier;

    use super::*;

    fn peers<const N: usize>(texts: [&str; N]) -> [PeerAddress; N] {
        texts.map(|text| text.parse().expect("a peer"))
    }

    fn sockets(seeds: &[Seed]) -> Vec<String> {
        let mut sockets: Vec<_> = seeds.iter().map(|s| s.socket.to_string()).collect();
        sockets.sort();
        sockets
    }

    #[tokio::test]
    async fn addresses_need_no_resolver() {
        let plain = peers(["10.0.0.1", "[fd00::1]:7"]);
        let (found, error) = seeds(&plain, 5001).await;
        assert_eq!(sockets(&found), ["10.0.0.1:5001", "[fd00::1]:7"]);
        assert!(error.is_none());
        let mixed = peers(["a-name", "10.0.0.1"]);
        let none = || Err(SourceError::Resolver("no file".into()));
        let look_up = |(), _| async { Ok(Vec::new()) };
        let (found, error) = seeds_by(&mixed, 5001, none, look_up, NAME_TIMEOUT).await;
        assert_eq!(sockets(&found), ["10.0.0.1:5001"]);
        assert!(matches!(error, Some(SourceError::Resolver(_))));
    }

    #[tokio::test]
    async fn silent_names_hide_nobody_and_names_are_asked_for_together() {
        const SHORT: Duration = Duration::from_millis(200);
        let mixed = peers(["silent-1", "known-1:7", "silent-2", "known-2:8", "10.0.0.1"]);
        // Each of the known waits for the other.
        let both = Arc::new(Barrier::new(2));
        let look_up = |both: Arc<Barrier>, name: String| async move {
            if name.starts_with("silent") {
                std::future::pending::<()>().await;
            }
            both.wait().await;
            Ok(vec![[10, 0, 0, 2].into()])
        };
        let (found, error) = seeds_by(&mixed, 5001, || Ok(both), look_up, SHORT).await;
        let expected = ["10.0.0.1:5001", "10.0.0.2:7", "10.0.0.2:8"];
        assert_eq!(sockets(&found), expected);
        assert!(matches!(error, Some(SourceError::SilentName { .. })));
    }
}
