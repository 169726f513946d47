//! Names to addresses, and the vetting of addresses before anything connects to them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::policy::{Reach, Refused, is_localhost};

#[derive(Debug, thiserror::Error)]
#[error("{host} cannot be resolved: {reason}")]
pub(crate) struct NameError {
    host: String,
    reason: String,
}

/// Resolves names.
#[async_trait]
pub(crate) trait Names: Send + Sync + 'static {
    /// All addresses of a host, not vetted.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, NameError>;
}

/// As this host is configured to (`/etc/resolv.conf`, `/etc/hosts`), with a cache that keeps to the records' times.
/// A host without name servers can still call addresses, as air-gapped ones do.
pub(crate) struct SystemNames(Result<TokioResolver, String>);

impl SystemNames {
    pub(crate) fn new() -> Self {
        let build = || {
            let mut builder = TokioResolver::builder_tokio().map_err(|e| e.to_string())?;
            builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            builder.build().map_err(|e| e.to_string())
        };
        Self(build())
    }
}

#[async_trait]
impl Names for SystemNames {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        if is_localhost(host) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let failed = |reason| NameError {
            host: host.to_owned(),
            reason,
        };
        let resolver = self.0.as_ref().map_err(|reason| failed(reason.clone()))?;
        let found = resolver.lookup_ip(host).await;
        let found = found.map_err(|error| failed(error.to_string()))?;
        Ok(found.iter().collect())
    }
}

/// What the HTTP client resolves through: it sees only addresses that it may call.
pub(crate) struct Vetted {
    pub(crate) names: Arc<dyn Names>,
    pub(crate) reach: Reach,
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
