//! The cost of the pulls, and whether it is as expected.

use std::time::Duration;

use indicatif::DecimalBytes;
use oci::Digest;

/// A node from which another one received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feeder {
    /// The node's number.
    pub number: usize,
    /// The bytes of the image that came from it.
    pub bytes: u64,
}

/// One node's pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// The node's number, from 1.
    pub number: usize,
    /// The digest of the image's name.
    pub digest: Digest,
    pub took: Duration,
    /// The bytes of the image that the node's client has received and verified.
    pub bytes: u64,
    /// The bytes of manifests and configs among them.
    pub metadata: u64,
    /// The bytes that the node's mirror received from upstream.
    pub from_upstream: u64,
    /// The bytes that it received from peers.
    pub from_peers: u64,
    /// These peers, the one with most bytes first. The bytes do not include manifests that were requested from any
    /// peer.
    pub fed_by: Vec<Feeder>,
}

/// All nodes' pulls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The nodes, by their numbers; at least one.
    pub nodes: Vec<NodeReport>,
    /// The time from the first request to the last byte.
    pub took: Duration,
    /// The bytes that upstream itself reports as sent, if it is the demo's own.
    pub sent_by_upstream: Option<u64>,
}

impl Report {
    /// The bytes of one copy of the image.
    pub fn copy(&self) -> u64 {
        self.nodes.first().map_or(0, |node| node.bytes)
    }

    pub fn from_upstream(&self) -> u64 {
        self.nodes.iter().map(|node| node.from_upstream).sum()
    }

    pub fn from_peers(&self) -> u64 {
        self.nodes.iter().map(|node| node.from_peers).sum()
    }

    /// The tolerance of sums: every node may have asked upstream for manifests and configs. They are a few kilobytes,
    /// and a peer that answers slowly is not waited for.
    pub fn allowance(&self) -> u64 {
        self.nodes.iter().map(|node| node.metadata).sum()
    }

    /// The deviations from what is expected, each in a sentence; empty if there are none.
    pub fn faults(&self) -> Vec<String> {
        let (copy, allowance) = (self.copy(), self.allowance());
        let mut faults = Vec::new();
        let mut expect = |what: &str, got: u64, wanted: u64| {
            if got.abs_diff(wanted) > allowance {
                faults.push(format!(
                    "{what} {got} bytes ({}) and not {wanted} ({}); {allowance} more or less would be manifests",
                    DecimalBytes(got),
                    DecimalBytes(wanted)
                ));
            }
        };
        let others = (self.nodes.len() as u64).saturating_sub(1);
        expect("the nodes took from upstream", self.from_upstream(), copy);
        expect(
            "the nodes took from peers",
            self.from_peers(),
            others * copy,
        );
        if let Some(sent) = self.sent_by_upstream {
            expect("upstream says that it sent", sent, copy);
        }
        for node in &self.nodes {
            let what = format!("node {} took from upstream and peers", node.number);
            expect(&what, node.from_upstream + node.from_peers, node.bytes);
        }
        let first = self.nodes.first().map(|node| &node.digest);
        for node in self.nodes.iter().filter(|n| Some(&n.digest) != first) {
            faults.push(format!(
                "node {} got another image than node 1: {}",
                node.number, node.digest
            ));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize, from_upstream: u64, from_peers: u64) -> NodeReport {
        NodeReport {
            number,
            digest: Digest::sha256(b"image"),
            took: Duration::from_secs(1),
            bytes: 1_000_000,
            metadata: 1000,
            from_upstream,
            from_peers,
            fed_by: Vec::new(),
        }
    }

    fn report(nodes: Vec<NodeReport>) -> Report {
        Report {
            sent_by_upstream: Some(nodes.iter().map(|node| node.from_upstream).sum()),
            nodes,
            took: Duration::from_secs(2),
        }
    }

    #[test]
    fn one_copy_from_upstream_and_the_others_from_peers() {
        let whoever_leads = [
            vec![node(1, 1_000_000, 0), node(2, 0, 1_000_000)],
            vec![node(1, 400_000, 600_000), node(2, 600_000, 400_000)],
            vec![node(1, 1_000_000, 0), node(2, 1000, 999_000)],
            vec![node(1, 1_000_000, 0)],
        ];
        for nodes in whoever_leads {
            assert_eq!(report(nodes).faults(), [""; 0]);
        }
    }

    #[test]
    fn every_fault_is_told() {
        let twice = report(vec![node(1, 1_000_000, 0), node(2, 1_000_000, 0)]).faults();
        assert_eq!(twice.len(), 3, "{twice:?}");
        assert!(twice[0].contains("from upstream 2000000 bytes (2.00 MB) and not 1000000"));
        let more = report(vec![node(1, 1_000_000, 0), node(2, 0, 1_100_000)]).faults();
        assert_eq!(more.len(), 2, "{more:?}");
        assert!(more[1].starts_with("node 2 took"));
        let mut other = report(vec![node(1, 1_000_000, 0), node(2, 0, 1_000_000)]);
        other.nodes[1].digest = Digest::sha256(b"another");
        other.sent_by_upstream = Some(3_000_000);
        let other = other.faults();
        assert_eq!(other.len(), 2, "{other:?}");
        assert!(other[0].starts_with("upstream says") && other[1].contains("another image"));
    }
}
