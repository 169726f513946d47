//! Nodes that pull the same image at the same moment during a fault.

use anyhow::{Context, Result, ensure};
use e2e::{Generation, Image, Lab, Node, Settings, Treatment, until};
use tokio::sync::Barrier;

use crate::ensure_nothing;
use crate::flights::{
    LONG_LAYER, asks_upstream, ensure_at_most, in_the_middle, pull_together, start,
};

/// How a leader's pull ends in the middle.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its pod is deleted.
    Cancelled,
    ContainerdKilled,
}

/// The pull of the node that pulls from upstream is cancelled: the others go on.
pub async fn leader_is_cancelled(lab: Lab, containerd: Generation) -> Result<()> {
    leader_ends(&lab, containerd, End::Cancelled).await
}

/// The containerd of the node that pulls from upstream dies: the others go on.
pub async fn leaders_containerd_dies(lab: Lab, containerd: Generation) -> Result<()> {
    leader_ends(&lab, containerd, End::ContainerdKilled).await
}

async fn leader_ends(lab: &Lab, containerd: Generation, end: End) -> Result<()> {
    let mut nodes: [_; 4] = start(lab, containerd, Settings::default()).await?;
    let image = lab.upstream.push("lab/app", "v1", &[LONG_LAYER])?;
    let layer = &image.blobs[1];
    let (leader, others) = nodes.split_first_mut().context("a leader")?;
    let others = &*others;

    let ended = async {
        tokio::select! {
            pulled = leader.pull(&image) => pulled.context("at the leader, before its end"),
            half = in_the_middle(leader, layer) => half,
        }
        .and_then(|()| match end {
            End::Cancelled => Ok(()),
            End::ContainerdKilled => leader.containerd.kill(),
        })
    };
    let follow = async {
        asks_upstream(lab, leader, layer).await?;
        pull_together(others, &image).await
    };
    tokio::try_join!(ended, follow)?;
    ensure_led_by(lab, leader, &image)?;
    let given = lab.upstream.gate()?.sent_of(layer);
    // Once in all, plus what the others did not have yet.
    ensure!(
        given * 100 <= layer.bytes.len() as u64 * 125,
        "{given} bytes"
    );

    if end == End::ContainerdKilled {
        leader.restart_containerd().await?;
        leader.ready().await?;
    }
    let again = async { leader.pull(&image).await.context("once more") };
    let sent = lab.upstream.sent_during(again).await?;
    ensure_nothing(sent)
}

/// Fails unless a node was the first to pull the layer from upstream: otherwise the test shows nothing.
fn ensure_led_by(lab: &Lab, node: &Node, image: &Image) -> Result<()> {
    let askers = lab.upstream.gate()?.askers(&image.blobs[1]);
    let first = askers.first().context("nobody asked upstream")?;
    ensure!(*first == node.host.address, "{first} led");
    Ok(())
}

/// The mirror of the node that pulls from upstream dies. Its containerd continues, and the others get the image.
pub async fn leaders_mirror_dies(lab: Lab, containerd: Generation) -> Result<()> {
    let nodes: [_; 4] = start(&lab, containerd, Settings::default()).await?;
    let image = lab.upstream.push("lab/app", "v1", &[LONG_LAYER])?;
    let (leader, others, layer) = (&nodes[0], &nodes[1..], &image.blobs[1]);
    let follow = async {
        asks_upstream(&lab, leader, layer).await?;
        pull_together(others, &image).await
    };
    let kill = async {
        in_the_middle(leader, layer).await?;
        leader.kill_mirror()
    };
    let lead = async { leader.pull(&image).await.context("at the leader") };
    let pulls = async { tokio::try_join!(lead, follow, kill).map(drop) };
    let given = lab.upstream.given_during(pulls).await?;
    ensure_led_by(&lab, leader, &image)?;
    // Its rest twice: for the leader and for the others.
    ensure_at_most(175, &[&image], given)
}

/// All mirrors die at once: every containerd continues by itself.
pub async fn all_mirrors_die(lab: Lab, containerd: Generation) -> Result<()> {
    let nodes: [_; 3] = start(&lab, containerd, Settings::default()).await?;
    let image = lab.upstream.push("lab/app", "v1", &[LONG_LAYER])?;
    let kill = async {
        for node in &nodes {
            in_the_middle(node, &image.blobs[1]).await?;
        }
        nodes.iter().try_for_each(Node::kill_mirror)
    };
    let pulls = async { tokio::try_join!(pull_together(&nodes, &image), kill).map(drop) };
    let given = lab.upstream.given_during(pulls).await?;
    // If it came to each from the start, it would be three times the image.
    ensure_at_most(250, &[&image], given)
}

