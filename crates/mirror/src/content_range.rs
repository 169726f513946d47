//! The `Content-Range` header (RFC 9110, 14.4).

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use oci::ByteRange;

/// The bytes of an object in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentRange {
    pub range: ByteRange,
    /// The size of the whole object.
    pub size: u64,
}

impl ContentRange {
    /// Parses `bytes first-last/size`. `None`: anything else, including an unknown size (`*`).
    pub fn parse(text: &str) -> Option<Self> {
        let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last, size) = (
            first.parse().ok()?,
            last.parse::<u64>().ok()?,
            size.parse().ok()?,
        );
        let range = first..last.checked_add(1)?;
        (range.start < range.end && range.end <= size).then_some(Self { range, size })
    }

    /// The range of an answer: a part by its `Content-Range`, the whole by its `Content-Length`.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(part) = text(CONTENT_RANGE) {
            return Self::parse(part);
        }
        let size = text(CONTENT_LENGTH)?.parse().ok()?;
        Some(Self {
            range: 0..size,
            size,
        })
    }
}

impl std::fmt::Display for ContentRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "bytes {}-{}/{}",
            self.range.start,
            self.range.end.saturating_sub(1),
            self.size
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_lies_within_the_object_is_taken() {
        let whole = ContentRange {
            range: 0..10,
            size: 10,
        };
        assert_eq!(ContentRange::parse("bytes 0-9/10"), Some(whole.clone()));
        assert_eq!(whole.to_string(), "bytes 0-9/10");
        for bad in [
            "",
            "bytes",
            "bytes 0-9/*",
            "bytes */10",
            "bytes 5-4/10",
            "bytes 0-10/10",
            "bytes 0-18446744073709551615/1",
        ] {
            assert_eq!(ContentRange::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(bytes )?[0-9/*-]{0,50}") {
            if let Some(part) = ContentRange::parse(&text) {
                prop_assert!(part.range.start < part.range.end && part.range.end <= part.size);
            }
        }
    }
}
