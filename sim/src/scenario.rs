//! The scenarios.

use clap::ValueEnum;

use crate::random::Random;
use crate::setup::{Containerd, MILLI, Membership, Micros, Mode, Plan, SECOND, Setup};

const MB: u64 = 1_000_000;
/// The image of most scenarios: 341 MB in five layers.
const LAYERS: [u64; 5] = [30 * MB, 120 * MB, 90 * MB, 70 * MB, 31 * MB];
/// The delay after which joining nodes start to pull.
const JOIN: Micros = 200 * MILLI;
/// The time to upstream's first byte.
const FIRST_BYTE: Micros = 150 * MILLI;
/// The bytes that a node's link carries in a step: a hop takes a step.
const QUANTUM: f64 = 32.0 * 1024.0;
/// The limit for the last node to start, as a multiple of the bound, plus [`GRACE`] seconds.
const MAX_BOUNDS: f64 = 20.0;
const GRACE: f64 = 20.0;
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Scenario {
    /// All nodes begin together
    AllAtOnce,
    /// The nodes begin evenly over 30 s
    Ramp,
    /// A fortieth of the nodes every 2 s
    Rolling,
    /// One layer of 341 MB
    OneLayer,
    /// 341 MB in many layers of one size
    ManyLayers,
    /// Two images, asked for at once, half of the nodes in the opposite order
    TwoImages,
    /// A tenth of the nodes has links ten times slower
    Slow,
    /// The same, since nodes have measured their links
    Slowed,
    /// The same as that, after all have pulled another image
    SlowedAgain,
    /// 5 % of the nodes die in flight
    Deaths,
    /// Those who own the keys die 400 ms after the beginning
    OwnersDie,
    /// Half of the nodes does not hear the other half for 20 s
    Partition,
    /// Three nodes are there, all others join and pull at once
    MassJoin,
    /// Upstream denies everything to a third of the nodes
    Denied,
    /// Upstream stalls on the first who leads the largest layer
    Stalled,
    /// One node has the image
    Warm,
}

/// The settings that all scenarios share.
#[derive(Clone, Copy, Debug)]
pub struct Common {
    pub seed: u64,
    pub mode: Mode,
    pub containerd: Containerd,
    /// Mirrors pull the layers that their nodes lead.
    pub mirrors_pull: bool,
    /// The bandwidth of a node's link in bits per second.
    pub link: f64,
    /// Upstream's bandwidth, in links of nodes.
    pub upstream: f64,
    /// The layers of [`Scenario::ManyLayers`].
    pub layers: u32,
    /// All nodes have pulled another image from the registry.
    pub known: bool,
    /// The time within which nodes start that are told to pull at once.
    pub spread: Micros,
}

