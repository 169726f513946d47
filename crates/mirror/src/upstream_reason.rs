//! Why bytes come from upstream, in a word each.

/// What [`Refusal::reason`](crate::refusal::Refusal::reason) says.
pub const REASONS: [&str; 9] = [
    "no_peer",
    "peers_failed",
    "leads",
    "alone",
    "filtered",
    "private",
    "tag_check",
    "busy",
    "other",
];
