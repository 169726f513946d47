//! Two runs of one plan, compared: the cost of mirrors for pulls.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::fault::NodeNumber;
use super::plan::{Plan, Planned, Shape};
use super::run::{Observed, Pull, is_level};

/// A pull with mirrors, and the same one without.
struct Pair<'a> {
    with: &'a Pull,
    without: &'a Pull,
}

/// The effect of mirrors on the pulls of a plan.
pub struct PairedResult<'a> {
    plan: &'a Plan,
    pairs: Vec<Pair<'a>>,
    with: &'a Observed,
    without: &'a Observed,
}

/// The seconds from which on a difference between two pulls is counted.
const MUCH: f64 = 2.0;

/// A row of the table, for some of the pulls.
#[derive(Default)]
struct Row {
    faults: usize,
    pulls: usize,
    retried: [usize; 2],
    failed: [usize; 2],
    /// The additional seconds of pulls with mirrors, if both took as many attempts.
    added: Vec<f64>,
    took: [Vec<f64>; 2],
}

impl<'a> PairedResult<'a> {
    /// Compares a run with mirrors with one without.
    pub fn new(plan: &'a Plan, with: &'a Observed, without: &'a Observed) -> PairedResult<'a> {
        let pairs = with.pulls.iter().zip(&without.pulls);
        PairedResult {
            plan,
            pairs: pairs
                .map(|(with, without)| Pair { with, without })
                .collect(),
            with,
            without,
        }
    }

    /// The failures, as texts; none if all is well. A pull that failed twice counts if neither its node nor the
    /// registry was broken during the second attempt. The durations of pulls are not included: they depend on the
    /// machine.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let wrong = self.with.wrong_blobs + self.without.wrong_blobs;
        if wrong > 0 {
            failures.push(format!("{wrong} blobs with wrong bytes were committed"));
        }
        for Pair { with, without } in &self.pairs {
            if let (Some(error), None) = (&with.error, &without.error)
                && !self.is_broken(with.node, with.last_began, with.began + with.took)
            {
                failures.push(format!(
                    "wave {}, node {}, at {:.1} s: failed twice: {error}",
                    with.wave,
                    with.node,
                    with.began.as_secs_f32()
                ));
            }
        }
        if let Some((before, after)) = &self.with.levels
            && !is_level(before, after)
        {
            failures.push(format!(
                "descriptors or memory: {before:?} before, {after:?} after"
            ));
        }
        if self.with.ended > 0 {
            failures.push(format!("{} mirrors ended by themselves", self.with.ended));
        }
        failures.extend(self.with.unbroken.iter().cloned());
        failures.extend(self.without.unbroken.iter().cloned());
        failures
    }

    fn rows(&self) -> BTreeMap<String, Row> {
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        for planned in &self.plan.faults {
            rows.entry(planned.fault.kind.to_string())
                .or_default()
                .faults += 1;
        }
        for pair in &self.pairs {
            let mut kinds: Vec<_> = self.faults_during(pair).map(|f| f.fault.kind).collect();
            kinds.sort_unstable();
            kinds.dedup();
            for kind in &kinds {
                rows.entry(kind.to_string()).or_default().add(pair);
            }
            let (from, to) = pair.time();
            if !self.is_broken(pair.with.node, from, to) {
                let name = match kinds.is_empty() {
                    true => "~ nothing",
                    false => "~ nothing of the node's own and of the registry",
                };
                rows.entry(name.to_owned()).or_default().add(pair);
            }
            let shape = match self.plan.waves[pair.with.wave].shape {
                Shape::OneBigLayer => "~ one big layer",
                Shape::ManySmallLayers => "~ many small layers",
                Shape::SharedBase => "~ one base",
            };
            rows.entry(shape.to_owned()).or_default().add(pair);
            rows.entry("~~ all".to_owned()).or_default().add(pair);
        }
        rows
    }

    /// The faults during either of the pulls.
    fn faults_during(&self, pair: &Pair<'_>) -> impl Iterator<Item = &Planned> {
        let (from, to) = pair.time();
        let faults = self.plan.faults.iter();
        faults.filter(move |planned| planned.overlaps(from, to))
    }

    /// Whether the node, its link or the registry was broken at any time between the two.
    fn is_broken(&self, node: NodeNumber, from: Duration, to: Duration) -> bool {
        let mut faults = self.plan.faults.iter();
        faults.any(|planned| planned.breaks_pulls_of(node) && planned.overlaps(from, to))
    }

