use super::*;

fn proxies(variables: &[(&str, &str)]) -> Proxies {
    Proxies::new(|name| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    })
}

fn is_direct(no_proxy: &str, url: &str) -> bool {
    let variables = [
        ("HTTP_PROXY", "p:1"),
        ("HTTPS_PROXY", "p:1"),
        ("NO_PROXY", no_proxy),
    ];
    let url = Url::parse(url).expect("a URL");
    proxies(&variables).of(&url).is_none()
}

/// The table of Go's `httpproxy` tests, and the cases in its documentation.
#[test]
fn no_proxy_means_what_it_means_to_go() {
    let list = "foobar.com, .barbaz.net, *.wildcard.io, 192.168.1.1, 192.168.1.2:81, 192.168.1.3:80, 10.0.0.0/30, \
                2001:db8::52:0:1, [2001:db8::52:0:2]:443, [2001:db8::52:0:3]:80, 2002:db8:a::45/64";
    for (host, direct) in [
        ("http://localhost", true),
        ("http://127.0.0.1", true),
        ("http://127.0.0.2", true),
        ("http://[::1]", true),
        ("http://[::2]", false),
        ("http://192.168.1.1", true),
        ("http://192.168.1.2", false),
        ("http://192.168.1.2:81", true),
        ("http://192.168.1.3", true),
        ("http://192.168.1.4", false),
        ("http://192.168.1.100", false),
        ("http://10.0.0.2", true),
        ("http://10.0.0.4", false),
        ("http://[2001:db8::52:0:1]", true),
        ("http://[2001:db8::52:0:2]", false),
        ("https://[2001:db8::52:0:2]", true),
        ("http://[2001:db8::52:0:3]", true),
        ("http://[2002:db8:a::123]", true),
        ("http://[fe80::424b:c8be:1643:a1b6]", false),
        ("http://barbaz.net", false),
        ("http://www.barbaz.net", true),
        ("http://foobar.com", true),
        ("http://www.foobar.com", true),
        ("http://foofoobar.com", false),
        ("http://baz.com", false),
        ("http://localhost.net", false),
        ("http://local.localhost", false),
        ("http://barbarbaz.net", false),
        ("http://wildcard.io", false),
        ("http://nested.wildcard.io", true),
        ("http://awildcard.io", false),
    ] {
        assert_eq!(is_direct(list, host), direct, "{host}");
    }
}

#[test]
fn entries_of_all_forms() {
    for (list, url, direct) in [
        ("*", "https://r.example", true),
        ("a.example, *", "https://r.example", true),
        ("", "https://r.example", false),
        (" , ,", "https://r.example", false),
        ("R.Example", "https://r.EXAMPLE", true),
        ("r.example:443", "https://r.example", true),
        ("r.example:443", "https://r.example:8443", false),
        (".example:8443", "https://r.example:8443", true),
        (":443", "https://r.example", false),
        ("r.example:", "https://r.example", true),
        (".", "https://r.example", false),
        ("*example", "https://r.example", false),
        // A name never matches an address, nor an address a name.
        ("1.1", "https://10.1.1.1", false),
        ("10.1.1.1", "https://10.1.1.1.example", false),
        ("10.0.0.0/8", "https://10.1.1.1:5000", true),
        ("::ffff:10.0.0.0/104", "https://10.1.1.1", true),
        ("10.1.1.1", "https://[::ffff:10.1.1.1]", true),
        ("10.0.0.0/33", "https://10.1.1.1", false),
        ("fd00::/8", "https://[fd00::5]", true),
        ("[fd00::5]", "https://[fd00::5]:5000", true),
        ("fd00::5", "https://[fd00::5]:5000", true),
        ("b\u{fc}cher.example", "https://b\u{fc}cher.example", true),
        // Spaces do not separate.
        ("a.example r.example", "https://r.example", false),
        // Of the names for loopback, only localhost itself is direct.
        ("", "http://localhost:5000", true),
        ("", "http://x.localhost", false),
        ("", "http://127.1", true),
    ] {
        assert_eq!(is_direct(list, url), direct, "{list:?} {url}");
    }
}

#[test]
fn each_scheme_has_its_proxy_by_either_case() {
    let of = |variables: &[(&str, &str)], url: &str| {
        let found = proxies(variables).of(&Url::parse(url).expect("a URL"));
        found.map(String::from)
    };
    let both = [("http_proxy", "one:1"), ("HTTPS_PROXY", "http://u:p@two:2")];
    assert_eq!(
        of(&both, "http://r.example").as_deref(),
        Some("http://one:1/")
    );
    assert_eq!(
        of(&both, "https://r.example").as_deref(),
        Some("http://u:p@two:2/")
    );
    let cases = [("HTTPS_PROXY", "upper:1"), ("https_proxy", "lower:1")];
    assert_eq!(
        of(&cases, "https://r.example").as_deref(),
        Some("http://upper:1/")
    );
    let empty = [("HTTPS_PROXY", ""), ("https_proxy", "lower:1")];
    assert_eq!(
        of(&empty, "https://r.example").as_deref(),
        Some("http://lower:1/")
    );
    assert_eq!(of(&both[..1], "https://r.example"), None);
    let all = [("ALL_PROXY", "any:1"), ("HTTP_PROXY", "one:1")];
    assert_eq!(
        of(&all, "https://r.example").as_deref(),
        Some("http://any:1/")
    );
    assert_eq!(
        of(&all, "http://r.example").as_deref(),
        Some("http://one:1/")
    );
    assert_eq!(of(&[("HTTPS_PROXY", "p:99999")], "https://r.example"), None);
}

#[test]
fn proxies_are_known_by_host() {
    for (value, host) in [
        ("http://user:pw@proxy.corp:3128/", Some("proxy.corp")),
        ("Proxy.Corp:3128", Some("proxy.corp")),
        ("socks5://Proxy.Corp", Some("proxy.corp")),
        ("10.0.0.1:3128", Some("10.0.0.1")),
        ("", None),
    ] {
        let hosts = proxies(&[("HTTPS_PROXY", value)]).hosts();
        assert_eq!(hosts.iter().next().map(String::as_str), host, "{value}");
    }
}
