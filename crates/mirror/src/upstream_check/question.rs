//! The questions to upstream, on whose behalf they are asked, and the answers.

use oci::{Digest, Origin, Reference, TagName};

use crate::UpstreamHead;

/// A question to upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    Tag(TagName),
    Manifest(Origin, Digest),
    /// Whether a repository sends the bytes of an object that this node holds.
    Bytes(Origin, Digest),
}

impl Question {
    pub fn origin(&self) -> &Origin {
        match self {
            Self::Tag(name) => &name.origin,
            Self::Manifest(origin, _) | Self::Bytes(origin, _) => origin,
        }
    }

    pub fn reference(&self) -> Reference {
        match self {
            Self::Tag(name) => Reference::Tag(name.tag.clone()),
            Self::Manifest(_, digest) | Self::Bytes(_, digest) => Reference::Digest(digest.clone()),
        }
    }
}

/// Upstream's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Granted(UpstreamHead),
    /// Refused to an anonymous client.
    Refused,
    NotFound,
    /// It was reached, but neither granted nor refused: 429, 5xx, or an answer against the specification.
    Failed,
    /// It was reached lately, and does not answer in time.
    Slow,
    Unreachable,
}

impl Answer {
    pub fn label(&self) -> &'static str {
        match self {
            Self::Granted(_) => "granted",
            Self::Refused => "refused",
            Self::NotFound => "not_found",
            Self::Failed => "failed",
            Self::Slow => "slow",
            Self::Unreachable => "unreachable",
        }
    }
}

/// The client on whose behalf upstream is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// This node's own client, proven by the node secret.
    ProvenOwn,
    /// This node's own client, as far as this is known without a secret: it asks from this host, or owns the pull.
    Own,
    /// Any other client, if there is no secret. All of them share some questions a minute, and fewer to registries that
    /// have never answered.
    Anybody,
    /// A client without the node secret, if one is set: upstream is not asked, and what is known counts.
    Unauthenticated,
    /// This node, on behalf of another client, about a repository under which it holds the object: within the limits of
    /// [`Self::Anybody`].
    Holder,
}

impl Asker {
    /// Whether it is this node's own client, as far as is known.
    pub fn is_own(self) -> bool {
        matches!(self, Self::ProvenOwn | Self::Own)
    }
}
