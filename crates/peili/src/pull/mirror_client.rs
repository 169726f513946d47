//! Asks the mirror of this node as containerd does.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use hosts::NodeSecret;
use hosts::probe::Endpoint;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use mirror::{MEASURED, NODE_SECRET, REASON, SOURCE};
use names::{Cache, Names};
use oci::{MediaType, Origin};
use tokio::time::timeout;

use super::report::Source;

/// The limit for the head of an answer, which includes the mirror's own limits.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);
/// The most bytes of a refusal that are read.
const MAX_REFUSAL: usize = 4096;

/// The registry port of a mirror, `host:port`.
#[derive(Clone, Debug)]
pub struct Port {
    host: String,
    pub port: u16,
}

impl FromStr for Port {
    type Err = hosts::probe::ProbeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The parser checks the form.
        let endpoint: Endpoint = text.parse()?;
        let text = endpoint.to_string();
        let (host, port) = text.rsplit_once(':').unwrap_or((&text, ""));
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: port.parse().unwrap_or_default(),
        })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The mirror's answer about an object.
pub enum Answer {
    Found {
        response: Response<Incoming>,
        source: Source,
    },
    /// The client must ask the registry.
    GoUpstream { reason: String, detail: String },
}

/// The client of the mirror.
pub struct MirrorClient {
    http: Client<HttpConnector, Empty<Bytes>>,
    address: SocketAddr,
    /// The name as the user wrote it.
    pub name: String,
    node_secret: Option<HeaderValue>,
}

impl MirrorClient {
    /// # Errors
    /// The host has no address.
    pub async fn new(port: &Port, node_secret: Option<NodeSecret>) -> anyhow::Result<Self> {
        let names = Names::of_system(Cache::Unused);
        let addresses = names.addresses(&port.host).await?;
        let ip = addresses.first().context("the mirror has no address")?;
        let node_secret = node_secret.and_then(|secret| {
            let mut value = HeaderValue::from_str(secret.header_value()).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Ok(Self {
            http: Client::builder(TokioExecutor::new()).build_http(),
            address: SocketAddr::new(*ip, port.port),
            name: port.to_string(),
            node_secret,
        })
    }

    /// Requests a manifest or blob.
    ///
    /// # Errors
    /// The mirror does not answer.
    pub async fn ask(
        &self,
        method: Method,
        origin: &Origin,
        kind: &str,
        reference: &str,
    ) -> anyhow::Result<Answer> {
        let (repository, registry) = (&origin.repository, &origin.registry);
        // These names contain nothing that must be escaped.
        let path = format!("/v2/{repository}/{kind}/{reference}?ns={registry}");
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header(ACCEPT, MediaType::ACCEPT)
            .header(MEASURED, "true");
        if let Some(secret) = &self.node_secret {
            request = request.header(NODE_SECRET, secret.clone());
        }
        let request = request.body(Empty::new())?;
        let answer = timeout(ANSWER_LIMIT, self.http.request(request)).await;
        let answer = answer.with_context(|| self.silent())?;
        let response = answer.with_context(|| self.unreachable())?;
        if response.status() == StatusCode::OK {
            let source = source(response.headers());
            return Ok(Answer::Found { response, source });
        }
        let (status, reason) = (response.status(), text(response.headers(), &REASON));
        let detail = Limited::new(response.into_body(), MAX_REFUSAL).collect();
        let detail = timeout(ANSWER_LIMIT, detail).await;
        let detail = match detail {
            Ok(Ok(body)) => message(&body.to_bytes()),
            Ok(Err(_)) | Err(_) => status.to_string(),
        };
        if status == StatusCode::UNAUTHORIZED {
            bail!(
                "the mirror at {} wants credentials of its own: {detail}",
                self.name
            );
        }
        Ok(Answer::GoUpstream {
            reason: reason.unwrap_or_else(|| "other".to_owned()),
            detail,
        })
    }

    fn silent(&self) -> String {
        format!(
            "the mirror at {} gave no answer within {ANSWER_LIMIT:?}",
            self.name
        )
    }

    fn unreachable(&self) -> String {
        format!(
            "the mirror at {} does not answer; start it (systemctl start peili), or name its registry port with --registry-endpoint",
            self.name
        )
    }
}

fn text(headers: &HeaderMap, name: &http::HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn source(headers: &HeaderMap) -> Source {
    match text(headers, &SOURCE).as_deref() {
        Some("local") => Source::Local,
        Some(peer) => Source::Peer(peer.to_owned()),
        None => Source::Mirror,
    }
}

/// The error in a refusal (distribution-spec, "Error Codes"), as far as it is there.
fn message(body: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    match document["errors"][0]["message"].as_str() {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(body).into_owned(),
    }
}
