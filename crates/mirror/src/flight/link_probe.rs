//! Estimates the bandwidth of this node while it pulls nothing.
//!
//! In a chain all nodes wait behind a slow node until it is detected, one slow node after the other. A node that knows
//! it is slow holds no node up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::random_range;
use tokio::time::{Instant, sleep};

use super::Shared;
use super::slow_state::SLOWER;
use crate::PeerId;
use crate::fetch::link_probe::LIMIT;

/// Faster links count as this fast, in bytes per second: half a gigabit. So few bytes cannot tell them apart.
const ENOUGH: u64 = 60_000_000;
/// An estimate takes this many measurements.
const SAMPLES: u32 = 5;
/// At least this many of the peers must know their own bandwidth: with a single peer, the peer's link may be the limit.
const OTHERS_LEAST: usize = 2;
/// The most peers whose measurements are kept.
const OTHERS: usize = 5;
/// The approximate interval of measurements until there is an estimate. It doubles after each failure: the node may be
/// alone, or the peers busy.
const SOON: Duration = Duration::from_millis(300);
/// The longest interval, and the time until the link is measured again.
pub const LATER: Duration = Duration::from_secs(3600);

/// The recent measurements.
#[derive(Debug, Default)]
pub struct LinkEstimate {
    /// The last measurement with each peer, latest first.
    samples: VecDeque<Sample>,
    count: u32,
    capacity: Option<u64>,
}

/// One measurement, in bytes per second.
#[derive(Debug)]
struct Sample {
    peer: PeerId,
    /// What arrived from the peer.
    rate: u64,
    /// The peer's own bandwidth, a lower bound, if it knows.
    theirs: Option<u64>,
}

impl LinkEstimate {
    /// Adds a measurement with `peer`, whose own bandwidth is `theirs` if it knows.
    fn measured(&mut self, peer: PeerId, rate: u64, theirs: Option<u64>) {
        let (rate, theirs) = (rate.min(ENOUGH), theirs.map(|theirs| theirs.min(ENOUGH)));
        self.samples.retain(|sample| sample.peer != peer);
        self.samples.truncate(OTHERS - 1);
        self.samples.push_front(Sample { peer, rate, theirs });
        self.count += 1;
        self.capacity = self.samples.iter().map(|sample| sample.rate).max();
    }

    /// This node's bandwidth in bytes per second: a lower bound.
    fn capacity(&self) -> Option<u64> {
        self.capacity
    }

    /// The usual bandwidth of other nodes in bytes per second, once known: the second best. Slow ones may be many, and
    /// one may claim too much.
    fn baseline(&self) -> Option<u64> {
        let theirs = self.samples.iter().filter_map(|sample| sample.theirs);
        let mut theirs: Vec<_> = theirs.collect();
        theirs.sort_unstable();
        let is_enough = self.count >= SAMPLES && theirs.len() >= OTHERS_LEAST;
        let baseline = theirs.iter().rev().nth(1);
        baseline.copied().filter(|_| is_enough)
    }

    /// Whether this node is slow, once known: if so, the usual bandwidth of other nodes in bytes per second.
    fn slow_below(&self) -> Option<Option<u64>> {
        let (own, baseline) = (self.capacity?, self.baseline()?);
        Some(Some(baseline).filter(|baseline| own < baseline / SLOWER))
    }

    /// Starts another estimate. Until it is complete, the bandwidth stays.
    fn begin_anew(&mut self) {
        *self = Self {
            capacity: self.capacity,
            ..Self::default()
        };
    }
}

/// The slot for a measurement: one at a time, and only while the node is idle.
#[derive(Debug, Default)]
pub struct ProbeSlot {
    link_probe: Mutex<LinkEstimate>,
    /// When the current measurement began.
    begun: Arc<Mutex<Option<Instant>>>,
}

/// Permits one measurement. It ends when it is dropped, and after [`LIMIT`] in any case: the measuring node may have
/// vanished.
#[derive(Debug)]
pub struct ProbePermit {
    /// This node's own bandwidth in bytes per second, if known.
    pub capacity: Option<u64>,
    begun: Instant,
    slot: Arc<Mutex<Option<Instant>>>,
}

impl Drop for ProbePermit {
    fn drop(&mut self) {
        self.slot.lock().take_if(|begun| *begun == self.begun);
    }
}

impl Shared {
    /// Permits a measurement, unless the node is busy.
    pub fn probe_permit(&self) -> Option<ProbePermit> {
        let (now, mut going) = (Instant::now(), self.probe_slot.begun.lock());
        let is_free = going.is_none_or(|begun| now - begun >= LIMIT);
        (is_free && self.is_idle()).then(|| {
            *going = Some(now);
            ProbePermit {
                capacity: self.probe_slot.link_probe.lock().capacity(),
                begun: now,
                slot: self.probe_slot.begun.clone(),
            }
        })
    }

    /// Whether nothing is pulled or served.
    fn is_idle(&self) -> bool {
        self.pulls.is_empty() && self.uploads.upload_rate(Instant::now()).uploads == 0
    }

