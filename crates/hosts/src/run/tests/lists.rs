//! Several configuration folders in containerd's `config_path`.

use super::*;
use crate::ConfigPath;

/// Two folders, in the order in which containerd reads them.
struct Pair {
    first: Folder,
    second: Folder,
}

impl Pair {
    fn with(first: &[(&str, &str)], second: &[(&str, &str)]) -> Self {
        Self {
            first: Folder::with(first),
            second: Folder::with(second),
        }
    }

    fn path(&self) -> ConfigPath {
        let list = format!(
            "{}:/nowhere/certs.d:{}",
            self.first.path.display(),
            self.second.path.display()
        );
        list.parse().expect("a list")
    }

    fn configure(&self, registries: &[&str], prepend_existing: bool) -> Report {
        let configuration = Configuration {
            path: self.path(),
            prepend_existing,
            ..self.first.configuration(registries)
        };
        configure(&configuration).expect("configured")
    }

    fn cleanup(&self) -> Report {
        cleanup(&self.path()).expect("cleaned up")
    }

    /// The `hosts.toml` that containerd reads for this host, as its `hostDirFromRoots` finds it.
    fn read(&self, host: &str) -> Option<String> {
        let underscored = host
            .rsplit_once(':')
            .map(|(host, port)| format!("{host}_{port}_"));
        let names = || {
            underscored
                .iter()
                .map(String::as_str)
                .chain([host, "_default"])
        };
        let folders = [&self.first, &self.second];
        let paths = folders
            .into_iter()
            .flat_map(|folder| names().map(|name| folder.path.join(name)));
        let found = paths.into_iter().find(|path| path.exists())?;
        fs::read_to_string(found.join(HOSTS)).ok()
    }

    fn is_mirrored(&self, host: &str) -> bool {
        self.read(host)
            .is_some_and(|file| file.contains("127.0.0.1:5000"))
    }

    fn snapshots(&self) -> [Snapshot; 2] {
        [self.first.snapshot(), self.second.snapshot()]
    }
}

const OFFICE: &str = "[host.'https://office']\n";

#[test]
fn the_first_that_exists_is_written() {
    let pair = Pair::with(&[], &[]);
    let report = pair.configure(&[], false);
    assert_eq!(
        report.written,
        [pair.first.path.join("_default/hosts.toml")]
    );
    assert_eq!(
        pair.second.entries().count(),
        0,
        "nothing is to be done there"
    );
    pair.cleanup();
    assert_eq!(pair.first.entries().count(), 0);
    fs::remove_dir(&pair.first.path).expect("empty");
    let report = pair.configure(&["https://a.io"], false);
    assert_eq!(report.written, [pair.second.path.join("a.io/hosts.toml")]);
    assert!(!pair.first.path.exists());
    pair.cleanup();
    fs::remove_dir(&pair.second.path).expect("empty");
    pair.configure(&[], false);
    assert!(pair.first.exists("_default/hosts.toml"), "it is made");
    assert!(!pair.second.path.exists());
}

#[test]
fn no_host_of_the_users_is_hidden_by_default() {
    let pair = Pair::with(
        &[("a.io/hosts.toml", OFFICE)],
        &[
            ("a.io/hosts.toml", "[host.'https://never-read']\n"),
            ("b.io/ca.crt", "certificate"),
            ("c.io_5000_/hosts.toml", OFFICE),
        ],
    );
    let before = pair.snapshots();
    for prepend in [false, true] {
        let report = pair.configure(&[], prepend);
        assert_eq!(report.written.len(), 4, "{report:?}");
        for host in ["a.io", "b.io", "c.io:5000", "any.io"] {
            assert!(pair.is_mirrored(host), "{host}");
        }
        for host in ["a.io", "c.io:5000"] {
            assert!(pair.read(host).is_some_and(|file| file.contains("office")));
        }
        assert!(
            pair.read("b.io")
                .is_some_and(|file| file.contains("ca = [\"ca.crt\"]"))
        );
        assert!(!pair.first.exists("_default"));
        let again = pair.configure(&[], prepend);
        assert_eq!((again.written.len(), again.unchanged.len()), (0, 4));
        pair.cleanup();
        assert_eq!(pair.snapshots(), before);
    }
}

#[test]
fn a_default_of_the_users_stays_where_containerd_finds_it() {
    let pair = Pair::with(
        &[("_default/hosts.toml", OFFICE)],
        &[("b.io/hosts.toml", "[host.'https://never-read']\n")],
    );
    let before = pair.snapshots();
    pair.configure(&[], true);
    assert!(pair.is_mirrored("b.io") && pair.is_mirrored("any.io"));
    assert!(
        pair.read("any.io")
            .is_some_and(|file| file.contains("office"))
    );
    assert_eq!(
        pair.second.snapshot(),
        before[1],
        "containerd does not look there"
    );
    pair.cleanup();
    assert_eq!(pair.snapshots(), before);
}

#[test]
fn a_registry_that_is_named_is_written_where_containerd_finds_it() {
    let pair = Pair::with(&[], &[("b.io/hosts.toml", OFFICE)]);
    let before = pair.snapshots();
    for prepend in [false, true] {
        let report = pair.configure(&["https://b.io", "https://new.io"], prepend);
        let files = [
            pair.first.path.join("new.io/hosts.toml"),
            pair.second.path.join("b.io/hosts.toml"),
        ];
        assert_eq!(report.written, files);
        assert!(pair.is_mirrored("b.io") && pair.is_mirrored("new.io"));
        assert_eq!(
            pair.read("b.io")
                .is_some_and(|file| file.contains("office")),
            prepend
        );
        pair.cleanup();
        assert_eq!(pair.snapshots(), before);
    }
}

#[test]
fn one_folder_of_the_list_that_fails_does_not_keep_the_others_from_being_cleaned_up() {
    let pair = Pair::with(
        &[("a.io/hosts.toml", OFFICE)],
        &[("b.io/hosts.toml", OFFICE)],
    );
    let before = pair.snapshots();
    pair.configure(&[], false);
    let (backup, aside) = (
        pair.first.path.join(BACKUP),
        pair.first.path.with_file_name("aside"),
    );
    fs::rename(&backup, &aside).expect("moved");
    pair.first.put(BACKUP, "a file");
    let report = pair.cleanup();
    assert_eq!(report.failures.len(), 1, "{report:?}");
    assert_eq!(report.failures[0].path, pair.first.path);
    assert_eq!(pair.second.snapshot(), before[1]);
    fs::remove_file(&backup).expect("removed");
    fs::rename(&aside, &backup).expect("moved");
    assert_eq!(pair.cleanup().failures, []);
    assert_eq!(pair.snapshots(), before);
}