impl Scenario {
    /// The name on the command line, with spaces.
    pub fn title(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().replace('-', " "))
    }

    /// The default numbers of nodes.
    pub fn sizes(self, is_quick: bool) -> &'static [u32] {
        match (self, is_quick) {
            (Self::AllAtOnce, false) => &[10, 100, 1_000, 4_000, 10_000],
            (Self::AllAtOnce, true) => &[10, 100],
            (Self::Partition | Self::OwnersDie, false) => &[100],
            (Self::MassJoin, false) => &[259],
            (Self::Warm, false) => &[100, 1_000],
            (_, false) => &[1_000],
            (_, true) => &[30],
        }
    }

    /// Whether the scenario is also run with other rules.
    pub fn compares(self) -> bool {
        matches!(
            self,
            Self::AllAtOnce | Self::Ramp | Self::Rolling | Self::Warm
        )
    }

    pub fn setup(self, common: &Common, nodes: u32) -> Setup {
        let mut random = Random::new(common.seed ^ 0x5ce0);
        let rate = common.link / 8.0;
        let mut setup = Setup {
            seed: common.seed,
            mode: common.mode,
            containerd: common.containerd,
            mirrors_pull: common.mirrors_pull,
            membership: Membership::Shared,
            rates: vec![rate; nodes as usize],
            upstream: rate * common.upstream,
            first_byte: FIRST_BYTE,
            objects: Vec::new(),
            images: Vec::new(),
            before: None,
            plans: Vec::new(),
            holders: Vec::new(),
            denied: Vec::new(),
            deaths: Vec::new(),
            owners_die: None,
            stalls: None,
            partition: None,
            were_links_fast: matches!(self, Self::Slowed | Self::SlowedAgain),
            left_out: Vec::new(),
            step: 0,
            limit: 0,
        };
        if common.known || self == Self::SlowedAgain {
            setup.before = Some(setup.image(&LAYERS));
        }
        match self {
            Self::OneLayer => setup.image(&[LAYERS.iter().sum()]),
            Self::ManyLayers => {
                let layers = common.layers as usize;
                setup.image(&vec![LAYERS.iter().sum::<u64>() / layers as u64; layers])
            }
            Self::TwoImages => {
                setup.image(&LAYERS);
                setup.image(&LAYERS.map(|layer| layer + MB))
            }
            _ => setup.image(&LAYERS),
        };
        let images = 0..setup.images.len() as u32;
        let images: Vec<u32> = images.filter(|i| Some(*i) != setup.before).collect();
        for node in 0..nodes {
            let at = match self {
                Self::Ramp => 30 * SECOND * u64::from(node) / u64::from(nodes),
                Self::Rolling => 2 * SECOND * u64::from(node * 40 / nodes),
                Self::MassJoin => JOIN + random.below(common.spread),
                _ => random.below(common.spread),
            };
            let mut images = images.clone();
            if node % 2 == 1 {
                images.reverse();
            }
            setup.plans.push(Plan { node, at, images });
        }
        // Random nodes, but never the first, through which the others join.
        let some = |random: &mut Random, part: u32| -> Vec<u32> {
            let chosen = random.choose((nodes / part).max(1) as usize, nodes as usize - 1);
            chosen.into_iter().map(|node| node as u32 + 1).collect()
        };
        match self {
            Self::Slow | Self::Slowed | Self::SlowedAgain => {
                setup.left_out = some(&mut random, 10);
                for node in setup.left_out.clone() {
                    setup.rates[node as usize] /= 10.0;
                }
            }
            Self::Denied => {
                setup.denied = some(&mut random, 3);
                setup.left_out = setup.denied.clone();
            }
            Self::Deaths => {
                let span = (setup.bound() * SECOND as f64) as u64;
                let dying = some(&mut random, 20);
                setup.deaths = dying
                    .into_iter()
                    .map(|node| (random.below(span), node))
                    .collect();
            }
            Self::OwnersDie => {
                setup.owners_die = Some(400 * MILLI);
            }
            Self::Partition => setup.partition = Some((100 * MILLI, 20 * SECOND)),
            Self::Stalled => setup.stalls = Some(3),
            Self::Warm => {
                setup.holders = vec![0];
                setup.plans.remove(0);
                setup.left_out = vec![0];
            }
            _ => {}
        }
        setup.membership = match self {
            Self::Partition | Self::OwnersDie | Self::Deaths => Membership::Own { founders: nodes },
            Self::MassJoin => Membership::Own { founders: 3 },
            _ => Membership::Shared,
        };
        setup.pace(rate);
        setup
    }
}

impl Setup {
    fn pace(&mut self, rate: f64) {
        let step = QUANTUM / rate;
        let upstream = self.plans.len() as f64 * self.bytes() as f64 / self.upstream;
        // If only upstream matters, steps finer than a 4,000th of the total are not needed.
        let step = match self.mode {
            Mode::Peili => step,
            Mode::Spegel | Mode::Alone => step.max(upstream / 4_000.0),
        };
        self.step = (step * SECOND as f64) as u64;
        let limit = match self.mode {
            Mode::Peili => self.bound() * MAX_BOUNDS,
            Mode::Spegel | Mode::Alone => upstream * 1.5,
        };
        let last = self.plans.iter().map(|plan| plan.at).max();
        let limit = ((limit + GRACE) * SECOND as f64) as u64;
        self.limit = limit + last.unwrap_or_default();
    }

    /// The lower bound, in seconds, of the time until all counted nodes have everything: the largest of the time in
    /// which upstream sends it once, the time of a node's link, and the time of all links together for a copy to each
    /// node.
    ///
    /// Source: Mundinger, Weber, Weiss: Optimal Scheduling of Peer-to-Peer File Dissemination, 2008.
    pub fn bound(&self) -> f64 {
        let size = self.bytes() as f64;
        let counts = |node: &usize| !self.left_out.contains(&(*node as u32));
        let rates = || (0..self.rates.len()).filter(counts).map(|n| self.rates[n]);
        let slowest = rates().fold(f64::INFINITY, f64::min);
        let first = match self.holders.first() {
            Some(holder) => self.rates[*holder as usize],
            None => self.upstream,
        };
        let all = rates().count() as f64 * size / (first + rates().sum::<f64>());
        (size / first).max(size / slowest).max(all)
    }
}
