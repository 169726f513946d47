//! All ways in which a pull ends without content, and the only place that determines the client's answer.
//!
//! containerd goes on to its next host after 404. After 408 and 429 it would ask again at once, up to five times, so
//! neither is ever sent to it. Clients without another host get upstream's own 401 and 429.

use http::StatusCode;
use http::header::{ALLOW, CONTENT_RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue};
use oci::{ErrorBody, ErrorCode, NameError, RangeError};

use crate::network::NotOfNetwork;
use crate::request::host::HostError;
use crate::request::{Kind, RequestError};
use crate::{UpstreamError, UpstreamReason};

/// The seconds after which a client may ask again if upstream does not say. Clients with another way to upstream
/// (skopeo, Podman) use it only after five attempts; by themselves they would wait a minute in all.
pub const RETRY_SOON: &str = "1";

#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("credentials of the mirror are missing or wrong")]
    Unauthorized,
    #[error("this mirror does not mirror {0}")]
    Filtered(String),
    #[error("not on this node")]
    NotHere(Kind),
    #[error("{0}")]
    OutsideNetwork(NotOfNetwork),
    #[error("no peer has it")]
    NoPeer(Kind),
    #[error("peers have it, none of those asked gave it: {1}")]
    PeersFailed(Kind, String),
    #[error("this mirror reads as many small objects as it has memory for")]
    Busy(Kind),
    #[error("{1} is not known to be public; the client asks upstream with its own credentials")]
    NotPublic(Kind, oci::Origin),
    #[error("only upstream says what the tag points at: {0}")]
    TagUnchecked(&'static str),
    #[error("leads: this node pulls it from upstream, for others too")]
    Leads(Kind),
    #[error("alone: this node pulls it from upstream by itself")]
    Alone(Kind),
    #[error("this node feeds as many followers as it may")]
    Uploads(Kind),
    #[error("this node has answered enough tests of links within this second; try again later")]
    Occupied,
    #[error("the object is another one than If-Match names")]
    ConditionFailed,
    #[error("no range lies within the object")]
    Unsatisfiable { size: Option<u64> },
    #[error("{1}")]
    Upstream(Kind, crate::UpstreamError),
    /// The same, passed on with upstream's headers about signing in and slowing down.
    #[error("{1}")]
    Relayed(Kind, crate::UpstreamError),
    #[error("the list cannot be had: {0}")]
    NoList(crate::UpstreamError),
}

