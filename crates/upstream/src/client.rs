//! The HTTP clients: TLS from the crate `tls`, checked addresses, no automatic redirects.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect;

use crate::CredentialsError;
use crate::policy::AllowedScope;
use crate::proxy::Proxies;
use crate::registries::Limits;
use crate::resolve::{Names, Vetted};
use crate::routes::HostTls;

/// The most idle connections kept for each host …
const IDLE_CONNECTIONS: usize = 4;
/// … and for how long. Registries behind load balancers close them after a minute or so.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// Why upstream registries cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Certificates(#[from] tls::RootsError),
    #[error(transparent)]
    Identity(#[from] tls::IdentityError),
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    #[error("the HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// The clients for each [`AllowedScope`]. They share no connections: one to an internal address is never reused for a
/// call that may not go there.
pub(crate) struct Clients([Pair; AllowedScope::ALL.len()]);

struct Pair {
    pooled: reqwest::Client,
    unpooled: reqwest::Client,
}

impl Clients {
    /// Keeps connections for later requests.
    pub(crate) fn pooled(&self, reach: AllowedScope) -> &reqwest::Client {
        &self.pair(reach).pooled
    }

    /// Makes a new connection for each request.
    pub(crate) fn unpooled(&self, reach: AllowedScope) -> &reqwest::Client {
        &self.pair(reach).unpooled
    }

    fn pair(&self, reach: AllowedScope) -> &Pair {
        let [public, private, loopback] = &self.0;
        match reach {
            AllowedScope::Public => public,
            AllowedScope::Private => private,
            AllowedScope::Loopback => loopback,
        }
    }

    pub(crate) fn new(
        names: &Arc<dyn Names>,
        ca_file: Option<&Path>,
        proxies: &Proxies,
        limits: &Limits,
    ) -> Result<Self, SetupError> {
        let mut roots = tls::Roots::of_system();
        if let Some(path) = ca_file {
            roots.add_file(path)?;
        }
        Self::with_tls(names, &tls::client(roots, None)?, proxies, limits)
    }

    /// Clients for one host, with the files named for it. Reads these.
    pub(crate) fn of_host(
        names: &Arc<dyn Names>,
        tls: &HostTls,
        proxies: &Proxies,
        limits: &Limits,
    ) -> Result<Self, SetupError> {
        let mut roots = tls::Roots::of_system();
        for path in &tls.authorities {
            roots.add_file(path)?;
        }
        let identity = tls.identity.as_ref();
        let identity = identity
            .map(|(chain, key)| tls::Identity::of_files(chain, key.as_deref().unwrap_or(chain)));
        let identity = identity.transpose()?;
        let config = match tls.skip_verify {
            true => tls::client_without_verification(identity)?,
            false => tls::client(roots, identity)?,
        };
        Self::with_tls(names, &config, proxies, limits)
    }

    fn with_tls(
        names: &Arc<dyn Names>,
        tls: &rustls::ClientConfig,
        proxies: &Proxies,
        limits: &Limits,
    ) -> Result<Self, SetupError> {
        let build = |reach, idle_connections| {
            let vetted = Vetted {
                names: names.clone(),
                reach,
                proxies: Arc::new(proxies.hosts()),
            };
            let proxies = proxies.clone();
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .dns_resolver(Arc::new(vetted))
                .redirect(redirect::Policy::none())
                .connect_timeout(limits.connect)
                .pool_max_idle_per_host(idle_connections)
                .pool_idle_timeout(IDLE_TIME)
                // This crate reads the environment, not the library.
                .no_proxy()
                .proxy(reqwest::Proxy::custom(move |url| proxies.of(url)))
                .user_agent(concat!("peili/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(SetupError::Client)
        };
        let pair = |reach| {
            Ok::<_, SetupError>(Pair {
                pooled: build(reach, IDLE_CONNECTIONS)?,
                unpooled: build(reach, 0)?,
            })
        };
        let [public, private, loopback] = AllowedScope::ALL;
        Ok(Self([pair(public)?, pair(private)?, pair(loopback)?]))
    }
}
