//! One run of a plan, with mirrors or without.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::join_all;
use tokio::task::{JoinSet, LocalSet, spawn_blocking, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

use super::cluster::{Cluster, Level};
use super::fault::NodeNumber;
use super::plan::{Plan, Planned};
use crate::image::Image;

/// How long before its first pull an image is generated and published.
const AHEAD: Duration = Duration::from_secs(1);
/// A failed pull is repeated once, after this time, as by a kubelet. No fault lasts as long.
const RETRY: Duration = Duration::from_secs(10);
/// How long images are kept after their first pull has begun.
const KEPT: Duration = Duration::from_secs(20);
/// The interval between checks for programs that have ended unexpectedly.
const SUPERVISION: Duration = Duration::from_millis(500);
/// The time in the run of the first measurement of a mirror's resources, before any fault.
const LEVEL_AT: Duration = Duration::from_secs(5);
/// The limit for a mirror to return to that level.
const SETTLE: Duration = Duration::from_secs(120);
/// The tolerated increase over the run: descriptors, and bytes of memory.
const MORE_DESCRIPTORS: usize = 24;
const MORE_MEMORY: u64 = 48 << 20;

/// The result of a run.
pub struct Observed {
    /// The pulls, in the order of the plan.
    pub pulls: Vec<Pull>,
    /// The number of committed files with wrong bytes.
    pub wrong_blobs: usize,
    /// The faults that could not be started or repaired, as texts.
    pub unbroken: Vec<String>,
    /// The number of mirrors that ended unexpectedly.
    pub ended: usize,
    /// The mirrors' resources at the start and at the end.
    pub levels: Option<(Vec<Level>, Vec<Level>)>,
}

/// A pull and its result. Times count from the start of the run.
#[derive(Clone, Debug)]
pub struct Pull {
    pub wave: usize,
    pub node: NodeNumber,
    pub began: Duration,
    pub took: Duration,
    pub attempts: u32,
    /// When the last attempt began.
    pub last_began: Duration,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// Runs a plan.
pub async fn run(plan: &Arc<Plan>, logs: PathBuf, has_mirrors: bool) -> Result<Observed> {
    // A single thread, on which nothing takes long.
    LocalSet::new()
        .run_until(run_on_one_thread(plan, logs, has_mirrors))
        .await
}

async fn run_on_one_thread(plan: &Arc<Plan>, logs: PathBuf, has_mirrors: bool) -> Result<Observed> {
    let cluster = Arc::new(Cluster::start(logs, has_mirrors).await?);
    let begin = Instant::now();
    let mut waves = JoinSet::new();
    for number in 0..plan.waves.len() {
        let (cluster, plan) = (cluster.clone(), plan.clone());
        waves.spawn_local(async move { wave(&cluster, &plan, number, begin).await });
    }
    let mut faults = JoinSet::new();
    let of_run = |planned: &&Planned| has_mirrors || planned.fault.kind.happens_without_mirrors();
    for &planned in plan.faults.iter().filter(of_run) {
        let cluster = cluster.clone();
        faults.spawn_local(async move { break_and_mend(&cluster, planned, begin).await });
    }
    let watched = cluster.clone();
    let supervision = spawn_local(async move {
        loop {
            sleep(SUPERVISION).await;
            if let Err(error) = watched.supervise().await {
                println!("{error:#}");
            }
        }
    });
    sleep_until(begin + LEVEL_AT).await;
    let before = match has_mirrors {
        true => Some(cluster.levels().await?),
        false => None,
    };

    let (mut pulls, mut wrong_blobs) = (Vec::new(), 0);
    while let Some(done) = waves.join_next().await {
        let (of_wave, wrong) = done.context("a wave panicked")??;
        pulls.extend(of_wave);
        wrong_blobs += wrong;
    }
    pulls.sort_by_key(|pull| (pull.wave, pull.node));
    let unbroken = faults.join_all().await.into_iter().flatten().collect();
    let levels = match before {
        Some(before) => {
            let after = settled(&cluster, &before).await?;
            Some((before, after))
        }
        None => None,
    };
    supervision.abort();
    // It was cancelled.
    let _ = supervision.await;
    Ok(Observed {
        pulls,
        wrong_blobs,
        unbroken,
        ended: cluster.ended(),
        levels,
    })
}

/// Publishes an image, has it pulled and checked, and removes it again.
async fn wave(
    cluster: &Arc<Cluster>,
    plan: &Arc<Plan>,
    number: usize,
    begin: Instant,
) -> Result<(Vec<Pull>, usize)> {
    let wave = &plan.waves[number];
    sleep_until(begin + wave.at.saturating_sub(AHEAD)).await;
    let (registry, made) = (cluster.registry().to_owned(), plan.clone());
    let image = spawn_blocking(move || made.waves[number].image(&registry)).await?;
    let image = Arc::new(image);
    cluster.publish(&image).await?;
    let of_node = async |&(node, at): &(NodeNumber, Duration)| {
        sleep_until(begin + at).await;
        let pull = pull(cluster, &image, node, number, begin).await;
        let (cluster, image) = (cluster.clone(), image.clone());
        let looked = spawn_blocking(move || cluster.wrong_blobs(node, &image)).await;
        Ok((pull, looked.context("the look at what was pulled failed")?))
    };
    let pulls: Result<Vec<_>> = join_all(wave.pulls.iter().map(of_node))
        .await
        .into_iter()
        .collect();
    let (pulls, wrong): (Vec<_>, Vec<_>) = pulls?.into_iter().unzip();
    if wave.at + KEPT > plan.ends {
        // They are removed with the run.
        return Ok((pulls, wrong.iter().sum()));
    }
    sleep_until(begin + wave.at + KEPT).await;
    for (node, _) in &wave.pulls {
        // It may have been removed already, or its containerd may be down: it is removed with the run then.
        let _ = cluster.cri(*node).remove(&image.by_tag()).await;
    }
    Ok((pulls, wrong.iter().sum()))
}

async fn pull(
    cluster: &Cluster,
    image: &Image,
    node: NodeNumber,
    wave: usize,
    begin: Instant,
) -> Pull {
    let start = Instant::now();
    let (mut attempts, mut last) = (1, start);
    let reference = image.by_tag();
    let mut result = cluster.cri(node).pull(&reference).await;
    if let Err(error) = &result {
        println!("wave {wave}, node {node}: {error:#}");
        // If it never answers, the second attempt fails as well.
        let _ = cluster.answers(node).await;
        sleep(RETRY).await;
        (attempts, last) = (2, Instant::now());
        result = cluster.cri(node).pull(&reference).await;
    }
    Pull {
        wave,
        node,
        began: start - begin,
        took: start.elapsed(),
        attempts,
        last_began: last - begin,
        error: result.err().map(|error| format!("{error:#}")),
    }
}

/// The failure to start or repair a fault, as a text.
async fn break_and_mend(cluster: &Cluster, planned: Planned, begin: Instant) -> Option<String> {
    let fault = planned.fault;
    let told = |done: Result<()>, what: &str| {
        let error = done.err()?;
        Some(format!(
            "{}, node {}: {what}: {error:#}",
            fault.kind, fault.node
        ))
    };
    sleep_until(begin + planned.at).await;
    let begun = cluster.begin(fault).await;
    sleep_until(begin + planned.at + planned.lasts).await;
    let ended = cluster.end(fault).await;
    told(begun, "not broken").or(told(ended, "not mended"))
}

/// The mirrors' resources once they are no higher than before, or after the limit.
async fn settled(cluster: &Cluster, before: &[Level]) -> Result<Vec<Level>> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let now = cluster.levels().await?;
        if is_level(before, &now) || Instant::now() >= deadline {
            return Ok(now);
        }
        sleep(SUPERVISION).await;
    }
}

/// Whether no mirror uses more than before.
pub fn is_level(before: &[Level], after: &[Level]) -> bool {
    before.iter().zip(after).all(|(before, after)| {
        after.descriptors <= before.descriptors + MORE_DESCRIPTORS
            && after.memory <= before.memory + MORE_MEMORY
    })
}
