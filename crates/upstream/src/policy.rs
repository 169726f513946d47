//! Decides which addresses may be called. Every hop is checked: registries, the targets of their redirects, the token
//! services that they name.
//!
//! A client that makes the mirror fetch from a hostile registry could otherwise use it to reach what only this host
//! reaches: the cloud's metadata service, a daemon on loopback, a service of the cluster. So:
//!
//! - A registry may have a public or a private address (clusters have their own). Any other address is allowed only
//!   if the operator has listed it by that very address, or as `localhost`.
//! - A redirect may lead only to the kind of network that the registry itself is on, or to a more public one: from a
//!   public registry to public addresses, from a private one to private ones too, from one on loopback to loopback too;
//!   never to a metadata service.
//! - https never redirects to http.
//!
//! Addresses are checked after resolution, when connecting. A proxy resolves names itself; then only addresses written
//! in a URL are checked here.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use oci::{Registry, RegistryUrl, Scheme};
use tokio::time::timeout;
use url::{Host, Url};

use crate::resolve::Names;

/// The limit for looking up the address of a registry that was called already.
const STANDING_LIMIT: Duration = Duration::from_secs(2);
/// The host of Docker Hub, whose name is `docker.io`.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// Why an address may not be called. Contains no query and no credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(String);

/// The addresses that a call may reach. Each value includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AllowedScope {
    Public,
    Private,
    Loopback,
}

impl AllowedScope {
    pub(crate) const ALL: [Self; 3] = [Self::Public, Self::Private, Self::Loopback];

    pub(crate) fn vet(self, address: IpAddr) -> Result<(), Refused> {
        let what = match class_of(address) {
            AddressClass::Reachable(needed) if self >= needed => return Ok(()),
            AddressClass::Reachable(Self::Loopback) => "a loopback",
            AddressClass::Reachable(_) => "a private",
            AddressClass::Never(what) => what,
        };
        Err(Refused(format!("{address} is {what} address")))
    }
}

/// The kind of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddressClass {
    Reachable(AllowedScope),
    /// An address that no answer may lead to.
    Never(&'static str),
}

fn class_of(address: IpAddr) -> AddressClass {
    match address {
        IpAddr::V4(v4) => class_of_v4(v4),
        IpAddr::V6(v6) => class_of_v6(v6),
    }
}

fn class_of_v4(address: Ipv4Addr) -> AddressClass {
    let octets = address.octets();
    match octets {
        // Azure's wire server and Alibaba's metadata service are not link-local.
        [168, 63, 129, 16] | [100, 100, 100, 200] | [192, 0, 0, 0..=255] => {
            AddressClass::Never("a metadata")
        }
        [169, 254, ..] => AddressClass::Never("a link-local or metadata"),
        [0, ..] => AddressClass::Never("an unspecified"),
        [224..=239, ..] => AddressClass::Never("a multicast"),
        [240..=255, ..] => AddressClass::Never("a reserved"),
        [127, ..] => AddressClass::Reachable(AllowedScope::Loopback),
        // RFC 1918; RFC 6598, used by some clusters for their nodes; RFC 2544.
        [10, ..]
        | [172, 16..=31, ..]
        | [192, 168, ..]
        | [100, 64..=127, ..]
        | [198, 18..=19, ..] => AddressClass::Reachable(AllowedScope::Private),
        _ => AddressClass::Reachable(AllowedScope::Public),
    }
}

/// The metadata services with unique local addresses: Oracle, Scaleway. AWS and Google have more of them (EKS'
/// credentials of pods are at fd00:ec2::23), in ranges of their own.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];

fn class_of_v6(address: Ipv6Addr) -> AddressClass {
    if METADATA_V6.contains(&address) {
        return AddressClass::Never("a metadata");
    }
    let segments = address.segments();
    let v4 =
        |high: u16, low: u16| class_of_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => AddressClass::Never("an unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => AddressClass::Reachable(AllowedScope::Loopback),
        // An embedded IPv4 address: mapped, compatible, translated (RFC 6052, RFC 8215), 6to4.
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
            v4(high, low)
        }
        [0x64, 0xff9b, .., high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [0xfd00, 0xec2, ..] | [0xfd20, 0xce, ..] => AddressClass::Never("a metadata"),
        // ISATAP (RFC 5214).
        [.., 0 | 0x200, 0x5efe, high, low] => v4(high, low),
        // Teredo obscures its client's address.
        [0x2001, 0, ..] => AddressClass::Never("a tunnelled"),
        [0xfe80..=0xfebf, ..] => AddressClass::Never("a link-local"),
        [0xff00..=0xffff, ..] => AddressClass::Never("a multicast"),
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => {
            AddressClass::Reachable(AllowedScope::Private)
        }
        _ => AddressClass::Reachable(AllowedScope::Public),
    }
}

