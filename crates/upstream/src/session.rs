//! Authorised requests: anonymous first, then with this node's credentials. Successful authorisations are remembered.
//! With a client's own credentials there is no sign-in, and nothing is remembered.

use std::num::NonZeroUsize;
use std::sync::Arc;

use http::StatusCode;
use lru::LruCache;
use mirror::{UpstreamError, UpstreamRepository, Visibility};
use oci::Origin;
use parking_lot::Mutex;

use crate::call::{Answer, AnsweredBy, Call, Caller};
use crate::challenge::Challenge;
use crate::credentials::Credentials;
use crate::policy::Base;
use crate::token::{Grant, obtain};

/// The most repositories whose grants are remembered.
const MAX_SESSIONS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// What is known of a repository. Locked during a sign-in, so that other requests wait for its result.
type Session = Arc<tokio::sync::Mutex<Option<Grant>>>;

pub(crate) struct Sessions {
    credentials: Credentials,
    tells_faults: bool,
    by_origin: Mutex<LruCache<Origin, Session>>,
}

/// An answer, and the grant that it needed.
pub(crate) struct Granted {
    pub(crate) answer: Answer,
    pub(crate) visibility: Visibility,
}

impl Granted {
    fn status(&self) -> StatusCode {
        self.answer.response.status()
    }

    /// The challenge of the registry itself. Challenges of redirect targets are ignored: they would get the credentials
    /// of the registry.
    fn challenge(&self) -> Option<Challenge> {
        match self.answer.by {
            AnsweredBy::Asked | AnsweredBy::SameOrigin => {
                Challenge::of(self.answer.response.headers())
            }
            AnsweredBy::Elsewhere => None,
        }
    }
}

/// One call that may need a sign-in.
struct Asking<'a> {
    caller: &'a Caller,
    origin: &'a Origin,
    base: &'a Base,
    call: &'a Call,
}

impl Sessions {
    /// `tells_faults`: a failing token service is a fault, not a refusal.
    pub(crate) fn new(credentials: Credentials, tells_faults: bool) -> Self {
        Self {
            credentials,
            tells_faults,
            by_origin: Mutex::new(LruCache::new(MAX_SESSIONS)),
        }
    }

    /// Makes a call to the registry itself. The answer may still be a refusal: then no sign-in helps.
    pub(crate) async fn ask(
        &self,
        caller: &Caller,
        repository: &UpstreamRepository,
        base: &Base,
        call: &Call,
    ) -> Result<Granted, UpstreamError> {
        let origin = &repository.origin;
        let asking = Asking {
            caller,
            origin,
            base,
            call,
        };
        // In clear text, others on the path could read them.
        let own = repository.credentials.as_ref();
        if let Some(own) = own.filter(|_| base.url.scheme() == "https") {
            let call = Call {
                authorization: Some(own.header().clone()),
                ..call.clone()
            };
            return Ok(Granted {
                answer: caller.call(origin, base, &call).await?,
                visibility: Visibility::Private,
            });
        }
        self.ask_as_node(&asking).await
    }

    async fn ask_as_node(&self, asking: &Asking<'_>) -> Result<Granted, UpstreamError> {
        let session = self.session(asking.origin);
        let known = session.lock().await.clone().filter(Grant::is_valid);
        let granted = asking.with(known.as_ref()).await?;
        if !self.may_be_refused(asking, &granted, known.is_some()).await {
            return Ok(granted);
        }
        let mut slot = session.lock().await;
        let newer = slot.clone().filter(|newer| {
            let used = known.as_ref().map(|grant| &grant.authorization);
            newer.is_valid() && used != Some(&newer.authorization)
        });
        if let Some(newer) = newer {
            // Another request has signed in meanwhile.
            let granted = asking.with(Some(&newer)).await?;
            if !is_refusal(granted.status()) {
                return Ok(granted);
            }
        }
        *slot = None;
        let anonymous = if known.is_some() {
            asking.with(None).await?
        } else {
            granted
        };
        self.sign_in(asking, anonymous, &mut slot).await
    }

    async fn sign_in(
        &self,
        asking: &Asking<'_>,
        refused: Granted,
        slot: &mut Option<Grant>,
    ) -> Result<Granted, UpstreamError> {
        let mut granted = refused;
        let Some(challenge) = granted.challenge() else {
            return Ok(granted);
        };
        let secret = self.credentials.of(asking.origin).await;
        match asking.obtain(&challenge, None).await {
            Ok(Some(grant)) => {
                granted = asking.with(Some(&grant)).await?;
                *slot = Some(grant);
                if !is_refusal(granted.status()) {
                    return Ok(granted);
                }
            }
            Ok(None) => {}
            Err(error)
                if secret.is_none()
                    && (self.tells_faults || matches!(error, UpstreamError::Forbidden(..))) =>
            {
                return Err(error);
            }
            // The token service may serve only known clients. The registry's own challenge then shows a client with
            // credentials where to sign in.
            Err(error) => {
                tracing::debug!(origin = %asking.origin, %error, "no anonymous token");
            }
        }
        let Some(secret) = secret else {
            return Ok(granted);
        };
        if let Some(grant) = asking.obtain(&challenge, Some(&secret)).await? {
            granted = asking.with(Some(&grant)).await?;
            if granted.status().is_success() {
                *slot = Some(grant);
            }
        }
        Ok(granted)
    }

    /// Whether a sign-in could change this answer. A formerly valid token may be refused with 400, 401 or 403.
    /// Registries hide private content behind 403 and 404, and serve known clients while they refuse others with 429.
    async fn may_be_refused(
        &self,
        asking: &Asking<'_>,
        granted: &Granted,
        was_known: bool,
    ) -> bool {
        if granted.answer.by == AnsweredBy::Elsewhere {
            return false;
        }
        match granted.status().as_u16() {
            401 => true,
            400 | 403 if was_known => true,
            403 | 404 | 429 => {
                granted.visibility == Visibility::Shared
                    && self.credentials.of(asking.origin).await.is_some()
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

impl Asking<'_> {
    async fn with(&self, grant: Option<&Grant>) -> Result<Granted, UpstreamError> {
        let call = Call {
            authorization: grant.map(|grant| grant.authorization.clone()),
            ..self.call.clone()
        };
        Ok(Granted {
            answer: self.caller.call(self.origin, self.base, &call).await?,
            visibility: grant.map_or(Visibility::Shared, |grant| grant.visibility),
        })
    }

    async fn obtain(
        &self,
        challenge: &Challenge,
        secret: Option<&crate::credentials::Secret>,
    ) -> Result<Option<Grant>, UpstreamError> {
        obtain(self.caller, self.origin, self.base, challenge, secret).await
    }
}

fn is_refusal(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 401 | 403 | 404 | 429)
}
