//! The network of nodes that share a key: what this node proves to its peers, and what it has them prove.

use std::time::SystemTime;

use http::header::RANGE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use network_key::{Claim, Keyring, NotProven};

use crate::request::{FLIGHT, MIRRORED, NAMESPACE, NOT_COMMITTED};

/// Proves that a request comes from a node of the network; see [`Claim`].
const PROOF: HeaderName = HeaderName::from_static("x-peili-network-proof");

/// The headers that change what a request of a peer does. They are proven with it.
const PROVEN: [HeaderName; 5] = [MIRRORED, RANGE, NAMESPACE, FLIGHT, NOT_COMMITTED];

/// This node's place in the network.
#[derive(Clone, Debug)]
pub struct Network {
    keys: Keyring,
    /// By which its peers know this node.
    own_id: String,
}

impl Network {
    pub fn new(keys: Keyring, own_id: String) -> Self {
        Self { keys, own_id }
    }

    /// Adds to a request what proves to `target`, a peer's id, that it comes from a node of the network.
    pub fn prove<B>(&self, request: &mut http::Request<B>, target: &str) {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let claim = |parts: &[Option<&[u8]>]| {
            Claim { target, parts }.prove(&self.keys.current(), SystemTime::now())
        };
        let proof = claim(&parts(method, uri, headers));
        if let Some(value) = proof.and_then(|proof| HeaderValue::from_str(&proof).ok()) {
            request.headers_mut().insert(PROOF, value);
        }
    }

    /// Checks that a request comes from a node of the network.
    ///
    /// # Errors
    /// It does not, or the clocks of the two are too far apart.
    pub fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), NotProven> {
        let claim = Claim {
            target: &self.own_id,
            parts: &parts(method, uri, headers),
        };
        let proof = headers.get(PROOF).map(HeaderValue::as_bytes);
        claim.check(proof, &self.keys.current(), SystemTime::now())
    }
}

/// What is proven of a request. A header that is given twice is proven as its first value, which alone counts.
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

    fn network(key: &str, id: &str) -> Network {
        let keys = NetworkKeys::parse(key.repeat(32).as_bytes()).expect("a key");
        Network::new(Keyring::new(keys), id.to_owned())
    }

    fn request() -> Request<()> {
        let builder = Request::builder().uri("http://node-2/v2/a/blobs/d?ns=b");
        let builder = builder.header(RANGE, "bytes=1-2").header(FLIGHT, "1-2");
        builder.body(()).expect("a request")
    }

    /// As it comes over the wire, without the authority.
    fn received(network: &Network, request: &Request<()>) -> Result<(), NotProven> {
        let path = request.uri().path_and_query().expect("a path");
        let uri = path.as_str().parse().expect("a path");
        network.check(request.method(), &uri, request.headers())
    }

    #[test]
    fn a_proof_is_for_one_node_and_one_request() {
        let (one, two) = (network("a", "node-1"), network("a", "node-2"));
        let mut proven = request();
        one.prove(&mut proven, "node-2");
        assert_eq!(received(&two, &proven), Ok(()));
        assert_eq!(
            received(&network("a", "node-3"), &proven),
            Err(NotProven::WrongKey)
        );
        assert_eq!(
            received(&network("b", "node-2"), &proven),
            Err(NotProven::WrongKey)
        );
        assert_eq!(received(&two, &request()), Err(NotProven::Missing));

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
                Err(NotProven::WrongKey),
                "{other:?}"
            );
        }
    }
}
