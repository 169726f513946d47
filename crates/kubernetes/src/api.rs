//! The requests to the API server: read one node, patch it, create an Event.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::ServiceAccount;
use crate::event::NAMESPACE;
use crate::node::{Node, Patch};

/// The limit for a connection, and for the whole of a request.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// The most bytes of an answer. A node that lists its images has some tens of KiB.
const MAX_ANSWER: usize = 4 << 20;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error(
        "{} cannot be read ({cause}); the pod needs automountServiceAccountToken: true", .path.display()
    )]
    Credentials {
        path: PathBuf,
        cause: Box<dyn Error + Send + Sync>,
    },
    #[error("TLS to the API server cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the API server does not answer: {0}")]
    Unreachable(String),
    #[error("the API server answered {status}: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("the answer of the API server is not understood: {0}")]
    Answer(String),
}

impl ApiError {
    /// Whether the object was changed by another client. A failed `test` of a JSON patch is answered with 422.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status, .. }
            if matches!(*status, StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY))
    }

    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::FORBIDDEN)
    }

    fn unreachable(error: &reqwest::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Self::Unreachable(text)
    }
}

/// The API server's description of an error.
#[derive(Deserialize)]
struct Status {
    message: String,
}

/// The API server, for one node.
#[derive(Debug)]
pub(crate) struct Api {
    account: ServiceAccount,
    node: String,
}

impl Api {
    pub fn new(account: ServiceAccount, node: String) -> Self {
        Self { account, node }
    }

    /// Reads the node, from the API server's cache unless it must be `exact`.
    pub async fn node(&self, exact: bool) -> Result<Node, ApiError> {
        let cached = if exact { "" } else { "?resourceVersion=0" };
        let path = format!("/api/v1/nodes/{}{cached}", self.node);
        let answer = self.request(Method::GET, &path, None).await?;
        parse(&answer)
    }

    /// Changes the node and returns its new state.
    pub async fn patch(&self, patch: &Patch) -> Result<Node, ApiError> {
        let (path, media_type, body) = match patch {
            Patch::Taints(body) => ("", "application/json-patch+json", body),
            Patch::Condition(body) => ("/status", "application/strategic-merge-patch+json", body),
        };
        let path = format!("/api/v1/nodes/{}{path}", self.node);
        let answer = self
            .request(Method::PATCH, &path, Some((media_type, body)))
            .await?;
        parse(&answer)
    }

    pub async fn create_event(&self, event: &Value) -> Result<(), ApiError> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/events");
        self.request(Method::POST, &path, Some(("application/json", event)))
            .await
            .map(drop)
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Vec<u8>, ApiError> {
        let unreachable = |error: reqwest::Error| ApiError::unreachable(&error);
        let url = format!("{}{path}", self.account.url);
        let token = self.read("token").await?;
        let token = String::from_utf8_lossy(&token);
        let request = self
            .client()
            .await?
            .request(method, url)
            .bearer_auth(token.trim());
        let mut request = request.header(ACCEPT, "application/json");
        if let Some((media_type, body)) = body {
            request = request
                .header(CONTENT_TYPE, media_type)
                .body(body.to_string());
        }
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let mut answer = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(unreachable)? {
            if answer.len() + bytes.len() > MAX_ANSWER {
                return Err(ApiError::Answer(format!(
                    "it has more than {MAX_ANSWER} bytes"
                )));
            }
            answer.extend_from_slice(&bytes);
        }
        if status.is_success() {
            return Ok(answer);
        }
        let said = serde_json::from_slice(&answer).map(|status: Status| status.message);
        let message = said.unwrap_or_else(|_| "it says no more".into());
        Err(ApiError::Refused { status, message })
    }

    /// Makes a client for one request. The kubelet replaces the token and the CA certificate from time to time, and
    /// requests are a minute apart, so keeping them or a connection gains nothing.
    async fn client(&self) -> Result<Client, ApiError> {
        let fault = |cause: Box<dyn Error + Send + Sync>| ApiError::Credentials {
            path: self.account.folder.join("ca.crt"),
            cause,
        };
        let mut roots = tls::Roots::none();
        let text = self.read("ca.crt").await?;
        roots
            .add_pem(&self.account.folder.join("ca.crt"), &text)
            .map_err(|error| fault(error.into()))?;
        let tls = tls::client(roots, None)?;
        Client::builder()
            .tls_backend_preconfigured(tls)
            // A proxy is for connections out of the cluster.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .timeout(REQUEST_LIMIT)
            .user_agent(concat!("peili/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ApiError::unreachable(&error))
    }

    async fn read(&self, name: &str) -> Result<Vec<u8>, ApiError> {
        let path = self.account.folder.join(name);
        let read = tokio::fs::read(&path).await;
        read.map_err(|error| ApiError::Credentials {
            path,
            cause: error.into(),
        })
    }
}

fn parse(answer: &[u8]) -> Result<Node, ApiError> {
    serde_json::from_slice(answer).map_err(|error| ApiError::Answer(error.to_string()))
}
