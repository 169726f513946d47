//! What mirrors and containerd do with decisions, as far as the rules depend on it: bytes that come in steps, sources
//! that accept or refuse followers, leads that fail.

use std::collections::{BTreeMap, BTreeSet};

use flights::{
    ChainPosition, Decision, Key, NodeId, PullProgress, RequestId, SourceRequest, node_field,
    nodes_field,
};

use crate::cluster::{Cluster, id, index, link_test, wanted};

/// The bytes of one step of a source, and of an object.
const ROUND: u64 = 1;
pub const SIZE: u64 = 40;
/// The most bytes that a source may be behind a node that it precedes.
const LAG: u64 = 3 * ROUND;
/// The length of a step, in milliseconds.
pub const STEP_MILLIS: u64 = 50;
/// The steps until upstream's first byte: less than half of the assumed time, so that nothing is learned.
const FIRST_BYTE: u64 = 6;
/// The time after which a request is requeued, the first time and the second, in milliseconds.
const REQUEUE_AFTER: [u32; 2] = [200, 600];
/// The steps without a byte after which a source has failed.
const STALL: u64 = 80;
/// The steps without a byte after which a source checks whether it is part of a ring.
const STILL: u64 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Lead,
    Alone,
    Follow { source: usize, admitted: bool },
}

#[derive(Clone, Debug, Default)]
pub struct Pull {
    pub request: Option<RequestId>,
    pub repository: u64,
    pub role: Option<Role>,
    pub position: Option<ChainPosition>,
    leader: Option<NodeId>,
    /// The source that this pull left because it gave far less than others did.
    slow: Option<NodeId>,
    pub written: u64,
    pub failed: Vec<NodeId>,
    /// The steps in this role, and since the last byte.
    steps: u64,
    dry: u64,
    begun: bool,
    /// How often it was told to retry later, and whether it has yet to.
    requeued: usize,
    asks_again: bool,
    pub done: bool,
}

/// A node's wait for a decision.
#[derive(Clone, Debug)]
pub struct Wait {
    pub node: usize,
    pub object: usize,
    pub repository: u64,
    pub from: u64,
    /// When it ended, and with which decision, if any.
    pub to: Option<(u64, Option<Decision>)>,
    /// The node had joined.
    pub knew: bool,
    /// The node itself was held up meanwhile.
    pub excused: bool,
    /// The arbiter has said that upstream is slow, as two leaders have no byte.
    pub for_slow_upstream: bool,
}

/// A failed pull of a node.
#[derive(Clone, Debug)]
pub struct Failure {
    pub node: usize,
    pub repository: u64,
    pub at: u64,
    /// The process of the pull has ended. Others may remember the failure.
    pub is_past: bool,
}

pub struct Pulling {
    pub cluster: Cluster,
    pub keys: Vec<Key>,
    pub pulls: BTreeMap<(usize, usize), Pull>,
    pub waits: Vec<Wait>,
    pub failures: Vec<Failure>,
    /// The nodes that upstream refuses.
    pub denied: Vec<bool>,
    /// The steps after which upstream refuses.
    pub refusal: u64,
    /// The nodes behind which others were held up at some time.
    pub lagged: Vec<bool>,
    /// The sources that a node left because they were slow, each with the object.
    pub left: BTreeSet<(usize, usize)>,
    /// When a process was last started, and when one ended.
    pub started: Option<u64>,
    pub ended: Option<u64>,
    /// Sources check the order alone, and never look for rings.
    pub is_lenient: bool,
    /// Downloads share the slots of a node: those that wait for others to begin are retried later.
    pub requeue_after: bool,
    /// The mirrors of nodes fetch what these lead, and node 0 is the leader of the manifest.
    pub leads_at_once: bool,
    /// The number of steps for which a ring has existed.
    ring_lasts: u64,
}

