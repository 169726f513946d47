//! The mirror's data on peers and registries, for the doctor.

use std::time::{Duration, SystemTime};

use ::status::{Peer, PeerState};
use mirror::{Reached, RegistryState, snapshot};

/// A registry that failed longer ago, and was not asked since, is not reported.
const LATELY: Duration = Duration::from_secs(10 * 60);

/// The peers of the cluster. `shown` and `seen` are the same peers, in the same order; `reached`: how they answered
/// now, by their ids.
pub fn peers(shown: &[Peer], seen: &[snapshot::Peer], reached: &Reached) -> Vec<doctor::Peer> {
    let peers = shown.iter().zip(seen);
    let peers = peers.filter(|(shown, _)| shown.state != PeerState::Gone);
    let peers = peers.map(|(shown, seen)| {
        let answer = seen.node.as_ref().and_then(|node| reached.get(node));
        let unreachable = answer.and_then(|answer| answer.as_ref().err().cloned());
        let answer = answer.and_then(|answer| answer.as_ref().ok());
        let unreached = answer.and_then(|answer| answer.unreached.as_ref());
        doctor::Peer {
            name: shown.name.clone(),
            address: shown.address.clone(),
            version: shown.version.clone(),
            error: error(shown).or(unreachable),
            clock_ahead_s: answer.and_then(|answer| Some(ahead(answer.clock.as_ref()?))),
            unreached: unreached.map(|all| all.iter().map(ToString::to_string).collect()),
            lacking: Some(u64::from(seen.lacked)),
        }
    });
    peers.collect()
}

/// How many seconds another node's clock is ahead of this one's.
fn ahead(theirs: &SystemTime) -> i64 {
    let seconds = |ahead: Duration| ahead.as_secs().cast_signed();
    match theirs.duration_since(SystemTime::now()) {
        Ok(ahead) => seconds(ahead),
        Err(behind) => -seconds(behind.duration()),
    }
}

/// Why a peer gets no requests now.
fn error(peer: &Peer) -> Option<String> {
    match (peer.state, &peer.last_error) {
        (PeerState::BackOff, Some((error, _))) => Some(error.clone()),
        (PeerState::BackOff, None) => Some("it failed".to_owned()),
        (PeerState::Suspected, _) => Some("it does not answer the probes of the others".to_owned()),
        _ => None,
    }
}

/// The registries at which tags and visibility were checked.
pub fn registries(states: &[RegistryState]) -> Vec<doctor::Registry> {
    let states = states.iter().map(|state| {
        let lately = |ago: Option<Duration>| ago.filter(|ago| *ago < LATELY);
        let unreachable = lately(state.unreachable_for);
        let unreachable = unreachable.map(|ago| {
            let error = state.error.as_deref().unwrap_or("not reached");
            format!("{error} ({} s ago)", ago.as_secs())
        });
        let slow =
            lately(state.slow_for).map(|ago| format!("no answer in time {} s ago", ago.as_secs()));
        let failed = lately(state.gave_no_answer_for);
        let failed =
            failed.map(|ago| format!("it answered 429, 5xx or nonsense {} s ago", ago.as_secs()));
        doctor::Registry {
            name: state.name.to_string(),
            failing: unreachable.clone().or(failed).or(slow),
            unreachable,
        }
    });
    states.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registries_did_lately_is_told_and_what_is_long_ago_is_not() {
        let state =
            |unreachable: Option<u64>, slow: Option<u64>, failed: Option<u64>| RegistryState {
                name: "a.io".parse().expect("a registry"),
                unreachable_for: unreachable.map(Duration::from_secs),
                error: unreachable.map(|_| "a.io:443: refused".to_owned()),
                slow_for: slow.map(Duration::from_secs),
                gave_no_answer_for: failed.map(Duration::from_secs),
            };
        let all = registries(&[
            state(Some(3), None, None),
            state(None, Some(2), None),
            state(None, None, Some(5)),
            state(Some(3600), None, Some(3600)),
        ]);
        let told: Vec<_> = all
            .iter()
            .map(|r| (r.unreachable.is_some(), r.failing.is_some()))
            .collect();
        assert_eq!(
            all[0].unreachable.as_deref(),
            Some("a.io:443: refused (3 s ago)")
        );
        assert_eq!(
            told,
            [(true, true), (false, true), (false, true), (false, false)]
        );
    }

    #[test]
    fn a_peer_that_is_not_asked_says_why() {
        let peer = |state| Peer {
            name: "n".into(),
            state,
            ..Peer::default()
        };
        let error_of = |state| error(&peer(state));
        assert_eq!(error_of(PeerState::Ok), None);
        assert_eq!(error_of(PeerState::Legacy), None);
        assert!(error_of(PeerState::Suspected).is_some() && error_of(PeerState::BackOff).is_some());
    }
}
