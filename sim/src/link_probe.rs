//! What nodes know of their links before they pull anything, as `mirror::flight::link_probe` measures it.

use crate::follower_lag::SLOWER;
use crate::setup::Setup;
use crate::world::World;

/// The number of peers that a link is measured against.
const OTHERS: usize = 5;

impl World {
    /// Marks nodes as slow whose links are far slower than those of others.
    pub fn measure_links(&mut self) {
        let nodes = self.setup.nodes() as usize;
        let drawn = (0..nodes).map(|node| {
            let others = self.random.choose(OTHERS.min(nodes - 1), nodes - 1);
            let others = others
                .into_iter()
                .map(|other| other + usize::from(other >= node));
            others.collect::<Vec<_>>()
        });
        let probe_peers: Vec<_> = drawn.collect();
        let carries: Vec<_> = (0..nodes)
            .map(|node| carries(&self.setup, node, &probe_peers[node]))
            .collect();
        for (node, probe_peers) in probe_peers.iter().enumerate() {
            let mut theirs: Vec<_> = probe_peers.iter().map(|other| carries[*other]).collect();
            theirs.sort_by(f64::total_cmp);
            if carries[node] < theirs[theirs.len().saturating_sub(2)] / SLOWER as f64 {
                self.members[node].is_slow = true;
                self.drive(node as u32, |machine, now, dir| {
                    machine.set_slow(now, true, dir);
                });
            }
        }
    }
}

/// The bandwidth of a link, as far as the peers can show it.
fn carries(setup: &Setup, node: usize, probe_peers: &[usize]) -> f64 {
    let rates = probe_peers
        .iter()
        .map(|other| setup.rates[*other].min(setup.rates[node]));
    rates.fold(0.0, f64::max)
}
