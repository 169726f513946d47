//! How often, how long, how many times: by the size of the cluster.
//!
//! What a message costs bounds the pace: about 0.1 ms of CPU on each side, and 0.4 ms more on each side where a
//! connection must be made first, which at 1,024 nodes is nearly always so. A node probes once in a period and is
//! probed once in it: two connections and four messages, 1.2 ms. At 5 s that is 0.024 % of a core. Small clusters keep
//! their connections open, so they can afford to notice deaths sooner (0.04 % at 1 s, measured with two to six nodes).

use std::time::Duration;

/// A probe not answered by then is repeated through others. Covers a fresh connection (four round trips) across zones
/// and a node that is busy pulling.
pub(super) const DIRECT_WAIT: Duration = Duration::from_millis(500);
/// A probe not answered by then, through others neither, makes its target suspect.
pub(super) const PROBE_WAIT: Duration = Duration::from_millis(1_500);
/// Others who are asked to probe for us. Source: SWIM (Das, Gupta, Motivala, 2002), section 3.1; k = 3.
pub(super) const HELPERS: usize = 3;
/// A suspect that has not spoken by then is dead for whoever raised the suspicion, and told to be. It learns of the
/// suspicion at once and answers at once, so the rest is for messages lost and for a node without CPU.
pub(super) const SUSPICION: Duration = Duration::from_secs(6);
/// The same for those who heard of the suspicion, or of a death by a list: long enough that comparing lists brings them the answer, if rumours
/// did not; they decide only if whoever raised the suspicion has died as well.
pub(super) const SUSPICION_HEARD: Duration = Duration::from_secs(30);
/// News are passed on that often, while there are any.
pub(super) const GOSSIP_EVERY: Duration = Duration::from_millis(200);
/// News wait that long for others to go with them.
pub(super) const GOSSIP_BATCH: Duration = Duration::from_millis(50);
/// Members who are told at once.
pub(super) const FANOUT: usize = 3;
/// Members whom a node that leaves tells itself.
pub(super) const LEAVE_FANOUT: usize = 8;
/// A seed that has not answered by then is passed over for the next.
pub(super) const JOIN_RETRY: Duration = Duration::from_secs(1);
/// A node whom no seed has answered by then is a cluster of its own. It goes on asking.
pub(super) const JOIN_PATIENCE: Duration = Duration::from_secs(5);
/// Lists are compared again that soon after one brought members whom rumours had not.
pub(super) const SYNC_AGAIN: Duration = Duration::from_secs(2);
/// The dead are remembered, and now and then tried, that long: a partition that lasts no longer heals by itself.
pub(super) const REMEMBER_DEAD: Duration = Duration::from_secs(24 * 3600);
/// A node that wakes that much too late was stopped itself; it blames nobody for what it did not hear meanwhile.
pub(super) const OVERSLEPT: Duration = Duration::from_secs(1);

/// Between two probes by one node: 2 s up to 16 members, 5 s from 1,024 on. Probes are most of what a node at rest does.
pub(super) fn probe_every(members: usize) -> Duration {
    Duration::from_secs(2) + scaled(members, Duration::from_secs(3))
}

/// Between two comparisons of lists by one node: 10 s up to 16 members, 30 s from 1,024 on.
pub(super) fn sync_every(members: usize) -> Duration {
    Duration::from_secs(10) + scaled(members, Duration::from_secs(20))
}

/// How often each node passes on a piece of news: where everybody tells k members picked at random, e^-k of them miss
/// it; comparing lists finds those. Source: Demers et al., Epidemic Algorithms, 1987, section 1.4.
pub(super) fn copies(members: usize) -> u8 {
    u8::try_from(members.max(2).ilog2())
        .unwrap_or(u8::MAX)
        .saturating_add(2)
}

/// The share of `span` that falls to the size: none up to 16, all from 1,024 on, by powers of two between.
fn scaled(members: usize, span: Duration) -> Duration {
    span * members.clamp(16, 1_024).ilog2().saturating_sub(4) / 6
}
