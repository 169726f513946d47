//! The schedule of a run: all of it follows from the seed, so that a run can be repeated, also without mirrors.

use std::fmt;
use std::time::Duration;

use serde_json::json;

use super::fault::{Fault, FaultTarget, Kind, NodeNumber};
use super::random::Random;
use crate::image::Image;
use crate::tar::Tar;

/// The interval between images.
const WAVE: Duration = Duration::from_millis(2500);
/// The duration of a fault, in milliseconds.
const LASTS: std::ops::Range<u64> = 1_000..6_000;
/// The time before the first fault, and after the last one: the compared values have settled by then.
const CALM: Duration = Duration::from_secs(6);
/// The minimal time between two faults of one target.
const RECOVERY: Duration = Duration::from_millis(1500);
/// How often a target for a fault is drawn before the fault is moved.
const DRAWS: usize = 50;
/// The number of consecutive images with one base.
const SIBLINGS: usize = 4;

/// The options of a run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub seed: u64,
    pub faults: usize,
    /// The time in which the faults happen.
    pub time: Duration,
    pub nodes: usize,
}

/// A run. All times count from its start.
pub struct Plan {
    pub options: Options,
    pub waves: Vec<Wave>,
    pub faults: Vec<Planned>,
    /// When the last pull begins.
    pub ends: Duration,
}

/// A fault and its time.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    pub at: Duration,
    pub lasts: Duration,
    pub fault: Fault,
}

/// An image, and the nodes that pull it, with their times.
pub struct Wave {
    pub at: Duration,
    pub shape: Shape,
    pub pulls: Vec<(NodeNumber, Duration)>,
    seed: u64,
    base: u64,
    number: usize,
}

/// The layers of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    OneBigLayer,
    ManySmallLayers,
    /// One of several images that have all layers but the last in common.
    SharedBase,
}

impl Plan {
    pub fn new(options: Options) -> Plan {
        let mut random = Random::new(options.seed);
        let ends = CALM + options.time + CALM;
        let waves = waves(&mut random, options, ends);
        let faults = faults(&mut random, options);
        Plan {
            options,
            waves,
            faults,
            ends,
        }
    }
}

fn waves(random: &mut Random, options: Options, ends: Duration) -> Vec<Wave> {
    let mut waves = Vec::new();
    let mut at = Duration::ZERO;
    let mut base = 0;
    while at < ends {
        let number = waves.len();
        let shape = match number % 3 {
            0 => Shape::OneBigLayer,
            1 => Shape::ManySmallLayers,
            _ => Shape::SharedBase,
        };
        if number % (3 * SIBLINGS) == 2 {
            base = random.bits();
        }
        let mut nodes: Vec<_> = (0..options.nodes).collect();
        random.shuffle(&mut nodes);
        nodes.truncate(1 + random.below(options.nodes));
        // Half of the images are pulled by all nodes at the same moment, the others one after the other.
        let spread = 1 + 1_500 * (random.below(2) as u64);
        let pulls = nodes
            .into_iter()
            .map(|node| (node, at + random.millis(0..spread)))
            .collect();
        waves.push(Wave {
            at,
            shape,
            pulls,
            seed: random.bits(),
            base,
            number,
        });
        at += WAVE;
    }
    waves
}

fn faults(random: &mut Random, options: Options) -> Vec<Planned> {
    let mut kinds = Vec::new();
    while kinds.len() < options.faults {
        let mut all = Kind::weighted();
        random.shuffle(&mut all);
        kinds.extend(all);
    }
    kinds.truncate(options.faults);
    let step = options.time / u32::try_from(options.faults.max(1)).unwrap_or(u32::MAX);
    let mut planned: Vec<Planned> = Vec::new();
    for (number, kind) in kinds.into_iter().enumerate() {
        let at = CALM + step * u32::try_from(number).unwrap_or(u32::MAX);
        let lasts = random.millis(LASTS);
        let mut fault = Planned {
            at,
            lasts,
            fault: Fault { kind, node: 0 },
        };
        // If every target is broken already, the fault comes later.
        while !(0..DRAWS).any(|_| {
            fault.fault.node = random.below(options.nodes);
            planned.iter().all(|other| !other.collides(&fault))
        }) {
            fault.at += RECOVERY;
        }
        planned.push(fault);
    }
    planned.sort_by_key(|fault| fault.at);
    planned
}