    /// Measures this node's link once. `None`: the measurement failed.
    async fn measure(&self) -> Option<()> {
        let peer = self.flights.random_peer().await?;
        let permit = self.probe_permit()?;
        let measured = self.fetcher.measure_link(&peer).await;
        drop(permit);
        let measured = match measured {
            Ok(measured) => measured,
            Err(why) => {
                tracing::debug!(peer = %peer.peer, why, "cannot measure the link to a peer");
                return None;
            }
        };
        // What began meanwhile took a part of the link.
        if !self.is_idle() {
            return None;
        }
        let mut link_probe = self.probe_slot.link_probe.lock();
        link_probe.measured(peer.peer, measured.rate, measured.theirs);
        let capacity = link_probe.capacity().unwrap_or_default();
        self.metrics
            .flights_link
            .set(i64::try_from(capacity).unwrap_or(i64::MAX));
        Some(())
    }
}

/// Measures this node's link from time to time, and publishes whether it is slow.
pub async fn run(shared: Arc<Shared>) {
    let mut pause = SOON;
    loop {
        sleep(pause.mul_f64(random_range(0.5..1.5))).await;
        if shared.measure().await.is_none() {
            pause = (pause * 2).min(LATER);
            continue;
        }
        pause = SOON;
        let slow_below = shared.probe_slot.link_probe.lock().slow_below();
        if let Some(baseline) = slow_below {
            shared.slow_state.measured.send_replace(baseline);
            sleep(LATER).await;
            shared.probe_slot.link_probe.lock().begin_anew();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASELINE: Option<u64> = Some(9_000_000);

    /// After measurements with these peers: what came, and what each knows of its own link.
    fn slow_below(samples: &[(&str, u64, Option<u64>)]) -> Option<Option<u64>> {
        let mut link_probe = LinkEstimate::default();
        for (peer, rate, theirs) in samples {
            link_probe.measured(PeerId::new(peer), *rate, *theirs);
        }
        link_probe.slow_below()
    }

    /// With peers that know the usual rate.
    fn alike(rate: u64) -> Option<Option<u64>> {
        slow_below(&["a", "b", "c", "d", "e"].map(|peer| (peer, rate, BASELINE)))
    }

    #[test]
    fn who_carries_less_than_a_third_of_what_is_usual_is_slow() {
        assert_eq!(alike(2_900_000), Some(BASELINE));
        assert_eq!(alike(3_100_000), Some(None));
    }

    #[test]
    fn what_comes_from_a_slow_node_says_nothing_of_this_one() {
        let (slow, fast) = (
            ("slow", 1_000_000, Some(1_000_000)),
            ("b", 8_000_000, BASELINE),
        );
        assert_eq!(slow_below(&[slow; 9]), None);
        assert_eq!(slow_below(&[fast, slow, slow, slow, slow]), Some(None));
    }

    #[test]
    fn slow_ones_that_are_many_and_one_that_boasts_decide_nothing() {
        let of = |peer, theirs| (peer, 1_000_000, theirs);
        let slow = Some(1_000_000);
        let [a, b] = [of("a", BASELINE), of("b", BASELINE)];
        let many = [of("c", slow), of("d", slow), of("e", slow), a, b];
        assert_eq!(slow_below(&many), Some(BASELINE));
        let of = |peer, theirs| (peer, 9_000_000, theirs);
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|peer| of(peer, BASELINE));
        assert_eq!(
            slow_below(&[of("boasts", Some(u64::MAX)), a, b, c, d]),
            Some(None)
        );
    }

    #[test]
    fn nothing_is_said_before_enough_is_known() {
        let of = |peer, theirs| (peer, 1_000_000, theirs);
        let known = ["a", "b", "c", "d"].map(|peer| of(peer, BASELINE));
        assert_eq!(slow_below(&known), None);
        let unknown = ["a", "b", "c", "d"].map(|peer| of(peer, None));
        let [a, b, c, d] = unknown;
        assert_eq!(slow_below(&[a, b, c, d, of("e", BASELINE)]), None);
    }

    #[test]
    fn what_is_faster_than_can_be_told_is_alike() {
        let of = |peer| (peer, ENOUGH, Some(100 * ENOUGH));
        assert_eq!(slow_below(&["a", "b", "c", "d", "e"].map(of)), Some(None));
    }

    #[test]
    fn a_link_may_become_another() {
        let mut link_probe = LinkEstimate::default();
        let measure = |link_probe: &mut LinkEstimate, rate| {
            for peer in ["a", "b", "c", "d", "e"] {
                link_probe.measured(PeerId::new(peer), rate, BASELINE);
            }
            link_probe.slow_below()
        };
        assert_eq!(measure(&mut link_probe, 9_000_000), Some(None));
        link_probe.begin_anew();
        assert_eq!(
            (link_probe.slow_below(), link_probe.capacity()),
            (None, Some(9_000_000))
        );
        assert_eq!(measure(&mut link_probe, 1_000_000), Some(BASELINE));
    }
}
