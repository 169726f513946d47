//! What this node's link carries beside those of others, measured while nothing is pulled. In a chain all wait behind
//! a slow node until it is found, one of many after the other; who knows beforehand that it is slow holds nobody up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::random_range;
use tokio::time::{Instant, sleep};

use super::Shared;
use super::aside::SLOWER;
use crate::PeerId;
use crate::fetch::gauge::LIMIT;

/// What so few bytes can show, in bytes a second: what is faster is as fast as this. Half a gigabit.
const ENOUGH: u64 = 60_000_000;
/// A link is known by so many measurements…
const SAMPLES: u32 = 5;
/// …with so many others that know their own link, for what is measured with one alone may be what that one's carries…
const OTHERS_LEAST: usize = 2;
/// …of these so many at the most…
const OTHERS: usize = 5;
/// …and until there are as many, measurements lie so far apart, about; twice as far each time that one comes to nothing,
/// for a node may be alone, or the others busy…
const SOON: Duration = Duration::from_millis(300);
/// …and so far at the most, as afterwards: a link may become another.
pub const LATER: Duration = Duration::from_secs(3600);

/// What was measured lately.
#[derive(Debug, Default)]
pub struct Gauge {
    /// With each node the last one, the latest first.
    samples: VecDeque<Sample>,
    count: u32,
    carries: Option<u64>,
}

/// In bytes a second.
#[derive(Debug)]
struct Sample {
    peer: PeerId,
    /// What came from it.
    rate: u64,
    /// What its own link carries at the least, where it knows.
    theirs: Option<u64>,
}

impl Gauge {
    /// So many bytes a second came from `peer`, whose own link carries `theirs`, as far as it knows.
    fn measured(&mut self, peer: PeerId, rate: u64, theirs: Option<u64>) {
        let (rate, theirs) = (rate.min(ENOUGH), theirs.map(|theirs| theirs.min(ENOUGH)));
        self.samples.retain(|sample| sample.peer != peer);
        self.samples.truncate(OTHERS - 1);
        self.samples.push_front(Sample { peer, rate, theirs });
        self.count += 1;
        self.carries = self.samples.iter().map(|sample| sample.rate).max();
    }

    /// What this node's link carries at the least, in bytes a second.
    fn carries(&self) -> Option<u64> {
        self.carries
    }

    /// What the links of others usually carry, in bytes a second, once that can be said: all but the best of them, for slow
    /// ones may be many, and one may boast.
    fn usual(&self) -> Option<u64> {
        let theirs = self.samples.iter().filter_map(|sample| sample.theirs);
        let mut theirs: Vec<_> = theirs.collect();
        theirs.sort_unstable();
        let is_enough = self.count >= SAMPLES && theirs.len() >= OTHERS_LEAST;
        let usual = theirs.iter().rev().nth(1);
        usual.copied().filter(|_| is_enough)
    }

    /// Whether this node is slow, once that is known: then what others are able to take in, in bytes a second.
    fn verdict(&self) -> Option<Option<u64>> {
        let (own, usual) = (self.carries?, self.usual()?);
        Some(Some(usual).filter(|usual| own < usual / SLOWER))
    }

    /// Measures anew. Until that is done the link is what it was.
    fn begin_anew(&mut self) {
        *self = Self {
            carries: self.carries,
            ..Self::default()
        };
    }
}

/// This node's part in measuring: one at a time, and only while nothing else moves.
#[derive(Debug, Default)]
pub struct Scales {
    gauge: Mutex<Gauge>,
    /// When the one that goes on began.
    begun: Arc<Mutex<Option<Instant>>>,
}

/// A measurement that is going on; over when it is dropped, and for others after [`LIMIT`]: whoever measures may forget it.
#[derive(Debug)]
pub struct Weighing {
    /// What the node that is asked knows of its own link, in bytes a second.
    pub carries: Option<u64>,
    begun: Instant,
    seat: Arc<Mutex<Option<Instant>>>,
}

impl Drop for Weighing {
    fn drop(&mut self) {
        self.seat.lock().take_if(|begun| *begun == self.begun);
    }
}

impl Shared {
    /// Begins a measurement, unless that would disturb something or be disturbed by it.
    pub fn weigh(&self) -> Option<Weighing> {
        let (now, mut going) = (Instant::now(), self.scales.begun.lock());
        let is_free = going.is_none_or(|begun| now - begun >= LIMIT);
        (is_free && self.is_idle()).then(|| {
            *going = Some(now);
            Weighing {
                carries: self.scales.gauge.lock().carries(),
                begun: now,
                seat: self.scales.begun.clone(),
            }
        })
    }

    /// Nothing is pulled here, nor passed on.
    fn is_idle(&self) -> bool {
        self.pulls.is_empty() && self.uploads.load(Instant::now()).uploads == 0
    }

