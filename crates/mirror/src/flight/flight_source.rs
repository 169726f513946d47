//! Provides the sources of one body: those that the flight names, one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use oci::{Digest, Key};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::Shared;
use super::follower_lag::SMALL_LAG;
use super::pulls::{Pull, Sharing};
use super::range::first_byte;
use super::slow_source::{SlowLeader, SlowSourceReport};
use super::throughput_baseline::{Path, Window};
use crate::fetch::{Answer, FetchError, Question};
use crate::peers::Fault;
use crate::request::{FLIGHT, Target};
use crate::source_provider::{COMPLETE, SourceProvider, StallLimits};
use crate::{Candidate, Decision, NodeId, PeerId, SourceRequest, node_field, nodes_field};

/// The limit of a request for a source. containerd from 2.3 waits 30 s for the head of an answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// The most sources that may fail one body.
const MAX_FAILED: usize = 16;
/// A source that is still receiving the object has failed after this time without a byte. Its bytes arrive in steps of
/// 1 MiB.
const STALL: Duration = Duration::from_secs(10);
/// The least such time, if the source's steps have been quicker.
const STALL_LEAST: Duration = Duration::from_secs(4);
/// The time added for each node that the bytes pass, up to [`STALL_STEPS`]: if the first node of a chain stalls, the
/// second one leaves it, and those after it stay.
const STALL_STEP: Duration = Duration::from_millis(500);
const STALL_STEPS: u32 = 20;
/// See [`StallLimits::crawl`].
const CRAWL: Duration = Duration::from_secs(20);

/// The sources of one body.
pub struct FlightSource {
    shared: Arc<Shared>,
    target: Target,
    digest: Digest,
    /// Applies to a pull that begins.
    sharing: Sharing,
    /// The number of nodes that the bytes pass.
    steps: AtomicU32,
    /// Whether the last source was still receiving the object.
    grows: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// A decision that was made and not used yet.
    granted: Option<Decision<Candidate>>,
    requests: u32,
    failed: Vec<PeerId>,
    /// The pull as it is watched now.
    pull: Option<Arc<Pull>>,
    leader: Option<NodeId>,
    /// The last source found.
    source: Option<NodeId>,
    /// What this source has sent lately.
    window: Window,
    /// The body must end, because a slow source was left. A request that waits here for the second leader would block
    /// the slot of what this node leads itself.
    must_end: bool,
}

impl FlightSource {
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

    /// Sets a decision to use without another request.
    pub fn grant(&self, decision: Decision<Candidate>) {
        self.state.lock().granted = Some(decision);
    }

    /// The node that pulled the object from upstream, as far as the last source knew.
    pub fn leader(&self) -> Option<NodeId> {
        self.state.lock().leader
    }

    /// Requests the source to follow from `offset` on. If none is better than a slow one, that one is used.
    pub async fn next(&self, offset: u64, requeue_after: Option<Duration>) -> Decision<Candidate> {
        // A pull whose bytes stopped may no longer be watched: it starts again.
        let pull = self.shared.watch(&self.target, &self.digest, self.sharing);
        let Some(pull) = pull else {
            return Decision::Alone;
        };
        let asking = timeout(REQUEST_LIMIT, self.ask(&pull, offset, requeue_after));
        let decision = asking.await.unwrap_or(Decision::Alone);
        self.take(&decision, &pull);
        decision
    }

    /// Requests a source, and reports a source that was too slow.
    async fn ask(
        &self,
        pull: &Arc<Pull>,
        offset: u64,
        requeue_after: Option<Duration>,
    ) -> Decision<Candidate> {
        let report = pull.slow_sources.lock().take(Instant::now());
        let (slow, mut slow_leader) = match report.clone() {
            Some(SlowSourceReport { source, leader }) => (Some(source), leader),
            None => (None, None),
        };
        let mut decision = tokio::select! {
            biased;
            lead = self.slow_leader(), if slow.is_none() => {
                slow_leader = Some(lead);
                self.request_source(pull, offset, requeue_after, (None, slow_leader)).await
            }
            decision = self.request_source(pull, offset, requeue_after, (slow, slow_leader)) => decision,
        };
        if slow_leader.is_some() && matches!(decision, Decision::Alone) {
            decision = self
                .request_source(pull, offset, requeue_after, (None, None))
                .await;
        }
        if matches!(decision, Decision::Later) {
            pull.slow_sources.lock().put_back(report);
        }
        decision
    }

