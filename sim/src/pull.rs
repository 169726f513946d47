//! What a node's containerd and mirror do to get an image.

use std::time::Duration;

use flights::{News, NodeId, Outcome, Place, SeekId, Wanted};

use crate::brain::{id, number};
use crate::event::{Attempt, Event};
use crate::setup::{Containerd, MILLI, Micros, Mode, Plan, SECOND};
use crate::world::{Phase, STALL, Standing, World};

/// Downloads of containerd at once.
const SLOTS: u8 = 3;
/// Objects up to this size cross a link in no time.
pub const SMALL: u64 = 64 * 1024;
/// Uploads of a node at once. As `mirror::flight`, like the four below.
const MOST_UPLOADS: u32 = 24;
const ANSWER_LIMIT: Micros = SECOND;
const MOST_FAILED: usize = 16;
const GONE_LIMIT: Micros = 250 * MILLI;
/// After how long a request gives its place in containerd's queue up, the first time and the second. As `mirror::flight`.
const GIVES_WAY: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(600)];
/// So many layers of an image are few, and come in their order; within this time containerd has queued them all. As
/// `mirror::flight::queue`.
const FEW: u32 = 6;
const GATHER: Micros = 50 * MILLI;
/// A source that does not know yet what it does is asked again after so long.
const AGAIN: Micros = 5 * MILLI;
/// A look-up in Kademlia.
const LOOK_UP: Micros = 4 * MILLI;
/// The kubelet pulls again after a failure.
const BACK_OFF: Micros = 10 * SECOND;

impl World {
    pub fn start(&mut self, plan: Plan) {
        let member = &mut self.members[plan.node as usize];
        if !member.alive {
            return;
        }
        member.started = self.now;
        let images = plan.images.iter().map(|i| &self.setup.images[*i as usize]);
        member.missing = images.map(|image| image.objects).sum();
        for image in plan.images {
            self.pull_image(plan.node, image);
        }
    }

    pub fn pull_image(&mut self, node: u32, image: u32) {
        if !self.members[node as usize].alive {
            return;
        }
        let manifest = self.setup.images[image as usize].first;
        if self.pull(node, manifest).phase == Phase::Done {
            self.pull_layers(node, image);
        } else {
            self.enqueue(node, manifest, false);
        }
        self.pump(node);
    }

    fn pull_layers(&mut self, node: u32, image: u32) {
        let image = &self.setup.images[image as usize];
        for object in image.first + 1..image.first + image.objects {
            if self.pull(node, object).phase == Phase::Absent {
                self.enqueue(node, object, false);
            }
        }
    }

    fn enqueue(&mut self, node: u32, object: u32, goes_upstream: bool) {
        self.pull_mut(node, object).phase = Phase::Queued;
        let queue = &mut self.members[node as usize].queue;
        queue.push_back((object, goes_upstream));
    }

    /// The images whose downloads share places with this one's.
    fn group(&self, object: u32) -> usize {
        match self.setup.containerd {
            Containerd::PerImage => self.setup.objects[object as usize].image as usize,
            Containerd::PerNode => 0,
        }
    }

    /// Begins downloads for which there is a place.
    pub fn pump(&mut self, node: u32) {
        loop {
            let member = &self.members[node as usize];
            let has_place = |(object, _): &(u32, bool)| member.running[self.group(*object)] < SLOTS;
            let Some(next) = member.queue.iter().position(has_place) else {
                return;
            };
            let Some((object, goes_upstream)) = self.members[node as usize].queue.remove(next)
            else {
                return;
            };
            let group = self.group(object);
            self.members[node as usize].running[group] += 1;
            match self.setup.mode {
                _ if goes_upstream => self.ask_upstream(node, object),
                Mode::Alone => self.ask_upstream(node, object),
                Mode::Peili => self.seek(node, object),
                Mode::Spegel => {
                    self.pull_mut(node, object).phase = Phase::Seeking;
                    let event = Event::LookedUp { node, object };
                    self.push(self.now + LOOK_UP, event);
                }
            }
        }
    }

