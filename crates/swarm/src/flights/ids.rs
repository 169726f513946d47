//! Names of nodes and hashes of names, as all nodes have them.

use ::flights::{Key, NodeId, Wanted};
use libp2p::PeerId;
use mirror::Seek;
use sha2::{Digest as _, Sha256};

/// A peer id of an Ed25519 key is the key itself: an identity multihash (code 0, 36 bytes) of a protobuf message with
/// the type Ed25519 (field 1, 1) and the 32 bytes of the key (field 2).
/// Source: <https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md>.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// `None` for a peer with another kind of key, which is no Peili node.
pub(crate) fn node_id(peer: &PeerId) -> Option<NodeId> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&PEER_ID_PREFIX)?;
    key.try_into().map(NodeId).ok()
}

/// The peer id of a node. There always is one.
pub(crate) fn peer_id(node: &NodeId) -> Option<PeerId> {
    PeerId::from_bytes(&[&PEER_ID_PREFIX[..], &node.0].concat()).ok()
}

/// A node as the mirror calls it.
pub(super) fn name(node: &NodeId) -> Option<mirror::PeerId> {
    Some(mirror::PeerId::new(&peer_id(node)?.to_string()))
}

fn named(peer: &mirror::PeerId) -> Option<NodeId> {
    node_id(&peer.as_str().parse().ok()?)
}

pub(super) fn wanted(seek: &Seek) -> Wanted {
    let origin = seek.origin.as_ref();
    Wanted {
        key: Key::of(seek.digest.as_str()),
        group: origin.map_or(0, |origin| hash(&origin.to_string())),
        registry: origin.map_or(0, |origin| hash(origin.registry.as_str())),
        size: seek.size,
        streams: seek.streams.max(1),
        prefer: seek.prefer.as_ref().and_then(named),
        offset: seek.offset,
        yields: seek.yields,
        failed: seek.failed.iter().filter_map(named).collect(),
        slow: seek.slow.as_ref().and_then(named),
        slow_lead: seek.slow_lead.as_ref().and_then(named),
    }
}

/// The same on all nodes.
fn hash(text: &str) -> u64 {
    let hash: [u8; 32] = Sha256::digest(text).into();
    u64::from_be_bytes(hash.first_chunk().copied().unwrap_or_default())
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
        assert_eq!(name(&node).as_ref().and_then(named), Some(node));
        // The hash of a longer key.
        assert_eq!(node_id(&PeerId::random()), None);
    }

    #[test]
    fn hashes_are_the_same_everywhere() {
        assert_eq!(hash("docker.io/library/redis"), 0x999c_c74d_6191_8d7f);
    }
}
