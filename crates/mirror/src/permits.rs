//! Limits how often other nodes may make this node do something.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// `MOST` permits in each second.
#[derive(Debug, Default)]
pub struct PermitsPerSecond<const MOST: u32>(Mutex<Option<(Instant, u32)>>);

impl<const MOST: u32> PermitsPerSecond<MOST> {
    /// Whether there is another permit within this second.
    pub fn admit(&self) -> bool {
        let (now, mut window) = (Instant::now(), self.0.lock());
        let is_over = |(since, _): &mut (Instant, u32)| now - *since >= Duration::from_secs(1);
        window.take_if(is_over);
        let (_, count) = window.get_or_insert((now, 0));
        *count = count.saturating_add(1);
        *count <= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn there_are_so_many_in_a_second() {
        let permits = PermitsPerSecond::<8>::default();
        assert_eq!((0..20).filter(|_| permits.admit()).count(), 8);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(permits.admit());
    }
}