    fn free_place(&mut self, node: u32, object: u32) {
        let group = self.group(object);
        self.members[node as usize].running[group] -= 1;
    }

    /// After how long a request is ended without a byte, upon which containerd asks again at the end of its queue.
    fn gives_way_after(&self, node: u32, object: u32) -> Option<Duration> {
        let barren = usize::from(self.pull(node, object).barren);
        let wait = GIVES_WAY.get(barren).copied();
        wait.filter(|_| self.setup.containerd == Containerd::PerNode)
    }

    /// Whether the layers below are to have their turn first. As `mirror::flight::queue`.
    fn comes_early(&self, node: u32, object: u32) -> bool {
        let about = &self.setup.objects[object as usize];
        let image = &self.setup.images[about.image as usize];
        let (lowest, all) = (image.first + 2, image.first + image.objects);
        let is_missing = |layer: &u32| self.pull(node, *layer).phase != Phase::Done;
        self.setup.containerd == Containerd::PerNode
            && self.pull(node, object).barren == 0
            && self.pull(node, object).got == 0
            && object >= lowest
            && all - lowest <= FEW
            && (lowest..object).filter(is_missing).count() >= usize::from(SLOTS)
            && !self.pulls_beside(node, about.image)
    }

    /// Whether layers of another image are on their way to a node as well.
    fn pulls_beside(&self, node: u32, image: u32) -> bool {
        let is_coming = |object: u32| {
            let phase = self.pull(node, object).phase;
            !matches!(phase, Phase::Absent | Phase::Done)
        };
        let others = (0..).zip(&self.setup.images).filter(|(n, _)| *n != image);
        let mut layers = others.flat_map(|(_, image)| image.first + 2..image.first + image.objects);
        layers.any(is_coming)
    }

    pub fn gives_way(&mut self, pull: Attempt) {
        if self.is_current(pull) {
            self.end_barren(pull.node, pull.object);
        }
    }

    fn end_barren(&mut self, node: u32, object: u32) {
        self.pull_mut(node, object).barren += 1;
        self.free_place(node, object);
        self.enqueue(node, object, false);
        self.push(self.now + MILLI, Event::Pump { node });
    }

    fn seek(&mut self, node: u32, object: u32) {
        let about = &self.setup.objects[object as usize];
        let manifest = self.setup.images[about.image as usize].first;
        let is_manifest = object == manifest;
        let pull = self.pull(node, object);
        if pull.failed.len() >= MOST_FAILED {
            self.counts.alone += 1;
            return self.go_upstream(node, object);
        }
        if self.comes_early(node, object) {
            let pull = self.attempt(node, object);
            return self.push(self.now + GATHER, Event::GivesWay { pull });
        }
        let leader = self.pull(node, manifest).leader;
        let wanted = Wanted {
            key: about.key,
            group: u64::from(about.image),
            registry: 1,
            size: Some(about.size).filter(|_| !is_manifest),
            streams: about.streams,
            prefer: leader.filter(|leader| !is_manifest && number(leader) != node),
            offset: pull.got,
            failed: pull.failed.clone(),
            yields: self.gives_way_after(node, object),
            slow: None,
            slow_lead: None,
        };
        self.pull_mut(node, object).phase = Phase::Seeking;
        let seek = self.think(node, |brain, now, dir| brain.seek(now, wanted, dir));
        if let Some(seek) = seek {
            self.members[node as usize].seeks.push((seek, object));
        }
    }

