//! Detects followers that are far slower than their source, as `mirror::flight::follower_lag` does.

use std::collections::BTreeMap;

use flights::PullProgress;

use crate::event::Event;
use crate::setup::{MILLI, Micros, SECOND};
use crate::world::{Phase, Role, World};

/// The interval between checks. As in `mirror::flight::follower_lag`, like the three below.
pub const WINDOW: Micros = 200 * MILLI;
/// A follower at most this many bytes behind is not too slow.
const CLOSE: u64 = 1024 * 1024;
/// A follower is reported after this many checks in a row.
const STRIKES: u8 = 2;
/// A new follower is not checked for this long.
const GRACE: Micros = SECOND;
/// A node is slow below 1/SLOWER of its source's intake. As in `mirror::flight::slow_state`.
pub const SLOWER: u64 = 3;
/// In each window, what a node can receive fades by this part if it receives less.
const FADES: u64 = 5;

/// Whether a source is busy and gives a follower its share. As in `mirror::flight::follower_lag`.
fn is_starved(taken: u64, taken_in: u64, sent: u64, uploads: u32) -> bool {
    sent >= taken_in / 2 && taken >= sent / u64::from(uploads.max(1)) / 2
}

/// What one follower received since the last check.
#[derive(Default)]
struct Tally {
    taken: u64,
    came: u64,
    /// The number of flows.
    flows: u64,
    /// The object with the largest lag, and that lag.
    worst: Option<(u64, u32)>,
}

impl World {
    /// Compares what followers and their sources received.
    pub fn find_slow_followers(&mut self) {
        self.measure_rates();
        let (upstream, objects) = (self.links.upstream(), self.setup.objects.len());
        let mut tallies: BTreeMap<(u32, u32), Tally> = BTreeMap::new();
        let mut sent: BTreeMap<u32, u64> = BTreeMap::new();
        for flow in self.flows.iter_mut().filter(|f| f.source != upstream) {
            let at = |node: u32| node as usize * objects + flow.object as usize;
            let (own, taker) = (&self.pulls[at(flow.source)], &self.pulls[at(flow.node)]);
            let (taken, came) = (taker.got - flow.taken, own.got - flow.came);
            (flow.taken, flow.came) = (taker.got, own.got);
            *sent.entry(flow.source).or_default() += taken;
            if own.phase == Phase::Done || self.now - flow.began < GRACE {
                continue;
            }
            let tally = tallies.entry((flow.source, flow.node)).or_default();
            tally.taken += taken;
            tally.came += came;
            tally.flows += 1;
            let downstream = own.got.saturating_sub(taker.got);
            tally.worst = tally.worst.max(Some((downstream, flow.object)));
        }
        let mut strikes = std::mem::take(&mut self.strikes);
        strikes.retain(|pair, _| tallies.contains_key(pair));
        for (pair, tally) in tallies {
            let downstream = tally.worst.filter(|(downstream, _)| *downstream > CLOSE);
            let Some((_, object)) = downstream.filter(|_| tally.taken * 2 < tally.came) else {
                strikes.remove(&pair);
                continue;
            };
            let count = strikes.entry(pair).or_insert(0);
            *count = count.wrapping_add(1);
            let (source, follower) = pair;
            let is_due = count.is_multiple_of(STRIKES);
            let member = &self.members[source as usize];
            let (rate, sent) = (member.rate, sent[&source] * SECOND / WINDOW);
            let taken = tally.taken * SECOND / WINDOW / tally.flows;
            if is_due
                && !is_starved(taken, rate, sent, member.uploads)
                && let Role::Follows(_, position) = self.pull(follower, object).role
            {
                self.report(
                    source,
                    object,
                    PullProgress::FollowerTooSlow { position, rate },
                );
            }
        }
        self.strikes = strikes;
    }

    /// Measures what each node receives.
    fn measure_rates(&mut self) {
        let objects = self.setup.objects.len();
        for (member, pulls) in self.members.iter_mut().zip(self.pulls.chunks(objects)) {
            let taken: u64 = pulls.iter().map(|pull| pull.got).sum();
            member.rate = taken.saturating_sub(member.taken) * SECOND / WINDOW;
            member.taken = taken;
            member.best = member.rate.max(member.best - member.best / FADES);
        }
    }

    /// Handles a report that a node is too slow. If its source receives far more, the node's followers of incomplete
    /// objects get other sources.
    pub fn on_too_slow(&mut self, node: u32, rate: u64) {
        let member = &mut self.members[node as usize];
        if member.best >= rate / SLOWER {
            return;
        }
        if !std::mem::replace(&mut member.is_slow, true) {
            self.drive(node, |machine, now, dir| machine.set_slow(now, true, dir));
        }
        let flows = self.flows.iter().filter(|flow| flow.source == node);
        let growing = flows.filter(|flow| self.pull(node, flow.object).phase != Phase::Done);
        let pulls = growing.map(|flow| self.current(flow.node, flow.object));
        for pull in pulls.collect::<Vec<_>>() {
            let at = self.now + self.round_trip(node, pull.node) / 2;
            self.push(at, Event::SourceFailed { pull });
        }
    }
}
