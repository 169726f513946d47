//! Tar archives of a few files in memory: layers, and images to import.

/// The block size of tar.
const BLOCK: usize = 512;

/// An archive of regular files, in the ustar format (POSIX.1-1988).
#[derive(Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    /// Appends a file. Its path must not be longer than 99 bytes.
    pub fn file(self, path: &str, content: &[u8]) -> Tar {
        self.entry(path, "0000644", content)
    }

    /// Appends an executable file.
    pub fn program(self, path: &str, content: &[u8]) -> Tar {
        self.entry(path, "0000755", content)
    }

    fn entry(mut self, path: &str, mode: &str, content: &[u8]) -> Tar {
        self.bytes.extend(header(path, mode, content.len()));
        self.bytes.extend(content);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// Ends the archive with two empty blocks.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }
}

fn header(path: &str, mode: &str, size: usize) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, path);
    put(100, mode);
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        "); // The checksum is taken with its own field blank.
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_is_made_of_whole_blocks() {
        let archive = Tar::default().file("a/b", b"content").finish();
        assert_eq!(archive.len(), 4 * BLOCK);
        assert_eq!(&archive[100..108], b"0000644\0");
        assert_eq!(&archive[..4], b"a/b\0");
        assert_eq!(&archive[124..136], b"00000000007\0");
        assert_eq!(&archive[BLOCK..BLOCK + 7], b"content");
    }
}
