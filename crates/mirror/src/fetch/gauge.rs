//! What comes from a peer in so much time, of bytes that nobody needs ([`crate::flight`] says why).

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
use crate::flight::Weighing;
use crate::request::GAUGE;

/// In an answer: what the link of who answers carries, in bytes a second, where it knows.
const LINK: HeaderName = HeaderName::from_static("x-peili-link");
/// What a peer sends, in bytes…
const LENGTH: usize = 1024 * 1024;
/// …of which the first show how a connection gathers speed (slow start, RFC 5681, 3.1) and what a shaper lets pass at
/// once, and only the rest what the links carry.
const SKIPPED: usize = LENGTH / 2;
/// In pieces of so many.
const PIECE: usize = 64 * 1024;
/// What has come by then shows enough of a link that is so slow.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A measured link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauged {
    /// In bytes a second.
    pub rate: u64,
    /// What the peer's own carries at the least, where it knows.
    pub theirs: Option<u64>,
}

/// What a peer that measures is sent.
pub fn answer(weighing: Weighing) -> Response<Body> {
    let carries = weighing.carries;
    let piece = Bytes::from(vec![0; PIECE]);
    let pieces = stream::repeat(piece).take(LENGTH / PIECE);
    // Nobody else measures until this has been taken.
    let pieces = pieces.map(move |piece| {
        let _goes_on = &weighing;
        Ok(piece)
    });
    let mut response = Response::new(Body::stream(pieces));
    if let Some(carries) = carries {
        response.headers_mut().insert(LINK, carries.into());
    }
    response
}

impl Fetcher {
    /// Has a peer send what it takes to measure the link between it and this node.
    ///
    /// # Errors
    /// Nothing can be said: it did not answer, or has other things to do.
    pub async fn gauge(&self, candidate: &Candidate) -> Result<Gauged, String> {
        let _in_flight = self.peers.begin(candidate);
        let head = self.request_to(candidate, GAUGE);
        let request = head.and_then(|head| head.body(Empty::new()));
        let request = request.map_err(|error| error.to_string())?;
        let response = self.send(request).await?;
        if response.status() != StatusCode::OK {
            return Err(format!("answered {}", response.status()));
        }
        let theirs = response.headers().get(LINK).and_then(number);
        let mut look = Look::default();
        // Whatever came is what is to be known.
        let _ = timeout(LIMIT, look.at(response.into_body())).await;
        let rate = look.rate(Instant::now());
        let rate = rate.ok_or("less came than was to come")?;
        Ok(Gauged { rate, theirs })
    }
}

fn number(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}

/// How a body comes.
#[derive(Debug, Default)]
struct Look {
    came: usize,
    /// When it began.
    began: Option<Instant>,
    /// When how much had come that does not count.
    skipped: Option<(Instant, usize)>,
    last: Option<Instant>,
}

impl Look {
    /// Reads a body to its end, or as far as is needed.
    async fn at(&mut self, mut body: Incoming) {
        self.began = Some(Instant::now());
        while self.came < LENGTH
            && let Some(Ok(frame)) = body.frame().await
        {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.came(Instant::now(), bytes);
        }
    }

    fn came(&mut self, now: Instant, bytes: usize) {
        self.came += bytes;
        self.last = Some(now);
        if self.came >= SKIPPED {
            self.skipped.get_or_insert((now, self.came));
        }
    }

    /// In bytes a second.
    fn rate(&self, now: Instant) -> Option<u64> {
        let rate =
            |bytes: usize, took: Duration| (bytes as f64 / took.as_secs_f64().max(1e-6)) as u64;
        if self.came >= LENGTH {
            let (since, before) = self.skipped?;
            return Some(rate(self.came - before, self.last? - since));
        }
        let took = now - self.began?;
        (took >= LIMIT).then(|| rate(self.came, took))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn what_comes_after_a_slow_start_shows_the_rate() {
        let began = Instant::now();
        let mut look = Look {
            began: Some(began),
            ..Look::default()
        };
        look.came(began + MILLISECOND * 400, SKIPPED);
        look.came(began + MILLISECOND * 420, SKIPPED / 2);
        assert_eq!(
            look.rate(began + MILLISECOND * 420),
            None,
            "there is more to come"
        );
        let end = began + MILLISECOND * 440;
        look.came(end, SKIPPED / 2);
        let expected = SKIPPED as f64 / 0.040;
        let rate = look.rate(end).expect("all has come") as f64;
        assert!((rate / expected - 1.0).abs() < 0.01, "{rate}");
    }

    #[test]
    fn a_link_that_takes_too_long_is_known_by_what_came() {
        let began = Instant::now();
        let mut look = Look {
            began: Some(began),
            ..Look::default()
        };
        look.came(began + LIMIT / 2, 200_000);
        assert_eq!(look.rate(began + LIMIT), Some(10_000));
        assert_eq!(look.rate(began + LIMIT / 2), None, "it broke");
    }
}
