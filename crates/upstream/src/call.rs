//! One request, over all its redirects, each of them vetted.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use mirror::UpstreamError;
use oci::Origin;
use reqwest::Response;
use tokio::time::timeout;
use url::Url;

use crate::client::Clients;
use crate::policy::{Base, Policy, Reach, Refused};
use crate::registries::Limits;
use crate::resolve::Names;

/// Redirects followed for one request. Registries send blobs to a store or a cache: one or two.
const MAX_REDIRECTS: usize = 5;

/// A request as it sets out.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// For the host of `url` alone.
    pub(crate) authorization: Option<HeaderValue>,
    /// Of a POST. A call with a form follows no redirect: what is in the form is for the host of `url` too.
    pub(crate) form: Option<String>,
}

/// Makes calls.
pub(crate) struct Caller {
    pub(crate) clients: Clients,
    pub(crate) policy: Policy,
    pub(crate) names: Arc<dyn Names>,
    pub(crate) limits: Limits,
}

impl Caller {
    /// The first answer that is no redirect.
    pub(crate) async fn call(
        &self,
        origin: &Origin,
        base: &Base,
        call: &Call,
    ) -> Result<Response, UpstreamError> {
        let (mut url, mut authorization) = (call.url.clone(), call.authorization.as_ref());
        for _ in 0..=MAX_REDIRECTS {
            let reach = self
                .policy
                .reach(base, &url, &*self.names)
                .await
                .map_err(|refused| forbidden(origin, &refused))?;
            let response = self.hop(origin, reach, call, &url, authorization).await?;
            if !is_redirect(response.status()) || call.form.is_some() {
                return Ok(response);
            }
            let next = location(&url, &response)
                .ok_or_else(|| protocol(origin, "a redirect that leads nowhere"))?;
            if next.origin() != url.origin() {
                authorization = None;
            }
            url = next;
        }
        let many = format!("more than {MAX_REDIRECTS} redirects");
        Err(protocol(origin, &many))
    }

    async fn hop(
        &self,
        origin: &Origin,
        reach: Reach,
        call: &Call,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, UpstreamError> {
        let client = self.clients.of(reach);
        let mut request = client
            .request(call.method.clone(), url.clone())
            .headers(call.headers.clone());
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(form) = &call.form {
            request = request
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.clone());
        }
        match timeout(self.limits.header, request.send()).await {
            Ok(answer) => answer.map_err(|error| fault(origin, error)),
            Err(_) => Err(silence(origin, self.limits.header)),
        }
    }

    /// The whole body, of at most `limit` bytes.
    pub(crate) async fn read(
        &self,
        origin: &Origin,
        mut response: Response,
        limit: u64,
    ) -> Result<Bytes, UpstreamError> {
        let text = format!("more than the {limit} bytes that such an answer may have");
        let too_large = || protocol(origin, &text);
        if response
            .content_length()
            .is_some_and(|length| length > limit)
        {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        while let Some(bytes) = next_chunk(origin, &mut response, self.limits.stall).await? {
            if (body.len() + bytes.len()) as u64 > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body.freeze())
    }
}

/// The next piece of a body, which has to come before the stall limit.
pub(crate) async fn next_chunk(
    origin: &Origin,
    response: &mut Response,
    stall: Duration,
) -> Result<Option<Bytes>, UpstreamError> {
    match timeout(stall, response.chunk()).await {
        Ok(chunk) => chunk.map_err(|error| fault(origin, error)),
        Err(_) => Err(silence(origin, stall)),
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn location(from: &Url, response: &Response) -> Option<Url> {
    let text = response.headers().get(LOCATION)?.to_str().ok()?;
    from.join(text).ok()
}

pub(crate) fn protocol(origin: &Origin, text: &str) -> UpstreamError {
    UpstreamError::Protocol(origin.clone(), text.to_owned())
}

pub(crate) fn unreachable(origin: &Origin, text: &str) -> UpstreamError {
    UpstreamError::Unreachable(origin.clone(), text.to_owned())
}

fn silence(origin: &Origin, limit: Duration) -> UpstreamError {
    unreachable(origin, &format!("not a byte in {limit:?}"))
}

pub(crate) fn forbidden(origin: &Origin, refused: &Refused) -> UpstreamError {
    UpstreamError::Forbidden(origin.clone(), refused.to_string())
}

/// An error of the client in words, without the URL: its query may carry a signature.
fn fault(origin: &Origin, error: reqwest::Error) -> UpstreamError {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(refused) = cause.downcast_ref::<Refused>() {
            return forbidden(origin, refused);
        }
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    unreachable(origin, &text)
}
