//! Where this node is reached, as it tells the others.

use std::net::IpAddr;

use ::flights::members::{Contact, ContactError, MAX_ADDRESSES};

use crate::addresses::Endpoint;

/// This node's addresses. A host has some that lead nowhere, such as those of its bridges, and only few are told: those
/// first by which a peer has met it.
#[derive(Debug, Default)]
pub(super) struct Home {
    endpoints: Vec<Endpoint>,
    proven: Vec<IpAddr>,
}

impl Home {
    pub(super) fn set(&mut self, endpoints: Vec<Endpoint>) {
        self.endpoints = endpoints;
        let endpoints = &self.endpoints;
        self.proven.retain(|ip| has(endpoints, ip));
    }

    /// A peer has met this node at this address. Whether that is news.
    pub(super) fn prove(&mut self, ip: IpAddr) -> bool {
        let is_news = has(&self.endpoints, &ip) && !self.proven.contains(&ip);
        if is_news {
            self.proven.push(ip);
        }
        is_news
    }

    pub(super) fn contact(&self) -> Result<Contact, ContactError> {
        let mut best = self.endpoints.clone();
        best.sort_by_key(|endpoint| !self.proven.contains(&endpoint.socket().ip()));
        let (mut router, mut registry) = (Vec::new(), Vec::new());
        for endpoint in best {
            match endpoint {
                Endpoint::Router(socket) => router.push(socket),
                Endpoint::Registry(socket) => registry.push(socket),
            }
        }
        router.truncate(MAX_ADDRESSES);
        registry.truncate(MAX_ADDRESSES);
        Contact::new(router, registry, None)
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
        let mut home = Home::default();
        home.set(endpoints.collect());
        assert!(home.prove(socket(6, 0).ip()) && !home.prove(socket(6, 0).ip()));
        assert!(!home.prove(socket(7, 0).ip()), "not ours");
        let contact = home.contact().expect("few");
        assert_eq!(
            contact.router(),
            [6, 1, 2, 3].map(|host| socket(host, 5001))
        );
        assert_eq!(
            contact.registry(),
            [6, 1, 2, 3].map(|host| socket(host, 5000))
        );
        home.set(vec![Endpoint::Router(socket(1, 5001))]);
        assert_eq!(home.contact().expect("few").router(), [socket(1, 5001)]);
        assert!(home.proven.is_empty());
    }
}
