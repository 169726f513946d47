//! Byte ranges of RFC 9110, section 14.

use std::ops::Range;

/// A resolved range: offsets in bytes, end excluded, never empty.
pub type ByteRange = Range<u64>;

/// The most ranges in one request. An eStargz reader requests a few dozen at most.
pub const MAX_RANGES: usize = 256;

/// The offset that replaces larger ones: outside every object, and valid for servers in all languages.
const MAX_OFFSET: u64 = i64::MAX as u64;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RangeError {
    #[error("Range names more than {MAX_RANGES} ranges; ask in several requests")]
    TooMany,
    #[error("Range asks for more bytes than the object has; ask for ranges that do not overlap")]
    Overlapping,
    #[error("no range lies within the {size} bytes of the object")]
    Unsatisfiable { size: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    /// `first-`
    From(u64),
    /// `first-last`, last included
    Between(u64, u64),
    /// `-length`
    Suffix(u64),
}

/// The ranges in a `Range` header, before the size of the object is known.
///
/// A malformed header requests a range outside every object: [`Self::resolve`] then fails as for any other such range,
/// and the client learns the size (status 416). Go's `http.ServeContent`, used by most registries, refuses it with the
/// same status; RFC 9110, section 14.2, leaves the choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges(Vec<Spec>);

impl Ranges {
    /// Parses a `Range` header. `None`: a unit other than bytes, which a server must ignore (RFC 9110, section 14.2).
    ///
    /// # Errors
    /// A header with more than [`MAX_RANGES`] ranges.
    pub fn parse(header: &str) -> Result<Option<Self>, RangeError> {
        let Some((unit, set)) = header.split_once('=') else {
            return Ok(Some(Self::outside()));
        };
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Ok(None);
        }
        let mut specs = Vec::new();
        // An empty list element must be ignored (RFC 9110, section 5.6.1.2).
        for text in set.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            if specs.len() == MAX_RANGES {
                return Err(RangeError::TooMany);
            }
            let Some(spec) = Spec::parse(text) else {
                return Ok(Some(Self::outside()));
            };
            specs.push(spec);
        }
        if specs.is_empty() {
            return Ok(Some(Self::outside()));
        }
        Ok(Some(Self(specs)))
    }

    /// A range outside every object.
    pub fn outside() -> Self {
        Self::from_offset(MAX_OFFSET)
    }

    /// One range with known ends. It must not be empty.
    pub fn of(range: &ByteRange) -> Self {
        Self(vec![Spec::Between(
            range.start,
            range.end.saturating_sub(1),
        )])
    }

    /// Everything from `offset` on.
    pub fn from_offset(offset: u64) -> Self {
        Self(vec![Spec::From(offset)])
    }

    /// Only the first of the ranges.
    #[must_use]
    pub fn first(&self) -> Self {
        Self(self.0.iter().take(1).copied().collect())
    }

    /// The ranges within an object of `size` bytes, in the requested order; those outside it are dropped.
    ///
    /// # Errors
    /// [`RangeError::Unsatisfiable`] if none is left (status 416), [`RangeError::Overlapping`] if several ranges
    /// together are longer than the object, which only a client that wants to waste bandwidth requests.
    pub fn resolve(&self, size: u64) -> Result<Vec<ByteRange>, RangeError> {
        let ranges: Vec<ByteRange> = self.0.iter().filter_map(|s| s.within(size)).collect();
        if ranges.is_empty() {
            return Err(RangeError::Unsatisfiable { size });
        }
        let total = ranges
            .iter()
            .map(|r| r.end - r.start)
            .fold(0u64, u64::saturating_add);
        if total > size {
            return Err(RangeError::Overlapping);
        }
        Ok(ranges)
    }
}

