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
use super::complaint::{Complaint, SlowLead};
use super::lag::CLOSE;
use super::pulls::{Pull, Sharing};
use super::range::first_byte;
use super::usual::{Way, Window};
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
    /// What comes of this source.
    window: Window,
    /// The body is to end, as a slow source was left: requests that wait here for whoever is to lead as well would keep the
    /// node's queue from what this node leads itself.
    gives_way: bool,
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

    /// Asks whom to follow from `offset` on. Where there is none that is better than a slow one, that one will do.
    pub async fn next(&self, offset: u64, yields: Option<Duration>) -> Turn {
        // A pull whose bytes stopped may be watched no longer, and it begins anew.
        let pull = self.shared.watch(&self.target, &self.digest, self.sharing);
        let Some(pull) = pull else {
            return Turn::Alone;
        };
        let asking = timeout(SEEK_LIMIT, self.ask(&pull, offset, yields));
        let turn = asking.await.unwrap_or(Turn::Alone);
        self.take(&turn, &pull);
        turn
    }

    /// Asks, and says who is to blame if too little came.
    async fn ask(&self, pull: &Arc<Pull>, offset: u64, yields: Option<Duration>) -> Turn {
        let complaint = pull.complaints.lock().take(Instant::now());
        let (slow, mut slow_lead) = match complaint.clone() {
            Some(Complaint { source, leader }) => (Some(source), leader),
            None => (None, None),
        };
        let mut turn = tokio::select! {
            biased;
            lead = self.slow_lead(), if slow.is_none() => {
                slow_lead = Some(lead);
                self.seek(pull, offset, yields, (None, slow_lead.clone())).await
            }
            turn = self.seek(pull, offset, yields, (slow.clone(), slow_lead.clone())) => turn,
        };
        if slow_lead.is_some() && matches!(turn, Turn::Alone) {
            turn = self.seek(pull, offset, yields, (None, None)).await;
        }
        if matches!(turn, Turn::Later) {
            pull.complaints.lock().put_back(complaint);
        }
        turn
    }

    /// Waits until who leads others of its repository is found far too slow: this would be as slow.
    async fn slow_lead(&self) -> PeerId {
        let origin = self.target.origin.as_ref();
        let size = self.shared.about(&self.digest).size;
        let mut found = self.shared.slow_lead.subscribe();
        if let Some(origin) = origin.filter(|_| size.is_some_and(|size| size > CLOSE)) {
            let holds =
                |slow: &Option<SlowLead>| slow.as_ref().is_some_and(|slow| slow.holds_for(origin));
            if let Ok(slow) = found.wait_for(holds).await
                && let Some(slow) = &*slow
            {
                return slow.leader.clone();
            }
        }
        std::future::pending().await
    }

    async fn seek(
        &self,
        pull: &Arc<Pull>,
        offset: u64,
        yields: Option<Duration>,
        (slow, slow_lead): (Option<PeerId>, Option<PeerId>),
    ) -> Turn {
        let shared = &self.shared;
        let about = shared.about(&self.digest);
        let failed = {
            let mut state = self.state.lock();
            if state.seeks > 0 {
                shared.metrics.flights_moves.inc();
            }
            state.seeks += 1;
            state.pull = Some(pull.clone());
            state.failed.clone()
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
            failed: self.useless(&failed),
            slow,
            slow_lead,
        };
        let asked = Instant::now();
        let turn = if failed.len() < MOST_FAILED {
            shared.flights.seek(seek).await
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
        turn
    }

    /// Sources that are none: those that failed this body, and whoever is put aside for failing another body.
    fn useless(&self, failed: &[PeerId]) -> Vec<PeerId> {
        let mut useless = self.shared.fetcher.peers.aside(Instant::now());
        useless.retain(|peer| !failed.contains(peer));
        useless.extend_from_slice(failed);
        useless
    }

    fn take(&self, turn: &Turn, pull: &Pull) {
        let outcome = match turn {
            Turn::Follow {
                place,
                leader,
                led_for,
                ..
            } => {
                pull.follows(*place);
                self.steps.store(place.steps(), Ordering::Relaxed);
                let registry = pull.origin.as_ref().map(|origin| &origin.registry);
                pull.complaints.lock().follows(*led_for, registry);
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
                None if self.state.lock().gives_way => return Err(FetchError::Later),
                None => self.next(offset, None).await,
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
                    let mut state = self.state.lock();
                    state.source = Some(answer.candidate.peer.clone());
                    state.window = Window::default();
                    drop(state);
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

    /// A source is left when far less comes than usual, and that is not because the client takes no more.
    fn received(&self, offset: u64, bytes: &Bytes, waited: Duration) -> bool {
        let (shared, mut state) = (&self.shared, self.state.lock());
        let State {
            pull: Some(pull),
            source: Some(source),
            leader,
            window,
            gives_way,
            ..
        } = &mut *state
        else {
            return false;
        };
        pull.receive(offset, bytes);
        let mut complaints = pull.complaints.lock();
        let way = complaints.way().map(|way| (way, window));
        if !shared.came(way, bytes.len() as u64, waited) {
            return false;
        }
        // Who holds others up itself does not know whether the lead is to blame.
        let is_led = complaints.way() != Some(&Way::Peers) && !shared.is_slow();
        let leader = leader.clone().filter(|_| is_led);
        let (source, at) = (source.clone(), Instant::now());
        let complaint = Complaint {
            source,
            leader: leader.clone(),
        };
        if !complaints.leave(at, complaint) {
            return false;
        }
        tracing::debug!(digest = %self.digest, offset, ?leader, "a source is far too slow");
        shared.metrics.flights_too_slow.inc();
        shared.is_able();
        if let (Some(leader), Some(origin)) = (leader, pull.origin.clone()) {
            *gives_way = shared.store.downloads_share_slots();
            let found = SlowLead { leader, origin, at };
            shared.slow_lead.send_replace(Some(found));
        }
        true
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
