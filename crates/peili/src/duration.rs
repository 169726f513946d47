//! Durations in Go's notation, as command lines for Spegel contain them: `20ms`, `1m30s`, `1.5h`.

use std::time::Duration;

const UNITS: [(&str, f64); 7] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

/// # Errors
/// It is not a sequence of numbers with units, or longer than a year.
pub fn parse(text: &str) -> Result<Duration, String> {
    let fault = || format!("{text:?} is not a duration; write 20ms, 2s or 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(fault)?;
        let number: f64 = rest[..end].parse().map_err(|_| fault())?;
        let unit_end = rest[end..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |n| end + n);
        let unit = UNITS
            .iter()
            .find(|(name, _)| *name == &rest[end..unit_end])
            .ok_or_else(fault)?;
        seconds += number * unit.1;
        rest = &rest[unit_end..];
    }
    if text.is_empty() || seconds > 366.0 * 24.0 * 3600.0 {
        return Err(fault());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| fault())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_has_them() {
        for (text, millis) in [
            ("20ms", 20),
            ("2s", 2_000),
            ("1m30s", 90_000),
            ("1.5s", 1_500),
            ("1h0.5m", 3_630_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "", "5", "ms", "5 s", "-1s", "1x", "1.2.3s", "1s2", "9999999h", "é",
        ] {
            assert!(parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
