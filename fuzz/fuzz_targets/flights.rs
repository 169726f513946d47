//! Datagrams of flights and of the membership, as another node may send them.
#![no_main]

use flights::members::{Contact, Signature, Signatures};
use flights::{MAX_DATAGRAM, Node, NodeId, Time};
use libfuzzer_sys::fuzz_target;

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

fuzz_target!(|bytes: &[u8]| {
    let mut node = Node::new(Time(0), NodeId([1; 32]), Contact::default(), SEED, Box::new(AnySignature));
    if node.receive(Time(0), NodeId([2; 32]), bytes).is_err() {
        assert_eq!(node.members().len(), 1);
    }
    // A probe, its time-out, and comparisons of lists.
    for second in 1..60 {
        node.tick(Time(second * 1_000));
    }
    let datagrams = node.take_datagrams();
    assert!(datagrams.iter().all(|datagram| datagram.bytes.len() <= MAX_DATAGRAM));
});
