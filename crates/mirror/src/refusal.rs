//! Every way in which a pull ends without content, and the one place that says what the client is told.
//!
//! containerd goes on to its next host after 404. After 408 and 429 it would ask again at once, up to five times, so
//! neither is ever answered.

use http::StatusCode;
use http::header::{ALLOW, CONTENT_RANGE, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue};
use oci::{ErrorBody, ErrorCode, RangeError};

use crate::request::{Kind, RequestError};

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
    #[error("no peer has it")]
    NoPeer(Kind),
    #[error("peers have it, none of those asked gave it: {1}")]
    PeersFailed(Kind, String),
    #[error("this mirror reads as many small objects as it has memory for")]
    Busy(Kind),
    #[error("leads: this node pulls it from upstream, for others too")]
    Leads(Kind),
    #[error("alone: this node pulls it from upstream by itself")]
    Alone(Kind),
    #[error("this node feeds as many followers as it may")]
    Uploads(Kind),
    #[error("this node measures no link now: others measure, or it has content to move")]
    Occupied,
    #[error("no range lies within the object")]
    Unsatisfiable { size: Option<u64> },
    #[error(transparent)]
    Upstream(#[from] crate::UpstreamError),
    #[error(transparent)]
    Intake(#[from] crate::IntakeError),
}

impl Refusal {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Request(RequestError::Method(_)) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Request(RequestError::UnknownPath) => StatusCode::NOT_FOUND,
            Self::Request(RequestError::UriTooLong) => StatusCode::URI_TOO_LONG,
            Self::Request(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            // Nothing that a container runtime asks for.
            Self::Occupied => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unsatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Filtered(_)
            | Self::NotHere(_)
            | Self::NoPeer(_)
            | Self::PeersFailed(..)
            | Self::Busy(_)
            | Self::Leads(_)
            | Self::Alone(_)
            | Self::Uploads(_) => StatusCode::NOT_FOUND,
            // Whoever asks a mirror has another way to upstream, and 404 is what sends it there.
            Self::Upstream(_) | Self::Intake(_) => StatusCode::NOT_FOUND,
        }
    }

    /// Why the client has to go upstream, in a word for the metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotHere(_) | Self::NoPeer(_) => "no_peer",
            Self::PeersFailed(..) => "peers_failed",
            Self::Leads(_) => "leads",
            Self::Alone(_) => "alone",
            Self::Filtered(_) => "filtered",
            Self::Busy(_) => "busy",
            _ => "other",
        }
    }

    fn code(&self) -> ErrorCode {
        let unknown = |kind: &Kind| match kind {
            Kind::Manifest => ErrorCode::ManifestUnknown,
            Kind::Blob => ErrorCode::BlobUnknown,
        };
        match self {
            Self::Request(
                RequestError::Name(oci::NameError::Digest(_)) | RequestError::BlobByTag,
            ) => ErrorCode::DigestInvalid,
            Self::Request(RequestError::Name(_) | RequestError::TagWithoutRegistry) => {
                ErrorCode::NameInvalid
            }
            Self::Request(RequestError::Range(_)) | Self::Unsatisfiable { .. } => {
                ErrorCode::SizeInvalid
            }
            Self::Request(_) | Self::Occupied => ErrorCode::Unsupported,
            Self::Unauthorized => ErrorCode::Unauthorized,
            Self::Filtered(_) => ErrorCode::NameUnknown,
            Self::NotHere(kind)
            | Self::NoPeer(kind)
            | Self::PeersFailed(kind, _)
            | Self::Busy(kind)
            | Self::Leads(kind)
            | Self::Alone(kind)
            | Self::Uploads(kind) => unknown(kind),
            Self::Upstream(crate::UpstreamError::Denied(_)) => ErrorCode::Denied,
            Self::Upstream(_) | Self::Intake(_) => ErrorCode::ManifestUnknown,
        }
    }

    /// The header that the status calls for.
    pub fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Request(RequestError::Method(_)) => {
                Some((ALLOW, HeaderValue::from_static("GET, HEAD")))
            }
            Self::Unauthorized => Some((
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"peili\""),
            )),
            Self::Unsatisfiable { size: Some(size) } => {
                let value = HeaderValue::from_str(&format!("bytes */{size}"));
                value.ok().map(|value| (CONTENT_RANGE, value))
            }
            _ => None,
        }
    }

    /// OCI error JSON.
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
