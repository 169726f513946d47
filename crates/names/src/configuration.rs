//! `/etc/resolv.conf` (resolv.conf(5)), as far as it is supported.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use resolv_conf::{Config, ScopedIp};

/// The most name servers that are asked; libc's `MAXNS`.
const MAX_SERVERS: usize = 3;
/// The most domains that are searched. libc had a limit of 6 and has none now.
const MAX_SEARCH: usize = 32;
/// libc's limits: `RES_MAXNDOTS`, `RES_MAXRETRANS`, `RES_MAXRETRY`.
const MAX_NDOTS: u32 = 15;
const MAX_TIMEOUT: u32 = 30;
const MAX_ATTEMPTS: u32 = 5;

/// The configuration of DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Configuration {
    /// The servers, in the order in which they are asked. If the file names none, this host's own, as in libc.
    pub(crate) servers: Vec<IpAddr>,
    pub(crate) search: Vec<Name>,
    /// A name with this many dots is tried unchanged before the search list.
    pub(crate) ndots: usize,
    /// The limit for one question to one server.
    pub(crate) timeout: Duration,
    pub(crate) attempts: usize,
    pub(crate) edns0: bool,
    /// Whether only IPv4 is asked for.
    pub(crate) ipv4_only: bool,
}

impl Configuration {
    /// Parses the file. Invalid lines, options, servers and search domains are ignored. `domain`: this host's own,
    /// which is searched if the file names none.
    pub(crate) fn parse(text: &[u8], domain: Option<&str>) -> Self {
        let (file, errors) = Config::parse_with_errors(text);
        for error in errors {
            tracing::debug!(%error, "a line of /etc/resolv.conf is passed over");
        }
        let mut servers: Vec<_> = file.nameservers.iter().filter_map(usable).collect();
        servers.dedup();
        servers.truncate(MAX_SERVERS);
        if servers.is_empty() {
            servers.push(Ipv4Addr::LOCALHOST.into());
        }
        let searched = file.get_last_search_or_domain();
        let mut searched: Vec<&str> = searched.map(String::as_str).collect();
        if file.get_domain().is_none() && file.get_search().is_none() {
            searched.extend(domain);
        }
        let search = searched.into_iter().filter_map(search_domain);
        Self {
            servers,
            search: search.take(MAX_SEARCH).collect(),
            ndots: file.ndots.min(MAX_NDOTS) as usize,
            timeout: Duration::from_secs(file.timeout.clamp(1, MAX_TIMEOUT).into()),
            attempts: file.attempts.clamp(1, MAX_ATTEMPTS) as usize,
            edns0: file.edns0,
            ipv4_only: file.no_aaaa,
        }
    }

    /// The names to ask for, in order. Empty: the host is not a DNS name.
    pub(crate) fn candidates(&self, host: &str) -> Vec<Name> {
        let Ok(mut name) = Name::from_ascii(host) else {
            return Vec::new();
        };
        if name.iter().next().is_none() {
            return Vec::new();
        }
        if name.is_fqdn() {
            return vec![name];
        }
        let searched = self.search.iter();
        let mut names: Vec<_> = searched
            .filter_map(|domain| name.clone().append_domain(domain).ok())
            .collect();
        let dots = host.bytes().filter(|b| *b == b'.').count();
        name.set_fqdn(true);
        let at = if dots >= self.ndots { 0 } else { names.len() };
        names.insert(at, name);
        names
    }
}

/// The address of a usable server. One on a link needs the link's scope, which the library does not support.
fn usable(server: &ScopedIp) -> Option<IpAddr> {
    match server {
        ScopedIp::V6(address, _) if address.is_unicast_link_local() => None,
        server => Some(server.into()),
    }
}

