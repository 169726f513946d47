//! Measures the link to a peer with bytes that nobody needs. See `flight::link_probe`.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use super::Fetcher;
use crate::Candidate;
use crate::body::Body;
use crate::flight::ProbePermit;
use crate::request::GAUGE;

/// A header of the answer: the sender's own bandwidth in bytes per second, if known.
const LINK: HeaderName = HeaderName::from_static("x-peili-link");
/// The bytes that a peer sends.
const LENGTH: usize = 1024 * 1024;
/// The bytes that do not count: while they arrive, the connection speeds up (slow start, RFC 5681, 3.1), and a traffic
/// shaper passes a burst.
const SKIPPED: usize = LENGTH / 2;
/// The size of the pieces sent.
const PIECE: usize = 64 * 1024;
/// What has arrived by then is enough to tell a link this slow.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A measured link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeasuredLink {
    /// In bytes per second.
    pub rate: u64,
    /// The peer's own bandwidth, a lower bound, if it knows.
    pub theirs: Option<u64>,
}

/// The answer to a peer that measures.
pub fn answer(permit: ProbePermit) -> Response<Body> {
    let capacity = permit.capacity;
    let piece = Bytes::from(vec![0; PIECE]);
    let pieces = stream::repeat(piece).take(LENGTH / PIECE);
    // No other node measures until this has been read.
    let pieces = pieces.map(move |piece| {
        let _goes_on = &permit;
        Ok(piece)
    });
    let mut response = Response::new(Body::stream(pieces));
    if let Some(capacity) = capacity {
        response.headers_mut().insert(LINK, capacity.into());
    }
    response
}

impl Fetcher {
    /// Measures the link to a peer.
    ///
    /// # Errors The peer did not answer, or is busy.
    pub async fn measure_link(&self, candidate: &Candidate) -> Result<MeasuredLink, String> {
        let _in_flight = self.peers.begin(candidate);
        let head = self.request_to(candidate, GAUGE);
        let request = head.and_then(|head| head.body(Empty::new()));
        let request = request.map_err(|error| error.to_string())?;
        let response = self.send(request).await?;
        if response.status() != StatusCode::OK {
            return Err(format!("answered {}", response.status()));
        }
        let theirs = response.headers().get(LINK).and_then(number);
        let mut reading = ProbeReading::default();
        // Any number of bytes tells the rate.
        let _ = timeout(LIMIT, reading.at(response.into_body())).await;
        let rate = reading.rate(Instant::now());
        let rate = rate.ok_or("the measurement ended early")?;
        Ok(MeasuredLink { rate, theirs })
    }
}

fn number(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}

/// The progress of a body.
#[derive(Debug, Default)]
struct ProbeReading {
    received: usize,
    /// When it began.
    began: Option<Instant>,
    /// The time and the number of bytes when counting began.
    skipped: Option<(Instant, usize)>,
    last: Option<Instant>,
}

impl ProbeReading {
    /// Reads a body to its end, or as far as needed.
    async fn at(&mut self, mut body: Incoming) {
        self.began = Some(Instant::now());
        while self.received < LENGTH
            && let Some(Ok(frame)) = body.frame().await
        {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.received(Instant::now(), bytes);
        }
    }

    fn received(&mut self, now: Instant, bytes: usize) {
        self.received += bytes;
        self.last = Some(now);
        if self.received >= SKIPPED {
            self.skipped.get_or_insert((now, self.received));
        }
    }

    /// In bytes per second.
    fn rate(&self, now: Instant) -> Option<u64> {
        let rate =
            |bytes: usize, took: Duration| (bytes as f64 / took.as_secs_f64().max(1e-6)) as u64;
        if self.received >= LENGTH {
            let (since, before) = self.skipped?;
            return Some(rate(self.received - before, self.last? - since));
        }
        let took = now - self.began?;
        (took >= LIMIT).then(|| rate(self.received, took))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn what_comes_after_a_slow_start_shows_the_rate() {
        let began = Instant::now();
        let mut reading = ProbeReading {
            began: Some(began),
            ..ProbeReading::default()
        };
        reading.received(began + MILLISECOND * 400, SKIPPED);
        reading.received(began + MILLISECOND * 420, SKIPPED / 2);
        assert_eq!(
            reading.rate(began + MILLISECOND * 420),
            None,
            "there is more to come"
        );
        let end = began + MILLISECOND * 440;
        reading.received(end, SKIPPED / 2);
        let expected = SKIPPED as f64 / 0.040;
        let rate = reading.rate(end).expect("all has come") as f64;
        assert!((rate / expected - 1.0).abs() < 0.01, "{rate}");
    }

    #[test]
    fn a_link_that_takes_too_long_is_known_by_what_came() {
        let began = Instant::now();
        let mut reading = ProbeReading {
            began: Some(began),
            ..ProbeReading::default()
        };
        reading.received(began + LIMIT / 2, 200_000);
        assert_eq!(reading.rate(began + LIMIT), Some(10_000));
        assert_eq!(reading.rate(began + LIMIT / 2), None, "it broke");
    }
}
