//! `/etc/hosts` (hosts(5)).

use std::collections::HashMap;
use std::net::IpAddr;

/// The names in a hosts file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hosts(HashMap<String, Vec<IpAddr>>);

impl Hosts {
    /// Parses the file. A line without an address is ignored, and so is a name that is not UTF-8.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut names = HashMap::<String, Vec<IpAddr>>::new();
        for line in text.split(|b| *b == b'\n') {
            let line = line.split(|b| *b == b'#').next().unwrap_or_default();
            let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
            let words = line.split(u8::is_ascii_whitespace);
            let mut words = words.filter_map(|word| std::str::from_utf8(word).ok());
            let mut words = words.by_ref().filter(|word| !word.is_empty());
            let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
                continue;
            };
            for name in words {
                let addresses = names.entry(key(name)).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        for addresses in names.values_mut() {
            addresses.sort_by_key(IpAddr::is_ipv6);
        }
        Self(names)
    }

    /// The addresses of exactly this name, IPv4 first: the search list does not apply.
    pub(crate) fn get(&self, host: &str) -> Option<&[IpAddr]> {
        self.0.get(&key(host)).map(Vec::as_slice)
    }
}

fn key(name: &str) -> String {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_can_be_read_is_read() {
        let text = b"\xef\xbb\xbf10.0.0.1 a A.Example # remark\n\
            fe80::1%eth0 scoped\n\
            caf\xe9\n\
            10.0.0.2\tb caf\xe9 b2\r\n\
            no-address c\n\
            # 10.0.0.9 d\n\
            10.0.0.3\n\
            fd00::1 both\n10.0.0.4 both\n10.0.0.4 both\n\
            10.0.0.5 last.";
        let hosts = Hosts::parse(text);
        let get = |name| {
            hosts
                .get(name)
                .map(|all| all.iter().map(ToString::to_string).collect())
        };
        let is = |all: &[&str]| Some(all.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(get("a"), is(&["10.0.0.1"]));
        assert_eq!(get("a.example."), is(&["10.0.0.1"]));
        assert_eq!(get("B2"), is(&["10.0.0.2"]));
        assert_eq!(get("both"), is(&["10.0.0.4", "fd00::1"]));
        assert_eq!(get("last"), is(&["10.0.0.5"]));
        for none in ["c", "d", "scoped", "remark", "", "10.0.0.1"] {
            assert_eq!(hosts.get(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_hide_a_good_line(
            before in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let text = [&before[..], b"\n10.0.0.1 good\n"].concat();
            prop_assert!(Hosts::parse(&text).get("good").is_some());
        }
    }
}
