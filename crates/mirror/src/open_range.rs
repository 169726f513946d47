//! The start of a requested range, before the size of the object is known.

use oci::{ByteRange, Ranges};

/// Larger than any object: a range resolved against it keeps its written form.
const ENDLESS: u64 = u64::MAX;
/// A range that starts beyond this counts from the end.
const NO_OFFSET: u64 = 1 << 62;

fn resolved(ranges: &Ranges) -> Vec<ByteRange> {
    ranges.resolve(ENDLESS).unwrap_or_default()
}

/// The offset from which everything to the end is requested. `None`: the request is for something else.
pub fn all_from(ranges: Option<&Ranges>) -> Option<u64> {
    let Some(ranges) = ranges else {
        return Some(0);
    };
    match resolved(ranges).as_slice() {
        [range] if range.end == ENDLESS && range.start < NO_OFFSET => Some(range.start),
        _ => None,
    }
}

/// The first requested byte.
pub fn first_byte(ranges: Option<&Ranges>) -> u64 {
    let first = ranges.and_then(|ranges| resolved(ranges).into_iter().next());
    first.map_or(0, |range| range.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_open_ranges_from_others() {
        let read = |text| Ranges::parse(text).expect("well-formed").expect("bytes");
        assert_eq!(all_from(None), Some(0));
        assert_eq!(all_from(Some(&read("bytes=0-"))), Some(0));
        assert_eq!(all_from(Some(&read("bytes=7-"))), Some(7));
        for other in ["bytes=0-6", "bytes=-7", "bytes=0-1,5-"] {
            assert_eq!(all_from(Some(&read(other))), None, "{other}");
        }
        assert_eq!(first_byte(None), 0);
        assert_eq!(first_byte(Some(&read("bytes=7-9,1-2"))), 7);
    }
}