impl Spec {
    /// `None`: it is malformed, or its end precedes its beginning.
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        match (first, last) {
            ("", length) => Some(Self::Suffix(offset(length)?)),
            (first, "") => Some(Self::From(offset(first)?)),
            (first, last) => {
                let (first, last) = (offset(first)?, offset(last)?);
                (first <= last).then_some(Self::Between(first, last))
            }
        }
    }

    fn within(self, size: u64) -> Option<ByteRange> {
        let range = match self {
            Self::From(first) => first..size,
            Self::Between(first, last) => first..last.saturating_add(1).min(size),
            Self::Suffix(length) => size.saturating_sub(length)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

/// A number of bytes, at most [`MAX_OFFSET`]. `None`: it has other characters than digits.
fn offset(text: &str) -> Option<u64> {
    // u64::from_str accepts a leading plus.
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Digits fail only if there are too many.
    Some(text.parse().unwrap_or(MAX_OFFSET).min(MAX_OFFSET))
}

impl std::fmt::Display for Ranges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bytes=")?;
        for (i, spec) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match spec {
                Spec::From(first) => write!(f, "{first}-")?,
                Spec::Between(first, last) => write!(f, "{first}-{last}")?,
                Spec::Suffix(length) => write!(f, "-{length}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolve(header: &str, size: u64) -> Result<Vec<(u64, u64)>, RangeError> {
        let ranges = Ranges::parse(header)?
            .expect("unit is bytes")
            .resolve(size)?;
        Ok(ranges
            .into_iter()
            .map(|range| (range.start, range.end))
            .collect())
    }

    #[test]
    fn one_open_suffix_several() {
        assert_eq!(resolve("bytes=0-0", 10), Ok(vec![(0, 1)]));
        assert_eq!(resolve("bytes=3-", 10), Ok(vec![(3, 10)]));
        assert_eq!(resolve("bytes=-4", 10), Ok(vec![(6, 10)]));
        assert_eq!(resolve("bytes=-40", 10), Ok(vec![(0, 10)]));
        assert_eq!(resolve("bytes=2-99", 10), Ok(vec![(2, 10)]));
        assert_eq!(
            resolve("bytes=0-1, 4-5,,-1", 10),
            Ok(vec![(0, 2), (4, 6), (9, 10)])
        );
        assert_eq!(resolve("bytes=0-1,20-", 10), Ok(vec![(0, 2)]));
        let endless = "99999999999999999999";
        for header in [format!("bytes=0-{endless}"), format!("bytes=-{endless}")] {
            assert_eq!(resolve(&header, 10), Ok(vec![(0, 10)]), "{header}");
        }
    }

    #[test]
    fn outside() {
        for header in [
            "bytes=10-",
            "bytes=10-20",
            "bytes=-0",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(
                resolve(header, 10),
                Err(RangeError::Unsatisfiable { size: 10 })
            );
        }
        assert_eq!(
            resolve("bytes=0-", 0),
            Err(RangeError::Unsatisfiable { size: 0 })
        );
        assert_eq!(resolve("bytes=0-,0-", 10), Err(RangeError::Overlapping));
    }

    #[test]
    fn what_is_not_well_formed_lies_outside() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=5-2",
            "bytes=0-1,5-2",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=0x1-2",
            "bytes=1",
        ] {
            assert_eq!(
                resolve(header, 10),
                Err(RangeError::Unsatisfiable { size: 10 }),
                "{header:?}"
            );
        }
        let many = format!("bytes={}", "0-0,".repeat(MAX_RANGES + 1));
        assert_eq!(Ranges::parse(&many), Err(RangeError::TooMany));
        assert_eq!(Ranges::parse("lines=1-2"), Ok(None));
    }

    proptest! {
        #[test]
        fn never_outside_never_empty(header in "bytes=[0-9,-]{0,40}", size in 0u64..100) {
            if let Ok(Some(ranges)) = Ranges::parse(&header)
                && let Ok(ranges) = ranges.resolve(size)
            {
                for range in ranges {
                    prop_assert!(range.start < range.end && range.end <= size);
                }
            }
        }

        #[test]
        fn any_header_is_read_without_a_panic_and_written_back_the_same(header in ".{0,60}") {
            if let Ok(Some(ranges)) = Ranges::parse(&header) {
                prop_assert_eq!(Ranges::parse(&ranges.to_string()), Ok(Some(ranges)));
            }
        }
    }
}
