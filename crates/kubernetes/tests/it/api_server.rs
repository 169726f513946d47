//! An API server with one node: HTTPS, a token, and the real server's answers to the requests of this crate.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kubernetes::ServiceAccount;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, pki_types::PrivateKeyDer};

/// The content of the server, and its behaviour.
pub struct State {
    pub node: Value,
    pub events: Vec<Value>,
    /// The token that is accepted.
    pub token: String,
    /// The requests so far: method and path with query.
    pub requests: Vec<String>,
    /// The statuses with which the next requests of this method are answered instead.
    pub failures: Vec<(Method, StatusCode)>,
    /// A taint that is put before the node's taints when the next patch arrives, as if by a faster client.
    pub intruder: Option<Value>,
}

pub struct ApiServer {
    pub state: Arc<Mutex<State>>,
    pub folder: tempfile::TempDir,
    address: SocketAddr,
}

impl ApiServer {
    /// Starts a server on a free loopback port.
    pub async fn start(node: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::at(listener, node)
    }

    pub fn at(listener: TcpListener, node: Value) -> Self {
        let address = listener.local_addr().expect("an address");
        let folder = tempfile::tempdir().expect("a folder");
        let name = address.ip().to_string();
        let key = rcgen::generate_simple_self_signed([name]).expect("a certificate");
        std::fs::write(folder.path().join("ca.crt"), key.cert.pem()).expect("written");
        std::fs::write(folder.path().join("token"), "first\n").expect("written");
        let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private)
            .expect("a certificate");
        let state = Arc::new(Mutex::new(State {
            node,
            events: Vec::new(),
            token: "first".into(),
            requests: Vec::new(),
            failures: Vec::new(),
            intruder: None,
        }));
        let (acceptor, served) = (TlsAcceptor::from(Arc::new(tls)), state.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(acceptor.clone(), stream, served.clone()));
            }
        });
        Self {
            state,
            folder,
            address,
        }
    }

    pub fn account(&self) -> ServiceAccount {
        let (host, port) = (self.address.ip(), self.address.port());
        ServiceAccount::new(&host.to_string(), &port.to_string(), self.folder.path())
    }
}

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, state: Arc<Mutex<State>>) {
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let service = service_fn(move |request| answer(request, state.clone()));
    // The client may end the connection.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let header = |name: &str| {
        head.headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    };
    let (token, media_type) = (header("authorization"), header("content-type"));
    let mut state = state.lock();
    state.requests.push(format!("{} {}", head.method, head.uri));
    let failure = state
        .failures
        .iter()
        .position(|(method, _)| *method == head.method);
    let result = if let Some(failure) = failure {
        Err((state.failures.remove(failure).1, "as the test wants"))
    } else if token != format!("Bearer {}", state.token) {
        Err((StatusCode::UNAUTHORIZED, "Unauthorized"))
    } else {
        state.handle(&head.method, head.uri.path(), media_type, &body)
    };
    let (status, answer) = match result {
        Ok(value) => (StatusCode::OK, value),
        Err((status, message)) => (status, json!({ "kind": "Status", "message": message })),
    };
    let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
    *response.status_mut() = status;
    Ok(response)
}

impl State {
    fn handle(
        &mut self,
        method: &Method,
        path: &str,
        media_type: &str,
        body: &[u8],
    ) -> Result<Value, (StatusCode, &'static str)> {
        let body = serde_json::from_slice(body).unwrap_or(Value::Null);
        let name = self.node["metadata"]["name"].as_str().unwrap_or_default();
        let node = format!("/api/v1/nodes/{name}");
        match (method, path, media_type) {
            (&Method::GET, path, _) if path == node => Ok(self.node.clone()),
            (&Method::PATCH, path, "application/json-patch+json") if path == node => {
                self.patch_taints(&body)
            }
            (&Method::PATCH, path, "application/strategic-merge-patch+json")
                if path == format!("{node}/status") =>
            {
                self.patch_status(&body)
            }
            (&Method::POST, "/api/v1/namespaces/default/events", "application/json") => {
                self.events.push(body.clone());
                Ok(body)
            }
            _ => Err((StatusCode::NOT_FOUND, "no such thing")),
        }
    }

    /// Applies `test` and `remove` below `/spec/taints` (RFC 6902).
    fn patch_taints(&mut self, operations: &Value) -> Result<Value, (StatusCode, &'static str)> {
        const REFUSED: (StatusCode, &str) =
            (StatusCode::UNPROCESSABLE_ENTITY, "the request is not valid");
        let mut taints = self.node["spec"]["taints"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        if let Some(intruder) = self.intruder.take() {
            taints.insert(0, intruder);
            self.node["spec"]["taints"] = taints.clone().into();
        }
        for operation in operations.as_array().ok_or(REFUSED)? {
            let index = operation["path"]
                .as_str()
                .and_then(|path| path.strip_prefix("/spec/taints/"));
            let index: usize = index.and_then(|index| index.parse().ok()).ok_or(REFUSED)?;
            let taint = taints.get(index).ok_or(REFUSED)?;
            match operation["op"].as_str() {
                Some("test") if *taint == operation["value"] => {}
                Some("remove") => drop(taints.remove(index)),
                _ => return Err(REFUSED),
            }
        }
        self.node["spec"]["taints"] = taints.into();
        self.bump();
        Ok(self.node.clone())
    }

    /// Merges one condition by its type, if the version is the current one.
    fn patch_status(&mut self, patch: &Value) -> Result<Value, (StatusCode, &'static str)> {
        if patch["metadata"]["resourceVersion"] != self.node["metadata"]["resourceVersion"] {
            return Err((StatusCode::CONFLICT, "the object has been modified"));
        }
        let new = patch["status"]["conditions"][0].clone();
        let mut conditions = self.node["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        conditions.retain(|condition| condition["type"] != new["type"]);
        conditions.push(new);
        self.node["status"]["conditions"] = conditions.into();
        self.bump();
        Ok(self.node.clone())
    }

    /// Gives the node its next version.
    pub fn bump(&mut self) {
        let version = self.node["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|v| v.parse::<u64>().ok());
        self.node["metadata"]["resourceVersion"] = (version.unwrap_or(0) + 1).to_string().into();
    }
}
