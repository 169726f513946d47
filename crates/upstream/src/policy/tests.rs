use std::sync::Arc;

use async_trait::async_trait;
use names::NameError;
use proptest::prelude::*;
use reqwest::dns::Resolve as _;

use super::*;
use crate::resolve::Vetted;

/// Names as a test, or an attacker, has configured them.
pub(crate) struct FakeNames;

#[async_trait]
impl Names for FakeNames {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        let addresses: &[&str] = match host.trim_end_matches('.') {
            "localhost" => &["127.0.0.1", "::1"],
            "registry.example" | "registry-1.docker.io" => &["93.184.216.34"],
            "cdn.example" => &["2606:2800::1", "93.184.216.35"],
            "harbor.corp" => &["10.1.1.1", "fd12::1"],
            "minio.corp" => &["192.168.3.4"],
            "split.corp" => &["10.1.1.1", "93.184.216.34"],
            "rebound.example" => &["127.0.0.1"],
            "rebound6.example" => &["::1"],
            "mapped.example" => &["::ffff:127.0.0.1"],
            "metadata.example" | "metadata.google.internal" => &["169.254.169.254"],
            "half.example" => &["169.254.169.254", "93.184.216.36"],
            _ => &[],
        };
        Ok(addresses
            .iter()
            .map(|a| a.parse().expect("an address"))
            .collect())
    }
}

fn policy() -> Policy {
    let listed = [
        "http://127.0.0.1:5000",
        "http://localhost:5001",
        "https://169.254.10.5:5000",
        "http://10.0.0.9:5000",
        "https://rebound.example",
    ];
    let listed = listed.map(|url| url.parse().expect("a registry"));
    Policy::new(listed.into(), BTreeSet::from(["proxy.corp".to_owned()]))
}

/// The addresses that a call of `registry`, led to `target`, would connect to.
async fn called(registry: &str, target: Option<&str>) -> Result<Vec<IpAddr>, String> {
    let text = |refused: Refused| refused.to_string();
    let policy = policy();
    let registry: Registry = registry.parse().map_err(|_| "no registry")?;
    let base = policy.base(&registry).map_err(text)?;
    let url = target.map_or(base.url.clone(), |t| Url::parse(t).expect("a URL"));
    let reach = policy.reach(&base, &url, &FakeNames).await.map_err(text)?;
    match url.host().expect("a host") {
        Host::Ipv4(address) => Ok(vec![address.into()]),
        Host::Ipv6(address) => Ok(vec![address.into()]),
        Host::Domain(name) => {
            let vetted = Vetted {
                names: Arc::new(FakeNames),
                reach,
                proxies: Arc::default(),
            };
            let name = name.parse().map_err(|_| "no name")?;
            let found = vetted.resolve(name).await.map_err(|e| e.to_string())?;
            Ok(found.map(|socket| socket.ip()).collect())
        }
    }
}

#[tokio::test]
async fn no_registry_that_nobody_listed_stands_at_a_special_address() {
    for registry in [
        "127.0.0.1",
        "127.0.0.1:5001",
        "127.9.9.9:5000",
        "localhost",
        "localhost:5000",
        "LOCALHOST:5000",
        "a.localhost",
        "[::1]:5000",
        "[::ffff:127.0.0.1]:5000",
        "[::ffff:a9fe:a9fe]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        // The same addresses in other notations of URLs.
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "169.254.169.254",
        "169.254.10.5:5001",
        "2852039166",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "[fd00:ec2::254]",
        "[fd20:ce::254]",
        "[fe80::1]",
        "[ff02::1]",
        "[::]:5000",
        "0.0.0.0:5000",
        "0",
        "224.0.0.1",
        "255.255.255.255",
        "metadata.google.internal",
        "metadata.example",
        "rebound6.example",
        "mapped.example",
        // Listed, but by a name, which its owner may point to any address.
        "rebound.example",
        "proxy.corp:3128",
    ] {
        let called = called(registry, None).await;
        assert!(called.is_err(), "{registry} is called at {called:?}");
    }
}

