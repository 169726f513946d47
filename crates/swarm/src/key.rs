//! The name of a key in the distributed hash table.

use libp2p::kad::RecordKey;
use sha2::{Digest as _, Sha256};

/// A multihash of SHA-256 begins with its code and the length of the hash.
/// Source: <https://github.com/multiformats/multicodec/blob/master/table.csv>.
const SHA2_256: [u8; 2] = [0x12, 0x20];

/// The SHA-256 of a key's text. As a multihash, it is also Spegel's key of provider records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RoutingKey([u8; 32]);

impl From<&oci::Key> for RoutingKey {
    fn from(key: &oci::Key) -> Self {
        Self::of(&key.to_string())
    }
}

impl RoutingKey {
    /// The key of a name that is neither an object nor a tag.
    pub(crate) fn of(name: &str) -> Self {
        Self(Sha256::digest(name).into())
    }
}

/// The key in flights: the first half.
impl From<&RoutingKey> for flights::Key {
    fn from(key: &RoutingKey) -> Self {
        Self(key.0.first_chunk().copied().unwrap_or_default())
    }
}

impl From<RoutingKey> for RecordKey {
    fn from(key: RoutingKey) -> Self {
        let mut multihash = Vec::with_capacity(SHA2_256.len() + key.0.len());
        multihash.extend(SHA2_256);
        multihash.extend(key.0);
        multihash.into()
    }
}

/// A record key from another node that is not a SHA-256 multihash, so it names no object or tag.
#[derive(Debug, thiserror::Error)]
#[error("not a SHA-256 multihash")]
pub(crate) struct ForeignKey;

impl TryFrom<&RecordKey> for RoutingKey {
    type Error = ForeignKey;

    fn try_from(key: &RecordKey) -> Result<Self, ForeignKey> {
        let hash = key.as_ref().strip_prefix(&SHA2_256).ok_or(ForeignKey)?;
        hash.try_into().map(Self).map_err(|_| ForeignKey)
    }
}

#[cfg(test)]
impl RoutingKey {
    /// A key made from a number, for tests.
    pub(crate) fn numbered(number: u32) -> Self {
        Self(Sha256::digest(number.to_be_bytes()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_multihash_of_the_text() {
        let digest = oci::Digest::sha256(b"");
        let key = RecordKey::from(RoutingKey::from(&oci::Key::Digest(digest.clone())));
        let mut expected = vec![0x12, 0x20];
        expected.extend(Sha256::digest(digest.as_str()));
        assert_eq!(key.to_vec(), expected);
        assert_eq!(
            RoutingKey::try_from(&key).expect("ours"),
            RoutingKey::from(&oci::Key::Digest(digest))
        );
    }

    #[test]
    fn is_what_flights_call_it() {
        let digest = oci::Digest::sha256(b"");
        let key = RoutingKey::from(&oci::Key::Digest(digest.clone()));
        assert_eq!(flights::Key::from(&key), flights::Key::of(digest.as_str()));
    }

    #[test]
    fn refuses_what_is_no_sha256_multihash() {
        for legacy_peers in [
            &b""[..],
            b"\x12",
            b"\x12\x20short",
            &[0x12; 35],
            &[0x11; 34],
        ] {
            assert!(RoutingKey::try_from(&RecordKey::new(&legacy_peers)).is_err());
        }
    }
}
