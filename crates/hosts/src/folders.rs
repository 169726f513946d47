//! The folders that containerd searches for registry configuration.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::HostsError;
use crate::error::failed;

/// The value of containerd's `config_path`: one folder, or several separated by colons.
///
/// For each host, containerd uses only the first folder of the list that has an entry for the host or a `_default`
/// (containerd, `hostDirFromRoots` in `image_pull.go`, `HostDirFromRoot` in `hosts.go`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigPath(Vec<PathBuf>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigPathError {
    #[error(
        "is empty; name the folder of containerd's config_path, usually /etc/containerd/certs.d"
    )]
    Empty,
    #[error(
        "{0:?} has an empty element; write one colon between two folders, and none at the ends"
    )]
    EmptyElement(String),
    #[error(
        "{text:?} is a list of folders, as colons are for containerd, and {element:?} is not an absolute path; \
         a folder with a colon in its name cannot be given"
    )]
    Relative { text: String, element: String },
    #[error(
        "{0:?} is a list of folders for containerd, and also the name of one folder that is there; rename or remove \
         that folder"
    )]
    Ambiguous(String),
    #[error("{text:?} {what}; write the path of a folder, or several with colons between")]
    Odd { text: String, what: &'static str },
}

impl FromStr for ConfigPath {
    type Err = ConfigPathError;

    /// Parses a list. Reads the file system only if a list could also be the name of one folder.
    fn from_str(text: &str) -> Result<Self, ConfigPathError> {
        if text.is_empty() {
            return Err(ConfigPathError::Empty);
        }
        if let Some(what) = oddity(text) {
            return Err(ConfigPathError::Odd {
                text: text.to_owned(),
                what,
            });
        }
        if !text.contains(':') {
            return Ok(Self(vec![text.into()]));
        }
        let elements: Vec<&str> = text.split(':').collect();
        if elements.contains(&"") {
            return Err(ConfigPathError::EmptyElement(text.to_owned()));
        }
        if let Some(element) = elements.iter().find(|e| !e.starts_with('/')) {
            return Err(ConfigPathError::Relative {
                text: text.to_owned(),
                element: (*element).to_owned(),
            });
        }
        if fs::symlink_metadata(text).is_ok() {
            return Err(ConfigPathError::Ambiguous(text.to_owned()));
        }
        Ok(Self(elements.into_iter().map(PathBuf::from).collect()))
    }
}

/// What makes a path unlikely to be meant as a containerd folder.
fn oddity(text: &str) -> Option<&'static str> {
    let separated = |c: char| {
        text.split(c)
            .skip(1)
            .any(|p| p.trim_start().starts_with('/'))
    };
    if text.chars().any(char::is_control) {
        Some("has a control character, such as the end of a line")
    } else if text.split(':').any(|element| element.trim() != element) {
        Some("has a space at an end")
    } else if text.contains(['"', '\'']) {
        Some("has a quotation mark")
    } else if separated(',') || separated(';') {
        Some("has folders with a comma or semicolon between")
    } else if text.starts_with('~') || text.contains('$') {
        Some("has a ~ or $, which no shell has replaced")
    } else if text.contains(['*', '?']) {
        Some("has a wildcard")
    } else {
        None
    }
}

impl ConfigPath {
    /// All folders, in containerd's order.
    pub fn folders(&self) -> &[PathBuf] {
        &self.0
    }

    /// The existing folders, without duplicates.
    ///
    /// # Errors
    /// One of them is not a folder, or cannot be examined.
    pub(crate) fn existing(&self) -> Result<Vec<&Path>, HostsError> {
        let mut seen = HashSet::new();
        let mut existing = Vec::new();
        for path in &self.0 {
            match fs::metadata(path) {
                Ok(meta) if !meta.is_dir() => {
                    return Err(HostsError::NotAFolder { path: path.clone() });
                }
                Ok(meta) => {
                    if seen.insert((meta.dev(), meta.ino())) {
                        existing.push(path.as_path());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed("read", path)(e)),
            }
        }
        Ok(existing)
    }

    /// The existing folders, or the first one, which is then created.
    pub(crate) fn existing_or_made(&self) -> Result<Vec<&Path>, HostsError> {
        let existing = self.existing()?;
        if !existing.is_empty() {
            return Ok(existing);
        }
        let first = self.0.first().ok_or(HostsError::NoFolder)?;
        if first.is_symlink() {
            return Err(HostsError::DanglingLink {
                path: first.clone(),
            });
        }
        fs::create_dir_all(first).map_err(failed("make", first))?;
        Ok(vec![first.as_path()])
    }
}

impl From<PathBuf> for ConfigPath {
    /// One folder, whatever its name.
    fn from(path: PathBuf) -> Self {
        Self(vec![path])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_split_as_containerd_splits_it() {
        let folders = |text: &str| {
            let path: ConfigPath = text.parse().expect("sound");
            path.0
                .iter()
                .map(|p| p.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(folders("certs.d"), ["certs.d"]);
        assert_eq!(folders("/a b/[x], y"), ["/a b/[x], y"]);
        assert_eq!(
            folders("/etc/containerd/certs.d:/etc/docker/certs.d"),
            ["/etc/containerd/certs.d", "/etc/docker/certs.d"]
        );
    }

    #[test]
    fn what_has_no_clear_meaning_is_refused_with_words() {
        for (text, word) in [
            ("", "is empty"),
            (":", "empty element"),
            ("/a:", "empty element"),
            ("/a::/b", "empty element"),
            (
                "/etc/containerd/certs.d:ro",
                "\"ro\" is not an absolute path",
            ),
            ("a:/b", "\"a\" is not an absolute path"),
            ("/a,/b", "comma"),
            ("/a; /b", "semicolon"),
            ("/a ", "space"),
            ("/a: /b", "space"),
            ("/a\n", "control character"),
            ("\"/a\"", "quotation mark"),
            ("~/certs.d", "~"),
            ("$HOME/certs.d", "$"),
            ("/etc/*/certs.d", "wildcard"),
        ] {
            let fault = text.parse::<ConfigPath>().expect_err(text).to_string();
            assert!(fault.contains(word), "{text:?}: {fault}");
        }
    }

    #[test]
    fn a_list_that_is_also_a_folder_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let list = format!("{0}/a:{0}/b", folder.path().display());
        assert!(list.parse::<ConfigPath>().is_ok());
        fs::create_dir_all(&list).expect("made");
        assert_eq!(
            list.parse::<ConfigPath>(),
            Err(ConfigPathError::Ambiguous(list.clone()))
        );
    }

    #[test]
    fn a_folder_that_is_named_twice_counts_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        fs::create_dir(&a).expect("made");
        std::os::unix::fs::symlink("a", &b).expect("linked");
        let path = ConfigPath(vec![folder.path().join("none"), a.clone(), b, a.clone()]);
        assert_eq!(path.existing().expect("readable"), [a.as_path()]);
    }
}
