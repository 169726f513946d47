//! Watches a pull of this node and reports its progress.

use std::sync::Arc;
use std::time::Duration;

use oci::Digest;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::pulls::{Entry, Pull, Sharing, State};
use super::shared::Shared;
use super::speed::LedPull;
use crate::flights::pull_rules::{GONE_LIMIT, REPORT_EVERY, Role};
use crate::request::Target;
use crate::{Growing, IngestStage, PullProgress};

/// The limit until upstream's first byte: redirects and tokens.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);
/// The same if the request goes to the tail of the node's queue.
const QUEUE_LIMIT: Duration = Duration::from_secs(60);
/// The limit until a complete object is committed to the store: a slow disk syncs.
const COMMIT_LIMIT: Duration = Duration::from_secs(120);
/// The interval between checks for an object that seems gone.
const GONE_CHECK_EVERY: Duration = Duration::from_millis(25);

/// Returns the pull that a request belongs to, and watches it. `None`: there are too many, or nothing is being pulled.
pub fn watch(
    shared: &Arc<Shared>,
    target: &Target,
    digest: &Digest,
    sharing: Sharing,
) -> Option<Arc<Pull>> {
    let ingest = target.pull.ingest.clone()?;
    let ingest = ingest.or_total(shared.images.object_info(digest).size);
    let origin = target.origin.as_ref();
    let entry = shared.pulls.enter(digest, origin, sharing, &ingest);
    if let Entry::New(pull) | Entry::Watched(pull) = &entry {
        pull.set_activity(target.pull.activity.as_ref());
    }
    match entry {
        Entry::Watched(pull) => Some(pull),
        Entry::Full => None,
        Entry::New(pull) => {
            let watcher = Watcher {
                shared: shared.clone(),
                digest: digest.clone(),
                states: pull.states(),
                pull: pull.clone(),
                has_ended: false,
            };
            shared.spawn(watcher.run());
            Some(pull)
        }
    }
}

struct Watcher {
    shared: Arc<Shared>,
    digest: Digest,
    pull: Arc<Pull>,
    states: watch::Receiver<State>,
    /// The pull is no longer listed.
    has_ended: bool,
}

/// A watcher that ends unexpectedly, for example by a panic, ends its pull: nothing else would.
impl Drop for Watcher {
    fn drop(&mut self) {
        if !self.has_ended {
            let tell = || {
                self.shared
                    .flights
                    .report(&self.digest, PullProgress::Failed);
            };
            self.shared.pulls.end(&self.digest, || false, tell);
        }
    }
}

/// Why an ingest is no longer watched.
enum End {
    Complete,
    /// The ingest is gone. `was_full`: all bytes had arrived.
    Gone {
        was_full: bool,
    },
    /// No byte has come for too long, or the mirror has ceased to fetch the object.
    Stalled,
    Private,
}

impl Watcher {
    /// Watches until the pull has ended.
    async fn run(mut self) {
        let mut ingest = Some(self.pull.ingest());
        loop {
            let progress = self.end(ingest).await;
            let shared = &self.shared;
            // A decision made a moment ago may continue a pull that seemed to have ended.
            let goes_on =
                || progress != PullProgress::Done && self.states.has_changed().unwrap_or(false);
            let tell = || {
                shared.flights.report(&self.digest, progress);
            };
            if shared.pulls.end(&self.digest, goes_on, tell) {
                self.has_ended = true;
                return;
            }
            let is_open = |ingest: &Growing| ingest.progress().stage == IngestStage::Filling;
            ingest = Some(self.pull.ingest()).filter(is_open);
            if let Some(ingest) = &ingest {
                self.pull.reset_to(ingest.progress().written);
            }
        }
    }

