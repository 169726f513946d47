//! The reasons why bytes come from upstream.

use serde::Serialize;

/// Why the node's own client had to go upstream, as metrics and API name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamReason {
    /// No node has the object.
    NoPeer,
    /// Nodes had it, but all of them failed.
    PeersFailed,
    /// This node pulls it for all nodes.
    Leads,
    /// Waiting for others would have taken too long.
    Alone,
    /// A filter excludes it.
    Filtered,
    /// The registry decides which clients get it.
    Private,
    /// The tag could not be checked in time.
    TagCheck,
    /// This mirror had no memory or permit left for it.
    Busy,
    Other,
}

impl UpstreamReason {
    pub const ALL: [Self; 9] = [
        Self::NoPeer,
        Self::PeersFailed,
        Self::Leads,
        Self::Alone,
        Self::Filtered,
        Self::Private,
        Self::TagCheck,
        Self::Busy,
        Self::Other,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoPeer => "no_peer",
            Self::PeersFailed => "peers_failed",
            Self::Leads => "leads",
            Self::Alone => "alone",
            Self::Filtered => "filtered",
            Self::Private => "private",
            Self::TagCheck => "tag_check",
            Self::Busy => "busy",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counters are kept by the position in [`UpstreamReason::ALL`].
    #[test]
    fn every_reason_has_its_place_and_one_name() {
        for (place, reason) in UpstreamReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
            assert_eq!(serde_json::json!(reason), reason.as_str());
        }
        assert_eq!(
            UpstreamReason::Other as usize + 1,
            UpstreamReason::ALL.len()
        );
    }
}
