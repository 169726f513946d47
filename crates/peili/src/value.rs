//! Values of flags that several commands have.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// A path; `None` where the flag is left empty.
pub fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

/// A truth value as Go's strconv.ParseBool reads it.
///
/// # Errors
/// It is none.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// # Errors
/// It is neither.
pub fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{text:?} is neither on nor off")),
    }
}

/// # Errors
/// It is no number, or not within `range`.
pub fn number<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let number = text.parse().ok().filter(|number| range.contains(number));
    let (least, most) = (range.start(), range.end());
    number.ok_or_else(|| format!("{text:?} is not a number from {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_both_ends() {
        for good in ["1", "100"] {
            assert_eq!(
                number(good, 1..=100),
                good.parse::<u8>().map_err(|e| e.to_string())
            );
        }
        for bad in ["", "0", "101", "256", "-1", "1.5", "ten"] {
            let fault = number::<u8>(bad, 1..=100).expect_err(bad);
            assert_eq!(fault, format!("{bad:?} is not a number from 1 to 100"));
        }
    }
}
