//! Tar archives that depend only on their entries: sorted, owned by root, with one time.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};

/// The files of an archive, and their common time.
pub struct Archive {
    /// The time in seconds since 1970.
    time: u64,
    /// The files by path, without a leading slash.
    files: BTreeMap<String, File>,
}

struct File {
    mode: u32,
    content: Vec<u8>,
}

impl Archive {
    /// An empty archive. `time`: in seconds since 1970.
    pub fn new(time: u64) -> Archive {
        Archive {
            time,
            files: BTreeMap::new(),
        }
    }

    /// Adds a file, or replaces the one with that path.
    pub fn add(&mut self, path: impl Into<String>, mode: u32, content: impl Into<Vec<u8>>) {
        let content = content.into();
        self.files.insert(path.into(), File { mode, content });
    }

    /// Writes the archive, uncompressed.
    pub fn tar(&self) -> Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, file) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(file.content.len() as u64);
            header.set_mode(file.mode);
            header.set_mtime(self.time);
            header.set_uid(0);
            header.set_gid(0);
            builder
                .append_data(&mut header, path, file.content.as_slice())
                .with_context(|| format!("{path} cannot be put into an archive"))?;
        }
        Ok(builder.into_inner()?)
    }

    /// Writes the archive, compressed with gzip.
    pub fn tar_gz(&self) -> Result<Vec<u8>> {
        gzip(&self.tar()?)
    }
}

/// Compresses without a name or a time in the header.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn archive(paths: [&str; 3]) -> Archive {
        let mut archive = Archive::new(1_700_000_000);
        for path in paths {
            archive.add(path, 0o755, format!("content of {path}"));
        }
        archive
    }

    #[test]
    fn the_order_of_adding_does_not_matter() {
        let one = archive(["b", "a/c", "a/b"]).tar_gz().expect("written");
        let other = archive(["a/b", "b", "a/c"]).tar_gz().expect("written");
        assert_eq!(one, other);
    }

    #[test]
    fn entries_are_roots_and_of_the_given_time() {
        let bytes = archive(["b", "a/c", "a/b"]).tar().expect("written");
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut paths = Vec::new();
        for entry in archive.entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            let header = entry.header();
            assert_eq!(header.mtime().expect("a time"), 1_700_000_000);
            assert_eq!(header.mode().expect("a mode"), 0o755);
            assert_eq!((header.uid().ok(), header.gid().ok()), (Some(0), Some(0)));
            let mut content = String::new();
            entry.read_to_string(&mut content).expect("content");
            assert_eq!(content, format!("content of {path}"));
            paths.push(path);
        }
        assert_eq!(paths, ["a/b", "a/c", "b"]);
    }

    #[test]
    fn the_gzip_header_has_no_time_and_no_name() {
        let bytes = gzip(b"text").expect("compressed");
        assert_eq!(bytes[3], 0, "flags: no name, no comment");
        assert_eq!(bytes[4..8], [0; 4], "no time");
    }
}
