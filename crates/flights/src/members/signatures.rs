//! Signatures of members' records. The crate does no cryptography: the caller passes it in.

use std::fmt;

use super::member::NodeId;

/// An Ed25519 signature (RFC 8032).
pub type Signature = [u8; 64];

/// Signs this node's record, and verifies those of others.
pub trait Signatures: fmt::Debug + Send + Sync {
    /// Signs with the key of this node, of which its id is the public part.
    fn sign(&self, record: &[u8]) -> Signature;

    /// Whether the owner of `id` has signed the record.
    fn verify(&self, id: &NodeId, record: &[u8], signature: &Signature) -> bool;
}
