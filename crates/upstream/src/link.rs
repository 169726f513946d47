//! The `Link` header with the next page of a list (RFC 8288; distribution-spec, "Listing Tags").

use http::HeaderMap;
use http::header::LINK;
use percent_encoding::percent_decode_str;
use url::Url;

use crate::quoted;

/// The most bytes read of these headers in one answer.
const MAX_LINKS: usize = 8 * 1024;

/// The query of the next page of the list at `list`. `None`: there is none, or the link leads to another list. Only the
/// path is compared, as registries behind a proxy often name a wrong scheme or host.
pub(crate) fn next_query(list: &Url, headers: &HeaderMap) -> Option<String> {
    let mut budget = MAX_LINKS;
    headers.get_all(LINK).iter().find_map(|value| {
        budget = budget.checked_sub(value.len())?;
        let text = String::from_utf8_lossy(value.as_bytes());
        next_target(&text).and_then(|target| query_within(list, target))
    })
}

fn query_within(list: &Url, target: &str) -> Option<String> {
    let next = list.join(target.trim()).ok()?;
    let path = |url: &Url| percent_decode_str(url.path()).collect::<Vec<u8>>();
    let query = next.query().filter(|query| !query.is_empty())?;
    path(&next).ends_with(&path(list)).then(|| query.to_owned())
}

/// The target of the first link of a header whose relation is `next`.
fn next_target(text: &str) -> Option<&str> {
    let mut rest = text;
    loop {
        let (_, from) = rest.split_once('<')?;
        let (target, parameters) = from.split_once('>')?;
        let end = quoted::find(parameters, ',').unwrap_or(parameters.len());
        if is_next(&parameters[..end]) {
            return Some(target);
        }
        rest = &parameters[end..];
    }
}

/// Whether one of the relations is `next`.
fn is_next(parameters: &str) -> bool {
    quoted::split(parameters, ';').into_iter().any(|parameter| {
        let Some((name, value)) = parameter.split_once('=') else {
            return false;
        };
        let relations = quoted::unquote(value.trim());
        let mut relations = relations.split_ascii_whitespace();
        name.trim().eq_ignore_ascii_case("rel")
            && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn next(list: &str, values: &[&str]) -> Option<String> {
        let list = Url::parse(list).expect("a URL");
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_str(value).expect("a header");
            headers.append(LINK, value);
        }
        next_query(&list, &headers)
    }

    #[test]
    fn a_link_of_any_form_is_read_and_stays_within_its_list() {
        let list = "http://r.example/v2/team/app/tags/list?n=2";
        for (value, expected) in [
            (
                r#"</v2/team/app/tags/list?last=b&n=2>; rel="next""#,
                Some("last=b&n=2"),
            ),
            ("<?last=b>;REL=Next", Some("last=b")),
            ("<list?last=b>; rel=next", Some("last=b")),
            (
                r#"<https://internal:5000/v2/team/app/tags/list?last=b>; rel="next""#,
                Some("last=b"),
            ),
            (
                "<https://proxy/docker/v2/team/app/tags/list?a=1>; rel=next",
                Some("a=1"),
            ),
            (
                r#"<?x>; title="a, b; rel=next"; rel=prev, <?y=,>; rel="prev next""#,
                Some("y=,"),
            ),
            (r#"</v2/team/other/tags/list?last=b>; rel="next""#, None),
            (r#"</v2/team/app/tags/list>; rel="next""#, None),
            (r#"<?last=b>; rel="prev""#, None),
            ("<?last=b>", None),
            ("?last=b; rel=next", None),
            ("<", None),
            ("", None),
        ] {
            assert_eq!(next(list, &[value]).as_deref(), expected, "{value}");
        }
        let several = ["<?a>; rel=prev", "<?b>; rel=next"];
        assert_eq!(next(list, &several).as_deref(), Some("b"));
        let encoded = "http://r.example/v2/app/referrers/sha256%3Aab";
        let plain = "</v2/app/referrers/sha256:ab?n=1>; rel=next";
        assert_eq!(next(encoded, &[plain]).as_deref(), Some("n=1"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in r#"[<>;,="\\ relnxtü?/]{0,60}"#) {
            if let Some(target) = next_target(&text) {
                prop_assert!(text.contains(target));
            }
        }
    }
}
