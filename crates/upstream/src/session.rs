//! Requests with leave to make them: anonymously first, then with credentials; what worked is remembered.

use std::num::NonZeroUsize;
use std::sync::Arc;

use http::StatusCode;
use lru::LruCache;
use mirror::{UpstreamError, Visibility};
use oci::Origin;
use parking_lot::Mutex;
use reqwest::Response;

use crate::call::{Call, Caller};
use crate::challenge::Challenge;
use crate::credentials::Credentials;
use crate::policy::Base;
use crate::token::{Grant, obtain};

/// Repositories whose grants are remembered.
const MAX_SESSIONS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// What is known of a repository. Locked while somebody signs in, so that the others wait for what comes of it.
type Session = Arc<tokio::sync::Mutex<Option<Grant>>>;

pub(crate) struct Sessions {
    credentials: Credentials,
    by_origin: Mutex<LruCache<Origin, Session>>,
}

/// An answer, and what it took to get it.
pub(crate) type Answer = (Response, Visibility);

impl Sessions {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            by_origin: Mutex::new(LruCache::new(MAX_SESSIONS)),
        }
    }

    /// Makes a call of the registry itself. The answer may still be a refusal: then there is no leave to be had.
    pub(crate) async fn ask(
        &self,
        caller: &Caller,
        origin: &Origin,
        base: &Base,
        call: &Call,
    ) -> Result<Answer, UpstreamError> {
        let session = self.session(origin);
        let known = session.lock().await.clone().filter(Grant::is_valid);
        let answer = with(caller, origin, base, call, known.as_ref()).await?;
        if !self.may_be_refused(origin, &answer).await {
            return Ok(answer);
        }
        let mut slot = session.lock().await;
        let newer = slot.clone().filter(|newer| {
            let used = known.as_ref().map(|grant| &grant.authorization);
            newer.is_valid() && used != Some(&newer.authorization)
        });
        if let Some(newer) = newer {
            // Somebody else has signed in while this request was on its way.
            let answer = with(caller, origin, base, call, Some(&newer)).await?;
            if !is_refusal(answer.0.status()) {
                return Ok(answer);
            }
        }
        *slot = None;
        let anonymous = if known.is_some() {
            with(caller, origin, base, call, None).await?
        } else {
            answer
        };
        self.sign_in(caller, origin, base, call, anonymous, &mut slot)
            .await
    }

    async fn sign_in(
        &self,
        caller: &Caller,
        origin: &Origin,
        base: &Base,
        call: &Call,
        refused: Answer,
        slot: &mut Option<Grant>,
    ) -> Result<Answer, UpstreamError> {
        let mut answer = refused;
        let Some(challenge) = Challenge::of(answer.0.headers()) else {
            return Ok(answer);
        };
        if let Some(grant) = obtain(caller, origin, base, &challenge, None).await? {
            answer = with(caller, origin, base, call, Some(&grant)).await?;
            *slot = Some(grant);
            if !is_refusal(answer.0.status()) {
                return Ok(answer);
            }
        }
        let Some(secret) = self.credentials.of(origin).await else {
            return Ok(answer);
        };
        if let Some(grant) = obtain(caller, origin, base, &challenge, Some(&secret)).await? {
            answer = with(caller, origin, base, call, Some(&grant)).await?;
            if answer.0.status().is_success() {
                *slot = Some(grant);
            }
        }
        Ok(answer)
    }

    /// Whether an answer says, or may hide, that leave is missing which could be had. Registries hide what is private
    /// behind 403 and 404, and serve those they know when they turn strangers away with 429.
    async fn may_be_refused(&self, origin: &Origin, (response, visibility): &Answer) -> bool {
        match response.status() {
            StatusCode::UNAUTHORIZED => true,
            status if is_refusal(status) => {
                *visibility == Visibility::Shared && self.credentials.of(origin).await.is_some()
            }
            _ => false,
        }
    }

    fn session(&self, origin: &Origin) -> Session {
        let mut sessions = self.by_origin.lock();
        sessions
            .get_or_insert(origin.clone(), Session::default)
            .clone()
    }
}

fn is_refusal(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 404 | 429)
}

async fn with(
    caller: &Caller,
    origin: &Origin,
    base: &Base,
    call: &Call,
    grant: Option<&Grant>,
) -> Result<Answer, UpstreamError> {
    let call = Call {
        authorization: grant.map(|grant| grant.authorization.clone()),
        ..call.clone()
    };
    let response = caller.call(origin, base, &call).await?;
    Ok((response, grant.map_or(Visibility::Shared, |g| g.visibility)))
}
