//! Nodes with certificates, and nodes without one or with one of another authority.

use std::sync::LazyLock;

use anyhow::{Result, ensure};
use e2e::{
    Generation, Host, Image, Lab, Mirror, Node, REGISTRY_PORT, Settings, Store, ask_by_tls,
    publish, until,
};
use rcgen::date_time_ymd;
use tls::testing::{Authority, NodeFiles};

use crate::doctor::Doctor;
use crate::network_key::{ensure_closed, meets_nobody, shares};
use crate::{LAYERS, flights};

/// The doctor's finding on peers that cannot be reached.
const CLOSED_PORT: &str = "PEILI-P002";

static OURS: LazyLock<Authority> = LazyLock::new(|| Authority::new("ours"));
/// The certificate that all nodes share at first, like the pods of a DaemonSet.
static FIRST: LazyLock<NodeFiles> = LazyLock::new(|| files(&OURS, &[&OURS], 2090));

/// Files of a node whose certificate expires in this year, which distinguishes it from others.
fn files(by: &Authority, trusted: &[&Authority], year: i32) -> NodeFiles {
    by.sign(trusted, |params| {
        params.not_after = date_time_ymd(year, 1, 1);
    })
}

fn settings() -> Settings {
    Settings {
        secret: true,
        peer_tls: Some(&FIRST),
        ..Settings::default()
    }
}

/// Nodes with certificates share content. A client that uses plain HTTP, has no certificate, or one of another
/// authority gets no manifest and no blob, and such mirrors find no peer over libp2p.
pub async fn clients_without_a_certificate_get_nothing(
    lab: Lab,
    containerd: Generation,
) -> Result<()> {
    let nodes: [_; 2] = lab.start_nodes_with(containerd, settings()).await?;
    let image = lab.upstream.push("lab/app", "v1", &LAYERS)?;
    nodes[0].pull(&image).await?;
    shares(&lab, &nodes[1], &image).await?;
    closed_port_is_named(&nodes).await?;

    let outside = lab.add_host("outside", 41)?;
    let theirs = Authority::new("theirs");
    let foreign = files(&theirs, &[&OURS, &theirs], 2090);
    for node in &nodes {
        ensure_closed(node, &outside, &image)?;
        // A process on the node without the node's secret is a stranger, too.
        ensure_closed(node, &node.host, &image)?;
        ensure_closed_by_tls(node, &outside, &image, None)?;
        ensure_closed_by_tls(node, &outside, &image, Some(&foreign))?;
        let blob = format!("{}?ns={}", image.paths()[1], image.registry);
        let answer = ask(node, &outside, &blob, Some(&FIRST))?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{blob}: {answer}");
    }
    let (folder, missing) = (lab.folder("foreign")?, lab.folder("missing")?);
    publish(&folder, &foreign)?;
    let option = |folder| vec!["--peer-tls-dir".as_ref(), folder];
    for (name, last, options) in [
        ("bare", 42, vec![]),
        ("foreign", 43, option(folder.as_os_str())),
        ("without", 44, option(missing.as_os_str())),
    ] {
        let host = lab.add_host(name, last)?;
        let store = lab.folder(&format!("{name}-store"))?;
        let mut stranger = Mirror::start(
            &host,
            &Store::Layout(&store),
            &[lab.upstream.url()],
            &lab.folder(&format!("{name}-data"))?,
            nodes[0].host.address,
            &options,
            &lab.log(name),
        )?;
        stranger.ready(&host).await?;
        meets_nobody(&host, &stranger, &image, "peili_router_dials_failed_total").await?;
        stranger.stop().await?;
    }
    for node in &nodes {
        for (metric, is_right) in [
            ("peili_router_members", |members| members == 2.0),
            ("peili_outside_network_refused_total", |count| count > 0.0),
            ("peili_peer_tls_connections_refused_total", |c| c > 0.0),
        ] as [(_, fn(f64) -> bool); 3]
        {
            let found = node.metric(metric)?;
            ensure!(is_right(found), "{metric} is {found}");
        }
    }
    Ok(())
}

/// The doctor of a node with certificates reaches its peers as pulls do.
async fn closed_port_is_named(nodes: &[Node; 2]) -> Result<()> {
    let doctor = Doctor::of(&nodes[0])?;
    let is_named = || {
        anyhow::Ok(
            doctor
                .finds(&[])?
                .iter()
                .any(|f| f.starts_with(CLOSED_PORT)),
        )
    };
    ensure!(!is_named()?, "the peer can be reached");
    nodes[1].host.close(REGISTRY_PORT)?;
    until("the closed port to be named", async || is_named()).await?;
    nodes[1].host.open(REGISTRY_PORT)?;
    until("the open port to be seen", async || Ok(!is_named()?)).await
}

/// Followers stream from their leader over TLS while it pulls.
pub async fn an_image_crosses_the_upstream_link_once_by_tls(
    lab: Lab,
    containerd: Generation,
) -> Result<()> {
    let nodes: [_; 4] = flights::start(&lab, containerd, settings()).await?;
    let layers = [2 << 20, flights::LONG_LAYER / 2, 3 << 20, 300];
    let once = flights::ensure_pulled_once(&lab, &nodes, &layers).await;
    once.map(drop)
}

/// Both nodes pull from each other while certificate and authority are replaced step by step.
pub async fn certificates_are_replaced_while_nodes_pull(
    lab: Lab,
    containerd: Generation,
) -> Result<()> {
    let nodes: [_; 2] = lab.start_nodes_with(containerd, settings()).await?;
    let new = Authority::new("new");
    let both = [&*OURS, &new];
    let steps: [(usize, &Authority, &[&Authority]); 6] = [
        (1, &OURS, &both),
        (0, &OURS, &both),
        (0, &new, &both),
        (1, &new, &both),
        (1, &new, &[&new]),
        (0, &new, &[&new]),
    ];
    let metric = "peili_peer_certificate_expiration_timestamp_seconds";
    for (step, (number, by, trusted)) in steps.into_iter().enumerate() {
        let (node, one, other) = (&nodes[number], &nodes[step % 2], &nodes[1 - step % 2]);
        let image = lab
            .upstream
            .push("lab/during", &format!("v{step}"), &LAYERS)?;
        one.pull(&image).await?;
        other.finds(&image).await?;
        let (before, year) = (node.metric(metric)?, 2091 + step as i32);
        let replaced = async {
            node.replace_certificates(&files(by, trusted, year))?;
            let what = format!("{} to have other certificates", node.host.address);
            until(&what, async || Ok(node.metric(metric)? != before)).await
        };
        let (pulled, replaced) = tokio::join!(other.pull(&image), replaced);
        pulled?;
        replaced?;
        let image = lab
            .upstream
            .push("lab/after", &format!("v{step}"), &LAYERS)?;
        one.pull(&image).await?;
        shares(&lab, other, &image).await?;
    }
    Ok(())
}

fn ask(node: &Node, client: &Host, path: &str, files: Option<&NodeFiles>) -> Result<String> {
    let headers = [("X-Spegel-Mirrored", "true")];
    ask_by_tls(client.connect(node.registry()?)?, path, &headers, files)
}

/// Checks that no request of a client over TLS with this certificate is answered.
fn ensure_closed_by_tls(
    node: &Node,
    client: &Host,
    image: &Image,
    files: Option<&NodeFiles>,
) -> Result<()> {
    for path in image.paths() {
        let path = format!("{path}?ns={}", image.registry);
        let answer = ask(node, client, &path, files);
        ensure!(answer.is_err(), "{path}: {answer:?}");
    }
    Ok(())
}
