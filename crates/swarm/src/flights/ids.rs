//! The ids of nodes: those of flights, of libp2p and of the mirror.

use ::flights::NodeId;
use libp2p::PeerId;

/// The peer id of an Ed25519 key contains the key: an identity multihash (code 0, 36 bytes) of a protobuf message with
/// the type Ed25519 (field 1, 1) and the 32 bytes of the key (field 2).
///
/// Source: <https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md>.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The node of a peer id. `None`: its key has another type, so it is no Peili node.
pub(crate) fn node_id(peer: &PeerId) -> Option<NodeId> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&PEER_ID_PREFIX)?;
    key.try_into().map(NodeId).ok()
}

/// The peer id of a node. There always is one.
pub(crate) fn peer_id(node: &NodeId) -> Option<PeerId> {
    PeerId::from_bytes(&[&PEER_ID_PREFIX[..], &node.0].concat()).ok()
}

/// A peer as the mirror knows it.
pub(crate) fn mirror_peer(peer: &PeerId) -> mirror::PeerId {
    let name = peer.to_string();
    match node_id(peer) {
        Some(node) => mirror::PeerId::of_node(&name, node),
        None => mirror::PeerId::new(&name),
    }
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;

    use super::*;

    #[test]
    fn a_peer_id_is_the_key_in_other_words() {
        let public = Keypair::generate_ed25519().public();
        let key = public.clone().try_into_ed25519().expect("an Ed25519 key");
        let peer = PeerId::from(public);
        let node = NodeId(key.to_bytes());
        assert_eq!(node_id(&peer), Some(node));
        assert_eq!(peer_id(&node), Some(peer));
        assert_eq!(mirror_peer(&peer).node(), Some(node));
        // The hash of a longer key.
        assert_eq!(node_id(&PeerId::random()), None);
    }
}
