//! Limits the rates to and from other nodes, in bytes per second. Streams take turns, so each gets the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::object_stream::Pieces;

/// The bytes of one turn.
const TURN: u64 = 16 * 1024;
/// The time for which unused rate is saved up.
const BURST: Duration = Duration::from_millis(50);
/// The least rate of each sent stream, in bytes per second: with less, the peer would consider this node dead. Further
/// streams are refused.
pub const MIN_SHARE: u64 = 64 * 1024;
/// The most streams sent at once, whatever the rate.
const MAX_STREAMS: usize = 4096;

/// The time that streams have waited, in seconds.
pub type Waited = Counter<f64, AtomicU64>;

/// A limit for all streams of one direction.
#[derive(Debug)]
pub struct RateLimit {
    /// The rate in bytes per second; 0: no limit.
    rate: AtomicU64,
    /// When the next turn may begin. Its lock is the queue.
    next_turn: Mutex<Instant>,
    streams: Arc<Semaphore>,
    waited: Waited,
}

impl RateLimit {
    /// No limit, until [`Self::set`].
    pub fn new(waited: Waited) -> Self {
        Self {
            rate: AtomicU64::new(0),
            next_turn: Mutex::new(Instant::now()),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            waited,
        }
    }

    /// Sets the limit, in bytes per second. Must be called once, before anything is sent.
    pub fn set(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
        let most = usize::try_from(rate / MIN_SHARE).unwrap_or(MAX_STREAMS);
        let most = most.clamp(1, MAX_STREAMS);
        self.streams.forget_permits(MAX_STREAMS - most);
    }

    pub fn is_off(&self) -> bool {
        self.rate.load(Ordering::Relaxed) == 0
    }

    /// A permit to send one more stream. `None`: its share would be too small.
    pub fn admit(&self) -> Option<OwnedSemaphorePermit> {
        self.streams.clone().try_acquire_owned().ok()
    }

    /// Waits until this many more bytes may pass.
    pub async fn pay(&self, bytes: u64) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 || bytes == 0 {
            return;
        }
        let (began, mut left) = (Instant::now(), bytes);
        while left > 0 {
            let turn = left.min(TURN);
            left -= turn;
            // In the order of arrival: the stream whose turn is next holds the lock.
            let mut next_turn = self.next_turn.lock().await;
            sleep_until(*next_turn).await;
            let saved = Instant::now().checked_sub(BURST).unwrap_or(*next_turn);
            *next_turn = (*next_turn).max(saved) + Duration::from_micros(turn * 1_000_000 / rate);
        }
        self.waited.inc_by(began.elapsed().as_secs_f64());
    }

    /// The pieces at no more than the limit, each of one turn. `permit`: from [`Self::admit`].
    pub fn limited(
        self: &Arc<Self>,
        pieces: Pieces,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Pieces {
        if self.is_off() {
            return pieces;
        }
        let state = (self.clone(), pieces, Bytes::new(), permit);
        let limited = stream::unfold(state, |(limit, mut pieces, mut rest, permit)| async move {
            if rest.is_empty() {
                match pieces.next().await? {
                    Ok(bytes) => rest = bytes,
                    error => return Some((error, (limit, pieces, rest, permit))),
                }
            }
            let turn = rest.split_to(rest.len().min(TURN as usize));
            limit.pay(turn.len() as u64).await;
            Some((Ok(turn), (limit, pieces, rest, permit)))
        });
        limited.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    fn limit(rate: u64) -> Arc<RateLimit> {
        let limit = RateLimit::new(Waited::default());
        limit.set(rate);
        Arc::new(limit)
    }

    fn pieces(sizes: &[usize]) -> Pieces {
        let sizes = sizes.to_vec();
        stream::iter(sizes.into_iter().map(|size| Ok(vec![7; size].into()))).boxed()
    }

    async fn read(mut pieces: Pieces) -> (u64, Duration) {
        let (began, mut bytes) = (Instant::now(), 0);
        while let Some(Ok(piece)) = pieces.next().await {
            bytes += piece.len() as u64;
        }
        (bytes, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn streams_share_the_rate_whatever_the_size_of_their_pieces() {
        let limit = limit(256 * KIB);
        // Half a megabyte each, at half the rate.
        let large = limit.limited(pieces(&[512 * KIB as usize]), limit.admit());
        let small = limit.limited(pieces(&[4 * KIB as usize; 128]), limit.admit());
        let (large, small) = tokio::join!(read(large), read(small));
        assert_eq!((large.0, small.0), (512 * KIB, 512 * KIB));
        assert!((3.9..4.1).contains(&small.1.as_secs_f64().max(large.1.as_secs_f64())));
        assert!(
            large.1 < Duration::from_secs(3),
            "{large:?}: small pieces take small turns"
        );
        assert!(limit.waited.get() > 6.0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_stream_is_without_a_byte_for_so_long_that_it_seems_dead() {
        let limit = limit(1024 * KIB);
        let permits: Vec<_> = std::iter::from_fn(|| limit.admit()).collect();
        assert_eq!(permits.len(), 16);
        let streams = permits.into_iter().map(|permit| {
            let mut pieces = limit.limited(pieces(&[256 * KIB as usize]), Some(permit));
            async move {
                let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
                while pieces.next().await.is_some() {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                longest
            }
        });
        let longest = futures::future::join_all(streams).await;
        let longest = longest.into_iter().max().expect("some");
        assert!(longest <= Duration::from_millis(300), "{longest:?}");
        assert!(
            limit.admit().is_some(),
            "a stream that has ended makes room"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let limit = Arc::new(RateLimit::new(Waited::default()));
        let (bytes, took) = read(limit.limited(pieces(&[1 << 20; 8]), limit.admit())).await;
        assert_eq!((bytes, took), (8 << 20, Duration::ZERO));
    }
}