    /// Waits until the leader of another object of this repository is found far too slow: it would be as slow here.
    async fn slow_leader(&self) -> NodeId {
        let origin = self.target.origin.as_ref();
        let size = self.shared.object_info(&self.digest).size;
        let mut found = self.shared.slow_leader.subscribe();
        if let Some(origin) = origin.filter(|_| size.is_some_and(|size| size > SMALL_LAG)) {
            let holds = |slow: &Option<SlowLeader>| {
                slow.as_ref().is_some_and(|slow| slow.holds_for(origin))
            };
            if let Ok(slow) = found.wait_for(holds).await
                && let Some(slow) = &*slow
            {
                return slow.leader;
            }
        }
        std::future::pending().await
    }

    async fn request_source(
        &self,
        pull: &Arc<Pull>,
        offset: u64,
        requeue_after: Option<Duration>,
        (slow, slow_leader): (Option<NodeId>, Option<NodeId>),
    ) -> Decision<Candidate> {
        let shared = &self.shared;
        let object_info = shared.object_info(&self.digest);
        let failed = {
            let mut state = self.state.lock();
            if state.requests > 0 {
                shared.metrics.flights_moves.inc();
            }
            state.requests += 1;
            state.pull = Some(pull.clone());
            state.failed.clone()
        };
        let has_failed = |peer: &PeerId| failed.contains(peer);
        let origin = self.target.origin.as_ref();
        let names = origin.map(|origin| (origin.registry.as_str(), origin.to_string()));
        let names = names
            .as_ref()
            .map(|(registry, full)| (*registry, full.as_str()));
        let millis = requeue_after.map_or(0, |wait| wait.as_millis().max(1));
        let request = SourceRequest {
            size: object_info.size,
            concurrent_objects: object_info.streams.into(),
            preferred_leader: node_field(object_info.leader),
            offset,
            requeue_after_ms: u32::try_from(millis).unwrap_or(u32::MAX),
            failed_sources: nodes_field(self.unusable_sources(&failed)),
            slow_source: node_field(slow),
            slow_leader: node_field(slow_leader),
            ..SourceRequest::new(self.digest.as_str(), names)
        };
        let asked = Instant::now();
        let decision = if failed.len() < MAX_FAILED {
            shared.flights.request_source(request).await
        } else {
            Decision::Alone
        };
        let decision = match decision {
            Decision::Follow { source, .. } if has_failed(&source.peer) => Decision::Alone,
            decision => decision,
        };
        shared
            .metrics
            .flights_seek_seconds
            .observe(asked.elapsed().as_secs_f64());
        decision
    }

    /// Nodes that are no source for this body, latest first: those that failed it, then those in back-off.
    fn unusable_sources(&self, failed: &[PeerId]) -> impl Iterator<Item = NodeId> {
        let mut unusable: Vec<_> = failed.iter().rev().cloned().collect();
        let mut backed_off = self.shared.fetcher.peers.backed_off(Instant::now());
        backed_off.retain(|peer| !failed.contains(peer));
        unusable.extend(backed_off.into_iter().rev());
        unusable.into_iter().filter_map(|peer| peer.node())
    }

    fn take(&self, decision: &Decision<Candidate>, pull: &Pull) {
        let outcome = match decision {
            Decision::Follow {
                position,
                leader,
                led_for,
                ..
            } => {
                pull.follows(*position);
                self.steps.store(position.hops(), Ordering::Relaxed);
                let registry = pull.origin.as_ref().map(|origin| &origin.registry);
                pull.slow_sources.lock().follows(*led_for, registry);
                self.state.lock().leader = *leader;
                "follow"
            }
            Decision::Lead => "lead",
            Decision::Alone => "alone",
            Decision::Later => "later",
        };
        if matches!(decision, Decision::Lead | Decision::Alone) {
            pull.leads(self.shared.written(&self.digest));
        }
        self.shared.metrics.flight_sought(outcome);
    }
}

