//! Datagrams of flights and of the membership, as another node may send them.

use flights::members::{Contact, Signature, Signatures};
use flights::{MAX_DATAGRAM, Node, NodeId, Time};

const SEED: u64 = 1;

/// Takes any signature, so that what follows it is reached.
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

/// A datagram, what the node answers to it within a minute, and that none of it is too long to be sent.
pub fn flights(bytes: &[u8]) {
    let (own, other) = (NodeId([1; 32]), NodeId([2; 32]));
    let signatures = Box::new(AnySignature);
    let mut node = Node::new(Time(0), own, Contact::default(), SEED, signatures);
    if node.receive(Time(0), other, bytes).is_err() {
        assert_eq!(node.members().len(), 1);
    }
    // A probe, its time-out, and comparisons of lists.
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