impl Pulling {
    pub fn new(cluster: Cluster, objects: usize) -> Self {
        let keys = (0..objects).map(|n| Key::of(&format!("sha256:{n}")));
        Self {
            keys: keys.collect(),
            denied: vec![false; cluster.len()],
            lagged: vec![false; cluster.len()],
            left: BTreeSet::new(),
            cluster,
            pulls: BTreeMap::new(),
            waits: Vec::new(),
            failures: Vec::new(),
            refusal: FIRST_BYTE,
            started: None,
            ended: None,
            is_lenient: false,
            requeue_after: false,
            leads_at_once: false,
            ring_lasts: 0,
        }
    }

    /// Requests an object for containerd at `node`, unless the node has it or is pulling it.
    pub fn want(&mut self, node: usize, object: usize, repository: u64) {
        let is_up = self.cluster.is_up(node) && !self.cluster.is_held(node);
        if is_up && !self.pulls.contains_key(&(node, object)) {
            let pull = self.pulls.entry((node, object)).or_default();
            pull.repository = repository;
            self.request_source(node, object);
        }
    }

    fn request_source(&mut self, node: usize, object: usize) {
        let pull = self.pulls.entry((node, object)).or_default();
        pull.role = None;
        let (offset, failed, repository) = (pull.written, pull.failed.clone(), pull.repository);
        let slow = pull.slow.take();
        let requeue_after = REQUEUE_AFTER
            .get(pull.requeued)
            .filter(|_| self.requeue_after);
        let requeue_after_ms = requeue_after.copied().unwrap_or_default();
        pull.asks_again = false;
        let wanted = SourceRequest {
            repository,
            offset,
            // The latest first.
            failed_sources: nodes_field(failed.into_iter().rev()),
            slow_source: node_field(slow),
            requeue_after_ms,
            leads_at_once: self.leads_at_once,
            preferred_leader: node_field(self.leads_at_once.then(|| id(0))),
            ..wanted(self.keys[object])
        };
        let from = self.cluster.now;
        let knew = self.cluster.node(node).members().has_joined();
        let request = self.cluster.request_source_for(node, wanted);
        let pull = self.pulls.entry((node, object)).or_default();
        pull.request = Some(request);
        self.waits.push(Wait {
            node,
            object,
            repository,
            from,
            to: None,
            knew,
            excused: false,
            for_slow_upstream: false,
        });
    }

    /// Leaves a source that sends far less than it has.
    pub fn leave_slow_source(&mut self, node: usize, object: usize) {
        let is_up = self.cluster.is_up(node) && !self.cluster.is_held(node);
        let Some(pull) = self.pulls.get_mut(&(node, object)).filter(|_| is_up) else {
            return;
        };
        if let Some(Role::Follow { source, .. }) = pull.role {
            pull.slow = Some(id(source));
            self.left.insert((source, object));
            self.request_source(node, object);
        }
    }

    /// Sets whether others are held up behind a node.
    pub fn set_slow(&mut self, node: usize, is_slow: bool) {
        if self.cluster.is_up(node) && !self.cluster.is_held(node) {
            self.lagged[node] |= is_slow;
            self.cluster
                .with(node, |node, now| node.link_tested(now, link_test(is_slow)));
        }
    }

    /// Ends a pull: its pod is deleted.
    pub fn cancel(&mut self, node: usize, object: usize) {
        let Some(pull) = self.pulls.get_mut(&(node, object)) else {
            return;
        };
        if !self.cluster.is_up(node) || self.cluster.is_held(node) || pull.done {
            return;
        }
        if let Some(request) = pull.request.take() {
            self.cluster
                .with(node, |node, now| node.cancel(now, request));
            self.end_wait(node, object, None);
        } else if pull.role.is_some() {
            self.fail(node, object);
        }
        self.end(node, object);
    }

    /// Ends a pull, and those that the node fed.
    fn end(&mut self, node: usize, object: usize) {
        self.pulls.remove(&(node, object));
        for ((_, o), pull) in &mut self.pulls {
            if *o == object
                && matches!(pull.role, Some(Role::Follow { source, .. }) if source == node)
            {
                pull.dry = STALL + 1;
            }
        }
    }

