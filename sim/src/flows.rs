//! Flows of bytes: they begin and end, and advance with each step of the links.

use std::time::Duration;

use flights::pull_rules::{REPORT_EVERY, Role};
use flights::{PullProgress, SourceWatch};

use crate::links::Flow;
use crate::setup::{Micros, SECOND, micros};
use crate::world::{FILE_STEP, Phase, Pull, World};

impl World {
    /// Advances all flows by one step.
    pub fn step(&mut self) {
        let (upstream, objects) = (self.links.upstream(), self.setup.objects.len());
        for index in 0..self.flows.len() {
            let Flow {
                node,
                source,
                object,
                ..
            } = self.flows[index];
            let got = self.pulls[node as usize * objects + object as usize].got;
            let there = if source == upstream {
                self.upstream_gives(node, object)
            } else if self.is_cut(node, source) || !self.members[source as usize].alive {
                got
            } else {
                self.visible(source, object)
            };
            self.flows[index].want = there.saturating_sub(got);
        }
        let seconds = self.setup.step as f64 / SECOND as f64;
        self.links.share(seconds, &mut self.flows);
        self.settle_flows();
    }

    /// The bytes of an object that upstream offers a node.
    fn upstream_gives(&mut self, node: u32, object: u32) -> u64 {
        let size = self.setup.objects[object as usize].size;
        if self.setup.stalls == Some(object) && *self.stalled_leader.get_or_insert(node) == node {
            size / 3
        } else {
            size
        }
    }

    /// The bytes of an object that others can read at a node.
    pub fn visible(&self, node: u32, object: u32) -> u64 {
        let pull = self.pull(node, object);
        let is_whole = pull.got == self.setup.objects[object as usize].size;
        // What passes through a mirror is served from memory before it is in the file.
        let is_tapped = pull.role != Role::Leads || self.leads_at_once();
        if is_whole || is_tapped {
            pull.got
        } else {
            pull.got / FILE_STEP * FILE_STEP
        }
    }

    pub fn start_flow(&mut self, node: u32, object: u32, source: u32) {
        if self.flows.is_empty() {
            self.step_at = self.now + self.setup.step;
        }
        let index = self.flows.len() as u32;
        let pull = self.pull_mut(node, object);
        (pull.phase, pull.stalled) = (Phase::Flowing(index), false);
        self.flows.push(Flow {
            node,
            source,
            object,
            began: self.now,
            last: self.now,
            reported: self.now,
            watch: SourceWatch::new(self.time()),
            is_asking: false,
            want: 0,
            given: 0.0,
        });
        if source != self.links.upstream() {
            self.members[source as usize].uploads += 1;
        }
    }

    /// Ends the flow of an object to a node, if there is one.
    pub fn drop_flow(&mut self, node: u32, object: u32) {
        let Phase::Flowing(index) = self.pull(node, object).phase else {
            return;
        };
        self.pull_mut(node, object).phase = Phase::Absent;
        let flow = self.flows.swap_remove(index as usize);
        if flow.source != self.links.upstream() {
            self.members[flow.source as usize].uploads -= 1;
        }
        if let Some(moved) = self.flows.get(index as usize) {
            let (node, object) = (moved.node, moved.object);
            self.pull_mut(node, object).phase = Phase::Flowing(index);
        }
    }

    /// Accounts for the bytes of one step.
    fn settle_flows(&mut self) {
        let upstream = self.links.upstream();
        let (mut done, mut begun, mut stalled) = (vec![], vec![], vec![]);
        let objects = self.setup.objects.len();
        let leads_at_once = self.leads_at_once();
        for flow in &mut self.flows {
            let pull = &mut self.pulls[flow.node as usize * objects + flow.object as usize];
            let size = self.setup.objects[flow.object as usize].size;
            let came = flow.given.ceil().min(flow.want as f64) as u64;
            pull.got += came;
            if flow.source == upstream {
                pull.led += came;
                self.counts.upstream_bytes += came;
            } else {
                self.counts.peer_bytes += came;
                pull.is_requeued &= came == 0;
                self.members[flow.source as usize].sent.total += came;
            }
            if came > 0 {
                flow.last = self.now;
            }
            let at = (flow.node, flow.object);
            if pull.got == size {
                done.push(at);
            } else if !pull.begun && has_begun(pull, leads_at_once) {
                pull.begun = true;
                begun.push(at);
            } else if pull.begun && came > 0 && self.now - flow.reported >= micros(REPORT_EVERY) {
                flow.reported = self.now;
                begun.push(at);
            } else if self.now - flow.last >= stalls_after(pull, flow) && !pull.stalled {
                pull.stalled = true;
                stalled.push(at);
            }
        }
        for (node, object) in begun {
            let size = self.setup.objects[object as usize].size;
            self.report(node, object, PullProgress::Begun { size });
        }
        for (node, object) in stalled {
            self.report(node, object, PullProgress::Failed);
        }
        for (node, object) in done {
            self.finish(node, object);
        }
        self.watch_sources();
    }
}

/// Whether bytes of a pull have arrived, as its mirror sees it: in the file, or on their way through it.
fn has_begun(pull: &Pull, leads_at_once: bool) -> bool {
    let is_tapped = pull.role != Role::Leads || leads_at_once;
    let step = if is_tapped { 1 } else { FILE_STEP };
    pull.got / step > pull.mark / step
}

/// The time after a flow's last byte at which it counts as stalled.
fn stalls_after(pull: &Pull, flow: &Flow) -> Micros {
    let taken = Duration::from_micros(flow.last - flow.began);
    micros(pull.role.stall_limit(pull.got, taken))
}
