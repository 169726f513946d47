//! Intervals, timeouts and fan-out, by the size of the cluster.
//!
//! The cost of messages limits the rate: about 0.1 ms of CPU on each side, and 0.4 ms more on each side for a new
//! connection, which at 1,024 nodes is nearly always needed. In each period a node probes once and is probed once: two
//! connections and four messages, 1.2 ms, or 0.024 % of a core at 5 s. Small clusters keep their connections, so they
//! can afford to detect deaths sooner.

use std::time::Duration;

/// A probe without an answer is repeated through other members after this time. It covers a new connection (four round
/// trips) across zones, and a busy node.
pub(super) const DIRECT_WAIT: Duration = Duration::from_millis(500);
/// A member that has not answered after this further time, directly or through others, is suspect.
pub(super) const INDIRECT_WAIT: Duration = Duration::from_secs(1);
/// The number of members that help with a probe. Source: SWIM (Das, Gupta, Motivala, 2002), section 3.1; k = 3.
pub(super) const INDIRECT_PROBES: usize = 3;
/// A member that suspects another one declares it dead after this time.
///
/// A suspect is told and answers at once, so this time covers lost messages and nodes without CPU.
pub(super) const SUSPICION: Duration = Duration::from_secs(6);
/// The minimal interval between two refutations by new incarnations. Others may provoke them, and each costs gossip. A
/// suspicion lasts longer, and ends with any message of the suspect.
pub(super) const REFUTE_EVERY: Duration = Duration::from_secs(1);
/// A list is accepted from a node that is no member for this long after the request for it.
pub(super) const LIST_WAIT: Duration = Duration::from_secs(10);
/// The minimal interval between lists sent to one node.
pub(super) const LIST_AGAIN: Duration = Duration::from_millis(500);
/// The interval of gossip while there are updates.
pub(super) const GOSSIP_EVERY: Duration = Duration::from_millis(200);
/// Updates are collected for this long before the first round of gossip.
pub(super) const GOSSIP_BATCH: Duration = Duration::from_millis(50);
/// The number of members told in each round of gossip.
pub(super) const FANOUT: usize = 3;
/// The number of members that a leaving node tells.
pub(super) const LEAVE_FANOUT: usize = 8;
/// The next seed is asked after this time without an answer.
pub(super) const JOIN_RETRY: Duration = Duration::from_secs(1);
/// A node that no seed has answered by then forms a cluster of its own, and keeps asking.
pub(super) const JOIN_PATIENCE: Duration = Duration::from_secs(5);
/// The next comparison of lists after one that brought members unknown to gossip.
pub(super) const SYNC_AGAIN: Duration = Duration::from_secs(2);
/// Dead members are remembered, and contacted now and then, for this long. A partition of at most this length heals by
/// itself.
pub(super) const REMEMBER_DEAD: Duration = Duration::from_secs(24 * 3600);
/// A node that wakes up this late was stopped itself. It suspects no member for messages missed meanwhile.
pub(super) const LATE_TICK: Duration = Duration::from_secs(1);

/// The probe interval of a node: 2 s up to 16 members, 5 s from 1,024. Probes are most of the traffic of an idle node.
pub(super) fn probe_every(members: usize) -> Duration {
    Duration::from_secs(2) + scaled(members, Duration::from_secs(3))
}

/// The interval of list comparisons of a node: 10 s up to 16 members, 30 s from 1,024.
pub(super) fn sync_every(members: usize) -> Duration {
    Duration::from_secs(10) + scaled(members, Duration::from_secs(20))
}

/// How often each node passes an update on.
///
/// If every node tells k random members, e^-k of all nodes miss it; comparing lists finds those. Source: Demers et al.,
/// Epidemic Algorithms, 1987, section 1.4.
pub(super) fn copies(members: usize) -> u8 {
    u8::try_from(members.max(2).ilog2())
        .unwrap_or(u8::MAX)
        .saturating_add(2)
}

/// The part of `span` for a cluster size: none up to 16, all from 1,024, by powers of two between.
fn scaled(members: usize, span: Duration) -> Duration {
    span * members.clamp(16, 1_024).ilog2().saturating_sub(4) / 6
}
