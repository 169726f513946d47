//! The client that an answer is for: what it sends along, and what it does after a refusal.

use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderValue};
use oci::Origin;

use crate::access::Access;
use crate::refusal::Refusal;
use crate::{ClientCredentials, UpstreamRepository};

/// A client of a store that the mirror fills.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its own credentials, for the registry that it names.
    pub credentials: Option<ClientCredentials>,
    /// Whether it uses one source for a whole image. containerd looks for each object at all of its hosts.
    pub keeps_to_one_source: bool,
    /// Whether it names its program.
    pub names_itself: bool,
    /// Whether upstream's answers about signing in and slowing down are passed to it. containerd asks a mirror again
    /// after 429, and a mirror with credentials of its own has its own challenges.
    hears_upstream: bool,
}

impl Client {
    pub fn of(headers: &HeaderMap, access: &Access) -> Self {
        let agent = headers.get(USER_AGENT).map(HeaderValue::as_bytes);
        let is_containerd = agent.is_some_and(|agent| agent.starts_with(b"containerd/"));
        let is_guarded = access.authorization.is_some();
        let credentials = headers
            .get(AUTHORIZATION)
            .filter(|value| !is_guarded && !value.is_empty());
        Self {
            credentials: credentials.cloned().map(ClientCredentials::new),
            keeps_to_one_source: !is_containerd,
            names_itself: agent.is_some(),
            hears_upstream: !is_containerd && !is_guarded,
        }
    }

    /// The client for what the mirror fetches for itself.
    pub(super) fn of_this_node() -> Self {
        Self {
            credentials: None,
            keeps_to_one_source: false,
            names_itself: true,
            hears_upstream: false,
        }
    }

    /// A repository, with this client's credentials.
    pub fn repository(&self, origin: &Origin) -> UpstreamRepository {
        UpstreamRepository {
            origin: origin.clone(),
            credentials: self.credentials.clone(),
        }
    }

    /// The refusal that this client gets if `refusal` is the reason.
    pub fn told(&self, refusal: Refusal) -> Refusal {
        match refusal {
            Refusal::Upstream(kind, error) if self.hears_upstream => Refusal::Relayed(kind, error),
            other => other,
        }
    }
}
