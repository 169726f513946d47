//! Names to addresses, and the vetting of addresses before anything connects to them.

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
    /// All addresses of a host, not vetted.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, NameError>;
}

/// As this host is configured to, with a cache that keeps to the records' times.
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

/// What the HTTP client resolves through: it sees only addresses that it may call.
pub(crate) struct Vetted {
    pub(crate) names: Arc<dyn Names>,
    pub(crate) reach: AllowedScope,
    /// The operator's own word: these are connected to wherever they are.
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
