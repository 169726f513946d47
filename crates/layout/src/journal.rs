//! Data without a place in an image layout: where each object came from, who may have it, when it was used.
//!
//! A file of lines, which is appended to and now and then rewritten. A later line about an object replaces an earlier
//! one. Lines about objects that are not in `blobs/` have no meaning. The visibility of an object is written to disk
//! before the object, so an object without a line was added by another program.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use mirror::{Object, Visibility};
use oci::{Digest, Origin};
use serde::{Deserialize, Serialize};

use crate::error::OpenError;
use crate::files;
use crate::folder::{Folder, JOURNAL};

const VERSION: u32 = 1;
/// The most bytes of a line; one with a few dozen origins is far shorter.
const MAX_LINE: u64 = 64 * 1024;
/// The journal is rewritten when it has this many lines for each object …
const LINES_PER_OBJECT: usize = 4;
/// … and this many more.
const SPARE_LINES: usize = 4096;

#[derive(Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
enum Line {
    /// The first line of the file.
    Journal {
        version: u32,
    },
    Object {
        digest: String,
        size: u64,
        private: bool,
        origins: Vec<String>,
        used: u64,
    },
    Use {
        digest: String,
        used: u64,
    },
}

/// The record of an object in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) object: Object,
    /// The position in the order of uses. Only its order matters.
    pub(crate) used: u64,
}

pub(crate) type Records = HashMap<Digest, Record>;

/// Reads the journal of an earlier process. A missing one counts as empty.
pub(crate) fn read(folder: &Folder) -> Result<Records, OpenError> {
    let path = folder.path(JOURNAL);
    let file = match files::open_to_read(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Records::new()),
        Err(source) => return Err(OpenError::Io { path, source }),
    };
    parse(&path, BufReader::new(file))
}

fn parse(path: &Path, mut reader: impl BufRead) -> Result<Records, OpenError> {
    let (mut records, mut line) = (Records::new(), Vec::new());
    loop {
        line.clear();
        let mut bounded = reader.by_ref().take(MAX_LINE);
        bounded
            .read_until(b'\n', &mut line)
            .map_err(OpenError::io(path))?;
        if line.is_empty() {
            return Ok(records);
        }
        if line.last() != Some(&b'\n') {
            if line.len() as u64 == MAX_LINE {
                doubt(&mut records);
            }
            // A line cut off by a crash: its object never became part of the store.
            return Ok(records);
        }
        match serde_json::from_slice(&line) {
            Ok(Line::Journal { version }) if version > VERSION => {
                let path = path.to_owned();
                return Err(OpenError::JournalVersion { path, version });
            }
            Ok(line) => {
                if apply(&mut records, line).is_none() {
                    doubt(&mut records);
                }
            }
            Err(_) => doubt(&mut records),
        }
    }
}

/// Marks all objects as private: an unreadable line may have made any of them so.
fn doubt(records: &mut Records) {
    tracing::warn!(
        "{JOURNAL} of the store is damaged; {} objects before the damage count as private",
        records.len()
    );
    for record in records.values_mut() {
        record.object.visibility = Visibility::Private;
    }
}

fn apply(records: &mut Records, line: Line) -> Option<()> {
    match line {
        Line::Journal { .. } => {}
        Line::Use { digest, used } => {
            if let Some(record) = records.get_mut(&digest.parse::<Digest>().ok()?) {
                record.used = used;
            }
        }
        Line::Object {
            digest,
            size,
            private,
            origins,
            used,
        } => {
            let origins = origins.iter().map(|text| parse_origin(text));
            let object = Object {
                size,
                origins: origins.collect::<Option<_>>()?,
                visibility: if private {
                    Visibility::Private
                } else {
                    Visibility::Shared
                },
            };
            records.insert(digest.parse().ok()?, Record { object, used });
        }
    }
    Some(())
}

fn parse_origin(text: &str) -> Option<Origin> {
    let (registry, repository) = text.split_once('/')?;
    Some(Origin {
        registry: registry.parse().ok()?,
        repository: repository.parse().ok()?,
    })
}

/// Writes the journal.
pub(crate) struct Journal {
    /// `None`: it could not be written at the start.
    file: Option<File>,
    /// The bytes of complete lines.
    length: u64,
    lines: usize,
}

