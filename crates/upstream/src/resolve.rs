//! Resolves names to addresses, and checks addresses before anything connects to them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use names::{Cache, NameError};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::policy::{AllowedScope, Refused};

/// Resolves names.
#[async_trait]
pub(crate) trait Names: Send + Sync + 'static {
    /// All addresses of a host, unchecked.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, NameError>;
}

/// The resolver configured on this host, with a cache that respects the TTL of records.
pub(crate) struct SystemNames(names::Names);

impl SystemNames {
    pub(crate) fn new() -> Self {
        Self(names::Names::of_system(Cache::Kept))
    }
}

#[async_trait]
impl Names for SystemNames {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        self.0.addresses(host).await
    }
}

/// The resolver of the HTTP client: it returns only addresses that may be called.
pub(crate) struct Vetted {
    pub(crate) names: Arc<dyn Names>,
    pub(crate) reach: AllowedScope,
    /// The proxies: these may be at any address, as the operator named them.
    pub(crate) proxies: Arc<BTreeSet<String>>,
}

impl Resolve for Vetted {
    fn resolve(&self, name: Name) -> Resolving {
        let (names, reach) = (self.names.clone(), self.reach);
        let is_proxy = self.proxies.contains(name.as_str());
        Box::pin(async move {
            let host = name.as_str();
            let (mut good, mut refused) = (Vec::new(), None::<Refused>);
            for address in names.addresses(host).await? {
                match reach.vet(address) {
                    Err(fault) if !is_proxy => refused = Some(fault),
                    _ => good.push(SocketAddr::new(address, 0)),
                }
            }
            match refused {
                Some(fault) if good.is_empty() => Err(fault.into()),
                _ => Ok(Box::new(good.into_iter()) as Addrs),
            }
        })
    }
}
