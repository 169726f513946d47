//! The steps of the demo: an image, a registry, a cluster, pulls, a verdict.

use std::cmp::Reverse;
use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use oci::{Name, RegistryUrl, Scheme};
use tokio::net::TcpListener;
use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{self, Pulled};
use crate::folder::Folder;
use crate::node::{Node, Source};
use crate::registry::UpstreamRegistry;
use crate::report::{Feeder, NodeReport, Report};
use crate::screen::{Bar, Introduction, Screen};
use crate::{DemoError, Image, Options, Pages, image};

/// A description of the pulls.
const PLAN: &str = "All nodes pull at the same moment, and none has a byte of it.";

/// Returns the report and the nodes, which run until they are dropped.
pub(crate) async fn play<W: Write>(
    options: &Options,
    folder: &mut Folder,
    screen: &mut Screen<W>,
    pages: Option<&dyn Pages>,
    shutdown: &CancellationToken,
) -> Result<(Report, Vec<Node>), DemoError> {
    let introduction = Introduction::of(options);
    screen.introduce(&introduction).map_err(DemoError::Output)?;
    let (name, source, upstream) = match &options.image {
        Image::Registry(name) => (name.clone(), Source::Internet, None),
        Image::Generated { size, layers } => {
            // The image once for upstream and once for each node, and a little more for everything else.
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
    if let (Some(pages), Some(first)) = (pages, nodes.first()) {
        // The others report to it what they do.
        for node in &nodes {
            node.mirror.tell_all();
        }
        let page = pages.serve(first.shown()).await.map_err(DemoError::Page)?;
        screen.page(&page).map_err(DemoError::Output)?;
    }

    let mut report = pulls(&nodes, &name, screen).await?;
    report.sent_by_upstream = upstream.as_ref().map(UpstreamRegistry::sent);
    let faults = report.faults();
    screen.finish(&report, &faults).map_err(DemoError::Output)?;
    if faults.is_empty() {
        Ok((report, nodes))
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
    folder
        .write(writing)
        .await?
        .map_err(|source| DemoError::Generate {
            folder: path,
            source,
        })
}

/// Starts the nodes and waits until all have joined.
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

/// All nodes pull at once.
async fn pulls<W: Write>(
    nodes: &[Node],
    image: &Name,
    screen: &mut Screen<W>,
) -> Result<Report, DemoError> {
    let bars: Vec<Arc<Bar>> = nodes.iter().map(|node| screen.bar(node.number)).collect();
    let started = Instant::now();
    let mut running = JoinSet::new();
    for (index, node) in nodes.iter().enumerate() {
        let (registry, image, bar) = (node.registry, image.clone(), bars[index].clone());
        running.spawn(async move {
            let began = Instant::now();
            let result = client::pull(registry, &image, bar).await;
            (index, result, began.elapsed())
        });
    }
    let mut reports = Vec::new();
    while let Some(done) = running.join_next().await {
        let (index, result, took) = done.map_err(DemoError::Task)?;
        let pulled = result.map_err(|source| DemoError::Pull {
            number: nodes[index].number,
            source,
        })?;
        let report = report(nodes, index, &pulled, took);
        let shown = screen.pulled(&report, &bars[index]);
        shown.map_err(DemoError::Output)?;
        reports.push(report);
        // An interruption is noticed between two nodes, even if all of them are done.
        yield_now().await;
    }
    reports.sort_by_key(|report| report.number);
    Ok(Report {
        nodes: reports,
        took: started.elapsed(),
        sent_by_upstream: None,
    })
}

fn report(nodes: &[Node], index: usize, pulled: &Pulled, took: Duration) -> NodeReport {
    let node = &nodes[index];
    let mut fed = node.fed_by(&pulled.objects);
    let feeders = nodes.iter().filter_map(|feeder| {
        let bytes = fed.remove(&feeder.id())?;
        let number = feeder.number;
        Some(Feeder { number, bytes })
    });
    let mut fed_by: Vec<Feeder> = feeders.collect();
    fed_by.sort_by_key(|feeder| Reverse(feeder.bytes));
    NodeReport {
        number: node.number,
        digest: pulled.digest.clone(),
        took,
        bytes: pulled.bytes,
        metadata: pulled.metadata,
        from_upstream: node.bytes_from_upstream(),
        from_peers: node.bytes_from_peers(),
        fed_by,
    }
}
