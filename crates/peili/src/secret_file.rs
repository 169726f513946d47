//! Files with keys and certificates, which may not exist yet.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// Reads a file of at most `most` bytes. `None`: there is no such file. Blocking.
///
/// # Errors
///
/// The file cannot be read, or is larger.
pub fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    let shown = path.display();
    let unreadable = || format!("cannot read {shown}; let the mirror's user read it");
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(unreadable)?,
    };
    let mut contents = Vec::new();
    let mut limited = file.take(most + 1);
    limited
        .read_to_end(&mut contents)
        .with_context(unreadable)?;
    if contents.len() as u64 > most {
        bail!("{shown} has more than {most} bytes");
    }
    Ok(Some(contents))
}
