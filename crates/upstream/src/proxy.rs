//! Decides which requests go through a proxy, by the environment, with Go's rules
//! ([`golang.org/x/net/http/httpproxy`](https://pkg.go.dev/golang.org/x/net/http/httpproxy)): container tools and
//! containerd itself are written in Go, and a node has one such environment for all of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

/// The proxies of the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    direct: Direct,
}

impl Proxies {
    /// Reads `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, or the same in lower case if those are not set or empty.
    /// `ALL_PROXY`, which curl reads and Go does not, replaces a missing one of the first two.
    pub(crate) fn of_environment() -> Self {
        Self::new(|name| std::env::var(name).ok())
    }

    pub(crate) fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let given = |name: &str| {
            let names = [name.to_owned(), name.to_ascii_lowercase()];
            let mut values = names.iter().filter_map(|name| variable(name));
            values.find(|value| !value.is_empty())
        };
        let proxy = |name: &str| {
            let value = given(name)?;
            let url = parse(&value);
            if url.is_none() {
                // The value may contain a password.
                tracing::warn!("{name} is not the URL of a proxy and is ignored");
            }
            url
        };
        let all = proxy("ALL_PROXY");
        Self {
            http: proxy("HTTP_PROXY").or_else(|| all.clone()),
            https: proxy("HTTPS_PROXY").or(all),
            direct: Direct::parse(&given("NO_PROXY").unwrap_or_default()),
        }
    }

    /// The proxy for a request. `None`: it is made directly.
    pub(crate) fn of(&self, url: &Url) -> Option<Url> {
        let proxy = match url.scheme() {
            "https" => self.https.as_ref(),
            "http" => self.http.as_ref(),
            _ => None,
        }?;
        (!self.direct.is_direct(url)).then(|| proxy.clone())
    }

    /// The hosts of all proxies, in lower case.
    pub(crate) fn hosts(&self) -> BTreeSet<String> {
        let proxies = [&self.http, &self.https].into_iter().flatten();
        let hosts = proxies.filter_map(|url| url.host_str());
        // With schemes other than the web's, the URL parser keeps the case.
        hosts.map(str::to_ascii_lowercase).collect()
    }
}

fn parse(value: &str) -> Option<Url> {
    let has_host = |url: &Url| url.has_host();
    let as_it_is = Url::parse(value).ok().filter(has_host);
    as_it_is.or_else(|| Url::parse(&format!("http://{value}")).ok().filter(has_host))
}

/// `NO_PROXY`: the hosts that are called directly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Direct {
    all: bool,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Network(IpNet),
    Address {
        ip: IpAddr,
        port: Option<String>,
    },
    /// A domain and its subdomains.
    Domain {
        /// The domain with a leading dot, in lower case.
        suffix: String,
        /// Whether the domain itself is included: written without a leading dot or `*.`.
        itself: bool,
        port: Option<String>,
    },
}

impl Direct {
    fn parse(list: &str) -> Self {
        let texts = list.split(',').map(|text| text.trim().to_lowercase());
        let texts: Vec<_> = texts.filter(|text| !text.is_empty()).collect();
        Self {
            all: texts.iter().any(|text| text == "*"),
            entries: texts.iter().filter_map(|text| Entry::parse(text)).collect(),
        }
    }

    fn is_direct(&self, url: &Url) -> bool {
        let (ip, name) = match url.host() {
            Some(Host::Ipv4(ip)) => (Some(IpAddr::V4(ip)), String::new()),
            Some(Host::Ipv6(ip)) => (Some(IpAddr::V6(ip).to_canonical()), String::new()),
            Some(Host::Domain(name)) => (None, name.to_lowercase()),
            None => return true,
        };
        if self.all || name == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
            return true;
        }
        let port = url.port_or_known_default().unwrap_or_default().to_string();
        self.entries.iter().any(|entry| match (entry, ip) {
            (Entry::Network(network), Some(ip)) => network.contains(&ip),
            (
                Entry::Address {
                    ip: entry,
                    port: only,
                },
                Some(ip),
            ) => *entry == ip && only.as_ref().is_none_or(|only| *only == port),
            (
                Entry::Domain {
                    suffix,
                    itself,
                    port: only,
                },
                None,
            ) => {
                let is_meant = name.ends_with(suffix.as_str()) || (*itself && name == suffix[1..]);
                is_meant && only.as_ref().is_none_or(|only| *only == port)
            }
            _ => false,
        })
    }
}

impl Entry {
    /// Parses an element. `None`: it has no meaning, such as a port without a host.
    fn parse(text: &str) -> Option<Self> {
        if let Ok(network) = text.parse::<IpNet>() {
            return Some(Self::Network(canonical(network)));
        }
        let (host, port) = split_port(text);
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if let Ok(ip) = bare.unwrap_or(host).parse::<IpAddr>() {
            let ip = ip.to_canonical();
            return Some(Self::Address { ip, port });
        }
        let host = host
            .strip_prefix('*')
            .filter(|h| h.starts_with('.'))
            .unwrap_or(host);
        let itself = !host.starts_with('.');
        let name = host.strip_prefix('.').unwrap_or(host);
        if name.is_empty() {
            return None;
        }
        // As in a URL: names in other scripts are in Punycode.
        let name = match Host::parse(name) {
            Ok(Host::Domain(name)) => name,
            _ => name.to_owned(),
        };
        Some(Self::Domain {
            suffix: format!(".{name}"),
            itself,
            port,
        })
    }
}

/// The IPv4 network in an IPv4-mapped IPv6 network.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else {
        return network;
    };
    let v4 = v6.addr().to_ipv4_mapped();
    let length = v6.prefix_len().checked_sub(96);
    let v4 = v4
        .zip(length)
        .and_then(|(address, length)| ipnet::Ipv4Net::new(address, length).ok());
    v4.map_or(network, IpNet::V4)
}

/// Splits `host`, `host:port`, `[v6]`, `[v6]:port`, and a plain IPv6 address.
fn split_port(text: &str) -> (&str, Option<String>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, Some(port.to_owned()).filter(|port| !port.is_empty()))
        }
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests;
