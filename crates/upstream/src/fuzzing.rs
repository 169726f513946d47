//! Parsers of this crate for the crate `fuzz`.

use http::header::{CONTENT_RANGE, LINK, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};
use oci::Ranges;
use url::Url;

use crate::challenge::{Challenge, relayable};
use crate::part::{Cut, RequestedPart};
use crate::{credentials, link};

/// A docker config.json.
pub fn docker_config(bytes: &[u8]) {
    if let Err(error) = credentials::parse("config.json".as_ref(), bytes) {
        assert!(!error.to_string().is_empty());
    }
}

/// Headers in a registry's answer: challenges, links and ranges.
pub fn headers(values: &[HeaderValue]) {
    let all = |name: &http::HeaderName| -> HeaderMap {
        let named = values.iter().map(|value| (name.clone(), value.clone()));
        let mut headers = HeaderMap::new();
        for (name, value) in named {
            headers.append(name, value);
        }
        headers
    };
    let challenges = all(&WWW_AUTHENTICATE);
    let _ = Challenge::of(&challenges);
    assert!(relayable(&challenges).len() <= values.len() * 1024);
    if let Ok(list) = Url::parse("https://registry.example/v2/a/tags/list") {
        let _ = link::next_query(&list, &all(&LINK));
    }
    for value in values {
        let headers = HeaderMap::from_iter([(CONTENT_RANGE, value.clone())]);
        for wanted in ["bytes=0-", "bytes=7-9", "bytes=-5"] {
            let ranges = Ranges::parse(wanted).ok().flatten();
            if let Ok(cut) = Cut::of_part(RequestedPart::of(ranges.as_ref()), &headers)
                && let (Some(size), Some(take)) = (cut.size, cut.take)
            {
                assert!(cut.offset.checked_add(take).is_some_and(|end| end <= size));
            }
        }
    }
}
