//! The key with which this node signs its record as a member.

use std::fmt;

use ::flights::NodeId;
use ::flights::members::{Signature, Signatures};
use libp2p::identity::{Keypair, ed25519};

/// The Ed25519 key of this node's identity (RFC 8032).
pub(crate) struct RecordKey(ed25519::Keypair);

impl RecordKey {
    /// `None`: the identity has another kind of key.
    pub(crate) fn new(identity: Keypair) -> Option<Self> {
        identity.try_into_ed25519().ok().map(Self)
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordKey")
    }
}

impl Signatures for RecordKey {
    fn sign(&self, record: &[u8]) -> Signature {
        // A signature of another length is valid nowhere.
        self.0.sign(record).try_into().unwrap_or([0; 64])
    }

    fn verify(&self, id: &NodeId, record: &[u8], signature: &Signature) -> bool {
        ed25519::PublicKey::try_from_bytes(&id.0).is_ok_and(|key| key.verify(record, signature))
    }
}

#[cfg(test)]
mod tests {
    use super::super::node_id;
    use super::*;

    #[test]
    fn a_record_is_signed_by_the_key_that_is_the_id() {
        let [own, other] = [(), ()].map(|()| Keypair::generate_ed25519());
        let ids = [&own, &other].map(|key| node_id(&key.public().into()).expect("an Ed25519 key"));
        let key = RecordKey::new(own).expect("an Ed25519 key");
        let signature = key.sign(b"record");
        assert!(key.verify(&ids[0], b"record", &signature));
        assert!(!key.verify(&ids[0], b"another", &signature));
        assert!(!key.verify(&ids[1], b"record", &signature));
        assert!(!key.verify(&ids[0], b"record", &[0; 64]));
        assert!(!key.verify(&NodeId([0; 32]), b"record", &[0; 64]));
    }
}
