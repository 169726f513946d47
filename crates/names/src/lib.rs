//! Resolves names to addresses, by `/etc/hosts` and DNS as this host is configured now. A static binary cannot load
//! libc's name service modules, so this does what they do by default:
//!
//! - `/etc/hosts` first (`hosts.rs`), then DNS (`servers.rs`), with the search list and `ndots` of `/etc/resolv.conf`
//!   (`configuration.rs`). `localhost` and names below it are loopback (RFC 6761, section 6.3).
//! - Both files are read again when they change (`files.rs`). Invalid lines are ignored.
//! - A name has the addresses of both families. The caller connects to them in a race (RFC 8305).

mod configuration;
mod files;
mod hosts;
mod servers;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::time::timeout;

use files::Files;

/// The limit for looking up a name, including the search list. Less than the 5 s that a connection to a registry may
/// take, so that the cause of the failure is reported. Callers with shorter limits have their own.
const LOOKUP_LIMIT: Duration = Duration::from_secs(4);

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error(
        "{name} is neither in /etc/hosts nor known to DNS ({servers}); check the name, and both files"
    )]
    Unknown { name: String, servers: String },
    #[error(
        "{name} cannot be looked up: {reason} ({servers}); check /etc/resolv.conf, or add it to /etc/hosts"
    )]
    Failed {
        name: String,
        servers: String,
        reason: String,
    },
    #[error(
        "{name} cannot be looked up: no answer within {LOOKUP_LIMIT:?}; check /etc/resolv.conf, or add it to /etc/hosts"
    )]
    Late { name: String },
}

/// Whether answers of DNS are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// They are kept for the TTL of the records.
    Kept,
    /// Each lookup asks again: for names of pods, which come and go.
    Unused,
}

/// Resolves names as configured on this host.
pub struct Names {
    files: Files,
}

impl Names {
    /// Uses `/etc/hosts` and `/etc/resolv.conf`, which may be absent.
    pub fn of_system(cache: Cache) -> Self {
        Self {
            files: Files::new("/etc/hosts".into(), "/etc/resolv.conf".into(), cache),
        }
    }

    /// All addresses of a host, of both families, IPv4 first; at least one. An address resolves to itself.
    ///
    /// # Errors
    /// The name is unknown, or there is no answer within 4 s.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        if is_localhost(host) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let configured = self.files.configured().await;
        if let Some(addresses) = configured.hosts.get(host) {
            return Ok(addresses.to_vec());
        }
        timeout(LOOKUP_LIMIT, configured.dns.addresses(host))
            .await
            .unwrap_or_else(|_| Err(NameError::Late { name: host.into() }))
    }
}

/// Whether a name means loopback, whatever a server answers (RFC 6761, section 6.3).
pub fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests;