    async fn end(&mut self, mut ingest: Option<Growing>) -> PullProgress {
        let mut lost_since = None;
        loop {
            let mut was_full = false;
            if let Some(ingest) = ingest {
                if ingest.progress().stage == IngestStage::Filling {
                    lost_since = None;
                }
                match self.watch_ingest(ingest).await {
                    End::Complete => return PullProgress::Done,
                    End::Stalled | End::Private => return PullProgress::Failed,
                    End::Gone { was_full: full } => was_full = full,
                }
            }
            if self.shared.holds(&self.digest).await {
                return PullProgress::Done;
            }
            // All bytes arrived and the object was not committed. Reported at once, as the client may retry at once.
            if was_full {
                return PullProgress::Wrong;
            }
            if lost_since.get_or_insert_with(Instant::now).elapsed() > GONE_LIMIT {
                // Earlier decisions are void; only a later one can continue the pull.
                self.states.mark_unchanged();
                return PullProgress::Failed;
            }
            sleep(GONE_CHECK_EVERY).await;
            ingest = self
                .shared
                .ingest(&self.digest, &self.shared.memory.own)
                .await;
            if let Some(ingest) = &ingest {
                self.pull.set_ingest(ingest);
                self.pull.reset_to(ingest.progress().written);
            }
        }
    }

    /// Watches one ingest to its end.
    async fn watch_ingest(&mut self, mut growing: Growing) -> End {
        let mut seen = growing.progress().written;
        let (mut position, mut heard) = (seen, seen);
        let mut since = Instant::now();
        let mut decided = (since, seen);
        let mut decisions = None;
        let mut told = Instant::now();
        let mut lead: Option<LedPull> = None;
        loop {
            let state = *self.states.borrow_and_update();
            if state.sharing == Sharing::Private {
                return End::Private;
            }
            if state.lead_broke {
                return End::Stalled;
            }
            if decisions.replace(state.decisions) != Some(state.decisions) {
                since = Instant::now();
                decided = (since, seen);
            }
            let progress = growing.progress();
            let is_full = progress.total == Some(progress.written);
            if let Some(size) = progress.total
                && !state.has_begun
                && (is_full || self.pull.readable(&growing) > state.resumed_from)
            {
                self.pull.set_begun();
                self.pull.show(progress.total, position, 0);
                self.shared
                    .flights
                    .report(&self.digest, PullProgress::Begun { size });
                continue;
            }
            let leads = state.role == Role::Leads && state.has_begun && !is_full;
            lead = if leads {
                lead.or_else(|| self.lead())
            } else {
                None
            };
            let came = (seen.saturating_sub(decided.1), since - decided.0);
            let limit = self.limit(&state, is_full, came);
            tokio::select! {
                progress = growing.until(|p| p.written > seen || p.stage != IngestStage::Filling) => {
                    match progress.stage {
                        IngestStage::Complete => return End::Complete,
                        IngestStage::Failed => {
                            let was_full = progress.total == Some(progress.written);
                            return End::Gone { was_full };
                        }
                        IngestStage::Filling => {}
                    }
                    seen = progress.written;
                    self.pull.tail.written(seen);
                    since = Instant::now();
                    let before = std::mem::replace(&mut position, self.pull.position(&growing));
                    let moved = position.saturating_sub(before);
                    heard = position;
                    self.pull.show(progress.total, position, moved);
                    if let Some(lead) = &lead {
                        lead.received(moved);
                    }
                    if state.has_begun && told.elapsed() >= REPORT_EVERY {
                        told = since;
                        if let Some(size) = progress.total {
                            self.shared.flights.report(&self.digest, PullProgress::Begun { size });
                        }
                    }
                }
                _ = self.states.changed() => {}
                () = sleep_until(since + limit) => {
                    // Bytes that pass through the mirror are in the file later.
                    let before = std::mem::replace(&mut heard, self.pull.position(&growing));
                    if heard <= before {
                        return End::Stalled;
                    }
                    since = Instant::now();
                }
            }
        }
    }

    /// This pull, as one that this node leads.
    fn lead(&self) -> Option<LedPull> {
        let origin = self.pull.origin.as_ref()?;
        Some(LedPull::begin(
            self.shared.speed.clone(),
            origin.registry.clone(),
        ))
    }

    /// The limit for the next byte. `bytes` have come in the time `taken` since the source was decided.
    fn limit(&self, state: &State, is_full: bool, (bytes, taken): (u64, Duration)) -> Duration {
        match state.role {
            _ if is_full => COMMIT_LIMIT,
            role if state.has_begun || matches!(role, Role::Follows(_)) => {
                role.stall_limit(bytes, taken)
            }
            _ if self.shared.store.downloads_share_slots() => QUEUE_LIMIT,
            _ => BEGIN_LIMIT,
        }
    }
}
