//! The proof that a request comes from a node that has a key of the network.
//!
//! It consists of the time of its creation, in seconds since 1970, and for each key of the node an authentication code
//! (HMAC-SHA256) over the time and the request: `1764376000.<code>` or `1764376000.<code>.<code>`, codes in
//! hexadecimal. The code covers the receiving node. So this node, or an eavesdropper, can use a proof only for the same
//! request to the same node within [`MAX_CLOCK_DIFFERENCE`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::hmac;

use crate::{MAX_KEYS, NetworkKeys};

/// The time for which a proof is valid, before and after the time in it: clocks of nodes differ. Kerberos allows the
/// same by default (RFC 4120, section 3.1.3).
pub const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(5 * 60);

/// Why a request does not prove a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotProven {
    #[error("the request has no proof of the network key")]
    Missing,
    #[error("the proof of the network key is made with another key, or for another request")]
    WrongKey,
    #[error(
        "the proof of the network key was made {seconds} s before or after this node's time; set the clocks of both nodes"
    )]
    Clock { seconds: u64 },
}

impl NotProven {
    /// The reason as a label of metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::WrongKey => "wrong_key",
            Self::Clock { .. } => "clock",
        }
    }
}

/// The content of a proof.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The name of the receiving node.
    pub target: &'a str,
    /// All parts of the request that affect it, in a fixed order; `None`: an absent part.
    pub parts: &'a [Option<&'a [u8]>],
}

impl Claim<'_> {
    /// The proof of a request that is sent at `now`. `None`: the node has no key.
    pub fn prove(&self, keys: &NetworkKeys, now: SystemTime) -> Option<String> {
        if keys.is_empty() {
            return None;
        }
        let time = seconds(now);
        let message = self.message(time);
        let mut proof = time.to_string();
        for key in keys.iter() {
            proof.push('.');
            proof += &hex::encode(hmac::sign(key.request_key(), &message));
        }
        Some(proof)
    }

    /// Checks the proof of a request that came at `now`. Takes the same time for any codes.
    ///
    /// # Errors
    /// It proves no key of this node.
    pub fn check(
        &self,
        proof: Option<&[u8]>,
        keys: &NetworkKeys,
        now: SystemTime,
    ) -> Result<(), NotProven> {
        let proof = proof.ok_or(NotProven::Missing)?;
        let (time, codes) = read(proof).ok_or(NotProven::WrongKey)?;
        let message = self.message(time);
        let is_of = |code: &Vec<u8>| {
            let of = |key: &crate::NetworkKey| hmac::verify(key.request_key(), &message, code);
            keys.iter().any(|key| of(key).is_ok())
        };
        if !codes.iter().any(is_of) {
            return Err(NotProven::WrongKey);
        }
        let difference = time.abs_diff(seconds(now));
        if difference > MAX_CLOCK_DIFFERENCE.as_secs() {
            let seconds = difference;
            return Err(NotProven::Clock { seconds });
        }
        Ok(())
    }

    /// The authenticated bytes. Each part is preceded by its length, so that different requests always differ here.
    fn message(&self, time: u64) -> Vec<u8> {
        let mut message = time.to_be_bytes().to_vec();
        let target = Some(self.target.as_bytes());
        for part in std::iter::once(&target).chain(self.parts) {
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            message.extend(length.to_be_bytes());
            message.extend(part.unwrap_or_default());
        }
        message
    }
}

/// The time and the codes in a proof. `None`: it is malformed.
fn read(proof: &[u8]) -> Option<(u64, Vec<Vec<u8>>)> {
    let mut fields = std::str::from_utf8(proof).ok()?.split('.');
    let time = fields.next()?.parse().ok()?;
    let codes: Option<Vec<_>> = fields
        .by_ref()
        .take(MAX_KEYS)
        .map(|code| hex::decode(code).ok())
        .collect();
    let codes = codes.filter(|codes| !codes.is_empty())?;
    fields.next().is_none().then_some((time, codes))
}