impl Journal {
    /// Rewrites the journal with what is known now.
    pub(crate) fn rewrite<'a>(
        folder: &Folder,
        records: impl Iterator<Item = (&'a Digest, &'a Object, u64)>,
    ) -> io::Result<Self> {
        let mut bytes = encode(&Line::Journal { version: VERSION })?;
        let mut lines = 1;
        for (digest, object, used) in records {
            bytes.extend(encode(&object_line(digest, object, used))?);
            lines += 1;
        }
        folder.replace(JOURNAL, &bytes)?;
        Ok(Self {
            file: Some(files::open(
                &folder.path(JOURNAL),
                File::options().write(true),
            )?),
            length: bytes.len() as u64,
            lines,
        })
    }

    /// A journal that cannot be written now. An earlier one stays on disk.
    pub(crate) fn unwritten() -> Self {
        Self {
            file: None,
            length: 0,
            lines: 0,
        }
    }

    /// Whether the file on disk is what was written: it was not removed or changed, and no failed write left anything
    /// behind. Otherwise it must be rewritten before it is appended to.
    pub(crate) fn is_sound(&self) -> bool {
        let metadata = self.file.as_ref().map(File::metadata);
        metadata.is_some_and(|found| found.is_ok_and(|m| m.nlink() > 0 && m.len() == self.length))
    }

    /// Writes the future state of an object to disk.
    pub(crate) fn record(&mut self, digest: &Digest, object: &Object, used: u64) -> io::Result<()> {
        self.append(&encode(&object_line(digest, object, used))?, 1)?;
        let synced = self.file.as_ref().map(File::sync_data);
        synced.unwrap_or(Ok(())).inspect_err(|_| {
            // The kernel may have dropped unwritten data, of this line or any before it.
            self.file = None;
        })
    }

    /// Records uses. They are not synced to disk.
    pub(crate) fn record_uses(&mut self, uses: &[(Digest, u64)]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (digest, used) in uses {
            let digest = digest.to_string();
            bytes.extend(encode(&Line::Use {
                digest,
                used: *used,
            })?);
        }
        self.append(&bytes, uses.len())
    }

    fn append(&mut self, bytes: &[u8], lines: usize) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Err(io::Error::other("the journal has to be written anew"));
        };
        file.write_all_at(bytes, self.length).inspect_err(|_| {
            // On a full disk a part of a line may be there. If it cannot be cut off, the journal is not sound.
            let _ = file.set_len(self.length);
        })?;
        self.length += bytes.len() as u64;
        self.lines += lines;
        Ok(())
    }

    /// Whether it has grown so far beyond its content that it should be rewritten.
    pub(crate) fn is_long(&self, objects: usize) -> bool {
        self.lines > objects * LINES_PER_OBJECT + SPARE_LINES
    }
}

fn object_line(digest: &Digest, object: &Object, used: u64) -> Line {
    Line::Object {
        digest: digest.to_string(),
        size: object.size,
        private: object.visibility == Visibility::Private,
        origins: object.origins.iter().map(ToString::to_string).collect(),
        used,
    }
}

fn encode(line: &Line) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(private: bool) -> Object {
        Object {
            size: 3,
            origins: parse_origin("quay.io/a/b").into_iter().collect(),
            visibility: if private {
                Visibility::Private
            } else {
                Visibility::Shared
            },
        }
    }

    /// A journal with a shared and then a private object, and the ends of its lines.
    fn written() -> (Vec<u8>, Vec<usize>) {
        let (a, b) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        let lines = [
            Line::Journal { version: VERSION },
            object_line(&a, &object(false), 1),
            object_line(&b, &object(false), 2),
            object_line(&b, &object(true), 3),
            Line::Use {
                digest: a.to_string(),
                used: 4,
            },
        ];
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for line in &lines {
            bytes.extend(encode(line).expect("plain data"));
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn read_back(bytes: &[u8]) -> Result<Records, OpenError> {
        parse(Path::new(JOURNAL), bytes)
    }

    #[test]
    fn later_lines_replace_earlier_ones() {
        let records = read_back(&written().0).expect("sound");
        let (a, b) = (
            &records[&Digest::sha256(b"a")],
            &records[&Digest::sha256(b"b")],
        );
        assert_eq!((&a.object, a.used), (&object(false), 4));
        assert_eq!((&b.object, b.used), (&object(true), 3));
    }

    #[test]
    fn cut_anywhere_it_says_what_its_whole_lines_say() {
        let (bytes, ends) = written();
        for cut in 0..bytes.len() {
            let whole = ends.iter().filter(|end| **end <= cut).max();
            let whole = whole.map_or(&bytes[..0], |end| &bytes[..*end]);
            assert_eq!(
                read_back(&bytes[..cut]).expect("readable"),
                read_back(whole).expect("readable"),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_newer_one_is_refused() {
        let fault = read_back(b"{\"record\":\"journal\",\"version\":2}\n").expect_err("newer");
        assert!(matches!(
            fault,
            OpenError::JournalVersion { version: 2, .. }
        ));
    }

    #[test]
    fn a_line_without_end_is_damage() {
        let mut bytes = written().0;
        bytes.extend(vec![b'x'; 3 * MAX_LINE as usize]);
        let records = read_back(&bytes).expect("readable");
        assert!(
            records
                .values()
                .all(|r| r.object.visibility == Visibility::Private)
        );
    }

    proptest! {
        #[test]
        fn damage_never_shares_what_was_private(at in 0usize..1000, byte in any::<u8>()) {
            let (mut bytes, ends) = written();
            // The line that makes the object private.
            let from = ends[2];
            let at = from + at % (ends[3] - from);
            prop_assume!(byte != bytes[at]);
            bytes[at] = byte;
            // One changed byte can make another valid name or number, but not turn a word into its opposite.
            if let Ok(records) = read_back(&bytes)
                && let Ok(text) = std::str::from_utf8(&bytes[from..ends[3]])
                && text.contains(Digest::sha256(b"b").as_str())
            {
                let record = &records[&Digest::sha256(b"b")];
                prop_assert_eq!(record.object.visibility, Visibility::Private);
            }
        }
    }
}
