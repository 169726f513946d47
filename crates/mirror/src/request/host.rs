//! The `Host` header, which a server has to check before anything else (RFC 9112, section 3.2).

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
}

/// Checks that there is one `Host`, which may be empty. HTTP/1.0 needs none.
///
/// # Errors
/// There is none, there are several, or it is not a host; all of them are for status 400.
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

/// `uri-host [ ":" port ]` (RFC 3986, 3.2.2). A host in brackets may carry a zone, as some clients send it.
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
