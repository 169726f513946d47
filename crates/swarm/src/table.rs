//! Estimates the number of nodes in the cluster from the routing table.

use libp2p::kad::K_VALUE;

/// Bits of a distance.
const BITS: u32 = 256;

/// `buckets`: the non-empty buckets as (bits below the first one that differs from this node's id, peers in it).
///
/// A bucket covers half of the rest of the key space. The nodes near this node's id are all known, those far away only
/// as far as their bucket has room. So the nodes nearer than the full buckets are counted and scaled up.
pub(crate) fn cluster_size(buckets: impl IntoIterator<Item = (u32, usize)>) -> usize {
    let mut peers = [0; BITS as usize];
    for (bits, count) in buckets {
        if let Some(depth) = BITS.checked_sub(bits + 1) {
            peers[depth as usize] = count;
        }
    }
    let full = peers
        .iter()
        .take_while(|count| **count >= K_VALUE.get())
        .count();
    let near: usize = peers[full..].iter().sum();
    let scale = 2usize.saturating_pow(full as u32);
    // This node counts, too.
    (near + 1).saturating_mul(scale)
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;
    use libp2p::kad::KBucketKey;

    use super::*;

    fn guess(nodes: usize) -> usize {
        let local = KBucketKey::from(PeerId::random());
        let mut buckets = std::collections::BTreeMap::<u32, usize>::new();
        for _ in 1..nodes {
            let distance = local.distance(&KBucketKey::from(PeerId::random()));
            let bucket = buckets
                .entry(distance.ilog2().expect("another"))
                .or_default();
            *bucket = (*bucket + 1).min(K_VALUE.get());
        }
        cluster_size(buckets)
    }

    #[test]
    fn small_clusters_are_counted_and_large_ones_guessed() {
        assert_eq!(cluster_size([]), 1);
        for nodes in [2, 10, 19] {
            assert_eq!(guess(nodes), nodes);
        }
        for nodes in [64, 1000, 10_000] {
            let mut guesses: Vec<_> = (0..15).map(|_| guess(nodes)).collect();
            guesses.sort_unstable();
            let median = guesses[7];
            assert!(
                (nodes / 2..nodes * 2).contains(&median),
                "{nodes}: {guesses:?}"
            );
        }
    }
}
