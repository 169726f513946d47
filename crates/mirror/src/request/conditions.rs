//! Conditional requests (RFC 9110, section 13). An object's entity tag is its digest in quotes, and it is a strong one.
//!
//! There is no `Last-Modified`, so conditions on dates are ignored, according to section 13.1.

use http::HeaderMap;
use http::header::{AsHeaderName, IF_MATCH, IF_NONE_MATCH, IF_RANGE};
use oci::Digest;

/// Whether the conditions of a request hold, once it is certain that the object exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// The object is sent.
    Hold,
    /// The client has the object: status 304.
    NotModified,
    /// The client wants another object: status 412.
    Failed,
}

/// The entity tag of an object.
pub fn entity_tag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Checks `If-Match`, then `If-None-Match` (RFC 9110, 13.2.2). A header without a value counts as absent.
pub fn check(headers: &HeaderMap, digest: &Digest) -> Conditions {
    let strong = |tag: Tag<'_>| tag.is_any() || (!tag.weak && tag.text == digest.as_str());
    let weak = |tag: Tag<'_>| tag.is_any() || tag.text == digest.as_str();
    let mut wanted = tags(headers, IF_MATCH).peekable();
    if wanted.peek().is_some() && !wanted.any(strong) {
        Conditions::Failed
    } else if tags(headers, IF_NONE_MATCH).any(weak) {
        Conditions::NotModified
    } else {
        Conditions::Hold
    }
}

/// Whether a `Range` applies: `If-Range` is absent, or contains the entity tag of the object (RFC 9110, section
/// 13.1.5). A date does not match.
pub fn range_counts(headers: &HeaderMap, digest: &Digest) -> bool {
    let named = tags(headers, IF_RANGE).next();
    named.is_none_or(|tag| !tag.weak && tag.text == digest.as_str())
}

/// An entity tag in a list. One without quotes is accepted too: common registries compare the bare digest as well.
struct Tag<'a> {
    weak: bool,
    quoted: bool,
    text: &'a str,
}

impl Tag<'_> {
    /// Whether it is `*`, which matches any object.
    fn is_any(&self) -> bool {
        !self.quoted && self.text == "*"
    }
}

/// The entity tags of a header, in all its lines.
fn tags(headers: &HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = Tag<'_>> {
    let lines = headers.get_all(name).into_iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| Tags { rest: line })
}

struct Tags<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        let rest = self.rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return None;
        }
        let (weak, rest) = match rest.strip_prefix("W/") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (quoted, end, rest) = match rest.strip_prefix('"') {
            Some(rest) => (true, '"', rest),
            None => (false, ',', rest),
        };
        let (text, rest) = rest.split_once(end).unwrap_or((rest, ""));
        self.rest = rest;
        Some(Tag {
            weak,
            quoted,
            text: if quoted { text } else { text.trim_end() },
        })
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    const OTHER: &str = "\"sha256:0000\"";

    fn with(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, line) in lines {
            headers.append(name, HeaderValue::from_str(line).expect("a header"));
        }
        headers
    }

    #[test]
    fn conditions_are_weighed_in_order() {
        let digest = Digest::sha256(b"");
        let (same, bare) = (entity_tag(&digest), digest.as_str());
        let (weak, list) = (
            format!("W/{same}"),
            format!("{OTHER} ,, W/\"x,y\",\t{same}"),
        );
        let weak_list = format!("{OTHER}, {weak}");
        let of = |lines: &[(HeaderName, &str)]| check(&with(lines), &digest);
        assert_eq!(of(&[]), Conditions::Hold);
        for there in [&*same, bare, &weak, &list, &weak_list, "*", " *"] {
            assert_eq!(
                of(&[(IF_NONE_MATCH, there)]),
                Conditions::NotModified,
                "{there}"
            );
        }
        for absent in ["", " ", ","] {
            assert_eq!(of(&[(IF_MATCH, absent)]), Conditions::Hold, "{absent:?}");
            assert_eq!(
                of(&[(IF_NONE_MATCH, absent)]),
                Conditions::Hold,
                "{absent:?}"
            );
        }
        for other in [OTHER, "\"*\"", "\"\"", "W/", "\"unclosed, *"] {
            assert_eq!(of(&[(IF_NONE_MATCH, other)]), Conditions::Hold, "{other}");
            assert_eq!(of(&[(IF_MATCH, other)]), Conditions::Failed, "{other}");
        }
        for there in [&*same, bare, &list, "*"] {
            assert_eq!(of(&[(IF_MATCH, there)]), Conditions::Hold, "{there}");
        }
        for weak in [&*weak, &weak_list] {
            assert_eq!(of(&[(IF_MATCH, weak)]), Conditions::Failed, "weak: {weak}");
        }
        let lines = [(IF_NONE_MATCH, OTHER), (IF_NONE_MATCH, &*same)];
        assert_eq!(of(&lines), Conditions::NotModified, "in the second line");
        let both = [(IF_NONE_MATCH, &*same), (IF_MATCH, OTHER)];
        assert_eq!(of(&both), Conditions::Failed, "If-Match is first");
        let both = [(IF_NONE_MATCH, &*same), (IF_MATCH, &*same)];
        assert_eq!(of(&both), Conditions::NotModified);
    }

    #[test]
    fn a_range_counts_for_the_object_that_it_is_meant_for() {
        let digest = Digest::sha256(b"");
        let same = entity_tag(&digest);
        let counts = |lines: &[(HeaderName, &str)]| range_counts(&with(lines), &digest);
        assert!(counts(&[]) && counts(&[(IF_RANGE, "")]) && counts(&[(IF_RANGE, &same)]));
        let weak = format!("W/{same}");
        for other in [&*weak, OTHER, "*", "Sat, 29 Oct 1994 19:43:31 GMT"] {
            assert!(!counts(&[(IF_RANGE, other)]), "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_list_makes_it_panic_or_go_on_for_ever(list in "[W/\"*, xé]{0,40}") {
            let tags = Tags { rest: &list };
            prop_assert!(tags.count() <= list.len());
        }
    }
}
