//! What happens, one step after the other: an image, a registry, a cluster, pulls, a verdict.

use std::io::Write;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;

use oci::{Key, Name, RegistryUrl, Scheme};
use tokio::net::TcpListener;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client;
use crate::folder::Folder;
use crate::node::{Node, Source};
use crate::registry::UpstreamRegistry;
use crate::report::{NodeReport, Report};
use crate::screen::{Bar, Introduction, Screen};
use crate::{DemoError, Image, Options, image};

/// [`plan`] in words.
const PLAN: &str =
    "Node 1 pulls from the registry, then all others at once from it and from one another.";

/// Who pulls when, by index: groups one after the other, the nodes of a group at once.
fn plan(nodes: usize) -> Vec<Range<usize>> {
    vec![0..1, 1..nodes]
}

pub(crate) async fn play<W: Write>(
    options: &Options,
    folder: &mut Folder,
    screen: &mut Screen<W>,
    shutdown: &CancellationToken,
) -> Result<Report, DemoError> {
    let introduction = Introduction::of(options);
    screen.introduce(&introduction).map_err(DemoError::Output)?;
    let (name, source, upstream) = match &options.image {
        Image::Registry(name) => (name.clone(), Source::Internet, None),
        Image::Generated { size, layers } => {
            // The image once for upstream and once for each node, and a little more for all the rest.
            folder.check_room((size + size / 16) * (options.nodes as u64 + 1))?;
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let listener = listener.map_err(DemoError::Listen)?;
            let address = listener.local_addr().map_err(DemoError::Listen)?;
            let name: Name = format!("{address}/demo/image:latest").parse()?;
            generate(folder, &name, *size, *layers, shutdown).await?;
            let registry = name.origin.registry.clone();
            let upstream = UpstreamRegistry::start(listener, &registry, folder).await?;
            let scheme = Scheme::Http;
            let source = Source::Local(RegistryUrl { scheme, registry });
            (name, source, Some(upstream))
        }
    };
    let nodes = cluster(options.nodes, &source, folder).await?;

    let mut report = pulls(&nodes, &name, screen).await?;
    report.sent_by_upstream = upstream.as_ref().map(UpstreamRegistry::sent);
    let faults = report.faults();
    screen.finish(&report, &faults).map_err(DemoError::Output)?;
    if faults.is_empty() {
        Ok(report)
    } else {
        Err(DemoError::Off(faults))
    }
}

impl Introduction {
    fn of(options: &Options) -> Self {
        let (image, generated) = match &options.image {
            Image::Generated { size, layers } => (None, Some((*size, *layers))),
            Image::Registry(name) => (Some(client::text(name)), None),
        };
        Self {
            image,
            nodes: options.nodes,
            plan: PLAN,
            generated,
        }
    }
}

async fn generate(
    folder: &Folder,
    name: &Name,
    size: u64,
    layers: u64,
    shutdown: &CancellationToken,
) -> Result<(), DemoError> {
    let (path, name, stop) = (
        folder.path(UpstreamRegistry::FOLDER),
        name.clone(),
        shutdown.clone(),
    );
    let writing = {
        let path = path.clone();
        move || image::generate(&path, &name, size, layers, &stop)
    };
    let written = spawn_blocking(writing).await.map_err(DemoError::Task)?;
    written.map_err(|source| DemoError::Generate {
        folder: path,
        source,
    })
}

/// Starts the nodes and waits until all have met.
async fn cluster(
    count: usize,
    source: &Source,
    folder: &mut Folder,
) -> Result<Vec<Node>, DemoError> {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=count {
        nodes.push(Node::start(number, source, &nodes, folder).await?);
    }
    for node in &nodes {
        node.joined(count).await?;
    }
    Ok(nodes)
}

/// Carries out the plan.
async fn pulls<W: Write>(
    nodes: &[Node],
    image: &Name,
    screen: &mut Screen<W>,
) -> Result<Report, DemoError> {
    let bars: Vec<Arc<Bar>> = nodes.iter().map(|node| screen.bar(node.number)).collect();
    let started = Instant::now();
    let mut reports = Vec::new();
    let mut held: Vec<Key> = Vec::new();
    for group in plan(nodes.len()) {
        for node in &nodes[group.clone()] {
            node.finds(&held).await?;
        }
        let mut running = JoinSet::new();
        for index in group {
            let (registry, image, bar) =
                (nodes[index].registry, image.clone(), bars[index].clone());
            running.spawn(async move {
                let began = Instant::now();
                let result = client::pull(registry, &image, bar).await;
                (index, result, began.elapsed())
            });
        }
        while let Some(done) = running.join_next().await {
            let (index, result, took) = done.map_err(DemoError::Task)?;
            let node = &nodes[index];
            let pulled = result.map_err(|source| DemoError::Pull {
                number: node.number,
                source,
            })?;
            let report = NodeReport {
                number: node.number,
                digest: pulled.digest,
                took,
                bytes: pulled.bytes,
                metadata: pulled.metadata,
                from_upstream: node.bytes_from_upstream(),
                from_peers: node.bytes_from_peers(),
            };
            let shown = screen.pulled(&report, &bars[index]);
            shown.map_err(DemoError::Output)?;
            reports.push(report);
            held = pulled.objects.into_iter().map(Key::Digest).collect();
        }
    }
    reports.sort_by_key(|report| report.number);
    Ok(Report {
        nodes: reports,
        took: started.elapsed(),
        sent_by_upstream: None,
    })
}
