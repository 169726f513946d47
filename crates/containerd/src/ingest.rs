//! What containerd is fetching: the folders under `ingest/`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use oci::Digest;

/// Ingests looked through for one answer. A node has as many as it downloads at once (three to a dozen), plus what
/// broken pulls left behind until containerd clears it away.
const MAX_INGESTS: usize = 1024;
/// References longer than this, in bytes, are not recognised. A name has 255, a digest at most 135, and the head is
/// short.
const MAX_REFERENCE: u64 = 1024;

/// Whether an ingest of this digest is open, in whichever namespace. Costs one system call for the folder and three
/// for each ingest. A folder that cannot be read has no ingests.
pub(crate) fn is_open(content: &Path, digest: &Digest) -> bool {
    let Ok(ingests) = content.join("ingest").read_dir() else {
        return false;
    };
    let references = ingests
        .take(MAX_INGESTS)
        .filter_map(|entry| read_reference(&entry.ok()?.path().join("ref")));
    references
        .filter_map(|text| digest_of(&text))
        .any(|found| found == *digest)
}

fn read_reference(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(MAX_REFERENCE).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The digest at the end of a reference. Its head varies: `k8s.io/1/layer-sha256:…` with the namespace and a
/// sequence number, `manifest-`, `config-`, `unknown-`, or an image's name and `@`.
fn digest_of(reference: &str) -> Option<Digest> {
    let start = ["sha256:", "sha512:"]
        .iter()
        .filter_map(|a| reference.rfind(a))
        .max()?;
    reference.get(start..)?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ingest(content: &Path, name: &str, reference: &str) {
        let folder = content.join("ingest").join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("ref"), reference).expect("a file");
    }

    #[test]
    fn finds_the_ingest_of_a_digest() {
        let folder = tempfile::tempdir().expect("a folder");
        let content = folder.path();
        let (ours, other) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        assert!(!is_open(content, &ours), "no ingest folder yet");
        ingest(content, "x", &format!("k8s.io/7/layer-{ours}"));
        assert!(is_open(content, &ours) && !is_open(content, &other));
        ingest(content, "y", &format!("moby/8/quay.io/a/b:1@{other}"));
        assert!(is_open(content, &other));
    }

    #[test]
    fn passes_over_what_is_broken() {
        let folder = tempfile::tempdir().expect("a folder");
        let content = folder.path();
        std::fs::create_dir_all(content.join("ingest/without-ref")).expect("a folder");
        std::fs::write(content.join("ingest/a-file"), "").expect("a file");
        ingest(content, "empty", "");
        ingest(content, "binary", "\u{0}");
        let digest = Digest::sha256(b"a");
        ingest(
            content,
            "endless",
            &format!("{}{digest}", "x".repeat(1 << 20)),
        );
        assert!(!is_open(content, &digest));
        ingest(content, "good", &format!("default/1/config-{digest}"));
        assert!(is_open(content, &digest));
    }

    proptest! {
        #[test]
        fn the_head_does_not_matter(head in ".{0,100}", bytes in any::<[u8; 4]>()) {
            let digest = Digest::sha256(&bytes);
            prop_assert_eq!(digest_of(&format!("{head}{digest}")), Some(digest));
        }

        #[test]
        fn only_a_tail_counts(head in "[a-z/-]{0,20}", tail in "[a-z0-9/@-]{1,20}") {
            let digest = Digest::sha256(head.as_bytes());
            prop_assert_eq!(digest_of(&format!("{head}{digest}{tail}")), None);
        }

        #[test]
        fn any_text_is_survived(text in ".{0,200}") {
            let _ = digest_of(&text);
        }
    }
}
