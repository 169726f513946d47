use super::*;
use proptest::prelude::*;

fn ok<T: FromStr>(text: &str) -> bool {
    text.parse::<T>().is_ok()
}

#[test]
fn registries() {
    for good in [
        "docker.io",
        "ghcr.io:443",
        "10.0.0.1:5000",
        "localhost",
        "[::1]:5000",
        "[fd00::1]",
        "a_b.local",
    ] {
        assert!(ok::<Registry>(good), "{good}");
    }
    for bad in [
        "",
        ".",
        "a..b",
        "a/b",
        "a:",
        "a:0",
        "a:65536",
        "a:5000:1",
        "[::1",
        "[::1]5000",
        "[x]:1",
        "a b",
        "-a",
        "é.io",
        "a\n",
    ] {
        assert!(!ok::<Registry>(bad), "{bad:?}");
    }
    assert!(!ok::<Registry>(&"a".repeat(256)));
}

#[test]
fn a_port_behind_an_underscore() {
    let spelled = |component| Registry::with_underscored_port(component);
    for (component, registry) in [
        ("10.0.0.1_5000", "10.0.0.1:5000"),
        ("registry.example_5000", "registry.example:5000"),
        ("localhost_1", "localhost:1"),
        ("kind-registry_65535", "kind-registry:65535"),
        ("a_b.local_80", "a_b.local:80"),
    ] {
        let registry = registry.parse().expect("a registry");
        assert_eq!(spelled(component), Some(registry), "{component}");
        let mirrored = format!("127.0.0.1:5000/{component}/app:1");
        assert!(ok::<Name>(&mirrored), "{component} in a reference");
    }
    for other in [
        "",
        "_",
        "a",
        "a_",
        "_5000",
        "a_b",
        "a_5000x",
        "a_+5",
        "a_0",
        "a_080",
        "a_65536",
        "a:1_5000",
        "[::1]_5000",
        "a..b_5000",
        "a/b_5000",
    ] {
        assert_eq!(spelled(other), None, "{other}");
    }
}

#[test]
fn repositories() {
    for good in ["a", "library/nginx", "a.b_c__d-e---f/0", "x/y/z"] {
        assert!(ok::<Repository>(good), "{good}");
    }
    for bad in [
        "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a._b", ".a", "a.", "a/../b", "..",
        "a%2fb", "a\0", "é",
    ] {
        assert!(!ok::<Repository>(bad), "{bad:?}");
    }
}

#[test]
fn tags_and_references() {
    assert!(ok::<Tag>("v1.0_x-Y") && ok::<Tag>("_") && ok::<Tag>(&"a".repeat(128)));
    for bad in ["", ".a", "-a", "a/b", "a b", &"a".repeat(129)] {
        assert!(!ok::<Tag>(bad), "{bad:?}");
    }
    assert!(matches!("latest".parse(), Ok(Reference::Tag(_))));
    assert!(matches!(
        Digest::sha256(b"").as_str().parse(),
        Ok(Reference::Digest(_))
    ));
    assert!("sha256:1".parse::<Reference>().is_err());
}

#[test]
fn image_names() {
    let name: Name = "10.77.0.2:5000/lab/app:v1".parse().expect("well-formed");
    assert_eq!(name.origin.registry.as_str(), "10.77.0.2:5000");
    assert_eq!(
        name.tag_name().expect("tagged").to_string(),
        "10.77.0.2:5000/lab/app:v1"
    );
    let both: Name = format!("docker.io/library/a:1@{}", Digest::sha256(b""))
        .parse()
        .expect("well-formed");
    assert!(both.tag.is_some() && both.digest.is_some());
    for bad in [
        "sha256:0123",
        "nginx:latest",
        "library/nginx:1",
        "docker.io/library/nginx",
        "import-2026-01-01@x",
    ] {
        assert!(!ok::<Name>(bad), "{bad:?}");
    }
}

#[test]
fn registry_urls() {
    for good in [
        "https://docker.io",
        "http://10.77.0.2:5000",
        "http://[::1]:5000",
    ] {
        assert_eq!(
            good.parse::<RegistryUrl>()
                .expect("well-formed")
                .to_string(),
            good
        );
    }
    for bad in [
        "docker.io",
        "ftp://a",
        "https://",
        "https://a/b",
        "https://a?x",
        "https://u@a",
        "https://a/",
    ] {
        assert!(!ok::<RegistryUrl>(bad), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn what_is_taken_comes_back_unchanged_and_stays_in_one_line(text in ".{0,300}") {
        let taken = [
            text.parse::<Registry>().map(|x| x.to_string()),
            text.parse::<Repository>().map(|x| x.to_string()),
            text.parse::<Tag>().map(|x| x.to_string()),
            text.parse::<Reference>().map(|x| x.to_string()),
        ];
        for name in taken.into_iter().flatten() {
            prop_assert_eq!(&name, &text);
            prop_assert!(!name.contains("..") || !name.contains('/'));
            prop_assert!(name.bytes().all(|b| b.is_ascii_graphic()));
        }
    }

    #[test]
    fn the_grammar_and_its_parser_agree(text in "[a-b.A_/-]{0,12}") {
        let grammar = regex_lite(&text);
        prop_assert_eq!(ok::<Repository>(&text), grammar);
    }
}

/// The specification's expression, as derivatives over the few characters that the property uses.
fn regex_lite(text: &str) -> bool {
    text.split('/').all(|component| {
        let mut rest = component;
        loop {
            let word =
                rest.trim_start_matches(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
            if word.len() == rest.len() {
                return false;
            }
            rest = word;
            if rest.is_empty() {
                return true;
            }
            rest = if let Some(r) = rest.strip_prefix('.') {
                r
            } else if let Some(r) = rest.strip_prefix("__").or_else(|| rest.strip_prefix('_')) {
                r
            } else {
                let r = rest.trim_start_matches('-');
                if r.len() == rest.len() {
                    return false;
                }
                r
            };
        }
    })
}
