//! Keys as an operator writes them, and the secrets derived from them.

use std::fmt;

use ring::hmac;

/// The most keys of a node: one, and its successor or predecessor.
pub const MAX_KEYS: usize = 2;
/// The minimal length of a key, in bytes. 32 hexadecimal characters are 128 random bits. Strangers can guess keys
/// offline, so a shorter one is refused.
pub const MIN_KEY: usize = 32;
pub const MAX_KEY: usize = 512;

/// The labels of a key's uses. Each use has its own secret.
const ROOT: &[u8] = b"peili network key 1";
const ID: &[u8] = b"id";
const HANDSHAKE: &[u8] = b"handshake";
const REQUEST: &[u8] = b"request";
/// The bytes of an id. An id distinguishes keys and reveals nothing about them.
const ID_BYTES: usize = 8;

/// Why the contents of a key file cannot be used. Does not quote the contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("holds no key; write one into it, for example the output of `openssl rand -hex 32`")]
    Empty,
    #[error(
        "holds {0} keys; it may hold {MAX_KEYS}, one on each line: the key and the one that it replaces"
    )]
    TooMany(usize),
    #[error(
        "line {line} has {length} characters; a key has {MIN_KEY} to {MAX_KEY}, for example the output of \
         `openssl rand -hex 32`"
    )]
    Length { line: usize, length: usize },
    #[error(
        "line {0} has a space or a character that is not ASCII; a key is one word, for example the output of \
         `openssl rand -hex 32`"
    )]
    Characters(usize),
}

/// One key, as the secrets derived from it (HMAC-SHA256, RFC 2104). Never printed.
#[derive(Clone)]
pub struct NetworkKey {
    id: String,
    handshake: [u8; 32],
    request: hmac::Key,
}

impl NetworkKey {
    fn new(text: &[u8]) -> Self {
        let extract = hmac::Key::new(hmac::HMAC_SHA256, ROOT);
        let root = hmac::sign(&extract, text);
        let root = hmac::Key::new(hmac::HMAC_SHA256, root.as_ref());
        let derive = |purpose| {
            let mut secret = [0; 32];
            secret.copy_from_slice(hmac::sign(&root, purpose).as_ref());
            secret
        };
        Self {
            id: hex::encode(&derive(ID)[..ID_BYTES]),
            handshake: derive(HANDSHAKE),
            request: hmac::Key::new(hmac::HMAC_SHA256, &derive(REQUEST)),
        }
    }

    /// Identifies this key, in 16 hexadecimal characters. Reveals nothing about the key.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The secret that both ends of a connection must know.
    pub fn handshake_secret(&self) -> &[u8; 32] {
        &self.handshake
    }

    /// The key that authenticates requests.
    pub(crate) fn request_key(&self) -> &hmac::Key {
        &self.request
    }
}

impl fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkKey({})", self.id)
    }
}

/// The keys of a node, at most [`MAX_KEYS`], in any order. A node without a key has no peers.
#[derive(Clone, Debug, Default)]
pub struct NetworkKeys(Vec<NetworkKey>);

impl NetworkKeys {
    /// Parses a key file: a key on each line. Blank lines and spaces at the ends of a line are ignored.
    ///
    /// # Errors
    /// There is no key, there are too many, or one is too short or not a word of visible ASCII characters.
    pub fn parse(contents: &[u8]) -> Result<Self, KeyError> {
        let lines = contents
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii);
        let (mut count, mut keys) = (0, Vec::new());
        for (number, line) in (1..).zip(lines) {
            if line.is_empty() {
                continue;
            }
            if !line.iter().all(u8::is_ascii_graphic) {
                return Err(KeyError::Characters(number));
            }
            if !(MIN_KEY..=MAX_KEY).contains(&line.len()) {
                let length = line.len();
                return Err(KeyError::Length {
                    line: number,
                    length,
                });
            }
            count += 1;
            if count <= MAX_KEYS {
                keys.push(NetworkKey::new(line));
            }
        }
        match count {
            0 => Err(KeyError::Empty),
            1..=MAX_KEYS => Ok(Self(keys)),
            _ => Err(KeyError::TooMany(count)),
        }
    }

    pub fn iter(&self) -> std::slice::Iter<'_, NetworkKey> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all keys of `others` are among these.
    pub fn has_all(&self, others: &Self) -> bool {
        let is_here = |other: &NetworkKey| self.iter().any(|key| key.id == other.id);
        others.iter().all(is_here)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_words_on_lines_and_order_means_nothing() {
        let (a, b) = ("a".repeat(MIN_KEY), "b".repeat(MAX_KEY));
        let parse = |text: String| NetworkKeys::parse(text.as_bytes()).expect("keys");
        let both = parse(format!("{a}\n\n  {b}\r\n"));
        assert_eq!(both.len(), 2);
        let swapped = parse(format!("{b}\n{a}"));
        assert!(both.has_all(&swapped) && swapped.has_all(&both));
        let one = parse(a);
        assert!(both.has_all(&one) && !one.has_all(&both));
        assert!(one.has_all(&NetworkKeys::default()));
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_shown() {
        let key = |byte: &str| byte.repeat(MIN_KEY);
        for (text, fault) in [
            (String::new(), KeyError::Empty),
            (" \n\t\n".to_owned(), KeyError::Empty),
            (
                format!("{}\n{}\n{}", key("a"), key("b"), key("c")),
                KeyError::TooMany(3),
            ),
            (
                format!("{}\n{}", key("a"), "b".repeat(MIN_KEY - 1)),
                KeyError::Length {
                    line: 2,
                    length: MIN_KEY - 1,
                },
            ),
            (
                "x".repeat(MAX_KEY + 1),
                KeyError::Length {
                    line: 1,
                    length: MAX_KEY + 1,
                },
            ),
            (format!("{} secret", key("a")), KeyError::Characters(1)),
            (format!("\n{}ä", key("a")), KeyError::Characters(2)),
        ] {
            let found = NetworkKeys::parse(text.as_bytes()).expect_err("no keys");
            assert_eq!(found, fault, "{text:?}");
            let told = found.to_string();
            assert!(!told.contains("aaaa") && !told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn each_use_has_a_secret_of_its_own() {
        let parse = |text: &str| NetworkKeys::parse(text.as_bytes()).expect("a key").0;
        let [one, other] = ["1", "2"].map(|text| parse(&text.repeat(MIN_KEY)).remove(0));
        assert_ne!(one.id(), other.id());
        assert_ne!(one.handshake_secret(), other.handshake_secret());
        assert!(!hex::encode(one.handshake_secret()).contains(one.id()));
        assert_eq!(format!("{one:?}"), format!("NetworkKey({})", one.id()));
    }
}
