//! The way of one body through a flight: from source to source, as the other nodes agree on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use oci::{Digest, Key};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::Shared;
use super::pulls::{Pull, Sharing};
use super::range::first_byte;
use super::rate::Window;
use crate::fetch::{Answer, FetchError, Question};
use crate::finder::{COMPLETE, Finder, Patience};
use crate::peers::Fault;
use crate::request::{FLIGHT, Target};
use crate::{PeerId, Seek, Turn};

/// What the other nodes may take to say whom to follow, whatever they wait for themselves. containerd from 2.3 on waits
/// 30 s for the head of an answer.
const SEEK_LIMIT: Duration = Duration::from_secs(20);
/// Sources that may fail one body.
const MOST_FAILED: usize = 16;
/// A source that grows and whose bytes stop for this long has broken; it is on its way to have the object itself, by steps of
/// 1 MiB…
const STALL: Duration = Duration::from_secs(10);
/// …less where its steps have been quicker than that…
const STALL_LEAST: Duration = Duration::from_secs(4);
/// …and for each node that its bytes pass this much longer, up to as many: where the first of a chain stalls, the second
/// goes elsewhere, and those after it stay.
const STALL_STEP: Duration = Duration::from_millis(500);
const STALL_STEPS: u32 = 20;
/// See [`Patience::crawl`].
const CRAWL: Duration = Duration::from_secs(20);

/// A source that gives far less than others did is left, for one of which the others may know that it is better, so many
/// times for one body…
const MOST_LEFT: u8 = 2;
/// …and not again before.
const LEAVE_EVERY: Duration = Duration::from_secs(60);

/// Finds the sources of one body.
pub struct Course {
    shared: Arc<Shared>,
    target: Target,
    digest: Digest,
    /// Of a pull that begins.
    sharing: Sharing,
    /// Nodes that its bytes pass.
    steps: AtomicU32,
    /// The source that was found last is on its way to have the object itself.
    grows: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Granted, and not made use of yet.
    granted: Option<Turn>,
    seeks: u32,
    failed: Vec<PeerId>,
    /// The pull as it is watched now.
    pull: Option<Arc<Pull>>,
    leader: Option<PeerId>,
    /// The source that was found last.
    source: Option<PeerId>,
    /// One that was left because it is too slow, as long as nobody was asked for a better one.
    slow: Option<PeerId>,
    /// What comes of this body.
    window: Window,
    /// How many sources were left, and when the last one was.
    left: u8,
    left_at: Option<Instant>,
}

impl State {
    /// Leaves a source that is too slow, if that may be.
    fn leave(&mut self, now: Instant) -> bool {
        let is_soon = |at: Instant| now - at < LEAVE_EVERY;
        if self.left >= MOST_LEFT || self.left_at.is_some_and(is_soon) {
            return false;
        }
        self.left += 1;
        self.left_at = Some(now);
        self.slow = self.source.take();
        self.slow.is_some()
    }
}