/// A mirror dies just before the others pull: it was the arbiter of some of the objects.
pub async fn owner_dies(lab: Lab, containerd: Generation) -> Result<()> {
    let nodes: [_; 5] = start(&lab, containerd, Settings::default()).await?;
    let image = lab.upstream.push("lab/app", "v1", &[1 << 20; 8])?;
    nodes[0].kill_mirror()?;
    let pulls = pull_together(&nodes[1..], &image);
    let given = lab.upstream.given_during(pulls).await?;
    ensure_at_most(200, &[&image], given)
}

/// Upstream refuses the node that is to pull for all: another one pulls.
pub async fn leader_is_unauthorized(lab: Lab, containerd: Generation) -> Result<()> {
    leader_is_refused(&lab, containerd, 401).await
}

/// Upstream rate-limits the node that is to pull for all: another one pulls.
pub async fn leader_is_rate_limited(lab: Lab, containerd: Generation) -> Result<()> {
    leader_is_refused(&lab, containerd, 429).await
}

async fn leader_is_refused(lab: &Lab, containerd: Generation, status: u16) -> Result<()> {
    let nodes: [_; 4] = start(lab, containerd, Settings::default()).await?;
    let image = lab.upstream.push("lab/app", "v1", &[LONG_LAYER])?;
    let (leader, others) = (&nodes[0], [&nodes[1], &nodes[2], &nodes[3]]);
    let (gate, layer) = (lab.upstream.gate()?, &image.blobs[1]);
    gate.treat(&leader.host, layer, Treatment::Held);
    // Its pull fails as it would without Peili, or is saved by the others.
    let lead = async {
        let pulled = leader.pull(&image).await;
        if let Err(error) = pulled {
            println!("at the leader: {error:#}");
        }
        Ok(())
    };
    let refuse = async {
        asks_upstream(lab, leader, layer).await?;
        let pulls = pull_together(others, &image);
        let ask = async {
            let begun = || {
                others
                    .iter()
                    .any(|o| o.containerd.received(layer).is_some())
            };
            until("one of the others to begin", async || Ok(begun())).await?;
            gate.treat(&leader.host, layer, Treatment::Refused(status));
            Ok(())
        };
        tokio::try_join!(pulls, ask).map(drop)
    };
    let pulls = async { tokio::try_join!(lead, refuse).map(drop) };
    let given = lab.upstream.given_during(pulls).await?;
    ensure_at_most(110, &[&image], given)?;

    let again = async { leader.pull(&image).await.context("once more") };
    let sent = lab.upstream.sent_during(again).await?;
    ensure_nothing(sent)
}

/// The node that pulls for all gets wrong bytes from upstream: each node fails at most once, and then gets the object
/// elsewhere.
pub async fn leader_gets_wrong_bytes(lab: Lab, containerd: Generation) -> Result<()> {
    let nodes: [_; 3] = start(&lab, containerd, Settings::default()).await?;
    let image = lab.upstream.push("lab/app", "v1", &[LONG_LAYER / 2])?;
    let (leader, others) = (&nodes[0], [&nodes[1], &nodes[2]]);
    let (gate, layer) = (lab.upstream.gate()?, &image.blobs[1]);
    gate.treat(&leader.host, layer, Treatment::Corrupted);
    // Where no other node asks, the same one leads again. So all wait for the others before the second attempt.
    let all = Barrier::new(nodes.len());
    let again = async |node: &Node, pulled: Result<()>| {
        if pulled.is_err() {
            // containerd would retry the failed commit if the bytes were still there.
            let what = format!("{} to drop what is wrong", node.host.address);
            let is_dropped = async || Ok(node.containerd.received(layer).is_none());
            until(&what, is_dropped).await?;
        }
        all.wait().await;
        match pulled {
            Ok(()) => Ok(()),
            Err(_) => {
                let pulled = node.pull(&image).await;
                pulled.with_context(|| format!("once more on {}", node.host.address))
            }
        }
    };
    let follow = async |node: &Node| {
        asks_upstream(&lab, leader, layer).await?;
        let pulled = node.pull(&image).await;
        again(node, pulled).await
    };
    let lead = async {
        let pulled = leader.pull(&image).await;
        ensure!(pulled.is_err(), "wrong bytes were taken for the image");
        again(leader, pulled).await
    };
    tokio::try_join!(lead, follow(others[0]), follow(others[1])).map(drop)
}
