//! Sizes in bytes: a number with a unit of 1000 (`GB`) or 1024 (`GiB`, `G`). A number without a unit is in bytes.

/// The least number without a unit: in a smaller one, the unit was forgotten.
const MIN_WITHOUT_UNIT: u64 = 1 << 20;

/// # Errors
/// It is not a size, or zero, or beyond 64 bits, or a small number without a unit.
pub fn parse(text: &str) -> Result<u64, String> {
    let fault = || format!("{text:?} is not a size; write 20GiB, 500MB or a number of bytes");
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..end].parse().map_err(|_| fault())?;
    let factor = match text[end..].trim() {
        "" if (1..MIN_WITHOUT_UNIT).contains(&number) => {
            return Err(format!(
                "{text:?} is {number} bytes without a unit; write {number}GiB or {number}MiB"
            ));
        }
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1000 * 1000,
        "GB" => 1000 * 1000 * 1000,
        "TB" => 1000 * 1000 * 1000 * 1000,
        "K" | "Ki" | "KiB" => 1 << 10,
        "M" | "Mi" | "MiB" => 1 << 20,
        "G" | "Gi" | "GiB" => 1 << 30,
        "T" | "Ti" | "TiB" => 1u64 << 40,
        _ => return Err(fault()),
    };
    number
        .checked_mul(factor)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_units_and_without() {
        for (text, expected) in [
            ("1048576", 1 << 20),
            ("20B", 20),
            ("20GiB", 20 << 30),
            ("5MB", 5_000_000),
            ("7 K", 7 << 10),
        ] {
            assert_eq!(parse(text), Ok(expected));
        }
        let fault = parse("20").expect_err("no unit");
        assert!(
            fault.contains("20 bytes") && fault.contains("20GiB"),
            "{fault}"
        );
        for bad in [
            "1048575",
            "",
            "0",
            "GiB",
            "1.5GiB",
            "-1",
            "1XB",
            "99999999999999999999",
            "99999999999TiB",
        ] {
            assert!(parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
