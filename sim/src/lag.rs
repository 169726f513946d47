//! Followers that stay far behind the node that feeds them, as `mirror::flight::lag` notices them.

use std::collections::BTreeMap;

use flights::News;

use crate::event::Event;
use crate::setup::{MILLI, Micros, SECOND};
use crate::world::{Phase, Standing, World};

/// Between two looks. As `mirror::flight::lag`, like the three below.
pub const WINDOW: Micros = 200 * MILLI;
/// Who is closer behind than so many bytes keeps up.
const CLOSE: u64 = 1024 * 1024;
/// Looks in a row after which a follower is reported.
const STRIKES: u8 = 2;
/// A follower is not looked at for so long.
const GRACE: Micros = SECOND;
/// A node that takes in less than so many parts of what its source does is slow. As `mirror::flight::aside`.
pub const SLOWER: u64 = 3;
/// What a node is able to take in fades by such a part in each window in which it takes in less.
const FADES: u64 = 5;

/// As `mirror::flight::lag`'s: whether a source is busy, with so many uploads, and gives a follower its share.
fn is_starved(taken: u64, taken_in: u64, sent: u64, uploads: u32) -> bool {
    sent >= taken_in / 2 && taken >= sent / u64::from(uploads.max(1)) / 2
}

/// What went to one follower since the last look.
#[derive(Default)]
struct Tally {
    taken: u64,
    came: u64,
    /// In so many flows.
    flows: u64,
    /// The object that it is furthest behind with, and by how much.
    worst: Option<(u64, u32)>,
}

impl World {
    /// Compares what followers took with what came.
    pub fn look_for_laggards(&mut self) {
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
            let behind = own.got.saturating_sub(taker.got);
            tally.worst = tally.worst.max(Some((behind, flow.object)));
        }
        let mut strikes = std::mem::take(&mut self.strikes);
        strikes.retain(|pair, _| tallies.contains_key(pair));
        for (pair, tally) in tallies {
            let behind = tally.worst.filter(|(behind, _)| *behind > CLOSE);
            let Some((_, object)) = behind.filter(|_| tally.taken * 2 < tally.came) else {
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
                && let Standing::Follows(_, place) = self.pull(follower, object).standing
            {
                self.tell(source, object, News::Outrun { place, rate });
            }
        }
        self.strikes = strikes;
    }

    /// What each node takes in.
    fn measure_rates(&mut self) {
        let objects = self.setup.objects.len();
        for (member, pulls) in self.members.iter_mut().zip(self.pulls.chunks(objects)) {
            let taken: u64 = pulls.iter().map(|pull| pull.got).sum();
            member.rate = taken.saturating_sub(member.taken) * SECOND / WINDOW;
            member.taken = taken;
            member.best = member.rate.max(member.best - member.best / FADES);
        }
    }

    /// A node hears that it stays behind another. If that takes in far more, it ends what it passes on of objects that it
    /// has not complete: who took that goes elsewhere.
    pub fn outrun(&mut self, node: u32, rate: u64) {
        let member = &mut self.members[node as usize];
        if member.best >= rate / SLOWER {
            return;
        }
        if !std::mem::replace(&mut member.is_slow, true) {
            self.think(node, |brain, now, dir| brain.lag(now, true, dir));
        }
        let flows = self.flows.iter().filter(|flow| flow.source == node);
        let growing = flows.filter(|flow| self.pull(node, flow.object).phase != Phase::Done);
        let pulls = growing.map(|flow| self.current(flow.node, flow.object));
        for pull in pulls.collect::<Vec<_>>() {
            let at = self.now + self.round_trip(node, pull.node) / 2;
            self.push(at, Event::Useless { pull });
        }
    }
}
