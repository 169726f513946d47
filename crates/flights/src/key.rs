//! Keys of objects and tags.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// An object or a tag: the first 16 bytes of the SHA-256 of its full name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 16]);

impl Key {
    /// The key of a digest (`sha256:…`) or of a tag (`registry/repository:tag`).
    pub fn of(name: &str) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&Sha256::digest(name.as_bytes())[..16]);
        Self(key)
    }

    /// The first 64 bits.
    pub(crate) fn hash(&self) -> u64 {
        self.0
            .iter()
            .take(8)
            .fold(0, |hash, byte| (hash << 8) | u64::from(*byte))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}