/// The scope of a registry at this address. A special address, which the operator has listed, counts as private; no
/// answer leads to other special ones.
fn scope_of_address(address: IpAddr) -> AllowedScope {
    match class_of(address) {
        AddressClass::Reachable(reach) => reach,
        AddressClass::Never(_) => AllowedScope::Private,
    }
}

/// A registry's URL, and the scope of calls to it.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    /// The URL without a path.
    pub(crate) url: Url,
    reach: AllowedScope,
}

/// The rules, with the operator's configuration.
pub(crate) struct Policy {
    listed: Vec<RegistryUrl>,
    /// The names of the proxies in use. They may be at any address, and are not valid targets.
    proxies: BTreeSet<String>,
}

impl Base {
    /// Whether images of this registry are at this host.
    pub(crate) fn is_at(&self, registry: &Registry) -> bool {
        registry.as_str() == DOCKER_HUB && self.url.host_str() == Some(DOCKER_HUB_HOST)
    }
}

impl Policy {
    pub(crate) fn new(listed: Vec<RegistryUrl>, proxies: BTreeSet<String>) -> Self {
        Self { listed, proxies }
    }

    /// The URL of a registry.
    pub(crate) fn base(&self, registry: &Registry) -> Result<Base, Refused> {
        let listed = self.listed.iter().find(|url| url.registry == *registry);
        let scheme = match listed.map(|url| url.scheme) {
            Some(Scheme::Http) => "http",
            Some(Scheme::Https) | None => "https",
        };
        let host = match registry.as_str() {
            DOCKER_HUB => DOCKER_HUB_HOST,
            host => host,
        };
        let url = Url::parse(&format!("{scheme}://{host}/"))
            .map_err(|_| Refused(format!("{registry} is no host of a URL")))?;
        let address = match self.host(&url)? {
            Target::Name => None,
            Target::Localhost => Some(Ipv4Addr::LOCALHOST.into()),
            Target::Address(address) => Some(address),
        };
        let reach = match address {
            None => AllowedScope::Private,
            Some(address) if listed.is_some() => {
                scope_of_address(address).max(AllowedScope::Private)
            }
            Some(address) => AllowedScope::Private
                .vet(address)
                .map(|()| AllowedScope::Private)
                .map_err(|Refused(why)| {
                    Refused(format!(
                        "{why}; if that is meant, list the registry in --mirrored-registries"
                    ))
                })?,
        };
        Ok(Base { url, reach })
    }

    /// The scope of a call to `url`, by the registry itself or because of one of its answers.
    pub(crate) async fn reach(
        &self,
        base: &Base,
        url: &Url,
        names: &dyn Names,
    ) -> Result<AllowedScope, Refused> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused("a URL with a user name in it".into()));
        }
        if url.origin() == base.url.origin() {
            return Ok(base.reach);
        }
        match (base.url.scheme(), url.scheme()) {
            (_, "https") | ("http", "http") => {}
            (_, "http") => return Err(Refused("it leads from https to http".into())),
            _ => return Err(Refused("it leads to neither http nor https".into())),
        }
        let standing = self.scope_of_registry(base, names).await?;
        match self.host(url)? {
            Target::Address(address) => standing.vet(address)?,
            Target::Localhost => standing.vet(Ipv4Addr::LOCALHOST.into())?,
            Target::Name => {}
        }
        Ok(standing)
    }

    /// The scope of a registry. A name counts as internal only if all its addresses are.
    async fn scope_of_registry(
        &self,
        base: &Base,
        names: &dyn Names,
    ) -> Result<AllowedScope, Refused> {
        Ok(match self.host(&base.url)? {
            Target::Address(address) => scope_of_address(address),
            Target::Localhost => AllowedScope::Loopback,
            Target::Name => {
                let host = base.url.host_str().unwrap_or_default();
                // Behind a proxy, names may not resolve here; then the registry counts as public.
                let found = timeout(STANDING_LIMIT, names.addresses(host)).await;
                let addresses = found.unwrap_or(Ok(Vec::new())).unwrap_or_default();
                let outmost = addresses.into_iter().map(scope_of_address).min();
                outmost
                    .unwrap_or(AllowedScope::Public)
                    .min(AllowedScope::Private)
            }
        })
    }

    fn host(&self, url: &Url) -> Result<Target, Refused> {
        match url.host() {
            Some(Host::Ipv4(address)) => Ok(Target::Address(address.into())),
            Some(Host::Ipv6(address)) => Ok(Target::Address(address.into())),
            Some(Host::Domain(name)) => {
                let name = name.trim_end_matches('.');
                if names::is_localhost(name) {
                    Ok(Target::Localhost)
                } else if self.proxies.contains(name) {
                    Err(Refused(format!("{name} is this host's proxy")))
                } else {
                    Ok(Target::Name)
                }
            }
            None => Err(Refused("a URL without a host".into())),
        }
    }
}

enum Target {
    Address(IpAddr),
    Localhost,
    Name,
}

#[cfg(test)]
pub(crate) mod tests;
