//! One request, over all its redirects. Every hop is checked against the address policy.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use mirror::UpstreamError;
use oci::Origin;
use percent_encoding::{AsciiSet, percent_encode};
use reqwest::Response;
use tokio::time::timeout;
use url::Url;

use crate::client::Clients;
use crate::fault::{self, forbidden, protocol};
use crate::policy::{AllowedScope, Base, Policy};
use crate::registries::Limits;
use crate::resolve::Names;

/// The most redirects of one request. Registries send clients for blobs to a store or a cache: one or two.
const MAX_REDIRECTS: usize = 5;
/// The bytes of a `Location` that are percent-encoded before it is parsed as a URL: all but ASCII.
const NOT_ASCII: &AsciiSet = &AsciiSet::EMPTY;

/// A request before any redirect.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// `Authorization`, sent only to the origin of `url`.
    pub(crate) authorization: Option<HeaderValue>,
    /// Further headers, also sent only to the origin of `url`.
    pub(crate) own_headers: HeaderMap,
    /// The form of a POST. A call with a form follows no redirect: the form is for the host of `url` too.
    pub(crate) form: Option<String>,
}

/// The server that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnsweredBy {
    /// The origin of the request, without a redirect.
    Asked,
    /// The origin of the request, after redirects within it.
    SameOrigin,
    /// Another origin, or any server after that.
    Elsewhere,
}

pub(crate) struct Answer {
    pub(crate) response: Response,
    pub(crate) by: AnsweredBy,
}

/// Makes calls.
pub(crate) struct Caller {
    pub(crate) clients: Arc<Clients>,
    pub(crate) policy: Policy,
    pub(crate) names: Arc<dyn Names>,
    pub(crate) limits: Limits,
}

impl Caller {
    /// Returns the first answer that is not a redirect.
    pub(crate) async fn call(
        &self,
        origin: &Origin,
        base: &Base,
        call: &Call,
    ) -> Result<Answer, UpstreamError> {
        let mut url = call.url.clone();
        let mut own_headers = call.own_headers.clone();
        if let Some(authorization) = &call.authorization {
            own_headers.insert(AUTHORIZATION, authorization.clone());
        }
        let mut by = AnsweredBy::Asked;
        for _ in 0..=MAX_REDIRECTS {
            let reach = self
                .policy
                .reach(base, &url, &*self.names)
                .await
                .map_err(|refused| forbidden(origin, &refused))?;
            let response = self.hop(origin, reach, call, &url, &own_headers).await;
            let response = match url.origin() == base.url.origin() {
                true => response?,
                // The registry itself was reached.
                false => response.map_err(fault::of_another_host)?,
            };
            if !is_redirect(response.status()) || call.form.is_some() {
                return Ok(Answer { response, by });
            }
            let next = location(&url, response.headers())
                .ok_or_else(|| protocol(origin, "a redirect that leads nowhere"))?;
            if next.origin() != url.origin() {
                own_headers.clear();
                by = AnsweredBy::Elsewhere;
            } else if by == AnsweredBy::Asked {
                by = AnsweredBy::SameOrigin;
            }
            url = next;
        }
        let many = format!("more than {MAX_REDIRECTS} redirects");
        Err(protocol(origin, &many))
    }

    /// Makes one request. If a kept connection is closed before the answer begins, the request is repeated on a new
    /// connection (RFC 9112, section 9.3.1), as Go's client does. A POST always uses a new connection, as it must not
    /// be repeated.
    async fn hop(
        &self,
        origin: &Origin,
        reach: AllowedScope,
        call: &Call,
        url: &Url,
        own_headers: &HeaderMap,
    ) -> Result<Response, UpstreamError> {
        let send = |client: &reqwest::Client| {
            let mut request = client
                .request(call.method.clone(), url.clone())
                .headers(call.headers.clone())
                .headers(own_headers.clone());
            if let Some(form) = &call.form {
                request = request
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form.clone());
            }
            request.send()
        };
        let sending = async {
            if call.form.is_some() {
                return send(self.clients.unpooled(reach)).await;
            }
            match send(self.clients.pooled(reach)).await {
                Err(error) if fault::closed_unanswered(&error) => {
                    tracing::debug!(%origin, "a kept connection was closed; asking on a new one");
                    send(self.clients.unpooled(reach)).await
                }
                // This status announces that a kept connection is closed (RFC 9110, section 15.5.9).
                Ok(answer) if answer.status() == StatusCode::REQUEST_TIMEOUT => {
                    send(self.clients.unpooled(reach)).await
                }
                answer => answer,
            }
        };
        match timeout(self.limits.header, sending).await {
            Ok(answer) => answer.map_err(|error| fault::of_request(origin, url, error)),
            Err(_) => Err(fault::silence(origin, self.limits.header)),
        }
    }

    /// Reads the whole body, of at most `limit` bytes.
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

/// The next piece of a body, which must come within the stall limit.
pub(crate) async fn next_chunk(
    origin: &Origin,
    response: &mut Response,
    stall: Duration,
) -> Result<Option<Bytes>, UpstreamError> {
    match timeout(stall, response.chunk()).await {
        Ok(Err(error)) if ends_with_its_connection(response) && fault::is_end(&error) => Ok(None),
        Ok(chunk) => chunk.map_err(|error| fault::of_body(origin, error)),
        Err(_) => Err(fault::silence(origin, stall)),
    }
}

/// Whether a body ends where its connection does (RFC 9112, section 6.3, rule 8). Many servers then omit the last
/// message of TLS, and Go accepts that as the end as well. Only the digest distinguishes such a body from a broken one.
fn ends_with_its_connection(response: &Response) -> bool {
    let headers = response.headers();
    !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The target of a redirect. Bytes beyond ASCII, which some registries send raw, are percent-encoded first.
fn location(from: &Url, headers: &HeaderMap) -> Option<Url> {
    let value = headers.get(LOCATION).filter(|value| !value.is_empty())?;
    let text = percent_encode(value.as_bytes(), NOT_ASCII).to_string();
    from.join(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_followed_in_any_spelling() {
        let from = Url::parse("https://r.example/v2/a/blobs/x").expect("a URL");
        for (value, to) in [
            (
                "/caf\u{e9}?n=\u{fc}",
                Some("https://r.example/caf%C3%A9?n=%C3%BC"),
            ),
            ("/caf%C3%A9", Some("https://r.example/caf%C3%A9")),
            ("//cdn.example/x", Some("https://cdn.example/x")),
            ("y", Some("https://r.example/v2/a/blobs/y")),
            ("/a b", Some("https://r.example/a%20b")),
            ("", None),
            ("https://", None),
        ] {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header");
            let headers = HeaderMap::from_iter([(LOCATION, value)]);
            let found = location(&from, &headers);
            assert_eq!(found.as_ref().map(Url::as_str), to);
        }
        assert_eq!(location(&from, &HeaderMap::new()), None);
    }
}
