//! The bytes of a blob that are requested, and those in an answer.

use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::{HeaderMap, StatusCode};
use oci::Ranges;

/// The requested part, before the size of the blob is known. Offsets are in bytes, ends are excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestedPart {
    From(u64),
    Between(u64, u64),
    Last(u64),
}

impl RequestedPart {
    /// The first of the ranges; everything if there is none.
    pub(crate) fn of(ranges: Option<&Ranges>) -> Self {
        let Some(ranges) = ranges else {
            return Self::From(0);
        };
        let text = ranges.first().to_string();
        let range = text.strip_prefix("bytes=").and_then(|t| t.split_once('-'));
        let (first, last) = range.unwrap_or_default();
        match (first.parse(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) => Self::Between(first, last.saturating_add(1)),
            (Ok(first), Err(_)) => Self::From(first),
            (Err(_), Ok(length)) => Self::Last(length),
            (Err(_), Err(_)) => Self::From(0),
        }
    }

    /// The offsets of the first byte and of the one after the last, if known. `None`: no byte of a blob of this size is
    /// requested, or the size must be known first.
    fn within(self, size: Option<u64>) -> Option<(u64, Option<u64>)> {
        match (self, size) {
            (Self::From(0), size) => Some((0, size)),
            (Self::From(first), Some(size)) => (first < size).then_some((first, Some(size))),
            (Self::From(first), None) => Some((first, None)),
            (Self::Between(first, end), Some(size)) => {
                (first < size).then_some((first, Some(end.min(size))))
            }
            (Self::Between(first, end), None) => Some((first, Some(end))),
            (Self::Last(length), Some(size)) => {
                let first = size.saturating_sub(length);
                (first < size).then_some((first, Some(size)))
            }
            (Self::Last(_), None) => None,
        }
    }
}

/// How to cut a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The size of the whole blob.
    pub(crate) size: Option<u64>,
    /// The offset of the result in the blob.
    pub(crate) offset: u64,
    /// The bytes of the body before the result.
    pub(crate) skip: u64,
    /// The bytes of the result, if known.
    pub(crate) take: Option<u64>,
}

/// Why a body cannot be cut to the requested part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutError {
    /// The blob has no such bytes.
    Unsatisfiable(Option<u64>),
    /// The size of the blob is needed, but unknown.
    Unsized,
    /// The body has other bytes than the requested ones.
    OtherRange,
}

impl Cut {
    /// Cuts a body that is the whole blob.
    pub(crate) fn of_whole(wanted: RequestedPart, size: Option<u64>) -> Result<Self, CutError> {
        let (offset, end) = wanted.within(size).ok_or(match size {
            None => CutError::Unsized,
            size => CutError::Unsatisfiable(size),
        })?;
        Ok(Self {
            size,
            offset,
            skip: offset,
            take: end.map(|end| end - offset),
        })
    }

    /// Cuts a body that is the part in `Content-Range`.
    pub(crate) fn of_part(wanted: RequestedPart, headers: &HeaderMap) -> Result<Self, CutError> {
        let value = headers.get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
        let part = value.and_then(Part::parse).ok_or(CutError::OtherRange)?;
        // A part without a size reaches to the end of the request.
        let size = part.size.or(match wanted {
            RequestedPart::From(_) | RequestedPart::Last(_) => Some(part.end),
            RequestedPart::Between(..) => None,
        });
        let (offset, end) = wanted.within(size).ok_or(CutError::Unsatisfiable(size))?;
        let skip = offset.checked_sub(part.start).ok_or(CutError::OtherRange)?;
        // If the whole size is unknown, the part may end with the blob.
        let end = match (end, part.size) {
            (Some(end), None) => Some(end.min(part.end)),
            (end, _) => end,
        };
        // A part that ends early is still useful: its reader continues from there.
        if offset >= part.end {
            return Err(CutError::OtherRange);
        }
        Ok(Self {
            size,
            offset,
            skip,
            take: end.map(|end| end - offset),
        })
    }
}

/// `bytes 5-9/10` or `bytes 5-9/*` (RFC 9110, section 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    start: u64,
    /// The end, excluded.
    end: u64,
    size: Option<u64>,
}

impl Part {
    fn parse(text: &str) -> Option<Self> {
        let (range, size) = split_content_range(text)?;
        let (start, last) = range.split_once('-')?;
        let (start, last): (u64, u64) = (start.trim().parse().ok()?, last.trim().parse().ok()?);
        let end = last.checked_add(1)?;
        let is_sound = start < end && size.is_none_or(|size| end <= size);
        is_sound.then_some(Self { start, end, size })
    }
}

/// The range and the size, before and after the slash.
fn split_content_range(text: &str) -> Option<(&str, Option<u64>)> {
    let (unit, rest) = text.trim().split_once([' ', '='])?;
    let (range, size) = rest.split_once('/')?;
    let size = match size.trim() {
        "*" => None,
        size => Some(size.parse().ok()?),
    };
    unit.eq_ignore_ascii_case("bytes").then_some((range, size))
}

