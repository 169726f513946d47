//! The pulls of this node that are watched, and its role in each flight.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::flights::Key;
use bytes::Bytes;
use oci::{Digest, Origin};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::activity::PullActivity;
use crate::flights::SlowSources;
use crate::flights::pull_rules::Role;
use crate::tail_buffer::TailBuffer;
use crate::{ChainPosition, Growing, IngestStage};

/// The most pulls watched at once. A node downloads a dozen objects at a time.
const MAX_PULLS: usize = 1024;
/// The most pulls that keep bytes for followers to come, 2 MiB each: two images at three layers each.
const MAX_TAILS: usize = 6;

/// Whether other nodes may have an object that is being pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Upstream has not shown yet whether it requires credentials.
    Unknown,
    Shared,
    Private,
}

#[derive(Clone, Copy, Debug)]
pub struct State {
    pub role: Role,
    /// The number of decisions so far.
    pub decisions: u32,
    /// Whether bytes beyond `resumed_from` have arrived since the last lead was granted.
    pub has_begun: bool,
    /// The bytes that were there when the lead was granted: a pull may resume a broken one.
    pub resumed_from: u64,
    /// The mirror fetched the object from upstream, and has ceased to.
    pub lead_broke: bool,
    pub sharing: Sharing,
    /// When the followers were last told to use another source.
    pub evicted: Option<Instant>,
}

/// A pull of this node.
#[derive(Debug)]
pub struct Pull {
    /// The origin from which the client pulls it.
    pub origin: Option<Origin>,
    /// The ingest that is being written, as far as is known.
    ingest: Mutex<Growing>,
    /// The displayed state of the pull.
    activity: Mutex<Option<Arc<PullActivity>>>,
    /// The latest bytes from a source.
    pub tail: Arc<TailBuffer>,
    /// The offset after the latest byte from a source.
    received: AtomicU64,
    state: watch::Sender<State>,
    /// The sources that were too slow.
    pub slow_sources: Mutex<SlowSources>,
}

impl Pull {
    fn new(
        origin: Option<Origin>,
        sharing: Sharing,
        ingest: Growing,
        tails: &Arc<Semaphore>,
    ) -> Self {
        let state = State {
            role: Role::Undecided,
            decisions: 0,
            has_begun: false,
            resumed_from: ingest.progress().written,
            lead_broke: false,
            sharing,
            evicted: None,
        };
        Self {
            origin,
            ingest: Mutex::new(ingest),
            activity: Mutex::default(),
            tail: Arc::new(TailBuffer::new(tails.clone())),
            received: AtomicU64::new(0),
            state: watch::Sender::new(state),
            slow_sources: Mutex::default(),
        }
    }

