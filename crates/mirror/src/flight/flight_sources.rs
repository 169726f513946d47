//! Provides the sources of one body: those that the flight names, one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use oci::{Digest, Key};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::pulls::{Pull, Sharing};
use super::shared::Shared;
use super::watcher::watch;
use crate::fetch::{Answer, FetchError, Question};
use crate::flights::now;
use crate::flights::pull_rules::{BusySources, MAX_FAILED_SOURCES};
use crate::open_range::first_byte;
use crate::peers::Fault;
use crate::request::follower::Follower;
use crate::request::{FLIGHT, Target};
use crate::source_provider::SourceProvider;
use crate::trace::SpanKind;
use crate::waiting_budget::{GRACE, Wait};
use crate::{
    Candidate, ChainPosition, Decided, Decision, NodeId, PeerId, SourceRequest, SourceStatus,
    Starved, node_field, nodes_field,
};

/// The limit of a request for a source. containerd from 2.3 waits 30 s for the head of an answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(24);

/// The sources of one body.
pub struct FlightSources {
    shared: Arc<Shared>,
    target: Target,
    digest: Digest,
    /// Whether other nodes may have a pull that begins now.
    sharing: Sharing,
    /// Whether the last source was still receiving the object.
    grows: AtomicBool,
    /// Whether a source has sent a byte.
    has_bytes: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// A decision that is not used yet.
    granted: Option<Decision<Candidate>>,
    requests: u32,
    failed: Vec<PeerId>,
    busy: BusySources,
    /// The pull that is being watched.
    pull: Option<Arc<Pull>>,
    leader: Option<NodeId>,
    /// This node's position after the last source.
    position: Option<ChainPosition>,
}

impl FlightSources {
    pub fn new(shared: Arc<Shared>, target: Target, digest: Digest, sharing: Sharing) -> Self {
        let key = Key::Digest(digest.clone());
        let excluded = shared.fetcher.peers.excluded(&key, Instant::now());
        Self {
            shared,
            target,
            digest,
            sharing,
            grows: AtomicBool::new(false),
            has_bytes: AtomicBool::new(false),
            state: Mutex::new(State {
                failed: excluded,
                ..State::default()
            }),
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
        // A pull without new bytes may no longer be watched: it starts again.
        let pull = watch(&self.shared, &self.target, &self.digest, self.sharing);
        let Some(pull) = pull else {
            return Decision::Alone;
        };
        let slow_source = pull.slow_sources.lock().take(now());
        let asking = self.request_source(&pull, offset, requeue_after, slow_source);
        let decision = timeout(REQUEST_LIMIT, asking).await;
        let decision = decision.unwrap_or(Decision::Alone);
        if matches!(decision, Decision::Later) {
            pull.slow_sources.lock().put_back(slow_source);
        }
        // It may have ended meanwhile, and then nothing would report that this node leads.
        let pull = watch(&self.shared, &self.target, &self.digest, self.sharing).unwrap_or(pull);
        self.state.lock().pull = Some(pull.clone());
        self.take(&decision, &pull);
        decision
    }

    async fn request_source(
        &self,
        pull: &Arc<Pull>,
        offset: u64,
        requeue_after: Option<Duration>,
        slow_source: Option<NodeId>,
    ) -> Decision<Candidate> {
        let shared = &self.shared;
        let object_info = shared.object_info(&self.target, &self.digest);
        let (failed, busy) = {
            let mut state = self.state.lock();
            if state.requests > 0 {
                shared.metrics.flights_source_changes.inc();
            }
            state.requests += 1;
            state.pull = Some(pull.clone());
            (state.failed.clone(), state.busy.clone())
        };
        if failed.len() >= MAX_FAILED_SOURCES {
            return Decision::Alone;
        }
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
            busy_sources: nodes_field(busy.iter()),
            slow_source: node_field(slow_source),
            leads_at_once: self.target.pull.leads_at_once,
            ..SourceRequest::new(self.digest.as_str(), names)
        };
        let asked = Instant::now();
        let budget = self.target.pull.attempts.as_ref().map(|a| a.budget());
        let lost = budget.map_or(Duration::ZERO, |budget| budget.take_unreported());
        if !lost.is_zero() {
            shared.flights.charge(request.repository, lost);
        }
        // Charged here only if there is no answer: flights know what waiting for one costs.
        let wait = self.wait();
        let trace = &self.target.pull.trace;
        let mut span = trace.span("lookup", SpanKind::Internal);
        let Decided { decision, lost } = shared.flights.request_source(request).await;
        if let Some(wait) = wait {
            wait.found(Duration::MAX);
        }
        span.set("peili.decision", || decision_name(&decision).to_owned());
        span.end();
        if let Some(budget) = budget {
            budget.set_known_to_flights(lost);
        }
        shared
            .metrics
            .flights_decision_seconds
            .observe(asked.elapsed().as_secs_f64());
        match decision {
            Decision::Follow { source, .. } if failed.contains(&source.peer) => Decision::Alone,
            decision => decision,
        }
    }