fn search_domain(text: &str) -> Option<Name> {
    let mut name = match Name::from_ascii(text) {
        Ok(name) if !name.is_root() => name,
        Ok(_) => return None,
        Err(error) => {
            tracing::debug!(domain = text, %error, "a search domain of /etc/resolv.conf is passed over");
            return None;
        }
    };
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Configuration {
        Configuration::parse(text.as_bytes(), Some("own.test"))
    }

    fn texts<T: ToString>(items: &[T]) -> Vec<String> {
        items.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_bad_line_spoils_none_of_the_others() {
        let label = "x".repeat(70);
        let long = vec!["abcdefghi"; 30].join(".");
        for bad in [
            "search a.test",
            &format!("search {label}.test a.test"),
            &format!("search a.test {long}"),
            "search a.test b\u{fc}cher.test",
            "search a..b a.test",
            "search . a.test",
            "options retrans:1 unknown ndots:99999999999 ndots:x\nsearch a.test",
            "nameserver localhost\nsearch a.test",
            "nameserver 10.0.0.999\nsearch a.test",
            "nameserver fe80::1%eth0\nsearch a.test",
            "nameserver\nsearch a.test",
            "nonsense\nsearch a.test\n\u{0}",
            "domain b.test\nsearch a.test",
        ] {
            let found = parse(&format!("{bad}\nnameserver 10.0.0.1 # eth0\r\n"));
            assert_eq!(texts(&found.servers), ["10.0.0.1"], "{bad}");
            assert_eq!(texts(&found.search), ["a.test."], "{bad}");
            assert_eq!(found.ndots, 1, "{bad}");
        }
        let latin = b"# caf\xe9\nsearch caf\xe9.test\nnameserver 10.0.0.1";
        assert_eq!(
            texts(&Configuration::parse(latin, None).servers),
            ["10.0.0.1"]
        );
    }

    #[test]
    fn what_is_not_said_is_as_in_libc() {
        let found = parse("");
        assert_eq!(texts(&found.servers), ["127.0.0.1"]);
        assert_eq!(texts(&found.search), ["own.test."]);
        let limits = (found.ndots, found.timeout.as_secs(), found.attempts);
        assert_eq!(limits, (1, 5, 2));
        assert!(parse("search").search.is_empty());
        let most = parse("options ndots:40 timeout:100 attempts:100 no-aaaa");
        let limits = (most.ndots, most.timeout.as_secs(), most.attempts);
        assert_eq!((limits, most.ipv4_only), ((15, 30, 5), true));
        let zero = parse("options ndots:0 timeout:0 attempts:0");
        let limits = (zero.ndots, zero.timeout.as_secs(), zero.attempts);
        assert_eq!(limits, (0, 1, 1));
        let many = "nameserver 10.0.0.1\n".to_owned() + &"nameserver fd00::1\n".repeat(9);
        assert_eq!(texts(&parse(&many).servers), ["10.0.0.1", "fd00::1"]);
    }

    #[test]
    fn names_are_searched_as_libc_does() {
        let cluster = parse("search ns.svc.test svc.test\noptions ndots:2");
        for (host, names) in [
            ("a", &["a.ns.svc.test.", "a.svc.test.", "a."][..]),
            ("a.b", &["a.b.ns.svc.test.", "a.b.svc.test.", "a.b."]),
            (
                "a.b.c",
                &["a.b.c.", "a.b.c.ns.svc.test.", "a.b.c.svc.test."],
            ),
            ("a.", &["a."]),
            (
                "my_registry",
                &[
                    "my_registry.ns.svc.test.",
                    "my_registry.svc.test.",
                    "my_registry.",
                ],
            ),
            ("a..b", &[]),
            ("", &[]),
        ] {
            assert_eq!(texts(&cluster.candidates(host)), names, "{host}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_hide_a_good_line(
            before in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let text = [&before[..], b"\nnameserver 10.0.0.1\n"].concat();
            let found = Configuration::parse(&text, None);
            let good = IpAddr::from([10, 0, 0, 1]);
            prop_assert!(found.servers.contains(&good) || found.servers.len() == MAX_SERVERS);
        }
    }
}
