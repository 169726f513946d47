//! The answer to a request for a source, and the order of sources in a flight.

use std::fmt;

use crate::NodeId;

/// Where a node should pull an object from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<S = NodeId> {
    /// Pull from `source`, which has the object or is about to get it.
    Follow {
        /// The node to pull from.
        source: S,
        /// The position of this node in the chain.
        position: ChainPosition,
        /// The node that pulls or pulled the object from upstream, if known.
        leader: Option<NodeId>,
    },
    /// Pull from upstream, for the cluster.
    Lead,
    /// Pull from upstream, for this node only: no time is left to wait, or no node can be asked.
    Alone,
    /// Retry later: no node pulls the object yet, and the node that should is busy with other objects of the image.
    /// Only for requests with a [`requeue_after`](crate::SourceRequest::requeue_after).
    Later,
}

impl Decision {
    /// Looks up the source. `None`: `lookup` does not know it.
    pub fn with_source<S>(self, lookup: impl FnOnce(&NodeId) -> Option<S>) -> Option<Decision<S>> {
        Some(match self {
            Self::Follow {
                source,
                position,
                leader,
            } => Decision::Follow {
                source: lookup(&source)?,
                position,
                leader,
            },
            Self::Lead => Decision::Lead,
            Self::Alone => Decision::Alone,
            Self::Later => Decision::Later,
        })
    }
}

/// A position in the order in which the nodes of a flight receive their bytes.
///
/// A source precedes its followers in this order, so no two nodes feed each other before either has a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainPosition {
    /// Identifies the flight, chosen by its arbiter: odd in a shard, even in the whole cluster.
    pub epoch: u64,
    /// The order within the flight.
    pub order: u32,
}

impl ChainPosition {
    /// Parses `<epoch>-<order>`, both hexadecimal.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, order) = text.split_once('-')?;
        let is_number = |t: &str| t.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_number(epoch) || !is_number(order) {
            return None;
        }
        Some(Self {
            epoch: u64::from_str_radix(epoch, 16).ok()?,
            order: u32::from_str_radix(order, 16).ok()?,
        })
    }

    /// Whether a node at this position receives its bytes before a node at `other`. The cluster's flight precedes those
    /// of shards: the fetcher of a shard has a position in both.
    pub fn is_before(&self, other: &Self) -> bool {
        let is_above = !self.is_of_shard() && other.is_of_shard();
        is_above || (self.epoch == other.epoch && self.order < other.order)
    }

    /// Whether the flight is that of a shard.
    pub(crate) fn is_of_shard(&self) -> bool {
        self.epoch % 2 == 1
    }
}

impl fmt::Display for ChainPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.epoch, self.order)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_position_reads_as_it_is_written(epoch: u64, order: u32) {
            let position = ChainPosition { epoch, order };
            prop_assert_eq!(ChainPosition::parse(&position.to_string()), Some(position));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-f+-]{0,30}") {
            if let Some(position) = ChainPosition::parse(&text) {
                prop_assert!(!text.contains('+'));
                prop_assert_eq!(ChainPosition::parse(&position.to_string()), Some(position));
            }
        }
    }
}
