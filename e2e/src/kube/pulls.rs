//! Nodes that pull an image continuously, and the durations.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cri::Cri;
use crate::wait;

/// Pulls of one image by several nodes, each one pull after the other. The removal of the image between pulls is not
/// counted.
pub struct Pulls {
    nodes: JoinSet<Vec<Pull>>,
    end: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
}

/// One pull: how long it took, or why it failed.
type Pull = Result<Duration>;

/// The results of all pulls.
pub struct Tally {
    /// The durations of the pulls that succeeded, the fastest first.
    took: Vec<Duration>,
    /// Why the others failed.
    pub failures: Vec<String>,
}

impl Pulls {
    /// Starts pulling.
    pub fn start(nodes: Vec<Cri>, reference: &str) -> Pulls {
        let mut pulls = Pulls {
            nodes: JoinSet::new(),
            end: Arc::default(),
            done: Arc::default(),
        };
        for cri in nodes {
            let (end, done) = (pulls.end.clone(), pulls.done.clone());
            let reference = reference.to_owned();
            pulls.nodes.spawn(async move {
                let mut all = Vec::new();
                while !end.load(Ordering::Relaxed) {
                    all.push(pull(&cri, &reference).await);
                    done.fetch_add(1, Ordering::Relaxed);
                }
                all
            });
        }
        pulls
    }

    /// Waits until this many pulls more have ended.
    pub async fn more(&self, count: usize) -> Result<()> {
        let before = self.done.load(Ordering::Relaxed);
        for enough in before + 1..=before + count {
            let reached = async || Ok(self.done.load(Ordering::Relaxed) >= enough);
            wait::until("one more pull", reached).await?;
        }
        Ok(())
    }

    /// Ends after the running pulls, and counts.
    pub async fn finish(self) -> Tally {
        self.end.store(true, Ordering::Relaxed);
        let mut tally = Tally {
            took: Vec::new(),
            failures: Vec::new(),
        };
        for pull in self.nodes.join_all().await.into_iter().flatten() {
            match pull {
                Ok(took) => tally.took.push(took),
                Err(error) => tally.failures.push(format!("{error:#}")),
            }
        }
        tally.took.sort();
        tally
    }
}

async fn pull(cri: &Cri, reference: &str) -> Pull {
    cri.remove(reference).await?;
    let start = Instant::now();
    cri.pull(reference).await?;
    Ok(start.elapsed())
}

impl Tally {
    /// The median duration of a pull.
    pub fn median(&self) -> Duration {
        self.took
            .get(self.took.len() / 2)
            .copied()
            .unwrap_or_default()
    }

    /// The duration of the slowest pull.
    pub fn slowest(&self) -> Duration {
        self.took.last().copied().unwrap_or_default()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} pulls, {} failed, p50 {} ms, slowest {} ms",
            self.took.len() + self.failures.len(),
            self.failures.len(),
            self.median().as_millis(),
            self.slowest().as_millis(),
        )
    }
}