    /// The pulls with most additional time, longest first, as texts.
    pub fn slowest(&self, count: usize) -> Vec<String> {
        let mut pairs: Vec<_> = self
            .pairs
            .iter()
            .filter(|pair| pair.is_comparable())
            .collect();
        pairs.sort_by(|a, b| b.added().total_cmp(&a.added()));
        let tell = |pair: &&Pair<'_>| {
            let faults: Vec<_> = self.faults_during(pair).map(Planned::to_string).collect();
            format!(
                "wave {} node {} at {:.1} s: {:.2} s with mirrors, {:.2} s without: {}",
                pair.with.wave,
                pair.with.node,
                pair.with.began.as_secs_f32(),
                pair.with.took.as_secs_f32(),
                pair.without.took.as_secs_f32(),
                faults.join(", ")
            )
        };
        pairs
            .into_iter()
            .take(count)
            .map(|pair| tell(&pair))
            .collect()
    }
}

impl Pair<'_> {
    /// The time from the earlier start to the later end.
    fn time(&self) -> (Duration, Duration) {
        let Pair { with, without } = self;
        let to = (with.began + with.took).max(without.began + without.took);
        (with.began.min(without.began), to)
    }

    fn is_comparable(&self) -> bool {
        self.with.attempts == self.without.attempts
            && self.with.error.is_none()
            && self.without.error.is_none()
    }

    /// The additional seconds.
    fn added(&self) -> f64 {
        self.with.took.as_secs_f64() - self.without.took.as_secs_f64()
    }
}

impl Row {
    fn add(&mut self, pair: &Pair<'_>) {
        self.pulls += 1;
        for (index, pull) in [pair.with, pair.without].into_iter().enumerate() {
            self.retried[index] += usize::from(pull.attempts > 1 && pull.error.is_none());
            self.failed[index] += usize::from(pull.error.is_some());
            self.took[index].push(pull.took.as_secs_f64());
        }
        if pair.is_comparable() {
            self.added.push(pair.added());
        }
    }
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len().max(1) as f64
}

/// A quantile of sorted numbers: 0.5 is the median, 1 the greatest.
fn quantile(numbers: &[f64], part: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    // At most `last`, which is an index.
    let index = (part * last as f64).round() as usize;
    sorted.get(index).copied().unwrap_or(0.0)
}

impl fmt::Display for PairedResult<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.plan.options;
        writeln!(
            f,
            "seed {}, {} faults in {:?}, {} pulls on {} nodes; each column: with mirrors / without",
            options.seed,
            self.plan.faults.len(),
            Duration::from_secs(options.time.as_secs()),
            self.pairs.len(),
            options.nodes,
        )?;
        writeln!(
            f,
            "| during | faults | pulls | retried once | failed twice | median, s | added: mean, median, 95 %, worst, s | more than 2 s slower / faster |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for (name, row) in self.rows() {
            let Row {
                faults,
                pulls,
                retried,
                failed,
                added,
                took,
            } = row;
            let faults = if name.starts_with('~') {
                String::new()
            } else {
                faults.to_string()
            };
            writeln!(
                f,
                "| {} | {faults} | {pulls} | {} / {} | {} / {} | {:.2} / {:.2} | {:+.2}, {:+.2}, {:+.2}, {:+.2} | {} / {} |",
                name.trim_start_matches('~').trim(),
                retried[0],
                retried[1],
                failed[0],
                failed[1],
                quantile(&took[0], 0.5),
                quantile(&took[1], 0.5),
                mean(&added),
                quantile(&added, 0.5),
                quantile(&added, 0.95),
                quantile(&added, 1.0),
                added.iter().filter(|seconds| **seconds > MUCH).count(),
                added.iter().filter(|seconds| **seconds < -MUCH).count(),
            )?;
        }
        if let Some((before, after)) = &self.with.levels {
            let most = |levels: &[super::cluster::Level]| {
                let descriptors = levels.iter().map(|level| level.descriptors).max();
                let memory = levels.iter().map(|level| level.memory).max();
                (descriptors.unwrap_or(0), memory.unwrap_or(0) >> 20)
            };
            let ((descriptors, memory), (then, most_memory)) = (most(before), most(after));
            writeln!(
                f,
                "most of one mirror: {descriptors} descriptors and {memory} MiB before, {then} and {most_memory} MiB after"
            )?;
        }
        Ok(())
    }
}
