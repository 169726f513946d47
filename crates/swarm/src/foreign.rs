//! Whether there are nodes in the cluster that speak Kademlia alone: Spegel's, or Peili's with flights off. For their
//! sake provider records are published and asked for. Pure: time comes in.
//!
//! In a large cluster a node meets few others, so whoever has met such a node puts up a sign: it holds a key that
//! means just that, and all others look for holders of this key now and then.

use std::time::{Duration, Instant};

/// What the sign is filed under, as if it were the name of an object.
pub(crate) const SIGN: &str = "peili: some nodes speak Kademlia alone";
/// Such nodes count as there for so long after they were last met or heard of.
const LINGER: Duration = Duration::from_secs(5 * 60);
/// Between two looks for the sign.
const ASK_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Foreign {
    met: Option<Instant>,
    heard: Option<Instant>,
    asked: Option<Instant>,
    has_sign: bool,
}

/// What is to be done about the sign.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    PutUp,
    TakeDown,
}

impl Foreign {
    /// This node knows one.
    pub(crate) fn met(&mut self, now: Instant) {
        self.met = Some(now);
    }

    /// Others know one.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    pub(crate) fn is_there(&self, now: Instant) -> bool {
        is_recent(self.met, now, LINGER) || is_recent(self.heard, now, LINGER)
    }

    /// What is to be done about this node's own sign; told once.
    pub(crate) fn sign(&mut self, now: Instant) -> Option<Sign> {
        let has_met = is_recent(self.met, now, LINGER);
        let had = std::mem::replace(&mut self.has_sign, has_met);
        match (had, has_met) {
            (false, true) => Some(Sign::PutUp),
            (true, false) => Some(Sign::TakeDown),
            _ => None,
        }
    }

    /// Whether it is time to look for the signs of others. Who has met one needs not.
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
        let (mut foreign, now) = (Foreign::default(), Instant::now());
        assert!(!foreign.is_there(now) && foreign.sign(now).is_none());
        foreign.met(now);
        assert!(foreign.is_there(now));
        assert_eq!(foreign.sign(now), Some(Sign::PutUp));
        assert_eq!(foreign.sign(now), None);
        assert!(!foreign.is_to_ask(now));
        assert!(!foreign.is_there(now + LINGER));
        assert_eq!(foreign.sign(now + LINGER), Some(Sign::TakeDown));
    }

    #[test]
    fn what_others_have_met_is_asked_for_and_not_passed_on() {
        let (mut foreign, now) = (Foreign::default(), Instant::now());
        assert!(foreign.is_to_ask(now) && !foreign.is_to_ask(now));
        foreign.heard(now);
        assert!(foreign.is_there(now));
        assert_eq!(foreign.sign(now), None);
        assert!(foreign.is_to_ask(now + ASK_INTERVAL));
    }
}
