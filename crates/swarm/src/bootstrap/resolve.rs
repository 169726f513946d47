//! Resolves names to addresses, by the host's resolver configuration.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use names::{NameError, Names};
use rand::seq::SliceRandom as _;
use tokio::time::timeout;

use super::{Seed, SourceError};
use crate::PeerAddress;
use crate::peer_address::Host;

/// The most addresses taken of one name. A headless service names every pod.
const MAX_ADDRESSES: usize = 1024;
/// The most names resolved at once. If there are more, some are chosen at random in each round.
const MAX_NAMES: usize = 128;
/// The limit for one name.
pub(super) const NAME_TIMEOUT: Duration = Duration::from_secs(2);

/// Resolves to all addresses of both families. A name that does not resolve hides neither other names nor plain
/// addresses.
pub(super) async fn seeds(
    names: &Arc<Names>,
    peers: &[PeerAddress],
    default_port: u16,
) -> (Vec<Seed>, Option<SourceError>) {
    let look_up = |name: String| {
        let names = names.clone();
        async move {
            let mut found = names.addresses(&name).await?;
            found.truncate(MAX_ADDRESSES);
            Ok(found)
        }
    };
    seeds_by(peers, default_port, look_up, NAME_TIMEOUT).await
}

async fn seeds_by<F>(
    peers: &[PeerAddress],
    default_port: u16,
    look_up: impl Fn(String) -> F,
    limit: Duration,
) -> (Vec<Seed>, Option<SourceError>)
where
    F: Future<Output = Result<Vec<IpAddr>, NameError>>,
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
    names.shuffle(&mut rand::rng());
    names.truncate(MAX_NAMES);
    let answers = join_all(names.into_iter().map(|(peer, name)| {
        let answer = timeout(limit, look_up(name.clone()));
        async move { (peer, name.clone(), answer.await) }
    }));
    let mut error = None;
    for (peer, name, answer) in answers.await {
        match answer {
            Ok(Ok(found)) => seeds.extend(found.into_iter().map(|ip| seed(peer, ip))),
            Ok(Err(why)) => error = Some(SourceError::Name(why)),
            Err(_) => error = Some(SourceError::SilentName { name }),
        }
    }
    (seeds, error)
}

#[cfg(test)]
mod tests {
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
    async fn an_unknown_name_hides_no_address() {
        let mixed = peers(["a-name", "10.0.0.1", "[fd00::1]:7"]);
        let look_up = |name| async {
            let servers = "10.0.0.9".to_owned();
            Err(NameError::Unknown { name, servers })
        };
        let (found, error) = seeds_by(&mixed, 5001, look_up, NAME_TIMEOUT).await;
        assert_eq!(sockets(&found), ["10.0.0.1:5001", "[fd00::1]:7"]);
        assert!(matches!(error, Some(SourceError::Name(_))));
    }

    #[tokio::test]
    async fn silent_names_hide_nobody_and_names_are_asked_for_together() {
        const SHORT: Duration = Duration::from_millis(200);
        let mixed = peers(["silent-1", "known-1:7", "silent-2", "known-2:8", "10.0.0.1"]);
        // Each of the known waits for the other.
        let both = Arc::new(Barrier::new(2));
        let look_up = |name: String| {
            let both = both.clone();
            async move {
                if name.starts_with("silent") {
                    std::future::pending::<()>().await;
                }
                both.wait().await;
                Ok(vec![[10, 0, 0, 2].into()])
            }
        };
        let (found, error) = seeds_by(&mixed, 5001, look_up, SHORT).await;
        let expected = ["10.0.0.1:5001", "10.0.0.2:7", "10.0.0.2:8"];
        assert_eq!(sockets(&found), expected);
        assert!(matches!(error, Some(SourceError::SilentName { .. })));
    }
}
