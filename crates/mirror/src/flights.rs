//! Who pulls it from upstream, and who passes it on to whom: the trait that the mirror asks about what this node's own
//! containerd wants (docs/decisions/0005).

use std::time::Duration;

use async_trait::async_trait;
use oci::{Digest, Origin};
use tokio::sync::watch;

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

    /// Changes each time that a node which feeds this one is found to have far more than this one takes of it: to the
    /// bytes a second that it takes in altogether. By default none is.
    fn outrun(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    /// A node by lot, other than this one, by which to measure what this node's link carries. By default there is none.
    async fn companion(&self) -> Option<Candidate> {
        None
    }

    /// Others are held up behind this node, which takes in far less than they could, or are so no longer: for a while, and
    /// until then, it should feed nobody who can be fed otherwise. Cheap, and never waits. By default nobody is told.
    fn lag(&self, _lags: bool) {}
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
    /// One that gave far less than others did lately: any other is better.
    pub slow: Option<PeerId>,
    /// Who leads, and gives far less than leads did lately: this node should lead as well.
    pub slow_lead: Option<PeerId>,
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
        /// For how long bytes have come from upstream to whoever leads, if one does.
        led_for: Option<Duration>,
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
    /// Which flight of this object: made up by its arbiter. Even if it is that of the whole cluster, odd if it is one of a
    /// part of it.
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
        let is_above = !self.is_of_district() && other.is_of_district();
        is_above || (self.epoch == other.epoch && self.order < other.order)
    }

    /// Whether the flight is one of a part of the cluster, whose first node has a place in that of the whole.
    fn is_of_district(&self) -> bool {
        self.epoch % 2 == 1
    }

    /// Nodes that the bytes have passed before they come to this place, as far as it tells.
    pub(crate) fn steps(&self) -> u32 {
        if self.is_of_district() {
            u32::MAX
        } else {
            self.order
        }
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
    /// The first bytes are there and can be passed on. Told again now and then while more come.
    Begun {
        /// Of the whole object, in bytes.
        size: u64,
    },
    /// It is complete here.
    Done,
    /// It ended, or stalled, before it was complete.
    Failed,
    /// It came whole, and its digest was another.
    Wrong,
    /// The follower at this place stays far behind what this node has: others should not wait behind it.
    Outrun {
        place: Place,
        /// Bytes a second that this node takes in altogether.
        rate: u64,
    },
}