    pub fn states(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// The bytes written so far.
    pub fn ingest(&self) -> Growing {
        self.ingest.lock().clone()
    }

    /// Sets the ingest that is written from now on, unless it has failed meanwhile.
    pub fn set_ingest(&self, ingest: &Growing) {
        if ingest.progress().stage != IngestStage::Failed {
            *self.ingest.lock() = ingest.clone();
        }
    }

    /// Sets the displayed state of the pull.
    pub fn set_activity(&self, activity: Option<&Arc<PullActivity>>) {
        *self.activity.lock() = activity.cloned();
    }

    /// Updates the displayed progress of a pull from upstream, unless its bytes pass through the mirror.
    pub fn show(&self, total: Option<u64>, offset: u64, bytes: u64) {
        let passes_through = self.received.load(Ordering::Relaxed) >= offset && bytes > 0;
        if self.state.borrow().role == Role::Leads
            && !passes_through
            && let Some(activity) = &*self.activity.lock()
        {
            activity.set_size(total);
            activity.reached(offset, bytes);
        }
    }

    pub fn set_following(&self, position: ChainPosition) {
        self.state.send_modify(|state| {
            state.role = Role::Follows(position);
            state.lead_broke = false;
            state.decisions = state.decisions.wrapping_add(1);
        });
    }

    /// Records bytes of the object from a source.
    pub fn receive(&self, offset: u64, bytes: &Bytes) {
        let end = offset + bytes.len() as u64;
        let before = self.received.fetch_max(end, Ordering::Relaxed);
        self.tail.write(offset, bytes);
        let begins = {
            let state = self.state.borrow();
            !state.has_begun && before <= state.resumed_from && end > state.resumed_from
        };
        if begins {
            // The watcher reports it.
            self.state.send_modify(|_| {});
        }
    }

    /// The offset reached: the bytes written, or those received and not written yet.
    pub fn position(&self, ingest: &Growing) -> u64 {
        let received = self.received.load(Ordering::Relaxed);
        ingest.progress().written.max(received)
    }

    /// The offset up to which a follower can read: the bytes written, or those received if they are kept.
    pub fn readable(&self, ingest: &Growing) -> u64 {
        if self.tail.keeps() {
            self.position(ingest)
        } else {
            ingest.progress().written
        }
    }

    /// Handles a request for the whole object after upstream has sent some of it: that pull has failed. Returns whether
    /// that is so.
    pub fn restarted_after_failure(&self) -> bool {
        self.state.send_if_modified(|state| {
            let anew = state.role == Role::Leads && state.has_begun;
            if anew {
                state.role = Role::Undecided;
                state.has_begun = false;
            }
            anew
        })
    }

    /// Records that the client pulls the missing bytes from upstream.
    pub fn set_leading(&self) {
        let reached = self.position(&self.ingest());
        self.state.send_modify(|state| {
            state.role = Role::Leads;
            state.lead_broke = false;
            state.decisions = state.decisions.wrapping_add(1);
            state.has_begun = false;
            state.resumed_from = reached;
        });
    }

    /// Sets whether other nodes may have the bytes.
    pub fn set_sharing(&self, sharing: Sharing) {
        self.state.send_if_modified(|state| {
            // A private pull stays private: the bytes are mixed.
            let changes = state.sharing != sharing && state.sharing != Sharing::Private;
            if changes {
                state.sharing = sharing;
            }
            changes
        });
    }

    /// Records that only `written` bytes are present: the ingest is a new one, or others did not reach the client.
    pub fn reset_to(&self, written: u64) {
        let lower = |state: &mut State| {
            let is_lower = written < state.resumed_from;
            state.resumed_from = state.resumed_from.min(written);
            is_lower
        };
        self.state.send_if_modified(lower);
        if self.received.fetch_min(written, Ordering::Relaxed) > written {
            self.tail.clear();
        }
    }

    /// Records that the client asks for the bytes from `offset` on: what was received beyond did not reach it.
    pub fn resume_at(&self, offset: u64) {
        self.reset_to(self.ingest().progress().written.max(offset));
    }

    /// Tells the followers to use another source.
    pub fn evict(&self) {
        self.state
            .send_modify(|state| state.evicted = Some(Instant::now()));
    }

    /// Records that the mirror has ceased to fetch the object, as this decision had it do. Its followers use another
    /// source.
    pub fn lead_broke(&self, decision: u32) {
        self.state.send_if_modified(|state| {
            let leads = state.role == Role::Leads && state.decisions == decision;
            if leads {
                state.lead_broke = true;
                state.evicted = Some(Instant::now());
            }
            leads
        });
    }

    /// Whether bytes of the object have arrived.
    pub fn is_moving(&self) -> bool {
        self.received.load(Ordering::Relaxed) > 0 || self.state.borrow().has_begun
    }

    pub fn set_begun(&self) {
        self.state.send_modify(|state| state.has_begun = true);
    }
}

/// All watched pulls.
#[derive(Debug)]
pub struct Pulls {
    pulls: Mutex<HashMap<Digest, Arc<Pull>>>,
    received: Notify,
    /// See [`MAX_TAILS`].
    tails: Arc<Semaphore>,
}

impl Default for Pulls {
    fn default() -> Self {
        Self {
            pulls: Mutex::default(),
            received: Notify::new(),
            tails: Arc::new(Semaphore::new(MAX_TAILS)),
        }
    }
}

/// The pull of a digest, and whether it is watched already.
pub enum Entry {
    New(Arc<Pull>),
    Watched(Arc<Pull>),
    /// There are too many pulls.
    Full,
}

impl Pulls {
    /// The pull of a digest, which writes this ingest. Adds it if there is none.
    pub fn enter(
        &self,
        digest: &Digest,
        origin: Option<&Origin>,
        sharing: Sharing,
        ingest: &Growing,
    ) -> Entry {
        let mut pulls = self.pulls.lock();
        if let Some(pull) = pulls.get(digest) {
            pull.set_ingest(ingest);
            return Entry::Watched(pull.clone());
        }
        if pulls.len() >= MAX_PULLS {
            return Entry::Full;
        }
        let pull = Pull::new(origin.cloned(), sharing, ingest.clone(), &self.tails);
        let pull = Arc::new(pull);
        pulls.insert(digest.clone(), pull.clone());
        self.received.notify_waiters();
        Entry::New(pull)
    }

    pub fn get(&self, digest: &Digest) -> Option<Arc<Pull>> {
        self.pulls.lock().get(digest).cloned()
    }

    /// The pull of the object with this key in flights.
    pub fn of_key(&self, key: &Key) -> Option<Arc<Pull>> {
        let pulls = self.pulls.lock();
        let pull = pulls
            .iter()
            .find(|(digest, _)| Key::of(digest.as_str()) == *key);
        pull.map(|(_, pull)| pull.clone())
    }

    pub fn is_empty(&self) -> bool {
        self.pulls.lock().is_empty()
    }

    pub fn any(&self, is: impl FnMut(&Arc<Pull>) -> bool) -> bool {
        self.pulls.lock().values().any(is)
    }

    pub fn for_each(&self, act: impl FnMut(&Arc<Pull>)) {
        self.pulls.lock().values().for_each(act);
    }

    /// Waits until there is a pull.
    pub async fn wait_for_any(&self) {
        let mut received = std::pin::pin!(self.received.notified());
        received.as_mut().enable();
        if self.is_empty() {
            received.await;
        }
    }

    /// Waits for a pull of this digest.
    pub async fn wait(&self, digest: &Digest) -> Arc<Pull> {
        loop {
            let received = self.received.notified();
            let mut received = std::pin::pin!(received);
            // From here on no new pull is missed.
            received.as_mut().enable();
            if let Some(pull) = self.get(digest) {
                return pull;
            }
            received.await;
        }
    }

    /// Ends a pull and reports it, unless `goes_on`. Both happen at once, so that the next pull of the digest is
    /// reported after this one.
    pub fn end(&self, digest: &Digest, goes_on: impl Fn() -> bool, tell: impl FnOnce()) -> bool {
        let mut pulls = self.pulls.lock();
        let ends = !goes_on();
        if ends {
            if let Some(pull) = pulls.remove(digest) {
                pull.tail.end();
            }
            tell();
        }
        ends
    }
}
