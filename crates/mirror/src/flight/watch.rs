//! Watches a pull of this node's own and tells the others how it goes on.

use std::sync::Arc;
use std::time::Duration;

use oci::Digest;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::Shared;
use super::pulls::{Pull, Sharing, Standing, State};
use super::usual::{Way, Window};
use crate::{Growing, News, Stage};

/// A pull whose bytes from upstream stop for this long has stalled…
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// …and one that follows: its body goes on with another source much earlier.
const FOLLOW_LIMIT: Duration = Duration::from_secs(30);
/// How long a request that was sent upstream may wait for its first byte: redirects and tokens…
const BEGIN_LIMIT: Duration = Duration::from_secs(30);
/// …and, where it goes to the tail of the node's queue, the downloads before it.
const QUEUE_LIMIT: Duration = Duration::from_secs(60);
/// What is whole may take this long to become part of the store: a slow disk syncs.
const COMMIT_LIMIT: Duration = Duration::from_secs(120);
/// An object that is neither on its way nor here for this long is gone: between the two, containerd renames.
const GONE_LIMIT: Duration = Duration::from_millis(250);
/// Between words that more goes on coming.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// Between looks for it.
const GONE_LOOK: Duration = Duration::from_millis(25);

pub struct Watcher {
    shared: Arc<Shared>,
    digest: Digest,
    pull: Arc<Pull>,
    states: watch::Receiver<State>,
}

/// Why an ingest is no longer followed.
enum End {
    Complete,
    /// All of it had come, or not.
    Gone {
        was_full: bool,
    },
    Stalled,
    Private,
}

impl Watcher {
    /// Sees what happens to the pull from now on.
    pub fn new(shared: Arc<Shared>, digest: Digest, pull: Arc<Pull>) -> Self {
        let states = pull.states();
        Self {
            shared,
            digest,
            pull,
            states,
        }
    }

    /// Watches until the pull has ended, one way or the other.
    pub async fn run(mut self) {
        loop {
            let news = self.end().await;
            let shared = &self.shared;
            // A turn that was granted a moment ago may begin what seemed to have ended.
            let goes_on = || news != News::Done && self.states.has_changed().unwrap_or(false);
            let tell = || {
                shared.queue.forget(&self.digest);
                shared.flights.report(&self.digest, news);
            };
            if shared.pulls.end(&self.digest, goes_on, tell) {
                return;
            }
        }
    }

    async fn end(&mut self) -> News {
        let mut lost_since = None;
        loop {
            let mut was_whole = false;
            if let Some(growing) = self.shared.ingest(&self.digest) {
                if growing.progress().stage == Stage::Filling {
                    lost_since = None;
                }
                match self.follow(growing).await {
                    End::Complete => return News::Done,
                    End::Stalled | End::Private => return News::Failed,
                    End::Gone { was_full } => was_whole = was_full,
                }
            }
            if matches!(self.shared.store.open(&self.digest), Ok(Some(_))) {
                return News::Done;
            }
            // All of it came and became nothing. At once, for the client may try again as soon.
            if was_whole {
                return News::Wrong;
            }
            if lost_since.get_or_insert_with(Instant::now).elapsed() > GONE_LIMIT {
                // What was granted meanwhile is of no use: only what is granted later can be.
                self.states.mark_unchanged();
                return News::Failed;
            }
            sleep(GONE_LOOK).await;
        }
    }

    /// Follows one ingest to its end.
    async fn follow(&mut self, mut growing: Growing) -> End {
        let mut seen = growing.progress().written;
        self.pull.at_most(seen);
        let mut position = seen;
        let mut since = Instant::now();
        let mut turns = None;
        let mut told = Instant::now();
        let registry = self.pull.origin.as_ref().map(|origin| &origin.registry);
        let way = Way::of(Some(Duration::ZERO), registry);
        let mut window = Window::default();
        loop {
            let state = *self.states.borrow_and_update();
            if state.sharing == Sharing::Private {
                return End::Private;
            }
            if turns.replace(state.turns) != Some(state.turns) {
                since = Instant::now();
            }
            let progress = growing.progress();
            let is_full = progress.total == Some(progress.written);
            if let Some(size) = progress.total
                && !state.has_begun
                && (is_full || progress.written > state.mark)
            {
                self.pull.begun();
                self.shared
                    .flights
                    .report(&self.digest, News::Begun { size });
                continue;
            }
            let limit = self.limit(&state, is_full);
            tokio::select! {
                progress = growing.until(|p| p.written > seen || p.stage != Stage::Filling) => {
                    match progress.stage {
                        Stage::Complete => return End::Complete,
                        Stage::Failed => {
                            let was_full = progress.total == Some(progress.written);
                            return End::Gone { was_full };
                        }
                        Stage::Filling => {}
                    }
                    seen = progress.written;
                    let waited = since.elapsed();
                    since = Instant::now();
                    let before = std::mem::replace(&mut position, self.pull.position(&growing));
                    if state.standing == Standing::Leads {
                        let bytes = position.saturating_sub(before);
                        // What is usual shows here too. Whether it is low is for others to say.
                        let way = way.as_ref().map(|way| (way, &mut window));
                        self.shared.came(way, bytes, waited);
                    }
                    if state.has_begun && told.elapsed() >= TELL_EVERY {
                        told = since;
                        if let Some(size) = progress.total {
                            self.shared.flights.report(&self.digest, News::Begun { size });
                        }
                    }
                }
                _ = self.states.changed() => {}
                () = sleep_until(since + limit) => return End::Stalled,
            }
        }
    }

    /// How long the next byte may take.
    fn limit(&self, state: &State, is_full: bool) -> Duration {
        match state.standing {
            _ if is_full => COMMIT_LIMIT,
            Standing::Follows(_) => FOLLOW_LIMIT,
            Standing::Seeking | Standing::Leads if state.has_begun => STALL_LIMIT,
            Standing::Seeking | Standing::Leads if self.shared.store.downloads_share_slots() => {
                QUEUE_LIMIT
            }
            Standing::Seeking | Standing::Leads => BEGIN_LIMIT,
        }
    }
}