    /// Measures this node's link once. `None`: it came to nothing.
    async fn measure(&self) -> Option<()> {
        let companion = self.flights.companion().await?;
        let weighing = self.weigh()?;
        let gauged = self.fetcher.gauge(&companion).await;
        drop(weighing);
        let gauged = match gauged {
            Ok(gauged) => gauged,
            Err(why) => {
                tracing::debug!(peer = %companion.peer, why, "cannot measure the link to a peer");
                return None;
            }
        };
        // What began meanwhile took a part of the link.
        if !self.is_idle() {
            return None;
        }
        let mut gauge = self.scales.gauge.lock();
        gauge.measured(companion.peer, gauged.rate, gauged.theirs);
        let carries = gauge.carries().unwrap_or_default();
        self.metrics
            .flights_link
            .set(i64::try_from(carries).unwrap_or(i64::MAX));
        Some(())
    }
}

/// Measures this node's link now and then, and tells whether it is slow.
pub async fn run(shared: Arc<Shared>) {
    let mut pause = SOON;
    loop {
        sleep(pause.mul_f64(random_range(0.5..1.5))).await;
        if shared.measure().await.is_none() {
            pause = (pause * 2).min(LATER);
            continue;
        }
        pause = SOON;
        let verdict = shared.scales.gauge.lock().verdict();
        if let Some(usual) = verdict {
            shared.aside.gauged.send_replace(usual);
            sleep(LATER).await;
            shared.scales.gauge.lock().begin_anew();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Option<u64> = Some(9_000_000);

    /// After measurements with these peers: what came, and what each knows of its own link.
    fn verdict(samples: &[(&str, u64, Option<u64>)]) -> Option<Option<u64>> {
        let mut gauge = Gauge::default();
        for (peer, rate, theirs) in samples {
            gauge.measured(PeerId::new(peer), *rate, *theirs);
        }
        gauge.verdict()
    }

    /// With peers that know the usual rate.
    fn alike(rate: u64) -> Option<Option<u64>> {
        verdict(&["a", "b", "c", "d", "e"].map(|peer| (peer, rate, USUAL)))
    }

    #[test]
    fn who_carries_less_than_a_third_of_what_is_usual_is_slow() {
        assert_eq!(alike(2_900_000), Some(USUAL));
        assert_eq!(alike(3_100_000), Some(None));
    }

    #[test]
    fn what_comes_from_a_slow_node_says_nothing_of_this_one() {
        let (slow, fast) = (
            ("slow", 1_000_000, Some(1_000_000)),
            ("b", 8_000_000, USUAL),
        );
        assert_eq!(verdict(&[slow; 9]), None);
        assert_eq!(verdict(&[fast, slow, slow, slow, slow]), Some(None));
    }

    #[test]
    fn slow_ones_that_are_many_and_one_that_boasts_decide_nothing() {
        let of = |peer, theirs| (peer, 1_000_000, theirs);
        let slow = Some(1_000_000);
        let [a, b] = [of("a", USUAL), of("b", USUAL)];
        let many = [of("c", slow), of("d", slow), of("e", slow), a, b];
        assert_eq!(verdict(&many), Some(USUAL));
        let of = |peer, theirs| (peer, 9_000_000, theirs);
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|peer| of(peer, USUAL));
        assert_eq!(
            verdict(&[of("boasts", Some(u64::MAX)), a, b, c, d]),
            Some(None)
        );
    }

    #[test]
    fn nothing_is_said_before_enough_is_known() {
        let of = |peer, theirs| (peer, 1_000_000, theirs);
        let known = ["a", "b", "c", "d"].map(|peer| of(peer, USUAL));
        assert_eq!(verdict(&known), None);
        let unknown = ["a", "b", "c", "d"].map(|peer| of(peer, None));
        let [a, b, c, d] = unknown;
        assert_eq!(verdict(&[a, b, c, d, of("e", USUAL)]), None);
    }

    #[test]
    fn what_is_faster_than_can_be_told_is_alike() {
        let of = |peer| (peer, ENOUGH, Some(100 * ENOUGH));
        assert_eq!(verdict(&["a", "b", "c", "d", "e"].map(of)), Some(None));
    }

    #[test]
    fn a_link_may_become_another() {
        let mut gauge = Gauge::default();
        let measure = |gauge: &mut Gauge, rate| {
            for peer in ["a", "b", "c", "d", "e"] {
                gauge.measured(PeerId::new(peer), rate, USUAL);
            }
            gauge.verdict()
        };
        assert_eq!(measure(&mut gauge, 9_000_000), Some(None));
        gauge.begin_anew();
        assert_eq!((gauge.verdict(), gauge.carries()), (None, Some(9_000_000)));
        assert_eq!(measure(&mut gauge, 1_000_000), Some(USUAL));
    }
}