#[tokio::test]
async fn no_answer_leads_further_inside_than_it_comes_from() {
    let public = "registry.example";
    for (registry, target) in [
        (public, "https://127.0.0.1/"),
        (public, "https://localhost:5001/"),
        (public, "https://localhost./"),
        (public, "https://x.localhost/"),
        (public, "https://[::1]/"),
        (public, "https://[::ffff:169.254.169.254]/"),
        (public, "https://169.254.169.254/latest/meta-data/"),
        (public, "https://0xa9fea9fe/"),
        (public, "https://168.63.129.16/"),
        (public, "https://[fd00:ec2::254]/"),
        (public, "https://10.96.0.1/"),
        (public, "https://192.168.1.1/"),
        (public, "https://100.64.0.1/"),
        (public, "https://[fd12::1]/"),
        (public, "https://harbor.corp/"),
        (public, "https://metadata.google.internal/"),
        (public, "https://rebound.example/"),
        (public, "https://mapped.example/"),
        (public, "http://cdn.example/"),
        (public, "https://user:pw@cdn.example/"),
        (public, "https://user@registry.example/"),
        (public, "ftp://cdn.example/"),
        (public, "file:///etc/passwd"),
        (public, "https://proxy.corp/"),
        ("docker.io", "https://127.0.0.1:5000/"),
        ("split.corp", "https://10.1.1.2/"),
        ("harbor.corp", "https://127.0.0.1/"),
        ("harbor.corp", "https://169.254.169.254/"),
        ("10.0.0.9:5000", "http://localhost:5001/"),
        ("10.0.0.9:5000", "http://rebound.example/"),
        ("127.0.0.1:5000", "http://169.254.169.254/"),
        ("127.0.0.1:5000", "http://metadata.example/"),
        ("169.254.10.5:5000", "https://169.254.169.254/"),
        ("169.254.10.5:5000", "https://127.0.0.1/"),
    ] {
        let called = called(registry, Some(target)).await;
        assert!(
            called.is_err(),
            "{registry} leads to {target} at {called:?}"
        );
    }
}

#[tokio::test]
async fn what_is_meant_goes() {
    for (registry, target, at) in [
        ("registry.example", None, "93.184.216.34"),
        ("docker.io", None, "93.184.216.34"),
        (
            "registry.example",
            Some("https://cdn.example/x?sig=1"),
            "2606:2800::1",
        ),
        ("10.0.0.9:5000", None, "10.0.0.9"),
        ("10.0.0.10:5000", None, "10.0.0.10"),
        ("harbor.corp", None, "10.1.1.1"),
        ("harbor.corp", Some("https://minio.corp/"), "192.168.3.4"),
        ("harbor.corp", Some("https://cdn.example/"), "2606:2800::1"),
        ("127.0.0.1:5000", None, "127.0.0.1"),
        (
            "127.0.0.1:5000",
            Some("http://127.0.0.1:9000/"),
            "127.0.0.1",
        ),
        (
            "127.0.0.1:5000",
            Some("http://localhost:9000/"),
            "127.0.0.1",
        ),
        ("localhost:5001", None, "127.0.0.1"),
        ("169.254.10.5:5000", None, "169.254.10.5"),
        // Only the addresses of a name that may be called.
        ("half.example", None, "93.184.216.36"),
    ] {
        let called = called(registry, target).await;
        let first = called
            .as_ref()
            .ok()
            .and_then(|found| found.first().copied());
        assert_eq!(first, at.parse().ok(), "{registry} {target:?}: {called:?}");
    }
}

#[test]
fn only_listed_registries_are_called_without_tls() {
    let policy = policy();
    let scheme = |registry: &str| {
        let base = policy.base(&registry.parse().expect("a registry"));
        base.expect("may be called").url.scheme().to_owned()
    };
    assert_eq!(scheme("10.0.0.9:5000"), "http");
    assert_eq!(scheme("localhost:5001"), "http");
    assert_eq!(scheme("10.0.0.9"), "https");
    assert_eq!(scheme("registry.example"), "https");
}

proptest! {
    #[test]
    fn an_ipv4_address_is_judged_the_same_in_any_clothes(bits in any::<u32>()) {
        let v4 = Ipv4Addr::from(bits);
        let [a, b, c, d] = v4.octets();
        let (high, low) = ((bits >> 16) as u16, bits as u16);
        prop_assert_eq!(class_of_v6(v4.to_ipv6_mapped()), class_of_v4(v4));
        prop_assert_eq!(class_of_v6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low)), class_of_v4(v4));
        prop_assert_eq!(class_of_v6(Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1)), class_of_v4(v4));
        let public = matches!(class_of_v4(v4), AddressClass::Reachable(AllowedScope::Public));
        let special = v4.is_loopback() || v4.is_private() || v4.is_link_local() || v4.is_multicast()
            || v4.is_unspecified() || v4.is_broadcast() || (a, b, c, d) == (168, 63, 129, 16);
        prop_assert!(!(public && special), "{}", v4);
    }
}