/// The size of the whole blob, from the answer to a `HEAD`, or to a `GET` of any part.
pub(crate) fn whole_size(status: StatusCode, headers: &HeaderMap) -> Option<u64> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match status {
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            split_content_range(text(CONTENT_RANGE)?)?.1
        }
        _ => text(CONTENT_LENGTH)?.trim().parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn wanted(header: &str) -> RequestedPart {
        let ranges = Ranges::parse(header).expect("well-formed");
        RequestedPart::of(ranges.as_ref())
    }

    fn of_part(header: &str, content_range: &str) -> Result<(u64, u64, Option<u64>), CutError> {
        let value = HeaderValue::from_str(content_range).expect("a header");
        let headers = HeaderMap::from_iter([(CONTENT_RANGE, value)]);
        Cut::of_part(wanted(header), &headers).map(|cut| (cut.offset, cut.skip, cut.take))
    }

    #[test]
    fn of_several_ranges_the_first_is_wanted() {
        assert_eq!(RequestedPart::of(None), RequestedPart::From(0));
        assert_eq!(wanted("bytes=5-"), RequestedPart::From(5));
        assert_eq!(wanted("bytes=5-7,9-"), RequestedPart::Between(5, 8));
        assert_eq!(wanted("bytes=-3, 1-2"), RequestedPart::Last(3));
    }

    #[test]
    fn a_part_is_cut_to_what_is_wanted() {
        for (header, answer, expected) in [
            ("bytes=4-", "bytes 4-9/10", Ok((4, 0, Some(6)))),
            ("bytes=4-", "bytes 4-9/*", Ok((4, 0, Some(6)))),
            ("bytes=4-", "Bytes 2-9/10", Ok((4, 2, Some(6)))),
            ("bytes=4-", "bytes=4-9/10", Ok((4, 0, Some(6)))),
            ("bytes=4-6", "bytes 4-6/10", Ok((4, 0, Some(3)))),
            ("bytes=4-6", "bytes 0-9/10", Ok((4, 4, Some(3)))),
            ("bytes=4-60", "bytes 4-9/10", Ok((4, 0, Some(6)))),
            ("bytes=4-60", "bytes 4-9/*", Ok((4, 0, Some(6)))),
            ("bytes=-3", "bytes 7-9/10", Ok((7, 0, Some(3)))),
            ("bytes=-3", "bytes 7-9/*", Ok((7, 0, Some(3)))),
            ("bytes=-30", "bytes 0-9/10", Ok((0, 0, Some(10)))),
            ("bytes=4-", "bytes 5-9/10", Err(CutError::OtherRange)),
            ("bytes=4-", "bytes 4-7/10", Ok((4, 0, Some(6)))),
            ("bytes=4-6", "bytes 0-3/10", Err(CutError::OtherRange)),
            ("bytes=4-6", "bytes 7-9/10", Err(CutError::OtherRange)),
            ("bytes=-3", "bytes 8-9/10", Err(CutError::OtherRange)),
            ("bytes=4-", "bytes 9-4/10", Err(CutError::OtherRange)),
            ("bytes=4-", "bytes 4-9/9", Err(CutError::OtherRange)),
            ("bytes=4-", "lines 4-9/10", Err(CutError::OtherRange)),
            ("bytes=4-", "", Err(CutError::OtherRange)),
            (
                "bytes=20-",
                "bytes 0-9/10",
                Err(CutError::Unsatisfiable(Some(10))),
            ),
        ] {
            assert_eq!(of_part(header, answer), expected, "{header} {answer}");
        }
    }

    #[test]
    fn the_whole_is_cut_to_what_is_wanted() {
        let of = |header, size| {
            let cut = Cut::of_whole(wanted(header), size);
            cut.map(|cut| (cut.skip, cut.take))
        };
        assert_eq!(of("bytes=4-", Some(10)), Ok((4, Some(6))));
        assert_eq!(of("bytes=4-", None), Ok((4, None)));
        assert_eq!(of("bytes=4-5", None), Ok((4, Some(2))));
        assert_eq!(of("bytes=-4", Some(10)), Ok((6, Some(4))));
        assert_eq!(of("bytes=-4", None), Err(CutError::Unsized));
        let outside = Err(CutError::Unsatisfiable(Some(10)));
        for header in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert_eq!(of(header, Some(10)), outside, "{header}");
        }
        let empty = Cut::of_whole(RequestedPart::of(None), Some(0)).expect("all of nothing");
        assert_eq!(empty.take, Some(0));
    }

    #[test]
    fn the_size_of_the_whole_is_found() {
        let with = |name, text| HeaderMap::from_iter([(name, HeaderValue::from_static(text))]);
        let length = with(CONTENT_LENGTH, "10");
        assert_eq!(whole_size(StatusCode::OK, &length), Some(10));
        assert_eq!(whole_size(StatusCode::PARTIAL_CONTENT, &length), None);
        let none = with(CONTENT_RANGE, "bytes */0");
        assert_eq!(
            whole_size(StatusCode::RANGE_NOT_SATISFIABLE, &none),
            Some(0)
        );
        let part = with(CONTENT_RANGE, "bytes 0-0/10");
        assert_eq!(whole_size(StatusCode::PARTIAL_CONTENT, &part), Some(10));
        assert_eq!(whole_size(StatusCode::OK, &HeaderMap::new()), None);
    }

    proptest! {
        #[test]
        fn a_cut_begins_in_what_the_answer_has(
            text in "bytes [0-9]{1,3}-[0-9]{1,3}/([0-9]{1,3}|\\*)",
            header in "bytes=([0-9]{1,2}-[1-9][0-9]{2}|[0-9]{1,3}-|-[0-9]{1,3})",
        ) {
            let value = HeaderValue::from_str(&text).expect("a header");
            let headers = HeaderMap::from_iter([(CONTENT_RANGE, value)]);
            if let (Ok(cut), Some(part)) = (Cut::of_part(wanted(&header), &headers), Part::parse(&text)) {
                prop_assert_eq!(part.start + cut.skip, cut.offset);
                prop_assert!(cut.offset < part.end);
                prop_assert!(cut.take.is_some_and(|take| take > 0));
            }
        }
    }
}
