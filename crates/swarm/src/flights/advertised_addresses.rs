//! The addresses that this node advertises.

use std::net::IpAddr;

use ::flights::members::Contact;

use crate::addresses::Endpoint;

/// The addresses of this node. Some may not be reachable, such as those of bridges, and only a few are advertised:
/// first those at which a peer has reached this node.
#[derive(Debug, Default)]
pub(super) struct AdvertisedAddresses {
    endpoints: Vec<Endpoint>,
    proven: Vec<IpAddr>,
}

impl AdvertisedAddresses {
    pub(super) fn set(&mut self, endpoints: Vec<Endpoint>) {
        self.endpoints = endpoints;
        let endpoints = &self.endpoints;
        self.proven.retain(|ip| has(endpoints, ip));
    }

    /// Records that a peer has reached this node at this address. Returns whether that is new.
    pub(super) fn prove(&mut self, ip: IpAddr) -> bool {
        let is_news = has(&self.endpoints, &ip) && !self.proven.contains(&ip);
        if is_news {
            self.proven.push(ip);
        }
        is_news
    }

    /// The best addresses of each kind.
    pub(super) fn contact(&self) -> Contact {
        let mut best = self.endpoints.clone();
        best.sort_by_key(|endpoint| !self.proven.contains(&endpoint.socket().ip()));
        let (mut router, mut registry) = (Vec::new(), Vec::new());
        for endpoint in best {
            match endpoint {
                Endpoint::Router(socket) => router.push(socket),
                Endpoint::Registry(socket) => registry.push(socket),
            }
        }
        Contact::new(router, registry)
    }
}

fn has(endpoints: &[Endpoint], ip: &IpAddr) -> bool {
    endpoints
        .iter()
        .any(|endpoint| endpoint.socket().ip() == *ip)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn tells_few_addresses_and_those_first_that_are_of_use() {
        let socket = |host: u8, port: u16| SocketAddr::from(([10, 0, 0, host], port));
        let endpoints = (1..=6).flat_map(|host| {
            let router = Endpoint::Router(socket(host, 5001));
            [router, Endpoint::Registry(socket(host, 5000))]
        });
        let mut advertised = AdvertisedAddresses::default();
        advertised.set(endpoints.collect());
        assert!(advertised.prove(socket(6, 0).ip()) && !advertised.prove(socket(6, 0).ip()));
        assert!(!advertised.prove(socket(7, 0).ip()), "not ours");
        let contact = advertised.contact();
        assert_eq!(
            contact.router(),
            [6, 1, 2, 3].map(|host| socket(host, 5001))
        );
        assert_eq!(
            contact.registry(),
            [6, 1, 2, 3].map(|host| socket(host, 5000))
        );
        advertised.set(vec![Endpoint::Router(socket(1, 5001))]);
        assert_eq!(advertised.contact().router(), [socket(1, 5001)]);
        assert!(advertised.proven.is_empty());
    }
}
