//! The key that the nodes of a network share: its file, its rotation, and its proof.
//!
//! A node has up to two keys ([`NetworkKeys`]), so that one can replace the other without a gap. Two nodes accept each
//! other if they have a key in common. The keys themselves are never sent: libp2p's handshake depends on a secret
//! derived from them ([`NetworkKey::handshake_secret`]), and a request over HTTP has a code that only a holder of the
//! key can compute ([`Claim`]). Why: `docs/decisions/0016-network-key.md`.

mod claim;
mod key;
mod keyring;

pub use claim::{Claim, MAX_CLOCK_DIFFERENCE, NotProven};
pub use key::{KeyError, MAX_KEY, MAX_KEYS, MIN_KEY, NetworkKey, NetworkKeys};
pub use keyring::Keyring;
