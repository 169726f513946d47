//! The network of nodes that share a key or have certificates of one authority: what this node proves to its peers, and
//! the proofs that it requires.

use std::time::SystemTime;

use http::header::RANGE;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use network_key::{Claim, Keyring, NotProven};

use crate::request::{FLIGHT, MIRRORED, NAMESPACE, NOT_COMMITTED};

/// Proves that a request comes from a node of the network; see [`Claim`].
const PROOF: HeaderName = HeaderName::from_static("x-peili-network-proof");

/// The headers that change the effect of a peer's request. They are part of the proof.
const PROVEN: [HeaderName; 5] = [MIRRORED, RANGE, NAMESPACE, FLIGHT, NOT_COMMITTED];

/// An extension of a request: it came over TLS from a client with a certificate of the nodes.
#[derive(Clone, Copy, Debug)]
pub struct HasCertificate;

/// Why a request is not from a node of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOfNetwork {
    #[error("the request came without TLS, and so without the certificate of a node")]
    NoCertificate,
    #[error(transparent)]
    NotProven(#[from] NotProven),
}

impl NotOfNetwork {
    /// The reason as a label of metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::NotProven(why) => why.reason(),
        }
    }
}

/// This node's role in the network.
#[derive(Clone, Debug)]
pub struct Network {
    /// `None`: the network has no key.
    keys: Option<Keyring>,
    has_certificates: bool,
    /// The name by which peers know this node.
    own_id: String,
}

impl Network {
    /// `has_certificates`: whether peers must have one. `None`: any client may be a peer.
    pub fn new(keys: Option<Keyring>, has_certificates: bool, own_id: String) -> Option<Self> {
        let network = Self {
            keys,
            has_certificates,
            own_id,
        };
        (network.keys.is_some() || has_certificates).then_some(network)
    }

    /// Adds to a request the proof for `target`, a peer's id, that it comes from a node with the key.
    pub fn prove<B>(&self, request: &mut http::Request<B>, target: &str) {
        let Some(keys) = &self.keys else {
            return;
        };
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let claim = |parts: &[Option<&[u8]>]| {
            Claim { target, parts }.prove(&keys.current(), SystemTime::now())
        };
        let proof = claim(&parts(method, uri, headers));
        if let Some(value) = proof.and_then(|proof| HeaderValue::from_str(&proof).ok()) {
            request.headers_mut().insert(PROOF, value);
        }
    }

    /// Checks that a request comes from a node of the network.
    ///
    /// # Errors
    /// It does not, or the clocks of the two differ too much.
    pub fn check(&self, head: &Parts) -> Result<(), NotOfNetwork> {
        if self.has_certificates && head.extensions.get::<HasCertificate>().is_none() {
            return Err(NotOfNetwork::NoCertificate);
        }
        let Some(keys) = &self.keys else {
            return Ok(());
        };
        let claim = Claim {
            target: &self.own_id,
            parts: &parts(&head.method, &head.uri, &head.headers),
        };
        let proof = head.headers.get(PROOF).map(HeaderValue::as_bytes);
        Ok(claim.check(proof, &keys.current(), SystemTime::now())?)
    }
}

/// The proven parts of a request. Of a repeated header only the first value is proven, and only that counts.
fn parts<'a>(method: &'a Method, uri: &'a Uri, headers: &'a HeaderMap) -> Vec<Option<&'a [u8]>> {
    let path = uri.path_and_query().map(|path| path.as_str().as_bytes());
    let mut parts = vec![Some(method.as_str().as_bytes()), path];
    parts.extend(PROVEN.map(|name| headers.get(name).map(HeaderValue::as_bytes)));
    parts
}

#[cfg(test)]
mod tests {
    use http::Request;
    use network_key::NetworkKeys;

    use super::*;

    fn keyring(key: &str) -> Keyring {
        Keyring::new(NetworkKeys::parse(key.repeat(32).as_bytes()).expect("a key"))
    }

    fn network(key: &str, id: &str) -> Network {
        Network::new(Some(keyring(key)), false, id.to_owned()).expect("a key")
    }

    fn request() -> Request<()> {
        let builder = Request::builder().uri("http://node-2/v2/a/blobs/d?ns=b");
        let builder = builder.header(RANGE, "bytes=1-2").header(FLIGHT, "1-2");
        builder.body(()).expect("a request")
    }

    /// The check of a request as it is received, without the authority.
    fn received(network: &Network, request: &Request<()>) -> Result<(), NotOfNetwork> {
        let path = request.uri().path_and_query().expect("a path");
        let mut head = request.clone().into_parts().0;
        head.uri = path.as_str().parse().expect("a path");
        network.check(&head)
    }

    #[test]
    fn a_proof_is_for_one_node_and_one_request() {
        let (one, two) = (network("a", "node-1"), network("a", "node-2"));
        let mut proven = request();
        one.prove(&mut proven, "node-2");
        assert_eq!(received(&two, &proven), Ok(()));
        assert_eq!(
            received(&network("a", "node-3"), &proven),
            Err(NotProven::WrongKey.into())
        );
        assert_eq!(
            received(&network("b", "node-2"), &proven),
            Err(NotProven::WrongKey.into())
        );
        assert_eq!(received(&two, &request()), Err(NotProven::Missing.into()));

        type Change = fn(&mut Request<()>);
        let changes: [Change; 6] = [
            |request| *request.method_mut() = Method::HEAD,
            |request| {
                *request.uri_mut() = "http://node-2/v2/a/blobs/e?ns=b".parse().expect("a uri");
            },
            |request| {
                *request.uri_mut() = "http://node-2/v2/a/blobs/d?ns=c".parse().expect("a uri");
            },
            |request| drop(request.headers_mut().remove(RANGE)),
            |request| drop(request.headers_mut().remove(FLIGHT)),
            |request| {
                let accusation = HeaderValue::from_static("true");
                request.headers_mut().insert(NOT_COMMITTED, accusation);
            },
        ];
        for change in changes {
            let mut other = proven.clone();
            change(&mut other);
            assert_eq!(
                received(&two, &other),
                Err(NotProven::WrongKey.into()),
                "{other:?}"
            );
        }
    }
    #[test]
    fn a_certificate_and_a_key_are_both_asked_for_where_there_are_both() {
        let certified = |request: &Request<()>| {
            let mut request = request.clone();
            request.extensions_mut().insert(HasCertificate);
            request
        };
        let make = |keys, id: &str| Network::new(keys, true, id.to_owned()).expect("a network");
        let without = Err(NotOfNetwork::NoCertificate);
        let node = make(None, "node-2");
        assert_eq!(received(&node, &request()), without);
        assert_eq!(received(&node, &certified(&request())), Ok(()));

        let node = make(Some(keyring("a")), "node-2");
        let mut proven = request();
        make(Some(keyring("a")), "node-1").prove(&mut proven, "node-2");
        assert_eq!(received(&node, &proven), without);
        assert_eq!(received(&node, &certified(&proven)), Ok(()));
        let unproven = received(&node, &certified(&request()));
        assert_eq!(unproven, Err(NotProven::Missing.into()));
        assert!(Network::new(None, false, String::new()).is_none());
    }
}
