//! The `Host` header, which a server must check first (RFC 9112, section 3.2).
//!
//! It also shows the name that a client used. A page whose name was made to resolve to this host (DNS rebinding) has,
//! for the browser, the same origin as the mirror: only this header distinguishes its requests from those of a client
//! on this host.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::HOST;
use http::{HeaderMap, Version};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HostError {
    #[error("a request by HTTP/1.1 needs a Host header")]
    Missing,
    #[error("a request has one Host header, not several")]
    Several,
    #[error("Host is not of the form host or host:port")]
    Malformed,
    #[error(
        "{0:?} is no name of this host; a client on it has to ask for localhost, an address, or the node's name, \
         or to send the node secret"
    )]
    Foreign(String),
}

/// Checks that there is one `Host`, which may be empty. HTTP/1.0 needs none.
///
/// # Errors
/// There is none, there are several, or it is not a host; the status for all of these is 400.
pub fn check(version: Version, headers: &HeaderMap) -> Result<(), HostError> {
    let mut values = headers.get_all(HOST).iter();
    match (values.next(), values.next()) {
        (None, _) if version < Version::HTTP_11 => Ok(()),
        (None, _) => Err(HostError::Missing),
        (Some(_), Some(_)) => Err(HostError::Several),
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        (Some(_), None) => Err(HostError::Malformed),
    }
}

/// Checks that no other party can make this `Host` resolve to this node: an address, a name of loopback, one of
/// `names`, or none at all, which no browser omits.
///
/// # Errors
/// It is another name.
pub fn check_leads_here(headers: &HeaderMap, names: &[String]) -> Result<(), HostError> {
    /// The most characters of the name that are repeated to the client.
    const TOLD: usize = 64;
    let Some(host) = headers.get(HOST) else {
        return Ok(());
    };
    let text = String::from_utf8_lossy(host.as_bytes());
    let name = without_port(&text).trim_end_matches('.');
    let is = |other: &str| name.eq_ignore_ascii_case(other.trim_end_matches('.'));
    let is_loopback = is("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
    if name.is_empty() || is_address(name) || is_loopback || names.iter().any(|name| is(name)) {
        Ok(())
    } else {
        Err(HostError::Foreign(name.chars().take(TOLD).collect()))
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether this is an IPv4 address, or an IPv6 address in brackets, with or without a zone.
fn is_address(name: &str) -> bool {
    let bracketed = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    match bracketed {
        Some(v6) => {
            let address = v6.split_once('%').map_or(v6, |(address, _zone)| address);
            address.parse::<Ipv6Addr>().is_ok()
        }
        None => name.parse::<Ipv4Addr>().is_ok(),
    }
}

/// Whether the text is `uri-host [ ":" port ]` (RFC 3986, section 3.2.2). A host in brackets may have a zone, as some
/// clients send it.
fn is_host(text: &[u8]) -> bool {
    let is_port = |port: &[u8]| port.iter().all(u8::is_ascii_digit);
    let end_of_host = match text.first() {
        Some(b'[') => match text.iter().position(|b| *b == b']') {
            Some(end) => end + 1,
            None => return false,
        },
        _ => text.iter().position(|b| *b == b':').unwrap_or(text.len()),
    };
    let (host, port) = text.split_at(end_of_host);
    let bracketed = host.strip_prefix(b"[").and_then(|h| h.strip_suffix(b"]"));
    let good = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(b);
    let good_host = match bracketed {
        Some(address) => !address.is_empty() && address.iter().all(|b| *b == b':' || good(b)),
        None => host.iter().all(good),
    };
    good_host && (port.is_empty() || port.strip_prefix(b":").is_some_and(is_port))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn with(version: Version, hosts: &[&'static str]) -> Result<(), HostError> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_static(host));
        }
        check(version, &headers)
    }

    #[test]
    fn only_names_that_nobody_else_can_make_lead_here_do() {
        let names = ["Node-1".to_owned(), "node-1.example".to_owned()];
        let of = |host: &'static str| {
            let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            check_leads_here(&headers, &names)
        };
        for here in [
            "",
            "127.0.0.1",
            "10.0.0.1:5000",
            "[::1]:5000",
            "[fe80::1%25eth0]",
            "LocalHost:5000",
            "localhost.",
            "a.localhost:",
            "node-1:5000",
            "NODE-1.example",
        ] {
            assert_eq!(of(here), Ok(()), "{here}");
        }
        for foreign in [
            "evil.example:5000",
            "localhost.evil.example",
            "evillocalhost",
            "127.0.0.1.evil.example",
            "node-1.evil.example",
            "node-1.example.evil",
            "127.0.0.1x",
            "[::1].evil",
            "x",
        ] {
            assert!(
                matches!(of(foreign), Err(HostError::Foreign(_))),
                "{foreign}"
            );
        }
        assert_eq!(check_leads_here(&HeaderMap::new(), &names), Ok(()));
        let long = HeaderValue::from_bytes(&[b'x'; 1000]).expect("a header");
        let error = check_leads_here(&HeaderMap::from_iter([(HOST, long)]), &names);
        assert_eq!(error, Err(HostError::Foreign("x".repeat(64))));
    }

    #[test]
    fn one_host_and_a_sound_one() {
        for good in [
            "",
            "x",
            "registry.example:5000",
            "10.0.0.1",
            "[::1]:5000",
            "[fe80::1%25eth0]",
            "a_b.local:",
            "a%41",
        ] {
            assert_eq!(with(Version::HTTP_11, &[good]), Ok(()), "{good}");
            assert_eq!(with(Version::HTTP_10, &[good]), Ok(()), "{good}");
        }
        for bad in [
            "a b", "a/b", "a@b", "a:b", "a:1:2", "::1", "[::1", "[::1]x", "[]", "http://a", "a\"",
            "a,b:x",
        ] {
            assert_eq!(
                with(Version::HTTP_11, &[bad]),
                Err(HostError::Malformed),
                "{bad}"
            );
        }
        assert_eq!(with(Version::HTTP_11, &[]), Err(HostError::Missing));
        assert_eq!(with(Version::HTTP_10, &[]), Ok(()));
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert_eq!(with(version, &["a", "a"]), Err(HostError::Several));
        }
    }
}
