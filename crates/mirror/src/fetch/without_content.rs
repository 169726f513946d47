//! Requests to other nodes for no content.

use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::DATE;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;

use super::{Fetcher, Question, chain};
use crate::dial_back;
use crate::request::{DIAL_BACK, MIRRORED, NOT_COMMITTED, OFFSET, SENT, Target, UNREACHED};
use crate::{Candidate, PeerId, SourceStatus};

/// What a peer answers that was asked whether it can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerAnswer {
    pub clock: Option<SystemTime>,
    /// The addresses of this node that it cannot connect to. `None`: it did not try.
    pub unreached: Option<Vec<SocketAddr>>,
}

/// Every server on a registry port answers this path with something.
const LIVE: &str = "/livez";
/// The most bytes of a node's report.
const MAX_REPORT: usize = 64 * 1024;

impl Fetcher {
    /// Asks a peer how much it has of the requested object.
    pub async fn status(&self, question: &Question, source: &Candidate) -> SourceStatus {
        let question = Question {
            method: Method::HEAD,
            ranges: None,
            ..question.clone()
        };
        let Ok(request) = self.request(&question, source) else {
            return SourceStatus::Gone;
        };
        match self.connections.request(self.proven(request)).await {
            Ok(response) if response.status() == StatusCode::OK => {
                let number = |name| response.headers().get(name)?.to_str().ok()?.parse().ok();
                SourceStatus::Has {
                    offset: number(OFFSET).unwrap_or(u64::MAX),
                    sent: number(SENT),
                }
            }
            Ok(_) => SourceStatus::Gone,
            Err(error) => {
                tracing::debug!(peer = %source.peer, error = chain(&error), "a source does not answer");
                SourceStatus::Silent
            }
        }
    }

    /// Asks whether a node answers, whatever its answer is, and whether it can connect to this one.
    /// `own`: the name by which the node knows this one.
    pub async fn reach(
        &self,
        node: &Candidate,
        own: Option<&PeerId>,
    ) -> Result<PeerAnswer, String> {
        let dial_back = own.map(|own| (DIAL_BACK, own.as_str()));
        let response = self.get(node, LIVE, dial_back).await?;
        let header = |name| response.headers().get(name)?.to_str().ok();
        Ok(PeerAnswer {
            clock: header(DATE).and_then(|date| httpdate::parse_http_date(date).ok()),
            unreached: header(UNREACHED).and_then(dial_back::parse),
        })
    }

    /// Asks a node for its report, by a path and query.
    pub async fn report(&self, node: &Candidate, path: &str) -> Result<Bytes, String> {
        let response = self.get(node, path, None).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err("its version tells nothing".to_owned()),
            status => return Err(format!("answered {status}")),
        }
        let body = Limited::new(response.into_body(), MAX_REPORT)
            .collect()
            .await;
        Ok(body.map_err(|error| error.to_string())?.to_bytes())
    }

    async fn get(
        &self,
        node: &Candidate,
        path: &str,
        header: Option<(HeaderName, &str)>,
    ) -> Result<Response<Incoming>, String> {
        self.peers.introduce(node);
        let mut request = self
            .request_to(node, path)
            .map_err(|error| error.to_string())?;
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.header(MIRRORED, "true").body(Empty::new());
        self.send(request.map_err(|error| error.to_string())?).await
    }

    /// Tells a peer that the bytes that it delivered of a blob were not committed.
    pub async fn accuse(&self, target: &Target, peer: &Candidate) {
        let Some(key) = target.key() else {
            return;
        };
        let question = Question {
            method: Method::HEAD,
            target: target.clone(),
            key,
            ranges: None,
            size: None,
            follower: None,
        };
        let Ok(mut request) = self.request(&question, peer) else {
            return;
        };
        let headers = request.headers_mut();
        headers.insert(NOT_COMMITTED, HeaderValue::from_static("true"));
        self.peers.introduce(peer);
        if let Err(why) = self.send(request).await {
            tracing::debug!(peer = %peer.peer, why, "cannot accuse a peer");
        }
    }
}
