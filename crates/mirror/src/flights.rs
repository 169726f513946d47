//! Who pulls it from upstream, and who passes it on to whom: the trait that the mirror asks about what this node's own
//! containerd wants (docs/decisions/0005).

use std::time::Duration;

use async_trait::async_trait;
use oci::{Digest, Origin};

use crate::{Candidate, PeerId};

/// Agrees with the other nodes of the cluster on one of them that pulls an object from upstream, and on who gets it
/// from whom while it arrives.
#[async_trait]
pub trait Flights: Send + Sync + 'static {
    /// What this node is to do about an object that its own containerd asks for. Answers within what the budget of the
    /// image pull leaves. Dropping the future withdraws the question.
    async fn seek(&self, seek: Seek) -> Turn;

    /// Tells how a pull that [`Flights::seek`] was asked about goes on. Cheap, and never waits.
    fn report(&self, digest: &Digest, news: News);
}

/// A question of a node that wants an object.
#[derive(Clone, Debug)]
pub struct Seek {
    pub digest: Digest,
    /// Where the client wants it from. A budget is that of an origin, and so is a leader's bad luck.
    pub origin: Option<Origin>,
    /// Of the whole object in bytes, where it is known.
    pub size: Option<u64>,
    /// How many objects of the image are likely to move to this node at the same moment: at least 1.
    pub streams: u8,
    /// Who led the image's manifest, where that is known: it should lead the rest of the image too.
    pub prefer: Option<PeerId>,
    /// Bytes that this node has already.
    pub offset: u64,
    /// After how long the client is rather made to ask again, when its other downloads have had their turn
    /// ([`Turn::Later`]).
    pub yields: Option<Duration>,
    /// Sources that were of no use to this pull.
    pub failed: Vec<PeerId>,
}

/// What a node is to do.
#[derive(Clone, Debug)]
pub enum Turn {
    /// Take it from this peer, which has it or is on its way to have it.
    Follow {
        source: Candidate,
        place: Place,
        /// Who pulls or pulled it from upstream, if that is known.
        leader: Option<PeerId>,
    },
    /// Pull it from upstream, for all.
    Lead,
    /// Ask again later: nobody pulls it yet, and who should is busy with others of its image.
    Later,
    /// Pull it from upstream, for there is no time left to wait, or nobody to wait for.
    Alone,
}

/// A place in the order in which nodes of one flight get their bytes. A source of the same epoch comes before those
/// that it feeds, so that no two feed each other before either has a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Which flight of this object: made up by its arbiter.
    pub epoch: u64,
    pub order: u32,
}

impl Place {
    /// Reads `<epoch>-<order>`, both hexadecimal.
    pub(crate) fn parse(text: &str) -> Option<Self> {
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

    /// Whether it comes before another of the same flight.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.order < other.order
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}-{:x}", self.epoch, self.order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_place_reads_as_it_is_written(epoch: u64, order: u32) {
            let place = Place { epoch, order };
            prop_assert_eq!(Place::parse(&place.to_string()), Some(place));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-f+-]{0,30}") {
            if let Some(place) = Place::parse(&text) {
                prop_assert!(!text.contains('+'));
                prop_assert_eq!(Place::parse(&place.to_string()), Some(place));
            }
        }
    }
}

/// How a pull goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The first bytes are there and can be passed on. Told again now and then while more come from upstream.
    Begun {
        /// Of the whole object, in bytes.
        size: u64,
    },
    /// It is complete here.
    Done,
    /// It ended, or stalled, before it was complete.
    Failed,
}