impl Refusal {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Request(RequestError::Method(_)) => StatusCode::METHOD_NOT_ALLOWED,
            // A tag that cannot exist does not exist: registries answer so, and clients go on to the next host.
            Self::Request(RequestError::UnknownPath | RequestError::Name(NameError::Tag(_))) => {
                StatusCode::NOT_FOUND
            }
            Self::Request(RequestError::Page(_)) => StatusCode::FORBIDDEN,
            Self::Request(RequestError::Host(HostError::Foreign(_))) => {
                StatusCode::MISDIRECTED_REQUEST
            }
            Self::Request(RequestError::UriTooLong) => StatusCode::URI_TOO_LONG,
            Self::Request(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            // Container runtimes make no such requests.
            Self::Occupied => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::Unsatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            // A node without the key gets the same answer as from a peer without the content.
            Self::OutsideNetwork(_)
            | Self::Filtered(_)
            | Self::NotPublic(..)
            | Self::TagUnchecked(_)
            | Self::NotHere(_)
            | Self::NoPeer(_)
            | Self::PeersFailed(..)
            | Self::Busy(_)
            | Self::Leads(_)
            | Self::Alone(_)
            | Self::Uploads(_) => StatusCode::NOT_FOUND,
            Self::Relayed(_, UpstreamError::Denied { challenges, .. })
                if !challenges.is_empty() =>
            {
                StatusCode::UNAUTHORIZED
            }
            Self::Relayed(_, UpstreamError::TooManyRequests { .. }) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::NoList(_) => StatusCode::BAD_GATEWAY,
            // The client of a mirror has another way to upstream, and 404 sends it there.
            Self::Upstream(..) | Self::Relayed(..) => StatusCode::NOT_FOUND,
        }
    }

    /// Whether this node may be able to answer a moment later.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Uploads(_) | Self::Occupied)
    }

    /// Why the client must go upstream.
    pub fn reason(&self) -> UpstreamReason {
        match self {
            Self::NotHere(_) | Self::NoPeer(_) => UpstreamReason::NoPeer,
            Self::PeersFailed(..) => UpstreamReason::PeersFailed,
            Self::Leads(_) => UpstreamReason::Leads,
            Self::Alone(_) => UpstreamReason::Alone,
            Self::Filtered(_) => UpstreamReason::Filtered,
            Self::NotPublic(..) => UpstreamReason::Private,
            Self::TagUnchecked(_) => UpstreamReason::TagCheck,
            Self::Busy(_) => UpstreamReason::Busy,
            _ => UpstreamReason::Other,
        }
    }

    fn code(&self) -> ErrorCode {
        let unknown = |kind: &Kind| match kind {
            Kind::Manifest => ErrorCode::ManifestUnknown,
            Kind::Blob => ErrorCode::BlobUnknown,
        };
        match self {
            Self::Request(RequestError::Name(NameError::Digest(_)) | RequestError::BlobByTag) => {
                ErrorCode::DigestInvalid
            }
            Self::Request(RequestError::Name(NameError::Tag(_))) => ErrorCode::ManifestUnknown,
            Self::Request(
                RequestError::Name(_)
                | RequestError::PathEncoding
                | RequestError::TagWithoutRegistry,
            ) => ErrorCode::NameInvalid,
            Self::Request(RequestError::Range(_)) | Self::Unsatisfiable { .. } => {
                ErrorCode::SizeInvalid
            }
            Self::Request(RequestError::Page(_) | RequestError::Host(HostError::Foreign(_))) => {
                ErrorCode::Denied
            }
            Self::Request(_) | Self::Occupied | Self::ConditionFailed => ErrorCode::Unsupported,
            Self::Unauthorized => ErrorCode::Unauthorized,
            Self::OutsideNetwork(_) => ErrorCode::Denied,
            Self::Filtered(_) => ErrorCode::NameUnknown,
            Self::TagUnchecked(_) => ErrorCode::ManifestUnknown,
            Self::NotHere(kind)
            | Self::NotPublic(kind, _)
            | Self::NoPeer(kind)
            | Self::PeersFailed(kind, _)
            | Self::Busy(kind)
            | Self::Leads(kind)
            | Self::Alone(kind)
            | Self::Uploads(kind) => unknown(kind),
            Self::Relayed(_, UpstreamError::Denied { challenges, .. })
                if !challenges.is_empty() =>
            {
                ErrorCode::Unauthorized
            }
            Self::Relayed(_, UpstreamError::TooManyRequests { .. }) => ErrorCode::TooManyRequests,
            Self::Upstream(_, UpstreamError::Denied { .. })
            | Self::Relayed(_, UpstreamError::Denied { .. }) => ErrorCode::Denied,
            Self::NoList(_) => ErrorCode::Unsupported,
            Self::Upstream(kind, _) | Self::Relayed(kind, _) => unknown(kind),
        }
    }

    /// The headers that belong to the status.
    pub fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        match self {
            Self::Request(RequestError::Method(_)) => {
                vec![(ALLOW, HeaderValue::from_static("GET, HEAD"))]
            }
            Self::Unauthorized => vec![(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"peili\""),
            )],
            Self::Relayed(_, UpstreamError::Denied { challenges, .. }) => {
                let challenge = |value: &HeaderValue| (WWW_AUTHENTICATE, value.clone());
                challenges.iter().map(challenge).collect()
            }
            Self::Relayed(_, UpstreamError::TooManyRequests { retry_after, .. }) => {
                let soon = || HeaderValue::from_static(RETRY_SOON);
                vec![(RETRY_AFTER, retry_after.clone().unwrap_or_else(soon))]
            }
            Self::Unsatisfiable { size: Some(size) } => {
                let value = HeaderValue::from_str(&format!("bytes */{size}"));
                value
                    .map(|value| (CONTENT_RANGE, value))
                    .into_iter()
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// The error as OCI JSON.
    pub fn body(&self) -> Vec<u8> {
        ErrorBody::new(self.code(), &self.to_string()).to_json()
    }
}

impl From<RangeError> for Refusal {
    fn from(error: RangeError) -> Self {
        match error {
            RangeError::Unsatisfiable { size } => Self::Unsatisfiable { size: Some(size) },
            other => Self::Request(RequestError::Range(other)),
        }
    }
}
