//! Values of flags of several commands.

use std::fmt::Display;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A path. `None`: the flag is empty.
pub fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

/// Checks that a folder exists or can be created.
///
/// # Errors
/// Something else is at the path or on the way to it, or that cannot be determined.
pub fn folder(path: &Path) -> Result<(), String> {
    let at = path.display();
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!(
            "{at} is not a folder, and a folder is needed; name another path, or move the file away"
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.is_symlink() {
            true => Err(format!(
                "{at} is a symbolic link that leads nowhere; make the folder that it leads to, or remove it"
            )),
            false => Ok(()),
        },
        Err(error) => Err(format!("{at} cannot be looked at: {error}")),
    }
}

/// A truth value as in Go's strconv.ParseBool.
///
/// # Errors
/// It is not one.
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
/// It is not a number, or not within `range`.
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
    fn a_folder_is_one_or_can_be_made() {
        let temporary = tempfile::tempdir().expect("a folder");
        let path = |name: &str| temporary.path().join(name);
        fs::write(path("file"), "").expect("written");
        std::os::unix::fs::symlink("nowhere", path("dangling")).expect("linked");
        std::os::unix::fs::symlink(".", path("link")).expect("linked");
        for good in ["", "new", "new/below", "link"] {
            assert_eq!(folder(&path(good)), Ok(()), "{good}");
        }
        for (bad, word) in [
            ("file", "is not a folder"),
            ("file/below", "Not a directory"),
            ("dangling", "leads nowhere"),
        ] {
            let fault = folder(&path(bad)).expect_err(bad);
            assert!(fault.contains(word), "{fault}");
        }
    }

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