impl Planned {
    /// Whether both affect one target without a pause between them.
    fn collides(&self, other: &Planned) -> bool {
        let is_apart = self.at + self.lasts + RECOVERY <= other.at
            || other.at + other.lasts + RECOVERY <= self.at;
        let target = |planned: &Planned| planned.fault.kind.target(planned.fault.node);
        let is_cluster = |planned: &Planned| planned.fault.kind == Kind::AllMirrorsKilled;
        let of_node = |target| matches!(target, FaultTarget::Node(_));
        let (one, two) = (target(self), target(other));
        let meet =
            one == two || (is_cluster(self) && of_node(two)) || (is_cluster(other) && of_node(one));
        meet && !is_apart
    }

    /// Whether it breaks the node's or the registry's own part of a pull, and so would without mirrors too.
    pub fn breaks_pulls_of(&self, node: NodeNumber) -> bool {
        let target = self.fault.kind.target(self.fault.node);
        self.fault.kind.happens_without_mirrors()
            && (target == FaultTarget::Registry || target == FaultTarget::Node(node))
    }

    /// Whether it is active at any time between the two.
    pub fn overlaps(&self, from: Duration, to: Duration) -> bool {
        self.at < to && from < self.at + self.lasts
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { kind, node } = self.fault;
        match kind.target(node) {
            FaultTarget::Node(node) => write!(f, "{kind} (node {node}")?,
            FaultTarget::Registry | FaultTarget::Hostile => write!(f, "{kind} (at all")?,
        }
        let (at, end) = (self.at.as_secs_f32(), (self.at + self.lasts).as_secs_f32());
        write!(f, " from {at:.1} to {end:.1} s)")
    }
}

impl Wave {
    /// The image, generated at each call.
    pub fn image(&self, registry: &str) -> Image {
        const KIB: usize = 1 << 10;
        let layer = |seed: u64, index: usize, size: usize| {
            let content = Random::new(seed ^ (index as u64) << 48).bytes(size);
            Tar::default().file(&format!("layer{index}"), &content)
        };
        let layers = match self.shape {
            Shape::OneBigLayer => vec![layer(self.seed, 0, 16 << 20)],
            Shape::ManySmallLayers => (0..24)
                .map(|index| layer(self.seed, index, 256 * KIB))
                .collect(),
            Shape::SharedBase => {
                let base = (0..4).map(|index| layer(self.base, index, 2 << 20));
                base.chain([layer(self.seed, 4, 256 * KIB)]).collect()
            }
        };
        let (repository, tag) = self.name();
        Image::of_layers(registry, &repository, &tag, layers, &json!({}))
    }

    /// The repository and the tag.
    fn name(&self) -> (String, String) {
        let repository = match self.shape {
            Shape::OneBigLayer => "chaos/big",
            Shape::ManySmallLayers => "chaos/many",
            Shape::SharedBase => "chaos/base",
        };
        (repository.to_owned(), format!("v{}", self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: Options = Options {
        seed: 7,
        faults: 200,
        time: Duration::from_secs(600),
        nodes: 5,
    };

    #[test]
    fn a_seed_is_a_run() {
        let describe = |plan: &Plan| format!("{:?}", plan.faults);
        let one = Plan::new(OPTIONS);
        assert_eq!(describe(&one), describe(&Plan::new(OPTIONS)));
        let other = Options { seed: 8, ..OPTIONS };
        assert_ne!(describe(&one), describe(&Plan::new(other)));
        let again = Plan::new(OPTIONS);
        let digests = |plan: &Plan| plan.waves[1].image("r").manifest.digest;
        assert_eq!(digests(&one), digests(&again));
    }

    #[test]
    fn every_kind_happens_and_none_where_another_does() {
        let plan = Plan::new(OPTIONS);
        assert_eq!(plan.faults.len(), OPTIONS.faults);
        for kind in Kind::weighted() {
            assert!(plan.faults.iter().any(|planned| planned.fault.kind == kind));
        }
        for (number, one) in plan.faults.iter().enumerate() {
            assert!(
                plan.faults[..number]
                    .iter()
                    .all(|other| !one.collides(other))
            );
        }
    }

    #[test]
    fn siblings_share_their_base() {
        let plan = Plan::new(OPTIONS);
        let of_base = plan.waves.iter().filter(|w| w.shape == Shape::SharedBase);
        let images: Vec<_> = of_base.take(2).map(|wave| wave.image("r")).collect();
        assert_eq!(images[0].blobs[1].digest, images[1].blobs[1].digest);
        assert_ne!(images[0].blobs[5].digest, images[1].blobs[5].digest);
    }
}
