//! What nodes know of their links before they pull anything, as `mirror::flight::gauge` measures them.

use crate::lag::SLOWER;
use crate::setup::Setup;
use crate::world::World;

/// Others by which a link is measured.
const OTHERS: usize = 5;

impl World {
    /// Has those step aside who find their links far slower than those of others.
    pub fn measure_links(&mut self) {
        let nodes = self.setup.nodes() as usize;
        let drawn = (0..nodes).map(|node| {
            let others = self.random.choose(OTHERS.min(nodes - 1), nodes - 1);
            let others = others
                .into_iter()
                .map(|other| other + usize::from(other >= node));
            others.collect::<Vec<_>>()
        });
        let companions: Vec<_> = drawn.collect();
        let carries: Vec<_> = (0..nodes)
            .map(|node| carries(&self.setup, node, &companions[node]))
            .collect();
        for (node, companions) in companions.iter().enumerate() {
            let mut theirs: Vec<_> = companions.iter().map(|other| carries[*other]).collect();
            theirs.sort_by(f64::total_cmp);
            if carries[node] < theirs[theirs.len().saturating_sub(2)] / SLOWER as f64 {
                self.members[node].is_slow = true;
                self.think(node as u32, |brain, now, dir| brain.lag(now, true, dir));
            }
        }
    }
}

/// What a link carries at the least, as far as those show by which it is measured.
fn carries(setup: &Setup, node: usize, companions: &[usize]) -> f64 {
    let rates = companions
        .iter()
        .map(|other| setup.rates[*other].min(setup.rates[node]));
    rates.fold(0.0, f64::max)
}
