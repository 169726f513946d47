//! Checks whether the content of a file matches a digest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use oci::{Digest, Hasher};

/// The bytes read at once.
const PIECE: usize = 256 * 1024;

/// The result of reading a file to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verification {
    Right,
    Wrong,
    /// `go_on` returned false.
    Stopped,
}

/// Reads a file of `size` bytes and compares it with its digest. `go_on` is called after each piece, with its bytes,
/// and may wait or stop.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn verify(
    file: &File,
    size: u64,
    digest: &Digest,
    mut go_on: impl FnMut(u64) -> bool,
) -> io::Result<Verification> {
    let largest = usize::try_from(size).map_or(PIECE, |size| size.clamp(1, PIECE));
    let (mut hasher, mut buffer) = (Hasher::new(digest), vec![0; largest]);
    let mut offset = 0;
    loop {
        let count = match file.read_at(&mut buffer, offset) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if count == 0 {
            let is_right = offset == size && hasher.finish() == *digest;
            return Ok(if is_right {
                Verification::Right
            } else {
                Verification::Wrong
            });
        }
        hasher.update(&buffer[..count]);
        offset += count as u64;
        if offset > size {
            return Ok(Verification::Wrong);
        }
        if !go_on(count as u64) {
            return Ok(Verification::Stopped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        file
    }

    #[test]
    fn the_whole_file_and_nothing_else_is_right() {
        let right = vec![7; PIECE + 10];
        let (digest, size) = (Digest::sha256(&right), right.len() as u64);
        let verification =
            |bytes: &[u8]| verify(&file(bytes), size, &digest, |_| true).expect("read");
        assert_eq!(verification(&right), Verification::Right);
        assert_eq!(verification(&right[1..]), Verification::Wrong);
        assert_eq!(
            verification(&[&right[..], b"x"].concat()),
            Verification::Wrong
        );
        assert_eq!(verification(&vec![0; right.len()]), Verification::Wrong);
        assert_eq!(verification(b""), Verification::Wrong);
        let empty = Digest::sha256(b"");
        assert_eq!(
            verify(&file(b""), 0, &empty, |_| true).expect("read"),
            Verification::Right
        );
    }

    #[test]
    fn it_stops_when_told() {
        let bytes = vec![7; 3 * PIECE];
        let mut pieces = 0;
        let verification = verify(
            &file(&bytes),
            bytes.len() as u64,
            &Digest::sha256(&bytes),
            |_| {
                pieces += 1;
                pieces < 2
            },
        );
        assert_eq!(
            (verification.expect("read"), pieces),
            (Verification::Stopped, 2)
        );
    }
}
