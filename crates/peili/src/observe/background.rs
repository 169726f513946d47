//! Values that are expensive to determine, and are determined only while they are viewed.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

/// A value that is determined in the background, at most once in a while, whenever it is requested.
#[derive(Debug)]
pub struct Background<T> {
    /// The interval between attempts.
    every: Duration,
    /// The limit for one attempt.
    limit: Duration,
    /// When the last attempt began, if there was one.
    began: Mutex<Option<Instant>>,
    value: watch::Sender<Option<Arc<T>>>,
    tasks: TaskTracker,
}

impl<T: Send + Sync + 'static> Background<T> {
    pub fn new(every: Duration, limit: Duration) -> Arc<Self> {
        Arc::new(Self {
            every,
            limit,
            began: Mutex::new(None),
            value: watch::Sender::new(None),
            tasks: TaskTracker::new(),
        })
    }

    /// Whether it has been requested.
    pub fn has_begun(&self) -> bool {
        self.began.lock().is_some()
    }

    /// The last value. `None`: there was none yet. Determines a new one in the background if the last is old.
    pub fn get<F>(self: &Arc<Self>, find_out: impl FnOnce() -> F) -> Option<Arc<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut began = self.began.lock();
        let is_due = began.is_none_or(|began| began.elapsed() >= self.every);
        // Viewers ask again, and a running attempt needs no second one.
        if is_due && self.tasks.is_empty() {
            *began = Some(Instant::now());
            let (this, value) = (self.clone(), find_out());
            self.tasks.spawn(async move {
                if let Ok(value) = timeout(this.limit, value).await {
                    this.value.send_replace(Some(Arc::new(value)));
                }
            });
        }
        self.value.borrow().clone()
    }

    /// The same, but waits for the first value for a while.
    pub async fn first<F>(
        self: &Arc<Self>,
        patience: Duration,
        find_out: impl FnOnce() -> F,
    ) -> Option<Arc<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut changes = self.value.subscribe();
        if let Some(value) = self.get(find_out) {
            return Some(value);
        }
        let first = timeout(patience, changes.wait_for(Option::is_some)).await;
        first.ok().and_then(|value| value.ok()?.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_value_is_found_out_once_in_a_while_and_only_when_asked_for() {
        let value = Background::new(Duration::from_secs(30), Duration::from_secs(5));
        let found = Arc::new(AtomicUsize::new(0));
        let find_out = || {
            let found = found.clone();
            async move { found.fetch_add(1, Ordering::SeqCst) }
        };
        assert!(!value.has_begun());
        assert_eq!(value.get(find_out), None);
        assert!(value.has_begun());
        let first = value.first(Duration::from_secs(9), find_out).await;
        assert_eq!(first, Some(Arc::new(0)));
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(value.get(find_out), Some(Arc::new(0)));
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(found.load(Ordering::SeqCst), 1, "nobody looked");
        let mut changes = value.value.subscribe();
        assert_eq!(value.get(find_out), Some(Arc::new(0)));
        changes.changed().await.expect("a new value");
        assert_eq!(value.get(find_out), Some(Arc::new(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_ends_is_given_up() {
        let value = Background::<()>::new(Duration::from_secs(1), Duration::from_secs(5));
        let never = std::future::pending;
        assert_eq!(value.first(Duration::from_secs(2), never).await, None);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let first = value
            .first(Duration::from_secs(2), || std::future::ready(()))
            .await;
        assert_eq!(first, Some(Arc::new(())));
    }
}
