//! The time that the pull of an image has lost by waiting for peers, compared with upstream alone: at most [`BUDGET`]
//! in all, for lookups, connections, silence, and bytes that come more slowly than upstream would send them.
//!
//! Requests of one pull wait at the same time. Time in which several wait is charged once.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

pub use ::flights::ledger::{BUDGET, GRACE, RESET};
use lru::LruCache;
use oci::Origin;
use parking_lot::Mutex;
use tokio::time::Instant;

/// The most pulls to remember.
const MAX_PULLS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// The budget of one pull.
#[derive(Debug)]
pub struct WaitingBudget(Mutex<Charges>);

#[derive(Debug)]
struct Charges {
    lost: Duration,
    /// The part of it that was reported to flights.
    reported: Duration,
    /// What waiting for decisions of flights has cost.
    by_flights: Duration,
    /// Waiting before this time has been charged.
    charged_until: Instant,
    /// When the present waits began.
    waits: Vec<Instant>,
    used: Instant,
    /// A source that was still receiving its object has been waited for in vain.
    grew_in_vain: bool,
}

impl Default for WaitingBudget {
    fn default() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Charges {
            lost: Duration::ZERO,
            reported: Duration::ZERO,
            by_flights: Duration::ZERO,
            charged_until: now,
            waits: Vec::new(),
            used: now,
            grew_in_vain: false,
        }))
    }
}

impl Charges {
    /// Charges the time from `since` to `now`.
    fn charge(&mut self, since: Instant, now: Instant) {
        let since = since.max(self.charged_until);
        self.lost = (self.lost + now.saturating_duration_since(since)).min(BUDGET);
        self.charged_until = self.charged_until.max(now);
    }

    /// The time left if none of the present waits succeeds.
    fn left(&self, now: Instant) -> Duration {
        let first = self.waits.iter().min();
        let open = first.map_or(Duration::ZERO, |first| {
            now.saturating_duration_since(self.charged_until.max(*first))
        });
        BUDGET.saturating_sub(self.lost + self.by_flights + open)
    }
}

impl WaitingBudget {
    /// Whether the pull may not wait any more.
    pub fn is_spent(&self) -> bool {
        let account = self.0.lock();
        account.lost + account.by_flights >= BUDGET
    }

    /// Begins a wait.
    pub fn wait(self: &Arc<Self>) -> Wait {
        let mut account = self.0.lock();
        let now = Instant::now();
        account.used = now;
        let left = account.left(now);
        account.waits.push(now);
        drop(account);
        Wait {
            budget: self.clone(),
            began: now,
            left,
            free: Duration::ZERO,
        }
    }

    /// Charges a wait of this length that ends now.
    pub fn charge(&self, waited: Duration) {
        let (mut account, now) = (self.0.lock(), Instant::now());
        account.used = now;
        let since = now.checked_sub(waited).unwrap_or(now);
        account.charge(since, now);
    }

    /// Whether sources that are still receiving their objects may be waited for without a charge.
    pub fn waits_for_growing(&self) -> bool {
        !self.0.lock().grew_in_vain
    }

    /// Records whether such a source has sent what it received.
    pub fn set_waits_for_growing(&self, has_sent: bool) {
        self.0.lock().grew_in_vain = !has_sent;
    }

    /// Records that upstream has failed the pull: peers are the only sources.
    pub fn renew(&self) {
        let mut account = self.0.lock();
        account.lost = Duration::ZERO;
        account.reported = Duration::ZERO;
        account.by_flights = Duration::ZERO;
        account.grew_in_vain = false;
    }

    /// The time lost since the last call, to be reported to flights.
    pub fn take_unreported(&self) -> Duration {
        let mut account = self.0.lock();
        let unreported = account.lost.saturating_sub(account.reported);
        account.reported = account.lost;
        unreported
    }

    /// Records what flights know to be lost: what was reported, and by waiting for their decisions.
    pub fn set_known_to_flights(&self, lost: Duration) {
        let mut account = self.0.lock();
        account.by_flights = lost.saturating_sub(account.reported);
    }
}

/// A wait. Dropping it charges all of it, unless a source was found.
#[derive(Debug)]
pub struct Wait {
    budget: Arc<WaitingBudget>,
    began: Instant,
    /// How long it may take.
    pub left: Duration,
    free: Duration,
}

