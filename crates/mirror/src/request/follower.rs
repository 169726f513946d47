//! The headers in which a follower of a flight describes itself to its source.

use http::HeaderMap;
use http::request::Builder;

use super::{FLIGHT, UPLOADS_BELOW};
use crate::ChainPosition;

/// A node that follows the flight of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    pub position: ChainPosition,
    /// If a holder of the complete object sends this many objects already, the follower asks another one.
    pub uploads_below: Option<usize>,
}

impl Follower {
    /// The follower that sends a request with these headers. `None` also if its position is malformed.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name| headers.get(name)?.to_str().ok();
        Some(Self {
            position: ChainPosition::parse(text(FLIGHT)?)?,
            uploads_below: text(UPLOADS_BELOW).and_then(|most| most.parse().ok()),
        })
    }

    pub fn add_to(&self, mut request: Builder) -> Builder {
        if let Some(most) = self.uploads_below {
            request = request.header(UPLOADS_BELOW, most);
        }
        request.header(FLIGHT, self.position.to_string())
    }
}
