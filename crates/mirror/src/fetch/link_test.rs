//! Tests the link of this node with useless bytes from several peers at once.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, future, stream};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::Fetcher;
use crate::body::Body;
use crate::flights::pull_rules::SOURCE_ANSWER_LIMIT;
use crate::rate::per_second;
use crate::request::LINK_TEST;
use crate::{Candidate, LinkTest, NodeId};

/// A header of the answer: the sender's own bandwidth in bytes per second, if known.
const BANDWIDTH: HeaderName = HeaderName::from_static("x-peili-bandwidth");
/// The bytes after which a test ends, of all peers together. Each sends this many, as one of them may be slow.
const LENGTH: usize = 3 * 1024 * 1024;
/// The size of the pieces sent.
const PIECE: usize = 32 * 1024;
/// The bytes, of all peers together, that do not count: meanwhile connections speed up (slow start, RFC 5681, section
/// 3.1), and a traffic shaper allows a burst.
const SKIPPED: u64 = 512 * 1024;
/// The time from the first byte until the end of the test: by then, the bytes show a slow link. Without a byte, the
/// test ends this long after the heads of all answers are due.
const LIMIT: Duration = Duration::from_millis(400);
/// The interval between checks whether a test is over.
const CHECK_EVERY: Duration = Duration::from_millis(20);
/// Faster links count as this fast, in bytes per second: half a gigabit. This few bytes do not distinguish them.
const MAX_MEASURED_BANDWIDTH: u64 = 60_000_000;
/// The most tests that a node answers in a second. A tester takes about a third of the offered bytes.
pub const MAX_TESTS: u32 = 8;

/// The answer to a peer that tests its link. `bandwidth`: that of this node, if known.
pub fn answer(bandwidth: Option<u64>) -> Response<Body> {
    let piece = Bytes::from(vec![0; PIECE]);
    let pieces = stream::repeat(piece).take(LENGTH / PIECE);
    let mut response = Response::new(Body::stream(pieces.map(Ok)));
    if let Some(bandwidth) = bandwidth {
        response.headers_mut().insert(BANDWIDTH, bandwidth.into());
    }
    response
}

/// The bytes received in a test.
#[derive(Debug, Default)]
struct Received {
    bytes: u64,
    /// When the first bytes came.
    began: Option<Instant>,
    /// The time and the number of bytes when counting began.
    skipped: Option<(Instant, u64)>,
    last: Option<Instant>,
    others: Vec<(NodeId, u64)>,
}

impl Received {
    fn receive(&mut self, now: Instant, bytes: usize) {
        self.bytes += bytes as u64;
        self.began.get_or_insert(now);
        self.last = Some(now);
        if self.bytes >= SKIPPED {
            self.skipped.get_or_insert((now, self.bytes));
        }
    }

    /// The rate in bytes per second. `None`: no bytes have come.
    fn rate(&self, now: Instant) -> Option<u64> {
        let has_ended = self.bytes >= LENGTH as u64;
        let end = if has_ended { self.last? } else { now };
        let rate = |bytes: u64, since: Instant| per_second(bytes, end - since);
        match self.skipped {
            Some((since, before)) if self.bytes > before => Some(rate(self.bytes - before, since)),
            _ => self.began.map(|began| rate(self.bytes, began)),
        }
    }
}

impl Fetcher {
    /// Tests the link with these peers. `pulled`: the rate of this node's other downloads, in bytes per second.
    pub async fn test_link(&self, peers: &[Candidate], pulled: impl Fn() -> u64) -> LinkTest {
        let before = pulled();
        let received = Mutex::new(Received::default());
        let downloads = peers.iter().map(|peer| self.receive(peer, &received));
        tokio::select! {
            _ = future::join_all(downloads) => {}
            () = ends(&received) => {}
        }
        let received = received.into_inner();
        let rate = received.rate(Instant::now());
        let pulled = pulled().min(before);
        LinkTest {
            bandwidth: rate.map(|rate| (rate + pulled).min(MAX_MEASURED_BANDWIDTH)),
            others: received.others,
        }
    }

    /// Receives the bytes of one peer for a test.
    async fn receive(&self, peer: &Candidate, received: &Mutex<Received>) {
        self.peers.introduce(peer);
        let request = self.request_to(peer, LINK_TEST);
        let request = request.and_then(|head| head.body(Empty::new()));
        let Ok(request) = request else {
            return;
        };
        let mut body = match self.send(request).await {
            Ok(response) if response.status() == StatusCode::OK => {
                let bandwidth = response.headers().get(BANDWIDTH).and_then(number);
                let theirs = peer.peer.node().zip(bandwidth);
                let theirs =
                    theirs.map(|(node, bandwidth)| (node, bandwidth.min(MAX_MEASURED_BANDWIDTH)));
                received.lock().others.extend(theirs);
                response.into_body()
            }
            Ok(response) => {
                tracing::debug!(peer = %peer.peer, status = %response.status(), "a peer takes no part in a test");
                return;
            }
            Err(why) => {
                tracing::debug!(peer = %peer.peer, why, "cannot test the link to a peer");
                return;
            }
        };
        let mut left = LENGTH;
        while left > 0
            && let Some(Ok(frame)) = body.frame().await
        {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            left = left.saturating_sub(bytes);
            received.lock().receive(Instant::now(), bytes);
        }
    }
}

/// Waits until a test is over: enough bytes have come, or the time is up.
async fn ends(received: &Mutex<Received>) {
    let heads_are_due = Instant::now() + SOURCE_ANSWER_LIMIT;
    loop {
        sleep(CHECK_EVERY).await;
        let received = received.lock();
        let is_late = Instant::now() >= received.began.unwrap_or(heads_are_due) + LIMIT;
        if is_late || received.bytes >= LENGTH as u64 {
            return;
        }
    }
}

fn number(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn the_burst_at_the_beginning_does_not_count() {
        let began = Instant::now();
        let mut received = Received::default();
        received.receive(began, 10);
        received.receive(began + MILLISECOND * 2, SKIPPED as usize);
        for step in 1..=10 {
            received.receive(began + MILLISECOND * (2 + 10 * step), 100_000);
        }
        assert_eq!(received.rate(began + MILLISECOND * 202), Some(5_000_000));
        received.receive(began + MILLISECOND * 202, LENGTH);
        assert!(received.rate(began + MILLISECOND * 900) > Some(15_000_000));
    }

    #[test]
    fn a_link_too_slow_for_the_test_is_known_by_what_came() {
        let began = Instant::now();
        let mut received = Received::default();
        assert_eq!(received.rate(began), None);
        received.receive(began, 1_000);
        received.receive(began + MILLISECOND * 300, 39_000);
        assert_eq!(received.rate(began + LIMIT), Some(100_000));
    }
}
