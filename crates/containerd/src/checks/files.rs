//! containerd's configuration as written: a file, and the files that it imports.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use toml_edit::{DocumentMut, Item, Value};

/// The most bytes read of a file.
const MAX_FILE: u64 = 1 << 20;
/// The most files read.
const MAX_FILES: usize = 64;

/// Why a configuration is unknown.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    #[error("{0}")]
    Here(String),
    /// containerd cannot read it either.
    #[error("{0}")]
    NotToml(String),
}

/// A configuration that was read.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The files in containerd's order: later ones override earlier ones.
    pub documents: Vec<(PathBuf, DocumentMut)>,
    /// The imported files that cannot be read here.
    pub unread: Vec<String>,
    /// When one of the files was last written.
    pub changed: Option<SystemTime>,
}

impl Written {
    /// Reads a file and what it imports (containerd, `cmd/containerd/server/config`, `LoadConfig`).
    ///
    /// # Errors
    /// A file cannot be read, or is not TOML.
    pub fn read(file: &Path) -> Result<Self, Unread> {
        let (mut written, mut pending) = (Self::default(), VecDeque::from([file.to_owned()]));
        while let Some(path) = pending.pop_front() {
            if written.documents.iter().any(|(known, _)| *known == path) {
                continue;
            }
            let at = |what: String| Unread::Here(format!("{}: {what}", path.display()));
            if written.documents.len() == MAX_FILES {
                return Err(at(format!("more than {MAX_FILES} files are imported")));
            }
            let (text, changed) =
                read(&path).map_err(|error| at(format!("cannot be read here ({error})")))?;
            let document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
                let before = error.span().and_then(|span| text.get(..span.start));
                let line = before.map(|before| before.matches('\n').count() + 1);
                let line = line.map_or(String::new(), |line| format!(" (line {line})"));
                let (path, error) = (path.display(), error.message());
                Unread::NotToml(format!("{path} is not TOML{line}: {error}"))
            })?;
            for import in imports(&document) {
                let folder = path.parent().unwrap_or(Path::new("/"));
                match matching(&folder.join(import)) {
                    Some(files) => pending.extend(files),
                    None => written.unread.push(import.to_owned()),
                }
            }
            written.changed = written.changed.max(changed);
            written.documents.push((path, document));
        }
        Ok(written)
    }
}

fn read(path: &Path) -> io::Result<(String, Option<SystemTime>)> {
    let (file, mut text) = (File::open(path)?, String::new());
    let changed = file.metadata()?.modified().ok();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok((text, changed))
}

fn imports(document: &DocumentMut) -> impl Iterator<Item = &str> {
    let imports = document.get("imports").and_then(Item::as_array);
    imports.into_iter().flatten().filter_map(Value::as_str)
}

/// The files that match a pattern, sorted by name. `None`: that cannot be determined here, for example because the
/// folder is missing. Only the last part may contain `*`.
fn matching(pattern: &Path) -> Option<Vec<PathBuf>> {
    let (folder, name) = (pattern.parent()?, pattern.file_name()?.to_str()?);
    if folder.to_str()?.contains(['*', '?', '[']) || name.contains(['?', '[']) {
        return None;
    }
    if !name.contains('*') {
        return Some(vec![pattern.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).ok()? {
        let entry = entry.ok()?;
        if entry
            .file_name()
            .to_str()
            .is_some_and(|file| fits(file, name))
        {
            found.push(entry.path());
        }
    }
    found.sort();
    Some(found)
}

/// Whether a name matches a pattern in which `*` means any text.
fn fits(name: &str, pattern: &str) -> bool {
    let Some((first, mut pattern)) = pattern.split_once('*') else {
        return name == pattern;
    };
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    while let Some((part, more)) = pattern.split_once('*') {
        let Some(place) = rest.find(part) else {
            return false;
        };
        (rest, pattern) = (&rest[place + part.len()..], more);
    }
    rest.ends_with(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_imported_comes_after_what_imports_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("conf.d")).expect("made");
        let imports = "imports = ['conf.d/*.toml', 'other.toml', 'conf.d/b.toml']";
        for (name, text) in [
            ("config.toml", imports),
            ("conf.d/b.toml", "imports = ['../nowhere/*.toml']"),
            ("conf.d/a.toml", ""),
            ("conf.d/a.toml.old", "= no TOML"),
            ("other.toml", "imports = ['config.toml']"),
        ] {
            fs::write(path(name), text).expect("written");
        }
        let written = Written::read(&path("config.toml")).expect("all is there");
        let names: Vec<_> = written
            .documents
            .iter()
            .map(|(path, _)| path.file_name().expect("a name").to_owned())
            .collect();
        assert_eq!(names, ["config.toml", "a.toml", "b.toml", "other.toml"]);
        assert_eq!(written.unread, ["../nowhere/*.toml"]);
        assert!(written.changed.is_some());
        fs::remove_file(path("other.toml")).expect("removed");
        let error = Written::read(&path("config.toml")).expect_err("it is missing");
        let told = error.to_string();
        assert!(told.contains("other.toml: cannot be read here"), "{told}");
        fs::write(path("other.toml"), "\n[plugins\n").expect("written");
        let error = Written::read(&path("config.toml")).expect_err("it is no TOML");
        let is_told = matches!(&error, Unread::NotToml(why) if why.contains("other.toml is not TOML (line 2)"));
        assert!(is_told, "{error}");
    }

    #[test]
    fn patterns_fit_as_a_shell_has_it() {
        for (name, pattern, expected) in [
            ("a.toml", "*.toml", true),
            ("a.toml", "a.toml", true),
            ("a.toml.old", "*.toml", false),
            ("10-x-y.toml", "10-*-*.toml", true),
            ("10-x.toml", "10-*-*.toml", false),
            ("aa", "a*a*a", false),
            ("", "*", true),
        ] {
            assert_eq!(fits(name, pattern), expected, "{name} {pattern}");
        }
    }
}
