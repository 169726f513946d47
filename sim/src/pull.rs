//! What the mirror of a node does to pull an object.

use flights::pull_rules::{
    BusySources, EVICTED_FOR, GONE_LIMIT, MAX_FAILED_SOURCES, MAX_UPLOADS, QUEUED_AFTER, Role,
    SMALL_OBJECT, SOURCE_ANSWER_LIMIT,
};
use flights::{
    ChainPosition, Decision, NodeId, PullProgress, RequestId, SourceRequest, node_field,
    nodes_field,
};

use crate::event::{Attempt, Event};
use crate::setup::{Containerd, MILLI, Micros, Mode, SECOND, micros};
use crate::state_machine::{id, number};
use crate::world::{Phase, Pull, World};

/// Objects up to this size, in bytes, cross a link in no time.
pub const SMALL: u64 = 64 * 1024;
/// The interval between requests to a source that has no decision yet.
const AGAIN: Micros = 5 * MILLI;
/// The time after which the kubelet retries a failed pull.
const BACK_OFF: Micros = 10 * SECOND;

impl World {
    pub fn request_source(&mut self, node: u32, object: u32) {
        let about = &self.setup.objects[object as usize];
        let manifest = self.setup.images[about.image as usize].first;
        let is_manifest = object == manifest;
        let pull = self.pull(node, object);
        if pull.failed.len() >= MAX_FAILED_SOURCES {
            self.counts.alone += 1;
            return self.go_upstream(node, object);
        }
        if self.waits_for_lower_layers(node, object) {
            let pull = self.attempt(node, object);
            return self.push(self.now + micros(QUEUED_AFTER), Event::Requeue { pull });
        }
        let leader = self.pull(node, manifest).leader;
        let leader = leader.filter(|leader| !is_manifest && number(leader) != node);
        let requeue_after = self.requeue_after(node, object).unwrap_or_default();
        let now = self.time();
        let slow_source = self.pull_mut(node, object).slow_sources.take(now);
        let (pull, about) = (
            self.pull(node, object),
            &self.setup.objects[object as usize],
        );
        let wanted = SourceRequest {
            repository: u64::from(about.image),
            registry: crate::speed::REGISTRY,
            size: Some(about.size).filter(|_| !is_manifest),
            concurrent_objects: about.concurrent_objects.into(),
            preferred_leader: node_field(leader),
            offset: pull.got,
            // The latest first.
            failed_sources: nodes_field(pull.failed.iter().rev().copied()),
            slow_source: node_field(slow_source),
            busy_sources: nodes_field(pull.busy.iter()),
            requeue_after_ms: requeue_after.as_millis() as u32,
            leads_at_once: self.leads_at_once(),
            ..SourceRequest::of_key(about.key)
        };
        let pull = self.pull_mut(node, object);
        pull.phase = Phase::Requesting;
        let request = self.drive(node, |machine, now, dir| {
            machine.request_source(now, wanted, dir)
        });
        if let Some(request) = request {
            self.members[node as usize].requests.push((request, object));
        }
    }

    pub fn decision(&mut self, node: u32, request: RequestId, decision: &Decision) {
        let requests = &mut self.members[node as usize].requests;
        let Some(index) = requests.iter().position(|(id, _)| *id == request) else {
            return;
        };
        let (_, object) = requests.swap_remove(index);
        match decision {
            Decision::Follow {
                source,
                position,
                leader,
                ..
            } => {
                self.pull_mut(node, object).leader = *leader;
                self.follow(node, object, number(source), *position);
            }
            Decision::Lead => {
                self.counts.leads += 1;
                self.go_upstream(node, object);
            }
            Decision::Alone => {
                self.counts.alone += 1;
                self.go_upstream(node, object);
            }
            Decision::Later => self.end_empty(node, object),
        }
    }

    fn attempt(&mut self, node: u32, object: u32) -> Attempt {
        let pull = self.pull_mut(node, object);
        pull.phase = Phase::Asking;
        pull.attempt += 1;
        let number = pull.attempt;
        Attempt {
            node,
            object,
            number,
        }
    }

    pub fn is_current(&self, attempt: Attempt) -> bool {
        self.members[attempt.node as usize].alive
            && self.pull(attempt.node, attempt.object).attempt == attempt.number
    }

    fn follow(&mut self, node: u32, object: u32, source: u32, position: ChainPosition) {
        let it = self.pull_mut(node, object);
        (it.role, it.source) = (Role::Follows(position), source);
        let pull = self.attempt(node, object);
        if !self.members[source as usize].alive || self.is_cut(node, source) {
            return self.push(
                self.now + micros(SOURCE_ANSWER_LIMIT),
                Event::SourceFailed { pull },
            );
        }
        // One round trip connects, half of another carries the request.
        let at = self.handshake(node, source) + self.round_trip(node, source) * 3 / 2;
        self.push(at, Event::Asked { pull });
    }

