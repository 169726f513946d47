//! The host that is asked for a registry: its own, or the one that this node's containerd would ask.

use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use lru::LruCache;
use mirror::UpstreamError;
use oci::{Origin, Registry, RegistryUrl};
use parking_lot::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::call::Caller;
use crate::client::{Clients, SetupError};
use crate::fault::{forbidden, unreachable};
use crate::policy::{Base, Policy};
use crate::proxy::Proxies;

/// The most registries whose routes are remembered.
const MAX_ROUTES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// The time for which a route is kept. containerd reads its files for each pull.
const ROUTE_VALIDITY: Duration = Duration::from_secs(5);
/// The prefix of all paths of a registry in the distribution specification.
const V2: &str = "/v2";

/// The host that is asked for a registry, as containerd's hosts.toml describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryHost {
    pub url: RegistryUrl,
    /// The prefix of `/<repository>/manifests/…`, without a trailing slash: `/v2`, unless `override_path` is set.
    pub path: String,
    pub tls: HostTls,
    /// The headers sent to this host, and to no host that it redirects to.
    pub headers: HeaderMap,
}

/// How a host's certificate is verified, and the client certificate for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostTls {
    /// PEM files with authorities to trust besides the system's.
    pub authorities: Vec<PathBuf>,
    /// PEM files with a client certificate and its key. Without a second file, the first has both.
    pub identity: Option<(PathBuf, Option<PathBuf>)>,
    pub skip_verify: bool,
}

/// Determines the hosts that are asked for registries.
pub trait RegistryHosts: Send + Sync + 'static {
    /// The host to ask for images of this registry. `None`: the registry itself. Reads files.
    ///
    /// # Errors
    /// The files cannot be read. The text says which and why.
    fn of(&self, registry: &Registry) -> Result<Option<RegistryHost>, String>;
}

/// All registries at their own hosts.
pub(crate) struct OwnHosts;

impl RegistryHosts for OwnHosts {
    fn of(&self, _: &Registry) -> Result<Option<RegistryHost>, String> {
        Ok(None)
    }
}

/// How a registry is called.
pub(crate) struct Route {
    pub(crate) caller: Arc<Caller>,
    pub(crate) base: Base,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    /// Whether requests name the registry (`ns`), as containerd's do to every host but the registry.
    pub(crate) names_registry: bool,
    host: Option<RegistryHost>,
    /// The stamps of the files of its host: changed files need new connections.
    stamps: Vec<Stamp>,
}

/// The properties of a file that change when it is written or replaced. `None`: the file cannot be read.
type Stamp = Option<(SystemTime, u64, u64)>;

impl Route {
    /// Whether an answer does not show what others may have: the host identifies this node by its headers or
    /// certificate.
    pub(crate) fn knows_this_node(&self) -> bool {
        let host = self.host.as_ref();
        host.is_some_and(|host| !host.headers.is_empty() || host.tls.identity.is_some())
    }
}

/// The routes that were used lately.
pub(crate) struct Routes {
    hosts: Arc<dyn RegistryHosts>,
    known: Mutex<LruCache<Registry, (Instant, Arc<Route>)>>,
    /// The caller of registries at their own hosts.
    caller: Arc<Caller>,
    proxies: Proxies,
}

impl Routes {
    pub(crate) fn new(
        hosts: Arc<dyn RegistryHosts>,
        caller: Arc<Caller>,
        proxies: Proxies,
    ) -> Self {
        Self {
            hosts,
            known: Mutex::new(LruCache::new(MAX_ROUTES)),
            caller,
            proxies,
        }
    }

    pub(crate) async fn of(&self, origin: &Origin) -> Result<Arc<Route>, UpstreamError> {
        let registry = &origin.registry;
        let known = self.known.lock().get(registry).cloned();
        if let Some((since, route)) = &known
            && since.elapsed() < ROUTE_VALIDITY
        {
            return Ok(route.clone());
        }
        let (hosts, name) = (self.hosts.clone(), registry.clone());
        let found = spawn_blocking(move || {
            let host = hosts.of(&name)?;
            let stamps = host.as_ref().map(stamps).unwrap_or_default();
            Ok::<_, String>((host, stamps))
        });
        let (host, stamps) = found
            .await
            .map_err(|_| unreachable(origin, "the node is stopping"))?
            .map_err(|why| unreachable(origin, &why))?;
        let is_same = |route: &Route| route.host == host && route.stamps == stamps;
        let route = match known.filter(|(_, route)| is_same(route)) {
            // Its connections are kept.
            Some((_, route)) => route,
            None => Arc::new(Route {
                stamps,
                ..self.build(origin, host).await?
            }),
        };
        let mut known = self.known.lock();
        known.put(registry.clone(), (Instant::now(), route.clone()));
        Ok(route)
    }

    async fn build(
        &self,
        origin: &Origin,
        host: Option<RegistryHost>,
    ) -> Result<Route, UpstreamError> {
        let Some(host) = host else {
            let base = self.caller.policy.base(&origin.registry);
            return Ok(Route {
                caller: self.caller.clone(),
                base: base.map_err(|refused| forbidden(origin, &refused))?,
                path: V2.to_owned(),
                headers: HeaderMap::new(),
                names_registry: false,
                host: None,
                stamps: Vec::new(),
            });
        };
        let caller = Arc::new(self.caller_for(origin, &host).await?);
        let base = caller.policy.base(&host.url.registry);
        let base = base.map_err(|refused| forbidden(origin, &refused))?;
        let is_registry = host.url.registry == origin.registry || base.is_at(&origin.registry);
        Ok(Route {
            caller,
            base,
            path: host.path.clone(),
            headers: host.headers.clone(),
            names_registry: !is_registry,
            host: Some(host),
            stamps: Vec::new(),
        })
    }

    async fn caller_for(
        &self,
        origin: &Origin,
        host: &RegistryHost,
    ) -> Result<Caller, UpstreamError> {
        let own = &self.caller;
        let clients = if host.tls == HostTls::default() {
            own.clients.clone()
        } else {
            let (names, limits) = (own.names.clone(), own.limits.clone());
            let (tls, proxies) = (host.tls.clone(), self.proxies.clone());
            // Reads files.
            let made = spawn_blocking(move || Clients::of_host(&names, &tls, &proxies, &limits));
            let made = made
                .await
                .map_err(|_| unreachable(origin, "the node is stopping"))?;
            Arc::new(made.map_err(|error| unreachable(origin, &with_cause(&error)))?)
        };
        Ok(Caller {
            clients,
            policy: Policy::new(vec![host.url.clone()], self.proxies.hosts()),
            names: own.names.clone(),
            limits: own.limits.clone(),
        })
    }
}

/// The stamps of the files that a host's connections depend on.
fn stamps(host: &RegistryHost) -> Vec<Stamp> {
    let identity = host.tls.identity.iter();
    let identity = identity.flat_map(|(chain, key)| std::iter::once(chain).chain(key));
    let files = host.tls.authorities.iter().chain(identity);
    let stamp = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
    };
    files.map(stamp).collect()
}

fn with_cause(error: &SetupError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
