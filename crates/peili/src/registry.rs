//! `peili registry`: binds, wires the adapters together, runs, drains.

use std::sync::Arc;

use anyhow::Context;
use containerd::{Containerd, Setup, State};
use layout::Layout;
use mirror::{Intake, Mirror, Parts, Router, Upstream};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use upstream::Registries;

use crate::cli::RegistryArgs;
use crate::observe;
use crate::settings::{Settings, Store};

/// Runs the mirror until `shutdown`.
pub async fn run(arguments: &RegistryArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let settings = Settings::validate(arguments)?;
    Bound::bind(settings).await?.run(shutdown).await
}

/// All ports taken, nothing running yet: what cannot work is known before anybody is told of this node.
struct Bound {
    settings: Settings,
    metrics: Registry,
    registry: TcpListener,
    observe: TcpListener,
    swarm: swarm::Bound,
}

impl Bound {
    async fn bind(settings: Settings) -> anyhow::Result<Self> {
        let mut metrics = Registry::default();
        let taken = |flag, address| {
            format!("cannot listen on {flag} {address}; free the port or choose another")
        };
        let registry = settings.registry_addr.bind();
        let registry =
            registry.with_context(|| taken("--registry-addr", settings.registry_addr))?;
        let observe = settings.metrics_addr.bind();
        let observe = observe.with_context(|| taken("--metrics-addr", settings.metrics_addr))?;
        let config = swarm::Config {
            listen: settings.router_addr,
            registry_port: registry.local_addr()?.port(),
            data_dir: settings.data_dir.clone(),
            bootstrap: settings.bootstrap.clone(),
            flights: settings.flights,
        };
        let swarm = swarm::bind(config, &mut metrics).await?;
        Ok(Self {
            settings,
            metrics,
            registry,
            observe,
            swarm,
        })
    }

    async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self {
            settings,
            mut metrics,
            registry,
            observe,
            swarm,
        } = self;
        let mut tasks = JoinSet::new();
        let (registry_address, metrics_address) = (registry.local_addr()?, observe.local_addr()?);
        let router_port = swarm.port();
        let (router, mut cluster) = swarm.spawn();
        let mut parts = open(settings.store, router.clone(), &mut metrics, &mut tasks).await?;
        if settings.flights {
            parts.flights = Some(router);
        }
        let mirror = Arc::new(Mirror::new(parts, settings.mirror, &mut metrics));

        let announcing = mirror.clone();
        tasks.spawn(async move { announcing.announce().await });
        // Peers must stop finding this node before it stops answering them.
        let closing = CancellationToken::new();
        tasks.spawn(observe::serve(
            observe,
            metrics,
            mirror.clone(),
            closing.clone(),
        ));
        let mut serving = tokio::spawn(mirror::serve::registry(registry, mirror, closing.clone()));
        tracing::info!(
            registry = %registry_address,
            metrics = %metrics_address,
            router_port,
            "peili runs"
        );

        let result = tokio::select! {
            biased;
            () = shutdown.cancelled() => Ok(()),
            () = cluster.failed() => Err(anyhow::anyhow!("the router ended; its last log lines say why")),
            ended = &mut serving => return Err(unexpected(ended)),
            Some(ended) = tasks.join_next() => Err(unexpected(ended)),
        };
        cluster.shutdown().await;
        closing.cancel();
        if tokio::time::timeout(settings.drain_timeout, serving)
            .await
            .is_err()
        {
            tracing::warn!(after = ?settings.drain_timeout, "requests were cut off; containerd resumes them elsewhere");
        }
        result
    }
}

/// What to say of a task that should have run for ever.
fn unexpected(ended: Result<(), tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Err(error) => anyhow::Error::from(error).context("a task failed"),
        Ok(()) => anyhow::anyhow!("a task that runs for ever has ended"),
    }
}

/// Opens the store and starts what keeps it right.
async fn open(
    store: Store,
    router: Arc<dyn Router>,
    metrics: &mut Registry,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Parts> {
    match store {
        Store::Containerd { config, setup } => {
            tasks.spawn(check(config.clone(), setup));
            let (store, keeper) = Containerd::open(config, metrics);
            tasks.spawn(keeper);
            Ok(Parts {
                store,
                router,
                intake: None,
                flights: None,
            })
        }
        Store::Layout { options, upstream } => {
            let mut opened = std::mem::take(metrics);
            let opening = move || {
                let layout = Layout::open(&options, &mut opened);
                (layout, opened)
            };
            let (layout, opened) = tokio::task::spawn_blocking(opening).await?;
            *metrics = opened;
            let store = Arc::new(layout?);
            let upstream: Arc<dyn Upstream> = Arc::new(Registries::new(upstream)?);
            let intake: Arc<dyn Intake> = store.clone();
            Ok(Parts {
                store,
                router,
                intake: Some((intake, upstream)),
                flights: None,
            })
        }
    }
}

/// Says what should be changed in containerd's configuration, then rests.
async fn check(config: containerd::Config, setup: Setup) {
    for finding in containerd::check(&config, &setup).await {
        match finding.state {
            State::Ok => tracing::debug!("{finding}"),
            State::Unknown => tracing::info!("{finding}"),
            State::Warning => tracing::warn!("{finding}"),
        }
    }
    std::future::pending::<()>().await;
}