    /// Begins a wait that is charged to the pull if no source is found.
    fn wait(&self) -> Option<Wait> {
        let attempts = self.target.pull.attempts.as_ref()?;
        Some(attempts.budget().wait())
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
        let name = decision_name(decision);
        if let Decision::Follow {
            position, leader, ..
        } = decision
        {
            pull.set_following(*position);
            let mut state = self.state.lock();
            (state.leader, state.position) = (*leader, Some(*position));
        }
        tracing::debug!(digest = %self.digest, decision = name, "decided where to pull from");
        if matches!(decision, Decision::Lead | Decision::Alone) {
            pull.set_leading();
        }
        self.shared.metrics.count_decision(name);
    }
}

/// A decision, for the log, the metrics and traces.
fn decision_name(decision: &Decision<Candidate>) -> &'static str {
    match decision {
        Decision::Follow { .. } => "follow",
        Decision::Lead => "lead",
        Decision::Alone => "alone",
        Decision::Later => "later",
    }
}

#[async_trait]
impl SourceProvider for FlightSources {
    async fn find(&self, question: &Question) -> Result<Answer, FetchError> {
        let offset = first_byte(question.ranges.as_ref());
        loop {
            let granted = self.state.lock().granted.take();
            let decision = match granted {
                Some(decision) => decision,
                // Without a byte, the answer has no head yet.
                None => {
                    let has_bytes = self.has_bytes.load(Ordering::Relaxed);
                    let end_after = self.shared.end_after().filter(|_| has_bytes);
                    self.next(offset, end_after).await
                }
            };
            let (source, position) = match decision {
                Decision::Follow {
                    source, position, ..
                } => (source, position),
                Decision::Lead => return Err(FetchError::Leads),
                Decision::Alone => return Err(FetchError::Alone),
                Decision::Later => return Err(FetchError::Later),
            };
            let node = source.peer.node();
            let uploads_below = node.and_then(|node| self.state.lock().busy.uploads_below(&node));
            let question = Question {
                follower: Some(Follower {
                    position,
                    uploads_below,
                }),
                ..question.clone()
            };
            let wait = self.wait();
            match self.shared.fetcher.ask(&question, source).await {
                Ok(answer) => {
                    if let Some(wait) = wait {
                        wait.found(GRACE);
                    }
                    let grows = answer.head.headers.contains_key(FLIGHT);
                    self.grows.store(grows, Ordering::Relaxed);
                    return answer.satisfied();
                }
                Err((_, Fault::Busy, _)) if let (Some(node), Some(_)) = (node, uploads_below) => {
                    self.state.lock().busy.add(node);
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
            Fault::Lacking | Fault::Busy => {}
        }
    }

    fn received(&self, offset: u64, bytes: &Bytes) {
        self.has_bytes.store(true, Ordering::Relaxed);
        if let Some(pull) = &self.state.lock().pull {
            pull.receive(offset, bytes);
        }
        self.shared.speed.received(None, bytes.len() as u64);
    }

    fn starved(&self) -> Option<Starved> {
        self.shared.speed.link.borrow().starved()
    }

    async fn status(&self, question: &Question, source: &Candidate) -> SourceStatus {
        let position = self.state.lock().position;
        let question = Question {
            follower: position.map(|position| Follower {
                position,
                uploads_below: None,
            }),
            ..question.clone()
        };
        self.shared.fetcher.status(&question, source).await
    }

    fn leave_slow(&self, source: &PeerId) -> bool {
        let state = self.state.lock();
        let pull = state.pull.as_ref();
        let left = pull.zip(source.node()).is_some_and(|(pull, source)| {
            let mut slow_sources = pull.slow_sources.lock();
            slow_sources.leave(now(), source)
        });
        if left {
            tracing::debug!(digest = %self.digest, %source, "a source is far too slow");
            self.shared.metrics.flights_slow_sources_left.inc();
        }
        left
    }

    fn grows(&self) -> bool {
        self.grows.load(Ordering::Relaxed)
    }
}