/// The seconds since 1970; 0 for earlier times.
fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(texts: &[&str]) -> NetworkKeys {
        let lines: Vec<_> = texts.iter().map(|text| text.repeat(32)).collect();
        NetworkKeys::parse(lines.join("\n").as_bytes()).expect("keys")
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    const CLAIM: Claim<'static> = Claim {
        target: "node-1",
        parts: &[Some(b"GET"), Some(b"/v2/a"), None],
    };

    #[test]
    fn nodes_with_a_key_in_common_know_each_other() {
        for (mine, theirs, is_known) in [
            (&["a"][..], &["a"][..], true),
            (&["a"], &["b", "a"], true),
            (&["b", "a"], &["a"], true),
            (&["a", "b"], &["b", "c"], true),
            (&["a"], &["b"], false),
            (&["a", "b"], &["c"], false),
        ] {
            let proof = CLAIM.prove(&keys(mine), at(1000)).expect("a proof");
            let checked = CLAIM.check(Some(proof.as_bytes()), &keys(theirs), at(1000));
            let expected = if is_known {
                Ok(())
            } else {
                Err(NotProven::WrongKey)
            };
            assert_eq!(checked, expected, "{mine:?} to {theirs:?}");
        }
    }

    #[test]
    fn without_a_key_nothing_is_proven_to_anybody() {
        let (none, some) = (NetworkKeys::default(), keys(&["a"]));
        assert_eq!(CLAIM.prove(&none, at(0)), None);
        assert_eq!(CLAIM.check(None, &some, at(0)), Err(NotProven::Missing));
        assert_eq!(CLAIM.check(None, &none, at(0)), Err(NotProven::Missing));
        let proof = CLAIM.prove(&some, at(0)).expect("a proof");
        let checked = CLAIM.check(Some(proof.as_bytes()), &none, at(0));
        assert_eq!(checked, Err(NotProven::WrongKey));
    }

    #[test]
    fn clocks_may_differ_by_five_minutes() {
        let keys = keys(&["a"]);
        let proof = CLAIM.prove(&keys, at(10_000)).expect("a proof");
        let check = |now| CLAIM.check(Some(proof.as_bytes()), &keys, at(now));
        assert_eq!((check(9_700), check(10_300)), (Ok(()), Ok(())));
        for (now, seconds) in [(9_699, 301), (10_301, 301), (0, 10_000)] {
            assert_eq!(check(now), Err(NotProven::Clock { seconds }));
        }
    }

    #[test]
    fn what_is_no_proof_is_refused() {
        let keys = keys(&["a"]);
        let proof = CLAIM.prove(&keys, at(1000)).expect("a proof");
        let code = proof.split('.').nth(1).expect("a code");
        for bad in [
            String::new(),
            "1000".to_owned(),
            "1000.".to_owned(),
            code.to_owned(),
            format!("1001.{code}"),
            format!("1000.{}", &code[2..]),
            format!("1000.{code}.{code}.{code}"),
            format!("99999999999999999999.{code}"),
            format!("-1000.{code}"),
        ] {
            let checked = CLAIM.check(Some(bad.as_bytes()), &keys, at(1000));
            assert_eq!(checked, Err(NotProven::WrongKey), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_proof_counts_for_one_request_to_one_node(
            mine: (String, Vec<Option<Vec<u8>>>),
            other: (String, Vec<Option<Vec<u8>>>),
        ) {
            let keys = keys(&["a"]);
            let borrowed: Vec<_> = mine.1.iter().map(Option::as_deref).collect();
            let foreign: Vec<_> = other.1.iter().map(Option::as_deref).collect();
            let claim = Claim { target: &mine.0, parts: &borrowed };
            let another = Claim { target: &other.0, parts: &foreign };
            let proof = claim.prove(&keys, at(1000)).expect("a proof");
            prop_assert_eq!(claim.check(Some(proof.as_bytes()), &keys, at(1000)), Ok(()));
            let checked = another.check(Some(proof.as_bytes()), &keys, at(1000));
            prop_assert_eq!(checked.is_ok(), mine == other);
        }

        #[test]
        fn noise_proves_nothing(noise: Vec<u8>, text in "[0-9]{1,20}(\\.[0-9a-f]{0,70}){0,3}") {
            let keys = keys(&["a", "b"]);
            for proof in [noise.as_slice(), text.as_bytes()] {
                prop_assert_eq!(CLAIM.check(Some(proof), &keys, at(1000)), Err(NotProven::WrongKey));
            }
        }

        /// A request whose parts are divided differently is another request.
        #[test]
        fn parts_have_ends(text in "[ab]{1,12}", cut in 0_usize..12, other in 0_usize..12) {
            let (keys, cut, other) = (keys(&["a"]), cut.min(text.len()), other.min(text.len()));
            let halves = |at: usize| {
                let (a, b) = text.as_bytes().split_at(at);
                [Some(a), Some(b)]
            };
            let (mine, theirs) = (halves(cut), halves(other));
            let proof = Claim { target: "n", parts: &mine }.prove(&keys, at(1000)).expect("a proof");
            let checked = Claim { target: "n", parts: &theirs }.check(Some(proof.as_bytes()), &keys, at(1000));
            prop_assert_eq!(checked.is_ok(), cut == other);
        }
    }
}
