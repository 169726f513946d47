//! Determines whether the cluster has legacy peers, which know only Kademlia: Spegel nodes, or Peili nodes with flights
//! off. While it has, provider records are published and queried. Pure: time is passed in.
//!
//! In a large cluster a node meets few others. So a node that has met a legacy peer announces a special key, and the
//! other nodes look it up now and then.

use std::time::{Duration, Instant};

/// The name of that key.
pub(crate) const SIGN: &str = "peili: some nodes speak Kademlia alone";
/// Legacy peers count as present for this long after they were last met or reported.
const LINGER: Duration = Duration::from_secs(5 * 60);
/// The interval between lookups of the key.
const ASK_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct LegacyPeers {
    met: Option<Instant>,
    heard: Option<Instant>,
    asked: Option<Instant>,
    has_sign: bool,
}

/// What to do about this node's announcement of the key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    PutUp,
    TakeDown,
}

impl LegacyPeers {
    /// Records that this node knows a legacy peer.
    pub(crate) fn met(&mut self, now: Instant) {
        self.met = Some(now);
    }

    /// Records that another node knows a legacy peer.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    pub(crate) fn is_there(&self, now: Instant) -> bool {
        is_recent(self.met, now, LINGER) || is_recent(self.heard, now, LINGER)
    }

    /// What to do about this node's announcement. Returned once.
    pub(crate) fn sign(&mut self, now: Instant) -> Option<Sign> {
        let has_met = is_recent(self.met, now, LINGER);
        let had = std::mem::replace(&mut self.has_sign, has_met);
        match (had, has_met) {
            (false, true) => Some(Sign::PutUp),
            (true, false) => Some(Sign::TakeDown),
            _ => None,
        }
    }

    /// Whether to look up the key now. A node that has met a legacy peer need not.
    pub(crate) fn is_to_ask(&mut self, now: Instant) -> bool {
        let asks = !self.has_sign && !is_recent(self.asked, now, ASK_INTERVAL);
        if asks {
            self.asked = Some(now);
        }
        asks
    }
}

fn is_recent(moment: Option<Instant>, now: Instant, span: Duration) -> bool {
    moment.is_some_and(|moment| now.saturating_duration_since(moment) < span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sign_stands_as_long_as_they_are_about() {
        let (mut legacy_peers, now) = (LegacyPeers::default(), Instant::now());
        assert!(!legacy_peers.is_there(now) && legacy_peers.sign(now).is_none());
        legacy_peers.met(now);
        assert!(legacy_peers.is_there(now));
        assert_eq!(legacy_peers.sign(now), Some(Sign::PutUp));
        assert_eq!(legacy_peers.sign(now), None);
        assert!(!legacy_peers.is_to_ask(now));
        assert!(!legacy_peers.is_there(now + LINGER));
        assert_eq!(legacy_peers.sign(now + LINGER), Some(Sign::TakeDown));
    }

    #[test]
    fn what_others_have_met_is_asked_for_and_not_passed_on() {
        let (mut legacy_peers, now) = (LegacyPeers::default(), Instant::now());
        assert!(legacy_peers.is_to_ask(now) && !legacy_peers.is_to_ask(now));
        legacy_peers.heard(now);
        assert!(legacy_peers.is_there(now));
        assert_eq!(legacy_peers.sign(now), None);
        assert!(legacy_peers.is_to_ask(now + ASK_INTERVAL));
    }
}