impl Wait {
    /// Ends the wait: a source was found, and waiting was free for this long.
    pub fn found(mut self, free: Duration) {
        self.free = free;
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let (mut account, now) = (self.budget.0.lock(), Instant::now());
        let index = account.waits.iter().position(|began| *began == self.began);
        if let Some(index) = index {
            account.waits.swap_remove(index);
        }
        let is_charged = now.saturating_duration_since(self.began) > self.free;
        if is_charged {
            account.charge(self.began + self.free, now);
        }
    }
}

/// The budgets of all pulls, by repository.
#[derive(Debug)]
pub struct WaitingBudgets(Mutex<LruCache<Origin, Arc<WaitingBudget>>>);

impl Default for WaitingBudgets {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_PULLS)))
    }
}

impl WaitingBudgets {
    /// The budget of a pull that continues or begins now. An object of an unnamed registry has its own.
    pub fn of(&self, origin: Option<&Origin>) -> Arc<WaitingBudget> {
        let Some(origin) = origin else {
            return Arc::default();
        };
        let mut all = self.0.lock();
        let budget = all.get_or_insert_mut(origin.clone(), Arc::default);
        let is_old = {
            let mut account = budget.0.lock();
            let is_old = account.waits.is_empty() && account.used.elapsed() >= RESET;
            account.used = Instant::now();
            is_old
        };
        if is_old {
            *budget = Arc::default();
        }
        budget.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const MILLI: Duration = Duration::from_millis(1);

    fn lost(budget: &WaitingBudget) -> Duration {
        budget.0.lock().lost
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_several_requests_wait_is_charged_once() {
        let budget = Arc::new(WaitingBudget::default());
        let first = budget.wait();
        advance(300 * MILLI).await;
        let second = budget.wait();
        assert_eq!(
            second.left,
            BUDGET - 300 * MILLI,
            "the first may be in vain"
        );
        advance(200 * MILLI).await;
        drop(first);
        assert_eq!(lost(&budget), 500 * MILLI);
        advance(100 * MILLI).await;
        drop(second);
        assert_eq!(lost(&budget), 600 * MILLI);
        advance(100 * MILLI).await;
        budget.charge(150 * MILLI);
        assert_eq!(lost(&budget), 700 * MILLI, "50 ms of it were charged");
        budget.charge(Duration::from_secs(9));
        assert!(!budget.is_spent(), "all of it was charged but what follows");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_ends_with_a_source_costs_what_is_beyond_upstreams_own_time() {
        let budget = Arc::new(WaitingBudget::default());
        let wait = budget.wait();
        advance(GRACE).await;
        wait.found(GRACE);
        assert_eq!(lost(&budget), Duration::ZERO);
        let wait = budget.wait();
        advance(GRACE + 30 * MILLI).await;
        wait.found(GRACE);
        assert_eq!(lost(&budget), 30 * MILLI);
    }

    #[tokio::test(start_paused = true)]
    async fn what_flights_know_to_be_lost_is_lost_here_too() {
        let budget = Arc::new(WaitingBudget::default());
        advance(BUDGET).await;
        budget.charge(300 * MILLI);
        assert_eq!(budget.take_unreported(), 300 * MILLI);
        advance(100 * MILLI).await;
        budget.charge(100 * MILLI);
        let left = || budget.wait().left;
        budget.set_known_to_flights(1_000 * MILLI);
        assert_eq!(
            left(),
            BUDGET - 1_100 * MILLI,
            "100 ms are not reported yet"
        );
        assert_eq!(budget.take_unreported(), 100 * MILLI);
        budget.set_known_to_flights(BUDGET);
        assert!(budget.is_spent());
        for taken_back in [500 * MILLI, Duration::ZERO] {
            budget.set_known_to_flights(taken_back);
            let own = 400 * MILLI;
            assert_eq!(
                left(),
                BUDGET - own.max(taken_back),
                "this is not taken back"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn forty_layers_lose_no_more_than_the_budget() {
        let budgets = WaitingBudgets::default();
        let origin: Origin = Origin {
            registry: "quay.io".parse().expect("a registry"),
            repository: "a/b".parse().expect("a repository"),
        };
        let began = Instant::now();
        for _ in 0..40 {
            let wait = budgets.of(Some(&origin)).wait();
            tokio::time::sleep((Duration::from_secs(5)).min(wait.left)).await;
        }
        assert_eq!(began.elapsed(), BUDGET);
        assert!(budgets.of(Some(&origin)).is_spent());
        budgets.of(Some(&origin)).renew();
        assert!(!budgets.of(Some(&origin)).is_spent());
        drop(budgets.of(Some(&origin)).wait());
        advance(RESET).await;
        assert_eq!(
            budgets.of(Some(&origin)).wait().left,
            BUDGET,
            "the next pull"
        );
    }
}