    pub fn outcome(&mut self, node: u32, seek: SeekId, outcome: &Outcome) {
        let seeks = &mut self.members[node as usize].seeks;
        let Some(index) = seeks.iter().position(|(id, _)| *id == seek) else {
            return;
        };
        let (_, object) = seeks.swap_remove(index);
        match outcome {
            Outcome::Follow {
                source,
                place,
                leader,
                ..
            } => {
                self.pull_mut(node, object).leader = *leader;
                self.follow(node, object, number(source), *place);
            }
            Outcome::Lead => {
                self.counts.leads += 1;
                self.go_upstream(node, object);
            }
            Outcome::Alone => {
                self.counts.alone += 1;
                self.go_upstream(node, object);
            }
            Outcome::Later => self.end_barren(node, object),
            Outcome::Found(_) => {}
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

    fn is_current(&self, attempt: Attempt) -> bool {
        self.members[attempt.node as usize].alive
            && self.pull(attempt.node, attempt.object).attempt == attempt.number
    }

    fn follow(&mut self, node: u32, object: u32, source: u32, place: Place) {
        self.pull_mut(node, object).standing = Standing::Follows(source, place);
        let pull = self.attempt(node, object);
        if !self.members[source as usize].alive || self.is_cut(node, source) {
            return self.push(self.now + ANSWER_LIMIT, Event::Useless { pull });
        }
        // One round trip connects, half of another carries the request.
        let at = self.handshake(node, source) + self.round_trip(node, source) * 3 / 2;
        self.push(at, Event::Asked { pull });
    }

    /// A request of another node has come to a source.
    pub fn asked(&mut self, pull: Attempt) {
        let Attempt { node, object, .. } = pull;
        let Standing::Follows(source, place) = self.pull(node, object).standing else {
            return;
        };
        if !self.is_current(pull) {
            return;
        }
        let back = self.now + self.round_trip(node, source) / 2;
        if !self.members[source as usize].alive || self.is_cut(node, source) {
            return self.push(self.now + ANSWER_LIMIT, Event::Useless { pull });
        }
        let own = self.pull(source, object);
        let is_done = own.phase == Phase::Done;
        let is_ahead = match own.standing {
            Standing::None => false,
            Standing::Leads => true,
            Standing::Follows(_, own) => own.is_before(&place),
        };
        let has_more = self.visible(source, object) > self.pull(node, object).got;
        if own.phase == Phase::Seeking && !has_more {
            return self.push(self.now + AGAIN, Event::Asked { pull });
        }
        let may = is_done || has_more || (is_ahead && own.phase != Phase::Absent);
        if !may || self.members[source as usize].uploads >= MOST_UPLOADS {
            self.counts.refused += 1;
            self.push(back, Event::Useless { pull });
        } else if self.setup.objects[object as usize].size > SMALL {
            self.start_flow(node, object, source);
        } else if is_done {
            self.push(back, Event::Landed { pull });
        } else {
            self.waiters.entry((source, object)).or_default().push(pull);
            self.push(self.now + STALL, Event::Useless { pull });
        }
    }

    /// A source could not be used, or broke: on to the next.
    pub fn useless(&mut self, pull: Attempt) {
        let Attempt { node, object, .. } = pull;
        if !self.is_current(pull) || self.pull(node, object).phase == Phase::Done {
            return;
        }
        self.drop_flow(node, object);
        let seed = self.setup.seed;
        let it = self.pull_mut(node, object);
        it.attempt += 1;
        if let Standing::Follows(source, _) = it.standing {
            it.failed.push(id(source, seed));
        }
        match self.setup.mode {
            Mode::Peili => self.seek(node, object),
            Mode::Spegel | Mode::Alone => self.looked_up(node, object),
        }
    }

    /// The mirror says 404, or ends the body: containerd goes to upstream, from 2.1 on by way of its queue.
    fn go_upstream(&mut self, node: u32, object: u32) {
        let pull = self.pull_mut(node, object);
        (pull.standing, pull.begun, pull.mark) = (Standing::Leads, false, pull.got);
        match self.setup.containerd {
            Containerd::PerImage => self.ask_upstream(node, object),
            Containerd::PerNode => {
                self.free_place(node, object);
                self.enqueue(node, object, true);
                self.pump(node);
            }
        }
    }

    fn ask_upstream(&mut self, node: u32, object: u32) {
        let it = self.pull_mut(node, object);
        (it.standing, it.begun, it.mark) = (Standing::Leads, false, it.got);
        let pull = self.attempt(node, object);
        let at = self.now + self.setup.first_byte;
        let event = if self.setup.denied.contains(&node) {
            Event::Denied { pull }
        } else if self.setup.objects[object as usize].size > SMALL {
            Event::Begins { pull }
        } else {
            Event::Landed { pull }
        };
        self.push(at, event);
    }

    pub fn begins(&mut self, pull: Attempt) {
        if self.is_current(pull) {
            let upstream = self.links.upstream();
            self.start_flow(pull.node, pull.object, upstream);
        }
    }

    /// The pull of the image has failed; others hear of it, and the kubelet tries again.
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
            Phase::Seeking => {
                let seeks = &mut self.members[node as usize].seeks;
                let index = seeks.iter().position(|(_, o)| *o == object);
                if let Some((seek, _)) = index.map(|index| seeks.swap_remove(index)) {
                    self.think(node, |brain, now, dir| brain.cancel(now, seek, dir));
                }
                self.free_place(node, object);
            }
            Phase::Asking | Phase::Flowing(_) => {
                self.drop_flow(node, object);
                self.free_place(node, object);
            }
        }
        let pull = self.pull_mut(node, object);
        (pull.phase, pull.standing) = (Phase::Absent, Standing::None);
        pull.attempt += 1;
        pull.begun = false;
        pull.failed.clear();
        self.tell(node, object, News::Failed);
        let orphans = self.flows.iter();
        let orphans = orphans.filter(|f| f.source == node && f.object == object);
        let mut orphans: Vec<_> = orphans.map(|f| self.current(f.node, f.object)).collect();
        orphans.extend(self.waiters.remove(&(node, object)).unwrap_or_default());
        for pull in orphans {
            self.push(self.now + GONE_LIMIT, Event::Useless { pull });
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

    pub fn tell(&mut self, node: u32, object: u32, news: News) {
        if self.setup.mode == Mode::Peili {
            let key = self.setup.objects[object as usize].key;
            self.think(node, |brain, now, dir| brain.report(now, key, news, dir));
        }
    }

    /// A small object has come whole.
    pub fn landed(&mut self, pull: Attempt) {
        if !self.is_current(pull) {
            return;
        }
        let Attempt { node, object, .. } = pull;
        let size = self.setup.objects[object as usize].size;
        match self.pull(node, object).standing {
            Standing::Leads => self.counts.upstream_bytes += size,
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
            self.tell(node, object, News::Begun { size });
        }
        self.tell(node, object, News::Done);
        self.complete[object as usize].push(node);
        if self.setup.mode == Mode::Peili {
            self.think(node, |brain, now, _| brain.hold(now, &[about.key]));
        }
        for pull in self.waiters.remove(&(node, object)).unwrap_or_default() {
            let at = self.now + self.round_trip(node, pull.node) / 2;
            self.push(at, Event::Landed { pull });
        }
        self.free_place(node, object);
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

    /// Spegel's rule: a complete holder by chance, or upstream.
    pub fn looked_up(&mut self, node: u32, object: u32) {
        let failed: Vec<NodeId> = self.pull(node, object).failed.clone();
        let seed = self.setup.seed;
        let holders = &self.complete[object as usize];
        let holder = match holders.len() as u64 {
            0 => None,
            many => Some(holders[self.random.below(many) as usize]),
        };
        match holder.filter(|holder| !failed.contains(&id(*holder, seed))) {
            Some(holder) => self.follow(node, object, holder, Place::default()),
            None => self.go_upstream(node, object),
        }
    }
}