    pub fn start(&mut self, node: usize, seeds: &[usize]) {
        self.kill(node);
        self.cluster.start(node, seeds);
        self.started = Some(self.cluster.now);
    }

    pub fn kill(&mut self, node: usize) {
        self.ended = Some(self.cluster.now);
        self.cluster.kill(node);
        for object in 0..self.keys.len() {
            self.end(node, object);
        }
        self.waits.retain(|wait| wait.node != node);
        let own = self.failures.iter_mut().filter(|f| f.node == node);
        own.for_each(|failure| failure.is_past = true);
    }

    fn end_wait(&mut self, node: usize, object: usize, decision: Option<Decision>) {
        let now = self.cluster.now;
        let is_it = |w: &&mut Wait| (w.node, w.object) == (node, object) && w.to.is_none();
        let wait = self.waits.iter_mut().find(is_it).expect("it waited");
        wait.to = Some((now, decision));
    }

    fn fail(&mut self, node: usize, object: usize) {
        let pull = self.pulls.get(&(node, object)).expect("it pulls");
        if matches!(pull.role, Some(Role::Lead | Role::Alone)) {
            self.failures.push(Failure {
                node,
                repository: pull.repository,
                at: self.cluster.now,
                is_past: false,
            });
        }
        self.cluster
            .report(node, self.keys[object], PullProgress::Failed);
    }

    /// Runs the next step. Returns the decisions that came.
    pub fn step(&mut self) -> Vec<(usize, usize, Decision)> {
        let mut came = Vec::new();
        for _ in 0..STEP_MILLIS {
            self.cluster.run(1);
            for (node, request, decision) in self.cluster.decisions() {
                came.extend(self.take(node, request, decision));
            }
        }
        for (node, object) in self.pulls.keys().copied().collect::<Vec<_>>() {
            if self.cluster.is_up(node) && !self.cluster.is_held(node) {
                self.go_on(node, object);
            }
        }
        for wait in self.waits.iter_mut().filter(|wait| wait.to.is_none()) {
            let request = self
                .pulls
                .get(&(wait.node, wait.object))
                .and_then(|pull| pull.request);
            let node = self.cluster.node(wait.node);
            wait.for_slow_upstream |=
                request.is_some_and(|request| node.waits_for_slow_upstream(request));
        }
        came
    }

    fn take(
        &mut self,
        n: usize,
        request: RequestId,
        decision: Decision,
    ) -> Option<(usize, usize, Decision)> {
        let is_it = |((node, _), pull): &(&(usize, usize), &mut Pull)| {
            *node == n && pull.request == Some(request)
        };
        let ((_, object), pull) = self.pulls.iter_mut().find(is_it)?;
        let object = *object;
        pull.request = None;
        (pull.steps, pull.dry) = (0, 0);
        pull.role = match &decision {
            Decision::Lead => Some(Role::Lead),
            Decision::Alone => Some(Role::Alone),
            Decision::Later => {
                assert!(self.requeue_after && pull.requeued < REQUEUE_AFTER.len());
                pull.requeued += 1;
                pull.asks_again = true;
                None
            }
            Decision::Follow {
                source,
                position,
                leader,
                ..
            } => {
                assert!(!pull.failed.contains(source), "it has failed");
                assert_ne!(index(source), n, "nobody feeds itself");
                (pull.position, pull.leader) = (Some(*position), *leader);
                let (source, admitted) = (index(source), false);
                Some(Role::Follow { source, admitted })
            }
        };
        self.end_wait(n, object, Some(decision.clone()));
        Some((n, object, decision))
    }