    /// Handles a request at its source.
    pub fn asked(&mut self, pull: Attempt) {
        let Attempt { node, object, .. } = pull;
        let &Pull { role, source, .. } = self.pull(node, object);
        let Role::Follows(position) = role else {
            return;
        };
        if !self.is_current(pull) {
            return;
        }
        let back = self.now + self.round_trip(node, source) / 2;
        if !self.members[source as usize].alive || self.is_cut(node, source) {
            return self.push(
                self.now + micros(SOURCE_ANSWER_LIMIT),
                Event::SourceFailed { pull },
            );
        }
        let own = self.pull(source, object);
        let is_done = own.phase == Phase::Done;
        let (have, got) = (self.visible(source, object), self.pull(node, object).got);
        let has_more = have > got;
        let serves = own.phase != Phase::Absent && own.role.serves(have, got, &position);
        if own.phase == Phase::Requesting && !has_more {
            return self.push(self.now + AGAIN, Event::Asked { pull });
        }
        let is_evicted = own
            .evicted
            .is_some_and(|at| self.now - at < micros(EVICTED_FOR));
        let may = is_done || (!is_evicted && serves);
        let uploads = self.members[source as usize].uploads;
        let is_large = self.setup.objects[object as usize].size > SMALL_OBJECT;
        let busy = &self.pull(node, object).busy;
        let below = busy.uploads_below(&id(source, self.setup.seed));
        let below = below.filter(|_| is_done && is_large && self.setup.mode == Mode::Peili);
        if !may || uploads >= MAX_UPLOADS {
            self.counts.refused += 1;
            self.push(back, Event::SourceFailed { pull });
        } else if below.is_some_and(|below| uploads >= below) {
            self.push(back, Event::SourceBusy { pull });
        } else if self.setup.objects[object as usize].size > SMALL {
            self.start_flow(node, object, source);
        } else if is_done {
            self.push(back, Event::Completed { pull });
        } else {
            self.waiters.entry((source, object)).or_default().push(pull);
            self.push(self.now + 3 * SECOND, Event::SourceFailed { pull });
        }
    }

    /// Requests another source.
    pub fn source_failed(&mut self, pull: Attempt) {
        let Attempt { node, object, .. } = pull;
        if !self.is_current(pull) || self.pull(node, object).phase == Phase::Done {
            return;
        }
        self.drop_flow(node, object);
        let seed = self.setup.seed;
        let it = self.pull_mut(node, object);
        it.attempt += 1;
        if let Role::Follows(_) = it.role {
            it.failed.push(id(it.source, seed));
        }
        match self.setup.mode {
            Mode::Peili => self.request_source(node, object),
            Mode::Spegel | Mode::Alone => self.looked_up(node, object),
        }
    }

    /// Requests another source than one that is busy.
    pub fn source_busy(&mut self, pull: Attempt) {
        let Attempt { node, object, .. } = pull;
        if !self.is_current(pull) || self.pull(node, object).phase == Phase::Done {
            return;
        }
        let seed = self.setup.seed;
        let it = self.pull_mut(node, object);
        it.attempt += 1;
        it.busy.add(id(it.source, seed));
        self.request_source(node, object);
    }

    /// Leaves a slow source and continues with another one.
    pub fn leave_slow(&mut self, node: u32, object: u32) {
        let (now, seed) = (self.time(), self.setup.seed);
        let it = self.pull_mut(node, object);
        let source = id(it.source, seed);
        if matches!(it.role, Role::Follows(_)) && it.slow_sources.leave(now, source) {
            self.drop_flow(node, object);
            self.pull_mut(node, object).attempt += 1;
            self.request_source(node, object);
        }
    }

    /// Whether the mirror of a node pulls what the node leads, and passes it on to containerd.
    pub fn leads_at_once(&self) -> bool {
        let setup = &self.setup;
        setup.mode == Mode::Peili && setup.containerd == Containerd::PerNode && setup.mirrors_pull
    }

    /// The mirror pulls from upstream. Or it answers 404 or ends the body, so containerd does; from 2.1 on, through its
    /// queue.
    fn go_upstream(&mut self, node: u32, object: u32) {
        let pull = self.pull_mut(node, object);
        (pull.role, pull.begun, pull.mark) = (Role::Leads, false, pull.got);
        match self.setup.containerd {
            _ if self.leads_at_once() => self.ask_upstream(node, object),
            Containerd::PerImage => self.ask_upstream(node, object),
            Containerd::PerNode => {
                self.free_slot(node, object);
                self.enqueue(node, object, true);
                self.pump(node);
            }
        }
    }

    pub fn ask_upstream(&mut self, node: u32, object: u32) {
        let it = self.pull_mut(node, object);
        (it.role, it.begun, it.mark) = (Role::Leads, false, it.got);
        let pull = self.attempt(node, object);
        let at = self.now + self.setup.first_byte;
        let event = if self.setup.denied.contains(&node) {
            Event::Denied { pull }
        } else if self.setup.objects[object as usize].size > SMALL {
            Event::Begins { pull }
        } else {
            Event::Completed { pull }
        };
        self.push(at, event);
    }

