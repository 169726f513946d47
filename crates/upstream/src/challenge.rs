//! What a registry asks for in `WWW-Authenticate` (RFC 9110, section 11.6.1; RFC 6750; distribution's token
//! specification).

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// More of such headers in one answer are not read. In bytes.
const MAX_CHALLENGES: usize = 8 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    /// Fetch a token at `realm`, a URL.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// The challenge to answer: a token before a password, which then goes to the token service alone.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut found = None;
        let mut budget = MAX_CHALLENGES;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let Some(rest) = budget.checked_sub(value.len()) else {
                break;
            };
            budget = rest;
            for challenge in value.to_str().map(parse).unwrap_or_default() {
                if found.is_none() || matches!(challenge, Self::Bearer { .. }) {
                    found = Some(challenge);
                }
            }
        }
        found
    }
}

fn parse(text: &str) -> Vec<Challenge> {
    let mut schemes: Vec<(String, Vec<(String, String)>)> = Vec::new();
    for part in split_outside_quotes(text) {
        let part = part.trim();
        let (first, rest) = part.split_once([' ', '\t']).unwrap_or((part, ""));
        let parameter = if first.is_empty() || first.contains('=') {
            part
        } else {
            schemes.push((first.to_ascii_lowercase(), Vec::new()));
            rest.trim()
        };
        if let (Some((_, parameters)), Some((key, value))) =
            (schemes.last_mut(), parameter.split_once('='))
        {
            parameters.push((key.trim().to_ascii_lowercase(), unquote(value.trim())));
        }
    }
    schemes
        .into_iter()
        .filter_map(|(scheme, parameters)| known(&scheme, parameters))
        .collect()
}

fn known(scheme: &str, parameters: Vec<(String, String)>) -> Option<Challenge> {
    if scheme == "basic" {
        return Some(Challenge::Basic);
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    for (key, value) in parameters {
        match key.as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
    }
    let realm = realm.filter(|_| scheme == "bearer")?;
    Some(Challenge::Bearer {
        realm,
        service,
        scope,
    })
}

fn split_outside_quotes(text: &str) -> Vec<&str> {
    let (mut parts, mut from) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts
}

fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"') else {
        return value.to_owned();
    };
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    let mut text = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
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
        ] {
            assert_eq!(of(&[none]), None, "{none}");
        }
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
            let expected = Challenge::Bearer { realm, service: Some("s".into()), scope: None };
            prop_assert_eq!(told, Some(expected));
        }
    }
}
