//! The downloads of a node's containerd: its queue, and their shared slots.

use std::time::Duration;

use flights::pull_rules::{self, CONTAINERD_SLOTS, REQUEUE_AFTER};

use crate::event::{Attempt, Event};
use crate::setup::{Containerd, MILLI, Micros, Mode, Plan};
use crate::world::{Phase, World};

/// The time of a lookup in Kademlia.
const LOOK_UP: Micros = 4 * MILLI;

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

    pub fn pull_layers(&mut self, node: u32, image: u32) {
        let image = &self.setup.images[image as usize];
        let (first, count) = (image.first + 1, image.objects as usize - 1);
        let order: Vec<_> = match self.setup.containerd {
            Containerd::PerImage => (0..count).collect(),
            Containerd::PerNode => self.random.choose(count, count),
        };
        for object in order.into_iter().map(|place| first + place as u32) {
            if self.pull(node, object).phase == Phase::Absent {
                self.enqueue(node, object, false);
            }
        }
    }

    pub fn enqueue(&mut self, node: u32, object: u32, goes_upstream: bool) {
        self.pull_mut(node, object).phase = Phase::Queued;
        let queue = &mut self.members[node as usize].queue;
        queue.push_back((object, goes_upstream));
    }

    /// The group of downloads that share slots with this one.
    pub fn group(&self, object: u32) -> usize {
        match self.setup.containerd {
            Containerd::PerImage => self.setup.objects[object as usize].image as usize,
            Containerd::PerNode => 0,
        }
    }

    /// Starts downloads for which there is a slot.
    pub fn pump(&mut self, node: u32) {
        loop {
            let member = &self.members[node as usize];
            let has_place =
                |(object, _): &(u32, bool)| member.running[self.group(*object)] < CONTAINERD_SLOTS;
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
                Mode::Peili => self.request_source(node, object),
                Mode::Spegel => {
                    self.pull_mut(node, object).phase = Phase::Requesting;
                    let event = Event::LookedUp { node, object };
                    self.push(self.now + LOOK_UP, event);
                }
            }
        }
    }

    pub fn free_slot(&mut self, node: u32, object: u32) {
        let group = self.group(object);
        self.members[node as usize].running[group] -= 1;
    }

    /// The time after which a request ends without a byte, so that containerd requeues it.
    pub fn requeue_after(&self, node: u32, object: u32) -> Option<Duration> {
        let may_requeue =
            !self.pull(node, object).is_requeued && self.setup.containerd == Containerd::PerNode;
        may_requeue.then_some(REQUEUE_AFTER)
    }

    /// Whether the layers below should go first.
    pub fn waits_for_lower_layers(&self, node: u32, object: u32) -> bool {
        let about = &self.setup.objects[object as usize];
        let image = &self.setup.images[about.image as usize];
        let (lowest, all) = (image.first + 2, image.first + image.objects);
        let is_missing = |layer: &u32| self.pull(node, *layer).phase != Phase::Done;
        let missing_below = (lowest..object.max(lowest)).filter(is_missing).count();
        self.requeue_after(node, object).is_some()
            && self.pull(node, object).got == 0
            && pull_rules::waits_for_lower_layers((all - lowest) as usize, missing_below)
            && !self.has_other_missing_layers(node, about.image)
    }

    /// Whether the node is pulling layers of another image as well.
    fn has_other_missing_layers(&self, node: u32, image: u32) -> bool {
        let is_coming = |object: u32| {
            let phase = self.pull(node, object).phase;
            !matches!(phase, Phase::Absent | Phase::Done)
        };
        let others = (0..).zip(&self.setup.images).filter(|(n, _)| *n != image);
        let mut layers = others.flat_map(|(_, image)| image.first + 2..image.first + image.objects);
        layers.any(is_coming)
    }

    pub fn requeue(&mut self, pull: Attempt) {
        if self.is_current(pull) {
            self.end_empty(pull.node, pull.object);
        }
    }

    pub fn end_empty(&mut self, node: u32, object: u32) {
        self.pull_mut(node, object).is_requeued = true;
        self.free_slot(node, object);
        self.enqueue(node, object, false);
        self.push(self.now + MILLI, Event::Pump { node });
    }
}