#[async_trait]
impl SourceProvider for FlightSource {
    async fn find(&self, question: &Question) -> Result<Answer, FetchError> {
        let offset = first_byte(question.ranges.as_ref());
        loop {
            let granted = self.state.lock().granted.take();
            let decision = match granted {
                Some(decision) => decision,
                None if self.state.lock().must_end => return Err(FetchError::Later),
                None => self.next(offset, None).await,
            };
            let (source, position) = match decision {
                Decision::Follow {
                    source, position, ..
                } => (source, position),
                Decision::Lead => return Err(FetchError::Leads),
                Decision::Alone | Decision::Later => return Err(FetchError::Alone),
            };
            let question = Question {
                position: Some(position),
                ..question.clone()
            };
            match self.shared.fetcher.ask(&question, source).await {
                Ok(answer) => {
                    let mut state = self.state.lock();
                    state.source = answer.candidate.peer.node();
                    state.window = Window::default();
                    drop(state);
                    let grows = answer.head.headers.contains_key(FLIGHT);
                    self.grows.store(grows, Ordering::Relaxed);
                    return answer.satisfied();
                }
                Err((candidate, fault, why)) => {
                    tracing::debug!(peer = %candidate.peer, key = %question.key, error = why, "source failed");
                    self.report_fault(&candidate.peer, &question.key, fault);
                }
            }
        }
    }

    /// Excludes a source for this body. A source without a free upload, or whose own source failed, is not backed off
    /// for other bodies.
    fn report_fault(&self, peer: &PeerId, key: &Key, fault: Fault) {
        self.state.lock().failed.push(peer.clone());
        match fault {
            Fault::Failed | Fault::Wrong => self.shared.fetcher.report_fault(peer, key, fault),
            Fault::Broke => self.shared.metrics.peer_failed(fault),
            Fault::Lacking => {}
        }
    }

    /// Leaves a source that sends far less than usual, unless the client is the reason.
    fn received(&self, offset: u64, bytes: &Bytes, waited: Duration) -> bool {
        let (shared, mut state) = (&self.shared, self.state.lock());
        let State {
            pull: Some(pull),
            source: Some(source),
            leader,
            window,
            must_end,
            ..
        } = &mut *state
        else {
            return false;
        };
        pull.receive(offset, bytes);
        let mut slow_sources = pull.slow_sources.lock();
        let path = slow_sources.path().map(|path| (path, window));
        if !shared.received(path, bytes.len() as u64, waited) {
            return false;
        }
        // A slow node cannot tell whether the leader is to blame.
        let is_led = slow_sources.path() != Some(&Path::Peers) && !shared.is_slow();
        let leader = leader.filter(|_| is_led);
        let (source, at) = (*source, Instant::now());
        let report = SlowSourceReport { source, leader };
        if !slow_sources.leave(at, report) {
            return false;
        }
        tracing::debug!(digest = %self.digest, offset, ?leader, "a source is far too slow");
        shared.metrics.flights_too_slow.inc();
        shared.clear_slow();
        if let (Some(leader), Some(origin)) = (leader, pull.origin.clone()) {
            *must_end = shared.store.downloads_share_slots();
            let found = SlowLeader { leader, origin, at };
            shared.slow_leader.send_replace(Some(found));
        }
        true
    }

    fn stall_limits(&self) -> StallLimits {
        if !self.grows.load(Ordering::Relaxed) {
            return COMPLETE;
        }
        let steps = self.steps.load(Ordering::Relaxed).min(STALL_STEPS);
        StallLimits {
            stall: STALL + STALL_STEP * steps,
            stall_least: STALL_LEAST + STALL_STEP * steps,
            crawl: CRAWL,
        }
    }
}