    pub fn begins(&mut self, pull: Attempt) {
        if self.is_current(pull) {
            let upstream = self.links.upstream();
            self.start_flow(pull.node, pull.object, upstream);
        }
    }

    /// Fails the pull of an image. Other nodes are notified, and the kubelet retries.
    pub fn denied(&mut self, pull: Attempt) {
        if !self.is_current(pull) {
            return;
        }
        let node = pull.node;
        let image = self.setup.objects[pull.object as usize].image;
        let all = self.setup.images[image as usize].clone();
        for object in all.first..all.first + all.objects {
            self.give_up(node, object);
        }
        self.push(self.now + BACK_OFF, Event::Retry { node, image });
        self.pump(node);
    }

    fn give_up(&mut self, node: u32, object: u32) {
        let phase = self.pull(node, object).phase;
        match phase {
            Phase::Absent | Phase::Done => return,
            Phase::Queued => {
                let queue = &mut self.members[node as usize].queue;
                queue.retain(|(queued, _)| *queued != object);
            }
            Phase::Requesting => {
                let requests = &mut self.members[node as usize].requests;
                let index = requests.iter().position(|(_, o)| *o == object);
                if let Some((request, _)) = index.map(|index| requests.swap_remove(index)) {
                    self.drive(node, |machine, now, dir| {
                        machine.cancel(now, request, dir);
                    });
                }
                self.free_slot(node, object);
            }
            Phase::Asking | Phase::Flowing(_) => {
                self.drop_flow(node, object);
                self.free_slot(node, object);
            }
        }
        let pull = self.pull_mut(node, object);
        (pull.phase, pull.role) = (Phase::Absent, Role::Undecided);
        pull.attempt += 1;
        pull.begun = false;
        pull.failed.clear();
        pull.busy = BusySources::default();
        self.report(node, object, PullProgress::Failed);
        let orphans = self.flows.iter();
        let orphans = orphans.filter(|f| f.source == node && f.object == object);
        let mut orphans: Vec<_> = orphans.map(|f| self.current(f.node, f.object)).collect();
        orphans.extend(self.waiters.remove(&(node, object)).unwrap_or_default());
        for pull in orphans {
            self.push(self.now + micros(GONE_LIMIT), Event::SourceFailed { pull });
        }
    }

    pub fn current(&self, node: u32, object: u32) -> Attempt {
        let number = self.pull(node, object).attempt;
        Attempt {
            node,
            object,
            number,
        }
    }

    pub fn report(&mut self, node: u32, object: u32, progress: PullProgress) {
        if self.setup.mode == Mode::Peili {
            let key = self.setup.objects[object as usize].key;
            self.drive(node, |machine, now, dir| {
                machine.report(now, key, progress, dir);
            });
        }
    }

    /// Handles a small object that has arrived.
    pub fn completed(&mut self, pull: Attempt) {
        if !self.is_current(pull) {
            return;
        }
        let Attempt { node, object, .. } = pull;
        let size = self.setup.objects[object as usize].size;
        match self.pull(node, object).role {
            Role::Leads => self.counts.upstream_bytes += size,
            _ => self.counts.peer_bytes += size,
        }
        self.finish(node, object);
    }

    pub fn finish(&mut self, node: u32, object: u32) {
        self.drop_flow(node, object);
        let about = self.setup.objects[object as usize].clone();
        let pull = self.pull_mut(node, object);
        (pull.phase, pull.got) = (Phase::Done, about.size);
        pull.attempt += 1;
        let had_begun = std::mem::replace(&mut pull.begun, true);
        if !had_begun {
            let size = about.size;
            self.report(node, object, PullProgress::Begun { size });
        }
        self.report(node, object, PullProgress::Done);
        self.complete[object as usize].push(node);
        if self.setup.mode == Mode::Peili {
            self.drive(node, |machine, now, _| machine.hold(now, &[about.key]));
        }
        for pull in self.waiters.remove(&(node, object)).unwrap_or_default() {
            let at = self.now + self.round_trip(node, pull.node) / 2;
            self.push(at, Event::Completed { pull });
        }
        self.free_slot(node, object);
        if object == self.setup.images[about.image as usize].first {
            self.pull_layers(node, about.image);
        }
        let now = self.now;
        let member = &mut self.members[node as usize];
        member.missing -= 1;
        if member.missing == 0 {
            member.finished = Some(now);
            self.unfinished -= 1;
        }
        self.pump(node);
    }

    /// Spegel's rule: a random complete holder, or upstream.
    pub fn looked_up(&mut self, node: u32, object: u32) {
        let failed: Vec<NodeId> = self.pull(node, object).failed.clone();
        let seed = self.setup.seed;
        let holders = &self.complete[object as usize];
        let holder = match holders.len() as u64 {
            0 => None,
            many => Some(holders[self.random.below(many) as usize]),
        };
        match holder.filter(|holder| !failed.contains(&id(*holder, seed))) {
            Some(holder) => self.follow(node, object, holder, ChainPosition::default()),
            None => self.go_upstream(node, object),
        }
    }
}
