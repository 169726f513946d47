//! `/id`: a node reports over HTTP its id and its libp2p addresses.

use std::io;
use std::net::SocketAddr;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use libp2p::{Multiaddr, PeerId};
use mirror::serve::PortLimits;
use mirror::{Body, ConnectionAddresses, ListenAddress};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::PeerAddress;
use crate::addresses::Endpoint;
use crate::config::IdForm;

/// go-libp2p's `peer.AddrInfo` as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct AddrInfo {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Addrs", default)]
    addresses: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    List(Vec<AddrInfo>),
    One(AddrInfo),
}

/// Parses both forms. Addresses that this node cannot use (QUIC) are ignored. A peer id that is absent or unreadable is
/// learned by connecting.
pub(crate) fn parse(body: &[u8]) -> Result<Vec<PeerAddress>, serde_json::Error> {
    let infos = match serde_json::from_slice(body)? {
        Answer::List(infos) => infos,
        Answer::One(info) => vec![info],
    };
    let peers = infos.iter().flat_map(|info| {
        let id: Option<PeerId> = info.id.parse().ok();
        info.addresses.iter().filter_map(move |address| {
            let address: Multiaddr = address.parse().ok()?;
            let peer = PeerAddress::from_multiaddr(&address)?;
            Some(PeerAddress {
                id: peer.id.or(id),
                ..peer
            })
        })
    });
    Ok(peers.collect())
}

/// Answers `/id`, from an address bound beforehand.
pub(crate) struct Server {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
    form: IdForm,
    limits: PortLimits,
}

impl Server {
    pub(crate) fn bind(
        address: ListenAddress,
        form: IdForm,
        limits: PortLimits,
    ) -> io::Result<Self> {
        let listener = address.bind()?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            form,
            limits,
        })
    }

    /// Serves until `stop`. `addresses`: those that may be announced to peers.
    pub(crate) async fn run(
        self,
        id: PeerId,
        addresses: watch::Receiver<Vec<Multiaddr>>,
        stop: CancellationToken,
    ) {
        let form = self.form;
        let handler = move |request: Request<Incoming>, _: ConnectionAddresses| {
            std::future::ready(answer(&request, id, &addresses.borrow(), form))
        };
        mirror::serve::serve(self.limits, self.listener, stop, handler).await;
    }
}

fn answer<B>(
    request: &Request<B>,
    id: PeerId,
    addresses: &[Multiaddr],
    form: IdForm,
) -> Response<Body> {
    let status = match (request.uri().path(), request.method()) {
        ("/id", &Method::GET | &Method::HEAD) => StatusCode::OK,
        ("/id", _) => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::NOT_FOUND,
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if status == StatusCode::OK {
        let body = encode(id, addresses, form);
        *response.body_mut() = Body::bytes(body.into());
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
    }
    response
}

fn encode(id: PeerId, addresses: &[Multiaddr], form: IdForm) -> String {
    let routers = addresses
        .iter()
        .filter(|address| Endpoint::router(address).is_some());
    let info = AddrInfo {
        id: id.to_string(),
        addresses: routers.map(ToString::to_string).collect(),
    };
    let text = match form {
        IdForm::List => serde_json::to_string(&[info]),
        IdForm::One => serde_json::to_string(&info),
    };
    // Strings always encode.
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_mean_the_same() {
        let id = PeerId::random();
        let addresses = [
            "/ip4/10.0.0.1/tcp/5001",
            "/ip4/10.0.0.1/tcp/5000/http",
            "/ip6/fd00::1/tcp/5001",
        ]
        .map(|text| text.parse().expect("a multiaddress"));
        let [list, one] = [IdForm::List, IdForm::One].map(|form| encode(id, &addresses, form));
        assert!(list.starts_with("[{\"ID\":\"") && one.starts_with("{\"ID\":\""));
        let peers = parse(list.as_bytes()).expect("a list");
        assert_eq!(peers, parse(one.as_bytes()).expect("one"));
        assert_eq!(peers.len(), 2);
        assert!(peers.iter().all(|peer| peer.id == Some(id)));
    }

    #[test]
    fn ids_are_optional_and_foreign_addresses_passed_over() {
        let body =
            br#"[{"Addrs":["/ip4/10.0.0.1","/ip4/10.0.0.1/udp/5001/quic-v1","x"]},{"ID":""}]"#;
        let peers = parse(body).expect("a list");
        assert_eq!((peers.len(), peers[0].id, peers[0].port), (1, None, None));
        for bad in ["", "null", "1", "[1]", "<html>", "{\"ID\":1}"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn answers_id_only() {
        let ask = |method: Method, path: &str| {
            let mut request = Request::new(());
            *request.method_mut() = method;
            *request.uri_mut() = path.parse().expect("a path");
            answer(&request, PeerId::random(), &[], IdForm::List).status()
        };
        assert_eq!(ask(Method::GET, "/id?x=1"), StatusCode::OK);
        assert_eq!(ask(Method::POST, "/id"), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(ask(Method::GET, "/"), StatusCode::NOT_FOUND);
    }
}