    fn go_on(&mut self, node: usize, object: usize) {
        let at = (node, object);
        let pull = self.pulls.get_mut(&at).expect("it pulls");
        (pull.steps, pull.dry) = (pull.steps + 1, pull.dry + 1);
        let before = pull.written;
        match pull.role {
            None if pull.asks_again => return self.request_source(node, object),
            None => return,
            Some(Role::Lead | Role::Alone) if self.denied[node] => {
                if pull.steps >= self.refusal {
                    self.fail(node, object);
                    self.end(node, object);
                }
                return;
            }
            Some(Role::Lead | Role::Alone) => {
                if pull.steps >= FIRST_BYTE {
                    pull.written += 2 * ROUND;
                }
            }
            Some(Role::Follow { source, admitted }) => {
                let admits = self.admits(node, object, source);
                let pull = self.pulls.get(&at).expect("it pulls");
                let may = admits || (admitted && (self.is_lenient || pull.dry <= STILL));
                if !may || !self.cluster.reaches(node, source) || pull.dry > STALL {
                    let pull = self.pulls.get_mut(&at).expect("it pulls");
                    pull.failed.push(id(source));
                    return self.request_source(node, object);
                }
                let ahead = self.pulls.get(&(source, object));
                let ahead = ahead.map_or(0, |ahead| ahead.written);
                let pull = self.pulls.get_mut(&at).expect("it pulls");
                let admitted = true;
                pull.role = Some(Role::Follow { source, admitted });
                pull.written = (pull.written + 2 * ROUND).min(ahead).max(pull.written);
            }
        }
        let pull = self.pulls.get_mut(&at).expect("it pulls");
        let key = self.keys[object];
        if pull.written > before {
            pull.dry = 0;
            if !pull.begun {
                pull.begun = true;
                self.cluster
                    .report(node, key, PullProgress::Begun { size: SIZE });
            }
        }
        let pull = self.pulls.get_mut(&at).expect("it pulls");
        if pull.written >= SIZE {
            (pull.role, pull.done) = (None, true);
            self.cluster.report(node, key, PullProgress::Done);
            self.cluster.with(node, |node, now| node.hold(now, &[key]));
        }
    }

    /// Whether a source accepts a node as its child, as [`flights::pull_rules::Role::serves`] has it: the source has
    /// all, or leads, or has more bytes, or precedes it in the order and is at most [`LAG`] behind. A lenient source
    /// accepts any node after it, whatever its bytes.
    fn admits(&self, node: usize, object: usize, source: usize) -> bool {
        let Some(above) = self.pulls.get(&(source, object)) else {
            return false;
        };
        let pull = &self.pulls[&(node, object)];
        let is_before = above
            .position
            .zip(pull.position)
            .is_some_and(|(above, own)| above.is_before(&own));
        let leads = matches!(above.role, Some(Role::Lead | Role::Alone));
        above.done
            || leads
            || above.written > pull.written
            || (is_before && (self.is_lenient || above.written + LAG >= pull.written))
    }

    /// A ring of nodes that feed each other, and have had time to look for it.
    pub fn lasting_ring(&mut self) -> Option<Vec<usize>> {
        let ring = self.ring();
        let is_held = |ring: &Vec<usize>| ring.iter().any(|node| self.cluster.is_held(*node));
        self.ring_lasts = match &ring {
            Some(ring) if !is_held(ring) => self.ring_lasts + 1,
            _ => 0,
        };
        // The one that precedes may first receive what the other one is ahead.
        let time = if self.is_lenient { 0 } else { STILL + 1 + LAG };
        ring.filter(|_| self.ring_lasts > time)
    }

    fn ring(&self) -> Option<Vec<usize>> {
        let feeds = |node: usize, object: usize| match self.pulls.get(&(node, object))?.role {
            Some(Role::Follow { source, admitted }) if admitted => Some(source),
            _ => None,
        };
        for (node, object) in self.pulls.keys() {
            let mut path = vec![*node];
            let mut at = *node;
            while let Some(above) = feeds(at, *object) {
                if above == *node {
                    return Some(path);
                }
                if path.contains(&above) {
                    break;
                }
                path.push(above);
                at = above;
            }
        }
        None
    }

    /// The nodes that lead an object.
    pub fn leads(&self, object: usize) -> Vec<usize> {
        let of = self
            .pulls
            .iter()
            .filter(|((_, o), pull)| *o == object && pull.role == Some(Role::Lead));
        of.map(|((node, _), _)| *node).collect()
    }
}
