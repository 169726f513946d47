//! Signing in: answers challenges (distribution's token specification; for identity tokens its OAuth2 specification).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use mirror::{UpstreamError, Visibility};
use oci::Origin;
use serde::Deserialize;
use tokio::time::Instant;
use url::{Url, form_urlencoded};

use crate::call::{Call, Caller};
use crate::challenge::Challenge;
use crate::credentials::Secret;
use crate::encoding;
use crate::fault::{failed, protocol};
use crate::policy::Base;
use crate::registries::retry_after;

/// The most bytes of a token service's answer; a larger one is refused.
const MAX_TOKEN_ANSWER: u64 = 64 * 1024;
/// The validity of a token that names none, by the specification.
const DEFAULT_VALIDITY: Duration = Duration::from_secs(60);
/// The longest validity of a token, whatever the service says. Then a new one is requested, and the repository is tried
/// anonymously again.
const MAX_VALIDITY: Duration = Duration::from_secs(60 * 60);
/// A token this close to its end is not used: the request takes time.
const MARGIN: Duration = Duration::from_secs(10);
/// How long it is remembered that a repository needs a password.
const PASSWORD_VALIDITY: Duration = Duration::from_secs(5 * 60);

/// A permission to read a repository. Has no `Debug` on purpose.
#[derive(Clone)]
pub(crate) struct Grant {
    pub(crate) authorization: HeaderValue,
    /// Private if it was granted for credentials.
    pub(crate) visibility: Visibility,
    until: Instant,
}

impl Grant {
    fn new(text: &str, visibility: Visibility, validity: Duration) -> Option<Self> {
        Some(Self {
            authorization: secret_value(text)?,
            visibility,
            until: Instant::now() + validity,
        })
    }

    pub(crate) fn is_valid(&self) -> bool {
        Instant::now() < self.until
    }
}

/// The answer of a token service. An empty field counts as absent.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// The validity in seconds. Some services send a text, some an invalid number.
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl TokenAnswer {
    fn validity(&self) -> Duration {
        let seconds = match &self.expires_in {
            serde_json::Value::String(text) => text.trim().parse().ok(),
            value => value.as_u64(),
        };
        seconds
            .filter(|seconds| *seconds > 0)
            .map_or(DEFAULT_VALIDITY, Duration::from_secs)
            .min(MAX_VALIDITY)
            .saturating_sub(MARGIN)
    }

    fn token(self) -> Option<String> {
        let given = [self.token, self.access_token].into_iter().flatten();
        given.into_iter().find(|token| !token.is_empty())
    }
}

/// Answers a challenge, with or without credentials. `None`: there is no possible answer, or it was refused.
pub(crate) async fn obtain(
    caller: &Caller,
    origin: &Origin,
    base: &Base,
    challenge: &Challenge,
    secret: Option<&Secret>,
) -> Result<Option<Grant>, UpstreamError> {
    let (realm, service, scope) = match (challenge, secret) {
        (
            Challenge::Bearer {
                realm,
                service,
                scope,
            },
            _,
        ) => (realm, service, scope),
        (Challenge::Basic, Some(Secret::Password { user, password })) => {
            let text = basic(user, password);
            return Ok(Grant::new(&text, Visibility::Private, PASSWORD_VALIDITY));
        }
        (Challenge::Basic, _) => return Ok(None),
    };
    let protocol = |text| protocol(origin, text);
    let realm = Url::parse(realm).map_err(|_| protocol("a token realm that is no URL"))?;
    let scope = scope
        .clone()
        .unwrap_or_else(|| format!("repository:{}:pull", origin.repository));
    let call = token_call(realm, service.as_deref(), &scope, secret);
    let response = caller.call(origin, base, &call).await?.response;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::BAD_REQUEST
        | StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND => return Ok(None),
        StatusCode::TOO_MANY_REQUESTS => {
            return Err(UpstreamError::TooManyRequests {
                origin: origin.clone(),
                retry_after: retry_after(response.headers()),
            });
        }
        status => {
            let text = format!("its token service answers {status}");
            return Err(failed(origin, &text));
        }
    }
    let body = caller.read(origin, response, MAX_TOKEN_ANSWER).await?;
    let body = encoding::document(body, MAX_TOKEN_ANSWER);
    // Without the parser's message, which might quote the token.
    let answer: TokenAnswer = serde_json::from_slice(&body)
        .map_err(|_| protocol("a token service whose answer is not JSON of a token"))?;
    let validity = answer.validity();
    let token = answer
        .token()
        .ok_or_else(|| protocol("a token service that gives no token"))?;
    let visibility = match secret {
        Some(_) => Visibility::Private,
        None => Visibility::Shared,
    };
    Grant::new(&format!("Bearer {token}"), visibility, validity)
        .map(Some)
        .ok_or_else(|| protocol("a token that cannot stand in a header"))
}

fn token_call(mut realm: Url, service: Option<&str>, scope: &str, secret: Option<&Secret>) -> Call {
    let mut fields = form_urlencoded::Serializer::new(String::new());
    if let Some(service) = service {
        fields.append_pair("service", service);
    }
    let mut authorization = None;
    let form = if let Some(Secret::IdentityToken(token)) = secret {
        fields.append_pair("scope", scope);
        fields.append_pair("client_id", "peili");
        fields.append_pair("grant_type", "refresh_token");
        fields.append_pair("refresh_token", token);
        Some(fields.finish())
    } else {
        // One parameter for each scope, as Docker's client sends them.
        for scope in scope.split_ascii_whitespace() {
            fields.append_pair("scope", scope);
        }
        if let Some(Secret::Password { user, password }) = secret {
            fields.append_pair("account", user);
            authorization = secret_value(&basic(user, password));
        }
        let added = fields.finish();
        let query = match realm.query() {
            Some(query) if !query.is_empty() => format!("{query}&{added}"),
            _ => added,
        };
        realm.set_query(Some(&query));
        None
    };
    Call {
        method: if form.is_some() {
            Method::POST
        } else {
            Method::GET
        },
        url: realm,
        headers: HeaderMap::new(),
        authorization,
        own_headers: HeaderMap::new(),
        form,
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A header value that is marked as sensitive.
fn secret_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_in_a_token_counts_as_absent() {
        for (json, token, seconds) in [
            (r#"{"token":"a"}"#, Some("a"), 50),
            (
                r#"{"token":"","access_token":"b","expires_in":300}"#,
                Some("b"),
                290,
            ),
            (
                r#"{"token":null,"access_token":"b","expires_in":null}"#,
                Some("b"),
                50,
            ),
            (
                r#"{"token":"a","access_token":"b","expires_in":"120"}"#,
                Some("a"),
                110,
            ),
            (r#"{"token":"a","expires_in":0}"#, Some("a"), 50),
            (r#"{"token":"a","expires_in":-1}"#, Some("a"), 50),
            (r#"{"token":"a","expires_in":1e9}"#, Some("a"), 50),
            (r#"{"token":"a","expires_in":999999}"#, Some("a"), 3590),
            (r#"{"token":"","access_token":""}"#, None, 50),
        ] {
            let answer: TokenAnswer = serde_json::from_str(json).expect("JSON");
            assert_eq!(answer.validity(), Duration::from_secs(seconds), "{json}");
            assert_eq!(answer.token().as_deref(), token, "{json}");
        }
    }
}
