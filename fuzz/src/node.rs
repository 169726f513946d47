//! Datagrams of flights and of the membership, as another node may send them.

use flights::members::{Contact, Signature, Signatures};
use flights::{MAX_DATAGRAM, Node, NodeId, Time};

const SEED: u64 = 1;

/// Accepts any signature, so that the code behind it is reached.
#[derive(Debug)]
struct AnySignature;

impl Signatures for AnySignature {
    fn sign(&self, _: &[u8]) -> Signature {
        [0; 64]
    }

    fn verify(&self, _: &NodeId, _: &[u8], _: &Signature) -> bool {
        true
    }
}

/// A datagram, the node's answers within a minute, and a check that none of these is too long.
pub fn flights(bytes: &[u8]) {
    let (own, other) = (NodeId([1; 32]), NodeId([2; 32]));
    let signatures = Box::new(AnySignature);
    let mut node = Node::new(Time(0), own, Contact::default(), SEED, signatures);
    if node.receive(Time(0), other, bytes).is_err() {
        assert_eq!(node.members().len(), 1);
    }
    // A probe, its timeout, and comparisons of lists.
    for second in 1..60 {
        node.tick(Time(second * 1_000));
    }
    let datagrams = node.take_datagrams();
    assert!(
        datagrams
            .iter()
            .all(|datagram| datagram.bytes.len() <= MAX_DATAGRAM)
    );
}
