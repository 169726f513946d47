//! What this node is pulling under our watch, and where it stands in each flight.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use oci::{Digest, Origin};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::complaint::Complaints;
use crate::tap::Tap;
use crate::{Growing, Place};

/// Pulls watched at once. A node downloads a dozen objects at a time.
const MOST_PULLS: usize = 1024;

/// Where this node's bytes of an object come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// That is being asked.
    Seeking,
    Follows(Place),
    /// Upstream.
    Leads,
}

impl Standing {
    /// Whether a node at `place` gets its bytes after this one.
    pub fn is_ahead_of(&self, place: &Place) -> bool {
        match self {
            Self::Seeking => false,
            Self::Follows(own) => own.is_before(place),
            Self::Leads => true,
        }
    }
}

/// Whether others may have what is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Upstream has not said yet whether it takes credentials.
    Unknown,
    Shared,
    Private,
}

#[derive(Clone, Copy, Debug)]
pub struct State {
    pub standing: Standing,
    /// Turns granted so far.
    pub turns: u32,
    /// Whether bytes have come since the last lead was granted…
    pub has_begun: bool,
    /// …that is, more than these: a pull may resume what a broken one has left.
    pub mark: u64,
    pub sharing: Sharing,
}

/// A pull of this node's own.
#[derive(Debug)]
pub struct Pull {
    /// Where the client wants it from.
    pub origin: Option<Origin>,
    /// What a source sends of it.
    pub tap: Arc<Tap>,
    /// Where in the object the latest byte of a source ends.
    received: AtomicU64,
    state: watch::Sender<State>,
    /// What it is given too little by.
    pub complaints: Mutex<Complaints>,
}

impl Pull {
    fn new(origin: Option<Origin>, sharing: Sharing, written: u64) -> Self {
        let state = State {
            standing: Standing::Seeking,
            turns: 0,
            has_begun: false,
            mark: written,
            sharing,
        };
        Self {
            origin,
            tap: Arc::default(),
            received: AtomicU64::new(0),
            state: watch::Sender::new(state),
            complaints: Mutex::default(),
        }
    }

    pub fn states(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub fn follows(&self, place: Place) {
        self.state.send_modify(|state| {
            state.standing = Standing::Follows(place);
            state.turns = state.turns.wrapping_add(1);
        });
    }

    /// These bytes of the object have come from a source.
    pub fn receive(&self, offset: u64, bytes: &Bytes) {
        let end = offset + bytes.len() as u64;
        self.received.fetch_max(end, Ordering::Relaxed);
        self.tap.write(offset, bytes);
    }

    /// How far it is: what is written, and what has come and is on its way into the file.
    pub fn position(&self, growing: &Growing) -> u64 {
        let received = self.received.load(Ordering::Relaxed);
        growing.progress().written.max(received)
    }

    /// The client asks for all of an object that upstream has sent some of: that came to nothing. Says whether it did.
    pub fn begins_anew(&self) -> bool {
        self.state.send_if_modified(|state| {
            let anew = state.standing == Standing::Leads && state.has_begun;
            if anew {
                state.standing = Standing::Seeking;
                state.has_begun = false;
            }
            anew
        })
    }

    /// The client is sent upstream with `written` bytes in hand.
    pub fn leads(&self, written: u64) {
        self.state.send_modify(|state| {
            state.standing = Standing::Leads;
            state.turns = state.turns.wrapping_add(1);
            state.has_begun = false;
            state.mark = written;
        });
    }

    /// What comes from peers, or from upstream for anybody, may be passed on.
    pub fn share(&self, sharing: Sharing) {
        self.state.send_if_modified(|state| {
            // What was private once stays so: the bytes are mixed.
            let changes = state.sharing != sharing && state.sharing != Sharing::Private;
            if changes {
                state.sharing = sharing;
            }
            changes
        });
    }

    /// No more than `written` bytes are here: the ingest is another one.
    pub fn at_most(&self, written: u64) {
        let lower = |state: &mut State| {
            let is_lower = written < state.mark;
            state.mark = state.mark.min(written);
            is_lower
        };
        self.state.send_if_modified(lower);
        self.received.fetch_min(written, Ordering::Relaxed);
    }

    pub fn begun(&self) {
        self.state.send_modify(|state| state.has_begun = true);
    }
}

/// All pulls that are watched.
#[derive(Debug, Default)]
pub struct Pulls {
    pulls: Mutex<HashMap<Digest, Arc<Pull>>>,
    came: Notify,
}

/// The pull of a digest, and whether somebody watches it already.
pub enum Entry {
    New(Arc<Pull>),
    Watched(Arc<Pull>),
    /// Too many are.
    Full,
}

impl Pulls {
    /// The pull of a digest; `written` bytes of it are here.
    pub fn enter(
        &self,
        digest: &Digest,
        origin: Option<&Origin>,
        sharing: Sharing,
        written: u64,
    ) -> Entry {
        let mut pulls = self.pulls.lock();
        if let Some(pull) = pulls.get(digest) {
            return Entry::Watched(pull.clone());
        }
        if pulls.len() >= MOST_PULLS {
            return Entry::Full;
        }
        let pull = Arc::new(Pull::new(origin.cloned(), sharing, written));
        pulls.insert(digest.clone(), pull.clone());
        self.came.notify_waiters();
        Entry::New(pull)
    }

    pub fn get(&self, digest: &Digest) -> Option<Arc<Pull>> {
        self.pulls.lock().get(digest).cloned()
    }

    pub fn is_empty(&self) -> bool {
        self.pulls.lock().is_empty()
    }

    /// Waits until there is a pull of this digest.
    pub async fn wait(&self, digest: &Digest) -> Arc<Pull> {
        loop {
            let came = self.came.notified();
            let mut came = std::pin::pin!(came);
            // From here on no coming is missed.
            came.as_mut().enable();
            if let Some(pull) = self.get(digest) {
                return pull;
            }
            came.await;
        }
    }

    /// Ends a pull and tells of it, unless `goes_on`: both at once, so that the next pull of the digest is told of after
    /// this one.
    pub fn end(&self, digest: &Digest, goes_on: impl Fn() -> bool, tell: impl FnOnce()) -> bool {
        let mut pulls = self.pulls.lock();
        let ends = !goes_on();
        if ends {
            pulls.remove(digest);
            tell();
        }
        ends
    }
}
