//! The trial pull of node readiness: a real containerd, configured for a mirror or not.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use containerd::{Config, TrialError, run_trial};
use e2e::{Containerd, Generation, Host, Lab, REGISTRY_PORT, Settings};
use mirror::memory::{MemoryCluster, MemoryStore};
use mirror::{
    Access, Adapters, Candidate, Limits, Mirror, Options, PeerId, Reader, TRIAL_REPOSITORY,
    trial_registry,
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The trial passes once hosts.toml leads to the mirror, and leaves nothing in containerd.
pub async fn trial_needs_hosts_toml(lab: Lab, generation: Generation) -> Result<()> {
    let host = lab.add_host("node", 11)?;
    let (folder, log) = (lab.folder("node")?, lab.log("containerd"));
    let node = Containerd::start(generation, &Settings::default(), &host, &folder, log).await?;
    let mirror = Arc::new(mirror(&host));
    let listener = host.listen(REGISTRY_PORT)?;
    listener.set_nonblocking(true)?;
    let (listener, shutdown) = (TcpListener::from_std(listener)?, CancellationToken::new());
    let serving = mirror::serve::registry(listener, mirror.clone(), shutdown.clone());
    let serving = tokio::spawn(serving);

    let config = Config {
        socket: node.socket(),
        namespaces: Vec::new(),
        content_path: None,
        registries: Vec::new(),
        retain: None,
    };
    let trials = mirror.trials();
    let reserved = trial_registry(&[])?;
    match run_trial(&config, &trials, &reserved).await {
        Err(TrialError::NotAsked { .. }) => {}
        other => bail!("hosts.toml does not lead to the mirror, and the trial says {other:?}"),
    }
    for registry in [reserved, trial_registry(&[lab.upstream.url()])?] {
        let folder = node.hosts().join(registry.as_str());
        fs::create_dir_all(&folder)?;
        let target = format!("http://{}:{REGISTRY_PORT}", host.address);
        let hosts = format!("[host.'{target}']\ncapabilities = ['pull']\n");
        fs::write(folder.join("hosts.toml"), hosts)?;
        let passed = run_trial(&config, &trials, &registry).await;
        passed.with_context(|| format!("a trial on {registry}"))?;

        let images = node.cri.images().await?;
        let left = images.iter().find(|image| image.contains(TRIAL_REPOSITORY));
        ensure!(left.is_none(), "the trial left {left:?}");
    }
    shutdown.cancel();
    Ok(serving.await?)
}

/// A mirror of a node without content or peers.
fn mirror(host: &Host) -> Mirror {
    let alone = Candidate {
        peer: PeerId::new("node"),
        addresses: [(host.address, REGISTRY_PORT).into()].into(),
    };
    let parts = Adapters {
        store: Arc::new(MemoryStore::default()),
        router: Arc::new(MemoryCluster::default().router(alone)),
        pull_through: None,
        checks: None,
        flights: None,
    };
    let options = Options {
        access: Access::default(),
        reader: Reader::default(),
        limits: Limits {
            resolve_timeout: Duration::from_millis(20),
            attempts: 1,
        },
    };
    Mirror::new(parts, options, &mut Registry::default())
}