impl Course {
    pub fn new(shared: Arc<Shared>, target: Target, digest: Digest, sharing: Sharing) -> Self {
        Self {
            shared,
            target,
            digest,
            sharing,
            steps: AtomicU32::new(0),
            grows: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// The turn that is taken without another question.
    pub fn grant(&self, turn: Turn) {
        self.state.lock().granted = Some(turn);
    }

    /// Who pulled it from upstream, as far as the last source knew.
    pub fn leader(&self) -> Option<PeerId> {
        self.state.lock().leader.clone()
    }

    /// Asks whom to follow from `offset` on.
    pub async fn seek(&self, offset: u64, yields: Option<Duration>) -> Turn {
        let shared = &self.shared;
        // A pull whose bytes stopped may be watched no longer, and it begins anew.
        let pull = shared.watch(&self.target, &self.digest, self.sharing);
        let Some(pull) = pull else {
            return Turn::Alone;
        };
        let about = shared.about(&self.digest);
        let (failed, slow) = {
            let mut state = self.state.lock();
            if state.seeks > 0 {
                shared.metrics.flights_moves.inc();
            }
            state.seeks += 1;
            state.pull = Some(pull.clone());
            (state.failed.clone(), state.slow.take())
        };
        let has_failed = |peer: &PeerId| failed.contains(peer);
        let seek = Seek {
            digest: self.digest.clone(),
            origin: self.target.origin.clone(),
            size: about.size,
            streams: about.streams,
            prefer: about.leader,
            offset,
            yields,
            too_slow: slow.is_some(),
            failed: self.useless(&failed, slow),
        };
        let asked = Instant::now();
        let turn = if failed.len() < MOST_FAILED {
            let turn = timeout(SEEK_LIMIT, shared.flights.seek(seek)).await;
            turn.unwrap_or(Turn::Alone)
        } else {
            Turn::Alone
        };
        let turn = match turn {
            Turn::Follow { source, .. } if has_failed(&source.peer) => Turn::Alone,
            turn => turn,
        };
        shared
            .metrics
            .flights_seek_seconds
            .observe(asked.elapsed().as_secs_f64());
        self.take(&turn, &pull);
        turn
    }

    /// Asks for the next source. Where there is none that is better than a slow one, that one will do.
    async fn next(&self, offset: u64) -> Turn {
        let was_slow = self.state.lock().slow.is_some();
        match self.seek(offset, None).await {
            Turn::Alone | Turn::Later if was_slow => self.seek(offset, None).await,
            turn => turn,
        }
    }

    /// Sources that are none: those that failed this body, one that is too slow, and whoever is put aside for failing
    /// another body.
    fn useless(&self, failed: &[PeerId], slow: Option<PeerId>) -> Vec<PeerId> {
        let mut useless = self.shared.fetcher.peers.aside(Instant::now());
        useless.retain(|peer| !failed.contains(peer));
        useless.extend_from_slice(failed);
        useless.extend(slow);
        useless
    }

    fn take(&self, turn: &Turn, pull: &Pull) {
        let outcome = match turn {
            Turn::Follow { place, leader, .. } => {
                pull.follows(*place);
                self.steps.store(place.steps(), Ordering::Relaxed);
                self.state.lock().leader.clone_from(leader);
                "follow"
            }
            Turn::Lead => "lead",
            Turn::Alone => "alone",
            Turn::Later => "later",
        };
        if matches!(turn, Turn::Lead | Turn::Alone) {
            pull.leads(self.shared.written(&self.digest));
        }
        self.shared.metrics.flight_sought(outcome);
    }
}

#[async_trait]
impl Finder for Course {
    async fn find(&self, question: &Question) -> Result<Answer, FetchError> {
        let offset = first_byte(question.ranges.as_ref());
        loop {
            let granted = self.state.lock().granted.take();
            let turn = match granted {
                Some(turn) => turn,
                None => self.next(offset).await,
            };
            let (source, place) = match turn {
                Turn::Follow { source, place, .. } => (source, place),
                Turn::Lead => return Err(FetchError::Leads),
                Turn::Alone | Turn::Later => return Err(FetchError::Alone),
            };
            let question = Question {
                place: Some(place),
                ..question.clone()
            };
            match self.shared.fetcher.ask(&question, source).await {
                Ok(answer) => {
                    self.state.lock().source = Some(answer.candidate.peer.clone());
                    let grows = answer.head.headers.contains_key(FLIGHT);
                    self.grows.store(grows, Ordering::Relaxed);
                    return answer.satisfied();
                }
                Err((candidate, fault, why)) => {
                    tracing::debug!(peer = %candidate.peer, key = %question.key, error = why, "source failed");
                    self.disappointed(&candidate.peer, &question.key, fault);
                }
            }
        }
    }

    /// A source that has no place for one more, or whose own source broke, is none for this body; that is no reason to
    /// put the peer aside.
    fn disappointed(&self, peer: &PeerId, key: &Key, fault: Fault) {
        self.state.lock().failed.push(peer.clone());
        match fault {
            Fault::Failed | Fault::Wrong => self.shared.fetcher.disappointed(peer, key, fault),
            Fault::Broke => self.shared.metrics.peer_failed(fault),
            Fault::Lacking => {}
        }
    }

    /// A source is left when the whole node gets far less than it did, and that is not because the client takes no more.
    fn received(&self, offset: u64, bytes: &Bytes, waited: Duration) -> bool {
        let (now, count) = (Instant::now(), bytes.len() as u64);
        let is_low = {
            let mut rate = self.shared.rate.lock();
            rate.came(now, count, waited);
            rate.is_low(now)
        };
        let mut state = self.state.lock();
        if let Some(pull) = &state.pull {
            pull.receive(offset, bytes);
        }
        let has_waited = state.window.came(now, count, waited).is_some();
        let leaves = has_waited && is_low && state.leave(now);
        if leaves {
            tracing::debug!(digest = %self.digest, offset, peer = ?state.slow, "a source is far too slow");
            self.shared.metrics.flights_too_slow.inc();
        }
        leaves
    }

    fn patience(&self) -> Patience {
        if !self.grows.load(Ordering::Relaxed) {
            return COMPLETE;
        }
        let steps = self.steps.load(Ordering::Relaxed).min(STALL_STEPS);
        Patience {
            stall: STALL + STALL_STEP * steps,
            stall_least: STALL_LEAST + STALL_STEP * steps,
            crawl: CRAWL,
        }
    }
}
