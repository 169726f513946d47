//! Content digests, `algorithm:encoded` (image-spec, descriptor.md, "Digests").

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::Digest as _;

/// The digest of an object, with one of [`Self::ALGORITHMS`].
///
/// A value of this type is well-formed, so its text can be used unchanged in a path or a header.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Arc<str>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DigestError {
    #[error("a digest is algorithm:hex, as in sha256:e3b0…, this has no colon")]
    NoAlgorithm,
    #[error("digest algorithm is none of sha256, sha384 and sha512")]
    UnknownAlgorithm,
    #[error(
        "a {algorithm} digest has {expected} lower-case hexadecimal characters after its colon"
    )]
    NotHex {
        algorithm: &'static str,
        expected: usize,
    },
}

impl Digest {
    /// The two algorithms registered in the image specification, and a third one that the Go clients support
    /// (opencontainers/go-digest).
    pub const ALGORITHMS: [&str; 3] = ["sha256", "sha384", "sha512"];

    /// The algorithm: one of [`Self::ALGORITHMS`].
    pub fn algorithm(&self) -> &str {
        self.parts().0
    }

    /// The hexadecimal part.
    pub fn encoded(&self) -> &str {
        self.parts().1
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once(':').unwrap_or((&self.0, ""))
    }

    /// The sha256 digest of these bytes.
    pub fn sha256(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::Sha256(sha2::Sha256::new());
        hasher.update(bytes);
        hasher.finish()
    }

    /// Whether these bytes match the digest.
    pub fn verifies(&self, bytes: &[u8]) -> bool {
        let mut hasher = Hasher::new(self);
        hasher.update(bytes);
        hasher.finish() == *self
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, encoded) = text.split_once(':').ok_or(DigestError::NoAlgorithm)?;
        let (algorithm, expected) = match algorithm {
            "sha256" => ("sha256", 64),
            "sha384" => ("sha384", 96),
            "sha512" => ("sha512", 128),
            _ => return Err(DigestError::UnknownAlgorithm),
        };
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if encoded.len() != expected || !encoded.bytes().all(hex) {
            return Err(DigestError::NotHex {
                algorithm,
                expected,
            });
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Computes the digest of bytes that come in pieces.
pub enum Hasher {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// A hasher of the algorithm of `expected`.
    pub fn new(expected: &Digest) -> Self {
        match expected.algorithm() {
            "sha384" => Self::Sha384(sha2::Sha384::new()),
            "sha512" => Self::Sha512(sha2::Sha512::new()),
            _ => Self::Sha256(sha2::Sha256::new()),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(h) => h.update(bytes),
            Self::Sha384(h) => h.update(bytes),
            Self::Sha512(h) => h.update(bytes),
        }
    }

    pub fn finish(self) -> Digest {
        Digest(match self {
            Self::Sha256(h) => format!("sha256:{}", hex::encode(h.finalize())).into(),
            Self::Sha384(h) => format!("sha384:{}", hex::encode(h.finalize())).into(),
            Self::Sha512(h) => format!("sha512:{}", hex::encode(h.finalize())).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_the_bytes_it_was_made_of() {
        let digest = Digest::sha256(b"");
        assert_eq!(digest.as_str(), EMPTY);
        assert_eq!((digest.algorithm(), digest.encoded().len()), ("sha256", 64));
        assert!(digest.verifies(b""));
        assert!(!digest.verifies(b"x"));
    }

    #[test]
    fn the_longer_ones_verify_too() {
        for text in [
            format!("sha384:{}", hex::encode(sha2::Sha384::digest(b"abc"))),
            format!("sha512:{}", hex::encode(sha2::Sha512::digest(b"abc"))),
        ] {
            let digest: Digest = text.parse().expect("well-formed");
            assert!(digest.verifies(b"abc"));
            assert!(!digest.verifies(b"abd"));
        }
    }

    #[test]
    fn refuses_what_could_leave_a_folder_or_a_header() {
        let hex = &EMPTY[7..];
        for bad in [
            "",
            ":",
            "sha256",
            "sha256:",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("sha256:{hex}0"),
            &format!("sha256:{}/", &hex[1..]),
            &format!("sha256:..{}", &hex[2..]),
            &format!("SHA256:{hex}"),
            &format!(" sha256:{hex}"),
            &format!("sha512:{hex}"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_comes_back_as_it_was(text in ".{0,160}") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.as_str(), &text);
            }
        }

        #[test]
        fn pieces_do_not_matter(bytes in prop::collection::vec(any::<u8>(), 0..512), cut in 0usize..512) {
            let whole = Digest::sha256(&bytes);
            let mut hasher = Hasher::new(&whole);
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            hasher.update(a);
            hasher.update(b);
            prop_assert_eq!(hasher.finish(), whole);
        }
    }
}
