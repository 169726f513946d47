//! The challenges of a registry in `WWW-Authenticate` (RFC 9110, section 11.6.1; RFC 6750; distribution's token
//! specification).

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};

use crate::quoted;

/// The most bytes read of these headers in one answer.
const MAX_CHALLENGES: usize = 8 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    /// Fetch a token at `realm`, a URL. Empty parameters count as absent.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// A challenge as written in a header.
struct Stated {
    /// The scheme in lower case.
    scheme: String,
    parameters: Vec<(String, String)>,
    text: String,
}

impl Challenge {
    /// The challenge to answer: a token is preferred to a password, which then goes only to the token service.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut found = None;
        for challenge in stated(headers).iter().filter_map(Self::known) {
            if found.is_none() || matches!(challenge, Self::Bearer { .. }) {
                found = Some(challenge);
            }
        }
        found
    }

    fn known(stated: &Stated) -> Option<Self> {
        match stated.scheme.as_str() {
            "basic" => Some(Self::Basic),
            "bearer" => {
                let parameter = |name| {
                    let mut found = stated.parameters.iter().rev();
                    let value = &found.find(|(key, _)| key == name)?.1;
                    (!value.trim().is_empty()).then(|| value.clone())
                };
                Some(Self::Bearer {
                    realm: parameter("realm")?,
                    service: parameter("service"),
                    scope: parameter("scope"),
                })
            }
            _ => None,
        }
    }
}

/// The challenges that may be passed to a client: Basic and Bearer, each as written.
pub(crate) fn relayable(headers: &HeaderMap) -> Vec<HeaderValue> {
    let stated = stated(headers);
    let known = stated.iter().filter(|s| Challenge::known(s).is_some());
    known
        .filter_map(|s| HeaderValue::from_bytes(s.text.as_bytes()).ok())
        .collect()
}

fn stated(headers: &HeaderMap) -> Vec<Stated> {
    let mut found = Vec::new();
    let mut budget = MAX_CHALLENGES;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Some(rest) = budget.checked_sub(value.len()) else {
            break;
        };
        budget = rest;
        found.extend(parse(&String::from_utf8_lossy(value.as_bytes())));
    }
    found
}

fn parse(text: &str) -> Vec<Stated> {
    let mut schemes: Vec<Stated> = Vec::new();
    for part in quoted::split(text, ',') {
        let part = part.trim();
        let (first, rest) = part.split_once([' ', '\t']).unwrap_or((part, ""));
        let parameter = if first.is_empty() || first.contains('=') {
            if let Some(stated) = schemes.last_mut().filter(|_| !part.is_empty()) {
                stated.text.push(',');
                stated.text.push_str(part);
            }
            part
        } else {
            schemes.push(Stated {
                scheme: first.to_ascii_lowercase(),
                parameters: Vec::new(),
                text: part.to_owned(),
            });
            rest.trim()
        };
        if let (Some(stated), Some((key, value))) = (schemes.last_mut(), parameter.split_once('='))
        {
            let key = key.trim().to_ascii_lowercase();
            stated.parameters.push((key, quoted::unquote(value.trim())));
        }
    }
    schemes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(
                WWW_AUTHENTICATE,
                HeaderValue::from_str(value).expect("a header"),
            );
        }
        Challenge::of(&headers)
    }

    #[test]
    fn reads_what_registries_send() {
        let hub = of(&[
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
        ]);
        let expected = Challenge::Bearer {
            realm: "https://auth.docker.io/token".into(),
            service: Some("registry.docker.io".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(hub, Some(expected));
        assert_eq!(
            of(&[r#"Basic realm="Registry Realm""#]),
            Some(Challenge::Basic)
        );
        assert_eq!(of(&["basic"]), Some(Challenge::Basic));
        let bare = Challenge::Bearer {
            realm: "x".into(),
            service: None,
            scope: None,
        };
        assert_eq!(
            of(&[r#"Basic realm="a, b", BEARER Realm=x"#]),
            Some(bare.clone())
        );
        assert_eq!(of(&["Bearer realm=x", "Basic"]), Some(bare));
        for none in [
            "",
            ",",
            "Bearer",
            "Negotiate",
            "Digest realm=x",
            r#"Bearer service="x""#,
            r#"Bearer realm="",service="x""#,
        ] {
            assert_eq!(of(&[none]), None, "{none}");
        }
    }

    #[test]
    fn what_is_empty_counts_as_absent() {
        let expected = Challenge::Bearer {
            realm: "x".into(),
            service: None,
            scope: None,
        };
        let found = of(&[r#"Bearer realm="x",service="",scope=" ""#]);
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn a_client_is_told_of_basic_and_bearer_alone() {
        let mut headers = HeaderMap::new();
        for value in [
            r#"Negotiate, Basic realm="a, b" , charset=UTF-8,Digest realm="d""#,
            r#"Bearer realm="https://t.example/x",, scope="s""#,
            "Bearer",
        ] {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        let told = relayable(&headers);
        let expected = [
            r#"Basic realm="a, b",charset=UTF-8"#,
            r#"Bearer realm="https://t.example/x",scope="s""#,
        ];
        assert_eq!(told, expected);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in r#"[ a-zA-Z="\\,éB]{0,80}"#) {
            parse(&text);
        }

        #[test]
        fn quoted_text_comes_back(realm in "[ -~]{0,40}") {
            let escaped = realm.replace('\\', "\\\\").replace('"', "\\\"");
            let told = of(&[&format!("Bearer realm=\"{escaped}\", service=s")]);
            let is_given = !realm.trim().is_empty();
            let expected = Challenge::Bearer { realm, service: Some("s".into()), scope: None };
            prop_assert_eq!(told, is_given.then_some(expected));
        }
    }
}
