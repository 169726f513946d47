//! `peili registry`: binds, wires the adapters together, runs, drains.

mod running;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use containerd::{Containerd, Setup, State};
use doctor::ContainerdPaths;
use kubernetes::NodeReadiness;
use layout::Layout;
use mirror::serve::{ConnectionLimits, Shutdown};
use mirror::{Adapters, CheckOptions, Mirror, PullThrough, Router, Secret, TagPolicy, Upstream};
use prometheus_client::registry::Registry;
use swarm::{Bootstrap, SwarmError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use upstream::{Registries, SetupError};

use crate::cli::RegistryArgs;
use crate::next_hosts::NextHosts;
use crate::observe::{About, LastTrial, PageAccess, Pages, Views};
use crate::readiness::MirrorProbe;
use crate::settings::{Checks, Settings, Store};
use crate::{address, descriptors, network_key_file, observe, peer_tls_dir, traces};
use running::Running;

/// The limits of the registry in a check, for which the client waits for less, and while it sends a layer.
const CHECK_LIMITS: upstream::Limits = upstream::Limits {
    connect: Duration::from_secs(3),
    header: Duration::from_secs(5),
    stall: Duration::from_secs(30),
};

/// Runs the mirror until `shutdown`.
pub async fn run(arguments: &RegistryArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let settings = Settings::validate(arguments)?;
    tell_what_is_not_shared(arguments, &settings);
    let mut running = Bound::bind(settings).await?.start()?;
    let result = running.until(shutdown).await;
    running.shut_down().await;
    result
}

/// Logs if this node, because of its options, has no peers or cannot serve them.
fn tell_what_is_not_shared(arguments: &RegistryArgs, settings: &Settings) {
    if arguments.bootstrap.bootstrap_kind.is_empty() {
        tracing::info!(
            "this node looks for no peers; to share images with other hosts, set --bootstrap-kind"
        );
        return;
    }
    let ports = [
        (
            "--registry-addr",
            settings.registry_addr,
            "fetch nothing from this node",
        ),
        (
            "--router-addr",
            settings.router_addr,
            "cannot connect to this node, and may not find what it has",
        ),
    ];
    for (flag, address, what) in ports {
        if address::is_loopback(address) {
            tracing::warn!(
                "{flag} {address} can be reached from this host alone, so other hosts {what}; to share images, write :PORT or \
                 an address that they can reach"
            );
        }
    }
}

/// All ports bound and the store opened, nothing running yet: faults are found before this node is announced.
struct Bound {
    settings: Settings,
    connections: ConnectionLimits,
    /// The most files that this process may open.
    open_files: usize,
    store: Opened,
    metrics: Registry,
    registry: TcpListener,
    observe: TcpListener,
    swarm: swarm::Bound,
}

impl Bound {
    async fn bind(settings: Settings) -> anyhow::Result<Self> {
        let open_files = descriptors::raise();
        let connections = ConnectionLimits::within(open_files);
        let mut metrics = Registry::default();
        observe::register_node(&mut metrics, &settings.node_name);
        let registry = address::bind("--registry-addr", settings.registry_addr)?;
        let observe = address::bind("--metrics-addr", settings.metrics_addr)?;
        let config = swarm::Config {
            node_name: settings.node_name.clone(),
            listen: settings.router_addr,
            registry_port: registry.local_addr()?.port(),
            data_dir: settings.data_dir.clone(),
            bootstrap: settings.bootstrap.clone(),
            flights: settings.flights,
            network_keys: settings.network_keys.as_ref().map(|file| file.keys.clone()),
            peer_tls: settings.peer_tls.as_ref().map(|folder| folder.tls.clone()),
            connections,
        };
        let swarm = swarm::bind(config, &mut metrics)
            .await
            .map_err(|error| match error {
                SwarmError::Listen { address, source } => {
                    address::refused("--router-addr", address, &source)
                }
                SwarmError::Serve { address, source } => {
                    address::refused("--http-bootstrap-addr", address, &source)
                }
                other => other.into(),
            })?;
        let store = open(settings.store.clone(), &mut metrics).await?;
        Ok(Self {
            settings,
            connections,
            open_files,
            store,
            metrics,
            registry,
            observe,
            swarm,
        })
    }

    /// Starts all tasks.
    fn start(self) -> anyhow::Result<Running> {
        let Self {
            settings,
            connections,
            open_files,
            store,
            mut metrics,
            registry,
            observe,
            swarm,
        } = self;
        let mut tasks = JoinSet::new();
        watch_credentials(&settings, &mut metrics, &mut tasks);
        let (registry_address, metrics_address) = (registry.local_addr()?, observe.local_addr()?);
        let router_port = swarm.port();
        let (router, cluster) = swarm.spawn();
        let access = &settings.mirror.access;
        let own_names = access.own_names.clone();
        let about = About {
            node: settings.node_name.clone(),
            peer_id: router.id().to_string(),
            open_files: open_files as u64,
            looks_for_peers: !matches!(&settings.bootstrap, Bootstrap::Static { peers } if peers.is_empty()),
            registry: registry_address,
            mirrored_registries: settings.mirrored_registries,
            retained_for: match &settings.store {
                Store::Containerd { config, .. } => retained_for(config),
                Store::Layout { .. } => None,
            },
            node_secret: access.node_secret.as_ref().map(Secret::fingerprint),
            network_keys: settings.network_keys,
            containerd: containerd_paths(&settings.store),
            address: metrics_address.to_string(),
            trial: LastTrial::default(),
        };
        let containerd = match &store {
            Opened::Containerd { config, .. } => Some(config.clone()),
            Opened::Layout { .. } => None,
        };
        let mut adapters = start(store, router.clone(), &mut metrics, &mut tasks);
        adapters.flights = settings.flights.then_some(router);
        if containerd.is_some() {
            adapters.checks = checks(settings.checks, registry_address.port())?;
        }
        let mut mirror = Mirror::new(adapters, settings.mirror, &mut metrics);
        let all_sent = CancellationToken::new();
        let mut exporting = JoinSet::new();
        if let Some(traces) = settings.traces {
            let (sink, exporter) = traces::open(traces, &settings.node_name, &mut metrics)?;
            mirror.trace_to(sink);
            exporting.spawn(exporter.run(all_sent.clone()));
        }
        mirror.limit_rates(settings.rates);
        if settings.page_access == PageAccess::Anywhere {
            mirror.tell_all();
        }
        let mut running = Running {
            mirror: Arc::new(mirror),
            cluster,
            tasks,
            announcing: JoinSet::new(),
            serving: JoinSet::new(),
            readiness: JoinSet::new(),
            exporting,
            port: Shutdown {
                drain: CancellationToken::new(),
                close: CancellationToken::new(),
            },
            leaving: CancellationToken::new(),
            all_sent,
            shutdown_delay: settings.shutdown_delay,
            drain_timeout: settings.drain_timeout,
        };
        if let (Some(settings), Some(containerd)) = (settings.node_readiness, containerd) {
            let readiness = NodeReadiness::new(settings.config, settings.account, &mut metrics);
            let probe = MirrorProbe {
                mirror: running.mirror.clone(),
                containerd,
                registry: settings.registry,
                last: about.trial.clone(),
            };
            let leaving = running.leaving.clone();
            let keeping = async move { readiness.keep(&probe, leaving).await };
            running.readiness.spawn(keeping);
        }
        let ready = observe::register_ready(&mut metrics);
        let metrics = observe::Metrics {
            registry: Arc::new(metrics),
            ready,
        };
        let pages = Pages {
            views: Arc::new(Views::new(running.mirror.clone(), about)),
            access: settings.page_access,
            own_names,
        };
        running.serve((connections, registry), (observe, metrics, pages));
        tracing::info!(
            registry = %registry_address,
            metrics = %metrics_address,
            router_port,
            "started"
        );
        Ok(running)
    }
}

/// Follows the files with this node's credentials, and warns if clients need none.
fn watch_credentials(settings: &Settings, metrics: &mut Registry, tasks: &mut JoinSet<()>) {
    let access = &settings.mirror.access;
    if access.requires_network_proof() && access.node_secret.is_none() {
        tracing::warn!(
            "with --network-key-file or --peer-tls-dir and without a node secret, all that reaches the registry port from \
             this host is served without key and certificate, a proxy's clients too; set --node-secret-file"
        );
    }
    if let Some(file) = settings.network_keys.clone() {
        tasks.spawn(file.watch(network_key_file::register(metrics)));
    }
    if let Some(folder) = settings.peer_tls.clone() {
        tasks.spawn(folder.watch(peer_tls_dir::register(metrics)));
    }
}

/// A store that is ready for use.
enum Opened {
    /// containerd may come and go: its store reconnects by itself.
    Containerd {
        config: containerd::Config,
        setup: Setup,
    },
    Layout {
        store: Arc<Layout>,
        upstream: Arc<dyn Upstream>,
    },
}

async fn open(store: Store, metrics: &mut Registry) -> anyhow::Result<Opened> {
    match store {
        Store::Containerd { config, setup } => Ok(Opened::Containerd { config, setup }),
        Store::Layout { options, upstream } => {
            let mut registry = std::mem::take(metrics);
            let opening = move || {
                let layout = Layout::open(&options, &mut registry);
                (layout, registry)
            };
            let (layout, registry) = tokio::task::spawn_blocking(opening).await?;
            *metrics = registry;
            Ok(Opened::Layout {
                store: Arc::new(layout?),
                upstream: Arc::new(Registries::new(upstream)?),
            })
        }
    }
}

/// The paths of this node's containerd and its files, for a doctor.
fn containerd_paths(store: &Store) -> Option<ContainerdPaths> {
    let Store::Containerd { config, setup } = store else {
        return None;
    };
    let shown = |path: &PathBuf| path.display().to_string();
    let folders: Vec<_> = setup.registry_config_paths.iter().map(shown).collect();
    Some(ContainerdPaths {
        socket: shown(&config.socket),
        content: config.content_path.as_ref().map(shown).unwrap_or_default(),
        config: shown(&setup.config_file),
        registry_config: folders.join(":"),
    })
}

/// The upstream that is asked, and the options of the checks.
type Checked = (Arc<dyn Upstream>, CheckOptions);

/// How upstream is asked for the targets of tags and for what is public. `None`: it is not asked.
fn checks(checks: Checks, port: u16) -> Result<Option<Checked>, SetupError> {
    let options = checks.options;
    if options.private.share_all() && options.tags == TagPolicy::Peers {
        return Ok(None);
    }
    let hosts = NextHosts::new(checks.config_path, port);
    let registries = Registries::at_hosts(Arc::new(hosts), checks.registries, CHECK_LIMITS)?;
    Ok(Some((Arc::new(registries), options)))
}

/// Starts the work that keeps the store up to date.
fn start(
    store: Opened,
    router: Arc<dyn Router>,
    metrics: &mut Registry,
    tasks: &mut JoinSet<()>,
) -> Adapters {
    match store {
        Opened::Containerd { config, setup } => {
            tasks.spawn(check(config.clone(), setup));
            let (store, keeper) = Containerd::open(config, metrics);
            tasks.spawn(keeper);
            Adapters {
                store,
                router,
                pull_through: None,
                flights: None,
                checks: None,
            }
        }
        Opened::Layout { store, upstream } => {
            let pull_through = PullThrough {
                intake: store.clone(),
                upstream,
            };
            Adapters {
                store,
                router,
                pull_through: Some(pull_through),
                flights: None,
                checks: None,
            }
        }
    }
}

/// How long layers that containerd discards are kept, if they are.
fn retained_for(config: &containerd::Config) -> Option<Duration> {
    config.retain.as_ref().map(|retain| retain.time)
}

/// Logs what should be changed in containerd's configuration, then waits for ever.
async fn check(config: containerd::Config, setup: Setup) {
    // If containerd does not answer, the store reports this and tries again.
    let findings = containerd::check(&config, &setup, retained_for(&config)).await;
    for finding in findings.unwrap_or_default() {
        match finding.state {
            State::Ok => tracing::debug!("{finding}"),
            State::Unknown => tracing::info!("{finding}"),
            State::Warning => tracing::warn!("{finding}"),
        }
    }
    std::future::pending::<()>().await;
}
